/* SPDX-License-Identifier: MIT */
/*
 * test_behaviour_b.c - what is left behind in a session: behaviours 13 to 19 and 49 of
 * docs/testing.md.
 *
 * One PostgreSQL connection, so that the next user always gets what the last one left.  What
 * PostgreSQL cannot be made to do, cleaning that fails or never ends, the scripted database does.
 */
#include "behave.h"
#include "check.h"
#include "pg_case.h"

#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#define LONG_MS 60000

static struct pg_case t;

static int64_t rows_of(const char *table)
{
	return pg_int(t.pg, "SELECT count(*) FROM %s", table);
}

static int64_t backend(void)
{
	return behave_int(t.b, NULL, "SELECT pg_backend_pid()", 0);
}

/* A lease without a transaction of its own. */
static struct broker_lease *lease(struct broker *b)
{
	return behave_hold(b, NULL, "SELECT 1");
}

/* -- 13, 14 ------------------------------------------------------------------------------------ */

static int leaves_transaction(struct broker *b, void *arg)
{
	struct broker_call in = {.lease = lease(b)};

	(void)arg;
	if (behave_run(b, &in, "BEGIN") < 0 || behave_run(b, &in, "INSERT INTO w VALUES (1)") < 0) {
		return 1;
	}
	_exit(0); /* no detach, no release */
}

static void test_13_open_transaction(void)
{
	struct broker_call in = {0};
	int64_t pid = backend();
	struct broker *other;

	in.lease = lease(t.b);
	ok(case_run(t.b, &in, "BEGIN") == 0 && case_run(t.b, &in, "INSERT INTO w VALUES (1)") == 0,
		"B13: a lease with an open transaction");
	broker_release(&in.lease);
	is_int(backend(), pid, "B13: is given back: the connection goes on");
	is_int(rows_of("w"), 0, "B13: and its transaction was rolled back");
	is_int(behave_ended(behave_worker(t.proc, leaves_transaction, NULL), LONG_MS), 0,
		"B13: a worker that ends with one");
	is_int(backend(), pid, "B13: leaves the connection behind");
	other = case_attach(t.proc);
	is_int(broker_begin(other, NULL, &in.lease), 0, "B13: one that detaches");
	is_int(case_run(other, &in, "INSERT INTO w VALUES (2)"), 0, "B13: in a transaction");
	broker_detach(&other);
	broker_rollback(&in.lease);
	is_int(backend(), pid, "B13: as well");
	is_int(rows_of("w"), 0, "B13: without what was written");
	is_int(pg_int(t.pg, "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%%'"),
		0, "B13: no transaction is open");
}

static void test_14_failed_transaction(void)
{
	struct broker_call in = {0};
	int64_t pid = backend();

	in.lease = lease(t.b);
	ok(case_run(t.b, &in, "BEGIN") == 0 && case_run(t.b, &in, "INSERT INTO w VALUES (1)") == 0,
		"B14: a transaction");
	is_int(case_run(t.b, &in, "SELECT 1/0"), BROKER_E_DATABASE, "B14: that has failed");
	broker_release(&in.lease);
	is_str(case_text(t.b, NULL, "SELECT 'fine'", 0, NULL), "fine",
		"B14: is no matter of the next");
	is_int(broker_begin(t.b, NULL, &in.lease), 0, "B14: the same by broker_begin");
	is_int(case_run(t.b, &in, "SELECT 1/0"), BROKER_E_DATABASE, "B14: that has failed");
	broker_rollback(&in.lease);
	is_int(backend(), pid, "B14: the connection goes on");
	is_int(rows_of("w"), 0, "B14: nothing was written");
}

/* -- 15 ---------------------------------------------------------------------------------------- */

static bool runs(const char *query)
{
	return wait_until(
		pg_int(t.pg,
			"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND "
			"query LIKE '%s%%' AND application_name = 'shmbroker'",
			query) == 1,
		LONG_MS);
}

