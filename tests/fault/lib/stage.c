/* SPDX-License-Identifier: MIT */
/* stage.c - see stage.h. */
#include "stage.h"

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
#include <sys/wait.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* The slowest call of the witness, on a machine where everything shares two processors. */
#define SLOWEST_MS 10000
#define SETTINGS_MAX 20
/* Until what has to come has come. */
#define SOON_MS 60000
/* What a pool opens by itself, unless its database is SQLite: max_size of config.def. */
#define CONNECTIONS 10
/* What the broker may keep for its own use after it was attacked. */
#define RSS_GROWTH (24 << 20)

/* Shared by the test and the witness. */
struct notes {
	_Atomic uint64_t calls, writes, wrong, errors;
	_Atomic uint64_t slowest_ms;
	_Atomic int wanted; /* enum wanted */
	_Atomic int resting;
	char first[256];
};

enum wanted {
	WORK,
	REST,
	END,
};

struct stage {
	enum stage_database db;
	struct pg_cluster *pg;
	struct broker_proc *broker;
	struct notes *notes;
	pid_t broker_pid, witness;
	int fds;
	int64_t rss;
};

static const char *const names[] = {"SQLite", "the fake database", "PostgreSQL"};

bool stage_quick(void)
{
	return getenv("TEST_QUICK") != NULL;
}

unsigned stage_slowness(void)
{
	return SANITIZED ? 5 : 1;
}

bool stage_available(enum stage_database db)
{
	return db != STAGE_PG || pg_available();
}

const char *stage_name(const struct stage *s)
{
	return names[s->db];
}

enum stage_database stage_db(const struct stage *s)
{
	return s->db;
}

struct broker_proc *stage_broker(const struct stage *s)
{
	return s->broker;
}

const char *stage_path(const struct stage *s)
{
	return broker_socket(s->broker);
}

/* -- statements -------------------------------------------------------------------------------- */

const char *stage_sql(const struct stage *s)
{
	return s->db == STAGE_FAKE ? "rows 1" : "SELECT 7";
}

const char *stage_rows_sql(const struct stage *s, unsigned n, char *buf, unsigned size)
{
	if (s->db == STAGE_FAKE) {
		snprintf(buf, size, "rows %u 1000", n);
	} else if (s->db == STAGE_PG) {
		snprintf(buf, size, "SELECT i, repeat('x', 1000) FROM generate_series(1, %u) i", n);
	} else {
		snprintf(buf, size,
			"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < "
			"%u) "
			"SELECT n, printf('%%1000d', n) FROM c",
			n);
	}
	return buf;
}

const char *stage_long_sql(const struct stage *s)
{
	if (s->db == STAGE_FAKE) {
		return "sleep 1000000";
	}
	if (s->db == STAGE_PG) {
		return "SELECT pg_sleep(1000)";
	}
	return "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
	       "SELECT count(*) FROM c";
}

/* -- the witness ------------------------------------------------------------------------------- */

static void note(struct notes *n, const char *what, const struct broker_error *e)
{
	if (atomic_fetch_add(&n->errors, 1) == 0) {
		snprintf(n->first, sizeof(n->first), "%s: %s (%d %s)", what, e->message, e->code,
			e->sqlstate);
	}
}

static void check_read(struct stage *s, struct broker *b, int64_t i)
{
	bool fake = s->db == STAGE_FAKE;
	struct broker_value v = broker_int64(i);
	struct broker_result *r = NULL;
	int64_t got = -1;

	if (broker_exec(b, fake ? "echo" : "SELECT CAST($1 AS BIGINT) + 1", 1, &v, NULL, &r) < 0) {
		note(s->notes, "read", broker_error(b));
		return;
	}
	if (broker_next(r) != 1 || broker_get_int64(r, 0, &got) < 0 || got != (fake ? i : i + 1) ||
		broker_next(r) != 0) {
		atomic_fetch_add(&s->notes->wrong, 1);
	}
	broker_result_free(&r);
}

