/* SPDX-License-Identifier: MIT */
/* crashpoint.c - see crashpoint.h.  Part of the library variant for fault tests only. */
#include "crashpoint.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CRASHPOINT_DEF(name, number, where)                                                        \
	_Static_assert((number) > 0 && (number) < CRASHPOINT_MAX, "number of a crash point");
#include "crashpoints.def"
#undef CRASHPOINT_DEF

void crashpoint_hit(enum crashpoint point)
{
	/* test-only state; the process that counts is the one that dies */
	static unsigned passes[CRASHPOINT_MAX];
	static pid_t counted;
	const char *spec = getenv("BROKER_CRASHPOINT");
	unsigned number, nth = 1;
	char action[8];

	if (spec == NULL || sscanf(spec, "%u:%7[a-z]:%u", &number, action, &nth) < 2 ||
		number != (unsigned)point) {
		return;
	}
	if (counted != getpid()) {
		memset(passes, 0, sizeof(passes));
		counted = getpid();
	}
	if (++passes[point] == nth) {
		kill(counted, strcmp(action, "stop") == 0 ? SIGSTOP : SIGKILL);
	}
}