/* The next user is served soon, by a session in order. */
static void next_is_served(const char *what)
{
	int64_t start = wait_clock_ms();

	is_str(case_text(t.b, NULL, "SELECT 'fine'", 0, NULL), "fine",
		"B15: %s: the next is served", what);
	ok(behave_since(start) < 15000, "B15: %s: soon (%lld ms)", what,
		(long long)behave_since(start));
	is_int(rows_of("w"), 0, "B15: %s: nothing of it is there", what);
}

static int dies_in_copy(struct broker *b, void *arg)
{
	struct broker_call in = {.lease = lease(b)};
	struct broker_copy *c;

	(void)arg;
	if (broker_copy_in(b, "COPY w FROM STDIN", &in, &c) < 0 ||
		broker_copy_write(c, "1\n", 2) < 0 || !runs("COPY w FROM")) {
		return 1;
	}
	raise(SIGKILL);
	return 1;
}

static void test_15_busy(void)
{
	struct broker_call in = {0}, stream = {.flags = BROKER_STREAM};
	struct broker_result *r;
	struct broker_copy *c;
	const void *data;
	uint64_t ticket;
	size_t len;

	in.lease = lease(t.b);
	ticket = behave_submit(t.b, &in, "INSERT INTO w SELECT 1 FROM pg_sleep(60)");
	ok(runs("INSERT INTO w SELECT 1 FROM"), "B15: a statement runs");
	broker_release(&in.lease);
	next_is_served("released while a statement runs");
	ok(broker_collect(t.b, ticket, LONG_MS, NULL, NULL) < 0, "B15: which has failed");

	stream.lease = lease(t.b);
	ok(broker_exec(t.b, "SELECT repeat('x', 1000) FROM generate_series(1, 100000)", 0, NULL,
		   &stream, &r) == 0 &&
			broker_next(r) == 1,
		"B15: a result begins");
	broker_release(&stream.lease);
	next_is_served("released while rows come");
	broker_result_free(&r);

	in.lease = lease(t.b);
	ok(broker_copy_in(t.b, "COPY w FROM STDIN", &in, &c) == 0 &&
			broker_copy_write(c, "1\n", 2) == 0,
		"B15: a COPY has begun");
	broker_release(&in.lease);
	next_is_served("released while COPY takes data");
	ok(broker_copy_end(&c, NULL, NULL) < 0, "B15: which has failed");

	in.lease = lease(t.b);
	ok(broker_copy_out(t.b,
		   "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT", &in,
		   &c) == 0 &&
			broker_copy_read(c, &data, &len) == 0,
		"B15: a COPY gives data");
	broker_release(&in.lease);
	next_is_served("released while COPY gives data");
	ok(broker_copy_end(&c, NULL, NULL) < 0, "B15: which has failed");

	is_int(behave_ended(behave_worker(t.proc, dies_in_copy, NULL), LONG_MS), -1,
		"B15: a worker is killed in the middle of COPY");
	next_is_served("killed in COPY");
}

/* -- 16, 19 ------------------------------------------------------------------------------------ */

/* What the session of the scripted database was told to remember must be forgotten. */
static void test_19_discard(const char *rules, const char *reason, const char *what)
{
	struct behave f =
		behave_start("", SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=30s",
					 "pool main.validation_timeout=250ms"));
	struct broker_call in = {.lease = behave_hold(f.b, NULL, "set 42")};
	int64_t before = behave_int(f.b, &in, "who", 1);

	behave_rules(&f, rules);
	broker_release(&in.lease);
	is_int(behave_int(f.b, NULL, "get", 0), 0, "%s: the next finds a session that is clean",
		what);
	ok(behave_int(f.b, NULL, "who", 1) > before, "%s: on a connection made anew", what);
	is_int(behave_closed(f.proc), 1, "%s: the other was closed", what);
	ok(broker_log_count(f.proc, reason) > 0, "%s: the log says why", what);
	behave_end(&f);
}

