/* SPDX-License-Identifier: MIT */
/*
 * pool.h - who waits for connections of one database and user, and who is served.
 *
 * Waiters are served first come, first served; a request keeps its place until it is served, fails
 * or gives up.  One that was declared as batch takes the place of one that came batch_patience
 * later.  Free connections are used last in, first out, so that surplus ones stay idle.  A waiter
 * gets the connection itself, not a hint to look again.
 *
 * Servers.  The pool has a member (member.h) for each server.  decide() (failover.h) says which one
 * takes writes and which take declared reads, whenever something changed (pool_decide).
 *
 * Queues.  Requests that may read from several servers, or on connections that only read, queue
 * apart from the others.  Of the two at the head the older is served first; the younger may pass it
 * only on a connection that the older one could not use.
 *
 * A request that may share (see choice.c) needs no free connection; but while anyone waits for a
 * connection of his own nobody overtakes him.  But statements that are known to be slow leave one
 * connection of each server to the others: where they have all the rest they are passed by, or a
 * few of them would keep all workers waiting.
 *
 * With several I/O threads (shards.h) each has a struct pool of the same row, with the waiters of
 * its sessions; lending.h says how they come by each other's connections.
 *
 * I/O thread only.
 */
#ifndef BROKER_POOL_H
#define BROKER_POOL_H

#include "caps.h"
#include "driver.h"
#include "failover.h"
#include "handback.h"
#include "io.h"
#include "lending.h"
#include "member.h"

struct pool {
	struct io *io;
	unsigned index; /* in io->pools and on the board */
	const struct config_pool *config;
	struct member *member[FAILOVER_MAX_SERVERS]; /* in the configured order */
	unsigned nmembers;
	struct cds_list_head members; /* these and the draining ones, struct member.pool_link */

	struct decision decision;
	uint32_t told_fenced; /* servers that were said to be fenced and answer */
	struct member *writer; /* takes writes now, or NULL */
	struct handback handback;
	uint64_t decided_ns; /* when the mode changed last */
	uint64_t pin_told_ns; /* when a pinned connection was last told as an event, 0: never */
	unsigned turn; /* of the servers that take reads: where to look first */

	struct cds_list_head waiters[POOL_QUEUES]; /* struct request.link, by rank */
	unsigned nwaiters;
	uint64_t round; /* of serving: who is still there after one had to wait */
	struct caps caps;
	struct lending lending;
	bool closing;
	bool told_waiting; /* queue_notify was logged and has not ended */
	bool ever_ready;
	struct timer expiry; /* of the first waiter */
	uint64_t until_sample; /* statements that end before one is drawn; see querylog.c */
};

/* Without servers; pool_plan and pool_apply give it some.  NULL: no memory. */
struct pool *pool_create(struct io *io, unsigned index, const struct config_pool *config) must_use;
/* All connections are CLOSED. */
void pool_destroy(struct pool **p);

/* What a configuration makes of a pool: members that stay, and members that were created for it. */
struct pool_plan {
	const struct config_pool *config;
	unsigned n;
	struct member *member[FAILOVER_MAX_SERVERS];
	bool kept[FAILOVER_MAX_SERVERS];
};

/*
 * Prepare what config wants; a member stays if its server does and it would connect in the same
 * way.  servers: as they will be, by row; configs: their configurations.  first: the plan of the
 * first I/O thread, NULL: this is it.  0, or negative and a text; then
 * there is nothing to drop.  Nothing of p changes before pool_apply.
 */
int pool_plan(struct pool *p, const struct config_pool *config, struct server *const *servers,
	const struct config_server *configs, unsigned nservers, const struct pool_plan *first,
	struct pool_plan *plan, char *err, size_t errlen) must_use;
void pool_apply(struct pool *p, const struct pool_plan *plan);
void pool_drop_plan(struct pool_plan *plan);

/* Open connections that are missing. */
void pool_grow(struct pool *p);

/* Look which servers do what. */
void pool_decide(struct pool *p);

/* Queue a request without a lease, or a REQ_LEASE.  Its time to wait is bounded by its own deadline
 * and by acquire_timeout. */
void pool_queue(struct pool *p, struct request *r);
/* Put back at the place its arrival gives it: it was never executed, or may be repeated. */
void pool_requeue(struct pool *p, struct request *r);
/* Leave the queue. */
void pool_unqueue(struct pool *p, struct request *r);
/* Does anybody wait who may have another connection? */
bool pool_wants(struct pool *p, enum pool_queue q);
/* Serve waiters while connections can be given. */
void pool_dispatch(struct pool *p);
/* Why somebody waited in vain: counts, who holds connections, the last connect error. */
void pool_describe_wait(struct pool *p, char *buf, size_t size);

/* A request or lease that counts for a user or tag got a connection of m; does not use it any
 * more. */
void pool_cap_take(struct pool *p, struct member *m, struct capped *c, const struct request *r);
void pool_cap_drop(struct pool *p, struct capped *c);

/* Housekeeping, each tick. */
void pool_tick(struct pool *p);
/* Show it on the board: poolboard.c. */
void pool_mirror(struct pool *p);
/* The broker stops: nobody who waits will be served. */
void pool_refuse_waiters(struct pool *p);
/* Close everything; conn_closed follows for each. */
void pool_close(struct pool *p);
bool pool_is_closed(const struct pool *p);
/* Somebody can be served. */
bool pool_is_ready(const struct pool *p);
/* No server can be used, and time will not change that; a text for people in why. */
bool pool_is_hopeless(const struct pool *p, char *why, size_t size);
/* Connections of all members in a state. */
unsigned pool_count(const struct pool *p, enum conn_state state);
/* The first in a queue that may have another connection: for its user, its tag, and if it is
 * slow. */
struct request *pool_first_eligible(struct pool *p, enum pool_queue q);
/* When the request came that waits for longest; 0: nobody waits. */
uint64_t pool_oldest_wait(struct pool *p);
/* Connections at work. */
unsigned pool_used(const struct pool *p);

/* Does the decision let declared reads go to m? */
static inline bool member_takes_reads(const struct member *m)
{
	return m->index != MEMBER_DRAINING && (m->pool->decision.readers >> m->index & 1) != 0;
}

/* Of the other I/O threads. */
static inline unsigned lending_elsewhere(const struct pool *p, enum lending_number what)
{
	return p->lending.line == NULL ? 0 : lending_sum(p, what);
}

/* -- choice.c ---------------------------------------------------------------------------------- */

/* Which queue is it for?  Sets r->roams. */
enum pool_queue choice_queue(const struct pool *p, struct request *r);
/*
 * A connection for r, or NULL.  older: the head of the other queue, which came before r and waits;
 * NULL: none.  Starts tests of connections that were idle for long.
 */
struct conn *choice_pick(struct pool *p, const struct request *r, const struct request *older);
bool choice_may_share(const struct member *m, const struct request *r);
/* Could a connection of m serve r, when it is free? */
bool choice_may_use(const struct member *m, const struct request *r);
/* A statement without a lease that is known to take long. */
bool choice_is_slow(const struct pool *p, const struct request *r);
/* It is slow, and what it could have now is left to the others. */
bool choice_stands_aside(const struct pool *p, const struct request *r);

#endif
