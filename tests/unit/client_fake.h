/* SPDX-License-Identifier: MIT */
/*
 * client_fake.h - a broker for the tests of the client library: threads in the test's own process
 * that speak the protocol of layout.h and do what the statement's text says, so that every answer,
 * also the late, missing and impossible one, can be had at will.
 *
 *   ok                done, 1 row affected
 *   rows N            N rows of two columns: number, text
 *   big N             one row with a text of N bytes
 *   broken N          as rows N, then an error instead of the end
 *   flags             done, as many rows affected as the number of the flags says
 *   length            one row: bytes of the first parameter, and their sum
 *   error             an error record with SQLSTATE 23505
 *   silent            no answer until it is cancelled, then one with a chunk
 *   die               the socket is closed, no answer
 *   shutdown          done; the channel is marked closed
 *   nonsense          a completion whose chunk lies outside the arena
 *
 * The board has servers "first" and "second"; `server` is the row that is said to have answered.
 *
 * Every block given out must come back exactly once; `faults` counts what breaks the protocol.
 */
#ifndef CLIENT_FAKE_H
#define CLIENT_FAKE_H

#include "board.h"
#include "doorbell.h"
#include "ring.h"
#include "segment.h"
#include "tap.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FAKE_BLOCKS 16u
#define FAKE_ARENA 65536u
#define FAKE_STREAMS 160u
#define FAKE_CHANNELS 64u
#define FAKE_SERVERS 3u /* rows; the last is free */

/* An answer on its way. */
struct fake_stream {
	uint64_t id; /* 0: free */
	unsigned char *bytes;
	size_t len, at, cap;
	uint64_t rows;
	uint32_t code; /* ends with this error instead */
};

struct fake_channel {
	struct fake *fake;
	int sock, bell;
	void *w, *b;
	uint64_t w_len, b_len;
	struct chan_worker *worker;
	struct chan_broker *broker;
	struct ring_in sub;
	struct ring_out comp;
	const unsigned char *arena_in;
	unsigned char *arena_out;
	bool given[FAKE_BLOCKS];
	struct fake_stream stream[FAKE_STREAMS];
	char *stmt[CHAN_MAX_STMTS];
	unsigned char *part;
	size_t part_len;
	uint64_t copy_in, copy_bytes;
	uint64_t silent;
	bool over;
};

/* Shared with the test; atomic because the test looks while the threads run. */
struct fake {
	char dir[64], path[96];
	int listener;
	pthread_t thread;
	struct fake_channel *channel[FAKE_CHANNELS]; /* also for leak checkers in forked children */
	_Atomic uint32_t faults, attaches, requests, nops, defines, parts, cancels, ends, given_out;
	_Atomic uint32_t last_end; /* op of the last lease end */
	_Atomic uint32_t pause; /* take nothing */
	_Atomic uint32_t refuse; /* code of the next attach reply */
	_Atomic uint32_t reply_mode; /* enum fake_reply */
	_Atomic uint32_t server; /* in completions */
	_Atomic uint32_t stop;
};

enum fake_reply {
	FAKE_REPLY_GOOD,
	FAKE_REPLY_VERSION,
	FAKE_REPLY_SHORT,
	FAKE_REPLY_EXTRA_FDS,
	FAKE_REPLY_NO_FDS,
	FAKE_REPLY_HANG_UP,
	FAKE_REPLY_SILENT,
};

#define fake_count(word) ((void)atomic_fetch_add(&(word), 1u))

/* -- completions ----------------------------------------------------------------------------- */

static void fake_push(struct fake_channel *c, struct shm_completion *d)
{
	if (ring_out_space(&c->comp) == 0) {
		fake_count(c->fake->faults);
		return;
	}
	ring_push(&c->comp, d);
}

static uint32_t fake_block(struct fake_channel *c)
{
	for (uint32_t i = 0; i < FAKE_BLOCKS; i++) {
		if (!c->given[i]) {
			c->given[i] = true;
			fake_count(c->fake->given_out);
			return i;
		}
	}
	return CHAN_NO_CHUNK;
}

