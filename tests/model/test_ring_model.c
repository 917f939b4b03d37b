/* SPDX-License-Identifier: MIT */
/*
 * test_ring_model.c - shm/ring.h in every interleaving of a producer and a consumer, against an
 * array.
 *
 * The producer numbers its messages and notes each in an array before it pushes it; the consumer
 * compares what it takes with the array.  Either may be killed at every point.  Then the same with
 * a mistake planted on either side: each has to be found.
 */
#include "ring.h"
#include "sched.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS_MAX 4
#define MESSAGES_MAX 5
#define WORDS (RING_SLOT / 8)

/* What the two sides share, as it lies in W and B. */
static struct {
	_Atomic uint64_t tail, head;
	_Atomic uint64_t slots[SLOTS_MAX * WORDS];
} sh;

enum mistake {
	NONE,
	PUBLISH_EARLY, /* the producer publishes a slot before it has written it */
	PUBLISH_RELAXED, /* tail is stored without release */
	OVERRUN, /* the producer believes in one slot more than there is */
	RETIRE_EARLY, /* the consumer gives slots back before it has copied them */
	TAKE_BEYOND, /* the consumer takes one message more than was published */
};

struct scenario {
	uint32_t slots;
	unsigned messages;
	unsigned batch; /* most messages per publish and per retire */
	enum mistake mistake;
	/* private to a run */
	struct ring_out out;
	struct ring_in in;
	uint64_t fifo[MESSAGES_MAX]; /* the oracle: first words of what was pushed, in order */
	unsigned pushed, published, taken;
};

static void reset(void *arg)
{
	struct scenario *s = arg;

	ring_out_init(&s->out, &sh.tail, &sh.head, sh.slots, s->slots);
	ring_in_init(&s->in, &sh.tail, &sh.head, sh.slots, s->slots);
	memset(s->fifo, 0, sizeof(s->fifo));
	s->pushed = s->published = s->taken = 0;
}

static void make_message(uint64_t word, uint64_t out[WORDS])
{
	for (unsigned i = 0; i < WORDS; i++) {
		out[i] = word + i * 1000;
	}
}

static void push(struct scenario *s)
{
	uint64_t message[WORDS];

	make_message(s->pushed + 1, message);
	s->fifo[s->pushed++] = message[0];
	if (s->mistake == PUBLISH_EARLY) {
		publish(s->out.tail, s->out.next + 1);
	}
	ring_push(&s->out, message);
}

static void publish_batch(struct scenario *s)
{
	s->published = s->pushed;
	if (s->mistake == PUBLISH_RELAXED) {
		put(s->out.tail, s->out.next);
	} else {
		ring_publish(&s->out);
	}
}

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static void producer(void *arg)
{
	struct scenario *s = arg;

	while (s->pushed < s->messages) {
		const uint64_t local[] = {s->out.next, s->out.seen_head, s->pushed};
		unsigned space, n;

		model_local(local, sizeof(local));
		space = ring_out_space(&s->out) + (s->mistake == OVERRUN);
		model_assert(
			space <= s->slots || s->mistake == OVERRUN, "space is at most the ring");
		n = least(least(space, s->batch), s->messages - s->pushed);
		for (unsigned i = 0; i < n; i++) {
			push(s);
		}
		if (n > 0) {
			publish_batch(s);
		}
	}
}

static void take(struct scenario *s)
{
	uint64_t got[WORDS] = {0}, want[WORDS];

	ring_take(&s->in, got);
	model_assert(s->taken < s->published, "nothing is taken that was not published");
	make_message(s->fifo[s->taken], want);
	model_assert(got[0] == want[0], "messages come in order, each once");
	model_assert(memcmp(got, want, sizeof(got)) == 0, "no message is torn");
	s->taken++;
}

static void consumer(void *arg)
{
	struct scenario *s = arg;

	while (s->taken < s->messages) {
		const uint64_t local[] = {s->in.next, s->taken};
		uint64_t pending;
		unsigned n;

		model_local(local, sizeof(local));
		pending = ring_in_pending(&s->in) + (s->mistake == TAKE_BEYOND);
		model_assert(pending <= s->slots, "no more is pending than the ring holds");
		n = least((unsigned)pending, s->batch);
		if (n > 0 && s->mistake == RETIRE_EARLY) {
			publish(s->in.head, s->in.next + n);
		}
		for (unsigned i = 0; i < n; i++) {
			take(s);
		}
		if (n > 0) {
			ring_retire(&s->in);
		}
	}
}

/* Who is left with a dead partner spins for ever; an ending without a death is the end of the work.
 */
static void final(void *arg)
{
	const struct scenario *s = arg;

	if (model_killed(0) || model_killed(1)) {
		return;
	}
	model_assert(model_finished(0) && model_finished(1), "both sides come to their end");
	model_assert(s->taken == s->messages, "every message has arrived");
}

static struct model ring_model(struct scenario *s, enum model_memory memory, unsigned killable)
{
	return (struct model){.body = {producer, consumer},
		.reset = reset,
		.final = final,
		.arg = s,
		.shared = &sh,
		.shared_len = sizeof(sh),
		.memory = memory,
		.killable = killable};
}

static void holds(struct scenario s, enum model_memory memory, unsigned killable, const char *claim)
{
	struct model m = ring_model(&s, memory, killable);

	model_holds(&m, claim);
}

static void breaks(struct scenario s, enum model_memory memory, const char *mistake)
{
	struct model m = ring_model(&s, memory, 0);

	model_breaks(&m, mistake);
}

int main(void)
{
	holds((struct scenario){.slots = 2, .messages = 5, .batch = 1}, MODEL_SC, 0,
		"2 slots, 5 messages, one at a time");
	holds((struct scenario){.slots = 4, .messages = 5, .batch = 2}, MODEL_SC, 0,
		"4 slots, 5 messages, in batches");
	holds((struct scenario){.slots = 4, .messages = 5, .batch = 1}, MODEL_SC, 1,
		"a producer that is killed");
	holds((struct scenario){.slots = 4, .messages = 5, .batch = 1}, MODEL_SC, 2,
		"a consumer that is killed");
	holds((struct scenario){.slots = 4, .messages = 5, .batch = 2}, MODEL_TSO, 3,
		"with store buffers, either killed");
	holds((struct scenario){.slots = 2, .messages = 1, .batch = 1}, MODEL_PSO, 3,
		"with stores out of order, either killed");
	if (getenv("TEST_QUICK") == NULL) {
		holds((struct scenario){.slots = 4, .messages = 5, .batch = 1}, MODEL_TSO, 3,
			"with store buffers, one at a time, either killed");
	}

	breaks((struct scenario){.slots = 2, .messages = 3, .batch = 2, .mistake = PUBLISH_EARLY},
		MODEL_SC, "a slot published before it is written");
	breaks((struct scenario){.slots = 2, .messages = 1, .batch = 1, .mistake = PUBLISH_RELAXED},
		MODEL_PSO, "a position stored without release");
	breaks((struct scenario){.slots = 2, .messages = 3, .batch = 3, .mistake = OVERRUN},
		MODEL_SC, "a producer that overruns the ring");
	breaks((struct scenario){.slots = 2, .messages = 3, .batch = 2, .mistake = RETIRE_EARLY},
		MODEL_SC, "slots given back before they are copied");
	breaks((struct scenario){.slots = 2, .messages = 3, .batch = 1, .mistake = TAKE_BEYOND},
		MODEL_SC, "a message taken that was not published");
	return done_testing();
}
