/* SPDX-License-Identifier: MIT */
/* call.c - see call.h; and the public calls that run statements. */
#include "call.h"

#include "crashpoint.h"

#include <string.h>

#define ISOLATION (BROKER_SERIALIZABLE | BROKER_REPEATABLE_READ)
#define ALL_FLAGS (BROKER_READONLY | BROKER_STREAM | ISOLATION | BROKER_FRESH | BROKER_BATCH)

int call_check_lease(struct broker *b, const struct broker_lease *l)
{
	if (l->chan->gone == BROKER_E_FORKED) {
		return errstate_set(
			&b->err, BROKER_E_FORKED, "this lease belongs to the parent process");
	}
	if (l->chan->broker != b) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT, "this lease is another handle's");
	}
	if (l->chan->gone == 0) {
		chan_check_word(l->chan);
	}
	if (l->chan->gone != 0) {
		return errstate_set(&b->err, BROKER_E_LEASE,
			"the lease ended with the attachment it was taken on: %s",
			broker_strerror(l->chan->gone));
	}
	return 0;
}

static uint8_t wire_flags(unsigned flags)
{
	return (uint8_t)(((flags & BROKER_READONLY) ? REQ_F_READONLY : 0) |
			 ((flags & BROKER_STREAM) ? REQ_F_STREAM : 0) |
			 ((flags & BROKER_SERIALIZABLE) ? REQ_F_SERIALIZABLE : 0) |
			 ((flags & BROKER_REPEATABLE_READ) ? REQ_F_REPEATABLE : 0) |
			 ((flags & BROKER_FRESH) ? REQ_F_FRESH : 0) |
			 ((flags & BROKER_BATCH) ? REQ_F_BATCH : 0));
}

static int check_call(struct broker *b, const struct broker_call *call, bool begins)
{
	unsigned isolation = call->flags & ISOLATION;

	if ((call->flags & ~(unsigned)ALL_FLAGS) != 0) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT, "unknown flags 0x%x", call->flags);
	}
	if (isolation != 0 && (!begins || isolation == ISOLATION)) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT,
			"isolation levels are for broker_begin, one at a time");
	}
	if (call->lease != NULL && call->pool != NULL) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT,
			"a statement in a lease runs in the lease's pool");
	}
	return 0;
}

static int choose_pool(struct broker *b, const char *name, uint16_t *pool)
{
	int i = name != NULL ? chan_pool(b->chan, name) : b->chan->pool;

	if (i < 0) {
		return errstate_set(
			&b->err, BROKER_E_ARGUMENT, "the broker has no pool \"%s\"", name);
	}
	*pool = (uint16_t)i;
	return 0;
}

int call_prepare(
	struct broker *b, const struct broker_call *call, bool begins, struct request_spec *s)
{
	static const struct broker_call plain;
	int rc = handle_enter(b);

	if (rc < 0) {
		return rc;
	}
	call = call != NULL ? call : &plain;
	rc = check_call(b, call, begins);
	if (rc < 0) {
		return rc;
	}
	*s = (struct request_spec){
		.flags = wire_flags(call->flags),
		.deadline_ns = handle_deadline(b, call->timeout_ms),
		.lease = call->lease != NULL ? call->lease->id : 0,
	};
	if (call->tag != NULL) {
		s->body.tag = call->tag;
		s->body.tag_len = strnlen(call->tag, CHAN_TAG_MAX);
	}
	if (call->lease != NULL) {
		return call_check_lease(b, call->lease);
	}
	rc = handle_ready(b, s->deadline_ns);
	return rc < 0 ? rc : choose_pool(b, call->pool, &s->pool);
}

int call_start(struct broker *b, const struct request_spec *s, const struct broker_lease *l,
	struct broker_result **out)
{
	struct chan *c = l != NULL ? l->chan : b->chan;
	struct broker_result *r = result_create(c);
	int rc;

