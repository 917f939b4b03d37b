/* SPDX-License-Identifier: MIT */
/* test_client_convert.c - what each getter takes, from native cells and from PostgreSQL's text. */
#include "convert.h"
#include "shmbroker.h"
#include "tap.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct cell pgtext(uint8_t type, const char *s)
{
	return (struct cell){.p = (const void *)s,
		.len = (uint32_t)strlen(s),
		.type = type,
		.encoding = CELL_PGTEXT};
}

static struct cell text(const char *s)
{
	struct cell c = pgtext(CELL_TEXT, s);

	c.encoding = CELL_NATIVE;
	return c;
}

static struct cell native(uint8_t type, const void *p, uint32_t len)
{
	return (struct cell){.p = p, .len = len, .type = type, .encoding = CELL_NATIVE};
}

static void test_bool(void)
{
	static const struct {
		struct cell c;
		int rc;
		bool value;
	} cases[] = {
		{{(const void *)"\1", 1, CELL_BOOL, CELL_NATIVE}, 0, true},
		{{(const void *)"\0", 1, CELL_BOOL, CELL_NATIVE}, 0, false},
		{{(const void *)"\1\1", 2, CELL_BOOL, CELL_NATIVE}, BROKER_E_TYPE, false},
		{{(const void *)"t", 1, CELL_BOOL, CELL_PGTEXT}, 0, true},
		{{(const void *)"f", 1, CELL_BOOL, CELL_PGTEXT}, 0, false},
		{{(const void *)"1", 1, CELL_INT64, CELL_PGTEXT}, 0, true},
		{{(const void *)"2", 1, CELL_INT64, CELL_PGTEXT}, BROKER_E_RANGE, false},
		{{(const void *)"true", 4, CELL_TEXT, CELL_NATIVE}, 0, true},
		{{(const void *)"0", 1, CELL_TEXT, CELL_NATIVE}, 0, false},
		{{(const void *)"yes", 3, CELL_TEXT, CELL_NATIVE}, BROKER_E_TYPE, false},
		{{(const void *)"1", 1, CELL_JSON, CELL_NATIVE}, BROKER_E_TYPE, false},
		{{(const void *)"1.0", 3, CELL_DOUBLE, CELL_PGTEXT}, BROKER_E_TYPE, false},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		bool v = !cases[i].value;

		is_int(convert_bool(&cases[i].c, &v), cases[i].rc, "bool %u: code", i);
		ok(v == (cases[i].rc == 0 ? cases[i].value : !cases[i].value), "bool %u: value", i);
	}
}

static void test_int64(void)
{
	static const struct {
		uint8_t type;
		const char *s;
		int rc;
		int64_t value;
	} cases[] = {
		{CELL_INT64, "0", 0, 0},
		{CELL_INT64, "-1", 0, -1},
		{CELL_INT64, "9223372036854775807", 0, INT64_MAX},
		{CELL_INT64, "-9223372036854775808", 0, INT64_MIN},
		{CELL_INT64, "9223372036854775808", BROKER_E_RANGE, 0},
		{CELL_INT64, "-9223372036854775809", BROKER_E_RANGE, 0},
		{CELL_INT64, "99999999999999999999999999", BROKER_E_RANGE, 0},
		{CELL_TEXT, "+17", 0, 17},
		{CELL_TEXT, "007", 0, 7},
		{CELL_TEXT, "", BROKER_E_TYPE, 0},
		{CELL_TEXT, "-", BROKER_E_TYPE, 0},
		{CELL_TEXT, " 1", BROKER_E_TYPE, 0},
		{CELL_TEXT, "1 ", BROKER_E_TYPE, 0},
		{CELL_TEXT, "1.0", BROKER_E_TYPE, 0},
		{CELL_TEXT, "0x10", BROKER_E_TYPE, 0},
		{CELL_DOUBLE, "1e3", 0, 1000},
		{CELL_DOUBLE, "-0", 0, 0},
		{CELL_DOUBLE, "1.5", BROKER_E_RANGE, 0},
		{CELL_DOUBLE, "9.3e18", BROKER_E_RANGE, 0},
		{CELL_DOUBLE, "-9223372036854775808", 0, INT64_MIN},
		{CELL_DOUBLE, "NaN", BROKER_E_RANGE, 0},
		{CELL_DOUBLE, "Infinity", BROKER_E_RANGE, 0},
		{CELL_BOOL, "t", 0, 1},
		{CELL_TIMESTAMP, "2026-01-01", BROKER_E_TYPE, 0},
		{CELL_BLOB, "\\x31", BROKER_E_TYPE, 0},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		struct cell c = pgtext(cases[i].type, cases[i].s);
		int64_t v = 42;
		int rc = convert_int64(&c, &v);

		is_int(rc, cases[i].rc, "\"%s\" as int64: code", cases[i].s);
		is_int(v, rc == 0 ? cases[i].value : 42, "\"%s\" as int64: value", cases[i].s);
	}
	int64_t v = -5, got = 0;
	struct cell c = native(CELL_INT64, &v, sizeof(v));

	ok(convert_int64(&c, &got) == 0 && got == -5, "a native integer");
	c.len = 4;
	is_int(convert_int64(&c, &got), BROKER_E_TYPE, "a native integer of wrong length");
}

