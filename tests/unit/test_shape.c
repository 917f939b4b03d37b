/* SPDX-License-Identifier: MIT */
/* test_shape.c - the table of shapes: counting, eviction, tags, torn reads. */
#include "shape.h"
#include "tap.h"

#include "atomics.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 4u

static struct shape_row *rows;
static struct shape_table *table;

static void start(void)
{
	rows = aligned_alloc(128, ROWS * SHAPE_ROW);
	memset(rows, 0, ROWS * SHAPE_ROW);
	table = shape_table_create(rows, ROWS);
	if (table == NULL) {
		bail_out("shape_table_create");
	}
}

static void stop(void)
{
	shape_table_destroy(table);
	free(rows);
}

static bool evicted;

static uint32_t add(uint32_t pool, uint64_t fingerprint, uint64_t now)
{
	return shape_add(table, pool, fingerprint, "select ?", 8, false, now, &evicted);
}

static struct shape_row read_row(uint32_t i)
{
	struct shape_row r;
	bool torn;

	ok(shape_read(&rows[i], SHAPE_ROW, &r, &torn) && !torn, "row %u can be read", i);
	return r;
}

static void test_counting(void)
{
	struct shape_call call = {.now_ns = 50,
		.wait_ns = 5,
		.run_ns = 2000000,
		.rows = 3,
		.ran = true,
		.tag = "GET /a",
		.tag_len = 6};
	struct histogram_copy h;
	struct shape_row r;
	uint32_t i;

	start();
	is_int(shape_find(table, 1, 77, 0), SHAPE_NONE, "an empty table has no shape");
	i = add(1, 77, 10);
	is_int(shape_find(table, 1, 77, SHAPE_NONE), i, "a shape is found");
	is_int(shape_find(table, 1, 77, i), i, "with a right hint");
	is_int(shape_find(table, 1, 77, (i + 1) % ROWS), i, "with a wrong hint");
	is_int(shape_find(table, 2, 77, i), SHAPE_NONE, "but not that of another pool");
	for (unsigned k = 0; k < 95; k++) {
		shape_count(table, i, &call);
	}
	call.run_ns = 900000000;
	for (unsigned k = 0; k < 5; k++) {
		shape_count(table, i, &call);
	}
	call.failed = true;
	call.ran = false;
	call.now_ns = 60;
	call.rows = 0;
	shape_count(table, i, &call);
	r = read_row(i);
	ok(r.fingerprint == 77 && r.pool == 1 && r.first_ns == 10 && r.last_ns == 60, "identity");
	ok(r.calls == 101 && r.errors == 1 && r.rows == 300 && r.wait_ns == 505, "sums");
	ok(r.text_len == 8 && memcmp(r.text, "select ?", 8) == 0 && r.flags == 0, "text");
	if (histogram_copy_init(&h, (struct histogram *)(void *)&r.run, sizeof(r.run)) < 0) {
		bail_out("the times are no histogram");
	}
	is_int((int64_t)h.count, 100, "what never ran has no time");
	is_int((int64_t)h.max_ns, 900000000, "the longest");
	is_int((int64_t)h.sum_ns, 95 * 2000000ll + 5 * 900000000ll, "the total");
	ok(histogram_quantile(&h, 0.5) > 1880000 && histogram_quantile(&h, 0.5) < 2120000,
		"the median within 6 %%");
	ok(histogram_quantile(&h, 0.96) > 846000000, "the tail");
	histogram_copy_finish(&h);
	stop();
}

static void test_tags(void)
{
	static const char *const tags[] = {"a", "b", "a", "c", "b", "d", "e", ""};
	struct shape_call call = {.now_ns = 1};
	char longest[CHAN_TAG_MAX];
	struct shape_row r;
	uint32_t i;

	start();
	i = add(0, 1, 1);
	r = read_row(i);
	ok(shape_tag(&r, 0) == NULL, "no tag yet");
	for (size_t k = 0; k < sizeof(tags) / sizeof(tags[0]); k++) {
		call.tag = tags[k];
		call.tag_len = strlen(tags[k]);
		shape_count(table, i, &call);
	}
	r = read_row(i);
	is_str(shape_tag(&r, 0), "e", "the latest");
	is_str(shape_tag(&r, 1), "d", "before it");
	is_str(shape_tag(&r, 3), "b", "the fourth");
	ok(shape_tag(&r, 4) == NULL, "there are no more");
	memset(longest, 'x', sizeof(longest));
	call.tag = longest;
	call.tag_len = sizeof(longest);
	shape_count(table, i, &call);
	r = read_row(i);
	ok(memcmp(shape_tag(&r, 0), longest, sizeof(longest)) == 0, "a tag that fills its place");
	stop();
}

