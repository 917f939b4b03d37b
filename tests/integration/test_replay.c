/* SPDX-License-Identifier: MIT */
/*
 * test_replay.c - rows of the journal are sent to PostgreSQL before those in front of them are
 * answered.  What comes out has to be what one by one would give: what is refused, in the middle of
 * many that are on their way, takes nothing along and shifts no keys; a server that dies then has
 * all or nothing of the batch.
 */
#include "desk.h"

static struct pg_cluster *pg;

/* Two tables, the same in both; n of the first item in SQLite is in step with PostgreSQL's. */
static struct desk *begin(const char *name)
{
	struct desk *d = desk_open(name);

	pg_do(pg, "SET client_min_messages = warning; DROP SCHEMA public CASCADE");
	pg_do(pg, "CREATE SCHEMA public");
	pg_do(pg, "CREATE TABLE item (id bigserial PRIMARY KEY, n bigint, note text)");
	pg_do(pg, "CREATE TABLE stock (id bigint PRIMARY KEY, n bigint UNIQUE)");
	desk_add_server(d, pg_url(pg));
	(void)desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER, note TEXT)");
	(void)desk_write(d, "CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	return d;
}

/* Rows that are there already, in both. */
static void give_stock(struct desk *d, int from, int to)
{
	for (int i = from; i <= to; i++) {
		(void)desk_write(d, "INSERT INTO stock VALUES (%d, NULL)", i);
	}
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	pg_do(pg, "INSERT INTO stock SELECT i, NULL FROM generate_series(%d, %d) i", from, to);
}

static void items(struct desk *d, int from, int to)
{
	for (int n = from; n <= to; n++) {
		(void)desk_write(d, "INSERT INTO item (n) VALUES (%d)", n);
	}
}

static void expect(struct desk *d, const char *what, const char *keys)
{
	char *here = desk_text(d,
		     "SELECT group_concat(id || '=' || n, ' ') FROM (SELECT * FROM item "
		     "ORDER BY id)"),
	     *there = pg_text(pg,
		     "SELECT coalesce(string_agg(id || '=' || n, ' ' ORDER BY id), '') FROM item");

	ok(strcmp(here, there) == 0, "%s: PostgreSQL has the same rows with the same keys", what);
	if (strcmp(here, there) != 0) {
		diag("here:  %.400s", here);
		diag("there: %.400s", there);
	}
	free(here);
	free(there);
	there = pg_text(pg, "SELECT coalesce(string_agg(sqlstate, ' ' ORDER BY id), '') FROM "
			    "broker_conflict WHERE failed");
	is_str(there, keys, "%s: what is set aside", what);
	free(there);
	is_int(desk_int(d, "SELECT count(*) FROM broker_journal"), 0, "%s: the journal is empty",
		what);
}

/* -- refused in the middle --------------------------------------------------------------------- */

/* Errors: what is behind them was sent, and has not run. */
static void test_errors(void)
{
	struct desk *d = begin("errors.db");

	pg_do(pg, "INSERT INTO stock VALUES (40, 1), (140, 2), (141, 3)");
	for (int n = 1; n <= 200; n++) {
		items(d, n, n);
		(void)desk_write(d, "INSERT INTO stock VALUES (%d, %d)", n, 1000 + n);
	}
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "errors among 400 transactions");
	expect(d, "errors", "23505 23505 23505");
	is_int(pg_int(pg, "SELECT count(*) FROM stock WHERE n > 1000"), 197,
		"errors: all others are there");
	is_int((int64_t)courier_replayed(d->courier), 397, "errors: and counted");
	desk_close(&d);
}

/* The batch is large, and everything in it is refused. */
static void test_nothing_but_errors(void)
{
	struct desk *d = begin("all.db");

	pg_do(pg, "INSERT INTO stock SELECT i, NULL FROM generate_series(1, 150) i");
	for (int n = 1; n <= 150; n++) {
		(void)desk_write(d, "INSERT INTO stock VALUES (%d, 7)", n);
	}
	items(d, 1, 3);
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "nothing but errors");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict WHERE failed"), 150,
		"each is set aside");
	is_int(d->nconflicts, 150, "and reported");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 3, "what is behind them is there");
	desk_close(&d);
}

/*
 * Outcomes that differ without an error.  Behind each come keys that the database makes up, and
 * workers were given some: a key that is drawn and undone would shift all that follow.
 */
