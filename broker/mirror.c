/* SPDX-License-Identifier: MIT */
/* mirror.c - see mirror.h. */
#include "mirror.h"

#include "journal.h"
#include "log.h"
#include "mirror_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mirror {
	sqlite3 *db;
	char *const *sources;
	unsigned ntables;
	struct mirror_table *tables; /* of the refresh under way */
	uint64_t *counts; /* rows of each */
	struct courier_failure failure;
	int64_t snapshot_us; /* of the refresh under way */
	int64_t copied_at;
	uint64_t rows, changed;
};

/* -- failing ----------------------------------------------------------------------------------- */

static int fail(struct mirror *m, const char *sqlstate, const char *text)
{
	snprintf(m->failure.sqlstate, sizeof(m->failure.sqlstate), "%s", sqlstate);
	snprintf(m->failure.text, sizeof(m->failure.text), "%.479s", text);
	return -1;
}

static int fail_sqlite(struct mirror *m, int rc)
{
	struct sqlite_failure f;

	sqlite_failure_from(&f, m->db, rc);
	return fail(m, f.sqlstate, f.message);
}

static int fail_pg(struct mirror *m, const struct pgcall *pg)
{
	return fail(m, pg->sqlstate, pg->why);
}

const struct courier_failure *mirror_failure(const struct mirror *m)
{
	return &m->failure;
}

int64_t mirror_copied_at(const struct mirror *m)
{
	return m->copied_at;
}

uint64_t mirror_rows(const struct mirror *m)
{
	return m->rows;
}

uint64_t mirror_changed(const struct mirror *m)
{
	return m->changed;
}

/* -- SQLite ------------------------------------------------------------------------------------ */

/* sql: a format of sqlite3_mprintf. */
static int run(struct mirror *m, const char *sql, ...)
{
	va_list ap;
	char *text;
	int rc = SQLITE_NOMEM;

	va_start(ap, sql);
	text = sqlite3_vmprintf(sql, ap);
	va_end(ap);
	if (text != NULL) {
		rc = sqlite3_exec(m->db, text, NULL, NULL, NULL);
	}
	sqlite3_free(text);
	return rc == SQLITE_OK ? 0 : fail_sqlite(m, rc);
}

/* The first column of the first row; 0 if there is none, or no such table. */
static int64_t number(struct mirror *m, const char *sql, const char *param)
{
	sqlite3_stmt *stmt = NULL;
	int64_t v = 0;

	if (sqlite3_prepare_v2(m->db, sql, -1, &stmt, NULL) == SQLITE_OK) {
		if (param != NULL) {
			sqlite3_bind_text(stmt, 1, param, -1, SQLITE_STATIC);
		}
		if (sqlite3_step(stmt) == SQLITE_ROW) {
			v = sqlite3_column_int64(stmt, 0);
		}
	}
	sqlite3_finalize(stmt);
	return v;
}

static void roll_back(struct mirror *m)
{
	if (sqlite3_get_autocommit(m->db) == 0) {
		(void)sqlite3_exec(m->db, "ROLLBACK", NULL, NULL, NULL);
	}
}

/* The oldest copy; 0 if a table of the configuration has none. */
static int64_t oldest_copy(struct mirror *m)
{
	int64_t oldest = 0;

	for (unsigned i = 0; i < m->ntables; i++) {
		int64_t at = number(
			m, "SELECT copied_at FROM broker_mirror WHERE source = ?1", m->sources[i]);

		if (at == 0) {
			return 0;
		}
		oldest = oldest == 0 || at < oldest ? at : oldest;
	}
	return oldest;
}

struct mirror *mirror_create(sqlite3 *db, char *const *tables, unsigned ntables)
{
	struct mirror *m = calloc(1, sizeof(*m));

	if (m == NULL) {
		return NULL;
	}
	m->db = db;
	m->sources = tables;
	m->ntables = ntables;
	m->tables = calloc(ntables, sizeof(*m->tables));
	m->counts = calloc(ntables, sizeof(*m->counts));
	if (m->tables == NULL || m->counts == NULL) {
		mirror_destroy(&m);
		return NULL;
	}
	m->copied_at = oldest_copy(m);
	return m;
}

void mirror_destroy(struct mirror **m)
{
	if (*m != NULL) {
		free((*m)->tables);
		free((*m)->counts);
		free(*m);
		*m = NULL;
	}
}

/* -- from PostgreSQL to the stage -------------------------------------------------------------- */

