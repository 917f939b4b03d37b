/* SPDX-License-Identifier: MIT */
/*
 * test_live.c - what the live screen shows, without a screen: averages, rates, views and pages of a
 * board whose every number is known.
 */
#include "live.h"

#include "tap.h"
#include "text.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char dir[] = "/tmp/live-XXXXXX";
static char mem[64], sock[64], board_path[80], slow_path[80];
static struct board *board;
static struct live_data data;
static struct reader *reader;

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void fill_board(void)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	board_pool_row(board, 1,
		&(struct board_pool_info){.name = "main",
			.mode = "transaction",
			.state = BOARD_POOL_DEGRADED,
			.max_size = 8,
			.server = 1});
	board_pool_gauge(board, 1, POOL_METRIC_SV_ACTIVE, 2);
	board_pool_gauge(board, 1, POOL_METRIC_SV_IDLE, 5);
	board_pool_gauge(board, 1, POOL_METRIC_CL_WAITING, 4);
	board_pool_gauge(board, 1, POOL_METRIC_WAITING_SINCE, now - 2000000000u);
	board_server_row(board, 0,
		&(struct board_server_info){.name = "db1",
			.kind = "postgresql",
			.last_error = "timeout \033[2J",
			.state = BOARD_SERVER_DOWN,
			.role = BOARD_ROLE_PRIMARY,
			.since_ns = now - 65000000000u});
	board_server_row(board, 1,
		&(struct board_server_info){.name = "db2",
			.kind = "postgresql",
			.state = BOARD_SERVER_UP,
			.role = BOARD_ROLE_STANDBY,
			.lag_ns = 1500000000u,
			.lag_bytes = 4096});
	board_worker_row(board, 0,
		&(struct board_worker_info){.pid = 4711, .name = "httpd", .tag = "GET /a"});
	board_worker_row(board, 1,
		&(struct board_worker_info){.pid = 4712, .name = "httpd", .tag = "GET /b"});
	board_worker_row(board, 2,
		&(struct board_worker_info){.pid = 4714, .name = "quiet", .tag = ""});
	board_worker_row(board, 3,
		&(struct board_worker_info){.pid = 4713, .name = "cron", .tag = "nightly"});
	board_conn_row(board, 1,
		&(struct board_conn_info){.pool = 1,
			.server = 1,
			.state = BOARD_CONN_ACTIVE,
			.worker_slot = 1,
			.in_flight = 1,
			.fingerprint = 78,
			.statement_ns = now - 20000000000u});
	board_conn_row(board, 2,
		&(struct board_conn_info){.pool = 1,
			.server = 1,
			.state = BOARD_CONN_TRANSACTION,
			.worker_slot = 0,
			.since_ns = now - 3000000000u,
			.fingerprint = 77,
			.lease_ns = now - 10000000000u,
			.backend_pid = 815});
	board_conn_row(board, 3,
		&(struct board_conn_info){.pool = 1,
			.server = 1,
			.state = BOARD_CONN_LEASED,
			.worker_slot = 3,
			.in_flight = 1,
			.lease_ns = now - 60000000000u});
	board_event(board, BOARD_EVENT_SERVER_DOWN, "server db1 is down");
	board_event(board, BOARD_EVENT_FAILOVER, "pool main: writes go to db2");
}

