/* SPDX-License-Identifier: MIT */
/*
 * test_behaviour_a.c - getting and giving back connections: behaviours 1 to 12 of docs/testing.md.
 *
 * On the scripted database, which says when a connection is made and in which order statements ran.
 */
#include "behave.h"
#include "check.h"
#include "raw.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_MS 60000

static bool is_waiting(struct behave *t, int64_t n)
{
	return wait_until(behave_waiting(t->proc) == n, LONG_MS);
}

/* -- 1 ----------------------------------------------------------------------------------------- */

static void test_1_reuse(void)
{
	struct behave t = behave_start(
		"connect_ms=20", SETTINGS("pool main.max_size=5", "pool main.min_idle=1"));
	struct broker_lease *l[3];
	int64_t last, same = 0;

	for (int i = 0; i < 30; i++) {
		(void)!behave_run(t.b, NULL, "affect 1");
	}
	is_int(behave_created(t.proc), 1,
		"A1: one after the other, 30 statements need one connection");
	for (int i = 0; i < 3; i++) {
		l[i] = behave_hold(t.b, NULL, "affect 1");
	}
	last = behave_int(t.b, &(struct broker_call){.lease = l[1]}, "who", 0);
	broker_release(&l[0]);
	broker_release(&l[2]);
	broker_release(&l[1]);
	for (int i = 0; i < 30; i++) {
		same += behave_int(t.b, NULL, "who", 0) == last;
	}
	is_int(same, 30, "A1: the connection that was given back last is used next");
	is_int(behave_created(t.proc), 3, "A1: and no more are made than were needed at a time");
	behave_end(&t);
}

/* -- 2 ----------------------------------------------------------------------------------------- */

struct crowd {
	_Atomic int stop;
	_Atomic uint64_t served;
	_Atomic int64_t peak;
	struct behave_rng rng;
};

static int crowd_worker(struct broker *b, void *arg)
{
	struct crowd *c = arg;
	struct behave_rng rng = {c->rng.state ^ (uint64_t)getpid()};

	while (atomic_load(&c->stop) == 0) {
		struct broker_call call = {.timeout_ms = 5000, .tag = "crowd"};
		unsigned what = behave_random(&rng, 4);
		int64_t peak;

		if (what == 0 && broker_lease(b, NULL, &call.lease) < 0) {
			return 1;
		}
		call.flags = what == 1 ? BROKER_READONLY : 0;
		peak = behave_int(b, &call, "census", 1);
		if (peak > atomic_load(&c->peak)) {
			atomic_store(&c->peak, peak);
		}
		broker_release(&call.lease);
		atomic_fetch_add(&c->served, peak > 0);
	}
	return 0;
}

/* Connections are lost all the time, workers are killed, and the server restarts. */
static void test_2_limit(void)
{
	struct behave t =
		behave_start("connect_ms=3&drop_every=23", SETTINGS("pool main.max_size=4"));
	struct crowd *c = behave_share(sizeof(*c));
	unsigned n = stage_quick() ? 8 : 32, rounds = stage_quick() ? 10 : 60;
	pid_t pid[32];

	c->rng = behave_seed("A2");
	for (unsigned i = 0; i < n; i++) {
		pid[i] = behave_worker(t.proc, crowd_worker, c);
	}
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t before = atomic_load(&c->served);
		unsigned i = round % n;
		char rules[32];

		snprintf(rules, sizeof(rules), "epoch=%u", round);
		behave_rules(&t, rules);
		kill(pid[i], SIGKILL);
		(void)behave_ended(pid[i], LONG_MS);
		pid[i] = behave_worker(t.proc, crowd_worker, c);
		if (!wait_until(atomic_load(&c->served) >= before + 200, LONG_MS)) {
			ok(false, "A2: work goes on in round %u", round);
		}
	}
	atomic_store(&c->stop, 1);
	for (unsigned i = 0; i < n; i++) {
		(void)behave_ended(pid[i], LONG_MS);
	}
	ok(atomic_load(&c->peak) > 0 && atomic_load(&c->peak) <= 4,
		"A2: never more than max_size connections: %lld at most, %llu statements",
		(long long)atomic_load(&c->peak), (unsigned long long)atomic_load(&c->served));
	ok(wait_until(behave_conns(t.proc, "idle") == 4, LONG_MS),
		"A2: and all are there afterwards");
	behave_unshare(c, sizeof(*c));
	behave_end(&t);
}

