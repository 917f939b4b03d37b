/* SPDX-License-Identifier: MIT */
/*
 * pg_result.c - see pg.h: results become rows and ends of requests.
 *
 * A request ends with the answer to its Sync, not with its own result: an autocommit statement
 * commits at the Sync, and a deferred constraint or the disk may still object.
 *
 * Rows are handed on one by one out of libpq's PGresult.  When the worker's arena is full the
 * PGresult is kept and the socket is not read until resume(): what is buffered is one read of
 * libpq, whatever the size of the result.
 */
#include "pg.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- the head request's answer ----------------------------------------------------------------- */

void pg_answer_clear(struct pg_backend *pg)
{
	PQclear(pg->error);
	PQclear(pg->result);
	pg->error = NULL;
	pg->result = NULL;
	pg->nrows = 0;
	pg->affected = 0;
	pg->aborted = false;
	pg->unreplicated = false;
	pg->skipped = false;
	pg->columns_known = false;
	pg->binary_pays = false;
	pg->row_begun = false;
}

void pg_set_error(struct pg_backend *pg, PGresult *res)
{
	if (pg->tx == CONN_TX_OPEN) {
		pg->tx = CONN_TX_FAILED;
	}
	if (pg->error == NULL) {
		pg->error = res;
	} else {
		PQclear(res);
	}
}

/* -- rows -------------------------------------------------------------------------------------- */

static uint8_t cell_type_of(Oid type)
{
	switch (type) {
	case 16: /* bool */
		return CELL_BOOL;
	case 20: /* int8, int2, int4 */
	case 21:
	case 23:
		return CELL_INT64;
	case 700: /* float4, float8 */
	case 701:
		return CELL_DOUBLE;
	case 17: /* bytea */
		return CELL_BLOB;
	case 114: /* json, jsonb */
	case 3802:
		return CELL_JSON;
	case 1114: /* timestamp, timestamptz; the session's time zone is UTC */
	case 1184:
		return CELL_TIMESTAMP;
	default:
		return CELL_TEXT;
	}
}

static bool reserve_columns(struct pg_backend *pg, unsigned n)
{
	struct stream_cell *cells;
	int64_t *numbers;
	uint8_t *types;

	if (n <= pg->columns_cap) {
		return true;
	}
	cells = realloc(pg->cells, n * sizeof(*cells));
	pg->cells = cells != NULL ? cells : pg->cells;
	types = realloc(pg->types, n * sizeof(*types));
	pg->types = types != NULL ? types : pg->types;
	numbers = realloc(pg->numbers, n * sizeof(*numbers));
	pg->numbers = numbers != NULL ? numbers : pg->numbers;
	if (cells == NULL || types == NULL || numbers == NULL) {
		return false;
	}
	pg->columns_cap = n;
	return true;
}

static bool encode_head(struct pg_backend *pg, unsigned n, const struct stream_column *cols)
{
	size_t need = stream_encode_head(pg->head, pg->head_cap, n, cols);
	unsigned char *head;

	if (need > pg->head_cap) {
		head = realloc(pg->head, need);
		if (head == NULL) {
			return false;
		}
		pg->head = head;
		pg->head_cap = need;
		need = stream_encode_head(pg->head, pg->head_cap, n, cols);
	}
	pg->head_len = need;
	pg->head_at = 0;
	return true;
}

/*
 * Types whose binary form says the same as their text form, for all accessors: that of a float4 or
 * a timestamp does not, that of most others would have to be written out here.
 */
static bool binary_is_simple(Oid type)
{
	switch (type) {
	case 16: /* bool, bytea, name, int8, int2, int4, text, json */
	case 17:
	case 19:
	case 20:
	case 21:
	case 23:
	case 25:
	case 114:
	case 1042: /* char(n), varchar */
	case 1043:
		return true;
	default:
		return false;
	}
}

/* A bytea is twice as long as text; all columns of a result have the same form. */
static bool binary_pays(const PGresult *res, unsigned n)
{
	bool bytes = false;

	for (unsigned i = 0; i < n; i++) {
		Oid type = PQftype(res, (int)i);

		if (!binary_is_simple(type)) {
			return false;
		}
		bytes |= type == 17;
	}
	return bytes;
}

