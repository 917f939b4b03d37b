/* SPDX-License-Identifier: MIT */
/* request.c - see request.h and request_core.h. */
#include "request_core.h"

#include "conn.h"
#include "io.h"
#include "lease.h"
#include "pool.h"
#include "querylog.h"
#include "session.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FREE_REQUESTS_MAX 1024u
/* After its deadline a statement is cancelled; the worker is answered this much later at the
 * latest. */
#define CANCEL_GRACE_NS (60u * 1000000u)
/* A read is sent at most so often, whatever its deadline. */
#define MAX_SENDS 6u
/* A statement that can be done in this time is quick. */
#define QUICK_NS (1000u * 1000u)

static void on_timer(struct timer *t);

/* -- memory ------------------------------------------------------------------------------------ */

static struct request *request_alloc(struct io *io)
{
	struct request *r;

	if (cds_list_empty(&io->free_requests)) {
		r = malloc(sizeof(*r));
	} else {
		r = cds_list_first_entry(&io->free_requests, struct request, link);
		cds_list_del(&r->link);
		io->nfree_requests--;
	}
	if (r != NULL) {
		memset(r, 0, offsetof(struct request, inline_body));
		r->io = io;
		r->timer.fire = on_timer;
	}
	return r;
}

static bool alloc_body(struct request *r, uint64_t len)
{
	r->body_len = len;
	r->body = len <= REQUEST_INLINE ? r->inline_body : malloc(len);
	if (r->body != NULL && r->body != r->inline_body) {
		board_adjust(r->io->board, METRIC_REQUEST_MEMORY, (int64_t)len);
	}
	return r->body != NULL;
}

struct request *request_create(struct io *io, const struct shm_request *d, uint64_t body_len)
{
	struct request *r = request_alloc(io);

	if (r == NULL) {
		return NULL;
	}
	r->id = d->id;
	r->op = d->op;
	r->flags = d->flags;
	r->deadline_ns = d->deadline_ns;
	r->arrived_ns = io_now(io);
	if (!alloc_body(r, body_len)) {
		request_free(r);
		return NULL;
	}
	return r;
}

struct request_param *request_alloc_params(struct request *r, unsigned n)
{
	r->params = n <= REQUEST_INLINE_PARAMS ? r->inline_params
					       : malloc(n * sizeof(struct request_param));
	return r->params;
}

void request_free(struct request *r)
{
	struct io *io = r->io;

	io_timer_clear(io, &r->timer);
	statement_put(io->statements, r->stmt);
	if (r->params != r->inline_params) {
		free(r->params);
	}
	if (r->body != NULL && r->body != r->inline_body) {
		board_adjust(io->board, METRIC_REQUEST_MEMORY, -(int64_t)r->body_len);
		free(r->body);
	}
	if (io->nfree_requests >= FREE_REQUESTS_MAX) {
		free(r);
		return;
	}
	cds_list_add(&r->link, &io->free_requests);
	io->nfree_requests++;
}

bool request_is_statement(const struct request *r)
{
	return r->op == REQ_EXEC || r->op == REQ_COPY_IN || r->op == REQ_COPY_OUT;
}

bool request_reads(const struct request *r)
{
	return (r->flags & REQ_F_READONLY) != 0 ||
	       (r->stmt != NULL &&
		       atomic_load_explicit(&r->stmt->readonly, memory_order_relaxed) == 1);
}

/* -- accounting -------------------------------------------------------------------------------- */

static void count(struct request *r, enum pool_metric m, uint64_t n)
{
	board_pool_count(r->io->board, r->pool->index, m, n);
}

void request_started(struct request *r, uint64_t bytes)
{
	count(r, POOL_METRIC_BYTES_FROM_WORKERS, bytes);
	if (r->deadline_ns != 0) {
		io_timer_set(r->io, &r->timer, r->deadline_ns);
	}
	if (!request_is_statement(r)) {
		return;
	}
	count(r, POOL_METRIC_STATEMENTS_STARTED, 1);
	board_pool_adjust(r->io->board, r->pool->index, POOL_METRIC_STATEMENTS_IN_FLIGHT, 1);
	if (r->flags & REQ_F_READONLY) {
		count(r, POOL_METRIC_READS, 1);
	}
}

