/* SPDX-License-Identifier: MIT */
/*
 * test_deadline.c - every call ends with its deadline, says what is known, and leaves the
 * connection usable: statements that run, wait, or are not read by their worker, leases that are
 * waited for, COMMIT; on the scripted database and on PostgreSQL.
 */
#include "brokerproc.h"
#include "pg.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LATE_MS 100 /* what we promise */
#define SOON_MS 30000
#define CONNECTIONS 2

/* The same in the words of each database. */
struct words {
	const char *name;
	const char *quick, *slow_read, *slow_write, *large;
};

static const struct words fake = {.name = "fake",
	.quick = "who",
	.slow_read = "sleep 20000",
	.slow_write = "sleep 20001",
	.large = "rows 20000 400"};
static const struct words postgres = {.name = "PostgreSQL",
	.quick = "SELECT 1",
	.slow_read = "SELECT pg_sleep(20)",
	.slow_write = "INSERT INTO deadline (a) SELECT 1 FROM pg_sleep(20)",
	.large = "SELECT n, repeat('x', 400) FROM generate_series(1, 20000) n"};

struct fixture {
	const struct words *sql;
	struct broker_proc *proc;
	struct broker *b, *other[CONNECTIONS];
	int64_t worst; /* milliseconds after a deadline */
};

/* -- helpers ----------------------------------------------------------------------------------- */

static struct broker *attach(struct broker_proc *p)
{
	struct broker_options opt = {
		.path = broker_socket(p), .timeout_ms = SOON_MS, .result_kib = 64};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static int64_t metric(struct fixture *f, const char *name)
{
	const char *argv[] = {getenv("BROKERSTAT_BIN"), "-1", "-n", broker_socket(f->proc), NULL};
	char *text = spawn_output(argv, NULL, NULL);
	const char *at = strstr(text, name);
	int64_t v;

	at = at != NULL ? strchr(at, ' ') : NULL;
	v = at != NULL ? atoll(at) : -1;
	free(text);
	return v;
}

/* All connections are free, as far as counters can tell, and can be used. */
static void check_usable(struct fixture *f, const char *what)
{
	struct broker_lease *l[CONNECTIONS];
	unsigned good = 0;

	ok(wait_until(metric(f, "broker_leases_active{") == 0 &&
			      metric(f, "broker_statements_in_flight{") == 0,
		   SOON_MS),
		"%s: nothing is held", what);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		struct broker_call call = {.timeout_ms = SOON_MS};

		l[i] = NULL;
		if (broker_begin(f->b, &call, &l[i]) == 0) {
			call.lease = l[i];
			good += broker_exec(f->b, f->sql->quick, 0, NULL, &call, NULL) == 0;
		}
	}
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		broker_rollback(&l[i]);
	}
	is_int(good, CONNECTIONS, "%s: every connection is usable", what);
}

/* The call that ended with rc was started at `start` with `timeout` milliseconds. */
static void check_end(struct fixture *f, int rc, int64_t start, int64_t timeout, int code,
	enum broker_outcome outcome, const char *what)
{
	int64_t late = wait_clock_ms() - start - timeout;
	const struct broker_error *e = broker_error(f->b);

	if (!ok(rc == code && e->outcome == outcome, "%s, %s: %s", f->sql->name, what,
		    broker_strerror(code))) {
		diag("  %d %s, outcome %d", rc, e->message, e->outcome);
	}
	if (!ok(late >= -5 && late <= LATE_MS + WAIT_NOISE_MS, "%s, %s: in time", f->sql->name,
		    what)) {
		diag("  %lld ms after its deadline", (long long)late);
	}
	f->worst = late > f->worst ? late : f->worst;
}

/* The same for what may write.  On a busy machine the broker's word may come when the library has
 * stopped waiting for it: then the outcome is not known, and has to be called that. */
static void check_write_end(
	struct fixture *f, int rc, int64_t start, int64_t timeout, const char *what)
{
	if (rc == BROKER_E_OUTCOME_UNKNOWN) {
		diag("the answer took its time");
		check_end(f, rc, start, timeout, rc, BROKER_UNKNOWN, what);
	} else {
		check_end(f, rc, start, timeout, BROKER_E_TIMEOUT, BROKER_NOT_DONE, what);
	}
}

static int run(struct fixture *f, const char *sql, struct broker_call *call, int64_t *start)
{
	*start = wait_clock_ms();
	return broker_exec(f->b, sql, 0, NULL, call, NULL);
}

/* -- statements that run ----------------------------------------------------------------------- */

