/* SPDX-License-Identifier: MIT */
/* listener.c - see listener.h.  Sources: unix(7), pidfd_open(2). */
#include "listener.h"

#include "doorbell.h"
#include "io.h"
#include "log.h"
#include "pool.h"
#include "session.h"
#include "shards.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

#define HANDSHAKE_MS 5000u
#define MAX_HALF_OPEN 256u
#define MAX_ALLOWED 64u
#define ACCEPT_BATCH 64
#define NO_FDS_MS 200u /* out of descriptors: look again after this */

struct allowed {
	bool everyone;
	unsigned n;
	uint32_t id[MAX_ALLOWED];
};

struct listener {
	struct io *io;
	uv_poll_t listen, inherited;
	uv_timer_t again; /* active: out of descriptors, not listening */
	bool has_inherited;
	int listen_fd, attach_fd;
	unsigned handles;
	unsigned half_open;
	bool closing;
	struct cds_list_head handshakes;
	struct allowed users, groups;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	bool own_path;
};

/* One attach on its way: waits for hello, then for ready. */
struct handshake {
	struct listener *l;
	int sock;
	uv_poll_t poll;
	uv_timer_t timer;
	unsigned handles;
	struct session *session; /* segments sent, waiting for ready */
	struct cds_list_head link;
};

/* -- who may ----------------------------------------------------------------------------------- */

static bool lookup(const char *name, bool group, uint32_t *id)
{
	char *end;
	unsigned long v = strtoul(name, &end, 10);

	if (*name != '\0' && *end == '\0') {
		*id = (uint32_t)v;
		return true;
	}
	if (group) {
		const struct group *g = getgrnam(name);

		*id = g != NULL ? g->gr_gid : 0;
		return g != NULL;
	}
	const struct passwd *pw = getpwnam(name);

	*id = pw != NULL ? pw->pw_uid : 0;
	return pw != NULL;
}

static int parse_allowed(
	const char *list, bool group, struct allowed *a, char *err, size_t errlen)
{
	char *copy = strdup(list != NULL ? list : ""), *save = NULL;

	if (copy == NULL) {
		return -ENOMEM;
	}
	for (char *p = strtok_r(copy, ", \t", &save); p != NULL;
		p = strtok_r(NULL, ", \t", &save)) {
		if (strcmp(p, "*") == 0) {
			a->everyone = true;
		} else if (a->n == MAX_ALLOWED || !lookup(p, group, &a->id[a->n])) {
			snprintf(err, errlen, "[broker] %s: no such %s: %s",
				group ? "allow_groups" : "allow_users", group ? "group" : "user",
				p);
			free(copy);
			return -EINVAL;
		} else {
			a->n++;
		}
	}
	free(copy);
	return 0;
}

static bool is_listed(const struct allowed *a, uint32_t id)
{
	for (unsigned i = 0; i < a->n; i++) {
		if (a->id[i] == id) {
			return true;
		}
	}
	return false;
}

/* Is one of the peer's supplementary groups listed? */
static bool is_member(const struct allowed *a, int sock)
{
	socklen_t len = 0;
	bool found = false;
	gid_t *g;

	if (a->n == 0 || getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) == 0 ||
		errno != ERANGE) {
		return false; /* it has none */
	}
	g = malloc(len);
	if (g == NULL || getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, g, &len) < 0) {
		free(g);
		return false;
	}
	for (size_t i = 0; i < len / sizeof(*g) && !found; i++) {
		found = is_listed(a, g[i]);
	}
	free(g);
	return found;
}

static bool is_allowed(const struct listener *l, int sock, const struct ucred *peer)
{
	return peer->uid == 0 || peer->uid == geteuid() || l->users.everyone ||
	       l->groups.everyone || is_listed(&l->users, peer->uid) ||
	       is_listed(&l->groups, peer->gid) || is_member(&l->groups, sock);
}

/* -- messages ---------------------------------------------------------------------------------- */

/* Who made a socket pair can switch SO_PASSPIDFD on for our end, too: a pidfd with every
 * message. */
static bool brings_fds(const struct cmsghdr *c)
{
	return c->cmsg_level == SOL_SOCKET &&
	       (c->cmsg_type == SCM_RIGHTS || c->cmsg_type == SCM_PIDFD);
}

void close_passed_fds(struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
		if (brings_fds(c)) {
			size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			for (size_t i = 0; i < n; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
				close(fd);
			}
		}
	}
}