static void fake_final(struct fake_channel *c, uint64_t id, uint64_t rows, uint32_t code,
	const void *chunk, uint32_t len)
{
	struct shm_completion d = {.id = id,
		.kind = code == 0 ? COMP_DONE : COMP_ERROR,
		.server = (uint16_t)get(&c->fake->server),
		.rows = rows,
		.code = code,
		.chunk = CHAN_NO_CHUNK,
		.wait_ns = 5,
		.run_ns = 7};

	if (len > 0) {
		d.chunk = fake_block(c);
		if (d.chunk != CHAN_NO_CHUNK) {
			memcpy(c->arena_out + d.chunk * CHAN_BLOCK, chunk, len);
			d.len = len;
		}
	}
	fake_push(c, &d);
}

static void fake_error(
	struct fake_channel *c, uint64_t id, uint32_t code, const char *sqlstate, const char *text)
{
	unsigned char buf[512];
	struct shm_error e = {.message_len = (uint32_t)strlen(text)};

	memcpy(e.sqlstate, sqlstate, strlen(sqlstate));
	memcpy(buf, &e, sizeof(e));
	memcpy(buf + sizeof(e), text, e.message_len);
	fake_final(c, id, 0, code, buf, (uint32_t)sizeof(e) + e.message_len);
}

/* Send what fits of every stream, a block at a time, in turns. */
static void fake_pump(struct fake_channel *c)
{
	bool moved = true;

	while (moved) {
		moved = false;
		for (unsigned i = 0; i < FAKE_STREAMS; i++) {
			struct fake_stream *s = &c->stream[i];
			struct shm_completion d = {.id = s->id,
				.kind = COMP_DATA,
				.server = (uint16_t)get(&c->fake->server)};
			size_t n = s->len - s->at < CHAN_BLOCK ? s->len - s->at : CHAN_BLOCK;

			if (s->id == 0) {
				continue;
			}
			if (n > 0) {
				d.chunk = fake_block(c);
				if (d.chunk == CHAN_NO_CHUNK) {
					return;
				}
				memcpy(c->arena_out + d.chunk * CHAN_BLOCK, s->bytes + s->at, n);
				s->at += n;
				d.len = (uint32_t)n;
				fake_push(c, &d);
				moved = true;
			}
			if (s->at == s->len) {
				fake_final(c, s->id, s->rows, s->code, NULL, 0);
				free(s->bytes);
				*s = (struct fake_stream){0};
			}
		}
	}
}

/* -- streams --------------------------------------------------------------------------------- */

static void fake_append(struct fake_stream *s, const void *p, size_t n)
{
	if (s->len + pad8(n) > s->cap) {
		s->cap = 2 * (s->len + pad8(n));
		s->bytes = realloc(s->bytes, s->cap);
	}
	if (n > 0) {
		memcpy(s->bytes + s->len, p, n);
	}
	memset(s->bytes + s->len + n, 0xaa, pad8(n) - n); /* nobody promised zeros */
	s->len += pad8(n);
}

static struct fake_stream *fake_open(struct fake_channel *c, uint64_t id)
{
	static const struct shm_result_head head = {.ncols = 2, .head_len = 40};
	static const struct shm_column number = {.name_len = 6, .type = CELL_INT64};
	static const struct shm_column text = {.name_len = 4, .type = CELL_TEXT};
	struct fake_stream *s = c->stream;

	while (s->id != 0) {
		s++;
	}
	*s = (struct fake_stream){.id = id};
	fake_append(s, &head, sizeof(head));
	fake_append(s, &number, sizeof(number));
	fake_append(s, "number", 6);
	fake_append(s, &text, sizeof(text));
	fake_append(s, "text", 4);
	return s;
}

static void fake_row(struct fake_stream *s, int64_t number, const char *text, size_t len)
{
	struct shm_cell a = {.len = 8, .type = CELL_INT64},
			b = {.len = (uint32_t)len, .type = CELL_TEXT};
	struct shm_row row = {.len = 8 + 8 + 8 + pad8(len)};

	fake_append(s, &row, sizeof(row));
	fake_append(s, &a, sizeof(a));
	fake_append(s, &number, sizeof(number));
	fake_append(s, &b, sizeof(b));
	fake_append(s, text, len);
	s->rows++;
}

