/* SPDX-License-Identifier: MIT */
/* member.c - see member.h. */
#include "member.h"

#include "conn.h"
#include "hash.h"
#include "io.h"
#include "lease.h"
#include "log.h"
#include "pool.h"
#include "shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)

static const struct config_pool *config(const struct member *m)
{
	return m->pool->config;
}

static void count(const struct member *m, enum pool_metric k, uint64_t n)
{
	board_pool_count(m->pool->io->board, m->pool->index, k, n);
}

unsigned member_open(const struct member *m)
{
	return m->nconns - m->state_count[CONN_CLOSED];
}

/* Those that other I/O threads have, or are lending. */
static unsigned elsewhere(const struct member *m)
{
	unsigned all = tally_open(m->tally), here = member_open(m);

	return all > here ? all - here : 0;
}

/* Here, and not on their way out. */
static unsigned staying(const struct member *m)
{
	return member_open(m) - m->state_count[CONN_CLOSING];
}

unsigned member_used(const struct member *m)
{
	return m->state_count[CONN_BUSY] + m->state_count[CONN_LEASED] +
	       m->state_count[CONN_RESETTING];
}

bool member_can_serve(const struct member *m)
{
	return m->index != MEMBER_DRAINING && !m->fenced &&
	       m->server->state.verdict != VERDICT_DOWN;
}

bool member_is_ready(const struct member *m)
{
	return m->split ? m->state_count[CONN_IDLE] + member_used(m) == m->nconns
			: get(&m->tally->n[PHASE_READY]) > 0;
}

/* -- how many ---------------------------------------------------------------------------------- */

static unsigned waiting(const struct member *m)
{
	struct pool *p = m->pool;
	bool some = (p->writer == m && pool_wants(p, POOL_QUEUE_ALL)) ||
		    (member_takes_reads(m) && pool_wants(p, POOL_QUEUE_READS));

	/* Counting them would cost more than a connection too many, which stays idle. */
	return some ? p->nwaiters : 0;
}

static unsigned size_of(const struct member *m)
{
	return m->split ? m->nconns : m->driver->size(m->server_priv, config(m));
}

/* Of what is kept open for nobody in particular; the rest of it is elsewhere. */
static unsigned least(const struct member *m)
{
	unsigned n =
		config(m)->min_idle < 0 || m->split ? size_of(m) : (unsigned)config(m)->min_idle;

	if (n == 0 && !m->pool->ever_ready) {
		n = 1; /* to see at the start whether it can be reached */
	}
	return n > elsewhere(m) ? n - elsewhere(m) : 0;
}

/* Which part of n this I/O thread opens. */
static unsigned part_of(const struct member *m, unsigned n)
{
	unsigned of = shards_count(m->pool->io);

	return of == 1 ? n : n / of + (m->pool->io->shard < n % of);
}

/* How many there may be here, of which `idle` need no reason. */
static unsigned wanted(const struct member *m, unsigned idle)
{
	unsigned n = member_used(m) + waiting(m);
	unsigned most = size_of(m) + (m->split ? 0 : (unsigned)config(m)->max_overflow);

	if (m->index == MEMBER_DRAINING) {
		return 0;
	}
	most = most > elsewhere(m) ? most - elsewhere(m) : 0;
	n = n < idle ? idle : n;
	return (n > most ? most : n) + (m->replacing ? 1 : 0);
}

/* The same, where the other I/O threads open their parts of what is missing. */
static unsigned wanted_to_open(const struct member *m)
{
	unsigned some = least(m), part = part_of(m, some + elsewhere(m));

	return wanted(m, part < some && !m->replacing ? part : some);
}

/* Connections that other pools are sure of and have not opened. */
static unsigned reserved_by_others(const struct member *m)
{
	struct member *o;
	unsigned n = 0;

	cds_list_for_each_entry(o, &m->server->members, server_link)
	{
		unsigned sure = (unsigned)config(o)->guaranteed, open = tally_open(o->tally);

		if (o->pool != m->pool && o->index != MEMBER_DRAINING && sure > open) {
			n += sure - open;
		}
	}
	return n;
}

/* Other pools that have fewer connections than their waiters need. */
static unsigned hungry_others(const struct member *m)
{
	struct member *o;
	unsigned n = 0;

	cds_list_for_each_entry(o, &m->server->members, server_link)
	{
		n += o->pool != m->pool && waiting(o) > 0 &&
		     member_open(o) < wanted_to_open(o);
	}
	return n;
}

/* One limit per server over all its pools; an idle connection is opened in nobody's place. */
bool member_has_room(const struct member *m)
{
	unsigned max = (unsigned)m->server->config->max_connections;

	if (max == 0) {
		return true;
	}
	if (tally_open(m->tally) < (unsigned)config(m)->guaranteed) {
		return tally_open(m->server->tally) < max;
	}
	return tally_open(m->server->tally) + reserved_by_others(m) +
		       (waiting(m) > 0 ? 0 : hungry_others(m) + lending_needs_room(m)) <
	       max;
}

