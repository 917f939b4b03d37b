/* SPDX-License-Identifier: MIT */
/*
 * proxy.c - see proxy.h.
 *
 * The child runs a poll loop.  What to do is in memory shared with the test: the test raises
 * `wanted`, wakes the child through a pipe, and waits until `done` is the same.
 */
#include "proxy.h"

#include "scratch.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define LINKS_MAX 256
#define BUFFER 16384

struct orders {
	_Atomic int mode;
	_Atomic unsigned cuts; /* asked for so far */
	_Atomic unsigned wanted, done;
	_Atomic unsigned accepted, open;
};

struct proxy {
	struct orders *orders;
	pid_t pid;
	int wake; /* write end */
	int port;
};

/* One direction of a connection. */
struct flow {
	int from, to;
	size_t at, len;
	bool ended; /* `from` sends no more */
	char data[BUFFER];
};

struct link {
	bool used;
	struct flow out, back; /* client to server, server to client */
};

/* The child's. */
struct relay {
	struct orders *orders;
	struct sockaddr_storage to;
	socklen_t tolen;
	struct sockaddr_in at; /* where it listens */
	int wake, listener;
	unsigned cuts;
	struct link link[LINKS_MAX];
};

/* -- connections ------------------------------------------------------------------------------- */

static void close_link(struct relay *r, struct link *l, bool reset)
{
	struct linger at_once = {.l_onoff = 1};

	if (reset) {
		(void)setsockopt(l->out.from, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	}
	close(l->out.from);
	close(l->out.to);
	l->used = false;
	atomic_fetch_sub(&r->orders->open, 1);
}

static void reset_all(struct relay *r)
{
	for (unsigned i = 0; i < LINKS_MAX; i++) {
		if (r->link[i].used) {
			close_link(r, &r->link[i], true);
		}
	}
}

static int connect_server(const struct relay *r)
{
	int fd = socket(r->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)&r->to, r->tolen) < 0 &&
		errno != EINPROGRESS) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void prepare_socket(int fd)
{
	int on = 1;

	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* or a Unix socket: no */
}

/* A server that is not there: the client is reset. */
static void accept_one(struct relay *r)
{
	int client = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC);
	struct link *l = r->link;
	int server;

	if (client < 0) {
		return;
	}
	while (l < r->link + LINKS_MAX && l->used) {
		l++;
	}
	server = l < r->link + LINKS_MAX ? connect_server(r) : -1;
	if (server < 0) {
		struct linger at_once = {.l_onoff = 1};

		(void)setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		close(client);
		return;
	}
	prepare_socket(client);
	prepare_socket(server);
	memset(l, 0, sizeof(*l));
	l->used = true;
	l->out.from = l->back.to = client;
	l->out.to = l->back.from = server;
	atomic_fetch_add(&r->orders->open, 1);
	atomic_fetch_add(&r->orders->accepted, 1);
}

/* -- data -------------------------------------------------------------------------------------- */

/* Events that this direction waits for, on `from` and on `to`. */
static short wants_input(const struct flow *f)
{
	return f->len == 0 && !f->ended ? POLLIN : 0;
}

static short wants_output(const struct flow *f)
{
	return f->len > 0 ? POLLOUT : 0;
}

/* False: the connection is broken. */
static bool move(struct flow *f)
{
	ssize_t n;

	if (f->len == 0 && !f->ended) {
		n = recv(f->from, f->data, sizeof(f->data), 0);
		if (n < 0) {
			return errno == EAGAIN || errno == EINTR;
		}
		f->ended = n == 0;
		f->at = 0;
		f->len = (size_t)n;
		if (n == 0) {
			(void)shutdown(f->to, SHUT_WR);
		}
	}
	while (f->len > 0) {
		n = send(f->to, f->data + f->at, f->len, MSG_NOSIGNAL);
		if (n < 0) {
			return errno == EAGAIN || errno == EINTR;
		}
		f->at += (size_t)n;
		f->len -= (size_t)n;
	}
	return true;
}

