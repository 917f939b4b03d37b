/* SPDX-License-Identifier: MIT */
/*
 * test_journal_kill.c - kill -9 at any moment of writing and replaying, of the broker and of the
 * server, and connections that are cut at any moment: every acknowledged write is in PostgreSQL
 * once, in order.
 *
 * A child process plays the broker: it writes numbered rows to SQLite, one by one or as
 * transactions, acknowledges each through a pipe, and replays all the while.  It is killed and
 * started again.  What SQLite's own table holds is what was accepted, so PostgreSQL must hold the
 * same.
 */
#include "desk.h"
#include "spawn.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct pg_cluster *pg;

static void make_tables(struct desk *d)
{
	pg_do(pg, "SET client_min_messages = warning; DROP TABLE IF EXISTS book, "
		  "broker_journal_position, broker_conflict");
	pg_do(pg, "CREATE TABLE book (nr bigserial PRIMARY KEY, n bigint NOT NULL, part text NOT "
		  "NULL)");
	is_str(desk_write(d, "CREATE TABLE book (nr INTEGER PRIMARY KEY, n INTEGER, part TEXT)"),
		"", "a table");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
}

/* A write or a transaction with number n; what a savepoint undoes must never be seen. */
static void write_number(struct desk *d, int64_t n)
{
	char sql[100];

	if (n % 5 != 0) {
		(void)desk_write(
			d, "INSERT INTO book (n, part) VALUES (%lld, 'one')", (long long)n);
		return;
	}
	snprintf(sql, sizeof(sql), "INSERT INTO book (n, part) VALUES (%lld, 'first')",
		(long long)n);
	(void)desk_in_tx(d, sql, REQ_F_TX);
	(void)desk_in_tx(d, "SAVEPOINT s", 0);
	(void)desk_in_tx(d, "INSERT INTO book (n, part) VALUES (0, 'undone')", 0);
	(void)desk_in_tx(d, "ROLLBACK TO s", 0);
	snprintf(sql, sizeof(sql), "INSERT INTO book (n, part) VALUES (%lld, 'second')",
		(long long)n);
	(void)desk_in_tx(d, sql, 0);
	(void)desk_commit(d);
}

/* -- the child --------------------------------------------------------------------------------- */

/* Hand back now and then: the end of a replay is as good a moment to die as any. */
static void hand_back(struct desk *d)
{
	unsigned caught = d->caught;

	courier_drain(d->courier);
	(void)desk_until(d, d->caught > caught, 60000);
	courier_replay(d->courier, 0);
}

_Noreturn static void play_broker(const char *name, const char *url, int acks)
{
	struct desk *d = desk_open(name);
	int64_t n = desk_int(d, "SELECT coalesce(max(n), 0) FROM book");

	desk_add_server(d, url);
	d->insist = true;
	desk_start_courier(d);
	courier_replay(d->courier, 0);
	for (;;) {
		n++;
		write_number(d, n);
		if (write(acks, &n, sizeof(n)) != sizeof(n)) {
			_exit(1);
		}
		uv_run(&d->loop, UV_RUN_NOWAIT);
		if (n % 97 == 0) {
			hand_back(d);
		}
	}
}

/* -- the parent -------------------------------------------------------------------------------- */

static void sleep_us(unsigned us)
{
	struct timespec ts = {.tv_nsec = (long)us * 1000};

	nanosleep(&ts, NULL); /* the moment of the kill is what is drawn by lot */
}

/* Let it live for a moment; returns the last number it has acknowledged, or before. */
static int64_t one_life(const char *name, int64_t before, unsigned us)
{
	int fds[2];
	int64_t n;
	pid_t pid;

	if (pipe(fds) < 0) {
		bail_out("pipe");
	}
	pid = spawn_fork();
	if (pid == 0) {
		close(fds[0]);
		play_broker(name, pg_url(pg), fds[1]);
	}
	close(fds[1]);
	if (read(fds[0], &n, sizeof(n)) == sizeof(n)) { /* it has begun */
		before = n;
		sleep_us(us);
	}
	kill(pid, SIGKILL);
	while (read(fds[0], &n, sizeof(n)) == sizeof(n)) {
		before = n;
	}
	close(fds[0]);
	(void)spawn_wait(pid, 10000, NULL);
	return before;
}

