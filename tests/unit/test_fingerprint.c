/* SPDX-License-Identifier: MIT */
/* test_fingerprint.c - what counts as the same shape of statement, and what does not. */
#include "fingerprint.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct fingerprint f;

static const char *shape(const char *sql)
{
	static char text[FINGERPRINT_TEXT_MAX + 1];

	fingerprint_make(&f, sql, strlen(sql));
	memcpy(text, f.text, f.len);
	text[f.len] = '\0';
	return text;
}

static void test_shapes(void)
{
	static const struct {
		const char *sql, *shape;
	} cases[] = {
		{"SELECT 1", "select ?"},
		{"select /* c */ a -- it's\nfrom\tt ; ", "select a from t"},
		{"select a.b, t . c from \"T x\".\"y\"\"\" where `z` = 1",
			"select a.b, t.c from \"T x\".\"y\"\"\" where `z` = ?"},
		{"select 'a', E'a\\'b', $$it's$$, $t$ $$ $t$, x'1f', b'01', u&'x', n'y', 'a'\n'b'",
			"select ?, ?, ?, ?, ?, ?, ?, ?, ?"},
		{"select 1, 1.5, .5, 1e10, 0xff, 1_000", "select ?, ?, ?, ?, ?, ?"},
		{"select 'password\\' or 1", "select ? or ?"},
		{"select 'never ends; drop table x", "select ?"},
		{"select $x$ never ends $y$", "select ?"},
		{"select E'never ends\\", "select ?"},
		{"select '5'::int, cast('x' as text), a::int[]",
			"select ?::int, cast(? as text), a::int[]"},
		{"select a-1, a - 1, (a)-1, -1, 3 - -1 from t where x=-1 and y <-1 limit +1",
			"select a - ?, a - ?, (a) - ?, ?, ? - ? from t where x = ? and y < ? limit "
			"?"},
		{"select -a, - (1), a between -1 and -2, case when a = -1 then -2 else -3 end",
			"select - a, - (?), a between ? and ?, case when a = ? then ? else ? end"},
		{"select date '2020-01-01', interval '1 day' * 3", "select date ?, interval ? * ?"},
		{"update t set a = NULL, b = true where c is null and d is not true",
			"update t set a = ?, b = ? where c is null and d is not true"},
		{"select j @> '{}', j ? 'k', j->>'x', a||'b' from t",
			"select j @> ?, j ? ?, j ->> ?, a || ? from t"},
		{"select array[1,2,3], array[[1,2],[3,4]], x[1], x[1:2]",
			"select array[?], array[[?, ?]], x[?], x[? : ?]"},
		{"select count(*), f(), g(1, 2) from t", "select count(*), f(), g(?, ?) from t"},
		{"select * from t where (a, b) in ((1, 2), (3, 4))",
			"select * from t where (a, b) in ((?, ?))"},
		{"select * from t where a in (select b, b, b from u where c in (1, 2))",
			"select * from t where a in (select b, b, b from u where c in (?))"},
		{"select * from (values (1, 'a'), (2, 'b')) as v(x, y)",
			"select * from (values (?, ?)) as v(x, y)"},
		{"insert into t values (default, 1), (default, 2), (now(), 3)",
			"insert into t values (default, ?), (now(), ?)"},
		{"begin; select 1; commit;", "begin; select ?; commit"},
		{"", ""},
		{"/* nothing */ ;", ""},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		is_str(shape(cases[i].sql), cases[i].shape, "%s", cases[i].sql);
	}
}

/* All spellings of one statement, up to NULL. */
static void test_same(void)
{
	static const char *const groups[][9] = {
		{"SELECT a FROM t WHERE b = 'x' AND c IN (1, 2, 3)",
			"select a from t where b='it''s' and c in(7)",
			"select a\n\tfrom t -- comment's\n where b = $tag$x$tag$ and c in (-1,+2)",
			"Select A From T Where B = E'\\'' /* 'x' /* y */ */ And C In (1.5, .5, "
			"1e9);",
			"select a from t where b = $1 and c in ($2, $3, $4, $5)",
			"select a from t where b = NULL and c in (null, 1, true)",
			"select a from t where b = 'unterminated'\n'going on' and c in (('1'))",
			NULL},
		{"insert into t (a, b) values (1, 'x') on conflict do nothing",
			"INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING",
			"insert into t (a, b) values (1, null), (2, 'y'), (3, 'z') on conflict do "
			"nothing;",
			NULL},
		{"select * from t where id = any('{1,2}'::int[])",
			"select * from t where id = any ( $1 :: int [] )", NULL},
	};

	for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++) {
		uint64_t first;

		(void)shape(groups[g][0]);
		first = f.value;
		for (size_t i = 1; groups[g][i] != NULL; i++) {
			bool odd = g == 0 && i == 6; /* ((…)) is a list in a list */

			(void)shape(groups[g][i]);
			ok((f.value == first) != odd, "%s", groups[g][i]);
		}
	}
}

