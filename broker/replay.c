/* SPDX-License-Identifier: MIT */
/*
 * replay.c - see replay.h.  The rows are sent, and their answers compared, in replay_ahead.c; texts
 * are made in replay_text.c.
 */
#include "replay_ahead.h"

#include "doorbell.h"
#include "log.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What became of a transaction of the journal, or of several. */
enum tx_result {
	TX_DONE,
	TX_REFUSED, /* one of its rows, as ahead.verdict says */
	TX_AGAIN, /* undo the batch and start it anew */
	TX_UNDONE, /* the COMMIT has failed, so it is undone */
	TX_FAILED,
};

enum trouble {
	TROUBLE_DATA, /* it will fail the next time, too */
	TROUBLE_PASSING, /* it may go better the next time */
	TROUBLE_AROUND, /* it has nothing to do with the statement */
};

struct replay {
	struct pgcall *pg;
	struct journal *j;
	struct ahead ahead;
	struct courier_failure failure;
	int64_t position; /* committed */

	/* the batch */
	struct replay_place place; /* the position it will have */
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
		r->pg = r->ahead.pg = pg;
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
		make_table(r, "broker_conflict", conflict_table) < 0 || ahead_look(&r->ahead) < 0) {
		return fail_pg(r);
	}
	r->ahead.most = REPLAY_AHEAD_FIRST;
	if (read_position(r, "", &r->position, &began) < 0) {
		return -1;
	}
	if (r->position > 0 && check_history(r, began) < 0) {
		return -1;
	}
	return check_forgotten(r) < 0 ? -1 : enter_position(r);
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

/* All rows of the transaction behind r->place.  0; 1: an error of PostgreSQL; -1: over. */
static int set_rows_aside(struct replay *r, const struct verdict *v, bool as_plain,
	struct courier_conflict *c, struct replay_place *after)
{
	struct journal_entry e;
	struct sqlite_failure f;
	int more;

	c->statements = 0;
	journal_seek(r->j, r->place.at);
	while ((more = journal_next(r->j, &e, &f)) > 0 && e.tx == v->tx) {
		if (set_row_aside(r, &e, v, as_plain) < 0) {
			journal_rest(r->j);
			return r->pg->pq != NULL ? 1 : fail_pg(r);
		}
		c->statements++;
		after->at = e.id;
		after->began = e.at_us;
	}
	journal_rest(r->j);
	return more < 0 ? fail_sqlite(r, &f) : 0;
}

static int undo_transaction(struct replay *r)
{
	char sql[64];

	snprintf(sql, sizeof(sql), "ROLLBACK TO " REPLAY_SAVEPOINT, r->place.ntx);
	return pgcall_do(r->pg, sql) < 0 ? fail_pg(r) : 0;
}

/* The first transaction behind r->place, in its savepoint. */
static enum tx_result set_aside(struct replay *r, const struct verdict *v)
{
	struct courier_conflict *c = &r->aside[r->naside];
	struct replay_place after = {.ntx = r->place.ntx + 1};
	int rc;

	if (undo_transaction(r) < 0) {
		return TX_FAILED;
	}
	rc = set_rows_aside(r, v, false, c, &after);
	if (rc > 0) {
		rc = undo_transaction(r) < 0 ? -1 : set_rows_aside(r, v, true, c, &after);
	}
	if (rc > 0) {
		(void)fail_pg(r);
	}
	if (rc != 0) {
		return TX_FAILED;
	}
	c->id = v->id;
	memcpy(c->sqlstate, v->sqlstate, sizeof(c->sqlstate));
	memcpy(c->text, v->text, sizeof(c->text));
	r->naside++;
	r->place = after;
	return TX_DONE;
}

/* A transaction was refused: what now?  Those in front of it stay as they are. */
static enum tx_result judge(struct replay *r)
{
	const struct verdict *v = &r->ahead.verdict;
	enum trouble trouble = classify(v->sqlstate);