/* The one descriptor of a message; -1 if there is none, or several, which are all closed. */
static int single_fd(struct msghdr *m)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(m);
	int fd;

	if (c == NULL || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
		c->cmsg_len != CMSG_LEN(sizeof(int)) || CMSG_NXTHDR(m, c) != NULL ||
		(m->msg_flags & MSG_CTRUNC)) {
		close_passed_fds(m);
		return -1;
	}
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

/* Receive one message; *fd (may be NULL) gets the descriptor that came along.  Its length, also if
 * it is longer than the buffer. */
static ssize_t receive(int sock, void *buf, size_t size, int *fd)
{
	alignas(struct cmsghdr) char control[CMSG_SPACE(32 * sizeof(int))];
	struct iovec iov = {buf, size};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);

	if (n < 0) {
		return -errno;
	}
	if (fd != NULL) {
		*fd = single_fd(&m);
	} else {
		close_passed_fds(&m);
	}
	return n;
}

static bool send_reply(int sock, const struct attach_reply *r, const int *fds, unsigned nfds)
{
	alignas(struct cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {0};
	struct iovec iov = {(void *)r, sizeof(*r)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds > 0) {
		struct cmsghdr *c;

		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(*r);
}

static void init_reply(struct attach_reply *r)
{
	memset(r, 0, sizeof(*r));
	r->magic = ATTACH_MAGIC;
	r->major = SHM_MAJOR;
	r->minor = SHM_MINOR;
}

/* -- handshake --------------------------------------------------------------------------------- */

static void on_handshake_closed(uv_handle_t *h)
{
	struct handshake *hs = h->data;

	if (--hs->handles == 0) {
		free(hs);
	}
}

static void free_listener_when_idle(struct listener *l)
{
	if (l->closing && l->handles == 0 && l->half_open == 0) {
		free(l);
	}
}

/* keep: the socket lives on in a session. */
static void end_handshake(struct handshake *hs, bool keep)
{
	struct listener *l = hs->l;

	cds_list_del(&hs->link);
	uv_close((uv_handle_t *)&hs->poll, on_handshake_closed);
	uv_close((uv_handle_t *)&hs->timer, on_handshake_closed);
	if (!keep) {
		close(hs->sock);
		shards_unplace(l->io);
	}
	l->half_open--;
	free_listener_when_idle(l);
}

static void refuse(struct handshake *hs, uint32_t code, const char *text, int32_t pid)
{
	struct attach_reply r;

	init_reply(&r);
	r.code = code;
	snprintf(r.text, sizeof(r.text), "%s", text);
	(void)send_reply(hs->sock, &r, NULL, 0);
	log_warning("attach of pid %d refused: %s", pid, text);
	board_count(hs->l->io->board, METRIC_ATTACH_REFUSALS, 1);
	board_event(hs->l->io->board, BOARD_EVENT_REFUSAL, "pid %d: %s", pid, text);
	end_handshake(hs, false);
}

static int peer_pidfd(int sock, int32_t pid)
{
	int fd = -1;
	socklen_t len = sizeof(fd);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0) {
		return fd;
	}
	return (int)syscall(SYS_pidfd_open, pid, 0); /* before Linux 6.5 */
}

static const char *check_peer(
	struct listener *l, int sock, const struct ucred *cred, char *buf, size_t size)
{
	if (l->io->stopping) {
		return "the broker is shutting down";
	}
	if (!is_allowed(l, sock, cred)) {
		snprintf(buf, size, "user %u may not attach; add it to allow_users in [broker]",
			cred->uid);
		return buf;
	}
	return NULL;
}

static void refuse_session(struct handshake *hs, const struct ucred *cred, int err)
{
	const struct config_broker *c = &hs->l->io->config->broker;
	char text[128];

	if (err == -EUSERS) {
		snprintf(text, sizeof(text), "too many workers (max_workers = %lld)",
			(long long)c->max_workers);
	} else if (err == -EDQUOT) {
		snprintf(text, sizeof(text),
			"too many workers of user %u (max_workers_per_uid = %lld)", cred->uid,
			(long long)c->max_workers_per_uid);
	} else {
		snprintf(text, sizeof(text), "cannot create segments: %s", strerror(-err));
	}
	refuse(hs, FAIL_REFUSED, text, cred->pid);
}

static void offer_segments(struct handshake *hs, const struct attach_hello *hello,
	const struct ucred *cred, unsigned pool)
{
	struct io *io = hs->l->io;
	struct session_identity id = {.pid = cred->pid, .uid = cred->uid, .gid = cred->gid};
	uint32_t kib = hello->result_kib != 0 ? hello->result_kib
					      : (uint32_t)io->config->broker.result_kib;
	struct session_fds fds;
	struct attach_reply r;
	bool sent;
	int err;

	memcpy(id.name, hello->name, sizeof(id.name) - 1);
	id.pidfd = peer_pidfd(hs->sock, cred->pid);
	if (id.pidfd < 0) {
		refuse(hs, FAIL_REFUSED, "the worker's process cannot be watched", cred->pid);
		return;
	}
	err = session_create(io, hs->sock, &id, pool, kib, &hs->session, &fds);
	if (err < 0) {
		close(id.pidfd);
		refuse_session(hs, cred, err);
		return;
	}
	init_reply(&r);
	r.npools = io->npools;
	r.pool = pool;
	r.worker_slot = session_slot(hs->session);
	r.incarnation = session_incarnation(hs->session);
	r.max_request = (uint64_t)io->config->broker.max_request;
	r.default_timeout_ms = (uint64_t)io->config->broker.default_timeout;
	int pass[4] = {board_fd(io->board), fds.w, fds.b, fds.bell};

	sent = send_reply(hs->sock, &r, pass, 4);
	close(fds.w);
	close(fds.b);
	if (!sent) {
		struct session *s = hs->session;

		end_handshake(hs, true);
		session_end(s, "gone while attaching");
	}
}

static void handle_hello(
	struct handshake *hs, struct attach_hello *h, ssize_t len, const struct ucred *cred)
{
	char buf[128];
	const char *why;
	int pool = 0;

	if (len != (ssize_t)sizeof(*h) || h->magic != ATTACH_MAGIC || h->kind != ATTACH_WORKER) {
		refuse(hs, FAIL_PROTOCOL, "not an attach message", cred->pid);
		return;
	}
	if (h->major != SHM_MAJOR) {
		snprintf(buf, sizeof(buf), "the library speaks format %u, the broker %u", h->major,
			SHM_MAJOR);
		refuse(hs, FAIL_VERSION, buf, cred->pid);
		return;
	}
	h->name[sizeof(h->name) - 1] = h->pool[sizeof(h->pool) - 1] = '\0';
	why = check_peer(hs->l, hs->sock, cred, buf, sizeof(buf));
	if (why == NULL && h->pool[0] != '\0') {
		pool = config_pool_index(hs->l->io->config, h->pool);
		why = pool < 0 ? "there is no pool of that name" : NULL;
	}
	if (why != NULL) {
		refuse(hs, FAIL_REFUSED, why, cred->pid);
		return;
	}
	offer_segments(hs, h, cred, (unsigned)pool);
}

static void on_hello(struct handshake *hs)
{
	struct attach_hello h;
	struct ucred cred = {0};
	socklen_t len = sizeof(cred);
	ssize_t n = receive(hs->sock, &h, sizeof(h), NULL);

	if (n == -EAGAIN || n == -EINTR) {
		return;
	}
	if (n <= 0 || getsockopt(hs->sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0) {
		end_handshake(hs, false);
		return;
	}
	handle_hello(hs, &h, n, &cred);
}

static void on_ready_message(struct handshake *hs)
{
	struct session *s = hs->session;
	struct attach_ready ready;
	ssize_t n = receive(hs->sock, &ready, sizeof(ready), NULL);

	if (n == -EAGAIN || n == -EINTR) {
		return;
	}
	end_handshake(hs, true); /* before the session polls the same descriptor */
	if (n == (ssize_t)sizeof(ready) && ready.magic == ATTACH_MAGIC) {
		session_ready(s);
	} else {
		session_end(s, "gone while attaching");
	}
}

static void on_handshake(uv_poll_t *p, int status, int events)
{
	struct handshake *hs = p->data;

	(void)status;
	(void)events;
	if (hs->session == NULL) {
		on_hello(hs);
	} else {
		on_ready_message(hs);
	}
}

static void on_handshake_timeout(uv_timer_t *t)
{
	struct handshake *hs = t->data;
	struct session *s = hs->session;

	end_handshake(hs, s != NULL);
	if (s != NULL) {
		session_end(s, "took too long to attach");
	}
}

/* Takes sock over.  Whoever is slowest makes room: a worker that means it is through in no time. */
static struct handshake *begin_handshake(struct listener *l, int sock)
{
	struct handshake *hs;

	if (l->half_open >= MAX_HALF_OPEN) {
		hs = cds_list_first_entry(&l->handshakes, struct handshake, link);
		on_handshake_timeout(&hs->timer);
	}
	hs = calloc(1, sizeof(*hs));
	if (hs == NULL || uv_poll_init(&l->io->loop, &hs->poll, sock) < 0) {
		close(sock);
		free(hs);
		shards_unplace(l->io);
		return NULL;
	}
	hs->l = l;
	hs->sock = sock;
	hs->poll.data = hs->timer.data = hs;
	uv_timer_init(&l->io->loop, &hs->timer);
	hs->handles = 2;
	l->half_open++;
	cds_list_add_tail(&hs->link, &l->handshakes);
	uv_timer_start(&hs->timer, on_handshake_timeout, HANDSHAKE_MS, 0);
	uv_poll_start(&hs->poll, UV_READABLE, on_handshake);
	return hs;
}

/* -- which I/O thread -------------------------------------------------------------------------- */

/* Somebody at the door, on the way to the I/O thread that will serve him. */
struct caller {
	struct mail mail;
	int sock;
	bool said_hello; /* it came along with the socket */
	struct attach_hello hello;
	ssize_t len;
	struct ucred cred;
};

static void let_in(struct listener *l, const struct caller *c)
{
	struct handshake *hs = begin_handshake(l, c->sock);

	if (hs != NULL && c->said_hello) {
		struct attach_hello h = c->hello;

		handle_hello(hs, &h, c->len, &c->cred);
	}
}

static void deliver_caller(struct io *io, struct mail *m)
{
	struct caller *c = container_of(m, struct caller, mail);

	if (io->listener == NULL) { /* closed meanwhile */
		close(c->sock);
		shards_unplace(io);
	} else {
		let_in(io->listener, c);
	}
	free(c);
}

/* To the I/O thread that has the fewest, for good. */
static void usher(struct listener *l, const struct caller *c)
{
	struct io *to = shards_place(l->io);
	struct caller *copy;

	if (to == l->io) {
		let_in(l, c);
		return;
	}
	copy = malloc(sizeof(*copy));
	if (copy == NULL) {
		close(c->sock);
		shards_unplace(to);
		return;
	}
	*copy = *c;
	copy->mail.deliver = deliver_caller;
	shards_post(to, &copy->mail);
}

/* -- sockets ----------------------------------------------------------------------------------- */

static void on_listen(uv_poll_t *p, int status, int events);

static void on_again(uv_timer_t *t)
{
	struct listener *l = t->data;

	uv_poll_start(&l->listen, UV_READABLE, on_listen);
}

/* The socket stays readable: do not look at it again at once. */
static void out_of_fds(struct listener *l)
{
	log_warning("out of file descriptors: attaches have to wait");
	uv_poll_stop(&l->listen);
	uv_timer_start(&l->again, on_again, NO_FDS_MS, 0);
}

static void on_listen(uv_poll_t *p, int status, int events)
{
	struct listener *l = p->data;

	(void)status;
	(void)events;
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int sock = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (sock < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
				out_of_fds(l);
			}
			return;
		}
		usher(l, &(struct caller){.sock = sock});
	}
}

