/* SPDX-License-Identifier: MIT */
/*
 * pg_pipeline.c - see pg.h: requests become steps of the FIFO and messages of the protocol.
 *
 * Why a SET has a Sync of its own: default_transaction_read_only is looked at when a transaction
 * starts, and what lies between two Syncs is one implicit transaction, which the SET itself starts.
 * It is paid only when reads and writes alternate on a connection.  If it fails nothing guards the
 * statement behind it any more, which is already on its way: the connection is given up.
 *
 * A statement in a lease that is declared read-only is guarded by making its own implicit
 * transaction read-only, in the same batch; possible only where no transaction is open for certain.
 *
 * Behind a reset that is not answered statements are sent as ever, each with its proof.  What has a
 * Sync of its own needs none: if the reset has failed, the connection is closed.
 *
 * A prepared statement is dropped only where no transaction can be open, since DEALLOCATE fails in
 * one that has failed.  Where that is not certain and the set is full, statements run unnamed.
 */
#include "pg.h"

#include "io.h"
#include "pool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* -- the FIFO ---------------------------------------------------------------------------------- */

static unsigned steps_count(const struct pg_backend *pg)
{
	return pg->steps_tail - pg->steps_head;
}

struct pg_step *pg_step_head(struct pg_backend *pg)
{
	return steps_count(pg) > 0 ? &pg->steps[pg->steps_head & (pg->steps_cap - 1)] : NULL;
}

void pg_step_pop(struct pg_backend *pg)
{
	check(steps_count(pg) > 0);
	pg->steps_head++;
}

bool pg_step_is_last(const struct pg_backend *pg)
{
	return steps_count(pg) == 1;
}

static bool steps_grow(struct pg_backend *pg)
{
	unsigned cap = pg->steps_cap == 0 ? 32 : pg->steps_cap * 2, n = steps_count(pg);
	struct pg_step *steps = malloc(cap * sizeof(*steps));

	if (steps == NULL) {
		return false;
	}
	for (unsigned i = 0; i < n; i++) {
		steps[i] = pg->steps[(pg->steps_head + i) & (pg->steps_cap - 1)];
	}
	free(pg->steps);
	pg->steps = steps;
	pg->steps_cap = cap;
	pg->steps_head = 0;
	pg->steps_tail = n;
	return true;
}

static void count(const struct pg_backend *pg, enum pool_metric m, uint64_t n)
{
	board_pool_count(pg->c->io->board, pg->c->pool->index, m, n);
}

/*
 * The last member becomes the one that carries the Sync.  Called before anything is sent that must
 * not share the group's implicit transaction, and at the end of the turn.
 */
void pg_close_group(struct pg_backend *pg)
{
	if (pg->group == 0) {
		return;
	}
	if (pg->group > 1) {
		count(pg, POOL_METRIC_READ_GROUPS, 1);
		count(pg, POOL_METRIC_READ_GROUP_STATEMENTS, pg->group);
	}
	pg->group = 0;
	if (pg->mute) {
		return;
	}
	pg->steps[(pg->steps_tail - 1) & (pg->steps_cap - 1)].kind = PG_STEP_END;
#ifdef LIBPQ_HAS_SEND_PIPELINE_SYNC
	pg->mute = PQsendPipelineSync(pg->pq) != 1;
#else
	pg->mute = PQpipelineSync(pg->pq) != 1;
#endif
	if (pg->mute) {
		pg_poll_update(pg);
	}
}

/* A libpq call has queued something (sent), and this is what will be answered. */
static bool push(struct pg_backend *pg, bool sent, struct pg_step step)
{
	if (!sent || (steps_count(pg) == pg->steps_cap && !steps_grow(pg))) {
		pg->mute = true;
		pg_poll_update(pg);
		return false;
	}
	pg->steps[pg->steps_tail++ & (pg->steps_cap - 1)] = step;
	return true;
}

struct request *pg_head_request(const struct pg_backend *pg)
{
	if (cds_list_empty(&pg->c->inflight)) {
		return NULL;
	}
	return cds_list_first_entry(&pg->c->inflight, struct request, link);
}

/* -- sending ----------------------------------------------------------------------------------- */

static bool put_sync(struct pg_backend *pg, struct pg_step step)
{
#ifdef LIBPQ_HAS_SEND_PIPELINE_SYNC
	return push(pg, PQsendPipelineSync(pg->pq) == 1, step);
#else
	return push(pg, PQpipelineSync(pg->pq) == 1, step);
#endif
}

void pg_send_sync(struct pg_backend *pg, enum pg_step_kind kind)
{
	if (!pg->mute && !pg->broken) {
		pg_close_group(pg);
		put_sync(pg, (struct pg_step){.kind = (uint8_t)kind});
		conn_want_flush(pg->c);
	}
}

