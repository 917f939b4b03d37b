/* SPDX-License-Identifier: MIT */
/* failover_oracle.c - what must be true in the world of failover_world.h. */
#include "failover_world.h"

/* -- whose turn it is -------------------------------------------------------------------------- */

/* Whoever asked in an earlier turn and waits in the same queue must not be waiting any more.  A
 * fresh read may be in either queue. */
void oracle_serve(struct world *w, uint16_t rec)
{
	const struct rec *r = &w->rec[rec];

	for (unsigned i = 0; i < rec; i++) {
		const struct rec *o = &w->rec[i];

		if (o->waits && o->turn != r->turn && o->lease == NONE && !is_end(o->kind) &&
			roams(o->kind) == roams(r->kind) && o->kind != K_FRESH &&
			r->kind != K_FRESH &&
			(!is_lease(o->kind) || lease_is(w, (uint16_t)i, LEASE_WAITING)) &&
			w->noverlooked < QUEUE) {
			w->overlooked[w->noverlooked++] = (struct overlooked){(uint16_t)i, rec};
		}
	}
}

/* After the turn: whoever was overlooked must at least have been served or answered in it. */
static void check_overlooked(struct world *w)
{
	for (unsigned i = 0; i < w->noverlooked; i++) {
		uint16_t rec = w->overlooked[i].rec;
		const struct rec *r = &w->rec[rec];
		bool still = is_lease(r->kind) ? lease_is(w, rec, LEASE_WAITING) : r->waits;

		must(w, !still, "record %u is served before record %u, which asked earlier",
			w->overlooked[i].by, rec);
	}
	w->noverlooked = 0;
}

/* Leases that were granted or refused in this turn do not wait any more. */
static void note_grants(struct world *w)
{
	for (unsigned i = 0; i < w->nrecs && i < array_size(w->rec); i++) {
		struct rec *r = &w->rec[i];

		if (!is_lease(r->kind) || !r->waits || lease_is(w, (uint16_t)i, LEASE_WAITING)) {
			continue;
		}
		r->waits = false;
		if (lease_is(w, (uint16_t)i, LEASE_ACTIVE)) {
			oracle_serve(w, (uint16_t)i);
		}
	}
}

/* -- histories --------------------------------------------------------------------------------- */

/* How often each record, or the transaction that holds it, stands in a history. */
static void count_history(const struct machine *m, uint32_t length, uint8_t *times)
{
	for (uint32_t i = 0; i < length; i++) {
		if (m->history[i] != NONE) {
			times[m->history[i]]++;
		}
	}
}

static uint16_t unit_of(const struct world *w, unsigned rec)
{
	return in_tx(w, &w->rec[rec]) ? w->rec[rec].lease : (uint16_t)rec;
}

/* The record of the lease's COMMIT, or NULL. */
static const struct rec *commit_of(const struct world *w, uint16_t lease)
{
	for (unsigned i = lease; i < w->nrecs; i++) {
		if (w->rec[i].lease == lease && w->rec[i].kind == K_COMMIT) {
			return &w->rec[i];
		}
	}
	return NULL;
}

/* Was its worker told that it will never take effect? */
static bool is_denied(const struct world *w, unsigned rec)
{
	const struct rec *r = &w->rec[rec], *commit;

	if (r->answered && !r->ok && !r->unknown) {
		return true;
	}
	if (!in_tx(w, r)) {
		return false;
	}
	commit = commit_of(w, r->lease);
	return commit != NULL ? commit->answered && !commit->ok && !commit->unknown
			      : w->rec[r->lease].end_answered;
}

/* Each write on the history that counts, or on the local one, as often as its worker may think. */
static void check_histories(struct world *w)
{
	uint8_t times[RECS] = {0};

	count_history(&w->machine[w->lead], w->machine[w->lead].length, times);
	count_history(&w->machine[LOCAL], w->machine[LOCAL].length, times);
	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];
		unsigned n = r->committed > 0 ? times[unit_of(w, i)] : 0;

		if (!is_write(r->kind)) {
			continue;
		}
		must(w, r->committed <= 1, "write %u was executed twice", i);
		must(w, n <= 1, "write %u is there %u times", i, n);
		must(w, !r->durable || n == 1, "write %u was acknowledged and is lost", i);
		must(w, r->committed == 0 || !is_denied(w, i),
			"write %u was reported as not done, and was committed", i);
	}
}

