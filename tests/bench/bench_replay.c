/* SPDX-License-Identifier: MIT */
/*
 * bench_replay.c - how many transactions of the journal per second reach PostgreSQL, which has
 * fsync on, while nobody writes.
 *
 *     bench_replay [TRANSACTIONS]
 */
#include "desk.h"

/* What each transaction of a run is made of; at most three statements. */
struct kind {
	const char *name;
	const char *sql[3]; /* %d: a number of its own */
};

static const struct kind kinds[] = {
	{"inserts", {"INSERT INTO item (n, note) VALUES (%d, 'a note of some length')"}},
	{"inserts_returning", {"INSERT INTO item (n, note) VALUES (%d, 'a note') RETURNING id"}},
	{"updates", {"UPDATE stock SET n = n + 1 WHERE id = 1 + %d %% 100"}},
	{"transfers",
		{"UPDATE stock SET n = n - 1 WHERE id = 1 + %d %% 100",
			"UPDATE stock SET n = n + 1 WHERE id = 101 + %d %% 100",
			"INSERT INTO item (n, note) VALUES (%d, 'one of these to one of those')"}},
};

static void make_tables(struct pg_cluster *pg, struct desk *d)
{
	pg_do(pg, "SET client_min_messages = warning; DROP SCHEMA public CASCADE; "
		  "CREATE SCHEMA public");
	pg_do(pg, "CREATE TABLE item (id serial PRIMARY KEY, n integer, note text)");
	pg_do(pg, "CREATE TABLE stock (id integer PRIMARY KEY, n integer)");
	pg_do(pg, "INSERT INTO stock SELECT i, 0 FROM generate_series(1, 200) i");
	(void)desk_write(d, "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER, note TEXT)");
	(void)desk_write(d, "CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER)");
	(void)desk_write(d, "WITH RECURSIVE s(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM s "
			    "WHERE i < 200) INSERT INTO stock SELECT i, 0 FROM s");
	sqlite3_exec(d->db, "DELETE FROM broker_journal", NULL, NULL, NULL);
}

static void write_transaction(struct desk *d, const struct kind *k, int n)
{
	for (unsigned i = 0; i < 3 && k->sql[i] != NULL; i++) {
		char *sql = scratch_format(k->sql[i], n);

		(void)desk_in_tx(d, sql, i == 0 ? REQ_F_TX : 0);
		free(sql);
	}
	(void)desk_commit(d);
}

static void measure(struct pg_cluster *pg, const struct kind *k, int transactions)
{
	char *file = scratch_format("%s.db", k->name);
	struct desk *d = desk_open(file);
	int64_t since;

	desk_add_server(d, pg_url(pg));
	make_tables(pg, d);
	for (int n = 0; n < transactions; n++) {
		write_transaction(d, k, n);
	}
	desk_start_courier(d);
	since = wait_clock_us();
	ok(desk_replay_all(d, 600000), "%s: replayed", k->name);
	printf("MEASURE replay_%s %.0f transactions/s\n", k->name,
		transactions * 1e6 / (double)(wait_clock_us() - since));
	is_int((int64_t)courier_conflicts(d->courier), 0, "no conflicts");
	desk_close(&d);
	free(file);
}

int main(int argc, char **argv)
{
	static const char *const settings[] = {"fsync=on", NULL};
	int transactions = argc > 1 ? atoi(argv[1]) : 20000;
	struct pg_cluster *pg;

	if (!pg_available()) {
		skip("no PostgreSQL server");
		return done_testing();
	}
	pg = pg_start(settings);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		measure(pg, &kinds[i], transactions);
	}
	pg_remove(&pg);
	return done_testing();
}
