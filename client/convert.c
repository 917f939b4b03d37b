/* SPDX-License-Identifier: MIT */
/* convert.c - see convert.h. */
#include "convert.h"

#include "isotime.h"
#include "shmbroker.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A number of more characters than this goes through the heap. */
#define NUMBER_INLINE 128

static bool is(const struct cell *c, const char *word)
{
	return strlen(word) == c->len && memcmp(c->p, word, c->len) == 0;
}

static int64_t native_int64(const struct cell *c)
{
	int64_t v;

	memcpy(&v, c->p, sizeof(v));
	return v;
}

static double native_double(const struct cell *c)
{
	double v;

	memcpy(&v, c->p, sizeof(v));
	return v;
}

/* Native cells of fixed size must have it: they come from another process. */
static bool native(const struct cell *c, size_t size)
{
	return c->encoding == CELL_NATIVE && c->len == size;
}

static int parse_int64(const struct cell *c, int64_t *out)
{
	const unsigned char *p = c->p, *end = c->p + c->len;
	bool minus = p < end && *p == '-';
	int64_t v = 0;

	p += p < end && (*p == '-' || *p == '+');
	if (p == end) {
		return BROKER_E_TYPE;
	}
	for (const unsigned char *q = p; q < end; q++) {
		if (*q < '0' || *q > '9') {
			return BROKER_E_TYPE;
		}
	}
	for (; p < end; p++) {
		int digit = *p - '0';

		if (__builtin_mul_overflow(v, 10, &v) ||
			__builtin_sub_overflow(v, digit, &v)) { /* negative reaches one further */
			return BROKER_E_RANGE;
		}
	}
	if (!minus && v == INT64_MIN) {
		return BROKER_E_RANGE;
	}
	*out = minus ? v : -v;
	return 0;
}

/*
 * Numbers of at most 15 digits and a small exponent are exact in one operation (both operands are
 * exact doubles, IEEE 754 rounds once).  True if s is such a number, whole.
 */
static bool quick_double(const unsigned char *p, const unsigned char *end, double *out)
{
	static const double ten[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
		1e12, 1e13, 1e14, 1e15};
	bool minus = p < end && *p == '-', dot = false;
	unsigned n = 0, scale = 0;
	uint64_t v = 0;

	for (p += minus; p < end; p++) {
		if (*p == '.' && !dot) {
			dot = true;
			continue;
		}
		if (*p < '0' || *p > '9' || ++n > 15) {
			return false;
		}
		v = v * 10 + (uint64_t)(*p - '0');
		scale += dot;
	}
	if (n == 0) {
		return false;
	}
	*out = minus ? -((double)v / ten[scale]) : (double)v / ten[scale];
	return true;
}

/* NaN and infinities as PostgreSQL writes them. */
static bool special_double(const struct cell *c, double *out)
{
	if (is(c, "NaN")) {
		*out = NAN;
	} else if (is(c, "Infinity")) {
		*out = HUGE_VAL;
	} else if (is(c, "-Infinity")) {
		*out = -HUGE_VAL;
	} else {
		return false;
	}
	return true;
}

static int slow_double(const struct cell *c, double *out)
{
	char small[NUMBER_INLINE], *s = small, *end;
	int rc = 0;
	double v;

	for (uint32_t i = 0; i < c->len; i++) { /* no hex, no names, no spaces */
		if (c->p[i] == '\0' || strchr("0123456789+-.eE", c->p[i]) == NULL) {
			return BROKER_E_TYPE;
		}
	}
	if (c->len == 0) {
		return BROKER_E_TYPE;
	}
	if (c->len >= sizeof(small)) {
		s = malloc((size_t)c->len + 1);
		if (s == NULL) {
			return BROKER_E_MEMORY;
		}
	}
	memcpy(s, c->p, c->len);
	s[c->len] = '\0';
	/* the C locale is a constant of the C library, nothing is allocated */
	v = strtod_l(s, &end, newlocale(LC_ALL_MASK, "C", (locale_t)0));
	if (end != s + c->len) {
		rc = BROKER_E_TYPE;
	} else if (isinf(v)) {
		rc = BROKER_E_RANGE;
	} else {
		*out = v;
	}
	if (s != small) {
		free(s);
	}
	return rc;
}

static int parse_double(const struct cell *c, double *out)
{
	if (quick_double(c->p, c->p + c->len, out) || special_double(c, out)) {
		return 0;
	}
	return slow_double(c, out);
}

static int double_to_int64(double d, int64_t *out)
{
	if (!(d >= -9223372036854775808.0 && d < 9223372036854775808.0) ||
		d != (double)(int64_t)d) {
		return BROKER_E_RANGE;
	}
	*out = (int64_t)d;
	return 0;
}

static int parse_bool(const struct cell *c, bool *out)
{
	if (is(c, "t") || is(c, "true") || is(c, "1")) {
		*out = true;
		return 0;
	}
	if (is(c, "f") || is(c, "false") || is(c, "0")) {
		*out = false;
		return 0;
	}
	return BROKER_E_TYPE;
}

