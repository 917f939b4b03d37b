/* SPDX-License-Identifier: MIT */
/* test_client_channel.c - the library against a scripted broker (client_fake.h), over real
 * segments. */
#include "client_fake.h"
#include "shmbroker.h"

#include <sched.h>
#include <sys/wait.h>

static struct fake fake;
static struct broker *b;

static int attach(struct broker **out)
{
	return broker_attach(&(struct broker_options){.path = fake.path, .timeout_ms = 3000}, out);
}

static int run(const char *sql, struct broker_result **r)
{
	return broker_exec(b, sql, 0, NULL, NULL, r);
}

static int run_for(const char *sql, int64_t ms, unsigned flags)
{
	return broker_exec(
		b, sql, 0, NULL, &(struct broker_call){.timeout_ms = ms, .flags = flags}, NULL);
}

/* Wait until a counter of the fake has a value; false after five seconds. */
static bool reaches(const _Atomic uint32_t *word, uint32_t value)
{
	uint64_t until = doorbell_now() + UINT64_C(5000000000);

	while (get(word) != value) {
		if (doorbell_now() > until) {
			diag("counter is %u, want %u", get(word), value);
			return false;
		}
		sched_yield();
	}
	return true;
}

/* Rows of "rows N", all right and in order? */
static bool read_rows(struct broker_result *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char want[32];
		const char *text = "";
		int64_t number = -1;

		snprintf(want, sizeof(want), "row %u", i);
		if (broker_next(r) != 1 || broker_get_int64(r, 0, &number) < 0 ||
			broker_get_text(r, 1, &text, NULL) < 0 || number != i ||
			strcmp(text, want) != 0) {
			diag("row %u: %lld \"%s\"", i, (long long)number, text);
			return false;
		}
	}
	return broker_next(r) == 0;
}

/* -- results --------------------------------------------------------------------------------- */

static void test_results(void)
{
	struct broker_result *r;

	is_int(run("ok", &r), 0, "a statement without rows");
	ok(broker_columns(r) == 0 && broker_rows(r) == 1 && broker_next(r) == 0, "has none");
	ok(broker_wait_ns(r) == 5 && broker_run_ns(r) == 7, "and its times");
	broker_result_free(&r);
	is_int(run("rows 3", &r), 0, "three rows");
	ok(broker_columns(r) == 2 && broker_column(r, "text") == 1, "with names");
	is_int(broker_column(r, "none"), BROKER_E_COLUMN, "not that one");
	ok(read_rows(r, 3), "all right");
	is_int(broker_rows(r), 3, "counted");
	broker_result_free(&r);
	is_int(run("rows 5000", &r), 0, "more rows than the arena holds");
	is_int(broker_rows(r), -1, "not counted before they came");
	ok(read_rows(r, 5000), "all right");
	broker_result_free(&r);
	is_int(run("rows 5000", NULL), 0, "rows nobody wants");
	is_int(run("broken 2000", &r), 0, "rows, then an error");
	ok(!read_rows(r, 2000), "rows do not end well");
	is_int(broker_error(b)->code, BROKER_E_DATABASE, "the error is told after the last");
	is_int(broker_next(r), BROKER_E_DATABASE, "and again");
	broker_result_free(&r);
	is_int(run("broken 1", &r), BROKER_E_DATABASE, "an error that is known at once");
	ok(r == NULL, "there is no result then");
}

