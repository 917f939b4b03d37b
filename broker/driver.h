/* SPDX-License-Identifier: MIT */
/*
 * driver.h - what a database driver does, and what it may ask of the core.
 *
 * A driver is a const vtable.  The core (pool.c, lease.c, conn.c) owns struct conn and decides
 * which request runs where; the driver talks to the database.  All vtable functions are called on
 * the I/O thread and never block; all callbacks (conn_*, request_*) are called by the driver on the
 * I/O thread.  Callbacks are never made from inside connect() or close().  request_done and
 * request_failed may be made from inside start() or flush().
 *
 * Order: requests on one connection end in the order of start().  conn->inflight is kept by the
 * core; its head is the request the database works on.
 *
 * Connection states (conn_set_state is the only writer):
 *
 *   CLOSED --connect()--> CONNECTING --conn_ready--> IDLE <------ conn_reset_done -----+
 *     ^                       |                      |  ^                              |
 *     |                  conn_closed           given |  | nothing to clean             |
 *     |                       |                      v  |                              |
 *     +<----------------------+             BUSY or LEASED --- something to clean ---> RESETTING
 *     |                                          ^                                     |  |
 *     |                                          +------ given, behind the reset ------+  |
 *     |                                                                                   |
 *     +<-- conn_closed <-- CLOSING <--close()-- (any state) <------ the reset failed -----+
 *
 * BUSY: autocommit, may be shared.
 */
#ifndef BROKER_DRIVER_H
#define BROKER_DRIVER_H

#include "check.h"
#include "config.h"
#include "request.h"
#include "server.h"

#include <uv.h>

struct driver;
struct member;

enum conn_state {
	CONN_CLOSED,
	CONN_CONNECTING,
	CONN_IDLE,
	CONN_BUSY,
	CONN_LEASED,
	CONN_RESETTING,
	CONN_CLOSING,
	CONN_STATE_COUNT
};

/* What the server says of the session after the last request that ended. */
enum conn_tx {
	CONN_TX_IDLE,
	CONN_TX_OPEN,
	CONN_TX_FAILED,
};

enum conn_reset {
	CONN_RESET_ROLLBACK = 1, /* end an open transaction */
	CONN_RESET_SESSION = 2, /* nothing of the session may remain: DISCARD ALL or the like */
};

/* Roles of a connection; a PostgreSQL connection has both. */
enum conn_role {
	CONN_READS = 1, /* runs read-only requests */
	CONN_WRITES = 2, /* runs everything */
};

struct conn {
	/* set by the core */
	struct member *member;
	struct pool *pool; /* of the member */
	struct io *io;
	const struct driver *driver;
	void *server_priv; /* of driver->server_open */
	unsigned slot; /* index in the member */
	unsigned row; /* on the board, BOARD_NONE: none was free */
	unsigned roles; /* enum conn_role; conn.c asks driver->roles */
	enum conn_state state;
	uint64_t generation; /* +1 with every connect */
	struct cds_list_head inflight; /* of struct request.link, in order of start() */
	unsigned ninflight;
	struct lease *lease; /* LEASED */
	bool cancelling; /* a cancel is on its way: nothing new is sent until it is settled */
	bool retire; /* close when it becomes idle */
	bool testing; /* RESETTING: only to see whether it still works */
	bool resetting; /* conn_reset_done is due; what is in flight was started behind the reset */
	bool promised; /* RESETTING: nobody follows, another I/O thread waits for it */
	unsigned turn_sends; /* quick reads given to it in this turn of the loop */
	bool shareable; /* BUSY: all that is in flight may share */
	uint64_t dry_at; /* statements when it was made to run dry, see lending.c */
	bool losing; /* its work is being taken away */
	bool resume_wanted; /* the reader it was blocked by is gone */
	bool flush_wanted; /* in io's list of connections to flush at the end of the turn */
	uint64_t connected_ns, idle_since_ns, since_ns;
	uint64_t freed_ns; /* opened, or left by its last user; exact when somebody waited */
	uint64_t tested_ns; /* it answered a test */
	uint64_t reset_ns; /* resetting since */
	uint64_t head_ns; /* the head request is the head since */
	uint64_t cancel_ns, cancel_first_ns; /* last, and first of those not settled */
	uint64_t statements;
	struct timer slow; /* shared: look whether the head runs long */
	struct cds_list_head link; /* pool's list for the state */
	struct cds_list_head flush_link;

	/* set by the driver */
	void *priv; /* its own */
	enum conn_tx tx; /* valid when a request ends */
	bool dirty; /* session state was touched since the last reset: reset before the next user */
	int32_t backend_pid; /* 0 if none */
};

/* Which autocommit requests may be in flight together on one connection. */
enum driver_share {
	DRIVER_SHARE_READS = 1, /* those declared read-only: pipelined, each independent */
	DRIVER_SHARE_WRITES = 2, /* any without a lease: the driver commits them as a group */
};

struct driver {
	const char *name;
	unsigned share; /* enum driver_share */
	/* start() may follow reset(CONN_RESET_SESSION) at once: what is started runs after the
	 * reset has succeeded, or not at all. */
	bool reset_rides;

