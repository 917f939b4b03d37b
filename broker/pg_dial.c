/* SPDX-License-Identifier: MIT */
/*
 * pg_dial.c - see pg.h: from a server's url to a connection that is open, without blocking.
 *
 * Names are resolved by libuv's resolver first, since libpq would do it with a blocking call; libpq
 * is given host (for certificates and .pgpass) together with hostaddr.  A name with several
 * addresses becomes several entries, tried in order.
 *
 * libpq may close its socket inside PQconnectPoll, and another socket may get the number at once;
 * so the poll handle is stopped around it.
 *
 * Inside, a function that returns true has either gone a step on, or has nothing left to do; false
 * means that d->why says why it is over.
 */
#include "pg.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A question to the resolver; outlives the dial, for it cannot always be taken back. */
struct pg_lookup {
	uv_getaddrinfo_t req;
	struct pg_dial *dial; /* NULL: nobody waits for the answer */
};

static bool resolve_next(struct pg_dial *d);

/* -- the socket -------------------------------------------------------------------------------- */

static void on_poll(uv_poll_t *h, int status, int events)
{
	struct pg_socket *s = container_of(h, struct pg_socket, poll);

	if (status < 0) {
		s->events = 0; /* libuv has stopped it */
	}
	s->ready(s->owner, status, events);
}

static void on_poll_closed(uv_handle_t *h)
{
	free(container_of((uv_poll_t *)h, struct pg_socket, poll));
}

struct pg_socket *pg_socket_open(struct io *io, int fd)
{
	struct pg_socket *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		return NULL;
	}
	s->fd = fd;
	if (uv_poll_init(io_uv(io), &s->poll, fd) != 0) {
		free(s);
		return NULL;
	}
	return s;
}

void pg_socket_give(struct pg_socket *s, pg_socket_ready_fn *ready, void *owner)
{
	s->ready = ready;
	s->owner = owner;
}

void pg_socket_poll(struct pg_socket *s, int events)
{
	if (s == NULL || s->events == events) {
		return;
	}
	s->events = events;
	if (events == 0) {
		uv_poll_stop(&s->poll);
	} else {
		uv_poll_start(&s->poll, events, on_poll);
	}
}

void pg_socket_close(struct pg_socket **s)
{
	if (*s != NULL) {
		uv_close((uv_handle_t *)&(*s)->poll, on_poll_closed);
		*s = NULL;
	}
}

/* -- connecting -------------------------------------------------------------------------------- */

static void targets_free(struct pg_targets *t)
{
	free(t->host);
	free(t->hostaddr);
	free(t->port);
	*t = (struct pg_targets){0};
}

void pg_dial_stop(struct pg_dial *d)
{
	targets_free(&d->targets);
	if (d->lookup != NULL) {
		uv_cancel((uv_req_t *)&d->lookup->req);
		d->lookup->dial = NULL;
		d->lookup = NULL;
	}
	pg_socket_close(&d->socket);
	PQfinish(d->pq);
	d->pq = NULL;
}

static bool fail(struct pg_dial *d, const char *why)
{
	snprintf(d->why, sizeof(d->why), "%s", why);
	return false;
}

static bool fail_as_libpq_says(struct pg_dial *d)
{
	pg_connect_error(d->pq, d->why, sizeof(d->why), d->sqlstate);
	return false;
}

/* It is over, and not inside pg_dial_start. */
static void end(struct pg_dial *d)
{
	pg_dial_stop(d);
	d->done(d);
}

static void on_notice(void *arg, const PGresult *res)
{
	const struct pg_server *s = arg;

	log_debug("server %s: notice while connecting: %s", s->name, PQresultErrorMessage(res));
}

static void on_connect_socket(void *owner, int status, int events);

/* Go on with connecting.  status: what libpq waits for. */
static bool connect_step(struct pg_dial *d, PostgresPollingStatusType status)
{
	int fd = PQsocket(d->pq);

	if (d->socket != NULL && d->socket->fd != fd) {
		pg_socket_close(&d->socket);
	}
	if (status == PGRES_POLLING_FAILED || fd < 0) {
		return fail_as_libpq_says(d);
	}
	if (d->socket == NULL) {
		d->socket = pg_socket_open(d->server->io, fd);
		if (d->socket == NULL) {
			return fail(d, "the socket cannot be polled");
		}
		pg_socket_give(d->socket, on_connect_socket, d);
	}
	if (status != PGRES_POLLING_OK) {
		pg_socket_poll(
			d->socket, status == PGRES_POLLING_WRITING ? UV_WRITABLE : UV_READABLE);
	}
	return true;
}

