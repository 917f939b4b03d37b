/* SPDX-License-Identifier: MIT */
/*
 * test_reload_edges.c - what a reload must not do: lose a database in memory, open a file of SQLite
 * twice, leave connections of old credentials out of failover, keep old time-outs.
 */
#include "behave.h"
#include "pg_case.h"

#include <signal.h>

#define PATIENCE_MS 15000

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

int main(void)
{
	file = scratch_path("reload.ini");
	test_database_in_memory();
	free(file);
	return done_testing();
}
