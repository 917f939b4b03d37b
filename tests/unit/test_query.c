/* SPDX-License-Identifier: MIT */
/* test_query.c - conditions: what they mean, what is wrong with them and where, and no text
 * crashes. */
#include "query.h"
#include "slow_query.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct query_field fields[] = {
	{"ms", QUERY_NUMBER},
	{"rows", QUERY_NUMBER},
	{"pool", QUERY_TEXT},
	{"sql", QUERY_TEXT},
};

struct row {
	double ms, rows;
	const char *pool, *sql;
};
static const struct row row = {120, 0, "main", "SELECT * FROM Orders WHERE a = 'x'"};

static struct query_value value(const void *r, unsigned i)
{
	const struct row *x = r;

	return (struct query_value){i == 0 ? x->ms : x->rows, i == 2 ? x->pool : x->sql};
}

static void matches(const char *condition, bool want)
{
	struct query_error err;
	struct query *q = query_parse(condition, fields, array_size(fields), &err);

	if (!ok(q != NULL, "%s is a condition", condition)) {
		diag("at %zu: %s", err.at, err.text);
		return;
	}
	ok(query_match(q, value, &row) == want, "%s is %s", condition, want ? "true" : "false");
	query_free(&q);
	ok(q == NULL, "and gone");
}

static void is_wrong(const char *condition, size_t at, const char *text)
{
	struct query_error err;
	struct query *q = query_parse(condition, fields, array_size(fields), &err);

	ok(q == NULL, "<%s> is no condition", condition);
	is_int((int64_t)err.at, (int64_t)at, "the trouble is at %zu", at);
	ok(strstr(err.text, text) != NULL, "and is said: %s", err.text);
	query_free(&q);
}

static void test_meaning(void)
{
	matches("ms>50 && pool==main", true);
	matches("ms > 50&&pool == \"main\"", true);
	matches("ms==120", true);
	matches("ms=120", true);
	matches("ms!=120", false);
	matches("ms<120", false);
	matches("ms<=120", true);
	matches("ms>=120.5", false);
	matches("MS>1e2", true);
	matches("ms>0.1k", true);
	matches("ms<3m", true); /* 180 */
	matches("ms>2000ms", true); /* 2 */
	matches("pool=='ma in'", false);
	matches("pool!=Main", true);
	matches("sql~orders", true);
	matches("sql~'select*orders*'", true);
	matches("sql~'orders*'", false);
	matches("sql!~order?", true);
	matches("sql~'a = \\'x'", true);
	matches("pool~[lm]ain", true);
	matches("ms", true);
	matches("rows", false);
	matches("pool", true);
	matches("!rows", true);
	matches("!!rows", false);
	matches("!(ms>50 && rows>0)", true);
	/* && binds more strongly than ||, ! than both */
	matches("ms>50 || rows>0 && pool==other", true);
	matches("(ms>50 || rows>0) && pool==other", false);
	matches("!rows && ms || pool==other", true);
	matches("pool==other && ms || ms", true);
}

static void test_errors(void)
{
	char deep[400];

	is_wrong("", 0, "missing");
	is_wrong("ms>50 &&", 8, "missing");
	is_wrong("ms>50 & rows", 6, "expected");
	is_wrong("speed>50", 0, "ms rows pool sql");
	is_wrong("ms>50 && (pool==main", 20, ") is missing");
	is_wrong("ms>50)", 5, "expected");
	is_wrong("ms>fast", 3, "number");
	is_wrong("ms>5x", 3, "number");
	is_wrong("ms>nan", 3, "number");
	is_wrong("ms~5", 2, "~");
	is_wrong("pool<main", 4, "size");
	is_wrong("pool==", 6, "missing");
	is_wrong("pool=='main", 6, "quote");
	is_wrong("pool main", 5, "expected");
	is_wrong("==5", 0, "field");
	memset(deep, '(', sizeof(deep));
	deep[sizeof(deep) - 1] = '\0';
	is_wrong(deep, 64, "deep");
}

/* Any text is taken or refused; refused ones name a place in it. */
static void test_any_text(void)
{
	static const char *const words[] = {"ms", "pool", "sql", ">", "==", "~", "!~", "&&", "||",
		"!", "(", ")", "5", "'x'", "\"", "\\", " ", "\xc3\xa4", "\xff", "50ms", "<="};
	unsigned good = 0, bad = 0, misplaced = 0;

	srand(7);
	for (unsigned i = 0; i < 20000; i++) {
		char text[256] = "";
		struct query_error err;
		struct query *q;

		for (int n = rand() % 12; n >= 0; n--) {
			strcat(text, words[(unsigned)rand() % array_size(words)]);
		}
		q = query_parse(text, fields, array_size(fields), &err);
		good += q != NULL;
		bad += q == NULL;
		misplaced += q == NULL && (err.at > strlen(text) || err.text[0] == '\0');
		if (q != NULL) {
			(void)query_match(q, value, &row);
		}
		query_free(&q);
	}
	ok(good > 100 && bad > 100, "%u of 20000 random texts are conditions", good);
	is_int(misplaced, 0, "each of the others has its place and its reason");
}

static struct query_error error;

static bool slow_matches(
	const char *condition, const struct sample *s, const struct numbered_slow *v)
{
	struct query *q = slow_query_parse(condition, &error);
	bool yes = q != NULL && slow_query_match(q, s, v);

	if (q == NULL) {
		diag("%s: at %zu: %s", condition, error.at, error.text);
	}
	query_free(&q);
	return yes;
}

static void test_slow_fields(void)
{
	struct pool_row pool = {.used = true, .info = {.name = "main"}};
	struct server_row server = {.used = true, .info = {.name = "db1"}};
	struct sample s = {.npools = 1,
		.pools = &pool,
		.nservers = 1,
		.servers = &server,
		.real_ns = 100000000000u};
	struct numbered_slow v = {.number = 9,
		.slot = {.when_ns = 95000000000u,
			.wait_ns = 2000000,
			.run_ns = 60000000,
			.rows = 3,
			.fingerprint = 0xabc,
			.pool = 0,
			.server = 0,
			.worker_pid = 4711,
			.code = 7,
			.sql_len = 8,
			.sql_full_len = 9000,
			.sqlstate = "23505",
			.tag = "GET /a",
			.sql = "SELECT 1xxx"}};
	static const char *const yes[] = {"ms==60", "run==60ms", "wait<=2ms && wait>1ms", "rows==3",
		"pool==main", "server==db1", "pid==4711", "tag~get", "sql=='SELECT 1'", "!params",
		"bytes==9000", "code==7", "sqlstate==23505", "fingerprint==0000000000000abc",
		"number==9", "age==5s", "!sampled"};

	is_int(array_size(yes), SLOW_FIELDS, "all fields of statements are looked at");
	for (unsigned i = 0; i < array_size(yes); i++) {
		ok(slow_matches(yes[i], &s, &v), "%s", yes[i]);
		ok(strstr(yes[i], slow_fields[i].field.name) != NULL, "which is field %u", i);
	}
	v.slot.flags = SLOW_F_SAMPLED;
	v.slot.pool = 5;
	memset(v.slot.tag, 'x', sizeof(v.slot.tag)); /* not terminated */
	ok(slow_matches("sampled && pool=='#5' && tag~'x*x'", &s, &v), "odd ones, too");
}

int main(void)
{
	test_meaning();
	test_errors();
	test_any_text();
	test_slow_fields();
	return done_testing();
}
