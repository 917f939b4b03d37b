/* SPDX-License-Identifier: MIT */
/*
 * test_pg_binary.c - results with bytea, which come as text at first and in binary from the third
 * time on: nobody may see a difference.
 *
 * That they do change their form is told by the bytes the broker hands out: a value of 100,000
 * bytes is 200,000 digits as text.
 */
#include "behave.h"
#include "pg_case.h"

#define TIMES 6
#define LARGE 100000

static const char all_sql[] =
	"SELECT '\\x00ff61'::bytea, -2::int2, 70000::int4, (-9223372036854775808)::int8, true, "
	"'gr\303\274n'::text, 'ab'::varchar(5), 'ab'::char(4), 'n'::name, '{\"a\": 1}'::json, "
	"NULL::bytea, NULL::int4, ''::bytea, false";
/* In one column there is something that stays text, so all do. */
static const char mixed_sql[] = "SELECT '\\x00ff61'::bytea, 1.50::numeric, 0.1::float4, "
				"'2026-01-31 10:00:00+00'::timestamptz, '{\"a\": 1}'::jsonb";

static const char *const all_text[] = {NULL, "-2", "70000", "-9223372036854775808", "true",
	"gr\303\274n", "ab", "ab  ", "n", "{\"a\": 1}", "(null)", "(null)", NULL, "false"};
static const char *const mixed_text[] = {
	NULL, "1.50", "0.1", "2026-01-31 10:00:00+00", "{\"a\": 1}"};

static bool is_bytes(struct broker_result *r, int column, const void *want, size_t want_len)
{
	const void *data;
	size_t len;

	return broker_value_type(r, column) == BROKER_BLOB &&
	       broker_get_blob(r, column, &data, &len) == 0 && len == want_len &&
	       memcmp(data, want, len) == 0;
}

static bool is_text(struct broker_result *r, int column, const char *want)
{
	const char *text = "(null)";
	int rc = broker_get_text(r, column, &text, NULL);

	return (rc == 0 || rc == BROKER_E_NULL) && strcmp(text, want) == 0;
}

static void check_row(struct broker *b, const char *sql, const char *const *want, int n, int time)
{
	struct broker_result *r;
	int good = 0;

	if (!ok(broker_exec(b, sql, 0, NULL, NULL, &r) == 0, "time %d", time)) {
		return;
	}
	is_int(broker_next(r), 1, "a row");
	for (int i = 0; i < n; i++) {
		bool same = want[i] != NULL ? is_text(r, i, want[i])
			    : i == 0        ? is_bytes(r, i, "\0\xff\x61", 3)
					    : is_bytes(r, i, "", 0);

		good += same;
		if (!same) {
			diag("time %d: column %d differs", time, i);
		}
	}
	is_int(good, n, "all its values, time %d", time);
	is_int(broker_next(r), 0, "and no other");
	broker_result_free(&r);
}

static void test_values(struct broker *b)
{
	struct broker_result *r;
	int64_t x = 0;

	for (int i = 0; i < TIMES; i++) {
		check_row(b, all_sql, all_text, 14, i);
	}
	for (int i = 0; i < TIMES; i++) {
		check_row(b, mixed_sql, mixed_text, 5, i);
	}
	is_int(broker_exec(b, all_sql, 0, NULL, NULL, &r), 0, "once more");
	is_int(broker_next(r), 1, "a row");
	ok(broker_get_int64(r, 1, &x) == 0 && x == -2, "int2 as a number");
	ok(broker_get_int64(r, 3, &x) == 0 && x == INT64_MIN, "int8 as a number");
	ok(broker_get_int64(r, 4, &x) == 0 && x == 1, "bool as a number");
	is_int(broker_value_type(r, 9), BROKER_JSON, "json is json");
	broker_result_free(&r);
}

/* Bytes handed to workers by one more run. */
static int64_t delivered(struct pg_case *t, const char *sql)
{
	const char *label = "dir=\"to_workers\"";
	int64_t before = behave_metric(t->proc, "broker_bytes_total", label);
	struct broker_result *r;
	const void *data;
	size_t len = 0;

	if (broker_exec(t->b, sql, 0, NULL, NULL, &r) < 0 || broker_next(r) != 1 ||
		broker_get_blob(r, 0, &data, &len) < 0) {
		bail_out("%s: %s", sql, broker_error(t->b)->message);
	}
	is_int((int64_t)len, LARGE, "the value");
	broker_result_free(&r);
	return behave_metric(t->proc, "broker_bytes_total", label) - before;
}

static void test_form(struct pg_case *t)
{
	static const char sql[] = "SELECT data FROM large";
	int64_t bytes;

	is_int(case_run(t->b, NULL, "CREATE TABLE large(data bytea)"), 0, "a table");
	is_int(case_run(t->b, NULL, "INSERT INTO large SELECT decode(repeat('ab', 100000), 'hex')"),
		0, "a large value");
	bytes = delivered(t, sql);
	ok(bytes >= 2 * LARGE, "text at first: %lld bytes", (long long)bytes);
	(void)delivered(t, sql);
	bytes = delivered(t, sql);
	ok(bytes >= LARGE && bytes < LARGE + 1000, "binary later: %lld bytes", (long long)bytes);
	ok(behave_metric(t->proc, "broker_prepared_total", "state=\"hit\"") > 0,
		"hits of prepared statements are counted");
	/* The type changes under the prepared statement. */
	is_int(case_run(t->b, NULL,
		       "ALTER TABLE large ALTER data TYPE text USING encode(data, 'hex')"),
		0, "bytea becomes text");
	is_int((int64_t)strlen(case_text(t->b, NULL, "SELECT left(data, 6) FROM large", 0, NULL)),
		6, "another statement sees it");
	for (int i = 0; i < 3; i++) {
		const char *text = case_text(t->b, NULL, sql, 0, NULL);

		ok(strncmp(text, "abababab", 8) == 0, "the same statement sees text, time %d", i);
	}
}

int main(void)
{
	struct pg_case t;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(NULL, (const char *const[]){"pool main.max_size=1", NULL});
	test_values(t.b);
	test_form(&t);
	case_end(&t);
	return done_testing();
}
