/* SPDX-License-Identifier: MIT */
/*
 * pgcall.h - PostgreSQL for a thread that may wait: connect, run a statement, read its rows, each
 * within a time and never past the moment its owner wants it to end.
 *
 * Inside, libpq never blocks: all waiting is one poll() of its socket and of `wake`, a descriptor
 * that the owner makes readable to be asked `stop`.  Nothing interrupts the resolver of names.
 *
 * A call that fails for good (the connection is lost, no answer in time, stopped) closes the
 * connection and leaves the reason in sqlstate and why.  No cancel is sent, since libpq's would
 * block: sessions are given time limits of the server's own, and PostgreSQL 14 and later notices
 * that its client is gone (pgcall_connect sets both).
 *
 * One thread.
 */
#ifndef BROKER_PGCALL_H
#define BROKER_PGCALL_H

#include "pg_address.h"
#include "pg_param.h"

#include <libpq-fe.h>

#define PGCALL_WHY_MAX 480u

struct pgcall {
	/* set by the owner */
	int wake; /* readable: ask stop() */
	bool (*stop)(void *arg); /* takes what is in `wake`; true: end at once */
	void *arg;
	uint64_t patience_ns; /* longest silence of the server while it owes an answer */

	PGconn *pq; /* NULL: closed */
	int (*ssl_pending)(const void *ssl); /* NULL: no TLS */
	void *ssl;
	bool stopped; /* the last failure was the owner's wish */
	bool synced; /* the Sync that ends the pipeline was sent */
	char sqlstate[6];
	char why[PGCALL_WHY_MAX];
	struct pg_params params;
};

/* 0, or -1.  statement_ms: statement_timeout of the session, 0 = none. */
int pgcall_connect(struct pgcall *p, const struct pg_address *a, uint64_t timeout_ns,
	int64_t statement_ms) must_use;
void pgcall_close(struct pgcall *p);
/* And give memory back. */
void pgcall_finish(struct pgcall *p);

/*
 * Run one statement.  The result, which may be an error (pgcall_is_error), is the caller's; NULL:
 * the connection is gone, or (pq not NULL) the parameters cannot be sent: sqlstate and why say it.
 */
PGresult *pgcall_run(struct pgcall *p, const char *sql, unsigned nparams,
	const struct request_param *params) must_use;
/* Is it an error?  Then sqlstate and why say which. */
bool pgcall_is_error(struct pgcall *p, const PGresult *res);
/* Run one and drop what it returns.  0, or -1: an error, or the connection is gone (pq NULL). */
int pgcall_do(struct pgcall *p, const char *sql) must_use;

/*
 * Several at once, in libpq's pipeline mode.  Between pgcall_pipe_begin and pgcall_pipe_end nothing
 * else is called.  An error makes the server skip whatever was sent behind it, up to the Sync:
 * pgcall_next then gives results that are errors, too.
 */
int pgcall_pipe_begin(struct pgcall *p) must_use;
/* 0; -1 as NULL of pgcall_run. */
int pgcall_send(struct pgcall *p, const char *sql, unsigned nparams,
	const struct request_param *params) must_use;
/* The server is to send the answers to what it was sent so far: only those come by themselves. */
int pgcall_ask(struct pgcall *p) must_use;
/* The same, and nothing more will be sent: the Sync. */
int pgcall_sync(struct pgcall *p) must_use;
/* The answer to the oldest one, as pgcall_run gives it. */
PGresult *pgcall_next(struct pgcall *p) must_use;
/* Sync if that was not done, and drop the answers that are left.  Without a pipeline: no effect.
 * sqlstate and why stay unless it fails: the connection is gone. */
int pgcall_pipe_end(struct pgcall *p) must_use;

/* Run one whose rows come one by one.  0, or -1. */
int pgcall_rows_begin(struct pgcall *p, const char *sql) must_use;
/* 1: a row, the caller's; 0: there are no more; -1: failed.  Until it is not 1. */
int pgcall_rows_next(struct pgcall *p, PGresult **row) must_use;

#endif
