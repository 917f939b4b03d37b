/* SPDX-License-Identifier: MIT */
/* chan.c - see chan.h: how a channel begins and ends. */
#include "chan.h"

#include "crashpoint.h"
#include "result.h"
#include "segment.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define RING_COUNT_MAX 65536u

static void *section(const struct attach_map *m, uint32_t type, uint64_t min, uint64_t *len)
{
	const struct shm_section *s = segment_section(m->at, type);

	if (s == NULL || s->len < min) {
		return NULL;
	}
	*len = s->len;
	return segment_at(m->at, s);
}

static void *ring_section(const struct attach_map *m, uint32_t *count)
{
	const struct shm_section *s = segment_section(m->at, SHM_SEC_RING);

	if (s == NULL || s->stride != RING_SLOT || s->count == 0 || s->count > RING_COUNT_MAX ||
		(s->count & (s->count - 1)) != 0) {
		return NULL;
	}
	*count = s->count;
	return segment_at(m->at, s);
}

/* Set up both boxes over the segments.  0, BROKER_E_VERSION or BROKER_E_MEMORY. */
static int bind_segments(struct chan *c)
{
	uint64_t len, out_len = 0, in_len = 0;
	uint32_t out_count = 0, in_count = 0;
	struct chan_worker *w = section(&c->wm, SHM_SEC_CONTROL, sizeof(*w), &len);
	struct chan_broker *b = section(&c->bm, SHM_SEC_CONTROL, sizeof(*b), &len);
	void *out_ring = ring_section(&c->wm, &out_count);
	void *in_ring = ring_section(&c->bm, &in_count);
	void *out_arena = section(&c->wm, SHM_SEC_ARENA, CHAN_BLOCK, &out_len);
	void *in_arena = section(&c->bm, SHM_SEC_ARENA, CHAN_BLOCK, &in_len);

	if (w == NULL || b == NULL || out_ring == NULL || in_ring == NULL || out_arena == NULL ||
		in_arena == NULL) {
		return BROKER_E_VERSION;
	}
	c->w = w;
	c->b = b;
	if (outbox_init(&c->out, &w->sub_tail, &b->sub_head, out_ring, out_count, out_arena,
		    out_len) < 0 ||
		inbox_init(&c->in, &b->comp_tail, &w->comp_head, in_ring, in_count, in_arena,
			in_len) < 0) {
		return BROKER_E_MEMORY;
	}
	return 0;
}

static void adopt(struct chan *c, struct attachment *a)
{
	struct stat st;

	c->sock = a->sock;
	c->bell = a->bell;
	c->wm = a->w;
	c->bm = a->b;
	c->sm = a->s;
	c->max_request = a->reply.max_request;
	c->pool = (uint16_t)a->reply.pool;
	if (fstat(c->sock, &st) == 0) {
		c->sock_dev = st.st_dev;
		c->sock_ino = st.st_ino;
	}
}

int chan_create(struct broker *b, struct attachment *a, struct chan **out)
{
	struct chan *c = calloc(1, sizeof(*c));
	int rc;

	if (c == NULL) {
		attach_close(a);
		return BROKER_E_MEMORY;
	}
	adopt(c, a);
	c->broker = b;
	c->refs = 1;
	c->poll_fd = c->poll_self = -1;
	c->spin.on = usable_cpus() > 1;
	TAILQ_INIT(&c->all);
	TAILQ_INIT(&c->ready);
	TAILQ_INIT(&c->owed);
	c->stmts = stmtcache_create(CHAN_MAX_STMTS - 1);
	rc = c->stmts == NULL ? BROKER_E_MEMORY : bind_segments(c);
	if (rc < 0) {
		chan_detach(c);
		chan_unref(c);
		return rc;
	}
	*out = c;
	return 0;
}

void chan_ref(struct chan *c)
{
	c->refs++;
}

