/* SPDX-License-Identifier: MIT */
/*
 * timer.h - many deadlines, cheaply: a hashed timing wheel of TIMER_TICK_MS slots.
 *
 * Insert and remove are O(1); expiry is late by at most one tick.  One wheel per I/O thread, used
 * by that thread only.  Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP
 * 1987, scheme 6.
 */
#ifndef BROKER_TIMER_H
#define BROKER_TIMER_H

#include <stdbool.h>
#include <stdint.h>
#include <urcu/list.h>

#define TIMER_TICK_MS 8u
#define TIMER_SLOTS 1024u

struct timer {
	struct cds_list_head link; /* next NULL: not set */
	uint64_t when_ns;
	void (*fire)(struct timer *t); /* may set or clear any timer */
};

struct timer_wheel {
	struct cds_list_head slot[TIMER_SLOTS];
	uint64_t done_tick; /* ticks up to here were processed */
	unsigned count;
};

void timer_wheel_init(struct timer_wheel *w, uint64_t now_ns);
void timer_set(struct timer_wheel *w, struct timer *t, uint64_t when_ns);
void timer_clear(struct timer_wheel *w, struct timer *t);
static inline bool timer_is_set(const struct timer *t)
{
	return t->link.next != NULL;
}
/* The empty wheel stood still until now. */
void timer_wheel_skip(struct timer_wheel *w, uint64_t now_ns);
/* Fire what is due. */
void timer_wheel_run(struct timer_wheel *w, uint64_t now_ns);

#endif
