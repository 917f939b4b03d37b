/* SPDX-License-Identifier: MIT */
/*
 * broker.c - the broker process: wires board, loop, pools and listener; start, stop, shutdown.
 *
 * Start: board -> loop -> pools connect -> all pools ready (or a failure that will not mend) ->
 * listen -> ready.  Stop (SIGTERM, SIGINT): no new work; when nothing is in flight, or
 * shutdown_grace is over, connections close, sessions end, the loop runs dry.  A second signal ends
 * the grace.
 *
 * With several I/O threads (shards.h) this runs on the first; what concerns the others it does
 * while the world stands still.
 */
#include "broker.h"

#include "board.h"
#include "doorbell.h"
#include "io.h"
#include "listener.h"
#include "log.h"
#include "pool.h"
#include "reload.h"
#include "request_core.h"
#include "server.h"
#include "session.h"
#include "shards.h"

#include <errno.h>
#include <grp.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum broker_phase {
	BROKER_STARTING,
	BROKER_SERVING,
	BROKER_DRAINING, /* no new work, what runs may end */
	BROKER_CLOSING, /* connections and sessions are being closed */
	BROKER_STOPPED,
};

struct broker_proc {
	const struct config *cfg;
	const struct broker_start *start;
	struct io io; /* the only one, or shard 0 */
	struct io_shared shared;
	struct board *board;
	unsigned max_pools, max_servers; /* rows of the board */
	uv_signal_t term, intr, hup;
	struct config *loaded; /* the one in force, if it was read by a reload */
	struct config **replaced; /* those before, while removed servers may look at them */
	unsigned nreplaced;
	enum broker_phase phase;
	uint64_t phase_since_ns;
	int status;
};

/* Each I/O thread's, while the world stands still. */
#define for_each_io(b, x)                                                                          \
	for (unsigned shard_ = 0; shard_ < shards_count(&(b)->io); shard_++)                       \
		for (struct io *x = shards_at(&(b)->io, shard_); x != NULL; x = NULL)

static void set_phase(struct broker_proc *b, enum broker_phase phase)
{
	b->phase = phase;
	b->phase_since_ns = io_now(&b->io);
}

/* -- start ------------------------------------------------------------------------------------- */

static gid_t monitor_gid(const struct config *cfg)
{
	const char *name = cfg->broker.monitor_group;
	const struct group *g;
	char *end;
	unsigned long v;

	if (name == NULL || *name == '\0') {
		return (gid_t)-1;
	}
	v = strtoul(name, &end, 10);
	if (*end == '\0') {
		return (gid_t)v;
	}
	g = getgrnam(name);
	if (g == NULL) {
		log_warning("[broker] monitor_group: no such group: %s", name);
		return (gid_t)-1;
	}
	return g->gr_gid;
}

/* Rows beyond those needed now, for what a reload brings.  Untouched ones cost no memory. */
#define SPARE_POOLS 16u
#define SPARE_SERVERS 32u
#define SPARE_CONNS 1024u

/* Connections beyond what a board can have work as well; they are not shown one by one. */
static unsigned count_conns(const struct config *cfg)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < cfg->npools; i++) {
		const struct config_pool *p = &cfg->pools[i];

		n += p->nservers * ((unsigned)p->max_size + (unsigned)p->max_overflow +
					   MEMBER_MAX_READERS + 2) *
		     (uint64_t)cfg->broker.io_threads;
	}
	n += SPARE_CONNS;
	return n < BOARD_ROWS_MAX ? (unsigned)n : BOARD_ROWS_MAX;
}

