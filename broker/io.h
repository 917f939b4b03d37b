/* SPDX-License-Identifier: MIT */
/*
 * io.h - the I/O thread: one libuv loop and everything it owns.
 *
 * A turn of the loop is one batch:
 *   1. poll: take what the hot sessions published; requests go to their pool or lease
 *   2. dispatch: give waiting requests connections
 *   3. flush: one flush per connection that got something
 *   4. answer: publish completions per session, one fence, then wake those that sleep
 *   5. arm: if nothing was found, set need_wake for the hot sessions, look once more, and block;
 *      where the next thing to do is expected at once, go on looking instead (io.c)
 * Callbacks of sockets and executors only change state; their effects leave with step 3 and 4 of
 * the same turn, which run in uv_prepare, just before the loop would block.
 *
 * A session is hot from its bell until it was quiet for IO_QUIET_TURNS turns.  A hot session is
 * polled and costs no system call; the others are armed and cost nothing.
 *
 * Nothing here is global: another I/O thread is another struct io (shards.h).  What all of them
 * share is struct io_shared.
 */
#ifndef BROKER_IO_H
#define BROKER_IO_H

#include "board.h"
#include "config.h"
#include "driver.h"
#include "segment.h"
#include "spin.h"
#include "statement.h"
#include "timer.h"

#include <pthread.h>
#include <uv.h>

struct lending_line;
struct listener;
struct pool;
struct server;
struct session;
struct shards;

/* A row of the workers table. */
struct io_seat {
	bool taken;
	uint32_t uid;
};

/*
 * What the I/O threads of a broker share: rows of the board, and the word on what may be opened.
 * All of it under the lock, which is held for a few instructions, and never while a statement is
 * served.
 */
struct io_shared {
	pthread_mutex_t lock;
	bool *conn_row_taken; /* rows of the connections table */
	unsigned nconn_rows;
	unsigned free_conn_row; /* those before are taken */
	struct io_seat *seats; /* rows of the workers table */
	unsigned nseats;
	unsigned nseated;
	uint64_t incarnations; /* last given */
};

struct io {
	uv_loop_t loop;
	uv_prepare_t prepare;
	uv_idle_t again; /* active: do not block, there is more to do */
	uv_timer_t wheel_timer;
	uv_timer_t tick; /* housekeeping */
	uv_poll_t bells; /* of bell_epoll */
	int bell_epoll; /* eventfds of all sessions, edge-triggered, never read */
	uv_thread_t thread; /* that runs the loop */

	uint64_t worked_ns; /* end of the last turn that found something to do */
	uint64_t looked_ns; /* and of the last one that looked in vain since */
	struct spin spin; /* looking for more before the loop blocks */

	uint64_t now_ns; /* CLOCK_MONOTONIC, see io_now */
	bool now_fresh; /* read since the loop last blocked */
	const struct config *config;
	struct board *board;
	struct statements *statements;
	struct timer_wheel wheel;
	struct pool **pools;
	unsigned npools;
	unsigned lanes; /* connections of one server that short reads use before they share */
	struct server **servers; /* by their rows on the board; NULL: none any more */
	unsigned nservers;
	unsigned nremoved; /* servers that are in no table any more and have members still */
	struct io_shared *shared;
	struct shards *shards; /* NULL: no other I/O threads */
	unsigned shard; /* number among them; 0 alone does what is done once */
	struct lending_line *lines; /* with others: of all of them */
	struct listener *listener; /* NULL: nobody may attach */

	struct cds_list_head sessions; /* all, struct session.link */
	struct cds_list_head hot; /* polled each turn, struct session.hot_link */
	struct cds_list_head dirty; /* have completions to publish, struct session.dirty_link */
	struct cds_list_head flush; /* struct conn.flush_link */
	struct cds_list_head free_requests; /* struct request.link */
	unsigned nfree_requests;
	unsigned nsessions;
	struct segment_identity identity;
	bool stopping; /* no new work; session requests fail with FAIL_SHUTDOWN */
	void (*on_tick)(struct io *io, void *arg); /* broker.c's part of housekeeping */
	void *on_tick_arg;
};

#define IO_QUIET_TURNS 64u
#define IO_TICK_MS 100u

int io_init(struct io *io, const struct config *config, struct board *board) must_use;
/* Another one of the same broker. */
int io_init_beside(struct io *io, const struct io *first, struct board *board) must_use;
/* The work of one turn, at whose end the loop may block; tests do it step by step. */
void io_turn(struct io *io);
/* Run until io_stop. */
void io_run(struct io *io);
void io_stop(struct io *io);
/* After io_run: everything was closed by the callers; frees the loop. */
void io_finish(struct io *io);

/* Assert that the caller runs on the loop's thread. */
static inline void io_assert_thread(struct io *io)
{
	uv_thread_t self = uv_thread_self();

	check_slow(uv_thread_equal(&io->thread, &self));
}

/* Watch a session's eventfd.  The session is handed to session_bell() when it rings. */
int io_bell_add(struct io *io, int efd, struct session *s) must_use;
void io_bell_del(struct io *io, int efd);

/* A timer of the wheel: as timer_set, and keeps the wheel turning. */
void io_timer_set(struct io *io, struct timer *t, uint64_t when_ns);
void io_timer_clear(struct io *io, struct timer *t);

/* The loop is one of so many that share the processors. */
void io_share_cpus(struct io *io, unsigned threads);

/* A row of the connections table, BOARD_NONE if all are taken. */
unsigned io_take_conn_row(struct io *io);
void io_drop_conn_row(struct io *io, unsigned row);

/* Do not block at the end of this turn. */
void io_again(struct io *io);

#endif
