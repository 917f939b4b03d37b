/* SPDX-License-Identifier: MIT */
/* rowreader.c - see rowreader.h. */
#include "rowreader.h"

#include <stdlib.h>
#include <string.h>

/* A buffer for large rows is kept for the next stream up to this size. */
#define KEEP_BYTES 65536u
/* No cell is longer: its length has 32 bits. */
#define CELL_MAX (sizeof(struct shm_cell) + (UINT64_C(1) << 32))

void rowreader_init(struct rowreader *rr)
{
	memset(rr, 0, sizeof(*rr));
}

void rowreader_finish(struct rowreader *rr)
{
	free(rr->columns);
	free(rr->names);
	free(rr->cells);
	free(rr->buf);
	memset(rr, 0, sizeof(*rr));
}

void rowreader_reset(struct rowreader *rr)
{
	struct rowreader keep = *rr;

	if (rr->buf_cap > KEEP_BYTES) {
		free(rr->buf);
		keep.buf = NULL;
		keep.buf_cap = 0;
	}
	*rr = (struct rowreader){
		.columns = keep.columns,
		.cells = keep.cells,
		.columns_cap = keep.columns_cap,
		.names = keep.names,
		.names_cap = keep.names_cap,
		.buf = keep.buf,
		.buf_cap = keep.buf_cap,
	};
}

void rowreader_append(struct rowreader *rr, struct chunk *c)
{
	c->next = NULL;
	if (rr->first == NULL) {
		rr->first = c;
		rr->pos = 0;
	} else {
		rr->last->next = c;
	}
	rr->last = c;
}

static void spend_first(struct rowreader *rr)
{
	struct chunk *c = rr->first;

	rr->first = c->next;
	rr->pos = 0;
	c->next = rr->spent;
	rr->spent = c;
}

void rowreader_drain(struct rowreader *rr)
{
	rr->have_row = false;
	while (rr->first != NULL) {
		spend_first(rr);
	}
}

void rowreader_skip(struct rowreader *rr)
{
	while (rr->first != NULL && rr->pos == rr->first->len) {
		spend_first(rr);
	}
}

struct chunk *rowreader_spent(struct rowreader *rr)
{
	struct chunk *c = rr->spent;

	if (c != NULL) {
		rr->spent = c->next;
	}
	return c;
}

static int fail(struct rowreader *rr, int code)
{
	rr->state = ROWREADER_FAILED;
	rr->have_row = false;
	return code;
}

/*
 * Room for more of a piece of n bytes.  The buffer grows with what arrives, not with what is
 * announced: doubling is cheap for large buffers, whose pages the C library moves instead of
 * copying.
 */
static bool grow(struct rowreader *rr, size_t n)
{
	size_t cap = rr->buf_cap < KEEP_BYTES / 2 ? KEEP_BYTES : rr->buf_cap * 2;
	unsigned char *p;

	cap = cap < n ? cap : n;
	p = realloc(rr->buf, cap);
	if (p == NULL) {
		return false;
	}
	rr->buf = p;
	rr->buf_cap = cap;
	return true;
}

/* Copy from the queue until the buffer holds n bytes or the queue is empty.  False: no memory. */
static bool collect(struct rowreader *rr, size_t n)
{
	while (rr->buf_have < n && rr->first != NULL) {
		size_t take = rr->first->len - rr->pos;

		take = take < n - rr->buf_have ? take : n - rr->buf_have;
		while (rr->buf_cap < rr->buf_have + take) {
			if (!grow(rr, n)) {
				return false;
			}
		}
		memcpy(rr->buf + rr->buf_have, rr->first->data + rr->pos, take);
		rr->buf_have += take;
		rr->pos += (uint32_t)take;
		rowreader_skip(rr);
	}
	return true;
}

/*
 * The next n bytes in one piece, at *out until the next call.  1, ROWREADER_WANT_MORE, or another
 * negative.  Called again with the same n after ROWREADER_WANT_MORE.
 */
static int piece(struct rowreader *rr, uint64_t n, const unsigned char **out)
{
	rowreader_skip(rr);
	if (rr->buf_have == 0 && rr->first != NULL && rr->first->len - rr->pos >= n) {
		*out = rr->first->data + rr->pos;
		rr->pos += (uint32_t)n;
		rr->in_place = true;
		return 1;
	}
	if (n > SIZE_MAX / 2 || !collect(rr, (size_t)n)) {
		return ROWREADER_MEMORY;
	}
	if (rr->buf_have < n) {
		return rr->ended ? ROWREADER_CORRUPT : ROWREADER_WANT_MORE;
	}
	rr->buf_have = 0;
	rr->in_place = false;
	*out = rr->buf;
	return 1;
}

static bool at_end(struct rowreader *rr)
{
	rowreader_skip(rr);
	return rr->first == NULL && rr->buf_have == 0 && rr->ended;
}

static int read_head(struct rowreader *rr)
{
	struct shm_result_head head;
	const unsigned char *p;
	int rc;

	if (at_end(rr)) {
		rr->state = ROWREADER_END;
		return ROWREADER_DONE;
	}
	rc = piece(rr, sizeof(head), &p);
	if (rc < 0) {
		return rc;
	}
	memcpy(&head, p, sizeof(head));
	if (head.head_len < sizeof(head) || head.head_len % 8 != 0 ||
		head.ncols > (head.head_len - sizeof(head)) / sizeof(struct shm_column)) {
		return ROWREADER_CORRUPT;
	}
	rr->ncols = head.ncols;
	rr->columns_len = head.head_len - (uint32_t)sizeof(head);
	rr->state = ROWREADER_COLUMNS;
	return ROWREADER_DONE;
}

