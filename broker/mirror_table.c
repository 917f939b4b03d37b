/* SPDX-License-Identifier: MIT */
/* mirror_table.c - see mirror_table.h. */
#include "mirror_table.h"

#include "sqlite_value.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Between names that PostgreSQL returns together. */
#define SEPARATOR '\001'

static int complain(struct pgcall *pg, const char *sqlstate, const char *what, const char *source)
{
	snprintf(pg->sqlstate, sizeof(pg->sqlstate), "%s", sqlstate);
	snprintf(pg->why, sizeof(pg->why), "mirror %s: %s", source, what);
	return -1;
}

void mirror_table_finish(struct mirror_table *t)
{
	for (unsigned i = 0; i < t->ncolumns; i++) {
		free(t->columns[i].name);
		free(t->columns[i].value);
	}
	free(t->columns);
	free(t->name);
	free(t->definition);
	free(t->stage_columns);
	free(t->select);
	free(t->key_match);
	*t = (struct mirror_table){0};
}

/* -- defaults ---------------------------------------------------------------------------------- */

static bool is_now(const char *text)
{
	static const char *const names[] = {"now()", "CURRENT_TIMESTAMP", "transaction_timestamp()",
		"statement_timestamp()", "clock_timestamp()", "LOCALTIMESTAMP"};

	for (size_t i = 0; i < array_size(names); i++) {
		if (strcasecmp(text, names[i]) == 0) {
			return true;
		}
	}
	return false;
}

/* Length of a number or quoted string at the start of text, 0: neither. */
static size_t constant(const char *text)
{
	size_t n = 0;

	if (text[0] == '\'') {
		for (n = 1; text[n] != '\0'; n++) {
			if (text[n] == '\'' && text[n + 1] != '\'') {
				return n + 1;
			}
			n += text[n] == '\'';
		}
		return 0;
	}
	n = text[0] == '-';
	n += strspn(text + n, "0123456789.");
	return n > (size_t)(text[0] == '-') ? n : 0;
}

char *mirror_default(const char *text)
{
	size_t n = constant(text);
	bool cast = strncmp(text + n, "::", 2) == 0;

	if (is_now(text)) {
		/* As a parameter would be stored. */
		return strdup("(strftime('%Y-%m-%d %H:%M:%f000', 'now'))");
	}
	if (strcasecmp(text, "true") == 0 || strcasecmp(text, "false") == 0) {
		return strdup(text[0] == 't' || text[0] == 'T' ? "1" : "0");
	}
	if (n == 0 || (text[n] != '\0' && !cast)) {
		return NULL;
	}
	/* 'now'::text and its like, and '\x00'::bytea, mean more than their letters. */
	if (cast && (strstr(text + n, "time") != NULL || strstr(text + n, "date") != NULL ||
			    strstr(text + n, "bytea") != NULL || strchr(text + n, '(') != NULL)) {
		return NULL;
	}
	return strndup(text, n);
}

/* -- columns ----------------------------------------------------------------------------------- */

static enum mirror_kind kind_of(unsigned type)
{
	switch (type) {
	case 16:
		return MIRROR_BOOLEAN;
	case 20: /* int8 */
	case 21: /* int2 */
	case 23: /* int4 */
	case 26: /* oid */
		return MIRROR_INTEGER;
	case 700:
	case 701:
		return MIRROR_REAL;
	case 1700:
		return MIRROR_NUMERIC;
	case 1114:
	case 1184:
		return MIRROR_TIMESTAMP;
	case 114:
	case 3802:
		return MIRROR_JSON;
	case 17:
		return MIRROR_BLOB;
	default:
		return MIRROR_TEXT;
	}
}

