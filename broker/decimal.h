/* SPDX-License-Identifier: MIT */
/*
 * decimal.h - integers as text, on paths where every statement passes and printf would be a tenth
 * of the work.
 */
#ifndef BROKER_DECIMAL_H
#define BROKER_DECIMAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DECIMAL_MAX 21 /* 20 digits, or 19 and a sign, and NUL */

/* Writes a C string of at most DECIMAL_MAX bytes with its NUL; returns its length. */
static inline size_t decimal_u64(char *to, uint64_t v)
{
	char digits[DECIMAL_MAX];
	size_t at = sizeof(digits), len;

	do {
		digits[--at] = (char)('0' + v % 10);
		v /= 10;
	} while (v != 0);
	len = sizeof(digits) - at;
	memcpy(to, digits + at, len);
	to[len] = '\0';
	return len;
}

static inline size_t decimal_i64(char *to, int64_t v)
{
	if (v >= 0) {
		return decimal_u64(to, (uint64_t)v);
	}
	*to = '-';
	return 1 + decimal_u64(to + 1, -(uint64_t)v);
}

#endif
