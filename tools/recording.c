/* SPDX-License-Identifier: MIT */
/* recording.c - see recording.h. */
#include "recording.h"

#include "layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

/* Bytes are compared in pieces of this size. */
#define PIECE 256u

void snapshot_free(struct snapshot *s)
{
	for (unsigned i = 0; i < RECORDING_SEGMENTS; i++) {
		free(s->bytes[i]);
	}
	*s = (struct snapshot){0};
}

/* A buffer that grows. */
struct bytes {
	unsigned char *v;
	size_t n, room;
};

static bool reserve(struct bytes *b, size_t more)
{
	if (b->n + more > b->room) {
		size_t room = (b->n + more) * 2;
		unsigned char *v = realloc(b->v, room);

		if (v == NULL) {
			return false;
		}
		b->v = v;
		b->room = room;
	}
	return true;
}

static bool append(struct bytes *b, const void *src, size_t n)
{
	static const unsigned char zero[8];
	size_t pad = pad8(n) - n;

	if (!reserve(b, n + pad)) {
		return false;
	}
	memcpy(b->v + b->n, src, n);
	memcpy(b->v + b->n + n, zero, pad);
	b->n += n + pad;
	return true;
}

/* ------------------------------------------------------------------------------------------------
 * Writing
 */

struct recorder {
	int fd;
	struct snapshot last;
	unsigned since_key;
	struct bytes spans, out;
};

static int write_all(int fd, const void *src, size_t n)
{
	const unsigned char *p = src;

	while (n > 0) {
		ssize_t done = write(fd, p, n);

		if (done < 0 && errno == EINTR) {
			continue;
		}
		if (done < 0) {
			return -errno;
		}
		p += done;
		n -= (size_t)done;
	}
	return 0;
}

int recorder_create(const char *path, const char *board, struct recorder **out)
{
	struct recording_head head = {
		RECORDING_MAGIC, RECORDING_VERSION, sizeof(struct recording_frame), ""};
	struct recorder *w = calloc(1, sizeof(*w));
	int err;

	*out = NULL;
	if (w == NULL) {
		return -ENOMEM;
	}
	w->fd = strcmp(path, "-") == 0 ? dup(STDOUT_FILENO)
				       : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (w->fd < 0) {
		err = -errno;
		free(w);
		return err;
	}
	strncpy(head.path, board, sizeof(head.path) - 1);
	err = write_all(w->fd, &head, sizeof(head));
	if (err < 0) {
		(void)!recorder_finish(&w);
		return err;
	}
	*out = w;
	return 0;
}

static size_t piece_at(uint64_t off, uint64_t len)
{
	return len - off < PIECE ? (size_t)(len - off) : PIECE;
}

/* Whether the piece says something; before NULL: compared with zeroes. */
static bool piece_differs(const unsigned char *now, const unsigned char *before, size_t n)
{
	static const unsigned char zero[PIECE];

	return memcmp(now, before != NULL ? before : zero, n) != 0;
}

static bool add_span(
	struct bytes *b, uint32_t segment, uint64_t off, uint64_t len, const unsigned char *bytes)
{
	struct recording_span s = {segment, (uint32_t)len, off};

	return append(b, &s, sizeof(s)) && append(b, bytes + off, len);
}

static bool add_spans(struct bytes *b, uint32_t segment, const unsigned char *now,
	const unsigned char *before, uint64_t len)
{
	uint64_t begin = 0;
	bool open = false;

	for (uint64_t off = 0; off < len; off += PIECE) {
		bool differs = piece_differs(
			now + off, before != NULL ? before + off : NULL, piece_at(off, len));

		if (differs && !open) {
			begin = off;
		} else if (!differs && open && !add_span(b, segment, begin, off - begin, now)) {
			return false;
		}
		open = differs;
	}
	return !open || add_span(b, segment, begin, len - begin, now);
}

/* Frame and payload into w->out. */
static int make_frame(struct recorder *w, const struct snapshot *s, bool key)
{
	struct recording_frame f = {.magic = RECORDING_FRAME_MAGIC,
		.flags = key ? RECORDING_F_KEY : 0,
		.len = {s->len[0], s->len[1]},
		.moment = s->moment};
	uLongf packed;

	w->spans.n = w->out.n = 0;
	for (unsigned i = 0; i < RECORDING_SEGMENTS; i++) {
		if (!add_spans(
			    &w->spans, i, s->bytes[i], key ? NULL : w->last.bytes[i], s->len[i])) {
			return -ENOMEM;
		}
	}
	packed = compressBound(w->spans.n);
	if (!reserve(&w->out, sizeof(f) + packed) ||
		compress2(w->out.v + sizeof(f), &packed, w->spans.v, w->spans.n, 1) != Z_OK) {
		return -ENOMEM;
	}
	f.raw_len = w->spans.n;
	f.payload_len = packed;
	f.payload_crc = (uint32_t)crc32_z(0, w->out.v + sizeof(f), packed);
	f.head_crc =
		(uint32_t)crc32_z(0, (const void *)&f, offsetof(struct recording_frame, head_crc));
	memcpy(w->out.v, &f, sizeof(f));
	w->out.n = sizeof(f) + packed;
	return 0;
}

