/* SPDX-License-Identifier: MIT */
/* wait.c - see wait.h. */
#include "wait.h"

#include <time.h>

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

void wait_pause(void)
{
	struct timespec ts = {.tv_nsec = 3000000};

	(void)nanosleep(&ts, NULL);
}
