/* SPDX-License-Identifier: MIT */
/*
 * spawn.h - start programs that cannot outlive the test.
 *
 * Every child gets a death signal from the kernel for the case that its parent thread ends, so
 * start children from the main thread only.  Children inherit standard input, output and error
 * (unless a log is given) and no other descriptor but the one named.  Settings of the outer world
 * that would change what broker or PostgreSQL do (BROKER_<SECTION>_<KEY>, BROKER_FD, BROKER_SOCKET,
 * BROKER_CONFIG, PG*) are not handed on.
 */
#ifndef IT_SPAWN_H
#define IT_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct spawn {
	const char *log; /* this file gets standard output and error, appended; NULL: inherited */
	const char *out; /* this file gets standard output, emptied before; NULL: as above */
	const char *dir; /* working directory; NULL: inherited */
	const char *const *env; /* more NAME=value, NULL-terminated; may be NULL */
	bool plain_user; /* when root: run as spawn_user() */
	int death_signal; /* 0: SIGKILL */
	int keep_fd; /* this descriptor is inherited under the same number; 0: none */
};

/* Start argv[0] (looked up in PATH).  opt may be NULL.  Never fails: a test that cannot start a
 * program bails out. */
pid_t spawn(const char *const *argv, const struct spawn *opt);

/* The same with the arguments in place: spawn_l(opt, "ls", "-l", NULL). */
pid_t spawn_l(const struct spawn *opt, const char *arg0, ...) __attribute__((sentinel));

/* fork() whose child dies with the test.  0 in the child. */
pid_t spawn_fork(void);

/* Wait status of a child, as waitpid gives it.  If it has not ended after timeout_ms it is killed
 * and *late (may be NULL) is set. */
int spawn_wait(pid_t pid, int64_t timeout_ms, bool *late);

/* Has the child ended?  It can still be waited for. */
bool spawn_ended(pid_t pid);

/* Run to the end.  Wait status. */
int spawn_run(const char *const *argv, const struct spawn *opt, int64_t timeout_ms);

/* Run to the end and return what it wrote to standard output; the caller frees.  status may be
 * NULL. */
char *spawn_output(const char *const *argv, const struct spawn *opt, int *status);

/* Number of threads of a process if all of them are stopped by a signal, else 0;
 * -1 if it is gone. */
int spawn_stopped_threads(pid_t pid);

/* SIGSTOP and wait until it stands still; SIGCONT. */
void spawn_pause(pid_t pid);
void spawn_resume(pid_t pid);

/* The user that database servers run as when the test runs as root: postgres, else nobody.  0 and 0
 * if the test does not run as root. */
void spawn_user(uid_t *uid, gid_t *gid);

/* Direct children of a process, at most max.  Number found. */
unsigned spawn_children(pid_t pid, pid_t *out, unsigned max);

#endif
