/* SPDX-License-Identifier: MIT */
/* exporter.c - see exporter.h: the loop, the samples, and which path is which document. */
#include "exporter.h"

#include "brokerstat.h"
#include "brokerstat_json.h"
#include "exporter_assets.h"
#include "exporter_history.h"
#include "exporter_http.h"
#include "exporter_json.h"
#include "exporter_live.h"
#include "exporter_ready.h"
#include "exporter_text.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define FRESH_NS UINT64_C(50000000) /* requests that come together share a sample */
#define TYPE_JSON "application/json"
#define TYPE_TEXT "text/plain; charset=utf-8"

struct exporter {
	const char *name;
	bool texts; /* statements may be shown */
	struct http_server *http;
	struct reader *reader; /* NULL: no board yet */
	struct sample *fresh; /* for requests */
	uint64_t fresh_ns; /* when it was taken */
	struct history *history;
	struct sample *before; /* of the latest point of the history */
	char trouble[1024]; /* last text printed about the board */
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ------------------------------------------------------------------------------------------------
 * Samples
 */

/* Follow the broker to its newest board; say once what is wrong with it. */
static void find_board(struct exporter *e)
{
	char text[sizeof(e->trouble)];

	if (e->reader != NULL) {
		reader_follow(e->reader);
	} else if (reader_open(e->name, 0, &e->reader, text, sizeof(text)) < 0 &&
		   strcmp(e->trouble, text) != 0) {
		fprintf(stderr, "brokerstat: %s; waiting for it\n", text);
		memcpy(e->trouble, text, sizeof(text));
	}
}

/* A sample for a request; NULL if there is no board, or no memory. */
static const struct sample *sample_now(struct exporter *e)
{
	struct sample *s;

	if (e->fresh != NULL && clock_ns(CLOCK_MONOTONIC) - e->fresh_ns < FRESH_NS) {
		return e->fresh;
	}
	find_board(e);
	if (e->reader == NULL || reader_sample(e->reader, &s) < 0) {
		return NULL;
	}
	sample_free(&e->fresh);
	e->fresh = s;
	e->fresh_ns = clock_ns(CLOCK_MONOTONIC);
	return s;
}

/* The slow statements, or a negative error; *v is to be freed in any case. */
static int read_slow(struct exporter *e, struct numbered_slow **v)
{
	uint64_t lost;

	*v = NULL;
	if (!e->texts) {
		return -EACCES;
	}
	return e->reader != NULL ? reader_slow(e->reader, 0, v, &lost) : -ENOENT;
}

/* The same of the shapes of statements. */
static int read_shapes(struct exporter *e, struct shape_entry **v)
{
	*v = NULL;
	if (!e->texts) {
		return -EACCES;
	}
	return e->reader != NULL ? reader_shapes(e->reader, v) : -ENOENT;
}

/* Once a second: a point of the history, and a message to those who watch. */
static void tick(struct exporter *e)
{
	struct sample *s = NULL;
	struct live_texts texts;
	char *message;
	size_t len;

	find_board(e);
	if (e->reader != NULL && reader_sample(e->reader, &s) < 0) {
		return;
	}
	history_add(e->history, s, e->before, clock_ns(CLOCK_REALTIME));
	sample_free(&e->before);
	e->before = s;
	texts.nslow = read_slow(e, &texts.slow);
	texts.nshapes = read_shapes(e, &texts.shapes);
	message = live_message(s, e->history, &texts, &len);
	if (message != NULL) {
		http_publish(e->http, message, len);
	}
	free(message);
	free(texts.slow);
	free(texts.shapes);
}

/* ------------------------------------------------------------------------------------------------
 * Documents
 */

static void reply_static(struct http_reply *r, unsigned status, const char *type, const char *text)
{
	*r = (struct http_reply){.status = status, .type = type, .body = text, .len = strlen(text)};
}

static void reply_text(struct http_reply *r, char *text, size_t len, const char *type)
{
	if (text == NULL) {
		reply_static(r, 500, TYPE_TEXT, "out of memory\n");
		return;
	}
	*r = (struct http_reply){.type = type, .body = text, .len = len, .owned = true};
}

/* Consumes root; NULL: memory ran out. */
static void reply_json(struct http_reply *r, unsigned status, json_t *root)
{
	char *text = root == NULL ? NULL
				  : json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER |
							     JSON_REAL_PRECISION(15));

	json_decref(root);
	if (text == NULL) {
		reply_static(r, 500, TYPE_JSON, "{\"error\":\"out of memory\"}");
		return;
	}
	*r = (struct http_reply){.status = status,
		.type = TYPE_JSON,
		.body = text,
		.len = strlen(text),
		.owned = true};
}

