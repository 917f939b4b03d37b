/* SPDX-License-Identifier: MIT */
/* bench_stats.c - see bench_stats.h. */
#include "bench_stats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void merge(struct histogram *into, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		bump(&into->bucket[i], get(&from->bucket[i]));
	}
	bump(&into->sum_ns, get(&from->sum_ns));
	if (get(&from->max_ns) > get(&into->max_ns)) {
		put(&into->max_ns, get(&from->max_ns));
	}
}

static int merge_all(struct bench_result *out, const struct bench_record *records, unsigned n)
{
	struct histogram *sum = calloc(2, sizeof(*sum));
	int rc;

	if (sum == NULL) {
		return -ENOMEM;
	}
	histogram_init(&sum[0]);
	histogram_init(&sum[1]);
	for (unsigned i = 0; i < n; i++) {
		merge(&sum[0], &records[i].times);
		merge(&sum[1], &records[i].slow);
	}
	rc = histogram_copy_init(&out->times, &sum[0], sizeof(sum[0]));
	if (rc == 0) {
		rc = histogram_copy_init(&out->slow_times, &sum[1], sizeof(sum[1]));
	}
	free(sum);
	return rc;
}

int bench_result_init(struct bench_result *out, const struct bench_plan *p,
	const struct bench_record *records, unsigned n, double seconds)
{
	struct bench_use *use = &out->use[BENCH_WORKERS];

	memset(out, 0, sizeof(*out));
	out->plan = p;
	out->seconds = seconds;
	out->others = -1;
	if (merge_all(out, records, n) < 0) {
		bench_result_finish(out);
		return -ENOMEM;
	}
	out->operations = out->times.count + out->slow_times.count;
	out->slow = out->slow_times.count;
	out->known[BENCH_WORKERS] = true;
	use->processes = n;
	for (unsigned i = 0; i < n; i++) {
		use->cpu_ns += records[i].cpu_ns;
		use->switches += records[i].switches;
		out->errors += records[i].errors;
		out->gave_up += records[i].gave_up;
		if (out->error[0] == '\0') {
			memcpy(out->error, records[i].error, sizeof(out->error));
		}
	}
	return 0;
}

void bench_result_finish(struct bench_result *r)
{
	histogram_copy_finish(&r->times);
	histogram_copy_finish(&r->slow_times);
	free(r->metrics);
	r->metrics = NULL;
	r->nmetrics = 0;
}

static uint64_t growth(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0; /* processes may have ended */
}

void bench_use_subtract(struct bench_use *now, const struct bench_use *before)
{
	now->cpu_ns = growth(now->cpu_ns, before->cpu_ns);
	now->switches = growth(now->switches, before->switches);
}

uint64_t bench_statements(const struct bench_result *r)
{
	return r->operations * r->plan->workload->statements(r->plan);
}

double bench_rate(const struct bench_result *r)
{
	return r->seconds > 0 ? (double)bench_statements(r) / r->seconds : 0;
}

static double per_statement(const struct bench_result *r, double v)
{
	uint64_t n = bench_statements(r);

	return n > 0 ? v / (double)n : 0;
}

double bench_cpu_per_thousand(const struct bench_result *r, enum bench_part part)
{
	double ns = 0;

	for (unsigned i = 0; i < BENCH_PARTS; i++) {
		if (part == i || part == BENCH_PARTS) {
			ns += (double)r->use[i].cpu_ns;
		}
	}
	return per_statement(r, ns) / 1e6;
}

double bench_switches(const struct bench_result *r, enum bench_part part)
{
	double n = 0;

	for (unsigned i = 0; i < BENCH_PARTS; i++) {
		if (part == i || part == BENCH_PARTS) {
			n += (double)r->use[i].switches;
		}
	}
	return per_statement(r, n);
}

/* The name, or the name with labels behind it. */
static bool same_metric(const char *full, const char *name)
{
	size_t len = strlen(name);

	return strncmp(full, name, len) == 0 && (full[len] == '\0' || full[len] == '{');
}

double bench_metric(const struct bench_result *r, const char *name)
{
	double sum = 0;
	bool found = false;

	for (unsigned i = 0; i < r->nmetrics; i++) {
		if (same_metric(r->metrics[i].name, name)) {
			sum += r->metrics[i].delta;
			found = true;
		}
	}
	return found ? sum : -1;
}