/* Types and encoded head of a result's columns. */
static bool learn_columns(struct pg_backend *pg, const PGresult *res)
{
	unsigned n = (unsigned)PQnfields(res);
	struct stream_column few[32], *cols = few;
	bool ok;

	if (!reserve_columns(pg, n)) {
		return false;
	}
	if (n > array_size(few)) {
		cols = malloc(n * sizeof(*cols));
		if (cols == NULL) {
			return false;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		pg->types[i] = cell_type_of(PQftype(res, (int)i));
		cols[i] = (struct stream_column){PQfname(res, (int)i), pg->types[i]};
	}
	ok = encode_head(pg, n, cols);
	if (cols != few) {
		free(cols);
	}
	pg->ncolumns = n;
	pg->columns_known = ok;
	pg->binary = n > 0 && PQfformat(res, 0) == 1;
	pg->binary_pays = !pg->binary && binary_pays(res, n);
	return ok;
}

/* Text and JSON are the same in PostgreSQL's text form and in ours. */
static uint8_t encoding_of(uint8_t type)
{
	return type == CELL_TEXT || type == CELL_JSON ? CELL_NATIVE : CELL_PGTEXT;
}

/* An integer of 2, 4 or 8 bytes, most significant first. */
static int64_t binary_int(const unsigned char *p, uint32_t len)
{
	uint64_t v = len > 0 && (p[0] & 0x80) != 0 ? UINT64_MAX : 0;

	for (uint32_t i = 0; i < len; i++) {
		v = v << 8 | p[i];
	}
	return (int64_t)v;
}

/* The cell holds a value as it came, of a type that binary_is_simple. */
static void to_native(struct stream_cell *cell, int64_t *number)
{
	cell->encoding = CELL_NATIVE;
	if (cell->type == CELL_INT64) {
		*number = binary_int(cell->data, cell->len);
		cell->data = number;
		cell->len = sizeof(*number);
	}
}

static void load_row(struct pg_backend *pg)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < pg->ncolumns; i++) {
		int col = (int)i;

		if (PQgetisnull(pg->result, pg->result_row, col)) {
			pg->cells[i] = (struct stream_cell){.type = CELL_NULL};
			continue;
		}
		pg->cells[i] = (struct stream_cell){
			.data = PQgetvalue(pg->result, pg->result_row, col),
			.len = (uint32_t)PQgetlength(pg->result, pg->result_row, col),
			.type = pg->types[i],
			.encoding = encoding_of(pg->types[i]),
		};
		bytes += pg->cells[i].len;
		if (pg->binary) {
			to_native(&pg->cells[i], &pg->numbers[i]);
		}
	}
	if (bytes > PG_OVERSIZE) {
		pg->c->retire = true;
	}
	pg->row = (struct stream_row){.ncells = pg->ncolumns, .cells = pg->cells};
	pg->row_begun = true;
}

/* Hand on what is left of pg->result.  False: the worker's arena is full. */
static bool deliver(struct pg_backend *pg)
{
	struct request *r = pg_head_request(pg);

	if (pg->head_at < pg->head_len) {
		pg->head_at += request_write(r, pg->head + pg->head_at, pg->head_len - pg->head_at);
		if (pg->head_at < pg->head_len) {
			return false;
		}
	}
	while (pg->result_row < PQntuples(pg->result)) {
		if (!pg->row_begun) {
			load_row(pg);
		}
		if (!request_row(r, &pg->row)) {
			return false;
		}
		pg->row_begun = false;
		pg->result_row++;
		pg->nrows++;
	}
	PQclear(pg->result);
	pg->result = NULL;
	return true;
}

/* Takes res over. */
static void take_rows(struct pg_backend *pg, PGresult *res)
{
	if (PQnfields(res) == 0) { /* SELECT without columns: no stream */
		PQclear(res);
		return;
	}
	if (!pg->columns_known && !learn_columns(pg, res)) {
		PQclear(res);
		pg_break(pg, "out of memory");
		return;
	}
	pg->result = res;
	pg->result_row = 0;
	pg->row_begun = false;
	pg->blocked = !deliver(pg);
}

