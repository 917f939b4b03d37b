/* SPDX-License-Identifier: MIT */
/*
 * rowreader.h - walks the result stream of one statement: head, columns, rows.
 *
 * The stream comes as a queue of chunks (layout.h), cut at multiples of 8.  What lies wholly in one
 * chunk is read in place; what straddles chunks is put together in a buffer that the reader owns,
 * so a row may be far larger than the arena.  Chunks that are read go to the list `spent`, from
 * which the owner takes them to give them back.  The reader never waits: it answers
 * ROWREADER_WANT_MORE and is called again when there is another chunk or the end.
 *
 * A chunk in which the current row lies stays in the queue until the next row is asked for.
 *
 * States:  HEAD -> COLUMNS -> ROWS -> END    (rowreader_columns, rowreader_next; FAILED from
 *          anywhere)
 */
#ifndef CLIENT_ROWREADER_H
#define CLIENT_ROWREADER_H

#include "convert.h"

struct chunk {
	struct chunk *next;
	const unsigned char *data;
	uint32_t len;
	uint32_t block; /* in the result arena; CHAN_NO_CHUNK: on the heap, behind this struct */
};

struct rowcell {
	struct cell cell;
	const unsigned char *made; /* text or bytes made of it, in the scratch memory of the row */
	size_t made_len;
};

enum rowreader_state {
	ROWREADER_HEAD,
	ROWREADER_COLUMNS,
	ROWREADER_ROWS,
	ROWREADER_END,
	ROWREADER_FAILED,
};

#define ROWREADER_ROW 1
#define ROWREADER_DONE 0
#define ROWREADER_WANT_MORE (-1)
#define ROWREADER_CORRUPT (-2) /* the stream breaks its own rules */
#define ROWREADER_MEMORY (-3)

struct rowcolumn {
	const char *name; /* NUL terminated, in names */
	uint8_t type; /* enum cell_type */
};

struct rowreader {
	/* the queue; the owner appends */
	struct chunk *first;
	struct chunk *last;
	struct chunk *spent;
	uint32_t pos; /* bytes of first that are read */
	bool ended; /* nothing will be appended any more */

	enum rowreader_state state;
	uint32_t ncols;
	uint32_t columns_len; /* bytes of all struct shm_column with their names */
	struct rowcolumn *columns;
	char *names;
	uint32_t columns_cap; /* of columns and cells */
	size_t names_cap;

	bool have_row;
	bool in_place; /* the last piece lies in the first chunk, not in buf */
	bool row_head_done; /* the struct shm_row of the row to come was read */
	uint64_t row_len;
	struct rowcell *cells; /* ncols */

	/* a piece that straddles chunks */
	unsigned char *buf;
	size_t buf_cap, buf_have;
};

void rowreader_init(struct rowreader *rr);
/* Ready for another stream, keeping memory of moderate size.  The queue must be empty. */
void rowreader_reset(struct rowreader *rr);
/* Free what it owns.  The queue must be empty: rowreader_drain and rowreader_spent. */
void rowreader_finish(struct rowreader *rr);

void rowreader_append(struct rowreader *rr, struct chunk *c);
/* Move every chunk, read or not, to `spent`; there is no current row afterwards. */
void rowreader_drain(struct rowreader *rr);
/* Move a first chunk that is read to its end to `spent`. */
void rowreader_skip(struct rowreader *rr);
/* Take one chunk off `spent`, NULL if there is none. */
struct chunk *rowreader_spent(struct rowreader *rr);

/* Read the columns.  ROWREADER_DONE: known (0 if the stream is empty), or negative. */
int rowreader_columns(struct rowreader *rr) must_use;
/* Step to the next row: ROWREADER_ROW, ROWREADER_DONE at the end, or negative. */
int rowreader_next(struct rowreader *rr) must_use;

#endif
