/* SPDX-License-Identifier: MIT */
/*
 * pg_probe.c - see pg.h: asking a server what it is, for health.c.
 *
 * One query on a connection that is kept between probes.  That a kept connection was lost says
 * little (somebody may have ended its backend), so the probe goes on with a new one; only what a
 * new connection meets is reported.  One that is lost while nothing is asked makes health.c ask at
 * once.
 *
 * A session may go on to be read-only, or not, when new ones are not; so a primary that takes no
 * writes is asked on a new connection each time.
 *
 * Any role may ask.  PostgreSQL 10 and later.
 */
#include "pg.h"

#include "io.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum column {
	COL_RECOVERY,
	COL_READ_ONLY,
	COL_SYSTEM,
	COL_TIMELINE,
	COL_LSN,
	COL_FLUSHED,
	COL_SEGMENT,
	COL_BLOCK,
	COL_LAG,
	COL_COUNT
};

/*
 * On a primary the name of the WAL file begins with the timeline; on a standby the control file
 * says which one it follows, with some delay.
 *
 * The lag a standby knows of is that of what it has received: 0 if that is replayed.
 */
static const char question[] =
	"SELECT r, current_setting('transaction_read_only'), "
	"(SELECT system_identifier FROM pg_control_system()), "
	"CASE WHEN r THEN GREATEST((SELECT timeline_id FROM pg_control_checkpoint()), "
	"(SELECT min_recovery_end_timeline FROM pg_control_recovery()))::bigint "
	"ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END, "
	"CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END, "
	"CASE WHEN NOT r THEN pg_current_wal_flush_lsn() END, "
	"pg_size_bytes(current_setting('wal_segment_size')), current_setting('wal_block_size'), "
	"CASE WHEN r AND (pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()) IS NOT TRUE "
	"THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END "
	"FROM (SELECT pg_is_in_recovery() AS r OFFSET 0) AS t";

enum probe_phase {
	PROBE_REST, /* with a connection or without */
	PROBE_DIAL,
	PROBE_ASKED,
};

struct pg_probe {
	struct server *server;
	struct pg_server *pg;
	enum probe_phase phase;
	struct pg_dial dial;
	PGconn *pq;
	struct pg_socket *socket;
	bool fresh; /* opened for the probe under way */
	PGresult *result;
	struct timer later; /* to report what went wrong inside pg_probe_send */
};

static void dial(struct pg_probe *p);

/* -- the end ----------------------------------------------------------------------------------- */

static void hang_up(struct pg_probe *p)
{
	PQclear(p->result);
	p->result = NULL;
	pg_socket_close(&p->socket);
	PQfinish(p->pq);
	p->pq = NULL;
}

static void answer_failed(struct pg_probe *p, const char *sqlstate, const char *why)
{
	struct probe_answer a = {.error = why};

	snprintf(a.sqlstate, sizeof(a.sqlstate), "%s", sqlstate);
	p->phase = PROBE_REST;
	probe_answered(p->server, &a);
}

/* The connection is no good any more, or the server did not answer the question. */
static void lost(struct pg_probe *p)
{
	char why[PG_TEXT_MAX], sqlstate[6] = "";
	bool report = p->fresh;

	if (report && p->result != NULL) {
		struct failure f;

		pg_failure(p->result, &f);
		snprintf(why, sizeof(why), "%s", f.message);
		snprintf(sqlstate, sizeof(sqlstate), "%s", f.sqlstate);
		pg_one_line(why);
	} else if (report) {
		pg_connect_error(p->pq, why, sizeof(why), sqlstate);
	}
	hang_up(p);
	if (report) {
		answer_failed(p, sqlstate, why);
	} else {
		dial(p);
	}
}

/* -- the answer -------------------------------------------------------------------------------- */

static uint64_t number(const PGresult *res, enum column c)
{
	return strtoull(PQgetvalue(res, 0, c), NULL, 10);
}

/* "16/B374D848"; 0 for NULL. */
static uint64_t position(const PGresult *res, enum column c)
{
	uint32_t high, low;

	if (sscanf(PQgetvalue(res, 0, c), "%" SCNx32 "/%" SCNx32, &high, &low) != 2) {
		return 0;
	}
	return (uint64_t)high << 32 | low;
}

/*
 * Where the next record goes, but for the header of a page in front of it: standbys stay before
 * that until there is a record.
 */
static uint64_t end_of_wal(const PGresult *res)
{
	uint64_t lsn = position(res, COL_LSN), segment = number(res, COL_SEGMENT),
		 block = number(res, COL_BLOCK);
	const uint64_t long_header = 40, header = 24;

	if (segment == 0 || block == 0) {
		return lsn;
	}
	if (lsn % segment == long_header) { /* the first page of a file */
		return lsn - long_header;
	}
	return lsn % block == header ? lsn - header : lsn;
}

static struct probe_answer read_answer(const PGresult *res)
{
	struct probe_answer a = {
		.ok = true,
		.system_id = number(res, COL_SYSTEM),
		.timeline = (uint32_t)number(res, COL_TIMELINE),
	};

