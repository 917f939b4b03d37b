/* SPDX-License-Identifier: MIT */
/*
 * test_behaviour_f.c - what only a broker between processes can get wrong: behaviours 38, 39, 41
 * and 43 to 50 of docs/testing.md.
 */
#include "behave.h"
#include "check.h"
#include "pg_case.h"

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <unistd.h>

#define LONG_MS 60000

static struct pg_case t;

static int64_t rows_of(const char *table)
{
	return pg_int(t.pg, "SELECT count(*) FROM %s", table);
}

/* -- 38, 39: workers that die, or stand still, in every state -----------------------------------
 */

struct stand {
	_Atomic int there; /* the worker is where it was to be */
	_Atomic int done; /* it has finished what it does after that */
	_Atomic int wrong;
};

static struct stand *stand;

static void arrive(void)
{
	atomic_store(&stand->there, 1);
}

static void queued(struct broker *b)
{
	(void)behave_submit(b, NULL, "INSERT INTO w VALUES (1)");
	arrive();
}

static void queued_lease(struct broker *b)
{
	struct broker_call in = {0};

	atomic_store(&stand->wrong, broker_begin(b, NULL, &in.lease) < 0);
	(void)behave_submit(b, &in, "INSERT INTO w VALUES (1)");
	arrive();
}

static void running(struct broker *b)
{
	(void)behave_submit(b, NULL, "INSERT INTO w SELECT 1 FROM pg_sleep(60)");
	arrive();
}

static void in_transaction(struct broker *b)
{
	struct broker_call in = {0};
	int rc = broker_begin(b, NULL, &in.lease);

	rc = rc == 0 ? behave_run(b, &in, "INSERT INTO w VALUES (1)") : rc;
	atomic_store(&stand->wrong, rc < 0);
	arrive();
}

static void running_in_transaction(struct broker *b)
{
	struct broker_call in = {0};
	int rc = broker_begin(b, NULL, &in.lease);

	rc = rc == 0 ? behave_run(b, &in, "INSERT INTO w VALUES (1)") : rc;
	(void)behave_submit(b, &in, "SELECT pg_sleep(60)");
	atomic_store(&stand->wrong, rc < 0);
	arrive();
}

static void pinned(struct broker *b)
{
	struct broker_call in = {.lease = behave_hold(b, NULL, "SET search_path = evil")};
	int rc = behave_run(b, &in, "CREATE TEMP TABLE item (v text)");

	rc = rc == 0 ? behave_run(b, &in, "SELECT pg_advisory_lock(38)") : rc;
	atomic_store(&stand->wrong, rc < 0);
	arrive();
}

static void reading(struct broker *b)
{
	struct broker_call stream = {.flags = BROKER_READONLY | BROKER_STREAM};
	struct broker_result *r;
	int rc = broker_exec(b, "SELECT repeat('x', 1000) FROM generate_series(1, 100000)", 0, NULL,
		&stream, &r);

	for (unsigned i = 0; rc == 0 && i < 100; i++) {
		rc = broker_next(r) == 1 ? 0 : -1;
	}
	atomic_store(&stand->wrong, rc < 0);
	arrive();
}

static void many_tickets(struct broker *b)
{
	for (unsigned i = 0; i < 100; i++) {
		(void)behave_submit(b, NULL, "SELECT pg_sleep(1)");
	}
	arrive();
}

struct state {
	const char *name;
	void (*reach)(struct broker *b);
	const char *query; /* that the server must be seen running first, or NULL */
	bool full; /* no connection is free meanwhile */
};

static const struct state states[] = {
	{"queued", queued, NULL, true},
	{"queued for a lease", queued_lease, NULL, true},
	{"running a statement", running, "INSERT INTO w SELECT", false},
	{"in a transaction", in_transaction, NULL, false},
	{"running in a transaction", running_in_transaction, "SELECT pg_sleep(60)", false},
	{"with session state", pinned, NULL, false},
	{"reading a result", reading, NULL, false},
	{"with 100 statements", many_tickets, "SELECT pg_sleep(1)", false},
};

static int reach_and_wait(struct broker *b, void *arg)
{
	const struct state *s = arg;

	s->reach(b);
	for (;;) {
		pause();
	}
	return 0;
}

