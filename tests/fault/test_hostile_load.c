/* SPDX-License-Identifier: MIT */
/*
 * test_hostile_load.c - more than a worker may ask for: bells without end, results that are never
 * read, statements, texts, leases and bodies without number.  Whoever does it pays for it alone,
 * and the broker's memory stays bounded.
 */
#include "atomics.h"
#include "check.h"
#include "raw.h"
#include "shmbroker.h"
#include "stage.h"
#include "tap.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_REQUEST (1 << 20)

static int64_t patience(void)
{
	return (int64_t)30000 * stage_slowness();
}

/* Megabytes by which the broker's resident memory has grown since then. */
static int64_t grown(struct stage *s, int64_t since)
{
	return (broker_rss(stage_broker(s)) - since) >> 20;
}

static bool is_small(int64_t mib, int64_t limit)
{
	return mib < limit || stage_slowness() > 1; /* sanitizers keep what was freed */
}

/* Wait until the broker has taken everything published. */
static bool drained(struct raw *r)
{
	return wait_until(observe(&r->broker->sub_head) >= r->tail || get(&r->broker->closed) != 0,
		patience());
}

/* -- bells ------------------------------------------------------------------------------------- */

static void test_bell_spam(struct stage *s)
{
	int64_t end = wait_clock_ms() + (stage_quick() ? 500 : 2000);
	uint64_t before = stage_progress(s), rings = 0;
	struct raw r, evicted;

	raw_attach(&r, stage_path(s));
	raw_attach(&evicted, stage_path(s));
	raw_op(&evicted, 99, 0);
	raw_publish(&evicted);
	(void)raw_evicted(&evicted, patience());
	while (wait_clock_ms() < end) {
		for (unsigned i = 0; i < 1000; i++) {
			raw_bell(&r);
			raw_bell(&evicted);
			rings += 2;
		}
	}
	ok(stage_progress(s) > before + 3 && stage_moves(s, patience()),
		"%llu bells for nothing: others get on", (unsigned long long)rings);
	is_int(raw_run(&r, stage_sql(s), patience()), COMP_DONE, "who rang is served, in the end");
	raw_drop(&r);
	raw_drop(&evicted);
}

static void test_bell_abuse(struct stage *s)
{
	struct shm_completion c;
	unsigned answered = 0;
	struct raw r;
	uint64_t n, id;

	raw_attach(&r, stage_path(s));
	for (unsigned i = 0; i < 300; i++) {
		id = raw_exec(&r, stage_sql(s), 0, 0);
		raw_publish(&r);
		(void)!read(r.fd[3], &n, sizeof(n));
		if (!raw_wait(&r, id, &c, 20)) { /* it has taken its own bell away */
			raw_bell(&r);
			answered += raw_wait(&r, id, &c, patience());
		} else {
			answered++;
		}
	}
	is_int(answered, 300, "who reads the eventfd takes bells away from nobody else");
	(void)fcntl(r.fd[3], F_SETFL, 0);
	n = UINT64_MAX - 1;
	(void)!read(r.fd[3], &(uint64_t){0}, sizeof(n));
	ok(write(r.fd[3], &n, sizeof(n)) == sizeof(n), "the eventfd is full and blocks");
	ok(stage_moves(s, patience()), "others get on");
	raw_drop(&r);

	raw_attach(&r, stage_path(s));
	(void)raw_run(&r, stage_sql(s), patience());
	(void)wait_until(get(&r.broker->need_wake) == 1, patience());
	id = raw_exec(&r, stage_sql(s), 0, 0);
	publish(&r.worker->sub_tail, r.tail);
	ok(stage_moves(s, patience()), "who never rings waits alone");
	raw_bell(&r);
	ok(raw_wait(&r, id, &c, patience()), "and is served when it does");
	raw_drop(&r);
}

static void test_sleeping_lies(struct stage *s)
{
	static const uint32_t lies[] = {0, 1, 2, 3, 4, 255, 1u << 31, UINT32_MAX};
	unsigned answered = 0, each = stage_quick() ? 100 : 500;

	for (unsigned i = 0; i < array_size(lies); i++) {
		struct raw r;

		raw_attach(&r, stage_path(s));
		put(&r.worker->sleeping, lies[i]);
		for (unsigned k = 0; k < each; k++) {
			struct shm_completion c;
			uint64_t id = raw_exec(&r, stage_sql(s), 0, 0);

			raw_publish(&r);
			/* The wakes, bytes on the socket among them, are not read. */
			answered +=
				wait_until(observe(&r.broker->comp_tail) != r.head, patience()) &&
				raw_take(&r, &c) && c.id == id;
			raw_give(&r, c.chunk);
		}
		raw_drop(&r);
	}
	is_int(answered, array_size(lies) * each,
		"whatever stands in `sleeping`, there are answers");
}

