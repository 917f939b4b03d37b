/* SPDX-License-Identifier: MIT */
/*
 * test_handle.c - handles as servers use them: found through the environment, watched by an event
 * loop, one for each thread and for no other.
 */
#include "brokerproc.h"
#include "check.h"
#include "scratch.h"
#include "shmbroker.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int64_t value(struct broker *b, const char *sql)
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

/* -- ways to the broker ------------------------------------------------------------------------ */

/* Exit status of a child: 0 if it finds the broker without being told a path, else the code. */
static int finds(const char *variable, const char *directory)
{
	int status;
	pid_t pid = spawn_fork();

	if (pid == 0) {
		struct broker *b;
		int rc;

		unsetenv("BROKER_SOCKET");
		unsetenv("BROKER_FD");
		if (chdir(directory) < 0 ||
			(variable != NULL && setenv("BROKER_SOCKET", variable, 1) < 0)) {
			_exit(255);
		}
		rc = broker_attach(NULL, &b);
		if (rc < 0) {
			_exit(-(rc + 2000));
		}
		/* It keeps its meaning when the directory changes and the handle attaches anew. */
		if (chdir("/") < 0 || value(b, "SELECT 5") != 5) {
			_exit(254);
		}
		pid = fork();
		if (pid == 0) {
			_exit(value(b, "SELECT 5") == 5 ? 0 : 253);
		}
		if (waitpid(pid, &status, 0) != pid || status != 0) {
			_exit(253);
		}
		broker_detach(&b);
		_exit(0);
	}
	status = spawn_wait(pid, 60000, NULL);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 252;
}

static void test_ways(const struct broker_proc *p)
{
	char *dir = scratch_path("elsewhere");
	char *link = scratch_format("%s/shmbroker.sock", broker_dir(p));

	if (symlink(broker_dir(p), dir) < 0 || symlink("sock", link) < 0) {
		bail_out("cannot set the scene");
	}
	is_int(finds(broker_socket(p), "/"), 0, "BROKER_SOCKET names the broker");
	is_int(finds("sock", dir), 0, "also relatively");
	is_int(finds(NULL, dir), 0, "without anything ./shmbroker.sock is tried");
	is_int(finds("/nonexistent", dir), -(BROKER_E_NOT_FOUND + 2000),
		"a broker that is named and not there is not another one");
	free(link);
	free(dir);
}

/* -- event loop -------------------------------------------------------------------------------- */

/* Collect what there is; number, or -1. */
static int collect_ready(struct broker *b, unsigned *wrong)
{
	struct broker_result *r;
	uint64_t ticket;
	int n = 0, rc;

	while ((rc = broker_collect(b, 0, 0, &ticket, &r)) == 0) {
		int64_t v = 0;

		*wrong += broker_next(r) != 1 || broker_get_int64(r, 0, &v) < 0 || v != 7;
		broker_result_free(&r);
		n++;
	}
	return rc == BROKER_E_PENDING || (rc == BROKER_E_ARGUMENT && n > 0) ? n : -1;
}

static void submit(struct broker *b, const char *sql, unsigned n)
{
	uint64_t ticket;

	while (n-- > 0) {
		if (broker_submit(b, sql, 0, NULL, NULL, &ticket) < 0) {
			bail_out("%s", broker_error(b)->message);
		}
	}
}

/* Poll only; what never becomes readable is never collected. */
static unsigned loop_until(struct broker *b, unsigned want, unsigned *polls, unsigned *wrong)
{
	unsigned got = 0;

	while (got < want) {
		struct pollfd p = {.fd = broker_fd(b), .events = POLLIN};
		int n;

		if (p.fd < 0 || poll(&p, 1, 20000) != 1) {
			diag("nothing to read, %u of %u collected", got, want);
			break;
		}
		++*polls;
		n = collect_ready(b, wrong);
		if (n < 0) {
			diag("%s", broker_error(b)->message);
			break;
		}
		got += (unsigned)n;
	}
	return got;
}