static void test_different(void)
{
	static const char *const texts[] = {"select a from t", "select b from t",
		"select \"A\" from t", "select \"a\" from t", "select a, a from t",
		"select a from t t2", "select a.t", "select f(1)", "select f(1, 2)", "select f()",
		"select a + 1", "select a - 1", "select a is null", "select a is not null",
		"delete from t", "select 1 from t", "select 1, 1 from t", "select a < b",
		"select a <= b", "select a < = b", "select ab", "select a b"};
	unsigned n = sizeof(texts) / sizeof(texts[0]), equal = 0;
	uint64_t values[sizeof(texts) / sizeof(texts[0])];

	for (unsigned i = 0; i < n; i++) {
		(void)shape(texts[i]);
		values[i] = f.value;
		for (unsigned k = 0; k < i; k++) {
			equal += values[i] == values[k];
			if (values[i] == values[k]) {
				diag("%s = %s", texts[i], texts[k]);
			}
		}
	}
	is_int(equal, 0, "%u statements that differ in more than literals have different shapes",
		n);
	(void)shape("");
	ok(f.value != 0, "a fingerprint is never 0");
}

/* Lists of any length have one shape, however much of them is looked at. */
static void test_long(void)
{
	char *sql = malloc(1 << 20), *p;
	unsigned differ = 0;
	uint64_t first;

	if (sql == NULL) {
		bail_out("no memory");
	}
	(void)shape("select * from t where id in (1) and x = 2");
	first = f.value;
	for (unsigned n = 1; n < 2000; n = n * 3 / 2 + 1) {
		p = sql + sprintf(sql, "select * from t where id in (");
		for (unsigned i = 0; i < n; i++) {
			p += sprintf(p, "%s%u", i > 0 ? "," : "", i);
		}
		strcpy(p, ") and x = 3");
		(void)shape(sql);
		differ += f.value != first || f.truncated;
	}
	is_int(differ, 0, "lists of 1 to 2000 numbers");
	for (unsigned cut = 0; cut < 60; cut++) {
		p = sql + sprintf(sql, "insert into t values ");
		for (unsigned i = 0; i < 5000 + cut; i++) {
			p += sprintf(p, "%s(%u, 'text %u')", i > 0 ? ", " : "", i + cut, i * cut);
		}
		(void)shape(sql);
		if (cut == 0) {
			first = f.value;
		}
		differ += f.value != first || !f.truncated;
	}
	is_int(differ, 0, "lists that are longer than what is looked at, wherever that cuts them");
	is_str(shape(sql), "insert into t values (?, ?)", "and nothing shows where");
	free(sql);
}

static void test_bounds(void)
{
	char *sql = malloc(200000);
	size_t len = 100000;

	for (size_t i = 0; i < len; i++) {
		sql[i] = "ab,"[i % 3];
	}
	fingerprint_make(&f, sql, len);
	ok(f.truncated && f.len <= sizeof(f.text), "a shape that does not fit is cut");
	memset(sql, '(', len);
	fingerprint_make(&f, sql, len);
	ok(f.truncated && f.len > 1000, "a hundred thousand brackets");
	memset(sql, ')', len);
	fingerprint_make(&f, sql, len);
	ok(f.len > 1000, "closed, but not opened");
	memset(sql, 0, len);
	fingerprint_make(&f, sql, len);
	ok(f.value != 0, "NUL bytes");
	for (unsigned seed = 7, i = 0; i < 3000; i++) {
		size_t n = seed % 300;

		for (size_t k = 0; k < n; k++) {
			seed = seed * 1103515245u + 12345u;
			sql[k] = seed & 0x8000000 ? "'(),[]in- $\"E.;:"[seed >> 16 & 15]
						  : (char)(seed >> 16);
		}
		fingerprint_make(&f, sql, n);
		if (f.len > sizeof(f.text) || f.value == 0) {
			ok(false, "random bytes, round %u", i);
		}
	}
	ok(true, "random bytes");
	free(sql);
}

int main(void)
{
	test_shapes();
	test_same();
	test_different();
	test_long();
	test_bounds();
	return done_testing();
}
