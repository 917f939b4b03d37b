/* SPDX-License-Identifier: MIT */
/*
 * brokerstat.h - the parts of brokerstat: options, and one function for each kind of output.
 */
#ifndef TOOLS_BROKERSTAT_H
#define TOOLS_BROKERSTAT_H

#include "reader.h"
#include "series.h"

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>
#include <stdio.h>

enum stat_exit {
	STAT_OK = 0,
	STAT_USAGE = 1,
	STAT_NOT_FOUND = 2,
	STAT_VERSION = 3,
	STAT_DEAD = 4, /* the output is there, and the broker is not */
	STAT_FILE = 5, /* a recording cannot be written, or output has nowhere to go */
};

enum stat_view {
	STAT_LIVE,
	STAT_ONCE, /* -1 */
	STAT_JSON, /* -j */
	STAT_POOLS, /* -p */
	STAT_SERVERS, /* -S */
	STAT_WORKERS, /* -L */
	STAT_SLOW, /* -s */
	STAT_STATEMENTS, /* -T */
	STAT_EVENTS, /* -e */
	STAT_LIST, /* -l */
	STAT_LISTEN, /* --listen */
	STAT_RECORD, /* -W */
};

struct stat_options {
	enum stat_view view;
	bool json; /* -j, also with -s, -T and -e: one JSON object per line */
	bool once; /* -1, also with -s: do not follow */
	bool old; /* -d */
	bool samples; /* --samples */
	bool no_texts; /* --no-texts */
	bool color;
	const char *name; /* -n */
	const char *listen; /* --listen: [ADDR:]PORT */
	const char *record; /* -W */
	const char *replay; /* -r */
	const char *at; /* --at */
	const char *condition; /* -q */
	struct name_filter filter; /* -f */
	double interval; /* -w, seconds; 0 = not given */
	unsigned long count; /* -c; 0 = for ever */
	unsigned long most; /* -k; 0 = any number */
	int64_t wait_ms; /* -t */
};

/* brokerstat_loop.c: everything but the live screen and the exporter.  An exit code. */
int stat_loop(struct reader *r, const struct stat_options *opt);
int stat_record(struct reader *r, const struct stat_options *opt);
/* Go to the time of a recording that `at` names; NULL: its end.  false: not a time. */
bool stat_seek(struct reader *r, const char *at, bool to_end);
/* Of a negative error. */
int stat_exit_code(int err);

/* brokerstat_print.c: text for people and scripts.  0 or -ENOMEM. */
int print_series(FILE *f, struct sample *now, const struct sample *before,
	const struct stat_options *opt) must_use;
int print_list(FILE *f, struct sample *now, const struct stat_options *opt) must_use;
int print_pools(FILE *f, const struct sample *s, const struct stat_options *opt) must_use;
int print_servers(FILE *f, const struct sample *s, const struct stat_options *opt) must_use;
int print_workers(FILE *f, const struct sample *s, const struct stat_options *opt) must_use;
int print_events(FILE *f, const struct sample *s, uint64_t after) must_use;
int print_statements(FILE *f, const struct sample *s, const struct shape_entry *v, unsigned n,
	const struct stat_options *opt) must_use;
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
int json_lines(FILE *f, json_t *array) must_use; /* takes the array; NULL: -ENOMEM */

/* live.c: the screen, until q.  An exit code. */
int live_run(struct reader *r, const struct stat_options *opt);

#endif
