/* SPDX-License-Identifier: MIT */
/* lease.c - see lease.h. */
#include "lease.h"

#include "conn.h"
#include "io.h"
#include "log.h"
#include "pool.h"
#include "request_core.h"
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void lease_pump(struct lease *l);

static void count(const struct lease *l, enum pool_metric m)
{
	board_pool_count(l->io->board, l->pool->index, m, 1);
}

static bool is_tx(const struct lease *l)
{
	return (l->flags & REQ_F_TX) != 0;
}

static bool is_end(uint8_t op)
{
	return op == REQ_COMMIT || op == REQ_ROLLBACK || op == REQ_RELEASE;
}

static bool is_copy(uint8_t op)
{
	return op == REQ_COPY_IN || op == REQ_COPY_OUT;
}

/* -- beginning --------------------------------------------------------------------------------- */

int lease_ask(struct session *s, struct request *ask)
{
	struct lease *l;

	validate(session_find_lease(s, ask->id) == NULL, -EPROTO);
	l = calloc(1, sizeof(*l));
	validate(l != NULL, -ENOMEM);
	l->id = ask->id;
	l->io = ask->io;
	l->session = s;
	l->pool = ask->pool;
	l->flags = ask->flags;
	l->state = LEASE_WAITING;
	l->ask = ask;
	l->asked_ns = ask->arrived_ns;
	l->tag_len = ask->tag_len;
	memcpy(l->tag, ask->tag, ask->tag_len);
	CDS_INIT_LIST_HEAD(&l->pending);
	ask->lease = l;
	session_add_lease(s, l);
	if (ask->deadline_ns != 0) {
		io_timer_set(l->io, &ask->timer, ask->deadline_ns);
	}
	pool_queue(l->pool, ask);
	return 0;
}

void lease_grant(struct lease *l, struct conn *c)
{
	struct request *ask = l->ask;

	check(l->state == LEASE_WAITING && c->lease == NULL);
	board_time(l->io->board, l->pool->index, POOL_HIST_WAIT, io_now(l->io) - ask->arrived_ns);
	l->ask = NULL;
	ask->lease = NULL;
	session_request_ended(ask->session, ask);
	request_free(ask);
	l->state = LEASE_ACTIVE;
	l->conn = c;
	l->since_ns = l->active_ns = io_now(l->io);
	c->lease = l;
	count(l, POOL_METRIC_LEASES_GRANTED);
	board_pool_adjust(l->io->board, l->pool->index, POOL_METRIC_LEASES_ACTIVE, 1);
	lease_pump(l);
}

void lease_hold(struct lease *l)
{
	l->holds++;
}

static void lease_free(struct lease *l)
{
	statement_put(l->io->statements, l->last);
	free(l);
}

void lease_drop(struct lease *l)
{
	if (--l->holds == 0 && l->dead) {
		lease_free(l);
	}
}

/* -- end --------------------------------------------------------------------------------------- */

static void give_conn_back(struct lease *l)
{
	struct conn *c = l->conn;

	if (c == NULL) {
		return;
	}
	for (struct cds_list_head *p = c->inflight.next; p != &c->inflight; p = p->next) {
		cds_list_entry(p, struct request, link)->lease = NULL;
	}
	l->conn = NULL;
	pool_cap_drop(l->pool, &l->capped);
	if (l->leaked) {
		log_info("pool %s: a lease reported as held too long was given back after %.1f s",
			l->pool->config->name, (double)(io_now(l->io) - l->since_ns) / 1e9);
	}
	count(l, POOL_METRIC_LEASES_RELEASED);
	board_pool_adjust(l->io->board, l->pool->index, POOL_METRIC_LEASES_ACTIVE, -1);
	conn_unlease(c);
}

/* What runs loses its lease: its worker is told now, and it must never be taken for a statement
 * that stands alone and may be moved or repeated. */
