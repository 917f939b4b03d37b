/* SPDX-License-Identifier: MIT */
/* draft_check.c - see draft.h: what belongs together, and what contradicts itself. */
#include "draft.h"

#include <ctype.h>
#include <grp.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <string.h>

/* Options that the database of this section has no use for. */
static void check_driver(struct draft *d, struct draft_section *s, enum option_driver driver)
{
	char where[DRAFT_WHERE_MAX];

	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];

		if (o->section == s->kind && !option_applies(o, driver) &&
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

static bool pool_uses(const struct draft_section *s, const char *server)
{
	for (unsigned i = 0; s->kind == OPTION_POOL && i < s->v.pool.nservers; i++) {
		if (strcmp(s->v.pool.servers[i], server) == 0) {
			return true;
		}
	}
	return false;
}

static void check_guarantees(struct draft *d, struct draft_section *s)
{
	int64_t sum = 0, limit = s->v.server.max_connections;
	char where[DRAFT_WHERE_MAX];

	for (unsigned i = 0; i < d->nsections; i++) {
		sum += pool_uses(d->sections[i], s->name) ? d->sections[i]->v.pool.guaranteed : 0;
	}
	if (limit > 0 && sum > limit) {
		draft_mistake(d, draft_blame(s, "max_connections", where, sizeof(where)),
			"%lld is less than what its pools are guaranteed, %lld; raise it or lower "
			"their guaranteed",
			(long long)limit, (long long)sum);
	}
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
	check_guarantees(d, s);
}

/* The section of a pool's server, or NULL. */
static struct draft_section *server_of(struct draft *d, const struct config_pool *p, unsigned i)
{
	return draft_find(d, OPTION_SERVER, p->servers[i]);
}

static void check_server_names(struct draft *d, struct draft_section *s, const char *where)
{
	struct config_pool *p = &s->v.pool;

	if (p->nservers == 0 && draft_place(s, "servers") == NULL) {
		draft_mistake(d, where,
			"is missing; name the servers of this pool, as in servers = local");
	}
	if (p->nservers > FAILOVER_MAX_SERVERS) {
		draft_mistake(d, where, "names %u servers; at most %u are allowed", p->nservers,
			FAILOVER_MAX_SERVERS);
	}
	for (unsigned i = 0; i < p->nservers; i++) {
		for (unsigned j = 0; j < i; j++) {
			if (strcmp(p->servers[i], p->servers[j]) == 0) {
				draft_mistake(d, where, "names '%s' twice", p->servers[i]);
			}
		}
		if (server_of(d, p, i) == NULL) {
			draft_mistake(d, where,
				"there is no [server %s]; define it or correct the name",
				p->servers[i]);
		}
	}
}

/*
 * Several servers have one database: all are of one kind, but that the last may be the fallback on
 * SQLite.  Returns that kind, and ANY if there is a fallback, for then options of both kinds count.
 */
static enum option_driver check_server_kinds(
	struct draft *d, const struct config_pool *p, const char *where)
{
	enum option_driver kind = OPTION_ANY;
	const char *first = NULL;

	for (unsigned i = 0; i < p->nservers; i++) {
		struct draft_section *server = server_of(d, p, i);
		enum option_driver own =
			server != NULL ? option_driver_of(server->v.server.url) : OPTION_ANY;

		if (own == OPTION_SQLITE && p->nservers > 1) {
			if (i + 1 < p->nservers) {
				draft_mistake(d, where,
					"'%s' is on SQLite; only the last of several servers may "
					"be, as fallback",
					p->servers[i]);
				return OPTION_ANY;
			}
			if (p->fallback == FALLBACK_OFF) {
				draft_mistake(d, where,
					"'%s' is on SQLite and would never be used; set fallback = "
					"read-only, read-write or journal, or remove it",
					p->servers[i]);
			}
			return OPTION_ANY;
		}
		if (own != OPTION_ANY && first == NULL) {
			first = p->servers[i];
			kind = own;
		} else if (own != OPTION_ANY && own != kind) {
			draft_mistake(d, where, "'%s' and '%s' are databases of different kinds",
				first, p->servers[i]);
		}
	}
	return p->fallback != FALLBACK_OFF && p->nservers > 1 ? OPTION_ANY : kind;
}

static void check_pool_servers(struct draft *d, struct draft_section *s)
{
	char where[DRAFT_WHERE_MAX];

	draft_blame(s, "servers", where, sizeof(where));
	check_server_names(d, s, where);
	check_driver(d, s, check_server_kinds(d, &s->v.pool, where));
}

/* A name that goes into SQL as it is: [schema.]table */
static bool is_table_name(const char *name)
{
	unsigned dots = 0;
	bool begins = true;

	for (const char *c = name; *c != '\0'; c++) {
		bool letter = isalpha((unsigned char)*c) || *c == '_' || (unsigned char)*c >= 0x80;

		if (*c == '.' && !begins && dots == 0) {
			dots++;
			begins = true;
			continue;
		}
		if (!letter && (begins || (!isdigit((unsigned char)*c) && *c != '$'))) {
			return false;
		}
		begins = false;
	}
	return !begins;
}

static void check_fallback(struct draft *d, struct draft_section *s)
{
	const struct config_pool *p = &s->v.pool;
	struct draft_section *last = p->nservers > 0 ? server_of(d, p, p->nservers - 1) : NULL;
	enum option_driver kind = last != NULL ? option_driver_of(last->v.server.url) : OPTION_ANY;
	char where[DRAFT_WHERE_MAX];

	if (p->fallback != FALLBACK_OFF && p->nservers < 2) {
		draft_mistake(d, draft_blame(s, "fallback", where, sizeof(where)),
			"there is nothing to fall back from; name a server on SQLite as the last "
			"of several in servers");
	} else if (p->fallback != FALLBACK_OFF && kind == OPTION_PG) {
		draft_mistake(d, draft_blame(s, "fallback", where, sizeof(where)),
			"the last of the servers, '%s', is not on SQLite; add one that is, or set "
			"fallback = off",
			last->name);
	}
	draft_blame(s, "mirror", where, sizeof(where));
	if (p->nmirror > 0 && p->fallback == FALLBACK_OFF) {
		draft_mistake(d, where, "means nothing with fallback = off; remove it");
	}
	for (unsigned i = 0; i < p->nmirror; i++) {
		if (!is_table_name(p->mirror[i])) {
			draft_mistake(d, where, "'%s' is no name of the form [schema.]table",
				p->mirror[i]);
		}
	}
}

/* The value as the user would write it. */
static const char *value_text(const struct draft_section *s, const char *key, char *buf, size_t len)
{
	FILE *f = fmemopen(buf, len, "w");

	if (f == NULL) {
		return "";
	}
	option_print_value(option_find(s->kind, key), &s->v, f);
	fclose(f);
	return buf;
}

/* Two values of one section, low and high, are the wrong way round: blame one that was given. */
static void check_order(
	struct draft *d, struct draft_section *s, const char *low, const char *high, bool bad)
{
	char where[DRAFT_WHERE_MAX], low_text[64], high_text[64];

	if (bad) {
		draft_mistake(d,
			draft_blame(
				s, draft_place(s, low) != NULL ? low : high, where, sizeof(where)),
			"%s %s is too much for %s %s; lower the one or raise the other", low,
			value_text(s, low, low_text, sizeof(low_text)), high,
			value_text(s, high, high_text, sizeof(high_text)));
	}
}

/* Defaults never contradict: those that could follow what was given (resolve in config.c). */
static void check_times(struct draft *d, struct draft_section *s)
{
	const struct config_pool *p = &s->v.pool;
	char where[DRAFT_WHERE_MAX];

	check_order(d, s, "connect_backoff", "connect_backoff_max",
		p->connect_backoff > p->connect_backoff_max);
	check_order(d, s, "keepalive_time", "max_lifetime",
		draft_place(s, "keepalive_time") != NULL && p->max_lifetime != 0 &&
			p->keepalive_time >= p->max_lifetime);
	check_order(d, s, "validation_timeout", "acquire_timeout",
		p->validation_timeout >= p->acquire_timeout &&
			p->validation_timeout > CONFIG_LEAST_VALIDATION);
	if (p->leak_action == LEAK_ROLLBACK && p->leak_threshold == 0) {
		draft_mistake(d, draft_blame(s, "leak_action", where, sizeof(where)),
			"rollback means nothing with leak_threshold 0; set a threshold or remove "
			"it");
	}
}

/* Is the number of connections to any server of the pool limited? */
static bool has_limit(struct draft *d, const struct config_pool *p)
{
	for (unsigned i = 0; i < p->nservers; i++) {
		struct draft_section *server = server_of(d, p, i);

		if (server == NULL || server->v.server.max_connections > 0) {
			return true; /* none: reported elsewhere */
		}
	}
	return false;
}

static void check_pool(struct draft *d, struct draft_section *s)
{
	struct config_pool *p = &s->v.pool;
	char where[DRAFT_WHERE_MAX];

	check_pool_servers(d, s);
	check_fallback(d, s);
	check_times(d, s);
	check_order(d, s, "min_idle", "max_size", p->min_idle > p->max_size);
	check_order(d, s, "guaranteed", "max_size", p->guaranteed > p->max_size);
	if (p->guaranteed > 0 && !has_limit(d, p)) {
		draft_mistake(d, draft_blame(s, "guaranteed", where, sizeof(where)),
			"none of its servers has max_connections, out of which to guarantee; set "
			"that or remove this");
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
		if (pool_uses(d->sections[i], name)) {
			return true;
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

/* What one thread has to count in a pool; NULL: nothing. */
static const char *counted_by_one(const struct draft_section *s)
{
	if (s->kind != OPTION_POOL) {
		return NULL;
	}
	return s->v.pool.max_per_uid > 0   ? "max_per_uid"
	       : s->v.pool.max_per_tag > 0 ? "max_per_tag"
					   : NULL;
}

static bool is_elsewhere(const struct draft_section *s)
{
	return s->kind == OPTION_SERVER && s->v.server.url != NULL &&
	       option_driver_of(s->v.server.url) != OPTION_PG;
}

/* Several I/O threads share out connections to PostgreSQL, and nothing else. */
static void check_threads(struct draft *d)
{
	long long threads = (long long)d->sections[0]->v.broker.io_threads;
	char where[DRAFT_WHERE_MAX], t[80];

	draft_blame(d->sections[0], "io_threads", where, sizeof(where));
	for (unsigned i = 1; threads > 1 && i < d->nsections; i++) {
		const struct draft_section *s = d->sections[i];
		const char *cap = counted_by_one(s);

		if (is_elsewhere(s)) {
			draft_mistake(d, where,
				"%lld I/O threads are for configurations with PostgreSQL only, "
				"and %s is something else (SQLite has threads of its own); "
				"set 1 or remove this",
				threads, draft_title(s, t, sizeof(t)));
		} else if (cap != NULL) {
			draft_mistake(d, where,
				"%lld I/O threads cannot keep %s of %s, which one thread has to "
				"count; set 1 or remove one of the two",
				threads, cap, draft_title(s, t, sizeof(t)));
		}
	}
}

void draft_check(struct draft *d)
{
	check_broker(d);
	check_unused(d);
	check_threads(d);
	for (unsigned i = 1; i < d->nsections; i++) {
		struct draft_section *s = d->sections[i];

		if (s->kind == OPTION_SERVER) {
			check_server(d, s);
		} else {
			check_pool(d, s);
		}
	}
}
