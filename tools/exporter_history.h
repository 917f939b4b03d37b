/* SPDX-License-Identifier: MIT */
/*
 * exporter_history.h - the last hour, second by second, in the exporter's memory.
 *
 * A point holds the fields of exporter_history.def for all pools together and for each of the first
 * HISTORY_POOLS_MAX pools; a field that is not known (no statement in that second, a dead broker, a
 * pool that was not there) is NaN, and null in JSON.  About 270 KiB for each pool.
 */
#ifndef TOOLS_EXPORTER_HISTORY_H
#define TOOLS_EXPORTER_HISTORY_H

#include "reader.h"

#include <stdio.h>

#define HISTORY_SECONDS 3600u
#define HISTORY_POOLS_MAX 32u

struct history;

/* NULL: out of memory. */
struct history *history_create(void);
void history_destroy(struct history **h);

/*
 * Append the second between two samples of one broker.  now NULL: nothing is known of this second,
 * which was at real_ns (CLOCK_REALTIME).  before NULL or of another broker: its rates and quantiles
 * are not known.
 */
void history_add(
	struct history *h, const struct sample *now, const struct sample *before, uint64_t real_ns);

unsigned history_length(const struct history *h);

/*
 * Up to `seconds` newest points of a pool, NULL for all pools, as one JSON object:
 * {"pool": …, "time": [Unix time, …], FIELD: […], …}.  False, and nothing written: no such pool.
 */
bool history_write(const struct history *h, FILE *f, const char *pool, unsigned seconds);

/* The newest point as {"time": …, "all": {FIELD: …}, "pools": {NAME: {FIELD: …}}}; or null. */
void history_write_latest(const struct history *h, FILE *f);

#endif
