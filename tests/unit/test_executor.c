/* SPDX-License-Identifier: MIT */
/*
 * test_executor.c - the SQLite executor by itself: jobs in, rows and failures out, on a real file.
 *
 * The loop's side is played by `struct box`, which keeps what comes back in order and decodes
 * result streams into text: cells as `|`-separated, rows ended by a newline.
 */
#include "executor.h"

#include "atomics.h"
#include "doorbell.h"
#include "statement.h"
#include "tap.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUSY_MS 100

/* A job that came back, with its whole result stream. */
struct result {
	struct exec_job *job;
	bool dropped;
	unsigned char *stream;
	size_t len;
};

struct box {
	uv_loop_t loop;
	struct statements *statements;
	struct executor *ex;
	bool ready, failed, exited, gone;
	struct sqlite_failure failure;
	bool hold; /* keep blocks instead of giving them back */
	struct exec_block *held[EXEC_BLOCKS + 1];
	unsigned nheld, nblocks;
	struct result part; /* stream of the job under way */
	struct result ended[512];
	unsigned nended, taken;
};

static char dir[] = "/tmp/test_executor.XXXXXX";
static char path[64];

/* -- the loop's side --------------------------------------------------------------------------- */

static void append(struct result *r, const void *data, size_t len)
{
	if (len > 0) {
		r->stream = realloc(r->stream, r->len + len);
		memcpy(r->stream + r->len, data, len);
		r->len += len;
	}
}

static void take_block(struct box *b, struct exec_block *block)
{
	b->nblocks++;
	append(&b->part, block->data, block->len);
	if (b->hold) {
		if (b->nheld == EXEC_BLOCKS) {
			bail_out("more than %u blocks outstanding", EXEC_BLOCKS);
		}
		b->held[b->nheld++] = block;
	} else {
		executor_recycle(b->ex, block);
	}
}

static void take_job(struct box *b, struct exec_job *job, bool dropped)
{
	if (b->nended == array_size(b->ended)) {
		bail_out("too many jobs");
	}
	append(&b->part, job->rows, job->rows_len);
	b->part.job = job;
	b->part.dropped = dropped;
	b->ended[b->nended++] = b->part;
	b->part = (struct result){0};
}

static void on_message(void *arg)
{
	struct box *b = arg;
	struct exec_msg *m;

	while (!b->exited && (m = executor_receive(b->ex)) != NULL) {
		switch (m->kind) {
		case EXEC_READY:
			b->ready = true;
			break;
		case EXEC_BLOCK:
			take_block(b, exec_block_of(m));
			break;
		case EXEC_END:
		case EXEC_DROPPED:
			take_job(b, exec_job_of(m), m->kind == EXEC_DROPPED);
			break;
		case EXEC_FAILED:
			b->failed = true;
			b->failure = exec_failed_of(m)->failure;
			break;
		case EXEC_EXITED:
			b->exited = true;
			break;
		}
	}
}

static void on_gone(void *arg)
{
	((struct box *)arg)->gone = true;
}

static void on_limit(uv_timer_t *t)
{
	(void)t;
	bail_out("nothing happened for 20 s");
}

/* Turn the loop until the condition holds. */
#define until(b, cond)                                                                             \
	do {                                                                                       \
		uv_timer_t limit_;                                                                 \
		uv_timer_init(&(b)->loop, &limit_);                                                \
		uv_timer_start(&limit_, on_limit, 20000, 0);                                       \
		while (!(cond)) {                                                                  \
			uv_run(&(b)->loop, UV_RUN_ONCE);                                           \
		}                                                                                  \
		uv_close((uv_handle_t *)&limit_, NULL);                                            \
		uv_run(&(b)->loop, UV_RUN_NOWAIT);                                                 \
	} while (0)

static struct box *box_open_at(const char *where, bool writer, bool memory, unsigned max_prepared)
{
	struct box *b = calloc(1, sizeof(*b));
	struct executor_options opt = {
		.name = "test",
		.path = where,
		.memory = memory,
		.writer = writer,
		.max_prepared = max_prepared,
		.busy_ms = BUSY_MS,
		.open_ms = 2000,
	};

	uv_loop_init(&b->loop);
	b->statements = statements_create(16);
	if (executor_create(&b->loop, &opt, on_message, b, &b->ex) < 0) {
		bail_out("cannot start an executor");
	}
	until(b, b->ready || b->failed);
	return b;
}

static struct box *box_open(bool writer)
{
	struct box *b = box_open_at(path, writer, false, 8);

	if (b->failed) {
		bail_out("cannot open %s: %s", path, b->failure.message);
	}
	return b;
}

static void free_result(struct box *b, struct result *r)
{
	statement_put(b->statements, r->job->stmt);
	exec_job_destroy(r->job);
	free(r->stream);
}

static void box_close(struct box **bp)
{
	struct box *b = *bp;

	executor_stop(b->ex);
	until(b, b->exited);
	while (b->nheld > 0) {
		executor_recycle(b->ex, b->held[--b->nheld]);
	}
	executor_destroy(b->ex, on_gone, b);
	until(b, b->gone);
	for (unsigned i = 0; i < b->nended; i++) {
		free_result(b, &b->ended[i]);
	}
	free(b->part.stream);
	uv_run(&b->loop, UV_RUN_DEFAULT);
	if (uv_loop_close(&b->loop) != 0) {
		bail_out("a handle was left open");
	}
	statements_destroy(b->statements);
	free(b);
	*bp = NULL;
}

/* -- statements -------------------------------------------------------------------------------- */

static struct exec_job *make(
	struct box *b, const char *sql, unsigned n, const struct request_param *params)
{
	struct exec_job *job = exec_job_create(n, params);

	job->stmt = statement_get(b->statements, sql, strlen(sql));
	return job;
}

static struct exec_job *send_sql(struct box *b, const char *sql)
{
	struct exec_job *job = make(b, sql, 0, NULL);

	executor_submit(b->ex, job);
	return job;
}

