/* SPDX-License-Identifier: MIT */
/* bench_run.c - see bench_run.h. */
#include "bench_run.h"

#include "bench_watch.h"
#include "bench_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OPEN_MS 120000 /* for all connections */
#define STOP_MS 60000 /* for the last operation of each */

struct run {
	const struct bench_plan *plan;
	struct bench_shared *shared;
	size_t shared_len;
	pid_t *pid;
	unsigned forked;
	int told[2], start[2], leave[2]; /* pipes; -1: closed */
	double open_seconds;
	double window;
	char *err;
	size_t errlen;
};

static int fail(struct run *r, const char *what)
{
	snprintf(r->err, r->errlen, "%s", what);
	return -1;
}

static int fail_errno(struct run *r, const char *what)
{
	snprintf(r->err, r->errlen, "%s: %s", what, strerror(errno));
	return -1;
}

static void close_end(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
	}
	*fd = -1;
}

/* -- workers --------------------------------------------------------------------------------------
 */

static int prepare(struct run *r)
{
	size_t len = sizeof(struct bench_shared) + r->plan->workers * sizeof(struct bench_record);
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		return fail_errno(r, "no memory for the workers' records");
	}
	r->shared = at;
	r->shared_len = len;
	r->pid = calloc(r->plan->workers, sizeof(*r->pid));
	if (r->pid == NULL || pipe2(r->told, O_CLOEXEC) < 0 || pipe2(r->start, O_CLOEXEC) < 0 ||
		pipe2(r->leave, O_CLOEXEC) < 0) {
		return fail_errno(r, "cannot prepare the workers");
	}
	return 0;
}

static _Noreturn void child(struct run *r, unsigned number, pid_t parent)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) {
		_exit(1);
	}
	close(r->told[0]);
	close(r->start[1]);
	close(r->leave[1]);
	bench_worker_main(r->plan, number, r->shared,
		&(struct bench_pipes){r->told[1], r->start[0], r->leave[0]});
}

static int fork_all(struct run *r)
{
	pid_t parent = getpid();

	fflush(NULL);
	while (r->forked < r->plan->workers) {
		pid_t pid = fork();

		if (pid < 0) {
			return fail_errno(r, "cannot start a worker");
		}
		if (pid == 0) {
			child(r, r->forked, parent);
		}
		r->pid[r->forked++] = pid;
	}
	close_end(&r->told[1]);
	return 0;
}

static const char *first_error(const struct run *r)
{
	for (unsigned i = 0; i < r->plan->workers; i++) {
		if (r->shared->record[i].error[0] != '\0') {
			return r->shared->record[i].error;
		}
	}
	return "no reason given";
}

/* Wait until every worker has told `what`. */
static int hear_all(struct run *r, char what, int timeout_ms)
{
	uint64_t end = bench_clock_ns() + (uint64_t)timeout_ms * 1000000;

	for (unsigned heard = 0; heard < r->plan->workers; heard++) {
		struct pollfd p = {.fd = r->told[0], .events = POLLIN};
		uint64_t now = bench_clock_ns();
		char c;

		if (poll(&p, 1, now < end ? (int)((end - now) / 1000000) + 1 : 0) <= 0) {
			return fail(r, what == BENCH_TOLD_OPEN
					       ? "the workers do not get connections"
					       : "the workers do not stop");
		}
		if (read(r->told[0], &c, 1) != 1) {
			return fail(r, "all workers are gone");
		}
		if (c != what) {
			snprintf(r->err, r->errlen, "a worker cannot connect: %s", first_error(r));
			return -1;
		}
	}
	return 0;
}

static void sleep_seconds(double s)
{
	struct timespec ts = {
		.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)};

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR) {
	}
}

static int measure(struct run *r, struct bench_watch *w)
{
	uint64_t begin = bench_clock_ns(), opened;

	if (fork_all(r) < 0 || hear_all(r, BENCH_TOLD_OPEN, OPEN_MS) < 0) {
		return -1;
	}
	r->open_seconds = (double)(bench_clock_ns() - begin) / 1e9;
	close_end(&r->start[1]);
	sleep_seconds(r->plan->warmup);
	bench_watch_open(w);
	opened = bench_clock_ns();
	put(&r->shared->phase, BENCH_MEASURE);
	sleep_seconds(r->plan->seconds);
	put(&r->shared->phase, BENCH_STOP);
	r->window = (double)(bench_clock_ns() - opened) / 1e9;
	bench_watch_close(w);
	return hear_all(r, BENCH_TOLD_STOPPED, STOP_MS);
}

static void end_all(struct run *r, bool politely)
{
	for (unsigned i = 0; i < r->forked && !politely; i++) {
		(void)kill(r->pid[i], SIGKILL);
	}
	close_end(&r->start[1]);
	close_end(&r->leave[1]);
	for (unsigned i = 0; i < r->forked; i++) {
		while (waitpid(r->pid[i], NULL, 0) < 0 && errno == EINTR) {
		}
	}
}

static void finish(struct run *r)
{
	for (unsigned i = 0; i < 2; i++) {
		close_end(&r->told[i]);
		close_end(&r->start[i]);
		close_end(&r->leave[i]);
	}
	if (r->shared != NULL) {
		munmap(r->shared, r->shared_len);
	}
	free(r->pid);
}

static int run_watched(struct run *r, struct bench_watch *w, struct bench_result *out)
{
	int rc = prepare(r);

	if (rc == 0) {
		rc = measure(r, w);
		if (rc == 0 && bench_result_init(out, r->plan, r->shared->record, r->plan->workers,
				       r->window) < 0) {
			rc = fail(r, "no memory for the result");
		}
		if (rc == 0) {
			out->open_seconds = r->open_seconds;
			bench_watch_result(w, r->pid, r->forked, out);
		}
		end_all(r, rc == 0);
	}
	finish(r);
	return rc;
}

int bench_run(const struct bench_plan *p, struct bench_result *out, char *err, size_t errlen)
{
	struct run r = {.plan = p,
		.told = {-1, -1},
		.start = {-1, -1},
		.leave = {-1, -1},
		.err = err,
		.errlen = errlen};
	struct bench_watch *w;
	int rc;

	if (bench_watch_start(p, &w, err, errlen) < 0) {
		return -1;
	}
	rc = run_watched(&r, w, out);
	bench_watch_stop(&w);
	return rc;
}
