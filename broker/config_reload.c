/* SPDX-License-Identifier: MIT */
/*
 * config_reload.c - from the configuration in force and one read anew, the next one.
 *
 * The fresh one is checked as at a start.  Its sections then move into the next one, at the rows of
 * their names, and get the old values of what cannot change.
 */
#include "config.h"

#include "option.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

struct reload {
	const struct config *now;
	struct config *fresh; /* what moved out of it is zero */
	struct config *next;
	char *notes;
	size_t noteslen, notesused;
};

/* A line that does not fit is dropped. */
__attribute__((format(printf, 2, 3))) static void note(struct reload *r, const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (n >= 0 && r->notesused + strlen(line) + 2 <= r->noteslen) {
		r->notesused += (size_t)snprintf(r->notes + r->notesused,
			r->noteslen - r->notesused, "%s%s", r->notesused > 0 ? "\n" : "", line);
	}
}

/* The value as a user would write it, cut to fit. */
static const char *value_text(const struct option *o, const void *section, char *buf, size_t len)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	buf[0] = '\0';
	if (f != NULL) {
		option_print_value(o, section, f);
		if (fclose(f) == 0) {
			snprintf(buf, len, "%s", n > 0 ? text : "empty");
		}
		free(text);
	}
	return buf;
}

static const char *title(enum option_section kind, const char *name, char *buf, size_t len)
{
	snprintf(buf, len, "[%s%s%s]", option_section_name(kind), name != NULL ? " " : "",
		name != NULL ? name : "");
	return buf;
}

/* ------------------------------------------------------------------------------------------------
 * Sections
 */

/* In the fresh one, if it has not moved. */
static struct config_server *find_server(const struct config *c, const char *name)
{
	for (unsigned i = 0; i < c->nservers; i++) {
		if (c->servers[i].name != NULL && strcmp(c->servers[i].name, name) == 0) {
			return &c->servers[i];
		}
	}
	return NULL;
}

static struct config_pool *find_pool(const struct config *c, const char *name)
{
	for (unsigned i = 0; i < c->npools; i++) {
		if (c->pools[i].name != NULL && strcmp(c->pools[i].name, name) == 0) {
			return &c->pools[i];
		}
	}
	return NULL;
}

/* Options that need a restart keep their values. */
static int keep_constant(struct reload *r, enum option_section kind, const char *name,
	void *section, const void *old)
{
	char t[80], text[200];

	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];

		if (o->section != kind || o->when == OPTION_LIVE || option_same(o, section, old)) {
			continue;
		}
		if (option_copy(o, section, old) < 0) {
			return -ENOMEM;
		}
		note(r, "%s %s: a change needs a restart; it stays %s",
			title(kind, name, t, sizeof(t)), o->key,
			value_text(o, old, text, sizeof(text)));
	}
	return 0;
}

/* All values; the name is made. */
static int copy_section(
	enum option_section kind, const char *name, void *to, char **to_name, const void *from)
{
	*to_name = strdup(name);
	if (*to_name == NULL) {
		return -ENOMEM;
	}
	for (unsigned i = 0; i < option_count; i++) {
		if (option_table[i].section == kind &&
			option_copy(&option_table[i], to, from) < 0) {
			return -ENOMEM;
		}
	}
	return 0;
}