	/*
	 * Open what all connections of a pool to one server share (parsed address, thread pool).
	 * 0 and *priv, or -1 and a text in err that names what to change.  May touch files, not
	 * networks.
	 */
	int (*server_open)(struct io *io, const struct config_server *server,
		const struct config_pool *pool, void **priv, char *err, size_t errlen);
	void (*server_close)(void *priv); /* after all its connections are CLOSED; NULL allowed */

	/* Number of connections the pool has to the server, without overflow (SQLite: 1 writer +
	 * readers), and the roles of each. */
	unsigned (*size)(void *server_priv, const struct config_pool *pool);
	unsigned (*roles)(void *server_priv, unsigned slot);

	/*
	 * Probes (server.h); all NULL: the server is a file.  probe_open makes what the probes of s
	 * share and does not connect; NULL: no memory.  probe_send asks for role and position,
	 * after connecting if need be, and ends in probe_answered(); health.c sends the next one
	 * only then.  probe_drop gives up the one under way: no answer follows, the next starts
	 * afresh.
	 */
	void *(*probe_open)(struct server *s, void *server_priv);
	void (*probe_send)(void *probe);
	void (*probe_drop)(void *probe);
	void (*probe_close)(void *probe);

	/* Start connecting.  Later: conn_ready or conn_closed. */
	void (*connect)(struct conn *c);

	/*
	 * Run r, which the core has appended to c->inflight.  The request's op says what:
	 *   EXEC       stmt with params.  With `begin` not 0 (enum req_flag of the lease: REQ_F_TX
	 *              and isolation, REQ_F_READONLY) start a transaction first, in the same flush.
	 *              Without a lease: alone in its own implicit transaction; REQ_F_READONLY must
	 *              make a write fail (SQLSTATE 25006) instead of executing it.
	 *   COMMIT     with a transaction that has failed: roll back and fail with FAIL_TX_ABORTED.
	 *   ROLLBACK
	 *   COPY_IN, COPY_OUT   nothing else is in flight then
	 * May send at once or wait for flush().  Ends in request_done or request_failed.
	 */
	void (*start)(struct conn *c, struct request *r, unsigned begin);
	/* End of the loop turn: send what start() left. */
	void (*flush)(struct conn *c);

	/* More of the head request's result may be written to its worker now. */
	void (*resume)(struct conn *c);

	/* COPY IN data for the head request.  Returns false when it took the data but wants no more
	 * until conn_copy_drained().  end: no more data; error (may be NULL): make it fail. */
	bool (*copy_data)(struct conn *c, const void *data, size_t len);
	void (*copy_end)(struct conn *c, const char *error);

	/*
	 * Cancel the head request (the core has made sure that everything behind it is an orphan or
	 * belongs to the same lease).  Later conn_cancel_settled(), when no cancel can hit anything
	 * started afterwards.  The request itself ends as usual.  Called again while the same head
	 * does not end, settled or not: a cancel that came too early had no effect.  A reset in
	 * front of the head may be hit instead, and fail.
	 */
	void (*cancel)(struct conn *c);

	/* Nothing is in flight: clean the session as told (enum conn_reset); 0: only see whether
	 * the server answers.  Later conn_reset_done, before the end of what was started since. */
	void (*reset)(struct conn *c, unsigned what);

	/*
	 * c is IDLE: what another struct conn, in another I/O thread, needs to go on with it; c has
	 * none any more.  NULL: just now it cannot be parted from.  adopt: the other end, c has
	 * become IDLE.  Both NULL: the driver's connections stay with their thread, and there may
	 * be no more than one.
	 */
	void *(*detach)(struct conn *c);
	void (*adopt)(struct conn *c, void *parcel);

	/*
	 * Give the connection up, in any state.  Requests in flight were taken away by the core, no
	 * request_ callback may follow.  The one that runs is cancelled, those behind it do not
	 * run.  Later conn_closed(c, NULL).
	 */
	void (*close)(struct conn *c);
};

extern const struct driver driver_pg;
extern const struct driver driver_sqlite;
extern const struct driver driver_fake;

/* Driver for a url: "sqlite:", "fake:", else PostgreSQL. */
const struct driver *driver_for_url(const char *url);

/* -- callbacks into the core (conn.c) ---------------------------------------------------------- */

/* CONNECTING -> IDLE */
void conn_ready(struct conn *c);
/*
 * The connection is gone: connecting failed, the server closed it, the protocol broke (f says why),
 * or close() finished (f NULL).  c->priv was freed by the driver.  The core deals with the requests
 * in flight: repeats what may be repeated, answers the others.
 */
void conn_closed(struct conn *c, const struct failure *f);
void conn_cancel_settled(struct conn *c);
/* ok false: the session could not be cleaned, nothing behind it has run; the core closes the
 * connection. */
void conn_reset_done(struct conn *c, bool ok);
void conn_copy_drained(struct conn *c);

/* -- facilities of the loop (io.h) ------------------------------------------------------------- */

uv_loop_t *io_uv(struct io *io);
/* Nanoseconds of CLOCK_MONOTONIC, read at most once since the loop last blocked. */
uint64_t io_now(struct io *io);
/* Ask for driver->flush(c) at the end of this turn. */
void conn_want_flush(struct conn *c);

#endif
