/* SPDX-License-Identifier: MIT */
/* bench_look.c - bench_look() of bench.h: which database is behind the target, and how large it is.
 */
#include "bench_driver.h"
#include "bench_worker.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#define PACE_STEPS 300000
#define PACE_GUESS 5000 /* steps per millisecond, if it cannot be measured */

/* How many steps of SQLite's slow statement take a millisecond. */
static int64_t sqlite_pace(void)
{
	const struct bench_stmt *slow = bench_stmt(SQL_SLOW, true);
	sqlite3_stmt *st = NULL;
	sqlite3 *db = NULL;
	uint64_t before = bench_clock_ns(), ns = 0;

	if (sqlite3_open(":memory:", &db) == SQLITE_OK &&
		sqlite3_prepare_v2(db, slow->text, -1, &st, NULL) == SQLITE_OK) {
		sqlite3_bind_int64(st, 1, PACE_STEPS);
		(void)sqlite3_step(st);
		ns = bench_clock_ns() - before;
	}
	sqlite3_finalize(st);
	sqlite3_close(db);
	return ns > 0 ? (int64_t)(PACE_STEPS * 1e6 / (double)ns) + 1 : PACE_GUESS;
}

static int look(struct bench_plan *p, struct bench_conn *c, char *err, size_t errlen)
{
	const struct bench_driver *d = bench_driver(p->target.kind);
	int64_t scale;

	p->sqlite = p->target.kind == BENCH_SQLITE ||
		    (p->target.kind == BENCH_BROKER &&
			    d->run(c, bench_stmt(SQL_PROBE, true), NULL) == 1);
	scale = d->run(c, bench_stmt(SQL_SCALE, p->sqlite), NULL);
	if (scale < 1) {
		snprintf(err, errlen, "no tables to work on (brokerbench init makes them): %s",
			scale < 0 ? d->error(c) : "pgbench_branches is empty");
		return -1;
	}
	p->scale = (unsigned)scale;
	p->slow_argument = p->slow_ms;
	if (p->sqlite && strcmp(p->workload->name, "mix") == 0) {
		p->slow_argument *= sqlite_pace();
	}
	p->peer = d->peer != NULL ? d->peer(c) : 0;
	return 0;
}

int bench_look(struct bench_plan *p, char *err, size_t errlen)
{
	const struct bench_driver *d = bench_driver(p->target.kind);
	struct bench_conn *c;
	int rc = d->open(p, &c);

	if (rc < 0) {
		snprintf(err, errlen, "%s", c != NULL ? d->error(c) : "no memory");
	} else {
		rc = look(p, c, err, errlen);
	}
	d->close(&c);
	return rc;
}
