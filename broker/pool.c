/* SPDX-License-Identifier: MIT */
/* pool.c - see pool.h. */
#include "pool.h"

#include "conn.h"
#include "lease.h"
#include "log.h"
#include "request_core.h"
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Never queue behind a statement that runs longer than this. */
#define SHARE_HEAD_NS (5u * 1000000u)
/* Writes that one SQLite transaction may gather. */
#define SHARE_WRITES_MAX 64u
/* Quick reads that are put on one connection in one turn, before another is looked for. */
#define SHARE_GROUP 8u
/* Connections of one pool being opened at once. */
#define PARALLEL_CONNECTS 4u
#define BACKOFF_FIRST_NS (10ull * 1000000u)
#define BACKOFF_LAST_NS (5000ull * 1000000u)

static void count(struct pool *p, enum pool_metric m, uint64_t n)
{
	board_pool_count(p->io->board, p->index, m, n);
}

static bool must_write(const struct request *r)
{
	return !request_reads(r);
}

static enum pool_queue queue_of(const struct pool *p, const struct request *r)
{
	return p->split && !must_write(r) ? POOL_QUEUE_READS : POOL_QUEUE_ALL;
}

/* -- choosing ---------------------------------------------------------------------------------- */

static struct conn *idle_conn(struct pool *p, unsigned role)
{
	struct conn *c, *other = NULL;

	cds_list_for_each_entry(c, &p->in_state[CONN_IDLE], link)
	{
		if (role == CONN_WRITES ? (c->roles & CONN_WRITES) != 0
					: (c->roles & CONN_WRITES) == 0) {
			return c;
		}
		if (c->roles & role) {
			other = other == NULL ? c : other;
		}
	}
	return other;
}

/* May r be in flight together with statements of other workers? */
static bool may_share(const struct pool *p, const struct request *r)
{
	if (r->op != REQ_EXEC || (r->flags & REQ_F_STREAM) || (r->stmt->traits & STMT_SUSPECT)) {
		return false;
	}
	if (p->driver->share & DRIVER_SHARE_READS) {
		return (r->flags & REQ_F_READONLY) != 0 && r->sends == 0 &&
		       r->stmt->quick_ns < SHARE_HEAD_NS && !session_has_lease(r->session);
	}
	return (p->driver->share & DRIVER_SHARE_WRITES) != 0 && must_write(r);
}

static struct conn *shared_conn(struct pool *p, const struct request *r)
{
	bool reads = (p->driver->share & DRIVER_SHARE_READS) != 0;
	unsigned limit = reads ? (unsigned)p->config->max_pipeline : SHARE_WRITES_MAX;
	bool quick = reads && request_is_quick(r);
	uint64_t now = io_now(p->io);
	struct conn *c, *best = NULL;

	cds_list_for_each_entry(c, &p->in_state[CONN_BUSY], link)
	{
		const struct request *head;

		if (!c->shareable || c->cancelling || c->retire || c->ninflight >= limit ||
			c->ninflight == 0 || c->dirty || c->tx != CONN_TX_IDLE) {
			continue;
		}
		head = cds_list_first_entry(&c->inflight, struct request, link);
		if (reads && (now - c->head_ns > SHARE_HEAD_NS || head->out.blocked ||
				     head->session == NULL)) {
			continue;
		}
		if (quick && c->turn_sends > 0 && c->turn_sends < SHARE_GROUP) {
			return c; /* what goes out together costs less */
		}
		if (best == NULL || c->ninflight < best->ninflight) {
			best = c;
		}
	}
	return best;
}

static struct conn *pick(struct pool *p, const struct request *r, enum pool_queue q)
{
	struct conn *c = idle_conn(p, must_write(r) ? CONN_WRITES : CONN_READS);

	if (c == NULL && p->split && q == POOL_QUEUE_ALL) {
		c = idle_conn(p, CONN_WRITES); /* it was not known to read when it queued */
	}
	if (c == NULL && may_share(p, r)) {
		c = shared_conn(p, r);
	}
	return c;
}

