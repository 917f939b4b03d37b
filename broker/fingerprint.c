/* SPDX-License-Identifier: MIT */
/* fingerprint.c - see fingerprint.h. */
#include "fingerprint.h"

#include "check.h"
#include "hash.h"
#include "sqllex.h"

#include <stdlib.h>
#include <string.h>

/* Brackets that stand deeper inside each other are written, but their lists are not folded. */
#define MAX_DEPTH 48u

/* What stood last, as far as the next token depends on it. */
enum last {
	LAST_NOTHING, /* the beginning */
	LAST_OPENING, /* ( [ */
	LAST_COMMA,
	LAST_OPERATOR,
	LAST_JOINT, /* . :: which have no space around them */
	LAST_KEYWORD, /* a word after which a value begins */
	LAST_OPERAND, /* a name, a value, ) ] */
};

/* One level of brackets; level 0 is the statement itself. */
struct level {
	bool list; /* its elements are folded */
	bool rows; /* of VALUES: the list has no brackets of its own */
	bool fresh; /* the next token begins an element */
	size_t start; /* of the element in the text */
	size_t before, before_end; /* the element before it; equal: there is none */
};

struct writer {
	struct fingerprint *out;
	enum last last;
	bool sign; /* a + or - is held back: it may belong to a number */
	char sign_char;
	char word[16]; /* the last token in lower case, if it is a word that fits */
	unsigned depth; /* may be above MAX_DEPTH */
	struct level level[MAX_DEPTH + 1];
	bool full;
};

/* Words after which a value or a list begins, so that a sign there belongs to a number. */
static const char *const keywords[] = {"all", "and", "any", "as", "between", "by", "case", "check",
	"default", "distinct", "else", "except", "exists", "fetch", "filter", "from", "having",
	"ilike", "in", "intersect", "into", "is", "key", "like", "limit", "not", "offset", "on",
	"or", "over", "references", "returning", "select", "set", "similar", "some", "then", "to",
	"union", "using", "values", "when", "where", "with", "within"};

static int compare_words(const void *a, const void *b)
{
	return strcmp(a, *(const char *const *)b);
}

static bool is_keyword(const char *word)
{
	return bsearch(word, keywords, array_size(keywords), sizeof(keywords[0]), compare_words) !=
	       NULL;
}

static bool is_word(const struct writer *w, const char *word)
{
	return strcmp(w->word, word) == 0;
}

static struct level *level_of(struct writer *w)
{
	return w->depth <= MAX_DEPTH ? &w->level[w->depth] : NULL;
}

/* -- writing ----------------------------------------------------------------------------------- */

/* Append a token; words become lower case. */
static void put(struct writer *w, bool space, const char *text, size_t len, bool lower)
{
	struct fingerprint *f = w->out;
	struct level *l = level_of(w);

	if (w->full || f->len + len + 1 > sizeof(f->text)) {
		w->full = true;
		return;
	}
	if (space) {
		f->text[f->len++] = ' ';
	}
	if (l != NULL && l->fresh) {
		l->fresh = false;
		l->start = f->len;
	}
	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		f->text[f->len++] = (char)(lower && c >= 'A' && c <= 'Z' ? c | 0x20 : c);
	}
}

/* A space separates what could be taken for one word or operator, and looks right. */
static bool space_before_value(const struct writer *w)
{
	return w->last != LAST_NOTHING && w->last != LAST_OPENING && w->last != LAST_JOINT;
}

/* The sign that was held back is an operator after all. */
static void put_sign(struct writer *w)
{
	if (w->sign) {
		w->sign = false;
		put(w, space_before_value(w), &w->sign_char, 1, false);
		w->last = LAST_OPERATOR;
	}
}

static void put_value(struct writer *w)
{
	put(w, space_before_value(w), "?", 1, false);
	w->last = LAST_OPERAND;
}

/* -- lists ------------------------------------------------------------------------------------- */

/* An element ends here.  If it has the shape of the one before it, it goes, with its comma. */
static void end_element(struct writer *w, struct level *l)
{
	struct fingerprint *f = w->out;
	size_t len = f->len - l->start, before = l->before_end - l->before;

	if (w->full || l->fresh) {
		return;
	}
	if (before != 0 && before == len &&
		memcmp(f->text + l->start, f->text + l->before, len) == 0) {
		f->len = l->before_end;
	} else {
		l->before = l->start;
		l->before_end = f->len;
	}
}

static void begin_list(struct level *l, bool rows)
{
	*l = (struct level){.list = true, .rows = rows, .fresh = true};
}

/* The rows of VALUES end with the first token that is neither a row nor a comma. */
static void end_rows(struct writer *w)
{
	struct level *l = level_of(w);

	if (l != NULL && l->rows) {
		end_element(w, l);
		*l = (struct level){0};
	}
}

/* -- tokens ------------------------------------------------------------------------------------ */

/* NULL, TRUE and FALSE are values, not parts of IS NULL, SET NULL and the like. */
static bool is_value_word(const struct writer *w)
{
	return (w->last == LAST_OPENING || w->last == LAST_COMMA || w->last == LAST_OPERATOR) &&
	       (is_word(w, "null") || is_word(w, "true") || is_word(w, "false"));
}