/* -- tags -------------------------------------------------------------------------------------- */

static bool starts_with(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Tags of commands that leave something in the session.  SET CONSTRAINTS ends with its transaction.
 */
static bool is_dirt(const char *tag)
{
	static const char *const tags[] = {"SET", "RESET", "LISTEN", "UNLISTEN", "PREPARE",
		"DEALLOCATE", "DECLARE CURSOR", "LOAD", "DISCARD", "DO", "CALL"};

	for (size_t i = 0; i < array_size(tags); i++) {
		size_t n = strlen(tags[i]);

		if (strncmp(tag, tags[i], n) == 0 && (tag[n] == '\0' || tag[n] == ' ')) {
			return strcmp(tag, "SET CONSTRAINTS") != 0 &&
			       strcmp(tag, "PREPARE TRANSACTION") != 0;
		}
	}
	return false;
}

static void note_tx(struct pg_backend *pg, const struct request *r, const char *tag)
{
	if (strcmp(tag, "BEGIN") == 0 || strcmp(tag, "START TRANSACTION") == 0) {
		pg->tx = CONN_TX_OPEN;
	} else if (strcmp(tag, "COMMIT") == 0 || strcmp(tag, "PREPARE TRANSACTION") == 0) {
		pg->tx = CONN_TX_IDLE;
	} else if (strcmp(tag, "ROLLBACK") == 0) {
		bool end = r != NULL && (r->op == REQ_COMMIT || r->op == REQ_ROLLBACK);

		/* As text it may be ROLLBACK TO: the transaction goes on, for all we know. */
		pg->tx = end ? CONN_TX_IDLE : pg->tx == CONN_TX_IDLE ? CONN_TX_IDLE : CONN_TX_OPEN;
	}
}

/* Digits of the server's. */
static uint64_t parse_count(const char *digits)
{
	uint64_t n = 0;

	while (*digits >= '0' && *digits <= '9') {
		n = n * 10 + (uint64_t)(*digits++ - '0');
	}
	return n;
}

/* Leaves the session as it was: most statements need no further look. */
static bool is_common(const char *tag)
{
	return starts_with(tag, "SELECT") || starts_with(tag, "INSERT") ||
	       starts_with(tag, "UPDATE") || starts_with(tag, "DELETE");
}

void pg_note_tag(struct pg_backend *pg, const struct request *r, PGresult *res)
{
	const char *tag = PQcmdStatus(res), *tuples;

	if (!is_common(tag)) {
		note_tx(pg, r, tag);
		if (is_dirt(tag) && r != NULL && !(r->stmt != NULL && pg_sets_locally(r->stmt))) {
			pg->c->dirty = true;
		}
		if (r != NULL && /* our own: known since it was sent */
			(strcmp(tag, "DISCARD ALL") == 0 || strcmp(tag, "DEALLOCATE ALL") == 0)) {
			pg_prepared_clear(pg->prepared);
		}
		if (strcmp(tag, "ROLLBACK") == 0 && r != NULL && r->op == REQ_COMMIT) {
			pg->aborted = true;
		}
	}
	tuples = PQcmdTuples(res);
	pg->affected =
		tuples[0] != '\0' ? parse_count(tuples) : pg->nrows + (uint64_t)PQntuples(res);
}

/* -- errors ------------------------------------------------------------------------------------ */

/* The server ends the connection and says why. */
void pg_note_fatal(struct pg_backend *pg, const PGresult *res)
{
	struct failure f;

	pg_failure(res, &f);
	pg->fatal = true;
	snprintf(pg->why, sizeof(pg->why), "%s", f.message);
	memcpy(pg->why_sqlstate, f.sqlstate, sizeof(pg->why_sqlstate));
}

/*
 * FATAL in place of the head request's answer.  Up to the statement's own result it is certain that
 * it had no effect; with COMMIT, or after the result (the implicit commit), it is not.  What is in
 * flight behind it was never run, the core learns that from conn_closed.  Declared reads are left
 * to the core, which may repeat them.
 */
static void fail_by_fatal(struct pg_backend *pg, const struct pg_step *s, const PGresult *res)
{
	struct request *r = pg_head_request(pg);
	struct failure f;

	if (r == NULL || (r->flags & REQ_F_READONLY)) {
		return;
	}
	pg_failure(res, &f);
	if (s->kind == PG_STEP_END || r->op == REQ_COMMIT || s->kind == PG_STEP_COPY) {
		f.code = FAIL_OUTCOME_UNKNOWN;
		f.unknown = true;
		f.retry_safe = false;
	}
	pg->mute = true; /* the core may want to go on at once */
	request_failed(r, &f);
}

static void internal_failed(struct pg_backend *pg, const struct pg_step *s, const PGresult *res)
{
	struct failure f;

	pg_failure(res, &f);
	switch (s->kind) {
	case PG_STEP_SET:
		/* A statement that must not write is behind it, and nothing holds it back. */
		pg_break(pg, "the session could not be made read-only");
		break;
	case PG_STEP_UNSET:
		pg->readonly = true; /* a write behind it fails with 25006 */
		break;
	case PG_STEP_ROLLBACK:
		pg_break(pg, "a failed transaction could not be rolled back");
		break;
	case PG_STEP_CLEAN:
		pg->clean_failed = true;
		break;
	default: /* DEALLOCATE: the statement stays; if its name is wanted again, 42P05 tells */
		break;
	}
	log_debug("server %s: internal command failed: %s (%s)", pg->server->name, f.message,
		f.sqlstate);
}

static bool belongs_to_request(const struct pg_step *s)
{
	switch (s->kind) {
	case PG_STEP_BEGIN:
	case PG_STEP_READONLY:
	case PG_STEP_PREPARE:
	case PG_STEP_PROOF:
	case PG_STEP_QUERY:
	case PG_STEP_MEMBER:
	case PG_STEP_END:
		return true;
	default:
		return false;
	}
}

/* Takes res over. */
static void take_error(struct pg_backend *pg, struct pg_step *s, PGresult *res)
{
	if (PQresultErrorField(res, PG_DIAG_SQLSTATE) == NULL) {
		/* libpq's own: the connection is lost, or the protocol is out of step */
		PQclear(res);
		pg_break(pg, NULL);
		return;
	}
	if (pg_is_fatal(res)) {
		pg_note_fatal(pg, res);
		if (belongs_to_request(s)) {
			fail_by_fatal(pg, s, res);
		}
		PQclear(res);
		if (pg->c != NULL) {
			pg_break(pg, NULL);
		}
		return;
	}
	if (s->kind == PG_STEP_PREPARE && !pg_sqlstate_is(res, "42P05")) {
		pg_prepared_remove(pg->prepared, s->key);
	}
	if (belongs_to_request(s)) {
		pg_set_error(pg, res);
		return;
	}
	internal_failed(pg, s, res);
	PQclear(res);
}

/* -- the end of a request ---------------------------------------------------------------------- */

/* Everything before it is answered: what the server says of the transaction now. */
static enum conn_tx tx_now(struct pg_backend *pg)
{
	switch (PQtransactionStatus(pg->pq)) {
	case PQTRANS_IDLE:
		pg->tx = CONN_TX_IDLE;
		break;
	case PQTRANS_INTRANS:
		pg->tx = CONN_TX_OPEN;
		break;
	case PQTRANS_INERROR:
		pg->tx = CONN_TX_FAILED;
		break;
	default: /* something is in flight: libpq does not tell, the tags do */
		break;
	}
	return pg->tx;
}

/*
 * Is our name the one that the server complains of?  The statement may itself have named one.  How
 * the server quotes a name depends on its language.
 */
static bool complains_of(const struct pg_backend *pg, const char *sqlstate, const char *name)
{
	const char *text = PQresultErrorField(pg->error, PG_DIAG_MESSAGE_PRIMARY), *p = text;
	size_t len = strlen(name);

	if (len == 0 || !pg_sqlstate_is(pg->error, sqlstate)) {
		return false;
	}
	while (p != NULL && (p = strstr(p, name)) != NULL) {
		if ((p == text || !isalnum((unsigned char)p[-1])) &&
			!isalnum((unsigned char)p[len]) && p[len] != '_') {
			return true;
		}
		p += len;
	}
	return false;
}

/*
 * 26000: what we have prepared is gone.  DEALLOCATE was sent where we did not see it, in a function
 * say.  What else is gone shows when it is used, or never, since the session is cleaned after its
 * user.
 */
static bool is_gone(struct pg_backend *pg, const struct pg_step *s)
{
	char name[PG_NAME_MAX];

	/* A failed reset would have closed the connection.  Nobody can name this one: all are gone.
	 */
	if (complains_of(pg, "26000", pg->proof)) {
		pg_prepared_clear(pg->prepared);
		pg->c->dirty = true;
		return true;
	}
	pg_prepared_name(s->key, name);
	if (!s->named || !complains_of(pg, "26000", name)) {
		return false;
	}
	pg_prepared_remove(pg->prepared, s->key);
	pg->c->dirty = true;
	return true;
}

/* 42P05: it is there although we dropped it, for DEALLOCATE had failed. */
static bool is_there_already(const struct pg_backend *pg, const struct pg_step *s)
{
	char name[PG_NAME_MAX];

	pg_prepared_name(s->key, name);
	return s->named && complains_of(pg, "42P05", name);
}

/*
 * Did it fail because what is prepared was not what we thought?  Then it was not executed, and the
 * next attempt goes by what is known now.  *sure: a table has not merely changed, which looks the
 * same as some mistakes of a statement.
 */
static bool plan_failed(struct pg_backend *pg, const struct pg_step *s, bool *sure)
{
	const struct request *r = pg_head_request(pg);

	*sure = pg->error != NULL && (is_gone(pg, s) || is_there_already(pg, s));
	/* what commits as it goes along may have met such an error after it has */
	if (!*sure && pg->error != NULL && s->named && !s->fresh &&
		(r->stmt->traits & STMT_COMMITS) == 0 && pg_is_stale_plan(pg->error)) {
		pg_prepared_set_stale(pg->prepared, s->key);
		return true;
	}
	return *sure;
}

/*
 * Once, for a worker that still waits, and not in a transaction (it has failed) unless this was its
 * first statement.  In a lease also not with something behind it, which has run by now: the order
 * would change.
 */
static bool may_repeat(
	const struct pg_backend *pg, const struct request *r, const struct pg_step *s)
{
	if (r->driver_priv != NULL || r->session == NULL || r->cancel_wanted || r->delivered ||
		pg->cancel != PG_CANCEL_NONE || pg->mute) {
		return false;
	}
	if (s->alone) {
		return pg->tx == CONN_TX_IDLE;
	}
	return pg_step_is_last(pg) && (s->begin != 0 || pg->tx == CONN_TX_IDLE);
}

/* again: it may be sent again, with a chance to succeed. */
static void fail_request(struct pg_backend *pg, struct request *r, bool again)
{
	static const struct failure aborted = {
		.code = FAIL_TX_ABORTED,
		.message = "the transaction had failed before COMMIT and was rolled back",
	};
	static const struct failure unreplicated = {
		.code = FAIL_OUTCOME_UNKNOWN,
		.unknown = true,
		.message = "committed, but the wait for a standby was cancelled: if this server is "
			   "lost it may be lost as well",
	};
	PGresult *error = pg->error;
	struct failure f;

	if (error == NULL) {
		bool rolled_back = pg->aborted;

		pg_answer_clear(pg);
		request_failed(r, rolled_back ? &aborted : &unreplicated);
		return;
	}
	pg->error = NULL;
	pg_answer_clear(pg);
	pg_failure(error, &f);
	f.retry_safe = f.retry_safe || again;
	request_failed(r, &f);
	PQclear(error);
}

/* It did not run, so it may be sent as if for the first time. */
static void repeat_skipped(struct pg_backend *pg, struct request *r, const struct pg_step *s)
{
	static const struct failure cancelled = {
		.code = FAIL_CANCELLED, .message = "cancelled before it ran"};

	pg_answer_clear(pg);
	if (r->session != NULL && !r->cancel_wanted && !pg->mute) {
		pg_repeat(pg, r, s);
		return;
	}
	pg_step_pop(pg);
	request_failed(r, &cancelled);
}

/* From the next time on. */
static void note_format(struct pg_backend *pg, const struct pg_step *s)
{
	if (pg->binary_pays && s->named && pg->error == NULL) {
		pg_prepared_set_binary(pg->prepared, s->key);
	}
}

/*
 * A member of a read group, not the last: there is no Sync to wait for, and none is needed, since a
 * read has no effect that could still fail.  The transaction it ran in is the group's.
 */
static void end_member(struct pg_backend *pg, const struct pg_step *s)
{
	struct request *r = pg_head_request(pg);
	uint64_t affected = pg->affected;
	bool again;

	check(r != NULL);
	if (pg->skipped) {
		repeat_skipped(pg, r, s);
		return;
	}
	if (plan_failed(pg, s, &again) && r->driver_priv == NULL && r->session != NULL &&
		!r->cancel_wanted && !r->delivered && !pg->mute) {
		r->driver_priv = r; /* once only */
		pg_answer_clear(pg);
		pg_repeat(pg, r, s);
		return;
	}
	note_format(pg, s);
	pg_step_pop(pg);
	if (pg->error != NULL) {
		fail_request(pg, r, again);
	} else {
		pg_answer_clear(pg);
		request_done(r, affected);
	}
}

/* The answer to the head request's Sync. */
static void end_request(struct pg_backend *pg, const struct pg_step *s)
{
	struct request *r = pg_head_request(pg);
	bool alone = s->alone, last = pg_step_is_last(pg), again;
	uint64_t affected = pg->affected;

	check(r != NULL);
	pg->c->tx = tx_now(pg);
	if (pg->skipped) {
		repeat_skipped(pg, r, s);
		return;
	}
	if (plan_failed(pg, s, &again) && may_repeat(pg, r, s)) {
		r->driver_priv = r; /* once only */
		pg_answer_clear(pg);
		pg_repeat(pg, r, s);
		return;
	}
	note_format(pg, s);
	pg_step_pop(pg);
	if (alone && !last && pg->c->tx != CONN_TX_IDLE) {
		/* What is behind it runs inside a transaction nobody asked for: none of it may
		 * count. */
		pg->fatal = true;
		pg_break(pg, "a statement left a transaction open on a shared connection");
	}
	if (pg->error != NULL || pg->aborted || pg->unreplicated) {
		fail_request(pg, r, again);
	} else {
		pg_answer_clear(pg);
		request_done(r, affected);
	}
}

static void end_reset(struct pg_backend *pg)
{
	struct conn *c = pg->c;
	bool ok = !pg->clean_failed;

	pg_step_pop(pg);
	pg->discarding = false;
	c->tx = tx_now(pg);
	conn_reset_done(c, ok && c->tx == CONN_TX_IDLE);
}

static void end_cancel(struct pg_backend *pg)
{
	pg_step_pop(pg);
	if (--pg->settles == 0 && pg->cancel == PG_CANCEL_SETTLING) {
		pg->cancel = PG_CANCEL_NONE;
		conn_cancel_settled(pg->c);
	}
}

static void take_sync(struct pg_backend *pg, struct pg_step *s)
{
	switch (s->kind) {
	case PG_STEP_END:
		end_request(pg, s);
		break;
	case PG_STEP_SYNC:
		pg_step_pop(pg);
		pg_cancel_release(pg);
		break;
	case PG_STEP_SETTLE:
		end_cancel(pg);
		break;
	case PG_STEP_CLEANED:
		end_reset(pg);
		break;
	default:
		pg_break(pg, "the server's answers are out of step");
	}
}

/* -- steps ------------------------------------------------------------------------------------- */

static bool is_sync(const struct pg_step *s)
{
	return s->kind == PG_STEP_SYNC || s->kind == PG_STEP_END || s->kind == PG_STEP_SETTLE ||
	       s->kind == PG_STEP_CLEANED;
}

/* A command of ours or of the request was answered well. */
static void take_command(struct pg_backend *pg, const struct pg_step *s, PGresult *res)
{
	switch (s->kind) {
	case PG_STEP_QUERY:
		pg_note_tag(pg, pg_head_request(pg), res);
		break;
	case PG_STEP_BEGIN:
	case PG_STEP_ROLLBACK:
	case PG_STEP_CLEAN:
		pg_note_tag(pg, NULL, res);
		break;
	default:
		break;
	}
}

/* Takes res over. */
static void take_result(struct pg_backend *pg, struct pg_step *s, PGresult *res)
{
	s->answered = true;
	switch (PQresultStatus(res)) {
	case PGRES_SINGLE_TUPLE:
		take_rows(pg, res);
		return;
	case PGRES_TUPLES_OK:
		take_command(pg, s, res);
		if (s->kind == PG_STEP_QUERY) {
			take_rows(pg, res);
			return;
		}
		break;
	case PGRES_COMMAND_OK:
	case PGRES_EMPTY_QUERY:
		take_command(pg, s, res);
		break;
	case PGRES_PIPELINE_SYNC:
		PQclear(res);
		take_sync(pg, s);
		return;
	case PGRES_PIPELINE_ABORTED:
		if (s->kind == PG_STEP_PREPARE) {
			pg_prepared_remove(pg->prepared, s->key);
		} else if (s->kind == PG_STEP_QUERY && pg->error == NULL) {
			pg->skipped = true; /* not by an error of its own */
		}
		break;
	case PGRES_FATAL_ERROR:
		take_error(pg, s, res);
		return;
	default: /* COPY in a pipeline: libpq cannot get out of it */
		pg_break(pg, "COPY was sent as an ordinary statement");
	}
	PQclear(res);
}

/* NULL from libpq: the results of a step are complete, or those of an error at a Sync. */
static void end_step(struct pg_backend *pg, struct pg_step *s)
{
	if (!s->answered) {
		pg_break(pg, "the server's answers are out of step");
	} else if (is_sync(s)) {
		s->answered = false;
	} else {
		pg_step_pop(pg);
	}
}

static void fail_unsent(struct pg_backend *pg, const struct pg_step *s)
{
	struct request *r = pg_head_request(pg);
	char text[120];
	struct failure f = {.code = FAIL_ARGUMENT, .message = text, .sqlstate = "22021"};

	switch (s->param_error) {
	case PG_PARAM_NUL:
		snprintf(text, sizeof(text),
			"parameter $%u: text contains a NUL character, which PostgreSQL cannot "
			"store",
			s->param);
		break;
	case PG_PARAM_LARGE:
		f = (struct failure){.code = FAIL_TOO_LARGE,
			.message = "the parameters are larger than a message to PostgreSQL can be"};
		break;
	default:
		f = (struct failure){
			.code = FAIL_MEMORY, .message = "out of memory", .retry_safe = true};
	}
	pg_step_pop(pg);
	pg->c->tx = tx_now(pg);
	request_failed(r, &f);
}

/* One result, or one step that needs none.  False: nothing more for now. */
static bool advance(struct pg_backend *pg)
{
	struct pg_step *s = pg_step_head(pg);
	PGresult *res;

	if (s == NULL) {
		return false;
	}
	if (s->kind == PG_STEP_FAIL) {
		fail_unsent(pg, s);
		return true;
	}
	if (s->kind == PG_STEP_COPY) {
		return pg_copy_advance(pg);
	}
	if (s->kind == PG_STEP_MEMBER) {
		end_member(pg, s);
		return true;
	}
	if (s->kind == PG_STEP_QUERY && !s->answered) {
		/*
		 * libpq takes this only while the command is the one being answered and nothing of
		 * its answer was parsed: that is between the end of the step before it and the next
		 * PQisBusy.  Repeating it does no harm.
		 */
		PQsetSingleRowMode(pg->pq);
	}
	if (PQisBusy(pg->pq)) {
		return false;
	}
	res = PQgetResult(pg->pq);
	if (res != NULL) {
		take_result(pg, s, res);
	} else {
		end_step(pg, s);
	}
	return true;
}

void pg_process(struct pg_backend *pg)
{
	if (pg->processing) {
		return;
	}
	pg->processing = true;
	if (pg->blocked && pg->resumed) {
		pg->blocked = !(pg->result != NULL ? deliver(pg) : pg_copy_deliver(pg));
	}
	pg->resumed = false;
	while (pg->c != NULL && !pg->broken && !pg->blocked && advance(pg)) {
	}
	pg->processing = false;
}
