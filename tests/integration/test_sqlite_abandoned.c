/* SPDX-License-Identifier: MIT */
/*
 * test_sqlite_abandoned.c - a worker dies and leaves many writes in flight on its lease of SQLite's
 * writer: the one that runs is stopped, and none of those behind it is done.
 */
#include "behave.h"
#include "brokerproc.h"
#include "tap.h"
#include "wait.h"

#include <signal.h>
#include <unistd.h>

#define BEHIND 50
#define LONG_MS 60000

static int leave(struct broker *b, void *arg)
{
	struct broker_call in = {.lease = behave_hold(b, NULL, "INSERT INTO kept VALUES (1)")};

	(void)arg;
	behave_submit(b, &in,
		"INSERT INTO kept WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c "
		"LIMIT 1000000000) SELECT x FROM c");
	for (unsigned i = 0; i < BEHIND; i++) {
		behave_submit(b, &in, "INSERT INTO kept VALUES (2)");
	}
	for (;;) {
		pause();
	}
	return 0;
}

int main(void)
{
	struct broker_proc *p = broker_start(NULL, NULL);
	struct broker *b = behave_attach(p);
	struct broker_call soon = {.timeout_ms = LONG_MS};
	pid_t pid;

	is_int(broker_exec(b, "CREATE TABLE kept(x integer)", 0, NULL, NULL, NULL), 0, "a table");
	pid = behave_worker(p, leave, NULL);
	ok(wait_until(behave_metric(p, "broker_statements_in_flight", "") == BEHIND + 1, LONG_MS),
		"a long write and many behind it are in flight");
	kill(pid, SIGKILL);
	spawn_wait(pid, LONG_MS, NULL);
	is_int(broker_exec(b, "INSERT INTO kept VALUES (3)", 0, NULL, &soon, NULL), 0,
		"their worker dies, and others may write");
	is_int(behave_int(b, NULL, "SELECT count(*) FROM kept WHERE x = 2", 0), 0,
		"nothing was done behind it");
	is_int(behave_int(b, NULL, "SELECT count(*) FROM kept", 0), 2,
		"what was answered, and what came after");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	return done_testing();
}
