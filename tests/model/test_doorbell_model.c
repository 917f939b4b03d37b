/* SPDX-License-Identifier: MIT */
/*
 * test_doorbell_model.c - the wake-up protocol of shm/doorbell.h, in every interleaving.
 *
 * Two directions, step by step as client and broker do it:
 *   bells    one or two workers publish, the broker arms the flags of all, fences once, looks again
 * and waits for an event (broker/io.c and session.c; client/send.c) futex    the broker publishes,
 * a worker reads the bell word, sets its flag, fences, looks again and sleeps on the word
 * (client/wait.c; broker/session.c) Sleeps have no time-out here, so a wake-up that is lost leaves
 * the sleeper behind for good.  Every step that the protocol has is also left out or moved once,
 * and each time the loss has to be found.
 */
#include "ring.h"
#include "sched.h"
#include "tap.h"

#define CHANNELS 2

static struct {
	struct {
		_Atomic uint64_t tail;
		_Atomic uint64_t head;
		_Atomic uint32_t flag; /* need_wake, or sleeping */
	} channel[CHANNELS];
	_Atomic uint32_t bell;
	uint64_t event;
} sh;

enum mistake {
	NONE,
	NO_SECOND_LOOK, /* the sleeper does not look again after it set the flag */
	LOOK_BEFORE_FLAG, /* it looks again, but sets the flag only then */
	NO_F1, /* no fence between flag and second look */
	FLAG_BEFORE_PUBLISH, /* the publisher looks whether to ring before it publishes */
	NO_F2, /* no fence between publish and flag */
	NO_RING, /* it never rings */
	BELL_READ_LATE, /* futex: the sleeper reads the word after the second look */
	NO_BUMP, /* futex: the word is not changed before the wake */
};

struct scenario {
	bool futex; /* else bells */
	unsigned channels;
	unsigned messages; /* per channel */
	enum mistake mistake;
	/* private to a run */
	struct ring_out out[CHANNELS];
	struct ring_in in[CHANNELS];
};

static void reset(void *arg)
{
	struct scenario *s = arg;

	for (unsigned i = 0; i < CHANNELS; i++) {
		ring_out_init(&s->out[i], &sh.channel[i].tail, &sh.channel[i].head, NULL, 8);
		ring_in_init(&s->in[i], &sh.channel[i].tail, &sh.channel[i].head, NULL, 8);
	}
}

/* -- the publishers -------------------------------------------------------------------------- */

static void wake(const struct scenario *s)
{
	if (s->mistake == NO_RING) {
		return;
	}
	if (!s->futex) {
		model_event_ring(&sh.event);
		return;
	}
	if (s->mistake != NO_BUMP) {
		bump(&sh.bell, 1u);
	}
	model_futex_wake(&sh.bell);
}

static void publish_one(struct scenario *s, unsigned c)
{
	uint32_t flag = 0;

	s->out[c].next++;
	if (s->mistake == FLAG_BEFORE_PUBLISH) {
		flag = get(&sh.channel[c].flag);
	}
	ring_publish(&s->out[c]);
	if (s->mistake != NO_F2) {
		full_fence();
	}
	if (s->mistake != FLAG_BEFORE_PUBLISH) {
		flag = get(&sh.channel[c].flag);
	}
	if (flag != 0) {
		wake(s);
	}
}

static void publisher(struct scenario *s, unsigned c)
{
	for (unsigned i = 0; i < s->messages; i++) {
		model_local(&i, sizeof(i));
		publish_one(s, c);
	}
}

static void publisher_0(void *arg)
{
	publisher(arg, 0);
}

static void publisher_1(void *arg)
{
	publisher(arg, 1);
}

/* -- the sleepers ---------------------------------------------------------------------------- */

static void take_all(struct scenario *s)
{
	for (unsigned c = 0; c < s->channels; c++) {
		s->in[c].next += ring_in_pending(&s->in[c]);
		model_assert(s->in[c].next <= s->messages, "nothing comes that was not published");
	}
}

static bool has_all(const struct scenario *s)
{
	for (unsigned c = 0; c < s->channels; c++) {
		if (s->in[c].next < s->messages) {
			return false;
		}
	}
	return true;
}

static bool look(const struct scenario *s)
{
	bool found = false;

	for (unsigned c = 0; c < s->channels; c++) {
		found |= ring_in_pending(&s->in[c]) != 0;
	}
	return found;
}

