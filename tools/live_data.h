/* SPDX-License-Identifier: MIT */
/*
 * live_data.h - what the live screen shows, drawn from one sample after the other: the newest
 * sample with its rates, averages and trails, the statements, and the grids of each view.
 *
 * Knows no terminal.  One thread.
 */
#ifndef TOOLS_LIVE_DATA_H
#define TOOLS_LIVE_DATA_H

#include "average.h"
#include "grid.h"
#include "reader.h"
#include "series.h"

/* What is remembered of a pool from sample to sample. */
enum live_trail {
	TRAIL_STATEMENTS, /* ended per second */
	TRAIL_ERRORS, /* per second */
	TRAIL_WAITING, /* requests that wait */
	TRAIL_WAIT_P99,
	TRAIL_RUN_P99,
	TRAIL_COUNT
};

struct live_pool {
	char name[BOARD_NAME_MAX]; /* whose trails these are */
	struct trail trail[TRAIL_COUNT];
	double statements, errors, rows; /* per second of the interval, or since the start */
};

/* What could be read of the statements: a number, or an error as from reader_slow. */
struct live_texts {
	struct numbered_slow *slow, *samples;
	int nslow, nsamples;
	struct shape_entry *shapes;
	int nshapes;
};

struct live_data {
	struct sample *now; /* its histograms are those of the interval, if there is one */
	struct sample *before; /* the sample before, whole, for the next interval */
	bool interval; /* rates are of the time since the sample before; else since the start */
	struct series_list series;
	struct averages averages;
	struct live_pool *pools; /* now->npools */
	unsigned npools;
	struct live_pool all; /* all pools together */
	struct live_texts texts;
	bool no_texts; /* as if they could not be read */
	const struct name_filter *only; /* metrics of their view, or NULL: all; borrowed */
};

/* Take the next sample.  0 or -ENOMEM; d stays usable. */
int live_data_step(struct live_data *d, struct reader *r) must_use;
/* Forget all samples. */
void live_data_reset(struct live_data *d);

/* ------------------------------------------------------------------------------------------------
 * Views (live_views.c, live_statements.c)
 */

enum live_view {
	VIEW_OVERVIEW,
	VIEW_POOLS,
	VIEW_SERVERS,
	VIEW_CONNECTIONS,
	VIEW_WORKERS, /* and the leases they hold */
	VIEW_STATEMENTS, /* by shape, or */
	VIEW_METRICS,
	VIEW_COUNT
};

/* What VIEW_STATEMENTS shows; one follows the other. */
enum live_kind { KIND_SHAPES, KIND_SLOW, KIND_SAMPLES, KIND_COUNT };

/* "overview", "pools", ...; what stands in the list of views. */
const char *live_view_name(enum live_view view);

/* How a view is sorted until its user says otherwise. */
void live_view_defaults(enum live_view view, enum live_kind kind, struct grid_view *v);

/* Grid of a view but the overview; note gets why it is empty, if that needs a word.  NULL: out of
 * memory. */
struct grid *live_grid(const struct live_data *d, enum live_view view, enum live_kind kind,
	const char **note) must_use;

/* Parts of the overview. */
enum live_part { PART_THROUGHPUT, PART_LATENCY, PART_SERVERS, PART_EVENTS, PART_COUNT };
struct grid *live_part(const struct live_data *d, enum live_part part) must_use;

/* Grids that are made elsewhere: live_statements.c. */
struct grid *live_statements(
	const struct live_data *d, enum live_kind kind, const char **note) must_use;
struct grid *live_events(const struct live_data *d) must_use;

/* First line of every view: the broker and whether it lives; tone says how bad that is.
 * date: with the day, as recordings need it. */
char *live_head(const struct live_data *d, bool date, char *buf, size_t size, enum grid_tone *tone);
/* Second line: all pools in one, with a sparkline if it fits. */
char *live_summary(const struct live_data *d, unsigned width, char *buf, size_t size);

/* Text of the shape that a connection runs or ran last, its number if the text cannot be read or is
 * not there yet (it comes when the first statement of its shape ends), "" if there is none. */
const char *live_shape(
	const struct live_data *d, uint32_t pool, uint64_t fingerprint, char *buf, size_t size);

#endif
