/* SPDX-License-Identifier: MIT */
/*
 * wait.h - wait for a condition instead of for a time.
 *
 *     ok(wait_until(pg_int(pg, "SELECT count(*) FROM item") == 3, 5000), "three rows arrive");
 *
 * The condition is evaluated at least once, then again and again, first after 50 microseconds, in
 * the end 15 milliseconds, and once more after the time is over.
 */
#ifndef IT_WAIT_H
#define IT_WAIT_H

#include <stdbool.h>
#include <stdint.h>

/* Milliseconds, microseconds of CLOCK_MONOTONIC. */
int64_t wait_clock_ms(void);
int64_t wait_clock_us(void);

/*
 * What a busy machine may add to a time that is promised, milliseconds: other tests run beside, and
 * other machines on the same processors.  A check that is meant to find a wait for the wrong thing
 * makes that wait far longer.
 */
#define WAIT_NOISE_MS 3000

/* Let some time pass between two looks at a condition: a few milliseconds, or, before the n-th
 * look, what is reasonable then. */
void wait_pause(void);
void wait_pause_before(unsigned n);

/* True as soon as cond holds; false if it did not within ms milliseconds. */
#define wait_until(cond, ms)                                                                       \
	({                                                                                         \
		int64_t wait_end_ = wait_clock_ms() + (ms);                                        \
		unsigned wait_n_ = 0;                                                              \
		bool wait_met_ = (cond);                                                           \
		while (!wait_met_ && wait_clock_ms() < wait_end_) {                                \
			wait_pause_before(wait_n_++);                                              \
			wait_met_ = (cond);                                                        \
		}                                                                                  \
		wait_met_;                                                                         \
	})

#endif
