/* SPDX-License-Identifier: MIT */
/*
 * prefork_httpd.c - a small preforking HTTP/1.1 server whose workers share the broker's databases.
 *
 *   GET /item?id=7   GET /items?prefix=abc   GET /page (five statements at once)
 *   POST /item with name=...&price=... (a transaction)
 *
 * The master attaches, makes its schema, listens, forks, and replaces workers that die; the library
 * notices the fork and attaches each worker anew.  SIGTERM, SIGINT, SIGQUIT let requests finish.
 */
#include <shmbroker.h>

#include <arpa/inet.h>
#include <err.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX 512
static const struct timeval idle = {.tv_sec = 10}; /* silent connections are closed after this */

struct exchange {
	char method[8], path[512], form[4096]; /* form: the query, or the body of a POST */
	bool keep_alive;
	FILE *out; /* body of the reply, in memory */
	const char *add; /* a line for the head of the reply */
	int status;
};

static volatile sig_atomic_t stopping;
static sigset_t no_signals; /* signals are let in only where a process waits for work */

static void on_signal(int sig)
{
	stopping |= sig != SIGCHLD;
}

static void put_string(FILE *out, const char *s)
{
	putc('"', out);
	for (const unsigned char *c = (const void *)s; *c != '\0'; c++) {
		fprintf(out, *c < 0x20 ? "\\u%04x" : *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
	}
	putc('"', out);
}

static void fail(struct exchange *x, int status, const char *message)
{
	x->status = status;
	rewind(x->out); /* over whatever was written before */
	fputs("{\"error\":", x->out);
	put_string(x->out, message);
	putc('}', x->out);
}

/* The decoded value of a key; false: missing, malformed or too long. */
static bool form_value(const char *form, const char *key, char *out, size_t size)
{
	size_t klen = strlen(key), n = 0;

	while (strncmp(form, key, klen) != 0 || form[klen] != '=') {
		form += strcspn(form, "&");
		if (*form++ == '\0') {
			return false;
		}
	}
	for (form += klen + 1; *form != '\0' && *form != '&'; form++) {
		unsigned c = *form == '+' ? ' ' : (unsigned char)*form;

		if (c == '%') {
			c = strspn(form + 1, "0123456789abcdefABCDEF") < 2 ? 0 : c;
			form += c == 0 || sscanf(form + 1, "%2x", &c) != 1 ? 0 : 2;
		}
		if (c == 0 || n + 1 >= size) {
			return false;
		}
		out[n++] = (char)c;
	}
	out[n] = '\0';
	return true;
}

/* Write rows of id, name, price as JSON objects; how many, or the error. */
static int put_items(FILE *out, struct broker_result *r)
{
	const char *name, *price;
	int64_t id;
	int rc, n = 0;

	while ((rc = broker_next(r)) == 1 && (rc = broker_get_int64(r, 0, &id)) == 0 &&
		(rc = broker_get_text(r, 1, &name, NULL)) == 0 &&
		(rc = broker_get_text(r, 2, &price, NULL)) == 0) {
		fprintf(out, "%s{\"id\":%lld,\"name\":", n++ > 0 ? "," : "", (long long)id);
		put_string(out, name);
		fprintf(out, ",\"price\":%s}", price);
	}
	return rc < 0 ? rc : n;
}

/* Run a query of one parameter and write its items; how many, or negative with the reply made. */
static int find_items(struct broker *b, struct exchange *x, const char *sql, struct broker_value v)
{
	struct broker_call call = {.flags = BROKER_READONLY, .tag = x->path};
	struct broker_result *r;
	int n = broker_exec(b, sql, 1, &v, &call, &r);

	n = n < 0 ? n : put_items(x->out, r);
	if (n < 0) {
		fail(x, 503, broker_error(b)->message);
	}
	broker_result_free(&r);
	return n;
}

static void get_item(struct broker *b, struct exchange *x)
{
	char text[32], *end = text;
	struct broker_value v = broker_int64(
		form_value(x->form, "id", text, sizeof(text)) ? strtoll(text, &end, 10) : 0);

	if (end == text || *end != '\0') {
		fail(x, 400, "id must be a number");
	} else if (find_items(b, x, "SELECT id, name, price FROM item WHERE id = $1", v) == 0) {
		fail(x, 404, "no such item");
	}
}

static void get_items(struct broker *b, struct exchange *x)
{
	/* not LIKE, whose treatment of case differs between databases */
	static const char sql[] = "SELECT id, name, price FROM item WHERE substr(name, 1,"
		" length(CAST($1 AS TEXT))) = CAST($1 AS TEXT) ORDER BY id LIMIT 20";
	char prefix[128];

	putc('[', x->out);
	if (!form_value(x->form, "prefix", prefix, sizeof(prefix))) {
		fail(x, 400, "prefix is missing");
	} else if (find_items(b, x, sql, broker_text(prefix)) >= 0) {
		putc(']', x->out);
	}
}

static void post_item(struct broker *b, struct exchange *x)
{
	struct broker_call call = {.tag = x->path};
	struct broker_result *r = NULL;
	char name[256], text[32], *end = text;
	double price = form_value(x->form, "price", text, sizeof(text)) ? strtod(text, &end) : 0;
	int64_t id = 0;
	int rc;

	if (!form_value(x->form, "name", name, sizeof(name)) || name[0] == '\0' || end == text ||
		*end != '\0' || !(price >= 0 && price < 1e12)) {
		fail(x, 400, "a name and a price that is not negative are needed");
		return;
	}
	if ((rc = broker_begin(b, &call, &call.lease)) == 0 && /* travels with the next */
		(rc = broker_exec(b, "UPDATE counter SET value = value + 1 RETURNING value", 0,
			 NULL, &call, &r)) == 0 &&
		(rc = broker_next(r)) == 1 && (rc = broker_get_int64(r, 0, &id)) == 0) {
		const struct broker_value v[] = {
			broker_int64(id), broker_text(name), broker_double(price)};

		rc = broker_exec(b, "INSERT INTO item VALUES ($1, $2, $3)", 3, v, &call, NULL);
		rc = rc < 0 ? rc : broker_exec(b, "INSERT INTO audit VALUES ($1, $2, $3)", 3, v,
			&call, NULL);
		rc = rc < 0 ? rc : broker_commit(&call.lease, 0);
	}
	x->status = 201;
	fprintf(x->out, "{\"id\":%lld}", (long long)id);
	if (rc < 0) {
		fail(x, 503, broker_error(b)->message);
	}
	broker_result_free(&r);
	broker_rollback(&call.lease); /* nothing after a commit */
}

static void get_page(struct broker *b, struct exchange *x)
{
	static const char *const part[5][2] = {
		{"first", "SELECT id, name, price FROM item WHERE id = 1"},
		{"cheapest", "SELECT id, name, price FROM item ORDER BY price, id LIMIT 3"},
		{"dearest", "SELECT id, name, price FROM item ORDER BY price DESC LIMIT 3"},
		{"newest", "SELECT id, name, price FROM item ORDER BY id DESC LIMIT 3"},
		{"counter", "SELECT id, 'items', value FROM counter"},
	};
	struct broker_call call = {.flags = BROKER_READONLY, .tag = x->path};
	uint64_t ticket[5] = {0};
	int rc = 0;

	for (int i = 0; i < 5 && rc == 0; i++) {
		rc = broker_submit(b, part[i][1], 0, NULL, &call, &ticket[i]);
	}
	for (int i = 0; i < 5 && ticket[i] != 0; i++) { /* every ticket, also after an error */
		struct broker_result *r;
		int n = broker_collect(b, ticket[i], -1, NULL, &r);

		fprintf(x->out, "%s\"%s\":[", i > 0 ? "]," : "{", part[i][0]);
		n = n < 0 ? n : put_items(x->out, r);
		rc = n < 0 ? n : rc;
		broker_result_free(&r);
	}
	fputs("]}", x->out);
	if (rc < 0) {
		fail(x, 503, broker_error(b)->message); /* of the last that failed */
	}
}

static const struct route {
	const char *path;
	void (*page[2])(struct broker *b, struct exchange *x); /* for GET, for POST */
} routes[] = {{"/item", {get_item, post_item}}, {"/items", {get_items}}, {"/page", {get_page}}};

static void answer(struct broker *b, struct exchange *x)
{
	const struct route *r = routes, *end = routes + sizeof(routes) / sizeof(routes[0]);

	for (; r < end && strcmp(x->path, r->path) != 0; r++) {
	}
	if (x->status != 200) {
		fail(x, 400, "the request is malformed, or too large, or in chunks");
	} else if (r == end) {
		fail(x, 404, "no such page");
	} else if (strcmp(x->method, "GET") == 0 || strcmp(x->method, "HEAD") == 0) {
		r->page[0](b, x);
	} else if (strcmp(x->method, "POST") == 0 && r->page[1] != NULL) {
		r->page[1](b, x);
	} else {
		x->add = r->page[1] ? "Allow: GET, HEAD, POST\r\n" : "Allow: GET, HEAD\r\n";
		fail(x, 405, "this page takes other methods");
	}
}

/* Wait for work.  Signals arrive only here, so none is missed and no request is cut short. */
static bool ready(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n = -1;

	while (n < 0 && !stopping) {
		n = ppoll(&p, 1, &(struct timespec){.tv_sec = idle.tv_sec}, &no_signals);
	}
	return n > 0;
}

/* Read one request (they may not be pipelined).  False: the connection is over. */
static bool read_request(FILE *in, struct exchange *x)
{
	static char line[2048];
	size_t len = 0, lines = 0;
	bool good;

	if (!ready(fileno(in)) || fgets(line, sizeof(line), in) == NULL) {
		return false;
	}
	good = sscanf(line, "%7s %511[^? ]?%1023[^ ]", x->method, x->path, x->form) >= 2 &&
	       strchr(line, '\n') != NULL && strstr(line, " HTTP/1.") != NULL &&
	       strlen(x->path) < 511 && strlen(x->form) < 1023;
	x->keep_alive = strstr(line, " HTTP/1.1\r") != NULL;
	while (good && fgets(line, sizeof(line), in) != NULL && line[0] != '\r') {
		x->keep_alive &= strncasecmp(line, "Connection: close", 17) != 0;
		len = strncasecmp(line, "Content-Length:", 15) ? len : strtoul(line + 15, NULL, 10);
		good = strchr(line, '\n') != NULL && ++lines <= 100 && len < sizeof(x->form) &&
		       strncasecmp(line, "Transfer-Encoding:", 18) != 0;
	}
	if (good && (line[0] != '\r' || fread(x->form, 1, len, in) != len)) {
		return false;
	}
	x->form[good && len > 0 ? len : sizeof(x->form) - 1] = '\0'; /* else the query stays */
	x->keep_alive &= good; /* else nobody knows where the next request begins */
	x->status = good ? 200 : 400;
	return true;
}

static bool serve(struct broker *b, FILE *in)
{
	struct exchange x = {.status = 200, .add = ""};
	char *body = NULL;
	size_t len = 0;

	if (!read_request(in, &x) || (x.out = open_memstream(&body, &len)) == NULL) {
		return false;
	}
	answer(b, &x);
	fclose(x.out);
	x.keep_alive = x.keep_alive && !stopping;
	x.keep_alive &= dprintf(fileno(in),
		"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s"
		"Connection: %s\r\n\r\n%.*s", x.status, x.status < 300 ? "OK" : "Error", len, x.add,
		x.keep_alive ? "keep-alive" : "close", x.method[0] == 'H' ? 0 : (int)len, body) > 0;
	free(body);
	return x.keep_alive;
}

static _Noreturn void work(struct broker *b, int listener)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM); /* no workers without a master */
	while (!stopping) {
		int fd = ready(listener) ? accept(listener, NULL, NULL) : -1;
		FILE *in = fd >= 0 ? fdopen(fd, "r") : NULL;

		if (in != NULL) {
			setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof(idle));
			setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &idle, sizeof(idle));
			while (serve(b, in)) {
			}
			fclose(in);
		}
	}
	broker_detach(&b);
	exit(0);
}

