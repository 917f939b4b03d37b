/* SPDX-License-Identifier: MIT */
/* board.c - see board.h: creation, rows, events. */
#include "board.h"

#include "seqlock.h"
#include "segfile.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* One of the two segments, as the writer holds it. */
struct board_segment {
	struct segfile file; /* zero for a memfd */
	void *map;
	uint64_t len;
	int fd; /* read-only for others */
};

/* The rows of one table; offsets and sizes are private, never read back from the segment. */
struct board_table {
	unsigned char *base;
	uint32_t stride;
	uint32_t count;
};

struct board {
	struct board_hot hot; /* first: board_hot() relies on it */
	struct board_segment s, q;
	struct shm_header *header;
	struct board_table pools, servers, conns, workers;
	struct board_event_slot *events;
	uint64_t next_event; /* number of the event to write next, starts at 1 */
	struct slowring slow, samples; /* samples.count may be 0 */
	struct shape_table *shapes; /* NULL: none */
	unsigned nshapes; /* rows of them */

	struct board *whole; /* a part: what it is a part of */
	_Atomic uint64_t beat_ns; /* a part: its heartbeat */
	struct board **parts;
	unsigned nparts;
	pthread_mutex_t lock; /* with parts: events, slow, samples */
};

static const char *const event_names[BOARD_EVENT_KIND_COUNT] = {
	[0] = "unknown",
	[BOARD_EVENT_START] = "start",
	[BOARD_EVENT_STOP] = "stop",
	[BOARD_EVENT_RELOAD] = "reload",
	[BOARD_EVENT_SERVER_UP] = "server_up",
	[BOARD_EVENT_SERVER_DOWN] = "server_down",
	[BOARD_EVENT_ROLE] = "role",
	[BOARD_EVENT_FAILOVER] = "failover",
	[BOARD_EVENT_LEAK] = "leak",
	[BOARD_EVENT_EVICTION] = "eviction",
	[BOARD_EVENT_WORKER_DEATH] = "worker_death",
	[BOARD_EVENT_PIN] = "pin",
	[BOARD_EVENT_REFUSAL] = "refusal",
	[BOARD_EVENT_CONNECT_FAILURE] = "connect_failure",
	[BOARD_EVENT_ERROR] = "error",
	[BOARD_EVENT_CONFLICT] = "conflict",
};

const char *board_event_name(enum board_event_kind kind)
{
	return (unsigned)kind < BOARD_EVENT_KIND_COUNT ? event_names[kind] : event_names[0];
}

static int create_segment(struct board_segment *seg, const char *name, uint32_t role,
	const struct segment_identity *id, const struct board_place *place,
	const struct segment_plan *plan, unsigned nplan)
{
	if (place == NULL || place->path == NULL) {
		seg->fd = segment_create(name, role, 0, id, plan, nplan, &seg->map, &seg->len);
	} else {
		seg->fd = segfile_create(place->path, place->dir, place->mode, place->gid, role, id,
			plan, nplan, &seg->file, &seg->map, &seg->len);
	}
	return seg->fd < 0 ? seg->fd : 0;
}

static void destroy_segment(struct board_segment *seg)
{
	segfile_remove(&seg->file);
	segment_unmap(seg->map, seg->len);
	if (seg->fd >= 0) {
		close(seg->fd);
	}
}

static int publish_segment(struct board_segment *seg)
{
	return seg->file.path != NULL ? segfile_publish(&seg->file) : 0;
}

/* Rows start on a cache line, so that a reader of one never shares a line with the writer of
 * another. */
static uint32_t row_stride(size_t size)
{
	return (uint32_t)((size + 63) / 64 * 64);
}

static int create_s(struct board *b, const struct segment_identity *id,
	const struct board_geometry *g, const struct board_place *place)
{
	const struct segment_plan plan[] = {
		{SHM_SEC_METRIC_DESC, METRIC_DESC_VERSION, sizeof(struct metric_desc),
			METRIC_DESC_COUNT, 0},
		{SHM_SEC_METRIC_VALUE, 1, sizeof(uint64_t), METRIC_COUNT, 0},
		{SHM_SEC_POOL_VALUE, 1, BOARD_POOL_WORDS * sizeof(uint64_t), g->npools, 0},
		{SHM_SEC_HISTOGRAMS, HISTOGRAM_VERSION, sizeof(struct histogram),
			g->npools * POOL_HIST_COUNT, 0},
		{SHM_SEC_POOLS, BOARD_POOL_VERSION, row_stride(sizeof(struct board_pool)),
			g->npools, 0},
		{SHM_SEC_SERVERS, BOARD_SERVER_VERSION, row_stride(sizeof(struct board_server)),
			g->nservers, 0},
		{SHM_SEC_CONNS, BOARD_CONN_VERSION, row_stride(sizeof(struct board_conn)),
			g->nconns, 0},
		{SHM_SEC_WORKERS, BOARD_WORKER_VERSION, row_stride(sizeof(struct board_worker)),
			g->nworkers, 0},
		{SHM_SEC_EVENTS, BOARD_EVENT_VERSION, BOARD_EVENT_SLOT, BOARD_EVENTS, 0},
	};

	return create_segment(
		&b->s, "shmbroker-board", SHM_ROLE_BOARD, id, place, plan, array_size(plan));
}

