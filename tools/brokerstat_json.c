/* SPDX-License-Identifier: MIT */
/*
 * brokerstat_json.c - a sample as one JSON document (jansson), slow statements as JSON lines.
 *
 * Durations and ages are seconds.  Members are only added, never renamed.
 */
#include "brokerstat_json.h"

#include "brokerstat.h"
#include "series.h"
#include "text.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

/* Take ownership of v; a failed allocation anywhere ends up in *failed. */
static void set(json_t *o, const char *key, json_t *v, bool *failed)
{
	if (json_object_set_new(o, key, v) < 0) {
		*failed = true;
	}
}

static json_t *string(const char *s, size_t len)
{
	char clean[4096];

	return json_string(text_utf8(clean, sizeof(clean), s, len));
}

static json_t *integer(uint64_t v)
{
	return json_integer((json_int_t)v);
}

/* Names of rows, or null. */
static json_t *pool_name(const struct sample *s, uint32_t pool)
{
	char buf[16];

	return pool == BOARD_NONE ? json_null() : string(sample_pool_name(s, pool, buf), SIZE_MAX);
}

static json_t *server_name(const struct sample *s, uint32_t server)
{
	char buf[16];

	return server == BOARD_NONE ? json_null()
				    : string(sample_server_name(s, server, buf), SIZE_MAX);
}

static json_t *broker_object(const struct sample *s, bool *failed)
{
	char version[32], when[64];
	json_t *o = json_object();

	snprintf(version, sizeof(version), "%u.%u", s->major, s->minor);
	set(o, "state", json_string(reader_life_name(s->life)), failed);
	set(o, "pid", json_integer(s->pid), failed);
	set(o, "board_version", json_string(version), failed);
	set(o, "uptime_seconds", json_real((double)s->uptime_ns / 1e9), failed);
	set(o, "heartbeat_age_seconds", json_real((double)s->beat_age_ns / 1e9), failed);
	set(o, "time", json_string(text_time(when, sizeof(when), s->real_ns)), failed);
	set(o, "time_seconds", json_real((double)s->real_ns / 1e9), failed);
	set(o, "counters_torn", json_boolean(s->values_torn), failed);
	return o;
}

static json_t *metrics_object(const struct series_list *l, bool *failed)
{
	json_t *all = json_object();

	for (size_t i = 0; i < l->n; i++) {
		const struct series *v = &l->v[i];
		json_t *o = json_object();

		set(o, "value", v->whole ? json_integer((json_int_t)v->value) : json_real(v->value),
			failed);
		if (v->counter) {
			set(o, "rate", json_real(v->rate), failed);
		}
		set(o, "kind", json_string(v->counter ? "counter" : "gauge"), failed);
		set(o, "unit", json_string(v->unit), failed);
		set(o, "description", string(v->help, SIZE_MAX), failed);
		set(all, v->name, o, failed);
	}
	return all;
}

/* A pool's own values by metric name and label, without the pool in the name. */
static json_t *pool_metrics(const struct sample *s, unsigned pool, bool *failed)
{
	json_t *o = json_object();
	char key[160];

	for (unsigned i = 0; i < s->ndesc; i++) {
		const struct metric_desc *d = &s->desc[i];

		if (d->scope != METRIC_SCOPE_POOL || d->kind == METRIC_KIND_HISTOGRAM ||
			d->unit == METRIC_UNIT_SINCE) {
			continue;
		}
		snprintf(
			key, sizeof(key), d->label[0] != '\0' ? "%s{%s}" : "%s", d->name, d->label);
		set(o, key, integer(series_pool_value(s, pool, d->name, d->label)), failed);
	}
	return o;
}

