/* SPDX-License-Identifier: MIT */
/*
 * test_broker_death.c - what workers and brokerstat see when the broker is killed or stands still.
 *
 * Killed under `broker run`: every statement in flight ends with one error that says what is known
 * of it, and the next call finds the broker's successor by itself.  Stopped: calls end with their
 * deadline, what was reported as not done is never done, and work goes on afterwards.
 */
#include "brokerproc.h"
#include "pg.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define LONG_ROWS                                                                                  \
	"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000000) "     \
	"SELECT count(*) FROM c"
#define LONG_WRITE "INSERT INTO death (a) " LONG_ROWS
#define LATE_MS 500 /* after its deadline, a call is back by then */
#define SHORT_MS 4000 /* a deadline; until then the test sees that they run, and stops the broker */
#define MANY 100

static const struct broker_call reading = {.flags = BROKER_READONLY};

/* -- helpers ----------------------------------------------------------------------------------- */

static struct broker *attach(struct broker_proc *p)
{
	struct broker_options opt = {.path = broker_socket(p), .timeout_ms = 60000};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static int run(struct broker *b, const struct broker_call *call, const char *sql)
{
	return broker_exec(b, sql, 0, NULL, call, NULL);
}

static uint64_t submit(struct broker *b, const struct broker_call *call, const char *sql)
{
	uint64_t ticket;

	if (broker_submit(b, sql, 0, NULL, call, &ticket) < 0) {
		bail_out("%s: %s", sql, broker_error(b)->message);
	}
	return ticket;
}

static void must_run(struct broker *b, const struct broker_call *call, const char *sql)
{
	if (run(b, call, sql) < 0) {
		bail_out("%s: %s", sql, broker_error(b)->message);
	}
}

static int64_t rows(struct broker *b, const char *where)
{
	struct broker_result *r;
	char sql[128];
	int64_t n = -1;

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM death WHERE %s", where);
	if (broker_exec(b, sql, 0, NULL, &reading, &r) < 0) {
		diag("%s: %s", sql, broker_error(b)->message);
		return -1;
	}
	if (broker_next(r) == 1 && broker_get_int64(r, 0, &n) < 0) {
		n = -1;
	}
	broker_result_free(&r);
	return n;
}

static char *stat_text(struct broker_proc *p, int *status)
{
	const char *argv[] = {getenv("BROKERSTAT_BIN"), "-1", "-n", broker_socket(p), NULL};

	return spawn_output(argv, NULL, status);
}

static int64_t metric(struct broker_proc *p, const char *name)
{
	char *text = stat_text(p, NULL);
	const char *at = strstr(text, name);
	int64_t v;

	at = at != NULL ? strchr(at, ' ') : NULL;
	v = at != NULL ? atoll(at) : -1;
	free(text);
	return v;
}

static void wait_in_flight(struct broker_proc *p, int64_t n)
{
	if (!wait_until(metric(p, "broker_statements_in_flight{") == n, 60000)) {
		bail_out("%lld statements do not get in flight", (long long)n);
	}
}

/* The broker under a supervisor: the child that is not the command. */
static pid_t broker_of(struct broker_proc *supervisor)
{
	pid_t pids[8];
	unsigned n = spawn_children(broker_pid(supervisor), pids, 8);

	for (unsigned i = 0; i < n; i++) {
		char path[64], name[64] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/comm", (int)pids[i]);
		f = fopen(path, "re");
		if (f != NULL && fgets(name, sizeof(name), f) != NULL &&
			strncmp(name, "sleep", 5) != 0) {
			fclose(f);
			return pids[i];
		}
		if (f != NULL) {
			fclose(f);
		}
	}
	return 0;
}

/* -- killed ------------------------------------------------------------------------------------ */

/* One error, that of the statement, and not twice. */
static void check_end(struct broker *b, uint64_t ticket, int code, enum broker_outcome outcome,
	bool retry, const char *what)
{
	int rc = broker_collect(b, ticket, -1, NULL, NULL);
	const struct broker_error *e = broker_error(b);
	bool good = rc == code && e->outcome == outcome && e->retry_safe == retry;

	if (!ok(good, "%s: %s, %s, %s", what, broker_strerror(code),
		    outcome == BROKER_UNKNOWN ? "outcome unknown" : "not done",
		    retry ? "safe to repeat" : "not to be repeated blindly")) {
		diag("  %d %s, outcome %d, retry %d", rc, e->message, e->outcome, e->retry_safe);
	}
	is_int(broker_collect(b, ticket, -1, NULL, NULL), BROKER_E_ARGUMENT, "%s: only once", what);
}

/* Stop it, so that what is published now is not taken; then kill. */
static void kill_broker(struct broker_proc *p, struct broker *b, uint64_t *not_taken)
{
	pid_t pid = broker_of(p);

	if (pid == 0) {
		bail_out("the supervisor has no broker");
	}
	spawn_pause(pid);
	*not_taken = submit(b, NULL, "INSERT INTO death (a) VALUES (-2)");
	(void)kill(pid, SIGKILL);
	if (!wait_until(broker_of(p) != pid && broker_of(p) != 0 && broker_ready(p, 0), 60000)) {
		bail_out("the supervisor starts no other broker");
	}
}

static void kill_with_statements(struct broker_proc *p)
{
	struct broker *b[4];
	uint64_t write, read, several[3], not_taken;

	for (int i = 0; i < 4; i++) {
		b[i] = attach(p);
	}
	write = submit(b[0], NULL, LONG_WRITE);
	read = submit(b[1], &reading, LONG_ROWS);
	for (int i = 0; i < 3; i++) {
		several[i] = submit(b[2], &reading, LONG_ROWS);
	}
	wait_in_flight(p, 5);
	kill_broker(p, b[3], &not_taken);
	check_end(b[0], write, BROKER_E_LOST, BROKER_UNKNOWN, false, "write in flight");
	check_end(b[1], read, BROKER_E_LOST, BROKER_NOT_DONE, true, "read in flight");
	for (int i = 0; i < 3; i++) {
		check_end(b[2], several[i], BROKER_E_LOST, BROKER_NOT_DONE, true, "one of several");
	}
	check_end(b[3], not_taken, BROKER_E_LOST, BROKER_NOT_DONE, true, "write never taken");
	for (int i = 0; i < 4; i++) {
		is_int(run(b[i], NULL, "SELECT 1"), 0, "handle %d goes on by itself", i);
	}
	is_int(rows(b[0], "a = -2"), 0, "what was not taken was not done");
	for (int i = 0; i < 4; i++) {
		broker_detach(&b[i]);
	}
}

static void kill_with_transactions(struct broker_proc *p)
{
	struct broker *b = attach(p), *other = attach(p);
	struct broker_lease *l;
	struct broker_call call = {0};
	uint64_t ticket, not_taken;

	is_int(broker_begin(b, NULL, &l), 0, "begin");
	call.lease = l;
	must_run(b, &call, "INSERT INTO death (a) VALUES (-3)");
	ticket = submit(b, &call, LONG_WRITE);
	wait_in_flight(p, 1);
	kill_broker(p, other, &not_taken);
	check_end(b, ticket, BROKER_E_LOST, BROKER_NOT_DONE, false, "statement of a transaction");
	is_int(run(b, &call, "SELECT 1"), BROKER_E_LEASE, "the transaction is over");
	is_int(broker_commit(&l, 0), BROKER_E_LEASE, "and cannot be committed");
	is_int(broker_error(b)->outcome, BROKER_NOT_DONE, "nothing of it was done");
	ok(l == NULL, "its handle is gone");
	is_int(rows(b, "a = -3"), 0, "nothing of it is there");
	is_int(broker_begin(b, NULL, &l), 0, "the next transaction begins");
	call.lease = l;
	is_int(run(b, &call, "INSERT INTO death (a) VALUES (4)"), 0, "writes");
	is_int(broker_commit(&l, 0), 0, "and commits");
	is_int(rows(b, "a = 4"), 1, "once");
	check_end(other, not_taken, BROKER_E_LOST, BROKER_NOT_DONE, true, "write never taken");
	broker_detach(&b);
	broker_detach(&other);
}

static void test_killed(const char *url, const char *const *settings, const char *name)
{
	static const char *const command[] = {"sleep", "1000", NULL};
	struct broker_proc *p = broker_start_run(url, settings, command);
	struct broker *b = attach(p);
	int status;

	diag("killed under a supervisor, %s", name);
	must_run(b, NULL, "CREATE TABLE death (a BIGINT)");
	broker_detach(&b);
	kill_with_statements(p);
	kill_with_transactions(p);
	status = broker_free(&p);
	is_int(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 128 + SIGTERM,
		"the supervisor ends as its command did, by the SIGTERM it handed on");
}

/* -- stopped ----------------------------------------------------------------------------------- */

/* How a call ended that had a deadline, and when. */
static void check_late(struct broker *b, int rc, int64_t start, int64_t timeout, int code,
	enum broker_outcome outcome, const char *what)
{
	int64_t late = wait_clock_ms() - start - timeout;
	const struct broker_error *e = broker_error(b);

