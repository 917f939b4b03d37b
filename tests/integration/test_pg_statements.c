/* SPDX-License-Identifier: MIT */
/*
 * test_pg_statements.c - automatic prepared statements, the read-only guard, errors, transactions
 * and what they leave in the session, on one PostgreSQL connection.
 */
#include "pg_case.h"

#define V(...) ((struct broker_value[]){__VA_ARGS__})

static const struct broker_call readonly = {.flags = BROKER_READONLY};

/* Names of the statements that the connection has prepared, oldest first; not the empty one by
 * which it is known that the session was cleaned. */
static const char *prepared(struct broker *b)
{
	return case_text(b, NULL,
		"SELECT coalesce(string_agg(name, ' ' ORDER BY prepare_time), '') "
		"FROM pg_prepared_statements WHERE statement NOT LIKE '%pg_prepared%' AND "
		"statement <> ''",
		0, NULL);
}

static int64_t count_prepared(struct broker *b)
{
	return atoi(case_text(b, NULL,
		"SELECT count(*) FROM pg_prepared_statements WHERE statement NOT LIKE "
		"'%pg_prepared%' AND statement <> ''",
		0, NULL));
}

static void test_prepare(struct broker *b)
{
	const char *sql = "SELECT $1::int * 2";
	char first[64];

	is_int(case_run(b, NULL, "DISCARD ALL"), 0, "begin with nothing");
	is_str(case_text(b, NULL, sql, 1, V(broker_int64(1))), "2", "first use");
	is_str(prepared(b), "", "is not prepared");
	is_str(case_text(b, NULL, sql, 1, V(broker_int64(2))), "4", "second use");
	snprintf(first, sizeof(first), "%s", prepared(b));
	ok(first[0] == 's' && strchr(first, ' ') == NULL, "is prepared as %s", first);
	is_str(case_text(b, NULL, sql, 1, V(broker_int64(3))), "6", "third use");
	is_str(prepared(b), first, "uses it");
	is_int(case_run(b, NULL, "DEALLOCATE ALL"), 0, "somebody drops them all");
	is_str(case_text(b, NULL, sql, 1, V(broker_int64(4))), "8", "nobody notices");
}

/* Dropped where the broker does not see it, in a function. */
static void test_dropped_unseen(struct broker *b)
{
	static const char *const sql[] = {"SELECT $1::int + 1", "SELECT $1::int + 2"};
	struct broker_call in = {0};

	is_int(case_run(b, NULL,
		       "CREATE FUNCTION drop_all() RETURNS text LANGUAGE plpgsql AS "
		       "$$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 'dropped'; END $$"),
		0, "a function that drops all that is prepared");
	for (int i = 0; i < 4; i++) {
		is_int(broker_exec(b, sql[i % 2], 1, V(broker_int64(1)), NULL, NULL), 0, "prepare");
	}
	is_int(case_run(b, NULL, "SELECT drop_all()"), 0, "they are dropped");
	is_str(case_text(b, NULL, sql[0], 1, V(broker_int64(1))), "2", "nobody notices");

	is_int(broker_exec(b, sql[1], 1, V(broker_int64(1)), NULL, NULL), 0, "prepare");
	is_int(broker_lease(b, NULL, &in.lease), 0, "a lease");
	is_int(case_run(b, &in, "SELECT drop_all()"), 0, "in which they are dropped");
	is_str(case_text(b, &in, sql[0], 1, V(broker_int64(1))), "2",
		"nobody notices, of the first");
	is_str(case_text(b, &in, sql[1], 1, V(broker_int64(1))), "3", "and of the second");
	broker_release(&in.lease);

	for (int i = 0; i < 4; i++) {
		is_int(broker_exec(b, sql[i % 2], 1, V(broker_int64(1)), NULL, NULL), 0, "prepare");
	}
	is_int(broker_begin(b, NULL, &in.lease), 0, "a transaction");
	is_int(case_run(b, &in, "SELECT drop_all()"), 0, "in which they are dropped");
	is_int(broker_exec(b, sql[0], 1, V(broker_int64(1)), &in, NULL), BROKER_E_DATABASE,
		"it has to fail");
	is_str(case_sqlstate(b), "26000", "for that reason");
	ok(broker_error(b)->outcome == BROKER_NOT_DONE && broker_error(b)->retry_safe,
		"known not done, and worth another attempt");
	broker_rollback(&in.lease);
	for (int i = 0; i < 2; i++) {
		is_int(broker_begin(b, NULL, &in.lease), 0, "the next transaction");
		is_int(case_run(b, &in, "SELECT 1"), 0, "with a statement in front");
		is_str(case_text(b, &in, sql[i], 1, V(broker_int64(1))), i == 0 ? "2" : "3",
			"notices nothing");
		is_int(broker_commit(&in.lease, 0), 0, "and commits");
	}
}

