/* SPDX-License-Identifier: MIT */
/*
 * session_take.c - see session_core.h: what a worker has published is copied once, checked, and
 * acted on as the copy.
 */
#include "session_core.h"

#include "lease.h"
#include "pool.h"
#include "request_core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Descriptors taken from one worker per pass, so that a flood delays the others little. */
#define POLL_BUDGET 64u
/* Leases of one worker, those that have ended badly and were not given back included. */
#define MAX_LEASES 1024u
/* A lease asks with a tag and nothing else. */
#define LEASE_BODY_MAX 4096u

/* Body bytes of a descriptor in the request arena, or NULL: they lie outside. */
static const unsigned char *span_from_peer(const struct session *s, const struct shm_request *d)
{
	uint64_t at = d->off & (s->arena_in_len - 1);

	validate(d->len <= s->arena_in_len && span_ok(at, d->len, s->arena_in_len), NULL);
	return s->arena_in + at;
}

/* The library counts bodies as a whole against max_request; the margin forgives others. */
static uint64_t max_body(const struct session *s)
{
	return (uint64_t)s->io->config->broker.max_request + sizeof(struct shm_body) + 4096;
}

void session_drop_part(struct session *s)
{
	board_adjust(s->io->board, METRIC_REQUEST_MEMORY, -(int64_t)s->part_cap);
	free(s->part);
	s->part = NULL;
	s->part_len = s->part_cap = s->part_id = 0;
}

static int grow_part(struct session *s, uint64_t want)
{
	uint64_t cap = want < 2 * s->part_cap ? 2 * s->part_cap : want;
	void *p;

	cap = cap < max_body(s) ? cap : max_body(s);
	p = realloc(s->part, cap);
	validate(p != NULL, -ENOMEM);
	board_adjust(s->io->board, METRIC_REQUEST_MEMORY, (int64_t)(cap - s->part_cap));
	s->part = p;
	s->part_cap = cap;
	return 0;
}

static int append_part(struct session *s, const struct shm_request *d, const unsigned char *bytes)
{
	uint64_t want;

	if (s->part_id != d->id) {
		s->part_id = d->id;
		s->part_len = 0;
	}
	want = s->part_len + d->len;
	validate(want <= max_body(s), -E2BIG);
	if (want > s->part_cap) {
		validate(grow_part(s, want) == 0, -ENOMEM);
	}
	if (d->len > 0) { /* else there may be no memory yet */
		memcpy(s->part + s->part_len, bytes, d->len); /* the one copy */
	}
	s->part_len = want;
	return 0;
}

/*
 * The statement a descriptor means: a text in the body, remembered under an id if it defines one,
 * or an id from before.  Takes a reference.
 */
static struct statement *resolve_statement(struct session *s, const struct shm_request *d,
	const char *text, uint32_t len)
{
	struct statement *st;

	if (len == 0 && d->stmt != 0) {
		validate(d->stmt < s->nstmts && s->stmts[d->stmt] != NULL, NULL);
		statement_hold(s->stmts[d->stmt]);
		return s->stmts[d->stmt];
	}
	validate((d->flags & REQ_F_DEFINE) == 0 || len <= CHAN_STMT_TEXT_MAX, NULL);
	st = statement_get(s->io->statements, text, len);
	if (st == NULL || d->stmt == 0 || (d->flags & REQ_F_DEFINE) == 0) {
		return st;
	}
	if (d->stmt >= s->nstmts) {
		unsigned n = d->stmt < 32 ? 64 : d->stmt * 2;
		struct statement **p;

		n = n > CHAN_MAX_STMTS ? CHAN_MAX_STMTS : n;
		p = realloc(s->stmts, n * sizeof(*p));
		if (p == NULL) {
			statement_put(s->io->statements, st);
			return NULL;
		}
		memset(p + s->nstmts, 0, (n - s->nstmts) * sizeof(*p));
		s->stmts = p;
		s->nstmts = n;
	}
	statement_put(s->io->statements, s->stmts[d->stmt]);
	statement_hold(st);
	s->stmts[d->stmt] = st;
	return st;
}

