/* SPDX-License-Identifier: MIT */
/*
 * journal.h - the journal in the SQLite file: writes that PostgreSQL does not know yet.
 *
 *   broker_journal
 *     id         INTEGER PRIMARY KEY AUTOINCREMENT: the order, never used twice
 *     tx         the same for the statements of one transaction, another one for its neighbours
 *     pool       whose write it is
 *     statement  text
 *     params     bytes, see below; NULL: none
 *     rows       how many rows it changed; NULL: not known (DDL, a view's trigger)
 *     returned   of the whole numbers it returned: a digest per column; NULL: it returned no row
 *     tag, worker, pid, at   who, and when it began (microseconds since 1970)
 *   broker_journal_origin
 *     pool, origin   a random name for the journal of this pool in this file
 *     forgotten      highest id that was deleted, since it is in PostgreSQL
 *
 * A row is written in the same SQLite transaction as the change itself, right after it: both are
 * there or neither, and what a savepoint undoes takes its rows along.  SQLite lets one writer in at
 * a time, so nothing foreign stands between the rows of a transaction.
 *
 * Only what changed something is written down: a worker that was told "no rows" sees that come true
 * in PostgreSQL by nothing being done there.
 *
 * What cannot be repeated in PostgreSQL is refused when the worker asks for it, while it can still
 * do something else: journal_judge(), journal_function_refusal(), journal_check_params().
 *
 * Parameters: a version byte, then for each a type byte (enum cell_type) and its value: BOOL 1
 * byte; INT64, DOUBLE and TIMESTAMP 8 bytes; TEXT, JSON and BLOB a length of 4 bytes and the bytes.
 * Numbers are little-endian.
 *
 * A struct journal belongs to one handle and its thread.  Several handles may have one each: the
 * pool's writer appends, the courier reads and deletes.
 */
#ifndef BROKER_JOURNAL_H
#define BROKER_JOURNAL_H

#include "request.h"
#include "sqlite_db.h"
#include "sqlite_error.h"

/*
 * How far the journal of a pool reaches.  Written by the thread of the pool's SQLite writer: when
 * it opens the file, and after each commit before the answers.  Read by the I/O thread.
 */
struct journal_tail {
	_Atomic uint64_t last; /* highest id */
};

/* -- what is accepted -------------------------------------------------------------------------- */

enum journal_rule {
	JOURNAL_KEEP, /* a write: it is written down */
	JOURNAL_LOCAL, /* concerns this file and its upkeep only: ANALYZE, REINDEX, VACUUM */
	JOURNAL_REFUSE, /* cannot be repeated in PostgreSQL */
};

/* Of a statement that may write.  *why: static text for JOURNAL_REFUSE.  0, or -1: out of memory.
 */
int journal_judge(const char *text, size_t len, enum sqlite_verb verb, enum journal_rule *rule,
	const char **why) must_use;
/* Why a write must not call this function, or NULL: it has another value, or is missing, in
 * PostgreSQL. */
const char *journal_function_refusal(const char *function);
/* Does the table belong to journal or mirror? */
bool journal_owns_table(const char *table);
/* A text that PostgreSQL cannot store: -1 and *f. */
int journal_check_params(
	unsigned nparams, const struct request_param *params, struct sqlite_failure *f) must_use;

/* -- whole numbers that were returned ---------------------------------------------------------- */

/*
 * Keys that the database makes up may come out differently in PostgreSQL, after a worker has seen
 * them.  The digest of a column does not depend on the order of the rows.
 */
#define JOURNAL_DIGEST_COLUMNS 32u

struct journal_digest {
	unsigned ncolumns; /* 0: no row */
	struct {
		bool whole; /* nothing but whole numbers and NULLs so far */
		uint64_t sum;
	} column[JOURNAL_DIGEST_COLUMNS];
};

void journal_digest_number(struct journal_digest *d, unsigned column, int64_t v);
void journal_digest_null(struct journal_digest *d, unsigned column);
void journal_digest_other(struct journal_digest *d, unsigned column);

/* -- a handle ---------------------------------------------------------------------------------- */

struct journal;

/* Makes the tables if they are missing.  tail: for the writer, else NULL; pool and tail live as
 * long as the journal.  0, or -1 and *f. */
int journal_open(sqlite3 *db, const char *pool, struct journal_tail *tail, struct journal **out,
	struct sqlite_failure *f) must_use;
void journal_close(struct journal **j);

/* Random, the same for ever. */
const char *journal_origin(const struct journal *j);
/* The pool's rows belong to another history than the one PostgreSQL knows by their origin: another
 * one for them. */
int journal_new_origin(struct journal *j, struct sqlite_failure *f) must_use;

/*
 * Without a handle: the pool's rows have ids above *before, up to *last; both the same: there are
 * none, or no file.  -1 and *f: cannot be told.
 */
int journal_look(const char *path, const char *pool, int64_t *before, int64_t *last,
	struct sqlite_failure *f) must_use;

/* -- the writer -------------------------------------------------------------------------------- */

/* Who asked for a statement. */
struct journal_source {
	int32_t pid;
	char worker[64];
	char tag[CHAN_TAG_MAX + 1];
};

/* What runs from now on belongs to another transaction. */
void journal_next_transaction(struct journal *j);
/* A statement begins. */
void journal_statement_begins(struct journal *j);
/* It returned a row. */
void journal_returned(struct journal *j, unsigned ncells, const struct stream_cell *cells);
/* It has ended well.  rows: changed, -1: not known. */
int journal_append(struct journal *j, const struct journal_source *who, const char *text,
	size_t len, unsigned nparams, const struct request_param *params, int64_t rows,
	struct sqlite_failure *f) must_use;
/* Around the COMMIT. */
void journal_before_commit(struct journal *j);
void journal_committed(struct journal *j);

/* -- the reader -------------------------------------------------------------------------------- */

struct journal_entry {
	int64_t id, tx;
	const char *text; /* NUL terminated */
	size_t len;
	unsigned nparams;
	const struct request_param *params;
	bool damaged; /* the parameters cannot be read */
	int64_t rows; /* -1: not known */
	struct journal_digest returned;
	const char *tag, *worker;
	int32_t pid;
	int64_t at_us;
};

/* Begin behind an id.  Until journal_rest() a snapshot of the file is held. */
void journal_seek(struct journal *j, int64_t after);
/* 1: *e, valid until the next call; 0: there are no more; -1 and *f. */
int journal_next(struct journal *j, struct journal_entry *e, struct sqlite_failure *f) must_use;
void journal_rest(struct journal *j);
/* Lowest and highest id, 0 if there are none; the highest ever given. */
int journal_extent(struct journal *j, int64_t *first, int64_t *last, int64_t *ever,
	struct sqlite_failure *f) must_use;
/* When row id began, 0: there is no such row. */
int journal_time_of(
	struct journal *j, int64_t id, int64_t *at_us, struct sqlite_failure *f) must_use;
/* Delete the rows up to id.  On SQLITE_BUSY f->sqlstate is 55P03. */
int journal_forget(struct journal *j, int64_t id, struct sqlite_failure *f) must_use;
/* Up to where that was done. */
int journal_forgotten(struct journal *j, int64_t *id, struct sqlite_failure *f) must_use;

#endif
