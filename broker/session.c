/* SPDX-License-Identifier: MIT */
/* session.c - see session.h. */
#include "session_core.h"

#include "doorbell.h"
#include "lease.h"
#include "listener.h"
#include "log.h"
#include "pool.h"
#include "request_core.h"
#include "segment.h"
#include "shards.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Empty bells in one tick before a worker's bell is ignored and it is polled on ticks instead. */
#define BELL_SPAM 20000u

struct session *session_of_link(struct cds_list_head *p)
{
	return container_of(p, struct session, link);
}

struct session *session_of_hot(struct cds_list_head *p)
{
	return container_of(p, struct session, hot_link);
}

struct session *session_of_dirty(struct cds_list_head *p)
{
	return container_of(p, struct session, dirty_link);
}

uint64_t session_incarnation(const struct session *s)
{
	return s->incarnation;
}

unsigned session_slot(const struct session *s)
{
	return s->slot;
}

int32_t session_pid(const struct session *s)
{
	return s->id.pid;
}

uint32_t session_uid(const struct session *s)
{
	return s->id.uid;
}

void session_note_write(struct session *s, const struct pool *p)
{
	if (p->index >= s->nwrites) {
		struct session_write *more =
			realloc(s->writes, (p->index + 1) * sizeof(struct session_write));

		if (more == NULL) {
			s->writes_lost = true;
			return;
		}
		memset(more + s->nwrites, 0, (p->index + 1 - s->nwrites) * sizeof(*more));
		s->writes = more;
		s->nwrites = p->index + 1;
	}
	s->writes[p->index] =
		(struct session_write){.wrote_ns = doorbell_now()}; /* others stamp probes */
}

/*
 * A probe that was sent after the write brought a position that includes it.  Until there is one,
 * and a standby has replayed as far, the writer itself must be asked.
 */
bool session_is_fresh(struct session *s, const struct pool *p, const struct server *standby)
{
	const struct server *writer = p->writer != NULL ? p->writer->server : NULL;
	struct session_write *w;

	if (p->index >= s->nwrites) {
		return !s->writes_lost;
	}
	w = &s->writes[p->index];
	if (w->wrote_ns == 0) {
		return true;
	}
	if (w->lsn == 0 && writer != NULL && writer->lsn_asked_ns > w->wrote_ns) {
		w->lsn = writer->lsn;
	}
	return w->lsn != 0 && standby->lsn >= w->lsn;
}

const char *session_name(const struct session *s)
{
	return s->id.name;
}

bool session_has_lease(const struct session *s)
{
	return s->nleases > 0;
}

/* -- lists of the loop ------------------------------------------------------------------------ */

void session_set_hot(struct session *s, bool hot)
{
	if (s->hot == hot) {
		return;
	}
	s->hot = hot;
	if (hot) {
		s->quiet_turns = 0;
		cds_list_add_tail(&s->hot_link, &s->io->hot);
	} else {
		cds_list_del(&s->hot_link);
	}
}

void session_set_dirty(struct session *s)
{
	if (!s->dirty) {
		s->dirty = true;
		cds_list_add_tail(&s->dirty_link, &s->io->dirty);
	}
}

void session_set_need_wake(struct session *s, uint32_t v)
{
	put(&s->broker->need_wake, v);
}

bool session_look_again(struct session *s)
{
	return s->state == SESSION_READY &&
	       (session_may_admit(s) || (!s->paused && ring_in_pending(&s->sub) != 0));
}

void session_bell(struct session *s)
{
	if (s->state != SESSION_READY) {
		return;
	}
	if (ring_in_pending(&s->sub) == 0 && ++s->empty_bells > BELL_SPAM) {
		log_warning(
			"worker %d (%s): rings its bell for nothing; its bell is ignored, it is "
			"polled instead",
			s->id.pid, s->id.name);
		io_bell_del(s->io, s->bell);
		s->bell_ignored = true;
		return;
	}
	session_set_need_wake(s, 0);
	session_set_hot(s, true);
	s->quiet_turns = 0;
}

void session_publish(struct session *s)
{
	ring_publish(&s->comp);
}

