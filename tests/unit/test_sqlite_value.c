/* SPDX-License-Identifier: MIT */
/* test_sqlite_value.c - declared types and timestamps of SQLite; first words of statements. */
#include "sqlite_db.h"
#include "sqlite_value.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

static void test_types(void)
{
	static const struct {
		const char *decl;
		int type;
		enum sqlite_column class;
	} cases[] = {
		{NULL, CELL_TEXT, SQLITE_COLUMN_ANY},
		{"INTEGER", CELL_INT64, SQLITE_COLUMN_ANY},
		{"bigint", CELL_INT64, SQLITE_COLUMN_ANY},
		{"VARCHAR(20)", CELL_TEXT, SQLITE_COLUMN_ANY},
		{"CHARINT", CELL_INT64, SQLITE_COLUMN_ANY}, /* SQLite's rule: INT comes first */
		{"BLOB", CELL_BLOB, SQLITE_COLUMN_ANY},
		{"double precision", CELL_DOUBLE, SQLITE_COLUMN_ANY},
		{"FLOAT", CELL_DOUBLE, SQLITE_COLUMN_ANY},
		{"NUMERIC(10,2)", CELL_TEXT, SQLITE_COLUMN_ANY},
		{"DATE", CELL_TEXT, SQLITE_COLUMN_ANY},
		{"bool", CELL_BOOL, SQLITE_COLUMN_BOOL},
		{"Boolean", CELL_BOOL, SQLITE_COLUMN_BOOL},
		{"timestamp with time zone", CELL_TIMESTAMP, SQLITE_COLUMN_TIMESTAMP},
		{"DATETIME", CELL_TIMESTAMP, SQLITE_COLUMN_TIMESTAMP},
		{"JSONB", CELL_JSON, SQLITE_COLUMN_JSON},
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		const char *decl = cases[i].decl;

		ok(sqlite_column_type_of_decl(decl) == cases[i].type &&
				sqlite_column_class(decl) == cases[i].class,
			"declared %s", decl != NULL ? decl : "nothing");
	}
}

static void test_timestamps(void)
{
	static const struct {
		const char *text;
		int64_t us;
	} good[] = {
		{"1970-01-01", 0},
		{"1970-01-01 00:00:01", 1000000},
		{"1970-01-01T00:00", 0},
		{"1969-12-31 23:59:59.999999", -1},
		{"2000-02-29 12:00:00", INT64_C(951825600000000)},
		{"2023-11-14 22:13:20.123456", INT64_C(1700000000123456)},
		{"2023-11-14T22:13:20.1234567Z", INT64_C(1700000000123456)},
		{"2023-11-14 22:13:20.5", INT64_C(1700000000500000)},
		{"2023-11-15 00:13:20+02", INT64_C(1700000000000000)},
		{"2023-11-15 00:13:20 +02:00", INT64_C(1700000000000000)},
		{"2023-11-14 17:43:20-0430", INT64_C(1700000000000000)},
		{"0000-01-01", INT64_C(-62167219200000000)},
		{"9999-12-31 23:59:59.999999", INT64_C(253402300799999999)},
	};
	static const char *const wrong[] = {"", "now", "2023", "2023-13-01", "2023-02-29",
		"2023-00-10", "1900-02-29", "2023-11-14 25:00", "2023-11-14 22:60",
		"2023-11-14 2:13", "2023-11-14 22:13:20.", "2023-11-14 22:13:20 x",
		"2023-11-14 22:13:20+", "23-11-14", "2023-11-14x", "2023-11-14 22:13:20+02:0",
		"2460263.4"};

	for (size_t i = 0; i < array_size(good); i++) {
		int64_t us = 42;
		char buf[SQLITE_TIMESTAMP_MAX];
		int64_t again = 43;

		ok(sqlite_parse_timestamp(good[i].text, strlen(good[i].text), &us), "%s",
			good[i].text);
		is_int(us, good[i].us, "is %lld", (long long)good[i].us);
		ok(sqlite_format_timestamp(us, buf) &&
				sqlite_parse_timestamp(buf, strlen(buf), &again) && again == us,
			"and %s", buf);
	}
	for (size_t i = 0; i < array_size(wrong); i++) {
		int64_t us = 42;

		ok(!sqlite_parse_timestamp(wrong[i], strlen(wrong[i]), &us) && us == 42,
			"'%s' is none", wrong[i]);
	}
}