static bool runs(const char *query)
{
	return wait_until(
		pg_int(t.pg,
			"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND "
			"query LIKE '%s%%' AND application_name = 'shmbroker'",
			query) > 0,
		LONG_MS);
}

static void check_reclaimed(const struct state *s, int fds)
{
	is_str(case_text(t.b, NULL, "SELECT v FROM item", 0, NULL), "real",
		"F38: killed %s: the next is served, by a clean session", s->name);
	ok(wait_until(behave_metric(t.proc, "broker_leases_active", "") == 0 &&
			      behave_metric(t.proc, "broker_statements_in_flight", "") == 0 &&
			      broker_metric(t.proc, "broker_workers") == 1 &&
			      broker_metric(t.proc, "broker_request_memory_bytes") == 0 &&
			      behave_conns(t.proc, "idle") == 2,
		   LONG_MS),
		"F38: killed %s: nothing is held for it", s->name);
	ok(wait_until(
		   pg_int(t.pg,
			   "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') + "
			   "(SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%%') + "
			   "(SELECT count(*) FROM w)") == 0,
		   LONG_MS),
		"F38: killed %s: no lock, no transaction, no row is left", s->name);
	ok(wait_until(broker_fds(t.proc) <= fds, LONG_MS), "F38: killed %s: nor a descriptor",
		s->name);
}

static void test_38_killed(void)
{
	is_int(case_run(t.b, NULL, "SELECT 1"), 0, "F38: a pool of two");
	for (unsigned i = 0; i < array_size(states); i++) {
		struct broker_lease *l[2] = {NULL, NULL};
		int fds = broker_fds(t.proc);
		pid_t pid;

		memset(stand, 0, sizeof(*stand));
		for (unsigned k = 0; states[i].full && k < 2; k++) {
			l[k] = behave_hold(t.b, NULL, "SELECT 1");
		}
		pid = behave_worker(t.proc, reach_and_wait, (void *)(uintptr_t)&states[i]);
		ok(wait_until(atomic_load(&stand->there) == 1, LONG_MS) &&
				(states[i].query == NULL || runs(states[i].query)) &&
				(!states[i].full ||
					wait_until(behave_waiting(t.proc) == 1, LONG_MS)) &&
				atomic_load(&stand->wrong) == 0,
			"F38: a worker is %s", states[i].name);
		kill(pid, SIGKILL);
		(void)behave_ended(pid, LONG_MS);
		broker_release(&l[0]);
		broker_release(&l[1]);
		check_reclaimed(&states[i], fds);
	}
}

static int read_slowly(struct broker *b, void *arg)
{
	struct broker_call stream = {
		.flags = BROKER_READONLY | BROKER_STREAM, .timeout_ms = 120000};
	struct broker_result *r;
	int rows = 0;

	(void)arg;
	if (broker_exec(b, "SELECT repeat('x', 1000) FROM generate_series(1, 100000)", 0, NULL,
		    &stream, &r) < 0) {
		return 1;
	}
	while (broker_next(r) == 1) {
		if (++rows == 100) {
			arrive();
		}
	}
	broker_result_free(&r);
	return rows != 100000;
}

static int write_slowly(struct broker *b, void *arg)
{
	struct broker_call in = {.timeout_ms = 120000};
	int rc = broker_begin(b, &in, &in.lease);

	(void)arg;
	rc = rc == 0 ? behave_run(b, &in, "INSERT INTO w VALUES (1)") : rc;
	for (unsigned i = 0; rc == 0 && i < 20000 && atomic_load(&stand->done) == 0; i++) {
		rc = behave_run(b, &in, "SELECT 1");
		arrive();
	}
	return rc < 0 || broker_commit(&in.lease, 0) < 0;
}