/* -- 3 ----------------------------------------------------------------------------------------- */

#define WAITERS 8

struct queue {
	unsigned n; /* the worker to be forked is the n-th in the queue */
	_Atomic int64_t turn[WAITERS];
};

/* Leases, transactions, writes and reads wait in one queue. */
static int queue_worker(struct broker *b, void *arg)
{
	struct queue *q = arg;
	unsigned n = q->n;
	struct broker_call call = {.timeout_ms = LONG_MS};
	int rc = 0;

	if (n % 4 == 0) {
		rc = broker_lease(b, &call, &call.lease);
	} else if (n % 4 == 1) {
		rc = broker_begin(b, &call, &call.lease);
	} else if (n % 4 == 2) {
		call.flags = BROKER_READONLY;
	}
	atomic_store(&q->turn[n], rc < 0 ? rc : behave_int(b, &call, "turn", 0));
	broker_rollback(&call.lease);
	return 0;
}

static void test_3_first_come(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=60s"));
	struct queue *q = behave_share(sizeof(*q));
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	pid_t pid[WAITERS];
	unsigned right = 0;

	for (q->n = 0; q->n < WAITERS; q->n++) {
		pid[q->n] = behave_worker(t.proc, queue_worker, q);
		if (!is_waiting(&t, q->n + 1)) {
			bail_out("no queue");
		}
	}
	broker_release(&l);
	for (unsigned i = 0; i < WAITERS; i++) {
		(void)behave_ended(pid[i], LONG_MS);
		right += atomic_load(&q->turn[i]) > (i > 0 ? atomic_load(&q->turn[i - 1]) : 0);
	}
	is_int(right, WAITERS,
		"A3: a waiter is served by the next release, first come, first served");
	behave_unshare(q, sizeof(*q));
	behave_end(&t);
}

/* A read that lost its connection does not queue at the end. */
static void test_3_ticket(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=60s"));
	struct broker_call reads = {.flags = BROKER_READONLY};
	uint64_t ticket[3];
	int64_t turn[3] = {-1, -1, -1};

	ticket[0] = behave_submit(t.b, &reads, "turn 2500");
	ok(wait_until(behave_conns(t.proc, "active") == 1, LONG_MS), "A3: a read runs");
	ticket[1] = behave_submit(t.b, NULL, "turn 1");
	ticket[2] = behave_submit(t.b, NULL, "turn 2");
	ok(is_waiting(&t, 2), "A3: two more wait");
	behave_rules(&t, "epoch=1");
	for (unsigned i = 0; i < 3; i++) {
		struct broker_result *r;

		if (broker_collect(t.b, ticket[i], -1, NULL, &r) == 0) {
			(void)!(broker_next(r) == 1 && broker_get_int64(r, 0, &turn[i]) == 0);
			broker_result_free(&r);
		}
	}
	ok(turn[0] > 0 && turn[0] < turn[1] && turn[1] < turn[2],
		"A3: who lost its connection keeps its place in the queue (%lld, %lld, %lld)",
		(long long)turn[0], (long long)turn[1], (long long)turn[2]);
	behave_end(&t);
}

/* -- 4 ----------------------------------------------------------------------------------------- */

static void test_4_returned_first(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=5", "pool main.min_idle=1"));
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	uint64_t ticket;
	int64_t start;

	behave_rules(&t, "connect_ms=20000");
	ticket = behave_submit(t.b, NULL, "affect 1");
	ok(wait_until(behave_conns(t.proc, "login") > 0, LONG_MS),
		"A4: a connection is being made for a waiter");
	start = wait_clock_ms();
	broker_release(&l);
	is_int(broker_collect(t.b, ticket, -1, NULL, NULL), 0, "A4: it is served");
	ok(behave_since(start) < 15000, "A4: by the one that was given back meanwhile (%lld ms)",
		(long long)behave_since(start));
	is_int(behave_metric(t.proc, "broker_handoff_seconds_count", ""), 1,
		"A4: which counts as a hand-off");
	is_int(broker_exec(t.b, "affect 1", 0, NULL, NULL, NULL), 0, "A4: a statement by itself");
	is_int(behave_metric(t.proc, "broker_handoff_seconds_count", ""), 1, "A4: does not");
	behave_end(&t);
}

