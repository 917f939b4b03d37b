/* SPDX-License-Identifier: MIT */
/*
 * test_fixture.c - the fixture library itself: clusters start, replicate, are promoted, hang and
 * die as asked, and nothing survives a test program that was killed.
 */
#include "brokerproc.h"
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
	ok(wait_until(pg_int(standby, "SELECT count(*) FROM t") == 3, 60000), "it streams");
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
	struct broker_proc *broker = broker_start("fake:", NULL);
	pid_t shell = spawn_l(NULL, "sh", "-c", "sleep 1000 & wait", NULL);
	pid_t sleeper = 0;

	(void)wait_until(spawn_children(shell, &sleeper, 1) == 1, 60000);
	printf("%s %s.board %s.slow %d %d %d %d\n", scratch_dir(), broker_socket(broker),
		broker_socket(broker), (int)pg_pid(pg), (int)broker_pid(broker), (int)shell,
		(int)sleeper);
	fflush(stdout);
	for (;;) {
		pause();
	}
}

static bool alive(int pid)
{
	return kill(pid, 0) == 0;
}

#define VICTIMS 4

struct report {
	char dir[256], link[2][256];
	int pid[VICTIMS];
};

static bool read_report(const char *path, struct report *r)
{
	FILE *f = fopen(path, "re");
	int n = f != NULL ? fscanf(f, "%255s %255s %255s %d %d %d %d", r->dir, r->link[0],
				    r->link[1], &r->pid[0], &r->pid[1], &r->pid[2], &r->pid[3])
			  : 0;

	if (f != NULL) {
		fclose(f);
	}
	return n == 7;
}

static unsigned living(const struct report *r)
{
	unsigned n = 0;

	for (unsigned i = 0; i < VICTIMS; i++) {
		n += alive(r->pid[i]);
	}
	return n;
}

/* Where the broker's published segments are. */
static void follow(const struct report *r, char target[2][256])
{
	for (unsigned i = 0; i < 2; i++) {
		ssize_t n = readlink(r->link[i], target[i], 255);

		target[i][n > 0 ? n : 0] = '\0';
	}
}

static void test_guard(const char *self)
{
	struct report r = {0};
	char segment[2][256];
	char *out = scratch_path("victim");
	struct spawn opt = {.out = out};
	pid_t pid = spawn_l(&opt, self, "victim", NULL);

	if (!ok(wait_until(read_report(out, &r), 60000) && living(&r) == VICTIMS,
		    "a test program has a cluster, a broker, a shell and the shell's child")) {
		bail_out("the rest makes no sense");
	}
	follow(&r, segment);
	ok(access(segment[0], F_OK) == 0 && access(segment[1], F_OK) == 0,
		"the broker has published its board and its slow queries");
	(void)kill(r.pid[1], SIGKILL);
	(void)kill(pid, SIGKILL);
	(void)spawn_wait(pid, 10000, NULL);
	ok(wait_until(living(&r) == 0, 60000), "when it is killed, so are they");
	ok(wait_until(access(r.dir, F_OK) != 0, 60000), "and its directory is removed");
	ok(access(segment[0], F_OK) != 0 && access(segment[1], F_OK) != 0,
		"and what the killed broker had in /dev/shm");
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
