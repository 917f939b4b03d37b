/* SPDX-License-Identifier: MIT */
/* session.c - see session.h. */
#include "session.h"

#include "conn.h"
#include "doorbell.h"
#include "lease.h"
#include "listener.h"
#include "log.h"
#include "pool.h"
#include "request_core.h"
#include "segment.h"
#include "shards.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_ARENA (256u * 1024u)
/* Descriptors taken from one worker per pass, so that a flood delays the others little. */
#define POLL_BUDGET 64u
/* Leases of one worker, those that have ended badly and were not given back included. */
#define MAX_LEASES 1024u
/* A lease asks with a tag and nothing else. */
#define LEASE_BODY_MAX 4096u
/* After so long without a request, what results have touched beyond the first blocks goes back:
 * they are enough for one small statement at a time. */
#define QUIET_NS UINT64_C(1000000000)
#define QUIET_BLOCKS 2u
/* Empty bells in one tick before a worker's bell is ignored and it is polled on ticks instead. */
#define BELL_SPAM 20000u

enum session_state {
	SESSION_ATTACHING, /* segments sent, ready not seen */
	SESSION_READY,
	SESSION_EVICTED,
	SESSION_ENDED,
};

/* A chunk of the result arena, indexed by its first block. */
struct chunk {
	uint16_t blocks; /* 0: no chunk starts here */
	bool given; /* published to the worker */
	struct request *owner; /* whose result still grows, or NULL */
};

/* The latest change of a worker through one pool. */
struct session_write {
	uint64_t wrote_ns; /* 0: none */
	uint64_t lsn; /* a position of the writer after it; 0: not known yet */
};

struct session {
	struct io *io;
	enum session_state state;
	uint64_t incarnation;
	struct session_identity id;
	unsigned slot; /* row in the workers table */
	unsigned pool; /* default, for the mirror */
	int sock, bell;

	void *w, *b; /* mappings */
	uint64_t w_len, b_len;
	const struct chan_worker *worker; /* in w */
	struct chan_broker *broker; /* in b */
	struct ring_in sub;
	struct ring_out comp;
	const unsigned char *arena_in;
	uint64_t arena_in_len;
	unsigned char *arena_out;

	uint64_t used[CHAN_MAX_BLOCKS / 64]; /* bitmap of blocks; bits beyond nblocks are set */
	struct chunk chunk[CHAN_MAX_BLOCKS];
	unsigned nblocks, free_blocks;
	unsigned needy; /* admitted requests that hold no block; free_blocks >= needy */
	unsigned touched; /* blocks from here on were not used since trim_arena */
	uint64_t trimmed_ns;

	struct cds_list_head requests; /* all not ended, struct request.session_link */
	struct cds_list_head unadmitted; /* struct request.link */
	struct cds_list_head blocked; /* struct request.blocked_link */
	struct cds_list_head leases; /* struct lease.session_link */
	unsigned nrequests, nleases;

	struct statement **stmts; /* by the worker's statement id */
	unsigned nstmts; /* allocated */
	uint64_t held; /* bytes of the bodies of its requests */
	uint64_t part_id; /* body being assembled */
	unsigned char *part;
	uint64_t part_len, part_cap;

	bool hot, dirty, paused;
	unsigned quiet_turns;
	unsigned empty_bells; /* in this tick */
	bool bell_ignored;
	bool sock_polled; /* sock_poll is open: from session_ready on */
	uint64_t attached_ns, active_ns, statements, errors;
	struct session_write *writes; /* by pool, nwrites of them; what BROKER_FRESH must see */
	unsigned nwrites;
	bool writes_lost; /* no memory to note one */
	char tag[CHAN_TAG_MAX + 1];

	uv_poll_t sock_poll, pid_poll;
	unsigned handles; /* open uv handles */
	struct cds_list_head link, hot_link, dirty_link;
};

struct session *session_of_link(struct cds_list_head *p)
{
	return container_of(p, struct session, link);
}

struct session *session_of_hot(struct cds_list_head *p)
{
	return container_of(p, struct session, hot_link);
}

struct session *session_of_dirty(struct cds_list_head *p)
{
	return container_of(p, struct session, dirty_link);
}

uint64_t session_incarnation(const struct session *s)
{
	return s->incarnation;
}

unsigned session_slot(const struct session *s)
{
	return s->slot;
}

int32_t session_pid(const struct session *s)
{
	return s->id.pid;
}

uint32_t session_uid(const struct session *s)
{
	return s->id.uid;
}

