/* SPDX-License-Identifier: MIT */
/*
 * pg_connect.c - see pg.h: the outer life of a connection.
 *
 * Names are resolved by libuv's resolver first, since libpq would do it with a blocking call; libpq
 * is given host (for certificates and .pgpass) together with hostaddr.  A name with several
 * addresses becomes several entries, tried in order.
 *
 * libpq owns the socket.  It may close it inside any call that reads or sends, and another socket
 * may get its number at once; so the poll handle is stopped around PQconnectPoll, and closed by
 * pg_poll_update() before anything else can open one.
 */
#include "pg.h"

#include <netdb.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_socket(uv_poll_t *h, int status, int events);
static void resolve_next(struct pg_backend *pg);

static void pg_set_phase(struct pg_backend *pg, enum pg_phase phase)
{
	check(phase > pg->phase || (phase == PG_RESOLVE && pg->phase == PG_RESOLVE));
	pg->phase = phase;
}

/* -- memory ------------------------------------------------------------------------------------ */

static void targets_free(struct pg_targets *t)
{
	free(t->host);
	free(t->hostaddr);
	free(t->port);
	*t = (struct pg_targets){0};
}

static void pg_put(struct pg_backend *pg)
{
	if (--pg->refs > 0) {
		return;
	}
	targets_free(&pg->targets);
	pg_prepared_destroy(pg->prepared);
	pg_params_finish(&pg->params);
	pg_server_put(pg->server);
	free(pg->steps);
	free(pg->cells);
	free(pg->types);
	free(pg->head);
	free(pg);
}

static void on_poll_closed(uv_handle_t *h)
{
	free(container_of((uv_poll_t *)h, struct pg_socket, poll));
}

static void socket_close(struct pg_backend *pg)
{
	if (pg->socket != NULL) {
		pg->socket->pg = NULL;
		uv_close((uv_handle_t *)&pg->socket->poll, on_poll_closed);
		pg->socket = NULL;
	}
}

static void on_timer_closed(uv_handle_t *h)
{
	struct pg_backend *pg = container_of((uv_timer_t *)h, struct pg_backend, timer);
	struct conn *c = pg->closing;

	pg_put(pg);
	if (c != NULL) {
		c->priv = NULL;
		conn_closed(c, NULL);
	}
}

/* Part from the core: nothing is called any more but what libuv owes us. */
static void pg_part(struct pg_backend *pg)
{
	pg_set_phase(pg, PG_GONE);
	pg->c = NULL;
	socket_close(pg);
	if (pg->resolving) {
		uv_cancel((uv_req_t *)&pg->resolver);
	}
	pg_cancel_forget(pg);
	pg_answer_clear(pg);
	PQfreemem(pg->copy_data);
	pg->copy_data = NULL;
	PQfinish(pg->pq);
	pg->pq = NULL;
	uv_close((uv_handle_t *)&pg->timer, on_timer_closed);
}

void pg_close(struct conn *c)
{
	struct pg_backend *pg = c->priv;

	if (pg->phase == PG_OPEN && !pg->broken) {
		pg_cancel_last(pg);
	}
	pg->closing = c;
	pg_part(pg);
	pg_put(pg);
}

/* -- losing ------------------------------------------------------------------------------------ */

/* Report that the connection is gone.  From the loop only. */
static void pg_lost(struct pg_backend *pg)
{
	struct conn *c = pg->c;
	char why[PG_TEXT_MAX];
	struct failure f = {
		.code = FAIL_UNAVAILABLE,
		.unknown = pg->phase == PG_OPEN && !pg->fatal,
		.retry_safe = !(pg->phase == PG_OPEN && !pg->fatal),
		.message = why,
	};

	snprintf(why, sizeof(why), "%s", pg->why);
	snprintf(f.sqlstate, sizeof(f.sqlstate), "%s", pg->why_sqlstate);
	pg_part(pg);
	pg_put(pg);
	c->priv = NULL;
	conn_closed(c, &f);
}