static void test_running(struct fixture *f)
{
	struct broker_call read = {.flags = BROKER_READONLY, .timeout_ms = 300};
	struct broker_call write = {.timeout_ms = 300};
	int64_t start;
	int rc = run(f, f->sql->slow_read, &read, &start);

	check_end(f, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "a read that runs");
	ok(broker_error(f->b)->retry_safe, "a read that runs: safe to repeat");
	rc = run(f, f->sql->slow_write, &write, &start);
	check_write_end(f, rc, start, 300, "a write that runs");
	check_usable(f, "statements that run");
}

static void test_transaction(struct fixture *f)
{
	struct broker_call call = {0};
	struct broker_lease *l;
	int64_t start;
	int rc = broker_begin(f->b, NULL, &l);

	is_int(rc, 0, "begin");
	call.lease = l;
	is_int(run(f, f->sql->quick, &call, &start), 0, "a statement of a transaction");
	call.timeout_ms = 300;
	rc = run(f, f->sql->slow_write, &call, &start);
	check_end(f, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "one that runs too long");
	rc = broker_commit(&l, SOON_MS);
	is_int(rc, BROKER_E_TX_ABORTED, "the transaction cannot be committed any more");
	check_usable(f, "a transaction");
}

/* COMMIT waits for a statement that was submitted before it. */
static void test_commit(struct fixture *f)
{
	struct broker_call call = {.timeout_ms = 10000};
	struct broker_lease *l;
	uint64_t ticket;
	int64_t start;
	int rc = broker_begin(f->b, NULL, &l);

	is_int(rc, 0, "begin");
	call.lease = l;
	is_int(broker_submit(f->b, f->sql->slow_write, 0, NULL, &call, &ticket), 0, "submit");
	start = wait_clock_ms();
	rc = broker_commit(&l, 300);
	check_write_end(f, rc, start, 300, "COMMIT behind a statement");
	ok(l == NULL, "the lease is gone");
	ok(broker_collect(f->b, ticket, 15000, NULL, NULL) < 0, "and what ran in it has failed");
	is_int(broker_error(f->b)->outcome, BROKER_NOT_DONE, "it is rolled back");
	check_usable(f, "COMMIT");
}

static void test_collect(struct fixture *f)
{
	struct broker_call call = {.flags = BROKER_READONLY, .timeout_ms = 600};
	uint64_t ticket;
	int64_t start = wait_clock_ms();
	int rc;

	is_int(broker_submit(f->b, f->sql->slow_read, 0, NULL, &call, &ticket), 0, "submit");
	rc = broker_collect(f->b, ticket, 200, NULL, NULL);
	check_end(f, rc, start, 200, BROKER_E_PENDING, BROKER_NOT_DONE, "collect for a moment");
	rc = broker_collect(f->b, ticket, -1, NULL, NULL);
	check_end(f, rc, start, 600, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "collect to the end");
	check_usable(f, "collect");
}

/* -- statements and leases that wait ----------------------------------------------------------- */

static void hold_all(struct fixture *f, struct broker_lease **held)
{
	for (int i = 0; i < CONNECTIONS; i++) {
		struct broker_call call = {.tag = "/holder"};

		if (broker_lease(f->other[i], &call, &held[i]) < 0) {
			bail_out("lease: %s", broker_error(f->other[i])->message);
		}
		call.lease = held[i];
		if (broker_exec(f->other[i], f->sql->quick, 0, NULL, &call, NULL) < 0) {
			bail_out("hold: %s", broker_error(f->other[i])->message);
		}
	}
}

static void check_text(struct fixture *f, const char *what)
{
	const char *m = broker_error(f->b)->message;
	char holder[64];

	snprintf(holder, sizeof(holder), "held by pid %d tag /holder", (int)getpid());
	if (!ok(strstr(m, "total=2 active=2 idle=0 waiting=1") != NULL && strstr(m, holder) != NULL,
		    "%s: the message says who has the connections", what)) {
		diag("  %s", m);
	}
}

static void test_waiting(struct fixture *f)
{
	struct broker_lease *held[CONNECTIONS], *l;
	struct broker_call read = {.flags = BROKER_READONLY, .timeout_ms = 300};
	struct broker_call write = {.timeout_ms = 300}, in = {.timeout_ms = 5000};
	int64_t start;
	int rc;

	hold_all(f, held);
	rc = run(f, f->sql->quick, &read, &start);
	check_end(f, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "a read that waits");
	check_text(f, "a read that waits");
	rc = run(f, f->sql->quick, &write, &start);
	check_end(f, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "a write that waits");
	check_text(f, "a write that waits");
	is_int(broker_begin(f->b, &write, &l), 0, "begin does not wait");
	in.lease = l;
	rc = run(f, f->sql->quick, &in, &start);
	check_end(
		f, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "a lease that is waited for");
	check_text(f, "a lease that is waited for");
	is_int(run(f, f->sql->quick, &in, &start), BROKER_E_TIMEOUT, "and stays refused");
	broker_rollback(&l);
	for (int i = 0; i < CONNECTIONS; i++) {
		broker_release(&held[i]);
	}
	check_usable(f, "waiting");
}

