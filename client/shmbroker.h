/* SPDX-License-Identifier: MIT */
/*
 * shmbroker.h - databases for the workers of a preforking server, through the shared-memory broker.
 *
 *     struct broker *b;
 *     struct broker_result *r;
 *     if (broker_attach(NULL, &b) < 0) ...
 *     if (broker_exec(b, "SELECT name FROM item WHERE id = $1", 1,
 *                     (struct broker_value[]){broker_int64(7)}, NULL, &r) < 0) ...
 *     while (broker_next(r) == 1) {
 *             const char *name;
 *             broker_get_text(r, 0, &name, NULL);
 *     }
 *     broker_result_free(&r);
 *     broker_detach(&b);
 *
 * Errors.    Functions that can fail return 0 (or a positive count) or a negative BROKER_E_ code;
 *            broker_error() then has the details.  errors.def lists every code with what to do
 *            next.
 * Threads.   One handle per thread: a handle, its results and its leases may be used only by the
 *            thread that attached it (BROKER_E_THREAD otherwise).  Different handles are
 *            independent.
 * Fork.      A child may use a handle inherited from its parent: the library notices and attaches
 *            anew by itself.  Leases and results of the parent are not the child's
 *            (BROKER_E_FORKED); freeing them in the child is allowed and touches nothing of the
 *            parent.  So a server may attach in the master and use the handle in every worker.
 * Signals.   The library installs no handler, starts no thread, prints nothing, never aborts.
 *            EINTR is handled; a deadline bounds every call.  No function is async-signal-safe.
 * Time.      Time-outs are milliseconds (int64_t).  0 means the broker's default (30 s unless
 *            configured), negative means no limit.
 * Text.      UTF-8, C strings unless a length is passed.
 */
#ifndef SHMBROKER_H
#define SHMBROKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BROKER_MUST_USE __attribute__((warn_unused_result))
#define BROKER_API __attribute__((visibility("default")))
#else
#define BROKER_MUST_USE
#define BROKER_API
#endif

#define BROKER_VERSION_MAJOR 0
#define BROKER_VERSION_MINOR 1
#define BROKER_VERSION_PATCH 0

/* Version of the library in use, "0.1.0".  Static storage. */
BROKER_API const char *broker_version(void);

/* ------------------------------------------------------------------------------------------------
 * Errors
 */

enum broker_code {
	BROKER_OK = 0,
	BROKER_E_ARGUMENT = -2001,
	BROKER_E_MEMORY = -2002,
	BROKER_E_THREAD = -2003,
	BROKER_E_FORKED = -2004,
	BROKER_E_NOT_FOUND = -2005,
	BROKER_E_REFUSED = -2006,
	BROKER_E_VERSION = -2007,
	BROKER_E_LOST = -2008,
	BROKER_E_EVICTED = -2009,
	BROKER_E_TIMEOUT = -2010,
	BROKER_E_OUTCOME_UNKNOWN = -2011,
	BROKER_E_CANCELLED = -2012,
	BROKER_E_DATABASE = -2013,
	BROKER_E_UNAVAILABLE = -2014,
	BROKER_E_BUSY = -2015,
	BROKER_E_TOO_LARGE = -2016,
	BROKER_E_TYPE = -2017,
	BROKER_E_RANGE = -2018,
	BROKER_E_NULL = -2019,
	BROKER_E_COLUMN = -2020,
	BROKER_E_NO_ROW = -2021,
	BROKER_E_TX_ABORTED = -2022,
	BROKER_E_LEASE = -2023,
	BROKER_E_UNSUPPORTED = -2024,
	BROKER_E_PROTOCOL = -2025,
	BROKER_E_USAGE = -2026,
	BROKER_E_PENDING = -2027,
	BROKER_E_SHUTDOWN = -2028,
	BROKER_E_INTERNAL = -2029,
};

/* What is known about the effect of a call that failed. */
enum broker_outcome {
	BROKER_NOT_DONE = 0, /* it had no effect on the database */
	BROKER_UNKNOWN = 1, /* it may or may not have taken effect; look before repeating */
};

struct broker_error {
	int code; /* BROKER_E_ */
	enum broker_outcome outcome;
	/* the same call may be repeated without harm and has a chance to succeed */
	bool retry_safe;
	char sqlstate[6]; /* five characters, or "" when the database was not involved */
	const char *message; /* never NULL */
	const char *detail; /* "" if none */
	const char *hint; /* "" if none */
};

