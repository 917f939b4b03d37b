/* SPDX-License-Identifier: MIT */
/* test_slowring.c - slow-query slots: content, truncation, overwriting, and reading while written.
 */
#include "seqlock.h"
#include "slowring.h"
#include "tap.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 4u

static void test_content(void)
{
	struct slow_slot *slots = aligned_alloc(64, SLOTS * SLOW_SLOT), out;
	struct slowring r;
	struct slow_record rec = {.pool = 2,
		.server = 1,
		.worker_pid = 4711,
		.tag = "GET /item",
		.sql = "SELECT 1, and more",
		.sql_len = 8,
		.when_ns = 11,
		.wait_ns = 22,
		.run_ns = 33,
		.rows = 44,
		.code = 2013,
		.sqlstate = "40001",
		.fingerprint = 55};

	memset(slots, 0, SLOTS * SLOW_SLOT);
	slowring_init(&r, slots, SLOTS);
	is_int((int64_t)slowring_read(&slots[0], SLOW_SLOT, &out), 0,
		"a slot never written is empty");
	slowring_write(&r, &rec);
	is_int((int64_t)slowring_read(&slots[0], SLOW_SLOT, &out), 1,
		"the first record is number 1");
	ok(out.pool == 2 && out.server == 1 && out.worker_pid == 4711 && out.when_ns == 11 &&
			out.wait_ns == 22 && out.run_ns == 33 && out.rows == 44 &&
			out.code == 2013 && out.fingerprint == 55 && out.flags == 0,
		"numbers");
	is_str(out.sqlstate, "40001", "SQLSTATE");
	is_str(out.tag, "GET /item", "tag");
	ok(out.sql_len == 8 && memcmp(out.sql, "SELECT 1", 8) == 0, "text");
	rec = (struct slow_record){.run_ns = 1};
	slowring_write(&r, &rec);
	is_int((int64_t)slowring_read(&slots[1], SLOW_SLOT, &out), 2, "no text, no tag");
	ok(out.sql_len == 0 && out.tag[0] == '\0' && out.when_ns > UINT64_C(1500000000000000000),
		"are empty, and the time is now");
	for (unsigned i = 3; i <= 9; i++) {
		slowring_write(&r, &rec);
	}
	is_int((int64_t)slowring_read(&slots[0], SLOW_SLOT, &out), 9,
		"the newest overwrites the oldest");
	is_int((int64_t)slowring_read(&slots[1], SLOW_SLOT, &out), 6, "and the others stay");
	seqlock_begin(&slots[1].seq, 19);
	is_int((int64_t)slowring_read(&slots[1], SLOW_SLOT, &out), 0,
		"a half-written slot is skipped");
	is_int((int64_t)slowring_read(&slots[2], 64, &out), 0,
		"so are slots shorter than their head");
	is_int((int64_t)slowring_read(&slots[2], 1024, &out), 7, "shorter texts are read");
	free(slots);
}

static void test_truncation(void)
{
	struct slow_slot *slots = aligned_alloc(64, SLOTS * SLOW_SLOT), out;
	char *text = malloc(5000), tag[100];
	struct slowring r;
	struct slow_record rec = {.sql = text, .tag = tag};

	memset(slots, 0, SLOTS * SLOW_SLOT);
	slowring_init(&r, slots, SLOTS);
	memset(text, 'x', 5000);
	memset(tag, 't', sizeof(tag) - 1);
	tag[sizeof(tag) - 1] = '\0';
	rec.sql_len = SLOW_TEXT_MAX;
	slowring_write(&r, &rec);
	(void)slowring_read(&slots[0], SLOW_SLOT, &out);
	ok(out.sql_len == SLOW_TEXT_MAX && out.flags == 0, "a text that just fits is whole");
	ok(memchr(out.tag, '\0', sizeof(out.tag)) == NULL, "a tag is cut at its field");
	rec.sql_len = 5000;
	memcpy(text + SLOW_TEXT_MAX - 2, "\xe2\x82\xac", 3);
	slowring_write(&r, &rec);
	(void)slowring_read(&slots[1], SLOW_SLOT, &out);
	ok(out.flags == SLOW_F_TRUNCATED && out.sql_full_len == 5000, "a longer one is flagged");
	is_int(out.sql_len, SLOW_TEXT_MAX - 2, "and cut before a character that would be split");
	free(text);
	free(slots);
}