/* Whatever it does: it stands still, others get on, and then it finishes as if nothing had been. */
static void stopped(const char *what, behave_fn *fn)
{
	int64_t rss = broker_rss(t.proc), start;
	unsigned good = 0;
	pid_t pid;

	memset(stand, 0, sizeof(*stand));
	pid = behave_worker(t.proc, fn, NULL);
	ok(wait_until(atomic_load(&stand->there) == 1, LONG_MS), "F39: a worker %s", what);
	spawn_pause(pid);
	start = wait_clock_ms();
	for (unsigned i = 0; i < 300; i++) {
		good += case_run(t.b, NULL, "SELECT 1") == 0;
	}
	is_int(good, 300, "F39: while it stands still others are served");
	ok(behave_since(start) < 20000, "F39: as fast as ever (%lld ms for 300)",
		(long long)behave_since(start));
	if (stage_slowness() == 1) {
		ok(broker_rss(t.proc) - rss < 16 << 20, "F39: and the broker keeps little for it");
	}
	atomic_store(&stand->done, 1);
	spawn_resume(pid);
	is_int(behave_ended(pid, LONG_MS), 0, "F39: when it goes on it finishes");
}

/* -- 41: fork ---------------------------------------------------------------------------------- */

static int use_inherited(struct broker *b, struct broker_lease **parents, int64_t number)
{
	struct broker_call in = {.lease = *parents};
	struct broker_value v = broker_int64(number);
	char want[32];

	snprintf(want, sizeof(want), "%lld", (long long)number);
	if (case_run(b, &in, "INSERT INTO w VALUES (41)") != BROKER_E_FORKED) {
		return 2;
	}
	for (unsigned i = 0; i < 50; i++) {
		if (strcmp(case_text(b, NULL, "SELECT $1::bigint", 1, &v), want) != 0) {
			return 3;
		}
	}
	broker_rollback(parents); /* of the parent: must not end there */
	return 0;
}

static void test_41_fork(void)
{
	struct broker *b = case_attach(t.proc);
	struct broker_call in = {0};
	pid_t pid[3];
	int rc = broker_begin(b, NULL, &in.lease);

	rc = rc == 0 ? case_run(b, &in, "INSERT INTO w VALUES (1)") : rc;
	is_int(rc, 0, "F41: a process with a handle and a transaction");
	for (int i = 0; i < 3; i++) {
		pid[i] = spawn_fork();
		if (pid[i] == 0) {
			pid_t inner = i == 2 ? spawn_fork() : 1;

			rc = use_inherited(b, &in.lease, i * 10 + (inner == 0));
			if (inner > 1 && rc == 0) {
				rc = behave_ended(inner, LONG_MS);
			}
			broker_detach(&b);
			_exit(rc);
		}
	}
	is_int(case_run(b, &in, "INSERT INTO w VALUES (2)"), 0,
		"F41: goes on while its children work");
	for (int i = 0; i < 3; i++) {
		is_int(behave_ended(pid[i], LONG_MS), 0,
			"F41: a child that uses its handle is a worker of its own");
	}
	is_int(broker_commit(&in.lease, 0), 0, "F41: and commits");
	is_int(rows_of("w"), 2, "F41: what it wrote, and nothing else");
	pg_do(t.pg, "TRUNCATE w");
	broker_detach(&b);
}

/* -- 43: isolation under random interleaving -----------------------------------------------------
 */

struct property {
	uint64_t seed;
	unsigned rounds;
	_Atomic uint64_t statements, wrong, errors, cancelled, late;
	char first[400];
};

struct actor {
	struct broker *b;
	struct property *p;
	struct behave_rng rng;
	unsigned me;
	unsigned serial;
	unsigned written; /* rows that must be there */
};

static unsigned worker_number; /* set before a worker is forked */

__attribute__((format(printf, 2, 3))) static void wrong(struct actor *a, const char *fmt, ...)
{
	va_list ap;

	if (atomic_fetch_add(&a->p->wrong, 1) == 0) {
		va_start(ap, fmt);
		vsnprintf(a->p->first, sizeof(a->p->first), fmt, ap);
		va_end(ap);
	}
}

static const char *token(struct actor *a, char *buf, size_t size)
{
	snprintf(buf, size, "t%u-%u", a->me, a->serial++);
	return buf;
}

/* The rows of r are token, token:1, token:2, …; the second column is empty. */
static void check_rows(struct actor *a, struct broker_result *r, const char *tok, unsigned n)
{
	char want[64];
	unsigned got = 0;
	int rc;

	while ((rc = broker_next(r)) == 1) {
		const char *text = "", *tenant = "";

		(void)!broker_get_text(r, 0, &text, NULL);
		(void)!broker_get_text(r, 1, &tenant, NULL);
		snprintf(want, sizeof(want), "%s:%u", tok, ++got);
		if (strcmp(text, want) != 0 || tenant[0] != '\0') {
			wrong(a, "%s instead of %s, tenant %s", text, want, tenant);
		}
	}
	if (rc < 0 || got != n) {
		wrong(a, "%s: %u rows of %u: %d %s", tok, got, n, rc, broker_error(a->b)->message);
	}
}