void session_wake(struct session *s)
{
	uint32_t how = get(&s->worker->sleeping);

	cds_list_del(&s->dirty_link);
	s->dirty = false;
	if (how == CHAN_SLEEP_FUTEX) {
		doorbell_wake(&s->broker->bell);
		board_count(s->io->board, METRIC_WAKES_SENT, 1);
	} else if (how == CHAN_SLEEP_SOCKET) {
		char byte = 1;

		/* A full socket means that a bell is unread already. */
		(void)send(s->sock, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		board_count(s->io->board, METRIC_WAKES_SENT, 1);
	}
}

/* -- leases ------------------------------------------------------------------------------------ */

struct lease *session_find_lease(struct session *s, uint64_t id)
{
	struct lease *l;

	cds_list_for_each_entry(l, &s->leases, session_link)
	{
		if (l->id == id) {
			return l;
		}
	}
	return NULL;
}

void session_add_lease(struct session *s, struct lease *l)
{
	cds_list_add(&l->session_link, &s->leases);
	s->nleases++;
}

void session_remove_lease(struct session *s, struct lease *l)
{
	cds_list_del(&l->session_link);
	s->nleases--;
}

void session_pause(struct session *s)
{
	s->paused = true;
}

void session_unpause(struct session *s)
{
	if (s->paused && s->state == SESSION_READY) {
		s->paused = false;
		session_set_hot(s, true);
		session_set_dirty(s);
	}
}

/* -- life -------------------------------------------------------------------------------------- */

/* Of the user, among those that are seated. */
static unsigned seats_of(const struct io_shared *sh, uint32_t uid)
{
	unsigned left = sh->nseated, n = 0;

	for (unsigned i = 0; left > 0; i++) {
		left -= sh->seats[i].taken;
		n += sh->seats[i].taken && sh->seats[i].uid == uid;
	}
	return n;
}

/* The limits hold for all I/O threads together. */
static int take_seat_locked(struct session *s, struct io_shared *sh)
{
	int64_t per_uid = s->io->config->broker.max_workers_per_uid;

	if (sh->nseated == sh->nseats) {
		return -EUSERS;
	}
	if (per_uid > 0 && seats_of(sh, s->id.uid) >= (uint64_t)per_uid) {
		return -EDQUOT;
	}
	s->slot = 0;
	while (sh->seats[s->slot].taken) {
		s->slot++;
	}
	sh->seats[s->slot] = (struct io_seat){.taken = true, .uid = s->id.uid};
	sh->nseated++;
	s->incarnation = ++sh->incarnations;
	return 0;
}

static int take_seat(struct session *s)
{
	int err;

	pthread_mutex_lock(&s->io->shared->lock);
	err = take_seat_locked(s, s->io->shared);
	pthread_mutex_unlock(&s->io->shared->lock);
	return err;
}

static void leave_seat(struct session *s)
{
	struct io_shared *sh = s->io->shared;

	pthread_mutex_lock(&sh->lock);
	sh->seats[s->slot].taken = false;
	sh->nseated--;
	pthread_mutex_unlock(&sh->lock);
}

static void free_session(struct session *s)
{
	for (unsigned i = 0; i < s->nstmts; i++) {
		statement_put(s->io->statements, s->stmts[i]);
	}
	free(s->stmts);
	free(s->writes);
	free(s);
}

static void on_handle_closed(uv_handle_t *h)
{
	struct session *s = h->data;

	if (--s->handles == 0) {
		if (s->sock >= 0) {
			close(s->sock);
		}
		close(s->id.pidfd);
		free_session(s);
	}
}

static void release_segments(struct session *s)
{
	io_bell_del(s->io, s->bell);
	close(s->bell);
	segment_unmap(s->w, s->w_len);
	segment_unmap(s->b, s->b_len);
	s->w = s->b = NULL;
}

/* Everything it had is cancelled, rolled back, given back. */
static void drop_work(struct session *s)
{
	struct request *r;
	struct lease *l;

	while (!cds_list_empty(&s->requests)) {
		r = cds_list_first_entry(&s->requests, struct request, session_link);
		request_abandon(r);
	}
	while (!cds_list_empty(&s->leases)) {
		l = cds_list_first_entry(&s->leases, struct lease, session_link);
		lease_orphan(l);
	}
	session_drop_part(s);
}

static void stop_serving(struct session *s)
{
	drop_work(s);
	session_set_hot(s, false);
	if (s->dirty) {
		session_publish(s);
		full_fence();
		session_wake(s);
	}
}

void session_evict(struct session *s, enum fail_code code, const char *why)
{
	if (s->state != SESSION_READY) {
		return;
	}
	log_warning("worker %d (%s): evicted: %s", s->id.pid, s->id.name, why);
	board_event(s->io->board, BOARD_EVENT_EVICTION, "worker %d (%s): %s", s->id.pid, s->id.name,
		why);
	board_count(s->io->board, METRIC_EVICTIONS, 1);
	stop_serving(s);
	s->state = SESSION_EVICTED;
	publish(&s->broker->closed, (uint32_t)code);
	doorbell_wake(&s->broker->bell);
	io_bell_del(s->io, s->bell); /* now it may ring as it likes */
	/* whoever waits on it wakes up; that it is closed is still seen */
	shutdown(s->sock, SHUT_WR);
	session_mirror(s);
}

/* why NULL: it said good-bye. */
void session_end(struct session *s, const char *why)
{
	struct io *io = s->io;

	if (s->state == SESSION_ENDED) {
		return;
	}
	if (s->state == SESSION_READY) {
		if (io->stopping) {
			publish(&s->broker->closed, (uint32_t)FAIL_SHUTDOWN);
			doorbell_wake(&s->broker->bell);
		}
		stop_serving(s);
	}
	if (s->state == SESSION_ATTACHING) {
		log_info("worker %d (%s): %s", s->id.pid, s->id.name,
			why != NULL ? why : "gone while attaching");
	} else if (why != NULL) {
		log_info("worker %d (%s): %s", s->id.pid, s->id.name, why);
		board_event(io->board, BOARD_EVENT_WORKER_DEATH, "worker %d (%s): %s", s->id.pid,
			s->id.name, why);
		board_count(io->board, METRIC_WORKER_DEATHS, 1);
	} else {
		log_debug("worker %d (%s): detached", s->id.pid, s->id.name);
		board_count(io->board, METRIC_DETACHES, 1);
	}
	if (s->state != SESSION_ATTACHING) {
		board_adjust(io->board, METRIC_WORKERS_ATTACHED, -1);
	}
	s->state = SESSION_ENDED;
	cds_list_del(&s->link);
	io->nsessions--;
	board_worker_row(io->board, s->slot, NULL);
	leave_seat(s);
	shards_unplace(io);
	release_segments(s);
	if (s->sock_polled) {
		uv_close((uv_handle_t *)&s->sock_poll, on_handle_closed);
	}
	uv_close((uv_handle_t *)&s->pid_poll, on_handle_closed);
}

static void on_pid(uv_poll_t *h, int status, int events)
{
	struct session *s = h->data;

	(void)status;
	(void)events;
	if (s->state == SESSION_ATTACHING) {
		/* the handshake, which holds it, sees the end of the socket */
		uv_poll_stop(h);
		shutdown(s->sock, SHUT_RDWR);
		return;
	}
	session_end(s, "died");
}

/* What comes on the socket is thrown away, descriptors that came along included. */
static ssize_t drain_socket(int sock)
{
	alignas(struct cmsghdr) char control[CMSG_SPACE(64 * sizeof(int))];
	char buf[256];
	struct iovec iov = {buf, sizeof(buf)};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n >= 0) {
		close_passed_fds(&m);
	}
	return n;
}

