/* SPDX-License-Identifier: MIT */
/* live_statements.c - grids of the live screen: statements and events; the lines above all views.
 */
#include "brokerstat.h"
#include "live_data.h"
#include "text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *why_none(int err)
{
	return err == -EACCES || err == -EPERM
		       ? "Statements are shown to the broker's monitor group only."
	       : err < 0 ? "There is no slow-query segment."
			 : "None so far.";
}

/* ------------------------------------------------------------------------------------------------
 * By shape
 */

static const struct grid_column shape_grid[] = {
	{"share", GRID_SHARE, "Part of the time of all shapes"},
	{"total", GRID_DURATION, "Time on the server, of all calls"},
	{"calls", GRID_COUNT, "Statements of this shape that ended"},
	{"mean", GRID_DURATION, "Mean time on the server"},
	{"p95", GRID_DURATION, "95 of 100 took less"},
	{"max", GRID_DURATION, "The longest"},
	{"errors", GRID_COUNT, "Those that failed"},
	{"statement", GRID_TEXT, "The text without its literals"},
	{"tag", GRID_TEXT, "Of the latest request with such a statement"},
	{"pool", GRID_TEXT, "Pool they ran in"},
	{"rows", GRID_NUMBER, "Rows returned or changed"},
	{"wait", GRID_DURATION, "Time in the broker's queue, of all calls"},
	{"last", GRID_DURATION, "How long ago the last one ended"},
	{"fingerprint", GRID_TEXT, "Number of the shape"},
};

static void shape_times(struct grid *g, const struct shape_row *r, double all_ns)
{
	struct histogram_copy h;

	grid_number(g, all_ns > 0 ? (double)r->run.sum_ns / all_ns : 0);
	grid_number(g, (double)r->run.sum_ns / 1e9);
	grid_number(g, (double)r->calls);
	if (histogram_copy_init(
		    &h, (const struct histogram *)(const void *)&r->run, sizeof(r->run)) < 0) {
		grid_none(g, "?");
		grid_none(g, "?");
	} else {
		grid_number(g, (double)histogram_mean(&h) / 1e9);
		grid_number(g, (double)histogram_quantile(&h, 0.95) / 1e9);
		histogram_copy_finish(&h);
	}
	grid_number(g, (double)r->run.max_ns / 1e9);
}

static void shape_line(
	struct grid *g, const struct live_data *d, const struct shape_entry *e, double all_ns)
{
	const struct shape_row *r = &e->row;
	const char *tag = shape_tag(r, 0);
	char buf[16];

	grid_row(g, r->fingerprint + r->pool, NULL);
	shape_times(g, r, all_ns);
	grid_number(g, (double)r->errors);
	grid_tone(g, r->errors > 0 ? TONE_WARN : TONE_DIM);
	grid_text(
		g, "%.*s%s", (int)r->text_len, r->text, r->flags & SHAPE_F_TRUNCATED ? " ..." : "");
	grid_text(g, "%.*s", (int)CHAN_TAG_MAX, tag != NULL ? tag : "-");
	grid_text(g, "%s%s", sample_pool_name(d->now, r->pool, buf), e->torn ? "?" : "");
	grid_number(g, (double)r->rows);
	grid_number(g, (double)r->wait_ns / 1e9);
	grid_number(g, sample_age(d->now, r->last_ns));
	grid_text(g, "%016llx", (unsigned long long)r->fingerprint);
}

static struct grid *make_shapes(const struct live_data *d)
{
	struct grid *g = grid_create(shape_grid, array_size(shape_grid));
	double all_ns = 0;

	for (int i = 0; i < d->texts.nshapes; i++) {
		all_ns += (double)d->texts.shapes[i].row.run.sum_ns;
	}
	for (int i = 0; g != NULL && i < d->texts.nshapes; i++) {
		shape_line(g, d, &d->texts.shapes[i], all_ns);
	}
	return g;
}

/* ------------------------------------------------------------------------------------------------
 * One by one, newest first
 */

