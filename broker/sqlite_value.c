/* SPDX-License-Identifier: MIT */
/*
 * sqlite_value.c - see sqlite_value.h.
 *
 * Sources: sqlite.org/datatype3.html; calendar arithmetic after Howard Hinnant, "chrono-compatible
 * low-level date algorithms" (days_from_civil, civil_from_days).
 */
#include "sqlite_value.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define US_PER_SECOND INT64_C(1000000)
#define US_PER_DAY (INT64_C(86400) * US_PER_SECOND)

/* -- declared types ---------------------------------------------------------------------------- */

static bool starts_with(const char *s, const char *prefix)
{
	return strncasecmp(s, prefix, strlen(prefix)) == 0;
}

static bool contains(const char *s, const char *part)
{
	return strcasestr(s, part) != NULL;
}

enum sqlite_column sqlite_column_class(const char *decl)
{
	if (decl == NULL) {
		return SQLITE_COLUMN_ANY;
	}
	if (starts_with(decl, "BOOL")) {
		return SQLITE_COLUMN_BOOL;
	}
	if (starts_with(decl, "TIMESTAMP") || starts_with(decl, "DATETIME")) {
		return SQLITE_COLUMN_TIMESTAMP;
	}
	return starts_with(decl, "JSON") ? SQLITE_COLUMN_JSON : SQLITE_COLUMN_ANY;
}

uint8_t sqlite_column_type_of_decl(const char *decl)
{
	switch (sqlite_column_class(decl)) {
	case SQLITE_COLUMN_BOOL:
		return CELL_BOOL;
	case SQLITE_COLUMN_TIMESTAMP:
		return CELL_TIMESTAMP;
	case SQLITE_COLUMN_JSON:
		return CELL_JSON;
	case SQLITE_COLUMN_ANY:
		break;
	}
	/* SQLite's own rules of affinity, in their order. */
	if (decl == NULL) {
		return CELL_TEXT;
	}
	if (contains(decl, "INT")) {
		return CELL_INT64;
	}
	if (contains(decl, "CHAR") || contains(decl, "CLOB") || contains(decl, "TEXT")) {
		return CELL_TEXT;
	}
	if (contains(decl, "BLOB")) {
		return CELL_BLOB;
	}
	if (contains(decl, "REAL") || contains(decl, "FLOA") || contains(decl, "DOUB")) {
		return CELL_DOUBLE;
	}
	return CELL_TEXT;
}

/* -- timestamps -------------------------------------------------------------------------------- */

static int64_t days_from_civil(int64_t y, unsigned m, unsigned d)
{
	int64_t era;
	unsigned yoe, doy, doe;

	y -= m <= 2;
	era = (y >= 0 ? y : y - 399) / 400;
	yoe = (unsigned)(y - era * 400);
	doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
	doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
	return era * 146097 + (int64_t)doe - 719468;
}

static void civil_from_days(int64_t z, int64_t *y, unsigned *m, unsigned *d)
{
	int64_t era;
	unsigned doe, yoe, doy, mp;

	z += 719468;
	era = (z >= 0 ? z : z - 146096) / 146097;
	doe = (unsigned)(z - era * 146097);
	yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	mp = (5 * doy + 2) / 153;
	*d = doy - (153 * mp + 2) / 5 + 1;
	*m = mp < 10 ? mp + 3 : mp - 9;
	*y = (int64_t)yoe + era * 400 + (*m <= 2);
}

static unsigned days_in_month(int64_t y, unsigned m)
{
	static const unsigned char days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;

	return m == 2 && leap ? 29 : days[m - 1];
}

struct cursor {
	const char *at, *end;
};

static bool take(struct cursor *c, char ch)
{
	if (c->at < c->end && *c->at == ch) {
		c->at++;
		return true;
	}
	return false;
}

static bool take_digits(struct cursor *c, unsigned n, unsigned *out)
{
	*out = 0;
	for (unsigned i = 0; i < n; i++) {
		if (c->at == c->end || !isdigit((unsigned char)*c->at)) {
			return false;
		}
		*out = *out * 10 + (unsigned)(*c->at++ - '0');
	}
	return true;
}

