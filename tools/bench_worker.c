/* SPDX-License-Identifier: MIT */
/* bench_worker.c - see bench_worker.h. */
#include "bench_worker.h"

#include "bench_driver.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define ERRORS_IN_A_ROW_MAX 100

uint64_t bench_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* -- what the process used ------------------------------------------------------------------------
 */

static uint64_t timeval_ns(struct timeval t)
{
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_usec * 1000;
}

static struct bench_use own_use(void)
{
	struct bench_use u = {0};
	struct rusage r;

	if (getrusage(RUSAGE_SELF, &r) == 0) {
		u.cpu_ns = timeval_ns(r.ru_utime) + timeval_ns(r.ru_stime);
		u.switches = (uint64_t)(r.ru_nvcsw + r.ru_nivcsw);
	}
	return u;
}

/* -- talking to the parent ------------------------------------------------------------------------
 */

/* A parent that is gone takes this process with it, so nothing needs to be done about failures. */
static void tell(const struct bench_pipes *pipes, char what)
{
	if (write(pipes->told, &what, 1) != 1) {
		_exit(1);
	}
}

static void wait_for_end_of_file(int fd)
{
	char c;

	while (read(fd, &c, 1) > 0) {
	}
}

/* -- the loop -------------------------------------------------------------------------------------
 */

static void count(struct bench_record *rec, enum bench_outcome o, uint64_t ns)
{
	switch (o) {
	case BENCH_DONE:
		histogram_record(&rec->times, ns);
		break;
	case BENCH_DONE_SLOW:
		histogram_record(&rec->slow, ns);
		break;
	default:
		rec->errors++;
	}
}

static void note_error(struct bench_record *rec, const struct bench_worker *w)
{
	if (rec->error[0] == '\0') {
		memcpy(rec->error, w->error, sizeof(rec->error));
	}
}

/* Closed loop: the end of an operation is the beginning of the next, so one look at the clock does
 * for both. */
static void loop(struct bench_worker *w, struct bench_shared *shared, struct bench_record *rec)
{
	uint32_t phase = BENCH_WARM_UP;
	uint64_t before = bench_clock_ns();
	struct bench_use start = own_use(), end;
	unsigned in_a_row = 0;

	while (phase != BENCH_STOP && in_a_row < ERRORS_IN_A_ROW_MAX) {
		enum bench_outcome o = w->plan->workload->run(w);
		uint64_t after = bench_clock_ns();
		uint32_t now = get(&shared->phase);

		if (now == BENCH_MEASURE) {
			if (phase == BENCH_WARM_UP) {
				start = own_use();
			}
			count(rec, o, after - before);
		}
		in_a_row = o == BENCH_FAILED ? in_a_row + 1 : 0;
		if (o == BENCH_FAILED) {
			note_error(rec, w);
		}
		before = after;
		phase = now;
	}
	end = own_use();
	bench_use_subtract(&end, &start);
	rec->cpu_ns = end.cpu_ns;
	rec->switches = end.switches;
	rec->gave_up = phase != BENCH_STOP;
}

static bool open_connection(struct bench_worker *w)
{
	if (w->plan->workload->connects || w->driver->open(w->plan, &w->conn) == 0) {
		return true;
	}
	snprintf(w->error, sizeof(w->error), "%s",
		w->conn != NULL ? w->driver->error(w->conn) : "no memory for a connection");
	return false;
}

_Noreturn void bench_worker_main(const struct bench_plan *p, unsigned number,
	struct bench_shared *shared, const struct bench_pipes *pipes)
{
	struct bench_record *rec = &shared->record[number];
	struct bench_worker w = {
		.plan = p,
		.driver = bench_driver(p->target.kind),
		.random = (p->seed + number + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1,
	};

	histogram_init(&rec->times);
	histogram_init(&rec->slow);
	if (!open_connection(&w)) {
		note_error(rec, &w);
		tell(pipes, BENCH_TOLD_FAILED);
		_exit(1);
	}
	tell(pipes, BENCH_TOLD_OPEN);
	wait_for_end_of_file(pipes->start);
	loop(&w, shared, rec);
	tell(pipes, BENCH_TOLD_STOPPED);
	wait_for_end_of_file(pipes->leave);
	w.driver->close(&w.conn);
	_exit(0);
}
