/* SPDX-License-Identifier: MIT */
/*
 * executor.c - see executor.h: the thread, its queues, its sleep.
 *
 * Life:  RUNNING --executor_stop--> DRAINING (jobs not run come back) --> EXITED --> joined, freed
 *           |                          ^
 *           +-- database cannot be opened: EXEC_FAILED, then waits for executor_stop --+
 */
#include "executor.h"

#include "atomics.h"
#include "doorbell.h"
#include "queue.h"
#include "spin.h"
#include "sqlite_run.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>

/* Longest sleep without a look: a deadline is noticed late by at most this, where nobody rings. */
#define WAIT_BLOCK_NS 50000000u
#define WAIT_JOB_NS 60000000000u
#define WAIT_OPEN_NS 20000000u

struct executor {
	/* set before the thread starts */
	struct executor_options opt;
	void (*on_message)(void *arg);
	void *arg;

	/* I/O thread */
	uv_async_t async; /* the executor sends */
	uv_thread_t thread;
	void (*gone)(void *arg);
	void *gone_arg;

	struct queue inbox, outbox, spares;

	/* the executor's sleep (doorbell.h): it sets sleeping, the I/O thread changes bell */
	_Atomic uint32_t sleeping;
	_Atomic uint32_t bell;
	_Atomic int stopping; /* set by the I/O thread */
	_Atomic uint32_t recycled; /* blocks given back; counted by the I/O thread */

	/* executor thread */
	struct spin spin; /* looking for work before sleeping */
	struct sqlite_run *run;
	struct exec_job *held; /* taken from the inbox, to be run next */
	unsigned joined; /* jobs of the group that is gathered */
	unsigned company; /* as many are usually there */
	unsigned missing; /* of them when the wait began; 0: nobody was waited for */
	unsigned in_vain; /* groups not to wait in after the next wait in vain */
	unsigned hurried; /* groups that are not to wait */
	uint64_t wait_until_ns; /* for them */
	uint64_t closed_ns; /* when nobody else was let in, 0: not yet */
	uint64_t commit_ns; /* what a commit takes, on average */
	uint64_t since_ns; /* a reader: when the job began */
	uint32_t posted; /* blocks sent */
	struct exec_msg ready, exited;
	struct exec_failed failed;
};

/* -- jobs -------------------------------------------------------------------------------------- */

struct exec_job *exec_job_create(unsigned nparams, const struct request_param *params)
{
	size_t head = sizeof(struct exec_job) + nparams * sizeof(struct request_param);
	struct exec_job *job;
	unsigned char *at;
	size_t size = head;

	for (unsigned i = 0; i < nparams; i++) {
		size += pad8(params[i].len);
	}
	job = malloc(size);
	if (job == NULL) {
		return NULL;
	}
	memset(job, 0, offsetof(struct exec_job, failure));
	job->params = (struct request_param *)(job + 1);
	job->nparams = nparams;
	at = (unsigned char *)job + head;
	for (unsigned i = 0; i < nparams; i++) {
		job->params[i] = params[i];
		job->params[i].data = at;
		if (params[i].len > 0) {
			memcpy(at, params[i].data, params[i].len);
		}
		at += pad8(params[i].len);
	}
	return job;
}

void exec_job_destroy(struct exec_job *job)
{
	if (job != NULL) {
		free(job->source);
		free(job->rows);
		free(job);
	}
}

/* -- executor thread --------------------------------------------------------------------------- */

static void post(struct executor *ex, struct exec_msg *m, enum exec_kind kind)
{
	m->kind = kind;
	queue_push(&ex->outbox, &m->node);
}

static bool is_stopping(void *arg)
{
	struct executor *ex = arg;

	return observe(&ex->stopping) != 0;
}

static void sleep_unless(struct executor *ex, bool ready, uint32_t seen, uint64_t ns)
{
	if (!ready) {
		(void)doorbell_wait(&ex->bell, seen, ns);
	}
	put(&ex->sleeping, 0);
}

/* Say that we will sleep.  The caller then looks once more (doorbell.h, F1). */
static uint32_t about_to_sleep(struct executor *ex)
{
	uint32_t seen = get(&ex->bell);

	put(&ex->sleeping, 1);
	full_fence();
	return seen;
}

static struct exec_job *pop_job(struct executor *ex)
{
	struct cds_wfcq_node *node;
	struct exec_job *job = ex->held;

	if (job != NULL) {
		ex->held = NULL;
		return job;
	}
	node = queue_pop(&ex->inbox);
	return node != NULL ? container_of(node, struct exec_job, msg.node) : NULL;
}

static bool has_work(struct executor *ex)
{
	return !queue_empty(&ex->inbox) || is_stopping(ex);
}

