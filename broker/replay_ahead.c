/* SPDX-License-Identifier: MIT */
/* replay_ahead.c - see replay_ahead.h. */
#include "replay_ahead.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- what the database does by itself ---------------------------------------------------------- */

/* Bits of tgtype: 2 BEFORE, 64 INSTEAD OF, 4 INSERT, 8 DELETE, 16 UPDATE.  Below 16384 are the
 * rules of PostgreSQL's own views. */
int ahead_look(struct ahead *a)
{
	PGresult *res = pgcall_run(a->pg,
		"WITH rules AS (SELECT EXISTS (SELECT FROM pg_catalog.pg_rewrite "
		"WHERE ev_type <> '1' AND ev_class >= 16384) AS any) "
		"SELECT rules.any OR EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE NOT "
		"tgisinternal AND (tgtype & 66) <> 0 AND (tgtype & 4) <> 0), "
		"rules.any OR EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE NOT tgisinternal "
		"AND (tgtype & 24) <> 0) FROM rules",
		0, NULL);

	if (res == NULL || pgcall_is_error(a->pg, res)) {
		PQclear(res);
		return -1;
	}
	a->inserts_differ = strcmp(PQgetvalue(res, 0, 0), "t") == 0;
	a->changes_draw = strcmp(PQgetvalue(res, 0, 1), "t") == 0;
	PQclear(res);
	return 0;
}

/* -- comparing --------------------------------------------------------------------------------- */

static bool is_whole(Oid type)
{
	return type == 20 || type == 21 || type == 23; /* int8, int2, int4 */
}

static void digest_result(const PGresult *res, struct journal_digest *d)
{
	int ncols = PQnfields(res);

	for (int row = 0; row < PQntuples(res); row++) {
		for (int c = 0; c < ncols && c < (int)JOURNAL_DIGEST_COLUMNS; c++) {
			if (!is_whole(PQftype(res, c))) {
				journal_digest_other(d, (unsigned)c);
			} else if (PQgetisnull(res, row, c)) {
				journal_digest_null(d, (unsigned)c);
			} else {
				journal_digest_number(
					d, (unsigned)c, strtoll(PQgetvalue(res, row, c), NULL, 10));
			}
		}
	}
}

/* Did it do what its worker was told?  false: why says what differs. */
static bool did_the_same(const struct ahead_row *row, PGresult *res, char *why, size_t size)
{
	struct journal_digest got = {0};
	const char *rows = PQcmdTuples(res);
	const struct journal_digest *want = &row->returned;

	if (row->rows >= 0 && rows[0] != '\0' && strtoll(rows, NULL, 10) != row->rows) {
		snprintf(why, size,
			"it changes %s rows now, it had changed %" PRId64 " when it was accepted",
			rows, row->rows);
		return false;
	}
	digest_result(res, &got);
	for (unsigned c = 0; c < got.ncolumns && c < want->ncolumns; c++) {
		if (got.column[c].whole && want->column[c].whole &&
			got.column[c].sum != want->column[c].sum) {
			snprintf(why, size,
				"it returns other numbers now in column %s than its worker was "
				"given when it was accepted",
				PQfname(res, (int)c));
			return false;
		}
	}
	return true;
}

/* -- answers ----------------------------------------------------------------------------------- */

static int ask(struct ahead *a)
{
	a->asked = a->n;
	a->bytes = 0;
	return pgcall_ask(a->pg);
}

/* A savepoint is ours: an error is nobody's fault. */
static int take_savepoint(struct ahead *a)
{
	PGresult *res = pgcall_next(a->pg);
	int rc = res == NULL || pgcall_is_error(a->pg, res) ? -1 : 0;

	PQclear(res);
	return rc;
}

static int judge_answer(struct ahead *a, const struct ahead_row *row, PGresult *res)
{
	struct verdict *v = &a->verdict;

	*v = (struct verdict){.tx = row->tx, .id = row->id};
	a->place = row->before;
	if (pgcall_is_error(a->pg, res)) {
		memcpy(v->sqlstate, a->pg->sqlstate, sizeof(v->sqlstate));
		snprintf(v->text, sizeof(v->text), "%s", a->pg->why);
		return 1;
	}
	snprintf(v->sqlstate, sizeof(v->sqlstate), "40002"); /* integrity, with no other code */
	return did_the_same(row, res, v->text, sizeof(v->text)) ? 0 : 1;
}

/* The oldest one's. */
static int take_answer(struct ahead *a)
{
	struct ahead_row *row = &a->row[a->first];
	PGresult *res;
	int rc;

	if ((a->asked == 0 && ask(a) < 0) || (row->opens && take_savepoint(a) < 0)) {
		return -1;
	}
	res = pgcall_next(a->pg);
	if (res == NULL) {
		return -1;
	}
	rc = judge_answer(a, row, res);
	PQclear(res);
	a->first = (a->first + 1) % REPLAY_AHEAD;
	a->n--;
	a->asked--;
	a->unsure -= row->unsure;
	return rc;
}