static void test_double(void)
{
	static const struct {
		const char *s;
		int rc;
		double value;
	} cases[] = {
		{"0", 0, 0.0},
		{"1.5", 0, 1.5},
		{"-2.25", 0, -2.25},
		{"0.1", 0, 0.1},
		{"123456789012345", 0, 123456789012345.0},
		{"1234567890123456789", 0, 1234567890123456789.0},
		{"0.30000000000000004", 0, 0.30000000000000004},
		{"1e-320", 0, 1e-320},
		{"1.7976931348623157e+308", 0, 1.7976931348623157e+308},
		{"1e400", BROKER_E_RANGE, 0},
		{"", BROKER_E_TYPE, 0},
		{".", BROKER_E_TYPE, 0},
		{"1..2", BROKER_E_TYPE, 0},
		{"1,5", BROKER_E_TYPE, 0},
		{"0x1p3", BROKER_E_TYPE, 0},
		{"nan", BROKER_E_TYPE, 0},
		{"1e", BROKER_E_TYPE, 0},
		{"1 ", BROKER_E_TYPE, 0},
		{"Infinity", 0, HUGE_VAL},
		{"-Infinity", 0, -HUGE_VAL},
	};
	char digits[300];
	double v;

	for (unsigned i = 0; i < array_size(cases); i++) {
		struct cell c = pgtext(i % 2 ? CELL_TEXT : CELL_DOUBLE, cases[i].s);

		v = 42;
		is_int(convert_double(&c, &v), cases[i].rc, "\"%s\" as double: code", cases[i].s);
		ok(v == (cases[i].rc == 0 ? cases[i].value : 42), "\"%s\" as double: value",
			cases[i].s);
	}
	struct cell c = pgtext(CELL_DOUBLE, "NaN");

	ok(convert_double(&c, &v) == 0 && isnan(v), "NaN");
	memset(digits, '3', sizeof(digits) - 1);
	digits[1] = '.';
	digits[sizeof(digits) - 1] = '\0';
	c = text(digits);
	ok(convert_double(&c, &v) == 0 && v == 3.3333333333333335, "a number of 299 characters");
}

static void test_double_text(void)
{
	static const struct {
		double d;
		const char *s;
	} cases[] = {
		{0.0, "0"},
		{-0.0, "-0"},
		{1.0, "1"},
		{0.1, "0.1"},
		{-1.5, "-1.5"},
		{100000, "100000"},
		{0.30000000000000004, "0.30000000000000004"},
		{1.0 / 3, "0.3333333333333333"},
		{0.0001, "0.0001"},
		{0.00001, "1e-05"},
		{1e14, "100000000000000"},
		{1e15, "1e+15"},
		{1.2345678901234568e17, "1.2345678901234568e+17"},
		{1e100, "1e+100"},
		{5e-324, "4.94065645841247e-324"},
		{1.7976931348623157e308, "1.7976931348623157e+308"},
	};
	unsigned wrong = 0;
	char out[CONVERT_TEXT_MAX];
	uint64_t seed = 1;

	for (unsigned i = 0; i < array_size(cases); i++) {
		size_t n = convert_format_double(cases[i].d, out);

		is_str(out, cases[i].s, "%s as text", cases[i].s);
		is_int((int64_t)n, (int64_t)strlen(cases[i].s), "its length");
	}
	convert_format_double(NAN, out);
	is_str(out, "NaN", "NaN as text");
	convert_format_double(-HUGE_VAL, out);
	is_str(out, "-Infinity", "infinity as text");
	for (unsigned i = 0; i < 20000; i++) {
		double d, back = 0;
		struct cell c;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		memcpy(&d, &seed, sizeof(d));
		if (!isfinite(d)) {
			continue;
		}
		convert_format_double(d, out);
		c = pgtext(CELL_DOUBLE, out);
		wrong += convert_double(&c, &back) != 0 || memcmp(&d, &back, sizeof(d)) != 0;
	}
	is_int(wrong, 0, "random doubles read back equal, bit by bit");
}

