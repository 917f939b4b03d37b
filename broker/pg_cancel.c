/* SPDX-License-Identifier: MIT */
/*
 * pg_cancel.c - see pg.h: cancels, which libpq can only send with blocking calls.
 *
 * Each runs in a short-lived thread of its own, at most CANCELS_MAX per server at a time, the rest
 * queues.  Not in libuv's thread pool: a dead host makes a cancel hang for minutes, and the few
 * threads of that pool also resolve names.
 *
 * When is a cancel over, so that it cannot hit a later statement?  The server's cancel process
 * signals the backend first and closes the connection to us afterwards; PQcancel returns when it
 * sees that.  So the signal is pending at the backend before we send anything new.  The backend
 * must return from the kernel to read it, runs its signal handler on the way, and drops a cancel
 * that it finds while it waits for a command.  We do not rely on the server being that direct (a
 * proxy may be in between): after PQcancel returned, an empty Sync goes through the connection, and
 * only its answer settles the cancel.
 *
 * A cancel that reaches the backend before the statement does is dropped there, too.  So the core
 * asks again until the request has ended; each cancel sends a Sync of its own, the last one
 * settles.
 *
 * The last cancel.  When a connection is closed its backend goes on with what it has received, and
 * does not look whether anybody is there.  It notices when it sends the end of a statement (that is
 * at each Sync, and with an error at once), and then ends before it begins another one.  So the
 * connection is closed first, and what runs is cancelled afterwards: of what was sent behind it
 * nothing runs.  Over TCP that needs a reset (SO_LINGER), since with a mere end of the stream the
 * first thing that is sent to us would still succeed.  Nobody can ask again later whether that
 * cancel came before its statement had begun, so it is sent twice.
 *
 * A cancel is held back while an internal command (SET, DEALLOCATE) is at the head of the FIFO, so
 * that it cannot hit that and leave the request alone.
 *
 * Threads: struct pg_cancel_job belongs to its thread while it runs, but for `pg`, which only the
 * loop's thread touches.  struct pg_canceller: `done`, `refs` and `closed` under its lock, the rest
 * loop's thread.  The last of the handle and the threads frees it.
 */
#include "pg.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define CANCELS_MAX 8u
/* Of them for connections that are closed: each takes LAST_AGAIN_NS, and nobody waits for it. */
#define CANCELS_MAX_LAST 4u
/* Between the two last ones; the backend has begun what it was sent by then. */
#define LAST_AGAIN_NS (100L * 1000000)

struct pg_cancel_job {
	struct pg_cancel_job *next;
	struct pg_canceller *canceller;
	struct pg_backend *pg; /* NULL: nobody waits */
#ifdef LIBPQ_HAS_ASYNC_CANCEL
	PGcancelConn *cancel;
#else
	PGcancel *cancel;
#endif
	bool last;
	bool ok;
	char err[256];
};

struct cancel_queue {
	struct pg_cancel_job *first, **tail;
};

struct pg_canceller {
	uv_async_t async;
	unsigned running, running_last;
	struct cancel_queue queue, last; /* nobody waits for those in `last` */

	pthread_mutex_t lock;
	struct pg_cancel_job *done;
	unsigned refs; /* the handle, and each thread */
	bool closed; /* nobody is told any more */
};

/* -- jobs -------------------------------------------------------------------------------------- */

static void job_destroy(struct pg_cancel_job *j)
{
#ifdef LIBPQ_HAS_ASYNC_CANCEL
	PQcancelFinish(j->cancel);
#else
	PQfreeCancel(j->cancel);
#endif
	free(j);
}

static struct pg_cancel_job *job_create(struct pg_backend *pg)
{
	struct pg_cancel_job *j = calloc(1, sizeof(*j));

	if (j == NULL) {
		return NULL;
	}
#ifdef LIBPQ_HAS_ASYNC_CANCEL
	j->cancel = PQcancelCreate(pg->pq);
#else
	j->cancel = PQgetCancel(pg->pq);
#endif
	if (j->cancel == NULL) {
		free(j);
		return NULL;
	}
	j->canceller = pg->server->canceller;
	j->pg = pg;
	return j;
}

/* Blocks until the server has closed the cancel connection. */
static void job_send(struct pg_cancel_job *j)
{
#ifdef LIBPQ_HAS_ASYNC_CANCEL
	j->ok = PQcancelBlocking(j->cancel) == 1;
	if (!j->ok) {
		snprintf(j->err, sizeof(j->err), "%s", PQcancelErrorMessage(j->cancel));
	}
#else
	j->ok = PQcancel(j->cancel, j->err, sizeof(j->err)) == 1;
#endif
}

