/* SPDX-License-Identifier: MIT */
/*
 * session_arena.c - see session_core.h and, for the rules of the result arena, session.h: blocks,
 * chunks, completions, and which requests are let in.
 */
#include "session_core.h"

#include "conn.h"
#include "pool.h"
#include "request_core.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* After so long without a request, what results have touched beyond the first blocks goes back:
 * they are enough for one small statement at a time. */
#define QUIET_NS UINT64_C(1000000000)
#define QUIET_BLOCKS 2u

/* -- who is let in ----------------------------------------------------------------------------- */

bool session_has_room(const struct session *s)
{
	return s->free_blocks > s->needy && s->needy < s->nblocks / 2;
}

/*
 * These have no result; if they fail, which is rare, a code will do.  A worker may send many of
 * them for leases that still wait: were they to hold promises until then, those for the leases that
 * the others wait for might not be let in.
 */
bool session_needs_block(const struct request *r)
{
	return r->op != REQ_RELEASE && r->op != REQ_ROLLBACK;
}

bool session_may_admit(struct session *s)
{
	return !cds_list_empty(&s->unadmitted) &&
	       (session_has_room(s) || !session_needs_block(cds_list_first_entry(
				       &s->unadmitted, struct request, link)));
}

void session_promise_block(struct session *s, struct request *r)
{
	if (session_needs_block(r)) {
		r->out.needy = true;
		s->needy++;
	}
}

/* In the order of their arrival: within a lease the order matters. */
void session_admit(struct session *s)
{
	while (session_may_admit(s)) {
		struct request *r = cds_list_first_entry(&s->unadmitted, struct request, link);

		cds_list_del(&r->link);
		r->link.next = NULL;
		session_promise_block(s, r);
		request_route(r);
	}
}

/* -- blocks and chunks ------------------------------------------------------------------------- */

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
	session_set_dirty(s);
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

/* Something was freed: let waiting requests in, and blocked results go on. */
void session_blocks_freed(struct session *s)
{
	session_admit(s);
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
	if (session_may_admit(s)) { /* by session_poll: here we are in the middle of something */
		session_set_hot(s, true);
	}
}

int session_free_chunk_from_peer(struct session *s, uint32_t block)
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

/* -- pages ------------------------------------------------------------------------------------- */

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
void session_trim_when_quiet(struct session *s)
{
	uint64_t now = io_now(s->io);

	if (s->touched > QUIET_BLOCKS && now - s->active_ns >= QUIET_NS &&
		now - s->trimmed_ns >= QUIET_NS) {
		s->trimmed_ns = now;
		trim_arena(s);
	}
}
