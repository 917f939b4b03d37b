/* SPDX-License-Identifier: MIT */
/* exporter_http.c - see exporter_http.h. */
#include "exporter_http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IDLE_SECONDS 15u
#define CROWDED_SECONDS 2u
#define ANSWER_SECONDS 60u
#define CONNECTION_MEMORY 16384u
#define STREAM_BLOCK 16384u

/* Shared by the streams that are sending it; one thread, so plain counting does. */
struct message {
	unsigned refs;
	uint64_t number;
	size_t len;
	char text[];
};

struct stream {
	struct http_server *server;
	struct MHD_Connection *conn;
	struct stream *next, **link;
	struct message *message; /* being sent, or NULL */
	size_t sent; /* bytes of it */
	uint64_t number; /* of the last one taken */
	bool suspended;
};

enum phase { AWAITED, ANSWERED, STREAMED }; /* the request, its answer, an answer without end */

struct client {
	struct MHD_Connection *conn;
	struct client *next, **link;
	enum phase phase;
	uint64_t since; /* of the phase, in seconds */
};

struct http_server {
	struct MHD_Daemon *daemon;
	struct http_calls calls;
	char url[96];
	bool loopback;
	bool closing;
	unsigned nclients;
	struct client *clients;
	unsigned nstreams;
	struct stream *streams;
	struct message *latest;
	uint64_t number;
};

struct http_request {
	struct MHD_Connection *conn;
	const char *path;
};

const char *http_path(const struct http_request *req)
{
	return req->path;
}

const char *http_header(const struct http_request *req, const char *name)
{
	return MHD_lookup_connection_value(req->conn, MHD_HEADER_KIND, name);
}

const char *http_query(const struct http_request *req, const char *name)
{
	return MHD_lookup_connection_value(req->conn, MHD_GET_ARGUMENT_KIND, name);
}

/* ------------------------------------------------------------------------------------------------
 * Clients, from accepting them to closing their sockets
 */

static uint64_t clock_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec;
}

static void client_add(struct http_server *h, struct MHD_Connection *conn, void **context)
{
	struct client *c = calloc(1, sizeof(*c));

	*context = c;
	if (c == NULL) {
		return; /* libmicrohttpd's own limit has to do */
	}
	*c = (struct client){
		.conn = conn, .next = h->clients, .link = &h->clients, .since = clock_seconds()};
	if (c->next != NULL) {
		c->next->link = &c->next;
	}
	h->clients = c;
	h->nclients++;
}

static void client_remove(struct http_server *h, struct client *c)
{
	if (c == NULL) {
		return;
	}
	*c->link = c->next;
	if (c->next != NULL) {
		c->next->link = c->link;
	}
	h->nclients--;
	free(c);
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **context,
	enum MHD_ConnectionNotificationCode what)
{
	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		client_add(cls, conn, context);
	} else {
		client_remove(cls, *context);
		*context = NULL;
	}
}

static void client_enter(struct MHD_Connection *conn, enum phase phase)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct client *c = info != NULL ? info->socket_context : NULL;

	if (c != NULL) {
		c->phase = phase;
		c->since = clock_seconds();
	}
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **state,
	enum MHD_RequestTerminationCode how)
{
	client_enter(conn, AWAITED);
}

/* The socket is shut down, not closed: libmicrohttpd sees its end and does the rest. */
static void client_end(struct client *c)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(c->conn, MHD_CONNECTION_INFO_CONNECTION_FD);

	if (info != NULL) {
		(void)shutdown(info->connect_fd, SHUT_RDWR);
	}
}

void http_hurry(struct http_server *h)
{
	unsigned patience = h->nclients > HTTP_CONNECTIONS_MAX / 2 ? CROWDED_SECONDS : IDLE_SECONDS;
	uint64_t now = clock_seconds();

	for (struct client *c = h->clients; c != NULL; c = c->next) {
		if ((c->phase == AWAITED && now - c->since > patience) ||
			(c->phase == ANSWERED && now - c->since > ANSWER_SECONDS)) {
			client_end(c);
		}
	}
}

