/* SPDX-License-Identifier: MIT */
/*
 * test_behaviour_d.c - start and stop, counters and secrets: behaviours 31 to 37 of
 * docs/testing.md.
 */
#include "behave.h"
#include "check.h"
#include "pg_case.h"

#include <dirent.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONG_MS 60000

/* -- 31: start --------------------------------------------------------------------------------- */

static struct broker_proc *serve(const char *url, const char *setting)
{
	return broker_spawn(SETTINGS("serve", "-d", url, "-s", setting), true);
}

/* What time does not mend ends the start at once. */
static void fails_fast(const char *url, const char *reason)
{
	int64_t start = wait_clock_ms();
	struct broker_proc *p = serve(url, "pool main.acquire_timeout=3s");
	int status = broker_wait(p, LONG_MS);

	ok(WIFEXITED(status) && WEXITSTATUS(status) != 0, "D31: %s: the broker does not start",
		url);
	ok(behave_since(start) < 15000, "D31: %s: which it says at once (%lld ms)", url,
		(long long)behave_since(start));
	ok(broker_log_count(p, reason) > 0 && broker_log_count(p, "local") > 0,
		"D31: %s: and names the server and the reason", url);
	(void)broker_free(&p);
}

/* What time may mend is waited for, but not for ever. */
static void gives_up(const char *url, const char *reason)
{
	int64_t start = wait_clock_ms();
	struct broker_proc *p = serve(url, "pool main.init_fail_timeout=700ms");
	int status = broker_wait(p, LONG_MS);

	start = behave_since(start);
	ok(WIFEXITED(status) && WEXITSTATUS(status) != 0, "D31: %s: the broker does not start",
		url);
	ok(start >= 690 && start < 15000, "D31: %s: after init_fail_timeout (%lld ms)", url,
		(long long)start);
	ok(broker_log_count(p, reason) > 0, "D31: %s: and says why", url);
	(void)broker_free(&p);
}

static void write_rules(const char *path, const char *rules)
{
	FILE *f = fopen(path, "we");

	if (f == NULL || fputs(rules, f) < 0 || fclose(f) != 0) {
		bail_out("cannot write %s", path);
	}
}

static void test_31_comes_up_late(void)
{
	char *path = scratch_path("late"), *url = scratch_format("fake:?control=%s", path);
	struct broker_proc *p;

	write_rules(path, "refuse=1");
	p = serve(url, "pool main.max_size=2");
	ok(wait_until(broker_log_count(p, "the fake server refuses") > 0, LONG_MS),
		"D31: a server that is not there yet");
	ok(!broker_ready(p, 0), "D31: no worker is let in");
	write_rules(path, "");
	ok(broker_ready(p, LONG_MS), "D31: but is waited for");
	is_int(broker_free(&p), 0, "D31: the broker ends well");
	free(url);
	free(path);
}

static void test_31_stop_while_starting(const char *url)
{
	struct broker_proc *p = serve(url, "pool main.max_size=2");
	int64_t start;

	(void)wait_until(broker_log_count(p, "") > 0, 500);
	start = wait_clock_ms();
	(void)broker_stop(p, LONG_MS);
	ok(behave_since(start) < 10000,
		"D31: %s: a broker that is told to stop while it starts, stops", url);
	(void)broker_free(&p);
}

/* init_fail_timeout 0: start without a database. */
static void test_31_start_anyway(void)
{
	char *path = scratch_path("anyway"), *url = scratch_format("fake:?control=%s", path);
	struct broker_call brief = {.timeout_ms = 200};
	struct broker_proc *p;
	struct broker *b;

	write_rules(path, "refuse=1");
	p = serve(url, "pool main.init_fail_timeout=0");
	ok(broker_ready(p, LONG_MS), "D31: with init_fail_timeout=0 it starts in any case");
	b = behave_attach(p);
	ok(behave_run(b, &brief, "affect 1") < 0 &&
			strstr(broker_error(b)->message, "the fake server refuses") != NULL,
		"D31: workers are told what is the matter");
	write_rules(path, "");
	ok(wait_until(behave_run(b, NULL, "affect 1") == 0, LONG_MS), "D31: until it is mended");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "D31: the broker ends well");
	free(url);
	free(path);
}

/* A pool that keeps no connection open by itself. */
static void test_31_min_idle_0(void)
{
	struct behave t = behave_start("", SETTINGS("pool main.min_idle=0"));

	is_int(behave_run(t.b, NULL, "affect 1"), 0,
		"D31: a pool with min_idle=0 starts and serves");
	behave_end(&t);
}

