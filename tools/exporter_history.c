/* SPDX-License-Identifier: MIT */
/* exporter_history.c - see exporter_history.h. */
#include "exporter_history.h"

#include "series.h"
#include "text.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum kind { RATE, GAUGE, QUANTILE };

static const struct {
	const char *key;
	enum kind kind;
	const char *metric, *label;
	double q;
} fields[] = {
#define HISTORY_RATE(id, key, metric) {key, RATE, metric, "", 0},
#define HISTORY_GAUGE(id, key, metric, label) {key, GAUGE, metric, label, 0},
#define HISTORY_QUANTILE(id, key, metric, q) {key, QUANTILE, metric, "", q},
#include "exporter_history.def"
#undef HISTORY_RATE
#undef HISTORY_GAUGE
#undef HISTORY_QUANTILE
};

#define NFIELDS array_size(fields)

/* One pool, or all of them. */
struct track {
	char name[BOARD_NAME_MAX];
	float value[NFIELDS][HISTORY_SECONDS];
};

struct history {
	uint64_t points; /* added so far; point n stands at n % HISTORY_SECONDS */
	double time[HISTORY_SECONDS];
	struct track *all;
	struct track *pools[HISTORY_POOLS_MAX]; /* the first npools are there */
	unsigned npools;
};

static struct track *track_create(const char *name)
{
	struct track *t = malloc(sizeof(*t));

	if (t == NULL) {
		return NULL;
	}
	snprintf(t->name, sizeof(t->name), "%s", name);
	for (unsigned f = 0; f < NFIELDS; f++) {
		for (unsigned i = 0; i < HISTORY_SECONDS; i++) {
			t->value[f][i] = NAN;
		}
	}
	return t;
}

struct history *history_create(void)
{
	struct history *h = calloc(1, sizeof(*h));

	if (h != NULL) {
		h->all = track_create("");
		if (h->all == NULL) {
			history_destroy(&h);
		}
	}
	return h;
}

void history_destroy(struct history **hp)
{
	struct history *h = *hp;

	if (h == NULL) {
		return;
	}
	free(h->all);
	for (unsigned i = 0; i < h->npools; i++) {
		free(h->pools[i]);
	}
	free(h);
	*hp = NULL;
}

static struct track *find_track(const struct history *h, const char *name)
{
	for (unsigned i = 0; i < h->npools; i++) {
		if (strcmp(h->pools[i]->name, name) == 0) {
			return h->pools[i];
		}
	}
	return NULL;
}

/* The track of a pool, made if there is room for it. */
static struct track *track_of(struct history *h, const char *name)
{
	struct track *t = find_track(h, name);

	if (t == NULL && h->npools < HISTORY_POOLS_MAX) {
		t = track_create(name);
		if (t != NULL) {
			h->pools[h->npools++] = t;
		}
	}
	return t;
}

/* ------------------------------------------------------------------------------------------------
 * One second
 */

struct second {
	const struct sample *now, *before; /* before NULL: no interval */
	double seconds;
	unsigned at;
};

/* What a histogram grew by.  False: there is nothing to see; *out is empty. */
static bool growth(
	const struct second *s, unsigned pool, const char *name, struct histogram_copy *out)
{
	const struct histogram_copy *now = series_pool_histogram(s->now, pool, name);
	const struct histogram_copy *before =
		s->before != NULL ? series_pool_histogram(s->before, pool, name) : NULL;

	*out = (struct histogram_copy){0};
	if (now == NULL || now->bucket == NULL || before == NULL) {
		return false;
	}
	*out = *now;
	out->bucket = malloc(now->nbuckets * sizeof(*out->bucket));
	if (out->bucket == NULL) {
		return false;
	}
	memcpy(out->bucket, now->bucket, now->nbuckets * sizeof(*out->bucket));
	histogram_subtract(out, before);
	return true;
}

/* Add to the sum over all pools; an empty sum becomes a copy. */
static void add_up(struct histogram_copy *sum, const struct histogram_copy *h)
{
	if (sum->bucket == NULL) {
		*sum = *h;
		sum->bucket = malloc(h->nbuckets * sizeof(*sum->bucket));
		if (sum->bucket != NULL) {
			memcpy(sum->bucket, h->bucket, h->nbuckets * sizeof(*sum->bucket));
		}
		return;
	}
	if (sum->nbuckets != h->nbuckets || sum->sub_bits != h->sub_bits ||
		sum->unit_shift != h->unit_shift) {
		return;
	}
	for (uint32_t i = 0; i < h->nbuckets; i++) {
		sum->bucket[i] += h->bucket[i];
	}
	sum->count += h->count;
	sum->max_ns = h->max_ns > sum->max_ns ? h->max_ns : sum->max_ns;
}

static void put_quantile(
	struct track *t, unsigned field, unsigned at, const struct histogram_copy *h)
{
	if (h->bucket != NULL && h->count != 0) {
		t->value[field][at] = (float)((double)histogram_quantile(h, fields[field].q) / 1e9);
	}
}

/* All quantiles of one histogram: fields from..end-1 have the same metric. */
static void add_quantiles(struct history *h, const struct second *s, unsigned from, unsigned end)
{
	struct histogram_copy sum = {0}, part;

	for (unsigned p = 0; p < s->now->npools; p++) {
		struct track *t;

		if (!s->now->pools[p].used || !growth(s, p, fields[from].metric, &part)) {
			continue;
		}
		t = track_of(h, s->now->pools[p].info.name);
		for (unsigned f = from; f < end && t != NULL; f++) {
			put_quantile(t, f, s->at, &part);
		}
		add_up(&sum, &part);
		histogram_copy_finish(&part);
	}
	for (unsigned f = from; f < end; f++) {
		put_quantile(h->all, f, s->at, &sum);
	}
	histogram_copy_finish(&sum);
}

