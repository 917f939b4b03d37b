/* SPDX-License-Identifier: MIT */
/*
 * conn.c - see conn.h.
 *
 * Cancels.  A cancel request of PostgreSQL hits whatever the backend runs when it arrives.  So it
 * is sent only for the head of the connection, after everything behind it that belongs to others
 * was taken away (conn_evacuate), and nothing new is sent until the driver says that it is settled.
 * No cancel can hit a stranger, but for this: a reset that hangs is cancelled, and should it end
 * just then, the statement behind it is hit.  A read is repeated.  A write had begun, so whether it
 * is repeated is its worker's to say: he is told that it was not done, and that it may be.
 *
 * Resets.  A session that was touched is cleaned as soon as its user has left it: a lock must not
 * be held by nobody.  Who waits gets the connection without waiting for the answer, and what he
 * sends leaves in the same flush (driver->reset_rides).  If the reset fails he goes elsewhere,
 * nothing of his has run.
 */
#include "conn.h"

#include "doorbell.h"
#include "io.h"
#include "lease.h"
#include "log.h"
#include "pool.h"
#include "request_core.h"
#include "session.h"

#include <string.h>

/* A shared read whose predecessor runs longer than this is moved to another connection. */
#define SLOW_HEAD_NS (10u * 1000000u)
/* A cancel that found nothing to cancel is repeated after this. */
#define CANCEL_AGAIN_NS (50u * 1000000u)
/* A reset that was sent is not followed any more when it takes longer than this: another connection
 * may be free sooner. */
#define SLOW_RESET_NS (5u * 1000000u)

/* Nothing that was started behind the reset has run. */
static const struct failure unclean = {.code = FAIL_UNAVAILABLE,
	.retry_safe = true,
	.not_run = true,
	.message = "the connection could not be cleaned of what its last user left"};

static void on_slow_head(struct timer *t);

static struct request *head_of(struct conn *c)
{
	return cds_list_empty(&c->inflight)
		       ? NULL
		       : cds_list_first_entry(&c->inflight, struct request, link);
}

void conn_init(struct conn *c, struct member *m, unsigned slot)
{
	memset(c, 0, sizeof(*c));
	c->member = m;
	c->pool = m->pool;
	c->io = m->pool->io;
	c->driver = m->driver;
	c->server_priv = m->server_priv;
	c->slot = slot;
	c->row = io_take_conn_row(c->io);
	c->roles = m->driver->roles(m->server_priv, slot);
	c->state = CONN_CLOSED;
	c->slow.fire = on_slow_head;
	CDS_INIT_LIST_HEAD(&c->inflight);
	cds_list_add_tail(&c->link, &m->in_state[CONN_CLOSED]);
	m->state_count[CONN_CLOSED]++;
}

void conn_finish(struct conn *c)
{
	check(c->state == CONN_CLOSED);
	io_timer_clear(c->io, &c->slow);
	io_drop_conn_row(c->io, c->row);
}

void conn_check(struct conn *c)
{
	check_slow((c->ninflight == 0) == cds_list_empty(&c->inflight));
	switch (c->state) {
	case CONN_CLOSED:
	case CONN_CONNECTING:
	case CONN_CLOSING:
		check_slow(c->ninflight == 0 && c->lease == NULL);
		break;
	case CONN_IDLE:
		check_slow(c->ninflight == 0 && c->lease == NULL && !c->cancelling && !c->dirty);
		check_slow(c->tx == CONN_TX_IDLE && !c->resetting);
		break;
	case CONN_BUSY:
		check_slow(c->lease == NULL);
		break;
	case CONN_LEASED:
		break;
	case CONN_RESETTING:
		check_slow(c->ninflight == 0 && c->lease == NULL && c->resetting);
		break;
	case CONN_STATE_COUNT:
		check_slow(!"state");
	}
}

/* Newest first.  Idle ones are used LIFO: one that was only tested goes back to its place, or those
 * that nobody needs would be used in turn and never be closed. */
static struct cds_list_head *place_in(struct member *m, const struct conn *c)
{
	struct cds_list_head *at = &m->in_state[c->state];

	while (c->state == CONN_IDLE && at->next != &m->in_state[CONN_IDLE] &&
		cds_list_entry(at->next, struct conn, link)->idle_since_ns > c->idle_since_ns) {
		at = at->next;
	}
	return at;
}

