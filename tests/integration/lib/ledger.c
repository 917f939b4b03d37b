/* SPDX-License-Identifier: MIT */
/* ledger.c - see ledger.h. */
#include "ledger.h"

#include "pg.h"
#include "shmbroker.h"
#include "tap.h"
#include "wait.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum note {
	NOTE_NONE,
	NOTE_SENT,
	NOTE_ACKED,
	NOTE_FAILED,
	NOTE_UNKNOWN,
};

/* Written by one writer; note last. */
struct entry {
	int64_t begin_us, end_us;
	_Atomic uint8_t note;
};

struct ledger {
	uint32_t entries;
	_Atomic uint32_t next;
	_Atomic int64_t last_ack_us; /* about: for a look that costs nothing */
	struct entry entry[];
};

static size_t size_of(uint32_t entries)
{
	return sizeof(struct ledger) + entries * sizeof(struct entry);
}

struct ledger *ledger_create(uint32_t entries)
{
	struct ledger *l = mmap(NULL, size_of(entries), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (l == MAP_FAILED) {
		bail_out("mmap: %s", strerror(errno));
	}
	l->entries = entries;
	return l;
}

void ledger_destroy(struct ledger **l)
{
	if (*l != NULL) {
		(void)munmap(*l, size_of((*l)->entries));
	}
	*l = NULL;
}

uint32_t ledger_begin(struct ledger *l)
{
	uint32_t i = atomic_fetch_add(&l->next, 1);

	if (i >= l->entries) {
		fprintf(stderr, "the ledger is full\n");
		_exit(3);
	}
	l->entry[i].begin_us = wait_clock_us();
	atomic_store(&l->entry[i].note, NOTE_SENT);
	return i;
}

static void set_note(struct ledger *l, uint32_t number, enum note note)
{
	l->entry[number].end_us = wait_clock_us();
	atomic_store(&l->entry[number].note, (uint8_t)note);
}

void ledger_end(struct ledger *l, uint32_t number, const struct broker *b, int rc)
{
	enum note failed =
		rc < 0 && broker_error(b)->outcome == BROKER_UNKNOWN ? NOTE_UNKNOWN : NOTE_FAILED;

	set_note(l, number, rc >= 0 ? NOTE_ACKED : failed);
	if (rc >= 0) {
		atomic_store(&l->last_ack_us, l->entry[number].end_us);
	}
}

void ledger_failed(struct ledger *l, uint32_t number)
{
	set_note(l, number, NOTE_FAILED);
}

static uint32_t begun(const struct ledger *l)
{
	uint32_t n = atomic_load(&l->next);

	return n < l->entries ? n : l->entries;
}

struct ledger_count ledger_count(const struct ledger *l)
{
	struct ledger_count c = {.begun = begun(l)};

	for (uint32_t i = 0; i < c.begun; i++) {
		unsigned note = atomic_load(&l->entry[i].note);

		c.acked += note == NOTE_ACKED;
		c.failed += note == NOTE_FAILED;
		c.unknown += note == NOTE_UNKNOWN;
		c.open += note == NOTE_SENT || note == NOTE_NONE;
	}
	return c;
}

int64_t ledger_acked_after(const struct ledger *l, int64_t us)
{
	int64_t first = 0;

	if (atomic_load(&l->last_ack_us) < us) {
		return 0;
	}
	for (uint32_t i = begun(l); i-- > 0;) {
		const struct entry *e = &l->entry[i];

		if (atomic_load(&e->note) == NOTE_ACKED && e->end_us >= us &&
			(first == 0 || e->end_us < first)) {
			first = e->end_us;
		}
	}
	return first;
}

int64_t ledger_longest_pause(const struct ledger *l, int64_t from_us, int64_t to_us)
{
	int64_t ms = (to_us - from_us) / 1000, pause = 0, longest = 0;
	bool *acked = calloc((size_t)(ms > 0 ? ms : 0) + 1, sizeof(bool));

	if (acked == NULL) {
		bail_out("out of memory");
	}
	for (uint32_t i = 0; i < begun(l); i++) {
		const struct entry *e = &l->entry[i];

		if (atomic_load(&e->note) == NOTE_ACKED && e->end_us >= from_us &&
			e->end_us < to_us) {
			acked[(e->end_us - from_us) / 1000] = true;
		}
	}
	for (int64_t i = 0; i < ms; i++) {
		pause = acked[i] ? 0 : pause + 1;
		longest = pause > longest ? pause : longest;
	}
	free(acked);
	return longest;
}

/* -- comparing --------------------------------------------------------------------------------- */

struct finding {
	uint32_t missing, ghost, twice, stranger;
	int64_t example; /* number of one of them */
};

static uint8_t *take_notes(const struct ledger *l, uint32_t *n)
{
	uint8_t *notes;

	*n = begun(l);
	notes = calloc(*n + 1, 1);
	if (notes == NULL) {
		bail_out("out of memory");
	}
	for (uint32_t i = 0; i < *n; i++) {
		notes[i] = atomic_load(&l->entry[i].note);
	}
	return notes;
}

/* How often each number is there. */
static uint8_t *read_numbers(
	const struct ledger *l, struct pg_cluster *pg, const char *sql, struct finding *f)
{
	uint8_t *there = calloc(l->entries, 1);
	PGconn *c = pg_connect(pg);
	PGresult *r = PQexec(c, sql);

	if (there == NULL || PQresultStatus(r) != PGRES_TUPLES_OK) {
		bail_out("%s: %s", sql, PQerrorMessage(c));
	}
	for (int i = 0; i < PQntuples(r); i++) {
		long long number = atoll(PQgetvalue(r, i, 0)), times = atoll(PQgetvalue(r, i, 1));

		if (number < 0 || number >= (long long)l->entries) {
			f->stranger++;
			f->example = number;
		} else {
			there[number] = (uint8_t)(times > 2 ? 2 : times);
		}
	}
	PQclear(r);
	PQfinish(c);
	return there;
}

static void compare(const uint8_t *notes, uint32_t n, const uint8_t *there, struct finding *f)
{
	for (uint32_t i = 0; i < n; i++) {
		bool missing = notes[i] == NOTE_ACKED && there[i] == 0;
		bool ghost = notes[i] == NOTE_FAILED && there[i] != 0;

		f->missing += missing;
		f->ghost += ghost;
		f->twice += there[i] > 1;
		f->example = missing || ghost || there[i] > 1 ? (int64_t)i : f->example;
	}
}

bool ledger_check(const struct ledger *l, struct pg_cluster *pg, const char *sql, const char *what)
{
	struct finding f = {.example = -1};
	uint32_t n;
	uint8_t *notes = take_notes(l, &n);
	uint8_t *there = read_numbers(l, pg, sql, &f);
	struct ledger_count c = ledger_count(l);
	bool good;

	compare(notes, n, there, &f);
	good = f.missing + f.ghost + f.twice + f.stranger == 0;
	ok(good, "%s: what was acknowledged is there, once; what failed is not", what);
	diag("%u writes: %u acknowledged, %u failed, %u unknown", c.begun, c.acked, c.failed,
		c.unknown);
	if (!good) {
		const struct entry *e =
			f.example >= 0 && f.example < n ? &l->entry[f.example] : NULL;

		diag("missing %u, there in spite of a failure %u, there twice %u, nobody's %u",
			f.missing, f.ghost, f.twice, f.stranger);
		diag("for example %lld, sent at %lld us, ended at %lld us", (long long)f.example,
			e != NULL ? (long long)e->begin_us : 0LL,
			e != NULL ? (long long)e->end_us : 0LL);
	}
	free(there);
	free(notes);
	return good;
}
