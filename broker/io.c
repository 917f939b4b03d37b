/* SPDX-License-Identifier: MIT */
/* io.c - see io.h. */
#include "io.h"

#include "conn.h"
#include "doorbell.h"
#include "lending.h"
#include "log.h"
#include "pool.h"
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

/* Passes over the hot sessions before the loop looks at its sockets again. */
#define IO_PASSES 4u
#define IO_BELL_BATCH 64

static uint64_t boottime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void io_share_cpus(struct io *io, unsigned threads)
{
	io->lanes = (usable_cpus() + threads) / threads;
	io->spin.on = io->lanes > 2;
}

uv_loop_t *io_uv(struct io *io)
{
	return &io->loop;
}

uint64_t io_now(struct io *io)
{
	if (!io->now_fresh) {
		io->now_ns = doorbell_now();
		io->now_fresh = true;
	}
	return io->now_ns;
}

void conn_want_flush(struct conn *c)
{
	if (!c->flush_wanted) {
		c->flush_wanted = true;
		cds_list_add_tail(&c->flush_link, &c->io->flush);
	}
}

unsigned io_take_conn_row(struct io *io)
{
	struct io_shared *s = io->shared;
	unsigned row = BOARD_NONE;

	pthread_mutex_lock(&s->lock);
	for (; row == BOARD_NONE && s->free_conn_row < s->nconn_rows; s->free_conn_row++) {
		if (!s->conn_row_taken[s->free_conn_row]) {
			s->conn_row_taken[s->free_conn_row] = true;
			row = s->free_conn_row;
		}
	}
	pthread_mutex_unlock(&s->lock);
	return row;
}

void io_drop_conn_row(struct io *io, unsigned row)
{
	struct io_shared *s = io->shared;

	if (row != BOARD_NONE) {
		board_conn_row(io->board, row, NULL);
		pthread_mutex_lock(&s->lock);
		s->conn_row_taken[row] = false;
		s->free_conn_row = row < s->free_conn_row ? row : s->free_conn_row;
		pthread_mutex_unlock(&s->lock);
	}
}

static void on_again(uv_idle_t *h)
{
	uv_idle_stop(h); /* its only effect is that this turn did not block */
}

void io_again(struct io *io)
{
	if (!uv_is_closing((uv_handle_t *)&io->again)) {
		uv_idle_start(&io->again, on_again);
	}
}

/* -- looking instead of sleeping --------------------------------------------------------------- */

/* There was something to do just now: look for more? */
static bool may_spin(const struct io *io)
{
	return spin_may(&io->spin, io->worked_ns, io->worked_ns);
}

/* There was nothing: look again?  Reads the time after each yield, so io->now_ns is of this
 * turn. */
static bool spin(struct io *io)
{
	uint64_t now;

	if (!spin_may(&io->spin, io->worked_ns, io->now_ns)) {
		return false;
	}
	now = spin_yield(&io->spin, io->now_ns);
	board_count(io->board, METRIC_LOOP_SPIN, now - io->looked_ns);
	io->looked_ns = now;
	return true;
}

/* -- the turn -------------------------------------------------------------------------------- */

static unsigned poll_hot(struct io *io)
{
	unsigned taken = 0;

	for (struct cds_list_head *p = io->hot.next, *n; p != &io->hot; p = n) {
		n = p->next; /* session_poll may take the session off the list */
		taken += session_poll(session_of_hot(p));
	}
	return taken;
}

static void dispatch_pools(struct io *io)
{
	for (unsigned i = 0; i < io->npools; i++) {
		if (io->pools[i] != NULL) {
			pool_dispatch(io->pools[i]);
		}
	}
}

static void flush_conns(struct io *io)
{
	while (!cds_list_empty(&io->flush)) {
		struct conn *c = cds_list_first_entry(&io->flush, struct conn, flush_link);

		cds_list_del(&c->flush_link);
		c->flush_wanted = false;
		c->turn_sends = 0;
		if (c->state != CONN_CLOSED && c->state != CONN_CLOSING) {
			board_pool_count(io->board, c->pool->index, POOL_METRIC_FLUSHES, 1);
			if (c->resume_wanted) {
				c->resume_wanted = false;
				c->driver->resume(c);
			}
			c->driver->flush(c);
		}
	}
}

/*
 * Publish all, then one fence, then look who sleeps: the fence is F2 of the doorbell protocol for
 * every session at once.
 */