static const char rows_sql[] =
	"SELECT $1 || ':' || i, coalesce(current_setting('app.tenant', true), '') "
	"FROM generate_series(1, $2::bigint) i";
static const char bad_sql[] = "SELECT ('not ' || $1::text)::int";

static void one_read(struct actor *a)
{
	struct broker_call call = {.flags = behave_random(&a->rng, 4) > 0 ? BROKER_READONLY : 0};
	unsigned n = behave_random(&a->rng, 20) == 0 ? 3000 : 1 + behave_random(&a->rng, 3);
	struct broker_result *r;
	struct broker_value v[2];
	char tok[40];

	v[0] = broker_text(token(a, tok, sizeof(tok)));
	v[1] = broker_int64(n);
	if (broker_exec(a->b, rows_sql, 2, v, &call, &r) < 0) {
		wrong(a, "%s: %s", tok, broker_error(a->b)->message);
		return;
	}
	check_rows(a, r, tok, n);
	broker_result_free(&r);
}

static void check_own_error(struct actor *a, int rc, const char *tok)
{
	const struct broker_error *e = broker_error(a->b);

	if (rc != BROKER_E_DATABASE || strcmp(e->sqlstate, "22P02") != 0 ||
		strstr(e->message, tok) == NULL) {
		wrong(a, "%s: its error is %d %s %s", tok, rc, e->sqlstate,
			rc < 0 ? e->message : "");
	}
	atomic_fetch_add(&a->p->errors, 1);
}

static void one_error(struct actor *a)
{
	struct broker_call call = {.flags = behave_random(&a->rng, 2) ? BROKER_READONLY : 0};
	struct broker_value v;
	char tok[40];

	v = broker_text(token(a, tok, sizeof(tok)));
	check_own_error(a, broker_exec(a->b, bad_sql, 1, &v, &call, NULL), tok);
}

/* Several on their way at once, answered in any order, collected in another. */
static void batch(struct actor *a)
{
	struct broker_call call = {.flags = BROKER_READONLY};
	uint64_t ticket[10];
	char tok[10][40];
	bool bad[10], cut[10];

	for (unsigned i = 0; i < 10; i++) {
		struct broker_value v[2];

		bad[i] = behave_random(&a->rng, 4) == 0;
		cut[i] = behave_random(&a->rng, 5) == 0;
		v[0] = broker_text(token(a, tok[i], sizeof(tok[i])));
		v[1] = broker_int64(2);
		if (broker_submit(a->b, bad[i] ? bad_sql : rows_sql, bad[i] ? 1 : 2, v, &call,
			    &ticket[i]) < 0) {
			wrong(a, "submit: %s", broker_error(a->b)->message);
			return;
		}
	}
	for (unsigned i = 0; i < 10; i++) {
		if (cut[i] && broker_cancel(a->b, ticket[i]) < 0) {
			wrong(a, "cancel: %s", broker_error(a->b)->message);
		}
	}
	for (unsigned k = 0, i = behave_random(&a->rng, 10); k < 10; k++, i = (i + 3) % 10) {
		struct broker_result *r = NULL;
		int rc = broker_collect(a->b, ticket[i], -1, NULL, &r);

		if (cut[i] && rc == BROKER_E_CANCELLED) {
			atomic_fetch_add(&a->p->cancelled, 1);
		} else if (bad[i]) {
			check_own_error(a, rc, tok[i]);
		} else if (rc < 0) {
			wrong(a, "%s: %s", tok[i], broker_error(a->b)->message);
		} else if (!cut[i]) { /* else a cancel may come between two rows */
			check_rows(a, r, tok[i], 2);
		}
		broker_result_free(&r);
	}
	atomic_fetch_add(&a->p->statements, 9);
}

