/* SPDX-License-Identifier: MIT */
/*
 * test_journal.c - from SQLite's journal into PostgreSQL: in order, exactly once, conflicts aside.
 */
#include "desk.h"

#include <math.h>

static struct pg_cluster *pg;

static void fresh(void)
{
	pg_do(pg, "SET client_min_messages = warning; DROP SCHEMA public CASCADE");
	pg_do(pg, "CREATE SCHEMA public");
}

static struct desk *begin(const char *name)
{
	struct desk *d = desk_open(name);

	fresh();
	desk_add_server(d, pg_url(pg));
	return d;
}

/* -- the ordinary way -------------------------------------------------------------------------- */

static void test_order(void)
{
	struct desk *d = begin("order.db");
	char *text;

	pg_do(pg, "CREATE TABLE book (nr serial PRIMARY KEY, what text NOT NULL)");
	is_str(desk_write(d, "CREATE TABLE book (nr INTEGER PRIMARY KEY, what TEXT NOT NULL)"), "",
		"a table in SQLite");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	is_str(desk_write(d, "INSERT INTO book (what) VALUES ('a')"), "", "a write");
	is_str(desk_in_tx(d, "INSERT INTO book (what) VALUES ('b')", REQ_F_TX), "",
		"a transaction");
	is_str(desk_in_tx(d, "SAVEPOINT s", 0), "", "with a savepoint");
	is_str(desk_in_tx(d, "INSERT INTO book (what) VALUES ('undone')", 0), "", "a row");
	is_str(desk_in_tx(d, "ROLLBACK TO s", 0), "", "is undone");
	is_str(desk_in_tx(d, "UPDATE book SET what = what || '!' WHERE what = 'a'", 0), "",
		"an update");
	is_str(desk_commit(d), "", "commit");
	is_str(desk_write(d, "CREATE TABLE more (id INTEGER)"), "", "a table is made");
	is_str(desk_write(d, "INSERT INTO more VALUES (1)"), "", "and used");
	desk_start_courier(d);
	is_int((int64_t)courier_pending(d->courier), 5, "five rows are pending");
	ok(desk_replay_all(d, 20000), "the journal is replayed");
	text = pg_text(pg, "SELECT string_agg(nr || what, ' ' ORDER BY nr) FROM book");
	is_str(text, "1a! 2b", "PostgreSQL has it all, in order");
	free(text);
	is_int(pg_int(pg, "SELECT count(*) FROM more"), 1, "and what DDL has made");
	is_int((int64_t)courier_pending(d->courier), 0, "nothing is pending");
	is_int((int64_t)courier_replayed(d->courier), 4, "four transactions");
	is_int(desk_int(d, "SELECT count(*) FROM broker_journal"), 0, "the journal is empty");
	is_int(d->near, 1, "the end was announced");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 0, "no conflicts");
	is_int(pg_int(pg, "SELECT position FROM broker_journal_position"),
		desk_int(d, "SELECT seq FROM sqlite_sequence"),
		"the position is that of the last row");
	is_str(desk_write(d, "INSERT INTO book (what) VALUES ('c')"), "", "another write");
	is_int((int64_t)courier_pending(d->courier), 1, "is pending");
	ok(desk_replay_all(d, 20000), "and replayed");
	is_int(pg_int(pg, "SELECT count(*) FROM book"), 3, "once");
	ok(desk_replay_all(d, 20000), "an empty journal is replayed at once");
	desk_close(&d);
}