static void give(struct pool *p, struct request *r, struct conn *c)
{
	if (r->op == REQ_LEASE) {
		conn_set_state(c, CONN_LEASED);
		lease_grant(r->lease, c);
		return;
	}
	if (c->state == CONN_IDLE) {
		c->shareable = may_share(p, r);
		conn_set_state(c, CONN_BUSY);
	}
	conn_start(c, r, 0);
}

/* -- waiting ----------------------------------------------------------------------------------- */

static struct request *first_waiter(struct pool *p, enum pool_queue q)
{
	return cds_list_empty(&p->waiters[q])
		       ? NULL
		       : cds_list_first_entry(&p->waiters[q], struct request, link);
}

static void dequeue(struct pool *p, struct request *r)
{
	cds_list_del(&r->link);
	r->link.next = NULL;
	r->state = REQUEST_NEW;
	p->nwaiters--;
}

static uint64_t wait_end(const struct pool *p, uint64_t since_ns)
{
	return since_ns + (uint64_t)p->config->acquire_timeout * 1000000u;
}

/* A waiter whose time is over, or NULL; *next gets the time at which the first of the others ends.
 * One that was queued again stands before others whose time ends sooner. */
static struct request *find_overdue(struct pool *p, enum pool_queue q, uint64_t now, uint64_t *next)
{
	struct request *r;

	cds_list_for_each_entry(r, &p->waiters[q], link)
	{
		if (r->wait_until_ns <= now) {
			return r;
		}
		*next = r->wait_until_ns < *next ? r->wait_until_ns : *next;
	}
	return NULL;
}

/* Failing a waiter may free it and change the queue, so start over each time. */
static void on_expiry(struct timer *t)
{
	struct pool *p = container_of(t, struct pool, expiry);
	uint64_t now = io_now(p->io);
	uint64_t next = UINT64_MAX;

	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		struct request *r;

		while ((r = find_overdue(p, q, now, &next)) != NULL) {
			char text[512];
			struct failure f = {
				.code = FAIL_TIMEOUT, .retry_safe = true, .message = text};

			pool_describe_wait(p, text, sizeof(text));
			count(p, POOL_METRIC_LEASE_TIMEOUTS, 1);
			request_give_up(r, &f);
		}
	}
	if (next != UINT64_MAX) {
		io_timer_set(p->io, &p->expiry, next);
	}
}

static void enqueue(struct pool *p, struct request *r)
{
	struct cds_list_head *q = &p->waiters[queue_of(p, r)];
	struct cds_list_head *at = q;

	/* By arrival; a new one is the last, so this loop ends at once but for requeued ones. */
	while (at->prev != q &&
		cds_list_entry(at->prev, struct request, link)->arrived_ns > r->arrived_ns) {
		at = at->prev;
	}
	cds_list_add_tail(&r->link, at);
	r->state = REQUEST_QUEUED;
	r->wait_until_ns = wait_end(p, r->arrived_ns);
	p->nwaiters++;
}

void pool_queue(struct pool *p, struct request *r)
{
	static const struct failure full = {.code = FAIL_BUSY,
		.retry_safe = true,
		.message = "too many requests wait for a connection (max_waiting)"};
	static const struct failure closed = {
		.code = FAIL_SHUTDOWN, .message = "the broker is shutting down"};

	if (p->closing || p->io->stopping) {
		request_give_up(r, &closed);
		return;
	}
	if (p->config->max_waiting > 0 && p->nwaiters >= (unsigned)p->config->max_waiting) {
		count(p, POOL_METRIC_REJECTED, 1);
		request_give_up(r, &full);
		return;
	}
	enqueue(p, r);
}

void pool_requeue(struct pool *p, struct request *r)
{
	enqueue(p, r);
	/* It has run before; its own deadline bounds the rest, and it may wait as long as any other. */
	r->wait_until_ns = wait_end(p, io_now(p->io));
}

void pool_unqueue(struct pool *p, struct request *r)
{
	dequeue(p, r);
}