	r->place = r->ahead.place;
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
	if (pgcall_pipe_end(r->pg) < 0) {
		(void)fail_pg(r);
		return TX_FAILED;
	}
	return set_aside(r, v);
}

/* -- transactions ------------------------------------------------------------------------------ */

/* Of one row: 0; 1: refused; -1: failed. */
static int repeat_row(struct replay *r, const struct journal_entry *e,
	const struct replay_place *before, bool opens)
{
	const struct verdict *d = &r->doomed;
	int rc = e->tx == d->tx ? ahead_refuse(&r->ahead, e, before, opens, d->sqlstate, d->text)
				: ahead_send(&r->ahead, e, before, opens);

	return rc < 0 ? fail_pg(r) : rc;
}

/* Rows behind r->place, until the batch is full, as limit and its age say. */
static int repeat_rows(struct replay *r, unsigned limit, uint64_t since)
{
	struct replay_place before = r->place;
	struct journal_entry e;
	struct sqlite_failure f;
	int64_t tx = 0;
	int more = 0, rc = 0;

	while (rc == 0 && (more = journal_next(r->j, &e, &f)) > 0) {
		bool opens = e.tx != tx;

		if (opens) {
			before = r->place;
			if (before.ntx >= limit ||
				(before.ntx > 0 && doorbell_now() - since >= REPLAY_BATCH_NS)) {
				return 0;
			}
			r->place.ntx++;
			tx = r->tx = e.tx;
		}
		rc = repeat_row(r, &e, &before, opens);
		r->place.at = e.id;
		r->place.began = e.at_us;
	}
	return rc == 0 && more < 0 ? fail_sqlite(r, &f) : rc;
}

/* TX_DONE: each did what its worker was told. */
static enum tx_result repeat_transactions(struct replay *r, unsigned limit, uint64_t since)
{
	int rc;

	if (ahead_begin(&r->ahead) < 0) {
		(void)fail_pg(r);
		return TX_FAILED;
	}
	journal_seek(r->j, r->place.at);
	rc = repeat_rows(r, limit, since);
	journal_rest(r->j);
	if (rc == 0) {
		rc = ahead_finish(&r->ahead);
		rc = rc < 0 ? fail_pg(r) : rc;
	}
	return rc == 0 ? TX_DONE : rc > 0 ? TX_REFUSED : TX_FAILED;
}

/* -- the batch --------------------------------------------------------------------------------- */

/* The rows to send depend on the position, so this waits. */
static int begin_batch(struct replay *r)
{
	if (pgcall_do(r->pg, "BEGIN") < 0) {
		return fail_pg(r);
	}
	if (read_position(r, "FOR UPDATE", &r->position, &r->place.began) < 0) {
		return -1;
	}
	r->place.at = r->position;
	r->place.ntx = r->done = r->naside = 0;
	return 0;
}

static int send_commit(struct replay *r)
{
	struct request_param params[3];

	params[0] = text_param(journal_origin(r->j));
	params[1] = number_param(&r->place.at);
	params[2] = time_param(&r->place.began);
	return pgcall_send(r->pg,
		       "UPDATE broker_journal_position SET position = $2, began = $3, moved_at = "
		       "now() WHERE origin = $1",
		       3, params) < 0 ||
			       pgcall_send(r->pg, "COMMIT", 0, NULL) < 0 || pgcall_sync(r->pg) < 0
		       ? -1
		       : 0;
}

/* Whoever was in the way gets its next try alone. */
static enum replay_result undo_batch(struct replay *r)
{
	r->singles = r->place.ntx + 1;
	r->done = r->naside = 0;
	if (pgcall_pipe_end(r->pg) < 0 || pgcall_do(r->pg, "ROLLBACK") < 0) {
		(void)fail_pg(r);
		return REPLAY_FAILED;
	}
	return REPLAY_MORE;
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
	if (r->place.ntx > 1) {
		r->singles = r->place.ntx;
		return REPLAY_MORE;
	}
	r->doomed = (struct verdict){.tx = r->tx, .id = r->place.at};
	memcpy(r->doomed.sqlstate, pg->sqlstate, sizeof(r->doomed.sqlstate));
	snprintf(r->doomed.text, sizeof(r->doomed.text), "%s", pg->why);
	return REPLAY_MORE;
}

