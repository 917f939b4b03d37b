/* SPDX-License-Identifier: MIT */
/*
 * live.c - the live screen: keys, and when the next sample or frame is due.
 *
 * Samples are taken by the clock, not by keys; a key only draws anew.  Recordings are played frame
 * by frame, as fast as they were taken times `speed`.  The process asks nothing of the broker.
 */
#include "live.h"

#include "text.h"

#include <curses.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KEY_ESC 27
#define FRAME_PAUSE_MAX 10.0 /* seconds: gaps in a recording are not waited for */

static double clock_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

struct grid_view *live_grid_view(struct live *l)
{
	return &l->views[l->view == VIEW_STATEMENTS ? VIEW_COUNT + (unsigned)l->kind
						    : (unsigned)l->view];
}

unsigned live_room(const struct live *l)
{
	return l->lines > 4 ? (unsigned)l->lines - 4 : 0; /* three above, one below */
}

struct grid *live_arranged(struct live *l, const char **note)
{
	unsigned room = live_room(l);
	struct grid *g;

	*note = "";
	if (l->view == VIEW_OVERVIEW) {
		return NULL;
	}
	g = live_grid(&l->data, l->view, l->kind, note);
	if (g != NULL) {
		grid_arrange(g, live_grid_view(l), room > 1 ? room - 1 : 1);
	}
	return g;
}

/* ------------------------------------------------------------------------------------------------
 * Samples and frames
 */

static int step(struct live *l)
{
	int err = live_data_step(&l->data, l->reader);

	if (err < 0) {
		snprintf(l->notice, sizeof(l->notice), "%s", strerror(-err));
	}
	return err;
}

/* Show a frame as if the recording had been played up to it. */
static void seek(struct live *l, long frame)
{
	long last = (long)reader_frames(l->reader) - 1, from;

	frame = frame < 0 ? 0 : frame > last ? last : frame;
	from = frame > (long)TRAIL_LENGTH ? frame - (long)TRAIL_LENGTH : 0;
	live_data_reset(&l->data);
	for (long i = from; i <= frame; i++) {
		int err = reader_seek(l->reader, (unsigned)i);

		if (err < 0) {
			snprintf(l->notice, sizeof(l->notice), "frame %ld is damaged", i + 1);
		} else {
			(void)step(l);
		}
	}
}

static void next_frame(struct live *l)
{
	unsigned next = reader_frame(l->reader) + 1;

	if (next >= reader_frames(l->reader)) {
		l->paused = true;
	} else if (reader_seek(l->reader, next) < 0) {
		snprintf(l->notice, sizeof(l->notice), "frame %u is damaged", next + 1);
		l->paused = true;
	} else {
		(void)step(l);
	}
}

/* By recorded time. */
static void seek_seconds(struct live *l, double seconds)
{
	unsigned frame = reader_frame(l->reader), last = reader_frames(l->reader) - 1;
	double from = (double)reader_frame_ns(l->reader, frame) / 1e9, to = from + seconds;

	while (seconds > 0 && frame < last &&
		(double)reader_frame_ns(l->reader, frame) / 1e9 < to) {
		frame++;
	}
	while (seconds < 0 && frame > 0 && (double)reader_frame_ns(l->reader, frame) / 1e9 > to) {
		frame--;
	}
	seek(l, (long)frame);
}

/* Seconds until the next sample or frame after this one. */
static double gap(const struct live *l)
{
	unsigned frame = reader_frame(l->reader), n = reader_frames(l->reader);
	double d;

	if (n == 0) {
		return l->interval;
	}
	if (frame + 1 >= n) {
		return 1;
	}
	d = (double)(int64_t)(reader_frame_ns(l->reader, frame + 1) -
			      reader_frame_ns(l->reader, frame)) /
	    1e9;
	d = d < 0 ? 0 : d > FRAME_PAUSE_MAX ? FRAME_PAUSE_MAX : d;
	return d / l->speed;
}

/* ------------------------------------------------------------------------------------------------
 * Keys
 */

