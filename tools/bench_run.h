/* SPDX-License-Identifier: MIT */
/*
 * bench_run.h - one run: N worker processes in closed loops, and a window in which they are
 * measured.
 *
 *   fork, open      every worker makes its connection; the run waits for the last
 *   warm-up         the loops run, nothing is counted
 *   window          an operation counts if it ends in here; CPU time is that of the window
 *   stop            each ends its operation and keeps its connection until backends and memory of
 *                   everybody have been looked at
 *
 * Workers die with the parent.  The caller has one thread.
 */
#ifndef TOOLS_BENCH_RUN_H
#define TOOLS_BENCH_RUN_H

#include "bench_stats.h"

/* 0: *out is to be given to bench_result_finish.  -1 with a text in err. */
int bench_run(const struct bench_plan *p, struct bench_result *out, char *err, size_t errlen);

#endif