static void compare(struct desk *d)
{
	int64_t rows = desk_int(d, "SELECT count(*) FROM book");
	int64_t sum = desk_int(d, "SELECT coalesce(sum(n), 0) FROM book");

	is_int(pg_int(pg, "SELECT count(*) FROM book"), rows,
		"PostgreSQL has as many rows as SQLite");
	is_int(pg_int(pg, "SELECT coalesce(sum(n), 0)::bigint FROM book"), sum, "the same ones");
	is_int(pg_int(pg, "SELECT count(*) FROM (SELECT n, part FROM book GROUP BY n, part "
			  "HAVING count(*) > 1) AS twice"),
		0, "each of them once");
	is_int(pg_int(pg, "SELECT count(*) FROM (SELECT n, lag(n) OVER (ORDER BY nr) AS before "
			  "FROM book) AS x WHERE n < before"),
		0, "in the order in which they were accepted");
	is_int(pg_int(pg, "SELECT count(*) FROM (SELECT n FROM book WHERE part <> 'one' GROUP BY n "
			  "HAVING count(*) <> 2) AS half"),
		0, "transactions are whole");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 0, "nothing is set aside");
	is_int(desk_int(d, "SELECT count(*) FROM broker_journal"), 0, "the journal is empty");
}

static void test_kill(unsigned lives)
{
	struct desk *d = desk_open("kill.db");
	int64_t acked = 0;

	make_tables(d);
	desk_close(&d);
	for (unsigned i = 0; i < lives; i++) {
		acked = one_life("kill.db", acked, (unsigned)(random() % 60000));
	}
	d = desk_open("kill.db");
	desk_add_server(d, pg_url(pg));
	ok(acked > 0 && desk_int(d, "SELECT max(n) FROM book") >= acked,
		"the file has every write that was acknowledged, up to %lld", (long long)acked);
	desk_start_courier(d);
	d->insist = true;
	ok(desk_replay_all(d, 120000), "what the killed ones have left is replayed");
	compare(d);
	desk_close(&d);
}

static int64_t sessions(const char *what)
{
	return pg_int(pg,
		"SELECT count(%s) FROM pg_stat_activity WHERE application_name = 'shmbroker'",
		what);
}

/* The server ends the session of the courier, wherever it is. */
static void test_cut(unsigned rows, unsigned cuts)
{
	struct desk *d = desk_open("cut.db");
	unsigned done = 0;

	make_tables(d);
	for (unsigned n = 1; n <= rows; n++) {
		write_number(d, n);
	}
	desk_add_server(d, pg_url(pg));
	desk_start_courier(d);
	d->insist = d->drains = true;
	courier_replay(d->courier, 0);
	for (; done < cuts && d->caught == 0; done++) {
		if (!desk_until(d, d->caught > 0 || sessions("*") > 0, 60000)) {
			break;
		}
		(void)desk_until(d, d->caught > 0, (int)(random() % 60));
		(void)sessions("pg_terminate_backend(pid)");
	}
	ok(desk_until(d, d->caught == 1, 120000),
		"the journal is replayed through %u cut connections", done);
	ok(d->failed > 0, "%u of them were felt", d->failed);
	compare(d);
	desk_close(&d);
}

static void test_crash(unsigned rows)
{
	struct desk *d = desk_open("crash.db");
	unsigned crashes = 0;

	make_tables(d);
	for (unsigned n = 1; n <= rows; n++) {
		write_number(d, n);
	}
	desk_add_server(d, pg_url(pg));
	desk_start_courier(d);
	d->insist = d->drains = true;
	courier_replay(d->courier, 0);
	for (; d->caught == 0 && crashes < 3; crashes++) {
		(void)desk_until(d,
			d->caught > 0 || courier_replayed(d->courier) > crashes * rows / 4, 60000);
		pg_stop(pg, crashes % 2 == 0 ? PG_KILL : PG_IMMEDIATE);
		pg_restart(pg);
	}
	ok(desk_until(d, d->caught == 1, 120000),
		"the journal is replayed through %u crashes of the server", crashes);
	compare(d);
	desk_close(&d);
}

int main(void)
{
	bool quick = getenv("TEST_QUICK") != NULL;
	unsigned seed = getenv("TEST_SEED") != NULL ? (unsigned)atoi(getenv("TEST_SEED"))
						    : (unsigned)time(NULL);

	if (!pg_available()) {
		skip("no PostgreSQL server");
		return done_testing();
	}
	diag("TEST_SEED=%u", seed);
	srandom(seed);
	pg = pg_start(NULL);
	test_kill(quick ? 10 : 60);
	test_cut(quick ? 2000 : 6000, quick ? 10 : 30);
	test_crash(quick ? 500 : 2000);
	pg_remove(&pg);
	return done_testing();
}
