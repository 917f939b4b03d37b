/* SPDX-License-Identifier: MIT */
/* isotime.c - see isotime.h.  Calendar arithmetic in eras of 400 years that start in March. */
#include "isotime.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define DAY_US INT64_C(86400000000)

struct cursor {
	const char *p;
	const char *end;
};

/* Days since 1970-01-01. */
static int64_t days_from_civil(int64_t y, unsigned m, unsigned d)
{
	y -= m <= 2;
	int64_t era = (y >= 0 ? y : y - 399) / 400;
	int64_t yoe = y - era * 400;
	int64_t doy = (153 * (int64_t)(m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;

	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static void civil_from_days(int64_t z, int64_t *y, unsigned *m, unsigned *d)
{
	z += 719468;
	int64_t era = (z >= 0 ? z : z - 146096) / 146097;
	int64_t doe = z - era * 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	int64_t mp = (5 * doy + 2) / 153;

	*d = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
	*m = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
	*y = yoe + era * 400 + (*m <= 2);
}

/* Between min and max digits; returns how many, 0 if too few. */
static unsigned digits(struct cursor *c, unsigned min, unsigned max, int64_t *out)
{
	unsigned n = 0;
	int64_t v = 0;

	while (n < max && c->p < c->end && *c->p >= '0' && *c->p <= '9') {
		v = v * 10 + (*c->p++ - '0');
		n++;
	}
	*out = v;
	return n >= min ? n : 0;
}

static bool eat(struct cursor *c, char ch)
{
	if (c->p < c->end && *c->p == ch) {
		c->p++;
		return true;
	}
	return false;
}

static bool leap(int64_t y)
{
	return y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
}

static bool parse_date(struct cursor *c, int64_t *y, int64_t *m, int64_t *d)
{
	static const uint8_t length[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

	if (!digits(c, 4, 7, y) || !eat(c, '-') || !digits(c, 2, 2, m) || !eat(c, '-') ||
		!digits(c, 2, 2, d)) {
		return false;
	}
	if (*m < 1 || *m > 12) {
		return false;
	}
	return *d >= 1 && *d <= length[*m - 1] + (*m == 2 && leap(*y));
}

/* hh:mm[:ss[.fraction]] */
static bool parse_clock(struct cursor *c, int64_t *us)
{
	int64_t h, m, s = 0, f = 0;

	if (!digits(c, 2, 2, &h) || !eat(c, ':') || !digits(c, 2, 2, &m)) {
		return false;
	}
	if (eat(c, ':')) {
		if (!digits(c, 2, 2, &s)) {
			return false;
		}
		if (eat(c, '.')) {
			unsigned n = digits(c, 1, 9, &f);

			if (n == 0) {
				return false;
			}
			for (; n < 6; n++) {
				f *= 10;
			}
			for (; n > 6; n--) {
				f /= 10;
			}
		}
	}
	*us = ((h * 60 + m) * 60 + s) * 1000000 + f;
	return h < 24 && m < 60 && s < 60;
}

/* Z, or a sign and hh[[:]mm[[:]ss]].  No zone is UTC. */
static bool parse_zone(struct cursor *c, int64_t *us)
{
	int64_t h, m = 0, s = 0;
	bool minus = false;

	*us = 0;
	if (eat(c, 'Z') || eat(c, 'z')) {
		return true;
	}
	if (!eat(c, '+')) {
		minus = eat(c, '-');
		if (!minus) {
			return true;
		}
	}
	if (!digits(c, 2, 2, &h)) {
		return false;
	}
	if ((eat(c, ':') || (c->p < c->end && *c->p >= '0' && *c->p <= '9')) &&
		!digits(c, 2, 2, &m)) {
		return false;
	}
	if (eat(c, ':') && !digits(c, 2, 2, &s)) {
		return false;
	}
	*us = ((h * 60 + m) * 60 + s) * 1000000;
	*us = minus ? -*us : *us;
	return h < 24 && m < 60 && s < 60;
}

static bool is(const char *s, size_t len, const char *word)
{
	return strlen(word) == len && memcmp(s, word, len) == 0;
}

int isotime_parse(const char *s, size_t len, int64_t *us)
{
	struct cursor c = {s, s + len};
	int64_t y, m, d, clock = 0, zone = 0, day, sum;

	if (is(s, len, "infinity") || is(s, len, "-infinity")) {
		return ISOTIME_RANGE;
	}
	if (!parse_date(&c, &y, &m, &d)) {
		return ISOTIME_MALFORMED;
	}
	if (c.p < c.end && (*c.p == 'T' || *c.p == 't' || (*c.p == ' ' && c.end - c.p > 3))) {
		c.p++;
		if (!parse_clock(&c, &clock) || !parse_zone(&c, &zone)) {
			return ISOTIME_MALFORMED;
		}
	}
	if (is(c.p, (size_t)(c.end - c.p), " BC")) {
		return ISOTIME_RANGE;
	}
	if (c.p != c.end) {
		return ISOTIME_MALFORMED;
	}
	day = days_from_civil(y, (unsigned)m, (unsigned)d);
	if (y < 1 || __builtin_mul_overflow(day, DAY_US, &day) ||
		__builtin_add_overflow(day, clock - zone, &sum)) {
		return ISOTIME_RANGE;
	}
	*us = sum;
	return 0;
}

size_t isotime_format(int64_t us, char out[ISOTIME_MAX])
{
	int64_t day = us / DAY_US - (us % DAY_US < 0);
	int64_t clock = us % DAY_US + (us % DAY_US < 0 ? DAY_US : 0);
	unsigned m, d, sec = (unsigned)(clock / 1000000), frac = (unsigned)(clock % 1000000);
	int64_t y;
	int n;

	civil_from_days(day, &y, &m, &d);
	n = snprintf(out, ISOTIME_MAX, "%04lld-%02u-%02u %02u:%02u:%02u",
		(long long)(y > 0 ? y : 1 - y), m, d, sec / 3600, sec / 60 % 60, sec % 60);
	if (frac != 0) {
		n += snprintf(out + n, ISOTIME_MAX - (size_t)n, ".%06u", frac);
		while (out[n - 1] == '0') {
			n--;
		}
	}
	n += snprintf(out + n, ISOTIME_MAX - (size_t)n, "+00%s", y > 0 ? "" : " BC");
	return (size_t)n;
}
