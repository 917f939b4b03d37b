/* SPDX-License-Identifier: MIT */
/*
 * test_idle_order_long.c - keepalive tests do not put idle connections into use: a light load stays
 * on one of them, so the others can grow old and be closed.  Tests begin after half a minute.
 */
#include "behave.h"

#define CONNS 4
#define WATCH_MS 40000

int main(void)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=4", "pool main.keepalive_time=30s",
			    "pool main.idle_timeout=0", "pool main.validate_after_idle=-1"));
	bool used[CONNS] = {false};
	int64_t start = wait_clock_ms(), slot;
	unsigned n = 0;

	ok(wait_until(behave_conns(t.proc, "idle") == CONNS, WATCH_MS), "%d idle connections",
		CONNS);
	/* Something is looked up every now and then. */
	while (!wait_until(behave_since(start) > WATCH_MS, 100)) {
		slot = behave_int(t.b, NULL, "who", 0);
		if (slot < 0 || slot >= CONNS) {
			bail_out("who: %d", (int)slot);
		}
		used[slot] = true;
	}
	for (unsigned i = 0; i < CONNS; i++) {
		n += used[i];
	}
	is_int(n, 1, "one connection was used");
	behave_end(&t);
	return done_testing();
}
