/* SPDX-License-Identifier: MIT */
/* doorbell.c - see doorbell.h.  Sources: futex(2), eventfd(2). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "doorbell.h"

#include "atomics.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int doorbell_wait(const _Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(timeout_ns / 1000000000u),
		.tv_nsec = (long)(timeout_ns % 1000000000u),
	};
	long n = syscall(SYS_futex, word, FUTEX_WAIT, seen, &ts, NULL, 0);

	if (n == 0 || errno == EAGAIN) {
		return 0;
	}
	return -errno;
}

void doorbell_wake(_Atomic uint32_t *word)
{
	bump(word, 1u);
	(void)syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void doorbell_ring(int efd)
{
	uint64_t one = 1;
	ssize_t n;

	do {
		n = write(efd, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
}

uint64_t doorbell_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
