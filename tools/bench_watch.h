/* SPDX-License-Identifier: MIT */
/*
 * bench_watch.h - what everybody but the workers uses while a window is open: the broker or proxy,
 * the server's processes, the rest of the machine; and what the broker's counters grew by.
 */
#ifndef TOOLS_BENCH_WATCH_H
#define TOOLS_BENCH_WATCH_H

#include "bench_stats.h"

struct bench_watch;

/*
 * Find the processes to account for: the broker or proxy (plan.peer), and the server of
 * plan.observe.  0: *out is the caller's.  -1 with a text in err.
 */
int bench_watch_start(
	const struct bench_plan *p, struct bench_watch **out, char *err, size_t errlen);
void bench_watch_stop(struct bench_watch **w);

/* Call just before the window opens, and just after it was closed. */
void bench_watch_open(struct bench_watch *w);
void bench_watch_close(struct bench_watch *w);

/* While the workers stand still with their connections: count backends and memory, and put
 * everything into r. */
void bench_watch_result(
	struct bench_watch *w, const pid_t *workers, unsigned n, struct bench_result *r);

#endif