static void on_connect_socket(void *owner, int ready, int events)
{
	struct pg_dial *d = owner;
	PostgresPollingStatusType status;

	(void)ready;
	(void)events;
	pg_socket_poll(d->socket, 0);
	status = PQconnectPoll(d->pq);
	if (!connect_step(d, status)) {
		end(d);
	} else if (status == PGRES_POLLING_OK) {
		d->done(d);
	}
}

/* The targets are known. */
static bool start_connecting(struct pg_dial *d)
{
	const struct pg_server *s = d->server;
	unsigned n = 0;
	const char *keywords[128], *values[128];

	check(s->noptions + 5 <= array_size(keywords));
	for (; n < s->noptions; n++) {
		keywords[n] = s->keywords[n];
		values[n] = s->values[n];
	}
	keywords[n] = "host";
	values[n++] = d->targets.host;
	keywords[n] = "hostaddr";
	values[n++] = d->targets.hostaddr;
	keywords[n] = "port";
	values[n++] = d->targets.port;
	if (d->application != NULL) {
		keywords[n] = "fallback_application_name"; /* of two the last counts */
		values[n++] = d->application;
	}
	keywords[n] = NULL;
	values[n] = NULL;
	d->pq = PQconnectStartParams(keywords, values, 0);
	targets_free(&d->targets);
	if (d->pq == NULL) {
		return fail(d, "out of memory");
	}
	if (PQstatus(d->pq) == CONNECTION_BAD) {
		return fail_as_libpq_says(d);
	}
	PQsetNoticeReceiver(d->pq, on_notice, d->server);
	PQsetErrorVerbosity(d->pq, PQERRORS_VERBOSE); /* for pg_connect_error */
	return connect_step(d, PGRES_POLLING_WRITING);
}

/* -- resolving --------------------------------------------------------------------------------- */

static bool append_entry(char **list, bool first, const char *entry)
{
	char *joined = NULL;

	if (asprintf(&joined, "%s%s%s", first ? "" : *list, first ? "" : ",", entry) < 0) {
		return false;
	}
	free(*list);
	*list = joined;
	return true;
}

static bool add_target(struct pg_targets *t, const struct pg_host *h, const char *hostaddr)
{
	bool first = t->count == 0;

	t->count++;
	return append_entry(&t->host, first, h->host) &&
	       append_entry(&t->hostaddr, first, hostaddr) &&
	       append_entry(&t->port, first, h->port);
}

static bool add_resolved(struct pg_targets *t, const struct pg_host *h, const struct addrinfo *list)
{
	for (const struct addrinfo *a = list; a != NULL; a = a->ai_next) {
		char text[NI_MAXHOST];

		if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0,
			    NI_NUMERICHOST) != 0) {
			continue;
		}
		if (!add_target(t, h, text)) {
			return false;
		}
	}
	return true;
}

static bool take_resolved(struct pg_dial *d, int status, const struct addrinfo *list)
{
	const struct pg_host *h = &d->server->hosts[d->host++];

	if (status != 0) {
		snprintf(d->why, sizeof(d->why), "host %s cannot be resolved: %s", h->host,
			uv_strerror(status));
	} else if (!add_resolved(&d->targets, h, list)) {
		return fail(d, "out of memory");
	}
	return resolve_next(d);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
	struct pg_lookup *l = container_of(req, struct pg_lookup, req);
	struct pg_dial *d = l->dial;

	if (d != NULL) {
		d->lookup = NULL;
		if (!take_resolved(d, status, list)) {
			end(d);
		}
	}
	uv_freeaddrinfo(list);
	free(l);
}

static bool ask_resolver(struct pg_dial *d, const struct pg_host *h)
{
	static const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct pg_lookup *l = calloc(1, sizeof(*l));

	if (l == NULL) {
		return fail(d, "out of memory");
	}
	if (uv_getaddrinfo(io_uv(d->server->io), &l->req, on_resolved, h->host, NULL, &hints) !=
		0) {
		free(l);
		return fail(d, "the resolver takes no question");
	}
	l->dial = d;
	d->lookup = l;
	return true;
}

/* Collect targets until a name has to be waited for; with the last one connecting starts. */
static bool resolve_next(struct pg_dial *d)
{
	const struct pg_server *s = d->server;

	for (; d->host < s->nhosts; d->host++) {
		const struct pg_host *h = &s->hosts[d->host];

		if (h->resolve) {
			return ask_resolver(d, h);
		}
		if (!add_target(&d->targets, h, h->hostaddr)) {
			return fail(d, "out of memory");
		}
	}
	if (d->targets.count == 0) {
		return d->why[0] != '\0' ? false : fail(d, "no host of the url can be resolved");
	}
	return start_connecting(d);
}

bool pg_dial_start(struct pg_dial *d)
{
	d->host = 0;
	d->why[0] = '\0';
	d->sqlstate[0] = '\0';
	if (resolve_next(d)) {
		return true;
	}
	pg_dial_stop(d);
	return false;
}
