/* SPDX-License-Identifier: MIT */
/*
 * test_pg_lost.c - PostgreSQL connections that end or cannot be made: killed while idle, while a
 * statement runs, in a transaction, with the whole server; refused, wrong password, no such
 * database, a host that does not answer.  Says who is told what.
 */
#include "pg_case.h"
#include "spawn.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct broker_call readonly = {.flags = BROKER_READONLY};

static int64_t backends(struct pg_cluster *pg)
{
	return pg_int(
		pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shmbroker'");
}

static void kill_backends(struct pg_cluster *pg)
{
	pg_do(pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
		  "WHERE application_name = 'shmbroker'");
}

static bool runs(struct pg_cluster *pg, const char *query)
{
	return pg_int(pg,
		       "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query "
		       "LIKE "
		       "'%s%%' AND application_name = 'shmbroker'",
		       query) > 0;
}

static void test_idle(struct pg_case *t)
{
	for (int i = 0; i < 5; i++) {
		kill_backends(t->pg);
		is_str(case_text(t->b, &readonly, "SELECT 1", 0, NULL), "1",
			"nobody notices that idle connections were killed");
		ok(wait_until(backends(t->pg) == 2, 60000), "they are replaced");
	}
	ok(broker_log_count(t->proc, "terminating connection due to administrator command") > 0,
		"the log says why");
}

static void test_running(struct pg_case *t)
{
	uint64_t ticket;

	is_int(broker_submit(t->b, "SELECT pg_sleep(60)", 0, NULL, NULL, &ticket), 0,
		"a statement");
	ok(wait_until(runs(t->pg, "SELECT pg_sleep(60)"), 60000), "runs");
	kill_backends(t->pg);
	is_int(broker_collect(t->b, ticket, 60000, NULL, NULL), BROKER_E_DATABASE, "is killed");
	is_str(case_sqlstate(t->b), "57P01", "with the server's reason");
	is_int(broker_error(t->b)->outcome, BROKER_NOT_DONE, "known not done");
	ok(broker_error(t->b)->retry_safe, "and may be sent again");

	is_int(broker_submit(t->b, "SELECT pg_sleep(0.5)", 0, NULL, &readonly, &ticket), 0,
		"a read");
	ok(wait_until(runs(t->pg, "SELECT pg_sleep(0.5)"), 60000), "runs");
	kill_backends(t->pg);
	is_int(broker_collect(t->b, ticket, 60000, NULL, NULL), 0, "is repeated by the broker");
}

static void test_transaction(struct pg_case *t)
{
	struct broker_lease *l;
	struct broker_call call = {0};

	is_int(case_run(t->b, NULL, "CREATE TABLE lost(x int)"), 0, "create");
	is_int(broker_begin(t->b, NULL, &l), 0, "a transaction");
	call.lease = l;
	is_int(case_run(t->b, &call, "INSERT INTO lost VALUES (1)"), 0, "writes");
	kill_backends(t->pg);
	ok(case_run(t->b, &call, "INSERT INTO lost VALUES (2)") < 0, "its connection is killed");
	ok(broker_commit(&l, 0) < 0, "it cannot be committed");
	is_int(broker_error(t->b)->outcome, BROKER_NOT_DONE, "known not done");
	is_str(case_text(t->b, &readonly, "SELECT count(*) FROM lost", 0, NULL), "0",
		"nothing stays");
}

/* Start a COPY in a lease of its own.  The broker may not have noticed yet that the connection it
 * lends was killed: then there is another to try. */
static bool copy_out(struct pg_case *t, struct broker_lease **l, struct broker_copy **c)
{
	struct broker_call call = {0};

	if (*l != NULL) {
		broker_release(l);
	}
	if (broker_lease(t->b, NULL, l) < 0) {
		return false;
	}
	call.lease = *l;
	return broker_copy_out(t->b,
		       "COPY (SELECT g, repeat('x', 1000) FROM generate_series(1, 600000) g) "
		       "TO STDOUT",
		       &call, c) == 0;
}

static void test_copy(struct pg_case *t)
{
	struct broker_lease *l;
	struct broker_call call = {0};
	struct broker_copy *c;
	const void *data;
	size_t len = 1;

	is_int(broker_begin(t->b, NULL, &l), 0, "a transaction");
	call.lease = l;
	is_int(broker_copy_in(t->b, "COPY lost FROM STDIN", &call, &c), 0, "COPY in");
	is_int(broker_copy_write(c, "7\n", 2), 0, "a row");
	kill_backends(t->pg);
	ok(wait_until(broker_copy_write(c, "8\n", 2) < 0, 60000) ||
			broker_copy_end(&c, NULL, NULL) < 0,
		"its connection is killed");
	is_int(broker_error(t->b)->outcome, BROKER_NOT_DONE, "known not done");
	(void)!broker_copy_end(&c, NULL, NULL);
	broker_rollback(&l);

	l = NULL;
	ok(wait_until(copy_out(t, &l, &c), 60000), "COPY out");
	is_int(broker_copy_read(c, &data, &len), 0, "some data");
	kill_backends(t->pg);
	while (len > 0 && broker_copy_read(c, &data, &len) == 0) {
	}
	ok(broker_copy_end(&c, NULL, NULL) < 0, "its connection is killed");
	broker_release(&l);
	is_str(case_text(t->b, &readonly, "SELECT count(*) FROM lost", 0, NULL), "0",
		"nothing stays");
}

/* The whole server goes and comes back. */
static void test_server(struct pg_case *t)
{
	struct broker_call call = {.flags = BROKER_READONLY, .timeout_ms = 300};

	pg_stop(t->pg, PG_KILL);
	is_int(case_run(t->b, &call, "SELECT 1"), BROKER_E_TIMEOUT, "a read without a server");
	pg_restart(t->pg);
	ok(wait_until(case_run(t->b, &readonly, "SELECT 1") == 0, 60000), "with one again");
	ok(wait_until(backends(t->pg) == 2, 60000), "all connections come back");
}

/* Start a broker that cannot connect and wait for its reason in the log. */
static void refuse(const char *url, const char *setting, const char *reason)
{
	char *socket = scratch_path("refuse.sock");
	char *where = scratch_format("broker.socket=%s", socket);
	const char *args[] = {"serve", "-d", url, "-s", where, "-s",
		setting != NULL ? setting : "pool main.max_size=1", NULL};
	struct broker_proc *p = broker_spawn(args, false);

	ok(wait_until(broker_log_count(p, reason) > 0, 60000), "the log says: %s", reason);
	is_int(broker_free(&p), 0, "it ends well");
	free(where);
	free(socket);
}

/* A port where nobody answers: it listens, and its queue is full. */
static int silent_port(int *fd, int *filler)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);

	*fd = socket(AF_INET, SOCK_STREAM, 0);
	*filler = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(*fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(*fd, 5) != 0 ||
		getsockname(*fd, (struct sockaddr *)&a, &len) != 0) {
		bail_out("no port");
	}
	return ntohs(a.sin_port);
}

