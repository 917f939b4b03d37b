/* SPDX-License-Identifier: MIT */
/*
 * failover_world.h - the broker's core with three servers under it that fail and take each other's
 * place, workers above, and books of what was written where.
 *
 *   failover_db.c      the servers: histories, replication, connections, probes
 *   failover_worker.c  the workers
 *   failover_oracle.c  what must be true after each step, and at rest
 *   failover_world.c   time, beginning, end
 *   test_failover_model.c  what happens
 *
 * Real are io.c with its libuv loop, session.c, request.c, lease.c, pool.c, choice.c, member.c,
 * conn.c, health.c, failover.c, server.c, and the segments and rings of each worker.  The servers
 * are a driver of this world's own; the clock is as well (doorbell_now is wrapped at link time).
 *
 * A history is what a server has committed: the numbers of the writes, or of the transactions that
 * hold them, in order.  The lead is the
 * server that was promoted last; its history is the one that counts.  With `safe` a commit is
 * acknowledged when a standby has it as well, and the standby that has most, and all that was
 * acknowledged, may be promoted at any time, whatever the old primary does; it goes on as a zombie.
 * Without, a commit is acknowledged at once; a standby may be promoted only when the lead has ended
 * and it has all, and the old primary comes back as a zombie only after the broker can have known
 * better.
 *
 * One thread; one world at a time.
 */
#ifndef FAILOVER_WORLD_H
#define FAILOVER_WORLD_H

#include "conn.h"
#include "io.h"
#include "lease.h"
#include "pool.h"
#include "request_core.h"
#include "server.h"
#include "session.h"
#include "tap.h"
#include "wire.h"

#include <stdio.h>
#include <string.h>

#define MS 1000000ull
#define MACHINES 3u
#define LOCAL MACHINES /* index of the local server, if there is one */
#define WORKERS 4u
#define CONNS 2u
#define RECS 4096u
#define NONE UINT16_MAX
#define QUEUE 64u
#define HISTORY 8192u
#define GHOSTS 64u
#define LSN_STEP 100u /* bytes of WAL of an entry */
#define STEP_MS 10u
/* Later than its deadline nobody is answered: what is promised, and the steps of time here. */
#define LATE_MS (100u + 3 * STEP_MS)
/* A lead that can be reached and takes writes is used after at most so long: a probe; a quick one
 * if nobody is taken for the writer. */
#define FIND_MS (500u + 10u * STEP_MS)
#define FIND_SOON_MS 300u
/* A server that does not answer is taken for down after at most so long: three probes that time
 * out, the one that was answered before, and the steps of time. */
#define DOWN_MS (3u * 500u + 500u + 10u * STEP_MS)

enum kind {
	K_LEASE_TX,
	K_LEASE_RO, /* a read-only transaction */
	K_LEASE,
	K_EXEC, /* a write in a lease */
	K_LOOK, /* a read in a lease */
	K_READ,
	K_FRESH, /* a read that must see what its worker wrote */
	K_WRITE,
	K_COMMIT,
	K_ROLLBACK,
	K_RELEASE,
};

/* One request, as its worker and as the servers know it. */
struct rec {
	uint8_t worker, kind;
	uint16_t lease; /* its record, or NONE */
	bool answered, gone; /* gone: its worker died */
	bool ok, unknown; /* as answered */
	bool cancel_asked;
	bool ended, end_answered; /* LEASE */
	bool waits; /* the broker has it; not started, granted or answered */
	unsigned sends, refused; /* refused: by a server that takes no writes */
	unsigned committed; /* times a server committed it */
	bool durable; /* its worker was told that it is committed */
	unsigned durable_at; /* number of records there were then */
	uint64_t deadline_ns;
	unsigned turn; /* in which it was sent */
};

struct started {
	uint16_t rec;
	bool begins, done; /* done: the server has executed it */
	uint32_t at; /* done: length of the history that holds it, 0: nothing to hold */
	uint8_t error; /* enum outcome: what it will answer */
};