static int create_q(struct board *b, const struct segment_identity *id,
	const struct board_geometry *g, const struct board_place *place)
{
	const struct segment_plan plan[] = {
		{SHM_SEC_SLOW, SLOW_VERSION, SLOW_SLOT, g->nslow, 0},
		{SHM_SEC_SHAPES, SHAPE_VERSION, SHAPE_ROW, g->nshapes, 0},
		{SHM_SEC_SAMPLES, SLOW_VERSION, SLOW_SLOT, g->nsamples, 0},
	};

	return create_segment(
		&b->q, "shmbroker-slow", SHM_ROLE_SLOW, id, place, plan, array_size(plan));
}

/* Called before anyone else can see the segment: its header is still what we wrote. */
static void *section_at(const struct board_segment *seg, uint32_t type)
{
	const struct shm_section *s = segment_section(seg->map, type);

	check(s != NULL);
	return segment_at(seg->map, s);
}

static struct board_table table_at(
	const struct board_segment *seg, uint32_t type, size_t size, unsigned count)
{
	return (struct board_table){section_at(seg, type), row_stride(size), count};
}

static void bind_sections(struct board *b, const struct board_geometry *g)
{
	struct metric_desc *desc = section_at(&b->s, SHM_SEC_METRIC_DESC);

	b->header = b->s.map;
	b->hot.values = section_at(&b->s, SHM_SEC_METRIC_VALUE);
	b->hot.pool_values = section_at(&b->s, SHM_SEC_POOL_VALUE);
	b->hot.histograms = section_at(&b->s, SHM_SEC_HISTOGRAMS);
	b->hot.npools = g->npools;
	b->nshapes = g->nshapes;
	b->pools = table_at(&b->s, SHM_SEC_POOLS, sizeof(struct board_pool), g->npools);
	b->servers = table_at(&b->s, SHM_SEC_SERVERS, sizeof(struct board_server), g->nservers);
	b->conns = table_at(&b->s, SHM_SEC_CONNS, sizeof(struct board_conn), g->nconns);
	b->workers = table_at(&b->s, SHM_SEC_WORKERS, sizeof(struct board_worker), g->nworkers);
	b->events = section_at(&b->s, SHM_SEC_EVENTS);
	b->next_event = 1;
	slowring_init(&b->slow, section_at(&b->q, SHM_SEC_SLOW), g->nslow);
	slowring_init(&b->samples, section_at(&b->q, SHM_SEC_SAMPLES), g->nsamples);
	for (unsigned i = 0; i < METRIC_DESC_COUNT; i++) {
		metric_describe(i, &desc[i]);
	}
	for (unsigned i = 0; i < g->npools * POOL_HIST_COUNT; i++) {
		histogram_init(&b->hot.histograms[i]);
	}
}

static bool geometry_ok(const struct board_geometry *g)
{
	return g->npools >= 1 && g->npools <= BOARD_ROWS_MAX / POOL_HIST_COUNT &&
	       g->nservers <= BOARD_ROWS_MAX && g->nconns <= BOARD_ROWS_MAX &&
	       g->nworkers <= BOARD_ROWS_MAX && g->nslow >= 1 && g->nslow <= BOARD_ROWS_MAX &&
	       g->nsamples <= BOARD_ROWS_MAX && g->nshapes <= BOARD_ROWS_MAX;
}

int board_create(const struct segment_identity *id, const struct board_geometry *g,
	const struct board_place *s, const struct board_place *q, struct board **out)
{
	struct board *b;
	int err;

	*out = NULL;
	validate(geometry_ok(g), -EINVAL);
	b = calloc(1, sizeof(*b));
	if (b == NULL) {
		return -ENOMEM;
	}
	b->s.fd = b->q.fd = -1;
	pthread_mutex_init(&b->lock, NULL);
	if (s != NULL && s->path != NULL) {
		segfile_sweep(s->dir);
	}
	err = create_s(b, id, g, s);
	if (err == 0) {
		err = create_q(b, id, g, q);
	}
	if (err == 0 && g->nshapes > 0) {
		b->shapes = shape_table_create(section_at(&b->q, SHM_SEC_SHAPES), g->nshapes);
		err = b->shapes == NULL ? -ENOMEM : 0;
	}
	if (err == 0) {
		bind_sections(b, g);
		board_heartbeat(b, id->start_ns);
		err = publish_segment(&b->q);
	}
	if (err == 0) { /* the last: who finds the new S looks for the Q beside it, once */
		err = publish_segment(&b->s);
	}
	if (err < 0) {
		board_destroy(&b);
		return err;
	}
	*out = b;
	return 0;
}

