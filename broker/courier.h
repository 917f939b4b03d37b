/* SPDX-License-Identifier: MIT */
/*
 * courier.h - carries what was written to SQLite while PostgreSQL was away to PostgreSQL
 * (replay.h), and tables from PostgreSQL to SQLite (mirror.h).  One courier, one thread, per pool.
 *
 * Handing back.  The pool's writer is SQLite; now server i takes writes, and courier_pending() is
 * not 0 (if it is 0, and nothing runs on SQLite that writes, the pool may switch at once):
 *
 *   pool                                  courier
 *   courier_replay(c, i)         ---->    replays; the pool still writes to SQLite and its journal
 *                               (<----    hold(true), hold(false), …)
 *                                <----    near_end()
 *   starts no more writes on SQLite,
 *   waits until none is open there
 *   courier_drain(c)             ---->    replays the rest
 *                                <----    caught_up()
 *   the writer is server i
 *
 * failed() may come instead of either answer: the courier has stopped, nothing is lost, writes may
 * go on in SQLite.  The pool calls courier_replay when it sees a writer (at once is right: the
 * courier itself waits between attempts, 100 ms doubling to 5 s).  courier_halt when the writer is
 * gone.
 *
 * At the start of the broker rows may be left from the last one: the pool looks at
 * courier_pending() before its first write goes to PostgreSQL.
 *
 * Threads.  The I/O thread makes every call and gets every callback, never from inside a call.  It
 * never waits for the courier's thread.  What both touch is one struct of a few words (orders from
 * the I/O thread, news for it) under a mutex that is held for copying it and for nothing else.  An
 * eventfd wakes the thread, out of poll() in the middle of whatever it says to PostgreSQL; SQLite
 * asks for orders every few thousand steps and while it waits for a lock.  uv_async_send wakes the
 * loop.  Orders are what is wanted now, not a queue of wishes: the last one counts.  News of a
 * replay that has been halted or ordered anew meanwhile are dropped by its number (`run`), so after
 * courier_halt no caught_up() of the past can arrive.
 *
 * The thread has a connection of its own to PostgreSQL (beyond max_connections, as probes have) and
 * a handle of its own on the SQLite file.  SQLite lets one writer in at a time: the courier's
 * writing transactions are short (deleting what was replayed; putting a copy into place that was
 * gathered elsewhere before), and those of the pool's writer wait for them as busy_timeout says.
 *
 * The only call of the thread that nothing interrupts is the resolver's, for a server with a name.
 */
#ifndef BROKER_COURIER_H
#define BROKER_COURIER_H

#include "check.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct courier;
struct journal_tail;

struct courier_server {
	const char *name; /* for the log */
	const void *pg; /* of driver_pg.server_open; NULL: it is no PostgreSQL server */
	int64_t connect_timeout; /* milliseconds */
};

/* Why a replay stopped, or a mirror was not refreshed. */
struct courier_failure {
	char sqlstate[6]; /* "" if the database was not involved */
	char text[480];
};

/* A transaction of the journal that was set aside. */
struct courier_conflict {
	int64_t id; /* of the row of broker_conflict and broker_journal that failed */
	uint64_t statements; /* of the transaction */
	char sqlstate[6];
	char text[480]; /* the error */
};

struct courier_events {
	/* Before near_end: writes come as fast as they are replayed.  Let them wait, or (false) go
	 * on: a tenth of a second or a few at a time. */
	void (*hold)(void *arg, bool hold);
	void (*near_end)(void *arg);
	void (*caught_up)(void *arg);
	void (*failed)(void *arg, const struct courier_failure *f);
	/* Set aside in PostgreSQL's broker_conflict, and logged. */
	void (*conflict)(void *arg, const struct courier_conflict *c);
};

/* Everything is copied but pool, tail and the events' arg, which live until gone(). */
struct courier_options {
	uv_loop_t *loop;
	const char *pool; /* its name: rows of the journal belong to a pool */
	const char *path; /* of the SQLite file, from driver_sqlite.h */
	const struct journal_tail *tail; /* from driver_sqlite.h; NULL: the pool keeps no journal */
	const struct courier_server *servers; /* of the pool, in its order */
	unsigned nservers;
	char *const *mirror; /* tables; none: nmirror is 0 */
	unsigned nmirror;
	uint64_t mirror_interval_ns;
	struct courier_events events; /* none is NULL */
	void *arg;
};

/*
 * Looks into the file for rows that are pending, and starts the thread.  0, or negative and a text
 * that says what to change.
 */
int courier_create(
	const struct courier_options *opt, struct courier **out, char *err, size_t errlen) must_use;
/* Stops; gone(arg) (may be NULL) when the thread has ended and nothing of it is left in the loop.
 */
void courier_destroy(struct courier **c, void (*gone)(void *arg), void *arg);

/* Rows that are not in PostgreSQL yet.  Counts those of a transaction from its commit on, before
 * its worker is answered. */
uint64_t courier_pending(const struct courier *c);
/* Since the broker has started: transactions replayed; those set aside. */
uint64_t courier_replayed(const struct courier *c);
uint64_t courier_conflicts(const struct courier *c);
/* Time of the snapshot that the copies of the mirrored tables show, microseconds since 1970; 0:
 * there are none.  The oldest if they differ. */
int64_t courier_mirrored_at(const struct courier *c);
/* Why the last attempt to refresh them failed, "" if it did not. */
const char *courier_mirror_error(const struct courier *c);

/* Replay into server i.  Once more while one is under way into the same server: no effect. */
void courier_replay(struct courier *c, unsigned server);
/* Nothing is open on SQLite that writes, and nothing will be: come to the end. */
void courier_drain(struct courier *c);
/* Replay nothing. */
void courier_halt(struct courier *c);

/* Where to copy from: a standby if there is a good one, else the primary; -1: from none. */
void courier_mirror(struct courier *c, int server);

#endif