static void test_event_loop(struct broker *b)
{
	static const char slow[] = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c "
				   "WHERE n < 100000) SELECT 7 FROM c WHERE n = 100000";
	unsigned polls = 0, wrong = 0, got = 0, blocking = 0;
	struct pollfd p = {.events = POLLIN};

	for (unsigned i = 0; i < 200; i++) {
		submit(b, "SELECT 7", i % 10 + 1);
		got += loop_until(b, i % 10 + 1, &polls, &wrong);
	}
	is_int(got, 1100, "everything submitted becomes readable (%u turns)", polls);
	polls = 0;
	submit(b, slow, 8);
	is_int(loop_until(b, 8, &polls, &wrong), 8, "also what takes a while");
	ok(polls <= 16, "and nothing is readable for nothing (%u turns)", polls);
	/* Blocking calls in between take in what belongs to others. */
	submit(b, "SELECT 7", 20);
	for (unsigned i = 0; i < 20; i++) {
		blocking += value(b, "SELECT 8") == 8;
	}
	is_int(blocking, 20, "blocking calls in between are answered");
	is_int(loop_until(b, 20, &polls, &wrong), 20, "and hide nothing from the loop");
	is_int(wrong, 0, "every answer was right");
	p.fd = broker_fd(b);
	is_int(poll(&p, 1, 0), 0, "with nothing submitted there is nothing to read");
}

static void test_gone(struct broker_proc *p)
{
	struct broker_options o = {.path = broker_socket(p)};
	struct pollfd w = {.events = POLLIN};
	struct broker *b;

	if (broker_attach(&o, &b) < 0) {
		bail_out("%s", broker_error(NULL)->message);
	}
	w.fd = broker_fd(b);
	broker_kill(p);
	is_int(poll(&w, 1, 20000), 1, "the death of the broker is readable");
	broker_restart(p);
	ok(wait_until(value(b, "SELECT 5") == 5, 20000), "the handle finds its successor");
	broker_detach(&b);
}

/* -- threads ----------------------------------------------------------------------------------- */

struct other {
	struct broker *b;
	struct broker_result *r;
	const char *path;
	int exec, next, fd;
	unsigned good;
};

/* Tries another thread's handle, then works with its own. */
static void *other_thread(void *arg)
{
	struct other *t = arg;
	struct broker_options o = {.path = t->path};
	struct broker *own;
	uint64_t ticket;

	t->exec = broker_exec(t->b, "SELECT 1", 0, NULL, NULL, NULL);
	t->next = broker_next(t->r);
	t->fd = broker_submit(t->b, "SELECT 1", 0, NULL, NULL, &ticket);
	broker_result_free(&t->r); /* both do nothing */
	broker_detach(&t->b);
	if (broker_attach(&o, &own) == 0) {
		for (unsigned i = 0; i < 100; i++) {
			t->good += value(own, "SELECT 5") == 5;
		}
		broker_detach(&own);
	}
	return NULL;
}

static void test_threads(struct broker *b, const struct broker_proc *p)
{
	struct other t[4];
	pthread_t thread[4];
	struct broker_result *r;
	unsigned refused = 0, good = 0, mine = 0;

	if (broker_exec(b, "SELECT 42", 0, NULL, NULL, &r) < 0) {
		bail_out("%s", broker_error(b)->message);
	}
	for (unsigned i = 0; i < array_size(t); i++) {
		t[i] = (struct other){.b = b, .r = r, .path = broker_socket(p)};
		if (pthread_create(&thread[i], NULL, other_thread, &t[i]) != 0) {
			bail_out("no thread");
		}
	}
	for (unsigned i = 0; i < 100; i++) {
		mine += value(b, "SELECT 5") == 5;
	}
	for (unsigned i = 0; i < array_size(t); i++) {
		(void)pthread_join(thread[i], NULL);
		refused += t[i].exec == BROKER_E_THREAD && t[i].next == BROKER_E_THREAD &&
			   t[i].fd == BROKER_E_THREAD;
		good += t[i].good;
	}
	is_int(refused, array_size(t), "a handle of another thread is refused");
	is_int(good, 100 * array_size(t), "each thread gets on with its own");
	is_int(mine, 100, "and so does the owner");
	is_int(broker_next(r), 1, "whose result is untouched");
	broker_result_free(&r);
}

int main(void)
{
	/* slow reads run one after the other, which takes long where others compute */
	struct broker_proc *p =
		broker_start(NULL, (const char *const[]){"pool main.acquire_timeout=60s", NULL});
	struct broker_options o = {.path = broker_socket(p)};
	struct broker *b;

	test_ways(p);
	if (broker_attach(&o, &b) < 0) {
		bail_out("%s", broker_error(NULL)->message);
	}
	test_event_loop(b);
	test_threads(b, p);
	broker_detach(&b);
	test_gone(p);
	is_int(broker_free(&p), 0, "the broker ends well");
	return done_testing();
}
