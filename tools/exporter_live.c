/* SPDX-License-Identifier: MIT */
/* exporter_live.c - see exporter_live.h. */
#include "exporter_live.h"

#include "brokerstat_json.h"
#include "exporter_json.h"
#include "exporter_ready.h"

#include <errno.h>
#include <stdlib.h>

/* ------------------------------------------------------------------------------------------------
 * The most telling rows of a table
 */

struct ranked {
	uint64_t rank; /* 0: not to be shown */
	unsigned row;
};

static int by_rank(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;

	if (x->rank != y->rank) {
		return x->rank > y->rank ? -1 : 1;
	}
	return x->row < y->row ? -1 : x->row > y->row;
}

/* Workers that hold something first, then those that were busy last. */
static uint64_t worker_rank(const struct sample *s, unsigned row)
{
	const struct board_worker_info *w = &s->workers[row].info;

	if (!s->workers[row].used) {
		return 0;
	}
	return (w->leases != 0 || w->in_flight != 0 ? UINT64_C(1) << 63 : 0) | (w->active_ns + 1);
}

/* What is held longest first: leases, and of the statements outside of them those that take
 * long. */
static uint64_t lease_rank(const struct sample *s, unsigned row)
{
	const struct board_conn_info *c = &s->conns[row].info;
	uint64_t held = conn_held_ns(c);
	bool shown = c->lease_ns != 0 || (held != 0 && sample_age(s, held) >= LIVE_LONG_SECONDS);

	return s->conns[row].used && shown ? UINT64_MAX - held : 0;
}

/* Who holds the connection stands next to it. */
static json_t *lease_object(const struct sample *s, unsigned row)
{
	uint32_t slot = s->conns[row].info.worker_slot;
	json_t *o = json_connection(s, row);

	if (o != NULL && slot < s->nworkers && s->workers[slot].used) {
		json_object_set_new(o, "holder", json_worker(s, slot));
	}
	return o;
}

static json_t *most_telling(const struct sample *s, unsigned rows,
	uint64_t (*rank)(const struct sample *, unsigned),
	json_t *(*object)(const struct sample *, unsigned), unsigned *total)
{
	struct ranked *v = calloc(rows + 1u, sizeof(*v));
	json_t *all = v != NULL ? json_array() : NULL;

	*total = 0;
	if (v == NULL) {
		return NULL;
	}
	for (unsigned i = 0; i < rows; i++) {
		v[*total] = (struct ranked){rank(s, i), i};
		*total += v[*total].rank != 0;
	}
	qsort(v, *total, sizeof(*v), by_rank);
	for (unsigned i = 0; i < *total && i < LIVE_ROWS; i++) {
		if (json_array_append_new(all, object(s, v[i].row)) < 0) {
			break; /* out of memory: shorter than it might be */
		}
	}
	free(v);
	return all;
}

/* ------------------------------------------------------------------------------------------------
 * Documents
 */

/* Pools without their counters, which /metrics has, and with what they serve. */
static json_t *pools(const struct sample *s)
{
	json_t *all = json_pools(s), *o;
	struct readiness ready;
	size_t next = 0;

	for (unsigned row = 0; row < s->npools; row++) {
		if (s->pools[row].used) {
			o = json_array_get(all, next++);
			ready = pool_readiness(s, row);
			json_object_del(o, "metrics");
			json_object_set_new(o, "writable", json_boolean(ready.writable));
			json_object_set_new(o, "readable", json_boolean(ready.readable));
			json_object_set_new(o, "degraded", json_boolean(ready.degraded));
		}
	}
	return all;
}

static uint64_t newest_events(const struct sample *s)
{
	return s->nevents > LIVE_ROWS ? s->events[s->nevents - LIVE_ROWS - 1].number : 0;
}

static const char *why_no_slow(int err)
{
	return err == -EACCES || err == -EPERM
		       ? "this process may not read them, or was told not to show them"
		       : "there is no slow-query segment";
}

static void set_texts(json_t *root, const struct sample *s, const struct live_texts *t)
{
	unsigned skip;

	if (t->nslow < 0) {
		json_object_set_new(root, "why_no_slow", json_string(why_no_slow(t->nslow)));
		return;
	}
	skip = t->nslow > (int)LIVE_SLOW ? (unsigned)t->nslow - LIVE_SLOW : 0;
	json_object_set_new(
		root, "slow", json_slow_list(s, t->slow + skip, (unsigned)t->nslow - skip));
	if (t->nshapes > 0) { /* older brokers keep none: the page makes do with the slow ones */
		unsigned all = (unsigned)t->nshapes;

		json_object_set_new(root, "statements",
			json_statements(s, t->shapes, all < LIVE_SHAPES ? all : LIVE_SHAPES, all));
	}
}

static json_t *tables(const struct sample *s, const struct live_texts *texts)
{
	unsigned nworkers, nleases;
	json_t *workers = most_telling(s, s->nworkers, worker_rank, json_worker, &nworkers);
	json_t *leases = most_telling(s, s->nconns, lease_rank, lease_object, &nleases);
	json_t *root = json_pack("{sosososososisosi}", "broker", json_broker(s), "pools", pools(s),
		"servers", json_servers(s), "events", json_events(s, newest_events(s)), "workers",
		workers, "nworkers", (int)nworkers, "leases", leases, "nleases", (int)nleases);

	set_texts(root, s, texts);
	return root;
}

/* root as JSON with the member "point"; it is consumed. */
static bool write_with_point(FILE *f, json_t *root, const struct history *h)
{
	char *text = root == NULL ? NULL
				  : json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER |
							     JSON_REAL_PRECISION(15));
	bool done = text != NULL;

	json_decref(root);
	if (done) {
		fprintf(f, "{\"point\":");
		history_write_latest(h, f);
		fprintf(f, ",%s", text + 1); /* an object with members */
	}
	free(text);
	return done;
}

/* What was written, or NULL if it is not whole. */
static char *finish(FILE *f, bool whole, char **text)
{
	if (fclose(f) != 0 || !whole) {
		free(*text);
		return NULL;
	}
	return *text;
}

char *live_message(const struct sample *s, const struct history *h, const struct live_texts *texts,
	size_t *len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, len);
	bool whole;

	if (f == NULL) {
		return NULL;
	}
	fputs("data: ", f);
	whole = write_with_point(f, s != NULL ? tables(s, texts) : json_pack("{sn}", "broker"), h);
	fputs("\n\n", f);
	return finish(f, whole, &text);
}

static json_t *overview(const struct sample *s)
{
	bool ready;
	json_t *root = document_ready(s, NULL, true, &ready);

	json_object_set_new(root, "broker", s != NULL ? json_broker(s) : json_null());
	return root;
}

char *live_overview(const struct sample *s, const struct history *h, size_t *len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, len);
	bool whole;

	if (f == NULL) {
		return NULL;
	}
	whole = write_with_point(f, overview(s), h);
	return finish(f, whole, &text);
}
