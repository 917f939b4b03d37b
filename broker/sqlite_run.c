/* SPDX-License-Identifier: MIT */
/*
 * sqlite_run.c - see sqlite_run.h.
 *
 * Sources: sqlite.org/lang_transaction.html (which errors roll back),
 * sqlite.org/lang_savepoint.html, sqlite.org/c3ref/interrupt.html.
 */
#include "sqlite_run.h"

#include "atomics.h"
#include "doorbell.h"
#include "journal.h"
#include "sqlite_db.h"

#include <string.h>

enum run_result {
	RUN_OK,
	RUN_FAILED, /* job->failure says why */
	RUN_OVERFLOW, /* more rows than may be kept back */
};

struct sqlite_run {
	struct sqlite_db_options db_options;
	struct sqlite_run_host host;
	bool writer;
	struct sqlite_db *db; /* NULL: could not be opened again */
	const char *pool; /* journal: whose */
	struct journal_tail *tail;
	struct journal *journal; /* NULL: none is kept */
	bool keeping; /* what runs is to be written down there */
	sqlite3_int64 changes_before; /* of it, in all of the session */
	struct sqlite_failure failure; /* why */
	bool tx_failed;
	bool tx_readonly; /* the transaction is read-only */
	bool together; /* the transaction is of several jobs, none has it to itself */
	struct exec_job *job; /* runs and may be stopped */
	/* result under way */
	struct exec_block *out;
	bool may_publish;
	bool published; /* a block was handed to the loop */
	struct stream_cell *cells;
	union sqlite_number *numbers;
	unsigned ncells;
};

/* -- stopping ---------------------------------------------------------------------------------- */

static bool past_deadline(const struct exec_job *job)
{
	return job->deadline_ns != 0 && doorbell_now() >= job->deadline_ns;
}

static bool must_stop(void *arg)
{
	struct sqlite_run *run = arg;

	if (run->host.stopping(run->host.arg)) {
		return true;
	}
	return run->job != NULL && (get(&run->job->cancel) != 0 || past_deadline(run->job));
}

/* Fails the job if it is to be stopped. */
static bool stopped(struct sqlite_run *run, struct exec_job *job)
{
	if (get(&job->cancel) != 0) {
		sqlite_failure_set(&job->failure, FAIL_CANCELLED, "57014", "statement cancelled");
	} else if (past_deadline(job)) {
		sqlite_failure_set(&job->failure, FAIL_TIMEOUT, "57014",
			"deadline passed while the statement ran; it was cancelled");
		job->failure.retry_safe = true;
	} else if (run->host.stopping(run->host.arg)) {
		sqlite_failure_set(
			&job->failure, FAIL_UNAVAILABLE, "57P01", "the connection is closed");
	} else {
		return false;
	}
	return true;
}

/* -- opening ----------------------------------------------------------------------------------- */

static void close_database(struct sqlite_run *run)
{
	journal_close(&run->journal);
	sqlite_db_close(&run->db);
}

static int open_database(struct sqlite_run *run, struct sqlite_failure *f)
{
	int rc = 0;

	if (sqlite_db_open(&run->db_options, &run->db, f) < 0) {
		run->db = NULL;
		return -1;
	}
	if (run->db_options.journal) {
		sqlite_db_own(run->db, true);
		rc = journal_open(run->db->db, run->pool, run->tail, &run->journal, f);
		sqlite_db_own(run->db, false);
	}
	if (rc < 0) {
		close_database(run);
	}
	return rc;
}

int sqlite_run_create(const struct executor_options *opt, const struct sqlite_run_host *host,
	struct sqlite_run **out, struct sqlite_failure *f)
{
	struct sqlite_run *run = calloc(1, sizeof(*run));

	if (run == NULL) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		return -1;
	}
	run->host = *host;
	run->writer = opt->writer;
	run->pool = opt->journal;
	run->tail = opt->tail;
	run->db_options = (struct sqlite_db_options){
		.path = opt->path,
		.memory = opt->memory,
		.writer = opt->writer,
		.journal = opt->writer && opt->journal != NULL,
		.busy_ms = opt->busy_ms,
		.max_prepared = opt->max_prepared,
		.stop = must_stop,
		.stop_arg = run,
	};
	if (open_database(run, f) < 0) {
		free(run);
		return -1;
	}
	*out = run;
	return 0;
}