static void job_run(struct pg_cancel_job *j)
{
	static const struct timespec again = {.tv_nsec = LAST_AGAIN_NS};

	job_send(j);
	if (j->last && j->ok) {
		(void)nanosleep(&again, NULL);
#ifdef LIBPQ_HAS_ASYNC_CANCEL
		PQcancelReset(j->cancel);
#endif
		job_send(j);
	}
}

static void canceller_free(struct pg_canceller *k)
{
	struct pg_cancel_job *j;

	while ((j = k->done) != NULL) {
		k->done = j->next;
		job_destroy(j);
	}
	pthread_mutex_destroy(&k->lock);
	free(k);
}

/* Its own thread. */
static void *job_thread(void *arg)
{
	struct pg_cancel_job *j = arg;
	struct pg_canceller *k = j->canceller;
	bool last;

	job_run(j);
	pthread_mutex_lock(&k->lock);
	j->next = k->done;
	k->done = j;
	last = --k->refs == 0;
	if (!k->closed) {
		uv_async_send(&k->async); /* under the lock: the handle cannot go away meanwhile */
	}
	pthread_mutex_unlock(&k->lock);
	if (last) {
		canceller_free(k);
	}
	return NULL;
}

/* A detached thread that takes no signals: those are the loop's. */
static bool spawn(struct pg_cancel_job *j)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int rc;

	if (pthread_attr_init(&attr) != 0) {
		return false;
	}
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&thread, &attr, job_thread, j);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return rc == 0;
}

/* -- the loop's side --------------------------------------------------------------------------- */

static void settle(struct pg_backend *pg)
{
	pg->cancel = PG_CANCEL_SETTLING;
	pg->settles++;
	pg_send_sync(pg, PG_STEP_SETTLE);
}

/*
 * The cancel is with the server, or failed.  Settle behind whatever is in flight.  COPY is outside
 * the pipeline: settle when it has ended.
 */
static void returned(struct pg_backend *pg, const struct pg_cancel_job *j)
{
	struct pg_step *s = pg_step_head(pg);

	pg->cancel_job = NULL;
	if (!j->ok) {
		char text[sizeof(j->err)];

		memcpy(text, j->err, sizeof(text));
		pg_one_line(text);
		log_warning("server %s: a cancel could not be sent: %s", pg->server->name, text);
	}
	if (s != NULL && s->kind == PG_STEP_COPY && pg->copy != PG_COPY_NONE) {
		pg->cancel = PG_CANCEL_RETURNED;
		return;
	}
	settle(pg);
}

void pg_cancel_after_copy(struct pg_backend *pg)
{
	if (pg->cancel == PG_CANCEL_RETURNED) {
		settle(pg);
	}
}

static void run_job(struct pg_canceller *k, struct pg_cancel_job *j)
{
	pthread_mutex_lock(&k->lock);
	k->refs++;
	pthread_mutex_unlock(&k->lock);
	k->running++;
	k->running_last += j->last;
	if (spawn(j)) {
		return;
	}
	snprintf(j->err, sizeof(j->err), "no thread could be started");
	pthread_mutex_lock(&k->lock);
	k->refs--;
	j->next = k->done;
	k->done = j;
	pthread_mutex_unlock(&k->lock);
	uv_async_send(&k->async);
}

static struct pg_cancel_job *take(struct cancel_queue *q)
{
	struct pg_cancel_job *j = q->first;

	if (j != NULL) {
		q->first = j->next;
		if (q->first == NULL) {
			q->tail = &q->first;
		}
	}
	return j;
}

static void start_queued(struct pg_canceller *k)
{
	struct pg_cancel_job *j = NULL;

	while (k->running < CANCELS_MAX &&
		((j = take(&k->queue)) != NULL ||
			(k->running_last < CANCELS_MAX_LAST && (j = take(&k->last)) != NULL))) {
		run_job(k, j);
	}
}

static void on_done(uv_async_t *async)
{
	struct pg_canceller *k = container_of(async, struct pg_canceller, async);
	struct pg_cancel_job *j, *next;

	pthread_mutex_lock(&k->lock);
	j = k->done;
	k->done = NULL;
	pthread_mutex_unlock(&k->lock);
	for (; j != NULL; j = next) {
		next = j->next;
		k->running--;
		k->running_last -= j->last;
		if (j->pg != NULL) {
			returned(j->pg, j);
		}
		job_destroy(j);
	}
	start_queued(k);
}

