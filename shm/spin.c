/* SPDX-License-Identifier: MIT */
/* spin.c - see spin.h. */
#include "spin.h"

#include "doorbell.h"

#include <sched.h>

#define FIRST_NS 50000u
#define MAX_NS 200000u
#define CROWDED_NS 100000u
#define REST 20u

unsigned usable_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

uint64_t spin_yield(struct spin *s, uint64_t now_ns)
{
	uint64_t now;

	(void)sched_yield();
	now = doorbell_now();
	if (now - now_ns >= CROWDED_NS) {
		s->rest_until_ns = now + REST * (now - now_ns);
	}
	return now;
}

void spin_learn(struct spin *s, uint64_t waited_ns)
{
	if (waited_ns > MAX_NS) {
		s->budget_ns = s->budget_ns > FIRST_NS ? s->budget_ns / 2 : 0;
	} else if (waited_ns > s->budget_ns) {
		s->budget_ns = s->budget_ns == 0 ? FIRST_NS : s->budget_ns * 2;
	}
}
