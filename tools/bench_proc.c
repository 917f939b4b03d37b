/* SPDX-License-Identifier: MIT */
/* bench_proc.c - see bench_proc.h.  Sources: proc(5), clock_getcpuclockid(3). */
#include "bench_proc.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PROCESSES_MAX 8192

struct list {
	const struct bench_tree *tree;
	unsigned n;
	pid_t pid[PROCESSES_MAX];
};

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks * (UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK));
}

/* -- the tree -------------------------------------------------------------------------------------
 */

/* Calls fn with the open file of that name of each thread. */
static void each_thread(pid_t pid, const char *name, void (*fn)(FILE *f, void *arg), void *arg)
{
	char dir[64], path[400];
	const struct dirent *e;
	DIR *d;

	snprintf(dir, sizeof(dir), "/proc/%d/task", (int)pid);
	d = opendir(dir);
	while (d != NULL && (e = readdir(d)) != NULL) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/%s/%s", dir, e->d_name, name);
		f = e->d_name[0] != '.' ? fopen(path, "re") : NULL;
		if (f != NULL) {
			fn(f, arg);
			fclose(f);
		}
	}
	if (d != NULL) {
		closedir(d);
	}
}

static void add_children(FILE *f, void *arg)
{
	struct list *l = arg;
	int pid;

	while (l->n < PROCESSES_MAX && fscanf(f, "%d", &pid) == 1) {
		if (pid != l->tree->except) {
			l->pid[l->n++] = pid;
		}
	}
}

/* NULL without memory, or if there is no root. */
static struct list *tree_list(const struct bench_tree *t)
{
	struct list *l = t->root > 0 ? malloc(sizeof(*l)) : NULL;

	if (l != NULL) {
		l->tree = t;
		l->pid[0] = t->root;
		l->n = 1;
		for (unsigned i = 0; i < l->n; i++) {
			each_thread(l->pid[i], "children", add_children, l);
		}
	}
	return l;
}

/* -- CPU time and context switches ----------------------------------------------------------------
 */

static uint64_t cpu_of(pid_t pid)
{
	struct timespec ts;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) != 0) {
		return 0;
	}
	return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

/* Of children that were waited for: fields 16 and 17 of stat, behind the name in parentheses. */
static uint64_t cpu_of_reaped(pid_t pid)
{
	char path[64], line[1024];
	uint64_t user = 0, system = 0;
	const char *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (f == NULL) {
		return 0;
	}
	p = fgets(line, sizeof(line), f) != NULL ? strrchr(line, ')') : NULL;
	fclose(f);
	if (p == NULL ||
		sscanf(p + 1,
			" %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
			&user, &system) != 2) {
		return 0;
	}
	return ticks_to_ns(user + system);
}

static void add_switches(FILE *f, void *arg)
{
	uint64_t *sum = arg, n;
	char line[256];

	while (fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "voluntary_ctxt_switches: %" SCNu64, &n) == 1 ||
			sscanf(line, "nonvoluntary_ctxt_switches: %" SCNu64, &n) == 1) {
			*sum += n;
		}
	}
}

void bench_proc_use(const struct bench_tree *t, struct bench_use *out)
{
	struct list *l = tree_list(t);

	memset(out, 0, sizeof(*out));
	if (l == NULL) {
		return;
	}
	/* The clocks first and together: reading the rest takes milliseconds. */
	for (unsigned i = 0; i < l->n; i++) {
		out->cpu_ns += cpu_of(l->pid[i]);
	}
	out->cpu_ns += cpu_of_reaped(t->root);
	for (unsigned i = 0; i < l->n; i++) {
		each_thread(l->pid[i], "status", add_switches, &out->switches);
	}
	out->processes = l->n;
	free(l);
}

/* -- memory ---------------------------------------------------------------------------------------
 */

static bool pss_of(pid_t pid, uint64_t *kib)
{
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	f = fopen(path, "re");
	while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL) {
		found = sscanf(line, "Pss: %" SCNu64, kib) == 1;
	}
	if (f != NULL) {
		fclose(f);
	}
	return found;
}

void bench_proc_memory(const struct bench_tree *t, struct bench_use *out)
{
	struct list *l = tree_list(t);

	for (unsigned i = 0; l != NULL && i < l->n; i++) {
		uint64_t kib;

		if (pss_of(l->pid[i], &kib)) {
			out->pss_kib += kib;
			out->pss_known = true;
		}
	}
	free(l);
}

/* -- others ---------------------------------------------------------------------------------------
 */

uint64_t bench_proc_machine_busy(void)
{
	/* user nice system idle iowait irq softirq steal */
	uint64_t v[8] = {0};
	FILE *f = fopen("/proc/stat", "re");
	int n = 0;

	if (f != NULL) {
		n = fscanf(f,
			"cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
			" %" SCNu64 " %" SCNu64,
			&v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]);
		fclose(f);
	}
	return n == 8 ? ticks_to_ns(v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) : 0;
}

void bench_proc_name(pid_t pid, char *buf, unsigned size)
{
	char path[64];
	FILE *f;

	buf[0] = '\0';
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	f = fopen(path, "re");
	if (f != NULL) {
		if (fgets(buf, (int)size, f) != NULL) {
			buf[strcspn(buf, "\n")] = '\0';
		}
		fclose(f);
	}
}
