/* SPDX-License-Identifier: MIT */
/* tap.c - see tap.h. */
#include "tap.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned count, failed;

/*
 * One line stays one line: SQL in the name of a check may hold several.  No allocation: tests make
 * those fail.
 */
static void print_text(const char *between, const char *fmt, va_list ap)
{
	static char text[8192];

	(void)vsnprintf(text, sizeof(text), fmt, ap);
	for (const char *p = text; *p != '\0'; p++) {
		if (*p == '\n') {
			fputs(between, stdout);
		} else {
			putchar(*p);
		}
	}
}

static void line_v(bool pass, const char *file, int line, const char *fmt, va_list ap)
{
	count++;
	printf("%s %u - ", pass ? "ok" : "not ok", count);
	print_text(" ", fmt, ap);
	putchar('\n');
	if (!pass) {
		failed++;
		printf("#   failed at %s:%d\n", file, line);
	}
	fflush(stdout);
}

bool tap_ok(bool pass, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	line_v(pass, file, line, fmt, ap);
	va_end(ap);
	return pass;
}

bool tap_is_int(int64_t got, int64_t want, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	line_v(got == want, file, line, fmt, ap);
	va_end(ap);
	if (got != want) {
		diag("  got %" PRId64 ", want %" PRId64, got, want);
	}
	return got == want;
}

bool tap_is_str(const char *got, const char *want, const char *file, int line, const char *fmt, ...)
{
	bool same = got == want || (got != NULL && want != NULL && strcmp(got, want) == 0);
	va_list ap;

	va_start(ap, fmt);
	line_v(same, file, line, fmt, ap);
	va_end(ap);
	if (!same) {
		diag("  got \"%s\", want \"%s\"", got ? got : "(null)", want ? want : "(null)");
	}
	return same;
}

void diag(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("# ");
	print_text("\n# ", fmt, ap);
	putchar('\n');
	va_end(ap);
	fflush(stdout);
}

void skip(const char *why, ...)
{
	va_list ap;

	count++;
	va_start(ap, why);
	printf("ok %u # SKIP ", count);
	print_text(" ", why, ap);
	putchar('\n');
	va_end(ap);
	fflush(stdout);
}

_Noreturn void bail_out(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("Bail out! ");
	print_text(" ", fmt, ap);
	putchar('\n');
	va_end(ap);
	fflush(stdout);
	failed++; /* so that exit shows the logs */
	exit(99);
}

unsigned tap_failures(void)
{
	return failed;
}

int done_testing(void)
{
	printf("1..%u\n", count);
	fflush(stdout);
	return failed == 0 ? 0 : 1;
}