/*
 * Details of the last call on this handle that failed.  Texts are valid until the next call fails.
 * b NULL: of the last failed broker_attach in this thread.  Never NULL.  Calls that cannot use the
 * handle leave no details: BROKER_E_THREAD, no handle given, a result or lease of the parent or of
 * a handle that was detached.
 */
struct broker;
BROKER_API const struct broker_error *broker_error(const struct broker *b);

/* Text and advice for a code; static storage, never NULL. */
BROKER_API const char *broker_strerror(int code);
BROKER_API const char *broker_advice(int code);

/* ------------------------------------------------------------------------------------------------
 * Attach and detach
 */

struct broker_options {
	/* socket of the broker; NULL: BROKER_FD, then BROKER_SOCKET, then ./shmbroker.sock, then
	   /run/shmbroker/broker.sock.  Relative paths keep their meaning when the process changes
	   its directory later */
	const char *path;
	const char *name; /* of this application, shown in brokerstat; NULL: the program's name */
	const char *pool; /* pool for calls that name none; NULL: the broker's first */
	int64_t timeout_ms; /* for attaching; 0: 5 s */
	uint32_t result_kib; /* size of the result arena, 64..1024; 0: the broker's default */
	uint32_t reserved[8]; /* 0 */
};

/*
 * Attach to the broker.  opt may be NULL.
 * 0: *out is owned by the caller, to be given to broker_detach.
 * Otherwise *out is NULL: BROKER_E_NOT_FOUND, _REFUSED, _VERSION, _TIMEOUT, _MEMORY, _ARGUMENT.
 */
BROKER_API int broker_attach(const struct broker_options *opt, struct broker **out) BROKER_MUST_USE;

/*
 * End the attachment and set *b to NULL.  What is in flight is cancelled, open transactions are
 * rolled back.  Results and leases that still exist become invalid (BROKER_E_USAGE) but must still
 * be freed.  b and *b may be NULL.  Does nothing if called by another thread than the owner.
 */
BROKER_API void broker_detach(struct broker **b);

/* ------------------------------------------------------------------------------------------------
 * Values
 */

enum broker_type {
	BROKER_NULL = 0,
	BROKER_BOOL = 1,
	BROKER_INT64 = 2,
	BROKER_DOUBLE = 3,
	BROKER_TEXT = 4,
	BROKER_BLOB = 5,
	BROKER_JSON = 6,
	BROKER_TIMESTAMP = 7, /* microseconds since 1970-01-01 00:00:00 UTC */
};

/* One parameter.  Borrowed for the duration of the call only. */
struct broker_value {
	enum broker_type type;
	union {
		bool boolean;
		int64_t int64;
		double real;
		struct {
			const void *data;
			size_t len;
		} bytes;
	} u;
};

static inline struct broker_value broker_null(void)
{
	struct broker_value v = {BROKER_NULL, {0}};
	return v;
}
static inline struct broker_value broker_bool(bool x)
{
	struct broker_value v = {BROKER_BOOL, {0}};
	v.u.boolean = x;
	return v;
}
static inline struct broker_value broker_int64(int64_t x)
{
	struct broker_value v = {BROKER_INT64, {0}};
	v.u.int64 = x;
	return v;
}
static inline struct broker_value broker_double(double x)
{
	struct broker_value v = {BROKER_DOUBLE, {0}};
	v.u.real = x;
	return v;
}
static inline struct broker_value broker_timestamp(int64_t microseconds)
{
	struct broker_value v = {BROKER_TIMESTAMP, {0}};
	v.u.int64 = microseconds;
	return v;
}
static inline struct broker_value broker_blob(const void *data, size_t len)
{
	struct broker_value v = {BROKER_BLOB, {0}};
	v.u.bytes.data = data;
	v.u.bytes.len = len;
	return v;
}
/* s NULL is NULL. */
BROKER_API struct broker_value broker_text(const char *s);
BROKER_API struct broker_value broker_textn(const char *s, size_t len);
BROKER_API struct broker_value broker_json(const char *s);

/* ------------------------------------------------------------------------------------------------
 * Statements
 */

struct broker_lease;
struct broker_result;

enum broker_call_flag {
	/* the statement only reads: it may share a connection, run on a standby, and be repeated by
	   the broker; a write fails with SQLSTATE 25006.  In a transaction give it to broker_begin
	   instead */
	BROKER_READONLY = 1,
	/* expect a large result: a connection of its own, rows come as they are read */
	BROKER_STREAM = 2,
	BROKER_SERIALIZABLE = 4, /* isolation level, for broker_begin alone */
	BROKER_REPEATABLE_READ = 8, /* as above; not both */
	/* with BROKER_READONLY: see what this worker wrote before, on this handle, by calls that
	   have returned.  A standby answers only once it has that, else the primary, so it may wait
	   longer.  Without BROKER_READONLY, and inside a lease, it changes nothing: give it to
	   broker_lease or broker_begin instead.  What was written before the broker was restarted,
	   or by another worker, may be missing */
	BROKER_FRESH = 16,
	/* nobody waits for it: while all connections are busy, interactive requests that came up to
	   batch_patience (broker.conf(5)) later go first.  Inside a lease it changes nothing */
	BROKER_BATCH = 32,
};

