/* SPDX-License-Identifier: MIT */
/*
 * stage.h - a broker, a well-behaved worker that must notice nothing, and the books afterwards.
 *
 * The witness is a process of its own with the client library.  It runs statements all the time,
 * checks every answer, and notes what went wrong and how long the slowest call took.  stage_close
 * makes the checks: nothing went wrong for the witness, it never waited long, the broker is the
 * same process with the memory and descriptors it had, and its counters balance.
 */
#ifndef FAULT_STAGE_H
#define FAULT_STAGE_H

#include "brokerproc.h"

#include <stdbool.h>
#include <stdint.h>

enum stage_database {
	STAGE_SQLITE,
	STAGE_FAKE,
	STAGE_PG,
};

struct stage;

/* Start broker and witness.  settings as broker_start. */
struct stage *stage_open(enum stage_database db, const char *const *settings);
/* The checks; then stop and free everything. */
void stage_close(struct stage **s);

/* Can this database be had here? */
bool stage_available(enum stage_database db);
const char *stage_name(const struct stage *s);
enum stage_database stage_db(const struct stage *s);
struct broker_proc *stage_broker(const struct stage *s);
const char *stage_path(const struct stage *s);

/* Text for this database: returns one row with the number 7; returns n rows of about 1000 bytes;
 * runs until it is cancelled. */
const char *stage_sql(const struct stage *s);
const char *stage_rows_sql(const struct stage *s, unsigned n, char *buf, unsigned size);
const char *stage_long_sql(const struct stage *s);

/* Statements the witness has ended; and one check that it gets on: another few of them within
 * ms. */
uint64_t stage_progress(const struct stage *s);
bool stage_moves(const struct stage *s, int64_t ms);
/* Let the witness rest, e.g. while there is no connection for it by design; and go on. */
void stage_pause(struct stage *s);
void stage_resume(struct stage *s);

/* A metric as brokerstat prints it; the sum over pools and labels. */
int64_t stage_metric(const struct stage *s, const char *name);
int64_t broker_metric(const struct broker_proc *b, const char *name);

/* Milliseconds, shorter with TEST_QUICK. */
bool stage_quick(void);
/* Factor for time limits: sanitizers are slow. */
unsigned stage_slowness(void);

#endif