static void test_other_outcomes(void)
{
	struct desk *d = begin("outcomes.db");

	give_stock(d, 1, 30);
	pg_do(pg, "DELETE FROM stock WHERE id IN (5, 17)");
	for (int n = 1; n <= 30; n++) {
		(void)desk_write(d, "UPDATE stock SET n = %d WHERE id = %d", n, n);
		(void)desk_write(d, "UPDATE stock SET n = n + 100 WHERE id = %d", n);
		items(d, n, n);
		(void)desk_write(d, "INSERT INTO item (n) VALUES (%d) RETURNING id", n + 100);
		(void)desk_write(d, "INSERT INTO item (n) VALUES (%d)", n + 200);
		(void)desk_write(
			d, "INSERT INTO stock VALUES (%d, 1) ON CONFLICT DO NOTHING", n + 500);
	}
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "outcomes that differ");
	/* n is UNIQUE in PostgreSQL: of the last statements but one does nothing there. */
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict WHERE sqlstate = '40002' AND "
			  "statement LIKE 'UPDATE%%'"),
		4, "four changes of rows that are gone");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict WHERE sqlstate = '40002' AND "
			  "statement LIKE '%%NOTHING'"),
		29, "29 rows that are not added");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 33, "nothing else is set aside");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 90, "all items are there");
	is_int(pg_int(pg, "SELECT sum(id * n)::bigint FROM item"),
		desk_int(d, "SELECT sum(id * n) FROM item"), "with the same keys");
	desk_close(&d);
}

/* The same within one transaction: behind the first that differs none of it may have run. */
static void test_within_transaction(void)
{
	struct desk *d = begin("within.db");

	give_stock(d, 1, 3);
	pg_do(pg, "DELETE FROM stock WHERE id = 2");
	for (int n = 1; n <= 3; n++) {
		char sql[100];

		snprintf(sql, sizeof(sql), "UPDATE stock SET n = %d WHERE id = %d", n, n);
		(void)desk_in_tx(d, sql, REQ_F_TX);
		snprintf(sql, sizeof(sql), "UPDATE stock SET n = -n WHERE id = %d", n);
		(void)desk_in_tx(d, sql, 0);
		(void)desk_in_tx(d, "INSERT INTO item (n) VALUES (1)", 0);
		(void)desk_commit(d);
	}
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "within a transaction");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 3,
		"a whole transaction is set aside");
	is_int(pg_int(pg, "SELECT last_value FROM item_id_seq"), 2,
		"and took no key behind the statement that differs");
	desk_close(&d);
}

/* What a database does by itself can make any INSERT differ, and any UPDATE draw a key. */
static void test_triggers(void)
{
	struct desk *d = begin("triggers.db");

	give_stock(d, 1, 20);
	pg_do(pg, "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
		  "IF NEW.n %% 7 = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$");
	pg_do(pg, "CREATE TABLE sieve (n bigint)");
	pg_do(pg, "CREATE TRIGGER t BEFORE INSERT ON sieve FOR EACH ROW EXECUTE FUNCTION "
		  "swallow()");
	pg_do(pg, "CREATE FUNCTION draw() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
		  "PERFORM nextval('item_id_seq'); RETURN NULL; END $$");
	pg_do(pg, "CREATE TRIGGER t AFTER UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION draw()");
	pg_do(pg, "DELETE FROM stock WHERE id = 4");
	(void)desk_write(d, "CREATE TABLE sieve (n INTEGER)");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
	for (int n = 1; n <= 20; n++) {
		(void)desk_write(d, "INSERT INTO sieve VALUES (%d)", n);
		(void)desk_write(d, "INSERT INTO sieve VALUES (%d)", n + 7);
		(void)desk_write(d, "INSERT INTO item (n) VALUES (%d) RETURNING n", n);
	}
	for (int id = 3; id <= 6; id++) {
		(void)desk_write(d, "UPDATE stock SET n = %d WHERE id = %d", id, id);
	}
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "triggers");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict WHERE statement LIKE '%%sieve%%'"),
		4, "what a trigger swallows is set aside");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 5, "and one row that is gone");
	is_int(pg_int(pg, "SELECT max(id) - min(id) FROM item"), 19, "items have their keys");
	is_int(pg_int(pg, "SELECT last_value FROM item_id_seq"), 23,
		"and one was drawn for each of three changes");
	desk_close(&d);
}

/* -- more than is ever on its way -------------------------------------------------------------- */

static void write_large(struct desk *d, int rows, const char *last)
{
	(void)desk_in_tx(d, "INSERT INTO item (n) VALUES (1)", REQ_F_TX);
	for (int n = 2; n <= rows; n++) {
		char sql[100];

		snprintf(sql, sizeof(sql), "INSERT INTO item (n) VALUES (%d)", n);
		(void)desk_in_tx(d, sql, 0);
	}
	(void)desk_in_tx(d, last, 0);
	(void)desk_commit(d);
}