/* Wait for a job or the end, at most so long: looking first, where that pays. */
static void await_work(struct executor *ex, uint64_t since_ns, uint64_t ns)
{
	uint64_t now = since_ns;
	uint32_t seen;

	while (now - since_ns < ns && spin_may(&ex->spin, since_ns, now)) {
		now = spin_yield(&ex->spin, now);
		if (has_work(ex)) {
			return;
		}
	}
	if (now - since_ns >= ns) {
		return;
	}
	seen = about_to_sleep(ex);
	sleep_unless(ex, has_work(ex), seen, ns - (now - since_ns));
	if (has_work(ex)) {
		spin_learn(&ex->spin, doorbell_now() - since_ns);
	}
}

/* Next job; NULL: stop. */
static struct exec_job *wait_job(struct executor *ex)
{
	for (;;) {
		struct exec_job *job;

		if (is_stopping(ex)) {
			return NULL;
		}
		job = pop_job(ex);
		if (job != NULL) {
			return job;
		}
		await_work(ex, doorbell_now(), WAIT_JOB_NS);
	}
}

/* Nobody is there to join the group.  False: nor is it worth waiting. */
static bool await_company(struct executor *ex)
{
	uint64_t now = doorbell_now();

	if (ex->joined >= ex->company || ex->hurried > 0) {
		return false;
	}
	if (ex->missing == 0) {
		uint64_t ns = ex->commit_ns / 2;

		ex->missing = ex->company - ex->joined;
		ex->wait_until_ns = now + (ns < EXEC_WAIT_NS ? ns : EXEC_WAIT_NS);
	}
	if (now >= ex->wait_until_ns) {
		return false;
	}
	await_work(ex, now, ex->wait_until_ns - now);
	return true;
}

static struct exec_job *next_joining(void *arg)
{
	struct executor *ex = arg;
	struct exec_job *job;

	do {
		job = is_stopping(ex) ? NULL : pop_job(ex);
	} while (job == NULL && !is_stopping(ex) && await_company(ex));
	if (job != NULL && sqlite_run_may_join(job)) {
		ex->joined++;
		return job;
	}
	ex->held = job;
	ex->closed_ns = doorbell_now();
	return NULL;
}

/*
 * A group was committed: how many to expect next time, and for how long.  Those who are missed may
 * be held up by something else, a transaction that waits for this connection for instance: then
 * waiting is tried ever more seldom.
 */
static void learn(struct executor *ex)
{
	if (ex->missing == 0) {
		ex->hurried -= ex->hurried > 0;
	} else if (ex->joined + ex->missing / 2 >= ex->company) {
		ex->in_vain = 1;
	} else {
		ex->hurried = ex->in_vain;
		ex->in_vain = ex->in_vain < EXEC_HURRY_MAX ? ex->in_vain * 2 : EXEC_HURRY_MAX;
	}
	if (ex->joined >= ex->company) {
		ex->company = ex->joined;
	} else {
		ex->company -= (ex->company - ex->joined + 7) / 8;
	}
	if (ex->closed_ns != 0) {
		ex->commit_ns = (3 * ex->commit_ns + doorbell_now() - ex->closed_ns) / 4;
	}
}

static void answer(void *arg, struct exec_job *job)
{
	struct executor *ex = arg;

	if (!ex->opt.writer) {
		job->took_ns = doorbell_now() - ex->since_ns;
	}
	post(ex, &job->msg, EXEC_END);
}

static bool may_post_block(struct executor *ex)
{
	return ex->posted - observe(&ex->recycled) < EXEC_BLOCKS;
}

static struct exec_block *swap_block(
	void *arg, struct exec_block *full, bool (*give_up)(void *give_up_arg), void *give_up_arg)
{
	struct executor *ex = arg;
	struct cds_wfcq_node *node;
	struct exec_block *empty;

	while (full != NULL && !may_post_block(ex)) {
		uint32_t seen;

		if (give_up(give_up_arg)) {
			return NULL;
		}
		seen = about_to_sleep(ex);
		sleep_unless(ex, may_post_block(ex) || give_up(give_up_arg), seen, WAIT_BLOCK_NS);
	}
	node = queue_pop(&ex->spares);
	empty = node != NULL ? container_of(node, struct exec_block, msg.node)
			     : malloc(sizeof(*empty));
	if (empty == NULL) {
		return NULL;
	}
	empty->len = 0;
	if (full != NULL) {
		ex->posted++;
		post(ex, &full->msg, EXEC_BLOCK);
		uv_async_send(&ex->async);
	}
	return empty;
}

/* The database may be locked for a moment: by the writer that turns it to WAL, by others. */
static int open_database(struct executor *ex, struct sqlite_failure *f)
{
	struct sqlite_run_host host = {
		.stopping = is_stopping,
		.next = next_joining,
		.answer = answer,
		.swap = swap_block,
		.arg = ex,
	};
	uint64_t until = doorbell_now() + (uint64_t)ex->opt.open_ms * 1000000u;

	for (;;) {
		uint32_t seen;

		if (sqlite_run_create(&ex->opt, &host, &ex->run, f) == 0) {
			return 0;
		}
		if (strcmp(f->sqlstate, "55P03") != 0 || doorbell_now() >= until ||
			is_stopping(ex)) {
			return -1;
		}
		seen = about_to_sleep(ex);
		sleep_unless(ex, is_stopping(ex), seen, WAIT_OPEN_NS);
	}
}

