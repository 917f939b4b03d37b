/* SPDX-License-Identifier: MIT */
/*
 * driver_fake.c - a database that does what its statements say, for tests of everything above it.
 *
 * Statements are words; those not known succeed with 0 rows.  All of it is deterministic.
 *
 *   rows N [BYTES]    N rows of one integer column and, with BYTES, one text column of that length
 *   sleep MS          takes MS milliseconds; can be cancelled
 *   affect N          a write that changed N rows
 *   echo              one row with the parameters
 *   error SQLSTATE    fails
 *   drop              the connection is lost while the statement runs
 *   dirty             touches the session
 *   who               one row: the connection's slot and generation
 *
 * The url may set what connecting does: fake:?connect_ms=5&fail=28P01&refuse=1
 * Cancels are imprecise on purpose, as PostgreSQL's are: they hit whatever runs when they arrive.
 */
#include "driver.h"

#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_server {
	unsigned connect_ms;
	bool refuse;
	char fail[6];
};

struct fake_conn {
	struct conn *c;
	uv_timer_t timer; /* runs the head, or the connect */
	uv_timer_t side; /* cancel, reset */
	unsigned handles;
	bool connecting, cancel_pending, reset_pending, closing, announced;
	bool running; /* the head was begun */
	uint64_t row; /* next row of the head */
	uint64_t row_at; /* bytes of it already taken */
	bool head_sent;
};

static void run_head(struct fake_conn *f);

static struct request *head_of(struct conn *c)
{
	return cds_list_empty(&c->inflight) ? NULL
					    : cds_list_first_entry(&c->inflight, struct request, link);
}

/* -- server ------------------------------------------------------------------------------------ */

static int fake_server_open(struct io *io, const struct config_server *server,
	const struct config_pool *pool, void **priv, char *err, size_t errlen)
{
	struct fake_server *s = calloc(1, sizeof(*s));
	const char *p;

	(void)io;
	(void)pool;
	if (s == NULL) {
		snprintf(err, errlen, "out of memory");
		return -1;
	}
	p = strstr(server->url, "connect_ms=");
	s->connect_ms = p != NULL ? (unsigned)atoi(p + 11) : 0;
	p = strstr(server->url, "fail=");
	if (p != NULL) {
		snprintf(s->fail, sizeof(s->fail), "%.5s", p + 5);
	}
	s->refuse = strstr(server->url, "refuse=1") != NULL;
	*priv = s;
	return 0;
}

static void fake_server_close(void *priv)
{
	free(priv);
}

static unsigned fake_size(void *priv, const struct config_pool *pool)
{
	(void)priv;
	return (unsigned)pool->max_size;
}

static unsigned fake_roles(void *priv, unsigned slot)
{
	(void)priv;
	(void)slot;
	return CONN_READS | CONN_WRITES;
}

/* -- connection -------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *h)
{
	struct fake_conn *f = h->data;

	if (--f->handles == 0) {
		struct conn *c = f->c;
		bool announced = f->announced;

		free(f);
		if (!announced) {
			conn_closed(c, NULL);
		}
	}
}

static void shut(struct fake_conn *f)
{
	f->closing = true;
	uv_close((uv_handle_t *)&f->timer, on_handle_closed);
	uv_close((uv_handle_t *)&f->side, on_handle_closed);
}

static void lose(struct fake_conn *f, const struct failure *why)
{
	struct conn *c = f->c;

	f->announced = true;
	shut(f);
	c->priv = NULL;
	conn_closed(c, why);
}

static void on_connected(uv_timer_t *t)
{
	struct fake_conn *f = t->data;
	struct fake_server *s = f->c->server_priv;
	struct failure why = {.code = FAIL_UNAVAILABLE, .message = "the fake server refuses"};

	f->connecting = false;
	if (s->refuse || s->fail[0] != '\0') {
		memcpy(why.sqlstate, s->fail, sizeof(why.sqlstate));
		lose(f, &why);
		return;
	}
	f->c->backend_pid = (int32_t)f->c->slot + 1;
	conn_ready(f->c);
}

static void fake_connect(struct conn *c)
{
	struct fake_conn *f = calloc(1, sizeof(*f));
	struct fake_server *s = c->server_priv;

	check(f != NULL);
	f->c = c;
	c->priv = f;
	f->timer.data = f->side.data = f;
	uv_timer_init(io_uv(c->io), &f->timer);
	uv_timer_init(io_uv(c->io), &f->side);
	f->handles = 2;
	f->connecting = true;
	uv_timer_start(&f->timer, on_connected, s->connect_ms, 0);
}

static void fake_close(struct conn *c)
{
	shut(c->priv);
}

/* -- statements -------------------------------------------------------------------------------- */