static void test_16_rollback_fails(void)
{
	struct behave f = behave_start("reset_fail=1", SETTINGS("pool main.max_size=1"));
	struct broker_lease *l = NULL;
	int64_t before = behave_int(f.b, NULL, "who", 1);
	int rc = broker_begin(f.b, NULL, &l);

	rc = rc == 0 ? behave_run(f.b, &(struct broker_call){.lease = l}, "affect 1") : rc;
	is_int(rc, 0, "B16: a transaction");
	broker_detach(&f.b); /* no ROLLBACK of its own: the broker has to */
	broker_rollback(&l);
	f.b = behave_attach(f.proc);
	ok(behave_int(f.b, NULL, "who", 1) > before,
		"B16: cannot be rolled back: the connection is not used again");
	is_int(behave_closed(f.proc), 1, "B16: but closed");
	behave_end(&f);
}

/* While one connection is being cleaned others serve. */
static void test_19_slow_reset(void)
{
	struct behave f = behave_start("reset_ms=20000", SETTINGS("pool main.max_size=2"));
	struct broker_lease *l = behave_hold(f.b, NULL, "set 42");
	int64_t start;
	unsigned good = 0;

	broker_release(&l);
	start = wait_clock_ms();
	for (unsigned i = 0; i < 50; i++) {
		good += behave_int(f.b, NULL, "get", 0) == 0;
	}
	ok(good == 50 && behave_since(start) < 10000,
		"B19: cleaning that takes long delays nobody (%lld ms)",
		(long long)behave_since(start));
	behave_end(&f);
}

/* PostgreSQL itself: DISCARD ALL runs into a limit that the session set itself. */
static void test_19_reset_cancelled(void)
{
	struct broker_call in = {.lease = lease(t.b)};
	unsigned made = 0;

	for (unsigned i = 0; i < 300; i++) {
		char sql[80];

		snprintf(sql, sizeof(sql), "CREATE TEMP TABLE many%u (a text, b text)", i);
		made += case_run(t.b, &in, sql) == 0;
	}
	is_int(made, 300, "B19: much to clean");
	is_int(case_run(t.b, &in, "SET statement_timeout = '1ms'"), 0, "B19: and no time for it");
	broker_release(&in.lease);
	is_str(case_text(t.b, NULL, "SHOW statement_timeout", 0, NULL), "0",
		"B19: the next has time");
	is_str(case_text(t.b, NULL,
		       "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()", 0,
		       NULL),
		"0", "B19: and finds nothing");
}

/* -- 17, 18, 49: a hostile neighbour ----------------------------------------------------------- */

enum where {
	ALONE, /* statements without a lease, each on its own */
	READS, /* the same, declared read-only */
	LEASE, /* in a lease */
	TX, /* in a transaction that commits */
};

#define STATEMENTS_MAX 6

struct attack {
	enum where where;
	const char *sql[STATEMENTS_MAX];
};

/*
 * Everything of a session that another could notice, as one line.  The names in it are those of
 * functions behind the well-known views, which the broker does not suspect.
 */
static const char snapshot[] =
	"SELECT concat_ws(' ', current_user, session_user, "
	"current_setting('transaction_read_only'), "
	"(SELECT v FROM item), 'settings', (SELECT string_agg(name || '=' || setting, ',' ORDER BY "
	"name) "
	"FROM pg_show_all_settings() WHERE source = 'session' AND "
	"name NOT IN ('default_transaction_read_only', 'transaction_read_only')), "
	"'own', nullif(current_setting('app.tenant', true), ''), "
	"'prepared', (SELECT count(*) FROM pg_prepared_statement() WHERE from_sql), "
	"'cursors', (SELECT count(*) FROM pg_cursor() WHERE is_holdable), "
	"'locks', (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = "
	"pg_backend_pid()), "
	"'channels', (SELECT count(*) FROM pg_listening_channels()), "
	"'relations', (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()))";
static const char clean[] = "postgres postgres off real settings own prepared 0 cursors 0 locks 0 "
			    "channels 0 relations 0";