/* A descriptor from a stranger: only a SOCK_SEQPACKET Unix socket will do. */
static bool is_seqpacket(int fd)
{
	int type = 0, domain = 0;
	socklen_t len = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET &&
	       getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

/* Nothing was received: is that the end, or an empty message? */
static bool hung_up(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0;
}

/* A hello that brings the worker's own socket along. */
static void on_inherited(uv_poll_t *p, int status, int events)
{
	struct listener *l = p->data;

	(void)status;
	(void)events;
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		struct caller c = {.sock = -1, .said_hello = true};
		socklen_t len = sizeof(c.cred);

		c.len = receive(l->attach_fd, &c.hello, sizeof(c.hello), &c.sock);
		if (c.len < 0) {
			return;
		}
		if (c.len == 0 && c.sock < 0 && hung_up(l->attach_fd)) {
			/* nobody holds the other end */
			uv_poll_stop(p);
			return;
		}
		if (c.sock < 0) {
			continue;
		}
		if (!is_seqpacket(c.sock) ||
			getsockopt(c.sock, SOL_SOCKET, SO_PEERCRED, &c.cred, &len) < 0) {
			close(c.sock);
			continue;
		}
		usher(l, &c);
	}
}

static int bind_socket(const char *path, int mode, char *err, size_t errlen)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t old;
	int rc;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		snprintf(err, errlen, "[broker] socket: path is longer than %zu bytes: %s",
			sizeof(addr.sun_path) - 1, path);
		goto err_fd;
	}
	if (fd < 0) {
		snprintf(err, errlen, "socket: %s", strerror(errno));
		return -1;
	}
	strcpy(addr.sun_path, path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
		snprintf(err, errlen,
			"another broker listens on %s; stop it, or set another socket in "
			"[broker]",
			path);
		goto err_fd;
	}
	if (errno == ECONNREFUSED) { /* left behind by one that died */
		unlink(path);
	}
	old = umask((mode_t)(0777 & ~mode));
	rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
	umask(old);
	if (rc < 0 || listen(fd, 1024) < 0) {
		snprintf(err, errlen, "cannot listen on %s: %s", path, strerror(errno));
		goto err_fd;
	}
	return fd;
