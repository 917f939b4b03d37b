/* SPDX-License-Identifier: MIT */
/* timer.c - see timer.h. */
#include "timer.h"

#include "check.h"

#define TICK_NS ((uint64_t)TIMER_TICK_MS * 1000000u)

_Static_assert((TIMER_SLOTS & (TIMER_SLOTS - 1)) == 0, "slots are a power of two");

void timer_wheel_init(struct timer_wheel *w, uint64_t now_ns)
{
	for (unsigned i = 0; i < TIMER_SLOTS; i++) {
		CDS_INIT_LIST_HEAD(&w->slot[i]);
	}
	w->done_tick = now_ns / TICK_NS;
	w->count = 0;
}

void timer_set(struct timer_wheel *w, struct timer *t, uint64_t when_ns)
{
	uint64_t tick = (when_ns + TICK_NS - 1) / TICK_NS;

	timer_clear(w, t);
	if (tick <= w->done_tick) { /* overdue: the next run fires it */
		tick = w->done_tick + 1;
	}
	t->when_ns = when_ns;
	cds_list_add_tail(&t->link, &w->slot[tick & (TIMER_SLOTS - 1)]);
	w->count++;
}

void timer_clear(struct timer_wheel *w, struct timer *t)
{
	if (timer_is_set(t)) {
		cds_list_del(&t->link);
		t->link.next = NULL;
		w->count--;
	}
}

void timer_wheel_skip(struct timer_wheel *w, uint64_t now_ns)
{
	check(w->count == 0);
	w->done_tick = now_ns / TICK_NS;
}

/*
 * One slot.  Due timers move to a list of their own first: fire() may set and clear any timer,
 * those of this slot included.
 */
static void run_slot(struct timer_wheel *w, struct cds_list_head *slot, uint64_t now_ns)
{
	struct cds_list_head due;
	struct timer *t, *next;

	CDS_INIT_LIST_HEAD(&due);
	cds_list_for_each_entry_safe(t, next, slot, link)
	{
		if (t->when_ns <= now_ns) {
			cds_list_del(&t->link);
			cds_list_add_tail(&t->link, &due);
		}
	}
	while (!cds_list_empty(&due)) {
		t = cds_list_first_entry(&due, struct timer, link);
		timer_clear(w, t);
		t->fire(t);
	}
}

void timer_wheel_run(struct timer_wheel *w, uint64_t now_ns)
{
	uint64_t tick = now_ns / TICK_NS;

	if (tick - w->done_tick > TIMER_SLOTS) { /* we were stopped: one round visits every slot */
		w->done_tick = tick - TIMER_SLOTS;
	}
	while (w->done_tick < tick) {
		w->done_tick++;
		run_slot(w, &w->slot[w->done_tick & (TIMER_SLOTS - 1)], now_ns);
	}
}