static const struct attack attacks[] = {
	/* settings */
	{LEASE, {"SET work_mem = '123kB'"}},
	{ALONE, {"SET work_mem = '123kB'"}},
	{TX, {"SET work_mem = '123kB'"}},
	{LEASE, {"/* SET LOCAL */ SET SESSION work_mem TO '123kB'"}},
	{LEASE, {"SET search_path = evil, public"}},
	{TX, {"SET search_path = evil, public", "SET LOCAL work_mem = '1MB'"}},
	{ALONE, {"SELECT set_config('search_path', 'evil', false)"}},
	{LEASE, {"SELECT \"set_config\"('search_path', 'evil', false)"}},
	{TX, {"SELECT count(pg_catalog.set_config('search_path', 'evil', false))"}},
	{READS, {"SELECT set_config('search_path', 'evil', false)"}},
	{READS, {"SET work_mem = '123kB'"}},
	{READS, {"SELECT pg_advisory_lock(1)"}},
	{READS, {"SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"}},
	{ALONE, {"WITH x AS MATERIALIZED (SELECT set_config('search_path', 'evil', false) v) "
		 "INSERT INTO scrap SELECT v FROM x"}},
	{LEASE, {"UPDATE pg_settings SET setting = 'evil' WHERE name = 'search_path'"}},
	{ALONE, {"DO $$ BEGIN PERFORM set_config('search_path', 'evil', false); END $$"}},
	{LEASE, {"DO $$ BEGIN EXECUTE 'SET search_' || 'path = evil'; END $$"}},
	{TX, {"DO LANGUAGE plpgsql 'BEGIN SET work_mem = ''123kB''; END'"}},
	{ALONE, {"CALL change()"}},
	{LEASE, {"CALL change()"}},
	{ALONE, {"SELECT set_config('app.tenant', '42', false)"}},
	{LEASE, {"SET app.tenant = 42"}},
	{LEASE, {"SET TIME ZONE 'Asia/Tokyo'", "SET datestyle = 'German'",
			"SET client_encoding = 'LATIN1'"}},
	{LEASE, {"SET standard_conforming_strings = off", "SET bytea_output = 'escape'",
			"SET extra_float_digits = 0", "SET intervalstyle = 'iso_8601'"}},
	{LEASE, {"SET default_transaction_read_only = on", "SET default_transaction_isolation = "
							   "'serializable'"}},
	{LEASE, {"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"}},
	{LEASE, {"SET statement_timeout = 1", "RESET work_mem"}},
	{LEASE, {"SET idle_session_timeout = '30min'", "SET lock_timeout = 1"}},
	{LEASE, {"SET session_replication_role = replica", "SET row_security = off"}},
	{LEASE, {"BEGIN", "SET work_mem = '123kB'", "COMMIT"}},
	{LEASE, {"BEGIN", "SET work_mem = '123kB'", "COMMIT AND CHAIN",
			"SET LOCAL lock_timeout = 1"}},
	{LEASE, {"BEGIN READ ONLY", "SELECT 1"}},
	{LEASE, {"RESET ALL", "SET work_mem = '123kB'"}},
	/* by names and functions that hide it */
	{ALONE, {"SELECT U&\"\\0073et_config\"('search_path', 'evil', false)"}},
	{ALONE, {"SELECT query_to_xml('SELECT set_c' || 'onfig(''search_path'', ''evil'', false)', "
		 "true, "
		 "true, '')"}},
	{READS, {"SELECT count(*) FROM ts_stat('SELECT set_c' || "
		 "'onfig(''search_path'', ''evil'', false)::tsvector')"}},
	/* who one is */
	{LEASE, {"SET ROLE nobody"}},
	{ALONE, {"SET ROLE nobody"}},
	{TX, {"SET SESSION AUTHORIZATION nobody"}},
	{LEASE, {"SET SESSION AUTHORIZATION nobody", "SET work_mem = '123kB'"}},
	{ALONE, {"SELECT set_config('role', 'nobody', false)"}},
	/* relations that hide others */
	{LEASE, {"CREATE TEMP TABLE item AS SELECT 'forged' AS v"}},
	{ALONE, {"CREATE TEMPORARY TABLE item AS SELECT 'forged' AS v"}},
	{ALONE, {"SELECT 'forged' AS v INTO TEMP item"}},
	{TX, {"CREATE LOCAL TEMP VIEW item AS SELECT 'forged' AS v"}},
	{ALONE, {"CREATE TABLE pg_temp.item AS SELECT 'forged' AS v"}},
	{LEASE, {"SET search_path = pg_temp", "CREATE TABLE item (v text)", "RESET search_path"}},
	{ALONE, {"CREATE TABLE pg_temp_3.item AS SELECT 'forged' AS v"}},
	{ALONE, {"CREATE TABLE pg_temp_4.item AS SELECT 'forged' AS v"}},
	{ALONE, {"CREATE TABLE U&\"pg\\005ftemp\".item AS SELECT 'forged' AS v"}},
	{LEASE, {"CREATE TEMP SEQUENCE item"}},
	{TX, {"CREATE TEMP TABLE gone (v text) ON COMMIT DROP",
		     "CREATE TEMP TABLE stays (v text)"}},
	{LEASE, {"CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
			"SELECT pg_temp.f()"}},
	/* locks */
	{ALONE, {"SELECT pg_advisory_lock(1)"}},
	{LEASE, {"SELECT pg_advisory_lock(1)", "SELECT pg_advisory_lock(1)",
			"SELECT pg_advisory_unlock(1)"}},
	{TX, {"SELECT pg_try_advisory_lock(1, 2)", "SELECT pg_advisory_xact_lock(3)"}},
	{ALONE, {"SELECT count(pg_advisory_lock_shared(a)) FROM generate_series(1, 20) a"}},
	{LEASE, {"DO $$ BEGIN EXECUTE 'SELECT pg_adv' || 'isory_lock(1)'; END $$"}},
	/* notifications */
	{ALONE, {"LISTEN evil"}},
	{TX, {"LISTEN evil", "LISTEN \"more\"", "NOTIFY evil"}},
	{LEASE, {"LISTEN evil", "UNLISTEN other"}},
	/* cursors */
	{TX, {"DECLARE c CURSOR WITH HOLD FOR SELECT 1"}},
	{LEASE, {"BEGIN", "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1", "COMMIT", "FETCH c"}},
	{LEASE, {"BEGIN", "DECLARE c CURSOR FOR SELECT 1", "FETCH c"}},
	{ALONE, {"DECLARE c CURSOR WITH HOLD FOR SELECT 1"}},
	/* prepared names, those of the broker too */
	{LEASE, {"PREPARE mine AS SELECT 1", "EXECUTE mine"}},
	{ALONE, {"PREPARE mine AS SELECT 1"}},
	{LEASE, {"PREPARE s1 AS SELECT 'forged'", "PREPARE s2 AS SELECT 'forged'",
			"PREPARE s3 AS SELECT 'forged'", "PREPARE s4 AS SELECT 'forged'"}},
	{LEASE, {"DEALLOCATE ALL"}},
	{ALONE, {"DEALLOCATE ALL"}},
	{TX, {"DEALLOCATE ALL", "SELECT 1"}},
	{LEASE, {"SELECT 1", "DEALLOCATE PREPARE ALL", "SELECT 1"}},
	/* DISCARD */
	{ALONE, {"DISCARD ALL"}},
	{LEASE, {"DISCARD ALL", "SET work_mem = '123kB'"}},
	{LEASE, {"DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD TEMP"}},
	{LEASE, {"CREATE TEMP TABLE item (v text)", "DISCARD TEMP",
			"CREATE TEMP TABLE item (v text)"}},
};

