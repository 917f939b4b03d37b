/* SPDX-License-Identifier: MIT */
/*
 * bench_stats.h - figures from what the workers counted.
 *
 * A worker counts into a record of its own, in memory shared with the parent, which reads it after
 * the window is closed.  Times are kept in the histograms of shm/histogram.h (0.8 %).  Everything
 * here is arithmetic, without clocks and processes.
 */
#ifndef TOOLS_BENCH_STATS_H
#define TOOLS_BENCH_STATS_H

#include "bench.h"
#include "bench_proc.h"
#include "histogram.h"

/* Written by one worker. */
struct bench_record {
	struct histogram times; /* of the operations that ended in the window */
	struct histogram slow; /* of those that are slow on purpose */
	uint64_t errors;
	uint64_t cpu_ns; /* used in the window */
	uint64_t switches;
	bool gave_up; /* after too many errors in a row */
	char error[BENCH_ERROR_MAX]; /* the first */
};

enum bench_part {
	BENCH_WORKERS,
	BENCH_MIDDLE, /* the broker, PgBouncer, Pgpool-II */
	BENCH_DATABASE,
	BENCH_PARTS,
};

/* What happened in one window. */
struct bench_result {
	const struct bench_plan *plan;
	double seconds; /* the window's length */
	uint64_t operations, slow, errors;
	unsigned gave_up; /* workers */
	char error[BENCH_ERROR_MAX]; /* one of them, or "" */
	struct histogram_copy times, slow_times; /* bench_result_finish frees */
	struct bench_use use[BENCH_PARTS];
	bool known[BENCH_PARTS]; /* whether use says anything */
	char middle[32]; /* name of the program in the middle, or "" */
	unsigned backends; /* connections that the database server has */
	double open_seconds; /* until all workers had their connection */
	double others; /* CPUs kept busy by processes that are not ours; negative: not known */
	struct bench_metric
		*metrics; /* of the broker: what they grew by; bench_result_finish frees */
	unsigned nmetrics;
};

struct bench_metric {
	char name[256];
	double delta; /* in the metric's unit; seconds for times */
};

/* Sum of the workers' records.  0: to be given to bench_result_finish.  -ENOMEM. */
int bench_result_init(struct bench_result *out, const struct bench_plan *p,
	const struct bench_record *records, unsigned n, double seconds) must_use;
void bench_result_finish(struct bench_result *r);

/* What was used between two looks: CPU time and switches; the rest as in the second. */
void bench_use_subtract(struct bench_use *now, const struct bench_use *before);

uint64_t bench_statements(const struct bench_result *r);
/* Statements per second. */
double bench_rate(const struct bench_result *r);
/* Seconds of CPU for 1,000 statements, in one part or (BENCH_PARTS) in all that are known. */
double bench_cpu_per_thousand(const struct bench_result *r, enum bench_part part);
/* Context switches per statement, likewise. */
double bench_switches(const struct bench_result *r, enum bench_part part);

/* Growth of a metric by its exposition name, in all pools together; negative: there is none. */
double bench_metric(const struct bench_result *r, const char *name);

#endif
