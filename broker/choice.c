/* SPDX-License-Identifier: MIT */
/*
 * choice.c - which connection serves a request; see pool.h.
 *
 * What a request *claims* are the connections it could be given at some time: while it waits, a
 * younger one of the other queue takes none of them.  A request that needs the writer claims all of
 * the writer's connections that write; one that roams claims all connections of the servers that
 * take reads, but where connections differ in role only those that read.
 */
#include "pool.h"

#include "conn.h"
#include "request_core.h"
#include "session.h"

/* Never queue behind a statement that runs longer than this. */
#define SHARE_HEAD_NS (5u * 1000000u)
/* Writes that one SQLite transaction may gather. */
#define SHARE_WRITES_MAX 64u
/* Reads that take the server no longer than this on average are packed. */
#define PACK_NS (200u * 1000u)
/* Quick reads that are put on one connection in one turn, before another is looked for. */
#define SHARE_GROUP 8u

/* A server that takes reads and has what the worker wrote before. */
static bool may_read(const struct member *m, const struct request *r)
{
	return member_takes_reads(m) && (!(r->flags & REQ_F_FRESH) || m == m->pool->writer ||
					 session_is_fresh(r->session, m->pool, m->server));
}

/*
 * A fresh read for which no server that takes reads is known to be fresh enough goes to the writer,
 * in the writer's queue: it must not keep other reads waiting behind it.
 */
static bool may_roam(const struct pool *p, const struct request *r)
{
	bool roams = (r->flags & REQ_F_READONLY) && !(r->flags & REQ_F_FRESH);

	for (unsigned i = 0; !roams && (r->flags & REQ_F_READONLY) && i < p->nmembers; i++) {
		roams = may_read(p->member[i], r);
	}
	return roams;
}

enum pool_queue choice_queue(const struct pool *p, struct request *r)
{
	r->roams = may_roam(p, r);
	return r->roams || (p->writer != NULL && p->writer->split && request_reads(r))
		       ? POOL_QUEUE_READS
		       : POOL_QUEUE_ALL;
}

bool choice_may_use(const struct member *m, const struct request *r)
{
	return member_can_serve(m) && (r->roams ? may_read(m, r) : m == m->pool->writer);
}

static bool claims(const struct request *r, const struct member *m)
{
	return r->roams ? member_takes_reads(m) : m == m->pool->writer;
}

/* -- sharing ----------------------------------------------------------------------------------- */

/* May r be in flight together with statements of other workers? */
bool choice_may_share(const struct member *m, const struct request *r)
{
	unsigned share = m->driver->share;

	if (r->op != REQ_EXEC || (r->flags & REQ_F_STREAM) || (r->stmt->traits & STMT_SUSPECT)) {
		return false;
	}
	if (share & DRIVER_SHARE_READS) {
		return m->pool->config->reset == RESET_AUTO &&
		       (r->flags & REQ_F_READONLY) != 0 && r->sends == 0 &&
		       r->stmt->quick_ns < SHARE_HEAD_NS && !session_has_lease(r->session);
	}
	return (share & DRIVER_SHARE_WRITES) != 0 && !request_reads(r);
}

/*
 * More connections than processors at work on short reads make none of them faster, and each has to
 * be woken and listened to.  So from io->lanes on a short read joins those that work, also if
 * another connection is free.
 */
static bool packs(const struct member *m, const struct request *r)
{
	return m->state_count[CONN_BUSY] >= m->pool->io->lanes && request_is_quick(r) &&
	       r->stmt->serve_ns < PACK_NS;
}

/* SQLite's writer is one connection, which nothing quicker could be given instead. */
bool choice_is_slow(const struct pool *p, const struct request *r)
{
	return r->op == REQ_EXEC && r->lease_id == 0 && r->stmt->quick_ns >= SHARE_HEAD_NS &&
	       (p->writer == NULL || !p->writer->split || request_reads(r));
}

static bool is_open_to_others(const struct conn *c, unsigned limit)
{
	return c->shareable && !c->cancelling && !c->retire && c->ninflight < limit &&
	       c->ninflight > 0 && !c->dirty && c->tx == CONN_TX_IDLE;
}

static bool head_is_slow(struct conn *c, uint64_t now)
{
	const struct request *head = cds_list_first_entry(&c->inflight, struct request, link);

	return now - c->head_ns > SHARE_HEAD_NS || head->out.blocked || head->session == NULL;
}

/* The one with the least in flight. */
static struct conn *shared_conn(struct member *m, const struct request *r)
{
	bool reads = (m->driver->share & DRIVER_SHARE_READS) != 0;
	unsigned limit = reads ? (unsigned)m->pool->config->max_pipeline : SHARE_WRITES_MAX;
	bool quick = reads && request_is_quick(r);
	uint64_t now = io_now(m->pool->io);
	struct conn *c, *best = NULL;

	cds_list_for_each_entry(c, &m->in_state[CONN_BUSY], link)
	{
		if (!is_open_to_others(c, limit) || (reads && head_is_slow(c, now))) {
			continue;
		}
		if (quick && c->turn_sends > 0 && c->turn_sends < SHARE_GROUP) {
			return c; /* what goes out together costs less */
		}
		if (best == NULL || c->ninflight < best->ninflight) {
			best = c;
		}
	}
	return best;
}

