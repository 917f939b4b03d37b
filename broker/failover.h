/* SPDX-License-Identifier: MIT */
/*
 * failover.h - which server of a pool takes writes, which take reads: decide(), a pure function of
 * what is known of the servers.  pool.c acts on the decision.
 *
 * Words.  A server answers when it is UP, SUSPECT or RECOVERING.  A local server counts at the end
 * of the list only.  A standby is fit when it is UP and lags by no more than max_lag.  A primary is
 * stale when any server of the pool, also one that is DOWN now, was last seen on a higher timeline:
 * a promotion begins a new timeline, so the stale one lacks what its successor acknowledged.
 * Timeline 0 is not known; it is never stale, and behind every known one.
 *
 * Leader.  Of the primaries that answer and are not stale: the highest timeline; then one that
 * takes writes; then the writer of the last decision, so that nothing moves without need; then the
 * configured order.
 *
 * Writer.  The leader, if it takes writes, at once when it answers: a server that was promoted is
 * used before it is UP.
 *
 * Fenced.  Every other server that calls itself, or last called itself, a primary, if there is a
 * leader, and stale ones always.  It is used for nothing.
 *
 * Local.  With no writer the local server stands in: for reads and writes if `fallback` is
 * read-write or journal, else for reads at most.  Not before each of the others has either said
 * what it is or is DOWN, unless it stands in already: at the start, and while a role is in doubt,
 * the answer is waited for.  A local server that is the whole pool is its writer and reader.
 *
 * Readers of statements and leases declared read-only: the first of these that is not empty:
 *   1. read_from standby: fit standbys; any: fit standbys and the leader; primary: the leader, else
 *      the local server if it stands in for writes
 *   2. the leader, also one that takes no writes
 *   3. fit standbys
 *   4. standbys within max_lag that answer
 *   5. the local server if it stands in; alone, for it has copies of some tables only
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
	uint32_t timeline; /* last one seen, 0: not known */
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
	MODE_DEGRADED, /* a writer, but another is missing, fenced, or too far behind */
	MODE_NORMAL,
};

struct decision {
	int writer; /* index, -1: nobody takes writes */
	uint32_t readers; /* bit i: server i may take declared reads */
	uint32_t fenced; /* bit i: not used, its connections must be closed */
	enum pool_mode mode;
	const char *why; /* static text: what made it so */
};

/* n servers in the configured order, at least one.  before: the last decision; writer -1 at first.
 */
struct decision decide(const struct failover_policy *policy, const struct server_state *s,
	unsigned n, const struct decision *before);

#endif
