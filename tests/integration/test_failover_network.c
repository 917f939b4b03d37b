/* SPDX-License-Identifier: MIT */
/*
 * test_failover_network.c - servers that are well behind networks that are not: packets to the
 * primary are lost in both directions, or only its answers; it is replaced meanwhile, and packets
 * that were under way arrive after that; connections are reset; a standby cannot be reached.
 */
#include "brokerproc.h"
#include "drill.h"
#include "proxy.h"
#include "scratch.h"
#include "tap.h"
#include "wait.h"

#include <stdatomic.h>
#include <stdlib.h>

#define SERVERS 3
#define TAKEOVER_MS 1000
#define SOON_MS 60000

struct network {
	struct proxy *proxy[SERVERS];
	char *url[SERVERS];
};

static void lay(struct network *n, struct cluster *c)
{
	for (unsigned i = 0; i < SERVERS; i++) {
		char *socket = scratch_format("%s/.s.PGSQL.5432", pg_host(cluster_server(c, i)));

		n->proxy[i] = proxy_start(socket);
		n->url[i] = scratch_format("postgresql://postgres@%s:%d/postgres",
			proxy_host(n->proxy[i]), proxy_port(n->proxy[i]));
		free(socket);
	}
}

static void take_away(struct network *n)
{
	for (unsigned i = 0; i < SERVERS; i++) {
		proxy_stop(&n->proxy[i]);
		free(n->url[i]);
	}
}

static void go_on(struct drill *d, unsigned writes)
{
	uint32_t before = ledger_count(d->ledger).acked;

	ok(wait_until(ledger_count(d->ledger).acked >= before + writes, SOON_MS),
		"the workers go on");
}

/* How often the log says that this server was given up. */
static unsigned times_given_up(struct drill *d, unsigned i)
{
	char *text = scratch_format("server %s: down after", cluster_name(i));
	unsigned n = broker_log_count(d->broker, text);

	free(text);
	return n;
}

/* The primary's packets are lost, for longer than the broker has patience, and found again. */
static void lose_packets(struct drill *d, struct network *n, enum proxy_mode mode, const char *what)
{
	unsigned i = cluster_primary(d->cluster), downs = times_given_up(d, i);
	int64_t lost = wait_clock_us(), back;
	uint64_t unknown = ledger_count(d->ledger).unknown;

	proxy_set(n->proxy[i], mode);
	ok(wait_until(times_given_up(d, i) > downs, SOON_MS), "%s: the server is given up", what);
	drill_measure("packets_lost_to_verdict", (double)(wait_clock_us() - lost) / 1000, "ms");
	drill_expect_reads(d, (i + 1) % SERVERS, "reads go on");
	ok(wait_until(ledger_count(d->ledger).unknown > unknown, SOON_MS),
		"what was under way is unknown");
	proxy_set(n->proxy[i], PROXY_FORWARD);
	back = wait_clock_us();
	drill_expect_write(d, "packets_back_to_write", back, TAKEOVER_MS);
	go_on(d, 500);
	drill_check(d, what);
}

/*
 * The primary cannot be reached and is replaced, but lives: what was under way reaches it later,
 * and its answers the broker.  Nobody must be told that this was done.
 */
static void replace(struct drill *d, struct network *n)
{
	unsigned old = cluster_primary(d->cluster), next;
	struct pg_cluster *pg = cluster_server(d->cluster, old);
	int64_t takes_writes;
	uint64_t writes;

	pg_do(pg, "SELECT 1");
	proxy_set(n->proxy[old], PROXY_STALL);
	next = cluster_fail_over(d->cluster, &takes_writes);
	drill_expect_write(d, "partition_promotion_to_write", takes_writes, TAKEOVER_MS);
	pg_do(pg, "ALTER SYSTEM SET synchronous_standby_names = ''");
	pg_do(pg, "SELECT pg_reload_conf()");
	proxy_set(n->proxy[old], PROXY_FORWARD);
	writes = drill_writes(d, old);
	go_on(d, 2000);
	is_int((int64_t)(drill_writes(d, old) - writes), 0, "nothing is done by the old primary");
	drill_expect_writes(d, next, "but by the new one");
	drill_check(d, "a primary that is cut off and replaced");
	cluster_rejoin(d->cluster, old);
	drill_expect_reads(d, old, "the old primary comes back as a standby");
}

static void reset(struct drill *d, struct network *n, unsigned times)
{
	unsigned i = cluster_primary(d->cluster);
	int64_t back = 0;

	for (unsigned t = 0; t < times; t++) {
		proxy_cut(n->proxy[i]);
		back = wait_clock_us();
		if (!wait_until(ledger_acked_after(d->ledger, back) != 0, SOON_MS)) {
			break;
		}
	}
	drill_expect_write(d, "reset_to_write", back, TAKEOVER_MS);
	drill_check(d, "connections that are reset");
}

static void refuse_standby(struct drill *d, struct network *n)
{
	unsigned i = (cluster_primary(d->cluster) + 1) % SERVERS;
	unsigned other = (i + 1) % SERVERS, downs = times_given_up(d, i);
	uint64_t failed = atomic_load(&d->board->failed);

	proxy_set(n->proxy[i], PROXY_REFUSE);
	proxy_cut(n->proxy[i]);
	ok(wait_until(times_given_up(d, i) > downs, SOON_MS), "a standby that refuses is given up");
	drill_expect_reads(d, other, "reads go to the other");
	go_on(d, 200);
	is_int((int64_t)(atomic_load(&d->board->failed) - failed), 0, "and no call fails");
	proxy_set(n->proxy[i], PROXY_FORWARD);
	drill_expect_reads(d, i, "when it is back it answers reads");
}

int main(void)
{
	const struct cluster_options cluster_opt = {.standbys = SERVERS - 1, .safe = true};
	bool quick = getenv("TEST_QUICK") != NULL;
	struct drill_options opt = {.workers = 32};
	struct network net;
	struct cluster *c;
	struct drill *d;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	c = cluster_start(&cluster_opt);
	lay(&net, c);
	opt.urls = (const char *const *)net.url;
	d = drill_start(c, &opt);
	replace(d, &net);
	if (!quick) {
		lose_packets(d, &net, PROXY_STALL, "packets are lost");
		lose_packets(d, &net, PROXY_MUTE, "answers are lost");
		reset(d, &net, 200);
		refuse_standby(d, &net);
		replace(d, &net);
	}
	drill_stop(&d);
	take_away(&net);
	cluster_remove(&c);
	return done_testing();
}
