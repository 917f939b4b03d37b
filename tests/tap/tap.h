/* SPDX-License-Identifier: MIT */
/*
 * tap.h - a small producer of the Test Anything Protocol.
 *
 * Every check prints one line; done_testing() prints the plan and returns the exit status.
 * Diagnostics go to standard output as "# ..." lines, so that meson keeps them with the test.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

bool tap_ok(bool pass, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
bool tap_is_int(int64_t got, int64_t want, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
bool tap_is_str(const char *got, const char *want, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

#define ok(cond, ...) tap_ok((cond), __FILE__, __LINE__, __VA_ARGS__)
#define is_int(got, want, ...) tap_is_int((got), (want), __FILE__, __LINE__, __VA_ARGS__)
#define is_str(got, want, ...) tap_is_str((got), (want), __FILE__, __LINE__, __VA_ARGS__)

void diag(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* One passing line marked SKIP. */
void skip(const char *why, ...) __attribute__((format(printf, 1, 2)));
/* Stop everything: the environment is unusable. */
_Noreturn void bail_out(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Checks that failed so far. */
unsigned tap_failures(void);
/* Print the plan; 0 if all passed, 1 otherwise. */
int done_testing(void);

#endif