static void cut_off(struct lease *l, const struct failure *f)
{
	struct cds_list_head *list = &l->conn->inflight;

	for (struct cds_list_head *p = list->next; p != list; p = p->next) {
		request_cut_off(cds_list_entry(p, struct request, link), f);
	}
}

static void lease_finish(struct lease *l)
{
	check(cds_list_empty(&l->pending));
	if (l->session != NULL) {
		session_remove_lease(l->session, l);
	}
	give_conn_back(l);
	if (l->holds > 0) { /* somebody below us on the stack frees it */
		l->state = LEASE_BROKEN;
		l->dead = true;
		l->session = NULL;
		return;
	}
	lease_free(l);
}

static void fail_with_reason(struct lease *l, struct request *r)
{
	struct failure f = {
		.code = is_tx(l) && l->begun                         ? FAIL_TX_ABORTED
			: l->broken_code == FAIL_OUTCOME_UNKNOWN ? FAIL_LEASE /* r did not run */
								 : l->broken_code,
		.retry_safe = l->broken_retry,
		.message = l->broken_why,
	};

	memcpy(f.sqlstate, l->broken_sqlstate, sizeof(f.sqlstate));
	request_failed(r, &f);
}

static void set_broken(struct lease *l, const struct failure *f)
{
	struct request *r;

	l->state = LEASE_BROKEN;
	l->broken_code = f->code;
	l->broken_retry = f->retry_safe;
	memcpy(l->broken_sqlstate, f->sqlstate, sizeof(l->broken_sqlstate));
	snprintf(l->broken_why, sizeof(l->broken_why), "%s", f->message);
	l->gate = false;
	l->copy = NULL;
	if (l->session != NULL) {
		session_unpause(l->session);
	}
	while (!cds_list_empty(&l->pending)) {
		bool end;

		r = cds_list_first_entry(&l->pending, struct request, link);
		end = is_end(r->op);
		if (end && r->op != REQ_COMMIT) {
			request_done(r, 0);
		} else {
			fail_with_reason(l, r);
		}
		if (end) {
			lease_finish(l);
			return;
		}
	}
	if (l->ending) { /* its end is no longer in the queue: nobody else will free it */
		lease_finish(l);
	}
}

void lease_refuse(struct lease *l, const struct failure *f)
{
	set_broken(l, f);
}

void lease_break(struct lease *l, const struct failure *f)
{
	if (l->state == LEASE_BROKEN) { /* or dead */
		return;
	}
	l->state = LEASE_BROKEN;
	if (is_tx(l) && l->begun && l->session != NULL) { /* else lease_orphan has counted it */
		count(l, POOL_METRIC_TRANSACTIONS_ROLLED_BACK);
	}
	cut_off(l, f);
	give_conn_back(l);
	if (l->session == NULL) {
		lease_finish(l);
		return;
	}
	set_broken(l, f);
}

/* Does its worker want all that is in flight, and can it be served? */
static bool may_ask_again(const struct lease *l)
{
	struct cds_list_head *list = &l->conn->inflight;

	if (l->session == NULL || l->state != LEASE_ACTIVE || l->io->stopping) {
		return false;
	}
	for (struct cds_list_head *p = list->next; p != list; p = p->next) {
		const struct request *r = cds_list_entry(p, struct request, link);

		if (r->session == NULL || r->cancel_wanted) {
			return false;
		}
	}
	return true;
}

/* Back to the front of `pending`, in their order. */
static void take_back(struct lease *l)
{
	struct cds_list_head *list = &l->conn->inflight;

	while (!cds_list_empty(list)) {
		struct request *r = cds_list_entry(list->prev, struct request, link);

		conn_request_ended(l->conn, r);
		r->state = REQUEST_QUEUED;
		cds_list_add(&r->link, &l->pending);
	}
}