/* Neither reading nor writing numbers depends on what the program did with setlocale. */
static void test_locale(void)
{
	static const char *const names[] = {
		"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "nl_NL.UTF-8"};
	const char *got = NULL;
	char out[CONVERT_TEXT_MAX];
	struct cell c = pgtext(CELL_DOUBLE, "12345678901234567.5e-3");
	double v = 0;

	for (unsigned i = 0; got == NULL && i < array_size(names); i++) {
		got = setlocale(LC_NUMERIC, names[i]);
	}
	if (got == NULL) {
		skip("no locale with a decimal comma is installed");
		return;
	}
	ok(convert_double(&c, &v) == 0 && v == 12345678901234567.5e-3, "%s: reads a point", got);
	convert_format_double(1.5, out);
	is_str(out, "1.5", "%s: writes a point", got);
	setlocale(LC_NUMERIC, "C");
}

static void test_text(void)
{
	char out[CONVERT_TEXT_MAX];
	int64_t v = INT64_MIN;
	struct cell c = native(CELL_INT64, &v, sizeof(v));
	size_t len = 0;

	ok(convert_text(&c, out, &len) == 0 && len == 20, "the smallest integer");
	is_str(out, "-9223372036854775808", "its text");
	c = pgtext(CELL_BOOL, "t");
	ok(convert_text(&c, out, &len) == 0 && strcmp(out, "true") == 0, "bool is true or false");
	c = pgtext(CELL_TIMESTAMP, "2026-02-01 05:29:59.5+05:30");
	ok(convert_text(&c, out, &len) == 0 && strcmp(out, "2026-01-31 23:59:59.5+00") == 0,
		"a timestamp is written in UTC");
	c = pgtext(CELL_TIMESTAMP, "infinity");
	is_int(convert_text(&c, out, &len), BROKER_E_RANGE, "infinity has no such form");
	c = text("abc");
	ok(convert_text_in_place(&c), "text is in place");
	c = pgtext(CELL_INT64, "17");
	ok(convert_text_in_place(&c), "and so are PostgreSQL's numbers");
	c = native(CELL_BLOB, "abc", 3);
	ok(!convert_text_in_place(&c), "a blob is not");
}

static void test_blob(void)
{
	unsigned char out[64];
	size_t len = 0;
	struct cell c = pgtext(CELL_BLOB, "\\x00ff7fAB");

	ok(convert_blob(&c, out, &len) == 0 && len == 4 && memcmp(out, "\0\xff\x7f\xab", 4) == 0,
		"hex");
	c = pgtext(CELL_BLOB, "\\x");
	ok(convert_blob(&c, out, &len) == 0 && len == 0, "empty");
	c = pgtext(CELL_BLOB, "\\x0");
	is_int(convert_blob(&c, out, &len), BROKER_E_TYPE, "half a byte");
	c = pgtext(CELL_BLOB, "\\x0g");
	is_int(convert_blob(&c, out, &len), BROKER_E_TYPE, "no hex digit");
	c = pgtext(CELL_BLOB, "a\\\\b\\000\\377");
	ok(convert_blob(&c, out, &len) == 0 && len == 5 && memcmp(out, "a\\b\0\xff", 5) == 0,
		"escapes");
	c = pgtext(CELL_BLOB, "a\\9");
	is_int(convert_blob(&c, out, &len), BROKER_E_TYPE, "no escape");
}

static bool is_text(const char *s)
{
	return convert_is_text((const void *)s, strlen(s));
}

static void test_utf8(void)
{
	ok(is_text("") && is_text("abc") && is_text("h\xc3\xa9") && is_text("\xe2\x82\xac") &&
			is_text("\xf0\x9f\x98\x80") && is_text("\xf4\x8f\xbf\xbf"),
		"well-formed sequences");
	ok(!is_text("\x80") && !is_text("\xc3") && !is_text("\xc3(") && !is_text("\xe2\x82") &&
			!is_text("\xff"),
		"cut and stray bytes");
	ok(!is_text("\xc0\xaf") && !is_text("\xe0\x80\xaf") && !is_text("\xf0\x80\x80\xaf"),
		"overlong");
	ok(!is_text("\xed\xa0\x80") && !is_text("\xf4\x90\x80\x80"), "surrogates, beyond U+10FFFF");
	ok(!convert_is_text((const void *)"a\0b", 3), "NUL");
}

int main(void)
{
	test_bool();
	test_int64();
	test_double();
	test_double_text();
	test_locale();
	test_text();
	test_blob();
	test_utf8();
	return done_testing();
}
