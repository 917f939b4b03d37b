/* SPDX-License-Identifier: MIT */
/* courier.c - see courier.h and courier_core.h: what the I/O thread does. */
#include "courier_core.h"

#include "atomics.h"
#include "journal.h"
#include "mirror.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PATIENCE_NS 30000000000u /* the server is silent while it owes an answer */

/* -- news -------------------------------------------------------------------------------------- */

static void free_courier(struct courier *c)
{
	for (unsigned i = 0; i < c->ntargets; i++) {
		free(c->targets[i].name);
		pg_address_finish(&c->targets[i].address);
	}
	for (unsigned i = 0; i < c->nmirror; i++) {
		free(c->mirror[i]);
	}
	if (c->wake >= 0) {
		close(c->wake);
	}
	free(c->targets);
	free(c->mirror);
	free(c->pool);
	free(c->path);
	free(c->news);
	free(c->shown);
	free(c);
}

static void on_async_closed(uv_handle_t *h)
{
	struct courier *c = h->data;
	void (*gone)(void *arg) = c->gone;
	void *arg = c->gone_arg;

	uv_mutex_destroy(&c->lock);
	free_courier(c);
	if (gone != NULL) {
		gone(arg);
	}
}

static void copy_news(struct courier *c)
{
	const struct news *s = c->shown;

	uv_mutex_lock(&c->lock);
	*c->shown = *c->news;
	c->news->nconflicts = 0;
	uv_mutex_unlock(&c->lock);
	/* Numbers only grow; what a server knows of them may be less (a promoted standby). */
	c->position = s->position > c->position ? s->position : c->position;
	c->replayed = s->replayed;
	c->conflicts = s->conflicts;
	c->mirrored_at = s->mirrored_at;
	memcpy(c->mirror_error, s->mirror_error, sizeof(c->mirror_error));
}

/* The replay that is wanted has come to an end; the callback may want the next. */
static void tell_end(struct courier *c)
{
	const struct news *s = c->shown;
	uint64_t run = c->wanted.run;

	if (c->closing || c->wanted.server == COURIER_NO_SERVER || c->ended_told == run) {
		return;
	}
	if (s->caught_run == run) {
		/* Nothing was written meanwhile: what is there is what was replayed. */
		c->position += (int64_t)courier_pending(c);
		c->ended_told = run;
		c->events.caught_up(c->arg);
	} else if (s->failed_run == run) {
		c->ended_told = run;
		c->events.failed(c->arg, &s->failure);
	}
}

/* How the replay that is wanted goes, before its end. */
static void tell_course(struct courier *c)
{
	const struct news *s = c->shown;
	uint64_t run = c->wanted.run;

	if (c->closing || c->wanted.server == COURIER_NO_SERVER || c->near_told == run) {
		return;
	}
	if (s->near_run == run) {
		c->near_told = run;
		c->events.near_end(c->arg);
	} else if ((s->hold_run == run) != c->holding) {
		c->holding = !c->holding;
		c->events.hold(c->arg, c->holding);
	}
}

static void on_async(uv_async_t *h)
{
	struct courier *c = h->data;
	bool exited;

	copy_news(c);
	exited = c->shown->exited;
	for (unsigned i = 0; i < c->shown->nconflicts && !c->closing; i++) {
		c->events.conflict(c->arg, &c->shown->conflict[i]);
	}
	tell_course(c);
	tell_end(c);
	if (exited) {
		uv_thread_join(&c->thread);
		uv_close((uv_handle_t *)&c->async, on_async_closed);
	}
}

/* -- orders ------------------------------------------------------------------------------------ */

static void send_orders(struct courier *c)
{
	static const uint64_t one = 1;

	uv_mutex_lock(&c->lock);
	c->orders = c->wanted;
	uv_mutex_unlock(&c->lock);
	(void)!write(c->wake, &one, sizeof(one)); /* full: it is readable, which is the point */
	publish(&c->ordered, 1);
}

void courier_replay(struct courier *c, unsigned server)
{
	check(server < c->ntargets);
	if (c->wanted.server == server && c->ended_told != c->wanted.run) {
		return;
	}
	c->wanted.run++;
	c->wanted.server = server;
	c->wanted.drain = false;
	c->holding = false;
	send_orders(c);
}

void courier_drain(struct courier *c)
{
	if (!c->wanted.drain) {
		c->wanted.drain = true;
		send_orders(c);
	}
}

void courier_halt(struct courier *c)
{
	if (c->wanted.server != COURIER_NO_SERVER) {
		c->wanted.run++;
		c->wanted.server = COURIER_NO_SERVER;
		c->wanted.drain = false;
		send_orders(c);
	}
}

void courier_mirror(struct courier *c, int server)
{
	check(server < (int)c->ntargets);
	if (c->wanted.mirror != server) {
		c->wanted.mirror = server;
		send_orders(c);
	}
}

