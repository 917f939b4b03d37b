/* SPDX-License-Identifier: MIT */
/* handle.c - see handle.h: attach, detach, fork, thread, and attaching anew. */
#include "handle.h"

#include "crashpoint.h"
#include "doorbell.h"
#include "result.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ATTACH_MS 5000
#define MS_NS UINT64_C(1000000)
#define RETRY_MIN_NS (5 * MS_NS) /* between attempts to find the broker's successor */
#define RETRY_MAX_NS (100 * MS_NS)
#define PAUSE_NS (50 * MS_NS)
#define PAGE 4096u

/* Failed attaches have no handle that could keep their error. */
static _Thread_local struct errstate attach_error;

const struct broker_error *broker_error(const struct broker *b)
{
	const struct errstate *e = b != NULL ? &b->err : &attach_error;
	static const struct broker_error none = {.message = "", .detail = "", .hint = ""};

	return e->pub.message != NULL ? &e->pub : &none;
}

/* -- fork ------------------------------------------------------------------------------------ */

/* A page that reads 0 in every child.  NULL: this kernel cannot, pids are compared instead. */
static _Atomic uint32_t *make_guard(void)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		return NULL;
	}
	if (madvise(p, PAGE, MADV_WIPEONFORK) < 0) {
		munmap(p, PAGE);
		return NULL;
	}
	put((_Atomic uint32_t *)p, 1u);
	return p;
}

static bool forked(const struct broker *b)
{
	return b->guard != NULL ? get(b->guard) == 0 : b->pid != getpid();
}

static void forget_past(struct broker *b, void (*end)(struct chan *))
{
	b->last_server = "";
	while (b->chan != NULL) {
		struct chan *c = b->chan;

		b->chan = c->past;
		end(c);
		chan_unref(c);
	}
}

/* We are a child: the handle becomes ours, the parent's channel is left alone. */
static void after_fork(struct broker *b)
{
	CRASHPOINT(FORK_NOTICED);
	forget_past(b, chan_forget);
	b->owner = pthread_self();
	b->pid = getpid();
	if (b->guard != NULL) {
		put(b->guard, 1u);
	}
	CRASHPOINT(FORK_FORGOTTEN);
}

/* -- every call ------------------------------------------------------------------------------ */

int handle_enter(struct broker *b)
{
	if (b == NULL || b->magic != HANDLE_MAGIC) {
		return BROKER_E_ARGUMENT;
	}
	if (forked(b)) {
		after_fork(b);
	}
	if (!pthread_equal(b->owner, pthread_self())) {
		return BROKER_E_THREAD; /* the error record belongs to the owner */
	}
	if (b->chan != NULL) {
		b->chan->now = 0;
	}
	return 0;
}

/* timeout_ms from now; 0: beyond all time. */
static uint64_t later(uint64_t now, int64_t timeout_ms)
{
	if ((uint64_t)timeout_ms > (UINT64_MAX / 2 - now) / MS_NS) {
		return 0;
	}
	return now + (uint64_t)timeout_ms * MS_NS;
}

uint64_t handle_deadline(struct broker *b, int64_t timeout_ms)
{
	if (timeout_ms == 0) {
		timeout_ms = b->default_timeout_ms;
	}
	if (timeout_ms <= 0) {
		return 0;
	}
	return later(b->chan != NULL ? chan_now(b->chan) : doorbell_now(), timeout_ms);
}

/* -- attaching ------------------------------------------------------------------------------- */

static uint64_t attach_deadline(const struct broker *b)
{
	int64_t ms = b->timeout_ms != 0 ? b->timeout_ms : ATTACH_MS;
	uint64_t at = ms > 0 ? later(doorbell_now(), ms) : 0;

	return at != 0 ? at : UINT64_MAX;
}

/* One attempt. */
static int attach_once(struct broker *b, uint64_t deadline_ns)
{
	struct attach_options opt = {
		.path = b->path,
		.dir = b->dir,
		.name = b->name,
		.pool = b->pool,
		.result_kib = b->result_kib,
	};
	struct attachment a;
	struct chan *c;
	int rc = attach_open(&opt, deadline_ns, &a, &b->err);

	if (rc < 0) {
		return rc;
	}
	b->default_timeout_ms = (int64_t)a.reply.default_timeout_ms;
	rc = chan_create(b, &a, &c);
	if (rc < 0) {
		return errstate_set(&b->err, rc, "%s", broker_strerror(rc));
	}
	c->past = b->chan;
	b->chan = c;
	return b->wants_fd ? chan_make_fd(c) : 0;
}

static bool may_come_back(int rc)
{
	return rc == BROKER_E_NOT_FOUND || rc == BROKER_E_SHUTDOWN;
}

/* Channels that are lost are kept as long as results, leases or open tickets refer to them. */
static void leave_chan(struct broker *b)
{
	struct chan **p = &b->chan;

	b->last_server = "";
	while (*p != NULL) {
		struct chan *c = *p;

		if (c->refs > 1) {
			p = &c->past;
			continue;
		}
		*p = c->past;
		chan_unref(c);
	}
}

