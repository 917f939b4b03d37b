/* SPDX-License-Identifier: MIT */
/*
 * test_io_threads.c - a broker with three I/O threads: one limit for all of them, connections that
 * go to whoever waits, one set of numbers, one reload; workers that are killed, servers that are
 * replaced; and what may not be combined with it.
 */
#include "bank.h"
#include "behave.h"
#include "check.h"
#include "crew.h"
#include "ledger.h"
#include "pg_case.h"
#include "settings.h"
#include "spawn.h"

#include <signal.h>
#include <stdatomic.h>

#define THREADS "broker.io_threads=3"
#define LONG_MS 60000
#define CALL_MS 20000

/* Written by the workers, looked at by the test. */
struct notes {
	_Atomic uint64_t done[CREW_MAX]; /* rounds of each worker */
	_Atomic uint64_t statements; /* that were answered, of all of them */
	_Atomic uint64_t committed;
	_Atomic int64_t worst_us; /* longest call */
};

static unsigned quick(unsigned usual, unsigned less)
{
	return getenv("TEST_QUICK") != NULL ? less : usual;
}

static void note_time(struct notes *n, int64_t since_us)
{
	int64_t us = wait_clock_us() - since_us, worst = atomic_load(&n->worst_us);

	while (us > worst && !atomic_compare_exchange_weak(&n->worst_us, &worst, us)) {
	}
}

/* -- what workers do --------------------------------------------------------------------------- */

static void run(struct crew_worker *w, const char *sql, const struct broker_call *call)
{
	struct notes *n = w->arg;
	int64_t start = wait_clock_us();

	if (crew_exec(w, sql, 0, NULL, call, NULL) < 0) {
		crew_surprise(w, "%s: %s", sql, broker_error(w->b)->message);
	}
	note_time(n, start);
	atomic_fetch_add(&n->statements, 1);
}

static void transact(struct crew_worker *w)
{
	struct broker_call call = {.timeout_ms = CALL_MS};
	struct notes *n = w->arg;
	struct broker_lease *l;

	if (crew_begin(w, &call, &l) < 0) {
		crew_surprise(w, "begin: %s", broker_error(w->b)->message);
		return;
	}
	call.lease = l;
	run(w, "UPDATE counter SET n = n + 1", &call);
	run(w, "SELECT n FROM counter", &call);
	if (crew_commit(w, &l, CALL_MS) < 0) {
		crew_surprise(w, "commit: %s", broker_error(w->b)->message);
		return;
	}
	atomic_fetch_add(&n->committed, 1);
}

/* Reads that share connections, writes and transactions that do not. */
static void job_mix(struct crew_worker *w)
{
	struct broker_call read = {.flags = BROKER_READONLY, .timeout_ms = CALL_MS},
			   write = {.timeout_ms = CALL_MS};
	struct notes *n = w->arg;

	for (unsigned i = 0; i < 8; i++) {
		run(w, "SELECT 1", &read);
	}
	run(w, "SELECT pg_sleep(0.0005)", &write);
	transact(w);
	atomic_fetch_add(&n->done[w->id], 1);
}

/* Nothing but reads, without a pause: a shared connection is never free by itself. */
static void job_reads(struct crew_worker *w)
{
	struct broker_call read = {.flags = BROKER_READONLY, .timeout_ms = CALL_MS};
	struct notes *n = w->arg;

	run(w, "SELECT 2", &read);
	atomic_fetch_add(&n->done[w->id], 1);
}

/* -- looking ----------------------------------------------------------------------------------- */

/* Connections that the server has from the pool; probes have another name. */
static int64_t backends(struct pg_cluster *pg)
{
	return pg_int(
		pg, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shmbroker'");
}

static bool all_have(struct notes *n, unsigned workers, uint64_t rounds)
{
	for (unsigned i = 0; i < workers; i++) {
		if (atomic_load(&n->done[i]) < rounds) {
			return false;
		}
	}
	return true;
}

static uint64_t spread(struct notes *n, unsigned workers, uint64_t *least)
{
	uint64_t most = 0;

	*least = UINT64_MAX;
	for (unsigned i = 0; i < workers; i++) {
		uint64_t done = atomic_load(&n->done[i]);

		most = done > most ? done : most;
		*least = done < *least ? done : *least;
	}
	return most;
}

static int64_t counter_of(struct pg_cluster *pg)
{
	return pg_int(pg, "SELECT n FROM counter");
}

static void make_counter(struct pg_cluster *pg)
{
	pg_do(pg, "DROP TABLE IF EXISTS counter");
	pg_do(pg, "CREATE TABLE counter AS SELECT 0 AS n");
}

static int64_t metric(struct broker_proc *p, const char *name)
{
	return behave_metric(p, name, "");
}

/* Threads of the broker's process by their count in /proc. */
static int64_t threads_of(struct broker_proc *p)
{
	char *path = scratch_format("/proc/%d/status", (int)broker_pid(p)), line[128];
	FILE *f = fopen(path, "r");
	int64_t n = 0;

	free(path);
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		if (strncmp(line, "Threads:", 8) == 0) {
			n = strtoll(line + 8, NULL, 10);
		}
	}
	if (f != NULL) {
		fclose(f);
	}
	return n;
}

