/* SPDX-License-Identifier: MIT */
/*
 * bench_sqlite_writes.c - how many durable single-row inserts per second several processes make:
 * each with an SQLite connection of its own, and through the broker.
 *
 *     bench_sqlite_writes [SECONDS]
 *
 * BROKER_BIN names the broker.  Both use the same file system, WAL and synchronous=FULL; every
 * insert is answered when it is durable.
 */
#include "brokerproc.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct counts {
	_Atomic uint64_t done;
	_Atomic uint64_t failed;
};

static const char create_sql[] = "CREATE TABLE t (id INTEGER PRIMARY KEY, who INT, note TEXT)";
static const char insert_sql[] = "INSERT INTO t (who, note) VALUES ($1, 'a note of some length')";

static sqlite3 *open_direct(const char *path)
{
	sqlite3 *db = NULL;

	if (sqlite3_open(path, &db) != SQLITE_OK ||
		sqlite3_exec(db,
			"PRAGMA busy_timeout=30000; PRAGMA journal_mode=WAL; PRAGMA "
			"synchronous=FULL",
			NULL, NULL, NULL) != SQLITE_OK) {
		bail_out("%s: %s", path, sqlite3_errmsg(db));
	}
	return db;
}

static _Noreturn void direct_worker(const char *path, struct counts *c, int who, int64_t end)
{
	sqlite3 *db = open_direct(path);
	sqlite3_stmt *stmt = NULL;

	sqlite3_prepare_v2(db, insert_sql, -1, &stmt, NULL);
	while (wait_clock_ms() < end) {
		sqlite3_bind_int(stmt, 1, who);
		if (sqlite3_step(stmt) == SQLITE_DONE) {
			atomic_fetch_add(&c->done, 1);
		} else {
			atomic_fetch_add(&c->failed, 1);
		}
		sqlite3_reset(stmt);
	}
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	_exit(0);
}

static struct broker *attach(const char *socket)
{
	struct broker_options opt = {.path = socket};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static _Noreturn void broker_worker(const char *socket, struct counts *c, int who, int64_t end)
{
	struct broker *b = attach(socket);

	while (wait_clock_ms() < end) {
		struct broker_value v = broker_int64(who);

		if (broker_exec(b, insert_sql, 1, &v, NULL, NULL) == 0) {
			atomic_fetch_add(&c->done, 1);
		} else {
			atomic_fetch_add(&c->failed, 1);
		}
	}
	broker_detach(&b);
	_exit(0);
}

/* Inserts per second. */
static double measure(struct counts *c, int workers, int64_t ms, const char *where,
	void (*work)(const char *, struct counts *, int, int64_t))
{
	pid_t pid[256];
	int64_t end = wait_clock_ms() + ms;

	c->done = c->failed = 0;
	for (int i = 0; i < workers; i++) {
		pid[i] = spawn_fork();
		if (pid[i] == 0) {
			work(where, c, i, end);
		}
	}
	for (int i = 0; i < workers; i++) {
		spawn_wait(pid[i], ms + 60000, NULL);
	}
	if (c->failed > 0) {
		printf("# %llu inserts failed\n", (unsigned long long)c->failed);
	}
	return (double)c->done * 1000.0 / (double)ms;
}

int main(int argc, char **argv)
{
	static const int workers[] = {1, 2, 8, 32, 64};
	int64_t ms = (argc > 1 ? atoi(argv[1]) : 3) * 1000;
	char *path = scratch_path("direct.db");
	struct broker_proc *proc = broker_start("sqlite:broker.db", NULL);
	struct broker *b = attach(broker_socket(proc));
	struct counts *c =
		mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sqlite3 *db = open_direct(path);

	sqlite3_exec(db, create_sql, NULL, NULL, NULL);
	sqlite3_close(db);
	if (broker_exec(b, create_sql, 0, NULL, NULL, NULL) < 0) {
		bail_out("%s", broker_error(b)->message);
	}
	broker_detach(&b);
	printf("%8s %16s %16s\n", "workers", "direct", "broker");
	for (size_t i = 0; i < sizeof(workers) / sizeof(workers[0]); i++) {
		double direct = measure(c, workers[i], ms, path, direct_worker);
		double through = measure(c, workers[i], ms, broker_socket(proc), broker_worker);

		printf("%8d %14.0f/s %14.0f/s\n", workers[i], direct, through);
		fflush(stdout);
	}
	broker_free(&proc);
	free(path);
	return 0;
}