static json_t *histogram_object(const struct histogram_copy *h, bool *failed)
{
	json_t *o = json_object();

	set(o, "count", integer(h->count), failed);
	set(o, "mean", json_real((double)histogram_mean(h) / 1e9), failed);
	set(o, "p50", json_real((double)histogram_quantile(h, 0.5) / 1e9), failed);
	set(o, "p90", json_real((double)histogram_quantile(h, 0.9) / 1e9), failed);
	set(o, "p95", json_real((double)histogram_quantile(h, 0.95) / 1e9), failed);
	set(o, "p99", json_real((double)histogram_quantile(h, 0.99) / 1e9), failed);
	set(o, "p999", json_real((double)histogram_quantile(h, 0.999) / 1e9), failed);
	set(o, "max", json_real((double)h->max_ns / 1e9), failed);
	return o;
}

static json_t *pool_histograms(const struct sample *s, unsigned pool, bool *failed)
{
	json_t *o = json_object();

	for (unsigned i = 0; i < s->ndesc; i++) {
		const struct metric_desc *d = &s->desc[i];
		const struct histogram_copy *h = d->kind != METRIC_KIND_HISTOGRAM
							 ? NULL
							 : series_pool_histogram(s, pool, d->name);

		if (h != NULL && h->bucket != NULL) {
			set(o, d->name, histogram_object(h, failed), failed);
		}
	}
	return o;
}

static json_t *pool_object(const struct sample *s, unsigned i, bool *failed)
{
	const struct board_pool_info *p = &s->pools[i].info;
	uint64_t wait = pool_maxwait_ns(s, i);
	json_t *o = json_object();
	char buf[16];

	set(o, "name", string(p->name, SIZE_MAX), failed);
	set(o, "database", string(p->database, SIZE_MAX), failed);
	set(o, "user", string(p->user, SIZE_MAX), failed);
	for (unsigned c = 0; c < POOL_COLUMNS; c++) {
		set(o, pool_columns[c], integer(pool_column(s, i, c)), failed);
	}
	set(o, "maxwait", integer(wait / 1000000000u), failed);
	set(o, "maxwait_us", integer(wait % 1000000000u / 1000u), failed);
	set(o, "pool_mode", string(p->mode, SIZE_MAX), failed);
	set(o, "state", json_string(pool_state_name(p->state, buf)), failed);
	set(o, "server", server_name(s, p->server), failed);
	set(o, "servers", json_integer(p->nservers), failed);
	set(o, "max_size", json_integer(p->max_size), failed);
	set(o, "min_idle", json_integer(p->min_idle), failed);
	set(o, "torn", json_boolean(s->pools[i].torn), failed);
	set(o, "metrics", pool_metrics(s, i, failed), failed);
	set(o, "histograms", pool_histograms(s, i, failed), failed);
	return o;
}

static json_t *server_object(const struct sample *s, unsigned i, bool *failed)
{
	const struct board_server_info *v = &s->servers[i].info;
	json_t *o = json_object();
	char buf[16];

	set(o, "name", string(v->name, SIZE_MAX), failed);
	set(o, "kind", string(v->kind, SIZE_MAX), failed);
	set(o, "address", string(v->address, SIZE_MAX), failed);
	set(o, "role", json_string(server_role_name(v->role, buf)), failed);
	set(o, "state", json_string(server_state_name(v->state, buf)), failed);
	set(o, "since_seconds", json_real(sample_age(s, v->since_ns)), failed);
	set(o, "probed_seconds", json_real(sample_age(s, v->probed_ns)), failed);
	set(o, "latency_seconds", json_real((double)v->latency_ns / 1e9), failed);
	set(o, "lag_seconds", json_real((double)v->lag_ns / 1e9), failed);
	set(o, "lag_bytes", integer(v->lag_bytes), failed);
	set(o, "connections", json_integer(v->connections), failed);
	set(o, "max_connections", json_integer(v->max_connections), failed);
	set(o, "last_error", string(v->last_error, SIZE_MAX), failed);
	set(o, "torn", json_boolean(s->servers[i].torn), failed);
	return o;
}

/* Number of a shape as everywhere: 16 digits. */
static json_t *fingerprint_or_null(uint64_t fingerprint)
{
	char buf[32];

	snprintf(buf, sizeof(buf), "%016llx", (unsigned long long)fingerprint);
	return fingerprint != 0 ? json_string(buf) : json_null();
}