static const struct grid_column slow_grid[] = {
	{"ended", GRID_TEXT, "When it ended, local time"},
	{"run", GRID_DURATION, "Time on the server"},
	{"wait", GRID_DURATION, "Time in the broker's queue"},
	{"rows", GRID_NUMBER, "Rows returned or changed"},
	{"error", GRID_TEXT, "SQLSTATE or number of the error"},
	{"pid", GRID_COUNT, "Process of the worker"},
	{"statement", GRID_TEXT, "As it was sent"},
	{"tag", GRID_TEXT, "Of the request"},
	{"pool", GRID_TEXT, "Pool it ran in"},
	{"server", GRID_TEXT, "Server it ran on"},
	{"fingerprint", GRID_TEXT, "Number of its shape"},
};

static void slow_line(struct grid *g, const struct live_data *d, const struct numbered_slow *v)
{
	const struct slow_slot *q = &v->slot;
	char buf[64];

	grid_row(g, v->number, NULL);
	grid_text(g, "%s", text_time(buf, sizeof(buf), q->when_ns) + strlen("2026-01-31 "));
	grid_number(g, (double)q->run_ns / 1e9);
	grid_number(g, (double)q->wait_ns / 1e9);
	grid_number(g, (double)q->rows);
	if (q->code != 0 && q->sqlstate[0] != '\0') {
		grid_text(g, "%s", q->sqlstate);
	} else {
		grid_text(g, q->code != 0 ? "%u" : "-", q->code);
	}
	grid_tone(g, q->code != 0 ? TONE_WARN : TONE_DIM);
	grid_number(g, q->worker_pid);
	grid_text(g, "%.*s%s%.*s", (int)q->sql_len, q->sql,
		q->flags & SLOW_F_TRUNCATED ? " ..."
		: q->params_len > 0         ? "  -- "
					    : "",
		(int)q->params_len, slowring_params(q));
	grid_text(g, "%.*s", (int)sizeof(q->tag), q->tag[0] != '\0' ? q->tag : "-");
	grid_text(g, "%s", sample_pool_name(d->now, q->pool, buf));
	grid_text(g, "%s", sample_server_name(d->now, q->server, buf));
	grid_text(g, "%016llx", (unsigned long long)q->fingerprint);
}

static struct grid *make_slow(const struct live_data *d, const struct numbered_slow *v, int n)
{
	struct grid *g = grid_create(slow_grid, array_size(slow_grid));

	for (int i = n - 1; g != NULL && i >= 0; i--) {
		slow_line(g, d, &v[i]);
	}
	return g;
}

struct grid *live_statements(const struct live_data *d, enum live_kind kind, const char **note)
{
	const struct live_texts *t = &d->texts;
	int n = kind == KIND_SHAPES ? t->nshapes : kind == KIND_SLOW ? t->nslow : t->nsamples;

	*note = n <= 0 ? why_none(n) : "";
	return kind == KIND_SHAPES ? make_shapes(d)
	       : kind == KIND_SLOW ? make_slow(d, t->slow, t->nslow)
				   : make_slow(d, t->samples, t->nsamples);
}

/* ------------------------------------------------------------------------------------------------
 * Events
 */

static const struct grid_column event_grid[] = {
	{"time", GRID_TEXT, "When, local time"},
	{"event", GRID_TEXT, "What kind"},
	{"what", GRID_TEXT, "What happened"},
};

static enum grid_tone event_tone(uint32_t kind)
{
	switch (kind) {
	case BOARD_EVENT_SERVER_DOWN:
	case BOARD_EVENT_FAILOVER:
	case BOARD_EVENT_ERROR:
		return TONE_BAD;
	case BOARD_EVENT_ROLE:
	case BOARD_EVENT_LEAK:
	case BOARD_EVENT_EVICTION:
	case BOARD_EVENT_WORKER_DEATH:
	case BOARD_EVENT_CONNECT_FAILURE:
	case BOARD_EVENT_REFUSAL:
		return TONE_WARN;
	default:
		return TONE_PLAIN;
	}
}

