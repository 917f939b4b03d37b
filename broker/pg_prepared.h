/* SPDX-License-Identifier: MIT */
/*
 * pg_prepared.h - which statements one PostgreSQL connection has prepared, least recently used
 * first.
 *
 * A key is a statement's id and the set of its parameters that were declared bytea: another set
 * makes another prepared statement, since PostgreSQL settles the types of parameters when it
 * prepares, and a worker must not get the types another worker's values suggested.
 *
 * Fixed size, no allocation after create.  I/O thread only.
 */
#ifndef BROKER_PG_PREPARED_H
#define BROKER_PG_PREPARED_H

#include "check.h"

#include <stdbool.h>
#include <stdint.h>

struct pg_key {
	uint32_t id; /* of the statement */
	uint64_t blobs; /* bit i: parameter i is bytea */
};

struct pg_prepared;

/* limit 0 is allowed: nothing is ever kept.  NULL: out of memory. */
struct pg_prepared *pg_prepared_create(unsigned limit) must_use;
void pg_prepared_destroy(struct pg_prepared *p);

enum pg_found {
	PG_ABSENT,
	PG_PRESENT,
	PG_STALE, /* prepared, but of no use any more: deallocate it before preparing it anew */
};
/* A hit makes it the most recently used. */
enum pg_found pg_prepared_find(struct pg_prepared *p, struct pg_key key);

bool pg_prepared_full(const struct pg_prepared *p);
unsigned pg_prepared_count(const struct pg_prepared *p);
/* The least recently used; p is not empty. */
struct pg_key pg_prepared_oldest(const struct pg_prepared *p);

/* Not present, and p is not full. */
void pg_prepared_add(struct pg_prepared *p, struct pg_key key);
/* Both do nothing if it is absent. */
void pg_prepared_remove(struct pg_prepared *p, struct pg_key key);
void pg_prepared_set_stale(struct pg_prepared *p, struct pg_key key);
void pg_prepared_clear(struct pg_prepared *p);

/*
 * Its results are asked for in binary.  Their types are settled: the server refuses a prepared
 * statement whose types would change, and what is prepared anew is text again.
 */
void pg_prepared_set_binary(struct pg_prepared *p, struct pg_key key);
bool pg_prepared_is_binary(const struct pg_prepared *p, struct pg_key key);

/* The name on the server: "s17", or "s17_5" with bytea parameters. */
#define PG_NAME_MAX 40
void pg_prepared_name(struct pg_key key, char name[PG_NAME_MAX]);

#endif
