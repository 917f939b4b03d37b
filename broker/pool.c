/* SPDX-License-Identifier: MIT */
/* pool.c - see pool.h. */
#include "pool.h"

#include "conn.h"
#include "doorbell.h"
#include "lease.h"
#include "log.h"
#include "request_core.h"
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)

static const struct failure shutting_down = {
	.code = FAIL_SHUTDOWN, .retry_safe = true, .message = "the broker is shutting down"};

static void on_expiry(struct timer *t);

static void count(struct pool *p, enum pool_metric m, uint64_t n)
{
	board_pool_count(p->io->board, p->index, m, n);
}

unsigned pool_count(const struct pool *p, enum conn_state state)
{
	struct member *m;
	unsigned n = 0;

	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		n += m->state_count[state];
	}
	return n;
}

unsigned pool_used(const struct pool *p)
{
	return pool_count(p, CONN_BUSY) + pool_count(p, CONN_LEASED) +
	       pool_count(p, CONN_RESETTING);
}

/* -- which server does what -------------------------------------------------------------------- */

static struct failure unusable(const struct member *m, char *text, size_t size)
{
	snprintf(text, size, "server %s %s%s%s", m->server->config->name,
		m->server->state.verdict == VERDICT_DOWN ? "is down" : "takes no writes any more",
		m->server->last_error[0] != '\0' ? ": " : "", m->server->last_error);
	return (struct failure){.code = FAIL_UNAVAILABLE, .retry_safe = true, .message = text};
}

static const char *name_of(const struct pool *p, int server)
{
	return server < 0 ? "none" : p->member[server]->server->config->name;
}

/* All I/O threads come to the same decision; one tells. */
static void tell(struct pool *p, const struct decision *was)
{
	const struct decision *d = &p->decision;

	if (p->io->shard > 0) {
		return;
	}
	if (d->writer != was->writer && p->ever_ready) {
		log_warning("pool %s: writes go to server %s, before: %s (%s)", p->config->name,
			name_of(p, d->writer), name_of(p, was->writer), d->why);
		board_event(p->io->board, BOARD_EVENT_FAILOVER,
			"pool %s: writes go to server %s, before: %s (%s)", p->config->name,
			name_of(p, d->writer), name_of(p, was->writer), d->why);
		count(p, POOL_METRIC_FAILOVERS, 1);
	} else if (d->mode != was->mode && p->ever_ready) {
		log_info("pool %s: %s", p->config->name, d->why);
	}
}

/*
 * A server calls itself primary and is not used: the operator has to say which one is right, for it
 * may have what the other lacks.  Once, until it changes.
 */
static void tell_fenced(struct pool *p)
{
	uint32_t found = 0;

	for (unsigned i = 0; i < p->nmembers; i++) {
		const struct server *s = p->member[i]->server;
		bool answers =
			s->state.verdict != VERDICT_DOWN && s->state.verdict != VERDICT_UNKNOWN;

		if (!answers || (p->decision.fenced >> i & 1) == 0) {
			continue;
		}
		found |= UINT32_C(1) << i;
		if ((p->told_fenced >> i & 1) == 0 && p->io->shard == 0) {
			log_warning("pool %s: server %s " FENCED_NOTE
				    "; if it is the right one, take "
				    "the others out of the configuration and reload",
				p->config->name, s->config->name, s->state.timeline);
			board_event(p->io->board, BOARD_EVENT_ROLE, "server %s " FENCED_NOTE,
				s->config->name, s->state.timeline);
		}
	}
	p->told_fenced = found;
}

static bool is_fenced(const struct pool *p, const struct server *s)
{
	for (unsigned i = 0; i < p->nmembers; i++) {
		if ((p->decision.fenced >> i & 1) != 0 && p->member[i]->server == s) {
			return true;
		}
	}
	return false;
}

/* What runs on servers that are gone, or that must not be used, is lost now, not when TCP notices;
 * on old connections of draining members as well. */
static void cut_off(struct pool *p)
{
	struct member *m;

	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		m->fenced = is_fenced(p, m->server);
		if (m->server->state.verdict == VERDICT_DOWN || m->fenced) {
			char text[300];
			struct failure f = unusable(m, text, sizeof(text));

			member_close(m, &f);
		} else if (m->server->state.verdict == VERDICT_RECOVERING) {
			m->backoff_ns = 0; /* it answers: no reason to wait */
		}
	}
}

