/* SPDX-License-Identifier: MIT */
/*
 * test_client_misuse.c - calls of the library that make no sense: each is refused with a reason,
 * leaves nothing in its outputs that could be taken for a handle, and nothing aborts.  Against the
 * scripted broker of client_fake.h.
 */
#include "client_fake.h"
#include "shmbroker.h"

#define JUNK(type) ((type)(uintptr_t)0x11)

static struct broker *b;

/* Was the last call refused with this text? */
static void refused(int rc, const char *text)
{
	const struct broker_error *e = broker_error(b);

	ok(rc == BROKER_E_ARGUMENT && e->code == rc && strstr(e->message, text) != NULL &&
			e->outcome == BROKER_NOT_DONE && !e->retry_safe,
		"refused: %s (\"%s\")", text, e->message);
}

static void test_no_handle(void)
{
	struct broker_result *r = JUNK(struct broker_result *);
	struct broker_lease *l = JUNK(struct broker_lease *);
	struct broker_copy *c = JUNK(struct broker_copy *);
	uint64_t ticket = 7, done = 7;

	ok(broker_exec(NULL, "ok", 0, NULL, NULL, &r) == BROKER_E_ARGUMENT && r == NULL, "exec");
	ok(broker_submit(NULL, "ok", 0, NULL, NULL, &ticket) == BROKER_E_ARGUMENT && ticket == 0,
		"submit");
	r = JUNK(struct broker_result *);
	ok(broker_collect(NULL, 1, 0, &done, &r) == BROKER_E_ARGUMENT && r == NULL && done == 0,
		"collect");
	is_int(broker_cancel(NULL, 1), BROKER_E_ARGUMENT, "cancel");
	is_int(broker_fd(NULL), BROKER_E_ARGUMENT, "fd");
	ok(broker_begin(NULL, NULL, &l) == BROKER_E_ARGUMENT && l == NULL, "begin");
	l = JUNK(struct broker_lease *);
	ok(broker_lease(NULL, NULL, &l) == BROKER_E_ARGUMENT && l == NULL, "lease");
	ok(broker_copy_in(NULL, "x", NULL, &c) == BROKER_E_ARGUMENT && c == NULL, "copy");
	broker_detach(NULL);
}

static void test_no_object(void)
{
	struct broker_result *r = NULL;
	struct broker_lease *l = NULL;
	struct broker_copy *c = NULL;
	int64_t n = 7;

	ok(broker_next(NULL) == BROKER_E_ARGUMENT && broker_columns(NULL) == 0 &&
			broker_column_name(NULL, 0) == NULL && broker_rows(NULL) == -1 &&
			broker_column(NULL, "x") == BROKER_E_ARGUMENT,
		"no result");
	ok(broker_get_int64(NULL, 0, &n) == BROKER_E_ARGUMENT && n == 7, "has no value");
	ok(broker_wait_ns(NULL) == 0 && broker_run_ns(NULL) == 0, "and no times");
	broker_result_free(NULL);
	broker_result_free(&r);
	ok(broker_commit(NULL, 0) == BROKER_E_ARGUMENT && broker_commit(&l, 0) == BROKER_E_ARGUMENT,
		"no lease to commit");
	ok(broker_savepoint(NULL) == BROKER_E_ARGUMENT &&
			broker_savepoint_release(NULL) == BROKER_E_ARGUMENT &&
			broker_savepoint_rollback(NULL) == BROKER_E_ARGUMENT,
		"nor for savepoints");
	broker_rollback(NULL);
	broker_rollback(&l);
	broker_release(NULL);
	broker_release(&l);
	ok(broker_copy_write(NULL, "x", 1) == BROKER_E_ARGUMENT &&
			broker_copy_read(NULL, NULL, NULL) == BROKER_E_ARGUMENT &&
			broker_copy_end(NULL, NULL, NULL) == BROKER_E_ARGUMENT &&
			broker_copy_end(&c, NULL, NULL) == BROKER_E_ARGUMENT,
		"no COPY");
}

static void test_nowhere(void)
{
	static const struct broker_call call = {.flags = BROKER_READONLY};
	struct broker_result *r;
	const char *text;
	const void *blob;
	bool truth;
	double real;

	refused(broker_submit(b, "ok", 0, NULL, NULL, NULL), "ticket is NULL");
	refused(broker_begin(b, NULL, NULL), "out is NULL");
	refused(broker_lease(b, &call, NULL), "out is NULL");
	is_int(broker_exec(b, "rows 1", 0, NULL, NULL, &r), 0, "a row");
	is_int(broker_next(r), 1, "is there");
	refused(broker_get_bool(r, 0, NULL), "out is NULL");
	refused(broker_get_int64(r, 0, NULL), "out is NULL");
	refused(broker_get_double(r, 0, NULL), "out is NULL");
	refused(broker_get_text(r, 1, NULL, NULL), "out is NULL");
	refused(broker_get_blob(r, 1, NULL, NULL), "out is NULL");
	refused(broker_get_timestamp(r, 0, NULL), "out is NULL");
	ok(broker_get_text(r, 1, &text, NULL) == 0 && strcmp(text, "row 0") == 0,
		"a text without its length");
	ok(broker_get_blob(r, 1, &blob, NULL) == 0 && memcmp(blob, "row 0", 5) == 0,
		"a blob without its length");
	ok(broker_get_bool(r, 0, &truth) == 0 && !truth && broker_get_double(r, 0, &real) == 0 &&
			real == 0,
		"the other values are what they were");
	broker_result_free(&r);
}

