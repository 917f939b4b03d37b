/* SPDX-License-Identifier: MIT */
/*
 * test_health.c - what health checks make of a real primary and two standbys that stop, hang, lag,
 * are promoted, refuse writes, or refuse the probe; and how long each verdict takes.
 *
 * The checks run in a program of their own (healthwatch.c), as a role without any privilege.
 */
#include "cluster.h"
#include "scratch.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS 60000
#define SERVERS 3u
#define ROLE "prober"

/* A line of healthwatch. */
struct seen {
	int64_t us;
	char name[8], verdict[16], role[16], writable[16];
	unsigned timeline;
	int64_t lag_ms, latency_us;
};

static char *output, *log_file;
static pid_t watcher;

/* -- the watcher ------------------------------------------------------------------------------- */

static void start_watcher(struct cluster *c)
{
	char *arg[SERVERS];
	const char *argv[SERVERS + 2] = {getenv("IT_HEALTH")};
	const char *const env[] = {"HEALTH_INTERVAL=500", "HEALTH_TIMEOUT=500", NULL};

	output = scratch_path("seen");
	log_file = scratch_path("watch.log");
	scratch_show_on_failure(log_file);
	for (unsigned i = 0; i < SERVERS; i++) {
		arg[i] = scratch_format("%s=host=%s dbname=postgres user=" ROLE, cluster_name(i),
			pg_host(cluster_server(c, i)));
		argv[i + 1] = arg[i];
	}
	if (argv[0] == NULL) {
		bail_out("IT_HEALTH is not set");
	}
	watcher = spawn(argv, &(struct spawn){.out = output, .log = log_file, .env = env});
	for (unsigned i = 0; i < SERVERS; i++) {
		free(arg[i]);
	}
}

/* Read the next line about the server at or after a moment; false: there is none. */
static bool next_line(FILE *f, const char *name, int64_t since, struct seen *s)
{
	char line[256];

	while (fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "%" SCNd64 " %7s %15s %15s %15s %u %" SCNd64 " %" SCNd64, &s->us,
			    s->name, s->verdict, s->role, s->writable, &s->timeline, &s->lag_ms,
			    &s->latency_us) == 8 &&
			strcmp(s->name, name) == 0 && s->us >= since) {
			return true;
		}
	}
	return false;
}

static FILE *open_output(void)
{
	FILE *f = fopen(output, "a+"); /* the watcher may not have made it yet */

	if (f == NULL) {
		bail_out("%s: %m", output);
	}
	return f;
}

/* The last thing said of server i. */
static struct seen last(unsigned i)
{
	struct seen s = {.verdict = "?"}, x;
	FILE *f = open_output();

	while (next_line(f, cluster_name(i), 0, &x)) {
		s = x;
	}
	fclose(f);
	return s;
}

/* When server i was first said to be that, at or after `since`; 0: it was not.  what: a verdict or
 * a role. */
static int64_t first(unsigned i, const char *what, int64_t since)
{
	struct seen x;
	int64_t when = 0;
	FILE *f = open_output();

	while (when == 0 && next_line(f, cluster_name(i), since, &x)) {
		when = strcmp(x.verdict, what) == 0 || strcmp(x.role, what) == 0 ? x.us : 0;
	}
	fclose(f);
	return when;
}

static int64_t worst_lag(unsigned i, int64_t since)
{
	struct seen x;
	int64_t worst = 0;
	FILE *f = open_output();

	while (next_line(f, cluster_name(i), since, &x)) {
		worst = x.lag_ms > worst ? x.lag_ms : worst;
	}
	fclose(f);
	return worst;
}

static unsigned times_logged(const char *text)
{
	char line[512];
	unsigned n = 0;
	FILE *f = fopen(log_file, "r");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		n += strstr(line, text) != NULL;
	}
	if (f != NULL) {
		fclose(f);
	}
	return n;
}

/* How often server i was suspected of more than being slow, as all are on a busy machine. */
static unsigned blamed(unsigned i)
{
	char *any = scratch_format("server %s: suspect:", cluster_name(i)),
	     *slow = scratch_format("server %s: suspect: no answer within", cluster_name(i));
	unsigned n = times_logged(any) - times_logged(slow);

	free(any);
	free(slow);
	return n;
}

static bool is(unsigned i, const char *verdict, const char *role)
{
	struct seen s = last(i);

	return strcmp(s.verdict, verdict) == 0 && strcmp(s.role, role) == 0;
}

