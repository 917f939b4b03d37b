/* SPDX-License-Identifier: MIT */
/* grid.c - see grid.h. */
#include "grid.h"

#include "text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Texts before the last column are cut here, unless the line has room. */
#define TEXT_COLUMN_MAX 40u
#define GAP 2u

struct row {
	uint64_t id;
	const char *help;
	size_t order; /* as it came */
};

struct grid {
	const struct grid_column *columns;
	unsigned ncolumns;
	struct row *rows;
	struct grid_cell *cells; /* ncolumns each row */
	unsigned nrows, room, next; /* next: cell of the last row */
	unsigned *shown;
	unsigned nshown;
	size_t width[GRID_COLUMNS_MAX];
	size_t natural[GRID_COLUMNS_MAX]; /* as wide as the widest cell */
	struct query_field fields[GRID_COLUMNS_MAX];
	char error[160];
	bool failed;
};

struct grid *grid_create(const struct grid_column *columns, unsigned ncolumns)
{
	struct grid *g = calloc(1, sizeof(*g));

	check(ncolumns > 0 && ncolumns <= GRID_COLUMNS_MAX);
	if (g == NULL) {
		return NULL;
	}
	g->columns = columns;
	g->ncolumns = ncolumns;
	for (unsigned i = 0; i < ncolumns; i++) {
		bool text = columns[i].kind == GRID_TEXT;

		g->fields[i].name = columns[i].title;
		g->fields[i].type = text ? QUERY_TEXT : QUERY_NUMBER;
	}
	return g;
}

void grid_free(struct grid **gp)
{
	struct grid *g = *gp;

	if (g == NULL) {
		return;
	}
	for (size_t i = 0; i < (size_t)g->nrows * g->ncolumns; i++) {
		free(g->cells[i].text);
	}
	free(g->rows);
	free(g->cells);
	free(g->shown);
	free(g);
	*gp = NULL;
}

static bool grow(struct grid *g)
{
	unsigned room = g->room * 2 + 32;
	struct row *rows = realloc(g->rows, room * sizeof(*rows));
	struct grid_cell *cells = NULL;
	unsigned *shown = NULL;

	if (rows != NULL) {
		g->rows = rows;
		cells = realloc(g->cells, (size_t)room * g->ncolumns * sizeof(*cells));
	}
	if (cells != NULL) {
		g->cells = cells;
		shown = realloc(g->shown, room * sizeof(*shown));
	}
	if (shown == NULL) {
		g->failed = true;
		return false;
	}
	g->shown = shown;
	g->room = room;
	return true;
}

void grid_row(struct grid *g, uint64_t id, const char *help)
{
	g->next = g->ncolumns; /* a row that is not there takes no cells */
	if (g->nrows == g->room && !grow(g)) {
		return;
	}
	memset(g->cells + (size_t)g->nrows * g->ncolumns, 0, g->ncolumns * sizeof(*g->cells));
	g->rows[g->nrows] = (struct row){id, help, g->nrows};
	g->shown[g->nrows] = g->nrows;
	g->nrows++;
	g->nshown = g->nrows;
	g->next = 0;
}

static void add_cell(struct grid *g, const char *text, double key)
{
	struct grid_cell *c;

	if (g->next == g->ncolumns) {
		return;
	}
	c = &g->cells[(size_t)(g->nrows - 1) * g->ncolumns + g->next++];
	c->key = key;
	c->text = strdup(text);
	g->failed = g->failed || c->text == NULL;
}

