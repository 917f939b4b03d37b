/* SPDX-License-Identifier: MIT */
/* lease_worker.c - the workers of lease_world.h: they speak the wire format themselves. */
#include "lease_inside.h"

#define DEADLINE_MS 1000u /* of what has one; each record's is a little later */

void worker_attach(struct world *w, unsigned i)
{
	struct worker *k = &w->worker[i];

	memset(k, 0, sizeof(*k));
	k->lease = NONE;
	wire_attach(&k->wire, &w->io, i, 64);
}

void worker_detach(struct worker *k)
{
	wire_detach(&k->wire);
}

/* -- requests ---------------------------------------------------------------------------------- */

static void give_back(struct worker *k, unsigned i)
{
	uint32_t chunk = k->held[i];

	k->held[i] = k->held[--k->nheld];
	wire_give_back(&k->wire, chunk);
}

static const char *const text_of[] = {
	[K_EXEC] = "UPDATE t SET a = 1",
	[K_LOOK] = "SELECT 2",
	[K_READ] = "SELECT 1",
	[K_WRITE] = "INSERT INTO t VALUES (1)",
};

static uint16_t send_request(struct world *w, unsigned worker, uint8_t kind)
{
	static const uint8_t ops[] = {[K_LEASE_TX] = REQ_LEASE,
		[K_LEASE] = REQ_LEASE,
		[K_EXEC] = REQ_EXEC,
		[K_LOOK] = REQ_EXEC,
		[K_READ] = REQ_EXEC,
		[K_WRITE] = REQ_EXEC,
		[K_COMMIT] = REQ_COMMIT,
		[K_ROLLBACK] = REQ_ROLLBACK,
		[K_RELEASE] = REQ_RELEASE};
	struct worker *k = &w->worker[worker];
	bool autocommit = kind == K_READ || kind == K_WRITE;
	uint16_t rec = (uint16_t)w->nrecs++;
	struct shm_request d = {.id = id_of(w, rec), .op = ops[kind], .free_chunk = CHAN_NO_CHUNK};

	world_pass(1000); /* no two arrive at once, and the time between does not count */
	w->rec[rec] = (struct rec){.worker = (uint8_t)worker,
		.kind = kind,
		.lease = is_lease(kind) || autocommit ? NONE : k->lease,
		.turn = w->turns,
		.waits = true};
	if (kind != K_READ && kind != K_ROLLBACK && kind != K_RELEASE) {
		w->rec[rec].deadline_ns = world_now() + DEADLINE_MS * MS + rec % 64 * 50 * MS;
	}
	d.deadline_ns = w->rec[rec].deadline_ns;
	d.flags = reads(kind) ? REQ_F_READONLY : kind == K_LEASE_TX ? REQ_F_TX : 0;
	d.lease = w->rec[rec].lease != NONE ? id_of(w, w->rec[rec].lease) : 0;
	if (!is_end(kind)) {
		wire_body(&k->wire, &d, is_statement(kind) ? text_of[kind] : "");
	}
	wire_push(&k->wire, &d);
	if (is_lease(kind)) {
		k->lease = rec;
	} else if (is_end(kind)) {
		w->rec[k->lease].ended = true;
		k->lease = NONE;
	}
	k->used = true;
	return rec;
}

static bool cancellable(const struct world *w, unsigned worker, unsigned rec)
{
	const struct rec *r = &w->rec[rec];

	return r->worker == worker && !r->gone && !r->answered && !r->cancel_asked &&
	       is_statement(r->kind);
}

static unsigned find_cancellable(const struct world *w, unsigned worker, bool newest)
{
	for (unsigned n = 0; n < w->nrecs; n++) {
		unsigned i = newest ? w->nrecs - 1 - n : n;

		if (cancellable(w, worker, i)) {
			return i;
		}
	}
	return NONE;
}

static void cancel(struct world *w, unsigned worker, bool newest)
{
	unsigned i = find_cancellable(w, worker, newest);
	struct shm_request d = {
		.id = 1, .op = REQ_CANCEL, .target = id_of(w, i), .free_chunk = CHAN_NO_CHUNK};

	w->rec[i].cancel_asked = true;
	wire_push(&w->worker[worker].wire, &d);
}

/* -- answers ----------------------------------------------------------------------------------- */

static void take_answer(struct world *w, struct worker *k, const struct shm_completion *c)
{
	uint16_t rec = rec_of(w, c->id);
	struct rec *r;

	if (rec == NONE) {
		wrong(w, "an answer to nothing");
		return;
	}
	r = &w->rec[rec];
	if (c->chunk != CHAN_NO_CHUNK) {
		if (k->nheld == HELD) {
			bail_out("more chunks than blocks");
		}
		k->held[k->nheld++] = c->chunk;
	}
	must(w, r->worker == (unsigned)(k - w->worker) && !r->gone, "an answer to a stranger");
	must(w, !r->answered, "record %u is answered twice", rec);
	must(w, !is_lease(r->kind), "a lease is answered");
	if (c->kind == COMP_DATA) {
		return;
	}
	r->answered = true;
	r->waits = false;
	r->ok = c->kind == COMP_DONE;
	r->unknown = c->kind == COMP_ERROR && c->outcome == SHM_OUTCOME_UNKNOWN;
	must(w, r->ok || c->code != FAIL_CANCELLED || r->cancel_asked || r->lease != NONE,
		"record %u is reported as cancelled, but nobody asked for that", rec);
	if (is_end(r->kind)) {
		w->rec[r->lease].end_answered = true;
	}
	if (r->kind == K_COMMIT) {
		oracle_commit(w, rec);
	}
}

