/* SPDX-License-Identifier: MIT */
/*
 * journal_rule.c - see journal.h: what is accepted while PostgreSQL is away.
 *
 * PostgreSQL cannot be asked then, so this catches what is known to fail or to mean something else
 * there: SQLite's own words, its own functions, text that is no UTF-8.  What passes and fails all
 * the same when it is repeated is set aside and reported; nothing depends on this list being
 * complete.
 */
#include "journal.h"

#include "sqllex.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* -- text -------------------------------------------------------------------------------------- */

/* Bytes of the well-formed UTF-8 character at p; 0: it is none, or NUL. */
static size_t character(const unsigned char *p, size_t left)
{
	unsigned char c = p[0];
	size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	uint32_t v;

	if (c == 0 || (c >= 0x80 && c < 0xc2) || c > 0xf4 || left < n) {
		return 0;
	}
	if (n == 1) {
		return 1;
	}
	v = c & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80) {
			return 0;
		}
		v = v << 6 | (p[i] & 0x3fu);
	}
	if (n == 3 && (v < 0x800 || (v >= 0xd800 && v <= 0xdfff))) {
		return 0;
	}
	return n == 4 && (v < 0x10000 || v > 0x10ffff) ? 0 : n;
}

static bool is_text(const unsigned char *p, size_t len)
{
	while (len > 0) {
		size_t n = character(p, len);

		if (n == 0) {
			return false;
		}
		p += n;
		len -= n;
	}
	return true;
}

/* -- statements -------------------------------------------------------------------------------- */

static bool is(const struct sqllex *lx, enum sql_token kind, const char *word)
{
	return kind == SQL_WORD && lx->len == strlen(word) &&
	       strncasecmp(lx->at, word, lx->len) == 0;
}

enum previous { PREVIOUS_OTHER, PREVIOUS_INSERT, PREVIOUS_UPDATE, PREVIOUS_REPLACE };

static enum previous classify(const struct sqllex *lx, enum sql_token kind)
{
	return is(lx, kind, "INSERT")    ? PREVIOUS_INSERT
	       : is(lx, kind, "UPDATE")  ? PREVIOUS_UPDATE
	       : is(lx, kind, "REPLACE") ? PREVIOUS_REPLACE
					 : PREVIOUS_OTHER;
}

/* Pairs of words that only SQLite knows. */
static const char *foreign_words(struct sqllex *lx)
{
	enum previous previous = PREVIOUS_OTHER;
	enum sql_token kind;

	while ((kind = sqllex_next(lx)) != SQL_END) {
		if (previous == PREVIOUS_INSERT && is(lx, kind, "OR")) {
			return "INSERT OR … is SQLite's own; write INSERT … ON CONFLICT";
		}
		if (previous == PREVIOUS_UPDATE && is(lx, kind, "OR")) {
			return "UPDATE OR … is SQLite's own";
		}
		if (previous == PREVIOUS_REPLACE && is(lx, kind, "INTO")) {
			return "REPLACE is SQLite's own; write INSERT … ON CONFLICT … DO UPDATE";
		}
		previous = classify(lx, kind);
	}
	return NULL;
}

/* CREATE of what has another body in PostgreSQL. */
static const char *foreign_ddl(struct sqllex *lx)
{
	enum sql_token kind = sqllex_next(lx);

	if (!is(lx, kind, "CREATE")) {
		return NULL;
	}
	kind = sqllex_next(lx);
	if (is(lx, kind, "TEMP") || is(lx, kind, "TEMPORARY")) {
		return "temporary tables end with the session they belong to";
	}
	if (is(lx, kind, "TRIGGER")) {
		return "triggers are written otherwise in PostgreSQL";
	}
	if (is(lx, kind, "VIRTUAL")) {
		return "virtual tables are SQLite's own";
	}
	return NULL;
}

static bool is_upkeep(const char *text)
{
	char word[SQLITE_WORD_MAX];

	(void)sqlite_verb(text, word);
	return strcmp(word, "ANALYZE") == 0 || strcmp(word, "REINDEX") == 0;
}

int journal_judge(const char *text, size_t len, enum sqlite_verb verb, enum journal_rule *rule,
	const char **why)
{
	struct sqllex lx;
	char *copy;

	*rule = JOURNAL_REFUSE;
	*why = "PRAGMA concerns this file only";
	if (verb == SQLITE_VERB_PRAGMA) {
		return 0;
	}
	if (verb == SQLITE_VERB_VACUUM || is_upkeep(text)) {
		*rule = JOURNAL_LOCAL;
		return 0;
	}
	*why = "the statement's text is not valid UTF-8 or has a NUL character";
	if (!is_text((const unsigned char *)text, len)) {
		return 0;
	}
	copy = malloc(len + 2); /* the scanner marks its place in the text */
	if (copy == NULL) {
		return -1;
	}
	memcpy(copy, text, len);
	sqllex_begin(&lx, copy, len);
	*why = verb == SQLITE_VERB_OTHER ? foreign_ddl(&lx) : foreign_words(&lx);
	*rule = *why != NULL ? JOURNAL_REFUSE : JOURNAL_KEEP;
	free(copy);
	return 0;
}

const char *journal_function_refusal(const char *function)
{
	static const struct {
		const char *name, *why;
	} map[] = {
		{"random", "random() would give another value in PostgreSQL"},
		{"randomblob", "randomblob() is SQLite's own"},
		{"last_insert_rowid", "last_insert_rowid() is SQLite's own; use RETURNING"},
		{"changes", "changes() is SQLite's own"},
		{"total_changes", "total_changes() is SQLite's own"},
		{"date", "date() means something else in PostgreSQL"},
		{"time", "time() means something else in PostgreSQL"},
		{"datetime", "datetime() is SQLite's own"},
		{"julianday", "julianday() is SQLite's own"},
		{"unixepoch", "unixepoch() is SQLite's own"},
		{"strftime", "strftime() is SQLite's own"},
	};

	for (size_t i = 0; i < array_size(map); i++) {
		if (strcasecmp(function, map[i].name) == 0) {
			return map[i].why;
		}
	}
	return NULL;
}

bool journal_owns_table(const char *table)
{
	static const char *const names[] = {
		"broker_journal", "broker_journal_origin", "broker_mirror"};

	for (size_t i = 0; i < array_size(names); i++) {
		if (strcasecmp(table, names[i]) == 0) {
			return true;
		}
	}
	return false;
}

/* -- parameters -------------------------------------------------------------------------------- */

int journal_check_params(
	unsigned nparams, const struct request_param *params, struct sqlite_failure *f)
{
	for (unsigned i = 0; i < nparams; i++) {
		const struct request_param *p = &params[i];

		if ((p->type == CELL_TEXT || p->type == CELL_JSON) && p->len > 0 &&
			!is_text(p->data, p->len)) {
			sqlite_failure_set(f, FAIL_DATABASE, "22021",
				"text of parameter $%u is not valid UTF-8 or has a NUL character: "
				"PostgreSQL, which gets it later, cannot store it",
				i + 1);
			return -1;
		}
	}
	return 0;
}
