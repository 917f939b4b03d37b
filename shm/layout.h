/* SPDX-License-Identifier: MIT */
/*
 * layout.h - the byte maps of the four segments and of the attach messages.
 *
 * No code but span_ok() and padding helpers.  docs/shm-format.md is the prose to this file.
 *
 *   S  board       broker writes; workers and monitors read     state, counters, histograms, events
 *   Q  slow texts  broker writes; monitors read                 slow statements, statement shapes
 *   W  per worker  that worker writes; the broker reads         submission ring, request arena
 *   B  per worker  broker writes; that worker reads             completion ring, result arena
 *
 * Rules: one writer per mapping.  Offsets, never pointers.  Positions are 64 bit, only grow, and
 * are compared by subtraction.  Cache lines of different writers are 128 bytes apart.  Whatever the
 * broker reads from W is input, not truth: it copies a word once, checks the copy and acts on the
 * copy.
 *
 * Version: SHM_MAJOR changes when an old reader would misread; SHM_MINOR when something was added
 * at the end of a section or as a new section.  Readers accept any minor of their major.
 */
#ifndef SHM_LAYOUT_H
#define SHM_LAYOUT_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHM_MAGIC UINT64_C(0x314d48534b524253) /* "SBRKSHM1" little-endian */
#define SHM_MAJOR 1
#define SHM_MINOR 1
#define SHM_PAGE 4096u
#define SHM_LINE 128u
#define SHM_ENDIAN 0x01020304u

enum shm_role {
	SHM_ROLE_BOARD = 1, /* S */
	SHM_ROLE_SLOW = 2, /* Q */
	SHM_ROLE_WORKER = 3, /* W */
	SHM_ROLE_BROKER = 4, /* B */
};

/* What a section of a segment holds; the numbers are stable. */
enum shm_section_type {
	SHM_SEC_CONTROL = 1, /* W: struct chan_worker; B: struct chan_broker */
	SHM_SEC_RING = 2, /* W: struct shm_request[]; B: struct shm_completion[] */
	SHM_SEC_ARENA = 3, /* bytes */
	SHM_SEC_METRIC_DESC = 10, /* S: struct metric_desc[], see metrics.h */
	SHM_SEC_METRIC_VALUE = 11, /* S: uint64_t[], broker-wide values */
	SHM_SEC_POOLS = 12, /* S: struct board_pool[] */
	SHM_SEC_SERVERS = 13, /* S: struct board_server[] */
	SHM_SEC_CONNS = 14, /* S: struct board_conn[] */
	SHM_SEC_WORKERS = 15, /* S: struct board_worker[] */
	SHM_SEC_HISTOGRAMS = 16, /* S: struct histogram[] */
	SHM_SEC_EVENTS = 17, /* S: struct board_event_slot[] */
	SHM_SEC_POOL_VALUE = 18, /* S: uint64_t[][], the values of each pool */
	SHM_SEC_PLACE = 19, /* S, Q as files: struct segfile_place */
	SHM_SEC_SLOW = 20, /* Q: struct slow_slot[] */
	SHM_SEC_SHAPES = 21, /* Q: struct shape_row[], if any are kept (1.1) */
	SHM_SEC_SAMPLES = 22, /* Q: struct slow_slot[] of statements drawn by lot (1.1) */
};

#define SHM_MAX_SECTIONS 16

struct shm_section {
	uint32_t type; /* enum shm_section_type */
	uint32_t version; /* of the records in it, starts at 1 */
	uint64_t off; /* from the start of the segment, multiple of SHM_LINE */
	uint64_t len; /* bytes */
	uint32_t stride; /* bytes from one record to the next, 0 for bytes */
	uint32_t count; /* records */
};

/*
 * First page of every segment.  Written by the broker before anyone else maps the segment, but for
 * magic (stored last, release) and heartbeat_ns (S only, broker, relaxed, every housekeeping tick).
 * The broker itself never reads a header back: its geometry is in private memory.
 */
struct shm_header {
	_Atomic uint64_t magic;
	uint16_t major;
	uint16_t minor;
	uint32_t header_len; /* sizeof(struct shm_header) of the writer */
	uint32_t endian; /* SHM_ENDIAN as the writer stores it */
	uint32_t role; /* enum shm_role */
	uint64_t total_len; /* bytes of the segment */
	uint8_t boot_id[16]; /* /proc/sys/kernel/random/boot_id: segments do not outlive a boot */
	uint64_t broker_start_ns; /* CLOCK_BOOTTIME when the broker started */
	/* field 22 of /proc/PID/stat: with the pid, names the process */
	uint64_t broker_start_ticks;
	int32_t broker_pid;
	uint32_t nsections;
	uint64_t incarnation; /* W, B: number of this attach; S, Q: 0 */
	alignas(64) _Atomic uint64_t heartbeat_ns; /* CLOCK_BOOTTIME; S only */
	struct shm_section section[SHM_MAX_SECTIONS];
};
_Static_assert(sizeof(struct shm_header) <= SHM_PAGE, "header fits its page");
_Static_assert(offsetof(struct shm_header, magic) == 0, "magic is the first word");

