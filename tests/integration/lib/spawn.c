/* SPDX-License-Identifier: MIT */
/* spawn.c - see spawn.h. */
#include "spawn.h"

#include "scratch.h"
#include "tap.h"
#include "wait.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 64

extern char **environ;

void spawn_user(uid_t *uid, gid_t *gid)
{
	const struct passwd *pw = getpwnam("postgres");

	*uid = 0;
	*gid = 0;
	if (getuid() != 0) {
		return;
	}
	if (pw == NULL) {
		pw = getpwnam("nobody");
	}
	if (pw == NULL) {
		bail_out("neither a user postgres nor a user nobody exists");
	}
	*uid = pw->pw_uid;
	*gid = pw->pw_gid;
}

static _Noreturn void child_failed(const char *what)
{
	dprintf(STDERR_FILENO, "spawn: %s: %s\n", what, strerror(errno));
	_exit(127);
}

static bool is_setting(const char *var)
{
	static const char *const prefixes[] = {"BROKER_BROKER_", "BROKER_SERVER_", "BROKER_POOL_",
		"BROKER_FD=", "BROKER_SOCKET=", "BROKER_CONFIG=", "PG", NULL};

	for (unsigned i = 0; prefixes[i] != NULL; i++) {
		if (strncmp(var, prefixes[i], strlen(prefixes[i])) == 0) {
			return true;
		}
	}
	return false;
}

static void set_environment(const char *const *more)
{
	char **to = environ;

	for (char **from = environ; *from != NULL; from++) {
		if (!is_setting(*from)) {
			*to++ = *from;
		}
	}
	*to = NULL;
	for (; more != NULL && *more != NULL; more++) {
		if (putenv((char *)*more) != 0) {
			child_failed("putenv");
		}
	}
}

static void redirect(const char *path, int flags, int from, int to)
{
	int fd = open(path, O_WRONLY | O_CREAT | flags, 0644);

	if (fd < 0 || dup2(fd, from) < 0 || dup2(fd, to) < 0) {
		child_failed(path);
	}
	close(fd);
}

static void close_others(unsigned keep)
{
	if (keep < 3) {
		(void)syscall(SYS_close_range, 3, ~0u, 0);
		return;
	}
	if (keep > 3) {
		(void)syscall(SYS_close_range, 3, keep - 1, 0);
	}
	(void)syscall(SYS_close_range, keep + 1, ~0u, 0);
	(void)fcntl((int)keep, F_SETFD, 0);
}

static void drop_root(void)
{
	uid_t uid;
	gid_t gid;

	spawn_user(&uid, &gid);
	if (uid != 0 && (setgroups(0, NULL) < 0 || setgid(gid) < 0 || setuid(uid) < 0)) {
		child_failed("setuid");
	}
}

/* Set after setuid(), which clears it; a parent that died before is noticed by the second look. */
static void die_with(pid_t parent, int sig)
{
	if (prctl(PR_SET_PDEATHSIG, sig) < 0) {
		child_failed("prctl");
	}
	if (getppid() != parent) {
		_exit(127);
	}
}

static _Noreturn void child(const char *const *argv, const struct spawn *opt, pid_t parent)
{
	const struct rlimit no_core = {0, 0};

	if (opt->log != NULL) {
		redirect(opt->log, O_APPEND, STDOUT_FILENO, STDERR_FILENO);
	}
	if (opt->out != NULL) {
		redirect(opt->out, O_TRUNC, STDOUT_FILENO, STDOUT_FILENO);
	}
	close_others(opt->keep_fd > 0 ? (unsigned)opt->keep_fd : 0);
	(void)setrlimit(RLIMIT_CORE, &no_core);
	if (opt->dir != NULL && chdir(opt->dir) < 0) {
		child_failed(opt->dir);
	}
	if (opt->plain_user) {
		drop_root();
	}
	die_with(parent, opt->death_signal != 0 ? opt->death_signal : SIGKILL);
	set_environment(opt->env);
	execvp(argv[0], (char *const *)argv);
	child_failed(argv[0]);
}

pid_t spawn(const char *const *argv, const struct spawn *opt)
{
	static const struct spawn plain;
	pid_t parent = getpid();
	pid_t pid;

	(void)scratch_dir(); /* its mark has to be in the child's environment */
	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		bail_out("fork: %s", strerror(errno));
	}
	if (pid == 0) {
		child(argv, opt != NULL ? opt : &plain, parent);
	}
	return pid;
}

