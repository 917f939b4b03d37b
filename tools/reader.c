/* SPDX-License-Identifier: MIT */
/* reader.c - see reader.h. */
#include "reader.h"

#include "atomics.h"
#include "segfile.h"
#include "seqlock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STABLE_TRIES 300
#define RETRY_NS 50000000L

struct segment {
	int fd;
	void *map;
	uint64_t len;
};

struct reader {
	char path[PATH_MAX]; /* of the board */
	char slow_path[PATH_MAX];
	struct segment s, q; /* q.fd < 0 until it is asked for */
	struct recording *recording; /* NULL: a board */
	unsigned frame;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ------------------------------------------------------------------------------------------------
 * Finding and opening
 */

static bool has_suffix(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n >= m && strcmp(s + n - m, suffix) == 0;
}

static bool board_exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

/* Take `socket` as the candidate; true if a board stands next to it. */
static bool try_socket(struct reader *r, const char *socket)
{
	bool board = has_suffix(socket, ".board");
	int base = (int)(strlen(socket) - (board ? strlen(".board") : 0));
	int n = snprintf(r->path, sizeof(r->path), "%.*s.board", base, socket);
	int m = snprintf(r->slow_path, sizeof(r->slow_path), "%.*s.slow", base, socket);

	return n < (int)sizeof(r->path) && m < (int)sizeof(r->slow_path) && board_exists(r->path);
}

static bool find(struct reader *r, const char *name)
{
	char path[PATH_MAX];

	if (name == NULL) {
		name = getenv("BROKER_SOCKET");
	}
	if (name == NULL || name[0] == '\0') {
		return try_socket(r, "shmbroker.sock") ||
		       try_socket(r, "/run/shmbroker/broker.sock");
	}
	if (try_socket(r, name)) {
		return true;
	}
	if (strchr(name, '/') != NULL ||
		snprintf(path, sizeof(path), "/run/shmbroker/%s.sock", name) >= (int)sizeof(path)) {
		return false;
	}
	return try_socket(r, path);
}

static int segment_load(struct segment *seg, const char *path, uint32_t role)
{
	int err;

	seg->fd = segfile_open(path);
	if (seg->fd < 0) {
		return seg->fd;
	}
	err = segment_attach(seg->fd, role, false, &seg->map, &seg->len);
	if (err < 0) {
		close(seg->fd);
		seg->fd = -1;
	}
	return err;
}

static void segment_drop(struct segment *seg)
{
	if (seg->fd >= 0) {
		segment_unmap(seg->map, seg->len);
		close(seg->fd);
	}
	*seg = (struct segment){.fd = -1};
}

static void explain(int err, const char *name, const struct reader *r, char *text, size_t len)
{
	switch (err) {
	case -ENOENT:
		if (name == NULL && getenv("BROKER_SOCKET") == NULL) {
			snprintf(text, len,
				"no board of a broker at ./shmbroker.sock.board or "
				"/run/shmbroker/broker.sock.board; name the broker's socket "
				"with -n or BROKER_SOCKET");
		} else if (name != NULL && strchr(name, '/') == NULL) {
			snprintf(text, len, "no board of a broker at ./%s.board or %s", name,
				r->path);
		} else {
			snprintf(text, len, "no board of a broker at %s", r->path);
		}
		break;
	case -EPROTONOSUPPORT:
		snprintf(text, len, "%s was written by an incompatible version of the broker",
			r->path);
		break;
	case -EPROTO:
		snprintf(text, len, "%s is not a broker's board", r->path);
		break;
	case -EPERM:
		snprintf(
			text, len, "%s does not lead to a file of its owner: not trusted", r->path);
		break;
	case -EACCES:
		snprintf(text, len,
			"%s may not be read by this user; whom socket_mode of broker.conf lets "
			"open the broker's socket may",
			r->path);
		break;
	default:
		snprintf(text, len, "%s: %s", r->path, strerror(-err));
		break;
	}
}

static bool may_come(int err)
{
	return err == -ENOENT;
}

int reader_open(const char *name, int64_t wait_ms, struct reader **out, char *err, size_t errlen)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	struct reader *r = calloc(1, sizeof(*r));
	int rc;

