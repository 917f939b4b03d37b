/* SPDX-License-Identifier: MIT */
/*
 * outbox.h - the worker's way to the broker: submission ring and request arena of W.
 *
 * A body is encoded straight into the arena (outbox_span), then its descriptor is pushed, then
 * everything pushed is published at once.  Arena positions are 64 bit and only grow; a body does
 * not wrap: if the rest before the end is too short it is skipped.  Slots and arena bytes come back
 * together when the broker's sub_head passes them; end[] remembers, privately, where the arena was
 * after each slot, so a head is all that is needed and nothing in W is read back.
 *
 * When the broker has taken everything, positions go on at the next start of the arena, so that a
 * worker of small requests keeps few of its pages in memory.  Pages that large bodies have touched
 * go back to the system when nothing is on its way (outbox_trim): only this side writes the arena,
 * and the broker has copied every body by then.  At most once in OUTBOX_REST_NS, or who sends
 * nothing but large bodies would pay for each of them: a system call, and the pages anew.
 *
 * A process killed anywhere before outbox_publish has sent nothing.
 *
 * Pairs: outbox_publish and the head by which room comes back are ring_publish and ring_out_space
 * of ring.h.  A head that never was is ignored.
 */
#ifndef CLIENT_OUTBOX_H
#define CLIENT_OUTBOX_H

#include "ring.h"

struct outbox {
	struct ring_out ring;
	uint64_t published; /* ring.next when last published */
	unsigned char *arena;
	uint64_t size; /* of the arena, multiple of 8 */
	uint64_t next; /* position of the next byte */
	uint64_t head; /* position before which everything is free again */
	uint64_t *end; /* per slot: next after its descriptor; owned */
	uint64_t used; /* bytes at the start of the arena that bodies have touched */
	uint64_t trimmed_ns;
};

#define OUTBOX_SMALL (2u * SHM_PAGE) /* as much of the arena is not worth giving back */
#define OUTBOX_REST_NS UINT64_C(10000000)

/* 0, or -ENOMEM. */
int outbox_init(struct outbox *o, _Atomic uint64_t *tail, const _Atomic uint64_t *head, void *slots,
	uint32_t count, void *arena, uint64_t size) must_use;
void outbox_finish(struct outbox *o);

/* Longest body that always finds room in the end. */
static inline uint64_t outbox_max(const struct outbox *o)
{
	return o->size / 2 & ~UINT64_C(7);
}

/* There is a slot, and len bytes in one piece. */
bool outbox_has_room(struct outbox *o, uint64_t len);
/* Where the len bytes of the next descriptor go, and their position.  Caller saw room for them. */
unsigned char *outbox_span(struct outbox *o, uint64_t len, uint64_t *off);
/* Append a descriptor whose body, if any, is at d->off, d->len.  Returns the ring position after
 * it, for outbox_taken. */
uint64_t outbox_push(struct outbox *o, const struct shm_request *d);
/* Show the broker all that was pushed; false if there was nothing new. */
bool outbox_publish(struct outbox *o);
/* More of the arena is in memory than a worker of small requests needs. */
static inline bool outbox_is_large(const struct outbox *o)
{
	return o->used > OUTBOX_SMALL;
}
/* Give that back, unless the broker has not copied everything, or it was done just before. */
void outbox_trim(struct outbox *o, uint64_t now_ns);
/* The broker has copied everything before this ring position. */
bool outbox_taken(const struct outbox *o, uint64_t pos);

#endif
