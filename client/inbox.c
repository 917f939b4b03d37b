/* SPDX-License-Identifier: MIT */
/* inbox.c - see inbox.h. */
#include "inbox.h"

#include "crashpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int inbox_init(struct inbox *in, const _Atomic uint64_t *tail, _Atomic uint64_t *head,
	const void *slots, uint32_t count, const void *arena, uint64_t size)
{
	*in = (struct inbox){.arena = arena, .nblocks = (uint32_t)(size / CHAN_BLOCK)};
	ring_in_init(&in->ring, tail, head, slots, count);
	in->nodes = calloc(in->nblocks, sizeof(*in->nodes));
	in->due = calloc(in->nblocks, sizeof(*in->due));
	if (in->nodes == NULL || in->due == NULL) {
		inbox_finish(in);
		return -ENOMEM;
	}
	for (uint32_t i = in->nblocks; i-- > 0;) {
		in->nodes[i].next = in->free;
		in->free = &in->nodes[i];
	}
	return 0;
}

void inbox_finish(struct inbox *in)
{
	free(in->nodes);
	free(in->due);
	in->nodes = NULL;
	in->due = NULL;
}

int inbox_take(struct inbox *in, struct shm_completion *out)
{
	uint64_t pending = ring_in_pending(&in->ring);

	if (pending == 0) {
		return 0;
	}
	if (pending > in->ring.count) {
		return -EPROTO;
	}
	CRASHPOINT(COMPLETION_BEFORE);
	ring_take(&in->ring, out);
	CRASHPOINT(COMPLETION_COPIED);
	ring_retire(&in->ring);
	CRASHPOINT(COMPLETION_RETIRED);
	return 1;
}

struct chunk *inbox_chunk(struct inbox *in, const struct shm_completion *c)
{
	struct chunk *k = in->free;

	if (k == NULL || c->chunk >= in->nblocks ||
		c->len > (uint64_t)(in->nblocks - c->chunk) * CHAN_BLOCK) {
		return NULL;
	}
	in->free = k->next;
	*k = (struct chunk){
		.data = in->arena + (uint64_t)c->chunk * CHAN_BLOCK,
		.len = c->len,
		.block = c->chunk,
	};
	in->held += chunk_blocks(k);
	return k;
}

/*
 * Put a block on the list of those to give back.  There are never more chunks than blocks, unless
 * the broker hands out a block twice; the list must hold even then.
 */
static void make_due(struct inbox *in, const struct chunk *c)
{
	uint32_t blocks = chunk_blocks(c);

	in->held -= blocks;
	in->due_blocks += blocks;
	if (in->ndue < in->nblocks) {
		in->due[in->ndue++] = c->block;
	}
}

static void free_node(struct inbox *in, struct chunk *c)
{
	c->next = in->free;
	in->free = c;
}

void inbox_give(struct inbox *in, struct chunk *c)
{
	if (c->block == CHAN_NO_CHUNK) {
		free(c);
		return;
	}
	make_due(in, c);
	free_node(in, c);
}

uint32_t inbox_due(struct inbox *in)
{
	if (in->ndue == 0) {
		return CHAN_NO_CHUNK;
	}
	CRASHPOINT(GIVE_BACK);
	in->ndue--;
	if (in->ndue == 0) {
		in->due_blocks = 0;
	}
	return in->due[in->ndue];
}

struct chunk *inbox_spill(struct inbox *in, struct chunk *c)
{
	struct chunk *copy = malloc(sizeof(*copy) + c->len);

	if (copy == NULL) {
		return NULL;
	}
	memcpy(copy + 1, c->data, c->len);
	*copy = (struct chunk){
		.next = c->next,
		.data = (const unsigned char *)(copy + 1),
		.len = c->len,
		.block = CHAN_NO_CHUNK,
	};
	make_due(in, c);
	free_node(in, c);
	return copy;
}
