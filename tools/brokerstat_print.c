/* SPDX-License-Identifier: MIT */
/* brokerstat_print.c - a sample as text: aligned tables under stable column names. */
#include "brokerstat.h"

#include "series.h"
#include "text.h"

#include <errno.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------
 * Names
 */

static const char *named(const char *const *names, size_t n, uint32_t i, char buf[16])
{
	if (i < n && names[i] != NULL) {
		return names[i];
	}
	snprintf(buf, 16, "?%u", i); /* of a newer broker */
	return buf;
}

const char *pool_state_name(uint32_t state, char buf[16])
{
	static const char *const names[] = {
		[BOARD_POOL_STARTING] = "starting",
		[BOARD_POOL_UP] = "up",
		[BOARD_POOL_DEGRADED] = "degraded",
		[BOARD_POOL_DOWN] = "down",
		[BOARD_POOL_PAUSED] = "paused",
	};

	return named(names, array_size(names), state, buf);
}

const char *server_state_name(uint32_t state, char buf[16])
{
	static const char *const names[] = {
		[BOARD_SERVER_UNKNOWN] = "unknown",
		[BOARD_SERVER_UP] = "up",
		[BOARD_SERVER_SUSPECT] = "suspect",
		[BOARD_SERVER_DOWN] = "down",
		[BOARD_SERVER_RECOVERING] = "recovering",
	};

	return named(names, array_size(names), state, buf);
}

const char *server_role_name(uint32_t role, char buf[16])
{
	static const char *const names[] = {
		[BOARD_ROLE_UNKNOWN] = "unknown",
		[BOARD_ROLE_PRIMARY] = "primary",
		[BOARD_ROLE_STANDBY] = "standby",
		[BOARD_ROLE_LOCAL] = "local",
	};

	return named(names, array_size(names), role, buf);
}

const char *conn_state_name(uint32_t state, char buf[16])
{
	static const char *const names[] = {
		[BOARD_CONN_CLOSED] = "closed",
		[BOARD_CONN_LOGIN] = "login",
		[BOARD_CONN_IDLE] = "idle",
		[BOARD_CONN_ACTIVE] = "active",
		[BOARD_CONN_LEASED] = "leased",
		[BOARD_CONN_TRANSACTION] = "transaction",
		[BOARD_CONN_PINNED] = "pinned",
		[BOARD_CONN_CANCELLING] = "cancelling",
		[BOARD_CONN_RESETTING] = "resetting",
		[BOARD_CONN_TESTING] = "testing",
	};

	return named(names, array_size(names), state, buf);
}

const char *worker_state_name(uint32_t state, char buf[16])
{
	static const char *const names[] = {
		[BOARD_WORKER_ATTACHED] = "attached",
		[BOARD_WORKER_STALLED] = "stalled",
		[BOARD_WORKER_EVICTED] = "evicted",
		[BOARD_WORKER_LEAVING] = "leaving",
	};

	return named(names, array_size(names), state, buf);
}

/* ------------------------------------------------------------------------------------------------
 * PgBouncer's columns
 */

#define CONNECTIONS "broker_pool_connections"
#define CLIENTS "broker_pool_clients"

const char *const pool_columns[POOL_COLUMNS] = {"cl_active", "cl_waiting", "cl_active_cancel_req",
	"cl_waiting_cancel_req", "sv_active", "sv_active_cancel", "sv_being_canceled", "sv_idle",
	"sv_used", "sv_tested", "sv_login"};

/* What each column adds up. */
static const struct {
	const char *name;
	const char *label[3];
} column_sources[POOL_COLUMNS] = {
	{CLIENTS, {"state=\"active\""}},
	{CLIENTS, {"state=\"waiting\""}},
	{CLIENTS, {"state=\"active_cancel_req\""}},
	{CLIENTS, {"state=\"waiting_cancel_req\""}},
	{CONNECTIONS, {"state=\"active\"", "state=\"leased\"", "state=\"pinned\""}},
	{CONNECTIONS, {"state=\"active_cancel\""}},
	{CONNECTIONS, {"state=\"being_canceled\""}},
	{CONNECTIONS, {"state=\"idle\""}},
	{CONNECTIONS, {"state=\"used\""}},
	{CONNECTIONS, {"state=\"tested\""}},
	{CONNECTIONS, {"state=\"login\""}},
};

uint64_t pool_column(const struct sample *s, unsigned pool, unsigned column)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < 3 && column_sources[column].label[i] != NULL; i++) {
		sum += series_pool_value(
			s, pool, column_sources[column].name, column_sources[column].label[i]);
	}
	return sum;
}

