/* SPDX-License-Identifier: MIT */
/* test_histogram.c - the bucket arithmetic, and percentiles against sorted values. */
#include "histogram.h"
#include "tap.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N 20000u

static struct histogram *new_histogram(void)
{
	struct histogram *h = calloc(1, sizeof(*h));

	if (h == NULL) {
		bail_out("calloc");
	}
	histogram_init(h);
	return h;
}

static struct histogram_copy copy_of(const struct histogram *h)
{
	struct histogram_copy c;

	if (histogram_copy_init(&c, h, sizeof(*h)) < 0) {
		bail_out("histogram_copy_init");
	}
	return c;
}

/* Buckets cover [0, 2^40) without gap or overlap, and a value falls into its own. */
static void test_buckets(void)
{
	struct histogram *h = new_histogram();
	struct histogram_copy c = copy_of(h);
	bool joined = true, inside = true, narrow = true;
	uint64_t next = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		uint64_t low = histogram_bucket_low(&c, i), width = histogram_bucket_width(&c, i);

		joined = joined && low == next;
		next = low + width;
		inside = inside && histogram_bucket(low) == i && histogram_bucket(next - 1) == i;
		narrow = narrow && (low < 1024 ? width == 16 : width * 64 <= low);
	}
	ok(joined, "buckets join without gap or overlap");
	ok(inside, "the first and last value of every bucket fall into it");
	ok(narrow, "a bucket is at most 1/64 of its lower bound wide, or 16 ns");
	ok(next == UINT64_C(1) << 40, "the last bucket ends at 2^40 ns");
	is_int(histogram_bucket(UINT64_C(1) << 40), HISTOGRAM_BUCKETS - 1, "2^40 is clamped");
	is_int(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1, "so is the largest number");
	histogram_copy_finish(&c);
	free(h);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* The stated error: 1/128 of the value, or 8 ns below 1024 ns. */
static bool close_enough(uint64_t got, uint64_t exact)
{
	uint64_t diff = got > exact ? got - exact : exact - got;

	return diff <= 8 || diff * 128 <= exact;
}

static void check_percentiles(const char *what, uint64_t *v, uint64_t seed)
{
	static const double qs[] = {0, 0.001, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1};
	struct histogram *h = new_histogram();
	struct histogram_copy c;
	uint64_t sum = 0;
	unsigned bad = 0;

	for (unsigned i = 0; i < N; i++) {
		histogram_record(h, v[i]);
		sum += v[i];
	}
	c = copy_of(h);
	qsort(v, N, sizeof(*v), compare);
	for (unsigned i = 0; i < array_size(qs); i++) {
		unsigned rank = (unsigned)ceil(qs[i] * N);
		uint64_t exact = v[rank > 0 ? rank - 1 : 0];
		uint64_t got = histogram_quantile(&c, qs[i]);

		if (!close_enough(got, exact)) {
			diag("seed %llu q %g: got %llu, exact %llu", (unsigned long long)seed,
				qs[i], (unsigned long long)got, (unsigned long long)exact);
			bad++;
		}
	}
	is_int(bad, 0, "%s: percentiles within 0.8 %%", what);
	ok(c.count == N && c.sum_ns == sum && c.max_ns == v[N - 1],
		"%s: count, sum and maximum exact", what);
	is_int((int64_t)histogram_mean(&c), (int64_t)(sum / N), "%s: mean", what);
	histogram_copy_finish(&c);
	free(h);
}

static void test_percentiles(void)
{
	uint64_t *v = calloc(N, sizeof(*v));
	uint64_t seed = UINT64_C(88172645463325252), start = seed;

	if (v == NULL) {
		bail_out("calloc");
	}
	for (unsigned i = 0; i < N; i++) { /* every magnitude alike */
		v[i] = next_random(&seed) >> (24 + next_random(&seed) % 40);
	}
	check_percentiles("all magnitudes", v, start);
	for (unsigned i = 0; i < N; i++) { /* a latency: most near 100 us, a long tail */
		v[i] = 80000 + next_random(&seed) % 40000 +
		       (next_random(&seed) % 100 == 0 ? next_random(&seed) % 5000000000u : 0);
	}
	check_percentiles("a latency with a tail", v, start);
	for (unsigned i = 0; i < N; i++) {
		v[i] = 1234567;
	}
	check_percentiles("one value", v, start);
	free(v);
}

