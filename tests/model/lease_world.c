/* SPDX-License-Identifier: MIT */
/* lease_world.c - see lease_world.h. */
#include "lease_world.h"

#include "conn.h"
#include "doorbell.h"
#include "io.h"
#include "lease.h"
#include "log.h"
#include "pool.h"
#include "request_core.h"
#include "session.h"
#include "tap.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MS 1000000ull
#define RECS 4096u
#define NONE UINT16_MAX
#define QUEUE 80u
#define HELD 64u
#define DEADLINE_MS 1000u /* of what has one; each record's is a little later than the one before */
#define ACQUIRE_MS 3000u
#define BIG_RESULT 200000u
#define DRAIN_ROUNDS 4000u

enum kind {
	K_LEASE_TX,
	K_LEASE,
	K_EXEC, /* a write in a lease */
	K_LOOK, /* a read in a lease */
	K_READ,
	K_WRITE,
	K_COMMIT,
	K_ROLLBACK,
	K_RELEASE,
};

enum effect { E_NOT, E_MAYBE, E_DONE };

/* One request, as its worker and as the database know it. */
struct rec {
	uint8_t worker;
	uint8_t kind;
	uint16_t lease; /* its record, or NONE */
	bool answered, gone; /* gone: its worker died */
	bool cancel_asked;
	bool ended; /* LEASE: COMMIT, ROLLBACK or RELEASE was sent */
	bool end_answered; /* LEASE */
	bool executed; /* in a transaction: it will be part of it */
	unsigned sends;
	enum effect effect;
	bool ok; /* answered: COMP_DONE */
	bool unknown; /* answered: it may have taken effect */
	uint64_t deadline_ns;
	unsigned turn; /* in which it was sent */
	bool waits; /* the broker has it; not started, granted or answered */
};

struct started {
	uint16_t rec;
	bool begins;
	uint32_t left; /* bytes of its result */
};

enum db_state { DB_CLOSED, DB_CONNECTING, DB_OPEN, DB_CLOSING };
enum db_tx { TX_NONE, TX_OPEN, TX_FAILED };

/* One connection, as the database knows it. */
struct db {
	struct conn *c;
	enum db_state state;
	enum db_tx tx;
	uint16_t owner; /* lease whose statements run or ran here last, or NONE */
	bool dirty;
	bool cancel, reset; /* asked for, not done */
	bool stalled; /* the head's worker does not read */
	struct started queue[QUEUE];
	unsigned n;
};

struct worker {
	struct session *s;
	int sock;
	void *w, *b, *arena;
	uint64_t w_len, b_len, arena_len;
	const struct chan_broker *bc;
	struct ring_out sub;
	struct ring_in comp;
	uint64_t next_off;
	uint16_t lease; /* open one, or NONE */
	uint32_t held[HELD]; /* chunks not given back */
	unsigned nheld;
	bool used;
};

/* Somebody who asked earlier was waiting when `by` was served. */
struct overlooked {
	uint16_t rec, by;
};

struct world {
	struct world_plan plan;
	struct config config;
	struct config_server server;
	struct config_pool pool_config;
	char *servers[1];
	struct board *board;
	struct io io;
	struct pool *pool;
	bool slots[8];
	struct db db[WORLD_CONNS];
	struct worker worker[WORLD_WORKERS];
	struct rec rec[RECS];
	unsigned nrecs;
	uint32_t round; /* of world_reset, part of request ids */
	unsigned turns;
	struct overlooked overlooked[QUEUE];
	unsigned noverlooked;
	char failure[256];
};

static struct world *the_world; /* of the driver's callbacks */
static uint64_t now_ns = 1000000 * MS;

/* The clock of the broker (linked with --wrap=doorbell_now). */
uint64_t __wrap_doorbell_now(void);
uint64_t __wrap_doorbell_now(void)
{
	return now_ns;
}

__attribute__((format(printf, 2, 3))) static void wrong(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (w->failure[0] != '\0') {
		return;
	}
	va_start(ap, fmt);
	vsnprintf(w->failure, sizeof(w->failure), fmt, ap);
	va_end(ap);
}

#define must(w, cond, ...)                                                                         \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			wrong((w), __VA_ARGS__);                                                   \
		}                                                                                  \
	} while (0)

/* -- records ----------------------------------------------------------------------------------- */

static bool is_lease(uint8_t kind)
{
	return kind == K_LEASE_TX || kind == K_LEASE;
}

static bool is_end(uint8_t kind)
{
	return kind == K_COMMIT || kind == K_ROLLBACK || kind == K_RELEASE;
}

static bool is_statement(uint8_t kind)
{
	return !is_lease(kind) && !is_end(kind);
}

static bool reads(uint8_t kind)
{
	return kind == K_READ || kind == K_LOOK;
}

static bool in_tx(const struct world *w, const struct rec *r)
{
	return r->lease != NONE && w->rec[r->lease].kind == K_LEASE_TX;
}

static uint64_t id_of(const struct world *w, unsigned rec)
{
	return (uint64_t)w->round << 16 | (rec + 1);
}

/* Record of a request of this round, or NONE. */
static uint16_t rec_of(const struct world *w, uint64_t id)
{
	uint64_t i = id & 0xffff;

	return id >> 16 == w->round && i >= 1 && i <= w->nrecs ? (uint16_t)(i - 1) : NONE;
}