static void test_isolation(void)
{
	struct broker_call call = {.flags = BROKER_SERIALIZABLE};
	struct broker_lease *l = JUNK(struct broker_lease *);
	uint64_t ticket;

	refused(broker_lease(b, &call, &l), "broker_begin");
	ok(l == NULL, "there is no lease then");
	refused(broker_exec(b, "ok", 0, NULL, &call, NULL), "broker_begin");
	refused(broker_submit(b, "ok", 0, NULL, &call, &ticket), "broker_begin");
	call.flags |= BROKER_REPEATABLE_READ;
	l = JUNK(struct broker_lease *);
	refused(broker_begin(b, &call, &l), "one at a time");
	ok(l == NULL, "there is no lease then");
	call.flags = BROKER_REPEATABLE_READ | BROKER_READONLY;
	is_int(broker_begin(b, &call, &l), 0, "one level is taken");
	is_int(broker_exec(b, "ok", 0, NULL, &(struct broker_call){.lease = l}, NULL), 0,
		"and statements in it need not say so");
	is_int(broker_commit(&l, 0), 0, "to its end");
}

static void test_parameters(void)
{
	struct broker_value v[] = {broker_blob(NULL, 3), {.type = (enum broker_type)99}};

	refused(broker_exec(b, NULL, 0, NULL, NULL, NULL), "sql is NULL");
	refused(broker_exec(b, "ok", -1, v, NULL, NULL), "nparams is -1");
	refused(broker_exec(b, "ok", 1, NULL, NULL, NULL), "params NULL");
	refused(broker_exec(b, "ok", INT32_MAX, v, NULL, NULL), "at most 65535");
	refused(broker_exec(b, "ok", 1, v, NULL, NULL), "parameter $1");
	refused(broker_exec(b, "ok", 1, v + 1, NULL, NULL), "parameter $1");
	v[0] = broker_textn("x", SIZE_MAX);
	is_int(broker_exec(b, "ok", 1, v, NULL, NULL), BROKER_E_TOO_LARGE, "a text without end");
	ok(strstr(broker_error(b)->message, "4 GiB") != NULL, "%s", broker_error(b)->message);
	v[0] = broker_blob(NULL, 0);
	is_int(broker_exec(b, "ok", 1, v, NULL, NULL), 0, "an empty blob needs no address");
}

static void test_tickets(void)
{
	refused(broker_collect(b, 0, -1, NULL, NULL), "no such ticket");
	refused(broker_collect(b, 12345, -1, NULL, NULL), "no such ticket");
	refused(broker_cancel(b, 0), "no such ticket");
	refused(broker_cancel(b, UINT64_MAX), "no such ticket");
	is_int(broker_collect(b, 0, 0, NULL, NULL), BROKER_E_PENDING, "nothing is ready");
}

/* What outlives its handle can be freed, and does nothing else. */
static void test_detached(void)
{
	struct broker_result *r;
	struct broker_lease *l, *other;
	int64_t n;

	is_int(broker_exec(b, "rows 2", 0, NULL, NULL, &r), 0, "a result");
	ok(broker_begin(b, NULL, &l) == 0 && broker_lease(b, NULL, &other) == 0, "two leases");
	broker_detach(&b);
	ok(b == NULL, "outlive their handle");
	broker_detach(&b);
	ok(broker_next(r) == BROKER_E_USAGE && broker_get_int64(r, 0, &n) == BROKER_E_USAGE,
		"the result has no rows any more");
	is_str(broker_server(r), "", "nor a server");
	is_int(broker_savepoint(l), BROKER_E_USAGE, "the lease takes nothing");
	ok(broker_commit(&l, 0) == BROKER_E_USAGE && l == NULL, "and ends");
	broker_release(&other);
	broker_result_free(&r);
	ok(other == NULL && r == NULL, "all are freed");
}

int main(void)
{
	static struct fake fake;

	fake_start(&fake);
	if (broker_attach(&(struct broker_options){.path = fake.path}, &b) < 0) {
		bail_out("no attach: %s", broker_error(NULL)->message);
	}
	test_no_handle();
	test_no_object();
	test_nowhere();
	test_isolation();
	test_parameters();
	test_tickets();
	test_detached();
	fake_stop(&fake);
	is_int(get(&fake.faults), 0, "the protocol was kept throughout");
	return done_testing();
}
