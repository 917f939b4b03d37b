/* SPDX-License-Identifier: MIT */
/* query.c - see query.h.  A parser by recursive descent, and nodes that are walked for each row. */
#include "query.h"

#include <ctype.h>
#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* So deep conditions are nobody's wish, and the stack is not endless. */
#define DEPTH_MAX 64u
#define VALUE_MAX 256u

enum op {
	OP_OR,
	OP_AND,
	OP_NOT,
	OP_TRUE,
	OP_EQ,
	OP_NE,
	OP_LT,
	OP_LE,
	OP_GT,
	OP_GE,
	OP_LIKE,
	OP_UNLIKE
};

struct node {
	enum op op;
	unsigned left, right; /* of OR and AND; NOT has left */
	unsigned field;
	double number;
	char *text;
};

struct query {
	const struct query_field *fields;
	unsigned nfields;
	struct node *nodes;
	unsigned nnodes, room, root;
};

struct parser {
	struct query *q;
	const char *start, *p;
	unsigned depth;
	struct query_error *err;
	bool failed;
};

static unsigned parse_or(struct parser *ps);

__attribute__((format(printf, 3, 4))) static void fail(
	struct parser *ps, const char *at, const char *fmt, ...)
{
	va_list ap;

	if (ps->failed) {
		return;
	}
	ps->failed = true;
	ps->err->at = (size_t)(at - ps->start);
	va_start(ap, fmt);
	vsnprintf(ps->err->text, sizeof(ps->err->text), fmt, ap);
	va_end(ap);
}

static unsigned add_node(struct parser *ps, struct node n)
{
	struct query *q = ps->q;

	if (q->nnodes == q->room) {
		unsigned room = q->room * 2 + 16;
		struct node *v = realloc(q->nodes, room * sizeof(*v));

		if (v == NULL) {
			fail(ps, ps->p, "out of memory");
			free(n.text);
			return 0;
		}
		q->nodes = v;
		q->room = room;
	}
	q->nodes[q->nnodes] = n;
	return q->nnodes++;
}

static void skip_space(struct parser *ps)
{
	while (isspace((unsigned char)*ps->p)) {
		ps->p++;
	}
}

static bool take(struct parser *ps, const char *token)
{
	skip_space(ps);
	if (strncmp(ps->p, token, strlen(token)) != 0) {
		return false;
	}
	ps->p += strlen(token);
	return true;
}

static bool is_word(char c)
{
	return c != '\0' && !isspace((unsigned char)c) && strchr("()&|!=<>~\"'", c) == NULL;
}

/* What stands between quotes, or a bare word; false: neither, or too long. */
static bool take_value(struct parser *ps, char out[VALUE_MAX])
{
	const char *begin;
	size_t n = 0;
	char quote = '\0';

	skip_space(ps);
	begin = ps->p;
	if (*ps->p == '"' || *ps->p == '\'') {
		quote = *ps->p++;
	}
	while (quote != '\0' ? *ps->p != quote && *ps->p != '\0' : is_word(*ps->p)) {
		if (*ps->p == '\\' && ps->p[1] != '\0') {
			ps->p++;
		}
		if (n == VALUE_MAX - 1) {
			fail(ps, begin, "this value is too long");
			return false;
		}
		out[n++] = *ps->p++;
	}
	out[n] = '\0';
	if (quote != '\0' && *ps->p != quote) {
		fail(ps, begin, "this quote does not end");
		return false;
	}
	ps->p += quote != '\0';
	if (quote == '\0' && n == 0) {
		fail(ps, begin, "a value is missing here");
		return false;
	}
	return true;
}

static bool parse_number(const char *s, double *out)
{
	static const struct {
		const char *name;
		double factor;
	} units[] = {{"", 1}, {"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60},
		{"h", 3600}, {"d", 86400}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}};
	char *end;
	double v = strtod(s, &end);

	if (end == s || !isfinite(v)) {
		return false;
	}
	for (unsigned i = 0; i < array_size(units); i++) {
		if (strcmp(end, units[i].name) == 0) {
			*out = v * units[i].factor;
			return true;
		}
	}
	return false;
}

static bool take_comparison(struct parser *ps, enum op *op)
{
	static const struct {
		const char *token;
		enum op op;
	} tokens[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"!~", OP_UNLIKE}, {"<=", OP_LE}, {">=", OP_GE},
		{"<", OP_LT}, {">", OP_GT}, {"=", OP_EQ}, {"~", OP_LIKE}};

	for (unsigned i = 0; i < array_size(tokens); i++) {
		if (take(ps, tokens[i].token)) {
			*op = tokens[i].op;
			return true;
		}
	}
	return false;
}

/* The fields there are, for an error message. */
static const char *field_names(const struct query *q, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < q->nfields && n < size; i++) {
		n += (size_t)snprintf(buf + n, size - n, i == 0 ? "%s" : " %s", q->fields[i].name);
	}
	return buf;
}

static unsigned find_field(struct parser *ps)
{
	const struct query *q = ps->q;
	const char *begin;
	char names[96];
	size_t n = 0;

	skip_space(ps);
	begin = ps->p;
	while (is_word(begin[n])) {
		n++;
	}
	if (n == 0) {
		fail(ps, begin,
			*begin == '\0' ? "a condition is missing here"
				       : "a field is expected here");
		return 0;
	}
	ps->p += n;
	for (unsigned i = 0; i < q->nfields; i++) {
		if (strlen(q->fields[i].name) == n &&
			strncasecmp(q->fields[i].name, begin, n) == 0) {
			return i;
		}
	}
	fail(ps, begin, "no such field; there are: %s", field_names(q, names, sizeof(names)));
	return 0;
}

