/* SPDX-License-Identifier: MIT */
/*
 * test_exporter_text.c - the texts for Prometheus, from a board whose every number is known and
 * from samples with descriptions that would break the format.
 */
#include "board.h"
#include "exporter_text.h"
#include "segfile.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char dir[] = "/tmp/exporter-XXXXXX";
static char path[sizeof(dir) + 16], slow[sizeof(dir) + 16];

static void fill(struct board *b)
{
	struct timespec ts;

	board_count(b, METRIC_ATTACHES, 12);
	board_count(b, METRIC_LOOP_BUSY, 1500000001);
	board_adjust(b, METRIC_WORKERS_ATTACHED, -3);
	board_pool_row(b, 1,
		&(struct board_pool_info){.name = "a\"b\\c\nd\xff",
			.state = BOARD_POOL_DEGRADED,
			.max_size = 8,
			.server = BOARD_NONE});
	board_pool_count(b, 1, POOL_METRIC_BYTES_TO_WORKERS, UINT64_MAX);
	board_pool_gauge(b, 1, POOL_METRIC_SV_IDLE, 5);
	board_time(b, 1, POOL_HIST_RUN, 0);
	board_time(b, 1, POOL_HIST_RUN, 1023);
	board_time(b, 1, POOL_HIST_RUN, 1024);
	board_time(b, 1, POOL_HIST_RUN, 1048575);
	board_time(b, 1, POOL_HIST_RUN, 1048576);
	board_time(b, 1, POOL_HIST_RUN, UINT64_C(1) << 50); /* counted in the last bucket */
	board_server_row(b, 0,
		&(struct board_server_info){.name = "db1",
			.state = BOARD_SERVER_UP,
			.role = BOARD_ROLE_STANDBY,
			.lag_ns = 250000000,
			.lag_bytes = 4096});
	board_server_row(b, 1, &(struct board_server_info){.name = "db2", .state = 77});
	clock_gettime(CLOCK_MONOTONIC, &ts);
	board_conn_row(b, 3,
		&(struct board_conn_info){.pool = 1,
			.state = BOARD_CONN_LEASED,
			.lease_ns = (uint64_t)(ts.tv_sec - 100) * 1000000000u});
	clock_gettime(CLOCK_BOOTTIME, &ts);
	board_heartbeat(b, (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec);
}

static struct sample *make_sample(void)
{
	struct board_geometry g = {2, 2, 4, 4, 8};
	struct segment_identity id;
	struct board *b;
	struct reader *r;
	struct sample *s;
	char err[256];

	segment_identity_self(&id);
	if (mkdtemp(dir) == NULL) {
		bail_out("mkdtemp");
	}
	snprintf(path, sizeof(path), "%s/b.board", dir);
	snprintf(slow, sizeof(slow), "%s/b.slow", dir);
	if (board_create(&id, &g, &(struct board_place){path, dir, 0600, (gid_t)-1},
		    &(struct board_place){slow, dir, 0600, (gid_t)-1}, &b) < 0) {
		bail_out("board_create");
	}
	fill(b);
	if (reader_open(path, 0, &r, err, sizeof(err)) < 0 || reader_sample(r, &s) < 0) {
		bail_out("%s", err);
	}
	reader_close(&r);
	board_destroy(&b);
	rmdir(dir);
	return s;
}

static char *text_of(const struct sample *s, enum exporter_format format)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL) {
		bail_out("open_memstream");
	}
	exporter_text(f, s, format);
	fclose(f);
	return text;
}

/* How often a whole line stands in the text. */
static int lines(const char *text, const char *line)
{
	size_t len = strlen(line);
	int n = 0;

	for (const char *p = text; (p = strstr(p, line)) != NULL; p += len) {
		n += (p == text || p[-1] == '\n') && p[len] == '\n';
	}
	return n;
}

static void has(const char *text, const char *line)
{
	is_int(lines(text, line), 1, "%.90s", line);
}

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define POOL "pool=\"a\\\"b\\\\c\\nd?\""

static void test_classic(const struct sample *s)
{
	char *t = text_of(s, EXPORTER_CLASSIC);

	has(t, "broker_up 1");
	has(t, "broker_running 1");
	has(t, "broker_board_info{version=\"" TEXT(SHM_MAJOR) "." TEXT(SHM_MINOR) "\"} 1");
	has(t, "# TYPE broker_attaches_total counter");
	has(t, "# HELP broker_attaches_total Workers that attached");
	has(t, "broker_attaches_total 12");
	has(t, "broker_loop_busy_seconds_total 1.500000001");
	has(t, "broker_workers -3");
	has(t, "# TYPE broker_bytes_total counter");
	has(t, "# HELP broker_bytes_total to_workers: Result bytes written into result arenas; "
	       "from_workers: Statement and parameter bytes taken from request arenas");
	has(t, "broker_bytes_total{dir=\"to_workers\"," POOL "} 18446744073709551615");
	has(t, "broker_bytes_total{dir=\"from_workers\"," POOL "} 0");
	has(t, "broker_pool_connections{state=\"idle\"," POOL "} 5");
	ok(strstr(t, "# UNIT") == NULL, "no units in the classic text");
	ok(strstr(t, "# EOF") == NULL, "no end mark either");
	ok(strstr(t, "pool=\"\"") == NULL, "no series of rows that are not used");
	free(t);
}

