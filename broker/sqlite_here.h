/* SPDX-License-Identifier: MIT */
/*
 * sqlite_here.h - short reads of SQLite, run on the I/O thread itself.
 *
 * A read by key takes SQLite some microseconds; handing it to a thread and back takes ten times as
 * long.  So a statement that reads, and that readers have found to be short several times running,
 * is run at once where it arrives.  What could make the loop wait is cut off:
 *
 *   more steps than a short read has   given up, and run again by a reader's thread, which may take
 *   more rows than one block           its time; nothing of it was delivered and it changes nothing
 *   a lock held by another process     likewise, at once: here nobody waits for locks
 *   pages that come from a disk        cannot be cut off.  Some runs are timed; one that took long
 *                                      shows that the pages are not in memory
 *
 * After each of these the statement has to prove itself anew.  So is every failure: the thread that
 * runs the statement again tells the worker.
 *
 * I/O thread only.
 */
#ifndef BROKER_SQLITE_HERE_H
#define BROKER_SQLITE_HERE_H

#include "executor.h"

struct sqlite_here;

/* Opens nothing yet.  The path in opt must live as long as what is made here.  NULL: no memory. */
struct sqlite_here *sqlite_here_create(const struct executor_options *opt) must_use;
/* *h may be NULL. */
void sqlite_here_destroy(struct sqlite_here **h);

/* A reader's thread has run the statement. */
void sqlite_here_learn(struct statement *stmt, const struct exec_job *job);
/* It is worth a try. */
bool sqlite_here_may_run(const struct statement *stmt);
/*
 * Run the job.  True: it has ended well and is as an executor would have sent it back.  False: hand
 * it to an executor.
 */
bool sqlite_here_run(struct sqlite_here *h, struct exec_job *job, uint64_t now_ns) must_use;
/*
 * All that had arrived has run.  Between two calls reads share a transaction from the second on,
 * which saves locking and unlocking the log for each.  All of them were submitted before the first
 * ran, so what they see is not older than they are.
 */
void sqlite_here_rest(struct sqlite_here *h);

#endif