static void test_large_transaction(void)
{
	struct desk *d = begin("large.db");

	pg_do(pg, "INSERT INTO stock VALUES (1, 1)");
	write_large(d, 3000, "INSERT INTO stock VALUES (2, 2)");
	write_large(d, 500, "INSERT INTO stock VALUES (1, 3)");
	items(d, 4000, 4010);
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "large transactions");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 3011, "one is there, and what follows");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 501,
		"one is set aside, for its last statement");
	is_int((int64_t)courier_replayed(d->courier), 12, "transactions are counted as such");
	desk_close(&d);
}

/* Each is larger than all that may be on its way. */
static void test_large_values(void)
{
	struct desk *d = begin("values.db");
	size_t len = 1 << 20;
	char *text = malloc(len);
	struct request_param p = {text, (uint32_t)len, CELL_TEXT};

	memset(text, 'x', len);
	for (int i = 0; i < 20; i++) {
		(void)desk_write_params(d, "INSERT INTO item (n, note) VALUES (1, $1)", 1, &p);
		(void)desk_write_params(d,
			"UPDATE item SET note = note || 'y' WHERE note = $1 RETURNING note", 1, &p);
	}
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "large values");
	is_int(pg_int(pg, "SELECT count(*) FROM item WHERE length(note) = %zu", len + 1), 20,
		"all are there");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 0, "nothing is set aside");
	desk_close(&d);
	free(text);
}

/* SQLite left out some of the rows that PostgreSQL takes. */
static void test_ignored_rows(void)
{
	struct desk *d = begin("ignored.db");

	sqlite3_exec(d->db,
		"CREATE TRIGGER leave BEFORE INSERT ON item WHEN NEW.n % 10 = 0 "
		"BEGIN SELECT RAISE(IGNORE); END",
		NULL, NULL, NULL);
	for (int n = 1; n <= 30; n++) {
		(void)desk_write(d, "INSERT INTO item (n) VALUES (%d), (-1)", n);
	}
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "statements of which SQLite has left rows out");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 54, "the others are there");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict WHERE sqlstate = '40002'"), 3,
		"those are set aside");
	is_int(d->failed, 0, "and nothing has failed");
	desk_close(&d);
}

/* -- lost in the middle ------------------------------------------------------------------------ */

/* The batch hangs in its middle: some of it has run, some was sent, some was not. */
static void hang(struct desk *d)
{
	items(d, 1, 30);
	(void)desk_write(d, "INSERT INTO stock VALUES (1, 1)");
	items(d, 31, 300);
	pg_do(pg, "BEGIN; LOCK TABLE stock");
	desk_start_courier(d);
	d->insist = d->drains = true;
	courier_replay(d->courier, 0);
	ok(desk_until(d, pg_int(pg, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1, 30000),
		"a batch hangs in its middle");
	ok(pg_int(pg, "SELECT last_value FROM item_id_seq") >= 30, "after it has done something");
}

static void expect_items_once(struct desk *d)
{
	ok(desk_until(d, d->caught == 1, 60000), "then all is replayed");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 300, "every row is there");
	is_int(pg_int(pg, "SELECT count(DISTINCT n) FROM item"), 300, "once");
	is_int(pg_int(pg, "SELECT count(*) FROM (SELECT n, lag(n) OVER (ORDER BY id) AS before "
			  "FROM item) AS x WHERE n < before"),
		0, "in order");
	is_int(pg_int(pg, "SELECT count(*) FROM stock"), 1, "that which hung, too");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 0, "nothing is set aside");
}

static void test_killed_server(void)
{
	struct desk *d = begin("killed.db");

	hang(d);
	pg_stop(pg, PG_KILL);
	ok(desk_until(d, d->failed > 0, 30000), "the server is killed");
	pg_restart(pg);
	expect_items_once(d);
	desk_close(&d);
}