/* Some of them fail, and some leave their transaction failed: that is all the same here. */
static void attack(struct broker *b, const struct attack *a)
{
	struct broker_call in = {.timeout_ms = LONG_MS};
	int rc = 0;

	if (a->where == READS) {
		in.flags = BROKER_READONLY;
	} else if (a->where == LEASE) {
		rc = broker_lease(b, &in, &in.lease);
	} else if (a->where == TX) {
		rc = broker_begin(b, &in, &in.lease);
	}
	for (unsigned i = 0; rc == 0 && i < STATEMENTS_MAX && a->sql[i] != NULL; i++) {
		(void)!behave_run(b, &in, a->sql[i]);
	}
	if (a->where == LEASE) {
		broker_release(&in.lease);
	} else if (a->where == TX) {
		(void)!broker_commit(&in.lease, LONG_MS);
	}
}

/* What the next one sees, with or without a lease. */
static const char *look(struct broker *b, bool leased)
{
	struct broker_call in = {.timeout_ms = LONG_MS};
	const char *seen;

	if (leased && broker_lease(b, &in, &in.lease) < 0) {
		return "no lease";
	}
	seen = case_text(b, &in, snapshot, 0, NULL);
	broker_release(&in.lease);
	return seen;
}

static void prepare_stage(void)
{
	pg_do(t.pg, "CREATE TABLE w (a int)");
	pg_do(t.pg, "CREATE TABLE scrap (a text)");
	pg_do(t.pg, "CREATE TABLE item AS SELECT 'real'::text AS v");
	pg_do(t.pg, "CREATE SCHEMA evil");
	pg_do(t.pg, "CREATE TABLE evil.item AS SELECT 'forged'::text AS v");
	pg_do(t.pg, "CREATE ROLE nobody");
	pg_do(t.pg, "GRANT SELECT ON item TO nobody");
	pg_do(t.pg, "CREATE PROCEDURE change() LANGUAGE plpgsql AS "
		    "$$ BEGIN PERFORM set_config('search_path', 'evil', false); END $$");
}