unsigned workers_take_answers(struct world *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		struct worker *k = &w->worker[i];
		uint64_t pending = ring_in_pending(&k->wire.comp);

		if (pending > k->wire.comp.count) {
			wrong(w, "the completion ring is corrupt");
			return 0;
		}
		for (; pending > 0; pending--, n++) {
			struct shm_completion c;

			ring_take(&k->wire.comp, &c);
			ring_retire(&k->wire.comp);
			take_answer(w, k, &c);
		}
		while (!w->plan.results && k->nheld > 0) {
			give_back(k, k->nheld - 1);
		}
	}
	return n;
}

/* -- events ------------------------------------------------------------------------------------ */

static void die(struct world *w, unsigned worker)
{
	struct worker *k = &w->worker[worker];

	worker_detach(k);
	for (unsigned i = 0; i < w->nrecs; i++) {
		if (w->rec[i].worker == worker) {
			w->rec[i].gone = true;
			w->rec[i].waits = false;
		}
	}
	uv_run(&w->io.loop, UV_RUN_NOWAIT);
	for (struct cds_list_head *p = w->io.sessions.next; p != &w->io.sessions; p = p->next) {
		must(w, session_of_link(p) != k->wire.s, "the end of worker %u goes unnoticed",
			worker);
	}
	worker_attach(w, worker);
	k->used = true;
}

/* Of this worker not answered: statements in its open lease, and outside of leases. */
static void count_open(const struct world *w, unsigned worker, unsigned *leased, unsigned *alone)
{
	*leased = *alone = 0;
	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];

		if (r->worker == worker && !r->gone && !r->answered && is_statement(r->kind)) {
			*(r->lease != NONE ? leased : alone) += 1;
		}
	}
}

void worker_offer(struct world *w, unsigned i, struct menu *m)
{
	const struct worker *k = &w->worker[i];
	unsigned leased, alone, most = w->plan.results ? 24 : 2;
	bool open = k->lease != NONE, tx = open && w->rec[k->lease].kind == K_LEASE_TX;

	count_open(w, i, &leased, &alone);
	offer(m, !open && leased < most, W_LEASE_TX, i);
	offer(m, !open && leased < most, W_BEGIN_EXEC, i);
	offer(m, !open && leased < most, W_LEASE, i);
	offer(m, open && leased < most, W_EXEC, i);
	offer(m, open && leased < most, W_LOOK, i);
	offer(m, alone < most, W_READ, i);
	offer(m, alone < most, W_WRITE, i);
	offer(m, tx, W_COMMIT, i);
	offer(m, open, W_ROLLBACK, i);
	offer(m, leased + alone > 0 && find_cancellable(w, i, false) != NONE, W_CANCEL_OLDEST, i);
	offer(m, find_cancellable(w, i, false) != find_cancellable(w, i, true), W_CANCEL_NEWEST, i);
	offer(m, k->used, W_DIE, i);
	offer(m, k->nheld > 0, W_FREE, i);
}

void worker_do(struct world *w, unsigned what, unsigned i)
{
	struct worker *k = &w->worker[i];
	static const uint8_t kinds[] = {[W_LEASE_TX] = K_LEASE_TX,
		[W_LEASE] = K_LEASE,
		[W_EXEC] = K_EXEC,
		[W_LOOK] = K_LOOK,
		[W_READ] = K_READ,
		[W_WRITE] = K_WRITE,
		[W_COMMIT] = K_COMMIT};

	switch (what) {
	case W_BEGIN_EXEC:
		(void)send_request(w, i, K_LEASE_TX);
		(void)send_request(w, i, K_EXEC);
		break;
	case W_ROLLBACK:
		(void)send_request(
			w, i, w->rec[k->lease].kind == K_LEASE_TX ? K_ROLLBACK : K_RELEASE);
		break;
	case W_CANCEL_OLDEST:
	case W_CANCEL_NEWEST:
		cancel(w, i, what == W_CANCEL_NEWEST);
		break;
	case W_DIE:
		die(w, i);
		return;
	case W_FREE:
		give_back(k, 0);
		return;
	default:
		(void)send_request(w, i, kinds[what]);
	}
	wire_publish(&k->wire);
}

bool worker_work(struct world *w, unsigned i)
{
	struct worker *k = &w->worker[i];

	bool busy = k->nheld > 0;

	while (k->nheld > 0) {
		give_back(k, k->nheld - 1);
	}
	if (k->lease != NONE) {
		worker_do(w, W_ROLLBACK, i);
		busy = true;
	}
	return busy;
}
