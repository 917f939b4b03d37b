/* SPDX-License-Identifier: MIT */
/*
 * segment.h - memfds with a self-describing header: create, seal, map, verify.
 *
 * The broker creates every segment.  W and B are memfds; S and Q are files (segfile.h), or memfds
 * where nobody needs to find them.  None can be resized, so no mapping of anybody loses its pages.
 * Who may write, besides the broker in S, Q and B, by the mapping that it makes here:
 *
 *   S, Q   nobody: F_SEAL_FUTURE_WRITE, after the broker has mapped them
 *   B      nobody: the descriptor that is passed on was opened for reading, and the mode of the
 *          memfd lets no other user open it anew
 *   W      whoever holds the descriptor: the worker
 *
 * B is not sealed since the kernel gives nothing back of memory that is: the broker takes away the
 * pages of results that are done with (MADV_REMOVE on its mapping).  A worker of the broker's own
 * user could change the mode and write into its B all the same, and so mislead itself: the broker
 * reads nothing back from B, but for the bell, of which any value will do.  docs/decisions/0026.
 *
 * No function keeps or closes a descriptor it was given, unless it says so.
 */
#ifndef SHM_SEGMENT_H
#define SHM_SEGMENT_H

#include "check.h"
#include "layout.h"

/* One section to lay out; segment_header_init finds its place. */
struct segment_plan {
	uint32_t type;
	uint32_t version;
	uint32_t stride;
	uint32_t count;
	uint64_t len; /* 0: stride * count */
};

/* Identity of the broker process that goes into every header. */
struct segment_identity {
	uint8_t boot_id[16];
	uint64_t start_ns;
	uint64_t start_ticks;
	int32_t pid;
};

/* Identity of the calling process. */
void segment_identity_self(struct segment_identity *id);

/* True if the process named by a header still runs; false if it ended or the host rebooted. */
bool segment_writer_alive(const struct shm_header *h);

/*
 * Create a memfd named `name`, sized and with a header for the planned sections, magic stored last.
 * *map gets the broker's mapping (read-write for S, Q, B, read-only for W) and *len its length.
 * Returns the descriptor to pass on, owned by the caller, or -errno.
 */
int segment_create(const char *name, uint32_t role, uint64_t incarnation,
	const struct segment_identity *id, const struct segment_plan *plan, unsigned nplan,
	void **map, uint64_t *len) must_use;

/* The two steps of it that files share (segfile.h): fill a header, with total_len; write it to the
 * start of a file, magic last.  The latter returns 0 or -errno. */
void segment_header_init(struct shm_header *h, uint32_t role, uint64_t incarnation,
	const struct segment_identity *id, const struct segment_plan *plan, unsigned nplan);
int segment_header_write(int fd, const struct shm_header *h) must_use;

/*
 * Map a segment received from the broker and check its header: magic, version, role, length, every
 * section inside the file.  writable only for W.  0 or -errno; -EPROTO: not such a segment;
 * -EPROTONOSUPPORT: another major version.
 */
int segment_attach(int fd, uint32_t role, bool writable, void **map, uint64_t *len) must_use;

/* Section of that type, or NULL.  The header must have been checked by segment_attach. */
const struct shm_section *segment_section(const void *map, uint32_t type);

/* Start of a section's bytes. */
static inline void *segment_at(const void *map, const struct shm_section *s)
{
	return (char *)map + s->off;
}

/* Unmap; NULL is allowed. */
void segment_unmap(void *map, uint64_t len);

#endif