uint64_t pool_maxwait_ns(const struct sample *s, unsigned pool)
{
	return series_pool_since(s, pool, "broker_pool_maxwait_seconds", "");
}

/* ------------------------------------------------------------------------------------------------
 * Tables
 */

static const char *mark(bool torn)
{
	return torn ? "?" : "";
}

static void cell_duration(struct text_table *t, double seconds)
{
	char buf[32];

	text_table_cell(t, "%s", text_duration(buf, sizeof(buf), seconds));
}

struct text_table *table_pools(const struct sample *s)
{
	struct text_table *t = text_table_create(
		"pool database user >cl_active >cl_waiting >cl_active_cancel_req "
		">cl_waiting_cancel_req >sv_active >sv_active_cancel >sv_being_canceled >sv_idle "
		">sv_used >sv_tested >sv_login >maxwait >maxwait_us pool_mode >sv_leased "
		">sv_pinned "
		">max_size state server");
	char buf[16];

	for (unsigned i = 0; t != NULL && i < s->npools; i++) {
		const struct board_pool_info *p = &s->pools[i].info;
		uint64_t wait = pool_maxwait_ns(s, i);

		if (!s->pools[i].used) {
			continue;
		}
		text_table_cell(t, "%s%s", p->name, mark(s->pools[i].torn));
		text_table_cell(t, "%s", p->database[0] != '\0' ? p->database : "-");
		text_table_cell(t, "%s", p->user[0] != '\0' ? p->user : "-");
		for (unsigned c = 0; c < POOL_COLUMNS; c++) {
			text_table_cell(t, "%llu", (unsigned long long)pool_column(s, i, c));
		}
		text_table_cell(t, "%llu", (unsigned long long)(wait / 1000000000u));
		text_table_cell(t, "%llu", (unsigned long long)(wait % 1000000000u / 1000u));
		text_table_cell(t, "%s", p->mode[0] != '\0' ? p->mode : "-");
		text_table_cell(t, "%llu",
			(unsigned long long)series_pool_value(
				s, i, CONNECTIONS, "state=\"leased\""));
		text_table_cell(t, "%llu",
			(unsigned long long)series_pool_value(
				s, i, CONNECTIONS, "state=\"pinned\""));
		text_table_cell(t, "%u", p->max_size);
		text_table_cell(t, "%s", pool_state_name(p->state, buf));
		text_table_cell(t, "%s", sample_server_name(s, p->server, buf));
	}
	return t;
}

struct text_table *table_servers(const struct sample *s)
{
	struct text_table *t =
		text_table_create("server kind role state >since >connections >max "
				  ">lag >lag_bytes >latency >probed address last_error");
	char buf[16];

	for (unsigned i = 0; t != NULL && i < s->nservers; i++) {
		const struct board_server_info *v = &s->servers[i].info;

		if (!s->servers[i].used) {
			continue;
		}
		text_table_cell(t, "%s%s", v->name, mark(s->servers[i].torn));
		text_table_cell(t, "%s", v->kind);
		text_table_cell(t, "%s", server_role_name(v->role, buf));
		text_table_cell(t, "%s", server_state_name(v->state, buf));
		cell_duration(t, sample_age(s, v->since_ns));
		text_table_cell(t, "%u", v->connections);
		text_table_cell(t, v->max_connections != 0 ? "%u" : "-", v->max_connections);
		cell_duration(t, (double)v->lag_ns / 1e9);
		text_table_cell(t, "%llu", (unsigned long long)v->lag_bytes);
		cell_duration(t, (double)v->latency_ns / 1e9);
		cell_duration(t, sample_age(s, v->probed_ns));
		text_table_cell(t, "%s", v->address);
		text_table_cell(t, "%s", v->last_error[0] != '\0' ? v->last_error : "-");
	}
	return t;
}

struct text_table *table_workers(const struct sample *s)
{
	struct text_table *t = text_table_create("worker >pid >uid name state pool >attached >idle "
						 ">in_flight >leases >statements >errors tag");
	char buf[16];

	for (unsigned i = 0; t != NULL && i < s->nworkers; i++) {
		const struct board_worker_info *w = &s->workers[i].info;

		if (!s->workers[i].used) {
			continue;
		}
		text_table_cell(t, "%u%s", i, mark(s->workers[i].torn));
		text_table_cell(t, "%d", w->pid);
		text_table_cell(t, "%u", w->uid);
		text_table_cell(t, "%s", w->name);
		text_table_cell(t, "%s", worker_state_name(w->state, buf));
		text_table_cell(t, "%s", sample_pool_name(s, w->pool, buf));
		cell_duration(t, sample_age(s, w->attached_ns));
		cell_duration(t, sample_age(s, w->active_ns));
		text_table_cell(t, "%u", w->in_flight);
		text_table_cell(t, "%u", w->leases);
		text_table_cell(t, "%llu", (unsigned long long)w->statements);
		text_table_cell(t, "%llu", (unsigned long long)w->errors);
		text_table_cell(t, "%s", w->tag[0] != '\0' ? w->tag : "-");
	}
	return t;
}

