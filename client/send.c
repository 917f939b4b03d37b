/* SPDX-License-Identifier: MIT */
/* send.c - the sending half of chan.h: descriptors, bodies, and what is owed. */
#include "chan.h"

#include "board.h"
#include "crashpoint.h"
#include "doorbell.h"
#include "result.h"
#include "segment.h"
#include "seqlock.h"

#include <stdlib.h>
#include <string.h>

#define END_WAIT_NS UINT64_C(1000000000) /* for room, before the end of a lease is owed */
#define REST_BLOCKS 2u /* that a worker at rest may have due */

static int out_of_time(struct chan *c)
{
	return errstate_verdict(&c->broker->err, BROKER_E_TIMEOUT, BROKER_NOT_DONE, true,
		"the broker did not take the request in time");
}

static int gone(struct chan *c)
{
	return errstate_verdict(
		&c->broker->err, c->gone, BROKER_NOT_DONE, true, "%s", broker_strerror(c->gone));
}

/* Wait until there is a slot and len bytes of arena. */
static int wait_room(struct chan *c, uint64_t len, uint64_t deadline_ns)
{
	while (c->gone == 0 && !outbox_has_room(&c->out, len)) {
		if (!chan_sleep(c, deadline_ns, true)) {
			return out_of_time(c);
		}
		chan_pump(c);
	}
	return c->gone != 0 ? gone(c) : 0;
}

/* Push a descriptor; every one takes a chunk along that is due.  Caller saw room. */
static uint64_t push(struct chan *c, struct shm_request *d)
{
	d->free_chunk = inbox_due(&c->in);
	return outbox_push(&c->out, d);
}

static uint64_t next_id(struct chan *c, unsigned slot)
{
	return ++c->broker->sequence * CHAN_REQUESTS + slot;
}

void chan_publish(struct chan *c)
{
	if (!outbox_publish(&c->out)) {
		return;
	}
	full_fence(); /* F2 of doorbell.h; pairs with session_poll arming need_wake */
	if (get(&c->b->need_wake) != 0) {
		CRASHPOINT(BELL_BEFORE);
		doorbell_ring(c->bell);
		CRASHPOINT(BELL_AFTER);
	}
}

/* -- bodies ---------------------------------------------------------------------------------- */

/* A body on its way into the arena, in one piece or several. */
struct writer {
	struct bodyout out;
	struct chan *c;
	struct shm_request *d; /* the final one; off and len are those of the current piece */
	uint64_t left; /* bytes of body after the current piece */
};

/* Start the next piece; there was none, or the one before was pushed. */
static int start_piece(struct writer *w)
{
	struct chan *c = w->c;
	uint64_t most = w->left <= outbox_max(&c->out) ? w->left : outbox_max(&c->out) / 2 & ~7ull;
	int rc = wait_room(c, most, w->d->deadline_ns);

	if (rc < 0) {
		return rc;
	}
	CRASHPOINT(BODY_BEFORE);
	w->out.p = outbox_span(&c->out, most, &w->d->off);
	w->out.left = most;
	w->d->len = (uint32_t)most;
	w->left -= most;
	return 0;
}

static int next_piece(struct bodyout *o)
{
	struct writer *w = container_of(o, struct writer, out);
	struct shm_request part = {
		.id = w->d->id, .op = REQ_PART, .off = w->d->off, .len = w->d->len};

	(void)push(w->c, &part);
	chan_publish(w->c);
	CRASHPOINT(PART_AFTER);
	return start_piece(w);
}

/* Write the body of d, all but the last piece already pushed afterwards. */
static int write_body(
	struct chan *c, struct shm_request *d, const struct body_spec *body, uint64_t total)
{
	struct writer w = {.out.more = next_piece, .c = c, .d = d, .left = total};
	int rc = start_piece(&w);

	if (rc == 0) {
		rc = bodyout_write(&w.out, body);
	}
	CRASHPOINT(BODY_AFTER);
	return rc;
}

