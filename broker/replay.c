/* SPDX-License-Identifier: MIT */
/* replay.c - see replay.h.  The texts are made in replay_text.c. */
#include "replay.h"

#include "doorbell.h"
#include "log.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What became of a transaction of the journal. */
enum tx_result {
	TX_NONE, /* there is none */
	TX_DONE,
	TX_AGAIN, /* undo the batch and start it anew */
	TX_FAILED,
};

enum trouble {
	TROUBLE_DATA, /* it will fail the next time, too */
	TROUBLE_PASSING, /* it may go better the next time */
	TROUBLE_AROUND, /* it has nothing to do with the statement */
};

/* Why a transaction cannot be repeated. */
struct verdict {
	int64_t tx; /* 0: none */
	int64_t id; /* of the row */
	char sqlstate[6];
	char text[PGCALL_WHY_MAX];
};

struct replay {
	struct pgcall *pg;
	struct journal *j;
	struct courier_failure failure;
	int64_t position; /* committed */

	/* the batch */
	int64_t at, began; /* the position it will have, and when that row began */
	unsigned ntx;
	int64_t tx; /* the last one of it */
	unsigned singles; /* so many more have one transaction each */
	unsigned limit; /* otherwise: halved when a connection is lost, so that something gets in */
	unsigned done, naside;
	struct courier_conflict aside[REPLAY_BATCH];

	int64_t tried; /* transaction that was in the way, how often */
	unsigned tries;
	struct verdict doomed; /* its COMMIT has failed by itself */
};

struct replay *replay_create(struct pgcall *pg, struct journal *j)
{
	struct replay *r = calloc(1, sizeof(*r));

	if (r != NULL) {
		r->pg = pg;
		r->j = j;
		r->limit = REPLAY_BATCH;
	}
	return r;
}

void replay_destroy(struct replay **r)
{
	free(*r);
	*r = NULL;
}

const struct courier_failure *replay_failure(const struct replay *r)
{
	return &r->failure;
}

unsigned replay_done(const struct replay *r)
{
	return r->done;
}

unsigned replay_aside(const struct replay *r, const struct courier_conflict **list)
{
	*list = r->aside;
	return r->naside;
}

int64_t replay_position(const struct replay *r)
{
	return r->position;
}

/* -- failing ----------------------------------------------------------------------------------- */

static void set_failure(struct replay *r, const char *sqlstate, const char *text)
{
	snprintf(r->failure.sqlstate, sizeof(r->failure.sqlstate), "%s", sqlstate);
	snprintf(r->failure.text, sizeof(r->failure.text), "%s", text);
}

/* PostgreSQL said so last.  What was not committed is undone with the connection. */
static int fail_pg(struct replay *r)
{
	set_failure(r, r->pg->sqlstate, r->pg->why);
	r->limit = r->limit > 1 ? r->limit / 2 : 1;
	pgcall_close(r->pg);
	return -1;
}

static int fail_sqlite(struct replay *r, const struct sqlite_failure *f)
{
	char text[sizeof(r->failure.text)];

	snprintf(text, sizeof(text), "the journal cannot be read: %.440s", f->message);
	set_failure(r, "", text);
	pgcall_close(r->pg);
	return -1;
}

static enum trouble classify(const char *state)
{
	static const char *const passing[] = {"40001", "40P01", "55P03", "57014", "XX"};
	static const char *const around[] = {"08", "53", "57", "58", "25006", "28", "F0"};

	for (size_t i = 0; i < array_size(passing); i++) {
		if (strncmp(state, passing[i], strlen(passing[i])) == 0) {
			return TROUBLE_PASSING;
		}
	}
	for (size_t i = 0; i < array_size(around); i++) {
		if (strncmp(state, around[i], strlen(around[i])) == 0) {
			return TROUBLE_AROUND;
		}
	}
	return state[0] == '\0' ? TROUBLE_AROUND : TROUBLE_DATA;
}

/* Passing trouble with a transaction: true as long as it is worth another try. */
static bool try_again(struct replay *r, int64_t tx)
{
	struct pollfd wake = {.fd = r->pg->wake, .events = POLLIN};

	r->tries = r->tried == tx ? r->tries + 1 : 1;
	r->tried = tx;
	if (r->tries >= REPLAY_TRIES) {
		return false;
	}
	(void)poll(&wake, 1, 10 << r->tries);
	return true;
}

