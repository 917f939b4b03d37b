/* SPDX-License-Identifier: MIT */
/*
 * convert.h - one cell of a result, as the type the caller asks for.
 *
 * Pure: no handle, no state, no dependence on the locale.  A cell is CELL_NATIVE (layout.h) or
 * CELL_PGTEXT, PostgreSQL's text output.  Functions return 0, BROKER_E_TYPE (never possible for
 * this type or text), BROKER_E_RANGE (not for this value) or BROKER_E_MEMORY; outputs are untouched
 * then. <shmbroker.h> says what each conversion takes.  The caller has dealt with NULL.
 */
#ifndef CLIENT_CONVERT_H
#define CLIENT_CONVERT_H

#include "check.h"
#include "layout.h"

struct cell {
	const unsigned char *p;
	uint32_t len;
	uint8_t type; /* enum cell_type */
	uint8_t encoding; /* enum cell_encoding */
};

int convert_bool(const struct cell *c, bool *out) must_use;
int convert_int64(const struct cell *c, int64_t *out) must_use;
int convert_double(const struct cell *c, double *out) must_use;
int convert_timestamp(const struct cell *c, int64_t *us) must_use;

/*
 * The cell's bytes are its text as they stand (TEXT, JSON, and PostgreSQL's own text of numbers);
 * they are not NUL terminated.
 */
bool convert_text_in_place(const struct cell *c);

#define CONVERT_TEXT_MAX 64 /* bytes of the longest text that convert_text makes, with NUL */

/* Text of a cell that is not in place and not a BLOB.  *len does not count the NUL. */
int convert_text(const struct cell *c, char out[CONVERT_TEXT_MAX], size_t *len) must_use;

/* Decode bytea text (BLOB as CELL_PGTEXT), hex or escape form, into out, which has c->len bytes. */
int convert_blob(const struct cell *c, unsigned char *out, size_t *len) must_use;

/* Valid UTF-8 without NUL. */
bool convert_is_text(const unsigned char *p, size_t len);

/* Shortest decimal that reads back equal, in the style of PostgreSQL.  Returns the length. */
size_t convert_format_double(double d, char out[CONVERT_TEXT_MAX]);

#endif