static int make_board(struct broker_proc *b)
{
	const struct config *cfg = b->cfg;
	char s_path[512], q_path[512];
	struct board_geometry g = {
		.npools = cfg->npools + SPARE_POOLS,
		.nservers = cfg->nservers + SPARE_SERVERS,
		.nconns = count_conns(cfg),
		.nworkers = (unsigned)cfg->broker.max_workers,
		.nslow = (unsigned)cfg->broker.slow_log_size,
		.nshapes = (unsigned)cfg->broker.statement_shapes,
	};
	/* Who may open the socket may read the board. */
	struct board_place s = {.path = s_path,
		.mode = (mode_t)(0600 | ((unsigned)cfg->broker.socket_mode & 0044)),
		.gid = (gid_t)-1};
	struct board_place q = {.path = q_path, .mode = 0640, .gid = monitor_gid(cfg)};
	int err;

	for (unsigned i = 0; i < cfg->npools; i++) {
		g.nsamples = cfg->pools[i].slow_sample > 0 ? g.nslow : g.nsamples;
	}
	if (q.gid == (gid_t)-1) {
		q.mode = 0600;
	}
	snprintf(s_path, sizeof(s_path), "%s.board", cfg->broker.socket);
	snprintf(q_path, sizeof(q_path), "%s.slow", cfg->broker.socket);
	segment_identity_self(&b->io.identity);
	err = board_create(&b->io.identity, &g, &s, &q, &b->board);
	if (err == -EEXIST) {
		log_error("another broker is running on %s; "
			  "stop it, or set another socket in [broker]",
			cfg->broker.socket);
	} else if (err < 0) {
		log_error("cannot create the board %s: %s", s_path, strerror(-err));
	}
	b->max_pools = g.npools;
	b->max_servers = g.nservers;
	b->shared.nconn_rows = g.nconns;
	return err;
}

static int make_tables(struct broker_proc *b)
{
	struct io_shared *sh = &b->shared;
	struct io *io = &b->io;

	sh->nseats = (unsigned)b->cfg->broker.max_workers;
	sh->seats = calloc(sh->nseats, sizeof(struct io_seat));
	sh->conn_row_taken = calloc(sh->nconn_rows, sizeof(bool));
	io->pools = calloc(b->max_pools, sizeof(struct pool *));
	io->servers = calloc(b->max_servers, sizeof(struct server *));
	if (sh->seats == NULL || sh->conn_row_taken == NULL || io->pools == NULL ||
		io->servers == NULL) {
		log_error("out of memory");
		return -ENOMEM;
	}
	return 0;
}

static int make_pools(struct broker_proc *b)
{
	char err[512] = "";

	if (reload_apply(&b->io, b->cfg, b->max_pools, b->max_servers, err, sizeof(err)) < 0) {
		log_error("%s", err);
		return -1;
	}
	return 0;
}

static void announce_ready(struct broker_proc *b)
{
	if (b->start->ready_fd >= 0) {
		ssize_t n = write(b->start->ready_fd, "1", 1);

		(void)n; /* whoever waited is gone, and then nobody needs it */
		close(b->start->ready_fd);
	}
	log_info("ready: %u pool%s, socket %s", b->io.npools, b->io.npools == 1 ? "" : "s",
		b->cfg->broker.socket);
	board_event(b->io.board, BOARD_EVENT_START, "broker %s, pid %d", SHMBROKER_VERSION,
		(int)getpid());
}

static void start_closing(struct broker_proc *b);

static void give_up_start(struct broker_proc *b, const char *why)
{
	log_error("%s", why);
	b->status = EXIT_FAILURE;
	start_closing(b);
}

/* A pool that is not ready: may the start go on without it?  False: wait, or give up with *why. */
static bool may_start_without(struct broker_proc *b, struct pool *p, char *why, size_t size)
{
	uint64_t patience = (uint64_t)p->config->init_fail_timeout * 1000000u;

	if (patience == 0) {
		return true;
	}
	if (pool_is_hopeless(p, why, size)) {
		return false;
	}
	if (io_now(&b->io) - b->phase_since_ns <= patience) {
		why[0] = '\0';
	}
	return false;
}

