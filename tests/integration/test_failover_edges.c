/* SPDX-License-Identifier: MIT */
/*
 * test_failover_edges.c - what happens to a few on the day of a failover: transactions on old
 * credentials, a former primary that goes on, and comes back as a standby, rows that were delivered
 * before a write met a server that takes none, a doubt that cannot be settled since the server is
 * full, a connection that has to be tested while another server could serve.
 */
#include "behave.h"
#include "cluster.h"
#include "pg_case.h"

#include <signal.h>

#define PATIENCE_MS 60000
#define ROWS 200000

static struct broker_proc *proc;
static struct broker *b;
static char *file;
static const char *health_interval = "100ms";

static void configure_first(struct cluster *c, unsigned n, const char *pool)
{
	FILE *f = fopen(file, "w");

	if (f == NULL) {
		bail_out("cannot write %s", file);
	}
	for (unsigned i = 0; i < n; i++) {
		fprintf(f, "[server %s]\nurl = host=%s dbname=postgres\nhealth_interval = %s\n",
			cluster_name(i), pg_host(cluster_server(c, i)), health_interval);
	}
	fprintf(f, "[pool main]\nservers = a%s\nacquire_timeout = 10s\nmax_size = 2\n%s\n",
		n > 1 ? ", b" : "", pool);
	fclose(f);
}

static void configure(struct cluster *c, const char *pool)
{
	configure_first(c, cluster_size(c), pool);
}

static void start(void)
{
	const char *args[] = {"serve", "-c", file, NULL};

	proc = broker_spawn(args, true);
	if (!broker_ready(proc, PATIENCE_MS)) {
		bail_out("the broker does not start");
	}
	b = case_attach(proc);
}

static void end(void)
{
	broker_detach(&b);
	is_int(broker_free(&proc), 0, "the broker ends well");
}

static bool reload(void)
{
	unsigned before = broker_log_count(proc, "reload: done");

	kill(broker_pid(proc), SIGHUP);
	return wait_until(broker_log_count(proc, "reload: done") == before + 1, PATIENCE_MS);
}

static bool writes_go_to(const char *server)
{
	return wait_until(behave_run(b, NULL, "INSERT INTO t VALUES (0)") == 0 &&
				  strcmp(broker_last_server(b), server) == 0,
		PATIENCE_MS);
}

static int64_t connections(struct pg_cluster *pg)
{
	return pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE usename IN ('app', 'other') "
			  "AND application_name <> 'shmbroker probe'");
}

static bool brokerstat_says(const char *text)
{
	const char *argv[] = {getenv("BROKERSTAT_BIN"), "-j", "-n", broker_socket(proc), NULL};
	char *out = spawn_output(argv, NULL, NULL);
	bool found = strstr(out, text) != NULL;

	free(out);
	return found;
}

#define FENCED "calls itself primary, of timeline 1, and is not used"

/* The operator is told, once, and where he looks; it is for him to say that the old one is right.
 */
static void check_told(struct cluster *c)
{
	ok(wait_until(broker_log_count(proc, "server a " FENCED) == 1, PATIENCE_MS),
		"the log says so, once, and what to do");
	ok(wait_until(brokerstat_says("\"" FENCED), PATIENCE_MS), "so does the server's row");
	ok(brokerstat_says("server a " FENCED), "and an event");
	configure_first(c, 1, "user = other");
	ok(reload(), "the new primary is taken out of the configuration");
	ok(writes_go_to("a"), "and the old one is used");
	configure(c, "user = other");
	ok(reload(), "it is put back");
	ok(writes_go_to("b"), "and used");
}

/* Without a word to the broker. */
static void check_taken_back(struct cluster *c)
{
	static const struct broker_call reads = {.flags = BROKER_READONLY};
	unsigned before = broker_log_count(proc, "reload: done");

	pg_stop(cluster_server(c, 0), PG_FAST);
	pg_rejoin(cluster_server(c, 0), cluster_server(c, 1));
	ok(wait_until(behave_run(b, &reads, "SELECT 1") == 0 &&
				  strcmp(broker_last_server(b), "a") == 0,
		   PATIENCE_MS),
		"the old primary comes back as a standby, and reads go there");
	ok(writes_go_to("b"), "writes do not");
	is_int(broker_log_count(proc, "reload: done"), before, "nobody had to reload");
	ok(wait_until(!brokerstat_says("\"" FENCED), PATIENCE_MS),
		"nothing is wrong with it any more");
}