/* The next job that comes back; valid until the next but 500th. */
static struct result *next_result(struct box *b)
{
	executor_ring(b->ex);
	until(b, b->nended > b->taken);
	return &b->ended[b->taken++];
}

static struct result *run_job(struct box *b, struct exec_job *job)
{
	if (b->taken == b->nended) { /* start over in the table */
		for (unsigned i = 0; i < b->nended; i++) {
			free_result(b, &b->ended[i]);
		}
		b->taken = b->nended = 0;
	}
	executor_submit(b->ex, job);
	return next_result(b);
}

static struct result *run(struct box *b, const char *sql)
{
	return run_job(b, make(b, sql, 0, NULL));
}

static struct result *run_leased(struct box *b, const char *sql, unsigned begin)
{
	struct exec_job *job = make(b, sql, 0, NULL);

	job->leased = true;
	job->begin = begin;
	return run_job(b, job);
}

static struct result *run_op(struct box *b, enum exec_op op, unsigned what)
{
	struct exec_job *job = exec_job_create(0, NULL);

	job->op = op;
	job->leased = true;
	job->what = what;
	return run_job(b, job);
}

/* -- decoding ---------------------------------------------------------------------------------- */

static void print_cell(FILE *f, const struct shm_cell *c, const unsigned char *data)
{
	int64_t i = 0;
	double d = 0;

	switch (c->type) {
	case CELL_NULL:
		fputs("null", f);
		break;
	case CELL_BOOL:
		fputs(data[0] ? "true" : "false", f);
		break;
	case CELL_INT64:
	case CELL_TIMESTAMP:
		memcpy(&i, data, sizeof(i));
		fprintf(f, "%s%lld", c->type == CELL_TIMESTAMP ? "@" : "", (long long)i);
		break;
	case CELL_DOUBLE:
		memcpy(&d, data, sizeof(d));
		fprintf(f, "%g", d);
		break;
	case CELL_BLOB:
		for (uint32_t k = 0; k < c->len; k++) {
			fprintf(f, "x%02x", data[k]);
		}
		break;
	default:
		fprintf(f, "%s'%.*s'", c->type == CELL_JSON ? "j" : "", (int)c->len,
			(const char *)data);
	}
}

/* Rows as text; static buffer. */
static const char *rows_of(const struct result *r)
{
	static char buf[8192];
	FILE *f = fmemopen(buf, sizeof(buf), "w");
	struct shm_result_head head = {0};
	size_t at;

	memset(buf, 0, sizeof(buf));
	if (r->len >= sizeof(head)) {
		memcpy(&head, r->stream, sizeof(head));
	}
	for (at = head.head_len; at < r->len;) {
		struct shm_row row;

		memcpy(&row, r->stream + at, sizeof(row));
		at += sizeof(row);
		for (uint32_t i = 0; i < head.ncols; i++) {
			struct shm_cell c;

			memcpy(&c, r->stream + at, sizeof(c));
			at += sizeof(c);
			fputs(i > 0 ? "|" : "", f);
			print_cell(f, &c, r->stream + at);
			at += pad8(c.len);
		}
		fputc('\n', f);
	}
	fclose(f);
	return buf;
}

/* "name:type,…" of the result head. */
static const char *columns_of(const struct result *r)
{
	static char buf[1024];
	struct shm_result_head head;
	size_t at = sizeof(head), n = 0;

	memcpy(&head, r->stream, sizeof(head));
	for (uint32_t i = 0; i < head.ncols; i++) {
		struct shm_column c;

		memcpy(&c, r->stream + at, sizeof(c));
		at += sizeof(c);
		n += (size_t)snprintf(buf + n, sizeof(buf) - n, "%s%.*s:%d", i > 0 ? "," : "",
			(int)c.name_len, (const char *)r->stream + at, c.type);
		at += pad8(c.name_len);
	}
	return buf;
}

static const char *state_of(const struct result *r)
{
	return r->job->failed ? r->job->failure.sqlstate : "ok";
}

#define good(r) ok_result((r), __LINE__)
static struct result *ok_result(struct result *r, int line)
{
	if (r->dropped || r->job->failed) {
		bail_out(
			"line %d: %s: %s", line, r->job->failure.sqlstate, r->job->failure.message);
	}
	return r;
}

static int64_t count_of(struct box *b, const char *sql)
{
	return strtoll(rows_of(good(run(b, sql))), NULL, 10);
}

/* -- tests ------------------------------------------------------------------------------------- */

static void test_values(void)
{
	struct box *b = box_open(true);
	int64_t big = INT64_C(1) << 60, when = INT64_C(1700000000123456);
	double real = 0.25;
	unsigned char yes = 1;
	struct request_param p[] = {
		{&big, 8, CELL_INT64},
		{&real, 8, CELL_DOUBLE},
		{"h\303\251", 3, CELL_TEXT},
		{"\0\377", 2, CELL_BLOB},
		{&yes, 1, CELL_BOOL},
		{&when, 8, CELL_TIMESTAMP},
		{"{\"a\":1}", 7, CELL_JSON},
		{NULL, 0, CELL_NULL},
		{NULL, 0, CELL_TEXT},
		{NULL, 0, CELL_BLOB},
	};
	struct result *r;

	good(run(b, "CREATE TABLE v (i INTEGER, d DOUBLE, t TEXT, b BLOB, f BOOLEAN, ts TIMESTAMP, "
		    "j JSON, n TEXT, e TEXT, z BLOB)"));
	r = run_job(b, make(b, "INSERT INTO v VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)", 10, p));
	is_str(state_of(r), "ok", "every type of parameter is bound");
	is_int((int64_t)r->job->nrows, 1, "an INSERT tells how many rows it made");
	is_int((int64_t)r->len, 0, "and has no result stream");
	r = run(b, "SELECT * FROM v");
	is_str(rows_of(r),
		"1152921504606846976|0.25|'h\303\251'|x00xff|true|@1700000000123456|j'{\"a\":1}'"
		"|null|''|\n",
		"every type comes back as it went in");
	is_str(columns_of(r), "i:2,d:3,t:4,b:5,f:1,ts:7,j:6,n:4,e:4,z:5",
		"columns have declared types");
	is_int((int64_t)r->job->nrows, 1, "a SELECT tells how many rows it returned");
	is_str(rows_of(good(run(b, "SELECT ts FROM v WHERE ts = '2023-11-14 22:13:20.123456'"))),
		"@1700000000123456\n", "a TIMESTAMP is kept as text in UTC");
	good(run(b, "INSERT INTO v (f, ts, j) VALUES (2, 'soon', 17)"));
	is_str(rows_of(good(run(b, "SELECT f, ts, j FROM v WHERE ts = 'soon'"))),
		"2|'soon'|j'17'\n", "values that do not fit the declared type keep their own");
	is_str(columns_of(good(run(b, "SELECT 1 + 1 AS two, i FROM v WHERE 0"))), "two:4,i:2",
		"a result without rows has a head; an expression's type is unknown");
	r = run(b, " /* nothing */ ; -- at all");
	is_str(state_of(r), "ok", "an empty statement is well");
	box_close(&b);
}

