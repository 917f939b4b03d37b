/* SPDX-License-Identifier: MIT */
/*
 * test_instructions_long.c - budgets of instructions for the paths that every statement takes.
 *
 * Times on shared machines are noisy; instructions counted by callgrind are not: runs differ by one
 * or two in a hundred.  What is counted:
 *
 *   submit      broker_submit with one parameter, statement known to the broker
 *   complete    broker_collect of an answer that is there, one row, one integer, broker_result_free
 *   broker      the whole broker process for a statement, on the fake database (its own work alone)
 *               and on PostgreSQL (libpq included), one statement at a time and 20 in flight
 *
 * The broker's figure is the difference to a run with one statement, so that starting, attaching
 * and stopping cancel out.  Budgets are for the ordinary build (gcc, -O2, checks on).  A path may
 * take 20 % more than its budget: compilers, libc and libpq differ.  A change that makes a path
 * longer on purpose changes the budget here and says why; one that makes it much shorter lowers it,
 * so that the gain is kept.
 */
#include "brokerproc.h"
#include "pg.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOLERANCE 1.2
#define SHORTER 0.75 /* of the budget: time to lower it */
#define WORKER_MS 120000
#define BATCH 20
#define BATCH_TEXT "20"

/* Instructions for one statement.  One at a time, the broker looks for the next one and blocks
 * after each; how far it comes takes from 4,100 to 5,900 on the fake database. */
#define BUDGET_SUBMIT 1280
#define BUDGET_COMPLETE 1600
#define BUDGET_FAKE_ONE 5200
#define BUDGET_FAKE_MANY 3500
#define BUDGET_PG_ONE 13900
#define BUDGET_PG_MANY 11700

#define FAKE_SQL "echo"
#define PG_SQL "SELECT relpages FROM pg_class WHERE oid = $1 + 1247"

/* -- the worker: this program, started anew -------------------------------------------------------
 */

/* Not inlined: callgrind counts what happens inside of these two. */
__attribute__((noinline)) void budget_submit(struct broker *b, const char *sql, uint64_t *ticket);
__attribute__((noinline)) void budget_complete(struct broker *b, uint64_t ticket);

static _Noreturn void worker_failed(struct broker *b, const char *what)
{
	fprintf(stderr, "%s: %s\n", what, broker_error(b)->message);
	_exit(1);
}

void budget_submit(struct broker *b, const char *sql, uint64_t *ticket)
{
	struct broker_value v = broker_int64(12);
	struct broker_call call = {.flags = BROKER_READONLY};

	if (broker_submit(b, sql, 1, &v, &call, ticket) < 0) {
		worker_failed(b, "submit");
	}
}

void budget_complete(struct broker *b, uint64_t ticket)
{
	struct broker_result *r;
	int64_t n;

	if (broker_collect(b, ticket, -1, NULL, &r) < 0) {
		worker_failed(b, "collect");
	}
	if (broker_next(r) != 1 || broker_get_int64(r, 0, &n) < 0 || broker_next(r) != 0) {
		worker_failed(b, "result");
	}
	broker_result_free(&r);
}

/* One CPU: the library does not spin there, and all machines count the same. */
static void use_one_cpu(void)
{
	cpu_set_t all, one;

	CPU_ZERO(&one);
	if (sched_getaffinity(0, sizeof(all), &all) < 0) {
		return;
	}
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (CPU_ISSET(i, &all)) {
			CPU_SET(i, &one);
			(void)sched_setaffinity(0, sizeof(one), &one);
			return;
		}
	}
}

/* SOCKET TIMES BATCH SQL */
static int worker(char **argv)
{
	struct broker_options opt = {.path = argv[0], .timeout_ms = WORKER_MS};
	int times = atoi(argv[1]), batch = atoi(argv[2]);
	uint64_t ticket[BATCH];
	struct broker *b;

	use_one_cpu();
	if (broker_attach(&opt, &b) < 0) {
		worker_failed(NULL, "attach");
	}
	for (int i = 0; i < times; i++) {
		for (int j = 0; j < batch; j++) {
			budget_submit(b, argv[3], &ticket[j]);
		}
		for (int j = 0; j < batch; j++) {
			budget_complete(b, ticket[j]);
		}
	}
	broker_detach(&b);
	return 0;
}

/* -- counting -------------------------------------------------------------------------------------
 */

static const char *self(void)
{
	static char path[1024];

	if (path[0] == '\0' && readlink("/proc/self/exe", path, sizeof(path) - 1) < 0) {
		bail_out("cannot find this program");
	}
	return path;
}

/* The last number behind "Collected :" in a file; 0 if there is none. */
static double collected(const char *path)
{
	double n = 0, found;
	char line[512];
	const char *p;
	FILE *f = fopen(path, "re");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		p = strstr(line, "Collected :");
		if (p != NULL && sscanf(p, "Collected : %lf", &found) == 1) {
			n = found;
		}
	}
	if (f != NULL) {
		fclose(f);
	}
	return n;
}

static void check_budget(const char *name, double got, double budget)
{
	diag("%s: %.0f instructions, budget %.0f", name, got, budget);
	if (got > 0 && got < budget * SHORTER) {
		diag("this is much less: lower the budget in %s", __FILE__);
	}
	ok(got > 0 && got <= budget * TOLERANCE, "%s keeps to its budget", name);
}

