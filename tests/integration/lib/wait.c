/* SPDX-License-Identifier: MIT */
/* wait.c - see wait.h. */
#include "wait.h"

#include <time.h>

int64_t wait_clock_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

#define LONGEST_NS 3000000L

void wait_pause_before(unsigned n)
{
	struct timespec ts = {.tv_nsec = n < 6 ? 50000L << n : LONGEST_NS};

	(void)nanosleep(&ts, NULL);
}

void wait_pause(void)
{
	wait_pause_before(~0u);
}
