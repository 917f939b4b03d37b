/* SPDX-License-Identifier: MIT */
/*
 * copy.c - COPY in and out, on a lease.
 *
 * COPY IN is one request that is answered twice: COMP_COPY_READY, then its end.  Data travels in
 * descriptors of its own that are not answered; an error that the database reports meanwhile ends
 * the request, and the next write finds it ended.
 * COPY OUT is a request whose result stream is the data, handed out chunk by chunk, in place.
 */
#include "call.h"

#include "crashpoint.h"

#include <stdlib.h>
#include <string.h>

#define PIECE 65536u

struct broker_copy {
	struct broker_result *r;
	bool in;
};

static int copy_enter(const struct broker_copy *c, bool in)
{
	int rc = c == NULL ? BROKER_E_ARGUMENT : result_enter(c->r);

	if (rc == 0 && c->in != in) {
		rc = errstate_set(&c->r->chan->broker->err, BROKER_E_USAGE,
			in ? "this COPY sends data: use broker_copy_read"
			   : "this COPY takes data: use broker_copy_write");
	}
	return rc;
}

static uint64_t patience(const struct broker_result *r)
{
	return r->deadline_ns == 0 ? 0 : r->deadline_ns + CHAN_GRACE_NS;
}

/* Wait for anything new of the COPY.  0, or the code with which it failed. */
static int wait_copy(struct broker_result *r)
{
	if (!r->ended) {
		r->news = false;
		if (!chan_await(r->chan, r, patience(r))) {
			result_give_up(r);
		}
	}
	return r->ended && r->code < 0 ? result_fail(r) : 0;
}

/* -- start ----------------------------------------------------------------------------------- */

static int wait_start(struct broker_copy *c)
{
	struct broker_result *r = c->r;
	int rc = 0;

	while (rc == 0 && c->in && !r->copy_ready && !r->ended) {
		rc = wait_copy(r);
	}
	while (rc == 0 && !c->in && r->rr.first == NULL && !r->ended) {
		rc = wait_copy(r);
	}
	if (rc == 0 && r->ended && r->code < 0) {
		rc = result_fail(r);
	}
	CRASHPOINT(COPY_STARTED);
	return rc;
}

static int copy_start(struct broker *b, const char *sql, const struct broker_call *call, bool in,
	struct broker_copy **out)
{
	struct request_spec s;
	struct broker_copy *c;
	int rc = call_prepare(b, call, false, &s);

	if (out != NULL) {
		*out = NULL;
	}
	if (rc < 0) {
		return rc;
	}
	if (out == NULL || sql == NULL || call == NULL || call->lease == NULL) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT,
			"COPY needs a statement, somewhere to put the handle, and call->lease");
	}
	c = calloc(1, sizeof(*c));
	if (c == NULL) {
		return errstate_set(&b->err, BROKER_E_MEMORY, "no memory for a COPY");
	}
	c->in = in;
	s.op = in ? REQ_COPY_IN : REQ_COPY_OUT;
	s.body.sql = sql;
	s.body.sql_len = strlen(sql);
	rc = call_start(b, &s, call->lease, &c->r);
	if (rc < 0) {
		free(c);
		return rc;
	}
	rc = wait_start(c);
	if (rc < 0) {
		result_drop(c->r);
		free(c);
		return rc;
	}
	*out = c;
	return 0;
}

int broker_copy_in(
	struct broker *b, const char *sql, const struct broker_call *call, struct broker_copy **out)
{
	return copy_start(b, sql, call, true, out);
}

int broker_copy_out(
	struct broker *b, const char *sql, const struct broker_call *call, struct broker_copy **out)
{
	return copy_start(b, sql, call, false, out);
}

/* -- data ------------------------------------------------------------------------------------ */