int convert_bool(const struct cell *c, bool *out)
{
	int64_t v;
	int rc;

	switch (c->type) {
	case CELL_BOOL:
		if (c->encoding == CELL_PGTEXT) {
			return parse_bool(c, out);
		}
		if (!native(c, 1)) {
			return BROKER_E_TYPE;
		}
		*out = c->p[0] != 0;
		return 0;
	case CELL_INT64:
		rc = convert_int64(c, &v);
		if (rc < 0) {
			return rc;
		}
		if (v != 0 && v != 1) {
			return BROKER_E_RANGE;
		}
		*out = v == 1;
		return 0;
	case CELL_TEXT:
		return parse_bool(c, out);
	default:
		return BROKER_E_TYPE;
	}
}

int convert_int64(const struct cell *c, int64_t *out)
{
	bool truth;
	double d;
	int rc;

	switch (c->type) {
	case CELL_BOOL:
		rc = convert_bool(c, &truth);
		if (rc == 0) {
			*out = truth;
		}
		return rc;
	case CELL_INT64:
		if (c->encoding == CELL_PGTEXT) {
			return parse_int64(c, out);
		}
		if (!native(c, 8)) {
			return BROKER_E_TYPE;
		}
		*out = native_int64(c);
		return 0;
	case CELL_DOUBLE:
		rc = convert_double(c, &d);
		return rc < 0 ? rc : double_to_int64(d, out);
	case CELL_TEXT:
		return parse_int64(c, out);
	default:
		return BROKER_E_TYPE;
	}
}

int convert_double(const struct cell *c, double *out)
{
	int64_t v;
	int rc;

	switch (c->type) {
	case CELL_INT64:
		rc = convert_int64(c, &v);
		if (rc == 0) {
			*out = (double)v;
		}
		return rc;
	case CELL_DOUBLE:
		if (c->encoding == CELL_PGTEXT) {
			return parse_double(c, out);
		}
		if (!native(c, 8)) {
			return BROKER_E_TYPE;
		}
		*out = native_double(c);
		return 0;
	case CELL_TEXT:
		return parse_double(c, out);
	default:
		return BROKER_E_TYPE;
	}
}

int convert_timestamp(const struct cell *c, int64_t *us)
{
	int rc;

	if (c->type == CELL_TIMESTAMP && c->encoding == CELL_NATIVE) {
		if (!native(c, 8)) {
			return BROKER_E_TYPE;
		}
		*us = native_int64(c);
		return 0;
	}
	if (c->type != CELL_TIMESTAMP && c->type != CELL_TEXT) {
		return BROKER_E_TYPE;
	}
	rc = isotime_parse((const char *)c->p, c->len, us);
	return rc == 0 ? 0 : rc == ISOTIME_RANGE ? BROKER_E_RANGE : BROKER_E_TYPE;
}

bool convert_text_in_place(const struct cell *c)
{
	switch (c->type) {
	case CELL_TEXT:
	case CELL_JSON:
		return true;
	case CELL_INT64:
	case CELL_DOUBLE:
		return c->encoding == CELL_PGTEXT;
	default:
		return false;
	}
}

/* d to `precision` significant digits: digits without point, and the decimal exponent. */
static unsigned split_digits(double d, int precision, char out[20], int *exponent)
{
	char buf[40];
	unsigned n = 0;
	const char *p = buf;

	snprintf(buf, sizeof(buf), "%.*e", precision - 1, d);
	for (; *p != 'e'; p++) { /* the point may be any character of the locale */
		if (*p >= '0' && *p <= '9' && n < 19) {
			out[n++] = *p;
		}
	}
	*exponent = atoi(p + 1);
	while (n > 1 && out[n - 1] == '0') {
		n--;
	}
	return n;
}

static bool reads_back(double d, int precision)
{
	char buf[40];

	snprintf(buf, sizeof(buf), "%.*e", precision - 1, d); /* writer and reader use one locale */
	return strtod(buf, NULL) == d;
}

static size_t put_exponent(char *out, const char *digit, unsigned n, int exponent)
{
	size_t at = 0;

	out[at++] = digit[0];
	if (n > 1) {
		out[at++] = '.';
		memcpy(out + at, digit + 1, n - 1);
		at += n - 1;
	}
	return at + (size_t)snprintf(out + at, 8, "e%+03d", exponent);
}

static size_t put_fixed(char *out, const char *digit, unsigned n, int exponent)
{
	size_t at = 0;

	if (exponent < 0) {
		out[at++] = '0';
		out[at++] = '.';
		for (int i = exponent + 1; i < 0; i++) {
			out[at++] = '0';
		}
		memcpy(out + at, digit, n);
		at += n;
	} else {
		for (unsigned i = 0; i < n || (int)i <= exponent; i++) {
			if ((int)i == exponent + 1) {
				out[at++] = '.';
			}
			out[at++] = i < n ? digit[i] : '0';
		}
	}
	out[at] = '\0';
	return at;
}