static void test_values(void)
{
	struct desk *d = begin("values.db");
	static const int64_t least = INT64_MIN, most = INT64_MAX, when = 1769903999123456;
	static const double tenth = 0.1, infinite = INFINITY;
	static const unsigned char yes = 1;
	struct request_param p[] = {{&least, 8, CELL_INT64}, {&most, 8, CELL_INT64},
		{&tenth, 8, CELL_DOUBLE}, {&infinite, 8, CELL_DOUBLE}, {&yes, 1, CELL_BOOL},
		{"na\xc3\xafve '\"\\", 10, CELL_TEXT}, {"", 0, CELL_TEXT}, {NULL, 0, CELL_NULL},
		{"\0\xff\x01", 3, CELL_BLOB}, {&when, 8, CELL_TIMESTAMP},
		{"{\"a\": [1, null, \"\xc3\xa9\"]}", 22, CELL_JSON}};
	char *text;

	pg_do(pg, "CREATE TABLE v (a bigint, b bigint, c float8, d float8, e boolean, f text, g "
		  "text, "
		  "h text, i bytea, j timestamptz, k jsonb, l timestamptz)");
	is_str(desk_write(d, "CREATE TABLE v (a, b, c, d, e, f, g, h, i, j, k, l)"), "", "a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	is_str(desk_write_params(d,
		       "INSERT INTO v VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, "
		       "CURRENT_TIMESTAMP)",
		       11, p),
		"", "one value of each kind");
	desk_start_courier(d);
	ok(desk_replay_all(d, 20000), "replayed");
	text = pg_text(pg, "SELECT concat_ws('|', a, b, c, d, e, f, '<' || g || '>', h IS NULL, "
			   "encode(i, 'hex'), extract(epoch FROM j), k) FROM v");
	is_str(text,
		"-9223372036854775808|9223372036854775807|0.1|Infinity|t|na\xc3\xafve '\"\\|<>|t|"
		"00ff01|1769903999.123456|{\"a\": [1, null, \"\xc3\xa9\"]}",
		"all of them are in PostgreSQL as they were");
	free(text);
	text = desk_text(d, "SELECT l FROM v");
	is_int(pg_int(pg, "SELECT count(*) FROM v WHERE l = '%s+00'", text), 1,
		"CURRENT_TIMESTAMP is the same in both");
	free(text);
	desk_close(&d);
}

/* -- conflicts --------------------------------------------------------------------------------- */

static void test_conflicts(void)
{
	struct desk *d = begin("conflicts.db");
	char *text;

	pg_do(pg, "CREATE TABLE item (id bigint PRIMARY KEY, n integer CHECK (n < 100), "
		  "ref bigint REFERENCES item DEFERRABLE INITIALLY DEFERRED)");
	pg_do(pg, "INSERT INTO item VALUES (1, 1)");
	is_str(desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER, ref INTEGER)"),
		"", "a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	is_str(desk_write(d, "INSERT INTO item VALUES (1, 7, NULL)"), "",
		"a key that is taken there");
	is_str(desk_write(d, "INSERT INTO item VALUES (2, 7, NULL)"), "", "one that is not");
	is_str(desk_in_tx(d, "INSERT INTO item VALUES (3, 7, NULL)", REQ_F_TX), "",
		"a transaction");
	is_str(desk_in_tx(d, "INSERT INTO item VALUES (4, 700, NULL)", 0), "", "with a bad value");
	is_str(desk_in_tx(d, "INSERT INTO item VALUES (5, 7, NULL)", 0), "", "in the middle");
	is_str(desk_commit(d), "", "commit");
	is_str(desk_write(d, "INSERT INTO item VALUES (6, 7, 99)"), "", "a reference to nothing");
	is_str(desk_write(d, "INSERT INTO item VALUES (7, 7, 2)"), "", "to something");
	is_str(desk_write(d, "INSERT INTO nowhere VALUES (1)"), "42P01", "no such table");
	is_str(desk_write(d, "CREATE TABLE here (a INTEGER PRIMARY KEY, b)"), "", "an odd table");
	is_str(desk_write(d, "INSERT INTO here VALUES (1, 'x')"), "", "and a row in it");
	is_str(desk_write(d, "INSERT INTO item VALUES (8, 7, NULL)"), "", "the last one");
	desk_start_courier(d);
	ok(desk_replay_all(d, 20000), "the journal is replayed");
	text = pg_text(pg, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM item");
	is_str(text, "1 2 7 8", "what can be is in PostgreSQL");
	free(text);
	text = pg_text(pg,
		"SELECT string_agg(sqlstate || CASE WHEN failed THEN '!' ELSE '' END, ' ' "
		"ORDER BY id) FROM broker_conflict");
	is_str(text, "23505! 23514 23514! 23514 23503! 42601! 42P01!",
		"the rest is set aside, whole transactions, with the error");
	free(text);
	text = pg_text(pg, "SELECT statement || ' / ' || error FROM broker_conflict ORDER BY id");
	is_str(text,
		"INSERT INTO item VALUES (1, 7, NULL) / duplicate key value violates unique "
		"constraint "
		"\"item_pkey\"; Key (id)=(1) already exists.",
		"statement and error can be read");
	free(text);
	is_int(d->nconflicts, 5, "five transactions were reported");
	is_int((int64_t)courier_conflicts(d->courier), 5, "and counted");
	is_int((int64_t)courier_replayed(d->courier), 3, "beside those that went well");
	is_int(desk_int(d, "SELECT count(*) FROM broker_journal"), 0, "the journal is empty");
	desk_close(&d);
}