static void answer(struct io *io)
{
	if (cds_list_empty(&io->dirty)) {
		return;
	}
	for (struct cds_list_head *p = io->dirty.next; p != &io->dirty; p = p->next) {
		session_publish(session_of_dirty(p));
	}
	full_fence();
	while (!cds_list_empty(&io->dirty)) {
		session_wake(session_of_dirty(io->dirty.next)); /* leaves the list */
	}
}

/* Arm every hot session; true if one of them had published meanwhile. */
static bool arm_hot(struct io *io)
{
	bool found = false;

	for (struct cds_list_head *p = io->hot.next; p != &io->hot; p = p->next) {
		session_set_need_wake(session_of_hot(p), 1);
	}
	full_fence(); /* F1, for all of them */
	for (struct cds_list_head *p = io->hot.next, *n; p != &io->hot; p = n) {
		n = p->next;
		found |= session_look_again(session_of_hot(p));
	}
	return found;
}

static void disarm_hot(struct io *io)
{
	for (struct cds_list_head *p = io->hot.next; p != &io->hot; p = p->next) {
		session_set_need_wake(session_of_hot(p), 0);
	}
}

static void work(struct io *io)
{
	dispatch_pools(io);
	flush_conns(io);
	answer(io);
}

/* With other I/O threads, which this must not keep waiting: true, it does. */
static bool keeps_others_waiting(struct io *io)
{
	bool some = false;

	for (unsigned i = 0; i < io->npools; i++) {
		some |= io->pools[i] != NULL && lending_is_due(io->pools[i]);
	}
	return some;
}

/* Before the fence in arm_hot, see lending.h; a loop that goes on looking shows it as well. */
static void show_lines(struct io *io)
{
	for (unsigned i = 0; i < io->npools; i++) {
		if (io->pools[i] != NULL) {
			lending_show(io->pools[i]);
		}
	}
}

/* The loop may block now, unless somebody needs it. */
static void arm(struct io *io)
{
	if (arm_hot(io) || (io->lines != NULL && keeps_others_waiting(io))) {
		io_again(io);
	}
	io->now_fresh = false; /* somebody may have read it meanwhile */
}

/* All but the arming; true if there was anything to do. */
static bool take_turn(struct io *io)
{
	uint64_t start = doorbell_now();
	bool worked = !cds_list_empty(&io->dirty) || !cds_list_empty(&io->flush);

	io->now_ns = start;
	io->now_fresh = true;
	disarm_hot(io); /* from here on who publishes is seen without a bell */
	for (unsigned pass = 0; pass < IO_PASSES; pass++) {
		unsigned taken = poll_hot(io);

		if (taken == 0 && pass > 0) {
			break;
		}
		/* What was taken is judged by a clock read after its worker could see that: see
		 * request_is_late. */
		if (taken > 0) {
			worked = true;
			io->now_fresh = false;
		}
		work(io);
	}
	if (io->lines != NULL) {
		show_lines(io);
	}
	io->now_ns = doorbell_now();
	io->now_fresh = false; /* the loop may block now */
	if (worked) {
		board_count(io->board, METRIC_LOOP_TURNS, 1);
		board_count(io->board, METRIC_LOOP_BUSY, io->now_ns - start);
		spin_learn(&io->spin, start - io->worked_ns);
		io->worked_ns = io->looked_ns = io->now_ns;
	}
	return worked;
}

void io_turn(struct io *io)
{
	(void)take_turn(io);
	arm(io);
}

static void on_prepare(uv_prepare_t *h)
{
	struct io *io = h->data;

	if (take_turn(io) ? may_spin(io) : spin(io)) {
		io_again(io); /* nobody needs to ring meanwhile */
	} else {
		arm(io);
	}
}

/* -- bells ------------------------------------------------------------------------------------ */

static void on_bells(uv_poll_t *h, int status, int events)
{
	struct io *io = h->data;
	struct epoll_event ev[IO_BELL_BATCH];
	int n;

	(void)status;
	(void)events;
	do {
		n = epoll_wait(io->bell_epoll, ev, IO_BELL_BATCH, 0);
		for (int i = 0; i < n; i++) {
			board_count(io->board, METRIC_BELLS_RECEIVED, 1);
			session_bell(ev[i].data.ptr);
		}
	} while (n == IO_BELL_BATCH);
}

/*
 * Edge-triggered: each write to the eventfd is one event, and the counter need never be read.
 * libuv watches level-triggered, hence an epoll of our own inside its epoll.
 */
int io_bell_add(struct io *io, int efd, struct session *s)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data = {.ptr = s}};

	return epoll_ctl(io->bell_epoll, EPOLL_CTL_ADD, efd, &ev) < 0 ? -errno : 0;
}

