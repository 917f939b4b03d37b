/* SPDX-License-Identifier: MIT */
/*
 * config.c - see config.h.
 *
 * Drives a draft (draft.h) through its layers, checks what belongs together, makes the immutable
 * object of it, and prints.
 */
#include "config.h"

#include "draft.h"

#include <errno.h>
#include <grp.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <sched.h>
#include <string.h>

#define DEFAULT_URL "sqlite:shmbroker.db"

/* What is there without a file, so that a database needs no configuration. */
static void add_defaults(struct draft *d)
{
	struct draft_section *only = NULL;
	unsigned nservers = 0;
	struct draft_section *s;
	char why[200];

	for (unsigned i = 0; i < d->nsections; i++) {
		if (d->sections[i]->kind == OPTION_SERVER) {
			only = d->sections[i];
			nservers++;
		}
	}
	if (nservers == 0) {
		only = draft_add(d, OPTION_SERVER, "local", NULL);
		if (only == NULL || option_parse(option_find(OPTION_SERVER, "url"), DEFAULT_URL,
					    &only->v, why, sizeof(why)) < 0) {
			d->out_of_memory = true;
			return;
		}
	}
	if (draft_find(d, OPTION_POOL, NULL) == NULL) {
		s = draft_add(d, OPTION_POOL, "main", NULL);
		if (s != NULL && nservers <= 1 &&
			option_parse(option_find(OPTION_POOL, "servers"), only->name, &s->v, why,
				sizeof(why)) < 0) {
			d->out_of_memory = true;
		}
	}
}

/* ------------------------------------------------------------------------------------------------
 * What belongs together
 */

static bool applies(const struct option *o, enum option_driver driver)
{
	return o->driver == OPTION_ANY || driver == OPTION_ANY || driver == OPTION_FAKE ||
	       o->driver == driver;
}

/* Options that the database of this section has no use for. */
static void check_driver(struct draft *d, struct draft_section *s, enum option_driver driver)
{
	char where[DRAFT_WHERE_MAX];

	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];

		if (o->section == s->kind && !applies(o, driver) &&
			draft_place(s, o->key) != NULL) {
			draft_mistake(d, draft_blame(s, o->key, where, sizeof(where)),
				"means nothing with %s; remove it",
				driver == OPTION_SQLITE ? "SQLite" : "PostgreSQL");
		}
	}
}

/* libpq's complaint without the text it complains of, which may hold a password. */
static void check_conninfo(struct draft *d, struct draft_section *s)
{
	static const char *const harmless[] = {
		"invalid connection option \"", "invalid URI query parameter: \""};
	char *text = NULL, where[DRAFT_WHERE_MAX];
	PQconninfoOption *options = PQconninfoParse(s->v.server.url, &text);

	if (options == NULL && text != NULL) {
		bool quote = false;

		for (unsigned i = 0; i < array_size(harmless); i++) {
			quote = quote || strncmp(text, harmless[i], strlen(harmless[i])) == 0;
		}
		text[quote ? strcspn(text, "\n") : strcspn(text, "\"\n")] = '\0';
		draft_mistake(d, draft_blame(s, "url", where, sizeof(where)),
			"libpq cannot read it: %s", text);
	}
	PQfreemem(text);
	PQconninfoFree(options);
}

static void check_server(struct draft *d, struct draft_section *s)
{
	const char *url = s->v.server.url;
	enum option_driver driver = option_driver_of(url);
	char where[DRAFT_WHERE_MAX];

	if (draft_place(s, "url") == NULL && url == NULL) {
		draft_mistake(d, draft_blame(s, "url", where, sizeof(where)),
			"is missing; say where the database is, as in sqlite:data.db");
		return;
	}
	draft_blame(s, "url", where, sizeof(where));
	if (url == NULL) {
		return; /* reported where it was given */
	}
	if (driver == OPTION_ANY) {
		draft_mistake(d, where,
			"unknown kind of database; write postgresql://..., host=... dbname=..., or "
			"sqlite:PATH");
	} else if (driver == OPTION_SQLITE && url[7] == '\0') {
		draft_mistake(d, where, "needs the path of a file, as in sqlite:data.db");
	} else if (driver == OPTION_PG) {
		check_conninfo(d, s);
	}
	check_driver(d, s, driver);
}