void sqlite_run_destroy(struct sqlite_run **run)
{
	if (*run == NULL) {
		return;
	}
	close_database(*run);
	free((*run)->out);
	free((*run)->cells);
	free((*run)->numbers);
	free(*run);
	*run = NULL;
}

/*
 * The way to be sure that nothing of a session remains is to end it: temporary tables, PRAGMAs and
 * last_insert_rowid() die with the handle.  It costs the prepared statements and some 100 us.
 */
static void reopen(struct sqlite_run *run)
{
	run->tx_failed = run->tx_readonly = false;
	close_database(run);
	(void)open_database(run, &run->failure);
}

bool sqlite_run_usable(const struct sqlite_run *run, struct sqlite_failure *f)
{
	if (run->db == NULL && f != NULL) {
		*f = run->failure;
	}
	return run->db != NULL;
}

/* -- rows -------------------------------------------------------------------------------------- */

/* Append to the result; len bytes, and the whole ends at a multiple of 8. */
static enum run_result put_bytes(struct sqlite_run *run, const void *data, size_t len)
{
	const unsigned char *at = data;

	while (len > 0) {
		size_t room = EXEC_BLOCK_SIZE - run->out->len;
		size_t n = len < room ? len : room;

		if (room == 0) {
			struct exec_block *empty;

			if (!run->may_publish) {
				return RUN_OVERFLOW;
			}
			run->out->job = run->job;
			empty = run->host.swap(run->host.arg, run->out, must_stop, run);
			if (empty == NULL) {
				return RUN_FAILED;
			}
			run->out = empty;
			run->published = true;
			continue;
		}
		memcpy(run->out->data + run->out->len, at, n);
		run->out->len += n;
		at += n;
		len -= n;
	}
	return RUN_OK;
}

/* A row that does not fit the block: it is cut wherever blocks end. */
static enum run_result put_row_cut(
	struct sqlite_run *run, unsigned ncells, const struct stream_cell *cells)
{
	static const unsigned char zero[8];
	struct shm_row row = {.len = stream_row_len(ncells, cells) - sizeof(row)};
	enum run_result res = put_bytes(run, &row, sizeof(row));

	for (unsigned i = 0; i < ncells && res == RUN_OK; i++) {
		const struct stream_cell *c = &cells[i];
		struct shm_cell head = {.len = c->len, .type = c->type, .encoding = c->encoding};

		res = put_bytes(run, &head, sizeof(head));
		if (res == RUN_OK) {
			res = put_bytes(run, c->data, c->len);
		}
		if (res == RUN_OK) {
			res = put_bytes(run, zero, pad8(c->len) - c->len);
		}
	}
	return res;
}

static bool want_cells(struct sqlite_run *run, unsigned n)
{
	struct stream_cell *cells;
	union sqlite_number *numbers;

	if (n <= run->ncells) {
		return true;
	}
	cells = realloc(run->cells, n * sizeof(*cells));
	if (cells == NULL) {
		return false;
	}
	run->cells = cells;
	numbers = realloc(run->numbers, n * sizeof(*numbers));
	if (numbers == NULL) {
		return false;
	}
	run->numbers = numbers;
	run->ncells = n;
	return true;
}

static enum run_result put_row(struct sqlite_run *run, const struct sqlite_prepared *p)
{
	unsigned n = (unsigned)p->ncols;
	uint64_t len;

	for (unsigned i = 0; i < n; i++) {
		if (!sqlite_cell(
			    p->stmt, (int)i, p->classes[i], &run->cells[i], &run->numbers[i])) {
			return RUN_FAILED;
		}
	}
	len = stream_row_len(n, run->cells);
	if (len > EXEC_BLOCK_SIZE - run->out->len) {
		return put_row_cut(run, n, run->cells);
	}
	stream_encode_row(run->out->data + run->out->len, n, run->cells);
	run->out->len += len;
	return RUN_OK;
}

