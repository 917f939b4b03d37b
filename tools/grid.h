/* SPDX-License-Identifier: MIT */
/*
 * grid.h - rows and columns of a live view, and what its user does to them: sort, filter, move.
 *
 * Knows neither brokers nor terminals.  A grid is filled once for each sample; a grid_view outlives
 * it, and finds its row again in the next grid by the row's id.  Cells are copied and made harmless
 * (text.h).
 *
 * Not thread safe.
 */
#ifndef TOOLS_GRID_H
#define TOOLS_GRID_H

#include "check.h"
#include "query.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum grid_kind {
	GRID_TEXT, /* to the left; sorted as text */
	GRID_NUMBER, /* short: 12.3k */
	GRID_COUNT, /* all digits */
	GRID_DURATION, /* seconds */
	GRID_SHARE, /* a part of 1, shown in percent */
};

enum grid_tone {
	TONE_PLAIN,
	TONE_DIM, /* nothing to see here */
	TONE_WARN,
	TONE_BAD,
};

#define GRID_COLUMNS_MAX 32u

struct grid_column {
	const char *title; /* also its name in filters */
	enum grid_kind kind;
	const char *help;
};

struct grid_cell {
	char *text;
	double key; /* of kinds but GRID_TEXT */
	enum grid_tone tone;
};

struct grid;

/* columns are borrowed.  NULL: out of memory. */
struct grid *grid_create(const struct grid_column *columns, unsigned ncolumns) must_use;
void grid_free(struct grid **g);

/* Begin a row; help (borrowed, may be NULL) is shown when it is selected. */
void grid_row(struct grid *g, uint64_t id, const char *help);
/* The next cell of the row, of its column's kind; cells that are not given stay empty. */
void grid_text(struct grid *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void grid_number(struct grid *g, double v);
/* A number that has no value, shown as "-" or "." and less than all others. */
void grid_none(struct grid *g, const char *text);
/* The cell given last is a time, whatever its column's kind. */
void grid_set_duration(struct grid *g);
/* Of the cell given last. */
void grid_tone(struct grid *g, enum grid_tone tone);
/* True if memory ran out while it was filled. */
bool grid_failed(const struct grid *g);

unsigned grid_ncolumns(const struct grid *g);
const struct grid_column *grid_columns(const struct grid *g);

/* ------------------------------------------------------------------------------------------------
 * What the user made of it
 */

#define GRID_FILTER_MAX 128u

struct grid_view {
	int sort; /* column; -1: as the rows came */
	bool descending;
	char filter[GRID_FILTER_MAX]; /* empty: all rows */
	unsigned left; /* columns scrolled away behind the first */
	unsigned cursor, top; /* in rows that are shown */
	uint64_t cursor_id; /* of the row under it */
	bool follow; /* the cursor keeps its row, not its place */
};

/*
 * Apply a view: rows are filtered and sorted, the cursor finds its row, `top` makes it visible in
 * `height` rows.  The filter is a condition (query.h) on columns if it has one of = < > ~,
 * otherwise a text that some cell must have.  A condition that is wrong hides nothing and says why
 * in grid_filter_error().
 */
void grid_arrange(struct grid *g, struct grid_view *v, unsigned height);

/* Rows that are shown, and row i of these. */
unsigned grid_shown(const struct grid *g);
unsigned grid_total(const struct grid *g);
const struct grid_cell *grid_cells(const struct grid *g, unsigned i);
const char *grid_help(const struct grid *g, unsigned i);
/* "" if the filter is well. */
const char *grid_filter_error(const struct grid *g);

/* Move the cursor by some rows; call grid_arrange afterwards. */
void grid_move(const struct grid *g, struct grid_view *v, long by);
/* Sort by the next column (or by == -1: the one before); numbers begin with the largest. */
void grid_sort_next(const struct grid *g, struct grid_view *v, int by);

/*
 * Line of titles (row NULL) or of cells, at most `width` columns of the terminal wide.  spans gets
 * where each cell begins and ends in bytes, for colours: GRID_COLUMNS_MAX of them, ends 0 for cells
 * that did not fit.  Returns buf.
 */
struct grid_span {
	unsigned begin, end;
};
char *grid_line(const struct grid *g, const struct grid_view *v, const struct grid_cell *row,
	unsigned width, char *buf, size_t size, struct grid_span spans[GRID_COLUMNS_MAX]);

#endif
