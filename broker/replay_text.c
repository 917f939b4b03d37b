/* SPDX-License-Identifier: MIT */
/* replay_text.c - see replay.h: texts of statements and values for PostgreSQL. */
#include "replay.h"

#include "sqlite_value.h"
#include "sqllex.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A text that grows; at NULL: out of memory, all that follows is lost. */
struct growing {
	char *at;
	size_t len, cap;
};

static void put(struct growing *g, const char *bytes, size_t len)
{
	if (g->at != NULL && len >= g->cap - g->len) {
		size_t cap = g->cap * 2 + len;
		char *at = realloc(g->at, cap);

		if (at == NULL) {
			free(g->at);
		}
		g->at = at;
		g->cap = cap;
	}
	if (g->at != NULL) {
		memcpy(g->at + g->len, bytes, len);
		g->len += len;
		g->at[g->len] = '\0';
	}
}

static void put_string(struct growing *g, const char *s)
{
	put(g, s, strlen(s));
}

static struct growing begin(size_t cap)
{
	struct growing g = {malloc(cap + 1), 0, cap + 1};

	if (g.at != NULL) {
		g.at[0] = '\0';
	}
	return g;
}

/* -- the time ---------------------------------------------------------------------------------- */

/* What the word is in PostgreSQL, at the time "YYYY-MM-DD HH:MM:SS"; false: nothing of the kind. */
static bool time_literal(const struct sqllex *lx, const char *time, char *buf, size_t size)
{
	if (lx->len == 17 && strncasecmp(lx->at, "CURRENT_TIMESTAMP", 17) == 0) {
		snprintf(buf, size, "TIMESTAMPTZ '%.19s+00'", time);
	} else if (lx->len == 12 && strncasecmp(lx->at, "CURRENT_DATE", 12) == 0) {
		snprintf(buf, size, "DATE '%.10s'", time);
	} else if (lx->len == 12 && strncasecmp(lx->at, "CURRENT_TIME", 12) == 0) {
		snprintf(buf, size, "TIMETZ '%.8s+00'", time + 11);
	} else {
		return false;
	}
	return true;
}

/* -- what others have to wait for -------------------------------------------------------------- */

/* Words of an INSERT that make its outcome depend on what is in the database. */
struct words {
	enum { FIRST_NONE, FIRST_INSERT, FIRST_CHANGE, FIRST_OTHER } first;
	bool on, after_do, do_update, where, others;
};

static bool is_word(const struct sqllex *lx, const char *word)
{
	return lx->len == strlen(word) && strncasecmp(lx->at, word, lx->len) == 0;
}

static void note_word(struct words *w, const struct sqllex *lx)
{
	if (w->first == FIRST_NONE) {
		w->first = is_word(lx, "INSERT")                            ? FIRST_INSERT
			   : is_word(lx, "UPDATE") || is_word(lx, "DELETE") ? FIRST_CHANGE
									    : FIRST_OTHER;
	}
	w->on |= is_word(lx, "ON");
	w->do_update |= w->after_do && is_word(lx, "UPDATE");
	w->where |= is_word(lx, "WHERE");
	w->others |= is_word(lx, "SELECT") || is_word(lx, "RETURNING");
	w->after_do = is_word(lx, "DO");
}

static struct replay_habits habits_of(const struct words *w)
{
	struct replay_habits h = {.may_differ = true, .may_draw = true};

	if (w->first == FIRST_INSERT) {
		h.upsert = w->on;
		h.may_differ = w->others || (w->on && (!w->do_update || w->where));
	} else if (w->first == FIRST_CHANGE) {
		h.may_draw = false;
	}
	return h;
}

/* -- the text ---------------------------------------------------------------------------------- */

char *replay_text(const char *text, size_t len, int64_t at_us, struct replay_habits *habits)
{
	struct growing g = begin(len);
	char time[SQLITE_TIMESTAMP_MAX], literal[64];
	char *copy = malloc(len + 2);
	const char *from = copy;
	struct words words = {0};
	enum sql_token kind;
	struct sqllex lx;

	if (copy == NULL || !sqlite_format_timestamp(at_us, time)) {
		free(copy);
		free(g.at);
		return NULL;
	}
	memcpy(copy, text, len);
	sqllex_begin(&lx, copy, len);
	while ((kind = sqllex_next(&lx)) != SQL_END) {
		if (kind == SQL_WORD && time_literal(&lx, time, literal, sizeof(literal))) {
			put(&g, text + (from - copy), (size_t)(lx.at - from));
			put_string(&g, literal);
			from = lx.at + lx.len;
		}
		if (kind == SQL_WORD) {
			note_word(&words, &lx);
		}
	}
	put(&g, text + (from - copy), len - (size_t)(from - copy));
	free(copy);
	*habits = habits_of(&words);
	return g.at;
}