/* The experiment of HikariCP's "Welcome to the jungle". */
static void test_4_spike(void)
{
	struct behave t = behave_start(
		"connect_ms=600", SETTINGS("pool main.max_size=50", "pool main.min_idle=5"));
	uint64_t ticket[50];
	unsigned good = 0;
	int64_t made;

	(void)wait_until(behave_conns(t.proc, "idle") == 5, LONG_MS);
	for (unsigned i = 0; i < array_size(ticket); i++) {
		ticket[i] = behave_submit(t.b, NULL, "sleep 2");
	}
	for (unsigned i = 0; i < array_size(ticket); i++) {
		good += broker_collect(t.b, ticket[i], -1, NULL, NULL) == 0;
	}
	is_int(good, 50, "A4: 50 requests at once on 5 connections are all served");
	(void)wait_until(behave_conns(t.proc, "login") == 0, LONG_MS);
	made = behave_int(t.b, NULL, "census", 2);
	ok(made <= 20, "A4: for which %lld connections were made, not 50", (long long)made);
	behave_end(&t);
}

/* -- 5 ----------------------------------------------------------------------------------------- */

static void test_5_text(void)
{
	struct behave t = behave_start("", SETTINGS("pool main.max_size=3", "pool main.min_idle=1",
						   "pool main.acquire_timeout=250ms"));
	struct broker_call tagged = {.tag = "/report"};
	struct broker_lease *l = behave_hold(t.b, &tagged, "affect 1");
	char holder[64];
	const char *m;
	int64_t start;
	int rc;

	behave_rules(&t, "fail=57P03");
	start = wait_clock_ms();
	rc = behave_run(t.b, NULL, "affect 1");
	start = behave_since(start);
	is_int(rc, BROKER_E_TIMEOUT, "A5: a waiter's time is over");
	ok(start >= 245 && start <= 350 + WAIT_NOISE_MS, "A5: after 250 ms (%lld)",
		(long long)start);
	m = broker_error(t.b)->message;
	snprintf(holder, sizeof(holder), "held by pid %d tag /report", (int)getpid());
	if (!ok(strstr(m, "total=1 active=1 idle=0 waiting=1") != NULL &&
			    strstr(m, holder) != NULL &&
			    strstr(m, "last connect error: the fake server refuses") != NULL,
		    "A5: the message has the counts, the holder and the last connect error")) {
		diag("  %s", m);
	}
	ok(wait_until(behave_waiting(t.proc) == 0, LONG_MS), "A5: nobody waits any more");
	is_int(behave_metric(t.proc, "broker_acquire_timeout_total", ""), 1, "A5: it was counted");
	broker_release(&l);
	is_int(behave_run(t.b, NULL, "affect 1"), 0, "A5: the next one is served");
	behave_end(&t);
}

static void test_5_precision(void)
{
	static const int64_t times[] = {1, 20, 75, 150, 333};
	struct behave t = behave_start("", SETTINGS("pool main.max_size=1"));
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	unsigned right = 0;
	int64_t worst = 0;

	for (unsigned i = 0; i < array_size(times); i++) {
		struct broker_call call = {.timeout_ms = times[i]};
		int64_t start = wait_clock_ms();

		right += behave_run(t.b, &call, "affect 1") == BROKER_E_TIMEOUT;
		start = behave_since(start) - times[i];
		right += start >= -2 && start <= 100 + WAIT_NOISE_MS;
		worst = start > worst ? start : worst;
	}
	is_int(right, 2 * array_size(times), "A5: times of a call count, below a second too");
	diag("the worst was %lld ms late", (long long)worst);
	broker_release(&l);
	behave_end(&t);
}

