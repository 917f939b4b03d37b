/* SPDX-License-Identifier: MIT */
/*
 * test_pg_values.c - parameters and results of every type between a worker and PostgreSQL, and the
 * session settings that their formats rely on.
 */
#include "pg_case.h"

#include <math.h>

#define V(...) ((struct broker_value[]){__VA_ARGS__})

static void test_parameters(struct broker *b)
{
	static const unsigned char bytes[] = {0, 1, 0xff, 'a', 0};
	int64_t us = INT64_C(1769903999123456); /* 2026-01-31 23:59:59.123456 */

	is_str(case_text(b, NULL, "SELECT $1::bool", 1, V(broker_bool(true))), "true", "bool");
	is_str(case_text(b, NULL, "SELECT $1::int8", 1, V(broker_int64(INT64_MIN))),
		"-9223372036854775808", "smallest integer");
	is_str(case_text(b, NULL, "SELECT $1::int4 + 1", 1, V(broker_int64(41))), "42", "int4");
	is_str(case_text(b, NULL, "SELECT $1::float8", 1, V(broker_double(0.1))), "0.1",
		"a double in its shortest form");
	is_str(case_text(b, NULL, "SELECT $1::float8 = 5e-324", 1, V(broker_double(5e-324))),
		"true", "smallest double");
	is_str(case_text(b, NULL, "SELECT $1::float8 = 'NaN'", 1, V(broker_double(NAN))), "true",
		"not a number");
	is_str(case_text(
		       b, NULL, "SELECT $1::float8 = '-Infinity'", 1, V(broker_double(-INFINITY))),
		"true", "infinity");
	is_str(case_text(b, NULL, "SELECT $1::numeric", 1, V(broker_double(1.5))), "1.5",
		"numeric");
	is_str(case_text(b, NULL, "SELECT $1", 1, V(broker_text("gr\xc3\xbc\xc3\x9f"))),
		"gr\xc3\xbc\xc3\x9f", "text of no declared type");
	is_str(case_text(b, NULL, "SELECT '[' || $1 || ']'", 1, V(broker_text(""))), "[]",
		"empty text");
	is_str(case_text(b, NULL, "SELECT $1::jsonb ->> 'a'", 1, V(broker_json("{\"a\": 7}"))), "7",
		"json");
	is_str(case_text(b, NULL, "SELECT encode($1, 'hex')", 1,
		       V(broker_blob(bytes, sizeof(bytes)))),
		"0001ff6100", "blob is bytea without a cast");
	is_str(case_text(b, NULL, "SELECT length($1)", 1, V(broker_blob(NULL, 0))), "0",
		"empty blob");
	is_str(case_text(b, NULL, "SELECT ($1::timestamptz AT TIME ZONE 'UTC')::text", 1,
		       V(broker_timestamp(us))),
		"2026-01-31 23:59:59.123456", "timestamp");
	is_str(case_text(b, NULL, "SELECT ($1::timestamptz AT TIME ZONE 'UTC')::text", 1,
		       V(broker_timestamp(INT64_C(-62135596800000001)))),
		"0001-12-31 23:59:59.999999 BC", "a microsecond before the year 1");
	is_str(case_text(b, NULL, "SELECT $1::timestamp::text", 1, V(broker_timestamp(-1))),
		"1969-12-31 23:59:59.999999", "timestamp without time zone takes UTC");
	is_str(case_text(b, NULL, "SELECT $1::text IS NULL", 1, V(broker_null())), "true", "NULL");
	is_str(case_text(b, NULL, "SELECT concat($1::int, $2::text, $3::bool, $4::int)", 4,
		       V(broker_int64(1), broker_text("x"), broker_bool(false), broker_null())),
		"1xf", "several");
}

static void test_bad_parameters(struct broker *b)
{
	is_int(broker_exec(b, "SELECT $1::text, $2::text", 2,
		       V(broker_text("fine"), broker_textn("a\0b", 3)), NULL, NULL),
		BROKER_E_ARGUMENT, "text with a NUL character is refused");
	ok(strstr(broker_error(b)->message, "$2") != NULL, "the message names the parameter");
	is_int(broker_exec(b, "SELECT $1::int", 1, V(broker_text("x")), NULL, NULL),
		BROKER_E_DATABASE, "what is no number is refused by the server");
	is_str(case_sqlstate(b), "22P02", "with its code");
	is_int(broker_exec(b, "SELECT $2::int", 1, V(broker_int64(1)), NULL, NULL),
		BROKER_E_DATABASE, "too few parameters");
	is_str(case_text(b, NULL, "SELECT 1", 0, NULL), "1", "the connection is as good as before");
}

static void test_many_parameters(struct broker *b)
{
	enum { N = 1000 };
	struct broker_value *v = calloc(N, sizeof(*v));
	char *sql = malloc(N * 16), *p = sql;

	p += sprintf(p, "SELECT 0");
	for (int i = 0; i < N; i++) {
		v[i] = i % 3 == 2 ? broker_blob("abc", 3) : broker_int64(i);
		p += i % 3 == 2 ? sprintf(p, "+length($%d)", i + 1)
				: sprintf(p, "+$%d::int", i + 1);
	}
	for (int round = 0; round < 3; round++) {
		/* 0 + 1 + ... + 999 without every third, of which there are 333, and 3 for each of
		 * those */
		is_str(case_text(b, NULL, sql, N, v), "333999", "a thousand parameters, round %d",
			round);
	}
	free(v);
	free(sql);
}

struct cell_case {
	const char *sql, *text;
	enum broker_type type;
};