/* Parameters of the private copy; 0 or -EPROTO. */
static int parse_params(struct request *r, unsigned n, const unsigned char *p, uint64_t left)
{
	static const uint32_t fixed[CELL_TYPE_COUNT] = {
		[CELL_BOOL] = 1, [CELL_INT64] = 8, [CELL_DOUBLE] = 8, [CELL_TIMESTAMP] = 8};

	for (unsigned i = 0; i < n; i++) {
		struct shm_param h;

		validate(left >= sizeof(h), -EPROTO);
		memcpy(&h, p, sizeof(h));
		p += sizeof(h);
		left -= sizeof(h);
		validate(h.type < CELL_TYPE_COUNT && pad8(h.len) <= left, -EPROTO);
		validate(fixed[h.type] == 0 || fixed[h.type] == h.len, -EPROTO);
		validate(h.type != CELL_NULL || h.len == 0, -EPROTO);
		r->params[i] = (struct request_param){.data = p, .len = h.len, .type = h.type};
		p += pad8(h.len);
		left -= pad8(h.len);
	}
	return 0;
}

/* Parse the private copy of a body into r. */
static int parse_body(
	struct session *s, const struct shm_request *d, struct request *r, uint64_t len)
{
	struct shm_body h;
	const unsigned char *p = r->body;
	uint64_t left = len;

	validate(left >= sizeof(h), -EPROTO);
	memcpy(&h, p, sizeof(h));
	p += sizeof(h);
	left -= sizeof(h);
	validate(pad8(h.tag_len) <= left, -EPROTO);
	r->tag_len = h.tag_len > CHAN_TAG_MAX ? CHAN_TAG_MAX : h.tag_len;
	memcpy(r->tag, p, r->tag_len);
	p += pad8(h.tag_len);
	left -= pad8(h.tag_len);
	validate(pad8(h.sql_len) <= left && h.nparams <= CHAN_MAX_PARAMS, -EPROTO);
	if (d->op == REQ_LEASE) {
		return 0;
	}
	validate(memchr(p, '\0', h.sql_len) == NULL, -EPROTO);
	r->stmt = resolve_statement(s, d, (const char *)p, h.sql_len);
	validate(r->stmt != NULL, -EPROTO);
	r->stmt->uses++;
	p += pad8(h.sql_len);
	left -= pad8(h.sql_len);
	validate((uint64_t)h.nparams * sizeof(struct shm_param) <= left, -EPROTO);
	if (h.nparams > 0) {
		r->params = request_alloc_params(r, h.nparams);
		validate(r->params != NULL, -ENOMEM);
		r->nparams = h.nparams;
		return parse_params(r, h.nparams, p, left);
	}
	return 0;
}

static bool op_has_body(uint8_t op)
{
	return op == REQ_EXEC || op == REQ_COPY_IN || op == REQ_COPY_OUT || op == REQ_LEASE;
}

static struct request *find_request(struct session *s, uint64_t id)
{
	struct request *r;

	cds_list_for_each_entry(r, &s->requests, session_link)
	{
		if (r->id == id) {
			return r;
		}
	}
	return NULL;
}

/* Body of a request, put together of its parts and the bytes of its last descriptor. */
static int take_body(struct session *s, const struct shm_request *d, const unsigned char *bytes,
	struct request *r)
{
	uint64_t parts = r->body_len - d->len;

	if (parts > 0) {
		memcpy(r->body, s->part, parts);
	}
	if (s->part_cap > 0) { /* used, or given up: bodies come one after the other */
		session_drop_part(s);
	}
	memcpy(r->body + parts, bytes, d->len); /* the one copy */
	return parse_body(s, d, r, r->body_len);
}