/* The worker was told something that is not so in PostgreSQL. */
static void test_told_otherwise(void)
{
	struct desk *d = begin("told.db");
	int64_t who = 4711;
	struct request_param p[] = {{&who, 8, CELL_INT64}, {"a\xf0\x9f\x90\x98\"", 6, CELL_TEXT},
		{"\xff", 1, CELL_BLOB}, {NULL, 0, CELL_NULL}};
	char *text;

	pg_do(pg, "CREATE TABLE item (id serial PRIMARY KEY, n integer, t text, b bytea)");
	pg_do(pg, "SELECT setval('item_id_seq', 500)");
	is_str(desk_write(
		       d, "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER, t TEXT, b BLOB)"),
		"", "a table");
	is_str(desk_write(d, "INSERT INTO item VALUES (1, 1, NULL, NULL)"), "", "a row only here");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	is_str(desk_write(d, "UPDATE item SET n = 2 WHERE id = 1"), "", "is changed");
	is_str(desk_write(d, "UPDATE item SET n = 2 WHERE id = 77"), "",
		"one that is not here is not");
	is_str(desk_write(d, "INSERT INTO item (n) VALUES (3) RETURNING id, n"), "",
		"a key is made up");
	is_str(desk_write(d, "INSERT INTO item (n) VALUES (4)"), "", "one nobody asked for");
	is_str(desk_write(d, "INSERT INTO item (id, n) VALUES (10, 5) RETURNING id, t"), "",
		"one given");
	is_str(desk_write_params(d,
		       "INSERT INTO item (n, t, b) VALUES ($1, $2, $3), ($4, 'x', NULL) RETURNING "
		       "id",
		       4, p),
		"", "with parameters");
	desk_start_courier(d);
	ok(desk_replay_all(d, 20000), "replayed");
	text = pg_text(pg, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM item");
	is_str(text, "4 5", "what came out as told is there");
	free(text);
	text = pg_text(
		pg, "SELECT string_agg(left(error, 26), ' / ' ORDER BY id) FROM broker_conflict");
	is_str(text,
		"it changes 0 rows now, it  / it returns other numbers n / it returns other "
		"numbers n",
		"what did not is set aside");
	free(text);
	text = pg_text(pg,
		"SELECT (params->>0) || ' ' || (params->>1) || ' ' || (params->2->>'blob') || "
		"(params->>3 IS NULL)::text FROM broker_conflict WHERE params IS NOT NULL");
	is_str(text, "4711 a\xf0\x9f\x90\x98\" fftrue", "with its parameters");
	free(text);
	desk_close(&d);
}

/* -- trouble that passes ----------------------------------------------------------------------- */

static void test_passing_trouble(void)
{
	struct desk *d = begin("passing.db");

	pg_do(pg, "CREATE TABLE item (id bigint PRIMARY KEY)");
	pg_do(pg, "CREATE SEQUENCE tries");
	pg_do(pg, "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
		  "IF NEW.id = 3 AND nextval('tries') < 3 OR NEW.id = 5 THEN "
		  "RAISE EXCEPTION 'later' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$");
	pg_do(pg, "CREATE TRIGGER t BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION f()");
	is_str(desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY)"), "", "a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	for (int i = 1; i <= 8; i++) {
		(void)desk_write(d, "INSERT INTO item VALUES (%d)", i);
	}
	desk_start_courier(d);
	ok(desk_replay_all(d, 20000), "replayed");
	is_int(pg_int(pg, "SELECT count(*) FROM item WHERE id <> 5"), 7,
		"what failed twice went well the third time");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict WHERE sqlstate = '40001'"), 1,
		"what always fails is set aside");
	desk_close(&d);
}