/* Which server answered, of results and of calls that leave none. */
static void test_servers(void)
{
	struct broker_lease *l;
	struct broker_result *one, *two, *many;
	uint64_t ticket, other;

	is_str(broker_server(NULL), "", "no result, no server");
	is_str(broker_last_server(NULL), "", "no handle, no server");
	put(&fake.server, 0);
	is_int(run("rows 1", &one), 0, "from the first");
	is_str(broker_last_server(b), "first", "it was the last");
	put(&fake.server, 1);
	is_int(run("rows 1", &two), 0, "from the second");
	is_str(broker_last_server(b), "second", "that was the last");
	is_str(broker_server(one), "first", "each result knows its own");
	is_str(broker_server(two), "second", "for as long as it lives");
	put(&fake.server, 0);
	is_int(run("rows 5000", &many), 0, "a large one");
	is_str(broker_server(many), "first", "knows it before its end");
	broker_result_free(&many);
	is_int(run("error", NULL), BROKER_E_DATABASE, "an error");
	is_str(broker_last_server(b), "first", "came from a server as well");
	put(&fake.server, UINT16_MAX);
	is_int(run("error", NULL), BROKER_E_DATABASE, "or it did not");
	is_str(broker_last_server(b), "", "and is told so");
	put(&fake.server, 1);
	ok(broker_begin(b, NULL, &l) == 0 && broker_commit(&l, 0) == 0, "a commit");
	is_str(broker_last_server(b), "second", "leaves no result, but has a server");
	ok(broker_submit(b, "ok", 0, NULL, NULL, &ticket) == 0 &&
			broker_submit(b, "rows 1", 0, NULL, NULL, &other) == 0 &&
			broker_collect(b, other, -1, NULL, &many) == 0,
		"two tickets");
	put(&fake.server, FAKE_SERVERS - 1);
	is_int(run("ok", NULL), 0, "a server whose row is free");
	is_str(broker_last_server(b), "", "has no name");
	put(&fake.server, 60000);
	is_int(run("ok", NULL), 0, "one that cannot be");
	is_str(broker_last_server(b), "", "has none either");
	put(&fake.server, 0);
	is_int(broker_collect(b, ticket, -1, NULL, NULL), 0, "a statement that ended long ago");
	is_str(broker_last_server(b), "second", "is the last whose outcome was told");
	broker_result_free(&one);
	broker_result_free(&two);
	broker_result_free(&many);
}

static void test_flags(void)
{
	static const struct {
		unsigned flags, sent;
	} cases[] = {
		{0, 0},
		{BROKER_READONLY, REQ_F_READONLY},
		{BROKER_READONLY | BROKER_FRESH, REQ_F_READONLY | REQ_F_FRESH},
		{BROKER_BATCH | BROKER_STREAM, REQ_F_BATCH | REQ_F_STREAM},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		struct broker_result *r = NULL;

		ok(broker_exec(b, "flags", 0, NULL,
			   &(struct broker_call){.flags = cases[i].flags}, &r) == 0 &&
				broker_rows(r) == cases[i].sent,
			"flags %u", cases[i].flags);
		broker_result_free(&r);
	}
	is_int(run_for("ok", 0, 64), BROKER_E_ARGUMENT, "a flag that there is not");
}

static void test_big_row(void)
{
	const size_t n = 3000000;
	struct broker_result *r;
	const char *text = NULL;
	size_t len = 0, wrong = 0;

	is_int(run("big 3000000", &r), 0, "a row of 3 MB through an arena of 64 KiB");
	ok(broker_next(r) == 1 && broker_get_text(r, 1, &text, &len) == 0 && len == n,
		"is one text");
	for (size_t i = 0; i < n && text != NULL; i++) {
		wrong += text[i] != (char)('a' + i % 26);
	}
	ok(wrong == 0 && text != NULL && text[n] == '\0', "of the right bytes, terminated");
	is_int(broker_next(r), 0, "and the only one");
	broker_result_free(&r);
}

static void test_unread(void)
{
	struct broker_result *r[40], *outer;
	unsigned wrong = 0;

	for (unsigned i = 0; i < 40; i++) {
		wrong += run("rows 3", &r[i]) != 0;
	}
	is_int(wrong, 0, "40 results that nobody reads, in an arena of 16 blocks");
	for (unsigned i = 40; i-- > 0;) {
		wrong += !read_rows(r[i], 3);
		broker_result_free(&r[i]);
	}
	is_int(wrong, 0, "read afterwards, last first");
	is_int(run("rows 5000", &outer), 0, "a large result");
	for (unsigned i = 0; i < 5000; i++) {
		struct broker_result *inner = NULL;
		int64_t number = -1;

		wrong += broker_next(outer) != 1 ||
			 (i % 50 == 0 && (run("rows 2", &inner) != 0 || !read_rows(inner, 2)));
		wrong += broker_get_int64(outer, 0, &number) != 0 || number != i;
		broker_result_free(&inner);
	}
	is_int(wrong, 0, "statements while its rows are read");
	broker_result_free(&outer);
}

