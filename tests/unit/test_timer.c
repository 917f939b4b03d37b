/* SPDX-License-Identifier: MIT */
/* test_timer.c - the timing wheel fires each timer once, not early, and at most one tick late. */
#include "timer.h"

#include "check.h"
#include "tap.h"

#include <stddef.h>
#include <stdlib.h>

#define MS UINT64_C(1000000)
#define N 2000

struct probe {
	struct timer t;
	unsigned fired;
	uint64_t at;
};

static uint64_t now;
static struct timer_wheel wheel;
static struct probe probes[N];

static void note(struct timer *t)
{
	struct probe *p = container_of(t, struct probe, t);

	p->fired++;
	p->at = now;
}

static void test_order(void)
{
	unsigned early = 0, late = 0, wrong = 0;

	srandom(1);
	now = 5000 * MS;
	timer_wheel_init(&wheel, now);
	for (unsigned i = 0; i < N; i++) {
		probes[i].t.fire = note;
		timer_set(&wheel, &probes[i].t, now + (uint64_t)(random() % 40000) * MS + MS / 3);
	}
	while (now < 46000 * MS) {
		now += (uint64_t)(1 + random() % 13) * MS;
		timer_wheel_run(&wheel, now);
	}
	for (unsigned i = 0; i < N; i++) {
		wrong += probes[i].fired != 1;
		early += probes[i].at < probes[i].t.when_ns;
		late += probes[i].at > probes[i].t.when_ns + (TIMER_TICK_MS + 14) * MS;
	}
	is_int(wrong, 0, "each fired exactly once");
	is_int(early, 0, "none early");
	is_int(late, 0, "none later than a tick and the step of the clock");
	is_int(wheel.count, 0, "the wheel is empty");
}

static struct probe a, b;

static void clear_b(struct timer *t)
{
	note(t);
	timer_clear(&wheel, &b.t);
}

static void test_fire_may_clear(void)
{
	a = b = (struct probe){.fired = 0};
	a.t.fire = clear_b;
	b.t.fire = note;
	timer_wheel_init(&wheel, now);
	timer_set(&wheel, &a.t, now + 3 * MS);
	timer_set(&wheel, &b.t, now + 3 * MS);
	now += 50 * MS;
	timer_wheel_run(&wheel, now);
	is_int(a.fired, 1, "the first fired");
	is_int(b.fired, 0, "and could clear one of the same slot");
	is_int(wheel.count, 0, "nothing is left");
}

static void test_stopped_for_long(void)
{
	a = (struct probe){.t = {.fire = note}};
	b = (struct probe){.t = {.fire = note}};
	timer_wheel_init(&wheel, now);
	timer_set(&wheel, &a.t, now + 100 * MS);
	timer_set(&wheel, &b.t, now + 3600 * 1000 * MS);
	now += 600 * 1000 * MS;
	timer_wheel_run(&wheel, now);
	is_int(a.fired, 1, "after ten stopped minutes the due one fires at once");
	is_int(b.fired, 0, "the other does not");
	timer_set(&wheel, &b.t, now - 5 * MS);
	now += 20 * MS;
	timer_wheel_run(&wheel, now);
	is_int(b.fired, 1, "one set in the past fires at the next run");
}

int main(void)
{
	test_order();
	test_fire_may_clear();
	test_stopped_for_long();
	return done_testing();
}
