/* SPDX-License-Identifier: MIT */
/*
 * board.h - the broker's state for everyone to look at: segment S, and Q with the statements.
 *
 * The board is a mirror.  The truth is in the broker's private memory; the broker never decides by
 * what stands here, and nobody else writes it.  It is a file in memory (docs/decisions/0002), found
 * through a link next to the socket, so that readers need neither the broker's help nor its life.
 *
 *   section        record                      protocol
 *   METRIC_DESC    struct metric_desc          constant
 *   METRIC_VALUE   one word                    relaxed, one writer
 *   POOL_VALUE     words of one pool           relaxed, one writer
 *   HISTOGRAMS     struct histogram            relaxed, one writer (see histogram.h)
 *   POOLS, SERVERS, CONNS, WORKERS
 *                  struct board_pool, ...      sequence lock per row (see seqlock.h)
 *   EVENTS         struct board_event_slot     ring of stamped slots, as in slowring.h
 *   Q: SLOW        struct slow_slot            slow statements, see slowring.h
 *      SAMPLES     struct slow_slot            some of the others, see slowring.h
 *      SHAPES      struct shape_row            what each shape of statement cost, see shape.h
 *
 * Threads.  One thread makes every call between board_create and board_destroy.  Several threads
 * have a *part* each (board_part): what they count stays in the part, and board_sum, called now and
 * then, shows the sums.  Rows belong to whoever was given them.  Events and single statements are
 * written under a lock, each shape of statement by the part whose rows it is in: a shape that
 * several parts met has a row of each, which readers add up.
 * Progress.  Every call but create and destroy is wait-free and makes no system call, except that
 * board_event and board_slow read the clock; with parts these two and board_sample take the lock.
 *
 * S is readable by all workers: no statement text, no parameter, no secret goes into it.  Texts in
 * a row may come from workers (names, tags): readers must treat them as bytes, not as terminal
 * input.
 *
 * Rows carry CLOCK_MONOTONIC stamps (0 = none), events and slow statements CLOCK_REALTIME.
 */
#ifndef SHM_BOARD_H
#define SHM_BOARD_H

#include "check.h"
#include "histogram.h"
#include "layout.h"
#include "metrics.h"
#include "segment.h"
#include "shape.h"
#include "slowring.h"

#include <sys/types.h>

struct board;

/* Capacities; constant for the life of the board. */
struct board_geometry {
	unsigned npools, nservers, nconns, nworkers;
	unsigned nslow; /* slots of Q for slow statements */
	unsigned nsamples; /* slots of Q for statements drawn by lot; 0 = none */
	unsigned nshapes; /* rows of Q; 0 = none are kept */
};

#define BOARD_ROWS_MAX 65536u

/* Where a segment goes.  path NULL: a sealed memfd, which is gone with its last holder (tests). */
struct board_place {
	const char *path; /* "<socket>.board", "<socket>.slow" */
	const char *dir; /* memory file system for the bytes; NULL: /dev/shm (segfile.h) */
	mode_t mode; /* who may read: e.g. 0444 for S, 0440 for Q */
	gid_t gid; /* (gid_t)-1: leave it */
};

/*
 * Create S and Q, zero but for the descriptions, visible at once.  Leftovers of a dead broker at
 * the same paths are replaced, memory and all. g: npools and nslow at least 1, none above
 * BOARD_ROWS_MAX. 0: *out is the caller's.  -EINVAL: the geometry.  -EEXIST: the board there
 * belongs to a broker that lives.  -EPERM: the group may not be given.  Other -errno: no place for
 * it.
 */
int board_create(const struct segment_identity *id, const struct board_geometry *g,
	const struct board_place *s, const struct board_place *q, struct board **out) must_use;

/* A clean end: unlinks the files.  A broker that crashes leaves them behind, which is the point. */
void board_destroy(struct board **b);

/*
 * A part of b for one of `of` threads, number `n`, made before any of them works; from then on b
 * itself is only for board_sum, which one thread calls, and for board_destroy, after that of all
 * parts.  NULL: no memory.
 */