/* -- parameters of our own --------------------------------------------------------------------- */

static struct request_param text_param(const char *text)
{
	return (struct request_param){text, (uint32_t)strlen(text), CELL_TEXT};
}

static struct request_param number_param(const int64_t *v)
{
	return (struct request_param){v, sizeof(*v), CELL_INT64};
}

static struct request_param time_param(const int64_t *us)
{
	return (struct request_param){us, sizeof(*us), CELL_TIMESTAMP};
}

/* 0, or -1: an error, or the connection is gone. */
static int run(struct replay *r, const char *sql, unsigned n, const struct request_param *params)
{
	PGresult *res = pgcall_run(r->pg, sql, n, params);
	int rc = res == NULL || pgcall_is_error(r->pg, res) ? -1 : 0;

	PQclear(res);
	return rc;
}

/* -- before the first batch -------------------------------------------------------------------- */

static const char position_table[] =
	"CREATE TABLE IF NOT EXISTS broker_journal_position (origin text PRIMARY KEY, "
	"position bigint NOT NULL, began timestamptz NOT NULL DEFAULT 'epoch', "
	"moved_at timestamptz NOT NULL DEFAULT now())";
static const char conflict_table[] =
	"CREATE TABLE IF NOT EXISTS broker_conflict (origin text NOT NULL, id bigint NOT NULL, "
	"tx bigint NOT NULL, statement text NOT NULL, params json, rows bigint, tag text NOT NULL, "
	"worker text NOT NULL, pid integer NOT NULL, began timestamptz NOT NULL, "
	"failed boolean NOT NULL, sqlstate text NOT NULL, error text NOT NULL, "
	"noted_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (origin, id))";

/* Who may use a table that somebody made for us need not be allowed to make one. */
static int make_table(struct replay *r, const char *name, const char *sql)
{
	struct request_param param = text_param(name);
	PGresult *res = pgcall_run(r->pg, "SELECT to_regclass($1::text) IS NOT NULL", 1, &param);
	bool there;

	if (res == NULL || pgcall_is_error(r->pg, res)) {
		PQclear(res);
		return -1;
	}
	there = PQntuples(res) == 1 && strcmp(PQgetvalue(res, 0, 0), "t") == 0;
	PQclear(res);
	/* Two brokers at once: one of them may fail, and finds the table when it tries again. */
	return there ? 0 : pgcall_do(r->pg, sql);
}

static int check_writable(struct replay *r)
{
	PGresult *res = pgcall_run(r->pg,
		"SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean, "
		"CASE WHEN current_setting('synchronous_commit') = 'off' "
		"THEN set_config('synchronous_commit', 'local', false) END",
		0, NULL);
	bool readonly;

	if (res == NULL || pgcall_is_error(r->pg, res)) {
		PQclear(res);
		return fail_pg(r);
	}
	readonly = strcmp(PQgetvalue(res, 0, 0), "t") == 0;
	PQclear(res);
	if (readonly) {
		set_failure(r, "25006", "the server takes no writes");
		pgcall_close(r->pg);
		return -1;
	}
	return 0;
}

/* Position and the time of its row; both 0 if the database knows nothing of this journal. */
static int read_position(struct replay *r, const char *how, int64_t *position, int64_t *began)
{
	struct request_param origin = text_param(journal_origin(r->j));
	char sql[200];
	PGresult *res;

	snprintf(sql, sizeof(sql),
		"SELECT position, (extract(epoch FROM began) * 1000000)::bigint "
		"FROM broker_journal_position WHERE origin = $1 %s",
		how);
	res = pgcall_run(r->pg, sql, 1, &origin);
	if (res == NULL || pgcall_is_error(r->pg, res)) {
		PQclear(res);
		return fail_pg(r);
	}
	*position = PQntuples(res) == 1 ? strtoll(PQgetvalue(res, 0, 0), NULL, 10) : 0;
	*began = PQntuples(res) == 1 ? strtoll(PQgetvalue(res, 0, 1), NULL, 10) : 0;
	PQclear(res);
	return 0;
}