void pool_decide(struct pool *p)
{
	struct server_state s[FAILOVER_MAX_SERVERS];
	struct failover_policy policy = {
		.read_from = p->config->read_from,
		.fallback = p->config->fallback,
		.max_lag_ns = (uint64_t)p->config->max_lag * MS,
	};
	struct decision was = p->decision;

	if (p->closing) {
		return;
	}
	for (unsigned i = 0; i < p->nmembers; i++) {
		s[i] = p->member[i]->server->state;
	}
	p->decision = decide(&policy, s, p->nmembers, &was);
	p->writer = handback_writer(p);
	if (p->decision.mode != was.mode || p->decided_ns == 0) {
		p->decided_ns = io_now(p->io);
	}
	tell(p, &was);
	tell_fenced(p);
	cut_off(p);
	if (p->nwaiters > 0) {
		io_again(p->io); /* this turn may be past its dispatch */
	}
}

void server_changed(struct server *s)
{
	struct member *m;

	cds_list_for_each_entry(m, &s->members, server_link)
	{
		if (m->index != MEMBER_DRAINING) {
			pool_decide(m->pool);
		}
	}
}

/* -- caps -------------------------------------------------------------------------------------- */

static bool is_capped(const struct pool *p, const struct request *r)
{
	const struct config_pool *c = p->config;

	return (c->max_per_uid > 0 && caps_used(&p->caps, CAP_UID, session_uid(r->session)) >=
					      (unsigned)c->max_per_uid) ||
	       (c->max_per_tag > 0 && r->tag_len > 0 &&
		       caps_used(&p->caps, CAP_TAG, caps_tag(r->tag, r->tag_len)) >=
			       (unsigned)c->max_per_tag);
}

void pool_cap_take(struct pool *p, struct member *m, struct capped *c, const struct request *r)
{
	*c = (struct capped){.slow_on = choice_is_slow(p, r) ? m : NULL};
	if (c->slow_on != NULL) {
		add_shared(&m->tally->slow, 1);
	}
	if (p->config->max_per_uid > 0) {
		c->uid = session_uid(r->session);
		c->uid_taken = caps_take(&p->caps, CAP_UID, c->uid);
	}
	if (p->config->max_per_tag > 0 && r->tag_len > 0) {
		c->tag = caps_tag(r->tag, r->tag_len);
		c->tag_taken = caps_take(&p->caps, CAP_TAG, c->tag);
	}
}

void pool_cap_drop(struct pool *p, struct capped *c)
{
	if (c->slow_on != NULL) {
		add_shared(&c->slow_on->tally->slow, (uint32_t)-1);
	}
	if (c->uid_taken) {
		caps_drop(&p->caps, CAP_UID, c->uid);
	}
	if (c->tag_taken) {
		caps_drop(&p->caps, CAP_TAG, c->tag);
	}
	*c = (struct capped){0};
}

/* -- waiting ----------------------------------------------------------------------------------- */

static struct request *first_waiter(struct pool *p, enum pool_queue q)
{
	return cds_list_empty(&p->waiters[q])
		       ? NULL
		       : cds_list_first_entry(&p->waiters[q], struct request, link);
}

struct request *pool_first_eligible(struct pool *p, enum pool_queue q)
{
	bool caps = p->config->max_per_uid > 0 || p->config->max_per_tag > 0;
	struct request *r;

	cds_list_for_each_entry(r, &p->waiters[q], link)
	{
		if (!choice_stands_aside(p, r) && (!caps || !is_capped(p, r))) {
			return r;
		}
	}
	return NULL;
}

bool pool_wants(struct pool *p, enum pool_queue q)
{
	return pool_first_eligible(p, q) != NULL;
}

static void dequeue(struct pool *p, struct request *r)
{
	cds_list_del(&r->link);
	r->link.next = NULL;
	r->state = REQUEST_NEW;
	p->nwaiters--;
	if (r->round != p->round) {
		count(p, POOL_METRIC_WAITS, 1);
	}
}

