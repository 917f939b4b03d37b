/* SPDX-License-Identifier: MIT */
/*
 * test_failover_model.c - servers that crash, hang, are cut off, promoted, demoted, lag and refuse
 * writes, while workers read, write, commit, cancel and die: at random, from a printed seed.
 *
 * After each step: what was acknowledged stands exactly once on the history that counts, what was
 * denied nowhere, what is unknown at most once; reads that must be fresh are; nobody is answered
 * late; a lead that takes writes is used within a second; books balance and queues are in order.
 * From time to time all is mended, and everybody must be able to finish.
 *
 * FAILOVER_SEED repeats one walk.
 */
#include "failover_world.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define STEPS 3000u
#define REMEMBERED 60u

/* The last things that happened; also for a signal handler. */
static char history[REMEMBERED][80];
static unsigned happened;

__attribute__((format(printf, 1, 2))) static void note(const char *fmt, ...)
{
	char *line = history[happened++ % REMEMBERED];
	int n = snprintf(
		line, sizeof(history[0]), "%llu ms: ", (unsigned long long)(world_now() / MS));
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(history[0]) - (size_t)n, fmt, ap);
	va_end(ap);
}

static void tell_history(const char *why)
{
	unsigned from = happened > REMEMBERED ? happened - REMEMBERED : 0;

	diag("%s, after:", why);
	for (unsigned i = from; i < happened; i++) {
		diag("  %s", history[i % REMEMBERED]);
	}
}

static unsigned seed;

static void on_crash(int signo)
{
	signal(signo, SIG_DFL);
	diag("seed %u", seed);
	tell_history("the core crashed");
	raise(signo);
}

/* -- one step ---------------------------------------------------------------------------------- */

static void mishap(struct world *w)
{
	/* What mends is as frequent as what breaks. */
	static const uint8_t what[] = {CRASH, START, START, HANG, RESUME, RESUME, CUT, MEND, MEND,
		PROMOTE, PROMOTE, PROMOTE, PROMOTE, REJOIN, REJOIN, READ_ONLY, WRITABLE, WRITABLE,
		HOLD, UNHOLD, LOSE, LOSE, LOSE};
	enum mishap m = (enum mishap)what[pick(array_size(what))];
	unsigned machine = pick(MACHINES);

	if (db_mishap(w, m, machine)) {
		note("server %u %s", machine, db_mishap_name(m));
		if (m == PROMOTE) {
			w->lead_ok_ns = w->missed_ns = 0;
		}
		world_watch(w);
	}
}

static void work(struct world *w)
{
	for (unsigned i = 0; i < 4; i++) {
		unsigned machine = pick(w->nservers);

		if (pick(3) == 0 && machine < MACHINES) {
			(void)db_replicate(w, machine, pick(2) == 0);
		} else {
			(void)db_work(w, machine, pick(CONNS));
		}
	}
}

static void step(struct world *w, unsigned trouble)
{
	unsigned n = pick(100);

	if (n < trouble) {
		mishap(w);
	} else if (n < 35) {
		unsigned i = pick(WORKERS);

		note("worker %u %s", i, worker_act(w, i));
	} else if (n < 85) {
		work(w);
	} else {
		world_pass(w, (1 + pick(n == 99 ? 600 : 20)) * MS);
		return; /* it has turned */
	}
	if (pick(3) != 0) {
		world_turn(w);
	}
}

/* -- walks ------------------------------------------------------------------------------------- */

static bool walk(struct world *w)
{
	unsigned trouble = 0;

	happened = 0;
	for (unsigned i = 0; i < STEPS && w->failure[0] == '\0'; i++) {
		if (i % 100 == 0) {
			trouble = pick(3) == 0 ? 0 : 1 + pick(5);
		}
		step(w, trouble);
		if (pick(1000) == 0 || w->nrecs > RECS - 200) {
			note("all is mended");
			world_rest(w);
		}
	}
	if (w->failure[0] == '\0') {
		note("all is mended");
		world_rest(w);
	}
	return w->failure[0] == '\0';
}

static void walks(const struct plan *plan, unsigned first, unsigned count)
{
	unsigned answers = 0, unknown = 0, failed = 0, failovers = 0, i;
	bool good = true, clean = true;

	for (i = 0; good && i < count; i++) {
		struct world *w;

		seed = first + i;
		srand(seed);
		srandom(seed); /* the jitter of the back-off */
		w = world_create(plan);
		good = walk(w);
		answers += w->seen.answers;
		unknown += w->seen.unknown;
		failed += w->seen.failed;
		failovers += w->seen.failovers;
		if (!good) {
			diag("seed %u", seed);
			tell_history(w->failure);
			world_tell(w);
		} else {
			clean = world_destroy(&w) && clean;
		}
	}
	diag("%s: %u promotions, %u requests done, %u failed, %u of unknown outcome", plan->name,
		failovers, answers, failed, unknown);
	ok(good, "%s: nothing goes wrong in %u walks of %u steps", plan->name, count, STEPS);
	ok(clean, "%s: nothing is left open", plan->name);
	ok(!good || (failovers > count && unknown > 0 && answers > unknown), "%s: enough happened",
		plan->name);
}

int main(void)
{
	static const struct plan plans[] = {
		{"safe commits", true, READ_FROM_STANDBY, FALLBACK_OFF},
		{"safe commits, reads anywhere", true, READ_FROM_ANY, FALLBACK_OFF},
		{"quick commits", false, READ_FROM_STANDBY, FALLBACK_OFF},
		{"quick commits, reads from the primary", false, READ_FROM_PRIMARY, FALLBACK_OFF},
		{"reads from a fallback", true, READ_FROM_STANDBY, FALLBACK_READ_ONLY},
		{"writes to a fallback", true, READ_FROM_ANY, FALLBACK_READ_WRITE},
	};
	const char *given = getenv("FAILOVER_SEED");
	unsigned first = given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
	unsigned count = given != NULL ? 1 : getenv("TEST_QUICK") != NULL ? 10 : 100;

	signal(SIGABRT, on_crash);
	signal(SIGSEGV, on_crash);
	diag("seeds from %u (repeat with FAILOVER_SEED=%u)", first, first);
	for (unsigned i = 0; i < array_size(plans); i++) {
		walks(&plans[i], first, count);
	}
	return done_testing();
}