/* What the library never sends is refused before anything is allocated for it. */
static int check_request(const struct session *s, const struct shm_request *d, uint64_t body_len)
{
	validate(d->id != 0, -EPROTO);
	/* the library stays below */
	validate(s->nrequests < 2 * CHAN_RING_SLOTS + s->nleases, -EPROTO);
	validate(body_len <= max_body(s), -E2BIG);
	if (d->op == REQ_LEASE) {
		validate(d->pool < s->io->npools && body_len <= LEASE_BODY_MAX, -EPROTO);
		validate(s->nleases < MAX_LEASES, -EPROTO);
	} else {
		validate(d->pool < s->io->npools || d->lease != 0, -EPROTO);
	}
	return 0;
}

void session_add_request(struct session *s, struct request *r)
{
	r->session = s;
	cds_list_add_tail(&r->session_link, &s->requests);
	s->nrequests++;
	s->held += r->body_len;
	if (r->tag_len > 0) {
		memcpy(s->tag, r->tag, r->tag_len);
		s->tag[r->tag_len] = '\0';
	}
}

static int take_lease(struct session *s, const struct shm_request *d, struct request *r)
{
	int err;

	r->pool = s->io->pools[d->pool];
	err = lease_ask(s, r);
	if (err < 0) {
		session_request_ended(s, r);
		request_free(r);
	}
	return err;
}

/* Without waiting.  Within a lease nothing overtakes. */
static bool may_enter(struct session *s, const struct request *r)
{
	const struct request *w;

	if (session_needs_block(r)) {
		return cds_list_empty(&s->unadmitted) && session_has_room(s);
	}
	cds_list_for_each_entry(w, &s->unadmitted, link)
	{
		if (w->lease_id == r->lease_id) {
			return false;
		}
	}
	return true;
}

/* A statement, or the end of a lease.  Its lease is looked up when it is admitted. */
static void take_statement(struct session *s, const struct shm_request *d, struct request *r)
{
	static const struct failure full = {.code = FAIL_BUSY,
		.retry_safe = true,
		.message =
			"the statements of this worker in flight hold more than twice max_request "
			"bytes: collect some first"};
	const struct lease *l = d->lease != 0 ? session_find_lease(s, d->lease) : NULL;

	s->statements++;
	r->lease_id = d->lease;
	r->pool = l != NULL ? l->pool : s->io->pools[d->lease == 0 ? d->pool : 0];
	request_started(r, r->body_len);
	if (r->body_len > REQUEST_INLINE && s->held > 2 * max_body(s)) {
		request_give_up(r, &full);
	} else if (may_enter(s, r)) {
		session_promise_block(s, r);
		request_route(r);
	} else { /* until results were given back, or others needed none */
		cds_list_add_tail(&r->link, &s->unadmitted);
		board_count(s->io->board, METRIC_BACKPRESSURE_STALLS, 1);
	}
}

/* A request that needs an answer (or is a lease). */
static int take_request(struct session *s, const struct shm_request *d, const unsigned char *bytes)
{
	bool body = op_has_body(d->op);
	uint64_t len = body ? (s->part_id == d->id ? s->part_len : 0) + d->len : 0;
	int err = check_request(s, d, len);
	struct request *r;

	validate(err == 0, err);
	r = request_create(s->io, d, len);
	validate(r != NULL, -ENOMEM);
	err = body ? take_body(s, d, bytes, r) : 0;
	if (err < 0) {
		request_free(r);
		return err;
	}
	session_add_request(s, r);
	if (d->op == REQ_LEASE) {
		return take_lease(s, d, r);
	}
	take_statement(s, d, r);
	return 0;
}

static int take_copy(struct session *s, const struct shm_request *d, const unsigned char *bytes)
{
	struct request *r = find_request(s, d->target);

	if (r == NULL || r->op != REQ_COPY_IN || r->lease == NULL) {
		return 0; /* it has failed already: the rest of its data is on the way */
	}
	if (d->op == REQ_COPY_DATA) {
		board_pool_count(s->io->board, r->pool->index, POOL_METRIC_COPY_BYTES_IN, d->len);
		lease_copy_data(r->lease, bytes, d->len);
		return 0;
	}
	char reason[256];
	size_t n = d->len < sizeof(reason) - 1 ? d->len : sizeof(reason) - 1;

	memcpy(reason, bytes, n);
	reason[n] = '\0';
	lease_copy_end(r->lease, n > 0 ? reason : NULL);
	return 0;
}

