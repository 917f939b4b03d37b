/* SPDX-License-Identifier: MIT */
/*
 * test_failover_drill.c - a primary and two standbys, 32 workers that write numbered rows and read,
 * and in turn: a full disk, a primary that refuses writes, a restart, a standby that lags, the
 * death of the primary and promotion, a primary that hangs.  After each every acknowledged row is
 * there once, unknown ones once or not at all, and times are as promised.
 */
#include "brokerproc.h"
#include "disk.h"
#include "drill.h"
#include "tap.h"
#include "wait.h"

#include <stdatomic.h>
#include <stdlib.h>

#define TAKEOVER_MS 1000 /* promised: from the new primary's first writes to the broker's */
#define SOON_MS 60000

static struct pg_cluster *primary(struct drill *d)
{
	return cluster_server(d->cluster, cluster_primary(d->cluster));
}

/* Let the workers go on for a while. */
static void go_on(struct drill *d, unsigned writes)
{
	uint32_t before = ledger_count(d->ledger).acked;

	ok(wait_until(ledger_count(d->ledger).acked >= before + writes, SOON_MS),
		"the workers go on");
}

static uint64_t database_errors(struct drill *d)
{
	return atomic_load(&d->board->by_code[-BROKER_E_DATABASE - 2000]);
}

/* -- the primary stays ------------------------------------------------------------------------- */

static void full_disk(struct drill *d)
{
	struct pg_cluster *pg = primary(d);
	uint64_t errors = database_errors(d), reads;
	int64_t back;

	if (!cluster_has_small_disk(d->cluster)) {
		skip("no disk that can be full");
		return;
	}
	disk_fill(pg_data(pg));
	ok(wait_until(database_errors(d) > errors + 100, SOON_MS), "a full disk: writes fail");
	reads = drill_reads(d, 1) + drill_reads(d, 2);
	ok(wait_until(drill_reads(d, 1) + drill_reads(d, 2) > reads + 100, SOON_MS),
		"reads do not");
	disk_free(pg_data(pg));
	cluster_revive(d->cluster, cluster_primary(d->cluster));
	back = wait_clock_us();
	drill_expect_write(d, "full_disk_to_write", back, TAKEOVER_MS);
	drill_check(d, "a full disk");
}

static void read_only(struct drill *d)
{
	unsigned i = cluster_primary(d->cluster);
	int64_t start, back;
	uint64_t failed;

	cluster_set_read_only(d->cluster, i, true);
	start = wait_clock_us();
	failed = atomic_load(&d->board->failed);
	ok(wait_until(atomic_load(&d->board->failed) > failed + 32, SOON_MS),
		"a primary that refuses writes: they fail");
	ok(wait_until(drill_last_read(d, 1) > start && drill_last_read(d, 2) > start, SOON_MS),
		"reads do not");
	cluster_set_read_only(d->cluster, i, false);
	back = wait_clock_us();
	drill_expect_write(d, "read_only_to_write", back, TAKEOVER_MS);
	drill_check(d, "a read-only primary");
}

static void restart(struct drill *d)
{
	struct pg_cluster *pg = primary(d);
	int64_t back;

	pg_stop(pg, PG_IMMEDIATE);
	pg_restart(pg);
	back = wait_clock_us();
	drill_expect_write(d, "restart_to_write", back, TAKEOVER_MS);
	go_on(d, 200);
	drill_check(d, "an immediate shutdown and restart");
}

/* It hangs, nobody replaces it: calls end with their deadlines, and when it goes on so do they. */
static void pause_primary(struct drill *d)
{
	struct pg_cluster *pg = primary(d);
	uint64_t failed = atomic_load(&d->board->failed),
		 reads = drill_reads(d, 1) + drill_reads(d, 2);
	int64_t back;

	pg_freeze(pg);
	ok(wait_until(atomic_load(&d->board->failed) > failed + 64, SOON_MS),
		"a primary that hangs: writes fail");
	ok(wait_until(drill_reads(d, 1) + drill_reads(d, 2) > reads + 100, SOON_MS), "reads go on");
	pg_thaw(pg);
	back = wait_clock_us();
	drill_expect_write(d, "pause_to_write", back, TAKEOVER_MS);
	go_on(d, 200);
	drill_check(d, "a primary that hung");
}

/* -- a standby lags ---------------------------------------------------------------------------- */