/* Everything that was given out comes back: what is due travels with the next requests. */
static void test_no_leak(const char *after)
{
	unsigned i;

	for (i = 0; i < 100 && get(&fake.given_out) != 0; i++) {
		if (run("ok", NULL) != 0) {
			ok(false, "after %s: another statement", after);
		}
	}
	ok(i < 100, "after %s: the broker has its blocks back", after);
	is_int(get(&fake.faults), 0, "after %s: nothing broke the protocol", after);
}

/* -- requests -------------------------------------------------------------------------------- */

static void test_statement_ids(void)
{
	uint32_t before = get(&fake.defines);
	char sql[64];

	for (unsigned i = 0; i < 5; i++) {
		is_int(run("ok a statement of its own", NULL), 0, "the same text again");
	}
	is_int(get(&fake.defines), before + 1, "is sent once");
	for (unsigned i = 0; i < 1500; i++) {
		snprintf(sql, sizeof(sql), "ok %u", i);
		if (run(sql, NULL) != 0) {
			ok(false, "statement %u", i);
		}
	}
	ok(run("ok a statement of its own", NULL) == 0 && get(&fake.defines) == before + 1502,
		"after 1500 others it is defined anew");
}

static void test_large_body(void)
{
	const size_t n = 1000000;
	unsigned char *data = malloc(n);
	struct broker_value v = broker_blob(data, n);
	struct broker_result *r = NULL;
	const char *text = "";
	char want[32];
	int64_t len = 0, sum = 0;

	for (size_t i = 0; i < n; i++) {
		data[i] = (unsigned char)(i * 7);
		sum += data[i];
	}
	snprintf(want, sizeof(want), "%lld", (long long)sum);
	is_int(broker_exec(b, "length", 1, &v, NULL, &r), 0,
		"a parameter of 1 MB, an arena of 64 KiB");
	ok(broker_next(r) == 1 && broker_get_int64(r, 0, &len) == 0 && len == (int64_t)n,
		"arrives");
	ok(broker_get_text(r, 1, &text, NULL) == 0 && strcmp(text, want) == 0, "byte by byte");
	ok(get(&fake.parts) > 10, "in parts");
	broker_result_free(&r);
	v = broker_blob(data, n);
	v.u.bytes.len = 9u << 20;
	is_int(broker_exec(b, "length", 1, &v, NULL, NULL), BROKER_E_TOO_LARGE,
		"more than max_request");
	free(data);
}

static void test_errors(void)
{
	const struct broker_error *e = broker_error(b);
	struct broker_result *r = NULL;

	is_int(run("error", &r), BROKER_E_DATABASE, "an error of the database");
	is_str(e->message, "there is one already", "its message");
	is_str(e->sqlstate, "23505", "its SQLSTATE");
	is_int(e->outcome, BROKER_NOT_DONE, "its verdict");
	is_int(run(NULL, &r), BROKER_E_ARGUMENT, "no text");
	is_int(broker_exec(b, "ok", 3, NULL, NULL, NULL), BROKER_E_ARGUMENT, "no parameters");
	is_int(broker_exec(b, "ok", 0, NULL, &(struct broker_call){.flags = 1u << 20}, NULL),
		BROKER_E_ARGUMENT, "an unknown flag");
	is_int(broker_exec(NULL, "ok", 0, NULL, NULL, NULL), BROKER_E_ARGUMENT, "no handle");
	is_int(broker_collect(b, 12345, 0, NULL, NULL), BROKER_E_ARGUMENT, "no such ticket");
	is_int(broker_cancel(b, 12345), BROKER_E_ARGUMENT, "none to cancel");
}

