/* SPDX-License-Identifier: MIT */
/*
 * sqlite_error.h - what SQLite says went wrong, in the words all databases of the broker use.
 *
 * SQLite has result codes and texts but no SQLSTATE.  The code is taken from the extended result
 * code; where SQLite knows only SQLITE_ERROR, from the text, whose wording has been stable for many
 * years.  A text that is not recognized is 42000, never a wrong precise code.
 *
 * Any thread; touches nothing but its arguments.
 */
#ifndef BROKER_SQLITE_ERROR_H
#define BROKER_SQLITE_ERROR_H

#include "check.h"
#include "failure.h"

#include <sqlite3.h>

/* A failure that owns its texts, so that it can travel from an executor to the loop. */
struct sqlite_failure {
	enum fail_code code;
	bool unknown;
	bool retry_safe;
	char sqlstate[6];
	char message[1024];
	char hint[256];
};

/* sqlstate "" if the database was not involved.  Clears all other fields. */
void sqlite_failure_set(struct sqlite_failure *out, enum fail_code code, const char *sqlstate,
	const char *fmt, ...) __attribute__((format(printf, 4, 5)));
void sqlite_failure_hint(struct sqlite_failure *out, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* From the extended result code rc of the call on db that just failed.  db may be NULL. */
void sqlite_failure_from(struct sqlite_failure *out, sqlite3 *db, int rc);

/* View of it for the core; valid while f is. */
struct failure sqlite_failure_view(const struct sqlite_failure *f);

#endif
