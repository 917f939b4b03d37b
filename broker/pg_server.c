/* SPDX-License-Identifier: MIT */
/*
 * pg_server.c - see pg.h: what all connections of a pool to one server share.
 *
 * Session settings that the broker relies on travel in the startup packet, so that RESET ALL and
 * DISCARD ALL come back to them.
 *
 * Secrets: libpq quotes parts of a connection string in its complaints.  What is in quotes goes to
 * no log, unless it is the name of an option.
 */
#include "pg.h"

#include "pg_address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char session_settings[] =
	"-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 "
	"-c bytea_output=hex -c standard_conforming_strings=on";

/* Where an error goes: "server main: option port: …". */
struct report {
	const char *server;
	char *err;
	size_t errlen;
};

__attribute__((format(printf, 2, 3))) static int complain(struct report *rep, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(rep->err, rep->errlen, "server %s: %s", rep->server, text);
	return -1;
}

/* -- options ----------------------------------------------------------------------------------- */

static PQconninfoOption *find_option(PQconninfoOption *all, const char *keyword)
{
	for (PQconninfoOption *o = all; o != NULL && o->keyword != NULL; o++) {
		if (strcmp(o->keyword, keyword) == 0) {
			return o;
		}
	}
	return NULL;
}

static const char *option_value(PQconninfoOption *all, const char *keyword)
{
	PQconninfoOption *o = find_option(all, keyword);

	return o != NULL && o->val != NULL ? o->val : "";
}

/* Set an option of libpq's own table, whose strings PQconninfoFree frees. */
static bool set_option(PQconninfoOption *all, const char *keyword, const char *value)
{
	PQconninfoOption *o = find_option(all, keyword);
	char *copy;

	if (o == NULL) {
		return true; /* this libpq does not know it */
	}
	copy = strdup(value);
	if (copy == NULL) {
		return false;
	}
	free(o->val);
	o->val = copy;
	return true;
}

static bool override_option(PQconninfoOption *all, const char *keyword, const char *value)
{
	return value == NULL || value[0] == '\0' || set_option(all, keyword, value);
}

static bool default_option(PQconninfoOption *all, const char *keyword, const char *value)
{
	return option_value(all, keyword)[0] != '\0' || set_option(all, keyword, value);
}

static bool is_option_name(const char *s, size_t len)
{
	if (len == 0 || len > 30) {
		return false;
	}
	for (size_t i = 0; i < len; i++) {
		if (!islower((unsigned char)s[i]) && s[i] != '_') {
			return false;
		}
	}
	return true;
}

static void append(char *text, size_t size, const char *s, size_t len)
{
	size_t at = strlen(text);

	snprintf(text + at, size - at, "%.*s", (int)len, s);
}

/* Copy a complaint of libpq without what it quotes, unless that is the name of an unknown option.
 */
static void copy_masked(const char *message, char *text, size_t size)
{
	bool names_option = strncmp(message, "invalid connection option", 25) == 0 ||
			    strncmp(message, "invalid URI query parameter", 27) == 0;
	const char *p = message, *open, *close;

	text[0] = '\0';
	while ((open = strchr(p, '"')) != NULL) {
		close = strchr(open + 1, '"');
		append(text, size, p, (size_t)(open - p));
		if (close == NULL) {
			return;
		}
		if (names_option && is_option_name(open + 1, (size_t)(close - open - 1))) {
			append(text, size, open, (size_t)(close + 1 - open));
		} else {
			append(text, size, "\"...\"", 5);
		}
		p = close + 1;
	}
	append(text, size, p, strlen(p));
	pg_one_line(text);
}

static int parse_url(struct report *rep, const char *url, PQconninfoOption **out)
{
	char *message = NULL, text[200];

	*out = PQconninfoParse(url, &message);
	if (*out != NULL) {
		return 0;
	}
	copy_masked(message != NULL ? message : "out of memory", text, sizeof(text));
	PQfreemem(message);
	return complain(rep, "option url: %s", text);
}