/* -- one limit --------------------------------------------------------------------------------- */

struct load {
	struct pg_case t;
	struct notes *notes;
	struct crew *crew;
	unsigned workers;
};

static struct load load_start(const char *max_size, unsigned workers, crew_job *job)
{
	struct load l = {.workers = workers};
	char *size = scratch_format("pool main.max_size=%s", max_size);

	l.t = case_start(
		NULL, (const char *const[]){THREADS, size, "pool main.acquire_timeout=20s", NULL});
	free(size);
	make_counter(l.t.pg);
	l.notes = crew_shared(sizeof(*l.notes));
	l.crew = crew_start(broker_socket(l.t.proc), workers, job, NULL, l.notes);
	return l;
}

/* Until each worker has done so many more rounds; the most backends there were. */
static int64_t work_on(struct load *l, uint64_t rounds, const char *what)
{
	uint64_t least, most = spread(l->notes, l->workers, &least);
	int64_t peak = 0;

	ok(wait_until(({
		int64_t n = backends(l->t.pg);

		peak = n > peak ? n : peak;
		all_have(l->notes, l->workers, least + rounds);
	}), LONG_MS * 2),
		"%s: every worker is served", what);
	most = spread(l->notes, l->workers, &least);
	diag("%s: from %llu to %llu rounds, longest call %lld ms", what, (unsigned long long)least,
		(unsigned long long)most, (long long)atomic_load(&l->notes->worst_us) / 1000);
	return peak;
}

/* Calls of all shapes of statements; *twice: some shape is there more than once. */
static int64_t calls_by_shape(struct broker_proc *p, bool *twice)
{
	const char *const argv[] = {
		getenv("BROKERSTAT_BIN"), "-n", broker_socket(p), "-T", "-j", "-c", "1", NULL};
	char *out = spawn_output(argv, NULL, NULL);
	int64_t calls = 0;

	*twice = false;
	for (char *at = out; (at = strstr(at, "\"fingerprint\"")) != NULL; at++) {
		char *same = scratch_format("%.32s", at), *n = strstr(at, "\"calls\":");

		calls += n != NULL ? strtoll(n + strlen("\"calls\":"), NULL, 10) : 0;
		*twice |= strstr(at + 1, same) != NULL;
		free(same);
	}
	free(out);
	return calls;
}

/* What workers, server and board have counted is the same. */
static void compare(struct load *l)
{
	struct notes *n = l->notes;
	struct broker_proc *p = l->t.proc;
	int64_t made = (int64_t)atomic_load(&n->statements);
	bool twice = true;

	is_int(counter_of(l->t.pg), (int64_t)atomic_load(&n->committed),
		"what was committed is there");
	ok(wait_until(metric(p, "broker_statements_finished_total") == made, LONG_MS),
		"the board has counted every statement, once");
	is_int(metric(p, "broker_statements_started_total"), made, "and as many began");
	ok(wait_until(metric(p, "broker_statements_in_flight") == 0, LONG_MS), "none is in flight");
	is_int(calls_by_shape(p, &twice), made, "the shapes of statements add up to it");
	ok(!twice, "each shape is shown once");
	is_int(metric(p, "broker_leases_granted_total"), (int64_t)atomic_load(&n->committed),
		"a lease for each transaction");
	is_int(metric(p, "broker_leases_released_total"), (int64_t)atomic_load(&n->committed),
		"which was given back");
}

static void load_end(struct load *l)
{
	case_end(&l->t);
}

/* Fewer connections than threads: they have to go round. */
static void test_one_connection(void)
{
	struct load l = load_start("1", 9, job_mix);

	ok(threads_of(l.t.proc) >= 3, "the broker has its threads");
	is_int(work_on(&l, quick(40, 15), "one connection"), 1, "there is never more than one");
	crew_stop(&l.crew, "one connection");
	ok(metric(l.t.proc, "broker_connections_lent_total") > 0, "it went round");
	is_int(metric(l.t.proc, "broker_connections_created_total"), 1, "and was opened once");
	compare(&l);
	load_end(&l);
}

