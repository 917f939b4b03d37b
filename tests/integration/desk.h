/* SPDX-License-Identifier: MIT */
/*
 * desk.h - what the tests of journal and mirror share: a pool's SQLite writer and its courier,
 * without the pool.  The writer runs on the test's own thread; the courier is told what a pool
 * would tell it.
 */
#ifndef IT_DESK_H
#define IT_DESK_H

#include "courier.h"
#include "driver.h"
#include "journal.h"
#include "pg.h"
#include "scratch.h"
#include "sqlite_run.h"
#include "tap.h"
#include "wait.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct desk {
	char *path;
	struct statements *statements;
	struct sqlite_run *run;
	struct journal_tail tail;
	sqlite3 *db; /* to look at the file */

	uv_loop_t loop;
	struct courier *courier;
	void *server_priv[2];
	unsigned nservers;
	unsigned holds, near, caught, failed, nconflicts;
	bool held; /* writes are to wait */
	bool gone;
	bool insist; /* ask again whenever a replay has failed */
	bool drains; /* answer near_end by itself */
	unsigned target;
	struct courier_failure failure;
	struct courier_conflict conflict;
};

/* -- the writer -------------------------------------------------------------------------------- */

static bool desk_never(void *arg)
{
	(void)arg;
	return false;
}

static struct exec_job *desk_no_job(void *arg)
{
	(void)arg;
	return NULL;
}

static void desk_answered(void *arg, struct exec_job *job)
{
	(void)arg;
	(void)job;
}

static struct exec_block *desk_swap(
	void *arg, struct exec_block *full, bool (*give_up)(void *give_up_arg), void *give_up_arg)
{
	struct exec_block *empty = malloc(sizeof(*empty));

	(void)arg;
	(void)give_up;
	(void)give_up_arg;
	free(full);
	empty->len = 0;
	return empty;
}

static inline void desk_open_writer(struct desk *d)
{
	struct executor_options opt = {.name = "writer",
		.path = d->path,
		.writer = true,
		.max_prepared = 100,
		.busy_ms = 10000,
		.journal = "main",
		.tail = &d->tail};
	struct sqlite_run_host host = {.stopping = desk_never,
		.next = desk_no_job,
		.answer = desk_answered,
		.swap = desk_swap,
		.arg = d};
	struct sqlite_failure f;

	d->statements = statements_create(100);
	if (sqlite_run_create(&opt, &host, &d->run, &f) < 0) {
		bail_out("%s: %s", d->path, f.message);
	}
	if (sqlite3_open(d->path, &d->db) != SQLITE_OK) {
		bail_out("%s cannot be opened", d->path);
	}
	sqlite3_busy_timeout(d->db, 10000);
}

static inline struct desk *desk_open(const char *name)
{
	struct desk *d = calloc(1, sizeof(*d));

	d->path = scratch_path("%s", name);
	uv_loop_init(&d->loop);
	desk_open_writer(d);
	return d;
}

/* 0, or the SQLSTATE it failed with. */
static inline const char *desk_finish_job(struct desk *d, struct exec_job *job)
{
	static char state[8];

	sqlite_run_job(d->run, job);
	snprintf(state, sizeof(state), "%s",
		!job->failed                       ? ""
		: job->failure.sqlstate[0] != '\0' ? job->failure.sqlstate
						   : "?");
	if (job->stmt != NULL) {
		statement_put(d->statements, job->stmt);
	}
	exec_job_destroy(job);
	return state;
}

static inline const char *desk_write_params(
	struct desk *d, const char *sql, unsigned n, const struct request_param *params)
{
	struct exec_job *job = exec_job_create(n, params);

	job->op = EXEC_STATEMENT;
	job->stmt = statement_get(d->statements, sql, strlen(sql));
	return desk_finish_job(d, job);
}

/* A write of a worker; the SQLSTATE it failed with, "" if it did not. */
__attribute__((format(printf, 2, 3))) static inline const char *desk_write(
	struct desk *d, const char *sql, ...)
{
	char text[1000];
	va_list ap;

	va_start(ap, sql);
	vsnprintf(text, sizeof(text), sql, ap);
	va_end(ap);
	return desk_write_params(d, text, 0, NULL);
}

/* A statement of a transaction: begin is REQ_F_TX for its first one. */
static inline const char *desk_in_tx(struct desk *d, const char *sql, unsigned begin)
{
	struct exec_job *job = exec_job_create(0, NULL);

	job->op = EXEC_STATEMENT;
	job->stmt = statement_get(d->statements, sql, strlen(sql));
	job->leased = true;
	job->begin = begin;
	return desk_finish_job(d, job);
}

static inline const char *desk_commit(struct desk *d)
{
	struct exec_job *job = exec_job_create(0, NULL);

	job->op = EXEC_COMMIT;
	job->leased = true;
	return desk_finish_job(d, job);
}

static inline int64_t desk_int(struct desk *d, const char *sql)
{
	sqlite3_stmt *stmt;
	int64_t v = -1;

	if (sqlite3_prepare_v2(d->db, sql, -1, &stmt, NULL) != SQLITE_OK) {
		diag("%s: %s", sql, sqlite3_errmsg(d->db));
	} else if (sqlite3_step(stmt) == SQLITE_ROW) {
		v = sqlite3_column_int64(stmt, 0);
	}
	sqlite3_finalize(stmt);
	return v;
}

