/* SPDX-License-Identifier: MIT */
/* lease_worker.c - the workers of lease_world.h: they speak the wire format themselves. */
#include "lease_inside.h"

#include "doorbell.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEADLINE_MS 1000u /* of what has one; each record's is a little later */

/* -- segments ---------------------------------------------------------------------------------- */

static void *section_of(void *map, uint32_t type, uint64_t *len)
{
	const struct shm_section *s = segment_section(map, type);

	*len = s->len;
	return segment_at(map, s);
}

static void bind_worker(struct worker *k)
{
	struct chan_worker *wc;
	void *sub, *comp;
	uint64_t len;

	wc = section_of(k->w, SHM_SEC_CONTROL, &len);
	k->bc = section_of(k->b, SHM_SEC_CONTROL, &len);
	sub = section_of(k->w, SHM_SEC_RING, &len);
	comp = section_of(k->b, SHM_SEC_RING, &len);
	k->arena = section_of(k->w, SHM_SEC_ARENA, &k->arena_len);
	ring_out_init(&k->sub, &wc->sub_tail, &k->bc->sub_head, sub, CHAN_RING_SLOTS);
	ring_in_init(&k->comp, &k->bc->comp_tail, &wc->comp_head, comp,
		segment_section(k->b, SHM_SEC_RING)->count);
}

void worker_attach(struct world *w, unsigned i)
{
	struct worker *k = &w->worker[i];
	struct session_identity id = {.pid = (int32_t)(100 + i)};
	struct session_fds fds;
	int pair[2];

	memset(k, 0, sizeof(*k));
	k->lease = NONE;
	id.pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 || id.pidfd < 0 ||
		session_create(&w->io, pair[0], &id, 0, 64, &k->s, &fds) < 0 ||
		segment_attach(fds.w, SHM_ROLE_WORKER, true, &k->w, &k->w_len) < 0 ||
		segment_attach(fds.b, SHM_ROLE_BROKER, false, &k->b, &k->b_len) < 0 ||
		session_ready(k->s, &fds) < 0) {
		bail_out("a worker cannot attach: %s", strerror(errno));
	}
	k->sock = pair[1];
	close(fds.w);
	close(fds.b);
	bind_worker(k);
}

void worker_detach(struct worker *k)
{
	close(k->sock);
	segment_unmap(k->w, k->w_len);
	segment_unmap(k->b, k->b_len);
}

/* -- requests ---------------------------------------------------------------------------------- */

static void publish_worker(struct worker *k)
{
	ring_publish(&k->sub);
	full_fence();
	if (get(&k->bc->need_wake) != 0) {
		session_bell(k->s); /* as if the eventfd had rung */
	}
}

static void push(struct worker *k, struct shm_request *d)
{
	if (ring_out_space(&k->sub) == 0) {
		bail_out("the submission ring is full");
	}
	ring_push(&k->sub, d);
}

static void give_back(struct worker *k, unsigned i)
{
	struct shm_request nop = {.id = 1, .op = REQ_NOP, .free_chunk = k->held[i]};

	k->held[i] = k->held[--k->nheld];
	push(k, &nop);
	publish_worker(k);
}

static const char *const text_of[] = {
	[K_EXEC] = "UPDATE t SET a = 1",
	[K_LOOK] = "SELECT 2",
	[K_READ] = "SELECT 1",
	[K_WRITE] = "INSERT INTO t VALUES (1)",
};

/* Head and text, where the arena has room for it; earlier bodies were copied long ago. */
static void put_body(struct worker *k, struct shm_request *d, uint8_t kind)
{
	const char *sql = is_statement(kind) ? text_of[kind] : "";
	struct shm_body body = {.sql_len = (uint32_t)strlen(sql)};

	if (k->next_off % k->arena_len + 128 > k->arena_len) {
		k->next_off += k->arena_len - k->next_off % k->arena_len;
	}
	d->off = k->next_off;
	d->len = (uint32_t)(sizeof(body) + pad8(body.sql_len));
	memcpy((char *)k->arena + d->off % k->arena_len, &body, sizeof(body));
	memcpy((char *)k->arena + d->off % k->arena_len + sizeof(body), sql, body.sql_len);
	k->next_off += d->len;
}

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
		put_body(k, &d, kind);
	}
	push(k, &d);
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
	push(&w->worker[worker], &d);
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
		uint64_t pending = ring_in_pending(&k->comp);

		if (pending > k->comp.count) {
			wrong(w, "the completion ring is corrupt");
			return 0;
		}
		for (; pending > 0; pending--, n++) {
			struct shm_completion c;

			ring_take(&k->comp, &c);
			ring_retire(&k->comp);
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
		must(w, session_of_link(p) != k->s, "the end of worker %u goes unnoticed", worker);
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
	publish_worker(k);
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