static void fake_rows(struct fake_channel *c, uint64_t id, unsigned n, uint32_t code)
{
	struct fake_stream *s = fake_open(c, id);
	char text[64];

	for (unsigned i = 0; i < n; i++) {
		fake_row(s, i, text, (size_t)sprintf(text, "row %u", i));
	}
	s->code = code;
}

static void fake_big(struct fake_channel *c, uint64_t id, size_t n)
{
	char *text = malloc(n);

	for (size_t i = 0; i < n; i++) {
		text[i] = (char)('a' + i % 26);
	}
	fake_row(fake_open(c, id), (int64_t)n, text, n);
	free(text);
}

/* -- requests -------------------------------------------------------------------------------- */

static void fake_length(struct fake_channel *c, uint64_t id, const unsigned char *param)
{
	struct shm_param p;
	int64_t sum = 0;
	char text[32];

	memcpy(&p, param, sizeof(p));
	for (uint32_t i = 0; i < p.len; i++) {
		sum += param[sizeof(p) + i];
	}
	fake_row(fake_open(c, id), p.len, text, (size_t)sprintf(text, "%lld", (long long)sum));
}

static void fake_obey(struct fake_channel *c, const struct shm_request *d, const char *sql,
	const unsigned char *params)
{
	unsigned long n = strchr(sql, ' ') != NULL ? strtoul(strchr(sql, ' '), NULL, 10) : 0;
	struct shm_completion bad = {
		.id = d->id, .kind = COMP_DATA, .chunk = FAKE_BLOCKS, .len = 8};

	if (strcmp(sql, "flags") == 0) {
		fake_final(c, d->id, d->flags & (uint8_t)~REQ_F_DEFINE, 0, NULL, 0);
	} else if (strncmp(sql, "rows", 4) == 0) {
		fake_rows(c, d->id, (unsigned)n, 0);
	} else if (strncmp(sql, "broken", 6) == 0) {
		fake_rows(c, d->id, (unsigned)n, 2013);
	} else if (strncmp(sql, "big", 3) == 0) {
		fake_big(c, d->id, n);
	} else if (strcmp(sql, "length") == 0) {
		fake_length(c, d->id, params);
	} else if (strcmp(sql, "error") == 0) {
		fake_error(c, d->id, 2013, "23505", "there is one already");
	} else if (strcmp(sql, "silent") == 0) {
		c->silent = d->id;
	} else if (strcmp(sql, "die") == 0) {
		c->over = true;
	} else if (strcmp(sql, "nonsense") == 0) {
		fake_push(c, &bad);
	} else {
		fake_final(c, d->id, 1, 0, NULL, 0);
		if (strcmp(sql, "shutdown") == 0) {
			publish(&c->broker->closed, 2028u);
		}
	}
}

/* Text of a statement, by number or from the body; remembers definitions. */
static const char *fake_text(
	struct fake_channel *c, const struct shm_request *d, const char *text, size_t len)
{
	static _Thread_local char plain[256];

	if (len == 0 && d->stmt != 0) {
		if (c->stmt[d->stmt] == NULL) {
			fake_count(c->fake->faults);
			return "";
		}
		return c->stmt[d->stmt];
	}
	if ((d->flags & REQ_F_DEFINE) != 0) {
		fake_count(c->fake->defines);
		free(c->stmt[d->stmt]);
		c->stmt[d->stmt] = strndup(text, len);
		return c->stmt[d->stmt];
	}
	snprintf(plain, sizeof(plain), "%.*s", (int)len, text);
	return plain;
}

static void fake_request(
	struct fake_channel *c, const struct shm_request *d, const unsigned char *body)
{
	static const char copy_data[] = "1\n2\n3\n";
	struct shm_body head = {0};
	const unsigned char *p = body + sizeof(head);
	const char *sql;

