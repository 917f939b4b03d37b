/* SPDX-License-Identifier: MIT */
/*
 * test_journal.c - the journal in SQLite: values come back as they were, rows stand there exactly
 * for what was committed, and what cannot be repeated is refused.
 *
 * Statements run through sqlite_run, as in an executor, but on the test's own thread.
 */
#include "journal.h"

#include "atomics.h"
#include "sqlite_run.h"
#include "tap.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/test_journal.XXXXXX";
static char path[64];

/* -- the host of sqlite_run -------------------------------------------------------------------- */

struct bench {
	struct statements *statements;
	struct sqlite_run *run;
	struct journal_tail tail;
	struct exec_job *waiting[16]; /* join the next group */
	unsigned nwaiting, nanswered;
	uint64_t tail_at_answer;
	sqlite3 *db; /* to look at it */
};

static bool never_stops(void *arg)
{
	(void)arg;
	return false;
}

static struct exec_job *next_job(void *arg)
{
	struct bench *b = arg;
	struct exec_job *job = b->waiting[0];

	if (b->nwaiting == 0) {
		return NULL;
	}
	memmove(b->waiting, b->waiting + 1, --b->nwaiting * sizeof(b->waiting[0]));
	return job;
}

static void answered(void *arg, struct exec_job *job)
{
	struct bench *b = arg;

	(void)job;
	b->nanswered++;
	b->tail_at_answer = observe(&b->tail.last);
}

static struct exec_block *swap_block(
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

static struct bench *bench_open(void)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct executor_options opt = {.name = "test",
		.path = path,
		.writer = true,
		.max_prepared = 10,
		.busy_ms = 100,
		.journal = "main",
		.tail = &b->tail};
	struct sqlite_run_host host = {.stopping = never_stops,
		.next = next_job,
		.answer = answered,
		.swap = swap_block,
		.arg = b};
	struct sqlite_failure f;

	b->statements = statements_create(100);
	if (sqlite_run_create(&opt, &host, &b->run, &f) < 0) {
		bail_out("%s: %s", path, f.message);
	}
	if (sqlite3_open(path, &b->db) != SQLITE_OK) {
		bail_out("%s cannot be opened", path);
	}
	return b;
}

static void bench_close(struct bench **b)
{
	sqlite_run_destroy(&(*b)->run);
	sqlite3_close((*b)->db);
	statements_destroy((*b)->statements);
	free(*b);
	*b = NULL;
}

static struct exec_job *make_job(
	struct bench *b, const char *sql, unsigned nparams, const struct request_param *params)
{
	struct exec_job *job = exec_job_create(nparams, params);

	job->op = EXEC_STATEMENT;
	job->stmt = statement_get(b->statements, sql, strlen(sql));
	return job;
}

static void free_job(struct bench *b, struct exec_job *job)
{
	if (job->stmt != NULL) {
		statement_put(b->statements, job->stmt);
	}
	exec_job_destroy(job);
}

/* Run it; the SQLSTATE it failed with, "" if it did not. */
static const char *run_job(struct bench *b, struct exec_job *job)
{
	static char state[8];

	sqlite_run_job(b->run, job);
	snprintf(state, sizeof(state), "%s", job->failed ? job->failure.sqlstate : "");
	if (job->failed && state[0] == '\0') {
		snprintf(state, sizeof(state), "?");
	}
	free_job(b, job);
	return state;
}

static const char *run(struct bench *b, const char *sql)
{
	return run_job(b, make_job(b, sql, 0, NULL));
}

static const char *run_params(
	struct bench *b, const char *sql, unsigned n, const struct request_param *params)
{
	return run_job(b, make_job(b, sql, n, params));
}

/* In a transaction of a lease. */
static const char *run_leased(struct bench *b, const char *sql, unsigned begin)
{
	struct exec_job *job = make_job(b, sql, 0, NULL);

	job->leased = true;
	job->begin = begin;
	return run_job(b, job);
}