static void deadline(struct actor *a)
{
	struct broker_call call = {.flags = behave_random(&a->rng, 2) ? BROKER_READONLY : 0,
		.timeout_ms = 2 + behave_random(&a->rng, 40)};
	int rc = behave_run(a->b, &call, "SELECT pg_sleep(0.02)");

	if (rc != 0 && rc != BROKER_E_TIMEOUT && rc != BROKER_E_OUTCOME_UNKNOWN) {
		wrong(a, "a deadline: %d %s", rc, broker_error(a->b)->message);
	}
	atomic_fetch_add(&a->p->late, rc != 0);
}

static int insert(struct actor *a, struct broker_call *in, unsigned id)
{
	struct broker_value v[2] = {broker_int64(a->me), broker_int64(id)};

	return broker_exec(a->b, "INSERT INTO prop VALUES ($1, $2)", 2, v, in, NULL);
}

/* A row of one's own; then the same again, which must fail and leave the first alone. */
static void one_write(struct actor *a)
{
	struct broker_call in = {0};
	unsigned id = a->serial++;
	int rc = insert(a, &in, id);

	if (rc != 0) {
		wrong(a, "a write: %d %s", rc, broker_error(a->b)->message);
		return;
	}
	a->written++;
	rc = insert(a, &in, id);
	if (rc != BROKER_E_DATABASE || strcmp(case_sqlstate(a->b), "23505") != 0) {
		wrong(a, "a second write: %d %s", rc, broker_error(a->b)->message);
	}
}

/* Session state that must be its own, and two rows or none. */
static void transaction(struct actor *a)
{
	struct broker_call in = {0};
	unsigned fate = behave_random(&a->rng, 4), id = a->serial;
	char sql[80], tok[40];
	int rc = broker_begin(a->b, NULL, &in.lease);

	a->serial += 2;
	snprintf(sql, sizeof(sql), "SET app.tenant = '%s'", token(a, tok, sizeof(tok)));
	rc = rc == 0 ? case_run(a->b, &in, sql) : rc;
	rc = rc == 0 ? insert(a, &in, id) : rc;
	rc = rc == 0 ? insert(a, &in, id + 1) : rc;
	if (rc == 0 && strcmp(case_text(a->b, &in, "SELECT current_setting('app.tenant')", 0, NULL),
			       tok) != 0) {
		wrong(a, "another's tenant");
	}
	if (rc == 0 && fate == 0) {
		rc = case_run(a->b, &in, "SELECT 1/0") == BROKER_E_DATABASE ? 0 : -1;
	}
	if (rc != 0) {
		wrong(a, "a transaction: %d %s", rc, broker_error(a->b)->message);
	} else if (fate == 1) {
		broker_rollback(&in.lease);
	} else {
		rc = broker_commit(&in.lease, 0);
		if (rc != (fate == 0 ? BROKER_E_TX_ABORTED : 0)) {
			wrong(a, "a commit: %d %s", rc, broker_error(a->b)->message);
		}
		a->written += rc == 0 ? 2 : 0;
	}
	broker_rollback(&in.lease);
}

static int property_worker(struct broker *b, void *arg)
{
	static void (*const acts[])(struct actor * a) = {one_read, one_read, one_read, one_error,
		batch, batch, deadline, one_write, transaction};
	struct actor a = {.b = b, .p = arg, .me = worker_number};
	char sql[80];

	a.rng = (struct behave_rng){a.p->seed + a.me};
	for (unsigned i = 0; i < a.p->rounds && atomic_load(&a.p->wrong) < 20; i++) {
		acts[behave_random(&a.rng, array_size(acts))](&a);
		atomic_fetch_add(&a.p->statements, 1);
	}
	snprintf(sql, sizeof(sql), "SELECT count(*) FROM prop WHERE w = %u", a.me);
	if (behave_int(b, NULL, sql, 0) != a.written) {
		wrong(&a, "worker %u wrote %u rows, there are %lld", a.me, a.written,
			(long long)behave_int(b, NULL, sql, 0));
	}
	return 0;
}