static void test_tickets(void)
{
	uint64_t t[130], done;
	struct broker_result *r;
	unsigned wrong = 0;

	for (unsigned i = 0; i < 128; i++) {
		wrong += broker_submit(b, i % 2 ? "rows 2" : "ok", 0, NULL, NULL, &t[i]) != 0;
	}
	is_int(wrong, 0, "128 tickets");
	is_int(broker_submit(b, "ok", 0, NULL, NULL, &t[128]), BROKER_E_BUSY, "not one more");
	for (unsigned i = 128; i-- > 64;) {
		wrong += broker_collect(b, t[i], -1, &done, &r) != 0 || done != t[i];
		wrong += i % 2 ? !read_rows(r, 2) : broker_rows(r) != 1;
		broker_result_free(&r);
	}
	is_int(wrong, 0, "64 collected by name, last first");
	for (unsigned i = 0; i < 64; i++) {
		wrong += broker_collect(b, 0, -1, &done, NULL) != 0;
	}
	is_int(wrong, 0, "64 as they come");
	is_int(broker_collect(b, t[0], 0, NULL, NULL), BROKER_E_ARGUMENT, "each only once");
}

static void test_event_loop(void)
{
	int fd = broker_fd(b);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t t;
	struct broker_result *r;

	ok(fd >= 0, "a descriptor to poll");
	is_int(broker_collect(b, 0, 0, NULL, NULL), BROKER_E_PENDING, "nothing yet");
	is_int(poll(&p, 1, 0), 0, "it is quiet");
	is_int(broker_submit(b, "rows 1", 0, NULL, NULL, &t), 0, "a ticket");
	is_int(poll(&p, 1, 5000), 1, "it becomes readable");
	ok(broker_collect(b, t, 0, NULL, &r) == 0 && read_rows(r, 1), "and the ticket is ready");
	broker_result_free(&r);
	is_int(broker_submit(b, "ok", 0, NULL, NULL, &t), 0, "another");
	is_int(run("rows 100", NULL), 0, "a blocking statement meanwhile");
	is_int(poll(&p, 1, 5000), 1, "readable, although that statement took its answer in");
	is_int(broker_collect(b, 0, 0, NULL, NULL), 0, "collected");
	is_int(broker_collect(b, 0, 0, NULL, NULL), BROKER_E_PENDING, "nothing more");
	is_int(poll(&p, 1, 0), 0, "quiet again");
}

/* -- time ------------------------------------------------------------------------------------ */

static void test_deadlines(void)
{
	uint32_t cancels = get(&fake.cancels);
	uint64_t t, t0 = doorbell_now();

	is_int(run_for("silent", 30, BROKER_READONLY), BROKER_E_TIMEOUT, "a read without answer");
	ok(doorbell_now() - t0 >= UINT64_C(280000000),
		"is given up after its deadline and a grace");
	ok(reaches(&fake.cancels, cancels + 1), "and cancelled");
	is_int(run_for("silent", 30, 0), BROKER_E_OUTCOME_UNKNOWN, "a write without answer");
	is_int(broker_error(b)->outcome, BROKER_UNKNOWN, "may have taken effect");
	ok(reaches(&fake.cancels, cancels + 2), "is cancelled, too");
	is_int(run("ok", NULL), 0, "late answers disturb nobody");
	put(&fake.pause, 1u);
	is_int(run_for("ok", 30, 0), BROKER_E_TIMEOUT, "a write that was never taken");
	ok(broker_error(b)->outcome == BROKER_NOT_DONE && broker_error(b)->retry_safe,
		"has no effect and may be repeated");
	put(&fake.pause, 0u);
	is_int(run("ok", NULL), 0, "the broker goes on");
	is_int(broker_submit(b, "silent", 0, NULL, NULL, &t), 0, "a ticket without answer");
	is_int(broker_collect(b, t, 20, NULL, NULL), BROKER_E_PENDING, "is pending");
	is_int(broker_cancel(b, t), 0, "cancel it");
	is_int(broker_collect(b, t, -1, NULL, NULL), BROKER_E_CANCELLED, "it is cancelled");
}

