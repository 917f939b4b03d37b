/* SPDX-License-Identifier: MIT */
/*
 * test_handback_edges.c - the primary comes back while something stands in the way: a reload in the
 * middle of handing back, a transaction that stays open in the fallback, a journal that cannot be
 * read for a while.  No write that was acknowledged may be missing in PostgreSQL, and none may
 * overtake those before it.
 */
#include "behave.h"
#include "pg_case.h"

#include <signal.h>
#include <sqlite3.h>
#include <unistd.h>

#define PATIENCE_MS 60000

static struct pg_cluster *pg;
static struct broker_proc *proc;
static struct broker *b;
static char *file, *fallback;

static void configure(const char *pool)
{
	FILE *f = fopen(file, "w");

	if (f == NULL) {
		bail_out("cannot write %s", file);
	}
	fprintf(f,
		"[server db]\nurl = %s\nhealth_interval = 100ms\nhealth_down_after = 2\n"
		"[server local]\nurl = sqlite:%s\n[pool main]\nservers = db, local\n"
		"fallback = journal\nmirror = item\nmirror_interval = 100ms\n"
		"%s%s\n",
		pg_url(pg), fallback,
		strstr(pool, "acquire_timeout") == NULL ? "acquire_timeout = 60s\n" : "", pool);
	fclose(f);
}

static bool reload(void)
{
	unsigned before = broker_log_count(proc, "reload: done");

	kill(broker_pid(proc), SIGHUP);
	return wait_until(broker_log_count(proc, "reload: done") == before + 1, PATIENCE_MS);
}

/* The statement, again and again, until this server has done it. */
static bool done_by(const char *sql, const char *server)
{
	return wait_until(behave_run(b, NULL, sql) == 0 &&
				  strcmp(broker_last_server(b), server) == 0,
		PATIENCE_MS);
}

