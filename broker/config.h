/* SPDX-License-Identifier: MIT */
/*
 * config.h - the configuration: one immutable object, made from defaults, an INI file, --set
 * options and the environment, in that order; the environment always wins.
 *
 * config.def lists every option once: it makes the parser, --help-config, --print-config and the
 * manual.
 * Sections: [broker], [server NAME], [pool NAME].  The environment names an option as
 * BROKER_<SECTION>_<KEY>: BROKER_BROKER_SOCKET, BROKER_SERVER_<NAME>_URL,
 * BROKER_POOL_<NAME>_MAX_SIZE (upper case, everything but letters and digits becomes an
 * underscore).
 *
 * With no configuration at all there is one server, "local", url sqlite:shmbroker.db, and one pool,
 * "main", on it.
 *
 * Everything in struct config is owned by it and constant after config_load.  Strings are never
 * NULL; an empty one is not set.  Values that mean "depends" (min_idle -1, readers 0,
 * max_workers_per_uid 0, io_threads 0, validation_timeout -1) are replaced by what they depend on.
 */
#ifndef BROKER_CONFIG_H
#define BROKER_CONFIG_H

#include "check.h"
#include "failover.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct config_broker {
	char *socket; /* path of the listening socket */
	char *log_level; /* error, warning, info, debug */
	char *log_format; /* text, json */
	char *allow_users; /* who may attach: names or ids, comma separated; "*" = everyone who can
	                      reach the socket; empty = the broker's own user and root */
	char *allow_groups;
	char *monitor_group; /* may read slow-query texts; empty = the broker's own user and root */
	int64_t socket_mode; /* octal */
	int64_t max_workers;
	int64_t max_workers_per_uid; /* 0 = max_workers */
	int64_t io_threads; /* 0 = by the number of processors */
	int64_t result_kib; /* result arena of a worker */
	int64_t max_request; /* bytes */
	int64_t default_timeout; /* milliseconds; of calls that name none */
	int64_t shutdown_grace; /* milliseconds */
	int64_t slow_log_size; /* records kept in Q */
	int64_t statement_shapes; /* rows kept in Q, 0 = none */
};

struct config_server {
	char *name;
	/* postgresql://… or a libpq "key=value" string, sqlite:PATH, sqlite::memory:, fake: */
	char *url;
	int64_t max_connections; /* over all pools; 0 = no limit of its own */
	int64_t connect_timeout; /* milliseconds */
	int64_t health_interval; /* milliseconds */
	int64_t health_timeout; /* milliseconds */
	int64_t health_down_after; /* probes */
	int64_t health_up_after; /* probes */
	bool removed; /* it was configured once: in the list of no pool */
};

enum reset_policy {
	RESET_AUTO,
	RESET_ALWAYS,
};

enum leak_action {
	LEAK_LOG,
	LEAK_ROLLBACK,
};

struct config_pool {
	char *name;
	char **servers; /* names, in order of preference */
	unsigned nservers; /* at most FAILOVER_MAX_SERVERS */
	enum read_from read_from;
	int64_t max_lag; /* milliseconds, 0 = any */
	enum fallback fallback; /* not off: the last server is on SQLite, the others are not */
	char **mirror; /* tables, empty without fallback */
	unsigned nmirror;
	int64_t mirror_interval; /* milliseconds */
	char *database; /* overrides what the url says; PostgreSQL only */
	char *user;
	char *password; /* secret */
	char *passfile;
	int64_t max_size; /* connections to each server */
	int64_t min_idle; /* -1 = max_size */
	int64_t max_overflow; /* beyond max_size */
	int64_t guaranteed; /* of each server's max_connections; <= max_size */
	int64_t max_per_uid; /* connections, 0 = no limit */
	int64_t max_per_tag; /* connections, 0 = no limit */
	int64_t max_connecting; /* to each server */
	int64_t connect_backoff; /* milliseconds, <= connect_backoff_max */
	int64_t connect_backoff_max; /* milliseconds */
	int64_t init_fail_timeout; /* milliseconds, 0 = start in any case */
	int64_t readers; /* SQLite: reader threads */
	int64_t acquire_timeout; /* milliseconds */
	int64_t batch_patience; /* milliseconds */
	int64_t queue_notify; /* milliseconds, 0 = never */
	int64_t busy_timeout; /* SQLite, milliseconds */
	int64_t idle_timeout; /* milliseconds, 0 = never */
	int64_t max_lifetime; /* milliseconds, 0 = for ever */
	int64_t keepalive_time; /* milliseconds, 0 = never; < max_lifetime, if that is not 0 */
	int64_t validate_after_idle; /* milliseconds, 0 = always, -1 = never */
	int64_t validation_timeout; /* milliseconds; < acquire_timeout, or the least */
	enum reset_policy reset;
	int64_t leak_threshold; /* milliseconds, 0 = never */
	enum leak_action leak_action;
	int64_t idle_tx_timeout; /* milliseconds, 0 = never */
	int64_t query_timeout; /* milliseconds, 0 = never */
	int64_t transaction_timeout; /* milliseconds, 0 = never */
	int64_t cancel_wait_timeout; /* milliseconds */
	int64_t max_prepared; /* prepared statements per connection, 0 = off */
	int64_t max_pipeline; /* read-only statements in flight on one shared connection */
	/* milliseconds; slower statements go to the slow-query ring; -1 = never */
	int64_t slow_threshold;
	int64_t slow_sample; /* one statement in so many goes to the samples in Q, 0 = none */
	char *slow_params; /* off, on: parameter values with slow statements */
	int64_t max_waiting; /* requests that may wait for a connection, 0 = no limit of its own */
};