/* -- values as JSON ---------------------------------------------------------------------------- */

/* The next character, and the bytes it takes; a byte that begins none stands for itself. */
static uint32_t decode(const unsigned char *p, size_t left, size_t *n)
{
	size_t want = p[0] < 0xc2 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 1;
	uint32_t c = want == 1 ? p[0] : p[0] & (0x7fu >> want);

	*n = 1;
	if (want > left) {
		return p[0];
	}
	for (size_t i = 1; i < want; i++) {
		if ((p[i] & 0xc0) != 0x80) {
			return p[0];
		}
		c = c << 6 | (p[i] & 0x3fu);
	}
	*n = want;
	return c;
}

static void put_escaped(struct growing *g, uint32_t c)
{
	char buf[16];

	if (c == '"' || c == '\\') {
		snprintf(buf, sizeof(buf), "\\%c", (char)c);
	} else if (c >= 0x20 && c < 0x7f) {
		snprintf(buf, sizeof(buf), "%c", (char)c);
	} else if (c < 0x10000) {
		snprintf(buf, sizeof(buf), "\\u%04x", (unsigned)c);
	} else {
		c -= 0x10000;
		snprintf(buf, sizeof(buf), "\\u%04x\\u%04x", 0xd800u + (unsigned)(c >> 10),
			0xdc00u + (unsigned)(c & 0x3ffu));
	}
	put_string(g, buf);
}

static void put_text(struct growing *g, const struct request_param *p)
{
	const unsigned char *at = p->data;

	put_string(g, "\"");
	for (size_t i = 0, n; i < p->len; i += n) {
		put_escaped(g, decode(at + i, p->len - i, &n));
	}
	put_string(g, "\"");
}

static void put_blob(struct growing *g, const struct request_param *p)
{
	const unsigned char *at = p->data;
	char buf[4];

	put_string(g, "{\"blob\": \"");
	for (uint32_t i = 0; i < p->len; i++) {
		snprintf(buf, sizeof(buf), "%02x", at[i]);
		put_string(g, buf);
	}
	put_string(g, "\"}");
}

static void put_double(struct growing *g, const struct request_param *p)
{
	char buf[PG_DOUBLE_MAX];
	double d;

	memcpy(&d, p->data, sizeof(d));
	(void)pg_format_double(d, buf);
	put_string(g, isfinite(d) ? "" : "\"");
	put_string(g, buf);
	put_string(g, isfinite(d) ? "" : "\"");
}

static void put_integer(struct growing *g, const struct request_param *p)
{
	char buf[PG_TIMESTAMP_MAX];
	int64_t v;

	memcpy(&v, p->data, sizeof(v));
	if (p->type == CELL_INT64) {
		snprintf(buf, sizeof(buf), "%" PRId64, v);
		put_string(g, buf);
	} else {
		(void)pg_format_timestamp(v, buf);
		put_string(g, "\"");
		put_string(g, buf);
		put_string(g, "\"");
	}
}

static void put_value(struct growing *g, const struct request_param *p)
{
	switch (p->type) {
	case CELL_BOOL:
		put_string(g, *(const unsigned char *)p->data != 0 ? "true" : "false");
		break;
	case CELL_INT64:
	case CELL_TIMESTAMP:
		put_integer(g, p);
		break;
	case CELL_DOUBLE:
		put_double(g, p);
		break;
	case CELL_TEXT:
	case CELL_JSON:
		put_text(g, p);
		break;
	case CELL_BLOB:
		put_blob(g, p);
		break;
	default:
		put_string(g, "null");
		break;
	}
}

char *replay_params_json(unsigned nparams, const struct request_param *params)
{
	struct growing g = begin(64);

	put_string(&g, "[");
	for (unsigned i = 0; i < nparams; i++) {
		put_string(&g, i > 0 ? ", " : "");
		put_value(&g, &params[i]);
	}
	put_string(&g, "]");
	return g.at;
}