static void test_43_isolation(void)
{
	struct property *p = behave_share(sizeof(*p));
	struct broker_proc *proc = broker_start(
		pg_url(t.pg), SETTINGS("pool main.max_size=3", "pool main.acquire_timeout=60s",
				      "broker.default_timeout=60s"));
	unsigned n = stage_quick() ? 6 : 16;
	pid_t pid[16];

	pg_do(t.pg, "CREATE TABLE prop (w int, id int, PRIMARY KEY (w, id))");
	p->seed = behave_seed("F43").state;
	p->rounds = stage_quick() ? 100 : 1500;
	for (worker_number = 0; worker_number < n; worker_number++) {
		pid[worker_number] = behave_worker(proc, property_worker, p);
	}
	for (unsigned i = 0; i < n; i++) {
		is_int(behave_ended(pid[i], 240000), 0, "F43: a worker came to its end");
	}
	if (!is_int((int64_t)atomic_load(&p->wrong), 0,
		    "F43: %llu statements of %u workers on 3 connections, %llu errors, %llu "
		    "cancels, %llu "
		    "time-outs: each got its own",
		    (unsigned long long)atomic_load(&p->statements), n,
		    (unsigned long long)atomic_load(&p->errors),
		    (unsigned long long)atomic_load(&p->cancelled),
		    (unsigned long long)atomic_load(&p->late))) {
		diag("  %s", p->first);
	}
	is_int(broker_free(&proc), 0, "the broker ends well");
	behave_unshare(p, sizeof(*p));
}

/* -- 44 ---------------------------------------------------------------------------------------- */

/* Three of four connections are busy for long; on the fourth all is quick. */
static void test_44_slow(const char *url, const char *slow, const char *fast)
{
	struct broker_proc *p = broker_start(url, SETTINGS("pool main.max_size=4"));
	struct broker *b = behave_attach(p);
	struct broker_call reads = {.flags = BROKER_READONLY},
			   brief = {.flags = BROKER_READONLY, .timeout_ms = 60000};
	int64_t worst = 0, start;
	uint64_t ticket[12];

	for (unsigned round = 0; round < 4; round++) {
		/* They come in one go, when nobody can know that the first ones will be slow. */
		broker_pause(p);
		for (unsigned i = 0; i < array_size(ticket); i++) {
			ticket[i] = behave_submit(b, &brief, i < 3 ? slow : fast);
		}
		start = wait_clock_ms();
		broker_resume(p);
		for (unsigned i = 3; i < array_size(ticket); i++) {
			(void)!broker_collect(b, ticket[i], -1, NULL, NULL);
		}
		for (unsigned i = 0; i < 200; i++) {
			(void)!behave_run(b, i % 2 ? &reads : NULL, fast);
		}
		worst = behave_since(start) > worst ? behave_since(start) : worst;
		for (unsigned i = 0; i < 3; i++) {
			(void)!broker_cancel(b, ticket[i]);
			(void)!broker_collect(b, ticket[i], -1, NULL, NULL);
		}
	}
	ok(worst < 20000, "F44: 209 statements beside three of a minute: %lld ms at most",
		(long long)worst);
	broker_detach(&b);
	is_int(broker_free(&p), 0, "the broker ends well");
}

/* -- 45 ---------------------------------------------------------------------------------------- */

struct cancels {
	_Atomic int stop;
	_Atomic uint64_t asked, hit, strangers, other, statements;
	uint64_t seed;
	char first[200];
};

static void note_stranger(struct cancels *c, struct broker *b, _Atomic uint64_t *count)
{
	if (atomic_fetch_add(count, 1) == 0) {
		snprintf(c->first, sizeof(c->first), "%d %s", broker_error(b)->code,
			broker_error(b)->message);
	}
}

static int cancel_worker(struct broker *b, void *arg)
{
	static const char *const sql[] = {
		"affect 1", "turn", "sleep 1", "sleep 2", "who", "sleep 0"};
	struct cancels *c = arg;
	struct behave_rng rng = {c->seed + worker_number};

	while (atomic_load(&c->stop) == 0) {
		uint64_t ticket[64];
		bool cut[64];

		for (unsigned i = 0; i < array_size(ticket); i++) {
			unsigned what = behave_random(&rng, array_size(sql));
			bool reads = what > 0 && behave_random(&rng, 2) == 0;
			struct broker_call call = {
				.timeout_ms = 60000, .flags = reads ? BROKER_READONLY : 0};

			ticket[i] = behave_submit(b, &call, sql[what]);
			cut[i] = behave_random(&rng, 2) == 0;
			if (cut[i] && behave_random(&rng, 2) == 0) {
				(void)!broker_cancel(
					b, ticket[i]); /* at once; else when others run */
			}
		}
		for (unsigned i = 0; i < array_size(ticket); i++) {
			int rc;

			if (cut[i]) {
				(void)!broker_cancel(b, ticket[i]);
				atomic_fetch_add(&c->asked, 1);
			}
			rc = broker_collect(b, ticket[i], -1, NULL, NULL);
			if (rc == BROKER_E_CANCELLED && !cut[i]) {
				note_stranger(c, b, &c->strangers);
			} else if (rc != 0 && rc != BROKER_E_CANCELLED) {
				note_stranger(c, b, &c->other);
			}
			atomic_fetch_add(&c->hit, rc == BROKER_E_CANCELLED);
			atomic_fetch_add(&c->statements, 1);
		}
	}
	return 0;
}

