/* SPDX-License-Identifier: MIT */
/*
 * sqlite_db.h - one SQLite connection as the broker wants it: safe settings, an authorizer,
 * prepared statements by number, and a way to stop what runs.
 *
 * A handle belongs to one thread (SQLITE_OPEN_NOMUTEX): the executor that opened it.
 *
 * Settings: the writer puts the file into WAL mode with synchronous=FULL, so that an answered
 * commit survives a power loss; readers open it writable too, since a WAL reader writes to the -shm
 * file and may have to recover the log, but with query_only.  Foreign keys are on.  The schema is
 * not trusted (functions with side effects do not run from views and triggers), and a name in
 * double quotes is never a string: a misspelt column is an error, as in PostgreSQL.
 *
 * The authorizer refuses what would reach beyond the database or weaken it for everybody: ATTACH,
 * DETACH, VACUUM INTO, load_extension(), and every PRAGMA that is not in the list of sqlite_db.c.
 * It notes what leaves traces in the session (`dirty`): temporary tables and session PRAGMAs.
 *
 * Stopping: SQLite calls back every SQLITE_DB_STEPS virtual machine steps, and while it waits for a
 * lock; the callback looks at the job that runs.  sqlite3_interrupt is not used: it hits whatever
 * runs when it arrives, which may be the next worker's statement.
 */
#ifndef BROKER_SQLITE_DB_H
#define BROKER_SQLITE_DB_H

#include "sqlite_error.h"
#include "sqlite_value.h"

#include <urcu/list.h>

#define SQLITE_DB_STEPS 1000

struct sqlite_db_options {
	const char *path; /* absolute, or a URI if memory */
	bool memory;
	bool writer;
	bool journal; /* what writes is judged: it is to be repeated in PostgreSQL (journal.h) */
	int64_t busy_ms; /* how long to wait for a lock of another process */
	unsigned max_prepared;
	/* true: end what runs; called on the handle's thread.  Must be cheap. */
	bool (*stop)(void *arg);
	void *stop_arg;
};

/* What a statement is, from its first word. */
enum sqlite_verb {
	SQLITE_VERB_NONE, /* nothing but space and comments */
	SQLITE_VERB_READ, /* SELECT, VALUES */
	SQLITE_VERB_EXPLAIN,
	SQLITE_VERB_WITH, /* reads or writes */
	SQLITE_VERB_WRITE, /* INSERT, REPLACE, UPDATE, DELETE */
	SQLITE_VERB_PRAGMA,
	SQLITE_VERB_VACUUM,
	SQLITE_VERB_BEGIN,
	SQLITE_VERB_COMMIT, /* and END */
	SQLITE_VERB_ROLLBACK, /* also ROLLBACK TO */
	SQLITE_VERB_SAVEPOINT,
	SQLITE_VERB_RELEASE,
	SQLITE_VERB_OTHER,
};
/* word (may be NULL) gets the first word in upper case. */
#define SQLITE_WORD_MAX 16
enum sqlite_verb sqlite_verb(const char *text, char word[SQLITE_WORD_MAX]);
static inline bool sqlite_verb_is_tx(enum sqlite_verb v)
{
	return v >= SQLITE_VERB_BEGIN && v <= SQLITE_VERB_RELEASE;
}

/* A prepared statement with what was learned about it. */
struct sqlite_prepared {
	sqlite3_stmt *stmt; /* NULL: the text holds no statement */
	enum sqlite_verb verb;
	bool readonly; /* it cannot change the database */
	bool rollback_to; /* ROLLBACK TO a savepoint */
	bool dirties; /* leaves traces in the session whenever it runs */
	bool kept; /* journal: it is written down */
	const char *refusal; /* journal: why it must not run, NULL: it may */
	unsigned nparams; /* highest number of a placeholder */
	unsigned nbind;
	unsigned *bind; /* placeholder number of SQLite's parameter i + 1 */
	/* result columns, valid while `seen` equals SQLite's count of re-preparations */
	int ncols;
	int seen;
	uint8_t *classes; /* enum sqlite_column */
	unsigned char *head; /* encoded result head */
	size_t head_len;
	/* cache */
	uint32_t id; /* 0: not in the cache */
	struct cds_list_head lru;
	struct sqlite_prepared *chain;
};

struct sqlite_db {
	sqlite3 *db;
	bool dirty; /* session state was touched since it was opened */
	unsigned hits, misses, evictions; /* of the cache; whoever reports them sets them to 0 */
	struct sqlite_db_private *priv;
};

/* 0, or -1 and *f.  On SQLITE_BUSY f->sqlstate is 55P03: try again. */
int sqlite_db_open(const struct sqlite_db_options *opt, struct sqlite_db **out,
	struct sqlite_failure *f) must_use;
void sqlite_db_close(struct sqlite_db **db);

/*
 * The statement `id` with this text, from the cache or prepared now; id 0: not kept.
 * readonly: refuse what writes.  0 and *out, to be given to sqlite_db_put; or -1 and *f.
 */
int sqlite_db_get(struct sqlite_db *db, uint32_t id, const char *text, size_t len, bool readonly,
	struct sqlite_prepared **out, struct sqlite_failure *f) must_use;
/* Reset it; it may be used again or dropped. */
void sqlite_db_put(struct sqlite_db *db, struct sqlite_prepared **p);

/* Bind all parameters.  0, or -1 and *f. */
int sqlite_db_bind(struct sqlite_db *db, struct sqlite_prepared *p, unsigned nparams,
	const struct request_param *params, struct sqlite_failure *f) must_use;
/* After the first step: columns and the head are up to date.  0, or -1: out of memory. */
int sqlite_db_describe(struct sqlite_prepared *p) must_use;
/* Why preparing or a step returned rc. */
void sqlite_db_failure(struct sqlite_db *db, int rc, struct sqlite_failure *f);

/* The broker's own statements: never stopped half-way, not seen by the authorizer's rules. */
enum sqlite_control {
	SQLITE_CONTROL_BEGIN, /* deferred: for reading */
	SQLITE_CONTROL_BEGIN_WRITE, /* takes the write lock, waiting as busy_ms says */
	SQLITE_CONTROL_COMMIT,
	SQLITE_CONTROL_ROLLBACK,
	SQLITE_CONTROL_SAVEPOINT,
	SQLITE_CONTROL_ROLLBACK_TO,
	SQLITE_CONTROL_RELEASE,
	SQLITE_CONTROL_COUNT
};
/* Statements of the broker's own follow, or have ended: as for the above. */
void sqlite_db_own(struct sqlite_db *db, bool own);
/* SQLITE_OK or SQLite's extended code. */
int sqlite_db_control(struct sqlite_db *db, enum sqlite_control what) must_use;

static inline bool sqlite_db_in_transaction(const struct sqlite_db *db)
{
	return sqlite3_get_autocommit(db->db) == 0;
}

#endif