/* A number from the fallback's file. */
static int64_t in_file(const char *sql)
{
	sqlite3 *db;
	sqlite3_stmt *stmt = NULL;
	int64_t v = -1;

	if (sqlite3_open_v2(fallback, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) {
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

static int64_t rows_in_pg(const char *where)
{
	return pg_int(pg, "SELECT count(*) FROM item WHERE %s", where);
}

/* PostgreSQL goes, SQLite writes: row n. */
static void lose(int n)
{
	char sql[100];
	unsigned rows = (unsigned)pg_int(pg, "SELECT count(*) FROM item");

	if (!wait_until(in_file("SELECT count(*) FROM item") == rows, PATIENCE_MS)) {
		bail_out("no copies");
	}
	pg_stop(pg, PG_IMMEDIATE);
	snprintf(sql, sizeof(sql), "INSERT INTO item (n) VALUES (%d) ON CONFLICT DO NOTHING", n);
	ok(done_by(sql, "local"), "the fallback writes");
}

/* A worker has a lease in the fallback when the primary comes back, and the configuration is read
 * again while everybody waits for it: nobody overtakes it. */
static void test_reload_while_settling(void)
{
	struct broker_call in = {0};
	uint64_t later;

	lose(2);
	in.lease = behave_hold(b, NULL, "INSERT INTO item (n) VALUES (100)");
	pg_restart(pg);
	ok(wait_until(rows_in_pg("n = 100") == 1, PATIENCE_MS), "the journal reaches the primary");
	later = behave_submit(b, NULL, "UPDATE item SET name = 'later' WHERE n >= 100");
	is_int(broker_collect(b, later, 1000, NULL, NULL), BROKER_E_PENDING,
		"a write waits for a lease in the fallback");
	configure("max_size = 5");
	ok(reload(), "reload");
	is_int(broker_collect(b, later, 1000, NULL, NULL), BROKER_E_PENDING, "it waits on");
	is_int(behave_run(b, &in, "INSERT INTO item (n) VALUES (101)"), 0, "the lease goes on");
	broker_release(&in.lease);
	is_int(broker_collect(b, later, -1, NULL, NULL), 0, "then the write is done");
	ok(wait_until(rows_in_pg("n >= 100 AND name = 'later'") == 2, PATIENCE_MS),
		"all reach the primary in order");
	ok(done_by("INSERT INTO item (n) VALUES (102) ON CONFLICT DO NOTHING", "db"),
		"which writes from now on");
}

/* A new pool whose journal another program has locked: the rest of the reload counts, and the
 * journal is looked at again until it can be read. */
static void test_locked_journal(void)
{
	char *other = scratch_path("other.db"),
	     *pool = scratch_format("max_size = 3\n[server held]\nurl = sqlite:%s\n[pool second]\n"
				    "servers = db, held\nfallback = journal\nmax_size = 2",
		     other);
	struct broker_call second = {.pool = "second"};
	sqlite3 *db;

	if (sqlite3_open(other, &db) != SQLITE_OK ||
		sqlite3_exec(db,
			"PRAGMA locking_mode = exclusive; PRAGMA journal_mode = wal; "
			"CREATE TABLE mine (i integer)",
			NULL, NULL, NULL) != SQLITE_OK) {
		bail_out("%s: %s", other, sqlite3_errmsg(db));
	}
	configure(pool);
	ok(reload(), "a new pool with a journal that is locked");
	ok(wait_until(broker_log_count(proc, "the journal cannot be read") > 1, PATIENCE_MS),
		"the log says so, and it is tried again");
	is_int(behave_run(b, NULL, "SELECT 1"), 0, "other pools work");
	is_int(behave_run(b, &second, "SELECT 1"), 0, "the new one writes to its primary");
	sqlite3_close(db);
	pg_stop(pg, PG_IMMEDIATE);
	ok(wait_until(behave_run(b, &second, "INSERT INTO mine VALUES (7)") == 0, PATIENCE_MS),
		"its fallback takes over");
	pg_restart(pg);
	pg_do(pg, "CREATE TABLE mine (i integer)");
	ok(wait_until(pg_int(pg, "SELECT count(*) FROM mine") > 0, PATIENCE_MS),
		"and hands back what was written");
	free(pool);
	free(other);
}

/* The broker is asked to stop while everybody waits for a lease in the fallback; what was written
 * there is in the journal, and the next broker hands it back. */
static void test_stop_while_settling(void)
{
	struct broker_call in = {0};
	uint64_t later;

	lose(200);
	in.lease = behave_hold(b, NULL, "INSERT INTO item (n) VALUES (201)");
	pg_restart(pg);
	ok(wait_until(rows_in_pg("n = 201") == 1, PATIENCE_MS), "the journal reaches the primary");
	is_int(behave_run(b, &in, "INSERT INTO item (n) VALUES (202)"), 0, "the lease writes on");
	later = behave_submit(b, NULL, "INSERT INTO item (n) VALUES (203)");
	kill(broker_pid(proc), SIGTERM);
	ok(broker_collect(b, later, -1, NULL, NULL) < 0, "who waits is told");
	is_int(broker_error(b)->outcome, BROKER_NOT_DONE, "that nothing was done");
	kill(broker_pid(proc), SIGTERM);
	is_int(broker_wait(proc, PATIENCE_MS), 0, "the broker ends well");
	broker_release(&in.lease);
	broker_detach(&b);
	broker_restart(proc);
	b = case_attach(proc);
	ok(wait_until(rows_in_pg("n = 202") == 1, PATIENCE_MS), "the next one hands back");
	is_int(rows_in_pg("n = 203"), 0, "what was written, and nothing else");
}

/* The primary goes again while its last rows are awaited, and the transaction in the fallback that
 * held everybody up commits there. */
static void test_lost_again_while_settling(void)
{
	struct broker_call in = {0};

	lose(300);
	in.lease = behave_hold(b, NULL, "INSERT INTO item (n) VALUES (301)");
	pg_restart(pg);
	ok(wait_until(rows_in_pg("n = 301") == 1, PATIENCE_MS), "the journal reaches the primary");
	pg_stop(pg, PG_IMMEDIATE);
	is_int(behave_run(b, &in, "INSERT INTO item (n) VALUES (302)"), 0,
		"the lease writes while the primary is lost again");
	broker_release(&in.lease);
	ok(done_by("INSERT INTO item (n) VALUES (303) ON CONFLICT DO NOTHING", "local"),
		"the fallback writes for all");
	pg_restart(pg);
	ok(wait_until(rows_in_pg("n IN (301, 302, 303)") == 3, PATIENCE_MS), "all are handed back");
	ok(done_by("INSERT INTO item (n) VALUES (304) ON CONFLICT DO NOTHING", "db"),
		"the primary writes");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 0, "nothing was set aside");
}

/* A lease that nobody ends is taken away when acquire_timeout is over. */
static void test_lease_that_stays(void)
{
	struct broker_call in = {0};

	configure("acquire_timeout = 2s");
	ok(reload(), "a shorter acquire_timeout");
	lose(400);
	in.lease = behave_hold(b, NULL, "INSERT INTO item (n) VALUES (401)");
	pg_restart(pg);
	ok(done_by("INSERT INTO item (n) VALUES (402) ON CONFLICT DO NOTHING", "db"),
		"a lease that stays open in the fallback does not keep the primary away for long");
	is_int(behave_run(b, &in, "INSERT INTO item (n) VALUES (403)"), BROKER_E_TX_ABORTED,
		"its worker is told");
	broker_release(&in.lease);
	is_int(rows_in_pg("n = 401"), 1, "what it wrote before has arrived");
	is_int(rows_in_pg("n = 403"), 0, "and nothing else");
}

int main(void)
{
	const char *args[] = {"serve", "-c", NULL, NULL};

	if (!pg_available()) {
		skip("no PostgreSQL here");
		return done_testing();
	}
	pg = pg_start(NULL);
	pg_do(pg, "CREATE TABLE item (n bigint PRIMARY KEY, name text)");
	pg_do(pg, "INSERT INTO item VALUES (1, 'one')");
	file = scratch_path("handback.ini");
	fallback = scratch_path("fallback.db");
	args[2] = file;
	configure("max_size = 4");
	proc = broker_spawn(args, true);
	if (!broker_ready(proc, PATIENCE_MS)) {
		bail_out("the broker does not start");
	}
	b = case_attach(proc);
	test_reload_while_settling();
	test_stop_while_settling();
	test_lost_again_while_settling();
	test_lease_that_stays();
	test_locked_journal();
	broker_detach(&b);
	is_int(broker_free(&proc), 0, "the broker ends well");
	pg_remove(&pg);
	free(fallback);
	free(file);
	return done_testing();
}