/* -- results that are not read ----------------------------------------------------------------- */

static void test_not_read(struct fixture *f)
{
	struct broker_call call = {.flags = BROKER_READONLY | BROKER_STREAM, .timeout_ms = 500};
	struct broker_result *r;
	int64_t start = wait_clock_ms();
	int rc, rows = 0;

	if (!ok(broker_exec(f->b, f->sql->large, 0, NULL, &call, &r) == 0 && broker_next(r) == 1,
		    "%s: a large result begins", f->sql->name)) {
		diag("  %s", broker_error(f->b)->message);
		return;
	}
	ok(metric(f, "broker_statements_in_flight{") == 1 || wait_clock_ms() - start > 500,
		"it waits for its reader");
	ok(wait_until(metric(f, "broker_statements_in_flight{") == 0, SOON_MS),
		"until its deadline, although nobody reads");
	while ((rc = broker_next(r)) == 1) {
		rows++;
	}
	is_int(rc, BROKER_E_TIMEOUT, "reading on finds the rows that came and then the time-out");
	ok(rows > 0 && rows < 19999, "some rows had come");
	broker_result_free(&r);
	check_usable(f, "a result that is not read");
}

/* -- fixtures ---------------------------------------------------------------------------------- */

static struct fixture begin(const struct words *sql, const char *url, const char *acquire)
{
	const char *settings[] = {"pool main.max_size=2", acquire, NULL};
	struct fixture f = {.sql = sql, .proc = broker_start(url, settings)};

	f.b = attach(f.proc);
	for (int i = 0; i < CONNECTIONS; i++) {
		f.other[i] = attach(f.proc);
	}
	return f;
}

static void end(struct fixture *f)
{
	diag("%s: the worst call was back %lld ms after its deadline (%d are promised)",
		f->sql->name, (long long)f->worst, LATE_MS);
	broker_detach(&f->b);
	for (int i = 0; i < CONNECTIONS; i++) {
		broker_detach(&f->other[i]);
	}
	is_int(broker_free(&f->proc), 0, "the broker ends well");
}

static void test_all(struct fixture *f)
{
	test_running(f);
	test_transaction(f);
	test_commit(f);
	test_collect(f);
	test_waiting(f);
	test_not_read(f);
}

/* The pool has a limit of its own. */
static void test_acquire_timeout(const char *setting, int64_t timeout_ms, int64_t expected_ms)
{
	struct fixture f = begin(&fake, "fake:", setting);
	struct broker_call call = {.timeout_ms = timeout_ms};
	struct broker_lease *held[CONNECTIONS];
	int64_t start;
	int rc;

	hold_all(&f, held);
	rc = run(&f, f.sql->quick, &call, &start);
	check_end(&f, rc, start, expected_ms, BROKER_E_TIMEOUT, BROKER_NOT_DONE, setting);
	check_text(&f, setting);
	for (int i = 0; i < CONNECTIONS; i++) {
		broker_release(&held[i]);
	}
	check_usable(&f, setting);
	end(&f);
}

/* A server that stands still confirms nothing. */
static void test_frozen(struct fixture *f, struct pg_cluster *pg)
{
	struct broker_call read = {.flags = BROKER_READONLY, .timeout_ms = 300};
	struct broker_call write = {.timeout_ms = 300};
	int64_t start;
	int rc;

	pg_freeze(pg);
	rc = run(f, f->sql->slow_write, &write, &start);
	check_end(f, rc, start, 300, BROKER_E_OUTCOME_UNKNOWN, BROKER_UNKNOWN,
		"a write on a server that stands still");
	rc = run(f, f->sql->slow_read, &read, &start);
	check_end(f, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE,
		"a read on a server that stands still");
	pg_thaw(pg);
	check_usable(f, "a server that went on");
}

int main(void)
{
	struct fixture f = begin(&fake, "fake:", "pool main.acquire_timeout=30s");
	struct pg_cluster *pg;

	test_all(&f);
	end(&f);
	test_acquire_timeout("pool main.acquire_timeout=300ms", 10000, 300);
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	pg = pg_start(NULL);
	pg_do(pg, "CREATE TABLE deadline (a BIGINT)");
	f = begin(&postgres, pg_url(pg), "pool main.acquire_timeout=30s");
	test_all(&f);
	test_frozen(&f, pg);
	is_int(pg_int(pg, "SELECT count(*) FROM deadline"), 0, "nothing that timed out was done");
	end(&f);
	pg_remove(&pg);
	return done_testing();
}