/* Cancels of the scripted database hit whatever runs when they arrive, and arrive late. */
static void test_45_cancels(void)
{
	static const char *const delays[] = {
		"cancel_ms=0", "cancel_ms=1", "cancel_ms=3", "cancel_ms=8"};
	struct behave f =
		behave_start("", SETTINGS("pool main.max_size=4", "pool main.acquire_timeout=60s"));
	struct cancels *c = behave_share(sizeof(*c));
	uint64_t want = stage_quick() ? 10000 : 1000000;
	int64_t start = wait_clock_ms();
	unsigned n = 6, turn = 0;
	pid_t pid[6];

	c->seed = behave_seed("F45").state;
	for (worker_number = 0; worker_number < n; worker_number++) {
		pid[worker_number] = behave_worker(f.proc, cancel_worker, c);
	}
	while (atomic_load(&c->asked) < want &&
		behave_since(start) < (stage_quick() ? 4000 : 15000)) {
		uint64_t before = atomic_load(&c->statements);

		behave_rules(&f, delays[turn++ % array_size(delays)]);
		if (!wait_until(atomic_load(&c->statements) > before + 200, LONG_MS)) {
			ok(false, "F45: work goes on");
			break;
		}
	}
	atomic_store(&c->stop, 1);
	for (unsigned i = 0; i < n; i++) {
		(void)behave_ended(pid[i], LONG_MS);
	}
	if (!ok(atomic_load(&c->strangers) == 0 && atomic_load(&c->other) == 0,
		    "F45: %llu of %llu statements were asked to be cancelled, %llu were, and no "
		    "other",
		    (unsigned long long)atomic_load(&c->asked),
		    (unsigned long long)atomic_load(&c->statements),
		    (unsigned long long)atomic_load(&c->hit))) {
		diag("  %llu strangers, %llu other errors, first: %s",
			(unsigned long long)atomic_load(&c->strangers),
			(unsigned long long)atomic_load(&c->other), c->first);
	}
	ok(behave_metric(f.proc, "broker_cancels_sent_total", "") > 100,
		"F45: for which %lld cancels were sent to the server",
		(long long)behave_metric(f.proc, "broker_cancels_sent_total", ""));
	behave_unshare(c, sizeof(*c));
	behave_end(&f);
}

/* -- 46 ---------------------------------------------------------------------------------------- */

/*
 * One holds a row in a transaction, another's statement waits for it on the other connection, and
 * the first sends a statement outside its transaction: if that went behind the one that waits, all
 * would wait for each other, and PostgreSQL could not see it.
 */
static void test_46_deadlock(const char *blocked, unsigned flags)
{
	struct broker *one = case_attach(t.proc), *two = case_attach(t.proc),
		      *three = case_attach(t.proc);
	struct broker_call in = {0}, outside = {.flags = BROKER_READONLY, .timeout_ms = 700},
			   waits = {.flags = flags};
	uint64_t ticket, other;
	int64_t start;
	int rc = broker_begin(one, NULL, &in.lease);

	rc = rc == 0 ? case_run(one, &in, "UPDATE item SET v = 'real'") : rc;
	rc = rc == 0 ? case_run(one, &in, "SELECT pg_advisory_xact_lock(46)") : rc;
	is_int(rc, 0, "F46: a transaction holds locks");
	ticket = behave_submit(two, &waits, blocked);
	ok(wait_until(pg_int(t.pg, "SELECT count(*) FROM pg_locks WHERE NOT granted") > 0, LONG_MS),
		"F46: another's statement waits for one: %s", blocked);
	other = behave_submit(three, &outside, "SELECT 1");
	start = wait_clock_ms();
	rc = case_run(one, &outside, "SELECT 1");
	ok(rc == BROKER_E_TIMEOUT && behave_since(start) < 700 + WAIT_NOISE_MS,
		"F46: what the first sends outside ends with its deadline");
	is_int(broker_commit(&in.lease, 0), 0, "F46: it commits");
	is_int(broker_collect(two, ticket, LONG_MS, NULL, NULL), 0, "F46: and the other goes on");
	(void)!broker_collect(three, other, LONG_MS, NULL, NULL);
	broker_detach(&one);
	broker_detach(&two);
	broker_detach(&three);
}