/* Length of the body, or 0 with the error told. */
static uint64_t measure(struct chan *c, const struct body_spec *body)
{
	int bad;
	uint64_t total = bodyout_measure(body, &bad);

	if (total == 0 && bad >= 0) {
		errstate_set(&c->broker->err, BROKER_E_ARGUMENT,
			"parameter $%d: unknown type, or no data", bad + 1);
		return 0;
	}
	if (total == 0) {
		errstate_set(&c->broker->err, BROKER_E_TOO_LARGE,
			"a text of 4 GiB or more; the broker takes %llu bytes (max_request)",
			(unsigned long long)c->max_request);
		return 0;
	}
	if (total > c->max_request) {
		errstate_set(&c->broker->err, BROKER_E_TOO_LARGE,
			"request of %llu bytes; the broker takes %llu (max_request)",
			(unsigned long long)total, (unsigned long long)c->max_request);
		return 0;
	}
	return total;
}

/* -- requests -------------------------------------------------------------------------------- */

/* A slot for r, which becomes in flight.  There are more slots than requests in any state. */
static void enter_slot(struct chan *c, struct broker_result *r)
{
	unsigned i = c->last_slot;

	do {
		i = (i + 1) % CHAN_REQUESTS;
	} while (c->slot[i] != NULL);
	c->last_slot = i;
	c->slot[i] = r;
	r->id = next_id(c, i);
	r->sub_pos = UINT64_MAX;
	r->in_flight = true;
	c->in_flight++;
}

/* It was not sent after all. */
static void leave_slot(struct chan *c, struct broker_result *r)
{
	if (r->in_flight) { /* else the channel was lost meanwhile and has failed it */
		c->slot[r->id % CHAN_REQUESTS] = NULL;
		r->in_flight = false;
		c->in_flight--;
	}
}

/*
 * Room for one more in flight.  Tickets that are not collected are the caller's to collect; what it
 * has given up or let go of is waited for.
 */
static int wait_turn(struct chan *c, uint64_t deadline_ns)
{
	while (c->gone == 0 && c->in_flight >= CHAN_RING_SLOTS) {
		chan_pump(c);
		if (c->in_flight < CHAN_RING_SLOTS) {
			break;
		}
		if (c->open >= CHAN_RING_SLOTS) {
			return errstate_verdict(&c->broker->err, BROKER_E_BUSY, BROKER_NOT_DONE,
				true, "%u statements are in flight: collect some first",
				c->in_flight);
		}
		if (!chan_sleep(c, deadline_ns, false)) {
			return out_of_time(c);
		}
	}
	return c->gone != 0 ? gone(c) : 0;
}

/* Number of the text, and whether it goes along. */
static uint32_t number_statement(struct chan *c, struct body_spec *body, struct shm_request *d)
{
	struct stmtcache_key key;
	uint32_t defined = 0;

	stmtcache_find(c->stmts, body->sql, body->sql_len, &key);
	if (key.id != 0) {
		body->sql_len = 0;
	} else {
		key.id = defined = stmtcache_define(c->stmts, &key);
		d->flags |= defined != 0 ? REQ_F_DEFINE : 0;
	}
	d->stmt = key.id;
	return defined;
}

static bool has_body(uint8_t op)
{
	return op == REQ_EXEC || op == REQ_LEASE || op == REQ_COPY_IN || op == REQ_COPY_OUT;
}

static int send_request(struct chan *c, struct shm_request *d, const struct request_spec *s)
{
	struct body_spec body = s->body;
	uint32_t defined = 0;
	uint64_t total;
	int rc;

	if (!has_body(d->op)) {
		return wait_room(c, 0, d->deadline_ns);
	}
	total = measure(c, &body);
	if (total == 0) {
		return c->broker->err.pub.code;
	}
	if (d->op == REQ_EXEC) {
		defined = number_statement(c, &body, d);
		total -= pad8(s->body.sql_len) - pad8(body.sql_len);
	}
	rc = write_body(c, d, &body, total);
	if (rc < 0 && defined != 0) {
		stmtcache_forget(c->stmts, defined);
	}
	return rc;
}

