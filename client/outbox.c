/* SPDX-License-Identifier: MIT */
/* outbox.c - see outbox.h. */
#include "outbox.h"

#include "crashpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HOME_PART 64u /* of the arena, a page: enough for one statement at a time */

int outbox_init(struct outbox *o, _Atomic uint64_t *tail, const _Atomic uint64_t *head, void *slots,
	uint32_t count, void *arena, uint64_t size)
{
	*o = (struct outbox){.arena = arena, .size = size & ~UINT64_C(7)};
	ring_out_init(&o->ring, tail, head, slots, count);
	o->end = calloc(count, sizeof(*o->end));
	return o->end == NULL ? -ENOMEM : 0;
}

void outbox_finish(struct outbox *o)
{
	free(o->end);
	o->end = NULL;
}

/* Position of the next body of len bytes: here, or at the next start of the arena. */
static uint64_t place(const struct outbox *o, uint64_t len)
{
	uint64_t at = o->next % o->size;

	return len > o->size - at ? o->next + (o->size - at) : o->next;
}

static bool fits(const struct outbox *o, uint64_t len)
{
	return place(o, len) + len - o->head <= o->size;
}

/* Take back what the broker has copied.  A descriptor without a body that was pushed before the
 * positions went home says less than is known. */
static void reclaim(struct outbox *o)
{
	uint64_t head = observe(o->ring.head); /* pairs with ring_retire */
	uint64_t end;

	if (o->ring.next - head > o->ring.count || head == o->ring.seen_head) {
		return;
	}
	o->ring.seen_head = head;
	end = o->end[(head - 1) & (o->ring.count - 1)];
	o->head = end > o->head ? end : o->head;
}

/*
 * Everything is free: begin at the start of the arena again, where its pages are in memory already.
 * Else a worker that has sent 256 KiB in its life would keep all of them there.
 */
static void go_home(struct outbox *o)
{
	reclaim(o);
	if (o->head == o->next) {
		o->next += o->size - o->next % o->size;
		o->head = o->next;
	}
}

bool outbox_has_room(struct outbox *o, uint64_t len)
{
	if (len > o->size) {
		return false;
	}
	if (o->next % o->size >= o->size / HOME_PART) {
		go_home(o);
	}
	if (o->ring.next - o->ring.seen_head >= o->ring.count || !fits(o, len)) {
		reclaim(o);
	}
	return o->ring.next - o->ring.seen_head < o->ring.count && fits(o, len);
}

unsigned char *outbox_span(struct outbox *o, uint64_t len, uint64_t *off)
{
	uint64_t at;

	*off = place(o, len);
	at = *off % o->size;
	o->used = at + len > o->used ? at + len : o->used;
	return o->arena + at;
}

void outbox_trim(struct outbox *o, uint64_t now_ns)
{
	if (now_ns - o->trimmed_ns < OUTBOX_REST_NS) {
		return;
	}
	go_home(o);
	if (o->head != o->next) {
		return;
	}
	/* Best effort: an older broker has sealed the segment, and then it stays as it is. */
	(void)madvise(o->arena + SHM_PAGE, o->used - SHM_PAGE, MADV_REMOVE);
	o->used = 0;
	o->trimmed_ns = now_ns;
}

uint64_t outbox_push(struct outbox *o, const struct shm_request *d)
{
	if (d->len != 0) {
		o->next = d->off + pad8(d->len);
	}
	o->end[o->ring.next & (o->ring.count - 1)] = o->next;
	CRASHPOINT(SLOT_BEFORE);
	ring_push(&o->ring, d);
	CRASHPOINT(SLOT_AFTER);
	return o->ring.next;
}

bool outbox_publish(struct outbox *o)
{
	if (o->published == o->ring.next) {
		return false;
	}
	CRASHPOINT(PUBLISH_BEFORE);
	ring_publish(&o->ring);
	CRASHPOINT(PUBLISH_AFTER);
	o->published = o->ring.next;
	return true;
}

bool outbox_taken(const struct outbox *o, uint64_t pos)
{
	uint64_t head = observe(o->ring.head);

	return head >= pos && head <= o->ring.next;
}
