/* SPDX-License-Identifier: MIT */
/*
 * test_bank.c - eight accounts, 32 workers that transfer money between them in transactions, and a
 * server that is restarted, killed and paused, and backends that are ended, all the while.  Nobody
 * ever sees another sum; what was acknowledged is in the history, once; the history explains every
 * balance.  With TEST_QUICK fewer events.
 */
#include "bank.h"
#include "pg_case.h"

#define WORKERS 32

/* -- what befalls the server ------------------------------------------------------------------- */

static void end_backends(struct pg_cluster *pg)
{
	pg_do(pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
		  "'shmbroker' AND backend_type = 'client backend' AND random() < 0.5");
}

static void restart(struct pg_cluster *pg, enum pg_mode mode)
{
	pg_stop(pg, mode);
	pg_restart(pg);
}

static void hang(struct pg_cluster *pg)
{
	int64_t until = wait_clock_ms() + 700;

	pg_freeze(pg);
	(void)wait_until(wait_clock_ms() >= until, 10000);
	pg_thaw(pg);
}

static void happen(struct pg_cluster *pg, unsigned what)
{
	switch (what % 6) {
	case 0:
		restart(pg, PG_IMMEDIATE);
		break;
	case 1:
		restart(pg, PG_KILL);
		break;
	case 2:
		restart(pg, PG_FAST);
		break;
	case 3:
		hang(pg);
		break;
	default:
		end_backends(pg);
	}
}

static void test_events(struct pg_case *t, struct bank *bank, unsigned events)
{
	unsigned first = (unsigned)wait_clock_us(), moving = 0;

	for (unsigned i = 0; i < events; i++) {
		happen(t->pg, first + i);
		moving += bank_moves(bank, 60, 30000);
	}
	is_int(moving, events, "after each event transfers go on");
}

int main(void)
{
	struct pg_case t;
	struct bank *bank;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start((const char *const[]){"deadlock_timeout=100ms", NULL},
		(const char *const[]){
			"pool main.max_size=8", "pool main.acquire_timeout=20s", NULL});
	bank_found(t.pg);
	bank = bank_open(broker_socket(t.proc), WORKERS);
	test_events(&t, bank, getenv("TEST_QUICK") != NULL ? 6 : 30);
	bank_close(&bank, t.pg);
	case_end(&t);
	return done_testing();
}
