/* SPDX-License-Identifier: MIT */
/* test_pg_param.c - formatting of parameters for PostgreSQL, against the C library where it can. */
#include "pg_param.h"
#include "tap.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t random64(void)
{
	return (uint64_t)random() << 42 ^ (uint64_t)random() << 21 ^ (uint64_t)random();
}

static void test_doubles(void)
{
	static const struct {
		double x;
		const char *text;
	} cases[] = {{0.1, "0.1"}, {1e300, "1e+300"}, {-0.0, "-0"}, {1.0 / 3, "0.3333333333333333"},
		{5e-324, "4.94065645841247e-324"}, {INFINITY, "Infinity"}, {-INFINITY, "-Infinity"},
		{NAN, "NaN"}};
	char buf[PG_DOUBLE_MAX];
	unsigned good = 0;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t n = pg_format_double(cases[i].x, buf);

		is_str(buf, cases[i].text, "%s", cases[i].text);
		is_int((int64_t)n, (int64_t)strlen(buf), "its length");
	}
	for (int i = 0; i < 100000; i++) {
		uint64_t bits = random64();
		double x, back;

		memcpy(&x, &bits, sizeof(x));
		pg_format_double(x, buf);
		back = strtod(buf, NULL);
		good += isnan(x) ? isnan(back) : memcmp(&x, &back, sizeof(x)) == 0;
	}
	is_int(good, 100000, "random doubles read back equal");
}

static void test_timestamps(void)
{
	static const struct {
		int64_t us;
		const char *text;
	} cases[] = {{0, "1970-01-01 00:00:00.000000+00"}, {-1, "1969-12-31 23:59:59.999999+00"},
		{INT64_C(951782400000000), "2000-02-29 00:00:00.000000+00"},
		{INT64_C(253402300800000000), "10000-01-01 00:00:00.000000+00"},
		{INT64_C(-62135596800000000), "0001-01-01 00:00:00.000000+00"},
		{INT64_C(-62135596800000001), "0001-12-31 23:59:59.999999+00 BC"},
		{INT64_MAX, "294247-01-10 04:00:54.775807+00"},
		{INT64_MIN, "290309-12-21 19:59:05.224192+00 BC"}};
	char buf[PG_TIMESTAMP_MAX], want[PG_TIMESTAMP_MAX];
	unsigned good = 0;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t n = pg_format_timestamp(cases[i].us, buf);

		is_str(buf, cases[i].text, "%s", cases[i].text);
		is_int((int64_t)n, (int64_t)strlen(buf), "its length");
	}
	for (int i = 0; i < 100000; i++) { /* years 1 to 9999 */
		int64_t s = (int64_t)(random64() % 315537897600u) - INT64_C(62135596800);
		time_t t = (time_t)s;
		struct tm tm;
		size_t n;

		gmtime_r(&t, &tm);
		n = (size_t)snprintf(want, sizeof(want), "%04d-", tm.tm_year + 1900);
		strftime(want + n, sizeof(want) - n, "%m-%d %H:%M:%S.000000+00", &tm);
		pg_format_timestamp(s * 1000000, buf);
		good += strcmp(buf, want) == 0;
	}
	is_int(good, 100000, "random times as the C library has them");
}

static void test_set(void)
{
	int64_t n = -7;
	unsigned char yes = 1;
	struct request_param q[] = {{&n, 8, CELL_INT64}, {NULL, 0, CELL_NULL}, {"ab", 2, CELL_TEXT},
		{"\0x", 2, CELL_BLOB}, {&yes, 1, CELL_BOOL}, {NULL, 0, CELL_TEXT}};
	struct request r = {.nparams = 6, .params = q};
	struct pg_params p = {0};
	unsigned bad = 99;

	is_int(pg_params_set(&p, &r, &bad), PG_PARAM_OK, "a statement's parameters");
	is_str(p.values[0], "-7", "integer");
	ok(p.values[1] == NULL, "NULL");
	is_str(p.values[2], "ab", "text is terminated");
	ok(p.values[3] == q[3].data && p.lengths[3] == 2 && p.formats[3] == 1 && p.types[3] == 17,
		"blob stays where it is");
	is_str(p.values[4], "true", "bool");
	is_str(p.values[5], "", "empty text");
	ok(p.any_blob && p.keyable && p.blobs == 8, "blobs are told");
	q[2] = (struct request_param){"a\0b", 3, CELL_JSON};
	is_int(pg_params_set(&p, &r, &bad), PG_PARAM_NUL, "a NUL character is refused");
	is_int(bad, 2, "and named");
	r.nparams = 2;
	is_int(pg_params_set(&p, &r, &bad), PG_PARAM_OK, "the next statement");
	ok(!p.any_blob && p.blobs == 0, "knows nothing of the last");
	pg_params_finish(&p);
}

static void test_many(void)
{
	static struct request_param q[CHAN_MAX_PARAMS];
	struct request r = {.nparams = CHAN_MAX_PARAMS, .params = q};
	struct pg_params p = {0};
	unsigned bad;

	for (unsigned i = 0; i < CHAN_MAX_PARAMS; i++) {
		q[i] = (struct request_param){"x", 1, i == 64 ? CELL_BLOB : CELL_TEXT};
	}
	is_int(pg_params_set(&p, &r, &bad), PG_PARAM_OK, "as many as the protocol takes");
	is_str(p.values[CHAN_MAX_PARAMS - 1], "x", "to the last");
	ok(!p.keyable, "a blob beyond the 64th cannot be a key");
	pg_params_trim(&p);
	pg_params_finish(&p);
}

int main(void)
{
	srandom(1);
	test_doubles();
	test_timestamps();
	test_set();
	test_many();
	return done_testing();
}
