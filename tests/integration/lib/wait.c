/* SPDX-License-Identifier: MIT */
/* wait.c - see wait.h. */
#include "wait.h"

#include <time.h>

#define USUAL_NS 3000000L
#define LONGEST_NS 15000000L

int64_t wait_clock_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t wait_clock_ms(void)
{
	return wait_clock_us() / 1000;
}

void wait_pause_before(unsigned n)
{
	/* a look may cost a process: who has waited for long looks less often */
	struct timespec ts = {.tv_nsec = n < 6 ? 50000L << n : n < 60 ? USUAL_NS : LONGEST_NS};

	(void)nanosleep(&ts, NULL);
}

void wait_pause(void)
{
	wait_pause_before(6);
}