static void check_write(struct stage *s, struct broker *b, int64_t i)
{
	struct broker_value v = broker_int64(i);
	const char *sql = s->db == STAGE_FAKE ? "affect 1" : "INSERT INTO witness VALUES ($1)";

	if (broker_exec(b, sql, s->db == STAGE_FAKE ? 0 : 1, &v, NULL, NULL) < 0) {
		note(s->notes, "write", broker_error(b));
		return;
	}
	atomic_fetch_add(&s->notes->writes, 1);
}

/* Rows that cross chunks of the result arena. */
static void check_rows(struct stage *s, struct broker *b)
{
	struct broker_result *r = NULL;
	char sql[200];
	int n = 0, rc;

	if (broker_exec(b, stage_rows_sql(s, 40, sql, sizeof(sql)), 0, NULL, NULL, &r) < 0) {
		note(s->notes, "rows", broker_error(b));
		return;
	}
	while ((rc = broker_next(r)) == 1) {
		const char *text;
		size_t len;

		if (broker_get_text(r, 1, &text, &len) < 0 || len != 1000) {
			atomic_fetch_add(&s->notes->wrong, 1);
		}
		n++;
	}
	if (rc < 0) {
		note(s->notes, "rows", broker_error(b));
	} else if (n != 40) {
		atomic_fetch_add(&s->notes->wrong, 1);
	}
	broker_result_free(&r);
}

static struct broker *witness_attach(struct stage *s)
{
	struct broker_options o = {.path = stage_path(s), .name = "witness", .timeout_ms = 60000};
	struct broker *b;

	if (broker_attach(&o, &b) < 0) {
		note(s->notes, "attach", broker_error(NULL));
		return NULL;
	}
	return b;
}

static void one_call(struct stage *s, struct broker *b, int64_t i)
{
	int64_t start = wait_clock_ms();
	uint64_t ms;

	if (i % 16 == 0) {
		check_write(s, b, i);
	} else if (i % 16 == 8) {
		check_rows(s, b);
	} else {
		check_read(s, b, i);
	}
	ms = (uint64_t)(wait_clock_ms() - start);
	if (ms > atomic_load(&s->notes->slowest_ms)) {
		atomic_store(&s->notes->slowest_ms, ms);
	}
	atomic_fetch_add(&s->notes->calls, 1);
}

static _Noreturn void witness(struct stage *s)
{
	struct broker *b = witness_attach(s);
	int wanted;

	for (int64_t i = 1; b != NULL && (wanted = atomic_load(&s->notes->wanted)) != END; i++) {
		if (wanted == REST) {
			atomic_store(&s->notes->resting, 1);
			wait_pause();
			continue;
		}
		atomic_store(&s->notes->resting, 0);
		one_call(s, b, i);
	}
	broker_detach(&b);
	_exit(0);
}

uint64_t stage_progress(const struct stage *s)
{
	return atomic_load(&s->notes->calls);
}

bool stage_moves(const struct stage *s, int64_t ms)
{
	uint64_t seen = stage_progress(s);

	return wait_until(stage_progress(s) >= seen + 3, ms * stage_slowness());
}

void stage_pause(struct stage *s)
{
	atomic_store(&s->notes->wanted, REST);
	(void)wait_until(atomic_load(&s->notes->resting) == 1, SOON_MS);
}

void stage_resume(struct stage *s)
{
	atomic_store(&s->notes->resting, 0);
	atomic_store(&s->notes->wanted, WORK);
}

/* -- metrics ----------------------------------------------------------------------------------- */

int64_t broker_metric(const struct broker_proc *b, const char *name)
{
	const char *argv[] = {getenv("BROKERSTAT_BIN"), "-1", "-n", broker_socket(b), NULL};
	char *text = spawn_output(argv, NULL, NULL);
	size_t len = strlen(name);
	int64_t sum = 0;

	for (char *p = text; p != NULL && *p != '\0'; p = strchr(p, '\n'), p = p ? p + 1 : NULL) {
		if (strncmp(p, name, len) == 0 && (p[len] == ' ' || p[len] == '{')) {
			const char *v = strchr(p, ' ');

			sum += v != NULL ? atoll(v) : 0;
		}
	}
	free(text);
	return sum;
}