void board_destroy(struct board **b)
{
	if (b == NULL || *b == NULL) {
		return;
	}
	if ((*b)->whole != NULL) {
		free((*b)->hot.values);
		free((*b)->hot.pool_values);
		free((*b)->hot.histograms);
	} else {
		destroy_segment(&(*b)->s);
		destroy_segment(&(*b)->q);
		free((*b)->parts);
		pthread_mutex_destroy(&(*b)->lock);
	}
	shape_table_destroy((*b)->shapes);
	free(*b);
	*b = NULL;
}

int board_fd(const struct board *b)
{
	return b->s.fd;
}

int board_slow_fd(const struct board *b)
{
	return b->q.fd;
}

void board_heartbeat(struct board *b, uint64_t boottime_ns)
{
	put(b->whole != NULL ? &b->beat_ns : &b->header->heartbeat_ns, boottime_ns);
}

/* ------------------------------------------------------------------------------------------------
 * Parts
 */

/* Of the rows of shapes, those of part n. */
static struct shape_table *share_of_shapes(const struct board *b, unsigned n, unsigned of)
{
	const struct shm_section *s = segment_section(b->q.map, SHM_SEC_SHAPES);
	uint32_t first = (uint32_t)((uint64_t)b->nshapes * n / of),
		 end = (uint32_t)((uint64_t)b->nshapes * (n + 1) / of);

	check(s != NULL && end > first);
	return shape_table_create(
		(unsigned char *)segment_at(b->q.map, s) + (size_t)first * SHAPE_ROW, end - first);
}

struct board *board_part(struct board *b, unsigned n, unsigned of)
{
	struct board **parts = realloc(b->parts, (b->nparts + 1) * sizeof(*parts));
	struct board *p = malloc(sizeof(*p));
	unsigned npools = b->hot.npools;

	b->parts = parts != NULL ? parts : b->parts;
	if (parts == NULL || p == NULL) {
		free(p);
		return NULL;
	}
	*p = *b;
	p->whole = b;
	p->parts = NULL;
	put(&p->beat_ns, get(&b->header->heartbeat_ns));
	p->hot.values = calloc(METRIC_COUNT, sizeof(uint64_t));
	p->hot.pool_values = calloc((size_t)npools * BOARD_POOL_WORDS, sizeof(uint64_t));
	p->hot.histograms = calloc((size_t)npools * POOL_HIST_COUNT, sizeof(struct histogram));
	p->shapes = b->shapes != NULL ? share_of_shapes(b, n, of) : NULL;
	if (p->hot.values == NULL || p->hot.pool_values == NULL || p->hot.histograms == NULL ||
		(b->shapes != NULL && p->shapes == NULL)) {
		board_destroy(&p);
		return NULL;
	}
	b->parts[b->nparts++] = p;
	return p;
}

static uint64_t older(uint64_t a, uint64_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

static void sum_values(struct board *b)
{
	for (unsigned m = 0; m < METRIC_COUNT; m++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < b->nparts; i++) {
			sum += get(&b->parts[i]->hot.values[m]);
		}
		put(&b->hot.values[m], sum);
	}
}

static void sum_pool(struct board *b, unsigned pool)
{
	for (unsigned m = 0; m < POOL_METRIC_COUNT; m++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < b->nparts; i++) {
			uint64_t v = board_pool_value(b->parts[i], pool, (enum pool_metric)m);

			sum = metric_is_stamp((enum pool_metric)m) ? older(sum, v) : sum + v;
		}
		board_pool_gauge(b, pool, (enum pool_metric)m, sum);
	}
}

static void sum_histogram(struct board *b, size_t h)
{
	struct histogram *to = &b->hot.histograms[h];
	uint64_t ns = 0, max = 0;

	for (unsigned i = 0; i < b->nparts; i++) {
		const struct histogram *from = &b->parts[i]->hot.histograms[h];

		ns += get(&from->sum_ns);
		max = get(&from->max_ns) > max ? get(&from->max_ns) : max;
	}
	for (unsigned k = 0; k < HISTOGRAM_BUCKETS; k++) {
		uint64_t n = 0;

		for (unsigned i = 0; i < b->nparts; i++) {
			n += get(&b->parts[i]->hot.histograms[h].bucket[k]);
		}
		if (n != get(&to->bucket[k])) { /* else a page stays untouched */
			put(&to->bucket[k], n);
		}
	}
	put(&to->sum_ns, ns);
	put(&to->max_ns, max);
}

