/* SPDX-License-Identifier: MIT */
/*
 * test_pg_tcp.c - PostgreSQL over TCP: names are resolved, hosts tried in order, passwords kept to
 * themselves, and TLS does not hide data from the loop.
 */
#include "pg_case.h"
#include "spawn.h"

#include <unistd.h>

/* A loopback address of our own, so that the default port is free. */
static char *own_address(void)
{
	int pid = (int)getpid();

	return scratch_format(
		"127.%d.%d.%d", 1 + pid / 65536 % 200, pid / 256 % 256, pid % 254 + 1);
}

static void set_up(struct pg_cluster *pg)
{
	char *file = pg_text(pg, "SHOW hba_file");
	FILE *f = fopen(file, "w");

	if (f == NULL) {
		bail_out("%s cannot be written", file);
	}
	fprintf(f, "local all all trust\nhost all locked 127.0.0.0/8 scram-sha-256\n"
		   "host all postgres 127.0.0.0/8 trust\n");
	fclose(f);
	free(file);
	pg_do(pg, "CREATE ROLE locked LOGIN PASSWORD 'right'");
	pg_do(pg, "SELECT pg_reload_conf()");
}

static bool set_up_tls(struct pg_cluster *pg)
{
	char *key = scratch_format("%s/server.key", pg_host(pg));
	char *cert = scratch_format("%s/server.crt", pg_host(pg));
	const char *const argv[] = {"sh", "-c",
		"command -v openssl >/dev/null && umask 077 && openssl req -x509 -newkey rsa:2048 "
		"-nodes "
		"-days 2 -subj /CN=test -keyout \"$0\" -out \"$1\" 2>/dev/null",
		key, cert, NULL};
	struct spawn opt = {.plain_user = true};
	bool made = spawn_run(argv, &opt, 60000) == 0;

	if (made) {
		pg_do(pg, "ALTER SYSTEM SET ssl_cert_file = '%s'", cert);
		pg_do(pg, "ALTER SYSTEM SET ssl_key_file = '%s'", key);
		pg_do(pg, "ALTER SYSTEM SET ssl = on");
		pg_do(pg, "SELECT pg_reload_conf()");
	}
	free(key);
	free(cert);
	return made;
}

static void test_password(const char *address)
{
	char *url = scratch_format("postgresql://locked:wrong-secret@%s/postgres", address);
	char *where = scratch_format("broker.socket=%s/wrong.sock", scratch_dir());
	const char *args[] = {"serve", "-v", "-d", url, "-s", where, NULL};
	struct broker_proc *p = broker_spawn(args, false);
	struct broker *b;

	ok(wait_until(broker_log_count(p, "password authentication failed for user \"locked\"") > 0,
		   60000),
		"a wrong password is reported");
	is_int(broker_log_count(p, "wrong-secret"), 0, "and not shown");
	broker_free(&p);
	free(where);
	free(url);

	url = scratch_format("postgresql://locked@%s/postgres", address);
	p = broker_start(url, (const char *const[]){"pool main.password=right", NULL});
	b = case_attach(p);
	is_str(case_text(b, NULL, "SELECT current_user", 0, NULL), "locked", "the pool's password");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	free(url);
}

/* localhost has one or two addresses, nobody listens there on port 1. */
static void test_hosts(const char *address)
{
	char *url = scratch_format(
		"postgresql://postgres@no-such-host.invalid:5432,localhost:1,%s:5432/"
		"postgres?sslmode=disable",
		address);
	struct broker_proc *p;
	struct broker *b;

	p = broker_start(url, (const char *const[]){"pool main.max_size=1", NULL});
	b = case_attach(p);
	is_str(case_text(b, NULL, "SELECT host(inet_server_addr())", 0, NULL), address,
		"the host that answers is found");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	free(url);
}

static void read_all(struct broker *b, int rows, int width)
{
	char sql[120];
	struct broker_call call = {.flags = BROKER_READONLY, .timeout_ms = 60000};
	struct broker_result *r;
	int n = 0, rc;

	snprintf(sql, sizeof(sql), "SELECT repeat('x', %d) FROM generate_series(1, %d)", width,
		rows);
	rc = broker_exec(b, sql, 0, NULL, &call, &r);
	while (rc == 0 && broker_next(r) == 1) {
		n++;
	}
	is_int(n, rows, "%d rows of %d bytes through TLS", rows, width);
	broker_result_free(&r);
}

static void test_tls(struct pg_cluster *pg, const char *address)
{
	char *url = scratch_format("postgresql://postgres@%s/postgres?sslmode=require", address);
	struct broker_proc *p;
	struct broker *b;

	p = broker_start(url, (const char *const[]){"pool main.max_size=2", NULL});
	b = case_attach(p);
	ok(wait_until(
		   pg_int(pg, "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
			      "WHERE ssl AND application_name = 'shmbroker'") == 2,
		   60000),
		"connections are encrypted");
	for (int width = 1; width <= 100000; width *= 10) {
		read_all(b, 20000000 / (width + 1000), width);
	}
	for (int rows = 1; rows < 60; rows++) { /* ends of results at all places of TLS records */
		read_all(b, rows, 801);
	}
	is_int(broker_exec(b, "SELECT pg_sleep(60)", 0, NULL,
		       &(struct broker_call){.timeout_ms = 200}, NULL),
		BROKER_E_TIMEOUT, "a cancel goes through");
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
	free(url);
}

int main(void)
{
	char *address = own_address(), *listen;
	struct pg_cluster *pg;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	listen = scratch_format("listen_addresses=%s", address);
	pg = pg_start((const char *const[]){listen, NULL});
	set_up(pg);
	test_password(address);
	test_hosts(address);
	if (set_up_tls(pg)) {
		test_tls(pg, address);
	} else {
		skip("no openssl to make a certificate with");
	}
	pg_remove(&pg);
	free(listen);
	free(address);
	return done_testing();
}
