/* SPDX-License-Identifier: MIT */
/* poolboard.c - a pool and its connections on the board, as they are at each tick. */
#include "pool.h"

#include "courier.h"
#include "lease.h"
#include "session.h"

#include <stdio.h>

#define PIN_PAUSE_NS UINT64_C(60000000000)

static void gauge(struct pool *p, enum pool_metric m, uint64_t v)
{
	board_pool_gauge(p->io->board, p->index, m, v);
}

static uint32_t state_of(const struct conn *c)
{
	static const uint32_t states[CONN_STATE_COUNT] = {
		[CONN_CLOSED] = BOARD_CONN_CLOSED,
		[CONN_CONNECTING] = BOARD_CONN_LOGIN,
		[CONN_IDLE] = BOARD_CONN_IDLE,
		[CONN_BUSY] = BOARD_CONN_ACTIVE,
		[CONN_LEASED] = BOARD_CONN_LEASED,
		[CONN_RESETTING] = BOARD_CONN_RESETTING,
		[CONN_CLOSING] = BOARD_CONN_CLOSED,
	};

	if (c->cancelling) {
		return BOARD_CONN_CANCELLING;
	}
	if (c->state == CONN_RESETTING && c->testing) {
		return BOARD_CONN_TESTING;
	}
	if (c->state == CONN_LEASED && c->dirty) {
		return BOARD_CONN_PINNED;
	}
	if (c->state == CONN_LEASED && c->tx != CONN_TX_IDLE) {
		return BOARD_CONN_TRANSACTION;
	}
	return states[c->state];
}

/* What runs on it, the first if there are several, or NULL. */
static const struct request *head_of(const struct conn *c)
{
	return c->ninflight > 0 ? cds_list_first_entry(&c->inflight, struct request, link) : NULL;
}

/* Who holds it: its lease, or a statement that runs outside one. */
static uint32_t holder_of(const struct conn *c)
{
	const struct request *head = head_of(c);
	const struct session *s = c->lease != NULL ? c->lease->session
				  : head != NULL   ? head->session
						   : NULL;

	return s != NULL ? session_slot(s) : BOARD_NONE;
}

/* What runs on it, or ran last in its lease. */
static const struct statement *statement_of(const struct conn *c)
{
	const struct request *head = head_of(c);

	return head != NULL && head->stmt != NULL ? head->stmt
	       : c->lease != NULL                 ? c->lease->last
						  : NULL;
}

/*
 * Say who pins a connection: at most one in a minute, since some pin one with every request, which
 * would push everything else out of the event log.  Pins that end between two ticks are not seen.
 */
static void tell_pin(const struct conn *c)
{
	struct pool *p = c->pool;
	const struct lease *l = c->lease;
	uint64_t now = io_now(c->io);

	if (l == NULL || l->session == NULL || p->config->reset == RESET_ALWAYS ||
		(p->pin_told_ns != 0 && now - p->pin_told_ns < PIN_PAUSE_NS)) {
		return;
	}
	p->pin_told_ns = now;
	board_event(c->io->board, BOARD_EVENT_PIN,
		"pool %s: worker %d%s%.*s changed the session of its connection, which is cleaned "
		"afterwards (told once a minute)",
		p->config->name, session_pid(l->session), l->tag_len > 0 ? " tag " : "",
		(int)l->tag_len, l->tag);
}

static void mirror_conn(struct conn *c)
{
	const struct statement *st = statement_of(c);
	const struct lease *l = c->lease;
	struct board_conn_info info = {
		.pool = c->pool->index,
		.server = c->member->server->index,
		.state = state_of(c),
		.backend_pid = c->backend_pid,
		.worker_slot = holder_of(c),
		.in_flight = c->ninflight,
		.generation = c->generation,
		.connected_ns = c->connected_ns,
		.since_ns = c->since_ns,
		.lease_ns = l != NULL ? l->since_ns : 0,
		.statements = c->statements,
		.fingerprint = st != NULL ? st->fingerprint : 0,
		.statement_ns = c->ninflight > 0 ? c->head_ns : 0,
	};

	if (info.state == BOARD_CONN_PINNED) {
		tell_pin(c);
	}
	if (c->row != BOARD_NONE) {
		board_conn_row(c->io->board, c->row, &info);
	}
}

