/* SPDX-License-Identifier: MIT */
/*
 * test_reload_storm_long.c - workers write rows of their own, alone and in transactions, while the
 * configuration is read again several times a second (sizes, credentials, the url of the server)
 * and PostgreSQL goes and comes back; SQLite with a journal stands in.  In the end every
 * acknowledged row is in PostgreSQL once, and none that was refused.
 */
#include "behave.h"
#include "pg_case.h"

#include <signal.h>
#include <stdatomic.h>

#define PATIENCE_MS 60000
#define WORKERS 8
#define ROWS_MAX 40000
#define ROUNDS 12

enum fate {
	NOT_TRIED,
	DONE,
	NOT_DONE,
	UNKNOWN,
};

struct crowd {
	_Atomic int stop;
	_Atomic unsigned next;
	_Atomic int fate[ROWS_MAX];
};

static struct pg_cluster *pg;
static struct broker_proc *proc;
static char *file, *fallback;

static void configure(unsigned round)
{
	static const char *const extra[] = {"", "&application_name=other"};
	char *tmp = scratch_format("%s.new", file);
	FILE *f = fopen(tmp, "w");

	if (f == NULL) {
		bail_out("cannot write %s", tmp);
	}
	fprintf(f,
		"[server db]\nurl = %s%s\nhealth_interval = 100ms\nhealth_down_after = 2\n"
		"[server local]\nurl = sqlite:%s\n[pool main]\nservers = db, local\nuser = %s\n"
		"fallback = journal\nmirror = item\nmirror_interval = 200ms\n"
		"max_size = %u\nmin_idle = %u\nmax_overflow = %u\nacquire_timeout = 4s\n",
		pg_url(pg), extra[round / 2 % 2], fallback, round % 2 ? "app" : "other",
		2 + round % 4, round % 3, round % 2);
	fclose(f);
	if (rename(tmp, file) != 0) {
		bail_out("cannot rename %s", tmp);
	}
	free(tmp);
}

static void note(struct broker *b, struct crowd *c, unsigned row, int rc)
{
	atomic_store(&c->fate[row],
		rc == 0                                           ? DONE
		: broker_error(b)->outcome == BROKER_UNKNOWN ? UNKNOWN
							     : NOT_DONE);
}

static int writer(struct broker *b, void *arg)
{
	struct crowd *c = arg;
	unsigned row;

	while (atomic_load(&c->stop) == 0 && (row = atomic_fetch_add(&c->next, 1)) < ROWS_MAX) {
		struct broker_value v = broker_int64(row);
		struct broker_call in = {.timeout_ms = 3000};
		int rc;

		if (row % 3 != 0) {
			rc = broker_exec(b, "INSERT INTO item (n) VALUES ($1)", 1, &v, &in, NULL);
			note(b, c, row, rc);
			continue;
		}
		rc = broker_begin(b, &in, &in.lease);
		if (rc == 0) {
			rc = broker_exec(b, "INSERT INTO item (n) VALUES ($1)", 1, &v, &in, NULL);
		}
		if (rc == 0 && row % 9 == 0) {
			rc = behave_run(b, &in, "SELECT count(*) FROM item WHERE n < 5");
		}
		if (rc == 0) {
			note(b, c, row, broker_commit(&in.lease, 3000));
		} else {
			broker_rollback(&in.lease);
			atomic_store(&c->fate[row], NOT_DONE);
		}
	}
	return 0;
}

static void check_rows(struct crowd *c)
{
	unsigned done = 0, unknown = 0, failed = 0, lost = 0, surplus = 0,
		 n = atomic_load(&c->next);
	PGconn *conn = pg_connect(pg);
	PGresult *r = PQexec(conn, "SELECT n FROM item ORDER BY n");
	bool *there = calloc(ROWS_MAX, 1);

	for (int i = 0; i < PQntuples(r); i++) {
		there[atol(PQgetvalue(r, i, 0)) % ROWS_MAX] = true;
	}
	for (unsigned i = 0; i < n && i < ROWS_MAX; i++) {
		int fate = atomic_load(&c->fate[i]);

		done += fate == DONE;
		unknown += fate == UNKNOWN;
		failed += fate == NOT_DONE;
		lost += fate == DONE && !there[i];
		surplus += fate == NOT_DONE && there[i];
		if ((fate == DONE && !there[i]) || (fate == NOT_DONE && there[i])) {
			diag("row %u: %s", i, fate == DONE ? "lost" : "there though refused");
		}
	}
	diag("%u acknowledged, %u failed, %u unknown", done, failed, unknown);
	is_int(lost, 0, "every acknowledged row is in PostgreSQL");
	is_int(surplus, 0, "and none that was refused");
	is_int(pg_int(pg, "SELECT count(*) FROM broker_conflict"), 0, "nothing was set aside");
	ok(done > 100, "rows were written");
	free(there);
	PQclear(r);
	PQfinish(conn);
}

static void storm(struct behave_rng *rng)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned reloads = 1 + behave_random(rng, 6);
		bool away = round % 3 == 1;

		if (away) {
			pg_stop(pg, behave_random(rng, 2) ? PG_IMMEDIATE : PG_FAST);
		}
		for (unsigned i = 0; i < reloads; i++) {
			unsigned before = broker_log_count(proc, "reload: done");

			configure(behave_random(rng, 24));
			kill(broker_pid(proc), SIGHUP);
			if (!wait_until(
				    broker_log_count(proc, "reload: done") > before, PATIENCE_MS)) {
				bail_out("no reload");
			}
			(void)wait_until(false, behave_random(rng, 300));
		}
		if (away) {
			pg_restart(pg);
		}
		(void)wait_until(false, behave_random(rng, 1000));
	}
}

int main(void)
{
	const char *args[] = {"serve", "-c", NULL, NULL};
	struct behave_rng rng = behave_seed("reloads");
	struct crowd *c = behave_share(sizeof(*c));
	pid_t pid[WORKERS];
	struct broker *b;

	if (!pg_available()) {
		skip("no PostgreSQL here");
		return done_testing();
	}
	pg = pg_start(NULL);
	pg_do(pg, "CREATE ROLE app LOGIN SUPERUSER");
	pg_do(pg, "CREATE ROLE other LOGIN SUPERUSER");
	pg_do(pg, "CREATE TABLE item (n bigint PRIMARY KEY, name text)");
	file = scratch_path("storm.ini");
	fallback = scratch_path("fallback.db");
	args[2] = file;
	configure(0);
	proc = broker_spawn(args, true);
	if (!broker_ready(proc, PATIENCE_MS)) {
		bail_out("the broker does not start");
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		pid[i] = behave_worker(proc, writer, c);
	}
	storm(&rng);
	atomic_store(&c->stop, 1);
	for (unsigned i = 0; i < WORKERS; i++) {
		is_int(behave_ended(pid[i], PATIENCE_MS), 0, "worker %u ends", i);
	}
	b = case_attach(proc);
	ok(wait_until(behave_run(b, NULL, "UPDATE item SET name = 'last' WHERE n = -1") == 0 &&
			      strcmp(broker_last_server(b), "db") == 0,
		   PATIENCE_MS),
		"in the end the primary writes");
	check_rows(c);
	broker_detach(&b);
	is_int(broker_free(&proc), 0, "the broker ends well");
	pg_remove(&pg);
	behave_unshare(c, sizeof(*c));
	free(fallback);
	free(file);
	return done_testing();
}
