/* SPDX-License-Identifier: MIT */
/*
 * ledger.h - what writers were told, to be compared with what is in the database.
 *
 * Every write has a number, which it writes.  Before it is sent and when its end is known that is
 * noted in memory shared by the test and its forked writers; then the numbers found in the database
 * are compared with the notes:
 *
 *   acknowledged         there, exactly once
 *   failed               not there
 *   unknown, or killed   once or not at all
 *
 * Notes are taken before the database is asked, so writers may go on meanwhile.
 */
#ifndef IT_LEDGER_H
#define IT_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

struct broker;
struct ledger;
struct pg_cluster;

/* For so many writes; more end the writer. */
struct ledger *ledger_create(uint32_t entries);
void ledger_destroy(struct ledger **l);

/* A write is about to be sent; its number. */
uint32_t ledger_begin(struct ledger *l);
/* It ended with this code; the handle has the details.  At once, before the next call. */
void ledger_end(struct ledger *l, uint32_t number, const struct broker *b, int rc);
/* It ended, and is known to have had no effect. */
void ledger_failed(struct ledger *l, uint32_t number);

struct ledger_count {
	uint32_t begun, acked, failed, unknown, open;
};
struct ledger_count ledger_count(const struct ledger *l);

/* When a write was first acknowledged after `us` (wait_clock_us); 0: not yet. */
int64_t ledger_acked_after(const struct ledger *l, int64_t us);

/* Longest time without an acknowledgement between two moments, in milliseconds. */
int64_t ledger_longest_pause(const struct ledger *l, int64_t from_us, int64_t to_us);

/*
 * Compare, with one TAP check that is called `what`.  sql selects the numbers and a count of each,
 * e.g. SELECT n, count(*) FROM t GROUP BY n.
 */
bool ledger_check(const struct ledger *l, struct pg_cluster *pg, const char *sql, const char *what);

#endif
