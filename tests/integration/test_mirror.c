/* SPDX-License-Identifier: MIT */
/*
 * test_mirror.c - copies of PostgreSQL tables in the SQLite file: what they hold, how they are kept
 * fresh, and what they never go over.
 */
#include "desk.h"

static struct pg_cluster *pg;

static struct desk *begin(const char *name)
{
	struct desk *d = desk_open(name);

	pg_do(pg, "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA "
		  "public");
	desk_add_server(d, pg_url(pg));
	return d;
}

/* A refresh that began after now is in. */
static bool refreshed(struct desk *d)
{
	int64_t now =
		pg_int(pg, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");

	return desk_until(d, courier_mirrored_at(d->courier) > now, 60000);
}

static void is_text(struct desk *d, const char *sql, const char *want, const char *what)
{
	char *text = desk_text(d, sql);

	is_str(text, want, "%s", what);
	free(text);
}

static void test_types(void)
{
	struct desk *d = begin("types.db");
	char *const tables[] = {(char *)"kind"};

	pg_do(pg,
		"CREATE DOMAIN small AS integer CHECK (value < 100); CREATE TYPE mood AS ENUM "
		"('sad', "
		"'ok'); CREATE TABLE kind (id serial PRIMARY KEY, b boolean NOT NULL DEFAULT true, "
		"i2 smallint, i8 bigint, f4 real, f8 float8, n numeric, s small DEFAULT 7, "
		"t text NOT NULL DEFAULT 'it''s', v varchar(10), ts timestamp, tz timestamptz "
		"DEFAULT "
		"now(), d date, j json, jb jsonb, by bytea, u uuid, m mood, a integer[], "
		"\"odd \"\"name\" text UNIQUE)");
	pg_do(pg, "INSERT INTO kind VALUES (1, false, -5, 9223372036854775807, 1.5, 0.1, 12.50, 3, "
		  "'na\xc3\xafve', 'v', '2026-01-31 23:59:59.5', '2026-01-31 23:59:59.123456+02', "
		  "'2026-01-31', '{\"a\": 1}', '[1,2]', '\\x00ff', "
		  "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'ok', '{1,2}', 'odd'), "
		  "(2, true, NULL, NULL, NULL, NULL, NULL, NULL, '', NULL, NULL, NULL, NULL, NULL, "
		  "NULL, "
		  "'', NULL, NULL, NULL, NULL)");
	desk_start_courier_with(d, tables, 1, 50);
	courier_mirror(d->courier, 0);
	ok(refreshed(d), "a table is copied");
	is_text(d,
		"SELECT id || '|' || b || '|' || i2 || '|' || i8 || '|' || f4 || '|' || f8 || '|' "
		"|| n || "
		"'|' || s || '|' || t || '|' || v || '|' || ts || '|' || tz || '|' || d || '|' || "
		"j || '|' "
		"|| jb || '|' || hex(by) || '|' || u || '|' || m || '|' || a || '|' || \"odd "
		"\"\"name\" "
		"FROM kind WHERE id = 1",
		"1|0|-5|9223372036854775807|1.5|0.1|12.5|3|na\xc3\xafve|v|2026-01-31 "
		"23:59:59.500000|"
		"2026-01-31 21:59:59.123456|2026-01-31|{\"a\": 1}|[1, 2]|00FF|"
		"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|ok|{1,2}|odd",
		"with its values");
	is_text(d,
		"SELECT t || '|' || typeof(by) || '|' || length(by) || '|' || (v IS NULL) FROM "
		"kind WHERE id "
		"= 2",
		"|blob|0|1", "empty is not NULL");
	is_text(d, "SELECT typeof(i2) || typeof(f8) || typeof(n) || typeof(d) FROM kind",
		"integerrealrealtext", "and their types");
	is_str(desk_write(d, "INSERT INTO kind (i2) VALUES (9)"), "", "a row is added");
	is_text(d,
		"SELECT id || '|' || b || '|' || s || '|' || t || '|' || (length(tz) = 26) FROM "
		"kind WHERE "
		"i2 = 9",
		"3|1|7|it's|1", "with the defaults PostgreSQL would have given");
	is_str(desk_write(d, "INSERT INTO kind (t) VALUES (NULL)"), "23502", "NOT NULL is kept");
	is_str(desk_write(d, "INSERT INTO kind (\"odd \"\"name\") VALUES ('odd')"), "23505",
		"UNIQUE is kept");
	desk_close(&d);
}

static void test_freshness(void)
{
	struct desk *d = begin("fresh.db");
	char *const tables[] = {(char *)"public.item", (char *)"nokey"};
	int64_t before;

	pg_do(pg, "CREATE TABLE item (a integer, b text, n integer UNIQUE DEFERRABLE INITIALLY "
		  "DEFERRED, PRIMARY KEY (b, a))");
	pg_do(pg, "CREATE TABLE nokey (x text)");
	pg_do(pg,
		"INSERT INTO item SELECT i, 'b' || mod(i, 10), i FROM generate_series(1, 1000) i");
	pg_do(pg, "INSERT INTO nokey VALUES ('a'), ('a'), (NULL)");
	desk_start_courier_with(d, tables, 2, 50);
	is_int(courier_mirrored_at(d->courier), 0, "there are no copies yet");
	courier_mirror(d->courier, 0);
	ok(refreshed(d), "two tables are copied");
	is_int(desk_int(d, "SELECT count(*) FROM item"), 1000, "the one with a key");
	is_int(desk_int(d, "SELECT count(*) FROM nokey"), 3, "the one without");
	pg_do(pg, "BEGIN; UPDATE item SET n = CASE n WHEN 1 THEN 2 ELSE 1 END WHERE n IN (1, 2); "
		  "COMMIT");
	pg_do(pg, "DELETE FROM item WHERE n BETWEEN 100 AND 199");
	pg_do(pg, "INSERT INTO item VALUES (5000, 'new', 5000)");
	pg_do(pg, "UPDATE nokey SET x = 'b' WHERE x = 'a'");
	ok(refreshed(d), "they change");
	is_int(desk_int(d, "SELECT count(*) FROM item"), 901, "the copy follows");
	is_int(desk_int(d, "SELECT n FROM item WHERE a = 1"), 2,
		"through values that change places");
	is_text(d,
		"SELECT group_concat(coalesce(x, '-'), '') FROM (SELECT x FROM nokey ORDER BY x)",
		"-bb", "and in the table without a key");
	before = desk_int(d, "PRAGMA data_version");
	ok(refreshed(d), "when nothing has changed");
	is_int(desk_int(d, "SELECT rows FROM broker_mirror WHERE name = 'item'"), 901,
		"the books are kept");
	ok(desk_int(d, "PRAGMA data_version") != before, "with the time");

	pg_do(pg, "ALTER TABLE item ADD COLUMN extra text DEFAULT 'x'; ALTER TABLE item DROP "
		  "COLUMN n");
	ok(refreshed(d), "the table is changed");
	is_text(d, "SELECT b || extra FROM item WHERE a = 5000", "newx", "so is its copy");

	courier_mirror(d->courier, -1);
	before = courier_mirrored_at(d->courier);
	ok(!desk_until(d, courier_mirrored_at(d->courier) > before + 500000, 400),
		"held, it stays");
	desk_stop_courier(d);
	desk_start_courier_with(d, tables, 2, 3600000);
	ok(desk_until(d, courier_mirrored_at(d->courier) > 0, 60000),
		"the next broker knows its age");
	desk_close(&d);
}

/* Every copy is of one moment. */
static void test_snapshot(void)
{
	struct desk *d = begin("snapshot.db");
	char *const tables[] = {(char *)"a", (char *)"b"};
	unsigned torn = 0;

	pg_do(pg, "CREATE TABLE a (id integer PRIMARY KEY, n integer); CREATE TABLE b (id integer "
		  "PRIMARY "
		  "KEY, n integer); INSERT INTO a SELECT i, 0 FROM generate_series(1, 300) i; "
		  "INSERT INTO b SELECT i, 0 FROM generate_series(1, 300) i");
	desk_start_courier_with(d, tables, 2, 1);
	courier_mirror(d->courier, 0);
	for (int i = 1; i <= 100; i++) {
		pg_do(pg, "BEGIN; UPDATE a SET n = %d; UPDATE b SET n = %d; COMMIT", i, i);
		uv_run(&d->loop, UV_RUN_NOWAIT);
		if (courier_mirrored_at(d->courier) != 0) {
			torn += desk_int(d,
					"SELECT count(DISTINCT n) FROM (SELECT n FROM a UNION ALL "
					"SELECT n FROM b)") != 1;
		}
	}
	is_int(torn, 0, "no copy shows half of a transaction");
	ok(refreshed(d) && desk_int(d, "SELECT min(n) FROM a") == 100, "the last one is whole");
	desk_close(&d);
}

static void test_journal_first(void)
{
	struct desk *d = begin("first.db");
	char *const tables[] = {(char *)"item"};
	int64_t at;

	pg_do(pg, "CREATE TABLE item (id serial PRIMARY KEY, t text); INSERT INTO item VALUES (1, "
		  "'pg')");
	desk_start_courier_with(d, tables, 1, 20);
	courier_mirror(d->courier, 0);
	ok(refreshed(d), "a table is copied");
	is_str(desk_write(d, "UPDATE item SET t = 'local' WHERE id = 1"), "", "and written to");
	at = courier_mirrored_at(d->courier);
	ok(!desk_until(d, courier_mirrored_at(d->courier) > at + 300000, 600),
		"while the write waits in the journal, no copy goes over it");
	is_text(d, "SELECT t FROM item", "local", "it stands");
	ok(desk_replay_all(d, 60000), "the journal is replayed");
	is_int(pg_int(pg, "SELECT count(*) FROM item WHERE t = 'local'"), 1, "PostgreSQL has it");
	ok(refreshed(d), "then copies go on");
	is_text(d, "SELECT t FROM item", "local", "with it");
	desk_close(&d);
}

static void test_trouble(void)
{
	struct desk *d = begin("trouble.db");
	char *const tables[] = {(char *)"item"}, *const wrong[] = {(char *)"nothing"};

	desk_start_courier_with(d, wrong, 1, 50);
	courier_mirror(d->courier, 0);
	ok(desk_until(d, courier_mirror_error(d->courier)[0] != '\0', 60000),
		"a table that is not there");
	is_str(courier_mirror_error(d->courier),
		"mirror nothing: there is no such table in PostgreSQL", "is told");
	pg_do(pg, "CREATE TABLE nothing (id integer PRIMARY KEY)");
	ok(refreshed(d), "once it is there it is copied");
	is_str(courier_mirror_error(d->courier), "", "and the complaint ends");
	desk_stop_courier(d);

	is_str(desk_write(d, "CREATE TABLE item (mine TEXT)"), "", "a table of somebody's own");
	is_str(desk_write(d, "INSERT INTO item VALUES ('precious')"), "", "with a row");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	pg_do(pg, "CREATE TABLE item (id serial PRIMARY KEY); INSERT INTO item DEFAULT VALUES");
	desk_start_courier_with(d, tables, 1, 50);
	courier_mirror(d->courier, 0);
	ok(refreshed(d), "the mirror wants its name");
	is_int(desk_int(d, "SELECT id FROM item"), 1, "and gets it");
	is_text(d, "SELECT mine FROM item_before_mirror", "precious", "the other one is kept");

	pg_do(pg, "BEGIN; LOCK TABLE item");
	(void)desk_until(
		d, pg_int(pg, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1, 60000);
	is_str(desk_write(d, "CREATE TABLE free (a)"), "",
		"while a copy waits for PostgreSQL, SQLite does not");
	desk_stop_courier(d);
	pg_do(pg, "COMMIT");
	desk_close(&d);
}

/* A table larger than what may be held in memory passes through. */
static void test_large(void)
{
	struct desk *d = begin("large.db");
	char *const tables[] = {(char *)"large"};

	pg_do(pg, "CREATE TABLE large (id integer PRIMARY KEY, t text); "
		  "INSERT INTO large SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i");
	desk_start_courier_with(d, tables, 1, 3600000);
	courier_mirror(d->courier, 0);
	ok(desk_until(d, courier_mirrored_at(d->courier) != 0, 60000),
		"a table of 50 MB is copied");
	is_int(desk_int(d, "SELECT count(*) FROM large WHERE length(t) = 1000"), 50000, "whole");
	courier_mirror(d->courier, -1);
	desk_close(&d);
}

static void test_standby(void)
{
	struct desk *d = begin("standby.db");
	struct pg_cluster *standby;
	char *const tables[] = {(char *)"item"};

	pg_do(pg, "CREATE TABLE item (id integer PRIMARY KEY); INSERT INTO item VALUES (1)");
	standby = pg_standby(pg, NULL);
	desk_add_server(d, pg_url(standby));
	desk_start_courier_with(d, tables, 1, 50);
	courier_mirror(d->courier, 1);
	ok(refreshed(d), "a standby is copied from");
	is_int(desk_int(d, "SELECT count(*) FROM item"), 1, "what it has");
	pg_do(pg, "INSERT INTO item VALUES (2)");
	ok(desk_until(d, desk_int(d, "SELECT count(*) FROM item") == 2, 60000),
		"and what reaches it");
	is_str(desk_write(d, "INSERT INTO item VALUES (3)"), "", "a write");
	d->target = 1;
	ok(!desk_replay_all(d, 60000), "a standby is not replayed into");
	is_str(d->failure.sqlstate, "25006", "it takes no writes");
	desk_close(&d);
	pg_remove(&standby);
}

int main(void)
{
	if (!pg_available()) {
		skip("no PostgreSQL server");
		return done_testing();
	}
	pg = pg_start(NULL);
	test_types();
	test_freshness();
	test_snapshot();
	test_journal_first();
	test_trouble();
	test_large();
	test_standby();
	pg_remove(&pg);
	return done_testing();
}