void lease_ask_again(struct lease *l)
{
	struct shm_request d = {.id = l->id, .op = REQ_LEASE, .flags = (uint8_t)l->flags};
	struct request *ask = may_ask_again(l) ? request_create(l->io, &d, 0) : NULL;

	if (ask == NULL) {
		return;
	}
	take_back(l);
	give_conn_back(l);
	l->state = LEASE_WAITING;
	l->begun = l->gate = l->leaked = false;
	l->copy = NULL;
	ask->pool = l->pool;
	ask->arrived_ns = l->asked_ns;
	ask->tag_len = l->tag_len;
	memcpy(ask->tag, l->tag, l->tag_len);
	ask->lease = l;
	l->ask = ask;
	session_add_request(l->session, ask);
	pool_requeue(l->pool, ask);
}

void lease_spoil(struct lease *l)
{
	static const struct failure f = {.code = FAIL_TX_ABORTED,
		.retry_safe = true,
		.message = "a statement of the transaction failed before it was sent"};

	if (l->state == LEASE_WAITING) {
		request_give_up(l->ask, &f); /* by lease_refuse */
	} else if (l->state == LEASE_ACTIVE) {
		lease_break(l, &f);
	}
}

void lease_abort(struct lease *l, const struct failure *f)
{
	l->ending = true;
	switch (l->state) {
	case LEASE_WAITING:
		request_give_up(l->ask, f); /* by lease_refuse */
		break;
	case LEASE_ACTIVE:
		lease_break(l, f);
		break;
	case LEASE_BROKEN:
		lease_finish(l);
		break;
	}
}

void lease_orphan(struct lease *l)
{
	struct conn *c = l->conn;

	session_remove_lease(l->session, l);
	l->session = NULL;
	if (l->state != LEASE_ACTIVE) {
		lease_finish(l);
		return;
	}
	if (is_tx(l) && l->begun) {
		count(l, POOL_METRIC_TRANSACTIONS_ROLLED_BACK);
	}
	if (l->copy != NULL) {
		l->copy = NULL;
		c->driver->copy_end(c, "the worker is gone");
	}
	if (c->ninflight == 0) {
		lease_finish(l);
	} else {
		conn_abandon(c);
	}
}

/* -- requests ---------------------------------------------------------------------------------- */

static void refuse(struct request *r, const char *message)
{
	struct failure f = {.code = FAIL_USAGE, .message = message};

	request_failed(r, &f);
}

static void end_at_once(struct lease *l, struct request *r)
{
	if (r->op == REQ_COMMIT && l->state == LEASE_BROKEN) {
		fail_with_reason(l, r);
	} else {
		request_done(r, 0);
	}
	lease_finish(l);
}

void lease_request(struct lease *l, struct request *r)
{
	static const struct failure ended = {.code = FAIL_LEASE, .message = "the lease was ended"};

	r->lease = l;
	if (l->ending) {
		struct failure f = {.code = FAIL_LEASE, .message = "the lease was given back"};

		request_failed(r, &f);
		return;
	}
	if (r->op == REQ_COMMIT && !is_tx(l)) {
		refuse(r, "this lease has no transaction to commit; it was released");
		lease_abort(l, &ended);
		return;
	}
	if (r->op == REQ_EXEC && (r->stmt->traits & STMT_COPY)) {
		refuse(r, "COPY is made with broker_copy_in or broker_copy_out");
		return;
	}
	if (is_tx(l) && r->op == REQ_EXEC && (r->stmt->traits & STMT_TX_END)) {
		refuse(r, "a transaction ends with broker_commit or broker_rollback");
		return;
	}
	l->ending = is_end(r->op);
	if (l->state == LEASE_BROKEN) {
		if (l->ending) {
			end_at_once(l, r);
		} else {
			fail_with_reason(l, r);
		}
		return;
	}
	if (!is_tx(l) && (l->flags & REQ_F_READONLY)) {
		r->flags |= REQ_F_READONLY;
	}
	if (!l->ending) {
		r->tag_len = r->tag_len > 0 ? r->tag_len : l->tag_len;
	}
	r->state = REQUEST_QUEUED;
	cds_list_add_tail(&r->link, &l->pending);
	lease_pump(l);
}