/* Parameters stand behind the text, and long texts make room for them. */
static void test_params(void)
{
	struct slow_slot slot, out;
	struct slowring ring;
	char sql[SLOW_TEXT_MAX], params[SLOW_PARAMS_MAX + 10];
	struct slow_record rec = {.sql = sql, .sql_len = 5, .params = "$1 = 7", .params_len = 6};

	memset(&slot, 0, sizeof(slot));
	memset(sql, 's', sizeof(sql));
	memset(params, 'p', sizeof(params));
	slowring_init(&ring, &slot, 1);
	slowring_write(&ring, &rec);
	ok(slowring_read(&slot, sizeof(slot), &out) == 1 && out.params_len == 6 &&
			memcmp(slowring_params(&out), "$1 = 7", 6) == 0 && out.sql_len == 5,
		"parameters");
	rec.sql_len = sizeof(sql);
	rec.params = params;
	rec.params_len = sizeof(params);
	rec.sampled = true;
	slowring_write(&ring, &rec);
	ok(slowring_read(&slot, sizeof(slot), &out) == 2 && out.params_len == SLOW_PARAMS_MAX &&
			out.sql_len == SLOW_TEXT_MAX - SLOW_PARAMS_MAX &&
			memcmp(slowring_params(&out), params, SLOW_PARAMS_MAX) == 0,
		"both are cut to fit");
	is_int(out.flags, SLOW_F_TRUNCATED | SLOW_F_SAMPLED, "flags");
	slot.params_len = UINT32_MAX;
	ok(slowring_read(&slot, sizeof(slot), &out) == 2 && out.params_len == 0,
		"a length that does not fit is not believed");
	rec.params = NULL;
	slowring_write(&ring, &rec);
	ok(slowring_read(&slot, sizeof(slot), &out) == 3 && out.params_len == 0 &&
			out.sql_len == SLOW_TEXT_MAX,
		"without parameters the text has the whole slot");
}

static void test_cut(void)
{
	is_int((int64_t)slowring_cut("abc", 3, 5), 3, "short");
	is_int((int64_t)slowring_cut("abcdef", 6, 5), 5, "plain");
	is_int((int64_t)slowring_cut("\xf0\x9f\x98\x80x", 5, 3), 0,
		"one character that does not fit");
	is_int((int64_t)slowring_cut("\xf0\x9f\x98\x80x", 5, 4), 4, "one that does");
	is_int((int64_t)slowring_cut("a\xc3\xa4", 3, 2), 1, "two bytes");
	is_int((int64_t)slowring_cut("\x80\x80\x80\x80\x80\x80\x80", 7, 6), 6, "not UTF-8");
	is_int((int64_t)slowring_cut("", 0, 0), 0, "nothing");
}

#define WRITES 30000u

struct race {
	struct slowring ring;
	_Atomic uint32_t done;
};

static void *write_records(void *arg)
{
	struct race *race = arg;
	char text[SLOW_TEXT_MAX];

	for (unsigned i = 1; i <= WRITES; i++) {
		struct slow_record rec = {.sql = text,
			.sql_len = 1 + i % sizeof(text),
			.rows = i,
			.run_ns = i,
			.wait_ns = i};

		memset(text, 'a' + (int)(i % 26), rec.sql_len);
		slowring_write(&race->ring, &rec);
	}
	publish(&race->done, 1u);
	return NULL;
}

static bool whole(const struct slow_slot *s, uint64_t n)
{
	if (s->rows != n || s->run_ns != n || s->wait_ns != n ||
		s->sql_len != 1 + n % SLOW_TEXT_MAX) {
		return false;
	}
	for (uint32_t i = 0; i < s->sql_len; i++) {
		if (s->sql[i] != (char)('a' + (int)(n % 26))) {
			return false;
		}
	}
	return true;
}

/* Each record says its number in every part: a mixture of two would show. */
static void test_race(void)
{
	struct slow_slot *slots = aligned_alloc(64, SLOTS * SLOW_SLOT), out;
	struct race race = {.done = 0};
	unsigned torn = 0, seen = 0;
	pthread_t t;

	memset(slots, 0, SLOTS * SLOW_SLOT);
	slowring_init(&race.ring, slots, SLOTS);
	if (pthread_create(&t, NULL, write_records, &race) != 0) {
		bail_out("pthread_create");
	}
	for (bool last = false; !last;) {
		last = observe(&race.done) != 0;
		for (unsigned i = 0; i < SLOTS; i++) {
			uint64_t n = slowring_read(&slots[i], SLOW_SLOT, &out);

			seen += n != 0;
			torn += n != 0 && !whole(&out, n);
		}
	}
	pthread_join(t, NULL);
	is_int(torn, 0, "no torn record while %u are written", WRITES);
	ok(seen >= SLOTS, "and reads succeed meanwhile");
	free(slots);
}

int main(void)
{
	test_content();
	test_truncation();
	test_params();
	test_cut();
	test_race();
	return done_testing();
}
