/* SPDX-License-Identifier: MIT */
/* histogram.c - see histogram.h: the readers' side. */
#include "histogram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void histogram_init(struct histogram *h)
{
	h->unit_shift = HISTOGRAM_UNIT_SHIFT;
	h->sub_bits = HISTOGRAM_SUB_BITS;
	h->nbuckets = HISTOGRAM_BUCKETS;
}

/* The parameters, read once, describe buckets below 2^64 that lie inside the record. */
static bool parameters_ok(const struct histogram_copy *c, size_t len)
{
	uint32_t groups;

	if (len < offsetof(struct histogram, bucket) || c->sub_bits < 1 || c->sub_bits > 16) {
		return false;
	}
	groups = c->nbuckets >> c->sub_bits;
	return groups >= 1 && (groups << c->sub_bits) == c->nbuckets &&
	       (uint64_t)groups + c->sub_bits + c->unit_shift <= 64 && c->unit_shift < 64 &&
	       c->nbuckets <= (len - offsetof(struct histogram, bucket)) / sizeof(uint64_t);
}

int histogram_copy_init(struct histogram_copy *out, const struct histogram *h, size_t len)
{
	const volatile struct histogram *v = h; /* the segment may change under us: read once */

	memset(out, 0, sizeof(*out));
	validate(len >= offsetof(struct histogram, bucket), -EPROTO);
	out->unit_shift = v->unit_shift;
	out->sub_bits = v->sub_bits;
	out->nbuckets = v->nbuckets;
	validate(parameters_ok(out, len), -EPROTO);
	out->bucket = calloc(out->nbuckets, sizeof(*out->bucket));
	if (out->bucket == NULL) {
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < out->nbuckets; i++) {
		out->bucket[i] = get(&h->bucket[i]);
		out->count += out->bucket[i];
	}
	out->sum_ns = get(&h->sum_ns);
	out->max_ns = get(&h->max_ns);
	return 0;
}

void histogram_copy_finish(struct histogram_copy *c)
{
	free(c->bucket);
	memset(c, 0, sizeof(*c));
}

uint64_t histogram_bucket_low(const struct histogram_copy *c, uint32_t bucket)
{
	uint32_t group = bucket >> c->sub_bits;
	uint64_t sub = bucket & ((1u << c->sub_bits) - 1u);

	if (group == 0) {
		return sub << c->unit_shift;
	}
	return (sub + (UINT64_C(1) << c->sub_bits)) << (group - 1 + c->unit_shift);
}

uint64_t histogram_bucket_width(const struct histogram_copy *c, uint32_t bucket)
{
	uint32_t group = bucket >> c->sub_bits;

	return UINT64_C(1) << ((group == 0 ? 0 : group - 1) + c->unit_shift);
}

uint64_t histogram_quantile(const struct histogram_copy *c, double q)
{
	double exact = q * (double)c->count;
	uint64_t rank = exact <= 1 ? 1 : (uint64_t)exact;
	uint64_t seen = 0;

	if (c->count == 0) {
		return 0;
	}
	if ((double)rank < exact) {
		rank++;
	}
	for (uint32_t i = 0; i < c->nbuckets; i++) {
		seen += c->bucket[i];
		if (seen >= rank) {
			uint64_t mid =
				histogram_bucket_low(c, i) + histogram_bucket_width(c, i) / 2;

			return mid < c->max_ns ? mid : c->max_ns;
		}
	}
	return c->max_ns;
}

uint64_t histogram_mean(const struct histogram_copy *c)
{
	return c->count == 0 ? 0 : c->sum_ns / c->count;
}

static bool comparable(const struct histogram_copy *a, const struct histogram_copy *b)
{
	return b->bucket != NULL && a->nbuckets == b->nbuckets && a->sub_bits == b->sub_bits &&
	       a->unit_shift == b->unit_shift && a->count >= b->count && a->sum_ns >= b->sum_ns;
}

void histogram_subtract(struct histogram_copy *now, const struct histogram_copy *before)
{
	uint32_t top = 0;

	if (!comparable(now, before)) {
		return;
	}
	now->count = 0;
	for (uint32_t i = 0; i < now->nbuckets; i++) {
		uint64_t old = before->bucket[i];

		now->bucket[i] = now->bucket[i] > old ? now->bucket[i] - old : 0;
		now->count += now->bucket[i];
		top = now->bucket[i] != 0 ? i : top;
	}
	now->sum_ns -= before->sum_ns;
	if (now->count == 0) {
		now->max_ns = 0;
	} else if (now->max_ns == before->max_ns) {
		uint64_t end =
			histogram_bucket_low(now, top) + histogram_bucket_width(now, top) - 1;

		now->max_ns = end < now->max_ns ? end : now->max_ns;
	}
}
