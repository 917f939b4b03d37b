/* SPDX-License-Identifier: MIT */
/*
 * fingerprint.h - the shape of a statement: what is left of its text without literals.
 *
 *   SELECT * FROM t WHERE a = 'x' AND b IN (1, -2, 3)    -- as sent
 *   select * from t where a = ? and b in (?)             -- its shape
 *
 * Comments and spaces do not count, key words and names without quotes are in lower case, names in
 * quotes stay as they are.  Literals, their signs, and parameters become "?"; so do NULL, TRUE and
 * FALSE where a value stands in a list, as an argument, or beside an operator.  In lists after IN,
 * in ARRAY[] and in the rows of VALUES, an element of the same shape as the one before it is left
 * out, so lists of any length have one shape.
 *
 * The tokens are PostgreSQL's (sqllex.h).  A literal that does not end is a literal: nothing of it
 * gets into the shape.  In SQLite a name in double quotes may be meant as a string; it stays.
 *
 * Costs: one pass over at most FINGERPRINT_INPUT_MAX bytes, no memory; made once for each distinct
 * text.  Any thread.
 */
#ifndef BROKER_FINGERPRINT_H
#define BROKER_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What lies behind is not looked at, and shapes that are longer end here. */
#define FINGERPRINT_INPUT_MAX 32768u
#define FINGERPRINT_TEXT_MAX 4096u

struct fingerprint {
	uint64_t value; /* of the shape, never 0 */
	size_t len;
	bool truncated; /* statements that begin alike may have the same shape */
	char text[FINGERPRINT_TEXT_MAX]; /* not terminated */
};

void fingerprint_make(struct fingerprint *out, const char *sql, size_t len);

#endif
