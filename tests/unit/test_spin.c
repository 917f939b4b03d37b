/* SPDX-License-Identifier: MIT */
/* test_spin.c - looking before sleeping: how long, and never at the cost of others. */
#include "spin.h"

#include "doorbell.h"
#include "tap.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define US UINT64_C(1000)

static void test_budget(void)
{
	static const struct {
		uint64_t waited_us, budget_us;
		const char *what;
	} steps[] = {
		{5000, 0, "long waits: none"},
		{120, 50, "a short wait: a first look"},
		{120, 100, "it was too short a look: twice as long"},
		{120, 200, "again"},
		{199, 200, "long enough"},
		{10, 200, "less is enough as well"},
		{201, 100, "a wait that was longer: half"},
		{150, 200, "an exception"},
		{100000, 100, "long waits"},
		{100000, 50, "end it"},
		{100000, 0, "at last"},
		{40, 50, "until there is a short one again"},
		{300, 0, "a first look that was in vain is the last"},
	};
	struct spin s = {.on = true};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		spin_learn(&s, steps[i].waited_us * US);
		is_int((long long)(s.budget_ns / US), (long long)steps[i].budget_us, "%s",
			steps[i].what);
	}
}

static void test_may(void)
{
	struct spin s = {.on = true, .budget_ns = 50 * US};

	ok(spin_may(&s, 1000 * US, 1000 * US), "may look at once");
	ok(spin_may(&s, 1000 * US, 1049 * US), "and within the budget");
	ok(!spin_may(&s, 1000 * US, 1050 * US), "not beyond it");
	s.rest_until_ns = 1020 * US;
	ok(!spin_may(&s, 1000 * US, 1019 * US), "not while others need the processor");
	ok(spin_may(&s, 1000 * US, 1020 * US), "but afterwards");
	s.on = false;
	ok(!spin_may(&s, 1000 * US, 1020 * US), "never if it is off");
	s = (struct spin){.on = true};
	ok(!spin_may(&s, 1000 * US, 1000 * US), "not without a budget");
}

static _Atomic bool stop;

static void *use_up(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
	}
	return NULL;
}

/* Another thread on the same processor, that never sleeps. */
static void test_crowded(void)
{
	uint64_t now = doorbell_now(), until = now + 20000000 * US;
	struct spin s = {.on = true};
	cpu_set_t before, one;
	pthread_t t;

	if (sched_getaffinity(0, sizeof(before), &before) < 0) {
		bail_out("sched_getaffinity");
	}
	is_int(usable_cpus(), CPU_COUNT(&before), "the processors are counted");
	CPU_ZERO(&one);
	for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
		if (CPU_ISSET(i, &before)) {
			CPU_SET(i, &one);
		}
	}
	if (sched_setaffinity(0, sizeof(one), &one) < 0) {
		bail_out("sched_setaffinity");
	}
	is_int(usable_cpus(), 1, "with one, it is one");
	if (pthread_create(&t, NULL, use_up, NULL) != 0) {
		bail_out("pthread_create");
	}
	while (s.rest_until_ns == 0 && now < until) {
		now = spin_yield(&s, now);
	}
	ok(s.rest_until_ns >= now + 20 * 100 * US, "beside a busy thread it rests");
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	(void)sched_setaffinity(0, sizeof(before), &before);
}

int main(void)
{
	test_budget();
	test_may();
	test_crowded();
	return done_testing();
}
