/* SPDX-License-Identifier: MIT */
/* caps.c - see caps.h. */
#include "caps.h"

#include "check.h"

#include <stdlib.h>

/* FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/ */
uint64_t caps_tag(const char *tag, size_t len)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < len; i++) {
		h = (h ^ (unsigned char)tag[i]) * UINT64_C(0x100000001b3);
	}
	return h;
}

static struct cap_use *find(const struct caps *c, enum cap_kind kind, uint64_t key)
{
	for (unsigned i = 0; i < c->nuse; i++) {
		if (c->use[i].kind == kind && c->use[i].key == key) {
			return &c->use[i];
		}
	}
	return NULL;
}

unsigned caps_used(const struct caps *c, enum cap_kind kind, uint64_t key)
{
	const struct cap_use *u = find(c, kind, key);

	return u != NULL ? u->n : 0;
}

bool caps_take(struct caps *c, enum cap_kind kind, uint64_t key)
{
	struct cap_use *u = find(c, kind, key);

	if (u == NULL) {
		if (c->nuse == c->cap) {
			unsigned cap = c->cap == 0 ? 16 : c->cap * 2;
			struct cap_use *more = realloc(c->use, cap * sizeof(*more));

			if (more == NULL) {
				return false;
			}
			c->use = more;
			c->cap = cap;
		}
		u = &c->use[c->nuse++];
		*u = (struct cap_use){.kind = kind, .key = key};
	}
	u->n++;
	return true;
}

void caps_drop(struct caps *c, enum cap_kind kind, uint64_t key)
{
	struct cap_use *u = find(c, kind, key);

	check(u != NULL && u->n > 0);
	if (--u->n == 0) {
		*u = c->use[--c->nuse];
	}
}

void caps_finish(struct caps *c)
{
	free(c->use);
	*c = (struct caps){0};
}