enum outcome { OUT_OK, OUT_READONLY, OUT_ABORTED };

/* What runs in one backend. */
struct work {
	struct started queue[QUEUE];
	unsigned n;
	bool in_tx, failed;
	uint16_t pending[QUEUE]; /* writes of the open transaction */
	unsigned npending;
};

enum link_state { LINK_CLOSED, LINK_CONNECTING, LINK_OPEN, LINK_CLOSING };

/* A connection, as the server knows it. */
struct link {
	struct conn *c;
	enum link_state state;
	struct work work;
	uint16_t owner; /* lease whose statements run or ran here last, or NONE */
	bool broken; /* the server has closed it */
	bool cancel, reset;
	uint64_t since_ns;
};

struct machine {
	bool running, hung; /* hung: all its processes stand still */
	bool cut; /* no packet passes between it and the broker */
	bool primary, read_only, hold; /* hold: receives and does not replay */
	uint32_t timeline;
	unsigned upstream; /* standby */
	uint16_t history[HISTORY];
	uint32_t length, replayed;
	struct work ghosts[GHOSTS]; /* of connections that were closed while it stood still */
	unsigned nghosts;
	struct link link[CONNS];
	struct server *asked; /* a probe waits for its answer */
	uint64_t silent_ns; /* since when it answers nobody; 0: it does */
	bool doubtful; /* it refused a write, and was not probed since */
};

struct worker {
	struct wire wire;
	uint16_t lease; /* open one, or NONE */
};

struct plan {
	const char *name;
	bool safe;
	enum read_from read_from;
	enum fallback fallback;
};

struct overlooked {
	uint16_t rec, by;
};

struct world {
	struct plan plan;
	unsigned nservers;
	struct config config;
	struct config_server server_config[MACHINES + 1];
	struct config_pool pool_config;
	char *names[MACHINES + 1];
	struct server *servers[MACHINES + 1];
	struct board *board;
	struct io io;
	struct pool *pool;
	struct io_shared shared;
	struct io_seat seats[WORKERS * 2];
	bool rows[(MACHINES + 1) * CONNS];
	struct machine machine[MACHINES + 1];
	unsigned lead;
	uint32_t promised; /* so much of its history must survive */
	uint64_t lsn_base;
	uint64_t lead_ok_ns; /* since when it can be reached and takes writes; 0: it does not */
	uint64_t missed_ns; /* since when it does and no server is taken for the writer */
	struct worker worker[WORKERS];
	struct rec rec[RECS];
	unsigned nrecs;
	uint32_t round; /* of world_rest, part of request ids */
	unsigned turns;
	uint64_t next_tick_ns;
	struct overlooked overlooked[QUEUE];
	unsigned noverlooked;
	struct {
		unsigned answers, unknown, failed, failovers, fallbacks;
	} seen;
	char failure[256];
};

/* Note what is wrong; the first counts. */
void wrong(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define must(w, cond, ...)                                                                         \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			wrong((w), __VA_ARGS__);                                                   \
		}                                                                                  \
	} while (0)

/* A number below n. */
static inline unsigned pick(unsigned n)
{
	return (unsigned)rand() % n;
}

/* -- records ----------------------------------------------------------------------------------- */

static inline bool is_lease(uint8_t kind)
{
	return kind <= K_LEASE;
}

static inline bool is_end(uint8_t kind)
{
	return kind >= K_COMMIT;
}

static inline bool is_statement(uint8_t kind)
{
	return !is_lease(kind) && !is_end(kind);
}

static inline bool is_write(uint8_t kind)
{
	return kind == K_EXEC || kind == K_WRITE;
}

/* Any server that takes reads will do. */
static inline bool roams(uint8_t kind)
{
	return kind == K_READ || kind == K_FRESH || kind == K_LEASE_RO;
}