void pool_dispatch(struct pool *p)
{
	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		struct request *r;

		while ((r = first_waiter(p, q)) != NULL) {
			struct conn *c;

			if (request_is_late(r)) {
				request_expire(r);
				continue;
			}
			c = pick(p, r, q);
			if (c == NULL) {
				break;
			}
			dequeue(p, r);
			give(p, r, c);
		}
		for (; r != NULL && !r->waited;
			r = r->link.next == &p->waiters[q]
				    ? NULL
				    : cds_list_entry(r->link.next, struct request, link)) {
			r->waited = true;
			count(p, POOL_METRIC_WAITS, 1);
		}
	}
	if (p->nwaiters > 0) {
		if (!timer_is_set(&p->expiry)) {
			on_expiry(&p->expiry);
		}
		pool_grow(p);
	}
}

static void describe_holders(struct pool *p, char *buf, size_t size)
{
	uint64_t now = io_now(p->io);
	struct conn *c;
	size_t n = 0;
	unsigned shown = 0;

	cds_list_for_each_entry(c, &p->in_state[CONN_LEASED], link)
	{
		const struct lease *l = c->lease;

		if (l == NULL || l->session == NULL || shown == 3 || n >= size) {
			continue;
		}
		n += (size_t)snprintf(buf + n, size - n, "%s pid %d%s%.*s for %.1f s",
			shown == 0 ? "; held by" : ",", session_pid(l->session),
			l->tag_len > 0 ? " tag " : "", (int)l->tag_len, l->tag,
			(double)(now - l->since_ns) / 1e9);
		shown++;
	}
}

void pool_describe_wait(struct pool *p, char *buf, size_t size)
{
	unsigned idle = p->state_count[CONN_IDLE];
	unsigned active = p->state_count[CONN_BUSY] + p->state_count[CONN_LEASED] +
			  p->state_count[CONN_RESETTING];
	char holders[256] = "";

	describe_holders(p, holders, sizeof(holders));
	snprintf(buf, size,
		"no connection of pool %s became free in time (total=%u active=%u idle=%u waiting=%u "
		"connecting=%u%s%s%s)",
		p->config->name, active + idle, active, idle, p->nwaiters,
		p->state_count[CONN_CONNECTING], holders,
		p->last_error[0] != '\0' ? "; last connect error: " : "", p->last_error);
}

/* -- connections ------------------------------------------------------------------------------- */

void pool_connected(struct pool *p)
{
	p->backoff_ns = 0;
	p->next_connect_ns = 0;
	p->permanent_failure = false;
	p->last_error[0] = '\0';
	if (!p->ever_ready) {
		p->ever_ready = true;
		log_info("pool %s: connected to server %s", p->config->name, p->server->name);
		board_event(p->io->board, BOARD_EVENT_SERVER_UP, "pool %s: server %s answers",
			p->config->name, p->server->name);
	} else if (p->down) {
		log_info("pool %s: server %s answers again", p->config->name, p->server->name);
		board_event(p->io->board, BOARD_EVENT_SERVER_UP, "pool %s: server %s answers again",
			p->config->name, p->server->name);
	}
	p->down = false;
}

/* Wrong password, no such role or database: trying again does not help by itself. */
static bool is_permanent(const char *sqlstate)
{
	return strncmp(sqlstate, "28", 2) == 0 || strcmp(sqlstate, "3D000") == 0;
}

void pool_connect_failed(struct pool *p, struct conn *c, const struct failure *f)
{
	count(p, POOL_METRIC_CONNECT_FAILURES, 1);
	p->backoff_ns = p->backoff_ns == 0 ? BACKOFF_FIRST_NS : p->backoff_ns * 2;
	if (p->backoff_ns > BACKOFF_LAST_NS) {
		p->backoff_ns = BACKOFF_LAST_NS;
	}
	/* Up to a fifth of jitter, so that pools and hosts do not march in step. */
	p->next_connect_ns = io_now(p->io) + p->backoff_ns -
			     (p->backoff_ns / 5) * (uint64_t)(random() & 0xff) / 256;
	p->permanent_failure = is_permanent(f->sqlstate);
	p->last_code = f->code;
	memcpy(p->last_sqlstate, f->sqlstate, sizeof(p->last_sqlstate));
	if (strcmp(p->last_error, f->message) != 0) { /* say each thing once */
		snprintf(p->last_error, sizeof(p->last_error), "%s", f->message);
		log_warning("pool %s: cannot connect to server %s: %s", p->config->name,
			p->server->name, f->message);
		board_event(p->io->board, BOARD_EVENT_CONNECT_FAILURE, "pool %s: server %s: %s",
			p->config->name, p->server->name, f->message);
	}
	p->down = p->state_count[CONN_CLOSED] + p->state_count[CONN_CONNECTING] == p->nconns;
}

