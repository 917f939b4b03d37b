/* SPDX-License-Identifier: MIT */
/*
 * bench.h - what the parts of brokerbench share: whom to ask, what to ask, what was seen.
 *
 *   brokerbench.c      options, one run after another
 *   bench_run.c        forks the workers, opens and closes the measuring window
 *   bench_workload.c   what a worker does in its closed loop; bench_sql.c: with which statements
 *   bench_broker.c, bench_libpq.c, bench_sqlite.c   the contenders, behind struct bench_driver
 *   bench_proc.c       CPU time, context switches and memory of processes
 *   bench_stats.c      figures from what was counted; bench_report.c: as text and as JSON
 *   bench_init.c       makes the tables
 *
 * The broker is reached through the client library only, as any program would; libpq and sqlite3
 * are linked for the contenders.
 */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_ERROR_MAX 240
#define BENCH_PAGE_MAX 100
#define BENCH_WORKERS_MAX 4096
#define BENCH_BLOB_BYTES 1000000
#define BENCH_BLOBS 8
#define BENCH_ROWS 20000 /* in table bench_row */

enum bench_kind {
	BENCH_BROKER,
	BENCH_LIBPQ, /* a server, PgBouncer, Pgpool-II: whatever speaks PostgreSQL's protocol */
	BENCH_SQLITE,
};

/* How a contender that speaks PostgreSQL's protocol sends statements. */
enum bench_protocol {
	BENCH_PREPARED, /* named statements, prepared once */
	BENCH_EXTENDED, /* unnamed statements with parameters */
	BENCH_SIMPLE, /* values written into the text */
};

/* Whom to ask. */
struct bench_target {
	enum bench_kind kind;
	const char *address; /* broker: socket; libpq: connection string; SQLite: file */
	const char *pool; /* broker: NULL is its first */
	enum bench_protocol protocol;
	bool declare; /* broker: tell it which statements only read */
};

/* What to ask, how often, for how long. */
struct bench_plan {
	struct bench_target target;
	const struct bench_workload *workload;
	unsigned workers;
	double seconds, warmup;
	unsigned page; /* point reads of a page */
	unsigned rows; /* of a result */
	double slow_percent; /* of the statements of workload mix */
	unsigned slow_ms;
	uint64_t seed;
	const char
		*observe; /* connection string of the PostgreSQL server to account for, or NULL */
	/* found out before the start */
	bool sqlite; /* the database behind the target is SQLite */
	unsigned scale; /* pgbench's: 100,000 accounts each */
	int64_t slow_argument; /* what makes SQL_SLOW take slow_ms */
	pid_t peer; /* of the broker or proxy; 0: not known, or there is none */
};

struct bench_driver;
struct bench_conn;

/* A worker: one process, one connection or handle, one statement after another. */
struct bench_worker {
	const struct bench_plan *plan;
	const struct bench_driver *driver;
	struct bench_conn *conn;
	uint64_t random;
	char error[BENCH_ERROR_MAX]; /* of the last operation that failed */
};

enum bench_outcome {
	BENCH_FAILED = -1,
	BENCH_DONE = 0,
	BENCH_DONE_SLOW = 1, /* a statement that is slow on purpose: its time is kept apart */
};

struct bench_workload {
	const char *name;
	const char *help;
	enum bench_outcome (*run)(struct bench_worker *w); /* one operation */
	unsigned (*statements)(const struct bench_plan *p); /* of one operation */
	bool connects; /* makes connections by itself: the worker has none */
};

/* NULL if there is none of that name. */
const struct bench_workload *bench_workload_find(const char *name);
/* The i-th; NULL after the last. */
const struct bench_workload *bench_workload_at(unsigned i);

/* Make the tables and fill them.  0, or -1 with a text in err. */
int bench_init(const struct bench_target *t, unsigned scale, char *err, size_t errlen);

/*
 * Look at the target before the start: fills in what struct bench_plan wants found out.
 * 0, or -1 with a text in err.
 */
int bench_look(struct bench_plan *p, char *err, size_t errlen);

#endif