/* What leaves CLOSED was counted when it was reserved, or lent. */
static void count_phase(struct conn *c, enum conn_state was, enum conn_state is)
{
	static const enum conn_phase phases[CONN_STATE_COUNT] = {
		[CONN_CLOSED] = PHASE_CLOSED,
		[CONN_CONNECTING] = PHASE_OPENING,
		[CONN_IDLE] = PHASE_READY,
		[CONN_BUSY] = PHASE_READY,
		[CONN_LEASED] = PHASE_READY,
		[CONN_RESETTING] = PHASE_READY,
		[CONN_CLOSING] = PHASE_CLOSING,
	};
	enum conn_phase from = phases[was], to = phases[is];

	if (from != to && from != PHASE_CLOSED) {
		tally_move(c->member->tally, from, to);
		tally_move(c->member->server->tally, from, to);
	}
}

void conn_set_state(struct conn *c, enum conn_state state)
{
	struct member *m = c->member;

	io_assert_thread(c->io);
	count_phase(c, c->state, state);
	m->state_count[c->state]--;
	cds_list_del(&c->link);
	c->state = state;
	c->since_ns = io_now(c->io);
	m->state_count[state]++;
	cds_list_add(&c->link, place_in(m, c));
	conn_check(c);
}

/* -- life -------------------------------------------------------------------------------------- */

static void begin_generation(struct conn *c)
{
	check(c->state == CONN_CLOSED);
	c->generation++;
	c->tx = CONN_TX_IDLE;
	c->dirty = c->retire = c->cancelling = c->shareable = c->resume_wanted = false;
	c->testing = c->resetting = false;
	c->tested_ns = 0;
	c->backend_pid = 0;
	c->statements = c->turn_sends = 0;
	c->cancel_first_ns = 0;
}

void conn_open(struct conn *c)
{
	begin_generation(c);
	conn_set_state(c, CONN_CONNECTING);
	c->driver->connect(c);
}

bool conn_detach(struct conn *c, struct conn_parcel *out)
{
	check(c->state == CONN_IDLE);
	*out = (struct conn_parcel){
		.driver_parcel = c->driver->detach(c),
		.connected_ns = c->connected_ns,
		.idle_since_ns = c->idle_since_ns,
		.tested_ns = c->tested_ns,
		.statements = c->statements,
		.backend_pid = c->backend_pid,
	};
	if (out->driver_parcel == NULL) {
		return false;
	}
	if (c->flush_wanted) {
		cds_list_del(&c->flush_link);
		c->flush_wanted = false;
	}
	c->priv = NULL;
	c->connected_ns = 0;
	c->backend_pid = 0;
	/* It goes on counting, as that of whoever gets it. */
	tally_move(c->member->tally, PHASE_CLOSED, PHASE_READY);
	tally_move(c->member->server->tally, PHASE_CLOSED, PHASE_READY);
	conn_set_state(c, CONN_CLOSED);
	return true;
}

void conn_adopt(struct conn *c, const struct conn_parcel *p)
{
	begin_generation(c);
	c->connected_ns = p->connected_ns;
	c->idle_since_ns = p->idle_since_ns;
	c->freed_ns = p->idle_since_ns;
	c->tested_ns = p->tested_ns;
	c->statements = p->statements;
	c->backend_pid = p->backend_pid;
	conn_set_state(c, CONN_IDLE);
	c->driver->adopt(c, p->driver_parcel);
}

/* Whoever waits may have it from now on.  The loop's own clock stands still within a turn. */
static void note_free(struct conn *c)
{
	c->freed_ns = c->pool->nwaiters > 0 ? doorbell_now() : io_now(c->io);
}

void conn_ready(struct conn *c)
{
	struct pool *p = c->pool;

	check(c->state == CONN_CONNECTING);
	c->connected_ns = c->idle_since_ns = io_now(c->io);
	note_free(c);
	board_pool_count(c->io->board, p->index, POOL_METRIC_CONNECTIONS_OPENED, 1);
	log_debug("pool %s: connection %u of server %s ready backend=%d", p->config->name, c->slot,
		c->member->server->config->name, c->backend_pid);
	conn_set_state(c, CONN_IDLE);
	member_connected(c->member);
}

/* What was in flight is repeated or answered; the lease is broken, or waits for another connection.
 * Leaves inflight empty. */
static void take_work_away(struct conn *c, const struct failure *f)
{
	struct lease *l;

	c->cancelling = c->resetting = false;
	io_timer_clear(c->io, &c->slow);
	if (c->lease != NULL && f->not_run) {
		lease_ask_again(c->lease); /* takes what it has in flight along, or does nothing */
	}
	l = c->lease;
	if (l != NULL) {
		lease_hold(l);
	}
	while (c->ninflight > 0) {
		request_lost(head_of(c), f);
	}
	c->lease = NULL;
	if (l != NULL) {
		lease_break(l, f);
		lease_drop(l);
	}
}