static struct shm_request descriptor(const struct request_spec *s, uint64_t id)
{
	return (struct shm_request){
		.id = id,
		.op = s->op,
		.flags = s->flags,
		.pool = s->pool,
		.lease = s->lease,
		.deadline_ns = s->deadline_ns,
	};
}

int chan_request(struct chan *c, struct broker_result *r, const struct request_spec *s)
{
	struct shm_request d;
	int rc = wait_turn(c, s->deadline_ns);

	if (rc < 0) {
		return rc;
	}
	r->op = s->op;
	r->lease = s->lease;
	r->readonly = (s->flags & REQ_F_READONLY) != 0;
	r->deadline_ns = s->deadline_ns;
	enter_slot(c, r);
	d = descriptor(s, r->id);
	rc = send_request(c, &d, s);
	if (rc < 0) {
		leave_slot(c, r);
		return rc;
	}
	r->sub_pos = push(c, &d);
	return 0;
}

int chan_lease(struct chan *c, const struct request_spec *s, uint64_t *id)
{
	struct shm_request d = descriptor(s, next_id(c, 0));
	int rc = send_request(c, &d, s);

	if (rc < 0) {
		return rc;
	}
	(void)push(c, &d);
	*id = d.id;
	CRASHPOINT(LEASE_PUSHED);
	return 0;
}

int chan_copy(struct chan *c, uint8_t op, struct broker_result *r, const void *data, size_t len)
{
	struct shm_request d = {
		.op = op, .target = r->id, .len = (uint32_t)len, .deadline_ns = r->deadline_ns};
	int rc = wait_room(c, len, r->deadline_ns);

	if (rc < 0) {
		return rc;
	}
	if (len > 0) {
		memcpy(outbox_span(&c->out, len, &d.off), data, len);
	}
	d.id = next_id(c, 0);
	(void)push(c, &d);
	chan_publish(c);
	return 0;
}

/* -- ends and cancels ------------------------------------------------------------------------ */

static void owe(struct chan *c, struct broker_result *r, bool *what)
{
	if (!r->owes_cancel && !r->owes_end) {
		TAILQ_INSERT_TAIL(&c->owed, r, owed_link);
	}
	*what = true;
}

static void push_cancel(struct chan *c, struct broker_result *r)
{
	struct shm_request d = {.op = REQ_CANCEL, .target = r->id, .id = next_id(c, 0)};

	CRASHPOINT(CANCEL_BEFORE);
	(void)push(c, &d);
	chan_publish(c);
	CRASHPOINT(CANCEL_SENT);
}

void chan_cancel(struct chan *c, struct broker_result *r)
{
	if (c->gone != 0 || !r->in_flight) {
		return;
	}
	if (outbox_has_room(&c->out, 0)) {
		push_cancel(c, r);
	} else {
		owe(c, r, &r->owes_cancel);
	}
}

static void push_end(struct chan *c, struct broker_result *r)
{
	struct shm_request d = {.op = r->op, .lease = r->lease};

	CRASHPOINT(ROLLBACK_BEFORE);
	enter_slot(c, r);
	d.id = r->id;
	r->sub_pos = push(c, &d);
	chan_publish(c);
	CRASHPOINT(ROLLBACK_SENT);
}

static bool may_end(struct chan *c)
{
	return c->in_flight < CHAN_RING_SLOTS && outbox_has_room(&c->out, 0);
}

void chan_end_lease(struct chan *c, struct broker_result *r)
{
	uint64_t until = 0;

	r->user = false;
	r->discard = true;
	while (c->gone == 0 && !may_end(c)) {
		until = until == 0 ? chan_now(c) + END_WAIT_NS : until;
		if (!chan_sleep(c, until, true)) {
			owe(c, r, &r->owes_end);
			return;
		}
		chan_pump(c);
	}
	if (c->gone != 0) { /* the broker ends the lease of a channel that ended */
		result_release(r);
		return;
	}
	push_end(c, r);
}