static bool put_command(struct pg_backend *pg, enum pg_step_kind kind, const char *sql)
{
	pg_close_group(pg);
	return push(pg, PQsendQueryParams(pg->pq, sql, 0, NULL, NULL, NULL, NULL, 0) == 1,
		(struct pg_step){.kind = (uint8_t)kind});
}

/* A command with a Sync of its own: its failure is nobody else's. */
static bool put_preamble(struct pg_backend *pg, enum pg_step_kind kind, const char *sql)
{
	return put_command(pg, kind, sql) && put_sync(pg, (struct pg_step){.kind = PG_STEP_SYNC});
}

static bool put_deallocate(struct pg_backend *pg, struct pg_key key)
{
	char sql[PG_NAME_MAX + 16], name[PG_NAME_MAX];

	count(pg, POOL_METRIC_PREPARED_EVICTIONS, 1);
	pg_prepared_remove(pg->prepared, key);
	pg_prepared_name(key, name);
	snprintf(sql, sizeof(sql), "DEALLOCATE %s", name);
	return put_preamble(pg, PG_STEP_DEALLOCATE, sql);
}

static void put_fail(struct pg_backend *pg, enum pg_param_error e, unsigned param)
{
	pg_close_group(pg);
	push(pg, true,
		(struct pg_step){.kind = PG_STEP_FAIL, .param_error = (uint8_t)e, .param = param});
}

/* No transaction is open when what is sent now arrives. */
static bool surely_idle(const struct pg_backend *pg, const struct request *r, unsigned begin)
{
	if (r->lease == NULL || begin != 0) {
		return true;
	}
	if (pg->discarding) { /* which succeeds only where none is open */
		return pg->c->ninflight == 1;
	}
	return steps_count(pg) == 0 && PQtransactionStatus(pg->pq) == PQTRANS_IDLE;
}

/* -- the session's read-only mode -------------------------------------------------------------- */

static bool put_readonly_mode(struct pg_backend *pg, bool on)
{
	if (pg->readonly == on) {
		return true;
	}
	pg->readonly = on;
	return put_preamble(pg, on ? PG_STEP_SET : PG_STEP_UNSET,
		on ? "SET default_transaction_read_only = on"
		   : "RESET default_transaction_read_only");
}

/* -- statements -------------------------------------------------------------------------------- */

/* How a statement is going to run. */
struct plan {
	struct pg_key key;
	bool named;
	bool prepare; /* Parse goes in front */
	bool binary; /* results in binary */
};

/*
 * A text that was seen once is not worth preparing.  Makes room and removes a stale namesake, which
 * must happen in front of everything else of the batch.
 */
static bool plan_statement(
	struct pg_backend *pg, const struct request *r, bool idle, struct plan *plan)
{
	enum pg_found found;

	*plan = (struct plan){.key = {r->stmt->id, pg->params.blobs}};
	if (pg->server->max_prepared == 0 || r->stmt->uses <= 1 || !pg->params.keyable ||
		r->stmt->len > CHAN_STMT_TEXT_MAX) { /* few of these would fill the memory */
		return true;
	}
	found = pg_prepared_find(pg->prepared, plan->key);
	if (found == PG_PRESENT) {
		count(pg, POOL_METRIC_PREPARED_HITS, 1);
		plan->named = true;
		plan->binary = pg_prepared_is_binary(pg->prepared, plan->key);
		return true;
	}
	count(pg, POOL_METRIC_PREPARED_MISSES, 1);
	if (found == PG_STALE && (!idle || !put_deallocate(pg, plan->key))) {
		return !pg->mute;
	}
	if (pg_prepared_full(pg->prepared) &&
		(!idle || !put_deallocate(pg, pg_prepared_oldest(pg->prepared)))) {
		return !pg->mute;
	}
	plan->named = true;
	plan->prepare = true;
	return true;
}

static bool put_statement(struct pg_backend *pg, const struct request *r, const struct plan *plan)
{
	const struct pg_params *p = &pg->params;
	const int *lengths = p->any_blob ? p->lengths : NULL;
	const int *formats = p->any_blob ? p->formats : NULL;
	const Oid *types = p->any_blob ? p->types : NULL;
	int n = (int)p->count;
	char name[PG_NAME_MAX];

	if (!plan->named) {
		return push(pg,
			PQsendQueryParams(pg->pq, r->stmt->text, n, types, p->values, lengths,
				formats, 0) == 1,
			(struct pg_step){.kind = PG_STEP_QUERY});
	}
	pg_prepared_name(plan->key, name);
	if (plan->prepare) {
		if (!push(pg,
			    PQsendPrepare(
				    pg->pq, name, r->stmt->text, types != NULL ? n : 0, types) == 1,
			    (struct pg_step){.kind = PG_STEP_PREPARE, .key = plan->key})) {
			return false;
		}
		pg_prepared_add(pg->prepared, plan->key);
	}
	return push(pg,
		PQsendQueryPrepared(
			pg->pq, name, n, p->values, lengths, formats, plan->binary ? 1 : 0) == 1,
		(struct pg_step){.kind = PG_STEP_QUERY});
}