static void on_timer(uv_timer_t *h)
{
	struct pg_backend *pg = container_of(h, struct pg_backend, timer);

	if (!pg->broken) {
		snprintf(pg->why, sizeof(pg->why),
			"connect_timeout: no connection within %llu ms%s",
			(unsigned long long)pg->server->connect_timeout,
			pg->phase == PG_RESOLVE ? ", the name of the host was not resolved yet"
						: "");
	}
	pg_lost(pg);
}

void pg_break(struct pg_backend *pg, const char *why)
{
	if (pg->broken) {
		return;
	}
	pg->broken = true;
	if (pg->why[0] == '\0' && why != NULL) {
		snprintf(pg->why, sizeof(pg->why), "%s", why);
	} else if (pg->why[0] == '\0') {
		pg_connect_error(pg->pq, pg->why, sizeof(pg->why), pg->why_sqlstate);
	}
	if (pg->why[0] == '\0') {
		snprintf(pg->why, sizeof(pg->why), "the connection was lost");
	}
	uv_timer_start(&pg->timer, on_timer, 0, 0);
}

/* -- the socket -------------------------------------------------------------------------------- */

static bool socket_open(struct pg_backend *pg, int fd)
{
	struct pg_socket *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		return false;
	}
	s->pg = pg;
	s->fd = fd;
	if (uv_poll_init(io_uv(pg->server->io), &s->poll, fd) != 0) {
		free(s);
		return false;
	}
	pg->socket = s;
	return true;
}

static void socket_poll(struct pg_backend *pg, int events)
{
	if (pg->socket == NULL || pg->socket->events == events) {
		return;
	}
	pg->socket->events = events;
	if (events == 0) {
		uv_poll_stop(&pg->socket->poll);
	} else {
		uv_poll_start(&pg->socket->poll, events, on_socket);
	}
}

void pg_poll_update(struct pg_backend *pg)
{
	if (pg->phase != PG_OPEN) {
		return;
	}
	if (PQsocket(pg->pq) < 0) {
		socket_close(pg);
		return;
	}
	socket_poll(pg, (pg->blocked ? 0 : UV_READABLE) | (pg->want_write ? UV_WRITABLE : 0));
}

void pg_send_out(struct pg_backend *pg)
{
	int rc = PQflush(pg->pq);

	pg->want_write = rc == 1;
	if (rc == 0) {
		pg_copy_flushed(pg);
	}
	/* rc < 0 is a dead connection; reading brings the server's last words, if any */
}

/* Bytes that TLS has decrypted and libpq has not taken: poll() does not see them. */
static bool more_in_tls(const struct pg_backend *pg)
{
	return pg->ssl_pending != NULL && PQsocket(pg->pq) >= 0 && pg->ssl_pending(pg->ssl) > 0;
}

/* The server has gone, or has told us to go. */
static bool is_over(const struct pg_backend *pg)
{
	return pg->fatal || PQstatus(pg->pq) != CONNECTION_OK;
}

static void drop_notifies(struct pg_backend *pg)
{
	PGnotify *n;

	while ((n = PQnotifies(pg->pq)) != NULL) {
		PQfreemem(n);
	}
}

static void read_all(struct pg_backend *pg)
{
	do {
		if (PQconsumeInput(pg->pq) == 0) {
			pg_poll_update(pg); /* before a callback can open another socket */
			pg_copy_lost(pg);
		}
		pg_process(pg);
		if (pg->c == NULL) {
			return;
		}
		drop_notifies(pg);
	} while (!pg->blocked && more_in_tls(pg));
}

void pg_read_rest(struct pg_backend *pg)
{
	if (!pg->blocked && more_in_tls(pg)) {
		read_all(pg);
	}
}

