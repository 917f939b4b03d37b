/* SPDX-License-Identifier: MIT */
/*
 * cluster.h - a PostgreSQL primary with its standbys, and what happens to such in real life.
 *
 * Servers are named a, b, c, …; a is the first primary.  cluster_name of each says its name, so
 * that a statement can ask who runs it:  SELECT current_setting('cluster_name').
 *
 * The test plays the administrator: nothing here is promoted or mended by itself.  With `safe`, a
 * commit is acknowledged when one standby has it as well, and the standby that has most is
 * promoted: what was acknowledged survives the loss of the primary.
 *
 * Single servers are handled by pg.h: pg_stop, pg_freeze, pg_restart, …
 */
#ifndef IT_CLUSTER_H
#define IT_CLUSTER_H

#include "pg.h"

#define CLUSTER_MAX 8

struct cluster;

struct cluster_options {
	unsigned standbys; /* at most CLUSTER_MAX - 1 */
	bool safe;
	bool tcp; /* each listens on a loopback address of its own as well, port 5432 */
	unsigned small_mib; /* size of the disk of the first server, if disks can be made; 0: as
			       usual */
	const char *const *settings; /* of every server, NULL-terminated; may be NULL */
};

/* All are started, standbys stream. */
struct cluster *cluster_start(const struct cluster_options *opt);
/* End all and set *c to NULL.  NULL is allowed. */
void cluster_remove(struct cluster **c);

unsigned cluster_size(const struct cluster *c);
struct pg_cluster *cluster_server(const struct cluster *c, unsigned i);
const char *cluster_name(unsigned i); /* "a", … */
/* Its address, with tcp; host of a connection string. */
const char *cluster_address(const struct cluster *c, unsigned i);
/* Index of the primary. */
unsigned cluster_primary(const struct cluster *c);
/* Has the first server a disk that can be full? */
bool cluster_has_small_disk(const struct cluster *c);

/*
 * The standby that has received most becomes the primary, whatever the old one does meanwhile; the
 * other standbys follow it.  Index of the new primary.  *when (may be NULL) gets the moment at
 * which it first took writes, microseconds of CLOCK_MONOTONIC, known to a few milliseconds.
 */
unsigned cluster_fail_over(struct cluster *c, int64_t *when);

/* A former primary, in whatever state, is killed and becomes a standby of the present one. */
void cluster_rejoin(struct cluster *c, unsigned i);

/* A server that ended, or was stopped, is started again as what it was. */
void cluster_revive(struct cluster *c, unsigned i);

/* A standby receives but does not apply; what it shows gets old. */
void cluster_hold_replay(struct cluster *c, unsigned i);
void cluster_resume_replay(struct cluster *c, unsigned i);

/* The server refuses writes (SQLSTATE 25006), though it is a primary:
 * default_transaction_read_only. */
void cluster_set_read_only(struct cluster *c, unsigned i, bool on);

/* Every running standby has replayed what the primary has written; false after timeout_ms. */
bool cluster_in_sync(struct cluster *c, int64_t timeout_ms);

#endif
