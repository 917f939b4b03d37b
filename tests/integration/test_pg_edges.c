/* SPDX-License-Identifier: MIT */
/*
 * test_pg_edges.c - one regression test per mistake that was once made at the edges of
 * transactions, groups, leases and connections.  One connection unless said otherwise.
 */
#include "pg_case.h"

#include "spawn.h"
#include "stage.h"

#include <signal.h>
#include <unistd.h>

#define SOON_MS 60000

static struct pg_case t;
static const struct broker_call reads = {.flags = BROKER_READONLY};

static int64_t number(const char *sql)
{
	return strtoll(case_text(t.b, NULL, sql, 0, NULL), NULL, 10);
}

/* The next user of the connection finds nothing of what this statement did to the session. */
static void leaves_nothing(const char *statement, const char *probe, const char *clean)
{
	ok(case_run(t.b, NULL, statement) == 0, "runs: %s", statement);
	is_str(case_text(t.b, NULL, probe, 0, NULL), clean, "and leaves nothing to the next");
}

static void test_session_state(void)
{
	leaves_nothing("CREATE TABLE pg_temp.x (a int)",
		"SELECT coalesce(to_regclass('pg_temp.x')::text, 'none')", "none");
	leaves_nothing("SELECT 1 AS a INTO pg_temp.y",
		"SELECT coalesce(to_regclass('pg_temp.y')::text, 'none')", "none");
	leaves_nothing("UPDATE pg_settings SET setting = 'leaked' WHERE name = 'search_path'",
		"SHOW search_path", "\"$user\", public");
	leaves_nothing("SET local_app.tenant = '42'",
		"SELECT coalesce(nullif(current_setting('local_app.tenant', true), ''), 'none')",
		"none");
	leaves_nothing("SET transaction_app.tenant = '42'",
		"SELECT coalesce(nullif(current_setting('transaction_app.tenant', true), ''), "
		"'none')",
		"none");
}

static void test_failure_at_the_end_of_a_group(void)
{
	struct broker_value good = broker_text("x"), bad = broker_textn("a\0b", 3);
	unsigned wrong = 0;

	for (int i = 0; i < 30; i++) {
		wrong += broker_exec(t.b, "SELECT $1::text", 1, &good, &reads, NULL) != 0;
	}
	for (int round = 0; round < 5; round++) {
		uint64_t ticket[4];

		broker_pause(t.proc); /* so that they travel together */
		for (int i = 0; i < 4; i++) {
			wrong += broker_submit(t.b, "SELECT $1::text", 1, i == 3 ? &bad : &good,
					 &reads, &ticket[i]) < 0;
		}
		broker_resume(t.proc);
		for (int i = 0; i < 4; i++) {
			int rc = broker_collect(t.b, ticket[i], -1, NULL, NULL);

			wrong += i == 3 ? rc != BROKER_E_ARGUMENT : rc != 0;
		}
	}
	is_int(wrong, 0, "a parameter that cannot be sent fails its own statement, and is told");
}

static void test_lost_statement_spoils_its_transaction(void)
{
	struct broker_value bad = broker_textn("a\0b", 3);
	struct broker_lease *tx = NULL;
	int rc = broker_begin(t.b, NULL, &tx);
	struct broker_call in = {.lease = tx}, brief = {.lease = tx, .timeout_ms = 100};
	uint64_t ticket[3];

	is_int(rc, 0, "begin");
	is_int(case_run(t.b, &in, "INSERT INTO w VALUES (10)"), 0, "first statement");
	is_int(broker_exec(t.b, "INSERT INTO w SELECT length($1::text)", 1, &bad, &in, NULL),
		BROKER_E_ARGUMENT, "the second cannot be sent");
	is_int(broker_commit(&tx, 0), BROKER_E_TX_ABORTED, "so the transaction cannot commit");
	is_int(number("SELECT count(*) FROM w"), 0, "and nothing of it is there");

	rc = broker_begin(t.b, NULL, &tx);
	in.lease = brief.lease = tx;
	rc = rc == 0 ? broker_submit(t.b, "SELECT pg_sleep(0.5)", 0, NULL, &in, &ticket[0]) : rc;
	rc = rc == 0 ? broker_submit(t.b, "INSERT INTO w VALUES (1)", 0, NULL, &brief, &ticket[1])
		     : rc;
	rc = rc == 0 ? broker_submit(t.b, "INSERT INTO w VALUES (2)", 0, NULL, &in, &ticket[2])
		     : rc;
	is_int(rc, 0, "three statements, the second with little time, on the way");
	is_int(broker_commit(&tx, 0), BROKER_E_TX_ABORTED, "the second was too late: no commit");
	for (int i = 0; i < 3; i++) {
		(void)!broker_collect(t.b, ticket[i], -1, NULL, NULL);
	}
	is_int(number("SELECT count(*) FROM w"), 0, "and nothing of it is there");
}