/* -- 50 ---------------------------------------------------------------------------------------- */

#define FAIR 16

struct fairness {
	_Atomic int go; /* 1: count, 2: end */
	_Atomic uint64_t served[FAIR];
};

/* Some take leases, some send statements. */
static int fair_worker(struct broker *b, void *arg)
{
	struct fairness *f = arg;
	unsigned me = worker_number;

	while (atomic_load(&f->go) < 2) {
		struct broker_call in = {.timeout_ms = 60000};
		int rc = me % 4 == 0 ? broker_lease(b, &in, &in.lease) : 0;

		if (rc < 0 || behave_run(b, &in, "sleep 1") < 0) {
			return 1;
		}
		broker_release(&in.lease);
		atomic_fetch_add(&f->served[me], atomic_load(&f->go) == 1);
	}
	return 0;
}

static void test_50_fairness(void)
{
	struct behave f =
		behave_start("", SETTINGS("pool main.max_size=1", "pool main.acquire_timeout=60s"));
	struct fairness *s = behave_share(sizeof(*s));
	uint64_t enough = stage_quick() ? 60 : 550, least = UINT64_MAX, most = 0;
	unsigned failed = 0;
	pid_t pid[FAIR];

	for (worker_number = 0; worker_number < FAIR; worker_number++) {
		pid[worker_number] = behave_worker(f.proc, fair_worker, s);
	}
	ok(wait_until(broker_metric(f.proc, "broker_workers") == FAIR + 1, LONG_MS),
		"F50: all are there");
	atomic_store(&s->go, 1);
	(void)wait_until(atomic_load(&s->served[0]) >= enough, 60000);
	atomic_store(&s->go, 2);
	for (unsigned i = 0; i < FAIR; i++) {
		uint64_t n = atomic_load(&s->served[i]);

		least = n < least ? n : least;
		most = n > most ? n : most;
	}
	for (unsigned i = 0; i < FAIR; i++) {
		failed += behave_ended(pid[i], LONG_MS) != 0;
	}
	is_int(failed, 0, "F50: nobody failed");
	ok(most * 10 < least * 12,
		"F50: %d workers on one connection: served %llu times at least, %llu at most", FAIR,
		(unsigned long long)least, (unsigned long long)most);
	behave_unshare(s, sizeof(*s));
	behave_end(&f);
}

int main(void)
{
	test_44_slow("fake:", "sleep 60000", "affect 1");
	test_45_cancels();
	test_50_fairness();
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	stand = behave_share(sizeof(*stand));
	t = case_start(NULL, SETTINGS("pool main.max_size=2", "pool main.acquire_timeout=60s"));
	pg_do(t.pg, "CREATE TABLE w (a int)");
	pg_do(t.pg, "CREATE TABLE item AS SELECT 'real'::text AS v");
	pg_do(t.pg, "CREATE SCHEMA evil");
	pg_do(t.pg, "CREATE TABLE evil.item AS SELECT 'forged'::text AS v");
	test_38_killed();
	stopped("reads a large result", read_slowly);
	stopped("has a transaction", write_slowly);
	pg_do(t.pg, "TRUNCATE w");
	test_41_fork();
	test_44_slow(pg_url(t.pg), "SELECT pg_sleep(60)", "SELECT 1");
	test_46_deadlock("UPDATE item SET v = 'real'", 0);
	test_46_deadlock("SELECT pg_advisory_xact_lock(46)", BROKER_READONLY);
	test_43_isolation();
	case_end(&t);
	behave_unshare(stand, sizeof(*stand));
	return done_testing();
}
