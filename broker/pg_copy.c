/* SPDX-License-Identifier: MIT */
/*
 * pg_copy.c - see pg.h: COPY, which libpq cannot do in pipeline mode.
 *
 * When PG_STEP_COPY has come to the head nothing is in flight: leave the pipeline, send the
 * statement by the simple protocol (where an error of the server is answered by exactly one
 * ReadyForQuery, however much data was still on its way), move the data, enter the pipeline again.
 *
 *   NONE -> SENT -> FEED    (FROM STDIN) -> SENT -> NONE
 *              +-> DRAIN   (TO STDOUT)  -> SENT -> NONE
 *              +-> DISCARD (TO STDOUT where FROM STDIN was announced) -> SENT -> NONE
 *
 * The simple protocol takes several statements in one text.  Only one COPY is served; what else the
 * text does is the worker's own doing, and makes the session be cleaned afterwards.
 *
 * While the server takes data libpq does not look at what it answers: an error shows when the data
 * has ended.  The server throws away what comes after its error, so nothing stalls.
 */
#include "pg.h"

#include <stdlib.h>
#include <string.h>

static void finish(struct pg_backend *pg, const struct failure *f)
{
	struct request *r = pg_head_request(pg);
	uint64_t affected = pg->affected;
	PGresult *error = pg->error;

	check(r != NULL);
	pg->error = NULL;
	pg_answer_clear(pg);
	pg_step_pop(pg);
	pg->copy = PG_COPY_NONE;
	if (PQpipelineStatus(pg->pq) == PQ_PIPELINE_OFF && PQenterPipelineMode(pg->pq) == 0) {
		pg->mute = true; /* odd: not to be used again, but the answer counts */
	}
	pg_cancel_after_copy(pg);
	if (f != NULL) {
		request_failed(r, f);
	} else {
		request_done(r, affected);
	}
	PQclear(error); /* f's texts may be in it */
}

static void set_tx(struct pg_backend *pg)
{
	PGTransactionStatusType tx = PQtransactionStatus(pg->pq);

	pg->tx = tx == PQTRANS_IDLE      ? CONN_TX_IDLE
		 : tx == PQTRANS_INERROR ? CONN_TX_FAILED
					 : CONN_TX_OPEN;
	pg->c->tx = pg->tx;
}

/* All results are in. */
static void conclude(struct pg_backend *pg)
{
	struct request *r = pg_head_request(pg);
	struct failure f;

	set_tx(pg);
	if (pg->error != NULL && !pg->copy_wrong) {
		pg_failure(pg->error, &f);
		finish(pg, &f);
		return;
	}
	if (pg->copy_started && !pg->copy_wrong) {
		finish(pg, NULL);
		return;
	}
	f = (struct failure){
		.code = FAIL_ARGUMENT,
		.message = r->op == REQ_COPY_IN ? "the statement is not COPY ... FROM STDIN"
						: "the statement is not COPY ... TO STDOUT",
		/* It did something else, which counts unless it failed or can be rolled back. */
		.unknown = pg->error == NULL && pg->tx == CONN_TX_IDLE,
	};
	finish(pg, &f);
}

/* Before anything is sent: what forbids it? */
static bool refuse(struct pg_backend *pg, const struct request *r)
{
	struct failure f = {.code = FAIL_ARGUMENT};

	if (pg->error != NULL) { /* BEGIN failed */
		pg_failure(pg->error, &f);
	} else if (pg->cancel != PG_CANCEL_NONE || r->cancel_wanted) {
		f = (struct failure){.code = FAIL_CANCELLED, .message = "cancelled before it ran"};
	} else if (!(r->stmt->traits & STMT_COPY)) {
		f.message = "the statement is not a COPY";
	} else if (strlen(r->stmt->text) != r->stmt->len) {
		f.message = "the statement's text contains a NUL character";
	} else if (r->nparams > 0) {
		f.message = "COPY takes no parameters";
	} else {
		return false;
	}
	set_tx(pg);
	finish(pg, &f);
	return true;
}

static bool send_copy(struct pg_backend *pg)
{
	const struct request *r = pg_head_request(pg);

	check(r != NULL);
	if (refuse(pg, r)) {
		return true;
	}
	pg->copy_started = false;
	pg->copy_wrong = false;
	pg->copy_full = false;
	if (PQexitPipelineMode(pg->pq) == 0 || PQsendQuery(pg->pq, r->stmt->text) == 0) {
		pg_break(pg, NULL);
		return true;
	}
	pg->copy = PG_COPY_SENT;
	pg_send_out(pg);
	return true;
}

/* -- results ----------------------------------------------------------------------------------- */

static void begin_in(struct pg_backend *pg)
{
	struct request *r = pg_head_request(pg);

	if (r->op != REQ_COPY_IN || pg->copy_started) {
		pg->copy_wrong = true;
		if (PQputCopyEnd(pg->pq, "only one COPY in the announced direction is possible") <
			0) {
			pg_break(pg, NULL);
		}
		pg_send_out(pg);
		return;
	}
	pg->copy_started = true;
	pg->copy = PG_COPY_FEED;
	if (r->cancel_wanted || r->session == NULL) { /* no data will come */
		pg_copy_end(pg->c, "canceled");
		return;
	}
	request_copy_ready(r);
}