/* Types of parameters must not pass from one worker's values to another's. */
static void test_prepared_types(struct broker *b)
{
	const char *sql = "SELECT length($1)";

	for (int i = 0; i < 3; i++) {
		is_str(case_text(b, NULL, sql, 1, V(broker_blob("\xc3\xa4", 2))), "2",
			"bytes of a blob, use %d", i + 1);
		is_str(case_text(b, NULL, sql, 1, V(broker_text("\xc3\xa4"))), "1",
			"characters of a text, use %d", i + 1);
	}
}

static void test_schema_change(struct broker *b)
{
	const char *sql = "SELECT * FROM shift WHERE id = $1";
	struct broker_lease *l = NULL;

	is_int(case_run(b, NULL, "CREATE TABLE shift(id int, v text)"), 0, "create");
	is_int(case_run(b, NULL, "INSERT INTO shift VALUES (1, 'one')"), 0, "insert");
	for (int i = 0; i < 3; i++) {
		is_str(case_text(b, &readonly, sql, 1, V(broker_int64(1))), "1", "use %d", i + 1);
	}
	is_int(case_run(b, NULL, "ALTER TABLE shift ADD COLUMN w int"), 0, "a column is added");
	is_str(case_text(b, &readonly, sql, 1, V(broker_int64(1))), "1", "nobody notices");
	is_str(case_text(b, &readonly, sql, 1, V(broker_int64(1))), "1", "prepared again");
	is_int(case_run(b, NULL, "ALTER TABLE shift ALTER COLUMN id TYPE text"), 0,
		"a column becomes text");
	is_str(case_text(b, &readonly, sql, 1, V(broker_text("1"))), "1",
		"nobody notices that the parameter was a number");
	is_int(case_run(b, NULL, "ALTER TABLE shift ALTER COLUMN id TYPE bigint USING id::bigint"),
		0, "and a number again");
	is_int(broker_begin(b, NULL, &l), 0, "a transaction");
	is_str(case_text(b, &(struct broker_call){.lease = l}, sql, 1, V(broker_int64(1))), "1",
		"whose first statement meets the change");
	is_int(broker_commit(&l, 0), 0, "commits");
	is_int(case_run(b, NULL, "ALTER TABLE shift ADD COLUMN x int"), 0, "another column");
	is_int(broker_begin(b, NULL, &l), 0, "a transaction");
	is_int(case_run(b, &(struct broker_call){.lease = l}, "SELECT 1"), 0,
		"with a statement before");
	is_int(broker_exec(b, sql, 1, V(broker_int64(1)), &(struct broker_call){.lease = l}, NULL),
		BROKER_E_DATABASE, "the change is reported");
	is_str(case_sqlstate(b), "0A000", "as the server does");
	broker_rollback(&l);
	is_str(case_text(b, &readonly, sql, 1, V(broker_int64(1))), "1", "and is over afterwards");
}

/* max_prepared is 5 here. */
static void test_eviction(struct broker *b)
{
	char sql[64];

	is_int(case_run(b, NULL, "DISCARD ALL"), 0, "begin with nothing");
	for (int i = 0; i < 12; i++) {
		snprintf(sql, sizeof(sql), "SELECT %d + $1::int", i);
		for (int use = 0; use < 2; use++) {
			char want[16];

			snprintf(want, sizeof(want), "%d", i + 1);
			is_str(case_text(b, NULL, sql, 1, V(broker_int64(1))), want, "%s", sql);
		}
	}
	ok(count_prepared(b) <= 5, "no more than max_prepared");
	is_str(case_text(b, NULL, "SELECT 0 + $1::int", 1, V(broker_int64(1))), "1",
		"one that was dropped");
}