static void test_openmetrics(const struct sample *s)
{
	char *t = text_of(s, EXPORTER_OPENMETRICS);
	size_t len = strlen(t);

	has(t, "# TYPE broker_attaches counter");
	has(t, "# HELP broker_attaches Workers that attached");
	has(t, "broker_attaches_total 12");
	has(t, "# TYPE broker_loop_busy_seconds counter");
	has(t, "# UNIT broker_loop_busy_seconds seconds");
	has(t, "# UNIT broker_bytes bytes");
	has(t, "# TYPE broker_query_seconds histogram");
	has(t, "# UNIT broker_query_seconds seconds");
	ok(len > 6 && strcmp(t + len - 6, "# EOF\n") == 0, "ends with the end mark");
	is_int(lines(t, "# EOF"), 1, "which stands there once");
	free(t);
}

static void test_histogram(const struct sample *s)
{
	char *t = text_of(s, EXPORTER_CLASSIC);
	int n = 0;

	has(t, "broker_query_seconds_bucket{" POOL ",le=\"0.000001024\"} 2");
	has(t, "broker_query_seconds_bucket{" POOL ",le=\"0.000002048\"} 3");
	has(t, "broker_query_seconds_bucket{" POOL ",le=\"0.000524288\"} 3");
	has(t, "broker_query_seconds_bucket{" POOL ",le=\"0.001048576\"} 4");
	has(t, "broker_query_seconds_bucket{" POOL ",le=\"0.002097152\"} 5");
	has(t, "broker_query_seconds_bucket{" POOL ",le=\"68.719476736\"} 5");
	has(t, "broker_query_seconds_bucket{" POOL ",le=\"+Inf\"} 6");
	has(t, "broker_query_seconds_count{" POOL "} 6");
	has(t, "broker_query_seconds_sum{" POOL "} 1125899.908941822");
	for (const char *p = t; (p = strstr(p, "\nbroker_query_seconds_bucket{")) != NULL; p++) {
		n++;
	}
	is_int(n, 28, "27 bounds and infinity");
	free(t);
}

static void test_rows(const struct sample *s)
{
	char *t = text_of(s, EXPORTER_CLASSIC);

	has(t, "broker_pool_state{" POOL ",state=\"degraded\"} 1");
	has(t, "broker_pool_state{" POOL ",state=\"up\"} 0");
	has(t, "broker_pool_writable{" POOL "} 0");
	has(t, "broker_pool_readable{" POOL "} 1");
	has(t, "broker_pool_degraded{" POOL "} 1");
	has(t, "broker_pool_max{" POOL "} 8");
	has(t, "broker_server_up{server=\"db1\"} 1");
	has(t, "broker_server_up{server=\"db2\"} 0");
	has(t, "broker_server_role{server=\"db1\",role=\"standby\"} 1");
	has(t, "broker_server_lag_seconds{server=\"db1\"} 0.25");
	has(t, "broker_server_lag_bytes{server=\"db1\"} 4096");
	has(t, "broker_server_state{server=\"db2\",state=\"up\"} 0");
	has(t, "broker_server_state{server=\"db2\",state=\"?77\"} 1");
	ok(strstr(t, "\nbroker_pool_oldest_lease_seconds{" POOL "} 100.") != NULL ||
			strstr(t, "\nbroker_pool_oldest_lease_seconds{" POOL "} 99.") != NULL,
		"the oldest lease is 100 seconds old");
	free(t);
}

static void test_dead(struct sample *s)
{
	enum reader_life was = s->life;
	char *t;

	s->life = READER_DEAD;
	t = text_of(s, EXPORTER_CLASSIC);
	has(t, "broker_up 0");
	has(t, "broker_running 0");
	has(t, "broker_pool_readable{" POOL "} 0");
	has(t, "broker_attaches_total 12");
	free(t);
	s->life = READER_STOPPED;
	t = text_of(s, EXPORTER_CLASSIC);
	has(t, "broker_up 1");
	has(t, "broker_running 0");
	free(t);
	s->life = was;
	t = text_of(NULL, EXPORTER_OPENMETRICS);
	is_str(t,
		"# TYPE broker_up gauge\n"
		"# HELP broker_up 1 while the broker's process runs, stopped or not\n"
		"broker_up 0\n"
		"# TYPE broker_running gauge\n"
		"# HELP broker_running 1 while the broker's loop turns: it is neither stalled, "
		"stopped nor dead\n"
		"broker_running 0\n"
		"# EOF\n",
		"without a board: only that the broker is not up");
	free(t);
}

