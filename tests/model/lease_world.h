/* SPDX-License-Identifier: MIT */
/*
 * lease_world.h - the broker's core with a scripted database under it and scripted workers above,
 * one event at a time, and an oracle that looks on.
 *
 * Real are io.c with its libuv loop, session.c, request.c, lease.c, pool.c, conn.c, stream.c,
 * timer.c, and the segments and rings of each worker.  The database is a driver of this file's own
 * that does nothing until an event tells it to; the clock is this file's as well (doorbell_now is
 * wrapped at link time), so nothing depends on time.
 *
 * The oracle keeps one record per request with what the worker was told and what the database did,
 * and compares after each event:
 *   - a connection has one lease at most, and runs nothing for anybody else while it has one
 *   - who asked first is served first; nobody waits while a connection is idle
 *   - every statement is answered once; the answer agrees with what happened in the database
 *   - a write is given to a connection once
 *   - statements of a transaction run in it, in order, and nothing else does
 *   - a cancel reaches only what was to be cancelled
 *   - the counters on the board balance
 *   - a lease whose end was answered is gone
 * world_reset() lets everybody finish, which must always be possible, and checks that nothing is
 * left.
 *
 * One thread; one world at a time.
 */
#ifndef LEASE_WORLD_H
#define LEASE_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORLD_WORKERS 3u
#define WORLD_CONNS 2u
#define WORLD_EVENTS_MAX 64u

/* Fewer kinds of events let one look deeper. */
enum world_alphabet {
	WORLD_EVERYTHING,
	WORLD_TRANSACTIONS, /* leases with transactions, nothing but time-outs in the way */
	WORLD_CANCELS, /* statements by themselves, cancelled in every way */
};

struct world_plan {
	enum world_alphabet alphabet;
	bool split; /* as SQLite: one writer, one reader, writes share, cancels are precise; else as
		       PostgreSQL: equal connections, reads share, a cancel hits what runs */
	bool results; /* reads have results larger than the arena, and workers are slow to read */
};

struct world;

/* Ends the test if that is impossible. */
struct world *world_create(const struct world_plan *plan);
/* False: a session or a handle of the loop stayed. */
bool world_destroy(struct world **w);

/* What can happen now. */
unsigned world_events(struct world *w, uint8_t events[WORLD_EVENTS_MAX]);
/*
 * It happens.  turn: then the loop turns until it has nothing to do, and the oracle looks. Without,
 * the next event happens in the same turn (some events need a turn of their own and take it).
 */
void world_do(struct world *w, uint8_t event, bool turn);
/* Everything ends; afterwards the world is as after world_create. */
void world_reset(struct world *w);
/* Equal for states from which the same can follow. */
uint64_t world_hash(struct world *w);

/* What was wrong first, or NULL. */
const char *world_failure(const struct world *w);
const char *world_event_name(uint8_t event);
/* A statement is sent; something of the database or of time; the end of a worker or connection. */
bool world_event_is_statement(uint8_t event);
bool world_event_is_work(uint8_t event);
bool world_event_is_violent(uint8_t event);
/* Diagnostics: the records and what is on the connections. */
void world_tell(const struct world *w);

#endif
