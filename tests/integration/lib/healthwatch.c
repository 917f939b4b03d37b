/* SPDX-License-Identifier: MIT */
/*
 * healthwatch.c - health checks of PostgreSQL servers alone, without pools: prints one line
 * whenever what is known of a server has changed.
 *
 *   healthwatch NAME=URL...
 *
 *   MICROSECONDS NAME VERDICT ROLE WRITABLE TIMELINE LAG_MS LATENCY_US
 *
 * of CLOCK_MONOTONIC.  Ends on SIGTERM.  HEALTH_INTERVAL and so on in the environment are the
 * options of the broker of these names, in milliseconds and probes.
 */
#include "board.h"
#include "config.h"
#include "driver.h"
#include "io.h"
#include "log.h"
#include "server.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVERS_MAX 8
#define LOOK_MS 1

struct watched {
	struct config_server config;
	struct server *server;
	void *priv;
	struct server_state shown;
};

static struct io io;
static struct board *board;
static struct watched watched[SERVERS_MAX];
static struct server *servers[SERVERS_MAX];
static unsigned count;
static uv_timer_t look;
static uv_signal_t term;

static void fatal(const char *what)
{
	fprintf(stderr, "healthwatch: %s\n", what);
	exit(2);
}

static int64_t option(const char *name, int64_t usual)
{
	const char *text = getenv(name);

	return text != NULL ? strtoll(text, NULL, 10) : usual;
}

static const char *verdict_name(enum verdict v)
{
	static const char *const names[] = {"unknown", "up", "suspect", "down", "recovering"};

	return names[v];
}

static const char *role_name(enum server_role r)
{
	static const char *const names[] = {"unknown", "primary", "standby", "local"};

	return names[r];
}

static void show(struct watched *w)
{
	const struct server_state *s = &w->server->state;

	if (memcmp(s, &w->shown, sizeof(*s)) == 0) {
		return;
	}
	w->shown = *s;
	printf("%" PRIu64 " %s %s %s %s %u %" PRIu64 " %" PRIu64 "\n", io_now(&io) / 1000,
		w->config.name, verdict_name(s->verdict), role_name(s->role),
		s->writable ? "writable" : "read-only", s->timeline, s->lag_ns / 1000000,
		w->server->latency_ns / 1000);
	fflush(stdout);
}

static void on_look(uv_timer_t *h)
{
	(void)h;
	for (unsigned i = 0; i < count; i++) {
		show(&watched[i]);
	}
}

static void on_term(uv_signal_t *h, int signo)
{
	(void)signo;
	for (unsigned i = 0; i < count; i++) {
		health_stop(watched[i].server);
		server_destroy(&watched[i].server);
		servers[i] = NULL;
		driver_pg.server_close(watched[i].priv);
		free(watched[i].config.name);
	}
	uv_close((uv_handle_t *)h, NULL);
	uv_close((uv_handle_t *)&look, NULL);
	io_stop(&io);
}

static void make_board(void)
{
	const struct board_geometry g = {
		.nservers = SERVERS_MAX, .npools = 1, .nconns = 1, .nworkers = 1, .nslow = 16};
	const struct board_place memory = {.mode = 0600, .gid = (gid_t)-1};

	segment_identity_self(&io.identity);
	if (board_create(&io.identity, &g, &memory, &memory, &board) < 0) {
		fatal("board");
	}
	io.board = board;
}

static void add(char *arg)
{
	static const struct config_pool pool = {.max_size = 1};
	struct watched *w = &watched[count];
	char *eq = strchr(arg, '='), err[300];

	if (eq == NULL || count == SERVERS_MAX) {
		fatal("usage: healthwatch NAME=URL...");
	}
	w->config = (struct config_server){
		.name = strndup(arg, (size_t)(eq - arg)),
		.url = eq + 1,
		.connect_timeout = 5000,
		.health_interval = option("HEALTH_INTERVAL", 500),
		.health_timeout = option("HEALTH_TIMEOUT", 1000),
		.health_down_after = option("HEALTH_DOWN_AFTER", 3),
		.health_up_after = option("HEALTH_UP_AFTER", 2),
	};
	if (server_create(&io, count, &w->config, NULL, &w->server) < 0 ||
		driver_pg.server_open(&io, &w->config, &pool, &w->priv, err, sizeof(err)) < 0 ||
		health_start(w->server, w->priv) < 0) {
		fatal("server");
	}
	servers[count++] = w->server;
	io.nservers = count;
}

int main(int argc, char **argv)
{
	static const struct config config = {0};

	signal(SIGPIPE, SIG_IGN);
	log_setup("info", "text");
	if (argc < 2 || io_init(&io, &config, NULL) < 0) {
		fatal("usage: healthwatch NAME=URL...");
	}
	make_board();
	io.servers = servers;
	for (int i = 1; i < argc; i++) {
		add(argv[i]);
	}
	uv_timer_init(io_uv(&io), &look);
	uv_timer_start(&look, on_look, 0, LOOK_MS);
	uv_signal_init(io_uv(&io), &term);
	uv_signal_start(&term, on_term, SIGTERM);
	io_run(&io);
	io_finish(&io);
	board_destroy(&board);
	return 0;
}