static const char *begin_command(unsigned begin, char *buf, size_t size)
{
	snprintf(buf, size, "BEGIN%s%s",
		begin & REQ_F_SERIALIZABLE ? " ISOLATION LEVEL SERIALIZABLE"
		: begin & REQ_F_REPEATABLE ? " ISOLATION LEVEL REPEATABLE READ"
					   : "",
		begin & REQ_F_READONLY ? " READ ONLY" : "");
	return buf;
}

static bool put_begin(struct pg_backend *pg, unsigned begin)
{
	char sql[80];

	return put_command(pg, PG_STEP_BEGIN, begin_command(begin, sql, sizeof(sql)));
}

/*
 * SET LOCAL and the like end with their transaction (without one they do nothing): no reason to
 * clean the session afterwards.
 */
bool pg_sets_locally(const struct statement *stmt)
{
	static const char *const second[] = {"local", "transaction", "constraints"};
	const char *p = stmt->text + strspn(stmt->text, " \t\r\n");

	if (strncasecmp(p, "set", 3) != 0) {
		return false;
	}
	p += 3;
	p += strspn(p, " \t\r\n");
	for (size_t i = 0; i < array_size(second); i++) {
		size_t n = strlen(second[i]);

		if (strncasecmp(p, second[i], n) == 0 && p[n] != '\0' &&
			strchr(" \t\r\n", p[n]) != NULL) {
			return true;
		}
	}
	return false;
}

static void note_statement(struct pg_backend *pg, const struct request *r)
{
	if ((r->stmt->traits & STMT_SUSPECT) && !pg_sets_locally(r->stmt)) {
		pg->c->dirty = true;
	}
	if ((r->stmt->traits & STMT_INDELIBLE) || pg->params.bytes + r->stmt->len > PG_OVERSIZE) {
		pg->c->retire = true;
	}
}

/*
 * What makes r harmless, or able to write, in front of it.  In a lease the session's mode is only
 * switched off, and only where no transaction is open: a rollback would undo the switch.
 */
static bool put_guard(struct pg_backend *pg, const struct request *r, unsigned begin, bool idle)
{
	bool readonly = (r->flags & REQ_F_READONLY) != 0;

	if (r->lease == NULL) {
		return put_readonly_mode(pg, readonly);
	}
	return !idle || (begin & REQ_F_READONLY) || put_readonly_mode(pg, false);
}

static bool put_proof(struct pg_backend *pg)
{
	return !pg->discarding || push(pg, PQsendDescribePrepared(pg->pq, pg->proof) == 1,
					  (struct pg_step){.kind = PG_STEP_PROOF});
}

/* The batch: everything that fails and succeeds with the statement. */
static bool put_batch(struct pg_backend *pg, const struct request *r, unsigned begin, bool idle,
	const struct plan *plan)
{
	bool readonly = (r->flags & REQ_F_READONLY) != 0;

	if (!put_proof(pg) || (begin != 0 && !put_begin(pg, begin))) {
		return false;
	}
	if (r->lease != NULL && begin == 0 && readonly && idle &&
		!put_command(pg, PG_STEP_READONLY, "SET transaction_read_only = on")) {
		return false;
	}
	return put_statement(pg, r, plan);
}

/*
 * Quick reads share a Sync: one message and one answer of the server for several of them.  They are
 * independent all the same.  If one fails the server skips those behind it, which did not run and
 * are sent again; none has an effect that a common rollback could undo.
 */
static void end_batch(struct pg_backend *pg, bool grouped, struct pg_step step)
{
	if (!grouped) {
		put_sync(pg, step);
		return;
	}
	if (push(pg, true, step) && ++pg->group == PG_GROUP_MAX) {
		pg_close_group(pg);
	}
}

