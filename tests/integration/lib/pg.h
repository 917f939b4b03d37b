/* SPDX-License-Identifier: MIT */
/*
 * pg.h - private PostgreSQL clusters for tests.
 *
 * A cluster lives in the test's scratch directory, listens on a Unix socket there and, unless the
 * settings say otherwise, on nothing else, trusts everyone who reaches it from this machine, and
 * has one superuser, postgres.  When the test
 * runs as root the server runs as another user (spawn_user).  It is a direct child of the test and
 * dies with it.  initdb runs once: later clusters are copies of a template, kept in TEST_CACHE if
 * set.
 *
 * fsync is off unless a setting says otherwise: tests end processes, not machines.
 *
 * Functions that cannot do what they say end the test (bail_out) after showing the server's log.
 */
#ifndef IT_PG_H
#define IT_PG_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pg_cluster;

enum pg_mode {
	PG_SMART, /* SIGTERM: waits until every client is gone */
	PG_FAST, /* SIGINT: ends the sessions, writes a checkpoint */
	PG_IMMEDIATE, /* SIGQUIT: as after a crash */
	PG_KILL, /* SIGKILL for all its processes */
};

/* True if this machine has a PostgreSQL server; otherwise tests should skip. */
bool pg_available(void);

/* Make and start a cluster.  settings: "name=value" strings, NULL-terminated; may be NULL. */
struct pg_cluster *pg_start(const char *const *settings);

/* A streaming standby of a running cluster, started and caught up with what was there. */
struct pg_cluster *pg_standby(struct pg_cluster *primary, const char *const *settings);

/*
 * A cluster whose files lie on a disk of its own of that many MiB, to be filled with
 * disk_fill(pg_data(pg)); NULL where such disks cannot be made (disk.h).
 */
struct pg_cluster *pg_start_small(const char *const *settings, unsigned mib);

void pg_stop(struct pg_cluster *pg, enum pg_mode mode);
/* Start a stopped cluster again, with the settings it had. */
void pg_restart(struct pg_cluster *pg);
/* False also if it ended by itself; pg_stop before pg_restart all the same. */
bool pg_runs(const struct pg_cluster *pg);
/* Stop it at once if it runs, remove its files, set *pg to NULL.  NULL is allowed. */
void pg_remove(struct pg_cluster **pg);

/* Make a standby the primary; returns when it takes writes. */
void pg_promote(struct pg_cluster *pg);
/* The same without waiting for it. */
void pg_promote_soon(struct pg_cluster *pg);

/* A running standby streams from another primary from now on. */
void pg_follow(struct pg_cluster *standby, struct pg_cluster *primary);
/*
 * What was a primary, and is stopped, becomes a standby of its successor, started and caught up:
 * pg_rewind undoes what it alone had; if that fails its files are taken anew.
 */
void pg_rejoin(struct pg_cluster *old, struct pg_cluster *primary);

/* SIGSTOP and SIGCONT for the server and all its processes: a server that hangs. */
void pg_freeze(struct pg_cluster *pg);
void pg_thaw(struct pg_cluster *pg);

/* postgresql:// address of database postgres; valid as long as the cluster. */
const char *pg_url(const struct pg_cluster *pg);
/* Directory of the socket: host= of a connection string. */
const char *pg_host(const struct pg_cluster *pg);
/* Directory of the files. */
const char *pg_data(const struct pg_cluster *pg);
const char *pg_log(const struct pg_cluster *pg);
pid_t pg_pid(const struct pg_cluster *pg);

/* A connection of the caller's own, to be given to PQfinish. */
PGconn *pg_connect(const struct pg_cluster *pg);

/*
 * Look from the server's side, through a connection that the cluster keeps for this purpose
 * (application_name "it").  SQL is a printf format.  An error ends the test.
 */
void pg_do(struct pg_cluster *pg, const char *sql, ...) __attribute__((format(printf, 2, 3)));
/* First column of the first row as a number; 0 for no row or NULL. */
int64_t pg_int(struct pg_cluster *pg, const char *sql, ...) __attribute__((format(printf, 2, 3)));
/* The same as text, "" for no row or NULL; the caller frees. */
char *pg_text(struct pg_cluster *pg, const char *sql, ...) __attribute__((format(printf, 2, 3)));

#endif
