/* SPDX-License-Identifier: MIT */
/* draft_env.c - the layers of a draft that are no file: --set and the environment. */
#include "draft.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/*
 * "pool.main.max_size=5" with a dot where a blank belongs: say what was meant, but no value that
 * may be a secret.  left: what precedes the '='.
 */
static bool hint_blank(struct draft *d, const char *where, const char *left, const char *value)
{
	enum option_section kind = strncmp(left, "pool.", 5) == 0 ? OPTION_POOL : OPTION_SERVER;
	const char *word = option_section_name(kind);
	const char *name = left + strlen(word) + 1, *key;
	const struct option *o;

	if (strncmp(left, word, strlen(word)) != 0 || name[-1] != '.' ||
		(key = strrchr(name, '.')) == NULL) {
		return false;
	}
	o = option_find(kind, key + 1);
	draft_mistake(d, where, "a blank precedes a name; write '%s %s=%s'", word, name,
		o != NULL && o->type < OPTION_STRING ? value : "...");
	return true;
}

void draft_load_override(struct draft *d, const char *text)
{
	char where[DRAFT_WHERE_MAX];
	const char *equal = strchr(text, '=');
	char *left = equal != NULL ? strndup(text, (size_t)(equal - text)) : NULL;
	char *dot = left != NULL ? strrchr(left, '.') : NULL;
	enum option_section kind;
	struct draft_section *s;
	char *name, *key;

	/* The value may be a secret: only what precedes it is repeated. */
	snprintf(where, sizeof(where), "--set '%.*s'", (int)strcspn(text, "="), text);
	if (dot == NULL) {
		draft_mistake(d, where, "write section.option=value, as in 'pool main.max_size=4'");
		free(left);
		return;
	}
	if (hint_blank(d, where, left, equal + 1)) {
		free(left);
		return;
	}
	*dot = '\0';
	key = dot + 1 + strspn(dot + 1, " \t");
	key[strcspn(key, " \t")] = '\0';
	if (draft_parse_title(d, left, where, &kind, &name)) {
		s = draft_find(d, kind, name);
		s = s != NULL ? s : draft_add(d, kind, name, where);
		equal++;
		equal += strspn(equal, " \t");
		if (s != NULL) {
			draft_assign(d, s, LAYER_SET, key, equal, where);
		}
	}
	free(left);
}

/* True if text begins with name as the environment spells it and an underscore follows. */
static bool env_spells(const char *text, const char *name)
{
	for (; *name != '\0'; name++, text++) {
		int c = isalnum((unsigned char)*name) ? toupper((unsigned char)*name) : '_';

		if (*text != c) {
			return false;
		}
	}
	return *text == '_';
}

/* The option whose key ends text after an underscore; *len gets what precedes. */
static const struct option *env_suffix(enum option_section kind, const char *text, size_t *len)
{
	size_t all = strlen(text);

	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];
		size_t n = strlen(o->key);

		if (o->section == kind && all > n + 1 && text[all - n - 1] == '_' &&
			strcasecmp(text + all - n, o->key) == 0) {
			*len = all - n - 1;
			return o;
		}
	}
	return NULL;
}

/* No section fits the variable: make one if its name can be told from the variable. */
static void env_new_section(struct draft *d, enum option_section kind, const char *variable,
	const char *rest, const char *value)
{
	const char *word = option_section_name(kind);
	char name[DRAFT_NAME_MAX + 1];
	size_t len = 0;
	const struct option *o = env_suffix(kind, rest, &len);
	struct draft_section *s;

	if (o == NULL) {
		draft_mistake(d, variable,
			"no option of a [%s NAME] ends this variable; "
			"broker --help-config lists all",
			word);
		return;
	}
	snprintf(name, sizeof(name), "%.*s", (int)len, rest);
	for (char *p = name; *p != '\0'; p++) {
		*p = (char)tolower((unsigned char)*p);
	}
	if (len > DRAFT_NAME_MAX || strchr(name, '_') != NULL) {
		draft_mistake(d, variable,
			"no section fits this variable; define the [%s ...] it means in a file, "
			"or give it a name of letters and digits",
			word);
		return;
	}
	s = draft_add(d, kind, name, variable);
	if (s != NULL) {
		draft_assign(d, s, LAYER_ENV, o->key, value, variable);
	}
}

static void env_assign(struct draft *d, struct draft_section *s, const char *variable,
	const char *rest, const char *value)
{
	char key[64];

	snprintf(key, sizeof(key), "%s", rest);
	for (char *p = key; *p != '\0'; p++) {
		*p = (char)tolower((unsigned char)*p);
	}
	draft_assign(d, s, LAYER_ENV, key, value, variable);
}

/*
 * A variable of [server NAME] or [pool NAME].  Names lose their punctuation and case on the way
 * into the environment, so two sections may share a spelling, and one name may begin another.
 */
static void env_named(struct draft *d, enum option_section kind, const char *variable,
	const char *rest, const char *value)
{
	struct draft_section *exact = NULL, *near = NULL;
	unsigned matches = 0;

	for (unsigned i = 0; i < d->nsections; i++) {
		struct draft_section *s = d->sections[i];
		size_t len = s->name != NULL ? strlen(s->name) : 0, before;
		const struct option *o;

		if (s->kind != kind || !env_spells(rest, s->name)) {
			continue;
		}
		near = s;
		o = env_suffix(kind, rest, &before);
		if (o != NULL && before == len) {
			exact = s;
			matches++;
		}
	}
	if (matches > 1) {
		draft_mistake(d, variable, "fits more than one [%s ...]; rename one of them",
			option_section_name(kind));
	} else if (exact != NULL || near != NULL) {
		struct draft_section *s = exact != NULL ? exact : near;

		env_assign(d, s, variable, rest + strlen(s->name) + 1, value);
	} else {
		env_new_section(d, kind, variable, rest, value);
	}
}

void draft_load_variable(struct draft *d, const char *entry)
{
	static const char *const prefixes[] = {"BROKER_BROKER_", "BROKER_SERVER_", "BROKER_POOL_"};
	const char *value = strchr(entry, '=');
	char *variable;

	if (value == NULL || strncmp(entry, "BROKER_", 7) != 0) {
		return;
	}
	variable = strndup(entry, (size_t)(value - entry));
	if (variable == NULL) {
		d->out_of_memory = true;
		return;
	}
	for (int k = OPTION_BROKER; k <= OPTION_POOL; k++) {
		size_t n = strlen(prefixes[k]);

		if (strncmp(variable, prefixes[k], n) != 0) {
			continue;
		}
		if (k == OPTION_BROKER) {
			env_assign(d, d->sections[0], variable, variable + n, value + 1);
		} else {
			env_named(d, (enum option_section)k, variable, variable + n, value + 1);
		}
	}
	free(variable);
}