static uint64_t wait_end(const struct pool *p, uint64_t since_ns)
{
	return since_ns + (uint64_t)p->config->acquire_timeout * MS;
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

/* A new one is the last, so this loop ends at once but for those queued again, batch ones, and
 * those that change the queue. */
static void insert(struct pool *p, struct request *r, enum pool_queue queue)
{
	struct cds_list_head *q = &p->waiters[queue];
	struct cds_list_head *at = q;

	while (at->prev != q &&
		cds_list_entry(at->prev, struct request, link)->rank_ns > r->rank_ns) {
		at = at->prev;
	}
	cds_list_add_tail(&r->link, at);
}

static void enqueue(struct pool *p, struct request *r)
{
	r->rank_ns = r->arrived_ns + (r->flags & REQ_F_BATCH
						     ? (uint64_t)p->config->batch_patience * MS
						     : 0);
	insert(p, r, choice_queue(p, r));
	r->state = REQUEST_QUEUED;
	r->round = p->round;
	r->wait_until_ns = wait_end(p, r->arrived_ns);
	p->nwaiters++;
	if (timer_is_set(&p->expiry) && p->expiry.when_ns > r->wait_until_ns) {
		io_timer_set(p->io, &p->expiry, r->wait_until_ns); /* acquire_timeout has changed */
	}
}

/* Where a fresh read can go changes with what its worker writes and standbys replay: one that
 * stands at the head of the wrong queue would keep those behind it waiting. */
static void place_fresh(struct pool *p)
{
	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		struct request *r;

		while ((r = first_waiter(p, (enum pool_queue)q)) != NULL &&
			(r->flags & REQ_F_FRESH) && choice_queue(p, r) != (enum pool_queue)q) {
			cds_list_del(&r->link);
			insert(p, r, choice_queue(p, r));
		}
	}
}

void pool_queue(struct pool *p, struct request *r)
{
	if (p->closing || p->io->stopping) {
		request_give_up(r, &shutting_down);
		return;
	}
	enqueue(p, r);
}

void pool_requeue(struct pool *p, struct request *r)
{
	enqueue(p, r);
	/* It has run before; its own deadline bounds the rest, and it may wait as long as any
	 * other. */
	r->wait_until_ns = wait_end(p, io_now(p->io));
}

void pool_unqueue(struct pool *p, struct request *r)
{
	dequeue(p, r);
}

/* -- serving ----------------------------------------------------------------------------------- */

/* r has waited for c, which somebody has just left. */
static void count_handoff(struct pool *p, uint64_t freed_ns)
{
	uint64_t now = doorbell_now();

	board_time(p->io->board, p->index, POOL_HIST_HANDOFF, now > freed_ns ? now - freed_ns : 0);
}

static void start_on(struct pool *p, struct request *r, struct conn *c)
{
	if (r->op == REQ_LEASE) {
		pool_cap_take(p, c->member, &r->lease->capped, r);
		conn_set_state(c, CONN_LEASED);
		lease_grant(r->lease, c);
		return;
	}
	pool_cap_take(p, c->member, &r->capped, r);
	if (c->state != CONN_BUSY) {
		c->shareable = choice_may_share(c->member, r);
		conn_set_state(c, CONN_BUSY);
	}
	conn_start(c, r, 0);
}

static void give(struct pool *p, struct request *r, struct conn *c)
{
	if (c->state != CONN_BUSY && r->arrived_ns < c->freed_ns) {
		count_handoff(p, c->freed_ns);
	}
	start_on(p, r, c); /* may end r, and lose c */
}

/* False: it has to wait on. */
static bool serve(struct pool *p, struct request *r, const struct request *older)
{
	struct conn *c;

	if (request_is_late(r)) {
		request_expire(r);
		return true;
	}
	c = choice_pick(p, r, older);
	if (c == NULL) {
		return false;
	}
	dequeue(p, r);
	give(p, r, c);
	return true;
}

