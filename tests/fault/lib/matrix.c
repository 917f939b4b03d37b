/* SPDX-License-Identifier: MIT */
/* matrix.c - see matrix.h. */
#include "matrix.h"

#include "brokerproc.h"
#include "crashpoint.h"
#include "pg.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CASE_MS 60000 /* for one case, at the most */
#define FREE_MS 30000 /* until everything that a worker held is free */
#define KEPT_FDS 8
#define PAUSE_MS 10000 /* nobody else may see a longer one */
#define BIG_BYTES 600000u /* more than the request arena: goes in parts */
#define STREAM_ROWS 3000
#define COPY_ROWS 3000
/* Runs for many seconds on either database; there to be cancelled. */
#define LONG_SQL                                                                                   \
	"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000000) "     \
	"SELECT count(*) FROM c"
#define INSERT_SQL "INSERT INTO crash (id, part, note) VALUES ($1, $2, $3)"

/* Rows of a worker's program. */
enum part {
	PART_TX_1 = 1, /* both of them or none */
	PART_TX_2 = 2,
	PART_WRITE = 3,
	PART_BATCH = 4,
	PART_BIG = 5,
	PART_CHILD = 6,
	PART_UNDONE = 9, /* never */
	PART_COPY = 100, /* COPY_ROWS of them or none */
};

enum stage {
	STAGE_FIRST, /* at the first pass */
	STAGE_TX, /* at the first after a transaction was begun and has written */
	STAGE_STREAM, /* at the first in the middle of a large result */
};

struct crash_case {
	const char *name;
	unsigned point;
	bool stop;
	enum stage stage;
	int64_t id;
};

/* Shared by the test, the bystander and the workers. */
struct shared {
	_Atomic uint64_t done; /* statements of the bystander */
	_Atomic uint64_t errors;
	_Atomic uint64_t slowest_ms; /* since it was last set to 0 */
	_Atomic bool rest, rests, reads_only, end;
	char error[256];
	_Atomic int child; /* of the worker: 0, or its pid */
	_Atomic bool child_killed;
	char trouble[256]; /* of the worker or its child */
};

struct run {
	const struct matrix_plan *plan;
	struct shared *shared;
	struct broker *b;
	pid_t bystander;
	char *big;
	int64_t next_id;
	unsigned reached, cases;
	uint64_t slowest_ms;
};

static const struct {
	const char *name;
	unsigned number;
} points[] = {
#define CRASHPOINT_DEF(name, number, where) {#name, number},
#include "crashpoints.def"
#undef CRASHPOINT_DEF
};

static struct broker *attach(const struct run *run)
{
	struct broker_options opt = {
		.path = broker_socket(run->plan->broker), .timeout_ms = CASE_MS, .result_kib = 64};
	struct broker *b;

	return broker_attach(&opt, &b) == 0 ? b : NULL;
}

/* -- the worker's program ---------------------------------------------------------------------- */

struct worker {
	const struct run *run;
	const struct crash_case *c;
	struct broker *b;
};

/* Ends the process with the reason noted. */
static void expect(struct worker *w, bool cond, const char *what)
{
	const struct broker_error *e = broker_error(w->b);

	if (!cond) {
		snprintf(w->run->shared->trouble, sizeof(w->run->shared->trouble), "%s: %d %s %s",
			what, e->code, e->sqlstate, e->message);
		_exit(3);
	}
}

static void arm(struct worker *w, enum stage stage)
{
	char spec[32];

	if (w->c->stage == stage) {
		snprintf(spec, sizeof(spec), "%u:%s", w->c->point, w->c->stop ? "stop" : "kill");
		setenv("BROKER_CRASHPOINT", spec, 1);
	}
}

static int insert(struct worker *w, struct broker_lease *l, enum part part, const char *note)
{
	struct broker_call call = {.lease = l, .tag = "/crash"};
	struct broker_value v[3] = {broker_int64(w->c->id), broker_int64(part), broker_text(note)};

	return broker_exec(w->b, INSERT_SQL, 3, v, &call, NULL);
}

