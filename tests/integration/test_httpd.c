/* SPDX-License-Identifier: MIT */
/*
 * test_httpd.c - the example server below `broker run`, through real sockets: its pages, what it
 * says to requests that it does not like, connections that stay and that do not, workers that are
 * killed.
 */
#include "brokerproc.h"
#include "scratch.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS 3

struct reply {
	int status; /* 0: the connection was closed without one */
	size_t length; /* Content-Length */
	bool keeps; /* Connection: keep-alive */
	char head[1024], body[16384];
};

static int port;

static int dial(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		bail_out("cannot connect to port %d: %s", port, strerror(errno));
	}
	return fd;
}

static void say(int fd, const char *text)
{
	/* A server that has enough of it may close while we send. */
	(void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
}

/* Next byte, or -1: the end, or nothing within 20 s. */
static int next_byte(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	unsigned char c;

	return poll(&p, 1, 20000) == 1 && recv(fd, &c, 1, 0) == 1 ? c : -1;
}

/* Read one reply; of its body `want` bytes, or as many as it announces (-1). */
static void hear(int fd, struct reply *r, ssize_t want)
{
	const char *length;
	size_t n = 0;
	int c;

	memset(r, 0, sizeof(*r));
	while (n + 1 < sizeof(r->head) && (c = next_byte(fd)) >= 0) {
		r->head[n++] = (char)c;
		if (n >= 4 && memcmp(r->head + n - 4, "\r\n\r\n", 4) == 0) {
			break;
		}
	}
	if (sscanf(r->head, "HTTP/1.1 %d ", &r->status) != 1) {
		r->status = 0;
		return;
	}
	length = strstr(r->head, "Content-Length: ");
	r->length = length != NULL ? strtoul(length + 16, NULL, 10) : 0;
	r->keeps = strstr(r->head, "\r\nConnection: keep-alive\r\n") != NULL;
	want = want < 0 ? (ssize_t)r->length : want;
	for (ssize_t i = 0; i < want && i + 1 < (ssize_t)sizeof(r->body); i++) {
		if ((c = next_byte(fd)) < 0) {
			r->status = 0;
			return;
		}
		r->body[i] = (char)c;
	}
}

static bool is_closed(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char c;

	return poll(&p, 1, 20000) == 1 && recv(fd, &c, 1, MSG_DONTWAIT) <= 0;
}

/* One request on a connection of its own. */
static void ask(const char *text, struct reply *r)
{
	int fd = dial();

	say(fd, text);
	hear(fd, r, -1);
	close(fd);
}

static void get(const char *target, struct reply *r)
{
	char *text = scratch_format("GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target);

	ask(text, r);
	free(text);
}

static void post(const char *target, const char *form, struct reply *r)
{
	char *text = scratch_format("POST %s HTTP/1.1\r\nHost: x\r\ncontent-length: %zu\r\n\r\n%s",
		target, strlen(form), form);

	ask(text, r);
	free(text);
}

/* -- pages ------------------------------------------------------------------------------------- */

static void test_pages(void)
{
	struct reply r;
	char *target;
	long id = 0;

	get("/item?id=7", &r);
	is_int(r.status, 200, "an item");
	is_str(r.body, "{\"id\":7,\"name\":\"item 7\",\"price\":1.75}", "is the one");
	get("/items?prefix=item%2099", &r);
	ok(r.status == 200 && r.body[0] == '[' && strstr(r.body, "\"item 990\"") != NULL,
		"items by prefix");
	get("/items?prefix=ITEM", &r);
	is_str(r.body, "[]", "case matters");
	get("/page", &r);
	ok(r.status == 200 && strstr(r.body, "\"first\":[{\"id\":1,") != NULL &&
			strstr(r.body, "\"counter\":[") != NULL,
		"a page of five statements");
	post("/item", "name=a+%22new%22%0aone&price=2.5", &r);
	is_int(r.status, 201, "an item is made");
	ok(sscanf(r.body, "{\"id\":%ld}", &id) == 1 && id > 1000, "and gets a number");
	target = scratch_format("/item?id=%ld", id);
	get(target, &r);
	ok(strstr(r.body, "\"name\":\"a \\\"new\\\"\\u000aone\",\"price\":2.5}") != NULL,
		"and is there, its name as it should be");
	free(target);
}

static void check_refusal(const char *target, int status, const char *text)
{
	struct reply r;

	get(target, &r);
	ok(r.status == status && strncmp(r.body, "{\"error\":\"", 10) == 0, "%d: %s", status, text);
	ok(r.keeps, "and the connection stays");
}

static void test_refusals(void)
{
	struct reply r;

	check_refusal("/", 404, "no page");
	check_refusal("/itemsandmore", 404, "no page by its beginning");
	check_refusal("/item?id=123456789", 404, "no such item");
	check_refusal("/item", 400, "an item without a number");
	check_refusal("/item?id=7x", 400, "half a number");
	check_refusal("/item?id=", 400, "an empty number");
	check_refusal("/items?id=1", 400, "no prefix");
	check_refusal("/items?prefix=%zz", 400, "half a percent sign");
	check_refusal("/items?prefix=%00", 400, "a byte that no text has");
	post("/item", "name=x&price=-1", &r);
	is_int(r.status, 400, "400: a negative price");
	post("/item", "price=1", &r);
	is_int(r.status, 400, "400: no name");
	post("/items", "prefix=x", &r);
	ok(r.status == 405 && strstr(r.head, "\r\nAllow: GET, HEAD\r\n") != NULL,
		"405: POST to a list");
	ask("DELETE /item?id=7 HTTP/1.1\r\n\r\n", &r);
	ok(r.status == 405 && strstr(r.head, "\r\nAllow: GET, HEAD, POST\r\n") != NULL,
		"405: DELETE");
	get("/item?id=7", &r);
	is_int(r.status, 200, "which has deleted nothing");
}

/* -- requests that are wrong ------------------------------------------------------------------- */

/* "head" and n times the letter x and "tail". */
static char *stretched(const char *head, size_t n, const char *tail)
{
	char *fill = malloc(n + 1), *text;

	if (fill == NULL) {
		bail_out("out of memory");
	}
	memset(fill, 'x', n);
	fill[n] = '\0';
	text = scratch_format("%s%s%s", head, fill, tail);
	free(fill);
	return text;
}

static void check_bad(const char *request, const char *text)
{
	struct reply r;
	int fd = dial();

	say(fd, request);
	hear(fd, &r, -1);
	is_int(r.status, 400, "400: %s", text);
	ok(!r.keeps && is_closed(fd), "and the connection is closed");
	close(fd);
}

static void check_stretched(const char *head, size_t n, const char *tail, const char *text)
{
	char *request = stretched(head, n, tail);

	check_bad(request, text);
	free(request);
}

static void test_malformed(void)
{
	struct reply r;
	char *lines;
	int fd;

	check_bad("hello\r\n\r\n", "no request");
	check_bad("GET /item?id=7\r\n\r\n", "no version");
	check_bad("\r\nGET / HTTP/1.1\r\n\r\n", "an empty line first");
	check_bad("POST /item HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "chunks");
	check_stretched("GET /", 510, " HTTP/1.1\r\n\r\n", "a long path");
	check_stretched("GET /items?prefix=", 1016, " HTTP/1.1\r\n\r\n", "a long query");
	check_stretched("GET /", 3000, " HTTP/1.1\r\n\r\n", "a longer request line");
	/* Its second part must not pass for the end of the head. */
	check_stretched("GET /item?id=7 HTTP/1.1\r\nX: ", 2047 - 3, "\r\n\r\n", "a long header");
	check_bad("POST /item HTTP/1.1\r\nContent-Length: 4096\r\n\r\n", "a long body");
	check_bad(
		"POST /item HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "a body of less than nothing");
	lines = scratch_format("GET /item?id=7 HTTP/1.1\r\n");
	for (unsigned i = 0; i < 101; i++) {
		char *more = scratch_format("%sX: y\r\n", lines);

		free(lines);
		lines = more;
	}
	check_bad(lines, "a head without end");
	free(lines);

	lines = stretched(
		"POST /item HTTP/1.1\r\nContent-Length: 4095\r\n\r\nprice=1&name=", 4095 - 13, "");
	ask(lines, &r);
	ok(r.status == 400 && r.keeps, "400: a body that just fits, with a name that is too long");
	free(lines);
	fd = dial();
	say(fd, "POST /item HTTP/1.1\r\nContent-Length: 100\r\n\r\nname=");
	(void)shutdown(fd, SHUT_WR);
	hear(fd, &r, -1);
	is_int(r.status, 0, "half a body has no answer");
	close(fd);
}

/* -- connections ------------------------------------------------------------------------------- */

static void test_connections(void)
{
	static const char request[] = "GET /item?id=8 HTTP/1.1\r\nHost: x\r\n\r\n";
	unsigned good = 0;
	struct reply r;
	int fd = dial();

	for (unsigned i = 0; i < 50; i++) {
		say(fd, request);
		hear(fd, &r, -1);
		good += r.status == 200 && r.keeps;
	}
	is_int(good, 50, "fifty requests on one connection");
	say(fd, "HEAD /item?id=8 HTTP/1.1\r\n\r\n");
	hear(fd, &r, 0);
	ok(r.status == 200 && r.length > 30, "HEAD has the length of a body");
	say(fd, request);
	hear(fd, &r, -1);
	ok(r.status == 200 && strstr(r.body, "item 8") != NULL,
		"and none: the next answer follows");
	say(fd, "GET /item?id=9 HTTP/1.1\r\nconnection: close\r\n\r\n");
	hear(fd, &r, -1);
	ok(r.status == 200 && !r.keeps && is_closed(fd), "Connection: close is obeyed");
	close(fd);
	fd = dial();
	say(fd, "GET /item?id=9 HTTP/1.0\r\n\r\n");
	hear(fd, &r, -1);
	ok(r.status == 200 && !r.keeps && is_closed(fd), "HTTP/1.0 closes");
	close(fd);
	fd = dial();
	for (const char *c = request; *c != '\0'; c++) { /* byte by byte */
		char one[2] = {*c, '\0'};

		say(fd, one);
	}
	hear(fd, &r, -1);
	is_int(r.status, 200, "a request may come in pieces");
	close(fd);
}

/* -- processes --------------------------------------------------------------------------------- */

/* The workers are the children of the server, which is a child of the supervisor. */
static unsigned workers_of(pid_t supervisor, pid_t *out, pid_t *server)
{
	pid_t child[8];
	unsigned n = spawn_children(supervisor, child, 8);

	*server = 0;
	for (unsigned i = 0; i < n; i++) {
		unsigned m = spawn_children(child[i], out, WORKERS + 1);

		if (m > 0) {
			*server = child[i];
			return m;
		}
	}
	return 0;
}

static bool answers(void)
{
	struct reply r;

	get("/item?id=7", &r);
	return r.status == 200;
}

static void test_killed_worker(pid_t supervisor)
{
	pid_t before[WORKERS + 1], now[WORKERS + 1], server;
	unsigned good = 0;

	if (!is_int(workers_of(supervisor, before, &server), WORKERS,
		    "the server has its workers")) {
		bail_out("the rest makes no sense");
	}
	kill(before[0], SIGKILL);
	ok(wait_until(workers_of(supervisor, now, &server) == WORKERS && now[0] != before[0] &&
			      now[1] != before[0] && now[2] != before[0],
		   60000),
		"a killed worker is replaced");
	for (unsigned i = 0; i < 20; i++) {
		good += answers();
	}
	is_int(good, 20, "and all goes on");
}

/* A request that has begun is answered; then everything ends. */
static void test_stop(struct broker_proc *p)
{
	pid_t worker[WORKERS + 1], server;
	struct reply r;
	int fd = dial();

	say(fd, "GET /item?id=7 HTTP/1.1\r\n");
	(void)workers_of(broker_pid(p), worker, &server);
	kill(broker_pid(p), SIGTERM);
	say(fd, "Host: x\r\n\r\n");
	hear(fd, &r, -1);
	ok(r.status == 200 || r.status == 0,
		"a request in the moment of the end is answered or refused");
	close(fd);
	is_int(broker_wait(p, 30000), 0, "server and broker end well");
	for (unsigned i = 0; i < WORKERS; i++) {
		ok(kill(worker[i], 0) < 0, "no worker is left");
	}
	ok(kill(server, 0) < 0, "nor the server");
}

static bool listening(const struct broker_proc *p)
{
	static const char line[] = "listening on 127.0.0.1:";
	char text[512];
	FILE *f = fopen(broker_log(p), "re");

	while (f != NULL && fgets(text, sizeof(text), f) != NULL) {
		if (strncmp(text, line, strlen(line)) == 0) {
			port = atoi(text + strlen(line));
		}
	}
	if (f != NULL) {
		fclose(f);
	}
	return port > 0;
}

int main(void)
{
	const char *const command[] = {getenv("HTTPD_BIN"), "-p", "0", "-w", "3", NULL};
	struct broker_proc *p = broker_start_run(NULL, NULL, command);

	if (!wait_until(listening(p), 30000)) {
		scratch_show_tail(broker_log(p), 20);
		bail_out("the server does not listen");
	}
	test_pages();
	test_refusals();
	test_malformed();
	test_connections();
	test_killed_worker(broker_pid(p));
	test_stop(p);
	broker_free(&p);
	return done_testing();
}