struct pg_canceller *pg_canceller_create(struct io *io)
{
	struct pg_canceller *k = calloc(1, sizeof(*k));

	if (k == NULL) {
		return NULL;
	}
	if (uv_async_init(io_uv(io), &k->async, on_done) != 0) {
		free(k);
		return NULL;
	}
	uv_unref((uv_handle_t *)&k->async);
	pthread_mutex_init(&k->lock, NULL);
	k->refs = 1;
	k->queue.tail = &k->queue.first;
	k->last.tail = &k->last.first;
	return k;
}

static void on_async_closed(uv_handle_t *h)
{
	struct pg_canceller *k = container_of((uv_async_t *)h, struct pg_canceller, async);
	bool last;

	pthread_mutex_lock(&k->lock);
	last = --k->refs == 0;
	pthread_mutex_unlock(&k->lock);
	if (last) {
		canceller_free(k);
	}
}

/* All connections are gone: nobody waits for what is queued or runs. */
void pg_canceller_close(struct pg_canceller *k)
{
	struct pg_cancel_job *j;

	while ((j = take(&k->queue)) != NULL || (j = take(&k->last)) != NULL) {
		job_destroy(j);
	}
	pthread_mutex_lock(&k->lock);
	k->closed = true;
	pthread_mutex_unlock(&k->lock);
	uv_close((uv_handle_t *)&k->async, on_async_closed);
}

/* -- entries ----------------------------------------------------------------------------------- */

static bool is_preamble(const struct pg_step *s)
{
	switch (s->kind) {
	case PG_STEP_SET:
	case PG_STEP_UNSET:
	case PG_STEP_DEALLOCATE:
	case PG_STEP_ROLLBACK:
	case PG_STEP_SYNC:
		return true;
	default:
		return false;
	}
}

static void enqueue(struct pg_canceller *k, struct pg_cancel_job *j)
{
	struct cancel_queue *q = j->last ? &k->last : &k->queue;

	*q->tail = j;
	q->tail = &j->next;
	start_queued(k);
}

static void launch(struct pg_backend *pg)
{
	struct pg_canceller *k = pg->server->canceller;
	struct pg_cancel_job *j = job_create(pg);

	if (j == NULL) { /* it goes uncancelled; the core's patience is limited */
		settle(pg);
		return;
	}
	pg->cancel = PG_CANCEL_RUNNING;
	pg->cancel_job = j;
	enqueue(k, j);
}

void pg_cancel(struct conn *c)
{
	struct pg_backend *pg = c->priv;
	struct pg_step *s;

	if (pg == NULL || pg->phase != PG_OPEN || pg->broken) {
		return; /* conn_closed is on its way */
	}
	if (pg->cancel == PG_CANCEL_HELD || pg->cancel == PG_CANCEL_RUNNING) {
		return; /* one at a time */
	}
	s = pg_step_head(pg);
	if (s != NULL && s->kind == PG_STEP_SETTLE) {
		return; /* the request has ended */
	}
	if (s != NULL && is_preamble(s)) {
		pg->cancel = PG_CANCEL_HELD;
		return;
	}
	/* A server that waits for COPY data looks for a cancel only when data comes. */
	if (pg->copy == PG_COPY_FEED) {
		pg_copy_end(c, "canceled");
	}
	launch(pg);
}

struct pg_cancel_job *pg_cancel_last(struct pg_backend *pg)
{
	static const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
	struct pg_cancel_job *j = pg_step_head(pg) != NULL ? job_create(pg) : NULL;

	if (j != NULL) {
		j->pg = NULL;
		j->last = true;
		(void)setsockopt(
			PQsocket(pg->pq), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	}
	return j;
}

void pg_cancel_send_last(struct pg_cancel_job *j)
{
	if (j != NULL) {
		enqueue(j->canceller, j);
	}
}

void pg_cancel_release(struct pg_backend *pg)
{
	struct pg_step *s = pg_step_head(pg);

	if (pg->cancel == PG_CANCEL_HELD && (s == NULL || !is_preamble(s))) {
		launch(pg);
	}
}

void pg_cancel_forget(struct pg_backend *pg)
{
	if (pg->cancel_job != NULL) {
		pg->cancel_job->pg = NULL;
		pg->cancel_job = NULL;
	}
}
