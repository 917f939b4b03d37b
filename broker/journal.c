/* SPDX-License-Identifier: MIT */
/*
 * journal.c - see journal.h: the tables, the writer and the reader.  What is accepted is judged in
 * journal_rule.c.
 */
#include "journal.h"

#include "atomics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define PARAMS_VERSION 1u

enum journal_text {
	TEXT_APPEND,
	TEXT_REACH, /* highest id of the pool */
	TEXT_READ,
	TEXT_FIRST,
	TEXT_EVER,
	TEXT_TIME,
	TEXT_FORGOTTEN,
	TEXT_REMEMBER,
	TEXT_FORGET,
	TEXT_COUNT
};

struct journal {
	sqlite3 *db;
	const char *pool;
	struct journal_tail *tail;
	sqlite3_stmt *stmt[TEXT_COUNT];
	char origin[33];

	/* writer */
	int64_t tx; /* of the transaction under way; 0: it has no row yet */
	bool appended; /* since the last commit */
	uint64_t reach; /* before the COMMIT: the highest id */
	int64_t began_us; /* the statement */
	struct journal_digest digest; /* of what it returned */

	/* encoded or decoded parameters */
	unsigned char *buf;
	size_t cap;
	struct request_param *params;
	unsigned nparams;
};

static const char tables[] =
	"CREATE TABLE IF NOT EXISTS broker_journal (id INTEGER PRIMARY KEY AUTOINCREMENT, "
	"tx INTEGER NOT NULL, pool TEXT NOT NULL, statement TEXT NOT NULL, params BLOB, rows "
	"INTEGER, "
	"returned BLOB, tag TEXT NOT NULL, worker TEXT NOT NULL, pid INTEGER NOT NULL, "
	"at INTEGER NOT NULL);"
	"CREATE TABLE IF NOT EXISTS broker_journal_origin (pool TEXT PRIMARY KEY, origin TEXT NOT "
	"NULL, forgotten INTEGER NOT NULL DEFAULT 0)";

static const char *const texts[TEXT_COUNT] = {
	/* A transaction is numbered after the first row it tries to have; no row that stays can
	 * have had that number before, and the next transaction starts behind all that stay. */
	[TEXT_APPEND] =
		"INSERT INTO broker_journal (tx, pool, statement, params, rows, returned, tag, "
		"worker, pid, at) VALUES (CASE WHEN ?1 > 0 THEN ?1 ELSE (SELECT "
		"coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'broker_journal') "
		"END, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
	[TEXT_REACH] = "SELECT id FROM broker_journal WHERE pool = ?1 ORDER BY id DESC LIMIT 1",
	[TEXT_READ] = "SELECT id, tx, statement, params, rows, returned, tag, worker, pid, at "
		      "FROM broker_journal WHERE pool = ?1 AND id > ?2 ORDER BY id",
	[TEXT_FIRST] = "SELECT id FROM broker_journal WHERE pool = ?1 ORDER BY id LIMIT 1",
	[TEXT_EVER] =
		"SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'broker_journal'",
	[TEXT_TIME] = "SELECT at FROM broker_journal WHERE pool = ?1 AND id = ?2",
	[TEXT_FORGOTTEN] = "SELECT forgotten FROM broker_journal_origin WHERE pool = ?1",
	[TEXT_REMEMBER] = "UPDATE broker_journal_origin SET forgotten = max(forgotten, ?2) "
			  "WHERE pool = ?1",
	[TEXT_FORGET] = "DELETE FROM broker_journal WHERE pool = ?1 AND id <= ?2",
};

/* -- small things ------------------------------------------------------------------------------ */

static int fail(struct journal *j, int rc, struct sqlite_failure *f)
{
	sqlite_failure_from(f, j->db, rc);
	return -1;
}

static bool reserve(struct journal *j, size_t size)
{
	unsigned char *buf;

	if (size <= j->cap) {
		return true;
	}
	buf = realloc(j->buf, size);
	if (buf == NULL) {
		return false;
	}
	j->buf = buf;
	j->cap = size;
	return true;
}