/* -- results that nobody reads ----------------------------------------------------------------- */

static void test_never_read(struct stage *s)
{
	int64_t rss = broker_rss(stage_broker(s));
	char sql[200];
	struct raw r[2];

	stage_rows_sql(s, 100000, sql, sizeof(sql));
	for (unsigned i = 0; i < array_size(r); i++) {
		raw_attach(&r[i], stage_path(s));
		(void)raw_exec(&r[i], sql, REQ_F_READONLY | REQ_F_STREAM, 0);
		raw_publish(&r[i]);
		if (stage_db(s) == STAGE_SQLITE) {
			break; /* it has few readers, and the witness needs one */
		}
	}
	(void)wait_until(stage_metric(s, "broker_backpressure_stalls_total") > 0, patience());
	ok(stage_moves(s, patience()), "results of 100 MB that nobody reads stop nobody else");
	ok(is_small(grown(s, rss), 16), "and stay with the database (broker grew by %lld MiB)",
		(long long)grown(s, rss));
	for (unsigned i = 0; i < array_size(r); i++) {
		raw_drop(&r[i]);
		if (stage_db(s) == STAGE_SQLITE) {
			break;
		}
	}
	ok(wait_until(stage_metric(s, "broker_statements_in_flight") <= 1, patience()),
		"they end with their worker");
}

/* Statements whose answers are never looked at. */
static void test_unread_finals(struct stage *s)
{
	unsigned n = stage_quick() ? 2000 : 10000;
	struct raw r;

	raw_attach(&r, stage_path(s));
	for (unsigned i = 0; i < n && get(&r.broker->closed) == 0; i++) {
		(void)raw_exec(&r, "no such statement", 0, 0);
		if (i % 32 == 31) {
			raw_publish(&r);
			(void)drained(&r);
		}
	}
	ok(stage_moves(s, patience()), "%u answers that nobody reads", n);
	raw_drop(&r);
}

/* More in flight than the ring holds. */
static void test_too_many(struct stage *s)
{
	struct raw r;
	unsigned sent = 0;

	raw_attach(&r, stage_path(s));
	while (sent < 4000 && get(&r.broker->closed) == 0) {
		uint64_t lease = sent % 64 == 0 ? raw_lease(&r, 0) : 1;

		(void)raw_exec(&r, stage_long_sql(s), 0, lease);
		if (++sent % 16 == 0) {
			raw_publish(&r);
			(void)drained(&r);
		}
	}
	ok(raw_evicted(&r, patience()) == (uint32_t)-BROKER_E_PROTOCOL && sent < 600,
		"evicted with %u statements in flight", sent);
	raw_drop(&r);
}

/* -- without number ---------------------------------------------------------------------------- */

/* Distinct texts, remembered under ids that are used again and again, or not at all. */
static void test_texts(struct stage *s)
{
	int64_t rss = broker_rss(stage_broker(s));
	unsigned n = stage_quick() ? 5000 : 10000;
	struct shm_completion c;
	uint64_t id = 0;
	struct raw r;

	raw_attach(&r, stage_path(s));
	for (unsigned i = 0; i < n && get(&r.broker->closed) == 0; i++) {
		struct shm_request d = raw_request(&r, REQ_EXEC);
		unsigned char body[512];
		char sql[256];

		snprintf(sql, sizeof(sql), "%s -- %u %0150d", stage_sql(s), i, 0);
		d.stmt = i % 2 != 0 ? 0 : (uint32_t)i % (CHAN_MAX_STMTS - 1) + 1;
		d.flags = REQ_F_DEFINE;
		raw_body(&r, &d, body, raw_encode(body, "", sql, 0, NULL, 0));
		raw_push(&r, &d);
		id = d.id;
		if (i % 32 == 31 && i + 1 < n) { /* the last is waited for below */
			raw_publish(&r);
			(void)raw_wait(&r, id, &c, patience());
		}
	}
	raw_publish(&r);
	ok(raw_wait(&r, id, &c, patience()) && c.kind == COMP_DONE, "%u distinct texts are served",
		n);
	ok(is_small(grown(s, rss), 24), "and do not stay for ever (broker grew by %lld MiB)",
		(long long)grown(s, rss));
	raw_drop(&r);
}

