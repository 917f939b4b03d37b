/* SPDX-License-Identifier: MIT */
/* test_grid.c - the rows of the live screen: order, filter, cursor, and lines that fit. */
#include "grid.h"
#include "tap.h"
#include "text.h"

#include <locale.h>
#include <stdio.h>
#include <string.h>

static const struct grid_column columns[] = {
	{"name", GRID_TEXT, "What it is called"},
	{"rate", GRID_NUMBER, "How often"},
	{"held", GRID_DURATION, "How long"},
	{"text", GRID_TEXT, "What it says"},
};

static struct grid_view view = {.sort = -1};
static char line[1024];
static struct grid_span spans[GRID_COLUMNS_MAX];

/* Three rows, and a fourth if asked for. */
static struct grid *make(bool more)
{
	static const struct {
		const char *name, *text;
		double rate, held;
	} rows[] = {{"w10", "select one", 5, 0.5}, {"w9", "insert \033[31m", 12345, 0},
		{"w1", "select two", 5, 90}, {"w2", "begin", 7, 1}};
	struct grid *g = grid_create(columns, array_size(columns));

	for (unsigned i = 0; i < (more ? 4u : 3u); i++) {
		grid_row(g, 100 + i, i == 0 ? "the first" : NULL);
		grid_text(g, "%s", rows[i].name);
		grid_number(g, rows[i].rate);
		if (rows[i].held > 0) {
			grid_number(g, rows[i].held);
		} else {
			grid_none(g, "-");
		}
		grid_text(g, "%s", rows[i].text);
		grid_tone(g, TONE_BAD);
	}
	return g;
}

/* Names of the rows that are shown, with a blank behind each. */
static const char *names(const struct grid *g)
{
	static char buf[256];

	buf[0] = '\0';
	for (unsigned i = 0; i < grid_shown(g); i++) {
		strcat(strcat(buf, grid_cells(g, i)[0].text), " ");
	}
	return buf;
}

static void test_order(void)
{
	struct grid *g = make(false);

	view = (struct grid_view){.sort = -1};
	grid_arrange(g, &view, 10);
	is_str(names(g), "w10 w9 w1 ", "rows come as they were given");
	grid_sort_next(g, &view, 1);
	grid_arrange(g, &view, 10);
	is_str(names(g), "w1 w9 w10 ", "texts sort upwards, numbers in them as numbers");
	grid_sort_next(g, &view, 1);
	grid_arrange(g, &view, 10);
	is_str(names(g), "w9 w10 w1 ", "numbers sort downwards, equal ones as they came");
	grid_sort_next(g, &view, 1);
	grid_arrange(g, &view, 10);
	is_str(names(g), "w1 w10 w9 ", "what has no value comes last");
	view.descending = false;
	grid_arrange(g, &view, 10);
	is_str(names(g), "w9 w10 w1 ", "or first");
	grid_sort_next(g, &view, 1);
	grid_sort_next(g, &view, 1);
	is_int(view.sort, 0, "behind the last column is the first");
	grid_sort_next(g, &view, -1);
	is_int(view.sort, 3, "and before the first the last");
	grid_free(&g);
	ok(g == NULL, "gone");
}

static void filtered(const char *filter, const char *want)
{
	struct grid *g = make(true);

	view = (struct grid_view){.sort = -1};
	snprintf(view.filter, sizeof(view.filter), "%s", filter);
	grid_arrange(g, &view, 10);
	is_str(names(g), want, "filter <%s>", filter);
	grid_free(&g);
}

static void test_filter(void)
{
	struct grid *g;

	filtered("SELECT", "w10 w1 ");
	filtered("w?", "w9 w1 w2 ");
	filtered("rate>5", "w9 w2 ");
	filtered("rate==5 && text~two", "w1 ");
	filtered("held>=500ms && held<1m", "w10 w2 ");
	filtered("nothing of it", "");
	filtered("rate>", "w10 w9 w1 w2 ");
	g = make(true);
	grid_arrange(g, &view, 10);
	is_str(grid_filter_error(g), "at 6: a value is missing here", "what is wrong is said");
	is_int(grid_total(g), 4, "all rows are counted");
	grid_free(&g);
	filtered("", "w10 w9 w1 w2 ");
}