static json_t *conn_object(const struct sample *s, unsigned i, bool *failed)
{
	const struct board_conn_info *c = &s->conns[i].info;
	json_t *o = json_object();
	char buf[16];

	set(o, "slot", json_integer(i), failed);
	set(o, "generation", integer(c->generation), failed);
	set(o, "pool", pool_name(s, c->pool), failed);
	set(o, "server", server_name(s, c->server), failed);
	set(o, "state", json_string(conn_state_name(c->state, buf)), failed);
	set(o, "state_seconds", json_real(sample_age(s, c->since_ns)), failed);
	set(o, "backend_pid", json_integer(c->backend_pid), failed);
	set(o, "connected_seconds", json_real(sample_age(s, c->connected_ns)), failed);
	set(o, "in_flight", json_integer(c->in_flight), failed);
	set(o, "statements", integer(c->statements), failed);
	set(o, "worker", c->worker_slot == BOARD_NONE ? json_null() : json_integer(c->worker_slot),
		failed);
	set(o, "lease_seconds", json_real(sample_age(s, c->lease_ns)), failed);
	set(o, "held_seconds", json_real(sample_age(s, conn_held_ns(c))), failed);
	set(o, "fingerprint", fingerprint_or_null(c->fingerprint), failed);
	set(o, "running_seconds", json_real(sample_age(s, c->statement_ns)), failed);
	set(o, "torn", json_boolean(s->conns[i].torn), failed);
	return o;
}

static json_t *worker_object(const struct sample *s, unsigned i, bool *failed)
{
	const struct board_worker_info *w = &s->workers[i].info;
	json_t *o = json_object();
	char buf[16];

	set(o, "slot", json_integer(i), failed);
	set(o, "incarnation", integer(w->incarnation), failed);
	set(o, "pid", json_integer(w->pid), failed);
	set(o, "uid", json_integer(w->uid), failed);
	set(o, "name", string(w->name, SIZE_MAX), failed);
	set(o, "tag", string(w->tag, SIZE_MAX), failed);
	set(o, "state", json_string(worker_state_name(w->state, buf)), failed);
	set(o, "pool", pool_name(s, w->pool), failed);
	set(o, "attached_seconds", json_real(sample_age(s, w->attached_ns)), failed);
	set(o, "idle_seconds", json_real(sample_age(s, w->active_ns)), failed);
	set(o, "in_flight", json_integer(w->in_flight), failed);
	set(o, "leases", json_integer(w->leases), failed);
	set(o, "statements", integer(w->statements), failed);
	set(o, "errors", integer(w->errors), failed);
	set(o, "torn", json_boolean(s->workers[i].torn), failed);
	return o;
}

static json_t *event_object(const struct numbered_event *e, bool *failed)
{
	json_t *o = json_object();

	set(o, "number", integer(e->number), failed);
	set(o, "time_seconds", json_real((double)e->slot.when_ns / 1e9), failed);
	set(o, "kind", string(e->slot.name, SIZE_MAX), failed);
	set(o, "text", string(e->slot.text, SIZE_MAX), failed);
	return o;
}

static void append(json_t *array, json_t *v, bool *failed)
{
	if (json_array_append_new(array, v) < 0) {
		*failed = true;
	}
}

/* What a builder made, or NULL if memory ran out on the way. */
static json_t *whole(json_t *v, bool failed)
{
	if (failed) {
		json_decref(v);
		return NULL;
	}
	return v;
}

json_t *json_broker(const struct sample *s)
{
	bool failed = false;
	json_t *o = broker_object(s, &failed);

	return whole(o, failed);
}

json_t *json_pools(const struct sample *s)
{
	json_t *all = json_array();
	bool failed = all == NULL;

	for (unsigned i = 0; i < s->npools; i++) {
		if (s->pools[i].used) {
			append(all, pool_object(s, i, &failed), &failed);
		}
	}
	return whole(all, failed);
}

json_t *json_servers(const struct sample *s)
{
	json_t *all = json_array();
	bool failed = all == NULL;

	for (unsigned i = 0; i < s->nservers; i++) {
		if (s->servers[i].used) {
			append(all, server_object(s, i, &failed), &failed);
		}
	}
	return whole(all, failed);
}

