/* SPDX-License-Identifier: MIT */
/* test_querylog.c - parameter values as text. */
#include "querylog.h"
#include "tap.h"

#include <stdio.h>
#include <string.h>

static char buf[400];

static const char *text(const struct request_param *p, unsigned n, size_t size)
{
	size_t len = querylog_params(buf, size, p, n);

	if (len > size) {
		bail_out("longer than its place");
	}
	buf[len] = '\0';
	return buf;
}

int main(void)
{
	static const char yes = 1, no = 0;
	static const int64_t number = -42;
	static const double real = 0.5;
	char big[1000];
	const struct request_param all[] = {
		{.type = CELL_NULL},
		{.data = &yes, .len = 1, .type = CELL_BOOL},
		{.data = &no, .len = 1, .type = CELL_BOOL},
		{.data = &number, .len = 8, .type = CELL_INT64},
		{.data = &real, .len = 8, .type = CELL_DOUBLE},
		{.data = "it's", .len = 4, .type = CELL_TEXT},
		{.data = "\0\xff", .len = 2, .type = CELL_BLOB},
		{.data = "{}", .len = 2, .type = CELL_JSON},
		{.data = &number, .len = 8, .type = CELL_TIMESTAMP},
	};
	const struct request_param long_one = {.data = big, .len = sizeof(big), .type = CELL_TEXT};
	const struct request_param long_blob = {.data = big, .len = sizeof(big), .type = CELL_BLOB};
	struct request_param many[100];

	is_str(text(all, 9, 300),
		"$1 = NULL, $2 = true, $3 = false, $4 = -42, $5 = 0.5, $6 = 'it''s', $7 = \\x00ff, "
		"$8 = '{}', $9 = -42 us since 1970",
		"every type");
	is_str(text(all, 0, 300), "", "none");
	memset(big, 'x', sizeof(big));
	ok(strlen(text(&long_one, 1, 300)) == 130 && strcmp(buf + 125, "x'...") == 0,
		"a long value is cut");
	ok(strlen(text(&long_blob, 1, 300)) == 130 && strcmp(buf + 123, "7878...") == 0,
		"so are many bytes");
	for (unsigned i = 0; i < 100; i++) {
		many[i] = all[5];
	}
	ok(strlen(text(many, 100, 300)) == 300 && strcmp(buf + 297, "...") == 0,
		"a long list fills its place and says that it goes on");
	is_str(text(all + 3, 1, 6), "$1 ...", "a small place");
	return done_testing();
}