/* ------------------------------------------------------------------------------------------------
 * Streams
 */

static void message_release(struct message **m)
{
	if (*m != NULL && --(*m)->refs == 0) {
		free(*m);
	}
	*m = NULL;
}

/* Give the stream the latest message unless it had it; false if there is none to give. */
static bool stream_take(struct stream *st)
{
	struct message *latest = st->server->latest;

	message_release(&st->message);
	if (latest == NULL || latest->number == st->number) {
		return false;
	}
	latest->refs++;
	st->message = latest;
	st->number = latest->number;
	st->sent = 0;
	return true;
}

static ssize_t stream_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct stream *st = cls;
	size_t n;

	if (st->server->closing) {
		return MHD_CONTENT_READER_END_OF_STREAM;
	}
	if (st->message == NULL || st->sent == st->message->len) {
		if (!stream_take(st)) {
			st->suspended = true;
			MHD_suspend_connection(st->conn);
			return 0;
		}
	}
	n = st->message->len - st->sent;
	n = n < max ? n : max;
	memcpy(buf, st->message->text + st->sent, n);
	st->sent += n;
	return (ssize_t)n;
}

static void stream_free(void *cls)
{
	struct stream *st = cls;

	*st->link = st->next;
	if (st->next != NULL) {
		st->next->link = st->link;
	}
	st->server->nstreams--;
	message_release(&st->message);
	free(st);
}

static struct MHD_Response *stream_response(struct http_server *h, struct MHD_Connection *conn)
{
	struct stream *st = h->nstreams < HTTP_STREAMS_MAX ? calloc(1, sizeof(*st)) : NULL;
	struct MHD_Response *r;

	if (st == NULL) {
		return NULL;
	}
	*st = (struct stream){.server = h, .conn = conn, .next = h->streams, .link = &h->streams};
	r = MHD_create_response_from_callback(
		MHD_SIZE_UNKNOWN, STREAM_BLOCK, stream_read, st, stream_free);
	if (r == NULL) {
		free(st);
		return NULL;
	}
	if (st->next != NULL) {
		st->next->link = &st->next;
	}
	h->streams = st;
	h->nstreams++;
	return r;
}

static void wake_streams(struct http_server *h)
{
	for (struct stream *st = h->streams; st != NULL; st = st->next) {
		if (st->suspended) {
			st->suspended = false;
			MHD_resume_connection(st->conn);
		}
	}
}

void http_publish(struct http_server *h, const char *message, size_t len)
{
	struct message *m = malloc(sizeof(*m) + len);

	if (m == NULL) {
		return; /* the next one may do better */
	}
	m->refs = 1;
	m->number = ++h->number;
	m->len = len;
	memcpy(m->text, message, len);
	message_release(&h->latest);
	h->latest = m;
	wake_streams(h);
}

/* ------------------------------------------------------------------------------------------------
 * Requests
 */

static const struct {
	const char *name, *value;
} common_headers[] = {
	{"Content-Security-Policy",
		"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
		"connect-src 'self'; base-uri 'none'; form-action 'none'; "
		"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"},
	{"X-Content-Type-Options", "nosniff"},
	{"X-Frame-Options", "DENY"},
	{"Referrer-Policy", "no-referrer"},
	{"Cross-Origin-Resource-Policy", "same-origin"},
};