/* First column of the first row; the caller frees. */
static inline char *desk_text(struct desk *d, const char *sql)
{
	sqlite3_stmt *stmt;
	char *text = NULL;

	if (sqlite3_prepare_v2(d->db, sql, -1, &stmt, NULL) != SQLITE_OK) {
		diag("%s: %s", sql, sqlite3_errmsg(d->db));
	} else if (sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_text(stmt, 0) != NULL) {
		text = strdup((const char *)sqlite3_column_text(stmt, 0));
	}
	sqlite3_finalize(stmt);
	return text != NULL ? text : strdup("");
}

/* -- the courier ------------------------------------------------------------------------------- */

static void desk_hold(void *arg, bool hold)
{
	struct desk *d = arg;

	d->holds += hold;
	d->held = hold;
}

static void desk_near(void *arg)
{
	struct desk *d = arg;

	d->near++;
	if (d->drains) {
		courier_drain(d->courier);
	}
}

static void desk_caught(void *arg)
{
	((struct desk *)arg)->caught++;
}

static void desk_failed(void *arg, const struct courier_failure *f)
{
	struct desk *d = arg;

	d->failed++;
	d->failure = *f;
	if (d->insist) {
		courier_replay(d->courier, d->target);
	}
}

static void desk_conflict(void *arg, const struct courier_conflict *c)
{
	struct desk *d = arg;

	d->nconflicts++;
	d->conflict = *c;
}

static void desk_gone(void *arg)
{
	((struct desk *)arg)->gone = true;
}

static inline void desk_add_server(struct desk *d, const char *url)
{
	struct config_server server = {
		.name = (char *)"pg", .url = (char *)url, .connect_timeout = 5000};
	struct config_pool pool = {.name = (char *)"main"};
	char err[300];

	if (driver_pg.server_open(
		    NULL, &server, &pool, &d->server_priv[d->nservers++], err, sizeof(err)) < 0) {
		bail_out("%s", err);
	}
}

static inline void desk_start_courier_with(
	struct desk *d, char *const *mirror, unsigned nmirror, uint64_t interval_ms)
{
	struct courier_server servers[2] = {
		{"first", d->server_priv[0], 5000}, {"second", d->server_priv[1], 5000}};
	struct courier_options opt = {.loop = &d->loop,
		.pool = "main",
		.path = d->path,
		.tail = &d->tail,
		.servers = servers,
		.nservers = 2,
		.mirror = mirror,
		.nmirror = nmirror,
		.mirror_interval_ns = interval_ms * 1000000u,
		.events = {desk_hold, desk_near, desk_caught, desk_failed, desk_conflict},
		.arg = d};
	char err[300];

	d->holds = d->near = d->caught = d->failed = d->nconflicts = 0;
	d->held = false;
	d->gone = false;
	if (courier_create(&opt, &d->courier, err, sizeof(err)) < 0) {
		bail_out("%s", err);
	}
}

static inline void desk_start_courier(struct desk *d)
{
	desk_start_courier_with(d, NULL, 0, 0);
}

/* Look at a condition in each turn of the loop. */
static void desk_tick(uv_timer_t *t)
{
	(void)t;
}

#define desk_until(d, cond, ms)                                                                    \
	({                                                                                         \
		int64_t desk_end_ = wait_clock_ms() + (ms);                                        \
		uv_timer_t desk_timer_;                                                            \
		bool desk_met_ = (cond);                                                           \
		uv_timer_init(&(d)->loop, &desk_timer_);                                           \
		uv_timer_start(&desk_timer_, desk_tick, 5, 5);                                     \
		while (!desk_met_ && wait_clock_ms() < desk_end_) {                                \
			uv_run(&(d)->loop, UV_RUN_ONCE);                                           \
			desk_met_ = (cond);                                                        \
		}                                                                                  \
		uv_close((uv_handle_t *)&desk_timer_, NULL);                                       \
		uv_run(&(d)->loop, UV_RUN_NOWAIT);                                                 \
		desk_met_;                                                                         \
	})

static inline void desk_stop_courier(struct desk *d)
{
	int64_t since = wait_clock_ms();

	courier_destroy(&d->courier, desk_gone, d);
	if (!desk_until(d, d->gone, 20000)) {
		bail_out("the courier does not end");
	}
	if (wait_clock_ms() - since > 5000 + WAIT_NOISE_MS) {
		ok(false, "the courier ends in time (%lld ms)",
			(long long)(wait_clock_ms() - since));
	}
}

/* Replay all there is and hand back. */
static inline bool desk_replay_all(struct desk *d, int64_t ms)
{
	unsigned caught = d->caught, failed = d->failed;

	d->drains = true;
	courier_replay(d->courier, d->target);
	return desk_until(d, d->caught > caught || (!d->insist && d->failed > failed), ms) &&
	       d->caught > caught;
}

static inline void desk_close_writer(struct desk *d)
{
	sqlite_run_destroy(&d->run);
	sqlite3_close(d->db);
	statements_destroy(d->statements);
}

static inline void desk_close(struct desk **d)
{
	if ((*d)->courier != NULL) {
		desk_stop_courier(*d);
	}
	desk_close_writer(*d);
	for (unsigned i = 0; i < (*d)->nservers; i++) {
		driver_pg.server_close((*d)->server_priv[i]);
	}
	ok(uv_loop_close(&(*d)->loop) == 0, "the courier leaves nothing in the loop");
	free((*d)->path);
	free(*d);
	*d = NULL;
}

#endif