/* -- 32: stop ---------------------------------------------------------------------------------- */

/* Files of the broker beside its log. */
static unsigned files_left(const char *dir)
{
	unsigned n = 0;
	struct dirent *e;
	DIR *d = opendir(dir);

	while (d != NULL && (e = readdir(d)) != NULL) {
		n += e->d_name[0] != '.' && strcmp(e->d_name, "log") != 0;
	}
	if (d != NULL) {
		closedir(d);
	}
	return n;
}

static void test_32_drain(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=2", "broker.shutdown_grace=60s",
					 "pool main.acquire_timeout=60s"));
	struct broker *other = behave_attach(t.proc);
	struct broker_call in = {0};
	struct broker_options late = {.path = broker_socket(t.proc), .timeout_ms = 1000};
	struct broker *none;
	uint64_t runs, waits;
	int64_t start;
	int rc = broker_begin(other, NULL, &in.lease);

	rc = rc == 0 ? behave_run(other, &in, "affect 1") : rc;
	is_int(rc, 0, "D32: a transaction is open");
	runs = behave_submit(t.b, NULL, "sleep 5000");
	(void)wait_until(behave_conns(t.proc, "active") == 1, LONG_MS);
	waits = behave_submit(t.b, NULL, "affect 1");
	ok(wait_until(behave_waiting(t.proc) == 1, LONG_MS),
		"D32: a statement runs, another waits");
	start = wait_clock_ms();
	kill(broker_pid(t.proc), SIGTERM);
	is_int(broker_collect(t.b, waits, LONG_MS, NULL, NULL), BROKER_E_SHUTDOWN,
		"D32: told to stop: who waits is told");
	ok(behave_since(start) < WAIT_NOISE_MS, "D32: at once (%lld ms)",
		(long long)behave_since(start));
	is_int(broker_error(t.b)->outcome, BROKER_NOT_DONE, "D32: that nothing was done");
	is_int(behave_run(t.b, NULL, "affect 1"), BROKER_E_SHUTDOWN, "D32: as is who comes later");
	ok(broker_attach(&late, &none) < 0, "D32: nobody attaches any more");
	is_int(behave_run(other, &in, "affect 1"), 0, "D32: a transaction may go on");
	is_int(broker_commit(&in.lease, 0), 0, "D32: and commit");
	is_int(broker_collect(t.b, runs, LONG_MS, NULL, NULL), 0, "D32: what runs may end");
	is_int(broker_wait(t.proc, LONG_MS), 0, "D32: then the broker ends");
	is_int(files_left(broker_dir(t.proc)), 0, "D32: without leaving files");
	ok(behave_run(t.b, &(struct broker_call){.timeout_ms = 500}, "affect 1") < 0 &&
			broker_error(t.b)->outcome == BROKER_NOT_DONE,
		"D32: statements afterwards fail cleanly");
	broker_detach(&other);
	behave_end(&t);
}

/* The grace is over, or somebody is in a hurry. */
static void test_32_abort(const char *grace, bool hurry)
{
	struct behave t = behave_start("", SETTINGS("pool main.max_size=2", grace));
	struct broker *other = behave_attach(t.proc);
	struct broker_call in = {0};
	uint64_t runs;
	int64_t start;
	int rc = broker_begin(other, NULL, &in.lease);

	rc = rc == 0 ? behave_run(other, &in, "affect 1") : rc;
	runs = behave_submit(t.b, NULL, "sleep 600000");
	ok(rc == 0 && wait_until(behave_conns(t.proc, "active") == 1, LONG_MS),
		"D32: a transaction and a long statement");
	start = wait_clock_ms();
	kill(broker_pid(t.proc), SIGTERM);
	if (hurry) {
		(void)wait_until(broker_log_count(t.proc, "stopping") > 0, LONG_MS);
		for (int i = 0; i < 10; i++) {
			kill(broker_pid(t.proc), i % 2 == 0 ? SIGTERM : SIGINT);
		}
	}
	is_int(broker_wait(t.proc, LONG_MS), 0, "D32: %s: the broker ends",
		hurry ? "told many times" : grace);
	ok(behave_since(start) < 30000, "D32: without waiting for them (%lld ms)",
		(long long)behave_since(start));
	ok(broker_collect(t.b, runs, LONG_MS, NULL, NULL) < 0, "D32: the statement has failed");
	is_int(broker_error(t.b)->outcome, BROKER_UNKNOWN, "D32: nobody knows how it ended");
	ok(broker_commit(&in.lease, 0) < 0 && broker_error(other)->outcome == BROKER_NOT_DONE,
		"D32: the transaction cannot be committed");
	is_int(files_left(broker_dir(t.proc)), 0, "D32: no files are left");
	broker_detach(&other);
	behave_end(&t);
}