static void on_open_socket(struct pg_backend *pg, int status, int events)
{
	if (events & UV_WRITABLE) {
		pg_send_out(pg);
	}
	if ((events & UV_READABLE) || status < 0) {
		read_all(pg);
	}
	if (pg->c == NULL) {
		return;
	}
	if (is_over(pg) && !pg->blocked) {
		pg_break(pg, NULL);
	}
	if (pg->broken) {
		pg_lost(pg);
		return;
	}
	pg_poll_update(pg);
}

/* -- connecting -------------------------------------------------------------------------------- */

/* Notices; FATAL errors that arrive while nothing runs come this way too. */
static void on_notice(void *arg, const PGresult *res)
{
	struct pg_backend *pg = arg;
	const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	if (message == NULL) {
		message = PQresultErrorMessage(res); /* libpq's own */
	}
	if (pg_is_fatal(res) && !pg->fatal) {
		pg->fatal = true;
		snprintf(pg->why, sizeof(pg->why), "%s", message);
		snprintf(pg->why_sqlstate, sizeof(pg->why_sqlstate), "%s",
			sqlstate != NULL ? sqlstate : "");
		return;
	}
	log_debug("server %s: notice from backend %d: %s", pg->server->name,
		pg->c != NULL ? (int)pg->c->backend_pid : 0, message);
}

/*
 * OpenSSL itself is no dependency of ours: libpq brings it along.  Without the function (another
 * TLS library) nothing is ever reported as pending.
 */
static void watch_tls(struct pg_backend *pg)
{
	void *symbol;

	if (!PQsslInUse(pg->pq)) {
		return;
	}
	pg->ssl = PQsslStruct(pg->pq, "OpenSSL");
	symbol = pg->ssl != NULL ? dlsym(RTLD_DEFAULT, "SSL_pending") : NULL;
	memcpy(&pg->ssl_pending, &symbol, sizeof(symbol));
}

static void on_connected(struct pg_backend *pg)
{
	struct conn *c = pg->c;

	uv_timer_stop(&pg->timer);
	PQsetErrorVerbosity(pg->pq, PQERRORS_TERSE); /* the fields are read, not the text */
	if (PQsetnonblocking(pg->pq, 1) != 0 || PQenterPipelineMode(pg->pq) == 0) {
		pg_break(pg, NULL);
		return;
	}
	watch_tls(pg);
	pg->why[0] = '\0'; /* of a host that could not be resolved; another could */
	pg_set_phase(pg, PG_OPEN);
	c->backend_pid = PQbackendPID(pg->pq);
	pg_poll_update(pg);
	conn_ready(c);
}

static void connect_failed(struct pg_backend *pg)
{
	pg->why[0] = '\0';
	pg_break(pg, NULL);
}

/* Go on with connecting.  status: what libpq waited for is here. */
static void connect_step(struct pg_backend *pg, PostgresPollingStatusType status)
{
	int fd;

	fd = PQsocket(pg->pq);
	if (pg->socket != NULL && pg->socket->fd != fd) {
		socket_close(pg);
	}
	if (status == PGRES_POLLING_FAILED || fd < 0) {
		connect_failed(pg);
		return;
	}
	if (pg->socket == NULL && !socket_open(pg, fd)) {
		pg_break(pg, "the socket cannot be polled");
		return;
	}
	if (status == PGRES_POLLING_OK) {
		on_connected(pg);
		return;
	}
	socket_poll(pg, status == PGRES_POLLING_WRITING ? UV_WRITABLE : UV_READABLE);
}

static void on_connect_socket(struct pg_backend *pg)
{
	socket_poll(pg, 0);
	connect_step(pg, PQconnectPoll(pg->pq));
	if (pg->c != NULL && pg->broken) {
		pg_lost(pg);
	}
}

static void on_socket(uv_poll_t *h, int status, int events)
{
	struct pg_socket *s = container_of(h, struct pg_socket, poll);

	if (status < 0) {
		s->events = 0; /* libuv has stopped it */
	}
	if (s->pg->phase == PG_CONNECT) {
		on_connect_socket(s->pg);
	} else if (s->pg->phase == PG_OPEN) {
		on_open_socket(s->pg, status, events);
	}
}