static void begin_out(struct pg_backend *pg)
{
	const struct request *r = pg_head_request(pg);

	if (r->op != REQ_COPY_OUT || pg->copy_started) {
		pg->copy_wrong = true;
		pg->copy = PG_COPY_DISCARD;
		return;
	}
	pg->copy_started = true;
	pg->copy = PG_COPY_DRAIN;
}

static void take_error(struct pg_backend *pg, PGresult *res)
{
	if (PQresultErrorField(res, PG_DIAG_SQLSTATE) == NULL || pg_is_fatal(res)) {
		if (pg_is_fatal(res)) {
			pg_note_fatal(pg, res);
		}
		PQclear(res);
		pg_break(pg, NULL);
		return;
	}
	pg_set_error(pg, res);
}

/* Takes res over. */
static void take_result(struct pg_backend *pg, PGresult *res)
{
	switch (PQresultStatus(res)) {
	case PGRES_COPY_IN:
		begin_in(pg);
		break;
	case PGRES_COPY_OUT:
		begin_out(pg);
		break;
	case PGRES_FATAL_ERROR:
		take_error(pg, res);
		return;
	case PGRES_COMMAND_OK:
	case PGRES_TUPLES_OK:
	case PGRES_EMPTY_QUERY:
		pg_note_tag(pg, pg_head_request(pg), res);
		if (strncmp(PQcmdStatus(res), "COPY ", 5) != 0) {
			pg->c->dirty = true; /* there was more in the text than COPY */
		}
		break;
	default:
		pg_break(pg, "an unexpected answer to COPY");
	}
	PQclear(res);
}

/* -- data -------------------------------------------------------------------------------------- */

bool pg_copy_deliver(struct pg_backend *pg)
{
	struct request *r = pg_head_request(pg);

	if (pg->copy_data == NULL) {
		return true;
	}
	if (pg->copy != PG_COPY_DISCARD) {
		pg->copy_at +=
			request_write(r, pg->copy_data + pg->copy_at, pg->copy_len - pg->copy_at);
		if (pg->copy_at < pg->copy_len) {
			return false;
		}
	}
	PQfreemem(pg->copy_data);
	pg->copy_data = NULL;
	return true;
}

/* One piece, if libpq has one complete. */
static bool drain(struct pg_backend *pg)
{
	int n = PQgetCopyData(pg->pq, &pg->copy_data, 1);

	if (n == 0) {
		return false;
	}
	if (n < 0) { /* the end, or an error that the next result explains */
		pg->copy = PG_COPY_SENT;
		return true;
	}
	if ((size_t)n > PG_OVERSIZE) {
		pg->c->retire = true;
	}
	pg->copy_len = (size_t)n;
	pg->copy_at = 0;
	pg->blocked = !pg_copy_deliver(pg);
	return true;
}

bool pg_copy_advance(struct pg_backend *pg)
{
	PGresult *res;

	switch (pg->copy) {
	case PG_COPY_NONE:
		return send_copy(pg);
	case PG_COPY_FEED:
		return false;
	case PG_COPY_DRAIN:
	case PG_COPY_DISCARD:
		return drain(pg);
	case PG_COPY_SENT:
		break;
	}
	if (PQisBusy(pg->pq)) {
		return false;
	}
	res = PQgetResult(pg->pq);
	if (res != NULL) {
		take_result(pg, res);
	} else {
		conclude(pg);
	}
	return true;
}

bool pg_copy_take(struct conn *c, const void *data, size_t len)
{
	struct pg_backend *pg = c->priv;

	if (pg->copy != PG_COPY_FEED || pg->mute || pg->broken) {
		return true; /* it has ended; its request tells why */
	}
	while (len > 0) { /* pieces that libpq's int can count */
		size_t n = len < ((size_t)1 << 20) ? len : (size_t)1 << 20;

		if (PQputCopyData(pg->pq, data, (int)n) != 1) {
			pg->mute = true;
			conn_want_flush(c);
			return true;
		}
		data = (const char *)data + n;
		len -= n;
	}
	pg->copy_full = false;
	pg_send_out(pg);
	pg_poll_update(pg);
	pg->copy_full = pg->want_write;
	return !pg->copy_full;
}

void pg_copy_end(struct conn *c, const char *error)
{
	struct pg_backend *pg = c->priv;

	if (pg->copy != PG_COPY_FEED || pg->mute || pg->broken) {
		return;
	}
	pg->copy = PG_COPY_SENT;
	if (PQputCopyEnd(pg->pq, error) != 1) {
		pg->mute = true;
	}
	conn_want_flush(c);
}

void pg_copy_flushed(struct pg_backend *pg)
{
	if (pg->copy_full) {
		pg->copy_full = false;
		if (pg->copy == PG_COPY_FEED) {
			conn_copy_drained(pg->c);
		}
	}
}

void pg_copy_lost(struct pg_backend *pg)
{
	if (pg->copy == PG_COPY_FEED) {
		pg->copy = PG_COPY_SENT;
		(void)PQputCopyEnd(pg->pq, NULL); /* sends nothing any more */
	}
}
