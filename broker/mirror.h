/* SPDX-License-Identifier: MIT */
/*
 * mirror.h - copies of PostgreSQL tables in the SQLite file, for reads (and writes) while
 * PostgreSQL is away.
 *
 * All tables of a pool are copied as of one moment: one REPEATABLE READ transaction reads them into
 * temporary tables of the courier's handle, which needs no lock on the file and may take its time;
 * then one SQLite transaction puts what differs into place.  Rows stream, one is in memory at a
 * time.
 *
 * A copy never goes over writes that PostgreSQL does not have: that last transaction looks into the
 * journal first, and does nothing while any row is there.
 *
 *   broker_mirror, in SQLite
 *     name        of the table here: that of PostgreSQL's without its schema
 *     source      as the configuration names it
 *     definition  the text that made it; when PostgreSQL's table changes, so does this, and the
 *                 table is made anew
 *     copied_at   of the snapshot, microseconds since 1970
 *     rows        in the copy
 *
 * A table of that name which the mirror has not made is kept as NAME_before_mirror if it has rows.
 *
 *   PostgreSQL                        SQLite
 *   smallint, integer, bigint         INTEGER; a primary key of one such column numbers itself
 *   boolean                           BOOLEAN, 0 or 1
 *   real, double precision            REAL
 *   numeric                           NUMERIC: 15 digits are exact
 *   timestamp, timestamptz            TIMESTAMP: text as parameters are stored (sqlite_value.h),
 *                                     UTC
 *   json, jsonb                       JSON
 *   bytea                             BLOB
 *   all others                        TEXT, as PostgreSQL writes them
 *
 * Copied along: primary key, NOT NULL, unique and other indexes on plain columns, defaults that are
 * constants or the time.  Not: foreign keys, CHECK, triggers, expressions.
 *
 * One thread: the courier's.
 */
#ifndef BROKER_MIRROR_H
#define BROKER_MIRROR_H

#include "courier.h"
#include "pgcall.h"

#include <sqlite3.h>

struct mirror;

enum mirror_result {
	MIRROR_DONE,
	MIRROR_HELD, /* there are rows in the journal */
	MIRROR_FAILED, /* mirror_failure says why */
};

/* db stays the caller's and lives longer, as the names do.  NULL: out of memory. */
struct mirror *mirror_create(sqlite3 *db, char *const *tables, unsigned ntables) must_use;
void mirror_destroy(struct mirror **m);

/* pg is connected. */
enum mirror_result mirror_refresh(struct mirror *m, struct pgcall *pg) must_use;
const struct courier_failure *mirror_failure(const struct mirror *m);
/* The snapshot that the copies show, microseconds since 1970; of the oldest, 0: one is missing. */
int64_t mirror_copied_at(const struct mirror *m);
/* Of the last refresh: rows in all tables; rows that differed. */
uint64_t mirror_rows(const struct mirror *m);
uint64_t mirror_changed(const struct mirror *m);

#endif
