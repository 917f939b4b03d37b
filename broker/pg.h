/* SPDX-License-Identifier: MIT */
/*
 * pg.h - what the files of the PostgreSQL driver share.  Nobody else includes it.
 *
 *   driver_pg.c    the vtable, and small entries of it
 *   pg_server.c    url and pool options -> what libpq is given; one per pool and server
 *   pg_dial.c      resolving and connecting
 *   pg_connect.c   connecting, polling the socket, losing and closing a connection
 *   pg_probe.c     asking a server what it is
 *   pg_pipeline.c  sending: requests become steps
 *   pg_result.c    answering: steps become the ends of requests
 *   pg_copy.c      COPY, outside the pipeline
 *   pg_cancel.c    cancels, off the loop
 *   pg_error.c     what the server reports -> struct failure
 *   pg_param.[ch], pg_prepared.[ch]   parameters; which statements are prepared
 *
 * A connection is driven by a FIFO of steps: one for each thing libpq will answer, in the order it
 * was sent.  Its head says what the next result belongs to.  A batch is the steps up to a Sync;
 * after an error the server skips to the Sync, libpq answers the skipped steps as aborted.
 *
 *   autocommit read    [SET SYNC] [DEALLOCATE SYNC] [PREPARE] QUERY END
 *   read group         [SET SYNC] QUERY MEMBER QUERY MEMBER ... QUERY END
 *   first of a lease   [UNSET SYNC] BEGIN [PREPARE] QUERY END
 *   COPY               [UNSET SYNC] [BEGIN SYNC] COPY
 *   reset              [CLEAN SYNC] CLEAN CLEAN CLEANED
 *   behind a reset     ... [BEGIN] PROOF QUERY END, as above
 *
 * A reset that ends in DISCARD ALL prepares, in the same batch, an empty statement with a name that
 * nobody can guess.  What is sent before the answer has come describes that statement first
 * (PROOF): if the session was not cleaned it is not there, and the server skips the rest of the
 * batch.
 *
 * Whatever is not the request's own and must not fail with it has a Sync of its own.  Every step up
 * to and including END belongs to the head of conn->inflight, which is why steps name no request:
 * the core may have put a substitute in its place.
 *
 * Life of struct pg_backend (phase; pg_set_phase is the only writer):
 *
 *   CONNECT --> OPEN --> GONE
 *      +-----------------^
 *
 * GONE: conn and pg_backend have parted; the memory stays until libuv has closed the handles.  All
 * callbacks into the core may end in close(), so after each one `pg->c == NULL` is looked at.
 *
 * A connection that is lent to another I/O thread leaves its pg_backend, which is GONE then, and
 * gets a new one there; what the server knows of it, prepared statements and modes, goes along.
 *
 * I/O thread only, but for the inside of pg_cancel.c.
 */
#ifndef BROKER_PG_H
#define BROKER_PG_H

#include "driver.h"
#include "log.h"
#include "pg_param.h"
#include "pg_prepared.h"

#include <libpq-fe.h>

/* A value this large leaves libpq buffers that never shrink: the connection is replaced when idle.
 */
#define PG_OVERSIZE ((size_t)16 * 1024 * 1024)
#define PG_TEXT_MAX 512
/* Reads under one Sync: more save little and hold the first one's answer back. */
#define PG_GROUP_MAX 8u

struct pg_canceller;
struct pg_cancel_job;

struct pg_host {
	char *host; /* name, path, or "" for libpq's default */
	char *hostaddr; /* "" if none */
	char *port; /* "" for the default */
	bool resolve; /* a name for the resolver */
};

struct pg_server {
	bool open; /* the core has not closed it */
	unsigned users; /* struct pg_backend that exist */
	struct io *io;
	char *name; /* of the [server] section, for the log */
	uint64_t connect_timeout; /* milliseconds */
	unsigned max_prepared;
	unsigned nhosts;
	struct pg_host *hosts;
	unsigned noptions;
	char **keywords; /* all options but host, hostaddr and port */
	char **values;
	struct pg_canceller *canceller; /* NULL: no users */
};

enum pg_phase {
	PG_CONNECT,
	PG_OPEN,
	PG_GONE,
};