/* Every pool must have reached a database before the first worker is let in. */
static void check_start(struct broker_proc *b)
{
	char why[512] = "", err[256] = "";
	int rc;

	for (unsigned i = 0; i < b->io.npools; i++) {
		struct pool *p = b->io.pools[i];

		if (!pool_is_ready(p) && !may_start_without(b, p, why, sizeof(why))) {
			if (why[0] != '\0') {
				give_up_start(b, why);
			}
			return;
		}
	}
	shards_stop(&b->io);
	rc = listener_create(&b->io, b->cfg->broker.socket, (int)b->cfg->broker.socket_mode,
		b->start->listen_fd, b->start->attach_fd, err, sizeof(err));
	shards_go(&b->io);
	if (rc < 0) {
		give_up_start(b, err);
		return;
	}
	set_phase(b, BROKER_SERVING);
	announce_ready(b);
}

/* -- stop -------------------------------------------------------------------------------------- */

static bool is_working(const struct io *io)
{
	for (unsigned i = 0; i < io->npools; i++) {
		if (io->pools[i] != NULL && pool_used(io->pools[i]) > 0) {
			return true;
		}
	}
	return false;
}

static bool work_in_flight(struct broker_proc *b)
{
	bool some = false;

	shards_stop(&b->io);
	for_each_io(b, x) {
		some |= is_working(x);
	}
	shards_go(&b->io);
	return some;
}

static void drain(struct io *io)
{
	io->stopping = true;
	for (unsigned i = 0; i < io->npools; i++) {
		pool_refuse_waiters(io->pools[i]);
	}
}

static void start_draining(struct broker_proc *b)
{
	log_info("stopping");
	board_event(b->io.board, BOARD_EVENT_STOP, "broker stops");
	shards_stop(&b->io);
	listener_destroy(&b->io);
	for_each_io(b, x) {
		drain(x);
	}
	shards_go(&b->io);
	set_phase(b, BROKER_DRAINING);
}

static void close_all(struct io *io)
{
	io->stopping = true;
	for (unsigned i = 0; i < io->nservers; i++) {
		if (io->servers[i] != NULL) {
			health_stop(io->servers[i]);
		}
	}
	for (unsigned i = 0; i < io->npools; i++) {
		if (io->pools[i] != NULL) {
			pool_close(io->pools[i]);
		}
	}
}

static void start_closing(struct broker_proc *b)
{
	shards_stop(&b->io);
	listener_destroy(&b->io);
	for_each_io(b, x) {
		close_all(x);
	}
	shards_go(&b->io);
	set_phase(b, BROKER_CLOSING);
}

static void close_loop(struct io *io)
{
	while (!cds_list_empty(&io->sessions)) {
		session_end(session_of_link(io->sessions.next), NULL);
	}
	shards_close(io);
	io_stop(io);
}

static bool pools_closed(const struct io *io)
{
	for (unsigned i = 0; i < io->npools; i++) {
		if (io->pools[i] != NULL && !pool_is_closed(io->pools[i])) {
			return false;
		}
	}
	return true;
}

/* Once all connections are closed the loops may run dry. */
static void close_loops(struct broker_proc *b)
{
	bool closed = true;

	shards_stop(&b->io);
	for_each_io(b, x) {
		closed &= pools_closed(x);
	}
	if (closed) {
		for_each_io(b, x) {
			close_loop(x);
		}
		uv_close((uv_handle_t *)&b->term, NULL);
		uv_close((uv_handle_t *)&b->intr, NULL);
		uv_close((uv_handle_t *)&b->hup, NULL);
		set_phase(b, BROKER_STOPPED);
	}
	shards_go(&b->io);
}

static void on_tick(struct io *io, void *arg)
{
	struct broker_proc *b = arg;
	uint64_t age = io_now(io) - b->phase_since_ns;

	for (unsigned i = 0; i < io->nservers; i++) {
		if (io->servers[i] != NULL && server_watch(io->servers[i]) == 0) {
			server_mirror(io->servers[i]);
		}
	}
	switch (b->phase) {
	case BROKER_STARTING:
		check_start(b);
		break;
	case BROKER_SERVING:
	case BROKER_STOPPED:
		break;
	case BROKER_DRAINING:
		if (!work_in_flight(b) ||
			age > (uint64_t)b->io.config->broker.shutdown_grace * 1000000u) {
			start_closing(b);
		}
		break;
	case BROKER_CLOSING:
		close_loops(b);
		break;
	}
	if (io->shards != NULL) {
		board_sum(b->board, io->npools);
	}
}

