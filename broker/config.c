/* SPDX-License-Identifier: MIT */
/*
 * config.c - see config.h.
 *
 * Drives a draft (draft.h) through its layers and checks, makes the immutable object of it, and
 * prints.
 */
#include "config.h"

#include "draft.h"

#include <errno.h>
#include <inttypes.h>
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

static int64_t between(int64_t least, int64_t v, int64_t most)
{
	return v < least ? least : v > most ? most : v;
}

static void resolve_pool(const struct draft_section *s, struct config_pool *p)
{
	p->min_idle = p->min_idle < 0 ? p->max_size : p->min_idle;
	p->readers = p->readers != 0 ? p->readers : between(2, usable_processors(), 8);
	if (p->validation_timeout < 0) {
		p->validation_timeout =
			between(CONFIG_LEAST_VALIDATION, p->acquire_timeout / 2, 5000);
	}
	if (draft_place(s, "keepalive_time") == NULL && p->max_lifetime != 0 &&
		p->keepalive_time >= p->max_lifetime) {
		p->keepalive_time = 0;
	}
}

/* Values that mean "depends" become the value they depend on. */
static void resolve(struct draft *d)
{
	struct config_broker *b = &d->sections[0]->v.broker;

	b->max_workers_per_uid =
		b->max_workers_per_uid == 0 ? b->max_workers : b->max_workers_per_uid;
	for (unsigned i = 1; i < d->nsections; i++) {
		if (d->sections[i]->kind == OPTION_POOL) {
			resolve_pool(d->sections[i], &d->sections[i]->v.pool);
		}
	}
}

const char *config_needs_one_thread(const struct config *c, char *buf, size_t len)
{
	for (unsigned i = 0; i < c->nservers; i++) {
		const struct config_server *s = &c->servers[i];

		if (!s->removed && option_driver_of(s->url) != OPTION_PG) {
			snprintf(buf, len, "server %s is not on PostgreSQL", s->name);
			return buf;
		}
	}
	for (unsigned i = 0; i < c->npools; i++) {
		const struct config_pool *p = &c->pools[i];

		if (p->max_per_uid > 0 || p->max_per_tag > 0) {
			snprintf(buf, len, "pool %s has %s", p->name,
				p->max_per_uid > 0 ? "max_per_uid" : "max_per_tag");
			return buf;
		}
	}
	return NULL;
}

static void resolve_threads(struct config *c)
{
	char why[128];

	if (c->broker.io_threads == 0) {
		c->broker.io_threads = config_needs_one_thread(c, why, sizeof(why)) != NULL
					       ? 1
					       : between(1, usable_processors() / 2, 8);
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
	resolve_threads(c);
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
		draft_check(&d);
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

static bool uses(const struct config_pool *p, const char *server)
{
	for (unsigned i = 0; i < p->nservers; i++) {
		if (strcmp(p->servers[i], server) == 0) {
			return true;
		}
	}
	return false;
}

void config_advise(const struct config *c, void (*tell)(const char *text))
{
	char text[256];

	for (unsigned i = 0; i < c->nservers; i++) {
		const struct config_server *s = &c->servers[i];
		int64_t sum = 0;

		for (unsigned k = 0; k < c->npools; k++) {
			sum += uses(&c->pools[k], s->name)
				       ? c->pools[k].max_size + c->pools[k].max_overflow
				       : 0;
		}
		if (s->max_connections > 0 && sum > s->max_connections) {
			snprintf(text, sizeof(text),
				"server %s: its pools may want %" PRId64
				" connections (max_size and max_overflow), max_connections allows "
				"%" PRId64,
				s->name, sum, s->max_connections);
			tell(text);
		}
	}
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

		if (o->section != kind || !option_applies(o, driver)) {
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
			p->fallback != FALLBACK_OFF
				? OPTION_ANY
				: option_driver_of(config_server(c, p->servers[0])->url),
			f);
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
