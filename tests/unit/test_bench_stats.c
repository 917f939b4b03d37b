/* SPDX-License-Identifier: MIT */
/* test_bench_stats.c - the arithmetic of brokerbench, on records made by hand. */
#include "bench_sql.h"
#include "bench_stats.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)

static struct bench_plan plan = {.page = 20};

static struct bench_record *new_records(unsigned n)
{
	struct bench_record *rec = calloc(n, sizeof(*rec));

	if (rec == NULL) {
		bail_out("out of memory");
	}
	for (unsigned i = 0; i < n; i++) {
		histogram_init(&rec[i].times);
		histogram_init(&rec[i].slow);
	}
	return rec;
}

/* Histograms are exact to 0.8 %. */
static bool near(double got, double want)
{
	return got >= want * 0.992 && got <= want * 1.008;
}

static bool near_ns(const struct histogram_copy *h, double q, double want)
{
	uint64_t got = histogram_quantile(h, q);

	if (!near((double)got, want)) {
		diag("quantile %g is %llu, want %g", q, (unsigned long long)got, want);
		return false;
	}
	return true;
}

/* 1 us to 1000 us, one of each, spread over four workers by turns. */
static void check_merge(void)
{
	struct bench_record *rec = new_records(4);
	struct bench_result r;

	plan.workload = bench_workload_find("point");
	for (unsigned i = 1; i <= 1000; i++) {
		histogram_record(&rec[i % 4].times, i * US);
	}
	is_int(bench_result_init(&r, &plan, rec, 4, 0.5), 0,
		"records of four workers are added up");
	is_int((int64_t)r.operations, 1000, "every operation is counted once");
	is_int((int64_t)r.slow, 0, "none was slow");
	ok(near_ns(&r.times, 0.5, 500e3), "p50 of 1 to 1000 us is 500 us");
	ok(near_ns(&r.times, 0.9, 900e3), "p90 is 900 us");
	ok(near_ns(&r.times, 0.99, 990e3), "p99 is 990 us");
	ok(near_ns(&r.times, 0.999, 999e3), "p99.9 is 999 us");
	is_int((int64_t)r.times.max_ns, 1000 * (int64_t)US, "the longest is kept exactly");
	ok(near((double)histogram_mean(&r.times), 500.5e3), "so is the mean");
	ok(near(bench_rate(&r), 2000), "1000 in half a second are 2000 a second");
	bench_result_finish(&r);
	free(rec);
}

static void check_slow_apart(void)
{
	struct bench_record *rec = new_records(2);
	struct bench_result r;

	plan.workload = bench_workload_find("mix");
	for (unsigned i = 0; i < 99; i++) {
		histogram_record(&rec[0].times, 100 * US);
	}
	histogram_record(&rec[1].slow, 200 * MS);
	is_int(bench_result_init(&r, &plan, rec, 2, 1), 0, "a mix is added up");
	is_int((int64_t)r.operations, 100, "slow statements are operations, too");
	is_int((int64_t)r.slow, 1, "and are counted apart");
	ok(near_ns(&r.times, 1, 100e3), "their time is not among the others");
	ok(near_ns(&r.slow_times, 0.5, 200e6), "but kept");
	bench_result_finish(&r);
	free(rec);
}

static void check_use(void)
{
	struct bench_record *rec = new_records(2);
	struct bench_result r;

	plan.workload = bench_workload_find("pages");
	for (unsigned i = 0; i < 100; i++) {
		histogram_record(&rec[i % 2].times, MS);
	}
	rec[0].cpu_ns = 3 * MS;
	rec[1].cpu_ns = 5 * MS;
	rec[1].switches = 400;
	rec[0].errors = 1;
	rec[1].errors = 2;
	rec[1].gave_up = true;
	strcpy(rec[1].error, "no such table");
	is_int(bench_result_init(&r, &plan, rec, 2, 1), 0, "pages are added up");
	is_int((int64_t)bench_statements(&r), 2000, "a page is 20 statements");
	ok(near(bench_cpu_per_thousand(&r, BENCH_WORKERS), 0.004),
		"8 ms for 2000 statements are 4 ms per 1000");
	r.known[BENCH_DATABASE] = true;
	r.use[BENCH_DATABASE].cpu_ns = 20 * MS;
	ok(near(bench_cpu_per_thousand(&r, BENCH_DATABASE), 0.010), "each part by itself");
	ok(near(bench_cpu_per_thousand(&r, BENCH_PARTS), 0.014), "and all together");
	ok(near(bench_switches(&r, BENCH_WORKERS), 0.2), "400 switches are 0.2 per statement");
	is_int((int64_t)r.errors, 3, "errors are added up");
	is_int(r.gave_up, 1, "so are workers that gave up");
	is_str(r.error, "no such table", "one reason is kept");
	bench_result_finish(&r);
	free(rec);
}

