/* SPDX-License-Identifier: MIT */
/*
 * settings.h - a list of settings for a broker, as broker_start takes them.
 */
#ifndef IT_SETTINGS_H
#define IT_SETTINGS_H

#include "cluster.h"

/* The pool's server that is no PostgreSQL, if it has one. */
#define SETTINGS_LOCAL "local"

struct settings;

struct settings *settings_new(void);
void settings_free(struct settings **s);
void settings_add(struct settings *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Several, NULL-terminated; may be NULL. */
void settings_add_all(struct settings *s, const char *const *list);
/*
 * Pool main gets the servers of a cluster, under their names.  urls: their addresses, one per
 * server; NULL: their sockets.  local: an SQLite file behind them, or NULL.
 */
void settings_add_servers(
	struct settings *s, const struct cluster *c, const char *const *urls, const char *local);
/* Valid until the next change. */
const char *const *settings_list(const struct settings *s);

#endif
