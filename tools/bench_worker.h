/* SPDX-License-Identifier: MIT */
/*
 * bench_worker.h - a worker process, and what it shares with the parent.
 *
 * The parent alone writes `phase`; each worker alone writes its record.  The parent reads a record
 * after its worker has said so through the pipe `told`: one byte when its connection is open
 * (BENCH_TOLD_OPEN) or cannot be had (BENCH_TOLD_FAILED), one byte when it has stopped.
 */
#ifndef TOOLS_BENCH_WORKER_H
#define TOOLS_BENCH_WORKER_H

#include "bench_stats.h"

#include <stdatomic.h>

enum bench_phase {
	BENCH_WARM_UP,
	BENCH_MEASURE,
	BENCH_STOP,
};

#define BENCH_TOLD_OPEN 'o'
#define BENCH_TOLD_FAILED 'f'
#define BENCH_TOLD_STOPPED 's'

struct bench_shared {
	_Atomic uint32_t phase;
	struct bench_record record[];
};

/* Ends of the pipes that a worker uses. */
struct bench_pipes {
	int told; /* to the parent */
	int start; /* end of file: begin with the warm-up */
	int leave; /* end of file: close the connection and end */
};

/* Runs in the child and never returns. */
_Noreturn void bench_worker_main(const struct bench_plan *p, unsigned number,
	struct bench_shared *shared, const struct bench_pipes *pipes);

uint64_t bench_clock_ns(void);

#endif
