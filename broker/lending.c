/* SPDX-License-Identifier: MIT */
/* lending.c - see lending.h. */
#include "lending.h"

#include "conn.h"
#include "io.h"
#include "lease.h"
#include "pool.h"
#include "session.h"
#include "shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Lines of one I/O thread lie together, one for each pool. */
struct lines {
	unsigned max_pools;
	struct lending_line line[];
};

/* A connection on its way. */
struct loan {
	struct mail mail;
	unsigned pool; /* row */
	unsigned member; /* index in the pool */
	bool empty; /* it could not be parted from */
	struct conn_parcel parcel;
};

struct lending_line *lending_lines_create(unsigned n, unsigned max_pools)
{
	size_t size = (offsetof(struct lines, line) +
			      (size_t)n * max_pools * sizeof(struct lending_line) + 127) /
		      128 * 128;
	struct lines *l = aligned_alloc(128, size);

	if (l == NULL) {
		return NULL;
	}
	memset(l, 0, size);
	l->max_pools = max_pools;
	return l->line;
}

static struct lines *lines_of(struct lending_line *lines)
{
	return container_of(lines, struct lines, line[0]);
}

void lending_lines_destroy(struct lending_line *lines)
{
	if (lines != NULL) {
		free(lines_of(lines));
	}
}

/* The line of another I/O thread for the same pool, or another one. */
static struct lending_line *line_at(const struct pool *p, unsigned shard, unsigned pool)
{
	struct lines *l = lines_of(p->io->lines);

	return &l->line[shard * l->max_pools + pool];
}

void lending_init(struct pool *p)
{
	if (p->io->lines != NULL) {
		p->lending.line = line_at(p, p->io->shard, p->index);
	}
}

void lending_finish(struct pool *p)
{
	struct lending_line *l = p->lending.line;

	for (unsigned q = 0; l != NULL && q < POOL_QUEUES; q++) {
		put(&l->lacks[q], 0);
	}
}

unsigned lending_sum(const struct pool *p, enum lending_number what)
{
	unsigned n = 0;

	for (unsigned i = 0; i < shards_count(p->io); i++) {
		n += i != p->io->shard ? get(&line_at(p, i, p->index)->numbers[what]) : 0;
	}
	return n;
}

/* -- giving ------------------------------------------------------------------------------------ */

/* Whoever waits elsewhere for a connection of a member, longest. */
struct wish {
	unsigned shard;
	enum pool_queue queue;
	uint64_t since_ns; /* 0: nobody */
	uint64_t who;
};

static struct wish oldest_wish(const struct member *m)
{
	const struct pool *p = m->pool;
	struct wish w = {0};

	for (unsigned i = 0; i < shards_count(p->io); i++) {
		struct lending_line *l = line_at(p, i, p->index);

		for (unsigned q = 0; i != p->io->shard && q < POOL_QUEUES; q++) {
			uint64_t since = observe(&l->lacks[q]), who = get(&l->who[q]);

			if (since != 0 && (who >> m->index & 1) != 0 &&
				(w.since_ns == 0 || since < w.since_ns)) {
				w = (struct wish){i, (enum pool_queue)q, since, who};
			}
		}
	}
	return w;
}

/* When the first of our own came who could use a connection of m; UINT64_MAX: nobody can. */
static uint64_t own_rank(const struct member *m)
{
	uint64_t rank = UINT64_MAX;

	for (unsigned q = 0; m->pool->nwaiters > 0 && q < POOL_QUEUES; q++) {
		const struct request *r = pool_first_eligible(m->pool, (enum pool_queue)q);

		if (r != NULL && choice_may_use(m, r) && r->rank_ns < rank) {
			rank = r->rank_ns;
		}
	}
	return rank;
}

/* It is the other one's turn. */
static bool goes_first(const struct wish *w, const struct member *m)
{
	return w->since_ns != 0 && w->since_ns + LENDING_BOUND_NS < own_rank(m);
}

static bool may_give(const struct pool *p)
{
	return !p->closing && !p->io->stopping;
}

/* A mail goes out for each wish that was claimed, also if it brings nothing: false. */
static bool send_loan(struct conn *c, const struct wish *w, struct loan *loan)
{
	struct member *m = c->member;
	struct pool *p = m->pool;
	bool some = conn_detach(c, &loan->parcel);

	loan->pool = p->index;
	loan->member = m->index;
	loan->empty = !some;
	if (some) {
		board_pool_count(p->io->board, p->index, POOL_METRIC_CONNECTIONS_LENT, 1);
	}
	shards_post(shards_at(p->io, w->shard), &loan->mail); /* it is theirs now */
	return some;
}

static void deliver_loan(struct io *io, struct mail *mail);