static void test_placeholders(void)
{
	struct box *b = box_open(true);
	int64_t one = 1, two = 2;
	struct request_param p[] = {{&one, 8, CELL_INT64}, {&two, 8, CELL_INT64}};
	struct result *r;

	r = run_job(b, make(b, "SELECT $2, $1, $2", 2, p));
	is_str(rows_of(r), "2|1|2\n", "placeholders may repeat and come in any order");
	r = run_job(b, make(b, "SELECT $1, $2", 1, p));
	is_str(state_of(r), "08P01", "too few parameters are an error");
	ok(strstr(r->job->failure.message, "1 parameter was given") != NULL &&
			strstr(r->job->failure.message, "ask for 2") != NULL,
		"that names both numbers: %s", r->job->failure.message);
	r = run_job(b, make(b, "SELECT $1", 2, p));
	is_str(state_of(r), "08P01", "too many parameters are an error");
	r = run_job(b, make(b, "SELECT ?", 1, p));
	is_str(state_of(r), "42601", "? is an error");
	ok(strstr(r->job->failure.message, "$1") != NULL, "that tells what to write: %s",
		r->job->failure.message);
	r = run_job(b, make(b, "SELECT $1::text", 1, p));
	ok(strstr(r->job->failure.hint, "CAST") != NULL, "a cast of PostgreSQL gets a hint: %s",
		r->job->failure.hint);
	r = run(b, "SELECT 1; SELECT 2");
	is_str(state_of(r), "42601", "two statements in one text are an error");
	is_str(rows_of(run(b, "SELECT 1; -- done")), "1\n",
		"a comment after the statement is none");
	box_close(&b);
}

static void test_failures(void)
{
	static const struct {
		const char *sql, *state;
	} cases[] = {
		{"INSERT INTO child VALUES (1, 1, 'x', 1)", "ok"},
		{"INSERT INTO child VALUES (1, 1, 'x', 1)", "23505"},
		{"INSERT INTO child VALUES (2, 9, 'x', 1)", "23503"},
		{"INSERT INTO child VALUES (2, 1, NULL, 1)", "23502"},
		{"INSERT INTO child VALUES (2, 1, 'x', -1)", "23514"},
		{"INSERT INTO child VALUES ('abc', 1, 'x', 1)", "22P02"},
		{"SELEC 1", "42601"},
		{"SELECT * FROM missing", "42P01"},
		{"SELECT missing FROM child", "42703"},
		{"SELECT \"missing\" FROM child", "42703"},
		{"SELECT missing(1)", "42883"},
		{"CREATE TABLE child (i)", "42P07"},
		{"SELECT zeroblob(2000000000)", "54000"},
		{"ATTACH '/tmp/other' AS other", "42501"},
		{"VACUUM INTO '/tmp/other'", "42501"},
		{"SELECT load_extension('x')", "42501"},
		{"PRAGMA journal_mode=DELETE", "42501"},
		{"PRAGMA synchronous=OFF", "42501"},
		{"PRAGMA writable_schema=ON", "42501"},
		{"PRAGMA query_only=OFF", "42501"},
		{"PRAGMA hard_heap_limit=1", "42501"},
		{"PRAGMA table_info(child)", "ok"},
		{"PRAGMA user_version=7", "ok"},
		{"PRAGMA wal_checkpoint", "ok"},
		{"VACUUM", "ok"},
		{"ANALYZE", "ok"},
		{"EXPLAIN SELECT 1", "ok"},
		{"BEGIN", "25P01"},
		{"COMMIT", "25P01"},
	};
	struct box *b = box_open(true);

	good(run(b, "CREATE TABLE parent (id INTEGER PRIMARY KEY)"));
	good(run(b, "INSERT INTO parent VALUES (1)"));
	good(run(b, "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent, "
		    "t TEXT NOT NULL, n INTEGER CHECK (n > 0))"));
	for (size_t i = 0; i < array_size(cases); i++) {
		struct result *r = run(b, cases[i].sql);

		is_str(state_of(r), cases[i].state, "%s: %s", cases[i].sql,
			r->job->failed ? r->job->failure.message : "");
	}
	is_int(count_of(b, "SELECT count(*) FROM child"), 1, "nothing of what failed is there");
	box_close(&b);
}

