/* SPDX-License-Identifier: MIT */
/*
 * test_sqlite_here.c - reads that have proved to be short run on the I/O thread; those that turn
 * out not to be keep nobody waiting.
 */
#include "behave.h"
#include "brokerproc.h"
#include "scratch.h"
#include "shmbroker.h"
#include "tap.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS 30000
#define LOOK_EVERY 20 /* looking takes much longer than running */

/* As long as the parameter says. */
static const char count_sql[] =
	"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT $1) "
	"SELECT count(*) FROM c";
static const char rows_sql[] =
	"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT $1) "
	"SELECT x, $2 FROM c";

static const struct broker_call reads = {.flags = BROKER_READONLY};

static int64_t at_once(const struct broker_proc *p)
{
	return behave_metric(p, "broker_reads_at_once_total", "");
}

static int64_t count(struct broker *b, int64_t n)
{
	struct broker_value v = broker_int64(n);
	struct broker_result *r;
	int64_t got = -1;

	if (broker_exec(b, count_sql, 1, &v, &reads, &r) < 0) {
		diag("%s", broker_error(b)->message);
		return -1;
	}
	if (broker_next(r) != 1 || broker_get_int64(r, 0, &got) < 0 || broker_next(r) != 0) {
		got = -2;
	}
	broker_result_free(&r);
	return got;
}

/* Until it runs on the I/O thread. */
static bool prove(const struct broker_proc *p, struct broker *b, int64_t n)
{
	int64_t before = at_once(p);

	for (int i = 0; i < 2000; i++) {
		if (count(b, n) != n) {
			return false;
		}
		if (i % LOOK_EVERY == 0 && at_once(p) > before) {
			return true;
		}
	}
	return false;
}

/* Sanitizers make everything long: then this is for what is tested after it. */
static void check_proof(bool proved, const char *what)
{
	if (!proved && getenv("TEST_QUICK") != NULL) {
		skip("%s: not here, where nothing is short", what);
	} else {
		ok(proved, "%s", what);
	}
}

static void test_long_one(const struct broker_proc *p, struct broker *b)
{
	struct broker_value v = broker_int64(INT64_C(1000000000000));
	struct broker_call bounded = {.flags = BROKER_READONLY, .timeout_ms = WAIT_MS};
	uint64_t ticket;
	int64_t before;

	check_proof(prove(p, b, 3), "a short read comes to run on the I/O thread");
	before = at_once(p);
	is_int(broker_submit(b, count_sql, 1, &v, &bounded, &ticket), 0,
		"the same text, but without end");
	for (int i = 0; i < 20; i++) {
		if (count(b, 5 + i) != 5 + i) {
			break;
		}
	}
	is_int(broker_collect(b, ticket, 0, NULL, NULL), BROKER_E_PENDING,
		"others are answered while it runs");
	is_int(at_once(p), before, "and the text has lost its name for being short");
	is_int(broker_cancel(b, ticket), 0, "cancel it");
	is_int(broker_collect(b, ticket, WAIT_MS, NULL, NULL), BROKER_E_CANCELLED,
		"it is cancelled");
	check_proof(prove(p, b, 3), "it can earn it again");
}

static void test_large_one(const struct broker_proc *p, struct broker *b)
{
	static char text[30000];
	struct broker_value v[] = {broker_int64(1), broker_textn(text, sizeof(text) - 1)};
	struct broker_result *r;
	int64_t before = at_once(p), rows = 0;

	memset(text, 'x', sizeof(text) - 1);
	for (int i = 0; i < 200 && (i % LOOK_EVERY != 0 || at_once(p) == before); i++) {
		if (broker_exec(b, rows_sql, 2, v, &reads, NULL) < 0) {
			break;
		}
	}
	check_proof(at_once(p) > before, "a row of 30 KB comes to be read on the I/O thread");
	v[0] = broker_int64(20);
	is_int(broker_exec(b, rows_sql, 2, v, &reads, &r), 0, "20 of them");
	while (broker_next(r) == 1) {
		const char *got;
		size_t len;

		rows += broker_get_text(r, 1, &got, &len) == 0 && len == sizeof(text) - 1 &&
			memcmp(got, text, len) == 0;
	}
	is_int(rows, 20, "arrive whole and once");
	broker_result_free(&r);
}

/* Results that the worker leaves unread fill its arena. */
static void test_full_arena(const struct broker_proc *p, struct broker *b)
{
	enum { N = 100 };
	static char text[30000];
	struct broker_value v[] = {broker_int64(1), broker_textn(text, sizeof(text) - 1)};
	uint64_t ticket[N];
	int good = 0;

	memset(text, 'y', sizeof(text) - 1);
	for (int i = 0; i < N; i++) {
		if (broker_submit(b, rows_sql, 2, v, &reads, &ticket[i]) < 0) {
			bail_out("submit: %s", broker_error(b)->message);
		}
	}
	for (int i = N; i-- > 0;) {
		struct broker_result *r;
		const char *got;
		size_t len;

		if (broker_collect(b, ticket[i], WAIT_MS, NULL, &r) == 0) {
			good += broker_next(r) == 1 && broker_get_text(r, 1, &got, &len) == 0 &&
				len == sizeof(text) - 1 && memcmp(got, text, len) == 0 &&
				broker_next(r) == 0;
			broker_result_free(&r);
		}
	}
	is_int(good, N, "%d results of 30 KB, collected last first", N);
	(void)p;
}

