/* SPDX-License-Identifier: MIT */
/*
 * request_core.h - the core's side of requests: session_take.c makes them, pool.c, lease.c and
 * conn.c move them.  Drivers see request.h only.
 *
 * Accounting: a statement is started when it is taken from its worker and ends once, when the
 * worker was answered or is gone; what an orphan still does on its connection is nobody's
 * statement.
 *
 * I/O thread only.
 */
#ifndef BROKER_REQUEST_CORE_H
#define BROKER_REQUEST_CORE_H

#include "request.h"

/* From a descriptor; body has room for body_len bytes.  NULL: out of memory. */
struct request *request_create(
	struct io *io, const struct shm_request *d, uint64_t body_len) must_use;
/* Must be linked nowhere. */
void request_free(struct request *r);
struct request_param *request_alloc_params(struct request *r, unsigned n) must_use;

/* Taken from the worker: count it, start its clock. */
void request_started(struct request *r, uint64_t bytes);
/* Admitted: to its lease or pool, or to an error. */
void request_route(struct request *r);

/*
 * Its deadline has passed.  Then it must not be sent any more, even if it has only just arrived:
 * its worker may have given it up as not done while we stood still.
 */
bool request_is_late(const struct request *r);
/* Its deadline is not later than when_ns. */
void request_bound(struct request *r, uint64_t when_ns);
/* Not RUNNING, and late: answer it. */
void request_expire(struct request *r);

/* Nobody waits for it: it is not repeated, and stops where it can look. */
void request_want_cancel(struct request *r);
/* The worker asks for its end. */
void request_cancel(struct request *r);
/* The worker is gone. */
void request_abandon(struct request *r);
/* Answer the worker now; what runs goes on as an orphan.  r stays valid if it is RUNNING. */
void request_give_up(struct request *r, const struct failure *f);
/* RUNNING, and its lease broke: answer with what is known; it goes on as an orphan to be
 * cancelled. */
void request_cut_off(struct request *r, const struct failure *why);
/* Its connection is gone: repeat it if that is allowed, else answer. */
void request_lost(struct request *r, const struct failure *f);
/* A twin that takes over the worker, while r stays on its connection as an orphan.  NULL: no
 * memory, nothing changed. */
struct request *request_split(struct request *r) must_use;

/* Declared read-only, or known to be. */
bool request_reads(const struct request *r);
/* A statement of the worker, not a lease or its end. */
bool request_is_statement(const struct request *r);

#endif