/* Where libpq would look if the url is silent: PGHOST and its like, a service. */
static bool fill_from_environment(PQconninfoOption *all)
{
	static const char *const keywords[] = {"host", "hostaddr", "port"};
	PQconninfoOption *defaults = PQconndefaults();
	bool ok = defaults != NULL;

	for (size_t i = 0; ok && i < array_size(keywords); i++) {
		ok = default_option(all, keywords[i], option_value(defaults, keywords[i]));
	}
	PQconninfoFree(defaults);
	return ok;
}

static bool set_session_options(PQconninfoOption *all)
{
	const char *own = option_value(all, "options");
	size_t size = strlen(own) + sizeof(session_settings) + 1;
	char *joined = malloc(size);
	bool ok;

	if (joined == NULL) {
		return false;
	}
	/* Ours come last: of two settings of one name the last counts. */
	snprintf(joined, size, "%s%s%s", own, own[0] != '\0' ? " " : "", session_settings);
	ok = set_option(all, "options", joined);
	free(joined);
	return ok;
}

static bool complete_options(PQconninfoOption *all, const struct config_pool *pool)
{
	return override_option(all, "dbname", pool->database) &&
	       override_option(all, "user", pool->user) &&
	       override_option(all, "password", pool->password) &&
	       override_option(all, "passfile", pool->passfile) && fill_from_environment(all) &&
	       set_option(all, "client_encoding", "UTF8") &&
	       default_option(all, "fallback_application_name", "shmbroker") &&
	       /* Getting a Kerberos ticket blocks; whoever wants it says so in the url. */
	       default_option(all, "gssencmode", "disable") &&
	       /* A peer that vanished is noticed in two minutes, not in two hours. */
	       default_option(all, "keepalives_idle", "60") &&
	       default_option(all, "keepalives_interval", "15") &&
	       default_option(all, "keepalives_count", "4") && set_session_options(all);
}

static int check_options(struct report *rep, PQconninfoOption *all, const struct config_pool *pool)
{
	if (option_value(all, "service")[0] != '\0') {
		return complain(rep, "option url: service is not supported, write host, port and "
				     "dbname of the service instead");
	}
	if (option_value(all, "replication")[0] != '\0') {
		return complain(rep, "option url: replication is not for a pool, leave it out");
	}
	if (pool->passfile != NULL && pool->passfile[0] != '\0' &&
		access(pool->passfile, R_OK) != 0) {
		return complain(
			rep, "pool %s: option passfile: %s: %m", pool->name, pool->passfile);
	}
	return 0;
}

/* -- hosts ------------------------------------------------------------------------------------- */

static unsigned count_entries(const char *list)
{
	unsigned n = 1;

	if (list[0] == '\0') {
		return 0;
	}
	for (; *list != '\0'; list++) {
		n += *list == ',';
	}
	return n;
}

/* Entry i of a comma-separated list, NULL when out of memory. */
static char *copy_entry(const char *list, unsigned i)
{
	for (; i > 0; i--) {
		list = strchr(list, ',') + 1;
	}
	return strndup(list, strcspn(list, ","));
}

static bool is_numeric(const char *host)
{
	unsigned char buf[sizeof(struct in6_addr)];

	/* An IPv6 address with a scope is for the resolver, which is quick with it. */
	return inet_pton(AF_INET, host, buf) == 1 || inet_pton(AF_INET6, host, buf) == 1;
}

static bool is_port(const char *s)
{
	char *end;
	long n = strtol(s, &end, 10);

	return s[0] == '\0' || (*end == '\0' && n >= 1 && n <= 65535);
}

