/* SPDX-License-Identifier: MIT */
/*
 * test_handover.c - a connection whose session was touched, handed to somebody who waits for it: it
 * is cleaned in front of his first statement, in the same message, and not a round trip before.
 *
 * One connection.  Round trips are counted by the broker's writes to the server's socket: what is
 * written at once is one.  However the cleaning ends, what was sent behind it runs once, in a clean
 * session, or not at all.
 */
#include "behave.h"
#include "check.h"
#include "pg_case.h"
#include "proxy.h"

#define USERS 8u
#define LONG_MS 60000

static struct pg_case t;

/* Who waits for the connection. */
enum kind {
	WRITE,
	READ,
	LEASE,
	READ_LEASE,
	TX,
	KINDS
};
static const char *const names[KINDS] = {
	"a statement", "a declared read", "a lease", "a read-only lease", "a transaction"};

struct user {
	struct broker *b;
	struct broker_lease *lease;
	uint64_t ticket;
};

static struct user ask(struct broker_proc *p, enum kind kind, const char *sql, int64_t timeout_ms)
{
	struct broker_call in = {.timeout_ms = timeout_ms};
	struct user u = {.b = behave_attach(p)};
	int rc = 0;

	in.flags = kind == READ || kind == READ_LEASE ? BROKER_READONLY : 0;
	if (kind == LEASE || kind == READ_LEASE) {
		rc = broker_lease(u.b, &in, &u.lease);
	} else if (kind == TX) {
		rc = broker_begin(u.b, &in, &u.lease);
	}
	if (rc < 0) {
		bail_out("%s", broker_error(u.b)->message);
	}
	in.lease = u.lease;
	u.ticket = behave_submit(u.b, &in, sql);
	return u;
}

/* Of the last answer that was an error. */
static bool worth_repeating;

/* What the statement said, first column of the first row; then the user goes. */
static const char *answer(struct user *u)
{
	static char text[600];
	struct broker_result *r = NULL;
	const char *cell = "done";
	int rc = broker_collect(u->b, u->ticket, LONG_MS, NULL, &r);

	if (rc == 0 && broker_next(r) == 1) {
		rc = broker_get_text(r, 0, &cell, NULL);
	}
	if (rc < 0) {
		worth_repeating = broker_error(u->b)->retry_safe;
		snprintf(text, sizeof(text), "%d %s %s", rc, broker_error(u->b)->sqlstate,
			broker_error(u->b)->outcome == BROKER_NOT_DONE ? "not done" : "unknown");
	} else {
		snprintf(text, sizeof(text), "%s", cell);
	}
	broker_result_free(&r);
	if (u->lease != NULL) { /* of a transaction: commits; else a release */
		(void)!broker_commit(&u->lease, LONG_MS);
		broker_release(&u->lease);
	}
	broker_detach(&u->b);
	return text;
}

static bool waits(struct broker_proc *p, int64_t n)
{
	return wait_until(behave_waiting(p) == n, LONG_MS);
}

/* -- round trips ------------------------------------------------------------------------------- */

static void test_one_write_each(const char *how, struct broker_proc *p, const char *sql)
{
	struct broker *b = behave_attach(p);
	struct broker_lease *l = behave_hold(b, NULL, "SET work_mem = '1MB'");
	int64_t writes, resets;
	uint64_t ticket[USERS];
	unsigned good = 0;

	for (unsigned i = 0; i < USERS; i++) {
		ticket[i] = behave_submit(b, NULL, sql);
	}
	ok(waits(p, USERS), "%s: %u users wait for a connection that has to be cleaned", how,
		USERS);
	writes = behave_metric(p, "broker_flushes_total", "");
	resets = behave_metric(p, "broker_resets_total", "");
	broker_release(&l);
	for (unsigned i = 0; i < USERS; i++) {
		good += broker_collect(b, ticket[i], LONG_MS, NULL, NULL) == 0;
	}
	is_int(good, USERS, "%s: all are served", how);
	ok(wait_until(behave_conns(p, "idle") == 1, LONG_MS), "%s: then it is idle", how);
	is_int(behave_metric(p, "broker_resets_total", "") - resets, USERS + 1,
		"%s: it was cleaned for each of them, and after the last", how);
	is_int(behave_metric(p, "broker_flushes_total", "") - writes, USERS + 1,
		"%s: with one write each, and one at the end", how);
	broker_detach(&b);
}

