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
 *   set N             remembers N in the session, which is touched
 *   get               one row: what the session remembers, 0 when clean
 *   who               one row: the connection's slot and generation
 *   turn [MS]         takes MS milliseconds; one row: how many statements the server executed so
 *                     far
 *   census            one row: connections open or opening now, the most there were, how many in
 *                     all
 *
 * Rules stand in the url, and in a file that may change all the time and is looked at every few
 * milliseconds; of the two the file counts: fake:?connect_ms=5&control=/path
 *
 *   connect_ms=N      connecting takes this long
 *   refuse=1          connecting fails, as if nobody listened
 *   fail=SQLSTATE     connecting fails with this
 *   hang=1            connecting takes until connect_timeout, or until the rule goes
 *   epoch=N           the server was restarted: connections of another epoch are lost at once
 *   idle_ms=N         the server closes connections that did nothing for so long
 *   drop_every=N      every N-th statement of the server loses its connection
 *   cancel_ms=N       a cancel arrives after this long; 1 if not given
 *   reset_ms=N        cleaning the session takes this long
 *   reset_fail=1      and does not succeed
 *   reset_hang=1      or never ends
 *
 * Cancels are imprecise on purpose, as PostgreSQL's are: they hit whatever runs when they arrive, a
 * reset as well.
 */
#include "driver.h"

#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define WATCH_MS 5

struct fake_rules {
	unsigned connect_ms, idle_ms, drop_every, cancel_ms, reset_ms, epoch;
	bool refuse, hang, reset_fail, reset_hang;
	char fail[6];
};

struct fake_server {
	char *url;
	char control[256]; /* path, "" if there is none */
	struct stat seen; /* of the control file when it was read */
	unsigned connect_timeout; /* milliseconds */
	struct fake_rules rules;
	uint64_t statements; /* executed */
	int64_t open, peak, connects;
};

struct fake_conn {
	struct conn *c;
	uv_timer_t timer; /* runs the head, or the connect */
	uv_timer_t side; /* cancel */
	uv_timer_t wash; /* reset */
	uv_timer_t watch; /* looks whether the rules changed */
	unsigned handles;
	unsigned epoch;
	uint64_t idle_since_ms;
	int64_t memory; /* of the session */
	bool connecting, hanging, reset_pending, closing, announced;
	bool running; /* the head was begun */
	uint64_t row; /* next row of the head */
	uint64_t row_at; /* bytes of it already taken */
	bool head_sent;
};

static void run_head(struct fake_conn *f);

static struct request *head_of(struct conn *c)
{
	return cds_list_empty(&c->inflight)
		       ? NULL
		       : cds_list_first_entry(&c->inflight, struct request, link);
}

/* -- server ------------------------------------------------------------------------------------ */

/* Value of "key=" in text, NULL if it is not there. */
static const char *rule(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *p = text; (p = strstr(p, key)) != NULL; p++) {
		if (p[n] == '=' && (p == text || strchr("?&\n", p[-1]) != NULL)) {
			return p + n + 1;
		}
	}
	return NULL;
}

static void take_number(const char *text, const char *key, unsigned *out)
{
	const char *p = rule(text, key);

	*out = p != NULL ? (unsigned)strtoul(p, NULL, 10) : *out;
}

static void take_flag(const char *text, const char *key, bool *out)
{
	const char *p = rule(text, key);

	*out = p != NULL ? *p == '1' : *out;
}

static void take_rules(struct fake_rules *r, const char *text)
{
	const char *fail = rule(text, "fail");

	take_number(text, "connect_ms", &r->connect_ms);
	take_number(text, "idle_ms", &r->idle_ms);
	take_number(text, "drop_every", &r->drop_every);
	take_number(text, "cancel_ms", &r->cancel_ms);
	take_number(text, "reset_ms", &r->reset_ms);
	take_number(text, "epoch", &r->epoch);
	take_flag(text, "refuse", &r->refuse);
	take_flag(text, "hang", &r->hang);
	take_flag(text, "reset_fail", &r->reset_fail);
	take_flag(text, "reset_hang", &r->reset_hang);
	if (fail != NULL) {
		snprintf(r->fail, sizeof(r->fail), "%.*s", (int)strcspn(fail, "&\n"), fail);
	}
}

/* The rules as they are now. */
static const struct fake_rules *rules_of(struct fake_server *s)
{
	char text[512] = "";
	struct stat st;
	FILE *f;

	if (s->control[0] == '\0' || stat(s->control, &st) < 0 ||
		(st.st_ino == s->seen.st_ino && st.st_size == s->seen.st_size &&
			st.st_mtim.tv_sec == s->seen.st_mtim.tv_sec &&
			st.st_mtim.tv_nsec == s->seen.st_mtim.tv_nsec)) {
		return &s->rules;
	}
	f = fopen(s->control, "re");
	if (f == NULL) {
		return &s->rules;
	}
	s->seen = st;
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	s->rules = (struct fake_rules){.cancel_ms = 1};
	take_rules(&s->rules, s->url);
	take_rules(&s->rules, text);
	return &s->rules;
}