/* True: look again. */
static bool give_one(struct member *m, const struct wish *w)
{
	struct conn *c = cds_list_first_entry(&m->in_state[CONN_IDLE], struct conn, link);
	struct loan *loan = calloc(1, sizeof(*loan));

	if (loan == NULL) {
		return false;
	}
	loan->mail.deliver = deliver_loan;
	if (!replace_if(
		    &line_at(m->pool, w->shard, m->pool->index)->lacks[w->queue], w->since_ns, 0)) {
		free(loan); /* somebody else was quicker, or it is not needed any more */
		return true;
	}
	return send_loan(c, w, loan);
}

/* What is never free by itself becomes free: nobody follows a reset, or joins reads that share. */
static void let_run_dry(struct member *m)
{
	struct conn *c, *least = NULL;

	cds_list_for_each_entry(c, &m->in_state[CONN_RESETTING], link)
	{
		c->promised = true;
		return;
	}
	cds_list_for_each_entry(c, &m->in_state[CONN_BUSY], link)
	{
		if (!c->shareable && c->dry_at == c->statements) {
			return; /* one is enough */
		}
		if (c->shareable && (least == NULL || c->ninflight < least->ninflight)) {
			least = c;
		}
	}
	if (least != NULL) {
		least->shareable = false;
		least->dry_at = least->statements;
	}
}

static bool is_patient(const struct wish *w, uint64_t now)
{
	return (w->who & LENDING_STUCK) == 0 || w->since_ns + LENDING_BOUND_NS > now;
}

void lending_give(struct pool *p)
{
	for (unsigned i = 0; may_give(p) && i < p->nmembers; i++) {
		struct member *m = p->member[i];
		struct wish w = oldest_wish(m);

		while (goes_first(&w, m) && !cds_list_empty(&m->in_state[CONN_IDLE])) {
			if (!give_one(m, &w)) {
				break;
			}
			w = oldest_wish(m);
		}
		if (member_used(m) > 0 && goes_first(&w, m) &&
			cds_list_empty(&m->in_state[CONN_IDLE]) &&
			!is_patient(&w, io_now(p->io))) {
			let_run_dry(m);
		}
	}
}

bool lending_is_due(struct pool *p)
{
	for (unsigned i = 0; may_give(p) && i < p->nmembers; i++) {
		struct member *m = p->member[i];

		if (!cds_list_empty(&m->in_state[CONN_IDLE])) {
			struct wish w = oldest_wish(m);

			if (goes_first(&w, m)) {
				return true;
			}
		}
	}
	return false;
}

/* -- asking ------------------------------------------------------------------------------------ */

/* Servers that would do for r. */
static uint64_t who_would_do(const struct pool *p, const struct request *r)
{
	uint64_t who = LENDING_STUCK;

	for (unsigned i = 0; i < p->nmembers; i++) {
		const struct member *m = p->member[i];

		if (choice_may_use(m, r)) {
			who |= UINT64_C(1) << i;
			who |= member_has_room(m) ? 0 : LENDING_CRAMPED;
			who &= m->state_count[CONN_CONNECTING] > 0 ? ~LENDING_STUCK : UINT64_MAX;
		}
	}
	return (who & UINT32_MAX) != 0 ? who : 0;
}

/* lacks becomes `since`; what it was tells whether the wish before is being fulfilled. */
static void set_wish(struct pool *p, unsigned q, uint64_t since, uint64_t who)
{
	struct lending *l = &p->lending;

	put(&l->line->who[q], who);
	if (exchange(&l->line->lacks[q], since) == 0 && l->asked[q] != 0) {
		l->owed++;
	}
	l->asked[q] = since;
}

static void note_claims(struct pool *p)
{
	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		if (p->lending.asked[q] != 0 && get(&p->lending.line->lacks[q]) == 0) {
			p->lending.asked[q] = 0;
			p->lending.owed++;
		}
	}
}

static void ring_those_that_have(const struct pool *p)
{
	full_fence(); /* see lending.h */
	for (unsigned i = 0; i < shards_count(p->io); i++) {
		if (i != p->io->shard &&
			get(&line_at(p, i, p->index)->numbers[LENDING_IDLE]) > 0) {
			shards_ring(shards_at(p->io, i));
		}
	}
}

