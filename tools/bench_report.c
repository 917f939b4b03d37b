/* SPDX-License-Identifier: MIT */
/* bench_report.c - see bench_report.h. */
#include "bench_report.h"

#include "text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {
	[BENCH_BROKER] = "broker", [BENCH_LIBPQ] = "libpq", [BENCH_SQLITE] = "sqlite"};
static const char *const protocol_names[] = {
	[BENCH_PREPARED] = "prepared", [BENCH_EXTENDED] = "extended", [BENCH_SIMPLE] = "simple"};
static const char *const part_names[BENCH_PARTS] = {
	[BENCH_WORKERS] = "workers", [BENCH_MIDDLE] = "middle", [BENCH_DATABASE] = "database"};

const char *bench_kind_name(enum bench_kind k)
{
	return kind_names[k];
}

const char *bench_protocol_name(enum bench_protocol p)
{
	return protocol_names[p];
}

static double seconds_at(const struct histogram_copy *h, double q)
{
	return (double)histogram_quantile(h, q) / 1e9;
}

/* -- table ----------------------------------------------------------------------------------------
 */

struct bench_table {
	struct text_table *text;
};

struct bench_table *bench_table_create(void)
{
	struct bench_table *t = calloc(1, sizeof(*t));

	if (t != NULL) {
		t->text = text_table_create(
			"target workload >workers >stmt/s >p50 >p90 >p99 >p99.9 >max >ms/1000 "
			">=workers >+middle >+database >switches >backends >db_MB >errors");
		if (t->text == NULL) {
			bench_table_free(&t);
		}
	}
	return t;
}

static void cell_time(struct bench_table *t, double seconds)
{
	char buf[32];

	text_table_cell(t->text, "%s", text_duration(buf, sizeof(buf), seconds));
}

/* CPU milliseconds for 1,000 statements. */
static void cell_cpu(struct bench_table *t, const struct bench_result *r, enum bench_part part)
{
	if (part != BENCH_PARTS && !r->known[part]) {
		text_table_cell(t->text, "-");
	} else {
		text_table_cell(t->text, "%.1f", bench_cpu_per_thousand(r, part) * 1000);
	}
}

static void cell_target(struct bench_table *t, const struct bench_result *r)
{
	bool proxy = r->plan->target.kind == BENCH_LIBPQ && r->middle[0] != '\0';

	text_table_cell(t->text, "%s", proxy ? r->middle : bench_kind_name(r->plan->target.kind));
}

void bench_table_add(struct bench_table *t, const struct bench_result *r)
{
	static const double quantiles[] = {0.5, 0.9, 0.99, 0.999};
	const struct bench_use *db = &r->use[BENCH_DATABASE];
	char buf[32];

	cell_target(t, r);
	text_table_cell(t->text, "%s", r->plan->workload->name);
	text_table_cell(t->text, "%u", r->plan->workers);
	text_table_cell(t->text, "%s", text_number(buf, sizeof(buf), bench_rate(r)));
	for (size_t i = 0; i < array_size(quantiles); i++) {
		cell_time(t, seconds_at(&r->times, quantiles[i]));
	}
	cell_time(t, (double)r->times.max_ns / 1e9);
	cell_cpu(t, r, BENCH_PARTS);
	for (unsigned i = 0; i < BENCH_PARTS; i++) {
		cell_cpu(t, r, i);
	}
	text_table_cell(t->text, "%.2f", bench_switches(r, BENCH_PARTS));
	text_table_cell(t->text, r->plan->observe != NULL ? "%u" : "-", r->backends);
	text_table_cell(t->text, db->pss_known ? "%.1f" : "-", (double)db->pss_kib / 1024);
	text_table_cell(t->text, "%llu", (unsigned long long)r->errors);
}

int bench_table_print(struct bench_table *t, FILE *f, bool bold)
{
	if (text_table_failed(t->text)) {
		return -ENOMEM;
	}
	text_table_print(t->text, f, bold);
	return 0;
}

void bench_table_free(struct bench_table **tp)
{
	if (*tp != NULL) {
		text_table_free(&(*tp)->text);
		free(*tp);
	}
	*tp = NULL;
}

