/* SPDX-License-Identifier: MIT */
/* chaos.c - see chaos.h. */
#include "chaos.h"

#include "brokerproc.h"
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_OPS 600000u
#define MAX_WORKERS 128u
#define SOON_MS 30000
/* Runs for about a second on either database; there to be cancelled. */
#define LONG_SQL                                                                                   \
	"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000000) "       \
	"SELECT count(*) FROM c"

enum note {
	NOTE_NONE,
	NOTE_SENT, /* whoever did it was killed before it learned the outcome */
	NOTE_ACKED,
	NOTE_FAILED,
	NOTE_UNKNOWN,
};

struct op {
	_Atomic uint8_t note;
	uint8_t rows; /* it writes */
};

/* Shared by the test and its workers; each op is written by one worker. */
struct books {
	_Atomic uint32_t next_op;
	_Atomic uint32_t statements;
	_Atomic uint32_t surprises;
	_Atomic uint32_t reads, committed, rolled_back, errors, aborted, cancels, cancelled;
	_Atomic int stop;
	_Atomic uint64_t slowest_ms;
	char surprise[512]; /* the first */
	struct op op[MAX_OPS];
};

struct worker {
	struct books *books;
	struct broker *b;
	unsigned seed;
	int64_t last_acked; /* op of ours that is in the table, or -1 */
};

static void surprise(struct worker *w, const char *where, int code)
{
	if (atomic_fetch_add(&w->books->surprises, 1) == 0) {
		const struct broker_error *e = broker_error(w->b);

		snprintf(w->books->surprise, sizeof(w->books->surprise), "%s: %d %s %s (%s)", where,
			code, e->sqlstate, e->message, broker_strerror(code));
	}
}

static uint32_t begin_op(struct worker *w, unsigned rows)
{
	uint32_t i = atomic_fetch_add(&w->books->next_op, 1);

	if (i >= MAX_OPS) {
		_exit(3);
	}
	w->books->op[i].rows = (uint8_t)rows;
	atomic_store(&w->books->op[i].note, NOTE_SENT);
	return i;
}

static void end_op(struct worker *w, uint32_t i, int rc)
{
	enum note n = rc == 0 ? NOTE_ACKED
		      : broker_error(w->b)->outcome == BROKER_UNKNOWN ? NOTE_UNKNOWN
								      : NOTE_FAILED;

	atomic_store(&w->books->op[i].note, (uint8_t)n);
	if (rc == 0) {
		w->last_acked = i;
	}
}

static int exec(struct worker *w, struct broker_lease *l, const char *sql, int n,
	const struct broker_value *v)
{
	struct broker_call call = {.lease = l, .tag = "/chaos"};

	atomic_fetch_add(&w->books->statements, 1);
	return broker_exec(w->b, sql, n, v, &call, NULL);
}

static int insert(struct worker *w, struct broker_lease *l, uint32_t op, int part)
{
	struct broker_value v[3] = {broker_int64(op), broker_int64(part), broker_text("some text")};

	return exec(w, l, "INSERT INTO chaos (op, part, note) VALUES ($1, $2, $3)", 3, v);
}

/* -- what workers do --------------------------------------------------------------------------- */

static void do_write(struct worker *w)
{
	uint32_t op = begin_op(w, 1);
	int rc = insert(w, NULL, op, 1);

	if (rc < 0) {
		surprise(w, "write", rc);
	}
	end_op(w, op, rc);
}

static void do_read(struct worker *w)
{
	struct broker_call call = {.flags = rand_r(&w->seed) % 2 ? BROKER_READONLY : 0};
	struct broker_value v = broker_int64(w->last_acked);
	struct broker_result *r;
	int64_t n = -1;
	int rc;

	if (w->last_acked < 0) {
		return;
	}
	atomic_fetch_add(&w->books->statements, 1);
	rc = broker_exec(w->b, "SELECT count(*) FROM chaos WHERE op = $1", 1, &v, &call, &r);
	if (rc < 0 || broker_next(r) != 1 || broker_get_int64(r, 0, &n) < 0) {
		surprise(w, "read", rc);
	} else if (n != w->books->op[w->last_acked].rows) {
		surprise(w, "a read did not see an acknowledged write", (int)n);
	} else {
		atomic_fetch_add(&w->books->reads, 1);
	}
	if (rc == 0) {
		broker_result_free(&r);
	}
}