static float number(const struct second *s, unsigned pool, unsigned f)
{
	uint64_t v = series_pool_value(s->now, pool, fields[f].metric, fields[f].label), old;

	if (fields[f].kind == GAUGE) {
		return (float)(int64_t)v;
	}
	if (s->before == NULL) {
		return NAN;
	}
	old = series_pool_value(s->before, pool, fields[f].metric, fields[f].label);
	return v >= old ? (float)((double)(v - old) / s->seconds) : NAN;
}

static void add_numbers(struct history *h, const struct second *s, unsigned f)
{
	float sum = 0;

	for (unsigned p = 0; p < s->now->npools; p++) {
		struct track *t;
		float v;

		if (!s->now->pools[p].used) {
			continue;
		}
		v = number(s, p, f);
		sum += v;
		t = track_of(h, s->now->pools[p].info.name);
		if (t != NULL) {
			t->value[f][s->at] = v;
		}
	}
	h->all->value[f][s->at] = sum;
}

static void forget(struct history *h, unsigned at)
{
	for (unsigned f = 0; f < NFIELDS; f++) {
		h->all->value[f][at] = NAN;
		for (unsigned p = 0; p < h->npools; p++) {
			h->pools[p]->value[f][at] = NAN;
		}
	}
}

void history_add(
	struct history *h, const struct sample *now, const struct sample *before, uint64_t real_ns)
{
	struct second s = {.now = now, .at = (unsigned)(h->points % HISTORY_SECONDS)};

	forget(h, s.at);
	h->time[s.at] = (double)real_ns / 1e9;
	h->points++;
	if (now == NULL || now->life == READER_DEAD) {
		return;
	}
	if (series_interval(now, before)) {
		s.before = before;
		s.seconds = (double)(now->mono_ns - before->mono_ns) / 1e9;
	}
	for (unsigned f = 0; f < NFIELDS;) {
		unsigned end = f + 1;

		if (fields[f].kind != QUANTILE) {
			add_numbers(h, &s, f);
		} else {
			while (end < NFIELDS && strcmp(fields[end].metric, fields[f].metric) == 0) {
				end++;
			}
			add_quantiles(h, &s, f, end);
		}
		f = end;
	}
}

unsigned history_length(const struct history *h)
{
	return h->points < HISTORY_SECONDS ? (unsigned)h->points : HISTORY_SECONDS;
}

/* ------------------------------------------------------------------------------------------------
 * JSON, written by hand: an hour has seventy thousand numbers
 */

static void write_name(FILE *f, const char *name)
{
	char clean[BOARD_NAME_MAX];
	json_t *s = json_string(text_utf8(clean, sizeof(clean), name, SIZE_MAX));

	if (s == NULL || json_dumpf(s, f, JSON_ENCODE_ANY) < 0) {
		fputs("null", f);
	}
	json_decref(s);
}

static void write_number(FILE *f, float v)
{
	if (isfinite(v)) {
		fprintf(f, "%.5g", (double)v);
	} else {
		fputs("null", f);
	}
}

bool history_write(const struct history *h, FILE *f, const char *pool, unsigned seconds)
{
	const struct track *t = pool == NULL ? h->all : find_track(h, pool);
	unsigned n = history_length(h);
	uint64_t first;

	if (t == NULL) {
		return false;
	}
	n = n < seconds ? n : seconds;
	first = h->points - n;
	fputs("{\"pool\":", f);
	if (pool == NULL) {
		fputs("null", f);
	} else {
		write_name(f, pool);
	}
	fputs(",\"time\":[", f);
	for (unsigned i = 0; i < n; i++) {
		fprintf(f, "%s%.3f", i == 0 ? "" : ",", h->time[(first + i) % HISTORY_SECONDS]);
	}
	fputc(']', f);
	for (unsigned k = 0; k < NFIELDS; k++) {
		fprintf(f, ",\"%s\":[", fields[k].key);
		for (unsigned i = 0; i < n; i++) {
			fputs(i == 0 ? "" : ",", f);
			write_number(f, t->value[k][(first + i) % HISTORY_SECONDS]);
		}
		fputc(']', f);
	}
	fputc('}', f);
	return true;
}

static void write_point(FILE *f, const struct track *t, unsigned at)
{
	for (unsigned k = 0; k < NFIELDS; k++) {
		fprintf(f, "%c\"%s\":", k == 0 ? '{' : ',', fields[k].key);
		write_number(f, t->value[k][at]);
	}
	fputc('}', f);
}

void history_write_latest(const struct history *h, FILE *f)
{
	unsigned at = (unsigned)((h->points - 1) % HISTORY_SECONDS);

	if (h->points == 0) {
		fputs("null", f);
		return;
	}
	fprintf(f, "{\"time\":%.3f,\"all\":", h->time[at]);
	write_point(f, h->all, at);
	fputs(",\"pools\":{", f);
	for (unsigned p = 0; p < h->npools; p++) {
		fputs(p == 0 ? "" : ",", f);
		write_name(f, h->pools[p]->name);
		fputc(':', f);
		write_point(f, h->pools[p], at);
	}
	fputs("}}", f);
}
