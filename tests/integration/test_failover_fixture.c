/* SPDX-License-Identifier: MIT */
/*
 * test_failover_fixture.c - what the tests of failover stand on: clusters whose primaries are lost,
 * replaced and come back, standbys that lag, servers that refuse writes or have no room, and
 * networks that lose packets.
 */
#include "cluster.h"
#include "disk.h"
#include "proxy.h"
#include "scratch.h"
#include "tap.h"
#include "wait.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS 60000

/* -- cluster ----------------------------------------------------------------------------------- */

/* First column of the first row as a number, or minus the first two digits of its SQLSTATE. */
static int64_t try_write(struct cluster *c, unsigned i, const char *sql)
{
	PGconn *conn = pg_connect(cluster_server(c, i));
	PGresult *r = PQexec(conn, sql);
	const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
	int64_t code = state != NULL ? -atoi(state) : 0;

	PQclear(r);
	PQfinish(conn);
	return code;
}

static int64_t rows(struct cluster *c, unsigned i)
{
	return pg_int(cluster_server(c, i), "SELECT count(*) FROM t");
}

static void test_replication(struct cluster *c)
{
	struct pg_cluster *a = cluster_server(c, 0);
	char *name = pg_text(cluster_server(c, 1), "SELECT current_setting('cluster_name')");
	PGconn *conn;
	char *url;

	is_str(name, "b", "a server says its name");
	free(name);
	url = scratch_format("host=%s user=postgres dbname=postgres", cluster_address(c, 2));
	conn = PQconnectdb(url);
	ok(PQstatus(conn) == CONNECTION_OK, "it listens on %s", cluster_address(c, 2));
	PQfinish(conn);
	free(url);
	pg_do(a, "CREATE TABLE t(x int)");
	pg_do(a, "INSERT INTO t VALUES (1)");
	ok(cluster_in_sync(c, WAIT_MS), "standbys catch up");
	is_int(rows(c, 1) + rows(c, 2), 2, "and have what was written");
	is_int(try_write(c, 1, "INSERT INTO t VALUES (2)"), -25006, "a standby takes no writes");
}

static void test_lag(struct cluster *c)
{
	cluster_hold_replay(c, 2);
	pg_do(cluster_server(c, 0), "INSERT INTO t VALUES (2)");
	ok(wait_until(rows(c, 1) == 2, WAIT_MS), "one standby goes on");
	is_int(rows(c, 2), 1, "the one that is held stays behind");
	cluster_resume_replay(c, 2);
	ok(cluster_in_sync(c, WAIT_MS), "and catches up");
}

static void test_read_only(struct cluster *c)
{
	cluster_set_read_only(c, 0, true);
	is_int(try_write(c, 0, "INSERT INTO t VALUES (3)"), -25006, "a read-only primary");
	cluster_set_read_only(c, 0, false);
	is_int(try_write(c, 0, "INSERT INTO t VALUES (3)"), 0, "takes writes again");
}

static void test_disk_full(struct cluster *c)
{
	const char *sql = "INSERT INTO t SELECT generate_series(1, 10000)";

	if (!cluster_has_small_disk(c)) {
		skip("no disk that can be full");
		return;
	}
	disk_fill(pg_data(cluster_server(c, 0)));
	is_int(try_write(c, 0, sql), -53100, "a full disk takes no writes");
	disk_free(pg_data(cluster_server(c, 0)));
	cluster_revive(c, 0);
	is_int(try_write(c, 0, "INSERT INTO t VALUES (4)"), 0, "until there is room again");
}

static void test_fail_over(struct cluster *c)
{
	int64_t n = rows(c, 0), when = 0;
	unsigned next;

	pg_stop(cluster_server(c, 0), PG_KILL);
	next = cluster_fail_over(c, &when);
	ok(next != 0 && next == cluster_primary(c) && when > 0, "another is the primary");
	is_int(rows(c, next), n, "with all that was acknowledged");
	pg_do(cluster_server(c, next), "INSERT INTO t VALUES (5)");
	cluster_rejoin(c, 0);
	ok(cluster_in_sync(c, WAIT_MS), "the old one follows it");
	is_int(rows(c, 0), n + 1, "and has what was written meanwhile");
	is_int(try_write(c, 0, "INSERT INTO t VALUES (6)"), -25006, "as a standby");
}

/* A primary that hung takes up its work when it has a successor. */
static void test_split_brain(struct cluster *c)
{
	unsigned old = cluster_primary(c), next;
	int64_t n = rows(c, old);

	pg_freeze(cluster_server(c, old));
	next = cluster_fail_over(c, NULL);
	ok(next != old, "a primary that hangs is replaced");
	pg_thaw(cluster_server(c, old));
	is_int(pg_int(cluster_server(c, old), "SELECT pg_is_in_recovery()::int"), 0,
		"it wakes up as another primary");
	pg_do(cluster_server(c, next), "INSERT INTO t VALUES (7)");
	cluster_rejoin(c, old);
	ok(cluster_in_sync(c, WAIT_MS), "made a standby");
	is_int(rows(c, old), n + 1, "it has its successor's rows");
}

