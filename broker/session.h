/* SPDX-License-Identifier: MIT */
/*
 * session.h - the broker's side of one attached worker: its segments, requests, leases, results.
 *
 *   READY ----- bad bytes, bell spam ------> EVICTED (told why; nothing is read from it any more)
 *     |                                         |
 *     +-- detach, socket closed, pidfd ---------+--> ENDED -> freed when its handles are closed
 *
 * Everything in W is copied once, checked, and acted on as the copy.  What the broker needs later
 * (blocks given out, requests in flight, leases) is private here and never read from a segment.
 * Fresh segments per attach: nothing a dead or paused worker can still write is used again, so its
 * leases and requests can be reclaimed as soon as its socket is closed or its pidfd fires.
 *
 * Result arena: blocks of CHAN_BLOCK bytes, lowest free first, so that a light user touches few
 * pages.  Every request that is being answered and holds no block is guaranteed one (`needy`);
 * a request is admitted only when that guarantee can be given.  So a worker that leaves results
 * unread delays its own requests, and no order of reading can deadlock.
 *
 * Once the worker has asked for nothing for a second, what free blocks have touched goes back to
 * the system, but for the first few.  Nobody can notice: only this thread writes the arena, free is
 * what the private books say, and a block is free only when no request fills it and the worker, if
 * it ever got it, has given it back.  What a worker holds stays, so one that is stopped in the
 * middle of a result loses nothing of it.  Promises to requests (`needy`) are numbers of blocks,
 * not blocks.  The request arena is the worker's to give back (outbox.h): it may be writing there
 * at any moment.
 *
 * I/O thread only.
 */
#ifndef BROKER_SESSION_H
#define BROKER_SESSION_H

#include "io.h"
#include "request.h"
#include "ring.h"
#include "server.h"

struct session_identity {
	int32_t pid;
	uint32_t uid, gid;
	int pidfd; /* owned by the session from session_create on */
	char name[ATTACH_NAME_MAX];
};

/*
 * Create segments and register; sock (owned by the session on success) is the attach socket.
 * fds receives W, B and the eventfd to send to the worker; the caller closes W and B afterwards.
 * 0 or -errno; -EUSERS: there are max_workers, -EDQUOT: the user has max_workers_per_uid.
 */
struct session_fds {
	int w, b, bell;
};
int session_create(struct io *io, int sock, const struct session_identity *id, unsigned pool,
	uint32_t result_kib, struct session **out, struct session_fds *fds) must_use;
/* The worker has mapped its segments.  Starts serving. */
void session_ready(struct session *s);

/* Its eventfd rang. */
void session_bell(struct session *s);
/* Take what it published.  Returns the number of descriptors taken.  May take s off the hot
 * list. */
unsigned session_poll(struct session *s);
/* The two halves of arming, around the caller's full_fence(): say that it must ring; look whether
 * it has published meanwhile. */
void session_set_need_wake(struct session *s, uint32_t v);
bool session_look_again(struct session *s);
/* Publish completions; and, after the caller's full_fence(), wake it if it sleeps.  session_wake
 * takes s off the dirty list. */
void session_publish(struct session *s);
void session_wake(struct session *s);
/* Housekeeping. */
void session_tick(struct session *s);

/* From a link in io->sessions, io->hot, io->dirty. */
struct session *session_of_link(struct cds_list_head *p);
struct session *session_of_hot(struct cds_list_head *p);
struct session *session_of_dirty(struct cds_list_head *p);

/* Give up on it: it misbehaved.  why goes to log, board and worker. */
void session_evict(struct session *s, enum fail_code code, const char *why);
/* It is gone (detached, socket closed, process dead): cancel, roll back, reclaim. */
void session_end(struct session *s, const char *why);

/* -- used by request.c, lease.c, listener.c ---------------------------------------------------- */

uint64_t session_incarnation(const struct session *s);
unsigned session_slot(const struct session *s);
int32_t session_pid(const struct session *s);
uint32_t session_uid(const struct session *s);
const char *session_name(const struct session *s);
/* It holds an open lease: its other statements never wait behind those of strangers. */
bool session_has_lease(const struct session *s);

/* It may have changed something through pool p just now. */
void session_note_write(struct session *s, const struct pool *p);
/* Is all it has changed known to be on this standby of p? */
bool session_is_fresh(struct session *s, const struct pool *p, const struct server *standby);

/* A completion for r; the chunk, if any, is the current one of r->out.  len: its bytes. */
void session_complete(struct session *s, struct request *r, struct shm_completion *c);
/* Put an error record into a fresh block if there is one; fills c->chunk and c->len. */
void session_put_error(struct session *s, struct request *r, struct shm_completion *c,
	const struct failure *f);
void session_count_error(struct session *s);
/* Next chunk for r's stream; publishes the full one before.  false: none free, r waits in
 * blocked. */
bool session_next_chunk(struct session *s, struct request *r);
/* r ends: it needs no blocks any more; the unused tail of its last chunk is free again. */
void session_request_ended(struct session *s, struct request *r);
/* r is one of the worker's until session_request_ended. */
void session_add_request(struct session *s, struct request *r);

/* Forget what r put into a chunk nobody saw; it is entitled to a block again. */
void session_drop_chunk(struct session *s, struct request *r);
/* n takes r's place with the worker; r is an orphan then. */
void session_replace_request(struct session *s, struct request *r, struct request *n);

struct lease *session_find_lease(struct session *s, uint64_t id);
void session_add_lease(struct session *s, struct lease *l);
void session_remove_lease(struct session *s, struct lease *l);

/* COPY IN backpressure: stop and go on taking descriptors of this worker. */
void session_pause(struct session *s);
void session_unpause(struct session *s);

/* The row for the workers table. */
void session_mirror(struct session *s);

#endif
