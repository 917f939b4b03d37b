/* SPDX-License-Identifier: MIT */
/*
 * scratch.c - see scratch.h.
 *
 * Who ends what: children get a death signal from the kernel (spawn.c).  Programs that they started
 * in turn are found by IT_SCRATCH=<directory> in their environment; the name of the directory is
 * unique, so nobody else's process can match.
 */
#include "scratch.h"

#include "tap.h"
#include "wait.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MARK "IT_SCRATCH"
#define SEGMENTS "/dev/shm/shmbroker-"
#define SHOW_MAX 16

static char *dir;
static pid_t owner;
static char *shown[SHOW_MAX];
static unsigned nshown;

char *scratch_format(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	if (n < 0) {
		bail_out("out of memory");
	}
	return s;
}

/* Is `mark` one of the NUL-separated strings of /proc/PID/environ? */
static bool environ_has(const char *pid, const char *mark)
{
	char path[64], *line = NULL;
	size_t size = 0;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.20s/environ", pid);
	f = fopen(path, "re");
	if (f == NULL) {
		return false;
	}
	while (!found && getdelim(&line, &size, '\0', f) > 0) {
		found = strcmp(line, mark) == 0;
	}
	free(line);
	fclose(f);
	return found;
}

/* Signal every marked process but ourselves; number found. */
static unsigned signal_marked(const char *mark, int sig)
{
	DIR *proc = opendir("/proc");
	unsigned n = 0;
	struct dirent *e;

	while (proc != NULL && (e = readdir(proc)) != NULL) {
		pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
		int fd;

		if (pid <= 0 || pid == getpid() || pid == owner) {
			continue;
		}
		fd = (int)syscall(SYS_pidfd_open, pid, 0);
		if (fd >= 0 && environ_has(e->d_name, mark)) {
			n++;
			(void)syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0);
			(void)syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0);
		}
		if (fd >= 0) {
			close(fd);
		}
	}
	if (proc != NULL) {
		closedir(proc);
	}
	return n;
}

static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0) {
	}
}

/*
 * SIGQUIT first: a PostgreSQL that is killed outright leaves a System V segment behind, and SIGQUIT
 * ends it at once.  What is still there a little later is killed.
 */
static void end_processes(const char *where)
{
	char *mark = scratch_format("%s=%s", MARK, where);

	if (signal_marked(mark, SIGQUIT) > 0 &&
		!wait_until((reap(), signal_marked(mark, 0) == 0), 5000)) {
		(void)wait_until((reap(), signal_marked(mark, SIGKILL) == 0), 5000);
	}
	free(mark);
}

/* What a broker publishes next to its socket is a link into /dev/shm; if it was killed, both
 * stay. */
static void remove_segment(const char *link)
{
	char target[4096];
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	if (n > 0) {
		target[n] = '\0';
		if (strncmp(target, SEGMENTS, strlen(SEGMENTS)) == 0) {
			(void)unlink(target);
		}
	}
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	if (type == FTW_SL) {
		remove_segment(path);
	}
	(void)remove(path);
	return 0;
}

static bool remove_tree(const char *path)
{
	(void)nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS);
	return access(path, F_OK) < 0;
}

static void clean_up(const char *where)
{
	end_processes(where);
	if (getenv("TEST_KEEP") == NULL) {
		(void)wait_until(remove_tree(where), 5000);
	}
}

void scratch_show_logs(void)
{
	for (unsigned i = 0; i < nshown; i++) {
		diag("--- end of %s:", shown[i]);
		scratch_show_tail(shown[i], 40);
	}
}

static void at_exit(void)
{
	if (getpid() != owner) {
		return; /* a forked child that ends is not the end of the test */
	}
	if (tap_failures() > 0) {
		scratch_show_logs();
	}
	for (unsigned i = 0; i < nshown; i++) {
		free(shown[i]);
	}
	clean_up(dir);
	if (getenv("TEST_KEEP") != NULL) {
		diag("kept %s", dir);
	}
	free(dir);
	dir = NULL;
}

/* Holds nothing of the test's but the name of the directory, so that it delays nobody's end of
 * file. */
static _Noreturn void guard(pid_t test)
{
	struct pollfd p = {.events = POLLIN};
	int null = open("/dev/null", O_RDWR);

	(void)setsid();
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	for (int fd = 0; fd < 3; fd++) {
		(void)dup2(null, fd);
	}
	(void)syscall(SYS_close_range, 3, ~0u, 0);
	p.fd = (int)syscall(SYS_pidfd_open, test, 0);
	if (p.fd >= 0 && getppid() == test) {
		while (poll(&p, 1, -1) < 0 && errno == EINTR) {
		}
	}
	if (access(dir, F_OK) == 0) {
		clean_up(dir);
	}
	_exit(0);
}

const char *scratch_dir(void)
{
	const char *base = getenv("TEST_TMPDIR");
	pid_t guard_pid;

	if (dir != NULL) {
		return dir;
	}
	dir = scratch_format("%s/it-XXXXXX", base != NULL ? base : "/tmp");
	if (mkdtemp(dir) == NULL || chmod(dir, 0711) < 0) {
		bail_out("cannot make %s: %s", dir, strerror(errno));
	}
	owner = getpid();
	fflush(NULL);
	guard_pid = fork();
	if (guard_pid < 0) {
		bail_out("fork: %s", strerror(errno));
	}
	if (guard_pid == 0) {
		guard(owner);
	}
	setenv(MARK, dir, 1); /* after the fork: the guard is not its own prey */
	atexit(at_exit);
	return dir;
}

char *scratch_path(const char *fmt, ...)
{
	va_list ap;
	char *name, *path;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&name, fmt, ap);
	va_end(ap);
	if (n < 0) {
		bail_out("out of memory");
	}
	path = scratch_format("%s/%s", scratch_dir(), name);
	free(name);
	return path;
}

void scratch_show_tail(const char *path, unsigned lines)
{
	char *line = NULL;
	size_t size = 0;
	unsigned total = 0, at = 0;
	FILE *f = fopen(path, "re");

	if (f == NULL) {
		diag("%s: %s", path, strerror(errno));
		return;
	}
	while (getline(&line, &size, f) > 0) {
		total++;
	}
	rewind(f);
	while (getline(&line, &size, f) > 0) {
		if (at++ + lines >= total) {
			line[strcspn(line, "\n")] = '\0';
			diag("| %s", line);
		}
	}
	free(line);
	fclose(f);
}

void scratch_show_on_failure(const char *path)
{
	if (nshown < SHOW_MAX) {
		shown[nshown++] = scratch_format("%s", path);
	}
}