static bool may_connect(const struct member *m)
{
	return member_can_serve(m) &&
	       get(&m->tally->n[PHASE_OPENING]) <
		       (m->split ? m->nconns : (unsigned)config(m)->max_connecting) &&
	       (m->backoff_ns == 0 || m->next_connect_ns <= io_now(m->pool->io));
}

/* Count one that is about to be opened, if the limits allow it; all I/O threads ask one by one. */
static bool reserve(struct member *m)
{
	struct io_shared *sh = m->pool->io->shared;
	bool may;

	pthread_mutex_lock(&sh->lock);
	may = member_open(m) < wanted_to_open(m) && may_connect(m) && member_has_room(m);
	if (may) {
		tally_move(m->tally, PHASE_CLOSED, PHASE_OPENING);
		tally_move(m->server->tally, PHASE_CLOSED, PHASE_OPENING);
	}
	pthread_mutex_unlock(&sh->lock);
	return may;
}

static void unreserve(struct member *m)
{
	tally_move(m->tally, PHASE_OPENING, PHASE_CLOSED);
	tally_move(m->server->tally, PHASE_OPENING, PHASE_CLOSED);
}

struct conn *member_spare(struct member *o)
{
	if (cds_list_empty(&o->in_state[CONN_IDLE]) || waiting(o) > 0 || o->split ||
		tally_staying(o->tally) <= (unsigned)config(o)->guaranteed) {
		return NULL;
	}
	return cds_list_entry(o->in_state[CONN_IDLE].prev, struct conn, link);
}

/* Another pool keeps an idle connection to the server while somebody waits here. */
static void take_room(struct member *m)
{
	struct member *o;

	cds_list_for_each_entry(o, &m->server->members, server_link)
	{
		struct conn *c = o->pool != m->pool ? member_spare(o) : NULL;

		if (c != NULL) {
			conn_give_up(c, NULL);
			return;
		}
	}
}

/* -- opening ----------------------------------------------------------------------------------- */

static int add_conn(struct member *m)
{
	struct conn **more = realloc(m->conns, (m->nconns + 1) * sizeof(struct conn *));
	struct conn *c = calloc(1, sizeof(*c));

	if (more != NULL) {
		m->conns = more;
	}
	if (more == NULL || c == NULL) {
		free(c);
		return -1;
	}
	conn_init(c, m, m->nconns);
	m->conns[m->nconns++] = c;
	return 0;
}

struct conn *member_closed_conn(struct member *m)
{
	if (cds_list_empty(&m->in_state[CONN_CLOSED]) && add_conn(m) < 0) {
		return NULL;
	}
	/* The one that is closed for longest: slots are used in turn. */
	return cds_list_entry(m->in_state[CONN_CLOSED].prev, struct conn, link);
}

void member_grow(struct member *m)
{
	if (m->pool->closing || m->pool->io->stopping) {
		return;
	}
	while (member_open(m) < wanted_to_open(m) && may_connect(m)) {
		struct conn *c;

		if (!reserve(m)) {
			if (waiting(m) > 0 && !member_has_room(m)) {
				take_room(m); /* there is room when it is closed */
			}
			return;
		}
		c = member_closed_conn(m);
		if (c == NULL) {
			unreserve(m);
			return;
		}
		conn_open(c);
		if (m->backoff_ns != 0) {
			return; /* one try at a time while the server is down */
		}
	}
}

/* The one that was opened first and is to stay so far. */
static struct conn *oldest(struct member *m)
{
	static const enum conn_state open[] = {CONN_IDLE, CONN_BUSY, CONN_LEASED};
	struct conn *c, *old = NULL;

	for (unsigned i = 0; i < array_size(open); i++) {
		cds_list_for_each_entry(c, &m->in_state[open[i]], link)
		{
			if (!c->retire && (old == NULL || c->connected_ns < old->connected_ns)) {
				old = c;
			}
		}
	}
	return old;
}

static uint64_t lifetime(const struct member *m, const struct conn *c)
{
	uint64_t life = (uint64_t)config(m)->max_lifetime * MS;

	/* A quarter of it is spread over the slots, so that they do not end together. */
	return life - life / 4 * ((c->slot * 7u + (unsigned)c->generation) % 16u) / 16;
}

static bool is_old(const struct member *m, const struct conn *c)
{
	return config(m)->max_lifetime != 0 &&
	       io_now(m->pool->io) - c->connected_ns > lifetime(m, c);
}

/* Closed now, or when it is given back. */
static void retire(struct conn *c)
{
	if (c->state == CONN_IDLE) {
		conn_give_up(c, NULL);
	} else {
		c->retire = true;
	}
}

