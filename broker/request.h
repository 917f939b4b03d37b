/* SPDX-License-Identifier: MIT */
/*
 * request.h - one thing a worker asked for, from its descriptor to its last completion.
 *
 * Life: session_take.c creates it from a descriptor -> waits in a pool or lease queue -> a driver
 * runs it on a connection -> request_done() or request_failed() answers the worker and frees it.
 *
 * A request whose worker died, gave up or was answered already is an *orphan* (session NULL): it
 * keeps its place on the connection, its results are dropped.
 *
 * I/O thread only.  Executor threads may read the const part while the request is theirs (from
 * driver->start until they post the end), and the atomic `cancel`.
 */
#ifndef BROKER_REQUEST_H
#define BROKER_REQUEST_H

#include "caps.h"
#include "failure.h"
#include "layout.h"
#include "statement.h"
#include "timer.h"

#include <urcu/list.h>

struct conn;
struct io;
struct lease;
struct pool;
struct session;

/* One parameter, pointing into the request's private body. */
struct request_param {
	const void *data;
	uint32_t len;
	uint32_t type; /* enum cell_type, validated */
};

enum request_state {
	REQUEST_NEW,
	REQUEST_QUEUED, /* in pool->waiters or lease->pending: nothing was sent */
	REQUEST_RUNNING, /* in conn->inflight */
};

/* How far the result stream is. */
struct stream {
	unsigned char *at; /* next byte in the current chunk, NULL: no chunk */
	unsigned char *end;
	bool needy; /* holds no block and is guaranteed one, see session.h */
	uint32_t block; /* first block of the current chunk */
	uint32_t blocks;
	uint32_t chunks; /* chunks published so far */
	uint32_t held; /* chunks it owns: those not given back, and the current one */
	bool blocked; /* waits for the worker to give blocks back */
};

#define REQUEST_INLINE 448u
#define REQUEST_INLINE_PARAMS 8u

struct request {
	/* constant once queued */
	struct io *io;
	uint64_t id; /* the worker's, for the completion */
	uint8_t op; /* enum req_op: EXEC, COMMIT, ROLLBACK, RELEASE, COPY_IN, COPY_OUT, LEASE */
	uint8_t flags; /* enum req_flag */
	struct pool *pool;
	struct statement *stmt; /* NULL for COMMIT, ROLLBACK, RELEASE, LEASE; a reference is held */
	unsigned nparams;
	struct request_param *params;
	unsigned char *body; /* private copy; params point into it; inline_body or heap */
	uint32_t tag_len;
	char tag[CHAN_TAG_MAX];

	/* state, I/O thread */
	struct session *session; /* NULL: orphan */
	uint64_t lease_id; /* as the worker says; 0: autocommit */
	struct lease *lease; /* NULL: autocommit */
	struct conn *conn; /* while RUNNING */
	enum request_state state;
	struct stream out;
	uint64_t rows; /* rows put into the stream */
	bool delivered; /* something of its result was published to the worker */
	bool cancel_wanted; /* worker's cancel, deadline or death */
	bool timed_out; /* the cancel is because of the deadline */
	unsigned sends; /* times it was given to a connection */
	bool roams; /* QUEUED: any server that takes reads will do, as far as choice.c sees */
	uint64_t round; /* QUEUED: of the pool, when it was queued */
	uint64_t rank_ns; /* QUEUED: place in the queue; arrival, for batch ones later */
	uint64_t wait_until_ns; /* QUEUED: acquire_timeout */
	struct capped capped; /* RUNNING without a lease */
	uint64_t arrived_ns, sent_ns, deadline_ns;
	struct timer timer; /* deadline, then the grace after it */
	struct cds_list_head link; /* pool->waiters, lease->pending or conn->inflight */
	struct cds_list_head session_link; /* session->requests */
	struct cds_list_head blocked_link; /* session->blocked */
	void *driver_priv; /* owned by the driver while RUNNING */

	/* shared with executor threads */
	_Atomic int cancel; /* 1: stop as soon as possible */

	struct request_param inline_params[REQUEST_INLINE_PARAMS];
	uint64_t body_len;
	_Alignas(8) unsigned char inline_body[REQUEST_INLINE];
};

/* -- for drivers: result stream -------------------------------------------------------------- */

/* A cell of a row, borrowed for the call. */
struct stream_cell {
	const void *data;
	uint32_t len;
	uint8_t type; /* enum cell_type; CELL_NULL has no data */
	uint8_t encoding; /* enum cell_encoding */
};

/*
 * Append len bytes of an encoded stream (result head, columns and rows as layout.h has them, cut
 * anywhere at multiples of 8; for COPY_OUT raw bytes, cut anywhere).  Returns the bytes taken.
 * Less than len: the worker's arena is full; keep the rest and go on when driver->resume is called.
 * Orphans take everything.
 */
size_t request_write(struct request *r, const void *bytes, size_t len);

/* Append the head of a result: names and types of its columns.  At most once, before any row.
 * Heads are small against an arena; what does not fit is kept back by the stream itself. */
struct stream_column {
	const char *name;
	uint8_t type; /* enum cell_type */
};

/*
 * A row on its way into the stream.  The driver fills cells and ncells, sets at to 0 and calls
 * request_row until it returns true; false: arena full, call again with the same row from
 * driver->resume (the cells must still be valid then).
 */
struct stream_row {
	unsigned ncells;
	const struct stream_cell *cells;
	uint64_t at; /* bytes of the encoded row already taken */
};
bool request_row(struct request *r, struct stream_row *row);

/* Encoded head in the caller's buffer: returns its length, or what it would need if > size.
 * For drivers to pass to request_write. */
size_t stream_encode_head(void *buf, size_t size, unsigned ncols, const struct stream_column *cols);
/* Encoded length of a row. */
uint64_t stream_row_len(unsigned ncells, const struct stream_cell *cells);
/* Encode a whole row into buf, which has room for stream_row_len() bytes. */
void stream_encode_row(void *buf, unsigned ncells, const struct stream_cell *cells);

/*
 * A read without a lease that is known to take little time: it may stand in front of others, and
 * its answer may wait for theirs.
 */
bool request_is_quick(const struct request *r);

/* COPY IN: the server takes data now; tells the worker. */
void request_copy_ready(struct request *r);

/* -- for drivers: the end; r must be the head of its connection's inflight list ---------------- */

/* rows: affected by a write, returned by a read.  Frees r. */
void request_done(struct request *r, uint64_t rows);
/* Frees r, or queues it again if it may be repeated (core's decision, from the failure's code). */
void request_failed(struct request *r, const struct failure *f);

#endif