void session_note_write(struct session *s, const struct pool *p)
{
	if (p->index >= s->nwrites) {
		struct session_write *more =
			realloc(s->writes, (p->index + 1) * sizeof(struct session_write));

		if (more == NULL) {
			s->writes_lost = true;
			return;
		}
		memset(more + s->nwrites, 0, (p->index + 1 - s->nwrites) * sizeof(*more));
		s->writes = more;
		s->nwrites = p->index + 1;
	}
	s->writes[p->index] =
		(struct session_write){.wrote_ns = doorbell_now()}; /* others stamp probes */
}

/*
 * A probe that was sent after the write brought a position that includes it.  Until there is one,
 * and a standby has replayed as far, the writer itself must be asked.
 */
bool session_is_fresh(struct session *s, const struct pool *p, const struct server *standby)
{
	const struct server *writer = p->writer != NULL ? p->writer->server : NULL;
	struct session_write *w;

	if (p->index >= s->nwrites) {
		return !s->writes_lost;
	}
	w = &s->writes[p->index];
	if (w->wrote_ns == 0) {
		return true;
	}
	if (w->lsn == 0 && writer != NULL && writer->lsn_asked_ns > w->wrote_ns) {
		w->lsn = writer->lsn;
	}
	return w->lsn != 0 && standby->lsn >= w->lsn;
}

const char *session_name(const struct session *s)
{
	return s->id.name;
}

bool session_has_lease(const struct session *s)
{
	return s->nleases > 0;
}

/* -- lists of the loop ------------------------------------------------------------------------ */

static void set_hot(struct session *s, bool hot)
{
	if (s->hot == hot) {
		return;
	}
	s->hot = hot;
	if (hot) {
		s->quiet_turns = 0;
		cds_list_add_tail(&s->hot_link, &s->io->hot);
	} else {
		cds_list_del(&s->hot_link);
	}
}

static void set_dirty(struct session *s)
{
	if (!s->dirty) {
		s->dirty = true;
		cds_list_add_tail(&s->dirty_link, &s->io->dirty);
	}
}

void session_set_need_wake(struct session *s, uint32_t v)
{
	put(&s->broker->need_wake, v);
}

/*
 * One more request can be promised a block.  Promises take half of the arena at most, or results
 * would come one block at a time: the library makes room only when much of the arena is in its
 * hands.  The whole of the largest arena serves as many requests as there can be.
 */
static bool has_room(const struct session *s)
{
	return s->free_blocks > s->needy && s->needy < s->nblocks / 2;
}

/*
 * These have no result; if they fail, which is rare, a code will do.  A worker may send many of
 * them for leases that still wait: were they to hold promises until then, those for the leases that
 * the others wait for might not be let in.
 */
static bool needs_block(const struct request *r)
{
	return r->op != REQ_RELEASE && r->op != REQ_ROLLBACK;
}

/* A request that waits for the arena could be let in. */
static bool may_admit(struct session *s)
{
	return !cds_list_empty(&s->unadmitted) &&
	       (has_room(s) || !needs_block(cds_list_first_entry(
				       &s->unadmitted, struct request, link)));
}

static void promise_block(struct session *s, struct request *r)
{
	if (needs_block(r)) {
		r->out.needy = true;
		s->needy++;
	}
}

bool session_look_again(struct session *s)
{
	return s->state == SESSION_READY &&
	       (may_admit(s) || (!s->paused && ring_in_pending(&s->sub) != 0));
}

void session_bell(struct session *s)
{
	if (s->state != SESSION_READY) {
		return;
	}
	if (ring_in_pending(&s->sub) == 0 && ++s->empty_bells > BELL_SPAM) {
		log_warning(
			"worker %d (%s): rings its bell for nothing; its bell is ignored, it is "
			"polled instead",
			s->id.pid, s->id.name);
		io_bell_del(s->io, s->bell);
		s->bell_ignored = true;
		return;
	}
	session_set_need_wake(s, 0);
	set_hot(s, true);
	s->quiet_turns = 0;
}

void session_publish(struct session *s)
{
	ring_publish(&s->comp);
}