static int fake_server_open(struct io *io, const struct config_server *server,
	const struct config_pool *pool, void **priv, char *err, size_t errlen)
{
	struct fake_server *s = calloc(1, sizeof(*s));
	const char *p = rule(server->url, "control");

	(void)io;
	(void)pool;
	if (s == NULL) {
		snprintf(err, errlen, "out of memory");
		return -1;
	}
	s->url = strdup(server->url);
	if (s->url == NULL) {
		snprintf(err, errlen, "out of memory");
		free(s);
		return -1;
	}
	s->connect_timeout = (unsigned)server->connect_timeout;
	s->rules.cancel_ms = 1;
	take_rules(&s->rules, s->url);
	if (p != NULL) {
		snprintf(s->control, sizeof(s->control), "%.*s", (int)strcspn(p, "&"), p);
	}
	*priv = s;
	return 0;
}

static void fake_server_close(void *priv)
{
	struct fake_server *s = priv;

	if (s != NULL) {
		free(s->url);
		free(s);
	}
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
	struct fake_server *s = f->c->server_priv;

	s->open--;
	f->closing = true;
	uv_close((uv_handle_t *)&f->timer, on_handle_closed);
	uv_close((uv_handle_t *)&f->side, on_handle_closed);
	uv_close((uv_handle_t *)&f->wash, on_handle_closed);
	uv_close((uv_handle_t *)&f->watch, on_handle_closed);
}

static void lose(struct fake_conn *f, const struct failure *why)
{
	struct conn *c = f->c;

	f->announced = true;
	shut(f);
	c->priv = NULL;
	conn_closed(c, why);
}

static uint64_t now_ms(const struct fake_conn *f)
{
	return uv_now(io_uv(f->c->io));
}

static void on_connected(uv_timer_t *t)
{
	struct fake_conn *f = t->data;
	const struct fake_rules *rules = rules_of(f->c->server_priv);
	struct failure why = {.code = FAIL_UNAVAILABLE, .message = "the fake server refuses"};

	f->connecting = false;
	if (f->hanging) {
		why.message = "connect_timeout: no connection in time";
		lose(f, &why);
		return;
	}
	if (rules->refuse || rules->fail[0] != '\0') {
		memcpy(why.sqlstate, rules->fail, sizeof(why.sqlstate));
		lose(f, &why);
		return;
	}
	f->c->backend_pid = (int32_t)f->c->slot + 1;
	f->idle_since_ms = now_ms(f);
	conn_ready(f->c);
}

static void start_connecting(struct fake_conn *f, const struct fake_rules *rules)
{
	struct fake_server *s = f->c->server_priv;

	f->epoch = rules->epoch;
	f->connecting = true;
	f->hanging = rules->hang;
	uv_timer_start(
		&f->timer, on_connected, f->hanging ? s->connect_timeout : rules->connect_ms, 0);
}

static void on_watch(uv_timer_t *t)
{
	static const struct failure ended = {.code = FAIL_UNAVAILABLE,
		.sqlstate = "57P01",
		.message = "the fake server ended the connection"};
	struct fake_conn *f = t->data;
	const struct fake_rules *rules = rules_of(f->c->server_priv);

	if (f->connecting) {
		if (f->hanging && !rules->hang) {
			start_connecting(f, rules);
		}
		return;
	}
	if (f->epoch != rules->epoch || (rules->idle_ms != 0 && head_of(f->c) == NULL &&
						now_ms(f) - f->idle_since_ms >= rules->idle_ms)) {
		lose(f, &ended);
	}
}

