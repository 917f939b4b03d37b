/* SPDX-License-Identifier: MIT */
/*
 * seqlock.h - records of several words with one writer, and readers that can neither wait for it
 * nor disturb it.
 *
 * The record's first word is its sequence.  The writer makes it invalid (odd), writes the body word
 * by word, and makes it valid again (even, higher).  A reader that sees the same even sequence
 * before and after has copied one version.
 *
 *      writer                              reader
 *      put(seq, odd)                       s = observe(seq)              (R1)
 *      write_fence()            (W1)       copy words, relaxed
 *      words, relaxed                      read_fence()                  (R2)
 *      publish(seq, even)       (W2)       get(seq) == s and even?
 *
 * W2 pairs with R1: who sees the even sequence sees all words of that version.  W1 pairs with R2:
 * who saw a word of the next version sees, after R2, at least its odd sequence.
 *
 *              write   read        (X = caller must exclude, - = safe)
 *   write        X      -
 *   read         -      -
 *
 * Writer: wait-free.  Reader: SEQLOCK_TRIES attempts, then it returns what it has and says that it
 * may be torn.  A writer that was stopped or killed in the middle leaves an odd sequence behind;
 * readers then show the half-written record with a mark instead of waiting for ever.
 */
#ifndef SHM_SEQLOCK_H
#define SHM_SEQLOCK_H

#include "atomics.h"
#include "check.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define SEQLOCK_TRIES 1000

/* Copy n bytes, a multiple of 8, between a shared record and private memory, one word at a time. */
static inline void seqlock_store(void *shared, const void *src, size_t n)
{
	_Atomic uint64_t *d = shared;
	const unsigned char *s = src;

	for (size_t i = 0; i < n / 8; i++) {
		uint64_t w;

		memcpy(&w, s + i * 8, sizeof(w));
		put(&d[i], w);
	}
}

static inline void seqlock_load(void *dst, const void *shared, size_t n)
{
	const _Atomic uint64_t *s = shared;
	unsigned char *d = dst;

	for (size_t i = 0; i < n / 8; i++) {
		uint64_t w = get(&s[i]);

		memcpy(d + i * 8, &w, sizeof(w));
	}
}

/* Make a record invalid, before its words are stored; any odd value does. */
static inline void seqlock_begin(_Atomic uint64_t *seq, uint64_t odd)
{
	check_slow(odd & 1);
	put(seq, odd);
	write_fence(); /* W1 */
}

/* Make it valid as version `even`, which must not have been used for this record before. */
static inline void seqlock_end(_Atomic uint64_t *seq, uint64_t even)
{
	check_slow((even & 1) == 0 && even != 0);
	publish(seq, even); /* W2 */
}

/*
 * Copy n bytes of body.  true: *version is the even sequence it was read at, 0 if never written.
 * false: torn, after SEQLOCK_TRIES attempts.
 */
static inline bool seqlock_read(
	const _Atomic uint64_t *seq, const void *body, void *dst, size_t n, uint64_t *version)
{
	for (unsigned i = 0; i < SEQLOCK_TRIES; i++) {
		uint64_t s = observe(seq); /* R1 */

		seqlock_load(dst, body, n);
		read_fence(); /* R2 */
		*version = s;
		if ((s & 1) == 0 && get(seq) == s) {
			return true;
		}
		cpu_relax();
	}
	return false;
}

#endif
