/* SPDX-License-Identifier: MIT */
/*
 * test_bank_failover.c - eight accounts, 32 workers that transfer money between them in
 * transactions, auditors that look at any server, and a primary that is killed, hangs or is
 * restarted, and replaced by a standby.  Nobody ever sees another sum, no acknowledged transfer is
 * lost, none is carried out twice.  With TEST_QUICK fewer events.
 */
#include "bank.h"
#include "brokerproc.h"
#include "cluster.h"
#include "settings.h"
#include "tap.h"
#include "wait.h"

#include <stdlib.h>

#define WORKERS 32

static struct broker_proc *start_broker(struct cluster *c)
{
	struct settings *s = settings_new();
	struct broker_proc *p;

	settings_add_servers(s, c, NULL, NULL);
	settings_add(s, "pool main.max_size=8");
	settings_add(s, "pool main.read_from=any");
	p = broker_start(NULL, settings_list(s));
	settings_free(&s);
	return p;
}

/* Replaced by a standby, in one way or another. */
static void replace(struct cluster *c, unsigned how)
{
	unsigned old = cluster_primary(c);
	struct pg_cluster *pg = cluster_server(c, old);

	switch (how % 4) {
	case 0:
		pg_stop(pg, PG_KILL);
		break;
	case 1:
		pg_freeze(pg);
		break;
	case 2:
		pg_stop(pg, PG_IMMEDIATE);
		break;
	default: /* in good health: promoted by mistake */
		break;
	}
	(void)cluster_fail_over(c, NULL);
	if (how % 4 == 1) {
		pg_thaw(pg); /* and believes that it is the primary */
	}
}

static void happen(struct cluster *c, struct bank *bank, unsigned what)
{
	unsigned old = cluster_primary(c);
	struct pg_cluster *pg = cluster_server(c, old);

	if (what % 3 == 0) {
		pg_stop(pg, PG_IMMEDIATE);
		pg_restart(pg);
		return;
	}
	replace(c, what);
	ok(bank_moves(bank, 60, 30000), "with a new primary transfers go on");
	cluster_rejoin(c, old);
}

int main(void)
{
	const struct cluster_options opt = {.standbys = 2,
		.safe = true,
		.settings = (const char *const[]){"deadlock_timeout=100ms", NULL}};
	unsigned events = getenv("TEST_QUICK") != NULL ? 2 : 16;
	struct broker_proc *p;
	struct cluster *c;
	struct bank *bank;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	c = cluster_start(&opt);
	bank_found(cluster_server(c, 0));
	ok(cluster_in_sync(c, 30000), "every server has the accounts");
	p = start_broker(c);
	bank = bank_open(broker_socket(p), WORKERS);
	for (unsigned i = 0; i < events; i++) {
		happen(c, bank, i);
		ok(bank_moves(bank, 60, 30000), "after event %u transfers go on", i);
	}
	bank_close(&bank, cluster_server(c, cluster_primary(c)));
	is_int(broker_free(&p), 0, "the broker ends well");
	cluster_remove(&c);
	return done_testing();
}