static void do_commit(struct worker *w)
{
	struct broker_lease *l;

	expect(w, broker_begin(w->b, NULL, &l) == 0, "begin");
	expect(w, insert(w, l, PART_TX_1, "one") == 0, "first write of a transaction");
	arm(w, STAGE_TX);
	expect(w, insert(w, l, PART_TX_2, "two") == 0, "second write of a transaction");
	expect(w, broker_savepoint(l) == 0, "savepoint");
	expect(w, insert(w, l, PART_UNDONE, "undone") == 0, "write to be undone");
	expect(w, broker_savepoint_rollback(l) == 0, "savepoint rollback");
	expect(w, broker_commit(&l, 0) == 0, "commit");
}

static void do_statements(struct worker *w)
{
	struct broker_call call = {.flags = BROKER_READONLY, .tag = "/crash"};
	struct broker_value id = broker_int64(w->c->id);
	struct broker_result *r;
	int64_t n = 0;

	expect(w,
		broker_exec(w->b, "SELECT count(*) FROM crash WHERE id = $1 AND part < 3", 1, &id,
			&call, &r) == 0,
		"read");
	expect(w, broker_next(r) == 1 && broker_get_int64(r, 0, &n) == 0 && n == 2, "value read");
	broker_result_free(&r);
	expect(w, insert(w, NULL, PART_WRITE, "three") == 0, "write");
}

static void do_batch(struct worker *w)
{
	struct broker_value v[3] = {
		broker_int64(w->c->id), broker_int64(PART_BATCH), broker_text("four")};
	struct broker_call call = {.flags = BROKER_READONLY};
	uint64_t ticket;

	for (int i = 0; i < 4; i++) {
		expect(w,
			broker_submit(w->b, "SELECT part FROM crash WHERE id = $1", 1, v, &call,
				&ticket) == 0,
			"submit a read");
	}
	expect(w, broker_submit(w->b, INSERT_SQL, 3, v, NULL, &ticket) == 0, "submit a write");
	for (int i = 0; i < 5; i++) {
		struct broker_result *r;

		expect(w, broker_collect(w->b, 0, -1, NULL, &r) == 0, "collect");
		broker_result_free(&r);
	}
}

static void do_cancel(struct worker *w)
{
	struct broker_call call = {.flags = BROKER_READONLY};
	uint64_t ticket;

	expect(w, broker_submit(w->b, LONG_SQL, 0, NULL, &call, &ticket) == 0, "submit");
	expect(w, broker_cancel(w->b, ticket) == 0, "cancel");
	expect(w, broker_collect(w->b, ticket, -1, NULL, NULL) == BROKER_E_CANCELLED, "cancelled");
}

static void do_rollback(struct worker *w)
{
	struct broker_lease *l;

	expect(w, broker_begin(w->b, NULL, &l) == 0, "begin to roll back");
	expect(w, insert(w, l, PART_UNDONE, "undone") == 0, "write to roll back");
	broker_rollback(&l);
	expect(w, broker_lease(w->b, NULL, &l) == 0, "lease");
	expect(w,
		broker_exec(w->b, "SELECT 1", 0, NULL, &(struct broker_call){.lease = l}, NULL) ==
			0,
		"statement in a lease");
	broker_release(&l);
}

static void do_stream(struct worker *w)
{
	struct broker_call call = {.flags = BROKER_READONLY | BROKER_STREAM};
	struct broker_result *r;
	char sql[1024];
	int rows = 0, rc;

	snprintf(sql, sizeof(sql),
		"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < %d) "
		"SELECT n, '%0500d' FROM c",
		STREAM_ROWS, 0);
	expect(w, broker_exec(w->b, sql, 0, NULL, &call, &r) == 0, "stream");
	while ((rc = broker_next(r)) == 1) {
		if (++rows == 100) {
			arm(w, STAGE_STREAM);
		}
	}
	expect(w, rc == 0 && rows == STREAM_ROWS, "rows of a stream");
	broker_result_free(&r);
}

static void copy_in(struct worker *w, struct broker_lease *l)
{
	struct broker_call call = {.lease = l};
	struct broker_copy *c;
	int64_t rows;

	expect(w, broker_copy_in(w->b, "COPY crash (id, part) FROM STDIN", &call, &c) == 0,
		"copy in");
	for (int i = 0; i < COPY_ROWS; i++) {
		char line[64];
		int n = snprintf(line, sizeof(line), "%lld\t%d\n", (long long)w->c->id, PART_COPY);

		expect(w, broker_copy_write(c, line, (size_t)n) == 0, "copy write");
	}
	expect(w, broker_copy_end(&c, NULL, &rows) == 0 && rows == COPY_ROWS, "end of copy in");
}