static bool is_word(const struct request *r, const char *word)
{
	size_t n = strlen(word);

	return strncmp(r->stmt->text, word, n) == 0 &&
	       (r->stmt->text[n] == ' ' || r->stmt->text[n] == '\0');
}

static uint64_t number(const struct request *r, unsigned nth)
{
	const char *p = r->stmt->text;

	for (unsigned i = 0; i <= nth && p != NULL; i++) {
		p = strchr(p, ' ');
		p = p != NULL ? p + 1 : NULL;
	}
	return p != NULL ? strtoull(p, NULL, 10) : 0;
}

static void end_head(struct fake_conn *f, uint64_t rows, const struct failure *why)
{
	struct request *r = head_of(f->c);

	f->running = f->head_sent = false;
	f->row = f->row_at = 0;
	if (why != NULL && f->c->tx == CONN_TX_OPEN) {
		f->c->tx = CONN_TX_FAILED;
	}
	if (why != NULL) {
		request_failed(r, why);
	} else {
		request_done(r, rows);
	}
}

static bool put_head(struct fake_conn *f, struct request *r, unsigned ncols)
{
	static const struct stream_column cols[2] = {{"n", CELL_INT64}, {"t", CELL_TEXT}};
	unsigned char buf[128];
	size_t n = stream_encode_head(buf, sizeof(buf), ncols, cols);

	if (!f->head_sent) {
		/* A first chunk is guaranteed and has room for it. */
		f->head_sent = request_write(r, buf, n) == n;
	}
	return f->head_sent;
}

/* Rows until the worker's arena is full; true when all are out. */
static bool put_rows(struct fake_conn *f, struct request *r)
{
	uint64_t n = number(r, 0), bytes = number(r, 1);
	char *text = bytes > 0 ? malloc(bytes) : NULL;
	bool all = put_head(f, r, bytes > 0 ? 2 : 1);

	if (text != NULL) {
		memset(text, 'x', bytes);
	}
	while (all && f->row < n) {
		int64_t v = (int64_t)f->row;
		struct stream_cell cells[2] = {{&v, sizeof(v), CELL_INT64, CELL_NATIVE},
			{text, (uint32_t)bytes, CELL_TEXT, CELL_NATIVE}};
		struct stream_row row = {.ncells = bytes > 0 ? 2 : 1, .cells = cells, .at = f->row_at};

		all = request_row(r, &row);
		f->row_at = all ? 0 : row.at;
		f->row += all;
	}
	free(text);
	return all;
}

static void put_echo(struct fake_conn *f, struct request *r)
{
	struct stream_cell cells[2];
	struct stream_row row = {.ncells = 0, .cells = cells};

	for (unsigned i = 0; i < r->nparams && i < 2; i++) {
		cells[i] = (struct stream_cell){r->params[i].data, r->params[i].len,
			(uint8_t)r->params[i].type, CELL_NATIVE};
		row.ncells++;
	}
	put_head(f, r, row.ncells);
	request_row(r, &row);
}

static void put_who(struct fake_conn *f, struct request *r)
{
	int64_t slot = f->c->slot;
	struct stream_cell cell = {&slot, sizeof(slot), CELL_INT64, CELL_NATIVE};
	struct stream_row row = {.ncells = 1, .cells = &cell};

	put_head(f, r, 1);
	request_row(r, &row);
}

static void fail_head(struct fake_conn *f, const char *sqlstate, enum fail_code code, const char *text)
{
	struct failure why = {.code = code, .message = text};

	snprintf(why.sqlstate, sizeof(why.sqlstate), "%.5s", sqlstate);
	end_head(f, 0, &why);
}