/* Consumes r. */
static enum MHD_Result send_response(struct MHD_Connection *conn, unsigned status, const char *type,
	const char *etag, struct MHD_Response *r)
{
	enum MHD_Result rc = r != NULL ? MHD_YES : MHD_NO;

	for (unsigned i = 0; rc == MHD_YES && i < array_size(common_headers); i++) {
		rc = MHD_add_response_header(r, common_headers[i].name, common_headers[i].value);
	}
	if (rc == MHD_YES && type != NULL) {
		rc = MHD_add_response_header(r, "Content-Type", type);
	}
	if (rc == MHD_YES && etag != NULL) {
		rc = MHD_add_response_header(r, "ETag", etag);
	}
	if (rc == MHD_YES) { /* statement texts are not for the browser's disk */
		rc = MHD_add_response_header(
			r, "Cache-Control", etag != NULL ? "no-cache" : "no-store");
	}
	if (rc == MHD_YES && status == MHD_HTTP_METHOD_NOT_ALLOWED) {
		rc = MHD_add_response_header(r, "Allow", "GET, HEAD");
	}
	if (rc == MHD_YES && status == MHD_HTTP_SERVICE_UNAVAILABLE) {
		rc = MHD_add_response_header(r, "Retry-After", "1");
	}
	if (rc == MHD_YES) {
		rc = MHD_queue_response(conn, status, r);
	}
	if (r != NULL) {
		MHD_destroy_response(r);
	}
	return rc;
}

static enum MHD_Result refuse(struct MHD_Connection *conn, unsigned status, const char *text)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(
		strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);

	if (r != NULL && status == MHD_HTTP_CONTENT_TOO_LARGE) {
		(void)!MHD_add_response_header(r, "Connection", "close");
	}
	return send_response(conn, status, "text/plain; charset=utf-8", NULL, r);
}

/* An address, or localhost: no name that somebody else's name server could have answered for. */
static bool host_is_local(const char *host)
{
	char name[64];
	struct in_addr a4;
	struct in6_addr a6;
	size_t len;

	if (host == NULL) {
		return true; /* HTTP/1.0: no browser */
	}
	if (host[0] == '[') {
		len = strcspn(++host, "]");
	} else {
		len = strcspn(host, ":");
	}
	if (len >= sizeof(name)) {
		return false;
	}
	memcpy(name, host, len);
	name[len] = '\0';
	return strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, &a4) == 1 ||
	       inet_pton(AF_INET6, name, &a6) == 1;
}

static enum MHD_Result serve(struct http_server *h, const struct http_request *req)
{
	struct http_reply reply = {0};
	const char *match = http_header(req, "If-None-Match");
	struct MHD_Response *r;

	h->calls.answer(h->calls.ctx, req, &reply);
	reply.status = reply.status == 0 ? MHD_HTTP_OK : reply.status;
	client_enter(req->conn, reply.stream ? STREAMED : ANSWERED);
	if (reply.stream) {
		r = stream_response(h, req->conn);
		return r != NULL ? send_response(req->conn, reply.status, reply.type, NULL, r)
				 : refuse(req->conn, MHD_HTTP_SERVICE_UNAVAILABLE,
					   "too many streams\n");
	}
	if (reply.etag != NULL && match != NULL && strstr(match, reply.etag) != NULL) {
		r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
		return send_response(req->conn, MHD_HTTP_NOT_MODIFIED, NULL, reply.etag, r);
	}
	r = MHD_create_response_from_buffer(reply.len, (void *)(uintptr_t)reply.body,
		reply.owned ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
	if (r == NULL && reply.owned) {
		free((void *)(uintptr_t)reply.body);
	}
	return send_response(req->conn, reply.status, reply.type, reply.etag, r);
}

static bool has_body(const struct http_request *req)
{
	const char *length = http_header(req, "Content-Length");

	return http_header(req, "Transfer-Encoding") != NULL ||
	       (length != NULL && strcmp(length, "0") != 0);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
	const char *method, const char *version, const char *upload, size_t *upload_size,
	void **state)
{
	static char seen;
	struct http_server *h = cls;
	struct http_request req = {conn, url};

	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
		return refuse(conn, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
	}
	if (has_body(&req)) {
		return refuse(conn, MHD_HTTP_CONTENT_TOO_LARGE, "no body is taken\n");
	}
	if (*state == NULL) { /* the headers; the end of the empty body follows */
		*state = &seen;
		return MHD_YES;
	}
	if (h->loopback && !host_is_local(http_header(&req, "Host"))) {
		return refuse(
			conn, MHD_HTTP_MISDIRECTED_REQUEST, "ask by address or as localhost\n");
	}
	return serve(h, &req);
}

/* ------------------------------------------------------------------------------------------------
 * Life
 */

union address {
	struct sockaddr sa;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static bool parse_port(const char *s, in_port_t *out)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	if (*s < '0' || *s > '9' || *end != '\0' || v > 65535) {
		return false;
	}
	*out = htons((uint16_t)v);
	return true;
}

static bool parse_address(const char *where, union address *out)
{
	const char *colon = strrchr(where, ':');
	char host[64] = "127.0.0.1";
	size_t len = colon != NULL ? (size_t)(colon - where) : 0;
	in_port_t port;

	if (len >= sizeof(host) || !parse_port(colon != NULL ? colon + 1 : where, &port)) {
		return false;
	}
	memset(out, 0, sizeof(*out));
	if (colon != NULL) {
		bool brackets = where[0] == '[' && len > 2 && where[len - 1] == ']';

		snprintf(host, sizeof(host), "%.*s", (int)(brackets ? len - 2 : len),
			where + brackets);
		if (strcmp(host, "localhost") == 0) {
			strcpy(host, "127.0.0.1");
		}
		if (brackets) {
			out->v6.sin6_family = AF_INET6;
			out->v6.sin6_port = port;
			return inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1;
		}
	}
	out->v4.sin_family = AF_INET;
	out->v4.sin_port = port;
	return inet_pton(AF_INET, host, &out->v4.sin_addr) == 1;
}

static bool is_loopback(const union address *a)
{
	return a->sa.sa_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr)
					   : ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
}