int64_t stage_metric(const struct stage *s, const char *name)
{
	return broker_metric(s->broker, name);
}

/* -- open and close ---------------------------------------------------------------------------- */

/*
 * Every connection has had something to do: what it opens on first use is open.  SQLite's readers
 * only get something each if it lasts, and only statements that are known to read.
 */
static void warm_up(struct stage *s, struct broker *b)
{
	static const char *const sql[] = {
		[STAGE_SQLITE] = ("WITH RECURSIVE c(n) AS (SELECT count(*) FROM witness UNION ALL "
				  "SELECT n + 1 FROM c WHERE n < 20000) SELECT count(*) FROM c"),
		[STAGE_FAKE] = "rows 1",
		[STAGE_PG] = "SELECT count(*) FROM witness",
	};
	struct broker_call call = {.flags = BROKER_READONLY};

	for (unsigned round = 0; round < 4; round++) {
		uint64_t ticket[40];

		for (unsigned i = 0; i < 40; i++) {
			if (broker_submit(b, sql[s->db], 0, NULL, &call, &ticket[i]) < 0) {
				bail_out("the stage cannot be warmed up: %s",
					broker_error(b)->message);
			}
		}
		for (unsigned i = 0; i < 40; i++) {
			if (broker_collect(b, ticket[i], -1, NULL, NULL) < 0) {
				bail_out("the stage cannot be warmed up: %s",
					broker_error(b)->message);
			}
		}
	}
}

static void set_up(struct stage *s)
{
	struct broker *b = witness_attach(s);

	if (b == NULL ||
		broker_exec(b, "CREATE TABLE witness (n BIGINT)", 0, NULL, NULL, NULL) < 0) {
		bail_out("the stage cannot be set up: %s", broker_error(b)->message);
	}
	warm_up(s, b);
	broker_detach(&b);
	if (s->db != STAGE_SQLITE &&
		!wait_until(stage_metric(s, "broker_connections_created_total") >= CONNECTIONS,
			SOON_MS)) {
		bail_out("the pool does not open its connections");
	}
}

/* With more patience than usual, unless the settings say otherwise: on a busy machine the witness
 * waits. */
static struct broker_proc *start_broker(const char *url, const char *const *settings)
{
	const char *all[SETTINGS_MAX + 2] = {NULL};
	unsigned n = 0;
	bool said = false;

	for (; settings != NULL && *settings != NULL && n < SETTINGS_MAX; settings++) {
		said |= strstr(*settings, "acquire_timeout") != NULL;
		all[n++] = *settings;
	}
	if (!said) {
		all[n] = "pool main.acquire_timeout=30s";
	}
	return broker_start(url, all);
}

struct stage *stage_open(enum stage_database db, const char *const *settings)
{
	struct stage *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		bail_out("out of memory");
	}
	/* So that /proc shows the broker's descriptors, and sanitizers can look at it. */
	setenv("BROKER_DUMPABLE", "1", 1);
	s->db = db;
	s->pg = db == STAGE_PG ? pg_start(NULL) : NULL;
	s->broker = start_broker(
		db == STAGE_FAKE ? "fake:" : s->pg != NULL ? pg_url(s->pg) : NULL, settings);
	s->broker_pid = broker_pid(s->broker);
	s->notes = mmap(NULL, sizeof(*s->notes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		-1, 0);
	if (s->notes == MAP_FAILED) {
		bail_out("mmap: %s", strerror(errno));
	}
	set_up(s);
	s->witness = spawn_fork();
	if (s->witness == 0) {
		witness(s);
	}
	if (!wait_until(stage_progress(s) >= 100, SOON_MS)) {
		bail_out("the witness does not get on: %s", s->notes->first);
	}
	s->fds = broker_fds(s->broker);
	s->rss = broker_rss(s->broker);
	return s;
}

