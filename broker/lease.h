/* SPDX-License-Identifier: MIT */
/*
 * lease.h - one connection for one worker, with or without a transaction.
 *
 *   WAITING ---granted---> ACTIVE ---COMMIT, ROLLBACK, RELEASE---> ENDED (freed)
 *      |                     | connection lost, statement given up
 *      +---- time-out ---->  BROKEN  (statements fail with the reason until the worker ends it)
 *   ACTIVE --- its connection could not be cleaned, nothing has run ---> WAITING, once more
 *   any state: COMMIT, ROLLBACK or RELEASE given up or cancelled: lease_abort, ENDED
 *
 * A lease that was not granted in time is BROKEN as well.  The worker names a lease by the id of
 * its REQ_LEASE; the truth {connection, generation} is here.  Statements that arrive before the
 * grant wait in `pending`; they go to the connection in order, pipelined, but
 *   - after the one that carries BEGIN nothing is sent until it has ended well, so no statement of
 *     a transaction can ever run outside it;
 *   - nor behind the first one while its connection is still being cleaned;
 *   - COPY runs alone.
 *
 * I/O thread only.
 */
#ifndef BROKER_LEASE_H
#define BROKER_LEASE_H

#include "request.h"

enum lease_state {
	LEASE_WAITING,
	LEASE_ACTIVE,
	LEASE_BROKEN,
};

struct lease {
	uint64_t id;
	struct io *io;
	struct session *session; /* NULL: its worker is gone; ends when the connection is drained */
	struct pool *pool;
	struct conn *conn; /* ACTIVE */
	enum lease_state state;
	unsigned flags; /* enum req_flag of the REQ_LEASE */
	bool begun; /* BEGIN was sent */
	bool gate; /* what must end first is in flight: BEGIN, COPY, the first behind a reset */
	bool ending; /* COMMIT, ROLLBACK or RELEASE arrived: nothing may follow */
	bool dead; /* ended while held: freed by the last lease_drop */
	unsigned holds;
	struct request *ask; /* WAITING: in pool->waiters */
	struct request *copy; /* COPY IN that takes data */
	struct cds_list_head pending; /* struct request.link */
	uint64_t asked_ns;
	uint64_t since_ns; /* granted */
	uint64_t active_ns; /* ACTIVE: something of it ended or was granted last */
	bool leaked; /* reported as held too long */
	struct statement *last; /* that was started last, a reference; NULL: none */
	struct capped capped; /* ACTIVE */
	uint32_t tag_len;
	char tag[CHAN_TAG_MAX];
	enum fail_code broken_code;
	bool broken_retry; /* the whole transaction may be repeated */
	char broken_sqlstate[6];
	char broken_why[200];
	struct cds_list_head session_link;
};

/* Take over `ask` (op REQ_LEASE) and queue it in the pool.  0; -EPROTO: the id is taken; -ENOMEM:
 * ask is still the caller's then. */
int lease_ask(struct session *s, struct request *ask) must_use;
/* The pool gives it a connection (state LEASED); frees the ask. */
void lease_grant(struct lease *l, struct conn *c);
/* The ask failed: BROKEN.  The ask was freed or is about to be. */
void lease_refuse(struct lease *l, const struct failure *f);

/* A request in a lease, from the session. */
void lease_request(struct lease *l, struct request *r);
/* COPY IN data and end, from the session. */
void lease_copy_data(struct lease *l, const void *data, size_t len);
void lease_copy_end(struct lease *l, const char *error);

/* A request of the lease has left its connection: look what comes next. */
void lease_request_ended(struct lease *l, uint8_t op, bool failed);
/* A cancel was settled: what waited for it may go on. */
void lease_resume(struct lease *l);
/* Between the two the lease may end but is not freed. */
void lease_hold(struct lease *l);
void lease_drop(struct lease *l);
/* The connection is lost or the statement on it was given up: BROKEN. */
void lease_break(struct lease *l, const struct failure *f);
/*
 * Its connection goes, and nothing that it has in flight has run: all of it waits in `pending`
 * again, and the lease in the pool, at its place.  Does nothing if the worker has lost interest in
 * any of it; else c->lease is NULL afterwards.  The caller is losing the connection.
 */
void lease_ask_again(struct lease *l);
/* Its end was given up before it was sent, and the worker will send no other: it ends all the same,
 * and what it did is rolled back. */
void lease_abort(struct lease *l, const struct failure *f);
/* A statement of its transaction failed without reaching the server: nothing of it may stay. */
void lease_spoil(struct lease *l);
/* Housekeeping, while it is ACTIVE: is it held too long?  May break it. */
void lease_tick(struct lease *l);
/* The worker is gone. */
void lease_orphan(struct lease *l);

#endif
