/* SPDX-License-Identifier: MIT */
/* test_client_isotime.c - timestamps as text and back, against the C library's calendar. */
#include "isotime.h"
#include "tap.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define S INT64_C(1000000)

static const struct {
	const char *text;
	int rc;
	int64_t us;
} parse_cases[] = {
	{"1970-01-01 00:00:00+00", 0, 0},
	{"1970-01-01", 0, 0},
	{"2026-01-31 23:59:59.123456+00", 0, 1769903999 * S + 123456},
	{"2026-01-31T23:59:59.123456Z", 0, 1769903999 * S + 123456},
	{"2026-01-31 23:59:59.5", 0, 1769903999 * S + 500000},
	{"2026-01-31 23:59:59.1234567", 0, 1769903999 * S + 123456},
	{"2026-01-31 23:59", 0, 1769903940 * S},
	{"2026-02-01 05:29:59.123456+05:30", 0, 1769903999 * S + 123456},
	{"2026-02-01 05:29:59.123456+0530", 0, 1769903999 * S + 123456},
	{"2026-01-31 15:59:59.123456-08", 0, 1769903999 * S + 123456},
	{"1900-01-01 00:00:00+00:19:32", 0, -2208989972 * S},
	{"1969-12-31 23:59:59.999999", 0, -1},
	{"0001-01-01 00:00:00", 0, -62135596800 * S},
	{"2000-02-29", 0, 951782400 * S},
	{"294247-01-10 04:00:54.775807+00", 0, INT64_MAX},
	{"294247-01-10 04:00:54.775808+00", ISOTIME_RANGE, 0},
	{"infinity", ISOTIME_RANGE, 0},
	{"-infinity", ISOTIME_RANGE, 0},
	{"0044-03-15 BC", ISOTIME_RANGE, 0},
	{"0044-03-15 12:00:00+00 BC", ISOTIME_RANGE, 0},
	{"0000-01-01", ISOTIME_RANGE, 0},
	{"9999999-01-01", ISOTIME_RANGE, 0},
	{"", ISOTIME_MALFORMED, 0},
	{"2026", ISOTIME_MALFORMED, 0},
	{"2026-1-01", ISOTIME_MALFORMED, 0},
	{"2026-13-01", ISOTIME_MALFORMED, 0},
	{"2026-00-01", ISOTIME_MALFORMED, 0},
	{"2026-02-29", ISOTIME_MALFORMED, 0},
	{"1900-02-29", ISOTIME_MALFORMED, 0},
	{"2026-04-31", ISOTIME_MALFORMED, 0},
	{"2026-01-01 24:00:00", ISOTIME_MALFORMED, 0},
	{"2026-01-01 23:60:00", ISOTIME_MALFORMED, 0},
	{"2026-01-01 23:59:60", ISOTIME_MALFORMED, 0},
	{"2026-01-01 23:59:59.", ISOTIME_MALFORMED, 0},
	{"2026-01-01 23", ISOTIME_MALFORMED, 0},
	{"2026-01-01 23:59:59+5", ISOTIME_MALFORMED, 0},
	{"2026-01-01 23:59:59+25", ISOTIME_MALFORMED, 0},
	{"2026-01-01 23:59:59 ", ISOTIME_MALFORMED, 0},
	{"2026-01-01x", ISOTIME_MALFORMED, 0},
	{"now", ISOTIME_MALFORMED, 0},
};

static void test_parse(void)
{
	for (unsigned i = 0; i < array_size(parse_cases); i++) {
		int64_t us = 42;
		int rc = isotime_parse(parse_cases[i].text, strlen(parse_cases[i].text), &us);

		is_int(rc, parse_cases[i].rc, "\"%s\": accepted or refused", parse_cases[i].text);
		is_int(us, rc == 0 ? parse_cases[i].us : 42, "\"%s\": value", parse_cases[i].text);
	}
}

static void test_format(void)
{
	static const struct {
		int64_t us;
		const char *text;
	} cases[] = {
		{0, "1970-01-01 00:00:00+00"},
		{-1, "1969-12-31 23:59:59.999999+00"},
		{1769903999 * S + 123456, "2026-01-31 23:59:59.123456+00"},
		{500000, "1970-01-01 00:00:00.5+00"},
		{951782400 * S, "2000-02-29 00:00:00+00"},
		{-62135596800 * S, "0001-01-01 00:00:00+00"},
		{-62135596800 * S - 1, "0001-12-31 23:59:59.999999+00 BC"},
		{INT64_MAX, "294247-01-10 04:00:54.775807+00"},
		{INT64_MIN, "290309-12-21 19:59:05.224192+00 BC"},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		char out[ISOTIME_MAX];
		size_t n = isotime_format(cases[i].us, out);

		is_str(out, cases[i].text, "%" PRId64 " as text", cases[i].us);
		is_int((int64_t)n, (int64_t)strlen(out), "its length");
	}
}

/* Every 371 hours over 2800 years: the C library agrees, and the text reads back. */
static void test_calendar(void)
{
	unsigned wrong = 0, unread = 0;

	for (int64_t t = -30000000000; t < 60000000000; t += 371 * 3600 + 17) {
		char ours[ISOTIME_MAX], theirs[64];
		time_t c = (time_t)t;
		struct tm tm;
		int64_t back = 0;
		size_t n = isotime_format(t * S, ours);

		gmtime_r(&c, &tm);
		strftime(theirs, sizeof(theirs), "%Y-%m-%d %H:%M:%S+00", &tm);
		wrong += strcmp(ours, theirs) != 0;
		unread += isotime_parse(ours, n, &back) != 0 || back != t * S;
	}
	is_int(wrong, 0, "every text is that of the C library");
	is_int(unread, 0, "every text reads back");
}

int main(void)
{
	test_parse();
	test_format();
	test_calendar();
	return done_testing();
}