	memcpy(&head, body, sizeof(head));
	p += pad8(head.tag_len);
	if (d->op == REQ_LEASE) {
		return;
	}
	sql = fake_text(c, d, (const char *)p, head.sql_len);
	if (d->op == REQ_COPY_IN) {
		struct shm_completion ready = {
			.id = d->id, .kind = COMP_COPY_READY, .chunk = CHAN_NO_CHUNK};

		c->copy_in = d->id;
		c->copy_bytes = 0;
		fake_push(c, &ready);
	} else if (d->op == REQ_COPY_OUT) {
		fake_final(c, d->id, 3, 0, copy_data, sizeof(copy_data) - 1);
	} else {
		fake_obey(c, d, sql, p + pad8(head.sql_len));
	}
}

static void fake_take_back(struct fake_channel *c, uint32_t block)
{
	if (block == CHAN_NO_CHUNK) {
		return;
	}
	if (block >= FAKE_BLOCKS || !c->given[block]) {
		fake_count(c->fake->faults);
		return;
	}
	c->given[block] = false;
	(void)atomic_fetch_sub(&c->fake->given_out, 1u);
}

static void fake_whole(
	struct fake_channel *c, const struct shm_request *d, const unsigned char *last)
{
	unsigned char *body = malloc(c->part_len + d->len + 1);

	if (c->part_len > 0) {
		memcpy(body, c->part, c->part_len);
	}
	memcpy(body + c->part_len, last, d->len);
	c->part_len = 0;
	fake_request(c, d, body);
	free(body);
}

static void fake_copy_end(
	struct fake_channel *c, const struct shm_request *d, const unsigned char *body)
{
	char text[256];

	if (d->target != c->copy_in) {
		fake_count(c->fake->faults);
	}
	if (d->len > 0) {
		snprintf(text, sizeof(text), "COPY failed: %.*s", (int)d->len, (const char *)body);
		fake_error(c, c->copy_in, 2013, "57014", text);
	} else {
		fake_final(c, c->copy_in, c->copy_bytes, 0, NULL, 0);
	}
}

static void fake_take(struct fake_channel *c, const struct shm_request *d)
{
	const unsigned char *body = c->arena_in + d->off % FAKE_ARENA;

	if (d->id == 0 || !span_ok(d->off % FAKE_ARENA, d->len, FAKE_ARENA)) {
		fake_count(c->fake->faults);
		return;
	}
	fake_take_back(c, d->free_chunk);
	switch ((enum req_op)d->op) {
	case REQ_NOP:
		fake_count(c->fake->nops);
		return;
	case REQ_PART:
		fake_count(c->fake->parts);
		c->part = realloc(c->part, c->part_len + d->len);
		memcpy(c->part + c->part_len, body, d->len);
		c->part_len += d->len;
		return;
	case REQ_EXEC:
	case REQ_LEASE:
	case REQ_COPY_IN:
	case REQ_COPY_OUT:
		fake_count(c->fake->requests);
		fake_whole(c, d, body);
		return;
	case REQ_COMMIT:
	case REQ_ROLLBACK:
	case REQ_RELEASE:
		put(&c->fake->last_end, (uint32_t)d->op);
		fake_count(c->fake->ends);
		fake_final(c, d->id, 0, 0, NULL, 0);
		return;
	case REQ_COPY_DATA:
		c->copy_bytes += d->len;
		return;
	case REQ_COPY_END:
		fake_copy_end(c, d, body);
		return;
	case REQ_CANCEL:
		fake_count(c->fake->cancels);
		if (d->target == c->silent) {
			fake_error(c, d->target, 2012, "57014", "cancelled");
			c->silent = 0;
		}
		return;
	case REQ_DETACH:
		c->over = true;
		return;
	case REQ_OP_COUNT:
		break;
	}
	fake_count(c->fake->faults);
}

/* -- a channel ------------------------------------------------------------------------------- */