static void supervise(struct broker *b, int listener, int count)
{
	pid_t worker[WORKERS_MAX] = {0};

	while (!stopping) {
		for (int i = 0; i < count; i++) {
			if ((worker[i] <= 0 || waitpid(worker[i], NULL, WNOHANG) > 0) &&
				(worker[i] = fork()) == 0) {
				work(b, listener);
			}
		}
		sigsuspend(&no_signals); /* until one dies, or we shall stop */
	}
	for (int i = 0; i < count; i++) {
		kill(worker[i], worker[i] > 0 ? SIGTERM : 0);
	}
	while (wait(NULL) > 0) {
	}
}

static int make_schema(struct broker *b)
{
	static const char *const sql[] = {
		"CREATE TABLE IF NOT EXISTS item (id BIGINT PRIMARY KEY, name TEXT, price FLOAT8)",
		"CREATE INDEX IF NOT EXISTS item_price ON item (price, id)",
		"CREATE TABLE IF NOT EXISTS audit (item_id BIGINT, name TEXT, price FLOAT8)",
		"CREATE TABLE IF NOT EXISTS counter (id BIGINT PRIMARY KEY, value BIGINT)",
		"INSERT INTO counter VALUES (1, 1000) ON CONFLICT (id) DO NOTHING",
		"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
		" INSERT INTO item SELECT i, 'item ' || i, i * 0.25 FROM n WHERE true"
		" ON CONFLICT (id) DO NOTHING"};
	int rc = 0;

	for (unsigned i = 0; i < sizeof(sql) / sizeof(sql[0]) && rc == 0; i++) {
		rc = broker_exec(b, sql[i], 0, NULL, NULL, NULL);
	}
	return rc;
}