/* The lease as the broker has it, or NULL. */
static struct lease *real_lease(struct world *w, uint16_t lease)
{
	const struct rec *r = &w->rec[lease];

	return r->gone ? NULL : session_find_lease(w->worker[r->worker].s, id_of(w, lease));
}

static bool lease_is(struct world *w, uint16_t lease, enum lease_state state)
{
	const struct lease *l = lease != NONE ? real_lease(w, lease) : NULL;

	return l != NULL && l->state == state;
}

static bool lease_is_active(struct world *w, uint16_t lease)
{
	return lease_is(w, lease, LEASE_ACTIVE);
}

/* -- the database ------------------------------------------------------------------------------ */

static int db_server_open(struct io *io, const struct config_server *server,
	const struct config_pool *pool, void **priv, char *err, size_t errlen)
{
	(void)io;
	(void)server;
	(void)pool;
	(void)err;
	(void)errlen;
	*priv = the_world;
	return 0;
}

static void db_server_close(void *priv)
{
	(void)priv;
}

static unsigned db_size(void *priv, const struct config_pool *pool)
{
	(void)priv;
	(void)pool;
	return WORLD_CONNS;
}

static unsigned db_roles(void *priv, unsigned slot)
{
	const struct world *w = priv;

	if (!w->plan.split) {
		return CONN_READS | CONN_WRITES;
	}
	return slot == 0 ? CONN_READS | CONN_WRITES : CONN_READS;
}

static struct db *db_of(struct conn *c)
{
	return &the_world->db[c->slot];
}

static void db_connect(struct conn *c)
{
	struct db *d = db_of(c);

	must(the_world, d->state == DB_CLOSED, "connect: the connection is not closed");
	*d = (struct db){.c = c, .state = DB_CONNECTING, .owner = NONE};
}

/* Whoever asked in an earlier turn and could be served by the same connections must not be waiting any more. */
static void check_turn_of(struct world *w, uint16_t rec)
{
	const struct rec *r = &w->rec[rec];

	if (w->plan.results) { /* there a request may wait for the arena before it waits for the pool */
		return;
	}
	for (unsigned i = 0; i < rec; i++) {
		const struct rec *o = &w->rec[i];

		if (!o->waits || o->turn == r->turn || (o->lease != NONE && !is_lease(o->kind)) ||
			(w->plan.split && reads(o->kind) != reads(r->kind)) ||
			(is_lease(o->kind) && !lease_is(w, (uint16_t)i, LEASE_WAITING))) {
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
		bool still = is_lease(r->kind) ? real_lease(w, rec) != NULL &&
							 !lease_is(w, rec, LEASE_BROKEN)
					       : !r->answered && !r->gone;

		must(w, !still, "record %u is served before record %u, which asked earlier",
			w->overlooked[i].by, rec);
	}
	w->noverlooked = 0;
}

static void check_start_alone(struct world *w, struct db *d, uint16_t rec)
{
	struct rec *r = &w->rec[rec];

	must(w, !lease_is_active(w, d->owner), "record %u runs on a connection that is leased", rec);
	must(w, d->tx == TX_NONE, "record %u runs in somebody's transaction", rec);
	must(w, !d->dirty, "record %u runs in a session that was not cleaned", rec);
	must(w, r->sends == 0 || reads(r->kind), "write %u is sent twice", rec);
	for (unsigned i = 0; i < d->n; i++) {
		must(w, w->rec[d->queue[i].rec].lease == NONE || w->rec[d->queue[i].rec].gone,
			"record %u joins a lease's statements", rec);
	}
	check_turn_of(w, rec);
	d->owner = NONE;
}

static void check_start_leased(struct world *w, struct db *d, uint16_t rec, unsigned begin)
{
	struct rec *r = &w->rec[rec];
	bool first = d->owner != r->lease;

	must(w, r->sends == 0, "record %u of a lease is sent twice", rec);
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		must(w, &w->db[i] == d || w->db[i].owner != r->lease || w->db[i].state != DB_OPEN,
			"lease %u has two connections", r->lease);
	}
	if (first) {
		must(w, !lease_is_active(w, d->owner), "two leases on connection %u", d->c->slot);
		must(w, d->n == 0, "lease %u gets a connection in use", r->lease);
		must(w, d->tx == TX_NONE, "lease %u gets an open transaction", r->lease);
		must(w, !d->dirty, "lease %u gets a session that was not cleaned", r->lease);
	}
	if (in_tx(w, r)) {
		must(w, first == (begin != 0), "BEGIN goes with the first statement, and only with it");
		must(w, first || d->tx != TX_NONE, "record %u runs outside its transaction", rec);
	} else {
		must(w, begin == 0, "BEGIN without a transaction");
	}
	for (unsigned i = rec + 1; i < w->nrecs; i++) {
		must(w, w->rec[i].lease != r->lease || w->rec[i].sends == 0,
			"record %u runs after record %u of the same lease", rec, i);
	}
	d->owner = r->lease;
}

