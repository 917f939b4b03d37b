/* SPDX-License-Identifier: MIT */
/*
 * average.h - what a live screen remembers of earlier samples: averages over about 10, 100 and 1000
 * samples of every metric, and short trails to draw.
 *
 * An average over n samples moves by 1/n of the distance at each sample, once there were n of them;
 * before, it is the mean of those there were.  So it needs one number and forgets gradually.
 */
#ifndef TOOLS_AVERAGE_H
#define TOOLS_AVERAGE_H

#include "series.h"

#define AVERAGE_SPANS 3u
extern const unsigned average_span[AVERAGE_SPANS]; /* 10, 100, 1000 */

struct average {
	char name[256]; /* of the series */
	unsigned samples;
	double mean[AVERAGE_SPANS];
};

struct averages {
	struct average *v; /* in the order of the latest series */
	size_t n;
};

/*
 * Add a sample: rates of counters, values of the others.  Series that went are forgotten.  rates:
 * if false, counters are left out, because their rates are not those of an interval.  0 or -ENOMEM.
 */
int averages_add(struct averages *a, const struct series_list *l, bool rates) must_use;
/* By name, or NULL. */
const struct average *averages_find(const struct averages *a, const char *name);
void averages_free(struct averages *a);

#define TRAIL_LENGTH 60u

/* The last values of something, oldest first. */
struct trail {
	double v[TRAIL_LENGTH];
	unsigned n;
};
void trail_add(struct trail *t, double v);
/* The newest `width` of them as a sparkline, gaps where there were none; see text_spark. */
char *trail_spark(const struct trail *t, unsigned width, char *dst, size_t size);

#endif