static int listen_on(int port)
{
	struct sockaddr_in sa = {AF_INET, htons((uint16_t)port), {htonl(INADDR_LOOPBACK)}, {0}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
	socklen_t len = sizeof(sa);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, 1024) < 0 ||
		getsockname(fd, (struct sockaddr *)&sa, &len) < 0) {
		err(1, "listen");
	}
	dprintf(STDOUT_FILENO, "listening on 127.0.0.1:%d\n", ntohs(sa.sin_port));
	return fd;
}

int main(int argc, char **argv)
{
	int port = 8080, workers = 4, opt;
	struct broker *b;
	sigset_t all;

	while ((opt = getopt(argc, argv, "p:w:h")) != -1) {
		port = opt == 'p' ? atoi(optarg) : port;
		workers = opt == 'w' ? atoi(optarg) : workers;
		if (strchr("h?", opt) || port >> 16 || workers < 1 || workers > WORKERS_MAX) {
			printf("usage: prefork_httpd [-p PORT, 0 is any] [-w WORKERS, 1 to 512]\n");
			return opt == 'h' ? 0 : 2;
		}
	}
	signal(SIGPIPE, SIG_IGN);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &no_signals);
	for (const int *s = (int[]){SIGTERM, SIGINT, SIGQUIT, SIGCHLD, 0}; *s != 0; s++) {
		sigaction(*s, &(struct sigaction){.sa_handler = on_signal}, NULL);
	}
	if (broker_attach(NULL, &b) < 0 || make_schema(b) < 0) {
		errx(1, "%s", broker_error(b)->message);
	}
	supervise(b, listen_on(port), workers);
	broker_detach(&b);
	return 0;
}
