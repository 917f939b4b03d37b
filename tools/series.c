/* SPDX-License-Identifier: MIT */
/* series.c - see series.h. */
#include "series.h"

#include "text.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct builder {
	struct sample *now;
	const struct sample *before; /* NULL: since the start */
	const struct name_filter *filter;
	double seconds; /* that rates divide by */
	struct series_list *out;
	size_t room;
	bool failed;
};

bool name_filter_match(const struct name_filter *f, const char *name)
{
	bool any = false, wanted = false;

	for (unsigned i = 0; i < f->n; i++) {
		bool except = f->glob[i][0] == '^';
		bool match = fnmatch(f->glob[i] + except, name, 0) == 0;

		if (except && match) {
			return false;
		}
		any = any || !except;
		wanted = wanted || (!except && match);
	}
	return wanted || !any;
}

bool series_interval(const struct sample *now, const struct sample *before)
{
	return before != NULL && now->pid == before->pid &&
	       now->broker_start_ns == before->broker_start_ns && now->npools == before->npools &&
	       now->ndesc == before->ndesc && now->nvalues == before->nvalues &&
	       now->pool_words == before->pool_words && now->nhist == before->nhist &&
	       now->mono_ns > before->mono_ns;
}

/* NULL if the filter drops it or memory is out. */
static struct series *append(struct builder *b, const char *name)
{
	struct series_list *l = b->out;

	if (b->filter != NULL && !name_filter_match(b->filter, name)) {
		return NULL;
	}
	if (l->n == b->room) {
		size_t room = b->room * 2 + 128;
		struct series *v = realloc(l->v, room * sizeof(*v));

		if (v == NULL) {
			b->failed = true;
			return NULL;
		}
		l->v = v;
		b->room = room;
	}
	memset(&l->v[l->n], 0, sizeof(l->v[0]));
	snprintf(l->v[l->n].name, sizeof(l->v[0].name), "%s", name);
	return &l->v[l->n++];
}

static void append_own(
	struct builder *b, const char *name, const char *help, double value, bool whole)
{
	struct series *s = append(b, name);

	if (s != NULL) {
		s->family = name;
		s->help = help;
		s->value = value;
		s->whole = whole;
		s->unit = whole ? "" : "seconds";
	}
}

/* name{label,pool="p",extra}; a pool's name is the configuration's, cleaned all the same. */
static void make_name(char out[256], const char *family, const char *suffix, const char *label,
	const char *pool, const char *extra)
{
	char clean[BOARD_NAME_MAX], pool_label[BOARD_NAME_MAX + 16] = "";
	const char *part[] = {label, pool_label, extra};
	size_t n = (size_t)snprintf(out, 256, "%s%s", family, suffix);
	char sep = '{';

	if (pool != NULL) {
		text_clean(clean, sizeof(clean), pool, BOARD_NAME_MAX);
		snprintf(pool_label, sizeof(pool_label), "pool=\"%s\"", clean);
	}
	for (unsigned i = 0; i < 3; i++) {
		if (part[i] != NULL && part[i][0] != '\0' && n < 250) {
			n += (size_t)snprintf(out + n, 256 - n, "%c%s", sep, part[i]);
			sep = ',';
		}
	}
	if (sep == ',' && n < 255) {
		snprintf(out + n, 256 - n, "}");
	}
}

static double scaled(const struct sample *s, const struct metric_desc *d, uint64_t raw)
{
	switch (d->unit) {
	case METRIC_UNIT_NS:
		return (double)raw / 1e9;
	case METRIC_UNIT_SINCE:
		return sample_age(s, raw);
	default:
		return d->kind == METRIC_KIND_GAUGE ? (double)(int64_t)raw : (double)raw;
	}
}

static void append_value(struct builder *b, const struct metric_desc *d, const char *pool,
	uint64_t raw, uint64_t raw_before)
{
	char name[256];
	struct series *s;

	make_name(name, d->name, "", d->label, pool, NULL);
	s = append(b, name);
	if (s == NULL) {
		return;
	}
	s->family = d->name;
	s->help = d->help;
	s->value = scaled(b->now, d, raw);
	s->counter = d->kind == METRIC_KIND_COUNTER;
	s->whole = d->unit != METRIC_UNIT_NS && d->unit != METRIC_UNIT_SINCE;
	s->unit = d->unit == METRIC_UNIT_BYTES ? "bytes" : s->whole ? "" : "seconds";
	if (s->counter && b->seconds > 0 && raw >= raw_before) {
		s->rate = scaled(b->now, d, raw - raw_before) / b->seconds;
	}
}

static void append_quantile(struct builder *b, const struct metric_desc *d, const char *pool,
	const char *suffix, const char *extra, double value, bool count)
{
	char name[256];
	struct series *s;

	make_name(name, d->name, suffix, d->label, pool, extra);
	s = append(b, name);
	if (s == NULL) {
		return;
	}
	s->family = d->name;
	s->help = d->help;
	s->value = value;
	s->whole = count;
	s->unit = count ? "" : "seconds";
}