static void db_start(struct conn *c, struct request *q, unsigned begin)
{
	struct world *w = the_world;
	struct db *d = db_of(c);
	uint16_t rec = rec_of(w, q->id);

	if (rec == NONE || d->n == QUEUE) {
		wrong(w, "an unknown request is started");
		return;
	}
	must(w, d->state == DB_OPEN && !d->reset, "record %u starts on a connection that is not open",
		rec);
	must(w, !d->cancel, "record %u starts while a cancel is on its way", rec);
	must(w, !w->rec[rec].answered && !w->rec[rec].gone, "record %u starts after its end", rec);
	if (w->rec[rec].lease == NONE) {
		check_start_alone(w, d, rec);
	} else {
		check_start_leased(w, d, rec, begin);
	}
	must(w, w->rec[rec].kind != K_RELEASE, "RELEASE is nothing for the database");
	w->rec[rec].sends++;
	w->rec[rec].waits = false;
	d->queue[d->n++] = (struct started){.rec = rec,
		.begins = begin != 0,
		.left = w->plan.results && reads(w->rec[rec].kind) ? BIG_RESULT : 0};
}

static void db_flush(struct conn *c)
{
	(void)c;
}

static void db_resume(struct conn *c)
{
	db_of(c)->stalled = false;
}

static bool db_copy_data(struct conn *c, const void *data, size_t len)
{
	(void)c;
	(void)data;
	(void)len;
	return true;
}

static void db_copy_end(struct conn *c, const char *error)
{
	(void)c;
	(void)error;
}

static void db_cancel(struct conn *c)
{
	struct db *d = db_of(c);

	must(the_world, d->state == DB_OPEN && d->n > 0, "a cancel, but nothing runs");
	d->cancel = true;
}

static void db_reset(struct conn *c, unsigned what)
{
	struct db *d = db_of(c);

	must(the_world, d->state == DB_OPEN && d->n == 0 && !d->cancel, "reset of a busy connection");
	must(the_world, d->tx == TX_NONE || (what & CONN_RESET_ROLLBACK), "reset forgets to roll back");
	must(the_world, !d->dirty || (what & CONN_RESET_SESSION), "reset forgets the session");
	d->reset = true;
}

/* What was in flight when the connection went may have been done. */
static void lose_queue(struct world *w, struct db *d)
{
	for (unsigned i = 0; i < d->n; i++) {
		struct rec *r = &w->rec[d->queue[i].rec];

		if (r->kind == K_COMMIT && d->tx == TX_OPEN) {
			w->rec[r->lease].effect = E_MAYBE;
			r->effect = E_MAYBE;
		} else if (is_statement(r->kind) && !reads(r->kind) && !in_tx(w, r)) {
			r->effect = E_MAYBE;
		}
	}
	d->n = 0;
	d->tx = TX_NONE;
	d->owner = NONE;
	d->dirty = d->cancel = d->reset = d->stalled = false;
}

static void db_close(struct conn *c)
{
	struct db *d = db_of(c);

	must(the_world, d->state == DB_OPEN || d->state == DB_CONNECTING, "close of a closed connection");
	lose_queue(the_world, d);
	d->state = DB_CLOSING;
}

static struct driver db_driver = {
	.name = "scripted",
	.server_open = db_server_open,
	.server_close = db_server_close,
	.size = db_size,
	.roles = db_roles,
	.connect = db_connect,
	.start = db_start,
	.flush = db_flush,
	.resume = db_resume,
	.copy_data = db_copy_data,
	.copy_end = db_copy_end,
	.cancel = db_cancel,
	.reset = db_reset,
	.close = db_close,
};

/* Takes the place of driver.c: there is no other database here. */
const struct driver *driver_for_url(const char *url)
{
	(void)url;
	return &db_driver;
}

/* -- what the database does -------------------------------------------------------------------- */

static struct request *head(struct db *d)
{
	return cds_list_entry(d->c->inflight.next, struct request, link);
}

static struct started pop(struct db *d)
{
	struct started s = d->queue[0];

	d->n--;
	memmove(&d->queue[0], &d->queue[1], d->n * sizeof(d->queue[0]));
	return s;
}

static void set_tx(struct db *d, enum db_tx tx)
{
	static const enum conn_tx as[] = {
		[TX_NONE] = CONN_TX_IDLE, [TX_OPEN] = CONN_TX_OPEN, [TX_FAILED] = CONN_TX_FAILED};

	d->tx = tx;
	d->c->tx = as[tx];
	if (tx == TX_NONE && !d->dirty) {
		d->owner = NONE;
	}
}

static void effect_of_commit(struct world *w, uint16_t lease)
{
	w->rec[lease].effect = E_DONE;
	for (unsigned i = 0; i < w->nrecs; i++) {
		struct rec *r = &w->rec[i];

		if (r->lease == lease && r->executed) {
			must(w, !r->answered || r->ok || r->unknown,
				"record %u was reported as not done, and was committed", i);
			r->effect = E_DONE;
		}
	}
}

static void fail_head(struct db *d, enum fail_code code, const char *sqlstate)
{
	struct failure f = {.code = code, .message = "as the script says"};

	snprintf(f.sqlstate, sizeof(f.sqlstate), "%s", sqlstate);
	request_failed(head(d), &f);
}

/* Part of the result; true: all of it is out. */
static bool put_result(struct db *d)
{
	static const char bytes[8192];
	struct started *s = &d->queue[0];

	while (s->left > 0) {
		size_t n = s->left < sizeof(bytes) ? s->left : sizeof(bytes);
		size_t taken = request_write(head(d), bytes, n);

		s->left -= (uint32_t)taken;
		if (taken < n) {
			d->stalled = true;
			return false;
		}
	}
	return true;
}