static uint64_t wait_time(const struct request *r, uint64_t now)
{
	return (r->sent_ns != 0 ? r->sent_ns : now) - r->arrived_ns;
}

static uint64_t run_time(const struct request *r, uint64_t now)
{
	return r->sent_ns != 0 ? now - r->sent_ns : 0;
}

/* The worker was answered, or is gone (f says so): the statement ends here, once. */
static void account(struct request *r, const struct failure *f, uint64_t rows)
{
	uint64_t now = io_now(r->io);

	if (!request_is_statement(r)) {
		return;
	}
	board_pool_adjust(r->io->board, r->pool->index, POOL_METRIC_STATEMENTS_IN_FLIGHT, -1);
	count(r, f == NULL ? POOL_METRIC_STATEMENTS_FINISHED : POOL_METRIC_STATEMENTS_FAILED, 1);
	board_time(r->io->board, r->pool->index, POOL_HIST_WAIT, wait_time(r, now));
	if (r->sent_ns != 0) {
		board_time(r->io->board, r->pool->index, POOL_HIST_RUN, run_time(r, now));
	}
	if (f == NULL) {
		count(r, POOL_METRIC_ROWS, rows);
	} else if (f->code == FAIL_CANCELLED) {
		count(r, POOL_METRIC_CANCELLED, 1);
	} else if (f->code == FAIL_TIMEOUT && r->sent_ns != 0) {
		count(r, POOL_METRIC_TIMEOUTS, 1);
	} else if (f->code == FAIL_OUTCOME_UNKNOWN) {
		count(r, POOL_METRIC_OUTCOME_UNKNOWN, 1);
	}
	if (r->stmt != NULL) {
		querylog_note(r, f, rows, wait_time(r, now), run_time(r, now));
	}
}

/* -- answering --------------------------------------------------------------------------------- */

static bool may_have_written(const struct request *r, const struct failure *f)
{
	if (r->state != REQUEST_RUNNING || (f != NULL && !f->unknown)) {
		return false;
	}
	return r->op == REQ_COMMIT || (request_is_statement(r) && !(r->flags & REQ_F_READONLY));
}

/* Tell the worker, and part from it. */
static void answer(struct request *r, const struct failure *f, uint64_t rows)
{
	struct session *s = r->session;
	uint64_t now = io_now(r->io);
	struct shm_completion c = {
		.kind = f == NULL ? COMP_DONE : COMP_ERROR,
		.chunk = CHAN_NO_CHUNK,
		.rows = rows,
		.wait_ns = wait_time(r, now),
		.run_ns = run_time(r, now),
	};

	if (s == NULL) {
		return;
	}
	account(r, f, rows);
	if (may_have_written(r, f)) {
		session_note_write(s, r->pool);
	}
	if (r->op == REQ_LEASE) { /* its worker learns from what it sends next */
		session_request_ended(s, r);
		return;
	}
	if (f != NULL) {
		c.code = f->code;
		c.outcome = f->unknown ? SHM_OUTCOME_UNKNOWN : SHM_OUTCOME_NOT_DONE;
		session_put_error(s, r, &c, f);
		session_count_error(s);
	}
	session_complete(s, r, &c);
	session_request_ended(s, r);
}

/* Take r out of whatever queue or list it is in. */
static void unlink_request(struct request *r)
{
	switch (r->state) {
	case REQUEST_NEW:
		if (r->link.next != NULL) {
			cds_list_del(&r->link);
			r->link.next = NULL;
		}
		break;
	case REQUEST_QUEUED:
		if (r->lease != NULL && r->op != REQ_LEASE) {
			cds_list_del(&r->link);
		} else {
			pool_unqueue(r->pool, r);
		}
		break;
	case REQUEST_RUNNING:
		conn_request_ended(r->conn, r);
		break;
	}
	r->state = REQUEST_NEW;
}

