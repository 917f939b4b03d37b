/* SPDX-License-Identifier: MIT */
/* average.c - see average.h. */
#include "average.h"

#include "text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const unsigned average_span[AVERAGE_SPANS] = {10, 100, 1000};

const struct average *averages_find(const struct averages *a, const char *name)
{
	for (size_t i = 0; i < a->n; i++) {
		if (strcmp(a->v[i].name, name) == 0) {
			return &a->v[i];
		}
	}
	return NULL;
}

/* Series rarely change their order: look at the same place first. */
static const struct average *find_near(const struct averages *a, size_t i, const char *name)
{
	return i < a->n && strcmp(a->v[i].name, name) == 0 ? &a->v[i] : averages_find(a, name);
}

static void add_value(struct average *a, double v)
{
	if (a->samples < average_span[AVERAGE_SPANS - 1]) {
		a->samples++;
	}
	for (unsigned i = 0; i < AVERAGE_SPANS; i++) {
		unsigned n = a->samples < average_span[i] ? a->samples : average_span[i];

		a->mean[i] += (v - a->mean[i]) / n;
	}
}

int averages_add(struct averages *a, const struct series_list *l, bool rates)
{
	struct average *v = calloc(l->n + 1, sizeof(*v));

	if (v == NULL) {
		return -ENOMEM;
	}
	for (size_t i = 0; i < l->n; i++) {
		const struct series *s = &l->v[i];
		const struct average *old = find_near(a, i, s->name);

		if (old != NULL) {
			v[i] = *old;
		} else {
			memcpy(v[i].name, s->name, sizeof(v[i].name));
		}
		if (!s->counter || rates) {
			add_value(&v[i], s->counter ? s->rate : s->value);
		}
	}
	free(a->v);
	a->v = v;
	a->n = l->n;
	return 0;
}

void averages_free(struct averages *a)
{
	free(a->v);
	*a = (struct averages){0};
}

void trail_add(struct trail *t, double v)
{
	if (t->n == TRAIL_LENGTH) {
		memmove(t->v, t->v + 1, sizeof(t->v) - sizeof(t->v[0]));
		t->n--;
	}
	t->v[t->n++] = v;
}

char *trail_spark(const struct trail *t, unsigned width, char *dst, size_t size)
{
	double v[TRAIL_LENGTH];

	width = width < TRAIL_LENGTH ? width : TRAIL_LENGTH;
	for (unsigned i = 0; i < width; i++) {
		unsigned back = width - i; /* how many samples ago, 1 = the newest */

		v[i] = back <= t->n ? t->v[t->n - back] : -1;
	}
	return text_spark(dst, size, v, width);
}
