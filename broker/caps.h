/* SPDX-License-Identifier: MIT */
/*
 * caps.h - how many connections each user and each tag uses, for max_per_uid and max_per_tag.
 *
 * A list of those that use any: as long as the pool has connections at most, so looking through it
 * is cheap.  Tags are known by a hash: two of the same hash share a cap.
 */
#ifndef BROKER_CAPS_H
#define BROKER_CAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct member;

enum cap_kind {
	CAP_UID,
	CAP_TAG,
};

/* What a request or lease counts for. */
struct capped {
	bool uid_taken, tag_taken;
	/* a slow statement (choice_is_slow) that runs there; NULL: it is none */
	struct member *slow_on;
	uint32_t uid;
	uint64_t tag;
};

struct cap_use {
	enum cap_kind kind;
	uint64_t key;
	unsigned n;
};

struct caps {
	struct cap_use *use;
	unsigned nuse, cap;
};

uint64_t caps_tag(const char *tag, size_t len);
unsigned caps_used(const struct caps *c, enum cap_kind kind, uint64_t key);
/* False: out of memory, not counted. */
bool caps_take(struct caps *c, enum cap_kind kind, uint64_t key);
void caps_drop(struct caps *c, enum cap_kind kind, uint64_t key);
void caps_finish(struct caps *c);

#endif
