/* SPDX-License-Identifier: MIT */
/* pgcall.c - see pgcall.h. */
#include "pgcall.h"

#include "doorbell.h"
#include "log.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- why --------------------------------------------------------------------------------------- */

static void one_line(char *text)
{
	size_t n = strlen(text);

	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' ')) {
		text[--n] = '\0';
	}
	for (; *text != '\0'; text++) {
		if (*text == '\n' || *text == '\t') {
			*text = ' ';
		}
	}
}

__attribute__((format(printf, 3, 4))) static void say(
	struct pgcall *p, const char *sqlstate, const char *fmt, ...)
{
	va_list ap;

	snprintf(p->sqlstate, sizeof(p->sqlstate), "%s", sqlstate);
	va_start(ap, fmt);
	vsnprintf(p->why, sizeof(p->why), fmt, ap);
	va_end(ap);
	one_line(p->why);
}

/* The connection is of no use any more. */
static int give_up(struct pgcall *p)
{
	pgcall_close(p);
	return -1;
}

static int lost(struct pgcall *p)
{
	const char *text = PQerrorMessage(p->pq);

	say(p, "08006", "%s", text != NULL && *text != '\0' ? text : "the connection was lost");
	return give_up(p);
}

bool pgcall_is_error(struct pgcall *p, const PGresult *res)
{
	const char *state, *message, *detail;

	switch (PQresultStatus(res)) {
	case PGRES_COMMAND_OK:
	case PGRES_TUPLES_OK:
	case PGRES_SINGLE_TUPLE:
	case PGRES_EMPTY_QUERY:
		return false;
	default:
		break;
	}
	state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
	say(p, state != NULL ? state : "", "%s%s%s",
		message != NULL ? message : PQresultErrorMessage(res), detail != NULL ? "; " : "",
		detail != NULL ? detail : "");
	return true;
}

/* -- waiting ----------------------------------------------------------------------------------- */

/* 0: the socket is ready; -1: stopped, or no patience left. */
static int wait_socket(struct pgcall *p, short events, uint64_t until_ns)
{
	struct pollfd fds[2] = {
		{.fd = PQsocket(p->pq), .events = events}, {.fd = p->wake, .events = POLLIN}};

	for (;;) {
		uint64_t now = doorbell_now();
		int n;

		if (p->stop(p->arg)) {
			p->stopped = true;
			say(p, "57014", "stopped");
			return give_up(p);
		}
		if (now >= until_ns) {
			say(p, "08006", "no answer in time");
			return give_up(p);
		}
		n = poll(fds, 2, (int)((until_ns - now) / 1000000u + 1));
		if (n < 0 && errno != EINTR) {
			say(p, "", "poll: %s", strerror(errno));
			return give_up(p);
		}
		if (n > 0 && fds[0].revents != 0) {
			return 0;
		}
	}
}

static int flush_out(struct pgcall *p)
{
	uint64_t until = doorbell_now() + p->patience_ns;
	int rc;

	while ((rc = PQflush(p->pq)) > 0) {
		if (wait_socket(p, POLLIN | POLLOUT, until) < 0) {
			return -1;
		}
		if (PQconsumeInput(p->pq) == 0) {
			return lost(p);
		}
	}
	return rc < 0 ? lost(p) : 0;
}

/* Bytes that TLS has decrypted and libpq has not taken: poll() does not see them. */
static bool more_in_tls(const struct pgcall *p)
{
	return p->ssl_pending != NULL && p->ssl_pending(p->ssl) > 0;
}

/* Until PQgetResult does not block. */
static int wait_result(struct pgcall *p)
{
	while (PQisBusy(p->pq) != 0) {
		if (!more_in_tls(p) &&
			wait_socket(p, POLLIN, doorbell_now() + p->patience_ns) < 0) {
			return -1;
		}
		if (PQconsumeInput(p->pq) == 0) {
			return lost(p);
		}
	}
	return 0;
}

/* -- connecting -------------------------------------------------------------------------------- */

static void on_notice(void *arg, const PGresult *res)
{
	const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

	(void)arg;
	log_debug("courier: notice: %s", message != NULL ? message : PQresultErrorMessage(res));
}

