/* SPDX-License-Identifier: MIT */
/* live_views.c - grids of the live screen: pools, servers, connections, workers, metrics. */
#include "brokerstat.h"
#include "live_data.h"
#include "text.h"

#include <stdio.h>
#include <string.h>

static const char *const view_names[VIEW_COUNT] = {
	"overview", "pools", "servers", "connections", "workers", "statements", "metrics"};

const char *live_view_name(enum live_view view)
{
	return view_names[view];
}

static const char *mark(bool torn)
{
	return torn ? "?" : "";
}

/* ------------------------------------------------------------------------------------------------
 * Pools
 */

static const struct grid_column pool_grid[] = {
	{"pool", GRID_TEXT, "Name of the pool"},
	{"state", GRID_TEXT, "up; degraded: serves, but not on its first choice or reads only"},
	{"stmt/s", GRID_NUMBER, "Statements that ended, per second of the last interval"},
	{"avg10", GRID_NUMBER, "Statements per second, average of about 10 samples"},
	{"avg100", GRID_NUMBER, "Statements per second, average of about 100 samples"},
	{"avg1000", GRID_NUMBER, "Statements per second, average of about 1000 samples"},
	{"err/s", GRID_NUMBER, "Statements that failed, per second"},
	{"cl_active", GRID_COUNT, "Workers with a lease or a statement running"},
	{"cl_waiting", GRID_COUNT, "Workers that wait for a connection"},
	{"maxwait", GRID_DURATION, "How long the oldest waiting request has waited"},
	{"sv_active", GRID_COUNT, "Connections that run statements or are held by a worker"},
	{"sv_idle", GRID_COUNT, "Connections ready for use"},
	{"sv_login", GRID_COUNT, "Connections being opened"},
	{"sv_leased", GRID_COUNT, "Connections held by one worker, those pinned not counted"},
	{"sv_pinned", GRID_COUNT, "Held connections with session state to be cleaned afterwards"},
	{"sv_used", GRID_COUNT, "Connections idle so long that they are checked before use"},
	{"sv_tested", GRID_COUNT, "Connections being reset or checked"},
	{"max_size", GRID_COUNT, "Most connections the pool opens"},
	{"rows/s", GRID_NUMBER, "Rows returned or changed, per second"},
	{"server", GRID_TEXT, "Server that takes writes now"},
	{"pool_mode", GRID_TEXT, "What a worker gets: a transaction, ..."},
	{"trend", GRID_TEXT, "Statements per second, the last samples"},
};

static void pool_state(struct grid *g, uint32_t state)
{
	char buf[16];

	grid_text(g, "%s", pool_state_name(state, buf));
	grid_tone(g, state == BOARD_POOL_UP     ? TONE_PLAIN
		     : state == BOARD_POOL_DOWN ? TONE_BAD
						: TONE_WARN);
}

/* Averages of what ended, well or not. */
static void pool_averages(struct grid *g, const struct live_data *d, unsigned pool)
{
	static const char *const names[] = {
		"broker_statements_finished_total", "broker_statements_failed_total"};
	double mean[AVERAGE_SPANS] = {0};
	char name[256], clean[BOARD_NAME_MAX];
	bool known = false;

	text_clean(clean, sizeof(clean), d->now->pools[pool].info.name, BOARD_NAME_MAX);
	for (unsigned i = 0; i < array_size(names); i++) {
		const struct average *a;

		snprintf(name, sizeof(name), "%s{pool=\"%s\"}", names[i], clean);
		a = averages_find(&d->averages, name);
		known = known || (a != NULL && a->samples > 0);
		for (unsigned k = 0; a != NULL && k < AVERAGE_SPANS; k++) {
			mean[k] += a->mean[k];
		}
	}
	for (unsigned k = 0; k < AVERAGE_SPANS; k++) {
		if (known) {
			grid_number(g, mean[k]);
		} else {
			grid_none(g, "-");
		}
	}
}

static void errors_rate(struct grid *g, double rate)
{
	grid_number(g, rate);
	grid_tone(g, rate > 0 ? TONE_WARN : TONE_DIM);
}

static void waiting(struct grid *g, const struct live_data *d, unsigned pool)
{
	double wait = (double)pool_maxwait_ns(d->now, pool) / 1e9;

	grid_number(g, (double)pool_column(d->now, pool, 1));
	grid_tone(g, pool_column(d->now, pool, 1) > 0 ? TONE_WARN : TONE_DIM);
	grid_number(g, wait);
	grid_tone(g, wait >= 1 ? TONE_BAD : wait > 0 ? TONE_WARN : TONE_DIM);
}