/* Connections that one worker holds, for a lease or a statement: who, since when, with what. */
struct text_table *table_leases(const struct sample *s)
{
	struct text_table *t = text_table_create(
		"lease pool server >backend_pid state >held >in_flight >worker >pid name tag");
	char buf[16];

	for (unsigned i = 0; t != NULL && i < s->nconns; i++) {
		const struct board_conn_info *c = &s->conns[i].info;
		const struct worker_row *w =
			c->worker_slot < s->nworkers ? &s->workers[c->worker_slot] : NULL;

		if (!s->conns[i].used || c->worker_slot == BOARD_NONE) {
			continue;
		}
		text_table_cell(t, "%u%s", i, mark(s->conns[i].torn));
		text_table_cell(t, "%s", sample_pool_name(s, c->pool, buf));
		text_table_cell(t, "%s", sample_server_name(s, c->server, buf));
		text_table_cell(t, "%d", c->backend_pid);
		text_table_cell(t, "%s", conn_state_name(c->state, buf));
		cell_duration(t, sample_age(s, conn_held_ns(c)));
		text_table_cell(t, "%u", c->in_flight);
		text_table_cell(t, "%u", c->worker_slot);
		text_table_cell(t, w != NULL && w->used ? "%d" : "-", w != NULL ? w->info.pid : 0);
		text_table_cell(t, "%s", w != NULL && w->used ? w->info.name : "-");
		text_table_cell(t, "%s",
			w != NULL && w->used && w->info.tag[0] != '\0' ? w->info.tag : "-");
	}
	return t;
}

static int print_table(FILE *f, struct text_table *t, const struct stat_options *opt)
{
	int err = t == NULL || text_table_failed(t) ? -ENOMEM : 0;

	if (err == 0) {
		text_table_print(t, f, opt->color);
	}
	text_table_free(&t);
	return err;
}

int print_pools(FILE *f, const struct sample *s, const struct stat_options *opt)
{
	return print_table(f, table_pools(s), opt);
}

int print_servers(FILE *f, const struct sample *s, const struct stat_options *opt)
{
	return print_table(f, table_servers(s), opt);
}

int print_workers(FILE *f, const struct sample *s, const struct stat_options *opt)
{
	int err = print_table(f, table_workers(s), opt);

	fputc('\n', f);
	return err < 0 ? err : print_table(f, table_leases(s), opt);
}

/* ------------------------------------------------------------------------------------------------
 * Metrics, events, slow statements
 */

static void cell_value(struct text_table *t, const struct series *v)
{
	text_table_cell(t, v->whole ? "%.0f" : "%.9f", v->value);
}

int print_series(
	FILE *f, struct sample *now, const struct sample *before, const struct stat_options *opt)
{
	struct text_table *t = text_table_create("name >value >rate description");
	struct series_list l;
	int err = series_make(now, before, &opt->filter, &l);

	if (err < 0 || t == NULL) {
		text_table_free(&t);
		return -ENOMEM;
	}
	for (size_t i = 0; i < l.n; i++) {
		text_table_cell(t, "%s", l.v[i].name);
		cell_value(t, &l.v[i]);
		text_table_cell(t, l.v[i].counter ? "%.2f" : ".", l.v[i].rate);
		text_table_cell(t, "%s", l.v[i].help);
	}
	series_free(&l);
	return print_table(f, t, opt);
}

int print_list(FILE *f, struct sample *now, const struct stat_options *opt)
{
	struct text_table *t = text_table_create("name kind unit description");
	struct series_list l;
	int err = series_make(now, NULL, &opt->filter, &l);

	if (err < 0 || t == NULL) {
		text_table_free(&t);
		return -ENOMEM;
	}
	for (size_t i = 0; i < l.n; i++) {
		text_table_cell(t, "%s", l.v[i].name);
		text_table_cell(t, "%s", l.v[i].counter ? "counter" : "gauge");
		text_table_cell(t, "%s", l.v[i].unit[0] != '\0' ? l.v[i].unit : "-");
		text_table_cell(t, "%s", l.v[i].help);
	}
	series_free(&l);
	return print_table(f, t, opt);
}

