/* SPDX-License-Identifier: MIT */
/*
 * server.h - one database server, shared by all pools that name it: its health as probes see it, and
 * the one limit of its connections.
 *
 * Verdicts (health.c is the only writer):
 *
 *   UNKNOWN --ok--> UP --failed--> SUSPECT --failed, health_down_after in a row--> DOWN
 *      |            ^  <-----ok-----'                                                |
 *      |            |                                                               ok
 *      |            +--ok, health_up_after in a row-- RECOVERING <-------------------+
 *      +--failed, health_down_after in a row--> DOWN       '--failed--> DOWN
 *
 * One probe is under way per server at a time, on a connection of its own, every health_interval, or
 * every HEALTH_HURRY while something is wrong; one that takes longer than health_timeout has failed.
 * Probes of different servers know nothing of each other.
 *
 * A server of a driver without probes (a file) is UP and ROLE_LOCAL from the start.
 *
 * I/O thread only.
 */
#ifndef BROKER_SERVER_H
#define BROKER_SERVER_H

#include "check.h"
#include "failover.h"
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
	uint64_t lsn; /* primary: end of what it wrote; standby: what it has replayed */
	uint64_t lag_ns; /* standby */
	char sqlstate[6]; /* not ok */
	const char *error; /* not ok; borrowed */
};

struct server {
	struct io *io;
	unsigned index; /* on the board */
	const struct config_server *config;
	const struct driver *driver;
	char *masked_url;
	unsigned open; /* connections of all pools that are not CLOSED */
	unsigned nmembers; /* of all pools */
	bool removed; /* not configured any more: goes with its last member */
	void *priv; /* of driver->server_open by whoever started the probes; borrowed */
	void *probe; /* of driver->probe_open; NULL: none */

	/* written by health.c */
	struct server_state state;
	uint64_t lsn, lag_bytes; /* bytes behind the primary, if one is known */
	uint64_t lsn_asked_ns; /* when the probe that brought lsn was sent: it covers all before that */
	uint64_t since_ns; /* of the verdict */
	uint64_t probed_ns; /* last answer */
	uint64_t latency_ns;
	uint64_t sent_ns; /* of the probe under way, 0: none */
	unsigned failed, succeeded; /* in a row */
	bool hurry; /* probe at once, and then often */
	struct timer timer; /* next probe, or the end of patience with this one */
	char last_error[192];
};

/* While a server is not UP, or was asked for by health_hurry: between the starts of two probes. */
#define HEALTH_HURRY_MS 100u

/* -- health.c ---------------------------------------------------------------------------------- */

/* Begin probing, with what the driver knows of the server (driver->server_open of a pool's member). */
int health_start(struct server *s, void *server_priv) must_use;
void health_stop(struct server *s);
/* Something looked wrong (a lost connection, SQLSTATE 25006): probe at once. */
void health_hurry(struct server *s);
/* A write met a read-only server: it is no primary until a probe says so again. */
void health_doubt_role(struct server *s);
/* From the driver: the answer to probe_send, exactly once each, not from inside it. */
void probe_answered(struct server *s, const struct probe_answer *a);

/* -- server.c ---------------------------------------------------------------------------------- */

int server_create(struct io *io, unsigned index, const struct config_server *config,
	struct server **out) must_use;
/* Stops its probes; no member is left. */
void server_destroy(struct server **s);
/* See that it is probed, with the credentials of some pool.  Negative: no memory. */
int server_watch(struct server *s) must_use;
/* m goes; if the probes used what it has, they go on with another's.  May destroy s. */
void server_lost_member(struct server *s, const struct member *m);
/* Not configured any more. */
void server_remove(struct server *s);
/* Its row on the board. */
void server_mirror(const struct server *s);

/* -- pool.c ------------------------------------------------------------------------------------ */

/* The state of s changed (verdict, role, writable, timeline, or lag across a limit). */
void server_changed(struct server *s);

#endif
