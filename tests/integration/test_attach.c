/* SPDX-License-Identifier: MIT */
/*
 * test_attach.c - coming and going: thousands of attaches in one process, processes that die
 * attached, handles inherited by fork, the inherited socket of `broker run`, limits, and who may.
 */
#include "brokerproc.h"
#include "check.h"
#include "raw.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "stage.h"
#include "tap.h"
#include "wait.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define GROWTH (8 << 20)
#define SOON_MS 60000

static int attach(const char *path, struct broker **b)
{
	struct broker_options o = {.path = path, .timeout_ms = SOON_MS};

	return broker_attach(&o, b);
}

static struct broker *must_attach(const char *path)
{
	struct broker *b;

	if (attach(path, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

static int run(struct broker *b, const char *sql, struct broker_lease *l)
{
	struct broker_call call = {.lease = l, .timeout_ms = 20000};

	return broker_exec(b, sql, 0, NULL, &call, NULL);
}

static int64_t count(struct broker *b, const char *sql)
{
	struct broker_result *r;
	int64_t n = -1;

	if (broker_exec(b, sql, 0, NULL, NULL, &r) < 0) {
		diag("%s", broker_error(b)->message);
		return -1;
	}
	if (broker_next(r) != 1 || broker_get_int64(r, 0, &n) < 0) {
		n = -1;
	}
	broker_result_free(&r);
	return n;
}

static int own_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (d != NULL && readdir(d) != NULL) {
		n++;
	}
	if (d != NULL) {
		closedir(d);
	}
	return n;
}

static int64_t own_rss(void)
{
	long long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f != NULL) {
		if (fscanf(f, "%*s %lld", &pages) != 1) {
			pages = 0;
		}
		fclose(f);
	}
	return pages * sysconf(_SC_PAGESIZE);
}

static bool is_bounded(int64_t grown)
{
	return grown < GROWTH || stage_slowness() > 1; /* sanitizers keep what was freed */
}

/* -- cycles ------------------------------------------------------------------------------------ */

/* Attach, one statement now and then, detach.  Rarely two at once. */
static unsigned cycle(const char *path, unsigned n)
{
	unsigned good = 0;

	for (unsigned i = 0; i < n; i++) {
		struct broker *b = NULL, *second = NULL;

		if (attach(path, &b) < 0 || (i % 10 == 0 && attach(path, &second) < 0)) {
			diag("%s", broker_error(NULL)->message);
		} else if (i % 4 == 0 && run(b, "SELECT 1", NULL) < 0) {
			diag("%s", broker_error(b)->message);
		} else {
			good++;
		}
		broker_detach(&b);
		broker_detach(&second);
	}
	return good;
}

#define FILES_OF_SQLITE 3 /* database, log, shared memory */

static void test_cycles(struct broker_proc *p)
{
	const char *path = broker_socket(p);
	unsigned n = stage_quick() ? 2000 : 10000;
	int64_t rss, mine;
	struct raw r;
	int fds, my_fds;

	(void)cycle(path, 100); /* what is allocated once is allocated */
	(void)wait_until(broker_metric(p, "broker_workers") == 0, SOON_MS);
	fds = broker_fds(p);
	rss = broker_rss(p);
	mine = own_rss();
	my_fds = own_fds();
	is_int(cycle(path, n), n, "%u times attached and detached", n);
	/* the connection for short reads is opened when the first one has proved to be short */
	ok(wait_until(broker_fds(p) <= fds + FILES_OF_SQLITE, SOON_MS),
		"the broker has as many descriptors as before");
	rss = broker_rss(p) - rss;
	ok(is_bounded(rss), "its memory has grown by no more than %lld KiB", (long long)rss / 1024);
	is_int(own_fds(), my_fds, "so has this process");
	mine = own_rss() - mine;
	ok(is_bounded(mine), "its memory has grown by no more than %lld KiB",
		(long long)mine / 1024);
	raw_attach(&r, path);
	ok(r.reply.worker_slot < 4, "rows of the workers table are used again (now %u)",
		r.reply.worker_slot);
	ok(r.reply.incarnation > n, "and incarnations are not (now %llu)",
		(unsigned long long)r.reply.incarnation);
	raw_drop(&r);
}

/* Attaches, begins a transaction, and dies. */
static _Noreturn void die_attached(const char *path, unsigned i)
{
	struct broker *b = NULL;
	struct broker_lease *l;
	uint64_t ticket;

	if (attach(path, &b) < 0) {
		_exit(1);
	}
	if (i % 3 == 1 &&
		(broker_begin(b, NULL, &l) < 0 || run(b, "INSERT INTO t VALUES (1)", l) < 0)) {
		_exit(2);
	}
	if (i % 3 == 2 && broker_submit(b, "SELECT count(*) FROM t", 0, NULL, NULL, &ticket) < 0) {
		_exit(3);
	}
	(void)kill(getpid(), SIGKILL);
	_exit(4);
}

static void test_deaths(struct broker_proc *p)
{
	unsigned n = stage_quick() ? 200 : 1000, killed = 0;
	int64_t deaths = broker_metric(p, "broker_worker_deaths_total"), rss;
	struct broker *b = must_attach(broker_socket(p));
	int fds = broker_fds(p);
	pid_t pid[8];

	rss = broker_rss(p);
	for (unsigned i = 0; i < n; i += array_size(pid)) {
		for (unsigned k = 0; k < array_size(pid); k++) {
			pid[k] = spawn_fork();
			if (pid[k] == 0) {
				die_attached(broker_socket(p), i + k);
			}
		}
		for (unsigned k = 0; k < array_size(pid); k++) {
			int status = spawn_wait(pid[k], 60000, NULL);

			killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
		}
	}
	is_int(killed, n, "%u processes attached and died", n);
	ok(wait_until(broker_metric(p, "broker_worker_deaths_total") - deaths == n, SOON_MS),
		"the broker saw each death");
	if (!ok(wait_until(broker_fds(p) <= fds, SOON_MS),
		    "it has as many descriptors as before")) {
		broker_show_fds(p);
	}
	rss = broker_rss(p) - rss;
	ok(is_bounded(rss), "its memory has grown by no more than %lld KiB", (long long)rss / 1024);
	ok(wait_until(broker_metric(p, "broker_leases_active") == 0, SOON_MS), "no lease is held");
	ok(wait_until(broker_metric(p, "broker_workers") == 1, SOON_MS), "one worker is attached");
	is_int(count(b, "SELECT count(*) FROM t"), 0, "and nothing of theirs is in the table");
	broker_detach(&b);
}

/* -- fork -------------------------------------------------------------------------------------- */

static _Noreturn void child_of(struct broker *b, struct broker_lease *l, struct broker_result *r)
{
	struct broker_call in = {.lease = l};
	int64_t v;

	/* What is the parent's stays the parent's. */
	if (broker_next(r) != BROKER_E_FORKED || broker_get_int64(r, 0, &v) >= 0) {
		_exit(1);
	}
	if (broker_exec(b, "INSERT INTO t VALUES (99)", 0, NULL, &in, NULL) != BROKER_E_FORKED) {
		_exit(2);
	}
	/* The handle is this process's own. */
	for (unsigned i = 0; i < 20; i++) {
		if (count(b, "SELECT 5") != 5) {
			_exit(3);
		}
	}
	if (run(b, "INSERT INTO child VALUES (1)", NULL) < 0) {
		_exit(4);
	}
	broker_result_free(&r);
	broker_rollback(&l);
	if (r != NULL || l != NULL || count(b, "SELECT 5") != 5) {
		_exit(5);
	}
	broker_detach(&b);
	_exit(b == NULL ? 0 : 6);
}

static void test_inherited_handle(struct broker_proc *p)
{
	struct broker *b = must_attach(broker_socket(p));
	struct broker_result *r;
	struct broker_lease *l;
	struct broker_call in = {0};
	unsigned good = 0, rows = 1;
	pid_t pid[6];

	if (broker_begin(b, NULL, &l) < 0) {
		bail_out("%s", broker_error(b)->message);
	}
	in.lease = l;
	is_int(run(b, "CREATE TABLE mine (n INTEGER)", l), 0, "a parent has a transaction");
	is_int(run(b, "INSERT INTO mine VALUES (1)", l), 0, "with a write");
	if (broker_exec(b, "SELECT n FROM three ORDER BY n", 0, NULL, &in, &r) < 0 ||
		broker_next(r) != 1) {
		bail_out("%s", broker_error(b)->message);
	}
	for (unsigned i = 0; i < array_size(pid); i++) {
		pid[i] = spawn_fork();
		if (pid[i] == 0) {
			if (i == 5) { /* it touches nothing and leaves by exit() */
				_exit(0);
			}
			if (i == 4) { /* nothing but letting go */
				broker_result_free(&r);
				broker_release(&l);
				broker_detach(&b);
				_exit(0);
			}
			alarm(60);
			child_of(b, l, r);
		}
	}
	while (broker_next(r) == 1) {
		rows++;
	}
	is_int(rows, 3, "children come, the parent reads on");
	broker_result_free(&r);
	is_int(run(b, "INSERT INTO mine VALUES (2)", l), 0, "and writes on");
	is_int(broker_commit(&l, 20000), 0, "and commits");
	for (unsigned i = 0; i < array_size(pid); i++) {
		int status = spawn_wait(pid[i], 60000, NULL);

		good += status == 0;
		if (status != 0) {
			diag("child %u: status 0x%x", i, (unsigned)status);
		}
	}
	is_int(good, array_size(pid), "each child attached by itself and left the parent alone");
	is_int(count(b, "SELECT count(*) FROM mine"), 2, "the parent's writes are there");
	is_int(count(b, "SELECT count(*) FROM child"), 4, "and those of the children");
	is_int(count(b, "SELECT count(*) FROM t"), 0, "and none through the parent's lease");
	broker_detach(&b);
}

/* -- broker run -------------------------------------------------------------------------------- */

/* What runs under the supervisor; an exit status for each step that fails. */
static _Noreturn void supervised(void)
{
	struct broker *b;
	pid_t pid[3];
	int status;

	if (getenv("BROKER_FD") == NULL || broker_attach(NULL, &b) < 0) {
		fprintf(stderr, "%s\n", broker_error(NULL)->message);
		_exit(1);
	}
	if (run(b, "CREATE TABLE seen (n INTEGER)", NULL) < 0) {
		_exit(2);
	}
	for (unsigned i = 0; i < array_size(pid); i++) {
		/* with the handle of the parent, and anew */
		pid[i] = fork();
		if (pid[i] == 0) {
			struct broker *own = b;

			if ((i == 1 && broker_attach(NULL, &own) < 0) ||
				run(own, "INSERT INTO seen VALUES (1)", NULL) < 0) {
				_exit(1);
			}
			_exit(0);
		}
	}
	for (unsigned i = 0; i < array_size(pid); i++) {
		if (waitpid(pid[i], &status, 0) != pid[i] || status != 0) {
			_exit(3);
		}
	}
	if (count(b, "SELECT count(*) FROM seen") != 3) {
		_exit(4);
	}
	broker_detach(&b);
	/* Another file under that number, or none: the path is taken. */
	setenv("BROKER_FD", "0", 1);
	if (broker_attach(NULL, &b) < 0 || run(b, "SELECT 1", NULL) < 0) {
		_exit(5);
	}
	broker_detach(&b);
	setenv("BROKER_FD", "987654", 1);
	if (broker_attach(NULL, &b) < 0 || run(b, "SELECT 1", NULL) < 0) {
		_exit(6);
	}
	broker_detach(&b);
	_exit(0);
}

static void test_supervised(const char *self)
{
	const char *const command[] = {self, "supervised", NULL};
	struct broker_proc *p = broker_start_run(NULL, NULL, command);
	int status = broker_wait(p, 60000);

	ok(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		"below `broker run` the inherited socket is found (0x%x)", (unsigned)status);
	broker_free(&p);
}

/* -- limits ------------------------------------------------------------------------------------ */

static void test_limit(const char *setting, const char *text)
{
	const char *const settings[] = {setting, NULL};
	struct broker_proc *p = broker_start("fake:", settings);
	struct broker *b[4];

	for (unsigned i = 0; i < 3; i++) {
		b[i] = must_attach(broker_socket(p));
	}
	is_int(attach(broker_socket(p), &b[3]), BROKER_E_REFUSED, "%s: the fourth is refused",
		setting);
	ok(strstr(broker_error(NULL)->message, text) != NULL, "and told why: %s",
		broker_error(NULL)->message);
	broker_detach(&b[1]);
	ok(wait_until(attach(broker_socket(p), &b[3]) == 0, SOON_MS), "one goes, and it may come");
	for (unsigned i = 0; i < 4; i++) {
		broker_detach(&b[i]);
	}
	ok(broker_metric(p, "broker_attach_refusals_total") >= 1, "refusals are counted");
	is_int(broker_free(&p), 0, "the broker ends well");
}

static void test_unknown_pool(void)
{
	struct broker_proc *p = broker_start("fake:", NULL);
	struct broker_options o = {.path = broker_socket(p), .pool = "nope"};
	struct broker *b;

	is_int(broker_attach(&o, &b), BROKER_E_REFUSED, "a pool that is not there");
	ok(strstr(broker_error(NULL)->message, "pool") != NULL, "%s", broker_error(NULL)->message);
	broker_free(&p);
}

/* -- who may ----------------------------------------------------------------------------------- */

struct person {
	uid_t uid;
	gid_t gid, more; /* primary, and one more; 0: none */
};

/* Code with which an attach by this person ends; the message goes to a file. */
static int attach_as(const struct broker_proc *p, const struct person *who, char *text, size_t size)
{
	char *file = scratch_path("refusal");
	int status;
	pid_t pid;
	FILE *f;

	pid = spawn_fork();
	if (pid == 0) {
		struct broker *b;
		int rc;

		f = fopen(file, "we");
		if (f == NULL || setgroups(who->more != 0, &who->more) < 0 ||
			setgid(who->gid) < 0 || setuid(who->uid) < 0) {
			_exit(99);
		}
		rc = attach(broker_socket(p), &b);
		if (rc < 0) {
			fputs(broker_error(NULL)->message, f);
		}
		fclose(f);
		broker_detach(&b);
		_exit(rc == 0 ? 0 : -(rc + 2000));
	}
	status = spawn_wait(pid, 60000, NULL);
	f = fopen(file, "re");
	if (f == NULL || fgets(text, (int)size, f) == NULL) {
		text[0] = '\0';
	}
	if (f != NULL) {
		fclose(f);
	}
	(void)unlink(file);
	free(file);
	return !WIFEXITED(status) || WEXITSTATUS(status) == 99 ? 99
	       : WEXITSTATUS(status) == 0                        ? 0
								 : -2000 - WEXITSTATUS(status);
}

static void check_person(const char *setting, const struct person *who, int want, const char *what)
{
	const char *const settings[] = {"broker.socket_mode=0666", setting, NULL};
	struct broker_proc *p = broker_start("fake:", settings);
	char text[300];

	is_int(attach_as(p, who, text, sizeof(text)), want, "%s", what);
	if (want == BROKER_E_REFUSED) {
		ok(strstr(text, "may not attach") != NULL && strstr(text, "allow_users") != NULL,
			"and is told why: %s", text);
	}
	broker_free(&p);
}

static void test_who(void)
{
	const struct person stranger = {.uid = 54321, .gid = 54321};
	const struct person member = {.uid = 54321, .gid = 54321, .more = 54322};

	if (getuid() != 0) {
		skip("becoming other users needs root");
		return;
	}
	check_person(NULL, &stranger, BROKER_E_REFUSED, "another user is refused");
	check_person("broker.allow_users=*", &stranger, 0, "unless everybody is allowed");
	check_person("broker.allow_users=daemon,54321", &stranger, 0, "or this user");
	check_person("broker.allow_users=daemon", &stranger, BROKER_E_REFUSED,
		"but not as one of others");
	check_person("broker.allow_groups=54321", &stranger, 0, "or the group");
	check_person("broker.allow_groups=54322", &stranger, BROKER_E_REFUSED, "but not another");
	check_person("broker.allow_groups=54322", &member, 0, "supplementary groups count, too");
}

static void test_unknown_names(void)
{
	struct broker_proc *p =
		broker_spawn((const char *const[]){"serve", "-d", "fake:", "-s",
				     "broker.allow_users=nobody-of-this-name", NULL},
			true);
	int status = broker_wait(p, SOON_MS);

	ok(WIFEXITED(status) && WEXITSTATUS(status) != 0,
		"an unknown user in allow_users ends the start");
	ok(broker_log_count(p, "nobody-of-this-name") > 0, "which names it");
	broker_free(&p);
}

static void make_tables(struct broker *b)
{
	static const char *const sql[] = {"CREATE TABLE t (n INTEGER)",
		"CREATE TABLE child (n INTEGER)",
		"CREATE TABLE three AS SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3"};

	for (unsigned i = 0; i < array_size(sql); i++) {
		if (run(b, sql[i], NULL) < 0) {
			bail_out("%s: %s", sql[i], broker_error(b)->message);
		}
	}
}

/*
 * Keep every reader busy at the same time.  SQLite opens a connection's WAL with its first read,
 * and a reader that is first needed later would pass for a leak.
 */
static void warm_up(struct broker *b)
{
	static const char slow[] = "WITH RECURSIVE c(n) AS (SELECT n FROM three UNION ALL "
				   "SELECT n + 3 FROM c WHERE n < 100000) SELECT count(*) FROM c";
	struct broker_call call = {.flags = BROKER_READONLY};
	uint64_t ticket[16];

	for (unsigned i = 0; i < array_size(ticket); i++) {
		if (broker_submit(b, slow, 0, NULL, &call, &ticket[i]) < 0) {
			bail_out("%s", broker_error(b)->message);
		}
	}
	for (unsigned i = 0; i < array_size(ticket); i++) {
		if (broker_collect(b, ticket[i], -1, NULL, NULL) < 0) {
			bail_out("%s", broker_error(b)->message);
		}
	}
}

int main(int argc, char **argv)
{
	struct broker_proc *p;
	struct broker *b;

	if (argc > 1 && strcmp(argv[1], "supervised") == 0) {
		supervised();
	}
	setenv("BROKER_DUMPABLE", "1", 1);
	/* what is known to be slow leaves a reader to others, so that the last of those that warm
	 * it up wait */
	p = broker_start(NULL, (const char *const[]){"pool main.acquire_timeout=60s", NULL});
	b = must_attach(broker_socket(p));
	make_tables(b);
	warm_up(b);
	broker_detach(&b);
	test_cycles(p);
	test_deaths(p);
	test_inherited_handle(p);
	is_int(broker_metric(p, "broker_evictions_total"), 0, "nobody was evicted");
	is_int(broker_free(&p), 0, "the broker ends well");
	test_supervised(argv[0]);
	test_limit("broker.max_workers=3", "too many workers (max_workers = 3)");
	test_limit("broker.max_workers_per_uid=3", "max_workers_per_uid = 3");
	test_unknown_pool();
	test_who();
	test_unknown_names();
	return done_testing();
}