/* The server sees no session of a broker that has ended. */
static void test_32_server_side(struct pg_cluster *pg)
{
	struct broker_proc *p = broker_start(pg_url(pg), SETTINGS("pool main.max_size=5"));
	struct broker *b = behave_attach(p);
	struct broker_lease *l = behave_hold(b, NULL, "SELECT 1");

	ok(wait_until(pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
				 "'shmbroker'") >= 5,
		   LONG_MS),
		"D32: five sessions");
	kill(broker_pid(p), SIGTERM);
	broker_release(&l);
	is_int(broker_wait(p, LONG_MS), 0, "D32: the broker ends");
	ok(wait_until(
		   pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE "
			      "'shmbroker%%'") == 0,
		   LONG_MS),
		"D32: and all of its sessions");
	broker_detach(&b);
	(void)broker_free(&p);
}

/* -- 34: contradictions ------------------------------------------------------------------------ */

static void test_34_contradictions(void)
{
	static const struct {
		const char *a, *b; /* settings */
		const char *one, *two; /* options that the message names */
	} cases[] = {
		{"pool main.max_size=2", "pool main.min_idle=3", "min_idle", "max_size"},
		{"pool main.keepalive_time=1h", "pool main.max_lifetime=30min", "keepalive_time",
			"max_lifetime"},
		{"pool main.validation_timeout=5s", "pool main.acquire_timeout=2s",
			"validation_timeout", "acquire_timeout"},
		{"pool main.connect_backoff=1min", "pool main.connect_backoff_max=1s",
			"connect_backoff", "connect_backoff_max"},
		{"pool main.guaranteed=11", "pool main.max_size=10", "guaranteed", "max_size"},
		{"server local.health_timeout=0", "pool main.max_size=10", "health_timeout", "50"},
		{"pool main.max_size=0", "pool main.min_idle=0", "max_size", "1"},
		{"pool main.leak_threshold=1ms", "pool main.max_size=10", "leak_threshold", "2"},
		{"pool main.leak_action=kill", "pool main.max_size=10", "leak_action", "rollback"},
		{"pool main.acquire_timeout=5 parsecs", "pool main.max_size=10", "acquire_timeout",
			"parsecs"},
		{"pool main.max_sise=5", "pool main.max_size=10", "max_sise", "max_size"},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		struct broker_proc *p = broker_spawn(SETTINGS("serve", "-d", "postgresql://h/d",
							     "-s", cases[i].a, "-s", cases[i].b),
			true);
		int status = broker_wait(p, LONG_MS);

		ok(WIFEXITED(status) && WEXITSTATUS(status) == 78, "D34: refused: %s, %s",
			cases[i].a, cases[i].b);
		ok(broker_log_count(p, cases[i].one) > 0 && broker_log_count(p, cases[i].two) > 0,
			"D34: naming %s and %s", cases[i].one, cases[i].two);
		(void)broker_free(&p);
	}
}

/* -- 35: counters ------------------------------------------------------------------------------ */

struct books {
	int64_t started, finished, failed;
	int64_t granted, released;
	int64_t created, closed, open;
	int64_t requests, completions;
	int64_t attaches, detaches, evictions, deaths, workers;
};

/* All at one time. */
static struct books look(const struct broker_proc *p)
{
#define POOL(name) behave_find(text, name "{pool=\"main\"}")
#define CONNS(state) behave_find(text, "broker_pool_connections{state=\"" state "\",pool=\"main\"}")
	char *text = behave_look(p);
	struct books b = {
		.started = POOL("broker_statements_started_total"),
		.finished = POOL("broker_statements_finished_total"),
		.failed = POOL("broker_statements_failed_total"),
		.granted = POOL("broker_leases_granted_total"),
		.released = POOL("broker_leases_released_total"),
		.created = POOL("broker_connections_created_total"),
		.closed = POOL("broker_connections_closed_total"),
		.open = CONNS("active") + CONNS("leased") + CONNS("pinned") + CONNS("idle") +
			CONNS("used") + CONNS("tested"),
		.requests = behave_find(text, "broker_requests_total"),
		.completions = behave_find(text, "broker_completions_total"),
		.attaches = behave_find(text, "broker_attaches_total"),
		.detaches = behave_find(text, "broker_detaches_total"),
		.evictions = behave_find(text, "broker_evictions_total"),
		.deaths = behave_find(text, "broker_worker_deaths_total"),
		.workers = behave_find(text, "broker_workers"),
	};