/*
 * The transaction that r is a part of, if r failed without the server having seen it.  The server
 * would go on and commit the rest, so the core must end the transaction itself.  A statement that
 * was refused as misused is none of it.
 */
static struct lease *spoils(struct request *r, const struct failure *f)
{
	struct lease *l = r->lease;

	if (f == NULL || f->code == FAIL_USAGE || r->session == NULL || !request_is_statement(r)) {
		return NULL;
	}
	if (r->state == REQUEST_RUNNING && f->code != FAIL_ARGUMENT && f->code != FAIL_TOO_LARGE &&
		f->code != FAIL_MEMORY) {
		return NULL; /* the server knows */
	}
	if (l == NULL && r->lease_id != 0) {
		l = session_find_lease(r->session, r->lease_id);
	}
	return l != NULL && (l->flags & REQ_F_TX) && l->state != LEASE_BROKEN ? l : NULL;
}

/* The end of a request, whatever its state. */
static void finish(struct request *r, const struct failure *f, uint64_t rows)
{
	struct lease *l = r->lease, *spoilt = spoils(r, f);
	bool ran = r->state == REQUEST_RUNNING;
	uint8_t op = r->op;

	answer(r, f, rows);
	unlink_request(r);
	if (l != NULL && op == REQ_LEASE) {
		l->ask = NULL;
		if (f != NULL) {
			lease_refuse(l, f);
		}
	}
	request_free(r);
	if (spoilt != NULL) {
		lease_spoil(spoilt);
	} else if (l != NULL && ran) {
		lease_request_ended(l, op, f != NULL);
	}
}

bool request_is_quick(const struct request *r)
{
	return r->lease_id == 0 && r->op == REQ_EXEC && (r->flags & REQ_F_READONLY) &&
	       !(r->flags & REQ_F_STREAM) && !(r->stmt->traits & STMT_SUSPECT) &&
	       r->stmt->quick_ns != 0 && r->stmt->quick_ns < QUICK_NS;
}

/*
 * The shortest time of late: grows by a 64th with every run, so that it follows a change.  And the
 * mean of what it costs the connection, since the one before it has ended.
 */
static void note_quick(struct request *r)
{
	uint64_t now = io_now(r->io), run = now - r->sent_ns, best;
	struct statement *st = r->stmt;

	if (st == NULL || r->state != REQUEST_RUNNING) {
		return;
	}
	best = st->quick_ns + st->quick_ns / 64;
	st->quick_ns = best == 0 || run < best ? run + 1 : best;
	st->serve_ns = st->serve_ns - st->serve_ns / 8 + (now - r->conn->head_ns) / 8;
}

void request_done(struct request *r, uint64_t rows)
{
	note_quick(r);
	finish(r, NULL, rows);
}

/* May it be sent again?  It only reads, nothing of it was delivered, and nobody wants its end. */
static bool repeatable(const struct request *r)
{
	return r->session != NULL && r->lease == NULL && (r->flags & REQ_F_READONLY) &&
	       !r->delivered && !r->cancel_wanted && r->sends < MAX_SENDS && !r->io->stopping;
}

/* It has not run: so it may if nobody wants its end. */
static bool may_go_elsewhere(const struct request *r)
{
	return r->session != NULL && r->lease == NULL && !r->cancel_wanted &&
	       r->sends < MAX_SENDS && !r->io->stopping;
}

static void repeat(struct request *r)
{
	conn_request_ended(r->conn, r);
	r->state = REQUEST_NEW;
	count(r, POOL_METRIC_RETRIES, 1);
	if (r->out.at != NULL) {
		session_drop_chunk(r->session, r);
	}
	r->rows = 0;
	pool_requeue(r->pool, r);
}