static void test_no_server(void)
{
	struct desk *d = begin("noserver.db");

	pg_do(pg, "CREATE TABLE item (id bigint PRIMARY KEY)");
	is_str(desk_write(d, "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY)"), "",
		"a table");
	is_str(desk_write(d, "INSERT INTO item VALUES (1)"), "", "a row");
	desk_start_courier(d);
	pg_stop(pg, PG_FAST);
	ok(!desk_replay_all(d, 20000) && d->failed == 1, "without a server the replay fails");
	ok(d->failure.text[0] != '\0', "and says why: %s", d->failure.text);
	is_int((int64_t)courier_pending(d->courier), 2, "everything is pending");
	d->insist = true;
	courier_replay(d->courier, 0);
	ok(desk_until(d, d->failed >= 3, 20000), "it is tried again and again");
	pg_restart(pg);
	ok(desk_until(d, d->caught == 1, 20000), "until the server is back");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 1, "the row is there");
	d->insist = false;

	is_str(desk_write(d, "INSERT INTO item VALUES (2)"), "", "a row");
	pg_do(pg, "ALTER DATABASE postgres SET default_transaction_read_only = on");
	ok(!desk_replay_all(d, 20000), "a server that takes no writes");
	is_str(d->failure.sqlstate, "25006", "is refused");
	pg_do(pg, "SET default_transaction_read_only = off; "
		  "ALTER DATABASE postgres RESET default_transaction_read_only");
	ok(desk_replay_all(d, 20000), "later it takes them");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 2, "the row is there");
	desk_close(&d);
}

static void test_no_permission(void)
{
	struct desk *d = desk_open("permission.db");
	char *url = scratch_format("host=%s user=clerk dbname=postgres", pg_host(pg));

	fresh();
	pg_do(pg, "CREATE ROLE clerk LOGIN");
	pg_do(pg, "CREATE TABLE item (id bigint PRIMARY KEY)");
	pg_do(pg, "GRANT INSERT ON item TO clerk");
	pg_do(pg, "GRANT USAGE ON SCHEMA public TO clerk");
	desk_add_server(d, url);
	is_str(desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY)"), "", "a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	is_str(desk_write(d, "INSERT INTO item VALUES (1)"), "", "a row");
	is_str(desk_write(d, "DELETE FROM item"), "", "and a delete");
	desk_start_courier(d);
	ok(!desk_replay_all(d, 20000), "a role that may make no tables cannot replay");
	is_str(d->failure.sqlstate, "42501", "for want of permission");
	pg_do(pg, "GRANT CREATE ON SCHEMA public TO clerk");
	ok(desk_replay_all(d, 20000), "with it, it can");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 1, "the row is there");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict WHERE sqlstate = '42501'"), 1,
		"what the role may not do is set aside");
	desk_close(&d);
	free(url);
}

/* -- handing back ------------------------------------------------------------------------------ */

static void test_protocol(void)
{
	struct desk *d = begin("protocol.db");

	pg_do(pg, "CREATE TABLE item (id bigint PRIMARY KEY)");
	is_str(desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY)"), "", "a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	for (int i = 0; i < 300; i++) {
		(void)desk_write(d, "INSERT INTO item VALUES (%d)", i);
	}
	desk_start_courier(d);
	courier_replay(d->courier, 0);
	ok(desk_until(d, d->near == 1, 20000), "the end is near");
	(void)desk_write(d, "INSERT INTO item VALUES (1000)");
	ok(desk_until(d, pg_int(pg, "SELECT count(*) FROM item") == 301, 20000),
		"writes that still come are replayed as well");
	is_int(d->caught, 0, "there is no end before it is asked for");
	is_int(d->near, 1, "it is announced once");
	is_str(desk_in_tx(d, "INSERT INTO item VALUES (2000)", REQ_F_TX), "",
		"a transaction is open");
	ok(desk_until(d, courier_pending(d->courier) == 0, 20000), "and not pending");
	is_str(desk_commit(d), "", "it ends");
	ok(courier_pending(d->courier) > 0, "now it is");
	courier_drain(d->courier);
	ok(desk_until(d, d->caught == 1, 20000), "the rest is replayed");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 302, "all of it");

	(void)desk_write(d, "INSERT INTO item VALUES (3000)");
	courier_replay(d->courier, 0);
	courier_drain(d->courier);
	courier_halt(d->courier);
	ok(!desk_until(d, d->caught > 1, 300), "after a halt nothing of it is heard");
	courier_replay(d->courier, 0);
	courier_replay(d->courier, 0);
	courier_drain(d->courier);
	ok(desk_until(d, d->caught == 2, 20000), "asked again, it is done");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 303, "once");
	desk_close(&d);
}