static void check_nothing(void)
{
	struct bench_record *rec = new_records(1);
	struct bench_result r;

	plan.workload = bench_workload_find("point");
	is_int(bench_result_init(&r, &plan, rec, 1, 1), 0, "a run in which nothing ended");
	ok(bench_rate(&r) == 0 && bench_cpu_per_thousand(&r, BENCH_PARTS) == 0 &&
			bench_switches(&r, BENCH_PARTS) == 0,
		"has rates of 0, not of infinity");
	is_int((int64_t)histogram_quantile(&r.times, 0.99), 0, "and times of 0");
	ok(bench_metric(&r, "broker_flushes_total") < 0, "a metric nobody counted is not 0");
	bench_result_finish(&r);
	free(rec);
}

static void check_growth(void)
{
	struct bench_use before = {.cpu_ns = 100, .switches = 10, .pss_kib = 7, .processes = 9};
	struct bench_use now = {.cpu_ns = 250, .switches = 4, .pss_kib = 5, .processes = 2};

	bench_use_subtract(&now, &before);
	is_int((int64_t)now.cpu_ns, 150, "CPU time is what was used between two looks");
	is_int((int64_t)now.switches, 0, "what fell, since a process ended, does not wrap around");
	is_int((int64_t)now.pss_kib, 5, "memory is that of the second look");
}

static void check_metrics(void)
{
	struct bench_metric m[] = {
		{"broker_flushes_total{pool=\"a\"}", 3},
		{"broker_flushes_total{pool=\"b\"}", 4},
		{"broker_flushes_total_other", 100},
		{"broker_wakes_sent_total", 5},
	};
	struct bench_result r = {.metrics = m, .nmetrics = 4};

	ok(bench_metric(&r, "broker_flushes_total") == 7, "a metric is added up over the pools");
	ok(bench_metric(&r, "broker_wakes_sent_total") == 5, "one without pools is itself");
	ok(bench_metric(&r, "broker_flushes") < 0, "half a name is no name");
}

static void check_literal(void)
{
	const int64_t args[] = {-5, 70};
	char buf[64];

	is_int(bench_literal(buf, sizeof(buf), "SET a = a + $1 WHERE b = $2", args, 2), 27,
		"values are written into the text");
	is_str(buf, "SET a = a + -5 WHERE b = 70", "where the placeholders stood");
	is_int(bench_literal(buf, 8, "SELECT $1", args, 2), -1, "not beyond the buffer");
	is_int(bench_literal(buf, sizeof(buf), "SELECT $3", args, 2), -1,
		"not a value there is not");
	is_int(bench_literal(buf, sizeof(buf), "SELECT '$'", args, 2), 10, "a lone $ is a $");
}

static void check_workloads(void)
{
	unsigned n = 0;

	while (bench_workload_at(n) != NULL) {
		const struct bench_workload *w = bench_workload_at(n++);

		plan.workload = w;
		ok(bench_workload_find(w->name) == w && w->statements(&plan) > 0, "workload %s",
			w->name);
	}
	ok(n >= 11, "there are %u workloads", n);
	ok(bench_workload_find("no such thing") == NULL, "and no others");
}

int main(void)
{
	check_merge();
	check_slow_apart();
	check_use();
	check_nothing();
	check_growth();
	check_metrics();
	check_literal();
	check_workloads();
	return done_testing();
}
