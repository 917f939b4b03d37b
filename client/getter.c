/* SPDX-License-Identifier: MIT */
/* getter.c - values of the current row: which cell, converted how, and what to say if not. */
#include "result.h"

#include <stdlib.h>
#include <string.h>

static const char *const type_name[CELL_TYPE_COUNT] = {
	[CELL_NULL] = "NULL",
	[CELL_BOOL] = "BOOL",
	[CELL_INT64] = "INT64",
	[CELL_DOUBLE] = "DOUBLE",
	[CELL_TEXT] = "TEXT",
	[CELL_BLOB] = "BLOB",
	[CELL_JSON] = "JSON",
	[CELL_TIMESTAMP] = "TIMESTAMP",
};

/* The getter that always works for a type. */
static const char *const getter_for[CELL_TYPE_COUNT] = {
	[CELL_NULL] = "broker_is_null",
	[CELL_BOOL] = "broker_get_bool",
	[CELL_INT64] = "broker_get_int64",
	[CELL_DOUBLE] = "broker_get_double",
	[CELL_TEXT] = "broker_get_text",
	[CELL_BLOB] = "broker_get_blob",
	[CELL_JSON] = "broker_get_text",
	[CELL_TIMESTAMP] = "broker_get_timestamp or broker_get_text",
};

static struct errstate *error_of(const struct broker_result *r)
{
	return &r->chan->broker->err;
}

/* The cell of a column in the current row; NULL cells are found, too. */
static int find_cell(const struct broker_result *r, int col, struct rowcell **out)
{
	int rc = result_enter(r);

	if (rc < 0) {
		return rc;
	}
	if (col < 0 || (uint32_t)col >= r->rr.ncols) {
		return errstate_set(error_of(r), BROKER_E_COLUMN,
			"column %d: the result has %u columns, numbered from 0", col, r->rr.ncols);
	}
	if (!r->rr.have_row) {
		return errstate_set(
			error_of(r), BROKER_E_NO_ROW, "no current row: call broker_next first");
	}
	*out = &r->rr.cells[col];
	return 0;
}

/* The cell of a value that has somewhere to go. */
static int find_value(
	const struct broker_result *r, int col, const void *target, struct rowcell **out)
{
	int rc = find_cell(r, col, out);

	if (rc == 0 && target == NULL) {
		return errstate_set(error_of(r), BROKER_E_ARGUMENT, "out is NULL");
	}
	if (rc == 0 && (*out)->cell.type == CELL_NULL) {
		return errstate_set(error_of(r), BROKER_E_NULL,
			"column %d (%s) is NULL: test with broker_is_null first", col,
			r->rr.columns[col].name);
	}
	return rc;
}

/* Tell why a conversion failed; rc 0 passes through. */
static int explain(const struct broker_result *r, int col, int rc, const char *wanted)
{
	const struct cell *c = &r->rr.cells[col].cell;
	const char *name = r->rr.columns[col].name;

	switch (rc) {
	case 0:
		return 0;
	case BROKER_E_RANGE:
		return errstate_set(error_of(r), rc,
			"column %d (%s): its %s value does not fit %s: use %s", col, name,
			type_name[c->type], wanted,
			c->type == CELL_INT64    ? "broker_get_int64"
			: c->type == CELL_DOUBLE ? "broker_get_double"
						 : "broker_get_text");
	case BROKER_E_MEMORY:
		return errstate_set(
			error_of(r), rc, "no memory for the value of column %d (%s)", col, name);
	default:
		return errstate_set(error_of(r), rc,
			"column %d (%s) is %s and cannot be read as %s: use %s, or cast it in SQL",
			col, name, type_name[c->type], wanted, getter_for[c->type]);
	}
}

int broker_value_type(const struct broker_result *r, int col)
{
	struct rowcell *c = NULL;
	int rc = find_cell(r, col, &c);

	return rc < 0 ? rc : (int)c->cell.type;
}

int broker_is_null(const struct broker_result *r, int col)
{
	int rc = broker_value_type(r, col);

	return rc < 0 ? rc : rc == BROKER_NULL;
}

int broker_get_bool(struct broker_result *r, int col, bool *out)
{
	struct rowcell *c = NULL;
	int rc = find_value(r, col, out, &c);

	return rc < 0 ? rc : explain(r, col, convert_bool(&c->cell, out), "bool");
}

int broker_get_int64(struct broker_result *r, int col, int64_t *out)
{
	struct rowcell *c = NULL;
	int rc = find_value(r, col, out, &c);

	return rc < 0 ? rc : explain(r, col, convert_int64(&c->cell, out), "int64");
}

int broker_get_double(struct broker_result *r, int col, double *out)
{
	struct rowcell *c = NULL;
	int rc = find_value(r, col, out, &c);

	return rc < 0 ? rc : explain(r, col, convert_double(&c->cell, out), "double");
}

int broker_get_timestamp(struct broker_result *r, int col, int64_t *microseconds)
{
	struct rowcell *c = NULL;
	int rc = find_value(r, col, microseconds, &c);

	return rc < 0 ? rc
		      : explain(r, col, convert_timestamp(&c->cell, microseconds), "timestamp");
}