struct config {
	struct config_broker broker;
	struct config_server *servers;
	unsigned nservers;
	struct config_pool *pools;
	unsigned npools;
	char *source; /* the file read, or NULL */
};

#define CONFIG_LEAST_VALIDATION 250 /* least validation_timeout, allowed with any acquire_timeout */

/* One override from the command line, as "section.key=value" or "section NAME.key=value". */
struct config_override {
	const char *text;
};

/*
 * Load and validate.  path NULL: BROKER_CONFIG, then ./shmbroker.ini, then
 * /etc/shmbroker/shmbroker.ini, then none; a path given that cannot be read is an error.  env is
 * the environment (NULL-terminated).  0: *out is owned by the caller.  Negative: err holds one line
 * per mistake, each naming file, line and option, or the environment variable, and what to change.
 */
int config_load(const char *path, char *const *env, const struct config_override *over,
	size_t nover, struct config **out, char *err, size_t errlen) must_use;
void config_free(struct config *c);

/* Where a configuration came from, to read it again. */
struct config_source {
	const char *path; /* as given to config_load */
	char *const *env;
	const struct config_override *over;
	size_t nover;
};

/*
 * Load again what made `now`, from the same file: what may change while the broker runs becomes
 * new, the rest stays.  Rows are stable: servers and pools of `now` keep their indices, new ones
 * follow.
 *   A server that is gone stays as an entry that is marked removed.
 *   A pool that is gone stays as it was, with its servers.
 *   Options that need a restart (config.def) keep their values, and so do the fallback server of a
 *   pool and its url.  What the I/O threads that there are do not allow is a mistake.
 * Whatever could not become new has a line in notes, which says what stays.
 *
 * 0: *out is owned by the caller, now remains his as well.  Negative: err as for config_load.
 */
int config_reload(const struct config *now, const struct config_source *source, struct config **out,
	char *err, size_t errlen, char *notes, size_t noteslen) must_use;
/* Why there may be no second I/O thread (shards.h), in buf; NULL: there may be. */
const char *config_needs_one_thread(const struct config *c, char *buf, size_t len);
/* Would connections made for the one serve the other as well? */
bool config_server_same_connection(const struct config_server *old_server,
	const struct config_pool *old_pool, const struct config_server *new_server,
	const struct config_pool *new_pool);
/* Tell what differs, a line at a time; next is of config_reload(now).  Returns how many. */
unsigned config_tell_changes(const struct config *now, const struct config *next,
	void (*tell)(const char *text));

/* What is allowed but hardly meant, a sentence at a time. */
void config_advise(const struct config *c, void (*tell)(const char *text));

/* Index of a pool, or -1. */
int config_pool_index(const struct config *c, const char *name);
const struct config_server *config_server(const struct config *c, const char *name);

/* Effective values as INI with comments (unit, default, help); secrets are printed as ********. */
void config_print(const struct config *c, FILE *f);
/* All options with type, unit, default, range and help; for --help-config and the manual. */
void config_describe(FILE *f);

/* A copy of a url or conninfo string with any password replaced by ********; caller frees. */
char *config_mask_url(const char *url) must_use;

#endif
