/* SPDX-License-Identifier: MIT */
/*
 * failover.h - which server of a pool takes writes, which take reads: decide(), a pure function of
 * what is known of the servers.  pool.c acts on the decision.
 *
 * Rules, first match first:
 *   Writer.  A server that answers (UP, SUSPECT or RECOVERING), says that it is a primary and takes
 *            writes.  Of several: the highest timeline, since a promotion begins a new one; then the
 *            writer of the last decision, so that nothing moves without need; then the configured
 *            order.
 *            None: the local server at the end of the list, as `fallback` says.
 *   Readers  of statements and leases declared read-only: standbys that are UP and within max_lag;
 *            the writer as well if read_from is "any", or if there are no such standbys, or if
 *            read_from is "primary".  Without a writer standbys still serve.  No server at all: the
 *            fallback, if there is one.
 *   Fenced.  Whoever calls itself a primary and is not the writer is used for nothing.
 *
 * No thread of its own, no memory of its own: the same input gives the same output.
 */
#ifndef BROKER_FAILOVER_H
#define BROKER_FAILOVER_H

#include <stdbool.h>
#include <stdint.h>

/* Servers of one pool; a bit each in struct decision. */
#define FAILOVER_MAX_SERVERS 32u

/* Numbers equal enum board_server_state. */
enum verdict {
	VERDICT_UNKNOWN = 0, /* not answered yet */
	VERDICT_UP = 1,
	VERDICT_SUSPECT = 2, /* failed, but less often in a row than health_down_after */
	VERDICT_DOWN = 3,
	VERDICT_RECOVERING = 4, /* answers again, but less often in a row than health_up_after */
};

/* Numbers equal enum board_server_role. */
enum server_role {
	ROLE_UNKNOWN = 0,
	ROLE_PRIMARY = 1,
	ROLE_STANDBY = 2,
	ROLE_LOCAL = 3, /* a file: always there, both writes and reads */
};

struct server_state {
	enum verdict verdict;
	enum server_role role;
	bool writable; /* takes writes, as far as it says itself */
	uint32_t timeline;
	uint64_t lag_ns; /* standby: age of what it has replayed, 0 when it has everything */
};

enum read_from {
	READ_FROM_STANDBY, /* standbys, and the primary if there are none */
	READ_FROM_ANY, /* standbys and the primary alike */
	READ_FROM_PRIMARY,
};

enum fallback {
	FALLBACK_OFF,
	FALLBACK_READ_ONLY,
	FALLBACK_READ_WRITE,
	FALLBACK_JOURNAL,
};

struct failover_policy {
	enum read_from read_from;
	enum fallback fallback; /* what the local server behind others is for */
	uint64_t max_lag_ns; /* 0: any */
};

enum pool_mode {
	MODE_DOWN, /* nobody serves */
	MODE_READ_ONLY, /* no writer */
	MODE_FALLBACK, /* the local server stands in */
	MODE_DEGRADED, /* a writer, but a server is down or too far behind */
	MODE_NORMAL,
};

struct decision {
	int writer; /* index, -1: nobody takes writes */
	uint32_t readers; /* bit i: server i may take declared reads */
	uint32_t fenced; /* bit i: connections to server i must be closed */
	enum pool_mode mode;
	const char *why; /* static text: what made it so */
};

/* n servers in the configured order, at least one.  before: the last decision; writer -1 at first. */
struct decision decide(const struct failover_policy *policy, const struct server_state *s, unsigned n,
	const struct decision *before);

#endif
