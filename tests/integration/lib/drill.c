/* SPDX-License-Identifier: MIT */
/* drill.c - see drill.h. */
#include "drill.h"

#include "brokerproc.h"
#include "settings.h"
#include "tap.h"
#include "wait.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CALL_MS 3000
#define SOON_MS 60000
#define SERVERS (CLUSTER_MAX + 1)
#define ENTRIES 4000000u

/* One per server. */
struct drill_notes {
	struct {
		_Atomic uint64_t reads, writes;
		_Atomic int64_t last_read_us, first_answer_us, first_write_us;
	} server[SERVERS];
	unsigned nservers; /* of the cluster; constant */
	bool local; /* there is one; constant */
};

void drill_measure(const char *name, double value, const char *unit)
{
	diag("MEASURE %s %.1f %s", name, value, unit);
}

/* -- workers ----------------------------------------------------------------------------------- */

static unsigned index_of(struct crew_worker *w, const char *name)
{
	const struct drill_notes *notes = w->arg;

	if (strcmp(name, SETTINGS_LOCAL) == 0 && notes->local) {
		return notes->nservers;
	}
	for (unsigned i = 0; i < notes->nservers; i++) {
		if (strcmp(name, cluster_name(i)) == 0) {
			return i;
		}
	}
	crew_surprise(w, "a server \"%s\" answered", name);
	return 0;
}

static void note_first(_Atomic int64_t *first, int64_t now)
{
	int64_t none = 0;

	(void)atomic_compare_exchange_strong(first, &none, now);
}

/* Who answered, as the broker says; it has to be what the server says of itself, if that was asked.
 */
static const char *answered_by(struct crew_worker *w, struct broker_result *r, int name_column)
{
	const char *name = broker_server(r), *self;

	if (name_column >= 0 && broker_get_text(r, name_column, &self, NULL) == 0 &&
		strcmp(name, self) != 0) {
		crew_surprise(w, "%s answered, not %s", self, name);
	}
	return name;
}

static void note_answer(struct crew_worker *w, const char *server, bool write)
{
	struct drill_notes *notes = w->arg;
	unsigned i = index_of(w, server);
	int64_t now = wait_clock_us();

	note_first(&notes->server[i].first_answer_us, now);
	if (write) {
		note_first(&notes->server[i].first_write_us, now);
		atomic_fetch_add(&notes->server[i].writes, 1);
	} else {
		atomic_store(&notes->server[i].last_read_us, now);
		atomic_fetch_add(&notes->server[i].reads, 1);
	}
}

static void do_write(struct crew_worker *w)
{
	const struct drill_notes *notes = w->arg;
	const char *sql = notes->local ? "INSERT INTO drill (n, worker) VALUES ($1, $2)"
				       : "INSERT INTO drill (n, worker) VALUES ($1, $2) "
					 "RETURNING current_setting('cluster_name')";
	uint32_t n = ledger_begin(w->ledger);
	struct broker_call call = {.timeout_ms = CALL_MS, .tag = "/drill"};
	struct broker_value v[2] = {broker_int64(n), broker_int64(w->id)};
	struct broker_result *r;
	int rc = crew_exec(w, sql, 2, v, &call, &r);

	ledger_end(w->ledger, n, w->b, rc);
	if (rc == 0) {
		w->last = n;
		note_answer(w, answered_by(w, r, broker_next(r) == 1 ? 0 : -1), true);
		broker_result_free(&r);
	}
}

/* The worker's last acknowledged row: there once, or not seen yet. */
static void check_row(
	struct crew_worker *w, struct broker_result *r, const char *server, bool fresh)
{
	/* a copy in the local server may be older than what was written before */
	int64_t least = fresh && strcmp(server, SETTINGS_LOCAL) != 0, n = -1;

	if (broker_get_int64(r, 0, &n) < 0 || n > 1 || n < least) {
		crew_surprise(w, "%s: row %lld is there %lld times (%s read)", server,
			(long long)w->last, (long long)n, fresh ? "fresh" : "plain");
	}
}

static void do_read(struct crew_worker *w, bool fresh)
{
	const struct drill_notes *notes = w->arg;
	const char *sql = notes->local
				  ? "SELECT count(*) FROM drill WHERE n = $1"
				  : "SELECT count(*), current_setting('cluster_name') FROM drill "
				    "WHERE n = $1";
	struct broker_call call = {.timeout_ms = CALL_MS, .tag = "/drill"};
	struct broker_value v = broker_int64(w->last);
	struct broker_result *r;
	const char *server;

	call.flags = BROKER_READONLY | (fresh ? BROKER_FRESH : 0);
	if (crew_exec(w, sql, 1, &v, &call, &r) < 0) {
		return;
	}
	if (broker_next(r) == 1) {
		server = answered_by(w, r, notes->local ? -1 : 1);
		check_row(w, r, server, fresh);
		note_answer(w, server, false);
	} else {
		crew_surprise(w, "a read without a row");
	}
	broker_result_free(&r);
}

static void job(struct crew_worker *w)
{
	unsigned dice = (unsigned)rand_r(&w->seed) % 10;

	if (w->last < 0) {
		do_write(w);
	} else if (w->id % 4 == 0) { /* whatever happens to those that write */
		do_read(w, false);
	} else if (dice < 6) {
		do_write(w);
	} else {
		do_read(w, dice < 8);
	}
	crew_breathe(2 + w->id % 4);
}

