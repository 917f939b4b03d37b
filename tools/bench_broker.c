/* SPDX-License-Identifier: MIT */
/* bench_broker.c - the contender broker: the client library and nothing else. */
#include "bench_driver.h"

#include "reader.h"
#include "shmbroker.h"

#include <stdlib.h>

/* From here on a result is large: as an application that expects one would say. */
#define STREAM_ROWS 1000

struct bench_conn {
	struct broker *b;
	struct broker_lease *lease;
	const struct bench_plan *plan;
};

static const char *conn_error(struct bench_conn *c)
{
	return broker_error(c->b)->message;
}

static int conn_open(const struct bench_plan *p, struct bench_conn **out)
{
	struct broker_options opt = {
		.path = p->target.address,
		.name = "brokerbench",
		.pool = p->target.pool,
		.timeout_ms = 60000,
	};
	struct bench_conn *c = calloc(1, sizeof(*c));

	*out = c;
	if (c == NULL) {
		return -1;
	}
	c->plan = p;
	return broker_attach(&opt, &c->b) < 0 ? -1 : 0;
}

static void conn_close(struct bench_conn **cp)
{
	struct bench_conn *c = *cp;

	if (c != NULL) {
		broker_rollback(&c->lease);
		broker_detach(&c->b);
		free(c);
	}
	*cp = NULL;
}

static int read_value(struct broker_result *r, int col, char how)
{
	const char *text;
	const void *data;
	size_t len;
	int64_t n;
	int rc;

	switch (how) {
	case 'i':
		return broker_get_int64(r, col, &n);
	case 't':
		rc = broker_get_text(r, col, &text, &len);
		if (rc == 0) {
			bench_touch(text, len);
		}
		return rc;
	default:
		rc = broker_get_blob(r, col, &data, &len);
		if (rc == 0) {
			bench_touch(data, len);
		}
		return rc;
	}
}

/* Read all rows and free the result.  How many there were, or were changed. */
static int64_t drain(struct broker_result *r, const struct bench_stmt *s)
{
	int64_t rows = 0;
	int rc;

	while ((rc = broker_next(r)) == 1) {
		for (int col = 0; s->columns[col] != '\0' && rc >= 0; col++) {
			rc = read_value(r, col, s->columns[col]);
		}
		if (rc < 0) {
			break;
		}
		rows++;
	}
	if (s->columns[0] == '\0') {
		rows = broker_rows(r);
	}
	broker_result_free(&r);
	return rc < 0 ? -1 : rows;
}

static struct broker_call call_for(const struct bench_conn *c, const struct bench_stmt *s)
{
	struct broker_call call = {.lease = c->lease};

	if (s->reads && c->lease == NULL && c->plan->target.declare) {
		call.flags = BROKER_READONLY;
	}
	if (s->id == SQL_ROWS && c->plan->rows >= STREAM_ROWS) {
		call.flags |= BROKER_STREAM;
	}
	return call;
}

static void set_params(struct broker_value *v, const struct bench_stmt *s, const int64_t *args)
{
	for (unsigned i = 0; i < s->nparams; i++) {
		v[i] = broker_int64(args[i]);
	}
}

static int64_t conn_run(struct bench_conn *c, const struct bench_stmt *s, const int64_t *args)
{
	struct broker_value v[BENCH_PARAMS_MAX];
	struct broker_call call = call_for(c, s);
	struct broker_result *r;

	set_params(v, s, args);
	if (broker_exec(c->b, s->text, (int)s->nparams, v, &call, &r) < 0) {
		return -1;
	}
	return drain(r, s);
}

static int64_t conn_many(
	struct bench_conn *c, const struct bench_stmt *s, const int64_t *args, unsigned n)
{
	struct broker_call call = call_for(c, s);
	struct broker_value v[BENCH_PARAMS_MAX];
	uint64_t ticket[BENCH_PAGE_MAX];
	int64_t rows = 0;
	unsigned sent;

	for (sent = 0; sent < n; sent++) {
		set_params(v, s, args + (size_t)sent * s->nparams);
		if (broker_submit(c->b, s->text, (int)s->nparams, v, &call, &ticket[sent]) < 0) {
			rows = -1;
			break;
		}
	}
	for (unsigned i = 0; i < sent; i++) {
		struct broker_result *r;
		int64_t got = -1;

		if (broker_collect(c->b, ticket[i], -1, NULL, &r) == 0) {
			got = drain(r, s);
		}
		rows = rows < 0 || got < 0 ? -1 : rows + got;
	}
	return rows;
}

static int conn_put(
	struct bench_conn *c, const struct bench_stmt *s, const void *data, size_t len, int64_t id)
{
	struct broker_value v[2] = {broker_blob(data, len), broker_int64(id)};
	struct broker_call call = call_for(c, s);

	return broker_exec(c->b, s->text, 2, v, &call, NULL) < 0 ? -1 : 0;
}

static int conn_begin(struct bench_conn *c)
{
	return broker_begin(c->b, NULL, &c->lease) < 0 ? -1 : 0;
}

static int conn_commit(struct bench_conn *c)
{
	return broker_commit(&c->lease, 0) < 0 ? -1 : 0;
}

static void conn_rollback(struct bench_conn *c)
{
	broker_rollback(&c->lease);
}

static int conn_lease(struct bench_conn *c)
{
	struct broker_lease *l;

	if (broker_lease(c->b, NULL, &l) < 0) {
		return -1;
	}
	broker_release(&l);
	return 0;
}

/* The board says; the socket may have been made by the broker's supervisor. */
static pid_t conn_peer(struct bench_conn *c)
{
	struct reader *r;
	struct sample *s;
	char err[200];
	pid_t pid = 0;

	if (reader_open(c->plan->target.address, 0, &r, err, sizeof(err)) < 0) {
		return 0;
	}
	if (reader_sample(r, &s) == 0) {
		pid = s->life == READER_DEAD ? 0 : s->pid;
		sample_free(&s);
	}
	reader_close(&r);
	return pid;
}

const struct bench_driver bench_driver_broker = {
	.open = conn_open,
	.close = conn_close,
	.run = conn_run,
	.many = conn_many,
	.put = conn_put,
	.begin = conn_begin,
	.commit = conn_commit,
	.rollback = conn_rollback,
	.lease = conn_lease,
	.error = conn_error,
	.peer = conn_peer,
};