/* -- leases and COPY ------------------------------------------------------------------------- */

static void test_leases(void)
{
	struct broker_call call = {0};
	uint32_t requests = get(&fake.requests), ends = get(&fake.ends);
	struct broker_result *r;

	is_int(broker_begin(b, NULL, &call.lease), 0, "a transaction");
	is_int(get(&fake.requests), requests, "costs nothing before its first statement");
	is_int(broker_exec(b, "ok", 0, NULL, &call, NULL), 0, "a statement in it");
	is_int(get(&fake.requests), requests + 2, "brings it along");
	is_int(broker_savepoint_release(call.lease), BROKER_E_USAGE, "no savepoint is open");
	is_int(broker_savepoint(call.lease), 0, "a savepoint");
	is_int(broker_savepoint_rollback(call.lease), 0, "rolled back");
	is_int(broker_commit(&call.lease, 0), 0, "committed");
	ok(call.lease == NULL && get(&fake.last_end) == REQ_COMMIT, "once");
	is_int(broker_begin(b, NULL, &call.lease), 0, "another");
	is_int(broker_exec(b, "rows 5000", 0, NULL, &call, &r), 0, "with a large result");
	broker_rollback(&call.lease);
	ok(call.lease == NULL && reaches(&fake.ends, ends + 2), "rolled back without waiting");
	while (broker_next(r) == 1) {
	}
	is_int(broker_error(b)->code, BROKER_E_LEASE, "its rows end with the transaction");
	broker_result_free(&r);
	is_int(broker_lease(b, NULL, &call.lease), 0, "a session");
	is_int(broker_savepoint(call.lease), BROKER_E_USAGE, "has no savepoints");
	broker_release(&call.lease);
	ok(reaches(&fake.ends, ends + 3) && get(&fake.last_end) == REQ_RELEASE, "released");
	broker_rollback(&call.lease);
	broker_rollback(NULL);
}

static void test_copy(void)
{
	static char data[200000];
	struct broker_call call = {0};
	struct broker_copy *c = NULL;
	const void *piece = NULL;
	int64_t rows = 0;
	size_t len = 0;

	is_int(broker_copy_in(b, "COPY", NULL, &c), BROKER_E_ARGUMENT, "COPY needs a lease");
	is_int(broker_lease(b, NULL, &call.lease), 0, "a lease");
	is_int(broker_copy_in(b, "COPY", &call, &c), 0, "COPY in");
	ok(broker_copy_write(c, data, sizeof(data)) == 0 && broker_copy_write(c, data, 1) == 0,
		"data");
	is_int(broker_copy_read(c, &piece, &len), BROKER_E_USAGE, "no reading here");
	is_int(broker_copy_end(&c, NULL, &rows), 0, "ended");
	ok(c == NULL && rows == sizeof(data) + 1, "all arrived");
	is_int(broker_copy_in(b, "COPY", &call, &c), 0, "COPY in again");
	is_int(broker_copy_end(&c, "no more of this", &rows), BROKER_E_DATABASE, "aborted");
	is_str(broker_error(b)->message, "COPY failed: no more of this", "with the reason");
	is_int(broker_copy_out(b, "COPY", &call, &c), 0, "COPY out");
	ok(broker_copy_read(c, &piece, &len) == 0 && len == 6 && memcmp(piece, "1\n2\n3\n", 6) == 0,
		"data");
	ok(broker_copy_read(c, &piece, &len) == 0 && len == 0, "the end of it");
	ok(broker_copy_end(&c, NULL, &rows) == 0 && rows == 3, "ended");
	broker_release(&call.lease);
}

