/* SPDX-License-Identifier: MIT */
/* bodyout.c - see bodyout.h. */
#include "bodyout.h"

#include <string.h>

static const unsigned char zeros[8];

static bool is_bytes(enum broker_type t)
{
	return t == BROKER_TEXT || t == BROKER_BLOB || t == BROKER_JSON;
}

/* Bytes of a value of a known type. */
static uint64_t value_len(const struct broker_value *v)
{
	switch (v->type) {
	case BROKER_NULL:
		return 0;
	case BROKER_BOOL:
		return 1;
	case BROKER_INT64:
	case BROKER_DOUBLE:
	case BROKER_TIMESTAMP:
		return 8;
	case BROKER_TEXT:
	case BROKER_BLOB:
	case BROKER_JSON:
		return v->u.bytes.len;
	}
	return UINT64_MAX;
}

uint64_t bodyout_measure(const struct body_spec *s, int *bad)
{
	uint64_t n = sizeof(struct shm_body) + pad8(s->tag_len) + pad8(s->sql_len);

	*bad = -1;
	if (s->sql_len > UINT32_MAX) {
		return 0;
	}
	for (unsigned i = 0; i < s->nparams; i++) {
		const struct broker_value *v = &s->params[i];

		if ((unsigned)v->type >= CELL_TYPE_COUNT ||
			(is_bytes(v->type) && v->u.bytes.data == NULL && v->u.bytes.len != 0)) {
			*bad = (int)i;
			return 0;
		}
		if (value_len(v) > UINT32_MAX) {
			return 0;
		}
		n += sizeof(struct shm_param) + pad8(value_len(v));
	}
	return n;
}

static int put_bytes(struct bodyout *o, const void *data, size_t len)
{
	const unsigned char *p = data;

	while (len > 0) {
		size_t n;

		if (o->left == 0) {
			int rc = o->more(o);

			if (rc < 0) {
				return rc;
			}
		}
		n = len < o->left ? len : o->left;
		memcpy(o->p, p, n);
		o->p += n;
		o->left -= n;
		p += n;
		len -= n;
	}
	return 0;
}

static int put_padded(struct bodyout *o, const void *data, size_t len)
{
	int rc = put_bytes(o, data, len);

	return rc < 0 ? rc : put_bytes(o, zeros, (size_t)(pad8(len) - len));
}

static int put_value(struct bodyout *o, const struct broker_value *v)
{
	struct shm_param head = {.len = (uint32_t)value_len(v), .type = (uint32_t)v->type};
	unsigned char truth = v->type == BROKER_BOOL && v->u.boolean;
	int rc = put_bytes(o, &head, sizeof(head));

	if (rc < 0) {
		return rc;
	}
	switch (v->type) {
	case BROKER_BOOL:
		return put_padded(o, &truth, 1);
	case BROKER_INT64:
	case BROKER_TIMESTAMP:
		return put_bytes(o, &v->u.int64, sizeof(v->u.int64));
	case BROKER_DOUBLE:
		return put_bytes(o, &v->u.real, sizeof(v->u.real));
	case BROKER_TEXT:
	case BROKER_BLOB:
	case BROKER_JSON:
		return put_padded(o, v->u.bytes.data, v->u.bytes.len);
	case BROKER_NULL:
		break;
	}
	return 0;
}

int bodyout_write(struct bodyout *o, const struct body_spec *s)
{
	struct shm_body head = {
		.tag_len = (uint32_t)s->tag_len,
		.sql_len = (uint32_t)s->sql_len,
		.nparams = s->nparams,
	};
	int rc = put_bytes(o, &head, sizeof(head));

	if (rc == 0) {
		rc = put_padded(o, s->tag, s->tag_len);
	}
	if (rc == 0) {
		rc = put_padded(o, s->sql, s->sql_len);
	}
	for (unsigned i = 0; rc == 0 && i < s->nparams; i++) {
		rc = put_value(o, &s->params[i]);
	}
	return rc;
}
