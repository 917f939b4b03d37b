/* SPDX-License-Identifier: MIT */
/*
 * lending.h - idle connections go to the I/O thread whose workers wait.
 *
 * Each I/O thread has connections of its own, out of one common limit (member.h).  Where the limit
 * is reached, or a connection is idle elsewhere, one that has waiters and no connection for them is
 * given one: always by its owner, nobody ever takes.
 *
 * A *line* is what one I/O thread says to the others about one pool.
 *
 *   lacks[q], who[q]   since when the head of queue q waits for a connection, 0: it does not; and
 *                      of which servers it would do.  Set by the line's thread; made 0 also by the
 *                      one that is sending a connection: so each wish is fulfilled once
 *   numbers            as of the end of its last turn
 *
 * The owner of a connection that is free gives it away (conn_detach, a mail, conn_adopt) when
 *   - nobody of its own could use it, or
 *   - its own oldest waiter came more than LENDING_BOUND_NS after the other one.
 * Between waiters of different threads the order is first come, first served, within that bound; it
 * is there since handing over costs more than serving one's own, and under load somebody older
 * always waits somewhere.  A connection that is never free, because reads share it, is left to run
 * dry when somebody elsewhere, for whom nothing is being opened, has waited that long.
 *
 * Who stays with a connection he was given: it is idle there until somebody lacks it.
 *
 * Asleep.  Who lacks rings those that show idle connections; and who has one looks once more:
 *
 *     lacks: store lacks, full fence, look at idle     has: store idle, full fence, look at lacks
 *
 * so one of the two sees the other.
 *
 * Another pool's idle connection, where all pools share a server's max_connections, is closed when
 * somebody elsewhere needs the room; that is looked at each tick only, so it may take two of them.
 *
 * A thread that ends, or a broker that stops: shards_stop delivers what is under way.
 *
 * I/O thread only, but for the words of lines.
 */
#ifndef BROKER_LENDING_H
#define BROKER_LENDING_H

#include "atomics.h"
#include "check.h"

#include <stdbool.h>
#include <stddef.h>

#define LENDING_BOUND_NS (2u * 1000000u)

struct member;
struct pool;

enum pool_queue {
	POOL_QUEUE_ALL, /* those that need the writer */
	POOL_QUEUE_READS,
	POOL_QUEUES
};

enum lending_number {
	LENDING_IDLE,
	LENDING_ACTIVE,
	LENDING_CONNECTING,
	LENDING_WAITING,
	LENDING_NUMBERS
};

/* who[]: a bit for each server of the pool, and these. */
#define LENDING_STUCK (UINT64_C(1) << 32) /* nothing is being opened */
#define LENDING_CRAMPED (UINT64_C(1) << 33) /* a server has no room for it */

/* Apart by what the hardware fetches together. */
struct lending_line {
	_Alignas(128) _Atomic uint64_t lacks[POOL_QUEUES];
	_Atomic uint64_t who[POOL_QUEUES];
	_Atomic uint32_t numbers[LENDING_NUMBERS];
	_Atomic int32_t holder_pid; /* of its oldest lease, 0: none */
	_Atomic uint64_t holder_since_ns;
};

/* Of one pool in one I/O thread. */
struct lending {
	struct lending_line *line; /* NULL: there are no other I/O threads */
	uint64_t asked[POOL_QUEUES]; /* what lacks is, unless somebody has made it 0 */
	unsigned owed; /* connections on their way to us */
};

/* For n I/O threads.  NULL: no memory. */
struct lending_line *lending_lines_create(unsigned n, unsigned max_pools) must_use;
void lending_lines_destroy(struct lending_line *lines);

void lending_init(struct pool *p);
void lending_finish(struct pool *p);

/* Before waiters are served: give to others what is theirs. */
void lending_give(struct pool *p);
/* After it: say what is lacking. */
void lending_ask(struct pool *p);
/* At the end of a turn: show the numbers.  Followed by a full fence, and lending_is_due: would
 * lending_give do something? */
void lending_show(struct pool *p);
bool lending_is_due(struct pool *p);
void lending_tick(struct pool *p);

/* Does anybody in another I/O thread wait for room on m's server, for another pool? */
bool lending_needs_room(const struct member *m);

/* Sum over the other I/O threads. */
unsigned lending_sum(const struct pool *p, enum lending_number what);
/* Who has held a connection for longest, of each other I/O thread; as describe_holder writes. */
void lending_describe_holders(const struct pool *p, bool first, char *buf, size_t size);

#endif
