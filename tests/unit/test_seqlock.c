/* SPDX-License-Identifier: MIT */
/* test_seqlock.c - no torn rows: rows of equal words, written as fast as possible while two read.
 */
#include "seqlock.h"
#include "tap.h"

#include <pthread.h>
#include <string.h>

#define WORDS 32u
#define WRITES 300000u

struct row {
	_Atomic uint64_t seq;
	uint64_t word[WORDS];
};

struct race {
	struct row row;
	_Atomic uint32_t done;
};

struct reader {
	struct race *race;
	uint64_t good, torn, backwards;
};

static void *read_rows(void *arg)
{
	struct reader *r = arg;
	uint64_t w[WORDS], version, last = 0;

	for (bool stop = false; !stop;) {
		stop = observe(&r->race->done) != 0;
		if (!seqlock_read(&r->race->row.seq, r->race->row.word, w, sizeof(w), &version)) {
			continue;
		}
		r->good++;
		for (unsigned i = 0; i < WORDS; i++) {
			r->torn += w[i] != version / 2;
		}
		r->backwards += version < last;
		last = version;
	}
	return NULL;
}

static void test_race(void)
{
	static struct race race;
	struct reader readers[2] = {{&race, 0, 0, 0}, {&race, 0, 0, 0}};
	uint64_t w[WORDS];
	pthread_t t[2];

	for (unsigned i = 0; i < 2; i++) {
		if (pthread_create(&t[i], NULL, read_rows, &readers[i]) != 0) {
			bail_out("pthread_create");
		}
	}
	for (uint64_t n = 1; n <= WRITES; n++) {
		for (unsigned i = 0; i < WORDS; i++) {
			w[i] = n;
		}
		seqlock_begin(&race.row.seq, 2 * n - 1);
		seqlock_store(race.row.word, w, sizeof(w));
		seqlock_end(&race.row.seq, 2 * n);
	}
	publish(&race.done, 1u);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(t[i], NULL);
		diag("reader %u: %llu rows", i, (unsigned long long)readers[i].good);
		ok(readers[i].good > 0, "reader %u reads while the writer writes", i);
		is_int((int64_t)readers[i].torn, 0, "reader %u sees no torn row", i);
		is_int((int64_t)readers[i].backwards, 0, "reader %u sees no older row later", i);
	}
}

static void test_stuck_writer(void)
{
	struct row row = {.seq = 0};
	uint64_t w[WORDS], version;

	ok(seqlock_read(&row.seq, row.word, w, sizeof(w), &version) && version == 0,
		"a row never written has version 0");
	seqlock_begin(&row.seq, 1);
	row.word[0] = 5;
	ok(!seqlock_read(&row.seq, row.word, w, sizeof(w), &version),
		"a writer that died in the middle does not hold its readers");
	ok(w[0] == 5 && (version & 1) == 1, "they get what there is, marked");
	seqlock_end(&row.seq, 2);
	ok(seqlock_read(&row.seq, row.word, w, sizeof(w), &version) && version == 2, "whole again");
}

int main(void)
{
	test_stuck_writer();
	test_race();
	return done_testing();
}