static unsigned char *put_little(unsigned char *at, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++) {
		*at++ = (unsigned char)(v >> (8 * i));
	}
	return at;
}

static uint64_t get_little(const unsigned char *at, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++) {
		v |= (uint64_t)at[i] << (8 * i);
	}
	return v;
}

/* Run a statement that gives at most one number. */
static int one_number(struct journal *j, sqlite3_stmt *stmt, int64_t *out, struct sqlite_failure *f)
{
	int rc = sqlite3_step(stmt);

	*out = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
	(void)sqlite3_reset(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : fail(j, rc, f);
}

/* -- digests ----------------------------------------------------------------------------------- */

/* The finalizer of splitmix64: a sum of its values tells which numbers there were, in any order. */
static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static bool digest_reach(struct journal_digest *d, unsigned column)
{
	if (column >= JOURNAL_DIGEST_COLUMNS) {
		return false;
	}
	while (d->ncolumns <= column) {
		d->column[d->ncolumns].whole = true;
		d->column[d->ncolumns].sum = 0;
		d->ncolumns++;
	}
	return true;
}

void journal_digest_number(struct journal_digest *d, unsigned column, int64_t v)
{
	if (digest_reach(d, column)) {
		d->column[column].sum += mix((uint64_t)v);
	}
}

void journal_digest_null(struct journal_digest *d, unsigned column)
{
	if (digest_reach(d, column)) {
		d->column[column].sum += UINT64_C(0x6a09e667f3bcc909);
	}
}

void journal_digest_other(struct journal_digest *d, unsigned column)
{
	if (digest_reach(d, column)) {
		d->column[column].whole = false;
	}
}

#define DIGEST_BYTES 9u /* of a column */

static size_t digest_encode(const struct journal_digest *d, unsigned char *buf)
{
	unsigned char *at = buf;

	for (unsigned i = 0; i < d->ncolumns; i++) {
		*at++ = d->column[i].whole;
		at = put_little(at, d->column[i].sum, 8);
	}
	return (size_t)(at - buf);
}

static void digest_decode(struct journal_digest *d, const unsigned char *buf, size_t len)
{
	d->ncolumns = 0;
	while (len >= DIGEST_BYTES && d->ncolumns < JOURNAL_DIGEST_COLUMNS) {
		d->column[d->ncolumns].whole = buf[0] != 0;
		d->column[d->ncolumns].sum = get_little(buf + 1, 8);
		d->ncolumns++;
		buf += DIGEST_BYTES;
		len -= DIGEST_BYTES;
	}
}

/* -- parameters -------------------------------------------------------------------------------- */

/* Bytes of a value of fixed size; 0 for NULL; -1 for those with a length. */
static int fixed_bytes(unsigned type)
{
	switch (type) {
	case CELL_NULL:
		return 0;
	case CELL_BOOL:
		return 1;
	case CELL_INT64:
	case CELL_DOUBLE:
	case CELL_TIMESTAMP:
		return 8;
	default:
		return -1;
	}
}

static int encode_params(
	struct journal *j, unsigned nparams, const struct request_param *params, size_t *len)
{
	size_t size = 1;
	unsigned char *at;

	for (unsigned i = 0; i < nparams; i++) {
		size += 1 + 8 + (size_t)params[i].len;
	}
	if (!reserve(j, size)) {
		return -1;
	}
	at = j->buf;
	*at++ = PARAMS_VERSION;
	for (unsigned i = 0; i < nparams; i++) {
		const struct request_param *p = &params[i];
		int fixed = fixed_bytes(p->type);
		uint64_t v = 0;

		*at++ = (unsigned char)p->type;
		if (fixed < 0) {
			at = put_little(at, p->len, 4);
			if (p->len > 0) {
				memcpy(at, p->data, p->len);
			}
			at += p->len;
		} else if (fixed == 8) {
			memcpy(&v, p->data, sizeof(v));
			at = put_little(at, v, 8);
		} else if (fixed == 1) {
			*at++ = *(const unsigned char *)p->data != 0;
		}
	}
	*len = (size_t)(at - j->buf);
	return 0;
}

static bool want_params(struct journal *j, unsigned n)
{
	struct request_param *p;

	if (n <= j->nparams) {
		return true;
	}
	n = n < 16 ? 16 : n * 2;
	p = realloc(j->params, n * sizeof(*p));
	if (p == NULL) {
		return false;
	}
	j->params = p;
	j->nparams = n;
	return true;
}

struct cursor {
	const unsigned char *at, *end;
};

/* The next value: 1; 0: there are no more; -1: this is no journal's work. */
static int take_param(struct cursor *c, unsigned *type, const unsigned char **value, size_t *len)
{
	int fixed;

	if (c->at == c->end) {
		return 0;
	}
	*type = *c->at++;
	fixed = fixed_bytes(*type);
	*len = (size_t)fixed;
	if (fixed < 0) {
		if (*type >= CELL_TYPE_COUNT || c->end - c->at < 4) {
			return -1;
		}
		*len = (size_t)get_little(c->at, 4);
		c->at += 4;
	}
	if ((size_t)(c->end - c->at) < *len) {
		return -1;
	}
	*value = c->at;
	c->at += *len;
	return 1;
}

/* How many there are, -1: damaged. */
static int64_t count_params(struct cursor c)
{
	const unsigned char *value;
	unsigned type;
	size_t len;
	int64_t n = 0;
	int more;

	if (c.at == c.end || *c.at++ != PARAMS_VERSION) {
		return -1;
	}
	while ((more = take_param(&c, &type, &value, &len)) > 0) {
		n++;
	}
	return more < 0 || n > (int64_t)CHAN_MAX_PARAMS ? -1 : n;
}

/* Texts stay in the row, numbers go to j->buf in host order and aligned.  -1: out of memory. */
static int decode_params(
	struct journal *j, struct journal_entry *e, const unsigned char *in, size_t size)
{
	struct cursor c = {in, in + size};
	int64_t n = count_params(c);
	const unsigned char *value;
	size_t len;
	unsigned type;

	e->damaged = n < 0;
	if (n <= 0) {
		return 0;
	}
	if (!want_params(j, (unsigned)n) || !reserve(j, 8 * (size_t)n)) {
		return -1;
	}
	c.at++; /* the version */
	while (take_param(&c, &type, &value, &len) > 0) {
		unsigned char *number = j->buf + 8 * (size_t)e->nparams;
		uint64_t v = len == 8 ? get_little(value, 8) : 0;
		bool is_number = fixed_bytes(type) > 0;

		if (is_number && len == 8) {
			memcpy(number, &v, sizeof(v));
		} else if (is_number) {
			*number = *value;
		}
		j->params[e->nparams++] = (struct request_param){
			.data = is_number ? number : value, .len = (uint32_t)len, .type = type};
	}
	e->params = j->params;
	return 0;
}

/* -- opening ----------------------------------------------------------------------------------- */

static int run_text(struct journal *j, const char *sql, struct sqlite_failure *f)
{
	int rc = sqlite3_exec(j->db, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK ? 0 : fail(j, rc, f);
}

/* 1: known; 0: there is none, or no table; -1 and *f. */
static int read_origin(struct journal *j, struct sqlite_failure *f)
{
	static const char sql[] = "SELECT origin FROM broker_journal_origin WHERE pool = ?1";
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(j->db, sql, -1, &stmt, NULL);

	if (rc != SQLITE_OK) {
		return (rc & 0xff) == SQLITE_ERROR ? 0 : fail(j, rc, f); /* no such table */
	}
	sqlite3_bind_text(stmt, 1, j->pool, -1, SQLITE_STATIC);
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		const char *origin = (const char *)sqlite3_column_text(stmt, 0);

		snprintf(j->origin, sizeof(j->origin), "%s", origin != NULL ? origin : "");
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : fail(j, rc, f);
}

static int write_origin(struct journal *j, const char *how, struct sqlite_failure *f)
{
	char sql[160];
	sqlite3_stmt *stmt = NULL;
	int rc;

	snprintf(sql, sizeof(sql),
		"INSERT OR %s INTO broker_journal_origin (pool, origin) "
		"VALUES (?1, lower(hex(randomblob(16))))",
		how);
	rc = sqlite3_prepare_v2(j->db, sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_bind_text(stmt, 1, j->pool, -1, SQLITE_STATIC);
		rc = sqlite3_step(stmt);
		sqlite3_finalize(stmt);
	}
	return rc == SQLITE_DONE ? 0 : fail(j, rc, f);
}

/* Two handles may do this at the same time: the second finds what the first has made. */
static int prepare_origin(struct journal *j, struct sqlite_failure *f)
{
	int known = read_origin(j, f);

	if (known == 0) {
		if (run_text(j, tables, f) < 0 || write_origin(j, "IGNORE", f) < 0) {
			return -1;
		}
		known = read_origin(j, f);
	}
	return known < 0 ? -1 : 0;
}

int journal_new_origin(struct journal *j, struct sqlite_failure *f)
{
	return write_origin(j, "REPLACE", f) < 0 || read_origin(j, f) < 0 ? -1 : 0;
}

const char *journal_origin(const struct journal *j)
{
	return j->origin;
}

static int prepare_texts(struct journal *j, struct sqlite_failure *f)
{
	for (unsigned i = 0; i < TEXT_COUNT; i++) {
		int rc = sqlite3_prepare_v3(
			j->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT, &j->stmt[i], NULL);

		if (rc != SQLITE_OK) {
			return fail(j, rc, f);
		}
		if (sqlite3_bind_parameter_count(j->stmt[i]) > 0) {
			sqlite3_bind_text(
				j->stmt[i], i == TEXT_APPEND ? 2 : 1, j->pool, -1, SQLITE_STATIC);
		}
	}
	return 0;
}

int journal_open(sqlite3 *db, const char *pool, struct journal_tail *tail, struct journal **out,
	struct sqlite_failure *f)
{
	struct journal *j = calloc(1, sizeof(*j));
	int64_t last;

	if (j == NULL) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		return -1;
	}
	j->db = db;
	j->pool = pool;
	j->tail = tail;
	if (prepare_origin(j, f) < 0 || prepare_texts(j, f) < 0 ||
		one_number(j, j->stmt[TEXT_REACH], &last, f) < 0) {
		journal_close(&j);
		return -1;
	}
	if (tail != NULL && (uint64_t)last > get(&tail->last)) {
		publish(&tail->last, (uint64_t)last);
	}
	*out = j;
	return 0;
}

void journal_close(struct journal **j)
{
	if (*j == NULL) {
		return;
	}
	for (unsigned i = 0; i < TEXT_COUNT; i++) {
		sqlite3_finalize((*j)->stmt[i]);
	}
	free((*j)->buf);
	free((*j)->params);
	free(*j);
	*j = NULL;
}

static int look(sqlite3 *db, const char *pool, int64_t *before, int64_t *last)
{
	static const char sql[] =
		"SELECT coalesce(min(id) - 1, e.seq), coalesce(max(id), e.seq) "
		"FROM (SELECT coalesce(max(seq), 0) AS seq FROM sqlite_sequence "
		"WHERE name = 'broker_journal') AS e LEFT JOIN broker_journal ON pool = ?1";
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);

	if (rc != SQLITE_OK) {
		/* No such table: SQLite has no code of its own for it. */
		return rc == SQLITE_ERROR ? SQLITE_OK : rc;
	}
	sqlite3_bind_text(stmt, 1, pool, -1, SQLITE_STATIC);
	rc = sqlite3_step(stmt);
	if (rc == SQLITE_ROW) {
		*before = sqlite3_column_int64(stmt, 0);
		*last = sqlite3_column_int64(stmt, 1);
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int journal_look(const char *path, const char *pool, int64_t *before, int64_t *last,
	struct sqlite_failure *f)
{
	sqlite3 *db = NULL;
	struct stat st;
	int rc;

	*before = *last = 0;
	if (stat(path, &st) < 0 || st.st_size == 0) {
		return 0; /* if it is there and cannot be read, opening it for work says so */
	}
	/* Writable: a log that the last broker left must be recovered to be read. */
	rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_busy_timeout(db, 100); /* the caller is the I/O thread */
		rc = look(db, pool, before, last);
	}
	if (rc != SQLITE_OK) {
		sqlite_failure_from(f, db, rc);
	}
	sqlite3_close(db);
	return rc == SQLITE_OK ? 0 : -1;
}

/* -- the writer -------------------------------------------------------------------------------- */

void journal_next_transaction(struct journal *j)
{
	j->tx = 0;
}

void journal_statement_begins(struct journal *j)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	j->began_us = (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
	j->digest.ncolumns = 0;
}

void journal_returned(struct journal *j, unsigned ncells, const struct stream_cell *cells)
{
	for (unsigned i = 0; i < ncells && i < JOURNAL_DIGEST_COLUMNS; i++) {
		int64_t v;

		if (cells[i].type == CELL_INT64) {
			memcpy(&v, cells[i].data, sizeof(v));
			journal_digest_number(&j->digest, i, v);
		} else if (cells[i].type == CELL_NULL) {
			journal_digest_null(&j->digest, i);
		} else {
			journal_digest_other(&j->digest, i);
		}
	}
}

static void bind_who(sqlite3_stmt *stmt, const struct journal_source *who)
{
	sqlite3_bind_text(stmt, 7, who != NULL ? who->tag : "", -1, SQLITE_STATIC);
	sqlite3_bind_text(stmt, 8, who != NULL ? who->worker : "", -1, SQLITE_STATIC);
	sqlite3_bind_int(stmt, 9, who != NULL ? who->pid : 0);
}

/* The number that the transaction got with its first row. */
static int64_t tx_of_row(struct journal *j, sqlite3_int64 id)
{
	return j->tx != 0 ? j->tx : id;
}

int journal_append(struct journal *j, const struct journal_source *who, const char *text,
	size_t len, unsigned nparams, const struct request_param *params, int64_t rows,
	struct sqlite_failure *f)
{
	sqlite3_stmt *stmt = j->stmt[TEXT_APPEND];
	unsigned char digest[JOURNAL_DIGEST_COLUMNS * DIGEST_BYTES];
	sqlite3_int64 rowid = sqlite3_last_insert_rowid(j->db);
	size_t params_len = 0;
	int rc;

	if (nparams > 0 && encode_params(j, nparams, params, &params_len) < 0) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		return -1;
	}
	sqlite3_bind_int64(stmt, 1, j->tx);
	sqlite3_bind_text64(stmt, 3, text, len, SQLITE_STATIC, SQLITE_UTF8);
	sqlite3_bind_blob64(stmt, 4, nparams > 0 ? j->buf : NULL, params_len, SQLITE_STATIC);
	if (rows >= 0) {
		sqlite3_bind_int64(stmt, 5, rows);
	} else {
		sqlite3_bind_null(stmt, 5);
	}
	sqlite3_bind_blob(stmt, 6, j->digest.ncolumns > 0 ? digest : NULL,
		(int)digest_encode(&j->digest, digest), SQLITE_STATIC);
	bind_who(stmt, who);
	sqlite3_bind_int64(stmt, 10, j->began_us);
	rc = sqlite3_step(stmt);
	(void)sqlite3_reset(stmt); /* repeats rc */
	if (rc != SQLITE_DONE) {
		return fail(j, rc, f);
	}
	j->tx = tx_of_row(j, sqlite3_last_insert_rowid(j->db));
	j->appended = true;
	/* The worker may ask for it; the journal's own is nobody's. */
	sqlite3_set_last_insert_rowid(j->db, rowid);
	return 0;
}

