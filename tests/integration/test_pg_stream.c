/* SPDX-License-Identifier: MIT */
/*
 * test_pg_stream.c - large results and COPY in both directions: bounded memory, backpressure,
 * errors in the middle, and a session in order afterwards.
 */
#include "pg_case.h"
#include "spawn.h"

#include <unistd.h>

#define MIB (INT64_C(1) << 20)

/* AddressSanitizer keeps freed memory for a while: resident memory says nothing then. */
#if defined(__SANITIZE_ADDRESS__)
#define RSS_COUNTS false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RSS_COUNTS false
#endif
#endif
#ifndef RSS_COUNTS
#define RSS_COUNTS true
#endif

/* 200 MB in 200,000 rows; the worker stops on the way. */
static void test_large_result(struct pg_case *t)
{
	struct broker_call call = {.flags = BROKER_READONLY | BROKER_STREAM, .timeout_ms = 120000};
	struct broker *other = case_attach(t->proc);
	struct broker_result *r;
	int64_t rss = broker_rss(t->proc), rows = 0, sum = 0, x, most = 0;
	const char *text;
	size_t len, bytes = 0;

	is_int(broker_exec(t->b, "SELECT g, repeat('x', 1000) FROM generate_series(1, 200000) g", 0,
		       NULL, &call, &r),
		0, "a large result begins");
	while (broker_next(r) == 1) {
		if (broker_get_int64(r, 0, &x) == 0 && broker_get_text(r, 1, &text, &len) == 0) {
			sum += x;
			bytes += len;
		}
		if (++rows % 50000 == 0) {
			int64_t now = broker_rss(t->proc);

			is_str(case_text(other, NULL, "SELECT 1", 0, NULL), "1",
				"others are served while it is read slowly");
			most = now > most ? now : most;
		}
	}
	is_int(rows, 200000, "all rows");
	is_int(sum, INT64_C(200000) * 200001 / 2, "each once");
	is_int((int64_t)bytes, 200000000, "whole");
	ok(!RSS_COUNTS || most - rss < 8 * MIB, "the broker's memory stays: %lld KiB more",
		(long long)(most - rss) / 1024);
	broker_result_free(&r);
	broker_detach(&other);
}

/* A result that nobody reads to its end. */
static void test_abandoned_result(struct broker *b)
{
	struct broker_call call = {.flags = BROKER_READONLY, .timeout_ms = 60000};
	struct broker_result *r;

	is_int(broker_exec(b, "SELECT g, repeat('x', 1000) FROM generate_series(1, 10000000) g", 0,
		       NULL, &call, &r),
		0, "a result without end");
	is_int(broker_next(r), 1, "is looked at");
	broker_result_free(&r);
	is_str(case_text(b, NULL, "SELECT 1", 0, NULL), "1", "and dropped");
}

static bool backend_is_gone(struct pg_cluster *pg, int pid)
{
	return pg_int(pg, "SELECT count(*) FROM pg_stat_activity WHERE pid = %d", pid) == 0;
}

/* libpq's buffers do not shrink: a connection that carried a large value is replaced. */
static void test_large_value(struct pg_case *t)
{
	struct broker_call call = {.timeout_ms = 60000};
	struct broker_lease *l;
	struct broker_result *r;
	const char *text;
	size_t len = 0;
	int pid;

	is_int(broker_lease(t->b, &call, &l), 0, "a lease");
	call.lease = l;
	pid = atoi(case_text(t->b, &call, "SELECT pg_backend_pid()", 0, NULL));
	is_int(broker_exec(t->b, "SELECT repeat('0123456789', 3000000)", 0, NULL, &call, &r), 0,
		"a value of 30 MB");
	is_int(broker_next(r), 1, "arrives");
	is_int(broker_get_text(r, 0, &text, &len), 0, "as text");
	is_int((int64_t)len, 30000000, "whole");
	ok(memcmp(text + 29999990, "0123456789", 10) == 0, "to its end");
	broker_result_free(&r);
	broker_release(&l);
	ok(wait_until(backend_is_gone(t->pg, pid), 60000), "its connection is replaced");
}

static void test_large_parameter(struct pg_case *t)
{
	struct broker_call call = {.timeout_ms = 60000};
	struct broker_lease *l;
	struct broker_value v;
	char *big = malloc(20 * MIB);
	int pid;

	memset(big, 'y', 20 * MIB);
	v = broker_textn(big, 20 * MIB);
	is_int(broker_lease(t->b, &call, &l), 0, "a lease");
	call.lease = l;
	pid = atoi(case_text(t->b, &call, "SELECT pg_backend_pid()", 0, NULL));
	is_str(case_text(t->b, &call, "SELECT length($1)", 1, &v), "20971520",
		"a parameter of 20 MB");
	broker_release(&l);
	ok(wait_until(backend_is_gone(t->pg, pid), 60000), "its connection is replaced");
	free(big);
}

