/* SPDX-License-Identifier: MIT */
/*
 * live.h - the live screen between its parts: what the user chose (live.c), how it is drawn
 * (live_draw.c), and pages of text above it (live_page.c).
 */
#ifndef TOOLS_LIVE_H
#define TOOLS_LIVE_H

#include "brokerstat.h"
#include "live_data.h"

/* A page of text that lies over the view: help, or all of one row. */
struct live_page {
	char **line;
	unsigned n, room;
	bool failed;
};
void live_page_free(struct live_page *p);
/* Keys, then the columns of the view, and what is known of the selected row. */
void live_page_help(struct live_page *p, const struct grid *g, unsigned row, unsigned width);
/* Row of a grid, a line for each column; long texts go on. */
void live_page_row(struct live_page *p, const struct grid *g, unsigned row, unsigned width);

/*
 * Share `room` lines between n parts that need so many: the first get their titles first, then each
 * gets a line in turn.  A part that gets less than two lines (title and a row) gets none.
 */
void live_allot(const unsigned *need, unsigned *got, unsigned n, unsigned room);

enum live_over {
	OVER_NOTHING,
	OVER_HELP,
	OVER_ROW,
};

struct live {
	struct reader *reader;
	struct live_data data;
	enum live_view view;
	enum live_kind kind;
	struct grid_view views[VIEW_COUNT + KIND_COUNT]; /* kinds of statements have their own */
	enum live_over over;
	unsigned over_top;
	bool typing; /* into the filter */
	bool paused;
	bool color;
	bool quit;
	double interval; /* seconds between samples */
	double speed; /* of a recording */
	char notice[160];
	int lines, columns; /* of the terminal */
};

/* The grid of the view, arranged for the lines there are; NULL: overview, or out of memory. */
struct grid *live_arranged(struct live *l, const char **note) must_use;
struct grid_view *live_grid_view(struct live *l);
/* Lines between those above and those below. */
unsigned live_room(const struct live *l);

/* live_draw.c */
/* False: the terminal cannot show it, which is said on standard error. */
bool live_screen_start(struct live *l);
void live_screen_end(void);
void live_draw(struct live *l);

#endif
