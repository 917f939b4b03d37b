/* SPDX-License-Identifier: MIT */
/* crew.c - see crew.h. */
#include "crew.h"

#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LATE_US 100000
#define END_MS 60000

struct crew {
	struct crew_board *board;
	unsigned n;
	pid_t pid[CREW_MAX];
};

void *crew_shared(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		bail_out("mmap: %s", strerror(errno));
	}
	return p;
}

void crew_breathe(unsigned ms)
{
	struct timespec ts = {.tv_nsec = ms * 1000000L};

	(void)nanosleep(&ts, NULL);
}

void crew_surprise(struct crew_worker *w, const char *fmt, ...)
{
	va_list ap;

	if (atomic_fetch_add(&w->board->surprises, 1) == 0) {
		va_start(ap, fmt);
		vsnprintf(w->board->surprise, sizeof(w->board->surprise), fmt, ap);
		va_end(ap);
	}
}

/* -- calls ------------------------------------------------------------------------------------- */

static void note_late(struct crew_worker *w, int64_t late, int64_t timeout_ms, const char *what)
{
	int64_t worst = atomic_load(&w->board->worst_us);

	atomic_fetch_add(&w->board->late, late > LATE_US);
	while (late > worst && !atomic_compare_exchange_weak(&w->board->worst_us, &worst, late)) {
	}
	if (late > worst && late > LATE_US) {
		snprintf(w->board->late_call, sizeof(w->board->late_call),
			"worker %u, %lld ms after its %lld ms: %.200s", w->id,
			(long long)late / 1000, (long long)timeout_ms, what);
	}
}

static int account(
	struct crew_worker *w, int rc, int64_t start_us, int64_t timeout_ms, const char *what)
{
	int64_t late = wait_clock_us() - start_us - timeout_ms * 1000;
	unsigned code = (unsigned)(-rc - 2000);

	atomic_fetch_add(&w->board->calls, 1);
	if (late > 0) {
		note_late(w, late, timeout_ms, what);
	}
	if (rc < 0) {
		const struct broker_error *e = broker_error(w->b);

		atomic_fetch_add(&w->board->failed, 1);
		atomic_fetch_add(&w->board->by_code[code < CREW_CODES ? code : 0], 1);
		snprintf(w->board->error, sizeof(w->board->error), "%d %s %s", rc, e->sqlstate,
			e->message);
	}
	return rc;
}

int crew_exec(struct crew_worker *w, const char *sql, int nparams,
	const struct broker_value *params, const struct broker_call *call,
	struct broker_result **out)
{
	int64_t start = wait_clock_us();
	int rc = broker_exec(w->b, sql, nparams, params, call, out);

	return account(w, rc, start, call->timeout_ms, sql);
}

int crew_begin(struct crew_worker *w, const struct broker_call *call, struct broker_lease **out)
{
	int64_t start = wait_clock_us();

	return account(w, broker_begin(w->b, call, out), start, call->timeout_ms, "BEGIN");
}

int crew_commit(struct crew_worker *w, struct broker_lease **l, int64_t timeout_ms)
{
	int64_t start = wait_clock_us();

	return account(w, broker_commit(l, timeout_ms), start, timeout_ms, "COMMIT");
}

/* -- the crew ---------------------------------------------------------------------------------- */

static _Noreturn void work(struct crew_worker *w, const char *socket, crew_job *job)
{
	struct broker_options opt = {.path = socket, .name = "crew", .timeout_ms = END_MS};

	if (broker_attach(&opt, &w->b) < 0) {
		crew_surprise(w, "attach: %s", broker_error(NULL)->message);
		_exit(2);
	}
	atomic_fetch_add(&w->board->ready, 1);
	while (!atomic_load(&w->board->stop)) {
		job(w);
	}
	broker_detach(&w->b);
	_exit(0);
}

struct crew *crew_start(
	const char *socket, unsigned workers, crew_job *job, struct ledger *ledger, void *arg)
{
	const char *given = getenv("CREW_SEED");
	unsigned seed =
		given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)wait_clock_us();
	struct crew *c = calloc(1, sizeof(*c));

	if (c == NULL || workers > CREW_MAX) {
		bail_out("no crew of %u", workers);
	}
	diag("seed %u (CREW_SEED=%u repeats the choices, not the times)", seed, seed);
	c->board = crew_shared(sizeof(*c->board));
	c->n = workers;
	for (unsigned i = 0; i < workers; i++) {
		struct crew_worker w = {.id = i,
			.seed = seed + i * 7919,
			.board = c->board,
			.ledger = ledger,
			.arg = arg,
			.last = -1};

		c->pid[i] = spawn_fork();
		if (c->pid[i] == 0) {
			work(&w, socket, job);
		}
	}
	if (!wait_until(atomic_load(&c->board->ready) == workers, END_MS)) {
		bail_out("workers do not attach: %s", c->board->surprise);
	}
	return c;
}

struct crew_board *crew_board(struct crew *c)
{
	return c->board;
}

static void report(struct crew_board *b, const char *what)
{
	diag("%s: %llu calls, %llu failed", what, (unsigned long long)atomic_load(&b->calls),
		(unsigned long long)atomic_load(&b->failed));
	for (unsigned i = 0; i < CREW_CODES; i++) {
		uint64_t n = atomic_load(&b->by_code[i]);

		if (n > 0) {
			diag("  %llu times: %s", (unsigned long long)n,
				broker_strerror(-2000 - (int)i));
		}
	}
	if (b->error[0] != '\0') {
		diag("  the last: %s", b->error);
	}
	if (b->late_call[0] != '\0') {
		diag("  late: %s", b->late_call);
	}
}

void crew_stop(struct crew **cp, const char *what)
{
	struct crew *c = *cp;
	unsigned odd = 0;

	atomic_store(&c->board->stop, 1);
	for (unsigned i = 0; i < c->n; i++) {
		bool late = false;
		int status = spawn_wait(c->pid[i], END_MS, &late);

		if (late || status != 0) {
			odd++;
			diag("worker %u: status %d%s", i, status, late ? ", had to be killed" : "");
		}
	}
	report(c->board, what);
	is_int(odd, 0, "%s: workers end as they should", what);
	if (!is_int(atomic_load(&c->board->surprises), 0, "%s: nobody saw anything unexpected",
		    what)) {
		diag("the first: %s", c->board->surprise);
	}
	(void)munmap(c->board, sizeof(*c->board));
	free(c);
	*cp = NULL;
}