static void finish_commit(struct world *w, struct db *d, const struct started *s)
{
	bool failed = d->tx == TX_FAILED;

	if (!failed) {
		effect_of_commit(w, w->rec[s->rec].lease);
		w->rec[s->rec].effect = E_DONE;
	}
	set_tx(d, TX_NONE);
	if (failed) {
		fail_head(d, FAIL_TX_ABORTED, "");
	} else {
		request_done(head(d), 0);
	}
}

static void db_ok(struct world *w, struct db *d)
{
	struct started s;
	struct rec *r;

	if (!put_result(d)) {
		return;
	}
	s = pop(d);
	r = &w->rec[s.rec];
	if (r->kind == K_COMMIT) {
		finish_commit(w, d, &s);
		return;
	}
	if (r->kind == K_ROLLBACK) {
		set_tx(d, TX_NONE);
	} else if (in_tx(w, r)) {
		set_tx(d, TX_OPEN);
		r->executed = true;
	} else if (!reads(r->kind)) {
		r->effect = E_DONE;
		if (r->lease != NONE) {
			d->dirty = d->c->dirty = true;
		}
	}
	request_done(head(d), 1);
}

/* begun: the transaction was begun, or there is none. */
static void db_error(struct world *w, struct db *d, enum fail_code code, const char *state, bool begun)
{
	struct started s = pop(d);
	const struct rec *r = &w->rec[s.rec];

	d->stalled = false;
	if (r->kind == K_COMMIT || !begun) {
		set_tx(d, TX_NONE);
	} else if (in_tx(w, r)) {
		set_tx(d, TX_FAILED);
	}
	fail_head(d, code, state);
}

/* Nobody but who asked for it, whose time is over, or whose worker is gone. */
static void check_hit(struct world *w, struct db *d)
{
	const struct rec *r = &w->rec[d->queue[0].rec];
	bool wanted = r->lease != NONE || r->cancel_asked ||
		      (r->deadline_ns != 0 && r->deadline_ns <= now_ns);
	bool orphan = head(d)->session == NULL; /* its worker is answered, or from elsewhere */

	must(w, wanted || orphan, "a cancel hits record %u, which is a stranger", d->queue[0].rec);
}

static void db_lose(struct world *w, struct db *d)
{
	static const struct failure f = {.code = FAIL_UNAVAILABLE, .message = "connection lost"};

	lose_queue(w, d);
	d->state = DB_CLOSED;
	conn_closed(d->c, &f);
}

/* -- workers ----------------------------------------------------------------------------------- */

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
	ring_in_init(&k->comp, &k->bc->comp_tail, &wc->comp_head, comp, CHAN_COMP_SLOTS);
}

static void attach(struct world *w, unsigned i)
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
	static const uint8_t ops[] = {[K_LEASE_TX] = REQ_LEASE, [K_LEASE] = REQ_LEASE,
		[K_EXEC] = REQ_EXEC, [K_LOOK] = REQ_EXEC, [K_READ] = REQ_EXEC, [K_WRITE] = REQ_EXEC,
		[K_COMMIT] = REQ_COMMIT, [K_ROLLBACK] = REQ_ROLLBACK, [K_RELEASE] = REQ_RELEASE};
	struct worker *k = &w->worker[worker];
	bool autocommit = kind == K_READ || kind == K_WRITE;
	uint16_t rec = (uint16_t)w->nrecs++;
	struct shm_request d = {.id = id_of(w, rec), .op = ops[kind], .free_chunk = CHAN_NO_CHUNK};

	now_ns += 1000; /* no two arrive at once, and the time between does not count */
	w->rec[rec] = (struct rec){.worker = (uint8_t)worker,
		.kind = kind,
		.lease = is_lease(kind) || autocommit ? NONE : k->lease,
		.turn = w->turns,
		.waits = true};
	if (kind != K_READ && kind != K_ROLLBACK && kind != K_RELEASE) {
		w->rec[rec].deadline_ns = now_ns + DEADLINE_MS * MS + rec % 64 * 50 * MS;
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
	struct shm_request d = {.id = 1, .op = REQ_CANCEL, .target = id_of(w, i),
		.free_chunk = CHAN_NO_CHUNK};

	w->rec[i].cancel_asked = true;
	push(&w->worker[worker], &d);
}

/* -- answers ----------------------------------------------------------------------------------- */

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
	must(w, !r->unknown || r->sends > 0, "record %u was never sent, but its outcome is unknown", rec);
}

/* COMMIT was answered: did the transaction, if anything ran in it, commit? */
static void check_commit(struct world *w, unsigned rec)
{
	const struct rec *r = &w->rec[rec];
	bool any = false;

	for (unsigned i = 0; i < w->nrecs; i++) {
		any |= w->rec[i].lease == r->lease && w->rec[i].executed;
	}
	if (r->ok) {
		must(w, !any || w->rec[r->lease].effect == E_DONE, "COMMIT %u is acknowledged, not done",
			rec);
	} else if (!r->unknown) {
		must(w, w->rec[r->lease].effect == E_NOT, "COMMIT %u is denied, but done", rec);
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
		check_commit(w, rec);
	}
}

static unsigned take_answers(struct world *w)
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

static void die(struct world *w, unsigned worker)
{
	struct worker *k = &w->worker[worker];

	close(k->sock);
	segment_unmap(k->w, k->w_len);
	segment_unmap(k->b, k->b_len);
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
	attach(w, worker);
	k->used = true;
}

