/* SPDX-License-Identifier: MIT */
/* failover_world.c - time, beginning and end of the world of failover_world.h. */
#include "failover_world.h"

#include "log.h"

#include <stdlib.h>

#define REST_MS 60000u

/* -- time -------------------------------------------------------------------------------------- */

#define BEGINNING (1000000 * MS)

static uint64_t clock_ns = BEGINNING;

/* The clock of the broker (linked with --wrap=doorbell_now). */
uint64_t __wrap_doorbell_now(void);
uint64_t __wrap_doorbell_now(void)
{
	return clock_ns;
}

uint64_t world_now(void)
{
	return clock_ns;
}

void world_turn(struct world *w)
{
	do {
		w->io.now_fresh = false;
		timer_wheel_run(&w->io.wheel, world_now());
		if (uv_is_active((uv_handle_t *)&w->io.again)) {
			uv_run(&w->io.loop, UV_RUN_NOWAIT);
		}
		io_turn(&w->io);
	} while (workers_take_answers(w) > 0 || uv_is_active((uv_handle_t *)&w->io.again));
	w->turns++;
	oracle_look(w);
}

/* As io.c and broker.c do it. */
static void tick(struct world *w)
{
	w->io.now_fresh = false;
	pool_tick(w->pool);
	for (unsigned i = 0; i < WORKERS; i++) {
		session_tick(w->worker[i].wire.s);
	}
	for (unsigned i = 0; i < w->nservers; i++) {
		server_mirror(w->servers[i]);
	}
	w->next_tick_ns = world_now() + IO_TICK_MS * MS;
}

static void note_since(uint64_t *since, bool holds)
{
	if (!holds) {
		*since = 0;
	} else if (*since == 0) {
		*since = world_now();
	}
}

static bool answers(const struct machine *m)
{
	return m->running && !m->hung && !m->cut;
}

void world_watch(struct world *w)
{
	const struct machine *lead = &w->machine[w->lead];

	note_since(&w->lead_ok_ns, answers(lead) && !lead->read_only);
	note_since(&w->missed_ns, w->lead_ok_ns != 0 && (w->pool->writer == NULL ||
								w->pool->decision.writer == LOCAL));
	for (unsigned i = 0; i < MACHINES; i++) {
		note_since(&w->machine[i].silent_ns, !answers(&w->machine[i]));
	}
}

void world_pass(struct world *w, uint64_t ns)
{
	uint64_t end = clock_ns + ns;

	if (ns < MS) { /* between requests of one turn */
		clock_ns = end;
		return;
	}
	while (clock_ns < end && w->failure[0] == '\0') {
		clock_ns += end - clock_ns < STEP_MS * MS ? end - clock_ns : STEP_MS * MS;
		w->io.now_fresh = false;
		db_answer_probes(w);
		db_time_out(w);
		if (clock_ns >= w->next_tick_ns) {
			tick(w);
		}
		world_turn(w);
		world_watch(w);
	}
}

/* -- what went wrong --------------------------------------------------------------------------- */

void wrong(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (w->failure[0] != '\0') {
		return;
	}
	va_start(ap, fmt);
	vsnprintf(w->failure, sizeof(w->failure), fmt, ap);
	va_end(ap);
}

static void tell_record(const struct world *w, unsigned i)
{
	static const char *const kinds[] = {[K_LEASE_TX] = "begin",
		[K_LEASE_RO] = "begin read only",
		[K_LEASE] = "lease",
		[K_EXEC] = "exec",
		[K_LOOK] = "look",
		[K_READ] = "read",
		[K_FRESH] = "fresh read",
		[K_WRITE] = "write",
		[K_COMMIT] = "commit",
		[K_ROLLBACK] = "rollback",
		[K_RELEASE] = "release"};
	const struct rec *r = &w->rec[i];
	char lease[24] = "";

	if (r->lease != NONE) {
		snprintf(lease, sizeof(lease), " of lease %u", r->lease);
	}
	diag("  record %u: worker %u, %s%s, sent %u times%s%s%s%s%s", i, r->worker, kinds[r->kind],
		lease, r->sends, r->waits ? ", waits" : "", r->committed > 0 ? ", committed" : "",
		r->cancel_asked ? ", cancelled" : "", r->gone ? ", worker gone" : "",
		!r->answered ? ""
		: r->ok      ? ", done"
		: r->unknown ? ", unknown"
			     : ", failed");
}