/* A savepoint may have undone what was appended last, so the file is asked. */
void journal_before_commit(struct journal *j)
{
	struct sqlite_failure ignored; /* the COMMIT fails then, too */
	int64_t last;

	j->reach = 0;
	if (j->appended && one_number(j, j->stmt[TEXT_REACH], &last, &ignored) == 0) {
		j->reach = (uint64_t)last;
	}
	j->appended = false;
}

void journal_committed(struct journal *j)
{
	if (j->tail != NULL && j->reach > get(&j->tail->last)) {
		publish(&j->tail->last, j->reach);
	}
	j->reach = 0;
	j->tx = 0;
}

/* -- the reader -------------------------------------------------------------------------------- */

void journal_seek(struct journal *j, int64_t after)
{
	(void)sqlite3_reset(j->stmt[TEXT_READ]);
	sqlite3_bind_int64(j->stmt[TEXT_READ], 2, after);
}

static const char *text_column(sqlite3_stmt *stmt, int i)
{
	const char *text = (const char *)sqlite3_column_text(stmt, i);

	return text != NULL ? text : "";
}

int journal_next(struct journal *j, struct journal_entry *e, struct sqlite_failure *f)
{
	sqlite3_stmt *stmt = j->stmt[TEXT_READ];
	int rc = sqlite3_step(stmt);

	if (rc != SQLITE_ROW) {
		return rc == SQLITE_DONE ? 0 : fail(j, rc, f);
	}
	*e = (struct journal_entry){
		.id = sqlite3_column_int64(stmt, 0),
		.tx = sqlite3_column_int64(stmt, 1),
		.text = text_column(stmt, 2),
		.len = (size_t)sqlite3_column_bytes(stmt, 2),
		.rows = sqlite3_column_type(stmt, 4) != SQLITE_NULL ? sqlite3_column_int64(stmt, 4)
								    : -1,
		.tag = text_column(stmt, 6),
		.worker = text_column(stmt, 7),
		.pid = sqlite3_column_int(stmt, 8),
		.at_us = sqlite3_column_int64(stmt, 9),
	};
	if (sqlite3_column_bytes(stmt, 3) > 0 &&
		decode_params(j, e, sqlite3_column_blob(stmt, 3),
			(size_t)sqlite3_column_bytes(stmt, 3)) < 0) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		return -1;
	}
	if (sqlite3_column_bytes(stmt, 5) > 0) {
		digest_decode(&e->returned, sqlite3_column_blob(stmt, 5),
			(size_t)sqlite3_column_bytes(stmt, 5));
	}
	return 1;
}