/* How to run a statement; all members may be 0. */
struct broker_call {
	unsigned flags; /* enum broker_call_flag */
	int64_t timeout_ms; /* covers queueing, execution and delivery of the result */
	struct broker_lease *lease; /* run inside this lease or transaction */
	const char *pool; /* run in this pool instead of the handle's; not with lease */
	const char *tag; /* e.g. the request's URL, shown to operators; cut at 64 bytes */
};

/*
 * Run one statement and wait for its result.
 * sql     placeholders are $1, $2, … for every database
 * params  nparams values, may be NULL if nparams is 0
 * call    may be NULL
 * out     may be NULL: the rows, if any, are dropped
 * 0: *out is owned by the caller, to be given to broker_result_free, also if there are no rows.
 * Otherwise *out is NULL:
 *   BROKER_E_DATABASE (see sqlstate), _TIMEOUT, _CANCELLED, _UNAVAILABLE: no effect
 *   BROKER_E_OUTCOME_UNKNOWN, _LOST with outcome BROKER_UNKNOWN: it may have taken effect
 *   BROKER_E_LEASE, _TX_ABORTED: the lease or transaction is over
 *   BROKER_E_ARGUMENT, _TOO_LARGE, _BUSY, _MEMORY: nothing was sent
 * broker_error() has the verdict: outcome, and whether a retry is safe.
 * CALL, and DO with COMMIT, may fail when a part is committed: then the outcome is BROKER_UNKNOWN.
 * Without a lease a statement commits by itself; BEGIN and the like are refused, use broker_begin.
 * Returns when the first part of the result has arrived.  A small result is complete then; while a
 * large one is read an error may still come, see broker_next.  With out NULL everything has ended.
 */
BROKER_API int broker_exec(struct broker *b, const char *sql, int nparams,
	const struct broker_value *params, const struct broker_call *call,
	struct broker_result **out) BROKER_MUST_USE;

/*
 * Submit a statement without waiting.  Statements submitted outside a lease run in parallel and in
 * any order; within a lease they run in the order of submission.
 * 0: *ticket names the statement, not 0; hand it to broker_collect exactly once.
 * At most 128 tickets may be open (BROKER_E_BUSY).  Other errors as broker_exec; nothing was sent.
 */
BROKER_API int broker_submit(struct broker *b, const char *sql, int nparams,
	const struct broker_value *params, const struct broker_call *call,
	uint64_t *ticket) BROKER_MUST_USE;

/*
 * Wait for a submitted statement.  ticket 0: whichever ends first.  wait_ms: 0 does not wait,
 * negative waits for the statement's own deadline.  done may be NULL; else it gets the ticket.
 * 0: as broker_exec, *out may be the beginning of a large result.
 * BROKER_E_PENDING: not ready, the ticket stays valid.
 * BROKER_E_ARGUMENT: no such ticket.  Other errors are the statement's own and end its ticket.
 */
BROKER_API int broker_collect(struct broker *b, uint64_t ticket, int64_t wait_ms, uint64_t *done,
	struct broker_result **out) BROKER_MUST_USE;

/*
 * Ask for a submitted statement to be cancelled; does not wait.  Its broker_collect then returns
 * BROKER_E_CANCELLED, or its result if it was faster.  BROKER_E_ARGUMENT: no such ticket.
 */
BROKER_API int broker_cancel(struct broker *b, uint64_t ticket) BROKER_MUST_USE;

/*
 * A descriptor that becomes readable when a submitted statement may be collected or the broker is
 * gone.  For event loops: poll for input, then call broker_collect(b, 0, 0, …) until it returns
 * BROKER_E_PENDING.  Blocking calls may be made in between: what they take in for other tickets
 * makes the descriptor readable as well.  Owned by the handle; changes when the handle attaches
 * anew, so ask after every error.  Negative BROKER_E_ code on failure.
 */
BROKER_API int broker_fd(struct broker *b) BROKER_MUST_USE;

/* ------------------------------------------------------------------------------------------------
 * Results
 */