/* -- choosing ---------------------------------------------------------------------------------- */

static struct conn *idle_conn(struct member *m, const struct request *r)
{
	unsigned role = request_reads(r) ? CONN_READS : CONN_WRITES;
	struct conn *c, *next;

	cds_list_for_each_entry_safe(c, next, &m->in_state[CONN_IDLE], link)
	{
		if ((c->roles & role) == 0) {
			continue;
		}
		if (!member_is_stale(m, c)) {
			return c;
		}
		conn_test(c); /* those behind it were idle for longer: for them others may ask */
		break;
	}
	return NULL;
}

/* One that is being cleaned of what its last user left. */
static struct conn *cleaned_conn(struct member *m, const struct request *r)
{
	unsigned role = request_reads(r) ? CONN_READS : CONN_WRITES;
	struct conn *c;

	cds_list_for_each_entry(c, &m->in_state[CONN_RESETTING], link)
	{
		if ((c->roles & role) != 0 && conn_may_follow(c)) {
			return c;
		}
	}
	return NULL;
}

/* Slow statements leave one connection to the others. */
static bool takes_slow(const struct member *m)
{
	unsigned all = m->split ? m->nconns - 1 : (unsigned)m->pool->config->max_size;

	return get(&m->tally->slow) < (all > 1 ? all - 1 : 1);
}

static bool has_free(struct member *m, const struct request *r)
{
	return !cds_list_empty(&m->in_state[CONN_IDLE]) || cleaned_conn(m, r) != NULL;
}

/*
 * It waits for a connection like everybody, and nobody overtakes it; but where slow statements have
 * theirs it must not keep others from the one that is left to them.
 */
bool choice_stands_aside(const struct pool *p, const struct request *r)
{
	bool full = true, left = false;

	if (!choice_is_slow(p, r)) {
		return false;
	}
	for (unsigned i = 0; i < p->nmembers; i++) {
		struct member *m = p->member[i];

		if (!(r->roams ? may_read(m, r) : m == p->writer)) {
			continue;
		}
		if (takes_slow(m) && has_free(m, r)) {
			return false;
		}
		full = full && !takes_slow(m);
		left = left || (!takes_slow(m) && has_free(m, r));
	}
	return full || left;
}

static struct conn *idle_in(struct member *m, const struct request *r, const struct request *older)
{
	struct conn *c;

	if (!member_can_serve(m) || (!takes_slow(m) && choice_is_slow(m->pool, r)) ||
		(older != NULL && claims(older, m) && !m->split)) {
		return NULL;
	}
	c = idle_conn(m, r);
	return c != NULL ? c : cleaned_conn(m, r);
}

static struct conn *shared_in(
	struct member *m, const struct request *r, const struct request *older)
{
	if (!member_can_serve(m) || (older != NULL && claims(older, m) && !m->split) ||
		!choice_may_share(m, r)) {
		return NULL;
	}
	return shared_conn(m, r);
}

/* One that is free, or that r had better join although one is free. */
static struct conn *free_in(struct member *m, const struct request *r, const struct request *older)
{
	struct conn *c = packs(m, r) ? shared_in(m, r, older) : NULL;

	return c != NULL ? c : idle_in(m, r, older);
}

/* Of the servers that have a connection for r, the one with the least work; not those in
 * `tried`. */
static struct member *least_used(
	struct pool *p, const struct request *r, const struct request *older, unsigned tried)
{
	struct member *least = NULL;

	for (unsigned i = 0; i < p->nmembers; i++) {
		struct member *m = p->member[(p->turn + i) % p->nmembers];

		if ((tried >> m->index & 1) == 0 && may_read(m, r) &&
			has_free(m, r) && (takes_slow(m) || !choice_is_slow(p, r)) &&
			(least == NULL || member_used(m) < member_used(least)) &&
			!(older != NULL && claims(older, m) && !m->split)) {
			least = m;
		}
	}
	return least;
}

static struct conn *pick_roaming(
	struct pool *p, const struct request *r, const struct request *older)
{
	struct conn *c, *best = NULL;
	struct member *m;

	/* Free connections first, from another server each time; the next if that has to be
	 * tested. */
	for (unsigned tried = 0; (m = least_used(p, r, older, tried)) != NULL;
		tried |= 1u << m->index) {
		c = free_in(m, r, older);
		if (c != NULL) {
			p->turn = (m->index + 1) % p->nmembers;
			return c;
		}
	}
	for (unsigned i = 0; i < p->nmembers; i++) {
		c = may_read(p->member[i], r) ? shared_in(p->member[i], r, older) : NULL;
		if (c != NULL && (best == NULL || c->ninflight < best->ninflight)) {
			best = c;
		}
	}
	return best;
}

struct conn *choice_pick(struct pool *p, const struct request *r, const struct request *older)
{
	struct conn *c;

	if (r->roams && p->nmembers > 1) {
		return pick_roaming(p, r, older);
	}
	if (r->roams && member_takes_reads(p->member[0])) {
		c = free_in(p->member[0], r, older);
		return c != NULL ? c : shared_in(p->member[0], r, older);
	}
	if (p->writer == NULL || r->roams) {
		return NULL;
	}
	c = idle_in(p->writer, r, older);
	return c != NULL ? c : shared_in(p->writer, r, older);
}
