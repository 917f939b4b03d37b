/* SPDX-License-Identifier: MIT */
/* pg_param.c - see pg_param.h. */
#include "pg_param.h"

#include "decimal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTEA_OID 17
#define KEEP_TEXT ((size_t)64 * 1024)
/* A message of the protocol is limited to 1 GB; leave room for its frame. */
#define MAX_BYTES ((size_t)1023 * 1024 * 1024)

size_t pg_format_double(double x, char buf[PG_DOUBLE_MAX])
{
	if (isnan(x)) {
		return (size_t)snprintf(buf, PG_DOUBLE_MAX, "NaN");
	}
	if (isinf(x)) {
		return (size_t)snprintf(buf, PG_DOUBLE_MAX, x > 0 ? "Infinity" : "-Infinity");
	}
	for (int digits = 15;; digits++) {
		int n = snprintf(buf, PG_DOUBLE_MAX, "%.*g", digits, x);

		if (digits == 17 || strtod(buf, NULL) == x) {
			return (size_t)n;
		}
	}
}

/* Gregorian date of a day counted from 1970-01-01, astronomical year (0 is 1 BC).  Era arithmetic:
 * years begin in March, so that the leap day is the last. */
static void civil_from_days(int64_t days, int64_t *year, unsigned *month, unsigned *day)
{
	int64_t z = days + 719468;
	int64_t era = (z >= 0 ? z : z - 146096) / 146097;
	unsigned doe = (unsigned)(z - era * 146097);
	unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	unsigned mp = (5 * doy + 2) / 153;

	*day = doy - (153 * mp + 2) / 5 + 1;
	*month = mp < 10 ? mp + 3 : mp - 9;
	*year = (int64_t)yoe + era * 400 + (*month <= 2 ? 1 : 0);
}

size_t pg_format_timestamp(int64_t us, char buf[PG_TIMESTAMP_MAX])
{
	const int64_t day_us = INT64_C(86400000000);
	int64_t days = us / day_us, rest = us % day_us, year;
	unsigned month, day, second;
	bool bc;

	if (rest < 0) {
		rest += day_us;
		days--;
	}
	civil_from_days(days, &year, &month, &day);
	bc = year <= 0;
	second = (unsigned)(rest / 1000000);
	return (size_t)snprintf(buf, PG_TIMESTAMP_MAX,
		"%04" PRId64 "-%02u-%02u %02u:%02u:%02u.%06u+00%s", bc ? 1 - year : year, month,
		day, second / 3600, second / 60 % 60, second % 60, (unsigned)(rest % 1000000),
		bc ? " BC" : "");
}

/* Bytes of text that a parameter needs at most, with its NUL. */
static size_t text_room(const struct request_param *q)
{
	switch (q->type) {
	case CELL_TEXT:
	case CELL_JSON:
		return (size_t)q->len + 1;
	case CELL_DOUBLE:
		return PG_DOUBLE_MAX;
	case CELL_TIMESTAMP:
		return PG_TIMESTAMP_MAX;
	case CELL_BOOL:
	case CELL_INT64:
		return 24;
	default:
		return 0;
	}
}

static bool reserve(struct pg_params *p, unsigned count, size_t text)
{
	if (count > p->cap) {
		unsigned cap = count < 16 ? 16 : count;
		const char **values = realloc(p->values, cap * sizeof(*values));
		int *lengths = realloc(p->lengths, cap * sizeof(*lengths));
		int *formats = realloc(p->formats, cap * sizeof(*formats));
		Oid *types = realloc(p->types, cap * sizeof(*types));

		p->values = values != NULL ? values : p->values;
		p->lengths = lengths != NULL ? lengths : p->lengths;
		p->formats = formats != NULL ? formats : p->formats;
		p->types = types != NULL ? types : p->types;
		if (values == NULL || lengths == NULL || formats == NULL || types == NULL) {
			return false;
		}
		p->cap = cap;
	}
	if (text > p->text_cap) {
		size_t cap = text < 4096 ? 4096 : text;

		free(p->text);
		p->text = malloc(cap);
		p->text_cap = p->text != NULL ? cap : 0;
	}
	return text == 0 || p->text != NULL;
}

