/* SPDX-License-Identifier: MIT */
/*
 * bench_init.c - bench_init() of bench.h: pgbench's tables with the same columns and sizes, and two
 * more.  Made through the database itself, whatever is measured later.
 */
#include "bench.h"

#include <libpq-fe.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRING_(x) #x
#define STRING(x) STRING_(x)

/* @ stands for the scale. */
static const char *const pg_steps[] = {
	"DROP TABLE IF EXISTS pgbench_accounts, pgbench_branches, pgbench_tellers, "
	"pgbench_history, "
	"bench_row, bench_blob",
	"CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, "
	"filler char(22))",
	"CREATE TABLE pgbench_tellers (tid int NOT NULL, bid int, tbalance int, filler char(84)) "
	"WITH (fillfactor=100)",
	"CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84)) "
	"WITH (fillfactor=100)",
	"CREATE TABLE pgbench_branches (bid int NOT NULL, bbalance int, filler char(88)) "
	"WITH (fillfactor=100)",
	"INSERT INTO pgbench_branches (bid, bbalance) SELECT i, 0 FROM generate_series(1, @) i",
	"INSERT INTO pgbench_tellers (tid, bid, tbalance) "
	"SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, @ * 10) i",
	"INSERT INTO pgbench_accounts SELECT i, (i - 1) / 100000 + 1, 0, '' "
	"FROM generate_series(1, @ * 100000) i",
	"ALTER TABLE pgbench_branches ADD PRIMARY KEY (bid)",
	"ALTER TABLE pgbench_tellers ADD PRIMARY KEY (tid)",
	"ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid)",
	"CREATE TABLE bench_row (id int PRIMARY KEY, grp int NOT NULL, note text NOT NULL)",
	"INSERT INTO bench_row SELECT i, i % 100, 'a note of some length, number ' || i "
	"FROM generate_series(1, " STRING(BENCH_ROWS) ") i",
	"CREATE TABLE bench_blob (id int PRIMARY KEY, data bytea NOT NULL)",
	"ALTER TABLE bench_blob ALTER data SET STORAGE EXTERNAL", /* compressing is not our subject
								   */
	"INSERT INTO bench_blob SELECT b, (SELECT string_agg(decode(md5((i * b)::text), 'hex'), "
	"'') "
	"FROM generate_series(1, " STRING(BENCH_BLOB_BYTES) " / 16) i) "
							    "FROM generate_series(1, " STRING(
								    BENCH_BLOBS) ") b",
	"VACUUM ANALYZE pgbench_accounts, pgbench_branches, pgbench_tellers, bench_row, bench_blob",
	"CHECKPOINT",
};

#define NUMBERS(n)                                                                                 \
	"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < " n ") "

static const char *const sqlite_steps[] = {
	"PRAGMA journal_mode=WAL",
	"BEGIN",
	"DROP TABLE IF EXISTS pgbench_accounts",
	"DROP TABLE IF EXISTS pgbench_branches",
	"DROP TABLE IF EXISTS pgbench_tellers",
	"DROP TABLE IF EXISTS pgbench_history",
	"DROP TABLE IF EXISTS bench_row",
	"DROP TABLE IF EXISTS bench_blob",
	"CREATE TABLE pgbench_history (tid INT, bid INT, aid INT, delta INT, mtime TEXT, filler "
	"TEXT)",
	"CREATE TABLE pgbench_tellers (tid INTEGER PRIMARY KEY, bid INT, tbalance INT, filler "
	"TEXT)",
	"CREATE TABLE pgbench_accounts (aid INTEGER PRIMARY KEY, bid INT, abalance INT, filler "
	"TEXT)",
	"CREATE TABLE pgbench_branches (bid INTEGER PRIMARY KEY, bbalance INT, filler TEXT)",
	NUMBERS("@") "INSERT INTO pgbench_branches (bid, bbalance) SELECT i, 0 FROM c",
	NUMBERS("@ * 10") "INSERT INTO pgbench_tellers (tid, bid, tbalance) "
			  "SELECT i, (i - 1) / 10 + 1, 0 FROM c",
	NUMBERS("@ * 100000") "INSERT INTO pgbench_accounts SELECT i, (i - 1) / 100000 + 1, 0, "
			      "printf('%84s', '') FROM c",
	"CREATE TABLE bench_row (id INTEGER PRIMARY KEY, grp INT NOT NULL, note TEXT NOT NULL)",
	NUMBERS(STRING(BENCH_ROWS)) "INSERT INTO bench_row SELECT i, i % 100, "
				    "'a note of some length, number ' || i FROM c",
	"CREATE TABLE bench_blob (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
	NUMBERS(STRING(BENCH_BLOBS)) "INSERT INTO bench_blob SELECT i, randomblob(" STRING(
		BENCH_BLOB_BYTES) ") FROM c",
	"COMMIT",
	"PRAGMA wal_checkpoint(TRUNCATE)",
};

/* The step with the scale in it; the caller frees.  NULL without memory. */
static char *with_scale(const char *step, unsigned scale)
{
	const char *at = strchr(step, '@');
	char *text = NULL;
	int n;

	if (at == NULL) {
		return strdup(step);
	}
	n = asprintf(&text, "%.*s%u%s", (int)(at - step), step, scale, at + 1);
	return n < 0 ? NULL : text;
}

static int init_pg(const char *url, unsigned scale, char *err, size_t errlen)
{
	PGconn *c = PQconnectdb(url);
	int rc = 0;

	if (PQstatus(c) != CONNECTION_OK) {
		snprintf(err, errlen, "%s", PQerrorMessage(c));
		rc = -1;
	}
	for (size_t i = 0; i < sizeof(pg_steps) / sizeof(pg_steps[0]) && rc == 0; i++) {
		char *sql = with_scale(pg_steps[i], scale);
		PGresult *r = sql != NULL ? PQexec(c, sql) : NULL;

		if (PQresultStatus(r) != PGRES_COMMAND_OK) {
			snprintf(err, errlen, "%s: %s", pg_steps[i], PQerrorMessage(c));
			rc = -1;
		}
		PQclear(r);
		free(sql);
	}
	PQfinish(c);
	return rc;
}

static int init_sqlite(const char *path, unsigned scale, char *err, size_t errlen)
{
	sqlite3 *db;
	int rc = sqlite3_open(path, &db) == SQLITE_OK ? 0 : -1;

	for (size_t i = 0; i < sizeof(sqlite_steps) / sizeof(sqlite_steps[0]) && rc == 0; i++) {
		char *sql = with_scale(sqlite_steps[i], scale);

		rc = sql != NULL && sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : -1;
		free(sql);
	}
	if (rc < 0) {
		snprintf(err, errlen, "%s: %s", path, sqlite3_errmsg(db));
	}
	sqlite3_close(db);
	return rc;
}

int bench_init(const struct bench_target *t, unsigned scale, char *err, size_t errlen)
{
	if (t->kind == BENCH_BROKER) {
		snprintf(err, errlen,
			"init works on the database itself: use --target libpq or sqlite");
		return -1;
	}
	return t->kind == BENCH_LIBPQ ? init_pg(t->address, scale, err, errlen)
				      : init_sqlite(t->address, scale, err, errlen);
}
