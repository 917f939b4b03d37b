/* SPDX-License-Identifier: MIT */
/*
 * test_fallback.c - PostgreSQL goes, SQLite stands in and keeps a journal, PostgreSQL comes back:
 * through the whole broker.  Every write that was acknowledged is in PostgreSQL once, in order;
 * what conflicts is set aside; copies of tables are there to read.
 */
#include "brokerproc.h"
#include "cluster.h"
#include "crew.h"
#include "ledger.h"
#include "scratch.h"
#include "settings.h"
#include "shmbroker.h"
#include "tap.h"
#include "wait.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_MS 5000
#define SOON_MS 60000

static struct cluster *cluster;
static struct pg_cluster *pg;

static struct broker_proc *start(const char *file, const char *const *more)
{
	struct settings *s = settings_new();
	struct broker_proc *p;

	settings_add_servers(s, cluster, NULL, file);
	settings_add(s, "server a.health_interval=100ms");
	settings_add(s, "server a.health_down_after=2");
	settings_add(s, "pool main.max_size=4");
	settings_add_all(s, more);
	p = broker_start(NULL, settings_list(s));
	settings_free(&s);
	return p;
}

static struct broker *attach(struct broker_proc *p)
{
	struct broker_options opt = {.path = broker_socket(p), .timeout_ms = SOON_MS};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static int run(struct broker *b, const char *sql)
{
	struct broker_call call = {.timeout_ms = CALL_MS};
	int rc = broker_exec(b, sql, 0, NULL, &call, NULL);

