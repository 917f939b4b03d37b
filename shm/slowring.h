/* SPDX-License-Identifier: MIT */
/*
 * slowring.h - single statements, in sections SLOW and SAMPLES of segment Q: fixed slots, the
 * newest overwrite the oldest.
 *
 * Record n (1, 2, 3, ...) goes to slot (n - 1) % slots and is stamped with the sequence 2 n (see
 * seqlock.h: odd while it is written).  There is no shared head: readers look at all stamps, so no
 * word can lie about where the newest is.  A reader that follows notices lost records by the gap in
 * n.
 *
 *              write   read        (X = caller must exclude, - = safe)
 *   write        X      -
 *   read         -      -
 *
 * Writer: the broker's I/O thread (of several, one at a time, see board.h), wait-free, about 2 KiB
 * of stores.  Death of the writer leaves at most one slot half written; readers skip it.
 *
 * Q holds statement texts, which are the business of other workers: only monitors may read it.
 */
#ifndef SHM_SLOWRING_H
#define SHM_SLOWRING_H

#include "check.h"
#include "layout.h"

#define SLOW_VERSION 1
#define SLOW_SLOT 2048u
#define SLOW_TEXT_MAX (SLOW_SLOT - 176u)
#define SLOW_PARAMS_MAX 768u

enum slow_flag {
	SLOW_F_TRUNCATED = 1, /* the text was longer than the slot */
	SLOW_F_SAMPLED = 2, /* drawn by lot, not because it was slow */
};

/*
 * One slot.  Writer and readers as above; every word under the slot's sequence.
 *    0 seq       8 when_ns   16 wait_ns   24 run_ns     32 rows      40 fingerprint
 *   48 pool     52 server    56 pid       60 code       64 flags     68 sql_len  72 sql_full_len
 *   80 sqlstate 88 tag      152 params_len            160 reserved 176 sql
 */
struct slow_slot {
	_Atomic uint64_t seq;
	uint64_t when_ns; /* CLOCK_REALTIME when it ended */
	uint64_t wait_ns;
	uint64_t run_ns;
	uint64_t rows;
	uint64_t fingerprint; /* of the statement's shape; 0 = none */
	uint32_t pool; /* rows of the board's tables */
	uint32_t server;
	int32_t worker_pid;
	uint32_t code; /* 0, or the BROKER_E_ code as a positive number */
	uint32_t flags; /* enum slow_flag */
	uint32_t sql_len; /* bytes of sql, not terminated */
	uint64_t sql_full_len; /* before truncation */
	char sqlstate[8]; /* NUL terminated, empty if none */
	char tag[CHAN_TAG_MAX]; /* NUL padded, not terminated if full */
	uint32_t params_len; /* bytes of text behind sql, at the next multiple of 8; 0 = not kept */
	uint32_t reserved0;
	uint64_t reserved[2];
	char sql[SLOW_TEXT_MAX];
};
_Static_assert(sizeof(struct slow_slot) == SLOW_SLOT, "byte map");
_Static_assert(offsetof(struct slow_slot, sql) == 176, "byte map");

/* What the writer passes; texts are copied, NULL is empty. */
struct slow_record {
	unsigned pool, server;
	int32_t worker_pid;
	const char *tag; /* NUL terminated, cut at CHAN_TAG_MAX bytes */
	const char *sql;
	size_t sql_len;
	const char *params; /* parameter values as text, at most SLOW_PARAMS_MAX bytes are kept */
	size_t params_len;
	uint64_t when_ns; /* CLOCK_REALTIME; 0 = now */
	uint64_t wait_ns, run_ns, rows;
	uint32_t code;
	char sqlstate[6];
	uint64_t fingerprint;
	bool sampled;
};

/* The writer's private half. */
struct slowring {
	struct slow_slot *slots;
	uint32_t count;
	uint64_t next; /* number of the record to write next, starts at 1 */
};

void slowring_init(struct slowring *r, void *slots, uint32_t count);
void slowring_write(struct slowring *r, const struct slow_record *rec);

/*
 * Read the slot at `slot`, whose record is `stride` bytes long, into *out.  Returns the number of
 * the record, or 0: empty, being written, or overwritten meanwhile.  Lengths are made to fit.
 */
uint64_t slowring_read(const void *slot, size_t stride, struct slow_slot *out);

/* The parameters of a slot that was read; params_len bytes. */
const char *slowring_params(const struct slow_slot *s);

/* The longest prefix of at most max bytes that does not cut a UTF-8 character. */
size_t slowring_cut(const char *text, size_t len, size_t max);

#endif
