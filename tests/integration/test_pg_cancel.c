/* SPDX-License-Identifier: MIT */
/*
 * test_pg_cancel.c - deadlines and cancels on PostgreSQL: they end what they are meant for,
 * whatever state it is in, and nothing else.
 */
#include "pg_case.h"
#include "spawn.h"

#include <signal.h>
#include <unistd.h>

static void test_deadline(struct broker *b)
{
	struct broker_call call = {.timeout_ms = 200};
	int64_t before = wait_clock_ms();

	is_int(case_run(b, &call, "SELECT pg_sleep(60)"), BROKER_E_TIMEOUT, "a deadline passes");
	is_int(broker_error(b)->outcome, BROKER_NOT_DONE, "known not done");
	ok(wait_clock_ms() - before < 200 + WAIT_NOISE_MS, "soon");
	is_str(case_text(b, NULL, "SELECT 1", 0, NULL), "1", "the next statement runs");
}

static void test_cancel(struct pg_case *t)
{
	uint64_t ticket;
	int rc;

	is_int(broker_submit(t->b, "SELECT pg_sleep(60)", 0, NULL, NULL, &ticket), 0, "submit");
	ok(wait_until(
		   pg_int(t->pg, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND "
				 "query LIKE 'SELECT pg_sleep%%'") == 1,
		   60000),
		"it runs");
	is_int(broker_cancel(t->b, ticket), 0, "cancel");
	rc = broker_collect(t->b, ticket, 60000, NULL, NULL);
	is_int(rc, BROKER_E_CANCELLED, "it is cancelled");
	is_str(case_sqlstate(t->b), "57014", "by the server");
}

static void test_cancel_in_transaction(struct pg_case *t)
{
	struct broker_lease *l;
	struct broker_call call = {0};

	is_int(case_run(t->b, NULL, "CREATE TABLE kept(x int)"), 0, "create");
	is_int(broker_begin(t->b, NULL, &l), 0, "a transaction");
	call.lease = l;
	is_int(case_run(t->b, &call, "INSERT INTO kept VALUES (1)"), 0, "writes");
	is_int(broker_savepoint(l), 0, "a savepoint");
	call.timeout_ms = 200;
	is_int(case_run(t->b, &call, "SELECT pg_sleep(60)"), BROKER_E_TIMEOUT, "a deadline passes");
	call.timeout_ms = 0;
	is_int(broker_savepoint_rollback(l), 0, "undone");
	is_int(case_run(t->b, &call, "INSERT INTO kept VALUES (2)"), 0, "the transaction goes on");
	is_int(broker_commit(&l, 0), 0, "and commits");
	is_str(case_text(t->b, NULL, "SELECT count(*) FROM kept", 0, NULL), "2", "both writes");
}

/* A statement in a lock wait, of a worker that dies. */
static void test_dead_worker(struct pg_case *t)
{
	PGconn *blocker = pg_connect(t->pg);
	pid_t child;

	is_int(case_run(t->b, NULL, "CREATE TABLE lk(x int)"), 0, "create");
	PQclear(PQexec(blocker, "BEGIN; LOCK TABLE lk"));
	child = spawn_fork();
	if (child == 0) {
		struct broker *b = case_attach(t->proc);
		struct broker_lease *l;

		(void)!broker_begin(b, NULL, &l);
		(void)!case_run(
			b, &(struct broker_call){.lease = l}, "INSERT INTO kept VALUES (3)");
		(void)!case_run(b, &(struct broker_call){.lease = l}, "INSERT INTO lk VALUES (1)");
		_exit(0);
	}
	ok(wait_until(pg_int(t->pg, "SELECT count(*) FROM pg_stat_activity WHERE "
				    "wait_event_type = 'Lock'") == 1,
		   60000),
		"a worker waits for a lock");
	kill(child, SIGKILL);
	spawn_wait(child, 60000, NULL);
	ok(wait_until(
		   pg_int(t->pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
				 "'shmbroker' AND (state LIKE 'idle in%%' OR wait_event_type = "
				 "'Lock')") == 0,
		   60000),
		"it dies, and its transaction with it");
	PQfinish(blocker);
	is_str(case_text(t->b, NULL, "SELECT count(*) FROM kept", 0, NULL), "2", "without a trace");
}

/* Cancels at random moments, on few connections, next to statements of others that must not be hit.
 */