static void test_empty_and_overflow(void)
{
	struct histogram *h = new_histogram();
	struct histogram_copy c = copy_of(h);

	is_int((int64_t)histogram_quantile(&c, 0.5), 0, "no values: quantile 0");
	is_int((int64_t)histogram_mean(&c), 0, "no values: mean 0");
	histogram_copy_finish(&c);
	histogram_record(h, UINT64_C(5000000000000));
	c = copy_of(h);
	is_int((int64_t)c.max_ns, INT64_C(5000000000000),
		"the maximum is exact beyond the last bucket");
	ok(histogram_quantile(&c, 1) >= UINT64_C(1) << 39,
		"and the value counts in the last bucket");
	histogram_copy_finish(&c);
	free(h);
}

static void test_interval(void)
{
	struct histogram *h = new_histogram();
	struct histogram_copy before, now;

	for (unsigned i = 0; i < 1000; i++) {
		histogram_record(h, 50000000);
	}
	before = copy_of(h);
	for (unsigned i = 0; i < 100; i++) {
		histogram_record(h, 2000);
	}
	now = copy_of(h);
	ok(close_enough(histogram_quantile(&now, 0.5), 50000000),
		"since the start the old values rule");
	histogram_subtract(&now, &before);
	is_int((int64_t)now.count, 100, "an interval has its own count");
	ok(close_enough(histogram_quantile(&now, 0.5), 2000), "and its own median");
	ok(now.max_ns >= 2000 && now.max_ns < 2100, "its maximum is that of its highest bucket");
	histogram_copy_finish(&now);
	now = copy_of(h);
	histogram_subtract(&before, &now);
	is_int((int64_t)before.count, 1000, "a histogram that began anew is not subtracted");
	histogram_copy_finish(&now);
	histogram_copy_finish(&before);
	free(h);
}

/* A reader follows the parameters in the record, whatever they are, but never out of it. */
static void test_foreign_parameters(void)
{
	struct histogram *h = new_histogram();
	struct histogram_copy c;

	h->sub_bits = 5;
	h->nbuckets = 32 * 4;
	put(&h->bucket[32 + 3], 1u);
	put(&h->max_ns, 1000000u);
	c = copy_of(h);
	is_int((int64_t)histogram_quantile(&c, 0.5), (32 + 3) * 16 + 8,
		"other parameters are understood");
	histogram_copy_finish(&c);
	h->nbuckets = HISTOGRAM_BUCKETS + 64;
	h->sub_bits = 6;
	is_int(histogram_copy_init(&c, h, sizeof(*h)), -EPROTO, "more buckets than the record has");
	h->nbuckets = UINT32_MAX;
	is_int(histogram_copy_init(&c, h, sizeof(*h)), -EPROTO, "an absurd number of buckets");
	h->nbuckets = 64;
	h->unit_shift = 63;
	is_int(histogram_copy_init(&c, h, sizeof(*h)), -EPROTO, "buckets beyond 64 bits");
	h->sub_bits = 40;
	is_int(histogram_copy_init(&c, h, sizeof(*h)), -EPROTO, "absurd sub-buckets");
	histogram_init(h);
	is_int(histogram_copy_init(&c, h, 100), -EPROTO, "a record that is too short");
	is_int(histogram_copy_init(&c, h, 8), -EPROTO, "or shorter than its head");
	free(h);
}

int main(void)
{
	test_buckets();
	test_percentiles();
	test_empty_and_overflow();
	test_interval();
	test_foreign_parameters();
	return done_testing();
}
