/* SPDX-License-Identifier: MIT */
/*
 * test_reload.c - SIGHUP to a broker at work: what changes at once, what goes on undisturbed, and
 * what is said about the rest.
 */
#include "behave.h"
#include "pg_case.h"

#include <signal.h>

#define PATIENCE_MS 60000

static struct pg_cluster *pg;
static struct broker_proc *proc;
static struct broker *b;
static char *file;

/* The configuration: `broker` of [broker], `pool` of [pool main] and whatever follows. */
static void configure(const char *broker, const char *server, const char *pool)
{
	FILE *f = fopen(file, "w");

	if (f == NULL) {
		bail_out("cannot write %s", file);
	}
	fprintf(f, "[broker]\n%s\n[server %s]\nurl = %s\n[pool main]\nservers = %s\n%s\n", broker,
		server, pg_url(pg), server, pool);
	fclose(f);
}

/* Send SIGHUP and wait for the verdict: "done" or "nothing was changed". */
static bool reload(const char *verdict)
{
	char text[64];
	unsigned before;

	snprintf(text, sizeof(text), "reload: %s", verdict);
	before = broker_log_count(proc, text);
	kill(broker_pid(proc), SIGHUP);
	return wait_until(broker_log_count(proc, text) == before + 1, PATIENCE_MS);
}

static void test_sizes(void)
{
	ok(wait_until(behave_conns(proc, "idle") == 2, PATIENCE_MS), "two connections");
	configure("", "db", "user = app\nmax_size = 5");
	ok(reload("done"), "a larger pool");
	ok(wait_until(behave_conns(proc, "idle") == 5, PATIENCE_MS), "has more, without traffic");
	configure("", "db", "user = app\nmax_size = 1");
	ok(reload("done"), "a smaller pool");
	ok(wait_until(behave_conns(proc, "idle") == 1, PATIENCE_MS), "has fewer");
	is_str(case_text(b, NULL, "SELECT 1", 0, NULL), "1", "and serves");
}

/* A lease on a connection that is too many ends when its holder wants. */
static void test_shrink_around_leases(void)
{
	struct broker_lease *l[3];

	configure("", "db", "user = app\nmax_size = 3");
	ok(reload("done") && wait_until(behave_conns(proc, "idle") == 3, PATIENCE_MS), "three");
	for (unsigned i = 0; i < 3; i++) {
		l[i] = behave_hold(b, NULL, "CREATE TEMP TABLE mine (i int)");
	}
	configure("", "db", "user = app\nmax_size = 1");
	ok(reload("done"), "shrinks to one while three are leased");
	for (unsigned i = 0; i < 3; i++) {
		struct broker_call in = {.lease = l[i]};

		is_int(behave_run(b, &in, "INSERT INTO mine VALUES (1)"), 0, "lease %u goes on", i);
		broker_release(&l[i]);
	}
	ok(wait_until(behave_conns(proc, "idle") == 1, PATIENCE_MS), "then one is left");
}

static void test_mistake(void)
{
	configure("", "db", "user = app\nmax_size = many");
	ok(reload("nothing was changed"), "a bad file");
	is_int(broker_log_count(proc, "max_size: 'many' is not a whole number"), 1, "says why");
	is_str(case_text(b, NULL, "SELECT current_user", 0, NULL), "app", "and changes nothing");
	unlink(file);
	ok(reload("nothing was changed"), "a file that is gone");
	ok(broker_log_count(proc, "cannot read the configuration file") == 1, "is a mistake");
}

static void test_credentials(void)
{
	struct broker_lease *l;
	struct broker_call in;
	uint64_t slow;

	configure("", "db", "user = app\nmax_size = 2");
	ok(reload("done") && wait_until(behave_conns(proc, "idle") == 2, PATIENCE_MS), "user app");
	if (broker_begin(b, NULL, &l) < 0) {
		bail_out("%s", broker_error(b)->message);
	}
	in = (struct broker_call){.lease = l};
	is_str(case_text(b, &in, "SELECT current_user", 0, NULL), "app", "in a transaction");
	slow = behave_submit(b, NULL, "SELECT pg_sleep(1)");
	configure("", "db", "user = other\nmax_size = 2");
	ok(reload("done"), "another user");
	is_str(case_text(b, NULL, "SELECT current_user", 0, NULL), "other", "is used at once");
	is_str(case_text(b, &in, "SELECT current_user", 0, NULL), "app", "beside the old one");
	is_int(broker_commit(&l, 0), 0, "whose transaction commits");
	is_int(broker_collect(b, slow, -1, NULL, NULL), 0, "and whose statement ends well");
	ok(wait_until(pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'") ==
			      0,
		   PATIENCE_MS),
		"then its connections are closed");
}

static void test_servers(void)
{
	struct broker_result *r;

	ok(broker_exec(b, "SELECT 1", 0, NULL, NULL, &r) == 0, "a result from one server");
	is_str(broker_last_server(b), "db", "which has a name");
	configure("", "moved", "user = other");
	ok(reload("done"), "another server");
	is_int(behave_run(b, NULL, "SELECT 1"), 0, "serves at once");
	is_str(broker_last_server(b), "moved", "under its own name");
	is_str(broker_server(r), "db", "the old result keeps the old name");
	broker_result_free(&r);
	ok(broker_log_count(proc, "server db: removed") == 1, "the log tells what changed");
}

static void test_pools(void)
{
	struct broker_call second = {.pool = "second"};

	is_int(behave_run(b, &second, "SELECT 1"), BROKER_E_ARGUMENT, "no second pool yet");
	configure("", "moved", "user = other\n[pool second]\nservers = moved\nuser = app");
	ok(reload("done"), "a new pool");
	is_str(case_text(b, &second, "SELECT current_user", 0, NULL), "app",
		"is there for workers that are attached");
	configure("", "moved", "user = other");
	ok(reload("done"), "a pool that goes");
	is_int(broker_log_count(proc, "pool second: removing a pool needs a restart"), 1,
		"stays, and the log says so");
	is_int(behave_run(b, &second, "SELECT 1"), 0, "and serves");
}

static void test_restart_needed(void)
{
	configure("max_workers = 3\nlog_level = debug", "moved", "user = other");
	ok(reload("done"), "a change that needs a restart, and one that does not");
	is_int(broker_log_count(
		       proc, "[broker] max_workers: a change needs a restart; it stays 1024"),
		1, "are told apart");
	configure("log_level = info", "moved", "user = other");
	ok(reload("done"), "and back");
}

int main(void)
{
	const char *args[] = {"serve", "-c", NULL, NULL};

	if (!pg_available()) {
		skip("no PostgreSQL here");
		return done_testing();
	}
	pg = pg_start(NULL);
	pg_do(pg, "CREATE ROLE app LOGIN");
	pg_do(pg, "CREATE ROLE other LOGIN");
	file = scratch_path("reload.ini");
	args[2] = file;
	configure("", "db", "user = app\nmax_size = 2");
	proc = broker_spawn(args, true);
	if (!broker_ready(proc, PATIENCE_MS)) {
		bail_out("the broker does not start");
	}
	b = case_attach(proc);
	test_sizes();
	test_shrink_around_leases();
	test_mistake();
	test_credentials();
	test_servers();
	test_pools();
	test_restart_needed();
	broker_detach(&b);
	is_int(broker_free(&proc), 0, "the broker ends well");
	pg_remove(&pg);
	free(file);
	return done_testing();
}