/* A write was refused as if by a standby: the writer may have changed. */
static bool met_readonly_server(const struct request *r, const struct failure *f)
{
	return strcmp(f->sqlstate, "25006") == 0 && !(r->flags & REQ_F_READONLY) &&
	       !(r->lease != NULL && (r->lease->flags & REQ_F_READONLY)) &&
	       r->state == REQUEST_RUNNING && r->op == REQ_EXEC;
}

/*
 * Is it the session that takes no writes, and not its user's doing?  Nothing was touched, and r ran
 * in a transaction that it began itself, or the broker for it.
 */
static bool found_it_readonly(const struct request *r)
{
	const struct conn *c = r->conn;

	if (r->stmt->traits & STMT_SUSPECT) {
		return false;
	}
	return r->lease == NULL || (!c->dirty && (c->tx == CONN_TX_IDLE || r->lease->gate));
}

/* Its connection has a cancel on its way, or had lately. */
static bool in_a_cancel(const struct request *r)
{
	return r->conn->cancelling || r->conn->cancel_ns > r->sent_ns;
}

/* A cancel that was meant for something in front of it: the reset of its connection, another
 * statement of its lease. */
static struct failure hit_by_mistake(const struct request *r, const struct failure *why)
{
	struct failure f = *why;

	f.code = FAIL_UNAVAILABLE;
	f.retry_safe = true;
	f.message = "a cancel that was meant for something in front of it on its connection hit it";
	return f;
}

/* It commits as it goes along, and failed; errors of class 42 come before it runs, as a rule. */
static bool may_have_done_a_part(const struct request *r, const struct failure *f)
{
	return r->state == REQUEST_RUNNING && r->op == REQ_EXEC &&
	       (r->stmt->traits & STMT_COMMITS) != 0 && f->sqlstate[0] != '\0' &&
	       strncmp(f->sqlstate, "42", 2) != 0 &&
	       !(r->lease != NULL && (r->lease->flags & REQ_F_TX));
}

void request_failed(struct request *r, const struct failure *f)
{
	struct failure t;

	if (f->code == FAIL_CANCELLED && r->timed_out) {
		t = *f;
		t.code = FAIL_TIMEOUT;
		t.message = "deadline passed while the statement ran; it was cancelled";
		t.retry_safe = true;
		f = &t;
	} else if (f->code == FAIL_CANCELLED && repeatable(r) &&
		   (f->sqlstate[0] == '\0' || in_a_cancel(r))) {
		repeat(r);
		return;
	} else if (f->code == FAIL_CANCELLED && r->state == REQUEST_RUNNING && !r->cancel_wanted &&
		   f->sqlstate[0] != '\0' && in_a_cancel(r)) {
		t = hit_by_mistake(r, f);
		f = &t;
	}
	if (may_have_done_a_part(r, f)) {
		t = *f;
		t.unknown = true;
		t.retry_safe = false;
		f = &t;
	}
	if (met_readonly_server(r, f)) {
		struct server *s = r->conn->member->server;

		if (found_it_readonly(r)) {
			/* others would meet it again, after the server has changed */
			r->conn->retire = true;
		}
		if (r->session != NULL && r->lease == NULL && r->sends < 2 && !r->cancel_wanted &&
			!r->delivered && !r->io->stopping) {
			repeat(r); /* it had no effect; if this is the writer after all, it stays */
		} else {
			finish(r, f, 0);
		}
		health_doubt_role(s); /* last: it may close connections */
		return;
	}
	finish(r, f, 0);
}

/* What a worker is told when the connection under a running request is gone. */
static struct failure lost_failure(const struct request *r, const struct failure *why)
{
	struct failure f = *why;
	bool tx = r->lease != NULL && (r->lease->flags & REQ_F_TX);

	if ((r->flags & REQ_F_READONLY) || (tx && (r->lease->flags & REQ_F_READONLY))) {
		f.code = FAIL_UNAVAILABLE;
		f.unknown = false;
		f.retry_safe = true;
	} else if (tx && r->op != REQ_COMMIT) {
		f.code = FAIL_TX_ABORTED; /* without COMMIT nothing of it stays */
		f.unknown = false;
		f.retry_safe = true;
	} else {
		f.code = FAIL_OUTCOME_UNKNOWN;
		f.unknown = true;
		f.retry_safe = false;
	}
	return f;
}

