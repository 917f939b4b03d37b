/* SPDX-License-Identifier: MIT */
/* test_board.c - what the writer puts on the board is what a reader of its descriptor finds. */
#include "board.h"
#include "seqlock.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct board_geometry geometry = {
	.npools = 2, .nservers = 3, .nconns = 4, .nworkers = 5, .nslow = 6};

/* A writer on memfds, and a reader that has nothing but the descriptors. */
struct both {
	struct board *b;
	void *s, *q;
	uint64_t slen, qlen;
};

static void open_both(struct both *t)
{
	struct segment_identity id;
	int err;

	segment_identity_self(&id);
	err = board_create(&id, &geometry, NULL, NULL, &t->b);
	if (err < 0) {
		bail_out("board_create: %s", strerror(-err));
	}
	err = segment_attach(board_fd(t->b), SHM_ROLE_BOARD, false, &t->s, &t->slen);
	if (err < 0 ||
		segment_attach(board_slow_fd(t->b), SHM_ROLE_SLOW, false, &t->q, &t->qlen) < 0) {
		bail_out("segment_attach");
	}
}

static void close_both(struct both *t)
{
	segment_unmap(t->s, t->slen);
	segment_unmap(t->q, t->qlen);
	board_destroy(&t->b);
}

static const void *record(const struct both *t, uint32_t type, unsigned i)
{
	const struct shm_section *sec = segment_section(t->s, type);

	if (sec == NULL || i >= sec->count) {
		bail_out("section %u has no record %u", type, i);
	}
	return (const char *)segment_at(t->s, sec) + (size_t)sec->stride * i;
}

/* As a reader does it: through the descriptions only. */
static uint64_t value(const struct both *t, const char *name, const char *label, unsigned pool)
{
	const struct shm_section *sec = segment_section(t->s, SHM_SEC_METRIC_DESC);

	for (unsigned i = 0; i < sec->count; i++) {
		const struct metric_desc *d = record(t, SHM_SEC_METRIC_DESC, i);

		if (strcmp(d->name, name) != 0 || strcmp(d->label, label) != 0) {
			continue;
		}
		if (d->scope == METRIC_SCOPE_BROKER) {
			return *(const uint64_t *)record(t, SHM_SEC_METRIC_VALUE, d->index);
		}
		return ((const uint64_t *)record(t, SHM_SEC_POOL_VALUE, pool))[d->index];
	}
	bail_out("no metric %s{%s}", name, label);
}

static void test_values(void)
{
	struct both t;

	open_both(&t);
	board_count(t.b, METRIC_ATTACHES, 3);
	board_count(t.b, METRIC_ATTACHES, 2);
	board_gauge(t.b, METRIC_WORKERS_ATTACHED, 9);
	board_adjust(t.b, METRIC_WORKERS_ATTACHED, -2);
	board_pool_count(t.b, 1, POOL_METRIC_PREPARED_MISSES, 7);
	board_pool_gauge(t.b, 0, POOL_METRIC_SV_IDLE, 4);
	board_pool_adjust(t.b, 0, POOL_METRIC_SV_IDLE, 1);
	is_int((int64_t)value(&t, "broker_attaches_total", "", 0), 5, "counters add up");
	is_int((int64_t)value(&t, "broker_workers", "", 0), 7, "gauges are set and adjusted");
	is_int((int64_t)value(&t, "broker_prepared_total", "state=\"miss\"", 1), 7,
		"a pool's counter");
	is_int((int64_t)value(&t, "broker_prepared_total", "state=\"miss\"", 0), 0,
		"is not the other pool's");
	is_int((int64_t)value(&t, "broker_pool_connections", "state=\"idle\"", 0), 5,
		"a pool's gauge");
	is_int((int64_t)board_value(t.b, METRIC_ATTACHES), 5, "the writer reads the same");
	is_int((int64_t)board_pool_value(t.b, 1, POOL_METRIC_PREPARED_MISSES), 7, "of pools, too");
	board_heartbeat(t.b, 12345);
	is_int((int64_t)get(&((struct shm_header *)t.s)->heartbeat_ns), 12345, "the heart beats");
	close_both(&t);
	ok(t.b == NULL, "destroy takes the pointer");
	board_destroy(&t.b);
	board_destroy(NULL);
}

