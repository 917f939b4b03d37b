/* SPDX-License-Identifier: MIT */
/*
 * test_brokerstat.c - brokerstat against a board whose every number is known: each kind of output,
 * the exit codes, a broker that runs, is stopped, is dead, is newer, is another version.
 */
#include "board.h"
#include "segfile.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char dir[] = "/tmp/brokerstat-XXXXXX";
static char mem[sizeof(dir) + 8], socket_path[sizeof(dir) + 16];
static char board_path[sizeof(dir) + 24], slow_path[sizeof(dir) + 24];

static void fill_shapes(struct board *b)
{
	struct shape_call call = {.now_ns = 1, .run_ns = 30000000, .ran = true};
	bool evicted;
	uint32_t row = shape_add(board_shapes(b), 1, 7, "select ? from t", 15, false, 1, &evicted);

	shape_count(board_shapes(b), row, &call);
	call.run_ns = 10000000;
	row = shape_add(board_shapes(b), 1, 8, "commit", 6, false, 1, &evicted);
	shape_count(board_shapes(b), row, &call);
}

static void fill_board(struct board *b)
{
	board_count(b, METRIC_ATTACHES, 12);
	board_pool_row(b, 1,
		&(struct board_pool_info){.name = "main",
			.database = "app",
			.user = "web",
			.mode = "transaction",
			.state = BOARD_POOL_UP,
			.max_size = 8,
			.server = 1});
	board_pool_count(b, 1, POOL_METRIC_STATEMENTS_STARTED, 1000);
	board_pool_count(b, 1, POOL_METRIC_STATEMENTS_FINISHED, 990);
	board_pool_count(b, 1, POOL_METRIC_STATEMENTS_FAILED, 7);
	board_pool_gauge(b, 1, POOL_METRIC_STATEMENTS_IN_FLIGHT, 3);
	board_pool_gauge(b, 1, POOL_METRIC_SV_ACTIVE, 2);
	board_pool_gauge(b, 1, POOL_METRIC_SV_LEASED, 3);
	board_pool_gauge(b, 1, POOL_METRIC_SV_PINNED, 1);
	board_pool_gauge(b, 1, POOL_METRIC_SV_IDLE, 5);
	board_pool_gauge(b, 1, POOL_METRIC_CL_WAITING, 4);
	for (unsigned i = 1; i <= 100; i++) {
		board_time(b, 1, POOL_HIST_RUN, i * 1000000u);
	}
	board_server_row(b, 1,
		&(struct board_server_info){.name = "db1",
			.kind = "postgresql",
			.address = "host=db1",
			.last_error = "refused \033[2J",
			.state = BOARD_SERVER_UP,
			.role = BOARD_ROLE_PRIMARY});
	board_worker_row(b, 0,
		&(struct board_worker_info){
			.pid = 4711, .name = "httpd", .tag = "GET /\xff\n", .statements = 9});
	board_conn_row(b, 2,
		&(struct board_conn_info){.pool = 1,
			.server = 1,
			.state = BOARD_CONN_TRANSACTION,
			.backend_pid = 815,
			.worker_slot = 0});
	board_event(b, BOARD_EVENT_SERVER_UP, "server db1 is up");
	board_slow(b, &(struct slow_record){.pool = 1,
			      .server = 1,
			      .worker_pid = 4711,
			      .tag = "GET /slow",
			      .sql = "SELECT\n'\033[31m<script>'",
			      .sql_len = 22,
			      .run_ns = 1500000000,
			      .rows = 6});
	board_sample(b,
		&(struct slow_record){
			.pool = 1, .sql = "SELECT 2", .sql_len = 8, .run_ns = 5, .sampled = true});
	fill_shapes(b);
}

