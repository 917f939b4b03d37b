/* SPDX-License-Identifier: MIT */
/*
 * recording.h - boards over time, in one file: `brokerstat -W` writes it, `-r` reads it.
 *
 * A frame is one snapshot (reader.h) of the segments S and, if it may be read, Q, as they stood in
 * memory, rows made whole; so a recording is read by the same code as a board, and holds whatever a
 * newer broker put there.
 *
 *   file    struct recording_head, then frames
 *   frame   struct recording_frame, then payload_len bytes: spans, compressed by zlib
 *   span    struct recording_span, then len bytes, padded to 8
 *
 * A key frame says all that is not zero; the others say what differs from the frame before.  Every
 * RECORDING_KEY_FRAMES-th frame is a key, and so is one whose segments are others than before.
 *
 * Numbers are those of the machine that wrote it.  A frame is appended by one write, so what a
 * crash leaves is a file whose last frame is cut; readers end before it.  Nothing in the file is
 * believed unchecked: frames carry checksums, spans stay inside their segment, and segments are
 * verified as those of a broker are (segment_attach).
 *
 * The file holds texts of statements if its writer could read them; it is created for its owner
 * only.  One thread.
 */
#ifndef TOOLS_RECORDING_H
#define TOOLS_RECORDING_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORDING_MAGIC UINT64_C(0x3143455242485300) /* "\0SHBREC1" in memory of this machine */
#define RECORDING_FRAME_MAGIC UINT32_C(0x4d415246)
#define RECORDING_VERSION 1u
#define RECORDING_KEY_FRAMES 64u
#define RECORDING_SEGMENT_MAX (UINT64_C(1) << 30)

enum { RECORDING_S = 0, RECORDING_Q = 1, RECORDING_SEGMENTS = 2 };

struct recording_head {
	uint64_t magic;
	uint32_t version; /* another one is not read */
	uint32_t frame_len; /* sizeof(struct recording_frame) */
	char path[496]; /* of the board, NUL terminated */
};
_Static_assert(sizeof(struct recording_head) == 512, "byte map");

enum { RECORDING_F_KEY = 1 };

/* What is known of a moment beside the bytes. */
struct moment {
	uint64_t mono_ns, real_ns, boot_ns; /* the clocks */
	uint32_t life; /* enum reader_life */
	int32_t q_error; /* why Q could not be read, negative; 0 = it was */
};

struct recording_frame {
	uint32_t magic;
	uint32_t flags;
	uint64_t payload_len; /* as in the file */
	uint64_t raw_len; /* of the spans */
	uint64_t len[RECORDING_SEGMENTS]; /* of the segments; Q: 0 if it could not be read */
	struct moment moment;
	uint32_t payload_crc;
	uint32_t head_crc; /* of all above */
};
_Static_assert(sizeof(struct recording_frame) == 80, "byte map");

struct recording_span {
	uint32_t segment;
	uint32_t len;
	uint64_t off;
};

/* A snapshot: segments as they are in memory. */
struct snapshot {
	struct moment moment;
	unsigned char *bytes[RECORDING_SEGMENTS];
	uint64_t len[RECORDING_SEGMENTS];
};
void snapshot_free(struct snapshot *s);

/* ------------------------------------------------------------------------------------------------
 * Writing
 */

struct recorder;

/* "-": standard output.  -EEXIST: nothing is overwritten.  Other -errno. */
int recorder_create(const char *path, const char *board, struct recorder **out) must_use;
/* Append s, which the recorder keeps (s is emptied).  0 or -errno; after an error it is over. */
int recorder_add(struct recorder *w, struct snapshot *s) must_use;
/* 0, or the error of closing the file. */
int recorder_finish(struct recorder **w) must_use;

/* ------------------------------------------------------------------------------------------------
 * Reading
 */

struct recording;

/*
 * -EPROTO: not a recording.  -EPROTONOSUPPORT: one of another version.  -ENODATA: no frame in it.
 * Other -errno.
 */
int recording_open(const char *path, struct recording **out) must_use;
void recording_close(struct recording **r);

unsigned recording_frames(const struct recording *r);
/* True if bytes behind the last frame were left out, because it was cut or damaged. */
bool recording_is_cut(const struct recording *r);
const char *recording_board(const struct recording *r);
const struct moment *recording_moment(const struct recording *r, unsigned frame);

/*
 * Make the segments those of a frame.  *fd get descriptors of memory files, owned by the recording
 * and changed by the next call; fd[RECORDING_Q] is -1 if Q was not recorded.  0, -EPROTO (damaged)
 * or -errno.
 */
int recording_load(struct recording *r, unsigned frame, int fd[RECORDING_SEGMENTS]) must_use;

#endif