/* ------------------------------------------------------------------------------------------------
 * The channel of one worker: W and B.
 */

#define CHAN_RING_SLOTS 128u /* submission descriptors; also the most requests in flight */
#define CHAN_COMP_SLOTS 512u /* most; see chan_comp_slots */
#define CHAN_BLOCK 4096u /* unit of the result arena */
#define CHAN_MAX_BLOCKS 256u /* 1 MiB result arena */
#define CHAN_MIN_BLOCKS 16u
#define CHAN_MAX_STMTS 1024u /* statement ids a worker may define */
#define CHAN_STMT_TEXT_MAX 16384u /* longest text that may be remembered under one */
#define CHAN_NO_CHUNK UINT32_MAX
#define CHAN_MAX_PARAMS 65535u /* protocol limit of PostgreSQL */
#define CHAN_TAG_MAX 64u /* bytes of a request tag that are kept */
_Static_assert(CHAN_COMP_SLOTS >= CHAN_MAX_BLOCKS + CHAN_RING_SLOTS, "completions always fit");

/* Completion slots for an arena of so many blocks: at least blocks + CHAN_RING_SLOTS, so that the
 * ring cannot overflow; not more than needed, since sooner or later each of its pages is used. */
static inline uint32_t chan_comp_slots(uint32_t blocks)
{
	return blocks + CHAN_RING_SLOTS <= CHAN_COMP_SLOTS / 2 ? CHAN_COMP_SLOTS / 2
							       : CHAN_COMP_SLOTS;
}

enum chan_sleep {
	CHAN_AWAKE = 0,
	CHAN_SLEEP_FUTEX = 1, /* FUTEX_WAIT on chan_broker.bell */
	CHAN_SLEEP_SOCKET = 2, /* wants one byte on the attach socket (event loops) */
};

/*
 * W, control section.  Writer: the worker's handle-owning thread.  Reader: the broker's I/O thread.
 *   sub_tail   published by ring_publish; requests [sub_head, sub_tail) are complete
 *   comp_head  completions [.., comp_head) were copied by the worker
 *   sleeping   enum chan_sleep; set before a full fence and a last look at comp_tail
 * A worker killed between writing a slot and publishing sub_tail has published nothing.
 * A lie in any word costs the liar its own results; the broker checks sub_tail against its private
 * head and never uses comp_head (completions fit by construction).
 */
struct chan_worker {
	alignas(SHM_LINE) _Atomic uint64_t sub_tail;
	alignas(SHM_LINE) _Atomic uint64_t comp_head;
	alignas(SHM_LINE) _Atomic uint32_t sleeping;
};

/*
 * B, control section.  Writer: the broker's I/O thread.  Reader: the worker.
 *   comp_tail  published; completions [comp_head, comp_tail) are complete
 *   sub_head   published; request slots and arena bytes before it were copied and are free again
 *   need_wake  1 = the broker may sleep: after publishing, write the eventfd
 *   bell       futex word, changes with every batch of completions
 *   closed     0, or the BROKER_E_ code (positive) why the broker gave this channel up
 */
struct chan_broker {
	alignas(SHM_LINE) _Atomic uint64_t comp_tail;
	alignas(SHM_LINE) _Atomic uint64_t sub_head;
	alignas(SHM_LINE) _Atomic uint32_t need_wake;
	alignas(SHM_LINE) _Atomic uint32_t bell;
	_Atomic uint32_t closed;
};

enum req_op {
	REQ_NOP = 0, /* only carries free_chunk */
	REQ_PART = 1, /* body bytes that precede those of the next descriptor with the same id */
	REQ_EXEC = 2, /* one statement; in lease `lease` or, if 0, by itself */
	REQ_LEASE = 3, /* ask for a connection; its id names the lease.  Answered by REQ_COMMIT,
	                  REQ_ROLLBACK, REQ_RELEASE or the first statement in it; no completion of
	                  its own, so that it costs no round trip */
	REQ_COMMIT = 4, /* COMMIT and give the connection back */
	REQ_ROLLBACK = 5, /* ROLLBACK and give the connection back */
	REQ_RELEASE = 6, /* give the connection back; an open transaction is rolled back */
	REQ_COPY_IN = 7, /* in a lease: body is the COPY ... FROM STDIN statement; completion
	                    COMP_COPY_READY, then REQ_COPY_DATA*, REQ_COPY_END, COMP_DONE */
	REQ_COPY_OUT = 8, /* in a lease: body is COPY ... TO STDOUT; COMP_DATA* then COMP_DONE */
	/* `target` is the id of the REQ_COPY_IN; body bytes are data; unanswered */
	REQ_COPY_DATA = 9,
	REQ_COPY_END = 10, /* `target`; empty body: finish; otherwise: fail with this text;
	                      unanswered (the REQ_COPY_IN itself is answered) */
	REQ_CANCEL = 11, /* `target` is the id of the request to cancel; unanswered */
	REQ_DETACH = 12, /* polite end */
	REQ_OP_COUNT
};

