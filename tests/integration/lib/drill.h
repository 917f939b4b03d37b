/* SPDX-License-Identifier: MIT */
/*
 * drill.h - workers that write numbered rows and read, while a test takes their servers away.
 *
 * Rows go into table drill.  Reads count the worker's own last acknowledged row: never more than
 * one is there, and a fresh read (BROKER_FRESH) of PostgreSQL finds exactly one.  Who answered is
 * noted as the broker says it (broker_server) and held against what the server says of itself
 * (cluster_name).
 *
 * Figures are printed as "# MEASURE name value unit".
 */
#ifndef IT_DRILL_H
#define IT_DRILL_H

#include "cluster.h"
#include "crew.h"
#include "ledger.h"

#include <stdbool.h>
#include <stdint.h>

struct broker_proc;

struct drill_options {
	unsigned workers;
	/* addresses of the servers if not their sockets, one per server; may be NULL */
	const char *const *urls;
	/* SQLite file of the local server, which `settings` have to mirror tables to; NULL: none */
	const char *local;
	const char *const *settings; /* more settings of the broker, NULL-terminated; may be NULL */
};

struct drill_notes;

struct drill {
	struct cluster *cluster;
	struct broker_proc *broker;
	struct ledger *ledger;
	struct crew *crew;
	struct crew_board *board;
	struct drill_notes *notes; /* shared with the workers */
};

/* Make the table on the primary, start a broker with a pool of all servers, start the workers. */
struct drill *drill_start(struct cluster *c, const struct drill_options *opt);
/* Stop workers and broker, check that deadlines were kept. */
void drill_stop(struct drill **d);

/* Answers of server i of the cluster; the cluster's size is the local server. */
uint64_t drill_reads(const struct drill *d, unsigned i);
uint64_t drill_writes(const struct drill *d, unsigned i);
int64_t drill_last_read(const struct drill *d, unsigned i); /* wait_clock_us; 0: never */
/* From now on, note first answers anew; the moment. */
int64_t drill_mark(struct drill *d);
/* First answer after the mark, a read or a write; 0: none yet. */
int64_t drill_first_answer(const struct drill *d, unsigned i);
int64_t drill_first_write(const struct drill *d, unsigned i);

/* Check that writes are acknowledged within limit_ms from `us` on; print the time as `name`. */
void drill_expect_write(struct drill *d, const char *name, int64_t us, int64_t limit_ms);
/* Check that server i answers reads, or writes, now or soon. */
void drill_expect_reads(struct drill *d, unsigned i, const char *what);
void drill_expect_writes(struct drill *d, unsigned i, const char *what);
/* Compare the ledger with the primary. */
void drill_check(struct drill *d, const char *what);

void drill_measure(const char *name, double value, const char *unit);

#endif
