/* SPDX-License-Identifier: MIT */
/* brokerproc.c - see brokerproc.h. */
#include "brokerproc.h"

#include "scratch.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ARGS_MAX 96
#define READY_MS 60000

struct broker_proc {
	char *dir;
	char *socket;
	char *log;
	char *args[ARGS_MAX]; /* argv, NULL-terminated */
	unsigned nargs;
	pid_t pid; /* 0: not running */
	int status; /* of the last run */
};

static unsigned made;

static void add_arg(struct broker_proc *p, const char *arg)
{
	if (p->nargs + 1 >= ARGS_MAX) {
		bail_out("too many arguments for the broker");
	}
	p->args[p->nargs++] = scratch_format("%s", arg);
}

static void add_setting(struct broker_proc *p, const char *setting)
{
	add_arg(p, "-s");
	add_arg(p, setting);
}

static struct broker_proc *new_broker(void)
{
	struct broker_proc *p = calloc(1, sizeof(*p));
	const char *bin = getenv("BROKER_BIN");

	if (p == NULL) {
		bail_out("out of memory");
	}
	if (bin == NULL) {
		bail_out("BROKER_BIN does not name the broker (run through meson test)");
	}
	p->dir = scratch_path("broker%u-%d", made++, (int)getpid());
	p->socket = scratch_format("%s/sock", p->dir);
	p->log = scratch_format("%s/log", p->dir);
	if (mkdir(p->dir, 0755) < 0) {
		bail_out("cannot make %s: %s", p->dir, strerror(errno));
	}
	scratch_show_on_failure(p->log);
	add_arg(p, bin);
	return p;
}

/* SIGTERM as death signal: a supervisor takes its server down with it.  The guard does the rest. */
static void start(struct broker_proc *p)
{
	struct spawn opt = {.log = p->log, .dir = p->dir, .death_signal = SIGTERM};

	p->pid = spawn((const char *const *)p->args, &opt);
}

static void start_ready(struct broker_proc *p)
{
	start(p);
	if (!broker_ready(p, READY_MS)) {
		scratch_show_tail(p->log, 40);
		bail_out("the broker %s", p->pid == 0 ? "ended while starting" : "does not listen");
	}
}

static bool mention(const char *const *settings, const char *word)
{
	for (; settings != NULL && *settings != NULL; settings++) {
		if (strstr(*settings, word) != NULL) {
			return true;
		}
	}
	return false;
}

/*
 * Unless the test says it itself: one I/O thread, so that a test does the same on every machine;
 * with TEST_IO_THREADS so many, wherever there may be several.
 */
static void add_threads(struct broker_proc *p, const char *url, const char *const *settings)
{
	const char *n = getenv("TEST_IO_THREADS");
	bool pg = (url != NULL && strncmp(url, "postgres", 8) == 0) ||
		  mention(settings, ".url=postgres") || mention(settings, ".url=host=");
	bool may = pg && !mention(settings, "sqlite:") && !mention(settings, "max_per_");
	char *setting;

	if (!mention(settings, "broker.io_threads=")) {
		setting = scratch_format("broker.io_threads=%s", n != NULL && may ? n : "1");
		add_setting(p, setting);
		free(setting);
	}
}

static struct broker_proc *prepare(const char *verb, const char *url, const char *const *settings)
{
	struct broker_proc *p = new_broker();
	char *socket = scratch_format("broker.socket=%s", p->socket);

	add_arg(p, verb);
	add_setting(p, socket);
	free(socket);
	if (url != NULL) {
		add_arg(p, "-d");
		add_arg(p, url);
	}
	add_threads(p, url, settings);
	for (; settings != NULL && *settings != NULL; settings++) {
		add_setting(p, *settings);
	}
	return p;
}

struct broker_proc *broker_start(const char *url, const char *const *settings)
{
	struct broker_proc *p = prepare("serve", url, settings);

	start_ready(p);
	return p;
}

struct broker_proc *broker_start_run(
	const char *url, const char *const *settings, const char *const *command)
{
	struct broker_proc *p = prepare("run", url, settings);

	add_arg(p, "--");
	for (; *command != NULL; command++) {
		add_arg(p, *command);
	}
	start_ready(p);
	return p;
}

struct broker_proc *broker_spawn(const char *const *args, bool own_socket)
{
	struct broker_proc *p = new_broker();
	char *socket = scratch_format("broker.socket=%s", p->socket);