static unsigned open_count(const struct pool *p)
{
	return p->nconns - p->state_count[CONN_CLOSED];
}

static unsigned wanted(const struct pool *p)
{
	unsigned in_use = p->state_count[CONN_BUSY] + p->state_count[CONN_LEASED] +
			  p->state_count[CONN_RESETTING];
	unsigned n = p->config->min_idle < 0 || p->split ? p->nconns : (unsigned)p->config->min_idle;

	if (n < in_use + p->nwaiters) {
		n = in_use + p->nwaiters;
	}
	return n > p->nconns ? p->nconns : n;
}

/* One limit per server over all its pools. */
static bool server_has_room(const struct pool *p)
{
	unsigned n = 0;

	if (p->server->max_connections <= 0) {
		return true;
	}
	for (unsigned i = 0; i < p->io->npools; i++) {
		const struct pool *o = p->io->pools[i];

		if (o != NULL && o->server == p->server) {
			n += open_count(o);
		}
	}
	return n < (unsigned)p->server->max_connections;
}

void pool_grow(struct pool *p)
{
	if (p->closing || p->io->stopping) {
		return;
	}
	while (open_count(p) < wanted(p) && p->state_count[CONN_CONNECTING] < PARALLEL_CONNECTS &&
		(p->next_connect_ns <= io_now(p->io) ||
			(p->backoff_ns == 0)) &&
		server_has_room(p)) {
		/* The oldest closed one: slots are used in turn. */
		conn_open(cds_list_entry(p->in_state[CONN_CLOSED].prev, struct conn, link));
		if (p->backoff_ns != 0) {
			break; /* one try at a time while the server is down */
		}
	}
}

/* -- housekeeping ------------------------------------------------------------------------------ */

static void gauge(struct pool *p, enum pool_metric m, uint64_t v)
{
	board_pool_gauge(p->io->board, p->index, m, v);
}

static void mirror_conn(struct pool *p, struct conn *c)
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
	const struct lease *l = c->lease;
	struct board_conn_info info = {
		.pool = p->index,
		.server = p->server_index,
		.state = states[c->state],
		.backend_pid = c->backend_pid,
		.worker_slot = l != NULL && l->session != NULL ? session_slot(l->session) : BOARD_NONE,
		.in_flight = c->ninflight,
		.generation = c->generation,
		.connected_ns = c->connected_ns,
		.since_ns = c->since_ns,
		.lease_ns = l != NULL ? l->since_ns : 0,
		.statements = c->statements,
	};

	if (c->state == CONN_LEASED) {
		info.state = c->cancelling              ? BOARD_CONN_CANCELLING
			     : c->dirty                 ? BOARD_CONN_PINNED
			     : c->tx != CONN_TX_IDLE    ? BOARD_CONN_TRANSACTION
							: BOARD_CONN_LEASED;
	} else if (c->cancelling) {
		info.state = BOARD_CONN_CANCELLING;
	}
	board_conn_row(p->io->board, p->first_conn + c->slot, &info);
}