static void do_transaction(struct worker *w)
{
	bool keep = rand_r(&w->seed) % 4 != 0;
	uint32_t op = begin_op(w, 2);
	struct broker_lease *tx;
	int rc = broker_begin(w->b, NULL, &tx);

	if (rc == 0) {
		rc = insert(w, tx, op, 1);
		if (rc == 0) {
			rc = insert(w, tx, op, 2);
		}
		if (rc == 0 && keep) {
			rc = broker_commit(&tx, 0);
			end_op(w, op, rc);
			atomic_fetch_add(&w->books->committed, rc == 0);
		} else {
			broker_rollback(&tx);
			atomic_store(&w->books->op[op].note, NOTE_FAILED);
			atomic_fetch_add(&w->books->rolled_back, rc == 0);
		}
	}
	if (rc < 0) {
		surprise(w, "transaction", rc);
		end_op(w, op, rc);
	}
}

/* An inner level is undone, the outer one kept. */
static void do_savepoint(struct worker *w)
{
	uint32_t op = begin_op(w, 1);
	uint32_t undone = begin_op(w, 1);
	struct broker_lease *tx;
	int rc = broker_begin(w->b, NULL, &tx);

	rc = rc == 0 ? insert(w, tx, op, 1) : rc;
	rc = rc == 0 ? broker_savepoint(tx) : rc;
	rc = rc == 0 ? insert(w, tx, undone, 1) : rc;
	rc = rc == 0 ? broker_savepoint_rollback(tx) : rc;
	if (rc == 0) {
		rc = broker_commit(&tx, 0);
	}
	if (rc < 0) {
		surprise(w, "savepoint", rc);
	}
	end_op(w, op, rc);
	atomic_store(&w->books->op[undone].note, NOTE_FAILED);
	broker_rollback(&tx);
}

static void do_error(struct worker *w)
{
	int rc = exec(w, NULL, "SELECT no_such_column FROM chaos", 0, NULL);

	if (rc != BROKER_E_DATABASE || strcmp(broker_error(w->b)->sqlstate, "42703") != 0) {
		surprise(w, "an error is reported as such", rc);
	} else {
		atomic_fetch_add(&w->books->errors, 1);
	}
}

/* An error inside a transaction takes the whole of it. */
static void do_failing_transaction(struct worker *w)
{
	uint32_t op = begin_op(w, 1);
	struct broker_lease *tx;
	int rc = broker_begin(w->b, NULL, &tx);

	rc = rc == 0 ? insert(w, tx, op, 1) : rc;
	if (rc < 0) {
		surprise(w, "failing transaction", rc);
	}
	if (exec(w, tx, "SELECT no_such_column FROM chaos", 0, NULL) != BROKER_E_DATABASE) {
		surprise(w, "error in a transaction", 0);
	}
	rc = broker_commit(&tx, 0);
	if (rc != BROKER_E_TX_ABORTED) {
		surprise(w, "commit of a failed transaction", rc);
	} else {
		atomic_fetch_add(&w->books->aborted, 1);
	}
	atomic_store(&w->books->op[op].note, NOTE_FAILED);
}

static void do_batch(struct worker *w)
{
	enum { N = 5 };
	uint64_t ticket[N];
	uint32_t op[N];

	for (int i = 0; i < N; i++) {
		struct broker_value v[3] = {broker_int64(0), broker_int64(1), broker_null()};
		int rc;

		op[i] = begin_op(w, 1);
		v[0] = broker_int64(op[i]);
		atomic_fetch_add(&w->books->statements, 1);
		rc = broker_submit(w->b, "INSERT INTO chaos (op, part, note) VALUES ($1, $2, $3)",
			3, v, NULL, &ticket[i]);
		if (rc < 0) {
			surprise(w, "submit", rc);
			_exit(4);
		}
	}
	for (int i = N - 1; i >= 0; i--) {
		int rc = broker_collect(w->b, ticket[i], -1, NULL, NULL);

		if (rc < 0) {
			surprise(w, "collect", rc);
		}
		end_op(w, op[i], rc);
	}
}

