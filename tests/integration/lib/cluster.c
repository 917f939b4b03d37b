/* SPDX-License-Identifier: MIT */
/* cluster.c - see cluster.h. */
#include "cluster.h"

#include "scratch.h"
#include "tap.h"
#include "wait.h"

#include <stdlib.h>
#include <unistd.h>

#define WAIT_MS 60000
#define SETTINGS_MAX 22

struct cluster {
	struct pg_cluster *pg[CLUSTER_MAX];
	char *address[CLUSTER_MAX];
	bool standby[CLUSTER_MAX]; /* as far as the administrator knows */
	unsigned n, primary;
	bool safe, small_disk;
};

/* Standbys follow a new primary at once, primaries can be rewound, logs are bounded. */
static const char *const usual[] = {"wal_log_hints=on", "wal_keep_size=192MB", "max_wal_size=256MB",
	"wal_retrieve_retry_interval=100ms", "wal_receiver_status_interval=1s",
	"max_wal_senders=10", "hot_standby=on", NULL};

static unsigned add_settings(const char **to, unsigned n, const char *const *from)
{
	for (; from != NULL && *from != NULL; from++) {
		if (n == SETTINGS_MAX) {
			bail_out("too many settings");
		}
		to[n++] = *from;
	}
	return n;
}

static struct pg_cluster *start_primary(
	struct cluster *c, const struct cluster_options *opt, const char *const *settings)
{
	struct pg_cluster *pg = NULL;

	if (opt->small_mib > 0) {
		pg = pg_start_small(settings, opt->small_mib);
		c->small_disk = pg != NULL;
	}
	return pg != NULL ? pg : pg_start(settings);
}

/* One per process and server. */
static char *loopback_address(unsigned i)
{
	unsigned n = ((unsigned)getpid() & 0x1fffff) * CLUSTER_MAX + i;

	return scratch_format("127.%u.%u.%u", n >> 16, n >> 8 & 255, n & 255);
}

static void start_server(struct cluster *c, unsigned i, const struct cluster_options *opt)
{
	const char *settings[SETTINGS_MAX + 3];
	unsigned n = add_settings(settings, add_settings(settings, 0, usual), opt->settings);
	char *name, *listen;

	c->address[i] = loopback_address(i);
	name = scratch_format("cluster_name=%s", cluster_name(i));
	listen = scratch_format("listen_addresses=%s", opt->tcp ? c->address[i] : "");
	settings[n++] = name;
	settings[n++] = listen;
	settings[n] = NULL;
	c->pg[i] = i == 0 ? start_primary(c, opt, settings) : pg_standby(c->pg[0], settings);
	c->standby[i] = i > 0;
	free(name);
	free(listen);
}

/* Which commits wait for a standby is a setting of the primary alone: a promoted standby must not
 * wait for others before they follow it. */
static void set_safe(struct cluster *c, unsigned i, bool on)
{
	if (c->safe) {
		pg_do(c->pg[i], "ALTER SYSTEM SET synchronous_standby_names = '%s'",
			on ? "ANY 1 (*)" : "");
		pg_do(c->pg[i], "SELECT pg_reload_conf()");
	}
}

static bool streaming(struct cluster *c, unsigned standbys)
{
	return pg_int(c->pg[c->primary],
		       "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") >=
	       (int64_t)standbys;
}

static void wait_streaming(struct cluster *c)
{
	unsigned standbys = 0;

	for (unsigned i = 0; i < c->n; i++) {
		standbys += c->standby[i] && pg_runs(c->pg[i]);
	}
	if (!wait_until(streaming(c, standbys), WAIT_MS)) {
		bail_out("standbys do not stream from %s", cluster_name(c->primary));
	}
}

struct cluster *cluster_start(const struct cluster_options *opt)
{
	struct cluster *c = calloc(1, sizeof(*c));

	if (c == NULL || opt->standbys >= CLUSTER_MAX) {
		bail_out("no cluster of %u standbys", opt->standbys);
	}
	c->n = opt->standbys + 1;
	c->safe = opt->safe && opt->standbys > 0;
	for (unsigned i = 0; i < c->n; i++) {
		start_server(c, i, opt);
	}
	wait_streaming(c);
	set_safe(c, 0, true);
	return c;
}

void cluster_remove(struct cluster **cp)
{
	struct cluster *c = *cp;

	if (c == NULL) {
		return;
	}
	for (unsigned i = 0; i < c->n; i++) {
		pg_remove(&c->pg[i]);
		free(c->address[i]);
	}
	free(c);
	*cp = NULL;
}

unsigned cluster_size(const struct cluster *c)
{
	return c->n;
}

struct pg_cluster *cluster_server(const struct cluster *c, unsigned i)
{
	return c->pg[i];
}

const char *cluster_name(unsigned i)
{
	static const char names[CLUSTER_MAX][2] = {"a", "b", "c", "d", "e", "f", "g", "h"};

	return names[i];
}

const char *cluster_address(const struct cluster *c, unsigned i)
{
	return c->address[i];
}

unsigned cluster_primary(const struct cluster *c)
{
	return c->primary;
}