static void test_refused(struct pg_case *t)
{
	char *url;
	int fd, filler;

	url = scratch_format("host=%s user=postgres dbname=nowhere", pg_host(t->pg));
	refuse(url, NULL, "database \"nowhere\" does not exist");
	free(url);
	url = scratch_format("host=%s user=nobody dbname=postgres", pg_host(t->pg));
	refuse(url, NULL, "role \"nobody\" does not exist");
	free(url);
	refuse("postgresql://127.0.0.1:1/x", NULL, "Connection refused");
	refuse("postgresql://no-such-host.invalid/x", NULL,
		"no-such-host.invalid cannot be resolved");
	url = scratch_format("host=127.0.0.1 port=%d user=postgres", silent_port(&fd, &filler));
	refuse(url, "server local.connect_timeout=300ms",
		"connect_timeout: no connection within 300 ms");
	free(url);
	close(fd);
	close(filler);
}

static void test_bad_options(void)
{
	static const char *const cases[][2] = {
		{"host=x prot=1", "\"prot\""},
		{"host=x port=99999", "port: 99999 is not a number from 1 to 65535"},
		{"host=a,b port=1,2,3", "port lists 3 ports for 2 hosts"},
		{"service=main", "service is not supported"},
		{"host=x password=abc topsecret", "url"},
		{"postgresql://u:topsecret@[::1/x", "url"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *args[] = {"serve", "-d", cases[i][0], NULL};
		struct broker_proc *p = broker_spawn(args, true);
		int status = broker_wait(p, 60000);

		ok(WIFEXITED(status) && WEXITSTATUS(status) != 0, "refused: case %zu", i);
		ok(broker_log_count(p, cases[i][1]) > 0, "with: %s", cases[i][1]);
		is_int(broker_log_count(p, "topsecret"), 0, "and no secret");
		broker_free(&p);
	}
}

int main(void)
{
	struct pg_case t;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(NULL, (const char *const[]){"pool main.max_size=2", NULL});
	test_idle(&t);
	test_running(&t);
	test_transaction(&t);
	test_copy(&t);
	test_server(&t);
	test_refused(&t);
	test_bad_options();
	case_end(&t);
	return done_testing();
}