/*
 * Step to the next row.  1: there is one.  0: no more.  Negative: the statement failed while its
 * rows were read, codes as broker_exec; rows before were valid.  BROKER_E_LEASE: the lease was
 * rolled back or released before the rows had arrived.
 * Pointers from getters are valid until the next call of broker_next or broker_result_free on the
 * same result.
 *
 * Any number of results may be open, and statements run while one is read.  Rows that arrived and
 * were not read are kept in shared memory, beyond that on the heap.
 */
BROKER_API int broker_next(struct broker_result *r) BROKER_MUST_USE;

/*
 * Free a result and set *r to NULL; rows not read yet are dropped.  A statement that still runs is
 * cancelled if it was declared BROKER_READONLY and has no lease; any other runs to its end.
 * r and *r may be NULL.
 */
BROKER_API void broker_result_free(struct broker_result **r);

/* Number of columns; 0 for statements that return none. */
BROKER_API int broker_columns(const struct broker_result *r);
/* Name of a column, NULL if col is out of range.  Valid until the result is freed. */
BROKER_API const char *broker_column_name(const struct broker_result *r, int col);
/* Index of the first column of that name, or BROKER_E_COLUMN. */
BROKER_API int broker_column(const struct broker_result *r, const char *name) BROKER_MUST_USE;

/*
 * Rows affected by INSERT, UPDATE, DELETE; for SELECT the rows returned, known once all were read.
 * -1: not known yet.
 */
BROKER_API int64_t broker_rows(const struct broker_result *r);

/* Type of the value in the current row; BROKER_NULL for NULL.  BROKER_E_COLUMN, _NO_ROW. */
BROKER_API int broker_value_type(const struct broker_result *r, int col) BROKER_MUST_USE;
/* 1 if NULL, 0 if not, or negative as broker_value_type. */
BROKER_API int broker_is_null(const struct broker_result *r, int col) BROKER_MUST_USE;

/*
 * Getters.  0, or BROKER_E_NULL, _TYPE, _RANGE, _COLUMN, _NO_ROW; the output is then untouched.
 * What each converts:
 *   bool       BOOL; INT64 0 or 1; TEXT true, false, t, f, 1, 0
 *   int64      INT64; BOOL as 0 or 1; DOUBLE that is integral and fits; TEXT that is all one
 *              decimal integer
 *   double     DOUBLE; INT64 (nearest); TEXT that is all one number
 *   text       every type: numbers in shortest form that reads back equal, BOOL as true or false,
 *              TIMESTAMP as 2026-01-31 23:59:59.123456+00 (in UTC; no fraction if it is zero), or
 *              infinity or a year BC as PostgreSQL writes them, BLOB only if it is valid UTF-8
 *              without NUL (else BROKER_E_TYPE).  NUL terminated; *len (may be NULL) does not count
 *              the NUL
 *   blob       BLOB; TEXT and JSON as their bytes; len may be NULL
 *   timestamp  TIMESTAMP (BROKER_E_RANGE: infinity, before year 1); TEXT in ISO 8601, date with or
 *              without time and zone (UTC assumed)
 * JSON is read with broker_get_text.
 */
BROKER_API int broker_get_bool(struct broker_result *r, int col, bool *out) BROKER_MUST_USE;
BROKER_API int broker_get_int64(struct broker_result *r, int col, int64_t *out) BROKER_MUST_USE;
BROKER_API int broker_get_double(struct broker_result *r, int col, double *out) BROKER_MUST_USE;
BROKER_API int broker_get_text(struct broker_result *r, int col, const char **out,
	size_t *len) BROKER_MUST_USE;
BROKER_API int broker_get_blob(struct broker_result *r, int col, const void **out,
	size_t *len) BROKER_MUST_USE;
BROKER_API int broker_get_timestamp(struct broker_result *r, int col,
	int64_t *microseconds) BROKER_MUST_USE;

/*
 * Name of the server that answered, as the broker's configuration has it: tells a standby or a
 * fallback from the primary.  "" if it is not known: nothing was answered yet, the statement failed
 * before a server had it, the server has been removed since, or r is not of this process, thread or
 * attachment.  Never NULL.  Valid until the result is freed.
 */
BROKER_API const char *broker_server(const struct broker_result *r);

/*
 * The same for the last call on this handle that returned the outcome of a statement, COPY or
 * COMMIT: broker_exec, broker_collect, broker_copy_end, broker_commit and savepoints; for those
 * that leave no result.  "" if no server was involved.  Never NULL.  Valid until the next call on
 * this handle.
 */
BROKER_API const char *broker_last_server(const struct broker *b);