/* The first step told what the columns are: a schema change may have made SQLite prepare anew. */
static enum run_result put_head(struct sqlite_run *run, struct sqlite_prepared *p)
{
	if (sqlite_db_describe(p) < 0 || !want_cells(run, (unsigned)p->ncols)) {
		return RUN_FAILED;
	}
	return p->ncols > 0 ? put_bytes(run, p->head, p->head_len) : RUN_OK;
}

/* What is in the block goes back with the job: no message of its own for a short result. */
static enum run_result keep_rows(struct sqlite_run *run, struct exec_job *job)
{
	size_t len = run->out->len;

	if (len > 0) {
		job->rows = malloc(len);
		if (job->rows == NULL) {
			return RUN_FAILED;
		}
		memcpy(job->rows, run->out->data, len);
		job->rows_len = len;
	}
	return RUN_OK;
}

/* -- one statement ----------------------------------------------------------------------------- */

/* Forget what an earlier try left. */
static void clear_result(struct exec_job *job)
{
	free(job->rows);
	job->rows = NULL;
	job->rows_len = 0;
	job->nrows = 0;
	job->failed = job->changed = false;
}

/* Step to the end.  On RUN_FAILED with rc SQLITE_ROW or SQLITE_DONE: stopped, or out of memory. */
static enum run_result step_all(
	struct sqlite_run *run, struct exec_job *job, struct sqlite_prepared *p, int *rc)
{
	bool described = false;
	enum run_result res = RUN_OK;

	do {
		*rc = sqlite3_step(p->stmt);
		if (*rc != SQLITE_ROW && *rc != SQLITE_DONE) {
			return RUN_FAILED;
		}
		if (!described) {
			res = put_head(run, p);
			described = true;
		}
		if (res == RUN_OK && *rc == SQLITE_ROW) {
			res = put_row(run, p);
			job->nrows++;
			if (run->keeping && res != RUN_FAILED) {
				journal_returned(run->journal, (unsigned)p->ncols, run->cells);
			}
		}
	} while (res == RUN_OK && *rc == SQLITE_ROW);
	return res;
}

static void explain_failure(struct sqlite_run *run, struct exec_job *job, int rc)
{
	int code = rc & 0xff;

	if ((code == SQLITE_INTERRUPT || code == SQLITE_BUSY || code == SQLITE_ROW ||
		    code == SQLITE_DONE) &&
		stopped(run, job)) {
		return;
	}
	if (code == SQLITE_ROW || code == SQLITE_DONE) {
		rc = SQLITE_NOMEM;
	}
	sqlite_db_failure(run->db, rc, &job->failure);
}

/* -- the journal ------------------------------------------------------------------------------- */

/* false: it must not run, job->failure says why. */
static bool begin_keeping(struct sqlite_run *run, struct exec_job *job, struct sqlite_prepared *p)
{
	run->keeping = false;
	if (run->journal == NULL || p->readonly) {
		return true;
	}
	if (p->refusal != NULL) {
		sqlite_failure_set(&job->failure, FAIL_UNSUPPORTED, "0A000",
			"cannot be repeated in PostgreSQL, which is away: %s", p->refusal);
		sqlite_failure_hint(&job->failure,
			"Values that depend on place or time are best passed as parameters.");
		return false;
	}
	if (p->kept && journal_check_params(job->nparams, job->params, &job->failure) < 0) {
		return false;
	}
	run->keeping = p->kept;
	if (run->keeping) {
		run->changes_before = sqlite3_total_changes64(run->db->db);
		journal_statement_begins(run->journal);
	}
	return true;
}

/* How many rows a statement has changed, -1: not known, 0: it has done nothing. */
static int64_t count_changed(struct sqlite_run *run, const struct sqlite_prepared *p)
{
	bool anything = sqlite3_total_changes64(run->db->db) != run->changes_before;

	if (p->verb != SQLITE_VERB_WRITE && p->verb != SQLITE_VERB_WITH) {
		return -1;
	}
	/* What triggers of a view do is not counted as the statement's own. */
	return !anything                            ? 0
	       : sqlite3_changes64(run->db->db) > 0 ? sqlite3_changes64(run->db->db)
						    : -1;
}

