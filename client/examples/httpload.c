/* SPDX-License-Identifier: MIT */
/*
 * httpload.c - load for prefork_httpd, and a check that no acknowledged write was lost.
 *
 *     httpload [-c CONNECTIONS] [-t SECONDS | -n REQUESTS] PORT
 *
 * One process per connection.  Of 20 requests 13 ask for an item, 2 for a list, 2 for a page, and 3
 * create an item with a name that nobody else uses.  When a connection breaks, a request that only
 * reads is sent again, as browsers do.  One that writes is not: its outcome is unknown.  At the end
 * every write is looked up by its name: one that was acknowledged must be there once, one whose
 * outcome is unknown at most once.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 256
#define SAMPLES 65536 /* latencies kept per connection */
#define REPLY_MAX 65536
#define PER_CONNECTION 200 /* requests, then the connection is closed: others get their turn */
#define TRIES 20
#define UNKNOWN_MAX 1024 /* per connection */

enum kind {
	ITEM,
	ITEMS,
	PAGE,
	POST,
	KINDS,
};
static const char *const kind_names[KINDS] = {"item", "items", "page", "post"};

/* What one process reports; it alone writes, the parent reads after its end. */
struct report {
	uint64_t done[KINDS];
	uint64_t errors; /* answers other than 200 and 201, requests given up */
	uint64_t resent; /* after a broken connection */
	uint64_t missing; /* acknowledged writes that are not there */
	uint64_t twice; /* writes that are there more than once */
	uint64_t unknown; /* writes whose answer was lost with the connection */
	uint64_t unknown_done; /* of those, there */
	char first_error[200];
	uint32_t nsamples;
	uint32_t sample[SAMPLES]; /* microseconds */
};

struct client {
	struct report *report;
	int port;
	int number; /* of this process */
	int run; /* of this program: makes names unique */
	int fd; /* -1: not connected */
	bool lost; /* no server answers any more */
	unsigned on_connection;
	uint64_t unknown[UNKNOWN_MAX]; /* numbers of the writes that were not answered */
	int status; /* of the last reply */
	char *body; /* of the last reply, inside reply */
	char reply[REPLY_MAX];
};

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* -- one request ----------------------------------------------------------------------------- */

static void hang_up(struct client *c)
{
	if (c->fd >= 0) {
		close(c->fd);
	}
	c->fd = -1;
	c->on_connection = 0;
}

static bool dial(struct client *c)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port)};
	struct timeval limit = {.tv_sec = 30};

	if (c->fd >= 0) {
		return true;
	}
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		hang_up(c);
		return false;
	}
	return true;
}

/* Read one reply; false if the connection breaks before its end. */
static bool read_reply(struct client *c)
{
	size_t len = 0, need = 0;

	for (;;) {
		ssize_t n = recv(c->fd, c->reply + len, sizeof(c->reply) - 1 - len, 0);
		const char *length;
		char *end;

		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			return false;
		}
		len += (size_t)n;
		c->reply[len] = '\0';
		end = strstr(c->reply, "\r\n\r\n");
		if (end == NULL) {
			continue;
		}
		length = strcasestr(c->reply, "\r\nContent-Length:");
		if (length == NULL || length > end) {
			return false;
		}
		need = (size_t)(end + 4 - c->reply) + strtoul(length + 17, NULL, 10);
		if (len >= need || need >= sizeof(c->reply)) {
			c->status = (int)strtol(c->reply + strcspn(c->reply, " "), NULL, 10);
			c->body = end + 4;
			return len >= need;
		}
	}
}

/* Send and read the answer.  False: the connection broke, nothing is known. */
static bool exchange(struct client *c, const char *text, size_t len)
{
	bool last = ++c->on_connection >= PER_CONNECTION;
	bool answered;

	answered = dial(c) && send(c->fd, text, len, MSG_NOSIGNAL) == (ssize_t)len && read_reply(c);
	if (!answered || last || strcasestr(c->reply, "\r\nConnection: close") != NULL) {
		hang_up(c);
	}
	return answered;
}

