/* SPDX-License-Identifier: MIT */
/*
 * test_failover_unreplicated.c - commits that have to wait for a standby which hangs.  PostgreSQL
 * calls them done when their wait is cancelled, though they would be lost with the primary; the
 * broker does not.
 */
#include "brokerproc.h"
#include "cluster.h"
#include "shmbroker.h"
#include "tap.h"
#include "wait.h"

#include <stdlib.h>

#define CALL_MS 2000 /* time to get to where it waits */

static struct broker *attach(struct broker_proc *p)
{
	struct broker_options opt = {.path = broker_socket(p), .timeout_ms = 60000};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static int insert(struct broker *b, struct broker_lease *l, int64_t n, int64_t timeout_ms)
{
	struct broker_call call = {.lease = l, .timeout_ms = timeout_ms};
	struct broker_value v = broker_int64(n);

	return broker_exec(b, "INSERT INTO t VALUES ($1)", 1, &v, &call, NULL);
}

static void check_unknown(struct broker *b, int rc, const char *what)
{
	if (!is_int(rc, BROKER_E_OUTCOME_UNKNOWN, "%s: nobody knows whether it will last", what)) {
		diag("%s", rc < 0 ? broker_error(b)->message : "it is said to be done");
	}
	is_int(broker_error(b)->outcome, BROKER_UNKNOWN, "%s: unknown outcome", what);
}

static void test_cancelled_waits(struct broker *b, struct pg_cluster *primary)
{
	struct broker_lease *l;
	uint64_t ticket;

	check_unknown(b, insert(b, NULL, 1, CALL_MS), "a write whose deadline passes");
	is_int(broker_begin(b, NULL, &l), 0, "a transaction");
	is_int(insert(b, l, 2, 30000), 0, "writes");
	check_unknown(b, broker_commit(&l, CALL_MS), "its COMMIT whose deadline passes");
	is_int(broker_submit(b, "INSERT INTO t VALUES (3)", 0, NULL, NULL, &ticket), 0,
		"a third write");
	ok(wait_until(pg_int(primary, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = "
				      "'SyncRep'") == 1,
		   30000),
		"waits for the standby");
	pg_do(primary, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = "
		       "'SyncRep'");
	check_unknown(b, broker_collect(b, ticket, 30000, NULL, NULL),
		"a write that an administrator cancels");
	is_int(broker_submit(b, "INSERT INTO t VALUES (4)", 0, NULL, NULL, &ticket), 0,
		"a fourth write");
	ok(wait_until(pg_int(primary, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = "
				      "'SyncRep'") == 1,
		   30000),
		"waits for the standby");
	pg_do(primary, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = "
		       "'SyncRep'");
	check_unknown(
		b, broker_collect(b, ticket, 30000, NULL, NULL), "a write whose backend is ended");
}

int main(void)
{
	const struct cluster_options opt = {.standbys = 1, .safe = true};
	struct broker_proc *p;
	struct cluster *c;
	struct broker *b;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	c = cluster_start(&opt);
	pg_do(cluster_server(c, 0), "CREATE TABLE t(n bigint)");
	p = broker_start(pg_url(cluster_server(c, 0)), NULL);
	b = attach(p);
	is_int(insert(b, NULL, 0, 30000), 0, "a write that a standby confirms");
	pg_freeze(cluster_server(c, 1));
	test_cancelled_waits(b, cluster_server(c, 0));
	is_int(pg_int(cluster_server(c, 0), "SELECT count(*) FROM t"), 5,
		"the primary has them all");
	pg_thaw(cluster_server(c, 1));
	is_int(insert(b, NULL, 5, 30000), 0, "with the standby, writes are done again");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	cluster_remove(&c);
	return done_testing();
}
