/* SPDX-License-Identifier: MIT */
/*
 * tally.h - how many connections there are of one kind, over all I/O threads.
 *
 * A server has one tally, which all I/O threads share; and so has each pool for each of its
 * servers.  Opening and closing change them, work does not: no statement touches one, but for those
 * that are known to take long.
 *
 *   CLOSED --reserved--> OPENING ----> READY ----> CLOSING ----> CLOSED
 *                           +------------+----------------------->+
 *
 * A connection counts from when it is reserved (member.c, under the lock of struct io_shared, so
 * that limits hold for all threads at once) until it is CLOSED; while it is being lent (lending.h)
 * it goes on counting.
 */
#ifndef BROKER_TALLY_H
#define BROKER_TALLY_H

#include "atomics.h"
#include "check.h"

#include <stdbool.h>

enum conn_phase {
	PHASE_CLOSED,
	PHASE_OPENING,
	PHASE_READY,
	PHASE_CLOSING,
	PHASE_COUNT
};

struct tally {
	_Atomic uint32_t n[PHASE_COUNT]; /* CLOSED is not counted */
	_Atomic uint32_t replacing; /* 1: an I/O thread replaces an old connection */
	_Atomic uint32_t slow; /* statements known to be slow that run there (choice.c) */
	_Atomic uint32_t refs;
	_Atomic uint32_t was_ready; /* logged */
	_Atomic uint64_t error; /* hash of the connect error that was logged last; 0: none */
};

/* One reference.  NULL: no memory. */
struct tally *tally_create(void) must_use;
/* One more. */
struct tally *tally_hold(struct tally *t);
/* NULL is allowed. */
void tally_put(struct tally *t);

/* Not on their way out.  Read in the order in which they move: none is missed. */
static inline unsigned tally_staying(const struct tally *t)
{
	unsigned n = observe(&t->n[PHASE_OPENING]);

	return n + observe(&t->n[PHASE_READY]);
}

static inline unsigned tally_open(const struct tally *t)
{
	unsigned n = tally_staying(t);

	return n + observe(&t->n[PHASE_CLOSING]);
}

static inline void tally_move(struct tally *t, enum conn_phase from, enum conn_phase to)
{
	if (to != PHASE_CLOSED) { /* first: for a moment too many, never too few */
		add_shared(&t->n[to], 1);
	}
	if (from != PHASE_CLOSED) {
		add_shared(&t->n[from], (uint32_t)-1);
	}
}

#endif