/* Make columns and names of the encoded columns; names need no more room than their encoding. */
static int keep_columns(struct rowreader *rr, const unsigned char *p)
{
	uint64_t left = rr->columns_len;
	char *name = rr->names;

	for (uint32_t i = 0; i < rr->ncols; i++) {
		struct shm_column col;

		if (left < sizeof(col)) {
			return ROWREADER_CORRUPT;
		}
		memcpy(&col, p, sizeof(col));
		left -= sizeof(col);
		if (pad8(col.name_len) > left) {
			return ROWREADER_CORRUPT;
		}
		memcpy(name, p + sizeof(col), col.name_len);
		name[col.name_len] = '\0';
		rr->columns[i] = (struct rowcolumn){.name = name, .type = col.type};
		name += col.name_len + 1;
		left -= pad8(col.name_len);
		p += sizeof(col) + pad8(col.name_len);
	}
	return ROWREADER_DONE;
}

/* Room for the columns of this stream; what an earlier stream left is used again. */
static bool make_room(struct rowreader *rr)
{
	if (rr->columns == NULL || rr->ncols > rr->columns_cap) {
		free(rr->columns);
		free(rr->cells);
		rr->columns = calloc(rr->ncols + 1u, sizeof(*rr->columns));
		rr->cells = calloc(rr->ncols + 1u, sizeof(*rr->cells));
		rr->columns_cap = rr->columns != NULL && rr->cells != NULL ? rr->ncols : 0;
	}
	if (rr->columns_len > rr->names_cap || rr->names == NULL) {
		free(rr->names);
		rr->names = malloc((size_t)rr->columns_len + 1);
		rr->names_cap = rr->names != NULL ? rr->columns_len : 0;
	}
	return rr->columns != NULL && rr->cells != NULL && rr->names != NULL;
}

static int read_columns(struct rowreader *rr)
{
	const unsigned char *p;
	int rc = piece(rr, rr->columns_len, &p);

	if (rc < 0) {
		return rc;
	}
	if (!make_room(rr)) {
		return ROWREADER_MEMORY;
	}
	rc = keep_columns(rr, p);
	if (rc == ROWREADER_DONE) {
		rr->state = ROWREADER_ROWS;
	}
	return rc;
}

int rowreader_columns(struct rowreader *rr)
{
	int rc = ROWREADER_DONE;

	if (rr->state == ROWREADER_FAILED) {
		return ROWREADER_CORRUPT;
	}
	if (rr->state == ROWREADER_HEAD) {
		rc = read_head(rr);
	}
	if (rc == ROWREADER_DONE && rr->state == ROWREADER_COLUMNS) {
		rc = read_columns(rr);
	}
	return rc == ROWREADER_DONE || rc == ROWREADER_WANT_MORE ? rc : fail(rr, rc);
}

/* Find the cells of the row at p. */
static int index_cells(struct rowreader *rr, const unsigned char *p, uint64_t left)
{
	for (uint32_t i = 0; i < rr->ncols; i++) {
		struct shm_cell head;

		if (left < sizeof(head)) {
			return ROWREADER_CORRUPT;
		}
		memcpy(&head, p, sizeof(head));
		p += sizeof(head);
		left -= sizeof(head);
		if (pad8(head.len) > left || head.type >= CELL_TYPE_COUNT) {
			return ROWREADER_CORRUPT;
		}
		rr->cells[i] = (struct rowcell){
			.cell = {.p = p,
				.len = head.len,
				.type = head.type,
				.encoding = head.encoding},
		};
		p += pad8(head.len);
		left -= pad8(head.len);
	}
	return left == 0 ? ROWREADER_ROW : ROWREADER_CORRUPT;
}

static int read_row(struct rowreader *rr)
{
	const unsigned char *p;
	int rc;

	if (!rr->row_head_done) {
		struct shm_row head;

		if (at_end(rr)) {
			rr->state = ROWREADER_END;
			return ROWREADER_DONE;
		}
		rc = piece(rr, sizeof(head), &p);
		if (rc < 0) {
			return rc;
		}
		memcpy(&head, p, sizeof(head));
		if (head.len > rr->ncols * CELL_MAX) {
			return ROWREADER_CORRUPT;
		}
		rr->row_len = head.len;
		rr->row_head_done = true;
	}
	rc = piece(rr, rr->row_len, &p);
	if (rc < 0) {
		return rc;
	}
	rr->row_head_done = false;
	return index_cells(rr, p, rr->row_len);
}

int rowreader_next(struct rowreader *rr)
{
	int rc = rowreader_columns(rr);

	rr->have_row = false;
	if (rc < 0) {
		return rc;
	}
	if (rr->state == ROWREADER_END) {
		return ROWREADER_DONE;
	}
	rc = read_row(rr);
	rr->have_row = rc == ROWREADER_ROW;
	return rc >= 0 || rc == ROWREADER_WANT_MORE ? rc : fail(rr, rc);
}
