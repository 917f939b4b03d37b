/* SPDX-License-Identifier: MIT */
/*
 * replay_ahead.h - rows of the journal on their way to PostgreSQL: they are sent before those in
 * front of them are answered, and each answer is compared with what the row's worker was told.
 *
 * All rows are of one PostgreSQL transaction, the batch of replay.h.  Each transaction of the
 * journal has a savepoint of its own, named after its number in the batch.  There is no Sync
 * before the owner sends it, and up to a Sync PostgreSQL skips everything behind an error.  So, as
 * if each row had waited for the one before it:
 *
 *   an error          nothing has run behind it
 *   another outcome   is found here, when rows behind it may have run.  A rollback to the savepoint
 *                     undoes them, all but one thing: values drawn from sequences, by which later
 *                     keys would differ from those that workers were given
 *
 * Therefore a row that may draw from a sequence is not sent before every row in front of it whose
 * outcome may differ without an error is answered:
 *
 *                            may draw                      may differ
 *   INSERT … VALUES          yes                           no, unless a trigger or a rule swallows
 *                                                          rows
 *     … ON CONFLICT          yes                           DO NOTHING, DO UPDATE … WHERE: yes
 *     … RETURNING, SELECT    yes                           yes
 *   UPDATE, DELETE           no, unless by a trigger,      yes
 *                            or a rule
 *   all others               yes                           yes
 *
 * The table is about keys alone.  That nothing is committed whose outcome differs does not depend
 * on it: all rows are answered before the COMMIT is sent (ahead_finish).  SQLite, for instance, may
 * have left out some rows of an INSERT by a trigger of its own.
 *
 * Whether the database has such triggers and rules is asked once per connection (ahead_look).
 *
 * Memory: at most REPLAY_AHEAD rows and about REPLAY_AHEAD_BYTES are on their way, and nothing is
 * sent behind a row that returns rows before it is answered.
 *
 * One thread: the courier's.
 */
#ifndef BROKER_REPLAY_AHEAD_H
#define BROKER_REPLAY_AHEAD_H

#include "replay.h"

#define REPLAY_AHEAD 64u
#define REPLAY_AHEAD_FIRST 4u /* with a server of which nothing is known */
#define REPLAY_AHEAD_BYTES (256u * 1024)
/* Name of a savepoint: the number of its transaction in the batch, from 0. */
#define REPLAY_SAVEPOINT "SAVEPOINT broker_journal_%u"

/* Why a transaction cannot be repeated. */
struct verdict {
	int64_t tx; /* 0: none */
	int64_t id; /* of the row */
	char sqlstate[6];
	char text[PGCALL_WHY_MAX];
};

/* Where the batch stands in front of a transaction. */
struct replay_place {
	int64_t at, began; /* the last row, and when it began */
	unsigned ntx; /* transactions in the batch */
};

struct ahead_row {
	int64_t tx, id, rows;
	struct journal_digest returned;
	struct replay_place before; /* its transaction */
	bool opens; /* the savepoint is answered first */
	bool unsure; /* its outcome may differ */
};

struct ahead {
	struct pgcall *pg;
	unsigned most; /* rows on their way; the owner's, 1 to REPLAY_AHEAD */
	bool inserts_differ; /* a trigger or a rule may swallow what is inserted */
	bool changes_draw; /* one of UPDATE or DELETE may use a sequence */

	struct ahead_row row[REPLAY_AHEAD]; /* not answered, from `first` on, in a ring */
	unsigned first, n;
	unsigned asked; /* so many of them will be answered without asking */
	unsigned unsure; /* so many of them are */
	size_t bytes; /* sent since the last time we asked */

	/* the first row that was refused */
	struct verdict verdict;
	struct replay_place place; /* in front of its transaction */
};

/* The functions give 0; 1: a row was refused, verdict and place say which, and nothing more may be
 * sent; -1: PostgreSQL's answer to something else, or no connection: pg->sqlstate and pg->why. */

/* A connection is new. */
int ahead_look(struct ahead *a) must_use;
/* Begins the pipeline. */
int ahead_begin(struct ahead *a) must_use;
/* e: valid during the call.  opens: it is the first of its transaction. */
int ahead_send(struct ahead *a, const struct journal_entry *e, const struct replay_place *before,
	bool opens) must_use;
/* Instead of sending it, refuse it, unless one in front of it is refused first. */
int ahead_refuse(struct ahead *a, const struct journal_entry *e, const struct replay_place *before,
	bool opens, const char *sqlstate, const char *text) must_use;
/* Wait for the rows whose outcome may differ. */
int ahead_be_sure(struct ahead *a) must_use;
/* Wait for all of them.  The answers to what the owner sends then are the next. */
int ahead_finish(struct ahead *a) must_use;

#endif