static enum run_result keep(
	struct sqlite_run *run, struct exec_job *job, const struct sqlite_prepared *p)
{
	int64_t rows = count_changed(run, p);
	int rc;

	run->keeping = false;
	if (rows == 0) {
		return RUN_OK;
	}
	sqlite_db_own(run->db, true);
	rc = journal_append(run->journal, job->source, job->stmt->text, job->stmt->len,
		job->nparams, job->params, rows, &job->failure);
	sqlite_db_own(run->db, false);
	return rc < 0 ? RUN_FAILED : RUN_OK;
}

static void next_transaction(struct sqlite_run *run)
{
	if (run->journal != NULL) {
		journal_next_transaction(run->journal);
	}
}

/* -- running one ------------------------------------------------------------------------------- */

static enum run_result execute(
	struct sqlite_run *run, struct exec_job *job, struct sqlite_prepared *p)
{
	enum run_result res;
	int rc = SQLITE_DONE;

	if (sqlite_db_bind(run->db, p, job->nparams, job->params, &job->failure) < 0) {
		return RUN_FAILED;
	}
	job->changed = !p->readonly;
	res = step_all(run, job, p, &rc);
	if (res == RUN_OK) {
		res = keep_rows(run, job);
	}
	if (res == RUN_FAILED) {
		explain_failure(run, job, rc);
	} else if (!p->readonly && (p->verb == SQLITE_VERB_WRITE || p->verb == SQLITE_VERB_WITH)) {
		job->nrows = (uint64_t)sqlite3_changes64(run->db->db);
	}
	return res == RUN_OK && run->keeping ? keep(run, job, p) : res;
}

/* Tell the core, once, whether readers can run this text. */
static void learn(struct exec_job *job, const struct sqlite_prepared *p)
{
	bool reads = p->verb == SQLITE_VERB_READ || p->verb == SQLITE_VERB_WITH ||
		     p->verb == SQLITE_VERB_EXPLAIN;

	if (get(&job->stmt->readonly) < 0) {
		put(&job->stmt->readonly, p->readonly && reads);
	}
}

static enum run_result run_statement(struct sqlite_run *run, struct exec_job *job, bool may_publish)
{
	struct sqlite_prepared *p = NULL;
	bool readonly = job->readonly || run->tx_readonly || !run->writer;
	enum run_result res = RUN_FAILED;

	clear_result(job);
	run->may_publish = may_publish;
	run->published = false;
	if (run->out == NULL) {
		run->out = run->host.swap(run->host.arg, NULL, must_stop, run);
	}
	if (run->out == NULL) {
		sqlite_failure_set(&job->failure, FAIL_MEMORY, "53200", "out of memory");
	} else if (!stopped(run, job) &&
		   sqlite_db_get(run->db, job->stmt->id, job->stmt->text, job->stmt->len, readonly,
			   &p, &job->failure) == 0) {
		run->out->len = 0;
		run->job = sqlite_verb_is_tx(p->verb) ? NULL : job;
		learn(job, p);
		if (begin_keeping(run, job, p)) {
			res = p->stmt != NULL ? execute(run, job, p) : RUN_OK;
		}
		run->job = NULL;
		sqlite_db_put(run->db, &p);
	}
	job->failed = res == RUN_FAILED;
	return res;
}

/* -- answers ----------------------------------------------------------------------------------- */

static void answer(struct sqlite_run *run, struct exec_job *job)
{
	struct sqlite_db *db = run->db;

	job->tx = CONN_TX_IDLE;
	job->dirty = false;
	job->hits = job->misses = job->evictions = 0;
	if (db != NULL) {
		if (run->tx_failed) {
			job->tx = CONN_TX_FAILED;
		} else if (sqlite_db_in_transaction(db) && !run->together) {
			job->tx = CONN_TX_OPEN;
		}
		job->dirty = job->leased && db->dirty;
		job->hits = db->hits;
		job->misses = db->misses;
		job->evictions = db->evictions;
		db->hits = db->misses = db->evictions = 0;
	}
	run->host.answer(run->host.arg, job);
}

/* There is no database any more. */
static void refuse(struct sqlite_run *run, struct exec_job *job)
{
	clear_result(job);
	job->failed = true;
	job->failure = run->failure;
	answer(run, job);
}