enum req_flag {
	REQ_F_READONLY = 1, /* EXEC: declared read-only.  LEASE: read-only transaction or session */
	REQ_F_STREAM = 2, /* EXEC: expects a large result: gets a connection of its own */
	REQ_F_TX = 4, /* LEASE: BEGIN goes out with the first statement */
	REQ_F_SERIALIZABLE = 8, /* LEASE with REQ_F_TX: isolation levels */
	REQ_F_REPEATABLE = 16,
	REQ_F_DEFINE = 32, /* EXEC: the body holds the text and defines statement id `stmt` */
	REQ_F_FRESH = 64, /* with READONLY: only from a server that has what this worker wrote */
	REQ_F_BATCH = 128, /* EXEC, LEASE: may wait behind interactive ones */
};

/*
 * Submission descriptor, 64 bytes.  The broker copies it once and never looks again.
 * off is a 64-bit arena position (only grows); the body is the len bytes at off modulo the arena
 * size and does not wrap.
 */
struct shm_request {
	uint64_t id; /* worker's choice, not 0, never used again but for REQ_PART and its end */
	uint8_t op; /* enum req_op */
	uint8_t flags; /* enum req_flag */
	uint16_t pool; /* index of the pool; ignored with a lease */
	uint32_t stmt; /* EXEC: statement id, 0 = text in the body, not remembered */
	uint64_t lease; /* id of the REQ_LEASE, or 0 */
	uint64_t off;
	uint32_t len;
	uint32_t free_chunk; /* a result chunk that is given back, or CHAN_NO_CHUNK */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC, 0 = none */
	uint64_t target; /* CANCEL, COPY_DATA, COPY_END */
	uint64_t reserved; /* 0 */
};
_Static_assert(sizeof(struct shm_request) == 64, "one cache line");

/*
 * Body of EXEC, COPY_IN, COPY_OUT: this head, then tag, SQL text and parameters, each padded to 8
 * bytes.  LEASE: head and tag only.  With a known statement id sql_len is 0.
 */
struct shm_body {
	uint32_t tag_len;
	uint32_t sql_len;
	uint32_t nparams;
	uint32_t reserved; /* 0 */
};

/* One parameter: this head, then len bytes padded to 8. */
struct shm_param {
	uint32_t len;
	uint32_t type; /* enum cell_type */
};

/*
 * Types of parameters and cells; numbers equal enum broker_type of <shmbroker.h>.
 * A cell has in addition an encoding: CELL_NATIVE as below, or CELL_PGTEXT, PostgreSQL's text
 * output which the client library converts when asked (the broker copies result bytes once,
 * untouched).  Parameters are always native.
 *
 *   type        native bytes
 *   NULL        none
 *   BOOL        1 byte, 0 or 1
 *   INT64       8 bytes, host order
 *   DOUBLE      8 bytes, IEEE 754, host order
 *   TEXT, JSON  UTF-8, not terminated
 *   BLOB        bytes
 *   TIMESTAMP   int64, microseconds since 1970-01-01 00:00:00 UTC
 */
enum cell_type {
	CELL_NULL = 0,
	CELL_BOOL = 1,
	CELL_INT64 = 2,
	CELL_DOUBLE = 3,
	CELL_TEXT = 4,
	CELL_BLOB = 5,
	CELL_JSON = 6,
	CELL_TIMESTAMP = 7,
	CELL_TYPE_COUNT
};

enum cell_encoding {
	CELL_NATIVE = 0,
	CELL_PGTEXT = 1,
};

enum comp_kind {
	COMP_DATA = 1, /* a chunk of the result stream; more follows */
	COMP_DONE = 2, /* the request ended well; may carry the last chunk */
	COMP_ERROR = 3, /* the request failed; the chunk, if any, holds a struct shm_error */
	COMP_COPY_READY = 4, /* send REQ_COPY_DATA now */
};

enum comp_flag {
	COMP_F_READONLY_SERVER = 1, /* reserved for routing: a standby or fallback answered */
};