static void test_cursor(void)
{
	struct grid *g = make(true);

	view = (struct grid_view){.sort = -1};
	grid_arrange(g, &view, 2);
	is_int(view.cursor + view.top, 0, "the cursor begins at the top");
	grid_move(g, &view, 2);
	grid_arrange(g, &view, 2);
	ok(view.cursor == 2 && view.top == 1, "it scrolls when it leaves the screen");
	is_str(grid_cells(g, view.cursor)[0].text, "w1", "it is on a row");
	view.sort = 0;
	grid_arrange(g, &view, 2);
	is_str(grid_cells(g, view.cursor)[0].text, "w1", "and stays on it when the order changes");
	is_int(view.top, 0, "and is seen");
	grid_free(&g);
	g = make(false);
	view.descending = true;
	grid_arrange(g, &view, 2);
	is_str(grid_cells(g, view.cursor)[0].text, "w1", "and in the next sample");
	grid_move(g, &view, 1000);
	is_int(view.cursor, 2, "it does not leave the rows");
	grid_move(g, &view, -1000);
	view.descending = false;
	grid_arrange(g, &view, 2);
	is_int(view.cursor, 0, "at the top it stays at the top, whatever is there");
	snprintf(view.filter, sizeof(view.filter), "none");
	view.cursor = 2;
	grid_arrange(g, &view, 2);
	is_int(view.cursor, 0, "no rows: it is nowhere");
	view.filter[0] = '\0';
	grid_arrange(g, &view, 2);
	is_str(grid_help(g, 2), "the first", "rows have descriptions");
	grid_free(&g);
	g = grid_create(columns, array_size(columns));
	grid_arrange(g, &view, 5);
	grid_move(g, &view, 3);
	is_int(view.cursor, 0, "an empty grid is no trouble");
	grid_free(&g);
}

static void test_lines(void)
{
	struct grid *g = make(false);
	bool fits = true;

	view = (struct grid_view){.sort = 1, .descending = true};
	grid_arrange(g, &view, 10);
	is_str(grid_line(g, &view, NULL, 80, line, sizeof(line), spans), "NAME  RATE-   HELD  TEXT",
		"titles, with the one that sorts marked");
	is_str(grid_line(g, &view, grid_cells(g, 0), 80, line, sizeof(line), spans),
		"w9    12.3k      -  insert ?[31m", "numbers to the right, escapes made harmless");
	is_int(spans[3].end - spans[3].begin, 12, "spans tell where a cell is");
	is_str(grid_line(g, &view, grid_cells(g, 1), 80, line, sizeof(line), spans),
		"w10       5  500ms  select one", "times with their unit");
	for (unsigned w = 0; w < 40; w++) {
		grid_line(g, &view, grid_cells(g, 0), w, line, sizeof(line), spans);
		fits = fits && text_width(line) <= w;
	}
	ok(fits, "no line is wider than the screen");
	view.left = 2;
	is_str(grid_line(g, &view, grid_cells(g, 0), 80, line, sizeof(line), spans),
		"w9    insert ?[31m", "columns scroll away behind the first");
	view.left = 100;
	grid_arrange(g, &view, 10);
	is_int(view.left, 3, "but not all of them");
	grid_free(&g);
}

static void test_wide(void)
{
	struct grid *g = grid_create(columns, array_size(columns));
	char name[61];

	memset(name, 'x', 60);
	name[60] = '\0';
	grid_row(g, 1, NULL);
	grid_text(g, "%s", name);
	grid_number(g, 1);
	grid_number(g, 1);
	grid_text(g, "end");
	grid_text(g, "one cell too many is dropped");
	view = (struct grid_view){.sort = -1};
	grid_arrange(g, &view, 10);
	grid_line(g, &view, grid_cells(g, 0), 58, line, sizeof(line), spans);
	ok(spans[0].end == 40 && strstr(line, "end") != NULL,
		"long texts leave room for the others");
	grid_line(g, &view, grid_cells(g, 0), 200, line, sizeof(line), spans);
	is_int(spans[0].end, 60, "unless there is room for all");
	grid_free(&g);
}

static void test_utf8(void)
{
	static const struct grid_column two[] = {{"a", GRID_TEXT, ""}, {"b", GRID_TEXT, ""}};
	struct grid *g;
	char spark[64];
	double v[] = {0, 1, 4, 8, -1};

	is_str(text_spark(spark, sizeof(spark), v, 5), "__~# ", "a curve in ASCII");
	is_str(text_spark(spark, 3, v, 5), "__", "cut to its buffer");
	if (setlocale(LC_CTYPE, "C.UTF-8") == NULL) {
		skip("no C.UTF-8 here");
		return;
	}
	is_str(text_spark(spark, sizeof(spark), v, 5), "▁▁▄█ ", "a curve in blocks");
	g = grid_create(two, 2);
	grid_row(g, 1, NULL);
	grid_text(g, "%s", "äöü");
	grid_text(g, "%s", "日本");
	grid_arrange(g, &view, 1);
	is_str(grid_line(g, NULL, grid_cells(g, 0), 80, line, sizeof(line), spans), "äöü  日本",
		"columns are counted, not bytes");
	is_str(grid_line(g, NULL, grid_cells(g, 0), 6, line, sizeof(line), spans), "äöü  ",
		"half a character is none");
	is_str(grid_line(g, NULL, grid_cells(g, 0), 2, line, sizeof(line), spans), "äö",
		"cut between characters");
	is_int((int64_t)text_fit("ä\xff", 5), 3, "bytes that are none do not end it");
	grid_free(&g);
}

int main(void)
{
	test_order();
	test_filter();
	test_cursor();
	test_lines();
	test_wide();
	test_utf8();
	return done_testing();
}
