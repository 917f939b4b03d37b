/* SPDX-License-Identifier: MIT */
/* lease_oracle.c - what must be true in the world of lease_world.h, however it is done. */
#include "lease_inside.h"

/* -- whose turn it is -------------------------------------------------------------------------- */

/* Statements that are known to be slow leave one connection to the others. */
static bool stands_aside(const struct world *w, const struct request *r)
{
	return choice_stands_aside(w->pool, r);
}

static bool waits_aside(struct world *w, uint16_t rec)
{
	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		const struct request *r;

		cds_list_for_each_entry(r, &w->pool->waiters[q], link)
		{
			if (rec_of(w, r->id) == rec) {
				return stands_aside(w, r);
			}
		}
	}
	return false;
}

/* Whoever asked in an earlier turn and could be served by the same connections must not be waiting
 * any more.  Only who stands aside may be passed by. */
void oracle_serve(struct world *w, uint16_t rec)
{
	const struct rec *r = &w->rec[rec];

	if (w->plan.results) { /* there a request may wait for the arena first */
		return;
	}
	for (unsigned i = 0; i < rec; i++) {
		const struct rec *o = &w->rec[i];

		if (!o->waits || o->turn == r->turn || (o->lease != NONE && !is_lease(o->kind)) ||
			(w->plan.split && reads(o->kind) != reads(r->kind)) ||
			(is_lease(o->kind) && !lease_is(w, (uint16_t)i, LEASE_WAITING)) ||
			waits_aside(w, (uint16_t)i)) {
			continue;
		}
		if (w->noverlooked < QUEUE) {
			w->overlooked[w->noverlooked++] = (struct overlooked){(uint16_t)i, rec};
		}
	}
}

/* After the turn: whoever was overlooked must at least have been answered in it. */
static void check_overlooked(struct world *w)
{
	for (unsigned i = 0; i < w->noverlooked; i++) {
		uint16_t rec = w->overlooked[i].rec;
		const struct rec *r = &w->rec[rec];
		bool still = is_lease(r->kind)
				     ? real_lease(w, rec) != NULL && !lease_is(w, rec, LEASE_BROKEN)
				     : !r->answered && !r->gone;

		must(w, !still, "record %u is served before record %u, which asked earlier",
			w->overlooked[i].by, rec);
	}
	w->noverlooked = 0;
}

/* Leases that were granted in this turn do not wait any more. */
static void note_grants(struct world *w)
{
	for (unsigned i = 0; i < w->nrecs; i++) {
		struct rec *r = &w->rec[i];
		const struct lease *l;

		if (!is_lease(r->kind) || !r->waits || r->gone) {
			continue;
		}
		l = real_lease(w, (uint16_t)i);
		if (l == NULL || l->state != LEASE_WAITING) {
			r->waits = false;
			if (l != NULL && l->state == LEASE_ACTIVE) {
				oracle_serve(w, (uint16_t)i);
			}
		}
	}
}

/* -- answers and what was done ----------------------------------------------------------------- */

/* What it was told must agree with what the database did, now and later. */
static void check_answer(struct world *w, unsigned rec)
{
	const struct rec *r = &w->rec[rec];
	bool write = (is_statement(r->kind) && !reads(r->kind)) || r->kind == K_COMMIT;

	if (!r->answered || !write) {
		return;
	}
	if (r->ok && !in_tx(w, r)) {
		must(w, r->effect == E_DONE, "record %u is reported as done and is not", rec);
	}
	if (!r->ok && !r->unknown) {
		must(w, r->effect == E_NOT, "record %u is reported as not done and %s", rec,
			r->effect == E_DONE ? "is" : "may be");
	}
	must(w, !r->unknown || r->sends > 0, "record %u was never sent, but its outcome is unknown",
		rec);
}

/* COMMIT was answered: did the transaction, if anything ran in it, commit? */
void oracle_commit(struct world *w, unsigned rec)
{
	const struct rec *r = &w->rec[rec];
	bool any = false;

	for (unsigned i = 0; i < w->nrecs; i++) {
		any |= w->rec[i].lease == r->lease && w->rec[i].executed;
	}
	if (r->ok) {
		must(w, !any || w->rec[r->lease].effect == E_DONE,
			"COMMIT %u is acknowledged, not done", rec);
	} else if (!r->unknown) {
		must(w, w->rec[r->lease].effect == E_NOT, "COMMIT %u is denied, but done", rec);
	}
}

/* -- books ------------------------------------------------------------------------------------- */