	free(text);
	return b;
#undef POOL
#undef CONNS
}

static unsigned went_back(const struct books *a, const struct books *b)
{
	return (b->started < a->started) + (b->finished < a->finished) + (b->failed < a->failed) +
	       (b->granted < a->granted) + (b->released < a->released) + (b->created < a->created) +
	       (b->closed < a->closed) + (b->requests < a->requests) +
	       (b->completions < a->completions) + (b->attaches < a->attaches) +
	       (b->deaths < a->deaths);
}

struct crowd {
	_Atomic int stop;
	_Atomic uint64_t done;
	uint64_t seed;
};

static int mixed_worker(struct broker *b, void *arg)
{
	static const char *const sql[] = {
		"affect 1", "who", "error 23505", "sleep 30", "rows 2000 100", "dirty", "drop"};
	struct crowd *c = arg;
	struct behave_rng rng = {c->seed ^ (uint64_t)getpid()};

	while (atomic_load(&c->stop) == 0) {
		struct broker_call call = {.timeout_ms = 1 + behave_random(&rng, 400)};
		unsigned what = behave_random(&rng, 6);
		unsigned n = behave_random(&rng, array_size(sql));

		if (what == 0 && broker_lease(b, &call, &call.lease) < 0) {
			continue;
		} else if (what == 1 && broker_begin(b, &call, &call.lease) < 0) {
			continue;
		}
		call.flags = what == 2 ? BROKER_READONLY : 0;
		if (what == 3) {
			uint64_t t = behave_submit(b, &call, sql[n]);

			(void)!broker_cancel(b, t);
			(void)!broker_collect(b, t, -1, NULL, NULL);
		} else {
			(void)!behave_run(b, &call, sql[n]);
		}
		if (what == 1 && behave_random(&rng, 2) == 0) {
			(void)!broker_commit(&call.lease, 0);
		}
		broker_rollback(&call.lease);
		atomic_fetch_add(&c->done, 1);
	}
	return 0;
}

static void balance(const struct broker_proc *p)
{
	struct books b;

	ok(wait_until(behave_metric(p, "broker_statements_in_flight", "") == 0 &&
			      behave_metric(p, "broker_leases_active", "") == 0 &&
			      broker_metric(p, "broker_workers") == 1 &&
			      behave_conns(p, "idle") == 4,
		   LONG_MS),
		"E35: all is quiet");
	b = look(p);
	is_int(b.started, b.finished + b.failed, "E35: statements: started = finished + failed");
	is_int(b.granted, b.released, "E35: leases: granted = released");
	is_int(b.created, b.closed + b.open, "E35: connections: created = closed + open");
	is_int(b.attaches, b.detaches + b.evictions + b.deaths + b.workers,
		"E35: workers: attached = detached + died + there");
	ok(wait_until(broker_metric(p, "broker_request_memory_bytes") == 0, LONG_MS),
		"E35: no memory is held for requests");
}

static void test_35_books(void)
{
	struct behave t = behave_start("connect_ms=2&reset_ms=1", SETTINGS("pool main.max_size=4"));
	struct crowd *c = behave_share(sizeof(*c));
	unsigned rounds = stage_quick() ? 8 : 40, back = 0;
	struct books last = look(t.proc);
	pid_t pid[12];

	c->seed = behave_seed("E35").state;
	for (unsigned i = 0; i < array_size(pid); i++) {
		pid[i] = behave_worker(t.proc, mixed_worker, c);
	}
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t before = atomic_load(&c->done);
		unsigned i = round % array_size(pid);
		struct books now;

		(void)wait_until(atomic_load(&c->done) > before + 20, LONG_MS);
		kill(pid[i], SIGKILL);
		(void)behave_ended(pid[i], LONG_MS);
		pid[i] = behave_worker(t.proc, mixed_worker, c);
		now = look(t.proc);
		back += went_back(&last, &now);
		last = now;
	}
	atomic_store(&c->stop, 1);
	for (unsigned i = 0; i < array_size(pid); i++) {
		(void)behave_ended(pid[i], LONG_MS);
	}
	is_int(back, 0, "E35: no counter ever goes back, in %u looks", rounds);
	balance(t.proc);
	behave_unshare(c, sizeof(*c));
	behave_end(&t);
}

