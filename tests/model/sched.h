/* SPDX-License-Identifier: MIT */
/*
 * sched.h - run two or three small programs in every possible interleaving.
 *
 * The programs are coroutines.  Code compiled with -DSHM_MODEL hands every access to a shared word
 * to this file (shm/atomics.h); before the access the coroutine stops and the scheduler decides
 * what happens next: a coroutine makes its access, a store leaves a store buffer for memory, or a
 * coroutine is killed for good.  All decisions are explored, depth first, by running the programs
 * again from the start with another decision.
 *
 * Memory
 *   MODEL_SC   a store is visible at once.
 *   MODEL_TSO  every coroutine has a first-in first-out store buffer and reads through it (x86).
 *   MODEL_PSO  stores to different words leave the buffer in any order, but a release store
 *              (publish) only after all before it, and none passes a write_fence().
 * Loads stay in program order.  full_fence() waits for an empty buffer, and so do the futex calls:
 * the kernel orders the caller's stores before its look at the waiters, and its count of waiters
 * before the look at the word (the comment at the top of kernel/futex/waitwake.c).  The event calls
 * promise nothing.
 *
 * Merging.  A state is the memory, the buffers, and per coroutine all values that it has read.  Two
 * ways into the same state have the same future, so the second is not followed; this loses no
 * behaviour (states are compared by 128-bit hash).  A coroutine that spins would never come back to
 * the same state, for it has read more; model_local() lets it say, at the head of a loop, that only
 * the given bytes of its private memory matter from here on.
 *
 * Rules for the programs: no memory from malloc, no time, no randomness; all private state is
 * either reset by `reset`, on the coroutine's own stack, or a function of what was read.
 */
#ifndef MODEL_SCHED_H
#define MODEL_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_THREADS 3

enum model_memory {
	MODEL_SC,
	MODEL_TSO,
	MODEL_PSO,
};

struct model {
	void (*body[MODEL_THREADS])(void *arg); /* NULL after the last */
	void (*reset)(void *arg); /* before every run; shared memory is zeroed already */
	void (*final)(void *arg); /* after every run to the end; may be NULL */
	void *arg;
	void *shared; /* accesses to other memory are private and never a decision */
	size_t shared_len;
	enum model_memory memory;
	unsigned killable; /* bit i: coroutine i may be killed; at most one is, per run */
	bool no_merge; /* follow every path; only to check the checker */
	uint64_t max_states; /* give up after as many; 0: a million */
};

struct model_result {
	bool complete; /* everything was explored, or a failure found */
	bool cyclic; /* some program may spin, so the number of interleavings is not finite */
	uint64_t states; /* different ones */
	uint64_t runs;
	uint64_t endings; /* different states in which nobody can go on */
	double interleavings; /* that these stand for, if not cyclic */
	char failure[256]; /* what the first failed assertion says; "" if none */
};

/* Explore.  The steps that lead to a failure are printed as diagnostics if `show`. */
void model_run(const struct model *m, bool show, struct model_result *r);

/* The claim and its numbers as one TAP check: explored to the end, and nothing failed. */
bool model_holds(const struct model *m, const char *claim);
/* A program with a planted mistake: passes if the mistake is found. */
bool model_breaks(const struct model *m, const char *mistake);

/* In programs, and in `final`: ends the exploration if cond does not hold. */
void model_assert(bool cond, const char *claim);

/* In `final`: what has become of coroutine i. */
bool model_finished(unsigned i);
bool model_killed(unsigned i);

/* In programs: from here on only these bytes of private memory matter (and the place in the text).
 */
#define model_local(data, len) model_local_at(__LINE__, (data), (len))
void model_local_at(int line, const void *data, size_t len);

/* An eventfd that is never read, in an edge-triggered epoll: ring sets it, wait returns once it is
 * set and clears it. */
void model_event_ring(uint64_t *event);
void model_event_wait(uint64_t *event);

/* FUTEX_WAIT without a timeout, FUTEX_WAKE. */
void model_futex_wait(const volatile void *word, uint32_t seen);
void model_futex_wake(const volatile void *word);

#endif
