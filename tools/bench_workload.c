/* SPDX-License-Identifier: MIT */
/*
 * bench_workload.c - one operation of each workload, as a worker runs it over and over.
 *
 * Every answer is looked at: a result with another number of rows than there must be is a failure.
 */
#include "bench_driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACCOUNTS 100000u /* for each of pgbench's branches */
#define TELLERS 10u

/* xorshift64*; the seed is not 0. */
static uint64_t next_random(struct bench_worker *w)
{
	uint64_t x = w->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	w->random = x;
	return (x * UINT64_C(2685821657736338717)) >> 11;
}

/* 1..n */
static int64_t pick(struct bench_worker *w, uint64_t n)
{
	return (int64_t)(next_random(w) % n) + 1;
}

static int64_t account(struct bench_worker *w)
{
	return pick(w, (uint64_t)w->plan->scale * ACCOUNTS);
}

static const struct bench_stmt *stmt(const struct bench_worker *w, enum bench_sql id)
{
	return bench_stmt(id, w->plan->sqlite);
}

static enum bench_outcome failed(struct bench_worker *w)
{
	snprintf(w->error, sizeof(w->error), "%s",
		w->conn != NULL ? w->driver->error(w->conn) : "no memory for a connection");
	return BENCH_FAILED;
}

/* rows, or -1, against what it must be. */
static enum bench_outcome expect(struct bench_worker *w, int64_t rows, int64_t want)
{
	if (rows < 0) {
		return failed(w);
	}
	if (rows != want) {
		snprintf(w->error, sizeof(w->error), "wrong answer: %lld rows instead of %lld",
			(long long)rows, (long long)want);
		return BENCH_FAILED;
	}
	return BENCH_DONE;
}

static enum bench_outcome run_one(
	struct bench_worker *w, enum bench_sql id, const int64_t *args, int64_t want)
{
	return expect(w, w->driver->run(w->conn, stmt(w, id), args), want);
}

static enum bench_outcome run_point(struct bench_worker *w)
{
	return run_one(w, SQL_POINT, (int64_t[]){account(w)}, 1);
}

static enum bench_outcome run_pages(struct bench_worker *w)
{
	int64_t args[BENCH_PAGE_MAX];

	for (unsigned i = 0; i < w->plan->page; i++) {
		args[i] = account(w);
	}
	return expect(w, w->driver->many(w->conn, stmt(w, SQL_POINT), args, w->plan->page),
		w->plan->page);
}

static enum bench_outcome run_pages_by_one(struct bench_worker *w)
{
	enum bench_outcome o = BENCH_DONE;

	for (unsigned i = 0; i < w->plan->page && o == BENCH_DONE; i++) {
		o = run_point(w);
	}
	return o;
}

static enum bench_outcome run_write(struct bench_worker *w)
{
	int64_t delta = pick(w, 10000) - 5000;

	return run_one(w, SQL_UPDATE, (int64_t[]){delta, account(w)}, 1);
}

static enum bench_outcome tpcb_steps(struct bench_worker *w)
{
	int64_t aid = account(w), delta = pick(w, 10000) - 5000;
	int64_t tid = pick(w, (uint64_t)w->plan->scale * TELLERS), bid = pick(w, w->plan->scale);
	const struct {
		enum bench_sql id;
		int64_t args[BENCH_PARAMS_MAX];
	} steps[] = {
		{SQL_UPDATE, {delta, aid}},
		{SQL_POINT, {aid}},
		{SQL_TELLER, {delta, tid}},
		{SQL_BRANCH, {delta, bid}},
		{SQL_HISTORY, {tid, bid, aid, delta}},
	};
	enum bench_outcome o = BENCH_DONE;

	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]) && o == BENCH_DONE; i++) {
		o = run_one(w, steps[i].id, steps[i].args, 1);
	}
	return o;
}

