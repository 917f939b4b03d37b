/* SPDX-License-Identifier: MIT */
/*
 * test_idle_memory.c - what an idle attached worker costs the host: at most 64 KiB resident, both
 * segments and the broker's private part included.
 *
 * Workers attach, run so many statements that the rings have gone round many times, and the request
 * arena would have, and stay idle.  Memory is counted as proportional share (PSS) of shared and
 * anonymous pages: added up over the broker and all workers, every page of a segment counts once,
 * whoever mapped or touched it.  The workers' own heaps are not the broker's doing and are only
 * shown.
 */
#include "brokerproc.h"
#include "pg.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define WORKERS 50
#define STATEMENTS 5000
#define LIMIT_KIB 64
#define WAIT_MS 60000

struct memory {
	uint64_t anonymous, shared; /* KiB */
};

/* Workers tell by a byte that they are idle, and leave when the pipe ends. */
struct pipes {
	int told[2], leave[2];
};

/* PSS by kind.  False if it may not be read: the process is undumpable, and we are not root. */
static bool memory_of(pid_t pid, struct memory *m)
{
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	f = fopen(path, "re");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "Pss_Anon: %" SCNu64, &m->anonymous) == 1) {
			found = true;
		}
		(void)sscanf(line, "Pss_Shmem: %" SCNu64, &m->shared);
	}
	if (f != NULL) {
		fclose(f);
	}
	return found;
}

static void run_statements(struct broker *b)
{
	for (unsigned i = 0; i < STATEMENTS; i++) {
		struct broker_value v = broker_int64(i);
		struct broker_call call = {.flags = i % 2 == 0 ? BROKER_READONLY : 0};
		struct broker_result *r;
		int64_t got = -1;

		if (broker_exec(b, "SELECT CAST($1 AS integer) + 1", 1, &v, &call, &r) < 0) {
			fprintf(stderr, "# %s\n", broker_error(b)->message);
			_exit(1);
		}
		if (broker_next(r) != 1 || broker_get_int64(r, 0, &got) < 0 || got != i + 1) {
			fprintf(stderr, "# wrong answer %" PRId64 "\n", got);
			_exit(1);
		}
		broker_result_free(&r);
	}
}

static _Noreturn void worker(const char *socket, const struct pipes *p)
{
	struct broker_options opt = {.path = socket, .timeout_ms = WAIT_MS};
	struct broker *b;
	char c = 'i';

	close(p->told[0]);
	close(p->leave[1]);
	if (broker_attach(&opt, &b) < 0) {
		fprintf(stderr, "# attach: %s\n", broker_error(NULL)->message);
		_exit(1);
	}
	run_statements(b);
	if (write(p->told[1], &c, 1) != 1) {
		_exit(1);
	}
	while (read(p->leave[0], &c, 1) > 0) {
	}
	broker_detach(&b);
	_exit(0);
}

/* How many of the workers became idle; the others ended. */
static unsigned start_workers(const char *socket, pid_t *pid, struct pipes *p)
{
	unsigned idle = 0;
	char c;

	if (pipe(p->told) < 0 || pipe(p->leave) < 0) {
		bail_out("no pipes");
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		pid[i] = spawn_fork();
		if (pid[i] == 0) {
			worker(socket, p);
		}
	}
	close(p->told[1]);
	close(p->leave[0]);
	while (idle < WORKERS && read(p->told[0], &c, 1) == 1) {
		idle++;
	}
	return idle;
}

static unsigned end_workers(const pid_t *pid, struct pipes *p)
{
	unsigned good = 0;

	close(p->leave[1]);
	close(p->told[0]);
	for (unsigned i = 0; i < WORKERS; i++) {
		good += spawn_wait(pid[i], WAIT_MS, NULL) == 0;
	}
	return good;
}

/* Shared pages of all, anonymous pages of the broker alone. */
static uint64_t total(pid_t broker, const pid_t *pid, unsigned n, uint64_t *heaps)
{
	struct memory m = {0};
	uint64_t sum;

	(void)memory_of(broker, &m);
	sum = m.anonymous + m.shared;
	for (unsigned i = 0; i < n; i++) {
		m = (struct memory){0};
		(void)memory_of(pid[i], &m);
		sum += m.shared;
		*heaps += m.anonymous;
	}
	return sum;
}

static void check_database(const char *url, const char *name)
{
	struct broker_proc *proc = broker_start(url, NULL);
	struct broker_options opt = {.path = broker_socket(proc)};
	struct broker *b;
	pid_t pid[WORKERS];
	struct pipes p;
	uint64_t before, after, heaps = 0;

	/* The first worker makes connections and prepared statements: these are not what it costs.
	 */
	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	run_statements(b);
	broker_detach(&b);
	before = total(broker_pid(proc), NULL, 0, &heaps);
	is_int(start_workers(broker_socket(proc), pid, &p), WORKERS,
		"%s: %d workers attached and ran %d statements each", name, WORKERS, STATEMENTS);
	after = total(broker_pid(proc), pid, WORKERS, &heaps);
	diag("%s: %" PRIu64 " KiB before, %" PRIu64 " KiB with %d workers: %.1f KiB each", name,
		before, after, WORKERS, (double)(after - before) / WORKERS);
	diag("%s: %" PRIu64 " KiB of their own memory for each worker", name, heaps / WORKERS);
	if (SANITIZED) {
		skip("sanitizers need memory of their own");
	} else {
		ok(after > before && after - before <= (uint64_t)LIMIT_KIB * WORKERS,
			"%s: an idle worker costs at most %d KiB", name, LIMIT_KIB);
	}
	is_int(end_workers(pid, &p), WORKERS, "%s: all workers end well", name);
	is_int(broker_free(&proc), 0, "%s: the broker ends well", name);
}

int main(void)
{
	struct pg_cluster *pg;
	struct memory m;

	setenv("BROKER_DUMPABLE", "1", 1);
	if (!memory_of(getpid(), &m)) {
		skip("this kernel does not tell proportional memory");
		return done_testing();
	}
	check_database(NULL, "SQLite");
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	pg = pg_start(NULL);
	check_database(pg_url(pg), "PostgreSQL");
	pg_remove(&pg);
	return done_testing();
}
