/* SPDX-License-Identifier: MIT */
/* test_client_rowreader.c - result streams, cut into chunks at every possible place. */
#include "rowreader.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STREAM_MAX 4096u
#define ROWS 5u
#define COLS 3u

struct stream {
	unsigned char bytes[STREAM_MAX];
	size_t len;
};

static void put(struct stream *s, const void *p, size_t n)
{
	if (n > 0) {
		memcpy(s->bytes + s->len, p, n);
	}
	memset(s->bytes + s->len + n, 0xaa, pad8(n) - n);
	s->len += pad8(n);
}

static void put_head(struct stream *s)
{
	static const char *const names[COLS] = {"id", "a longer name", ""};
	struct shm_result_head h = {.ncols = COLS, .head_len = sizeof(h)};
	size_t at = s->len;

	s->len += sizeof(h);
	for (unsigned i = 0; i < COLS; i++) {
		struct shm_column c = {.name_len = (uint32_t)strlen(names[i]), .type = CELL_TEXT};

		put(s, &c, sizeof(c));
		put(s, names[i], c.name_len);
	}
	h.head_len = (uint32_t)(s->len - at);
	memcpy(s->bytes + at, &h, sizeof(h));
}

static void put_cell(struct stream *s, uint8_t type, const void *p, size_t n)
{
	struct shm_cell c = {.len = (uint32_t)n, .type = type};

	put(s, &c, sizeof(c));
	put(s, p, n);
}

/* Row i: its number, i times seven bytes of text, NULL. */
static void put_row(struct stream *s, int64_t i)
{
	struct shm_row r = {0};
	size_t at = s->len;
	char text[128];

	s->len += sizeof(r);
	put_cell(s, CELL_INT64, &i, sizeof(i));
	memset(text, 'a' + (int)i, (size_t)i * 7);
	put_cell(s, CELL_TEXT, text, (size_t)i * 7);
	put_cell(s, CELL_NULL, NULL, 0);
	r.len = s->len - at - sizeof(r);
	memcpy(s->bytes + at, &r, sizeof(r));
}

static void make_stream(struct stream *s)
{
	s->len = 0;
	put_head(s);
	for (unsigned i = 0; i < ROWS; i++) {
		put_row(s, i);
	}
}

/* A copy, so that a reader that looks beyond is caught by the sanitizer. */
static struct chunk *make_chunk(const unsigned char *p, size_t n)
{
	struct chunk *c = malloc(sizeof(*c));
	unsigned char *data = malloc(n > 0 ? n : 1);

	if (c == NULL || data == NULL) {
		bail_out("no memory");
	}
	memcpy(data, p, n);
	*c = (struct chunk){.data = data, .len = (uint32_t)n};
	return c;
}

static unsigned free_spent(struct rowreader *rr)
{
	struct chunk *c;
	unsigned n = 0;

	while ((c = rowreader_spent(rr)) != NULL) {
		free((void *)(uintptr_t)c->data);
		free(c);
		n++;
	}
	return n;
}

static bool row_is_right(const struct rowreader *rr, unsigned i)
{
	const struct rowcell *c = rr->cells;
	int64_t id;

	memcpy(&id, c[0].cell.p, sizeof(id));
	for (unsigned k = 0; k < c[1].cell.len; k++) {
		if (c[1].cell.p[k] != 'a' + i) {
			return false;
		}
	}
	return rr->have_row && id == (int64_t)i && c[0].cell.type == CELL_INT64 &&
	       c[1].cell.len == i * 7 && c[2].cell.type == CELL_NULL;
}

/* Read a stream that comes in the pieces that end at cut[]; the next piece only when it is wanted.
 */
static bool read_cut(struct rowreader *rr, const struct stream *s, const size_t *cut, unsigned ncut)
{
	unsigned next = 0, rows = 0, given = 0, spent = 0;
	size_t at = 0;

	for (;;) {
		int rc = rowreader_next(rr);

		spent += free_spent(rr);
		if (rc == ROWREADER_ROW) {
			if (!row_is_right(rr, rows++)) {
				return false;
			}
		} else if (rc == ROWREADER_DONE) {
			return rows == ROWS && spent == given && rr->first == NULL;
		} else if (rc != ROWREADER_WANT_MORE || rr->ended || rr->first != NULL) {
			return false; /* what it has must be given back before it wants more */
		} else if (next <= ncut) {
			size_t end = next < ncut ? cut[next] : s->len;

			rowreader_append(rr, make_chunk(s->bytes + at, end - at));
			given++;
			at = end;
			next++;
		} else {
			rr->ended = true;
		}
	}
}