static struct failure not_run_failure(const struct request *r, const struct failure *why)
{
	struct failure f = {.code = FAIL_CANCELLED, .message = "cancelled before it ran"};

	if (!r->cancel_wanted) {
		return *why;
	}
	if (r->timed_out) {
		f.code = FAIL_TIMEOUT;
		f.retry_safe = true;
		f.message = "deadline passed while its connection was being cleaned";
	}
	return f;
}

void request_lost(struct request *r, const struct failure *why)
{
	struct failure f;

	if (why->not_run ? may_go_elsewhere(r) : repeatable(r)) {
		repeat(r);
		return;
	}
	f = why->not_run ? not_run_failure(r, why) : lost_failure(r, why);
	finish(r, &f, 0);
}

void request_give_up(struct request *r, const struct failure *f)
{
	if (r->state != REQUEST_RUNNING) {
		finish(r, f, 0);
		return;
	}
	answer(r, f, 0);
	io_timer_clear(r->io, &r->timer);
}

void request_want_cancel(struct request *r)
{
	r->cancel_wanted = true;
	atomic_store_explicit(&r->cancel, 1, memory_order_relaxed);
}

void request_cut_off(struct request *r, const struct failure *why)
{
	struct failure f = lost_failure(r, why);

	request_want_cancel(r);
	if (r->session != NULL) {
		request_give_up(r, &f);
	}
}

/* -- ends that nobody asked the database for --------------------------------------------------- */

/* It was not sent, and will not be.  The end of a lease takes the lease along. */
static void finish_unsent(struct request *r, const struct failure *f)
{
	bool end = r->op == REQ_COMMIT || r->op == REQ_ROLLBACK || r->op == REQ_RELEASE;
	struct lease *l = end ? session_find_lease(r->session, r->lease_id) : NULL;

	finish(r, f, 0);
	if (l != NULL) {
		lease_abort(l, f);
	}
}

void request_cancel(struct request *r)
{
	static const struct failure f = {
		.code = FAIL_CANCELLED, .message = "cancelled before it ran"};

	if (r->state == REQUEST_RUNNING) {
		conn_cancel_request(r->conn, r);
	} else {
		finish_unsent(r, &f);
	}
}

void request_abandon(struct request *r)
{
	static const struct failure f = {.code = FAIL_CANCELLED, .message = "its worker is gone"};
	struct session *s = r->session;

	account(r, &f, 0);
	session_request_ended(s, r);
	io_timer_clear(r->io, &r->timer);
	if (r->state == REQUEST_RUNNING && r->lease != NULL) {
		request_want_cancel(r); /* lease_orphan ends all of it at once */
		return;
	}
	if (r->state == REQUEST_RUNNING) {
		if (r->conn->state != CONN_CLOSING) {
			conn_cancel_request(r->conn, r);
		}
		return;
	}
	unlink_request(r);
	if (r->op == REQ_LEASE) {
		r->lease->ask = NULL;
	}
	request_free(r);
}

bool request_is_late(const struct request *r)
{
	return r->deadline_ns != 0 && r->deadline_ns <= io_now(r->io);
}

void request_bound(struct request *r, uint64_t when_ns)
{
	if (request_is_statement(r) && (r->deadline_ns == 0 || when_ns < r->deadline_ns)) {
		r->deadline_ns = when_ns;
		io_timer_set(r->io, &r->timer, when_ns);
	}
}

void request_expire(struct request *r)
{
	char text[512];
	struct failure f = {.code = FAIL_TIMEOUT, .retry_safe = true, .message = text};

	if (r->arrived_ns >= r->deadline_ns) {
		snprintf(text, sizeof(text), "deadline passed before the broker took the request");
	} else {
		pool_describe_wait(r->pool, text, sizeof(text));
	}
	if (r->op == REQ_LEASE || r->lease == NULL) {
		count(r, POOL_METRIC_LEASE_TIMEOUTS, 1);
	}
	finish_unsent(r, &f);
}