/* -- JSON -----------------------------------------------------------------------------------------
 */

/* Takes v; without memory for it the object is given up and *o is NULL from then on. */
static void set(json_t **o, const char *key, json_t *v)
{
	if (*o == NULL) {
		json_decref(v);
	} else if (json_object_set_new(*o, key, v) < 0) {
		json_decref(*o);
		*o = NULL;
	}
}

static json_t *text(const char *s)
{
	char clean[1024];

	return json_string(text_utf8(clean, sizeof(clean), s, SIZE_MAX));
}

static json_t *times(const struct histogram_copy *h)
{
	json_t *o = json_object();

	set(&o, "count", json_integer((json_int_t)h->count));
	set(&o, "mean", json_real((double)histogram_mean(h) / 1e9));
	set(&o, "p50", json_real(seconds_at(h, 0.5)));
	set(&o, "p90", json_real(seconds_at(h, 0.9)));
	set(&o, "p99", json_real(seconds_at(h, 0.99)));
	set(&o, "p999", json_real(seconds_at(h, 0.999)));
	set(&o, "max", json_real((double)h->max_ns / 1e9));
	return o;
}

/* value of each part that is known, and of all. */
static json_t *by_part(
	const struct bench_result *r, double (*value)(const struct bench_result *, enum bench_part))
{
	json_t *o = json_object();

	for (unsigned i = 0; i < BENCH_PARTS; i++) {
		set(&o, part_names[i], r->known[i] ? json_real(value(r, i)) : json_null());
	}
	set(&o, "all", json_real(value(r, BENCH_PARTS)));
	return o;
}

static json_t *memory(const struct bench_result *r)
{
	json_t *o = json_object();

	for (unsigned i = 0; i < BENCH_PARTS; i++) {
		set(&o, part_names[i],
			r->use[i].pss_known ? json_integer((json_int_t)r->use[i].pss_kib)
					    : json_null());
	}
	return o;
}

static json_t *metrics(const struct bench_result *r)
{
	json_t *o = json_object();

	for (unsigned i = 0; i < r->nmetrics; i++) {
		set(&o, r->metrics[i].name, json_real(r->metrics[i].delta));
	}
	return o;
}

static void set_plan(json_t **o, const struct bench_plan *p)
{
	set(o, "target", json_string(bench_kind_name(p->target.kind)));
	set(o, "protocol",
		p->target.kind == BENCH_LIBPQ ? json_string(bench_protocol_name(p->target.protocol))
					      : json_null());
	set(o, "database", json_string(p->sqlite ? "sqlite" : "postgresql"));
	set(o, "workload", json_string(p->workload->name));
	set(o, "workers", json_integer(p->workers));
	set(o, "scale", json_integer(p->scale));
	set(o, "page", json_integer(p->page));
	set(o, "rows", json_integer(p->rows));
	set(o, "declared", json_boolean(p->target.declare));
}

json_t *bench_json(const struct bench_result *r)
{
	json_t *o = json_object();

	set_plan(&o, r->plan);
	set(&o, "middle", r->middle[0] != '\0' ? text(r->middle) : json_null());
	set(&o, "seconds", json_real(r->seconds));
	set(&o, "operations", json_integer((json_int_t)r->operations));
	set(&o, "statements", json_integer((json_int_t)bench_statements(r)));
	set(&o, "rate", json_real(bench_rate(r)));
	set(&o, "latency", times(&r->times));
	set(&o, "slow", times(&r->slow_times));
	set(&o, "cpu_per_1000", by_part(r, bench_cpu_per_thousand));
	set(&o, "switches_per_statement", by_part(r, bench_switches));
	set(&o, "pss_kib", memory(r));
	set(&o, "backends", r->plan->observe != NULL ? json_integer(r->backends) : json_null());
	set(&o, "open_seconds", json_real(r->open_seconds));
	set(&o, "others_cpus", r->others >= 0 ? json_real(r->others) : json_null());
	set(&o, "errors", json_integer((json_int_t)r->errors));
	set(&o, "error", r->error[0] != '\0' ? text(r->error) : json_null());
	set(&o, "workers_gave_up", json_integer(r->gave_up));
	set(&o, "metrics", metrics(r));
	return o;
}