static void test_readonly(void)
{
	struct box *w = box_open(true), *r = box_open(false);
	struct exec_job *job;
	struct result *res;

	good(run(w, "CREATE TABLE ro (i)"));
	is_str(state_of(run(r, "INSERT INTO ro VALUES (1)")), "25006", "a reader refuses to write");
	is_str(rows_of(run(r, "SELECT count(*) FROM ro")), "0\n", "and reads what the writer made");
	job = make(w, "INSERT INTO ro VALUES (1)", 0, NULL);
	job->readonly = true;
	res = run_job(w, job);
	is_str(state_of(res), "25006",
		"a write that is declared read-only is refused by the writer");
	is_str(res->job->failure.message, "cannot execute INSERT in a read-only transaction",
		"in the words of PostgreSQL");
	is_int(get(&res->job->stmt->readonly), -1, "nothing is learned from a statement refused");
	job = make(w, "WITH x AS (SELECT 2) INSERT INTO ro SELECT * FROM x", 0, NULL);
	job->readonly = true;
	is_str(state_of(run_job(w, job)), "25006", "also behind WITH");
	res = good(run(w, "WITH x AS (SELECT 2) SELECT * FROM x"));
	is_int(get(&res->job->stmt->readonly), 1, "a reading statement is marked for the readers");
	res = good(run(w, "INSERT INTO ro VALUES (1)"));
	is_int(get(&res->job->stmt->readonly), 0, "a writing one is marked for the writer");
	res = good(run(w, "PRAGMA user_version"));
	is_int(get(&res->job->stmt->readonly), 0, "a PRAGMA too, whatever SQLite says");
	is_str(state_of(run_leased(r, "SELECT count(*) FROM ro", REQ_F_TX | REQ_F_READONLY)), "ok",
		"a reader has transactions");
	good(run(w, "INSERT INTO ro VALUES (2)"));
	is_str(rows_of(run_leased(r, "SELECT count(*) FROM ro", 0)), "1\n",
		"with a stable snapshot");
	is_str(state_of(run_op(r, EXEC_COMMIT, 0)), "ok", "that end");
	is_str(rows_of(run(r, "SELECT count(*) FROM ro")), "2\n", "and then see what is new");
	box_close(&r);
	box_close(&w);
}

static void test_lease(void)
{
	struct box *b = box_open(true);
	struct result *r;

	good(run(b, "CREATE TABLE l (i INTEGER PRIMARY KEY)"));
	r = good(run_leased(b, "INSERT INTO l VALUES (1)", REQ_F_TX));
	is_int(r->job->tx, CONN_TX_OPEN, "a lease begins its transaction with its first statement");
	good(run_leased(b, "SAVEPOINT a", 0));
	good(run_leased(b, "INSERT INTO l VALUES (2)", 0));
	r = run_leased(b, "INSERT INTO l VALUES (2)", 0);
	is_str(state_of(r), "23505", "a statement fails");
	is_int(r->job->tx, CONN_TX_FAILED, "so the transaction has failed");
	is_str(state_of(run_leased(b, "SELECT 1", 0)), "25P02", "and takes no more statements");
	is_str(state_of(run_leased(b, "RELEASE a", 0)), "25P02", "not even RELEASE");
	is_str(state_of(run_leased(b, "ROLLBACK TO nowhere", 0)), "3B001",
		"ROLLBACK TO needs a savepoint");
	r = run_leased(b, "ROLLBACK TO SAVEPOINT a", 0);
	is_int(r->job->tx, CONN_TX_OPEN, "ROLLBACK TO mends it");
	good(run_leased(b, "INSERT INTO l VALUES (3)", 0));
	r = run_op(b, EXEC_COMMIT, 0);
	is_str(state_of(r), "ok", "COMMIT");
	is_int(r->job->tx, CONN_TX_IDLE, "ends the transaction");
	is_str(rows_of(run(b, "SELECT group_concat(i) FROM l")), "'1,3'\n", "with what was kept");

	good(run_leased(b, "INSERT INTO l VALUES (4)", REQ_F_TX));
	is_str(state_of(run_leased(b, "nonsense", 0)), "42601", "a syntax error");
	r = run_op(b, EXEC_COMMIT, 0);
	is_int(r->job->failure.code, FAIL_TX_ABORTED, "makes COMMIT fail");
	is_int(r->job->tx, CONN_TX_IDLE, "and roll back");
	good(run_leased(b, "INSERT INTO l VALUES (5)", REQ_F_TX));
	good(run_op(b, EXEC_ROLLBACK, 0));
	is_int(count_of(b, "SELECT count(*) FROM l"), 2, "nothing of either is there");

	good(run_leased(b, "INSERT INTO l VALUES (6)", 0));
	is_str(state_of(run_leased(b, "SAVEPOINT s", 0)), "25P01",
		"no savepoint outside a transaction");
	good(run_leased(b, "BEGIN", 0));
	good(run_leased(b, "INSERT INTO l VALUES (7)", 0));
	good(run_leased(b, "ROLLBACK", 0));
	is_int(count_of(b, "SELECT count(*) FROM l"), 3,
		"a session without transaction commits each");

	good(run_leased(b, "INSERT INTO l VALUES (8)", REQ_F_TX));
	is_str(state_of(run_leased(b, "INSERT OR ROLLBACK INTO l VALUES (8)", 0)), "23505",
		"SQLite rolls the transaction back by itself");
	is_str(state_of(run_leased(b, "INSERT INTO l VALUES (9)", 0)), "25P02",
		"then nothing runs outside it by accident");
	is_str(state_of(run_leased(b, "ROLLBACK TO a", 0)), "3B001", "nor does a savepoint remain");
	is_int(run_op(b, EXEC_COMMIT, 0)->job->failure.code, FAIL_TX_ABORTED, "COMMIT fails");
	is_str(state_of(run_leased(b, "INSERT INTO l VALUES (9)", REQ_F_TX | REQ_F_READONLY)),
		"25006", "a read-only transaction refuses to write");
	good(run_op(b, EXEC_RESET, CONN_RESET_ROLLBACK));
	is_int(count_of(b, "SELECT count(*) FROM l"), 3, "reset rolls back");
	box_close(&b);
}