/* Stopped in the middle of a statement that waits. */
static void test_stop(void)
{
	struct desk *d = begin("stop.db");

	pg_do(pg, "CREATE TABLE item (id bigint PRIMARY KEY)");
	is_str(desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY)"), "", "a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	(void)desk_write(d, "INSERT INTO item VALUES (1)");
	pg_do(pg, "BEGIN; LOCK TABLE item");
	desk_start_courier(d);
	courier_replay(d->courier, 0);
	ok(desk_until(d, pg_int(pg, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1, 20000),
		"the replay waits for a lock");
	desk_stop_courier(d);
	pg_do(pg, "COMMIT");
	ok(wait_until(pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
				 "'shmbroker'") == 0,
		   20000),
		"its session ends by itself");
	desk_start_courier(d);
	d->insist = true;
	pg_freeze(pg);
	courier_replay(d->courier, 0);
	ok(!desk_until(d, d->caught > 0, 300), "a frozen server does not answer");
	desk_stop_courier(d);
	pg_thaw(pg);
	desk_start_courier(d);
	ok(desk_replay_all(d, 20000), "another courier replays it");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 1, "once");
	desk_close(&d);
}

/* -- histories --------------------------------------------------------------------------------- */

static void copy_file(const char *from, const char *to)
{
	sqlite3 *a, *b;
	sqlite3_backup *copy;

	if (sqlite3_open(from, &a) != SQLITE_OK || sqlite3_open(to, &b) != SQLITE_OK ||
		(copy = sqlite3_backup_init(b, "main", a, "main")) == NULL ||
		sqlite3_backup_step(copy, -1) != SQLITE_DONE) {
		bail_out("cannot copy %s", from);
	}
	sqlite3_backup_finish(copy);
	sqlite3_close(a);
	sqlite3_close(b);
}

static void test_older_copy(void)
{
	struct desk *d = begin("history.db"), *old;
	char *path = scratch_path("old.db");

	pg_do(pg, "CREATE TABLE item (id bigint PRIMARY KEY)");
	is_str(desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY)"), "", "a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	(void)desk_write(d, "INSERT INTO item VALUES (1)");
	copy_file(d->path, path);
	for (int i = 2; i < 5; i++) {
		(void)desk_write(d, "INSERT INTO item VALUES (%d)", i);
	}
	desk_start_courier(d);
	ok(desk_replay_all(d, 20000), "a file is replayed");
	desk_close(&d);

	old = desk_open("old.db");
	desk_add_server(old, pg_url(pg));
	sqlite3_exec(old->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	(void)desk_write(old, "INSERT INTO item VALUES (10)");
	(void)desk_write(old, "INSERT INTO item VALUES (11)");
	desk_start_courier(old);
	ok(desk_replay_all(old, 20000), "an older copy of it, with other writes");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 6,
		"they are not taken for those of before");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_journal_position"), 2,
		"it has another name now");
	desk_close(&old);
	free(path);
}

/* Two brokers on one file: the position is locked, nothing is done twice. */
static void test_two_couriers(void)
{
	struct desk *d = begin("two.db"), *other;

	pg_do(pg, "CREATE TABLE item (id bigserial, n bigint)");
	is_str(desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER)"), "",
		"a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	for (int i = 0; i < 1000; i++) {
		(void)desk_write(d, "INSERT INTO item (n) VALUES (%d)", i);
	}
	other = desk_open("two.db");
	desk_add_server(other, pg_url(pg));
	desk_start_courier(d);
	desk_start_courier(other);
	d->insist = other->insist = d->drains = other->drains = true;
	courier_replay(d->courier, 0);
	courier_replay(other->courier, 0);
	ok(desk_until(d, d->caught == 1, 30000), "one is done");
	ok(desk_until(other, other->caught == 1, 30000), "so is the other");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 1000, "every row is there once");
	is_int(pg_int(pg, "SELECT count(*) FROM (SELECT n, lag(n) OVER (ORDER BY id) AS before "
			  "FROM item) AS x WHERE n < before"),
		0, "in order");
	desk_close(&other);
	desk_close(&d);
}

int main(void)
{
	if (!pg_available()) {
		skip("no PostgreSQL server");
		return done_testing();
	}
	pg = pg_start(NULL);
	test_order();
	test_values();
	test_conflicts();
	test_told_otherwise();
	test_passing_trouble();
	test_no_server();
	test_no_permission();
	test_protocol();
	test_stop();
	test_older_copy();
	test_two_couriers();
	pg_remove(&pg);
	return done_testing();
}