static bool serve_one(struct pool *p)
{
	struct request *a, *b;

	place_fresh(p);
	a = pool_first_eligible(p, POOL_QUEUE_ALL);
	b = pool_first_eligible(p, POOL_QUEUE_READS);
	if (a == NULL || (b != NULL && b->rank_ns < a->rank_ns)) {
		struct request *t = a;

		a = b;
		b = t;
	}
	return a != NULL && (serve(p, a, NULL) || (b != NULL && serve(p, b, a)));
}

/* Of those that came in this turn, the last; NULL: none has. */
static struct request *last_newcomer(const struct pool *p)
{
	struct request *r, *last = NULL;

	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		cds_list_for_each_entry_reverse(r, &p->waiters[q], link)
		{
			if (r->round == p->round && r->sends == 0) {
				last = last == NULL || r->arrived_ns >= last->arrived_ns ? r : last;
				break;
			}
		}
	}
	return last;
}

/* Not before those that need not wait were served. */
static void refuse_surplus(struct pool *p)
{
	static const struct failure full = {.code = FAIL_BUSY,
		.retry_safe = true,
		.message = "too many requests wait for a connection (max_waiting)"};
	struct request *r;

	while (p->config->max_waiting > 0 && p->nwaiters > 0 &&
		p->nwaiters + lending_elsewhere(p, LENDING_WAITING) >
			(unsigned)p->config->max_waiting &&
		(r = last_newcomer(p)) != NULL) {
		count(p, POOL_METRIC_REJECTED, 1);
		request_give_up(r, &full);
	}
}

void pool_grow(struct pool *p)
{
	for (unsigned i = 0; i < p->nmembers; i++) {
		member_grow(p->member[i]);
	}
}

static void serve_waiters(struct pool *p)
{
	if (p->nwaiters == 0) {
		return;
	}
	handback_step(p);
	while (serve_one(p)) {
	}
	refuse_surplus(p);
	p->round++;
	if (p->nwaiters > 0) {
		if (!timer_is_set(&p->expiry)) {
			on_expiry(&p->expiry);
		}
		pool_grow(p);
	}
}

void pool_dispatch(struct pool *p)
{
	if (p->lending.line == NULL) {
		serve_waiters(p);
		return;
	}
	lending_give(p);
	serve_waiters(p);
	lending_ask(p);
}

/* -- complaints -------------------------------------------------------------------------------- */

static size_t describe_holder(const struct conn *c, bool first, char *buf, size_t size)
{
	const struct lease *l = c->lease;
	const struct statement *st = l->last;
	double age = (double)(io_now(c->io) - l->since_ns) / 1e9;
	int n = snprintf(buf, size, "%s pid %d%s%.*s for %.1f s%s%.40s",
		first ? "; held by" : ",", session_pid(l->session), l->tag_len > 0 ? " tag " : "",
		(int)l->tag_len, l->tag, age, st != NULL ? ": " : "",
		st != NULL ? st->text : "");

	return n < 0 ? 0 : (size_t)n;
}

static void describe_holders(struct pool *p, char *buf, size_t size)
{
	unsigned shown = 0;
	struct member *m;
	struct conn *c;
	size_t n = 0;

	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		cds_list_for_each_entry(c, &m->in_state[CONN_LEASED], link)
		{
			if (c->lease == NULL || c->lease->session == NULL || shown == 3 ||
				n >= size) {
				continue;
			}
			n += describe_holder(c, shown == 0, buf + n, size - n);
			shown++;
		}
	}
	if (n < size) {
		lending_describe_holders(p, shown == 0, buf + n, size - n);
	}
}

static const char *last_error(const struct pool *p)
{
	struct member *m;

	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		if (m->last_error[0] != '\0') {
			return m->last_error;
		}
		if (m->server->state.verdict == VERDICT_DOWN && m->server->last_error[0] != '\0') {
			return m->server->last_error;
		}
	}
	return "";
}