/* The lease ends without a word to the server: nothing was begun, or the transaction is over. */
static bool ends_silently(const struct lease *l, const struct request *r)
{
	return r->op == REQ_RELEASE || !l->begun || l->conn->tx == CONN_TX_IDLE;
}

static void start(struct lease *l, struct request *r)
{
	unsigned begin = 0;

	cds_list_del(&r->link);
	r->state = REQUEST_NEW;
	if (is_tx(l) && !l->begun && !is_end(r->op)) {
		begin = l->flags &
			(REQ_F_TX | REQ_F_READONLY | REQ_F_SERIALIZABLE | REQ_F_REPEATABLE);
		l->begun = true;
	}
	if (r->stmt != NULL && r->stmt != l->last) {
		statement_hold(r->stmt);
		statement_put(l->io->statements, l->last);
		l->last = r->stmt;
	}
	/*
	 * What rides behind a reset may run DEALLOCATE ALL, if only in a function: that drops what
	 * proves to the server that the reset has succeeded (pg.h), and all that was sent behind it
	 * would fail.
	 */
	l->gate = begin != 0 || is_copy(r->op) || l->conn->resetting;
	if (r->op == REQ_COPY_IN) {
		l->copy = r;
	}
	conn_start(l->conn, r, begin);
}

/* Send what may be sent.  Drivers may answer at once, so a request may end in here. */
static void pump(struct lease *l)
{
	while (l->state == LEASE_ACTIVE && !l->gate && !cds_list_empty(&l->pending)) {
		struct request *r = cds_list_first_entry(&l->pending, struct request, link);
		/* A read-only statement guards itself, which the driver can do only at rest. */
		bool alone = is_copy(r->op) || is_end(r->op) ||
			     (!is_tx(l) && (r->flags & REQ_F_READONLY));

		if (request_is_late(r)) {
			request_expire(r); /* ends the lease if it is COMMIT */
			continue;
		}
		if (l->conn->cancelling || (alone && l->conn->ninflight > 0)) {
			return;
		}
		if (is_end(r->op) && ends_silently(l, r)) {
			if (is_tx(l) && l->begun && r->op != REQ_COMMIT) {
				count(l, POOL_METRIC_TRANSACTIONS_ROLLED_BACK);
			}
			request_done(r, 0); /* leaves pending */
			lease_finish(l);
			return;
		}
		if (r->op == REQ_COMMIT || r->op == REQ_ROLLBACK) {
			start(l, r);
			return; /* its end frees the lease, perhaps already */
		}
		start(l, r);
	}
}

/* May free the lease: nothing of it may be touched afterwards. */
static void lease_pump(struct lease *l)
{
	lease_hold(l);
	pump(l);
	lease_drop(l);
}

void lease_resume(struct lease *l)
{
	lease_pump(l);
}

static void transaction_ended(struct lease *l, uint8_t op, bool failed)
{
	if (!l->conn->losing) { /* else nobody knows */
		count(l, op == REQ_COMMIT && !failed ? POOL_METRIC_TRANSACTIONS_COMMITTED
						     : POOL_METRIC_TRANSACTIONS_ROLLED_BACK);
	}
	lease_finish(l);
}

void lease_request_ended(struct lease *l, uint8_t op, bool failed)
{
	struct failure f = {.code = FAIL_TX_ABORTED,
		.message =
			"the transaction is not open any more: it could not begin, or a statement "
			"ended it"};

	if (l->state != LEASE_ACTIVE) {
		return;
	}
	l->active_ns = io_now(l->io);
	if (l->conn->losing && op != REQ_COMMIT && op != REQ_ROLLBACK) {
		return; /* lease_break follows */
	}
	if (is_copy(op)) {
		l->copy = NULL;
		if (l->session != NULL) {
			session_unpause(l->session);
		}
	}
	if (op == REQ_COMMIT || op == REQ_ROLLBACK) {
		transaction_ended(l, op, failed);
		return;
	}
	if (l->conn->ninflight == 0) {
		l->gate = false;
		if (l->session == NULL) {
			lease_finish(l);
			return;
		}
		if (is_tx(l) && l->begun && l->conn->tx == CONN_TX_IDLE) {
			lease_break(l, &f);
			return;
		}
	} else if (l->gate) {
		return;
	}
	lease_pump(l);
}

