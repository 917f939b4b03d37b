/* SPDX-License-Identifier: MIT */
/* sqlite_here.c - see sqlite_here.h. */
#include "sqlite_here.h"

#include "atomics.h"
#include "doorbell.h"
#include "sqlite_run.h"

#include <stdlib.h>

#define SHORT_NS 50000u /* on a reader's thread, and then a fair guess for here */
#define SHORT_RUNS 4 /* so many short ones in a row are proof */
#define DOUBT 100 /* short runs wanted on top after one that was long */
#define LONG_NS 200000u
#define TIMED_EVERY 16u
/* Looks of the progress handler, SQLITE_DB_STEPS apart: some 100 us. */
#define LOOKS_MAX 4u
#define OPEN_AGAIN_NS 1000000000u

struct sqlite_here {
	struct executor_options opt;
	struct sqlite_run *run; /* NULL: not open */
	uint64_t open_after_ns;
	unsigned looks; /* of the run at hand */
	unsigned runs;
	unsigned since_rest;
	bool answered;
};

/* -- what sqlite_run asks of its host ------------------------------------------------------------
 */

static bool give_up(void *arg)
{
	struct sqlite_here *h = arg;

	return ++h->looks > LOOKS_MAX;
}

static struct exec_job *nobody_joins(void *arg)
{
	(void)arg;
	return NULL;
}

static void note_answer(void *arg, struct exec_job *job)
{
	struct sqlite_here *h = arg;

	(void)job;
	h->answered = true;
}

/* One block, and no other. */
static struct exec_block *first_block(
	void *arg, struct exec_block *full, bool (*stop)(void *stop_arg), void *stop_arg)
{
	struct exec_block *b = full == NULL ? malloc(sizeof(*b)) : NULL;

	(void)arg;
	(void)stop;
	(void)stop_arg;
	if (b != NULL) {
		b->len = 0;
	}
	return b;
}

/* -- life -------------------------------------------------------------------------------------- */

struct sqlite_here *sqlite_here_create(const struct executor_options *opt)
{
	struct sqlite_here *h = calloc(1, sizeof(*h));

	if (h != NULL) {
		h->opt = *opt;
		h->opt.writer = false;
		h->opt.busy_ms = 0;
	}
	return h;
}

void sqlite_here_destroy(struct sqlite_here **h)
{
	if (*h != NULL) {
		sqlite_run_destroy(&(*h)->run);
		free(*h);
		*h = NULL;
	}
}

static bool open_database(struct sqlite_here *h, uint64_t now_ns)
{
	struct sqlite_run_host host = {
		.stopping = give_up,
		.next = nobody_joins,
		.answer = note_answer,
		.swap = first_block,
		.arg = h,
	};
	struct sqlite_failure f;

	if (now_ns < h->open_after_ns) {
		return false;
	}
	h->open_after_ns = now_ns + OPEN_AGAIN_NS;
	h->looks = 0;
	return sqlite_run_create(&h->opt, &host, &h->run, &f) == 0;
}

/* -- running ----------------------------------------------------------------------------------- */

static void doubt(struct statement *stmt)
{
	stmt->brief = -DOUBT;
}

void sqlite_here_learn(struct statement *stmt, const struct exec_job *job)
{
	if (job->failed || job->took_ns > SHORT_NS) {
		stmt->brief = stmt->brief < 0 ? stmt->brief : 0;
	} else if (stmt->brief < SHORT_RUNS) {
		stmt->brief++;
	}
}

bool sqlite_here_may_run(const struct statement *stmt)
{
	return stmt->brief >= SHORT_RUNS && get(&stmt->readonly) == 1 &&
	       (stmt->traits & STMT_SUSPECT) == 0;
}

bool sqlite_here_run(struct sqlite_here *h, struct exec_job *job, uint64_t now_ns)
{
	uint64_t since = 0;

	if (h->run == NULL && !open_database(h, now_ns)) {
		return false;
	}
	if (h->runs++ % TIMED_EVERY == 0) {
		since = doorbell_now();
	}
	h->looks = 0;
	h->answered = false;
	if (++h->since_rest == 2) {
		sqlite_run_together(h->run, true);
	}
	sqlite_run_job(h->run, job);
	check(h->answered);
	if (job->failed || (since != 0 && doorbell_now() - since > LONG_NS)) {
		doubt(job->stmt);
	}
	if (!sqlite_run_usable(h->run, NULL)) {
		sqlite_run_destroy(&h->run);
		h->since_rest = 0;
	}
	return !job->failed;
}

void sqlite_here_rest(struct sqlite_here *h)
{
	if (h->since_rest > 1) {
		sqlite_run_together(h->run, false);
	}
	h->since_rest = 0;
}
