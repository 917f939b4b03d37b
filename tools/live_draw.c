/* SPDX-License-Identifier: MIT */
/*
 * live_draw.c - the live screen on the terminal (ncurses).
 *
 * Colour only says how bad something is: yellow worth a look, red bad.  Without colours both are
 * bold.  Every line is cut by columns of the terminal, and nothing is drawn below its last line.
 */
#include "live.h"
#include "text.h"

#include <curses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAIR_BAD = 1, PAIR_WARN = 2 };

#define LINE_SIZE 4096u

bool live_screen_start(struct live *l)
{
	const char *type = getenv("TERM");
	SCREEN *screen = newterm(NULL, stdout, stdin);

	if (screen == NULL || tigetstr("cup") == NULL) {
		if (screen != NULL) {
			(void)endwin();
			delscreen(screen);
		}
		fprintf(stderr,
			"brokerstat: a terminal of the type '%s' has no live screen; set TERM to "
			"what it is, or say what to show, as with -p or -1\n",
			type != NULL ? type : "");
		return false;
	}
	(void)cbreak();
	(void)noecho();
	(void)nonl();
	(void)curs_set(0);
	(void)keypad(stdscr, TRUE);
	(void)set_escdelay(25);
	l->color = l->color && has_colors();
	if (l->color) {
		(void)start_color();
		(void)use_default_colors();
		(void)init_pair(PAIR_BAD, COLOR_RED, -1);
		(void)init_pair(PAIR_WARN, COLOR_YELLOW, -1);
	}
	return true;
}

void live_screen_end(void)
{
	(void)endwin();
}

static attr_t tone_attr(const struct live *l, enum grid_tone tone)
{
	switch (tone) {
	case TONE_BAD:
		return A_BOLD | (l->color ? (attr_t)COLOR_PAIR(PAIR_BAD) : 0);
	case TONE_WARN:
		return l->color ? (attr_t)COLOR_PAIR(PAIR_WARN) : A_BOLD;
	case TONE_DIM:
		return A_DIM;
	default:
		return A_NORMAL;
	}
}

static void put_at(int y, int x, attr_t attr, const char *text, size_t bytes)
{
	(void)attrset(A_NORMAL);
	(void)attron(attr);
	(void)mvaddnstr(y, x, text, (int)bytes);
	(void)attrset(A_NORMAL);
}

static void put_line(const struct live *l, int y, attr_t attr, const char *text)
{
	if (y >= 0 && y < l->lines) {
		put_at(y, 0, attr, text, text_fit(text, (size_t)l->columns));
	}
}

/* At the right edge, if that leaves what stands there alone. */
static void put_right(const struct live *l, int y, attr_t attr, const char *text, size_t taken)
{
	size_t w = text_width(text);

	if (y < l->lines && w + taken + 1 < (size_t)l->columns) {
		put_at(y, l->columns - (int)w, attr, text, strlen(text));
	}
}

/* ------------------------------------------------------------------------------------------------
 * Grids
 */

/* A line of a grid; cells have their tones, the selected row is reversed. */
static void put_cells(const struct live *l, int y, const struct grid *g, const struct grid_view *v,
	const struct grid_cell *row, attr_t base)
{
	struct grid_span spans[GRID_COLUMNS_MAX];
	char line[LINE_SIZE];

	grid_line(g, v, row, (unsigned)l->columns, line, sizeof(line), spans);
	put_at(y, 0, base, line, strlen(line));
	for (unsigned c = 0; row != NULL && c < grid_ncolumns(g); c++) {
		if (row[c].tone != TONE_PLAIN && spans[c].end > spans[c].begin) {
			char before[LINE_SIZE];

			memcpy(before, line, spans[c].begin);
			before[spans[c].begin] = '\0';
			put_at(y, (int)text_width(before), base | tone_attr(l, row[c].tone),
				line + spans[c].begin, spans[c].end - spans[c].begin);
		}
	}
	if (base & A_REVERSE) { /* up to the edge */
		(void)mvchgat(y, (int)text_width(line), -1, A_REVERSE, 0, NULL);
	}
}

