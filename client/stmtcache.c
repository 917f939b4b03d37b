/* SPDX-License-Identifier: MIT */
/*
 * stmtcache.c - see stmtcache.h.
 *
 * Open addressing with linear probing; at most half of the slots are in use, so a probe ends soon.
 * Removal moves the following entries back, so there are no tombstones.  Entries hang in a doubly
 * linked ring in order of use, with entry 0 as its head: next is the most recent, prev the oldest.
 */
#include "stmtcache.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS (CHAN_MAX_STMTS * 2u) /* power of two */

struct entry {
	char *text;
	size_t len;
	uint64_t hash;
	uint32_t prev, next;
};

struct stmtcache {
	uint32_t limit;
	uint32_t used; /* numbers ever taken: 1..used */
	uint32_t
		unused; /* numbers that stmtcache_forget took back, linked by entry.next; 0: none */
	uint16_t slot[SLOTS]; /* number, 0: free */
	struct entry entry[CHAN_MAX_STMTS];
};
_Static_assert(CHAN_MAX_STMTS <= UINT16_MAX && (SLOTS & (SLOTS - 1)) == 0, "numbers fit a slot");

struct stmtcache *stmtcache_create(uint32_t limit)
{
	struct stmtcache *sc = calloc(1, sizeof(*sc));

	if (sc != NULL) {
		sc->limit = limit < CHAN_MAX_STMTS ? limit : CHAN_MAX_STMTS - 1;
	}
	return sc;
}

void stmtcache_destroy(struct stmtcache *sc)
{
	if (sc == NULL) {
		return;
	}
	for (uint32_t i = 1; i <= sc->used; i++) {
		free(sc->entry[i].text);
	}
	free(sc);
}

static void unlink_entry(struct stmtcache *sc, uint32_t id)
{
	struct entry *e = &sc->entry[id];

	sc->entry[e->prev].next = e->next;
	sc->entry[e->next].prev = e->prev;
}

static void link_newest(struct stmtcache *sc, uint32_t id)
{
	struct entry *head = &sc->entry[0], *e = &sc->entry[id];

	e->prev = 0;
	e->next = head->next;
	sc->entry[e->next].prev = id;
	head->next = id;
}

/* Eight bytes at a time, multiply and fold; texts come from this process, not from an attacker. */
static uint64_t hash_text(const char *p, size_t len)
{
	const uint64_t k = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t h = len * k, w;

	for (; len >= 8; p += 8, len -= 8) {
		memcpy(&w, p, 8);
		h = (h ^ w) * k;
		h ^= h >> 29;
	}
	w = 0;
	memcpy(&w, p, len);
	h = (h ^ w) * k;
	return h ^ h >> 32;
}

void stmtcache_find(struct stmtcache *sc, const char *text, size_t len, struct stmtcache_key *key)
{
	*key = (struct stmtcache_key){.text = text, .len = len};
	if (len == 0 ||
		len > STMTCACHE_TEXT_MAX) { /* an empty text on the wire means a known one */
		return;
	}
	key->hash = hash_text(text, len);
	for (uint32_t i = key->hash & (SLOTS - 1); sc->slot[i] != 0; i = (i + 1) & (SLOTS - 1)) {
		uint32_t id = sc->slot[i];
		struct entry *e = &sc->entry[id];

		if (e->hash == key->hash && e->len == len && memcmp(e->text, text, len) == 0) {
			if (sc->entry[0].next != id) {
				unlink_entry(sc, id);
				link_newest(sc, id);
			}
			key->id = id;
			return;
		}
	}
}

static uint32_t slot_of(const struct stmtcache *sc, uint32_t id)
{
	uint32_t i = sc->entry[id].hash & (SLOTS - 1);

	while (sc->slot[i] != id) {
		i = (i + 1) & (SLOTS - 1);
	}
	return i;
}

/* Free a slot; entries behind it that would no longer be found move up. */
static void free_slot(struct stmtcache *sc, uint32_t hole)
{
	uint32_t i = hole;

	sc->slot[hole] = 0;
	for (;;) {
		uint32_t home;

		i = (i + 1) & (SLOTS - 1);
		if (sc->slot[i] == 0) {
			return;
		}
		home = sc->entry[sc->slot[i]].hash & (SLOTS - 1);
		if (((i - home) & (SLOTS - 1)) >= ((i - hole) & (SLOTS - 1))) {
			sc->slot[hole] = sc->slot[i];
			sc->slot[i] = 0;
			hole = i;
		}
	}
}

void stmtcache_forget(struct stmtcache *sc, uint32_t id)
{
	struct entry *e = &sc->entry[id];

	free_slot(sc, slot_of(sc, id));
	unlink_entry(sc, id);
	free(e->text);
	*e = (struct entry){.next = sc->unused};
	sc->unused = id;
}

static uint32_t take_number(struct stmtcache *sc)
{
	uint32_t id;

	if (sc->unused == 0 && sc->used < sc->limit) {
		return ++sc->used;
	}
	if (sc->unused == 0) {
		stmtcache_forget(sc, sc->entry[0].prev); /* least recently used */
	}
	id = sc->unused;
	sc->unused = sc->entry[id].next;
	return id;
}

uint32_t stmtcache_define(struct stmtcache *sc, const struct stmtcache_key *key)
{
	uint32_t id, i;
	char *text;

	if (key->len == 0 || key->len > STMTCACHE_TEXT_MAX || sc->limit == 0) {
		return 0;
	}
	text = malloc(key->len + 1);
	if (text == NULL) {
		return 0;
	}
	memcpy(text, key->text, key->len);
	id = take_number(sc);
	sc->entry[id] = (struct entry){.text = text, .len = key->len, .hash = key->hash};
	link_newest(sc, id);
	i = key->hash & (SLOTS - 1);
	while (sc->slot[i] != 0) {
		i = (i + 1) & (SLOTS - 1);
	}
	sc->slot[i] = (uint16_t)id;
	return id;
}
