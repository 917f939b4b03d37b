/* SPDX-License-Identifier: MIT */
/*
 * attach.h - find a broker and shake hands with it (layout.h, attach messages).
 *
 * Knows nothing of handles: makes a struct attachment, which chan_create takes over.  Every wait is
 * bounded by the deadline.  Nothing of a failed attempt stays open.
 */
#ifndef CLIENT_ATTACH_H
#define CLIENT_ATTACH_H

#include "errstate.h"

struct attach_options {
	const char *path; /* NULL: look for it, see <shmbroker.h> */
	/* where relative paths start; the process may have changed its directory */
	const char *dir;
	const char *name;
	const char *pool;
	uint32_t result_kib;
};

struct attach_map {
	void *at;
	uint64_t len;
};

struct attachment {
	int sock;
	int bell; /* eventfd */
	struct attach_map w, b, s;
	struct attach_reply reply;
};

/*
 * 0: *out is the caller's.  BROKER_E_NOT_FOUND, _REFUSED, _VERSION, _TIMEOUT, _MEMORY, _ARGUMENT or
 * a code the broker answered with; e says what was tried.
 */
int attach_open(const struct attach_options *opt, uint64_t deadline_ns, struct attachment *out,
	struct errstate *e) must_use;

/* Undo: close, unmap. */
void attach_close(struct attachment *a);

#endif