/*
 * The file may be an older copy of itself: then it gives numbers a second time, and what they name
 * now was never repeated.  Its highest number ever is below the position, or the row at the
 * position began at another time.
 */
static int check_history(struct replay *r, int64_t began)
{
	int64_t first, last, ever, at_us = 0;
	struct sqlite_failure f;

	if (journal_extent(r->j, &first, &last, &ever, &f) < 0 ||
		journal_time_of(r->j, r->position, &at_us, &f) < 0) {
		return fail_sqlite(r, &f);
	}
	if (ever >= r->position && (at_us == 0 || at_us == began)) {
		return 0;
	}
	if (journal_new_origin(r->j, &f) < 0) {
		return fail_sqlite(r, &f);
	}
	log_warning(
		"courier: the SQLite file is an older copy of itself: its journal goes on under "
		"another name, %s",
		journal_origin(r->j));
	r->position = 0;
	return 0;
}

/* Rows that were replayed and deleted are missing on a server that was promoted without them. */
static int check_forgotten(struct replay *r)
{
	struct sqlite_failure f;
	int64_t forgotten;

	if (journal_forgotten(r->j, &forgotten, &f) < 0) {
		return fail_sqlite(r, &f);
	}
	if (r->position < forgotten) {
		log_warning("courier: writes up to number %" PRId64
			    " had been replayed, this server has them up to %" PRId64
			    ": it took over without them (asynchronous replication)",
			forgotten, r->position);
	}
	return 0;
}

static int enter_position(struct replay *r)
{
	struct request_param params[2];

	params[0] = text_param(journal_origin(r->j));
	params[1] = number_param(&r->position);
	if (run(r,
		    "INSERT INTO broker_journal_position (origin, position) VALUES ($1, $2) "
		    "ON CONFLICT (origin) DO NOTHING",
		    2, params) < 0) {
		return fail_pg(r);
	}
	return 0;
}

int replay_begin(struct replay *r)
{
	int64_t began;

	r->done = r->naside = 0;
	if (check_writable(r) < 0) {
		return -1;
	}
	if (make_table(r, "broker_journal_position", position_table) < 0 ||
		make_table(r, "broker_conflict", conflict_table) < 0) {
		return fail_pg(r);
	}
	if (read_position(r, "", &r->position, &began) < 0) {
		return -1;
	}
	if (r->position > 0 && check_history(r, began) < 0) {
		return -1;
	}
	return check_forgotten(r) < 0 ? -1 : enter_position(r);
}

/* -- one row ----------------------------------------------------------------------------------- */

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
static bool did_the_same(const struct journal_entry *e, PGresult *res, char *why, size_t size)
{
	struct journal_digest got = {0};
	const char *rows = PQcmdTuples(res);
	const struct journal_digest *want = &e->returned;

	if (e->rows >= 0 && rows[0] != '\0' && strtoll(rows, NULL, 10) != e->rows) {
		snprintf(why, size,
			"it changes %s rows now, it had changed %" PRId64 " when it was accepted",
			rows, e->rows);
		return false;
	}
	digest_result(res, &got);
	for (unsigned c = 0; c < got.ncolumns && c < want->ncolumns; c++) {
		if (got.column[c].whole && want->column[c].whole &&
			got.column[c].sum != want->column[c].sum) {
			snprintf(why, size,
				"it returns other numbers now in column %s than its worker was "
				"given "
				"when it was accepted",
				PQfname(res, (int)c));
			return false;
		}
	}
	return true;
}

static PGresult *run_entry(struct replay *r, const struct journal_entry *e)
{
	enum sqlite_verb verb = sqlite_verb(e->text, NULL);
	PGresult *res = NULL;
	char *text = NULL;

	if (verb == SQLITE_VERB_WRITE || verb == SQLITE_VERB_WITH) {
		text = replay_text(e->text, e->len, e->at_us);
		if (text == NULL) {
			snprintf(r->pg->sqlstate, sizeof(r->pg->sqlstate), "53200");
			snprintf(r->pg->why, sizeof(r->pg->why), "out of memory in the broker");
			return NULL;
		}
	}
	res = pgcall_run(r->pg, text != NULL ? text : e->text, e->nparams, e->params);
	free(text);
	return res;
}

