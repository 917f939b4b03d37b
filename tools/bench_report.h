/* SPDX-License-Identifier: MIT */
/*
 * bench_report.h - results for people (a table, a line for each run) and for programs (JSON).
 */
#ifndef TOOLS_BENCH_REPORT_H
#define TOOLS_BENCH_REPORT_H

#include "bench_stats.h"

#include <jansson.h>
#include <stdio.h>

/* "broker", "libpq", "sqlite"; "prepared", "extended", "simple". */
const char *bench_kind_name(enum bench_kind k);
const char *bench_protocol_name(enum bench_protocol p);

struct bench_table;

struct bench_table *bench_table_create(void);
void bench_table_add(struct bench_table *t, const struct bench_result *r);
/* 0, or -ENOMEM. */
int bench_table_print(struct bench_table *t, FILE *f, bool bold) must_use;
void bench_table_free(struct bench_table **t);

/* One result as an object; members are added by newer versions, never renamed.  NULL without
 * memory. */
json_t *bench_json(const struct bench_result *r);

#endif