	if (rc < 0) {
		diag("%s: %s", sql, broker_error(b)->message);
	}
	return rc;
}

/* The statement, again and again, until this server has done it. */
static bool done_by(struct broker *b, const char *sql, const char *server)
{
	struct broker_call call = {.timeout_ms = CALL_MS};

	return wait_until(broker_exec(b, sql, 0, NULL, &call, NULL) == 0 &&
				  strcmp(broker_last_server(b), server) == 0,
		SOON_MS);
}

static int64_t value(struct broker *b, const char *sql)
{
	struct broker_call call = {.flags = BROKER_READONLY, .timeout_ms = CALL_MS};
	struct broker_result *r;
	int64_t v = -1;

	if (broker_exec(b, sql, 0, NULL, &call, &r) < 0) {
		diag("%s: %s", sql, broker_error(b)->message);
		return -1;
	}
	if (broker_next(r) == 1 && broker_get_int64(r, 0, &v) < 0) {
		v = -2;
	}
	broker_result_free(&r);
	return v;
}

/* A number from the file itself. */
static int64_t look(const char *file, const char *sql)
{
	sqlite3 *db;
	sqlite3_stmt *stmt = NULL;
	int64_t v = -1;

	if (sqlite3_open_v2(file, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) {
		sqlite3_busy_timeout(db, 5000);
		if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK &&
			sqlite3_step(stmt) == SQLITE_ROW) {
			v = sqlite3_column_int64(stmt, 0);
		}
		sqlite3_finalize(stmt);
	}
	sqlite3_close(db);
	return v;
}

/* Both tables are in the file, this one with so many items. */
static bool is_mirrored(const char *file, int64_t items)
{
	return wait_until(look(file, "SELECT count(*) FROM item") == items &&
				  look(file, "SELECT count(*) FROM stock") == 2,
		SOON_MS);
}

static void make_tables(void)
{
	pg_do(pg, "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA "
		  "public");
	pg_do(pg,
		"CREATE SEQUENCE order_of; CREATE TABLE item (n bigint PRIMARY KEY, worker bigint, "
		"name text, nr bigint DEFAULT nextval('order_of'))");
	pg_do(pg,
		"CREATE TABLE stock (id integer PRIMARY KEY, amount integer CHECK (amount >= 0)); "
		"INSERT INTO stock VALUES (1, 10), (2, 10)");
}

/* -- once there and back
 * --------------------------------------------------------------------------- */

static const char *const journal[] = {"pool main.fallback=journal", "pool main.mirror=item, stock",
	"pool main.mirror_interval=100ms", NULL};

static void write_in_fallback(struct broker *b)
{
	struct broker_call call = {.timeout_ms = CALL_MS};
	struct broker_lease *l;

	is_int(value(b, "SELECT amount FROM stock WHERE id = 1"), 10, "reads find the copies");
	is_int(run(b, "UPDATE stock SET amount = amount - 7 WHERE id = 1"), 0, "a write");
	is_int(value(b, "SELECT amount FROM stock WHERE id = 1"), 3, "is seen at once");
	is_int(broker_begin(b, &call, &l), 0, "a transaction");
	call.lease = l;
	is_int(broker_exec(b, "INSERT INTO item (n, name) VALUES (2, 'two')", 0, NULL, &call, NULL),
		0, "with a row");
	is_int(broker_savepoint(l), 0, "a savepoint");
	is_int(broker_exec(
		       b, "INSERT INTO item (n, name) VALUES (3, 'undone')", 0, NULL, &call, NULL),
		0, "a row behind it");
	is_int(broker_savepoint_rollback(l), 0, "that is undone");
	is_int(broker_exec(
		       b, "INSERT INTO item (n, name) VALUES (4, 'four')", 0, NULL, &call, NULL),
		0, "and another");
	is_int(broker_commit(&l, CALL_MS), 0, "is committed");
	is_int(run(b, "UPDATE stock SET amount = amount - 5 WHERE id = 2"), 0,
		"what somebody else will have taken");
	is_int(broker_exec(b, "INSERT INTO item (n) VALUES (random())", 0, NULL, NULL, NULL),
		BROKER_E_UNSUPPORTED, "what cannot be repeated is refused");
	is_int(run(b, "CREATE TABLE made (id integer PRIMARY KEY)"), 0, "a table is made");
	is_int(run(b, "INSERT INTO made VALUES (1)"), 0, "and used");
}

static void test_there_and_back(void)
{
	char *file = scratch_path("once.db"), *text;
	struct broker_proc *p;
	struct broker *b;

	make_tables();
	p = start(file, journal);
	b = attach(p);
	is_int(run(b, "INSERT INTO item (n, name) VALUES (1, 'one')"), 0, "a write to PostgreSQL");
	is_str(broker_last_server(b), "a", "by server a");
	ok(is_mirrored(file, 1), "it is copied");
	pg_stop(pg, PG_FAST);
	ok(done_by(b, "UPDATE item SET name = 'uno' WHERE n = 1", SETTINGS_LOCAL),
		"without PostgreSQL, SQLite takes writes");
	write_in_fallback(b);
	ok(look(file, "SELECT count(*) FROM broker_journal") >= 7, "they are in the journal");
	pg_restart(pg);
	ok(done_by(b, "INSERT INTO item (n, name) VALUES (5, 'five') ON CONFLICT (n) DO NOTHING",
		   "a"),
		"with PostgreSQL back, it takes writes");
	is_int(look(file, "SELECT count(*) FROM broker_journal"), 0, "the journal is empty");
	text = pg_text(pg, "SELECT string_agg(n || name, ' ' ORDER BY nr) FROM item");
	is_str(text, "1uno 2two 4four 5five", "all writes are there, in order");
	free(text);
	text = pg_text(pg, "SELECT string_agg(amount::text, ' ' ORDER BY id) FROM stock");
	is_str(text, "3 5", "and the updates");
	free(text);
	is_int(pg_int(pg, "SELECT count(*) FROM made"), 1, "and the table");
	is_int(value(b, "SELECT amount FROM stock WHERE id = 1"), 3, "reads see it");
	is_int((int64_t)broker_log_count(p, "set aside in"), 0, "without conflicts");
	ok(wait_until(look(file, "SELECT count(*) FROM item WHERE nr IS NOT NULL") == 4, SOON_MS),
		"and copies are refreshed again");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	free(file);
}

/* While the broker was away the world has moved on; and it finds an old journal when it starts. */
static void test_conflict_after_restart(void)
{
	char *file = scratch_path("conflict.db"), *text;
	struct broker_proc *p;
	struct broker *b;

	make_tables();
	p = start(file, journal);
	b = attach(p);
	ok(is_mirrored(file, 0), "tables are copied");
	pg_stop(pg, PG_FAST);
	ok(done_by(b,
		   "INSERT INTO item (n, name) VALUES (1, 'local') ON CONFLICT (n) DO UPDATE SET "
		   "name = 'local'",
		   SETTINGS_LOCAL),
		"SQLite takes writes");
	is_int(run(b, "UPDATE stock SET amount = amount - 9 WHERE id = 1"), 0, "one");
	is_int(run(b, "UPDATE stock SET amount = amount - 1 WHERE id = 2"), 0, "another");
	broker_detach(&b);
	broker_kill(p);
	pg_restart(pg);
	pg_do(pg, "UPDATE stock SET amount = amount - 5");
	broker_restart(p);
	b = attach(p);
	ok(done_by(b,
		   "INSERT INTO item (n, name) VALUES (2, 'pg') ON CONFLICT (n) DO UPDATE SET name "
		   "= "
		   "'pg'",
		   "a"),
		"the first write to PostgreSQL by the next broker");
	is_int(pg_int(pg, "SELECT amount FROM stock WHERE id = 2"), 4,
		"after what the journal had from the last one");
	is_int(pg_int(pg, "SELECT amount FROM stock WHERE id = 1"), 5, "but for what conflicts");
	text = pg_text(pg, "SELECT sqlstate || ' ' || statement FROM broker_conflict");
	is_str(text, "23514 UPDATE stock SET amount = amount - 9 WHERE id = 1",
		"which is set aside");
	free(text);
	is_int((int64_t)broker_log_count(p, "set aside in broker_conflict"), 1, "and logged");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	free(file);
}

/* -- under load
 * -------------------------------------------------------------------------------------- */

/* Numbered rows, one by one or two in a transaction, the whole time. */
static void write_items(struct crew_worker *w)
{
	struct broker_call call = {.timeout_ms = CALL_MS};
	struct broker_value v[2];
	uint32_t n = ledger_begin(w->ledger);

	v[0] = broker_int64(n);
	v[1] = broker_int64(w->id);
	ledger_end(w->ledger, n, w->b,
		crew_exec(w, "INSERT INTO item (n, worker) VALUES ($1, $2)", 2, v, &call, NULL));
	crew_breathe(1 + (unsigned)rand_r(&w->seed) % 5);
}

static void check_items(struct ledger *books, const char *what)
{
	ok(ledger_check(books, pg, "SELECT n, count(*) FROM item GROUP BY n", what), "%s: rows",
		what);
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 0, "%s: nothing is set aside",
		what);
	is_int(pg_int(pg, "SELECT count(*) FROM (SELECT n, lag(n) OVER (PARTITION BY worker ORDER "
			  "BY nr) "
			  "AS before FROM item) AS x WHERE n < before"),
		0, "%s: each worker's rows are in its order", what);
}