void grid_text(struct grid *g, const char *fmt, ...)
{
	char raw[2200], clean[2200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(raw, sizeof(raw), fmt, ap);
	va_end(ap);
	add_cell(g, text_clean(clean, sizeof(clean), raw, sizeof(raw)), 0);
}

void grid_number(struct grid *g, double v)
{
	char buf[48];

	if (g->next == g->ncolumns) {
		return;
	}
	switch (g->columns[g->next].kind) {
	case GRID_COUNT:
		snprintf(buf, sizeof(buf), "%.0f", v);
		break;
	case GRID_DURATION:
		text_duration(buf, sizeof(buf), v);
		break;
	case GRID_SHARE:
		snprintf(buf, sizeof(buf), "%.1f%%", v * 100);
		break;
	default:
		text_number(buf, sizeof(buf), v);
		break;
	}
	add_cell(g, buf, v);
}

void grid_none(struct grid *g, const char *text)
{
	add_cell(g, text, -INFINITY);
}

/* The cell given last, or NULL. */
static struct grid_cell *last_cell(struct grid *g)
{
	if (g->nrows == 0 || g->next == 0 || g->failed) {
		return NULL;
	}
	return &g->cells[(size_t)(g->nrows - 1) * g->ncolumns + g->next - 1];
}

void grid_set_duration(struct grid *g)
{
	struct grid_cell *c = last_cell(g);
	char buf[48], *text;

	if (c == NULL) {
		return;
	}
	text = strdup(text_duration(buf, sizeof(buf), c->key));
	if (text != NULL) {
		free(c->text);
		c->text = text;
	}
}

void grid_tone(struct grid *g, enum grid_tone tone)
{
	struct grid_cell *c = last_cell(g);

	if (c != NULL) {
		c->tone = tone;
	}
}

bool grid_failed(const struct grid *g)
{
	return g->failed;
}

unsigned grid_ncolumns(const struct grid *g)
{
	return g->ncolumns;
}

const struct grid_column *grid_columns(const struct grid *g)
{
	return g->columns;
}

static const struct grid_cell *cells_of(const struct grid *g, unsigned row)
{
	return g->cells + (size_t)row * g->ncolumns;
}

static const char *cell_text(const struct grid_cell *c)
{
	return c->text != NULL ? c->text : "";
}

unsigned grid_shown(const struct grid *g)
{
	return g->nshown;
}

unsigned grid_total(const struct grid *g)
{
	return g->nrows;
}

const struct grid_cell *grid_cells(const struct grid *g, unsigned i)
{
	return cells_of(g, g->shown[i]);
}

const char *grid_help(const struct grid *g, unsigned i)
{
	return g->rows[g->shown[i]].help;
}

const char *grid_filter_error(const struct grid *g)
{
	return g->error;
}

/* ------------------------------------------------------------------------------------------------
 * Filter
 */

struct grid_row_ref {
	const struct grid *g;
	unsigned row;
};

static struct query_value get_cell(const void *row, unsigned i)
{
	const struct grid_row_ref *r = row;
	const struct grid_cell *c = cells_of(r->g, r->row) + i;

	return (struct query_value){c->key, cell_text(c)};
}

static bool some_cell_like(const struct grid *g, unsigned row, const char *pattern)
{
	for (unsigned i = 0; i < g->ncolumns; i++) {
		if (query_like(cell_text(&cells_of(g, row)[i]), pattern)) {
			return true;
		}
	}
	return false;
}

static void filter_rows(struct grid *g, const char *filter)
{
	bool condition = strpbrk(filter, "=<>~") != NULL;
	struct query *q = NULL;
	struct query_error err;

	g->nshown = 0;
	g->error[0] = '\0';
	if (condition) {
		q = query_parse(filter, g->fields, g->ncolumns, &err);
	}
	if (condition && q == NULL) {
		snprintf(g->error, sizeof(g->error), "at %zu: %s", err.at + 1, err.text);
	}
	for (unsigned i = 0; i < g->nrows; i++) {
		struct grid_row_ref ref = {g, i};
		bool keep = filter[0] == '\0' || g->error[0] != '\0' ? true
			    : q != NULL ? query_match(q, get_cell, &ref)
					: some_cell_like(g, i, filter);

		if (keep) {
			g->shown[g->nshown++] = i;
		}
	}
	query_free(&q);
}

/* ------------------------------------------------------------------------------------------------
 * Order
 */

struct order {
	const struct grid *g;
	unsigned column;
	bool descending;
};

static int compare_rows(const void *a, const void *b, void *arg)
{
	const struct order *o = arg;
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
	const struct grid_cell *p = cells_of(o->g, x) + o->column;
	const struct grid_cell *q = cells_of(o->g, y) + o->column;
	int c = o->g->columns[o->column].kind == GRID_TEXT ? strverscmp(cell_text(p), cell_text(q))
							   : (p->key > q->key) - (p->key < q->key);

	if (c == 0) { /* equal ones stay as they came */
		return x < y ? -1 : x > y;
	}
	return o->descending ? -c : c;
}

static void sort_rows(struct grid *g, const struct grid_view *v)
{
	struct order o = {g, (unsigned)v->sort, v->descending};

	if (g->nshown > 0 && v->sort >= 0 && v->sort < (int)g->ncolumns) {
		qsort_r(g->shown, g->nshown, sizeof(*g->shown), compare_rows, &o);
	}
}

static void find_cursor(const struct grid *g, struct grid_view *v)
{
	for (unsigned i = 0; v->follow && i < g->nshown; i++) {
		if (g->rows[g->shown[i]].id == v->cursor_id) {
			v->cursor = i;
			return;
		}
	}
}

static void measure(struct grid *g, const struct grid_view *v)
{
	for (unsigned c = 0; c < g->ncolumns; c++) {
		size_t widest = text_width(g->columns[c].title) + (v->sort == (int)c);

		for (unsigned i = 0; i < g->nshown; i++) {
			size_t w = text_width(cell_text(&grid_cells(g, i)[c]));

			widest = w > widest ? w : widest;
		}
		g->natural[c] = widest;
		if (c + 1 < g->ncolumns && widest > TEXT_COLUMN_MAX &&
			g->columns[c].kind == GRID_TEXT) {
			widest = TEXT_COLUMN_MAX;
		}
		g->width[c] = widest;
	}
}

void grid_arrange(struct grid *g, struct grid_view *v, unsigned height)
{
	unsigned last;

	filter_rows(g, v->filter);
	sort_rows(g, v);
	measure(g, v);
	find_cursor(g, v);
	last = g->nshown > 0 ? g->nshown - 1 : 0;
	v->cursor = v->cursor < last ? v->cursor : last;
	if (g->nshown > 0) {
		v->cursor_id = g->rows[g->shown[v->cursor]].id;
	}
	v->top = v->top > v->cursor ? v->cursor : v->top;
	if (height > 0 && v->cursor - v->top >= height) {
		v->top = v->cursor - height + 1;
	}
	if (height > 0 && v->top + height > g->nshown) {
		v->top = g->nshown > height ? g->nshown - height : 0;
	}
	v->left = v->left < g->ncolumns - 1 ? v->left : g->ncolumns - 1;
}

void grid_move(const struct grid *g, struct grid_view *v, long by)
{
	long last = g->nshown > 0 ? (long)g->nshown - 1 : 0;
	long to = (long)v->cursor + by;

	v->cursor = (unsigned)(to < 0 ? 0 : to > last ? last : to);
	v->follow = v->cursor > 0; /* at the top it shows what is on top */
	if (g->nshown > 0) {
		v->cursor_id = g->rows[g->shown[v->cursor]].id;
	}
}

void grid_sort_next(const struct grid *g, struct grid_view *v, int by)
{
	int n = (int)g->ncolumns;

	v->sort = v->sort < 0 ? (by > 0 ? 0 : n - 1) : (v->sort + by + n) % n;
	v->descending = g->columns[v->sort].kind != GRID_TEXT;
}

/* ------------------------------------------------------------------------------------------------
 * Lines
 */

struct line {
	char *buf;
	size_t size, n; /* n: bytes so far */
	size_t columns, width;
};

static void add_blanks(struct line *l, size_t n)
{
	while (n-- > 0 && l->columns < l->width && l->n + 1 < l->size) {
		l->buf[l->n++] = ' ';
		l->columns++;
	}
}

/* As much of the text as fits into `most` columns and the line. */
static void add_text(struct line *l, const char *text, size_t most)
{
	size_t room = l->width - l->columns;
	size_t bytes = text_fit(text, most < room ? most : room);

	if (l->n + bytes >= l->size) {
		return;
	}
	memcpy(l->buf + l->n, text, bytes);
	l->buf[l->n + bytes] = '\0';
	l->columns += text_width(l->buf + l->n);
	l->n += bytes;
}

/* Titles are in capitals, and the one that sorts is marked. */
static void title_text(const struct grid *g, const struct grid_view *v, unsigned c, char out[64])
{
	snprintf(out, 64, "%s", g->columns[c].title);
	for (char *p = out; *p != '\0'; p++) {
		*p = (char)(*p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p);
	}
	if (v != NULL && v->sort == (int)c && text_width(out) < g->width[c]) {
		strcat(out, v->descending ? "-" : "+");
	}
}

/* Width of a column in a line: what the line has left goes to texts that were cut, the first first.
 */
static size_t width_in_line(
	const struct grid *g, const struct grid_view *v, unsigned column, size_t line)
{
	size_t all = 0, left = v != NULL ? v->left : 0;

	for (unsigned c = 0; c < g->ncolumns; c++) {
		all += c == 0 || c > left ? g->width[c] + GAP : 0;
	}
	for (unsigned c = 0; c < g->ncolumns; c++) {
		size_t more = c == 0 || c > left ? g->natural[c] - g->width[c] : 0;
		size_t spare = line + GAP > all ? line + GAP - all : 0;

		more = more < spare ? more : spare;
		if (c == column) {
			return g->width[c] + more;
		}
		all += more;
	}
	return g->width[column];
}

char *grid_line(const struct grid *g, const struct grid_view *v, const struct grid_cell *row,
	unsigned width, char *buf, size_t size, struct grid_span spans[GRID_COLUMNS_MAX])
{
	struct line l = {.buf = buf, .size = size, .width = width};
	unsigned left = v != NULL ? v->left : 0;
	bool first = true;

	memset(spans, 0, GRID_COLUMNS_MAX * sizeof(*spans));
	for (unsigned c = 0; c < g->ncolumns && l.columns < width; c++) {
		bool right = g->columns[c].kind != GRID_TEXT, last = c + 1 == g->ncolumns;
		size_t wide = width_in_line(g, v, c, width);
		char title[64];
		const char *text = row != NULL ? cell_text(&row[c]) : title;
		size_t fill;

		if (c > 0 && c <= left) {
			continue; /* scrolled away */
		}
		if (row == NULL) {
			title_text(g, v, c, title);
		}
		add_blanks(&l, first ? 0 : GAP);
		first = false;
		fill = text_width(text) < wide ? wide - text_width(text) : 0;
		add_blanks(&l, right ? fill : 0);
		spans[c].begin = (unsigned)l.n;
		add_text(&l, text, wide);
		spans[c].end = (unsigned)l.n;
		add_blanks(&l, right || last ? 0 : fill);
	}
	buf[l.n] = '\0';
	return buf;
}
