/* SPDX-License-Identifier: MIT */
/* test_chaos_sqlite.c - the same program text on SQLite.  With TEST_QUICK fewer of everything. */
#include "brokerproc.h"
#include "chaos.h"
#include "tap.h"

#include <stdlib.h>

int main(void)
{
	static const char *const settings[] = {
		"pool main.readers=4", "pool main.acquire_timeout=30s", NULL};
	static const struct chaos_plan quick = {16, 5000, 50, 5}, full = {64, 200000, 50, 5};
	struct broker_proc *b = broker_start(NULL, settings);

	chaos_run(b, getenv("TEST_QUICK") != NULL ? &quick : &full);
	is_int(broker_free(&b), 0, "the broker ends well");
	return done_testing();
}