static void test_17_neighbour(void)
{
	struct broker *victim = case_attach(t.proc);

	is_str(look(victim, false), clean, "B17: what a clean session looks like");
	for (unsigned i = 0; i < array_size(attacks); i++) {
		attack(t.b, &attacks[i]);
		is_str(look(victim, false), clean, "B17: nothing crosses to a statement: %s",
			attacks[i].sql[0]);
		attack(t.b, &attacks[i]);
		is_str(look(victim, true), clean, "B17: nor to a lease: %s", attacks[i].sql[0]);
	}
	broker_detach(&victim);
}

/* Queries within COPY, and what stands behind it in the same text. */
static void test_17_copy(void)
{
	static const char *const copies[] = {
		"COPY (SELECT set_config('search_path', 'evil', false)) TO STDOUT",
		"COPY (SELECT pg_advisory_lock(1)) TO STDOUT",
		"COPY item TO STDOUT; SET search_path = evil",
		"COPY item TO STDOUT; SELECT set_config('search_path', 'evil', false)",
		"COPY item TO STDOUT; CREATE TEMP TABLE item (v text)",
		"COPY item TO STDOUT; BEGIN",
		"COPY item TO STDOUT; LISTEN evil",
	};

	for (unsigned i = 0; i < array_size(copies); i++) {
		struct broker_call in = {.lease = lease(t.b)};
		struct broker_copy *c = NULL;
		const void *data;
		size_t len = 1;
		int rc = broker_copy_out(t.b, copies[i], &in, &c);

		while (rc == 0 && len > 0) {
			rc = broker_copy_read(c, &data, &len);
		}
		(void)!broker_copy_end(&c, NULL, NULL);
		broker_release(&in.lease);
		is_str(look(t.b, i % 2 == 0), clean, "B17: nor after %s", copies[i]);
	}
}

/* DISCARD ALL does not undo these, so the connection has to go. */
static void test_17_indelible(void)
{
	static const char *const sql[] = {
		"SELECT setseed(0.5)", "SET seed = 0.5", "LOAD 'plpgsql'"};

	for (unsigned i = 0; i < array_size(sql); i++) {
		int64_t pid = backend();

		is_int(case_run(t.b, NULL, sql[i]), 0, "B17: %s", sql[i]);
		ok(backend() != pid, "B17: is not for the next user");
	}
}

/* What only the server knows: code that is stored there.  With reset = always it stays in its
 * lease. */