enum pg_step_kind {
	/* internal commands */
	PG_STEP_SET, /* session read-only on */
	PG_STEP_UNSET, /* and off */
	PG_STEP_DEALLOCATE,
	PG_STEP_ROLLBACK, /* in front of a repeated BEGIN */
	PG_STEP_BEGIN,
	PG_STEP_READONLY, /* this implicit transaction only */
	PG_STEP_PREPARE,
	PG_STEP_PROOF, /* that the reset in front succeeded */
	PG_STEP_CLEAN, /* of a reset: ROLLBACK, DISCARD ALL, Parse of what PROOF looks for */
	/* the request's own */
	PG_STEP_QUERY,
	/* Syncs */
	PG_STEP_SYNC, /* ends an internal batch */
	PG_STEP_END, /* ends the head request */
	PG_STEP_SETTLE, /* ends a cancel */
	PG_STEP_CLEANED, /* ends a reset */
	/* nothing in the pipeline answers these */
	PG_STEP_MEMBER, /* ends the head request within a read group, whose last has the Sync */
	PG_STEP_FAIL, /* the head request fails, nothing was sent for it */
	PG_STEP_COPY,
};

struct pg_step {
	uint8_t kind; /* enum pg_step_kind */
	uint8_t begin; /* END: as start() got it */
	bool named; /* END: a prepared statement was used */
	bool fresh; /* END: and prepared in the same batch */
	bool alone; /* END: no lease; the request itself forgets its lease when that ends */
	bool answered; /* a result came */
	uint8_t param_error; /* FAIL: enum pg_param_error */
	uint32_t param; /* FAIL: number of the parameter */
	struct pg_key key; /* PREPARE, DEALLOCATE, END with named */
};

enum pg_copy_state {
	PG_COPY_NONE,
	PG_COPY_SENT, /* waits for a result */
	PG_COPY_FEED, /* the server takes data */
	PG_COPY_DRAIN, /* the server sends data */
	PG_COPY_DISCARD, /* the server sends data that nobody asked for */
};

enum pg_cancel_state {
	PG_CANCEL_NONE,
	PG_CANCEL_HELD, /* a preamble is at the head: not yet */
	PG_CANCEL_RUNNING, /* with the canceller */
	PG_CANCEL_RETURNED, /* the server has it; SETTLE waits for COPY to end */
	PG_CANCEL_SETTLING, /* SETTLE is in the FIFO */
};

typedef void pg_socket_ready_fn(void *owner, int status, int events);

/* Handle of the socket; apart from its owner since libpq may change the socket while it connects.
 */
struct pg_socket {
	uv_poll_t poll;
	pg_socket_ready_fn *ready;
	void *owner;
	int fd;
	int events; /* UV_READABLE | UV_WRITABLE that are polled */
};

/* List of hosts with their addresses as it goes to libpq. */
struct pg_targets {
	char *host, *hostaddr, *port; /* comma-separated, same number of entries */
	unsigned count;
};

struct pg_lookup;

/* A connection on its way. */
struct pg_dial {
	/* set by the caller */
	struct pg_server *server;
	const char *application; /* application_name unless the url names one, NULL: the usual */
	/* From the loop: pq is open and with its socket the caller's to take; or it is NULL and why
	 * says why.  May free the dial. */
	void (*done)(struct pg_dial *d);

	PGconn *pq;
	struct pg_socket *socket;
	char sqlstate[6];
	char why[PG_TEXT_MAX];
	unsigned host; /* being resolved */
	struct pg_lookup *lookup; /* NULL: no question to the resolver */
	struct pg_targets targets;
};

struct pg_backend {
	struct conn *c; /* NULL: GONE */
	struct pg_server *server;
	PGconn *pq;
	unsigned refs; /* the phase, the timer */
	enum pg_phase phase;
	struct pg_socket *socket; /* NULL: libpq has none, or it is closed */
	uv_timer_t timer; /* connect timeout; fires at once when `broken` */
	struct conn *closing; /* close() was called: tell this one when the timer is closed */
	int (*ssl_pending)(const void *ssl);
	void *ssl;

