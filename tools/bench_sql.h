/* SPDX-License-Identifier: MIT */
/*
 * bench_sql.h - the statements of the workloads.
 *
 * All parameters are integers, in the order in which they stand in the text, but for SQL_PUT, whose
 * first is the value.  The tables are pgbench's, and two of our own: bench_row (BENCH_ROWS short
 * rows) and bench_blob (BENCH_BLOBS values of BENCH_BLOB_BYTES).
 */
#ifndef TOOLS_BENCH_SQL_H
#define TOOLS_BENCH_SQL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bench_sql {
	SQL_POINT,
	SQL_UPDATE,
	SQL_TELLER,
	SQL_BRANCH,
	SQL_HISTORY,
	SQL_ROWS,
	SQL_BLOB,
	SQL_PUT,
	SQL_SLOW,
	SQL_SCALE, /* as many rows as pgbench's scale */
	SQL_PROBE, /* only SQLite understands it */
	SQL_COUNT,
};

#define BENCH_PARAMS_MAX 4

struct bench_stmt {
	enum bench_sql id; /* the drivers keep prepared statements by it */
	const char *text;
	unsigned nparams;
	const char *columns; /* how to read them: i integer, t text, b bytes; "" no result */
	bool reads;
};

/* The statement for the database behind the target.  Static. */
const struct bench_stmt *bench_stmt(enum bench_sql id, bool sqlite);

/*
 * The text with the values in the place of $1, $2, …; for contenders without parameters.
 * Length, or -1 if it does not fit.
 */
int bench_literal(char *buf, size_t size, const char *text, const int64_t *args, unsigned nargs);

#endif
