/* SPDX-License-Identifier: MIT */
/*
 * pg_case.h - what the tests of the PostgreSQL driver share: a cluster, a broker on it, a handle.
 *
 * The driver is tested through the client library, as its users see it, and the server is looked at
 * from its own side.
 */
#ifndef IT_PG_CASE_H
#define IT_PG_CASE_H

#include "brokerproc.h"
#include "pg.h"
#include "scratch.h"
#include "shmbroker.h"
#include "tap.h"
#include "wait.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pg_case {
	struct pg_cluster *pg;
	struct broker_proc *proc;
	struct broker *b;
};

static inline struct broker *case_attach(struct broker_proc *proc)
{
	struct broker_options opt = {.path = broker_socket(proc), .timeout_ms = 60000};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

/* settings: of the broker, "section.key=value", NULL-terminated, may be NULL. */
static inline struct pg_case case_start(const char *const *pg_settings, const char *const *settings)
{
	struct pg_case t;

	t.pg = pg_start(pg_settings);
	t.proc = broker_start(pg_url(t.pg), settings);
	t.b = case_attach(t.proc);
	return t;
}

static inline void case_end(struct pg_case *t)
{
	broker_detach(&t->b);
	is_int(broker_free(&t->proc), 0, "the broker ends well");
	pg_remove(&t->pg);
}

/* Run a statement, drop its rows; the code. */
static inline int case_run(struct broker *b, const struct broker_call *call, const char *sql)
{
	return broker_exec(b, sql, 0, NULL, call, NULL);
}

/* First column of the first row as text in a static buffer; the error's message if it failed. */
static inline const char *case_text(struct broker *b, const struct broker_call *call,
	const char *sql, int nparams, const struct broker_value *params)
{
	static char buf[4096];
	struct broker_result *r;
	const char *text = "(no row)";
	int rc = broker_exec(b, sql, nparams, params, call, &r);

	if (rc == 0) {
		int got = broker_next(r);

		if (got == 1) {
			rc = broker_get_text(r, 0, &text, NULL);
			if (rc == BROKER_E_NULL) {
				text = "(null)";
				rc = 0;
			}
		} else {
			rc = got;
		}
		snprintf(buf, sizeof(buf), "%s", text);
		broker_result_free(&r);
	}
	if (rc < 0) {
		snprintf(buf, sizeof(buf), "%d %s %s", rc, broker_error(b)->sqlstate,
			broker_error(b)->message);
	}
	return buf;
}

/* SQLSTATE of the last error. */
static inline const char *case_sqlstate(struct broker *b)
{
	return broker_error(b)->sqlstate;
}

#endif