static void check_pool_servers(struct draft *d, struct draft_section *s)
{
	struct config_pool *p = &s->v.pool;
	struct draft_section *first = NULL;
	char where[DRAFT_WHERE_MAX];

	draft_blame(s, "servers", where, sizeof(where));
	if (p->nservers == 0 && draft_place(s, "servers") == NULL) {
		draft_mistake(d, where,
			"is missing; name the servers of this pool, as in servers = local");
	}
	for (unsigned i = 0; i < p->nservers; i++) {
		struct draft_section *server = draft_find(d, OPTION_SERVER, p->servers[i]);

		for (unsigned j = 0; j < i; j++) {
			if (strcmp(p->servers[i], p->servers[j]) == 0) {
				draft_mistake(d, where, "names '%s' twice", p->servers[i]);
			}
		}
		if (server == NULL) {
			draft_mistake(d, where,
				"there is no [server %s]; define it or correct the name",
				p->servers[i]);
		} else if (first == NULL) {
			first = server;
		} else if (option_driver_of(server->v.server.url) !=
			   option_driver_of(first->v.server.url)) {
			draft_mistake(d, where, "'%s' and '%s' are databases of different kinds",
				first->name, server->name);
		}
	}
	if (first != NULL) {
		check_driver(d, s, option_driver_of(first->v.server.url));
	}
}

static void check_pool(struct draft *d, struct draft_section *s)
{
	struct config_pool *p = &s->v.pool;
	char where[DRAFT_WHERE_MAX];

	check_pool_servers(d, s);
	if (p->min_idle > p->max_size) {
		bool min = draft_place(s, "min_idle") != NULL;

		draft_mistake(d,
			draft_blame(s, min ? "min_idle" : "max_size", where, sizeof(where)),
			"min_idle %lld is more than max_size %lld; lower the one or raise the "
			"other",
			(long long)p->min_idle, (long long)p->max_size);
	}
	if (p->password[0] != '\0' && p->passfile[0] != '\0') {
		draft_mistake(d, draft_blame(s, "passfile", where, sizeof(where)),
			"password is set as well; keep one of the two");
	}
}

/* Who: "user" or "group". */
static bool account_exists(const char *name, bool group)
{
	if (name[strspn(name, "0123456789")] == '\0') {
		return true;
	}
	return group ? getgrnam(name) != NULL : getpwnam(name) != NULL;
}

static void check_accounts(struct draft *d, const char *key, const char *list, bool group)
{
	struct draft_section *s = d->sections[0];
	char where[DRAFT_WHERE_MAX], *copy = draft_keep(d, list), *state = NULL;

	for (char *w = copy != NULL ? strtok_r(copy, ", \t", &state) : NULL; w != NULL;
		w = strtok_r(NULL, ", \t", &state)) {
		if (!(strcmp(w, "*") == 0 && !group) && !account_exists(w, group)) {
			draft_mistake(d, draft_blame(s, key, where, sizeof(where)),
				"there is no %s '%s' on this system", group ? "group" : "user", w);
		}
	}
	free(copy);
}

static void check_broker(struct draft *d)
{
	struct config_broker *b = &d->sections[0]->v.broker;
	char where[DRAFT_WHERE_MAX];

	check_accounts(d, "allow_users", b->allow_users, false);
	check_accounts(d, "allow_groups", b->allow_groups, true);
	check_accounts(d, "monitor_group", b->monitor_group, true);
	if (b->max_workers_per_uid > b->max_workers) {
		draft_mistake(d,
			draft_blame(d->sections[0], "max_workers_per_uid", where, sizeof(where)),
			"%lld is more than max_workers %lld", (long long)b->max_workers_per_uid,
			(long long)b->max_workers);
	}
}

static bool server_used(const struct draft *d, const char *name)
{
	for (unsigned i = 0; i < d->nsections; i++) {
		const struct draft_section *s = d->sections[i];

		for (unsigned j = 0; s->kind == OPTION_POOL && j < s->v.pool.nservers; j++) {
			if (strcmp(s->v.pool.servers[j], name) == 0) {
				return true;
			}
		}
	}
	return false;
}

/* Where any option of the section was given, or NULL. */
static const char *any_place(const struct draft_section *s)
{
	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];
		const char *where = o->section == s->kind ? draft_place(s, o->key) : NULL;

		if (where != NULL) {
			return where;
		}
	}
	return NULL;
}

