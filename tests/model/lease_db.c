/* SPDX-License-Identifier: MIT */
/* lease_db.c - the database of lease_world.h: does nothing until an event tells it to. */
#include "lease_inside.h"

#define BIG_RESULT 200000u

static struct world *the_world; /* of the driver's callbacks */
static struct driver db_driver;

/* -- asked by the core ------------------------------------------------------------------------- */

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

static void check_start_alone(struct world *w, struct db *d, uint16_t rec)
{
	struct rec *r = &w->rec[rec];

	must(w, !lease_is_active(w, d->owner), "record %u runs on a connection that is leased",
		rec);
	must(w, d->tx == TX_NONE, "record %u runs in somebody's transaction", rec);
	must(w, !d->dirty || d->reset, "record %u runs in a session that was not cleaned", rec);
	must(w, r->sends == 0 || reads(r->kind), "write %u is sent twice", rec);
	for (unsigned i = 0; i < d->n; i++) {
		must(w, w->rec[d->queue[i].rec].lease == NONE || w->rec[d->queue[i].rec].gone,
			"record %u joins a lease's statements", rec);
	}
	oracle_serve(w, rec);
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
		must(w, !d->dirty || d->reset, "lease %u gets a session that was not cleaned",
			r->lease);
	}
	if (in_tx(w, r)) {
		must(w, first == (begin != 0),
			"BEGIN goes with the first statement, and only with it");
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
	must(w, d->state == DB_OPEN && (!d->reset || db_driver.reset_rides),
		"record %u starts on a connection that is not open", rec);
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

	must(the_world, d->state == DB_OPEN && d->n == 0 && !d->cancel,
		"reset of a busy connection");
	must(the_world, d->tx == TX_NONE || (what & CONN_RESET_ROLLBACK),
		"reset forgets to roll back");
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

	must(the_world, d->state == DB_OPEN || d->state == DB_CONNECTING,
		"close of a closed connection");
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

void db_serve(struct world *w)
{
	the_world = w;
	db_driver.share = w->plan.split ? DRIVER_SHARE_WRITES : DRIVER_SHARE_READS;
	db_driver.reset_rides = !w->plan.split;
}

/* -- told by events ---------------------------------------------------------------------------- */

struct request *db_head(struct db *d)
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
	request_failed(db_head(d), &f);
}

/* Part of the result; true: all of it is out. */
static bool put_result(struct db *d)
{
	static const char bytes[8192];
	struct started *s = &d->queue[0];

	while (s->left > 0) {
		size_t n = s->left < sizeof(bytes) ? s->left : sizeof(bytes);
		size_t taken = request_write(db_head(d), bytes, n);

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
		request_done(db_head(d), 0);
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
	request_done(db_head(d), 1);
}

/* begun: the transaction was begun, or there is none. */
static void db_error(
	struct world *w, struct db *d, enum fail_code code, const char *state, bool begun)
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
		      (r->deadline_ns != 0 && r->deadline_ns <= world_now());
	bool orphan = db_head(d)->session == NULL; /* its worker is answered, or from elsewhere */

	must(w, wanted || orphan, "a cancel hits record %u, which is a stranger", d->queue[0].rec);
}

/* What was started behind a reset that has failed did not run, and may be started again; but who
 * was told before that his outcome is unknown was told so rightly. */
static void forget_queue(struct world *w, struct db *d)
{
	const struct request *r;

	cds_list_for_each_entry(r, &d->c->inflight, link)
	{
		if (r->session != NULL) {
			w->rec[rec_of(w, r->id)].sends--;
		}
	}
	d->n = 0;
	d->owner = NONE;
}

static void db_lose(struct world *w, struct db *d)
{
	static const struct failure f = {.code = FAIL_UNAVAILABLE, .message = "connection lost"};

	lose_queue(w, d);
	d->state = DB_CLOSED;
	conn_closed(d->c, &f);
}

static bool precise_hit(const struct world *w, struct db *d)
{
	return !w->plan.split || atomic_load(&db_head(d)->cancel) != 0;
}

void db_offer(struct world *w, unsigned i, struct menu *m)
{
	struct db *d = &w->db[i];
	const struct started *s = d->n > 0 ? &d->queue[0] : NULL;
	uint8_t kind = s != NULL ? w->rec[s->rec].kind : 0;
	bool runs = d->state == DB_OPEN && s != NULL && !d->reset;
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

void db_do(struct world *w, unsigned what, unsigned i)
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
		d->dirty = d->reset = false;
		if (d->n == 0) { /* else it has a new owner, and had no transaction */
			set_tx(d, TX_NONE);
		}
		conn_reset_done(d->c, true);
		break;
	case D_NOT_CLEAN:
		d->reset = false;
		forget_queue(w, d);
		conn_reset_done(d->c, false);
		break;
	case D_CLOSED:
		d->state = DB_CLOSED;
		conn_closed(d->c, NULL);
		break;
	}
}

/* One step of the database towards rest; false: nothing to do. */
bool db_work(struct world *w, struct db *d)
{
	unsigned i = (unsigned)(d - w->db);

	if (d->state == DB_CONNECTING) {
		db_do(w, D_READY, i);
	} else if (d->state == DB_CLOSING) {
		db_do(w, D_CLOSED, i);
	} else if (d->reset) {
		db_do(w, D_CLEAN, i);
	} else if (d->n > 0 && !d->stalled) {
		bool stuck = d->tx == TX_FAILED && is_statement(w->rec[d->queue[0].rec].kind);

		db_do(w, stuck ? D_ERROR : D_OK, i);
	} else if (d->cancel) {
		db_do(w, D_SETTLED, i);
	} else {
		return false;
	}
	return true;
}