/* -- 6 ----------------------------------------------------------------------------------------- */

static int waiting_worker(struct broker *b, void *arg)
{
	struct broker_call call = {.timeout_ms = LONG_MS};

	(void)arg;
	if (broker_begin(b, &call, &call.lease) < 0 || behave_run(b, &call, "affect 1") < 0) {
		return 1;
	}
	return broker_commit(&call.lease, 0) < 0;
}

static void test_6_gone(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=60s"));
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	pid_t dead = behave_worker(t.proc, waiting_worker, NULL), alive;
	struct broker *other = behave_attach(t.proc);
	uint64_t ticket;

	ok(is_waiting(&t, 1), "A6: a worker waits");
	ticket = behave_submit(other, NULL, "affect 1");
	ok(is_waiting(&t, 2), "A6: and a statement behind it");
	alive = behave_worker(t.proc, waiting_worker, NULL);
	ok(is_waiting(&t, 3), "A6: and another worker");
	kill(dead, SIGKILL);
	(void)behave_ended(dead, LONG_MS);
	is_int(broker_cancel(other, ticket), 0, "A6: the first is killed, the second cancelled");
	is_int(broker_collect(other, ticket, LONG_MS, NULL, NULL), BROKER_E_CANCELLED,
		"A6: at once");
	ok(is_waiting(&t, 1), "A6: one waits");
	broker_release(&l);
	is_int(behave_ended(alive, LONG_MS), 0, "A6: and is served");
	is_int(behave_metric(t.proc, "broker_leases_granted_total", ""), 2,
		"A6: who was gone got no connection");
	broker_detach(&other);
	behave_end(&t);
}

/* -- 7 ----------------------------------------------------------------------------------------- */

static void test_7_failed_connects(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=3", "pool main.min_idle=1"));
	struct broker_call brief = {.timeout_ms = 60};
	struct broker_lease *l[3];
	unsigned failed = 0;

	l[0] = behave_hold(t.b, NULL, "affect 1");
	behave_rules(&t, "refuse=1");
	for (unsigned i = 0; i < 20; i++) {
		failed += behave_run(t.b, &brief, "affect 1") == BROKER_E_TIMEOUT;
	}
	is_int(failed, 20, "A7: 20 waiters get an error while connecting fails");
	ok(behave_metric(t.proc, "broker_connect_failures_total", "") > 1,
		"A7: it was tried again");
	ok(wait_until(behave_conns(t.proc, "login") == 0, LONG_MS), "A7: none is stuck");
	behave_rules(&t, "");
	l[1] = behave_hold(t.b, NULL, "affect 1");
	l[2] = behave_hold(t.b, NULL, "affect 1");
	ok(true, "A7: no place was lost: all three connections can be had");
	for (unsigned i = 0; i < 3; i++) {
		broker_release(&l[i]);
	}
	behave_end(&t);
}

/* -- 8 ----------------------------------------------------------------------------------------- */

static void test_8_hanging_connect(void)
{
	struct behave t = behave_start(
		"", SETTINGS("pool main.max_size=4", "pool main.min_idle=2",
			    "server local.connect_timeout=300s", "pool main.acquire_timeout=60s"));
	struct broker *other = behave_attach(t.proc);
	struct broker_lease *l[4];
	uint64_t ticket;
	int64_t start;
	unsigned good = 0;

	(void)wait_until(behave_conns(t.proc, "idle") == 2, LONG_MS);
	l[0] = behave_hold(t.b, NULL, "affect 1");
	l[1] = behave_hold(t.b, NULL, "affect 1");
	behave_rules(&t, "hang=1");
	ticket = behave_submit(t.b, NULL, "affect 1");
	ok(wait_until(behave_conns(t.proc, "login") > 0, LONG_MS), "A8: connecting hangs");
	start = wait_clock_ms();
	broker_release(&l[0]);
	is_int(broker_collect(t.b, ticket, -1, NULL, NULL), 0,
		"A8: its waiter gets another connection");
	for (unsigned i = 0; i < 100; i++) {
		good += behave_run(other, NULL, "affect 1") == 0;
	}
	ok(good == 100 && behave_since(start) < 15000, "A8: and others work as ever (%lld ms)",
		(long long)behave_since(start));
	behave_rules(&t, "");
	for (unsigned i = 0; i < 4; i++) {
		if (i != 1) {
			l[i] = behave_hold(t.b, NULL, "affect 1");
		}
	}
	ok(true, "A8: when it hangs no more all connections can be had");
	for (unsigned i = 0; i < 4; i++) {
		broker_release(&l[i]);
	}
	broker_detach(&other);
	behave_end(&t);
}