static unsigned parse_comparison(struct parser *ps)
{
	struct node n = {.op = OP_TRUE, .field = find_field(ps)};
	char value[VALUE_MAX];
	const char *at;
	bool text, pattern;

	skip_space(ps);
	at = ps->p;
	if (ps->failed || !take_comparison(ps, &n.op)) {
		return add_node(ps, n);
	}
	text = ps->q->fields[n.field].type == QUERY_TEXT;
	pattern = n.op == OP_LIKE || n.op == OP_UNLIKE;
	if (text && !pattern && n.op != OP_EQ && n.op != OP_NE) {
		fail(ps, at, "texts are not compared by size; use == != ~ or !~");
	} else if (!text && pattern) {
		fail(ps, at, "numbers are not compared with ~");
	}
	skip_space(ps);
	at = ps->p;
	if (!take_value(ps, value)) {
		return 0;
	}
	if (!text && !parse_number(value, &n.number)) {
		fail(ps, at, "not a number");
	}
	n.text = strdup(value);
	if (n.text == NULL) {
		fail(ps, at, "out of memory");
	}
	return add_node(ps, n);
}

static unsigned parse_not(struct parser *ps)
{
	unsigned i = 0;

	skip_space(ps);
	if (++ps->depth > DEPTH_MAX) {
		fail(ps, ps->p, "too deep");
	} else if (take(ps, "!")) {
		i = parse_not(ps);
		i = add_node(ps, (struct node){.op = OP_NOT, .left = i});
	} else if (take(ps, "(")) {
		i = parse_or(ps);
		if (!take(ps, ")")) {
			fail(ps, ps->p, "a ) is missing here");
		}
	} else {
		i = parse_comparison(ps);
	}
	ps->depth--;
	return i;
}

static unsigned parse_and(struct parser *ps)
{
	unsigned left = parse_not(ps);

	while (!ps->failed && take(ps, "&&")) {
		unsigned right = parse_not(ps);

		left = add_node(ps, (struct node){.op = OP_AND, .left = left, .right = right});
	}
	return left;
}

static unsigned parse_or(struct parser *ps)
{
	unsigned left = parse_and(ps);

	while (!ps->failed && take(ps, "||")) {
		unsigned right = parse_and(ps);

		left = add_node(ps, (struct node){.op = OP_OR, .left = left, .right = right});
	}
	return left;
}

struct query *query_parse(const char *condition, const struct query_field *fields, unsigned nfields,
	struct query_error *err)
{
	struct query *q = calloc(1, sizeof(*q));
	struct parser ps = {.q = q, .start = condition, .p = condition, .err = err};

	*err = (struct query_error){0};
	if (q == NULL) {
		snprintf(err->text, sizeof(err->text), "out of memory");
		return NULL;
	}
	q->fields = fields;
	q->nfields = nfields;
	q->root = parse_or(&ps);
	skip_space(&ps);
	if (*ps.p != '\0') {
		fail(&ps, ps.p, "&&, || or the end is expected here");
	}
	if (ps.failed) {
		query_free(&q);
	}
	return q;
}

void query_free(struct query **q)
{
	if (*q == NULL) {
		return;
	}
	for (unsigned i = 0; i < (*q)->nnodes; i++) {
		free((*q)->nodes[i].text);
	}
	free((*q)->nodes);
	free(*q);
	*q = NULL;
}

bool query_like(const char *text, const char *pattern)
{
	if (strpbrk(pattern, "*?[") != NULL) {
		return fnmatch(pattern, text, FNM_CASEFOLD) == 0;
	}
	return strcasestr(text, pattern) != NULL;
}

static bool compare_number(enum op op, double a, double b)
{
	switch (op) {
	case OP_EQ:
		return a >= b && a <= b;
	case OP_NE:
		return a < b || a > b;
	case OP_LT:
		return a < b;
	case OP_LE:
		return a <= b;
	case OP_GT:
		return a > b;
	default:
		return a >= b;
	}
}

static bool compare_text(enum op op, const char *a, const char *b)
{
	switch (op) {
	case OP_EQ:
		return strcmp(a, b) == 0;
	case OP_NE:
		return strcmp(a, b) != 0;
	case OP_LIKE:
		return query_like(a, b);
	default:
		return !query_like(a, b);
	}
}

static bool match(const struct query *q, unsigned i, query_get get, const void *row)
{
	const struct node *n = &q->nodes[i];
	struct query_value v;
	bool text;

	switch (n->op) {
	case OP_OR:
		return match(q, n->left, get, row) || match(q, n->right, get, row);
	case OP_AND:
		return match(q, n->left, get, row) && match(q, n->right, get, row);
	case OP_NOT:
		return !match(q, n->left, get, row);
	default:
		break;
	}
	v = get(row, n->field);
	text = q->fields[n->field].type == QUERY_TEXT;
	if (n->op == OP_TRUE) {
		return text ? v.text[0] != '\0' : v.number < 0 || v.number > 0;
	}
	return text ? compare_text(n->op, v.text, n->text)
		    : compare_number(n->op, v.number, n->number);
}

bool query_match(const struct query *q, query_get get, const void *row)
{
	return match(q, q->root, get, row);
}
