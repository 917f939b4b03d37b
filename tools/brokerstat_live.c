/* SPDX-License-Identifier: MIT */
/*
 * brokerstat_live.c - the screen: what the broker, its pools, servers and workers are doing now.
 *
 * Repaints every interval; q or Ctrl-C ends it.  Colour marks trouble only.  Lines come from the
 * same tables as the printed output and are cut at the right edge by columns, not bytes.
 */
#include "brokerstat.h"

#include "series.h"
#include "text.h"

#include <curses.h>
#include <errno.h>
#include <string.h>

enum { PAIR_BAD = 1, PAIR_WARN = 2 };

struct screen {
	int line, rows, cols;
	bool color;
};

/* Bytes of s that fit into cols columns of the terminal. */
static int fitting(const char *s, int cols)
{
	char copy[2048];
	size_t n = strlen(s);

	n = n < sizeof(copy) - 1 ? n : sizeof(copy) - 1;

	memcpy(copy, s, n);
	copy[n] = '\0';
	while (n > 0 && text_width(copy) > (size_t)cols) {
		do {
			n--;
		} while (n > 0 && ((unsigned char)copy[n] & 0xc0) == 0x80);
		copy[n] = '\0';
	}
	return (int)n;
}

static void put_line(struct screen *sc, attr_t attr, const char *text)
{
	if (sc->line < sc->rows) {
		(void)attrset((int)attr);
		(void)mvaddnstr(sc->line, 0, text, fitting(text, sc->cols));
		(void)attrset(A_NORMAL);
	}
	sc->line++;
}

/* At most `rows` rows of a table below its titles; says how many it left out. */
static void put_table(struct screen *sc, struct text_table *t, unsigned rows)
{
	unsigned n = t != NULL ? text_table_rows(t) : 0;
	char more[64];

	for (unsigned i = 0; i < n && i <= rows; i++) {
		const char *line = text_table_line(t, i);

		put_line(sc, i == 0 ? A_BOLD : A_NORMAL, line != NULL ? line : "out of memory");
	}
	if (n > rows + 1) {
		snprintf(more, sizeof(more), "... and %u more", n - rows - 1);
		put_line(sc, A_DIM, more);
	}
	text_table_free(&t);
}

static attr_t life_attr(const struct screen *sc, enum reader_life life)
{
	if (life == READER_RUNNING) {
		return A_BOLD;
	}
	return A_BOLD | (sc->color ? (attr_t)COLOR_PAIR(life == READER_DEAD ? PAIR_BAD : PAIR_WARN)
				   : A_REVERSE);
}

static void put_head(struct screen *sc, const struct reader *r, const struct sample *s)
{
	char line[512], up[32], path[256], when[64];

	snprintf(line, sizeof(line), "broker %s  pid %d  up %s  %s  %s", reader_life_name(s->life),
		s->pid, text_duration(up, sizeof(up), (double)s->uptime_ns / 1e9),
		text_clean(path, sizeof(path), reader_path(r), SIZE_MAX),
		text_time(when, sizeof(when), s->real_ns));
	put_line(sc, life_attr(sc, s->life), line);
	sc->line++;
}

static double pool_rate(const struct sample *now, const struct sample *before, unsigned pool,
	const char *name, double seconds)
{
	uint64_t a = before != NULL ? series_pool_value(before, pool, name, "") : 0;
	uint64_t b = series_pool_value(now, pool, name, "");

	return seconds > 0 && b >= a ? (double)(b - a) / seconds : 0;
}

static void cell_rate(struct text_table *t, double rate)
{
	char buf[32];

	text_table_cell(t, "%s", text_number(buf, sizeof(buf), rate));
}

static void cell_quantiles(
	struct text_table *t, const struct sample *s, unsigned pool, const char *name)
{
	const struct histogram_copy *h = series_pool_histogram(s, pool, name);
	static const double qs[] = {0.5, 0.95, 0.99};
	char buf[32];

	for (unsigned i = 0; i < array_size(qs); i++) {
		uint64_t v = h != NULL && h->bucket != NULL ? histogram_quantile(h, qs[i]) : 0;

		text_table_cell(t, "%s", text_duration(buf, sizeof(buf), (double)v / 1e9));
	}
}

static struct text_table *traffic_table(const struct sample *now, const struct sample *before)
{
	double seconds = before != NULL ? (double)(now->mono_ns - before->mono_ns) / 1e9
					: (double)now->uptime_ns / 1e9;
	struct text_table *t = text_table_create("pool >stmt/s >rows/s >err/s >in_flight >waiting "
						 ">wait_p50 >p95 >p99 >run_p50 >p95 >p99 state");
	char buf[16];

	for (unsigned i = 0; t != NULL && i < now->npools; i++) {
		if (!now->pools[i].used) {
			continue;
		}
		text_table_cell(t, "%s", now->pools[i].info.name);
		cell_rate(t, pool_rate(now, before, i, "broker_statements_started_total", seconds));
		cell_rate(t, pool_rate(now, before, i, "broker_rows_total", seconds));
		cell_rate(t, pool_rate(now, before, i, "broker_statements_failed_total", seconds));
		text_table_cell(t, "%llu",
			(unsigned long long)series_pool_value(
				now, i, "broker_statements_in_flight", ""));
		text_table_cell(t, "%llu",
			(unsigned long long)series_pool_value(now, i, "broker_pool_pending", ""));
		cell_quantiles(t, now, i, "broker_acquire_seconds");
		cell_quantiles(t, now, i, "broker_query_seconds");
		text_table_cell(t, "%s", pool_state_name(now->pools[i].info.state, buf));
	}
	return t;
}

