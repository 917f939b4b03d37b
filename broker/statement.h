/* SPDX-License-Identifier: MIT */
/*
 * statement.h - the registry of statement texts.
 *
 * Each distinct text is kept once, with a number that names it on every connection ("s17") and with
 * what the broker learned about it.  I/O thread only, but for `text`, `len` and `id`, which never
 * change while a reference is held and may be read by executor threads.
 */
#ifndef BROKER_STATEMENT_H
#define BROKER_STATEMENT_H

#include "check.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a statement may leave behind in its session, from its words alone (see statement.c). */
enum statement_trait {
	STMT_SUSPECT = 1, /* may change session state: reset the connection afterwards */
	STMT_TX_CONTROL = 2, /* BEGIN, COMMIT, SAVEPOINT, …: not allowed outside a lease */
	STMT_COPY = 4, /* COPY as first word: only through the COPY calls */
	STMT_TX_END = 8, /* COMMIT, ROLLBACK (not TO), …: ends a transaction */
	STMT_INDELIBLE = 16, /* leaves what no reset takes back: close the connection afterwards */
	STMT_COMMITS = 32, /* CALL, some DO: alone it may commit parts as it goes along */
};

struct statement {
	uint64_t hash;
	uint64_t fingerprint; /* of its shape, see fingerprint.h */
	uint32_t shape; /* row of its shape when it last ended, a hint for shape_find */
	uint32_t id; /* unique while the broker runs, never reused */
	uint32_t refs;
	uint32_t traits; /* enum statement_trait */
	uint64_t uses;
	/* about the shortest time it took lately, 0: never ran; see request_is_quick */
	uint64_t quick_ns;
	/* time the server spends on one, on average of late: with others behind it */
	uint64_t serve_ns;
	_Atomic int
		readonly; /* SQLite: 1 it only reads, 0 it writes, -1 not known yet; set from the
	                         first word, then by executors */
	int brief; /* SQLite: how far it has proved to be short, see sqlite_here.c; I/O thread */
	struct statement *chain; /* hash bucket */
	struct statement *newer, *older; /* least recently used order of unreferenced ones */
	size_t len;
	char text[]; /* NUL terminated */
};

struct statements;

/* Keeps at most `limit` texts that nobody references. */
struct statements *statements_create(unsigned limit) must_use;
void statements_destroy(struct statements *s);
/* Of several registries whose statements meet on the same connections: ids are first, first + step,
 * … */
void statements_number(struct statements *s, uint32_t first, uint32_t step);

/* Find or add; takes a reference.  NULL: out of memory. */
struct statement *statement_get(struct statements *s, const char *text, size_t len) must_use;
void statement_hold(struct statement *st);
void statement_put(struct statements *s, struct statement *st);

/* Traits of a text: a scan for words, without parsing, that errs on the side of suspicion. */
uint32_t statement_traits(const char *text, size_t len);

#endif