/* -- values that need memory ----------------------------------------------------------------- */

/* n bytes that live as long as the current row. */
static unsigned char *scratch_alloc(struct broker_result *r, size_t n)
{
	struct scratch *s = r->scratch;

	if (s == NULL || n > s->size - s->used) {
		size_t size = n > SCRATCH_BLOCK ? n : SCRATCH_BLOCK;

		s = malloc(sizeof(*s) + size);
		if (s == NULL) {
			return NULL;
		}
		*s = (struct scratch){.next = r->scratch, .size = size};
		r->scratch = s;
	}
	s->used += n;
	return s->bytes + s->used - n;
}

/* Remember bytes made of a cell; they are NUL terminated. */
static int make(struct broker_result *r, struct rowcell *c, const void *data, size_t len)
{
	unsigned char *p = scratch_alloc(r, len + 1);

	if (p == NULL) {
		return BROKER_E_MEMORY;
	}
	memcpy(p, data, len);
	p[len] = '\0';
	c->made = p;
	c->made_len = len;
	return 0;
}

/* The bytes of the cell as they stand, terminated: in place if the padding happens to be a NUL. */
static int make_terminated(struct broker_result *r, struct rowcell *c)
{
	if (c->cell.len % 8 != 0 && c->cell.p[c->cell.len] == '\0') {
		c->made = c->cell.p;
		c->made_len = c->cell.len;
		return 0;
	}
	return make(r, c, c->cell.p, c->cell.len);
}

/* Bytes of a BLOB, decoded if PostgreSQL sent them as text. */
static int make_blob(struct broker_result *r, struct rowcell *c)
{
	unsigned char *p;
	size_t len;
	int rc;

	if (c->cell.encoding == CELL_NATIVE) {
		return make_terminated(r, c);
	}
	p = scratch_alloc(r, (size_t)c->cell.len + 1);
	if (p == NULL) {
		return BROKER_E_MEMORY;
	}
	rc = convert_blob(&c->cell, p, &len);
	if (rc < 0) {
		return rc;
	}
	p[len] = '\0';
	c->made = p;
	c->made_len = len;
	return 0;
}

static int make_text(struct broker_result *r, struct rowcell *c)
{
	char buf[CONVERT_TEXT_MAX];
	size_t len;
	int rc;

	if (convert_text_in_place(&c->cell)) {
		return make_terminated(r, c);
	}
	if (c->cell.type == CELL_BLOB) {
		return make_blob(r, c);
	}
	rc = convert_text(&c->cell, buf, &len);
	if (rc == BROKER_E_RANGE && c->cell.encoding == CELL_PGTEXT) {
		return make_terminated(r, c); /* "infinity", "0044-03-15 BC" */
	}
	return rc < 0 ? rc : make(r, c, buf, len);
}

int broker_get_text(struct broker_result *r, int col, const char **out, size_t *len)
{
	struct rowcell *c = NULL;
	int rc = find_value(r, col, out, &c);

	if (rc < 0) {
		return rc;
	}
	if (c->made == NULL) {
		rc = make_text(r, c);
	}
	if (rc == 0 && c->cell.type == CELL_BLOB && !convert_is_text(c->made, c->made_len)) {
		rc = BROKER_E_TYPE;
	}
	if (rc < 0) {
		return explain(r, col, rc, "text");
	}
	*out = (const char *)c->made;
	if (len != NULL) {
		*len = c->made_len;
	}
	return 0;
}

int broker_get_blob(struct broker_result *r, int col, const void **out, size_t *len)
{
	struct rowcell *c = NULL;
	size_t unused;
	int rc = find_value(r, col, out, &c);

	len = len != NULL ? len : &unused;
	if (rc < 0) {
		return rc;
	}
	switch (c->cell.type) {
	case CELL_TEXT:
	case CELL_JSON:
		*out = c->cell.p;
		*len = c->cell.len;
		return 0;
	case CELL_BLOB:
		if (c->cell.encoding == CELL_NATIVE) {
			*out = c->cell.p;
			*len = c->cell.len;
			return 0;
		}
		rc = c->made == NULL ? make_blob(r, c) : 0;
		if (rc == 0) {
			*out = c->made;
			*len = c->made_len;
		}
		return explain(r, col, rc, "blob");
	default:
		return explain(r, col, BROKER_E_TYPE, "blob");
	}
}

/* -- parameters ------------------------------------------------------------------------------ */

struct broker_value broker_textn(const char *s, size_t len)
{
	struct broker_value v = {.type = s != NULL ? BROKER_TEXT : BROKER_NULL};

	v.u.bytes.data = s;
	v.u.bytes.len = s != NULL ? len : 0;
	return v;
}

struct broker_value broker_text(const char *s)
{
	return broker_textn(s, s != NULL ? strlen(s) : 0);
}

struct broker_value broker_json(const char *s)
{
	struct broker_value v = broker_text(s);

	v.type = s != NULL ? BROKER_JSON : BROKER_NULL;
	return v;
}