/* One at a time over all I/O threads: false, another one does. */
static bool start_replacing(struct member *m)
{
	m->replacing = exchange(&m->tally->replacing, 1) == 0;
	return m->replacing;
}

static void stop_replacing(struct member *m)
{
	if (m->replacing) {
		m->replacing = false;
		put(&m->tally->replacing, 0);
	}
}

void member_connected(struct member *m)
{
	m->backoff_ns = 0;
	m->next_connect_ns = 0;
	m->permanent_failure = false;
	m->last_error[0] = '\0';
	put(&m->tally->error, 0);
	if (get(&m->tally->was_ready) == 0 && exchange(&m->tally->was_ready, 1) == 0) {
		log_info("pool %s: connected to server %s", config(m)->name,
			m->server->config->name);
	}
	if (m->replacing) {
		struct conn *old = oldest(m);

		stop_replacing(m);
		if (old != NULL && is_old(m, old)) {
			retire(old);
		}
	}
}

static void back_off(struct member *m)
{
	uint64_t last = (uint64_t)config(m)->connect_backoff_max * MS;

	m->backoff_ns = m->backoff_ns == 0 ? (uint64_t)config(m)->connect_backoff * MS
					   : m->backoff_ns * 2;
	if (m->backoff_ns > last) {
		m->backoff_ns = last;
	}
	/* Up to a fifth of jitter, so that pools and hosts do not march in step. */
	m->next_connect_ns = io_now(m->pool->io) + m->backoff_ns -
			     (m->backoff_ns / 5) * (uint64_t)(random() & 0xff) / 256;
}

/* Each thing is said once, whichever I/O thread met it. */
static bool is_news(const struct member *m)
{
	uint64_t hash = hash_bytes(m->last_error, strlen(m->last_error));

	return exchange(&m->tally->error, hash) != hash;
}

void member_connect_failed(struct member *m, const struct failure *f)
{
	count(m, POOL_METRIC_CONNECT_FAILURES, 1);
	stop_replacing(m);
	back_off(m);
	m->permanent_failure = health_is_permanent(f->sqlstate);
	snprintf(m->last_error, sizeof(m->last_error), "%s", f->message);
	if (is_news(m)) {
		log_warning("pool %s: cannot connect to server %s: %s", config(m)->name,
			m->server->config->name, f->message);
		board_event(m->pool->io->board, BOARD_EVENT_CONNECT_FAILURE,
			"pool %s: server %s: %s", config(m)->name, m->server->config->name,
			f->message);
	}
	health_hurry(m->server);
}

/* -- keeping ----------------------------------------------------------------------------------- */

/* Since it was last seen to work. */
static uint64_t silence(const struct conn *c)
{
	return io_now(c->io) -
	       (c->tested_ns > c->idle_since_ns ? c->tested_ns : c->idle_since_ns);
}

bool member_is_stale(const struct member *m, const struct conn *c)
{
	int64_t limit = config(m)->validate_after_idle;

	return limit >= 0 && !m->split && silence(c) > (uint64_t)limit * MS + MS;
}

/* A reload has made others sure of connections that we have. */
static bool owes_room(const struct member *m)
{
	unsigned max = (unsigned)m->server->config->max_connections;

	return max != 0 && tally_staying(m->tally) > (unsigned)config(m)->guaranteed &&
	       tally_open(m->server->tally) + reserved_by_others(m) > max;
}

bool member_keeps(const struct member *m, const struct conn *c)
{
	return m->index != MEMBER_DRAINING && !c->retire && !m->pool->io->stopping &&
	       !owes_room(m) &&
	       (m->split ||
		       tally_staying(m->tally) <= size_of(m) + get(&m->tally->replacing) ||
		       m->pool->nwaiters > 0);
}

/* One at a time: the replacement is opened first, if the server has room for it. */
static void replace_old(struct member *m)
{
	struct conn *c = oldest(m);

	if (m->replacing && m->state_count[CONN_CONNECTING] == 0 && may_connect(m)) {
		stop_replacing(m); /* there is no place for it any more */
	}
	if (m->replacing || c == NULL || !is_old(m, c)) {
		return;
	}
	if (staying(m) > wanted(m, least(m)) || !member_has_room(m)) {
		retire(c);
	} else if (may_connect(m)) {
		(void)start_replacing(m);
	}
}

/* Longest idle first, since the list has the latest used in front. */
static void retire_idle(struct member *m)
{
	uint64_t idle_ns = (uint64_t)config(m)->idle_timeout * MS, now = io_now(m->pool->io);
	unsigned size = size_of(m);

	while (!cds_list_empty(&m->in_state[CONN_IDLE])) {
		struct conn *c = cds_list_entry(m->in_state[CONN_IDLE].prev, struct conn, link);
		bool beyond = tally_staying(m->tally) > size && m->pool->nwaiters == 0 &&
			      get(&m->tally->replacing) == 0;

		if (!beyond && (idle_ns == 0 || staying(m) <= wanted(m, least(m)) ||
				       now - c->idle_since_ns <= idle_ns)) {
			return;
		}
		conn_give_up(c, NULL);
	}
}

