/* SPDX-License-Identifier: MIT */
/*
 * test_idle_memory.c - what an idle attached worker costs the host: at most 64 KiB resident, both
 * segments and the broker's private part included.
 *
 * Workers attach, run so many statements that the rings have gone round many times, and the request
 * arena would have, and stay idle.  Then they read large results and send large parameters, and
 * fall idle again: what that touched goes back although they stay attached, and they go on
 * afterwards. Workers that stand still in the middle of a result, or are killed, are looked at one
 * by one.
 *
 * Memory is counted as proportional share (PSS) of shared and anonymous pages: added up over the
 * broker and all workers, every page of a segment counts once, whoever mapped or touched it.  The
 * workers' own heaps are not the broker's doing and are only shown.  What each worker costs the
 * broker itself is measured after the small statements; of the large ones allocators and libraries
 * keep something, once, so afterwards only the segments are measured anew.
 */
#include "brokerproc.h"
#include "pg.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <inttypes.h>
#include <signal.h>
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
#define LARGE_RESULTS 20
#define LARGE_RESULT 200000
#define STREAMED_RESULT 1000000 /* more than the arena holds */
#define LARGE_PARAMETER 300000
#define HELD_ROWS 60 /* of 1000 bytes */

/* A text of $1 zeros; HELD_ROWS of them, each behind its number. */
struct dialect {
	const char *name, *zeros, *rows;
};

static const struct dialect sqlite = {"SQLite", "SELECT hex(zeroblob(CAST($1 AS integer) / 2))",
	"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) "
	"SELECT i, hex(zeroblob(CAST($1 AS integer) / 2)) FROM n"};
static const struct dialect postgresql = {"PostgreSQL", "SELECT repeat('0', CAST($1 AS integer))",
	"SELECT i, repeat('0', CAST($1 AS integer)) FROM generate_series(1, 60) i"};

struct memory {
	uint64_t anonymous, shared; /* KiB */
};

/* What workers do one after another; all begin the next together, when its pipe ends. */
enum step { SMALL, LARGE, AGAIN, LEAVE, STEPS };

/* Workers tell by a byte that they are idle. */
struct pipes {
	int told[2], begin[STEPS][2];
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

/* Pages of all segments of workers that this process maps, shared ones in proportion. */
static uint64_t segments_of(pid_t pid)
{
	char path[64], line[512];
	uint64_t sum = 0, kib;
	bool ours = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "re");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
			ours = strstr(line, "/memfd:shmbroker-w") != NULL ||
			       strstr(line, "/memfd:shmbroker-b") != NULL;
		} else if (ours && sscanf(line, "Pss: %" SCNu64, &kib) == 1) {
			sum += kib;
		}
	}
	if (f != NULL) {
		fclose(f);
	}
	return sum;
}

/* -- workers -------------------------------------------------------------------------------------
 */

static void must(bool good, struct broker *b, const char *what)
{
	if (!good) {
		fprintf(stderr, "# %s: %s\n", what, broker_error(b)->message);
		_exit(1);
	}
}

static void run_statements(struct broker *b, unsigned times)
{
	for (unsigned i = 0; i < times; i++) {
		struct broker_value v = broker_int64(i);
		struct broker_call call = {.flags = i % 2 == 0 ? BROKER_READONLY : 0};
		struct broker_result *r;
		int64_t got = -1;

		must(broker_exec(b, "SELECT CAST($1 AS integer) + 1", 1, &v, &call, &r) == 0, b,
			"statement");
		must(broker_next(r) == 1 && broker_get_int64(r, 0, &got) == 0 && got == i + 1, b,
			"answer");
		broker_result_free(&r);
	}
}

static bool is_zeros(struct broker_result *r, int col, size_t want)
{
	const char *text;
	size_t len;

	return broker_get_text(r, col, &text, &len) == 0 && len == want &&
	       strspn(text, "0") == want;
}

static void read_zeros(struct broker *b, const struct dialect *d, unsigned len)
{
	struct broker_value v = broker_int64(len);
	struct broker_call call = {.flags = BROKER_READONLY};
	struct broker_result *r;

	must(broker_exec(b, d->zeros, 1, &v, &call, &r) == 0, b, "large result");
	must(broker_next(r) == 1 && is_zeros(r, 0, len), b, "text of a large result");
	broker_result_free(&r);
}

static void send_parameter(struct broker *b, size_t len)
{
	char *text = malloc(len);
	struct broker_value v = broker_textn(text, len);
	struct broker_result *r;
	int64_t got;

	must(text != NULL, b, "memory");
	memset(text, 'x', len);
	must(broker_exec(b, "SELECT length(CAST($1 AS text))", 1, &v, NULL, &r) == 0, b,
		"large parameter");
	must(broker_next(r) == 1 && broker_get_int64(r, 0, &got) == 0 && got == (int64_t)len, b,
		"its length");
	broker_result_free(&r);
	free(text);
}