int print_events(FILE *f, const struct sample *s, uint64_t after)
{
	char when[64], text[BOARD_EVENT_SLOT], name[32];

	for (unsigned i = 0; i < s->nevents; i++) {
		const struct numbered_event *e = &s->events[i];

		if (e->number > after) {
			fprintf(f, "%s  %-16s %s\n", text_time(when, sizeof(when), e->slot.when_ns),
				text_clean(name, sizeof(name), e->slot.name, sizeof(e->slot.name)),
				text_clean(text, sizeof(text), e->slot.text, sizeof(e->slot.text)));
		}
	}
	return 0;
}

/* Times of a shape, from its own little histogram. */
static void cell_times(struct text_table *t, const struct shape_row *r)
{
	struct histogram_copy h;
	double mean = 0, p95 = 0;

	if (histogram_copy_init(
		    &h, (const struct histogram *)(const void *)&r->run, sizeof(r->run)) == 0) {
		mean = (double)histogram_mean(&h) / 1e9;
		p95 = (double)histogram_quantile(&h, 0.95) / 1e9;
		histogram_copy_finish(&h);
	}
	cell_duration(t, (double)r->run.sum_ns / 1e9);
	cell_duration(t, mean);
	cell_duration(t, p95);
	cell_duration(t, (double)r->run.max_ns / 1e9);
}

int print_statements(FILE *f, const struct sample *s, const struct shape_entry *v, unsigned n,
	const struct stat_options *opt)
{
	struct text_table *t =
		text_table_create("fingerprint pool >share >calls >errors >rows >total "
				  ">mean >p95 >max >last tag statement");
	double all_ns = 0;
	char buf[16];

	for (unsigned i = 0; i < n; i++) {
		all_ns += (double)v[i].row.run.sum_ns;
	}
	for (unsigned i = 0; t != NULL && i < n; i++) {
		const struct shape_row *r = &v[i].row;
		const char *tag = shape_tag(r, 0);

		text_table_cell(t, "%016llx", (unsigned long long)r->fingerprint);
		text_table_cell(t, "%s%s", sample_pool_name(s, r->pool, buf), mark(v[i].torn));
		text_table_cell(t, "%.1f%%", all_ns > 0 ? (double)r->run.sum_ns / all_ns * 100 : 0);
		text_table_cell(t, "%llu", (unsigned long long)r->calls);
		text_table_cell(t, "%llu", (unsigned long long)r->errors);
		text_table_cell(t, "%llu", (unsigned long long)r->rows);
		cell_times(t, r);
		cell_duration(t, sample_age(s, r->last_ns));
		text_table_cell(t, "%.*s", (int)CHAN_TAG_MAX, tag != NULL ? tag : "-");
		text_table_cell(t, "%.*s%s", (int)r->text_len, r->text,
			r->flags & SHAPE_F_TRUNCATED ? " ..." : "");
	}
	return print_table(f, t, opt);
}

void print_slow(FILE *f, const struct sample *s, const struct numbered_slow *v, unsigned n)
{
	char when[64], run[32], wait[32], tag[CHAN_TAG_MAX + 1], sql[SLOW_TEXT_MAX + 1];
	char pool_buf[16], server_buf[16], pool[BOARD_NAME_MAX], server[BOARD_NAME_MAX], state[8];

	for (unsigned i = 0; i < n; i++) {
		const struct slow_slot *q = &v[i].slot;

		text_clean(pool, sizeof(pool), sample_pool_name(s, q->pool, pool_buf), SIZE_MAX);
		text_clean(server, sizeof(server), sample_server_name(s, q->server, server_buf),
			SIZE_MAX);
		fprintf(f, "%s  run %s  wait %s  pool %s  server %s  pid %d  tag %s  rows %llu",
			text_time(when, sizeof(when), q->when_ns),
			text_duration(run, sizeof(run), (double)q->run_ns / 1e9),
			text_duration(wait, sizeof(wait), (double)q->wait_ns / 1e9), pool, server,
			q->worker_pid,
			q->tag[0] != '\0' ? text_clean(tag, sizeof(tag), q->tag, sizeof(q->tag))
					  : "-",
			(unsigned long long)q->rows);
		if (q->code != 0) {
			fprintf(f, "  error %u %s", q->code,
				text_clean(state, sizeof(state), q->sqlstate, sizeof(q->sqlstate)));
		}
		fprintf(f, "%s  %s%s", q->flags & SLOW_F_SAMPLED ? "  sample" : "",
			text_clean(sql, sizeof(sql), q->sql, q->sql_len),
			q->flags & SLOW_F_TRUNCATED ? " ..." : "");
		if (q->params_len > 0) {
			fprintf(f, "  -- %s",
				text_clean(sql, sizeof(sql), slowring_params(q), q->params_len));
		}
		fputc('\n', f);
	}
}
