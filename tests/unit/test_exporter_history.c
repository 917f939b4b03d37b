/* SPDX-License-Identifier: MIT */
/*
 * test_exporter_history.c - the last hour: rates, sums and percentiles of a second, what is not
 * known, more seconds than there is room for, pools that come and go.
 */
#include "exporter_history.h"
#include "tap.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define NPOOLS 2u

/* A sample with two pools, as the reader makes them. */
struct fake {
	struct sample s;
	struct metric_desc desc[METRIC_DESC_COUNT];
	uint64_t values[METRIC_COUNT], pool_values[NPOOLS * BOARD_POOL_WORDS];
	struct pool_row pools[NPOOLS];
	struct histogram_copy hist[NPOOLS * POOL_HIST_COUNT];
	uint64_t buckets[NPOOLS * POOL_HIST_COUNT][HISTOGRAM_BUCKETS];
};

static struct fake *fake_create(uint64_t mono_s)
{
	struct fake *f = calloc(1, sizeof(*f));

	if (f == NULL) {
		bail_out("out of memory");
	}
	for (unsigned i = 0; i < METRIC_DESC_COUNT; i++) {
		metric_describe(i, &f->desc[i]);
	}
	for (unsigned i = 0; i < array_size(f->hist); i++) {
		f->hist[i] = (struct histogram_copy){.unit_shift = HISTOGRAM_UNIT_SHIFT,
			.sub_bits = HISTOGRAM_SUB_BITS,
			.nbuckets = HISTOGRAM_BUCKETS,
			.bucket = f->buckets[i]};
	}
	strcpy(f->pools[0].info.name, "main");
	strcpy(f->pools[1].info.name, "re\"ports");
	f->pools[0].used = f->pools[1].used = true;
	f->s = (struct sample){.mono_ns = mono_s * 1000000000u,
		.life = READER_RUNNING,
		.pid = 1,
		.ndesc = METRIC_DESC_COUNT,
		.nvalues = METRIC_COUNT,
		.npools = NPOOLS,
		.pool_words = BOARD_POOL_WORDS,
		.nhist = NPOOLS * POOL_HIST_COUNT,
		.hist_per_pool = POOL_HIST_COUNT,
		.desc = f->desc,
		.values = f->values,
		.pool_values = f->pool_values,
		.hist = f->hist,
		.pools = f->pools};
	return f;
}

static void set(struct fake *f, unsigned pool, enum pool_metric m, uint64_t v)
{
	f->pool_values[pool * BOARD_POOL_WORDS + m] = v;
}

static void record(struct fake *f, unsigned pool, enum pool_histogram h, uint64_t ns, uint64_t n)
{
	struct histogram_copy *c = &f->hist[pool * POOL_HIST_COUNT + h];

	c->bucket[histogram_bucket(ns)] += n;
	c->count += n;
	c->sum_ns += ns * n;
	c->max_ns = ns > c->max_ns ? ns : c->max_ns;
}

static json_t *parsed(const struct history *h, const char *pool, unsigned seconds)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	json_t *doc;

	if (f == NULL) {
		bail_out("open_memstream");
	}
	if (!history_write(h, f, pool, seconds)) {
		fclose(f);
		free(text);
		return NULL;
	}
	fclose(f);
	doc = json_loads(text, 0, NULL);
	ok(doc != NULL, "the history is JSON");
	free(text);
	return doc;
}

static bool near(double got, double want)
{
	return got > want * 0.99 && got < want * 1.01;
}

/* Value i of a field; -1: null. */
static double at(const json_t *doc, const char *field, size_t i)
{
	const json_t *v = json_array_get(json_object_get(doc, field), i);

	return json_is_number(v) ? json_number_value(v) : -1;
}