static void execute(struct fake_conn *f, struct request *r)
{
	struct failure gone = {.code = FAIL_UNAVAILABLE, .message = "the fake connection dropped"};

	if (is_word(r, "rows")) {
		if (put_rows(f, r)) {
			end_head(f, number(r, 0), NULL);
		}
	} else if (is_word(r, "echo")) {
		put_echo(f, r);
		end_head(f, 1, NULL);
	} else if (is_word(r, "who")) {
		put_who(f, r);
		end_head(f, 1, NULL);
	} else if (is_word(r, "error")) {
		fail_head(f, r->stmt->text + 6, FAIL_DATABASE, "as the statement asked");
	} else if (is_word(r, "drop")) {
		lose(f, &gone);
	} else if (is_word(r, "affect")) {
		if (r->flags & REQ_F_READONLY) {
			fail_head(f, "25006", FAIL_DATABASE, "read-only transaction");
		} else {
			end_head(f, number(r, 0), NULL);
		}
	} else {
		f->c->dirty |= is_word(r, "dirty");
		end_head(f, 0, NULL);
	}
}

static void on_work(uv_timer_t *t)
{
	struct fake_conn *f = t->data;
	struct request *r = head_of(f->c);

	if (r == NULL) {
		return;
	}
	if (r->op == REQ_COMMIT && f->c->tx == CONN_TX_FAILED) {
		f->c->tx = CONN_TX_IDLE;
		fail_head(f, "", FAIL_TX_ABORTED, "the transaction had failed");
	} else if (r->op == REQ_COMMIT || r->op == REQ_ROLLBACK) {
		f->c->tx = CONN_TX_IDLE;
		end_head(f, 0, NULL);
	} else if (f->c->tx == CONN_TX_FAILED) {
		fail_head(f, "25P02", FAIL_DATABASE, "current transaction is aborted");
	} else if (r->op != REQ_EXEC) {
		fail_head(f, "0A000", FAIL_UNSUPPORTED, "the fake database has no COPY");
	} else {
		execute(f, r);
	}
	if (!f->closing && !f->running) {
		run_head(f);
	}
}

static void run_head(struct fake_conn *f)
{
	struct request *r = head_of(f->c);

	if (r == NULL || f->running) {
		return;
	}
	f->running = true;
	uv_timer_start(&f->timer, on_work,
		r->op == REQ_EXEC && is_word(r, "sleep") ? number(r, 0) : 0, 0);
}

static void fake_start(struct conn *c, struct request *r, unsigned begin)
{
	(void)r;
	if (begin != 0) {
		c->tx = CONN_TX_OPEN;
	}
	run_head(c->priv);
}

static void fake_flush(struct conn *c)
{
	(void)c;
}

static void fake_resume(struct conn *c)
{
	struct fake_conn *f = c->priv;

	uv_timer_start(&f->timer, on_work, 0, 0);
}

static bool fake_copy_data(struct conn *c, const void *data, size_t len)
{
	(void)c;
	(void)data;
	(void)len;
	return true;
}

static void fake_copy_end(struct conn *c, const char *error)
{
	(void)c;
	(void)error;
}

static void on_side(uv_timer_t *t)
{
	struct fake_conn *f = t->data;
	struct conn *c = f->c;

	if (f->reset_pending) {
		f->reset_pending = false;
		c->tx = CONN_TX_IDLE;
		conn_reset_done(c, true);
		return;
	}
	if (f->cancel_pending) {
		struct request *r = head_of(c);

		f->cancel_pending = false;
		if (r != NULL && r->op == REQ_EXEC && f->running) {
			uv_timer_stop(&f->timer);
			fail_head(f, "57014", FAIL_CANCELLED, "canceled");
			run_head(f);
		}
		conn_cancel_settled(c);
	}
}

static void fake_cancel(struct conn *c)
{
	struct fake_conn *f = c->priv;

	f->cancel_pending = true;
	uv_timer_start(&f->side, on_side, 1, 0);
}

static void fake_reset(struct conn *c, unsigned what)
{
	struct fake_conn *f = c->priv;

	(void)what;
	f->reset_pending = true;
	uv_timer_start(&f->side, on_side, 0, 0);
}

const struct driver driver_fake = {
	.name = "fake",
	.share = DRIVER_SHARE_READS,
	.server_open = fake_server_open,
	.server_close = fake_server_close,
	.size = fake_size,
	.roles = fake_roles,
	.connect = fake_connect,
	.start = fake_start,
	.flush = fake_flush,
	.resume = fake_resume,
	.copy_data = fake_copy_data,
	.copy_end = fake_copy_end,
	.cancel = fake_cancel,
	.reset = fake_reset,
	.close = fake_close,
};