static struct text_table *connection_table(const struct sample *s)
{
	struct text_table *t = text_table_create("pool >cl_active >cl_waiting >sv_active >sv_idle "
						 ">sv_login >sv_leased >max_size >maxwait server");
	static const unsigned columns[] = {0, 1, 4, 7, 10};
	char buf[32];

	for (unsigned i = 0; t != NULL && i < s->npools; i++) {
		if (!s->pools[i].used) {
			continue;
		}
		text_table_cell(t, "%s", s->pools[i].info.name);
		for (unsigned c = 0; c < array_size(columns); c++) {
			text_table_cell(
				t, "%llu", (unsigned long long)pool_column(s, i, columns[c]));
		}
		text_table_cell(t, "%llu",
			(unsigned long long)series_pool_value(
				s, i, "broker_pool_connections", "state=\"leased\""));
		text_table_cell(t, "%u", s->pools[i].info.max_size);
		text_table_cell(t, "%s",
			text_duration(buf, sizeof(buf), (double)pool_maxwait_ns(s, i) / 1e9));
		text_table_cell(t, "%s", sample_server_name(s, s->pools[i].info.server, buf));
	}
	return t;
}

static void put_events(struct screen *sc, const struct sample *s, unsigned rows)
{
	char line[512], when[64], text[BOARD_EVENT_SLOT];

	for (unsigned i = s->nevents > rows ? s->nevents - rows : 0; i < s->nevents; i++) {
		const struct numbered_event *e = &s->events[i];

		snprintf(line, sizeof(line), "%s  %s",
			text_time(when, sizeof(when), e->slot.when_ns),
			text_clean(text, sizeof(text), e->slot.text, sizeof(e->slot.text)));
		put_line(sc, A_NORMAL, line);
	}
}

static void paint(
	struct screen *sc, const struct reader *r, struct sample *now, const struct sample *before)
{
	bool interval = series_interval(now, before);
	unsigned room;

	erase();
	sc->line = 0;
	getmaxyx(stdscr, sc->rows, sc->cols);
	for (unsigned i = 0; interval && i < now->nhist; i++) {
		histogram_subtract(&now->hist[i], &before->hist[i]);
	}
	room = sc->rows > 24 ? (unsigned)(sc->rows - 12) / 4 : 3;
	put_head(sc, r, now);
	put_table(sc, traffic_table(now, interval ? before : NULL), room);
	sc->line++;
	put_table(sc, connection_table(now), room);
	sc->line++;
	put_table(sc, table_servers(now), room);
	sc->line++;
	put_table(sc, table_workers(now), room);
	sc->line++;
	if (sc->line + 1 < sc->rows) {
		put_events(sc, now, (unsigned)(sc->rows - sc->line - 1));
	}
	if (sc->rows > 1) {
		sc->line = sc->rows - 1;
		put_line(sc, A_DIM, "q quits; brokerstat -1, -p, -S, -W, -s, -e and -j print");
	}
	refresh();
}

static void screen_start(struct screen *sc)
{
	(void)initscr();
	(void)cbreak();
	(void)noecho();
	(void)curs_set(0);
	(void)keypad(stdscr, TRUE);
	sc->color = sc->color && has_colors();
	if (sc->color) {
		(void)start_color();
		(void)use_default_colors();
		(void)init_pair(PAIR_BAD, COLOR_RED, -1);
		(void)init_pair(PAIR_WARN, COLOR_YELLOW, -1);
	}
}

int live_run(struct reader *r, const struct stat_options *opt)
{
	double interval = opt->interval > 0 ? opt->interval : 1;
	struct sample *now = NULL, *before = NULL, *fresh = NULL;
	struct screen sc = {.color = opt->color};
	int err = 0, key = ERR;
	unsigned long n = 0;

	screen_start(&sc);
	while (key != 'q' && (opt->count == 0 || n < opt->count)) {
		(void)reader_follow(r);
		err = reader_sample(r, &now);
		if (err == 0) { /* the copy that is painted loses its histograms to the interval */
			err = reader_sample(r, &fresh);
		}
		if (err < 0) {
			break;
		}
		paint(&sc, r, now, before);
		sample_free(&before);
		before = fresh;
		fresh = NULL;
		n++;
		timeout((int)(interval * 1000));
		key = getch(); /* a resize is a key, too: paint at once */
		if (key != 'q') {
			sample_free(&now);
		}
	}
	(void)endwin();
	err = err < 0                                   ? STAT_NOT_FOUND
	      : now != NULL && now->life == READER_DEAD ? STAT_DEAD
							: STAT_OK;
	sample_free(&now);
	sample_free(&before);
	sample_free(&fresh);
	return err;
}