struct board *board_part(struct board *b, unsigned n, unsigned of) must_use;
/*
 * Show what all parts have counted in the first `npools` pools.  Time stamps (unit SINCE, and the
 * heartbeat): the oldest; all else: the sum.
 */
void board_sum(struct board *b, unsigned npools);

/* Read-only descriptors for those who attach by socket; the board keeps owning them. */
int board_fd(const struct board *b);
int board_slow_fd(const struct board *b);

/* Show that the loop turns; at least once a second.  CLOCK_BOOTTIME. */
void board_heartbeat(struct board *b, uint64_t boottime_ns);

/* ------------------------------------------------------------------------------------------------
 * Values
 */

/* What the inline writers need; the first member of struct board. */
struct board_hot {
	_Atomic uint64_t *values;
	_Atomic uint64_t *pool_values;
	struct histogram *histograms;
	unsigned npools;
};

/* Words of one pool's record in POOL_VALUE: whole cache lines. */
#define BOARD_POOL_WORDS ((POOL_METRIC_COUNT + 15u) / 16u * 16u)

static inline const struct board_hot *board_hot(const struct board *b)
{
	return (const struct board_hot *)(const void *)b;
}

static inline _Atomic uint64_t *board_pool_word(
	const struct board *b, unsigned pool, enum pool_metric m)
{
	check_slow(pool < board_hot(b)->npools && m < POOL_METRIC_COUNT);
	return &board_hot(b)->pool_values[(size_t)pool * BOARD_POOL_WORDS + m];
}

/* Add to a counter; board_adjust: add to a gauge, n may be negative; board_gauge: set a gauge. */
static inline void board_count(struct board *b, enum metric m, uint64_t n)
{
	bump(&board_hot(b)->values[m], n);
}

static inline void board_adjust(struct board *b, enum metric m, int64_t n)
{
	bump(&board_hot(b)->values[m], (uint64_t)n);
}

static inline void board_gauge(struct board *b, enum metric m, uint64_t v)
{
	put(&board_hot(b)->values[m], v);
}

static inline void board_pool_count(struct board *b, unsigned pool, enum pool_metric m, uint64_t n)
{
	bump(board_pool_word(b, pool, m), n);
}

static inline void board_pool_adjust(struct board *b, unsigned pool, enum pool_metric m, int64_t n)
{
	bump(board_pool_word(b, pool, m), (uint64_t)n);
}

static inline void board_pool_gauge(struct board *b, unsigned pool, enum pool_metric m, uint64_t v)
{
	put(board_pool_word(b, pool, m), v);
}

/* The value as the board has it; for logs and tests. */
static inline uint64_t board_value(const struct board *b, enum metric m)
{
	return get(&board_hot(b)->values[m]);
}

static inline uint64_t board_pool_value(const struct board *b, unsigned pool, enum pool_metric m)
{
	return get(board_pool_word(b, pool, m));
}

/* Record a duration. */
static inline void board_time(struct board *b, unsigned pool, enum pool_histogram h, uint64_t ns)
{
	check_slow(pool < board_hot(b)->npools && h < POOL_HIST_COUNT);
	histogram_record(&board_hot(b)->histograms[(size_t)pool * POOL_HIST_COUNT + h], ns);
}

/* ------------------------------------------------------------------------------------------------
 * Rows
 *
 * The info structs are at the same time the body of the shared records: 8-byte multiples without
 * hidden padding, texts NUL terminated, numbers of enums stable and only
 * appended to.  A newer broker may add members at the end: readers copy the smaller of both
 * strides.
 */

#define BOARD_NAME_MAX 64u
#define BOARD_NONE UINT32_MAX /* no pool, no server, no worker */

enum board_pool_state {
	BOARD_POOL_STARTING = 0, /* no connection yet */
	BOARD_POOL_UP = 1,
	BOARD_POOL_DEGRADED = 2, /* serves, but not on its first choice, or reads only */
	BOARD_POOL_DOWN = 3,
	BOARD_POOL_PAUSED = 4,
};

