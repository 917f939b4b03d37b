/* SPDX-License-Identifier: MIT */
/*
 * test_pg_abandoned.c - a worker dies and leaves many statements in flight on its lease, each its
 * own transaction: what runs is ended, nothing of what was sent behind it is done, and the
 * connection's place is free again, all of it soon.  Over a Unix socket, over TCP, and with a
 * server that had not looked at what it was sent when the cancel came.
 */
#include "behave.h"
#include "check.h"
#include "pg_case.h"

#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#define STATEMENTS 20u
#define LONG_MS 30000
/* Cancelled one by one, ten times a second, they take twice as long; a loaded machine does not. */
#define SOON_MS 5000

static struct pg_cluster *pg;

#define OURS "application_name = 'shmbroker' AND backend_type = 'client backend'"

static bool runs(const char *query)
{
	return pg_int(pg,
		       "SELECT count(*) FROM pg_stat_activity WHERE " OURS
		       " AND state = 'active' AND query LIKE '%s%%'",
		       query) > 0;
}

static bool in_flight(struct broker_proc *p, int64_t n)
{
	return wait_until(behave_metric(p, "broker_statements_in_flight", "") == n, LONG_MS);
}

/* What the worker does in its lease. */
struct script {
	const char *first, *then; /* by turns; first NULL: waits for go, between two statements */
	unsigned n;
	_Atomic int ready, go;
	_Atomic int backend;
};

static int leave(struct broker *b, void *arg)
{
	struct script *s = arg;
	struct broker_call in = {.lease = behave_hold(b, NULL, "SELECT 1")};

	s->backend = (int)behave_int(b, &in, "SELECT pg_backend_pid()", 0);
	s->ready = 1;
	while (s->go == 0) {
		wait_pause();
	}
	for (unsigned i = 0; i < s->n; i++) {
		behave_submit(b, &in, i % 2 == 0 ? s->first : s->then);
	}
	for (;;) {
		pause();
	}
	return 0;
}

static struct script *script(const char *first, const char *then, unsigned n)
{
	struct script *s = behave_share(sizeof(*s));

	s->first = first;
	s->then = then;
	s->n = n;
	return s;
}

static pid_t start(struct broker_proc *p, struct script *s)
{
	pid_t pid = behave_worker(p, leave, s);

	ok(wait_until(s->ready == 1, LONG_MS), "a worker has a lease");
	return pid;
}

static void kill_worker(pid_t pid)
{
	kill(pid, SIGKILL);
	spawn_wait(pid, LONG_MS, NULL);
}

/* The place of the connection is free, and what comes next is served. */
static void check_free(struct broker_proc *p, const char *how)
{
	struct broker *b = behave_attach(p);
	struct broker_call soon = {.timeout_ms = SOON_MS};

	is_str(case_text(b, &soon, "SELECT 'served'", 0, NULL), "served",
		"%s: the next one is served", how);
	ok(wait_until(behave_conns(p, "idle") == 1, LONG_MS), "%s: the pool is full again", how);
	is_int(behave_metric(p, "broker_leases_active", ""), 0, "%s: no lease is left", how);
	broker_detach(&b);
}

static void test_left(struct broker_proc *p, const char *how, const char *first, const char *then)
{
	struct script *s = script(first, then, STATEMENTS);
	pid_t pid = start(p, s);

	pg_do(pg, "TRUNCATE kept");
	s->go = 1;
	ok(in_flight(p, STATEMENTS) && wait_until(runs(first), LONG_MS),
		"%s: many statements are in flight, and the first runs", how);
	kill_worker(pid);
	ok(wait_until(pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE pid = %d",
			      s->backend) == 0,
		   SOON_MS),
		"%s: it dies, and soon its backend has ended", how);
	is_int(pg_int(pg, "SELECT count(*) FROM kept"), 0, "%s: nothing was done behind it", how);
	check_free(p, how);
	behave_unshare(s, sizeof(*s));
}

/* One statement: its connection stays. */
static void test_one(struct broker_proc *p)
{
	struct script *s = script("SELECT pg_sleep(60)", NULL, 1);
	pid_t pid = start(p, s);
	int64_t closed = behave_closed(p);

	s->go = 1;
	ok(in_flight(p, 1) && wait_until(runs("SELECT pg_sleep"), LONG_MS), "one statement runs");
	kill_worker(pid);
	ok(wait_until(!runs("SELECT pg_sleep"), SOON_MS), "it ends with its worker");
	check_free(p, "one statement");
	is_int(behave_closed(p) - closed, 0, "its connection was not closed");
	behave_unshare(s, sizeof(*s));
}

/*
 * The backend stands still while it is sent the statements and, once they were left, the cancel:
 * which it finds first when it goes on, and drops.  True: it went on before the second one was due.
 */
static bool cancel_is_early(struct broker_proc *p)
{
	struct script *s = script("SELECT pg_sleep(60)", "INSERT INTO kept VALUES (1)", 2);
	pid_t pid = start(p, s);
	int64_t closed = behave_closed(p), from;
	bool in_time;

	spawn_pause(s->backend);
	s->go = 1;
	ok(in_flight(p, 2), "statements are sent to a backend that stands still");
	from = wait_clock_ms();
	kill(pid, SIGKILL);
	ok(wait_until(behave_closed(p) > closed, LONG_MS), "their worker dies");
	wait_pause(); /* the first cancel takes a moment; if it comes later there is nothing to see
		       */
	spawn_resume(s->backend);
	in_time = behave_since(from) < 100;
	spawn_wait(pid, LONG_MS, NULL);
	ok(wait_until(pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE pid = %d",
			      s->backend) == 0,
		   SOON_MS) ||
			!in_time,
		"the backend ends");
	pg_do(pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %d",
		s->backend);
	is_int(pg_int(pg, "SELECT count(*) FROM kept"), 0, "without having done anything");
	behave_unshare(s, sizeof(*s));
	return in_time;
}

static void test_early_cancel(struct broker_proc *p)
{
	unsigned seen = 0;

	pg_do(pg, "TRUNCATE kept");
	for (unsigned i = 0; i < 10 && seen < 3; i++) {
		seen += cancel_is_early(p);
	}
	diag("%u times in time", seen);
	check_free(p, "a cancel that comes too early");
}

static struct broker_proc *start_broker(const char *url)
{
	return broker_start(url, SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=30s"));
}

/* A loopback address of our own, so that the default port is free. */
static char *own_address(void)
{
	int pid = (int)getpid();

	return scratch_format(
		"127.%d.%d.%d", 1 + pid / 65536 % 200, pid / 256 % 256, pid % 254 + 1);
}

int main(void)
{
	char *address, *listen, *url;
	struct broker_proc *p;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	address = own_address();
	listen = scratch_format("listen_addresses=%s", address);
	pg = pg_start(SETTINGS(listen));
	pg_do(pg, "CREATE TABLE kept (a int)");

	p = start_broker(pg_url(pg));
	test_left(p, "long ones", "SELECT pg_sleep(60)", "SELECT pg_sleep(59)");
	test_left(p, "writes behind a long one", "SELECT pg_sleep(60)",
		"INSERT INTO kept VALUES (1)");
	test_one(p);
	test_early_cancel(p);
	is_int(broker_free(&p), 0, "the broker ends well");

	url = scratch_format("postgresql://postgres@%s/postgres", address);
	p = start_broker(url);
	test_left(p, "over TCP", "SELECT pg_sleep(60)", "INSERT INTO kept VALUES (1)");
	is_int(broker_free(&p), 0, "the broker ends well");

	pg_remove(&pg);
	free(url);
	free(listen);
	free(address);
	return done_testing();
}