	if (!ok(rc == code && e->outcome == outcome, "%s: %s", what, broker_strerror(code))) {
		diag("  %d %s, outcome %d", rc, e->message, e->outcome);
	}
	if (!ok(late >= -5 && late <= LATE_MS + WAIT_NOISE_MS, "%s: at its deadline", what)) {
		diag("  %lld ms late", (long long)late);
	}
	if (late > LATE_MS) {
		diag("  %s: %lld ms late; %d would do on a quiet machine", what, (long long)late,
			LATE_MS);
	}
}

/* Many writes, so that they and their cancels do not fit into one batch, nor into the ring. */
static void submit_many(struct broker *b)
{
	struct broker_call call = {.timeout_ms = 200};
	unsigned good = 0;

	for (int i = 0; i < MANY; i++) {
		(void)submit(b, &call, "INSERT INTO death (a) VALUES (-5)");
	}
	for (int i = 0; i < MANY; i++) {
		int rc = broker_collect(b, 0, -1, NULL, NULL);

		good += rc == BROKER_E_TIMEOUT && broker_error(b)->outcome == BROKER_NOT_DONE;
	}
	is_int(good, MANY, "%d writes that nobody takes: not done, all of them", MANY);
}

static void while_stopped(struct broker_proc *p, struct broker *b, struct broker_lease **l)
{
	struct broker_call call = {.timeout_ms = 300}, in = {.timeout_ms = 300, .lease = *l};
	struct broker_options opt = {.path = broker_socket(p), .timeout_ms = 300};
	struct broker *none;
	int64_t start = wait_clock_ms();
	int rc = run(b, &call, "INSERT INTO death (a) VALUES (-4)");

	check_late(b, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "a write");
	ok(broker_error(b)->retry_safe, "a write: safe to repeat");
	start = wait_clock_ms();
	rc = run(b, &in, "INSERT INTO death (a) VALUES (-4)");
	check_late(
		b, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "a write in a transaction");
	start = wait_clock_ms();
	rc = broker_commit(l, 300);
	check_late(b, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "COMMIT");
	start = wait_clock_ms();
	rc = broker_attach(&opt, &none);
	check_late(NULL, rc, start, 300, BROKER_E_TIMEOUT, BROKER_NOT_DONE, "attach");
	submit_many(b);
}

static void stat_while_stopped(struct broker_proc *p)
{
	int status;
	int64_t start = wait_clock_ms();
	char *text = stat_text(p, &status);

	ok(WIFEXITED(status) && WEXITSTATUS(status) == 0 && strstr(text, "broker_up ") != NULL,
		"brokerstat shows a broker that is stopped");
	ok(metric(p, "broker_statements_started_total{") > 0, "with its counters");
	ok(wait_clock_ms() - start < 20000, "and does not wait for it");
	free(text);
}

static void stat_of_dead(struct broker_proc *p)
{
	int status;
	char *text = stat_text(p, &status);

	ok(WIFEXITED(status) && WEXITSTATUS(status) == 4, "brokerstat says that a broker is dead");
	is_int(metric(p, "broker_up"), 0, "broker_up is 0");
	ok(metric(p, "broker_statements_started_total{") > 0, "its counters are still there");
	free(text);
}

/* What was in flight when the broker stopped. */
static void collect_late(struct broker *b, uint64_t ticket, int64_t start, int64_t timeout,
	int code, enum broker_outcome outcome, const char *what)
{
	int rc = broker_collect(b, ticket, -1, NULL, NULL);

	check_late(b, rc, start, timeout, code, outcome, what);
}

static void check_after(struct broker_proc *p, struct broker *b)
{
	is_int(run(b, NULL, "INSERT INTO death (a) VALUES (6)"), 0, "afterwards the handle works");
	ok(wait_until(metric(p, "broker_statements_in_flight{") == 0, 60000),
		"nothing stays in flight");
	ok(wait_until(metric(p, "broker_leases_active{") == 0, 60000), "no lease stays");
	is_int(rows(b, "a = 6"), 1, "and what it did is there");
	is_int(rows(b, "a = -4"), 0, "what was reported as not done was not done later");
	is_int(rows(b, "a = -5"), 0, "nor any of many");
	is_int(rows(b, "a = -3"), 0, "nor the transaction");
}

static void test_stopped(const char *url, const char *const *settings, const char *name)
{
	struct broker_proc *p = broker_start(url, settings);
	struct broker_call soon = {.timeout_ms = SHORT_MS},
			   soon_read = {.timeout_ms = SHORT_MS, .flags = BROKER_READONLY};
	struct broker *b = attach(p), *writer = attach(p), *reader = attach(p);
	struct broker_lease *l;
	uint64_t write = 0, read;
	int64_t start;

	diag("stopped, %s", name);
	if (url == NULL) {
		must_run(b, NULL, "CREATE TABLE death (a BIGINT)");
	}
	is_int(broker_begin(b, NULL, &l), 0, "begin");
	must_run(b, &(struct broker_call){.lease = l}, "INSERT INTO death (a) VALUES (-3)");
	start = wait_clock_ms();
	read = submit(reader, &soon_read, LONG_ROWS);
	if (url != NULL) { /* SQLite's one writer is taken */
		write = submit(writer, &soon, LONG_WRITE);
	}
	wait_in_flight(p, url != NULL ? 2 : 1);
	broker_pause(p);
	collect_late(reader, read, start, SHORT_MS, BROKER_E_TIMEOUT, BROKER_NOT_DONE,
		"a read in flight");
	if (url != NULL) {
		start = wait_clock_ms() - SHORT_MS; /* its time is over already */
		collect_late(writer, write, start, SHORT_MS, BROKER_E_OUTCOME_UNKNOWN,
			BROKER_UNKNOWN, "a write in flight");
	}
	while_stopped(p, b, &l);
	stat_while_stopped(p);
	broker_resume(p);
	check_after(p, b);
	is_int(run(reader, &reading, "SELECT 1"), 0, "the reader works again");
	is_int(run(writer, NULL, "INSERT INTO death (a) VALUES (7)"), 0, "the writer works again");
	broker_kill(p);
	stat_of_dead(p);
	broker_detach(&b);
	broker_detach(&writer);
	broker_detach(&reader);
	(void)broker_free(&p);
}

int main(void)
{
	static const char *const settings[] = {"pool main.acquire_timeout=30s", NULL};
	static const char *const pg_settings[] = {
		"pool main.acquire_timeout=30s", "pool main.max_size=8", NULL};
	struct pg_cluster *pg;

	test_killed(NULL, settings, "SQLite");
	test_stopped(NULL, settings, "SQLite");
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	pg = pg_start(NULL);
	test_killed(pg_url(pg), pg_settings, "PostgreSQL");
	test_stopped(pg_url(pg), pg_settings, "PostgreSQL");
	pg_remove(&pg);
	return done_testing();
}