void board_sum(struct board *b, unsigned npools)
{
	uint64_t beat = 0;

	sum_values(b);
	for (unsigned i = 0; i < npools; i++) {
		sum_pool(b, i);
	}
	for (size_t h = 0; h < (size_t)npools * POOL_HIST_COUNT; h++) {
		sum_histogram(b, h);
	}
	for (unsigned i = 0; i < b->nparts; i++) {
		beat = older(beat, get(&b->parts[i]->beat_ns));
	}
	put(&b->header->heartbeat_ns, beat);
}

/* What parts write under the lock is the whole's. */
static struct board *lock_whole(struct board *b)
{
	if (b->whole == NULL) {
		return b;
	}
	pthread_mutex_lock(&b->whole->lock);
	return b->whole;
}

static void unlock_whole(struct board *b)
{
	if (b->whole != NULL) {
		pthread_mutex_unlock(&b->whole->lock);
	}
}

/* How all four kinds of rows begin; info follows. */
struct row_head {
	_Atomic uint64_t seq;
	uint64_t used;
};

static void write_row(const struct board_table *t, unsigned i, const void *info, size_t len)
{
	struct row_head *row;
	uint64_t used = info != NULL, seq;

	if (never(i >= t->count)) {
		return;
	}
	row = (struct row_head *)(void *)(t->base + (size_t)i * t->stride);
	seq = get(&row->seq) & ~UINT64_C(1);
	seqlock_begin(&row->seq, seq + 1);
	seqlock_store(&row->used, &used, sizeof(used));
	if (info != NULL) {
		seqlock_store(row + 1, info, len);
	}
	seqlock_end(&row->seq, seq + 2);
}

void board_pool_row(struct board *b, unsigned i, const struct board_pool_info *info)
{
	write_row(&b->pools, i, info, sizeof(*info));
}

void board_server_row(struct board *b, unsigned i, const struct board_server_info *info)
{
	write_row(&b->servers, i, info, sizeof(*info));
}

void board_conn_row(struct board *b, unsigned i, const struct board_conn_info *info)
{
	write_row(&b->conns, i, info, sizeof(*info));
}

void board_worker_row(struct board *b, unsigned i, const struct board_worker_info *info)
{
	write_row(&b->workers, i, info, sizeof(*info));
}

static void clean_text(char *text)
{
	for (; *text != '\0'; text++) {
		if ((unsigned char)*text < 0x20 || *text == 0x7f) {
			*text = ' ';
		}
	}
}

void board_event(struct board *b, enum board_event_kind kind, const char *fmt, ...)
{
	struct board_event_slot e = {0}, *dst;
	struct board *whole;
	char text[1024];
	struct timespec ts;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	clean_text(text);
	clock_gettime(CLOCK_REALTIME, &ts);
	e.when_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	e.kind = kind;
	snprintf(e.name, sizeof(e.name), "%s", board_event_name(kind));
	e.text_len = (uint32_t)slowring_cut(text, strlen(text), sizeof(e.text) - 1);
	memcpy(e.text, text, e.text_len);
	whole = lock_whole(b);
	dst = &whole->events[(whole->next_event - 1) % BOARD_EVENTS];
	seqlock_begin(&dst->seq, 2 * whole->next_event - 1);
	seqlock_store(&dst->when_ns, &e.when_ns, sizeof(e) - sizeof(e.seq));
	seqlock_end(&dst->seq, 2 * whole->next_event);
	whole->next_event++;
	unlock_whole(b);
	board_count(b, METRIC_EVENTS, 1);
}

uint64_t board_event_read(const void *slot, size_t stride, struct board_event_slot *out)
{
	const struct board_event_slot *s = slot;
	size_t n = stride < sizeof(*out) ? stride : sizeof(*out);
	uint64_t version;

	memset(out, 0, sizeof(*out));
	if (n < offsetof(struct board_event_slot, text) ||
		!seqlock_read(&s->seq, &s->when_ns, &out->when_ns, n - 8, &version) ||
		version == 0) {
		return 0;
	}
	out->name[sizeof(out->name) - 1] = '\0';
	out->text[sizeof(out->text) - 1] = '\0';
	return version / 2;
}

void board_slow(struct board *b, const struct slow_record *rec)
{
	slowring_write(&lock_whole(b)->slow, rec);
	unlock_whole(b);
	board_count(b, METRIC_SLOW_STATEMENTS, 1);
}

void board_sample(struct board *b, const struct slow_record *rec)
{
	if (!never(b->samples.count == 0)) {
		slowring_write(&lock_whole(b)->samples, rec);
		unlock_whole(b);
	}
}

struct shape_table *board_shapes(const struct board *b)
{
	return b->shapes;
}