static bool take_date(struct cursor *c, int64_t *us)
{
	unsigned y, m, d;

	if (!take_digits(c, 4, &y) || !take(c, '-') || !take_digits(c, 2, &m) || !take(c, '-') ||
		!take_digits(c, 2, &d)) {
		return false;
	}
	if (m < 1 || m > 12 || d < 1 || d > days_in_month(y, m)) {
		return false;
	}
	*us = days_from_civil(y, m, d) * US_PER_DAY;
	return true;
}

/* .f… : digits behind the sixth are cut, as SQLite's own functions do. */
static bool take_fraction(struct cursor *c, int64_t *us)
{
	int64_t unit = US_PER_SECOND / 10;

	if (!take(c, '.')) {
		return true;
	}
	if (c->at == c->end || !isdigit((unsigned char)*c->at)) {
		return false;
	}
	while (c->at < c->end && isdigit((unsigned char)*c->at)) {
		*us += (*c->at++ - '0') * unit;
		unit /= 10;
	}
	return true;
}

static bool take_time(struct cursor *c, int64_t *us)
{
	unsigned h, m, s = 0;

	if (!take_digits(c, 2, &h) || !take(c, ':') || !take_digits(c, 2, &m)) {
		return false;
	}
	if (take(c, ':') && !take_digits(c, 2, &s)) {
		return false;
	}
	if (h > 23 || m > 59 || s > 60) {
		return false;
	}
	*us += (int64_t)(h * 3600 + m * 60 + s) * US_PER_SECOND;
	return take_fraction(c, us);
}

/* Z, +HH, +HH:MM or +HHMM, or nothing. */
static bool take_zone(struct cursor *c, int64_t *us)
{
	unsigned h, m = 0;
	bool west;

	take(c, ' ');
	if (c->at == c->end || take(c, 'Z') || take(c, 'z')) {
		return true;
	}
	west = *c->at == '-';
	if (!take(c, '+') && !take(c, '-')) {
		return false;
	}
	if (!take_digits(c, 2, &h)) {
		return false;
	}
	if ((take(c, ':') || c->at < c->end) && !take_digits(c, 2, &m)) {
		return false;
	}
	if (h > 15 || m > 59) {
		return false;
	}
	*us += (west ? 1 : -1) * (int64_t)(h * 3600 + m * 60) * US_PER_SECOND;
	return true;
}

bool sqlite_parse_timestamp(const char *text, size_t len, int64_t *us)
{
	struct cursor c = {text, text + len};
	int64_t t;

	if (!take_date(&c, &t)) {
		return false;
	}
	if (c.at < c.end) {
		if (!take(&c, ' ') && !take(&c, 'T') && !take(&c, 't')) {
			return false;
		}
		if (!take_time(&c, &t) || !take_zone(&c, &t)) {
			return false;
		}
	}
	if (c.at != c.end) {
		return false;
	}
	*us = t;
	return true;
}

bool sqlite_format_timestamp(int64_t us, char buf[SQLITE_TIMESTAMP_MAX])
{
	int64_t days = us / US_PER_DAY, rest = us % US_PER_DAY, y;
	unsigned m, d;

	if (rest < 0) {
		days--;
		rest += US_PER_DAY;
	}
	civil_from_days(days, &y, &m, &d);
	if (y < 0 || y > 9999) {
		return false;
	}
	snprintf(buf, SQLITE_TIMESTAMP_MAX, "%04u-%02u-%02u %02u:%02u:%02u.%06u",
		(unsigned)y % 10000u, m, d, (unsigned)(rest / (3600 * US_PER_SECOND)) % 24u,
		(unsigned)(rest / (60 * US_PER_SECOND) % 60), (unsigned)(rest / US_PER_SECOND % 60),
		(unsigned)(rest % US_PER_SECOND));
	return true;
}

/* -- cells ------------------------------------------------------------------------------------- */

static void integer_cell(sqlite3_stmt *stmt, int i, enum sqlite_column class,
	struct stream_cell *cell, union sqlite_number *num)
{
	int64_t v = sqlite3_column_int64(stmt, i);

	if (class == SQLITE_COLUMN_BOOL && (v == 0 || v == 1)) {
		num->b = (uint8_t)v;
		*cell = (struct stream_cell){&num->b, 1, CELL_BOOL, CELL_NATIVE};
		return;
	}
	num->i = v;
	*cell = (struct stream_cell){&num->i, sizeof(num->i), CELL_INT64, CELL_NATIVE};
}