void pool_describe_wait(struct pool *p, char *buf, size_t size)
{
	unsigned idle = pool_count(p, CONN_IDLE) + lending_elsewhere(p, LENDING_IDLE),
		 active = pool_used(p) + lending_elsewhere(p, LENDING_ACTIVE);
	const char *error = last_error(p);
	const char *why = handback_why(p) != NULL ? handback_why(p) : p->decision.why;
	char holders[320] = "";

	describe_holders(p, holders, sizeof(holders));
	snprintf(buf, size,
		"no connection of pool %s became free in time (total=%u active=%u idle=%u "
		"waiting=%u connecting=%u%s%s%s%s%s)",
		p->config->name, active + idle, active, idle,
		p->nwaiters + lending_elsewhere(p, LENDING_WAITING),
		pool_count(p, CONN_CONNECTING) + lending_elsewhere(p, LENDING_CONNECTING), holders,
		p->writer == NULL ? "; " : "", p->writer == NULL ? why : "",
		error[0] != '\0' ? "; last connect error: " : "", error);
}

uint64_t pool_oldest_wait(struct pool *p)
{
	uint64_t oldest = 0;

	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		const struct request *r = first_waiter(p, q);

		if (r != NULL && (oldest == 0 || r->arrived_ns < oldest)) {
			oldest = r->arrived_ns;
		}
	}
	return oldest;
}

static void tell_waiting(struct pool *p)
{
	uint64_t now = io_now(p->io), oldest = pool_oldest_wait(p);
	char text[512];

	if (oldest == 0 || p->config->queue_notify == 0 ||
		now - oldest < (uint64_t)p->config->queue_notify * MS) {
		p->told_waiting = p->told_waiting && oldest != 0;
		return;
	}
	if (!p->told_waiting) {
		pool_describe_wait(p, text, sizeof(text));
		log_warning("requests wait for %.1f s: %s", (double)(now - oldest) / 1e9, text);
		p->told_waiting = true;
	}
}

/* -- life -------------------------------------------------------------------------------------- */

static void bury_drained(struct pool *p)
{
	struct member *m, *next;

	cds_list_for_each_entry_safe(m, next, &p->members, pool_link)
	{
		if (m->index == MEMBER_DRAINING && m->state_count[CONN_CLOSED] == m->nconns) {
			cds_list_del(&m->pool_link);
			member_destroy(&m);
		}
	}
}

void pool_tick(struct pool *p)
{
	struct member *m;

	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		member_tick(m);
	}
	bury_drained(p);
	handback_step(p);
	tell_waiting(p);
	p->ever_ready = p->ever_ready || pool_is_ready(p);
	lending_tick(p);
	pool_mirror(p);
}

bool pool_is_ready(const struct pool *p)
{
	bool asked = true;

	if (p->writer != NULL) {
		return member_is_ready(p->writer);
	}
	for (unsigned i = 0; i < p->nmembers; i++) {
		asked = asked && p->member[i]->server->state.verdict != VERDICT_UNKNOWN;
	}
	for (unsigned i = 0; asked && i < p->nmembers; i++) {
		if (member_takes_reads(p->member[i]) && member_is_ready(p->member[i])) {
			return true;
		}
	}
	return false;
}

bool pool_is_hopeless(const struct pool *p, char *why, size_t size)
{
	bool hopeless = true;

	for (unsigned i = 0; i < p->nmembers; i++) {
		hopeless = hopeless && p->member[i]->permanent_failure;
	}
	snprintf(why, size, "pool %s: server %s cannot be used: %s", p->config->name,
		p->member[0]->server->config->name,
		last_error(p)[0] != '\0' ? last_error(p) : "no answer");
	return hopeless;
}

void pool_refuse_waiters(struct pool *p)
{
	for (unsigned q = 0; q < POOL_QUEUES; q++) {
		struct request *r;

		while ((r = first_waiter(p, q)) != NULL) {
			request_give_up(r, &shutting_down);
		}
	}
}

void pool_close(struct pool *p)
{
	struct member *m;

	p->closing = true;
	handback_close(p);
	pool_refuse_waiters(p);
	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		member_close(m, NULL);
	}
}

bool pool_is_closed(const struct pool *p)
{
	struct member *m;

	if (!handback_is_closed(p)) {
		return false;
	}
	cds_list_for_each_entry(m, &p->members, pool_link)
	{
		if (m->state_count[CONN_CLOSED] != m->nconns) {
			return false;
		}
	}
	return true;
}

struct pool *pool_create(struct io *io, unsigned index, const struct config_pool *config)
{
	struct pool *p = calloc(1, sizeof(*p));

