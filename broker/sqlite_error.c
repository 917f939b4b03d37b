/* SPDX-License-Identifier: MIT */
/* sqlite_error.c - see sqlite_error.h.  Sources: sqlite.org/rescode.html; PostgreSQL appendix A. */
#include "sqlite_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void sqlite_failure_set(
	struct sqlite_failure *out, enum fail_code code, const char *sqlstate, const char *fmt, ...)
{
	va_list ap;

	out->code = code;
	out->unknown = false;
	out->retry_safe = false;
	snprintf(out->sqlstate, sizeof(out->sqlstate), "%s", sqlstate);
	out->hint[0] = '\0';
	va_start(ap, fmt);
	vsnprintf(out->message, sizeof(out->message), fmt, ap);
	va_end(ap);
}

void sqlite_failure_hint(struct sqlite_failure *out, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(out->hint, sizeof(out->hint), fmt, ap);
	va_end(ap);
}

struct code_map {
	int rc;
	char sqlstate[6];
};

static const char *find_code(const struct code_map *map, size_t n, int rc)
{
	for (size_t i = 0; i < n; i++) {
		if (map[i].rc == rc) {
			return map[i].sqlstate;
		}
	}
	return NULL;
}

static const char *state_of_code(int rc)
{
	static const struct code_map extended[] = {
		{SQLITE_CONSTRAINT_UNIQUE, "23505"},
		{SQLITE_CONSTRAINT_PRIMARYKEY, "23505"},
		{SQLITE_CONSTRAINT_ROWID, "23505"},
		{SQLITE_CONSTRAINT_FOREIGNKEY, "23503"},
		{SQLITE_CONSTRAINT_NOTNULL, "23502"},
		{SQLITE_CONSTRAINT_CHECK, "23514"},
		{SQLITE_CONSTRAINT_DATATYPE, "42804"},
		{SQLITE_CONSTRAINT_TRIGGER, "P0001"}, /* RAISE() */
		{SQLITE_BUSY_SNAPSHOT, "40001"},
	};
	static const struct code_map primary[] = {
		{SQLITE_CONSTRAINT, "23000"},
		{SQLITE_READONLY, "25006"},
		{SQLITE_BUSY, "55P03"},
		{SQLITE_LOCKED, "55P03"},
		{SQLITE_PROTOCOL, "55P03"},
		{SQLITE_SCHEMA, "40001"},
		{SQLITE_FULL, "53100"},
		{SQLITE_NOMEM, "53200"},
		{SQLITE_TOOBIG, "54000"},
		{SQLITE_MISMATCH, "22P02"},
		{SQLITE_INTERRUPT, "57014"},
		{SQLITE_IOERR, "58030"},
		{SQLITE_CANTOPEN, "58030"},
		{SQLITE_CORRUPT, "XX001"},
		{SQLITE_NOTADB, "XX001"},
		{SQLITE_AUTH, "42501"},
		{SQLITE_PERM, "42501"},
		{SQLITE_RANGE, "08P01"},
	};
	const char *state = find_code(extended, array_size(extended), rc);

	return state != NULL ? state : find_code(primary, array_size(primary), rc & 0xff);
}

/* For SQLITE_ERROR: whole texts would tie us to a version, these fragments do not. */
static const char *state_of_text(const char *text)
{
	static const struct {
		const char *part;
		char sqlstate[6];
	} map[] = {
		{"syntax error", "42601"},
		{"incomplete input", "42601"},
		{"unrecognized token", "42601"},
		{"no such table", "42P01"},
		{"no such view", "42P01"},
		{"no such column", "42703"},
		{"has no column named", "42703"},
		{"ambiguous column name", "42702"},
		{"no such function", "42883"},
		{"wrong number of arguments", "42883"},
		{"no such index", "42704"},
		{"no such trigger", "42704"},
		{"no such collation", "42704"},
		{"no such savepoint", "3B001"},
		{"already exists", "42P07"},
		{"there is already", "42P07"},
		{"duplicate column name", "42701"},
		{"misuse of aggregate", "42803"},
		{"integer overflow", "22003"},
		{"malformed JSON", "22P02"},
		{"within a transaction", "25001"},
		{"no transaction is active", "25P01"},
		{"values for", "42601"}, /* "2 values for 3 columns" */
		{"values were supplied", "42601"},
		{"same number of result columns", "42601"},
		{"foreign key mismatch", "42830"},
	};

	for (size_t i = 0; i < array_size(map); i++) {
		if (strstr(text, map[i].part) != NULL) {
			return map[i].sqlstate;
		}
	}
	return "42000";
}

void sqlite_failure_from(struct sqlite_failure *out, sqlite3 *db, int rc)
{
	/* The handle's own text fits only its own last error. */
	bool own = db != NULL && (sqlite3_errcode(db) & 0xff) == (rc & 0xff);
	const char *text = own ? sqlite3_errmsg(db) : sqlite3_errstr(rc);
	const char *state = state_of_code(rc);

	if (state == NULL) {
		state = (rc & 0xff) == SQLITE_ERROR ? state_of_text(text) : "XX000";
	}
	switch (rc & 0xff) {
	case SQLITE_INTERRUPT:
		sqlite_failure_set(out, FAIL_CANCELLED, state, "statement cancelled");
		return;
	case SQLITE_NOMEM:
		sqlite_failure_set(out, FAIL_MEMORY, state, "%s", text);
		out->retry_safe = true;
		return;
	default:
		break;
	}
	sqlite_failure_set(out, FAIL_DATABASE, state, "%s", text);
	if (strcmp(state, "55P03") == 0) {
		sqlite_failure_hint(out,
			"Another process has the database file locked; end it, or raise "
			"busy_timeout.");
	}
	out->retry_safe = strcmp(state, "55P03") == 0 || strcmp(state, "40001") == 0;
}

struct failure sqlite_failure_view(const struct sqlite_failure *f)
{
	struct failure view = {
		.code = f->code,
		.unknown = f->unknown,
		.retry_safe = f->retry_safe,
		.message = f->message,
		.hint = f->hint,
	};

	snprintf(view.sqlstate, sizeof(view.sqlstate), "%s", f->sqlstate);
	return view;
}
