/* SPDX-License-Identifier: MIT */
/*
 * exporter_http.h - a small web server for documents and one stream of messages (libmicrohttpd).
 *
 * Runs in the caller's loop and thread: wait until http_fd is readable or http_timeout is over,
 * then call http_turn.  All callbacks happen inside http_turn.
 *
 * Serves GET and HEAD.  Everything else about a request is refused before the callback sees it: a
 * body, another method, and on a loopback address a Host that is a name other than localhost, by
 * which a web page from elsewhere could read what stands here (DNS rebinding).  Connections,
 * streams, header sizes and idle times are bounded.  Every answer carries a Content-Security-Policy
 * that allows nothing inline and nothing from elsewhere.
 */
#ifndef TOOLS_EXPORTER_HTTP_H
#define TOOLS_EXPORTER_HTTP_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>

#define HTTP_CONNECTIONS_MAX 64u
#define HTTP_STREAMS_MAX 16u

struct http_server;
struct http_request;

struct http_reply {
	unsigned status; /* 0: 200 */
	const char *type; /* of the content; static */
	const void *body; /* static, or if `owned` on the heap: freed by the server */
	size_t len;
	bool owned;
	const char *etag; /* NULL, or with quotes; static.  A client that has it gets 304. */
	bool stream; /* the stream of messages instead of a body */
};

struct http_calls {
	/* Fill *reply; status 404 if there is no such document. */
	void (*answer)(void *ctx, const struct http_request *req, struct http_reply *reply);
	void *ctx;
};

/* Path without the query, starting with a slash; header and query value, or NULL. */
const char *http_path(const struct http_request *req);
const char *http_header(const struct http_request *req, const char *name);
const char *http_query(const struct http_request *req, const char *name);

/*
 * Listen on "PORT" (of 127.0.0.1), "ADDR:PORT" or "[ADDR]:PORT"; numeric addresses or localhost.
 * 0: *out is the caller's.  -EINVAL: not such a text.  Other -errno: cannot listen there.
 */
int http_create(
	const char *where, const struct http_calls *calls, struct http_server **out) must_use;
/* Ends all streams and connections. */
void http_destroy(struct http_server **h);

/* "http://127.0.0.1:9187/", with the port in use if 0 was asked for. */
const char *http_url(const struct http_server *h);

int http_fd(const struct http_server *h);
/* Milliseconds, or -1: no time limit. */
int http_timeout(struct http_server *h);
void http_turn(struct http_server *h);
/*
 * To be called once a second: ends connections that take too long, however busy they look.  A
 * request has 15 seconds, or 2 while more than half of the connections are taken, so that clients
 * which send a byte now and then do not keep others out; taking the answer has a minute.
 */
void http_hurry(struct http_server *h);

/*
 * Send a message to all streams; its bytes are copied.  A stream that has not taken the one before
 * gets the newest only; a new one begins with the latest.
 */
void http_publish(struct http_server *h, const char *message, size_t len);

#endif
