/* SPDX-License-Identifier: MIT */
/* tally.c - see tally.h. */
#include "tally.h"

#include <stdlib.h>

struct tally *tally_create(void)
{
	struct tally *t = calloc(1, sizeof(*t));

	if (t != NULL) {
		put(&t->refs, 1);
	}
	return t;
}

struct tally *tally_hold(struct tally *t)
{
	add_shared(&t->refs, 1);
	return t;
}

void tally_put(struct tally *t)
{
	/* The last one frees what the others have used: after what they did. */
	if (t != NULL && release_shared(&t->refs) == 1) {
		free(t);
	}
}
