/* SPDX-License-Identifier: MIT */
/*
 * chaos.h - many workers, mixed statements, random kills, and the books balanced afterwards.
 *
 * One program text for every database: forked workers run writes, reads, transactions, errors,
 * batches and cancels through the client library while some of them are killed with SIGKILL all the
 * time and replaced.  What each operation was told is noted in memory shared with the test, before
 * and after; then the table is compared with the notes:
 *
 *   acknowledged         the rows are there, exactly once
 *   failed               no row is there
 *   unknown, or killed   all rows of the operation or none, never twice
 */
#ifndef CHAOS_H
#define CHAOS_H

#include <stdint.h>

struct broker_proc;

struct chaos_plan {
	unsigned workers;
	uint32_t statements; /* at least so many are run */
	unsigned kill_every_ms;
	unsigned connections; /* that the pool must have again afterwards */
};

/* Runs it and makes TAP checks.  The seed comes from CHAOS_SEED or the clock, and is printed. */
void chaos_run(struct broker_proc *broker, const struct chaos_plan *plan);

#endif