/* What a standby shows is as old as what it has replayed, unless it has everything. */
static int begin_snapshot(struct mirror *m, struct pgcall *pg)
{
	PGresult *res;

	if (pgcall_do(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") < 0) {
		return fail_pg(m, pg);
	}
	res = pgcall_run(pg,
		"SELECT (extract(epoch FROM CASE WHEN pg_is_in_recovery() AND "
		"pg_last_wal_receive_lsn() IS DISTINCT FROM pg_last_wal_replay_lsn() "
		"THEN coalesce(pg_last_xact_replay_timestamp(), now()) ELSE now() END) * "
		"1000000)::bigint",
		0, NULL);
	if (res == NULL || pgcall_is_error(pg, res)) {
		PQclear(res);
		return fail_pg(m, pg);
	}
	m->snapshot_us = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	return 0;
}

static int read_definitions(struct mirror *m, struct pgcall *pg)
{
	for (unsigned i = 0; i < m->ntables; i++) {
		if (mirror_table_read(pg, m->sources[i], &m->tables[i]) < 0) {
			return fail_pg(m, pg);
		}
		if (journal_owns_table(m->tables[i].name)) {
			return fail(
				m, "42P07", "a table of the mirror has a name of the broker's own");
		}
		for (unsigned k = 0; k < i; k++) {
			if (sqlite3_stricmp(m->tables[k].name, m->tables[i].name) == 0) {
				return fail(m, "42P07",
					"two tables of the mirror have the same name without their "
					"schema");
			}
		}
	}
	return 0;
}

static int stage_row(
	struct mirror *m, const struct mirror_table *t, sqlite3_stmt *insert, const PGresult *row)
{
	int rc = SQLITE_OK;

	for (unsigned c = 0; c < t->ncolumns && rc == SQLITE_OK; c++) {
		rc = mirror_table_bind(&t->columns[c], insert, (int)c + 1, row, (int)c);
	}
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(insert);
		(void)sqlite3_reset(insert); /* repeats rc */
	}
	return rc == SQLITE_DONE || rc == SQLITE_OK ? 0 : fail_sqlite(m, rc);
}

static int stage_rows(struct mirror *m, struct pgcall *pg, unsigned i, sqlite3_stmt *insert)
{
	PGresult *row;
	int more, rc = 0;

	m->counts[i] = 0;
	if (pgcall_rows_begin(pg, m->tables[i].select) < 0) {
		return fail_pg(m, pg);
	}
	while ((more = pgcall_rows_next(pg, &row)) > 0) {
		rc = stage_row(m, &m->tables[i], insert, row);
		PQclear(row);
		m->counts[i]++;
		if (rc < 0) {
			pgcall_close(pg); /* in the middle of rows */
			return -1;
		}
	}
	return more < 0 ? fail_pg(m, pg) : 0;
}

static sqlite3_stmt *prepare_insert(struct mirror *m, unsigned i)
{
	sqlite3_str *s = sqlite3_str_new(NULL);
	sqlite3_stmt *stmt = NULL;
	char *sql;
	int rc = SQLITE_NOMEM;

	sqlite3_str_appendf(s, "INSERT INTO temp.broker_stage_%u VALUES (", i);
	for (unsigned c = 0; c < m->tables[i].ncolumns; c++) {
		sqlite3_str_appendall(s, c > 0 ? ", ?" : "?");
	}
	sqlite3_str_appendall(s, ")");
	sql = sqlite3_str_finish(s);
	if (sql != NULL) {
		rc = sqlite3_prepare_v2(m->db, sql, -1, &stmt, NULL);
	}
	sqlite3_free(sql);
	if (rc != SQLITE_OK) {
		(void)fail_sqlite(m, rc);
	}
	return stmt;
}

static int stage_table(struct mirror *m, struct pgcall *pg, unsigned i)
{
	sqlite3_stmt *insert;
	int rc;

	if (run(m, "CREATE TEMP TABLE broker_stage_%u (%s)", i, m->tables[i].stage_columns) < 0) {
		return -1;
	}
	insert = prepare_insert(m, i);
	if (insert == NULL) {
		return -1;
	}
	rc = stage_rows(m, pg, i, insert);
	sqlite3_finalize(insert);
	return rc;
}

/* One transaction of SQLite too, which touches nothing but the temporary database. */
static int stage_all(struct mirror *m, struct pgcall *pg)
{
	if (begin_snapshot(m, pg) < 0 || read_definitions(m, pg) < 0 || run(m, "BEGIN") < 0) {
		return -1;
	}
	for (unsigned i = 0; i < m->ntables; i++) {
		if (stage_table(m, pg, i) < 0) {
			return -1;
		}
	}
	if (run(m, "COMMIT") < 0) {
		return -1;
	}
	return pgcall_do(pg, "COMMIT") < 0 ? fail_pg(m, pg) : 0;
}

static void drop_stages(struct mirror *m)
{
	struct courier_failure kept = m->failure;

	roll_back(m);
	for (unsigned i = 0; i < m->ntables; i++) {
		(void)run(m, "DROP TABLE IF EXISTS temp.broker_stage_%u", i);
		mirror_table_finish(&m->tables[i]);
	}
	m->failure = kept;
}

/* -- from the stage into place ----------------------------------------------------------------- */