/* Descriptions of a broker that is newer, or mad. */
static void test_foreign(struct sample *s)
{
	static const struct {
		struct metric_desc d;
		const char *line; /* NULL: nothing of that name comes out */
	} cases[] = {
		{{"broker_new_total", "", "New: a \"b\" \\ c", METRIC_KIND_COUNTER, 0,
			 METRIC_SCOPE_BROKER, 0},
			"broker_new_total 12"},
		{{"broker_odd", "", "No suffix", METRIC_KIND_COUNTER, 0, METRIC_SCOPE_BROKER, 0},
			"# TYPE broker_odd unknown"},
		{{"broker odd", "", "", METRIC_KIND_COUNTER, 0, METRIC_SCOPE_BROKER, 0}, NULL},
		{{"9broker", "", "", METRIC_KIND_GAUGE, 0, METRIC_SCOPE_BROKER, 0}, NULL},
		{{"broker_bad", "x=\"y\",z=\"1\"", "", METRIC_KIND_GAUGE, 0, METRIC_SCOPE_BROKER,
			 0},
			NULL},
		{{"broker_bad", "x=\"y\n\"", "", METRIC_KIND_GAUGE, 0, METRIC_SCOPE_BROKER, 0},
			NULL},
		{{"broker_bad", "x=y", "", METRIC_KIND_GAUGE, 0, METRIC_SCOPE_BROKER, 0}, NULL},
		{{"broker_bad", "=\"y\"", "", METRIC_KIND_GAUGE, 0, METRIC_SCOPE_BROKER, 0}, NULL},
		{{"broker_far", "", "", METRIC_KIND_GAUGE, 0, METRIC_SCOPE_BROKER, 1u << 30}, NULL},
		{{"broker_far", "", "", METRIC_KIND_GAUGE, 0, METRIC_SCOPE_POOL, 1u << 30}, NULL},
		{{"broker_far", "", "", METRIC_KIND_HISTOGRAM, 0, METRIC_SCOPE_POOL, 1u << 30},
			NULL},
		{{"broker_kind", "", "", 99, 0, METRIC_SCOPE_BROKER, 0}, NULL},
		{{"broker_scope", "", "", METRIC_KIND_GAUGE, 0, 9, 0}, NULL},
		{{"broker_up", "", "Theirs", METRIC_KIND_GAUGE, 0, METRIC_SCOPE_BROKER, 0},
			"broker_up 1"},
		{{"broker_workers", "", "Twice", METRIC_KIND_COUNTER, 0, METRIC_SCOPE_BROKER, 0},
			"broker_workers -3"},
		{{"broker_workers", "", "Gauge twice", METRIC_KIND_GAUGE, METRIC_UNIT_BYTES,
			 METRIC_SCOPE_BROKER, 0},
			"broker_workers -3"},
	};
	struct metric_desc was = s->desc[s->ndesc - 1];
	unsigned attaches = 0;
	char *t;

	for (unsigned i = 0; i < s->ndesc; i++) {
		if (strcmp(s->desc[i].name, "broker_attaches_total") == 0) {
			attaches = s->desc[i].index;
		}
	}
	for (unsigned i = 0; i < array_size(cases); i++) {
		struct metric_desc *d = &s->desc[s->ndesc - 1];

		*d = cases[i].d;
		d->index += attaches;
		t = text_of(s, EXPORTER_OPENMETRICS);
		if (cases[i].line != NULL) {
			has(t, cases[i].line);
		} else {
			ok(strstr(t, d->name) == NULL, "case %u is left out", i);
		}
		if (i == 0) {
			has(t, "# HELP broker_new New: a \\\"b\\\" \\\\ c");
		}
		free(t);
	}
	s->desc[s->ndesc - 1] = was;
}

static void test_accept(void)
{
	static const struct {
		const char *accept;
		enum exporter_format want;
	} cases[] = {
		{NULL, EXPORTER_CLASSIC},
		{"*/*", EXPORTER_CLASSIC},
		{"text/plain", EXPORTER_CLASSIC},
		{"application/openmetrics-text; version=1.0.0; charset=utf-8",
			EXPORTER_OPENMETRICS},
		{"application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
		 "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
			EXPORTER_OPENMETRICS},
		{"Application/OpenMetrics-Text;q=0.4", EXPORTER_OPENMETRICS},
		{"application/openmetrics-text;q=0, text/plain", EXPORTER_CLASSIC},
		{"application/openmetrics-text;q=0.00", EXPORTER_CLASSIC},
		{"application/openmetrics-text, text/plain;q=0", EXPORTER_OPENMETRICS},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		is_int(exporter_accepts(cases[i].accept), cases[i].want, "Accept: %s",
			cases[i].accept != NULL ? cases[i].accept : "none");
	}
}

int main(void)
{
	struct sample *s = make_sample();

	test_classic(s);
	test_openmetrics(s);
	test_histogram(s);
	test_rows(s);
	test_dead(s);
	test_foreign(s);
	test_accept();
	sample_free(&s);
	return done_testing();
}