#define BOARD_POOL_VERSION 1
struct board_pool_info {
	char name[BOARD_NAME_MAX];
	char database[BOARD_NAME_MAX];
	char user[BOARD_NAME_MAX];
	char mode[16]; /* pool_mode: "transaction", "sqlite", ... */
	uint32_t state; /* enum board_pool_state */
	uint32_t nservers;
	uint32_t max_size;
	uint32_t min_idle;
	uint32_t server; /* row of the server that takes writes now, or BOARD_NONE */
	uint32_t reserved;
	uint64_t since_ns; /* of state */
};

enum board_server_state {
	BOARD_SERVER_UNKNOWN = 0,
	BOARD_SERVER_UP = 1,
	BOARD_SERVER_SUSPECT = 2,
	BOARD_SERVER_DOWN = 3,
	BOARD_SERVER_RECOVERING = 4,
};

enum board_server_role {
	BOARD_ROLE_UNKNOWN = 0,
	BOARD_ROLE_PRIMARY = 1,
	BOARD_ROLE_STANDBY = 2,
	BOARD_ROLE_LOCAL = 3, /* SQLite */
};

#define BOARD_SERVER_VERSION 1
struct board_server_info {
	char name[BOARD_NAME_MAX];
	char kind[16]; /* "postgresql", "sqlite", "fake" */
	char address[128]; /* never with a password */
	char last_error[192];
	uint32_t state; /* enum board_server_state */
	uint32_t role; /* enum board_server_role */
	uint32_t connections;
	uint32_t max_connections; /* 0 = no limit */
	uint64_t lag_bytes; /* standby: not replayed yet */
	uint64_t lag_ns;
	uint64_t latency_ns; /* of the last probe */
	uint64_t since_ns; /* of state */
	uint64_t probed_ns; /* last probe that was answered */
};

enum board_conn_state {
	BOARD_CONN_CLOSED = 0,
	BOARD_CONN_LOGIN = 1,
	BOARD_CONN_IDLE = 2,
	BOARD_CONN_ACTIVE = 3, /* runs statements outside leases */
	BOARD_CONN_LEASED = 4,
	BOARD_CONN_TRANSACTION = 5, /* leased, in a transaction */
	BOARD_CONN_PINNED = 6, /* leased, session state touched */
	BOARD_CONN_CANCELLING = 7,
	BOARD_CONN_RESETTING = 8,
	BOARD_CONN_TESTING = 9,
};

#define BOARD_CONN_VERSION 1
struct board_conn_info {
	uint32_t pool, server; /* rows */
	uint32_t state; /* enum board_conn_state */
	int32_t backend_pid; /* 0 = not known */
	/* who holds the lease, or without one asked for what runs; BOARD_NONE */
	uint32_t worker_slot;
	uint32_t in_flight;
	uint64_t generation; /* of the slot */
	uint64_t connected_ns;
	uint64_t since_ns; /* of state */
	uint64_t lease_ns; /* lease since, 0 = none */
	uint64_t statements; /* run on it so far */
	/* shape of what runs on it, or ran last; 0 = not known.  See shape.h */
	uint64_t fingerprint;
	uint64_t statement_ns; /* it runs since, 0 = nothing runs */
};

enum board_worker_state {
	BOARD_WORKER_ATTACHED = 0,
	BOARD_WORKER_STALLED = 1, /* does not read its results */
	BOARD_WORKER_EVICTED = 2, /* reclaimed once it is dead */
	BOARD_WORKER_LEAVING = 3,
};

#define BOARD_WORKER_VERSION 1
struct board_worker_info {
	int32_t pid;
	uint32_t uid;
	char name[BOARD_NAME_MAX]; /* as the worker says */
	char tag[BOARD_NAME_MAX]; /* of its latest request, as the worker says */
	uint32_t state; /* enum board_worker_state */
	uint32_t in_flight;
	uint32_t leases;
	uint32_t pool; /* row of its default pool */
	uint64_t incarnation;
	uint64_t attached_ns;
	uint64_t active_ns; /* latest request */
	uint64_t statements;
	uint64_t errors;
};