static void test_histograms(void)
{
	struct histogram_copy c;
	struct both t;

	open_both(&t);
	board_time(t.b, 1, POOL_HIST_RUN, 1000000);
	board_time(t.b, 1, POOL_HIST_RUN, 3000000);
	ok(histogram_copy_init(&c, record(&t, SHM_SEC_HISTOGRAMS, POOL_HIST_COUNT + POOL_HIST_RUN),
		   sizeof(struct histogram)) == 0 &&
			c.count == 2 && c.sum_ns == 4000000,
		"durations reach the pool's histogram");
	histogram_copy_finish(&c);
	ok(histogram_copy_init(&c, record(&t, SHM_SEC_HISTOGRAMS, POOL_HIST_RUN),
		   sizeof(struct histogram)) == 0 &&
			c.count == 0,
		"and no other");
	histogram_copy_finish(&c);
	close_both(&t);
}

static void test_rows(void)
{
	struct board_worker_info w = {.pid = 77, .name = "httpd", .tag = "GET /", .statements = 12};
	struct board_conn_info c = {.pool = 1, .backend_pid = 99, .worker_slot = BOARD_NONE};
	struct board_worker got;
	const struct board_worker *row;
	struct both t;
	uint64_t version;

	open_both(&t);
	row = record(&t, SHM_SEC_WORKERS, 4);
	ok(seqlock_read(&row->seq, &row->used, &got.used, sizeof(got) - 8, &version) &&
			version == 0 && got.used == 0,
		"a row nobody wrote is free");
	board_worker_row(t.b, 4, &w);
	ok(seqlock_read(&row->seq, &row->used, &got.used, sizeof(got) - 8, &version) &&
			got.used == 1 && memcmp(&got.info, &w, sizeof(w)) == 0,
		"a row arrives whole");
	board_worker_row(t.b, 4, NULL);
	ok(seqlock_read(&row->seq, &row->used, &got.used, sizeof(got) - 8, &version) &&
			got.used == 0 && version == 4,
		"and is freed");
	board_conn_row(t.b, 3, &c);
	ok(((const struct board_conn *)record(&t, SHM_SEC_CONNS, 3))->info.backend_pid == 99 &&
			((const struct board_conn *)record(&t, SHM_SEC_CONNS, 2))->used == 0,
		"connections have rows of their own");
	board_pool_row(t.b, 0, &(struct board_pool_info){.name = "main"});
	board_server_row(t.b, 2, &(struct board_server_info){.name = "db1"});
	is_str(((const struct board_pool *)record(&t, SHM_SEC_POOLS, 0))->info.name, "main",
		"pools");
	is_str(((const struct board_server *)record(&t, SHM_SEC_SERVERS, 2))->info.name, "db1",
		"servers");
	close_both(&t);
}

static void test_events(void)
{
	struct board_event_slot e;
	char longtext[600];
	struct both t;

	open_both(&t);
	memset(longtext, 'y', sizeof(longtext) - 1);
	longtext[sizeof(longtext) - 1] = '\0';
	board_event(t.b, BOARD_EVENT_SERVER_DOWN, "server %s: %s", "db1", "no route\nto \033host");
	is_int((int64_t)board_event_read(record(&t, SHM_SEC_EVENTS, 0), BOARD_EVENT_SLOT, &e), 1,
		"the first event");
	is_str(e.name, "server_down", "has the name of its kind");
	is_str(e.text, "server db1: no route to  host", "and a text without control characters");
	ok(e.when_ns > UINT64_C(1500000000000000000), "and the time");
	board_event(t.b, BOARD_EVENT_ERROR, "%s", longtext);
	(void)board_event_read(record(&t, SHM_SEC_EVENTS, 1), BOARD_EVENT_SLOT, &e);
	is_int((int64_t)strlen(e.text), (int64_t)sizeof(e.text) - 1, "a long text is cut");
	for (unsigned i = 0; i < BOARD_EVENTS; i++) {
		board_event(t.b, BOARD_EVENT_RELOAD, "number %u", i);
	}
	is_int((int64_t)board_event_read(record(&t, SHM_SEC_EVENTS, 1), BOARD_EVENT_SLOT, &e),
		BOARD_EVENTS + 2, "the newest event overwrites the oldest");
	is_int((int64_t)value(&t, "broker_events_total", "", 0), BOARD_EVENTS + 2,
		"all are counted");
	is_str(board_event_name(9999), "unknown", "a kind that does not exist has a name, too");
	close_both(&t);
}

