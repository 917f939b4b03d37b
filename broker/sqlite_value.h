/* SPDX-License-Identifier: MIT */
/*
 * sqlite_value.h - values on their way into and out of SQLite.
 *
 * SQLite knows five storage classes; the broker's workers know more types.  A cell's type is the
 * storage class of the value, refined by the declared type of its column:
 *
 *   declared           value                      cell
 *   BOOL, BOOLEAN      integer 0 or 1             BOOL
 *   TIMESTAMP…,        text in ISO 8601, with or  TIMESTAMP (microseconds, UTC; without a zone the
 *     DATETIME…        without time and zone      text is taken as UTC); other text stays TEXT
 *   JSON, JSONB        anything but NULL, BLOB    JSON
 *   any                integer, real, text, blob  INT64, DOUBLE, TEXT, BLOB
 *
 * Parameters go the other way: BOOL is bound as integer 0 or 1, JSON as text, TIMESTAMP as text
 * "YYYY-MM-DD HH:MM:SS.ffffff" in UTC, which SQLite's own date functions read and which sorts as
 * time does.
 *
 * Any thread, for statements of that thread.
 */
#ifndef BROKER_SQLITE_VALUE_H
#define BROKER_SQLITE_VALUE_H

#include "request.h"

#include <sqlite3.h>

enum sqlite_column {
	SQLITE_COLUMN_ANY,
	SQLITE_COLUMN_BOOL,
	SQLITE_COLUMN_TIMESTAMP,
	SQLITE_COLUMN_JSON,
};

/* How values of a column declared so are refined.  decl may be NULL (an expression). */
enum sqlite_column sqlite_column_class(const char *decl);
/* enum cell_type for the result head; TEXT when unknown. */
uint8_t sqlite_column_type_of_decl(const char *decl);

union sqlite_number {
	int64_t i;
	double d;
	uint8_t b;
};

/* Column i of the current row.  The cell points into the row or at *num; valid until the next step.
 * false: out of memory. */
bool sqlite_cell(sqlite3_stmt *stmt, int i, enum sqlite_column class, struct stream_cell *cell,
	union sqlite_number *num) must_use;

/* Room for a TIMESTAMP parameter's text. */
#define SQLITE_TIMESTAMP_MAX 48

/*
 * Bind p at index i.  Data of p must stay until the bindings are cleared.  SQLITE_OK, a code of
 * SQLite, or SQLITE_MISMATCH for a timestamp outside the years 0000 to 9999.
 */
int sqlite_bind(sqlite3_stmt *stmt, int i, const struct request_param *p) must_use;

/* ISO 8601 date or date and time to microseconds since 1970, UTC.  false: not one. */
bool sqlite_parse_timestamp(const char *text, size_t len, int64_t *us) must_use;
/* false: outside the years 0000 to 9999. */
bool sqlite_format_timestamp(int64_t us, char buf[SQLITE_TIMESTAMP_MAX]) must_use;

#endif