static void mirror_server(struct pool *p)
{
	struct board_server_info info = {
		.state = p->down           ? BOARD_SERVER_DOWN
			 : p->ever_ready   ? BOARD_SERVER_UP
					   : BOARD_SERVER_UNKNOWN,
		.role = strcmp(p->driver->name, "sqlite") == 0 ? BOARD_ROLE_LOCAL
							       : BOARD_ROLE_UNKNOWN,
		.connections = open_count(p),
		.max_connections = (uint32_t)p->server->max_connections,
	};

	snprintf(info.name, sizeof(info.name), "%s", p->server->name);
	snprintf(info.kind, sizeof(info.kind), "%s", p->driver->name);
	snprintf(info.address, sizeof(info.address), "%s", p->masked_url);
	snprintf(info.last_error, sizeof(info.last_error), "%.190s", p->last_error);
	board_server_row(p->io->board, p->server_index, &info);
}

static void mirror_pool(struct pool *p)
{
	struct board_pool_info info = {
		.state = p->down                        ? BOARD_POOL_DOWN
			 : pool_is_ready(p)             ? BOARD_POOL_UP
			 : p->ever_ready                ? BOARD_POOL_DOWN
							: BOARD_POOL_STARTING,
		.nservers = p->config->nservers,
		.max_size = p->nconns,
		.min_idle = (uint32_t)(p->config->min_idle < 0 ? p->nconns : p->config->min_idle),
		.server = p->server_index,
	};

	snprintf(info.name, sizeof(info.name), "%s", p->config->name);
	snprintf(info.database, sizeof(info.database), "%s",
		p->config->database != NULL ? p->config->database : "");
	snprintf(info.user, sizeof(info.user), "%s", p->config->user != NULL ? p->config->user : "");
	snprintf(info.mode, sizeof(info.mode), "transaction");
	board_pool_row(p->io->board, p->index, &info);
}

static void mirror_gauges(struct pool *p)
{
	unsigned pinned = 0, leased = 0, cancelling = 0;
	uint64_t oldest = 0;
	struct conn *c;

	cds_list_for_each_entry(c, &p->in_state[CONN_LEASED], link)
	{
		pinned += c->dirty;
		leased += !c->dirty;
	}
	for (unsigned i = 0; i < p->nconns; i++) {
		cancelling += p->conns[i].cancelling;
	}
	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		const struct request *r = first_waiter(p, q);

		if (r != NULL && (oldest == 0 || r->arrived_ns < oldest)) {
			oldest = r->arrived_ns;
		}
	}
	gauge(p, POOL_METRIC_WAITERS, p->nwaiters);
	gauge(p, POOL_METRIC_WAITING_SINCE, oldest);
	gauge(p, POOL_METRIC_CL_WAITING, p->nwaiters);
	gauge(p, POOL_METRIC_CL_ACTIVE, p->state_count[CONN_BUSY] + leased + pinned);
	gauge(p, POOL_METRIC_SV_ACTIVE, p->state_count[CONN_BUSY]);
	gauge(p, POOL_METRIC_SV_LEASED, leased);
	gauge(p, POOL_METRIC_SV_PINNED, pinned);
	gauge(p, POOL_METRIC_SV_BEING_CANCELED, cancelling);
	gauge(p, POOL_METRIC_CL_ACTIVE_CANCEL_REQ, cancelling);
	gauge(p, POOL_METRIC_SV_IDLE, p->state_count[CONN_IDLE]);
	gauge(p, POOL_METRIC_SV_TESTED, p->state_count[CONN_RESETTING]);
	gauge(p, POOL_METRIC_SV_LOGIN, p->state_count[CONN_CONNECTING]);
}

/* Too old, or idle for long and not needed: closed while nobody uses it. */
static void retire_idle(struct pool *p)
{
	uint64_t now = io_now(p->io);
	uint64_t idle_ns = (uint64_t)p->config->idle_timeout * 1000000u;
	uint64_t life_ns = (uint64_t)p->config->max_lifetime * 1000000u;
	struct conn *c, *next;

	cds_list_for_each_entry_safe(c, next, &p->in_state[CONN_IDLE], link)
	{
		/* A quarter of the lifetime is spread over the slots, so they do not end together. */
		uint64_t spread = life_ns / 4 * ((c->slot * 7u + (unsigned)c->generation) % 16u) / 16;

		if (life_ns != 0 && now - c->connected_ns > life_ns - spread) {
			conn_give_up(c, NULL);
		} else if (idle_ns != 0 && open_count(p) > wanted(p) &&
			   now - c->idle_since_ns > idle_ns) {
			conn_give_up(c, NULL);
		}
	}
}

