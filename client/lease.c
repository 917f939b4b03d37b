/* SPDX-License-Identifier: MIT */
/*
 * lease.c - leases, transactions, savepoints.
 *
 * Taking a lease pushes its descriptor and publishes nothing: it travels with the first statement.
 * Giving it back sends its end and waits only for COMMIT; the answers to ROLLBACK and RELEASE are
 * dropped when they come.  Results of the lease that have not arrived completely are given up
 * before ROLLBACK and RELEASE, as their rows go with the transaction.
 */
#include "call.h"

#include "crashpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAVEPOINT_SQL_MAX 64

static void lease_free(struct broker_lease *l)
{
	if (l->end != NULL) {
		result_release(l->end);
	}
	l->chan->leases--;
	chan_unref(l->chan);
	free(l);
}

static int take(
	struct broker *b, const struct broker_call *call, bool tx, struct broker_lease **out)
{
	struct broker_lease *l;
	struct request_spec s;
	int rc = call_prepare(b, call, tx, &s);

	if (out != NULL) {
		*out = NULL;
	}
	if (rc < 0) {
		return rc;
	}
	if (out == NULL) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT, "out is NULL");
	}
	if (call != NULL && call->lease != NULL) {
		return errstate_set(&b->err, BROKER_E_ARGUMENT,
			"a lease cannot be taken inside another: use broker_savepoint");
	}
	if (b->chan->leases >= CHAN_RING_SLOTS) {
		return errstate_verdict(&b->err, BROKER_E_BUSY, BROKER_NOT_DONE, true,
			"%u leases are taken: give some back first", b->chan->leases);
	}
	l = calloc(1, sizeof(*l));
	if (l == NULL) {
		return errstate_set(&b->err, BROKER_E_MEMORY, "no memory for a lease");
	}
	s.op = REQ_LEASE;
	s.flags = (uint8_t)(s.flags | (tx ? REQ_F_TX : 0));
	*l = (struct broker_lease){
		.chan = b->chan, .tx = tx, .readonly = (s.flags & REQ_F_READONLY) != 0};
	chan_ref(l->chan);
	l->chan->leases++;
	l->end = result_create(l->chan);
	rc = l->end == NULL ? BROKER_E_MEMORY : chan_lease(l->chan, &s, &l->id);
	if (rc < 0) {
		lease_free(l);
		return rc;
	}
	*out = l;
	return 0;
}

int broker_lease(struct broker *b, const struct broker_call *call, struct broker_lease **out)
{
	return take(b, call, false, out);
}

int broker_begin(struct broker *b, const struct broker_call *call, struct broker_lease **out)
{
	return take(b, call, true, out);
}

/* 0, or why the lease cannot be used by this call. */
static int lease_enter(struct broker_lease *l)
{
	struct broker *b = l->chan->broker;
	int rc;

	if (b == NULL) { /* forked or detached */
		return l->chan->gone;
	}
	rc = handle_enter(b);
	return rc < 0 ? rc : call_check_lease(b, l);
}

/* -- ends ------------------------------------------------------------------------------------ */

/* Rows of this lease that are still on their way will not be read. */
static void give_up_results(struct broker_lease *l)
{
	for (unsigned i = 0; i < CHAN_REQUESTS; i++) {
		struct broker_result *r = l->chan->slot[i];

		if (r == NULL || r->lease != l->id || !r->in_flight || r->ended) {
			continue;
		}
		chan_cancel(l->chan, r);
		r->discard = true;
		result_end(r, BROKER_E_LEASE, BROKER_NOT_DONE, false);
		chan_notify(l->chan, r);
	}
}

static void end(struct broker_lease **lp, uint8_t op)
{
	struct broker_lease *l = lp != NULL ? *lp : NULL;
	int rc;

	if (l == NULL) {
		return;
	}
	rc = lease_enter(l);
	if (rc == BROKER_E_THREAD) {
		return;
	}
	*lp = NULL;
	if (rc == 0) {
		struct broker_result *r = l->end;

		give_up_results(l);
		l->end = NULL;
		r->op = op;
		r->lease = l->id;
		r->deadline_ns = 0;
		chan_end_lease(l->chan, r);
		chan_settle_fd(l->chan);
	}
	lease_free(l);
}

void broker_rollback(struct broker_lease **l)
{
	end(l, REQ_ROLLBACK);
}

