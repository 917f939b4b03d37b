/* SPDX-License-Identifier: MIT */
/*
 * stmtcache.h - which statement texts the broker knows by number, for one channel.
 *
 * The first use of a text sends it with REQ_F_DEFINE and a number from 1 to CHAN_MAX_STMTS - 1;
 * later uses send the number alone.  When all are taken the least recently used one is defined
 * anew. Order makes this safe: the broker reads descriptors in the order they were published.
 *
 * A definition that could not be sent after all is taken back with stmtcache_forget.
 */
#ifndef CLIENT_STMTCACHE_H
#define CLIENT_STMTCACHE_H

#include "check.h"
#include "layout.h"

/* Longer texts are not worth keeping twice. */
#define STMTCACHE_TEXT_MAX CHAN_STMT_TEXT_MAX

struct stmtcache;

struct stmtcache_key {
	const char *text;
	size_t len;
	uint64_t hash;
	uint32_t id; /* 0: not known */
};

/* limit: highest number to use, at most CHAN_MAX_STMTS - 1.  NULL: out of memory. */
struct stmtcache *stmtcache_create(uint32_t limit) must_use;
void stmtcache_destroy(struct stmtcache *sc);

/* Fill *key for a text.  Known: marked as used.  Texts that are too long are never known. */
void stmtcache_find(struct stmtcache *sc, const char *text, size_t len, struct stmtcache_key *key);
/*
 * Take a number for an unknown text, to be sent with REQ_F_DEFINE.  0: send the text without number
 * (too long, or out of memory).
 */
uint32_t stmtcache_define(struct stmtcache *sc, const struct stmtcache_key *key);
/* The descriptor with the definition was not sent after all. */
void stmtcache_forget(struct stmtcache *sc, uint32_t id);

#endif