static void show_view(struct live *l, enum live_view view)
{
	l->view = view;
	l->over = OVER_NOTHING;
}

static void change_pace(struct live *l, bool faster)
{
	if (reader_frames(l->reader) > 0) {
		l->speed *= faster ? 2 : 0.5;
		l->speed = l->speed > 64 ? 64 : l->speed < 0.125 ? 0.125 : l->speed;
	} else {
		l->interval *= faster ? 0.5 : 2;
		l->interval = l->interval > 64 ? 64 : l->interval < 0.1 ? 0.1 : l->interval;
	}
}

static bool key_of_recording(struct live *l, int key)
{
	long frame = (long)reader_frame(l->reader);

	if (reader_frames(l->reader) == 0) {
		return false;
	}
	switch (key) {
	case ',':
		l->paused = true;
		seek(l, frame - 1);
		return true;
	case '.':
		l->paused = true;
		next_frame(l);
		return true;
	case '[':
		seek_seconds(l, -60);
		return true;
	case ']':
		seek_seconds(l, 60);
		return true;
	case '{':
		seek(l, 0);
		return true;
	case '}':
		seek(l, (long)reader_frames(l->reader) - 1);
		return true;
	default:
		return false;
	}
}

/* Rows a key moves by; 0: it does not move. */
static long move_of(const struct live *l, int key)
{
	unsigned room = live_room(l);
	long page = room > 2 ? (long)room - 1 : 1;

	switch (key) {
	case KEY_UP:
	case 'k':
		return -1;
	case KEY_DOWN:
	case 'j':
		return 1;
	case KEY_PPAGE:
	case 'b':
		return -page;
	case KEY_NPAGE:
	case 'f':
		return page;
	case KEY_HOME:
	case 'g':
		return -1000000;
	case KEY_END:
	case 'G':
		return 1000000;
	default:
		return 0;
	}
}

static void move_page(struct live *l, long by)
{
	long to = (long)l->over_top + by;

	l->over_top = (unsigned)(to < 0        ? 0
				 : to > 100000 ? 100000
					       : to); /* drawing knows the end */
}

static void key_of_grid(struct live *l, int key)
{
	struct grid_view *v = live_grid_view(l);
	const char *note;
	struct grid *g = l->data.now != NULL ? live_arranged(l, &note) : NULL;
	long by = move_of(l, key);

	if (g == NULL) {
		return;
	}
	if (by != 0) {
		grid_move(g, v, by);
	}
	switch (key) {
	case KEY_LEFT:
		v->left -= v->left > 0;
		break;
	case KEY_RIGHT:
		v->left++;
		break;
	case 's':
		grid_sort_next(g, v, 1);
		break;
	case 'S':
		grid_sort_next(g, v, -1);
		break;
	case 'r':
		v->descending = !v->descending;
		break;
	case 'o':
		v->sort = -1;
		break;
	case '/':
		l->typing = true;
		break;
	case '\\':
		v->filter[0] = '\0';
		break;
	case '\r':
	case '\n':
	case KEY_ENTER:
		l->over = grid_shown(g) > 0 ? OVER_ROW : OVER_NOTHING;
		l->over_top = 0;
		break;
	default:
		break;
	}
	grid_free(&g);
}

/* Keys of a page that lies over the view; true if it took the key. */
static bool key_of_page(struct live *l, int key)
{
	if (l->over == OVER_NOTHING) {
		return false;
	}
	if (move_of(l, key) != 0) {
		move_page(l, move_of(l, key));
		return true;
	}
	if (key == KEY_ESC || key == '\r' || key == '\n' || key == KEY_ENTER || key == 'q' ||
		key == 'h' || key == '?') {
		l->over = OVER_NOTHING;
		return true;
	}
	return false;
}