/* -- transactions ------------------------------------------------------------------------------ */

static void roll_back(struct sqlite_run *run)
{
	run->tx_failed = run->tx_readonly = false;
	next_transaction(run);
	if (run->db != NULL && sqlite_db_in_transaction(run->db) &&
		sqlite_db_control(run->db, SQLITE_CONTROL_ROLLBACK) != SQLITE_OK &&
		sqlite_db_in_transaction(run->db)) {
		reopen(run); /* closing the handle rolls back whatever state it is in */
	}
}

/* false: job->failure says why; no transaction is open. */
static bool begin(struct sqlite_run *run, struct exec_job *job, enum sqlite_control how)
{
	int rc;

	run->job = job; /* waiting for the lock ends with the job */
	rc = sqlite_db_control(run->db, how);
	run->job = NULL;
	next_transaction(run);
	if (rc == SQLITE_OK) {
		return true;
	}
	clear_result(job);
	job->failed = true;
	if ((rc & 0xff) != SQLITE_BUSY || !stopped(run, job)) {
		sqlite_failure_from(&job->failure, run->db->db, rc);
	}
	return false;
}

static void before_commit(struct sqlite_run *run)
{
	if (run->journal != NULL) {
		sqlite_db_own(run->db, true);
		journal_before_commit(run->journal);
		sqlite_db_own(run->db, false);
	}
}

/* false: f says why, and the transaction was rolled back. */
static bool commit(struct sqlite_run *run, struct sqlite_failure *f)
{
	int rc;

	before_commit(run);
	rc = sqlite_db_control(run->db, SQLITE_CONTROL_COMMIT);
	if (rc == SQLITE_OK) {
		if (run->journal != NULL) {
			journal_committed(run->journal);
		}
		run->tx_readonly = false;
		return true;
	}
	sqlite_failure_from(f, run->db->db, rc);
	if ((rc & 0xff) == SQLITE_IOERR) {
		/* What reached the disk is open, should the machine fail before the next write. */
		f->code = FAIL_OUTCOME_UNKNOWN;
		f->unknown = true;
	}
	roll_back(run);
	return false;
}

/* -- group commit ------------------------------------------------------------------------------ */

enum member_result {
	MEMBER_IN, /* it is in the group, well or failed */
	MEMBER_APART, /* undone: it must run by itself */
	MEMBER_LOST, /* the whole transaction is gone */
};

static enum member_result run_member(struct sqlite_run *run, struct exec_job *job)
{
	enum run_result res;

	if (sqlite_db_control(run->db, SQLITE_CONTROL_SAVEPOINT) != SQLITE_OK) {
		return MEMBER_LOST;
	}
	next_transaction(run);
	res = run_statement(run, job, false);
	if (!sqlite_db_in_transaction(run->db)) {
		return MEMBER_LOST;
	}
	if (res != RUN_OK && sqlite_db_control(run->db, SQLITE_CONTROL_ROLLBACK_TO) != SQLITE_OK) {
		return MEMBER_LOST;
	}
	if (sqlite_db_control(run->db, SQLITE_CONTROL_RELEASE) != SQLITE_OK) {
		return MEMBER_LOST;
	}
	return res == RUN_OVERFLOW ? MEMBER_APART : MEMBER_IN;
}

static void run_write(struct sqlite_run *run, struct exec_job *first, unsigned limit);

static void run_apart(struct sqlite_run *run, struct exec_job *const *member, unsigned n)
{
	roll_back(run);
	for (unsigned i = 0; i < n; i++) {
		run_write(run, member[i], 1);
	}
}

static void end_group(struct sqlite_run *run, struct exec_job *const *member, unsigned n)
{
	struct sqlite_failure f;

	if (commit(run, &f)) {
		member[0]->group = n > 1 ? n : 0;
		for (unsigned i = 0; i < n; i++) {
			answer(run, member[i]);
		}
		return;
	}
	if (n > 1) {
		run_apart(run, member, n);
		return;
	}
	clear_result(member[0]);
	member[0]->failed = true;
	member[0]->failure = f;
	answer(run, member[0]);
}