static void test_reset_always(void)
{
	struct broker_proc *p = broker_start(
		pg_url(t.pg), SETTINGS("pool main.max_size=1", "pool main.reset=always"));

	test_one_write_each("reset = always", p, "SELECT count(*) FROM w");
	is_int(broker_free(&p), 0, "the broker ends well");
}

/* -- nothing crosses --------------------------------------------------------------------------- */

static const char *const marks[] = {
	"SET work_mem = '123kB'",
	"SET default_transaction_read_only = on",
	"SELECT set_config('search_path', 'evil', false)",
	"CREATE TEMP TABLE item AS SELECT 'forged' AS v",
	"SELECT pg_advisory_lock(1)",
	"LISTEN evil",
	"PREPARE mine AS SELECT 1",
	"DO $$ BEGIN PERFORM pg_advisory_lock(2), set_config('work_mem', '123kB', false); END $$",
	"DEALLOCATE ALL",
	"DECLARE c CURSOR WITH HOLD FOR SELECT 1",
	"SET ROLE nobody",
};

static const char look[] =
	"SELECT concat_ws(' ', current_user, (SELECT v FROM item), current_setting('work_mem'), "
	"current_setting('default_transaction_isolation'), "
	"(SELECT count(*) FROM pg_prepared_statement() WHERE from_sql), "
	"(SELECT count(*) FROM pg_cursor() WHERE is_holdable), "
	"(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), "
	"(SELECT count(*) FROM pg_listening_channels()), "
	"(SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()))";
static const char clean[] = "postgres real 4MB read committed 0 0 0 0 0";

/* Users of all kinds in a row, somebody who leaves something before each of them. */
static void test_queue(void)
{
	for (unsigned i = 0; i < array_size(marks); i++) {
		struct broker_lease *l = behave_hold(t.b, NULL, marks[i % 2]);
		uint64_t mark[KINDS];
		struct user u[KINDS];

		for (unsigned k = 0; k < KINDS; k++) {
			mark[k] = behave_submit(t.b, NULL, marks[i]);
			ok(waits(t.proc, 2 * k + 1), "%s waits", marks[i]);
			u[k] = ask(t.proc, (enum kind)k, look, LONG_MS);
			ok(waits(t.proc, 2 * k + 2), "and %s behind it", names[k]);
		}
		broker_release(&l);
		for (unsigned k = 0; k < KINDS; k++) {
			is_int(broker_collect(t.b, mark[k], LONG_MS, NULL, NULL),
				0, "it has run");
			is_str(answer(&u[k]), clean, "and has left nothing to %s", names[k]);
		}
	}
}

/* Who drops all that is prepared in front of others of his own: what comes behind it runs all the
 * same. */
static void test_drops_prepared(void)
{
	static const char *const drop[] = {"DEALLOCATE ALL", "DISCARD ALL", "SELECT drop_all()"};

	for (unsigned i = 0; i < array_size(drop); i++) {
		struct broker_lease *l = behave_hold(t.b, NULL, "SET work_mem = '1MB'");
		struct user u = ask(t.proc, LEASE, drop[i], LONG_MS);
		struct broker_call in = {.lease = u.lease, .timeout_ms = LONG_MS};
		uint64_t first = u.ticket;

		u.ticket = behave_submit(u.b, &in, "SELECT 'fine'");
		ok(waits(t.proc, 1), "%s, and a statement behind it", drop[i]);
		broker_release(&l);
		is_int(broker_collect(u.b, first, LONG_MS, NULL, NULL), 0, "it is done");
		is_str(answer(&u), "fine", "and the one behind it as well");
	}
}