/* Write the text of a parameter; returns its length without the NUL. */
static size_t put_text(char *to, const struct request_param *q)
{
	int64_t i;
	double d;

	switch (q->type) {
	case CELL_BOOL:
		return (size_t)(stpcpy(to,
					*(const unsigned char *)q->data != 0 ? "true" : "false") -
				to);
	case CELL_INT64:
		memcpy(&i, q->data, sizeof(i));
		return decimal_i64(to, i);
	case CELL_DOUBLE:
		memcpy(&d, q->data, sizeof(d));
		return pg_format_double(d, to);
	case CELL_TIMESTAMP:
		memcpy(&i, q->data, sizeof(i));
		return pg_format_timestamp(i, to);
	default:
		if (q->len > 0) {
			memcpy(to, q->data, q->len);
		}
		to[q->len] = '\0';
		return q->len;
	}
}

static enum pg_param_error measure(unsigned nparams, const struct request_param *params,
	size_t *text, size_t *bytes, unsigned *bad)
{
	*text = 0;
	*bytes = 0;
	for (unsigned i = 0; i < nparams; i++) {
		const struct request_param *q = &params[i];

		if ((q->type == CELL_TEXT || q->type == CELL_JSON) && q->len > 0 &&
			memchr(q->data, '\0', q->len) != NULL) {
			*bad = i;
			return PG_PARAM_NUL;
		}
		*text += text_room(q);
		*bytes += q->len;
	}
	return *text > MAX_BYTES || *bytes > MAX_BYTES ? PG_PARAM_LARGE : PG_PARAM_OK;
}

static void set_blob(struct pg_params *p, unsigned i, const struct request_param *q)
{
	p->any_blob = true;
	p->values[i] = q->len > 0 ? q->data : "";
	p->lengths[i] = (int)q->len;
	p->formats[i] = 1;
	p->types[i] = BYTEA_OID;
	if (i < 64) {
		p->blobs |= UINT64_C(1) << i;
	} else {
		p->keyable = false;
	}
}

enum pg_param_error pg_params_set(struct pg_params *p, const struct request *r, unsigned *bad)
{
	return pg_params_set_list(p, r->nparams, r->params, bad);
}

enum pg_param_error pg_params_set_list(
	struct pg_params *p, unsigned nparams, const struct request_param *params, unsigned *bad)
{
	enum pg_param_error e;
	size_t text;
	char *to;

	p->count = nparams;
	p->any_blob = false;
	p->keyable = true;
	p->blobs = 0;
	e = measure(nparams, params, &text, &p->bytes, bad);
	if (e != PG_PARAM_OK) {
		return e;
	}
	if (!reserve(p, nparams, text)) {
		return PG_PARAM_MEMORY;
	}
	to = p->text;
	for (unsigned i = 0; i < nparams; i++) {
		const struct request_param *q = &params[i];

		p->lengths[i] = 0;
		p->formats[i] = 0;
		p->types[i] = 0;
		if (q->type == CELL_BLOB) {
			set_blob(p, i, q);
		} else if (q->type == CELL_NULL) {
			p->values[i] = NULL;
		} else {
			p->values[i] = to;
			to += put_text(to, q) + 1;
		}
	}
	return PG_PARAM_OK;
}

void pg_params_trim(struct pg_params *p)
{
	if (p->text_cap > KEEP_TEXT) {
		free(p->text);
		p->text = NULL;
		p->text_cap = 0;
	}
}

void pg_params_finish(struct pg_params *p)
{
	free(p->values);
	free(p->lengths);
	free(p->formats);
	free(p->types);
	free(p->text);
	*p = (struct pg_params){0};
}
