/* SPDX-License-Identifier: MIT */
/* result.c - see result.h: the life of a request and the rows of its result. */
#include "result.h"

#include "crashpoint.h"

#include <stdlib.h>
#include <string.h>

#define MORE 1 /* internal: something arrived, try again */

/* -- life ------------------------------------------------------------------------------------ */

static void scratch_reset(struct broker_result *r)
{
	while (r->scratch != NULL && r->scratch->next != NULL) {
		struct scratch *s = r->scratch;

		r->scratch = s->next;
		free(s);
	}
	if (r->scratch != NULL) {
		r->scratch->used = 0;
	}
}

struct broker_result *result_create(struct chan *c)
{
	struct broker *b = c->broker;
	struct broker_result *r = TAILQ_FIRST(&b->spare);

	if (r != NULL) {
		TAILQ_REMOVE(&b->spare, r, link);
		b->nspare--;
	} else {
		r = calloc(1, sizeof(*r));
		if (r == NULL) {
			errstate_set(&b->err, BROKER_E_MEMORY, "no memory for a request");
			return NULL;
		}
	}
	chan_ref(c);
	r->chan = c;
	r->user = true;
	r->rows = -1;
	r->server = UINT16_MAX;
	TAILQ_INSERT_TAIL(&c->all, r, link);
	return r;
}

static void result_free(struct broker_result *r)
{
	while (r->scratch != NULL) {
		struct scratch *s = r->scratch;

		r->scratch = s->next;
		free(s);
	}
	rowreader_finish(&r->rr);
	free(r);
}

/* Ready for another request, with the memory it has. */
static void result_recycle(struct broker *b, struct broker_result *r)
{
	struct rowreader rr;
	struct scratch *scratch;

	rowreader_reset(&r->rr);
	scratch_reset(r);
	rr = r->rr;
	scratch = r->scratch;
	*r = (struct broker_result){.rr = rr, .scratch = scratch};
	TAILQ_INSERT_HEAD(&b->spare, r, link);
	b->nspare++;
}

static void give_spent(struct broker_result *r)
{
	struct chunk *k;

	while ((k = rowreader_spent(&r->rr)) != NULL) {
		chan_give(r->chan, k);
	}
}

void result_release(struct broker_result *r)
{
	struct chan *c = r->chan;
	struct broker *b = c->broker;

	rowreader_drain(&r->rr);
	give_spent(r);
	if (r->error != NULL) {
		chan_give(c, r->error);
		r->error = NULL;
	}
	TAILQ_REMOVE(&c->all, r, link);
	if (b != NULL && b->nspare < HANDLE_SPARE) {
		result_recycle(b, r);
	} else {
		result_free(r);
	}
	if (c->in_flight == 0 && c->open == 0) {
		chan_rest(c);
	}
	chan_unref(c);
}

void result_free_spare(struct broker *b)
{
	struct broker_result *r;

	while ((r = TAILQ_FIRST(&b->spare)) != NULL) {
		TAILQ_REMOVE(&b->spare, r, link);
		result_free(r);
	}
	b->nspare = 0;
}

void result_drop(struct broker_result *r)
{
	if (!r->in_flight) {
		result_release(r);
		return;
	}
	r->user = false;
	r->discard = true;
	rowreader_drain(&r->rr);
	give_spent(r);
	if (r->readonly && r->lease == 0 && !r->ended) {
		chan_cancel(r->chan,
			r); /* nothing can be undone by that; elsewhere it runs to its end */
	}
}

void result_end(struct broker_result *r, int code, enum broker_outcome outcome, bool retry_safe)
{
	if (r->ended) {
		return;
	}
	r->ended = true;
	r->code = code;
	r->outcome = outcome;
	r->retry_safe = retry_safe;
}

void result_give_up(struct broker_result *r)
{
	struct chan *c = r->chan;
	bool taken = outbox_taken(&c->out, r->sub_pos);

	chan_cancel(c, r);
	r->discard = true;
	rowreader_drain(&r->rr);
	give_spent(r);
	if (!taken || r->readonly) {
		result_end(r, BROKER_E_TIMEOUT, BROKER_NOT_DONE, r->lease == 0);
	} else {
		result_end(r, BROKER_E_OUTCOME_UNKNOWN, BROKER_UNKNOWN, false);
	}
	chan_notify(c, r);
}

int result_fail(struct broker_result *r)
{
	struct errstate *e = &r->chan->broker->err;

	if (r->error != NULL) {
		return errstate_report(e, r->code, r->outcome, r->error->data, r->error->len);
	}
	return errstate_verdict(
		e, r->code, r->outcome, r->retry_safe, "%s", broker_strerror(r->code));
}

uint32_t result_spill(struct broker_result *r, uint32_t want)
{
	uint32_t before = r->chan->in.held;
	struct chunk **p = &r->rr.first;

	if (*p != NULL && r->rr.have_row && r->rr.in_place) {
		p = &(*p)->next; /* getters have handed out pointers into it */
	}
	for (; *p != NULL && before - r->chan->in.held < want; p = &(*p)->next) {
		struct chunk *copy;

		if ((*p)->block == CHAN_NO_CHUNK) {
			continue;
		}
		copy = inbox_spill(&r->chan->in, *p);
		if (copy == NULL) {
			break;
		}
		if (r->rr.last == *p) {
			r->rr.last = copy;
		}
		*p = copy;
	}
	return before - r->chan->in.held;
}