static void test_strangers(struct pg_case *t)
{
	struct broker *others[4];
	uint64_t ticket[4];
	unsigned hit = 0, cancelled = 0, done = 0;

	for (int i = 0; i < 4; i++) {
		others[i] = case_attach(t->proc);
	}
	for (int round = 0; round < 300; round++) {
		uint64_t victim;
		int rc;

		if (broker_submit(t->b, "SELECT pg_sleep(0.002)", 0, NULL,
			    &(struct broker_call){.flags = round % 2 ? BROKER_READONLY : 0},
			    &victim) < 0) {
			ok(false, "submit: %s", broker_error(t->b)->message);
		}
		for (int i = 0; i < 4; i++) {
			if (broker_submit(others[i], i % 2 ? "SELECT pg_sleep(0.001)" : "SELECT 1",
				    0, NULL,
				    &(struct broker_call){.flags = i < 2 ? BROKER_READONLY : 0},
				    &ticket[i]) < 0) {
				ok(false, "submit: %s", broker_error(others[i])->message);
			}
		}
		for (volatile int spin = 0; spin < round * 3000 % 500000; spin++) {
		}
		(void)!broker_cancel(t->b, victim);
		for (int i = 0; i < 4; i++) {
			hit += broker_collect(others[i], ticket[i], 60000, NULL, NULL) < 0;
		}
		rc = broker_collect(t->b, victim, 60000, NULL, NULL);
		cancelled += rc == BROKER_E_CANCELLED;
		done += rc == 0;
	}
	is_int(hit, 0, "no stranger was hit");
	is_int(cancelled + done, 300, "each was cancelled (%u) or was faster (%u)", cancelled,
		done);
	ok(cancelled > 0, "some were cancelled");
	for (int i = 0; i < 4; i++) {
		broker_detach(&others[i]);
	}
}

/* A server that hangs takes cancels and does not act on them: nobody waits for it. */
static void test_frozen(struct pg_case *t)
{
	struct broker *others[12];
	uint64_t ticket[12];
	int64_t before;
	struct broker_call call = {.timeout_ms = 300};

	for (int i = 0; i < 12; i++) {
		others[i] = case_attach(t->proc);
	}
	pg_freeze(t->pg);
	before = wait_clock_ms();
	for (int i = 0; i < 12; i++) {
		is_int(broker_submit(others[i], "INSERT INTO kept VALUES (9)", 0, NULL, &call,
			       &ticket[i]),
			0, "submit to a server that hangs");
	}
	for (int i = 0; i < 12; i++) {
		int rc = broker_collect(others[i], ticket[i], 60000, NULL, NULL);

		ok(rc == BROKER_E_TIMEOUT || rc == BROKER_E_OUTCOME_UNKNOWN, "it is given up: %d",
			rc);
	}
	ok(wait_clock_ms() - before < 20000, "in time");
	pg_thaw(t->pg);
	call.timeout_ms = 60000;
	for (int i = 0; i < 50; i++) {
		if (case_run(others[i % 12], &call, "SELECT 1") < 0) {
			ok(false, "%s", broker_error(others[i % 12])->message);
		}
	}
	ok(true, "what comes afterwards is not hit");
	for (int i = 0; i < 12; i++) {
		broker_detach(&others[i]);
	}
}

static void test_cancel_copy(struct pg_case *t)
{
	struct broker_lease *l;
	struct broker_copy *c;
	struct broker_call call = {0};

	is_int(broker_lease(t->b, NULL, &l), 0, "a lease");
	call.lease = l;
	call.timeout_ms = 2000;
	is_int(broker_copy_in(t->b, "COPY kept FROM STDIN", &call, &c), 0, "COPY in");
	is_int(broker_copy_write(c, "5\n", 2), 0, "a row");
	ok(wait_until(
		   pg_int(t->pg, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND "
				 "query LIKE 'COPY%%'") == 0,
		   60000),
		"a deadline passes while the server waits for data");
	is_int(broker_copy_end(&c, NULL, NULL), BROKER_E_TIMEOUT, "the worker learns it");
	call.timeout_ms = 0;
	is_str(case_text(t->b, &call, "SELECT count(*) FROM kept", 0, NULL), "2",
		"the session is in order and nothing was copied");
	broker_release(&l);
}

int main(void)
{
	struct pg_case t;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(NULL, (const char *const[]){"pool main.max_size=2", NULL});
	test_deadline(t.b);
	test_cancel(&t);
	test_cancel_in_transaction(&t);
	test_dead_worker(&t);
	test_strangers(&t);
	test_cancel_copy(&t);
	test_frozen(&t);
	case_end(&t);
	return done_testing();
}