static void run_large(struct broker *b, const struct dialect *d)
{
	for (unsigned i = 0; i < LARGE_RESULTS; i++) {
		read_zeros(b, d, LARGE_RESULT);
	}
	read_zeros(b, d, STREAMED_RESULT);
	send_parameter(b, LARGE_PARAMETER);
}

static struct broker *attach(const char *socket)
{
	struct broker_options opt = {.path = socket, .timeout_ms = WAIT_MS};
	struct broker *b = NULL;

	must(broker_attach(&opt, &b) == 0, NULL, "attach");
	return b;
}

static void tell(const struct pipes *p)
{
	char c = 'i';

	if (write(p->told[1], &c, 1) != 1) {
		_exit(1);
	}
}

static void await(const struct pipes *p, enum step step)
{
	char c;

	while (read(p->begin[step][0], &c, 1) > 0) {
	}
}

static void close_ours(const struct pipes *p)
{
	close(p->told[0]);
	for (unsigned i = 0; i < STEPS; i++) {
		close(p->begin[i][1]);
	}
}

static _Noreturn void worker(const char *socket, const struct dialect *d, const struct pipes *p)
{
	struct broker *b;

	close_ours(p);
	b = attach(socket);
	run_statements(b, STATEMENTS);
	tell(p);
	await(p, LARGE);
	run_large(b, d);
	tell(p);
	await(p, AGAIN);
	run_statements(b, 1000);
	tell(p);
	await(p, LEAVE);
	broker_detach(&b);
	_exit(0);
}

static void make_pipes(struct pipes *p)
{
	if (pipe(p->told) < 0) {
		bail_out("no pipes");
	}
	for (unsigned i = 0; i < STEPS; i++) {
		if (pipe(p->begin[i]) < 0) {
			bail_out("no pipes");
		}
	}
}

static void close_theirs(const struct pipes *p)
{
	close(p->told[1]);
	for (unsigned i = 0; i < STEPS; i++) {
		close(p->begin[i][0]);
	}
}

/* Let them begin a step; how many of n were idle after it, the others ended. */
static unsigned run_step(const struct pipes *p, enum step step, unsigned n)
{
	unsigned idle = 0;
	char c;

	close(p->begin[step][1]);
	while (idle < n && read(p->told[0], &c, 1) == 1) {
		idle++;
	}
	return idle;
}

static unsigned end_workers(const pid_t *pid, struct pipes *p)
{
	unsigned good = 0;

	close(p->begin[LEAVE][1]);
	close(p->told[0]);
	for (unsigned i = 0; i < WORKERS; i++) {
		good += spawn_wait(pid[i], WAIT_MS, NULL) == 0;
	}
	return good;
}

/* -- measuring -----------------------------------------------------------------------------------
 */

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

/* KiB in the segments of all workers. */
static uint64_t all_segments(pid_t broker, const pid_t *pid)
{
	uint64_t sum = segments_of(broker);

	for (unsigned i = 0; i < WORKERS; i++) {
		sum += segments_of(pid[i]);
	}
	return sum;
}

static void check_limit(const char *name, const char *when, double kib)
{
	diag("%s: %.1f KiB for each worker %s", name, kib, when);
	if (SANITIZED) {
		skip("sanitizers need memory of their own");
	} else {
		ok(kib <= LIMIT_KIB, "%s: an idle worker costs at most %d KiB %s", name, LIMIT_KIB,
			when);
	}
}

/*
 * The segments are given back when nothing was asked for a while.  With what each worker costs the
 * broker itself; what allocators keep of large values is of connections and threads.
 */
static void check_given_back(
	const char *name, const char *when, pid_t broker, const pid_t *pid, double own)
{
	uint64_t limit = (uint64_t)((LIMIT_KIB - own) * WORKERS);

	diag("%s: %.1f KiB for each worker at once", name,
		own + (double)all_segments(broker, pid) / WORKERS);
	(void)wait_until(all_segments(broker, pid) <= limit, WAIT_MS);
	check_limit(name, when, own + (double)all_segments(broker, pid) / WORKERS);
}

