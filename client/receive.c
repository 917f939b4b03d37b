/* SPDX-License-Identifier: MIT */
/* receive.c - the receiving half of chan.h: completions, and what becomes of their requests. */
#include "chan.h"

#include "result.h"

#include <unistd.h>

void chan_give(struct chan *c, struct chunk *k)
{
	inbox_give(&c->in, k);
	if (c->gone == 0 && c->in.due_blocks > c->in.nblocks / 8) {
		chan_flush(c, true);
	}
}

void chan_notify(struct chan *c, struct broker_result *r)
{
	r->news = true;
	if (r->open && !r->is_ready) {
		r->is_ready = true;
		TAILQ_INSERT_TAIL(&c->ready, r, ready_link);
	}
}

void chan_finish(struct chan *c, struct broker_result *r)
{
	r->in_flight = false;
	c->in_flight--;
	if (r->owes_cancel || r->owes_end) {
		TAILQ_REMOVE(&c->owed, r, owed_link);
		r->owes_cancel = r->owes_end = false;
	}
	chan_notify(c, r);
	if (!r->open) {
		c->slot[r->id % CHAN_REQUESTS] = NULL;
		if (!r->user) {
			result_release(r);
		}
	}
}

struct broker_result *chan_ticket(const struct chan *c, uint64_t ticket)
{
	struct broker_result *r = c->slot[ticket % CHAN_REQUESTS];

	return r != NULL && r->id == ticket && r->open ? r : NULL;
}

void chan_collected(struct chan *c, struct broker_result *r)
{
	if (r->is_ready) {
		r->is_ready = false;
		TAILQ_REMOVE(&c->ready, r, ready_link);
	}
	if (r->open) {
		r->open = false;
		c->open--;
	}
	if (!r->in_flight && c->slot[r->id % CHAN_REQUESTS] == r) {
		c->slot[r->id % CHAN_REQUESTS] = NULL;
	}
}

/* A chunk of the result stream: to the reader, or straight back. */
static void take_data(struct chan *c, struct broker_result *r, struct chunk *k)
{
	if (r->discard || k->len == 0) {
		chan_give(c, k);
	} else {
		rowreader_append(&r->rr, k);
	}
}

static void take_final(
	struct chan *c, struct broker_result *r, const struct shm_completion *d, struct chunk *k)
{
	if (r->ended) { /* given up before; the answer comes too late */
		if (k != NULL) {
			chan_give(c, k);
		}
		return;
	}
	r->ended = true;
	r->wait_ns = d->wait_ns;
	r->run_ns = d->run_ns;
	if (d->kind == COMP_DONE) {
		r->rows = (int64_t)d->rows;
		r->rr.ended = true;
		if (k != NULL) {
			take_data(c, r, k);
		}
		return;
	}
	r->code = d->code >= 2001 && d->code <= 2999 ? -(int)d->code : BROKER_E_INTERNAL;
	r->outcome = d->outcome == SHM_OUTCOME_NOT_DONE ? BROKER_NOT_DONE : BROKER_UNKNOWN;
	r->error = k;
}

/* False: the broker says impossible things. */
static bool dispatch(struct chan *c, const struct shm_completion *d)
{
	struct broker_result *r = c->slot[d->id % CHAN_REQUESTS];
	struct chunk *k = NULL;

	if (d->chunk != CHAN_NO_CHUNK) {
		k = inbox_chunk(&c->in, d);
		if (k == NULL) {
			return false;
		}
	}
	if (r == NULL || r->id != d->id || !r->in_flight) {
		if (k != NULL) {
			chan_give(c, k);
		}
		return true;
	}
	if (d->server != UINT16_MAX) {
		r->server = d->server;
	}
	switch ((enum comp_kind)d->kind) {
	case COMP_DATA:
		if (k != NULL) {
			take_data(c, r, k);
		}
		chan_notify(c, r);
		return true;
	case COMP_COPY_READY:
		if (k != NULL) {
			chan_give(c, k);
		}
		r->copy_ready = true;
		chan_notify(c, r);
		return true;
	case COMP_DONE:
	case COMP_ERROR:
		take_final(c, r, d, k);
		chan_finish(c, r);
		return true;
	}
	if (k != NULL) {
		chan_give(c, k);
	}
	return false;
}

void chan_pump(struct chan *c)
{
	struct shm_completion d;
	int rc;

	while ((rc = inbox_take(&c->in, &d)) == 1) {
		if (!dispatch(c, &d)) {
			rc = -1;
			break;
		}
	}
	if (rc < 0) {
		chan_lost(c, BROKER_E_INTERNAL);
	}
}