static void append_histogram(struct builder *b, const struct metric_desc *d, unsigned pool)
{
	static const struct {
		double q;
		const char *label;
	} quantiles[] = {
		{0.5, "quantile=\"0.5\""},
		{0.95, "quantile=\"0.95\""},
		{0.99, "quantile=\"0.99\""},
		{0.999, "quantile=\"0.999\""},
	};
	struct histogram_copy *h = &b->now->hist[pool * b->now->hist_per_pool + d->index];
	const char *name = b->now->pools[pool].info.name;

	if (h->bucket == NULL) {
		return;
	}
	for (unsigned i = 0; i < array_size(quantiles); i++) {
		append_quantile(b, d, name, "", quantiles[i].label,
			(double)histogram_quantile(h, quantiles[i].q) / 1e9, false);
	}
	append_quantile(b, d, name, "_max", NULL, (double)h->max_ns / 1e9, false);
	append_quantile(b, d, name, "_sum", NULL, (double)h->sum_ns / 1e9, false);
	append_quantile(b, d, name, "_count", NULL, (double)h->count, true);
}

static void append_pool(struct builder *b, unsigned pool)
{
	const struct sample *s = b->now;
	size_t base = (size_t)pool * s->pool_words;

	for (unsigned i = 0; i < s->ndesc; i++) {
		const struct metric_desc *d = &s->desc[i];

		if (d->scope != METRIC_SCOPE_POOL) {
			continue;
		}
		if (d->kind == METRIC_KIND_HISTOGRAM && d->index < s->hist_per_pool) {
			append_histogram(b, d, pool);
		} else if (d->kind != METRIC_KIND_HISTOGRAM && d->index < s->pool_words) {
			append_value(b, d, s->pools[pool].info.name,
				s->pool_values[base + d->index],
				b->before != NULL ? b->before->pool_values[base + d->index] : 0);
		}
	}
}

static void append_broker(struct builder *b)
{
	const struct sample *s = b->now;

	append_own(b, "broker_up", "1 while the broker's process runs, stopped or not",
		s->life != READER_DEAD, true);
	append_own(b, "broker_uptime_seconds",
		"Time since the broker started, or from start to death", (double)s->uptime_ns / 1e9,
		false);
	append_own(b, "broker_heartbeat_age_seconds",
		"Time since the broker's loop last showed that it turns",
		(double)s->beat_age_ns / 1e9, false);
	for (unsigned i = 0; i < s->ndesc; i++) {
		const struct metric_desc *d = &s->desc[i];

		if (d->scope == METRIC_SCOPE_BROKER && d->kind != METRIC_KIND_HISTOGRAM &&
			d->index < s->nvalues) {
			append_value(b, d, NULL, s->values[d->index],
				b->before != NULL ? b->before->values[d->index] : 0);
		}
	}
}

int series_make(struct sample *now, const struct sample *before, const struct name_filter *filter,
	struct series_list *out)
{
	struct builder b = {.now = now, .filter = filter, .out = out};

	*out = (struct series_list){0};
	b.seconds = (double)now->uptime_ns / 1e9;
	if (series_interval(now, before)) {
		b.before = before;
		b.seconds = (double)(now->mono_ns - before->mono_ns) / 1e9;
		for (unsigned i = 0; i < now->nhist; i++) {
			histogram_subtract(&now->hist[i], &before->hist[i]);
		}
	}
	append_broker(&b);
	for (unsigned i = 0; i < now->npools; i++) {
		if (now->pools[i].used) {
			append_pool(&b, i);
		}
	}
	if (b.failed) {
		series_free(out);
		return -ENOMEM;
	}
	return 0;
}

void series_free(struct series_list *l)
{
	free(l->v);
	*l = (struct series_list){0};
}

static const struct metric_desc *pool_metric(
	const struct sample *s, const char *name, const char *label, bool histogram)
{
	for (unsigned i = 0; i < s->ndesc; i++) {
		const struct metric_desc *d = &s->desc[i];

		if (d->scope == METRIC_SCOPE_POOL &&
			(d->kind == METRIC_KIND_HISTOGRAM) == histogram &&
			strcmp(d->name, name) == 0 && strcmp(d->label, label) == 0) {
			return d;
		}
	}
	return NULL;
}

uint64_t series_pool_value(
	const struct sample *s, unsigned pool, const char *name, const char *label)
{
	const struct metric_desc *d = pool_metric(s, name, label, false);

	if (d == NULL || d->index >= s->pool_words || pool >= s->npools) {
		return 0;
	}
	return s->pool_values[(size_t)pool * s->pool_words + d->index];
}

uint64_t series_pool_since(
	const struct sample *s, unsigned pool, const char *name, const char *label)
{
	uint64_t stamp = series_pool_value(s, pool, name, label);

	return stamp != 0 && stamp < s->mono_ns ? s->mono_ns - stamp : 0;
}

const struct histogram_copy *series_pool_histogram(
	const struct sample *s, unsigned pool, const char *name)
{
	const struct metric_desc *d = pool_metric(s, name, "", true);

	if (d == NULL || d->index >= s->hist_per_pool || pool >= s->npools) {
		return NULL;
	}
	return &s->hist[pool * s->hist_per_pool + d->index];
}