static void test_own_writes(struct broker *b)
{
	int good = 0;

	is_int(broker_exec(b, "CREATE TABLE n(x integer)", 0, NULL, NULL, NULL), 0, "a table");
	is_int(broker_exec(b, "INSERT INTO n VALUES (0)", 0, NULL, NULL, NULL), 0, "a row");
	for (int i = 1; i <= 200; i++) {
		struct broker_value v = broker_int64(i);
		struct broker_result *r;
		int64_t got = -1;

		if (broker_exec(b, "UPDATE n SET x = $1", 1, &v, NULL, NULL) == 0 &&
			broker_exec(b, "SELECT x FROM n", 0, NULL, &reads, &r) == 0) {
			good += broker_next(r) == 1 && broker_get_int64(r, 0, &got) == 0 &&
				got == i;
			broker_result_free(&r);
		}
	}
	is_int(good, 200, "each read sees the write before it");
	is_int(broker_exec(b, "ALTER TABLE n ADD COLUMN y integer DEFAULT 7", 0, NULL, NULL, NULL),
		0, "another column");
	for (int i = 0; i < 3; i++) {
		struct broker_result *r;

		is_int(broker_exec(b, "SELECT * FROM n", 0, NULL, &reads, &r), 0, "read all");
		is_int(broker_columns(r), 2, "both columns");
		broker_result_free(&r);
	}
}

/* Whoever else has the file open: a statement that must be done, and return no row or `want`. */
static bool elsewhere(sqlite3 *db, const char *sql, int64_t param, int64_t want)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);

	if (rc == SQLITE_OK) {
		(void)sqlite3_bind_int64(stmt, 1, param);
		rc = sqlite3_step(stmt);
	}
	if (rc == SQLITE_ROW && sqlite3_column_int64(stmt, 0) == want) {
		rc = sqlite3_step(stmt);
	}
	if (rc != SQLITE_DONE) {
		diag("%s: %s", sql, sqlite3_errmsg(db));
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_DONE;
}

/* All of them see x = want. */
static bool see_all(struct broker *b, unsigned n, int64_t want)
{
	uint64_t ticket[64];
	unsigned good = 0;

	for (unsigned i = 0; i < n; i++) {
		if (broker_submit(b, "SELECT x FROM n", 0, NULL, &reads, &ticket[i]) < 0) {
			bail_out("submit: %s", broker_error(b)->message);
		}
	}
	for (unsigned i = 0; i < n; i++) {
		struct broker_result *r;
		int64_t got = -1;

		if (broker_collect(b, ticket[i], WAIT_MS, NULL, &r) == 0) {
			good += broker_next(r) == 1 && broker_get_int64(r, 0, &got) == 0 &&
				got == want;
			broker_result_free(&r);
		}
	}
	return good == n;
}

/* Reads that arrive together share a transaction, which no later read may be shown. */
static void test_together(const struct broker_proc *p, struct broker *b, const char *file)
{
	enum { ROUNDS = 300, TOGETHER = 16 };
	int64_t before = at_once(p);
	sqlite3 *db;
	int good = 0;

	if (sqlite3_open(file, &db) != SQLITE_OK) {
		bail_out("%s: %s", file, sqlite3_errmsg(db));
	}
	(void)sqlite3_busy_timeout(db, WAIT_MS);
	for (int i = 1; i <= ROUNDS; i++) {
		good += elsewhere(db, "UPDATE n SET x = ?", i, 0) && see_all(b, TOGETHER, i);
	}
	is_int(good, ROUNDS, "reads see what another process has committed before them");
	check_proof(at_once(p) > before, "they ran on the I/O thread");
	/* not busy: nobody reads an old state of the database */
	ok(elsewhere(db, "PRAGMA wal_checkpoint(TRUNCATE)", 0, 0), "no transaction is left open");
	sqlite3_close(db);
}

int main(void)
{
	char *file = scratch_path("here.db"), *url = scratch_format("sqlite:%s", file);
	struct broker_proc *p = broker_start(url, NULL);
	struct broker_options opt = {.path = broker_socket(p), .timeout_ms = WAIT_MS};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	test_own_writes(b);
	test_long_one(p, b);
	test_large_one(p, b);
	test_full_arena(p, b);
	test_together(p, b, file);
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	free(url);
	free(file);
	return done_testing();
}
