/* SPDX-License-Identifier: MIT */
/*
 * test_multiplexing.c - how many statements share a flush, a read group and a connection, as the
 * metrics say: one each while a single worker runs one statement at a time, more when 16 workers
 * have one connection between them.
 */
#include "behave.h"
#include "pg.h"

#include <stdlib.h>

#define WORKERS 16
#define READS 500

static const struct broker_call reads = {.flags = BROKER_READONLY};

struct figures {
	double sent, flushes, groups, grouped, in_flight;
};

static double pool_value(const char *look, const char *name)
{
	char full[160];

	snprintf(full, sizeof(full), "%s{pool=\"main\"}", name);
	return (double)behave_find(look, full);
}

static struct figures look(const struct broker_proc *proc)
{
	char *text = behave_look(proc);
	struct figures f = {
		.sent = pool_value(text, "broker_statements_sent_total"),
		.flushes = pool_value(text, "broker_flushes_total"),
		.groups = pool_value(text, "broker_read_groups_total"),
		.grouped = pool_value(text, "broker_read_group_statements_total"),
		.in_flight = pool_value(text, "broker_sends_in_flight_total"),
	};

	free(text);
	return f;
}

static struct figures since(struct figures before, struct figures now)
{
	return (struct figures){
		.sent = now.sent - before.sent,
		.flushes = now.flushes - before.flushes,
		.groups = now.groups - before.groups,
		.grouped = now.grouped - before.grouped,
		.in_flight = now.in_flight - before.in_flight,
	};
}

/* READS point reads, one at a time. */
static int read_points(struct broker *b, void *arg)
{
	(void)arg;
	for (int i = 0; i < READS; i++) {
		struct broker_value v = broker_int64(i);
		struct broker_result *r;
		int64_t got = -1;

		if (broker_exec(b, "SELECT v FROM point WHERE id = $1", 1, &v, &reads, &r) < 0) {
			fprintf(stderr, "# %s\n", broker_error(b)->message);
			return 1;
		}
		if (broker_next(r) != 1 || broker_get_int64(r, 0, &got) < 0 || got != i + 1) {
			return 2;
		}
		broker_result_free(&r);
	}
	return 0;
}

static void test_alone(const struct broker_proc *proc)
{
	struct broker *b = behave_attach(proc);
	struct figures before, f;

	if (read_points(b, NULL) !=
		0) { /* the connection is there, the statement prepared and quick */
		bail_out("no reads");
	}
	before = look(proc);
	is_int(read_points(b, NULL), 0, "one worker reads one point at a time");
	f = since(before, look(proc));
	is_int((int64_t)f.sent, READS, "every statement is sent once");
	is_int((int64_t)f.flushes, READS, "in a flush of its own");
	is_int((int64_t)f.in_flight, READS, "and alone on its connection");
	is_int((int64_t)f.groups, 0, "in no group");
	broker_detach(&b);
}

static void test_together(const struct broker_proc *proc)
{
	struct figures before = look(proc), f;
	unsigned good = 0;
	pid_t pid[WORKERS];

	for (unsigned i = 0; i < WORKERS; i++) {
		pid[i] = behave_worker(proc, read_points, NULL);
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		good += behave_ended(pid[i], 120000) == 0;
	}
	is_int(good, WORKERS, "%d workers do the same on one connection", WORKERS);
	f = since(before, look(proc));
	ok(f.sent >= WORKERS * READS, "every statement is sent");
	diag("%.2f statements for each flush, %.2f for each read group, %.2f in flight",
		f.sent / f.flushes, f.groups > 0 ? f.grouped / f.groups : 0, f.in_flight / f.sent);
	ok(f.sent / f.flushes > 1, "more than one goes out with a flush");
	ok(f.groups > 0 && f.grouped >= 2 * f.groups && f.grouped <= f.sent,
		"groups are of two or more");
	ok(f.in_flight / f.sent > 1 && f.in_flight / f.sent <= WORKERS,
		"more than one is in flight, and no more than there are workers");
}

int main(void)
{
	struct broker_proc *proc;
	struct pg_cluster *pg;

	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	pg = pg_start(NULL);
	pg_do(pg, "CREATE TABLE point (id int PRIMARY KEY, v int)");
	pg_do(pg, "INSERT INTO point SELECT i, i + 1 FROM generate_series(0, 499) i");
	proc = broker_start(pg_url(pg), SETTINGS("pool main.max_size=1"));
	test_alone(proc);
	test_together(proc);
	is_int(broker_free(&proc), 0, "the broker ends well");
	pg_remove(&pg);
	return done_testing();
}
