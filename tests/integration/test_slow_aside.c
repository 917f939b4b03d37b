/* SPDX-License-Identifier: MIT */
/*
 * test_slow_aside.c - statements that are known to be slow leave one connection to the others.
 *
 * Judged by the order in which things end, not by times: quick statements are answered while slow
 * ones, that came before them, still wait for a connection.
 */
#include "behave.h"
#include "pg_case.h"

#define SLOW 5
#define QUICK 20
#define WAIT_MS 60000

static const struct broker_call reads = {.flags = BROKER_READONLY, .timeout_ms = WAIT_MS};

static const char sqlite_slow[] =
	"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 400000) "
	"SELECT count(*) FROM c";

/* Twice, so that it is known; the second time it runs as what it is. */
static void learn(struct broker *b, const char *slow, const char *quick)
{
	for (int i = 0; i < 2; i++) {
		if (broker_exec(b, slow, 0, NULL, &reads, NULL) < 0 ||
			broker_exec(b, quick, 0, NULL, &reads, NULL) < 0) {
			bail_out("%s", broker_error(b)->message);
		}
	}
}

static void check(struct broker *b, const char *name, const char *slow, const char *quick)
{
	uint64_t ticket[SLOW];
	int good = 0;

	learn(b, slow, quick);
	for (int i = 0; i < SLOW; i++) {
		if (broker_submit(b, slow, 0, NULL, &reads, &ticket[i]) < 0) {
			bail_out("%s", broker_error(b)->message);
		}
	}
	for (int i = 0; i < QUICK; i++) {
		good += broker_exec(b, quick, 0, NULL, &reads, NULL) == 0;
	}
	is_int(good, QUICK, "%s: quick statements are answered", name);
	is_int(broker_collect(b, ticket[SLOW - 1], 0, NULL, NULL), BROKER_E_PENDING,
		"%s: while slow ones that came before them still wait", name);
	good = 0;
	for (int i = 0; i < SLOW; i++) {
		good += broker_collect(b, ticket[i], WAIT_MS, NULL, NULL) == 0;
	}
	is_int(good, SLOW, "%s: all slow ones are answered, too", name);
}

static void test_postgresql(void)
{
	struct pg_case t = case_start(NULL, (const char *const[]){"pool main.max_size=2", NULL});

	check(t.b, "PostgreSQL", "SELECT pg_sleep(0.3)", "SELECT 1");
	case_end(&t);
}

static void test_sqlite(void)
{
	struct broker_proc *p =
		broker_start(NULL, (const char *const[]){"pool main.readers=2", NULL});
	struct broker *b = case_attach(p);

	check(b, "SQLite", sqlite_slow, "SELECT 1");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
}

int main(void)
{
	test_sqlite();
	if (pg_available()) {
		test_postgresql();
	} else {
		skip("no PostgreSQL server is installed");
	}
	return done_testing();
}