static void fill_statements(void)
{
	static const char text[] = "select * from orders where id = ?";
	struct shape_call call = {.now_ns = clock_ns(CLOCK_MONOTONIC),
		.run_ns = 30000000,
		.rows = 2,
		.ran = true,
		.tag = "GET /a",
		.tag_len = 6};
	bool evicted;
	uint32_t row = shape_add(
		board_shapes(board), 1, 77, text, strlen(text), false, call.now_ns, &evicted);

	shape_count(board_shapes(board), row, &call);
	call.failed = true;
	shape_count(board_shapes(board), row, &call);
	row = shape_add(board_shapes(board), 1, 78, "begin", 5, false, call.now_ns, &evicted);
	call.run_ns = 20000000;
	shape_count(board_shapes(board), row, &call);
	board_slow(board, &(struct slow_record){.pool = 1,
				  .server = 1,
				  .worker_pid = 4711,
				  .tag = "GET /a",
				  .sql = "SELECT 1",
				  .sql_len = 8,
				  .params = "$1 = 'x'",
				  .params_len = 8,
				  .run_ns = 1500000000,
				  .code = 4,
				  .sqlstate = "57014"});
	board_slow(board,
		&(struct slow_record){.pool = 1, .server = 1, .sql = "SELECT 2", .sql_len = 8});
	board_sample(board,
		&(struct slow_record){.pool = 1, .sql = "SELECT 3", .sql_len = 8, .sampled = true});
}

static void start_board(void)
{
	struct board_geometry g = {.npools = 2,
		.nservers = 2,
		.nconns = 4,
		.nworkers = 4,
		.nslow = 8,
		.nsamples = 4,
		.nshapes = 4};
	struct board_place s = {board_path, mem, 0644, (gid_t)-1};
	struct board_place q = {slow_path, mem, 0640, (gid_t)-1};
	struct segment_identity id;
	char err[256];

	segment_identity_self(&id);
	if (board_create(&id, &g, &s, &q, &board) < 0) {
		bail_out("board_create");
	}
	board_heartbeat(board, clock_ns(CLOCK_BOOTTIME));
	fill_board();
	fill_statements();
	if (reader_open(sock, 0, &reader, err, sizeof(err)) < 0) {
		bail_out("%s", err);
	}
}

/* ------------------------------------------------------------------------------------------------
 */

static void test_averages(void)
{
	struct series s[2] = {
		{.name = "a", .rate = 10, .counter = true}, {.name = "b", .value = 4}};
	struct series_list l = {s, 2};
	struct averages a = {0};
	const struct average *v;
	int err = averages_add(&a, &l, false);

	v = averages_find(&a, "a");
	ok(err == 0 && v != NULL && v->samples == 0, "counters have no rate at first");
	is_int((int64_t)averages_find(&a, "b")->samples, 1, "gauges have a value");
	for (unsigned i = 0; i < 5; i++) {
		s[0].rate = i % 2 == 0 ? 10 : 20;
		err |= averages_add(&a, &l, true);
	}
	v = averages_find(&a, "a");
	ok(err == 0 && v->mean[0] > 13.9 && v->mean[0] < 14.1 && v->mean[2] > 13.9 &&
			v->mean[2] < 14.1,
		"as long as there are few samples, averages are means");
	s[0].rate = 1000;
	for (unsigned i = 0; i < 200; i++) {
		err |= averages_add(&a, &l, true);
	}
	v = averages_find(&a, "a");
	ok(err == 0 && v->mean[0] > 999 && v->mean[1] < 990 && v->mean[2] < v->mean[1],
		"then the short one forgets sooner than the long ones");
	l.v = s + 1;
	l.n = 1;
	ok(averages_add(&a, &l, true) == 0 && averages_find(&a, "a") == NULL,
		"what went is forgotten");
	averages_free(&a);
}

static void test_trail(void)
{
	struct trail t = {.n = 0};
	char buf[256];

	is_str(trail_spark(&t, 3, buf, sizeof(buf)), "   ", "a trail without values is blank");
	trail_add(&t, 1);
	trail_add(&t, 2);
	is_str(trail_spark(&t, 4, buf, sizeof(buf)), "  ~#", "the newest is at the right");
	for (unsigned i = 0; i < 2 * TRAIL_LENGTH; i++) {
		trail_add(&t, i);
	}
	ok(t.n == TRAIL_LENGTH && t.v[0] == TRAIL_LENGTH, "it keeps the last ones");
}

static void step(void)
{
	if (live_data_step(&data, reader) < 0) {
		bail_out("live_data_step");
	}
}