/* The broker: a child with a board in the scratch directory, until it is killed. */
static pid_t start_broker(void)
{
	struct board_geometry g = {.npools = 2,
		.nservers = 2,
		.nconns = 4,
		.nworkers = 4,
		.nslow = 8,
		.nsamples = 8,
		.nshapes = 4};
	struct board_place s = {board_path, mem, 0644, (gid_t)-1};
	struct board_place q = {slow_path, mem, 0640, (gid_t)-1};
	struct segment_identity id;
	struct board *b = NULL;
	int ready[2];
	char c = 0;
	pid_t pid;

	if (pipe(ready) < 0 || (pid = fork()) < 0) {
		bail_out("fork");
	}
	if (pid == 0) {
		segment_identity_self(&id);
		if (board_create(&id, &g, &s, &q, &b) < 0) {
			_exit(1);
		}
		fill_board(b);
		(void)!write(ready[1], "r", 1);
		for (;;) { /* a heart that beats, so that it is not taken for stalled */
			struct timespec ts;

			clock_gettime(CLOCK_BOOTTIME, &ts);
			board_heartbeat(
				b, (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec);
			nanosleep(&(struct timespec){0, 100000000}, NULL);
		}
	}
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1) {
		bail_out("the child could not create its board");
	}
	close(ready[0]);
	return pid;
}

static char out[1 << 18], err[8192];

static void read_file(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "r");
	size_t n = f != NULL ? fread(buf, 1, size - 1, f) : 0;

	buf[n] = '\0';
	if (f != NULL) {
		fclose(f);
	}
	unlink(path);
}