static void test_cuts(void)
{
	struct rowreader rr;
	struct stream s;
	unsigned wrong = 0, tried = 0;

	make_stream(&s);
	rowreader_init(&rr);
	wrong += !read_cut(&rr, &s, NULL, 0);
	is_str(rr.columns[1].name, "a longer name", "names are kept");
	is_str(rr.columns[2].name, "", "also the empty one");
	for (size_t a = 8; a < s.len; a += 8) {
		for (size_t b = a; b < s.len; b += 8) {
			size_t cut[2] = {a, b};

			rowreader_reset(&rr);
			wrong += !read_cut(&rr, &s, cut, 2);
			tried++;
		}
	}
	is_int(wrong, 0, "%u streams in three pieces, empty ones among them", tried);
	size_t cut[STREAM_MAX / 8];
	for (unsigned i = 0; i < s.len / 8; i++) {
		cut[i] = (i + 1) * 8;
	}
	rowreader_reset(&rr);
	ok(read_cut(&rr, &s, cut, (unsigned)(s.len / 8) - 1), "a stream in pieces of eight bytes");
	rowreader_finish(&rr);
}

/* All chunks are there at once: rows are read where they lie, and stay until the next is asked for.
 */
static void test_in_place(void)
{
	struct rowreader rr;
	struct stream s;
	const unsigned char *data;

	make_stream(&s);
	rowreader_init(&rr);
	rowreader_append(&rr, make_chunk(s.bytes, s.len));
	data = rr.first->data;
	rr.ended = true;
	for (unsigned i = 0; i < ROWS; i++) {
		ok(rowreader_next(&rr) == ROWREADER_ROW && row_is_right(&rr, i), "row %u", i);
	}
	ok(rr.cells[0].cell.p >= data && rr.cells[0].cell.p < data + s.len, "is not copied");
	is_int(free_spent(&rr), 0, "its chunk is still in use");
	is_int(rowreader_next(&rr), ROWREADER_DONE, "the end");
	is_int(rowreader_next(&rr), ROWREADER_DONE, "the end again");
	is_int(free_spent(&rr), 1, "now the chunk is spent");
	rowreader_finish(&rr);
}

static void test_nothing(void)
{
	struct rowreader rr;

	rowreader_init(&rr);
	is_int(rowreader_columns(&rr), ROWREADER_WANT_MORE, "no chunk yet");
	rr.ended = true;
	is_int(rowreader_columns(&rr), ROWREADER_DONE, "a statement without columns");
	is_int((int64_t)rr.ncols, 0, "has none");
	is_int(rowreader_next(&rr), ROWREADER_DONE, "and no rows");
	rowreader_finish(&rr);
}

static void test_cut_short(void)
{
	struct rowreader rr;
	struct stream s;
	unsigned wrong = 0;

	make_stream(&s);
	for (size_t len = 8; len < s.len; len += 8) {
		int rc;

		rowreader_init(&rr);
		rowreader_append(&rr, make_chunk(s.bytes, len));
		rr.ended = true;
		do {
			rc = rowreader_next(&rr);
		} while (rc == ROWREADER_ROW);
		/* at the end of a row a short stream looks like a whole one */
		wrong += rc != ROWREADER_CORRUPT && rc != ROWREADER_DONE;
		rowreader_drain(&rr);
		free_spent(&rr);
		rowreader_finish(&rr);
	}
	is_int(wrong, 0, "streams that end early are noticed");
}

/* Any one word changed: the reader may refuse or read something else, but only inside. */
static void test_damaged(void)
{
	static const uint64_t values[] = {
		0, 1, UINT64_MAX, UINT64_C(0x7fffffff), UINT64_C(1) << 40};
	struct rowreader rr;
	struct stream s, good;
	unsigned tried = 0;

	make_stream(&good);
	for (size_t at = 0; at < good.len; at += 8) {
		for (unsigned i = 0; i < array_size(values); i++) {
			int rc;

			s = good;
			memcpy(s.bytes + at, &values[i], 8);
			rowreader_init(&rr);
			rowreader_append(&rr, make_chunk(s.bytes, s.len));
			rr.ended = true;
			do {
				rc = rowreader_next(&rr);
				for (unsigned k = 0; rc == ROWREADER_ROW && k < rr.ncols; k++) {
					const struct cell *c = &rr.cells[k].cell;

					rc = c->len > s.len ? ROWREADER_CORRUPT : rc;
				}
			} while (rc == ROWREADER_ROW);
			rowreader_drain(&rr);
			free_spent(&rr);
			rowreader_finish(&rr);
			tried++;
		}
	}
	ok(true, "%u damaged streams were survived", tried);
}

int main(void)
{
	test_cuts();
	test_in_place();
	test_nothing();
	test_cut_short();
	test_damaged();
	return done_testing();
}
