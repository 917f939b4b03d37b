/* SPDX-License-Identifier: MIT */
/* raw.c - see raw.h. */
#include "raw.h"

#include "atomics.h"
#include "ring.h"
#include "segment.h"
#include "tap.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* -- attach ------------------------------------------------------------------------------------ */

int raw_connect(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		bail_out("cannot connect to %s: %s", path, strerror(errno));
	}
	return fd;
}

struct attach_hello raw_hello(void)
{
	return (struct attach_hello){.magic = ATTACH_MAGIC,
		.major = SHM_MAJOR,
		.minor = SHM_MINOR,
		.kind = ATTACH_WORKER,
		.name = "raw"};
}

bool raw_send(int sock, const void *msg, size_t len, const int *fds, unsigned n)
{
	alignas(struct cmsghdr) char control[CMSG_SPACE(256 * sizeof(int))] = {0};
	struct iovec iov = {(void *)(uintptr_t)msg, len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n > 0) {
		struct cmsghdr *c;

		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	return sendmsg(sock, &m, MSG_NOSIGNAL) == (ssize_t)len;
}

static void take_fds(struct msghdr *m, int fds[4])
{
	struct cmsghdr *c = CMSG_FIRSTHDR(m);

	if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	}
}

ssize_t raw_reply(int sock, struct attach_reply *r, int fds[4], int64_t ms)
{
	alignas(struct cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
	struct iovec iov = {r, sizeof(*r)};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	struct pollfd p = {.fd = sock, .events = POLLIN};
	ssize_t n;

	for (unsigned i = 0; i < 4; i++) {
		fds[i] = -1;
	}
	memset(r, 0, sizeof(*r));
	if (poll(&p, 1, (int)ms) <= 0) {
		return -1;
	}
	n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	if (n < 0) {
		return errno == ECONNRESET ? 0 : -1;
	}
	take_fds(&m, fds);
	return n;
}

bool raw_closed(int sock, int64_t ms)
{
	struct attach_reply r;
	int fds[4];
	ssize_t n;

	do {
		n = raw_reply(sock, &r, fds, ms);
		raw_close_fds(fds, 4);
	} while (n > 0);
	return n == 0;
}

void raw_close_fds(int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (fds[i] >= 0) {
			close(fds[i]);
		}
		fds[i] = -1;
	}
}

void raw_map(struct raw *r)
{
	if (segment_attach(r->fd[1], SHM_ROLE_WORKER, true, &r->w, &r->w_len) < 0 ||
		segment_attach(r->fd[2], SHM_ROLE_BROKER, false, &r->b, &r->b_len) < 0) {
		bail_out("cannot map what the broker sent");
	}
	r->worker = segment_at(r->w, segment_section(r->w, SHM_SEC_CONTROL));
	r->ring = segment_at(r->w, segment_section(r->w, SHM_SEC_RING));
	r->arena = segment_at(r->w, segment_section(r->w, SHM_SEC_ARENA));
	r->arena_len = segment_section(r->w, SHM_SEC_ARENA)->len;
	r->broker = segment_at(r->b, segment_section(r->b, SHM_SEC_CONTROL));
	r->comp = segment_at(r->b, segment_section(r->b, SHM_SEC_RING));
	r->comp_slots = segment_section(r->b, SHM_SEC_RING)->count;
	r->results = segment_at(r->b, segment_section(r->b, SHM_SEC_ARENA));
}

void raw_ready(struct raw *r)
{
	struct attach_ready ready = {.magic = ATTACH_MAGIC};

	if (!raw_send(r->sock, &ready, sizeof(ready), NULL, 0)) {
		bail_out("cannot send ready: %s", strerror(errno));
	}
}

void raw_attach(struct raw *r, const char *path)
{
	struct attach_hello h = raw_hello();

	*r = (struct raw){.sock = raw_connect(path)};
	if (!raw_send(r->sock, &h, sizeof(h), NULL, 0) ||
		raw_reply(r->sock, &r->reply, r->fd, 10000) != (ssize_t)sizeof(r->reply) ||
		r->reply.code != 0) {
		bail_out("cannot attach: %.200s", r->reply.text);
	}
	raw_map(r);
	raw_ready(r);
}

void raw_drop(struct raw *r)
{
	segment_unmap(r->w, r->w_len);
	segment_unmap(r->b, r->b_len);
	raw_close_fds(r->fd, 4);
	if (r->sock >= 0) {
		close(r->sock);
	}
	*r = (struct raw){.sock = -1, .fd = {-1, -1, -1, -1}};
}

/* -- sending ----------------------------------------------------------------------------------- */

struct shm_request raw_request(struct raw *r, uint8_t op)
{
	return (struct shm_request){.id = ++r->last_id, .op = op, .free_chunk = CHAN_NO_CHUNK};
}

void raw_push(struct raw *r, const struct shm_request *d)
{
	ring_copy_slot(r->ring + (r->tail & (CHAN_RING_SLOTS - 1)) * RING_SLOT, d);
	r->tail++;
}

void raw_bell(const struct raw *r)
{
	uint64_t one = 1;

	(void)!write(r->fd[3], &one, sizeof(one));
}