static bool balanced(const struct stage *s)
{
	return stage_metric(s, "broker_statements_in_flight") == 0 &&
	       stage_metric(s, "broker_statements_started_total") ==
		       stage_metric(s, "broker_statements_finished_total") +
			       stage_metric(s, "broker_statements_failed_total");
}

static void check_witness(struct stage *s)
{
	int status;

	stage_resume(s);
	ok(stage_moves(s, SOON_MS), "the witness still gets answers");
	atomic_store(&s->notes->wanted, END);
	status = spawn_wait(s->witness, SOON_MS, NULL);
	is_int(status, 0, "the witness ends well");
	is_int((int64_t)atomic_load(&s->notes->wrong), 0, "every answer it got was right");
	if (!is_int((int64_t)atomic_load(&s->notes->errors), 0, "it saw no error")) {
		diag("first error: %s", s->notes->first);
	}
	ok(atomic_load(&s->notes->slowest_ms) < SLOWEST_MS * stage_slowness(),
		"its slowest call took less than %u ms", SLOWEST_MS * stage_slowness());
	diag("%llu calls of the witness, the slowest took %llu ms",
		(unsigned long long)atomic_load(&s->notes->calls),
		(unsigned long long)atomic_load(&s->notes->slowest_ms));
}

/* What was acknowledged is there, once. */
static void check_writes(struct stage *s)
{
	struct broker *b = witness_attach(s);
	struct broker_result *r = NULL;
	int64_t n = -1;

	if (b == NULL || broker_exec(b, "SELECT count(*) FROM witness", 0, NULL, NULL, &r) < 0 ||
		broker_next(r) != 1 || broker_get_int64(r, 0, &n) < 0) {
		n = -1;
	}
	broker_result_free(&r);
	broker_detach(&b);
	is_int(n, (int64_t)atomic_load(&s->notes->writes), "all its rows are there");
}

static void check_broker(struct stage *s)
{
	int fds = s->fds - 3; /* without the witness: its socket, bell and pidfd */
	int64_t grown;

	is_int(broker_pid(s->broker), s->broker_pid, "the broker is the process it was");
	ok(!spawn_ended(s->broker_pid), "and alive");
	if (!ok(wait_until(broker_fds(s->broker) <= fds, SOON_MS),
		    "it has the descriptors it had (%d, now %d)", fds, broker_fds(s->broker))) {
		broker_show_fds(s->broker);
	}
	grown = broker_rss(s->broker) - s->rss;
	if (SANITIZED) {
		skip("a sanitizer's memory says nothing");
	} else {
		ok(grown < RSS_GROWTH, "its memory has grown by less than %d MiB",
			RSS_GROWTH >> 20);
		diag("grown by %lld KiB", (long long)grown / 1024);
	}
	ok(wait_until(balanced(s), SOON_MS), "started = finished + failed, nothing in flight");
	ok(wait_until(stage_metric(s, "broker_leases_active") == 0, SOON_MS), "no lease is held");
	is_int(stage_metric(s, "broker_leases_granted_total"),
		stage_metric(s, "broker_leases_released_total"), "leases granted = released");
	ok(wait_until(stage_metric(s, "broker_attaches_total") ==
			      stage_metric(s, "broker_detaches_total") +
				      stage_metric(s, "broker_worker_deaths_total") +
				      stage_metric(s, "broker_workers"),
		   SOON_MS),
		"attaches = detaches + deaths + attached");
	ok(wait_until(stage_metric(s, "broker_request_memory_bytes") == 0, SOON_MS),
		"no memory is held for requests");
}

void stage_close(struct stage **sp)
{
	struct stage *s = *sp;

	check_witness(s);
	if (s->db != STAGE_FAKE) {
		check_writes(s);
	}
	check_broker(s);
	is_int(broker_free(&s->broker), 0, "the broker ends well");
	pg_remove(&s->pg);
	munmap(s->notes, sizeof(*s->notes));
	free(s);
	*sp = NULL;
}
