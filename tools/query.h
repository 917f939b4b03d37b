/* SPDX-License-Identifier: MIT */
/*
 * query.h - small conditions on a row of named values, for `-q` and the filter of the live screen.
 *
 *   or         := and { "||" and }
 *   and        := not { "&&" not }
 *   not        := "!" not | primary
 *   primary    := "(" or ")" | field [ comparison value ]
 *   comparison := "==" | "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~"
 *   value      := word | 'quoted' | "quoted"        \ takes the next character as it is
 *
 * A field alone is true if it is not 0 or not empty.  Numbers may carry a unit: ns us ms s m h d
 * are times and count in seconds, k M G are thousands.  Texts know == != and ~ !~: a glob if the
 * value has one of * ? [, otherwise a part of the text; both whatever the case.  The words of the
 * language are ASCII; bytes beyond are parts of words.
 *
 * One thread per query; matching takes no memory.
 */
#ifndef TOOLS_QUERY_H
#define TOOLS_QUERY_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>

enum query_type {
	QUERY_NUMBER,
	QUERY_TEXT,
};

struct query_field {
	const char *name;
	enum query_type type;
};

/* number for a number, text (never NULL) for a text. */
struct query_value {
	double number;
	const char *text;
};

/* Value of field number i of a row; the text lives until the next call. */
typedef struct query_value (*query_get)(const void *row, unsigned i);

struct query_error {
	size_t at; /* bytes from the start of the condition */
	char text[128];
};

struct query;

/* Field names are borrowed, and compared without regard to case.  NULL: *err says why. */
struct query *query_parse(const char *condition, const struct query_field *fields, unsigned nfields,
	struct query_error *err) must_use;
bool query_match(const struct query *q, query_get get, const void *row);
void query_free(struct query **q);

/* How ~ compares, also by itself. */
bool query_like(const char *text, const char *pattern);

#endif
