/* SPDX-License-Identifier: MIT */
/*
 * bench_driver.h - what a contender does: a connection, statements, transactions.
 *
 * A connection belongs to one worker process.  Functions that can fail return -1 and leave a text
 * for error(); the connection can then be used for the next operation, or is opened anew by it.
 */
#ifndef TOOLS_BENCH_DRIVER_H
#define TOOLS_BENCH_DRIVER_H

#include "bench.h"
#include "bench_sql.h"

struct bench_driver {
	/* *out is the caller's also on failure, so that error() can say why; NULL without memory.
	 */
	int (*open)(const struct bench_plan *p, struct bench_conn **out);
	void (*close)(struct bench_conn **c);
	/* Run and read all values.  Rows read or changed. */
	int64_t (*run)(struct bench_conn *c, const struct bench_stmt *s, const int64_t *args);
	/* n times the same with other arguments (nparams each), all in flight together if the
	 * contender can do that.  Rows read or changed. */
	int64_t (*many)(
		struct bench_conn *c, const struct bench_stmt *s, const int64_t *args, unsigned n);
	/* SQL_PUT. */
	int (*put)(struct bench_conn *c, const struct bench_stmt *s, const void *data, size_t len,
		int64_t id);
	int (*begin)(struct bench_conn *c);
	/* On failure the transaction is over. */
	int (*commit)(struct bench_conn *c);
	void (*rollback)(struct bench_conn *c);
	/* Take a connection of the pool and give it back unused; NULL: has no pool. */
	int (*lease)(struct bench_conn *c);
	const char *(*error)(struct bench_conn *c);
	/* Process at the other end of the connection's Unix socket; 0: not known. */
	pid_t (*peer)(struct bench_conn *c);
};

extern const struct bench_driver bench_driver_broker;
extern const struct bench_driver bench_driver_libpq;
extern const struct bench_driver bench_driver_sqlite;

static inline const struct bench_driver *bench_driver(enum bench_kind kind)
{
	return kind == BENCH_BROKER  ? &bench_driver_broker
	       : kind == BENCH_LIBPQ ? &bench_driver_libpq
				     : &bench_driver_sqlite;
}

/* Read a value as an application would: every cache line of it. */
static inline void bench_touch(const void *data, size_t len)
{
	const volatile unsigned char *p = data;

	for (size_t i = 0; i < len; i += 64) {
		(void)p[i];
	}
}

#endif
