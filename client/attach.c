/* SPDX-License-Identifier: MIT */
/* attach.c - see attach.h.  Sources: unix(7), cmsg(3), madvise(2). */
#include "attach.h"

#include "crashpoint.h"
#include "doorbell.h"
#include "segment.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define REPLY_FDS 4 /* S, W, B, eventfd */
#define REPLY_FDS_ROOM 16 /* more than that is cut and refused */
#define RETRY_NS UINT64_C(5000000) /* while the broker's backlog is full */

struct reply_fds {
	int fd[REPLY_FDS_ROOM];
	unsigned n;
};

/* Milliseconds for poll until the deadline, rounded up; 0 when it has passed. */
static int left_ms(uint64_t deadline_ns)
{
	uint64_t now = doorbell_now();

	if (now >= deadline_ns) {
		return 0;
	}
	now = (deadline_ns - now + 999999) / 1000000;
	return now > 60000 ? 60000 : (int)now;
}

/* 0, or BROKER_E_TIMEOUT. */
static int wait_for(int fd, short events, uint64_t deadline_ns, struct errstate *e)
{
	for (;;) {
		struct pollfd p = {.fd = fd, .events = events};
		int ms = left_ms(deadline_ns);

		if (poll(&p, 1, ms) > 0) {
			return 0;
		}
		if (ms == 0) {
			return errstate_verdict(e, BROKER_E_TIMEOUT, BROKER_NOT_DONE, true,
				"the broker did not answer the attach in time");
		}
	}
}

static void close_fds(struct reply_fds *f)
{
	for (unsigned i = 0; i < f->n; i++) {
		close(f->fd[i]);
	}
	f->n = 0;
}

/* -- reply ----------------------------------------------------------------------------------- */

static void take_fds(struct msghdr *m, struct reply_fds *f)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
			continue;
		}
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (f->n < REPLY_FDS_ROOM) {
				f->fd[f->n++] = fd;
			} else {
				close(fd);
			}
		}
	}
}

/* Bytes of the reply, or -1 with errno. */
static ssize_t receive_reply(int sock, struct attach_reply *r, struct reply_fds *f, bool *cut)
{
	alignas(struct cmsghdr) char control[CMSG_SPACE(REPLY_FDS_ROOM * sizeof(int))];
	struct iovec iov = {.iov_base = r, .iov_len = sizeof(*r)};
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	do {
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n >= 0) {
		take_fds(&m, f);
		*cut = (m.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0;
	}
	return n;
}

static int check_reply(const struct attach_reply *r, ssize_t n, const struct reply_fds *f, bool cut,
	struct errstate *e)
{
	if (n <= 0) {
		return errstate_verdict(e, BROKER_E_NOT_FOUND, BROKER_NOT_DONE, true,
			"the broker closed the connection while attaching");
	}
	if ((size_t)n < sizeof(*r) || r->magic != ATTACH_MAGIC || r->major != SHM_MAJOR) {
		return errstate_set(e, BROKER_E_VERSION,
			"the broker speaks another version (this library speaks %d.%d)", SHM_MAJOR,
			SHM_MINOR);
	}
	if (r->code != 0) {
		int code = -(int)r->code;
		bool known = code <= BROKER_E_ARGUMENT && code >= BROKER_E_INTERNAL;

		return errstate_set(
			e, known ? code : BROKER_E_REFUSED, "%.*s", (int)sizeof(r->text), r->text);
	}
	if (cut || f->n != REPLY_FDS) {
		return errstate_set(e, BROKER_E_VERSION,
			"the broker sent %u descriptors, expected %d", f->n, REPLY_FDS);
	}
	return 0;
}

/* -- mapping --------------------------------------------------------------------------------- */

static int map_one(int fd, uint32_t role, struct attach_map *m, struct errstate *e)
{
	int err = segment_attach(fd, role, role == SHM_ROLE_WORKER, &m->at, &m->len);

	if (err == -ENOMEM) {
		return errstate_set(e, BROKER_E_MEMORY, "no memory to map a segment");
	}
	if (err < 0) {
		errno = -err;
		return errstate_set(e, BROKER_E_VERSION, "cannot use the broker's segments: %m");
	}
	(void)madvise(m->at, m->len, MADV_DONTFORK); /* a child must not write into our W */
	return 0;
}

static int map_all(const struct reply_fds *f, struct attachment *a, struct errstate *e)
{
	const struct shm_header *w, *b;
	int rc = map_one(f->fd[0], SHM_ROLE_BOARD, &a->s, e);

	if (rc == 0) {
		rc = map_one(f->fd[1], SHM_ROLE_WORKER, &a->w, e);
	}
	if (rc == 0) {
		rc = map_one(f->fd[2], SHM_ROLE_BROKER, &a->b, e);
	}
	if (rc < 0) {
		return rc;
	}
	w = a->w.at;
	b = a->b.at;
	if (w->incarnation != a->reply.incarnation || b->incarnation != a->reply.incarnation) {
		return errstate_set(
			e, BROKER_E_VERSION, "the broker sent segments of another attach");
	}
	return 0;
}

/* -- handshake ------------------------------------------------------------------------------- */

static void fill_hello(const struct attach_options *opt, struct attach_hello *h)
{
	*h = (struct attach_hello){
		.magic = ATTACH_MAGIC,
		.major = SHM_MAJOR,
		.minor = SHM_MINOR,
		.kind = ATTACH_WORKER,
		.result_kib = opt->result_kib,
	};
	snprintf(h->name, sizeof(h->name), "%s",
		opt->name != NULL ? opt->name : program_invocation_short_name);
	snprintf(h->pool, sizeof(h->pool), "%s", opt->pool != NULL ? opt->pool : "");
}

/* One message, with a descriptor unless pass is -1.  0, -1 with errno, or BROKER_E_TIMEOUT. */
static int send_message(
	int sock, const void *data, size_t len, int pass, uint64_t deadline_ns, struct errstate *e)
{
	alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (pass >= 0) {
		struct cmsghdr *c;

		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &pass, sizeof(pass));
	}
	for (;;) {
		if (sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
			return 0;
		}
		if (errno == EAGAIN) {
			int rc = wait_for(sock, POLLOUT, deadline_ns, e);

			if (rc < 0) {
				return rc;
			}
		} else if (errno != EINTR) {
			return -1;
		}
	}
}

