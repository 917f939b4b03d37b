/* SPDX-License-Identifier: MIT */
/*
 * bench_libpq.c - the contenders that speak PostgreSQL's protocol: the server itself, PgBouncer,
 * Pgpool-II.  Blocking calls, one connection per worker, each as fast as libpq does it: statements
 * prepared once where the contender allows it, several at once by pipeline mode, bytes in binary.
 */
#include "bench_driver.h"

#include <inttypes.h>
#include <libpq-fe.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define TEXT_MAX 1024

struct bench_conn {
	PGconn *pg;
	const struct bench_plan *plan;
	bool prepared[SQL_COUNT];
	char error[BENCH_ERROR_MAX];
};

/* Parameters in libpq's form. */
struct params {
	const char *value[BENCH_PARAMS_MAX];
	int len[BENCH_PARAMS_MAX];
	int format[BENCH_PARAMS_MAX];
	char text[BENCH_PARAMS_MAX][24];
};

static __attribute__((format(printf, 2, 3))) int fail(struct bench_conn *c, const char *fmt, ...)
{
	size_t len;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->error, sizeof(c->error), fmt, ap);
	va_end(ap);
	len = strlen(c->error);
	if (len > 0 && c->error[len - 1] == '\n') {
		c->error[len - 1] = '\0';
	}
	return -1;
}

static const char *conn_error(struct bench_conn *c)
{
	return c->error;
}

static int conn_open(const struct bench_plan *p, struct bench_conn **out)
{
	const char *const names[] = {"dbname", "fallback_application_name", NULL};
	const char *const values[] = {p->target.address, "brokerbench", NULL};
	struct bench_conn *c = calloc(1, sizeof(*c));

	*out = c;
	if (c == NULL) {
		return -1;
	}
	c->plan = p;
	c->pg = PQconnectdbParams(names, values, 1);
	if (PQstatus(c->pg) != CONNECTION_OK) {
		return fail(c, "%s", PQerrorMessage(c->pg));
	}
	return 0;
}

static void conn_close(struct bench_conn **cp)
{
	if (*cp != NULL) {
		PQfinish((*cp)->pg);
		free(*cp);
	}
	*cp = NULL;
}

/* -- results --------------------------------------------------------------------------------------
 */

static void read_value(const PGresult *r, int row, int col, char how)
{
	const char *v = PQgetvalue(r, row, col);
	char *end;

	if (how == 'i') {
		(void)strtoll(v, &end, 10);
	} else {
		bench_touch(v, (size_t)PQgetlength(r, row, col));
	}
}

/* In the simple protocol bytes come as hexadecimal digits. */
static int read_bytes(struct bench_conn *c, const PGresult *r, int row, int col)
{
	size_t len;
	unsigned char *data;

	if (PQfformat(r, col) == 1) {
		read_value(r, row, col, 'b');
		return 0;
	}
	data = PQunescapeBytea((const unsigned char *)PQgetvalue(r, row, col), &len);
	if (data == NULL) {
		return fail(c, "no memory for a value");
	}
	bench_touch(data, len);
	PQfreemem(data);
	return 0;
}

/* Read all rows and clear the result.  How many there were, or were changed. */
static int64_t drain(struct bench_conn *c, PGresult *r, const struct bench_stmt *s)
{
	ExecStatusType st = PQresultStatus(r);
	int64_t rows = -1;

	if (st == PGRES_COMMAND_OK) {
		rows = strtoll(PQcmdTuples(r), NULL, 10);
	} else if (st != PGRES_TUPLES_OK) {
		fail(c, "%s", PQresultErrorMessage(r));
	} else {
		rows = PQntuples(r);
		for (int row = 0; row < PQntuples(r); row++) {
			for (int col = 0; s->columns[col] != '\0'; col++) {
				if (s->columns[col] == 'b') {
					rows = read_bytes(c, r, row, col) < 0 ? -1 : rows;
				} else {
					read_value(r, row, col, s->columns[col]);
				}
			}
		}
	}
	PQclear(r);
	return rows;
}