static void answer_metrics(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	enum exporter_format format = exporter_accepts(http_header(req, "Accept"));
	const struct sample *s = sample_now(e);
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (f != NULL) {
		exporter_text(f, s, format);
		if (fclose(f) != 0) {
			free(text);
			text = NULL;
		}
	}
	reply_text(r, text, len, exporter_content_type(format));
}

static void answer_health(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	const struct sample *s = sample_now(e);

	reply_json(r, broker_healthy(s) ? 200 : 503, document_health(s));
}

/* ?pool=NAME asks for one pool, ?need=read is content with pools that take no writes. */
static void answer_ready(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	const struct sample *s = sample_now(e);
	const char *pool = http_query(req, "pool"), *need = http_query(req, "need");
	bool write = need == NULL || strcmp(need, "write") == 0;
	bool ready;
	json_t *doc;

	if (!write && strcmp(need, "read") != 0) {
		reply_static(r, 400, TYPE_JSON, "{\"error\":\"need is read or write\"}");
		return;
	}
	doc = document_ready(s, pool, write, &ready);
	reply_json(r, ready ? 200 : 503, doc);
}

static void reply_no_board(struct http_reply *r)
{
	reply_static(r, 503, TYPE_JSON, "{\"error\":\"no board of a broker\"}");
}

/* A document of one sample. */
static void answer_table(struct exporter *e, struct http_reply *r, const char *key,
	json_t *(*table)(const struct sample *))
{
	const struct sample *s = sample_now(e);

	if (s == NULL) {
		reply_no_board(r);
		return;
	}
	reply_json(r, 200, document_table(s, key, table(s)));
}

static void answer_pools(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	answer_table(e, r, "pools", json_pools);
}

static void answer_servers(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	answer_table(e, r, "servers", json_servers);
}

static void answer_connections(
	struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	answer_table(e, r, "connections", json_connections);
}

static void answer_workers(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	answer_table(e, r, "workers", json_workers);
}

static json_t *all_events(const struct sample *s)
{
	return json_events(s, 0);
}

static void answer_events(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	answer_table(e, r, "events", all_events);
}

/* What cannot be said of statements: err as from reader_slow. */
static void reply_no_texts(struct http_reply *r, int err)
{
	if (err == -EACCES || err == -EPERM) {
		reply_static(r, 403, TYPE_JSON,
			"{\"error\":\"statements are not shown by this process\"}");
	} else {
		reply_static(r, 503, TYPE_JSON, "{\"error\":\"no slow-query segment\"}");
	}
}

static void answer_slow(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	const struct sample *s = sample_now(e);
	struct numbered_slow *v;
	int n = read_slow(e, &v);

	if (s == NULL) {
		reply_no_board(r);
	} else if (n < 0) {
		reply_no_texts(r, n);
	} else {
		reply_json(r, 200, document_table(s, "slow", json_slow_list(s, v, (unsigned)n)));
	}
	free(v);
}

static void answer_statements(
	struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	const struct sample *s = sample_now(e);
	struct shape_entry *v;
	int n = read_shapes(e, &v);

	if (s == NULL) {
		reply_no_board(r);
	} else if (n < 0) {
		reply_no_texts(r, n);
	} else {
		reply_json(r, 200,
			document_table(
				s, "statements", json_statements(s, v, (unsigned)n, (unsigned)n)));
	}
	free(v);
}

static void answer_overview(
	struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	size_t len;
	char *text = live_overview(sample_now(e), e->history, &len);

	reply_text(r, text, len, TYPE_JSON);
}

/* Points of the history that are asked for: all of it unless said; 0: not a number. */
static unsigned wanted_seconds(const char *text)
{
	char *end;
	unsigned long n;

	if (text == NULL) {
		return HISTORY_SECONDS;
	}
	n = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end != '\0') {
		return 0;
	}
	return n < HISTORY_SECONDS ? (unsigned)n : HISTORY_SECONDS;
}

/* ?pool=NAME for one pool, ?seconds=N for the newest N points. */
static void answer_history(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	const char *pool = http_query(req, "pool");
	unsigned n = wanted_seconds(http_query(req, "seconds"));
	char *text = NULL;
	size_t len = 0;
	FILE *f;
	bool found;

	if (n == 0) {
		reply_static(r, 400, TYPE_JSON, "{\"error\":\"seconds is a number from 1\"}");
		return;
	}
	f = open_memstream(&text, &len);
	found = f != NULL && history_write(e->history, f, pool, n);
	if (f != NULL && (fclose(f) != 0 || !found)) {
		free(text);
		text = NULL;
	}
	if (f != NULL && !found) {
		reply_static(r, 404, TYPE_JSON, "{\"error\":\"no such pool\"}");
		return;
	}
	reply_text(r, text, len, TYPE_JSON);
}