static void copy_out(struct worker *w, struct broker_lease *l)
{
	struct broker_call call = {.lease = l};
	struct broker_copy *c;
	const void *data;
	size_t len;

	expect(w,
		broker_copy_out(
			w->b, "COPY (SELECT generate_series(1, 20000)) TO STDOUT", &call, &c) == 0,
		"copy out");
	do {
		expect(w, broker_copy_read(c, &data, &len) == 0, "copy read");
	} while (len > 0);
	expect(w, broker_copy_end(&c, NULL, NULL) == 0, "end of copy out");
}

static void do_copy(struct worker *w)
{
	struct broker_lease *l;

	if (w->run->plan->pg == NULL) {
		return;
	}
	expect(w, broker_begin(w->b, NULL, &l) == 0, "begin for copy");
	copy_in(w, l);
	copy_out(w, l);
	expect(w, broker_commit(&l, 0) == 0, "commit of copy");
}

static _Noreturn void child(struct worker *w)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	expect(w, insert(w, NULL, PART_CHILD, "six") == 0, "write of a forked child");
	broker_detach(&w->b);
	_exit(0);
}

/* The child uses the handle that it has inherited. */
static void do_fork(struct worker *w)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		child(w);
	}
	atomic_store(&w->run->shared->child, pid);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
	}
	atomic_store(&w->run->shared->child, 0);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
		atomic_store(&w->run->shared->child_killed, true);
	} else if (status != 0) {
		_exit(3);
	}
}

static _Noreturn void work(const struct run *run, const struct crash_case *c)
{
	struct worker w = {.run = run, .c = c};

	arm(&w, STAGE_FIRST);
	w.b = attach(run);
	expect(&w, w.b != NULL, "attach");
	do_stream(&w);
	do_commit(&w);
	do_statements(&w);
	do_batch(&w);
	do_cancel(&w);
	do_rollback(&w);
	expect(&w, insert(&w, NULL, PART_BIG, run->big) == 0, "large parameter");
	do_copy(&w);
	do_fork(&w);
	broker_detach(&w.b);
	_exit(0);
}

/* -- the bystander ----------------------------------------------------------------------------- */

static void rest_a_while(struct shared *s)
{
	atomic_store(&s->rests, true);
	while (atomic_load(&s->rest) && !atomic_load(&s->end)) {
		wait_pause();
	}
	atomic_store(&s->rests, false);
}

static _Noreturn void bystand(const struct run *run)
{
	struct broker_call reading = {
		.flags = BROKER_READONLY, .timeout_ms = FREE_MS, .tag = "/by"};
	struct broker_call writing = {.timeout_ms = FREE_MS, .tag = "/by"};
	struct shared *s = run->shared;
	struct broker *b = attach(run);

	if (b == NULL) {
		_exit(3);
	}
	for (unsigned i = 0; !atomic_load(&s->end); i++) {
		bool write = i % 2 == 0 && !atomic_load(&s->reads_only);
		int64_t start = wait_clock_ms();
		uint64_t ms;
		int rc;

		if (atomic_load(&s->rest)) {
			rest_a_while(s);
			continue;
		}
		rc = write ? broker_exec(
				     b, "UPDATE bystander SET n = n + 1", 0, NULL, &writing, NULL)
			   : broker_exec(b, "SELECT n FROM bystander", 0, NULL, &reading, NULL);
		if (rc < 0 && atomic_fetch_add(&s->errors, 1) == 0) {
			snprintf(s->error, sizeof(s->error), "%s: %d %s", write ? "write" : "read",
				rc, broker_error(b)->message);
		}
		ms = (uint64_t)(wait_clock_ms() - start);
		if (ms > atomic_load(&s->slowest_ms)) {
			atomic_store(&s->slowest_ms, ms);
		}
		atomic_fetch_add(&s->done, 1);
	}
	broker_detach(&b);
	_exit(0);
}

static bool bystander_works(struct run *run)
{
	uint64_t before = atomic_load(&run->shared->done);

	return wait_until(atomic_load(&run->shared->done) >= before + 10, CASE_MS);
}

/* -- the broker afterwards --------------------------------------------------------------------- */

struct stat {
	double age; /* of the heartbeat, seconds */
	long long idle, leases, in_flight, evictions, started, ended;
};

