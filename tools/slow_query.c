/* SPDX-License-Identifier: MIT */
/* slow_query.c - see slow_query.h. */
#include "slow_query.h"

#include <stdio.h>
#include <string.h>

enum field {
	FIELD_MS,
	FIELD_RUN,
	FIELD_WAIT,
	FIELD_ROWS,
	FIELD_POOL,
	FIELD_SERVER,
	FIELD_PID,
	FIELD_TAG,
	FIELD_SQL,
	FIELD_PARAMS,
	FIELD_BYTES,
	FIELD_CODE,
	FIELD_SQLSTATE,
	FIELD_FINGERPRINT,
	FIELD_NUMBER,
	FIELD_AGE,
	FIELD_SAMPLED,
};

const struct slow_field slow_fields[SLOW_FIELDS] = {
	[FIELD_MS] = {{"ms", QUERY_NUMBER}, "run time in milliseconds"},
	[FIELD_RUN] = {{"run", QUERY_NUMBER}, "run time, as 0.05, 50ms or 2s"},
	[FIELD_WAIT] = {{"wait", QUERY_NUMBER}, "time in the broker's queue, likewise"},
	[FIELD_ROWS] = {{"rows", QUERY_NUMBER}, "rows returned or changed"},
	[FIELD_POOL] = {{"pool", QUERY_TEXT}, "name of the pool"},
	[FIELD_SERVER] = {{"server", QUERY_TEXT}, "name of the server"},
	[FIELD_PID] = {{"pid", QUERY_NUMBER}, "process of the worker"},
	[FIELD_TAG] = {{"tag", QUERY_TEXT}, "tag of the request"},
	[FIELD_SQL] = {{"sql", QUERY_TEXT}, "text of the statement"},
	[FIELD_PARAMS] = {{"params", QUERY_TEXT}, "its parameters, if the broker keeps them"},
	[FIELD_BYTES] = {{"bytes", QUERY_NUMBER}, "length of the text before it was cut"},
	[FIELD_CODE] = {{"code", QUERY_NUMBER}, "0, or the error's number"},
	[FIELD_SQLSTATE] = {{"sqlstate", QUERY_TEXT}, "five characters, empty if there is none"},
	[FIELD_FINGERPRINT] = {{"fingerprint", QUERY_TEXT},
		"of the statement's shape, 16 hex digits"},
	[FIELD_NUMBER] = {{"number", QUERY_NUMBER}, "of the statement, counted by the broker"},
	[FIELD_AGE] = {{"age", QUERY_NUMBER}, "time since it ended, as 10s or 5m"},
	[FIELD_SAMPLED] = {{"sampled", QUERY_NUMBER}, "1 if it was drawn by lot, not slow"},
};

/* A statement, with room for the text that was asked for. */
struct slow_row {
	const struct sample *s;
	const struct numbered_slow *v;
	char *text;
};
#define ROW_TEXT (SLOW_SLOT + 1u)

static const char *text_of(const struct slow_row *r, const char *text, size_t len)
{
	snprintf(r->text, ROW_TEXT, "%.*s", (int)len, text);
	return r->text;
}

static const char *get_text(const struct slow_row *r, enum field field)
{
	const struct slow_slot *q = &r->v->slot;

	switch (field) {
	case FIELD_POOL:
		return sample_pool_name(r->s, q->pool, r->text);
	case FIELD_SERVER:
		return sample_server_name(r->s, q->server, r->text);
	case FIELD_TAG:
		return text_of(r, q->tag, sizeof(q->tag));
	case FIELD_SQL:
		return text_of(r, q->sql, q->sql_len);
	case FIELD_PARAMS:
		return text_of(r, slowring_params(q), q->params_len);
	case FIELD_SQLSTATE:
		return q->sqlstate;
	default:
		snprintf(r->text, ROW_TEXT, "%016llx", (unsigned long long)q->fingerprint);
		return r->text;
	}
}

static double get_number(const struct slow_row *r, enum field field)
{
	const struct slow_slot *q = &r->v->slot;

	switch (field) {
	case FIELD_MS:
		return (double)q->run_ns / 1e6;
	case FIELD_RUN:
		return (double)q->run_ns / 1e9;
	case FIELD_WAIT:
		return (double)q->wait_ns / 1e9;
	case FIELD_ROWS:
		return (double)q->rows;
	case FIELD_PID:
		return q->worker_pid;
	case FIELD_BYTES:
		return (double)q->sql_full_len;
	case FIELD_CODE:
		return q->code;
	case FIELD_NUMBER:
		return (double)r->v->number;
	case FIELD_AGE:
		return r->s->real_ns > q->when_ns ? (double)(r->s->real_ns - q->when_ns) / 1e9 : 0;
	default:
		return (q->flags & SLOW_F_SAMPLED) != 0;
	}
}

static struct query_value get_field(const void *row, unsigned i)
{
	if (slow_fields[i].field.type == QUERY_TEXT) {
		return (struct query_value){.text = get_text(row, (enum field)i)};
	}
	return (struct query_value){.number = get_number(row, (enum field)i)};
}

struct query *slow_query_parse(const char *condition, struct query_error *err)
{
	static struct query_field fields[SLOW_FIELDS]; /* the same every time */

	for (unsigned i = 0; i < SLOW_FIELDS; i++) {
		fields[i] = slow_fields[i].field;
	}
	return query_parse(condition, fields, SLOW_FIELDS, err);
}

bool slow_query_match(const struct query *q, const struct sample *s, const struct numbered_slow *v)
{
	char text[ROW_TEXT];
	struct slow_row row = {s, v, text};

	return query_match(q, get_field, &row);
}