void conn_closed(struct conn *c, const struct failure *f)
{
	static const struct failure gone = {
		.code = FAIL_UNAVAILABLE, .message = "the connection to the database was lost"};
	struct pool *p = c->pool;
	bool connecting = c->state == CONN_CONNECTING, lost = c->state != CONN_CLOSING;

	check(c->state != CONN_CLOSED);
	c->losing = true;
	if (lost) {
		take_work_away(c, f != NULL ? f : &gone);
	}
	c->losing = false;
	if (c->flush_wanted) {
		cds_list_del(&c->flush_link);
		c->flush_wanted = false;
	}
	c->priv = NULL;
	c->tx = CONN_TX_IDLE;
	c->dirty = c->testing = false;
	conn_set_state(c, CONN_CLOSED);
	if (connecting) {
		member_connect_failed(c->member, f != NULL ? f : &gone);
	} else if (c->connected_ns != 0) {
		board_pool_count(c->io->board, p->index, POOL_METRIC_CONNECTIONS_CLOSED, 1);
		if (f != NULL) {
			log_info("pool %s: connection %u of server %s lost: %s", p->config->name,
				c->slot, c->member->server->config->name, f->message);
		}
	}
	c->connected_ns = 0;
	if (lost) {
		health_hurry(c->member->server);
	}
	member_grow(c->member);
}

void conn_give_up(struct conn *c, const struct failure *f)
{
	static const struct failure closed = {
		.code = FAIL_UNAVAILABLE, .message = "the connection to the database was closed"};

	if (c->state == CONN_CLOSED || c->state == CONN_CLOSING) {
		return;
	}
	c->losing = true;
	take_work_away(c, f != NULL ? f : &closed);
	c->losing = false;
	conn_set_state(c, CONN_CLOSING);
	c->driver->close(c);
}

/* -- work -------------------------------------------------------------------------------------- */

void conn_start(struct conn *c, struct request *r, unsigned begin)
{
	bool shared = c->ninflight > 0 && c->lease == NULL;

	check_slow(c->state == CONN_BUSY || c->state == CONN_LEASED);
	r->state = REQUEST_RUNNING;
	r->conn = c;
	r->sends++;
	r->sent_ns = io_now(c->io);
	if (c->pool->config->query_timeout > 0) {
		request_bound(r, r->sent_ns + (uint64_t)c->pool->config->query_timeout * 1000000u);
	}
	cds_list_add_tail(&r->link, &c->inflight);
	if (c->ninflight++ == 0) {
		c->head_ns = r->sent_ns;
	}
	c->turn_sends += request_is_quick(r);
	c->statements++;
	board_pool_count(c->io->board, c->pool->index, POOL_METRIC_SENDS, 1);
	board_pool_count(c->io->board, c->pool->index, POOL_METRIC_SENDS_IN_FLIGHT, c->ninflight);
	c->dirty = c->dirty || c->pool->config->reset == RESET_ALWAYS;
	if (shared) {
		board_pool_count(c->io->board, c->pool->index, POOL_METRIC_SHARED_SENDS, 1);
		if (!timer_is_set(&c->slow) && (c->driver->share & DRIVER_SHARE_READS)) {
			io_timer_set(c->io, &c->slow, r->sent_ns + SLOW_HEAD_NS);
		}
	}
	conn_want_flush(c);
	c->driver->start(c, r, begin);
}

static void start_reset(struct conn *c, unsigned what)
{
	c->resetting = true;
	c->promised = false;
	c->reset_ns = io_now(c->io);
	/* from now on it is what comes behind the reset that touches the session */
	c->dirty = false;
	conn_set_state(c, CONN_RESETTING);
	c->driver->reset(c, what);
	if (c->pool->nwaiters > 0) {
		io_again(c->io); /* this turn may be past its dispatch */
	}
}

bool conn_may_follow(const struct conn *c)
{
	return c->driver->reset_rides && c->state == CONN_RESETTING && !c->testing && !c->retire &&
	       !c->promised && c->tx == CONN_TX_IDLE &&
	       (c->flush_wanted || io_now(c->io) - c->reset_ns < SLOW_RESET_NS);
}

