/* SPDX-License-Identifier: MIT */
/* test_statement.c - the registry keeps one entry per text; traits err on the side of suspicion. */
#include "statement.h"

#include "tap.h"

#include <stdio.h>
#include <string.h>

static uint32_t traits(const char *text)
{
	return statement_traits(text, strlen(text));
}

static void test_registry(void)
{
	struct statements *s = statements_create(4);
	struct statement *a = statement_get(s, "SELECT 1", 8);
	struct statement *b = statement_get(s, "SELECT 1", 8);
	struct statement *c = statement_get(s, "SELECT 2", 8);
	uint32_t id = a->id;

	ok(a == b, "one entry per text");
	ok(a != c && a->id != c->id, "different texts differ");
	is_str(a->text, "SELECT 1", "the text is kept, terminated");
	statement_put(s, a);
	statement_put(s, b);
	for (unsigned i = 0; i < 10; i++) {
		char text[32];

		snprintf(text, sizeof(text), "SELECT %u + 10", i);
		statement_put(s, statement_get(s, text, strlen(text)));
	}
	a = statement_get(s, "SELECT 1", 8);
	ok(a->id != id, "unreferenced texts beyond the limit are forgotten; ids are not reused");
	is_str(c->text, "SELECT 2", "referenced ones stay");
	statement_put(s, a);
	statement_put(s, c);
	statements_destroy(s);
}

static void test_tx_control(void)
{
	ok(traits("begin") & STMT_TX_CONTROL, "BEGIN");
	ok(traits(" -- c\n /* x /* y */ */ START transaction") & STMT_TX_CONTROL, "after comments");
	ok(traits("COMMIT;") & STMT_TX_END, "COMMIT ends");
	ok(traits("rollback work") & STMT_TX_END, "ROLLBACK WORK ends");
	ok(!(traits("ROLLBACK TO SAVEPOINT a") & STMT_TX_END), "ROLLBACK TO does not");
	ok(!(traits("rollback transaction to a") & STMT_TX_END), "nor with TRANSACTION in between");
	ok(traits("ROLLBACK TO a") & STMT_TX_CONTROL, "but it needs a lease");
	ok(!(traits("COMMIT PREPARED 'x'") & (STMT_TX_CONTROL | STMT_TX_END)),
		"COMMIT PREPARED is free");
	ok(traits("PREPARE TRANSACTION 'x'") & STMT_TX_END, "PREPARE TRANSACTION ends");
	ok(traits("savepoint a") & STMT_TX_CONTROL, "SAVEPOINT needs a lease");
	is_int(traits("SELECT 'begin'"), 0, "a literal is no first word");
	is_int(traits("beginning"), 0, "nor is a longer word");
}

static void test_suspicion(void)
{
	static const char *const suspects[] = {"SET x = 1", "set local a to b", "RESET ALL",
		"LISTEN a", "PREPARE p AS SELECT 1", "DEALLOCATE p",
		"DECLARE c CURSOR FOR SELECT 1", "LOAD 'x'", "DO $$ BEGIN END $$", "CALL p()",
		"DISCARD TEMP", "CREATE TEMP TABLE t()", "create  temporary view v as select 1",
		"SELECT 1 INTO TEMP t", "SELECT pg_catalog.set_config('a','b',false)",
		"SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_lock_shared(1)",
		"SELECT lastval()", "select lo_create(0)", "/**/SET/**/x=1",
		"SELECT /* c */ pg_advisory_lock(1)", NULL};
	static const char *const clean[] = {"SELECT 1", "INSERT INTO t VALUES ($1)",
		"SELECT pg_advisory_xact_lock(1)", "UPDATE t SET a = 1", "SELECT nextval('s')",
		"DELETE FROM settings", "", "--", NULL};

	for (unsigned i = 0; suspects[i] != NULL; i++) {
		ok(traits(suspects[i]) & STMT_SUSPECT, "suspect: %s", suspects[i]);
	}
	for (unsigned i = 0; clean[i] != NULL; i++) {
		ok(!(traits(clean[i]) & STMT_SUSPECT), "clean: %s", clean[i]);
	}
	ok(traits("call p()") & STMT_COMMITS, "CALL may commit");
	ok(traits("DO $$ BEGIN a(); COMMIT; END $$") & STMT_COMMITS, "DO with COMMIT as well");
	ok(!(traits("do $$ begin raise 'x'; end $$") & STMT_COMMITS), "without it does not");
	ok(traits("copy t from stdin") & STMT_COPY, "COPY is seen");
}

int main(void)
{
	test_registry();
	test_tx_control();
	test_suspicion();
	return done_testing();
}