static int64_t lag_ms(struct pg_cluster *pg)
{
	return pg_int(pg, "SELECT extract(epoch FROM clock_timestamp() - "
			  "pg_last_xact_replay_timestamp()) * 1000");
}

/* Reads of servers a and b; those of b so far when a had its last. */
struct choice {
	unsigned a, b;
	uint64_t of_a, of_b;
};

/* Has b had so many since a had one?  A machine that stands still is no server that is avoided. */
static bool is_avoided(struct drill *d, struct choice *c, uint64_t reads)
{
	if (drill_reads(d, c->a) != c->of_a) {
		c->of_a = drill_reads(d, c->a);
		c->of_b = drill_reads(d, c->b);
	}
	return drill_reads(d, c->b) >= c->of_b + reads;
}

static void lag(struct drill *d)
{
	unsigned i = cluster_primary(d->cluster) == 2 ? 1 : 2;
	struct pg_cluster *pg = cluster_server(d->cluster, i);
	struct choice c = {.a = i, .b = 3 - cluster_primary(d->cluster) - i};
	int64_t limit, last;
	uint64_t reads;

	drill_expect_reads(d, i, "a standby answers reads");
	cluster_hold_replay(d->cluster, i);
	ok(wait_until(lag_ms(pg) >= 1000, SOON_MS), "it falls behind");
	limit = wait_clock_us();
	ok(wait_until(is_avoided(d, &c, 500), SOON_MS), "beyond the limit reads avoid it");
	last = drill_last_read(d, i);
	drill_measure(
		"lag_limit_to_last_read", last > limit ? (double)(last - limit) / 1000 : 0, "ms");
	reads = drill_reads(d, i);
	go_on(d, 1000);
	is_int((int64_t)(drill_reads(d, i) - reads), 0, "and go on to");
	cluster_resume_replay(d->cluster, i);
	drill_expect_reads(d, i, "when it has caught up it answers again");
	drill_check(d, "a standby that lags");
}

/* -- the primary is replaced ------------------------------------------------------------------- */

static void promote(struct drill *d, const char *name)
{
	int64_t takes_writes;
	unsigned next = cluster_fail_over(d->cluster, &takes_writes);

	drill_expect_write(d, name, takes_writes, TAKEOVER_MS);
	drill_expect_writes(d, next, "the new primary answers writes");
}

static void rejoin(struct drill *d, unsigned old)
{
	cluster_rejoin(d->cluster, old);
	drill_expect_reads(d, old, "the old primary answers reads, as a standby");
}

static void lose(struct drill *d)
{
	unsigned old = cluster_primary(d->cluster);

	pg_stop(primary(d), PG_KILL);
	promote(d, "kill_promotion_to_write");
	go_on(d, 200);
	drill_check(d, "the primary's death and promotion");
	rejoin(d, old);
}

/* It hangs, is replaced, and wakes up believing that it is the primary, and takes writes of others.
 */
static void hang(struct drill *d)
{
	unsigned old = cluster_primary(d->cluster);
	struct pg_cluster *pg = primary(d);
	uint64_t writes;

	pg_freeze(pg);
	promote(d, "hang_promotion_to_write");
	go_on(d, 200);
	drill_check(d, "a primary that hangs, and promotion");
	pg_thaw(pg);
	pg_do(pg, "ALTER SYSTEM SET synchronous_standby_names = ''");
	pg_do(pg, "SELECT pg_reload_conf()");
	writes = drill_writes(d, old);
	go_on(d, 2000);
	is_int((int64_t)(drill_writes(d, old) - writes), 0,
		"when it wakes up nothing is written there");
	drill_check(d, "two primaries");
	rejoin(d, old);
}

int main(void)
{
	const struct cluster_options cluster_opt = {.standbys = 2, .safe = true, .small_mib = 640};
	const struct drill_options opt = {.workers = 32};
	bool quick = getenv("TEST_QUICK") != NULL;
	struct cluster *c;
	struct drill *d;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	c = cluster_start(&cluster_opt);
	d = drill_start(c, &opt);
	full_disk(d); /* the first server's: while it is the primary */
	if (!quick) {
		pause_primary(d);
	}
	lose(d);
	hang(d);
	if (!quick) {
		restart(d);
		read_only(d);
		lag(d);
		lose(d);
		hang(d);
	}
	drill_stop(&d);
	cluster_remove(&c);
	return done_testing();
}
