/* SPDX-License-Identifier: MIT */
/*
 * test_sqllex.c - the lexer against lists of tokens, and, where libpg_query is installed, against
 * PostgreSQL's own scanner: on the SQL files that come with PostgreSQL, and on random heaps of the
 * fragments that scanners stumble over.
 */
#include "sqllex.h"
#include "tap.h"

#include <glob.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_PG_QUERY
#include <pg_query.h>
#endif

static const char kinds[] = "$wqsnpo.";

/* A copy that the lexer may write to. */
static char *writable(const char *text, size_t len)
{
	char *buf = malloc(len + 2);

	if (buf == NULL) {
		bail_out("malloc");
	}
	memcpy(buf, text, len);
	return buf;
}

/* The tokens of a text, each as kind and [text]. */
static const char *tokens(const char *text)
{
	static char out[1024];
	char *buf = writable(text, strlen(text));
	enum sql_token t;
	struct sqllex lx;
	size_t n = 0;

	sqllex_begin(&lx, buf, strlen(text));
	out[0] = '\0';
	while ((t = sqllex_next(&lx)) != SQL_END && n < sizeof(out) - 100) {
		n += (size_t)snprintf(
			out + n, sizeof(out) - n, "%c[%.*s]", kinds[t], (int)lx.len, lx.at);
	}
	if (sqllex_next(&lx) != SQL_END) {
		strcpy(out, "no end");
	}
	free(buf);
	return out;
}

