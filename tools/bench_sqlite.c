/* SPDX-License-Identifier: MIT */
/*
 * bench_sqlite.c - the contender SQLite, used by each process directly: a connection of its own,
 * statements prepared once, WAL and synchronous=FULL as the broker has them.
 */
#include "bench_driver.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#define BUSY_MS "30000"

struct bench_conn {
	sqlite3 *db;
	sqlite3_stmt *stmt[SQL_COUNT];
	char error[BENCH_ERROR_MAX];
};

static int fail(struct bench_conn *c)
{
	snprintf(c->error, sizeof(c->error), "%s",
		c->db != NULL ? sqlite3_errmsg(c->db) : "no memory for a connection");
	return -1;
}

static const char *conn_error(struct bench_conn *c)
{
	return c->error;
}

static int command(struct bench_conn *c, const char *sql)
{
	return sqlite3_exec(c->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(c);
}

static int conn_open(const struct bench_plan *p, struct bench_conn **out)
{
	struct bench_conn *c = calloc(1, sizeof(*c));

	*out = c;
	if (c == NULL) {
		return -1;
	}
	if (sqlite3_open(p->target.address, &c->db) != SQLITE_OK) {
		return fail(c);
	}
	return command(c, "PRAGMA busy_timeout=" BUSY_MS ";PRAGMA journal_mode=WAL;"
			  "PRAGMA synchronous=FULL");
}

static void conn_close(struct bench_conn **cp)
{
	struct bench_conn *c = *cp;

	if (c != NULL) {
		for (unsigned i = 0; i < SQL_COUNT; i++) {
			sqlite3_finalize(c->stmt[i]);
		}
		sqlite3_close(c->db);
		free(c);
	}
	*cp = NULL;
}

static sqlite3_stmt *prepare(struct bench_conn *c, const struct bench_stmt *s)
{
	if (c->stmt[s->id] == NULL &&
		sqlite3_prepare_v3(c->db, s->text, -1, SQLITE_PREPARE_PERSISTENT, &c->stmt[s->id],
			NULL) != SQLITE_OK) {
		fail(c);
	}
	return c->stmt[s->id];
}

static void read_row(sqlite3_stmt *st, const char *columns)
{
	for (int col = 0; columns[col] != '\0'; col++) {
		switch (columns[col]) {
		case 'i':
			(void)sqlite3_column_int64(st, col);
			break;
		case 't':
			bench_touch(sqlite3_column_text(st, col),
				(size_t)sqlite3_column_bytes(st, col));
			break;
		default:
			bench_touch(sqlite3_column_blob(st, col),
				(size_t)sqlite3_column_bytes(st, col));
		}
	}
}

static int64_t finish(struct bench_conn *c, const struct bench_stmt *s, sqlite3_stmt *st)
{
	int64_t rows = 0;
	int rc;

	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		read_row(st, s->columns);
		rows++;
	}
	if (s->columns[0] == '\0') {
		rows = sqlite3_changes(c->db);
	}
	if (rc != SQLITE_DONE) {
		rows = fail(c);
	}
	sqlite3_reset(st);
	return rows;
}

static int64_t conn_run(struct bench_conn *c, const struct bench_stmt *s, const int64_t *args)
{
	sqlite3_stmt *st = prepare(c, s);

	if (st == NULL) {
		return -1;
	}
	for (unsigned i = 0; i < s->nparams; i++) {
		sqlite3_bind_int64(st, (int)i + 1, args[i]);
	}
	return finish(c, s, st);
}

static int64_t conn_many(
	struct bench_conn *c, const struct bench_stmt *s, const int64_t *args, unsigned n)
{
	int64_t rows = 0;

	for (unsigned i = 0; i < n; i++) {
		int64_t got = conn_run(c, s, args + (size_t)i * s->nparams);

		if (got < 0) {
			return -1;
		}
		rows += got;
	}
	return rows;
}

static int conn_put(
	struct bench_conn *c, const struct bench_stmt *s, const void *data, size_t len, int64_t id)
{
	sqlite3_stmt *st = prepare(c, s);

	if (st == NULL) {
		return -1;
	}
	sqlite3_bind_blob(st, 1, data, (int)len, SQLITE_STATIC);
	sqlite3_bind_int64(st, 2, id);
	return finish(c, s, st) == 1 ? 0 : -1;
}

/* Knowing that it will write: SQLite cannot make a reader the writer while others write. */
static int conn_begin(struct bench_conn *c)
{
	return command(c, "BEGIN IMMEDIATE");
}

static void conn_rollback(struct bench_conn *c)
{
	(void)sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);
}

/* One that found the file busy would leave the transaction open. */
static int conn_commit(struct bench_conn *c)
{
	int rc = command(c, "COMMIT");

	if (rc < 0) {
		conn_rollback(c);
	}
	return rc;
}

const struct bench_driver bench_driver_sqlite = {
	.open = conn_open,
	.close = conn_close,
	.run = conn_run,
	.many = conn_many,
	.put = conn_put,
	.begin = conn_begin,
	.commit = conn_commit,
	.rollback = conn_rollback,
	.error = conn_error,
};