static void test_eviction_in_transaction(struct broker *b)
{
	struct broker_lease *l;
	char sql[64];

	is_int(broker_begin(b, NULL, &l), 0, "a transaction");
	for (int i = 0; i < 24; i++) {
		snprintf(sql, sizeof(sql), "SELECT %d - $1::int", i / 2);
		if (broker_exec(b, sql, 1, V(broker_int64(1)), &(struct broker_call){.lease = l},
			    NULL) < 0) {
			ok(false, "%s: %s", sql, broker_error(b)->message);
		}
	}
	is_int(broker_commit(&l, 0), 0, "with more statements than may be prepared");
	ok(count_prepared(b) <= 5, "no more than max_prepared");
}

static void test_readonly(struct broker *b)
{
	is_int(case_run(b, NULL, "CREATE TABLE guard(x int)"), 0, "create");
	for (int i = 0; i < 3; i++) {
		is_int(case_run(b, &readonly, "INSERT INTO guard VALUES (1)"), BROKER_E_DATABASE,
			"a write that is declared a read fails");
		is_str(case_sqlstate(b), "25006", "with its code");
		is_int(broker_error(b)->outcome, BROKER_NOT_DONE, "known not done");
		is_str(case_text(b, &readonly, "SELECT count(*) FROM guard WHERE x = 1", 0, NULL),
			"0", "a read does not");
		is_int(case_run(b, NULL, "INSERT INTO guard VALUES (2)"), 0, "a write does not");
	}
	is_str(case_text(b, NULL, "SELECT count(*) FROM guard", 0, NULL), "3", "three writes");
}

static void test_readonly_lease(struct broker *b)
{
	struct broker_lease *l;
	struct broker_call call = {0};

	is_int(case_run(b, &readonly, "SELECT 1"), 0, "the connection served a read before");
	is_int(broker_begin(b, &readonly, &l), 0, "a read-only transaction");
	call.lease = l;
	is_int(case_run(b, &call, "INSERT INTO guard VALUES (3)"), BROKER_E_DATABASE,
		"does not write");
	is_str(case_sqlstate(b), "25006", "with its code");
	is_int(broker_commit(&l, 0), BROKER_E_TX_ABORTED, "and cannot be committed");

	is_int(case_run(b, &readonly, "SELECT 1"), 0, "the connection served a read before");
	is_int(broker_lease(b, NULL, &l), 0, "a lease");
	call.lease = l;
	is_int(case_run(b, &call, "INSERT INTO guard VALUES (4)"), 0, "writes");
	call.flags = BROKER_READONLY;
	is_int(case_run(b, &call, "INSERT INTO guard VALUES (5)"), BROKER_E_DATABASE,
		"but not what is declared a read");
	is_str(case_sqlstate(b), "25006", "with its code");
	call.flags = 0;
	is_int(case_run(b, &call, "INSERT INTO guard VALUES (6)"), 0, "and then writes again");
	broker_release(&l);
	is_str(case_text(
		       b, NULL, "SELECT string_agg(x::text, ',') FROM guard WHERE x > 2", 0, NULL),
		"4,6", "what was written is there");
}

