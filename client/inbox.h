/* SPDX-License-Identifier: MIT */
/*
 * inbox.h - the broker's way to the worker: completion ring and result arena of B.
 *
 * Completions are copied out and their slots retired at once.  Chunks of results stay in the arena
 * and are read in place; each one the worker holds is a struct chunk.  A chunk is given back by its
 * first block in free_chunk of a later descriptor: inbox_give puts it on the list of those that are
 * due, whoever pushes a descriptor takes one from there.  A chunk leaves the books of this side
 * only when its descriptor was pushed, so none is lost on any path.
 *
 * inbox_spill moves a chunk to the heap, so that its blocks can go back although nobody has read
 * it.
 */
#ifndef CLIENT_INBOX_H
#define CLIENT_INBOX_H

#include "ring.h"
#include "rowreader.h"

struct inbox {
	struct ring_in ring;
	const unsigned char *arena;
	uint32_t nblocks;
	uint32_t held; /* blocks in chunks that are not due yet */
	struct chunk *nodes; /* nblocks of them, owned */
	struct chunk *free;
	uint32_t *due; /* first blocks, owned */
	uint32_t ndue;
	uint32_t due_blocks;
};

/* 0, or -ENOMEM. */
int inbox_init(struct inbox *in, const _Atomic uint64_t *tail, _Atomic uint64_t *head,
	const void *slots, uint32_t count, const void *arena, uint64_t size) must_use;
void inbox_finish(struct inbox *in);

/* Something to take, or a broker that lies about it. */
static inline bool inbox_ready(const struct inbox *in)
{
	return ring_in_pending(&in->ring) != 0;
}

/* 1: *out is the next completion.  0: none.  -EPROTO: the ring is corrupt. */
int inbox_take(struct inbox *in, struct shm_completion *out) must_use;

/* The chunk of a completion; NULL if what it says of it is impossible. */
struct chunk *inbox_chunk(struct inbox *in, const struct shm_completion *c) must_use;
/* Done with a chunk. */
void inbox_give(struct inbox *in, struct chunk *c);
/* The next chunk to give back, or CHAN_NO_CHUNK. */
uint32_t inbox_due(struct inbox *in);
/* A copy on the heap that takes the place of c; c is due now.  NULL: out of memory, c unchanged. */
struct chunk *inbox_spill(struct inbox *in, struct chunk *c) must_use;

static inline uint32_t chunk_blocks(const struct chunk *c)
{
	return c->len == 0 ? 1 : (c->len + CHAN_BLOCK - 1) / CHAN_BLOCK;
}

#endif
