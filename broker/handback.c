/* SPDX-License-Identifier: MIT */
/* handback.c - see handback.h. */
#include "handback.h"

#include "courier.h"
#include "driver_sqlite.h"
#include "lease.h"
#include "log.h"
#include "pool.h"

#include <stdio.h>
#include <string.h>

#define HOLD_LIMIT_NS UINT64_C(1500000000) /* more than the courier ever means */
#define START_AGAIN_NS UINT64_C(5000000000) /* looking at a locked file holds everybody up */

static void set_state(struct handback *h, enum handback_state state)
{
	h->state = state;
	h->held_ns = 0;
	h->since_ns = io_now(h->pool->io);
}

/* The server that stands in: the last one, if it is local and there are others. */
static struct member *local_of(const struct pool *p)
{
	struct member *m = p->nmembers > 1 ? p->member[p->nmembers - 1] : NULL;

	return m != NULL && m->driver == &driver_sqlite ? m : NULL;
}

/* A row of the journal may still come of what runs on it, or its executor has not ended. */
static bool is_writing(const struct member *local)
{
	for (unsigned i = 0; i < local->nconns; i++) {
		const struct conn *c = local->conns[i];

		if ((c->roles & CONN_WRITES) && c->state != CONN_IDLE &&
			c->state != CONN_CONNECTING && c->state != CONN_CLOSED) {
			return true;
		}
	}
	return false;
}

/* -- events of the courier --------------------------------------------------------------------- */

static void hold_writes(struct pool *p, bool hold)
{
	p->handback.held_ns = hold ? io_now(p->io) : 0;
	pool_decide(p);
}

static void on_hold(void *arg, bool hold)
{
	struct pool *p = arg;

	if (p->handback.state == HANDBACK_REPLAY) {
		hold_writes(p, hold);
	}
}

static void on_near_end(void *arg)
{
	struct pool *p = arg;

	if (p->handback.state == HANDBACK_REPLAY) {
		set_state(&p->handback, HANDBACK_SETTLING);
		p->writer = NULL;
		handback_step(p);
	}
}

static void on_caught_up(void *arg)
{
	struct pool *p = arg;

	if (p->handback.state != HANDBACK_DRAINING) {
		return;
	}
	log_info("pool %s: the journal has reached server %s", p->config->name,
		p->member[p->handback.target]->server->config->name);
	set_state(&p->handback, HANDBACK_NONE);
	pool_decide(p);
}

static void on_failed(void *arg, const struct courier_failure *f)
{
	struct pool *p = arg;
	struct handback *h = &p->handback;

	(void)f; /* the courier has logged it */
	if (h->state != HANDBACK_NONE) {
		set_state(h, HANDBACK_NONE);
		health_hurry(p->member[h->target]->server);
		pool_decide(p);
	}
}

static void on_conflict(void *arg, const struct courier_conflict *c)
{
	struct pool *p = arg;

	board_pool_count(p->io->board, p->index, POOL_METRIC_CONFLICTS, 1);
	board_event(p->io->board, BOARD_EVENT_CONFLICT,
		"pool %s: journal row %lld was set aside in broker_conflict: %.100s",
		p->config->name, (long long)c->id, c->text);
}

/* -- life -------------------------------------------------------------------------------------- */

static int start(struct pool *p, char *err, size_t errlen)
{
	struct courier_server servers[FAILOVER_MAX_SERVERS];
	struct handback *h = &p->handback;
	struct member *local = local_of(p);
	struct courier_options opt = {
		.loop = io_uv(p->io),
		.pool = p->config->name,
		.path = sqlite_server_path(local->server_priv),
		.tail = sqlite_server_tail(local->server_priv),
		.servers = servers,
		.nservers = p->nmembers,
		.mirror = p->config->mirror,
		.nmirror = p->config->nmirror,
		.mirror_interval_ns = (uint64_t)p->config->mirror_interval * 1000000u,
		.events = {.hold = on_hold,
			.near_end = on_near_end,
			.caught_up = on_caught_up,
			.failed = on_failed,
			.conflict = on_conflict},
		.arg = p,
	};

	for (unsigned i = 0; i < p->nmembers; i++) {
		const struct member *m = p->member[i];

		servers[i] = (struct courier_server){
			.name = m->server->config->name,
			.pg = m->driver == &driver_pg ? m->server_priv : NULL,
			.connect_timeout = m->server->config->connect_timeout,
		};
	}
	h->journal = opt.tail != NULL;
	return courier_create(&opt, &h->courier, err, errlen);
}

static void on_gone(void *arg)
{
	struct pool *p = arg;
	char err[512];

	p->handback.leaving = false;
	if (!p->handback.wanted || p->closing) {
		return;
	}
	if (start(p, err, sizeof(err)) < 0) {
		log_error("pool %s: %s", p->config->name, err);
	}
	set_state(&p->handback, HANDBACK_NONE);
	pool_decide(p);
}

static void leave(struct handback *h)
{
	if (h->courier != NULL) {
		h->leaving = true;
		courier_destroy(&h->courier, on_gone, h->pool);
	}
}