static double connections(const struct live_data *d, unsigned pool, const char *label)
{
	return (double)series_pool_value(d->now, pool, "broker_pool_connections", label);
}

static void pool_connections(struct grid *g, const struct live_data *d, unsigned i)
{
	grid_number(g, (double)pool_column(d->now, i, 4));
	grid_number(g, (double)pool_column(d->now, i, 7));
	grid_number(g, (double)pool_column(d->now, i, 10));
	grid_number(g, connections(d, i, "state=\"leased\""));
	grid_number(g, connections(d, i, "state=\"pinned\""));
	grid_number(g, (double)pool_column(d->now, i, 8));
	grid_number(g, (double)pool_column(d->now, i, 9));
}

static void pool_row(struct grid *g, const struct live_data *d, unsigned i)
{
	const struct board_pool_info *p = &d->now->pools[i].info;
	char buf[256];

	grid_row(g, i + 1u, NULL);
	grid_text(g, "%s%s", p->name, mark(d->now->pools[i].torn));
	pool_state(g, p->state);
	grid_number(g, d->pools[i].statements);
	pool_averages(g, d, i);
	errors_rate(g, d->pools[i].errors);
	grid_number(g, (double)pool_column(d->now, i, 0));
	waiting(g, d, i);
	pool_connections(g, d, i);
	grid_number(g, p->max_size);
	grid_number(g, d->pools[i].rows);
	grid_text(g, "%s", sample_server_name(d->now, p->server, buf));
	grid_text(g, "%s", p->mode[0] != '\0' ? p->mode : "-");
	grid_text(g, "%s", trail_spark(&d->pools[i].trail[TRAIL_STATEMENTS], 30, buf, sizeof(buf)));
}

static struct grid *make_pools(const struct live_data *d)
{
	struct grid *g = grid_create(pool_grid, array_size(pool_grid));

	for (unsigned i = 0; g != NULL && i < d->now->npools; i++) {
		if (d->now->pools[i].used) {
			pool_row(g, d, i);
		}
	}
	return g;
}

/* The same for the overview, in what fits 80 columns. */
static const struct grid_column throughput_grid[] = {
	{"pool", GRID_TEXT, "Name of the pool"},
	{"state", GRID_TEXT, "up; degraded: serves, but not on its first choice or reads only"},
	{"writes", GRID_TEXT, "Server that takes writes now; - is none"},
	{"stmt/s", GRID_NUMBER, "Statements that ended, per second"},
	{"avg10", GRID_NUMBER, "The same, average of about 10 samples"},
	{"100", GRID_NUMBER, "Of about 100"},
	{"1000", GRID_NUMBER, "Of about 1000"},
	{"err/s", GRID_NUMBER, "Statements that failed, per second"},
	{"wait", GRID_COUNT, "Workers that wait for a connection"},
	{"maxwait", GRID_DURATION, "How long the oldest waiting request has waited"},
	{"conns", GRID_TEXT, "Connections in use, and open"},
	{"trend", GRID_TEXT, "Statements per second, the last samples"},
};

static void throughput_row(struct grid *g, const struct live_data *d, unsigned i)
{
	const struct board_pool_info *p = &d->now->pools[i].info;
	uint64_t busy = pool_column(d->now, i, 4), open = 0;
	char buf[256];

	for (unsigned c = 4; c < POOL_COLUMNS; c++) {
		open += pool_column(d->now, i, c);
	}
	grid_row(g, i + 1u, NULL);
	grid_text(g, "%s%s", p->name, mark(d->now->pools[i].torn));
	pool_state(g, p->state);
	grid_text(g, "%s", sample_server_name(d->now, p->server, buf));
	grid_tone(g, p->server == BOARD_NONE ? TONE_BAD : TONE_PLAIN);
	grid_number(g, d->pools[i].statements);
	pool_averages(g, d, i);
	errors_rate(g, d->pools[i].errors);
	waiting(g, d, i);
	grid_text(g, "%llu/%llu", (unsigned long long)busy, (unsigned long long)open);
	grid_text(g, "%s", trail_spark(&d->pools[i].trail[TRAIL_STATEMENTS], 12, buf, sizeof(buf)));
}

static struct grid *make_throughput(const struct live_data *d)
{
	struct grid *g = grid_create(throughput_grid, array_size(throughput_grid));