static void test_one_connection_shared(void)
{
	struct load l = load_start("1", 9, job_reads);
	uint64_t least, most;

	is_int(work_on(&l, quick(3000, 500), "shared"), 1, "one connection");
	most = spread(l.notes, l.workers, &least);
	ok(least * 20 > most, "nobody gets far less than the others (%llu, %llu)",
		(unsigned long long)least, (unsigned long long)most);
	crew_stop(&l.crew, "shared");
	compare(&l);
	load_end(&l);
}

static void test_some_connections(void)
{
	struct load l = load_start("4", 12, job_mix);

	ok(work_on(&l, quick(60, 20), "four connections") <= 4, "there are never more than four");
	/* what one thread opens another may have given it meanwhile: then one is dropped */
	ok(metric(l.t.proc, "broker_connections_created_total") <= 4 + 3,
		"and they are kept, but for one of each thread");
	crew_stop(&l.crew, "four connections");
	compare(&l);
	load_end(&l);
}

/* Somebody holds the only connection: who waits in vain, in whatever thread, is told. */
static void test_complaint(void)
{
	struct pg_case t = case_start(NULL, (const char *const[]){THREADS, "pool main.max_size=1",
						   "pool main.acquire_timeout=600ms", NULL});
	struct broker_lease *l = behave_hold(t.b, NULL, "SELECT 1");
	struct broker *others[4];
	char *pid = scratch_format("held by pid %d", (int)getpid());
	unsigned told = 0;

	for (unsigned i = 0; i < 4; i++) {
		others[i] = case_attach(t.proc);
	}
	for (unsigned i = 0; i < 4; i++) {
		is_int(case_run(others[i], NULL, "SELECT 1"), BROKER_E_TIMEOUT,
			"worker %u waits in vain", i);
		told += strstr(broker_error(others[i])->message, "total=1 active=1 idle=0") !=
				NULL &&
			strstr(broker_error(others[i])->message, pid) != NULL;
	}
	is_int(told, 4, "each is told how many there are and who holds it");
	diag("%s", broker_error(others[3])->message);
	broker_release(&l);
	for (unsigned i = 0; i < 4; i++) {
		is_int(case_run(others[i], NULL, "SELECT 1"), 0, "worker %u is served then", i);
		broker_detach(&others[i]);
	}
	free(pid);
	case_end(&t);
}

/* Two pools share a server's limit of three, and each wants to keep two open; now and then one
 * needs both of its own. */
static void test_server_limit(void)
{
	struct pg_cluster *pg = pg_start(NULL);
	char *url = scratch_format("server db.url=%s", pg_url(pg));
	struct broker_proc *p = broker_start(
		NULL, (const char *const[]){THREADS, url, "server db.max_connections=3",
			      "pool main.servers=db", "pool b.servers=db", "pool main.max_size=2",
			      "pool b.max_size=2", "pool main.acquire_timeout=20s",
			      "pool b.acquire_timeout=20s", NULL});
	struct broker *b[6];
	unsigned held = 0, within = 0;

	for (unsigned i = 0; i < 6; i++) {
		struct broker_options opt = {.path = broker_socket(p),
			.pool = i % 2 == 0 ? "main" : "b",
			.timeout_ms = 10000};

		if (broker_attach(&opt, &b[i]) < 0) {
			bail_out("attach: %s", broker_error(NULL)->message);
		}
	}
	for (unsigned i = 0; i < quick(12, 6); i++) { /* of the same pool, with different threads */
		struct broker_lease *one = behave_hold(b[i % 6], NULL, "SELECT 1"),
				    *two = behave_hold(b[(i + 2) % 6], NULL, "SELECT 1");

		held += one != NULL && two != NULL;
		/* a server process outlives its connection for a moment */
		within += wait_until(backends(pg) <= 3, LONG_MS);
		broker_release(&one);
		broker_release(&two);
	}
	is_int(held, quick(12, 6), "idle connections of the other pool make room");
	is_int(within, quick(12, 6), "within the server's limit");
	for (unsigned i = 0; i < 6; i++) {
		broker_detach(&b[i]);
	}
	is_int(broker_free(&p), 0, "the broker ends well");
	free(url);
	pg_remove(&pg);
}

/* -- workers that die -------------------------------------------------------------------------- */