/* A write outside a transaction, and up to limit - 1 others that join it. */
static void run_write(struct sqlite_run *run, struct exec_job *first, unsigned limit)
{
	struct exec_job *member[EXEC_GROUP], *job = NULL;
	uint64_t since = doorbell_now();
	enum member_result res = MEMBER_IN;
	unsigned n = 1;

	if (run->db == NULL) {
		refuse(run, first);
		return;
	}
	if (!begin(run, first, SQLITE_CONTROL_BEGIN_WRITE) ||
		run_statement(run, first, true) != RUN_OK) {
		roll_back(run);
		answer(run, first);
		return;
	}
	member[0] = first;
	if (run->published) {
		limit = 1; /* it cannot run again */
	}
	while (res == MEMBER_IN && n < limit && doorbell_now() - since < EXEC_GROUP_NS &&
		(job = run->host.next(run->host.arg)) != NULL) {
		res = run_member(run, job);
		if (res != MEMBER_APART) {
			member[n++] = job;
		}
	}
	if (res == MEMBER_LOST) {
		run_apart(run, member, n);
		return;
	}
	end_group(run, member, n);
	if (res == MEMBER_APART) {
		run_write(run, job, 1);
	}
}

bool sqlite_run_may_join(const struct exec_job *job)
{
	enum sqlite_verb verb;

	if (job->op != EXEC_STATEMENT || job->leased) {
		return false;
	}
	verb = sqlite_verb(job->stmt->text, NULL);
	return verb == SQLITE_VERB_WRITE || verb == SQLITE_VERB_WITH || verb == SQLITE_VERB_READ;
}

/* -- jobs -------------------------------------------------------------------------------------- */

static void fail(struct exec_job *job, enum fail_code code, const char *sqlstate, const char *text)
{
	clear_result(job);
	job->failed = true;
	sqlite_failure_set(&job->failure, code, sqlstate, "%s", text);
}

/* Run outside a transaction and answer. */
static void run_alone(struct sqlite_run *run, struct exec_job *job, enum sqlite_verb verb)
{
	bool join = verb == SQLITE_VERB_WRITE || verb == SQLITE_VERB_WITH;

	switch (verb) {
	case SQLITE_VERB_NONE:
	case SQLITE_VERB_READ:
	case SQLITE_VERB_EXPLAIN:
	case SQLITE_VERB_PRAGMA: /* some cannot run in a transaction, nor can VACUUM */
	case SQLITE_VERB_VACUUM:
		(void)run_statement(run, job, true);
		answer(run, job);
		return;
	default:
		break;
	}
	if (!run->writer || job->readonly || get(&job->stmt->readonly) == 1) {
		(void)run_statement(run, job, true);
		answer(run, job);
		return;
	}
	run_write(run, job, join && !job->leased ? EXEC_GROUP : 1);
}

static void run_autocommit(struct sqlite_run *run, struct exec_job *job, enum sqlite_verb verb)
{
	if (sqlite_verb_is_tx(verb)) {
		fail(job, FAIL_USAGE, "25P01",
			"transaction control outside a lease: use broker_begin, broker_commit, "
			"broker_rollback");
		answer(run, job);
		return;
	}
	run_alone(run, job, verb);
	if (run->db != NULL && run->db->dirty) {
		reopen(run); /* before the next worker's statement, which may be waiting already */
	}
}

static void end_transaction(struct sqlite_run *run, struct exec_job *job, bool keep)
{
	clear_result(job);
	if (keep && run->tx_failed) {
		fail(job, FAIL_TX_ABORTED, "40000",
			"the transaction was rolled back because a statement in it had failed");
	} else if (keep && sqlite_db_in_transaction(run->db)) {
		job->failed = !commit(run, &job->failure);
	}
	roll_back(run);
	answer(run, job);
}

/* ROLLBACK TO: the only statement that mends a failed transaction. */
static void run_rollback_to(struct sqlite_run *run, struct exec_job *job)
{
	if (run_statement(run, job, false) == RUN_OK) {
		run->tx_failed = false;
	} else {
		run->tx_failed = true;
	}
	answer(run, job);
}

