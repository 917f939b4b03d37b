/* SPDX-License-Identifier: MIT */
/*
 * pg_param.h - parameters of a request in the form that libpq sends.
 *
 * All types but BLOB travel as text of unspecified type, so that PostgreSQL infers the type from
 * the statement as it does for a quoted literal; BLOB travels as bytea in binary.
 *
 *   BOOL       true, false
 *   INT64      decimal
 *   DOUBLE     shortest decimal that reads back equal; NaN, Infinity, -Infinity
 *   TIMESTAMP  2026-01-31 23:59:59.123456+00, years before 1 with BC
 *   TEXT,JSON  as they are; a NUL character is refused, PostgreSQL cannot store one
 *
 * One struct pg_params per connection is filled anew for each statement and keeps its memory.
 */
#ifndef BROKER_PG_PARAM_H
#define BROKER_PG_PARAM_H

#include "request.h"

#include <libpq-fe.h>

struct pg_params {
	const char **values;
	int *lengths;
	int *formats;
	Oid *types;
	unsigned cap; /* entries the four arrays have */
	char *text; /* what values point into, but for BLOB */
	size_t text_cap;

	/* of the statement at hand */
	unsigned count;
	bool any_blob; /* else lengths, formats and types need not be passed */
	bool keyable; /* blobs tells all: no BLOB beyond parameter 64 */
	uint64_t blobs; /* bit i: parameter i is a BLOB */
	size_t bytes; /* of all values together */
};

enum pg_param_error {
	PG_PARAM_OK,
	PG_PARAM_NUL, /* *bad has a NUL character */
	PG_PARAM_LARGE, /* more than a PostgreSQL message can hold */
	PG_PARAM_MEMORY,
};

/* BLOBs stay where they are: the request's body must live until the statement was sent. */
enum pg_param_error pg_params_set(
	struct pg_params *p, const struct request *r, unsigned *bad) must_use;
enum pg_param_error pg_params_set_list(struct pg_params *p, unsigned nparams,
	const struct request_param *params, unsigned *bad) must_use;
/* After sending: give back what one large statement took. */
void pg_params_trim(struct pg_params *p);
void pg_params_finish(struct pg_params *p);

/* Room for a formatted value; buf gets a C string, the length is returned. */
#define PG_DOUBLE_MAX 32
#define PG_TIMESTAMP_MAX 48
size_t pg_format_double(double x, char buf[PG_DOUBLE_MAX]);
size_t pg_format_timestamp(int64_t microseconds, char buf[PG_TIMESTAMP_MAX]);

#endif