int recorder_add(struct recorder *w, struct snapshot *s)
{
	bool key = w->since_key % RECORDING_KEY_FRAMES == 0 || s->len[0] != w->last.len[0] ||
		   s->len[1] != w->last.len[1];
	int err = make_frame(w, s, key);

	if (err == 0) {
		err = write_all(w->fd, w->out.v, w->out.n);
	}
	w->since_key = key ? 1 : w->since_key + 1;
	snapshot_free(&w->last);
	w->last = *s;
	*s = (struct snapshot){0};
	return err;
}

int recorder_finish(struct recorder **wp)
{
	struct recorder *w = *wp;
	int err = 0;

	if (w == NULL) {
		return 0;
	}
	if (close(w->fd) < 0) {
		err = -errno;
	}
	snapshot_free(&w->last);
	free(w->spans.v);
	free(w->out.v);
	free(w);
	*wp = NULL;
	return err;
}

/* ------------------------------------------------------------------------------------------------
 * Reading
 */

struct image {
	int fd;
	unsigned char *map;
	uint64_t len;
};

struct entry {
	struct recording_frame head;
	off_t payload;
};

struct recording {
	int fd;
	struct recording_head head;
	struct entry *frames;
	unsigned nframes;
	bool cut;
	long current; /* frame that the images are of, -1: none */
	struct image image[RECORDING_SEGMENTS];
};

static bool read_at(int fd, void *dst, size_t n, off_t off)
{
	unsigned char *p = dst;

	while (n > 0) {
		ssize_t got = pread(fd, p, n, off);

		if (got < 0 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			return false;
		}
		p += got;
		off += got;
		n -= (size_t)got;
	}
	return true;
}

static bool frame_is_sound(const struct recording_frame *f, off_t left)
{
	return f->magic == RECORDING_FRAME_MAGIC &&
	       f->head_crc == (uint32_t)crc32_z(0, (const void *)f,
				      offsetof(struct recording_frame, head_crc)) &&
	       f->len[0] <= RECORDING_SEGMENT_MAX && f->len[1] <= RECORDING_SEGMENT_MAX &&
	       f->raw_len <= 2 * (f->len[0] + f->len[1]) + 4096 && f->payload_len <= (uint64_t)left;
}

static int scan(struct recording *r, off_t size)
{
	off_t at = sizeof(r->head);
	unsigned room = 0;

	while (at < size) {
		struct recording_frame f;

		if (!read_at(r->fd, &f, sizeof(f), at) ||
			!frame_is_sound(&f, size - at - (off_t)sizeof(f)) ||
			(r->nframes == 0 && !(f.flags & RECORDING_F_KEY))) {
			r->cut = true;
			break;
		}
		if (r->nframes == room) {
			struct entry *v = realloc(r->frames, (room * 2 + 64) * sizeof(*v));

			if (v == NULL) {
				return -ENOMEM;
			}
			r->frames = v;
			room = room * 2 + 64;
		}
		r->frames[r->nframes++] = (struct entry){f, at + (off_t)sizeof(f)};
		at += (off_t)sizeof(f) + (off_t)f.payload_len;
	}
	return r->nframes > 0 ? 0 : -ENODATA;
}

static int check_head(const struct recording *r)
{
	if (r->head.magic != RECORDING_MAGIC) {
		return -EPROTO;
	}
	return r->head.version == RECORDING_VERSION &&
			       r->head.frame_len == sizeof(struct recording_frame)
		       ? 0
		       : -EPROTONOSUPPORT;
}

int recording_open(const char *path, struct recording **out)
{
	struct recording *r = calloc(1, sizeof(*r));
	struct stat st;
	int err;

	*out = NULL;
	if (r == NULL) {
		return -ENOMEM;
	}
	r->current = -1;
	r->image[0].fd = r->image[1].fd = -1;
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (r->fd < 0 || fstat(r->fd, &st) < 0) {
		err = -errno;
	} else if (!read_at(r->fd, &r->head, sizeof(r->head), 0)) {
		err = -EPROTO;
	} else {
		r->head.path[sizeof(r->head.path) - 1] = '\0';
		err = check_head(r);
		err = err < 0 ? err : scan(r, st.st_size);
	}
	if (err < 0) {
		recording_close(&r);
		return err;
	}
	*out = r;
	return 0;
}