/* -- statements -----------------------------------------------------------------------------------
 */

static void fill(struct params *p, const int64_t *args, unsigned n)
{
	memset(p->len, 0, sizeof(p->len));
	memset(p->format, 0, sizeof(p->format));
	for (unsigned i = 0; i < n; i++) {
		snprintf(p->text[i], sizeof(p->text[i]), "%" PRId64, args[i]);
		p->value[i] = p->text[i];
	}
}

static const char *name_of(const struct bench_stmt *s)
{
	static const char names[SQL_COUNT][4] = {
		"s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10"};

	return names[s->id];
}

static int prepare(struct bench_conn *c, const struct bench_stmt *s)
{
	PGresult *r;
	int rc = 0;

	if (c->plan->target.protocol != BENCH_PREPARED || c->prepared[s->id]) {
		return 0;
	}
	r = PQprepare(c->pg, name_of(s), s->text, 0, NULL);
	if (PQresultStatus(r) != PGRES_COMMAND_OK) {
		rc = fail(c, "%s", PQresultErrorMessage(r));
	}
	PQclear(r);
	c->prepared[s->id] = rc == 0;
	return rc;
}

/* Bytes are asked for in binary; the rest as text, which is what libpq's users get by default. */
static int result_format(const struct bench_stmt *s)
{
	return s->columns[0] == 'b';
}

static PGresult *execute(struct bench_conn *c, const struct bench_stmt *s, const struct params *p)
{
	if (c->plan->target.protocol == BENCH_PREPARED) {
		return PQexecPrepared(c->pg, name_of(s), (int)s->nparams, p->value, p->len,
			p->format, result_format(s));
	}
	return PQexecParams(c->pg, s->text, (int)s->nparams, NULL, p->value, p->len, p->format,
		result_format(s));
}

static int64_t conn_run(struct bench_conn *c, const struct bench_stmt *s, const int64_t *args)
{
	struct params p;
	char text[TEXT_MAX];

	if (c->plan->target.protocol == BENCH_SIMPLE) {
		if (bench_literal(text, sizeof(text), s->text, args, s->nparams) < 0) {
			return fail(c, "statement too long");
		}
		return drain(c, PQexec(c->pg, text), s);
	}
	if (prepare(c, s) < 0) {
		return -1;
	}
	fill(&p, args, s->nparams);
	return drain(c, execute(c, s, &p), s);
}

static int send_one(struct bench_conn *c, const struct bench_stmt *s, const int64_t *args)
{
	struct params p;
	int sent;

	fill(&p, args, s->nparams);
	if (c->plan->target.protocol == BENCH_PREPARED) {
		sent = PQsendQueryPrepared(c->pg, name_of(s), (int)s->nparams, p.value, p.len,
			p.format, result_format(s));
	} else {
		sent = PQsendQueryParams(c->pg, s->text, (int)s->nparams, NULL, p.value, p.len,
			p.format, result_format(s));
	}
	return sent == 1 ? 0 : fail(c, "%s", PQerrorMessage(c->pg));
}

/* Results of a pipeline, up to and including its synchronization point. */
static int64_t drain_pipeline(struct bench_conn *c, const struct bench_stmt *s)
{
	int64_t rows = 0;
	int nulls = 0;

	while (nulls < 2) { /* two in a row: libpq waits for nothing */
		PGresult *r = PQgetResult(c->pg);
		int64_t got;

		if (r == NULL) {
			nulls++;
			continue;
		}
		nulls = 0;
		if (PQresultStatus(r) == PGRES_PIPELINE_SYNC) {
			PQclear(r);
			return rows;
		}
		got = drain(c, r, s);
		rows = rows < 0 || got < 0 ? -1 : rows + got;
	}
	return fail(c, "%s", PQerrorMessage(c->pg));
}

/* A pipeline with one synchronization point: a page reads, so nothing needs to end by itself. */
static int64_t pipeline(
	struct bench_conn *c, const struct bench_stmt *s, const int64_t *args, unsigned n)
{
	int64_t rows;
	int rc = 0;