/* Completion descriptor, 64 bytes. */
struct shm_completion {
	uint64_t id;
	uint8_t kind; /* enum comp_kind */
	uint8_t flags; /* enum comp_flag */
	uint16_t server; /* index of the row in the servers table that answered, UINT16_MAX: none */
	uint32_t code; /* COMP_ERROR: BROKER_E_ as a positive number */
	uint32_t chunk; /* first block of the chunk in the result arena, or CHAN_NO_CHUNK */
	uint32_t len; /* bytes in the chunk */
	uint64_t rows; /* DONE: rows affected (write) or returned (read) */
	uint64_t wait_ns; /* final: time queued in the broker */
	uint64_t run_ns; /* final: time from sending to the server to the last byte */
	uint32_t outcome; /* COMP_ERROR: enum shm_outcome */
	uint32_t reserved0;
	uint64_t reserved1;
};
_Static_assert(sizeof(struct shm_completion) == 64, "one cache line");

/* What is known about a failed request; numbers equal enum broker_outcome. */
enum shm_outcome {
	SHM_OUTCOME_NOT_DONE = 0, /* it had no effect on the database */
	SHM_OUTCOME_UNKNOWN = 1, /* it may or may not have taken effect */
};

/*
 * The result stream of a statement: the chunks of its COMP_DATA and COMP_DONE in order, which hold
 *     struct shm_result_head, then ncols times struct shm_column + name padded to 8,
 *     then rows: struct shm_row + that many bytes of cells.
 * The stream may be cut between chunks at any multiple of 8; a reader joins a row that straddles.
 * A statement that returns no columns has no stream.  COPY_OUT: the stream is the raw data, cut
 * anywhere, without head.
 */
struct shm_result_head {
	uint32_t ncols;
	uint32_t head_len; /* bytes of this head and all columns */
};

struct shm_column {
	uint32_t name_len;
	uint8_t type; /* enum cell_type the column is declared as; TEXT when unknown */
	uint8_t reserved[3];
};

struct shm_row {
	uint64_t len; /* bytes of cells that follow */
};

/* One cell: this head, then len bytes padded to 8. */
struct shm_cell {
	uint32_t len;
	uint8_t type; /* enum cell_type */
	uint8_t encoding; /* enum cell_encoding */
	uint16_t reserved;
};

/* Error text of COMP_ERROR: this head, then message, detail, hint, unpadded, not terminated. */
struct shm_error {
	char sqlstate[8]; /* five characters, or empty */
	uint32_t message_len;
	uint32_t detail_len;
	uint32_t hint_len;
	uint32_t retry_safe; /* 1: sending it again cannot do harm and may succeed */
};
#define SHM_ERROR_TEXT_MAX 3072u /* all three texts together; longer ones are cut */

/* ------------------------------------------------------------------------------------------------
 * Attach messages, on a SOCK_SEQPACKET socket.
 *
 *   worker -> broker   struct attach_hello (by path: on the connected socket; by BROKER_FD: as a
 *                      message on the inherited socket that carries one end of a new socket pair)
 *   broker -> worker   struct attach_reply, with the descriptors S, W, B, eventfd, in
 *                      that order; on error none, and a text
 *   worker -> broker   struct attach_ready, after mapping; the broker then serves it
 *   broker -> worker   single bytes, only for CHAN_SLEEP_SOCKET; end of file = the broker is gone
 */
#define ATTACH_MAGIC UINT32_C(0x4b524253)
#define ATTACH_NAME_MAX 64u
#define ATTACH_TEXT_MAX 256u

enum attach_kind {
	ATTACH_WORKER = 1,
};

struct attach_hello {
	uint32_t magic;
	uint16_t major;
	uint16_t minor;
	uint32_t kind; /* enum attach_kind */
	uint32_t result_kib; /* wanted result arena, 0 = the broker's default */
	char name[ATTACH_NAME_MAX]; /* of the application, shown to operators; NUL padded */
	char pool[ATTACH_NAME_MAX]; /* name of the pool to use by default; empty = the first */
};

struct attach_reply {
	uint32_t magic;
	uint16_t major;
	uint16_t minor;
	uint32_t code; /* 0, or BROKER_E_ as a positive number */
	uint32_t npools;
	uint32_t pool; /* index of the pool asked for */
	uint32_t worker_slot; /* row in the workers table */
	uint64_t incarnation;
	uint64_t max_request; /* longest request body the broker takes, bytes */
	uint64_t default_timeout_ms; /* for calls that name none */
	char text[ATTACH_TEXT_MAX]; /* what is wrong and what to change, NUL terminated */
};

struct attach_ready {
	uint32_t magic;
	uint32_t reserved;
};

/* ---------------------------------------------------------------------------------------------- */

/* True if [off, off + len) lies inside [0, size); cannot overflow. */
static inline bool span_ok(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

static inline uint64_t pad8(uint64_t n)
{
	return (n + 7) & ~UINT64_C(7);
}

#endif