static void image_drop(struct image *m)
{
	if (m->map != NULL) {
		munmap(m->map, m->len);
	}
	if (m->fd >= 0) {
		close(m->fd);
	}
	*m = (struct image){.fd = -1};
}

void recording_close(struct recording **rp)
{
	struct recording *r = *rp;

	if (r == NULL) {
		return;
	}
	for (unsigned i = 0; i < RECORDING_SEGMENTS; i++) {
		image_drop(&r->image[i]);
	}
	if (r->fd >= 0) {
		close(r->fd);
	}
	free(r->frames);
	free(r);
	*rp = NULL;
}

unsigned recording_frames(const struct recording *r)
{
	return r->nframes;
}

bool recording_is_cut(const struct recording *r)
{
	return r->cut;
}

const char *recording_board(const struct recording *r)
{
	return r->head.path;
}

const struct moment *recording_moment(const struct recording *r, unsigned frame)
{
	return &r->frames[frame].head.moment;
}

/* Zeroes of that length; 0: none at all. */
static int image_reset(struct image *m, uint64_t len)
{
	int err;

	image_drop(m);
	if (len == 0) {
		return 0;
	}
	m->fd = memfd_create("brokerstat-recording", MFD_CLOEXEC);
	if (m->fd >= 0 && ftruncate(m->fd, (off_t)len) == 0) {
		m->map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
		if (m->map != MAP_FAILED) {
			m->len = len;
			return 0;
		}
		m->map = NULL;
	}
	err = -errno;
	image_drop(m);
	return err;
}

static int apply_spans(struct recording *r, const unsigned char *p, size_t n)
{
	while (n > 0) {
		struct recording_span s;
		struct image *m;

		if (n < sizeof(s)) {
			return -EPROTO;
		}
		memcpy(&s, p, sizeof(s));
		p += sizeof(s);
		n -= sizeof(s);
		if (s.segment >= RECORDING_SEGMENTS || pad8(s.len) > n ||
			!span_ok(s.off, s.len, r->image[s.segment].len)) {
			return -EPROTO;
		}
		m = &r->image[s.segment];
		memcpy(m->map + s.off, p, s.len);
		p += pad8(s.len);
		n -= pad8(s.len);
	}
	return 0;
}

static int unpack(struct recording *r, const struct entry *e, unsigned char *raw)
{
	unsigned char *packed = malloc(e->head.payload_len + 1);
	uLongf n = e->head.raw_len;
	int err = -EPROTO;

	if (packed == NULL) {
		return -ENOMEM;
	}
	if (read_at(r->fd, packed, e->head.payload_len, e->payload) &&
		(uint32_t)crc32_z(0, packed, e->head.payload_len) == e->head.payload_crc &&
		uncompress(raw, &n, packed, e->head.payload_len) == Z_OK && n == e->head.raw_len) {
		err = 0;
	}
	free(packed);
	return err;
}

static int apply(struct recording *r, unsigned frame)
{
	const struct entry *e = &r->frames[frame];
	unsigned char *raw = malloc(e->head.raw_len + 1);
	int err = raw == NULL ? -ENOMEM : unpack(r, e, raw);

	for (unsigned i = 0; err == 0 && i < RECORDING_SEGMENTS; i++) {
		if (e->head.flags & RECORDING_F_KEY) {
			err = image_reset(&r->image[i], e->head.len[i]);
		} else if (e->head.len[i] != r->image[i].len) {
			err = -EPROTO;
		}
	}
	if (err == 0) {
		err = apply_spans(r, raw, e->head.raw_len);
	}
	free(raw);
	r->current = err == 0 ? (long)frame : -1;
	return err;
}

int recording_load(struct recording *r, unsigned frame, int fd[RECORDING_SEGMENTS])
{
	unsigned from = frame;
	int err = 0;

	if (frame >= r->nframes) {
		return -EINVAL;
	}
	while (!(r->frames[from].head.flags & RECORDING_F_KEY)) {
		from--; /* the first is a key */
	}
	if (r->current >= (long)from && r->current <= (long)frame) {
		from = (unsigned)r->current + 1;
	}
	for (unsigned i = from; i <= frame && err == 0; i++) {
		err = apply(r, i);
	}
	fd[RECORDING_S] = r->image[RECORDING_S].fd;
	fd[RECORDING_Q] = r->image[RECORDING_Q].fd;
	return err;
}
