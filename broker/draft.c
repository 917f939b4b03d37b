/* SPDX-License-Identifier: MIT */
/* draft.c - see draft.h. */
#include "draft.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define UNSHOWN_LEN 40 /* kept free for "and N more mistakes" */

/* ------------------------------------------------------------------------------------------------
 * Mistakes
 */

void draft_mistake(struct draft *d, const char *where, const char *fmt, ...)
{
	char line[1000];
	va_list ap;
	int n;

	n = snprintf(line, sizeof(line), "%s%s: ", d->errused > 0 ? "\n" : "", where);
	if (n >= 0 && (size_t)n < sizeof(line)) {
		va_start(ap, fmt);
		(void)vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
		va_end(ap);
	}
	d->mistakes++;
	if (d->unshown > 0 || d->errused + strlen(line) + UNSHOWN_LEN >= d->errlen) {
		d->unshown++;
		return;
	}
	strcpy(d->err + d->errused, line);
	d->errused += strlen(line);
}

char *draft_keep(struct draft *d, const char *s)
{
	char *copy = strdup(s);

	d->out_of_memory |= copy == NULL;
	return copy;
}

const char *draft_title(const struct draft_section *s, char *buf, size_t len)
{
	snprintf(buf, len, "[%s%s%s]", option_section_name(s->kind), s->name != NULL ? " " : "",
		s->name != NULL ? s->name : "");
	return buf;
}

const char *draft_place(const struct draft_section *s, const char *key)
{
	const struct option *o = option_find(s->kind, key);
	const char *where = NULL;

	for (int i = LAYER_DEFAULT; i < LAYER_COUNT; i++) {
		const char *w = s->given[o - option_table][i];

		where = w != NULL ? w : where;
	}
	return where;
}

const char *draft_blame(const struct draft_section *s, const char *key, char *buf, size_t len)
{
	const char *where = draft_place(s, key);
	char t[80];

	where = where != NULL ? where : s->where;
	snprintf(buf, len, "%s%s%s %s", where != NULL ? where : "", where != NULL ? ": " : "",
		draft_title(s, t, sizeof(t)), key);
	return buf;
}

/* ------------------------------------------------------------------------------------------------
 * Sections and values
 */

void draft_section_free(struct draft_section *s)
{
	if (s == NULL) {
		return;
	}
	for (unsigned i = 0; i < option_count; i++) {
		if (option_table[i].section == s->kind) {
			option_clear(&option_table[i], &s->v);
		}
		for (int k = 0; k < LAYER_COUNT; k++) {
			free(s->given[i][k]);
		}
	}
	free(s->name);
	free(s->where);
	free(s);
}

static void set_defaults(struct draft *d, struct draft_section *s)
{
	char why[200];

	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];

		if (o->section != s->kind || (o->def[0] == '\0' && o->min > 0)) {
			continue;
		}
		if (option_parse(o, o->def, &s->v, why, sizeof(why)) < 0) {
			d->out_of_memory = true; /* test_config parses every default */
		}
	}
}

struct draft_section *draft_find(struct draft *d, enum option_section kind, const char *name)
{
	for (unsigned i = 0; i < d->nsections; i++) {
		struct draft_section *s = d->sections[i];

		if (s->kind == kind && (name == NULL || strcmp(s->name, name) == 0)) {
			return s;
		}
	}
	return NULL;
}

struct draft_section *draft_add(
	struct draft *d, enum option_section kind, const char *name, const char *where)
{
	struct draft_section **grown = realloc(d->sections, (d->nsections + 1) * sizeof(*grown));
	struct draft_section *s = calloc(1, sizeof(*s));

	if (grown != NULL) {
		d->sections = grown;
	}
	if (grown == NULL || s == NULL) {
		free(s);
		d->out_of_memory = true;
		return NULL;
	}
	s->kind = kind;
	s->name = name != NULL ? draft_keep(d, name) : NULL;
	s->where = where != NULL ? draft_keep(d, where) : NULL;
	if (name != NULL && s->name == NULL) {
		free(s->where);
		free(s);
		return NULL;
	}
	set_defaults(d, s);
	d->sections[d->nsections++] = s;
	return s;
}