/* The worker says nothing on its socket but attach_ready; end of file is good-bye or death. */
static void on_sock(uv_poll_t *h, int status, int events)
{
	struct session *s = h->data;
	ssize_t n;

	(void)status;
	(void)events;
	n = drain_socket(s->sock);
	if (n > 0) {
		return;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		return;
	}
	if (s->state == SESSION_READY) {
		session_poll(s); /* it may have said good-bye just before */
	}
	session_end(s, "closed its socket");
}

static int create_segments(struct session *s, uint32_t result_kib, struct session_fds *fds)
{
	struct segment_identity ident;
	unsigned blocks = result_kib / (CHAN_BLOCK / 1024);
	const struct segment_plan w_plan[] = {
		{SHM_SEC_CONTROL, 1, sizeof(struct chan_worker), 1, 0},
		{SHM_SEC_RING, 1, RING_SLOT, CHAN_RING_SLOTS, 0},
		{SHM_SEC_ARENA, 1, 0, 0, SESSION_ARENA_IN},
	};

	blocks = blocks < CHAN_MIN_BLOCKS ? CHAN_MIN_BLOCKS : blocks;
	blocks = blocks > CHAN_MAX_BLOCKS ? CHAN_MAX_BLOCKS : blocks & ~15u;
	const struct segment_plan b_plan[] = {
		{SHM_SEC_CONTROL, 1, sizeof(struct chan_broker), 1, 0},
		{SHM_SEC_RING, 1, RING_SLOT, chan_comp_slots(blocks), 0},
		{SHM_SEC_ARENA, 1, 0, 0, (uint64_t)blocks * CHAN_BLOCK},
	};

	ident = s->io->identity;
	fds->w = segment_create("shmbroker-w", SHM_ROLE_WORKER, s->incarnation, &ident, w_plan, 3,
		&s->w, &s->w_len);
	if (fds->w < 0) {
		return fds->w;
	}
	fds->b = segment_create("shmbroker-b", SHM_ROLE_BROKER, s->incarnation, &ident, b_plan, 3,
		&s->b, &s->b_len);
	if (fds->b < 0) {
		close(fds->w);
		segment_unmap(s->w, s->w_len);
		return fds->b;
	}
	s->nblocks = s->free_blocks = blocks;
	memset(s->used, 0xff, sizeof(s->used));
	for (unsigned i = 0; i < blocks; i++) {
		s->used[i / 64] &= ~(UINT64_C(1) << (i % 64));
	}
	return 0;
}