/* -- 36: leaks --------------------------------------------------------------------------------- */

static bool event_told(const struct broker_proc *p, const char *text)
{
	const char *argv[] = {getenv("BROKERSTAT_BIN"), "-e", "-n", broker_socket(p), NULL};
	char *events = spawn_output(argv, NULL, NULL);
	bool found = strstr(events, text) != NULL;

	free(events);
	return found;
}

static void test_36_leak(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=3", "pool main.leak_threshold=2s"));
	struct broker_call tagged = {.tag = "/cart"}, in = {0};
	struct broker_lease *busy = NULL;
	char owner[64];
	struct broker_call works = {0};
	uint64_t ticket[2];
	int64_t start;
	int rc = broker_begin(t.b, NULL, &busy);

	works.lease = busy;
	for (unsigned i = 0; i < array_size(ticket); i++) { /* no rest between them */
		ticket[i] = behave_submit(t.b, &works, "sleep 2600");
	}
	snprintf(owner, sizeof(owner), "worker %d tag /cart", (int)getpid());
	in.lease = behave_hold(t.b, &tagged, "affect 36");
	start = wait_clock_ms();
	rc = rc == 0 ? broker_collect(t.b, ticket[0], LONG_MS, NULL, NULL) : rc;
	is_int(rc, 0, "E36: a transaction works for 2.6 s, a lease rests");
	ok(wait_until(broker_log_count(t.proc, "leak_threshold") > 0, LONG_MS) &&
			behave_since(start) >= 2000,
		"E36: that one is reported after leak_threshold (%lld ms)",
		(long long)behave_since(start));
	ok(broker_log_count(t.proc, owner) == 1, "E36: with its owner and tag: %s", owner);
	ok(broker_log_count(t.proc, "affect 36") == 1, "E36: and what it did last");
	ok(event_told(t.proc, owner), "E36: brokerstat shows it");
	is_int(broker_collect(t.b, ticket[1], LONG_MS, NULL, NULL), 0,
		"E36: the transaction goes on");
	is_int(broker_log_count(t.proc, "leak_threshold"), 1,
		"E36: once, and the transaction that works is none");
	is_int(behave_metric(t.proc, "broker_leak_warnings_total", ""), 1, "E36: it was counted");
	is_int(behave_run(t.b, &in, "affect 1"), 0, "E36: it may go on");
	broker_release(&in.lease);
	ok(wait_until(broker_log_count(t.proc, "given back after") == 1, LONG_MS),
		"E36: when it comes back after all, that is said as well");
	broker_rollback(&busy);
	behave_end(&t);
}

/* Taken away: its worker is told with its next call. */
static void test_36_taken(const char *setting, const char *name, const char *sqlstate)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=1", setting, "pool main.leak_action=rollback"));
	struct broker *other = behave_attach(t.proc);
	struct broker_call in = {0};
	int rc = broker_begin(t.b, NULL, &in.lease);

	rc = rc == 0 ? behave_run(t.b, &in, "set 42") : rc;
	is_int(rc, 0, "E36: a transaction is left alone");
	is_int(behave_int(other, NULL, "get", 0), 0, "E36: %s: it is taken away, for the next",
		name);
	is_int(behave_run(t.b, &in, "affect 1"), BROKER_E_TX_ABORTED, "E36: %s: its worker is told",
		name);
	ok(strstr(broker_error(t.b)->message, name) != NULL && broker_error(t.b)->retry_safe &&
			strcmp(broker_error(t.b)->sqlstate, sqlstate) == 0,
		"E36: why: %s", broker_error(t.b)->message);
	is_int(broker_commit(&in.lease, 0), BROKER_E_TX_ABORTED, "E36: %s: it cannot commit", name);
	is_int(broker_error(t.b)->outcome, BROKER_NOT_DONE, "E36: %s: nothing was done", name);
	is_int(behave_run(t.b, NULL, "affect 1"), 0, "E36: %s: the worker goes on", name);
	broker_detach(&other);
	behave_end(&t);
}

/* -- 37: secrets ------------------------------------------------------------------------------- */

#define SECRET "hush-hush-37"