static void check_many(struct broker_proc *proc, const struct dialect *d)
{
	struct broker *b = attach(broker_socket(proc));
	pid_t pid[WORKERS];
	struct pipes p;
	uint64_t before, small, heaps = 0;
	double own;

	/* The first worker makes connections and prepared statements: these are not what it costs.
	 */
	run_statements(b, STATEMENTS);
	broker_detach(&b);
	before = total(broker_pid(proc), NULL, 0, &heaps);
	make_pipes(&p);
	for (unsigned i = 0; i < WORKERS; i++) {
		pid[i] = spawn_fork();
		if (pid[i] == 0) {
			worker(broker_socket(proc), d, &p);
		}
	}
	close_theirs(&p);
	is_int(run_step(&p, SMALL, WORKERS), WORKERS,
		"%s: %d workers attached and ran %d statements each", d->name, WORKERS, STATEMENTS);
	heaps = 0;
	small = total(broker_pid(proc), pid, WORKERS, &heaps) - before;
	check_limit(d->name, "after small statements", (double)small / WORKERS);
	own = ((double)small - (double)all_segments(broker_pid(proc), pid)) / WORKERS;
	diag("%s: %.1f KiB of that in the broker itself", d->name, own);
	is_int(run_step(&p, LARGE, WORKERS), WORKERS, "%s: they read and send large values",
		d->name);
	check_given_back(d->name, "after large values", broker_pid(proc), pid, own);
	is_int(run_step(&p, AGAIN, WORKERS), WORKERS, "%s: they run 1000 statements more", d->name);
	check_given_back(d->name, "after small ones again", broker_pid(proc), pid, own);
	diag("%s: %" PRIu64 " KiB of their own memory for each worker", d->name, heaps / WORKERS);
	is_int(end_workers(pid, &p), WORKERS, "%s: all workers end well", d->name);
}

/* -- one that stands still -----------------------------------------------------------------------
 */

/* Stopped behind the first row, when much more than the result has been used. */
static _Noreturn void holder(const char *socket, const struct dialect *d, const struct pipes *p)
{
	struct broker_value v = broker_int64(1000);
	struct broker_call call = {.flags = BROKER_READONLY};
	struct broker_result *r;
	struct broker *b;
	int64_t n = 0;

	close_ours(p);
	b = attach(socket);
	run_large(b, d);
	must(broker_exec(b, d->rows, 1, &v, &call, &r) == 0, b, "rows");
	must(broker_next(r) == 1, b, "first row");
	tell(p);
	await(p, LARGE);
	do {
		must(broker_get_int64(r, 0, &n) == 0 && is_zeros(r, 1, 1000), b, "row");
	} while (broker_next(r) == 1);
	must(n == HELD_ROWS, b, "last row");
	broker_result_free(&r);
	run_statements(b, 1000);
	run_large(b, d);
	tell(p);
	await(p, LEAVE);
	_exit(0);
}

static uint64_t segments(const struct broker_proc *proc, pid_t worker)
{
	return segments_of(broker_pid(proc)) + segments_of(worker);
}

static void check_stopped(struct broker_proc *proc, const struct dialect *d)
{
	struct pipes p;
	pid_t pid;

	make_pipes(&p);
	pid = spawn_fork();
	if (pid == 0) {
		holder(broker_socket(proc), d, &p);
	}
	close_theirs(&p);
	is_int(run_step(&p, SMALL, 1), 1, "%s: a worker holds a result of %d rows", d->name,
		HELD_ROWS);
	spawn_pause(pid);
	ok(wait_until(segments(proc, pid) <= LIMIT_KIB + HELD_ROWS + 16, WAIT_MS),
		"%s: it is stopped; what it does not hold goes back", d->name);
	diag("%s: %" PRIu64 " KiB in both segments", d->name, segments(proc, pid));
	spawn_resume(pid);
	is_int(run_step(&p, LARGE, 1), 1, "%s: it reads on, and all rows are what they were",
		d->name);
	ok(wait_until(segments(proc, pid) <= LIMIT_KIB, WAIT_MS),
		"%s: and when it is idle all goes back", d->name);
	diag("%s: %" PRIu64 " KiB in both segments", d->name, segments(proc, pid));
	kill(pid, SIGKILL);
	(void)spawn_wait(pid, WAIT_MS, NULL);
	ok(wait_until(segments_of(broker_pid(proc)) == 0, WAIT_MS),
		"%s: killed, nothing of it is left", d->name);
	close(p.told[0]);
	close(p.begin[AGAIN][1]);
	close(p.begin[LEAVE][1]);
}

static void check_database(const char *url, const struct dialect *d)
{
	static const char *const settings[] = {"pool main.max_size=1", NULL};
	struct broker_proc *proc = broker_start(url, url != NULL ? settings : NULL);

	check_many(proc, d);
	check_stopped(proc, d);
	is_int(broker_free(&proc), 0, "%s: the broker ends well", d->name);
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
	check_database(NULL, &sqlite);
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	pg = pg_start(NULL);
	check_database(pg_url(pg), &postgresql);
	pg_remove(&pg);
	return done_testing();
}