/* Run brokerstat with these arguments; its exit code.  Output is in `out` and `err`. */
static int run(const char *args)
{
	char cmd[1024], out_path[64], err_path[64];
	int status;

	snprintf(out_path, sizeof(out_path), "%s/out", dir);
	snprintf(err_path, sizeof(err_path), "%s/err", dir);
	snprintf(cmd, sizeof(cmd), "LC_ALL=C BROKER_SOCKET='%s' \"$BROKERSTAT_BIN\" %s >%s 2>%s",
		socket_path, args, out_path, err_path);
	status = system(cmd);
	read_file(out_path, out, sizeof(out));
	read_file(err_path, err, sizeof(err));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool has(const char *text)
{
	if (strstr(out, text) != NULL) {
		return true;
	}
	diag("not in the output: %s", text);
	return false;
}

/* The second word of the line that begins with name and a blank, "" if there is none. */
static const char *value_of(const char *name)
{
	static char value[64];
	size_t n = strlen(name);

	value[0] = '\0';
	for (const char *p = out; p != NULL && *p != '\0';
		p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		if (strncmp(p, name, n) == 0 && p[n] == ' ') {
			(void)!sscanf(p + n, "%63s", value);
		}
	}
	return value;
}

static void check_once(void)
{
	is_int(run("-1"), 0, "-1");
	is_str(value_of("name"), "value", "-1 has titles");
	is_str(value_of("broker_up"), "1", "the broker is up");
	is_str(value_of("broker_attaches_total"), "12", "a counter of the broker");
	is_str(value_of("broker_statements_started_total{pool=\"main\"}"), "1000",
		"a pool's counter");
	is_str(value_of("broker_statements_in_flight{pool=\"main\"}"), "3", "a pool's gauge");
	is_str(value_of("broker_query_seconds_count{pool=\"main\"}"), "100", "a histogram's count");
	ok(strtod(value_of("broker_query_seconds{pool=\"main\",quantile=\"0.5\"}"), NULL) >
				0.0496 &&
			strtod(value_of("broker_query_seconds{pool=\"main\",quantile=\"0.5\"}"),
				NULL) < 0.0504,
		"and its median");
	ok(has("Workers that attached"), "descriptions come from the board");
	is_int(run("-f 'broker_prepared_total{state=\"miss\",*'"), 0, "no terminal means -1");
	ok(strstr(out, "state=\"hit\"") == NULL && has("state=\"miss\""), "-f filters by glob");
	is_int(run("-l -f broker_attaches_total"), 0, "-l");
	ok(has("counter") && has("Workers that attached"), "-l lists kinds and descriptions");
	is_int(run("-1 -w 0.05 -c 3 -f broker_workers"), 0, "-w and -c");
	ok(strstr(strstr(strstr(out, "name") + 1, "name") + 1, "name") != NULL,
		"-c 3 prints three times");
}

static void check_tables(void)
{
	static const char columns[] =
		"pool database user cl_active cl_waiting cl_active_cancel_req "
		"cl_waiting_cancel_req "
		"sv_active sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login "
		"maxwait maxwait_us pool_mode ";
	char squeezed[4096];
	size_t n = 0;

	is_int(run("-p"), 0, "-p");
	for (const char *p = out; *p != '\0' && n < sizeof(squeezed) - 1; p++) {
		if (*p != ' ' || p[1] != ' ') {
			squeezed[n++] = *p;
		}
	}
	squeezed[n] = '\0';
	ok(strncmp(squeezed, columns, sizeof(columns) - 1) == 0,
		"-p has PgBouncer's columns, in order");
	ok(strstr(squeezed, "\nmain app web 0 4 0 0 6 0 0 5 0 0 0 0 0 transaction 3 1 8 up db1") !=
			NULL,
		"and sv_active counts leased and pinned connections");
	is_int(run("-S"), 0, "-S");
	ok(has("db1") && has("primary") && has("refused ?[2J"),
		"servers; escapes are made harmless");
	is_int(run("-L"), 0, "-L");
	ok(has("4711") && has("GET /? ") && has("815") && has("transaction"), "workers and leases");
	is_int(run("-e"), 0, "-e");
	ok(has("server_up") && has("server db1 is up"), "events");
	is_int(run("-s -1"), 0, "-s -1");
	ok(has("run 1.5s") && has("pool main") && has("pid 4711") && has("tag GET /slow") &&
			has("SELECT '?[31m<script>'"),
		"slow statements");
	is_int(run("-s -d -w 0.05 -c 2"), 0, "-s -d");
	ok(strstr(strstr(out, "SELECT") + 1, "SELECT") == NULL,
		"follows: nothing is printed twice");
}

static void check_json(void)
{
	json_error_t e;
	json_t *doc, *pool;
	const char *name = NULL;
	int started = 0, finished = 0, failed = 0, in_flight = 0, active = 0, attaches = 0;
	double p99 = 0;

	is_int(run("-j"), 0, "-j");
	doc = json_loads(out, 0, &e);
	ok(doc != NULL, "-j prints JSON");
	ok(json_unpack(doc, "{s:{s:{s:i}}}", "metrics", "broker_attaches_total", "value",
		   &attaches) == 0 &&
			attaches == 12,
		"with all metrics by name");
	pool = json_array_get(json_object_get(doc, "pools"), 0);
	ok(json_unpack(pool, "{s:s,s:i,s:{s:i,s:i,s:i,s:i},s:{s:{s:F}}}", "name", &name,
		   "sv_active", &active, "metrics", "broker_statements_started_total", &started,
		   "broker_statements_finished_total", &finished, "broker_statements_failed_total",
		   &failed, "broker_statements_in_flight", &in_flight, "histograms",
		   "broker_query_seconds", "p99", &p99) == 0,
		"pools with their values");
	is_str(name != NULL ? name : "", "main", "by name");
	is_int(started, finished + failed + in_flight, "that balance");
	ok(active == 6 && p99 > 0.098 && p99 < 0.1, "columns and percentiles");
	is_int((int64_t)json_array_size(json_object_get(doc, "servers")), 1, "servers");
	is_int((int64_t)json_array_size(json_object_get(doc, "workers")), 1, "workers");
	is_int((int64_t)json_array_size(json_object_get(doc, "connections")), 1, "connections");
	is_int((int64_t)json_array_size(json_object_get(doc, "events")), 1, "events");
	json_decref(doc);
	is_int(run("-s -1 -j"), 0, "-s -1 -j");
	doc = json_loads(out, 0, &e);
	ok(doc != NULL &&
			json_unpack(doc, "{s:s,s:s}", "sql", &name, "pool",
				&(const char *){NULL}) == 0 &&
			strcmp(name, "SELECT\n'\033[31m<script>'") == 0,
		"prints slow statements as JSON, text intact");
	json_decref(doc);
}

static unsigned lines(void)
{
	unsigned n = 0;

	for (const char *p = out; *p != '\0'; p++) {
		n += *p == '\n';
	}
	return n;
}

static void check_following(void)
{
	is_int(run("-s -1 -q 'ms>1000 && pool==main'"), 0, "-q");
	is_int(lines(), 1, "shows what matches");
	is_int(run("-s -1 -q 'ms>1000 && pool!=main'"), 0, "-q");
	is_int(lines(), 0, "and nothing else");
	is_int(run("-s -1 -q 'ms>1000 && (pool'"), 1, "a condition that is none");
	ok(strstr(err, "  ms>1000 && (pool\n                  ^") != NULL,
		"is shown with the place");
	is_int(run("-s -c 2 -w 0.02"), 0, "-s follows");
	is_int(lines(), 0, "what was there before is not shown");
	is_int(run("-s -d -k 1"), 0, "-d -k");
	is_int(lines(), 1, "old ones first, and no more than asked for");
	is_int(run("-s -1 --samples"), 0, "--samples");
	ok(lines() == 2 && has("sample  SELECT 2"), "shows those drawn by lot, too");
	is_int(run("-T"), 0, "-T");
	ok(has("select ? from t") && has("75.0%"), "shows what shapes cost");
	is_int(run("-T -j"), 0, "-T -j");
	ok(lines() == 2 && has("\"statement\":\"select ? from t\""), "as JSON, one a line");
	is_int(run("-e -j"), 0, "-e -j");
	ok(lines() == 1 && has("\"kind\":\"server_up\""), "events, too");
}

static void check_filter(void)
{
	is_int(run("-1 -f 'broker_*_total*' -f 'broker_up' -f '^*statements*'"), 0, "several -f");
	is_str(value_of("broker_up"), "1", "any of them matches");
	is_str(value_of("broker_attaches_total"), "12", "or another");
	is_str(value_of("broker_workers"), "", "but no others");
	ok(strstr(out, "broker_slow_statements") == NULL, "and ^ leaves out");
	is_int(run("-l -f '^*'"), 0, "nothing is left");
	is_int(lines(), 1, "but the titles");
	ok(strstr(err, "no metric matches -f") != NULL, "which is said");
	is_int(run("-1 -w 0.02 -c 2 -f 'broker_up'"), 0, "something is left");
	is_str(err, "", "and nothing said");
}

static void check_recording(void)
{
	char args[256];

	snprintf(args, sizeof(args), "-W %s/rec -w 0.02 -c 5", dir);
	is_int(run(args), 0, "-W");
	is_int(run(args), 5, "overwrites nothing");
	snprintf(args, sizeof(args), "-r %s/rec -1", dir);
	is_int(run(args), 0, "-r");
	is_str(value_of("broker_attaches_total"), "12", "shows what was recorded");
	snprintf(args, sizeof(args), "-r %s/rec -s -d -q 'pool==main'", dir);
	ok(run(args) == 0 && lines() == 1 && has("SELECT '?[31m"), "statements, too");
	snprintf(args, sizeof(args), "-r %s/rec -p -w 0.01", dir);
	ok(run(args) == 0 && lines() == 2 * 5 + 4, "all frames, if asked for");
	snprintf(args, sizeof(args), "-r %s/rec -j --at +0.03", dir);
	ok(run(args) == 0 && has("\"state\": \"running\""), "from a time on");
	snprintf(args, sizeof(args), "-r %s/rec -j --at yesterday", dir);
	is_int(run(args), 1, "a time that is none");
	snprintf(args, sizeof(args), "-r %s/none -1", dir);
	is_int(run(args), 5, "a recording that is not there");
	snprintf(args, sizeof(args), "-W %s/no/such/place -c 1", dir);
	is_int(run(args), 5, "a place that is not there");
	snprintf(args, sizeof(args), "-W %s/bare --no-texts -c 1", dir);
	is_int(run(args), 0, "-W --no-texts");
	snprintf(args, sizeof(args), "-r %s/bare -s -1", dir);
	is_int(run(args), 2, "records no statements");
	is_int(run("-W - -c 1 >/dev/null"), 0, "-W - writes to standard output");
	snprintf(args, sizeof(args), "%s/bare", dir);
	unlink(args);
}

/* After its broker died, and was forgotten. */
static void check_old_recording(void)
{
	char args[256];

	snprintf(args, sizeof(args), "-r %s/rec -1", dir);
	is_int(run(args), 0, "in a recording the broker still runs");
	is_str(value_of("broker_up"), "1", "as it did then");
	snprintf(args, sizeof(args), "%s/rec", dir);
	unlink(args);
}

static void check_usage(void)
{
	is_int(run("-x"), 1, "an unknown option");
	is_int(run("-j -p"), 1, "two views");
	is_int(run("-S -p"), 1, "two others");
	is_int(run("-1 -e"), 1, "-1 with what is printed once anyway");
	is_int(run("-p -q ms"), 1, "a condition without -s");
	is_int(run("--at +1"), 1, "a time without a recording");
	is_int(run("-s --no-texts"), 1, "statements without texts");
	is_int(run("-k 0 -s"), 1, "no statements at all");
	is_int(run("-w 0"), 1, "an interval of 0");
	is_int(run("-c none"), 1, "a count that is no number");
	is_int(run("surplus"), 1, "a surplus argument");
	is_int(run("-p -f 'broker_*'"), 1, "a filter of metrics for what is none");
	is_int(run("--listen 0 -w 1"), 1, "an interval of a service");
	is_int(run("-1 -w soon"), 1, "an interval that is no number");
	ok(strstr(err, "-w: 'soon' is not a number of seconds") != NULL,
		"the message names the option and what it takes");
	is_int(run("--listen foo:1"), 1, "a name to listen on");
	ok(strstr(err, "numeric ADDR") != NULL, "the message says what is taken");
	is_int(run("-h"), 0, "-h");
	ok(has("Exit status"), "explains the exit status");
	is_int(run("-V"), 0, "-V");
	is_int(run("-n /nonexistent -t 0"), 2, "no broker");
	ok(strstr(err, "/nonexistent.board") != NULL, "says where it looked");
}

/* Change bytes of the board's file, as a broker of another version would have written them. */
static void patch(size_t off, const void *bytes, size_t len)
{
	int fd = chmod(board_path, 0644) < 0 ? -1 : open(board_path, O_RDWR);

	if (fd < 0 || pwrite(fd, bytes, len, (off_t)off) != (ssize_t)len) {
		bail_out("cannot patch %s: %s", board_path, strerror(errno));
	}
	close(fd);
}

static size_t description_offset(unsigned i)
{
	int fd = segfile_open(board_path);
	const struct shm_section *sec;
	uint64_t len;
	size_t off;
	void *map;

	if (segment_attach(fd, SHM_ROLE_BOARD, false, &map, &len) < 0) {
		bail_out("segment_attach");
	}
	sec = segment_section(map, SHM_SEC_METRIC_DESC);
	off = sec->off + (size_t)sec->stride * i;
	segment_unmap(map, len);
	close(fd);
	return off;
}

static void check_other_versions(void)
{
	uint16_t minor = SHM_MINOR + 1, major = SHM_MAJOR + 1;
	char renamed[64] = "broker_new_things_total";

	patch(offsetof(struct shm_header, minor), &minor, sizeof(minor));
	patch(description_offset(METRIC_ATTACHES), renamed, sizeof(renamed));
	is_int(run("-1"), 0, "a newer minor version is shown");
	is_str(value_of("broker_new_things_total"), "12",
		"with metrics that this brokerstat never heard of");
	patch(offsetof(struct shm_header, major), &major, sizeof(major));
	is_int(run("-1"), 3, "another major version is refused");
	ok(strstr(err, "version") != NULL, "and says why");
}

/* The board as a broker of a later minor version would have it: more at the end of each record, a
 * section of a kind nobody knows. */
static void grow_board(const char *path)
{
	int from = segfile_open(board_path), to = open(path, O_RDWR | O_CREAT | O_EXCL, 0644);
	uint64_t len, size = 16u << 20, at = SHM_PAGE;
	struct shm_header *h;
	unsigned char *map;
	void *old;

	if (segment_attach(from, SHM_ROLE_BOARD, false, &old, &len) < 0 ||
		ftruncate(to, (off_t)size) < 0) {
		bail_out("cannot copy the board");
	}
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, to, 0);
	if (map == MAP_FAILED) {
		bail_out("mmap");
	}
	memcpy(map, old, SHM_PAGE);
	h = (struct shm_header *)(void *)map;
	for (unsigned i = 0; i < h->nsections; i++) {
		struct shm_section *sec = &h->section[i];
		uint32_t stride = sec->stride > 8 ? sec->stride + 128 : sec->stride;

		memset(map + at, 0xee, (size_t)stride * sec->count);
		for (unsigned r = 0; r < sec->count; r++) {
			memcpy(map + at + (size_t)r * stride,
				(char *)old + sec->off + (size_t)r * sec->stride, sec->stride);
		}
		sec->off = at;
		sec->stride = stride;
		sec->len = (uint64_t)stride * sec->count;
		at = (at + sec->len + 127) / 128 * 128;
	}
	h->section[h->nsections++] = (struct shm_section){99, 1, at, 64, 8, 8};
	h->minor++;
	h->total_len = size;
	munmap(map, size);
	segment_unmap(old, len);
	close(from);
	close(to);
}