static void count_times(uint32_t i, unsigned n, uint64_t now)
{
	struct shape_call call = {.now_ns = now};

	while (n-- > 0) {
		shape_count(table, i, &call);
	}
}

static void test_eviction(void)
{
	struct shape_row r;
	uint32_t i, busy;

	start();
	for (unsigned k = 0; k < ROWS; k++) {
		i = add(0, 100 + k, k);
		ok(!evicted, "row %u was free", i);
		count_times(i, 10 * (k + 1), k);
	}
	busy = shape_find(table, 0, 103, 0);
	i = add(0, 200, 10);
	ok(evicted && shape_find(table, 0, 100, i) == SHAPE_NONE, "the least used goes");
	ok(shape_find(table, 0, 200, 0) == i, "the new one has its row");
	r = read_row(i);
	ok(r.calls == 0 && r.first_ns == 10 && r.ntags == 0, "which counts anew");
	for (unsigned k = 0; k < 60; k++) { /* each is used once, and the next takes its row */
		i = add(0, 300 + k, 20 + k);
		count_times(i, k < 30 ? 1 : 12, 20 + k);
	}
	is_int(shape_find(table, 0, 103, 0), SHAPE_NONE, "what is not used any more goes in time");
	ok(shape_find(table, 0, 359, 0) != SHAPE_NONE && busy < ROWS, "the newest is there");
	stop();
}

static void test_long_text(void)
{
	char text[2 * SHAPE_TEXT_MAX];
	struct shape_row r;
	uint32_t i;

	start();
	memset(text, 'x', sizeof(text));
	i = shape_add(table, 0, 1, text, sizeof(text), false, 1, &evicted);
	r = read_row(i);
	ok(r.text_len == SHAPE_TEXT_MAX && (r.flags & SHAPE_F_TRUNCATED), "a long text is cut");
	i = shape_add(table, 0, 2, text, 5, true, 1, &evicted);
	r = read_row(i);
	ok(r.text_len == 5 && (r.flags & SHAPE_F_TRUNCATED), "one that was cut before says so");
	stop();
}

/* Readers of an older or a newer version. */
static void test_strides(void)
{
	struct shape_row r;
	bool torn;
	uint32_t i;

	start();
	i = add(0, 9, 1);
	ok(shape_read(&rows[i], 2248, &r, &torn) && r.text_len == 8,
		"a shorter row is read as it is");
	ok(!shape_read(&rows[i], 2232, &r, &torn), "one without its head is not");
	ok(!shape_read(&rows[i + 1], SHAPE_ROW, &r, &torn), "a free row");
	put(&rows[i].seq, 7u);
	ok(shape_read(&rows[i], SHAPE_ROW, &r, &torn) && torn, "a writer that died in the middle");
	stop();
}

#define WRITES 200000u

static _Atomic uint32_t done;

/* Calls, rows and waits always grow together. */
static void *count_for_ever(void *arg)
{
	uint32_t *i = arg;

	for (unsigned k = 1; k <= WRITES; k++) {
		struct shape_call call = {
			.now_ns = k, .wait_ns = 1, .rows = 1, .run_ns = 1, .ran = true};

		shape_count(table, *i, &call);
		if (k % 10000 == 0) { /* its row is taken, and given back */
			for (unsigned n = 0; n < 2 * ROWS; n++) {
				(void)add(0, 1000 + k + n, k);
			}
			*i = add(0, k, k);
		}
	}
	publish(&done, 1u);
	return NULL;
}

static void test_race(void)
{
	unsigned wrong = 0, seen = 0;
	struct shape_row r;
	uint32_t i;
	pthread_t t;

	start();
	i = add(0, 1, 1);
	if (pthread_create(&t, NULL, count_for_ever, &i) != 0) {
		bail_out("pthread_create");
	}
	for (bool last = false; !last;) {
		last = observe(&done) != 0;
		for (unsigned k = 0; k < ROWS; k++) {
			bool torn, used = shape_read(&rows[k], SHAPE_ROW, &r, &torn);

			seen += used && !torn;
			wrong += used && !torn &&
				 (r.calls != r.rows || r.calls != r.wait_ns ||
					 r.calls != r.run.sum_ns || r.calls != r.run.bucket[0]);
		}
	}
	pthread_join(t, NULL);
	is_int(wrong, 0, "no mixture of two versions is read while %u are written", WRITES);
	ok(seen > ROWS, "and reads succeed meanwhile");
	stop();
}

int main(void)
{
	test_counting();
	test_tags();
	test_eviction();
	test_long_text();
	test_strides();
	test_race();
	return done_testing();
}