static int set_host(struct report *rep, struct pg_host *h, const char *hosts, const char *addrs,
	const char *ports, unsigned i)
{
	unsigned nports = count_entries(ports);

	h->host = hosts[0] != '\0' ? copy_entry(hosts, i) : strdup("");
	h->hostaddr = addrs[0] != '\0' ? copy_entry(addrs, i) : strdup("");
	h->port = nports == 0 ? strdup("") : copy_entry(ports, nports == 1 ? 0 : i);
	if (h->host == NULL || h->hostaddr == NULL || h->port == NULL) {
		return complain(rep, "out of memory");
	}
	if (!is_port(h->port)) {
		return complain(
			rep, "option url: port: %s is not a number from 1 to 65535", h->port);
	}
	h->resolve = h->hostaddr[0] == '\0' && h->host[0] != '\0' && h->host[0] != '/' &&
		     h->host[0] != '@' && !is_numeric(h->host);
	return 0;
}

static int set_hosts(struct report *rep, struct pg_server *s, PQconninfoOption *all)
{
	const char *hosts = option_value(all, "host"), *addrs = option_value(all, "hostaddr"),
		   *ports = option_value(all, "port");
	unsigned nhosts = count_entries(hosts), naddrs = count_entries(addrs),
		 nports = count_entries(ports), n = nhosts > naddrs ? nhosts : naddrs;

	if (nhosts > 0 && naddrs > 0 && nhosts != naddrs) {
		return complain(rep, "option url: host names %u servers, hostaddr %u; give as many",
			nhosts, naddrs);
	}
	n = n == 0 ? 1 : n;
	if (nports > 1 && nports != n) {
		return complain(rep,
			"option url: port lists %u ports for %u hosts; give one or as many", nports,
			n);
	}
	s->hosts = calloc(n, sizeof(*s->hosts));
	if (s->hosts == NULL) {
		return complain(rep, "out of memory");
	}
	s->nhosts = n;
	for (unsigned i = 0; i < n; i++) {
		if (set_host(rep, &s->hosts[i], hosts, addrs, ports, i) < 0) {
			return -1;
		}
	}
	return 0;
}

/* -- the rest ---------------------------------------------------------------------------------- */

static int set_rest(struct report *rep, struct pg_server *s, PQconninfoOption *all)
{
	unsigned n = 0;

	for (PQconninfoOption *o = all; o->keyword != NULL; o++) {
		n++;
	}
	s->keywords = calloc(n, sizeof(char *));
	s->values = calloc(n, sizeof(char *));
	if (s->keywords == NULL || s->values == NULL) {
		return complain(rep, "out of memory");
	}
	for (PQconninfoOption *o = all; o->keyword != NULL; o++) {
		if (o->val == NULL || o->val[0] == '\0' || strcmp(o->keyword, "host") == 0 ||
			strcmp(o->keyword, "hostaddr") == 0 || strcmp(o->keyword, "port") == 0) {
			continue;
		}
		s->keywords[s->noptions] = strdup(o->keyword);
		s->values[s->noptions] = strdup(o->val);
		s->noptions++;
		if (s->keywords[s->noptions - 1] == NULL || s->values[s->noptions - 1] == NULL) {
			return complain(rep, "out of memory");
		}
	}
	return 0;
}

static int fill(struct report *rep, struct pg_server *s, const struct config_server *server,
	const struct config_pool *pool)
{
	PQconninfoOption *all;
	int rc;

	if (parse_url(rep, server->url, &all) < 0) {
		return -1;
	}
	rc = check_options(rep, all, pool);
	if (rc == 0 && !complete_options(all, pool)) {
		rc = complain(rep, "out of memory");
	}
	if (rc == 0) {
		rc = set_hosts(rep, s, all);
	}
	if (rc == 0) {
		rc = set_rest(rep, s, all);
	}
	PQconninfoFree(all);
	return rc;
}

int pg_server_open(struct io *io, const struct config_server *server,
	const struct config_pool *pool, void **priv, char *err, size_t errlen)
{
	struct report rep = {server->name, err, errlen};
	struct pg_server *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		return complain(&rep, "out of memory");
	}
	s->open = true;
	s->io = io;
	s->connect_timeout = (uint64_t)server->connect_timeout;
	s->max_prepared = (unsigned)pool->max_prepared;
	s->name = strdup(server->name);
	if (s->name == NULL) {
		complain(&rep, "out of memory");
		goto err_server;
	}
	if (fill(&rep, s, server, pool) < 0) {
		goto err_server;
	}
	*priv = s;
	return 0;