static void test_results(struct broker *b)
{
	static const struct cell_case cases[] = {
		{"SELECT true", "true", BROKER_BOOL},
		{"SELECT (-7)::int2", "-7", BROKER_INT64},
		{"SELECT 2147483647", "2147483647", BROKER_INT64},
		{"SELECT 9223372036854775807", "9223372036854775807", BROKER_INT64},
		{"SELECT 0.1::float4", "0.1", BROKER_DOUBLE},
		{"SELECT 1e300::float8", "1e+300", BROKER_DOUBLE},
		{"SELECT 'x'::varchar(3)", "x", BROKER_TEXT},
		{"SELECT 12.50::numeric", "12.50", BROKER_TEXT},
		{"SELECT '2026-01-31'::date", "2026-01-31", BROKER_TEXT},
		{"SELECT '1 day 02:00'::interval", "1 day 02:00:00", BROKER_TEXT},
		{"SELECT ARRAY[1,2]", "{1,2}", BROKER_TEXT},
		{"SELECT '{\"a\":1}'::json", "{\"a\":1}", BROKER_JSON},
		{"SELECT '{\"a\":1}'::jsonb", "{\"a\": 1}", BROKER_JSON},
		{"SELECT '2026-01-31 12:00+02'::timestamptz", "2026-01-31 10:00:00+00",
			BROKER_TIMESTAMP},
		{"SELECT '2026-01-31 12:00:00.5'::timestamp", "2026-01-31 12:00:00.5+00",
			BROKER_TIMESTAMP},
		{"SELECT NULL::int", "(null)", BROKER_NULL},
	};
	struct broker_result *r;
	const void *data;
	size_t len;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		is_str(case_text(b, NULL, cases[i].sql, 0, NULL), cases[i].text, "%s",
			cases[i].sql);
		if (broker_exec(b, cases[i].sql, 0, NULL, NULL, &r) == 0) {
			is_int(broker_next(r), 1, "a row");
			is_int(broker_value_type(r, 0), (int)cases[i].type, "its type");
			broker_result_free(&r);
		}
	}
	is_int(broker_exec(b, "SELECT '\\x00ff61'::bytea, 'n'", 0, NULL, NULL, &r), 0, "bytea");
	is_int(broker_next(r), 1, "a row");
	is_int(broker_get_blob(r, 0, &data, &len), 0, "is a blob");
	ok(len == 3 && memcmp(data, "\x00\xff\x61", 3) == 0, "with its bytes");
	broker_result_free(&r);
}

static void test_shapes(struct broker *b)
{
	struct broker_result *r;
	int64_t sum = 0, x;

	is_int(broker_exec(b, "SELECT 1 AS a, 2 AS b WHERE false", 0, NULL, NULL, &r), 0,
		"no rows");
	is_int(broker_columns(r), 2, "but columns");
	is_str(broker_column_name(r, 1), "b", "with names");
	is_int(broker_next(r), 0, "and an end");
	is_int(broker_rows(r), 0, "counted");
	broker_result_free(&r);

	is_int(broker_exec(b, "SELECT g FROM generate_series(1, 1000) g", 0, NULL, NULL, &r), 0,
		"a thousand rows");
	while (broker_next(r) == 1) {
		sum += broker_get_int64(r, 0, &x) == 0 ? x : -1;
	}
	is_int(sum, 500500, "all of them");
	is_int(broker_rows(r), 1000, "counted");
	broker_result_free(&r);

	is_int(case_run(b, NULL, "CREATE TABLE shape(a int, b text)"), 0, "create");
	is_int(broker_exec(b, "INSERT INTO shape SELECT g, 'x' FROM generate_series(1,5) g", 0,
		       NULL, NULL, &r),
		0, "insert");
	is_int(broker_rows(r), 5, "counts what it wrote");
	is_int(broker_columns(r), 0, "and returns nothing");
	broker_result_free(&r);
	is_int(broker_exec(
		       b, "UPDATE shape SET b = 'y' WHERE a > 2 RETURNING a", 0, NULL, NULL, &r),
		0, "update returning");
	is_int(broker_next(r), 1, "returns rows");
	while (broker_next(r) == 1) {
	}
	is_int(broker_rows(r), 3, "and counts them");
	broker_result_free(&r);
	is_int(broker_exec(b, "SELECT", 0, NULL, NULL, &r), 0, "a row without columns");
	is_int(broker_columns(r), 0, "has none");
	broker_result_free(&r);
	is_int(case_run(b, NULL, ""), 0, "an empty statement");
	is_int(case_run(b, NULL, "SELECT 1; SELECT 2"), BROKER_E_DATABASE, "two statements in one");
	is_str(case_sqlstate(b), "42601", "are a syntax error");
}

static void test_settings(struct broker *b)
{
	is_str(case_text(b, NULL, "SHOW TimeZone", 0, NULL), "UTC", "time zone");
	is_str(case_text(b, NULL, "SHOW client_encoding", 0, NULL), "UTF8", "encoding");
	is_str(case_text(b, NULL, "SHOW application_name", 0, NULL), "shmbroker", "name");
	is_str(case_text(b, NULL, "SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'", 0,
		       NULL),
		"UTC", "RESET comes back to them");
	is_str(case_text(b, NULL, "SHOW default_transaction_read_only", 0, NULL), "off",
		"writable");
}

int main(void)
{
	struct pg_case t;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(
		(const char *const[]){"timezone=America/New_York", "datestyle=SQL, DMY", NULL},
		NULL);
	test_parameters(t.b);
	test_bad_parameters(t.b);
	test_many_parameters(t.b);
	test_results(t.b);
	test_shapes(t.b);
	test_settings(t.b);
	case_end(&t);
	return done_testing();
}
