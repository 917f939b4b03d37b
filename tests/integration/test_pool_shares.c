/* SPDX-License-Identifier: MIT */
/*
 * test_pool_shares.c - who gets how much of a pool: batch requests behind interactive ones but not
 * for ever, caps by tag and by user, connections guaranteed under a server's limit, time-outs of
 * statements and transactions.
 */
#include "behave.h"
#include "check.h"

#include <stdlib.h>
#include <string.h>

#define LONG_MS 60000

/* What `turn` says: how many statements the server had executed. */
static int64_t turn_of(struct broker *b, uint64_t ticket)
{
	struct broker_result *r;
	int64_t n = -1;

	if (broker_collect(b, ticket, -1, NULL, &r) < 0) {
		diag("%s", broker_error(b)->message);
		return -1;
	}
	if (broker_next(r) != 1 || broker_get_int64(r, 0, &n) < 0) {
		n = -1;
	}
	broker_result_free(&r);
	return n;
}

static bool is_waiting(struct behave *t, int64_t n)
{
	return wait_until(behave_waiting(t->proc) == n, LONG_MS);
}

/* -- batch ------------------------------------------------------------------------------------- */

static void test_batch_waits(void)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=1", "pool main.batch_patience=20s"));
	struct broker *other = behave_attach(t.proc);
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	struct broker_call batch = {.flags = BROKER_BATCH}, usual = {0};
	uint64_t slow[3], quick[3];
	int64_t first_slow = INT64_MAX, last_quick = 0;

	for (unsigned i = 0; i < 3; i++) {
		slow[i] = behave_submit(other, &batch, "turn");
	}
	ok(is_waiting(&t, 3), "three batch requests wait");
	for (unsigned i = 0; i < 3; i++) {
		quick[i] = behave_submit(other, &usual, "turn");
	}
	ok(is_waiting(&t, 6), "three interactive ones come later");
	broker_release(&l);
	for (unsigned i = 0; i < 3; i++) {
		int64_t n = turn_of(other, quick[i]);

		last_quick = n > last_quick ? n : last_quick;
	}
	for (unsigned i = 0; i < 3; i++) {
		int64_t n = turn_of(other, slow[i]);

		first_slow = n < first_slow ? n : first_slow;
	}
	ok(last_quick > 0 && last_quick < first_slow, "and are served first");
	broker_detach(&other);
	behave_end(&t);
}

static void test_batch_is_served(void)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=1", "pool main.batch_patience=200ms"));
	struct broker *other = behave_attach(t.proc);
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	struct broker_call batch = {.flags = BROKER_BATCH}, usual = {0};
	uint64_t slow = behave_submit(other, &batch, "turn"), quick;
	int64_t start;

	ok(is_waiting(&t, 1), "a batch request waits");
	start = wait_clock_ms();
	(void)wait_until(behave_since(start) > 400, LONG_MS);
	quick = behave_submit(other, &usual, "turn");
	ok(is_waiting(&t, 2), "an interactive one comes when its patience is over");
	broker_release(&l);
	ok(turn_of(other, slow) < turn_of(other, quick), "and is served after it");
	broker_detach(&other);
	behave_end(&t);
}

/* -- caps -------------------------------------------------------------------------------------- */

static void test_tag_cap(void)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=4", "pool main.max_per_tag=2"));
	struct broker *other = behave_attach(t.proc);
	struct broker_call report = {.tag = "report"}, page = {.tag = "page"};
	struct broker_lease *l[2];
	uint64_t third;

	l[0] = behave_hold(t.b, &report, "affect 1");
	l[1] = behave_hold(t.b, &report, "affect 1");
	third = behave_submit(other, &report, "affect 1");
	ok(is_waiting(&t, 1), "two of a tag hold connections, the third waits");
	is_int(behave_run(other, &page, "affect 1"), 0, "another tag passes it");
	is_int(behave_run(other, NULL, "affect 1"), 0, "and so does one without a tag");
	is_int(behave_waiting(t.proc), 1, "it waits still, with connections idle");
	broker_release(&l[0]);
	is_int(broker_collect(other, third, LONG_MS, NULL, NULL), 0, "until one is given back");
	is_int(behave_run(other, &report, "affect 1"), 0, "what has ended does not count");
	broker_release(&l[1]);
	broker_detach(&other);
	behave_end(&t);
}

static void test_uid_cap(void)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=4", "pool main.max_per_uid=1"));
	struct broker *other = behave_attach(t.proc);
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	uint64_t second = behave_submit(other, NULL, "affect 1");

	ok(is_waiting(&t, 1), "a user's second request waits at a cap of one");
	ok(wait_until(behave_conns(t.proc, "idle") == 3, LONG_MS), "while connections are idle");
	broker_release(&l);
	is_int(broker_collect(other, second, LONG_MS, NULL, NULL), 0, "and is served then");
	for (unsigned i = 0; i < 50; i++) {
		(void)!behave_run(other, NULL, i % 2 == 0 ? "error 23505" : "affect 1");
	}
	is_int(behave_run(other, NULL, "affect 1"), 0, "failures are counted off as well");
	broker_detach(&other);
	behave_end(&t);
}

/* -- guarantees -------------------------------------------------------------------------------- */

