/* SPDX-License-Identifier: MIT */
/*
 * member.h - one server of a pool, with the connections the pool has to it.
 *
 * A pool has a member for each of its servers, in the configured order.  The member opens, keeps,
 * tests, replaces and closes connections; which of them serves whom is the pool's business.
 *
 *   ACTIVE ---- its server or its credentials were changed by a reload ----> DRAINING
 *   DRAINING: nothing new runs on it; a connection is closed when it is free; then it is destroyed.
 *
 * How many connections: as many as are in use or waited for, at least min_idle, at most max_size;
 * max_overflow more while requests wait, closed as soon as they are free.  One more for a moment
 * while an old connection is replaced: the new one is opened first.
 *
 * With several I/O threads (shards.h) each has a member for the same server of the same pool, all
 * with one tally, and the numbers above hold for all of them together: each opens what its own
 * waiters need and its share of min_idle, and nothing beyond the common limits.  What it lacks then
 * it is lent (lending.h).
 *
 * I/O thread only.
 */
#ifndef BROKER_MEMBER_H
#define BROKER_MEMBER_H

#include "driver.h"
#include "server.h"

#define MEMBER_DRAINING UINT32_MAX
/* Of a server that is fenced and answers; its timeline.  For log, events and its row on the board.
 */
#define FENCED_NOTE                                                                                \
	"calls itself primary, of timeline %u, and is not used, since another is or was: make "    \
	"it a standby and it will be"
/* Most reader threads an SQLite server may have. */
#define MEMBER_MAX_READERS 64u

struct member {
	struct pool *pool;
	struct server *server;
	const struct driver *driver;
	void *server_priv;
	struct tally *tally; /* over all I/O threads */
	unsigned index; /* in pool->member and in decisions; MEMBER_DRAINING */
	bool fenced; /* by the decision: another server is the primary */
	bool split; /* its connections differ in role (SQLite): reads and writes never compete */
	struct conn **conns; /* by slot; only grows while the broker runs */
	unsigned nconns;
	unsigned state_count[CONN_STATE_COUNT];
	struct cds_list_head in_state[CONN_STATE_COUNT]; /* struct conn.link; IDLE: newest first */
	uint64_t next_connect_ns; /* not before: back-off */
	uint64_t backoff_ns;
	bool replacing; /* a connection is being opened in place of an old one */
	/* the last failure will not mend by itself: password, no database */
	bool permanent_failure;
	char last_error[256]; /* of the last failed connect */
	struct cds_list_head pool_link; /* pool->members */
	struct cds_list_head server_link; /* server->members */
};

/*
 * A member that is DRAINING until pool_apply.  server, config: as they will be.  tally: of the same
 * one in other I/O threads; NULL: this is the first.  0, or negative and a text that names what to
 * change.
 */
int member_create(struct pool *p, struct server *s, const struct config_server *server,
	const struct config_pool *config, struct tally *tally, struct member **out, char *err,
	size_t errlen) must_use;
/* All connections are CLOSED. */
void member_destroy(struct member **m);

/* Connections of this I/O thread that are open: not CLOSED. */
unsigned member_open(const struct member *m);
/* Of those, the ones at work: BUSY, LEASED or RESETTING. */
unsigned member_used(const struct member *m);
/* May work be given to it?  The decision of the pool says for what. */
bool member_can_serve(const struct member *m);
/* Ready: a connection works (all of them, if their roles differ). */
bool member_is_ready(const struct member *m);

/* Open connections that are missing, as back-off, health and limits allow. */
void member_grow(struct member *m);
/* Housekeeping, each tick: tests, ages, idle times, leases that are held too long. */
void member_tick(struct member *m);
/* Close every connection; f, if not NULL, answers what is in flight. */
void member_close(struct member *m, const struct failure *f);
/* Not configured any more. */
void member_drain(struct member *m);

/* A slot for a connection that is lent to us.  NULL: no memory. */
struct conn *member_closed_conn(struct member *m) must_use;
/* May it have one more connection, as far as the server's limit goes? */
bool member_has_room(const struct member *m);
/* The longest idle connection that m can spare for another pool, or NULL. */
struct conn *member_spare(struct member *m);

/* Must c be tested before it is given to anyone? */
bool member_is_stale(const struct member *m, const struct conn *c);
/* c is free and nobody waits: may it stay? */
bool member_keeps(const struct member *m, const struct conn *c);

/* From conn.c: a connection became ready; one could not be opened. */
void member_connected(struct member *m);
void member_connect_failed(struct member *m, const struct failure *f);

#endif