static void answer_stream(struct exporter *e, const struct http_request *req, struct http_reply *r)
{
	*r = (struct http_reply){.type = "text/event-stream", .stream = true};
}

/* Every path; each stands in brokerstat(1). */
static const struct {
	const char *path;
	void (*answer)(struct exporter *e, const struct http_request *req, struct http_reply *r);
} endpoints[] = {
	{"/metrics", answer_metrics},
	{"/healthz", answer_health},
	{"/readyz", answer_ready},
	{"/events", answer_stream},
	{"/api/overview.json", answer_overview},
	{"/api/history.json", answer_history},
	{"/api/pools.json", answer_pools},
	{"/api/servers.json", answer_servers},
	{"/api/connections.json", answer_connections},
	{"/api/workers.json", answer_workers},
	{"/api/slow.json", answer_slow},
	{"/api/statements.json", answer_statements},
	{"/api/events.json", answer_events},
};

static void answer(void *ctx, const struct http_request *req, struct http_reply *r)
{
	const char *path = http_path(req);

	for (unsigned i = 0; i < array_size(endpoints); i++) {
		if (strcmp(path, endpoints[i].path) == 0) {
			endpoints[i].answer(ctx, req, r);
			return;
		}
	}
	for (unsigned i = 0; i < exporter_nassets; i++) {
		const struct exporter_asset *a = &exporter_assets[i];

		if (strcmp(path, a->path) == 0) {
			*r = (struct http_reply){
				.type = a->type, .body = a->data, .len = a->len, .etag = a->etag};
			return;
		}
	}
	reply_static(r, 404, TYPE_TEXT, "no such document\n");
}

/* ------------------------------------------------------------------------------------------------
 * The loop
 */

static int signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
		return -1;
	}
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int ticker(void)
{
	const struct itimerspec each = {{1, 0}, {0, 1}}; /* the first at once */
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (fd >= 0 && timerfd_settime(fd, 0, &each, NULL) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int serve(struct exporter *e, int signal_fd, int timer_fd)
{
	struct pollfd fds[] = {
		{.fd = signal_fd, .events = POLLIN},
		{.fd = timer_fd, .events = POLLIN},
		{.fd = http_fd(e->http), .events = POLLIN},
	};
	uint64_t times;

	for (;;) {
		if (poll(fds, array_size(fds), http_timeout(e->http)) < 0 && errno != EINTR) {
			fprintf(stderr, "brokerstat: poll: %s\n", strerror(errno));
			return STAT_NOT_FOUND;
		}
		if (fds[0].revents != 0) {
			return STAT_OK;
		}
		if (fds[1].revents != 0 && read(timer_fd, &times, sizeof(times)) > 0) {
			tick(e);
			http_hurry(e->http);
		}
		http_turn(e->http);
	}
}

static int listen_and_serve(struct exporter *e, const char *where, int signal_fd, int timer_fd)
{
	struct http_calls calls = {answer, e};
	int err = http_create(where, &calls, &e->http);

	if (err < 0) {
		fprintf(stderr, "brokerstat: cannot listen on %s: %s\n", where,
			err == -EINVAL ? "not [ADDR:]PORT, with a numeric ADDR or localhost"
				       : strerror(-err));
		return err == -EINVAL ? STAT_USAGE : STAT_NOT_FOUND;
	}
	printf("listening on %s\n", http_url(e->http));
	fflush(stdout);
	return serve(e, signal_fd, timer_fd);
}

int exporter_run(const char *name, const char *where, bool texts)
{
	struct exporter e = {.name = name, .texts = texts, .history = history_create()};
	int signal_fd = signals(), timer_fd = ticker();
	int rc = STAT_NOT_FOUND;

	if (signal_fd < 0 || timer_fd < 0 || e.history == NULL) {
		fprintf(stderr, "brokerstat: cannot start: %s\n", strerror(errno));
	} else {
		rc = listen_and_serve(&e, where, signal_fd, timer_fd);
	}
	http_destroy(&e.http);
	reader_close(&e.reader);
	sample_free(&e.fresh);
	sample_free(&e.before);
	history_destroy(&e.history);
	if (timer_fd >= 0) {
		close(timer_fd);
	}
	if (signal_fd >= 0) {
		close(signal_fd);
	}
	return rc;
}