/* 0: done; 1: *v says why not; -1: the connection is gone. */
static int repeat_entry(struct replay *r, const struct journal_entry *e, struct verdict *v)
{
	PGresult *res;
	bool good;

	*v = (struct verdict){.tx = e->tx, .id = e->id};
	if (e->damaged) {
		snprintf(v->sqlstate, sizeof(v->sqlstate), "XX001");
		snprintf(
			v->text, sizeof(v->text), "its parameters cannot be read from the journal");
		return 1;
	}
	res = run_entry(r, e);
	if (res == NULL && r->pg->pq == NULL) {
		return -1;
	}
	if (res == NULL || pgcall_is_error(r->pg, res)) {
		memcpy(v->sqlstate, r->pg->sqlstate, sizeof(v->sqlstate));
		snprintf(v->text, sizeof(v->text), "%s", r->pg->why);
		PQclear(res);
		return 1;
	}
	snprintf(v->sqlstate, sizeof(v->sqlstate), "40002"); /* integrity, with no other code */
	good = did_the_same(e, res, v->text, sizeof(v->text));
	PQclear(res);
	return good ? 0 : 1;
}

/* -- setting aside ----------------------------------------------------------------------------- */

#define ASIDE_PARAMS 13u

/* Text that a server in another encoding can take as well; NULL: out of memory. */
static char *plain(const char *text)
{
	char *out = malloc(4 * strlen(text) + 1), *at = out;

	for (; out != NULL && *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		at += c < 0x80 ? sprintf(at, "%c", c) : sprintf(at, "\\x%02x", c);
	}
	if (out != NULL) {
		*at = '\0';
	}
	return out;
}

static int insert_conflict(struct replay *r, const struct journal_entry *e, const struct verdict *v,
	const char *const text[4], const char *params)
{
	static const char sql[] = "INSERT INTO broker_conflict (origin, id, tx, statement, params, "
				  "rows, tag, worker, "
				  "pid, began, failed, sqlstate, error) VALUES ($1, $2, $3, $4, "
				  "$5, $6, $7, $8, $9, $10, "
				  "$11, $12, $13) ON CONFLICT (origin, id) DO NOTHING";
	int64_t pid = e->pid;
	bool failed = e->id == v->id;
	struct request_param p[ASIDE_PARAMS];

	p[0] = text_param(journal_origin(r->j));
	p[1] = number_param(&e->id);
	p[2] = number_param(&e->tx);
	p[3] = text_param(text[0]);
	p[4] = text_param(params);
	p[4].type = e->nparams > 0 ? CELL_JSON : CELL_NULL;
	p[5] = number_param(&e->rows);
	p[5].type = e->rows >= 0 ? CELL_INT64 : CELL_NULL;
	p[6] = text_param(text[1]);
	p[7] = text_param(text[2]);
	p[8] = number_param(&pid);
	p[9] = time_param(&e->at_us);
	p[10] = (struct request_param){&failed, 1, CELL_BOOL};
	p[11] = text_param(v->sqlstate);
	p[12] = text_param(text[3]);
	return run(r, sql, ASIDE_PARAMS, p);
}

static int set_row_aside(
	struct replay *r, const struct journal_entry *e, const struct verdict *v, bool as_plain)
{
	const char *text[4] = {e->text, e->tag, e->worker, v->text};
	char *copy[4] = {NULL}, *params = replay_params_json(e->nparams, e->params);
	bool memory = params != NULL;
	int rc = -1;

	for (unsigned i = 0; as_plain && i < 4; i++) {
		text[i] = copy[i] = plain(text[i]);
		memory &= copy[i] != NULL;
	}
	if (memory) {
		rc = insert_conflict(r, e, v, text, params);
	} else {
		snprintf(r->pg->why, sizeof(r->pg->why), "out of memory in the broker");
	}
	for (unsigned i = 0; i < 4; i++) {
		free(copy[i]);
	}
	free(params);
	return rc;
}

/* All rows of the transaction behind r->at.  0; 1: an error of PostgreSQL; -1: over. */
static int set_rows_aside(struct replay *r, const struct verdict *v, bool as_plain,
	struct courier_conflict *c, int64_t *last, int64_t *began)
{
	struct journal_entry e;
	struct sqlite_failure f;
	int more;