size_t convert_format_double(double d, char out[CONVERT_TEXT_MAX])
{
	char digit[20];
	int exponent, precision = 15;
	size_t at = 0;
	unsigned n;

	if (isnan(d)) {
		return (size_t)snprintf(out, CONVERT_TEXT_MAX, "NaN");
	}
	if (isinf(d)) {
		return (size_t)snprintf(out, CONVERT_TEXT_MAX, "%sInfinity", d < 0 ? "-" : "");
	}
	while (precision < 17 && !reads_back(d, precision)) {
		precision++;
	}
	if (signbit(d)) {
		out[at++] = '-';
	}
	n = split_digits(fabs(d), precision, digit, &exponent);
	if (exponent < -4 || exponent >= 15) {
		return at + put_exponent(out + at, digit, n, exponent);
	}
	return at + put_fixed(out + at, digit, n, exponent);
}

int convert_text(const struct cell *c, char out[CONVERT_TEXT_MAX], size_t *len)
{
	int64_t v;
	bool truth;
	double d;
	int rc;

	switch (c->type) {
	case CELL_BOOL:
		rc = convert_bool(c, &truth);
		if (rc == 0) {
			*len = (size_t)snprintf(out, CONVERT_TEXT_MAX, truth ? "true" : "false");
		}
		return rc;
	case CELL_INT64:
		rc = convert_int64(c, &v);
		if (rc == 0) {
			*len = (size_t)snprintf(out, CONVERT_TEXT_MAX, "%lld", (long long)v);
		}
		return rc;
	case CELL_DOUBLE:
		rc = convert_double(c, &d);
		if (rc == 0) {
			*len = convert_format_double(d, out);
		}
		return rc;
	case CELL_TIMESTAMP:
		rc = convert_timestamp(c, &v);
		if (rc == 0) {
			*len = isotime_format(v, out);
		}
		return rc;
	default:
		return BROKER_E_TYPE;
	}
}

/* Value of a hexadecimal digit, and 1 more, so that all others are 0. */
static const unsigned char hex_digit[256] = {['0'] = 1,
	['1'] = 2,
	['2'] = 3,
	['3'] = 4,
	['4'] = 5,
	['5'] = 6,
	['6'] = 7,
	['7'] = 8,
	['8'] = 9,
	['9'] = 10,
	['a'] = 11,
	['b'] = 12,
	['c'] = 13,
	['d'] = 14,
	['e'] = 15,
	['f'] = 16,
	['A'] = 11,
	['B'] = 12,
	['C'] = 13,
	['D'] = 14,
	['E'] = 15,
	['F'] = 16};

static int decode_hex(const unsigned char *p, size_t len, unsigned char *out, size_t *outlen)
{
	if (len % 2 != 0) {
		return BROKER_E_TYPE;
	}
	for (size_t i = 0; i < len; i += 2) {
		unsigned hi = hex_digit[p[i]], lo = hex_digit[p[i + 1]];

		if (hi == 0 || lo == 0) {
			return BROKER_E_TYPE;
		}
		out[i / 2] = (unsigned char)((hi - 1) << 4 | (lo - 1));
	}
	*outlen = len / 2;
	return 0;
}

static bool octal(unsigned char ch)
{
	return ch >= '0' && ch <= '7';
}

/* The form of bytea_output = escape: \\ and \ooo. */
static int decode_escape(const unsigned char *p, size_t len, unsigned char *out, size_t *outlen)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (p[i] != '\\') {
			out[n++] = p[i];
		} else if (i + 1 < len && p[i + 1] == '\\') {
			out[n++] = '\\';
			i++;
		} else if (i + 3 < len && octal(p[i + 1]) && octal(p[i + 2]) && octal(p[i + 3])) {
			out[n++] = (unsigned char)((p[i + 1] - '0') << 6 | (p[i + 2] - '0') << 3 |
						   (p[i + 3] - '0'));
			i += 3;
		} else {
			return BROKER_E_TYPE;
		}
	}
	*outlen = n;
	return 0;
}

int convert_blob(const struct cell *c, unsigned char *out, size_t *len)
{
	if (c->len >= 2 && c->p[0] == '\\' && c->p[1] == 'x') {
		return decode_hex(c->p + 2, c->len - 2, out, len);
	}
	return decode_escape(c->p, c->len, out, len);
}

/* Length of the UTF-8 sequence at p, 0 if malformed: overlong, surrogate, beyond U+10FFFF. */
static unsigned utf8_sequence(const unsigned char *p, size_t left)
{
	unsigned char lo = 0x80, hi = 0xbf;
	unsigned n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;

	if (p[0] < 0xc2 || p[0] > 0xf4 || left < n) {
		return 0;
	}
	if (p[0] == 0xe0) {
		lo = 0xa0;
	} else if (p[0] == 0xed) {
		hi = 0x9f;
	} else if (p[0] == 0xf0) {
		lo = 0x90;
	} else if (p[0] == 0xf4) {
		hi = 0x8f;
	}
	if (p[1] < lo || p[1] > hi) {
		return 0;
	}
	for (unsigned i = 2; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80) {
			return 0;
		}
	}
	return n;
}

bool convert_is_text(const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len;) {
		unsigned n = 1;

		if (p[i] >= 0x80) {
			n = utf8_sequence(p + i, len - i);
		}
		if (p[i] == 0 || n == 0) {
			return false;
		}
		i += n;
	}
	return true;
}
