/* SPDX-License-Identifier: MIT */
/* metrics.c - see metrics.h: the table of descriptions. */
#include "metrics.h"

#include <stdio.h>
#include <string.h>

struct metric_entry {
	const char *name, *label, *help;
	uint32_t kind, unit, scope, index;
};

static const struct metric_entry entries[] = {
#define METRIC(id, name, label, kind, unit, help)                                                  \
	{name, label, help, METRIC_KIND_##kind, METRIC_UNIT_##unit, METRIC_SCOPE_BROKER,           \
		METRIC_##id},
#define POOL_METRIC(id, name, label, kind, unit, help)                                             \
	{name, label, help, METRIC_KIND_##kind, METRIC_UNIT_##unit, METRIC_SCOPE_POOL,             \
		POOL_METRIC_##id},
#define POOL_HISTOGRAM(id, name, help)                                                             \
	{name, "", help, METRIC_KIND_HISTOGRAM, METRIC_UNIT_NS, METRIC_SCOPE_POOL, POOL_HIST_##id},
#include "metrics.def"
#undef METRIC
#undef POOL_METRIC
#undef POOL_HISTOGRAM
};
_Static_assert(array_size(entries) == METRIC_DESC_COUNT, "one description for each metric");

/* A text longer than its field is a mistake in metrics.def. */
static void copy_text(char *dst, size_t size, const char *src)
{
	check(strlen(src) < size);
	memset(dst, 0, size);
	memcpy(dst, src, strlen(src));
}

bool metric_is_stamp(enum pool_metric m)
{
	return entries[METRIC_COUNT + (unsigned)m].unit == METRIC_UNIT_SINCE;
}

void metric_describe(unsigned i, struct metric_desc *out)
{
	const struct metric_entry *e;

	check(i < METRIC_DESC_COUNT);
	e = &entries[i];
	copy_text(out->name, sizeof(out->name), e->name);
	copy_text(out->label, sizeof(out->label), e->label);
	copy_text(out->help, sizeof(out->help), e->help);
	out->kind = e->kind;
	out->unit = e->unit;
	out->scope = e->scope;
	out->index = e->index;
}