	if (PQgetvalue(res, 0, COL_RECOVERY)[0] == 't') {
		double lag = strtod(PQgetvalue(res, 0, COL_LAG), NULL);

		a.role = ROLE_STANDBY;
		a.lsn = position(res, COL_LSN);
		a.lag_ns = lag > 0 ? (uint64_t)(lag * 1e9) : 0;
	} else {
		a.role = ROLE_PRIMARY;
		a.writable = strcmp(PQgetvalue(res, 0, COL_READ_ONLY), "off") == 0;
		a.lsn = end_of_wal(res);
		a.flushed = position(res, COL_FLUSHED);
	}
	return a;
}

static void answered(struct pg_probe *p)
{
	struct probe_answer a = read_answer(p->result);

	PQclear(p->result);
	p->result = NULL;
	p->phase = PROBE_REST;
	if ((a.role == ROLE_PRIMARY && !a.writable) || PQstatus(p->pq) != CONNECTION_OK) {
		hang_up(p);
	}
	probe_answered(p->server, &a);
}

static bool is_answer(const PGresult *res)
{
	return PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1 &&
	       PQnfields(res) == COL_COUNT;
}

/* True: all that is to come has come, or the connection is lost. */
static bool read_results(struct pg_probe *p)
{
	bool gone = PQconsumeInput(p->pq) == 0;

	while (PQisBusy(p->pq) == 0) {
		PGresult *res = PQgetResult(p->pq);

		if (res == NULL) {
			return true;
		}
		if (p->result == NULL) {
			p->result = res;
		} else {
			PQclear(res);
		}
	}
	return gone || PQstatus(p->pq) != CONNECTION_OK;
}

static void send_rest(struct pg_probe *p)
{
	pg_socket_poll(p->socket, UV_READABLE | (PQflush(p->pq) == 1 ? UV_WRITABLE : 0));
}

static void on_ready(void *owner, int status, int events)
{
	struct pg_probe *p = owner;

	(void)status;
	(void)events;
	if (p->phase == PROBE_REST) {
		if (PQconsumeInput(p->pq) == 0 || PQstatus(p->pq) != CONNECTION_OK) {
			hang_up(p);
			health_hurry(p->server);
		}
		return;
	}
	send_rest(p);
	if (!read_results(p)) {
		return;
	}
	if (is_answer(p->result)) {
		answered(p);
	} else {
		lost(p);
	}
}

/* -- the question ------------------------------------------------------------------------------ */

static bool ask(struct pg_probe *p)
{
	p->phase = PROBE_ASKED;
	if (PQsendQuery(p->pq, question) == 0) {
		return false;
	}
	send_rest(p);
	return true;
}

static void on_notice(void *arg, const PGresult *res)
{
	const struct pg_probe *p = arg;

	log_debug("server %s: notice to the probe: %s", p->pg->name, PQresultErrorMessage(res));
}

static void on_dialled(struct pg_dial *d)
{
	struct pg_probe *p = container_of(d, struct pg_probe, dial);

	if (d->pq == NULL) {
		answer_failed(p, d->sqlstate, d->why);
		return;
	}
	p->pq = d->pq;
	d->pq = NULL;
	p->socket = d->socket;
	d->socket = NULL;
	p->fresh = true;
	pg_socket_give(p->socket, on_ready, p);
	PQsetNoticeReceiver(p->pq, on_notice, p);
	if (PQsetnonblocking(p->pq, 1) != 0 || !ask(p)) {
		lost(p);
	}
}

static void on_later(struct timer *t)
{
	struct pg_probe *p = container_of(t, struct pg_probe, later);

	answer_failed(p, p->dial.sqlstate, p->dial.why);
}

static void dial(struct pg_probe *p)
{
	p->phase = PROBE_DIAL;
	if (!pg_dial_start(&p->dial)) {
		io_timer_set(p->pg->io, &p->later, 0);
	}
}

void pg_probe_send(void *probe)
{
	struct pg_probe *p = probe;

	check(p->phase == PROBE_REST);
	p->fresh = false;
	if (p->pq == NULL) {
		dial(p);
	} else if (!ask(p)) {
		lost(p);
	}
}

/* -- life -------------------------------------------------------------------------------------- */

void *pg_probe_open(struct server *s, void *server_priv)
{
	struct pg_probe *p = calloc(1, sizeof(*p));

	if (p == NULL) {
		return NULL;
	}
	p->server = s;
	p->pg = server_priv;
	p->dial.server = server_priv;
	p->dial.application = "shmbroker probe";
	p->dial.done = on_dialled;
	p->later.fire = on_later;
	return p;
}

void pg_probe_drop(void *probe)
{
	struct pg_probe *p = probe;

	io_timer_clear(p->pg->io, &p->later);
	pg_dial_stop(&p->dial);
	hang_up(p);
	p->phase = PROBE_REST;
}

void pg_probe_close(void *probe)
{
	pg_probe_drop(probe);
	free(probe);
}