static bool acked_within(struct ledger *books, int64_t ms)
{
	int64_t now = wait_clock_us();

	return wait_until(ledger_acked_after(books, now) != 0, ms);
}

/* Gone and back; SQLite has taken writes meanwhile. */
static void go_and_return(struct ledger *books, const char *file, enum pg_mode mode)
{
	pg_stop(pg, mode);
	ok(wait_until(look(file, "SELECT count(*) FROM broker_journal") > 20, SOON_MS),
		"without PostgreSQL writes go on");
	pg_restart(pg);
	ok(wait_until(look(file, "SELECT count(*) FROM broker_journal") == 0, SOON_MS),
		"it is back and gets them");
	ok(acked_within(books, SOON_MS), "and more");
}

static void test_load(unsigned rounds)
{
	char *file = scratch_path("load.db");
	struct ledger *books = ledger_create(200000);
	struct broker_proc *p;
	struct crew *crew;

	make_tables();
	p = start(file, journal);
	ok(is_mirrored(file, 0), "tables are copied");
	crew = crew_start(broker_socket(p), 8, write_items, books, NULL);
	for (unsigned i = 0; i < rounds; i++) {
		go_and_return(books, file, i % 2 == 0 ? PG_KILL : PG_FAST);
	}
	crew_stop(&crew, "writers through losses of PostgreSQL");
	check_items(books, "PostgreSQL lost");
	is_int(broker_free(&p), 0, "the broker ends well");
	ledger_destroy(&books);
	free(file);
}