/* -- the oracle's look around ------------------------------------------------------------------ */

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
		held += w->pool->conns[i].lease != NULL;
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

		for (struct cds_list_head *p = w->pool->in_state[i].next; p != &w->pool->in_state[i];
			p = p->next) {
			here++;
		}
		must(w, here == w->pool->state_count[i], "connections in state %u miscounted", i);
		n += here;
	}
	must(w, n == WORLD_CONNS, "a connection is in no state");
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		struct conn *c = &w->pool->conns[i];

		conn_check(c);
		must(w, c->ninflight == w->db[i].n, "connection %u: %u in flight, the database has %u", i,
			c->ninflight, w->db[i].n);
		must(w, c->lease == NULL || (c->lease->conn == c && c->lease->state == LEASE_ACTIVE),
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

	cds_list_for_each_entry(c, &w->pool->in_state[CONN_IDLE], link)
	{
		if ((c->roles & role) != 0) {
			return true;
		}
	}
	return false;
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
		must(w, list->next == list ||
				!has_idle(w, request_reads(cds_list_entry(list->next, struct request,
						     link))
						     ? CONN_READS
						     : CONN_WRITES),
			"somebody waits while a connection is idle");
	}
	must(w, n == w->pool->nwaiters, "waiters miscounted");
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
				check_turn_of(w, (uint16_t)i);
			}
		}
	}
}

static void check_readers(struct world *w)
{
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		struct db *d = &w->db[i];

		must(w, !d->stalled || d->n == 0 || head(d)->session != NULL,
			"connection %u waits for a reader that is gone", i);
	}
}

static void look(struct world *w)
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

static void turn(struct world *w)
{
	do {
		timer_wheel_run(&w->io.wheel, now_ns);
		if (uv_is_active((uv_handle_t *)&w->io.again)) {
			uv_run(&w->io.loop, UV_RUN_NOWAIT);
		}
		io_turn(&w->io);
	} while (take_answers(w) > 0 || uv_is_active((uv_handle_t *)&w->io.again));
	w->turns++;
	look(w);
}

/* -- events ------------------------------------------------------------------------------------ */

enum event {
	/* of a worker */
	W_LEASE_TX,
	W_BEGIN_EXEC, /* lease and first statement at once */
	W_LEASE,
	W_EXEC,
	W_LOOK,
	W_READ,
	W_WRITE,
	W_COMMIT,
	W_ROLLBACK,
	W_CANCEL_OLDEST,
	W_CANCEL_NEWEST,
	W_DIE,
	W_FREE, /* gives a chunk of a result back */
	W_COUNT,
	/* of a connection */
	D_OK = W_COUNT,
	D_ERROR,
	D_BEGIN_FAILS,
	D_LOST,
	D_READY,
	D_REFUSED,
	D_HIT,
	D_SETTLED,
	D_CLEAN,
	D_NOT_CLEAN,
	D_CLOSED,
	D_COUNT,
	/* of time */
	T_TIMER = D_COUNT,
	T_TICK,
	EVENT_COUNT
};

static const char *const event_names[EVENT_COUNT] = {
	[W_LEASE_TX] = "asks for a transaction",
	[W_BEGIN_EXEC] = "begins and writes",
	[W_LEASE] = "asks for a lease",
	[W_EXEC] = "writes in its lease",
	[W_LOOK] = "reads in its lease",
	[W_READ] = "reads",
	[W_WRITE] = "writes",
	[W_COMMIT] = "commits",
	[W_ROLLBACK] = "rolls back or releases",
	[W_CANCEL_OLDEST] = "cancels its oldest statement",
	[W_CANCEL_NEWEST] = "cancels its newest statement",
	[W_DIE] = "dies",
	[W_FREE] = "gives a chunk back",
	[D_OK] = "ends a statement well",
	[D_ERROR] = "fails a statement",
	[D_BEGIN_FAILS] = "cannot begin a transaction",
	[D_LOST] = "is lost",
	[D_READY] = "is connected",
	[D_REFUSED] = "is refused",
	[D_HIT] = "is hit by the cancel",
	[D_SETTLED] = "has the cancel settled",
	[D_CLEAN] = "is clean",
	[D_NOT_CLEAN] = "cannot be cleaned",
	[D_CLOSED] = "is closed",
	[T_TIMER] = "the next timer fires",
	[T_TICK] = "a tick passes",
};

/* An event is its number times 4 plus the worker or connection. */
static uint8_t event(unsigned what, unsigned who)
{
	return (uint8_t)(what * 4 + who);
}

const char *world_event_name(uint8_t e)
{
	static char text[96];
	unsigned what = e / 4;

	snprintf(text, sizeof(text), "%s %u %s",
		what < W_COUNT   ? "worker"
		: what < D_COUNT ? "connection"
				 : "time",
		e % 4, what < EVENT_COUNT ? event_names[what] : "?");
	return text;
}

bool world_event_is_work(uint8_t e)
{
	return e / 4 >= W_COUNT;
}

bool world_event_is_violent(uint8_t e)
{
	return e / 4 == W_DIE || e / 4 == D_LOST;
}

struct menu {
	uint32_t alphabet;
	uint8_t *events;
	unsigned n;
};

