/* SPDX-License-Identifier: MIT */
/* lease_world.c - see lease_world.h. */
#include "lease_inside.h"

#include "log.h"

#include <unistd.h>

#define ACQUIRE_MS 3000u
#define DRAIN_ROUNDS 4000u

/* -- time -------------------------------------------------------------------------------------- */

static uint64_t clock_ns = 1000000 * MS;

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

void world_pass(uint64_t ns)
{
	clock_ns += ns;
}

void world_turn(struct world *w)
{
	do {
		timer_wheel_run(&w->io.wheel, world_now());
		if (uv_is_active((uv_handle_t *)&w->io.again)) {
			uv_run(&w->io.loop, UV_RUN_NOWAIT);
		}
		io_turn(&w->io);
	} while (workers_take_answers(w) > 0 || uv_is_active((uv_handle_t *)&w->io.again));
	w->turns++;
	oracle_look(w);
}

/* To the next timer; a wheel knows them to the tick. */
static void next_timer(struct world *w)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < TIMER_SLOTS; i++) {
		struct timer *t;

		cds_list_for_each_entry(t, &w->io.wheel.slot[i], link)
		{
			next = t->when_ns < next ? t->when_ns : next;
		}
	}
	if (next != UINT64_MAX && next + TIMER_TICK_MS * MS > world_now()) {
		world_pass(next + TIMER_TICK_MS * MS - world_now());
	}
}

static void tick(struct world *w)
{
	world_pass(IO_TICK_MS * MS);
	timer_wheel_run(&w->io.wheel, world_now());
	pool_tick(w->pool);
	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		session_tick(w->worker[i].wire.s);
	}
}

/* -- events ------------------------------------------------------------------------------------ */

static const char *const event_names[EVENT_COUNT] = {
	[W_LEASE_TX] = "asks for a transaction",
	[W_BEGIN_EXEC] = "begins and writes",
	[W_LEASE] = "asks for a lease",
	[W_EXEC] = "writes in its lease",
	[W_LOOK] = "reads in its lease",
	[W_READ] = "reads",
	[W_WRITE] = "writes",
	[W_COMMIT] = "commits",
	[W_ROLLBACK] = "rolls back or releases",
	[W_CANCEL_OLDEST] = "cancels its oldest statement",
	[W_CANCEL_NEWEST] = "cancels its newest statement",
	[W_DIE] = "dies",
	[W_FREE] = "gives a chunk back",
	[D_OK] = "ends a statement well",
	[D_ERROR] = "fails a statement",
	[D_BEGIN_FAILS] = "cannot begin a transaction",
	[D_LOST] = "is lost",
	[D_READY] = "is connected",
	[D_REFUSED] = "is refused",
	[D_HIT] = "is hit by the cancel",
	[D_SETTLED] = "has the cancel settled",
	[D_CLEAN] = "is clean",
	[D_NOT_CLEAN] = "cannot be cleaned",
	[D_CLOSED] = "is closed",
	[T_TIMER] = "the next timer fires",
	[T_TICK] = "a tick passes",
};

/* An event is its number times 4 plus the worker or connection. */
static uint8_t event(unsigned what, unsigned who)
{
	return (uint8_t)(what * 4 + who);
}

const char *world_event_name(uint8_t e)
{
	static char text[96];
	unsigned what = e / 4;

	snprintf(text, sizeof(text), "%s %u %s",
		what < W_COUNT   ? "worker"
		: what < D_COUNT ? "connection"
				 : "time",
		e % 4, what < EVENT_COUNT ? event_names[what] : "?");
	return text;
}

bool world_event_is_statement(uint8_t e)
{
	return e / 4 == W_EXEC || e / 4 == W_LOOK || e / 4 == W_READ || e / 4 == W_WRITE;
}

bool world_event_is_work(uint8_t e)
{
	return e / 4 >= W_COUNT;
}

bool world_event_is_violent(uint8_t e)
{
	return e / 4 == W_DIE || e / 4 == D_LOST;
}

static const uint32_t alphabets[] = {
	[WORLD_EVERYTHING] = UINT32_MAX,
	[WORLD_TRANSACTIONS] = 1u << W_LEASE_TX | 1u << W_BEGIN_EXEC | 1u << W_EXEC | 1u << W_LOOK |
			       1u << W_COMMIT | 1u << W_ROLLBACK | 1u << D_OK | 1u << D_ERROR |
			       1u << D_SETTLED | 1u << D_CLEAN | 1u << T_TIMER,
	[WORLD_CANCELS] = 1u << W_READ | 1u << W_WRITE | 1u << W_CANCEL_OLDEST |
			  1u << W_CANCEL_NEWEST | 1u << W_DIE | 1u << D_OK | 1u << D_HIT |
			  1u << D_SETTLED | 1u << T_TIMER,
};