/* Until no more than so many are on their way. */
static int take_answers(struct ahead *a, unsigned left)
{
	int rc = 0;

	while (rc == 0 && a->n > left) {
		rc = take_answer(a);
	}
	return rc;
}

int ahead_be_sure(struct ahead *a)
{
	int rc = 0;

	while (rc == 0 && a->unsure > 0) {
		rc = take_answer(a);
	}
	return rc;
}

int ahead_finish(struct ahead *a)
{
	return a->asked < a->n && ask(a) < 0 ? -1 : take_answers(a, 0);
}

/* -- sending ----------------------------------------------------------------------------------- */

int ahead_begin(struct ahead *a)
{
	a->first = a->n = a->asked = a->unsure = 0;
	a->bytes = 0;
	return pgcall_pipe_begin(a->pg);
}

static int send_savepoint(struct ahead *a, unsigned number)
{
	char sql[64];

	snprintf(sql, sizeof(sql), REPLAY_SAVEPOINT, number);
	return pgcall_send(a->pg, sql, 0, NULL);
}

int ahead_refuse(struct ahead *a, const struct journal_entry *e, const struct replay_place *before,
	bool opens, const char *sqlstate, const char *text)
{
	int rc = take_answers(a, 0);

	if (rc != 0) {
		return rc;
	}
	a->verdict = (struct verdict){.tx = e->tx, .id = e->id};
	snprintf(a->verdict.sqlstate, sizeof(a->verdict.sqlstate), "%s", sqlstate);
	snprintf(a->verdict.text, sizeof(a->verdict.text), "%s", text);
	a->place = *before;
	if (opens && (send_savepoint(a, before->ntx) < 0 || pgcall_ask(a->pg) < 0 ||
			     take_savepoint(a) < 0)) {
		return -1;
	}
	return 1;
}

static void note_row(struct ahead *a, const struct journal_entry *e,
	const struct replay_place *before, bool opens, bool unsure)
{
	struct ahead_row *row = &a->row[(a->first + a->n) % REPLAY_AHEAD];

	row->tx = e->tx;
	row->id = e->id;
	row->rows = e->rows;
	row->returned.ncolumns = 0;
	if (e->returned.ncolumns > 0) {
		row->returned = e->returned;
	}
	row->before = *before;
	row->opens = opens;
	row->unsure = unsure;
	a->n++;
	a->unsure += unsure;
	a->bytes += e->len + a->pg->params.bytes;
}

static struct replay_habits here(const struct ahead *a, struct replay_habits h)
{
	h.may_differ |= a->inserts_differ || (h.upsert && a->changes_draw);
	h.may_draw |= a->changes_draw;
	return h;
}

/* text: as PostgreSQL gets it. */
static int send_row(struct ahead *a, const struct journal_entry *e,
	const struct replay_place *before, bool opens, const char *text, struct replay_habits h)
{
	int rc = h.may_draw ? ahead_be_sure(a) : 0;

	if (rc == 0 && a->n >= a->most) {
		rc = take_answers(a, a->most / 2);
	}
	if (rc != 0) {
		return rc;
	}
	if (opens && send_savepoint(a, before->ntx) < 0) {
		return -1;
	}
	if (pgcall_send(a->pg, text, e->nparams, e->params) < 0) {
		char why[PGCALL_WHY_MAX], state[sizeof(a->pg->sqlstate)];

		if (a->pg->pq == NULL) {
			return -1;
		}
		memcpy(why, a->pg->why, sizeof(why));
		memcpy(state, a->pg->sqlstate, sizeof(state));
		return ahead_refuse(a, e, before, false, state, why);
	}
	note_row(a, e, before, opens, h.may_differ);
	if (e->returned.ncolumns > 0) {
		return take_answers(a, 0);
	}
	return (a->n - a->asked > a->most / 2 || a->bytes > REPLAY_AHEAD_BYTES / 2) && ask(a) < 0
		       ? -1
		       : 0;
}

int ahead_send(struct ahead *a, const struct journal_entry *e, const struct replay_place *before,
	bool opens)
{
	struct replay_habits habits = {.may_differ = true, .may_draw = true};
	enum sqlite_verb verb = sqlite_verb(e->text, NULL);
	char *text = NULL;
	int rc;

	if (e->damaged) {
		return ahead_refuse(a, e, before, opens, "XX001",
			"its parameters cannot be read from the journal");
	}
	if (verb == SQLITE_VERB_WRITE || verb == SQLITE_VERB_WITH) {
		text = replay_text(e->text, e->len, e->at_us, &habits);
		if (text == NULL) {
			return ahead_refuse(
				a, e, before, opens, "53200", "out of memory in the broker");
		}
	}
	rc = send_row(a, e, before, opens, text != NULL ? text : e->text, here(a, habits));
	free(text);
	return rc;
}