static void test_ended_session(void)
{
	struct desk *d = begin("ended.db");

	hang(d);
	pg_do(pg, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted");
	ok(desk_until(d, d->failed > 0, 30000), "the session is ended");
	pg_do(pg, "COMMIT");
	expect_items_once(d);
	desk_close(&d);
}

/* Trouble that passes undoes the batch; whoever had it is tried alone. */
static void test_cancelled(void)
{
	struct desk *d = begin("cancelled.db");

	hang(d);
	pg_do(pg, "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE NOT granted");
	ok(desk_until(d,
		   pg_int(pg, "SELECT count(*) FROM item") == 30 &&
			   pg_int(pg, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1,
		   30000),
		"a statement is cancelled: those in front of it are repeated, it waits alone");
	pg_do(pg, "COMMIT");
	expect_items_once(d);
	is_int(d->failed, 0, "the replay never failed");
	desk_close(&d);
}

/* The COMMIT fails, and all that was sent with it is undone. */
static void test_deferred(void)
{
	struct desk *d = begin("deferred.db");

	pg_do(pg, "ALTER TABLE item ADD CHECK (n < 10000), ADD COLUMN ref bigint REFERENCES stock "
		  "DEFERRABLE INITIALLY DEFERRED");
	sqlite3_exec(d->db, "ALTER TABLE item ADD COLUMN ref INTEGER", NULL, NULL, NULL);
	items(d, 1, 20);
	(void)desk_write(d, "INSERT INTO item (n, ref) VALUES (21, 99)");
	items(d, 22, 90);
	desk_start_courier(d);
	ok(desk_replay_all(d, 60000), "a COMMIT that fails");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), 89, "all but one are there");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict WHERE sqlstate = '23503'"), 1,
		"it is set aside");
	desk_close(&d);
}

/* -- writes that come too fast ----------------------------------------------------------------- */

static bool keep_pending(struct desk *d, unsigned rows)
{
	while (d->holds == 0 && courier_pending(d->courier) < rows) {
		(void)desk_in_tx(d, "INSERT INTO item (n) VALUES (0)", REQ_F_TX);
		for (int n = 1; n < 50; n++) {
			(void)desk_in_tx(d, "INSERT INTO item (n) VALUES (1)", 0);
		}
		(void)desk_commit(d);
	}
	return d->holds > 0;
}

static bool write_some(struct desk *d)
{
	if (!d->held && d->near == 0) {
		items(d, 1, 2);
	}
	return d->near > 0;
}

static void test_hold(void)
{
	struct desk *d = begin("hold.db");
	unsigned holds;

	pg_do(pg, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
		  "PERFORM pg_sleep(0.001); RETURN NULL; END $$");
	pg_do(pg, "CREATE TRIGGER t AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION slow()");
	desk_start_courier(d);
	(void)keep_pending(d, 1000);
	courier_replay(d->courier, 0);
	ok(desk_until(d, keep_pending(d, 1000), 60000),
		"who writes as fast as is replayed is held back");
	ok(desk_until(d, write_some(d), 60000), "so the end comes near");
	holds = d->holds;
	courier_drain(d->courier);
	ok(desk_until(d, d->caught == 1, 60000), "all is replayed");
	is_int(d->holds, holds, "after the end was announced nothing is said of holding");
	is_int(pg_int(pg, "SELECT count(*) FROM item"), desk_int(d, "SELECT count(*) FROM item"),
		"all rows are there");
	desk_close(&d);
}

/* A transaction that is open in the file, where replayed rows are to be deleted. */
static void test_open_transaction(void)
{
	struct desk *d = begin("open.db");

	items(d, 1, 2500);
	(void)desk_in_tx(d, "INSERT INTO item (n) VALUES (2501)", REQ_F_TX);
	desk_start_courier(d);
	courier_replay(d->courier, 0);
	ok(desk_until(d, d->near == 1, 30000), "the end is near while a transaction is open");
	is_str(desk_commit(d), "", "it ends");
	courier_drain(d->courier);
	ok(desk_until(d, d->caught == 1, 30000), "all is replayed");
	expect(d, "open", "");
	desk_close(&d);
}

/* Halted when all was replayed and not deleted yet: nothing is pending, so no replay follows. */
static void test_halted(void)
{
	struct desk *d = begin("halted.db");
	char *const tables[] = {(char *)"item"};

	items(d, 1, 100);
	desk_start_courier_with(d, tables, 1, 50);
	courier_replay(d->courier, 0);
	ok(desk_until(d, courier_pending(d->courier) == 0, 30000), "all is replayed");
	courier_halt(d->courier);
	courier_mirror(d->courier, 0);
	ok(desk_until(d, courier_mirrored_at(d->courier) > 0, 30000),
		"after a halt the mirror is refreshed");
	expect(d, "halted", "");
	desk_close(&d);
}

int main(void)
{
	if (!pg_available()) {
		skip("no PostgreSQL server");
		return done_testing();
	}
	pg = pg_start(NULL);
	test_errors();
	test_nothing_but_errors();
	test_other_outcomes();
	test_within_transaction();
	test_triggers();
	test_large_transaction();
	test_large_values();
	test_ignored_rows();
	test_killed_server();
	test_ended_session();
	test_cancelled();
	test_deferred();
	test_hold();
	test_open_transaction();
	test_halted();
	pg_remove(&pg);
	return done_testing();
}