/* The same in front of somebody else's, on the same connection. */
static void test_drops_prepared_of_another(void)
{
	for (unsigned i = 0; i < 3; i++) { /* unprepared, prepared by the same, prepared before */
		struct broker_lease *l = behave_hold(t.b, NULL, "SET work_mem = '1MB'");
		int64_t shared = behave_metric(t.proc, "broker_shared_sends_total", "");
		struct user u = ask(t.proc, READ, "SELECT drop_all()", LONG_MS), v;

		ok(waits(t.proc, 1), "a read that drops all that is prepared");
		v = ask(t.proc, READ, "SELECT 'fine'", LONG_MS);
		ok(waits(t.proc, 2), "and one of another worker behind it");
		broker_release(&l);
		is_str(answer(&u), "dropped", "it is done");
		is_str(answer(&v), "fine", "and the one behind it as well");
		ok(behave_metric(t.proc, "broker_shared_sends_total", "") > shared,
			"they were in flight together");
	}
}

/* Behind the cleaning as anywhere: what is declared read-only writes nothing. */
static void test_readonly_behind_reset(void)
{
	static const enum kind kinds[] = {READ, READ_LEASE};

	for (unsigned i = 0; i < array_size(kinds); i++) {
		struct broker_lease *l = behave_hold(t.b, NULL, "SET work_mem = '1MB'");
		struct user u = ask(t.proc, kinds[i], "INSERT INTO w VALUES (66)", LONG_MS);
		char refused[40];

		snprintf(refused, sizeof(refused), "%d 25006 not done", BROKER_E_DATABASE);
		ok(waits(t.proc, 1), "%s that writes", names[kinds[i]]);
		broker_release(&l);
		is_str(answer(&u), refused, "is refused");
	}
	is_int(pg_int(t.pg, "SELECT count(*) FROM w WHERE a = 66"), 0, "nothing was written");
}

/* -- the cleaning fails ------------------------------------------------------------------------ */

/* A session that is much to clean, and has no time for it. */
static struct broker_lease *hold_what_cannot_be_cleaned(void)
{
	struct broker_call in = {.lease = behave_hold(t.b, NULL, "SET work_mem = '123kB'")};

	if (case_run(t.b, &in,
		    "DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE 'CREATE TEMP TABLE many' || i || "
		    "' (a text, b text)'; END LOOP; END $$") < 0 ||
		case_run(t.b, &in, "SET statement_timeout = '1ms'") < 0) {
		bail_out("%s", broker_error(t.b)->message);
	}
	return in.lease;
}

/* Each runs once, elsewhere; the statement says so itself. */
static void test_fails(void)
{
	for (unsigned k = 0; k < KINDS; k++) {
		bool reads = k == READ || k == READ_LEASE;
		struct broker_lease *l = hold_what_cannot_be_cleaned();
		unsigned before = broker_log_count(t.proc, "could not be cleaned");
		struct user u = ask(t.proc, (enum kind)k,
			reads ? "SELECT current_setting('work_mem')"
			      : "INSERT INTO w VALUES (1) RETURNING current_setting('work_mem')",
			LONG_MS);

		pg_do(t.pg, "TRUNCATE w");
		ok(waits(t.proc, 1), "%s waits", names[k]);
		broker_release(&l);
		is_str(answer(&u), "4MB", "it runs in a session that is clean");
		is_int(pg_int(t.pg, "SELECT count(*) FROM w"), reads ? 0 : 1, "%s",
			reads ? "and reads" : "once");
		ok(broker_log_count(t.proc, "could not be cleaned") > before,
			"the connection it was given before could not be cleaned");
	}
}

/* -- the cleaning hangs ------------------------------------------------------------------------ */

static PGconn *lock;

static void lock_do(const char *sql)
{
	PGresult *r = PQexec(lock, sql);

	if (PQresultStatus(r) != PGRES_COMMAND_OK) {
		bail_out("%s: %s", sql, PQerrorMessage(lock));
	}
	PQclear(r);
}

/* A temporary table that cannot be dropped, since somebody has locked it. */
static struct broker_lease *hold_what_hangs(void)
{
	struct broker_call in = {
		.lease = behave_hold(t.b, NULL, "CREATE TEMP TABLE stuck (a int)")};
	char sql[200];

	snprintf(sql, sizeof(sql), "LOCK TABLE %.64s.stuck IN ACCESS SHARE MODE",
		case_text(t.b, &in, "SELECT nspname FROM pg_namespace WHERE oid = "
				    "pg_my_temp_schema()", 0, NULL));
	lock = pg_connect(t.pg);
	lock_do("BEGIN");
	lock_do(sql);
	return in.lease;
}

