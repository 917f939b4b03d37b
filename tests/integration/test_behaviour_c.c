/* SPDX-License-Identifier: MIT */
/*
 * test_behaviour_c.c - the life of connections: behaviours 24 to 30 of docs/testing.md.  Those that
 * take half a minute are in test_behaviour_c_long.c.
 */
#include "behave.h"
#include "check.h"
#include "pg_case.h"

#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#define LONG_MS 60000
#define CONNS 4

/* -- PostgreSQL -------------------------------------------------------------------------------- */

static struct pg_case t;

static const char *const settings[] = {"pool main.max_size=4", "pool main.acquire_timeout=60s",
	"broker.default_timeout=60s", NULL};

static int64_t backends(void)
{
	return pg_int(
		t.pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shmbroker'");
}

/* Without anybody asking for anything. */
static bool is_full(void)
{
	return wait_until(backends() == CONNS && behave_conns(t.proc, "idle") == CONNS, LONG_MS);
}

enum fate {
	NOT_TRIED,
	IN_FLIGHT,
	DONE,
	NOT_DONE,
	UNKNOWN,
};

#define WORKERS 8
#define ROWS_MAX 20000

struct crowd {
	_Atomic int stop;
	_Atomic unsigned next; /* row to be written */
	_Atomic uint64_t served;
	_Atomic unsigned errors[WORKERS]; /* since the last look */
	_Atomic unsigned strange; /* errors that are none of a lost connection */
	char first[300];
	_Atomic int fate[ROWS_MAX];
};

static unsigned worker_number; /* set before a worker is forked */

static int note_error(struct broker *b, struct crowd *c)
{
	const struct broker_error *e = broker_error(b);

	atomic_fetch_add(&c->errors[worker_number], 1);
	if (e->code != BROKER_E_OUTCOME_UNKNOWN && e->code != BROKER_E_DATABASE &&
		e->code != BROKER_E_TX_ABORTED && e->code != BROKER_E_UNAVAILABLE &&
		atomic_fetch_add(&c->strange, 1) == 0) {
		snprintf(c->first, sizeof(c->first), "%d %s %s", e->code, e->sqlstate, e->message);
	}
	return e->outcome == BROKER_UNKNOWN ? UNKNOWN : NOT_DONE;
}

/* Writes and transactions, each of a row of its own; reads in between. */
static int row_worker(struct broker *b, void *arg)
{
	struct crowd *c = arg;
	unsigned row;

	while (atomic_load(&c->stop) == 0 && (row = atomic_fetch_add(&c->next, 1)) < ROWS_MAX) {
		struct broker_value v = broker_int64(row);
		struct broker_call in = {0}, reads = {.flags = BROKER_READONLY};
		int rc = row % 3 == 0 ? broker_begin(b, NULL, &in.lease) : 0;

		atomic_store(&c->fate[row], IN_FLIGHT);
		rc = rc == 0 ? broker_exec(b, "INSERT INTO done VALUES ($1)", 1, &v, &in, NULL)
			     : rc;
		if (in.lease != NULL && rc == 0) {
			rc = broker_commit(&in.lease, 0);
		}
		atomic_store(&c->fate[row], rc == 0 ? DONE : note_error(b, c));
		broker_rollback(&in.lease);
		if (behave_run(b, &reads, "SELECT count(*) FROM pg_class") < 0) {
			(void)note_error(b, c);
		}
		atomic_fetch_add(&c->served, 1);
	}
	return 0;
}

static void start_crowd(struct crowd *c, pid_t *pid)
{
	for (worker_number = 0; worker_number < WORKERS; worker_number++) {
		pid[worker_number] = behave_worker(t.proc, row_worker, c);
	}
}

static void end_crowd(struct crowd *c, pid_t *pid)
{
	atomic_store(&c->stop, 1);
	for (unsigned i = 0; i < WORKERS; i++) {
		(void)behave_ended(pid[i], LONG_MS);
	}
}

/* What workers were told of their rows against the table. */
static void compare_rows(struct crowd *c, const char *what)
{
	unsigned wrong = 0, done = 0, unknown = 0, n = atomic_load(&c->next);
	char *table = calloc(ROWS_MAX, 1);
	PGconn *pq = pg_connect(t.pg);
	PGresult *res = PQexec(pq, "SELECT a, count(*) FROM done GROUP BY a");

	if (table == NULL || PQresultStatus(res) != PGRES_TUPLES_OK) {
		bail_out("cannot read the table");
	}
	for (int i = 0; i < PQntuples(res); i++) {
		table[atoi(PQgetvalue(res, i, 0))] = (char)atoi(PQgetvalue(res, i, 1));
	}
	for (unsigned i = 0; i < n && i < ROWS_MAX; i++) {
		int fate = atomic_load(&c->fate[i]);

		wrong += table[i] > 1 || (fate == DONE && table[i] != 1) ||
			 (fate == NOT_DONE && table[i] != 0);
		done += fate == DONE;
		unknown += fate == UNKNOWN;
	}
	PQclear(res);
	PQfinish(pq);
	free(table);
	is_int(wrong, 0, "%s: %u acknowledged rows are there once, %u of unknown fate at most once",
		what, done, unknown);
	pg_do(t.pg, "TRUNCATE done");
}

/* -- 24 ---------------------------------------------------------------------------------------- */

static void test_24_refill(void)
{
	unsigned rounds = stage_quick() ? 3 : 10, full = 0;

	for (unsigned i = 0; i < rounds; i++) {
		pg_do(t.pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
			    "WHERE application_name = 'shmbroker'");
		full += is_full();
	}
	is_int(full, rounds,
		"C24: when all connections were ended the pool fills again without traffic");
}

static void test_24_terminations(void)
{
	unsigned kills = stage_quick() ? 100 : 1000;
	struct behave_rng rng = behave_seed("C24");
	struct crowd *c = behave_share(sizeof(*c));
	pid_t pid[WORKERS];

	start_crowd(c, pid);
	for (unsigned i = 0; i < kills; i++) {
		uint64_t before = atomic_load(&c->served);

		pg_do(t.pg,
			"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
			"application_name = "
			"'shmbroker' ORDER BY pid OFFSET %u LIMIT 1",
			behave_random(&rng, CONNS));
		if (i % 8 == 7 && !wait_until(atomic_load(&c->served) > before, LONG_MS)) {
			ok(false, "C24: work goes on after %u kills", i);
			break;
		}
	}
	end_crowd(c, pid);
	ok(is_full(), "C24: after %u connections were ended under load the pool is full again",
		kills);
	if (!is_int(atomic_load(&c->strange), 0, "C24: workers saw nothing but lost connections")) {
		diag("  %s", c->first);
	}
	compare_rows(c, "C24");
	behave_unshare(c, sizeof(*c));
}

/* -- 25 ---------------------------------------------------------------------------------------- */

static void test_25_idle(enum pg_mode mode, const char *name)
{
	unsigned wrong = 0;

	ok(is_full(), "C25: %s: an idle pool", name);
	pg_stop(t.pg, mode);
	pg_restart(t.pg);
	for (unsigned i = 0; i < 3 * CONNS; i++) {
		wrong += behave_run(t.b, NULL, "INSERT INTO scrap VALUES (1)") != 0;
	}
	is_int(wrong, 0, "C25: %s: after a restart of an idle server nobody sees an error", name);
	ok(is_full(), "C25: %s: and the pool fills", name);
}

static void test_25_restart(enum pg_mode mode, const char *name)
{
	struct crowd *c = behave_share(sizeof(*c));
	unsigned most = 0, all = 0;
	pid_t pid[WORKERS];
	int64_t start;

	start_crowd(c, pid);
	ok(wait_until(atomic_load(&c->served) > 50, LONG_MS), "C25: %s: %d workers at work", name,
		WORKERS);
	pg_stop(t.pg, mode);
	start = wait_clock_ms();
	pg_restart(t.pg);
	start = behave_since(start);
	ok(wait_until(backends() == CONNS, LONG_MS), "C25: %s: all connections are back", name);
	diag("%s: the server took %lld ms to come back", name, (long long)start);
	ok(wait_until(atomic_load(&c->served) > 100 + WORKERS, LONG_MS), "C25: %s: work goes on",
		name);
	for (unsigned i = 0; i < WORKERS; i++) {
		unsigned n = atomic_load(&c->errors[i]);

		most = n > most ? n : most;
		all += n;
	}
	ok(most <= 1, "C25: %s: the restart costs each worker one error at most (%u in all)", name,
		all);
	end_crowd(c, pid);
	if (!is_int(atomic_load(&c->strange), 0, "C25: %s: of a lost connection", name)) {
		diag("  %s", c->first);
	}
	compare_rows(c, name);
	behave_unshare(c, sizeof(*c));
}

/* Times without a server make the broker slow to try, but not slower than connect_backoff_max. */
static void test_25_backoff(void)
{
	unsigned downs = broker_log_count(t.proc, "server local: down");
	int64_t start;

	pg_stop(t.pg, PG_FAST);
	ok(wait_until(broker_log_count(t.proc, "server local: down") > downs, LONG_MS),
		"C25: the server is away until it is taken for dead");
	pg_restart(t.pg);
	start = wait_clock_ms();
	ok(wait_until(backends() == CONNS, LONG_MS), "C25: all connections are back");
	ok(behave_since(start) < 5000 + WAIT_NOISE_MS, "C25: within the longest back-off (%lld ms)",
		(long long)behave_since(start));
}

/* -- 26 ---------------------------------------------------------------------------------------- */

/* Connections that look alive and are not: each is tested before it is used. */
static void test_26_stale(void)
{
	struct behave f =
		behave_start("", SETTINGS("pool main.max_size=4", "pool main.validate_after_idle=0",
					 "pool main.acquire_timeout=30s"));
	int64_t generation = behave_int(f.b, NULL, "who", 1);
	unsigned wrong = 0;

	(void)wait_until(behave_conns(f.proc, "idle") == 4, LONG_MS);
	behave_rules(&f, "reset_fail=1");
	wrong += behave_run(f.b, NULL, "affect 1") != 0;
	behave_rules(&f, "");
	for (unsigned i = 0; i < 8; i++) {
		wrong += behave_int(f.b, NULL, "who", 1) < generation;
	}
	is_int(wrong, 0,
		"C26: a connection that fails its test is replaced, and its user notices nothing");
	ok(behave_closed(f.proc) >= 1, "C26: it was closed");
	behave_end(&f);
}

/* The whole pool is lost while nobody can tell: no statement meets an old connection. */
static void test_26_generation(void)
{
	struct behave f = behave_start("", SETTINGS("pool main.max_size=4"));
	unsigned old = 0, failed = 0;

	for (unsigned round = 1; round <= 20; round++) {
		char rules[32];

		snprintf(rules, sizeof(rules), "epoch=%u", round);
		(void)wait_until(behave_created(f.proc) == 4 * (int64_t)round, LONG_MS);
		behave_rules(&f, rules);
		if (!wait_until(behave_closed(f.proc) == 4 * (int64_t)round, LONG_MS)) {
			bail_out("connections were not lost");
		}
		for (unsigned i = 0; i < 8; i++) {
			int64_t generation = behave_int(f.b, NULL, "who", 1);

			failed += generation < 0;
			old += generation >= 0 && generation <= round;
		}
	}
	is_int(old + failed, 0, "C26: connections of before a restart are never used again");
	behave_end(&f);
}

/* -- 27, 28: reload ---------------------------------------------------------------------------- */

struct reloadable {
	struct broker_proc *proc;
	struct broker *b;
	char *path;
	int64_t reloads;
};

static void write_config(struct reloadable *r, const char *url, const char *pool)
{
	FILE *f = fopen(r->path, "we");

	if (f == NULL ||
		fprintf(f, "[server one]\nurl = %s\n[pool main]\nservers = one\n%s\n", url, pool) <
			0 ||
		fclose(f) != 0) {
		bail_out("cannot write %s", r->path);
	}
}

static struct reloadable start_reloadable(const char *url, const char *pool)
{
	struct reloadable r = {.path = scratch_path("reload.ini")};

	write_config(&r, url, pool);
	r.proc = broker_spawn(SETTINGS("serve", "-c", r.path), true);
	if (!broker_ready(r.proc, LONG_MS)) {
		bail_out("the broker does not start");
	}
	r.b = behave_attach(r.proc);
	return r;
}

static void reload(struct reloadable *r, const char *url, const char *pool)
{
	write_config(r, url, pool);
	kill(broker_pid(r->proc), SIGHUP);
	if (!wait_until(
		    broker_metric(r->proc, "broker_reloads_total") == r->reloads + 1, LONG_MS)) {
		bail_out("the configuration was not read again");
	}
	r->reloads++;
}

static void end_reloadable(struct reloadable *r)
{
	broker_detach(&r->b);
	is_int(broker_free(&r->proc), 0, "the broker ends well");
	free(r->path);
}

/* The server's url changes: its connections are to go. */
static void test_27_eviction(void)
{
	struct reloadable r = start_reloadable("fake:?connect_ms=1", "max_size = 3");
	struct broker_call in = {.lease = behave_hold(r.b, NULL, "set 42")};
	int64_t closed;

	reload(&r, "fake:?connect_ms=2", "max_size = 3");
	ok(wait_until(behave_conns(r.proc, "idle") == 3, LONG_MS),
		"C27: idle connections are replaced");
	is_int(behave_int(r.b, &in, "get", 0), 42, "C27: the one in use stays with its user");
	ok(wait_until((closed = behave_closed(r.proc)) == 2, LONG_MS),
		"C27: the others were closed");
	broker_release(&in.lease);
	ok(wait_until(behave_closed(r.proc) == 3, LONG_MS), "C27: it is closed when it comes back");
	is_int(behave_int(r.b, NULL, "get", 0), 0, "C27: the next gets another");
	end_reloadable(&r);
}

/* So many leases at a time, and not one more. */
static bool holds(struct broker *b, unsigned n)
{
	struct broker_call brief = {.timeout_ms = 100};
	struct broker_lease *l[8];
	bool full;

	for (unsigned i = 0; i < n; i++) {
		l[i] = behave_hold(b, NULL, "affect 1");
	}
	full = behave_run(b, &brief, "affect 1") == BROKER_E_TIMEOUT;
	for (unsigned i = 0; i < n; i++) {
		broker_release(&l[i]);
	}
	return full;
}

static void test_28_resize(void)
{
	struct reloadable r = start_reloadable("fake:", "max_size = 2");
	struct broker_lease *l[5];
	unsigned good = 0;

	ok(holds(r.b, 2), "C28: a pool of two");
	reload(&r, "fake:", "max_size = 5");
	ok(holds(r.b, 5), "C28: made larger: five at once");
	for (unsigned i = 0; i < array_size(l); i++) {
		l[i] = behave_hold(r.b, NULL, "affect 1");
	}
	reload(&r, "fake:", "max_size = 1");
	for (unsigned i = 0; i < array_size(l); i++) {
		good += behave_run(r.b, &(struct broker_call){.lease = l[i]}, "affect 1") == 0;
	}
	is_int(good, 5, "C28: made smaller while all are in use: nobody is interrupted");
	for (unsigned i = 0; i < array_size(l); i++) {
		broker_release(&l[i]);
	}
	ok(wait_until(behave_conns(r.proc, "idle") == 1, LONG_MS),
		"C28: surplus ones are closed afterwards");
	ok(holds(r.b, 1), "C28: one at a time");
	end_reloadable(&r);
}

/* A waiter is served by what a larger pool brings. */
static void test_28_waiter(void)
{
	struct reloadable r = start_reloadable("fake:", "max_size = 1\nacquire_timeout = 60s");
	struct broker_lease *l = behave_hold(r.b, NULL, "affect 1");
	uint64_t ticket = behave_submit(r.b, NULL, "affect 1");

	ok(wait_until(behave_waiting(r.proc) == 1, LONG_MS), "C28: somebody waits");
	reload(&r, "fake:", "max_size = 2\nacquire_timeout = 60s");
	is_int(broker_collect(r.b, ticket, LONG_MS, NULL, NULL), 0,
		"C28: until the pool is made larger");
	broker_release(&l);
	end_reloadable(&r);
}

static void test_28_bad_file(void)
{
	struct reloadable r = start_reloadable("fake:", "max_size = 2");

	write_config(&r, "fake:", "max_size = 0");
	kill(broker_pid(r.proc), SIGHUP);
	ok(wait_until(broker_log_count(r.proc, "nothing was changed") == 1, LONG_MS),
		"C28: a bad file changes nothing");
	ok(broker_log_count(r.proc, "max_size") > 0, "C28: and the log says what is wrong");
	ok(holds(r.b, 2), "C28: the pool is as it was");
	end_reloadable(&r);
}

/* -- 29 ---------------------------------------------------------------------------------------- */

/* As many connections as users at a time, one more and one more. */
static void test_29_ramp(void)
{
	struct behave f = behave_start(
		"connect_ms=1", SETTINGS("pool main.max_size=20", "pool main.min_idle=1"));
	struct broker_lease *l[20];
	unsigned surplus = 0;

	for (unsigned i = 0; i < array_size(l); i++) {
		l[i] = behave_hold(f.b, NULL, "affect 1");
		surplus += behave_created(f.proc) > (int64_t)i + 1;
	}
	is_int(surplus, 0, "C29: the pool grows as it is used, and no further");
	for (unsigned i = 0; i < array_size(l); i++) {
		broker_release(&l[i]);
	}
	for (unsigned i = 0; i < 50; i++) {
		(void)!behave_run(f.b, NULL, "affect 1");
	}
	is_int(behave_created(f.proc), 20, "C29: and needs no other afterwards");
	is_int(behave_closed(f.proc), 0, "C29: none is closed before its time");
	behave_end(&f);
}

/* Beyond max_size while there are waiters, and not for longer. */
static void test_29_overflow(void)
{
	struct behave f =
		behave_start("", SETTINGS("pool main.max_size=2", "pool main.max_overflow=3"));

	(void)wait_until(behave_conns(f.proc, "idle") == 2, LONG_MS);
	ok(holds(f.b, 5), "C29: two connections and three of overflow");
	ok(wait_until(behave_conns(f.proc, "idle") == 2 && behave_closed(f.proc) == 3, LONG_MS),
		"C29: which are closed when nobody needs them");
	behave_end(&f);
}

/* Openings that nobody needs any more are dropped. */
static void test_29_surplus(void)
{
	struct behave f =
		behave_start("", SETTINGS("pool main.max_size=10", "pool main.min_idle=1"));
	struct broker_lease *l = behave_hold(f.b, NULL, "affect 1");
	uint64_t ticket[4];

	behave_rules(&f, "connect_ms=60000");
	for (unsigned i = 0; i < array_size(ticket); i++) {
		ticket[i] = behave_submit(f.b, NULL, "affect 1");
	}
	ok(wait_until(behave_conns(f.proc, "login") >= 2, LONG_MS),
		"C29: connections are being made");
	broker_release(&l);
	for (unsigned i = 0; i < array_size(ticket); i++) {
		(void)!broker_collect(f.b, ticket[i], -1, NULL, NULL);
	}
	ok(wait_until(behave_conns(f.proc, "login") == 0, LONG_MS),
		"C29: for requests that others served: they are dropped");
	behave_end(&f);
}

/* -- 30 ---------------------------------------------------------------------------------------- */

/* A broker whose wall clock can be moved. */
static struct behave start_shifted(const char *path)
{
	int64_t none = 0;
	FILE *f = fopen(path, "we");
	struct behave b;

	if (f == NULL || fwrite(&none, sizeof(none), 1, f) != 1 || fclose(f) != 0) {
		bail_out("cannot write %s", path);
	}
	setenv("CLOCKSHIFT", path, 1);
	setenv("LD_PRELOAD", getenv("CLOCKSHIFT_LIB"), 1);
	b = behave_start("", SETTINGS("pool main.max_size=2", "pool main.acquire_timeout=60s",
				     "broker.log_level=debug"));
	unsetenv("LD_PRELOAD");
	unsetenv("CLOCKSHIFT");
	return b;
}

static void shift_clock(const char *path, int64_t seconds)
{
	FILE *f = fopen(path, "r+e");

	if (f == NULL || fwrite(&seconds, sizeof(seconds), 1, f) != 1 || fclose(f) != 0) {
		bail_out("cannot write %s", path);
	}
}

static void test_30_clock(void)
{
	static const int64_t jumps[] = {3650 * 86400, -86400, 7 * 86400, 0};
	char *path = scratch_path("clock"), year[16];
	struct behave f = start_shifted(path);
	struct broker_lease *l[2] = {
		behave_hold(f.b, NULL, "affect 1"), behave_hold(f.b, NULL, "affect 1")};
	struct broker_call patient = {.timeout_ms = 200000}, brief = {.timeout_ms = 300};
	uint64_t waits = behave_submit(f.b, &patient, "affect 1");
	time_t then = time(NULL) + jumps[0];
	unsigned wrong = 0;

	strftime(year, sizeof(year), "%Y-", gmtime(&then));
	for (unsigned i = 0; i < array_size(jumps); i++) {
		int64_t start = wait_clock_ms();

		shift_clock(path, jumps[i]);
		wrong += behave_run(f.b, &brief, "affect 1") != BROKER_E_TIMEOUT;
		start = behave_since(start);
		wrong += start < 290 || start > 10000;
		wrong += broker_collect(f.b, waits, 0, NULL, NULL) != BROKER_E_PENDING;
		broker_detach(&(struct broker *){behave_attach(f.proc)});
		if (i == 0) {
			ok(wait_until(broker_log_count(f.proc, year) > 0, LONG_MS),
				"C30: the broker's clock jumped by ten years");
		}
	}
	is_int(wrong, 0, "C30: to and fro: deadlines and waiters are what they were");
	broker_release(&l[0]);
	broker_release(&l[1]);
	is_int(broker_collect(f.b, waits, LONG_MS, NULL, NULL), 0, "C30: who waits is served");
	ok(behave_created(f.proc) == 2 && behave_closed(f.proc) == 0,
		"C30: no connection was retired");
	behave_end(&f);
	free(path);
}

/* The broker itself gets no time for a while. */
static void test_30_starved(void)
{
	struct behave f = behave_start("", SETTINGS("pool main.max_size=2"));
	struct broker_lease *l = behave_hold(f.b, NULL, "affect 1");
	struct broker_call brief = {.timeout_ms = 1500}, in = {.lease = l};

	broker_pause(f.proc);
	is_int(behave_run(f.b, &brief, "affect 1"), BROKER_E_TIMEOUT, "C30: a broker stands still");
	broker_resume(f.proc);
	is_int(behave_run(f.b, &in, "affect 1"), 0, "C30: leases live on");
	is_int(behave_run(f.b, NULL, "affect 1"), 0, "C30: and others are served");
	ok(behave_created(f.proc) == 2 && behave_closed(f.proc) == 0,
		"C30: by the same connections");
	broker_release(&l);
	behave_end(&f);
}

int main(void)
{
	if (stage_slowness() > 1) {
		skip("C30: a sanitizer wants to be the first library");
	} else {
		test_30_clock();
	}
	test_30_starved();
	test_26_stale();
	test_26_generation();
	test_27_eviction();
	test_28_resize();
	test_28_waiter();
	test_28_bad_file();
	test_29_ramp();
	test_29_overflow();
	test_29_surplus();
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(NULL, settings);
	pg_do(t.pg, "CREATE TABLE done (a int)");
	pg_do(t.pg, "CREATE TABLE scrap (a int)");
	pg_do(t.pg, "SET client_min_messages = error"); /* backends that ended by themselves */
	test_24_refill();
	test_24_terminations();
	test_25_idle(PG_FAST, "fast");
	test_25_idle(PG_KILL, "killed");
	test_25_restart(PG_FAST, "fast");
	test_25_restart(PG_IMMEDIATE, "immediate");
	test_25_restart(PG_KILL, "killed");
	test_25_backoff();
	case_end(&t);
	return done_testing();
}