static bool text_cell(sqlite3_stmt *stmt, int i, enum sqlite_column class, struct stream_cell *cell,
	union sqlite_number *num)
{
	const void *text = sqlite3_column_text(stmt, i);
	uint32_t len = (uint32_t)sqlite3_column_bytes(stmt, i);

	if (text == NULL) { /* an empty text is not NULL */
		return false;
	}
	if (class == SQLITE_COLUMN_TIMESTAMP && sqlite_parse_timestamp(text, len, &num->i)) {
		*cell = (struct stream_cell){&num->i, sizeof(num->i), CELL_TIMESTAMP, CELL_NATIVE};
		return true;
	}
	*cell = (struct stream_cell){
		text, len, class == SQLITE_COLUMN_JSON ? CELL_JSON : CELL_TEXT, CELL_NATIVE};
	return true;
}

bool sqlite_cell(sqlite3_stmt *stmt, int i, enum sqlite_column class, struct stream_cell *cell,
	union sqlite_number *num)
{
	int type = sqlite3_column_type(stmt, i);

	/* A column declared JSON has numeric affinity: SQLite stores the JSON text 17 as a number.
	 */
	if (class == SQLITE_COLUMN_JSON && (type == SQLITE_INTEGER || type == SQLITE_FLOAT)) {
		type = SQLITE_TEXT;
	}
	switch (type) {
	case SQLITE_INTEGER:
		integer_cell(stmt, i, class, cell, num);
		break;
	case SQLITE_FLOAT:
		num->d = sqlite3_column_double(stmt, i);
		*cell = (struct stream_cell){&num->d, sizeof(num->d), CELL_DOUBLE, CELL_NATIVE};
		break;
	case SQLITE_TEXT:
		return text_cell(stmt, i, class, cell, num);
	case SQLITE_BLOB:
		cell->data = sqlite3_column_blob(stmt, i);
		cell->len = (uint32_t)sqlite3_column_bytes(stmt, i);
		cell->type = CELL_BLOB;
		cell->encoding = CELL_NATIVE;
		return cell->data != NULL || cell->len == 0;
	default:
		*cell = (struct stream_cell){NULL, 0, CELL_NULL, CELL_NATIVE};
		break;
	}
	return true;
}

/* -- parameters -------------------------------------------------------------------------------- */

static int bind_timestamp(sqlite3_stmt *stmt, int i, int64_t us)
{
	char buf[SQLITE_TIMESTAMP_MAX];

	if (!sqlite_format_timestamp(us, buf)) {
		return SQLITE_MISMATCH;
	}
	return sqlite3_bind_text(stmt, i, buf, -1, SQLITE_TRANSIENT);
}

/* Bytes a value of a fixed size must have, 0 for the others. */
static uint32_t fixed_size(uint32_t type)
{
	switch (type) {
	case CELL_BOOL:
		return 1;
	case CELL_INT64:
	case CELL_DOUBLE:
	case CELL_TIMESTAMP:
		return 8;
	default:
		return 0;
	}
}

int sqlite_bind(sqlite3_stmt *stmt, int i, const struct request_param *p)
{
	/* SQLite takes a NULL pointer for NULL, not for an empty string. */
	const void *data = p->len > 0 ? p->data : "";
	union sqlite_number num = {0};

	if (never(p->len < fixed_size(p->type))) {
		return SQLITE_MISUSE;
	}
	switch (p->type) {
	case CELL_NULL:
		return sqlite3_bind_null(stmt, i);
	case CELL_BOOL:
		return sqlite3_bind_int(stmt, i, *(const unsigned char *)data != 0);
	case CELL_INT64:
		memcpy(&num.i, data, sizeof(num.i));
		return sqlite3_bind_int64(stmt, i, num.i);
	case CELL_DOUBLE:
		memcpy(&num.d, data, sizeof(num.d));
		return sqlite3_bind_double(stmt, i, num.d);
	case CELL_TIMESTAMP:
		memcpy(&num.i, data, sizeof(num.i));
		return bind_timestamp(stmt, i, num.i);
	case CELL_TEXT:
	case CELL_JSON:
		return sqlite3_bind_text64(stmt, i, data, p->len, SQLITE_STATIC, SQLITE_UTF8);
	case CELL_BLOB:
		return sqlite3_bind_blob64(stmt, i, data, p->len, SQLITE_STATIC);
	default:
		return SQLITE_MISUSE;
	}
}