err_fd:
	if (fd >= 0) {
		close(fd);
	}
	return -1;
}

static void watch(struct listener *l, uv_poll_t *p, int fd, uv_poll_cb cb)
{
	uv_poll_init(&l->io->loop, p, fd);
	p->data = l;
	uv_poll_start(p, UV_READABLE, cb);
	l->handles++;
}

/* One that listens to nothing: for I/O threads whose sessions come by mail. */
static int create(struct io *io, struct listener **out, char *err, size_t errlen)
{
	struct listener *l = calloc(1, sizeof(*l));

	if (l == NULL) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	l->io = io;
	l->listen_fd = l->attach_fd = -1;
	CDS_INIT_LIST_HEAD(&l->handshakes);
	if (parse_allowed(io->config->broker.allow_users, false, &l->users, err, errlen) < 0 ||
		parse_allowed(io->config->broker.allow_groups, true, &l->groups, err, errlen) < 0) {
		free(l);
		return -EINVAL;
	}
	*out = l;
	return 0;
}

static int listen_to(struct listener *l, const char *path, int mode, int listen_fd, int attach_fd,
	char *err, size_t errlen)
{
	l->listen_fd = listen_fd;
	l->attach_fd = attach_fd;
	if (listen_fd < 0) {
		l->listen_fd = bind_socket(path, mode, err, errlen);
		if (l->listen_fd < 0) {
			return -EADDRINUSE;
		}
		l->own_path = true;
		snprintf(l->path, sizeof(l->path), "%s", path);
	}
	uv_timer_init(&l->io->loop, &l->again);
	l->again.data = l;
	l->handles++;
	watch(l, &l->listen, l->listen_fd, on_listen);
	if (attach_fd >= 0) {
		l->has_inherited = true;
		watch(l, &l->inherited, attach_fd, on_inherited);
	}
	return 0;
}