static const char *end(struct bench *b, enum exec_op op)
{
	struct exec_job *job = exec_job_create(0, NULL);

	job->op = op;
	job->leased = true;
	return run_job(b, job);
}

/* "statement;statement" of the journal, a transaction in brackets. */
static const char *dump(struct bench *b)
{
	static char text[4096];
	sqlite3_stmt *stmt;
	size_t at = 0;
	int64_t tx = -1;

	if (sqlite3_prepare_v2(b->db, "SELECT tx, statement FROM broker_journal ORDER BY id", -1,
		    &stmt, NULL) != SQLITE_OK) {
		return sqlite3_errmsg(b->db);
	}
	text[0] = '\0';
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		const char *mark = sqlite3_column_int64(stmt, 0) == tx ? " ; "
				   : tx == -1                          ? "["
								       : "] [";

		tx = sqlite3_column_int64(stmt, 0);
		at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%s", mark,
			(const char *)sqlite3_column_text(stmt, 1));
	}
	sqlite3_finalize(stmt);
	snprintf(text + at, sizeof(text) - at, "%s", at > 0 ? "]" : "");
	return text;
}

static int64_t number(struct bench *b, const char *sql)
{
	sqlite3_stmt *stmt;
	int64_t v = -1;

	if (sqlite3_prepare_v2(b->db, sql, -1, &stmt, NULL) == SQLITE_OK &&
		sqlite3_step(stmt) == SQLITE_ROW) {
		v = sqlite3_column_int64(stmt, 0);
	}
	sqlite3_finalize(stmt);
	return v;
}

