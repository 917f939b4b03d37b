/* SPDX-License-Identifier: MIT */
/*
 * test_large.c - values and results far larger than the result arena, on both databases: they
 * arrive whole, the memory of broker and worker stays bounded, and nobody else waits for who reads
 * slowly.
 */
#include "brokerproc.h"
#include "check.h"
#include "pg.h"
#include "shmbroker.h"
#include "spawn.h"
#include "stage.h"
#include "tap.h"
#include "wait.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RSS_LIMIT (64 << 20)

struct env {
	const char *name;
	bool pg;
	struct broker_proc *p;
	struct broker *b;
};

static struct broker *attach(const struct env *e)
{
	struct broker_options o = {.path = broker_socket(e->p), .timeout_ms = 60000};
	struct broker *b;

	if (broker_attach(&o, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static void must(struct broker *b, const char *sql)
{
	if (broker_exec(b, sql, 0, NULL, NULL, NULL) < 0) {
		bail_out("%s: %s", sql, broker_error(b)->message);
	}
}

static bool can_measure(void)
{
	return stage_slowness() == 1; /* sanitizers have memory of their own */
}

/* Resident bytes of a process. */
static int64_t rss_of(pid_t pid)
{
	char path[64];
	long long pages = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	f = fopen(path, "re");
	if (f != NULL) {
		if (fscanf(f, "%*s %lld", &pages) != 1) {
			pages = 0;
		}
		fclose(f);
	}
	return pages * sysconf(_SC_PAGESIZE);
}

/* n rows: their number, and 1000 bytes of text that depend on it. */
static const char *rows_sql(const struct env *e, unsigned n)
{
	static char sql[300];

	if (e->pg) {
		snprintf(sql, sizeof(sql),
			"SELECT i, lpad(i::text, 1000, '0') FROM (SELECT generate_series(1, %u) AS "
			"i) g",
			n);
	} else {
		snprintf(sql, sizeof(sql),
			"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < "
			"%u) "
			"SELECT i, printf('%%01000d', i) FROM c",
			n);
	}
	return sql;
}

static bool row_is_right(struct broker_result *r, int64_t i)
{
	char tail[32];
	const char *text;
	size_t len, n;
	int64_t got;

	if (broker_get_int64(r, 0, &got) < 0 || got != i ||
		broker_get_text(r, 1, &text, &len) < 0 || len != 1000) {
		return false;
	}
	n = (size_t)snprintf(tail, sizeof(tail), "0%lld", (long long)i);
	return text[0] == '0' && memcmp(text + len - n, tail, n) == 0;
}

/* -- one value --------------------------------------------------------------------------------- */

/* Bytes that are no text, or text without NUL, the same each time. */
static char *make_value(size_t len, bool text)
{
	char *v = malloc(len);
	uint64_t x = 88172645463325252u;

	if (v == NULL) {
		bail_out("out of memory");
	}
	for (size_t i = 0; i < len; i++) {
		if (i % 8 == 0) { /* xorshift (Marsaglia) */
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
		}
		v[i] = text ? (char)('a' + (x >> (i % 8 * 8)) % 26) : (char)(x >> (i % 8 * 8));
	}
	return v;
}

static bool comes_back(
	struct env *e, const char *sql, const struct broker_value *v, size_t len, bool text)
{
	struct broker_call call = {.timeout_ms = 120000};
	struct broker_result *r;
	const void *got = NULL;
	size_t n = 0;
	bool same;

	if (broker_exec(e->b, sql, v != NULL, v, &call, &r) < 0 || broker_next(r) != 1) {
		diag("%s: %s", sql, broker_error(e->b)->message);
		return false;
	}
	if (text ? broker_get_text(r, 0, (const char **)&got, &n) < 0
		 : broker_get_blob(r, 0, &got, &n) < 0) {
		diag("%s: %s", sql, broker_error(e->b)->message);
	}
	same = got != NULL && n == len && (v == NULL || memcmp(got, v->u.bytes.data, len) == 0);
	if (broker_next(r) != 0) {
		same = false;
	}
	broker_result_free(&r);
	return same;
}

static void test_value(struct env *e, size_t len, bool text)
{
	const char *sql = !e->pg ? "SELECT $1"
			  : text ? "SELECT CAST($1 AS TEXT)"
				 : "SELECT CAST($1 AS BYTEA)";
	char *bytes = make_value(len, text);
	struct broker_value v = text ? broker_textn(bytes, len) : broker_blob(bytes, len);
	struct broker_call call = {.timeout_ms = 120000};
	int64_t before = rss_of(broker_pid(e->p));

	ok(comes_back(e, sql, &v, len, text), "%s: %zu MB of %s there and back", e->name, len >> 20,
		text ? "text" : "bytes");
	must(e->b, "DELETE FROM large");
	is_int(broker_exec(e->b,
		       text ? "INSERT INTO large (t) VALUES ($1)"
			    : "INSERT INTO large (b) VALUES ($1)",
		       1, &v, &call, NULL),
		0, "stored");
	ok(comes_back(e,
		   text ? "SELECT t FROM large WHERE $1 = t" : "SELECT b FROM large WHERE $1 = b",
		   &v, len, text),
		"found by its value, and read");
	if (can_measure()) {
		(void)wait_until(rss_of(broker_pid(e->p)) - before < 48 << 20, 30000);
		ok(rss_of(broker_pid(e->p)) - before < 48 << 20,
			"the broker has given the memory back (grown by %lld MiB)",
			(long long)(rss_of(broker_pid(e->p)) - before) >> 20);
	}
	must(e->b, "DELETE FROM large");
	free(bytes);
}

/* -- a long result ----------------------------------------------------------------------------- */

/* Reads a stream to its end; 0 if every row is right. */
static int read_stream(const struct env *e, unsigned n)
{
	struct broker_call call = {.flags = BROKER_READONLY | BROKER_STREAM, .timeout_ms = 200000};
	struct broker *b = attach(e);
	struct broker_result *r;
	int64_t i = 0;
	int rc;

	if (broker_exec(b, rows_sql(e, n), 0, NULL, &call, &r) < 0) {
		diag("%s", broker_error(b)->message);
		return 1;
	}
	while ((rc = broker_next(r)) == 1) {
		if (!row_is_right(r, ++i)) {
			diag("row %lld is wrong", (long long)i);
			return 2;
		}
	}
	if (rc < 0) {
		diag("after %lld rows: %s", (long long)i, broker_error(b)->message);
		return 3;
	}
	if (i != n || broker_rows(r) != n) {
		return 4;
	}
	broker_result_free(&r);
	broker_detach(&b);
	return 0;
}

static void test_stream(struct env *e, unsigned n)
{
	int64_t broker_peak = 0, worker_peak = 0, start = wait_clock_ms();
	pid_t pid = spawn_fork();
	int status;

	if (pid == 0) {
		_exit(read_stream(e, n));
	}
	while (!spawn_ended(pid) && wait_clock_ms() < start + 240000) {
		int64_t b = rss_of(broker_pid(e->p)), w = rss_of(pid);

		broker_peak = b > broker_peak ? b : broker_peak;
		worker_peak = w > worker_peak ? w : worker_peak;
		wait_pause();
	}
	status = spawn_wait(pid, 1000, NULL);
	is_int(status, 0, "%s: %u rows of 1 KB arrive in order (%lld ms)", e->name, n,
		(long long)(wait_clock_ms() - start));
	if (!can_measure()) {
		skip("a sanitizer's memory says nothing");
		return;
	}
	ok(broker_peak < RSS_LIMIT, "the broker never had more than %lld MiB",
		(long long)broker_peak >> 20);
	ok(worker_peak < RSS_LIMIT, "the worker never had more than %lld MiB",
		(long long)worker_peak >> 20);
}

/* -- slow readers ------------------------------------------------------------------------------ */

static bool others_move(const struct env *e, int64_t *slowest)
{
	struct broker *b = attach(e);
	struct broker_call read = {.flags = BROKER_READONLY, .timeout_ms = 10000};
	struct broker_call write = {.timeout_ms = 10000};
	unsigned good = 0;

	*slowest = 0;
	for (unsigned i = 0; i < 40; i++) {
		int64_t start = wait_clock_ms(), ms;

		good += broker_exec(b, "SELECT count(*) FROM small", 0, NULL, &read, NULL) == 0;
		good += broker_exec(b, "INSERT INTO small VALUES (1)", 0, NULL, &write, NULL) == 0;
		ms = wait_clock_ms() - start;
		*slowest = ms > *slowest ? ms : *slowest;
		if (ms > 9000) {
			diag("%s", broker_error(b)->message);
			break;
		}
	}
	broker_detach(&b);
	return good == 80;
}

/* Somebody reads ten rows of a long result and then does something else. */
static void test_slow_reader(struct env *e, unsigned flags, const char *what)
{
	struct broker_call call = {.flags = flags, .timeout_ms = 100000};
	struct broker *b = attach(e);
	struct broker_result *r;
	int64_t slowest, got = 0;
	bool moved;
	int rc;

	if (broker_exec(b, rows_sql(e, 20000), 0, NULL, &call, &r) < 0) {
		bail_out("%s", broker_error(b)->message);
	}
	while (got < 10 && broker_next(r) == 1) {
		got++;
	}
	moved = others_move(e, &slowest);
	ok(moved && slowest < WAIT_NOISE_MS * stage_slowness(),
		"%s: a result, %s, read no further than row 10: others read and write (slowest "
		"%lld ms)",
		e->name, what, (long long)slowest);
	while ((rc = broker_next(r)) == 1 && row_is_right(r, got + 1)) {
		got++;
	}
	ok(rc == 0 && got == 20000, "and the rest is read later (%lld rows)", (long long)got);
	broker_result_free(&r);
	broker_detach(&b);
}

/* A result that is thrown away early must not cost its whole length. */
static void test_dropped(struct env *e)
{
	struct broker_call call = {.flags = BROKER_READONLY | BROKER_STREAM, .timeout_ms = 100000};
	int64_t start = wait_clock_ms();

	for (unsigned i = 0; i < 20; i++) {
		struct broker_result *r;

		if (broker_exec(e->b, rows_sql(e, 2000000), 0, NULL, &call, &r) < 0 ||
			broker_next(r) != 1) {
			bail_out("%s", broker_error(e->b)->message);
		}
		broker_result_free(&r);
	}
	start = wait_clock_ms() - start;
	ok(start < 20000 * stage_slowness(),
		"%s: 20 results of 2 GB thrown away after one row (%lld ms)", e->name,
		(long long)start);
}

/* -- nesting ----------------------------------------------------------------------------------- */

static int64_t nested_count(struct broker *b, struct broker_lease *l)
{
	struct broker_call call = {.lease = l, .timeout_ms = 30000};
	struct broker_value v = broker_int64(40);
	struct broker_result *r;
	int64_t got = -1;

	if (broker_exec(b, "SELECT CAST($1 AS BIGINT) + 2", 1, &v, &call, &r) < 0) {
		diag("%s", broker_error(b)->message);
		return -1;
	}
	if (broker_next(r) != 1 || broker_get_int64(r, 0, &got) < 0) {
		got = -1;
	}
	broker_result_free(&r);
	return got;
}

/* Statements while a result is open, another long one among them. */
static void test_nested(struct env *e, unsigned n)
{
	struct broker_call call = {.flags = BROKER_READONLY | BROKER_STREAM, .timeout_ms = 200000};
	struct broker_result *outer, *inner;
	unsigned i = 0, k = 0, right = 0, rows = 0;

	if (broker_exec(e->b, rows_sql(e, n), 0, NULL, &call, &outer) < 0 ||
		broker_exec(e->b, rows_sql(e, n), 0, NULL, &call, &inner) < 0) {
		bail_out("%s", broker_error(e->b)->message);
	}
	while (broker_next(outer) == 1) {
		rows += row_is_right(outer, ++i);
		if (i % 3 == 0 && broker_next(inner) == 1) {
			rows += row_is_right(inner, ++k);
		}
		if (i % (n / 50) == 0) {
			right += nested_count(e->b, NULL) == 42;
		}
	}
	while (broker_next(inner) == 1) {
		rows += row_is_right(inner, ++k);
	}
	ok(i == n && k == n && rows == 2 * n, "%s: two long results side by side are right",
		e->name);
	is_int(right, 50, "and statements between them");
	broker_result_free(&outer);
	broker_result_free(&inner);
}

/* The same connection: the second statement has to wait until the first one's rows are out. */
static void test_nested_in_lease(struct env *e)
{
	struct broker_call call = {.flags = BROKER_STREAM, .timeout_ms = 100000};
	struct broker_result *r;
	struct broker_lease *l;
	unsigned i = 0, rows = 0;

	if (broker_begin(e->b, NULL, &l) < 0) {
		bail_out("%s", broker_error(e->b)->message);
	}
	call.lease = l;
	if (broker_exec(e->b, rows_sql(e, 3000), 0, NULL, &call, &r) < 0 || broker_next(r) != 1) {
		bail_out("%s", broker_error(e->b)->message);
	}
	rows += row_is_right(r, ++i);
	is_int(nested_count(e->b, l), 42,
		"%s: a statement in a lease while its result of 3 MB is open", e->name);
	while (broker_next(r) == 1) {
		rows += row_is_right(r, ++i);
	}
	is_int(rows, 3000, "whose rows are still right");
	broker_result_free(&r);
	is_int(broker_commit(&l, 10000), 0, "committed");
}

/* -- COPY -------------------------------------------------------------------------------------- */

static void copy_all(
	struct env *e, unsigned n, int64_t *in_rows, int64_t *out_rows, uint64_t *out_bytes)
{
	char line[1024], sql[120];
	struct broker_copy *c;
	const void *data;
	size_t len;
	struct broker_lease *l;
	struct broker_call call = {.timeout_ms = 120000};

	if (broker_begin(e->b, &call, &l) < 0) {
		bail_out("%s", broker_error(e->b)->message);
	}
	call.lease = l;
	if (broker_exec(e->b, "CREATE TEMP TABLE wide (i BIGINT, t TEXT)", 0, NULL, &call, NULL) <
			0 ||
		broker_copy_in(e->b, "COPY wide FROM STDIN", &call, &c) < 0) {
		bail_out("%s", broker_error(e->b)->message);
	}
	for (unsigned i = 0; i < n; i++) {
		int k = snprintf(line, sizeof(line), "%u\t%01000u\n", i, i);

		if (broker_copy_write(c, line, (size_t)k) < 0) {
			diag("%s", broker_error(e->b)->message);
			break;
		}
	}
	if (broker_copy_end(&c, NULL, in_rows) < 0) {
		diag("%s", broker_error(e->b)->message);
	}
	snprintf(sql, sizeof(sql), "COPY (SELECT * FROM wide) TO STDOUT");
	if (broker_copy_out(e->b, sql, &call, &c) < 0) {
		bail_out("%s", broker_error(e->b)->message);
	}
	*out_bytes = 0;
	while (broker_copy_read(c, &data, &len) == 0 && len > 0) {
		*out_bytes += len;
	}
	if (broker_copy_end(&c, NULL, out_rows) < 0) {
		diag("%s", broker_error(e->b)->message);
	}
	broker_rollback(&l);
}

static void test_copy(struct env *e, unsigned n)
{
	int64_t in_rows = -1, out_rows = -1, peak = 0;
	uint64_t bytes = 0, want = 0;
	pid_t watcher;
	_Atomic int64_t *seen = mmap(
		NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	watcher = spawn_fork();
	if (watcher == 0) {
		for (;;) {
			int64_t b = rss_of(broker_pid(e->p));

			if (b > atomic_load(seen)) {
				atomic_store(seen, b);
			}
			wait_pause();
		}
	}
	copy_all(e, n, &in_rows, &out_rows, &bytes);
	(void)kill(watcher, SIGKILL);
	(void)spawn_wait(watcher, 5000, NULL);
	for (unsigned i = 0; i < n; i++) {
		want += 1002 + (unsigned)snprintf(NULL, 0, "%u", i);
	}
	is_int(in_rows, n, "%s: COPY of %u rows of 1 KB in", e->name, n);
	ok(bytes == want, "and out again, %llu bytes", (unsigned long long)bytes);
	peak = atomic_load(seen);
	if (can_measure()) {
		ok(peak < RSS_LIMIT, "the broker never had more than %lld MiB",
			(long long)peak >> 20);
	}
	munmap((void *)seen, sizeof(*seen));
}

static void run_all(struct env *e)
{
	bool quick = stage_quick();
	size_t len = quick ? 8 << 20 : 100 << 20;

	e->b = attach(e);
	must(e->b, e->pg ? "CREATE TABLE large (t TEXT, b BYTEA)"
			 : "CREATE TABLE large (t TEXT, b BLOB)");
	if (e->pg) { /* what the server does to make them smaller is none of our business, and takes
			long */
		must(e->b, "ALTER TABLE large ALTER t SET STORAGE EXTERNAL, ALTER b SET STORAGE "
			   "EXTERNAL");
	}
	must(e->b, "CREATE TABLE small (n INTEGER)");
	test_stream(e, quick ? 100000 : 1000000);
	test_slow_reader(e, BROKER_READONLY | BROKER_STREAM, "declared as long and read-only");
	test_slow_reader(e, BROKER_READONLY, "declared as read-only");
	test_slow_reader(e, 0, "not declared as anything");
	test_dropped(e);
	test_nested(e, quick ? 2000 : 10000);
	test_nested_in_lease(e);
	test_value(e, len, false);
	test_value(e, len, true);
	test_value(e, (64 << 10) + 1, true);
	if (e->pg) {
		test_copy(e, quick ? 20000 : 200000);
	}
	broker_detach(&e->b);
	is_int(broker_free(&e->p), 0, "the broker ends well");
}

int main(void)
{
	struct env sqlite = {.name = "SQLite"}, pgsql = {.name = "PostgreSQL", .pg = true};
	/* One for each result that is open, and one to spare: reads never run on the writer. */
	static const char *const readers[] = {"pool main.readers=3", NULL};
	struct pg_cluster *pg;

	setenv("BROKER_DUMPABLE", "1", 1);
	sqlite.p = broker_start(NULL, readers);
	run_all(&sqlite);
	if (!pg_available()) {
		skip("no PostgreSQL server here");
		return done_testing();
	}
	pg = pg_start(NULL);
	pgsql.p = broker_start(pg_url(pg), NULL);
	run_all(&pgsql);
	pg_remove(&pg);
	return done_testing();
}