int listener_create(struct io *io, const char *path, int mode, int listen_fd, int attach_fd,
	char *err, size_t errlen)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < shards_count(io); i++) {
		struct io *x = shards_at(io, i);

		rc = create(x, &x->listener, err, errlen);
	}
	if (rc == 0) {
		rc = listen_to(io->listener, path, mode, listen_fd, attach_fd, err, errlen);
	}
	if (rc < 0) {
		listener_destroy(io);
	}
	return rc;
}

static void on_listener_closed(uv_handle_t *h)
{
	struct listener *l = h->data;

	l->handles--;
	free_listener_when_idle(l);
}

static void stop_listening(struct listener *l)
{
	uv_close((uv_handle_t *)&l->listen, on_listener_closed);
	uv_close((uv_handle_t *)&l->again, on_listener_closed);
	if (l->has_inherited) {
		uv_close((uv_handle_t *)&l->inherited, on_listener_closed);
	}
	close(l->listen_fd);
	if (l->own_path) {
		unlink(l->path);
	}
}

static void destroy(struct io *io)
{
	struct listener *l = io->listener;

	if (l == NULL) {
		return;
	}
	io->listener = NULL;
	if (l->listen_fd >= 0) {
		stop_listening(l);
	}
	l->half_open++; /* keeps l while the handshakes end */
	while (!cds_list_empty(&l->handshakes)) {
		struct handshake *hs =
			cds_list_first_entry(&l->handshakes, struct handshake, link);

		on_handshake_timeout(&hs->timer);
	}
	l->half_open--;
	l->closing = true;
	free_listener_when_idle(l);
}

void listener_destroy(struct io *io)
{
	for (unsigned i = 0; i < shards_count(io); i++) {
		destroy(shards_at(io, i));
	}
}