static void mirror_row(struct pool *p)
{
	static const uint32_t states[] = {
		[MODE_DOWN] = BOARD_POOL_DOWN,
		[MODE_READ_ONLY] = BOARD_POOL_DEGRADED,
		[MODE_FALLBACK] = BOARD_POOL_DEGRADED,
		[MODE_DEGRADED] = BOARD_POOL_DEGRADED,
		[MODE_NORMAL] = BOARD_POOL_UP,
	};
	const struct config_pool *c = p->config;
	const struct member *m = p->member[0];
	unsigned size = m->split ? m->nconns : m->driver->size(m->server_priv, c);
	struct board_pool_info info = {
		.state = !p->ever_ready ? BOARD_POOL_STARTING
			 : !pool_is_ready(p) && p->decision.mode != MODE_DOWN
				 ? BOARD_POOL_DOWN
				 : states[p->decision.mode],
		.nservers = p->nmembers,
		.max_size = size,
		.min_idle = (uint32_t)(c->min_idle < 0 || m->split ? size : (unsigned)c->min_idle),
		.server = p->writer != NULL ? p->writer->server->index : BOARD_NONE,
		.since_ns = p->decided_ns,
	};

	snprintf(info.name, sizeof(info.name), "%s", c->name);
	snprintf(
		info.database, sizeof(info.database), "%s", c->database != NULL ? c->database : "");
	snprintf(info.user, sizeof(info.user), "%s", c->user != NULL ? c->user : "");
	snprintf(info.mode, sizeof(info.mode), "transaction");
	board_pool_row(p->io->board, p->index, &info);
}

static void mirror_gauges(struct pool *p)
{
	unsigned pinned = 0, leased = 0, cancelling = 0, busy = pool_count(p, CONN_BUSY);
	struct member *m;

	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		for (unsigned i = 0; i < m->nconns; i++) {
			const struct conn *c = m->conns[i];

			pinned += c->state == CONN_LEASED && c->dirty;
			leased += c->state == CONN_LEASED && !c->dirty;
			cancelling += c->cancelling;
		}
	}
	if (p->handback.courier != NULL) {
		gauge(p, POOL_METRIC_JOURNAL_PENDING, courier_pending(p->handback.courier));
		gauge(p, POOL_METRIC_JOURNAL_REPLAYED, courier_replayed(p->handback.courier));
	}
	gauge(p, POOL_METRIC_WAITERS, p->nwaiters);
	gauge(p, POOL_METRIC_WAITING_SINCE, pool_oldest_wait(p));
	gauge(p, POOL_METRIC_CL_WAITING, p->nwaiters);
	gauge(p, POOL_METRIC_CL_ACTIVE, busy + leased + pinned);
	gauge(p, POOL_METRIC_SV_ACTIVE, busy);
	gauge(p, POOL_METRIC_SV_LEASED, leased);
	gauge(p, POOL_METRIC_SV_PINNED, pinned);
	gauge(p, POOL_METRIC_SV_BEING_CANCELED, cancelling);
	gauge(p, POOL_METRIC_CL_ACTIVE_CANCEL_REQ, cancelling);
	gauge(p, POOL_METRIC_SV_IDLE, pool_count(p, CONN_IDLE));
	gauge(p, POOL_METRIC_SV_TESTED, pool_count(p, CONN_RESETTING));
	gauge(p, POOL_METRIC_SV_LOGIN, pool_count(p, CONN_CONNECTING));
}

void pool_mirror(struct pool *p)
{
	struct member *m;

	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		for (unsigned i = 0; i < m->nconns; i++) {
			mirror_conn(m->conns[i]);
		}
	}
	mirror_gauges(p);
	if (p->io->shard == 0) { /* the row is one for all I/O threads */
		mirror_row(p);
	}
}