	for (unsigned i = 0; g != NULL && i < d->now->npools; i++) {
		if (d->now->pools[i].used) {
			throughput_row(g, d, i);
		}
	}
	return g;
}

static const struct grid_column latency_grid[] = {
	{"pool", GRID_TEXT, "Name of the pool"},
	{"wait_p50", GRID_DURATION,
		"Time in the queue for a connection: half of the requests had less"},
	{"p95", GRID_DURATION, "95 of 100 had less"},
	{"p99", GRID_DURATION, "99 of 100 had less"},
	{"run_p50", GRID_DURATION, "From sending a statement to the last byte of its answer"},
	{"p95", GRID_DURATION, "95 of 100 took less"},
	{"p99", GRID_DURATION, "99 of 100 took less"},
	{"hand_p50", GRID_DURATION,
		"From a connection becoming free to the next waiter's statement"},
	{"p95", GRID_DURATION, "95 of 100 took less"},
	{"p99", GRID_DURATION, "99 of 100 took less"},
};

static void quantiles(struct grid *g, const struct sample *s, unsigned pool, const char *name)
{
	static const double qs[] = {0.5, 0.95, 0.99};
	const struct histogram_copy *h = series_pool_histogram(s, pool, name);

	for (unsigned i = 0; i < array_size(qs); i++) {
		if (h != NULL && h->bucket != NULL && h->count > 0) {
			grid_number(g, (double)histogram_quantile(h, qs[i]) / 1e9);
		} else {
			grid_none(g, "-");
		}
	}
}

static struct grid *make_latency(const struct live_data *d)
{
	struct grid *g = grid_create(latency_grid, array_size(latency_grid));

	for (unsigned i = 0; g != NULL && i < d->now->npools; i++) {
		if (d->now->pools[i].used) {
			grid_row(g, i + 1u, NULL);
			grid_text(g, "%s", d->now->pools[i].info.name);
			quantiles(g, d->now, i, "broker_acquire_seconds");
			quantiles(g, d->now, i, "broker_query_seconds");
			quantiles(g, d->now, i, "broker_handoff_seconds");
		}
	}
	return g;
}

/* ------------------------------------------------------------------------------------------------
 * Servers
 */

static const struct grid_column server_grid[] = {
	{"server", GRID_TEXT, "Name of the server"},
	{"role", GRID_TEXT,
		"primary, standby, or local for a file; as the server itself said last"},
	{"verdict", GRID_TEXT,
		"up; suspect: a probe failed; down: several did; recovering: answers again"},
	{"since", GRID_DURATION, "How long the verdict stands"},
	{"lag", GRID_DURATION, "Standby: age of the newest change it has replayed"},
	{"lag_bytes", GRID_NUMBER, "Standby: bytes of the log it has not replayed yet"},
	{"latency", GRID_DURATION, "Time the last probe took"},
	{"probed", GRID_DURATION, "How long ago a probe was answered"},
	{"conns", GRID_COUNT, "Connections to it, of all pools"},
	{"last_error", GRID_TEXT, "What went wrong last"},
	{"kind", GRID_TEXT, "postgresql or sqlite"},
	{"address", GRID_TEXT, "Where it is; never with a password"},
};

static void server_verdict(struct grid *g, uint32_t state)
{
	char buf[16];

	grid_text(g, "%s", server_state_name(state, buf));
	grid_tone(g, state == BOARD_SERVER_UP     ? TONE_PLAIN
		     : state == BOARD_SERVER_DOWN ? TONE_BAD
						  : TONE_WARN);
}

static void server_lag(struct grid *g, const struct board_server_info *v)
{
	if (v->role != BOARD_ROLE_STANDBY) {
		grid_none(g, "-");
		grid_none(g, "-");
		return;
	}
	grid_number(g, (double)v->lag_ns / 1e9);
	grid_number(g, (double)v->lag_bytes);
}

static void server_row(struct grid *g, const struct live_data *d, unsigned i)
{
	const struct board_server_info *v = &d->now->servers[i].info;
	char buf[16];

	grid_row(g, i + 1u, NULL);
	grid_text(g, "%s%s", v->name, mark(d->now->servers[i].torn));
	grid_text(g, "%s", server_role_name(v->role, buf));
	server_verdict(g, v->state);
	grid_number(g, sample_age(d->now, v->since_ns));
	server_lag(g, v);
	grid_number(g, (double)v->latency_ns / 1e9);
	grid_number(g, sample_age(d->now, v->probed_ns));
	grid_number(g, v->connections);
	grid_text(g, "%s", v->last_error[0] != '\0' ? v->last_error : "-");
	grid_tone(g, v->state == BOARD_SERVER_UP ? TONE_DIM : TONE_PLAIN);
	grid_text(g, "%s", v->kind);
	grid_text(g, "%s", v->address);
}