void world_tell(const struct world *w)
{
	for (unsigned i = w->nrecs > 80 ? w->nrecs - 80 : 0; i < w->nrecs; i++) {
		tell_record(w, i);
	}
	for (unsigned i = 0; i < w->nservers; i++) {
		const struct machine *m = &w->machine[i];
		const struct server_state *s = &w->servers[i]->state;

		diag("  server %u: %s%s%s%s%s timeline %u, %u entries, %u shown; taken for: "
		     "verdict %u role %u%s timeline %u lag %llu ms; asked %llu ms ago%s",
			i, m->primary ? "primary" : "standby", m->running ? "" : " crashed",
			m->hung ? " hung" : "", m->cut ? " cut off" : "",
			m->read_only ? " read-only" : "", m->timeline, m->length, db_visible(m),
			s->verdict, s->role, s->writable ? " writable" : "", s->timeline,
			(unsigned long long)(s->lag_ns / MS),
			(unsigned long long)((world_now() - w->servers[i]->asked_ns) / MS),
			w->servers[i]->sent_ns != 0 ? ", no answer yet" : "");
	}
	diag("  lead %u, writer %d, readers %#x, fenced %#x: %s", w->lead, w->pool->decision.writer,
		w->pool->decision.readers, w->pool->decision.fenced, w->pool->decision.why);
}

/* -- rest -------------------------------------------------------------------------------------- */

static void mend_all(struct world *w)
{
	for (unsigned i = 0; i < MACHINES; i++) {
		(void)db_mishap(w, RESUME, i);
		(void)db_mishap(w, MEND, i);
		(void)db_mishap(w, WRITABLE, i);
		(void)db_mishap(w, UNHOLD, i);
		if (i != w->lead) {
			(void)db_mishap(w, REJOIN, i);
		}
		(void)db_mishap(w, START, i);
	}
	world_watch(w);
}

static bool is_quiet(const struct world *w)
{
	bool quiet = w->pool->nwaiters == 0 && w->pool->decision.mode == MODE_NORMAL &&
		     w->pool->decision.writer == (int)w->lead;

	for (unsigned i = 0; i < w->pool->nmembers; i++) {
		quiet = quiet && w->pool->member[i]->state_count[CONN_IDLE] == CONNS;
	}
	for (unsigned i = 0; i < MACHINES; i++) {
		quiet = quiet && w->machine[i].length == w->machine[w->lead].length &&
			db_visible(&w->machine[i]) == w->machine[i].length;
	}
	for (unsigned i = 0; i < w->nrecs; i++) {
		quiet = quiet && (w->rec[i].answered || w->rec[i].gone || is_lease(w->rec[i].kind));
	}
	return quiet;
}

static void work_all(struct world *w)
{
	for (unsigned i = 0; i < w->nservers; i++) {
		while (i < MACHINES && db_replicate(w, i, true)) {
		}
		for (unsigned k = 0; k < CONNS; k++) {
			while (w->failure[0] == '\0' && db_work(w, i, k)) {
				world_turn(w);
			}
		}
	}
}

/* All have the same history now; it is the past. */
static void close_books(struct world *w)
{
	w->lsn_base += LSN_STEP * (uint64_t)w->machine[w->lead].length;
	for (unsigned i = 0; i <= MACHINES; i++) {
		w->machine[i].length = w->machine[i].replayed = 0;
		for (unsigned k = 0; k < CONNS; k++) {
			w->machine[i].link[k].owner = NONE;
		}
	}
	w->promised = 0;
	w->nrecs = 0;
	w->round++;
}

void world_rest(struct world *w)
{
	uint64_t end = world_now() + REST_MS * MS;

	mend_all(w);
	for (unsigned i = 0; i < WORKERS; i++) {
		(void)worker_end(w, i);
	}
	do {
		world_pass(w, STEP_MS * MS);
		work_all(w);
	} while (w->failure[0] == '\0' && world_now() < end && !is_quiet(w));
	oracle_rest(w);
	must(w, is_quiet(w), "in the end a standby has not caught up");
	if (w->failure[0] == '\0') {
		close_books(w);
	}
}

/* -- life -------------------------------------------------------------------------------------- */

static void make_config(struct world *w)
{
	static const char *const names[] = {"a", "b", "c", "local"};

	for (unsigned i = 0; i < w->nservers; i++) {
		w->names[i] = (char *)names[i];
		w->server_config[i] = (struct config_server){.name = w->names[i],
			.url = (char *)(i == LOCAL ? "local:" : "machine:"),
			.health_interval = 500,
			.health_timeout = 500,
			.health_down_after = 3,
			.health_up_after = 5};
	}
	w->pool_config = (struct config_pool){.name = (char *)"main",
		.servers = w->names,
		.nservers = w->nservers,
		.read_from = w->plan.read_from,
		.fallback = w->plan.fallback,
		.max_lag = 2000,
		.database = (char *)"",
		.user = (char *)"",
		.max_size = CONNS,
		.min_idle = CONNS,
		.acquire_timeout = 3000,
		.max_pipeline = 4,
		.max_connecting = CONNS,
		.connect_backoff = 10,
		.connect_backoff_max = 5000,
		.validate_after_idle = -1,
		.validation_timeout = 5000,
		.cancel_wait_timeout = 10000,
		.slow_threshold = -1};
	w->config = (struct config){.servers = w->server_config,
		.nservers = w->nservers,
		.pools = &w->pool_config,
		.npools = 1,
		.broker = {.max_workers = 2 * WORKERS, .max_request = 65536, .result_kib = 1024}};
}