/* Nothing is in flight any more and nobody holds it: clean it, retire it, or give it back. */
static void conn_rest(struct conn *c)
{
	unsigned what = (c->tx != CONN_TX_IDLE ? CONN_RESET_ROLLBACK : 0) |
			(c->dirty ? CONN_RESET_SESSION : 0);

	if (c->cancelling || c->losing) {
		return; /* conn_cancel_settled, or whoever takes the connection away, goes on */
	}
	if (c->resetting) { /* it was not used */
		conn_set_state(c, CONN_RESETTING);
		return;
	}
	if (what != 0) {
		board_pool_count(c->io->board, c->pool->index, POOL_METRIC_RESETS, 1);
		start_reset(c, what);
		return;
	}
	if (c->testing) {
		c->testing = false;
		c->tested_ns = io_now(c->io);
	} else {
		c->idle_since_ns = io_now(c->io);
	}
	if (!member_keeps(c->member, c)) {
		conn_give_up(c, NULL);
		return;
	}
	conn_set_state(c, CONN_IDLE);
	if (c->pool->nwaiters > 0) {
		io_again(c->io); /* this turn may be past its dispatch */
	}
}

void conn_request_ended(struct conn *c, struct request *r)
{
	struct request *head;

	cds_list_del(&r->link);
	r->link.next = NULL;
	r->conn = NULL;
	pool_cap_drop(c->pool, &r->capped);
	c->ninflight--;
	c->head_ns = io_now(c->io);
	if (c->losing) {
		return;
	}
	if (c->ninflight == 0) {
		io_timer_clear(c->io, &c->slow);
		if (c->lease == NULL) {
			note_free(c);
			conn_rest(c);
		}
		return;
	}
	head = head_of(c);
	if (head->cancel_wanted && !c->cancelling) {
		conn_cancel_request(c, head);
	}
}

void conn_unlease(struct conn *c)
{
	c->lease = NULL;
	if (c->state != CONN_LEASED || c->losing) {
		return;
	}
	if (c->ninflight == 0) {
		note_free(c);
		conn_rest(c);
	} else {
		conn_abandon(c);
	}
}

/*
 * A cancel ends one statement, and the server goes on to the next at once: with several in flight
 * it would take as many cancels, each sent when the statement it is for has been running for a
 * while, and short ones would be done, and committed, one after the other.  So the connection is
 * closed, and driver->close sees to it that none of them begins.  A new connection costs the server
 * less than a cancel for each.
 */
void conn_abandon(struct conn *c)
{
	static const struct failure left = {
		.code = FAIL_UNAVAILABLE, .message = "nobody waits for it any more"};

	if (c->ninflight == 1 || (c->driver->share & DRIVER_SHARE_READS) == 0) {
		conn_cancel_request(c, head_of(c));
		return;
	}
	log_info("pool %s: connection %u of server %s is closed: its worker has left %u statements "
		 "on it",
		c->pool->config->name, c->slot, c->member->server->config->name, c->ninflight);
	conn_give_up(c, &left);
}

void conn_reset_done(struct conn *c, bool ok)
{
	check(c->resetting);
	if (!ok || (c->state == CONN_RESETTING && c->tx != CONN_TX_IDLE)) {
		log_warning(
			"pool %s: connection %u of server %s could not be cleaned and is closed",
			c->pool->config->name, c->slot, c->member->server->config->name);
		conn_give_up(c, &unclean);
		return;
	}
	c->resetting = false;
	if (c->state == CONN_RESETTING) {
		conn_rest(c);
	} else if (c->ninflight > 0) {
		c->head_ns = head_of(c)->sent_ns = io_now(c->io); /* only now it can run */
	}
}

void conn_test(struct conn *c)
{
	check(c->state == CONN_IDLE);
	c->testing = true;
	start_reset(c, 0);
}

void conn_copy_drained(struct conn *c)
{
	if (c->lease != NULL && c->lease->session != NULL) {
		session_unpause(c->lease->session);
	}
}

/* -- cancel ------------------------------------------------------------------------------------ */

static bool evacuable(const struct conn *c, const struct request *r)
{
	return (c->driver->share & DRIVER_SHARE_READS) && r->session != NULL && r->lease == NULL &&
	       (r->flags & REQ_F_READONLY) && !r->delivered && !r->cancel_wanted;
}

void conn_evacuate(struct conn *c)
{
	struct cds_list_head *p = c->inflight.next;

	if (p == &c->inflight) {
		return;
	}
	for (p = p->next; p != &c->inflight; p = p->next) {
		struct request *r = cds_list_entry(p, struct request, link);
		struct request *twin;

		if (!evacuable(c, r)) {
			continue;
		}
		twin = request_split(r);
		if (twin != NULL) {
			r->cancel_wanted = true;
			board_pool_count(c->io->board, c->pool->index, POOL_METRIC_RETRIES, 1);
			pool_requeue(c->pool, twin);
		}
	}
}