/* A server without a pool would be silently useless; the built-in one leaves by itself. */
static void check_unused(struct draft *d)
{
	unsigned kept = 0;
	char t[80];

	for (unsigned i = 0; i < d->nsections; i++) {
		struct draft_section *s = d->sections[i];

		if (s->kind == OPTION_SERVER && !server_used(d, s->name)) {
			const char *where = s->where != NULL ? s->where : any_place(s);

			if (where == NULL) {
				draft_section_free(s);
				continue;
			}
			draft_mistake(d, where,
				"%s is in the servers of no pool; add it to one or remove it",
				draft_title(s, t, sizeof(t)));
		}
		d->sections[kept++] = s;
	}
	d->nsections = kept;
}

static void check_all(struct draft *d)
{
	check_broker(d);
	check_unused(d);
	for (unsigned i = 1; i < d->nsections; i++) {
		struct draft_section *s = d->sections[i];

		if (s->kind == OPTION_SERVER) {
			check_server(d, s);
		} else {
			check_pool(d, s);
		}
	}
}

/* ------------------------------------------------------------------------------------------------
 * The result
 */

static int64_t usable_processors(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0) {
		return 2;
	}
	return CPU_COUNT(&set);
}

/* Values that mean "depends" become the value they depend on. */
static void resolve(struct draft *d)
{
	struct config_broker *b = &d->sections[0]->v.broker;
	int64_t n = usable_processors();

	b->max_workers_per_uid =
		b->max_workers_per_uid == 0 ? b->max_workers : b->max_workers_per_uid;
	for (unsigned i = 1; i < d->nsections; i++) {
		struct config_pool *p = &d->sections[i]->v.pool;

		if (d->sections[i]->kind == OPTION_POOL) {
			p->min_idle = p->min_idle < 0 ? p->max_size : p->min_idle;
			p->readers = p->readers != 0 ? p->readers : n < 2 ? 2 : n > 8 ? 8 : n;
		}
	}
}

/* Move the sections' structs over; d keeps nothing that c owns. */
static int build(struct draft *d, struct config **out)
{
	struct config *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		return -ENOMEM;
	}
	c->servers = calloc(d->nsections, sizeof(*c->servers));
	c->pools = calloc(d->nsections, sizeof(*c->pools));
	c->source = d->path != NULL ? strdup(d->path) : NULL;
	if (c->servers == NULL || c->pools == NULL || (d->path != NULL && c->source == NULL)) {
		free(c->servers);
		free(c->pools);
		free(c->source);
		free(c);
		return -ENOMEM;
	}
	c->broker = d->sections[0]->v.broker;
	for (unsigned i = 1; i < d->nsections; i++) {
		struct draft_section *s = d->sections[i];

		if (s->kind == OPTION_SERVER) {
			s->v.server.name = s->name;
			c->servers[c->nservers++] = s->v.server;
		} else {
			s->v.pool.name = s->name;
			c->pools[c->npools++] = s->v.pool;
		}
		s->name = NULL;
	}
	for (unsigned i = 0; i < d->nsections; i++) {
		memset(&d->sections[i]->v, 0, sizeof(d->sections[i]->v));
	}
	*out = c;
	return 0;
}

static int finish(struct draft *d, struct config **out)
{
	int r = d->mistakes > 0 ? -EINVAL : 0;

	if (d->unshown > 0) {
		snprintf(d->err + d->errused, d->errlen - d->errused, "%sand %u more mistakes",
			d->errused > 0 ? "\n" : "", d->unshown);
	}
	if (r == 0 && !d->out_of_memory) {
		resolve(d);
		r = build(d, out);
	}
	if (r == -ENOMEM || d->out_of_memory) {
		snprintf(d->err, d->errlen, "out of memory");
		return -ENOMEM;
	}
	return r;
}

int config_load(const char *path, char *const *env, const struct config_override *over,
	size_t nover, struct config **out, char *err, size_t errlen)
{
	struct draft d = {.err = err, .errlen = errlen};
	int r;

	*out = NULL;
	check(option_count <= DRAFT_MAX_OPTIONS && errlen > 0);
	err[0] = '\0';
	if (draft_add(&d, OPTION_BROKER, NULL, NULL) != NULL) {
		draft_load_file(&d, path, env);
		add_defaults(&d);
	}
	for (size_t i = 0; i < nover && !d.out_of_memory; i++) {
		draft_load_override(&d, over[i].text);
	}
	for (; env != NULL && *env != NULL && !d.out_of_memory; env++) {
		draft_load_variable(&d, *env);
	}
	if (!d.out_of_memory) {
		check_all(&d);
	}
	r = finish(&d, out);
	for (unsigned i = 0; i < d.nsections; i++) {
		draft_section_free(d.sections[i]);
	}
	free(d.sections);
	return r;
}