/* May data pass this way now? */
static bool passes(int mode, bool back)
{
	return mode == PROXY_FORWARD || mode == PROXY_REFUSE || (mode == PROXY_MUTE && !back);
}

static void serve(struct relay *r, struct link *l, int mode)
{
	bool good =
		(!passes(mode, false) || move(&l->out)) && (!passes(mode, true) || move(&l->back));

	if (!good || (l->out.ended && l->back.ended && l->out.len + l->back.len == 0)) {
		close_link(r, l, !good);
	}
}

/* -- orders ------------------------------------------------------------------------------------ */

/* The port stays ours while nobody listens: another socket is bound to it as well. */
static void listen_again(struct relay *r)
{
	int on = 1;

	r->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	(void)setsockopt(r->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	(void)setsockopt(r->listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	if (bind(r->listener, (struct sockaddr *)&r->at, sizeof(r->at)) < 0 ||
		listen(r->listener, 128) < 0) {
		_exit(3);
	}
}

static void obey(struct relay *r)
{
	unsigned wanted = atomic_load(&r->orders->wanted);
	unsigned cuts = atomic_load(&r->orders->cuts);
	int mode = atomic_load(&r->orders->mode);
	char drain[64];

	while (read(r->wake, drain, sizeof(drain)) > 0) {
	}
	if (mode == PROXY_RESET || cuts != r->cuts) {
		reset_all(r);
		r->cuts = cuts;
	}
	if (mode == PROXY_REFUSE && r->listener >= 0) {
		close(r->listener);
		r->listener = -1;
	} else if (mode != PROXY_REFUSE && r->listener < 0) {
		listen_again(r);
	}
	atomic_store(&r->orders->done, wanted);
}

/* Accepted and reset at once; a stalled network accepts nothing, the kernel does it for us. */
static void welcome(struct relay *r, int mode)
{
	if (mode == PROXY_RESET) {
		int fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC);
		struct linger at_once = {.l_onoff = 1};

		if (fd >= 0) {
			(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
			close(fd);
		}
	} else {
		accept_one(r);
	}
}

static unsigned watch(struct relay *r, int mode, struct pollfd *fds)
{
	unsigned n = 2;

	fds[0] = (struct pollfd){.fd = r->wake, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = mode == PROXY_STALL ? -1 : r->listener, .events = POLLIN};
	for (unsigned i = 0; i < LINKS_MAX; i++) {
		struct link *l = &r->link[i];
		bool out = l->used && passes(mode, false), back = l->used && passes(mode, true);
		short client = (short)((out ? wants_input(&l->out) : 0) |
				       (back ? wants_output(&l->back) : 0));
		short server = (short)((out ? wants_output(&l->out) : 0) |
				       (back ? wants_input(&l->back) : 0));

		fds[n++] = (struct pollfd){.fd = client ? l->out.from : -1, .events = client};
		fds[n++] = (struct pollfd){.fd = server ? l->out.to : -1, .events = server};
	}
	return n;
}

static _Noreturn void run(struct relay *r)
{
	static struct pollfd fds[2 + 2 * LINKS_MAX];

	for (;;) {
		int mode = atomic_load(&r->orders->mode);
		unsigned n = watch(r, mode, fds);

		if (poll(fds, n, -1) < 0 && errno != EINTR) {
			_exit(2);
		}
		for (unsigned i = 0; i < LINKS_MAX; i++) {
			if (fds[2 + 2 * i].revents != 0 || fds[3 + 2 * i].revents != 0) {
				serve(r, &r->link[i], mode);
			}
		}
		if (fds[1].revents != 0) {
			welcome(r, mode);
		}
		if (fds[0].revents != 0) {
			obey(r);
		}
	}
}

/* -- the test's side --------------------------------------------------------------------------- */

static void resolve(struct relay *r, const char *to)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&r->to;
	struct sockaddr_in *in = (struct sockaddr_in *)&r->to;
	const char *colon = strrchr(to, ':');
	char host[64] = "";

	if (to[0] == '/' && strlen(to) < sizeof(un->sun_path)) {
		un->sun_family = AF_UNIX;
		memcpy(un->sun_path, to, strlen(to) + 1);
		r->tolen = sizeof(*un);
		return;
	}
	if (colon != NULL && (size_t)(colon - to) < sizeof(host)) {
		memcpy(host, to, (size_t)(colon - to));
	}
	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)(colon != NULL ? atoi(colon + 1) : 0));
	r->tolen = sizeof(*in);
	if (inet_pton(AF_INET, host, &in->sin_addr) != 1) {
		bail_out("a proxy to %s", to);
	}
}