/* -- life ------------------------------------------------------------------------------------ */

static void test_fork(void)
{
	struct broker_lease *l = NULL;
	struct broker_result *r = NULL;
	uint32_t attaches = get(&fake.attaches);
	int status = -1;
	pid_t pid;

	ok(run("rows 3", &r) == 0 && broker_begin(b, NULL, &l) == 0, "a result and a lease");
	pid = fork();
	if (pid == 0) {
		struct broker_result *own = NULL;
		int bad = 0;

		bad |= strcmp(broker_server(r), "") != 0 ? 16 : 0;
		bad |= broker_next(r) != BROKER_E_FORKED ? 1 : 0;
		bad |= broker_exec(b, "ok", 0, NULL, &(struct broker_call){.lease = l}, NULL) !=
				       BROKER_E_FORKED
			       ? 2
			       : 0;
		bad |= run("rows 7", &own) != 0 || !read_rows(own, 7) ? 4 : 0;
		broker_result_free(&r);
		broker_rollback(&l);
		broker_result_free(&own);
		broker_detach(&b);
		_exit(r != NULL || l != NULL || b != NULL ? 8 : bad);
	}
	waitpid(pid, &status, 0);
	is_int(status, 0, "a child has a channel of its own and none of its parent's things");
	ok(reaches(&fake.attaches, attaches + 1), "it attached anew");
	ok(read_rows(r, 3), "the parent's result is untouched");
	is_int(broker_commit(&l, 0), 0, "and so is its lease");
	broker_result_free(&r);
}

static void *other_thread(void *arg)
{
	*(int *)arg = run("ok", NULL);
	return NULL;
}

static void test_thread(void)
{
	pthread_t t;
	int rc = 0;

	pthread_create(&t, NULL, other_thread, &rc);
	pthread_join(t, NULL);
	is_int(rc, BROKER_E_THREAD, "another thread may not use the handle");
}

static void test_lost(void)
{
	struct broker_call call = {0};
	struct broker_result *kept = NULL;
	uint64_t t = 0;

	is_int(run("rows 3", &kept), 0, "a result");
	is_int(broker_begin(b, NULL, &call.lease), 0, "a transaction");
	is_int(broker_submit(b, "silent", 0, NULL, &call, &t), 0, "a statement in it");
	is_int(run("die", NULL), BROKER_E_LOST, "the broker dies at a write");
	is_int(broker_error(b)->outcome, BROKER_UNKNOWN, "whose outcome is not known");
	is_int(run_for("ok", 0, 0), 0, "the next call attaches anew");
	is_int(broker_collect(b, t, -1, NULL, NULL), BROKER_E_LOST, "the ticket of before is lost");
	is_int(broker_error(b)->outcome, BROKER_NOT_DONE, "its transaction was rolled back");
	is_int(broker_exec(b, "ok", 0, NULL, &call, NULL), BROKER_E_LEASE, "the lease has ended");
	is_int(broker_commit(&call.lease, 0), BROKER_E_LEASE, "and cannot be committed");
	ok(read_rows(kept, 3), "rows that had arrived can still be read");
	broker_result_free(&kept);
	is_int(run_for("die", 0, BROKER_READONLY), BROKER_E_LOST, "the broker dies at a read");
	ok(broker_error(b)->outcome == BROKER_NOT_DONE && broker_error(b)->retry_safe,
		"which may be repeated");
	is_int(run("nonsense", NULL), BROKER_E_INTERNAL,
		"a broker that says impossible things is left");
	is_int(run("shutdown", NULL), 0, "a broker that shuts down answers");
	is_int(run("ok", NULL), 0, "the next call goes to its successor");
}