static void on_timer(struct timer *t)
{
	struct request *r = container_of(t, struct request, timer);
	struct failure f = {.code = FAIL_OUTCOME_UNKNOWN,
		.unknown = true,
		.message = "deadline passed and the server has not confirmed the cancel"};

	if (r->state != REQUEST_RUNNING) {
		request_expire(r);
		return;
	}
	if (!r->timed_out) {
		r->timed_out = true;
		io_timer_set(r->io, &r->timer, io_now(r->io) + CANCEL_GRACE_NS);
		conn_cancel_request(r->conn, r);
		return;
	}
	if ((r->flags & REQ_F_READONLY) ||
		(r->lease != NULL && (r->lease->flags & REQ_F_TX) && r->op != REQ_COMMIT)) {
		f.code = FAIL_TIMEOUT; /* nothing of it can stay */
		f.unknown = false;
		f.retry_safe = true;
	}
	request_give_up(r, &f);
	if (r->lease != NULL) {
		lease_break(r->lease, &f);
	}
}

/* -- routing ----------------------------------------------------------------------------------- */

static void refuse(struct request *r, enum fail_code code, const char *message)
{
	struct failure f = {.code = code, .message = message};

	finish(r, &f, 0);
}

void request_route(struct request *r)
{
	if (r->io->stopping && r->lease_id == 0) {
		refuse(r, FAIL_SHUTDOWN, "the broker is shutting down");
		return;
	}
	if (r->lease_id != 0) {
		r->lease = session_find_lease(r->session, r->lease_id);
		if (r->lease == NULL) {
			refuse(r, FAIL_LEASE, "there is no such lease");
		} else {
			lease_request(r->lease, r);
		}
		return;
	}
	if (r->op != REQ_EXEC) {
		refuse(r, FAIL_USAGE,
			"this needs a lease: call broker_lease or broker_begin first");
	} else if (r->stmt->traits & STMT_TX_CONTROL) {
		refuse(r, FAIL_USAGE,
			"transactions are made with broker_begin, broker_commit and "
			"broker_savepoint");
	} else if (r->stmt->traits & STMT_COPY) {
		refuse(r, FAIL_USAGE,
			"COPY is made with broker_copy_in or broker_copy_out in a lease");
	} else {
		pool_queue(r->pool, r);
	}
}

/* -- splitting --------------------------------------------------------------------------------- */

/* The twin's parameters point into its own body at the same places. */
static bool copy_params(struct request *n, const struct request *r)
{
	if (r->nparams == 0) {
		return true;
	}
	if (request_alloc_params(n, r->nparams) == NULL) {
		return false;
	}
	n->nparams = r->nparams;
	for (unsigned i = 0; i < r->nparams; i++) {
		n->params[i] = r->params[i];
		n->params[i].data = n->body + ((const unsigned char *)r->params[i].data - r->body);
	}
	return true;
}

struct request *request_split(struct request *r)
{
	struct request *n = request_alloc(r->io);

	if (n == NULL) {
		return NULL;
	}
	if (!alloc_body(n, r->body_len)) {
		request_free(n);
		return NULL;
	}
	memcpy(n->body, r->body, r->body_len);
	if (!copy_params(n, r)) {
		request_free(n);
		return NULL;
	}
	n->id = r->id;
	n->op = r->op;
	n->flags = r->flags;
	n->pool = r->pool;
	n->stmt = r->stmt;
	statement_hold(n->stmt);
	n->tag_len = r->tag_len;
	memcpy(n->tag, r->tag, r->tag_len);
	n->sends = r->sends;
	n->arrived_ns = r->arrived_ns;
	n->deadline_ns = r->deadline_ns;
	if (timer_is_set(&r->timer)) {
		io_timer_set(n->io, &n->timer, r->timer.when_ns);
		io_timer_clear(r->io, &r->timer);
	}
	session_replace_request(r->session, r, n);
	return n;
}
