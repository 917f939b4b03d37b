/* SPDX-License-Identifier: MIT */
/*
 * pg_connect.c - see pg.h: the outer life of a connection.
 *
 * libpq owns the socket.  It may close it inside any call that reads or sends, and another socket
 * may get its number at once; so the poll handle is closed by pg_poll_update() before anything else
 * can open one, and before the loop polls again: libuv aborts when it is to watch a closed socket.
 */
#include "pg.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void pg_set_phase(struct pg_backend *pg, enum pg_phase phase)
{
	check(phase > pg->phase);
	pg->phase = phase;
}

/* -- memory ------------------------------------------------------------------------------------ */

static void pg_put(struct pg_backend *pg)
{
	if (--pg->refs > 0) {
		return;
	}
	pg_prepared_destroy(pg->prepared);
	pg_params_finish(&pg->params);
	pg_server_put(pg->server);
	free(pg->steps);
	free(pg->cells);
	free(pg->types);
	free(pg->numbers);
	free(pg->head);
	free(pg);
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
	pg_dial_stop(&pg->dial);
	pg_socket_close(&pg->socket);
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
	struct pg_cancel_job *last =
		pg->phase == PG_OPEN && !pg->broken ? pg_cancel_last(pg) : NULL;

	pg->closing = c;
	pg_part(pg);
	pg_cancel_send_last(last);
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
		/* The server said so while it was at the reset: it has not looked at the rest. */
		.not_run = pg->fatal && c->resetting,
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
			pg->dial.lookup != NULL ? ", the name of the host was not resolved yet"
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
	pg_socket_close(&pg->socket);
	uv_timer_start(&pg->timer, on_timer, 0, 0);
}

/* -- the socket -------------------------------------------------------------------------------- */

void pg_poll_update(struct pg_backend *pg)
{
	if (pg->phase != PG_OPEN) {
		return;
	}
	if (PQsocket(pg->pq) < 0) {
		pg_socket_close(&pg->socket);
		return;
	}
	pg_socket_poll(
		pg->socket, (pg->blocked ? 0 : UV_READABLE) | (pg->want_write ? UV_WRITABLE : 0));
}

void pg_send_out(struct pg_backend *pg)
{
	int rc = PQflush(pg->pq);

	pg->want_write = rc == 1;
	if (rc == 0) {
		pg_copy_flushed(pg);
	}
	/* rc < 0 is a dead connection; reading brings the server's last words, if any */
	if (PQsocket(pg->pq) < 0) {
		pg_socket_close(&pg->socket);
	}
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

static void on_open_socket(void *owner, int status, int events)
{
	struct pg_backend *pg = owner;

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
	if (pg_is_unreplicated(res)) {
		pg->unreplicated = true;
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

	pg->pq = pg->dial.pq;
	pg->dial.pq = NULL;
	pg->socket = pg->dial.socket;
	pg->dial.socket = NULL;
	pg_socket_give(pg->socket, on_open_socket, pg);
	uv_timer_stop(&pg->timer);
	PQsetNoticeReceiver(pg->pq, on_notice, pg);
	PQsetErrorVerbosity(pg->pq, PQERRORS_TERSE); /* the fields are read, not the text */
	if (PQsetnonblocking(pg->pq, 1) != 0 || PQenterPipelineMode(pg->pq) == 0) {
		pg_break(pg, NULL);
		return;
	}
	watch_tls(pg);
	pg_set_phase(pg, PG_OPEN);
	c->backend_pid = PQbackendPID(pg->pq);
	pg_poll_update(pg);
	conn_ready(c);
}

static void on_dialled(struct pg_dial *d)
{
	struct pg_backend *pg = container_of(d, struct pg_backend, dial);

	if (d->pq == NULL) {
		snprintf(pg->why, sizeof(pg->why), "%s", d->why);
		snprintf(pg->why_sqlstate, sizeof(pg->why_sqlstate), "%s", d->sqlstate);
		pg_lost(pg);
		return;
	}
	on_connected(pg);
	if (pg->c != NULL && pg->broken) {
		pg_lost(pg);
	}
}

static struct pg_backend *create(struct conn *c, struct pg_prepared *prepared)
{
	struct pg_server *s = c->server_priv;
	struct pg_backend *pg = calloc(1, sizeof(*pg));

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
	uv_timer_init(io_uv(s->io), &pg->timer);
	return pg;
}

void pg_connect(struct conn *c)
{
	struct pg_server *s = c->server_priv;
	struct pg_backend *pg = create(c, pg_prepared_create(s->max_prepared));

	pg->dial.server = s;
	pg->dial.done = on_dialled;
	c->backend_pid = 0;
	uv_update_time(io_uv(s->io));
	uv_timer_start(&pg->timer, on_timer, s->connect_timeout, 0);
	if (!pg_dial_start(&pg->dial)) {
		snprintf(pg->why_sqlstate, sizeof(pg->why_sqlstate), "%s", pg->dial.sqlstate);
		pg_break(pg, pg->dial.why);
	}
}

/* -- lending ----------------------------------------------------------------------------------- */

/* What the next one needs.  libpq lets a connection be used by one thread after the other. */
struct parcel {
	PGconn *pq;
	struct pg_prepared *prepared;
	bool readonly;
};

static bool is_at_rest(struct pg_backend *pg)
{
	return pg->phase == PG_OPEN && !pg->broken && !pg->mute && !is_over(pg) &&
	       pg_step_head(pg) == NULL && !pg->discarding && pg->cancel == PG_CANCEL_NONE &&
	       pg->cancel_job == NULL && pg->copy == PG_COPY_NONE && !pg->want_write &&
	       !pg->blocked && !more_in_tls(pg);
}

void *pg_detach(struct conn *c)
{
	struct pg_backend *pg = c->priv;
	struct parcel *p = is_at_rest(pg) ? malloc(sizeof(*p)) : NULL;

	if (p == NULL) {
		return NULL;
	}
	*p = (struct parcel){pg->pq, pg->prepared, pg->readonly};
	pg->pq = NULL;
	pg->prepared = NULL;
	pg_part(pg);
	pg_put(pg);
	return p;
}

void pg_adopt(struct conn *c, void *parcel)
{
	struct parcel *p = parcel;
	struct pg_backend *pg = create(c, p->prepared);

	pg->pq = p->pq;
	pg->readonly = p->readonly;
	free(p);
	PQsetNoticeReceiver(pg->pq, on_notice, pg);
	watch_tls(pg);
	pg_set_phase(pg, PG_OPEN);
	pg->socket = pg_socket_open(pg->server->io, PQsocket(pg->pq));
	if (pg->socket == NULL) {
		pg_break(pg, "the socket cannot be polled");
		return;
	}
	pg_socket_give(pg->socket, on_open_socket, pg);
	pg_poll_update(pg);
}