/* OpenSSL is no dependency of ours: libpq brings it along. */
static void watch_tls(struct pgcall *p)
{
	void *symbol = NULL;

	p->ssl = PQsslInUse(p->pq) ? PQsslStruct(p->pq, "OpenSSL") : NULL;
	if (p->ssl != NULL) {
		symbol = dlsym(RTLD_DEFAULT, "SSL_pending");
	}
	memcpy(&p->ssl_pending, &symbol, sizeof(symbol));
}

static int dial(struct pgcall *p, uint64_t until_ns)
{
	PostgresPollingStatusType state = PGRES_POLLING_WRITING;

	while (state != PGRES_POLLING_OK) {
		if (state == PGRES_POLLING_FAILED) {
			return lost(p);
		}
		if (wait_socket(p, state == PGRES_POLLING_READING ? POLLIN : POLLOUT, until_ns) <
			0) {
			return -1;
		}
		state = PQconnectPoll(p->pq);
	}
	return 0;
}

/* Older servers do not know the last one. */
static int set_limits(struct pgcall *p, int64_t statement_ms)
{
	char sql[400];

	snprintf(sql, sizeof(sql),
		"SELECT set_config(name, value, false) FROM (VALUES ('statement_timeout', '%" PRId64
		"'), ('idle_in_transaction_session_timeout', '60000'), "
		"('client_connection_check_interval', '1000')) AS v (name, value) "
		"WHERE EXISTS (SELECT FROM pg_catalog.pg_settings s WHERE s.name = v.name)",
		statement_ms);
	return pgcall_do(p, sql);
}

int pgcall_connect(
	struct pgcall *p, const struct pg_address *a, uint64_t timeout_ns, int64_t statement_ms)
{
	uint64_t until = doorbell_now() + timeout_ns;

	pgcall_close(p);
	p->pq = PQconnectStartParams(
		(const char *const *)a->keywords, (const char *const *)a->values, 0);
	if (p->pq == NULL) {
		say(p, "53200", "out of memory");
		return -1;
	}
	PQsetNoticeReceiver(p->pq, on_notice, NULL);
	if (PQstatus(p->pq) == CONNECTION_BAD) {
		return lost(p);
	}
	if (dial(p, until) < 0) {
		return -1;
	}
	if (PQsetnonblocking(p->pq, 1) != 0) {
		return lost(p);
	}
	watch_tls(p);
	if (set_limits(p, statement_ms) < 0) {
		return give_up(p);
	}
	return 0;
}

void pgcall_close(struct pgcall *p)
{
	PQfinish(p->pq);
	p->pq = NULL;
	p->ssl = NULL;
	p->ssl_pending = NULL;
}

void pgcall_finish(struct pgcall *p)
{
	pgcall_close(p);
	pg_params_finish(&p->params);
}

/* -- running ----------------------------------------------------------------------------------- */

static int refuse_params(struct pgcall *p, enum pg_param_error e, unsigned bad)
{
	if (e == PG_PARAM_NUL) {
		say(p, "22021", "parameter $%u has a NUL character", bad + 1);
	} else {
		say(p, e == PG_PARAM_LARGE ? "54000" : "53200", "%s",
			e == PG_PARAM_LARGE ? "the parameters are too large" : "out of memory");
	}
	return -1;
}

int pgcall_send(
	struct pgcall *p, const char *sql, unsigned nparams, const struct request_param *params)
{
	struct pg_params *q = &p->params;
	unsigned bad = 0;
	enum pg_param_error e;
	int sent;

	p->stopped = false;
	if (p->pq == NULL) {
		say(p, "08003", "not connected");
		return -1;
	}
	e = pg_params_set_list(q, nparams, params, &bad);
	if (e != PG_PARAM_OK) {
		return refuse_params(p, e, bad);
	}
	sent = PQsendQueryParams(p->pq, sql, (int)q->count, q->any_blob ? q->types : NULL,
		q->values, q->any_blob ? q->lengths : NULL, q->any_blob ? q->formats : NULL, 0);
	pg_params_trim(q);
	return sent == 0 ? lost(p) : 0;
}

/* A COPY cannot be ended by reading on. */
static bool is_copy(const PGresult *res)
{
	ExecStatusType s = PQresultStatus(res);

	return s == PGRES_COPY_IN || s == PGRES_COPY_OUT || s == PGRES_COPY_BOTH;
}