static void check_later_minor(void)
{
	char path[128], args[192];

	snprintf(path, sizeof(path), "%s/later.board", dir);
	grow_board(path);
	snprintf(args, sizeof(args), "-n %s -1", path);
	is_int(run(args), 0, "a board with longer records and new sections is shown");
	is_str(value_of("broker_attaches_total"), "12", "its metrics");
	is_str(value_of("broker_statements_started_total{pool=\"main\"}"), "1000", "its pools'");
	is_str(value_of("broker_query_seconds_count{pool=\"main\"}"), "100", "its histograms");
	snprintf(args, sizeof(args), "-n %s -L", path);
	ok(run(args) == 0 && has("4711") && has("815"), "its workers and leases");
	snprintf(args, sizeof(args), "-n %s -S", path);
	ok(run(args) == 0 && has("db1") && has("primary"), "its servers");
	snprintf(args, sizeof(args), "-n %s -e", path);
	ok(run(args) == 0 && has("server db1 is up"), "its events");
	unlink(path);
}

/* Wait until the kernel says that the child is stopped. */
static void stop(pid_t pid)
{
	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* Remove a link and what it leads to, as the next broker would. */
static void unlink_data(const char *path)
{
	char target[4096];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n > 0) {
		target[n] = '\0';
		unlink(target);
	}
	unlink(path);
}

