/* SPDX-License-Identifier: MIT */
/*
 * sqlite_run.h - runs jobs on one SQLite connection: transactions, group commit, rows, failures.
 *
 * Transactions of a lease.  SQLite lets a transaction go on after an error, or, if the error was
 * bad (a write was interrupted, disk full), has already rolled it back.  Here both become what
 * PostgreSQL does: the transaction has failed, and until it is rolled back, or rolled back to a
 * savepoint that is still there, statements are refused with 25P02.
 *
 *        BEGIN              error                         COMMIT: rolls back, TX_ABORTED
 *   IDLE ------> OPEN ------------------------> FAILED -----------------------------------> IDLE
 *     ^           | ^                             | |       ROLLBACK
 *     +-----------+ +-----------------------------+ +------------------------------------> IDLE
 *      COMMIT, ROLLBACK        ROLLBACK TO
 *
 * Writes outside a transaction get one: BEGIN IMMEDIATE, the statement, COMMIT.  Only COMMIT makes
 * a write permanent, and COMMIT is never stopped, so a statement that is reported as cancelled or
 * failed has left nothing behind (SQLite's INSERT OR FAIL keeps half of its rows otherwise).
 *
 * Group commit.  While such a transaction is open, further autocommit writes join it, each in a
 * savepoint, until the host has no more of them (it may wait a little).  A member that fails is
 * rolled back to its savepoint and fails alone.  The answers go out after the COMMIT, so they mean
 * what they would mean without the group.  If the whole transaction is lost (SQLite rolled it back,
 * or COMMIT failed), nothing of it is in the database and nobody was answered: the members run
 * again, one by one, each in a transaction of its own.  The first one may publish rows while it
 * runs, but then nobody joins it; the rows of the others are kept until the COMMIT, and one with
 * more than EXEC_BLOCK_SIZE of them leaves the group and runs by itself.
 *
 * One thread: the executor's.
 */
#ifndef BROKER_SQLITE_RUN_H
#define BROKER_SQLITE_RUN_H

#include "executor.h"

/* What the thread offers; all are called on it. */
struct sqlite_run_host {
	/* The connection is to end: stop what runs. */
	bool (*stopping)(void *arg);
	/* Another job for the group, or NULL: it is to be committed. */
	struct exec_job *(*next)(void *arg);
	/* The job has ended. */
	void (*answer)(void *arg, struct exec_job *job);
	/* Publish a full block (NULL: none yet) and get an empty one.  Waits for the loop to give
	 * blocks back, until give_up(give_up_arg).  NULL: gave up, or out of memory; full is
	 * untouched. */
	struct exec_block *(*swap)(void *arg, struct exec_block *full,
		bool (*give_up)(void *give_up_arg), void *give_up_arg);
	void *arg;
};

struct sqlite_run;

/* Opens the database.  0, or -1 and *f. */
int sqlite_run_create(const struct executor_options *opt, const struct sqlite_run_host *host,
	struct sqlite_run **out, struct sqlite_failure *f) must_use;
/* An open transaction is rolled back.  *run may be NULL. */
void sqlite_run_destroy(struct sqlite_run **run);

/* Run the job, and those that join it, and answer them in order. */
void sqlite_run_job(struct sqlite_run *run, struct exec_job *job);
/* Reads from here on, outside of leases, are of one transaction, or of one each again. */
void sqlite_run_together(struct sqlite_run *run, bool together);
/* False: the database could not be opened again, *f (may be NULL) says why. */
bool sqlite_run_usable(const struct sqlite_run *run, struct sqlite_failure *f);

/* May the job join a group? */
bool sqlite_run_may_join(const struct exec_job *job);

#endif