/* Has it ended although its end was not sent? */
static int ended_early(struct broker_result *r)
{
	if (r->chan->gone == 0) {
		chan_pump(r->chan);
	}
	if (!r->ended) {
		return 0;
	}
	if (r->code < 0) {
		return result_fail(r);
	}
	return errstate_set(
		&r->chan->broker->err, BROKER_E_INTERNAL, "the COPY ended before its data");
}

int broker_copy_write(struct broker_copy *c, const void *data, size_t len)
{
	const unsigned char *p = data;
	int rc = copy_enter(c, true);

	while (rc == 0 && len > 0) {
		size_t n = len < PIECE ? len : PIECE;
		size_t most = (size_t)outbox_max(&c->r->chan->out);

		n = n < most ? n : most;
		rc = ended_early(c->r);
		if (rc < 0) {
			return rc;
		}
		CRASHPOINT(COPY_WRITE);
		rc = chan_copy(c->r->chan, REQ_COPY_DATA, c->r, p, n);
		CRASHPOINT(COPY_WRITTEN);
		p += n;
		len -= n;
	}
	return rc < 0 ? rc : ended_early(c->r);
}

static void give_spent(struct broker_result *r)
{
	struct chunk *k;

	while ((k = rowreader_spent(&r->rr)) != NULL) {
		chan_give(r->chan, k);
	}
}

int broker_copy_read(struct broker_copy *c, const void **data, size_t *len)
{
	int rc = copy_enter(c, false);
	struct broker_result *r;

	if (rc < 0) {
		return rc;
	}
	if (data == NULL || len == NULL) {
		return errstate_set(
			&c->r->chan->broker->err, BROKER_E_ARGUMENT, "data or len is NULL");
	}
	r = c->r;
	rowreader_skip(&r->rr); /* the piece handed out before */
	give_spent(r);
	while (r->rr.first == NULL && !r->ended) {
		rc = wait_copy(r);
		if (rc < 0) {
			return rc;
		}
	}
	if (r->rr.first == NULL) {
		*data = "";
		*len = 0;
		return r->code < 0 ? result_fail(r) : 0;
	}
	CRASHPOINT(COPY_READ);
	r->rr.pos = r->rr.first->len; /* handed out */
	*data = r->rr.first->data;
	*len = r->rr.first->len;
	return 0;
}

/* -- end ------------------------------------------------------------------------------------- */

/* Tell the broker that no data follows, with a reason if the COPY shall fail. */
static int tell_end(struct broker_copy *c, const char *reason)
{
	struct broker_result *r = c->r;
	size_t len = reason != NULL ? strnlen(reason, SHM_ERROR_TEXT_MAX) : 0;
	int rc;

	if (reason != NULL && len == 0) {
		reason = "aborted by the worker";
		len = strlen(reason);
	}
	CRASHPOINT(COPY_END);
	rc = chan_copy(r->chan, REQ_COPY_END, r, reason, len);
	CRASHPOINT(COPY_ENDED);
	return rc;
}

static int copy_finish(struct broker_copy *c, const char *reason, int64_t *rows)
{
	struct broker_result *r = c->r;
	int rc = result_enter(r);

	if (rc == 0 && !r->ended && c->in) {
		rc = tell_end(c, reason);
	}
	if (rc == 0 && !c->in && reason != NULL) {
		chan_cancel(r->chan, r);
	}
	if (rc < 0) {
		result_drop(r);
		return rc;
	}
	return call_finish(r, rows);
}

int broker_copy_end(struct broker_copy **cp, const char *abort_reason, int64_t *rows)
{
	struct broker_copy *c = cp != NULL ? *cp : NULL;
	int rc;

	if (rows != NULL) {
		*rows = -1;
	}
	if (c == NULL) {
		return BROKER_E_ARGUMENT;
	}
	rc = c->r->chan->broker != NULL ? handle_enter(c->r->chan->broker) : 0;
	if (rc < 0) {
		return rc; /* another thread's */
	}
	rc = copy_finish(c, abort_reason, rows);
	free(c);
	*cp = NULL;
	return rc;
}