static void send_parts(
	struct raw *r, struct shm_request *d, const void *bytes, size_t len, size_t piece)
{
	const unsigned char *p = bytes;

	while (len > 0 && get(&r->broker->closed) == 0) {
		size_t n = len < piece ? len : piece;
		struct shm_request part = *d;

		part.op = len > piece ? REQ_PART : d->op;
		raw_body(r, &part, p, n);
		raw_send_request(r, &part);
		(void)drained(r);
		p += n;
		len -= n;
	}
}

static void test_long_texts(struct stage *s)
{
	int64_t rss = broker_rss(stage_broker(s));
	unsigned n = stage_quick() ? 150 : 500, served = 0;
	size_t len = 250000;
	char *sql = malloc(len + 1), *body = malloc(len + 64);
	struct raw r;

	if (sql == NULL || body == NULL) {
		bail_out("out of memory");
	}
	raw_attach(&r, stage_path(s));
	for (unsigned i = 0; i < n; i++) {
		struct shm_request d = raw_request(&r, REQ_EXEC);
		struct shm_completion c;

		memset(sql, 'x', len);
		sql[snprintf(sql, 64, "%s -- %u", stage_sql(s), i)] = ' ';
		sql[len] = '\0';
		send_parts(&r, &d, body, raw_encode(body, "", sql, 0, NULL, 0), 100000);
		served += raw_wait(&r, d.id, &c, patience()) && c.kind == COMP_DONE;
	}
	is_int(served, n, "%u texts of 250 KB are served", n);
	ok(is_small(grown(s, rss), 48), "and do not stay for ever (broker grew by %lld MiB)",
		(long long)grown(s, rss));
	raw_drop(&r);
	raw_attach(&r, stage_path(s));
	{
		struct shm_request d = raw_request(&r, REQ_EXEC);

		sql[CHAN_STMT_TEXT_MAX + 1] = '\0';
		d.stmt = 1;
		d.flags = REQ_F_DEFINE;
		send_parts(&r, &d, body, raw_encode(body, "", sql, 0, NULL, 0), 100000);
		is_int(raw_evicted(&r, patience()), -BROKER_E_PROTOCOL,
			"evicted: a long text to be remembered");
	}
	raw_drop(&r);
	free(sql);
	free(body);
}

/* -- bodies ------------------------------------------------------------------------------------ */

static void test_giant_bodies(struct stage *s)
{
	int64_t rss = broker_rss(stage_broker(s));
	size_t len = MAX_REQUEST + 16384;
	char *body = calloc(1, len);
	unsigned abandoned = stage_quick() ? 50 : 200;
	struct raw r;

	if (body == NULL) {
		bail_out("out of memory");
	}
	for (unsigned round = 0; round < 2; round++) {
		struct shm_request d;

		raw_attach(&r, stage_path(s));
		d = raw_request(&r, round == 0 ? REQ_EXEC : REQ_PART);
		send_parts(&r, &d, body, len, 65536);
		is_int(raw_evicted(&r, patience()), -BROKER_E_TOO_LARGE,
			"evicted: a body larger than max_request");
		raw_drop(&r);
	}
	for (unsigned i = 0; i < abandoned; i++) { /* the last one stays attached */
		struct shm_request d;

		raw_attach(&r, stage_path(s));
		d = raw_request(&r, REQ_PART);
		send_parts(&r, &d, body, MAX_REQUEST - 4096, 131072);
		if (i + 1 < abandoned) {
			raw_drop(&r);
		}
	}
	ok(is_small(grown(s, rss), 8), "%u bodies given up halfway (broker grew by %lld MiB)",
		abandoned, (long long)grown(s, rss));
	ok(wait_until(stage_metric(s, "broker_request_memory_bytes") > 0, patience()),
		"one is still being put together");
	is_int(raw_run(&r, stage_sql(s), patience()), COMP_DONE,
		"its worker has thought better of it");
	ok(wait_until(stage_metric(s, "broker_request_memory_bytes") == 0, patience()),
		"and it is gone");
	raw_drop(&r);
	free(body);
}

