/* SPDX-License-Identifier: MIT */
/*
 * test_terminations.c - an administrator ends a thousand backends, one after the other and at
 * random, under workers that write and read.  Each costs one statement an error at most, what was
 * acknowledged is there, reads do not notice, and the pool comes back to min_idle by itself, with
 * no traffic.  With TEST_QUICK fewer.
 */
#include "crew.h"
#include "ledger.h"
#include "pg_case.h"

#include <stdatomic.h>

#define WORKERS 16
#define MAX_SIZE 8
#define MIN_IDLE 5
#define CALL_MS 20000
#define SOON_MS 60000
#define READ_ENDS 3 /* so often the connection of one read is lost before its worker is told */

static const char ours[] = "application_name = 'shmbroker' AND backend_type = 'client backend'";

/* -- workers ----------------------------------------------------------------------------------- */

/* What a worker may be told whose backend was ended. */
static bool expected(const struct broker_error *e)
{
	return strcmp(e->sqlstate, "57P01") == 0 || e->code == BROKER_E_OUTCOME_UNKNOWN ||
	       e->code == BROKER_E_TX_ABORTED || e->code == BROKER_E_LEASE;
}

static void check_code(struct crew_worker *w, const char *what, int rc)
{
	const struct broker_error *e = broker_error(w->b);

	if (rc < 0 && !expected(e)) {
		crew_surprise(w, "%s: %d %s %s", what, rc, e->sqlstate, e->message);
	}
}

static int insert(struct crew_worker *w, struct broker_lease *l, uint32_t n)
{
	struct broker_call call = {.timeout_ms = CALL_MS, .lease = l};
	struct broker_value v = broker_int64(n);

	return crew_exec(w, "INSERT INTO written (n) VALUES ($1)", 1, &v, &call, NULL);
}

static void do_write(struct crew_worker *w)
{
	uint32_t n = ledger_begin(w->ledger);
	int rc = insert(w, NULL, n);

	ledger_end(w->ledger, n, w->b, rc);
	check_code(w, "write", rc);
	w->last = rc == 0 ? n : w->last;
}

static void do_transaction(struct crew_worker *w)
{
	uint32_t n = ledger_begin(w->ledger);
	struct broker_call call = {.timeout_ms = CALL_MS};
	struct broker_lease *l;
	int rc = crew_begin(w, &call, &l);

	rc = rc == 0 ? insert(w, l, n) : rc;
	if (rc == 0) {
		rc = crew_commit(w, &l, CALL_MS);
		ledger_end(w->ledger, n, w->b, rc);
	} else {
		ledger_failed(w->ledger, n); /* whatever became of it, it was not committed */
	}
	check_code(w, "transaction", rc);
	w->last = rc == 0 ? n : w->last;
	broker_rollback(&l);
}

/*
 * The broker repeats a read whose connection is lost, and nobody notices, unless it happens so
 * often to one read that this may be its fault.
 */
static void do_read(struct crew_worker *w)
{
	struct broker_call call = {.timeout_ms = CALL_MS, .flags = BROKER_READONLY};
	struct broker_value v = broker_int64(w->last);
	struct broker_result *r;
	int64_t n = -1;
	int rc;

	if (w->last < 0) {
		return;
	}
	rc = crew_exec(w, "SELECT count(*) FROM written WHERE n = $1", 1, &v, &call, &r);
	if (rc == BROKER_E_UNAVAILABLE && broker_error(w->b)->retry_safe) {
		atomic_fetch_add((_Atomic uint64_t *)w->arg, 1);
		return;
	}
	if (rc < 0) {
		crew_surprise(w, "read: %d %s", rc, broker_error(w->b)->message);
		return;
	}
	if (broker_next(r) != 1 || broker_get_int64(r, 0, &n) < 0 || n != 1) {
		crew_surprise(w, "an acknowledged row is there %lld times", (long long)n);
	}
	broker_result_free(&r);
}

static void job(struct crew_worker *w)
{
	switch (rand_r(&w->seed) % 4) {
	case 0:
		do_write(w);
		break;
	case 1:
		do_transaction(w);
		break;
	default:
		do_read(w);
	}
}

/* -- the administrator ------------------------------------------------------------------------- */