/* Attach anew.  A broker that is being restarted is waited for. */
static int attach_again(struct broker *b, uint64_t deadline_ns)
{
	uint64_t nap = RETRY_MIN_NS;
	int rc;

	if (deadline_ns == 0) {
		deadline_ns = attach_deadline(b);
	}
	leave_chan(b);
	for (;;) {
		struct timespec ts = {.tv_nsec = (long)nap};

		rc = attach_once(b, deadline_ns);
		if (!may_come_back(rc) || doorbell_now() + nap >= deadline_ns) {
			return rc;
		}
		nanosleep(&ts, NULL);
		nap = nap * 2 < RETRY_MAX_NS ? nap * 2 : RETRY_MAX_NS;
	}
}

/*
 * Is the broker still there?  Its own word tells of a clean end.  After a pause the socket is
 * asked, too: a restart that happened while this worker had nothing to do is then no failure to
 * anybody.
 */
static void check_broker(struct chan *c)
{
	if (c->now != 0 && c->now - c->checked > PAUSE_NS) {
		c->checked = c->now;
		chan_check_peer(c);
	} else {
		chan_check_word(c);
	}
}

int handle_ready(struct broker *b, uint64_t deadline_ns)
{
	struct chan *c = b->chan;

	if (c != NULL && c->gone == 0) {
		check_broker(c);
	}
	if (c != NULL && c->gone == 0) {
		return 0;
	}
	return attach_again(b, deadline_ns);
}

/* -- public ---------------------------------------------------------------------------------- */

static bool keep_string(char **dst, const char *src)
{
	*dst = src != NULL ? strdup(src) : NULL;
	return src == NULL || *dst != NULL;
}

static void handle_free(struct broker *b)
{
	forget_past(b, chan_detach);
	result_free_spare(b);
	if (b->guard != NULL) {
		munmap((void *)(uintptr_t)b->guard, PAGE);
	}
	free(b->path);
	free(b->dir);
	free(b->name);
	free(b->pool);
	b->magic = 0;
	free(b);
}

static struct broker *handle_create(const struct broker_options *o)
{
	struct broker *b = calloc(1, sizeof(*b));

	if (b == NULL) {
		return NULL;
	}
	b->magic = HANDLE_MAGIC;
	b->last_server = "";
	TAILQ_INIT(&b->spare);
	errstate_init(&b->err);
	b->owner = pthread_self();
	b->pid = getpid();
	b->guard = make_guard();
	b->dir = getcwd(NULL, 0); /* NULL is allowed */
	b->timeout_ms = o->timeout_ms;
	b->result_kib = o->result_kib;
	if (!keep_string(&b->path, o->path) || !keep_string(&b->name, o->name) ||
		!keep_string(&b->pool, o->pool)) {
		handle_free(b);
		return NULL;
	}
	return b;
}

static int check_options(const struct broker_options *o)
{
	for (unsigned i = 0; i < array_size(o->reserved); i++) {
		if (o->reserved[i] != 0) {
			return errstate_set(&attach_error, BROKER_E_ARGUMENT,
				"broker_options.reserved must be 0");
		}
	}
	if (o->result_kib != 0 && (o->result_kib < 64 || o->result_kib > 1024)) {
		return errstate_set(&attach_error, BROKER_E_ARGUMENT,
			"broker_options.result_kib is %u, not 0 or from 64 to 1024", o->result_kib);
	}
	if (o->pool != NULL && strlen(o->pool) >= ATTACH_NAME_MAX) {
		return errstate_set(&attach_error, BROKER_E_ARGUMENT,
			"broker_options.pool is longer than %u bytes", ATTACH_NAME_MAX - 1);
	}
	return 0;
}

int broker_attach(const struct broker_options *opt, struct broker **out)
{
	static const struct broker_options defaults;
	struct broker *b;
	int rc;

	if (out == NULL) {
		return errstate_set(&attach_error, BROKER_E_ARGUMENT, "out is NULL");
	}
	*out = NULL;
	opt = opt != NULL ? opt : &defaults;
	rc = check_options(opt);
	if (rc < 0) {
		return rc;
	}
	b = handle_create(opt);
	if (b == NULL) {
		return errstate_set(&attach_error, BROKER_E_MEMORY, "no memory for a handle");
	}
	rc = attach_once(b, attach_deadline(b));
	if (rc < 0) {
		const struct broker_error *e = &b->err.pub;

		errstate_verdict(&attach_error, rc, e->outcome, e->retry_safe, "%s", e->message);
		handle_free(b);
		return rc;
	}
	*out = b;
	return 0;
}

void broker_detach(struct broker **bp)
{
	if (bp == NULL || *bp == NULL || handle_enter(*bp) < 0) {
		return;
	}
	handle_free(*bp);
	*bp = NULL;
}

int broker_fd(struct broker *b)
{
	int rc = handle_enter(b);

	if (rc < 0) {
		return rc;
	}
	rc = handle_ready(b, 0);
	if (rc == 0) {
		rc = chan_make_fd(b->chan);
	}
	if (rc < 0) {
		return rc;
	}
	b->wants_fd = true;
	return b->chan->poll_fd;
}

const char *broker_last_server(const struct broker *b)
{
	return b != NULL && b->magic == HANDLE_MAGIC ? b->last_server : "";
}
