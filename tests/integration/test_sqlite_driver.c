/* SPDX-License-Identifier: MIT */
/*
 * test_sqlite_driver.c - SQLite through the whole broker: what workers see of the writer, the
 * readers, group commit, transactions, long results, cancels and lost workers.
 */
#include "brokerproc.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define V(...) ((struct broker_value[]){__VA_ARGS__})
#define CALL(...) (&(struct broker_call){__VA_ARGS__})
#define MIB (1024 * 1024)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* Runs until it is cancelled. */
#define ENDLESS                                                                                    \
	"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) SELECT max(i) FROM c"
/* Many rows of about a kilobyte. */
#define ROWS(n)                                                                                    \
	"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < " #n ") "        \
	"SELECT i, hex(zeroblob(500)) FROM c"

static struct broker *attach(struct broker_proc *proc)
{
	struct broker_options opt = {.path = broker_socket(proc), .timeout_ms = 60000};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static int run(struct broker *b, const struct broker_call *call, const char *sql)
{
	return broker_exec(b, sql, 0, NULL, call, NULL);
}

/* First cell of the first row as text, or the SQLSTATE; static buffer. */
static const char *text(struct broker *b, const struct broker_call *call, const char *sql, int n,
	const struct broker_value *v)
{
	static char buf[256];
	struct broker_result *r = NULL;
	const char *cell = "no row";
	int rc = broker_exec(b, sql, n, v, call, &r);

	if (rc == 0) {
		rc = broker_next(r) == 1 ? broker_get_text(r, 0, &cell, NULL) : 0;
	}
	snprintf(buf, sizeof(buf), "%s",
		rc == 0                   ? cell
		: rc == BROKER_E_DATABASE ? broker_error(b)->sqlstate
		: rc == BROKER_E_NULL     ? "null"
					  : broker_error(b)->message);
	broker_result_free(&r);
	return buf;
}

static int64_t number(struct broker *b, const char *sql)
{
	return atoll(text(b, NULL, sql, 0, NULL));
}

/* -- values, errors, transactions ------------------------------------------------------------- */

static void test_values(struct broker *b)
{
	struct broker_result *r = NULL;
	int64_t i = 0, when = 0;
	bool yes = false;
	const char *t = "";

	is_int(run(b, NULL, "CREATE TABLE v (i INT, f BOOLEAN, ts TIMESTAMP, j JSON, t TEXT)"), 0,
		"a table");
	is_int(broker_exec(b, "INSERT INTO v VALUES ($1, $2, $3, $4, $5)", 5,
		       V(broker_int64(7), broker_bool(true), broker_timestamp(1700000000000001),
			       broker_json("[1]"), broker_text(NULL)),
		       NULL, &r),
		0, "a row");
	is_int(broker_rows(r), 1, "is one row");
	broker_result_free(&r);
	is_int(broker_exec(b, "SELECT * FROM v", 0, NULL, CALL(.flags = BROKER_READONLY), &r), 0,
		"read");
	is_int(broker_next(r), 1, "its row");
	ok(broker_get_int64(r, 0, &i) == 0 && i == 7, "integer");
	ok(broker_get_bool(r, 1, &yes) == 0 && yes, "boolean");
	ok(broker_get_timestamp(r, 2, &when) == 0 && when == 1700000000000001, "timestamp");
	ok(broker_get_text(r, 3, &t, NULL) == 0 && strcmp(t, "[1]") == 0, "json");
	is_int(broker_value_type(r, 3), BROKER_JSON, "of type json");
	is_int(broker_is_null(r, 4), 1, "null");
	is_int(broker_next(r), 0, "no other row");
	broker_result_free(&r);
	is_str(text(b, NULL, "INSERT INTO v (i) VALUES (8) RETURNING i * 10", 0, NULL), "80",
		"a write returns rows");
}

static void test_errors(struct broker *b)
{
	struct broker_copy *copy;
	struct broker_lease *l;

	is_str(text(b, NULL, "SELECT no_such FROM v", 0, NULL), "42703", "no such column");
	is_str(text(b, NULL, "SELECT $1, $2", 1, V(broker_int64(1))), "08P01",
		"a missing parameter");
	is_str(text(b, CALL(.flags = BROKER_READONLY), "DELETE FROM v", 0, NULL), "25006",
		"a write that is declared read-only");
	is_str(text(b, NULL, "SELECT count(*) FROM v", 0, NULL), "2", "has deleted nothing");
	ok(run(b, NULL, "ATTACH '/tmp/x' AS x") == BROKER_E_DATABASE, "ATTACH is refused: %s",
		broker_error(b)->message);
	is_int(broker_lease(b, NULL, &l), 0, "a lease");
	is_int(broker_copy_in(b, "COPY v FROM STDIN", CALL(.lease = l), &copy),
		BROKER_E_UNSUPPORTED, "COPY is not supported");
	ok(strstr(broker_error(b)->hint, "INSERT") != NULL, "but there is: %s",
		broker_error(b)->hint);
	broker_release(&l);
}

static void test_transactions(struct broker *b)
{
	struct broker_lease *l;

	is_int(run(b, NULL, "CREATE TABLE tx (i INTEGER PRIMARY KEY)"), 0, "a table");
	is_int(broker_begin(b, NULL, &l), 0, "begin");
	is_int(run(b, CALL(.lease = l), "INSERT INTO tx VALUES (1)"), 0, "a statement");
	is_int(broker_savepoint(l), 0, "a savepoint");
	is_int(run(b, CALL(.lease = l), "INSERT INTO tx VALUES (1)"), BROKER_E_DATABASE, "fails");
	is_str(text(b, CALL(.lease = l), "SELECT 1", 0, NULL), "25P02", "nothing else runs");
	is_int(broker_savepoint_rollback(l), 0, "until it is rolled back");
	is_int(run(b, CALL(.lease = l), "INSERT INTO tx VALUES (2)"), 0, "then it goes on");
	is_int(broker_commit(&l, 0), 0, "and is committed");
	is_int(number(b, "SELECT sum(i) FROM tx"), 3, "with what was kept");
	is_int(broker_begin(b, NULL, &l), 0, "another");
	is_int(run(b, CALL(.lease = l), "INSERT INTO tx VALUES (2)"), BROKER_E_DATABASE, "fails");
	is_int(broker_commit(&l, 0), BROKER_E_TX_ABORTED, "so it cannot be committed");
	is_int(broker_begin(b, CALL(.flags = BROKER_READONLY), &l), 0, "a read-only one");
	is_str(text(b, CALL(.lease = l), "SELECT count(*) FROM tx", 0, NULL), "2", "reads");
	is_int(run(b, NULL, "INSERT INTO tx VALUES (3)"), 0, "while another writes");
	is_str(text(b, CALL(.lease = l), "SELECT count(*) FROM tx", 0, NULL), "2",
		"and has its snapshot");
	broker_rollback(&l);
}

static void test_session(struct broker *b)
{
	struct broker_lease *l;

	is_int(broker_lease(b, NULL, &l), 0, "a lease");
	is_int(run(b, CALL(.lease = l), "CREATE TEMP TABLE mine (i)"), 0, "a temporary table");
	is_int(run(b, CALL(.lease = l), "PRAGMA foreign_keys = OFF"), 0, "a setting");
	is_int(run(b, CALL(.lease = l), "BEGIN"), 0, "an open transaction");
	is_int(run(b, CALL(.lease = l), "INSERT INTO mine VALUES (1)"), 0, "a row");
	broker_release(&l);
	is_int(broker_lease(b, NULL, &l), 0, "the next lease");
	is_str(text(b, CALL(.lease = l), "SELECT * FROM mine", 0, NULL), "42P01", "sees no table");
	is_str(text(b, CALL(.lease = l), "PRAGMA foreign_keys", 0, NULL), "1", "nor setting");
	broker_release(&l);
}

/* -- long statements and results --------------------------------------------------------------- */

static int64_t read_all(struct broker_result *r)
{
	int64_t n = 0;

	while (broker_next(r) == 1) {
		n++;
	}
	return n;
}

static void test_long_result(struct broker_proc *proc, struct broker *b)
{
	struct broker *other = attach(proc);
	struct broker_result *r, *mine[4] = {0};

	is_int(broker_exec(b, ROWS(200000), 0, NULL, CALL(.flags = BROKER_STREAM | BROKER_READONLY),
		       &r),
		0, "a result of 200 MB");
	is_int(read_all(r), 200000, "arrives");
	is_int(broker_rows(r), 200000, "and is counted");
	broker_result_free(&r);
	if (SANITIZED) {
		skip("a sanitizer keeps freed memory");
	} else {
		ok(broker_rss(proc) < 64 * (int64_t)MIB, "the broker keeps little of it: %d MiB",
			(int)(broker_rss(proc) / MIB));
	}

	is_int(broker_exec(b, "SELECT replace(hex(zeroblob(10000000)), '00', 'xyz')", 0, NULL, NULL,
		       &r),
		0, "a value of 30 MB");
	is_int(broker_next(r), 1, "is one row");
	{
		const char *t = "";
		size_t len = 0;

		is_int(broker_get_text(r, 0, &t, &len), 0, "whose text");
		ok(len == 30000000 && memcmp(t + len - 3, "xyz", 3) == 0, "is whole");
	}
	broker_result_free(&r);

	/* As many as there are readers, all left unread. */
	for (int i = 0; i < 2; i++) {
		is_int(broker_exec(
			       b, ROWS(20000), 0, NULL, CALL(.flags = BROKER_READONLY), &mine[i]),
			0, "a result that nobody reads");
	}
	is_int(run(other, CALL(.timeout_ms = 30000), "INSERT INTO tx VALUES (1000)"), 0,
		"does not keep others from writing");
	is_int(read_all(mine[1]), 20000, "the second is read");
	is_str(text(other, CALL(.timeout_ms = 30000, .flags = BROKER_READONLY), "SELECT 1", 0,
		       NULL),
		"1", "then its connection reads for others");
	broker_result_free(&mine[0]);
	broker_result_free(&mine[1]);
	is_str(text(b, NULL, "SELECT 2", 0, NULL), "2", "results may be dropped unread");
	broker_detach(&other);
}

static void test_deadline(struct broker *b)
{
	struct broker_lease *l;
	uint64_t ticket, done;
	int64_t start = wait_clock_ms();

	is_int(run(b, CALL(.timeout_ms = 50, .flags = BROKER_READONLY), ENDLESS), BROKER_E_TIMEOUT,
		"a read ends at its deadline");
	is_int(run(b, CALL(.timeout_ms = 50), "INSERT INTO tx " ENDLESS), BROKER_E_TIMEOUT,
		"and so does a write");
	is_int(broker_error(b)->outcome, BROKER_NOT_DONE, "that has done nothing");
	ok(wait_clock_ms() - start < 100 + WAIT_NOISE_MS, "in time");
	is_int(broker_submit(b, ENDLESS, 0, NULL, NULL, &ticket), 0, "a statement");
	is_int(broker_cancel(b, ticket), 0, "is cancelled");
	is_int(broker_collect(b, ticket, -1, &done, NULL), BROKER_E_CANCELLED, "and says so");
	is_int(broker_begin(b, NULL, &l), 0, "a transaction");
	is_int(run(b, CALL(.lease = l), "INSERT INTO tx VALUES (5000)"), 0, "writes");
	is_int(run(b, CALL(.lease = l, .timeout_ms = 50), "INSERT INTO tx " ENDLESS),
		BROKER_E_TIMEOUT, "a statement in it ends at its deadline");
	is_int(broker_commit(&l, 0), BROKER_E_TX_ABORTED, "the transaction has failed");
	is_int(number(b, "SELECT count(*) FROM tx WHERE i >= 5000"), 0, "nothing of it stays");
}

/* -- several workers --------------------------------------------------------------------------- */

#define WRITERS 8
#define WRITES 200

static _Noreturn void writer(struct broker_proc *proc, int who)
{
	struct broker *b = attach(proc);

	for (int i = 0; i < WRITES; i++) {
		int rc = broker_exec(b, "INSERT INTO grp VALUES ($1, $2)", 2,
			V(broker_int64(who), broker_int64(i)), NULL, NULL);
		int again = broker_exec(b, "INSERT INTO grp VALUES ($1, $2)", 2,
			V(broker_int64(who), broker_int64(i)), NULL, NULL);

		if (rc != 0 || again != BROKER_E_DATABASE ||
			strcmp(broker_error(b)->sqlstate, "23505") != 0) {
			diag("writer %d: %s", who, broker_error(b)->message);
			_exit(1);
		}
	}
	broker_detach(&b);
	_exit(0);
}

static void test_group(struct broker_proc *proc, struct broker *b)
{
	pid_t pid[WRITERS];
	int good = 0;

	is_int(run(b, NULL, "CREATE TABLE grp (who INT, i INT, PRIMARY KEY (who, i))"), 0,
		"a table");
	for (int i = 0; i < WRITERS; i++) {
		pid[i] = spawn_fork();
		if (pid[i] == 0) {
			writer(proc, i);
		}
	}
	for (int i = 0; i < WRITERS; i++) {
		good += spawn_wait(pid[i], 60000, NULL) == 0;
	}
	is_int(good, WRITERS, "every writer learned the outcome of each of its writes");
	is_int(number(b, "SELECT count(*) FROM grp"), WRITERS * WRITES, "and all are there");
}

/* Statements submitted together meet in a group; one of them fails. */
static void test_group_batch(struct broker *b)
{
	uint64_t ticket[40];
	int failed = 0, other = 0;

	is_int(run(b, NULL, "CREATE TABLE batch (i INTEGER PRIMARY KEY)"), 0, "a table");
	for (int i = 0; i < 40; i++) {
		if (broker_submit(b, "INSERT INTO batch VALUES ($1)", 1,
			    V(broker_int64(i == 20 ? 10 : i)), NULL, &ticket[i]) < 0) {
			bail_out("submit: %s", broker_error(b)->message);
		}
	}
	for (int i = 0; i < 40; i++) {
		int rc = broker_collect(b, ticket[i], -1, NULL, NULL);

		failed += rc == BROKER_E_DATABASE && (i == 10 || i == 20);
		other += rc != 0 && i != 10 && i != 20;
	}
	is_int(failed, 1, "of two that exclude each other one fails");
	is_int(other, 0, "no other does");
	is_int(number(b, "SELECT count(*) FROM batch"), 39, "all others are there");
}

static void test_killed(struct broker_proc *proc, struct broker *b)
{
	pid_t pid = spawn_fork();
	int64_t n = number(b, "SELECT count(*) FROM tx");

	if (pid == 0) {
		struct broker *mine = attach(proc);
		struct broker_lease *l;

		if (broker_begin(mine, NULL, &l) == 0 &&
			run(mine, CALL(.lease = l), "INSERT INTO tx VALUES (7000)") == 0) {
			kill(getpid(), SIGKILL);
		}
		_exit(1);
	}
	is_int(WTERMSIG(spawn_wait(pid, 60000, NULL)), SIGKILL, "a worker dies in a transaction");
	is_int(run(b, CALL(.timeout_ms = 30000), "INSERT INTO tx VALUES (7001)"), 0,
		"others write on");
	is_int(number(b, "SELECT count(*) FROM tx"), n + 1, "what it wrote is gone");
}

static void test_broker_killed(struct broker_proc *proc, struct broker **b)
{
	int64_t last = -1;

	for (int64_t i = 0; i < 100; i++) {
		if (broker_exec(*b, "INSERT INTO tx VALUES ($1)", 1, V(broker_int64(10000 + i)),
			    NULL, NULL) == 0) {
			last = i;
		}
	}
	broker_kill(proc);
	broker_restart(proc);
	broker_detach(b);
	*b = attach(proc);
	is_int(number(*b, "SELECT max(i) - 10000 FROM tx"), last, "a killed broker lost no answer");
	is_str(text(*b, NULL, "PRAGMA integrity_check", 0, NULL), "ok", "and no order");
}

/* -- starting ---------------------------------------------------------------------------------- */

static void test_start_errors(void)
{
	static const struct {
		const char *url, *says;
	} bad[] = {
		{"sqlite:/no/such/place/x.db", "directory /no/such/place"},
		{"sqlite:/etc/passwd/x.db", "/etc/passwd is not a directory"},
		{"sqlite:/tmp/", "name of the database file is missing"},
		{"sqlite://here/x.db", "must be absolute"},
		{"sqlite:/dev/null", "not a regular file"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *args[] = {"serve", "-d", bad[i].url, NULL};
		struct broker_proc *p = broker_spawn(args, true);

		ok(broker_wait(p, 60000) != 0, "%s is refused", bad[i].url);
		is_int(broker_log_count(p, bad[i].says), 1, "saying %s", bad[i].says);
		ok(broker_log_count(p, "url") > 0, "and naming the option");
		broker_free(&p);
	}
}

/* A broker that is stopped ends the statements that run. */
static void test_stopped(void)
{
	static const char *const settings[] = {"broker.shutdown_grace=100ms", NULL};
	struct broker_proc *proc = broker_start("sqlite:stop.db", settings);
	struct broker *b = attach(proc);
	uint64_t read, write;

	is_int(run(b, NULL, "CREATE TABLE t (i)"), 0, "a table");
	is_int(broker_submit(b, ENDLESS, 0, NULL, CALL(.flags = BROKER_READONLY), &read), 0,
		"a read without end");
	is_int(broker_submit(b, "INSERT INTO t " ENDLESS, 0, NULL, NULL, &write), 0,
		"a write without end");
	is_int(broker_collect(b, read, 50, NULL, NULL), BROKER_E_PENDING, "run");
	is_int(broker_stop(proc, 10000), 0, "when the broker is stopped");
	ok(broker_collect(b, read, -1, NULL, NULL) < 0 &&
			broker_error(b)->outcome == BROKER_NOT_DONE,
		"the read has failed: %s", broker_error(b)->message);
	ok(broker_collect(b, write, -1, NULL, NULL) < 0, "and the write: %s",
		broker_error(b)->message);
	broker_restart(proc);
	broker_detach(&b);
	b = attach(proc);
	is_int(number(b, "SELECT count(*) FROM t"), 0, "nothing of it is there");
	broker_detach(&b);
	is_int(broker_free(&proc), 0, "the broker ends well");
}

int main(void)
{
	static const char *const settings[] = {"pool main.readers=2", NULL};
	struct broker_proc *proc = broker_start("sqlite:test.db", settings);
	struct broker *b = attach(proc);

	test_values(b);
	test_errors(b);
	test_transactions(b);
	test_session(b);
	test_long_result(proc, b);
	test_deadline(b);
	test_group(proc, b);
	test_group_batch(b);
	test_killed(proc, b);
	test_broker_killed(proc, &b);
	broker_detach(&b);
	is_int(broker_free(&proc), 0, "the broker ends well");
	test_stopped();
	test_start_errors();
	return done_testing();
}