static int64_t backends(struct pg_cluster *pg)
{
	return pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE %s", ours);
}

/* Number of backends that were told to end: one, or none if none was there. */
static unsigned end_one(struct pg_cluster *pg)
{
	return (unsigned)pg_int(pg,
		"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM "
		"(SELECT pid FROM pg_stat_activity WHERE %s ORDER BY random() LIMIT 1) one",
		ours);
}

static unsigned end_many(struct pg_cluster *pg, unsigned many)
{
	int64_t end = wait_clock_ms() + 180000;
	unsigned n = 0;

	while (n < many && wait_clock_ms() < end) {
		n += end_one(pg);
	}
	return n;
}

static void test_load(struct pg_case *t, unsigned many)
{
	struct ledger *ledger = ledger_create(2000000);
	_Atomic uint64_t *reads = crew_shared(sizeof(*reads)); /* that failed */
	struct crew *crew = crew_start(broker_socket(t->proc), WORKERS, job, ledger, reads);
	int64_t start = wait_clock_ms();
	unsigned ended = end_many(t->pg, many);
	uint64_t failed = atomic_load(&crew_board(crew)->failed);

	is_int(ended, many, "%u backends are ended under load", many);
	diag("in %lld ms", (long long)(wait_clock_ms() - start));
	ok(failed <= ended, "each costs one call an error at most");
	diag("MEASURE errors_per_termination %.3f errors", (double)failed / ended);
	crew_stop(&crew, "load");
	ok(atomic_load(reads) * READ_ENDS <= ended, "no read fails that was not ended %d times",
		READ_ENDS);
	(void)ledger_check(ledger, t->pg, "SELECT n, count(*) FROM written GROUP BY n",
		"after the terminations");
	ledger_destroy(&ledger);
}

/* Nobody asks for anything; the pool is full again all the same. */
static void test_refill(struct pg_case *t)
{
	int64_t start = wait_clock_ms(), worst = 0;
	unsigned refilled = 0, rounds = 10;

	ok(wait_until(backends(t->pg) >= MIN_IDLE, SOON_MS), "the pool has min_idle connections");
	diag("MEASURE refill_after_load %lld ms", (long long)(wait_clock_ms() - start));
	ok(wait_until(backends(t->pg) == MIN_IDLE, SOON_MS), "and closes what is more");
	for (unsigned i = 0; i < rounds; i++) {
		char *old = pg_text(t->pg,
			"SELECT string_agg(pid::text, ',') FROM pg_stat_activity "
			"WHERE %s",
			ours);

		start = wait_clock_ms();
		pg_do(t->pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE %s",
			ours);
		refilled += wait_until(pg_int(t->pg,
					       "SELECT count(*) FROM pg_stat_activity WHERE %s "
					       "AND pid NOT IN (%s)",
					       ours, old) == MIN_IDLE,
			SOON_MS);
		worst = wait_clock_ms() - start > worst ? wait_clock_ms() - start : worst;
		free(old);
	}
	is_int(refilled, rounds, "all idle connections ended, it is full again without traffic");
	diag("MEASURE refill_idle_worst %lld ms", (long long)worst);
	ok(wait_until(backends(t->pg) == MIN_IDLE, SOON_MS), "with min_idle connections, no more");
}

int main(void)
{
	bool quick = getenv("TEST_QUICK") != NULL;
	char max[40], min[40];
	const char *const settings[] = {
		max, min, "pool main.idle_timeout=10s", "pool main.acquire_timeout=20s", NULL};
	struct pg_case t;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	/* surplus connections stay for 10 s at least: too long for a quick run */
	snprintf(max, sizeof(max), "pool main.max_size=%d", quick ? MIN_IDLE : MAX_SIZE);
	snprintf(min, sizeof(min), "pool main.min_idle=%d", MIN_IDLE);
	t = case_start(NULL, settings);
	pg_do(t.pg, "SET client_min_messages = error"); /* of backends that are gone already */
	pg_do(t.pg, "CREATE TABLE written(n bigint)");
	pg_do(t.pg, "CREATE INDEX ON written(n)");
	test_load(&t, quick ? 150 : 1000);
	test_refill(&t);
	case_end(&t);
	return done_testing();
}