static void send_exec(struct pg_backend *pg, struct request *r, unsigned begin)
{
	bool idle, grouped;
	enum pg_param_error e;
	struct plan plan;
	unsigned bad = 0;

	idle = surely_idle(pg, r, begin);
	if (r->lease != NULL && !put_guard(pg, r, begin, idle)) {
		/* in front of all: what follows in the lease relies on the session's mode */
		return;
	}
	e = pg_params_set(&pg->params, r, &bad);
	if (e != PG_PARAM_OK) {
		put_fail(pg, e, bad + 1);
		return;
	}
	note_statement(pg, r);
	if (r->lease == NULL && !put_guard(pg, r, begin, idle)) {
		return;
	}
	if (!plan_statement(pg, r, idle, &plan)) {
		return;
	}
	grouped = plan.named && !plan.prepare && request_is_quick(r);
	if (!grouped) {
		pg_close_group(pg);
	}
	if (!put_batch(pg, r, begin, idle, &plan)) {
		return;
	}
	end_batch(pg, grouped,
		(struct pg_step){.kind = grouped ? PG_STEP_MEMBER : PG_STEP_END,
			.begin = (uint8_t)begin,
			.named = plan.named,
			.fresh = plan.prepare,
			.alone = r->lease == NULL,
			.key = plan.key});
	pg_params_trim(&pg->params);
}

static void send_command(struct pg_backend *pg, const char *sql)
{
	if (put_command(pg, PG_STEP_QUERY, sql)) {
		put_sync(pg, (struct pg_step){.kind = PG_STEP_END});
	}
}

/* COPY itself is sent when everything in front of it was answered, see pg_copy.c. */
static void send_copy(struct pg_backend *pg, const struct request *r, unsigned begin)
{
	char sql[80];

	pg_close_group(pg);
	if (!put_readonly_mode(pg, false) ||
		(begin != 0 &&
			!put_preamble(pg, PG_STEP_BEGIN, begin_command(begin, sql, sizeof(sql))))) {
		return;
	}
	note_statement(pg, r);
	push(pg, true, (struct pg_step){.kind = PG_STEP_COPY});
}

void pg_start(struct conn *c, struct request *r, unsigned begin)
{
	struct pg_backend *pg = c->priv;

	conn_want_flush(c);
	r->driver_priv = NULL;
	if (pg->mute || pg->broken) {
		return; /* conn_closed is on its way and deals with r */
	}
	switch (r->op) {
	case REQ_EXEC:
		send_exec(pg, r, begin);
		break;
	case REQ_COMMIT:
		send_command(pg, "COMMIT");
		break;
	case REQ_ROLLBACK:
		send_command(pg, "ROLLBACK");
		break;
	case REQ_COPY_IN:
	case REQ_COPY_OUT:
		send_copy(pg, r, begin);
		break;
	default:
		check(!"a request that drivers run");
	}
	pg_poll_update(pg); /* sending may have found the connection closed */
}

void pg_repeat(struct pg_backend *pg, struct request *r, const struct pg_step *step)
{
	unsigned begin = step->begin;

	if (!pg_step_is_last(pg)) { /* others wait behind it: it ends after them now */
		cds_list_del(&r->link);
		cds_list_add_tail(&r->link, &pg->c->inflight);
		pg->c->head_ns = io_now(pg->c->io);
	}
	pg_step_pop(pg);
	conn_want_flush(pg->c);
	if (begin != 0 && !put_preamble(pg, PG_STEP_ROLLBACK, "ROLLBACK")) {
		return;
	}
	send_exec(pg, r, begin);
}

/* -- reset ------------------------------------------------------------------------------------- */

/*
 * DISCARD ALL refuses to run in a transaction, also in an implicit one with something before it.
 * Until the answer comes what is sent already finds the session as it leaves it.
 */
static bool put_discard(struct pg_backend *pg)
{
	uint64_t secret;

	if (getrandom(&secret, sizeof(secret), 0) != (ssize_t)sizeof(secret)) {
		pg_break(pg, "no random number for a reset");
		return false;
	}
	snprintf(pg->proof, sizeof(pg->proof), "clean_%016" PRIx64, secret);
	pg_prepared_clear(pg->prepared);
	pg->readonly = false;
	pg->discarding = true;
	return put_command(pg, PG_STEP_CLEAN, "DISCARD ALL") &&
	       push(pg, PQsendPrepare(pg->pq, pg->proof, "", 0, NULL) == 1,
		       (struct pg_step){.kind = PG_STEP_CLEAN});
}

void pg_reset(struct conn *c, unsigned what)
{
	struct pg_backend *pg = c->priv;

	conn_want_flush(c);
	if (pg->mute || pg->broken) {
		return;
	}
	pg->clean_failed = false;
	if (PQtransactionStatus(pg->pq) != PQTRANS_IDLE &&
		!put_preamble(pg, PG_STEP_CLEAN, "ROLLBACK")) {
		return;
	}
	if ((what & CONN_RESET_SESSION) && !put_discard(pg)) {
		return;
	}
	put_sync(pg, (struct pg_step){.kind = PG_STEP_CLEANED});
	pg_poll_update(pg);
}
