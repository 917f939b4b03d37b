/* SPDX-License-Identifier: MIT */
/*
 * ring.h - one producer process, one consumer process, fixed 64-byte descriptors.
 *
 * A ring lives in two mappings: the producer's segment holds the slots and `tail`, the consumer's
 * segment holds `head`.  Each side keeps private copies of its own position and of the last seen
 * position of the other, so the shared lines move between cores once per batch, not once per slot.
 *
 *   empty  tail == head        full  tail - head == slots
 *
 * Who may run with whom (X = caller must exclude, - = safe):
 *              reserve/publish   take/retire
 *   reserve            X              -
 *   take               -              X
 *
 * Both sides are wait-free: a bounded number of own steps, whatever the other does.
 *
 * Death.  A producer killed before ring_publish() has published nothing: the slots it wrote are
 * beyond tail.  A consumer killed at any point leaves head behind; the producer sees a ring that
 * stays full and drops the segment with the peer.
 *
 * Lies.  ring_in_pending() returns the distance as the peer states it; the caller that does not
 * trust its peer (the broker) must treat a distance above `slots` as corruption.  ring_out_space()
 * clamps: a lie about head makes the liar lose its own entries, never touches memory outside.
 *
 * Pairs: ring_publish (release) with ring_in_pending (acquire); ring_retire (release) with
 * ring_out_space (acquire).
 */
#ifndef SHM_RING_H
#define SHM_RING_H

#include "atomics.h"
#include "check.h"
#include "layout.h"

/* The producer's private half. */
struct ring_out {
	_Atomic uint64_t *tail; /* ours, shared */
	const _Atomic uint64_t *head; /* the consumer's, shared, read-only to us */
	unsigned char *slots; /* ours, shared */
	uint32_t count; /* power of two */
	uint64_t next; /* private: next slot to write */
	uint64_t seen_head; /* private: last head observed */
};

/* The consumer's private half. */
struct ring_in {
	const _Atomic uint64_t *tail; /* the producer's */
	_Atomic uint64_t *head; /* ours */
	const unsigned char *slots; /* the producer's */
	uint32_t count;
	uint64_t next; /* private: next slot to read */
};

#define RING_SLOT 64u

static inline void ring_out_init(struct ring_out *r, _Atomic uint64_t *tail,
	const _Atomic uint64_t *head, void *slots, uint32_t count)
{
	*r = (struct ring_out){.tail = tail, .head = head, .slots = slots, .count = count};
}

static inline void ring_in_init(struct ring_in *r, const _Atomic uint64_t *tail,
	_Atomic uint64_t *head, const void *slots, uint32_t count)
{
	*r = (struct ring_in){.tail = tail, .head = head, .slots = slots, .count = count};
}

/* Free slots for the producer; looks at the shared head only when the private copy says full. */
static inline uint32_t ring_out_space(struct ring_out *r)
{
	uint64_t used = r->next - r->seen_head;

	if (used >= r->count) {
		uint64_t head = observe(r->head); /* pairs with ring_retire */

		if (r->next - head <= r->count) { /* ignore a head that never was */
			r->seen_head = head;
			used = r->next - head;
		}
	}
	return used >= r->count ? 0 : r->count - (uint32_t)used;
}

/* Copy the 8 words of one descriptor with relaxed atomic accesses: exactly one read and one
 * write. */
static inline void ring_copy_slot(void *dst, const void *src)
{
	_Atomic uint64_t *d = dst;
	const _Atomic uint64_t *s = src;

	for (unsigned i = 0; i < RING_SLOT / 8; i++) {
		put(&d[i], get(&s[i]));
	}
}

/* Write the next slot.  Caller checked ring_out_space() > 0.  Not visible before ring_publish(). */
static inline void ring_push(struct ring_out *r, const void *desc)
{
	ring_copy_slot(r->slots + (r->next & (r->count - 1)) * RING_SLOT, desc);
	r->next++;
}

/* Make everything pushed visible.  Pairs with ring_in_pending. */
static inline void ring_publish(struct ring_out *r)
{
	publish(r->tail, r->next);
}

/* Entries the producer states to have published; > count means a corrupt peer. */
static inline uint64_t ring_in_pending(const struct ring_in *r)
{
	return observe(r->tail) - r->next; /* pairs with ring_publish */
}

/* Copy the next entry.  Caller checked 0 < ring_in_pending() <= count. */
static inline void ring_take(struct ring_in *r, void *desc)
{
	ring_copy_slot(desc, r->slots + (r->next & (r->count - 1)) * RING_SLOT);
	r->next++;
}

/* Give the slots taken so far (and what the caller ties to them) back.  Pairs with
 * ring_out_space. */
static inline void ring_retire(struct ring_in *r)
{
	publish(r->head, r->next);
}

#endif