/* A server that becomes a daemon leaves the directory in which it attached. */
static void test_directory(void)
{
	struct broker_options opt = {.path = "sock", .timeout_ms = -1};
	struct broker *x = NULL;

	ok(chdir(fake.dir) == 0 && broker_attach(&opt, &x) == 0, "attached by a relative path");
	ok(chdir("/") == 0, "another directory");
	is_int(broker_exec(x, "shutdown", 0, NULL, NULL, NULL), 0, "the broker is replaced");
	is_int(broker_exec(x, "ok", 0, NULL, NULL, NULL), 0, "its successor is found");
	broker_detach(&x);
	opt.timeout_ms = 3000;
	is_int(broker_attach(&opt, &x), BROKER_E_NOT_FOUND, "a new handle starts from here");
}

static void test_refusals(void)
{
	static const struct {
		enum fake_reply mode;
		uint32_t code;
		int rc;
		const char *what;
	} cases[] = {
		{FAKE_REPLY_GOOD, 2006, BROKER_E_REFUSED, "refused"},
		{FAKE_REPLY_GOOD, 9999, BROKER_E_REFUSED, "an unknown code"},
		{FAKE_REPLY_VERSION, 0, BROKER_E_VERSION, "another version"},
		{FAKE_REPLY_SHORT, 0, BROKER_E_VERSION, "a short reply"},
		{FAKE_REPLY_EXTRA_FDS, 0, BROKER_E_VERSION, "too many descriptors"},
		{FAKE_REPLY_NO_FDS, 0, BROKER_E_VERSION, "no descriptors"},
		{FAKE_REPLY_HANG_UP, 0, BROKER_E_NOT_FOUND, "it hangs up"},
	};
	struct broker *x = NULL;
	int before = dup(0), after;

	close(before);
	for (unsigned i = 0; i < array_size(cases); i++) {
		put(&fake.reply_mode, cases[i].mode);
		put(&fake.refuse, cases[i].code);
		is_int(attach(&x), cases[i].rc, "%s", cases[i].what);
		ok(x == NULL && broker_error(NULL)->code == cases[i].rc, "and told");
	}
	put(&fake.refuse, 0u);
	put(&fake.reply_mode, FAKE_REPLY_SILENT);
	is_int(broker_attach(&(struct broker_options){.path = fake.path, .timeout_ms = 50}, &x),
		BROKER_E_TIMEOUT, "it does not answer");
	put(&fake.reply_mode, FAKE_REPLY_GOOD);
	is_int(broker_attach(&(struct broker_options){.path = "/nonexistent/sock"}, &x),
		BROKER_E_NOT_FOUND, "nobody there");
	is_int(broker_attach(&(struct broker_options){.reserved = {1}}, &x), BROKER_E_ARGUMENT,
		"reserved members");
	is_int(broker_attach(&(struct broker_options){.result_kib = 5}, &x), BROKER_E_ARGUMENT,
		"an arena that is too small");
	is_int(broker_attach(NULL, NULL), BROKER_E_ARGUMENT, "nowhere to put the handle");
	for (unsigned i = 0; i < 200; i++) { /* the fake closes its ends in its own time */
		after = dup(0);
		close(after);
		if (after <= before) {
			break;
		}
		poll(NULL, 0, 10);
	}
	ok(after <= before, "no descriptor stays open");
}

int main(void)
{
	fake_start(&fake);
	test_refusals();
	if (attach(&b) < 0) {
		bail_out("no attach: %s", broker_error(NULL)->message);
	}
	test_results();
	test_servers();
	test_flags();
	test_no_leak("results");
	test_big_row();
	test_unread();
	test_no_leak("unread results");
	test_statement_ids();
	test_large_body();
	test_errors();
	test_tickets();
	test_no_leak("tickets");
	test_deadlines();
	test_no_leak("late answers");
	test_leases();
	test_copy();
	test_no_leak("leases");
	test_fork();
	test_thread();
	test_lost();
	test_directory();
	test_event_loop();
	test_no_leak("an event loop");
	broker_detach(&b);
	ok(b == NULL, "detached");
	broker_detach(&b);
	fake_stop(&fake);
	is_int(get(&fake.faults), 0, "the protocol was kept throughout");
	return done_testing();
}
