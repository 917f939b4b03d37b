/* SPDX-License-Identifier: MIT */
/*
 * handle.h - struct broker: options, owner, and the channel of the moment.
 *
 * Every public call starts with handle_enter (or result_enter, lease_enter), which checks the
 * handle, the thread, and whether this process is a child of the one that attached.
 */
#ifndef CLIENT_HANDLE_H
#define CLIENT_HANDLE_H

#include "chan.h"
#include "errstate.h"

#include <pthread.h>

#define HANDLE_MAGIC UINT64_C(0x6b6f72626d687342)
#define HANDLE_SPARE 32u /* result objects kept for the next statements */

struct broker {
	uint64_t magic;
	_Atomic uint32_t *guard; /* a page that fork wipes; NULL: the kernel cannot, compare pids */
	pid_t pid;
	pthread_t owner;
	struct chan *chan; /* NULL: attach on the next call */
	uint64_t sequence; /* of request ids: a ticket is never given twice by one handle */

	char *path, *name, *pool;
	char *dir; /* current directory of the first attach */
	int64_t timeout_ms; /* for attaching, as in broker_options */
	uint32_t result_kib;
	int64_t default_timeout_ms; /* of the broker, for calls that name none */
	bool wants_fd; /* broker_fd was called */
	const char *last_server; /* never NULL; in memory of `chan`, or "" */

	struct chan_results spare; /* by `link` */
	unsigned nspare;
	struct errstate err;
};

/* 0, BROKER_E_ARGUMENT or BROKER_E_THREAD.  After a fork the handle is this process's, detached. */
int handle_enter(struct broker *b) must_use;
/* A live channel: attaches anew if needed, trying until the deadline (0: the attach time-out). */
int handle_ready(struct broker *b, uint64_t deadline_ns) must_use;
/* Absolute deadline for a timeout_ms of a call; 0: none. */
uint64_t handle_deadline(struct broker *b, int64_t timeout_ms);

#endif