void chan_unref(struct chan *c)
{
	if (c == NULL || --c->refs > 0) {
		return;
	}
	stmtcache_destroy(c->stmts);
	free(c->servers);
	outbox_finish(&c->out);
	inbox_finish(&c->in);
	if (c->gone != BROKER_E_FORKED) { /* not in a child: something else may live there now */
		segment_unmap(c->wm.at, c->wm.len);
		segment_unmap(c->bm.at, c->bm.len);
		segment_unmap(c->sm.at, c->sm.len);
	}
	free(c);
}

static void close_fd(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
	}
	*fd = -1;
}

static void close_fds(struct chan *c)
{
	close_fd(&c->sock);
	close_fd(&c->bell);
	close_fd(&c->poll_fd);
	close_fd(&c->poll_self);
}

/* What is known of a request that will not be answered any more. */
static void fail_request(struct chan *c, struct broker_result *r, int code)
{
	bool taken = outbox_taken(&c->out, r->sub_pos);
	bool harmless = r->readonly || (r->in_tx && r->op != REQ_COMMIT);

	if (taken && code == BROKER_E_SHUTDOWN) {
		code = BROKER_E_LOST;
	}
	if (!taken) {
		result_end(r, code, BROKER_NOT_DONE, r->lease == 0);
	} else if (harmless) {
		result_end(r, code, BROKER_NOT_DONE, r->readonly && r->lease == 0);
	} else {
		result_end(r, code, BROKER_UNKNOWN, false);
	}
}

/* Ends of leases that never got into the ring: the broker knows from the end of the channel. */
static void drop_owed(struct chan *c)
{
	struct broker_result *r;

	while ((r = TAILQ_FIRST(&c->owed)) != NULL) {
		bool end = r->owes_end;

		TAILQ_REMOVE(&c->owed, r, owed_link);
		r->owes_cancel = r->owes_end = false;
		if (end) {
			result_release(r);
		}
	}
}

void chan_lost(struct chan *c, int code)
{
	if (c->gone != 0) {
		return;
	}
	c->gone = code;
	chan_pump(c); /* the last answers count */
	drop_owed(c);
	for (unsigned i = 0; i < CHAN_REQUESTS; i++) {
		struct broker_result *r = c->slot[i];

		if (r != NULL && r->in_flight) {
			fail_request(c, r, code);
			chan_finish(c, r);
		}
	}
	close_fds(c);
}

/* Let go of every request, without touching the segments. */
static void drop_requests(struct chan *c)
{
	drop_owed(c);
	for (unsigned i = 0; i < CHAN_REQUESTS; i++) {
		struct broker_result *r = c->slot[i];

		if (r == NULL) {
			continue;
		}
		result_end(r, c->gone, BROKER_UNKNOWN, false);
		if (r->open) {
			chan_collected(c, r);
		}
		if (r->in_flight) {
			chan_finish(c, r);
		} else if (!r->user) {
			result_release(r);
		}
	}
}

/* Our socket, and not another file under its number? */
static bool owns_socket(const struct chan *c)
{
	struct stat st;

	return fstat(c->sock, &st) == 0 && st.st_dev == c->sock_dev && st.st_ino == c->sock_ino;
}

void chan_forget(struct chan *c)
{
	c->gone = BROKER_E_FORKED;
	drop_requests(c);
	if (c->sock >= 0 && owns_socket(c)) { /* else the child has closed what it inherited */
		close_fds(c);
	}
	c->broker = NULL;
}

void chan_detach(struct chan *c)
{
	CRASHPOINT(DETACH_BEFORE);
	if (c->gone == 0) {
		c->gone = BROKER_E_USAGE;
		if (c->sock >= 0 && c->out.end != NULL && outbox_has_room(&c->out, 0)) {
			struct shm_request bye = {
				.id = ++c->broker->sequence << 8,
				.op = REQ_DETACH,
				.free_chunk = CHAN_NO_CHUNK,
			};

			(void)outbox_push(&c->out, &bye);
			chan_publish(c);
		}
		CRASHPOINT(DETACH_TOLD);
	}
	drop_requests(c);
	close_fds(c);
	c->broker = NULL;
}