static void make_io(struct world *w)
{
	static const struct board_place nowhere = {.gid = (gid_t)-1};
	struct board_geometry g = {.npools = 1,
		.nservers = w->nservers,
		.nconns = (MACHINES + 1) * CONNS,
		.nworkers = 2 * WORKERS,
		.nslow = 16};
	struct segment_identity id;

	segment_identity_self(&id);
	if (board_create(&id, &g, &nowhere, &nowhere, &w->board) < 0 ||
		io_init(&w->io, &w->config, w->board) < 0) {
		bail_out("no board or no loop");
	}
	uv_timer_stop(&w->io.tick); /* world_pass ticks */
	w->io.spin.on = false; /* the clock would stand still meanwhile */
	w->io.identity = id;
	w->shared = (struct io_shared){.lock = PTHREAD_MUTEX_INITIALIZER,
		.nseats = array_size(w->seats),
		.seats = w->seats,
		.conn_row_taken = w->rows,
		.nconn_rows = array_size(w->rows)};
	w->io.shared = &w->shared;
	w->io.servers = w->servers;
	w->io.nservers = w->nservers;
	w->io.pools = &w->pool;
	w->io.npools = 1;
}

static void make_pool(struct world *w)
{
	struct pool_plan plan;
	char err[256] = "";

	w->pool = pool_create(&w->io, 0, &w->pool_config);
	for (unsigned i = 0; i < w->nservers; i++) {
		if (server_create(&w->io, i, &w->server_config[i], NULL, &w->servers[i]) < 0) {
			bail_out("out of memory");
		}
	}
	if (w->pool == NULL || pool_plan(w->pool, &w->pool_config, w->servers, w->server_config,
				       w->nservers, NULL, &plan, err, sizeof(err)) < 0) {
		bail_out("no pool: %s", err);
	}
	pool_apply(w->pool, &plan);
	for (unsigned i = 0; i < w->nservers; i++) {
		if (server_watch(w->servers[i]) < 0) {
			bail_out("out of memory");
		}
	}
	pool_decide(w->pool);
	pool_grow(w->pool);
}

struct world *world_create(const struct plan *plan)
{
	struct world *w = calloc(1, sizeof(*w));

	if (w == NULL || !log_setup("error", "text")) {
		bail_out("out of memory");
	}
	clock_ns = BEGINNING; /* so that a seed says all */
	w->plan = *plan;
	w->nservers = plan->fallback == FALLBACK_OFF ? MACHINES : MACHINES + 1;
	w->round = 1;
	w->lsn_base = 1000;
	for (unsigned i = 0; i <= MACHINES; i++) {
		w->machine[i] = (struct machine){
			.running = true, .primary = i == 0 || i == LOCAL, .timeline = 1};
	}
	db_serve(w);
	make_config(w);
	make_io(w);
	for (unsigned i = 0; i < WORKERS; i++) {
		worker_attach(w, i);
	}
	make_pool(w);
	world_rest(w);
	return w;
}

static void on_walk(uv_handle_t *h, void *arg)
{
	(void)h;
	++*(unsigned *)arg;
}

bool world_destroy(struct world **wp)
{
	struct world *w = *wp;
	unsigned left = 0;
	bool clean;

	w->io.stopping = true;
	for (unsigned i = 0; i < WORKERS; i++) {
		worker_detach(&w->worker[i]);
	}
	for (unsigned i = 0; i < 4; i++) {
		uv_run(&w->io.loop, UV_RUN_NOWAIT);
	}
	clean = w->io.nsessions == 0;
	for (unsigned i = 0; i < w->nservers; i++) {
		health_stop(w->servers[i]);
	}
	pool_close(w->pool);
	for (unsigned i = 0; i < w->nservers * CONNS; i++) {
		(void)db_work(w, i / CONNS, i % CONNS);
	}
	pool_destroy(&w->pool);
	for (unsigned i = 0; i < w->nservers; i++) {
		server_destroy(&w->servers[i]);
	}
	io_stop(&w->io);
	uv_run(&w->io.loop, UV_RUN_DEFAULT);
	uv_walk(&w->io.loop, on_walk, &left);
	io_finish(&w->io);
	board_destroy(&w->board);
	free(w);
	*wp = NULL;
	return clean && left == 0;
}