static void do_cancel(struct worker *w)
{
	struct broker_call call = {.flags = BROKER_READONLY};
	uint64_t ticket;
	int rc;

	atomic_fetch_add(&w->books->statements, 1);
	atomic_fetch_add(&w->books->cancels, 1);
	rc = broker_submit(w->b, LONG_SQL, 0, NULL, &call, &ticket);
	rc = rc == 0 ? broker_cancel(w->b, ticket) : rc;
	rc = rc == 0 ? broker_collect(w->b, ticket, -1, NULL, NULL) : rc;
	if (rc == BROKER_E_CANCELLED) {
		atomic_fetch_add(&w->books->cancelled, 1);
	} else if (rc != 0) {
		surprise(w, "cancel", rc);
	}
}

static void do_cancelled_write(struct worker *w)
{
	uint32_t op = begin_op(w, 1);
	struct broker_value v[3] = {broker_int64(op), broker_int64(1), broker_null()};
	uint64_t ticket;
	int rc;

	atomic_fetch_add(&w->books->statements, 1);
	atomic_fetch_add(&w->books->cancels, 1);
	rc = broker_submit(w->b, "INSERT INTO chaos (op, part, note) VALUES ($1, $2, $3)", 3, v,
		NULL, &ticket);
	rc = rc == 0 ? broker_cancel(w->b, ticket) : rc;
	rc = rc == 0 ? broker_collect(w->b, ticket, -1, NULL, NULL) : rc;
	if (rc == BROKER_E_CANCELLED) {
		atomic_fetch_add(&w->books->cancelled, 1);
	} else if (rc < 0) {
		surprise(w, "cancelled write", rc);
	}
	end_op(w, op, rc);
}

static void do_something(struct worker *w)
{
	unsigned dice = (unsigned)rand_r(&w->seed) % 1000;

	if (dice < 400) {
		do_read(w);
	} else if (dice < 700) {
		do_write(w);
	} else if (dice < 800) {
		do_transaction(w);
	} else if (dice < 850) {
		do_savepoint(w);
	} else if (dice < 900) {
		do_error(w);
	} else if (dice < 950) {
		do_failing_transaction(w);
	} else if (dice < 985) {
		do_batch(w);
	} else if (dice < 994) {
		do_cancelled_write(w);
	} else {
		do_cancel(w);
	}
}

static _Noreturn void be_worker(struct books *books, const char *path, unsigned seed)
{
	struct broker_options opt = {.path = path, .name = "chaos"};
	struct worker w = {.books = books, .seed = seed, .last_acked = -1};
	int rc = broker_attach(&opt, &w.b);

	if (rc < 0) {
		surprise(&w, "attach", rc);
		_exit(2);
	}
	while (!atomic_load(&books->stop)) {
		int64_t start = wait_clock_ms();
		uint64_t ms;

		do_something(&w);
		ms = (uint64_t)(wait_clock_ms() - start);
		if (ms > atomic_load(&books->slowest_ms)) {
			atomic_store(&books->slowest_ms, ms);
		}
	}
	broker_detach(&w.b);
	_exit(0);
}

/* -- the test ---------------------------------------------------------------------------------- */

struct run {
	struct books *books;
	const struct chaos_plan *plan;
	const char *path;
	pid_t pid[MAX_WORKERS];
	unsigned seed, kills, odd_ends;
};

static void start_worker(struct run *run, unsigned i)
{
	unsigned seed = (unsigned)rand_r(&run->seed);

	run->pid[i] = spawn_fork();
	if (run->pid[i] == 0) {
		be_worker(run->books, run->path, seed);
	}
}

static void kill_one(struct run *run)
{
	unsigned i = (unsigned)rand_r(&run->seed) % run->plan->workers;
	int status = 0;

	kill(run->pid[i], SIGKILL);
	waitpid(run->pid[i], &status, 0);
	if (!WIFSIGNALED(status)) {
		run->odd_ends++;
		diag("a worker ended by itself, status %d", status);
	}
	run->kills++;
	start_worker(run, i);
}

