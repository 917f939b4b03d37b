/* SPDX-License-Identifier: MIT */
/* failover_worker.c - the workers of failover_world.h. */
#include "failover_world.h"

#define LEASED_MAX 8u
#define ALONE_MAX 6u
/* Enough for all that one worker has open at a time. */
#define RESULT_KIB 1024u

void worker_attach(struct world *w, unsigned i)
{
	struct worker *k = &w->worker[i];

	k->lease = NONE;
	wire_attach(&k->wire, &w->io, i, RESULT_KIB);
}

void worker_detach(struct worker *k)
{
	wire_detach(&k->wire);
}

/* -- requests ---------------------------------------------------------------------------------- */

static const struct {
	uint8_t op, flags;
	const char *sql, *name;
} what[] = {
	[K_LEASE_TX] = {REQ_LEASE, REQ_F_TX, "", "asks for a transaction"},
	[K_LEASE_RO] = {REQ_LEASE, REQ_F_TX | REQ_F_READONLY, "",
		"asks for a read-only transaction"},
	[K_LEASE] = {REQ_LEASE, 0, "", "asks for a lease"},
	[K_EXEC] = {REQ_EXEC, 0, "UPDATE t SET a = 1", "writes in its lease"},
	[K_LOOK] = {REQ_EXEC, REQ_F_READONLY, "SELECT 2", "reads in its lease"},
	[K_READ] = {REQ_EXEC, REQ_F_READONLY, "SELECT 1", "reads"},
	[K_FRESH] = {REQ_EXEC, REQ_F_READONLY | REQ_F_FRESH, "SELECT 3", "reads what it wrote"},
	[K_WRITE] = {REQ_EXEC, 0, "INSERT INTO t SELECT 1", "writes"},
	[K_COMMIT] = {REQ_COMMIT, 0, "", "commits"},
	[K_ROLLBACK] = {REQ_ROLLBACK, 0, "", "rolls back"},
	[K_RELEASE] = {REQ_RELEASE, 0, "", "releases"},
};

static void send_request(struct world *w, unsigned worker, uint8_t kind)
{
	struct worker *k = &w->worker[worker];
	bool alone = kind == K_READ || kind == K_FRESH || kind == K_WRITE || is_lease(kind);
	uint16_t rec = (uint16_t)w->nrecs++;
	struct shm_request d = {.id = id_of(w, rec),
		.op = what[kind].op,
		.flags = what[kind].flags,
		.free_chunk = CHAN_NO_CHUNK};
	char sql[64];

	world_pass(w, 1000); /* no two arrive at once */
	w->rec[rec] = (struct rec){.worker = (uint8_t)worker,
		.kind = kind,
		.lease = alone ? NONE : k->lease,
		.turn = w->turns,
		.waits = true};
	if (kind != K_ROLLBACK && kind != K_RELEASE && pick(8) != 0) {
		d.deadline_ns = world_now() + (100 + pick(3000)) * MS;
	}
	w->rec[rec].deadline_ns = d.deadline_ns;
	d.lease = w->rec[rec].lease != NONE ? id_of(w, w->rec[rec].lease) : 0;
	if (!is_end(kind)) {
		/* Each text is new: what is known to be slow may be overtaken. */
		snprintf(sql, sizeof(sql), "%s%.0llu", what[kind].sql,
			is_lease(kind) ? 0ull : (unsigned long long)d.id);
		wire_body(&k->wire, &d, sql);
	}
	wire_push(&k->wire, &d);
	if (is_lease(kind)) {
		k->lease = rec;
	} else if (is_end(kind)) {
		w->rec[k->lease].ended = true;
		k->lease = NONE;
	}
}

static bool cancel_one(struct world *w, unsigned worker)
{
	unsigned first = pick(w->nrecs + 1);

	for (unsigned n = 0; n < w->nrecs; n++) {
		unsigned i = (first + n) % w->nrecs;
		struct rec *r = &w->rec[i];
		struct shm_request d = {.id = 1,
			.op = REQ_CANCEL,
			.target = id_of(w, i),
			.free_chunk = CHAN_NO_CHUNK};

		if (r->worker == worker && !r->gone && !r->answered && !r->cancel_asked &&
			is_statement(r->kind)) {
			r->cancel_asked = true;
			wire_push(&w->worker[worker].wire, &d);
			return true;
		}
	}
	return false;
}