static const uint32_t alphabets[] = {
	[WORLD_EVERYTHING] = UINT32_MAX,
	[WORLD_TRANSACTIONS] = 1u << W_LEASE_TX | 1u << W_BEGIN_EXEC | 1u << W_EXEC | 1u << W_LOOK |
			       1u << W_COMMIT | 1u << W_ROLLBACK | 1u << D_OK | 1u << D_ERROR |
			       1u << D_SETTLED | 1u << D_CLEAN | 1u << T_TIMER,
	[WORLD_CANCELS] = 1u << W_READ | 1u << W_WRITE | 1u << W_CANCEL_OLDEST |
			  1u << W_CANCEL_NEWEST | 1u << W_DIE | 1u << D_OK | 1u << D_HIT |
			  1u << D_SETTLED | 1u << T_TIMER,
};

static void offer(struct menu *m, bool cond, unsigned what, unsigned who)
{
	if (cond && (m->alphabet & 1u << what) != 0 && m->n < WORLD_EVENTS_MAX) {
		m->events[m->n++] = event(what, who);
	}
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

static void offer_worker(struct world *w, unsigned i, struct menu *m)
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

static bool precise_hit(const struct world *w, struct db *d)
{
	return !w->plan.split || atomic_load(&head(d)->cancel) != 0;
}

static void offer_db(struct world *w, unsigned i, struct menu *m)
{
	struct db *d = &w->db[i];
	const struct started *s = d->n > 0 ? &d->queue[0] : NULL;
	uint8_t kind = s != NULL ? w->rec[s->rec].kind : 0;
	bool runs = d->state == DB_OPEN && s != NULL;
	bool stuck = runs && d->tx == TX_FAILED && is_statement(kind);

	offer(m, runs && !stuck && !d->stalled, D_OK, i);
	offer(m, runs && kind != K_ROLLBACK, D_ERROR, i);
	offer(m, runs && s->begins, D_BEGIN_FAILS, i);
	offer(m, d->state == DB_OPEN, D_LOST, i);
	offer(m, d->state == DB_CONNECTING, D_READY, i);
	offer(m, d->state == DB_CONNECTING, D_REFUSED, i);
	offer(m, runs && d->cancel && kind != K_ROLLBACK && precise_hit(w, d), D_HIT, i);
	offer(m, d->cancel, D_SETTLED, i);
	offer(m, d->reset, D_CLEAN, i);
	offer(m, d->reset, D_NOT_CLEAN, i);
	offer(m, d->state == DB_CLOSING, D_CLOSED, i);
}

unsigned world_events(struct world *w, uint8_t events[WORLD_EVENTS_MAX])
{
	struct menu m = {.alphabet = alphabets[w->plan.alphabet], .events = events};
	bool fresh = false;

	/* Workers are alike: the first that was not used yet stands for all of those. */
	for (unsigned i = 0; i < WORLD_WORKERS && !fresh; i++) {
		fresh = !w->worker[i].used;
		offer_worker(w, i, &m);
	}
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		offer_db(w, i, &m);
	}
	offer(&m, w->io.wheel.count > 0, T_TIMER, 0);
	offer(&m, true, T_TICK, 0);
	return m.n;
}

static void do_worker(struct world *w, unsigned what, unsigned i)
{
	struct worker *k = &w->worker[i];
	static const uint8_t kinds[] = {[W_LEASE_TX] = K_LEASE_TX, [W_LEASE] = K_LEASE,
		[W_EXEC] = K_EXEC, [W_LOOK] = K_LOOK, [W_READ] = K_READ, [W_WRITE] = K_WRITE,
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

static void do_db(struct world *w, unsigned what, unsigned i)
{
	static const struct failure refused = {.code = FAIL_UNAVAILABLE, .message = "refused"};
	struct db *d = &w->db[i];

	switch (what) {
	case D_OK:
		db_ok(w, d);
		break;
	case D_ERROR:
		db_error(w, d, FAIL_DATABASE, d->tx == TX_FAILED ? "25P02" : "22012", true);
		break;
	case D_BEGIN_FAILS:
		db_error(w, d, FAIL_DATABASE, "25001", false);
		break;
	case D_LOST:
		db_lose(w, d);
		break;
	case D_READY:
		d->state = DB_OPEN;
		conn_ready(d->c);
		break;
	case D_REFUSED:
		d->state = DB_CLOSED;
		conn_closed(d->c, &refused);
		break;
	case D_HIT:
		check_hit(w, d);
		db_error(w, d, FAIL_CANCELLED, "57014", true);
		break;
	case D_SETTLED:
		d->cancel = false;
		conn_cancel_settled(d->c);
		break;
	case D_CLEAN:
		d->dirty = false;
		set_tx(d, TX_NONE);
		d->reset = false;
		conn_reset_done(d->c, true);
		break;
	case D_NOT_CLEAN:
		d->reset = false;
		conn_reset_done(d->c, false);
		break;
	case D_CLOSED:
		d->state = DB_CLOSED;
		conn_closed(d->c, NULL);
		break;
	}
}

/* To the next timer; a wheel knows them to the tick. */
static void next_timer(struct world *w)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < TIMER_SLOTS; i++) {
		struct timer *t;

		cds_list_for_each_entry(t, &w->io.wheel.slot[i], link)
		{
			next = t->when_ns < next ? t->when_ns : next;
		}
	}
	if (next != UINT64_MAX && next + TIMER_TICK_MS * MS > now_ns) {
		now_ns = next + TIMER_TICK_MS * MS;
	}
}

