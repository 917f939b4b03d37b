/* SPDX-License-Identifier: MIT */
/*
 * handback.h - who writes while a primary has come back and a journal has to reach it first; and
 * from where the fallback's copies of tables are refreshed.
 *
 * decide() names the server that can take writes; for a pool with `fallback = journal` this file
 * has the last word on which one does:
 *
 *   NONE ---- a primary, but rows of the journal are pending, or writes run on SQLite ---> REPLAY
 *   REPLAY --------- the courier is near the end of the journal ---------------------> SETTLING
 *   SETTLING ------- nothing that writes is open on SQLite any more -----------------> DRAINING
 *   DRAINING ------- the courier has replayed the last row --------------------------> NONE
 *   any ---- the primary is gone, or it is another one, or the courier failed --> NONE or REPLAY
 *
 *   NONE      the writer is as decided
 *   REPLAY    the writer is SQLite: its journal grows while it is read.  Where it grows as fast as
 *             it is replayed, requests are held for parts of a second
 *   SETTLING, DRAINING   nobody writes: requests wait.  A transaction that stays open on SQLite
 *             for longer than acquire_timeout is rolled back
 *
 * I/O thread only.
 */
#ifndef BROKER_HANDBACK_H
#define BROKER_HANDBACK_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct courier;
struct member;
struct pool;

enum handback_state {
	HANDBACK_NONE,
	HANDBACK_REPLAY,
	HANDBACK_SETTLING,
	HANDBACK_DRAINING,
};

struct handback {
	struct pool *pool;
	struct courier *courier; /* NULL: the pool has no use for one, or it is being replaced */
	bool journal; /* the local server keeps one */
	bool leaving; /* a courier is on its way out; another follows when it is gone */
	bool wanted; /* one is needed */
	enum handback_state state;
	uint64_t held_ns; /* REPLAY: nobody writes for a moment, since then; 0: not so */
	int target; /* the server replayed to */
	uint64_t since_ns; /* of state */
};

/* For the members that p has now; after each pool_apply.  Negative: no courier so far, and a text;
 * it is tried again. */
int handback_configure(struct pool *p, char *err, size_t errlen) must_use;
/* The pool closes. */
void handback_close(struct pool *p);
bool handback_is_closed(const struct pool *p);

/* Who writes, as things are; after each decision. */
struct member *handback_writer(struct pool *p);
/* Each turn in which something waits, and each tick. */
void handback_step(struct pool *p);
/* A text for people while requests wait for it, else NULL. */
const char *handback_why(const struct pool *p);

#endif
