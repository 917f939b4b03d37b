/* SPDX-License-Identifier: MIT */
/*
 * behave.h - what the tests of the pool's behaviours share: a broker on the scripted database whose
 * rules change while it runs (driver_fake.c), worker processes, and memory that they share with the
 * test.
 *
 * Functions that only set the scene end the test if they cannot.
 */
#ifndef IT_BEHAVE_H
#define IT_BEHAVE_H

#include "brokerproc.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "stage.h"
#include "tap.h"
#include "wait.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SETTINGS(...) ((const char *const[]){__VA_ARGS__, NULL})

struct behave {
	struct broker_proc *proc;
	struct broker *b; /* a handle of the test itself */
	char *control; /* file with the rules of the scripted database */
};

/* A broker on the scripted database, with rules to begin with ("" for none). */
struct behave behave_start(const char *rules, const char *const *settings);
/* Detach, stop the broker, check that it ended well. */
void behave_end(struct behave *t);
/* From now on these are the rules, beside those of the beginning. */
void behave_rules(struct behave *t, const char *rules);

/* Another handle of this process or, in a worker, its own. */
struct broker *behave_attach(const struct broker_proc *proc);

/* Run a statement and drop its rows; the code. */
int behave_run(struct broker *b, const struct broker_call *call, const char *sql);
/* Column col of the first row; the code of the error, -1 if there is no row. */
int64_t behave_int(struct broker *b, const struct broker_call *call, const char *sql, int col);
/* Submit; its ticket. */
uint64_t behave_submit(struct broker *b, const struct broker_call *call, const char *sql);
/* A lease whose connection is there: the statement was run in it. */
struct broker_lease *behave_hold(struct broker *b, const struct broker_call *call, const char *sql);
/* Milliseconds since. */
int64_t behave_since(int64_t start_ms);

/* Everything brokerstat shows, at one time; the caller frees. */
char *behave_look(const struct broker_proc *p);
/* A metric in what behave_look found; full: its name with all labels. */
int64_t behave_find(const char *look, const char *full);

/* A metric of pool main, by its name with labels but without that of the pool:
 * behave_metric(p, "broker_pool_connections", "state=\"idle\""); label "" for none. */
int64_t behave_metric(const struct broker_proc *p, const char *name, const char *label);
/* Connections in a state of broker_pool_connections. */
int64_t behave_conns(const struct broker_proc *p, const char *state);
/* Requests that wait for a connection. */
int64_t behave_waiting(const struct broker_proc *p);
int64_t behave_created(const struct broker_proc *p);
int64_t behave_closed(const struct broker_proc *p);

/* Zeroed memory that workers share with the test; behave_unshare at the end. */
void *behave_share(size_t size);
void behave_unshare(void *p, size_t size);

/* A worker process that attaches, runs fn(b, arg) and ends with what it returns as its exit status,
 * 0 for good.  It is a child; wait for it with behave_ended. */
typedef int behave_fn(struct broker *b, void *arg);
pid_t behave_worker(const struct broker_proc *proc, behave_fn *fn, void *arg);
/* Exit status of a worker, -1 if it was killed or is late. */
int behave_ended(pid_t pid, int64_t timeout_ms);

/* Random numbers from a seed that is printed; the environment variable SEED repeats it. */
struct behave_rng {
	uint64_t state;
};
struct behave_rng behave_seed(const char *what);
struct behave_rng behave_fork_seed(struct behave_rng *r);
unsigned behave_random(struct behave_rng *r, unsigned below);

#endif