static void let_them_run(struct run *run)
{
	int64_t next_kill = wait_clock_ms();
	int64_t end = next_kill + 240000;

	for (unsigned i = 0; i < run->plan->workers; i++) {
		start_worker(run, i);
	}
	while (atomic_load(&run->books->statements) < run->plan->statements &&
		wait_clock_ms() < end && atomic_load(&run->books->next_op) < MAX_OPS - 10000) {
		if (wait_clock_ms() >= next_kill) {
			kill_one(run);
			next_kill += run->plan->kill_every_ms;
		}
		wait_pause();
	}
	atomic_store(&run->books->stop, 1);
	for (unsigned i = 0; i < run->plan->workers; i++) {
		bool late = false;
		int status = spawn_wait(run->pid[i], 40000, &late);

		if (late || status != 0) {
			run->odd_ends++;
			diag("worker %u: status %d%s", i, status, late ? ", had to be killed" : "");
		}
	}
}

static struct broker *attach_or_bail(const char *path)
{
	struct broker_options opt = {.path = path, .name = "chaos-check"};
	struct broker *b = NULL;

	if (broker_attach(&opt, &b) < 0) {
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

/* Compare the table with the notes. */
static void check_books(struct run *run, struct broker *b)
{
	struct broker_call call = {.flags = BROKER_READONLY | BROKER_STREAM, .timeout_ms = 60000};
	uint32_t n = atomic_load(&run->books->next_op);
	uint8_t *seen = calloc(n, 1);
	uint32_t acked = 0, missing = 0, ghost = 0, torn = 0, twice = 0, open = 0, stranger = 0;
	struct broker_result *r;
	int rc = broker_exec(b, "SELECT op, part FROM chaos", 0, NULL, &call, &r);

	if (rc < 0) {
		bail_out("reading the table: %s", broker_error(b)->message);
	}
	while ((rc = broker_next(r)) == 1) {
		int64_t op = -1;

		if (broker_get_int64(r, 0, &op) < 0 || op < 0 || op >= n) {
			stranger++;
		} else {
			seen[op]++;
		}
	}
	is_int(rc, 0, "the table was read to its end");
	broker_result_free(&r);
	for (uint32_t i = 0; i < n; i++) {
		const struct op *op = &run->books->op[i];
		unsigned note = atomic_load(&op->note);

		twice += seen[i] > op->rows;
		torn += seen[i] != 0 && seen[i] < op->rows;
		acked += note == NOTE_ACKED;
		missing += note == NOTE_ACKED && seen[i] != op->rows;
		ghost += note == NOTE_FAILED && seen[i] != 0;
		open += note == NOTE_SENT || note == NOTE_UNKNOWN;
	}
	free(seen);
	diag("%u operations, %u acknowledged, %u with unknown outcome (their worker was killed)", n,
		acked, open);
	ok(acked > n / 4, "many writes were acknowledged");
	is_int(missing, 0, "every acknowledged write is there");
	is_int(ghost, 0, "nothing is there that was reported as failed");
	is_int(twice, 0, "nothing is there twice");
	is_int(torn, 0, "no transaction is there in part");
	is_int(stranger, 0, "nothing is there that nobody wrote");
}

/* Everything that was to happen did. */
static void check_mixture(const struct run *run)
{
	const struct books *b = run->books;

	ok(atomic_load(&b->reads) > 0, "%u reads saw what was acknowledged",
		atomic_load(&b->reads));
	ok(atomic_load(&b->committed) > 0, "%u transactions were committed",
		atomic_load(&b->committed));
	ok(atomic_load(&b->rolled_back) > 0, "%u were rolled back", atomic_load(&b->rolled_back));
	ok(atomic_load(&b->aborted) > 0, "%u were undone by an error", atomic_load(&b->aborted));
	ok(atomic_load(&b->errors) > 0, "%u statements failed as they should",
		atomic_load(&b->errors));
	ok(atomic_load(&b->cancelled) > 0, "%u of %u cancelled statements ended so",
		atomic_load(&b->cancelled), atomic_load(&b->cancels));
}

/* Value of a metric as `brokerstat -1` prints it; the sum if it is there several times. */
static int64_t metric(struct run *run, const char *name)
{
	const char *argv[] = {getenv("BROKERSTAT_BIN"), "-1", "-n", run->path, NULL};
	char *text = spawn_output(argv, NULL, NULL);
	size_t len = strlen(name);
	int64_t sum = 0;

	for (char *p = text; p != NULL && *p != '\0'; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
		if (strncmp(p, name, len) == 0 &&
			(p[len] == ' ' || p[len] == '{' || p[len] == '.')) {
			const char *v = strchr(p, ' ');

			sum += v != NULL ? atoll(v) : 0;
		}
	}
	free(text);
	return sum;
}

static bool balanced(struct run *run)
{
	return metric(run, "broker_statements_in_flight") == 0 &&
	       metric(run, "broker_statements_started_total") ==
		       metric(run, "broker_statements_finished_total") +
			       metric(run, "broker_statements_failed_total");
}

static void check_broker(struct run *run)
{
	ok(wait_until(balanced(run), SOON_MS), "started = finished + failed, nothing in flight");
	diag("started %lld finished %lld failed %lld, killed workers %lld",
		(long long)metric(run, "broker_statements_started_total"),
		(long long)metric(run, "broker_statements_finished_total"),
		(long long)metric(run, "broker_statements_failed_total"),
		(long long)metric(run, "broker_worker_deaths_total"));
	ok(wait_until(metric(run, "broker_leases_active") == 0, SOON_MS), "no lease is held");
	ok(wait_until(metric(run, "broker_leases_granted_total") ==
			      metric(run, "broker_leases_released_total"),
		   SOON_MS),
		"every lease that was granted was given back");
	ok(wait_until(metric(run, "broker_pool_connections{state=\"idle\",pool=\"main\"}") ==
			      run->plan->connections,
		   SOON_MS),
		"the pool is full again");
	ok(wait_until(metric(run, "broker_workers") == 0, SOON_MS), "nobody is attached any more");
	ok(wait_until(metric(run, "broker_detaches_total") +
				      metric(run, "broker_worker_deaths_total") ==
			      metric(run, "broker_attaches_total"),
		   SOON_MS),
		"whoever attached has detached or is known to be dead");
	is_int(metric(run, "broker_evictions_total"), 0, "nobody was evicted");
	ok(wait_until(metric(run, "broker_request_memory_bytes") == 0, SOON_MS),
		"no memory is held for requests");
}

void chaos_run(struct broker_proc *broker, const struct chaos_plan *plan)
{
	const char *seed = getenv("CHAOS_SEED");
	struct run run = {.plan = plan, .path = broker_socket(broker)};
	struct broker *b = attach_or_bail(run.path);

	run.seed = seed != NULL ? (unsigned)strtoul(seed, NULL, 10) : (unsigned)time(NULL);
	diag("seed %u (repeat with CHAOS_SEED=%u)", run.seed, run.seed);
	run.books = mmap(NULL, sizeof(*run.books), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (run.books == MAP_FAILED) {
		bail_out("mmap: %s", strerror(errno));
	}
	must(b, "CREATE TABLE chaos (op BIGINT, part INTEGER, note TEXT)");
	must(b, "CREATE INDEX chaos_op ON chaos (op)");
	let_them_run(&run);
	diag("%u statements, %u workers killed, slowest operation %llu ms",
		atomic_load(&run.books->statements), run.kills,
		(unsigned long long)atomic_load(&run.books->slowest_ms));
	ok(atomic_load(&run.books->statements) >= plan->statements, "%u statements were run",
		plan->statements);
	ok(run.kills > 0, "workers were killed on the way");
	check_mixture(&run);
	if (!is_int(atomic_load(&run.books->surprises), 0, "nobody saw anything unexpected")) {
		diag("first surprise: %s", run.books->surprise);
	}
	is_int(run.odd_ends, 0, "workers end as they should");
	check_books(&run, b);
	broker_detach(&b);
	check_broker(&run);
	munmap(run.books, sizeof(*run.books));
}
