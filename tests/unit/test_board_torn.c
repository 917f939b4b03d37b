/* SPDX-License-Identifier: MIT */
/*
 * test_board_torn.c - no torn rows on a real board: one process writes rows of equal words as fast
 * as it can, others read them as brokerstat does.  Of what is not marked as torn every word must be
 * of one version.
 */
#include "board.h"
#include "reader.h"
#include "tap.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROWS 4u
#define READERS 2u

static char dir[] = "/tmp/torn-XXXXXX";
static char mem[64], sock[64], board_path[80], slow_path[80];

/* What a reader saw. */
struct counts {
	uint64_t whole; /* rows, slots and shapes whose words were equal */
	uint64_t marked; /* said to be torn */
	uint64_t mixed; /* words of several versions, and not said to be: the failure */
};
static struct counts *counts; /* shared with the children */

/* Every byte of a row is the same. */
static void write_rows(struct board *b, unsigned n)
{
	struct board_pool_info pool;
	struct board_server_info server;
	struct board_conn_info conn;
	struct board_worker_info worker;
	int byte = 1 + (int)(n % 255);

	memset(&pool, byte, sizeof(pool));
	memset(&server, byte, sizeof(server));
	memset(&conn, byte, sizeof(conn));
	memset(&worker, byte, sizeof(worker));
	board_pool_row(b, n % ROWS, &pool);
	board_server_row(b, n % ROWS, &server);
	board_conn_row(b, n % ROWS, &conn);
	board_worker_row(b, n % ROWS, &worker);
}

/* Records whose number, times and text say the same. */
static void write_records(struct board *b, uint64_t n, char text[64])
{
	struct slow_record rec = {.sql = text,
		.sql_len = 64,
		.when_ns = n,
		.run_ns = n,
		.wait_ns = n,
		.rows = n,
		.fingerprint = n};

	memset(text, 'a' + (int)(n % 26), 64);
	board_slow(b, &rec);
	board_event(b, (enum board_event_kind)(1 + n % 14), "%.*s", 64, text);
}

static void write_shape(struct board *b, uint64_t n)
{
	struct shape_call call = {.now_ns = n, .wait_ns = 1, .run_ns = 1, .rows = 1, .ran = true};
	bool evicted;
	uint32_t row = shape_find(board_shapes(b), 0, 5, 0);

	if (row == SHAPE_NONE) {
		row = shape_add(board_shapes(b), 0, 5, "select", 6, false, 1, &evicted);
	}
	shape_count(board_shapes(b), row, &call);
}

_Noreturn static void write_for_ever(int ready)
{
	struct board_geometry g = {.npools = ROWS,
		.nservers = ROWS,
		.nconns = ROWS,
		.nworkers = ROWS,
		.nslow = 4,
		.nshapes = 2};
	struct board_place s = {board_path, mem, 0644, (gid_t)-1};
	struct board_place q = {slow_path, mem, 0640, (gid_t)-1};
	struct segment_identity id;
	struct board *b;
	char text[64];

	segment_identity_self(&id);
	if (board_create(&id, &g, &s, &q, &b) < 0) {
		_exit(1);
	}
	(void)!write(ready, "r", 1);
	for (uint64_t n = 1;; n++) {
		write_rows(b, (unsigned)n);
		write_records(b, n, text);
		write_shape(b, n);
	}
}

static bool equal_bytes(const void *p, size_t n)
{
	const unsigned char *c = p;

	for (size_t i = 1; i < n; i++) {
		if (c[i] != c[0]) {
			return false;
		}
	}
	return true;
}

static void count_row(struct counts *c, bool torn, bool equal)
{
	c->whole += !torn && equal;
	c->marked += torn;
	c->mixed += !torn && !equal;
}

/* Texts were terminated by the reader: up to their last byte. */
static void look_at_rows(const struct sample *s, struct counts *c)
{
	for (unsigned i = 0; i < ROWS; i++) {
		const struct pool_row *p = &s->pools[i];
		const struct server_row *v = &s->servers[i];
		const struct worker_row *w = &s->workers[i];

		if (p->used) {
			count_row(c, p->torn,
				equal_bytes(p->info.name, BOARD_NAME_MAX - 1) &&
					equal_bytes(&p->info.state, 32) &&
					p->info.name[0] == *(const char *)&p->info.state);
		}
		if (v->used) {
			count_row(c, v->torn,
				equal_bytes(v->info.last_error, sizeof(v->info.last_error) - 1) &&
					equal_bytes(&v->info.state, 56) &&
					v->info.name[0] == *(const char *)&v->info.probed_ns);
		}
		if (s->conns[i].used) {
			count_row(c, s->conns[i].torn,
				equal_bytes(&s->conns[i].info, sizeof(s->conns[i].info)));
		}
		if (w->used) {
			count_row(c, w->torn,
				equal_bytes(w->info.tag, BOARD_NAME_MAX - 1) &&
					equal_bytes(&w->info.state, 56) &&
					*(const char *)&w->info.pid == w->info.tag[0]);
		}
	}
}