static bool is_rollback_to(struct sqlite_run *run, struct exec_job *job)
{
	struct sqlite_prepared *p = NULL;
	struct sqlite_failure ignored; /* a text that is wrong is told when it runs */
	bool yes;

	if (sqlite_db_get(run->db, job->stmt->id, job->stmt->text, job->stmt->len, false, &p,
		    &ignored) < 0) {
		return true;
	}
	yes = p->rollback_to;
	sqlite_db_put(run->db, &p);
	return yes;
}

static void run_tx_verb(struct sqlite_run *run, struct exec_job *job, enum sqlite_verb verb)
{
	bool open = sqlite_db_in_transaction(run->db) || run->tx_failed;

	if (verb == SQLITE_VERB_COMMIT) {
		end_transaction(run, job, true);
	} else if (verb == SQLITE_VERB_ROLLBACK && !is_rollback_to(run, job)) {
		end_transaction(run, job, false);
	} else if (verb != SQLITE_VERB_BEGIN && !open) {
		/* SQLite would start a transaction at a SAVEPOINT; PostgreSQL refuses. */
		fail(job, FAIL_DATABASE, "25P01", "savepoints can only be used in a transaction");
		answer(run, job);
	} else if (verb == SQLITE_VERB_ROLLBACK) {
		run_rollback_to(run, job);
	} else {
		if (run_statement(run, job, false) != RUN_OK && open) {
			run->tx_failed = true;
		}
		answer(run, job);
	}
}

static void run_leased(struct sqlite_run *run, struct exec_job *job, enum sqlite_verb verb)
{
	bool ends = verb == SQLITE_VERB_COMMIT || verb == SQLITE_VERB_ROLLBACK;

	if ((job->begin & REQ_F_TX) != 0 && !sqlite_db_in_transaction(run->db)) {
		bool readonly = (job->begin & REQ_F_READONLY) != 0 || !run->writer;

		if (!begin(run, job,
			    readonly ? SQLITE_CONTROL_BEGIN : SQLITE_CONTROL_BEGIN_WRITE)) {
			answer(run, job);
			return;
		}
		run->tx_readonly = readonly;
	}
	if (run->tx_failed && !ends) {
		fail(job, FAIL_DATABASE, "25P02",
			"current transaction is aborted, commands ignored until end of transaction "
			"block");
		answer(run, job);
	} else if (sqlite_verb_is_tx(verb)) {
		run_tx_verb(run, job, verb);
	} else if (sqlite_db_in_transaction(run->db)) {
		run->tx_failed = run_statement(run, job, true) != RUN_OK;
		job->failure.retry_safe = false; /* only the whole transaction is */
		answer(run, job);
	} else {
		run_alone(run, job, verb);
	}
}

static void run_reset(struct sqlite_run *run, struct exec_job *job)
{
	clear_result(job);
	roll_back(run);
	if ((job->what & CONN_RESET_SESSION) != 0 && run->db != NULL) {
		reopen(run);
	}
	if (run->db == NULL) {
		refuse(run, job);
	} else {
		answer(run, job);
	}
}

void sqlite_run_together(struct sqlite_run *run, bool together)
{
	if (run->together &&
		(run->db == NULL || !sqlite_db_in_transaction(run->db) ||
			sqlite_db_control(run->db, SQLITE_CONTROL_COMMIT) != SQLITE_OK)) {
		roll_back(run);
	}
	run->together = together && run->db != NULL &&
			sqlite_db_control(run->db, SQLITE_CONTROL_BEGIN) == SQLITE_OK;
}

void sqlite_run_job(struct sqlite_run *run, struct exec_job *job)
{
	enum sqlite_verb verb;

	if (run->db == NULL) {
		refuse(run, job);
		return;
	}
	switch (job->op) {
	case EXEC_STATEMENT:
		verb = sqlite_verb(job->stmt->text, NULL);
		if (job->leased) {
			run_leased(run, job, verb);
		} else {
			run_autocommit(run, job, verb);
		}
		break;
	case EXEC_COMMIT:
		end_transaction(run, job, true);
		break;
	case EXEC_ROLLBACK:
		end_transaction(run, job, false);
		break;
	case EXEC_RESET:
		run_reset(run, job);
		break;
	}
}