void oracle_read(struct world *w, uint16_t rec, const struct machine *m)
{
	uint8_t shown[RECS] = {0}, local[RECS] = {0};

	if (w->rec[rec].kind != K_FRESH || w->rec[rec].gone || m == &w->machine[LOCAL]) {
		return;
	}
	count_history(m, db_visible(m), shown);
	count_history(&w->machine[LOCAL], w->machine[LOCAL].length, local);
	for (unsigned i = 0; i < rec; i++) {
		const struct rec *r = &w->rec[i];
		uint16_t unit = unit_of(w, i);

		if (r->worker == w->rec[rec].worker && r->durable && !r->gone &&
			r->durable_at <= rec && local[unit] == 0) {
			must(w, shown[unit] == 1,
				"read %u does not see write %u of the same worker", rec, i);
		}
	}
}

/* -- time -------------------------------------------------------------------------------------- */

static void check_deadlines(struct world *w)
{
	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];

		must(w,
			r->answered || r->gone || is_lease(r->kind) || r->deadline_ns == 0 ||
				world_now() <= r->deadline_ns + LATE_MS * MS,
			"record %u is not answered %llu ms after its deadline", i,
			(unsigned long long)((world_now() - r->deadline_ns) / MS));
	}
}

static bool passed(uint64_t since, uint64_t ms)
{
	return since != 0 && world_now() - since > ms * MS;
}

/* A lead that takes writes is found in time, and nobody else is taken for the writer then. */
static void check_writer(struct world *w)
{
	int writer = w->pool->decision.writer;
	const struct server *lead = w->servers[w->lead];
	bool doubted = lead->state.role == ROLE_UNKNOWN &&
		       world_now() - lead->doubted_ns < HEALTH_HURRY_MS * MS;

	if (!doubted && passed(w->lead_ok_ns, FIND_MS)) {
		must(w, writer == (int)w->lead,
			"server %u takes writes for long, the writer is still %d", w->lead, writer);
	}
	must(w, doubted || !passed(w->missed_ns, FIND_SOON_MS),
		"server %u takes writes, and is not found", w->lead);
	must(w, writer < 0 || (w->pool->decision.fenced >> writer & 1) == 0,
		"the writer is fenced");
	must(w, (w->pool->writer == NULL) == (writer < 0), "the writer is not the one decided on");
}

static void check_verdicts(struct world *w)
{
	for (unsigned i = 0; i < MACHINES; i++) {
		must(w,
			!passed(w->machine[i].silent_ns, DOWN_MS) ||
				w->servers[i]->state.verdict == VERDICT_DOWN,
			"server %u is silent and not taken for down", i);
	}
}

/* -- books ------------------------------------------------------------------------------------- */

static uint64_t value(const struct world *w, enum pool_metric m)
{
	return board_pool_value(w->board, 0, m);
}

static void check_counters(struct world *w)
{
	uint64_t ended =
		value(w, POOL_METRIC_STATEMENTS_FINISHED) + value(w, POOL_METRIC_STATEMENTS_FAILED);
	uint64_t flying = value(w, POOL_METRIC_STATEMENTS_IN_FLIGHT), open = 0, held = 0;

	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];

		open += is_statement(r->kind) && !r->answered && !r->gone;
	}
	for (unsigned i = 0; i < w->pool->nmembers; i++) {
		for (unsigned k = 0; k < w->pool->member[i]->nconns; k++) {
			held += w->pool->member[i]->conns[k]->lease != NULL;
		}
	}
	must(w, value(w, POOL_METRIC_STATEMENTS_STARTED) == ended + flying,
		"started is not finished + failed + in flight");
	must(w, flying == open, "%llu statements in flight, %llu not answered",
		(unsigned long long)flying, (unsigned long long)open);
	must(w,
		value(w, POOL_METRIC_LEASES_GRANTED) ==
			value(w, POOL_METRIC_LEASES_RELEASED) + value(w, POOL_METRIC_LEASES_ACTIVE),
		"granted is not released + active");
	must(w, value(w, POOL_METRIC_LEASES_ACTIVE) == held,
		"leases active and connections held differ");
}