/* Instructions inside one function of the worker, for each statement. */
static double count_in_worker(const char *socket, const char *function)
{
	enum { TIMES = 100 };
	char *log = scratch_path("%s.log", function);
	char *toggle = scratch_format("--toggle-collect=%s", function);
	char *times = scratch_format("%d", TIMES);
	const char *const argv[] = {"valgrind", "--tool=callgrind",
		"--callgrind-out-file=/dev/null", toggle, self(), "worker", socket, times,
		BATCH_TEXT, FAKE_SQL, NULL};
	struct spawn opt = {.log = log};
	int status = spawn_run(argv, &opt, WORKER_MS);
	double n = collected(log) / (TIMES * BATCH);

	if (!ok(status == 0, "a worker runs under callgrind for %s", function)) {
		scratch_show_tail(log, 20);
	}
	free(log);
	free(toggle);
	free(times);
	return n;
}

static void check_client(void)
{
	struct broker_proc *proc = broker_start("fake:", NULL);

	check_budget(
		"submit", count_in_worker(broker_socket(proc), "budget_submit"), BUDGET_SUBMIT);
	check_budget("complete", count_in_worker(broker_socket(proc), "budget_complete"),
		BUDGET_COMPLETE);
	is_int(broker_free(&proc), 0, "the broker ends well");
}

/* Instructions of a broker from start to end, with so many statements in between. */
static double count_broker(const char *url, const char *sql, int times, const char *batch)
{
	const char *const settings[] = {"pool main.max_size=1", NULL};
	struct broker_proc *proc =
		broker_start(url, strncmp(url, "fake:", 5) == 0 ? NULL : settings);
	char *count = scratch_format("%d", times);
	char *log = scratch_format("%s", broker_log(proc));
	const char *const argv[] = {self(), "worker", broker_socket(proc), count, batch, sql, NULL};
	bool good = spawn_run(argv, NULL, WORKER_MS) == 0;
	double n;

	good = broker_free(&proc) == 0 && good;
	n = collected(log);
	ok(good && n > 0, "a broker under callgrind serves %d times %s statements", times, batch);
	free(count);
	free(log);
	return n;
}

/* Other work on the machine can only add to it, by another rhythm of the loop: the least of a
 * few. */
static double per_statement(
	const char *url, const char *sql, double base, int times, const char *batch, double budget)
{
	double n = 0;

	for (int attempt = 0; attempt < 4 && (n == 0 || n > budget * TOLERANCE); attempt++) {
		double total = count_broker(url, sql, times, batch) - base;
		double now = total / (times * atoi(batch));

		n = n == 0 || now < n ? now : n;
	}
	return n;
}

static void check_broker(
	const char *name, const char *url, const char *sql, double one, double many)
{
	char *what = scratch_format("broker on %s, one at a time", name);
	double base = count_broker(url, sql, 1, "1"); /* all but the statements, prepared once */

	check_budget(what, per_statement(url, sql, base, 2000, "1", one), one);
	free(what);
	what = scratch_format("broker on %s, %d in flight", name, BATCH);
	check_budget(what, per_statement(url, sql, base, 100, BATCH_TEXT, many), many);
	free(what);
}

/* From now on brokers run under callgrind; their log gets what it counted. */
static void wrap_broker(void)
{
	const char *bin = getenv("BROKER_BIN");
	char *path = scratch_path("broker-under-callgrind");
	FILE *f = fopen(path, "we");

	if (bin == NULL || f == NULL) {
		bail_out("cannot write %s for %s", path, bin != NULL ? bin : "no BROKER_BIN");
	}
	fprintf(f,
		"#!/bin/sh\nexec valgrind --tool=callgrind --callgrind-out-file=/dev/null '%s' "
		"\"$@\"\n",
		bin);
	if (fclose(f) != 0 || chmod(path, 0755) < 0 || setenv("BROKER_BIN", path, 1) < 0) {
		bail_out("cannot make %s", path);
	}
	free(path);
}

static bool have_callgrind(void)
{
	const char *const argv[] = {"sh", "-c",
		"command -v valgrind >/dev/null && valgrind --tool=callgrind "
		"--callgrind-out-file=/dev/null true >/dev/null 2>&1",
		NULL};

	return spawn_run(argv, NULL, WORKER_MS) == 0;
}

int main(int argc, char **argv)
{
	struct pg_cluster *pg;

	if (argc == 6 && strcmp(argv[1], "worker") == 0) {
		return worker(argv + 2);
	}
	if (!have_callgrind()) {
		skip("valgrind is not installed, or does not run here");
		return done_testing();
	}
	check_client();
	wrap_broker();
	check_broker("the fake database", "fake:", FAKE_SQL, BUDGET_FAKE_ONE, BUDGET_FAKE_MANY);
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	pg = pg_start(NULL);
	check_broker("PostgreSQL", pg_url(pg), PG_SQL, BUDGET_PG_ONE, BUDGET_PG_MANY);
	pg_remove(&pg);
	return done_testing();
}