void journal_rest(struct journal *j)
{
	(void)sqlite3_reset(j->stmt[TEXT_READ]);
}

int journal_extent(
	struct journal *j, int64_t *first, int64_t *last, int64_t *ever, struct sqlite_failure *f)
{
	return one_number(j, j->stmt[TEXT_FIRST], first, f) < 0 ||
			       one_number(j, j->stmt[TEXT_REACH], last, f) < 0 ||
			       one_number(j, j->stmt[TEXT_EVER], ever, f) < 0
		       ? -1
		       : 0;
}

int journal_time_of(struct journal *j, int64_t id, int64_t *at_us, struct sqlite_failure *f)
{
	sqlite3_bind_int64(j->stmt[TEXT_TIME], 2, id);
	return one_number(j, j->stmt[TEXT_TIME], at_us, f);
}

int journal_forget(struct journal *j, int64_t id, struct sqlite_failure *f)
{
	int64_t none;

	sqlite3_bind_int64(j->stmt[TEXT_FORGET], 2, id);
	sqlite3_bind_int64(j->stmt[TEXT_REMEMBER], 2, id);
	if (run_text(j, "BEGIN IMMEDIATE", f) < 0) {
		return -1;
	}
	if (one_number(j, j->stmt[TEXT_FORGET], &none, f) < 0 ||
		one_number(j, j->stmt[TEXT_REMEMBER], &none, f) < 0 ||
		run_text(j, "COMMIT", f) < 0) {
		(void)sqlite3_exec(j->db, "ROLLBACK", NULL, NULL, NULL);
		return -1;
	}
	return 0;
}

int journal_forgotten(struct journal *j, int64_t *id, struct sqlite_failure *f)
{
	return one_number(j, j->stmt[TEXT_FORGOTTEN], id, f);
}