bool cluster_has_small_disk(const struct cluster *c)
{
	return c->small_disk;
}

/* -- who is the primary ------------------------------------------------------------------------ */

/* Position in the log as a number. */
static int64_t received(struct pg_cluster *pg)
{
	return pg_int(pg, "SELECT coalesce(pg_last_wal_receive_lsn(), '0/0') - '0/0'");
}

static unsigned best_standby(struct cluster *c)
{
	unsigned best = c->n;
	int64_t most = -1;

	for (unsigned i = 0; i < c->n; i++) {
		int64_t has = c->standby[i] && pg_runs(c->pg[i]) ? received(c->pg[i]) : -1;

		if (has > most) {
			most = has;
			best = i;
		}
	}
	if (best == c->n) {
		bail_out("no standby to promote");
	}
	return best;
}

static unsigned receivers(struct cluster *c)
{
	unsigned n = 0;

	for (unsigned i = 0; i < c->n; i++) {
		n += c->standby[i] && pg_runs(c->pg[i]) &&
		     pg_int(c->pg[i], "SELECT count(*) FROM pg_stat_wal_receiver") > 0;
	}
	return n;
}

/*
 * No standby listens to the primary any more.  One that lives on, or wakes up later, can
 * acknowledge nothing (safe), and what each standby has received stays as it is while the best is
 * chosen.
 */
static void leave_primary(struct cluster *c)
{
	for (unsigned i = 0; i < c->n; i++) {
		if (c->standby[i] && pg_runs(c->pg[i])) {
			pg_do(c->pg[i], "ALTER SYSTEM SET primary_conninfo = ''");
			pg_do(c->pg[i], "SELECT pg_reload_conf()");
		}
	}
	if (!wait_until(receivers(c) == 0, WAIT_MS)) {
		bail_out("the standbys do not leave their primary");
	}
}

unsigned cluster_fail_over(struct cluster *c, int64_t *when)
{
	struct pg_cluster *pg;
	unsigned best;

	leave_primary(c);
	best = best_standby(c);
	pg = c->pg[best];
	set_safe(c, best, false);
	pg_promote_soon(pg);
	if (!wait_until(pg_int(pg, "SELECT pg_is_in_recovery()::int") == 0, WAIT_MS)) {
		bail_out("%s is not promoted", cluster_name(best));
	}
	if (when != NULL) {
		*when = wait_clock_us();
	}
	c->standby[best] = false;
	c->standby[c->primary] = false; /* not before it is made one */
	c->primary = best;
	for (unsigned i = 0; i < c->n; i++) {
		if (c->standby[i] && pg_runs(c->pg[i])) {
			pg_follow(c->pg[i], pg);
		}
	}
	return best;
}

void cluster_rejoin(struct cluster *c, unsigned i)
{
	pg_stop(c->pg[i], PG_KILL);
	pg_rejoin(c->pg[i], c->pg[c->primary]);
	c->standby[i] = true;
	wait_streaming(c);
	set_safe(c, c->primary, true);
}

void cluster_revive(struct cluster *c, unsigned i)
{
	if (!pg_runs(c->pg[i])) {
		pg_stop(c->pg[i], PG_KILL);
		pg_restart(c->pg[i]);
	}
}

/* -- what befalls a server --------------------------------------------------------------------- */

void cluster_hold_replay(struct cluster *c, unsigned i)
{
	pg_do(c->pg[i], "SELECT pg_wal_replay_pause()");
	if (!wait_until(pg_int(c->pg[i],
				"SELECT (pg_get_wal_replay_pause_state() = 'paused')::int") == 1,
		    WAIT_MS)) {
		bail_out("%s does not pause", cluster_name(i));
	}
}

void cluster_resume_replay(struct cluster *c, unsigned i)
{
	pg_do(c->pg[i], "SELECT pg_wal_replay_resume()");
}

void cluster_set_read_only(struct cluster *c, unsigned i, bool on)
{
	pg_do(c->pg[i], "ALTER SYSTEM SET default_transaction_read_only = %s", on ? "on" : "off");
	pg_do(c->pg[i], "SELECT pg_reload_conf()");
	if (!wait_until(pg_int(c->pg[i],
				"SELECT (current_setting('default_transaction_read_only') = "
				"'%s')::int",
				on ? "on" : "off") == 1,
		    WAIT_MS)) {
		bail_out("%s does not read its settings", cluster_name(i));
	}
}

static bool replayed(struct cluster *c, const char *lsn)
{
	bool all = true;

	for (unsigned i = 0; all && i < c->n; i++) {
		all = !c->standby[i] || !pg_runs(c->pg[i]) ||
		      pg_int(c->pg[i], "SELECT (pg_last_wal_replay_lsn() >= '%s')::int", lsn) == 1;
	}
	return all;
}

bool cluster_in_sync(struct cluster *c, int64_t timeout_ms)
{
	char *lsn = pg_text(c->pg[c->primary], "SELECT pg_current_wal_lsn()");
	bool all = wait_until(replayed(c, lsn), timeout_ms);

	free(lsn);
	return all;
}