/* Large bodies in flight: each is allowed, all together are not. */
static void test_bodies_in_flight(struct stage *s)
{
	int64_t rss = broker_rss(stage_broker(s));
	size_t len = MAX_REQUEST / 2;
	char *param = calloc(1, len + 64), *body = malloc(len + 256);
	unsigned refused = 0, n = 30;
	uint64_t lease;
	struct raw r;

	if (param == NULL || body == NULL) {
		bail_out("out of memory");
	}
	memset(param, 'x', len);
	raw_attach(&r, stage_path(s));
	lease = raw_lease(&r, 0);
	(void)raw_exec(&r, stage_long_sql(s), 0, lease);
	for (unsigned i = 0; i < n; i++) {
		struct shm_request d = raw_request(&r, REQ_EXEC);
		struct shm_param h = {.len = (uint32_t)len, .type = CELL_TEXT};
		struct shm_completion c;
		size_t head = raw_encode(body, "", stage_sql(s), 1, &h, sizeof(h));

		memcpy(body + head, param, len);
		d.lease = lease;
		send_parts(&r, &d, body, head + len, 100000);
		while (raw_take(&r, &c)) {
			refused += c.kind == COMP_ERROR && c.code == (uint32_t)-BROKER_E_BUSY;
			raw_give(&r, c.chunk);
		}
	}
	ok(refused >= n - 6 && refused < n, "of %u large bodies in flight %u are refused", n,
		refused);
	ok(is_small(grown(s, rss), 10), "the broker holds the others only (grew by %lld MiB)",
		(long long)grown(s, rss));
	raw_drop(&r);
	free(param);
	free(body);
}

/* -- leases ------------------------------------------------------------------------------------ */

/* Leases whose time is over when they are asked for, never given back. */
static void test_lease_heap(struct stage *s)
{
	unsigned sent = 0;
	struct raw r;

	raw_attach(&r, stage_path(s));
	while (sent < 20000 && get(&r.broker->closed) == 0) {
		struct shm_request d = raw_request(&r, REQ_LEASE);
		unsigned char body[64];

		d.deadline_ns = 1;
		raw_body(&r, &d, body, raw_encode(body, "", "", 0, NULL, 0));
		raw_push(&r, &d);
		if (++sent % 32 == 0) {
			raw_publish(&r);
			(void)drained(&r);
		}
	}
	ok(raw_evicted(&r, patience()) == (uint32_t)-BROKER_E_PROTOCOL && sent < 2000,
		"evicted after %u leases", sent);
	raw_drop(&r);
}

/* Leases taken and dropped as fast as it goes, with everything in between left undone. */
static void test_lease_churn(struct stage *s)
{
	unsigned n = stage_quick() ? 300 : 3000, served = 0;
	struct raw r;

	raw_attach(&r, stage_path(s));
	for (unsigned i = 0; i < n; i++) {
		struct shm_completion c;
		uint64_t lease = raw_lease(&r, i % 2 ? REQ_F_TX : 0);
		struct shm_request d;
		uint64_t id;

		(void)raw_exec(&r, stage_sql(s), 0, lease);
		if (i % 5 == 0) {
			(void)raw_exec(&r, stage_long_sql(s), 0, lease);
		}
		d = raw_request(&r, REQ_CANCEL);
		d.target = d.id - 1;
		raw_push(&r, &d);
		id = raw_op(&r, (uint8_t)(REQ_ROLLBACK + i % 2), lease);
		raw_publish(&r);
		served += raw_wait(&r, id, &c, patience());
	}
	is_int(served, n, "%u leases, cancelled and given back at once", n);
	raw_drop(&r);
}

static void run_all(enum stage_database db)
{
	static const char *const settings[] = {
		"broker.max_request=1MiB", "pool main.acquire_timeout=20s", NULL};
	struct stage *s;

	if (!stage_available(db)) {
		skip("no PostgreSQL server here");
		return;
	}
	s = stage_open(db, settings);
	diag("-- on %s", stage_name(s));
	test_bell_spam(s);
	test_bell_abuse(s);
	test_sleeping_lies(s);
	test_never_read(s);
	test_unread_finals(s);
	test_too_many(s);
	test_texts(s);
	test_long_texts(s);
	test_giant_bodies(s);
	if (db != STAGE_SQLITE) { /* it has one writer: who holds it holds up the witness */
		test_bodies_in_flight(s);
	}
	test_lease_heap(s);
	test_lease_churn(s);
	stage_close(&s);
}

int main(void)
{
	run_all(STAGE_FAKE);
	run_all(STAGE_SQLITE);
	if (!stage_quick()) {
		run_all(STAGE_PG);
	}
	return done_testing();
}