static void test_8_connect_timeout(void)
{
	struct behave t = behave_start("", SETTINGS("pool main.max_size=2", "pool main.min_idle=1",
						   "server local.connect_timeout=250ms"));
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	struct broker_call call = {.timeout_ms = 2000};

	behave_rules(&t, "hang=1");
	is_int(behave_run(t.b, &call, "affect 1"), BROKER_E_TIMEOUT, "A8: connecting hangs");
	ok(strstr(broker_error(t.b)->message, "connect_timeout") != NULL,
		"A8: the message says so");
	ok(wait_until(behave_metric(t.proc, "broker_connect_failures_total", "") >= 2, LONG_MS),
		"A8: after connect_timeout it is tried anew");
	broker_release(&l);
	behave_end(&t);
}

/* -- 9 ----------------------------------------------------------------------------------------- */

static void test_9_queue_limit(void)
{
	struct behave t =
		behave_start("", SETTINGS("pool main.max_size=1", "pool main.max_waiting=2"));
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	uint64_t a = behave_submit(t.b, NULL, "affect 1"), b = behave_submit(t.b, NULL, "affect 1");
	int64_t start = wait_clock_ms();

	is_int(behave_run(t.b, NULL, "affect 1"), BROKER_E_BUSY,
		"A9: two may wait, a third is refused");
	ok(behave_since(start) < WAIT_NOISE_MS, "A9: at once (%lld ms)",
		(long long)behave_since(start));
	ok(broker_error(t.b)->retry_safe &&
			strstr(broker_error(t.b)->message, "max_waiting") != NULL,
		"A9: and is told which setting it was");
	broker_release(&l);
	ok(broker_collect(t.b, a, -1, NULL, NULL) == 0 &&
			broker_collect(t.b, b, -1, NULL, NULL) == 0,
		"A9: the two are served");
	is_int(behave_metric(t.proc, "broker_acquire_rejected_total", ""), 1, "A9: it was counted");
	is_int(behave_run(t.b, NULL, "affect 1"), 0, "A9: and there is room again");
	behave_end(&t);
}

/* -- 10 to 12 ---------------------------------------------------------------------------------- */

static uint32_t raw_answer(struct raw *r, uint64_t id)
{
	struct shm_completion c = {0};

	raw_publish(r);
	if (!raw_wait(r, id, &c, LONG_MS)) {
		return UINT32_MAX;
	}
	return c.kind == COMP_DONE ? 0 : c.code;
}

static void test_10_double_release(void)
{
	struct behave t = behave_start("", SETTINGS("pool main.max_size=1"));
	struct broker_lease *mine = NULL, *l = behave_hold(t.b, NULL, "affect 1");
	struct broker_call in = {0};
	struct raw r;
	uint64_t id;

	broker_release(&l);
	broker_release(&l);
	ok(l == NULL, "A10: a second release does nothing");
	raw_attach(&r, broker_socket(t.proc));
	id = raw_lease(&r, 0);
	is_int(raw_answer(&r, raw_exec(&r, "affect 1", 0, id)), 0,
		"A10: without the library: a lease");
	is_int(raw_answer(&r, raw_op(&r, REQ_RELEASE, id)), 0, "A10: is released");
	in.lease = mine = behave_hold(t.b, NULL, "affect 1");
	is_int(raw_answer(&r, raw_op(&r, REQ_RELEASE, id)), -BROKER_E_LEASE,
		"A10: and again, which is an error");
	is_int(behave_run(t.b, &in, "affect 1"), 0, "A10: who has the connection now keeps it");
	ok(wait_until(behave_metric(t.proc, "broker_leases_active", "") == 1, LONG_MS),
		"A10: one lease is held");
	broker_release(&mine);
	ok(wait_until(behave_conns(t.proc, "idle") == 1, LONG_MS), "A10: there is one connection");
	is_int(behave_metric(t.proc, "broker_leases_released_total", ""), 3,
		"A10: each counted once");
	raw_drop(&r);
	behave_end(&t);
}

