/* SPDX-License-Identifier: MIT */
/*
 * test_reload_edges.c - what a reload must not do: lose a database in memory, keep old time-outs,
 * or promise connections that nobody gets.
 */
#include "behave.h"
#include "pg_case.h"

#include <signal.h>
#include <stdatomic.h>

#define PATIENCE_MS 60000

static struct broker_proc *proc;
static char *file;

static void configure(const char *fmt, ...)
{
	FILE *f = fopen(file, "w");
	va_list ap;

	if (f == NULL) {
		bail_out("cannot write %s", file);
	}
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fclose(f);
}

/* Start with the configuration that was written. */
static struct broker *start(void)
{
	const char *args[] = {"serve", "-c", file, NULL};

	proc = broker_spawn(args, true);
	if (!broker_ready(proc, PATIENCE_MS)) {
		bail_out("the broker does not start");
	}
	return case_attach(proc);
}

static void end(struct broker **b)
{
	broker_detach(b);
	is_int(broker_free(&proc), 0, "the broker ends well");
}

/* Send SIGHUP and wait until it is done. */
static bool reload(void)
{
	unsigned before = broker_log_count(proc, "reload: done");

	kill(broker_pid(proc), SIGHUP);
	return wait_until(broker_log_count(proc, "reload: done") == before + 1, PATIENCE_MS);
}

/* It lives in its connections: others would have another one. */
static void test_database_in_memory(void)
{
	static const char text[] = "[server db]\nurl = sqlite::memory:\nconnect_timeout = %ds\n"
				   "[pool main]\nservers = db\nmax_prepared = %d\n";
	struct broker *b;

	configure(text, 5, 100);
	b = start();
	is_int(behave_run(b, NULL, "CREATE TABLE t (i integer)"), 0, "a table in memory");
	is_int(behave_run(b, NULL, "INSERT INTO t VALUES (7)"), 0, "has a row");
	configure(text, 6, 50);
	ok(reload(), "reload of what a connection begins with");
	is_str(case_text(b, NULL, "SELECT i FROM t", 0, NULL), "7", "the row is still there");
	end(&b);
}

/* Those who come later do not wait for the end of those who came before. */
static void test_shorter_patience(void)
{
	static const char text[] = "[server db]\nurl = fake:\n[pool main]\nservers = db\n"
				   "max_size = 1\nacquire_timeout = %dms\n";
	struct broker_lease *l;
	struct broker *b;
	uint64_t early, late;
	int64_t since;

	configure(text, 60000);
	b = start();
	l = behave_hold(b, NULL, "who");
	early = behave_submit(b, NULL, "who");
	ok(wait_until(behave_waiting(proc) == 1, PATIENCE_MS), "somebody waits for a minute");
	configure(text, 300);
	ok(reload(), "a shorter acquire_timeout");
	since = wait_clock_ms();
	late = behave_submit(b, NULL, "who");
	is_int(broker_collect(b, late, -1, NULL, NULL), BROKER_E_TIMEOUT, "bounds who comes now");
	ok(behave_since(since) < 300 + WAIT_NOISE_MS, "in time");
	broker_release(&l);
	is_int(broker_collect(b, early, -1, NULL, NULL), 0, "the first still had time");
	end(&b);
}

static _Atomic int *stop;

static int busy_worker(struct broker *b, void *arg)
{
	while (atomic_load(stop) == 0) {
		if (behave_run(b, arg, "sleep 5") < 0) {
			return 1;
		}
	}
	return 0;
}

/* The other pool is never idle, and somebody always waits there. */
static void test_guarantee_made_later(void)
{
	static const char text[] =
		"[server db]\nurl = fake:\nmax_connections = 2\n"
		"[pool main]\nservers = db\nmax_size = 2\n"
		"acquire_timeout = 60s\n[pool second]\nservers = db\n"
		"max_size = 2\nmin_idle = 0\ninit_fail_timeout = 0\nguaranteed = %d\n";
	struct broker_call second = {.pool = "second", .timeout_ms = 30000};
	struct broker *b;
	pid_t pid[8];

	stop = behave_share(sizeof(*stop));
	configure(text, 0);
	b = start();
	ok(wait_until(behave_conns(proc, "idle") == 2, PATIENCE_MS),
		"one pool has all connections");
	for (unsigned i = 0; i < 8; i++) {
		pid[i] = behave_worker(proc, busy_worker, NULL);
	}
	ok(wait_until(behave_waiting(proc) > 4, PATIENCE_MS), "and uses them");
	configure(text, 1);
	ok(reload(), "one is guaranteed to another pool");
	is_int(behave_run(b, &second, "who"), 0, "which gets it");
	atomic_store(stop, 1);
	for (unsigned i = 0; i < 8; i++) {
		is_int(behave_ended(pid[i], PATIENCE_MS), 0, "worker %u is served as before", i);
	}
	end(&b);
	behave_unshare((void *)stop, sizeof(*stop));
}

int main(void)
{
	file = scratch_path("reload.ini");
	test_database_in_memory();
	test_shorter_patience();
	test_guarantee_made_later();
	free(file);
	return done_testing();
}