static void test_session(void)
{
	struct box *b = box_open(true);
	struct result *r;

	good(run(b, "CREATE TABLE s (i)"));
	good(run(b, "CREATE TEMP TABLE s (j)"));
	is_str(state_of(run(b, "SELECT i FROM s")), "ok",
		"a temporary table outside a lease is gone at once");
	good(run(b, "PRAGMA foreign_keys=OFF"));
	is_int(count_of(b, "PRAGMA foreign_keys"), 1, "and so is a setting");
	r = good(run_leased(b, "CREATE TEMP TABLE s (j)", 0));
	ok(r->job->dirty, "in a lease it makes the session dirty");
	is_str(state_of(run_leased(b, "SELECT j FROM s", 0)), "ok", "and stays");
	good(run_leased(b, "PRAGMA case_sensitive_like=ON", 0));
	r = good(run_op(b, EXEC_RESET, CONN_RESET_ROLLBACK | CONN_RESET_SESSION));
	ok(!r->job->dirty, "until the reset");
	is_str(state_of(run(b, "SELECT i FROM s")), "ok", "which leaves no table");
	is_int(count_of(b, "SELECT 'A' LIKE 'a'"), 1, "and no setting");
	box_close(&b);
}

/* A statement that keeps the executor busy until it is cancelled. */
#define ENDLESS                                                                                    \
	"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) SELECT max(i) FROM c"

/* Jobs submitted behind it wait together, so that they meet in one group. */
static struct exec_job *block(struct box *b)
{
	struct exec_job *job = send_sql(b, ENDLESS);

	executor_ring(b->ex);
	return job;
}

static void test_group(void)
{
	struct box *b = box_open(true);
	struct exec_job *blocker;
	unsigned failed = 0, groups = 0, members = 0;
	bool ordered = true;

	good(run(b, "CREATE TABLE g (i INTEGER PRIMARY KEY)"));
	blocker = block(b);
	for (int64_t i = 0; i < 50; i++) {
		int64_t v = i == 20 ? 3 : i; /* the 20th is there already */
		struct request_param p = {&v, 8, CELL_INT64};
		struct exec_job *job = make(b, "INSERT INTO g VALUES ($1)", 1, &p);

		job->arg = (void *)(uintptr_t)i;
		executor_submit(b->ex, job);
	}
	executor_cancel(b->ex, blocker);
	is_str(state_of(next_result(b)), "57014", "what stood before the group was cancelled");
	for (uintptr_t i = 0; i < 50; i++) {
		struct result *r = next_result(b);

		ordered &= r->job->arg == (void *)i;
		failed += r->job->failed;
		groups += r->job->group > 0;
		members += r->job->group;
		if (r->job->failed) {
			is_int((int64_t)i, 20, "the one that breaks a rule fails");
		}
	}
	ok(ordered, "answers come in order");
	is_int(failed, 1, "nobody else fails");
	ok(groups >= 1 && members / groups > 1, "%u statements in %u commits", members, groups);
	is_int(count_of(b, "SELECT count(*) FROM g"), 49, "all others are there");
	box_close(&b);
}

/* Members whose failure takes the whole transaction with it. */
static void test_group_lost(void)
{
	struct box *b = box_open(true);
	struct exec_job *blocker;
	const char *const sql[] = {
		"INSERT INTO p VALUES (1)",
		"INSERT OR ROLLBACK INTO p VALUES (1)",
		"INSERT INTO p VALUES (2)",
		"INSERT INTO c VALUES (99)", /* its deferred reference fails at COMMIT */
		"INSERT INTO p VALUES (3)",
		"INSERT OR FAIL INTO p VALUES (4), (3), (5)",
		"INSERT INTO p VALUES (6)",
	};
	const char *const want[] = {"ok", "23505", "ok", "23503", "ok", "23505", "ok"};

	good(run(b, "CREATE TABLE p (i INTEGER PRIMARY KEY)"));
	good(run(b, "CREATE TABLE c (i INTEGER REFERENCES p DEFERRABLE INITIALLY DEFERRED)"));
	blocker = block(b);
	for (size_t i = 0; i < array_size(sql); i++) {
		send_sql(b, sql[i]);
	}
	executor_cancel(b->ex, blocker);
	(void)next_result(b);
	for (size_t i = 0; i < array_size(sql); i++) {
		is_str(state_of(next_result(b)), want[i], "%s", sql[i]);
	}
	is_str(rows_of(run(b, "SELECT group_concat(i) FROM p")), "'1,2,3,6'\n",
		"each has its own effect, once");
	box_close(&b);
}

/* A member that is cancelled in the middle of its write: SQLite rolls everything back. */
static void test_group_cancel(void)
{
	struct box *b = box_open(true);
	struct exec_job *blocker, *victim;
	struct result *r;

	good(run(b, "CREATE TABLE gc (i INTEGER PRIMARY KEY)"));
	blocker = block(b);
	send_sql(b, "INSERT INTO gc VALUES (-1)");
	victim = make(b,
		"INSERT INTO gc WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) "
		"SELECT i FROM c",
		0, NULL);
	victim->deadline_ns = doorbell_now() + 200000000u;
	executor_submit(b->ex, victim);
	send_sql(b, "INSERT INTO gc VALUES (-2)");
	executor_cancel(b->ex, blocker);
	(void)next_result(b);
	is_str(state_of(next_result(b)), "ok", "the one before it is committed");
	r = next_result(b);
	is_int(r->job->failure.code, FAIL_TIMEOUT, "its deadline ends a write");
	is_str(state_of(next_result(b)), "ok", "the one behind it is committed");
	is_str(rows_of(run(b, "SELECT group_concat(i) FROM gc")), "'-2,-1'\n",
		"nothing of it stays");
	box_close(&b);
}

static void test_cancel(void)
{
	struct box *b = box_open(true);
	struct exec_job *job = send_sql(b, ENDLESS), *next;
	struct result *r;

	next = send_sql(b, "SELECT 1");
	executor_ring(b->ex);
	executor_cancel(b->ex, job);
	r = next_result(b);
	is_int(r->job->failure.code, FAIL_CANCELLED, "a statement is cancelled");
	r = next_result(b);
	ok(r->job == next && !r->job->failed, "the next one is not");
	job = make(b, ENDLESS, 0, NULL);
	job->deadline_ns = doorbell_now() + 20000000u;
	r = run_job(b, job);
	is_int(r->job->failure.code, FAIL_TIMEOUT, "a deadline ends a statement");
	good(run_leased(b, "SELECT 1", REQ_F_TX));
	job = make(b, ENDLESS, 0, NULL);
	job->leased = true;
	job->deadline_ns = doorbell_now() + 20000000u;
	r = run_job(b, job);
	is_int(r->job->tx, CONN_TX_FAILED, "in a transaction this fails the transaction");
	good(run_op(b, EXEC_ROLLBACK, 0));
	box_close(&b);
}