static unsigned open_of(struct behave *t, const char *pool)
{
	static const char *const states[] = {
		"active", "leased", "pinned", "idle", "tested", "login"};
	char *look = behave_look(t->proc), name[120];
	unsigned n = 0;

	for (unsigned i = 0; i < array_size(states); i++) {
		snprintf(name, sizeof(name), "broker_pool_connections{state=\"%s\",pool=\"%s\"}",
			states[i], pool);
		n += (unsigned)behave_find(look, name);
	}
	free(look);
	return n;
}

static void test_guarantee(void)
{
	struct behave t = behave_start("",
		SETTINGS("server local.max_connections=4", "pool main.max_size=4",
			"pool main.min_idle=0", "pool vip.servers=local", "pool vip.max_size=4",
			"pool vip.min_idle=0", "pool vip.guaranteed=2"));
	struct broker *other = behave_attach(t.proc);
	struct broker_call vip = {.pool = "vip"};
	struct broker_lease *l[2], *v[2];
	uint64_t third;

	l[0] = behave_hold(t.b, NULL, "affect 1");
	l[1] = behave_hold(t.b, NULL, "affect 1");
	third = behave_submit(other, NULL, "affect 1");
	ok(is_waiting(&t, 1), "what is left of the server is guaranteed to another pool");
	ok(open_of(&t, "main") <= 2, "no third connection is made");
	v[0] = behave_hold(other, &vip, "affect 1");
	v[1] = behave_hold(other, &vip, "affect 1");
	ok(v[0] != NULL && v[1] != NULL, "which gets it");
	ok(open_of(&t, "main") + open_of(&t, "vip") <= 4, "within the limit of the server");
	broker_release(&l[0]);
	is_int(broker_collect(other, third, LONG_MS, NULL, NULL), 0, "others share the rest");
	broker_release(&l[1]);
	broker_release(&v[0]);
	broker_release(&v[1]);
	/* Idle ones of the one pool make room for the other, down to what is guaranteed. */
	for (unsigned i = 0; i < 2; i++) {
		v[i] = behave_hold(other, &vip, "affect 1");
	}
	is_int(behave_run(other, &vip, "affect 1"), 0, "a third one of the other pool");
	broker_release(&v[0]);
	broker_release(&v[1]);
	broker_detach(&other);
	behave_end(&t);
}

/* Who waits at a cap has no use for the connections that are idle. */
static void test_capped_pool_spares(void)
{
	struct behave t = behave_start("",
		SETTINGS("server local.max_connections=2", "pool main.max_size=2",
			"pool main.max_per_uid=1", "pool vip.servers=local", "pool vip.max_size=2",
			"pool vip.min_idle=0", "pool vip.init_fail_timeout=0"));
	struct broker *other = behave_attach(t.proc);
	struct broker_call vip = {.pool = "vip"};
	struct broker_lease *l;
	uint64_t second;

	ok(wait_until(behave_conns(t.proc, "idle") == 2, LONG_MS), "one pool has the whole server");
	l = behave_hold(t.b, NULL, "affect 1");
	second = behave_submit(other, NULL, "affect 1");
	ok(is_waiting(&t, 1), "a user's second request waits at a cap of one");
	ok(wait_until(behave_conns(t.proc, "idle") == 1, LONG_MS),
		"beside a connection that is idle");
	is_int(behave_run(other, &vip, "affect 1"), 0, "another pool gets that");
	ok(wait_until(open_of(&t, "main") == 1 && open_of(&t, "vip") == 1, LONG_MS),
		"within the limit of the server");
	is_int(behave_waiting(t.proc), 1, "the request waits on");
	broker_release(&l);
	is_int(broker_collect(other, second, LONG_MS, NULL, NULL), 0, "and is served in its turn");
	broker_detach(&other);
	behave_end(&t);
}

/* -- time-outs --------------------------------------------------------------------------------- */

static void test_query_timeout(void)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=2", "pool main.query_timeout=200ms"));
	int64_t start = wait_clock_ms();

	is_int(behave_run(t.b, NULL, "sleep 60000"), BROKER_E_TIMEOUT,
		"query_timeout ends a statement");
	ok(behave_since(start) < 20000, "soon");
	is_int(broker_error(t.b)->outcome, BROKER_NOT_DONE, "with a known outcome");
	is_int(behave_run(t.b, NULL, "sleep 20"), 0, "a shorter one is not touched");
	ok(wait_until(behave_conns(t.proc, "idle") == 2, LONG_MS), "the pool is full");
	behave_end(&t);
}

static void test_transaction_timeout(void)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=1", "pool main.transaction_timeout=300ms"));
	struct broker *other = behave_attach(t.proc);
	struct broker_call in = {0};
	int rc = 0;

	is_int(broker_begin(t.b, NULL, &in.lease), 0, "a transaction");
	for (unsigned i = 0; i < 1000 && rc == 0; i++) {
		rc = behave_run(t.b, &in, "sleep 10");
	}
	is_int(rc, BROKER_E_TX_ABORTED, "is ended by transaction_timeout though it is busy");
	is_str(broker_error(t.b)->sqlstate, "25P04", "with the code PostgreSQL has for it");
	is_int(behave_run(other, NULL, "affect 1"), 0, "its connection is another's");
	ok(broker_commit(&in.lease, 0) < 0, "and it cannot be committed");
	broker_detach(&other);
	behave_end(&t);
}

int main(void)
{
	test_batch_waits();
	test_batch_is_served();
	test_tag_cap();
	test_uid_cap();
	test_guarantee();
	test_capped_pool_spares();
	test_query_timeout();
	test_transaction_timeout();
	return done_testing();
}