static void test_readonly_in_a_lease(void)
{
	struct broker_call ro = {.flags = BROKER_READONLY}, in = {0};
	struct broker_lease *l = NULL;
	uint64_t a = 0, b = 0;
	int rc = broker_lease(t.b, &ro, &l);

	in.lease = l;
	rc = rc == 0 ? broker_submit(t.b, "SELECT 1", 0, NULL, &in, &a) : rc;
	rc = rc == 0 ? broker_submit(t.b, "INSERT INTO w VALUES (1)", 0, NULL, &in, &b) : rc;
	is_int(rc, 0, "a write behind a read in a read-only lease, pipelined");
	is_int(broker_collect(t.b, a, -1, NULL, NULL), 0, "the read is answered");
	is_int(broker_collect(t.b, b, -1, NULL, NULL), BROKER_E_DATABASE, "the write fails");
	is_str(case_sqlstate(t.b), "25006", "as a write in a read-only transaction");
	broker_release(&l);
	is_int(number("SELECT count(*) FROM w"), 0, "nothing was written");
}

#define SESSIONS "pg_stat_activity WHERE application_name = 'shmbroker'"

/* A session that was begun when the database took no writes, which it does again. */
static void test_session_that_takes_no_writes(void)
{
	int64_t old = number("SELECT pg_backend_pid()");

	pg_do(t.pg, "ALTER DATABASE postgres SET default_transaction_read_only = on");
	pg_do(t.pg, "SELECT pg_terminate_backend(pid) FROM " SESSIONS);
	ok(wait_until(pg_int(t.pg, "SELECT count(*) FROM " SESSIONS " AND pid <> %lld",
			      (long long)old) == 1, SOON_MS),
		"a connection is made while the database takes no writes");
	pg_do(t.pg, "ALTER DATABASE postgres RESET default_transaction_read_only");
	is_int(case_run(t.b, NULL, "INSERT INTO w VALUES (250)"), 0,
		"a write goes to a better one");
	is_int(case_run(t.b, NULL, "INSERT INTO w VALUES (250)"), 0, "and the next");
	is_int(number("SELECT count(*) FROM w WHERE a = 250"), 2, "each was done once");
}

/* Who makes his own statement read-only is no reason to make a new connection. */
static void test_own_doing_keeps_the_session(void)
{
	int64_t pid = number("SELECT pg_backend_pid()");
	struct broker_call in = {0};

	is_int(case_run(t.b, &reads, "INSERT INTO w VALUES (1)"), BROKER_E_DATABASE,
		"a write that was declared a read");
	is_int(broker_begin(t.b, &reads, &in.lease), 0, "a read-only transaction");
	is_int(case_run(t.b, &in, "INSERT INTO w VALUES (1)"), BROKER_E_DATABASE, "that writes");
	broker_rollback(&in.lease);
	is_int(broker_begin(t.b, NULL, &in.lease), 0, "a transaction");
	is_int(case_run(t.b, &in, "SET TRANSACTION READ ONLY"), 0, "that makes itself read-only");
	is_int(case_run(t.b, &in, "INSERT INTO w VALUES (1)"), BROKER_E_DATABASE, "and writes");
	broker_rollback(&in.lease);
	is_int(broker_lease(t.b, NULL, &in.lease), 0, "a lease");
	ok(case_run(t.b, &in, "BEGIN READ ONLY") == 0 &&
			case_run(t.b, &in, "INSERT INTO w VALUES (1)") == BROKER_E_DATABASE &&
			case_run(t.b, &in, "ROLLBACK") == 0,
		"that does the same");
	is_int(case_run(t.b, &in, "SET default_transaction_read_only = on"), 0, "for good");
	is_int(case_run(t.b, &in, "INSERT INTO w VALUES (1)"), BROKER_E_DATABASE, "and writes");
	broker_release(&in.lease);
	pg_do(t.pg, "CREATE SEQUENCE s");
	is_int(case_run(t.b, NULL,
		       "SELECT set_config('transaction_read_only', 'on', true), nextval('s')"),
		BROKER_E_DATABASE, "a statement that makes itself read-only");
	is_str(case_sqlstate(t.b), "25006", "is refused like the others");
	is_int(number("SELECT pg_backend_pid()"), pid, "and the connection stays");
}