/* Addresses from the headers we have just written; nobody else has the segments yet. */
static void map_channel(struct session *s)
{
	const unsigned char *w_ring = segment_at(s->w, segment_section(s->w, SHM_SEC_RING));
	unsigned char *b_ring = segment_at(s->b, segment_section(s->b, SHM_SEC_RING));

	s->worker = segment_at(s->w, segment_section(s->w, SHM_SEC_CONTROL));
	s->broker = segment_at(s->b, segment_section(s->b, SHM_SEC_CONTROL));
	s->arena_in = segment_at(s->w, segment_section(s->w, SHM_SEC_ARENA));
	s->arena_in_len = SESSION_ARENA_IN;
	s->arena_out = segment_at(s->b, segment_section(s->b, SHM_SEC_ARENA));
	ring_in_init(&s->sub, &s->worker->sub_tail, &s->broker->sub_head, w_ring, CHAN_RING_SLOTS);
	ring_out_init(&s->comp, &s->broker->comp_tail, &s->worker->comp_head, b_ring,
		chan_comp_slots(s->nblocks));
	put(&s->broker->need_wake, 1u);
}

int session_create(struct io *io, int sock, const struct session_identity *id, unsigned pool,
	uint32_t result_kib, struct session **out, struct session_fds *fds)
{
	struct session *s = calloc(1, sizeof(*s));
	int err;

	if (s == NULL) {
		return -ENOMEM;
	}
	s->io = io;
	s->id = *id;
	s->pool = pool;
	s->sock = sock;
	CDS_INIT_LIST_HEAD(&s->requests);
	CDS_INIT_LIST_HEAD(&s->unadmitted);
	CDS_INIT_LIST_HEAD(&s->blocked);
	CDS_INIT_LIST_HEAD(&s->leases);
	err = take_seat(s);
	if (err < 0) {
		goto err_free;
	}
	err = create_segments(s, result_kib, fds);
	if (err < 0) {
		goto err_slot;
	}
	map_channel(s);
	s->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->bell < 0) {
		err = -errno;
		goto err_segments;
	}
	fds->bell = s->bell;
	err = io_bell_add(io, s->bell, s);
	if (err < 0) {
		goto err_bell;
	}
	s->attached_ns = s->active_ns = io_now(io);
	s->handles = 1;
	uv_poll_init(&io->loop, &s->pid_poll, id->pidfd);
	s->pid_poll.data = s;
	uv_poll_start(&s->pid_poll, UV_READABLE, on_pid);
	cds_list_add_tail(&s->link, &io->sessions);
	io->nsessions++;
	*out = s;
	return 0;
err_bell:
	close(s->bell);
err_segments:
	close(fds->w);
	close(fds->b);
	segment_unmap(s->w, s->w_len);
	segment_unmap(s->b, s->b_len);
err_slot:
	leave_seat(s);
err_free:
	free(s);
	return err;
}

void session_ready(struct session *s)
{
	s->state = SESSION_READY;
	board_count(s->io->board, METRIC_ATTACHES, 1);
	board_adjust(s->io->board, METRIC_WORKERS_ATTACHED, 1);
	uv_poll_init(&s->io->loop, &s->sock_poll, s->sock);
	s->sock_poll.data = s;
	s->handles++;
	s->sock_polled = true;
	uv_poll_start(&s->sock_poll, UV_READABLE, on_sock);
	session_mirror(s);
	session_set_need_wake(s, 0);
	session_set_hot(s, true);
	log_debug("worker %d (%s): attached", s->id.pid, s->id.name);
}

void session_mirror(struct session *s)
{
	struct board_worker_info info = {
		.pid = s->id.pid,
		.uid = s->id.uid,
		.state = s->state == SESSION_EVICTED      ? BOARD_WORKER_EVICTED
			 : !cds_list_empty(&s->blocked)   ? BOARD_WORKER_STALLED
							  : BOARD_WORKER_ATTACHED,
		.in_flight = s->nrequests,
		.leases = s->nleases,
		.pool = s->pool,
		.incarnation = s->incarnation,
		.attached_ns = s->attached_ns,
		.active_ns = s->active_ns,
		.statements = s->statements,
		.errors = s->errors,
	};

	memcpy(info.name, s->id.name, sizeof(info.name) - 1);
	memcpy(info.tag, s->tag, sizeof(info.tag) - 1);
	board_worker_row(s->io->board, s->slot, &info);
}

void session_count_error(struct session *s)
{
	s->errors++;
}

void session_tick(struct session *s)
{
	if (s->state == SESSION_ATTACHING) {
		return;
	}
	s->empty_bells = 0;
	/* Blocks that are given back without a bell, and workers whose bell is ignored. */
	if (s->state == SESSION_READY && !s->hot && ring_in_pending(&s->sub) != 0) {
		session_poll(s);
	}
	if (s->state != SESSION_ENDED) {
		session_trim_when_quiet(s);
		session_mirror(s);
	}
}