static void pay_owed(struct chan *c)
{
	struct broker_result *r;

	while ((r = TAILQ_FIRST(&c->owed)) != NULL && may_end(c)) {
		bool end = r->owes_end;

		TAILQ_REMOVE(&c->owed, r, owed_link);
		r->owes_cancel = r->owes_end = false;
		if (end) {
			push_end(c, r);
		} else {
			push_cancel(c, r);
		}
	}
}

static void push_due(struct chan *c)
{
	while (c->in.ndue > 0 && outbox_has_room(&c->out, 0)) {
		struct shm_request nop = {.op = REQ_NOP, .id = next_id(c, 0)};

		(void)push(c, &nop);
	}
}

void chan_flush(struct chan *c, bool all)
{
	if (!TAILQ_EMPTY(&c->owed)) {
		pay_owed(c);
	}
	if (all || (c->in.held + c->in.due_blocks) * 4 >= c->in.nblocks) {
		push_due(c);
	}
	chan_publish(c);
}

void chan_rest(struct chan *c)
{
	if (c->gone != 0) {
		return;
	}
	if (c->in.due_blocks > REST_BLOCKS) {
		push_due(c);
		(void)outbox_publish(&c->out);
	}
	if (outbox_is_large(&c->out)) {
		outbox_trim(&c->out, doorbell_now());
	}
}

/* -- the board ------------------------------------------------------------------------------- */

int chan_pool(const struct chan *c, const char *name)
{
	const struct shm_section *s = segment_section(c->sm.at, SHM_SEC_POOLS);
	struct board_pool row;
	size_t body = sizeof(row) - sizeof(row.seq);
	uint64_t version;

	for (uint32_t i = 0; s != NULL && s->stride >= sizeof(row) && i < s->count; i++) {
		const unsigned char *at =
			(const unsigned char *)segment_at(c->sm.at, s) + (size_t)i * s->stride;

		if (seqlock_read((const _Atomic uint64_t *)(const void *)at, at + sizeof(row.seq),
			    &row.used, body, &version) &&
			row.used == 1 && strncmp(row.info.name, name, sizeof(row.info.name)) == 0) {
			return (int)i;
		}
	}
	return BROKER_E_ARGUMENT;
}

/* Copy the name out of a row that the broker may be writing; it stays empty if there is none. */
static void read_server(struct chan *c, const struct shm_section *s, uint16_t row)
{
	const unsigned char *at =
		(const unsigned char *)segment_at(c->sm.at, s) + (size_t)row * s->stride;
	struct {
		uint64_t used;
		char name[sizeof(c->servers->text)];
	} body;
	uint64_t version;

	_Static_assert(offsetof(struct board_server, info) == 16 &&
			       offsetof(struct board_server_info, name) == 0 &&
			       sizeof(((struct board_server_info *)0)->name) == sizeof(body.name),
		"the name follows the head of the row");
	if (seqlock_read((const _Atomic uint64_t *)(const void *)at, at + sizeof(uint64_t), &body,
		    sizeof(body), &version) &&
		body.used == 1) {
		memcpy(c->servers[row].text, body.name, sizeof(body.name) - 1);
	}
}

/* The table of names, as large as the board's; NULL: there is none. */
static const struct shm_section *make_servers(struct chan *c)
{
	const struct shm_section *s = segment_section(c->sm.at, SHM_SEC_SERVERS);

	if (s == NULL || s->stride < sizeof(struct board_server)) {
		return NULL;
	}
	if (c->servers == NULL) {
		c->servers = calloc(s->count, sizeof(*c->servers));
		c->nservers = c->servers != NULL ? s->count : 0;
	}
	return c->servers != NULL ? s : NULL;
}

const char *chan_server(struct chan *c, uint16_t row)
{
	const struct shm_section *s;

	if (row < c->nservers && c->servers[row].text[0] != '\0') {
		return c->servers[row].text; /* rows keep their names */
	}
	if (row == UINT16_MAX || c->gone == BROKER_E_FORKED) {
		return "";
	}
	s = make_servers(c);
	if (s == NULL || row >= c->nservers) {
		return "";
	}
	read_server(c, s, row);
	return c->servers[row].text;
}