void broker_release(struct broker_lease **l)
{
	end(l, REQ_RELEASE);
}

/* Send COMMIT with the request that was kept for the end. */
static int send_commit(struct broker_lease *l, int64_t timeout_ms)
{
	struct request_spec s = {
		.op = REQ_COMMIT,
		.lease = l->id,
		.deadline_ns = handle_deadline(l->chan->broker, timeout_ms),
	};
	int rc;

	CRASHPOINT(COMMIT_BEFORE);
	l->end->in_tx = l->tx;
	rc = chan_request(l->chan, l->end, &s);
	if (rc == 0) {
		chan_publish(l->chan);
		CRASHPOINT(COMMIT_SENT);
	}
	return rc;
}

int broker_commit(struct broker_lease **lp, int64_t timeout_ms)
{
	struct broker_lease *l = lp != NULL ? *lp : NULL;
	struct broker_result *r;
	int rc;

	if (l == NULL) {
		return BROKER_E_ARGUMENT;
	}
	rc = lease_enter(l);
	if (rc == BROKER_E_THREAD) {
		return rc;
	}
	*lp = NULL;
	if (rc == 0) {
		rc = send_commit(l, timeout_ms);
		if (rc < 0) { /* it was not sent: make sure that the broker does not wait for it */
			*lp = l;
			end(lp, REQ_ROLLBACK);
			return rc;
		}
		r = l->end;
		l->end = NULL;
		rc = call_finish(r, NULL);
		CRASHPOINT(COMMIT_DONE);
	}
	lease_free(l);
	return rc;
}

/* -- savepoints ------------------------------------------------------------------------------ */

static int start(
	struct broker_lease *l, const char *verb, unsigned level, struct broker_result **out)
{
	char sql[SAVEPOINT_SQL_MAX];
	struct request_spec s = {
		.op = REQ_EXEC,
		.lease = l->id,
		.deadline_ns = handle_deadline(l->chan->broker, 0),
		.body.sql = sql,
	};

	s.body.sql_len = (size_t)snprintf(sql, sizeof(sql), "%s shmbroker_%u", verb, level);
	return call_start(l->chan->broker, &s, l, out);
}

static int run(struct broker_lease *l, const char *verb, unsigned level)
{
	struct broker_result *r;
	int rc = start(l, verb, level, &r);

	return rc < 0 ? rc : call_finish(r, NULL);
}

static int savepoint_enter(struct broker_lease *l, bool needs_level)
{
	int rc = l == NULL ? BROKER_E_ARGUMENT : lease_enter(l);

	if (rc < 0) {
		return rc;
	}
	if (!l->tx) {
		return errstate_set(&l->chan->broker->err, BROKER_E_USAGE,
			"this lease has no transaction: take it with broker_begin");
	}
	if (needs_level && l->level == 0) {
		return errstate_set(&l->chan->broker->err, BROKER_E_USAGE,
			"no savepoint is open: call broker_savepoint first");
	}
	return 0;
}

int broker_savepoint(struct broker_lease *l)
{
	int rc = savepoint_enter(l, false);

	if (rc == 0) {
		rc = run(l, "SAVEPOINT", l->level + 1);
	}
	if (rc == 0) {
		l->level++;
	}
	return rc;
}

int broker_savepoint_release(struct broker_lease *l)
{
	int rc = savepoint_enter(l, true);

	if (rc == 0) {
		rc = run(l, "RELEASE SAVEPOINT", l->level);
	}
	if (rc == 0) {
		l->level--;
	}
	return rc;
}

int broker_savepoint_rollback(struct broker_lease *l)
{
	struct broker_result *undo, *close;
	int rc = savepoint_enter(l, true), rc2;

	if (rc < 0) {
		return rc;
	}
	rc = start(l, "ROLLBACK TO SAVEPOINT", l->level, &undo);
	if (rc < 0) {
		return rc;
	}
	rc2 = start(l, "RELEASE SAVEPOINT", l->level, &close);
	rc = call_finish(undo, NULL); /* both travel together; the first failure is told */
	if (rc2 < 0) {
		return rc < 0 ? rc : rc2;
	}
	if (rc < 0) {
		result_drop(close);
		return rc;
	}
	rc = call_finish(close, NULL);
	if (rc == 0) {
		l->level--;
	}
	return rc;
}