static const char *decl_of(enum mirror_kind kind)
{
	static const char *const names[] = {
		[MIRROR_TEXT] = "TEXT",
		[MIRROR_INTEGER] = "INTEGER",
		[MIRROR_REAL] = "REAL",
		[MIRROR_NUMERIC] = "NUMERIC",
		[MIRROR_BOOLEAN] = "BOOLEAN",
		[MIRROR_TIMESTAMP] = "TIMESTAMP",
		[MIRROR_JSON] = "JSON",
		[MIRROR_BLOB] = "BLOB",
	};

	return names[kind];
}

static int bind_blob(sqlite3_stmt *stmt, int i, const char *text)
{
	size_t len = 0;
	unsigned char *bytes = PQunescapeBytea((const unsigned char *)text, &len);
	int rc;

	if (bytes == NULL) {
		return SQLITE_NOMEM;
	}
	rc = sqlite3_bind_blob64(
		stmt, i, len > 0 ? (const void *)bytes : "", len, SQLITE_TRANSIENT);
	PQfreemem(bytes);
	return rc;
}

/* Years beyond 9999 or BC, and infinity, stay as PostgreSQL writes them. */
static int bind_timestamp(sqlite3_stmt *stmt, int i, const char *text, int len)
{
	char buf[SQLITE_TIMESTAMP_MAX];
	int64_t us;

	if (!sqlite_parse_timestamp(text, (size_t)len, &us) || !sqlite_format_timestamp(us, buf)) {
		return sqlite3_bind_text(stmt, i, text, len, SQLITE_STATIC);
	}
	return sqlite3_bind_text(stmt, i, buf, -1, SQLITE_TRANSIENT);
}

int mirror_table_bind(
	const struct mirror_column *c, sqlite3_stmt *stmt, int i, const PGresult *row, int field)
{
	const char *text = PQgetvalue(row, 0, field);
	int len = PQgetlength(row, 0, field);

	if (PQgetisnull(row, 0, field)) {
		return sqlite3_bind_null(stmt, i);
	}
	switch (c->kind) {
	case MIRROR_BOOLEAN:
		return sqlite3_bind_int(stmt, i, text[0] == 't');
	case MIRROR_INTEGER:
		return sqlite3_bind_int64(stmt, i, strtoll(text, NULL, 10));
	case MIRROR_REAL:
		return sqlite3_bind_double(stmt, i, strtod(text, NULL));
	case MIRROR_TIMESTAMP:
		return bind_timestamp(stmt, i, text, len);
	case MIRROR_BLOB:
		return bind_blob(stmt, i, text);
	default: /* affinity does the rest */
		return sqlite3_bind_text(stmt, i, text, len, SQLITE_STATIC);
	}
}

/* -- texts ------------------------------------------------------------------------------------- */

static void put_name(sqlite3_str *s, const char *name)
{
	sqlite3_str_appendf(s, "\"%w\"", name);
}

static void put_keys(sqlite3_str *s, const struct mirror_table *t)
{
	sqlite3_str_appendall(s, ", PRIMARY KEY (");
	for (unsigned k = 0, n = 0; k < t->nkeys; k++) {
		for (unsigned i = 0; i < t->ncolumns; i++) {
			if (t->columns[i].key == (int)k) {
				sqlite3_str_appendall(s, n++ > 0 ? ", " : "");
				put_name(s, t->columns[i].name);
			}
		}
	}
	sqlite3_str_appendall(s, ")");
}

/* A key of one whole number is the row's own number: it may be left out of an INSERT. */
static bool numbers_itself(const struct mirror_table *t, const struct mirror_column *c)
{
	return t->nkeys == 1 && c->key == 0 && c->kind == MIRROR_INTEGER;
}

static void put_columns(sqlite3_str *s, const struct mirror_table *t, bool stage)
{
	bool own_key = false;

	for (unsigned i = 0; i < t->ncolumns; i++) {
		const struct mirror_column *c = &t->columns[i];

		sqlite3_str_appendall(s, i > 0 ? ", " : "");
		put_name(s, c->name);
		sqlite3_str_appendf(s, " %s", decl_of(c->kind));
		if (numbers_itself(t, c)) {
			sqlite3_str_appendall(s, " PRIMARY KEY");
			own_key = true;
		} else if (!stage) {
			sqlite3_str_appendf(s, "%s%s%s", c->not_null ? " NOT NULL" : "",
				c->value != NULL ? " DEFAULT " : "",
				c->value != NULL ? c->value : "");
		}
	}
	if (t->nkeys > 0 && !own_key) {
		put_keys(s, t);
	}
}

