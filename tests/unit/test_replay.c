/* SPDX-License-Identifier: MIT */
/* test_replay.c - what texts of the journal become, and what is known of them before they run. */
#include "replay.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

/* 2026-01-31 23:59:59 */
#define WHEN INT64_C(1769903999000000)

static void test_habits(void)
{
	static const struct {
		const char *text;
		bool may_differ, may_draw;
	} map[] = {
		{"INSERT INTO t VALUES (1)", false, true},
		{"insert into t (a, b) values ($1, 'select returning'), (3, \"where\")", false,
			true},
		{"/* UPDATE */ INSERT INTO t DEFAULT VALUES -- RETURNING", false, true},
		{"INSERT INTO t VALUES (1) RETURNING id", true, true},
		{"INSERT INTO t SELECT * FROM u", true, true},
		{"INSERT INTO t VALUES ((SELECT max(a) FROM t))", true, true},
		{"INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", true, true},
		{"INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 2", false, true},
		{"INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 2 WHERE t.a < 7",
			true, true},
		{"UPDATE t SET a = 1", true, false},
		{"-- INSERT\n delete FROM t", true, false},
		{"WITH s AS (SELECT 1) INSERT INTO t SELECT * FROM s", true, true},
		{"REPLACE INTO t VALUES (1)", true, true},
		{"", true, true},
	};

	for (size_t i = 0; i < array_size(map); i++) {
		struct replay_habits h;
		char *text = replay_text(map[i].text, strlen(map[i].text), WHEN, &h);

		ok(text != NULL && h.may_differ == map[i].may_differ &&
				h.may_draw == map[i].may_draw,
			"%s: %s, %s", map[i].text,
			map[i].may_differ ? "may differ" : "as before or an error",
			map[i].may_draw ? "may draw a key" : "draws none");
		is_str(text, map[i].text, "the text stays");
		free(text);
	}
}

static void test_time(void)
{
	static const char sql[] = "INSERT INTO t VALUES (current_timestamp, 'CURRENT_DATE', "
				  "CURRENT_DATE, current_time)";
	struct replay_habits h;
	char *text = replay_text(sql, strlen(sql), WHEN, &h);

	is_str(text,
		"INSERT INTO t VALUES (TIMESTAMPTZ '2026-01-31 23:59:59+00', 'CURRENT_DATE', "
		"DATE '2026-01-31', TIMETZ '23:59:59+00')",
		"the time at which it was accepted");
	free(text);
}

static void test_json(void)
{
	static const int64_t number = -5;
	static const unsigned char yes = 1;
	struct request_param p[] = {{&number, 8, CELL_INT64}, {"a\"\n\xc3\xa9", 5, CELL_TEXT},
		{NULL, 0, CELL_NULL}, {"\x01\xff", 2, CELL_BLOB}, {&yes, 1, CELL_BOOL}};
	char *text = replay_params_json(5, p);

	is_str(text, "[-5, \"a\\\"\\u000a\\u00e9\", null, {\"blob\": \"01ff\"}, true]",
		"parameters as JSON");
	free(text);
}

int main(void)
{
	test_habits();
	test_time();
	test_json();
	return done_testing();
}
