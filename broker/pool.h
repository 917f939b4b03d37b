/* SPDX-License-Identifier: MIT */
/*
 * pool.h - the connections of one database and user, and who waits for them.
 *
 * Waiters are served first come, first served; a request keeps its place until it is served, fails
 * or gives up.  Free connections are used last in, first out, so that surplus ones stay idle.  A
 * waiter gets the connection itself, not a hint to look again.
 *
 * A request that may share (see may_share in pool.c) needs no free connection; but while anyone
 * waits for a connection of his own nobody overtakes him.
 *
 * Where connections differ in role (SQLite: one writer, several readers) reads and writes queue
 * apart, since a read never waits for the writer.
 *
 * I/O thread only.
 */
#ifndef BROKER_POOL_H
#define BROKER_POOL_H

#include "driver.h"
#include "io.h"

/* Most reader threads an SQLite pool may have. */
#define POOL_MAX_READERS 64u

enum pool_queue {
	POOL_QUEUE_ALL, /* and writes, where roles differ */
	POOL_QUEUE_READS,
	POOL_QUEUES
};

struct pool {
	struct io *io;
	unsigned index; /* in io->pools and on the board */
	unsigned server_index;
	const struct config_pool *config;
	const struct config_server *server;
	const struct driver *driver;
	void *server_priv;
	bool split; /* connections differ in role */
	struct conn *conns;
	unsigned nconns;
	unsigned state_count[CONN_STATE_COUNT];
	struct cds_list_head in_state[CONN_STATE_COUNT]; /* struct conn.link; IDLE: newest first */
	struct cds_list_head waiters[POOL_QUEUES]; /* struct request.link */
	unsigned nwaiters;
	bool closing;
	struct timer expiry; /* of the first waiter */

	uint64_t until_sample; /* statements that end before one is drawn; see querylog.c */
	uint64_t next_connect_ns; /* not before: back-off */
	uint64_t backoff_ns;
	bool ever_ready;
	bool down; /* no connection is left and none can be opened */
	unsigned first_conn; /* row of conns[0] on the board */
	char *masked_url;
	bool permanent_failure; /* the last failure will not mend by itself: password, no database */
	enum fail_code last_code;
	char last_sqlstate[6];
	char last_error[256]; /* of the last failed connect */
};

int pool_create(struct io *io, unsigned index, unsigned first_conn, const struct config_pool *config,
	const struct config_server *server, unsigned server_index, struct pool **out, char *err,
	size_t errlen) must_use;
/* All connections are CLOSED. */
void pool_destroy(struct pool **p);

/* Queue a request without a lease, or a REQ_LEASE.  Its time to wait is bounded by its own deadline
 * and by acquire_timeout. */
void pool_queue(struct pool *p, struct request *r);
/* Put back at the place its arrival gives it: it was never executed, or may be repeated. */
void pool_requeue(struct pool *p, struct request *r);
/* Leave the queue. */
void pool_unqueue(struct pool *p, struct request *r);
/* Serve waiters while connections can be given. */
void pool_dispatch(struct pool *p);
/* Why somebody waited in vain: counts, who holds connections, the last connect error. */
void pool_describe_wait(struct pool *p, char *buf, size_t size);

/* Housekeeping, each tick: open what is missing, close what is too old or idle, mirror state. */
void pool_tick(struct pool *p);
/* The broker stops: nobody who waits will be served. */
void pool_refuse_waiters(struct pool *p);
/* Close everything; conn_closed follows for each. */
void pool_close(struct pool *p);
bool pool_is_closed(const struct pool *p);
bool pool_is_ready(const struct pool *p);
/* From conn.c: a connection became ready; one could not be opened. */
void pool_connected(struct pool *p);
void pool_connect_failed(struct pool *p, struct conn *c, const struct failure *f);
/* Open connections that are missing, as back-off and limits allow. */
void pool_grow(struct pool *p);

#endif