static void tick(struct world *w)
{
	now_ns += IO_TICK_MS * MS;
	timer_wheel_run(&w->io.wheel, now_ns);
	pool_tick(w->pool);
	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		session_tick(w->worker[i].s);
	}
}

void world_do(struct world *w, uint8_t e, bool turn_after)
{
	unsigned what = e / 4, who = e % 4;

	if (what == W_DIE || what >= D_COUNT) { /* not in the middle of a turn */
		turn(w);
		turn_after = true;
	}
	w->io.now_fresh = false;
	if (what < W_COUNT) {
		do_worker(w, what, who);
	} else if (what < D_COUNT) {
		do_db(w, what, who);
	} else if (what == T_TIMER) {
		next_timer(w);
	} else {
		tick(w);
	}
	if (turn_after) {
		turn(w);
	}
}

const char *world_failure(const struct world *w)
{
	return w->failure[0] != '\0' ? w->failure : NULL;
}

void world_tell(const struct world *w)
{
	static const char *const kinds[] = {[K_LEASE_TX] = "begin", [K_LEASE] = "lease",
		[K_EXEC] = "exec", [K_LOOK] = "look", [K_READ] = "read", [K_WRITE] = "write",
		[K_COMMIT] = "commit", [K_ROLLBACK] = "rollback", [K_RELEASE] = "release"};

	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];
		char lease[24] = "";

		if (r->lease != NONE) {
			snprintf(lease, sizeof(lease), " of lease %u", r->lease);
		}
		diag("  record %u: worker %u, %s%s, sent %u times%s%s%s%s", i, r->worker, kinds[r->kind],
			lease, r->sends, r->waits ? ", waits" : "", r->cancel_asked ? ", cancelled" : "",
			r->gone ? ", worker gone" : "",
			!r->answered  ? ""
			: r->ok       ? ", done"
			: r->unknown  ? ", unknown"
				      : ", failed");
	}
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		const struct db *d = &w->db[i];

		diag("  connection %u: state %u, transaction %u%s%s%s", i, d->state, d->tx,
			d->cancel ? ", to be cancelled" : "", d->reset ? ", to be reset" : "",
			d->stalled ? ", stalled" : "");
		for (unsigned j = 0; j < d->n; j++) {
			diag("    record %u", d->queue[j].rec);
		}
	}
}

/* -- the end of everything --------------------------------------------------------------------- */

/* One step of the database towards rest; false: nothing to do. */
static bool db_work(struct world *w, struct db *d)
{
	unsigned i = (unsigned)(d - w->db);

	if (d->state == DB_CONNECTING) {
		do_db(w, D_READY, i);
	} else if (d->state == DB_CLOSING) {
		do_db(w, D_CLOSED, i);
	} else if (d->reset) {
		do_db(w, D_CLEAN, i);
	} else if (d->n > 0 && !d->stalled) {
		bool stuck = d->tx == TX_FAILED && is_statement(w->rec[d->queue[0].rec].kind);

		do_db(w, stuck ? D_ERROR : D_OK, i);
	} else if (d->cancel) {
		do_db(w, D_SETTLED, i);
	} else {
		return false;
	}
	return true;
}

static bool worker_work(struct world *w, unsigned i)
{
	struct worker *k = &w->worker[i];

	bool busy = k->nheld > 0;

	while (k->nheld > 0) {
		give_back(k, k->nheld - 1);
	}
	if (k->lease != NONE) {
		do_worker(w, W_ROLLBACK, i);
		busy = true;
	}
	return busy;
}

static bool all_idle(const struct world *w)
{
	return w->pool->state_count[CONN_IDLE] == WORLD_CONNS;
}

static void check_rest(struct world *w)
{
	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];

		must(w, r->gone || r->answered || is_lease(r->kind), "record %u is never answered", i);
		must(w, r->gone || !is_lease(r->kind) || real_lease(w, (uint16_t)i) == NULL,
			"lease %u stays for ever", i);
	}
	must(w, all_idle(w), "in the end not every connection is idle");
	must(w, w->pool->nwaiters == 0, "in the end somebody waits");
	must(w, board_pool_value(w->board, 0, POOL_METRIC_LEASES_ACTIVE) == 0, "a lease stays active");
	must(w, board_pool_value(w->board, 0, POOL_METRIC_STATEMENTS_IN_FLIGHT) == 0,
		"a statement stays in flight");
}

/* The order of the idle list is the one thing that would remember the past. */
static void sort_idle(struct world *w)
{
	for (unsigned i = WORLD_CONNS; i-- > 0;) {
		cds_list_del(&w->pool->conns[i].link);
		cds_list_add(&w->pool->conns[i].link, &w->pool->in_state[CONN_IDLE]);
	}
}