static int die_holding(struct broker *b, void *arg)
{
	struct broker_lease *l;

	(void)arg;
	if (broker_begin(b, NULL, &l) == 0) {
		struct broker_call call = {.lease = l};

		(void)!broker_exec(b, "UPDATE counter SET n = n + 1000000", 0, NULL, &call, NULL);
	}
	raise(SIGKILL);
	return 1;
}

static void test_deaths(void)
{
	struct load l = load_start("2", 6, job_mix);

	for (unsigned i = 0; i < quick(30, 12); i++) {
		is_int(behave_ended(behave_worker(l.t.proc, die_holding, NULL), LONG_MS), -1,
			"worker dies with a transaction open");
	}
	(void)work_on(&l, 10, "deaths");
	/* one that is closed, and its successor, may be seen together or not at all for a moment */
	ok(wait_until(backends(l.t.pg) == 2, LONG_MS), "two connections");
	crew_stop(&l.crew, "deaths");
	is_int(counter_of(l.t.pg), (int64_t)atomic_load(&l.notes->committed),
		"nothing of theirs stays, all of the others' does");
	ok(wait_until(metric(l.t.proc, "broker_leases_active") == 0, LONG_MS), "no lease is left");
	load_end(&l);
}

/* -- reload ------------------------------------------------------------------------------------ */

static char *file;

static void configure(struct pg_cluster *pg, const char *broker, const char *pool)
{
	FILE *f = fopen(file, "w");

	if (f == NULL) {
		bail_out("cannot write %s", file);
	}
	fprintf(f, "[broker]\n%s\n[server db]\nurl = %s\n[pool main]\nservers = db\n%s\n", broker,
		pg_url(pg), pool);
	fclose(f);
}

static bool reload(struct broker_proc *p, const char *verdict)
{
	char *text = scratch_format("reload: %s", verdict);
	unsigned before = broker_log_count(p, text);
	bool told;

	kill(broker_pid(p), SIGHUP);
	told = wait_until(broker_log_count(p, text) == before + 1, LONG_MS);
	free(text);
	return told;
}

static void test_reload(void)
{
	struct load l = {.workers = 9};
	const char *sizes[] = {"max_size = 1", "max_size = 5", "max_size = 2\nmax_overflow = 2",
		"max_size = 3\nmin_idle = 0"};
	const int64_t most[] = {1, 5, 4, 3};

	l.t.pg = pg_start(NULL);
	make_counter(l.t.pg);
	configure(l.t.pg, "io_threads = 3", "max_size = 4");
	l.t.proc = broker_spawn((const char *const[]){"serve", "-c", file, NULL}, true);
	ok(broker_ready(l.t.proc, LONG_MS), "a broker with a file");
	l.t.b = case_attach(l.t.proc);
	l.notes = crew_shared(sizeof(*l.notes));
	l.crew = crew_start(broker_socket(l.t.proc), l.workers, job_mix, NULL, l.notes);
	for (unsigned i = 0; i < array_size(sizes); i++) {
		configure(l.t.pg, "io_threads = 3", sizes[i]);
		ok(reload(l.t.proc, "done"), "%s, under load", sizes[i]);
		ok(wait_until(backends(l.t.pg) <= most[i], LONG_MS), "the others are closed");
		/* a server process outlives its connection for a moment, beside its successor */
		ok(work_on(&l, 5, sizes[i]) <= 2 * most[i], "and there are no more than that");
	}
	configure(l.t.pg, "io_threads = 2", "max_size = 3");
	ok(reload(l.t.proc, "done"), "another number of threads");
	is_int(broker_log_count(
		       l.t.proc, "[broker] io_threads: a change needs a restart; it stays 3"),
		1, "needs a restart");
	configure(l.t.pg, "io_threads = 3", "max_size = 3\nmax_per_tag = 1");
	ok(reload(l.t.proc, "nothing was changed"), "what threads do not allow is refused");
	configure(l.t.pg, "", "max_size = 3\nmax_per_tag = 1");
	ok(reload(l.t.proc, "nothing was changed"), "also where their number is not given");
	work_on(&l, 5, "reloads");
	crew_stop(&l.crew, "reloads");
	compare(&l);
	case_end(&l.t);
}

/* -- servers ----------------------------------------------------------------------------------- */