static void test_transactions(struct broker *b)
{
	struct broker_lease *l;
	struct broker_call call = {0};

	is_int(case_run(b, NULL, "CREATE TABLE tx(x int UNIQUE DEFERRABLE INITIALLY DEFERRED)"), 0,
		"create");
	is_int(broker_begin(b, &(struct broker_call){.flags = BROKER_SERIALIZABLE}, &l), 0,
		"begin");
	call.lease = l;
	is_str(case_text(b, &call, "SHOW transaction_isolation", 0, NULL), "serializable",
		"with its isolation");
	is_int(case_run(b, &call, "INSERT INTO tx VALUES (1)"), 0, "write");
	is_int(broker_commit(&l, 0), 0, "commit");

	is_int(broker_begin(b, NULL, &l), 0, "begin");
	call.lease = l;
	is_int(case_run(b, &call, "INSERT INTO tx VALUES (2)"), 0, "write");
	broker_rollback(&l);

	is_int(broker_begin(b, NULL, &l), 0, "begin");
	call.lease = l;
	is_int(case_run(b, &call, "INSERT INTO tx VALUES (3)"), 0, "write");
	is_int(case_run(b, &call, "SELECT 1/0"), BROKER_E_DATABASE, "an error");
	is_str(case_sqlstate(b), "22012", "division by zero");
	is_int(case_run(b, &call, "SELECT 1"), BROKER_E_DATABASE, "nothing runs after it");
	is_str(case_sqlstate(b), "25P02", "until the end");
	is_int(broker_commit(&l, 0), BROKER_E_TX_ABORTED, "which is no commit");

	is_int(broker_begin(b, NULL, &l), 0, "begin");
	call.lease = l;
	is_int(broker_savepoint(l), 0, "a savepoint");
	is_int(case_run(b, &call, "INSERT INTO tx VALUES (4)"), 0, "write");
	is_int(case_run(b, &call, "SELECT 1/0"), BROKER_E_DATABASE, "an error");
	is_int(broker_savepoint_rollback(l), 0, "undone");
	is_int(case_run(b, &call, "INSERT INTO tx VALUES (5)"), 0, "write");
	is_int(broker_commit(&l, 0), 0, "commit");

	is_int(broker_begin(b, NULL, &l), 0, "begin");
	call.lease = l;
	is_int(case_run(b, &call, "INSERT INTO tx VALUES (1)"), 0,
		"a duplicate, to be found later");
	is_int(broker_commit(&l, 0), BROKER_E_DATABASE, "by the commit");
	is_str(case_sqlstate(b), "23505", "with its code");
	is_int(broker_error(b)->outcome, BROKER_NOT_DONE, "known not done");

	is_int(case_run(b, NULL, "INSERT INTO tx VALUES (5)"), BROKER_E_DATABASE,
		"a duplicate is found by the commit of a statement alone, too");
	is_str(case_sqlstate(b), "23505", "with its code");
	is_str(case_text(b, NULL, "SELECT string_agg(x::text, ',' ORDER BY x) FROM tx", 0, NULL),
		"1,5", "what was committed is there");
}

static void test_errors(struct broker *b)
{
	is_int(case_run(b, NULL,
		       "DO $$ BEGIN RAISE EXCEPTION 'm' USING ERRCODE = '40001', DETAIL = 'd', "
		       "HINT = 'h'; END $$"),
		BROKER_E_DATABASE, "an error with everything");
	is_str(case_sqlstate(b), "40001", "code");
	is_str(broker_error(b)->message, "m", "message");
	is_str(broker_error(b)->detail, "d", "detail");
	is_str(broker_error(b)->hint, "h", "hint");
	ok(broker_error(b)->retry_safe, "a serialization failure may be tried again");
	is_int(case_run(b, NULL, "SELEC 1"), BROKER_E_DATABASE, "a syntax error");
	ok(!broker_error(b)->retry_safe, "need not");
	for (int i = 0; i < 3; i++) {
		is_int(case_run(b, NULL, "SELECT nothing FROM nowhere"), BROKER_E_DATABASE,
			"an error in preparing, use %d", i + 1);
		is_str(case_sqlstate(b), "42P01", "is the statement's error");
	}
}

/* What commits as it goes along and fails then has done a part: that is not to be repeated. */
static void test_parts(struct broker *b)
{
	static const char sql[] = "CALL part($1)";
	struct broker_value v = broker_int64(0);
	struct broker_call call = {0};
	struct broker_lease *l;

	is_int(case_run(b, NULL, "CREATE TABLE parts(x int)"), 0, "a table");
	is_int(case_run(b, NULL,
		       "CREATE PROCEDURE part(i bigint) LANGUAGE plpgsql AS $$ BEGIN "
		       "INSERT INTO parts VALUES (1); COMMIT; "
		       "IF i = 1 THEN PERFORM nowhere(); END IF; "
		       "IF i = 2 THEN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END IF; "
		       "END $$"),
		0, "a procedure");
	is_int(broker_lease(b, NULL, &l), 0, "a lease");
	call.lease = l;
	is_int(broker_exec(b, sql, 1, &v, &call, NULL), 0, "it is called");
	v = broker_int64(1);
	is_int(broker_exec(b, sql, 1, &v, &call, NULL), BROKER_E_DATABASE, "and fails");
	is_str(case_sqlstate(b), "42883", "with an error of old plans");
	v = broker_int64(2);
	is_int(broker_exec(b, sql, 1, &v, &call, NULL), BROKER_E_DATABASE, "and fails");
	is_str(case_sqlstate(b), "40001", "as if it could be repeated");
	is_int(broker_error(b)->outcome, BROKER_UNKNOWN, "but it may have done a part");
	ok(!broker_error(b)->retry_safe, "and so may not be");
	broker_release(&l);
	is_str(case_text(b, NULL, "SELECT count(*) FROM parts", 0, NULL), "3",
		"each call was made once");
}