/* Something of that name that is not the mirror's: what it holds is nobody's to delete. */
static int make_way(struct mirror *m, const char *name)
{
	char *sql = sqlite3_mprintf("SELECT 1 FROM main.\"%w\"", name);
	bool has_rows = sql == NULL || number(m, sql, NULL) != 0;
	char kept[200] = "";

	sqlite3_free(sql);
	if (!has_rows) {
		return run(m, "DROP TABLE main.\"%w\"", name);
	}
	for (unsigned i = 0;
		kept[0] == '\0' ||
		number(m, "SELECT 1 FROM main.sqlite_schema WHERE name = ?1", kept) != 0;
		i++) {
		snprintf(kept, sizeof(kept),
			i == 0 ? "%.150s_before_mirror" : "%.150s_before_mirror_%u", name, i);
	}
	log_warning(
		"courier: table %s of the SQLite file was not made by the mirror and has rows: it "
		"is called %s now",
		name, kept);
	return run(m, "ALTER TABLE main.\"%w\" RENAME TO \"%w\"", name, kept);
}

static int make_table(struct mirror *m, const struct mirror_table *t)
{
	bool there = number(m,
			     "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND "
			     "name = ?1 COLLATE NOCASE",
			     t->name) != 0;
	bool ours = number(m, "SELECT 1 FROM broker_mirror WHERE name = ?1 COLLATE NOCASE",
			    t->name) != 0;

	if (there &&
		(ours ? run(m, "DROP TABLE main.\"%w\"", t->name) : make_way(m, t->name)) < 0) {
		return -1;
	}
	return run(m, "%s", t->definition);
}

/* The table is there, as it should be. */
static bool is_current(struct mirror *m, const struct mirror_table *t)
{
	sqlite3_stmt *stmt = NULL;
	bool same = false;

	if (sqlite3_prepare_v2(m->db,
		    "SELECT definition FROM broker_mirror WHERE name = ?1 AND EXISTS (SELECT 1 "
		    "FROM main.sqlite_schema s WHERE s.type = 'table' AND s.name = ?1)",
		    -1, &stmt, NULL) == SQLITE_OK) {
		sqlite3_bind_text(stmt, 1, t->name, -1, SQLITE_STATIC);
		if (sqlite3_step(stmt) == SQLITE_ROW) {
			const char *text = (const char *)sqlite3_column_text(stmt, 0);

			same = text != NULL && strcmp(text, t->definition) == 0;
		}
	}
	sqlite3_finalize(stmt);
	return same;
}

/* Rows that are the same stay untouched: they cost no write. */
static int put_rows(struct mirror *m, unsigned i)
{
	const struct mirror_table *t = &m->tables[i];
	int64_t before = sqlite3_total_changes64(m->db);
	int rc;

	if (t->key_match == NULL) {
		rc = run(m, "DELETE FROM main.\"%w\"", t->name) < 0
			     ? -1
			     : run(m, "INSERT INTO main.\"%w\" SELECT * FROM temp.broker_stage_%u",
				       t->name, i);
	} else {
		rc = run(m,
			     "DELETE FROM main.\"%w\" AS t WHERE NOT EXISTS (SELECT 1 FROM "
			     "temp.broker_stage_%u AS s WHERE %s)",
			     t->name, i, t->key_match) < 0
			     ? -1
			     : run(m,
				       "INSERT OR REPLACE INTO main.\"%w\" SELECT * FROM "
				       "temp.broker_stage_%u EXCEPT SELECT * FROM main.\"%w\"",
				       t->name, i, t->name);
	}
	m->changed += (uint64_t)(sqlite3_total_changes64(m->db) - before);
	m->rows += m->counts[i];
	return rc;
}

static int put_table(struct mirror *m, unsigned i)
{
	const struct mirror_table *t = &m->tables[i];

	if (!is_current(m, t) && make_table(m, t) < 0) {
		return -1;
	}
	return put_rows(m, i) < 0
		       ? -1
		       : run(m,
				 "INSERT OR REPLACE INTO broker_mirror (name, source, definition, "
				 "copied_at, rows) VALUES (%Q, %Q, %Q, %lld, %lld)",
				 t->name, m->sources[i], t->definition, (long long)m->snapshot_us,
				 (long long)m->counts[i]);
}

static enum mirror_result put_all(struct mirror *m)
{
	m->rows = m->changed = 0;
	if (run(m, "BEGIN IMMEDIATE") < 0 ||
		run(m, "CREATE TABLE IF NOT EXISTS broker_mirror (name TEXT PRIMARY KEY, "
		       "source TEXT NOT NULL, definition TEXT NOT NULL, copied_at INTEGER NOT "
		       "NULL, "
		       "rows INTEGER NOT NULL)") < 0) {
		return MIRROR_FAILED;
	}
	if (number(m, "SELECT 1 FROM broker_journal LIMIT 1", NULL) != 0) {
		return MIRROR_HELD;
	}
	for (unsigned i = 0; i < m->ntables; i++) {
		if (put_table(m, i) < 0) {
			return MIRROR_FAILED;
		}
	}
	return run(m, "COMMIT") < 0 ? MIRROR_FAILED : MIRROR_DONE;
}

enum mirror_result mirror_refresh(struct mirror *m, struct pgcall *pg)
{
	enum mirror_result res = MIRROR_FAILED;

	drop_stages(m); /* of a refresh that was interrupted */
	if (stage_all(m, pg) == 0) {
		res = put_all(m);
	}
	drop_stages(m);
	if (res == MIRROR_DONE) {
		m->copied_at = m->snapshot_us;
	}
	return res;
}