void session_wake(struct session *s)
{
	uint32_t how = get(&s->worker->sleeping);

	cds_list_del(&s->dirty_link);
	s->dirty = false;
	if (how == CHAN_SLEEP_FUTEX) {
		doorbell_wake(&s->broker->bell);
		board_count(s->io->board, METRIC_WAKES_SENT, 1);
	} else if (how == CHAN_SLEEP_SOCKET) {
		char byte = 1;

		/* A full socket means that a bell is unread already. */
		(void)send(s->sock, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		board_count(s->io->board, METRIC_WAKES_SENT, 1);
	}
}

/* -- result arena ------------------------------------------------------------------------------ */

static bool run_is_free(const struct session *s, unsigned first, unsigned n)
{
	uint64_t mask = n == 64 ? UINT64_MAX : ((UINT64_C(1) << n) - 1) << (first % 64);

	return (s->used[first / 64] & mask) == 0;
}

static void mark(struct session *s, unsigned first, unsigned n, bool used)
{
	for (unsigned i = first; i < first + n; i++) {
		if (used) {
			s->used[i / 64] |= UINT64_C(1) << (i % 64);
		} else {
			s->used[i / 64] &= ~(UINT64_C(1) << (i % 64));
		}
	}
	s->free_blocks += used ? -n : n;
}

/* Lowest run of n free blocks, aligned to n (a power of two up to 64); nblocks if there is none. */
static unsigned find_run(const struct session *s, unsigned n)
{
	if (n == 1) {
		for (unsigned i = 0; i < CHAN_MAX_BLOCKS / 64; i++) {
			if (s->used[i] != UINT64_MAX) {
				return i * 64 + (unsigned)__builtin_ctzll(~s->used[i]);
			}
		}
		return s->nblocks;
	}
	for (unsigned i = 0; i + n <= s->nblocks; i += n) {
		if (run_is_free(s, i, n)) {
			return i;
		}
	}
	return s->nblocks;
}

static unsigned chunk_of(const struct session *s, uint32_t block)
{
	return block < s->nblocks ? s->chunk[block].blocks : 0;
}

static void disown(struct session *s, struct request *r, unsigned block)
{
	s->chunk[block].owner = NULL;
	r->out.held--;
}

/* Chunks grow with the result: one block, then 4, then 16 (64 KiB). */
static unsigned wanted_blocks(const struct request *r)
{
	return r->out.chunks == 0 ? 1 : r->out.chunks == 1 ? 4 : 16;
}

static bool allocate_chunk(struct session *s, struct request *r)
{
	/* Who holds blocks leaves an eighth to others: a statement run while a stream is read. */
	unsigned kept = r->out.needy ? s->needy - 1 : s->needy + s->nblocks / 8;
	unsigned spare = s->free_blocks > kept ? s->free_blocks - kept : 0;

	for (unsigned n = wanted_blocks(r); n >= 1; n /= 4) {
		unsigned first;

		if (n > spare) {
			continue;
		}
		first = find_run(s, n);
		if (first == s->nblocks) {
			continue;
		}
		mark(s, first, n, true);
		s->touched = first + n > s->touched ? first + n : s->touched;
		s->chunk[first] = (struct chunk){.blocks = (uint16_t)n, .owner = r};
		r->out.held++;
		if (r->out.needy) {
			r->out.needy = false;
			s->needy--;
		}
		r->out.block = first;
		r->out.blocks = n;
		r->out.at = s->arena_out + (size_t)first * CHAN_BLOCK;
		r->out.end = r->out.at + (size_t)n * CHAN_BLOCK;
		return true;
	}
	return false;
}

/* Give the current chunk of r to the completion c; its unused tail is free again. */
static void close_chunk(struct session *s, struct request *r, struct shm_completion *c)
{
	unsigned char *start = s->arena_out + (size_t)r->out.block * CHAN_BLOCK;
	uint32_t len = (uint32_t)(r->out.at - start);
	unsigned need = (len + CHAN_BLOCK - 1) / CHAN_BLOCK;

	if (need == 0) {
		need = 1;
	}
	if (need < r->out.blocks) {
		mark(s, r->out.block + need, r->out.blocks - need, false);
		s->chunk[r->out.block].blocks = (uint16_t)need;
	}
	s->chunk[r->out.block].given = true;
	c->chunk = r->out.block;
	c->len = len;
	r->out.at = r->out.end = NULL;
	r->out.chunks++;
	r->delivered = true;
	board_pool_count(s->io->board, r->pool->index, POOL_METRIC_BYTES_TO_WORKERS, len);
}

static void push_completion(struct session *s, const struct shm_completion *c)
{
	if (s->state != SESSION_READY) {
		return;
	}
	ring_push(&s->comp, c);
	board_count(s->io->board, METRIC_COMPLETIONS, 1);
	set_dirty(s);
}

/* Row on the board. */
static uint16_t answering_server(const struct request *r)
{
	return r->state == REQUEST_RUNNING ? (uint16_t)r->conn->member->server->index : UINT16_MAX;
}

bool session_next_chunk(struct session *s, struct request *r)
{
	if (r->out.at != NULL) {
		struct shm_completion c = {
			.id = r->id, .kind = COMP_DATA, .server = answering_server(r)};

		close_chunk(s, r, &c);
		push_completion(s, &c);
	}
	if (allocate_chunk(s, r)) {
		return true;
	}
	if (!r->out.blocked) {
		r->out.blocked = true;
		cds_list_add_tail(&r->blocked_link, &s->blocked);
		board_count(s->io->board, METRIC_BACKPRESSURE_STALLS, 1);
	}
	return false;
}

void session_complete(struct session *s, struct request *r, struct shm_completion *c)
{
	c->id = r->id;
	c->server = answering_server(r);
	if (c->chunk == CHAN_NO_CHUNK && r->out.at != NULL) {
		close_chunk(s, r, c);
	}
	push_completion(s, c);
}

void session_put_error(struct session *s, struct request *r, struct shm_completion *c,
	const struct failure *f)
{
	const char *text[3] = {f->message, f->detail, f->hint};
	uint32_t len[3], room = SHM_ERROR_TEXT_MAX;
	struct shm_error e = {.retry_safe = f->retry_safe};

	r->out.at = r->out.at != NULL ? s->arena_out + (size_t)r->out.block * CHAN_BLOCK : NULL;
	if (r->out.at == NULL && !allocate_chunk(s, r)) {
		return; /* code and outcome have to do */
	}
	for (unsigned i = 0; i < 3; i++) {
		size_t n = text[i] != NULL ? strlen(text[i]) : 0;

		len[i] = n > room ? room : (uint32_t)n;
		room -= len[i];
	}
	e.message_len = len[0];
	e.detail_len = len[1];
	e.hint_len = len[2];
	memcpy(e.sqlstate, f->sqlstate, sizeof(f->sqlstate));
	memcpy(r->out.at, &e, sizeof(e));
	r->out.at += sizeof(e);
	for (unsigned i = 0; i < 3; i++) {
		if (len[i] > 0) {
			memcpy(r->out.at, text[i], len[i]);
			r->out.at += len[i];
		}
	}
	close_chunk(s, r, c);
}

/* In the order of their arrival: within a lease the order matters. */
static void admit(struct session *s)
{
	while (may_admit(s)) {
		struct request *r = cds_list_first_entry(&s->unadmitted, struct request, link);

		cds_list_del(&r->link);
		r->link.next = NULL;
		promise_block(s, r);
		request_route(r);
	}
}

/* Something was freed: let waiting requests in, and blocked results go on. */
static void blocks_freed(struct session *s)
{
	admit(s);
	if (!cds_list_empty(&s->blocked)) {
		struct cds_list_head again;

		CDS_INIT_LIST_HEAD(&again);
		cds_list_splice(&s->blocked, &again);
		CDS_INIT_LIST_HEAD(&s->blocked);
		while (!cds_list_empty(&again)) {
			struct request *r =
				cds_list_first_entry(&again, struct request, blocked_link);

			cds_list_del(&r->blocked_link);
			r->out.blocked = false;
			r->conn->driver->resume(r->conn);
		}
	}
}

void session_drop_chunk(struct session *s, struct request *r)
{
	if (r->out.blocked) {
		r->out.blocked = false;
		cds_list_del(&r->blocked_link);
	}
	if (r->out.at != NULL) {
		mark(s, r->out.block, r->out.blocks, false);
		s->chunk[r->out.block] = (struct chunk){0};
		r->out = (struct stream){.needy = true};
		s->needy++;
	}
}

void session_replace_request(struct session *s, struct request *r, struct request *n)
{
	session_drop_chunk(s, r);
	n->session = s;
	n->out.needy = r->out.needy;
	r->out.needy = false;
	cds_list_add(&n->session_link, &r->session_link);
	cds_list_del(&r->session_link);
	r->session = NULL;
}

/* Its chunks stay with the worker, for whoever is to give them back. */
static void disown_all(struct session *s, struct request *r)
{
	if (r->out.held > 0 && s->chunk[r->out.block].owner == r) { /* mostly the only one */
		disown(s, r, r->out.block);
	}
	for (unsigned i = 0; r->out.held > 0 && i < s->nblocks; i++) {
		if (s->chunk[i].owner == r) {
			disown(s, r, i);
		}
	}
}

void session_request_ended(struct session *s, struct request *r)
{
	if (r->out.blocked) {
		r->out.blocked = false;
		cds_list_del(&r->blocked_link);
		r->conn->resume_wanted = true;
		conn_want_flush(r->conn);
	}
	if (r->out.at != NULL) { /* a chunk nobody will get */
		mark(s, r->out.block, r->out.blocks, false);
		s->chunk[r->out.block].blocks = 0;
		r->out.at = NULL;
	}
	if (r->out.needy) {
		r->out.needy = false;
		s->needy--;
	}
	disown_all(s, r);
	cds_list_del(&r->session_link);
	s->nrequests--;
	s->held -= r->body_len;
	r->session = NULL;
	if (may_admit(s)) { /* by session_poll: here we are in the middle of something */
		set_hot(s, true);
	}
}

static int free_chunk_from_peer(struct session *s, uint32_t block)
{
	unsigned n = chunk_of(s, block);
	struct request *owner;

	validate(n > 0 && s->chunk[block].given, -EPROTO);
	owner = s->chunk[block].owner;
	if (owner != NULL) {
		disown(s, owner, block);
	}
	s->chunk[block] = (struct chunk){0};
	mark(s, block, n, false);
	if (owner != NULL && !owner->out.needy && owner->out.held == 0) {
		owner->out.needy = true; /* entitled to a block again, the one just freed */
		s->needy++;
	}
	return 0;
}

/* -- leases ------------------------------------------------------------------------------------ */

struct lease *session_find_lease(struct session *s, uint64_t id)
{
	struct lease *l;

	cds_list_for_each_entry(l, &s->leases, session_link)
	{
		if (l->id == id) {
			return l;
		}
	}
	return NULL;
}

void session_add_lease(struct session *s, struct lease *l)
{
	cds_list_add(&l->session_link, &s->leases);
	s->nleases++;
}

void session_remove_lease(struct session *s, struct lease *l)
{
	cds_list_del(&l->session_link);
	s->nleases--;
}

void session_pause(struct session *s)
{
	s->paused = true;
}

void session_unpause(struct session *s)
{
	if (s->paused && s->state == SESSION_READY) {
		s->paused = false;
		set_hot(s, true);
		set_dirty(s);
	}
}

/* -- taking requests --------------------------------------------------------------------------- */

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

static void drop_part(struct session *s)
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
		drop_part(s);
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

	if (needs_block(r)) {
		return cds_list_empty(&s->unadmitted) && has_room(s);
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
		promise_block(s, r);
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
		validate(free_chunk_from_peer(s, d->free_chunk) == 0, -EPROTO);
		blocks_freed(s);
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

	if (s->state != SESSION_READY) {
		return 0;
	}
	admit(s);
	if (s->paused) {
		return 0;
	}
	pending = ring_in_pending(&s->sub);
	if (pending == 0) {
		if (++s->quiet_turns > IO_QUIET_TURNS) {
			session_set_need_wake(s, 1);
			full_fence();
			if (!session_look_again(s)) {
				set_hot(s, false);
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
		set_dirty(s);
	}
	return taken;
}

/* -- life -------------------------------------------------------------------------------------- */

/* Of the user, among those that are seated. */
static unsigned seats_of(const struct io_shared *sh, uint32_t uid)
{
	unsigned left = sh->nseated, n = 0;

	for (unsigned i = 0; left > 0; i++) {
		left -= sh->seats[i].taken;
		n += sh->seats[i].taken && sh->seats[i].uid == uid;
	}
	return n;
}

/* The limits hold for all I/O threads together. */
static int take_seat_locked(struct session *s, struct io_shared *sh)
{
	int64_t per_uid = s->io->config->broker.max_workers_per_uid;

	if (sh->nseated == sh->nseats) {
		return -EUSERS;
	}
	if (per_uid > 0 && seats_of(sh, s->id.uid) >= (uint64_t)per_uid) {
		return -EDQUOT;
	}
	s->slot = 0;
	while (sh->seats[s->slot].taken) {
		s->slot++;
	}
	sh->seats[s->slot] = (struct io_seat){.taken = true, .uid = s->id.uid};
	sh->nseated++;
	s->incarnation = ++sh->incarnations;
	return 0;
}

static int take_seat(struct session *s)
{
	int err;

	pthread_mutex_lock(&s->io->shared->lock);
	err = take_seat_locked(s, s->io->shared);
	pthread_mutex_unlock(&s->io->shared->lock);
	return err;
}

static void leave_seat(struct session *s)
{
	struct io_shared *sh = s->io->shared;

	pthread_mutex_lock(&sh->lock);
	sh->seats[s->slot].taken = false;
	sh->nseated--;
	pthread_mutex_unlock(&sh->lock);
}

static void free_session(struct session *s)
{
	for (unsigned i = 0; i < s->nstmts; i++) {
		statement_put(s->io->statements, s->stmts[i]);
	}
	free(s->stmts);
	free(s->writes);
	free(s);
}

static void on_handle_closed(uv_handle_t *h)
{
	struct session *s = h->data;

	if (--s->handles == 0) {
		if (s->sock >= 0) {
			close(s->sock);
		}
		close(s->id.pidfd);
		free_session(s);
	}
}

static void release_segments(struct session *s)
{
	io_bell_del(s->io, s->bell);
	close(s->bell);
	segment_unmap(s->w, s->w_len);
	segment_unmap(s->b, s->b_len);
	s->w = s->b = NULL;
}

/* Everything it had is cancelled, rolled back, given back. */
static void drop_work(struct session *s)
{
	struct request *r;
	struct lease *l;

	while (!cds_list_empty(&s->requests)) {
		r = cds_list_first_entry(&s->requests, struct request, session_link);
		request_abandon(r);
	}
	while (!cds_list_empty(&s->leases)) {
		l = cds_list_first_entry(&s->leases, struct lease, session_link);
		lease_orphan(l);
	}
	drop_part(s);
}

static void stop_serving(struct session *s)
{
	drop_work(s);
	set_hot(s, false);
	if (s->dirty) {
		session_publish(s);
		full_fence();
		session_wake(s);
	}
}

void session_evict(struct session *s, enum fail_code code, const char *why)
{
	if (s->state != SESSION_READY) {
		return;
	}
	log_warning("worker %d (%s): evicted: %s", s->id.pid, s->id.name, why);
	board_event(s->io->board, BOARD_EVENT_EVICTION, "worker %d (%s): %s", s->id.pid, s->id.name,
		why);
	board_count(s->io->board, METRIC_EVICTIONS, 1);
	stop_serving(s);
	s->state = SESSION_EVICTED;
	publish(&s->broker->closed, (uint32_t)code);
	doorbell_wake(&s->broker->bell);
	io_bell_del(s->io, s->bell); /* now it may ring as it likes */
	/* whoever waits on it wakes up; that it is closed is still seen */
	shutdown(s->sock, SHUT_WR);
	session_mirror(s);
}

/* why NULL: it said good-bye. */
void session_end(struct session *s, const char *why)
{
	struct io *io = s->io;

	if (s->state == SESSION_ENDED) {
		return;
	}
	if (s->state == SESSION_READY) {
		if (io->stopping) {
			publish(&s->broker->closed, (uint32_t)FAIL_SHUTDOWN);
			doorbell_wake(&s->broker->bell);
		}
		stop_serving(s);
	}
	if (s->state == SESSION_ATTACHING) {
		log_info("worker %d (%s): %s", s->id.pid, s->id.name,
			why != NULL ? why : "gone while attaching");
	} else if (why != NULL) {
		log_info("worker %d (%s): %s", s->id.pid, s->id.name, why);
		board_event(io->board, BOARD_EVENT_WORKER_DEATH, "worker %d (%s): %s", s->id.pid,
			s->id.name, why);
		board_count(io->board, METRIC_WORKER_DEATHS, 1);
	} else {
		log_debug("worker %d (%s): detached", s->id.pid, s->id.name);
		board_count(io->board, METRIC_DETACHES, 1);
	}
	if (s->state != SESSION_ATTACHING) {
		board_adjust(io->board, METRIC_WORKERS_ATTACHED, -1);
	}
	s->state = SESSION_ENDED;
	cds_list_del(&s->link);
	io->nsessions--;
	board_worker_row(io->board, s->slot, NULL);
	leave_seat(s);
	shards_unplace(io);
	release_segments(s);
	if (s->sock_polled) {
		uv_close((uv_handle_t *)&s->sock_poll, on_handle_closed);
	}
	uv_close((uv_handle_t *)&s->pid_poll, on_handle_closed);
}

static void on_pid(uv_poll_t *h, int status, int events)
{
	struct session *s = h->data;

	(void)status;
	(void)events;
	if (s->state == SESSION_ATTACHING) {
		/* the handshake, which holds it, sees the end of the socket */
		uv_poll_stop(h);
		shutdown(s->sock, SHUT_RDWR);
		return;
	}
	session_end(s, "died");
}

/* What comes on the socket is thrown away, descriptors that came along included. */
static ssize_t drain_socket(int sock)
{
	alignas(struct cmsghdr) char control[CMSG_SPACE(64 * sizeof(int))];
	char buf[256];
	struct iovec iov = {buf, sizeof(buf)};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n >= 0) {
		close_passed_fds(&m);
	}
	return n;
}

/* The worker says nothing on its socket but attach_ready; end of file is good-bye or death. */
static void on_sock(uv_poll_t *h, int status, int events)
{
	struct session *s = h->data;
	ssize_t n;

	(void)status;
	(void)events;
	n = drain_socket(s->sock);
	if (n > 0) {
		return;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		return;
	}
	if (s->state == SESSION_READY) {
		session_poll(s); /* it may have said good-bye just before */
	}
	session_end(s, "closed its socket");
}

static int create_segments(struct session *s, uint32_t result_kib, struct session_fds *fds)
{
	struct segment_identity ident;
	unsigned blocks = result_kib / (CHAN_BLOCK / 1024);
	const struct segment_plan w_plan[] = {
		{SHM_SEC_CONTROL, 1, sizeof(struct chan_worker), 1, 0},
		{SHM_SEC_RING, 1, RING_SLOT, CHAN_RING_SLOTS, 0},
		{SHM_SEC_ARENA, 1, 0, 0, REQUEST_ARENA},
	};

	blocks = blocks < CHAN_MIN_BLOCKS ? CHAN_MIN_BLOCKS : blocks;
	blocks = blocks > CHAN_MAX_BLOCKS ? CHAN_MAX_BLOCKS : blocks & ~15u;
	const struct segment_plan b_plan[] = {
		{SHM_SEC_CONTROL, 1, sizeof(struct chan_broker), 1, 0},
		{SHM_SEC_RING, 1, RING_SLOT, chan_comp_slots(blocks), 0},
		{SHM_SEC_ARENA, 1, 0, 0, (uint64_t)blocks * CHAN_BLOCK},
	};

	ident = s->io->identity;
	fds->w = segment_create("shmbroker-w", SHM_ROLE_WORKER, s->incarnation, &ident, w_plan, 3,
		&s->w, &s->w_len);
	if (fds->w < 0) {
		return fds->w;
	}
	fds->b = segment_create("shmbroker-b", SHM_ROLE_BROKER, s->incarnation, &ident, b_plan, 3,
		&s->b, &s->b_len);
	if (fds->b < 0) {
		close(fds->w);
		segment_unmap(s->w, s->w_len);
		return fds->b;
	}
	s->nblocks = s->free_blocks = blocks;
	memset(s->used, 0xff, sizeof(s->used));
	for (unsigned i = 0; i < blocks; i++) {
		s->used[i / 64] &= ~(UINT64_C(1) << (i % 64));
	}
	return 0;
}

/* Addresses from the headers we have just written; nobody else has the segments yet. */
static void map_channel(struct session *s)
{
	const unsigned char *w_ring = segment_at(s->w, segment_section(s->w, SHM_SEC_RING));
	unsigned char *b_ring = segment_at(s->b, segment_section(s->b, SHM_SEC_RING));

	s->worker = segment_at(s->w, segment_section(s->w, SHM_SEC_CONTROL));
	s->broker = segment_at(s->b, segment_section(s->b, SHM_SEC_CONTROL));
	s->arena_in = segment_at(s->w, segment_section(s->w, SHM_SEC_ARENA));
	s->arena_in_len = REQUEST_ARENA;
	s->arena_out = segment_at(s->b, segment_section(s->b, SHM_SEC_ARENA));
	ring_in_init(&s->sub, &s->worker->sub_tail, &s->broker->sub_head, w_ring, CHAN_RING_SLOTS);
	ring_out_init(&s->comp, &s->broker->comp_tail, &s->worker->comp_head, b_ring,
		chan_comp_slots(s->nblocks));
	put(&s->broker->need_wake, 1u);
}

int session_create(struct io *io, int sock, const struct session_identity *id, unsigned pool,
	uint32_t result_kib, struct session **out, struct session_fds *fds)
{
	struct session *s = calloc(1, sizeof(*s));
	int err;

	if (s == NULL) {
		return -ENOMEM;
	}
	s->io = io;
	s->id = *id;
	s->pool = pool;
	s->sock = sock;
	CDS_INIT_LIST_HEAD(&s->requests);
	CDS_INIT_LIST_HEAD(&s->unadmitted);
	CDS_INIT_LIST_HEAD(&s->blocked);
	CDS_INIT_LIST_HEAD(&s->leases);
	err = take_seat(s);
	if (err < 0) {
		goto err_free;
	}
	err = create_segments(s, result_kib, fds);
	if (err < 0) {
		goto err_slot;
	}
	map_channel(s);
	s->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->bell < 0) {
		err = -errno;
		goto err_segments;
	}
	fds->bell = s->bell;
	err = io_bell_add(io, s->bell, s);
	if (err < 0) {
		goto err_bell;
	}
	s->attached_ns = s->active_ns = io_now(io);
	s->handles = 1;
	uv_poll_init(&io->loop, &s->pid_poll, id->pidfd);
	s->pid_poll.data = s;
	uv_poll_start(&s->pid_poll, UV_READABLE, on_pid);
	cds_list_add_tail(&s->link, &io->sessions);
	io->nsessions++;
	*out = s;
	return 0;
err_bell:
	close(s->bell);
err_segments:
	close(fds->w);
	close(fds->b);
	segment_unmap(s->w, s->w_len);
	segment_unmap(s->b, s->b_len);
err_slot:
	leave_seat(s);
err_free:
	free(s);
	return err;
}

void session_ready(struct session *s)
{
	s->state = SESSION_READY;
	board_count(s->io->board, METRIC_ATTACHES, 1);
	board_adjust(s->io->board, METRIC_WORKERS_ATTACHED, 1);
	uv_poll_init(&s->io->loop, &s->sock_poll, s->sock);
	s->sock_poll.data = s;
	s->handles++;
	s->sock_polled = true;
	uv_poll_start(&s->sock_poll, UV_READABLE, on_sock);
	session_mirror(s);
	session_set_need_wake(s, 0);
	set_hot(s, true);
	log_debug("worker %d (%s): attached", s->id.pid, s->id.name);
}

void session_mirror(struct session *s)
{
	struct board_worker_info info = {
		.pid = s->id.pid,
		.uid = s->id.uid,
		.state = s->state == SESSION_EVICTED      ? BOARD_WORKER_EVICTED
			 : !cds_list_empty(&s->blocked)   ? BOARD_WORKER_STALLED
							  : BOARD_WORKER_ATTACHED,
		.in_flight = s->nrequests,
		.leases = s->nleases,
		.pool = s->pool,
		.incarnation = s->incarnation,
		.attached_ns = s->attached_ns,
		.active_ns = s->active_ns,
		.statements = s->statements,
		.errors = s->errors,
	};

	memcpy(info.name, s->id.name, sizeof(info.name) - 1);
	memcpy(info.tag, s->tag, sizeof(info.tag) - 1);
	board_worker_row(s->io->board, s->slot, &info);
}

void session_count_error(struct session *s)
{
	s->errors++;
}

/* Give the pages of free blocks back, see session.h.  Best effort: they are free in any case. */
static void trim_arena(struct session *s)
{
	unsigned first = QUIET_BLOCKS, end = QUIET_BLOCKS;

	for (unsigned i = QUIET_BLOCKS; i <= s->touched; i++) {
		bool last = i == s->touched, used = !last && !run_is_free(s, i, 1);

		if (!used && !last) {
			continue;
		}
		if (i > first) {
			(void)madvise(s->arena_out + (size_t)first * CHAN_BLOCK,
				(size_t)(i - first) * CHAN_BLOCK, MADV_REMOVE);
		}
		first = i + 1;
		end = used ? first : end;
	}
	s->touched = end;
}

/* The clock was read for this turn of the loop already. */
static void trim_when_quiet(struct session *s)
{
	uint64_t now = io_now(s->io);

	if (s->touched > QUIET_BLOCKS && now - s->active_ns >= QUIET_NS &&
		now - s->trimmed_ns >= QUIET_NS) {
		s->trimmed_ns = now;
		trim_arena(s);
	}
}

void session_tick(struct session *s)
{
	if (s->state == SESSION_ATTACHING) {
		return;
	}
	s->empty_bells = 0;
	/* Blocks that are given back without a bell, and workers whose bell is ignored. */
	if (s->state == SESSION_READY && !s->hot && ring_in_pending(&s->sub) != 0) {
		session_poll(s);
	}
	if (s->state != SESSION_ENDED) {
		trim_when_quiet(s);
		session_mirror(s);
	}
}