static enum bench_outcome run_tpcb(struct bench_worker *w)
{
	if (w->driver->begin(w->conn) < 0) {
		return failed(w);
	}
	if (tpcb_steps(w) != BENCH_DONE) {
		w->driver->rollback(w->conn);
		return BENCH_FAILED;
	}
	return w->driver->commit(w->conn) < 0 ? failed(w) : BENCH_DONE;
}

static enum bench_outcome run_rows(struct bench_worker *w)
{
	int64_t n = w->plan->rows, from = pick(w, BENCH_ROWS - w->plan->rows + 1);

	return run_one(w, SQL_ROWS, (int64_t[]){from, from + n}, n);
}

static enum bench_outcome run_blob(struct bench_worker *w)
{
	return run_one(w, SQL_BLOB, (int64_t[]){pick(w, BENCH_BLOBS)}, 1);
}

static enum bench_outcome run_put(struct bench_worker *w)
{
	static unsigned char data[BENCH_BLOB_BYTES]; /* of this process, which is one worker */

	for (size_t i = 0; i + sizeof(uint64_t) <= sizeof(data); i += 4096) {
		uint64_t x = next_random(w);

		memcpy(data + i, &x, sizeof(x));
	}
	return w->driver->put(w->conn, stmt(w, SQL_PUT), data, sizeof(data), pick(w, BENCH_BLOBS)) <
			       0
		       ? failed(w)
		       : BENCH_DONE;
}

static enum bench_outcome run_mix(struct bench_worker *w)
{
	enum bench_outcome o;

	if ((double)(next_random(w) % 1000000) >= w->plan->slow_percent * 10000) {
		return run_point(w);
	}
	o = run_one(w, SQL_SLOW, (int64_t[]){w->plan->slow_argument}, 1);
	return o == BENCH_DONE ? BENCH_DONE_SLOW : o;
}

static enum bench_outcome run_lease(struct bench_worker *w)
{
	return w->driver->lease(w->conn) < 0 ? failed(w) : BENCH_DONE;
}

static enum bench_outcome run_attach(struct bench_worker *w)
{
	enum bench_outcome o;

	o = w->driver->open(w->plan, &w->conn) < 0 ? failed(w) : run_point(w);
	w->driver->close(&w->conn);
	return o;
}

static unsigned one(const struct bench_plan *p)
{
	(void)p;
	return 1;
}

static unsigned page(const struct bench_plan *p)
{
	return p->page;
}

static unsigned five(const struct bench_plan *p)
{
	(void)p;
	return 5;
}

static const struct bench_workload workloads[] = {
	{"point", "one row by its key (pgbench -S)", run_point, one, false},
	{"pages", "a page: 20 point reads sent together", run_pages, page, false},
	{"pages1", "a page: 20 point reads, one after the other", run_pages_by_one, page, false},
	{"write", "one row changed by its key, committed at once", run_write, one, false},
	{"tpcb", "pgbench's transaction; its 5 statements count, BEGIN and COMMIT do not", run_tpcb,
		five, false},
	{"rows", "a result of --rows rows, all values read", run_rows, one, false},
	{"blob", "a value of 1 MB read", run_blob, one, false},
	{"put", "a value of 1 MB written", run_put, one, false},
	{"mix",
		"point reads, 1 % statements of 200 ms among them; times are those of the point "
		"reads",
		run_mix, one, false},
	{"lease", "take a connection of the pool and give it back (broker only)", run_lease, one,
		false},
	{"attach", "attach or connect, one point read, detach", run_attach, one, true},
};

const struct bench_workload *bench_workload_at(unsigned i)
{
	return i < sizeof(workloads) / sizeof(workloads[0]) ? &workloads[i] : NULL;
}

const struct bench_workload *bench_workload_find(const char *name)
{
	for (unsigned i = 0; bench_workload_at(i) != NULL; i++) {
		if (strcmp(workloads[i].name, name) == 0) {
			return &workloads[i];
		}
	}
	return NULL;
}