static void unlock(void)
{
	PQfinish(lock);
	lock = NULL;
}

#define CLEANED "query = 'DISCARD ALL' AND wait_event_type = 'Lock'"

static bool hangs(void)
{
	return wait_until(
		pg_int(t.pg, "SELECT count(*) FROM pg_stat_activity WHERE " CLEANED) == 1, LONG_MS);
}

/* With a broker of its own, that would wait longer for the cleaning than the user does. */
static void test_deadline_meanwhile(void)
{
	struct pg_case usual = t;
	struct broker_lease *l;
	struct user u;
	char late[40], unknown[40];
	const char *told;

	t.proc = broker_start(
		pg_url(t.pg), SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=200s",
				      "pool main.validation_timeout=100s"));
	t.b = behave_attach(t.proc);
	l = hold_what_hangs();
	u = ask(t.proc, WRITE, "INSERT INTO w VALUES (2)", 6000);

	snprintf(late, sizeof(late), "%d  not done", BROKER_E_TIMEOUT);
	snprintf(unknown, sizeof(unknown), "%d  unknown", BROKER_E_OUTCOME_UNKNOWN);
	ok(waits(t.proc, 1), "a write waits");
	broker_release(&l);
	ok(hangs(), "behind a cleaning that hangs");
	told = answer(&u);
	/* the broker's word may come when the library does not wait for it any more */
	ok(strcmp(told, late) == 0 || strcmp(told, unknown) == 0,
		"at its deadline it is known that it was not done, or not known (%s)", told);
	unlock();
	is_int(pg_int(t.pg, "SELECT count(*) FROM w WHERE a = 2"), 0, "which is true");
	broker_detach(&t.b);
	is_int(broker_free(&t.proc), 0, "the broker ends well");
	t = usual;
}

static void test_hangs(bool terminate)
{
	for (unsigned k = 0; k < KINDS; k++) {
		bool reads = k == READ || k == READ_LEASE;
		struct broker_lease *l = hold_what_hangs();
		struct user u = ask(t.proc, (enum kind)k,
			reads ? "SELECT 'fine'" : "INSERT INTO w VALUES (3) RETURNING 'fine'",
			LONG_MS);

		pg_do(t.pg, "TRUNCATE w");
		ok(waits(t.proc, 1), "%s waits", names[k]);
		broker_release(&l);
		ok(hangs(), "behind a cleaning that hangs");
		if (terminate) {
			pg_do(t.pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
				    CLEANED);
		}
		is_str(answer(&u), "fine", "%s: it is served elsewhere",
			terminate ? "whose connection is ended" : "for too long");
		is_int(pg_int(t.pg, "SELECT count(*) FROM w"), reads ? 0 : 1, "%s",
			reads ? "it reads" : "once");
		unlock();
	}
}

/* -- the cancel comes late ----------------------------------------------------------------------
 */

static bool runs_behind(void)
{
	return pg_int(t.pg, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%gate%%' AND "
			    "application_name = 'shmbroker' AND wait_event_type = 'Lock'") == 1;
}

/*
 * The cleaning hangs and is cancelled; the cancel is under way until the cleaning has ended by
 * itself and what was sent behind it runs, and hits that.
 */