static bool becomes(unsigned i, const char *verdict, const char *role)
{
	bool met = wait_until(is(i, verdict, role), WAIT_MS);

	if (!met) {
		struct seen s = last(i);

		diag("server %s is %s %s", cluster_name(i), s.verdict, s.role);
	}
	return met;
}

static void measure(const char *what, int64_t from, int64_t to)
{
	diag("MEASURE %s %.1f ms", what, (double)(to - from) / 1000);
}

/* Let `seconds` of probes pass, as the server sees them. */
static void let_probes_pass(struct cluster *c, unsigned i, int seconds)
{
	struct pg_cluster *pg = cluster_server(c, i);
	char *now = pg_text(pg, "SELECT clock_timestamp()");

	if (!wait_until(pg_int(pg,
				"SELECT count(*) FROM pg_stat_activity WHERE usename = '" ROLE
				"' AND query_start > timestamptz '%s' + interval '%d s'",
				now, seconds) > 0,
		    WAIT_MS)) {
		bail_out("server %s is not probed", cluster_name(i));
	}
	free(now);
}

/* End the backend of the probe while nothing is asked. */
/* One that has asked before: what a new connection meets is news. */
static void end_probe(struct cluster *c, unsigned i)
{
	if (!wait_until(
		    pg_int(cluster_server(c, i),
			    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
			    "WHERE usename = '" ROLE "' AND state = 'idle' AND query <> ''") > 0,
		    WAIT_MS)) {
		bail_out("server %s has no probe", cluster_name(i));
	}
}

/* -- the cases --------------------------------------------------------------------------------- */

static void test_start(struct cluster *c)
{
	int64_t start = wait_clock_us();
	char *name;

	start_watcher(c);
	ok(becomes(0, "up", "primary"), "the primary is up");
	ok(becomes(1, "up", "standby") && becomes(2, "up", "standby"), "the standbys are up");
	measure("health_first_verdict", start, first(0, "up", 0));
	diag("MEASURE health_first_probe %" PRId64 " us", last(0).latency_us);
	is_str(last(0).writable, "writable", "the primary takes writes");
	is_int(last(0).timeline, 1, "its timeline");
	is_int(last(1).timeline, 1, "and that of a standby, asked without privileges");
	name = pg_text(cluster_server(c, 0),
		"SELECT application_name FROM pg_stat_activity WHERE usename = '" ROLE "'");
	is_str(name, "shmbroker probe", "the server sees who asks");
	free(name);
}

static void test_lag(struct cluster *c)
{
	struct pg_cluster *a = cluster_server(c, 0);
	int64_t start = wait_clock_us();

	pg_do(a, "CREATE TABLE t(x int)");
	pg_do(a, "SELECT pg_switch_wal()");
	cluster_in_sync(c, WAIT_MS);
	let_probes_pass(c, 1, 1);
	start = wait_clock_us();
	let_probes_pass(c, 1, 3);
	is_int(worst_lag(1, start), 0, "an idle primary makes no lag, at the end of a file either");
	cluster_hold_replay(c, 2);
	pg_do(a, "INSERT INTO t VALUES (1)");
	ok(wait_until(last(2).lag_ms > 2000, WAIT_MS), "a standby that does not replay lags");
	ok(worst_lag(1, start) < 1000, "the other one does not (%lld ms)",
		(long long)worst_lag(1, start));
	cluster_resume_replay(c, 2);
	ok(wait_until(last(2).lag_ms == 0, WAIT_MS), "until it has replayed all");
}

static void test_lost_probe(struct cluster *c)
{
	unsigned before = blamed(0);

	for (int i = 0; i < 10; i++) {
		end_probe(c, 0);
		let_probes_pass(c, 0, 0);
	}
	is_int(blamed(0), before, "a probe whose backend is ended is no verdict");
}

static void test_refused_probe(struct cluster *c)
{
	struct pg_cluster *a = cluster_server(c, 0);
	unsigned before = blamed(0);

	pg_do(a, "ALTER ROLE " ROLE " CONNECTION LIMIT 0");
	end_probe(c, 0);
	ok(wait_until(times_logged("server a: cannot be probed") == 1, WAIT_MS),
		"no connection is left for the probe");
	ok(becomes(0, "up", "primary"), "its verdict stays");
	pg_do(a, "ALTER ROLE " ROLE " CONNECTION LIMIT -1");
	let_probes_pass(c, 0, 0);
	is_int(blamed(0), before, "all the time");
	pg_do(a, "ALTER ROLE " ROLE " NOLOGIN");
	end_probe(c, 0);
	ok(becomes(0, "down", "primary"), "a refused login: down");
	is_int(blamed(0), before, "at once");
	is_int(times_logged("not permitted to log in"), 1, "the log says why, once");
	pg_do(a, "ALTER ROLE " ROLE " LOGIN");
	ok(becomes(0, "up", "primary"), "up again when it is let in");
}