static void test_second(void)
{
	struct history *h = history_create();
	struct fake *before = fake_create(10), *now = fake_create(12);
	json_t *doc;

	set(before, 0, POOL_METRIC_STATEMENTS_FINISHED, 100);
	set(now, 0, POOL_METRIC_STATEMENTS_FINISHED, 300);
	set(now, 1, POOL_METRIC_STATEMENTS_FINISHED, 50);
	set(now, 0, POOL_METRIC_WAITERS, 4);
	set(now, 1, POOL_METRIC_WAITERS, 3);
	record(before, 0, POOL_HIST_RUN, 900000000, 1000); /* of the time before: does not count */
	record(now, 0, POOL_HIST_RUN, 900000000, 1000);
	record(now, 0, POOL_HIST_RUN, 1000000, 60);
	record(now, 1, POOL_HIST_RUN, 20000000, 40);
	history_add(h, &before->s, NULL, 5000000000);
	history_add(h, &now->s, &before->s, 7000000000);
	is_int(history_length(h), 2, "two points");
	doc = parsed(h, NULL, HISTORY_SECONDS);
	ok(near(at(doc, "time", 1), 7), "with their times");
	ok(at(doc, "statements", 0) < 0, "the rate of the first is not known");
	ok(near(at(doc, "statements", 1), 125), "250 statements in two seconds");
	ok(near(at(doc, "waiters", 1), 7), "gauges are added up");
	ok(near(at(doc, "run_p50", 1), 0.001), "the median of both pools together");
	ok(near(at(doc, "run_p95", 1), 0.02), "and the 95th percentile");
	ok(at(doc, "wait_p50", 1) < 0, "nothing waited: null");
	json_decref(doc);
	doc = parsed(h, "re\"ports", 1);
	is_int((int64_t)json_array_size(json_object_get(doc, "time")), 1,
		"one point was asked for");
	is_str(json_string_value(json_object_get(doc, "pool")), "re\"ports", "of one pool");
	ok(near(at(doc, "statements", 0), 25), "its own rate");
	ok(near(at(doc, "run_p50", 0), 0.02), "its own median");
	json_decref(doc);
	ok(parsed(h, "nobody", 1) == NULL, "a pool that was never there");
	history_destroy(&h);
	free(before);
	free(now);
}

/* Restart, death, no board: what is not known is null, and no rate is negative. */
static void test_unknown(void)
{
	struct history *h = history_create();
	struct fake *old = fake_create(10), *new = fake_create(11);
	json_t *doc;

	set(old, 0, POOL_METRIC_STATEMENTS_FINISHED, 1000);
	new->s.pid = 2;
	set(new, 0, POOL_METRIC_WAITERS, 1);
	history_add(h, &new->s, &old->s, 1000000000);
	new->s.life = READER_DEAD;
	history_add(h, &new->s, &new->s, 2000000000);
	history_add(h, NULL, &new->s, 3000000000);
	doc = parsed(h, NULL, 3);
	ok(at(doc, "statements", 0) < 0, "another broker: no rate");
	ok(near(at(doc, "waiters", 0), 1), "but its gauges");
	ok(at(doc, "waiters", 1) < 0, "a dead broker: nothing");
	ok(at(doc, "waiters", 2) < 0, "no board: nothing");
	json_decref(doc);
	history_destroy(&h);
	free(old);
	free(new);
}

static void test_wrap(void)
{
	struct history *h = history_create();
	struct fake *f = fake_create(10);
	json_t *doc;

	for (unsigned i = 0; i < HISTORY_SECONDS + 10; i++) {
		set(f, 0, POOL_METRIC_WAITERS, i);
		history_add(h, &f->s, NULL, i * UINT64_C(1000000000));
		f->pools[1].used = i < 5; /* it goes */
	}
	is_int(history_length(h), HISTORY_SECONDS, "an hour is kept");
	doc = parsed(h, "main", HISTORY_SECONDS);
	is_int((int64_t)at(doc, "waiters", 0), 10, "the oldest are forgotten");
	is_int((int64_t)at(doc, "waiters", HISTORY_SECONDS - 1), HISTORY_SECONDS + 9,
		"the newest is last");
	json_decref(doc);
	doc = parsed(h, "re\"ports", HISTORY_SECONDS);
	ok(at(doc, "waiters", 0) < 0, "a pool that went has nothing");
	json_decref(doc);
	history_destroy(&h);
	free(f);
}

static void test_latest(void)
{
	struct history *h = history_create();
	struct fake *f = fake_create(10);
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	json_t *doc;

	history_write_latest(h, out);
	fflush(out);
	is_str(text, "null", "no point yet");
	rewind(out);
	set(f, 1, POOL_METRIC_WAITERS, 9);
	history_add(h, &f->s, NULL, 1000000000);
	history_write_latest(h, out);
	fclose(out);
	doc = json_loads(text, 0, NULL);
	is_int(json_integer_value(json_object_get(
		       json_object_get(json_object_get(doc, "pools"), "re\"ports"), "waiters")),
		9, "the newest point by pool");
	is_int(json_integer_value(json_object_get(json_object_get(doc, "all"), "waiters")), 9,
		"and of all");
	json_decref(doc);
	free(text);
	history_destroy(&h);
	free(f);
}

int main(void)
{
	test_second();
	test_unknown();
	test_wrap();
	test_latest();
	return done_testing();
}