	/* why it ends; the first reason stays */
	bool mute; /* nothing can be sent any more; what has arrived is still handled */
	bool broken; /* nothing is handled any more, to be reported as lost */
	bool fatal; /* the server said why: nothing of what is in flight behind the head was run */
	char why_sqlstate[6];
	char why[PG_TEXT_MAX];

	struct pg_dial dial; /* CONNECT */

	/* FIFO of steps, a ring of a power of two */
	struct pg_step *steps;
	unsigned steps_cap;
	unsigned steps_head, steps_tail; /* only grow */
	bool processing; /* pg_process is active */
	unsigned group; /* members of the read group that is being sent, its Sync is still due */
	bool want_write; /* libpq has more to send than the socket takes */

	/* session */
	struct pg_prepared *prepared;
	bool readonly; /* default_transaction_read_only was switched on by us */
	enum conn_tx tx; /* as far as tags tell; exact whenever the FIFO is empty */

	/* the batch that is being answered */
	PGresult *error; /* the head request's first error */
	bool clean_failed; /* the reset */
	bool discarding; /* DISCARD ALL was sent and CLEANED has not come */
	char proof[PG_NAME_MAX]; /* discarding: the name that PROOF looks for */
	uint64_t nrows; /* delivered */
	uint64_t affected; /* as the command tag says */
	bool aborted; /* COMMIT was answered by ROLLBACK */
	bool unreplicated; /* committed, but not known to be on the standbys it has to be on */
	bool skipped; /* another member of its read group failed before it: it did not run */
	bool columns_known; /* types[] and head[] are of the head request's result */
	bool binary; /* it came in binary */
	bool binary_pays; /* it came as text and had better come in binary */
	PGresult *result; /* with rows that were not delivered yet */
	int result_row;
	struct stream_row row;
	bool row_begun; /* row and cells are of result_row */
	bool blocked; /* the worker's arena is full: read nothing until resume() */
	bool resumed;
	struct stream_cell *cells;
	uint8_t *types;
	int64_t *numbers; /* that cells point to */
	unsigned ncolumns, columns_cap;
	unsigned char *head; /* encoded columns */
	size_t head_len, head_at, head_cap;

	/* COPY */
	enum pg_copy_state copy;
	bool copy_started; /* it was a COPY of the right kind */
	bool copy_wrong; /* it was something else */
	bool copy_full; /* copy_data() said stop */
	char *copy_data; /* from libpq */
	size_t copy_len, copy_at;

	enum pg_cancel_state cancel;
	struct pg_cancel_job *cancel_job;
	unsigned settles; /* SETTLE steps in the FIFO */

	struct pg_params params;
};

/* -- pg_server.c ------------------------------------------------------------------------------- */

int pg_server_open(struct io *io, const struct config_server *server,
	const struct config_pool *pool, void **priv, char *err, size_t errlen);
void pg_server_close(void *priv);
void pg_server_hold(struct pg_server *s);
void pg_server_put(struct pg_server *s);

/* -- pg_dial.c --------------------------------------------------------------------------------- */

/* False: it is over already, why says why, and done is not called. */
bool pg_dial_start(struct pg_dial *d);
/* Give up; also what is left of an ended one.  It may be started again. */
void pg_dial_stop(struct pg_dial *d);

/* Who is told of events from now on. */
void pg_socket_give(struct pg_socket *s, pg_socket_ready_fn *ready, void *owner);
/* NULL: no memory, or not a socket that can be polled. */
struct pg_socket *pg_socket_open(struct io *io, int fd) must_use;
/* Events to poll for; s may be NULL. */
void pg_socket_poll(struct pg_socket *s, int events);
void pg_socket_close(struct pg_socket **s);

/* -- pg_connect.c ------------------------------------------------------------------------------ */

void pg_connect(struct conn *c);
void pg_close(struct conn *c);
void *pg_detach(struct conn *c);
void pg_adopt(struct conn *c, void *parcel);
/*
 * The connection cannot go on.  Reported to the core from the loop, never from inside this call.
 * why NULL: what libpq says.
 */
void pg_break(struct pg_backend *pg, const char *why);
/* Poll for what is wanted now; close the handle if libpq has closed the socket. */
void pg_poll_update(struct pg_backend *pg);
/* Send what libpq holds back.  Remembers to poll for writability. */
void pg_send_out(struct pg_backend *pg);
/* What TLS holds back from poll(). */
void pg_read_rest(struct pg_backend *pg);