static double value_of(const char *text, const char *name)
{
	const char *p = strstr(text, name);

	p = p != NULL ? strchr(p, ' ') : NULL;
	return p != NULL ? strtod(p, NULL) : -1;
}

static struct stat look(struct run *run)
{
	const char *argv[] = {
		getenv("BROKERSTAT_BIN"), "-1", "-n", broker_socket(run->plan->broker), NULL};
	char *text = spawn_output(argv, NULL, NULL);
	struct stat s = {
		.age = value_of(text, "broker_heartbeat_age_seconds"),
		.idle = (long long)value_of(text, "broker_pool_connections{state=\"idle\""),
		.leases = (long long)value_of(text, "broker_leases_active{"),
		.in_flight = (long long)value_of(text, "broker_statements_in_flight{"),
		.evictions = (long long)value_of(text, "broker_evictions_total"),
		.started = (long long)value_of(text, "broker_statements_started_total{"),
		.ended = (long long)(value_of(text, "broker_statements_finished_total{") +
				     value_of(text, "broker_statements_failed_total{")),
	};

	free(text);
	return s;
}

/* Everything free, as the broker has seen it after `since`: gauges are as old as its last tick. */
static bool all_free(struct run *run, int64_t since_ms)
{
	struct stat s = look(run);

	return s.idle == run->plan->connections && s.leases == 0 && s.in_flight == 0 &&
	       s.started == s.ended && wait_clock_ms() - (int64_t)(s.age * 1000) > since_ms;
}