static void check_member(struct world *w, struct member *m)
{
	unsigned here[CONN_STATE_COUNT] = {0}, open = 0;
	const struct member *writer = w->pool->writer;
	bool zombie = m->server->state.role == ROLE_PRIMARY && writer != NULL && writer != m &&
		      writer->server->state.role == ROLE_PRIMARY;
	bool shut = m->server->state.verdict == VERDICT_DOWN || zombie ||
		    (w->pool->decision.fenced >> m->index & 1) != 0;

	for (unsigned k = 0; k < m->nconns; k++) {
		struct conn *c = m->conns[k];

		conn_check(c);
		here[c->state]++;
		open += c->state != CONN_CLOSED;
		must(w, c->ninflight == w->machine[m->index].link[k].work.n,
			"connection %u of server %u: %u in flight, the server has %u", k, m->index,
			c->ninflight, w->machine[m->index].link[k].work.n);
		must(w,
			c->lease == NULL ||
				(c->lease->conn == c && c->lease->state == LEASE_ACTIVE),
			"connection %u of server %u and its lease do not agree", k, m->index);
		must(w,
			!shut || c->state == CONN_CLOSED || c->state == CONN_CLOSING ||
				c->state == CONN_CONNECTING,
			"a connection to server %u, which is down or fenced", m->index);
	}
	for (unsigned i = 0; i < CONN_STATE_COUNT; i++) {
		must(w, here[i] == m->state_count[i], "connections of server %u miscounted",
			m->index);
	}
	must(w, open == tally_open(m->server->tally), "open connections of server %u miscounted",
		m->index);
}

static void check_leases(struct world *w)
{
	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];
		const struct lease *l;

		if (!is_lease(r->kind) || r->gone) {
			continue;
		}
		l = real_lease(w, (uint16_t)i);
		must(w, !r->end_answered || l == NULL, "lease %u has ended and is still there", i);
		must(w, r->ended || l != NULL, "lease %u is gone and nobody ended it", i);
		must(w, l == NULL || (l->state == LEASE_WAITING) == (l->ask != NULL),
			"lease %u waits without asking", i);
	}
}

/* Is m among the servers that may be asked by r, which can go to any that takes reads? */
static bool may_read(const struct pool *p, const struct member *m, const struct request *r)
{
	return (p->decision.readers >> m->index & 1) != 0 &&
	       ((r->flags & REQ_F_FRESH) == 0 || m == p->writer ||
		       session_is_fresh(r->session, p, m->server));
}

/* The first of a queue: nobody it could be given to is idle; and it is in the right queue, for
 * those behind it wait as well. */
static void check_first(struct world *w, const struct request *first)
{
	const struct pool *p = w->pool;
	bool any = false;

	if (choice_is_slow(p, first)) { /* it ran before; not all connections may run such */
		return;
	}
	for (unsigned i = 0; i < p->nmembers; i++) {
		const struct member *m = p->member[i];
		bool useful = first->roams ? may_read(p, m, first) : m == p->writer;

		any |= may_read(p, m, first);
		must(w, !useful || !member_can_serve(m) || m->state_count[CONN_IDLE] == 0,
			"record %u waits while a connection of server %u is idle",
			rec_of(w, first->id), i);
	}
	must(w, (first->flags & REQ_F_FRESH) == 0 || first->roams == any,
		"fresh read %u waits in the wrong queue", rec_of(w, first->id));
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
		if (list->next != list) {
			check_first(w, cds_list_entry(list->next, struct request, link));
		}
	}
	must(w, n == w->pool->nwaiters, "waiters miscounted");
}

void oracle_look(struct world *w)
{
	note_grants(w);
	check_overlooked(w);
	check_histories(w);
	check_deadlines(w);
	check_writer(w);
	check_verdicts(w);
	for (unsigned i = 0; i < w->pool->nmembers; i++) {
		check_member(w, w->pool->member[i]);
	}
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
	for (unsigned i = 0; i < w->pool->nmembers; i++) {
		must(w, w->pool->member[i]->state_count[CONN_IDLE] == CONNS,
			"in the end server %u has not all its connections", i);
	}
	must(w, w->pool->nwaiters == 0, "in the end somebody waits");
	must(w, w->pool->decision.mode == MODE_NORMAL, "in the end the pool is not well: %s",
		w->pool->decision.why);
	must(w, w->pool->decision.writer == (int)w->lead, "in the end the lead is not the writer");
	must(w, value(w, POOL_METRIC_LEASES_ACTIVE) == 0, "a lease stays active");
	must(w, value(w, POOL_METRIC_STATEMENTS_IN_FLIGHT) == 0, "a statement stays in flight");
}
