/* SPDX-License-Identifier: MIT */
/*
 * pg_prepared.c - see pg_prepared.h.
 *
 * Entries live in one array; hash chains and the order of use are linked by index.  Entry 0 is the
 * head of the order of use: its `newer` is the oldest entry, its `older` the newest.  Free entries
 * are chained through `chain`.
 */
#include "pg_prepared.h"

#include "decimal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct entry {
	struct pg_key key;
	bool stale;
	bool binary;
	uint32_t chain; /* 0: end */
	uint32_t newer, older;
};

struct pg_prepared {
	unsigned limit;
	unsigned count;
	uint32_t free; /* first free entry, 0: none */
	uint32_t mask; /* buckets - 1 */
	uint32_t *bucket;
	struct entry entry[]; /* limit + 1 */
};

static uint32_t *bucket_of(const struct pg_prepared *p, struct pg_key key)
{
	uint64_t h =
		(key.id ^ key.blobs * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xff51afd7ed558ccd);

	return &p->bucket[(h >> 32) & p->mask];
}

struct pg_prepared *pg_prepared_create(unsigned limit)
{
	struct pg_prepared *p = malloc(sizeof(*p) + (limit + 1ul) * sizeof(p->entry[0]));
	uint32_t buckets = 16;

	if (p == NULL) {
		return NULL;
	}
	while (buckets < limit * 2u) {
		buckets *= 2;
	}
	*p = (struct pg_prepared){.limit = limit, .mask = buckets - 1};
	p->bucket = malloc(buckets * sizeof(*p->bucket));
	if (p->bucket == NULL) {
		free(p);
		return NULL;
	}
	pg_prepared_clear(p);
	return p;
}

void pg_prepared_destroy(struct pg_prepared *p)
{
	if (p != NULL) {
		free(p->bucket);
		free(p);
	}
}

void pg_prepared_clear(struct pg_prepared *p)
{
	for (uint32_t i = 0; i <= p->mask; i++) {
		p->bucket[i] = 0;
	}
	for (uint32_t i = 0; i <= p->limit; i++) {
		p->entry[i] = (struct entry){.chain = i < p->limit ? i + 1 : 0};
	}
	p->free = p->limit > 0 ? 1 : 0;
	p->count = 0;
}

static void order_remove(struct pg_prepared *p, uint32_t i)
{
	struct entry *e = &p->entry[i];

	p->entry[e->older].newer = e->newer;
	p->entry[e->newer].older = e->older;
}

static void order_put_newest(struct pg_prepared *p, uint32_t i)
{
	struct entry *e = &p->entry[i];

	e->older = p->entry[0].older;
	e->newer = 0;
	p->entry[e->older].newer = i;
	p->entry[0].older = i;
}

static uint32_t find(const struct pg_prepared *p, struct pg_key key)
{
	uint32_t i = *bucket_of(p, key);

	while (i != 0 && (p->entry[i].key.id != key.id || p->entry[i].key.blobs != key.blobs)) {
		i = p->entry[i].chain;
	}
	return i;
}

enum pg_found pg_prepared_find(struct pg_prepared *p, struct pg_key key)
{
	uint32_t i = find(p, key);

	if (i == 0) {
		return PG_ABSENT;
	}
	if (p->entry[0].older != i) {
		order_remove(p, i);
		order_put_newest(p, i);
	}
	return p->entry[i].stale ? PG_STALE : PG_PRESENT;
}

bool pg_prepared_full(const struct pg_prepared *p)
{
	return p->free == 0;
}

unsigned pg_prepared_count(const struct pg_prepared *p)
{
	return p->count;
}

struct pg_key pg_prepared_oldest(const struct pg_prepared *p)
{
	check(p->count > 0);
	return p->entry[p->entry[0].newer].key;
}

void pg_prepared_add(struct pg_prepared *p, struct pg_key key)
{
	uint32_t i = p->free, *b = bucket_of(p, key);

	check(i != 0);
	check_slow(find(p, key) == 0);
	p->free = p->entry[i].chain;
	p->count++;
	p->entry[i] = (struct entry){.key = key, .chain = *b};
	*b = i;
	order_put_newest(p, i);
}

void pg_prepared_remove(struct pg_prepared *p, struct pg_key key)
{
	uint32_t i = find(p, key), *link = bucket_of(p, key);

	if (i == 0) {
		return;
	}
	while (*link != i) {
		link = &p->entry[*link].chain;
	}
	*link = p->entry[i].chain;
	order_remove(p, i);
	p->entry[i] = (struct entry){.chain = p->free};
	p->free = i;
	p->count--;
}

void pg_prepared_set_stale(struct pg_prepared *p, struct pg_key key)
{
	uint32_t i = find(p, key);

	if (i != 0) {
		p->entry[i].stale = true;
	}
}

void pg_prepared_set_binary(struct pg_prepared *p, struct pg_key key)
{
	uint32_t i = find(p, key);

	if (i != 0) {
		p->entry[i].binary = true;
	}
}

bool pg_prepared_is_binary(const struct pg_prepared *p, struct pg_key key)
{
	uint32_t i = find(p, key);

	return i != 0 && p->entry[i].binary;
}

void pg_prepared_name(struct pg_key key, char name[PG_NAME_MAX])
{
	size_t len;

	name[0] = 's';
	len = 1 + decimal_u64(name + 1, key.id);
	if (key.blobs != 0) {
		snprintf(name + len, PG_NAME_MAX - len, "_%" PRIx64, key.blobs);
	}
}