	if (r == NULL) {
		return BROKER_E_MEMORY;
	}
	r->in_tx = l != NULL && l->tx;
	rc = chan_request(c, r, s);
	if (rc < 0) {
		result_release(r);
		return rc;
	}
	r->readonly |= l != NULL && l->readonly;
	chan_publish(c);
	CRASHPOINT(SUBMITTED);
	*out = r;
	return 0;
}

int call_finish(struct broker_result *r, int64_t *rows)
{
	struct chan *c = r->chan;
	int rc = result_deliver(r, false);

	if (rows != NULL) {
		*rows = r->rows;
	}
	chan_settle_fd(c);
	result_drop(r);
	return rc;
}

/* -- statements ------------------------------------------------------------------------------ */

static int check_statement(
	struct broker *b, const char *sql, int nparams, const struct broker_value *params)
{
	if (sql == NULL) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT, "sql is NULL");
	}
	if (nparams < 0 || (unsigned)nparams > CHAN_MAX_PARAMS || (nparams > 0 && params == NULL)) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT,
			"nparams is %d, params %s; at most %u are allowed", nparams,
			params != NULL ? "given" : "NULL", CHAN_MAX_PARAMS);
	}
	return 0;
}

static int start_statement(struct broker *b, const char *sql, int nparams,
	const struct broker_value *params, const struct broker_call *call,
	struct broker_result **out)
{
	struct request_spec s;
	int rc = call_prepare(b, call, false, &s);

	if (rc == 0) {
		rc = check_statement(b, sql, nparams, params);
	}
	if (rc < 0) {
		return rc;
	}
	s.op = REQ_EXEC;
	s.body.sql = sql;
	s.body.sql_len = strlen(sql);
	s.body.nparams = (unsigned)nparams;
	s.body.params = params;
	return call_start(b, &s, call != NULL ? call->lease : NULL, out);
}

/* Hand a result that has begun to arrive to the caller, or its failure. */
static int deliver(struct broker_result *r, struct broker_result **out)
{
	struct chan *c = r->chan;
	int rc = result_deliver(r, out != NULL);

	if (rc < 0 || out == NULL) {
		result_drop(r);
	} else {
		*out = r;
	}
	chan_settle_fd(c);
	return rc;
}

int broker_exec(struct broker *b, const char *sql, int nparams, const struct broker_value *params,
	const struct broker_call *call, struct broker_result **out)
{
	struct broker_result *r;
	int rc;

	if (out != NULL) {
		*out = NULL;
	}
	rc = start_statement(b, sql, nparams, params, call, &r);
	return rc < 0 ? rc : deliver(r, out);
}

int broker_submit(struct broker *b, const char *sql, int nparams, const struct broker_value *params,
	const struct broker_call *call, uint64_t *ticket)
{
	struct broker_result *r;
	int rc = handle_enter(b);

	if (ticket != NULL) {
		*ticket = 0;
	}
	if (rc < 0) {
		return rc;
	}
	if (ticket == NULL) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT, "ticket is NULL");
	}
	if (b->chan != NULL && b->chan->open >= CHAN_RING_SLOTS) {
		return errstate_verdict(&b->err, BROKER_E_BUSY, BROKER_NOT_DONE, true,
			"%u tickets are open: collect some first", b->chan->open);
	}
	rc = start_statement(b, sql, nparams, params, call, &r);
	if (rc < 0) {
		return rc;
	}
	r->user = false;
	r->open = true;
	r->chan->open++;
	*ticket = r->id;
	chan_settle_fd(r->chan);
	return 0;
}

/* -- tickets --------------------------------------------------------------------------------- */

static struct broker_result *find_ticket(struct broker *b, uint64_t ticket)
{
	for (struct chan *c = b->chan; c != NULL; c = c->past) {
		struct broker_result *r = chan_ticket(c, ticket);

		if (r != NULL) {
			return r;
		}
	}
	return NULL;
}

static struct broker_result *find_ready(struct broker *b)
{
	struct broker_result *r = NULL;