static void empty_journal(struct bench *b)
{
	sqlite3_exec(b->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
}

/* -- values ------------------------------------------------------------------------------------ */

static void test_values(struct bench *b)
{
	static const int64_t ints[] = {0, 1, -1, INT64_MAX, INT64_MIN, 1769903999123456};
	static const double doubles[] = {0.1, -0.0, 1e308, 5e-324, INFINITY, NAN};
	struct request_param in[20];
	struct journal_entry e;
	struct journal *j;
	struct sqlite_failure f;
	unsigned n = 0, good = 0;
	bool yes = true;

	in[n++] = (struct request_param){NULL, 0, CELL_NULL};
	in[n++] = (struct request_param){&yes, 1, CELL_BOOL};
	for (unsigned i = 0; i < 6; i++) {
		in[n++] = (struct request_param){&ints[i], 8, i == 5 ? CELL_TIMESTAMP : CELL_INT64};
		in[n++] = (struct request_param){&doubles[i], 8, CELL_DOUBLE};
	}
	in[n++] = (struct request_param){"", 0, CELL_TEXT};
	in[n++] = (struct request_param){"na\xc3\xafve \xf0\x9f\x90\x98", 11, CELL_TEXT};
	in[n++] = (struct request_param){"{\"a\": [1, null]}", 16, CELL_JSON};
	in[n++] = (struct request_param){"\0\1\xff\0", 4, CELL_BLOB};
	in[n++] = (struct request_param){NULL, 0, CELL_BLOB};

	is_int(journal_open(b->db, "values", NULL, &j, &f), 0, "a second handle opens the journal");
	journal_statement_begins(j);
	is_int(journal_append(j, NULL, "INSERT", 6, n, in, 7, &f), 0, "all kinds of values");
	journal_seek(j, 0);
	is_int(journal_next(j, &e, &f), 1, "come back");
	is_int(e.nparams, n, "all of them");
	for (unsigned i = 0; i < n && i < e.nparams; i++) {
		good += e.params[i].type == in[i].type && e.params[i].len == in[i].len &&
			memcmp(e.params[i].data, in[i].len > 0 ? in[i].data : "", in[i].len) == 0;
	}
	is_int(good, n, "bit by bit");
	ok(!e.damaged && e.rows == 7 && e.returned.ncolumns == 0, "with the number of rows");
	is_int(journal_next(j, &e, &f), 0, "there is no more");
	journal_rest(j);
	journal_close(&j);
}

static void test_damage(struct bench *b)
{
	static const char *const broken[] = {"x''", "x'02'", "x'0102'", "x'010200'",
		"x'0104ffffffff61'", "x'010409'", "x'0163'"};
	struct journal_entry e;
	struct journal *j;
	struct sqlite_failure f;

	if (journal_open(b->db, "damage", NULL, &j, &f) < 0) {
		bail_out("%s", f.message);
	}
	for (size_t i = 0; i < array_size(broken); i++) {
		char sql[200];

		snprintf(sql, sizeof(sql),
			"INSERT INTO broker_journal (tx, pool, statement, params, tag, worker, "
			"pid, at) "
			"VALUES (1, 'damage', 'SELECT 1', %s, '', '', 0, 0)",
			broken[i]);
		sqlite3_exec(b->db, sql, NULL, NULL, NULL);
	}
	journal_seek(j, 0);
	for (size_t i = 0; i < array_size(broken); i++) {
		is_int(journal_next(j, &e, &f), 1, "a row with parameters %s is read", broken[i]);
		ok(e.damaged == (i > 0), "%s",
			i > 0 ? "and known to be damaged" : "no bytes are none");
	}
	journal_rest(j);
	journal_close(&j);
	empty_journal(b);
}

/* -- what stands there ------------------------------------------------------------------------- */

static void test_autocommit(struct bench *b)
{
	struct exec_job *job;

	is_str(run(b, "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"), "",
		"a table is made");
	is_str(run(b, "INSERT INTO item VALUES (1, 'a')"), "", "a row inserted");
	is_str(run(b, "INSERT INTO item VALUES (1, 'b')"), "23505", "one refused");
	is_str(run(b, "SELECT * FROM item"), "", "rows read");
	is_str(run(b, "UPDATE item SET name = 'c' WHERE id = 99"), "", "nothing updated");
	is_str(run(b, "WITH x AS (SELECT 2) INSERT INTO item SELECT 2, 'w' FROM x"), "",
		"a row inserted WITH");
	is_str(run(b, "CREATE TABLE IF NOT EXISTS item (id INTEGER)"), "", "the table is there");
	is_str(dump(b),
		"[CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT UNIQUE)] "
		"[INSERT INTO item VALUES (1, 'a')] "
		"[WITH x AS (SELECT 2) INSERT INTO item SELECT 2, 'w' FROM x] "
		"[CREATE TABLE IF NOT EXISTS item (id INTEGER)]",
		"what wrote is in the journal, each its own transaction");
	is_int((int64_t)observe(&b->tail.last), number(b, "SELECT max(id) FROM broker_journal"),
		"the tail says how far it reaches");
	is_int((int64_t)b->tail_at_answer, (int64_t)observe(&b->tail.last), "before the answer");
	empty_journal(b);

	job = make_job(b, "INSERT INTO item VALUES (3, 'who')", 0, NULL);
	job->source = calloc(1, sizeof(*job->source));
	*job->source = (struct journal_source){4711, "billing", "/invoice"};
	is_str(run_job(b, job), "", "a row of a known worker");
	is_int(number(b, "SELECT count(*) FROM broker_journal WHERE worker = 'billing' AND "
			 "tag = '/invoice' AND pid = 4711 AND rows = 1 AND "
			 "abs(at / 1000000 - CAST(strftime('%s', 'now') AS INTEGER)) < 60"),
		1, "says who and when");
	empty_journal(b);
}

static void test_rowid(struct bench *b)
{
	is_str(run_leased(b, "INSERT INTO item VALUES (1000, 'rowid')", REQ_F_TX), "", "a row");
	is_str(run_leased(b, "CREATE TABLE seen AS SELECT 1 AS one", 0), "", "a table");
	is_str(run_leased(b,
		       "SELECT CASE last_insert_rowid() WHEN 1000 THEN 1 ELSE "
		       "abs(-9223372036854775807 - 1) END",
		       0),
		"", "the worker's last_insert_rowid() is its own");
	is_str(end(b, EXEC_ROLLBACK), "", "rolled back");
	is_str(dump(b), "", "and not in the journal");
}

static void test_transactions(struct bench *b)
{
	is_str(run_leased(b, "INSERT INTO item VALUES (10, 't')", REQ_F_TX), "", "a transaction");
	is_str(run_leased(b, "SAVEPOINT one", 0), "", "a savepoint");
	is_str(run_leased(b, "INSERT INTO item VALUES (11, 'undone')", 0), "", "a row");
	is_str(run_leased(b, "INSERT INTO item VALUES (10, 'twice')", 0), "23505", "a mistake");
	is_str(run_leased(b, "ROLLBACK TO one", 0), "", "back to the savepoint");
	is_str(run_leased(b, "UPDATE item SET name = 'u' WHERE id = 10", 0), "", "another change");
	is_int((int64_t)observe(&b->tail.last) < number(b, "SELECT seq + 1 FROM sqlite_sequence"),
		1, "nothing is told before the commit");
	is_str(end(b, EXEC_COMMIT), "", "commit");
	is_str(dump(b),
		"[INSERT INTO item VALUES (10, 't') ; UPDATE item SET name = 'u' WHERE id = 10]",
		"without what the savepoint has undone");
	is_str(run_leased(b, "INSERT INTO item VALUES (12, 'x')", REQ_F_TX), "", "another one");
	is_str(end(b, EXEC_ROLLBACK), "", "rolled back");
	is_str(run_leased(b, "BEGIN", 0), "", "one begun by a statement");
	is_str(run_leased(b, "SAVEPOINT one", 0), "", "a savepoint first");
	is_str(run_leased(b, "INSERT INTO item VALUES (13, 'first')", 0), "", "a row");
	is_str(run_leased(b, "ROLLBACK TO one", 0), "", "undone");
	is_str(run_leased(b, "INSERT INTO item VALUES (14, 'y')", 0), "", "a row");
	is_str(run_leased(b, "INSERT INTO item VALUES (15, 'z')", 0), "", "and one");
	is_str(run_leased(b, "COMMIT", 0), "", "commit");
	is_str(run_leased(b, "INSERT INTO item VALUES (16, 'alone')", 0), "",
		"leased, no transaction");
	is_str(dump(b),
		"[INSERT INTO item VALUES (10, 't') ; UPDATE item SET name = 'u' WHERE id = 10] "
		"[INSERT INTO item VALUES (14, 'y') ; INSERT INTO item VALUES (15, 'z')] "
		"[INSERT INTO item VALUES (16, 'alone')]",
		"transactions are kept apart");
	is_int((int64_t)observe(&b->tail.last), number(b, "SELECT max(id) FROM broker_journal"),
		"the tail");
	is_str(run_leased(b, "SAVEPOINT s", REQ_F_TX), "", "a transaction");
	is_str(run_leased(b, "INSERT INTO item VALUES (17, 'gone')", 0), "", "a row");
	is_str(run_leased(b, "ROLLBACK TO s", 0), "", "undone");
	is_str(end(b, EXEC_COMMIT), "", "committed with nothing in it");
	is_int((int64_t)observe(&b->tail.last), number(b, "SELECT max(id) FROM broker_journal"),
		"the tail does not count what was undone");
	empty_journal(b);
}

static void test_group(struct bench *b)
{
	struct exec_job *job[5];
	static const char *const sql[] = {"INSERT INTO item VALUES (20, 'g')",
		"INSERT INTO item VALUES (21, 'h')", "INSERT INTO item VALUES (20, 'twice')",
		"INSERT INTO item VALUES (22, random())", "INSERT INTO item VALUES (23, 'i')"};

	for (unsigned i = 0; i < 5; i++) {
		job[i] = make_job(b, sql[i], 0, NULL);
	}
	memcpy(b->waiting, job + 1, 4 * sizeof(job[0]));
	b->nwaiting = 4;
	b->nanswered = 0;
	sqlite_run_job(b->run, job[0]);
	is_int(b->nanswered, 5, "five writes in one commit");
	is_int(job[0]->group, 5, "together");
	ok(job[2]->failed && job[3]->failed && !job[4]->failed, "two of them failed");
	is_str(job[3]->failure.sqlstate, "0A000", "one because it cannot be repeated");
	is_str(dump(b),
		"[INSERT INTO item VALUES (20, 'g')] [INSERT INTO item VALUES (21, 'h')] "
		"[INSERT INTO item VALUES (23, 'i')]",
		"each is a transaction of its own, the failed ones are not there");
	for (unsigned i = 0; i < 5; i++) {
		free_job(b, job[i]);
	}
	empty_journal(b);
}

static void test_returned(struct bench *b)
{
	struct journal_digest want = {0};
	struct journal_entry e;
	struct journal *j;
	struct sqlite_failure f;

	is_str(run(b, "INSERT INTO item VALUES (31, 'p'), (30, NULL) RETURNING id, name, id + 1"),
		"", "two rows return something");
	if (journal_open(b->db, "main", NULL, &j, &f) < 0) {
		bail_out("%s", f.message);
	}
	journal_seek(j, 0);
	is_int(journal_next(j, &e, &f), 1, "the journal has it");
	journal_digest_number(&want, 0, 30);
	journal_digest_number(&want, 0, 31);
	journal_digest_other(&want, 1);
	journal_digest_number(&want, 2, 32);
	journal_digest_number(&want, 2, 31);
	is_int(e.returned.ncolumns, 3, "three columns");
	ok(e.returned.column[0].whole && !e.returned.column[1].whole && e.returned.column[2].whole,
		"two of numbers");
	ok(e.returned.column[0].sum == want.column[0].sum &&
			e.returned.column[2].sum == want.column[2].sum,
		"that are known in any order");
	want.column[0].sum = 0;
	journal_digest_number(&want, 0, 29);
	journal_digest_number(&want, 0, 32);
	ok(e.returned.column[0].sum != want.column[0].sum, "and different from others");
	journal_rest(j);
	journal_close(&j);
	empty_journal(b);
}

/* -- what is refused --------------------------------------------------------------------------- */

static void test_refused(struct bench *b)
{
	static const struct {
		const char *sql, *state;
	} cases[] = {
		{"INSERT INTO item VALUES (40, random())", "0A000"},
		{"UPDATE item SET name = datetime('now')", "0A000"},
		{"INSERT OR IGNORE INTO item VALUES (1, 'a')", "0A000"},
		{"WITH x AS (SELECT 1) INSERT OR REPLACE INTO item SELECT 1, 'a' FROM x", "0A000"},
		{"UPDATE OR IGNORE item SET id = 1", "0A000"},
		{"REPLACE INTO item VALUES (1, 'a')", "0A000"},
		{"CREATE TEMP TABLE t (a)", "0A000"},
		{"CREATE TRIGGER t AFTER INSERT ON item BEGIN SELECT 1; END", "0A000"},
		{"CREATE VIRTUAL TABLE v USING fts5(a)", "0A000"},
		{"PRAGMA user_version = 5", "0A000"},
		{"DELETE FROM broker_journal", "42501"},
		{"UPDATE broker_journal_origin SET origin = 'x'", "42501"},
		{"DROP TABLE broker_journal", "42501"},
		{"INSERT INTO item VALUES (41, 'na\xefve')", "0A000"},
		{"ANALYZE", ""},
		{"VACUUM", ""},
		{"SELECT random(), datetime('now')", ""},
		{"INSERT INTO item VALUES (42, 'INSERT OR random() ''REPLACE INTO''')", ""},
		{"INSERT INTO item VALUES (43, CURRENT_TIMESTAMP)", ""},
		{"INSERT INTO item VALUES (44, replace('ab', 'b', 'c')) ON CONFLICT (id) DO UPDATE "
		 "SET name "
		 "= 'd'",
			""},
	};
	struct request_param bad = {"a\0b", 3, CELL_TEXT}, worse = {"\xed\xa0\x80", 3, CELL_JSON},
			     blob = {"a\0b", 3, CELL_BLOB};

	for (size_t i = 0; i < array_size(cases); i++) {
		is_str(run(b, cases[i].sql), cases[i].state, "%s", cases[i].sql);
		is_str(run(b, cases[i].sql), i == 17 || i == 18 ? "23505" : cases[i].state,
			"and from the cache");
	}
	is_int(number(b, "SELECT count(*) FROM broker_journal"), 4, "only what was done is there");
	is_str(run_params(b, "INSERT INTO item VALUES (50, $1)", 1, &bad), "22021",
		"a NUL character");
	is_str(run_params(b, "INSERT INTO item VALUES (50, $1)", 1, &worse), "22021",
		"a surrogate");
	is_str(run_params(b, "INSERT INTO item VALUES (50, $1)", 1, &blob), "",
		"are fine in a BLOB");
	empty_journal(b);
}

/* -- reading and forgetting -------------------------------------------------------------------- */

static void test_extent(struct bench *b)
{
	int64_t first, last, ever, at, highest = number(b, "SELECT seq FROM sqlite_sequence");
	struct journal *j;
	struct sqlite_failure f;
	char origin[40];

	if (journal_open(b->db, "main", NULL, &j, &f) < 0) {
		bail_out("%s", f.message);
	}
	snprintf(origin, sizeof(origin), "%s", journal_origin(j));
	is_int((int64_t)strlen(origin), 32, "the journal has a name of its own");
	is_int(journal_extent(j, &first, &last, &ever, &f), 0, "an empty journal");
	ok(first == 0 && last == 0 && ever == highest, "remembers how far it went");
	is_str(run(b, "INSERT INTO item VALUES (60, 'q')"), "", "a row");
	is_str(run(b, "INSERT INTO item VALUES (61, 'r')"), "", "and one");
	is_int(journal_extent(j, &first, &last, &ever, &f), 0, "two rows");
	ok(first == highest + 1 && last == highest + 2 && ever == last, "in order");
	is_int(journal_time_of(j, first, &at, &f), 0, "the time of a row");
	ok(at > 0, "is known");
	is_int(journal_forget(j, first, &f), 0, "forget the first");
	is_int(journal_time_of(j, first, &at, &f), 0, "then its time");
	is_int(at, 0, "is not");
	is_int(journal_look(path, "main", &first, &last, &f), 0, "look without a handle");
	ok(first == highest + 1 && last == highest + 2, "one row is left");
	is_int(journal_look(path, "other", &first, &last, &f), 0, "another pool");
	ok(first == last, "has none");
	is_int(journal_look("/nonexistent/file", "main", &first, &last, &f), 0, "no file");
	ok(first == 0 && last == 0, "no rows");
	is_int(journal_forget(j, last + 100, &f), 0, "forget all");
	is_str(run(b, "INSERT INTO item VALUES (62, 's')"), "", "a row");
	is_int(number(b, "SELECT id FROM broker_journal"), highest + 3, "no number is used twice");
	is_int(journal_new_origin(j, &f), 0, "another name");
	ok(strcmp(origin, journal_origin(j)) != 0, "is another one");
	journal_close(&j);
	empty_journal(b);
}

static void test_reopen(struct bench *b)
{
	uint64_t last;

	is_str(run(b, "INSERT INTO item VALUES (70, 'left')"), "", "a row is left");
	last = observe(&b->tail.last);
	bench_close(&b);
	b = bench_open();
	is_int((int64_t)observe(&b->tail.last), (int64_t)last,
		"the next broker's tail tells of it");
	bench_close(&b);
}

int main(void)
{
	struct bench *b;

	if (mkdtemp(dir) == NULL) {
		bail_out("no directory");
	}
	snprintf(path, sizeof(path), "%s/test.db", dir);
	b = bench_open();
	test_values(b);
	test_damage(b);
	test_autocommit(b);
	test_rowid(b);
	test_transactions(b);
	test_group(b);
	test_returned(b);
	test_refused(b);
	test_extent(b);
	test_reopen(b);
	unlink(path);
	rmdir(dir);
	return done_testing();
}
