/* SPDX-License-Identifier: MIT */
/*
 * metrics.h - the numbering of metrics inside this build, and their descriptions inside the
 * segment.
 *
 * The enums are for the writer.  A reader of the segment never uses them: it finds a value through
 * the struct metric_desc records, so that any brokerstat shows any broker's metrics.
 */
#ifndef SHM_METRICS_H
#define SHM_METRICS_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum metric {
#define METRIC(id, name, label, kind, unit, help) METRIC_##id,
#define POOL_METRIC(id, name, label, kind, unit, help)
#define POOL_HISTOGRAM(id, name, help)
#include "metrics.def"
#undef METRIC
#undef POOL_METRIC
#undef POOL_HISTOGRAM
	METRIC_COUNT
};

enum pool_metric {
#define METRIC(id, name, label, kind, unit, help)
#define POOL_METRIC(id, name, label, kind, unit, help) POOL_METRIC_##id,
#define POOL_HISTOGRAM(id, name, help)
#include "metrics.def"
#undef METRIC
#undef POOL_METRIC
#undef POOL_HISTOGRAM
	POOL_METRIC_COUNT
};

enum pool_histogram {
#define METRIC(id, name, label, kind, unit, help)
#define POOL_METRIC(id, name, label, kind, unit, help)
#define POOL_HISTOGRAM(id, name, help) POOL_HIST_##id,
#include "metrics.def"
#undef METRIC
#undef POOL_METRIC
#undef POOL_HISTOGRAM
	POOL_HIST_COUNT
};

/* Numbers in the segment: stable, only appended to. */
enum metric_kind {
	METRIC_KIND_COUNTER = 1,
	METRIC_KIND_GAUGE = 2,
	METRIC_KIND_HISTOGRAM = 3,
};

enum metric_unit {
	METRIC_UNIT_COUNT = 0,
	METRIC_UNIT_BYTES = 1,
	METRIC_UNIT_NS = 2, /* nanoseconds; shown and exported as seconds */
	METRIC_UNIT_SINCE = 3, /* CLOCK_MONOTONIC stamp, 0 = none; shown as seconds since then */
};

enum metric_scope {
	METRIC_SCOPE_BROKER = 1, /* word `index` of section METRIC_VALUE */
	METRIC_SCOPE_POOL = 2, /* word `index` of the pool's record in section POOL_VALUE, or
				  histogram `index` of the pool in section HISTOGRAMS */
};

#define METRIC_DESC_VERSION 1

/*
 * Record of section METRIC_DESC.  Written before the segment can be seen, constant after.
 *    0 name  64 label  112 help  272 kind  276 unit  280 scope  284 index
 */
struct metric_desc {
	char name[64]; /* NUL terminated, as all texts here */
	char label[48]; /* key="value", or empty */
	char help[160];
	uint32_t kind; /* enum metric_kind */
	uint32_t unit; /* enum metric_unit */
	uint32_t scope; /* enum metric_scope */
	uint32_t index;
};
_Static_assert(sizeof(struct metric_desc) == 288, "byte map");

/* How many descriptions there are. */
#define METRIC_DESC_COUNT (METRIC_COUNT + POOL_METRIC_COUNT + POOL_HIST_COUNT)

/* Is its unit SINCE? */
bool metric_is_stamp(enum pool_metric m);

/* Description i in [0, METRIC_DESC_COUNT): broker-wide metrics, pool metrics, pool histograms. */
void metric_describe(unsigned i, struct metric_desc *out);

#endif
