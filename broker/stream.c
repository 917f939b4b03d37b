/* SPDX-License-Identifier: MIT */
/*
 * stream.c - writing results into a worker's arena: the driver's half of request.h.
 *
 * A row is encoded straight into the current chunk when it fits, which is nearly always; the rest
 * of this file is for rows that straddle chunks and workers that do not read.
 */
#include "request_core.h"

#include "io.h"
#include "pool.h"
#include "session.h"

#include <string.h>

static const unsigned char zeros[8];

size_t request_write(struct request *r, const void *bytes, size_t len)
{
	const unsigned char *p = bytes;
	size_t left = len;

	if (r->session == NULL) {
		return len;
	}
	if (r->op == REQ_COPY_OUT) {
		board_pool_count(r->io->board, r->pool->index, POOL_METRIC_COPY_BYTES_OUT, len);
	}
	while (left > 0) {
		size_t room = (size_t)(r->out.end - r->out.at);
		size_t n = left < room ? left : room;

		if (n == 0) {
			if (!session_next_chunk(r->session, r)) {
				break;
			}
			continue;
		}
		memcpy(r->out.at, p, n);
		r->out.at += n;
		p += n;
		left -= n;
	}
	return len - left;
}

size_t stream_encode_head(void *buf, size_t size, unsigned ncols, const struct stream_column *cols)
{
	struct shm_result_head head = {.ncols = ncols};
	unsigned char *p = buf;
	size_t need = sizeof(head);

	for (unsigned i = 0; i < ncols; i++) {
		need += sizeof(struct shm_column) + pad8(strlen(cols[i].name));
	}
	if (need > size) {
		return need;
	}
	head.head_len = (uint32_t)need;
	memcpy(p, &head, sizeof(head));
	p += sizeof(head);
	for (unsigned i = 0; i < ncols; i++) {
		struct shm_column c = {
			.name_len = (uint32_t)strlen(cols[i].name), .type = cols[i].type};
		size_t padded = pad8(c.name_len);

		memcpy(p, &c, sizeof(c));
		p += sizeof(c);
		memcpy(p, cols[i].name, c.name_len);
		memset(p + c.name_len, 0, padded - c.name_len);
		p += padded;
	}
	return need;
}

uint64_t stream_row_len(unsigned ncells, const struct stream_cell *cells)
{
	uint64_t n = sizeof(struct shm_row);

	for (unsigned i = 0; i < ncells; i++) {
		n += sizeof(struct shm_cell) + pad8(cells[i].len);
	}
	return n;
}

void stream_encode_row(void *buf, unsigned ncells, const struct stream_cell *cells)
{
	unsigned char *p = buf;
	struct shm_row row = {stream_row_len(ncells, cells) - sizeof(row)};

	memcpy(p, &row, sizeof(row));
	p += sizeof(row);
	for (unsigned i = 0; i < ncells; i++) {
		const struct stream_cell *c = &cells[i];
		struct shm_cell h = {.len = c->len, .type = c->type, .encoding = c->encoding};
		size_t padded = pad8(c->len);

		memcpy(p, &h, sizeof(h));
		p += sizeof(h);
		if (padded > 0) {
			memset(p + padded - 8, 0, 8);
			memcpy(p, c->data, c->len);
			p += padded;
		}
	}
}

/*
 * Piece of the encoded row that starts at *at, within the part [start, start + len): write what is
 * left of it.  False: arena full, *at says how far it came.
 */
static bool put_piece(
	struct request *r, uint64_t *at, uint64_t *start, const void *bytes, uint64_t len)
{
	uint64_t skip = *at > *start ? *at - *start : 0;

	if (skip < len) {
		size_t n = request_write(r, (const unsigned char *)bytes + skip, len - skip);

		*at += n;
		if (n < len - skip) {
			return false;
		}
	}
	*start += len;
	return true;
}

static bool put_row_in_pieces(struct request *r, struct stream_row *row)
{
	uint64_t start = 0;
	struct shm_row head = {stream_row_len(row->ncells, row->cells) - sizeof(head)};

	if (!put_piece(r, &row->at, &start, &head, sizeof(head))) {
		return false;
	}
	for (unsigned i = 0; i < row->ncells; i++) {
		const struct stream_cell *c = &row->cells[i];
		struct shm_cell h = {.len = c->len, .type = c->type, .encoding = c->encoding};

		if (!put_piece(r, &row->at, &start, &h, sizeof(h)) ||
			!put_piece(r, &row->at, &start, c->data, c->len) ||
			!put_piece(r, &row->at, &start, zeros, pad8(c->len) - c->len)) {
			return false;
		}
	}
	return true;
}

bool request_row(struct request *r, struct stream_row *row)
{
	if (r->session == NULL) {
		return true;
	}
	if (row->at == 0) {
		uint64_t len = stream_row_len(row->ncells, row->cells);

		if (r->out.at != NULL && len <= (uint64_t)(r->out.end - r->out.at)) {
			stream_encode_row(r->out.at, row->ncells, row->cells);
			r->out.at += len;
			r->rows++;
			return true;
		}
	}
	if (!put_row_in_pieces(r, row)) {
		return false;
	}
	r->rows++;
	return true;
}

void request_copy_ready(struct request *r)
{
	struct shm_completion c = {.kind = COMP_COPY_READY, .chunk = CHAN_NO_CHUNK};

	if (r->session != NULL) {
		session_complete(r->session, r, &c);
	}
}