	for (struct chan *c = b->chan; c != NULL && r == NULL; c = c->past) {
		if (c->gone == 0) {
			chan_pump(c);
		}
		r = TAILQ_FIRST(&c->ready);
	}
	return r;
}

/* The open ticket whose patience ends first; NULL if there is none. */
static struct broker_result *most_urgent(struct chan *c)
{
	struct broker_result *best = NULL;

	for (unsigned i = 0; i < CHAN_REQUESTS; i++) {
		struct broker_result *r = c->slot[i];

		if (r == NULL || !r->open) {
			continue;
		}
		if (best == NULL ||
			(r->deadline_ns != 0 &&
				(best->deadline_ns == 0 || r->deadline_ns < best->deadline_ns))) {
			best = r;
		}
	}
	return best;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

/* One wait for ticket r, or for any if r is NULL.  True: look again.  False: until has passed. */
static bool wait_ticket(struct chan *c, struct broker_result *r, uint64_t until)
{
	struct broker_result *due = r != NULL ? r : most_urgent(c);
	uint64_t patience =
		due != NULL && due->deadline_ns != 0 ? due->deadline_ns + CHAN_GRACE_NS : 0;

	if (chan_await(c, r, earlier(until, patience))) {
		return true;
	}
	if (patience == 0 || chan_now(c) < patience) {
		return false;
	}
	result_give_up(due);
	return true;
}

static struct broker_result *ready_ticket(struct broker *b, struct broker_result *r)
{
	if (r == NULL) {
		return find_ready(b);
	}
	if (r->chan->gone == 0) {
		chan_pump(r->chan);
	}
	return r->is_ready ? r : NULL;
}

/* Wait until the ticket (any if r is NULL) may be collected; NULL: not within wait_ms. */
static struct broker_result *await_ticket(
	struct broker *b, struct broker_result *r, int64_t wait_ms)
{
	struct chan *c = r != NULL ? r->chan : b->chan;
	uint64_t until = wait_ms > 0 ? handle_deadline(b, wait_ms) : 0;
	struct broker_result *found;

	while ((found = ready_ticket(b, r)) == NULL) {
		if (c == NULL || c->gone != 0) {
			return NULL;
		}
		if (wait_ms == 0) {
			chan_flush(c, false);
			if (c->poll_fd < 0 || !chan_arm_fd(c)) {
				return ready_ticket(b, r);
			}
		} else if (!wait_ticket(c, r, until)) {
			return NULL;
		}
	}
	return found;
}

static bool has_tickets(const struct broker *b)
{
	for (const struct chan *c = b->chan; c != NULL; c = c->past) {
		if (c->open > 0) {
			return true;
		}
	}
	return false;
}

int broker_collect(struct broker *b, uint64_t ticket, int64_t wait_ms, uint64_t *done,
	struct broker_result **out)
{
	struct broker_result *r = NULL;
	int rc = handle_enter(b);

	if (out != NULL) {
		*out = NULL;
	}
	if (done != NULL) {
		*done = 0;
	}
	if (rc < 0) {
		return rc;
	}
	r = ticket != 0 ? find_ticket(b, ticket) : NULL;
	if (ticket != 0 ? r == NULL : !has_tickets(b) && wait_ms != 0) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT, "no such ticket is open");
	}
	r = await_ticket(b, r, wait_ms);
	if (r == NULL) {
		chan_settle_fd(b->chan);
		return errstate_set(&b->err, BROKER_E_PENDING, "no result yet");
	}
	if (done != NULL) {
		*done = r->id;
	}
	r->user = true;
	chan_collected(r->chan, r);
	return deliver(r, out);
}

int broker_cancel(struct broker *b, uint64_t ticket)
{
	struct broker_result *r;
	int rc = handle_enter(b);

	if (rc < 0) {
		return rc;
	}
	r = find_ticket(b, ticket);
	if (r == NULL) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT, "no such ticket is open");
	}
	chan_cancel(r->chan, r);
	return 0;
}