static void on_signal(uv_signal_t *h, int signo)
{
	struct broker_proc *b = h->data;

	(void)signo;
	switch (b->phase) {
	case BROKER_STARTING:
	case BROKER_DRAINING:
		start_closing(b);
		break;
	case BROKER_SERVING:
		start_draining(b);
		break;
	case BROKER_CLOSING:
	case BROKER_STOPPED:
		break;
	}
}

/* -- reload ------------------------------------------------------------------------------------ */

static void tell_change(const char *text)
{
	log_info("reload: %s", text);
}

/* A line at a time. */
static void tell_lines(char *text)
{
	for (char *end; *text != '\0'; text = end) {
		end = text + strcspn(text, "\n");
		if (*end != '\0') {
			*end++ = '\0';
		}
		log_warning("reload: %s", text);
	}
}

/* Servers of former configurations that somebody looks at still. */
static bool has_removed(struct broker_proc *b)
{
	unsigned n = 0;

	shards_stop(&b->io);
	for_each_io(b, x) {
		n += x->nremoved;
	}
	shards_go(&b->io);
	return n > 0;
}

static void drop_replaced(struct broker_proc *b)
{
	while (b->nreplaced > 0) {
		config_free(b->replaced[--b->nreplaced]);
	}
}

/* False: no memory. */
static bool make_room_for_replaced(struct broker_proc *b)
{
	struct config **more;

	if (!has_removed(b)) {
		drop_replaced(b);
	}
	more = realloc(b->replaced, (b->nreplaced + 1) * sizeof(struct config *));
	if (more != NULL) {
		b->replaced = more;
	}
	return more != NULL;
}

static void reload(struct broker_proc *b)
{
	const struct config *now = b->io.config;
	char err[4096] = "", notes[4096] = "";
	struct config *next;
	int rc;

	if (!make_room_for_replaced(b)) {
		log_error("reload: out of memory; nothing was changed");
		return;
	}
	rc = config_reload(
		now, b->start->source, &next, err, sizeof(err), notes, sizeof(notes));
	if (rc < 0) {
		tell_lines(err);
		log_error("reload: nothing was changed");
		board_event(b->io.board, BOARD_EVENT_RELOAD, "refused: %.150s", err);
		return;
	}
	if (reload_apply(&b->io, next, b->max_pools, b->max_servers, err, sizeof(err)) < 0) {
		log_error("reload: %s; nothing was changed", err);
		board_event(b->io.board, BOARD_EVENT_RELOAD, "refused: %.150s", err);
		config_free(next);
		return;
	}
	tell_lines(notes);
	board_event(b->io.board, BOARD_EVENT_RELOAD, "%u changes",
		config_tell_changes(now, next, tell_change));
	board_count(b->io.board, METRIC_RELOADS, 1);
	(void)log_setup(next->broker.log_level, next->broker.log_format);
	if (b->loaded != NULL) {
		b->replaced[b->nreplaced++] = b->loaded;
	}
	b->loaded = next;
	log_info("reload: done");
}

static void on_hup(uv_signal_t *h, int signo)
{
	struct broker_proc *b = h->data;

	(void)signo;
	if (b->start->source == NULL || b->phase != BROKER_SERVING) {
		log_warning("SIGHUP: the configuration is read again only while the broker serves");
		return;
	}
	reload(b);
}

/* -- main -------------------------------------------------------------------------------------- */

/*
 * Workers must not look into us: no core dump, no ptrace and no /proc/PID/mem by other processes of
 * the same user.  Descriptors: two per worker at rest, four while attaching.
 */
