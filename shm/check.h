/* SPDX-License-Identifier: MIT */
/*
 * check.h - four words for four meanings of "this should hold".
 *
 * check(x)          an invariant of the broker.  Always compiled; a failure aborts the process, its
 *                   supervisor restarts it and the workers attach anew.  Never used in client/.
 * check_slow(x)     the same, compiled into debug builds only.
 * never(x)          a defensive branch: true means a bug.  Debug builds abort, release builds take
 *                   the branch:  if (never(p == NULL)) return -EINVAL;
 * validate(x, err)  for bytes from a peer and the public edge: returns err, never aborts.
 */
#ifndef SHM_CHECK_H
#define SHM_CHECK_H

#include <stdio.h>
#include <stdlib.h>

__attribute__((noreturn, cold)) static inline void
check_failed(const char *what, const char *file, int line, const char *func)
{
	fprintf(stderr, "%s:%d: %s: invariant broken: %s\n", file, line, func, what);
	abort();
}

#define check(x)                                                                                   \
	do {                                                                                       \
		if (__builtin_expect(!(x), 0)) {                                                   \
			check_failed(#x, __FILE__, __LINE__, __func__);                            \
		}                                                                                  \
	} while (0)

#ifdef NDEBUG
#define check_slow(x) ((void)sizeof(!(x))) /* compiled, so that it stays right, but not run */
#define never(x) (__builtin_expect(!!(x), 0))
#else
#define check_slow(x) check(x)
#define never(x)                                                                                   \
	(__builtin_expect(!!(x), 0)                                                                \
			? (check_failed("never: " #x, __FILE__, __LINE__, __func__), 1)            \
			: 0)
#endif

#define validate(x, err)                                                                           \
	do {                                                                                       \
		if (__builtin_expect(!(x), 0)) {                                                   \
			return (err);                                                              \
		}                                                                                  \
	} while (0)

#define must_use __attribute__((warn_unused_result))
#define array_size(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

#endif