/* What was to be opened for somebody who was served by another one. */
static void drop_surplus(struct member *m)
{
	while (m->state_count[CONN_CONNECTING] > 0 && staying(m) > wanted(m, least(m))) {
		conn_give_up(cds_list_first_entry(
				     &m->in_state[CONN_CONNECTING], struct conn, link),
			NULL);
	}
}

/* Keeps firewalls and servers from ending it, and notices if they did. */
static void keep_alive(struct member *m)
{
	uint64_t every = (uint64_t)config(m)->keepalive_time * MS;
	struct conn *c, *next;

	if (every == 0) {
		return;
	}
	cds_list_for_each_entry_safe(c, next, &m->in_state[CONN_IDLE], link)
	{
		uint64_t early = every / 5 * ((c->slot * 5u + (unsigned)c->generation) % 8u) / 8;

		if (silence(c) > every - early) {
			conn_test(c);
		}
	}
}

static void look_at_leases(struct member *m)
{
	struct conn *c, *next;

	cds_list_for_each_entry_safe(c, next, &m->in_state[CONN_LEASED], link)
	{
		if (c->lease != NULL) {
			lease_tick(c->lease);
		}
	}
}

void member_tick(struct member *m)
{
	for (unsigned i = 0; i < m->nconns; i++) {
		conn_tick(m->conns[i]);
	}
	look_at_leases(m);
	if (m->index == MEMBER_DRAINING) {
		while (!cds_list_empty(&m->in_state[CONN_IDLE])) {
			conn_give_up(cds_list_first_entry(
					     &m->in_state[CONN_IDLE], struct conn, link),
				NULL);
		}
	} else if (!m->pool->closing && !m->split) {
		replace_old(m);
		retire_idle(m);
		keep_alive(m);
		drop_surplus(m);
	}
	member_grow(m);
}

/* -- life -------------------------------------------------------------------------------------- */

void member_close(struct member *m, const struct failure *f)
{
	for (unsigned i = 0; i < m->nconns; i++) {
		conn_give_up(m->conns[i], f);
	}
	stop_replacing(m);
}

void member_drain(struct member *m)
{
	m->index = MEMBER_DRAINING;
	for (unsigned i = 0; i < m->nconns; i++) {
		m->conns[i]->retire = true;
		if (m->conns[i]->state == CONN_CONNECTING) {
			conn_give_up(m->conns[i], NULL);
		}
	}
}

/* Connections that differ in role queue apart. */
static bool roles_differ(const struct member *m)
{
	for (unsigned i = 1; i < m->nconns; i++) {
		if (m->conns[i]->roles != m->conns[0]->roles) {
			return true;
		}
	}
	return false;
}

int member_create(struct pool *p, struct server *s, const struct config_server *server,
	const struct config_pool *pool, struct tally *tally, struct member **out, char *err,
	size_t errlen)
{
	struct member *m = calloc(1, sizeof(*m));

	if (m != NULL) {
		m->tally = tally != NULL ? tally_hold(tally) : tally_create();
	}
	if (m == NULL || m->tally == NULL) {
		snprintf(err, errlen, "out of memory");
		free(m);
		return -1;
	}
	m->pool = p;
	m->server = s;
	m->driver = s->driver;
	m->index = MEMBER_DRAINING;
	for (unsigned i = 0; i < CONN_STATE_COUNT; i++) {
		CDS_INIT_LIST_HEAD(&m->in_state[i]);
	}
	if (m->driver->server_open(p->io, server, pool, &m->server_priv, err, errlen) < 0) {
		tally_put(m->tally);
		free(m);
		return -1;
	}
	server_add_member(s, m);
	for (unsigned i = m->driver->size(m->server_priv, pool); i > 0; i--) {
		if (add_conn(m) < 0) {
			snprintf(err, errlen, "out of memory");
			member_destroy(&m);
			return -1;
		}
	}
	m->split = roles_differ(m);
	*out = m;
	return 0;
}

void member_destroy(struct member **mm)
{
	struct member *m = *mm;

	if (m == NULL) {
		return;
	}
	check(m->state_count[CONN_CLOSED] == m->nconns);
	server_lost_member(m->server, m);
	m->driver->server_close(m->server_priv);
	for (unsigned i = 0; i < m->nconns; i++) {
		conn_finish(m->conns[i]);
		free(m->conns[i]);
	}
	free(m->conns);
	stop_replacing(m);
	tally_put(m->tally);
	free(m);
	*mm = NULL;
}