/* Rows as "generate_series" would make them. */
#define SERIES(n) "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < " #n ")"

static void test_long_result(void)
{
	struct box *b = box_open(false);
	struct exec_job *job;
	struct result *r;
	struct shm_result_head head;
	struct shm_cell cell;
	uint64_t expect;

	b->hold = true;
	job = send_sql(b, SERIES(20000) " SELECT i, hex(zeroblob(50)) FROM c");
	executor_ring(b->ex);
	until(b, b->nheld == EXEC_BLOCKS);
	ok(b->nended == 0, "the executor waits when %u blocks are not given back", EXEC_BLOCKS);
	b->hold = false;
	while (b->nheld > 0) {
		executor_recycle(b->ex, b->held[--b->nheld]);
	}
	r = next_result(b);
	ok(r->job == job && !r->job->failed, "and goes on when they are");
	is_int((int64_t)r->job->nrows, 20000, "all rows came");
	memcpy(&head, r->stream, sizeof(head));
	expect = head.head_len + 20000u * (8 + 8 + 8 + 8 + 104);
	is_int((int64_t)r->len, (int64_t)expect, "every byte of them");
	ok(b->nblocks == expect / EXEC_BLOCK_SIZE, "in %u blocks", b->nblocks);

	r = run(b, "SELECT replace(hex(zeroblob(1000000)), '00', 'xyz') AS big");
	memcpy(&head, r->stream, sizeof(head));
	memcpy(&cell, r->stream + head.head_len + sizeof(struct shm_row), sizeof(cell));
	ok(cell.len == 3000000 && cell.type == CELL_TEXT, "a value longer than a block is whole");
	ok(memcmp(r->stream + head.head_len + sizeof(struct shm_row) + sizeof(cell) + 2999997,
		   "xyz", 3) == 0,
		"up to its end");

	b->hold = true;
	job = send_sql(b, SERIES(20000) " SELECT i, hex(zeroblob(50)) FROM c");
	executor_ring(b->ex);
	until(b, b->nheld == EXEC_BLOCKS);
	executor_cancel(b->ex, job);
	r = next_result(b);
	is_int(r->job->failure.code, FAIL_CANCELLED, "a cancel ends the wait for blocks");
	while (b->nheld > 0) {
		executor_recycle(b->ex, b->held[--b->nheld]);
	}
	b->hold = false;
	is_str(rows_of(run(b, "SELECT 5")), "5\n", "and leaves nothing behind");
	box_close(&b);
}

static void test_group_overflow(void)
{
	struct box *b = box_open(true);
	struct exec_job *blocker;
	struct result *r;

	good(run(b, "CREATE TABLE o (i INTEGER PRIMARY KEY, t TEXT)"));
	blocker = block(b);
	send_sql(b, "INSERT INTO o VALUES (0, 'first') RETURNING i");
	send_sql(
		b, "INSERT INTO o " SERIES(5000) " SELECT i, hex(zeroblob(20)) FROM c RETURNING *");
	send_sql(b, "INSERT INTO o VALUES (-1, 'last') RETURNING i");
	executor_cancel(b->ex, blocker);
	(void)next_result(b);
	is_str(rows_of(next_result(b)), "0\n", "a member returns rows");
	r = next_result(b);
	ok(!r->job->failed && r->job->nrows == 5000 && r->len > EXEC_BLOCK_SIZE,
		"one with more rows than may be kept back runs by itself");
	is_str(rows_of(next_result(b)), "-1\n", "then the next");
	is_int(count_of(b, "SELECT count(*) FROM o"), 5002, "each ran once");
	box_close(&b);
}

static void test_cache(void)
{
	struct box *b = box_open_at(path, true, false, 2);
	struct result *r;

	good(run(b, "CREATE TABLE k (i)"));
	good(run(b, "INSERT INTO k VALUES (1)"));
	good(run(b, "SELECT * FROM k"));
	r = good(run(b, "SELECT * FROM k"));
	is_int(r->job->hits, 1, "a text is prepared once");
	good(run(b, "ALTER TABLE k ADD COLUMN j DEFAULT 5"));
	r = good(run(b, "SELECT * FROM k"));
	is_str(rows_of(r), "1|5\n", "a schema change is noticed");
	is_str(columns_of(r), "i:4,j:4", "also in the head");
	good(run(b, "SELECT 1"));
	r = good(run(b, "SELECT 2"));
	is_int(r->job->evictions, 1, "the cache is bounded");
	r = good(run(b, "SELECT * FROM k"));
	is_int(r->job->misses, 1, "the least recently used one left it");
	box_close(&b);
	b = box_open_at(path, true, false, 0);
	good(run(b, "SELECT * FROM k"));
	r = good(run(b, "SELECT * FROM k"));
	is_int(r->job->misses, 1, "0 keeps none");
	box_close(&b);
}

static void test_locked(void)
{
	struct box *b = box_open(true);
	sqlite3 *other = NULL;
	struct result *r;

	good(run(b, "CREATE TABLE busy (i)"));
	if (sqlite3_open(path, &other) != SQLITE_OK ||
		sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK) {
		bail_out("cannot lock the database");
	}
	r = run(b, "INSERT INTO busy VALUES (1)");
	is_str(state_of(r), "55P03", "a lock of another process is waited for in vain");
	ok(r->job->failure.retry_safe, "trying again is safe");
	is_str(rows_of(run(b, "SELECT count(*) FROM busy")), "0\n", "reading goes on");
	sqlite3_exec(other, "COMMIT", NULL, NULL, NULL);
	sqlite3_close(other);
	is_str(state_of(run(b, "INSERT INTO busy VALUES (1)")), "ok", "until it is gone");
	box_close(&b);
}

