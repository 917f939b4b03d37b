/* SPDX-License-Identifier: MIT */
/*
 * exporter_live.h - what the dashboard gets every second: one document that says all it shows.
 *
 * Each document stands for itself, so one that is missed leaves nothing wrong.  Its size is
 * bounded: it has the LIVE_ROWS most telling workers, leases and events, the newest slow
 * statements, and the shapes of statements that took the most time.
 */
#ifndef TOOLS_EXPORTER_LIVE_H
#define TOOLS_EXPORTER_LIVE_H

#include "exporter_history.h"
#include "reader.h"

#define LIVE_ROWS 100u
#define LIVE_SLOW 20u
#define LIVE_LONG_SECONDS 1.0 /* a statement that runs for less is not shown among what is held */
#define LIVE_SHAPES 30u

/* What was read of the statements' segment; counts below 0 are errors as from reader_slow. */
struct live_texts {
	struct numbered_slow *slow;
	int nslow;
	struct shape_entry *shapes;
	int nshapes;
};

/*
 * The document as a server-sent event, to be freed.  s NULL: there is no board.  NULL: out of
 * memory.
 */
char *live_message(const struct sample *s, const struct history *h, const struct live_texts *texts,
	size_t *len) must_use;

/* The short of it, for scripts that want one look: as JSON, to be freed.  NULL: out of memory. */
char *live_overview(const struct sample *s, const struct history *h, size_t *len) must_use;

#endif