static bool file_has(const char *path, const char *text)
{
	size_t n = strlen(text), len;
	static char buf[1 << 22];
	FILE *f = fopen(path, "re");

	if (f == NULL) {
		return false;
	}
	len = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	for (size_t i = 0; i + n <= len; i++) {
		if (memcmp(buf + i, text, n) == 0) {
			return true;
		}
	}
	return false;
}

static void nothing_told(const struct broker_proc *p, const char *when)
{
	static const char *const views[] = {"-1", "-j", "-p", "-S", "-L", "-T", "-e", "-1sd"};
	const char *files[] = {".board", ".slow"};

	is_int(broker_log_count(p, SECRET), 0, "E37: %s: no password in the log", when);
	for (unsigned i = 0; i < array_size(files); i++) {
		char *path = scratch_format("%s%s", broker_socket(p), files[i]);

		ok(access(path, R_OK) == 0 && !file_has(path, SECRET), "E37: %s: nor in %s", when,
			files[i]);
		free(path);
	}
	for (unsigned i = 0; i < array_size(views); i++) {
		const char *argv[] = {
			getenv("BROKERSTAT_BIN"), views[i], "-n", broker_socket(p), NULL};
		int status;
		char *text = spawn_output(argv, NULL, &status);

		ok(WIFEXITED(status) && WEXITSTATUS(status) == 0 && strstr(text, SECRET) == NULL,
			"E37: %s: nor does brokerstat %s tell it", when, views[i]);
		free(text);
	}
}

/* Trust lets every password in; the role does not exist the second time, the server the third. */
static void test_37_secrets(struct pg_cluster *pg)
{
	char *good = scratch_format("host=%s user=postgres password=" SECRET, pg_host(pg));
	char *bad = scratch_format("postgresql://wrong:" SECRET "@/postgres?host=%s", pg_host(pg));
	const char *setting = "pool main.password=" SECRET;
	struct broker_proc *p = broker_start(good, SETTINGS(setting, "broker.log_level=debug"));
	struct broker *b = behave_attach(p);

	ok(behave_run(b, NULL, "SELEC 1") < 0, "E37: a statement fails");
	ok(strstr(broker_error(b)->message, SECRET) == NULL, "E37: without telling the password");
	pg_do(pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
		  "'shmbroker'");
	ok(wait_until(broker_log_count(p, "terminating connection") > 0, LONG_MS),
		"E37: connections end");
	nothing_told(p, "connected");
	broker_detach(&b);
	(void)broker_free(&p);
	p = broker_spawn(SETTINGS("serve", "-d", bad, "-s", setting, "-s",
				 "pool main.init_fail_timeout=0", "-v"),
		true);
	ok(broker_ready(p, LONG_MS), "E37: a broker that cannot connect");
	ok(wait_until(broker_log_count(p, "\"wrong\" does not exist") > 0, LONG_MS),
		"E37: says why");
	b = behave_attach(p);
	ok(behave_run(b, &(struct broker_call){.timeout_ms = 100}, "SELECT 1") < 0 &&
			strstr(broker_error(b)->message, SECRET) == NULL,
		"E37: to workers too");
	nothing_told(p, "not connected");
	broker_detach(&b);
	(void)broker_free(&p);
	free(good);
	free(bad);
}

int main(void)
{
	struct pg_cluster *pg;

	fails_fast("fake:?fail=28P01", "the fake server refuses");
	fails_fast("fake:?fail=28000", "the fake server refuses");
	fails_fast("fake:?fail=3D000", "the fake server refuses");
	fails_fast("sqlite:/nowhere/at/all", "/nowhere/at/all");
	gives_up("fake:?refuse=1", "the fake server refuses");
	gives_up("fake:?fail=57P03", "the fake server refuses");
	gives_up("fake:?hang=1", "no answer");
	test_31_comes_up_late();
	test_31_stop_while_starting("fake:?refuse=1");
	test_31_stop_while_starting("fake:?hang=1");
	test_31_start_anyway();
	test_31_min_idle_0();
	test_32_drain();
	test_32_abort("broker.shutdown_grace=300ms", false);
	test_32_abort("broker.shutdown_grace=10min", true);
	test_34_contradictions();
	test_35_books();
	test_36_leak();
	test_36_taken("pool main.leak_threshold=2s", "leak_threshold", "");
	test_36_taken("pool main.idle_tx_timeout=400ms", "idle_tx_timeout", "25P03");
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	pg = pg_start(NULL);
	test_32_server_side(pg);
	test_37_secrets(pg);
	pg_remove(&pg);
	return done_testing();
}