static void test_stop(void)
{
	struct box *b = box_open(true);

	send_sql(b, ENDLESS);
	send_sql(b, "SELECT 1");
	executor_ring(b->ex);
	executor_stop(b->ex);
	until(b, b->exited);
	is_int(b->nended, 2, "every job comes back");
	ok(b->ended[1].dropped, "the one that waited as dropped");
	box_close(&b);

	b = box_open_at("/nowhere/at/all.db", true, false, 8);
	ok(b->failed, "a database that cannot be opened is reported: %s", b->failure.message);
	send_sql(b, "SELECT 1");
	box_close(&b);
	b = box_open_at("/etc/passwd", false, false, 8);
	ok(b->failed, "a file that is no database is reported: %s", b->failure.message);
	is_str(b->failure.sqlstate, geteuid() == 0 ? "XX001" : b->failure.sqlstate, "as corrupt");
	box_close(&b);
}

static void test_memory(void)
{
	static const char uri[] = "file:/test_executor?vfs=memdb";
	sqlite3 *anchor = NULL;
	struct box *b;

	sqlite3_open_v2(uri, &anchor,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX,
		NULL);
	b = box_open_at(uri, true, true, 8);
	good(run(b, "CREATE TABLE m (i)"));
	good(run(b, "INSERT INTO m VALUES (1)"));
	good(run_op(b, EXEC_RESET, CONN_RESET_SESSION));
	is_int(count_of(b, "SELECT count(*) FROM m"), 1, "a database in memory survives a reset");
	box_close(&b);
	b = box_open_at(uri, true, true, 8);
	is_int(count_of(b, "SELECT count(*) FROM m"), 1, "and a new connection");
	box_close(&b);
	sqlite3_close(anchor);
}

/* Readers and the writer start together on a file that does not exist. */
static void test_start_together(void)
{
	char fresh[64];
	struct box *b[4];

	snprintf(fresh, sizeof(fresh), "%s/fresh.db", dir);
	for (int i = 0; i < 4; i++) {
		b[i] = box_open_at(fresh, i == 2, false, 8);
		ok(b[i]->ready, "%s opens: %s", i == 2 ? "writer" : "reader",
			b[i]->failure.message);
	}
	good(run(b[2], "CREATE TABLE t (i)"));
	is_str(rows_of(run(b[0], "SELECT count(*) FROM t")), "0\n",
		"a reader that came first sees what is written");
	is_str(rows_of(run(b[2], "PRAGMA journal_mode")), "'wal'\n", "the file is in WAL mode");
	is_int(count_of(b[2], "PRAGMA synchronous"), 2, "with synchronous=FULL");
	for (int i = 0; i < 4; i++) {
		box_close(&b[i]);
	}
}

/* -- a disk that fails ------------------------------------------------------------------------- */

/*
 * A VFS on top of the system's, whose Nth write or sync of the log fails.  What is not named here
 * goes straight through.
 */
struct bad_file {
	sqlite3_file base;
	bool log;
	sqlite3_file *real;
};

static struct {
	sqlite3_vfs vfs;
	sqlite3_vfs *real;
	_Atomic int countdown; /* operations until one fails; 0: none */
	_Atomic int code; /* with this */
	_Atomic int for_good; /* and all that follow it */
	_Atomic int hits;
} bad;

static bool bad_now(const struct bad_file *f)
{
	if (!f->log || atomic_load(&bad.countdown) <= 0) {
		return false;
	}
	if (atomic_load(&bad.countdown) == 1 && atomic_load(&bad.for_good)) {
		atomic_fetch_add(&bad.hits, 1);
		return true;
	}
	if (atomic_fetch_sub(&bad.countdown, 1) != 1) {
		return false;
	}
	atomic_fetch_add(&bad.hits, 1);
	return true;
}

#define REAL(f) (((struct bad_file *)(f))->real)
#define CALL_REAL(f, method, ...) REAL(f)->pMethods->method(REAL(f), ##__VA_ARGS__)

static int bad_close(sqlite3_file *f)
{
	int rc = REAL(f)->pMethods != NULL ? CALL_REAL(f, xClose) : SQLITE_OK;

	free(REAL(f));
	return rc;
}
static int bad_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
	return CALL_REAL(f, xRead, p, n, at);
}
static int bad_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
	return bad_now((struct bad_file *)f) ? atomic_load(&bad.code)
					     : CALL_REAL(f, xWrite, p, n, at);
}
static int bad_truncate(sqlite3_file *f, sqlite3_int64 n)
{
	return CALL_REAL(f, xTruncate, n);
}
static int bad_sync(sqlite3_file *f, int flags)
{
	return bad_now((struct bad_file *)f) ? SQLITE_IOERR_FSYNC : CALL_REAL(f, xSync, flags);
}
static int bad_size(sqlite3_file *f, sqlite3_int64 *n)
{
	return CALL_REAL(f, xFileSize, n);
}
static int bad_lock(sqlite3_file *f, int how)
{
	return CALL_REAL(f, xLock, how);
}
static int bad_unlock(sqlite3_file *f, int how)
{
	return CALL_REAL(f, xUnlock, how);
}
static int bad_reserved(sqlite3_file *f, int *out)
{
	return CALL_REAL(f, xCheckReservedLock, out);
}
static int bad_control(sqlite3_file *f, int op, void *arg)
{
	return CALL_REAL(f, xFileControl, op, arg);
}
static int bad_sector(sqlite3_file *f)
{
	return CALL_REAL(f, xSectorSize);
}
static int bad_device(sqlite3_file *f)
{
	return CALL_REAL(f, xDeviceCharacteristics);
}
static int bad_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **out)
{
	return CALL_REAL(f, xShmMap, page, size, extend, out);
}
static int bad_shm_lock(sqlite3_file *f, int at, int n, int flags)
{
	return CALL_REAL(f, xShmLock, at, n, flags);
}
static void bad_shm_barrier(sqlite3_file *f)
{
	CALL_REAL(f, xShmBarrier);
}
static int bad_shm_unmap(sqlite3_file *f, int erase)
{
	return CALL_REAL(f, xShmUnmap, erase);
}

