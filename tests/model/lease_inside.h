/* SPDX-License-Identifier: MIT */
/*
 * lease_inside.h - what the parts of the world of lease_world.h share.
 *
 *   lease_db.c      the scripted database
 *   lease_worker.c  the scripted workers
 *   lease_oracle.c  what must be true after each turn, and at rest
 *   lease_digest.c  a state as a number
 *   lease_world.c   events, time, beginning and end
 */
#ifndef LEASE_INSIDE_H
#define LEASE_INSIDE_H

#include "conn.h"
#include "io.h"
#include "lease.h"
#include "lease_world.h"
#include "pool.h"
#include "request_core.h"
#include "session.h"
#include "tap.h"
#include "wire.h"

#include <stdio.h>
#include <string.h>

#define MS 1000000ull
#define RECS 4096u
#define NONE UINT16_MAX
#define QUEUE 80u
#define HELD 64u

enum kind {
	K_LEASE_TX,
	K_LEASE,
	K_EXEC, /* a write in a lease */
	K_LOOK, /* a read in a lease */
	K_READ,
	K_WRITE,
	K_COMMIT,
	K_ROLLBACK,
	K_RELEASE,
};

enum effect { E_NOT, E_MAYBE, E_DONE };

/* One request, as its worker and as the database know it. */
struct rec {
	uint8_t worker;
	uint8_t kind;
	uint16_t lease; /* its record, or NONE */
	bool answered, gone; /* gone: its worker died */
	bool cancel_asked;
	bool ended; /* LEASE: COMMIT, ROLLBACK or RELEASE was sent */
	bool end_answered; /* LEASE */
	bool executed; /* in a transaction: it will be part of it */
	unsigned sends;
	enum effect effect;
	bool ok; /* answered: COMP_DONE */
	bool unknown; /* answered: it may have taken effect */
	uint64_t deadline_ns;
	unsigned turn; /* in which it was sent */
	bool waits; /* the broker has it; not started, granted or answered */
};

struct started {
	uint16_t rec;
	bool begins;
	uint32_t left; /* bytes of its result */
};

enum db_state { DB_CLOSED, DB_CONNECTING, DB_OPEN, DB_CLOSING };
enum db_tx { TX_NONE, TX_OPEN, TX_FAILED };

/* One connection, as the database knows it. */
struct db {
	struct conn *c;
	enum db_state state;
	enum db_tx tx;
	uint16_t owner; /* lease whose statements run or ran here last, or NONE */
	bool dirty;
	bool cancel, reset; /* asked for, not done */
	bool stalled; /* the head's worker does not read */
	struct started queue[QUEUE];
	unsigned n;
};

struct worker {
	struct wire wire;
	uint16_t lease; /* open one, or NONE */
	uint32_t held[HELD]; /* chunks not given back */
	unsigned nheld;
	bool used;
};

/* Somebody who asked earlier was waiting when `by` was served. */
struct overlooked {
	uint16_t rec, by;
};

struct world {
	struct world_plan plan;
	struct config config;
	struct config_server server;
	struct server *the_server;
	struct config_pool pool_config;
	char *servers[1];
	struct board *board;
	struct io io;
	struct pool *pool;
	struct io_shared shared;
	struct io_seat seats[8];
	bool rows[WORLD_CONNS];
	struct db db[WORLD_CONNS];
	struct worker worker[WORLD_WORKERS];
	struct rec rec[RECS];
	unsigned nrecs;
	uint32_t round; /* of world_reset, part of request ids */
	unsigned turns;
	struct overlooked overlooked[QUEUE];
	unsigned noverlooked;
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

/* The clock; moved by events only. */
uint64_t world_now(void);
void world_pass(uint64_t ns);
/* The loop turns until it has nothing to do, and the oracle looks. */
void world_turn(struct world *w);

/* -- records ----------------------------------------------------------------------------------- */

static inline bool is_lease(uint8_t kind)
{
	return kind == K_LEASE_TX || kind == K_LEASE;
}

static inline bool is_end(uint8_t kind)
{
	return kind == K_COMMIT || kind == K_ROLLBACK || kind == K_RELEASE;
}

static inline bool is_statement(uint8_t kind)
{
	return !is_lease(kind) && !is_end(kind);
}

static inline bool reads(uint8_t kind)
{
	return kind == K_READ || kind == K_LOOK;
}

static inline bool in_tx(const struct world *w, const struct rec *r)
{
	return r->lease != NONE && w->rec[r->lease].kind == K_LEASE_TX;
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

static inline bool lease_is_active(struct world *w, uint16_t lease)
{
	return lease_is(w, lease, LEASE_ACTIVE);
}

static inline bool all_idle(const struct world *w)
{
	return w->pool->member[0]->state_count[CONN_IDLE] == WORLD_CONNS;
}

/* -- events ------------------------------------------------------------------------------------ */

enum event {
	/* of a worker */
	W_LEASE_TX,
	W_BEGIN_EXEC, /* lease and first statement at once */
	W_LEASE,
	W_EXEC,
	W_LOOK,
	W_READ,
	W_WRITE,
	W_COMMIT,
	W_ROLLBACK,
	W_CANCEL_OLDEST,
	W_CANCEL_NEWEST,
	W_DIE,
	W_FREE, /* gives a chunk of a result back */
	W_COUNT,
	/* of a connection */
	D_OK = W_COUNT,
	D_ERROR,
	D_BEGIN_FAILS,
	D_LOST,
	D_READY,
	D_REFUSED,
	D_HIT,
	D_SETTLED,
	D_CLEAN,
	D_NOT_CLEAN,
	D_CLOSED,
	D_COUNT,
	/* of time */
	T_TIMER = D_COUNT,
	T_TICK,
	EVENT_COUNT
};

struct menu {
	uint32_t alphabet;
	uint8_t *events;
	unsigned n;
};

/* Put an event on the menu if it can happen and belongs to the alphabet. */
void offer(struct menu *m, bool cond, unsigned what, unsigned who);

/* -- lease_db.c -------------------------------------------------------------------------------- */

/* From here on the driver serves this world. */
void db_serve(struct world *w);
/* The request that the database works on; there is one. */
struct request *db_head(struct db *d);
void db_offer(struct world *w, unsigned i, struct menu *m);
void db_do(struct world *w, unsigned what, unsigned i);
/* One step towards rest; false: nothing to do. */
bool db_work(struct world *w, struct db *d);

/* -- lease_worker.c ---------------------------------------------------------------------------- */

void worker_attach(struct world *w, unsigned i);
void worker_detach(struct worker *k);
void worker_offer(struct world *w, unsigned i, struct menu *m);
void worker_do(struct world *w, unsigned what, unsigned i);
/* One step towards rest; false: nothing to do. */
bool worker_work(struct world *w, unsigned i);
/* Read what the broker has answered; number of answers. */
unsigned workers_take_answers(struct world *w);

/* -- lease_oracle.c ---------------------------------------------------------------------------- */

/* A record is being served: is it its turn? */
void oracle_serve(struct world *w, uint16_t rec);
/* COMMIT was answered: did the transaction, if anything ran in it, commit? */
void oracle_commit(struct world *w, unsigned rec);
/* After each turn. */
void oracle_look(struct world *w);
/* When everybody has finished. */
void oracle_rest(struct world *w);

#endif
