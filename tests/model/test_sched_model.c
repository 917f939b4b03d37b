/* SPDX-License-Identifier: MIT */
/*
 * test_sched_model.c - the model checker on programs whose outcomes are known by heart: it finds
 * all of them, no others, and the merging of states changes nothing.
 */
#include "atomics.h"
#include "sched.h"
#include "tap.h"

#include <string.h>

static struct shared {
	_Atomic uint64_t x, y;
	uint64_t event;
	_Atomic uint32_t futex;
} sh;

static uint64_t r1, r2;
static unsigned outcomes[4]; /* how often r1, r2 came out as 00, 01, 10, 11 */

static void reset(void *arg)
{
	r1 = 9;
	r2 = 9;
}

static void count_outcome(void *arg)
{
	outcomes[(r1 & 1) * 2 + (r2 & 1)]++;
}

static unsigned seen(void)
{
	return (outcomes[0] > 0) | (outcomes[1] > 0) << 1 | (outcomes[2] > 0) << 2 |
	       (outcomes[3] > 0) << 3;
}

static void explore(struct model m, struct model_result *r)
{
	m.reset = reset;
	m.final = count_outcome;
	m.shared = &sh;
	m.shared_len = sizeof(sh);
	memset(outcomes, 0, sizeof(outcomes));
	model_run(&m, true, r);
}

/* Store buffering: both write, then read the other's word. */
static void sb_left(void *arg)
{
	put(&sh.x, 1);
	r1 = get(&sh.y);
}
static void sb_right(void *arg)
{
	put(&sh.y, 1);
	r2 = get(&sh.x);
}
static void sb_left_fenced(void *arg)
{
	put(&sh.x, 1);
	full_fence();
	r1 = get(&sh.y);
}
static void sb_right_fenced(void *arg)
{
	put(&sh.y, 1);
	full_fence();
	r2 = get(&sh.x);
}

static void test_store_buffering(void)
{
	struct model_result r;

	explore((struct model){.body = {sb_left, sb_right}}, &r);
	is_int(seen(), 0xe, "store buffering, SC: 01 10 11");
	explore((struct model){.body = {sb_left, sb_right}, .memory = MODEL_TSO}, &r);
	is_int(seen(), 0xf, "store buffering, TSO: 00 as well");
	explore((struct model){.body = {sb_left_fenced, sb_right_fenced}, .memory = MODEL_TSO}, &r);
	is_int(seen(), 0xe, "with two fences 00 is gone");
	explore((struct model){.body = {sb_left_fenced, sb_right}, .memory = MODEL_TSO}, &r);
	is_int(seen(), 0xf, "with one fence it is not");
}

/* Message passing: data, then flag; the other reads flag, then data. */
static void mp_relaxed(void *arg)
{
	put(&sh.x, 1);
	put(&sh.y, 1);
}
static void mp_release(void *arg)
{
	put(&sh.x, 1);
	publish(&sh.y, 1);
}
static void mp_write_fence(void *arg)
{
	put(&sh.x, 1);
	write_fence();
	put(&sh.y, 1);
}
static void mp_reader(void *arg)
{
	r1 = observe(&sh.y);
	r2 = get(&sh.x);
}

static void test_message_passing(void)
{
	struct model_result r;

	explore((struct model){.body = {mp_relaxed, mp_reader}, .memory = MODEL_TSO}, &r);
	is_int(seen(), 0xb, "message passing, TSO: the flag never comes without the data");
	explore((struct model){.body = {mp_relaxed, mp_reader}, .memory = MODEL_PSO}, &r);
	is_int(seen(), 0xf, "PSO: it may");
	explore((struct model){.body = {mp_release, mp_reader}, .memory = MODEL_PSO}, &r);
	is_int(seen(), 0xb, "unless it is published");
	explore((struct model){.body = {mp_write_fence, mp_reader}, .memory = MODEL_PSO}, &r);
	is_int(seen(), 0xb, "or a write fence is between");
}

/* A coroutine reads its own store before anyone else can. */
static void own_store(void *arg)
{
	put(&sh.x, 1);
	r1 = get(&sh.x);
	r2 = get(&sh.x);
}

static void test_forwarding(void)
{
	struct model_result r;

	explore((struct model){.body = {own_store}, .memory = MODEL_PSO}, &r);
	is_int(seen(), 0x8, "a store is seen by its own coroutine at once");
}