void raw_publish(struct raw *r)
{
	publish(&r->worker->sub_tail, r->tail);
	raw_bell(r);
}

void raw_send_request(struct raw *r, const struct shm_request *d)
{
	raw_push(r, d);
	raw_publish(r);
}

void raw_body(struct raw *r, struct shm_request *d, const void *bytes, size_t len)
{
	uint64_t at = r->at & (r->arena_len - 1);

	if (at + len > r->arena_len) { /* a body does not wrap */
		r->at += r->arena_len - at;
		at = 0;
	}
	memcpy(r->arena + at, bytes, len);
	d->off = r->at;
	d->len = (uint32_t)len;
	r->at += pad8(len);
}

static unsigned char *put_padded(unsigned char *p, const void *data, size_t len)
{
	memset(p, 0, pad8(len));
	if (len > 0) {
		memcpy(p, data, len);
	}
	return p + pad8(len);
}

size_t raw_encode(void *buf, const char *tag, const char *sql, unsigned nparams, const void *params,
	size_t params_len)
{
	struct shm_body h = {.tag_len = (uint32_t)strlen(tag),
		.sql_len = (uint32_t)strlen(sql),
		.nparams = nparams};
	unsigned char *p = put_padded(buf, &h, sizeof(h));

	p = put_padded(p, tag, h.tag_len);
	p = put_padded(p, sql, h.sql_len);
	p = put_padded(p, params, params_len);
	return (size_t)(p - (unsigned char *)buf);
}

size_t raw_param(void *buf, uint32_t type, const void *data, uint32_t len)
{
	struct shm_param h = {.len = len, .type = type};
	unsigned char *p = put_padded(buf, &h, sizeof(h));

	return (size_t)(put_padded(p, data, len) - (unsigned char *)buf);
}

uint64_t raw_exec(struct raw *r, const char *sql, uint8_t flags, uint64_t lease)
{
	struct shm_request d = raw_request(r, REQ_EXEC);
	unsigned char body[4096];

	d.flags = flags;
	d.lease = lease;
	raw_body(r, &d, body, raw_encode(body, "", sql, 0, NULL, 0));
	raw_push(r, &d);
	return d.id;
}

uint64_t raw_lease(struct raw *r, uint8_t flags)
{
	struct shm_request d = raw_request(r, REQ_LEASE);
	unsigned char body[64];

	d.flags = flags;
	raw_body(r, &d, body, raw_encode(body, "", "", 0, NULL, 0));
	raw_push(r, &d);
	return d.id;
}

uint64_t raw_op(struct raw *r, uint8_t op, uint64_t lease)
{
	struct shm_request d = raw_request(r, op);

	d.lease = lease;
	raw_push(r, &d);
	return d.id;
}

/* -- answers ----------------------------------------------------------------------------------- */

bool raw_take(struct raw *r, struct shm_completion *c)
{
	if (observe(&r->broker->comp_tail) == r->head) {
		return false;
	}
	ring_copy_slot(c, r->comp + (r->head & (r->comp_slots - 1)) * RING_SLOT);
	r->head++;
	publish(&r->worker->comp_head, r->head);
	return true;
}

void raw_give(struct raw *r, uint32_t chunk)
{
	struct shm_request d = raw_request(r, REQ_NOP);

	d.free_chunk = chunk;
	raw_push(r, &d);
}

static bool take_final(struct raw *r, uint64_t id, struct shm_completion *c)
{
	bool gave = false, found = false;

	while (!found && raw_take(r, c)) {
		if (c->chunk != CHAN_NO_CHUNK) {
			raw_give(r, c->chunk);
			gave = true;
		}
		found = c->id == id && (c->kind == COMP_DONE || c->kind == COMP_ERROR);
	}
	if (gave) {
		raw_publish(r);
	}
	return found;
}

bool raw_wait(struct raw *r, uint64_t id, struct shm_completion *c, int64_t ms)
{
	int64_t end = wait_clock_ms() + ms;
	bool found;

	while (!(found = take_final(r, id, c)) && wait_clock_ms() < end &&
		get(&r->broker->closed) == 0) {
		struct pollfd p = {.fd = r->sock, .events = POLLIN};

		put(&r->worker->sleeping, (uint32_t)CHAN_SLEEP_SOCKET);
		full_fence();
		if (observe(&r->broker->comp_tail) == r->head && poll(&p, 1, 20) > 0) {
			char byte[64];

			(void)!recv(r->sock, byte, sizeof(byte), MSG_DONTWAIT);
		}
		put(&r->worker->sleeping, (uint32_t)CHAN_AWAKE);
	}
	return found || take_final(r, id, c);
}

uint32_t raw_evicted(const struct raw *r, int64_t ms)
{
	(void)wait_until(get(&r->broker->closed) != 0, ms);
	return observe(&r->broker->closed);
}

int raw_run(struct raw *r, const char *sql, int64_t ms)
{
	struct shm_completion c;
	uint64_t id = raw_exec(r, sql, 0, 0);

	raw_publish(r);
	return raw_wait(r, id, &c, ms) ? c.kind : 0;
}