	for (unsigned i = 0; args[i] != NULL; i++) {
		add_arg(p, args[i]);
		if (i == 0 && own_socket) { /* after the verb, before any command */
			add_setting(p, socket);
		}
	}
	free(socket);
	start(p);
	return p;
}

static bool listens(const struct broker_proc *p)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int n;

	if (strlen(p->socket) >= sizeof(to.sun_path)) {
		bail_out("%s is too long for a socket; set TEST_TMPDIR to a shorter path",
			p->socket);
	}
	memcpy(to.sun_path, p->socket, strlen(p->socket) + 1);
	n = connect(fd, (struct sockaddr *)&to, sizeof(to));
	close(fd);
	return n == 0;
}

bool broker_ready(struct broker_proc *p, int64_t timeout_ms)
{
	bool up = false;

	(void)wait_until(spawn_ended(p->pid) || (up = listens(p)), timeout_ms);
	if (!up && spawn_ended(p->pid)) {
		(void)broker_wait(p, 0);
	}
	return up;
}

int broker_wait(struct broker_proc *p, int64_t timeout_ms)
{
	bool late;

	if (p->pid == 0) {
		return p->status;
	}
	p->status = spawn_wait(p->pid, timeout_ms, &late);
	if (late) {
		diag("the broker did not end within %lld ms", (long long)timeout_ms);
		scratch_show_tail(p->log, 40);
	}
	p->pid = 0;
	return p->status;
}

int broker_stop(struct broker_proc *p, int64_t timeout_ms)
{
	if (p->pid != 0) {
		(void)kill(p->pid, SIGTERM);
	}
	return broker_wait(p, timeout_ms);
}

void broker_kill(struct broker_proc *p)
{
	if (p->pid != 0) {
		(void)kill(p->pid, SIGKILL);
		(void)broker_wait(p, READY_MS);
	}
}

void broker_pause(struct broker_proc *p)
{
	spawn_pause(p->pid);
}

void broker_resume(struct broker_proc *p)
{
	spawn_resume(p->pid);
}

void broker_restart(struct broker_proc *p)
{
	broker_kill(p);
	start_ready(p);
}

int broker_free(struct broker_proc **pp)
{
	struct broker_proc *p = *pp;
	int status;

	if (p == NULL) {
		return 0;
	}
	if (p->pid != 0) {
		spawn_resume(p->pid);
	}
	status = broker_stop(p, READY_MS);
	for (unsigned i = 0; i < p->nargs; i++) {
		free(p->args[i]);
	}
	free(p->dir);
	free(p->socket);
	free(p->log);
	free(p);
	*pp = NULL;
	return status;
}

pid_t broker_pid(const struct broker_proc *p)
{
	return p->pid;
}

const char *broker_socket(const struct broker_proc *p)
{
	return p->socket;
}

const char *broker_dir(const struct broker_proc *p)
{
	return p->dir;
}

const char *broker_log(const struct broker_proc *p)
{
	return p->log;
}

unsigned broker_log_count(const struct broker_proc *p, const char *text)
{
	char *line = NULL;
	size_t size = 0;
	unsigned n = 0;
	FILE *f = fopen(p->log, "re");

	while (f != NULL && getline(&line, &size, f) > 0) {
		n += strstr(line, text) != NULL;
	}
	free(line);
	if (f != NULL) {
		fclose(f);
	}
	return n;
}

int64_t broker_rss(const struct broker_proc *p)
{
	char path[64];
	long long pages = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)p->pid);
	f = fopen(path, "re");
	if (f != NULL) {
		if (fscanf(f, "%*s %lld", &pages) != 1) {
			pages = 0;
		}
		fclose(f);
	}
	return pages * sysconf(_SC_PAGESIZE);
}

int broker_fds(const struct broker_proc *p)
{
	char path[64];
	int n = 0;
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)p->pid);
	d = opendir(path);
	while (d != NULL && (e = readdir(d)) != NULL) {
		n += e->d_name[0] != '.';
	}
	if (d != NULL) {
		closedir(d);
	}
	return n;
}

void broker_show_fds(const struct broker_proc *p)
{
	char *dir = scratch_format("/proc/%d/fd", (int)p->pid);
	char *text = spawn_output((const char *const[]){"ls", "-l", dir, NULL}, NULL, NULL);
	char *rest = text;

	for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
		diag("%s", line);
	}
	free(text);
	free(dir);
}
