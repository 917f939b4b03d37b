/* SPDX-License-Identifier: MIT */
/* test_crashpoints_sqlite.c - kill -9 and SIGSTOP at every point, on SQLite: one writer, four
 * readers. */
#include "brokerproc.h"
#include "matrix.h"
#include "tap.h"

#include <stddef.h>

int main(void)
{
	static const char *const settings[] = {
		"pool main.readers=4", "pool main.acquire_timeout=30s", NULL};
	struct broker_proc *b = broker_start(NULL, settings);

	matrix_run(&(struct matrix_plan){.broker = b, .connections = 5, .leases = 1});
	is_int(broker_free(&b), 0, "the broker ends well");
	return done_testing();
}
