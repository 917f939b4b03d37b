/* SPDX-License-Identifier: MIT */
/* test_metrics.c - the descriptions keep the rules that exporters and people rely on. */
#include "metrics.h"
#include "tap.h"

#include <ctype.h>
#include <string.h>

static bool name_ok(const char *s)
{
	if (strncmp(s, "broker_", 7) != 0) {
		return false;
	}
	for (; *s != '\0'; s++) {
		if (!islower((unsigned char)*s) && !isdigit((unsigned char)*s) && *s != '_') {
			return false;
		}
	}
	return true;
}

static bool ends(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* The unit as the name tells it, without _total. */
static bool unit_ok(const struct metric_desc *d)
{
	char base[64];
	size_t n = strlen(d->name);

	memcpy(base, d->name, sizeof(base));
	if (ends(base, "_total")) {
		base[n - 6] = '\0';
	}
	switch (d->unit) {
	case METRIC_UNIT_NS:
	case METRIC_UNIT_SINCE:
		return ends(base, "_seconds");
	case METRIC_UNIT_BYTES:
		return ends(base, "_bytes");
	default:
		return !ends(base, "_seconds") && !ends(base, "_bytes");
	}
}

static bool label_ok(const char *s)
{
	const char *eq = strchr(s, '=');
	size_t n = strlen(s);

	return n == 0 || (eq != NULL && eq > s && eq[1] == '"' && n >= (size_t)(eq - s) + 4 &&
				 s[n - 1] == '"');
}

static bool same(const struct metric_desc *a, const struct metric_desc *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->label, b->label) == 0;
}

int main(void)
{
	struct metric_desc d, e;
	unsigned next[3][4] = {{0}};
	bool index = true;

	for (unsigned i = 0; i < METRIC_DESC_COUNT; i++) {
		bool unique = true, family = true;

		metric_describe(i, &d);
		for (unsigned j = 0; j < METRIC_DESC_COUNT; j++) {
			metric_describe(j, &e);
			unique = unique && (i == j || !same(&d, &e));
			family = family && (strcmp(d.name, e.name) != 0 ||
						   (d.kind == e.kind && d.unit == e.unit &&
							   (i == j || d.label[0] != '\0')));
		}
		ok(name_ok(d.name) && label_ok(d.label) && strlen(d.help) > 5 && unique && family &&
				unit_ok(&d) &&
				ends(d.name, "_total") == (d.kind == METRIC_KIND_COUNTER),
			"%s{%s}", d.name, d.label);
		index = index && d.index == next[d.scope][d.kind == METRIC_KIND_HISTOGRAM]++;
	}
	ok(index, "indexes are dense, each scope by itself");
	is_int(next[METRIC_SCOPE_BROKER][0], METRIC_COUNT, "all broker metrics are described");
	is_int(next[METRIC_SCOPE_POOL][0], POOL_METRIC_COUNT, "all pool metrics are described");
	is_int(next[METRIC_SCOPE_POOL][1], POOL_HIST_COUNT, "all histograms are described");
	return done_testing();
}