/* A standby becomes the primary while the old one goes on. */
static void test_two_primaries(struct cluster *c)
{
	struct pg_cluster *old = cluster_server(c, 0);
	struct broker_call in = {0};
	int64_t created;

	configure(c, "user = app");
	start();
	is_int(broker_begin(b, NULL, &in.lease), 0, "a transaction");
	is_int(behave_run(b, &in, "INSERT INTO t VALUES (1)"), 0, "with a row");
	configure(c, "user = other");
	ok(reload(), "other credentials, beside which it stays open");
	pg_promote(cluster_server(c, 1));
	ok(writes_go_to("b"), "a standby was promoted, and is used");
	ok(broker_commit(&in.lease, 0) < 0, "the old primary acknowledges nothing any more");
	ok(wait_until(connections(old) == 0, PATIENCE_MS), "no connection is left but the probe's");
	/* those to the new primary are made in the meantime */
	ok(wait_until(behave_conns(proc, "idle") == 2 && behave_conns(proc, "login") == 0,
		   PATIENCE_MS),
		"the pool is full");
	created = behave_created(proc);
	ok(!wait_until(connections(old) > 0, 2000), "and none is opened");
	is_int(behave_created(proc), created, "again and again");
	check_told(c);
	check_taken_back(c);
	end();
}

/* Rows of the first attempt have been read when it fails: it must not begin anew. */
static void test_rows_before_refusal(struct cluster *c)
{
	static const char sql[] = "SELECT i, CASE WHEN i = 200000 THEN nextval('s') END FROM "
				  "generate_series(1, 200000) i";
	struct broker_result *r;
	unsigned n = 0;
	int rc;

	health_interval = "60s"; /* the write is to meet the server before a probe does */
	configure(c, "user = app");
	health_interval = "100ms";
	start();
	cluster_set_read_only(c, 0, true);
	rc = broker_exec(b, sql, 0, NULL, NULL, &r);
	while (rc == 0 && (rc = broker_next(r)) == 1) {
		rc = 0;
		if (++n == ROWS / 2) {
			cluster_set_read_only(c, 0, false);
		}
	}
	ok(n > 0 && n <= ROWS, "%u rows, none of them twice", n);
	is_int(rc, BROKER_E_DATABASE, "then the error of the server");
	is_str(case_sqlstate(b), "25006", "that it takes no writes");
	broker_result_free(&r);
	end();
}

/* A statement makes itself read-only; the server's role is asked for again, but it lets nobody
 * in. */
static void test_doubt_of_a_full_server(struct cluster *c)
{
	struct pg_cluster *pg = cluster_server(c, 0);

	configure(c, "user = app");
	start();
	ok(writes_go_to("a"), "the primary writes");
	pg_do(pg, "ALTER ROLE app CONNECTION LIMIT 2");
	is_int(behave_run(b, NULL,
		       "SELECT set_config('transaction_read_only', 'on', true), nextval('s')"),
		BROKER_E_DATABASE, "a statement that makes itself read-only");
	is_str(case_sqlstate(b), "25006", "fails");
	is_int(behave_run(b, NULL, "INSERT INTO t VALUES (2)"), 0,
		"and does not keep the others from writing");
	pg_do(pg, "ALTER ROLE app CONNECTION LIMIT -1");
	end();
}

/* The next in turn was idle for long, and has to be tested first; the other serves meanwhile. */
static void test_read_passes_a_test(struct cluster *c)
{
	static const struct broker_call reads = {.flags = BROKER_READONLY};
	int64_t begun, waits;

	configure(c, "user = app\nread_from = any\nvalidate_after_idle = 3s");
	start();
	ok(wait_until(behave_conns(proc, "idle") == 4, PATIENCE_MS),
		"two connections to each server");
	ok(wait_until(behave_run(b, &reads, "SELECT 1") == 0 &&
				  strcmp(broker_last_server(b), "a") == 0,
		   PATIENCE_MS),
		"the next read is for the other server");
	for (begun = wait_clock_ms(); behave_since(begun) < 3500;) {
		(void)!behave_run(b, NULL, "INSERT INTO t VALUES (5)"); /* this one is not idle */
	}
	waits = behave_metric(proc, "broker_waits_total", "");
	is_int(behave_run(b, &reads, "SELECT 1"), 0, "whose connections were idle for long");
	is_str(broker_last_server(b), "a", "the first serves it");
	is_int(behave_metric(proc, "broker_waits_total", "") - waits, 0, "at once");
	end();
}

int main(void)
{
	struct cluster *c;

	if (!pg_available()) {
		skip("no PostgreSQL here");
		return done_testing();
	}
	file = scratch_path("edges.ini");
	c = cluster_start(&(struct cluster_options){.standbys = 1});
	pg_do(cluster_server(c, 0), "CREATE ROLE app LOGIN");
	pg_do(cluster_server(c, 0), "CREATE ROLE other LOGIN");
	pg_do(cluster_server(c, 0), "CREATE TABLE t (i integer)");
	pg_do(cluster_server(c, 0), "CREATE SEQUENCE s");
	pg_do(cluster_server(c, 0), "GRANT ALL ON t, s TO app, other");
	if (!cluster_in_sync(c, PATIENCE_MS)) {
		bail_out("the standby lags");
	}
	test_rows_before_refusal(c);
	test_doubt_of_a_full_server(c);
	test_read_passes_a_test(c);
	test_two_primaries(c);
	cluster_remove(&c);
	free(file);
	return done_testing();
}