static void test_error_after_rows(struct broker *b)
{
	struct broker_call call = {.flags = BROKER_READONLY};
	struct broker_result *r;
	int rows = 0, rc;

	is_int(broker_exec(b,
		       "SELECT 1000 / (5000 - g), repeat('x', 1000) FROM generate_series(1, 9000) "
		       "g",
		       0, NULL, &call, &r),
		0, "rows");
	while ((rc = broker_next(r)) == 1) {
		rows++;
	}
	is_int(rc, BROKER_E_DATABASE, "end in an error");
	is_str(case_sqlstate(b), "22012", "division by zero");
	ok(rows > 4900 && rows <= 4999, "after those that were good, %d of them", rows);
	broker_result_free(&r);
}

static int64_t copy_in(struct broker *b, const struct broker_call *call, const char *sql,
	const char *data, const char *abort_reason)
{
	struct broker_copy *c;
	int64_t rows = -1;
	int rc = broker_copy_in(b, sql, call, &c), rc2;

	if (rc < 0) {
		return rc;
	}
	rc = broker_copy_write(c, data, strlen(data));
	rc2 = broker_copy_end(&c, abort_reason, &rows);
	return rc2 < 0 ? rc2 : rc < 0 ? rc : rows;
}

static void test_copy_in(struct broker *b)
{
	struct broker_lease *l;
	struct broker_call call = {0};

	is_int(case_run(b, NULL, "CREATE TABLE load(id int, v text)"), 0, "create");
	is_int(broker_begin(b, NULL, &l), 0, "a transaction");
	call.lease = l;
	is_int(copy_in(b, &call, "COPY load FROM STDIN", "1\tone\n2\ttwo\n", NULL), 2,
		"COPY as its first statement");
	is_str(case_text(b, &call, "SELECT count(*) FROM load", 0, NULL), "2",
		"a statement after it");
	is_int(copy_in(b, &call, "COPY load FROM STDIN", "3\tthree\n", NULL), 1, "another COPY");
	is_int(broker_commit(&l, 0), 0, "commit");

	is_int(broker_lease(b, NULL, &l), 0, "a lease");
	call.lease = l;
	is_int(copy_in(b, &call, "COPY load FROM STDIN", "4\tfour\nx\tbad\n5\tfive\n", NULL),
		BROKER_E_DATABASE, "a bad row");
	is_str(case_sqlstate(b), "22P02", "with the server's code");
	is_int(copy_in(b, &call, "COPY load FROM STDIN", "6\tsix\n", "changed my mind"),
		BROKER_E_CANCELLED, "a COPY that its worker ends");
	ok(strstr(broker_error(b)->message, "changed my mind") != NULL, "with the worker's reason");
	is_int(copy_in(b, &call, "COPY nowhere FROM STDIN", "", NULL), BROKER_E_DATABASE,
		"no such table");
	is_str(case_sqlstate(b), "42P01", "with the server's code");
	is_int(copy_in(b, &call,
		       "COPY (SELECT repeat('x', 100) FROM generate_series(1, 10000)) TO STDOUT",
		       "", NULL),
		BROKER_E_ARGUMENT, "the other direction");
	is_int(copy_in(b, &call, "SELECT 1", "", NULL), BROKER_E_ARGUMENT, "no COPY at all");
	is_int(copy_in(b, &call, "COPY load FROM STDIN", "7\tseven\n", NULL), 1,
		"and one that works");
	is_str(case_text(
		       b, &call, "SELECT string_agg(id::text, ',' ORDER BY id) FROM load", 0, NULL),
		"1,2,3,7", "what was copied is there");
	broker_release(&l);

	is_int(broker_begin(b, &(struct broker_call){.flags = BROKER_READONLY}, &l), 0,
		"a read-only transaction");
	call.lease = l;
	is_int(copy_in(b, &call, "COPY load FROM STDIN", "8\teight\n", NULL), BROKER_E_DATABASE,
		"takes no COPY");
	is_str(case_sqlstate(b), "25006", "with the server's code");
	broker_rollback(&l);
	is_str(case_text(b, NULL, "SELECT count(*) FROM load", 0, NULL), "4",
		"and changes nothing");
}

/* Let the server go on once the worker does not any more. */
static void thaw_when_blocked(struct pg_cluster *pg, pid_t worker)
{
	char *path = scratch_format("/proc/%d/stat", (int)worker), state;
	int asleep = 0;

	while (asleep < 20) {
		FILE *f = fopen(path, "r");

		if (f == NULL) {
			exit(1);
		}
		asleep = fscanf(f, "%*d (%*[^)]) %c", &state) == 1 && state == 'S' ? asleep + 1 : 0;
		fclose(f);
		wait_pause();
	}
	pg_thaw(pg);
	_exit(0);
}