void lending_ask(struct pool *p)
{
	struct lending *l = &p->lending;
	bool news = false;

	if (p->nwaiters == 0 && l->asked[POOL_QUEUE_ALL] == 0 && l->asked[POOL_QUEUE_READS] == 0) {
		return;
	}
	note_claims(p);
	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		const struct request *r = p->nwaiters > l->owed
						  ? pool_first_eligible(p, (enum pool_queue)q)
						  : NULL;
		uint64_t who = r != NULL ? who_would_do(p, r) : 0;
		uint64_t since = who != 0 ? r->rank_ns : 0;

		if (since == l->asked[q] && (since == 0 || who == get(&l->line->who[q]))) {
			continue;
		}
		news |= since != 0;
		set_wish(p, q, since, who);
	}
	if (news) {
		ring_those_that_have(p);
	}
}

static void take_over(struct member *m, const struct conn_parcel *parcel)
{
	struct conn *c = member_closed_conn(m);

	check(c != NULL); /* without memory for a slot nothing goes on */
	conn_adopt(c, parcel);
	if (!member_can_serve(m) || !member_keeps(m, c)) {
		/* the server is used for nothing by now */
		conn_give_up(c, NULL);
	}
}

static void deliver_loan(struct io *io, struct mail *mail)
{
	struct loan *loan = container_of(mail, struct loan, mail);
	struct pool *p = io->pools[loan->pool];

	note_claims(p);
	check(p->lending.owed > 0);
	p->lending.owed--;
	if (!loan->empty) {
		take_over(p->member[loan->member], &loan->parcel);
	}
	free(loan);
}

/* -- showing ----------------------------------------------------------------------------------- */

static void show(struct lending_line *l, enum lending_number what, unsigned n)
{
	if (get(&l->numbers[what]) != n) { /* else the others keep their copies */
		put(&l->numbers[what], n);
	}
}

void lending_show(struct pool *p)
{
	struct lending_line *l = p->lending.line;

	show(l, LENDING_IDLE, pool_count(p, CONN_IDLE));
	show(l, LENDING_ACTIVE, pool_used(p));
	show(l, LENDING_CONNECTING, pool_count(p, CONN_CONNECTING));
	show(l, LENDING_WAITING, p->nwaiters);
}

static const struct lease *oldest_lease(const struct pool *p)
{
	const struct lease *oldest = NULL;
	struct member *m;
	struct conn *c;

	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		cds_list_for_each_entry(c, &m->in_state[CONN_LEASED], link)
		{
			if (c->lease != NULL && c->lease->session != NULL &&
				(oldest == NULL || c->lease->since_ns < oldest->since_ns)) {
				oldest = c->lease;
			}
		}
	}
	return oldest;
}

/* Somebody waits elsewhere for a connection of o's pool to o's server, which is full. */
static bool is_cramped(const struct member *o)
{
	for (unsigned i = 0; i < shards_count(o->pool->io); i++) {
		struct lending_line *l = line_at(o->pool, i, o->pool->index);

		for (unsigned q = 0; i != o->pool->io->shard && q < POOL_QUEUES; q++) {
			uint64_t who = get(&l->who[q]);

			if (observe(&l->lacks[q]) != 0 && (who >> o->index & 1) != 0 &&
				(who & LENDING_CRAMPED) != 0) {
				return true;
			}
		}
	}
	return false;
}

bool lending_needs_room(const struct member *m)
{
	struct member *o;

	if (m->pool->lending.line == NULL) {
		return false;
	}
	cds_list_for_each_entry(o, &m->server->members, server_link)
	{
		if (o->pool != m->pool && o->index != MEMBER_DRAINING && is_cramped(o)) {
			return true;
		}
	}
	return false;
}

void lending_tick(struct pool *p)
{
	struct lending_line *l = p->lending.line;
	const struct lease *held = l != NULL ? oldest_lease(p) : NULL;

	if (l == NULL) {
		return;
	}
	put(&l->holder_since_ns, held != NULL ? held->since_ns : 0);
	put(&l->holder_pid, held != NULL ? session_pid(held->session) : 0);
	for (unsigned i = 0; may_give(p) && i < p->nmembers; i++) {
		struct conn *c = member_spare(p->member[i]);

		if (c != NULL && lending_needs_room(p->member[i])) {
			conn_give_up(c, NULL);
		}
	}
}

void lending_describe_holders(const struct pool *p, bool first, char *buf, size_t size)
{
	size_t used = 0;

	if (p->lending.line == NULL) {
		return;
	}
	for (unsigned i = 0; i < shards_count(p->io) && used < size; i++) {
		const struct lending_line *l = line_at(p, i, p->index);
		int32_t pid = i != p->io->shard ? get(&l->holder_pid) : 0;
		int n = 0;

		if (pid != 0) {
			n = snprintf(buf + used, size - used, "%s pid %d for %.1f s",
				first ? "; held by" : ",", pid,
				(double)(io_now(p->io) - get(&l->holder_since_ns)) / 1e9);
			first = false;
		}
		used += n > 0 ? (size_t)n : 0;
	}
}