/* Every day of four centuries goes there and back; SQLite itself is the judge of some. */
static void test_calendar(void)
{
	sqlite3 *db = NULL;
	sqlite3_stmt *stmt = NULL;
	bool same = true, order = true;
	char before[SQLITE_TIMESTAMP_MAX] = "";

	if (sqlite3_open(":memory:", &db) != SQLITE_OK ||
		sqlite3_prepare_v2(db, "SELECT datetime($1, 'unixepoch')", -1, &stmt, NULL) !=
			SQLITE_OK) {
		bail_out("SQLite: %s", sqlite3_errmsg(db));
	}
	for (int64_t day = -170000; day < 170000; day += 1) {
		char buf[SQLITE_TIMESTAMP_MAX];
		int64_t us = day * INT64_C(86400000000) + 3723000000, again = 0;

		same &= sqlite_format_timestamp(us, buf) &&
			sqlite_parse_timestamp(buf, strlen(buf), &again) && again == us;
		order &= strcmp(before, buf) < 0;
		memcpy(before, buf, sizeof(buf));
		if (day % 97 == 0) {
			sqlite3_reset(stmt);
			sqlite3_bind_int64(stmt, 1, us / 1000000);
			sqlite3_step(stmt);
			same &= memcmp(sqlite3_column_text(stmt, 0), buf, 19) == 0;
		}
	}
	ok(same, "every day of nine centuries is what SQLite thinks it is");
	ok(order, "text sorts as time does");
	{
		char buf[SQLITE_TIMESTAMP_MAX];

		ok(!sqlite_format_timestamp(INT64_MIN, buf) &&
				!sqlite_format_timestamp(INT64_MAX, buf),
			"years that have no four digits are refused");
	}
	sqlite3_finalize(stmt);
	sqlite3_close(db);
}

static void test_verbs(void)
{
	static const struct {
		const char *text;
		enum sqlite_verb verb;
		const char *word;
	} cases[] = {
		{"SELECT 1", SQLITE_VERB_READ, "SELECT"},
		{"  \n-- comment; INSERT\n/* DELETE */ ;; select", SQLITE_VERB_READ, "SELECT"},
		{"insert into t values (1)", SQLITE_VERB_WRITE, "INSERT"},
		{"REPLACE INTO t", SQLITE_VERB_WRITE, "REPLACE"},
		{"WITH x AS (SELECT 1) DELETE", SQLITE_VERB_WITH, "WITH"},
		{"values(1)", SQLITE_VERB_READ, "VALUES"},
		{"selection", SQLITE_VERB_OTHER, "SELECTION"},
		{"pragma x", SQLITE_VERB_PRAGMA, "PRAGMA"},
		{"VACUUM", SQLITE_VERB_VACUUM, "VACUUM"},
		{"end", SQLITE_VERB_COMMIT, "END"},
		{"ROLLBACK TO x", SQLITE_VERB_ROLLBACK, "ROLLBACK"},
		{"CREATE TABLE t (i)", SQLITE_VERB_OTHER, "CREATE"},
		{"", SQLITE_VERB_NONE, ""},
		{"-- nothing", SQLITE_VERB_NONE, ""},
		{"/* open", SQLITE_VERB_NONE, ""},
		{"(SELECT 1)", SQLITE_VERB_OTHER, ""},
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		char word[SQLITE_WORD_MAX];

		is_int(sqlite_verb(cases[i].text, word), cases[i].verb, "verb of text %zu", i);
		is_str(word, cases[i].word, "its word is %s", word);
	}
}

int main(void)
{
	test_types();
	test_timestamps();
	test_calendar();
	test_verbs();
	return done_testing();
}