/* One connection: what one worker leaves behind, the next would see. */
static void test_dirt(struct pg_case *t)
{
	struct broker *other = case_attach(t->proc);
	struct broker_lease *l;
	struct broker_call call = {0};

	is_int(broker_lease(t->b, NULL, &l), 0, "a lease");
	call.lease = l;
	is_int(case_run(t->b, &call, "SET search_path = pg_catalog"), 0, "sets");
	is_int(case_run(t->b, &call, "CREATE TEMP TABLE leftover(x int)"), 0, "creates");
	is_int(case_run(t->b, &call, "SELECT pg_advisory_lock(7)"), 0, "locks");
	is_int(case_run(t->b, &call, "BEGIN"), 0, "begins");
	is_int(case_run(t->b, &call, "LISTEN leftover"), 0, "listens");
	broker_release(&l);
	is_str(case_text(other, NULL, "SHOW search_path", 0, NULL), "\"$user\", public",
		"the setting is gone");
	is_str(case_text(other, NULL, "SELECT to_regclass('pg_temp.leftover')::text", 0, NULL),
		"(null)", "the table is gone");
	is_int(pg_int(t->pg, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0,
		"the lock is gone");
	is_str(case_text(other, NULL, "SELECT count(*) FROM pg_listening_channels()", 0, NULL), "0",
		"nobody listens");
	is_int(case_run(other, NULL, "SET work_mem = '1MB'"), 0, "a setting without a lease");
	is_str(case_text(t->b, NULL, "SHOW work_mem", 0, NULL), "4MB", "does not stay either");
	broker_detach(&other);
}

/* SET LOCAL ends with the transaction: the connection keeps its prepared statements. */
static void test_local_settings(struct broker *b)
{
	struct broker_lease *l;
	struct broker_call call = {0};
	int64_t before;

	is_int(case_run(b, NULL, "SELECT 77"), 0, "a statement");
	is_int(case_run(b, NULL, "SELECT 77"), 0, "is prepared");
	before = count_prepared(b);
	ok(before > 0, "something is prepared");
	is_int(broker_begin(b, NULL, &l), 0, "begin");
	call.lease = l;
	is_int(case_run(b, &call, "SET LOCAL work_mem = '1MB'"), 0, "set local");
	is_str(case_text(b, &call, "SHOW work_mem", 0, NULL), "1MB", "counts here");
	is_int(broker_commit(&l, 0), 0, "commit");
	is_str(case_text(b, NULL, "SHOW work_mem", 0, NULL), "4MB", "and not afterwards");
	ok(count_prepared(b) >= before, "nothing was thrown away");
}

int main(void)
{
	struct pg_case t;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(NULL,
		(const char *const[]){"pool main.max_size=1", "pool main.max_prepared=5", NULL});
	test_prepare(t.b);
	test_dropped_unseen(t.b);
	test_prepared_types(t.b);
	test_schema_change(t.b);
	test_eviction(t.b);
	test_eviction_in_transaction(t.b);
	test_readonly(t.b);
	test_readonly_lease(t.b);
	test_transactions(t.b);
	test_errors(t.b);
	test_parts(t.b);
	test_dirt(&t);
	test_local_settings(t.b);
	is_int(pg_int(t.pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
			    "'shmbroker'"),
		1, "one connection did all of it");
	case_end(&t);
	return done_testing();
}
