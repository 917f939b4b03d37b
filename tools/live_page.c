/* SPDX-License-Identifier: MIT */
/* live_page.c - pages of text over the live screen, and how the overview shares its lines. */
#include "live.h"
#include "text.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void live_page_free(struct live_page *p)
{
	for (unsigned i = 0; i < p->n; i++) {
		free(p->line[i]);
	}
	free(p->line);
	*p = (struct live_page){0};
}

static void add_line(struct live_page *p, const char *text, size_t len, unsigned indent)
{
	char *line = malloc(indent + len + 1);

	if (p->n == p->room && line != NULL) {
		unsigned room = p->room * 2 + 32;
		char **v = realloc(p->line, room * sizeof(*v));

		if (v == NULL) {
			free(line);
			line = NULL;
		} else {
			p->line = v;
			p->room = room;
		}
	}
	if (line == NULL) {
		p->failed = true;
		return;
	}
	memset(line, ' ', indent);
	memcpy(line + indent, text, len);
	line[indent + len] = '\0';
	p->line[p->n++] = line;
}

/* Where to break a text that fits for `fit` bytes: behind a blank, if there is one not too early.
 */
static size_t break_at(const char *text, size_t fit)
{
	if (text[fit] == '\0') {
		return fit;
	}
	for (size_t i = fit; i > fit / 2; i--) {
		if (text[i] == ' ' || text[i - 1] == ' ') {
			return i;
		}
	}
	return fit;
}

/* A text of any length below each other, all but the first line indented. */
static void add_wrapped(struct live_page *p, const char *text, unsigned indent, unsigned width)
{
	unsigned hang = 0;

	width = width > indent + 10 ? width : indent + 10;
	do {
		size_t n = break_at(text, text_fit(text, width - hang));

		n = n > 0 ? n : strlen(text);
		add_line(p, text, n, hang);
		text += n;
		while (*text == ' ') {
			text++;
		}
		hang = indent;
	} while (*text != '\0');
}

__attribute__((format(printf, 4, 5))) static void add_text(
	struct live_page *p, unsigned indent, unsigned width, const char *fmt, ...)
{
	char text[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	add_wrapped(p, text, indent, width);
}

void live_page_help(struct live_page *p, const struct grid *g, unsigned row, unsigned width)
{
	static const struct {
		const char *keys, *help;
	} keys[] = {
#define LIVE_KEY(keys, help) {keys, help},
#include "live_keys.def"
#undef LIVE_KEY
	};

	if (g != NULL && row < grid_shown(g) && grid_help(g, row) != NULL) {
		add_text(p, 2, width, "%s: %s", grid_cells(g, row)[0].text, grid_help(g, row));
		add_line(p, "", 0, 0);
	}
	for (unsigned i = 0; i < array_size(keys); i++) {
		add_text(p, 16, width, "%-14s  %s", keys[i].keys, keys[i].help);
	}
	if (g == NULL) {
		return;
	}
	add_line(p, "", 0, 0);
	for (unsigned i = 0; i < grid_ncolumns(g); i++) {
		add_text(p, 16, width, "%-14s  %s", grid_columns(g)[i].title,
			grid_columns(g)[i].help);
	}
}

void live_page_row(struct live_page *p, const struct grid *g, unsigned row, unsigned width)
{
	const struct grid_cell *c;

	if (row >= grid_shown(g)) {
		return;
	}
	c = grid_cells(g, row);
	for (unsigned i = 0; i < grid_ncolumns(g); i++) {
		add_text(p, 14, width, "%-12s  %s", grid_columns(g)[i].title,
			c[i].text != NULL ? c[i].text : "");
	}
	if (grid_help(g, row) != NULL) {
		add_line(p, "", 0, 0);
		add_text(p, 0, width, "%s", grid_help(g, row));
	}
}

void live_allot(const unsigned *need, unsigned *got, unsigned n, unsigned room)
{
	bool more = true;

	for (unsigned i = 0; i < n; i++) {
		unsigned first = need[i] < 2 ? need[i] : 2;

		got[i] = first <= room ? first : 0;
		room -= got[i];
	}
	while (more && room > 0) {
		more = false;
		for (unsigned i = 0; i < n && room > 0; i++) {
			if (got[i] > 0 && got[i] < need[i]) {
				got[i]++;
				room--;
				more = true;
			}
		}
	}
}