/* And they can be used, all at once. */
static bool take_all(struct run *run)
{
	struct broker_lease *l[16];
	unsigned n = run->plan->leases, good = 0;

	for (unsigned i = 0; i < n; i++) {
		struct broker_call call = {.timeout_ms = FREE_MS};

		l[i] = NULL;
		if (broker_begin(run->b, &call, &l[i]) == 0) {
			call.lease = l[i];
			good += broker_exec(run->b, "SELECT 1", 0, NULL, &call, NULL) == 0;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		broker_rollback(&l[i]);
	}
	return good == n;
}

/* Rows of a part in the table. */
static int64_t rows_of(struct run *run, int64_t id, enum part part)
{
	struct broker_value v[2] = {broker_int64(id), broker_int64(part)};
	struct broker_call call = {.flags = BROKER_READONLY};
	struct broker_result *r;
	int64_t n = -1;

	if (broker_exec(run->b, "SELECT count(*) FROM crash WHERE id = $1 AND part = $2", 2, v,
		    &call, &r) < 0) {
		diag("  cannot look into the table: %s", broker_error(run->b)->message);
		return -1;
	}
	if (broker_next(r) == 1 && broker_get_int64(r, 0, &n) < 0) {
		n = -1;
	}
	broker_result_free(&r);
	return n;
}

static bool one_of_two(int64_t n, int64_t all, bool complete)
{
	return n == all || (!complete && n == 0);
}

/* complete: the program has run to its end, so that everything must be there. */
static bool rows_are_right(struct run *run, int64_t id, bool complete)
{
	int64_t copied = run->plan->pg != NULL ? COPY_ROWS : 0;
	bool good = rows_of(run, id, PART_UNDONE) == 0;

	good &= rows_of(run, id, PART_TX_1) == rows_of(run, id, PART_TX_2);
	good &= one_of_two(rows_of(run, id, PART_COPY), copied, complete);
	for (int part = PART_TX_1; part <= PART_CHILD; part++) {
		good &= one_of_two(rows_of(run, id, part), 1, complete);
	}
	return good;
}

static int64_t open_transactions(struct run *run)
{
	return run->plan->pg == NULL
		       ? 0
		       : pg_int(run->plan->pg,
				 "SELECT count(*) FROM pg_stat_activity WHERE application_name = "
				 "'shmbroker' AND (xact_start IS NOT NULL OR state <> 'idle')");
}

static void tell_sessions(struct run *run)
{
	char *text = pg_text(run->plan->pg, "SELECT string_agg(format('%%s %%s since %%s: %%s', "
					    "pid, state, now() - query_start, "
					    "left(query, 100)), ';  ') FROM pg_stat_activity "
					    "WHERE application_name = 'shmbroker' AND (xact_start "
					    "IS NOT NULL OR state <> 'idle')");

	diag("  %s", text);
	free(text);
}

/* -- one case ---------------------------------------------------------------------------------- */

/* One thing that must be; what is not is told. */
static bool must(bool cond, const struct crash_case *c, const char *what)
{
	if (!cond) {
		diag("%s: not true: %s", c->name, what);
	}
	return cond;
}

static bool check_rest(struct run *run, const struct crash_case *c, bool complete)
{
	struct shared *s = run->shared;
	int64_t since = wait_clock_ms();
	bool good;

	good = must(bystander_works(run), c, "the bystander goes on");
	atomic_store(&s->rest, true);
	good &= must(wait_until(atomic_load(&s->rests), CASE_MS), c, "the bystander rests");
	good &= must(wait_until(all_free(run, since), FREE_MS), c, "everything is free again");
	if (!must(wait_until(open_transactions(run) == 0, CASE_MS), c,
		    "no transaction is left open on the server")) {
		tell_sessions(run);
		good = false;
	}
	good &= must(take_all(run), c, "all connections can be used");
	good &= must(rows_are_right(run, c->id, complete), c, "transactions are whole or gone");
	atomic_store(&s->rest, false);
	good &= must(atomic_load(&s->errors) == 0, c, s->error);
	good &= must(atomic_load(&s->slowest_ms) < PAUSE_MS, c, "nobody else saw a pause");
	return good;
}

static bool killed_case(struct run *run, const struct crash_case *c, pid_t pid)
{
	bool late;
	int status = spawn_wait(pid, CASE_MS, &late);
	bool reached = !late && ((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
					(status == 0 && atomic_load(&run->shared->child_killed)));

	if (!must(reached, c, "the point is reached and kills")) {
		diag("  status 0x%x%s; %s", (unsigned)status, late ? ", too late" : "",
			run->shared->trouble);
	}
	run->reached += reached;
	return reached;
}

/* The worker or its child stands still. */
static bool stands(struct run *run, pid_t pid)
{
	int in = atomic_load(&run->shared->child);

	return spawn_stopped_threads(pid) > 0 || (in > 0 && spawn_stopped_threads(in) > 0);
}

/* Both go on; the child may stop where its parent has stopped before. */
static bool go_on(struct run *run, pid_t pid)
{
	int in = atomic_load(&run->shared->child);

	if (in > 0) {
		(void)kill(in, SIGCONT);
	}
	(void)kill(pid, SIGCONT);
	return spawn_ended(pid);
}

static bool stopped_case(struct run *run, const struct crash_case *c, pid_t pid)
{
	bool reached =
		wait_until(stands(run, pid) || spawn_ended(pid), CASE_MS) && stands(run, pid);
	bool good = must(reached, c, "the point is reached and stops"), late;
	int status;

	run->reached += reached;
	good &= must(bystander_works(run), c, "the bystander works while the worker stands still");
	(void)wait_until(go_on(run, pid), CASE_MS);
	status = spawn_wait(pid, 0, &late);
	if (!must(status == 0 && !late, c, "the worker finishes its program")) {
		diag("  status 0x%x%s; %s", (unsigned)status, late ? ", too late" : "",
			run->shared->trouble);
	}
	return good && status == 0 && !late;
}

static void run_case(struct run *run, struct crash_case *c)
{
	struct shared *s = run->shared;
	bool good;
	pid_t pid;

	c->id = ++run->next_id;
	atomic_store(&s->child, 0);
	atomic_store(&s->child_killed, false);
	atomic_store(&s->slowest_ms, 0);
	atomic_store(&s->errors, 0);
	/* On SQLite a worker that stands still in a transaction holds the one writer, rightly. */
	atomic_store(&s->reads_only, c->stop && run->plan->pg == NULL);
	s->trouble[0] = s->error[0] = '\0';
	pid = spawn_fork();
	if (pid == 0) {
		work(run, c);
	}
	good = c->stop ? stopped_case(run, c, pid) : killed_case(run, c, pid);
	good &= check_rest(run, c, c->stop);
	if (atomic_load(&s->slowest_ms) > run->slowest_ms) {
		run->slowest_ms = atomic_load(&s->slowest_ms);
	}
	ok(good, "%s", c->name);
}

/* The program without any crash: whatever is opened at first use is open then. */
static void warm_up(struct run *run)
{
	struct crash_case c = {.name = "without a crash", .id = ++run->next_id};
	pid_t pid = spawn_fork();
	int status;

	if (pid == 0) {
		work(run, &c);
	}
	status = spawn_wait(pid, CASE_MS, NULL);
	if (!ok(status == 0 && check_rest(run, &c, true), "the program runs to its end")) {
		diag("status 0x%x; %s", (unsigned)status, run->shared->trouble);
	}
}

/* -- all of them ------------------------------------------------------------------------------- */

static bool needs_copy(unsigned point)
{
	return point >= CRASHPOINT_COPY_STARTED && point <= CRASHPOINT_COPY_ENDED;
}

static void run_all(struct run *run)
{
	static const char *const stages[] = {[STAGE_FIRST] = "at the first pass",
		[STAGE_TX] = "after a transaction began",
		[STAGE_STREAM] = "in a large result"};
	bool quick = getenv("TEST_QUICK") != NULL;
	unsigned n = 0;

	for (unsigned how = 0; how < 6; how++) {
		for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
			char name[96];
			struct crash_case c = {.name = name,
				.point = points[i].number,
				.stop = how % 2 != 0,
				.stage = (enum stage)(how / 2)};

			if ((needs_copy(c.point) && run->plan->pg == NULL) ||
				(n++ % 4 != 0 && quick)) {
				continue;
			}
			snprintf(name, sizeof(name), "%s, %s %s", points[i].name,
				c.stop ? "SIGSTOP" : "kill -9", stages[c.stage]);
			run->cases++;
			run_case(run, &c);
		}
	}
	diag("%u of %u cases (%s)", run->cases, n, quick ? "TEST_QUICK: every fourth" : "all");
}

static void run_sql(struct run *run, const char *sql)
{
	if (broker_exec(run->b, sql, 0, NULL, NULL, NULL) < 0) {
		bail_out("%s: %s", sql, broker_error(run->b)->message);
	}
}

static void set_up(struct run *run)
{
	run->b = attach(run);
	run->big = malloc(BIG_BYTES + 1);
	run->shared = mmap(NULL, sizeof(*run->shared), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (run->b == NULL || run->big == NULL || run->shared == MAP_FAILED) {
		bail_out("cannot set up: %s", broker_error(run->b)->message);
	}
	memset(run->big, 'b', BIG_BYTES);
	run->big[BIG_BYTES] = '\0';
	run_sql(run, "CREATE TABLE crash (id BIGINT, part INTEGER, note TEXT)");
	run_sql(run, "CREATE INDEX crash_id ON crash (id, part)");
	run_sql(run, "CREATE TABLE bystander (n BIGINT)");
	run_sql(run, "INSERT INTO bystander (n) VALUES (0)");
	run->bystander = spawn_fork();
	if (run->bystander == 0) {
		bystand(run);
	}
	if (!bystander_works(run)) {
		bail_out("the bystander does not get to work: %s", run->shared->error);
	}
}

void matrix_run(const struct matrix_plan *plan)
{
	struct run run = {.plan = plan};
	int64_t start = wait_clock_ms();
	struct stat s;
	int fds;

	set_up(&run);
	warm_up(&run);
	fds = broker_fds(plan->broker);
	run_all(&run);
	is_int(run.reached, run.cases, "every point was reached");
	s = look(&run);
	is_int(s.evictions, 0, "nobody was evicted");
	/* A few more, however many the cases: a reader of SQLite opens the log with its first
	 * statement, and the descriptor of one that was opened anew is kept while others have
	 * locks. */
	ok(wait_until(broker_fds(plan->broker) <= fds + KEPT_FDS, CASE_MS),
		"the broker has no more descriptors than before");
	diag("%d descriptors before, %d now", fds, broker_fds(plan->broker));
	diag("slowest call of the bystander %llu ms, of %llu; %lld ms for a case",
		(unsigned long long)run.slowest_ms,
		(unsigned long long)atomic_load(&run.shared->done),
		(long long)(wait_clock_ms() - start) / (run.cases > 0 ? run.cases : 1));
	atomic_store(&run.shared->end, true);
	is_int(spawn_wait(run.bystander, CASE_MS, NULL), 0, "the bystander ends well");
	broker_detach(&run.b);
	free(run.big);
	munmap(run.shared, sizeof(*run.shared));
}