static void test_11_use_after_release(void)
{
	struct behave t = behave_start("", SETTINGS("pool main.max_size=2"));
	struct broker *other = behave_attach(t.proc);
	struct broker_lease *l = NULL;
	struct broker_call in = {0};
	struct broker_result *rows = NULL;
	struct raw r;
	uint64_t id;
	int rc = broker_begin(other, NULL, &l);

	raw_attach(&r, broker_socket(t.proc));
	id = raw_lease(&r, REQ_F_TX);
	is_int(raw_answer(&r, raw_exec(&r, "affect 1", 0, id)), 0,
		"A11: without the library: a lease");
	is_int(raw_answer(&r, raw_op(&r, REQ_COMMIT, id)), 0, "A11: is committed");
	is_int(raw_answer(&r, raw_exec(&r, "affect 1", 0, id)), -BROKER_E_LEASE,
		"A11: a statement in it afterwards is an error");
	is_int(raw_answer(&r, raw_op(&r, REQ_COMMIT, id)), -BROKER_E_LEASE,
		"A11: so is another commit");
	raw_drop(&r);
	in.lease = l;
	rc = rc == 0 ? broker_exec(other, "rows 50000 100", 0, NULL, &in, &rows) : rc;
	ok(rc == 0 && broker_next(rows) == 1, "A11: with the library: rows of a transaction");
	broker_rollback(&l);
	do {
		rc = broker_next(rows);
	} while (rc == 1);
	is_int(rc, BROKER_E_LEASE, "A11: which is rolled back: the rest of them is an error");
	broker_result_free(&rows);
	is_int(broker_commit(&l, 0), BROKER_E_ARGUMENT, "A11: there is nothing to commit any more");
	rc = broker_begin(other, NULL, &l);
	is_int(rc, 0, "A11: another transaction");
	broker_detach(&other);
	ok(broker_savepoint(l) < 0 && broker_commit(&l, 0) < 0 && l == NULL,
		"A11: is unusable after detach, and can be freed");
	behave_end(&t);
}

static void test_12_foreign(void)
{
	struct behave t = behave_start("", SETTINGS("pool main.max_size=2"));
	struct broker *other = behave_attach(t.proc);
	struct broker_lease *l = behave_hold(t.b, NULL, "affect 1");
	struct broker_call in = {.lease = l};
	struct raw r;

	is_int(behave_run(other, &in, "affect 1"), BROKER_E_ARGUMENT,
		"A12: another handle's lease is no lease of this one");
	raw_attach(&r, broker_socket(t.proc));
	r.last_id = 1000; /* so that no id of ours is a lease of ours */
	for (uint64_t id = 1; id < 10; id++) {
		if (raw_answer(&r, raw_op(&r, REQ_RELEASE, id)) != -BROKER_E_LEASE) {
			ok(false, "A12: lease %llu cannot be released", (unsigned long long)id);
		}
	}
	raw_drop(&r);
	is_int(behave_run(t.b, &in, "affect 1"), 0, "A12: nobody else can release it");
	broker_release(&l);
	broker_detach(&other);
	behave_end(&t);
}

int main(void)
{
	test_1_reuse();
	test_2_limit();
	test_3_first_come();
	test_3_ticket();
	test_4_returned_first();
	test_4_spike();
	test_5_text();
	test_5_precision();
	test_6_gone();
	test_7_failed_connects();
	test_8_hanging_connect();
	test_8_connect_timeout();
	test_9_queue_limit();
	test_10_double_release();
	test_11_use_after_release();
	test_12_foreign();
	return done_testing();
}