/* One that was started before its broker. */
static void check_waiting(void)
{
	pid_t waiting = fork(), broker;
	int status = -1;

	if (waiting < 0) {
		bail_out("fork");
	}
	if (waiting == 0) {
		_exit(run("-1 -t 30"));
	}
	nanosleep(&(struct timespec){0, 50000000}, NULL); /* either order is right */
	broker = start_broker();
	waitpid(waiting, &status, 0);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "-t waits until there is a broker");
	end(broker);
	unlink_data(board_path);
	unlink_data(slow_path);
}

int main(void)
{
	pid_t pid;

	if (getenv("BROKERSTAT_BIN") == NULL) {
		bail_out("BROKERSTAT_BIN names no brokerstat");
	}
	if (mkdtemp(dir) == NULL) {
		bail_out("mkdtemp");
	}
	snprintf(mem, sizeof(mem), "%s/mem", dir);
	snprintf(socket_path, sizeof(socket_path), "%s/b.sock", dir);
	snprintf(board_path, sizeof(board_path), "%s.board", socket_path);
	snprintf(slow_path, sizeof(slow_path), "%s.slow", socket_path);
	if (mkdir(mem, 0700) < 0) {
		bail_out("mkdir");
	}
	check_usage();
	check_waiting();
	pid = start_broker();
	check_once();
	check_tables();
	check_json();
	check_following();
	check_filter();
	check_recording();
	check_later_minor();
	stop(pid);
	is_int(run("-1"), 0, "a stopped broker is shown");
	ok(strstr(err, "stopped") != NULL, "with a notice");
	is_str(value_of("broker_attaches_total"), "12", "and all its numbers");
	end(pid);
	is_int(run("-p"), 4, "a dead broker is shown, and the exit code tells");
	ok(has("main") && has("transaction"), "its pools");
	ok(strstr(err, "dead") != NULL, "with a notice");
	is_int(run("-1"), 4, "its metrics");
	is_str(value_of("broker_up"), "0", "with broker_up 0");
	is_str(value_of("broker_attaches_total"), "12", "and all the others");
	check_old_recording();
	pid = start_broker();
	check_other_versions();
	end(pid);
	unlink_data(board_path);
	unlink_data(slow_path);
	rmdir(mem);
	ok(rmdir(dir) == 0, "nothing is left");
	return done_testing();
}