static int gone(struct errstate *e)
{
	return errstate_verdict(e, BROKER_E_NOT_FOUND, BROKER_NOT_DONE, true,
		"the broker went away while attaching: %m");
}

/* From the hello that was sent to segments that are mapped and announced.  Takes over sock. */
static int finish(int sock, uint64_t deadline_ns, struct attachment *a, struct errstate *e)
{
	const struct attach_ready ready = {.magic = ATTACH_MAGIC};
	struct reply_fds fds = {.n = 0};
	bool cut = false;
	ssize_t n;
	int rc;

	*a = (struct attachment){.sock = sock, .bell = -1};
	rc = wait_for(sock, POLLIN, deadline_ns, e);
	if (rc < 0) {
		goto err;
	}
	n = receive_reply(sock, &a->reply, &fds, &cut);
	rc = check_reply(&a->reply, n, &fds, cut, e);
	if (rc < 0) {
		goto err;
	}
	CRASHPOINT(ATTACH_REPLY);
	rc = map_all(&fds, a, e);
	if (rc < 0) {
		goto err;
	}
	CRASHPOINT(ATTACH_MAPPED);
	rc = send_message(sock, &ready, sizeof(ready), -1, deadline_ns, e);
	if (rc < 0) {
		rc = rc == -1 ? gone(e) : rc;
		goto err;
	}
	CRASHPOINT(ATTACH_READY);
	a->bell = fds.fd[3];
	fds.n = 3;
	close_fds(&fds);
	return 0;
err:
	close_fds(&fds);
	attach_close(a);
	return rc;
}

void attach_close(struct attachment *a)
{
	segment_unmap(a->w.at, a->w.len);
	segment_unmap(a->b.at, a->b.len);
	segment_unmap(a->s.at, a->s.len);
	if (a->sock >= 0) {
		close(a->sock);
	}
	if (a->bell >= 0) {
		close(a->bell);
	}
	*a = (struct attachment){.sock = -1, .bell = -1};
}

/* -- by path --------------------------------------------------------------------------------- */

static void nap(uint64_t ns)
{
	struct timespec ts = {.tv_nsec = (long)ns};

	nanosleep(&ts, NULL);
}

static int connect_error(const char *path, struct errstate *e)
{
	if (errno == EACCES || errno == EPERM) {
		return errstate_set(e, BROKER_E_REFUSED, "%s: %m", path);
	}
	return errstate_verdict(e, BROKER_E_NOT_FOUND, BROKER_NOT_DONE, true, "%s: %m", path);
}

/* The address of a path.  A relative one is looked up in dir, if that leaves it short enough. */
static int make_address(
	const char *path, const char *dir, struct sockaddr_un *sa, struct errstate *e)
{
	size_t room = sizeof(sa->sun_path);
	bool joined = path[0] != '/' && dir != NULL && strlen(dir) + 1 + strlen(path) < room;

	*sa = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!joined && strlen(path) >= room) {
		return errstate_set(
			e, BROKER_E_ARGUMENT, "%s: longer than a socket path may be", path);
	}
	snprintf(sa->sun_path, room, "%s%s%s", joined ? dir : "", joined ? "/" : "", path);
	return 0;
}

