/* SPDX-License-Identifier: MIT */
/*
 * replay.h - repeats the journal's rows in PostgreSQL, in order, each exactly once.
 *
 *   broker_journal_position, in PostgreSQL    made if missing; so is broker_conflict
 *     origin    of the journal (journal.h)
 *     position  id of the last row of it that is in this database
 *     began     when that row's statement began: what tells this journal from an older copy
 *   broker_conflict, in PostgreSQL            rows that could not be repeated
 *
 * One PostgreSQL transaction, a batch, repeats up to REPLAY_BATCH transactions of the journal, each
 * in a savepoint of its own, and moves the position; it begins by locking the position and reading
 * it.  So whatever happens, what is done and what is known to be done agree: after a lost
 * connection, a COMMIT without an answer, kill -9 of the broker or of the server, a second broker
 * on the same file, the position is the truth.  Rows are deleted from the file some time after the
 * COMMIT (replay_forget), which is durable: synchronous_commit is switched on where it is off.
 *
 * Within a batch rows are sent without waiting for the answers to those in front of them
 * (replay_ahead.h), and so are the new position and the COMMIT.
 *
 *   what goes wrong               what happens
 *
 *   an error of the data          the journal's transaction is undone and set aside: all its rows
 *   (22, 23, 42, …)               go to broker_conflict, and the position behind them, in the
 *                                 same PostgreSQL transaction; those behind it are repeated
 *   it did something else         the same: another number of changed rows than the worker was
 *   than in SQLite                told, other keys than it was given
 *   deadlock, lock or time out,   tried again, REPLAY_TRIES times, then set aside
 *   40001
 *   the COMMIT fails              the batch is repeated with one transaction at a time; the one
 *   (deferred checks)             that fails alone is set aside
 *   anything else: no connection, replay_pass fails; nothing is lost, the owner tries again
 *   disk full, no permission for
 *   our tables
 *
 * CURRENT_TIMESTAMP, CURRENT_DATE and CURRENT_TIME of a write become the time at which it was
 * accepted, to the second, as SQLite has them.  Column defaults are PostgreSQL's own.
 *
 * One thread: the courier's.
 */
#ifndef BROKER_REPLAY_H
#define BROKER_REPLAY_H

#include "courier.h"
#include "journal.h"
#include "pgcall.h"

/* PostgreSQL shows others at most 64 subtransactions of a session without looking on disk. */
#define REPLAY_BATCH 60u
#define REPLAY_BATCH_NS 200000000u /* nothing joins a batch older than this */
#define REPLAY_TRIES 5u

enum replay_result {
	REPLAY_MORE, /* a batch is in; there may be more rows */
	REPLAY_END, /* there were no more rows */
	REPLAY_FAILED, /* replay_failure says why */
};

struct replay;

/* pg and j stay the caller's and live longer.  NULL: out of memory. */
struct replay *replay_create(struct pgcall *pg, struct journal *j) must_use;
void replay_destroy(struct replay **r);

/* pg has connected anew: see that the tables are there and what the position is.  0, or -1. */
int replay_begin(struct replay *r) must_use;
enum replay_result replay_pass(struct replay *r) must_use;
/* Delete from the file what PostgreSQL has; what cannot be deleted now since another writes stays.
 * 0, or -1. */
int replay_forget(struct replay *r) must_use;

/* Why replay_begin or replay_pass failed. */
const struct courier_failure *replay_failure(const struct replay *r);
/* Of the last pass: transactions that were repeated; those set aside. */
unsigned replay_done(const struct replay *r);
unsigned replay_aside(const struct replay *r, const struct courier_conflict **list);
int64_t replay_position(const struct replay *r);

/* -- texts (replay_text.c) --------------------------------------------------------------------- */

/* What a statement may do, as far as its text tells (replay_ahead.h). */
struct replay_habits {
	bool may_differ; /* from its first outcome, without an error */
	bool may_draw; /* from a sequence */
	bool upsert;
};

/* The text of a write with the time put in; NULL: out of memory.  The caller frees. */
char *replay_text(
	const char *text, size_t len, int64_t at_us, struct replay_habits *habits) must_use;
/* Parameters as JSON in ASCII; NULL: out of memory.  The caller frees. */
char *replay_params_json(unsigned nparams, const struct request_param *params) must_use;

#endif