static const struct attack stored[] = {
	{ALONE, {"SELECT sneak()"}},
	{READS, {"SELECT sneak()"}},
	{LEASE, {"SELECT sneak()"}},
	{TX, {"SELECT sneak()"}},
	{ALONE, {"SELECT * FROM sneaky"}},
	{READS, {"SELECT * FROM sneaky"}},
	{ALONE, {"INSERT INTO scrap VALUES ('x')"}},
	{TX, {"INSERT INTO scrap VALUES ('x')"}},
	{LEASE, {"SELECT 1"}},
};

static void test_17_stored(void)
{
	struct broker_proc *p = broker_start(
		pg_url(t.pg), SETTINGS("pool main.max_size=1", "pool main.reset=always"));
	struct broker *hostile = case_attach(p), *victim = case_attach(p);

	pg_do(t.pg, "CREATE FUNCTION sneak() RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
		    "PERFORM set_config('search_path', 'evil', false), pg_advisory_lock(17); "
		    "CREATE TEMP TABLE item AS SELECT 'forged' AS v; EXECUTE 'LISTEN evil'; "
		    "RETURN 1; END $$");
	pg_do(t.pg, "CREATE VIEW sneaky AS SELECT sneak()");
	pg_do(t.pg, "CREATE FUNCTION on_scrap() RETURNS trigger LANGUAGE plpgsql AS "
		    "$$ BEGIN PERFORM sneak(); RETURN NEW; END $$");
	pg_do(t.pg, "CREATE TRIGGER scrap BEFORE INSERT ON scrap FOR EACH ROW EXECUTE FUNCTION "
		    "on_scrap()");
	for (unsigned i = 0; i < array_size(stored); i++) {
		attack(hostile, &stored[i]);
		is_str(look(victim, i % 2 == 0), clean, "B17: reset = always: nothing crosses: %s",
			stored[i].sql[0]);
	}
	pg_do(t.pg, "DROP TRIGGER scrap ON scrap");
	broker_detach(&hostile);
	broker_detach(&victim);
	is_int(broker_free(&p), 0, "the broker ends well");
}

static void test_18_names(void)
{
	struct broker_call in = {.lease = lease(t.b)};

	ok(case_run(t.b, &in, "PREPARE mine AS SELECT 7") == 0 &&
			case_run(t.b, &in, "BEGIN") == 0 &&
			case_run(t.b, &in, "DECLARE c CURSOR WITH HOLD FOR SELECT 7") == 0 &&
			case_run(t.b, &in, "COMMIT") == 0,
		"B18: a prepared statement and a cursor");
	is_str(case_text(t.b, &in, "EXECUTE mine", 0, NULL), "7", "B18: serve in their lease");
	is_str(case_text(t.b, &in, "FETCH c", 0, NULL), "7", "B18: both");
	broker_release(&in.lease);
	is_int(case_run(t.b, NULL, "EXECUTE mine"), BROKER_E_DATABASE, "B18: and nowhere else");
	is_str(case_sqlstate(t.b), "26000", "B18: there is no such statement");
	is_int(case_run(t.b, NULL, "FETCH c"), BROKER_E_DATABASE, "B18: and");
	is_str(case_sqlstate(t.b), "34000", "B18: no such cursor");
}

/* The broker's own prepared statements survive it, in whatever way they were touched. */
static void test_18_broker_names(void)
{
	struct broker_value v = broker_int64(20);
	struct broker_call in = {0};
	unsigned right = 0;
	char sql[100];

	for (unsigned i = 0; i < 8; i++) {
		right += strcmp(case_text(t.b, NULL, "SELECT 1 + $1", 1, &v), "21") == 0;
	}
	in.lease = lease(t.b);
	for (unsigned i = 1; i < 200; i++) {
		snprintf(sql, sizeof(sql), "DEALLOCATE s%u", i);
		(void)!case_run(t.b, &in, sql);
		snprintf(sql, sizeof(sql), "PREPARE s%u (int) AS SELECT 666", i);
		(void)!case_run(t.b, &in, sql);
	}
	broker_release(&in.lease);
	for (unsigned i = 0; i < 8; i++) {
		right += strcmp(case_text(t.b, NULL, "SELECT 1 + $1", 1, &v), "21") == 0;
	}
	is_int(right, 16,
		"B18: a neighbour that takes the broker's names gets nobody's statements");
}

