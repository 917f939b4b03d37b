/* SPDX-License-Identifier: MIT */
/*
 * conn.h - the core's side of a connection: its state, what runs on it, how it is cancelled,
 * cleaned and given back.  States and transitions are drawn in driver.h.
 *
 * I/O thread only.
 */
#ifndef BROKER_CONN_H
#define BROKER_CONN_H

#include "driver.h"

void conn_init(struct conn *c, struct member *m, unsigned slot);
/* It is CLOSED, and goes for good. */
void conn_finish(struct conn *c);
void conn_set_state(struct conn *c, enum conn_state state);
/* Asserts what must hold in each state. */
void conn_check(struct conn *c);

/* It was reserved (member.c). */
void conn_open(struct conn *c);

/* A live connection on its way from one I/O thread to another. */
struct conn_parcel {
	void *driver_parcel;
	uint64_t connected_ns, idle_since_ns, tested_ns, statements;
	int32_t backend_pid;
};
/*
 * c is IDLE: take the connection out of it; c is CLOSED then.  False: it cannot be done just now.
 * conn_adopt puts it into another one, which is CLOSED and becomes IDLE, in whatever I/O thread,
 * but of the same pool and server.
 */
bool conn_detach(struct conn *c, struct conn_parcel *out) must_use;
void conn_adopt(struct conn *c, const struct conn_parcel *p);
/* Give it up; f, if not NULL, answers what is in flight. */
void conn_give_up(struct conn *c, const struct failure *f);

/* Run r on c; `begin` as driver->start. */
void conn_start(struct conn *c, struct request *r, unsigned begin);
/* r has ended (any way) and leaves the connection.  Called by request.c. */
void conn_request_ended(struct conn *c, struct request *r);
/* The lease is over: clean the connection and give it back when nothing is in flight. */
void conn_unlease(struct conn *c);
/* Nobody wants what the lease has in flight any more: end it.  The lease may be freed. */
void conn_abandon(struct conn *c);

/* c is IDLE: see whether it still works; meanwhile it is nobody's. */
void conn_test(struct conn *c);
/* c is being cleaned, and may be given to whoever waits: as if it were IDLE. */
bool conn_may_follow(const struct conn *c);

/* Cancel r, which runs on c. */
void conn_cancel_request(struct conn *c, struct request *r);
/* Take the shared reads behind a slow or stuck head away and queue them again. */
void conn_evacuate(struct conn *c);
/* Shared connections whose head takes long are evacuated; stuck cancels are given up. */
void conn_tick(struct conn *c);

#endif
