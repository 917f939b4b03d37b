/* SPDX-License-Identifier: MIT */
/* call.h - from a public struct broker_call to a request; for statements, leases and COPY. */
#ifndef CLIENT_CALL_H
#define CLIENT_CALL_H

#include "handle.h"
#include "result.h"

struct broker_lease {
	struct chan *chan; /* a reference */
	uint64_t id;
	bool tx;
	bool readonly; /* and so is every statement in it */
	unsigned level; /* open savepoints */
	struct broker_result *end; /* for the request that ends it: ending must not fail */
};

/*
 * Check handle and call, make sure there is a channel, fill the spec (but op and body.sql, params).
 * begins: it is for a transaction, so the call may name an isolation level.  0 or a BROKER_E_ code.
 */
int call_prepare(struct broker *b, const struct broker_call *call, bool begins,
	struct request_spec *s) must_use;
/* A live lease of this handle and process: 0, or why not. */
int call_check_lease(struct broker *b, const struct broker_lease *l) must_use;

/* Send a request made by call_prepare and publish it.  0: *out is the caller's. */
int call_start(struct broker *b, const struct request_spec *s, const struct broker_lease *l,
	struct broker_result **out) must_use;
/* Wait for its end, take the rows affected (rows may be NULL), free it. */
int call_finish(struct broker_result *r, int64_t *rows) must_use;

#endif