	if (prepare(c, s) < 0 || PQenterPipelineMode(c->pg) != 1) {
		return -1;
	}
	for (unsigned i = 0; i < n && rc == 0; i++) {
		rc = send_one(c, s, args + (size_t)i * s->nparams);
	}
	if (PQpipelineSync(c->pg) != 1) {
		return fail(c, "%s", PQerrorMessage(c->pg));
	}
	rows = drain_pipeline(c, s);
	if (PQexitPipelineMode(c->pg) != 1) {
		return fail(c, "%s", PQerrorMessage(c->pg));
	}
	return rc < 0 ? -1 : rows;
}

static int64_t conn_many(
	struct bench_conn *c, const struct bench_stmt *s, const int64_t *args, unsigned n)
{
	int64_t rows = 0;

	if (c->plan->target.protocol != BENCH_SIMPLE) {
		return pipeline(c, s, args, n);
	}
	for (unsigned i = 0; i < n; i++) { /* the simple protocol has no pipeline */
		int64_t got = conn_run(c, s, args + (size_t)i * s->nparams);

		if (got < 0) {
			return -1;
		}
		rows += got;
	}
	return rows;
}

static int put_simple(struct bench_conn *c, const void *data, size_t len, int64_t id)
{
	size_t hex_len;
	unsigned char *hex = PQescapeByteaConn(c->pg, data, len, &hex_len);
	char *text = NULL;
	int rc = -1;

	if (hex == NULL || asprintf(&text, "UPDATE bench_blob SET data = '%s' WHERE id = %" PRId64,
				   hex, id) < 0) {
		fail(c, "no memory for a value");
	} else {
		static const struct bench_stmt none = {.columns = ""};

		rc = drain(c, PQexec(c->pg, text), &none) == 1 ? 0 : -1;
		free(text);
	}
	PQfreemem(hex);
	return rc;
}

static int conn_put(
	struct bench_conn *c, const struct bench_stmt *s, const void *data, size_t len, int64_t id)
{
	struct params p;

	if (c->plan->target.protocol == BENCH_SIMPLE) {
		return put_simple(c, data, len, id);
	}
	if (prepare(c, s) < 0) {
		return -1;
	}
	fill(&p, (const int64_t[]){0, id}, 2);
	p.value[0] = data;
	p.len[0] = (int)len;
	p.format[0] = 1;
	return drain(c, execute(c, s, &p), s) == 1 ? 0 : -1;
}

/* -- transactions ---------------------------------------------------------------------------------
 */

static int command(struct bench_conn *c, const char *sql, const char *expect)
{
	PGresult *r = PQexec(c->pg, sql);
	int rc = 0;

	if (PQresultStatus(r) != PGRES_COMMAND_OK) {
		rc = fail(c, "%s", PQresultErrorMessage(r));
	} else if (strcmp(PQcmdStatus(r), expect) != 0) {
		rc = fail(c, "%s did %s", sql, PQcmdStatus(r));
	}
	PQclear(r);
	return rc;
}

static int conn_begin(struct bench_conn *c)
{
	return command(c, "BEGIN", "BEGIN");
}

static int conn_commit(struct bench_conn *c)
{
	return command(c, "COMMIT", "COMMIT");
}

static void conn_rollback(struct bench_conn *c)
{
	char keep[BENCH_ERROR_MAX];

	memcpy(keep, c->error, sizeof(keep));
	(void)command(c, "ROLLBACK", "ROLLBACK");
	memcpy(c->error, keep, sizeof(keep));
}

static pid_t conn_peer(struct bench_conn *c)
{
	struct ucred cred = {0};
	socklen_t len = sizeof(cred);

	if (getsockopt(PQsocket(c->pg), SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0) {
		return 0;
	}
	return cred.pid;
}

const struct bench_driver bench_driver_libpq = {
	.open = conn_open,
	.close = conn_close,
	.run = conn_run,
	.many = conn_many,
	.put = conn_put,
	.begin = conn_begin,
	.commit = conn_commit,
	.rollback = conn_rollback,
	.error = conn_error,
	.peer = conn_peer,
};
