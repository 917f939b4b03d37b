/* SPDX-License-Identifier: MIT */
/*
 * histogram.h - how long things took: log-linear buckets, one writer, any number of readers.
 *
 * Values are nanoseconds.  They are counted in units of 16 ns; each power of two of units is cut
 * into 64 equal buckets (the first 64 units have a bucket each):
 *
 *     x = ns >> 4
 *     x < 64    bucket x                                                 width 16 ns
 *     x >= 64   e = floor(log2 x);  bucket (e - 5) * 64 + (x >> (e - 6)) - 64
 *                                                                        width 2^(e-6) * 16 ns
 *
 * From 1 us up a bucket is at most 1/64 of its lower bound wide, so its middle is at most 1/128 =
 * 0.8 % away from any value in it: two significant digits.  Below 1 us the middle is at most 8 ns
 * away.  The last bucket ends at 2^40 ns = 1099 s; longer times are counted in it, and `max` keeps
 * the longest exactly.  1984 buckets take 15.5 KiB; three histograms per pool 47 KiB.
 *
 * The parameters stand in every histogram, and readers use those, not the constants here.
 *
 * Record: constant time, two words and perhaps `max`, no locked instruction.  Readers copy the
 * buckets one by one: the copy may miss values recorded meanwhile, which harms no percentile.
 * Intervals are differences of two copies.
 */
#ifndef SHM_HISTOGRAM_H
#define SHM_HISTOGRAM_H

#include "atomics.h"
#include "check.h"

#include <stdbool.h>
#include <stddef.h>

#define HISTOGRAM_VERSION 1
#define HISTOGRAM_UNIT_SHIFT 4u /* a unit is 16 ns */
#define HISTOGRAM_SUB_BITS 6u /* 64 buckets for each power of two */
#define HISTOGRAM_TOP_BITS 40u /* first value that does not fit: 2^40 ns */
#define HISTOGRAM_BUCKETS                                                                          \
	((HISTOGRAM_TOP_BITS - HISTOGRAM_UNIT_SHIFT - HISTOGRAM_SUB_BITS + 1u)                     \
		<< HISTOGRAM_SUB_BITS)

/*
 * Record of section HISTOGRAMS.  Writer: the I/O thread; of several, the first, with sums
 * (board.h).  Parameters are constant after creation; all other words are relaxed, each by itself.
 *    0 unit_shift  4 sub_bits  8 nbuckets  12 reserved  16 sum_ns  24 max_ns  64 bucket[]
 */
struct histogram {
	uint32_t unit_shift;
	uint32_t sub_bits;
	uint32_t nbuckets;
	uint32_t reserved;
	_Atomic uint64_t sum_ns;
	_Atomic uint64_t max_ns;
	uint64_t pad[4];
	_Atomic uint64_t bucket[HISTOGRAM_BUCKETS];
};
_Static_assert(offsetof(struct histogram, bucket) == 64, "byte map");
_Static_assert(HISTOGRAM_BUCKETS == 1984, "31 groups of 64");

/* Bucket of a value, in a histogram of `buckets` with these parameters; those that do not fit share
 * the last. */
static inline unsigned histogram_bucket_in(
	uint64_t ns, unsigned unit_shift, unsigned sub_bits, unsigned buckets)
{
	uint64_t x = ns >> unit_shift;
	unsigned e;

	if (x < (1u << sub_bits)) {
		return (unsigned)x;
	}
	if (ns >> HISTOGRAM_TOP_BITS != 0) {
		return buckets - 1;
	}
	e = 63u - (unsigned)__builtin_clzll(x);
	return ((e - sub_bits) << sub_bits) + (unsigned)(x >> (e - sub_bits));
}

static inline unsigned histogram_bucket(uint64_t ns)
{
	return histogram_bucket_in(
		ns, HISTOGRAM_UNIT_SHIFT, HISTOGRAM_SUB_BITS, HISTOGRAM_BUCKETS);
}

/* Count one value. */
static inline void histogram_record(struct histogram *h, uint64_t ns)
{
	bump(&h->bucket[histogram_bucket(ns)], 1u);
	bump(&h->sum_ns, ns);
	if (ns > get(&h->max_ns)) {
		put(&h->max_ns, ns);
	}
}

/* Set the parameters; the memory is zero. */
void histogram_init(struct histogram *h);

/* A reader's private copy. */
struct histogram_copy {
	uint32_t unit_shift;
	uint32_t sub_bits;
	uint32_t nbuckets;
	uint64_t count; /* sum of the buckets */
	uint64_t sum_ns;
	uint64_t max_ns;
	uint64_t *bucket;
};

/*
 * Copy a histogram whose record has `len` bytes.  The parameters are the writer's and are checked.
 * 0: give *out to histogram_copy_finish.  -EPROTO: not a histogram that fits len.  -ENOMEM.
 */
int histogram_copy_init(struct histogram_copy *out, const struct histogram *h, size_t len) must_use;
void histogram_copy_finish(struct histogram_copy *c);

/* First value of a bucket, and how many nanoseconds wide it is. */
uint64_t histogram_bucket_low(const struct histogram_copy *c, uint32_t bucket);
uint64_t histogram_bucket_width(const struct histogram_copy *c, uint32_t bucket);

/*
 * Value at quantile q in [0, 1], nearest rank: the middle of the bucket that holds the
 * ceil(q * count)-th smallest value, never above max_ns.  0 if nothing was recorded.
 */
uint64_t histogram_quantile(const struct histogram_copy *c, double q);

/* Mean in nanoseconds; 0 if nothing was recorded. */
uint64_t histogram_mean(const struct histogram_copy *c);

/*
 * Turn `now` into what came after `before`, of the same histogram.  max_ns becomes the upper end of
 * the highest bucket that grew, or stays if the maximum itself rose.  A different broker's
 * histogram (fewer counts, other parameters) leaves `now` as it is.
 */
void histogram_subtract(struct histogram_copy *now, const struct histogram_copy *before);

#endif
