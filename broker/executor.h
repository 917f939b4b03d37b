/* SPDX-License-Identifier: MIT */
/*
 * executor.h - one thread with one SQLite connection, fed by the I/O loop.
 *
 * Three queues (queue.h) join the threads; each has one producer and one consumer:
 *
 *                 enqueues        dequeues        wakes the other side
 *   inbox         I/O thread      executor        futex, if it said that it sleeps (doorbell.h)
 *   outbox        executor        I/O thread      uv_async_send, coalesced by libuv
 *   spares        I/O thread      executor        as inbox
 *
 * Enqueueing is wait-free.  A consumer may see a node whose producer has not linked it yet: the
 * loop then leaves, since the producer's uv_async_send is still to come; the executor yields.  A
 * dequeued node belongs to its consumer alone.
 *
 * Who owns a job: the I/O thread until executor_submit, the executor until it is received back,
 * then the I/O thread.  It carries copies of the parameters and a counted reference to the
 * statement, so that the core may answer, free or send elsewhere its request while the executor
 * still works on the job (executor_stop in the middle of a statement).  The one word of a job that
 * both touch is `cancel`.
 *
 * Every job comes back once, jobs in the order of executor_submit: as EXEC_END, or as EXEC_DROPPED
 * if the thread ended before it ran it.  Rows of a long result come before it in EXEC_BLOCK; at
 * most EXEC_BLOCKS of them are outstanding, then the executor waits until they are given back:
 * memory is bounded by the reader's pace.  EXEC_FAILED says that the database cannot be opened, at
 * the start or when a session was to be cleaned; the loop then stops the executor.  EXEC_EXITED is
 * the last message.
 *
 * Group commit (sqlite_run.h): autocommit writes that wait together are committed together.  None
 * is answered before the commit that holds it is durable.  A group that is smaller than usual waits
 * for up to half of what a commit takes lately: those that were answered with the last commit are
 * on their way back, and would pay for a commit of their own.  What is usual follows what comes:
 * who is left alone soon waits no more.
 *
 * Cancel is precise: the executor looks at the flag of the job it runs.  It cannot hit another job,
 * so a cancel is settled when the flag is set.
 */
#ifndef BROKER_EXECUTOR_H
#define BROKER_EXECUTOR_H

#include "driver.h"
#include "sqlite_error.h"

#include <urcu/wfcqueue.h>

#define EXEC_BLOCK_SIZE 65536u /* bytes of rows in one message, a multiple of 8 */
#define EXEC_BLOCKS 4u /* most blocks on their way through the loop */
#define EXEC_GROUP 64u /* most statements in one commit */
#define EXEC_GROUP_NS 10000000u /* no statement joins a group older than this */
#define EXEC_WAIT_NS 1000000u /* no group waits longer for those that usually join */
#define EXEC_HURRY_MAX 64u /* after waits in vain: most groups until the next one */

enum exec_kind {
	EXEC_READY, /* the database is open */
	EXEC_BLOCK, /* struct exec_block */
	EXEC_END, /* struct exec_job */
	EXEC_DROPPED, /* struct exec_job */
	EXEC_FAILED, /* struct exec_failed */
	EXEC_EXITED,
};

struct exec_msg {
	struct cds_wfcq_node node;
	enum exec_kind kind;
};

/* A piece of a result stream, as request_write wants it. */
struct exec_block {
	struct exec_msg msg;
	struct exec_job *job;
	size_t len;
	unsigned char data[EXEC_BLOCK_SIZE];
};

/* The database cannot be opened; nothing will run.  Belongs to the executor. */
struct exec_failed {
	struct exec_msg msg;
	struct sqlite_failure failure;
};

enum exec_op {
	EXEC_STATEMENT,
	EXEC_COMMIT,
	EXEC_ROLLBACK,
	EXEC_RESET, /* what: enum conn_reset */
};

struct journal_source;
struct journal_tail;

struct exec_job {
	struct exec_msg msg;

	/* set by the submitter, constant until it is received back */
	enum exec_op op;
	bool leased; /* the connection is its worker's alone: never in a group */
	bool readonly;
	unsigned begin; /* enum req_flag of a lease whose first statement this is, or 0 */
	unsigned what;
	struct statement *stmt; /* EXEC_STATEMENT; the executor sets its `readonly` */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC, 0 = none */
	void *arg; /* the submitter's */
	struct journal_source
		*source; /* on the heap; NULL: there is no journal, or nobody to name */
	_Atomic int cancel; /* set by the I/O thread at any time, read by the executor */
	unsigned nparams;
	struct request_param *params;

	/* set by the executor, read when it is received back */
	bool failed; /* `failure` says why */
	uint64_t nrows; /* returned or affected */
	unsigned char *rows; /* last piece of the result stream, NULL if none */
	size_t rows_len;
	enum conn_tx tx;
	bool dirty;
	bool changed; /* it may have changed the database */
	unsigned group; /* on the first job of a group: how many were committed together, else 0 */
	unsigned hits, misses, evictions; /* of the statement cache, since the last job */
	uint64_t took_ns; /* a reader: to run it */
	struct sqlite_failure failure; /* last: large, and not cleared when a job is created */
};

/* A job with copies of the parameters; NULL: out of memory. */
struct exec_job *exec_job_create(unsigned nparams, const struct request_param *params) must_use;
/* Frees it with its rows, not the statement.  NULL allowed. */
void exec_job_destroy(struct exec_job *job);

struct executor_options {
	const char *name; /* of the thread, at most 15 characters */
	const char *path; /* absolute, or a URI if memory; constant until exit, as name */
	bool memory;
	bool writer;
	unsigned max_prepared;
	int64_t busy_ms;
	int64_t open_ms; /* how long to try to open while others have the file locked */
	const char *journal; /* writer: keep a journal for the pool of this name; NULL: none */
	struct journal_tail *tail; /* of that journal */
};

struct executor;

/* -- I/O thread ------------------------------------------------------------------------------ */

/*
 * Start the thread.  on_message is called on the loop's thread, never from inside a call, when
 * executor_receive may have something, and after executor_nudge.  0 or a negative libuv code.
 */
int executor_create(uv_loop_t *loop, const struct executor_options *opt,
	void (*on_message)(void *arg), void *arg, struct executor **out) must_use;
/* Hand a job over; the executor sees it at the latest after executor_ring.  Not after stop. */
void executor_submit(struct executor *ex, struct exec_job *job);
void executor_ring(struct executor *ex);
/* Cancel a job that was submitted and not received back. */
void executor_cancel(struct executor *ex, struct exec_job *job);
/* The next message, or NULL.  The caller owns jobs, and blocks until executor_recycle. */
struct exec_msg *executor_receive(struct executor *ex);
void executor_recycle(struct executor *ex, struct exec_block *b);
/* Have on_message called in a later turn. */
void executor_nudge(struct executor *ex);
/* End soon: what runs is stopped, jobs not run come back as EXEC_DROPPED, then EXEC_EXITED. */
void executor_stop(struct executor *ex);
/* After EXEC_EXITED was received: joins the thread, frees everything in a later turn, then calls
 * gone(arg). */
void executor_destroy(struct executor *ex, void (*gone)(void *arg), void *arg);

static inline struct exec_job *exec_job_of(struct exec_msg *m)
{
	return container_of(m, struct exec_job, msg);
}
static inline struct exec_block *exec_block_of(struct exec_msg *m)
{
	return container_of(m, struct exec_block, msg);
}
static inline struct exec_failed *exec_failed_of(struct exec_msg *m)
{
	return container_of(m, struct exec_failed, msg);
}

#endif