static void work(struct executor *ex)
{
	struct exec_job *job;

	while (sqlite_run_usable(ex->run, &ex->failed.failure)) {
		job = wait_job(ex);
		if (job == NULL) {
			return;
		}
		if (!ex->opt.writer) {
			ex->since_ns = doorbell_now();
		}
		ex->joined = 1;
		ex->missing = 0;
		ex->closed_ns = 0;
		sqlite_run_job(ex->run, job);
		uv_async_send(&ex->async);
		learn(ex);
	}
	post(ex, &ex->failed.msg, EXEC_FAILED);
	uv_async_send(&ex->async);
}

static void wait_stop(struct executor *ex)
{
	while (!is_stopping(ex)) {
		uint32_t seen = about_to_sleep(ex);

		sleep_unless(ex, is_stopping(ex), seen, WAIT_JOB_NS);
	}
}

static void thread_main(void *arg)
{
	struct executor *ex = arg;
	struct exec_job *job;

	(void)pthread_setname_np(pthread_self(), ex->opt.name);
	if (open_database(ex, &ex->failed.failure) == 0) {
		post(ex, &ex->ready, EXEC_READY);
		uv_async_send(&ex->async);
		work(ex);
	} else {
		post(ex, &ex->failed.msg, EXEC_FAILED);
		uv_async_send(&ex->async);
	}
	wait_stop(ex);
	while ((job = pop_job(ex)) != NULL) {
		post(ex, &job->msg, EXEC_DROPPED);
	}
	sqlite_run_destroy(&ex->run);
	post(ex, &ex->exited, EXEC_EXITED);
	uv_async_send(&ex->async); /* the last touch: the loop joins before it closes the handle */
}

/* -- I/O thread -------------------------------------------------------------------------------- */

static void on_async(uv_async_t *h)
{
	struct executor *ex = h->data;

	ex->on_message(ex->arg);
}

/* Signals are the loop's business. */
static int start_thread(struct executor *ex)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = uv_thread_create(&ex->thread, thread_main, ex);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

static void on_async_closed(uv_handle_t *h)
{
	struct executor *ex = h->data;
	void (*gone)(void *arg) = ex->gone;
	void *arg = ex->gone_arg;

	free(ex);
	if (gone != NULL) {
		gone(arg);
	}
}

int executor_create(uv_loop_t *loop, const struct executor_options *opt,
	void (*on_message)(void *arg), void *arg, struct executor **out)
{
	struct executor *ex = calloc(1, sizeof(*ex));
	int err;

	if (ex == NULL) {
		return UV_ENOMEM;
	}
	ex->in_vain = 1;
	ex->spin.on = usable_cpus() > 1;
	ex->opt = *opt;
	ex->on_message = on_message;
	ex->arg = arg;
	queue_init(&ex->inbox);
	queue_init(&ex->outbox);
	queue_init(&ex->spares);
	err = uv_async_init(loop, &ex->async, on_async);
	if (err < 0) {
		free(ex);
		return err;
	}
	ex->async.data = ex;
	err = start_thread(ex);
	if (err < 0) {
		uv_close((uv_handle_t *)&ex->async, on_async_closed);
		return err;
	}
	*out = ex;
	return 0;
}

void executor_submit(struct executor *ex, struct exec_job *job)
{
	queue_push(&ex->inbox, &job->msg.node);
}

void executor_ring(struct executor *ex)
{
	full_fence(); /* F2 of doorbell.h */
	if (get(&ex->sleeping) != 0) {
		doorbell_wake(&ex->bell);
	}
}

void executor_cancel(struct executor *ex, struct exec_job *job)
{
	put(&job->cancel, 1);
	executor_ring(ex);
}

struct exec_msg *executor_receive(struct executor *ex)
{
	struct cds_wfcq_node *node = queue_try(&ex->outbox);

	/* Not linked yet: its uv_async_send, which comes after, brings us here again. */
	if (node == NULL || node == CDS_WFCQ_WOULDBLOCK) {
		return NULL;
	}
	return container_of(node, struct exec_msg, node);
}

void executor_recycle(struct executor *ex, struct exec_block *b)
{
	queue_push(&ex->spares, &b->msg.node);
	publish(&ex->recycled, get(&ex->recycled) + 1);
	executor_ring(ex);
}

void executor_nudge(struct executor *ex)
{
	uv_async_send(&ex->async);
}

void executor_stop(struct executor *ex)
{
	publish(&ex->stopping, 1);
	executor_ring(ex);
}

void executor_destroy(struct executor *ex, void (*gone)(void *arg), void *arg)
{
	struct cds_wfcq_node *node;

	uv_thread_join(&ex->thread);
	while ((node = queue_pop(&ex->spares)) != NULL) {
		free(container_of(node, struct exec_block, msg.node));
	}
	check(queue_empty(&ex->inbox));
	ex->gone = gone;
	ex->gone_arg = arg;
	uv_close((uv_handle_t *)&ex->async, on_async_closed);
}
