/* SPDX-License-Identifier: MIT */
/*
 * test_chaos_pg.c - 64 workers, 200,000 statements, PostgreSQL with 8 connections, a kill every 50
 * ms.  With TEST_QUICK fewer of everything.
 */
#include "brokerproc.h"
#include "chaos.h"
#include "pg.h"
#include "tap.h"
#include "wait.h"

#include <stdlib.h>

int main(void)
{
	static const char *const settings[] = {
		"pool main.max_size=8", "pool main.acquire_timeout=30s", NULL};
	static const struct chaos_plan quick = {16, 5000, 50, 8}, full = {64, 200000, 50, 8};
	struct pg_cluster *pg = pg_start(NULL);
	struct broker_proc *b = broker_start(pg_url(pg), settings);

	chaos_run(b, getenv("TEST_QUICK") != NULL ? &quick : &full);
	ok(wait_until(pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
				 "'shmbroker' AND state LIKE 'idle in transaction%%'") == 0,
		   30000),
		"no transaction is left open on the server");
	ok(wait_until(pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
				 "'shmbroker'") == 8,
		   30000),
		"the server has the pool's connections, no more and no fewer");
	is_int(broker_free(&b), 0, "the broker ends well");
	pg_remove(&pg);
	return done_testing();
}