uint64_t courier_pending(const struct courier *c)
{
	uint64_t last = c->last_seen;

	if (c->tail != NULL && observe(&c->tail->last) > last) {
		last = observe(&c->tail->last);
	}
	return last > (uint64_t)c->position ? last - (uint64_t)c->position : 0;
}

uint64_t courier_replayed(const struct courier *c)
{
	return c->replayed;
}

uint64_t courier_conflicts(const struct courier *c)
{
	return c->conflicts;
}

int64_t courier_mirrored_at(const struct courier *c)
{
	return c->mirrored_at;
}

const char *courier_mirror_error(const struct courier *c)
{
	return c->mirror_error;
}

/* -- life -------------------------------------------------------------------------------------- */

static bool copy_targets(struct courier *c, const struct courier_options *opt)
{
	c->targets = calloc(opt->nservers, sizeof(*c->targets));
	if (c->targets == NULL) {
		return false;
	}
	for (unsigned i = 0; i < opt->nservers; i++) {
		struct target *t = &c->targets[c->ntargets++];

		t->connect_timeout = opt->servers[i].connect_timeout;
		t->is_pg = opt->servers[i].pg != NULL;
		t->name = strdup(opt->servers[i].name);
		if (t->name == NULL ||
			(t->is_pg && pg_address_copy(opt->servers[i].pg, &t->address) < 0)) {
			return false;
		}
	}
	return true;
}

static bool copy_mirror(struct courier *c, const struct courier_options *opt)
{
	c->mirror = calloc(opt->nmirror + 1, sizeof(*c->mirror));
	if (c->mirror == NULL) {
		return false;
	}
	for (unsigned i = 0; i < opt->nmirror; i++) {
		c->mirror[c->nmirror++] = strdup(opt->mirror[i]);
		if (c->mirror[i] == NULL) {
			return false;
		}
	}
	return true;
}

static bool copy_options(struct courier *c, const struct courier_options *opt)
{
	c->tail = opt->tail;
	c->mirror_interval_ns = opt->mirror_interval_ns;
	c->events = opt->events;
	c->arg = opt->arg;
	c->wanted.server = COURIER_NO_SERVER;
	c->wanted.mirror = -1;
	c->orders = c->now = c->wanted;
	c->pg.stop = courier_must_stop;
	c->pg.arg = c;
	c->pg.patience_ns = PATIENCE_NS;
	c->busy_limit_ns = COURIER_BUSY_NS;
	c->pool = strdup(opt->pool);
	c->path = strdup(opt->path);
	c->news = calloc(1, sizeof(*c->news));
	c->shown = calloc(1, sizeof(*c->shown));
	c->wake = c->pg.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return c->pool != NULL && c->path != NULL && c->news != NULL && c->shown != NULL &&
	       c->wake >= 0 && copy_targets(c, opt) && copy_mirror(c, opt);
}

static int look_for_rows(struct courier *c, char *err, size_t errlen)
{
	int64_t before, last;
	struct sqlite_failure f;

	if (c->tail == NULL) {
		return 0;
	}
	if (journal_look(c->path, c->pool, &before, &last, &f) < 0) {
		snprintf(err, errlen, "%s: the journal cannot be read: %s", c->path, f.message);
		return -1;
	}
	c->position = c->news->position = before;
	c->last_seen = (uint64_t)last;
	return 0;
}

/* Signals are the loop's business. */
static int start_thread(struct courier *c)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = uv_thread_create(&c->thread, courier_thread_main, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

int courier_create(
	const struct courier_options *opt, struct courier **out, char *err, size_t errlen)
{
	struct courier *c = calloc(1, sizeof(*c));
	int rc;

	if (c == NULL || !copy_options(c, opt)) {
		snprintf(err, errlen, "out of memory or descriptors");
		goto err_free;
	}
	if (look_for_rows(c, err, errlen) < 0) {
		goto err_free;
	}
	if (uv_mutex_init(&c->lock) < 0) {
		snprintf(err, errlen, "out of memory");
		goto err_free;
	}
	rc = uv_async_init(opt->loop, &c->async, on_async);
	if (rc < 0) {
		snprintf(err, errlen, "%s", uv_strerror(rc));
		uv_mutex_destroy(&c->lock);
		goto err_free;
	}
	c->async.data = c;
	rc = start_thread(c);
	if (rc < 0) {
		snprintf(err, errlen, "cannot start a thread: %s", uv_strerror(rc));
		uv_close((uv_handle_t *)&c->async, on_async_closed);
		return -1;
	}
	*out = c;
	return 0;

err_free:
	if (c != NULL) {
		free_courier(c);
	}
	return -1;
}

void courier_destroy(struct courier **c, void (*gone)(void *arg), void *arg)
{
	struct courier *it = *c;

	*c = NULL;
	if (it == NULL) {
		return;
	}
	it->closing = true;
	it->gone = gone;
	it->gone_arg = arg;
	it->wanted.stop = true;
	send_orders(it);
}