/* Connected non-blocking socket, or a BROKER_E_ code. */
static int connect_path(const char *path, const char *dir, uint64_t deadline_ns, struct errstate *e)
{
	struct sockaddr_un sa;
	int sock, rc = make_address(path, dir, &sa, e);

	if (rc < 0) {
		return rc;
	}
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0) {
		return errstate_set(e, BROKER_E_MEMORY, "no socket: %m");
	}
	while (connect(sock, (const struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno != EAGAIN && errno != EINTR) {
			rc = connect_error(path, e);
			close(sock);
			return rc;
		}
		if (left_ms(deadline_ns) == 0) {
			close(sock);
			return errstate_verdict(e, BROKER_E_TIMEOUT, BROKER_NOT_DONE, true,
				"%s: the broker does not accept", path);
		}
		nap(RETRY_NS);
	}
	return sock;
}

static int attach_path(const struct attach_options *opt, const char *path, uint64_t deadline_ns,
	struct attachment *out, struct errstate *e)
{
	struct attach_hello hello;
	int rc, sock;

	CRASHPOINT(ATTACH_SOCKET);
	sock = connect_path(path, opt->dir, deadline_ns, e);
	if (sock < 0) {
		return sock;
	}
	CRASHPOINT(ATTACH_HELLO);
	fill_hello(opt, &hello);
	rc = send_message(sock, &hello, sizeof(hello), -1, deadline_ns, e);
	if (rc < 0) {
		rc = rc == -1 ? gone(e) : rc;
		close(sock);
		return rc;
	}
	CRASHPOINT(ATTACH_SENT);
	return finish(sock, deadline_ns, out, e);
}

/* -- by an inherited descriptor -------------------------------------------------------------- */

/* A whole decimal number from the environment, or -1. */
static long env_number(const char *name)
{
	const char *s = getenv(name);
	char *end;
	long n;

	if (s == NULL || *s < '0' || *s > '9') {
		return -1;
	}
	n = strtol(s, &end, 10);
	return *end == '\0' ? n : -1;
}

/*
 * BROKER_FD, if it is what it says: the environment may have reached a process in which that number
 * is another file.  -1 if not.
 */
static int inherited_fd(void)
{
	long fd = env_number("BROKER_FD"), pid = env_number("BROKER_PID");
	socklen_t len = sizeof(int);
	struct ucred peer;
	int type, domain;

	if (fd < 0 || fd > INT32_MAX || pid <= 0 ||
		getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
		type != SOCK_SEQPACKET) {
		return -1;
	}
	len = sizeof(domain);
	if (getsockopt((int)fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX) {
		return -1;
	}
	len = sizeof(peer);
	if (getsockopt((int)fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid != pid) {
		return -1;
	}
	return (int)fd;
}

static int attach_inherited(const struct attach_options *opt, int fd, uint64_t deadline_ns,
	struct attachment *out, struct errstate *e)
{
	struct attach_hello hello;
	int pair[2], rc;

	CRASHPOINT(ATTACH_SOCKET);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		return errstate_set(e, BROKER_E_MEMORY, "no socket pair: %m");
	}
	CRASHPOINT(ATTACH_HELLO);
	fill_hello(opt, &hello);
	rc = send_message(fd, &hello, sizeof(hello), pair[1], deadline_ns, e);
	close(pair[1]); /* if the broker dies with it unread our end sees the end of file */
	if (rc < 0) {
		rc = rc == -1 ? gone(e) : rc;
		close(pair[0]);
		return rc;
	}
	CRASHPOINT(ATTACH_SENT);
	return finish(pair[0], deadline_ns, out, e);
}

int attach_open(const struct attach_options *opt, uint64_t deadline_ns, struct attachment *out,
	struct errstate *e)
{
	static const char *const places[] = {"./shmbroker.sock", "/run/shmbroker/broker.sock"};
	const char *named = getenv("BROKER_SOCKET");
	int fd, rc;

	if (opt->path != NULL) {
		return attach_path(opt, opt->path, deadline_ns, out, e);
	}
	fd = inherited_fd();
	if (fd >= 0) {
		rc = attach_inherited(opt, fd, deadline_ns, out, e);
		if (rc != BROKER_E_NOT_FOUND) {
			return rc;
		}
	}
	if (named != NULL && named[0] != '\0') {
		return attach_path(opt, named, deadline_ns, out, e);
	}
	for (unsigned i = 0; i < array_size(places); i++) {
		rc = attach_path(opt, places[i], deadline_ns, out, e);
		if (rc != BROKER_E_NOT_FOUND) {
			return rc;
		}
	}
	return errstate_verdict(e, BROKER_E_NOT_FOUND, BROKER_NOT_DONE, true,
		"no broker: BROKER_FD and BROKER_SOCKET name none, none at %s or %s", places[0],
		places[1]);
}