static void take_word(struct writer *w, const char *text, size_t len)
{
	struct level *l = level_of(w);
	size_t n = len < sizeof(w->word) ? len : 0;

	for (size_t i = 0; i < n; i++) {
		w->word[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] | 0x20 : text[i]);
	}
	w->word[n] = '\0';
	put_sign(w);
	if (is_value_word(w)) {
		put_value(w);
		return;
	}
	end_rows(w);
	if (l != NULL && l->list && w->last == LAST_OPENING &&
		(is_word(w, "select") || is_word(w, "with") || is_word(w, "table"))) {
		l->list = false; /* IN (SELECT …) is no list */
	}
	put(w, space_before_value(w), text, len, true);
	w->last = is_keyword(w->word) ? LAST_KEYWORD : LAST_OPERAND;
	if (is_word(w, "values") && l != NULL) {
		begin_list(l, true);
	}
}

static void open_bracket(struct writer *w, const char *text, bool square)
{
	bool list = square ? is_word(w, "array") : is_word(w, "in");
	bool call = w->last == LAST_OPERAND;

	put_sign(w);
	put(w, space_before_value(w) && !call, text, 1, false);
	w->last = LAST_OPENING;
	if (++w->depth <= MAX_DEPTH) {
		w->level[w->depth] = (struct level){0};
		if (list) {
			begin_list(&w->level[w->depth], false);
		}
	}
}

static void close_bracket(struct writer *w, const char *text)
{
	struct level *l = level_of(w);

	put_sign(w);
	if (l != NULL && l->list) {
		end_element(w, l);
	}
	w->depth -= w->depth > 0;
	put(w, false, text, 1, false);
	w->last = LAST_OPERAND;
}

static void take_comma(struct writer *w)
{
	struct level *l = level_of(w);

	put_sign(w);
	if (l != NULL && l->list) {
		end_element(w, l);
		l->fresh = false;
	}
	put(w, false, ",", 1, false);
	if (l != NULL) {
		l->fresh = l->list;
	}
	w->last = LAST_COMMA;
}

static void take_operator(struct writer *w, const char *text, size_t len)
{
	bool joint = (len == 2 && memcmp(text, "::", 2) == 0) || (len == 1 && *text == '.');

	put_sign(w);
	end_rows(w);
	if (len == 1 && (*text == '+' || *text == '-') && w->last != LAST_OPERAND &&
		w->last != LAST_JOINT) {
		w->sign = true;
		w->sign_char = *text;
		return;
	}
	put(w, !joint && space_before_value(w) && *text != ';', text, len, false);
	w->last = joint ? LAST_JOINT : LAST_OPERATOR;
}

static void take(struct writer *w, enum sql_token token, const char *text, size_t len)
{
	switch (token) {
	case SQL_NUMBER:
		w->sign = false;
		put_value(w);
		break;
	case SQL_STRING:
	case SQL_PARAM:
		put_sign(w);
		put_value(w);
		break;
	case SQL_WORD:
		take_word(w, text, len);
		return; /* keeps the word */
	case SQL_QUOTED:
		put_sign(w);
		end_rows(w);
		put(w, space_before_value(w), text, len, false);
		w->last = LAST_OPERAND;
		break;
	default:
		if (*text == '(' || *text == '[') {
			open_bracket(w, text, *text == '[');
		} else if (*text == ')' || *text == ']') {
			close_bracket(w, text);
		} else if (*text == ',') {
			take_comma(w);
		} else {
			take_operator(w, text, len);
		}
		break;
	}
	w->word[0] = '\0';
}

/* -- the whole --------------------------------------------------------------------------------- */

/* The text was cut somewhere: in a list, that must not show how far it got. */
static void leave_lists(struct writer *w)
{
	for (unsigned i = 0; i <= w->depth && i <= MAX_DEPTH; i++) {
		const struct level *l = &w->level[i];

		if (l->list && l->before_end != l->before) {
			w->out->len = l->before_end;
			return;
		}
	}
}

static void trim_end(struct fingerprint *f)
{
	while (f->len > 0 && (f->text[f->len - 1] == ';' || f->text[f->len - 1] == ' ')) {
		f->len--;
	}
}

void fingerprint_make(struct fingerprint *out, const char *sql, size_t len)
{
	char buf[FINGERPRINT_INPUT_MAX + 2];
	size_t n = len < FINGERPRINT_INPUT_MAX ? len : FINGERPRINT_INPUT_MAX;
	struct writer w = {.out = out};
	enum sql_token token;
	struct sqllex lx;

	out->len = 0;
	memcpy(buf, sql, n);
	sqllex_begin(&lx, buf, n);
	while (!w.full && (token = sqllex_next(&lx)) != SQL_END) {
		if (n < len && lx.at + lx.len == buf + n) {
			break; /* it may go on behind the cut */
		}
		take(&w, token, lx.at, lx.len);
	}
	put_sign(&w);
	out->truncated = n < len || w.full;
	if (out->truncated) {
		leave_lists(&w);
	} else {
		end_rows(&w);
	}
	trim_end(out);
	out->value = hash_bytes(out->text, out->len);
	out->value += out->value == 0;
}