static struct grid *make_servers(const struct live_data *d)
{
	struct grid *g = grid_create(server_grid, array_size(server_grid));

	for (unsigned i = 0; g != NULL && i < d->now->nservers; i++) {
		if (d->now->servers[i].used) {
			server_row(g, d, i);
		}
	}
	return g;
}

/* ------------------------------------------------------------------------------------------------
 * Connections
 */

static const struct grid_column conn_grid[] = {
	{"conn", GRID_COUNT, "Slot of the connection"},
	{"pool", GRID_TEXT, "Pool it belongs to"},
	{"server", GRID_TEXT, "Server it goes to"},
	{"state", GRID_TEXT,
		"active: runs statements of many; leased, transaction, pinned: held by one worker"},
	{"since", GRID_DURATION, "How long it is in this state"},
	{"worker", GRID_TEXT,
		"Process and name of the worker that holds it, or whose statement runs"},
	{"in_flight", GRID_COUNT, "Statements sent on it and not answered"},
	{"running", GRID_DURATION, "How long the first of these runs"},
	{"backend_pid", GRID_COUNT, "Process on the server, as in pg_stat_activity"},
	{"statements", GRID_COUNT, "Statements run on it so far"},
	{"connected", GRID_DURATION, "How long it is open"},
	{"statement", GRID_TEXT, "Shape of what it runs, or ran last"},
};

const char *live_shape(
	const struct live_data *d, uint32_t pool, uint64_t fingerprint, char *buf, size_t size)
{
	buf[0] = '\0';
	if (fingerprint == 0) {
		return buf;
	}
	for (int i = 0; i < d->texts.nshapes; i++) {
		const struct shape_row *r = &d->texts.shapes[i].row;

		if (r->fingerprint == fingerprint && r->pool == pool) {
			snprintf(buf, size, "%.*s", (int)r->text_len, r->text);
			return buf;
		}
	}
	snprintf(buf, size, "shape %016llx", (unsigned long long)fingerprint);
	return buf;
}

/* State of a connection; one that is held in a transaction and does nothing is worth a word. */
static void conn_state(struct grid *g, const struct live_data *d, const struct board_conn_info *c)
{
	bool idle = c->state == BOARD_CONN_TRANSACTION && c->in_flight == 0;
	double since = sample_age(d->now, c->since_ns);
	char buf[16];

	grid_text(g, "%s", idle ? "idle in transaction" : conn_state_name(c->state, buf));
	grid_tone(g, idle && since >= 1                  ? TONE_WARN
		     : c->state == BOARD_CONN_CANCELLING ? TONE_WARN
		     : c->state == BOARD_CONN_IDLE       ? TONE_DIM
							 : TONE_PLAIN);
}

static const struct worker_row *worker_at(const struct live_data *d, uint32_t slot)
{
	return slot < d->now->nworkers && d->now->workers[slot].used ? &d->now->workers[slot]
								     : NULL;
}

static void conn_row(struct grid *g, const struct live_data *d, unsigned i)
{
	const struct board_conn_info *c = &d->now->conns[i].info;
	const struct worker_row *w = worker_at(d, c->worker_slot);
	char buf[SHAPE_TEXT_MAX + 1];

	grid_row(g, i + 1u, NULL);
	grid_number(g, i);
	grid_text(g, "%s%s", sample_pool_name(d->now, c->pool, buf), mark(d->now->conns[i].torn));
	grid_text(g, "%s", sample_server_name(d->now, c->server, buf));
	conn_state(g, d, c);
	grid_number(g, sample_age(d->now, c->since_ns));
	if (w != NULL) {
		grid_text(g, "%d %s", w->info.pid, w->info.name);
	} else {
		grid_text(g, "%s", "-");
	}
	grid_number(g, c->in_flight);
	grid_number(g, sample_age(d->now, c->statement_ns));
	grid_number(g, c->backend_pid);
	grid_number(g, (double)c->statements);
	grid_number(g, sample_age(d->now, c->connected_ns));
	grid_text(g, "%s", live_shape(d, c->pool, c->fingerprint, buf, sizeof(buf)));
}

static struct grid *make_connections(const struct live_data *d)
{
	struct grid *g = grid_create(conn_grid, array_size(conn_grid));