/* names: separated, at least one. */
static void put_index(sqlite3_str *s, const struct mirror_table *t, unsigned number, bool unique,
	const char *names)
{
	sqlite3_str_appendf(s, "; CREATE %sINDEX \"broker_mirror_%w_%u\" ON \"%w\" (",
		unique ? "UNIQUE " : "", t->name, number, t->name);
	while (*names != '\0') {
		size_t n = strcspn(names, (const char[]){SEPARATOR, '\0'});
		char *name = sqlite3_mprintf("%.*s", (int)n, names);

		if (name != NULL) {
			put_name(s, name);
		}
		sqlite3_free(name);
		names += n;
		if (*names != '\0') {
			sqlite3_str_appendall(s, ", ");
			names++;
		}
	}
	sqlite3_str_appendall(s, ")");
}

/* The text, to be freed with free(); NULL: out of memory. */
static char *take(sqlite3_str *s)
{
	char *text = sqlite3_str_finish(s), *copy = text != NULL ? strdup(text) : NULL;

	sqlite3_free(text);
	return copy;
}

static char *make_key_match(const struct mirror_table *t)
{
	sqlite3_str *s = sqlite3_str_new(NULL);
	unsigned n = 0;

	for (unsigned i = 0; i < t->ncolumns; i++) {
		if (t->columns[i].key >= 0) {
			sqlite3_str_appendf(s, "%ss.\"%w\" IS t.\"%w\"", n++ > 0 ? " AND " : "",
				t->columns[i].name, t->columns[i].name);
		}
	}
	return take(s);
}

static char *make_select(const struct mirror_table *t, const char *source)
{
	sqlite3_str *s = sqlite3_str_new(NULL);

	sqlite3_str_appendall(s, "SELECT ");
	for (unsigned i = 0; i < t->ncolumns; i++) {
		sqlite3_str_appendall(s, i > 0 ? ", " : "");
		put_name(s, t->columns[i].name);
	}
	/* to_regclass has understood it as one name. */
	sqlite3_str_appendf(s, " FROM %s", source);
	return take(s);
}

/* -- reading ----------------------------------------------------------------------------------- */

static PGresult *ask(struct pgcall *pg, const char *sql, const char *source)
{
	struct request_param p = {source, (uint32_t)strlen(source), CELL_TEXT};
	PGresult *res = pgcall_run(pg, sql, 1, &p);

	if (res != NULL && pgcall_is_error(pg, res)) {
		PQclear(res);
		return NULL;
	}
	return res;
}

static int read_name(struct pgcall *pg, const char *source, struct mirror_table *t)
{
	PGresult *res = ask(pg,
		"SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid = to_regclass($1::text)",
		source);
	int rc = 0;

	if (res == NULL) {
		return -1;
	}
	if (PQntuples(res) == 0) {
		rc = complain(pg, "42P01", "there is no such table in PostgreSQL", source);
	} else if ((t->name = strdup(PQgetvalue(res, 0, 0))) == NULL) {
		rc = complain(pg, "53200", "out of memory in the broker", source);
	}
	PQclear(res);
	return rc;
}

static bool set_column(
	struct mirror_table *t, struct mirror_column *c, const PGresult *res, int row)
{
	bool has_default = !PQgetisnull(res, row, 4);