/* -- answers ----------------------------------------------------------------------------------- */

/* What the worker may rely on from now on. */
static void note_durable(struct world *w, unsigned rec)
{
	struct rec *r = &w->rec[rec];

	if (is_write(r->kind) && !in_tx(w, r)) {
		r->durable = true;
		r->durable_at = w->nrecs;
	}
	for (unsigned i = 0; r->kind == K_COMMIT && i < rec; i++) {
		struct rec *x = &w->rec[i];

		if (x->lease == r->lease && x->kind == K_EXEC && x->ok) {
			x->durable = true;
			x->durable_at = w->nrecs;
		}
	}
}

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
		wire_give_back(&k->wire, c->chunk);
	}
	must(w, r->worker == (unsigned)(k - w->worker) && !r->gone, "an answer to a stranger");
	must(w, !r->answered, "record %u is answered twice", rec);
	must(w, !is_lease(r->kind), "a lease is answered");
	r->answered = true;
	r->waits = false;
	r->ok = c->kind == COMP_DONE;
	r->unknown = c->kind == COMP_ERROR && c->outcome == SHM_OUTCOME_UNKNOWN;
	w->seen.answers += r->ok;
	w->seen.unknown += r->unknown;
	w->seen.failed += !r->ok && !r->unknown;
	must(w, !r->unknown || r->sends > 0, "record %u was never sent, but its outcome is unknown",
		rec);
	must(w, !r->unknown || is_write(r->kind) || r->kind == K_COMMIT,
		"the outcome of record %u is unknown, but it only reads", rec);
	if (is_end(r->kind)) {
		w->rec[r->lease].end_answered = true;
	}
	if (r->ok) {
		note_durable(w, rec);
	}
}

unsigned workers_take_answers(struct world *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < WORKERS; i++) {
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
	}
	return n;
}

/* -- what a worker does ------------------------------------------------------------------------ */

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
}

/* Of this worker not answered: statements in leases, and outside. */
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

static uint8_t choose_alone(void)
{
	unsigned n = pick(10);

	return n < 5 ? K_WRITE : n < 8 ? K_READ : K_FRESH;
}

static uint8_t choose_lease(void)
{
	unsigned n = pick(8);

	return n < 5 ? K_LEASE_TX : n < 7 ? K_LEASE_RO : K_LEASE;
}

static uint8_t choose_leased(const struct world *w, uint16_t lease, bool room)
{
	uint8_t kind = w->rec[lease].kind;
	unsigned n = pick(10);

	if (n < 3 || !room) {
		return kind == K_LEASE ? K_RELEASE : n == 0 ? K_ROLLBACK : K_COMMIT;
	}
	return n < 5 || kind == K_LEASE_RO ? K_LOOK : K_EXEC;
}

const char *worker_act(struct world *w, unsigned i)
{
	struct worker *k = &w->worker[i];
	unsigned leased, alone, n = pick(100);
	const char *name = "waits";
	uint8_t kind;

	if (n == 0) {
		world_turn(w); /* not in the middle of a turn */
		die(w, i);
		return "dies";
	}
	count_open(w, i, &leased, &alone);
	if (n < 6) {
		name = cancel_one(w, i) ? "cancels a statement" : name;
	} else if (n < 40 && alone < ALONE_MAX) {
		kind = choose_alone();
		send_request(w, i, kind);
		name = what[kind].name;
	} else if (n >= 40 && k->lease == NONE && leased < LEASED_MAX) {
		kind = choose_lease();
		send_request(w, i, kind);
		name = what[kind].name;
	} else if (n >= 40 && k->lease != NONE) {
		kind = choose_leased(w, k->lease, leased < LEASED_MAX);
		send_request(w, i, kind);
		name = what[kind].name;
	}
	wire_publish(&k->wire);
	return name;
}

bool worker_end(struct world *w, unsigned i)
{
	struct worker *k = &w->worker[i];

	if (k->lease == NONE) {
		return false;
	}
	send_request(w, i, w->rec[k->lease].kind == K_LEASE ? K_RELEASE : K_ROLLBACK);
	wire_publish(&k->wire);
	return true;
}
