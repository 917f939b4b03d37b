/* SPDX-License-Identifier: MIT */
/* test_client_stmtcache.c - statement numbers against an obvious list in order of use. */
#include "stmtcache.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT 20u
#define TEXTS 60u

/* The oracle: texts in order of use, most recent first, with their numbers. */
struct oracle {
	unsigned text[LIMIT], id[LIMIT];
	unsigned n;
};

static int oracle_find(const struct oracle *o, unsigned text)
{
	for (unsigned i = 0; i < o->n; i++) {
		if (o->text[i] == text) {
			return (int)i;
		}
	}
	return -1;
}

static void oracle_front(struct oracle *o, unsigned at, unsigned text, unsigned id)
{
	memmove(o->text + 1, o->text, at * sizeof(o->text[0]));
	memmove(o->id + 1, o->id, at * sizeof(o->id[0]));
	o->text[0] = text;
	o->id[0] = id;
}

static void oracle_remove(struct oracle *o, unsigned at)
{
	o->n--;
	memmove(o->text + at, o->text + at + 1, (o->n - at) * sizeof(o->text[0]));
	memmove(o->id + at, o->id + at + 1, (o->n - at) * sizeof(o->id[0]));
}

/* One use of a text.  False: cache and oracle disagree. */
static bool use(struct stmtcache *sc, struct oracle *o, unsigned text, bool fail)
{
	struct stmtcache_key key;
	char sql[64];
	int at = oracle_find(o, text);
	int len = snprintf(sql, sizeof(sql), "SELECT %u FROM somewhere", text);
	uint32_t id;

	stmtcache_find(sc, sql, (size_t)len, &key);
	if (at >= 0) {
		id = o->id[at];
		oracle_front(o, (unsigned)at, text, id);
		return key.id == id;
	}
	if (key.id != 0) {
		return false;
	}
	id = stmtcache_define(sc, &key);
	if (o->n == LIMIT) { /* the least recently used number is taken */
		if (id != o->id[LIMIT - 1]) {
			return false;
		}
		oracle_remove(o, LIMIT - 1);
	}
	if (fail) {
		stmtcache_forget(sc, id);
		return id >= 1 && id <= LIMIT;
	}
	oracle_front(o, o->n++, text, id);
	return id >= 1 && id <= LIMIT;
}

static void test_against_oracle(void)
{
	struct stmtcache *sc = stmtcache_create(LIMIT);
	struct oracle o = {.n = 0};
	unsigned wrong = 0;

	srand(1);
	for (unsigned i = 0; i < 50000; i++) {
		wrong += !use(sc, &o, (unsigned)rand() % TEXTS, rand() % 16 == 0);
	}
	is_int(wrong, 0, "50000 random uses, a sixteenth of the definitions taken back");
	stmtcache_destroy(sc);
}

static void test_edges(void)
{
	struct stmtcache *sc = stmtcache_create(CHAN_MAX_STMTS + 5);
	char *big = malloc(STMTCACHE_TEXT_MAX + 2);
	struct stmtcache_key key;
	unsigned bad = 0;
	char sql[32];

	memset(big, 'x', STMTCACHE_TEXT_MAX + 1);
	stmtcache_find(sc, big, STMTCACHE_TEXT_MAX + 1, &key);
	is_int(stmtcache_define(sc, &key), 0, "a text that is too long gets no number");
	stmtcache_find(sc, big, STMTCACHE_TEXT_MAX, &key);
	is_int(stmtcache_define(sc, &key), 1, "the longest gets the first number");
	stmtcache_find(sc, big, STMTCACHE_TEXT_MAX - 1, &key);
	is_int(key.id, 0, "its prefix is another text");
	stmtcache_find(sc, "", 0, &key);
	is_int(stmtcache_define(sc, &key), 0, "the empty text gets no number");
	for (unsigned i = 0; i < 3000; i++) {
		uint32_t id;

		stmtcache_find(sc, sql, (size_t)sprintf(sql, "%u", i), &key);
		id = stmtcache_define(sc, &key);
		bad += id == 0 || id >= CHAN_MAX_STMTS;
	}
	is_int(bad, 0, "numbers stay below CHAN_MAX_STMTS");
	stmtcache_find(sc, big, STMTCACHE_TEXT_MAX, &key);
	is_int(key.id, 0, "the oldest was forgotten");
	free(big);
	stmtcache_destroy(sc);
	stmtcache_destroy(NULL);
}

int main(void)
{
	test_against_oracle();
	test_edges();
	return done_testing();
}