static int make_broker(struct reload *r)
{
	struct config_broker *b = &r->next->broker;
	bool follows;

	*b = r->fresh->broker;
	r->fresh->broker = (struct config_broker){0};
	follows = b->max_workers_per_uid == b->max_workers;
	if (keep_constant(r, OPTION_BROKER, NULL, b, &r->now->broker) < 0) {
		return -ENOMEM;
	}
	if (follows || b->max_workers_per_uid > b->max_workers) {
		b->max_workers_per_uid = b->max_workers;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Pools
 */

static const char *fallback_name(const struct config_pool *p)
{
	return p->fallback != FALLBACK_OFF ? p->servers[p->nservers - 1] : NULL;
}

/* In the list of p stands its own fallback server, if it has one: put `name`, or none, there. */
static int replace_fallback(struct config_pool *p, const char *name)
{
	char *copy = name != NULL ? strdup(name) : NULL;

	if (name != NULL && copy == NULL) {
		return -ENOMEM;
	}
	if (fallback_name(p) != NULL) {
		free(p->servers[--p->nservers]);
	}
	if (copy != NULL) {
		char **grown = reallocarray(p->servers, p->nservers + 1, sizeof(*p->servers));

		if (grown == NULL) {
			free(copy);
			return -ENOMEM;
		}
		p->servers = grown;
		p->servers[p->nservers++] = copy;
	}
	return 0;
}

/* The fallback server stays, for rows of a journal may be in it. */
static int keep_fallback(struct reload *r, struct config_pool *p, const struct config_pool *old)
{
	const char *was = fallback_name(old), *is = fallback_name(p);

	if (was == is || (was != NULL && is != NULL && strcmp(was, is) == 0)) {
		return 0;
	}
	if (was != NULL && is != NULL) {
		note(r, "[pool %s] servers: another fallback needs a restart; it stays %s", p->name,
			was);
	}
	return replace_fallback(p, was);
}

static int make_pools(struct reload *r)
{
	struct config *next = r->next;

	for (unsigned i = 0; i < r->now->npools; i++) {
		const struct config_pool *old = &r->now->pools[i];
		struct config_pool *fresh = find_pool(r->fresh, old->name);
		struct config_pool *p = &next->pools[next->npools++];

		if (fresh == NULL) {
			note(r, "pool %s: removing a pool needs a restart", old->name);
			if (copy_section(OPTION_POOL, old->name, p, &p->name, old) < 0) {
				return -ENOMEM;
			}
			continue;
		}
		*p = *fresh;
		*fresh = (struct config_pool){0};
		if (keep_fallback(r, p, old) < 0 ||
			keep_constant(r, OPTION_POOL, p->name, p, old) < 0) {
			return -ENOMEM;
		}
	}
	for (unsigned i = 0; i < r->fresh->npools; i++) {
		if (r->fresh->pools[i].name != NULL) {
			next->pools[next->npools++] = r->fresh->pools[i];
			r->fresh->pools[i] = (struct config_pool){0};
		}
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Servers
 */

static bool is_used(const struct config *c, const char *name, bool as_fallback)
{
	for (unsigned i = 0; i < c->npools; i++) {
		const struct config_pool *p = &c->pools[i];

		for (unsigned k = 0; k < p->nservers; k++) {
			if (strcmp(p->servers[k], name) == 0 &&
				(!as_fallback || fallback_name(p) == p->servers[k])) {
				return true;
			}
		}
	}
	return false;
}

static int keep_url(struct reload *r, struct config_server *s, const struct config_server *old)
{
	const struct option *url = option_find(OPTION_SERVER, "url");
	char text[200];

	if (!is_used(r->next, s->name, true) || option_same(url, s, old)) {
		return 0;
	}
	note(r, "[server %s] url: another file of a fallback needs a restart; it stays %s", s->name,
		value_text(url, old, text, sizeof(text)));
	return option_copy(url, s, old);
}

static int make_servers(struct reload *r)
{
	struct config *next = r->next;

	for (unsigned i = 0; i < r->now->nservers; i++) {
		const struct config_server *old = &r->now->servers[i];
		struct config_server *fresh = find_server(r->fresh, old->name);
		struct config_server *s = &next->servers[next->nservers++];

		if (fresh != NULL) {
			*s = *fresh;
			*fresh = (struct config_server){0};
			if (keep_url(r, s, old) < 0) {
				return -ENOMEM;
			}
		} else if (copy_section(OPTION_SERVER, old->name, s, &s->name, old) < 0) {
			return -ENOMEM;
		}
		s->removed = !is_used(next, s->name, false);
	}
	for (unsigned i = 0; i < r->fresh->nservers; i++) {
		struct config_server *fresh = &r->fresh->servers[i];

		if (fresh->name != NULL && is_used(next, fresh->name, false)) {
			next->servers[next->nservers++] = *fresh;
			*fresh = (struct config_server){0};
		}
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------
 * The whole
 */

/* What was kept and what is new may contradict each other only in the servers of a pool. */
static bool servers_fit(const struct config *c, const struct config_pool *p)
{
	for (unsigned i = 0; i < p->nservers; i++) {
		const char *url = config_server(c, p->servers[i])->url;
		bool local = option_driver_of(url) == OPTION_SQLITE;

		for (unsigned k = 0; k < i; k++) {
			if (strcmp(p->servers[i], p->servers[k]) == 0) {
				return false;
			}
		}
		if (local && p->nservers > 1 && fallback_name(p) != p->servers[i]) {
			return false;
		}
	}
	return p->nservers >= (p->fallback != FALLBACK_OFF ? 2 : 1) &&
	       p->nservers <= FAILOVER_MAX_SERVERS;
}

static int merge(struct reload *r, char *err, size_t errlen)
{
	struct config *next = r->next;
	char why[128];

	next->servers = calloc(r->now->nservers + r->fresh->nservers, sizeof(*next->servers));
	next->pools = calloc(r->now->npools + r->fresh->npools, sizeof(*next->pools));
	if (next->servers == NULL || next->pools == NULL || make_broker(r) < 0 ||
		make_pools(r) < 0 || make_servers(r) < 0) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	next->source = r->fresh->source;
	r->fresh->source = NULL;
	for (unsigned i = 0; i < next->npools; i++) {
		if (!servers_fit(next, &next->pools[i])) {
			snprintf(err, errlen,
				"[pool %s] servers: such a change needs a restart, with the "
				"fallback that the pool has",
				next->pools[i].name);
			return -EINVAL;
		}
	}
	if (next->broker.io_threads > 1 &&
		config_needs_one_thread(next, why, sizeof(why)) != NULL) {
		snprintf(err, errlen,
			"[broker] io_threads: %s, which needs a restart with one I/O thread; "
			"there are %lld",
			why, (long long)next->broker.io_threads);
		return -EINVAL;
	}
	return 0;
}

int config_reload(const struct config *now, const struct config_source *source, struct config **out,
	char *err, size_t errlen, char *notes, size_t noteslen)
{
	struct reload r = {.now = now, .notes = notes, .noteslen = noteslen};
	const char *path = source->path != NULL ? source->path : now->source;
	int rc;

	*out = NULL;
	check(noteslen > 0);
	notes[0] = '\0';
	rc = config_load(path, source->env, source->over, source->nover, &r.fresh, err, errlen);
	if (rc < 0) {
		return rc;
	}
	r.next = calloc(1, sizeof(*r.next));
	if (r.next == NULL) {
		snprintf(err, errlen, "out of memory");
		rc = -ENOMEM;
	} else {
		rc = merge(&r, err, errlen);
	}
	config_free(r.fresh);
	if (rc < 0) {
		config_free(r.next);
		return rc;
	}
	*out = r.next;
	return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Differences
 */

bool config_server_same_connection(const struct config_server *old_server,
	const struct config_pool *old_pool, const struct config_server *new_server,
	const struct config_pool *new_pool)
{
	if (strcmp(old_server->url, new_server->url) != 0) {
		return false;
	}
	/* Nobody logs in to a file; and one in memory would be another one.  The rest is read anew
	 * by each connection. */
	if (option_driver_of(new_server->url) == OPTION_SQLITE) {
		return true;
	}
	return old_server->connect_timeout == new_server->connect_timeout &&
	       strcmp(old_pool->database, new_pool->database) == 0 &&
	       strcmp(old_pool->user, new_pool->user) == 0 &&
	       strcmp(old_pool->password, new_pool->password) == 0 &&
	       strcmp(old_pool->passfile, new_pool->passfile) == 0 &&
	       old_pool->max_prepared == new_pool->max_prepared;
}

static unsigned tell_options(enum option_section kind, const char *name, const void *old,
	const void *new, void (*tell)(const char *text))
{
	char text[600], t[80], a[200], b[200];
	unsigned n = 0;

	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];

		if (o->section != kind || option_same(o, old, new)) {
			continue;
		}
		snprintf(text, sizeof(text), "%s %s: %s, was %s", title(kind, name, t, sizeof(t)),
			o->key, value_text(o, new, b, sizeof(b)), value_text(o, old, a, sizeof(a)));
		tell(text);
		n++;
	}
	return n;
}

static unsigned tell_one(
	const char *what, const char *name, const char *verb, void (*tell)(const char *text))
{
	char text[100];

	snprintf(text, sizeof(text), "%s %s: %s", what, name, verb);
	tell(text);
	return 1;
}

unsigned config_tell_changes(
	const struct config *now, const struct config *next, void (*tell)(const char *text))
{
	unsigned n = tell_options(OPTION_BROKER, NULL, &now->broker, &next->broker, tell);

	for (unsigned i = 0; i < next->nservers; i++) {
		const struct config_server *s = &next->servers[i];
		bool was = i < now->nservers && !now->servers[i].removed;

		if (was && s->removed) {
			n += tell_one("server", s->name, "removed", tell);
		} else if (!was && !s->removed) {
			n += tell_one("server", s->name, "added", tell);
		} else if (was) {
			n += tell_options(OPTION_SERVER, s->name, &now->servers[i], s, tell);
		}
	}
	for (unsigned i = 0; i < next->npools; i++) {
		const struct config_pool *p = &next->pools[i];

		n += i >= now->npools ? tell_one("pool", p->name, "added", tell)
				      : tell_options(OPTION_POOL, p->name, &now->pools[i], p, tell);
	}
	return n;
}