void world_reset(struct world *w)
{
	turn(w);
	for (unsigned n = 0; n < DRAIN_ROUNDS && w->failure[0] == '\0'; n++) {
		bool busy = false;

		w->io.now_fresh = false;
		for (unsigned i = 0; i < WORLD_WORKERS; i++) {
			busy |= worker_work(w, i);
		}
		for (unsigned i = 0; i < WORLD_CONNS; i++) {
			busy |= db_work(w, &w->db[i]);
		}
		turn(w);
		if (!busy && all_idle(w)) {
			break;
		}
		if (!busy) { /* connections that wait for their back-off, cancels that are repeated */
			tick(w);
			turn(w);
		}
	}
	check_rest(w);
	if (w->failure[0] == '\0') {
		sort_idle(w);
		for (unsigned i = 0; i < WORLD_WORKERS; i++) {
			w->worker[i].used = false;
		}
		for (unsigned i = 0; i < WORLD_CONNS; i++) {
			w->db[i].owner = NONE;
		}
		now_ns += 10000 * MS; /* ages of the past do not matter any more */
		tick(w);
		turn(w);
		w->nrecs = 0;
		w->round++;
	}
}

/* -- the state as a number --------------------------------------------------------------------- */

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
				(r->deadline_ns != 0 && r->deadline_ns <= now_ns) << 8);
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
	uint64_t ms = since != 0 && since < now_ns ? (now_ns - since) / MS : 0;

	return ms > most ? most : ms;
}

static void add_conn(struct world *w, struct digest *g, const uint16_t *names, unsigned i)
{
	struct conn *c = &w->pool->conns[i];
	const struct db *d = &w->db[i];

	add(g, c->state | c->tx << 4 | c->dirty << 8 | c->cancelling << 9 | c->retire << 10 |
			c->shareable << 11 | timer_is_set(&c->slow) << 12 | (c->lease != NULL) << 13);
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
	cds_list_for_each_entry(c, &w->pool->in_state[CONN_IDLE], link)
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
	add(&g, w->pool->backoff_ns);
	add(&g, w->pool->next_connect_ns > now_ns);
	add(&g, w->pool->nwaiters > 0 && timer_is_set(&w->pool->expiry));
	free(names);
	return g.h;
}

/* -- life -------------------------------------------------------------------------------------- */

static void make_config(struct world *w)
{
	w->servers[0] = (char *)"s";
	w->server = (struct config_server){.name = w->servers[0], .url = (char *)"script:"};
	w->pool_config = (struct config_pool){.name = (char *)"main",
		.servers = w->servers,
		.nservers = 1,
		.database = (char *)"",
		.user = (char *)"",
		.max_size = WORLD_CONNS,
		.min_idle = WORLD_CONNS,
		.acquire_timeout = ACQUIRE_MS,
		.max_pipeline = 4,
		.slow_threshold = -1};
	w->config = (struct config){.servers = &w->server,
		.nservers = 1,
		.pools = &w->pool_config,
		.npools = 1,
		.broker = {.max_workers = 8, .max_request = 65536, .result_kib = 64}};
}

static void make_io(struct world *w)
{
	static const struct board_place nowhere = {.gid = (gid_t)-1};
	struct board_geometry g = {
		.npools = 1, .nservers = 1, .nconns = WORLD_CONNS, .nworkers = 8, .nslow = 16};
	struct segment_identity id;
	char err[256];

	segment_identity_self(&id);
	if (board_create(&id, &g, &nowhere, &nowhere, &w->board) < 0 ||
		io_init(&w->io, &w->config, w->board) < 0) {
		bail_out("no board or no loop");
	}
	uv_timer_stop(&w->io.tick); /* ticks are events here */
	w->io.identity = id;
	w->io.nslots = 8;
	w->io.slot_taken = w->slots;
	w->io.pools = &w->pool;
	w->io.npools = 1;
	if (pool_create(&w->io, 0, 0, &w->pool_config, &w->server, 0, &w->pool, err, sizeof(err)) < 0) {
		bail_out("no pool: %s", err);
	}
}

struct world *world_create(const struct world_plan *plan)
{
	struct world *w = calloc(1, sizeof(*w));

	if (w == NULL || !log_setup("error", "text")) {
		bail_out("out of memory");
	}
	srandom(1); /* the jitter of the back-off */
	the_world = w;
	w->plan = *plan;
	w->round = 1;
	db_driver.share = plan->split ? DRIVER_SHARE_WRITES : DRIVER_SHARE_READS;
	make_config(w);
	make_io(w);
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		w->db[i] = (struct db){.c = &w->pool->conns[i], .owner = NONE};
	}
	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		attach(w, i);
	}
	pool_grow(w->pool);
	world_reset(w);
	return w;
}

static void on_walk(uv_handle_t *h, void *arg)
{
	(void)h;
	++*(unsigned *)arg;
}

bool world_destroy(struct world **wp)
{
	struct world *w = *wp;
	unsigned left = 0;
	bool clean;

	w->io.stopping = true;
	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		struct worker *k = &w->worker[i];

		close(k->sock);
		segment_unmap(k->w, k->w_len);
		segment_unmap(k->b, k->b_len);
	}
	for (unsigned i = 0; i < 4; i++) {
		uv_run(&w->io.loop, UV_RUN_NOWAIT);
	}
	clean = w->io.nsessions == 0;
	pool_close(w->pool);
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		if (w->db[i].state == DB_CLOSING) {
			do_db(w, D_CLOSED, i);
		}
	}
	pool_destroy(&w->pool);
	io_stop(&w->io);
	uv_run(&w->io.loop, UV_RUN_DEFAULT);
	uv_walk(&w->io.loop, on_walk, &left);
	io_finish(&w->io);
	board_destroy(&w->board);
	free(w);
	*wp = NULL;
	return clean && left == 0;
}