/* Text of a cell by row and title. */
static const char *cell(const struct grid *g, unsigned row, const char *title)
{
	for (unsigned i = 0; i < grid_ncolumns(g) && row < grid_shown(g); i++) {
		if (strcmp(grid_columns(g)[i].title, title) == 0) {
			return grid_cells(g, row)[i].text;
		}
	}
	return "(no such cell)";
}

static struct grid *view_of(enum live_view view, enum live_kind kind)
{
	const char *note;
	struct grid *g = live_grid(&data, view, kind, &note);
	struct grid_view v;

	live_view_defaults(view, kind, &v);
	if (g == NULL || grid_failed(g)) {
		bail_out("out of memory");
	}
	grid_arrange(g, &v, 20);
	return g;
}

static void test_rates(void)
{
	struct grid *g;
	char buf[512];
	double seconds, rate;
	uint64_t before;

	step();
	ok(!data.interval, "the first sample is no interval");
	g = view_of(VIEW_POOLS, 0);
	is_str(cell(g, 0, "avg10"), "-", "and has no averages");
	grid_free(&g);
	ok(strstr(live_summary(&data, 200, buf, sizeof(buf)), "since start") != NULL,
		"which is said");
	before = data.before->mono_ns;
	board_pool_count(board, 1, POOL_METRIC_STATEMENTS_FINISHED, 900);
	board_pool_count(board, 1, POOL_METRIC_STATEMENTS_FAILED, 100);
	for (unsigned i = 1; i <= 100; i++) {
		board_time(board, 1, POOL_HIST_RUN, i * 1000000u);
	}
	step();
	seconds = (double)(data.now->mono_ns - before) / 1e9;
	ok(data.interval, "the second is");
	rate = data.pools[1].statements * seconds;
	ok(rate > 990 && rate < 1010, "rates are of the interval (%.1f)", rate);
	ok(data.pools[1].trail[TRAIL_RUN_P99].v[0] > 0.098, "percentiles, too");
	ok(data.all.statements > 0 && data.all.errors > 0, "and all pools together");
	step();
	ok(data.pools[1].statements < 0.001 && data.pools[1].trail[TRAIL_RUN_P99].v[1] < 0,
		"when nothing happens they are nothing");
	ok(averages_find(&data.averages, "broker_statements_finished_total{pool=\"main\"}")
				->mean[0] > 0,
		"averages remember");
	g = live_part(&data, PART_LATENCY);
	is_int(grid_total(g), 1, "latency has a row for each pool");
	grid_free(&g);
}

static void test_pools(void)
{
	struct grid *g = view_of(VIEW_POOLS, 0);

	is_int(grid_shown(g), 1, "rows that are not taken are not shown");
	is_str(cell(g, 0, "pool"), "main", "pools have names");
	is_str(cell(g, 0, "state"), "degraded", "states");
	is_str(cell(g, 0, "sv_active"), "2", "PgBouncer's columns");
	is_str(cell(g, 0, "cl_waiting"), "4", "waiters");
	is_int(grid_cells(g, 0)[8].tone, TONE_WARN, "that stand out");
	is_int(strncmp(cell(g, 0, "maxwait"), "2", 1), 0, "for how long");
	is_str(cell(g, 0, "server"), "db2", "and their server");
	grid_free(&g);
	g = live_part(&data, PART_THROUGHPUT);
	is_str(cell(g, 0, "conns"), "2/7", "the overview has connections in use and open");
	is_str(cell(g, 0, "writes"), "db2", "and who takes writes");
	grid_free(&g);
}

