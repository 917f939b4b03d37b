/* SPDX-License-Identifier: MIT */
/*
 * series.h - a sample as a flat list of named numbers, with rates.
 *
 *   broker_workers                                      a value of the broker
 *   broker_rows_total{pool="main"}                      of a pool
 *   broker_bytes_total{dir="to_workers",pool="main"}    with the metric's own label first
 *   broker_query_seconds{pool="main",quantile="0.99"}   from a histogram, also _count, _sum and
 * _max
 *
 * broker_up, broker_uptime_seconds and broker_heartbeat_age_seconds are made here: the broker
 * cannot count that it is dead.
 */
#ifndef TOOLS_SERIES_H
#define TOOLS_SERIES_H

#include "reader.h"

struct series {
	char name[256];
	const char *family; /* name of the metric: the sample's, or static */
	const char *help;
	double value; /* seconds, bytes or a plain number */
	double rate; /* per second; counters only */
	bool counter;
	bool whole; /* a number without decimals */
	const char *unit; /* "seconds", "bytes" or "" */
};

struct series_list {
	struct series *v;
	size_t n;
};

/*
 * Which names: those that match one of the globs (or any name, if there is none to match) and none
 * of the globs behind a '^'.
 */
#define NAME_FILTER_MAX 32u
struct name_filter {
	const char *glob[NAME_FILTER_MAX]; /* borrowed */
	unsigned n;
};
bool name_filter_match(const struct name_filter *f, const char *name);

/*
 * before NULL, or of another broker: rates and quantiles since the start; else between the two.
 * Histogram copies in `now` are turned into the interval's.  filter NULL: all names.
 * 0: give *out to series_free.  -ENOMEM.
 */
int series_make(struct sample *now, const struct sample *before, const struct name_filter *filter,
	struct series_list *out) must_use;
void series_free(struct series_list *l);

/* True if both are of the same broker, and time passed between them. */
bool series_interval(const struct sample *now, const struct sample *before);

/* Raw value of a pool's metric, found by name and label; 0 if this broker has none. */
uint64_t series_pool_value(
	const struct sample *s, unsigned pool, const char *name, const char *label);
/* The same of a gauge that is a time stamp: nanoseconds since it, 0 if none. */
uint64_t series_pool_since(
	const struct sample *s, unsigned pool, const char *name, const char *label);
/* Histogram of a pool by name, or NULL. */
const struct histogram_copy *series_pool_histogram(
	const struct sample *s, unsigned pool, const char *name);

#endif