static inline bool in_tx(const struct world *w, const struct rec *r)
{
	return r->lease != NONE && w->rec[r->lease].kind != K_LEASE;
}

static inline uint64_t id_of(const struct world *w, unsigned rec)
{
	return (uint64_t)w->round << 16 | (rec + 1);
}

/* Record of a request of this round, or NONE. */
static inline uint16_t rec_of(const struct world *w, uint64_t id)
{
	uint64_t i = id & 0xffff;

	return id >> 16 == w->round && i >= 1 && i <= w->nrecs ? (uint16_t)(i - 1) : NONE;
}

/* The lease as the broker has it, or NULL. */
static inline struct lease *real_lease(struct world *w, uint16_t lease)
{
	const struct rec *r = &w->rec[lease];

	return r->gone ? NULL : session_find_lease(w->worker[r->worker].wire.s, id_of(w, lease));
}

static inline bool lease_is(struct world *w, uint16_t lease, enum lease_state state)
{
	const struct lease *l = lease != NONE ? real_lease(w, lease) : NULL;

	return l != NULL && l->state == state;
}

/* -- failover_world.c -------------------------------------------------------------------------- */

/* Ends the test if that is impossible. */
struct world *world_create(const struct plan *plan);
/* False: a session or a handle of the loop stayed. */
bool world_destroy(struct world **w);
uint64_t world_now(void);
/* Time passes, in steps of STEP_MS at most, with all timers and ticks. */
void world_pass(struct world *w, uint64_t ns);
/* Something has happened to a server: note since when which of them can be used. */
void world_watch(struct world *w);
/* The loop turns until it has nothing to do, and the oracle looks. */
void world_turn(struct world *w);
/* All servers are mended and everybody finishes; then the books are closed, new ones begun. */
void world_rest(struct world *w);
/* Diagnostics. */
void world_tell(const struct world *w);

/* -- failover_db.c ----------------------------------------------------------------------------- */

/* From here on the driver serves this world. */
void db_serve(struct world *w);
/* One thing that a server does by itself; false: nothing can happen there. */
bool db_work(struct world *w, unsigned machine, unsigned conn);
/* A standby receives and replays something; false: there is nothing. */
bool db_replicate(struct world *w, unsigned machine, bool all);
/* Probes that can be answered are. */
void db_answer_probes(struct world *w);
/* Connections that have been on their way for too long. */
void db_time_out(struct world *w);
/* The length of the history that a server shows. */
uint32_t db_visible(const struct machine *m);

/* What happens to servers; false: it cannot happen now. */
enum mishap {
	CRASH,
	START, /* as what it was */
	HANG,
	RESUME,
	CUT,
	MEND,
	PROMOTE,
	REJOIN, /* a zombie, or a crashed one, becomes a standby of the lead */
	READ_ONLY,
	WRITABLE,
	HOLD,
	UNHOLD,
	LOSE, /* one of its connections */
	MISHAPS
};
bool db_mishap(struct world *w, enum mishap what, unsigned machine);
const char *db_mishap_name(enum mishap what);

/* -- failover_worker.c ------------------------------------------------------------------------- */

void worker_attach(struct world *w, unsigned i);
void worker_detach(struct worker *k);
/* Something at random; a text that says what. */
const char *worker_act(struct world *w, unsigned i);
/* End what is open; false: nothing is. */
bool worker_end(struct world *w, unsigned i);
/* Read what the broker has answered; number of answers. */
unsigned workers_take_answers(struct world *w);

/* -- failover_oracle.c ------------------------------------------------------------------------- */

/* A record is being served: is it its turn? */
void oracle_serve(struct world *w, uint16_t rec);
/* A statement is executed on a server: does it see what it must see? */
void oracle_read(struct world *w, uint16_t rec, const struct machine *m);
/* After each turn. */
void oracle_look(struct world *w);
/* When everybody has finished. */
void oracle_rest(struct world *w);

#endif
