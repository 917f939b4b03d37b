/* SPDX-License-Identifier: MIT */
/* bench_watch.c - see bench_watch.h. */
#include "bench_watch.h"

#include "bench_worker.h"
#include "series.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct bench_watch {
	const struct bench_plan *plan;
	PGconn *server; /* NULL: none to observe */
	struct bench_tree tree[BENCH_PARTS]; /* root 0: nothing to look at, as for WORKERS */
	struct bench_use before[BENCH_PARTS], after[BENCH_PARTS];
	uint64_t busy_before, busy_after;
	uint64_t opened_ns, closed_ns;
	struct reader *board; /* NULL: not the broker, or unreadable */
	struct sample *sample_before, *sample_after;
};

/* -- start and end --------------------------------------------------------------------------------
 */

static int watch_server(struct bench_watch *w, char *err, size_t errlen)
{
	struct bench_tree *t = &w->tree[BENCH_DATABASE];
	struct ucred cred = {0};
	socklen_t len = sizeof(cred);

	w->server = PQconnectdb(w->plan->observe);
	if (PQstatus(w->server) != CONNECTION_OK) {
		snprintf(err, errlen, "%s", PQerrorMessage(w->server));
		return -1;
	}
	if (getsockopt(PQsocket(w->server), SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
		t->root = cred.pid; /* the postmaster; 0 if the server is not on this machine */
		t->except = PQbackendPID(w->server);
	}
	return 0;
}

static void watch_board(struct bench_watch *w)
{
	char err[200];

	if (w->plan->target.kind == BENCH_BROKER &&
		reader_open(w->plan->target.address, 0, &w->board, err, sizeof(err)) < 0) {
		w->board = NULL;
	}
}

int bench_watch_start(
	const struct bench_plan *p, struct bench_watch **out, char *err, size_t errlen)
{
	struct bench_watch *w = calloc(1, sizeof(*w));

	*out = w;
	if (w == NULL) {
		snprintf(err, errlen, "no memory");
		return -1;
	}
	w->plan = p;
	if (p->observe != NULL && watch_server(w, err, errlen) < 0) {
		bench_watch_stop(out);
		return -1;
	}
	if (p->peer != w->tree[BENCH_DATABASE].root) {
		w->tree[BENCH_MIDDLE].root = p->peer;
	}
	watch_board(w);
	return 0;
}

void bench_watch_stop(struct bench_watch **wp)
{
	struct bench_watch *w = *wp;

	if (w != NULL) {
		sample_free(&w->sample_before);
		sample_free(&w->sample_after);
		if (w->board != NULL) {
			reader_close(&w->board);
		}
		PQfinish(w->server);
		free(w);
	}
	*wp = NULL;
}

/* -- the window -----------------------------------------------------------------------------------
 */

static struct sample *look_at_board(struct bench_watch *w)
{
	struct sample *s = NULL;

	return w->board != NULL && reader_sample(w->board, &s) == 0 ? s : NULL;
}

static void look(struct bench_watch *w, struct bench_use *use)
{
	for (unsigned i = 0; i < BENCH_PARTS; i++) {
		bench_proc_use(&w->tree[i], &use[i]);
	}
}

void bench_watch_open(struct bench_watch *w)
{
	w->sample_before = look_at_board(w);
	look(w, w->before);
	w->busy_before = bench_proc_machine_busy();
	w->opened_ns = bench_clock_ns();
}

void bench_watch_close(struct bench_watch *w)
{
	w->closed_ns = bench_clock_ns();
	w->busy_after = bench_proc_machine_busy();
	look(w, w->after);
	w->sample_after = look_at_board(w);
}

/* -- the result -----------------------------------------------------------------------------------
 */

static int64_t ask_server(PGconn *server, const char *sql)
{
	PGresult *r = PQexec(server, sql);
	int64_t n = PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1
			    ? strtoll(PQgetvalue(r, 0, 0), NULL, 10)
			    : 0;

	PQclear(r);
	return n;
}

static void fill_metrics(const struct bench_watch *w, struct bench_result *r)
{
	struct series_list l;
	double seconds;

	if (w->sample_before == NULL || w->sample_after == NULL ||
		!series_interval(w->sample_after, w->sample_before)) {
		return;
	}
	seconds = (double)(w->sample_after->mono_ns - w->sample_before->mono_ns) / 1e9;
	if (series_make(w->sample_after, w->sample_before, NULL, &l) < 0) {
		return;
	}
	r->metrics = calloc(l.n, sizeof(*r->metrics));
	for (size_t i = 0; i < l.n && r->metrics != NULL; i++) {
		struct bench_metric *m = &r->metrics[r->nmetrics];

		if (l.v[i].counter) {
			snprintf(m->name, sizeof(m->name), "%s", l.v[i].name);
			m->delta = l.v[i].rate * seconds;
			r->nmetrics++;
		}
	}
	series_free(&l);
}

/* The rest of the machine, as a number of CPUs. */
static void fill_others(const struct bench_watch *w, struct bench_result *r)
{
	double ours = 0, all = (double)(w->busy_after - w->busy_before);
	double window = (double)(w->closed_ns - w->opened_ns);

	if (w->busy_before == 0 || w->busy_after == 0 || w->tree[BENCH_DATABASE].root == 0) {
		return; /* what is ours is not known */
	}
	for (unsigned i = 0; i < BENCH_PARTS; i++) {
		ours += (double)r->use[i].cpu_ns;
	}
	r->others = all > ours ? (all - ours) / window : 0;
}

void bench_watch_result(
	struct bench_watch *w, const pid_t *workers, unsigned n, struct bench_result *r)
{
	for (unsigned i = BENCH_MIDDLE; i < BENCH_PARTS; i++) {
		r->known[i] = w->tree[i].root > 0;
		r->use[i] = w->after[i];
		bench_use_subtract(&r->use[i], &w->before[i]);
		bench_proc_memory(&w->tree[i], &r->use[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		bench_proc_memory(&(struct bench_tree){workers[i], 0}, &r->use[BENCH_WORKERS]);
	}
	if (w->tree[BENCH_MIDDLE].root > 0) {
		bench_proc_name(w->tree[BENCH_MIDDLE].root, r->middle, sizeof(r->middle));
	}
	if (w->server != NULL) {
		r->backends = (unsigned)ask_server(w->server,
			"SELECT count(*) FROM pg_stat_activity "
			"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()");
	}
	fill_others(w, r);
	fill_metrics(w, r);
}