	c->statements = 0;
	journal_seek(r->j, r->at);
	while ((more = journal_next(r->j, &e, &f)) > 0 && e.tx == v->tx) {
		if (set_row_aside(r, &e, v, as_plain) < 0) {
			journal_rest(r->j);
			return r->pg->pq != NULL ? 1 : fail_pg(r);
		}
		c->statements++;
		*last = e.id;
		*began = e.at_us;
	}
	journal_rest(r->j);
	return more < 0 ? fail_sqlite(r, &f) : 0;
}

/* Inside the transaction's savepoint, which has nothing in it. */
static enum tx_result set_aside(struct replay *r, const struct verdict *v)
{
	struct courier_conflict *c = &r->aside[r->naside];
	int64_t last = 0, began = 0;
	int rc = set_rows_aside(r, v, false, c, &last, &began);

	if (rc > 0) {
		rc = pgcall_do(r->pg, "ROLLBACK TO SAVEPOINT broker_journal") < 0
			     ? fail_pg(r)
			     : set_rows_aside(r, v, true, c, &last, &began);
	}
	if (rc != 0) {
		return rc > 0 ? (void)fail_pg(r), TX_FAILED : TX_FAILED;
	}
	c->id = v->id;
	memcpy(c->sqlstate, v->sqlstate, sizeof(c->sqlstate));
	memcpy(c->text, v->text, sizeof(c->text));
	r->naside++;
	r->ntx++;
	r->at = last;
	r->began = began;
	r->doomed.tx = 0;
	return TX_DONE;
}

/* -- one transaction --------------------------------------------------------------------------- */

/* It was refused: what now? */
static enum tx_result judge(struct replay *r, const struct verdict *v)
{
	enum trouble trouble = classify(v->sqlstate);

	/* Our own verdicts are of the data. */
	if (strcmp(v->sqlstate, "40002") == 0 || strcmp(v->sqlstate, "XX001") == 0) {
		trouble = TROUBLE_DATA;
	}
	if (trouble == TROUBLE_AROUND) {
		set_failure(r, v->sqlstate, v->text);
		pgcall_close(r->pg);
		return TX_FAILED;
	}
	if (trouble == TROUBLE_PASSING && try_again(r, v->tx)) {
		return TX_AGAIN;
	}
	if (pgcall_do(r->pg, "ROLLBACK TO SAVEPOINT broker_journal") < 0) {
		(void)fail_pg(r);
		return TX_FAILED;
	}
	return set_aside(r, v);
}

/* Repeat the rows of the transaction whose first one is e. */
static enum tx_result repeat_rows(struct replay *r, struct journal_entry *e)
{
	int64_t tx = e->tx, last, began;
	struct sqlite_failure f;
	struct verdict v;
	int more;

	do {
		int rc = repeat_entry(r, e, &v);

		if (rc != 0) {
			journal_rest(r->j);
			return rc < 0 ? (void)fail_pg(r), TX_FAILED : judge(r, &v);
		}
		last = e->id;
		began = e->at_us;
		more = journal_next(r->j, e, &f);
	} while (more > 0 && e->tx == tx);
	journal_rest(r->j);
	if (more < 0) {
		(void)fail_sqlite(r, &f);
		return TX_FAILED;
	}
	r->at = last;
	r->began = began;
	r->done++;
	r->ntx++;
	return TX_DONE;
}

static enum tx_result next_transaction(struct replay *r)
{
	struct journal_entry e;
	struct sqlite_failure f;
	int more;

	journal_seek(r->j, r->at);
	more = journal_next(r->j, &e, &f);
	if (more <= 0) {
		journal_rest(r->j);
		return more < 0 ? (void)fail_sqlite(r, &f), TX_FAILED : TX_NONE;
	}
	/* Inside the last one: ROLLBACK TO means the innermost, COMMIT releases them all. */
	if (pgcall_do(r->pg, "SAVEPOINT broker_journal") < 0) {
		journal_rest(r->j);
		(void)fail_pg(r);
		return TX_FAILED;
	}
	r->tx = e.tx;
	return e.tx == r->doomed.tx ? set_aside(r, &r->doomed) : repeat_rows(r, &e);
}

/* -- the batch --------------------------------------------------------------------------------- */