/* The targets are known.  Runs inside connect() or from the resolver: no callback here. */
static void start_connecting(struct pg_backend *pg)
{
	const struct pg_server *s = pg->server;
	unsigned n = s->noptions;
	const char *keywords[128], *values[128];

	check(n + 4 <= array_size(keywords));
	for (unsigned i = 0; i < n; i++) {
		keywords[i] = s->keywords[i];
		values[i] = s->values[i];
	}
	keywords[n] = "host";
	values[n] = pg->targets.host;
	keywords[n + 1] = "hostaddr";
	values[n + 1] = pg->targets.hostaddr;
	keywords[n + 2] = "port";
	values[n + 2] = pg->targets.port;
	keywords[n + 3] = NULL;
	values[n + 3] = NULL;
	pg_set_phase(pg, PG_CONNECT);
	pg->pq = PQconnectStartParams(keywords, values, 0);
	targets_free(&pg->targets);
	if (pg->pq == NULL) {
		pg_break(pg, "out of memory");
		return;
	}
	if (PQstatus(pg->pq) == CONNECTION_BAD) {
		connect_failed(pg);
		return;
	}
	PQsetNoticeReceiver(pg->pq, on_notice, pg);
	PQsetErrorVerbosity(pg->pq, PQERRORS_VERBOSE); /* for pg_connect_error */
	connect_step(pg, PGRES_POLLING_WRITING);
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

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
	struct pg_backend *pg = container_of(req, struct pg_backend, resolver);
	const struct pg_host *h = &pg->server->hosts[pg->host];

	pg->resolving = false;
	if (pg->phase != PG_RESOLVE) {
		uv_freeaddrinfo(list);
		pg_put(pg);
		return;
	}
	if (status != 0) {
		snprintf(pg->why, sizeof(pg->why), "host %s cannot be resolved: %s", h->host,
			uv_strerror(status));
	} else if (!add_resolved(&pg->targets, h, list)) {
		pg_break(pg, "out of memory");
	}
	uv_freeaddrinfo(list);
	pg->host++;
	resolve_next(pg);
	pg_put(pg);
}

/* Collect targets until a name has to be waited for; with the last one connecting starts. */
static void resolve_next(struct pg_backend *pg)
{
	static const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	const struct pg_server *s = pg->server;

	while (pg->host < s->nhosts && !pg->broken) {
		const struct pg_host *h = &s->hosts[pg->host];

		if (h->resolve && uv_getaddrinfo(io_uv(s->io), &pg->resolver, on_resolved, h->host,
					  NULL, &hints) == 0) {
			pg->resolving = true;
			pg->refs++;
			return;
		}
		if (h->resolve || !add_target(&pg->targets, h, h->hostaddr)) {
			pg_break(pg, "out of memory");
			return;
		}
		pg->host++;
	}
	if (pg->broken) {
		return;
	}
	if (pg->targets.count == 0) {
		pg_break(pg, "no host of the url can be resolved");
		return;
	}
	start_connecting(pg);
}

void pg_connect(struct conn *c)
{
	struct pg_server *s = c->server_priv;
	struct pg_backend *pg = calloc(1, sizeof(*pg));
	struct pg_prepared *prepared = pg_prepared_create(s->max_prepared);

	/* Without memory for a few kilobytes nothing can be reported either. */
	check(pg != NULL && prepared != NULL);
	pg->c = c;
	pg->server = s;
	pg_server_hold(s);
	pg->refs = 2; /* the phase, and the timer */
	pg->prepared = prepared;
	c->priv = pg;
	c->tx = CONN_TX_IDLE;
	c->dirty = false;
	c->backend_pid = 0;
	uv_timer_init(io_uv(s->io), &pg->timer);
	uv_update_time(io_uv(s->io));
	uv_timer_start(&pg->timer, on_timer, s->connect_timeout, 0);
	resolve_next(pg);
}