/* Of one statement: the first error, else the last result. */
static PGresult *read_results(struct pgcall *p)
{
	PGresult *kept = NULL, *res;

	for (;;) {
		if (wait_result(p) < 0) {
			PQclear(kept);
			return NULL;
		}
		res = PQgetResult(p->pq);
		if (res == NULL) {
			return kept;
		}
		if (is_copy(res)) {
			say(p, "0A000", "COPY is not for here");
			PQclear(res);
			PQclear(kept);
			(void)give_up(p);
			return NULL;
		}
		if (kept != NULL && pgcall_is_error(p, kept)) {
			PQclear(res);
		} else {
			PQclear(kept);
			kept = res;
		}
	}
}

/* A connection that has ended with its last result: what that says is why. */
static bool has_ended(struct pgcall *p, PGresult *res)
{
	if (res != NULL && PQstatus(p->pq) == CONNECTION_OK) {
		return false;
	}
	if (res == NULL || !pgcall_is_error(p, res)) {
		(void)lost(p);
	} else {
		(void)give_up(p);
	}
	return true;
}

PGresult *pgcall_next(struct pgcall *p)
{
	PGresult *res = read_results(p);

	if (p->pq != NULL && has_ended(p, res)) {
		PQclear(res);
		return NULL;
	}
	return res;
}

PGresult *pgcall_run(
	struct pgcall *p, const char *sql, unsigned nparams, const struct request_param *params)
{
	return pgcall_send(p, sql, nparams, params) < 0 || flush_out(p) < 0 ? NULL : pgcall_next(p);
}

int pgcall_do(struct pgcall *p, const char *sql)
{
	PGresult *res = pgcall_run(p, sql, 0, NULL);
	int rc = res == NULL || pgcall_is_error(p, res) ? -1 : 0;

	PQclear(res);
	return rc;
}

/* -- several at once --------------------------------------------------------------------------- */

int pgcall_pipe_begin(struct pgcall *p)
{
	if (p->pq == NULL) {
		say(p, "08003", "not connected");
		return -1;
	}
	p->synced = false;
	return PQenterPipelineMode(p->pq) == 1 ? 0 : lost(p);
}

int pgcall_ask(struct pgcall *p)
{
	return PQsendFlushRequest(p->pq) == 1 ? flush_out(p) : lost(p);
}

int pgcall_sync(struct pgcall *p)
{
	p->synced = true;
	return PQpipelineSync(p->pq) == 1 ? flush_out(p) : lost(p);
}

/* Until the server has answered the Sync. */
static int drop_results(struct pgcall *p)
{
	ExecStatusType status = PGRES_EMPTY_QUERY;

	while (status != PGRES_PIPELINE_SYNC) {
		PGresult *res;

		if (wait_result(p) < 0) {
			return -1;
		}
		res = PQgetResult(p->pq);
		status = res != NULL ? PQresultStatus(res) : PGRES_EMPTY_QUERY;
		PQclear(res);
		if (PQstatus(p->pq) != CONNECTION_OK) {
			return lost(p);
		}
	}
	return 0;
}

int pgcall_pipe_end(struct pgcall *p)
{
	if (p->pq == NULL || PQpipelineStatus(p->pq) == PQ_PIPELINE_OFF) {
		return p->pq == NULL ? -1 : 0;
	}
	if ((!p->synced && pgcall_sync(p) < 0) || drop_results(p) < 0) {
		return -1;
	}
	return PQexitPipelineMode(p->pq) == 1 ? 0 : lost(p);
}

int pgcall_rows_begin(struct pgcall *p, const char *sql)
{
	if (pgcall_send(p, sql, 0, NULL) < 0) {
		return -1;
	}
	(void)PQsetSingleRowMode(p->pq);
	return flush_out(p);
}

int pgcall_rows_next(struct pgcall *p, PGresult **row)
{
	PGresult *res;
	bool failed;

	if (wait_result(p) < 0) {
		return -1;
	}
	res = PQgetResult(p->pq);
	if (res != NULL && PQresultStatus(res) == PGRES_SINGLE_TUPLE) {
		*row = res;
		return 1;
	}
	failed = res == NULL || is_copy(res) || pgcall_is_error(p, res);
	PQclear(res);
	if (failed && PQstatus(p->pq) != CONNECTION_OK) {
		return give_up(p);
	}
	res = read_results(p);
	PQclear(res);
	return failed || p->pq == NULL ? -1 : 0;
}
