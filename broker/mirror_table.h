/* SPDX-License-Identifier: MIT */
/*
 * mirror_table.h - what a table of PostgreSQL is, and what its copy in SQLite is to be.
 *
 * One thread: the courier's.
 */
#ifndef BROKER_MIRROR_TABLE_H
#define BROKER_MIRROR_TABLE_H

#include "pgcall.h"

#include <sqlite3.h>

enum mirror_kind {
	MIRROR_TEXT,
	MIRROR_INTEGER,
	MIRROR_REAL,
	MIRROR_NUMERIC,
	MIRROR_BOOLEAN,
	MIRROR_TIMESTAMP,
	MIRROR_JSON,
	MIRROR_BLOB,
};

struct mirror_column {
	char *name;
	char *value; /* default as SQLite has it; NULL: none */
	enum mirror_kind kind;
	bool not_null;
	int key; /* place in the primary key, from 0; -1: not in it */
};

struct mirror_table {
	char *name; /* in SQLite */
	unsigned ncolumns, nkeys;
	struct mirror_column *columns;
	char *definition; /* statements that make it in SQLite */
	char *stage_columns; /* inside the brackets of CREATE TEMP TABLE: columns and primary key */
	char *select; /* statement that reads it from PostgreSQL */
	char *key_match; /* "s.a IS t.a AND …" of the key's columns; NULL: there is no key */
};

/* Ask PostgreSQL for the table that the configuration calls `source`.  0; or -1: pg->why says it.
 */
int mirror_table_read(struct pgcall *pg, const char *source, struct mirror_table *out) must_use;
void mirror_table_finish(struct mirror_table *t);

/* Bind the value of column c, as PostgreSQL writes it, at parameter i.  A code of SQLite. */
int mirror_table_bind(const struct mirror_column *c, sqlite3_stmt *stmt, int i, const PGresult *row,
	int field) must_use;

/* PostgreSQL's text of a default -> SQLite's; NULL: it has none (or out of memory).  Caller frees.
 */
char *mirror_default(const char *text) must_use;

#endif
