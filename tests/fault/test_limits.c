/* SPDX-License-Identifier: MIT */
/*
 * test_limits.c - what the library and the broker say when somebody reaches a limit, and that all
 * is well again afterwards: leases, tickets, bodies, parameters, arenas, queues.
 */
#include "brokerproc.h"
#include "check.h"
#include "pg.h"
#include "shmbroker.h"
#include "spawn.h"
#include "stage.h"
#include "tap.h"
#include "wait.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TICKETS 128
#define SOON_MS 60000

static struct broker *attach_with(const struct broker_proc *p, uint32_t result_kib)
{
	struct broker_options o = {
		.path = broker_socket(p), .timeout_ms = SOON_MS, .result_kib = result_kib};
	struct broker *b;

	if (broker_attach(&o, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static int run(struct broker *b, const char *sql, int64_t timeout_ms)
{
	struct broker_call call = {.timeout_ms = timeout_ms};

	return broker_exec(b, sql, 0, NULL, &call, NULL);
}

/* -- leases ------------------------------------------------------------------------------------ */

/* A child that takes n leases, says so, and holds them. */
static pid_t start_hoarder(const struct broker_proc *p, unsigned n, _Atomic unsigned *held,
	const char *sql)
{
	pid_t pid = spawn_fork();

	if (pid == 0) {
		struct broker *b = attach_with(p, 0);
		struct broker_lease *l;

		for (unsigned i = 0; i < n; i++) {
			struct broker_call take = {.tag = "hoard"}, in = {0};

			if (broker_begin(b, &take, &l) < 0) {
				_exit(1);
			}
			in.lease = l;
			if (broker_exec(b, sql, 0, NULL, &in, NULL) < 0) {
				_exit(2);
			}
			atomic_fetch_add(held, 1);
		}
		for (;;) {
			pause();
		}
	}
	return pid;
}

static void check_starved(
	struct broker *b, const struct broker_proc *p, pid_t hoarder, const char *sql)
{
	const struct broker_error *e;
	int64_t start = wait_clock_ms();
	char holder[64];

	(void)p;
	snprintf(holder, sizeof(holder), "held by pid %d tag hoard", (int)hoarder);
	is_int(run(b, sql, 10000), BROKER_E_TIMEOUT, "others wait in vain");
	e = broker_error(b);
	ok(strstr(e->message, "no connection of pool main") != NULL &&
			strstr(e->message, "active=4") != NULL &&
			strstr(e->message, "idle=0") != NULL,
		"the message says why: %s", e->message);
	ok(strstr(e->message, holder) != NULL, "and who has the connections");
	ok(e->outcome == BROKER_NOT_DONE && e->retry_safe, "nothing was done, it may be repeated");
	start = wait_clock_ms() - start;
	ok(start >= 350 && start < 400 + WAIT_NOISE_MS * stage_slowness(),
		"after acquire_timeout (%lld ms)", (long long)start);
	start = wait_clock_ms();
	is_int(run(b, sql, 100), BROKER_E_TIMEOUT, "a shorter deadline ends earlier");
	start = wait_clock_ms() - start;
	ok(start >= 90 && start < 350 + WAIT_NOISE_MS * stage_slowness(), "(%lld ms)",
		(long long)start);
}

static void test_hoarder(const char *url, const char *write, const char *read)
{
	static const char *const settings[] = {
		"pool main.max_size=4", "pool main.acquire_timeout=400ms", NULL};
	struct broker_proc *p = broker_start(url, settings);
	struct broker *b = attach_with(p, 0);
	_Atomic unsigned *held = mmap(
		NULL, sizeof(*held), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t hoarder;
	int64_t start;
	int rc;

	diag("-- a hoarder, %s", url);
	(void)run(b, "CREATE TABLE hoard (n INTEGER)", 10000);
	hoarder = start_hoarder(p, 4, held, write);
	ok(wait_until(atomic_load(held) == 4, SOON_MS), "somebody takes every connection");
	check_starved(b, p, hoarder, read);
	(void)kill(hoarder, SIGKILL);
	start = wait_clock_ms();
	(void)spawn_wait(hoarder, SOON_MS, NULL);
	/* acquire_timeout may be over before the broker has got the time to see it */
	(void)wait_until((rc = run(b, read, 10000)) != BROKER_E_TIMEOUT, SOON_MS);
	start = wait_clock_ms() - start;
	ok(rc == 0 && start < WAIT_NOISE_MS * stage_slowness(),
		"when it dies, the others go on at once (%lld ms)", (long long)start);
	ok(wait_until(broker_metric(p, "broker_leases_active") == 0, SOON_MS), "no lease is held");
	is_int(broker_metric(p, "broker_leases_granted_total"),
		broker_metric(p, "broker_leases_released_total"), "all were given back");
	broker_detach(&b);
	munmap((void *)held, sizeof(*held));
	is_int(broker_free(&p), 0, "the broker ends well");
}

/* Leases that are taken and not used cost nothing; too many are refused, not punished. */
static void test_many_leases(const struct broker_proc *p)
{
	struct broker *b = attach_with(p, 0);
	struct broker_lease *l[2000];
	unsigned n = 0, taken;
	int rc = 0;

	while (n < array_size(l) && (rc = broker_lease(b, NULL, &l[n])) == 0) {
		n++;
	}
	taken = n;
	is_int(rc, BROKER_E_BUSY, "after %u leases the library says that it is enough", taken);
	while (n > 0) {
		broker_release(&l[--n]);
	}
	is_int(run(b, "affect 1", 10000), 0, "the worker was not evicted");
	is_int(broker_lease(b, NULL, &l[0]), 0, "and may take one again");
	broker_release(&l[0]);
	broker_detach(&b);
	is_int(broker_metric(p, "broker_evictions_total"), 0, "nobody was evicted");
}

/* A COMMIT that is given up while it waits behind a statement: its lease must not stay. */
static void test_late_commit(const struct broker_proc *p)
{
	struct broker *b = attach_with(p, 0), *other = attach_with(p, 0);
	struct broker_lease *l;
	struct broker_call in = {.timeout_ms = 60000};
	uint64_t ticket;
	int rc;

	is_int(broker_begin(b, NULL, &l), 0, "a transaction");
	in.lease = l;
	is_int(broker_exec(b, "affect 1", 0, NULL, &in, NULL), 0, "with a write");
	is_int(broker_submit(b, "sleep 30000", 0, NULL, &in, &ticket), 0,
		"and something that takes long");
	rc = broker_commit(&l, 100);
	ok(rc == BROKER_E_TIMEOUT || rc == BROKER_E_OUTCOME_UNKNOWN || rc == BROKER_E_TX_ABORTED,
		"COMMIT behind it is out of time (%d)", rc);
	is_int(run(other, "affect 1", 20000), 0, "the connection is free again");
	ok(wait_until(broker_metric(p, "broker_leases_active") == 0, SOON_MS), "no lease is held");
	broker_detach(&b);
	broker_detach(&other);
}

static void test_commit_without_transaction(const struct broker_proc *p)
{
	struct broker *b = attach_with(p, 0);
	struct broker_lease *l;
	struct broker_call in = {0};

	is_int(broker_lease(b, NULL, &l), 0, "a lease without a transaction");
	in.lease = l;
	is_int(broker_exec(b, "affect 1", 0, NULL, &in, NULL), 0, "is used");
	is_int(broker_commit(&l, 20000), BROKER_E_USAGE, "COMMIT is a mistake");
	is_int(run(b, "affect 1", 20000), 0, "but the connection is given back");
	broker_detach(&b);
}

/* -- tickets and arenas ------------------------------------------------------------------------ */

static void test_tickets(const struct broker_proc *p)
{
	struct broker *b = attach_with(p, 0);
	uint64_t ticket[TICKETS + 1];
	unsigned n = 0;
	int rc;

	while (n <= TICKETS &&
		(rc = broker_submit(b, "affect 1", 0, NULL, NULL, &ticket[n])) == 0) {
		n++;
	}
	is_int(n, TICKETS, "so many statements may be in flight");
	is_int(rc, BROKER_E_BUSY, "one more is refused");
	is_int(broker_collect(b, ticket[0], -1, NULL, NULL), 0, "one is collected");
	is_int(broker_submit(b, "affect 1", 0, NULL, NULL, &ticket[0]), 0,
		"and there is room again");
	for (n = 0; n < TICKETS && broker_collect(b, 0, -1, NULL, NULL) == 0; n++) {
	}
	is_int(n, TICKETS, "all are answered");
	broker_detach(&b);
}

/* The smallest arena and as many statements as there may be. */
static void test_small_arena(
	const struct broker_proc *p, const char *sql, unsigned rows, unsigned count)
{
	struct broker *b = attach_with(p, 64);
	uint64_t ticket[TICKETS];
	unsigned right = 0, sent = 0;
	int64_t start = wait_clock_ms();

	for (unsigned i = 0; i < count; i++) {
		sent += broker_submit(b, sql, 0, NULL, NULL, &ticket[i]) == 0;
	}
	is_int(sent, count, "%s: %u statements share 64 KiB", sql, sent);
	for (unsigned i = count; i-- > 0;) { /* the last first */
		struct broker_result *r;
		unsigned n = 0;

		if (broker_collect(b, ticket[i], -1, NULL, &r) < 0) {
			diag("%s", broker_error(b)->message);
			continue;
		}
		while (broker_next(r) == 1) {
			n++;
		}
		right += n == rows;
		broker_result_free(&r);
	}
	is_int(right, count, "and all are answered");
	start = wait_clock_ms() - start;
	ok(start < 20000 * stage_slowness(), "without waiting for any deadline (%lld ms)",
		(long long)start);
	broker_detach(&b);
}

/* -- bodies ------------------------------------------------------------------------------------ */

static void test_too_large(const struct broker_proc *p)
{
	struct broker *b = attach_with(p, 0);
	size_t len = 2 << 20;
	char *text = calloc(1, len);
	struct broker_value v = broker_blob(text, len);

	is_int(broker_exec(b, "affect 1", 1, &v, NULL, NULL), BROKER_E_TOO_LARGE,
		"a parameter larger than max_request");
	ok(broker_error(b)->outcome == BROKER_NOT_DONE &&
			strstr(broker_error(b)->message, "max_request") != NULL,
		"%s", broker_error(b)->message);
	memset(text, ' ', len - 1);
	is_int(broker_exec(b, text, 0, NULL, NULL, NULL), BROKER_E_TOO_LARGE, "a text as large");
	v = broker_blob(text, (1 << 20) - 8192);
	is_int(broker_exec(b, "affect 1", 1, &v, NULL, NULL), 0, "one that just fits is served");
	is_int(broker_metric(p, "broker_evictions_total"), 0, "nobody was evicted");
	broker_detach(&b);
	free(text);
}

static void test_params(const struct broker_proc *p)
{
	static struct broker_value v[65536];
	struct broker *b = attach_with(p, 0);

	for (unsigned i = 0; i < array_size(v); i++) {
		v[i] = broker_null();
	}
	is_int(broker_exec(b, "affect 1", 65535, v, NULL, NULL), 0, "65535 parameters");
	is_int(broker_exec(b, "affect 1", 65536, v, NULL, NULL), BROKER_E_ARGUMENT, "one more");
	broker_detach(&b);
}

/* -- queues ------------------------------------------------------------------------------------ */

static void test_max_waiting(void)
{
	static const char *const settings[] = {
		"pool main.max_size=1", "pool main.max_waiting=5", NULL};
	struct broker_proc *p = broker_start("fake:", settings);
	struct broker *b = attach_with(p, 0);
	uint64_t ticket[20];
	unsigned refused = 0, good = 0;

	broker_pause(p); /* so that they come together */
	for (unsigned i = 0; i < array_size(ticket); i++) {
		if (broker_submit(b, "sleep 100", 0, NULL, NULL, &ticket[i]) < 0) {
			bail_out("submit: %s", broker_error(b)->message);
		}
	}
	broker_resume(p);
	for (unsigned i = 0; i < array_size(ticket); i++) {
		int rc = broker_collect(b, ticket[i], -1, NULL, NULL);

		good += rc == 0;
		refused += rc == BROKER_E_BUSY && broker_error(b)->retry_safe;
	}
	ok(refused >= 14 && good >= 5 && refused + good == 20,
		"with max_waiting=5 of 20 statements %u are refused and %u served", refused, good);
	is_int(broker_metric(p, "broker_acquire_rejected_total"), refused, "and counted");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
}

int main(void)
{
	static const char *const one[] = {"pool main.max_size=1", "broker.max_request=1MiB",
		"pool main.acquire_timeout=60s", NULL};
	struct broker_proc *p = broker_start("fake:", one);

	test_many_leases(p);
	test_late_commit(p);
	test_commit_without_transaction(p);
	test_tickets(p);
	test_small_arena(p, "affect 1", 0, TICKETS);
	test_small_arena(p, "rows 100", 100, TICKETS);
	test_small_arena(p, "rows 20 1000", 20, 30);
	test_too_large(p);
	test_params(p);
	is_int(broker_free(&p), 0, "the broker ends well");
	test_max_waiting();
	test_hoarder("fake:", "affect 1", "rows 1");
	if (pg_available()) {
		struct pg_cluster *pg = pg_start(NULL);

		test_hoarder(
			pg_url(pg), "INSERT INTO hoard VALUES (1)", "SELECT count(*) FROM hoard");
		is_int(pg_int(pg, "SELECT count(*) FROM hoard"), 0,
			"what the hoarder wrote is gone");
		pg_remove(&pg);
	} else {
		skip("no PostgreSQL server here");
	}
	return done_testing();
}
