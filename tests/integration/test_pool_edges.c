/* SPDX-License-Identifier: MIT */
/*
 * test_pool_edges.c - what a pool must get right at its limits: a burst that needs no queue, what
 * is said of statements in a lease that is lost, as many servers and connections as there may be.
 */
#include "behave.h"

#include <stdlib.h>

#define BURST 6u

/* All arrive in the same turn, since the broker stands still meanwhile. */
static void test_burst(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=4", "pool main.max_waiting=1",
					 "pool main.reset=always"));
	unsigned good = 0, refused = 0;
	uint64_t ticket[BURST];

	ok(wait_until(behave_conns(t.proc, "idle") == 4, 60000), "four idle connections");
	broker_pause(t.proc);
	for (unsigned i = 0; i < BURST; i++) {
		ticket[i] = behave_submit(t.b, NULL, "sleep 200");
	}
	broker_resume(t.proc);
	for (unsigned i = 0; i < BURST; i++) {
		int rc = broker_collect(t.b, ticket[i], -1, NULL, NULL);

		good += rc == 0;
		refused += rc == BROKER_E_BUSY;
		ok(i + 1 == BURST || rc == 0, "number %u: %d", i + 1, rc);
	}
	is_int(good, 5, "four are served at once, one waits");
	is_int(refused, 1, "the last is refused, since max_waiting is 1");
	behave_end(&t);
}

/* The outcome of one write is not known; those after it have not run, and are not unknown. */
static void test_lease_after_unknown(void)
{
	struct behave t = behave_start("cancel_ms=5000", SETTINGS("pool main.max_size=1"));
	struct broker_call in = {.lease = behave_hold(t.b, NULL, "who"), .timeout_ms = 200};

	is_int(behave_run(t.b, &in, "sleep 3000"), BROKER_E_OUTCOME_UNKNOWN,
		"a write that cannot be cancelled in time");
	in.timeout_ms = 5000;
	is_int(behave_run(t.b, &in, "affect 1"), BROKER_E_LEASE, "the next has not run");
	is_int(broker_error(t.b)->outcome, BROKER_NOT_DONE, "which is certain");
	broker_release(&in.lease);
	behave_end(&t);
}

/* More connections than the board has rows. */
static void test_many_servers(void)
{
	char *urls[32], *names = scratch_format("pool main.servers=%s", "");
	const char *settings[32 + 5];
	unsigned n = 0;
	struct behave t;

	for (unsigned i = 0; i < 32; i++) {
		char *more = scratch_format("%s%s s%u", names, i > 0 ? "," : "", i);

		urls[i] = scratch_format("server s%u.url=host=/nowhere port=%u", i, 5000 + i);
		settings[n++] = urls[i];
		free(names);
		names = more;
	}
	settings[n++] = names;
	settings[n++] = "pool main.max_size=2100";
	settings[n++] = "pool main.min_idle=1";
	settings[n++] = "pool main.init_fail_timeout=0";
	settings[n] = NULL;
	t.proc = broker_start(NULL, settings);
	t.b = behave_attach(t.proc);
	is_int(behave_run(t.b, &(struct broker_call){.timeout_ms = 300}, "SELECT 1"),
		BROKER_E_TIMEOUT, "32 servers, all of them away: a clear answer in time");
	broker_detach(&t.b);
	is_int(broker_free(&t.proc), 0, "the broker ends well");
	for (unsigned i = 0; i < 32; i++) {
		free(urls[i]);
	}
	free(names);
}

int main(void)
{
	test_burst();
	test_lease_after_unknown();
	test_many_servers();
	return done_testing();
}