void offer(struct menu *m, bool cond, unsigned what, unsigned who)
{
	if (cond && (m->alphabet & 1u << what) != 0 && m->n < WORLD_EVENTS_MAX) {
		m->events[m->n++] = event(what, who);
	}
}

unsigned world_events(struct world *w, uint8_t events[WORLD_EVENTS_MAX])
{
	struct menu m = {.alphabet = alphabets[w->plan.alphabet], .events = events};
	bool fresh = false;

	/* Workers are alike: the first that was not used yet stands for all of those. */
	for (unsigned i = 0; i < WORLD_WORKERS && !fresh; i++) {
		fresh = !w->worker[i].used;
		worker_offer(w, i, &m);
	}
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		db_offer(w, i, &m);
	}
	offer(&m, w->io.wheel.count > 0, T_TIMER, 0);
	offer(&m, true, T_TICK, 0);
	return m.n;
}

void world_do(struct world *w, uint8_t e, bool turn_after)
{
	unsigned what = e / 4, who = e % 4;

	if (what == W_DIE || what >= D_COUNT) { /* not in the middle of a turn */
		world_turn(w);
		turn_after = true;
	}
	w->io.now_fresh = false;
	if (what < W_COUNT) {
		worker_do(w, what, who);
	} else if (what < D_COUNT) {
		db_do(w, what, who);
	} else if (what == T_TIMER) {
		next_timer(w);
	} else {
		tick(w);
	}
	if (turn_after) {
		world_turn(w);
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

const char *world_failure(const struct world *w)
{
	return w->failure[0] != '\0' ? w->failure : NULL;
}

void world_tell(const struct world *w)
{
	static const char *const kinds[] = {[K_LEASE_TX] = "begin",
		[K_LEASE] = "lease",
		[K_EXEC] = "exec",
		[K_LOOK] = "look",
		[K_READ] = "read",
		[K_WRITE] = "write",
		[K_COMMIT] = "commit",
		[K_ROLLBACK] = "rollback",
		[K_RELEASE] = "release"};

	for (unsigned i = 0; i < w->nrecs; i++) {
		const struct rec *r = &w->rec[i];
		char lease[24] = "";

		if (r->lease != NONE) {
			snprintf(lease, sizeof(lease), " of lease %u", r->lease);
		}
		diag("  record %u: worker %u, %s%s, sent %u times%s%s%s%s", i, r->worker,
			kinds[r->kind], lease, r->sends, r->waits ? ", waits" : "",
			r->cancel_asked ? ", cancelled" : "", r->gone ? ", worker gone" : "",
			!r->answered ? ""
			: r->ok      ? ", done"
			: r->unknown ? ", unknown"
				     : ", failed");
	}
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		const struct db *d = &w->db[i];

		diag("  connection %u: state %u, transaction %u%s%s%s", i, d->state, d->tx,
			d->cancel ? ", to be cancelled" : "", d->reset ? ", to be reset" : "",
			d->stalled ? ", stalled" : "");
		for (unsigned j = 0; j < d->n; j++) {
			diag("    record %u", d->queue[j].rec);
		}
	}
}

/* -- the end of everything --------------------------------------------------------------------- */

/* The order of the idle list is the one thing that would remember the past. */
static void sort_idle(struct world *w)
{
	for (unsigned i = WORLD_CONNS; i-- > 0;) {
		cds_list_del(&w->pool->member[0]->conns[i]->link);
		cds_list_add(&w->pool->member[0]->conns[i]->link,
			&w->pool->member[0]->in_state[CONN_IDLE]);
	}
}

void world_reset(struct world *w)
{
	world_turn(w);
	for (unsigned n = 0; n < DRAIN_ROUNDS && w->failure[0] == '\0'; n++) {
		bool busy = false;

		w->io.now_fresh = false;
		for (unsigned i = 0; i < WORLD_WORKERS; i++) {
			busy |= worker_work(w, i);
		}
		for (unsigned i = 0; i < WORLD_CONNS; i++) {
			busy |= db_work(w, &w->db[i]);
		}
		world_turn(w);
		if (!busy && all_idle(w)) {
			break;
		}
		if (!busy) { /* connections that wait for their back-off, cancels that are repeated
			      */
			tick(w);
			world_turn(w);
		}
	}
	oracle_rest(w);
	if (w->failure[0] == '\0') {
		sort_idle(w);
		for (unsigned i = 0; i < WORLD_WORKERS; i++) {
			w->worker[i].used = false;
		}
		for (unsigned i = 0; i < WORLD_CONNS; i++) {
			w->db[i].owner = NONE;
		}
		world_pass(10000 * MS); /* ages of the past do not matter any more */
		tick(w);
		world_turn(w);
		w->nrecs = 0;
		w->round++;
	}
}

/* -- life -------------------------------------------------------------------------------------- */

static void make_config(struct world *w)
{
	w->servers[0] = (char *)"s";
	w->server = (struct config_server){.name = w->servers[0], .url = (char *)"script:"};
	w->pool_config = (struct config_pool){.name = (char *)"main",
		.servers = w->servers,
		.nservers = 1,
		.database = (char *)"",
		.user = (char *)"",
		.max_size = WORLD_CONNS,
		.min_idle = WORLD_CONNS,
		.acquire_timeout = ACQUIRE_MS,
		.max_pipeline = 4,
		.max_connecting = WORLD_CONNS,
		.connect_backoff = 10,
		.connect_backoff_max = 5000,
		.validate_after_idle = -1,
		.validation_timeout = 1000000,
		.cancel_wait_timeout = 10000,
		.slow_threshold = -1};
	w->config = (struct config){.servers = &w->server,
		.nservers = 1,
		.pools = &w->pool_config,
		.npools = 1,
		.broker = {.max_workers = 8, .max_request = 65536, .result_kib = 64}};
}

static void make_io(struct world *w)
{
	static const struct board_place nowhere = {.gid = (gid_t)-1};
	struct board_geometry g = {
		.npools = 1, .nservers = 1, .nconns = WORLD_CONNS, .nworkers = 8, .nslow = 16};
	struct segment_identity id;
	struct pool_plan plan;
	char err[256];

	segment_identity_self(&id);
	if (board_create(&id, &g, &nowhere, &nowhere, &w->board) < 0 ||
		io_init(&w->io, &w->config, w->board) < 0) {
		bail_out("no board or no loop");
	}
	uv_timer_stop(&w->io.tick); /* ticks are events here */
	w->io.spin.on = false; /* the clock would stand still meanwhile */
	w->io.identity = id;
	w->shared = (struct io_shared){.lock = PTHREAD_MUTEX_INITIALIZER,
		.nseats = array_size(w->seats),
		.seats = w->seats,
		.conn_row_taken = w->rows,
		.nconn_rows = WORLD_CONNS};
	w->io.shared = &w->shared;
	w->io.servers = &w->the_server;
	w->io.nservers = 1;
	w->io.pools = &w->pool;
	w->io.npools = 1;
	w->pool = pool_create(&w->io, 0, &w->pool_config);
	if (w->pool == NULL || server_create(&w->io, 0, &w->server, NULL, &w->the_server) < 0 ||
		pool_plan(w->pool, &w->pool_config, &w->the_server, &w->server, 1, NULL, &plan,
			err, sizeof(err)) < 0) {
		bail_out("no pool: %s", err);
	}
	pool_apply(w->pool, &plan);
	if (server_watch(w->the_server) < 0) {
		bail_out("out of memory");
	}
}

struct world *world_create(const struct world_plan *plan)
{
	struct world *w = calloc(1, sizeof(*w));

	if (w == NULL || !log_setup("error", "text")) {
		bail_out("out of memory");
	}
	srandom(1); /* the jitter of the back-off */
	w->plan = *plan;
	w->round = 1;
	db_serve(w);
	make_config(w);
	make_io(w);
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		w->db[i] = (struct db){.c = w->pool->member[0]->conns[i], .owner = NONE};
	}
	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		worker_attach(w, i);
	}
	pool_grow(w->pool);
	world_reset(w);
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
	for (unsigned i = 0; i < WORLD_WORKERS; i++) {
		worker_detach(&w->worker[i]);
	}
	for (unsigned i = 0; i < 4; i++) {
		uv_run(&w->io.loop, UV_RUN_NOWAIT);
	}
	clean = w->io.nsessions == 0;
	pool_close(w->pool);
	for (unsigned i = 0; i < WORLD_CONNS; i++) {
		if (w->db[i].state == DB_CLOSING) {
			db_do(w, D_CLOSED, i);
		}
	}
	pool_destroy(&w->pool);
	server_destroy(&w->the_server);
	io_stop(&w->io);
	uv_run(&w->io.loop, UV_RUN_DEFAULT);
	uv_walk(&w->io.loop, on_walk, &left);
	io_finish(&w->io);
	board_destroy(&w->board);
	free(w);
	*wp = NULL;
	return clean && left == 0;
}