	*out = NULL;
	if (r == NULL) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	r->s.fd = r->q.fd = -1;
	for (;;) {
		rc = find(r, name) ? segment_load(&r->s, r->path, SHM_ROLE_BOARD) : -ENOENT;
		if (!may_come(rc) || (wait_ms >= 0 && clock_ns(CLOCK_MONOTONIC) - start >=
							      (uint64_t)wait_ms * 1000000u)) {
			break;
		}
		nanosleep(&(struct timespec){0, RETRY_NS}, NULL);
	}
	if (rc < 0) {
		explain(rc, name, r, err, errlen);
		free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void reader_close(struct reader **r)
{
	if (*r != NULL) {
		segment_drop(&(*r)->s);
		segment_drop(&(*r)->q);
		recording_close(&(*r)->recording);
		free(*r);
		*r = NULL;
	}
}

const char *reader_path(const struct reader *r)
{
	return r->path;
}

bool reader_is_replaced(const struct reader *r)
{
	struct stat mine, theirs;

	return r->recording == NULL && fstat(r->s.fd, &mine) == 0 && stat(r->path, &theirs) == 0 &&
	       (mine.st_dev != theirs.st_dev || mine.st_ino != theirs.st_ino);
}

bool reader_follow(struct reader *r)
{
	struct segment fresh;

	if (!reader_is_replaced(r)) {
		return false;
	}
	if (segment_load(&fresh, r->path, SHM_ROLE_BOARD) < 0) {
		return false;
	}
	segment_drop(&r->s);
	segment_drop(&r->q);
	r->s = fresh;
	return true;
}

/* ------------------------------------------------------------------------------------------------
 * Recordings
 */

static int segment_of(struct segment *seg, int fd, uint32_t role)
{
	int err;

	segment_drop(seg);
	seg->fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (seg->fd < 0) {
		return fd < 0 ? 0 : -errno;
	}
	err = segment_attach(seg->fd, role, false, &seg->map, &seg->len);
	if (err < 0) {
		close(seg->fd);
		seg->fd = -1;
	}
	return err;
}

int reader_seek(struct reader *r, unsigned frame)
{
	struct segment fresh = {.fd = -1};
	int fd[RECORDING_SEGMENTS];
	int err = recording_load(r->recording, frame, fd);

	if (err == 0) {
		err = segment_of(&fresh, fd[RECORDING_S], SHM_ROLE_BOARD);
	}
	if (err == 0 && fresh.fd < 0) {
		err = -EPROTO; /* a frame without a board */
	}
	if (err < 0) {
		return err;
	}
	segment_drop(&r->s);
	r->s = fresh;
	r->frame = frame;
	return segment_of(&r->q, fd[RECORDING_Q], SHM_ROLE_SLOW);
}

unsigned reader_frames(const struct reader *r)
{
	return r->recording != NULL ? recording_frames(r->recording) : 0;
}

bool reader_is_cut(const struct reader *r)
{
	return r->recording != NULL && recording_is_cut(r->recording);
}

unsigned reader_frame(const struct reader *r)
{
	return r->frame;
}

uint64_t reader_frame_ns(const struct reader *r, unsigned frame)
{
	return recording_moment(r->recording, frame)->real_ns;
}

static void explain_recording(int err, const char *path, char *text, size_t len)
{
	snprintf(text, len, "%s%s%s", path,
		err == -EPROTO            ? " is not a recording, or is damaged"
		: err == -ENODATA         ? " is a recording without a single whole frame"
		: err == -EPROTONOSUPPORT ? " was recorded by an incompatible version"
					  : ": ",
		err == -EPROTO || err == -ENODATA || err == -EPROTONOSUPPORT ? "" : strerror(-err));
}

int reader_open_recording(const char *path, struct reader **out, char *err, size_t errlen)
{
	struct reader *r = calloc(1, sizeof(*r));
	int rc;

	*out = NULL;
	if (r == NULL) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	r->s.fd = r->q.fd = -1;
	rc = recording_open(path, &r->recording);
	if (rc == 0) {
		snprintf(r->path, sizeof(r->path), "%s", recording_board(r->recording));
		rc = reader_seek(r, 0);
	}
	if (rc < 0) {
		explain_recording(rc, path, err, errlen);
		reader_close(&r);
		return rc;
	}
	*out = r;
	return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Copying
 */

/* A table of the segment whose records have at least `least` bytes; count 0 if there is none. */
struct table {
	const unsigned char *base;
	size_t stride;
	unsigned count;
};

static struct table table_of(const struct segment *seg, uint32_t type, size_t least)
{
	const struct shm_section *sec = segment_section(seg->map, type);
	struct shm_section copy;

	if (sec == NULL) {
		return (struct table){0};
	}
	memcpy(&copy, sec, sizeof(copy)); /* checked by segment_attach; read once all the same */
	if (copy.stride < least || copy.stride % 8 != 0 ||
		!span_ok(copy.off, (uint64_t)copy.stride * copy.count, seg->len)) {
		return (struct table){0};
	}
	return (struct table){segment_at(seg->map, &copy), copy.stride, copy.count};
}

static const void *record(const struct table *t, unsigned i)
{
	return t->base + (size_t)i * t->stride;
}

/*
 * Copy words so that they all stood there at one moment: two equal copies in a row prove it, since
 * what belongs together (counters) does not run backwards.
 */
static bool copy_stable(uint64_t *dst, const void *src, size_t words)
{
	const _Atomic uint64_t *w = src;

	for (unsigned tries = 0; tries < STABLE_TRIES; tries++) {
		bool same = true;

		seqlock_load(dst, src, words * 8);
		read_fence();
		for (size_t i = 0; i < words; i++) {
			same = same && get(&w[i]) == dst[i];
		}
		if (same) {
			return true;
		}
	}
	return false;
}

/* Copy one row into {used, torn, info}; info is zero beyond what an older writer has. */
static void copy_row(
	const struct table *t, unsigned i, bool *used, bool *torn, void *info, size_t len)
{
	struct {
		uint64_t used;
		unsigned char info[1024];
	} row = {0};
	const unsigned char *src = record(t, i);
	size_t n = t->stride - 8;
	uint64_t version;

	n = n < sizeof(row) ? n : sizeof(row);
	*torn = !seqlock_read(
		(const _Atomic uint64_t *)(const void *)src, src + 8, &row, n, &version);
	*used = row.used == 1;
	memcpy(info, row.info, len < sizeof(row.info) ? len : sizeof(row.info));
}

/* Texts in rows are terminated by contract; make it so. */
#define TERMINATE(field) ((field)[sizeof(field) - 1] = '\0')

static void copy_rows(struct sample *s, const struct segment *seg)
{
	struct table pools = table_of(seg, SHM_SEC_POOLS, 16);
	struct table servers = table_of(seg, SHM_SEC_SERVERS, 16);
	struct table conns = table_of(seg, SHM_SEC_CONNS, 16);
	struct table workers = table_of(seg, SHM_SEC_WORKERS, 16);

	for (unsigned i = 0; i < s->npools && i < pools.count; i++) {
		struct pool_row *r = &s->pools[i];

		copy_row(&pools, i, &r->used, &r->torn, &r->info, sizeof(r->info));
		TERMINATE(r->info.name);
		TERMINATE(r->info.database);
		TERMINATE(r->info.user);
		TERMINATE(r->info.mode);
	}
	for (unsigned i = 0; i < s->nservers; i++) {
		struct server_row *r = &s->servers[i];

		copy_row(&servers, i, &r->used, &r->torn, &r->info, sizeof(r->info));
		TERMINATE(r->info.name);
		TERMINATE(r->info.kind);
		TERMINATE(r->info.address);
		TERMINATE(r->info.last_error);
	}
	for (unsigned i = 0; i < s->nconns; i++) {
		struct conn_row *r = &s->conns[i];

		copy_row(&conns, i, &r->used, &r->torn, &r->info, sizeof(r->info));
	}
	for (unsigned i = 0; i < s->nworkers; i++) {
		struct worker_row *r = &s->workers[i];

		copy_row(&workers, i, &r->used, &r->torn, &r->info, sizeof(r->info));
		TERMINATE(r->info.name);
		TERMINATE(r->info.tag);
	}
}

static void copy_descriptions(struct sample *s, const struct table *t)
{
	for (unsigned i = 0; i < t->count; i++) {
		struct metric_desc *d = &s->desc[i];

		memcpy(d, record(t, i), sizeof(*d));
		TERMINATE(d->name);
		TERMINATE(d->label);
		TERMINATE(d->help);
	}
}

static void copy_values(struct sample *s, const struct segment *seg)
{
	struct table values = table_of(seg, SHM_SEC_METRIC_VALUE, 8);
	struct table pools = table_of(seg, SHM_SEC_POOL_VALUE, 8);
	struct table hist = table_of(seg, SHM_SEC_HISTOGRAMS, offsetof(struct histogram, bucket));
	bool stable = true;

	if (s->nvalues > 0) {
		stable = copy_stable(s->values, values.base, s->nvalues);
	}
	for (unsigned i = 0; i < s->npools; i++) {
		uint64_t *dst = s->pool_values + (size_t)i * s->pool_words;

		stable = copy_stable(dst, record(&pools, i), s->pool_words) && stable;
	}
	for (unsigned i = 0; i < s->nhist; i++) { /* one that cannot be read is left empty */
		(void)!histogram_copy_init(&s->hist[i], record(&hist, i), hist.stride);
	}
	s->values_torn = !stable;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b; /* first member of both */

	return x < y ? -1 : x > y;
}

static void copy_events(struct sample *s, const struct segment *seg, unsigned slots)
{
	struct table t = table_of(seg, SHM_SEC_EVENTS, offsetof(struct board_event_slot, text));

	for (unsigned i = 0; i < slots; i++) {
		struct numbered_event *e = &s->events[s->nevents];

		e->number = board_event_read(record(&t, i), t.stride, &e->slot);
		s->nevents += e->number != 0;
	}
	qsort(s->events, s->nevents, sizeof(*s->events), by_number);
}

/* ------------------------------------------------------------------------------------------------
 * Life
 */

/* State letter of a process; 0 if there is none. */
static char process_state(int32_t pid)
{
	char path[64], buf[512], state = 0;
	const char *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (f == NULL) {
		return 0;
	}
	if (fgets(buf, sizeof(buf), f) != NULL && (p = strrchr(buf, ')')) != NULL && p[1] == ' ') {
		state = p[2];
	}
	fclose(f);
	return state;
}

/*
 * The pid says whether the broker lives.  A broker in another pid namespace has a pid that means
 * nothing here; of that one only the heartbeat is known, so it may be stalled but never dead.
 */
static enum reader_life judge(const struct shm_header *h, uint64_t age)
{
	char state;

	if (!segfile_is_foreign(h)) {
		if (!segment_writer_alive(h)) {
			return READER_DEAD;
		}
		state = process_state(h->broker_pid);
		if (state == 'T' || state == 't') {
			return READER_STOPPED;
		}
	}
	return age > READER_STALL_NS ? READER_STALLED : READER_RUNNING;
}

static uint64_t beat_age(const struct shm_header *h, uint64_t boot_ns)
{
	uint64_t beat = get(&h->heartbeat_ns);

	return boot_ns > beat ? boot_ns - beat : 0;
}

/* Now, or when the frame was taken. */
static struct moment this_moment(const struct reader *r)
{
	const struct shm_header *h = r->s.map;
	struct moment m;

	if (r->recording != NULL) {
		m = *recording_moment(r->recording, r->frame);
		m.life = m.life <= READER_DEAD ? m.life : READER_DEAD;
		return m;
	}
	m = (struct moment){.mono_ns = clock_ns(CLOCK_MONOTONIC),
		.real_ns = clock_ns(CLOCK_REALTIME),
		.boot_ns = clock_ns(CLOCK_BOOTTIME)};
	m.life = judge(h, beat_age(h, m.boot_ns));
	return m;
}

static void copy_header(struct sample *s, struct reader *r)
{
	const struct shm_header *h = r->s.map;
	struct moment m = this_moment(r);
	uint64_t boot = m.boot_ns, beat = get(&h->heartbeat_ns);

	s->mono_ns = m.mono_ns;
	s->real_ns = m.real_ns;
	s->pid = h->broker_pid;
	s->broker_start_ns = h->broker_start_ns;
	s->major = h->major;
	s->minor = h->minor;
	s->beat_age_ns = beat_age(h, boot);
	s->life = (enum reader_life)m.life;
	if (s->life == READER_DEAD) { /* ages are those at its end */
		s->mono_ns = s->mono_ns > s->beat_age_ns ? s->mono_ns - s->beat_age_ns : 0;
		boot = beat;
	}
	s->uptime_ns = boot > s->broker_start_ns ? boot - s->broker_start_ns : 0;
}

const char *reader_life_name(enum reader_life life)
{
	static const char *const names[] = {"running", "stalled", "stopped", "dead"};

	return names[life];
}

/* ------------------------------------------------------------------------------------------------
 * Samples
 */

static bool allocate(struct sample *s, unsigned events)
{
	/* one more than needed: calloc(0) may return NULL */
	s->desc = calloc(s->ndesc + 1u, sizeof(*s->desc));
	s->values = calloc(s->nvalues + 1u, sizeof(*s->values));
	s->pool_values = calloc((size_t)s->npools * s->pool_words + 1, sizeof(*s->pool_values));
	s->hist = calloc(s->nhist + 1u, sizeof(*s->hist));
	s->pools = calloc(s->npools + 1u, sizeof(*s->pools));
	s->servers = calloc(s->nservers + 1u, sizeof(*s->servers));
	s->conns = calloc(s->nconns + 1u, sizeof(*s->conns));
	s->workers = calloc(s->nworkers + 1u, sizeof(*s->workers));
	s->events = calloc(events + 1u, sizeof(*s->events));
	return s->desc && s->values && s->pool_values && s->hist && s->pools && s->servers &&
	       s->conns && s->workers && s->events;
}

int reader_sample(struct reader *r, struct sample **out)
{
	struct table desc = table_of(&r->s, SHM_SEC_METRIC_DESC, sizeof(struct metric_desc));
	struct table values = table_of(&r->s, SHM_SEC_METRIC_VALUE, 8);
	struct table pool_values = table_of(&r->s, SHM_SEC_POOL_VALUE, 8);
	struct table hist = table_of(&r->s, SHM_SEC_HISTOGRAMS, offsetof(struct histogram, bucket));
	struct table events =
		table_of(&r->s, SHM_SEC_EVENTS, offsetof(struct board_event_slot, text));
	struct sample *s = calloc(1, sizeof(*s));

	*out = NULL;
	if (s == NULL) {
		return -ENOMEM;
	}
	s->ndesc = desc.count;
	s->nvalues = values.stride == 8 ? values.count : 0;
	s->npools = pool_values.count;
	s->pool_words = (unsigned)(pool_values.stride / 8);
	s->nhist = hist.count;
	s->hist_per_pool = s->npools != 0 ? hist.count / s->npools : 0;
	s->nservers = table_of(&r->s, SHM_SEC_SERVERS, 16).count;
	s->nconns = table_of(&r->s, SHM_SEC_CONNS, 16).count;
	s->nworkers = table_of(&r->s, SHM_SEC_WORKERS, 16).count;
	if (!allocate(s, events.count)) {
		sample_free(&s);
		return -ENOMEM;
	}
	copy_descriptions(s, &desc);
	copy_values(s, &r->s);
	copy_rows(s, &r->s);
	copy_events(s, &r->s, events.count);
	copy_header(s, r);
	*out = s;
	return 0;
}

void sample_free(struct sample **sp)
{
	struct sample *s = *sp;

	if (s == NULL) {
		return;
	}
	for (unsigned i = 0; s->hist != NULL && i < s->nhist; i++) {
		histogram_copy_finish(&s->hist[i]);
	}
	free(s->desc);
	free(s->values);
	free(s->pool_values);
	free(s->hist);
	free(s->pools);
	free(s->servers);
	free(s->conns);
	free(s->workers);
	free(s->events);
	free(s);
	*sp = NULL;
}

static int open_slow(struct reader *r)
{
	if (r->recording != NULL && r->q.fd < 0) {
		int err = recording_moment(r->recording, r->frame)->q_error;

		return err < 0 ? err : -ENOENT;
	}
	return r->q.fd < 0 ? segment_load(&r->q, r->slow_path, SHM_ROLE_SLOW) : 0;
}

static int read_ring(struct reader *r, uint32_t section, uint64_t after, struct numbered_slow **out,
	uint64_t *lost)
{
	struct numbered_slow *v;
	struct table t;
	unsigned n = 0;
	int err;

	*out = NULL;
	*lost = 0;
	err = open_slow(r);
	if (err < 0) {
		return err;
	}
	t = table_of(&r->q, section, offsetof(struct slow_slot, sql));
	v = calloc(t.count + 1u, sizeof(*v));
	if (v == NULL) {
		return -ENOMEM;
	}
	for (unsigned i = 0; i < t.count; i++) {
		v[n].number = slowring_read(record(&t, i), t.stride, &v[n].slot);
		n += v[n].number > after;
	}
	qsort(v, n, sizeof(*v), by_number);
	if (n > 0 && after != 0) {
		*lost = v[0].number - after - 1;
	}
	*out = v;
	return (int)n;
}

int reader_slow(struct reader *r, uint64_t after, struct numbered_slow **out, uint64_t *lost)
{
	return read_ring(r, SHM_SEC_SLOW, after, out, lost);
}

int reader_samples(struct reader *r, uint64_t after, struct numbered_slow **out, uint64_t *lost)
{
	return read_ring(r, SHM_SEC_SAMPLES, after, out, lost);
}

/* ------------------------------------------------------------------------------------------------
 * Snapshots
 */

/* Rows of a section, each whole; one whose writer is in the middle stays odd. */
static void snapshot_rows(unsigned char *image, const struct segment *seg, uint32_t type)
{
	struct table t = table_of(seg, type, 16);

	for (unsigned i = 0; i < t.count; i++) {
		const unsigned char *src = record(&t, i);
		unsigned char *dst = image + (src - (const unsigned char *)seg->map);
		uint64_t version;

		if (!seqlock_read((const _Atomic uint64_t *)(const void *)src, src + 8, dst + 8,
			    t.stride - 8, &version)) {
			version |= 1;
		}
		memcpy(dst, &version, sizeof(version));
	}
}

static unsigned char *snapshot_segment(const struct segment *seg)
{
	static const uint32_t rows[] = {SHM_SEC_POOLS, SHM_SEC_SERVERS, SHM_SEC_CONNS,
		SHM_SEC_WORKERS, SHM_SEC_EVENTS, SHM_SEC_SLOW, SHM_SEC_SAMPLES, SHM_SEC_SHAPES};
	unsigned char *image = calloc(1, seg->len);

	if (image == NULL) {
		return NULL;
	}
	seqlock_load(image, seg->map, seg->len / 8 * 8);
	for (unsigned i = 0; i < array_size(rows); i++) {
		snapshot_rows(image, seg, rows[i]);
	}
	return image;
}

/* Counters that belong together, as in a sample. */
static void snapshot_values(unsigned char *image, const struct segment *seg)
{
	static const uint32_t types[] = {SHM_SEC_METRIC_VALUE, SHM_SEC_POOL_VALUE};

	for (unsigned i = 0; i < array_size(types); i++) {
		struct table t = table_of(seg, types[i], 8);
		size_t words = t.stride * t.count / 8;

		if (words > 0) {
			size_t off = (size_t)(t.base - (const unsigned char *)seg->map);

			(void)!copy_stable((uint64_t *)(void *)(image + off), t.base, words);
		}
	}
}

int reader_snapshot(struct reader *r, bool texts, struct snapshot *out)
{
	*out = (struct snapshot){.moment = this_moment(r)};
	out->moment.q_error = texts ? open_slow(r) : -EACCES;
	out->bytes[RECORDING_S] = snapshot_segment(&r->s);
	out->len[RECORDING_S] = r->s.len;
	if (out->bytes[RECORDING_S] != NULL) {
		snapshot_values(out->bytes[RECORDING_S], &r->s);
	}
	if (out->moment.q_error == 0) {
		out->bytes[RECORDING_Q] = snapshot_segment(&r->q);
		out->len[RECORDING_Q] = r->q.len;
	}
	if (out->bytes[RECORDING_S] == NULL ||
		(out->moment.q_error == 0 && out->bytes[RECORDING_Q] == NULL)) {
		snapshot_free(out);
		return -ENOMEM;
	}
	return 0;
}

static int by_time(const void *a, const void *b)
{
	uint64_t x = ((const struct shape_entry *)a)->row.run.sum_ns;
	uint64_t y = ((const struct shape_entry *)b)->row.run.sum_ns;

	return x > y ? -1 : x < y;
}

static int by_shape(const void *a, const void *b)
{
	const struct shape_row *x = &((const struct shape_entry *)a)->row;
	const struct shape_row *y = &((const struct shape_entry *)b)->row;

	if (x->pool != y->pool) {
		return x->pool < y->pool ? -1 : 1;
	}
	return x->fingerprint < y->fingerprint ? -1 : x->fingerprint > y->fingerprint;
}

/* The tags are those of one of the two. */
static void add_shape(struct shape_entry *to, const struct shape_entry *e)
{
	struct shape_row *a = &to->row;
	const struct shape_row *b = &e->row;

	to->torn |= e->torn;
	a->first_ns = a->first_ns < b->first_ns ? a->first_ns : b->first_ns;
	a->last_ns = a->last_ns > b->last_ns ? a->last_ns : b->last_ns;
	a->calls += b->calls;
	a->errors += b->errors;
	a->rows += b->rows;
	a->wait_ns += b->wait_ns;
	a->run.sum_ns += b->run.sum_ns;
	a->run.max_ns = a->run.max_ns > b->run.max_ns ? a->run.max_ns : b->run.max_ns;
	for (unsigned i = 0; i < SHAPE_BUCKETS; i++) {
		a->run.bucket[i] += b->run.bucket[i];
	}
}

/* A broker with several I/O threads has a row of a shape for each of them.  How many are left. */
static unsigned unite_shapes(struct shape_entry *v, unsigned n)
{
	unsigned kept = 0;

	qsort(v, n, sizeof(*v), by_shape);
	for (unsigned i = 1; i < n; i++) {
		if (by_shape(&v[kept], &v[i]) == 0) {
			add_shape(&v[kept], &v[i]);
		} else if (++kept != i) {
			v[kept] = v[i];
		}
	}
	return n > 0 ? kept + 1 : 0;
}

int reader_shapes(struct reader *r, struct shape_entry **out)
{
	struct shape_entry *v;
	struct table t;
	unsigned n = 0;
	int err = open_slow(r);

	*out = NULL;
	if (err < 0) {
		return err;
	}
	t = table_of(&r->q, SHM_SEC_SHAPES, offsetof(struct shape_row, text));
	v = calloc(t.count + 1u, sizeof(*v));
	if (v == NULL) {
		return -ENOMEM;
	}
	for (unsigned i = 0; i < t.count; i++) {
		n += shape_read(record(&t, i), t.stride, &v[n].row, &v[n].torn);
	}
	n = unite_shapes(v, n);
	qsort(v, n, sizeof(*v), by_time);
	*out = v;
	return (int)n;
}

const char *sample_pool_name(const struct sample *s, uint32_t pool, char buf[16])
{
	if (pool == BOARD_NONE) {
		return "-";
	}
	if (pool < s->npools && s->pools[pool].used) {
		return s->pools[pool].info.name;
	}
	snprintf(buf, 16, "#%u", pool);
	return buf;
}

const char *sample_server_name(const struct sample *s, uint32_t server, char buf[16])
{
	if (server == BOARD_NONE) {
		return "-";
	}
	if (server < s->nservers && s->servers[server].used) {
		return s->servers[server].info.name;
	}
	snprintf(buf, 16, "#%u", server);
	return buf;
}

double sample_age(const struct sample *s, uint64_t stamp_ns)
{
	if (stamp_ns == 0 || stamp_ns >= s->mono_ns) {
		return 0;
	}
	return (double)(s->mono_ns - stamp_ns) / 1e9;
}

uint64_t conn_held_ns(const struct board_conn_info *c)
{
	return c->lease_ns != 0 ? c->lease_ns : c->worker_slot != BOARD_NONE ? c->statement_ns : 0;
}