	for (unsigned i = 0; g != NULL && i < d->now->nconns; i++) {
		if (d->now->conns[i].used && d->now->conns[i].info.state != BOARD_CONN_CLOSED) {
			conn_row(g, d, i);
		}
	}
	return g;
}

/* ------------------------------------------------------------------------------------------------
 * Workers, and what they hold: a row for each connection, and one for each worker without
 */

static const struct grid_column worker_grid[] = {
	{"pid", GRID_COUNT, "Process of the worker"},
	{"name", GRID_TEXT, "As the worker calls itself"},
	{"holds", GRID_TEXT, "Connection it holds, or its statement occupies: pool and slot"},
	{"held", GRID_DURATION, "How long: since its lease began, or without one its statement"},
	{"state", GRID_TEXT, "Of the held connection, otherwise of the worker"},
	{"tag", GRID_TEXT, "Of its latest request"},
	{"statement", GRID_TEXT, "Shape of what the connection runs, or ran last"},
	{"in_flight", GRID_COUNT, "Requests of the worker that are not answered"},
	{"idle", GRID_DURATION, "Time since its latest request"},
	{"statements", GRID_COUNT, "Statements it asked for so far"},
	{"errors", GRID_COUNT, "Those that failed"},
	{"backend_pid", GRID_COUNT, "Process on the server, as in pg_stat_activity"},
	{"server", GRID_TEXT, "Server of the connection"},
	{"attached", GRID_DURATION, "How long it is attached"},
	{"uid", GRID_COUNT, "User it runs as"},
};

static void worker_state(struct grid *g, uint32_t state)
{
	char buf[16];

	grid_text(g, "%s", worker_state_name(state, buf));
	grid_tone(g, state == BOARD_WORKER_ATTACHED  ? TONE_DIM
		     : state == BOARD_WORKER_EVICTED ? TONE_BAD
						     : TONE_WARN);
}

/* What it holds or occupies, since when, in which state; conn BOARD_NONE: nothing. */
static void worker_lease(
	struct grid *g, const struct live_data *d, const struct board_worker_info *w, uint32_t conn)
{
	const struct board_conn_info *c = conn != BOARD_NONE ? &d->now->conns[conn].info : NULL;
	char buf[16];

	if (c == NULL) {
		grid_text(g, "%s", "-");
		grid_none(g, "-");
		worker_state(g, w != NULL ? w->state : BOARD_WORKER_LEAVING);
		return;
	}
	grid_text(g, "%s/%u", sample_pool_name(d->now, c->pool, buf), conn);
	grid_number(g, sample_age(d->now, conn_held_ns(c)));
	conn_state(g, d, c);
}

static void worker_counts(
	struct grid *g, const struct live_data *d, const struct board_worker_info *w)
{
	grid_number(g, w->in_flight);
	grid_number(g, sample_age(d->now, w->active_ns));
	grid_number(g, (double)w->statements);
	grid_number(g, (double)w->errors);
	grid_tone(g, w->errors > 0 ? TONE_WARN : TONE_DIM);
}

static void worker_row(struct grid *g, const struct live_data *d, uint32_t slot, uint32_t conn)
{
	static const struct board_worker_info nobody;
	const struct worker_row *row = worker_at(d, slot);
	const struct board_worker_info *w = row != NULL ? &row->info : &nobody;
	const struct board_conn_info *c = conn != BOARD_NONE ? &d->now->conns[conn].info : NULL;
	char buf[SHAPE_TEXT_MAX + 1] = "";

	grid_row(g, ((uint64_t)slot << 32) + (conn != BOARD_NONE ? conn + 1u : 0), NULL);
	grid_number(g, w->pid);
	grid_text(g, "%s%s", row != NULL ? w->name : "gone", mark(row != NULL && row->torn));
	worker_lease(g, d, w, conn);
	grid_text(g, "%s", w->tag[0] != '\0' ? w->tag : "-");
	grid_text(
		g, "%s", c != NULL ? live_shape(d, c->pool, c->fingerprint, buf, sizeof(buf)) : "");
	worker_counts(g, d, w);
	if (c != NULL) {
		grid_number(g, c->backend_pid);
	} else {
		grid_none(g, "-");
	}
	grid_text(g, "%s", c != NULL ? sample_server_name(d->now, c->server, buf) : "-");
	grid_number(g, sample_age(d->now, w->attached_ns));
	grid_number(g, w->uid);
}

