/* SPDX-License-Identifier: MIT */
/*
 * shape.h - what each shape of statement cost: section SHAPES of segment Q.
 *
 * A row is one shape of statement in one pool, under a sequence lock (see seqlock.h).  The table is
 * bounded: a new shape takes the row of the one that was used least.  Uses are halved each time as
 * many rows were taken as there are, so that what was busy yesterday does not stay for ever.
 *
 *              find   add   count   read       (X = caller must exclude, - = safe)
 *   writer       X      X      X      -
 *   read         -      -      -      -
 *
 * Writer: the broker's I/O thread; with several, each has a table of its own on a share of the
 * rows, and readers add up the rows of one shape.  Finding and counting take constant time and
 * write a few words; adding to a full table looks at each row's uses once.  No call but
 * shape_table_create needs memory or the clock.  Death of the writer leaves at most one row half
 * written; readers mark it.
 *
 * Q holds no literal of any statement here, but names of tables: only monitors may read it.
 */
#ifndef SHM_SHAPE_H
#define SHM_SHAPE_H

#include "check.h"
#include "histogram.h"
#include "layout.h"

#define SHAPE_VERSION 1
#define SHAPE_ROW 3328u
#define SHAPE_TAGS 4u
/* Run times in units of 1 us, each power of two cut into 8 buckets: the middle of a bucket is at
 * most 6 % away from any value in it. */
#define SHAPE_UNIT_SHIFT 10u
#define SHAPE_SUB_BITS 3u
#define SHAPE_BUCKETS                                                                              \
	((HISTOGRAM_TOP_BITS - SHAPE_UNIT_SHIFT - SHAPE_SUB_BITS + 1u) << SHAPE_SUB_BITS)
#define SHAPE_TEXT_MAX (SHAPE_ROW - 384u - 64u - 8u * SHAPE_BUCKETS)
#define SHAPE_NONE UINT32_MAX

enum shape_flag {
	SHAPE_F_TRUNCATED = 1, /* the shape was longer than the row */
};

/* The head of struct histogram, with fewer buckets. */
struct shape_times {
	uint32_t unit_shift;
	uint32_t sub_bits;
	uint32_t nbuckets;
	uint32_t reserved;
	uint64_t sum_ns;
	uint64_t max_ns;
	uint64_t pad[4];
	uint64_t bucket[SHAPE_BUCKETS];
};
_Static_assert(offsetof(struct shape_times, bucket) == offsetof(struct histogram, bucket),
	"readable as a histogram");

/*
 * One row.  Writer and readers as above; every word under the row's sequence.
 *    0 seq       8 fingerprint  16 first_ns  24 last_ns  32 calls   40 errors   48 rows
 *   56 wait_ns  64 pool         68 flags     72 text_len 76 ntags   80 reserved
 *  128 tags    384 run         2240 text
 */
struct shape_row {
	_Atomic uint64_t seq;
	uint64_t fingerprint; /* 0 = free */
	uint64_t first_ns; /* CLOCK_MONOTONIC: counted since */
	uint64_t last_ns; /* CLOCK_MONOTONIC: last end of such a statement */
	uint64_t calls; /* statements that ended, in whatever way */
	uint64_t errors; /* those that failed */
	uint64_t rows;
	uint64_t wait_ns; /* time in the broker's queue */
	uint32_t pool; /* row of the board's table */
	uint32_t flags; /* enum shape_flag */
	uint32_t text_len; /* bytes of text, not terminated */
	uint32_t ntags; /* tags ever written; the latest is tags[(ntags - 1) % SHAPE_TAGS] */
	uint64_t reserved[6];
	char tags[SHAPE_TAGS][CHAN_TAG_MAX]; /* of its latest requests; NUL padded */
	struct shape_times run; /* time on the server, of those that were sent there */
	char text[SHAPE_TEXT_MAX];
};
_Static_assert(sizeof(struct shape_row) == SHAPE_ROW, "byte map");
_Static_assert(offsetof(struct shape_row, tags) == 128, "byte map");
_Static_assert(offsetof(struct shape_row, run) == 384, "byte map");
_Static_assert(offsetof(struct shape_row, text) == 2240, "byte map");

/* A statement that ended. */
struct shape_call {
	uint64_t now_ns; /* CLOCK_MONOTONIC */
	uint64_t wait_ns, run_ns, rows;
	bool ran; /* it was sent to a server: run_ns counts */
	bool failed;
	const char *tag; /* not terminated */
	size_t tag_len; /* at most CHAN_TAG_MAX */
};

/* The writer's private half. */
struct shape_table;

/* For `count` rows, at least 1, of zeroed memory at `rows`.  NULL: out of memory. */
struct shape_table *shape_table_create(void *rows, uint32_t count) must_use;
void shape_table_destroy(struct shape_table *t);

/* Row of a shape, or SHAPE_NONE.  hint: the row where it was last time, or anything. */
uint32_t shape_find(
	const struct shape_table *t, uint32_t pool, uint64_t fingerprint, uint32_t hint);

/* Give a shape that has none a row.  evicted: set if another shape lost its row for it. */
uint32_t shape_add(struct shape_table *t, uint32_t pool, uint64_t fingerprint, const char *text,
	size_t len, bool truncated, uint64_t now_ns, bool *evicted);

void shape_count(struct shape_table *t, uint32_t row, const struct shape_call *c);

/*
 * Copy the row at `row`, whose record is `stride` bytes long.  false: free.  torn: the writer was
 * in the middle.  text_len is made to fit, ntags is not.
 */
bool shape_read(const void *row, size_t stride, struct shape_row *out, bool *torn);

/* Tag number i, 0 the latest, or NULL. */
const char *shape_tag(const struct shape_row *row, unsigned i);

#endif