/* n accesses each: the number of interleavings is a binomial coefficient. */
static void four_loads(void *arg)
{
	for (int i = 0; i < 4; i++) {
		(void)get(&sh.x);
	}
}
static void six_stores(void *arg)
{
	for (int i = 0; i < 6; i++) {
		put(&sh.x, i + 1);
	}
}

static void test_counts(void)
{
	struct model_result r;

	explore((struct model){.body = {four_loads, six_stores}, .no_merge = true}, &r);
	is_int((int64_t)r.interleavings, 210, "4 and 6 steps interleave in 210 ways");
	is_int((int64_t)r.runs, 210, "without merging each is run");
	explore((struct model){.body = {four_loads, six_stores}}, &r);
	is_int((int64_t)r.interleavings, 210, "with merging as many are accounted for");
	explore((struct model){.body = {four_loads, four_loads, four_loads}, .no_merge = true}, &r);
	is_int((int64_t)r.runs, 34650, "three times 4 steps: 12! / (4!)^3 ways");
	explore((struct model){.body = {four_loads, four_loads, four_loads}}, &r);
	is_int((int64_t)r.interleavings, 34650, "with merging as many are accounted for");
	is_int((int64_t)r.states, 125, "in 5^3 states");
	ok(r.runs < 34650 && r.complete && !r.cyclic, "and fewer runs");
	explore((struct model){.body = {four_loads, six_stores}, .max_states = 10}, &r);
	ok(!r.complete, "a limit that cuts the exploration off is reported");
}

/* Killing: the store before the end may be missing, the one after it never comes first. */
static void final_killed(void *arg)
{
	outcomes[(sh.x != 0) * 2 + (sh.y != 0)]++;
}

static void test_killing(void)
{
	struct model m = {.body = {mp_relaxed},
		.reset = reset,
		.final = final_killed,
		.shared = &sh,
		.shared_len = sizeof(sh),
		.killable = 1};
	struct model_result r;

	memset(outcomes, 0, sizeof(outcomes));
	model_run(&m, true, &r);
	is_int(seen(), 0xd, "killed at every point: nothing, the first store, or both");
}

/* Waiting: a wait that nobody ends is an ending in which the waiter has not finished. */
static unsigned stuck;
static void ringer(void *arg)
{
	put(&sh.x, 1);
	model_event_ring(&sh.event);
}
static void waiter(void *arg)
{
	model_event_wait(&sh.event);
	r1 = get(&sh.x);
}
static void sleeper(void *arg)
{
	uint32_t seen_word = get(&sh.futex);

	model_futex_wait(&sh.futex, seen_word);
}
static void waker(void *arg)
{
	put(&sh.futex, 1);
	model_futex_wake(&sh.futex);
}
static void final_stuck(void *arg)
{
	stuck += !model_finished(0);
}

static void test_waiting(void)
{
	struct model m = {.body = {waiter, ringer},
		.reset = reset,
		.final = final_stuck,
		.shared = &sh,
		.shared_len = sizeof(sh)};
	struct model_result r;

	stuck = 0;
	model_run(&m, true, &r);
	ok(r.complete && stuck == 0, "an event that is rung once is enough");
	m.body[0] = sleeper;
	m.body[1] = waker;
	model_run(&m, true, &r);
	ok(r.complete && stuck > 0, "a sleeper that read the word after the wake sleeps for ever");
}

/* Spinning: model_local() makes an endless loop a finite number of states. */
static void spinner(void *arg)
{
	do {
		model_local(NULL, 0);
	} while (get(&sh.x) < 6);
}

static void test_spinning(void)
{
	struct model_result r;

	explore((struct model){.body = {spinner, six_stores}}, &r);
	ok(r.complete && r.cyclic && r.endings == 1, "a loop that spins is explored to the end");
}

static void asserting(void *arg)
{
	model_assert(get(&sh.x) != 5, "five was never there");
}

int main(void)
{
	struct model_result r;

	test_store_buffering();
	test_message_passing();
	test_forwarding();
	test_counts();
	test_killing();
	test_waiting();
	test_spinning();
	explore((struct model){.body = {asserting, six_stores}}, &r);
	is_str(r.failure, "five was never there", "the one interleaving that fails is found");
	return done_testing();
}