err_server:
	pg_server_close(s);
	return -1;
}

static void server_free(struct pg_server *s)
{
	for (unsigned i = 0; i < s->nhosts; i++) {
		free(s->hosts[i].host);
		free(s->hosts[i].hostaddr);
		free(s->hosts[i].port);
	}
	for (unsigned i = 0; i < s->noptions; i++) {
		if (s->values[i] != NULL) {
			explicit_bzero(s->values[i], strlen(s->values[i]));
		}
		free(s->keywords[i]);
		free(s->values[i]);
	}
	free(s->hosts);
	free(s->keywords);
	free(s->values);
	free(s->name);
	free(s);
}

void pg_server_close(void *priv)
{
	struct pg_server *s = priv;

	s->open = false;
	if (s->users == 0) {
		server_free(s);
	}
}

/* The canceller has a handle in the loop, so it lives only while there are connections. */
void pg_server_hold(struct pg_server *s)
{
	if (s->users++ == 0) {
		s->canceller = pg_canceller_create(s->io);
		check(s->canceller != NULL);
	}
}

void pg_server_put(struct pg_server *s)
{
	if (--s->users > 0) {
		return;
	}
	pg_canceller_close(s->canceller);
	s->canceller = NULL;
	if (!s->open) {
		server_free(s);
	}
}

/* -- a copy of the address --------------------------------------------------------------------- */

/* One string of each host, separated by commas; NULL: out of memory. */
static char *join_hosts(const struct pg_server *s, size_t member)
{
	size_t size = 1;
	char *list;

	for (unsigned i = 0; i < s->nhosts; i++) {
		size += strlen(*(char **)((char *)&s->hosts[i] + member)) + 1;
	}
	list = malloc(size);
	if (list == NULL) {
		return NULL;
	}
	list[0] = '\0';
	for (unsigned i = 0; i < s->nhosts; i++) {
		strcat(list, i > 0 ? "," : "");
		strcat(list, *(char **)((char *)&s->hosts[i] + member));
	}
	return list;
}

static bool address_add(struct pg_address *a, unsigned *n, const char *keyword, char *value)
{
	a->keywords[*n] = strdup(keyword);
	a->values[*n] = value;
	return a->keywords[(*n)++] != NULL && value != NULL;
}

int pg_address_copy(const void *server_priv, struct pg_address *out)
{
	const struct pg_server *s = server_priv;
	unsigned n = 0;
	bool good;

	out->keywords = calloc(s->noptions + 4, sizeof(char *));
	out->values = calloc(s->noptions + 4, sizeof(char *));
	good = out->keywords != NULL && out->values != NULL &&
	       address_add(out, &n, "host", join_hosts(s, offsetof(struct pg_host, host))) &&
	       address_add(
		       out, &n, "hostaddr", join_hosts(s, offsetof(struct pg_host, hostaddr))) &&
	       address_add(out, &n, "port", join_hosts(s, offsetof(struct pg_host, port)));
	for (unsigned i = 0; good && i < s->noptions; i++) {
		good = address_add(out, &n, s->keywords[i], strdup(s->values[i]));
	}
	if (!good) {
		pg_address_finish(out);
	}
	return good ? 0 : -1;
}

void pg_address_finish(struct pg_address *a)
{
	for (unsigned i = 0; a->keywords != NULL && a->keywords[i] != NULL; i++) {
		if (a->values[i] != NULL) {
			explicit_bzero(a->values[i], strlen(a->values[i]));
		}
		free(a->keywords[i]);
		free(a->values[i]);
	}
	free(a->keywords);
	free(a->values);
	*a = (struct pg_address){0};
}