static int begin_batch(struct replay *r)
{
	if (pgcall_do(r->pg, "BEGIN") < 0) {
		return fail_pg(r);
	}
	if (read_position(r, "FOR UPDATE", &r->position, &r->began) < 0) {
		return -1;
	}
	r->at = r->position;
	r->ntx = r->done = r->naside = 0;
	return 0;
}

static int move_position(struct replay *r)
{
	struct request_param params[3];
	int64_t began = r->began;

	params[0] = text_param(journal_origin(r->j));
	params[1] = number_param(&r->at);
	params[2] = time_param(&began);
	return run(r,
		"UPDATE broker_journal_position SET position = $2, began = $3, moved_at = now() "
		"WHERE origin = $1",
		3, params);
}

/* Whoever was in the way gets its next try alone. */
static enum replay_result undo_batch(struct replay *r)
{
	r->singles = r->ntx + 1;
	r->done = r->naside = 0;
	return pgcall_do(r->pg, "ROLLBACK") < 0 ? (void)fail_pg(r), REPLAY_FAILED : REPLAY_MORE;
}

/* The COMMIT, or what belongs to it, has failed with an error; all is undone. */
static enum replay_result judge_commit(struct replay *r)
{
	struct pgcall *pg = r->pg;
	enum trouble trouble = classify(pg->sqlstate);

	r->done = r->naside = 0;
	if (trouble == TROUBLE_AROUND) {
		(void)fail_pg(r);
		return REPLAY_FAILED;
	}
	if (trouble == TROUBLE_PASSING && try_again(r, r->tx)) {
		return REPLAY_MORE;
	}
	if (r->ntx > 1) {
		r->singles = r->ntx;
		return REPLAY_MORE;
	}
	r->doomed = (struct verdict){.tx = r->tx, .id = r->at};
	memcpy(r->doomed.sqlstate, pg->sqlstate, sizeof(r->doomed.sqlstate));
	snprintf(r->doomed.text, sizeof(r->doomed.text), "%s", pg->why);
	return REPLAY_MORE;
}

/* If the file is locked, a later batch does it; the rows are known as done. */
static int forget(struct replay *r)
{
	struct sqlite_failure f;

	if (journal_forget(r->j, r->position, &f) < 0 && strcmp(f.sqlstate, "55P03") != 0) {
		return fail_sqlite(r, &f);
	}
	return 0;
}

static enum replay_result commit_batch(struct replay *r)
{
	if (move_position(r) < 0) {
		(void)fail_pg(r);
		return REPLAY_FAILED;
	}
	if (pgcall_do(r->pg, "COMMIT") < 0) {
		if (r->pg->pq == NULL) {
			/* It may be in: the position tells when we are back. */
			r->done = r->naside = 0;
			(void)fail_pg(r);
			return REPLAY_FAILED;
		}
		return judge_commit(r);
	}
	r->position = r->at;
	r->singles -= r->singles > 0;
	r->limit = r->limit * 2 < REPLAY_BATCH ? r->limit * 2 : REPLAY_BATCH;
	return forget(r) < 0 ? REPLAY_FAILED : REPLAY_MORE;
}

enum replay_result replay_pass(struct replay *r)
{
	unsigned limit = r->singles > 0 || r->doomed.tx != 0 ? 1 : r->limit;
	uint64_t since = doorbell_now();
	int64_t first, last, ever;
	struct sqlite_failure f;
	enum tx_result res = TX_DONE;

	r->done = r->naside = 0;
	if (journal_extent(r->j, &first, &last, &ever, &f) < 0) {
		(void)fail_sqlite(r, &f);
		return REPLAY_FAILED;
	}
	if (last <= r->position) {
		return first > 0 && forget(r) < 0 ? REPLAY_FAILED : REPLAY_END;
	}
	if (begin_batch(r) < 0) {
		return REPLAY_FAILED;
	}
	while (res == TX_DONE && r->ntx < limit && doorbell_now() - since < REPLAY_BATCH_NS) {
		res = next_transaction(r);
	}
	if (res == TX_FAILED) {
		r->done = r->naside = 0;
		return REPLAY_FAILED;
	}
	if (res == TX_AGAIN || r->ntx == 0) {
		return undo_batch(r);
	}
	return commit_batch(r);
}
