/* SPDX-License-Identifier: MIT */
/*
 * test_slow_aside.c - statements that are known to be slow leave one connection of each server to
 * the others.
 *
 * Judged by the order in which things end, not by times: quick statements are answered while slow
 * ones, that came before them, still wait for a connection.
 */
#include "behave.h"
#include "cluster.h"
#include "pg_case.h"

#define SLOW 5
#define QUICK 20
#define WAIT_MS 60000
#define PATIENT "pool main.acquire_timeout=60s" /* slow ones wait for each other */

static const char sleeps[] = "SELECT pg_sleep($1::float8)";
static const struct broker_call reads = {.flags = BROKER_READONLY, .timeout_ms = WAIT_MS};

/* A statement that is slow: for a little or, until it is cancelled, for longer than the test takes.
 */
struct slow {
	const char *sql;
	struct broker_value little, much;
};

static void submit_slow(struct broker *b, const char *sql, struct broker_value v, uint64_t *ticket)
{
	for (int i = 0; i < SLOW; i++) {
		if (broker_submit(b, sql, 1, &v, &reads, &ticket[i]) < 0) {
			bail_out("%s", broker_error(b)->message);
		}
	}
}

static int end_with(struct broker *b, const uint64_t *ticket, bool cancel, int code)
{
	int n = 0;

	for (int i = 0; i < SLOW; i++) {
		if (cancel) {
			(void)!broker_cancel(b, ticket[i]);
		}
		n += broker_collect(b, ticket[i], WAIT_MS, NULL, NULL) == code;
	}
	return n;
}

/* Twice, so that it is known; the second time it runs as what it is. */
static void learn(struct broker *b, const struct slow *s, const char *quick)
{
	for (int i = 0; i < 2; i++) {
		if (broker_exec(b, s->sql, 1, &s->little, &reads, NULL) < 0 ||
			broker_exec(b, quick, 0, NULL, &reads, NULL) < 0) {
			bail_out("%s", broker_error(b)->message);
		}
	}
}

static void check(struct broker *b, const char *name, const struct slow *s, const char *quick)
{
	uint64_t ticket[SLOW];
	int good = 0;

	learn(b, s, quick);
	submit_slow(b, s->sql, s->little, ticket);
	is_int(end_with(b, ticket, false, 0), SLOW, "%s: slow statements are answered", name);
	submit_slow(b, s->sql, s->much, ticket);
	for (int i = 0; i < QUICK; i++) {
		good += broker_exec(b, quick, 0, NULL, &reads, NULL) == 0;
	}
	is_int(good, QUICK, "%s: quick ones are as well", name);
	is_int(broker_collect(b, ticket[SLOW - 1], 0, NULL, NULL), BROKER_E_PENDING,
		"%s: while slow ones that came before them still wait", name);
	is_int(end_with(b, ticket, true, BROKER_E_CANCELLED), SLOW, "%s: until they are cancelled",
		name);
}

static void test_postgresql(void)
{
	struct pg_case t =
		case_start(NULL, (const char *const[]){"pool main.max_size=2", PATIENT, NULL});

	const struct slow s = {sleeps, broker_double(0.3), broker_double(600)};

	check(t.b, "PostgreSQL", &s, "SELECT 1");
	case_end(&t);
}

static void test_sqlite(void)
{
	struct broker_proc *p =
		broker_start(NULL, (const char *const[]){"pool main.readers=2", PATIENT, NULL});
	struct broker *b = case_attach(p);
	const struct slow s = {
		"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT $1) "
		"SELECT count(*) FROM c",
		broker_int64(400000), broker_int64(INT64_C(1) << 40)};

	check(b, "SQLite", &s, "SELECT 1");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
}

/* -- several servers --------------------------------------------------------------------------- */

static struct broker_proc *start_on(struct cluster *c)
{
	char *url[3];
	const char *settings[] = {NULL, NULL, NULL, "pool main.servers=a, b, c",
		"pool main.max_size=2", "pool main.read_from=any", PATIENT, NULL};
	struct broker_proc *p;

	for (unsigned i = 0; i < 3; i++) {
		url[i] = scratch_format("server %s.url=host=%s dbname=postgres user=postgres",
			cluster_name(i), pg_host(cluster_server(c, i)));
		settings[i] = url[i];
	}
	p = broker_start(NULL, settings);
	for (unsigned i = 0; i < 3; i++) {
		free(url[i]);
	}
	return p;
}

static int64_t sleeping(struct cluster *c)
{
	int64_t n = 0;

	for (unsigned i = 0; i < 3; i++) {
		n += pg_int(cluster_server(c, i),
			"SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
	}
	return n;
}

/* A primary and two standbys with two connections each: three slow reads at once, and three for the
 * others. */
static void test_standbys(void)
{
	struct cluster *c = cluster_start(&(struct cluster_options){.standbys = 2});
	struct broker_proc *p = start_on(c);
	struct broker *b = case_attach(p);
	struct broker_value little = broker_double(0.02);
	uint64_t ticket[SLOW];
	int good = 0;

	ok(wait_until(behave_conns(p, "idle") == 6, WAIT_MS), "three servers, six connections");
	for (int i = 0; i < 6; i++) { /* it is slow, the other is not */
		good += broker_exec(b, sleeps, 1, &little, &reads, NULL) == 0;
		good += broker_exec(b, "SELECT 1", 0, NULL, &reads, NULL) == 0;
	}
	is_int(good, 12, "what is slow is known");
	submit_slow(b, sleeps, broker_double(600), ticket);
	ok(wait_until(sleeping(c) == 3, WAIT_MS), "slow reads have one connection of each server");
	good = 0;
	for (int i = 0; i < QUICK; i++) {
		good += broker_exec(b, "SELECT 1", 0, NULL, &reads, NULL) == 0;
	}
	is_int(good, QUICK, "and quick ones pass those that wait for more");
	is_int(sleeping(c), 3, "which wait still");
	is_int(end_with(b, ticket, true, BROKER_E_CANCELLED), SLOW, "until they are cancelled");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	cluster_remove(&c);
}

int main(void)
{
	test_sqlite();
	if (pg_available()) {
		test_postgresql();
		test_standbys();
	} else {
		skip("no PostgreSQL server is installed");
	}
	return done_testing();
}