static void key_of_filter(struct live *l, int key)
{
	char *filter = live_grid_view(l)->filter;
	size_t n = strlen(filter);

	switch (key) {
	case '\r':
	case '\n':
	case KEY_ENTER:
		l->typing = false;
		return;
	case KEY_ESC:
		l->typing = false;
		filter[0] = '\0';
		return;
	case KEY_BACKSPACE:
	case 127:
	case 8:
		while (n > 0 && ((unsigned char)filter[--n] & 0xc0) == 0x80) {
			/* the rest of a character goes with it */
		}
		filter[n] = '\0';
		return;
	case 21: /* ^U */
		filter[0] = '\0';
		return;
	default:
		if (key >= 32 && key < 256 && n + 1 < GRID_FILTER_MAX) {
			filter[n] = (char)key;
			filter[n + 1] = '\0';
		}
		return;
	}
}

static void on_key(struct live *l, int key)
{
	l->notice[0] = '\0';
	if (l->typing) {
		key_of_filter(l, key);
		return;
	}
	if (key_of_page(l, key) || key_of_recording(l, key)) {
		return;
	}
	if (key >= '0' && key < '0' + VIEW_COUNT) {
		show_view(l, (enum live_view)(key - '0'));
		return;
	}
	switch (key) {
	case 'q':
		l->quit = true;
		break;
	case '\t':
		show_view(l, (enum live_view)((l->view + 1) % VIEW_COUNT));
		break;
	case 't':
		l->kind = (enum live_kind)((l->kind + 1) % KIND_COUNT);
		show_view(l, VIEW_STATEMENTS);
		break;
	case 'h':
	case '?':
		l->over = OVER_HELP;
		l->over_top = 0;
		break;
	case ' ':
		l->paused = !l->paused;
		break;
	case '+':
	case '-':
		change_pace(l, key == '+');
		break;
	case 'c':
		live_data_reset(&l->data);
		(void)step(l);
		break;
	default:
		key_of_grid(l, key);
		break;
	}
}

/* ------------------------------------------------------------------------------------------------
 * The loop
 */

static bool terminal_is_gone(void)
{
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

/* Handle keys until the next sample is due. */
static void keys_until(struct live *l, double due)
{
	for (;;) {
		double left = due - clock_seconds();
		int key;

		if (l->quit || left <= 0) {
			return;
		}
		timeout(left > 600 ? 600000 : (int)(left * 1000) + 1);
		key = getch();
		if (key == ERR) { /* time is over, or a signal came, or the terminal went */
			l->quit = l->quit || terminal_is_gone();
			continue;
		}
		if (key != KEY_RESIZE) {
			on_key(l, key);
		}
		live_draw(l);
	}
}

static void start(struct live *l)
{
	for (unsigned i = 0; i < VIEW_COUNT; i++) {
		live_view_defaults((enum live_view)i, KIND_SHAPES, &l->views[i]);
	}
	for (unsigned i = 0; i < KIND_COUNT; i++) {
		live_view_defaults(VIEW_STATEMENTS, (enum live_kind)i, &l->views[VIEW_COUNT + i]);
	}
	if (reader_frames(l->reader) > 0) {
		seek(l, (long)reader_frame(l->reader));
	} else {
		(void)step(l);
	}
}

int live_run(struct reader *r, const struct stat_options *opt)
{
	struct live l = {.reader = r,
		.color = opt->color,
		.interval = opt->interval > 0 ? opt->interval : 1,
		.speed = 1};
	enum reader_life life;
	double due;

	l.data.no_texts = opt->no_texts;
	l.data.only = &opt->filter;
	if (!live_screen_start(&l)) {
		return STAT_USAGE;
	}
	start(&l);
	due = clock_seconds();
	for (unsigned long n = 1; !l.quit; n++) {
		live_draw(&l);
		if (opt->count != 0 && n >= opt->count) {
			break;
		}
		due += gap(&l);
		due = due > clock_seconds() ? due : clock_seconds();
		keys_until(&l, due);
		if (l.quit || l.paused) {
			continue;
		}
		if (reader_frames(r) > 0) {
			next_frame(&l);
		} else {
			(void)step(&l);
		}
	}
	live_screen_end();
	life = l.data.now != NULL ? l.data.now->life : READER_RUNNING;
	live_data_reset(&l.data);
	return life == READER_DEAD ? STAT_DEAD : STAT_OK;
}
