/* SPDX-License-Identifier: MIT */
/* test_crashpoints_pg.c - kill -9 and SIGSTOP at every point, on PostgreSQL with four connections.
 */
#include "brokerproc.h"
#include "matrix.h"
#include "pg.h"
#include "tap.h"

#include <stddef.h>

int main(void)
{
	static const char *const settings[] = {
		"pool main.max_size=4", "pool main.acquire_timeout=30s", NULL};
	struct pg_cluster *pg;
	struct broker_proc *b;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	pg = pg_start(NULL);
	b = broker_start(pg_url(pg), settings);
	matrix_run(&(struct matrix_plan){.broker = b, .pg = pg, .connections = 4, .leases = 4});
	is_int(broker_free(&b), 0, "the broker ends well");
	pg_remove(&pg);
	return done_testing();
}