void pool_tick(struct pool *p)
{
	for (unsigned i = 0; i < p->nconns; i++) {
		conn_tick(&p->conns[i]);
	}
	if (!p->closing && !p->split) {
		retire_idle(p);
	}
	pool_grow(p);
	for (unsigned i = 0; i < p->nconns; i++) {
		mirror_conn(p, &p->conns[i]);
	}
	mirror_gauges(p);
	mirror_pool(p);
	mirror_server(p);
}

/* -- life -------------------------------------------------------------------------------------- */

bool pool_is_ready(const struct pool *p)
{
	unsigned n = p->state_count[CONN_IDLE] + p->state_count[CONN_BUSY] +
		     p->state_count[CONN_LEASED] + p->state_count[CONN_RESETTING];

	return p->split ? n == p->nconns : n > 0;
}

void pool_refuse_waiters(struct pool *p)
{
	static const struct failure closed = {
		.code = FAIL_SHUTDOWN, .retry_safe = true, .message = "the broker is shutting down"};

	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		struct request *r;

		while ((r = first_waiter(p, q)) != NULL) {
			request_give_up(r, &closed);
		}
	}
}

void pool_close(struct pool *p)
{
	p->closing = true;
	pool_refuse_waiters(p);
	for (unsigned i = 0; i < p->nconns; i++) {
		conn_give_up(&p->conns[i], NULL);
	}
}

bool pool_is_closed(const struct pool *p)
{
	return p->state_count[CONN_CLOSED] == p->nconns;
}

/* Connections that differ in role queue apart. */
static bool roles_differ(const struct pool *p)
{
	for (unsigned i = 1; i < p->nconns; i++) {
		if (p->conns[i].roles != p->conns[0].roles) {
			return true;
		}
	}
	return false;
}

int pool_create(struct io *io, unsigned index, unsigned first_conn, const struct config_pool *config,
	const struct config_server *server, unsigned server_index, struct pool **out, char *err,
	size_t errlen)
{
	struct pool *p = calloc(1, sizeof(*p));

	if (p == NULL) {
		snprintf(err, errlen, "out of memory");
		return -1;
	}
	p->io = io;
	p->index = index;
	p->first_conn = first_conn;
	p->server_index = server_index;
	p->config = config;
	p->server = server;
	p->driver = driver_for_url(server->url);
	p->expiry.fire = on_expiry;
	for (unsigned i = 0; i < CONN_STATE_COUNT; i++) {
		CDS_INIT_LIST_HEAD(&p->in_state[i]);
	}
	for (unsigned i = 0; i < POOL_QUEUES; i++) {
		CDS_INIT_LIST_HEAD(&p->waiters[i]);
	}
	p->masked_url = config_mask_url(server->url);
	if (p->masked_url == NULL) {
		snprintf(err, errlen, "out of memory");
		goto err_pool;
	}
	if (p->driver->server_open(io, server, config, &p->server_priv, err, errlen) < 0) {
		goto err_pool;
	}
	p->nconns = p->driver->size(p->server_priv, config);
	p->conns = calloc(p->nconns, sizeof(*p->conns));
	if (p->conns == NULL) {
		snprintf(err, errlen, "out of memory");
		goto err_server;
	}
	for (unsigned i = 0; i < p->nconns; i++) {
		conn_init(&p->conns[i], p, i);
	}
	p->split = roles_differ(p);
	*out = p;
	return 0;
err_server:
	p->driver->server_close(p->server_priv);
err_pool:
	free(p->masked_url);
	free(p);
	return -1;
}

void pool_destroy(struct pool **pp)
{
	struct pool *p = *pp;

	if (p == NULL) {
		return;
	}
	check(pool_is_closed(p));
	io_timer_clear(p->io, &p->expiry);
	p->driver->server_close(p->server_priv);
	free(p->masked_url);
	free(p->conns);
	free(p);
	*pp = NULL;
}