static void test_lists(void)
{
	static const struct {
		const char *text, *tokens;
	} cases[] = {
		{"", ""},
		{" \t\n-- x 'y'\n/* a /* b */ ' */ ", ""},
		{"/*+ hint */a", "w[a]"},
		{"/* never /* ends */", ""},
		{"Select a1_$b, \xc3\xa4", "w[Select]w[a1_$b].[,]w[\xc3\xa4]"},
		{"\"a \"\" b\" U&\"\\0061\" `x``y`", "q[\"a \"\" b\"]q[U&\"\\0061\"]q[`x``y`]"},
		{"'a''b' E'a\\'b' e'\\\\' n'x' B'01' x'ff' u&'d\\0061'",
			"s['a''b']s[E'a\\'b']s[e'\\\\']s[n'x']s[B'01']s[x'ff']s[u&'d\\0061']"},
		{"'one'\n 'literal' 'two' 'three'", "s['one'\n 'literal']s['two']s['three']"},
		{"'one' -- and\n -- more\n\t'literal'", "s['one' -- and\n -- more\n\t'literal']"},
		{"'a\\' b", "s['a\\']w[b]"},
		{"$$a $b$ 'c$$ $t$ $$ $tt$ $t$", "s[$$a $b$ 'c$$]s[$t$ $$ $tt$ $t$]"},
		{"$t$a$t$t$", "s[$t$a$t$]w[t$]"},
		{"'never", "s['never]"},
		{"a = E'never\\", "w[a]o[=]s[E'never\\]"},
		{"$x$ never $x", "s[$x$ never $x]"},
		{"\"never", "q[\"never]"},
		{"1 1.5 .5 5. 1e10 1.5E-3 0xFf 0o17 0b01 1_000",
			"n[1]n[1.5]n[.5]n[5.]n[1e10]n[1.5E-3]n[0xFf]n[0o17]n[0b01]n[1_000]"},
		{"1..10", "n[1]o[..]n[10]"},
		{"$1 $22::int", "p[$1]p[$22]o[::]w[int]"},
		{"a=-1", "w[a]o[=]o[-]n[1]"},
		{"a@-1 b||-1 c<=-1", "w[a]o[@-]n[1]w[b]o[||-]n[1]w[c]o[<=]o[-]n[1]"},
		{"a*--x\nb", "w[a]o[*]w[b]"},
		{"a*/*x*/b", "w[a]o[*]w[b]"},
		{"a->>'b' ?| c", "w[a]o[->>]s['b']o[?|]w[c]"},
		{"(a[1:2]).b;", ".[(]w[a].[[]n[1].[:]n[2].[]].[)].[.]w[b].[;]"},
		{":=::=>", "o[:=]o[::]o[=>]"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		is_str(tokens(cases[i].text), cases[i].tokens, "%s", cases[i].text);
	}
}

/* Whatever the bytes are, each token is inside the text, and behind the one before it. */
static void test_bytes(void)
{
	char text[256 + 2];
	unsigned seed = 1, wrong = 0, lost = 0;

	for (unsigned round = 0; round < 20000; round++) {
		char copy[256];
		const char *end = text;
		struct sqllex lx;
		size_t len;

		seed = seed * 1103515245u + 12345u;
		len = seed >> 16 & 0xff;
		for (size_t i = 0; i < len; i++) {
			seed = seed * 1103515245u + 12345u;
			text[i] = seed & 0x8000000 ? "'\"$`/*-+\\e\n1.x "[seed >> 16 & 15]
						   : (char)(seed >> 16);
		}
		memcpy(copy, text, len);
		sqllex_begin(&lx, text, len);
		while (sqllex_next(&lx) != SQL_END) {
			wrong +=
				lx.at < end || lx.len > (size_t)(text + len - lx.at) || lx.len == 0;
			end = lx.at + lx.len;
		}
		lost += memcmp(copy, text, len) != 0;
	}
	is_int(wrong, 0, "tokens of random bytes stand in the text, one behind the other");
	is_int(lost, 0, "and the text is what it was");
}

#ifdef HAVE_PG_QUERY
/* One token of PostgreSQL's scanner, from its result in protocol buffers' encoding: fields 1 start,
 * 2 end, 4 token. */
struct pg_token {
	uint64_t start, end, token;
};

static uint64_t varint(const unsigned char **p)
{
	uint64_t v = 0;

	for (unsigned shift = 0;; shift += 7) {
		unsigned char c = *(*p)++;

		v |= (uint64_t)(c & 0x7f) << shift;
		if (c < 0x80) {
			return v;
		}
	}
}

static bool next_pg(const unsigned char **p, const unsigned char *end, struct pg_token *t)
{
	while (*p < end) {
		uint64_t key = varint(p), len;
		const unsigned char *stop;

		if (key != (2 << 3 | 2)) { /* the version */
			(void)varint(p);
			continue;
		}
		*t = (struct pg_token){0};
		len = varint(p);
		for (stop = *p + len; *p < stop;) {
			uint64_t field = varint(p) >> 3, v = varint(p);

			*(field == 1         ? &t->start
				: field == 2 ? &t->end
					     : &t->token) =
				field == 1 || field == 2 || field == 4 ? v : t->token;
		}
		if (t->token != 275 && t->token != 276) { /* comments */
			return true;
		}
	}
	return false;
}

static enum sql_token kind_of(const struct pg_token *t, const char *text)
{
	switch (t->token) {
	case 260: /* FCONST */
	case 266: /* ICONST */
		return SQL_NUMBER;
	case 261: /* SCONST */
	case 262: /* USCONST */
	case 263: /* BCONST */
	case 264: /* XCONST */
		return SQL_STRING;
	case 265: /* Op */
	case 268: /* :: .. := => <= >= <> */
	case 269:
	case 270:
	case 271:
	case 272:
	case 273:
	case 274:
		return SQL_OPERATOR;
	case 267:
		return SQL_PARAM;
	case 259: /* UIDENT */
		return SQL_QUOTED;
	}
	if (t->token < 256) {
		return strchr("+-*/%^<>=?", (int)t->token) != NULL ? SQL_OPERATOR : SQL_PUNCTUATION;
	}
	return text[t->start] == '"' ? SQL_QUOTED : SQL_WORD;
}

/* 1: all tokens are the same.  0: they are not.  -1: PostgreSQL's scanner finds an error.  Of U&""
 * and U&'' libpg_query tells a wrong end. */
static int compare(const char *text, size_t *count)
{
	PgQueryScanResult r = pg_query_scan(text);
	const unsigned char *p = (const unsigned char *)r.pbuf.data;
	const unsigned char *end = p != NULL ? p + r.pbuf.len : NULL;
	char *buf = writable(text, strlen(text));
	struct pg_token t;
	struct sqllex lx;
	int same = r.error != NULL ? -1 : 1;

	sqllex_begin(&lx, buf, strlen(text));
	while (same == 1) {
		bool more = next_pg(&p, end, &t);
		enum sql_token kind = sqllex_next(&lx);

		if (!more && kind == SQL_END) {
			break;
		}
		same = more && kind == kind_of(&t, text) && (size_t)(lx.at - buf) == t.start &&
		       (lx.len == t.end - t.start || t.token == 259 || t.token == 262);
		if (!same) {
			diag("at %zu: %c[%.*s], PostgreSQL: %zu at %zu to %zu",
				(size_t)(lx.at - buf), kinds[kind], (int)lx.len, lx.at,
				more ? (size_t)t.token : 0, (size_t)t.start, (size_t)t.end);
		}
		(*count)++;
	}
	free(buf);
	pg_query_free_scan_result(r);
	return same;
}

static char *read_file(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 1 << 20);

	if (f == NULL || text == NULL || fread(text, 1, (1 << 20) - 1, f) == 0) {
		bail_out("cannot read %s", path);
	}
	fclose(f);
	return text;
}

