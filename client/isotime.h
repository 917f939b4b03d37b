/* SPDX-License-Identifier: MIT */
/*
 * isotime.h - points in time as ISO 8601 text and as microseconds since 1970-01-01 00:00:00 UTC.
 *
 * Proleptic Gregorian calendar, no leap seconds, independent of locale and time zone.
 */
#ifndef CLIENT_ISOTIME_H
#define CLIENT_ISOTIME_H

#include "check.h"

#include <stddef.h>
#include <stdint.h>

#define ISOTIME_MAX 48 /* bytes of the longest text, with NUL */
#define ISOTIME_MALFORMED (-1)
#define ISOTIME_RANGE (-2)

/*
 * Date, or date and time separated by a space or T, fraction of up to nine digits (cut to
 * microseconds), zone as Z or +hh[[:]mm[[:]ss]]; UTC if there is none.
 * 0, ISOTIME_MALFORMED, or ISOTIME_RANGE: infinity, before year 1, or beyond 64 bits.
 */
int isotime_parse(const char *s, size_t len, int64_t *us) must_use;

/* As "2026-01-31 23:59:59.123456+00", without trailing zeros in the fraction.  Returns the length.
 */
size_t isotime_format(int64_t us, char out[ISOTIME_MAX]);

#endif