pid_t spawn_l(const struct spawn *opt, const char *arg0, ...)
{
	const char *argv[ARGS_MAX];
	unsigned n = 0;
	va_list ap;

	va_start(ap, arg0);
	for (const char *a = arg0; a != NULL && n < ARGS_MAX - 1; a = va_arg(ap, const char *)) {
		argv[n++] = a;
	}
	va_end(ap);
	argv[n] = NULL;
	return spawn(argv, opt);
}

pid_t spawn_fork(void)
{
	pid_t parent = getpid();
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		bail_out("fork: %s", strerror(errno));
	}
	if (pid == 0) {
		die_with(parent, SIGKILL);
	}
	return pid;
}

bool spawn_ended(pid_t pid)
{
	siginfo_t si = {0};

	return waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid == pid;
}

int spawn_wait(pid_t pid, int64_t timeout_ms, bool *late)
{
	bool in_time = wait_until(spawn_ended(pid), timeout_ms);
	int status = 0;

	if (late != NULL) {
		*late = !in_time;
	}
	if (!in_time) {
		kill(pid, SIGKILL);
		kill(pid, SIGCONT);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
	}
	return status;
}

int spawn_run(const char *const *argv, const struct spawn *opt, int64_t timeout_ms)
{
	return spawn_wait(spawn(argv, opt), timeout_ms, NULL);
}

static char *read_all(FILE *f)
{
	size_t len = 0, size = 4096, n;
	char *text = malloc(size);

	while (text != NULL && (n = fread(text + len, 1, size - len - 1, f)) > 0) {
		len += n;
		if (len == size - 1) {
			size *= 2;
			text = realloc(text, size);
		}
	}
	if (text == NULL) {
		bail_out("out of memory");
	}
	text[len] = '\0';
	return text;
}

char *spawn_output(const char *const *argv, const struct spawn *opt, int *status)
{
	struct spawn with = opt != NULL ? *opt : (struct spawn){0};
	char *path = scratch_path("output-%d", (int)getpid());
	char *text;
	FILE *f;
	int st;

	with.out = path;
	st = spawn_run(argv, &with, 60000);
	f = fopen(path, "re");
	if (f == NULL) {
		bail_out("%s: %s", path, strerror(errno));
	}
	text = read_all(f);
	fclose(f);
	(void)unlink(path);
	free(path);
	if (status != NULL) {
		*status = st;
	}
	return text;
}

static char state_of(const char *path)
{
	char line[512] = "";
	const char *p;
	FILE *f = fopen(path, "re");

	if (f == NULL) {
		return '\0';
	}
	if (fgets(line, sizeof(line), f) == NULL) {
		line[0] = '\0';
	}
	fclose(f);
	p = strrchr(line, ')'); /* the name before may hold anything */
	return p != NULL && p[1] == ' ' ? p[2] : '\0';
}

int spawn_stopped_threads(pid_t pid)
{
	char path[64];
	int running = 0, stopped = 0;
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	if (d == NULL) {
		return -1;
	}
	while ((e = readdir(d)) != NULL) {
		char stat[400];

		if (e->d_name[0] == '.') {
			continue;
		}
		snprintf(stat, sizeof(stat), "%s/%s/stat", path, e->d_name);
		if (state_of(stat) == 'T') {
			stopped++;
		} else {
			running++;
		}
	}
	closedir(d);
	return running > 0 ? 0 : stopped;
}

void spawn_pause(pid_t pid)
{
	if (kill(pid, SIGSTOP) == 0) {
		(void)wait_until(spawn_stopped_threads(pid) != 0, 30000);
	}
}

void spawn_resume(pid_t pid)
{
	(void)kill(pid, SIGCONT);
}

unsigned spawn_children(pid_t pid, pid_t *out, unsigned max)
{
	char path[64];
	unsigned n = 0;
	int child_pid;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	f = fopen(path, "re");
	while (f != NULL && n < max && fscanf(f, "%d", &child_pid) == 1) {
		out[n++] = child_pid;
	}
	if (f != NULL) {
		fclose(f);
	}
	return n;
}