static void test_restart(struct cluster *c)
{
	int64_t start = wait_clock_us();

	pg_stop(cluster_server(c, 1), PG_FAST);
	ok(becomes(1, "down", "standby"), "a server that is stopped is down");
	measure("health_stop_suspect", start, first(1, "suspect", start));
	measure("health_stop_down", start, first(1, "down", start));
	start = wait_clock_us();
	cluster_revive(c, 1);
	ok(becomes(1, "up", "standby"), "and up when it is started");
	measure("health_start_to_up", start, first(1, "up", start));
}

static void test_hang(struct cluster *c)
{
	int64_t start = wait_clock_us();

	pg_freeze(cluster_server(c, 1));
	ok(becomes(1, "down", "standby"), "a server that hangs is down");
	measure("health_hang_suspect", start, first(1, "suspect", start));
	measure("health_hang_down", start, first(1, "down", start));
	start = wait_clock_us();
	pg_thaw(cluster_server(c, 1));
	ok(becomes(1, "up", "standby"), "and up when it goes on");
	measure("health_resume_up", start, first(1, "up", start));
}

static unsigned test_promotion(struct cluster *c)
{
	int64_t start = wait_clock_us(), when;
	unsigned now;

	pg_stop(cluster_server(c, 0), PG_KILL);
	ok(becomes(0, "down", "primary"), "a primary that is killed is down");
	measure("health_kill_down", start, first(0, "down", start));
	now = cluster_fail_over(c, &when);
	ok(becomes(now, "up", "primary"), "a standby is promoted");
	ok(first(now, "primary", start) - when < 1000000 + WAIT_NOISE_MS * 1000,
		"and found within a second");
	measure("health_promotion_found", when, first(now, "primary", start));
	is_str(last(now).writable, "writable", "it takes writes");
	is_int(last(now).timeline, 2, "on a timeline of its own");
	cluster_rejoin(c, 0);
	ok(becomes(0, "up", "standby"), "the former primary is a standby");
	ok(wait_until(last(0).timeline == 2, WAIT_MS), "of the new timeline");
	ok(wait_until(last(0).lag_ms == 0, WAIT_MS), "and catches up");
	return now;
}

static void test_read_only(struct cluster *c, unsigned i)
{
	unsigned before = blamed(i);

	cluster_set_read_only(c, i, true);
	ok(wait_until(strcmp(last(i).writable, "read-only") == 0, WAIT_MS) &&
			becomes(i, "up", "primary"),
		"a primary that takes no writes");
	cluster_set_read_only(c, i, false);
	ok(wait_until(strcmp(last(i).writable, "writable") == 0, WAIT_MS), "takes them again");
	pg_do(cluster_server(c, i), "ALTER ROLE " ROLE " SET default_transaction_read_only = on");
	end_probe(c, i);
	ok(wait_until(strcmp(last(i).writable, "read-only") == 0, WAIT_MS),
		"as its sessions are told at their start");
	pg_do(cluster_server(c, i), "ALTER ROLE " ROLE " RESET default_transaction_read_only");
	ok(wait_until(strcmp(last(i).writable, "writable") == 0, WAIT_MS),
		"and new sessions are not any more");
	is_int(blamed(i), before, "it was up all the time");
}

static void test_end(void)
{
	bool late;

	(void)kill(watcher, SIGTERM);
	is_int(spawn_wait(watcher, WAIT_MS, &late), 0, "the watcher ends well");
	is_int(times_logged("open handles"), 0, "and leaves nothing in the loop");
}

int main(void)
{
	struct cluster_options opt = {.standbys = SERVERS - 1};
	struct cluster *c;

	if (!pg_available()) {
		skip("no PostgreSQL server");
		return done_testing();
	}
	c = cluster_start(&opt);
	pg_do(cluster_server(c, 0), "CREATE ROLE " ROLE " LOGIN");
	cluster_in_sync(c, WAIT_MS);
	test_start(c);
	test_lag(c);
	test_lost_probe(c);
	test_refused_probe(c);
	test_restart(c);
	test_hang(c);
	test_read_only(c, test_promotion(c));
	test_end();
	cluster_remove(&c);
	return done_testing();
}
