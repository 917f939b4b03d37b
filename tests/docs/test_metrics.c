/* SPDX-License-Identifier: MIT */
/*
 * test_metrics.c - docs/metrics.md has every metric of the board with its kind, unit and meaning,
 * and no other.  With an argument the tables are printed as they should be.
 */
#include "metrics.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *doc;

static const char *unit_name(const struct metric_desc *d)
{
	if (d->kind == METRIC_KIND_HISTOGRAM || d->unit == METRIC_UNIT_NS ||
		d->unit == METRIC_UNIT_SINCE) {
		return "seconds";
	}
	return d->unit == METRIC_UNIT_BYTES ? "bytes" : "";
}

/* The line of a metric. */
static void make_line(const struct metric_desc *d, char *out, size_t size)
{
	static const char *const kinds[] = {"", "counter", "gauge", "histogram"};

	snprintf(out, size,
		d->label[0] != '\0' ? "| `%s{%s}` | %s | %s | %s |\n"
				    : "| `%s%s` | %s | %s | %s |\n",
		d->name, d->label, kinds[d->kind], unit_name(d), d->help);
}

static void print_tables(void)
{
	uint32_t scope = 0;

	for (unsigned i = 0; i < METRIC_DESC_COUNT; i++) {
		struct metric_desc d;
		char line[512];

		metric_describe(i, &d);
		if (d.scope != scope) {
			printf("%s\n\n| name | kind | unit | meaning |\n|---|---|---|---|\n",
				d.scope == METRIC_SCOPE_BROKER ? "## Of the broker"
							       : "\n## Of each pool");
			scope = d.scope;
		}
		make_line(&d, line, sizeof(line));
		fputs(line, stdout);
	}
}

static char *load(void)
{
	char path[4096];
	char *text = calloc(1, 1 << 18);
	const char *root = getenv("SOURCE_ROOT");
	FILE *f;

	snprintf(path, sizeof(path), "%s/docs/metrics.md", root != NULL ? root : ".");
	f = fopen(path, "r");
	if (f == NULL || text == NULL || fread(text, 1, (1 << 18) - 1, f) == 0) {
		bail_out("%s", path);
	}
	fclose(f);
	return text;
}

int main(int argc, char **argv)
{
	unsigned lines = 0;

	if (argc > 1) {
		print_tables();
		return 0;
	}
	doc = load();
	for (unsigned i = 0; i < METRIC_DESC_COUNT; i++) {
		struct metric_desc d;
		char line[512];

		metric_describe(i, &d);
		make_line(&d, line, sizeof(line));
		if (!ok(strstr(doc, line) != NULL, "%s %s is described", d.name, d.label)) {
			diag("docs/metrics.md wants the line: %s", line);
		}
	}
	for (const char *p = doc; (p = strstr(p, "\n| `broker_")) != NULL; p++) {
		lines++;
	}
	is_int(lines, METRIC_DESC_COUNT, "and no other metric is");
	free(doc);
	return done_testing();
}
