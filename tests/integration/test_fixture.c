/* SPDX-License-Identifier: MIT */
/*
 * test_fixture.c - the fixture library itself: clusters start, replicate, are promoted, hang and
 * die as asked, and nothing survives a test program that was killed.
 */
#include "pg.h"
#include "scratch.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_cluster(struct pg_cluster *pg)
{
	char *text;

	is_int(pg_int(pg, "SELECT 40 + %d", 2), 42, "a query is answered");
	is_int(pg_int(pg, "SELECT 1 WHERE false"), 0, "no row is 0");
	text = pg_text(pg, "SHOW max_connections");
	is_str(text, "17", "settings arrive");
	free(text);
	text = pg_text(pg, "SHOW listen_addresses");
	is_str(text, "", "it listens on no network address");
	free(text);
	pg_do(pg, "CREATE TABLE t(x int)");
	pg_do(pg, "INSERT INTO t VALUES (1), (2)");
	pg_stop(pg, PG_KILL);
	ok(PQping(pg_url(pg)) == PQPING_NO_RESPONSE, "a killed cluster is gone");
	pg_restart(pg);
	is_int(pg_int(pg, "SELECT count(*) FROM t"), 2, "after a crash it has what was committed");
}

static void test_standby(struct pg_cluster *pg)
{
	struct pg_cluster *standby = pg_standby(pg, NULL);

	is_int(pg_int(standby, "SELECT pg_is_in_recovery()::int"), 1, "a standby is in recovery");
	pg_do(pg, "INSERT INTO t VALUES (3)");
	ok(wait_until(pg_int(standby, "SELECT count(*) FROM t") == 3, 10000), "it streams");
	pg_stop(pg, PG_IMMEDIATE);
	pg_promote(standby);
	pg_do(standby, "INSERT INTO t VALUES (4)");
	is_int(pg_int(standby, "SELECT count(*) FROM t"), 4, "promoted, it takes writes");
	pg_remove(&standby);
	ok(standby == NULL, "and is removed");
	pg_restart(pg);
}

static void test_freeze(struct pg_cluster *pg)
{
	pg_freeze(pg);
	is_int(spawn_stopped_threads(pg_pid(pg)), 1, "a frozen server stands still");
	pg_thaw(pg);
	is_int(pg_int(pg, "SELECT 1"), 1, "and goes on");
}

/* A test program that is killed: tells its directory and what it started, then hangs. */
static _Noreturn void victim(void)
{
	struct pg_cluster *pg = pg_start(NULL);
	pid_t shell = spawn_l(NULL, "sh", "-c", "sleep 1000 & wait", NULL);
	pid_t sleeper = 0;

	(void)wait_until(spawn_children(shell, &sleeper, 1) == 1, 10000);
	printf("%s %d %d %d\n", scratch_dir(), (int)pg_pid(pg), (int)shell, (int)sleeper);
	fflush(stdout);
	for (;;) {
		pause();
	}
}

static bool alive(int pid)
{
	return kill(pid, 0) == 0;
}

static bool read_report(const char *path, char dir[256], int pids[3])
{
	FILE *f = fopen(path, "re");
	int n = f != NULL ? fscanf(f, "%255s %d %d %d", dir, &pids[0], &pids[1], &pids[2]) : 0;

	if (f != NULL) {
		fclose(f);
	}
	return n == 4;
}

static void test_guard(const char *self)
{
	char dir[256] = "";
	int p[3] = {0, 0, 0};
	char *out = scratch_path("victim");
	struct spawn opt = {.out = out};
	pid_t pid = spawn_l(&opt, self, "victim", NULL);

	if (!ok(wait_until(read_report(out, dir, p), 60000) && alive(p[0]) && alive(p[1]) &&
			    alive(p[2]),
		    "a test program has a cluster, a shell and the shell's child")) {
		bail_out("the rest makes no sense");
	}
	(void)kill(pid, SIGKILL);
	(void)spawn_wait(pid, 10000, NULL);
	ok(wait_until(!alive(p[0]) && !alive(p[1]) && !alive(p[2]), 10000),
		"when it is killed, so are they");
	ok(wait_until(access(dir, F_OK) != 0, 10000), "and its directory is removed");
	free(out);
}

static void test_spawn(void)
{
	int status;
	bool late;
	char *text = spawn_output((const char *const[]){"echo", "hello", NULL}, NULL, &status);

	is_str(text, "hello\n", "the output of a program is read");
	is_int(status, 0, "with its status");
	free(text);
	status = spawn_wait(spawn_l(NULL, "sleep", "1000", NULL), 50, &late);
	ok(late && WIFSIGNALED(status), "a program that takes too long is killed");
	status = spawn_run((const char *const[]){"/nonexistent", NULL}, NULL, 5000);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 127, "a missing program is status 127");
}

int main(int argc, char **argv)
{
	struct pg_cluster *pg;

	if (argc > 1 && strcmp(argv[1], "victim") == 0) {
		victim();
	}
	test_spawn();
	if (!pg_available()) {
		skip("no PostgreSQL server here");
		return done_testing();
	}
	pg = pg_start((const char *const[]){"max_connections=17", NULL});
	test_cluster(pg);
	test_standby(pg);
	test_freeze(pg);
	test_guard(argv[0]);
	pg_remove(&pg);
	return done_testing();
}