/* -- start and stop ---------------------------------------------------------------------------- */

static struct broker_proc *start_broker(struct cluster *c, const struct drill_options *opt)
{
	struct settings *s = settings_new();
	struct broker_proc *p;

	settings_add_servers(s, c, opt->urls, opt->local);
	settings_add(s, "pool main.max_size=8");
	settings_add(s, "pool main.read_from=standby");
	settings_add(s, "pool main.max_lag=1s");
	settings_add_all(s, opt->settings);
	p = broker_start(NULL, settings_list(s));
	settings_free(&s);
	return p;
}

static void make_table(struct cluster *c)
{
	struct pg_cluster *primary = cluster_server(c, cluster_primary(c));

	pg_do(primary, "CREATE TABLE drill(n bigint, worker bigint)");
	pg_do(primary, "CREATE INDEX drill_n ON drill(n)");
	if (!cluster_in_sync(c, SOON_MS)) {
		bail_out("the standbys do not catch up");
	}
}

struct drill *drill_start(struct cluster *c, const struct drill_options *opt)
{
	struct drill *d = calloc(1, sizeof(*d));

	if (d == NULL) {
		bail_out("out of memory");
	}
	make_table(c);
	d->cluster = c;
	d->broker = start_broker(c, opt);
	if (opt->local != NULL &&
		!wait_until(broker_log_count(d->broker, "tables are mirrored") > 0, SOON_MS)) {
		bail_out("nothing is mirrored");
	}
	d->ledger = ledger_create(ENTRIES);
	d->notes = crew_shared(sizeof(*d->notes));
	d->notes->nservers = cluster_size(c);
	d->notes->local = opt->local != NULL;
	d->crew = crew_start(broker_socket(d->broker), opt->workers, job, d->ledger, d->notes);
	d->board = crew_board(d->crew);
	drill_expect_write(d, "first_write_at_start", wait_clock_us(), SOON_MS);
	return d;
}

static void check_deadlines(struct drill *d)
{
	double worst = (double)atomic_load(&d->board->worst_us) / 1000;

	drill_measure("worst_lateness", worst, "ms");
	drill_measure("calls_over_100ms_late", (double)atomic_load(&d->board->late), "calls");
	if (!ok(worst < 100 + WAIT_NOISE_MS, "no call outlives its deadline")) {
		diag("%s", d->board->late_call);
	}
}

void drill_stop(struct drill **dp)
{
	struct drill *d = *dp;

	check_deadlines(d);
	crew_stop(&d->crew, "workers");
	is_int(broker_free(&d->broker), 0, "the broker ends well");
	ledger_destroy(&d->ledger);
	free(d);
	*dp = NULL;
}

/* -- looking ----------------------------------------------------------------------------------- */

uint64_t drill_reads(const struct drill *d, unsigned i)
{
	return atomic_load(&d->notes->server[i].reads);
}

uint64_t drill_writes(const struct drill *d, unsigned i)
{
	return atomic_load(&d->notes->server[i].writes);
}

int64_t drill_last_read(const struct drill *d, unsigned i)
{
	return atomic_load(&d->notes->server[i].last_read_us);
}

int64_t drill_mark(struct drill *d)
{
	int64_t now = wait_clock_us();

	for (unsigned i = 0; i < SERVERS; i++) {
		atomic_store(&d->notes->server[i].first_answer_us, 0);
		atomic_store(&d->notes->server[i].first_write_us, 0);
	}
	return now;
}

int64_t drill_first_answer(const struct drill *d, unsigned i)
{
	return atomic_load(&d->notes->server[i].first_answer_us);
}

int64_t drill_first_write(const struct drill *d, unsigned i)
{
	return atomic_load(&d->notes->server[i].first_write_us);
}

/* -- checks ------------------------------------------------------------------------------------ */

void drill_expect_write(struct drill *d, const char *name, int64_t us, int64_t limit_ms)
{
	int64_t first = 0;

	(void)wait_until((first = ledger_acked_after(d->ledger, us)) != 0, SOON_MS);
	if (!ok(first != 0 && first - us < (limit_ms + WAIT_NOISE_MS) * 1000,
		    "%s: a write is acknowledged in time", name)) {
		diag("the last error: %s", d->board->error);
	}
	if (first != 0) {
		drill_measure(name, (double)(first - us) / 1000, "ms");
	}
}

void drill_expect_reads(struct drill *d, unsigned i, const char *what)
{
	uint64_t before = drill_reads(d, i);

	ok(wait_until(drill_reads(d, i) > before + 10, SOON_MS), "%s", what);
}

void drill_expect_writes(struct drill *d, unsigned i, const char *what)
{
	uint64_t before = drill_writes(d, i);

	ok(wait_until(drill_writes(d, i) > before + 10, SOON_MS), "%s", what);
}

void drill_check(struct drill *d, const char *what)
{
	(void)ledger_check(d->ledger, cluster_server(d->cluster, cluster_primary(d->cluster)),
		"SELECT n, count(*) FROM drill GROUP BY n", what);
}