/*
 * One descriptor, already a private copy.  COPY data is handed on from the shared arena: the driver
 * copies it once and nothing is ever decided by it.
 */
static int take_one(struct session *s, const struct shm_request *d)
{
	const unsigned char *bytes = span_from_peer(s, d);
	struct request *r;

	validate(bytes != NULL && d->op < REQ_OP_COUNT && d->reserved == 0, -EPROTO);
	validate(d->stmt < CHAN_MAX_STMTS, -EPROTO);
	if (d->free_chunk != CHAN_NO_CHUNK) {
		validate(session_free_chunk_from_peer(s, d->free_chunk) == 0, -EPROTO);
		session_blocks_freed(s);
	}
	switch ((enum req_op)d->op) {
	case REQ_NOP:
		return 0;
	case REQ_PART:
		return append_part(s, d, bytes);
	case REQ_COPY_DATA:
	case REQ_COPY_END:
		return take_copy(s, d, bytes);
	case REQ_CANCEL:
		r = find_request(s, d->target);
		if (r != NULL) {
			request_cancel(r);
		}
		return 0;
	case REQ_DETACH:
		return 1;
	case REQ_EXEC:
	case REQ_LEASE:
	case REQ_COMMIT:
	case REQ_ROLLBACK:
	case REQ_RELEASE:
	case REQ_COPY_IN:
	case REQ_COPY_OUT:
		return take_request(s, d, bytes);
	case REQ_OP_COUNT:
		break;
	}
	return -EPROTO;
}

static void misbehaved(struct session *s, const struct shm_request *d, int err)
{
	char why[128];

	board_count(s->io->board, METRIC_HOSTILE_REQUESTS, 1);
	if (err == -ENOMEM) {
		session_evict(s, FAIL_MEMORY, "the broker is out of memory");
		return;
	}
	if (err == -E2BIG) {
		session_evict(s, FAIL_TOO_LARGE, "request larger than max_request");
		return;
	}
	snprintf(why, sizeof(why), "malformed request: op %u, %u bytes", d->op, d->len);
	session_evict(s, FAIL_PROTOCOL, why);
}

unsigned session_poll(struct session *s)
{
	uint64_t pending;
	unsigned taken = 0;
	uint64_t bytes = 0;

	io_assert_thread(s->io);
	if (s->state != SESSION_READY) {
		return 0;
	}
	session_admit(s);
	if (s->paused) {
		return 0;
	}
	pending = ring_in_pending(&s->sub);
	if (pending == 0) {
		if (++s->quiet_turns > IO_QUIET_TURNS) {
			session_set_need_wake(s, 1);
			full_fence();
			if (!session_look_again(s)) {
				session_set_hot(s, false);
			}
		}
		return 0;
	}
	if (pending > s->sub.count) {
		board_count(s->io->board, METRIC_HOSTILE_REQUESTS, 1);
		session_evict(s, FAIL_PROTOCOL, "impossible position of the submission ring");
		return 0;
	}
	s->quiet_turns = 0;
	s->active_ns = io_now(s->io);
	while (taken < pending && taken < POLL_BUDGET && !s->paused) {
		struct shm_request d;
		int err;

		ring_take(&s->sub, &d);
		taken++;
		bytes += d.len;
		err = take_one(s, &d);
		if (err != 0) {
			if (err > 0) {
				session_end(s, NULL);
			} else {
				misbehaved(s, &d, err);
			}
			return taken;
		}
	}
	ring_retire(&s->sub);
	board_count(s->io->board, METRIC_REQUESTS, taken);
	/* A worker waits for room only when the ring or the arena was about full. */
	if (taken >= CHAN_RING_SLOTS / 4 || bytes >= s->arena_in_len / 8) {
		session_set_dirty(s);
	}
	return taken;
}