json_t *json_connection(const struct sample *s, unsigned row)
{
	bool failed = false;
	json_t *o = conn_object(s, row, &failed);

	return whole(o, failed);
}

json_t *json_worker(const struct sample *s, unsigned row)
{
	bool failed = false;
	json_t *o = worker_object(s, row, &failed);

	return whole(o, failed);
}

json_t *json_connections(const struct sample *s)
{
	json_t *all = json_array();
	bool failed = all == NULL;

	for (unsigned i = 0; i < s->nconns; i++) {
		if (s->conns[i].used) {
			append(all, conn_object(s, i, &failed), &failed);
		}
	}
	return whole(all, failed);
}

json_t *json_workers(const struct sample *s)
{
	json_t *all = json_array();
	bool failed = all == NULL;

	for (unsigned i = 0; i < s->nworkers; i++) {
		if (s->workers[i].used) {
			append(all, worker_object(s, i, &failed), &failed);
		}
	}
	return whole(all, failed);
}

json_t *json_events(const struct sample *s, uint64_t after)
{
	json_t *all = json_array();
	bool failed = all == NULL;

	for (unsigned i = 0; i < s->nevents; i++) {
		if (s->events[i].number > after) {
			append(all, event_object(&s->events[i], &failed), &failed);
		}
	}
	return whole(all, failed);
}

static int dump(FILE *f, json_t *root, size_t flags, bool failed)
{
	int err = root == NULL || failed ? -ENOMEM : 0;

	if (err == 0 && json_dumpf(root, f, flags) < 0) {
		err = ferror(f) ? 0 : -ENOMEM; /* a closed pipe is the caller's to see */
	}
	json_decref(root);
	fputc('\n', f);
	return err;
}

int json_document(
	FILE *f, struct sample *now, const struct sample *before, const struct stat_options *opt)
{
	struct series_list l;
	bool failed = false;
	json_t *root;

	if (series_make(now, before, &opt->filter, &l) < 0) {
		return -ENOMEM;
	}
	root = json_object();
	set(root, "broker", json_broker(now), &failed);
	set(root, "metrics", metrics_object(&l, &failed), &failed);
	set(root, "pools", json_pools(now), &failed);
	set(root, "servers", json_servers(now), &failed);
	set(root, "connections", json_connections(now), &failed);
	set(root, "workers", json_workers(now), &failed);
	set(root, "events", json_events(now, 0), &failed);
	series_free(&l);
	return dump(
		f, root, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(15), failed);
}

static json_t *slow_object(const struct sample *s, const struct numbered_slow *v, bool *failed)
{
	const struct slow_slot *q = &v->slot;
	json_t *o = json_object();
	char fingerprint[32];

	snprintf(fingerprint, sizeof(fingerprint), "%016llx", (unsigned long long)q->fingerprint);
	set(o, "number", integer(v->number), failed);
	set(o, "time_seconds", json_real((double)q->when_ns / 1e9), failed);
	set(o, "run_seconds", json_real((double)q->run_ns / 1e9), failed);
	set(o, "wait_seconds", json_real((double)q->wait_ns / 1e9), failed);
	set(o, "pool", pool_name(s, q->pool), failed);
	set(o, "server", server_name(s, q->server), failed);
	set(o, "pid", json_integer(q->worker_pid), failed);
	set(o, "tag", string(q->tag, sizeof(q->tag)), failed);
	set(o, "rows", integer(q->rows), failed);
	set(o, "code", json_integer(q->code), failed);
	set(o, "sqlstate", string(q->sqlstate, sizeof(q->sqlstate)), failed);
	set(o, "fingerprint", json_string(fingerprint), failed);
	set(o, "sql", string(q->sql, q->sql_len), failed);
	set(o, "sql_bytes", integer(q->sql_full_len), failed);
	if (q->params_len > 0) { /* only where the broker was told to keep them */
		set(o, "params", string(slowring_params(q), q->params_len), failed);
	}
	set(o, "truncated", json_boolean(q->flags & SLOW_F_TRUNCATED), failed);
	set(o, "sampled", json_boolean(q->flags & SLOW_F_SAMPLED), failed);
	return o;
}

