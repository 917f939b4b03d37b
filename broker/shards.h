/* SPDX-License-Identifier: MIT */
/*
 * shards.h - several I/O threads in one broker: their mail, and the world that stands still.
 *
 * A *shard* is one struct io with its loop, its thread, and everything that hangs off it: sessions,
 * pools with members and connections, statements, timers, a part of the board.  A session and all
 * it asks for stay with one shard.  Nothing of a shard is touched by another thread, but for:
 *
 *   mail        a message that the receiving shard deliver()s to itself at the start of a turn
 *   the world   shard 0 has all others stand still between two turns, and may then do anything to
 *               their structures as if it were their thread
 *   lines, tallies   words that say what a shard has and lacks (lending.h), how many connections
 *                    there
 *               are (tally.h)
 *   io_shared   rows and seats, under a lock that is taken when something is opened or attached
 *
 * Shard 0 runs on the main thread.  It is the one that listens, probes servers, reloads, and starts
 * and ends all of it; the others do nothing but serve.
 *
 * With one I/O thread none of this exists: io->shards is NULL and every function here does nothing.
 *
 *                     any thread of a shard   shard 0
 *   shards_post              yes                yes
 *   shards_stop, _go, create, start, join, destroy, place     yes
 *
 * Progress: a shard never waits for another; shard 0 waits in shards_stop until the others have
 * ended their turns, none of which blocks.
 */
#ifndef BROKER_SHARDS_H
#define BROKER_SHARDS_H

#include "check.h"

#include <stdbool.h>
#include <urcu/wfcqueue.h>

struct io;
struct shards;

/* What a message begins with. */
struct mail {
	struct cds_wfcq_node node;
	/* On the receiving shard's thread, or on shard 0's while the world stands still.  m is
	 * its. */
	void (*deliver)(struct io *io, struct mail *m);
};

#define SHARDS_MAX 16u

/*
 * io, which io_init has made, becomes shard 0 of n.  The others are made by io_init_beside, and get
 * parts of io's board; io has one as well from then on.  Their threads do not run yet.  Negative:
 * no memory, or no loop; a text was logged.
 */
int shards_create(struct io *io, unsigned n, unsigned max_pools, unsigned max_servers) must_use;
/* Run the loops of the others.  Negative: not all could be started, a text was logged; shards_join
 * runs those until they are dry. */
int shards_start(struct io *io) must_use;
/* All loops were closed: wait until they have run dry. */
void shards_join(struct io *io);
/* After shards_join, and io_finish for each of the others. */
void shards_destroy(struct io *io);

/* 1: io is alone.  Number i of all. */
unsigned shards_count(const struct io *io);
struct io *shards_at(struct io *io, unsigned i);

/* Ring `to` and have m delivered. */
void shards_post(struct io *to, struct mail *m);
/* Ring `to`: it makes a turn. */
void shards_ring(struct io *to);

/*
 * Between the two all other shards stand still, no mail is under way, and shard 0 may act for any
 * of them.  May be nested.
 */
void shards_stop(struct io *io);
void shards_go(struct io *io);
/* While the world stands still: io gets no mail any more and its loop may run dry. */
void shards_close(struct io *io);

/* The shard that gets the next session; it counts as placed until shards_unplace. */
struct io *shards_place(struct io *io);
void shards_unplace(struct io *io);

#endif
