/* SPDX-License-Identifier: MIT */
/*
 * segfile.h - segments that are files, so that they can be read without their writer's help and
 * survive its death (docs/decisions/0002-board-is-a-file.md).
 *
 * The name everybody knows is `path`, next to the broker's socket.  The bytes belong into memory: a
 * mapped file on a disk would be written back behind our back, and the loop would wait for the disk
 * when it touches a counter.  So `path` is a symbolic link to
 *
 *     DIR/shmbroker-<hash of the absolute path>-<last component of path>          DIR = /dev/shm
 *
 * and only where DIR cannot be used (full, missing, name taken by another user) is `path` the file
 * itself.  The file is built under a temporary name and renamed: nobody sees it half made.  Pages
 * are allocated at once, so that touching the mapping cannot fail for lack of memory later.
 *
 * Readers open `path`, read-only.  The link is followed by hand: its target must be a regular file
 * of the link's owner, so that nobody can slip another file under a name in a directory all may
 * write to.
 */
#ifndef SHM_SEGFILE_H
#define SHM_SEGFILE_H

#include "segment.h"

#include <sys/types.h>

#define SEGFILE_DIR "/dev/shm"

/*
 * Record of section PLACE: whose file this is.  Constant.
 *    0 pid_ns   8 path
 */
struct segfile_place {
	uint64_t pid_ns; /* inode of the writer's pid namespace: elsewhere its pid means nothing */
	char path[1016]; /* absolute, NUL terminated; empty if longer */
};
_Static_assert(sizeof(struct segfile_place) == 1024, "byte map");
#define SEGFILE_PLACE_VERSION 1

struct segfile {
	char *path; /* what readers open */
	char *data; /* where the bytes are; equal to path if there is no link */
	bool published;
};

/*
 * Create a segment (see segment_create) for `path`, mapped read-write at *map, not visible yet.
 * mode: its write bits are dropped, also the owner's.  dir NULL: SEGFILE_DIR.  gid (gid_t)-1: not
 * changed. Returns a read-only descriptor, owned by the caller; *out is for segfile_publish and
 * _remove. -EEXIST: `path` belongs to a broker that lives.  Other -errno: nothing was left behind.
 */
int segfile_create(const char *path, const char *dir, mode_t mode, gid_t gid, uint32_t role,
	const struct segment_identity *id, const struct segment_plan *plan, unsigned nplan,
	struct segfile *out, void **map, uint64_t *len) must_use;

/*
 * Remove from dir (NULL: SEGFILE_DIR) what dead brokers of this user left behind and no link leads
 * to any more, because the directory of their socket is gone.
 */
void segfile_sweep(const char *dir);

/* True if the segment was written in another pid namespace, where its pid cannot be looked up. */
bool segfile_is_foreign(const void *map);

/* Make it the one that readers find; what a dead broker left there is removed.  0 or -errno. */
int segfile_publish(struct segfile *f) must_use;

/* Remove it; mappings stay valid.  f may be zero. */
void segfile_remove(struct segfile *f);

/* Open for reading, for segment_attach.  -ENOENT, -EACCES; -EPERM: the link's target is not its
 * owner's. */
int segfile_open(const char *path) must_use;

#endif
