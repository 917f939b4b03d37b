/* SPDX-License-Identifier: MIT */
/*
 * scratch.h - a private directory for one test program, and the promise that nothing is left
 * behind.
 *
 * The directory is made on first use, under TEST_TMPDIR or /tmp, passable (0711) so that a database
 * server that runs as another user can reach what it owns in there, and short enough for socket
 * paths.
 *
 * When the program ends, whether by exit() or by any signal, SIGKILL included, every process that
 * was started through spawn.h is ended and the directory is removed, with what killed brokers left
 * in /dev/shm.  Exit does it at once; for the rest a small guard process, forked with the
 * directory, watches the program's pidfd.  With TEST_KEEP set in the environment the directory
 * stays and its name is printed.
 */
#ifndef IT_SCRATCH_H
#define IT_SCRATCH_H

/* The directory, without a trailing slash. */
const char *scratch_dir(void);

/* "DIR/name" with a formatted name; the caller frees. */
char *scratch_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* vasprintf/asprintf that cannot fail: a test without memory bails out.  The caller frees. */
char *scratch_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Print the last lines of a file as diagnostics. */
void scratch_show_tail(const char *path, unsigned lines);

/* Show the tail of this file at exit if a check has failed.  The path is copied. */
void scratch_show_on_failure(const char *path);

/* Show all of those now. */
void scratch_show_logs(void);

#endif