/* Newest first: what happened last is what matters, and the end is what does not fit. */
struct grid *live_events(const struct live_data *d)
{
	struct grid *g = grid_create(event_grid, array_size(event_grid));
	char when[64];

	for (unsigned i = d->now->nevents; g != NULL && i-- > 0;) {
		const struct board_event_slot *e = &d->now->events[i].slot;

		grid_row(g, d->now->events[i].number, NULL);
		text_time(when, sizeof(when), e->when_ns);
		grid_text(g, "%.8s", when + strlen("2026-01-31 "));
		grid_text(g, "%.*s", (int)sizeof(e->name), e->name);
		grid_tone(g, event_tone(e->kind));
		grid_text(g, "%.*s", (int)sizeof(e->text), e->text);
	}
	return g;
}

/* ------------------------------------------------------------------------------------------------
 * The lines above
 */

char *live_head(const struct live_data *d, bool date, char *buf, size_t size, enum grid_tone *tone)
{
	const struct sample *s = d->now;
	char up[32], beat[32], when[64];

	*tone = s->life == READER_RUNNING ? TONE_PLAIN
		: s->life == READER_DEAD  ? TONE_BAD
					  : TONE_WARN;
	text_time(when, sizeof(when), s->real_ns);
	snprintf(buf, size, "broker %s  pid %d  up %s  %.*s", reader_life_name(s->life), s->pid,
		text_duration(up, sizeof(up), (double)s->uptime_ns / 1e9), date ? 19 : 8,
		when + (date ? 0 : strlen("2026-01-31 ")));
	if (s->life != READER_RUNNING) {
		snprintf(buf + strlen(buf), size - strlen(buf), "  last heartbeat %s ago",
			text_duration(beat, sizeof(beat), (double)s->beat_age_ns / 1e9));
	}
	return buf;
}

/* Sum of the averages of all series of a metric, of one span. */
static double average_sum(const struct live_data *d, const char *name, unsigned span)
{
	size_t n = strlen(name);
	double sum = 0;

	for (size_t i = 0; i < d->averages.n; i++) {
		const struct average *a = &d->averages.v[i];

		if (strncmp(a->name, name, n) == 0 && (a->name[n] == '{' || a->name[n] == '\0')) {
			sum += a->mean[span];
		}
	}
	return sum;
}

static double series_sum(const struct live_data *d, const char *name)
{
	double sum = 0;

	for (size_t i = 0; i < d->series.n; i++) {
		if (strcmp(d->series.v[i].family, name) == 0) {
			sum += d->series.v[i].value;
		}
	}
	return sum;
}

static double load_of(const struct live_data *d)
{
	for (size_t i = 0; i < d->series.n; i++) {
		if (strcmp(d->series.v[i].name, "broker_loop_busy_seconds_total") == 0) {
			return d->series.v[i].rate;
		}
	}
	return 0;
}

char *live_summary(const struct live_data *d, unsigned width, char *buf, size_t size)
{
	char n[5][32], spark[256];
	size_t used;

	text_number(n[0], sizeof(n[0]), d->all.statements);
	for (unsigned k = 0; k < AVERAGE_SPANS; k++) {
		text_number(n[k + 1], sizeof(n[0]),
			average_sum(d, "broker_statements_finished_total", k) +
				average_sum(d, "broker_statements_failed_total", k));
	}
	text_number(n[4], sizeof(n[4]), d->all.errors);
	snprintf(buf, size,
		"stmt/s %s (%s %s %s)  err/s %s  waiting %.0f  workers %.0f  load %.0f%%", n[0],
		n[1], n[2], n[3], n[4], series_sum(d, "broker_pool_pending"),
		series_sum(d, "broker_workers"), load_of(d) * 100);
	used = text_width(buf);
	if (!d->interval) {
		snprintf(buf + strlen(buf), size - strlen(buf), "  since start");
	} else if (used + 10 < width) {
		trail_spark(&d->all.trail[TRAIL_STATEMENTS], (unsigned)(width - used - 2), spark,
			sizeof(spark));
		snprintf(buf + strlen(buf), size - strlen(buf), "  %s", spark);
	}
	return buf;
}
