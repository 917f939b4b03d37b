/* SPDX-License-Identifier: MIT */
/*
 * courier_core.h - the body of a courier and what passes between its two halves, which nobody else
 * looks at:
 *
 *   courier.c          on the I/O thread: orders, news, life
 *   courier_thread.c   the thread: replays the journal, refreshes the mirror
 *
 * Life:  RUNNING --courier_destroy--> the thread ends what it does --> exited --> joined, freed
 */
#ifndef BROKER_COURIER_CORE_H
#define BROKER_COURIER_CORE_H

#include "courier.h"

#include "pgcall.h"

#include <sqlite3.h>

#define COURIER_NO_SERVER UINT32_MAX
#define COURIER_TOLD_CONFLICTS 100u /* most that wait for the loop, the others are only counted */
#define COURIER_BUSY_NS UINT64_C(2000000000) /* longest wait for another writer of the file */

/* What the loop wants. */
struct orders {
	uint64_t run; /* number of the replay; another number: another replay */
	unsigned server; /* to replay into, or COURIER_NO_SERVER */
	bool drain;
	int mirror; /* to copy from, or -1 */
	bool stop;
};

/* What the thread has to say.  Runs are numbers of the replay that has come so far. */
struct news {
	uint64_t hold_run; /* writes are to wait; 0: no */
	uint64_t near_run, caught_run, failed_run;
	struct courier_failure failure;
	int64_t position;
	uint64_t replayed, conflicts;
	int64_t mirrored_at;
	char mirror_error[sizeof(((struct courier_failure *)0)->text)];
	unsigned nconflicts;
	struct courier_conflict conflict[COURIER_TOLD_CONFLICTS];
	bool exited;
};

struct target {
	char *name;
	bool is_pg;
	struct pg_address address;
	int64_t connect_timeout;
};

struct courier {
	/* set before the thread starts */
	char *pool, *path;
	const struct journal_tail *tail;
	struct target *targets;
	unsigned ntargets;
	char **mirror;
	unsigned nmirror;
	uint64_t mirror_interval_ns;
	struct courier_events events;
	void *arg;
	int wake; /* eventfd: the loop has new orders */

	/* I/O thread */
	uv_async_t async;
	uv_thread_t thread;
	struct orders wanted;
	uint64_t near_told, ended_told; /* runs */
	bool holding; /* told so */
	int64_t position;
	uint64_t last_seen; /* highest id when the courier was made */
	uint64_t replayed, conflicts;
	int64_t mirrored_at;
	char mirror_error[sizeof(((struct courier_failure *)0)->text)];
	struct news *shown; /* copy under work */
	bool closing;
	void (*gone)(void *arg);
	void *gone_arg;

	/* both, under the lock */
	uv_mutex_t lock;
	struct orders orders;
	struct news *news;

	_Atomic int ordered; /* see take_orders */

	/* courier's thread */
	struct orders now;
	uint64_t ended_run;
	uint64_t retry_ns, retry_at_ns;
	char last_failure[sizeof(((struct courier_failure *)0)->text)];
	sqlite3 *db;
	struct journal *journal;
	struct replay *replay;
	struct mirror *mirrored;
	struct pgcall pg;
	bool replaying; /* else mirroring: what the orders are compared with */
	struct orders working;
	uint64_t busy_since_ns, busy_limit_ns;
	int64_t forgotten; /* position when the file was last rid of replayed rows */
	uint64_t next_mirror_ns;
	unsigned nlogged; /* conflicts of this replay */
	uint64_t replays, set_aside; /* since the start */
	char mirror_why[sizeof(
		((struct courier_failure *)0)->text)]; /* last failure of the mirror */
	bool mirror_told; /* the log says that the mirror is there */
};

/* The thread, from courier_create on; arg is the courier. */
void courier_thread_main(void *arg);
/* For pgcall, on the thread: does what is under way have to end? */
bool courier_must_stop(void *arg);

#endif