/* Nanoseconds the statement waited in the broker and ran on the server; 0 until it has ended. */
BROKER_API uint64_t broker_wait_ns(const struct broker_result *r);
BROKER_API uint64_t broker_run_ns(const struct broker_result *r);

/* ------------------------------------------------------------------------------------------------
 * Leases and transactions
 *
 * A lease is one connection for this worker alone.  Asking for one costs no round trip: the request
 * travels with the first statement, and a lease that cannot be granted fails that statement
 * (BROKER_E_TIMEOUT, _UNAVAILABLE).  A worker that dies loses its leases: what runs is cancelled,
 * the transaction is rolled back.
 */

/*
 * A connection without a transaction.  call: flags, timeout_ms (for waiting until one is granted),
 * pool, tag.  0: *out is owned by the caller, until broker_commit, _rollback or _release.
 * BROKER_E_ARGUMENT: e.g. asked for inside another lease.
 */
BROKER_API int broker_lease(struct broker *b, const struct broker_call *call,
	struct broker_lease **out) BROKER_MUST_USE;

/* A connection with a transaction; call as broker_lease, plus isolation flags. */
BROKER_API int broker_begin(struct broker *b, const struct broker_call *call,
	struct broker_lease **out) BROKER_MUST_USE;

/*
 * Commit, give the connection back, set *l to NULL in every case.  timeout_ms as in broker_call.
 * 0: durable as the database is configured.
 * BROKER_E_TX_ABORTED, _DATABASE, _LEASE: rolled back.  BROKER_E_OUTCOME_UNKNOWN, _LOST with
 * outcome BROKER_UNKNOWN: it may be committed, look.  Any other: it was not sent, and is rolled
 * back.
 */
BROKER_API int broker_commit(struct broker_lease **l, int64_t timeout_ms) BROKER_MUST_USE;

/*
 * Roll back, give the connection back, set *l to NULL.  l and *l may be NULL.  Does not wait for
 * the answer.  Results of the lease whose rows have not all arrived fail (BROKER_E_LEASE).
 */
BROKER_API void broker_rollback(struct broker_lease **l);

/* Give the connection of broker_lease back, set *l to NULL.  Does not wait.  An open transaction is
 * rolled back; settings, temporary tables, locks and cursors are gone for the next user. */
BROKER_API void broker_release(struct broker_lease **l);

/*
 * Nested transactions: broker_savepoint opens a level, _release keeps it, _rollback undoes it; both
 * close the innermost open level.  Errors as broker_exec; BROKER_E_USAGE: no level is open, or the
 * lease has no transaction.  The savepoints are named shmbroker_1, shmbroker_2, …
 */
BROKER_API int broker_savepoint(struct broker_lease *l) BROKER_MUST_USE;
BROKER_API int broker_savepoint_release(struct broker_lease *l) BROKER_MUST_USE;
BROKER_API int broker_savepoint_rollback(struct broker_lease *l) BROKER_MUST_USE;

/* ------------------------------------------------------------------------------------------------
 * COPY (PostgreSQL; elsewhere BROKER_E_UNSUPPORTED), in a lease
 */

struct broker_copy;

/* Start COPY … FROM STDIN.  0: *out is owned by the caller until broker_copy_end. */
BROKER_API int broker_copy_in(struct broker *b, const char *sql, const struct broker_call *call,
	struct broker_copy **out) BROKER_MUST_USE;
/* Send data; any cut.  An error ends the COPY; broker_copy_end must still be called.  The time-out
 * of the call that started the COPY covers all of it. */
BROKER_API int broker_copy_write(
	struct broker_copy *c, const void *data, size_t len) BROKER_MUST_USE;
/* Start COPY … TO STDOUT. */
BROKER_API int broker_copy_out(struct broker *b, const char *sql, const struct broker_call *call,
	struct broker_copy **out) BROKER_MUST_USE;
/* Next piece of data; *len 0 = end.  Valid until the next call on this COPY. */
BROKER_API int broker_copy_read(
	struct broker_copy *c, const void **data, size_t *len) BROKER_MUST_USE;
/*
 * End, wait for the outcome, and set *c to NULL.  abort_reason not NULL: make the COPY IN fail with
 * that text (the database then answers BROKER_E_CANCELLED or _DATABASE), or cancel the COPY OUT.
 * *rows (may be NULL) gets the rows copied; what a COPY OUT had not delivered is dropped.
 */
BROKER_API int broker_copy_end(struct broker_copy **c, const char *abort_reason,
	int64_t *rows) BROKER_MUST_USE;

#ifdef __cplusplus
}
#endif

#endif