static void harden(const struct config *cfg)
{
	struct rlimit rl;
	rlim_t need = (rlim_t)cfg->broker.max_workers * 4 + 256;

	if (getenv("BROKER_DUMPABLE") == NULL) {
		(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	}
	signal(SIGPIPE, SIG_IGN);
	/* Large values come and go: what they took is given back at once, not kept in the heap. */
	(void)mallopt(M_MMAP_THRESHOLD, 256 * 1024);
	(void)mallopt(M_TRIM_THRESHOLD, 1024 * 1024);
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < need) {
		rl.rlim_cur = rl.rlim_max < need ? rl.rlim_max : need;
		(void)setrlimit(RLIMIT_NOFILE, &rl);
	}
}

/* What hangs off one I/O thread. */
static void destroy_served(struct io *io)
{
	for (unsigned i = 0; io->pools != NULL && i < io->npools; i++) {
		pool_destroy(&io->pools[i]);
	}
	for (unsigned i = 0; io->servers != NULL && i < io->nservers; i++) {
		server_destroy(&io->servers[i]);
	}
}

static void destroy(struct broker_proc *b)
{
	for_each_io(b, x) {
		destroy_served(x);
	}
	shards_destroy(&b->io);
	free(b->io.pools);
	free(b->io.servers);
	free(b->shared.conn_row_taken);
	free(b->shared.seats);
	pthread_mutex_destroy(&b->shared.lock);
	drop_replaced(b);
	free(b->replaced);
	config_free(b->loaded);
	io_finish(&b->io);
	board_destroy(&b->board);
}

static void watch_signal(struct broker_proc *b, uv_signal_t *h, uv_signal_cb cb, int signo)
{
	uv_signal_init(&b->io.loop, h);
	h->data = b;
	uv_signal_start(h, cb, signo);
}

/* False: there is no broker. */
static bool make_loops(struct broker_proc *b)
{
	struct segment_identity id = b->io.identity; /* io_init begins with nothing */

	pthread_mutex_init(&b->shared.lock, NULL);
	if (io_init(&b->io, b->cfg, b->board) < 0) {
		log_error("cannot set up the event loop");
		return false;
	}
	b->io.identity = id;
	b->io.shared = &b->shared;
	b->io.on_tick = on_tick;
	b->io.on_tick_arg = b;
	if (make_tables(b) < 0) {
		return false;
	}
	if (b->cfg->broker.io_threads > 1 &&
		shards_create(&b->io, (unsigned)b->cfg->broker.io_threads, b->max_pools,
			b->max_servers) < 0) {
		log_error("cannot set up %d I/O threads", (int)b->cfg->broker.io_threads);
		return false;
	}
	board_gauge(b->io.board, METRIC_IO_THREADS, shards_count(&b->io));
	return true;
}

int broker_main(const struct config *cfg, const struct broker_start *start)
{
	struct broker_proc *b = calloc(1, sizeof(*b));
	int status;

	if (b == NULL) {
		log_error("out of memory");
		return EXIT_FAILURE;
	}
	b->cfg = cfg;
	b->start = start;
	harden(cfg);
	if (make_board(b) < 0) {
		free(b);
		return EXIT_FAILURE;
	}
	if (!make_loops(b)) { /* the process ends: what was made goes with it, but not the files */
		board_destroy(&b->board);
		free(b);
		return EXIT_FAILURE;
	}
	watch_signal(b, &b->term, on_signal, SIGTERM);
	watch_signal(b, &b->intr, on_signal, SIGINT);
	watch_signal(b, &b->hup, on_hup, SIGHUP);
	set_phase(b, BROKER_STARTING);
	/* Threads first: where one is missing nothing may be open. */
	if (shards_start(&b->io) < 0 || make_pools(b) < 0) {
		b->status = EXIT_FAILURE;
		start_closing(b);
	}
	io_run(&b->io);
	shards_join(&b->io);
	status = b->status;
	destroy(b);
	free(b);
	return status;
}