/* More than all buffers between worker and server hold; the server hangs at first. */
static void test_copy_in_large(struct pg_case *t)
{
	struct broker_call call = {.timeout_ms = 120000};
	struct broker_lease *l;
	struct broker_copy *c;
	int64_t rss = broker_rss(t->proc), most = 0, rows = 0;
	char line[1024];
	bool good = true;
	pid_t thawer;

	memset(line, 'z', sizeof(line));
	memcpy(line, "9\t", 2);
	line[sizeof(line) - 1] = '\n';
	is_int(case_run(t->b, NULL, "CREATE TABLE heap(id int, v text)"), 0, "create");
	is_int(broker_begin(t->b, &call, &l), 0, "a transaction");
	call.lease = l;
	is_int(broker_copy_in(t->b, "COPY heap FROM STDIN", &call, &c), 0, "a large COPY");
	pg_freeze(t->pg);
	thawer = spawn_fork();
	if (thawer == 0) {
		thaw_when_blocked(t->pg, getppid());
	}
	for (int i = 0; i < 60000; i++) {
		good = good && broker_copy_write(c, line, sizeof(line)) == 0;
		if (i % 10000 == 0) {
			int64_t now = broker_rss(t->proc);

			most = now > most ? now : most;
		}
	}
	is_int(spawn_wait(thawer, 60000, NULL), 0, "the worker had to wait for the server");
	ok(good, "all is taken");
	is_int(broker_copy_end(&c, NULL, &rows), 0, "and ends");
	is_int(rows, 60000, "with all rows");
	broker_rollback(&l);
	ok(!RSS_COUNTS || most - rss < 24 * MIB, "the broker's memory stays: %lld KiB more",
		(long long)(most - rss) / 1024);
}

static int64_t copy_out(struct broker *b, const struct broker_call *call, const char *sql,
	char *first, size_t size, int64_t *bytes)
{
	struct broker_copy *c;
	const void *data;
	size_t len;
	int64_t rows = -1;
	int rc = broker_copy_out(b, sql, call, &c), rc2;

	*bytes = 0;
	if (rc < 0) {
		return rc;
	}
	while ((rc = broker_copy_read(c, &data, &len)) == 0 && len > 0) {
		if (*bytes == 0) {
			snprintf(first, size, "%.*s", (int)len, (const char *)data);
		}
		*bytes += (int64_t)len;
	}
	rc2 = broker_copy_end(&c, NULL, &rows);
	return rc < 0 ? rc : rc2 < 0 ? rc2 : rows;
}

static void test_copy_out(struct pg_case *t)
{
	struct broker_lease *l;
	struct broker_call call = {.timeout_ms = 120000};
	char first[64] = "";
	int64_t bytes, rss = broker_rss(t->proc);

	is_int(broker_lease(t->b, &call, &l), 0, "a lease");
	call.lease = l;
	is_int(copy_out(t->b, &call, "COPY (SELECT 1, 'x' UNION ALL SELECT 2, 'y') TO STDOUT",
		       first, sizeof(first), &bytes),
		2, "COPY out");
	ok(strncmp(first, "1\tx\n", 4) == 0, "gives data");
	is_int(bytes, 8, "all of it");
	is_int(copy_out(t->b, &call,
		       "COPY (SELECT g, repeat('x', 990) FROM generate_series(1, 100000) g) TO "
		       "STDOUT",
		       first, sizeof(first), &bytes),
		100000, "a large COPY out");
	ok(bytes > 99000000, "gives all");
	ok(!RSS_COUNTS || broker_rss(t->proc) - rss < 8 * MIB, "in little memory");
	is_int(copy_out(t->b, &call,
		       "COPY (SELECT 10 / (3 - g) FROM generate_series(1, 5) g) TO STDOUT", first,
		       sizeof(first), &bytes),
		BROKER_E_DATABASE, "an error on the way");
	is_str(case_sqlstate(t->b), "22012", "is the server's");
	is_int(copy_out(t->b, &call, "COPY load FROM STDIN", first, sizeof(first), &bytes),
		BROKER_E_ARGUMENT, "the other direction");
	is_int(copy_out(t->b, &call, "SELECT 1", first, sizeof(first), &bytes), BROKER_E_ARGUMENT,
		"no COPY at all");
	is_str(case_text(t->b, &call, "SELECT 1", 0, NULL), "1", "the session is in order");
	broker_release(&l);
}

int main(void)
{
	struct pg_case t;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	t = case_start(NULL, (const char *const[]){"pool main.max_size=2", NULL});
	test_large_result(&t);
	test_abandoned_result(t.b);
	test_error_after_rows(t.b);
	test_copy_in(t.b);
	test_copy_in_large(&t);
	test_copy_out(&t);
	test_large_value(&t);
	test_large_parameter(&t);
	case_end(&t);
	return done_testing();
}