static void test_server_side_timeout_is_not_repeated(void)
{
	int64_t sent;

	is_int(case_run(t.b, NULL, "ALTER ROLE CURRENT_USER SET statement_timeout = '300ms'"), 0,
		"the server cancels after 300 ms");
	pg_do(t.pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
		    "WHERE application_name = 'shmbroker'");
	ok(wait_until(
		   strcmp(case_text(t.b, &reads, "SHOW statement_timeout", 0, NULL), "300ms") == 0,
		   SOON_MS),
		"on new connections");
	sent = broker_metric(t.proc, "broker_statements_sent_total");
	is_int(case_run(t.b, &reads, "SELECT pg_sleep(20)"), BROKER_E_CANCELLED,
		"a read is cancelled");
	is_int(broker_metric(t.proc, "broker_statements_sent_total") - sent, 1,
		"once, and not sent again");
	is_int(case_run(t.b, NULL, "ALTER ROLE CURRENT_USER RESET statement_timeout"), 0,
		"as before");
	pg_do(t.pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
		    "WHERE application_name = 'shmbroker'");
	ok(wait_until(strcmp(case_text(t.b, &reads, "SHOW statement_timeout", 0, NULL), "0") == 0,
		   SOON_MS),
		"and again");
}

/* A worker that does not read its stream dies: its connection serves the next at once. */
static void test_stalled_reader_dies(void)
{
	pid_t pid = spawn_fork();
	int64_t start;

	if (pid == 0) {
		struct broker_call c = {
			.flags = BROKER_READONLY | BROKER_STREAM, .timeout_ms = 60000};
		struct broker *b = case_attach(t.proc);
		struct broker_result *r;

		if (broker_exec(b, "SELECT repeat('x', 1000) FROM generate_series(1, 200000)", 0,
			    NULL, &c, &r) == 0) {
			raise(SIGKILL);
		}
		_exit(1);
	}
	(void)spawn_wait(pid, SOON_MS, NULL);
	start = wait_clock_ms();
	is_int(case_run(t.b, NULL, "SELECT 1"), 0, "the next is served");
	ok(wait_clock_ms() - start < 15000, "before a connection that is stuck would be closed");
	is_int(broker_log_count(t.proc, "did not end when it was cancelled"), 0, "none was stuck");
}

static void test_stop_with_waiters(void)
{
	struct broker *other = case_attach(t.proc);
	uint64_t running = 0, waiting = 0;
	int rc = broker_submit(
		t.b, "INSERT INTO w SELECT 1 FROM pg_sleep(3)", 0, NULL, NULL, &running);

	ok(rc == 0 && wait_until(
			      pg_int(t.pg, "SELECT count(*) FROM pg_stat_activity WHERE state = "
					   "'active' AND query LIKE 'INSERT INTO w SELECT%%'") == 1,
			      SOON_MS),
		"a write runs");
	rc = broker_submit(other, "INSERT INTO w VALUES (2)", 0, NULL, NULL, &waiting);
	is_int(rc, 0, "another waits for the connection");
	is_int(broker_collect(other, waiting, 200, NULL, NULL), BROKER_E_PENDING, "it does wait");
	kill(broker_pid(t.proc), SIGTERM);
	is_int(broker_collect(t.b, running, -1, NULL, NULL), 0, "what runs may end");
	is_int(broker_collect(other, waiting, -1, NULL, NULL), BROKER_E_SHUTDOWN,
		"what waits is told");
	is_int(broker_error(other)->outcome, BROKER_NOT_DONE, "that it was not done");
	broker_detach(&other);
}

int main(void)
{
	static const char *const settings[] = {"pool main.max_size=1", NULL};

	t = case_start(NULL, settings);
	is_int(case_run(t.b, NULL, "CREATE TABLE w (a int)"), 0, "a table");
	test_session_state();
	test_failure_at_the_end_of_a_group();
	test_lost_statement_spoils_its_transaction();
	test_readonly_in_a_lease();
	test_session_that_takes_no_writes();
	test_own_doing_keeps_the_session();
	test_server_side_timeout_is_not_repeated();
	test_stalled_reader_dies();
	test_stop_with_waiters();
	case_end(&t);
	return done_testing();
}