static void test_late_cancel(struct proxy *net, enum kind kind)
{
	bool reads = kind == READ || kind == READ_LEASE;
	int64_t retries;
	struct broker_lease *l = hold_what_hangs();
	struct user u = ask(t.proc, kind,
		reads ? "SELECT 'fine' FROM gate"
		      : "INSERT INTO w SELECT 4 FROM gate RETURNING 'fine'",
		LONG_MS);
	unsigned cancels = broker_log_count(t.proc, "its reset is cancelled");
	PGconn *gate = pg_connect(t.pg);
	char hit[40];

	snprintf(hit, sizeof(hit), "%d 57014 not done", BROKER_E_UNAVAILABLE);
	PQclear(PQexec(gate, "BEGIN; LOCK TABLE gate"));
	pg_do(t.pg, "TRUNCATE w");
	ok(waits(t.proc, 1), "%s waits", names[kind]);
	broker_release(&l);
	ok(hangs(), "behind a cleaning that hangs");
	proxy_set(net, PROXY_STALL);
	ok(wait_until(broker_log_count(t.proc, "its reset is cancelled") > cancels, LONG_MS),
		"it is cancelled, and the cancel takes its time");
	unlock();
	ok(wait_until(runs_behind(), LONG_MS),
		"meanwhile the cleaning ends, and what is behind it runs");
	retries = behave_metric(t.proc, "broker_retries_total", "");
	proxy_set(net, PROXY_FORWARD);
	if (kind == READ) {
		ok(wait_until(behave_metric(t.proc, "broker_retries_total", "") > retries, LONG_MS),
			"and is hit, and sent again");
		PQfinish(gate);
		is_str(answer(&u), "fine", "nobody notices");
		return;
	}
	is_str(answer(&u), hit,
		"and is hit: known not done, and not as if somebody had wanted that");
	ok(worth_repeating, "and it may be repeated");
	PQfinish(gate);
	is_int(pg_int(t.pg, "SELECT count(*) FROM w"), 0, "which is true");
}

static void test_late_cancels(void)
{
	char *path = scratch_format("%s/.s.PGSQL.5432", pg_host(t.pg));
	struct proxy *net = proxy_start(path);
	char *url = scratch_format("host=%s port=%d user=postgres dbname=postgres", proxy_host(net),
		proxy_port(net));
	struct pg_case before = t;

	t.proc = broker_start(url,
		SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=60s",
			"pool main.validation_timeout=1s", "pool main.cancel_wait_timeout=60s",
			"server local.health_timeout=60s"));
	t.b = case_attach(t.proc);
	for (unsigned k = 0; k < KINDS; k++) {
		test_late_cancel(net, (enum kind)k);
	}
	broker_detach(&t.b);
	is_int(broker_free(&t.proc), 0, "the broker ends well");
	t = before;
	proxy_stop(&net);
	free(url);
	free(path);
}

/* -- the scripted database --------------------------------------------------------------------- */

static void test_scripted(const char *rules)
{
	struct behave f =
		behave_start("", SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=30s",
					 "pool main.validation_timeout=250ms"));

	for (unsigned k = 0; k < KINDS; k++) {
		struct broker_lease *l = behave_hold(f.b, NULL, "set 42");
		struct user u = ask(f.proc, (enum kind)k, "get", LONG_MS);
		int64_t closed = behave_closed(f.proc);

		ok(waits(f.proc, 1), "%s: %s waits", rules, names[k]);
		behave_rules(&f, rules);
		broker_release(&l);
		is_str(answer(&u), "0", "it finds a session that is clean");
		is_int(behave_closed(f.proc) - closed, 1, "on another connection");
		behave_rules(&f, "");
	}
	behave_end(&f);
}

int main(void)
{
	test_scripted("reset_fail=1");
	test_scripted("reset_hang=1");
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(NULL, SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=60s",
				     "pool main.validation_timeout=3s"));
	pg_do(t.pg, "CREATE TABLE w (a int)");
	pg_do(t.pg, "CREATE TABLE item AS SELECT 'real'::text AS v");
	pg_do(t.pg, "CREATE SCHEMA evil");
	pg_do(t.pg, "CREATE TABLE evil.item AS SELECT 'forged'::text AS v");
	pg_do(t.pg, "CREATE TABLE gate AS SELECT 1 AS a");
	pg_do(t.pg, "CREATE ROLE nobody");
	pg_do(t.pg, "CREATE FUNCTION drop_all() RETURNS text LANGUAGE plpgsql AS "
		    "$$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 'dropped'; END $$");
	test_one_write_each("as needed", t.proc, "SET work_mem = '2MB'");
	test_reset_always();
	test_queue();
	test_drops_prepared();
	test_drops_prepared_of_another();
	test_readonly_behind_reset();
	test_fails();
	test_deadline_meanwhile();
	test_hangs(false);
	test_hangs(true);
	test_late_cancels();
	case_end(&t);
	return done_testing();
}