static void fake_connect(struct conn *c)
{
	struct fake_conn *f = calloc(1, sizeof(*f));
	struct fake_server *s = c->server_priv;

	check(f != NULL);
	f->c = c;
	c->priv = f;
	f->timer.data = f->side.data = f->wash.data = f->watch.data = f;
	uv_timer_init(io_uv(c->io), &f->timer);
	uv_timer_init(io_uv(c->io), &f->side);
	uv_timer_init(io_uv(c->io), &f->wash);
	uv_timer_init(io_uv(c->io), &f->watch);
	f->handles = 4;
	s->connects++;
	s->open++;
	s->peak = s->open > s->peak ? s->open : s->peak;
	start_connecting(f, rules_of(s));
	if (s->control[0] != '\0' || s->rules.idle_ms != 0) {
		uv_timer_start(&f->watch, on_watch, WATCH_MS, WATCH_MS);
	}
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
	f->idle_since_ms = now_ms(f);
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
		struct stream_row row = {
			.ncells = bytes > 0 ? 2 : 1, .cells = cells, .at = f->row_at};

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

/* One row of numbers. */
static void put_numbers(struct fake_conn *f, struct request *r, unsigned n, const int64_t *v)
{
	static const struct stream_column cols[3] = {
		{"a", CELL_INT64}, {"b", CELL_INT64}, {"c", CELL_INT64}};
	unsigned char head[128];
	struct stream_cell cells[3];
	struct stream_row row = {.ncells = n, .cells = cells};

	for (unsigned i = 0; i < n; i++) {
		cells[i] = (struct stream_cell){&v[i], sizeof(v[i]), CELL_INT64, CELL_NATIVE};
	}
	(void)request_write(r, head, stream_encode_head(head, sizeof(head), n, cols));
	(void)request_row(r, &row);
	end_head(f, 1, NULL);
}

/* Words that answer with one row of numbers. */
static bool tell(struct fake_conn *f, struct request *r)
{
	const struct fake_server *s = f->c->server_priv;

	if (is_word(r, "who")) {
		put_numbers(f, r, 2, (int64_t[]){f->c->slot, (int64_t)f->c->generation});
	} else if (is_word(r, "turn")) {
		put_numbers(f, r, 1, (int64_t[]){(int64_t)s->statements});
	} else if (is_word(r, "census")) {
		put_numbers(f, r, 3, (int64_t[]){s->open, s->peak, s->connects});
	} else if (is_word(r, "get")) {
		put_numbers(f, r, 1, &f->memory);
	} else {
		return false;
	}
	return true;
}

static void fail_head(
	struct fake_conn *f, const char *sqlstate, enum fail_code code, const char *text)
{
	struct failure why = {.code = code, .message = text};

	snprintf(why.sqlstate, sizeof(why.sqlstate), "%.5s", sqlstate);
	end_head(f, 0, &why);
}

static void execute(struct fake_conn *f, struct request *r)
{
	struct failure gone = {.code = FAIL_UNAVAILABLE, .message = "the fake connection dropped"};
	struct fake_server *s = f->c->server_priv;

	s->statements += f->row == 0 && !f->head_sent;
	if (s->rules.drop_every != 0 && s->statements % s->rules.drop_every == 0) {
		lose(f, &gone);
	} else if (is_word(r, "rows")) {
		if (put_rows(f, r)) {
			end_head(f, number(r, 0), NULL);
		}
	} else if (is_word(r, "echo")) {
		put_echo(f, r);
		end_head(f, 1, NULL);
	} else if (tell(f, r)) {
		return;
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
		f->memory = is_word(r, "set") ? (int64_t)number(r, 0) : f->memory;
		f->c->dirty |= is_word(r, "dirty") || is_word(r, "set");
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
	uint64_t ms = 0;

	if (r == NULL || f->running || f->reset_pending) {
		return;
	}
	f->running = true;
	if (r->op == REQ_EXEC && (is_word(r, "sleep") || is_word(r, "turn"))) {
		ms = number(r, 0);
	}
	uv_timer_start(&f->timer, on_work, ms, 0);
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

static void end_reset(struct fake_conn *f, bool good)
{
	uv_timer_stop(&f->wash);
	f->reset_pending = false;
	f->idle_since_ms = now_ms(f);
	if (good && head_of(f->c) == NULL) { /* else it was idle before */
		f->c->tx = CONN_TX_IDLE;
	}
	conn_reset_done(f->c, good);
	if (!f->closing) {
		run_head(f);
	}
}

static void on_wash(uv_timer_t *t)
{
	struct fake_conn *f = t->data;

	end_reset(f, !rules_of(f->c->server_priv)->reset_fail);
}

static void on_side(uv_timer_t *t)
{
	struct fake_conn *f = t->data;
	struct conn *c = f->c;
	struct request *r = head_of(c);

	if (f->reset_pending) {
		end_reset(f, false);
		return; /* the connection was given up, and with it the cancel */
	}
	if (r != NULL && r->op == REQ_EXEC && f->running) {
		uv_timer_stop(&f->timer);
		fail_head(f, "57014", FAIL_CANCELLED, "canceled");
		run_head(f);
	}
	conn_cancel_settled(c);
}

static void fake_cancel(struct conn *c)
{
	struct fake_conn *f = c->priv;

	uv_timer_start(&f->side, on_side, rules_of(c->server_priv)->cancel_ms, 0);
}

static void fake_reset(struct conn *c, unsigned what)
{
	struct fake_conn *f = c->priv;
	const struct fake_rules *rules = rules_of(c->server_priv);

	f->reset_pending = true;
	if ((what & CONN_RESET_SESSION) && !rules->reset_fail) {
		f->memory = 0;
	}
	if (!rules->reset_hang) {
		uv_timer_start(&f->wash, on_wash, rules->reset_ms, 0);
	}
}

const struct driver driver_fake = {
	.name = "fake",
	.share = DRIVER_SHARE_READS,
	.reset_rides = true,
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