static void look_at_events(const struct sample *s, struct counts *c)
{
	for (unsigned i = 0; i < s->nevents; i++) {
		const struct board_event_slot *e = &s->events[i].slot;
		uint64_t n = s->events[i].number;

		count_row(c, false,
			equal_bytes(e->text, 64) && e->text[0] == (char)('a' + n % 26) &&
				e->kind == 1 + n % 14 &&
				strcmp(e->name, board_event_name((enum board_event_kind)e->kind)) ==
					0);
	}
}

static void look_at_slow(struct reader *r, struct counts *c)
{
	struct numbered_slow *v = NULL;
	uint64_t lost;
	int n = reader_slow(r, 0, &v, &lost);

	for (int i = 0; i < n; i++) {
		const struct slow_slot *q = &v[i].slot;

		count_row(c, false,
			q->run_ns == v[i].number && q->wait_ns == v[i].number &&
				q->rows == v[i].number && q->fingerprint == v[i].number &&
				q->sql_len == 64 && equal_bytes(q->sql, 64) &&
				q->sql[0] == (char)('a' + v[i].number % 26));
	}
	free(v);
}

static void look_at_shapes(struct reader *r, struct counts *c)
{
	struct shape_entry *v = NULL;
	int n = reader_shapes(r, &v);

	for (int i = 0; i < n; i++) {
		const struct shape_row *row = &v[i].row;

		if (row->calls > 0) {
			count_row(c, v[i].torn,
				row->rows == row->calls && row->wait_ns == row->calls &&
					row->run.sum_ns == row->calls &&
					row->last_ns == row->calls);
		}
	}
	free(v);
}

_Noreturn static void read_for(double seconds, struct counts *c)
{
	struct timespec start, now;
	struct reader *r;
	struct sample *s;
	char err[256];

	if (reader_open(sock, 5000, &r, err, sizeof(err)) < 0) {
		_exit(1);
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		if (reader_sample(r, &s) < 0) {
			_exit(1);
		}
		look_at_rows(s, c);
		look_at_events(s, c);
		sample_free(&s);
		look_at_slow(r, c);
		look_at_shapes(r, c);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9 <
		 seconds);
	reader_close(&r);
	_exit(0);
}

static pid_t start_writer(void)
{
	int ready[2];
	char c;
	pid_t pid;

	if (pipe(ready) < 0 || (pid = fork()) < 0) {
		bail_out("fork");
	}
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		write_for_ever(ready[1]);
	}
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1) {
		bail_out("the writer could not create its board");
	}
	close(ready[0]);
	return pid;
}

static void read_beside(double seconds)
{
	pid_t pid[READERS];

	for (unsigned i = 0; i < READERS; i++) {
		pid[i] = fork();
		if (pid[i] < 0) {
			bail_out("fork");
		}
		if (pid[i] == 0) {
			(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
			read_for(seconds, &counts[i]);
		}
	}
	for (unsigned i = 0; i < READERS; i++) {
		int status = -1;

		waitpid(pid[i], &status, 0);
		is_int(status, 0, "reader %u reads", i);
		diag("reader %u: %llu whole, %llu marked as torn, %llu mixed", i,
			(unsigned long long)counts[i].whole, (unsigned long long)counts[i].marked,
			(unsigned long long)counts[i].mixed);
		ok(counts[i].whole > 100, "reader %u reads rows that are whole", i);
		is_int((int64_t)counts[i].mixed, 0, "reader %u takes no torn row for whole", i);
	}
}

/* What a writer leaves that is stopped or killed anywhere: whole, or marked. */
static void read_after(const char *what)
{
	struct counts c = {0};
	struct reader *r;
	struct sample *s;
	char err[256];

	if (reader_open(sock, 0, &r, err, sizeof(err)) < 0 || reader_sample(r, &s) < 0) {
		bail_out("%s", err);
	}
	look_at_rows(s, &c);
	look_at_events(s, &c);
	look_at_slow(r, &c);
	look_at_shapes(r, &c);
	ok(c.mixed == 0 && c.marked <= 1, "%s: at most one row is torn, and marked", what);
	sample_free(&s);
	reader_close(&r);
}

static void remove_data(const char *path)
{
	char target[4096];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n > 0) {
		target[n] = '\0';
		unlink(target);
	}
	unlink(path);
}

int main(void)
{
	double seconds = getenv("TEST_QUICK") != NULL ? 0.5 : 2;
	pid_t writer;

	if (mkdtemp(dir) == NULL) {
		bail_out("mkdtemp");
	}
	snprintf(mem, sizeof(mem), "%s/mem", dir);
	snprintf(sock, sizeof(sock), "%s/s", dir);
	snprintf(board_path, sizeof(board_path), "%s.board", sock);
	snprintf(slow_path, sizeof(slow_path), "%s.slow", sock);
	counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counts == MAP_FAILED || mkdir(mem, 0700) < 0) {
		bail_out("cannot begin");
	}
	writer = start_writer();
	read_beside(seconds);
	for (unsigned i = 0; i < 20; i++) {
		kill(writer, SIGSTOP);
		waitpid(writer, NULL, WUNTRACED);
		read_after("stopped");
		kill(writer, SIGCONT);
		usleep(500 + 37 * i); /* another place each time */
	}
	kill(writer, SIGKILL);
	waitpid(writer, NULL, 0);
	read_after("killed");
	remove_data(board_path);
	remove_data(slow_path);
	rmdir(mem);
	ok(rmdir(dir) == 0, "nothing is left");
	return done_testing();
}
