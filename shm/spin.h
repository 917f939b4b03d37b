/* SPDX-License-Identifier: MIT */
/*
 * spin.h - look for a while before sleeping, where that pays and harms nobody.
 *
 * A processor that has gone to sleep takes tens of microseconds to wake, which is as long as a
 * short statement takes, and whoever wakes it is charged for that.  So who waits goes on looking
 * for a while if that has paid lately.  How long is found much as Linux does for halted virtual
 * processors (adjusting halt_poll_ns, virt/kvm/kvm_main.c): a wait shorter than 200 microseconds,
 * but longer than the look, doubles it, first to 50; a longer one halves it.
 *
 * Each look yields the processor, so nobody is kept from running.  A yield that takes 100
 * microseconds says that somebody needs it who does not wait for us; then there is no looking for
 * twenty times as long as it took.  So little is lost beside one who uses up his time slices.
 *
 * Belongs to the thread that waits.
 */
#ifndef SHM_SPIN_H
#define SHM_SPIN_H

#include <stdbool.h>
#include <stdint.h>

struct spin {
	bool on; /* who is waited for can run meanwhile: there are processors enough */
	uint64_t budget_ns; /* how long to look; 0: not at all */
	uint64_t rest_until_ns; /* until then others need the processor */
};

/* Processors that this thread may use; 1 if that is not known. */
unsigned usable_cpus(void);

/* May a wait that began at since_ns look once more?  Times are doorbell_now's. */
static inline bool spin_may(const struct spin *s, uint64_t since_ns, uint64_t now_ns)
{
	return now_ns - since_ns < s->budget_ns && now_ns >= s->rest_until_ns && s->on;
}

/* Let others run; returns the time after it. */
uint64_t spin_yield(struct spin *s, uint64_t now_ns);

/* A wait is over that took so long, with or without sleep. */
void spin_learn(struct spin *s, uint64_t waited_ns);

#endif