static int reserve_port(struct relay *r)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(r->at);
	int on = 1;

	r->at.sin_family = AF_INET;
	r->at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&r->at, sizeof(r->at)) < 0 ||
		getsockname(fd, (struct sockaddr *)&r->at, &len) < 0) {
		bail_out("no port: %s", strerror(errno));
	}
	return fd;
}

/* Of the test's descriptors: or a connection that the test closes would stay open. */
static void keep_two(int a, int b)
{
	unsigned low = (unsigned)(a < b ? a : b), high = (unsigned)(a < b ? b : a);

	if (low > 3) {
		(void)syscall(SYS_close_range, 3, low - 1, 0);
	}
	if (high > low + 1) {
		(void)syscall(SYS_close_range, low + 1, high - 1, 0);
	}
	(void)syscall(SYS_close_range, high + 1, ~0u, 0);
}

struct proxy *proxy_start(const char *to)
{
	struct proxy *p = calloc(1, sizeof(*p));
	struct relay *r = calloc(1, sizeof(*r));
	int reserved, wake[2];

	if (p == NULL || r == NULL || pipe2(wake, O_CLOEXEC | O_NONBLOCK) < 0) {
		bail_out("no proxy: %s", strerror(errno));
	}
	p->orders = mmap(NULL, sizeof(*p->orders), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p->orders == MAP_FAILED) {
		bail_out("mmap: %s", strerror(errno));
	}
	(void)scratch_dir();
	resolve(r, to);
	reserved = reserve_port(r);
	r->orders = p->orders;
	r->wake = wake[0];
	p->wake = wake[1];
	p->port = ntohs(r->at.sin_port);
	p->pid = spawn_fork();
	if (p->pid == 0) {
		keep_two(reserved, wake[0]);
		listen_again(r);
		run(r); /* `reserved` stays open */
	}
	close(reserved);
	close(wake[0]);
	free(r);
	proxy_set(p, PROXY_FORWARD);
	return p;
}

static void wait_done(struct proxy *p)
{
	unsigned wanted = atomic_fetch_add(&p->orders->wanted, 1) + 1;

	if (write(p->wake, "", 1) < 0 ||
		!wait_until(
			atomic_load(&p->orders->done) == wanted || spawn_ended(p->pid), 30000) ||
		atomic_load(&p->orders->done) != wanted) {
		bail_out("the proxy does not obey");
	}
}

void proxy_set(struct proxy *p, enum proxy_mode mode)
{
	atomic_store(&p->orders->mode, (int)mode);
	wait_done(p);
}

void proxy_cut(struct proxy *p)
{
	atomic_fetch_add(&p->orders->cuts, 1);
	wait_done(p);
}

const char *proxy_host(const struct proxy *p)
{
	return "127.0.0.1";
}

int proxy_port(const struct proxy *p)
{
	return p->port;
}

unsigned proxy_accepted(const struct proxy *p)
{
	return atomic_load(&p->orders->accepted);
}

unsigned proxy_open(const struct proxy *p)
{
	return atomic_load(&p->orders->open);
}

void proxy_stop(struct proxy **pp)
{
	struct proxy *p = *pp;

	if (p == NULL) {
		return;
	}
	(void)kill(p->pid, SIGKILL);
	(void)spawn_wait(p->pid, 10000, NULL);
	close(p->wake);
	(void)munmap(p->orders, sizeof(*p->orders));
	free(p);
	*pp = NULL;
}
