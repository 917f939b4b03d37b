/* SPDX-License-Identifier: MIT */
/*
 * test_pg_groups.c - quick reads share a Sync; an error, a cancel or a lost connection in the
 * middle of such a group concerns one statement only.  One connection, so that everything shares.
 */
#include "brokerproc.h"
#include "pg.h"
#include "shmbroker.h"
#include "tap.h"
#include "wait.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 24

static const struct broker_call reads = {.flags = BROKER_READONLY};
static struct broker *b;

static void must(int rc, const char *what)
{
	if (rc < 0) {
		bail_out("%s: %s", what, broker_error(b)->message);
	}
}

static uint64_t submit(const char *sql, int64_t v)
{
	struct broker_value p = broker_int64(v);
	uint64_t t = 0;

	must(broker_submit(b, sql, 1, &p, &reads, &t), "submit");
	return t;
}

static int64_t value(struct broker_result **r)
{
	int64_t v = -1;

	if (broker_next(*r) != 1 || broker_get_int64(*r, 0, &v) < 0) {
		v = -1;
	}
	broker_result_free(r);
	return v;
}

/* Run them often enough to be known as quick and to be prepared. */
static void warm_up(void)
{
	for (int i = 0; i < 20; i++) {
		uint64_t t = submit("SELECT 1000 / $1::int", 1);

		must(broker_collect(b, t, -1, NULL, NULL), "warm up");
		t = submit("SELECT $1::int + 1", i);
		must(broker_collect(b, t, -1, NULL, NULL), "warm up");
	}
}

/* A batch in which statement i fails if its bit is set. */
static unsigned run_batch(uint32_t failing)
{
	uint64_t ticket[BATCH];
	unsigned wrong = 0;

	for (int i = 0; i < BATCH; i++) {
		ticket[i] = failing >> i & 1 ? submit("SELECT 1000 / $1::int", 0)
					     : submit("SELECT $1::int + 1", i);
	}
	for (int i = 0; i < BATCH; i++) {
		struct broker_result *r = NULL;
		int rc = broker_collect(b, ticket[i], -1, NULL, &r);

		if (failing >> i & 1) {
			wrong += rc != BROKER_E_DATABASE ||
				 strcmp(broker_error(b)->sqlstate, "22012") != 0;
			broker_result_free(&r);
		} else {
			wrong += rc < 0 || value(&r) != i + 1;
		}
	}
	return wrong;
}

static void test_errors(void)
{
	unsigned wrong = 0;

	for (int i = 0; i < BATCH; i++) {
		wrong += run_batch(UINT32_C(1) << i);
	}
	is_int(wrong, 0, "an error at every place of a batch fails that statement only");
	is_int(run_batch(0xffffff), 0, "a batch of nothing but errors");
	is_int(run_batch(0x555555), 0, "every second one fails");
	srandom(7);
	wrong = 0;
	for (int i = 0; i < 300; i++) {
		wrong += run_batch((uint32_t)random() & (uint32_t)random() & 0xffffff);
	}
	is_int(wrong, 0, "300 batches with errors at random places");
}

static void test_cancels(void)
{
	unsigned wrong = 0, cancelled = 0;

	for (int round = 0; round < 50; round++) {
		uint64_t ticket[BATCH];
		int victim = (int)(random() % BATCH);

		for (int i = 0; i < BATCH; i++) {
			ticket[i] = submit("SELECT $1::int + 1", i);
		}
		must(broker_cancel(b, ticket[victim]), "cancel");
		for (int i = 0; i < BATCH; i++) {
			struct broker_result *r = NULL;
			int rc = broker_collect(b, ticket[i], -1, NULL, &r);

			if (i == victim && rc == BROKER_E_CANCELLED) {
				cancelled++;
			} else {
				wrong += rc < 0 || value(&r) != i + 1;
			}
		}
	}
	is_int(wrong, 0, "a cancel hits the statement it was meant for, or none");
	diag("%u of 50 cancels were in time", cancelled);
}

static void test_stale_plans(struct pg_cluster *pg)
{
	unsigned wrong = 0;

	pg_do(pg, "CREATE TABLE shape (id int, v int)");
	pg_do(pg, "INSERT INTO shape SELECT i, i + 1 FROM generate_series(0, 30) i");
	for (int i = 0; i < 20; i++) {
		must(broker_collect(
			     b, submit("SELECT * FROM shape WHERE id = $1", 1), -1, NULL, NULL),
			"warm up");
	}
	for (int round = 0; round < 5; round++) {
		uint64_t ticket[BATCH];

		pg_do(pg, "ALTER TABLE shape ADD COLUMN c%d int", round);
		for (int i = 0; i < BATCH; i++) {
			ticket[i] = submit(i % 3 == 0 ? "SELECT $1::int"
						      : "SELECT * FROM shape WHERE id = $1",
				i);
		}
		for (int i = 0; i < BATCH; i++) {
			struct broker_result *r = NULL;

			wrong += broker_collect(b, ticket[i], -1, NULL, &r) < 0 || value(&r) != i;
		}
	}
	is_int(wrong, 0, "a schema change in front of a group is not noticed by workers");
}

static void test_lost(struct pg_cluster *pg)
{
	unsigned wrong = 0;

	for (int round = 0; round < 5; round++) {
		uint64_t ticket[BATCH];

		for (int i = 0; i < BATCH; i++) {
			ticket[i] = submit("SELECT $1::int + 1", i);
		}
		pg_do(pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
			  "WHERE application_name = 'shmbroker'");
		for (int i = 0; i < BATCH; i++) {
			struct broker_result *r = NULL;

			wrong += broker_collect(b, ticket[i], -1, NULL, &r) < 0 ||
				 value(&r) != i + 1;
		}
	}
	is_int(wrong, 0, "reads in flight on a lost connection are repeated");
}

int main(void)
{
	static const char *const settings[] = {"pool main.max_size=1", NULL};
	struct pg_cluster *pg = pg_start(NULL);
	struct broker_proc *proc = broker_start(pg_url(pg), settings);
	struct broker_options opt = {.path = broker_socket(proc)};

	must(broker_attach(&opt, &b), "attach");
	warm_up();
	test_errors();
	test_cancels();
	test_stale_plans(pg);
	test_lost(pg);
	is_int(run_batch(0), 0, "and all is well");
	broker_detach(&b);
	is_int(broker_free(&proc), 0, "the broker ends well");
	pg_remove(&pg);
	return done_testing();
}