/* Titles and as many rows as fit into `height` lines; selected: the cursor is shown. */
static void put_grid(const struct live *l, int y, unsigned height, const struct grid *g,
	const struct grid_view *v, bool selected)
{
	put_cells(l, y, g, v, NULL, A_BOLD | A_UNDERLINE);
	for (unsigned i = 0; i + 1 < height && v->top + i < grid_shown(g); i++) {
		unsigned row = v->top + i;

		put_cells(l, y + 1 + (int)i, g, v, grid_cells(g, row),
			selected && row == v->cursor ? A_REVERSE : A_NORMAL);
	}
}

/* ------------------------------------------------------------------------------------------------
 * Above and below
 */

/* What the screen itself does, at the right edge of the first line; its width. */
static int put_status(const struct live *l)
{
	unsigned n = reader_frames(l->reader);
	char text[128];
	int width;

	if (n > 0) {
		snprintf(text, sizeof(text), " %s x%g  frame %u/%u",
			l->paused ? "stopped" : "playing", l->speed, reader_frame(l->reader) + 1,
			n);
	} else if (l->paused) {
		snprintf(text, sizeof(text), " paused");
	} else {
		snprintf(text, sizeof(text), " every %gs", l->interval);
	}
	width = (int)strlen(text);
	if (width > l->columns / 2) {
		return 0;
	}
	put_at(0, l->columns - width, l->paused ? A_REVERSE : A_NORMAL, text, strlen(text));
	return width;
}

/* Where there is no room for all names, the views that are not shown have their keys only. */
static void put_views(const struct live *l)
{
	int x = 0, all = -1;

	for (unsigned i = 0; i < VIEW_COUNT; i++) {
		all += (int)strlen(live_view_name((enum live_view)i)) + 3;
	}
	for (unsigned i = 0; i < VIEW_COUNT; i++) {
		bool named = all <= l->columns || i == (unsigned)l->view;
		char text[32];

		snprintf(text, sizeof(text), named ? "%u %s" : "%u", i,
			live_view_name((enum live_view)i));
		if (x + (int)strlen(text) > l->columns) {
			return;
		}
		put_at(1, x, i == (unsigned)l->view ? A_REVERSE : A_NORMAL, text, strlen(text));
		x += (int)strlen(text) + 1;
	}
}

static void put_above(const struct live *l)
{
	char line[LINE_SIZE];
	enum grid_tone tone;

	live_head(&l->data, reader_frames(l->reader) > 0, line, sizeof(line), &tone);
	put_at(0, 0, A_BOLD | tone_attr(l, tone), line,
		text_fit(line, (size_t)(l->columns - put_status(l))));
	if (l->lines > 2) {
		put_views(l);
	}
	if (l->lines > 3) {
		put_line(l, 2, A_NORMAL,
			live_summary(&l->data, (unsigned)l->columns, line, sizeof(line)));
	}
}

/* What the last line says: what is being typed, what is wrong, what is selected. */
static void put_below(const struct live *l, const struct grid *g, const struct grid_view *v)
{
	char line[LINE_SIZE] = "0-6 views  h help  / filter  s sort  Space pause  q quit";
	char clean[GRID_FILTER_MAX];
	attr_t attr = A_DIM;

	text_clean(clean, sizeof(clean), v->filter, sizeof(v->filter));
	if (l->typing) {
		snprintf(line, sizeof(line), "filter: %s_", clean);
		attr = A_BOLD;
	} else if (l->notice[0] != '\0') {
		snprintf(line, sizeof(line), "%s", l->notice);
		attr = tone_attr(l, TONE_WARN);
	} else if (g != NULL && grid_filter_error(g)[0] != '\0') {
		snprintf(line, sizeof(line), "filter %s", grid_filter_error(g));
		attr = tone_attr(l, TONE_WARN);
	} else if (g != NULL && v->filter[0] != '\0') {
		snprintf(line, sizeof(line), "filter: %s  (%u of %u rows)", clean, grid_shown(g),
			grid_total(g));
		attr = A_BOLD;
	} else if (g != NULL && v->cursor < grid_shown(g) && grid_help(g, v->cursor) != NULL) {
		snprintf(line, sizeof(line), "%s", grid_help(g, v->cursor));
	}
	if (l->lines > 1) {
		put_line(l, l->lines - 1, attr, line);
	}
	if (l->typing && g != NULL && grid_filter_error(g)[0] != '\0') {
		put_right(l, l->lines - 1, tone_attr(l, TONE_WARN), grid_filter_error(g),
			text_width(line));
	}
}