static void test_bank(void)
{
	struct pg_case t = case_start((const char *const[]){"deadlock_timeout=100ms", NULL},
		(const char *const[]){
			THREADS, "pool main.max_size=5", "pool main.acquire_timeout=20s", NULL});
	struct bank *bank;

	bank_found(t.pg);
	bank = bank_open(broker_socket(t.proc), 16);
	for (unsigned i = 0; i < quick(6, 2); i++) {
		if (i % 3 == 2) {
			pg_stop(t.pg, PG_IMMEDIATE);
			pg_restart(t.pg);
		} else {
			pg_do(t.pg, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
				    "application_name = 'shmbroker' AND random() < 0.7");
		}
		ok(bank_moves(bank, 100, LONG_MS * 2), "after event %u transfers go on", i);
	}
	bank_close(&bank, t.pg);
	case_end(&t);
}

static void test_failover(void)
{
	const struct cluster_options opt = {.standbys = 1, .safe = true};
	struct settings *s = settings_new();
	struct cluster *c = cluster_start(&opt);
	struct broker_proc *p;
	struct bank *bank;
	unsigned old;

	bank_found(cluster_server(c, 0));
	ok(cluster_in_sync(c, LONG_MS), "two servers");
	settings_add_servers(s, c, NULL, NULL);
	settings_add(s, THREADS);
	settings_add(s, "pool main.max_size=4");
	settings_add(s, "pool main.read_from=any");
	p = broker_start(NULL, settings_list(s));
	bank = bank_open(broker_socket(p), 12);
	ok(bank_moves(bank, 100, LONG_MS * 2), "transfers");
	for (unsigned i = 0; i < quick(2, 1); i++) {
		old = cluster_primary(c);
		pg_stop(cluster_server(c, old), PG_KILL);
		(void)cluster_fail_over(c, NULL);
		cluster_rejoin(c, old);
		ok(bank_moves(bank, 100, LONG_MS * 2), "go on with the new primary");
	}
	is_int(broker_log_count(p, "writes go to server b, before"), 1, "which was told once");
	bank_close(&bank, cluster_server(c, cluster_primary(c)));
	is_int(broker_free(&p), 0, "the broker ends well");
	settings_free(&s);
	cluster_remove(&c);
}

/* -- what does not go together ----------------------------------------------------------------- */

static void refused(const char *const *args, const char *text)
{
	struct broker_proc *p = broker_spawn(args, true);

	ok(broker_wait(p, LONG_MS) != 0, "it does not start");
	ok(broker_log_count(p, text) > 0, "and says: %s", text);
	broker_free(&p);
}

static void test_contradictions(void)
{
	struct pg_cluster *pg = pg_start(NULL);
	struct broker_proc *p;

	refused((const char *const[]){"serve", "-s", THREADS, "-d", "sqlite:x.db", NULL},
		"io_threads: 3 I/O threads are for configurations with PostgreSQL only");
	refused((const char *const[]){"serve", "-s", THREADS, "-d", pg_url(pg), "-s",
			"pool main.max_per_uid=2", NULL},
		"io_threads: 3 I/O threads cannot keep max_per_uid");
	p = broker_start(NULL, NULL);
	is_int(broker_log_count(p, "ready"), 1, "on SQLite there is one thread by default");
	is_int(broker_free(&p), 0, "it ends well");
	pg_remove(&pg);
}

static void test_limits(void)
{
	struct pg_case t = case_start(NULL, (const char *const[]){THREADS, "broker.max_workers=4",
						    "pool main.max_size=2", NULL});
	struct broker_options opt = {.path = broker_socket(t.proc), .timeout_ms = 10000};
	struct broker *b[4] = {NULL};

	for (unsigned i = 0; i < 3; i++) {
		b[i] = case_attach(t.proc);
	}
	ok(broker_attach(&opt, &b[3]) < 0 &&
			strstr(broker_error(NULL)->message, "max_workers = 4") != NULL,
		"a fifth worker is refused, whichever thread it would be with");
	broker_detach(&b[0]);
	ok(wait_until(broker_attach(&opt, &b[0]) == 0, LONG_MS), "until another one leaves");
	for (unsigned i = 0; i < 3; i++) {
		is_int(case_run(b[i], NULL, "SELECT 1"), 0, "worker %u is served", i);
		broker_detach(&b[i]);
	}
	case_end(&t);
}

int main(void)
{
	if (!pg_available()) {
		skip("no PostgreSQL server is installed");
		return done_testing();
	}
	file = scratch_path("broker.ini");
	test_contradictions();
	test_limits();
	test_complaint();
	test_one_connection();
	test_one_connection_shared();
	test_some_connections();
	test_server_limit();
	test_deaths();
	test_reload();
	test_bank();
	test_failover();
	free(file);
	return done_testing();
}
