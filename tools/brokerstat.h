/* SPDX-License-Identifier: MIT */
/*
 * brokerstat.h - the parts of brokerstat: options, and one function for each kind of output.
 */
#ifndef TOOLS_BROKERSTAT_H
#define TOOLS_BROKERSTAT_H

#include "reader.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum stat_exit {
	STAT_OK = 0,
	STAT_USAGE = 1,
	STAT_NOT_FOUND = 2,
	STAT_VERSION = 3,
	STAT_DEAD = 4, /* the output is there, and the broker is not */
};

enum stat_view {
	STAT_LIVE,
	STAT_ONCE, /* -1 */
	STAT_JSON, /* -j */
	STAT_POOLS, /* -p */
	STAT_SERVERS, /* -S */
	STAT_WORKERS, /* -W */
	STAT_SLOW, /* -s */
	STAT_EVENTS, /* -e */
	STAT_LIST, /* -l */
	STAT_LISTEN, /* --listen */
};

struct stat_options {
	enum stat_view view;
	bool json; /* with STAT_SLOW: one JSON object per line */
	const char *name; /* -n */
	const char *filter; /* -f */
	const char *listen; /* --listen: [ADDR:]PORT */
	bool no_texts; /* --no-texts */
	double interval; /* -w, seconds; 0 = once */
	unsigned long count; /* -c; 0 = for ever */
	int64_t wait_ms; /* -t */
	bool color;
};

/* brokerstat_print.c: text for people and scripts.  0 or -ENOMEM. */
int print_series(FILE *f, struct sample *now, const struct sample *before,
	const struct stat_options *opt) must_use;
int print_list(FILE *f, struct sample *now, const struct stat_options *opt) must_use;
int print_pools(FILE *f, const struct sample *s, const struct stat_options *opt) must_use;
int print_servers(FILE *f, const struct sample *s, const struct stat_options *opt) must_use;
int print_workers(FILE *f, const struct sample *s, const struct stat_options *opt) must_use;
int print_events(FILE *f, const struct sample *s, uint64_t after) must_use;
void print_slow(FILE *f, const struct sample *s, const struct numbered_slow *v, unsigned n);

struct text_table;
/* The tables behind them, also for the live screen.  NULL: out of memory. */
struct text_table *table_pools(const struct sample *s);
struct text_table *table_servers(const struct sample *s);
struct text_table *table_workers(const struct sample *s);
struct text_table *table_leases(const struct sample *s);

/* PgBouncer's columns of a pool, in its order, maxwait and pool_mode excepted. */
#define POOL_COLUMNS 11u
extern const char *const pool_columns[POOL_COLUMNS];
uint64_t pool_column(const struct sample *s, unsigned pool, unsigned column);
/* How long its oldest waiting request has waited. */
uint64_t pool_maxwait_ns(const struct sample *s, unsigned pool);

/* Names of the states that rows carry; "state 9" style names come out as "?9". */
const char *pool_state_name(uint32_t state, char buf[16]);
const char *server_state_name(uint32_t state, char buf[16]);
const char *server_role_name(uint32_t role, char buf[16]);
const char *conn_state_name(uint32_t state, char buf[16]);
const char *worker_state_name(uint32_t state, char buf[16]);

/* brokerstat_json.c: 0 or -ENOMEM. */
int json_document(FILE *f, struct sample *now, const struct sample *before,
	const struct stat_options *opt) must_use;
int json_slow(FILE *f, const struct sample *s, const struct numbered_slow *v, unsigned n) must_use;

/* brokerstat_live.c: the screen, until q.  An exit code. */
int live_run(struct reader *r, const struct stat_options *opt);

#endif