/* An answer to something of ours: 0; 1: an error; -1: no connection. */
static int take(struct replay *r)
{
	PGresult *res = pgcall_next(r->pg);
	int rc = res == NULL ? -1 : pgcall_is_error(r->pg, res);

	PQclear(res);
	return rc;
}

/* A COMMIT without an answer may be in: the position tells when we are back. */
static enum tx_result commit_batch(struct replay *r)
{
	int rc = send_commit(r);

	if (rc < 0 || take(r) != 0 || (rc = take(r)) < 0) {
		(void)fail_pg(r);
		return TX_FAILED;
	}
	if (pgcall_pipe_end(r->pg) < 0 && rc > 0) {
		(void)fail_pg(r);
		return TX_FAILED;
	}
	return rc > 0 ? TX_UNDONE : TX_DONE;
}

/* A transaction that is set aside is one of the batch, so it goes on with those behind it. */
static enum tx_result run_batch(struct replay *r, unsigned limit)
{
	uint64_t since = doorbell_now();
	enum tx_result res;

	do {
		res = repeat_transactions(r, limit, since);
		if (res == TX_DONE) {
			return r->place.ntx > 0 ? commit_batch(r) : TX_AGAIN;
		}
		res = res == TX_REFUSED ? judge(r) : res;
	} while (res == TX_DONE);
	return res;
}

static void set_ahead(struct replay *r, uint64_t took_ns)
{
	unsigned most = r->ahead.most;

	if (took_ns > REPLAY_BATCH_NS) {
		most = most / 2 > 1 ? most / 2 : 1;
	} else {
		most = most * 2 < REPLAY_AHEAD ? most * 2 : REPLAY_AHEAD;
	}
	r->ahead.most = most;
}

static void end_batch(struct replay *r)
{
	r->done = r->place.ntx - r->naside;
	r->position = r->place.at;
	r->doomed.tx = 0;
	r->singles -= r->singles > 0;
	r->limit = r->limit * 2 < REPLAY_BATCH ? r->limit * 2 : REPLAY_BATCH;
}

enum replay_result replay_pass(struct replay *r)
{
	unsigned limit = r->singles > 0 || r->doomed.tx != 0 ? 1 : r->limit;
	uint64_t since = doorbell_now();
	int64_t first, last, ever;
	struct sqlite_failure f;

	r->done = r->naside = 0;
	if (journal_extent(r->j, &first, &last, &ever, &f) < 0) {
		(void)fail_sqlite(r, &f);
		return REPLAY_FAILED;
	}
	if (last <= r->position) {
		return REPLAY_END;
	}
	if (begin_batch(r) < 0) {
		return REPLAY_FAILED;
	}
	switch (run_batch(r, limit)) {
	case TX_DONE:
		end_batch(r);
		set_ahead(r, doorbell_now() - since);
		return REPLAY_MORE;
	case TX_AGAIN:
		return undo_batch(r);
	case TX_UNDONE:
		return judge_commit(r);
	default:
		r->done = r->naside = 0;
		return REPLAY_FAILED;
	}
}

/* If the file is locked, a later call does it: the rows are known as done. */
int replay_forget(struct replay *r)
{
	int64_t first, last, ever;
	struct sqlite_failure f;

	if (journal_extent(r->j, &first, &last, &ever, &f) < 0) {
		return fail_sqlite(r, &f);
	}
	if (first > 0 && first <= r->position && journal_forget(r->j, r->position, &f) < 0 &&
		strcmp(f.sqlstate, "55P03") != 0) {
		return fail_sqlite(r, &f);
	}
	return 0;
}