static void fake_wake(struct fake_channel *c)
{
	uint32_t how;
	char byte = 1;

	ring_publish(&c->comp);
	full_fence();
	how = get(&c->worker->sleeping);
	if (how == CHAN_SLEEP_FUTEX) {
		doorbell_wake(&c->broker->bell);
	} else if (how == CHAN_SLEEP_SOCKET) {
		(void)send(c->sock, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

static void fake_serve(struct fake_channel *c)
{
	while (!c->over && get(&c->fake->stop) == 0) {
		struct pollfd p[2] = {{c->bell, POLLIN, 0}, {c->sock, POLLIN, 0}};
		struct shm_request d;
		uint64_t n;
		char byte;

		(void)poll(p, 2, 20);
		if (p[1].revents != 0 && recv(c->sock, &byte, 1, MSG_DONTWAIT) == 0) {
			return;
		}
		(void)!read(c->bell, &n, sizeof(n));
		while (get(&c->fake->pause) == 0 && !c->over && ring_in_pending(&c->sub) > 0) {
			if (ring_in_pending(&c->sub) > CHAN_RING_SLOTS) {
				fake_count(c->fake->faults);
				return;
			}
			ring_take(&c->sub, &d);
			fake_take(c, &d);
			ring_retire(&c->sub);
		}
		fake_pump(c);
		if (!c->over) {
			fake_wake(c);
		}
	}
}

static void fake_map(struct fake_channel *c)
{
	c->worker = segment_at(c->w, segment_section(c->w, SHM_SEC_CONTROL));
	c->broker = segment_at(c->b, segment_section(c->b, SHM_SEC_CONTROL));
	c->arena_in = segment_at(c->w, segment_section(c->w, SHM_SEC_ARENA));
	c->arena_out = segment_at(c->b, segment_section(c->b, SHM_SEC_ARENA));
	ring_in_init(&c->sub, &c->worker->sub_tail, &c->broker->sub_head,
		segment_at(c->w, segment_section(c->w, SHM_SEC_RING)), CHAN_RING_SLOTS);
	ring_out_init(&c->comp, &c->broker->comp_tail, &c->worker->comp_head,
		segment_at(c->b, segment_section(c->b, SHM_SEC_RING)), CHAN_COMP_SLOTS);
	put(&c->broker->need_wake, 1u);
}

static void fake_send_reply(struct fake_channel *c, const int *fds, unsigned nfds)
{
	struct fake *f = c->fake;
	uint32_t mode = get(&f->reply_mode);
	struct attach_reply r = {.magic = ATTACH_MAGIC,
		.major = mode == FAKE_REPLY_VERSION ? SHM_MAJOR + 1 : SHM_MAJOR,
		.code = get(&f->refuse),
		.npools = 1,
		.incarnation = 1,
		.max_request = 8u << 20,
		.default_timeout_ms = 5000,
		.text = "go away"};
	alignas(struct cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))] = {0};
	struct iovec iov = {&r, mode == FAKE_REPLY_SHORT ? 8 : sizeof(r)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds > 0) {
		struct cmsghdr *h;

		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(h), fds, nfds * sizeof(int));
	}
	(void)sendmsg(c->sock, &m, MSG_NOSIGNAL);
}

static void fake_servers(void *board)
{
	struct board_server *row = segment_at(board, segment_section(board, SHM_SEC_SERVERS));

	strcpy(row[0].info.name, "first");
	strcpy(row[1].info.name, "second");
	row[0].used = row[1].used = 1;
}