static void clear_all(enum option_section kind, void *section)
{
	for (unsigned i = 0; i < option_count; i++) {
		if (option_table[i].section == kind) {
			option_clear(&option_table[i], section);
		}
	}
}

void config_free(struct config *c)
{
	if (c == NULL) {
		return;
	}
	clear_all(OPTION_BROKER, &c->broker);
	for (unsigned i = 0; i < c->nservers; i++) {
		clear_all(OPTION_SERVER, &c->servers[i]);
		free(c->servers[i].name);
	}
	for (unsigned i = 0; i < c->npools; i++) {
		clear_all(OPTION_POOL, &c->pools[i]);
		free(c->pools[i].name);
	}
	free(c->servers);
	free(c->pools);
	free(c->source);
	free(c);
}

int config_pool_index(const struct config *c, const char *name)
{
	for (unsigned i = 0; i < c->npools; i++) {
		if (strcmp(c->pools[i].name, name) == 0) {
			return (int)i;
		}
	}
	return -1;
}

const struct config_server *config_server(const struct config *c, const char *name)
{
	for (unsigned i = 0; i < c->nservers; i++) {
		if (strcmp(c->servers[i].name, name) == 0) {
			return &c->servers[i];
		}
	}
	return NULL;
}

/* ------------------------------------------------------------------------------------------------
 * Printing
 */

static void print_wrapped(const char *text, const char *prefix, FILE *f)
{
	const size_t width = 90;

	while (*text != '\0') {
		size_t n = strlen(text), cut = n;

		if (n > width) {
			for (cut = width; cut > 0 && text[cut] != ' '; cut--) {
			}
			cut = cut == 0 ? width : cut;
		}
		fprintf(f, "%s%.*s\n", prefix, (int)cut, text);
		text += cut;
		text += strspn(text, " ");
	}
}

static void print_section(enum option_section kind, const char *name, const void *section,
	enum option_driver driver, FILE *f)
{
	fprintf(f, "\n[%s%s%s]\n", option_section_name(kind), name != NULL ? " " : "",
		name != NULL ? name : "");
	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];

		if (o->section != kind || !applies(o, driver)) {
			continue;
		}
		print_wrapped(o->help, "# ", f);
		fputs("# ", f);
		option_print_facts(o, f);
		fprintf(f, "\n%s = ", o->key);
		option_print_value(o, section, f);
		fputs("\n", f);
	}
}

void config_print(const struct config *c, FILE *f)
{
	fprintf(f, "# Effective configuration; file: %s\n", c->source != NULL ? c->source : "none");
	print_section(OPTION_BROKER, NULL, &c->broker, OPTION_ANY, f);
	for (unsigned i = 0; i < c->nservers; i++) {
		print_section(OPTION_SERVER, c->servers[i].name, &c->servers[i],
			option_driver_of(c->servers[i].url), f);
	}
	for (unsigned i = 0; i < c->npools; i++) {
		const struct config_pool *p = &c->pools[i];

		print_section(OPTION_POOL, p->name, p,
			option_driver_of(config_server(c, p->servers[0])->url), f);
	}
}

void config_describe(FILE *f)
{
	for (int k = OPTION_BROKER; k <= OPTION_POOL; k++) {
		fprintf(f, "%s[%s%s]\n", k == OPTION_BROKER ? "" : "\n",
			option_section_name((enum option_section)k),
			k == OPTION_BROKER ? "" : " NAME");
		for (unsigned i = 0; i < option_count; i++) {
			const struct option *o = &option_table[i];

			if (o->section != (enum option_section)k) {
				continue;
			}
			fprintf(f, "  %s: ", o->key);
			option_print_facts(o, f);
			fputs("\n", f);
			print_wrapped(o->help, "      ", f);
			fputs("      Environment: ", f);
			option_print_variable(o, f);
			fputs("\n", f);
		}
	}
}
