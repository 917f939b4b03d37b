/* SPDX-License-Identifier: MIT */
/* querylog.c - see querylog.h. */
#include "querylog.h"

#include "fingerprint.h"
#include "io.h"
#include "pool.h"
#include "session.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Most bytes of one value that are kept. */
#define VALUE_MAX 120u

/* -- parameters -------------------------------------------------------------------------------- */

struct text {
	char *buf;
	size_t size, len;
};

static void append(struct text *t, const char *s, size_t len)
{
	size_t room = t->size - t->len;

	len = len < room ? len : room;
	memcpy(t->buf + t->len, s, len);
	t->len += len;
}

static void append_quoted(struct text *t, const char *s, size_t len)
{
	size_t n = slowring_cut(s, len, VALUE_MAX);

	append(t, "'", 1);
	for (size_t i = 0; i < n; i++) {
		append(t, "''", s[i] == '\'' ? 2 : 0);
		append(t, s + i, s[i] != '\'');
	}
	append(t, "'...", n < len ? 4 : 1);
}

static void append_hex(struct text *t, const unsigned char *s, size_t len)
{
	size_t n = len < VALUE_MAX / 2 ? len : VALUE_MAX / 2;

	append(t, "\\x", 2);
	for (size_t i = 0; i < n; i++) {
		char hex[3];

		snprintf(hex, sizeof(hex), "%02x", s[i]);
		append(t, hex, 2);
	}
	append(t, "...", n < len ? 3 : 0);
}

static void append_value(struct text *t, const struct request_param *p)
{
	char number[64];
	int64_t i = 0;
	double d = 0;
	int n;

	switch (p->type) {
	case CELL_NULL:
		append(t, "NULL", 4);
		return;
	case CELL_BOOL:
		append(t, *(const char *)p->data != 0 ? "true" : "false",
			*(const char *)p->data != 0 ? 4 : 5);
		return;
	case CELL_DOUBLE:
		memcpy(&d, p->data, sizeof(d));
		n = snprintf(number, sizeof(number), "%.17g", d);
		append(t, number, (size_t)n);
		return;
	case CELL_INT64:
	case CELL_TIMESTAMP:
		memcpy(&i, p->data, sizeof(i));
		n = snprintf(number, sizeof(number), "%" PRId64 "%s", i,
			p->type == CELL_TIMESTAMP ? " us since 1970" : "");
		append(t, number, (size_t)n);
		return;
	case CELL_BLOB:
		append_hex(t, p->data, p->len);
		return;
	default:
		append_quoted(t, p->data, p->len);
		return;
	}
}

size_t querylog_params(char *buf, size_t size, const struct request_param *params, unsigned n)
{
	struct text t = {.buf = buf, .size = size};

	for (unsigned i = 0; i < n && t.len < size; i++) {
		char name[24];
		int len = snprintf(name, sizeof(name), "%s$%u = ", i > 0 ? ", " : "", i + 1);

		append(&t, name, (size_t)len);
		append_value(&t, &params[i]);
	}
	if (t.len == size && size >= 3) {
		memcpy(buf + size - 3, "...", 3);
	}
	return t.len;
}

/* -- slow statements --------------------------------------------------------------------------- */

static void write_record(struct request *r, const struct failure *f, uint64_t rows,
	uint64_t wait_ns, uint64_t run_ns, bool sampled)
{
	char tag[CHAN_TAG_MAX + 1], params[SLOW_PARAMS_MAX];
	struct slow_record rec = {
		.pool = r->pool->index,
		.server = r->conn != NULL ? r->conn->member->server->index : BOARD_NONE,
		.worker_pid = r->session != NULL ? session_pid(r->session) : 0,
		.tag = tag,
		.sql = r->stmt->text,
		.sql_len = r->stmt->len,
		.wait_ns = wait_ns,
		.run_ns = run_ns,
		.rows = rows,
		.code = f != NULL ? f->code : 0,
		.fingerprint = r->stmt->fingerprint,
		.sampled = sampled,
	};

	memcpy(tag, r->tag, r->tag_len);
	tag[r->tag_len] = '\0';
	if (f != NULL) {
		memcpy(rec.sqlstate, f->sqlstate, sizeof(rec.sqlstate));
	}
	if (strcmp(r->pool->config->slow_params, "on") == 0) {
		rec.params = params;
		rec.params_len = querylog_params(params, sizeof(params), r->params, r->nparams);
	}
	if (sampled) {
		board_sample(r->io->board, &rec);
		board_count(r->io->board, METRIC_SLOW_SAMPLES, 1);
	} else {
		board_slow(r->io->board, &rec);
	}
}

/*
 * True for one statement in `every` on average.  The distance to the next is drawn anew each time,
 * so that a worker that repeats its statements in a fixed order is not always caught at the same
 * one.
 */
static bool drawn(struct pool *p, uint64_t every, uint64_t now)
{
	if (p->until_sample > 1) {
		p->until_sample--;
		return false;
	}
	/* the clock's last digits, mixed (splitmix64, Steele et al.) */
	now = (now ^ now >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	now = (now ^ now >> 27) * UINT64_C(0x94d049bb133111eb);
	p->until_sample = 1 + (now ^ now >> 31) % (2 * every - 1);
	return true;
}

/* -- shapes ------------------------------------------------------------------------------------ */

static uint32_t add_shape(struct request *r, struct shape_table *shapes, uint64_t now)
{
	struct fingerprint shape;
	bool evicted;
	uint32_t row;

	fingerprint_make(&shape, r->stmt->text, r->stmt->len);
	row = shape_add(shapes, r->pool->index, shape.value, shape.text, shape.len, shape.truncated,
		now, &evicted);
	if (evicted) {
		board_count(r->io->board, METRIC_SHAPE_EVICTIONS, 1);
	} else {
		board_adjust(r->io->board, METRIC_SHAPES, 1);
	}
	return row;
}

static void count_shape(
	struct request *r, struct shape_table *shapes, const struct shape_call *call)
{
	struct statement *st = r->stmt;
	uint32_t row = shape_find(shapes, r->pool->index, st->fingerprint, st->shape);

	st->shape = row != SHAPE_NONE ? row : add_shape(r, shapes, call->now_ns);
	shape_count(shapes, st->shape, call);
}

void querylog_note(struct request *r, const struct failure *f, uint64_t rows, uint64_t wait_ns,
	uint64_t run_ns)
{
	const struct config_pool *config = r->pool->config;
	struct shape_table *shapes = board_shapes(r->io->board);
	struct shape_call call = {
		.now_ns = io_now(r->io),
		.wait_ns = wait_ns,
		.run_ns = run_ns,
		.rows = rows,
		.ran = r->sent_ns != 0,
		.failed = f != NULL,
		.tag = r->tag,
		.tag_len = r->tag_len,
	};

	if (shapes != NULL) {
		count_shape(r, shapes, &call);
	}
	if (config->slow_threshold >= 0 &&
		wait_ns + run_ns >= (uint64_t)config->slow_threshold * 1000000u) {
		write_record(r, f, rows, wait_ns, run_ns, false);
	} else if (config->slow_sample > 0 &&
		   drawn(r->pool, (uint64_t)config->slow_sample, call.now_ns)) {
		write_record(r, f, rows, wait_ns, run_ns, true);
	}
}