static void check_counters(struct world *w)
{
	uint64_t started = board_pool_value(w->board, 0, POOL_METRIC_STATEMENTS_STARTED);
	uint64_t ended = board_pool_value(w->board, 0, POOL_METRIC_STATEMENTS_FINISHED) +
			 board_pool_value(w->board, 0, POOL_METRIC_STATEMENTS_FAILED);
	uint64_t flying = board_pool_value(w->board, 0, POOL_METRIC_STATEMENTS_IN_FLIGHT);
	uint64_t granted = board_pool_value(w->board, 0, POOL_METRIC_LEASES_GRANTED);
	uint64_t released = board_pool_value(w->board, 0, POOL_METRIC_LEASES_RELEASED);
	uint64_t active = board_pool_value(w->board, 0, POOL_METRIC_LEASES_ACTIVE);
	uint64_t open = 0, held = 0;

	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];

		open += is_statement(r->kind) && !r->answered && !r->gone;
	}
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		held += w->pool->member[0]->conns[i]->lease != NULL;
	}
	must(w, started == ended + flying, "started is not finished + failed + in flight");
	must(w, flying == open, "%u statements in flight, %u not answered", (unsigned)flying,
		(unsigned)open);
	must(w, granted == released + active, "granted is not released + active");
	must(w, active == held, "%u leases are active, %u connections held", (unsigned)active,
		(unsigned)held);
}

static void check_conns(struct world *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < CONN_STATE_COUNT; i++) {
		unsigned here = 0;

		for (struct cds_list_head *p = w->pool->member[0]->in_state[i].next;
			p != &w->pool->member[0]->in_state[i]; p = p->next) {
			here++;
		}
		must(w, here == w->pool->member[0]->state_count[i],
			"connections in state %u miscounted", i);
		n += here;
	}
	must(w, n == WORLD_CONNS, "a connection is in no state");
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		struct conn *c = w->pool->member[0]->conns[i];

		conn_check(c);
		must(w, c->ninflight == w->db[i].n,
			"connection %u: %u in flight, the database has %u", i, c->ninflight,
			w->db[i].n);
		must(w,
			c->lease == NULL ||
				(c->lease->conn == c && c->lease->state == LEASE_ACTIVE),
			"connection %u and its lease do not agree", i);
	}
}

static void check_leases(struct world *w)
{
	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];
		const struct lease *l = is_lease(r->kind) ? real_lease(w, (uint16_t)i) : NULL;

		if (!is_lease(r->kind) || r->gone) {
			continue;
		}
		must(w, !r->end_answered || l == NULL, "lease %u has ended and is still there", i);
		must(w, r->ended || l != NULL, "lease %u is gone and nobody ended it", i);
		must(w, l == NULL || (l->state == LEASE_WAITING) == (l->ask != NULL),
			"lease %u waits without asking", i);
	}
}

static bool has_idle(const struct world *w, unsigned role)
{
	struct conn *c;

	cds_list_for_each_entry(c, &w->pool->member[0]->in_state[CONN_IDLE], link)
	{
		if ((c->roles & role) != 0) {
			return true;
		}
	}
	return false;
}

/* The first of a queue that is not held back must have nothing to wait for. */
static void check_first(struct world *w, const struct cds_list_head *list)
{
	for (const struct cds_list_head *p = list->next; p != list; p = p->next) {
		const struct request *r = cds_list_entry(p, struct request, link);

		if (!stands_aside(w, r)) {
			must(w, !has_idle(w, request_reads(r) ? CONN_READS : CONN_WRITES),
				"somebody waits while a connection is idle");
			return;
		}
	}
}

static void check_waiters(struct world *w)
{
	unsigned n = 0;

	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		const struct cds_list_head *list = &w->pool->waiters[q];
		uint64_t before = 0;

		for (const struct cds_list_head *p = list->next; p != list; p = p->next) {
			const struct request *r = cds_list_entry(p, struct request, link);

			must(w, r->arrived_ns >= before, "the queue is out of order");
			must(w, r->session != NULL, "a request without a worker waits");
			before = r->arrived_ns;
			n++;
		}
		check_first(w, list);
	}
	must(w, n == w->pool->nwaiters, "waiters miscounted");
}

static void check_readers(struct world *w)
{
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		struct db *d = &w->db[i];

		must(w, !d->stalled || d->n == 0 || db_head(d)->session != NULL,
			"connection %u waits for a reader that is gone", i);
	}
}

void oracle_look(struct world *w)
{
	check_readers(w);
	note_grants(w);
	check_overlooked(w);
	for (unsigned i = 0; i < w->nrecs; i++) {
		check_answer(w, i);
	}
	check_conns(w);
	check_leases(w);
	check_waiters(w);
	check_counters(w);
}

void oracle_rest(struct world *w)
{
	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];

		must(w, r->gone || r->answered || is_lease(r->kind), "record %u is never answered",
			i);
		must(w, r->gone || !is_lease(r->kind) || real_lease(w, (uint16_t)i) == NULL,
			"lease %u stays for ever", i);
	}
	must(w, all_idle(w), "in the end not every connection is idle");
	must(w, w->pool->nwaiters == 0, "in the end somebody waits");
	must(w, board_pool_value(w->board, 0, POOL_METRIC_LEASES_ACTIVE) == 0,
		"a lease stays active");
	must(w, board_pool_value(w->board, 0, POOL_METRIC_STATEMENTS_IN_FLIGHT) == 0,
		"a statement stays in flight");
}