/* -- arrival --------------------------------------------------------------------------------- */

static uint64_t patience(const struct broker_result *r)
{
	return r->deadline_ns == 0 ? 0 : r->deadline_ns + CHAN_GRACE_NS;
}

/*
 * Wait for more of the stream.  MORE, or the code with which the statement failed; rows that came
 * before the failure are read first.
 */
static int wait_more(struct broker_result *r)
{
	give_spent(r); /* before anything else: it may be what the broker waits for */
	if (!r->ended) {
		r->news = false;
		if (!chan_await(r->chan, r, patience(r))) {
			result_give_up(r);
		}
	}
	return r->ended && r->code < 0 && r->rr.first == NULL ? result_fail(r) : MORE;
}

static int broken_stream(struct broker_result *r, int rc)
{
	struct errstate *e = &r->chan->broker->err;

	if (rc == ROWREADER_MEMORY) {
		return errstate_set(e, BROKER_E_MEMORY, "no memory for a row of this size");
	}
	return errstate_set(e, BROKER_E_INTERNAL, "the result stream is malformed");
}

/* What a step of the reader means: its positive answers, 0, MORE after a wait, or a failure. */
static int settle(struct broker_result *r, int rc, bool *again)
{
	*again = false;
	give_spent(r);
	if (rc >= 0) {
		return rc;
	}
	if (rc != ROWREADER_WANT_MORE) {
		return broken_stream(r, rc);
	}
	rc = wait_more(r);
	*again = rc == MORE;
	return rc;
}

static int read_columns(struct broker_result *r)
{
	bool again;
	int rc;

	do {
		rc = settle(r, rowreader_columns(&r->rr), &again);
	} while (again);
	return rc;
}

static int drain(struct broker_result *r)
{
	r->discard = true;
	rowreader_drain(&r->rr);
	while (!r->ended) {
		int rc = wait_more(r);

		if (rc < 0) {
			return rc;
		}
	}
	give_spent(r);
	return r->code < 0 ? result_fail(r) : 0;
}

static int deliver(struct broker_result *r, bool keep)
{
	if (!keep) {
		return drain(r);
	}
	while (!r->ended && r->rr.first == NULL) {
		int rc = wait_more(r);

		if (rc < 0) {
			return rc;
		}
	}
	if (r->ended && r->code < 0) { /* known at once: rows that came before are of no use */
		return result_fail(r);
	}
	return read_columns(r);
}

int result_deliver(struct broker_result *r, bool keep)
{
	int rc = deliver(r, keep);

	r->chan->broker->last_server = chan_server(r->chan, r->server);
	return rc;
}

/* -- public: rows ---------------------------------------------------------------------------- */

int result_enter(const struct broker_result *r)
{
	struct broker *b;
	int rc;

	if (r == NULL) {
		return BROKER_E_ARGUMENT;
	}
	b = r->chan->broker;
	if (b == NULL) { /* forked or detached */
		return r->chan->gone;
	}
	rc = handle_enter(b);
	if (rc < 0) {
		return rc;
	}
	if (r->chan->gone == BROKER_E_FORKED) {
		return errstate_set(
			&b->err, BROKER_E_FORKED, "this result belongs to the parent process");
	}
	return 0;
}

int broker_next(struct broker_result *r)
{
	int rc = result_enter(r);
	bool again;

	if (rc < 0) {
		return rc;
	}
	r->chan->now = 0;
	scratch_reset(r);
	do {
		rc = settle(r, rowreader_next(&r->rr), &again);
	} while (again);
	if (rc == 1) {
		CRASHPOINT(ROW_READ);
	}
	chan_settle_fd(r->chan);
	return rc;
}

void broker_result_free(struct broker_result **rp)
{
	struct broker_result *r = rp != NULL ? *rp : NULL;

	if (r == NULL) {
		return;
	}
	if (r->chan->broker != NULL && handle_enter(r->chan->broker) < 0) {
		return; /* another thread's */
	}
	CRASHPOINT(RESULT_FREE);
	*rp = NULL;
	result_drop(r);
}

int broker_columns(const struct broker_result *r)
{
	return r != NULL ? (int)r->rr.ncols : 0;
}

const char *broker_column_name(const struct broker_result *r, int col)
{
	if (r == NULL || col < 0 || (uint32_t)col >= r->rr.ncols || r->rr.columns == NULL) {
		return NULL;
	}
	return r->rr.columns[col].name;
}

int broker_column(const struct broker_result *r, const char *name)
{
	int rc = result_enter(r);

	if (rc < 0) {
		return rc;
	}
	for (uint32_t i = 0; name != NULL && i < r->rr.ncols; i++) {
		if (strcmp(r->rr.columns[i].name, name) == 0) {
			return (int)i;
		}
	}
	return errstate_set(&r->chan->broker->err, BROKER_E_COLUMN, "no column is named \"%s\"",
		name != NULL ? name : "(null)");
}

int64_t broker_rows(const struct broker_result *r)
{
	return r != NULL ? r->rows : -1;
}

uint64_t broker_wait_ns(const struct broker_result *r)
{
	return r != NULL ? r->wait_ns : 0;
}

uint64_t broker_run_ns(const struct broker_result *r)
{
	return r != NULL ? r->run_ns : 0;
}

const char *broker_server(const struct broker_result *r)
{
	return r != NULL && result_enter(r) == 0 ? chan_server(r->chan, r->server) : "";
}