static void test_files(const char *pattern)
{
	unsigned files = 0, differ = 0;
	size_t count = 0;
	glob_t g;

	if (glob(pattern, 0, NULL, &g) != 0) {
		skip("there is no %s", pattern);
		return;
	}
	for (size_t i = 0; i < g.gl_pathc; i++) {
		char *text = read_file(g.gl_pathv[i]);
		int same = compare(text, &count);

		files += same >= 0;
		differ += same == 0;
		if (same == 0) {
			diag("%s", g.gl_pathv[i]);
		}
		free(text);
	}
	ok(files > 0 && differ == 0, "%zu tokens of %u files %s are PostgreSQL's", count, files,
		pattern);
	globfree(&g);
}

static void test_heaps(void)
{
	static const char *const fragments[] = {"'", "''", "\"", "a", "E'", "e'\\'", "\\", "$$",
		"$a$", "$1", "$", "1", "1.5", ".", "..", "1e", "e5", "0", "-", "--", "+", "*", "/",
		"/*", "*/", "@", "<", ">", "=", "!", "|", "&", "#", "%", "^", "~", "?", ":",
		"::", ":=", "=>", "(", ")", "[", "]", ",", ";", " ", "\n", "\t", "b'1'", "x'f'",
		"U&'d'", "U&\"d\"", "select", "_b", "\xc3\xa4"};
	unsigned seed = 42, compared = 0, differ = 0;
	size_t count = 0;

	for (unsigned round = 0; round < 30000; round++) {
		char text[256] = "";
		int same;

		for (unsigned i = 0; i < 3 + round % 12; i++) {
			seed = seed * 1103515245u + 12345u;
			strcat(text,
				fragments[(seed >> 16) % (sizeof(fragments) / sizeof(*fragments))]);
		}
		if (strstr(text, "--") != NULL && strchr(text, '\n') != NULL) {
			continue; /* libpg_query takes no comment between parts of a literal */
		}
		same = compare(text, &count);
		compared += same >= 0;
		differ += same == 0;
		if (same == 0 && differ < 10) {
			diag("%s", text);
		}
	}
	ok(compared > 3000 && differ == 0,
		"%zu tokens of %u random texts that PostgreSQL's scanner takes are the same, not "
		"%u",
		count, compared, differ);
}
#endif

int main(void)
{
	test_lists();
	test_bytes();
#ifdef HAVE_PG_QUERY
	test_files("/usr/share/postgresql/*/*.sql");
	test_files("/usr/share/postgresql/*/extension/*.sql");
	test_heaps();
#else
	skip("libpg_query, PostgreSQL's scanner as a library, is not installed");
#endif
	return done_testing();
}