static bool holds(const struct live_data *d, uint32_t slot)
{
	for (unsigned i = 0; i < d->now->nconns; i++) {
		if (d->now->conns[i].used && d->now->conns[i].info.worker_slot == slot) {
			return true;
		}
	}
	return false;
}

static struct grid *make_workers(const struct live_data *d)
{
	struct grid *g = grid_create(worker_grid, array_size(worker_grid));

	for (unsigned i = 0; g != NULL && i < d->now->nconns; i++) {
		if (d->now->conns[i].used && d->now->conns[i].info.worker_slot != BOARD_NONE) {
			worker_row(g, d, d->now->conns[i].info.worker_slot, i);
		}
	}
	for (unsigned i = 0; g != NULL && i < d->now->nworkers; i++) {
		if (d->now->workers[i].used && !holds(d, i)) {
			worker_row(g, d, i, BOARD_NONE);
		}
	}
	return g;
}

/* ------------------------------------------------------------------------------------------------
 * All metrics
 */

static const struct grid_column metric_grid[] = {
	{"name", GRID_TEXT, "Name, as an exporter has it"},
	{"current", GRID_NUMBER, "Value now"},
	{"change", GRID_NUMBER, "Counters: growth per second of the last interval"},
	{"average", GRID_NUMBER, "Counters: growth per second since the broker started"},
	{"avg10", GRID_NUMBER, "Growth of counters, value of others: average of about 10 samples"},
	{"avg100", GRID_NUMBER, "Of about 100 samples"},
	{"avg1000", GRID_NUMBER, "Of about 1000 samples"},
};

/* Seconds are shown as times, whatever the column. */
static void metric_cell(struct grid *g, const struct series *s, double v)
{
	grid_number(g, v);
	if (v == 0) {
		grid_tone(g, TONE_DIM);
	} else if (s->unit[0] == 's' && !s->counter) {
		grid_set_duration(g);
	}
}

static void metric_row(struct grid *g, const struct live_data *d, const struct series *s, size_t i)
{
	const struct average *a = &d->averages.v[i];
	double up = (double)d->now->uptime_ns / 1e9;

	grid_row(g, i + 1u, s->help);
	grid_text(g, "%s", s->name);
	metric_cell(g, s, s->value);
	if (s->counter && d->interval) {
		metric_cell(g, s, s->rate);
	} else {
		grid_none(g, ".");
	}
	if (s->counter && up > 0) {
		metric_cell(g, s, s->value / up);
	} else {
		grid_none(g, ".");
	}
	for (unsigned k = 0; k < AVERAGE_SPANS; k++) {
		if (a->samples > 0) {
			metric_cell(g, s, a->mean[k]);
		} else {
			grid_none(g, ".");
		}
	}
}

static struct grid *make_metrics(const struct live_data *d)
{
	struct grid *g = grid_create(metric_grid, array_size(metric_grid));

	for (size_t i = 0; g != NULL && i < d->series.n && i < d->averages.n; i++) {
		if (d->only == NULL || name_filter_match(d->only, d->series.v[i].name)) {
			metric_row(g, d, &d->series.v[i], i);
		}
	}
	return g;
}

/* ------------------------------------------------------------------------------------------------
 * Which is which
 */

void live_view_defaults(enum live_view view, enum live_kind kind, struct grid_view *v)
{
	*v = (struct grid_view){.sort = -1};
	if (view == VIEW_WORKERS) {
		v->sort = 3; /* held longest */
		v->descending = true;
	} else if (view == VIEW_STATEMENTS && kind == KIND_SHAPES) {
		v->sort = 0; /* the largest share of the time */
		v->descending = true;
	}
}

struct grid *live_part(const struct live_data *d, enum live_part part)
{
	switch (part) {
	case PART_THROUGHPUT:
		return make_throughput(d);
	case PART_LATENCY:
		return make_latency(d);
	case PART_SERVERS:
		return make_servers(d);
	default:
		return live_events(d);
	}
}

struct grid *live_grid(
	const struct live_data *d, enum live_view view, enum live_kind kind, const char **note)
{
	*note = "";
	switch (view) {
	case VIEW_POOLS:
		return make_pools(d);
	case VIEW_SERVERS:
		return make_servers(d);
	case VIEW_CONNECTIONS:
		return make_connections(d);
	case VIEW_WORKERS:
		return make_workers(d);
	case VIEW_STATEMENTS:
		return live_statements(d, kind, note);
	default:
		return make_metrics(d);
	}
}