/* Listening socket; *a gets the port in use. */
static int listen_at(union address *a)
{
	socklen_t len = a->sa.sa_family == AF_INET6 ? sizeof(a->v6) : sizeof(a->v4);
	int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1, err;

	if (fd < 0) {
		return -errno;
	}
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		(a->sa.sa_family == AF_INET6 &&
			setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0) ||
		bind(fd, &a->sa, len) < 0 || listen(fd, 64) < 0 ||
		getsockname(fd, &a->sa, &len) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static void make_url(struct http_server *h, const union address *a)
{
	char host[INET6_ADDRSTRLEN] = "";

	if (a->sa.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
		snprintf(h->url, sizeof(h->url), "http://[%s]:%u/", host, ntohs(a->v6.sin6_port));
	} else {
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
		snprintf(h->url, sizeof(h->url), "http://%s:%u/", host, ntohs(a->v4.sin_port));
	}
}

int http_create(const char *where, const struct http_calls *calls, struct http_server **out)
{
	union address a;
	struct http_server *h;
	int fd;

	*out = NULL;
	if (!parse_address(where, &a)) {
		return -EINVAL;
	}
	h = calloc(1, sizeof(*h));
	if (h == NULL) {
		return -ENOMEM;
	}
	h->calls = *calls;
	h->loopback = is_loopback(&a);
	fd = listen_at(&a);
	if (fd < 0) {
		free(h);
		return fd;
	}
	make_url(h, &a);
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
		on_request, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, h, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_CONNECTION_LIMIT,
		HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_END);
	if (h->daemon == NULL) {
		close(fd);
		free(h);
		return -ENOMEM;
	}
	*out = h;
	return 0;
}

void http_destroy(struct http_server **hp)
{
	struct http_server *h = *hp;

	if (h == NULL) {
		return;
	}
	h->closing = true;
	wake_streams(h); /* a daemon may not be stopped with suspended connections */
	(void)!MHD_run(h->daemon);
	MHD_stop_daemon(h->daemon);
	message_release(&h->latest);
	free(h);
	*hp = NULL;
}

const char *http_url(const struct http_server *h)
{
	return h->url;
}

int http_fd(const struct http_server *h)
{
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);

	return info != NULL ? info->epoll_fd : -1;
}

int http_timeout(struct http_server *h)
{
	MHD_UNSIGNED_LONG_LONG ms;

	if (MHD_get_timeout(h->daemon, &ms) != MHD_YES) {
		return -1;
	}
	return ms < INT_MAX ? (int)ms : INT_MAX;
}

void http_turn(struct http_server *h)
{
	(void)!MHD_run(h->daemon);
}