static void test_servers(void)
{
	struct grid *g = view_of(VIEW_SERVERS, 0);

	is_str(cell(g, 0, "verdict"), "down", "the verdict");
	is_int(grid_cells(g, 0)[2].tone, TONE_BAD, "is bad");
	ok(atof(cell(g, 0, "since")) >= 65 && atof(cell(g, 0, "since")) < 120, "since when");
	is_str(cell(g, 0, "lag"), "-", "a primary has no lag");
	is_str(cell(g, 0, "last_error"), "timeout ?[2J", "the error, made harmless");
	is_str(cell(g, 1, "role"), "standby", "roles");
	is_str(cell(g, 1, "lag"), "1.5s", "lag");
	grid_free(&g);
	g = live_part(&data, PART_EVENTS);
	is_str(cell(g, 0, "event"), "failover", "the latest event comes first");
	is_int(grid_cells(g, 0)[1].tone, TONE_BAD, "a failover stands out");
	grid_free(&g);
}

static void test_workers(void)
{
	struct grid *g = view_of(VIEW_WORKERS, 0);

	is_int(grid_shown(g), 4, "a row for each held connection and for each worker without");
	is_str(cell(g, 0, "name"), "cron", "who holds longest comes first");
	is_str(cell(g, 0, "holds"), "main/3", "what it holds");
	is_str(cell(g, 0, "state"), "leased", "how");
	is_str(cell(g, 1, "pid"), "4712", "then who runs a statement without a lease");
	ok(strncmp(cell(g, 1, "held"), "20", 2) == 0, "for how long");
	is_str(cell(g, 1, "statement"), "begin", "and which");
	is_str(cell(g, 2, "pid"), "4711", "then the next");
	is_str(cell(g, 2, "tag"), "GET /a", "its request");
	is_str(cell(g, 2, "state"), "idle in transaction", "a transaction without a statement");
	is_int(grid_cells(g, 2)[4].tone, TONE_WARN, "stands out");
	is_str(cell(g, 2, "statement"), "select * from orders where id = ?", "and its statement");
	is_str(cell(g, 3, "holds"), "-", "then who holds nothing");
	is_str(cell(g, 3, "state"), "attached", "with its own state");
	grid_free(&g);
	g = view_of(VIEW_CONNECTIONS, 0);
	is_int(grid_shown(g), 3, "connections");
	is_str(cell(g, 0, "worker"), "4712 httpd", "say whose statement runs on them");
	is_str(cell(g, 1, "worker"), "4711 httpd", "or who holds them");
	is_str(cell(g, 1, "backend_pid"), "815", "and where");
	grid_free(&g);
}

static void test_statements(void)
{
	struct grid *g = view_of(VIEW_STATEMENTS, KIND_SHAPES);
	const char *note;

	is_int(grid_shown(g), 2, "shapes");
	is_str(cell(g, 0, "share"), "75.0%", "the most expensive first");
	is_str(cell(g, 0, "calls"), "2", "calls");
	is_str(cell(g, 0, "errors"), "1", "errors");
	is_str(cell(g, 0, "statement"), "select * from orders where id = ?", "text");
	grid_free(&g);
	g = view_of(VIEW_STATEMENTS, KIND_SLOW);
	is_str(cell(g, 0, "statement"), "SELECT 2", "the latest slow one comes first");
	is_str(cell(g, 1, "statement"), "SELECT 1  -- $1 = 'x'",
		"with parameters, if there are any");
	is_str(cell(g, 1, "error"), "57014", "and its error");
	grid_free(&g);
	g = view_of(VIEW_STATEMENTS, KIND_SAMPLES);
	is_str(cell(g, 0, "statement"), "SELECT 3", "samples");
	grid_free(&g);
	data.no_texts = true;
	step();
	g = live_grid(&data, VIEW_STATEMENTS, KIND_SHAPES, &note);
	ok(grid_total(g) == 0 && strstr(note, "monitor group") != NULL,
		"who may not read them is told");
	grid_free(&g);
	data.no_texts = false;
	step();
}

