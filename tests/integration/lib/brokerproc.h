/* SPDX-License-Identifier: MIT */
/*
 * brokerproc.h - a broker under test: the built program, on a socket of its own.
 *
 * The program is BROKER_BIN of the environment (meson sets it).  It runs in a directory of its own
 * inside the scratch directory, so the embedded default makes its database there, and its log is
 * shown if a check fails.
 *
 * Where the test says nothing about it, it has one I/O thread whatever the machine; or, if it is on
 * PostgreSQL and its other settings allow it, N with TEST_IO_THREADS=N in the environment: to run
 * any test on several.
 */
#ifndef IT_BROKERPROC_H
#define IT_BROKERPROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct broker_proc;

/*
 * Start `broker serve -d url -s SETTING...` and wait until its socket takes connections.
 * url NULL: the embedded default.  settings: "section.key=value" strings, NULL-terminated, NULL for
 * none.  Bails out, with the log shown, if the broker ends or does not listen.
 */
struct broker_proc *broker_start(const char *url, const char *const *settings);

/* The same for `broker run … -- command…`. */
struct broker_proc *broker_start_run(
	const char *url, const char *const *settings, const char *const *command);

/*
 * Start without waiting for anything, with exactly these arguments after the program's name and the
 * socket named by broker.socket (when `own_socket`).  For tests of start-up errors.
 */
struct broker_proc *broker_spawn(const char *const *args, bool own_socket);

/* True once the socket takes connections; false if the broker ended or time is over. */
bool broker_ready(struct broker_proc *p, int64_t timeout_ms);

/* Stop politely (SIGTERM) and return the wait status; after timeout_ms it is killed. */
int broker_stop(struct broker_proc *p, int64_t timeout_ms);
/* Wait for the end without asking for it. */
int broker_wait(struct broker_proc *p, int64_t timeout_ms);
/* SIGKILL and wait. */
void broker_kill(struct broker_proc *p);
/* SIGSTOP, returns when it stands still; SIGCONT. */
void broker_pause(struct broker_proc *p);
void broker_resume(struct broker_proc *p);
/* Start a broker that was stopped or killed again with the same arguments; waits until ready. */
void broker_restart(struct broker_proc *p);

/* Stop it (SIGTERM, a minute, then SIGKILL) if it runs and free p; *p becomes NULL.  Wait status.
 */
int broker_free(struct broker_proc **p);

pid_t broker_pid(const struct broker_proc *p);
const char *broker_socket(const struct broker_proc *p);
const char *broker_dir(const struct broker_proc *p);
const char *broker_log(const struct broker_proc *p);
/* Number of log lines that hold text. */
unsigned broker_log_count(const struct broker_proc *p, const char *text);
/* Bytes of resident memory, and open descriptors. */
int64_t broker_rss(const struct broker_proc *p);
int broker_fds(const struct broker_proc *p);
/* Print what its descriptors are, as diagnostics. */
void broker_show_fds(const struct broker_proc *p);

#endif
