/* SPDX-License-Identifier: MIT */
/* live_data.c - see live_data.h: from sample to sample. */
#include "live_data.h"

#include "text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FINISHED "broker_statements_finished_total"
#define FAILED "broker_statements_failed_total"

static void drop_texts(struct live_texts *t)
{
	free(t->slow);
	free(t->samples);
	free(t->shapes);
	*t = (struct live_texts){.nslow = -ENOENT, .nsamples = -ENOENT, .nshapes = -ENOENT};
}

static void read_texts(struct live_data *d, struct reader *r)
{
	struct live_texts *t = &d->texts;
	uint64_t lost;

	drop_texts(t);
	if (d->no_texts) {
		t->nslow = t->nsamples = t->nshapes = -EACCES;
		return;
	}
	t->nslow = reader_slow(r, 0, &t->slow, &lost);
	t->nsamples = reader_samples(r, 0, &t->samples, &lost);
	t->nshapes = reader_shapes(r, &t->shapes);
}

/* Growth per second of a pool's counter since the sample before, or since the start. */
static double rate_of(const struct live_data *d, unsigned pool, const char *name)
{
	const struct sample *now = d->now, *before = d->interval ? d->before : NULL;
	uint64_t b = series_pool_value(now, pool, name, "");
	uint64_t a = before != NULL ? series_pool_value(before, pool, name, "") : 0;
	double seconds = before != NULL ? (double)(now->mono_ns - before->mono_ns) / 1e9
					: (double)now->uptime_ns / 1e9;

	return seconds > 0 && b >= a ? (double)(b - a) / seconds : 0;
}

static double quantile_of(const struct sample *s, unsigned pool, const char *name, double q)
{
	const struct histogram_copy *h = series_pool_histogram(s, pool, name);

	if (h == NULL || h->bucket == NULL || h->count == 0) {
		return -1;
	}
	return (double)histogram_quantile(h, q) / 1e9;
}

static void step_pool(struct live_data *d, unsigned i)
{
	struct live_pool *p = &d->pools[i];
	const char *name = d->now->pools[i].info.name;

	if (strcmp(p->name, name) != 0) {
		*p = (struct live_pool){0};
		snprintf(p->name, sizeof(p->name), "%s", name);
	}
	p->errors = rate_of(d, i, FAILED);
	p->statements = rate_of(d, i, FINISHED) + p->errors;
	p->rows = rate_of(d, i, "broker_rows_total");
	d->all.statements += p->statements;
	d->all.errors += p->errors;
	d->all.rows += p->rows;
	if (d->interval) {
		trail_add(&p->trail[TRAIL_STATEMENTS], p->statements);
		trail_add(&p->trail[TRAIL_ERRORS], p->errors);
		trail_add(&p->trail[TRAIL_WAITING],
			(double)series_pool_value(d->now, i, "broker_pool_pending", ""));
		trail_add(&p->trail[TRAIL_WAIT_P99],
			quantile_of(d->now, i, "broker_acquire_seconds", 0.99));
		trail_add(&p->trail[TRAIL_RUN_P99],
			quantile_of(d->now, i, "broker_query_seconds", 0.99));
	}
}

static int step_pools(struct live_data *d)
{
	double waiting = 0;

	if (d->npools != d->now->npools) {
		free(d->pools);
		d->npools = 0;
		d->pools = calloc(d->now->npools + 1u, sizeof(*d->pools));
		if (d->pools == NULL) {
			return -ENOMEM;
		}
		d->npools = d->now->npools;
	}
	d->all.statements = d->all.errors = d->all.rows = 0;
	for (unsigned i = 0; i < d->npools; i++) {
		if (d->now->pools[i].used) {
			step_pool(d, i);
			waiting += (double)series_pool_value(d->now, i, "broker_pool_pending", "");
		}
	}
	if (d->interval) {
		trail_add(&d->all.trail[TRAIL_STATEMENTS], d->all.statements);
		trail_add(&d->all.trail[TRAIL_ERRORS], d->all.errors);
		trail_add(&d->all.trail[TRAIL_WAITING], waiting);
	}
	return 0;
}

void live_data_reset(struct live_data *d)
{
	sample_free(&d->now);
	sample_free(&d->before);
	series_free(&d->series);
	averages_free(&d->averages);
	drop_texts(&d->texts);
	free(d->pools);
	*d = (struct live_data){.no_texts = d->no_texts, .only = d->only, .texts = d->texts};
}

/* d->now is new, d->before the one before. */
static int digest(struct live_data *d)
{
	int err;

	series_free(&d->series);
	d->interval = series_interval(d->now, d->before);
	err = series_make(d->now, d->before, NULL, &d->series);
	if (err == 0) {
		err = averages_add(&d->averages, &d->series, d->interval);
	}
	return err < 0 ? err : step_pools(d);
}

int live_data_step(struct live_data *d, struct reader *r)
{
	struct sample *now, *whole;
	int err;

	(void)reader_follow(r);
	err = reader_sample(r, &now);
	if (err < 0) {
		return err;
	}
	if (d->now != NULL &&
		(now->pid != d->now->pid || now->broker_start_ns != d->now->broker_start_ns)) {
		live_data_reset(d); /* another broker, which counts anew */
	}
	err = reader_sample(r, &whole); /* the other one's histograms become the interval's */
	if (err < 0) {
		sample_free(&now);
		return err;
	}
	sample_free(&d->now);
	d->now = now;
	err = digest(d);
	sample_free(&d->before);
	d->before = whole;
	read_texts(d, r);
	return err;
}