static void test_metrics(void)
{
	struct grid *g = view_of(VIEW_METRICS, 0);
	struct grid_view v = {.sort = -1, .filter = "broker_statements_failed_total*"};

	grid_arrange(g, &v, 20);
	is_int(grid_shown(g), 1, "metrics are found by name");
	is_str(cell(g, 0, "current"), "100", "with their value");
	is_str(cell(g, 0, "change"), "0", "their growth");
	ok(grid_help(g, 0) != NULL && strstr(grid_help(g, 0), "error") != NULL,
		"and what they mean");
	snprintf(v.filter, sizeof(v.filter), "broker_uptime_seconds");
	grid_arrange(g, &v, 20);
	is_str(cell(g, 0, "change"), ".", "gauges do not grow");
	grid_free(&g);
}

static bool has_line(const struct live_page *p, const char *text)
{
	for (unsigned i = 0; i < p->n; i++) {
		if (strstr(p->line[i], text) != NULL) {
			return true;
		}
	}
	return false;
}

static void test_pages(void)
{
	struct grid *g = view_of(VIEW_METRICS, 0);
	struct live_page p = {0};
	size_t widest = 0;

	live_page_help(&p, g, 0, 60);
	ok(has_line(&p, "broker_up: 1 while"), "help describes the selected metric");
	ok(has_line(&p, "filter") && has_line(&p, "avg1000"), "the keys, and the columns");
	for (unsigned i = 0; i < p.n; i++) {
		widest = text_width(p.line[i]) > widest ? text_width(p.line[i]) : widest;
	}
	ok(widest <= 60 && !p.failed, "in lines that fit");
	live_page_free(&p);
	grid_free(&g);
	g = view_of(VIEW_STATEMENTS, KIND_SHAPES);
	live_page_row(&p, g, 0, 30);
	ok(has_line(&p, "statement     select * from"), "a row, all of it");
	ok(has_line(&p, "              orders where id"), "in as many lines as it takes");
	live_page_free(&p);
	live_page_row(&p, g, 99, 30);
	is_int(p.n, 0, "no row, no page");
	live_page_free(&p);
	live_page_help(&p, NULL, 0, 1);
	ok(p.n > 0, "no screen is too small");
	live_page_free(&p);
	grid_free(&g);
}

static void allotted(unsigned room, unsigned a, unsigned b, unsigned c)
{
	static const unsigned need[] = {3, 10, 0};
	unsigned got[3];

	live_allot(need, got, 3, room);
	ok(got[0] == a && got[1] == b && got[2] == c, "%u lines are shared as %u, %u, %u", room,
		got[0], got[1], got[2]);
}

static void test_dead(void)
{
	enum grid_tone tone;
	char buf[512];

	live_head(&data, true, buf, sizeof(buf), &tone);
	ok(strncmp(buf, "broker running", 14) == 0 && tone == TONE_PLAIN, "the head says it runs");
	data.now->life = READER_DEAD;
	live_head(&data, true, buf, sizeof(buf), &tone);
	ok(strncmp(buf, "broker dead", 11) == 0 && tone == TONE_BAD &&
			strstr(buf, "heartbeat") != NULL,
		"or when it was last alive");
}

int main(void)
{
	setlocale(LC_CTYPE, "C");
	if (mkdtemp(dir) == NULL) {
		bail_out("mkdtemp");
	}
	snprintf(mem, sizeof(mem), "%s/mem", dir);
	snprintf(sock, sizeof(sock), "%s/s", dir);
	snprintf(board_path, sizeof(board_path), "%s.board", sock);
	snprintf(slow_path, sizeof(slow_path), "%s.slow", sock);
	if (mkdir(mem, 0700) < 0) {
		bail_out("mkdir");
	}
	test_averages();
	test_trail();
	start_board();
	test_rates();
	test_pools();
	test_servers();
	test_workers();
	test_statements();
	test_metrics();
	test_pages();
	allotted(20, 3, 10, 0);
	allotted(8, 3, 5, 0);
	allotted(4, 2, 2, 0);
	allotted(3, 3, 0, 0);
	allotted(1, 0, 0, 0);
	test_dead();
	live_data_reset(&data);
	reader_close(&reader);
	board_destroy(&board);
	rmdir(mem);
	ok(rmdir(dir) == 0, "nothing is left");
	return done_testing();
}