/* Handshake; true if the worker is ready. */
static bool fake_attach(struct fake_channel *c)
{
	const struct segment_plan w[] = {{SHM_SEC_CONTROL, 1, sizeof(struct chan_worker), 1, 0},
		{SHM_SEC_RING, 1, RING_SLOT, CHAN_RING_SLOTS, 0},
		{SHM_SEC_ARENA, 1, 0, 0, FAKE_ARENA}};
	const struct segment_plan b[] = {{SHM_SEC_CONTROL, 1, sizeof(struct chan_broker), 1, 0},
		{SHM_SEC_RING, 1, RING_SLOT, CHAN_COMP_SLOTS, 0},
		{SHM_SEC_ARENA, 1, 0, 0, (uint64_t)FAKE_BLOCKS * CHAN_BLOCK}};
	const struct segment_plan s[] = {
		{SHM_SEC_SERVERS, 1, sizeof(struct board_server), FAKE_SERVERS, 0}};
	uint32_t mode = get(&c->fake->reply_mode);
	struct segment_identity id;
	struct attach_hello hello;
	struct attach_ready ready;
	uint64_t board_len;
	void *board;
	int fds[6];
	bool ok;

	if (recv(c->sock, &hello, sizeof(hello), 0) != sizeof(hello) ||
		hello.magic != ATTACH_MAGIC || mode == FAKE_REPLY_HANG_UP) {
		return false;
	}
	segment_identity_self(&id);
	fds[0] = segment_create("s", SHM_ROLE_BOARD, 0, &id, s, 1, &board, &board_len);
	fake_servers(board);
	fds[1] = segment_create("w", SHM_ROLE_WORKER, 1, &id, w, 3, &c->w, &c->w_len);
	fds[2] = segment_create("b", SHM_ROLE_BROKER, 1, &id, b, 3, &c->b, &c->b_len);
	fds[3] = c->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fds[4] = fds[5] = fds[3];
	fake_map(c);
	if (mode != FAKE_REPLY_SILENT) {
		fake_send_reply(c, fds,
			get(&c->fake->refuse) != 0 || mode == FAKE_REPLY_NO_FDS ? 0
			: mode == FAKE_REPLY_EXTRA_FDS                          ? 6
										: 4);
	}
	ok = recv(c->sock, &ready, sizeof(ready), 0) == sizeof(ready) &&
	     ready.magic == ATTACH_MAGIC;
	segment_unmap(board, board_len);
	close(fds[0]);
	close(fds[1]);
	close(fds[2]);
	return ok;
}

static void *fake_channel_main(void *arg)
{
	struct fake_channel *c = arg;

	c->bell = -1;
	if (fake_attach(c)) {
		fake_count(c->fake->attaches);
		fake_serve(c);
	}
	for (unsigned i = 0; i < FAKE_BLOCKS; i++) {
		if (c->given[i]) {
			(void)atomic_fetch_sub(&c->fake->given_out, 1u);
		}
	}
	for (unsigned i = 0; i < FAKE_STREAMS; i++) {
		free(c->stream[i].bytes);
	}
	for (unsigned i = 0; i < CHAN_MAX_STMTS; i++) {
		free(c->stmt[i]);
	}
	free(c->part);
	segment_unmap(c->w, c->w_len);
	segment_unmap(c->b, c->b_len);
	if (c->bell >= 0) {
		close(c->bell);
	}
	close(c->sock);
	return NULL;
}

static void *fake_main(void *arg)
{
	struct fake *f = arg;
	pthread_t thread[FAKE_CHANNELS];
	unsigned n = 0;

	for (;;) {
		int sock = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
		struct fake_channel *c;

		if (sock < 0 || n == FAKE_CHANNELS) {
			break;
		}
		c = f->channel[n] = calloc(1, sizeof(*c));
		c->fake = f;
		c->sock = sock;
		pthread_create(&thread[n++], NULL, fake_channel_main, c);
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(thread[i], NULL);
		free(f->channel[i]);
	}
	return NULL;
}

static void fake_start(struct fake *f)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	memset(f, 0, sizeof(*f));
	strcpy(f->dir, "/tmp/shmbroker-fake-XXXXXX");
	if (mkdtemp(f->dir) == NULL) {
		bail_out("no temporary directory");
	}
	snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	strcpy(sa.sun_path, f->path);
	f->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (bind(f->listener, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
		listen(f->listener, 16) < 0) {
		bail_out("no socket: %s", strerror(errno));
	}
	pthread_create(&f->thread, NULL, fake_main, f);
}

static void fake_stop(struct fake *f)
{
	put(&f->stop, 1u);
	shutdown(f->listener, SHUT_RDWR);
	pthread_join(f->thread, NULL);
	close(f->listener);
	unlink(f->path);
	rmdir(f->dir);
}

#endif