/* -- pg_pipeline.c ----------------------------------------------------------------------------- */

struct pg_step *pg_step_head(struct pg_backend *pg);
void pg_step_pop(struct pg_backend *pg);
bool pg_step_is_last(const struct pg_backend *pg);
struct request *pg_head_request(const struct pg_backend *pg);

void pg_start(struct conn *c, struct request *r, unsigned begin);
void pg_reset(struct conn *c, unsigned what);
bool pg_sets_locally(const struct statement *stmt);
/* Send the Sync of the read group, if one is open. */
void pg_close_group(struct pg_backend *pg);
/* Send a Sync that nothing but `kind` waits for. */
void pg_send_sync(struct pg_backend *pg, enum pg_step_kind kind);
/* Run the head request once more, in front of nothing else.  step: its END. */
void pg_repeat(struct pg_backend *pg, struct request *r, const struct pg_step *step);

/* -- pg_result.c ------------------------------------------------------------------------------- */

/* Handle all that libpq has complete.  Reads nothing from the socket. */
void pg_process(struct pg_backend *pg);
/* A command tag arrived: what it says of the session.  r may be NULL. */
void pg_note_tag(struct pg_backend *pg, const struct request *r, PGresult *res);
/* The server ends the connection and says why. */
void pg_note_fatal(struct pg_backend *pg, const PGresult *res);
/* Forget the answer of the head request. */
void pg_answer_clear(struct pg_backend *pg);
void pg_set_error(struct pg_backend *pg, PGresult *res);

/* -- pg_copy.c --------------------------------------------------------------------------------- */

/* PG_STEP_COPY is at the head: go on.  False: nothing to do for now. */
bool pg_copy_advance(struct pg_backend *pg);
/* Hand on what is left of the piece at hand.  False: the worker's arena is full. */
bool pg_copy_deliver(struct pg_backend *pg);
bool pg_copy_take(struct conn *c, const void *data, size_t len);
void pg_copy_end(struct conn *c, const char *error);
/* Everything was sent. */
void pg_copy_flushed(struct pg_backend *pg);
/* The connection is lost: make libpq show what the server said last. */
void pg_copy_lost(struct pg_backend *pg);

/* -- pg_cancel.c ------------------------------------------------------------------------------- */

struct pg_canceller *pg_canceller_create(struct io *io) must_use;
void pg_canceller_close(struct pg_canceller *k);
void pg_cancel(struct conn *c);
/* A preamble has ended: send a cancel that was held. */
void pg_cancel_release(struct pg_backend *pg);
/* COPY has ended: settle. */
void pg_cancel_after_copy(struct pg_backend *pg);
/* pg is GONE. */
void pg_cancel_forget(struct pg_backend *pg);
/*
 * In front of closing the connection: a cancel for what its backend runs, to be sent when it is
 * closed.  NULL: nothing runs.
 */
struct pg_cancel_job *pg_cancel_last(struct pg_backend *pg);
void pg_cancel_send_last(struct pg_cancel_job *j);

/* -- pg_probe.c -------------------------------------------------------------------------------- */

void *pg_probe_open(struct server *s, void *server_priv);
void pg_probe_send(void *probe);
void pg_probe_drop(void *probe);
void pg_probe_close(void *probe);

/* -- pg_error.c -------------------------------------------------------------------------------- */

bool pg_is_fatal(const PGresult *res);
bool pg_sqlstate_is(const PGresult *res, const char *sqlstate);
/* Texts are borrowed from res. */
void pg_failure(const PGresult *res, struct failure *f);
/* A table has changed since the statement was prepared. */
bool pg_is_stale_plan(const PGresult *res);
/* A notice: what is being committed is here, and perhaps nowhere else. */
bool pg_is_unreplicated(const PGresult *notice);
/* The last error of libpq on one line, without the decoration of a connect error; sqlstate "" if
 * the server reported none. */
void pg_connect_error(PGconn *pq, char *text, size_t size, char sqlstate[6]);
/* One line, no surrounding white space. */
void pg_one_line(char *text);

#endif