/* kill -9 of the broker while it writes the journal, and while it replays it. */
static void test_broker_killed(unsigned rounds)
{
	char *file = scratch_path("killed.db");
	struct ledger *books = ledger_create(200000);
	struct broker_proc *p;
	struct crew *crew;

	make_tables();
	p = start(file, journal);
	ok(is_mirrored(file, 0), "tables are copied");
	crew = crew_start(broker_socket(p), 8, write_items, books, NULL);
	for (unsigned i = 0; i < rounds; i++) {
		pg_stop(pg, PG_FAST);
		ok(wait_until(look(file, "SELECT count(*) FROM broker_journal") > 300, SOON_MS),
			"a journal of 300 rows");
		broker_kill(p);
		broker_restart(p);
		ok(acked_within(books, SOON_MS), "the next broker takes writes");
		pg_restart(pg);
		(void)wait_until(pg_int(pg, "SELECT count(*) FROM pg_tables WHERE tablename = "
					    "'broker_journal_position'") == 1 &&
					 pg_int(pg, "SELECT max(position) FROM "
						    "broker_journal_position") > 0,
			20000);
		broker_kill(p);
		broker_restart(p);
		ok(wait_until(look(file, "SELECT count(*) FROM broker_journal") == 0, SOON_MS),
			"the one after that replays the rest");
		ok(acked_within(books, SOON_MS), "and goes on");
	}
	crew_stop(&crew, "writers through deaths of the broker");
	check_items(books, "broker killed");
	is_int(broker_free(&p), 0, "the broker ends well");
	ledger_destroy(&books);
	free(file);
}

/* -- the other ways
 * ------------------------------------------------------------------------------------ */

static void test_read_only(void)
{
	static const char *const settings[] = {"pool main.fallback=read-only",
		"pool main.mirror=stock", "pool main.mirror_interval=100ms", NULL};
	char *file = scratch_path("readonly.db");
	struct broker_call call = {.flags = BROKER_READONLY, .timeout_ms = CALL_MS};
	struct broker_call write = {.timeout_ms = 1000};
	struct broker_proc *p;
	struct broker *b;
	int rc;

	make_tables();
	p = start(file, settings);
	b = attach(p);
	ok(wait_until(look(file, "SELECT count(*) FROM stock") == 2, SOON_MS), "a table is copied");
	pg_stop(pg, PG_FAST);
	ok(wait_until(broker_exec(b, "SELECT amount FROM stock", 0, NULL, &call, NULL) == 0 &&
			      strcmp(broker_last_server(b), SETTINGS_LOCAL) == 0,
		   SOON_MS),
		"reads are answered from the copy");
	rc = broker_exec(b, "UPDATE stock SET amount = 0", 0, NULL, &write, NULL);
	ok(rc < 0, "writes are not taken: %s", broker_error(b)->message);
	is_int(value(b, "SELECT sum(amount) FROM stock"), 20, "nothing has changed");
	pg_restart(pg);
	ok(done_by(b, "UPDATE stock SET amount = 1", "a"), "until PostgreSQL is back");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	free(file);
}

int main(void)
{
	const struct cluster_options opt = {.standbys = 0};
	bool quick = getenv("TEST_QUICK") != NULL;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	cluster = cluster_start(&opt);
	pg = cluster_server(cluster, 0);
	test_there_and_back();
	test_conflict_after_restart();
	test_load(quick ? 2 : 6);
	test_broker_killed(quick ? 1 : 4);
	test_read_only();
	cluster_remove(&cluster);
	return done_testing();
}