/* -- COPY -------------------------------------------------------------------------------------- */

void lease_copy_data(struct lease *l, const void *data, size_t len)
{
	if (l->state != LEASE_ACTIVE || l->copy == NULL || l->copy->state != REQUEST_RUNNING) {
		return;
	}
	if (!l->conn->driver->copy_data(l->conn, data, len)) {
		session_pause(l->session);
	}
}

void lease_copy_end(struct lease *l, const char *error)
{
	if (l->state == LEASE_ACTIVE && l->copy != NULL && l->copy->state == REQUEST_RUNNING) {
		struct conn *c = l->conn;

		l->copy = NULL;
		c->driver->copy_end(c, error);
	}
}

/* -- time -------------------------------------------------------------------------------------- */

static void take_away(struct lease *l, const char *sqlstate, const char *why)
{
	char text[200];
	struct failure f = {.code = is_tx(l) ? FAIL_TX_ABORTED : FAIL_LEASE,
		.retry_safe = true,
		.message = text};

	snprintf(text, sizeof(text), "%s; it was rolled back and taken away", why);
	memcpy(f.sqlstate, sqlstate, strlen(sqlstate) + 1);
	lease_break(l, &f);
}

static void report(struct lease *l, double silent)
{
	const struct config_pool *c = l->pool->config;
	char text[256];

	l->leaked = true;
	snprintf(text, sizeof(text),
		"worker %d%s%.*s holds a connection for %.1f s and has been silent for %.1f s",
		session_pid(l->session), l->tag_len > 0 ? " tag " : "", (int)l->tag_len, l->tag,
		(double)(io_now(l->io) - l->since_ns) / 1e9, silent);
	count(l, POOL_METRIC_LEAKS);
	log_warning("pool %s: %s%s%.60s (leak_threshold)", c->name, text,
		l->last != NULL ? ", last statement: " : "",
		l->last != NULL ? l->last->text : "");
	/* the board is for all who may attach, texts of statements are not */
	if (l->last != NULL && l->last->fingerprint != 0) {
		board_event(l->io->board, BOARD_EVENT_LEAK,
			"pool %s: %s, last statement: shape %016llx", c->name, text,
			(unsigned long long)l->last->fingerprint);
	} else {
		board_event(l->io->board, BOARD_EVENT_LEAK, "pool %s: %s", c->name, text);
	}
}

void lease_tick(struct lease *l)
{
	const struct config_pool *c = l->pool->config;
	uint64_t now = io_now(l->io), ms = 1000000u;
	uint64_t silent = l->conn->ninflight == 0 ? now - l->active_ns : 0;
	bool open = is_tx(l) && l->begun;

	if (l->session == NULL) {
		return;
	}
	if (open && c->transaction_timeout > 0 &&
		now - l->since_ns > (uint64_t)c->transaction_timeout * ms) {
		take_away(l, "25P04", "the transaction took longer than transaction_timeout");
	} else if (open && c->idle_tx_timeout > 0 && silent > (uint64_t)c->idle_tx_timeout * ms) {
		take_away(l, "25P03", "the transaction was idle for longer than idle_tx_timeout");
	} else if (c->leak_threshold > 0 &&
		   (is_tx(l) ? silent : now - l->since_ns) > (uint64_t)c->leak_threshold * ms) {
		if (!l->leaked) {
			report(l, (double)silent / 1e9);
		}
		if (c->leak_action == LEAK_ROLLBACK && l->conn->ninflight == 0) {
			take_away(l, "", "the lease was held for longer than leak_threshold");
		}
	}
}
