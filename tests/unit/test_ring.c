/* SPDX-License-Identifier: MIT */
/* test_ring.c - rings against a counter that is obviously right, alone and between two threads. */
#include "ring.h"
#include "tap.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#define SLOTS 8u

struct pair {
	_Atomic uint64_t tail, head;
	alignas(64) unsigned char slots[SLOTS * RING_SLOT];
	struct ring_out out;
	struct ring_in in;
};

static void pair_init(struct pair *p)
{
	memset(p, 0, sizeof(*p));
	ring_out_init(&p->out, &p->tail, &p->head, p->slots, SLOTS);
	ring_in_init(&p->in, &p->tail, &p->head, p->slots, SLOTS);
}

/* A descriptor whose every word depends on n. */
static void make_desc(uint64_t desc[8], uint64_t n)
{
	for (unsigned i = 0; i < 8; i++) {
		desc[i] = n * 8 + i;
	}
}

static bool is_desc(const uint64_t desc[8], uint64_t n)
{
	for (unsigned i = 0; i < 8; i++) {
		if (desc[i] != n * 8 + i) {
			return false;
		}
	}
	return true;
}

static void test_empty_and_full(void)
{
	struct pair p;
	uint64_t d[8];

	pair_init(&p);
	is_int((int64_t)ring_in_pending(&p.in), 0, "a new ring is empty");
	is_int(ring_out_space(&p.out), SLOTS, "and has room for all its slots");
	make_desc(d, 0);
	ring_push(&p.out, d);
	is_int((int64_t)ring_in_pending(&p.in), 0, "pushed is not published");
	ring_publish(&p.out);
	is_int((int64_t)ring_in_pending(&p.in), 1, "published is pending");
	for (uint64_t n = 1; n < SLOTS; n++) {
		make_desc(d, n);
		ring_push(&p.out, d);
	}
	ring_publish(&p.out);
	is_int(ring_out_space(&p.out), 0, "no room when all slots are used");
	ring_take(&p.in, d);
	ok(is_desc(d, 0), "the first out is the first in");
	is_int(ring_out_space(&p.out), 0, "taken is not given back");
	ring_retire(&p.in);
	is_int(ring_out_space(&p.out), 1, "retired is given back");
}

/* Random batches on both sides; the oracle is two counters. */
static void test_batches(void)
{
	struct pair p;
	uint64_t pushed = 0, taken = 0, seed = 12345, d[8];
	bool order = true, room = true;

	pair_init(&p);
	for (unsigned round = 0; round < 20000; round++) {
		seed = seed * UINT64_C(6364136223846793005) + 1;
		for (unsigned n = seed >> 60; n > 0 && ring_out_space(&p.out) > 0; n--) {
			make_desc(d, pushed++);
			ring_push(&p.out, d);
		}
		ring_publish(&p.out);
		room = room && pushed - taken <= SLOTS && ring_in_pending(&p.in) == pushed - taken;
		for (unsigned n = (seed >> 50) & 15; n > 0 && ring_in_pending(&p.in) > 0; n--) {
			ring_take(&p.in, d);
			order = order && is_desc(d, taken++);
		}
		ring_retire(&p.in);
	}
	ok(order && taken > SLOTS * 100, "every descriptor arrives once, whole and in order");
	ok(room, "the ring holds exactly what was pushed and not taken");
}

static void test_positions_wrap(void)
{
	struct pair p;
	uint64_t d[8];
	bool order = true;

	pair_init(&p);
	p.tail = p.head = UINT64_MAX - 3;
	p.out.next = p.out.seen_head = p.in.next = UINT64_MAX - 3;
	for (uint64_t n = 0; n < 20; n++) {
		make_desc(d, n);
		order = order && ring_out_space(&p.out) > 0;
		ring_push(&p.out, d);
		ring_publish(&p.out);
		order = order && ring_in_pending(&p.in) == 1;
		ring_take(&p.in, d);
		order = order && is_desc(d, n);
		ring_retire(&p.in);
	}
	ok(order, "positions may pass 2^64");
}

static void test_lies(void)
{
	struct pair p;
	uint64_t d[8];

	pair_init(&p);
	for (uint64_t n = 0; n < SLOTS; n++) {
		make_desc(d, n);
		ring_push(&p.out, d);
	}
	ring_publish(&p.out);
	p.head = UINT64_MAX / 2;
	is_int(ring_out_space(&p.out), 0, "a consumer's head that never was frees nothing");
	p.head = p.out.next + 1;
	is_int(ring_out_space(&p.out), 0, "nor does one just beyond the tail");
	p.tail = p.in.next + SLOTS + 1;
	ok(ring_in_pending(&p.in) > SLOTS, "a producer's lie shows as a distance above the slots");
	p.tail = p.in.next - 1;
	ok(ring_in_pending(&p.in) > SLOTS, "and so does a tail that runs backwards");
}

#define TRANSFER 200000u

static void *produce(void *arg)
{
	struct pair *p = arg;
	uint64_t d[8];

	for (uint64_t n = 0; n < TRANSFER;) {
		if (ring_out_space(&p->out) == 0) {
			sched_yield();
			continue;
		}
		make_desc(d, n++);
		ring_push(&p->out, d);
		ring_publish(&p->out);
	}
	return NULL;
}

static void test_two_threads(void)
{
	struct pair p;
	uint64_t taken = 0, d[8];
	bool order = true;
	pthread_t t;

	pair_init(&p);
	if (pthread_create(&t, NULL, produce, &p) != 0) {
		bail_out("pthread_create");
	}
	while (taken < TRANSFER) {
		uint64_t n = ring_in_pending(&p.in);

		if (n == 0) {
			sched_yield();
			continue;
		}
		order = order && n <= SLOTS;
		for (; n > 0; n--) {
			ring_take(&p.in, d);
			order = order && is_desc(d, taken++);
		}
		ring_retire(&p.in);
	}
	pthread_join(t, NULL);
	ok(order, "%u descriptors pass between two threads whole and in order", TRANSFER);
	is_int((int64_t)ring_in_pending(&p.in), 0, "and none is left");
}

int main(void)
{
	test_empty_and_full();
	test_batches();
	test_positions_wrap();
	test_lies();
	test_two_threads();
	return done_testing();
}