static void note_error(struct client *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static void note_error(struct client *c, const char *fmt, ...)
{
	va_list ap;

	if (c->report->errors++ == 0) {
		va_start(ap, fmt);
		vsnprintf(c->report->first_error, sizeof(c->report->first_error), fmt, ap);
		va_end(ap);
	}
}

/* A request that only reads: repeated until it is answered. */
static bool get(struct client *c, const char *target)
{
	char text[256];
	int len =
		snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", target);

	for (unsigned i = 0; i < TRIES; i++) {
		struct timespec pause = {.tv_nsec = 10000000L * i};

		if (exchange(c, text, (size_t)len)) {
			return true;
		}
		c->report->resent++;
		nanosleep(&pause, NULL);
	}
	c->lost = true;
	note_error(c, "GET %s: no answer", target);
	return false;
}

static void get_checked(struct client *c, const char *target)
{
	if (get(c, target) && c->status != 200) {
		note_error(c, "GET %s: %d %s", target, c->status, c->body);
	}
}

/* Ten writes have names with a common beginning: the server lists 20 items at most. */
static void item_name(const struct client *c, uint64_t number, char name[64])
{
	snprintf(name, 64, "load-%d-%d-%07llu", c->run, c->number, (unsigned long long)number);
}

static void post(struct client *c)
{
	char name[64], body[128], text[384];
	int len;

	item_name(c, c->report->done[POST], name);
	len = snprintf(body, sizeof(body), "name=%s&price=1.5", name);
	len = snprintf(text, sizeof(text),
		"POST /item HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len,
		body);
	for (unsigned i = 0; i < TRIES && !dial(c); i++) { /* nothing was sent yet */
		c->report->resent++;
	}
	if (!exchange(c, text, (size_t)len)) {
		if (c->report->unknown < UNKNOWN_MAX) {
			c->unknown[c->report->unknown] = c->report->done[POST];
		}
		c->report->unknown++;
	} else if (c->status != 201) {
		note_error(c, "POST: %d %s", c->status, c->body);
	}
}

/* -- one process ----------------------------------------------------------------------------- */

static enum kind kind_of(uint64_t i)
{
	static const enum kind mix[20] = {ITEM, ITEM, ITEM, POST, ITEM, ITEM, ITEMS, ITEM, PAGE,
		ITEM, POST, ITEM, ITEM, ITEMS, ITEM, ITEM, PAGE, POST, ITEM, ITEM};

	return mix[i % 20];
}

static void one_request(struct client *c, uint64_t i)
{
	enum kind kind = kind_of(i);
	uint64_t start = now_us();
	char target[64];

	switch (kind) {
	case ITEM:
		snprintf(target, sizeof(target), "/item?id=%u", (unsigned)(i * 7919 % 1000 + 1));
		get_checked(c, target);
		break;
	case ITEMS:
		snprintf(target, sizeof(target), "/items?prefix=item+%u", (unsigned)(i % 90 + 10));
		get_checked(c, target);
		break;
	case PAGE:
		get_checked(c, "/page");
		break;
	default:
		post(c);
		break;
	}
	c->report->done[kind]++;
	if (c->report->nsamples < SAMPLES) {
		c->report->sample[c->report->nsamples++] = (uint32_t)(now_us() - start);
	}
}

/* How often is the name in the list of items that was read last? */
static int count_name(const struct client *c, const char *name)
{
	size_t len = strlen(name);
	int n = 0;

	for (const char *p = c->body; (p = strstr(p, name)) != NULL; p += len) {
		n++;
	}
	return n;
}

static bool is_unknown(const struct client *c, uint64_t number)
{
	for (uint64_t i = 0; i < c->report->unknown && i < UNKNOWN_MAX; i++) {
		if (c->unknown[i] == number) {
			return true;
		}
	}
	return false;
}

static void check_write(struct client *c, uint64_t number)
{
	bool unknown = is_unknown(c, number);
	char name[64];
	int n;

	item_name(c, number, name);
	n = count_name(c, name);
	c->report->twice += n > 1;
	c->report->missing += !unknown && n < 1;
	c->report->unknown_done += unknown && n > 0;
}

static void check_writes(struct client *c)
{
	char name[64], target[128];

	if (c->report->unknown > UNKNOWN_MAX) {
		note_error(c, "too many broken connections");
	}
	for (uint64_t i = 0; i < c->report->done[POST] && !c->lost; i++) {
		if (i % 10 == 0) {
			item_name(c, i, name);
			name[strlen(name) - 1] = '\0';
			snprintf(target, sizeof(target), "/items?prefix=%s", name);
			get_checked(c, target);
		}
		check_write(c, i);
	}
}

static _Noreturn void run_client(
	struct client *c, uint64_t end_us, uint64_t requests, int done, int go)
{
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	for (uint64_t i = 0; !c->lost && (requests > 0 ? i < requests : now_us() < end_us); i++) {
		one_request(c, i + (uint64_t)c->number);
	}
	close(done); /* the parent takes the time when all have */
	(void)!read(go, &byte, 1);
	check_writes(c);
	hang_up(c);
	_exit(0);
}

/* -- all of them ----------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void print_latency(const struct report *r, int connections)
{
	uint32_t *all = calloc((size_t)connections * SAMPLES, sizeof(*all));
	size_t n = 0;

	if (all == NULL) {
		return;
	}
	for (int i = 0; i < connections; i++) {
		memcpy(all + n, r[i].sample, r[i].nsamples * sizeof(*all));
		n += r[i].nsamples;
	}
	qsort(all, n, sizeof(*all), by_value);
	if (n > 0) {
		printf("latency   median %.2f ms, 99 %% %.2f ms, worst %.2f ms\n", all[n / 2] / 1e3,
			all[n - 1 - n / 100] / 1e3, all[n - 1] / 1e3);
	}
	free(all);
}

static int print_reports(const struct report *r, int connections, double seconds)
{
	struct report sum = {.errors = 0};
	uint64_t total = 0;

	for (int i = 0; i < connections; i++) {
		for (int k = 0; k < KINDS; k++) {
			sum.done[k] += r[i].done[k];
			total += r[i].done[k];
		}
		sum.errors += r[i].errors;
		sum.resent += r[i].resent;
		sum.unknown += r[i].unknown;
		sum.unknown_done += r[i].unknown_done;
		sum.missing += r[i].missing;
		sum.twice += r[i].twice;
		if (r[i].errors > 0) {
			memcpy(sum.first_error, r[i].first_error, sizeof(sum.first_error));
		}
	}
	printf("requests  %llu (", (unsigned long long)total);
	for (int k = 0; k < KINDS; k++) {
		printf("%s%llu %s", k > 0 ? ", " : "", (unsigned long long)sum.done[k],
			kind_names[k]);
	}
	printf(")\nrate      %.0f/s over %d connections\n", (double)total / seconds, connections);
	print_latency(r, connections);
	printf("broken    %llu requests sent again, %llu writes without an answer (%llu of them "
	       "done)\n",
		(unsigned long long)sum.resent, (unsigned long long)sum.unknown,
		(unsigned long long)sum.unknown_done);
	printf("errors    %llu%s%s\n", (unsigned long long)sum.errors,
		sum.errors > 0 ? ", such as " : "", sum.first_error);
	printf("writes    %llu acknowledged: %llu missing, %llu there twice\n",
		(unsigned long long)(sum.done[POST] - sum.unknown), (unsigned long long)sum.missing,
		(unsigned long long)sum.twice);
	return sum.errors == 0 && sum.missing == 0 && sum.twice == 0 && total > 0 ? 0 : 1;
}

static int run_all(int connections, int port, uint64_t seconds, uint64_t requests)
{
	struct report *r = mmap(NULL, (size_t)connections * sizeof(*r), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t start = now_us(), end;
	static struct client c;
	int done[2], go[2], status, failures = 0;
	char byte;

	if (r == MAP_FAILED || pipe(done) < 0 || pipe(go) < 0) {
		perror("httpload");
		return 1;
	}
	for (int i = 0; i < connections; i++) {
		pid_t pid = fork();

		if (pid < 0) {
			perror("httpload: fork");
			return 1;
		}
		if (pid == 0) {
			close(done[0]);
			close(go[1]);
			c = (struct client){.report = &r[i],
				.port = port,
				.number = i,
				.run = (int)getppid(),
				.fd = -1};
			run_client(&c, start + seconds * 1000000, requests, done[1], go[0]);
		}
	}
	close(done[1]);
	(void)!read(done[0], &byte, 1); /* end of file: all have made their requests */
	end = now_us();
	close(go[1]); /* now they check */
	while (wait(&status) > 0) {
		failures += status != 0;
	}
	if (failures > 0) {
		printf("%d processes ended early\n", failures);
	}
	return print_reports(r, connections, (double)(end - start) / 1e6) + failures > 0;
}

int main(int argc, char **argv)
{
	static const char usage[] =
		"usage: httpload [-c CONNECTIONS] [-t SECONDS | -n REQUESTS] PORT\n";
	static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
	int connections = 8, port, opt;
	uint64_t seconds = 5, requests = 0;

	while ((opt = getopt_long(argc, argv, "c:t:n:h", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			connections = atoi(optarg);
			break;
		case 't':
			seconds = strtoull(optarg, NULL, 10);
			break;
		case 'n':
			requests = strtoull(optarg, NULL, 10);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	port = optind + 1 == argc ? atoi(argv[optind]) : 0;
	if (connections < 1 || connections > CONNECTIONS_MAX || port < 1 || port > 65535) {
		fputs(usage, stderr);
		return 2;
	}
	requests = (requests + (uint64_t)connections - 1) / (uint64_t)connections;
	return run_all(connections, port, seconds, requests);
}
