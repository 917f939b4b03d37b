/* SPDX-License-Identifier: MIT */
/*
 * server.h - one database server, shared by all pools that name it: its health as probes see it,
 * and the one limit of its connections.
 *
 * Verdicts (health.c is the only writer):
 *
 *   UNKNOWN --ok--> UP --failed--> SUSPECT --failed, health_down_after in a row--> DOWN
 *      |            ^  <-----ok-----'                                                |
 *      |            |                                                               ok
 *      |            +--ok, health_up_after in a row-- RECOVERING <-------------------+
 *      +--failed, health_down_after in a row--> DOWN       '--failed--> DOWN
 *
 * One probe is under way per server at a time, on a connection of its own, every health_interval,
 * or every HEALTH_HURRY_MS while something is wrong; one that takes longer than health_timeout has
 * failed.  Probes of different servers know nothing of each other.
 *
 * While no server of a cluster (system_id) is UP, a primary of its newest timeline and takes
 * writes, all of them are probed often, if there ever was one.
 *
 * A server that refuses the credentials or has no such database (28xxx, 3D000) is DOWN at once, and
 * asked again every HEALTH_PERMANENT_MS.  One that has no connection left for the probe (53300) is
 * alive, its verdict stays as it was; only one that was never reached counts it as a failure.
 *
 * A server of a driver without probes (a file) is UP and ROLE_LOCAL from the start.
 *
 * Lag.  Each answer of a primary leaves a mark: what it had written by then.  A standby lags by the
 * age of the oldest mark that it has not replayed, so one with nothing to replay does not lag, and
 * one that is cut off lags more and more.  The primary of a standby is the one of the highest
 * timeline among the servers of the same cluster (system_id).  Without one its own word must do.
 *
 * With several I/O threads (shards.h) each has a struct server of its own, all with one tally.
 * Shard 0 alone probes; what it learns it tells the others (news.c), and what they suspect they
 * tell it.
 *
 * I/O thread only.
 */
#ifndef BROKER_SERVER_H
#define BROKER_SERVER_H

#include "check.h"
#include "failover.h"
#include "tally.h"
#include "timer.h"

#include <urcu/list.h>

struct config_server;
struct driver;
struct io;
struct member;

/* What a probe brought.  Positions are bytes of WAL. */
struct probe_answer {
	bool ok;
	enum server_role role;
	bool writable;
	uint32_t timeline;
	uint64_t system_id; /* of the cluster, 0: not known */
	uint64_t lsn; /* primary: end of what it wrote; standby: what it has replayed */
	uint64_t flushed; /* primary: how far standbys can be, 0: not known, as lsn */
	uint64_t lag_ns; /* standby: as far as it can tell by itself */
	char sqlstate[6]; /* not ok */
	const char *error; /* not ok; borrowed */
};

/* All that the primary had made durable at `at_ns` is below `lsn`. */
struct wal_mark {
	uint64_t at_ns, lsn;
};
#define HEALTH_MARKS 64u

struct server {
	struct io *io;
	unsigned index; /* on the board */
	const struct config_server *config;
	const struct driver *driver;
	char *masked_url;
	struct tally *tally; /* connections of all pools, over all I/O threads */
	struct cds_list_head members; /* of all pools, struct member.server_link */
	bool removed; /* not configured any more: goes with its last member */
	void *priv; /* of driver->server_open by whoever started the probes; borrowed */
	void *probe; /* of driver->probe_open; NULL: none */

	/* written by health.c */
	struct server_state state;
	uint64_t system_id;
	uint64_t lsn, lag_bytes; /* bytes behind the primary, if one is known */
	/* when the probe that brought lsn was sent: it covers all before that */
	uint64_t lsn_asked_ns;
	uint64_t since_ns; /* of the verdict */
	uint64_t probed_ns; /* last answer */
	uint64_t latency_ns;
	uint64_t sent_ns; /* of the probe under way, 0: none */
	unsigned failed, succeeded; /* in a row */
	unsigned hurry; /* so many good answers are to come quickly */
	bool again; /* something happened since the probe under way was sent */
	bool permanent; /* the last failure will not mend by itself */
	bool full; /* it has no connection left for the probe; logged */
	uint64_t asked_ns; /* when the last probe was sent */
	uint64_t doubted_ns; /* health_doubt_role */
	bool was_primary; /* ever */
	struct server_state told; /* role, writable, timeline as last logged */
	struct wal_mark marks[HEALTH_MARKS]; /* primary; oldest first, both members grow */
	unsigned nmarks;
	struct timer timer; /* next probe, or the end of patience with this one */
	char last_error[192];
};

/* While a server is not UP, or was asked for by health_hurry: between the starts of two probes. */
#define HEALTH_HURRY_MS 100u
/* After health_hurry: until so many good answers. */
#define HEALTH_HURRY_ANSWERS 10u
/* The same after a failure that will not mend by itself. */
#define HEALTH_PERMANENT_MS 5000u
/* Never sooner, however often health_hurry is called. */
#define HEALTH_RUSH_MS 10u
/* Between two doubts of a role: a worker can make any write fail as if by a standby, and must not
 * keep the others waiting for answers. */
#define HEALTH_DOUBT_MS 1000u

/* -- health.c ---------------------------------------------------------------------------------- */

/*
 * Begin probing, with what the driver knows of the server (driver->server_open of a pool's member).
 * What was known before health_stop stays.  Calls server_changed for a file.  Negative: no memory.
 */
int health_start(struct server *s, void *server_priv) must_use;
void health_stop(struct server *s);
/* Something looked wrong (a connection was lost or cannot be opened): probe at once, and for a
 * while often.  Cheap, may be called at any time, by drivers too. */
void health_hurry(struct server *s);
/*
 * A write met a read-only server (SQLSTATE 25006): its role is unknown until a new probe says what
 * it is, which takes one round trip.  Sooner than HEALTH_DOUBT_MS after the last doubt it is only
 * health_hurry.  May call server_changed.
 */
void health_doubt_role(struct server *s);
/* Wrong password, no such role or database: trying again does not help by itself. */
bool health_is_permanent(const char *sqlstate);
/* From the driver: the answer to probe_send, exactly once each, not from inside it. */
void probe_answered(struct server *s, const struct probe_answer *a);

/* -- server.c ---------------------------------------------------------------------------------- */

/* tally: of the same server in other I/O threads; NULL: this is the first. */
int server_create(struct io *io, unsigned index, const struct config_server *config,
	struct tally *tally, struct server **out) must_use;
/* Stops its probes; no member is left. */
void server_destroy(struct server **s);
/* See that it is probed, with the credentials of some pool.  Negative: no memory. */
int server_watch(struct server *s) must_use;
void server_add_member(struct server *s, struct member *m);
/* m goes; if the probes used what it has, they go on with another's.  May destroy s. */
void server_lost_member(struct server *s, struct member *m);
/* Not configured any more. */
void server_remove(struct server *s);
/* Its row on the board. */
void server_mirror(const struct server *s);

/* -- news.c ------------------------------------------------------------------------------------ */

enum server_worry {
	SERVER_HURRY, /* health_hurry */
	SERVER_DOUBT, /* health_doubt_role */
};

/* What health.c knows of s now, for the other I/O threads. */
void server_tell(const struct server *s);
/* For the one that probes s. */
void server_worry(const struct server *s, enum server_worry worry);

/* -- pool.c ------------------------------------------------------------------------------------ */

/* The state of s changed: any member of it, lag as well. */
void server_changed(struct server *s);

#endif