static void test_cluster(void)
{
	const struct cluster_options opt = {
		.standbys = 2, .safe = true, .tcp = true, .small_mib = 640};
	struct cluster *c = cluster_start(&opt);

	test_replication(c);
	test_lag(c);
	test_read_only(c);
	test_disk_full(c);
	test_fail_over(c);
	test_split_brain(c);
	cluster_remove(&c);
	ok(c == NULL, "it is removed");
}

/* -- proxy ------------------------------------------------------------------------------------- */

static PGconn *through(struct proxy *p, const char *timeout)
{
	char *url =
		scratch_format("host=%s port=%d user=postgres dbname=postgres connect_timeout=%s",
			proxy_host(p), proxy_port(p), timeout);
	PGconn *c = PQconnectdb(url);

	free(url);
	return c;
}

static bool answers(PGconn *c)
{
	PGresult *r = PQexec(c, "SELECT 1");
	bool good = PQresultStatus(r) == PGRES_TUPLES_OK;

	PQclear(r);
	return good;
}

/* Is there input within this time? */
static bool hears(PGconn *c, int ms)
{
	struct pollfd p = {.fd = PQsocket(c), .events = POLLIN};

	return poll(&p, 1, ms) == 1;
}

static bool result_arrives(PGconn *c)
{
	PGresult *r = PQgetResult(c);
	bool good = PQresultStatus(r) == PGRES_TUPLES_OK || PQresultStatus(r) == PGRES_COMMAND_OK;

	for (; r != NULL; r = PQgetResult(c)) {
		PQclear(r);
	}
	return good;
}

static void test_stall(struct pg_cluster *pg, struct proxy *p, PGconn *c)
{
	PGconn *other;

	proxy_set(p, PROXY_STALL);
	ok(PQsendQuery(c, "INSERT INTO t VALUES (1)") == 1, "a statement is sent into the void");
	ok(!hears(c, 300), "no answer comes");
	is_int(pg_int(pg, "SELECT count(*) FROM t"), 0, "nor did it arrive");
	other = through(p, "2");
	ok(PQstatus(other) != CONNECTION_OK && strstr(PQerrorMessage(other), "timeout") != NULL,
		"a new connection is made, and nobody speaks");
	PQfinish(other);
	proxy_set(p, PROXY_FORWARD);
	ok(result_arrives(c), "the answer comes later");
	is_int(pg_int(pg, "SELECT count(*) FROM t"), 1, "nothing was lost");
}

static void test_mute(struct pg_cluster *pg, struct proxy *p, PGconn *c)
{
	proxy_set(p, PROXY_MUTE);
	ok(PQsendQuery(c, "INSERT INTO t VALUES (2)") == 1, "a statement is sent");
	ok(wait_until(pg_int(pg, "SELECT count(*) FROM t") == 2, WAIT_MS), "and carried out");
	ok(!hears(c, 100), "but no answer comes");
	proxy_set(p, PROXY_FORWARD);
	ok(result_arrives(c), "it comes later");
}

static void test_proxy(void)
{
	struct pg_cluster *pg = pg_start(NULL);
	char *path = scratch_format("%s/.s.PGSQL.5432", pg_host(pg));
	struct proxy *p = proxy_start(path);
	PGconn *c = through(p, "30"), *other;

	pg_do(pg, "CREATE TABLE t(x int)");
	ok(PQstatus(c) == CONNECTION_OK && answers(c), "a proxy forwards");
	test_stall(pg, p, c);
	test_mute(pg, p, c);
	proxy_set(p, PROXY_REFUSE);
	other = through(p, "30");
	ok(strstr(PQerrorMessage(other), "refused") != NULL, "it refuses new connections");
	PQfinish(other);
	ok(answers(c), "but keeps old ones");
	proxy_set(p, PROXY_RESET);
	ok(!answers(c), "it resets old ones");
	other = through(p, "30");
	ok(PQstatus(other) != CONNECTION_OK && strstr(PQerrorMessage(other), "refused") == NULL,
		"and new ones when they are made");
	PQfinish(other);
	PQfinish(c);
	proxy_set(p, PROXY_FORWARD);
	c = through(p, "30");
	ok(answers(c), "and forwards again");
	is_int(proxy_open(p), 1, "one connection");
	proxy_cut(p);
	ok(!answers(c), "is cut");
	is_int(proxy_open(p), 0, "and gone");
	PQfinish(c);
	proxy_stop(&p);
	free(path);
	pg_remove(&pg);
}

int main(void)
{
	if (!pg_available()) {
		skip("no PostgreSQL server here");
		return done_testing();
	}
	test_proxy();
	test_cluster();
	return done_testing();
}