static void set_flags(const struct scenario *s, uint32_t v)
{
	for (unsigned c = 0; c < s->channels; c++) {
		put(&sh.channel[c].flag, v);
	}
}

/* Sets the flags and looks again: true if it may sleep. */
static bool arm(const struct scenario *s)
{
	bool found = false;

	if (s->mistake == LOOK_BEFORE_FLAG) {
		found = look(s);
	}
	set_flags(s, 1);
	if (s->mistake != NO_F1) {
		full_fence();
	}
	if (s->mistake != LOOK_BEFORE_FLAG && s->mistake != NO_SECOND_LOOK) {
		found = look(s);
	}
	return !found;
}

static void sleep_on_futex(const struct scenario *s)
{
	uint32_t bell = get(&sh.bell);

	if (arm(s)) {
		if (s->mistake == BELL_READ_LATE) {
			bell = get(&sh.bell);
		}
		model_futex_wait(&sh.bell, bell);
	}
	set_flags(s, 0);
}

static void sleep_on_event(const struct scenario *s)
{
	if (arm(s)) {
		model_event_wait(&sh.event);
	}
	set_flags(s, 0);
}

static void sleeper(void *arg)
{
	struct scenario *s = arg;

	for (;;) {
		const uint64_t local[] = {s->in[0].next, s->in[1].next};

		model_local(local, sizeof(local));
		take_all(s);
		if (has_all(s)) {
			return;
		}
		if (s->futex) {
			sleep_on_futex(s);
		} else {
			sleep_on_event(s);
		}
	}
}

/* -- claims ---------------------------------------------------------------------------------- */

static void final(void *arg)
{
	const struct scenario *s = arg;
	bool killed = model_killed(0) || model_killed(1);

	model_assert(model_killed(1) || model_finished(1), "a publisher never waits");
	model_assert(s->channels == 1 || model_finished(2), "nor does the other");
	model_assert(killed || model_finished(0), "no wake-up is lost");
}

static struct model doorbell_model(struct scenario *s, enum model_memory memory, unsigned killable)
{
	return (struct model){.body = {sleeper, publisher_0, s->channels == 2 ? publisher_1 : NULL},
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
	struct model m = doorbell_model(&s, memory, killable);

	model_holds(&m, claim);
}

static void breaks(
	struct scenario s, enum model_memory memory, enum mistake mistake, const char *what)
{
	struct model m = doorbell_model(&s, memory, 0);

	s.mistake = mistake;
	model_breaks(&m, what);
}

static void test_direction(struct scenario s, const char *claim)
{
	holds(s, MODEL_SC, 0, claim);
	holds(s, MODEL_TSO, 0, claim);
	holds(s, MODEL_PSO, 0, claim);
	breaks(s, MODEL_SC, NO_SECOND_LOOK, "no second look");
	breaks(s, MODEL_SC, LOOK_BEFORE_FLAG, "the flag set after the second look");
	breaks(s, MODEL_SC, FLAG_BEFORE_PUBLISH, "the flag read before the publish");
	breaks(s, MODEL_SC, NO_RING, "no ring");
	breaks(s, MODEL_TSO, NO_F1, "no fence between flag and second look");
	breaks(s, MODEL_TSO, NO_F2, "no fence between publish and flag");
}

int main(void)
{
	struct scenario bells = {.channels = 1, .messages = 3};
	struct scenario futex = {.futex = true, .channels = 1, .messages = 3};
	struct scenario unfenced = {.channels = 1, .messages = 3, .mistake = NO_F1};

	test_direction(bells, "bells: no wake-up is lost");
	test_direction(futex, "futex: no wake-up is lost");
	breaks(futex, MODEL_SC, BELL_READ_LATE, "the futex word read after the second look");
	breaks(futex, MODEL_SC, NO_BUMP, "a wake that does not change the futex word");

	holds(bells, MODEL_TSO, 3,
		"bells: a dead sleeper holds nobody up, a dead publisher harms nobody");
	holds(futex, MODEL_TSO, 3,
		"futex: a dead sleeper holds nobody up, a dead publisher harms nobody");
	bells.channels = 2;
	bells.messages = 2;
	holds(bells, MODEL_SC, 0, "bells: one fence for two flags");
	holds(bells, MODEL_TSO, 0, "bells: one fence for two flags");
	holds(unfenced, MODEL_SC, 0, "store buffers are needed to see that fences are");
	return done_testing();
}