/* Somebody else's statement stands behind the head and could not be taken away. */
static bool stranger_behind(struct conn *c)
{
	for (struct cds_list_head *p = c->inflight.next->next; p != &c->inflight; p = p->next) {
		const struct request *r = cds_list_entry(p, struct request, link);

		if (r->session != NULL && r->lease == NULL && !r->cancel_wanted) {
			return true;
		}
	}
	return false;
}

static void cancel_head(struct conn *c)
{
	bool precise = (c->driver->share & DRIVER_SHARE_READS) == 0;

	if (c->cancelling) {
		return;
	}
	if (!precise) {
		conn_evacuate(c);
		if (stranger_behind(c)) { /* out of memory: its deadline has to do */
			return;
		}
	}
	c->cancelling = true;
	c->cancel_ns = io_now(c->io);
	if (c->cancel_first_ns == 0) {
		c->cancel_first_ns = c->cancel_ns;
	}
	board_pool_count(c->io->board, c->pool->index, POOL_METRIC_CANCELS_SENT, 1);
	c->driver->cancel(c);
}

void conn_cancel_request(struct conn *c, struct request *r)
{
	static const struct failure cancelled = {
		.code = FAIL_CANCELLED, .message = "cancelled before it ran"};
	static const struct failure late = {.code = FAIL_TIMEOUT,
		.retry_safe = true,
		.message =
			"deadline passed while the statement waited behind others on a connection"};

	request_want_cancel(r);
	if (head_of(c) == r) {
		cancel_head(c);
	} else if ((c->driver->share & DRIVER_SHARE_READS) && r->lease == NULL &&
		   r->session != NULL) {
		/* a read: nothing can stay */
		request_give_up(r, r->timed_out ? &late : &cancelled);
	}
}

void conn_cancel_settled(struct conn *c)
{
	if (!c->cancelling) {
		return; /* the connection was lost meanwhile */
	}
	c->cancelling = false;
	if (c->ninflight == 0) {
		c->cancel_first_ns = 0;
		if (c->lease == NULL) {
			if (c->state == CONN_BUSY || c->state == CONN_LEASED) {
				conn_rest(c);
			}
			return;
		}
	}
	if (c->lease != NULL) {
		lease_resume(c->lease);
	}
}

/* -- time -------------------------------------------------------------------------------------- */

static void on_slow_head(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, slow);
	uint64_t now = io_now(c->io);

	if (c->ninflight < 2 || c->state != CONN_BUSY) {
		return;
	}
	if (now - c->head_ns >= SLOW_HEAD_NS) {
		conn_evacuate(c);
	}
	io_timer_set(c->io, &c->slow, now + SLOW_HEAD_NS);
}

void conn_tick(struct conn *c)
{
	static const struct failure stuck = {.code = FAIL_UNAVAILABLE,
		.message =
			"a statement did not end when it was cancelled; its connection was closed"};
	uint64_t now = io_now(c->io);
	uint64_t cancel_wait = (uint64_t)c->pool->config->cancel_wait_timeout * 1000000u;
	struct request *head = head_of(c);
	bool wanted = head != NULL && head->cancel_wanted;

	if (c->resetting &&
		now - c->reset_ns > (uint64_t)c->pool->config->validation_timeout * 1000000u) {
		if (head == NULL) {
			log_warning(
				"pool %s: connection %u of server %s does not answer and is closed",
				c->pool->config->name, c->slot, c->member->server->config->name);
			conn_give_up(c, &unclean);
			health_hurry(c->member->server);
			return;
		}
		wanted = true;
	}
	if (!wanted) {
		if (!c->cancelling) {
			c->cancel_first_ns = 0;
		}
		if (!c->cancelling || now - c->cancel_ns < cancel_wait) {
			return;
		}
	}
	if (c->cancel_first_ns != 0 && now - c->cancel_first_ns >= cancel_wait) {
		conn_give_up(c, &stuck);
		return;
	}
	if (now - c->cancel_ns < CANCEL_AGAIN_NS) {
		return;
	}
	if (c->resetting && c->cancel_first_ns == 0) {
		log_warning("pool %s: connection %u of server %s does not answer: its reset is "
			    "cancelled",
			c->pool->config->name, c->slot, c->member->server->config->name);
	}
	if (!c->cancelling) {
		cancel_head(c);
	} else { /* it may have come before the statement had begun, and is lost then */
		c->cancel_ns = now;
		c->driver->cancel(c);
	}
}