	if (p == NULL) {
		return NULL;
	}
	p->io = io;
	p->index = index;
	p->config = config;
	p->decision.writer = -1;
	p->expiry.fire = on_expiry;
	lending_init(p);
	CDS_INIT_LIST_HEAD(&p->members);
	for (unsigned i = 0; i < POOL_QUEUES; i++) {
		CDS_INIT_LIST_HEAD(&p->waiters[i]);
	}
	return p;
}

/* -- another configuration --------------------------------------------------------------------- */

static unsigned find_server(const struct config_server *configs, unsigned n, const char *name)
{
	for (unsigned i = 0; i < n; i++) {
		if (strcmp(configs[i].name, name) == 0) {
			return i;
		}
	}
	check(!"the configuration made sure that every pool's servers exist");
	return 0;
}

static struct member *member_that_stays(const struct pool *p, const struct config_pool *config,
	const struct server *s, const struct config_server *server)
{
	for (unsigned i = 0; i < p->nmembers; i++) {
		struct member *m = p->member[i];

		if (m->server == s &&
			config_server_same_connection(
				s->config, p->config, server, config)) {
			return m;
		}
	}
	return NULL;
}

int pool_plan(struct pool *p, const struct config_pool *config, struct server *const *servers,
	const struct config_server *configs, unsigned nservers, const struct pool_plan *first,
	struct pool_plan *plan, char *err, size_t errlen)
{
	*plan = (struct pool_plan){.config = config};
	check(config->nservers <= FAILOVER_MAX_SERVERS);
	for (unsigned i = 0; i < config->nservers; i++) {
		unsigned s = find_server(configs, nservers, config->servers[i]);

		plan->member[i] = member_that_stays(p, config, servers[s], &configs[s]);
		plan->kept[i] = plan->member[i] != NULL;
		if (!plan->kept[i] && member_create(p, servers[s], &configs[s], config,
					      first != NULL ? first->member[i]->tally : NULL,
					      &plan->member[i], err, errlen) < 0) {
			pool_drop_plan(plan);
			return -1;
		}
		plan->n++;
	}
	return 0;
}

void pool_drop_plan(struct pool_plan *plan)
{
	for (unsigned i = 0; i < plan->n; i++) {
		if (!plan->kept[i]) {
			member_destroy(&plan->member[i]);
		}
	}
	plan->n = 0;
}

static bool is_planned(const struct pool_plan *plan, const struct member *m)
{
	for (unsigned i = 0; i < plan->n; i++) {
		if (plan->member[i] == m) {
			return true;
		}
	}
	return false;
}

void pool_apply(struct pool *p, const struct pool_plan *plan)
{
	int was = p->decision.writer;
	unsigned row = was >= 0 ? p->member[was]->server->index : BOARD_NONE;

	for (unsigned i = 0; i < p->nmembers; i++) {
		if (!is_planned(plan, p->member[i])) {
			member_drain(p->member[i]);
		}
	}
	p->config = plan->config;
	p->nmembers = plan->n;
	p->decision.writer = -1;
	for (unsigned i = 0; i < plan->n; i++) {
		struct member *m = plan->member[i];

		p->member[i] = m;
		m->index = i;
		if (m->server->index == row) { /* the same server, if by other connections */
			p->decision.writer = (int)i;
		}
		if (!plan->kept[i]) {
			cds_list_add_tail(&m->pool_link, &p->members);
		}
	}
	p->writer = is_planned(plan, p->writer) ? p->writer : NULL;
	/* bits of other servers; pool_decide follows */
	p->decision.readers = p->decision.fenced = 0;
	p->told_fenced = 0;
	p->turn = 0;
}

void pool_destroy(struct pool **pp)
{
	struct pool *p = *pp;
	struct member *m, *next;

	if (p == NULL) {
		return;
	}
	check(pool_is_closed(p));
	lending_finish(p);
	io_timer_clear(p->io, &p->expiry);
	cds_list_for_each_entry_safe(m, next, &p->members, pool_link)
	{
		cds_list_del(&m->pool_link);
		member_destroy(&m);
	}
	caps_finish(&p->caps);
	free(p);
	*pp = NULL;
}