/*
 * Shared records: sequence, 1 if the row is taken, body.
 * Readers show a row only if `used` is 1.
 */
/* clang-format off */
struct board_pool   { _Atomic uint64_t seq; uint64_t used; struct board_pool_info   info; };
struct board_server { _Atomic uint64_t seq; uint64_t used; struct board_server_info info; };
struct board_conn   { _Atomic uint64_t seq; uint64_t used; struct board_conn_info   info; };
struct board_worker { _Atomic uint64_t seq; uint64_t used; struct board_worker_info info; };
/* clang-format on */
_Static_assert(sizeof(struct board_pool_info) == 240, "byte map");
_Static_assert(sizeof(struct board_server_info) == 456, "byte map");
_Static_assert(sizeof(struct board_conn_info) == 80, "byte map");
_Static_assert(sizeof(struct board_worker_info) == 192, "byte map");

/* Write row i whole; info NULL frees it. */
void board_pool_row(struct board *b, unsigned i, const struct board_pool_info *info);
void board_server_row(struct board *b, unsigned i, const struct board_server_info *info);
void board_conn_row(struct board *b, unsigned i, const struct board_conn_info *info);
void board_worker_row(struct board *b, unsigned i, const struct board_worker_info *info);

/* ------------------------------------------------------------------------------------------------
 * Events and slow statements
 */

enum board_event_kind {
	BOARD_EVENT_START = 1,
	BOARD_EVENT_STOP = 2,
	BOARD_EVENT_RELOAD = 3,
	BOARD_EVENT_SERVER_UP = 4,
	BOARD_EVENT_SERVER_DOWN = 5,
	BOARD_EVENT_ROLE = 6,
	BOARD_EVENT_FAILOVER = 7,
	BOARD_EVENT_LEAK = 8,
	BOARD_EVENT_EVICTION = 9,
	BOARD_EVENT_WORKER_DEATH = 10,
	BOARD_EVENT_PIN = 11,
	BOARD_EVENT_REFUSAL = 12,
	BOARD_EVENT_CONNECT_FAILURE = 13,
	BOARD_EVENT_ERROR = 14,
	BOARD_EVENT_CONFLICT = 15, /* a row of the journal was set aside */
	BOARD_EVENT_KIND_COUNT
};

/* "server_up" and so on; stable. */
const char *board_event_name(enum board_event_kind kind);

#define BOARD_EVENT_VERSION 1
#define BOARD_EVENTS 256u
#define BOARD_EVENT_SLOT 256u

/*
 * One slot of EVENTS, numbered and stamped as in slowring.h.  The kind stands there as text, too,
 * so that an older reader can name a newer kind. 0 seq   8 when_ns   16 kind   20 text_len   24
 * name   48 text
 */
struct board_event_slot {
	_Atomic uint64_t seq;
	uint64_t when_ns; /* CLOCK_REALTIME */
	uint32_t kind; /* enum board_event_kind */
	uint32_t text_len;
	char name[24]; /* NUL terminated */
	char text[BOARD_EVENT_SLOT - 48]; /* NUL terminated, control characters replaced */
};
_Static_assert(sizeof(struct board_event_slot) == BOARD_EVENT_SLOT, "byte map");

/* Append to the event log; text is cut to fit. */
void board_event(struct board *b, enum board_event_kind kind, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Read slot `slot` of `stride` bytes; number of the event, or 0: empty, or being written. */
uint64_t board_event_read(const void *slot, size_t stride, struct board_event_slot *out);

/* Append to the slow-query ring. */
void board_slow(struct board *b, const struct slow_record *rec);
/* Append to the ring of samples; there is one if geometry.nsamples was not 0. */
void board_sample(struct board *b, const struct slow_record *rec);
/* The table of shapes, or NULL if none are kept.  The board keeps owning it. */
struct shape_table *board_shapes(const struct board *b);

#endif