static void test_slow(void)
{
	struct slow_record rec = {.sql = "SELECT pg_sleep(2)", .sql_len = 18, .run_ns = 2};
	const struct shm_section *sec;
	struct slow_slot got;
	struct both t;

	open_both(&t);
	board_slow(t.b, &rec);
	sec = segment_section(t.q, SHM_SEC_SLOW);
	ok(sec != NULL && sec->count == 6 && sec->stride == SLOW_SLOT, "Q has the slots asked for");
	ok(slowring_read(segment_at(t.q, sec), sec->stride, &got) == 1 &&
			memcmp(got.sql, rec.sql, rec.sql_len) == 0,
		"slow statements reach Q");
	is_int((int64_t)value(&t, "broker_slow_statements_total", "", 0), 1, "and are counted");
	close_both(&t);
}

/* Several writers, each with a part. */
static void test_parts(void)
{
	struct board *part[2];
	struct board_event_slot e;
	const struct histogram *h;
	struct both t;

	open_both(&t);
	for (unsigned i = 0; i < 2; i++) {
		part[i] = board_part(t.b, i, 2);
		if (part[i] == NULL) {
			bail_out("no memory");
		}
		board_count(part[i], METRIC_REQUESTS, 10 + i);
		board_pool_adjust(part[i], 1, POOL_METRIC_LEASES_ACTIVE, i == 0 ? 3 : -1);
		board_time(part[i], 0, POOL_HIST_RUN, 1000 * (i + 1));
		board_event(part[i], BOARD_EVENT_ERROR, "part %u", i);
		board_heartbeat(part[i], 500 - i);
	}
	board_pool_gauge(part[1], 1, POOL_METRIC_WAITING_SINCE, 70);
	board_pool_gauge(part[0], 0, POOL_METRIC_WAITING_SINCE, 90);
	board_pool_gauge(part[1], 0, POOL_METRIC_WAITING_SINCE, 80);
	is_int((int64_t)value(&t, "broker_requests_total", "", 0), 0,
		"what parts count is not shown");
	board_sum(t.b, 2);
	is_int((int64_t)value(&t, "broker_requests_total", "", 0), 21, "until it is summed up");
	is_int((int64_t)value(&t, "broker_leases_active", "", 1), 2, "gauges too");
	is_int((int64_t)value(&t, "broker_pool_maxwait_seconds", "", 0), 80,
		"of stamps the oldest");
	is_int((int64_t)value(&t, "broker_pool_maxwait_seconds", "", 1), 70, "that there is");
	h = record(&t, SHM_SEC_HISTOGRAMS, POOL_HIST_RUN);
	is_int((int64_t)get(&h->sum_ns), 3000, "histograms are summed up");
	is_int((int64_t)get(&h->max_ns), 2000, "and have one maximum");
	is_int((int64_t)get(&h->bucket[histogram_bucket(1000)]), 1, "and all the counts");
	is_int((int64_t)get(&((const struct shm_header *)t.s)->heartbeat_ns), 499,
		"the slowest heart is shown");
	for (unsigned i = 0; i < 2; i++) {
		char want[16];

		snprintf(want, sizeof(want), "part %u", i);
		ok(board_event_read(record(&t, SHM_SEC_EVENTS, i), BOARD_EVENT_SLOT, &e) == i + 1 &&
				strcmp(e.text, want) == 0,
			"event %u is in the one log", i + 1);
		board_destroy(&part[i]);
	}
	close_both(&t);
}

static void test_geometry(void)
{
	static const struct board_geometry bad[] = {
		{.npools = 0, .nslow = 1},
		{.npools = 1, .nslow = 0},
		{.npools = 1, .nslow = 1, .nconns = BOARD_ROWS_MAX + 1},
		{.npools = UINT32_MAX, .nslow = 1},
	};
	struct segment_identity id;
	struct board *b = NULL;

	segment_identity_self(&id);
	for (unsigned i = 0; i < array_size(bad); i++) {
		is_int(board_create(&id, &bad[i], NULL, NULL, &b), -EINVAL, "bad geometry %u", i);
	}
	is_int(board_create(&id, &(struct board_geometry){.npools = 1, .nslow = 1}, NULL, NULL, &b),
		0, "empty tables are allowed");
	board_destroy(&b);
}

int main(void)
{
	test_values();
	test_histograms();
	test_rows();
	test_events();
	test_slow();
	test_parts();
	test_geometry();
	return done_testing();
}
