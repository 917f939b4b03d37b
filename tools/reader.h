/* SPDX-License-Identifier: MIT */
/*
 * reader.h - a reader of the board: find it, copy it, tell whether its broker lives.
 *
 * Needs nothing of the broker: the segments are files (shm/segfile.h), mapped read-only. Everything
 * is copied into a struct sample first and looked at afterwards.  What the writer says about sizes
 * is checked; descriptions decide which word is which metric, so boards of other minor versions
 * work. Texts may come from workers: print them through text.h only.
 *
 * One thread.  Nothing here waits for the broker.
 */
#ifndef TOOLS_READER_H
#define TOOLS_READER_H

#include "board.h"
#include "recording.h"

#include <stdbool.h>

enum reader_life {
	READER_RUNNING,
	READER_STALLED, /* the process runs, its loop does not turn */
	READER_STOPPED, /* SIGSTOP, or under a debugger */
	READER_DEAD, /* the process is gone; the board is what it left */
};

/* A row as found.  torn: its writer was in the middle; the words may belong to two versions. */
/* clang-format off */
struct pool_row   { bool used, torn; struct board_pool_info   info; };
struct server_row { bool used, torn; struct board_server_info info; };
struct conn_row   { bool used, torn; struct board_conn_info   info; };
struct worker_row { bool used, torn; struct board_worker_info info; };
/* clang-format on */

struct numbered_event {
	uint64_t number;
	struct board_event_slot slot;
};

struct numbered_slow {
	uint64_t number;
	struct slow_slot slot;
};

/* One copy of the board.  Arrays have the capacity of the board's tables; rows may be unused. */
struct sample {
	uint64_t mono_ns; /* CLOCK_MONOTONIC: when copied, or of the last heartbeat if dead */
	uint64_t real_ns; /* CLOCK_REALTIME when copied */
	uint64_t uptime_ns; /* of the broker, up to its death */
	uint64_t beat_age_ns;
	enum reader_life life;
	int32_t pid;
	uint64_t broker_start_ns; /* CLOCK_BOOTTIME: tells brokers apart */
	unsigned major, minor;

	unsigned ndesc, nvalues, npools, pool_words, nhist, hist_per_pool;
	unsigned nservers, nconns, nworkers, nevents;
	bool values_torn; /* counters that belong together may be one apart */
	struct metric_desc *desc;
	uint64_t *values;
	uint64_t *pool_values; /* npools times pool_words */
	struct histogram_copy *hist; /* npools times hist_per_pool; bucket NULL if unreadable */
	struct pool_row *pools;
	struct server_row *servers;
	struct conn_row *conns;
	struct worker_row *workers;
	struct numbered_event *events; /* oldest first */
};

/* A shape of statement: what statements that differ in their literals only have cost together. */
struct shape_entry {
	bool torn;
	struct shape_row row;
};

struct reader;

/* How long a broker's heart may rest before it counts as stalled. */
#define READER_STALL_NS UINT64_C(3000000000)

/*
 * Open the board of a broker.
 * name     path of its socket or of the board; a name without '/' is also looked for as
 *          /run/shmbroker/NAME.sock; NULL: BROKER_SOCKET, ./shmbroker.sock,
 * /run/shmbroker/broker.sock wait_ms  how long to wait for one that is not there yet; negative: for
 * ever 0: *out is the caller's.  -ENOENT: none found.  -EACCES, -EPERM: not allowed, or a forged
 * link. -EPROTONOSUPPORT: another major version.  -EPROTO: not a board.  err gets one line of text.
 */
int reader_open(
	const char *name, int64_t wait_ms, struct reader **out, char *err, size_t errlen) must_use;
void reader_close(struct reader **r);

/*
 * Open a recording (recording.h) instead, at its first frame; err gets one line of text.  -ENOENT,
 * -EACCES and so on; -EPROTO, -ENODATA: not a recording, or an empty one; -EPROTONOSUPPORT.
 */
int reader_open_recording(const char *path, struct reader **out, char *err, size_t errlen) must_use;
/* Frames of it; 0: this is no recording but a board. */
unsigned reader_frames(const struct reader *r);
/* True if bytes at the end of the recording were left out: cut or damaged. */
bool reader_is_cut(const struct reader *r);
/* The frame in use, and when a frame was taken: CLOCK_REALTIME. */
unsigned reader_frame(const struct reader *r);
uint64_t reader_frame_ns(const struct reader *r, unsigned frame);
/* Use another frame.  0, or a negative error if the file is damaged there. */
int reader_seek(struct reader *r, unsigned frame) must_use;

/* Take a frame for a recording; texts: with Q, if it can be read.  0 or -ENOMEM. */
int reader_snapshot(struct reader *r, bool texts, struct snapshot *out) must_use;

/* Path of the board in use, or that was recorded. */
const char *reader_path(const struct reader *r);

/* Whether a new broker has replaced the board; what the old one left can be read until it is
 * followed. */
bool reader_is_replaced(const struct reader *r);

/* If a new broker has replaced the board, switch to it: true. */
bool reader_follow(struct reader *r);

/* Copy the board.  0: *out is the caller's.  -ENOMEM. */
int reader_sample(struct reader *r, struct sample **out) must_use;
void sample_free(struct sample **s);

/*
 * Copy the slow statements with numbers above `after`, oldest first; *lost gets how many were
 * overwritten before they could be read.  Opens Q on first use.  *out is the caller's, to be freed.
 * Returns how many, or -ENOENT, -EACCES, -EPERM, -EPROTO, -EPROTONOSUPPORT, -ENOMEM.
 */
int reader_slow(
	struct reader *r, uint64_t after, struct numbered_slow **out, uint64_t *lost) must_use;
/* The same of the statements drawn by lot, which have numbers of their own; 0 if none are kept. */
int reader_samples(
	struct reader *r, uint64_t after, struct numbered_slow **out, uint64_t *lost) must_use;

/*
 * Copy the shapes of statements, those that took the most time first.  Opens Q on first use.  *out
 * is the caller's, to be freed.  Returns how many, 0 if this broker keeps none, or as reader_slow.
 */
int reader_shapes(struct reader *r, struct shape_entry **out) must_use;

/* Name of a pool or server row; "-" for BOARD_NONE, "#3" for a row that is gone.  buf holds the
 * latter. */
const char *sample_pool_name(const struct sample *s, uint32_t pool, char buf[16]);
const char *sample_server_name(const struct sample *s, uint32_t server, char buf[16]);

/* Seconds from a row's CLOCK_MONOTONIC stamp to the sample; 0 if there is none. */
double sample_age(const struct sample *s, uint64_t stamp_ns);

/* Since when a worker holds the connection, by a lease or by a statement outside one; 0: none
 * does. */
uint64_t conn_held_ns(const struct board_conn_info *c);

/* "running", "stalled", "stopped", "dead". */
const char *reader_life_name(enum reader_life life);

#endif
