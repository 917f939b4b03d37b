/* SPDX-License-Identifier: MIT */
/* settings.c - see settings.h. */
#include "settings.h"

#include "scratch.h"
#include "tap.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTINGS_MAX 40

struct settings {
	char *list[SETTINGS_MAX + 1]; /* NULL-terminated */
	unsigned n;
};

struct settings *settings_new(void)
{
	struct settings *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		bail_out("out of memory");
	}
	return s;
}

void settings_free(struct settings **sp)
{
	struct settings *s = *sp;

	for (unsigned i = 0; s != NULL && i < s->n; i++) {
		free(s->list[i]);
	}
	free(s);
	*sp = NULL;
}

void settings_add(struct settings *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (s->n == SETTINGS_MAX || vasprintf(&s->list[s->n++], fmt, ap) < 0) {
		bail_out("too many settings");
	}
	va_end(ap);
}

void settings_add_all(struct settings *s, const char *const *list)
{
	for (; list != NULL && *list != NULL; list++) {
		settings_add(s, "%s", *list);
	}
}

void settings_add_servers(
	struct settings *s, const struct cluster *c, const char *const *urls, const char *local)
{
	char *names = scratch_format("%s", "");

	for (unsigned i = 0; i < cluster_size(c); i++) {
		char *more = scratch_format("%s%s%s", names, i > 0 ? ", " : "", cluster_name(i));

		settings_add(s, "server %s.url=%s", cluster_name(i),
			urls != NULL ? urls[i] : pg_url(cluster_server(c, i)));
		free(names);
		names = more;
	}
	if (local != NULL) {
		settings_add(s, "server %s.url=sqlite:%s", SETTINGS_LOCAL, local);
	}
	settings_add(s, "pool main.servers=%s%s", names, local != NULL ? ", " SETTINGS_LOCAL : "");
	free(names);
}

const char *const *settings_list(const struct settings *s)
{
	return (const char *const *)s->list;
}
