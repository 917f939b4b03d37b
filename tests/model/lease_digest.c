/* SPDX-License-Identifier: MIT */
/* lease_digest.c - the state of the world of lease_world.h as a number. */
#include "lease_inside.h"

struct digest {
	uint64_t h;
};

static void add(struct digest *g, uint64_t v)
{
	g->h = (g->h ^ v) * 0x9e3779b97f4a7c15ull;
	g->h ^= g->h >> 29;
}

/* Records that still matter are numbered in their order; the others have no name. */
static void name_records(struct world *w, uint16_t *names)
{
	bool *live = calloc(w->nrecs + 1, sizeof(*live));
	uint16_t n = 0;

	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];

		live[i] |= !r->gone && !r->answered && !is_lease(r->kind);
		live[i] |= is_lease(r->kind) && real_lease(w, (uint16_t)i) != NULL;
		if (live[i] && r->lease != NONE) {
			live[r->lease] = true;
		}
	}
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		for (unsigned j = 0; j < w->db[i].n; j++) {
			const struct rec *r = &w->rec[w->db[i].queue[j].rec];

			live[w->db[i].queue[j].rec] = true;
			if (r->lease != NONE) {
				live[r->lease] = true;
			}
		}
		if (w->db[i].owner != NONE) {
			live[w->db[i].owner] = true;
		}
	}
	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		if (w->worker[i].lease != NONE) {
			live[w->worker[i].lease] = true;
		}
	}
	for (unsigned i = 0; i < w->nrecs; i++) {
		names[i] = live[i] ? ++n : 0;
	}
	free(live);
}

static void add_records(struct world *w, struct digest *g, const uint16_t *names)
{
	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];

		if (names[i] == 0) {
			continue;
		}
		add(g, names[i]);
		add(g, r->worker | r->kind << 8 | (r->answered << 16) | (r->gone << 17) |
				(r->cancel_asked << 18) | (r->ended << 19) | (r->executed << 20) |
				(r->ok << 21) | (r->waits << 22) | (r->unknown << 23));
		add(g, (r->sends > 3 ? 3 : r->sends) | (unsigned)r->effect << 4 |
				(r->deadline_ns != 0 && r->deadline_ns <= world_now()) << 8);
		add(g, r->lease != NONE ? names[r->lease] : 0);
	}
}

static void add_request(struct world *w, struct digest *g, const uint16_t *names, struct request *r)
{
	uint16_t rec = rec_of(w, r->id);

	add(g, rec != NONE ? names[rec] : 0);
	add(g, (r->session != NULL) | (r->lease != NULL) << 1 | r->cancel_wanted << 2 |
			r->timed_out << 3 | r->delivered << 4 | timer_is_set(&r->timer) << 5 |
			r->state << 6 | (r->sends > 7 ? 7 : r->sends) << 8 | r->out.blocked << 12 |
			r->out.needy << 13);
}

static void add_requests(
	struct world *w, struct digest *g, const uint16_t *names, struct cds_list_head *list)
{
	unsigned n = 0;

	for (struct cds_list_head *p = list->next; p != list; p = p->next, n++) {
		add_request(w, g, names, cds_list_entry(p, struct request, link));
	}
	add(g, n);
}

static uint64_t age_ms(uint64_t since, uint64_t most)
{
	uint64_t ms = since != 0 && since < world_now() ? (world_now() - since) / MS : 0;

	return ms > most ? most : ms;
}

static void add_conn(struct world *w, struct digest *g, const uint16_t *names, unsigned i)
{
	struct conn *c = w->pool->member[0]->conns[i];
	const struct db *d = &w->db[i];

	add(g, c->state | c->tx << 4 | c->dirty << 8 | c->cancelling << 9 | c->retire << 10 |
			c->shareable << 11 | timer_is_set(&c->slow) << 12 |
			(c->lease != NULL) << 13 | conn_may_follow(c) << 14);
	add(g, d->state | d->tx << 4 | d->dirty << 8 | d->cancel << 9 | d->reset << 10 |
			d->stalled << 11);
	add(g, d->owner != NONE ? names[d->owner] : 0);
	add(g, age_ms(c->head_ns, c->ninflight > 0 ? 10 : 0));
	add(g, c->cancelling || c->cancel_first_ns != 0 ? age_ms(c->cancel_ns, 50) : 0);
	add(g, c->cancel_first_ns != 0 ? age_ms(c->cancel_first_ns, 10000) / 100 + 1 : 0);
	add_requests(w, g, names, &c->inflight);
	for (unsigned j = 0; j < d->n; j++) {
		add(g, names[d->queue[j].rec] | (unsigned)d->queue[j].begins << 16);
		add(g, d->queue[j].left);
	}
}

static void add_lease(struct world *w, struct digest *g, const uint16_t *names, unsigned rec)
{
	struct lease *l = real_lease(w, (uint16_t)rec);

	add(g, rec);
	if (l != NULL) {
		add(g, l->state | l->begun << 4 | l->gate << 5 | l->ending << 6 |
				(l->conn != NULL ? l->conn->slot + 1 : 0) << 8);
		add_requests(w, g, names, &l->pending);
	}
}

uint64_t world_hash(struct world *w)
{
	uint16_t *names = calloc(w->nrecs + 1, sizeof(*names));
	struct digest g = {1};
	struct conn *c;

	name_records(w, names);
	add_records(w, &g, names);
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		add_conn(w, &g, names, i);
	}
	cds_list_for_each_entry(c, &w->pool->member[0]->in_state[CONN_IDLE], link)
	{
		add(&g, c->slot);
	}
	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		add_requests(w, &g, names, &w->pool->waiters[q]);
	}
	for (unsigned i = 0; i < w->nrecs; i++) {
		if (names[i] != 0 && is_lease(w->rec[i].kind) && !w->rec[i].gone) {
			add(&g, names[i]);
			add_lease(w, &g, names, i);
		}
	}
	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		const struct worker *k = &w->worker[i];

		add(&g, k->used | (k->lease != NONE ? names[k->lease] : 0) << 1);
	}
	add(&g, w->pool->member[0]->backoff_ns);
	add(&g, w->pool->member[0]->next_connect_ns > world_now());
	add(&g, w->pool->nwaiters > 0 && timer_is_set(&w->pool->expiry));
	free(names);
	return g.h;
}
