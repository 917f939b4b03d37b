/* SPDX-License-Identifier: MIT */
/*
 * test_pg_prepared.c - the set of prepared statements against an obviously right list, over random
 * operations; and the names.
 */
#include "pg_prepared.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

#define LIMIT 7u

struct item {
	struct pg_key key;
	bool stale;
};

/* Oldest first. */
static struct item list[LIMIT];
static unsigned count;

static int list_find(struct pg_key key)
{
	for (unsigned i = 0; i < count; i++) {
		if (list[i].key.id == key.id && list[i].key.blobs == key.blobs) {
			return (int)i;
		}
	}
	return -1;
}

static void list_remove(int i)
{
	memmove(&list[i], &list[i + 1], (count - (unsigned)i - 1) * sizeof(list[0]));
	count--;
}

static enum pg_found list_use(struct pg_key key)
{
	int i = list_find(key);
	struct item it;

	if (i < 0) {
		return PG_ABSENT;
	}
	it = list[i];
	list_remove(i);
	list[count++] = it;
	return it.stale ? PG_STALE : PG_PRESENT;
}

static bool step(struct pg_prepared *p)
{
	struct pg_key key = {(uint32_t)random() % 12, (uint64_t)(random() % 2) << 63};
	int i = list_find(key);

	switch (random() % 8) {
	case 0:
		pg_prepared_remove(p, key);
		if (i >= 0) {
			list_remove(i);
		}
		break;
	case 1:
		pg_prepared_set_stale(p, key);
		if (i >= 0) {
			list[i].stale = true;
		}
		break;
	case 2:
		if (random() % 50 == 0) {
			pg_prepared_clear(p);
			count = 0;
		}
		break;
	default:
		if (pg_prepared_find(p, key) != list_use(key)) {
			return false;
		}
		if (i >= 0) {
			break;
		}
		if (pg_prepared_full(p)) {
			struct pg_key oldest = pg_prepared_oldest(p);

			if (list_find(oldest) != 0) {
				return false;
			}
			pg_prepared_remove(p, oldest);
			list_remove(0);
		}
		pg_prepared_add(p, key);
		list[count++] = (struct item){.key = key};
	}
	return pg_prepared_count(p) == count && pg_prepared_full(p) == (count == LIMIT);
}

int main(void)
{
	struct pg_prepared *p = pg_prepared_create(LIMIT), *none = pg_prepared_create(0);
	char name[PG_NAME_MAX];
	unsigned good = 0;

	srandom(1);
	while (good < 200000 && step(p)) {
		good++;
	}
	is_int(good, 200000, "200000 random operations as in the list");
	ok(pg_prepared_full(none), "a limit of 0 is full at once");
	is_int(pg_prepared_find(none, (struct pg_key){1, 0}), PG_ABSENT, "and holds nothing");
	pg_prepared_name((struct pg_key){17, 0}, name);
	is_str(name, "s17", "name");
	pg_prepared_name((struct pg_key){UINT32_MAX, UINT64_MAX}, name);
	is_str(name, "s4294967295_ffffffffffffffff", "longest name");
	pg_prepared_destroy(p);
	pg_prepared_destroy(none);
	pg_prepared_destroy(NULL);
	return done_testing();
}
