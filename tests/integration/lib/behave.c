/* SPDX-License-Identifier: MIT */
/* behave.c - see behave.h. */
#include "behave.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* -- scene ------------------------------------------------------------------------------------- */

/* By rename, so that the broker never sees half of it. */
void behave_rules(struct behave *t, const char *rules)
{
	char *tmp = scratch_format("%s.new", t->control);
	FILE *f = fopen(tmp, "we");

	if (f == NULL || fputs(rules, f) < 0 || fclose(f) != 0 || rename(tmp, t->control) != 0) {
		bail_out("cannot write %s", t->control);
	}
	free(tmp);
}

struct behave behave_start(const char *rules, const char *const *settings)
{
	static unsigned made;
	struct behave t = {.control = scratch_path("rules%u", made++)};
	char *url = scratch_format("fake:?control=%s&%s", t.control, rules);

	behave_rules(&t, "");
	t.proc = broker_start(url, settings);
	t.b = behave_attach(t.proc);
	free(url);
	return t;
}

void behave_end(struct behave *t)
{
	broker_detach(&t->b);
	is_int(broker_free(&t->proc), 0, "the broker ends well");
	(void)unlink(t->control);
	free(t->control);
}

struct broker *behave_attach(const struct broker_proc *proc)
{
	struct broker_options opt = {.path = broker_socket(proc), .timeout_ms = 60000};
	struct broker *b;

	if (broker_attach(&opt, &b) < 0) {
		bail_out("attach: %s", broker_error(NULL)->message);
	}
	return b;
}

/* -- statements -------------------------------------------------------------------------------- */

int behave_run(struct broker *b, const struct broker_call *call, const char *sql)
{
	return broker_exec(b, sql, 0, NULL, call, NULL);
}

int64_t behave_int(struct broker *b, const struct broker_call *call, const char *sql, int col)
{
	struct broker_result *r;
	int64_t v = -1;
	int rc = broker_exec(b, sql, 0, NULL, call, &r);

	if (rc < 0) {
		return rc;
	}
	rc = broker_next(r);
	if (rc == 1) {
		rc = broker_get_int64(r, col, &v);
	}
	broker_result_free(&r);
	return rc < 0 ? rc : v;
}

uint64_t behave_submit(struct broker *b, const struct broker_call *call, const char *sql)
{
	uint64_t ticket;

	if (broker_submit(b, sql, 0, NULL, call, &ticket) < 0) {
		bail_out("submit %s: %s", sql, broker_error(b)->message);
	}
	return ticket;
}

struct broker_lease *behave_hold(struct broker *b, const struct broker_call *call, const char *sql)
{
	struct broker_call in = {0};

	if (broker_lease(b, call, &in.lease) < 0 || behave_run(b, &in, sql) < 0) {
		bail_out("no lease: %s", broker_error(b)->message);
	}
	return in.lease;
}

int64_t behave_since(int64_t start_ms)
{
	return wait_clock_ms() - start_ms;
}

/* -- metrics ----------------------------------------------------------------------------------- */

char *behave_look(const struct broker_proc *p)
{
	const char *argv[] = {getenv("BROKERSTAT_BIN"), "-1", "-n", broker_socket(p), NULL};

	return spawn_output(argv, NULL, NULL);
}

int64_t behave_find(const char *look, const char *full)
{
	size_t n = strlen(full);

	for (const char *p = look; p != NULL; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (strncmp(p, full, n) == 0 && p[n] == ' ') {
			return strtoll(p + n, NULL, 10);
		}
	}
	return -1;
}

int64_t behave_metric(const struct broker_proc *p, const char *name, const char *label)
{
	char full[160];

	snprintf(full, sizeof(full), "%s{%s%spool=\"main\"}", name, label,
		label[0] != '\0' ? "," : "");
	return broker_metric(p, full);
}

int64_t behave_conns(const struct broker_proc *p, const char *state)
{
	char label[40];

	snprintf(label, sizeof(label), "state=\"%s\"", state);
	return behave_metric(p, "broker_pool_connections", label);
}

int64_t behave_waiting(const struct broker_proc *p)
{
	return behave_metric(p, "broker_pool_pending", "");
}

int64_t behave_created(const struct broker_proc *p)
{
	return behave_metric(p, "broker_connections_created_total", "");
}

int64_t behave_closed(const struct broker_proc *p)
{
	return behave_metric(p, "broker_connections_closed_total", "");
}

/* -- workers ----------------------------------------------------------------------------------- */

void *behave_share(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		bail_out("no memory to share");
	}
	return p;
}

void behave_unshare(void *p, size_t size)
{
	(void)munmap(p, size);
}

pid_t behave_worker(const struct broker_proc *proc, behave_fn *fn, void *arg)
{
	pid_t pid = spawn_fork();

	if (pid == 0) {
		struct broker *b = behave_attach(proc);
		int status = fn(b, arg);

		broker_detach(&b);
		_exit(status);
	}
	return pid;
}

int behave_ended(pid_t pid, int64_t timeout_ms)
{
	int status = spawn_wait(pid, timeout_ms, NULL);

	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* -- random numbers ---------------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t next(struct behave_rng *r)
{
	uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

struct behave_rng behave_seed(const char *what)
{
	const char *given = getenv("SEED");
	uint64_t seed = given != NULL ? strtoull(given, NULL, 0)
				      : (uint64_t)wait_clock_ms() * 1000003u + (uint64_t)getpid();

	diag("%s: SEED=%llu repeats this run", what, (unsigned long long)seed);
	return (struct behave_rng){seed};
}

struct behave_rng behave_fork_seed(struct behave_rng *r)
{
	return (struct behave_rng){next(r)};
}

unsigned behave_random(struct behave_rng *r, unsigned below)
{
	return (unsigned)(next(r) % below);
}