static json_t *shape_tags(const struct shape_row *row, bool *failed)
{
	json_t *tags = json_array();

	for (unsigned i = 0; i < SHAPE_TAGS; i++) {
		const char *tag = shape_tag(row, i);

		if (tag != NULL) {
			append(tags, string(tag, CHAN_TAG_MAX), failed);
		}
	}
	return tags;
}

static void set_times(json_t *o, const struct shape_row *row, double all_ns, bool *failed)
{
	struct histogram_copy h;

	set(o, "total_seconds", json_real((double)row->run.sum_ns / 1e9), failed);
	set(o, "share", json_real(all_ns > 0 ? (double)row->run.sum_ns / all_ns : 0), failed);
	set(o, "max_seconds", json_real((double)row->run.max_ns / 1e9), failed);
	if (histogram_copy_init(
		    &h, (const struct histogram *)(const void *)&row->run, sizeof(row->run)) == 0) {
		set(o, "mean_seconds", json_real((double)histogram_mean(&h) / 1e9), failed);
		set(o, "p50_seconds", json_real((double)histogram_quantile(&h, 0.5) / 1e9), failed);
		set(o, "p95_seconds", json_real((double)histogram_quantile(&h, 0.95) / 1e9),
			failed);
		histogram_copy_finish(&h);
	}
}

static json_t *statement_object(
	const struct sample *s, const struct shape_entry *v, double all_ns, bool *failed)
{
	const struct shape_row *row = &v->row;
	json_t *o = json_object();
	char fingerprint[32];

	snprintf(fingerprint, sizeof(fingerprint), "%016llx", (unsigned long long)row->fingerprint);
	set(o, "fingerprint", json_string(fingerprint), failed);
	set(o, "pool", pool_name(s, row->pool), failed);
	set(o, "calls", integer(row->calls), failed);
	set(o, "errors", integer(row->errors), failed);
	set(o, "rows", integer(row->rows), failed);
	set_times(o, row, all_ns, failed);
	set(o, "wait_seconds", json_real((double)row->wait_ns / 1e9), failed);
	set(o, "counted_seconds", json_real(sample_age(s, row->first_ns)), failed);
	set(o, "last_seconds", json_real(sample_age(s, row->last_ns)), failed);
	set(o, "tags", shape_tags(row, failed), failed);
	set(o, "statement", string(row->text, row->text_len), failed);
	set(o, "truncated", json_boolean(row->flags & SHAPE_F_TRUNCATED), failed);
	set(o, "torn", json_boolean(v->torn), failed);
	return o;
}

json_t *json_statements(
	const struct sample *s, const struct shape_entry *v, unsigned n, unsigned all)
{
	json_t *list = json_array();
	bool failed = list == NULL;
	double all_ns = 0;

	for (unsigned i = 0; i < all; i++) {
		all_ns += (double)v[i].row.run.sum_ns;
	}
	for (unsigned i = 0; i < n; i++) {
		append(list, statement_object(s, &v[i], all_ns, &failed), &failed);
	}
	return whole(list, failed);
}

json_t *json_slow_list(const struct sample *s, const struct numbered_slow *v, unsigned n)
{
	json_t *all = json_array();
	bool failed = all == NULL;

	for (unsigned i = 0; i < n; i++) {
		append(all, slow_object(s, &v[i], &failed), &failed);
	}
	return whole(all, failed);
}

int json_lines(FILE *f, json_t *array)
{
	size_t i;
	json_t *v;
	int err = array == NULL ? -ENOMEM : 0;

	json_array_foreach(array, i, v)
	{
		if (err == 0) {
			err = dump(f, json_incref(v),
				JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(15),
				false);
		}
	}
	json_decref(array);
	return err;
}

int json_slow(FILE *f, const struct sample *s, const struct numbered_slow *v, unsigned n)
{
	return json_lines(f, json_slow_list(s, v, n));
}
