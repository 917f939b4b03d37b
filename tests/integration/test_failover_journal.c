/* SPDX-License-Identifier: MIT */
/*
 * test_failover_journal.c - all PostgreSQL servers go and come back, with SQLite and its journal
 * behind them.  Writes and reads go on; when PostgreSQL is back it gets every row that was
 * acknowledged meanwhile, once; also if it goes again in the middle of that, or the broker dies.
 */
#include "brokerproc.h"
#include "drill.h"
#include "scratch.h"
#include "settings.h"
#include "tap.h"
#include "wait.h"

#include <stdlib.h>

#define FALLBACK_MS 500 /* promised: from the verdict to the first answer */
#define SOON_MS 120000
#define REPLAY_MS 120000 /* the journal grows while it is replayed */

static unsigned local_index(const struct drill *d)
{
	return cluster_size(d->cluster);
}

static void all(struct drill *d, enum pg_mode mode)
{
	for (unsigned i = 0; i < cluster_size(d->cluster); i++) {
		pg_stop(cluster_server(d->cluster, i), mode);
	}
}

static void all_back(struct drill *d)
{
	for (unsigned i = 0; i < cluster_size(d->cluster); i++) {
		cluster_revive(d->cluster, i);
	}
}

/* How often the pool has decided to fall back. */
static unsigned verdicts(struct drill *d)
{
	return broker_log_count(d->broker, "writes go to server " SETTINGS_LOCAL);
}

/* All servers are lost; returns when the workers are served by the local one. */
static void lose_all(struct drill *d)
{
	unsigned n = verdicts(d) + 1, local = local_index(d);
	int64_t lost, verdict, answer;

	lost = drill_mark(d);
	all(d, PG_KILL);
	ok(wait_until(verdicts(d) >= n, SOON_MS), "the pool falls back");
	verdict = wait_clock_us();
	ok(wait_until(drill_first_answer(d, local) != 0, SOON_MS), "the fallback answers");
	ok(wait_until(drill_first_write(d, local) != 0, SOON_MS), "and takes writes");
	answer = drill_first_answer(d, local);
	drill_measure("loss_to_fallback_answer", (double)(answer - lost) / 1000, "ms");
	drill_measure("loss_to_fallback_write", (double)(drill_first_write(d, local) - lost) / 1000,
		"ms");
	drill_measure("verdict_to_fallback_answer",
		answer > verdict ? (double)(answer - verdict) / 1000 : 0, "ms");
	ok(answer - verdict < (FALLBACK_MS + WAIT_NOISE_MS) * 1000, "soon after the verdict");
	drill_expect_writes(d, local, "the workers go on with the fallback");
	drill_expect_reads(d, local, "their reads as well");
}

static int64_t set_aside(struct pg_cluster *pg)
{
	return pg_int(pg, "SELECT (to_regclass('broker_conflict') IS NOT NULL)::int") == 0
		       ? 0
		       : pg_int(pg, "SELECT count(*) FROM broker_conflict");
}

/* The servers are back; returns when writes go to the primary again. */
static void come_back(struct drill *d, const char *what)
{
	unsigned primary = cluster_primary(d->cluster);
	int64_t back, first;

	all_back(d);
	back = drill_mark(d);
	ok(wait_until(drill_first_write(d, primary) != 0, REPLAY_MS),
		"%s: writes go to PostgreSQL again", what);
	first = drill_first_write(d, primary);
	drill_measure("back_to_write", (double)(first - back) / 1000, "ms");
	drill_measure("longest_pause_of_writes",
		(double)ledger_longest_pause(d->ledger, back, first), "ms");
	drill_check(d, what);
	is_int(set_aside(cluster_server(d->cluster, primary)), 0, "%s: nothing was set aside",
		what);
}

/* Write so many rows into the journal. */
static void write_local(struct drill *d, unsigned rows)
{
	uint64_t before = drill_writes(d, local_index(d));

	ok(wait_until(drill_writes(d, local_index(d)) >= before + rows, SOON_MS),
		"%u rows are written to the journal", rows);
}

static void go_and_return(struct drill *d)
{
	lose_all(d);
	write_local(d, 1000);
	come_back(d, "all servers gone and back");
}

/* The primary comes, and goes again while it is given what the journal holds. */
static void go_during_replay(struct drill *d)
{
	struct pg_cluster *pg = cluster_server(d->cluster, cluster_primary(d->cluster));
	int64_t rows;

	lose_all(d);
	write_local(d, 10000);
	pg_restart(pg);
	rows = pg_int(pg, "SELECT count(*) FROM drill");
	(void)wait_until(pg_int(pg, "SELECT count(*) FROM drill") > rows, SOON_MS);
	pg_stop(pg, PG_KILL);
	drill_expect_writes(
		d, local_index(d), "gone again during the replay: the fallback goes on");
	come_back(d, "gone during the replay");
}

int main(void)
{
	const struct cluster_options cluster_opt = {.standbys = 1};
	struct drill_options opt = {.workers = 32,
		.settings = (const char *const[]){
			"pool main.fallback=journal", "pool main.mirror=drill", NULL}};
	bool quick = getenv("TEST_QUICK") != NULL;
	struct cluster *c;
	struct drill *d;
	char *local;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	local = scratch_path("local.db");
	opt.local = local;
	c = cluster_start(&cluster_opt);
	d = drill_start(c, &opt);
	go_and_return(d);
	if (!quick) {
		go_during_replay(d);
		go_and_return(d);
	}
	drill_stop(&d);
	cluster_remove(&c);
	free(local);
	return done_testing();
}