static const sqlite3_io_methods bad_methods = {
	.iVersion = 2,
	.xClose = bad_close,
	.xRead = bad_read,
	.xWrite = bad_write,
	.xTruncate = bad_truncate,
	.xSync = bad_sync,
	.xFileSize = bad_size,
	.xLock = bad_lock,
	.xUnlock = bad_unlock,
	.xCheckReservedLock = bad_reserved,
	.xFileControl = bad_control,
	.xSectorSize = bad_sector,
	.xDeviceCharacteristics = bad_device,
	.xShmMap = bad_shm_map,
	.xShmLock = bad_shm_lock,
	.xShmBarrier = bad_shm_barrier,
	.xShmUnmap = bad_shm_unmap,
};

static int bad_open(sqlite3_vfs *v, sqlite3_filename name, sqlite3_file *f, int flags, int *out)
{
	struct bad_file *file = (struct bad_file *)f;
	int rc;

	(void)v;
	file->base.pMethods = NULL;
	file->log = (flags & SQLITE_OPEN_WAL) != 0;
	file->real = calloc(1, (size_t)bad.real->szOsFile);
	rc = bad.real->xOpen(bad.real, name, file->real, flags, out);
	if (rc == SQLITE_OK) {
		file->base.pMethods = &bad_methods;
	} else {
		free(file->real);
	}
	return rc;
}

static void make_bad_vfs(void)
{
	bad.real = sqlite3_vfs_find(NULL);
	bad.vfs = *bad.real;
	bad.vfs.zName = "bad";
	bad.vfs.szOsFile = sizeof(struct bad_file);
	bad.vfs.xOpen = bad_open;
	sqlite3_vfs_register(&bad.vfs, 1); /* the default for what is opened from now on */
}

/* The ids that a fresh connection finds, as "1,3". */
static const char *ids_on_disk(void)
{
	struct box *b = box_open(false);
	static char buf[256];

	snprintf(buf, sizeof(buf), "%s",
		rows_of(good(run(b, "SELECT group_concat(i) FROM "
				    "(SELECT i FROM d ORDER BY i)"))));
	box_close(&b);
	return buf;
}

/* One try: three inserts in a group, the nth operation on the log fails.  false: none was left. */
static bool try_bad_disk(int n, int code, bool *honest)
{
	struct box *b = box_open(true);
	struct exec_job *blocker;
	char want[64] = "";
	bool hit, unknown = false;

	good(run(b, "DROP TABLE IF EXISTS d"));
	good(run(b, "CREATE TABLE d (i INTEGER PRIMARY KEY, t)"));
	blocker = block(b);
	for (int i = 1; i <= 3; i++) {
		char sql[80];

		snprintf(sql, sizeof(sql), "INSERT INTO d VALUES (%d, hex(zeroblob(3000)))", i);
		send_sql(b, sql);
	}
	atomic_store(&bad.hits, 0);
	atomic_store(&bad.code, code);
	atomic_store(&bad.countdown, n);
	executor_cancel(b->ex, blocker);
	(void)next_result(b);
	for (int i = 1; i <= 3; i++) {
		struct result *r = next_result(b);

		unknown |= r->job->failed && r->job->failure.unknown;
		if (!r->job->failed) {
			snprintf(want + strlen(want), sizeof(want) - strlen(want), "%s%d",
				want[0] != '\0' ? "," : "", i);
		}
	}
	atomic_store(&bad.countdown, 0);
	hit = atomic_load(&bad.hits) > 0;
	/* The writer goes on, and what was answered is what is there. */
	*honest &= strcmp(state_of(run(b, "INSERT INTO d VALUES (9, 0)")), "ok") == 0;
	snprintf(want + strlen(want), sizeof(want) - strlen(want), "%s9",
		want[0] != '\0' ? "," : "");
	box_close(&b);
	if (!unknown) {
		char line[80];

		snprintf(line, sizeof(line), "'%s'\n", want);
		*honest &= strcmp(ids_on_disk(), line) == 0;
	}
	return hit;
}

static void test_bad_disk(void)
{
	static const struct {
		int code;
		bool for_good;
		const char *name;
	} kinds[] = {
		{SQLITE_FULL, false, "full for a moment"},
		{SQLITE_FULL, true, "full"},
		{SQLITE_IOERR_WRITE, false, "broken for a moment"},
		{SQLITE_IOERR_WRITE, true, "broken"},
	};

	make_bad_vfs();
	for (size_t k = 0; k < array_size(kinds); k++) {
		bool honest = true;
		int n = 1;

		atomic_store(&bad.for_good, kinds[k].for_good);
		while (n < 200 && try_bad_disk(n, kinds[k].code, &honest)) {
			n++;
		}
		ok(n > 3 && n < 200, "a disk that is %s at each of %d places", kinds[k].name,
			n - 1);
		ok(honest, "never makes an answer untrue");
	}
	sqlite3_vfs_unregister(&bad.vfs);
}

static void clean_up(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	if (system(cmd) != 0) {
		diag("%s could not be removed", dir);
	}
}

int main(void)
{
	if (mkdtemp(dir) == NULL) {
		bail_out("no temporary directory");
	}
	atexit(clean_up);
	snprintf(path, sizeof(path), "%s/test.db", dir);
	test_values();
	test_placeholders();
	test_failures();
	test_readonly();
	test_lease();
	test_session();
	test_group();
	test_group_lost();
	test_group_cancel();
	test_cancel();
	test_long_result();
	test_group_overflow();
	test_cache();
	test_locked();
	test_stop();
	test_memory();
	test_start_together();
	test_bad_disk();
	return done_testing();
}
