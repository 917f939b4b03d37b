/* SPDX-License-Identifier: MIT */
/*
 * crew.h - many forked workers that do the same over and over, and what became of their calls.
 *
 * Each attaches to the broker with the client library and calls `job` until the crew is stopped.
 * Calls made with crew_exec are counted and held to their deadlines.
 */
#ifndef IT_CREW_H
#define IT_CREW_H

#include "shmbroker.h"

#include <stdbool.h>
#include <stdint.h>

#define CREW_MAX 64u
#define CREW_CODES 40u

struct ledger;

/* Shared by all; counters only grow. */
struct crew_board {
	_Atomic int stop;
	_Atomic unsigned ready; /* workers that attached */
	_Atomic uint64_t calls, failed;
	_Atomic uint64_t by_code[CREW_CODES]; /* [-code - 2000]: failures */
	_Atomic int64_t worst_us; /* longest time by which a call outlived its deadline */
	_Atomic uint64_t late; /* calls that did so by more than 100 ms */
	_Atomic uint32_t surprises;
	char surprise[400]; /* the first */
	char late_call[400]; /* the worst, about */
	char error[400]; /* the last failure, about */
};

struct crew_worker {
	unsigned id; /* from 0 */
	unsigned seed; /* for rand_r */
	struct broker *b;
	struct ledger *ledger;
	struct crew_board *board;
	void *arg;
	int64_t last; /* the job's: -1 at first */
};

typedef void crew_job(struct crew_worker *w);

struct crew;

/* Returns when all are attached.  arg is seen by the forked workers as it is now; what is to change
 * has to be shared memory (crew_shared). */
struct crew *crew_start(
	const char *socket, unsigned workers, crew_job *job, struct ledger *ledger, void *arg);
struct crew_board *crew_board(struct crew *c);
/* Stop all, free c, set it to NULL, check that workers ended well and saw no surprise, and print
 * what they did.  `what` names the crew in checks. */
void crew_stop(struct crew **c, const char *what);

/* As broker_exec, counted; call->timeout_ms must be set. */
int crew_exec(struct crew_worker *w, const char *sql, int nparams,
	const struct broker_value *params, const struct broker_call *call,
	struct broker_result **out) BROKER_MUST_USE;
/* Begin and commit likewise. */
int crew_begin(struct crew_worker *w, const struct broker_call *call,
	struct broker_lease **out) BROKER_MUST_USE;
int crew_commit(struct crew_worker *w, struct broker_lease **l, int64_t timeout_ms) BROKER_MUST_USE;
/* Something that must not be. */
void crew_surprise(struct crew_worker *w, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Zeroed memory that forked children share with the test; never freed. */
void *crew_shared(uint64_t size);
/* Keep the machine usable: a millisecond or a few. */
void crew_breathe(unsigned ms);

#endif