void io_bell_del(struct io *io, int efd)
{
	(void)epoll_ctl(io->bell_epoll, EPOLL_CTL_DEL, efd, NULL);
}

/* -- timers ------------------------------------------------------------------------------------ */

static void on_wheel(uv_timer_t *h)
{
	struct io *io = h->data;

	timer_wheel_run(&io->wheel, io_now(io));
	if (io->wheel.count == 0) {
		uv_timer_stop(h);
	}
}

void io_timer_set(struct io *io, struct timer *t, uint64_t when_ns)
{
	if (!uv_is_active((uv_handle_t *)&io->wheel_timer)) { /* the wheel stood still */
		timer_wheel_skip(&io->wheel, io_now(io));
		uv_timer_start(&io->wheel_timer, on_wheel, TIMER_TICK_MS, TIMER_TICK_MS);
	}
	timer_set(&io->wheel, t, when_ns);
}

void io_timer_clear(struct io *io, struct timer *t)
{
	timer_clear(&io->wheel, t);
}

static void on_tick(uv_timer_t *h)
{
	struct io *io = h->data;

	board_heartbeat(io->board, boottime_ns());
	for (unsigned i = 0; i < io->npools; i++) {
		if (io->pools[i] != NULL) {
			pool_tick(io->pools[i]);
		}
	}
	for (struct cds_list_head *p = io->sessions.next, *n; p != &io->sessions; p = n) {
		n = p->next;
		session_tick(session_of_link(p));
	}
	if (io->on_tick != NULL) {
		io->on_tick(io, io->on_tick_arg);
	}
}

/* -- life -------------------------------------------------------------------------------------- */

int io_init(struct io *io, const struct config *config, struct board *board)
{
	int err;

	memset(io, 0, sizeof(*io));
	io->config = config;
	io->board = board;
	CDS_INIT_LIST_HEAD(&io->sessions);
	CDS_INIT_LIST_HEAD(&io->hot);
	CDS_INIT_LIST_HEAD(&io->dirty);
	CDS_INIT_LIST_HEAD(&io->flush);
	CDS_INIT_LIST_HEAD(&io->free_requests);
	io->now_ns = doorbell_now();
	io->thread = uv_thread_self();
	timer_wheel_init(&io->wheel, io->now_ns);
	io_share_cpus(io, 1);
	io->statements = statements_create(4096);
	if (io->statements == NULL) {
		return -ENOMEM;
	}
	io->bell_epoll = epoll_create1(EPOLL_CLOEXEC);
	if (io->bell_epoll < 0) {
		return -errno;
	}
	err = uv_loop_init(&io->loop);
	if (err < 0) {
		return err;
	}
	uv_prepare_init(&io->loop, &io->prepare);
	uv_idle_init(&io->loop, &io->again);
	uv_timer_init(&io->loop, &io->wheel_timer);
	uv_timer_init(&io->loop, &io->tick);
	uv_poll_init(&io->loop, &io->bells, io->bell_epoll);
	io->prepare.data = io->again.data = io->wheel_timer.data = io->tick.data = io->bells.data =
		io;
	uv_prepare_start(&io->prepare, on_prepare);
	uv_timer_start(&io->tick, on_tick, 0, IO_TICK_MS);
	uv_poll_start(&io->bells, UV_READABLE, on_bells);
	return 0;
}

int io_init_beside(struct io *io, const struct io *first, struct board *board)
{
	int err = io_init(io, first->config, board);

	io->shared = first->shared;
	io->identity = first->identity;
	return err;
}

void io_run(struct io *io)
{
	uv_run(&io->loop, UV_RUN_DEFAULT);
}

void io_stop(struct io *io)
{
	uv_close((uv_handle_t *)&io->prepare, NULL);
	uv_close((uv_handle_t *)&io->again, NULL);
	uv_close((uv_handle_t *)&io->wheel_timer, NULL);
	uv_close((uv_handle_t *)&io->tick, NULL);
	uv_close((uv_handle_t *)&io->bells, NULL);
}

void io_finish(struct io *io)
{
	int err = uv_loop_close(&io->loop);

	if (err < 0) {
		log_error("the event loop still has open handles: %s", uv_strerror(err));
	}
	while (!cds_list_empty(&io->free_requests)) {
		struct request *r = cds_list_first_entry(&io->free_requests, struct request, link);

		cds_list_del(&r->link);
		free(r);
	}
	statements_destroy(io->statements);
	close(io->bell_epoll);
}