int handback_configure(struct pool *p, char *err, size_t errlen)
{
	struct handback *h = &p->handback;

	h->pool = p;
	h->wanted = local_of(p) != NULL &&
		    (p->config->fallback == FALLBACK_JOURNAL || p->config->nmirror > 0);
	if (h->state != HANDBACK_NONE && h->wanted) {
		p->writer = local_of(p); /* the next courier begins anew, with REPLAY */
	}
	set_state(h, HANDBACK_NONE);
	leave(h);
	if (!h->wanted) {
		h->journal = false;
		return 0;
	}
	return h->leaving ? 0 : start(p, err, errlen);
}

void handback_close(struct pool *p)
{
	p->handback.wanted = false;
	p->handback.state = HANDBACK_NONE;
	leave(&p->handback);
}

bool handback_is_closed(const struct pool *p)
{
	return p->handback.courier == NULL && !p->handback.leaving;
}

/* -- who writes -------------------------------------------------------------------------------- */

/* A standby that is good enough for reads, else the writer. */
static void mirror_from(struct pool *p, int writer)
{
	int from = writer;

	if (p->config->nmirror == 0) {
		return;
	}
	for (unsigned i = 0; i < p->nmembers; i++) {
		if (member_takes_reads(p->member[i]) && p->member[i]->driver == &driver_pg) {
			from = (int)i;
			if ((int)i != writer) {
				break;
			}
		}
	}
	courier_mirror(p->handback.courier, from);
}

static void halt(struct handback *h)
{
	if (h->state != HANDBACK_NONE) {
		courier_halt(h->courier);
		set_state(h, HANDBACK_NONE);
	}
}

static bool has_journal_to_hand_over(const struct pool *p, const struct member *local)
{
	return p->handback.journal &&
	       (courier_pending(p->handback.courier) > 0 || is_writing(local));
}

struct member *handback_writer(struct pool *p)
{
	struct handback *h = &p->handback;
	struct member *decided = p->decision.writer >= 0 ? p->member[p->decision.writer] : NULL;
	struct member *local = local_of(p);

	if (h->courier == NULL) { /* while one is being replaced everything stays as it is */
		return h->wanted && h->journal && p->writer == local ? p->writer : decided;
	}
	if (decided == NULL || decided == local) {
		halt(h);
		mirror_from(p, -1);
		return decided;
	}
	if (h->state != HANDBACK_NONE && h->target == p->decision.writer) {
		return h->state == HANDBACK_REPLAY && h->held_ns == 0 ? local : NULL;
	}
	if (h->state == HANDBACK_NONE && !has_journal_to_hand_over(p, local)) {
		mirror_from(p, p->decision.writer);
		return decided;
	}
	halt(h);
	mirror_from(p, -1);
	log_info("pool %s: %llu rows of the journal go to server %s", p->config->name,
		(unsigned long long)courier_pending(h->courier), decided->server->config->name);
	h->target = p->decision.writer;
	set_state(h, HANDBACK_REPLAY);
	courier_replay(h->courier, (unsigned)h->target);
	return local;
}

/* Its transaction holds everybody up. */
static void end_transactions(struct pool *p, struct member *local)
{
	static const struct failure f = {.code = FAIL_TX_ABORTED,
		.retry_safe = true,
		.message =
			"the transaction was open in the fallback database for too long while the "
			"primary came back; it was rolled back"};
	struct conn *c, *next;

	cds_list_for_each_entry_safe(c, next, &local->in_state[CONN_LEASED], link)
	{
		if ((c->roles & CONN_WRITES) && c->lease != NULL) {
			lease_break(c->lease, &f);
		}
	}
	set_state(&p->handback, HANDBACK_SETTLING); /* once in acquire_timeout */
}

void handback_step(struct pool *p)
{
	struct handback *h = &p->handback;
	struct member *local;

	if (h->wanted && h->courier == NULL && !h->leaving &&
		io_now(p->io) - h->since_ns > START_AGAIN_NS) {
		on_gone(p); /* it could not be started */
	}
	if (h->held_ns != 0 && io_now(p->io) - h->held_ns > HOLD_LIMIT_NS) {
		hold_writes(p, false); /* the replay itself waits for something */
	}
	if (h->state != HANDBACK_SETTLING) {
		return;
	}
	local = local_of(p);
	if (!is_writing(local)) {
		set_state(h, HANDBACK_DRAINING);
		courier_drain(h->courier);
	} else if (io_now(p->io) - h->since_ns > (uint64_t)p->config->acquire_timeout * 1000000u) {
		end_transactions(p, local);
	}
}

const char *handback_why(const struct pool *p)
{
	switch (p->handback.state) {
	case HANDBACK_SETTLING:
		return "a transaction in the fallback database ends before the primary takes over";
	case HANDBACK_DRAINING:
		return "the last rows of the journal go to the primary";
	case HANDBACK_REPLAY:
		return p->handback.held_ns != 0 ? "the journal gets ahead of those who write"
						: NULL;
	case HANDBACK_NONE:
		break;
	}
	return NULL;
}