/* ------------------------------------------------------------------------------------------------
 * Overview and pages
 */

static void put_overview(const struct live *l)
{
	unsigned need[PART_COUNT], got[PART_COUNT], room = live_room(l), spare, all = 0;
	static const struct grid_view plain = {.sort = -1};
	struct grid *part[PART_COUNT];
	int y = 3;

	for (unsigned i = 0; i < PART_COUNT; i++) {
		struct grid_view v = plain;

		part[i] = live_part(&l->data, (enum live_part)i);
		if (part[i] != NULL) {
			grid_arrange(part[i], &v, 0);
		}
		need[i] = part[i] != NULL && grid_shown(part[i]) > 0 ? grid_shown(part[i]) + 1 : 0;
	}
	live_allot(need, got, PART_COUNT, room);
	for (unsigned i = 0; i < PART_COUNT; i++) {
		all += got[i];
	}
	spare = room - all; /* blank lines between them, as far as there are any */
	if (room >= 16 && spare < PART_COUNT - 1) {
		spare = PART_COUNT - 1;
		live_allot(need, got, PART_COUNT, room - spare);
	}
	for (unsigned i = 0; i < PART_COUNT; i++) {
		if (got[i] > 0) {
			put_grid(l, y, got[i], part[i], &plain, false);
			y += (int)got[i];
			y += spare > 0;
			spare -= spare > 0;
		}
		grid_free(&part[i]);
	}
}

static void put_page(struct live *l, const struct grid *g)
{
	unsigned room = live_room(l), row = live_grid_view(l)->cursor;
	unsigned width = l->columns > 0 ? (unsigned)l->columns : 1;
	struct live_page p = {0};

	if (l->over == OVER_HELP) {
		live_page_help(&p, g, row, width);
	} else if (g != NULL) {
		live_page_row(&p, g, row, width);
	}
	if (l->over_top + room > p.n) {
		l->over_top = p.n > room ? p.n - room : 0;
	}
	for (unsigned i = 0; i < room && l->over_top + i < p.n; i++) {
		put_line(l, 3 + (int)i, A_NORMAL, p.line[l->over_top + i]);
	}
	live_page_free(&p);
}

void live_draw(struct live *l)
{
	const char *note = "";
	struct grid *g;

	(void)erase();
	getmaxyx(stdscr, l->lines, l->columns);
	g = l->data.now != NULL ? live_arranged(l, &note) : NULL;
	if (l->data.now != NULL) {
		put_above(l);
	}
	if (l->data.now != NULL && l->over != OVER_NOTHING) {
		put_page(l, g);
	} else if (g != NULL && live_room(l) > 0) {
		put_grid(l, 3, live_room(l), g, live_grid_view(l), true);
		if (grid_shown(g) == 0) {
			put_line(l, 4, A_DIM, note[0] != '\0' ? note : "Nothing to show.");
		}
	} else if (l->view == VIEW_OVERVIEW && l->data.now != NULL) {
		put_overview(l);
	}
	put_below(l, g, live_grid_view(l));
	grid_free(&g);
	(void)refresh();
}