static void unknown_key(
	struct draft *d, const struct draft_section *s, const char *key, const char *where)
{
	char t[80];
	const char *near = option_nearest(s->kind, key);

	draft_title(s, t, sizeof(t));
	if (near != NULL) {
		draft_mistake(d, where, "%s has no option '%s'; did you mean %s?", t, key, near);
		return;
	}
	for (int k = OPTION_BROKER; k <= OPTION_POOL; k++) {
		if (option_find((enum option_section)k, key) != NULL) {
			draft_mistake(d, where,
				"%s has no option '%s'; it belongs into a section [%s%s]", t, key,
				option_section_name((enum option_section)k),
				k == OPTION_BROKER ? "" : " NAME");
			return;
		}
	}
	draft_mistake(d, where, "%s has no option '%s'; broker --help-config lists all", t, key);
}

void draft_assign(struct draft *d, struct draft_section *s, enum draft_layer layer, const char *key,
	const char *value, const char *where)
{
	const struct option *o = option_find(s->kind, key);
	char why[300], t[80];
	char **given;
	int r;

	if (o == NULL) {
		unknown_key(d, s, key, where);
		return;
	}
	given = &s->given[o - option_table][layer];
	if (*given != NULL) {
		draft_mistake(d, where, "%s %s is given twice, first at %s; remove one",
			draft_title(s, t, sizeof(t)), key, *given);
		return;
	}
	*given = draft_keep(d, where);
	r = option_parse(o, value, &s->v, why, sizeof(why));
	if (r == -ENOMEM) {
		d->out_of_memory = true;
	} else if (r < 0) {
		draft_mistake(d, where, "%s %s: %s", draft_title(s, t, sizeof(t)), key, why);
	}
}

/* A name that is easy to type in a file, on a command line and in the environment. */
static bool valid_name(const char *name)
{
	size_t len = strlen(name);

	for (const char *p = name; *p != '\0'; p++) {
		if (!isalnum((unsigned char)*p) && strchr("_-.", *p) == NULL) {
			return false;
		}
	}
	return len > 0 && len <= DRAFT_NAME_MAX;
}

bool draft_parse_title(
	struct draft *d, char *text, const char *where, enum option_section *kind, char **name)
{
	char *word = text + strspn(text, " \t");
	char *rest = word + strcspn(word, " \t");
	char *end;

	if (*rest != '\0') {
		*rest++ = '\0';
		rest += strspn(rest, " \t");
	}
	for (end = rest + strlen(rest); end > rest && isspace((unsigned char)end[-1]); end--) {
		end[-1] = '\0';
	}
	for (int k = OPTION_BROKER; k <= OPTION_POOL; k++) {
		const char *known = option_section_name((enum option_section)k);

		if (strcmp(word, known) != 0) {
			if (option_near(word, known)) {
				draft_mistake(d, where, "unknown section '%s'; did you mean %s?",
					word, known);
				return false;
			}
			continue;
		}
		*kind = (enum option_section)k;
		*name = k == OPTION_BROKER ? NULL : rest;
		if (k == OPTION_BROKER && *rest != '\0') {
			draft_mistake(d, where, "section broker has no name; write [broker]");
			return false;
		}
		if (k != OPTION_BROKER && !valid_name(rest)) {
			draft_mistake(d, where,
				"section %s needs a name of at most %d letters, digits, '_', '-' "
				"or '.', as in [%s main]",
				word, DRAFT_NAME_MAX, word);
			return false;
		}
		return true;
	}
	draft_mistake(d, where,
		"unknown section '%s'; there are [broker], [server NAME] and [pool NAME]", word);
	return false;
}