/* -- many of them at once ---------------------------------------------------------------------- */

struct crowd {
	_Atomic int stop;
	_Atomic uint64_t attacks, looks, wrong;
	uint64_t seed;
	char first[600];
};

static int hostile_worker(struct broker *b, void *arg)
{
	struct crowd *c = arg;
	struct behave_rng rng = {c->seed ^ (uint64_t)getpid()};

	while (atomic_load(&c->stop) == 0) {
		attack(b, &attacks[behave_random(&rng, array_size(attacks))]);
		atomic_fetch_add(&c->attacks, 1);
	}
	return 0;
}

static int victim_worker(struct broker *b, void *arg)
{
	struct crowd *c = arg;
	struct behave_rng rng = {c->seed ^ (uint64_t)getpid()};

	while (atomic_load(&c->stop) == 0) {
		const char *seen = look(b, behave_random(&rng, 2) == 0);

		if (strcmp(seen, clean) != 0 && atomic_fetch_add(&c->wrong, 1) == 0) {
			snprintf(c->first, sizeof(c->first), "%.590s", seen);
		}
		atomic_fetch_add(&c->looks, 1);
	}
	return 0;
}

/* size: of the pool; with one connection everybody waits, and follows a reset. */
static void test_49_crowd(const char *size, unsigned kills)
{
	struct crowd *c = behave_share(sizeof(*c));
	struct broker_proc *p =
		broker_start(pg_url(t.pg), SETTINGS(size, "pool main.acquire_timeout=60s"));
	pid_t pid[8];

	c->seed = behave_seed("F49").state;
	for (unsigned i = 0; i < 8; i++) {
		pid[i] = behave_worker(p, i < 5 ? hostile_worker : victim_worker, c);
	}
	for (unsigned i = 0; i < kills; i++) {
		uint64_t before = atomic_load(&c->attacks), looks = atomic_load(&c->looks);

		if (!wait_until(atomic_load(&c->attacks) > before + 10 &&
					atomic_load(&c->looks) > looks,
			    LONG_MS)) {
			ok(false, "F49: work goes on");
			break;
		}
		kill(pid[i % 5], SIGKILL);
		(void)behave_ended(pid[i % 5], LONG_MS);
		pid[i % 5] = behave_worker(p, hostile_worker, c);
	}
	atomic_store(&c->stop, 1);
	for (unsigned i = 0; i < 8; i++) {
		(void)behave_ended(pid[i], LONG_MS);
	}
	if (!is_int((int64_t)atomic_load(&c->wrong), 0,
		    "F49: %s: %llu attacks, some cut short by death, and %llu looks: nothing "
		    "crosses",
		    size, (unsigned long long)atomic_load(&c->attacks),
		    (unsigned long long)atomic_load(&c->looks))) {
		diag("  %s", c->first);
	}
	behave_unshare(c, sizeof(*c));
	is_int(broker_free(&p), 0, "the broker ends well");
}

int main(void)
{
	test_19_discard("reset_fail=1", "could not be cleaned", "B19: cleaning fails");
	test_19_discard("reset_hang=1", "does not answer", "B19: cleaning hangs");
	test_16_rollback_fails();
	test_19_slow_reset();
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(NULL, SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=30s"));
	prepare_stage();
	test_13_open_transaction();
	test_14_failed_transaction();
	test_15_busy();
	test_17_neighbour();
	test_17_copy();
	test_17_indelible();
	test_17_stored();
	test_18_names();
	test_18_broker_names();
	test_19_reset_cancelled();
	test_49_crowd("pool main.max_size=3", stage_quick() ? 20 : 200);
	test_49_crowd("pool main.max_size=1", stage_quick() ? 10 : 50);
	case_end(&t);
	return done_testing();
}