	c->name = strdup(PQgetvalue(res, row, 0));
	c->kind = kind_of((unsigned)strtoul(PQgetvalue(res, row, 1), NULL, 10));
	c->not_null = PQgetvalue(res, row, 2)[0] == 't';
	c->key = PQgetisnull(res, row, 3) ? -1 : atoi(PQgetvalue(res, row, 3));
	c->value = has_default ? mirror_default(PQgetvalue(res, row, 4)) : NULL;
	t->nkeys += c->key >= 0;
	return c->name != NULL;
}

static int read_columns(struct pgcall *pg, const char *source, struct mirror_table *t)
{
	PGresult *res = ask(pg,
		"SELECT a.attname, coalesce(nullif(y.typbasetype, 0), y.oid)::bigint, "
		"a.attnotnull, "
		"(SELECT k.n - 1 FROM pg_catalog.pg_index i, "
		"unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, n) "
		"WHERE i.indrelid = a.attrelid AND i.indisprimary AND k.attnum = a.attnum "
		"AND k.n <= i.indnkeyatts), pg_catalog.pg_get_expr(d.adbin, d.adrelid) "
		"FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type y ON y.oid = a.atttypid "
		"LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = "
		"a.attnum "
		"WHERE a.attrelid = to_regclass($1::text) AND a.attnum > 0 AND NOT a.attisdropped "
		"ORDER BY a.attnum",
		source);
	bool memory = true;

	if (res == NULL) {
		return -1;
	}
	t->columns = calloc((size_t)PQntuples(res) + 1, sizeof(*t->columns));
	memory = t->columns != NULL;
	for (int i = 0; memory && i < PQntuples(res); i++) {
		memory = set_column(t, &t->columns[t->ncolumns++], res, i);
	}
	PQclear(res);
	if (!memory) {
		return complain(pg, "53200", "out of memory in the broker", source);
	}
	return t->ncolumns > 0 ? 0 : complain(pg, "42P01", "the table has no columns", source);
}

/* The definition: the table, and indexes on plain columns. */
static int read_indexes(struct pgcall *pg, const char *source, struct mirror_table *t)
{
	PGresult *res = ask(pg,
		"SELECT i.indisunique, array_to_string(ARRAY(SELECT a.attname "
		"FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, n) "
		"JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
		"WHERE k.n <= i.indnkeyatts ORDER BY k.n), chr(1)) FROM pg_catalog.pg_index i "
		"WHERE i.indrelid = to_regclass($1::text) AND NOT i.indisprimary AND i.indisvalid "
		"AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY i.indexrelid",
		source);
	sqlite3_str *s;

	if (res == NULL) {
		return -1;
	}
	s = sqlite3_str_new(NULL);
	sqlite3_str_appendf(s, "CREATE TABLE \"%w\" (", t->name);
	put_columns(s, t, false);
	sqlite3_str_appendall(s, ")");
	for (int i = 0; i < PQntuples(res); i++) {
		put_index(
			s, t, (unsigned)i, PQgetvalue(res, i, 0)[0] == 't', PQgetvalue(res, i, 1));
	}
	PQclear(res);
	t->definition = take(s);
	return t->definition != NULL ? 0 : complain(pg, "53200", "out of memory", source);
}

int mirror_table_read(struct pgcall *pg, const char *source, struct mirror_table *out)
{
	struct mirror_table *t = out;
	sqlite3_str *s;

	*t = (struct mirror_table){0};
	if (read_name(pg, source, t) < 0 || read_columns(pg, source, t) < 0 ||
		read_indexes(pg, source, t) < 0) {
		mirror_table_finish(t);
		return -1;
	}
	s = sqlite3_str_new(NULL);
	put_columns(s, t, true);
	t->stage_columns = take(s);
	t->select = make_select(t, source);
	t->key_match = t->nkeys > 0 ? make_key_match(t) : NULL;
	if (t->stage_columns == NULL || t->select == NULL ||
		(t->nkeys > 0 && t->key_match == NULL)) {
		mirror_table_finish(t);
		return complain(pg, "53200", "out of memory in the broker", source);
	}
	return 0;
}
