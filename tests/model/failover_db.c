/* SPDX-License-Identifier: MIT */
/* failover_db.c - the servers of failover_world.h. */
#include "failover_world.h"

#define SYSTEM_ID 7u
#define CONNECT_MS 2000u

static struct world *the_world; /* of the driver's callbacks */

static struct machine *machine_of(const struct conn *c)
{
	return &the_world->machine[c->member->index];
}

static struct link *link_of(const struct conn *c)
{
	if (c->member->index > MACHINES || c->slot >= CONNS) {
		bail_out("more connections than there are");
	}
	return &machine_of(c)->link[c->slot];
}

uint32_t db_visible(const struct machine *m)
{
	return m->primary ? m->length : m->replayed;
}

/* -- histories --------------------------------------------------------------------------------- */

static void append(struct machine *m, uint16_t rec)
{
	if (m->length == HISTORY) {
		bail_out("a history is too long");
	}
	m->history[m->length++] = rec;
	if (rec != NONE) {
		the_world->rec[rec].committed++;
	}
}

/* May a commit up to `at` be acknowledged? */
static bool is_safe(const struct machine *m, uint32_t at)
{
	const struct world *w = the_world;
	unsigned self = (unsigned)(m - w->machine);

	if (!w->plan.safe || self == LOCAL || at == 0) {
		return true;
	}
	for (unsigned i = 0; i < MACHINES; i++) {
		const struct machine *x = &w->machine[i];

		if (i != self && !x->primary && x->upstream == self && x->length >= at) {
			return true;
		}
	}
	return false;
}

static bool takes_writes(const struct machine *m)
{
	return m->primary && !m->read_only;
}

static void commit_pending(struct machine *m, struct work *k, struct started *s)
{
	if (k->npending == 0) {
		return;
	}
	append(m, the_world->rec[s->rec].lease);
	s->at = m->length;
	for (unsigned i = 0; i < k->npending; i++) {
		the_world->rec[k->pending[i]].committed++;
	}
}

static void end_tx(struct work *k)
{
	k->in_tx = k->failed = false;
	k->npending = 0;
}

static void execute_write(struct machine *m, struct work *k, struct started *s)
{
	if (k->failed) {
		s->error = OUT_ABORTED;
	} else if (!takes_writes(m)) {
		s->error = OUT_READONLY;
		k->failed = k->in_tx;
	} else if (k->in_tx) {
		k->pending[k->npending++] = s->rec;
	} else {
		append(m, s->rec);
		s->at = m->length;
	}
}

/* The server works on the head of its queue. */
static void execute(struct machine *m, struct work *k)
{
	struct started *s = &k->queue[0];
	const struct rec *r = &the_world->rec[s->rec];

	s->done = true;
	k->in_tx |= s->begins;
	switch (r->kind) {
	case K_WRITE:
	case K_EXEC:
		execute_write(m, k, s);
		break;
	case K_COMMIT:
		s->error = k->failed ? OUT_ABORTED : OUT_OK;
		if (!k->failed) {
			commit_pending(m, k, s);
		}
		end_tx(k);
		break;
	case K_ROLLBACK:
		end_tx(k);
		break;
	default:
		s->error = k->failed ? OUT_ABORTED : OUT_OK;
		oracle_read(the_world, s->rec, m);
	}
}

static void pop(struct work *k)
{
	k->n--;
	memmove(&k->queue[0], &k->queue[1], k->n * sizeof(k->queue[0]));
}

/* The server does what it was sent, and nobody hears of it. */
static void execute_unheard(struct machine *m, struct work *k)
{
	while (k->n > 0) {
		if (!k->queue[0].done) {
			execute(m, k);
		}
		pop(k);
	}
	end_tx(k);
}

/* -- asked by the core ------------------------------------------------------------------------- */

static int db_server_open(struct io *io, const struct config_server *server,
	const struct config_pool *pool, void **priv, char *err, size_t errlen)
{
	(void)io;
	(void)pool;
	(void)err;
	(void)errlen;
	*priv = &the_world->machine[server - the_world->server_config];
	return 0;
}

static void db_server_close(void *priv)
{
	(void)priv;
}

static unsigned db_size(void *priv, const struct config_pool *pool)
{
	(void)priv;
	(void)pool;
	return CONNS;
}

static unsigned db_roles(void *priv, unsigned slot)
{
	(void)priv;
	(void)slot;
	return CONN_READS | CONN_WRITES;
}

static void *db_probe_open(struct server *s, void *priv)
{
	(void)s;
	return priv;
}

static void db_probe_send(void *probe)
{
	struct machine *m = probe;

	must(the_world, m->asked == NULL, "two probes of one server at a time");
	m->asked = the_world->servers[m - the_world->machine];
}

static void db_probe_drop(void *probe)
{
	struct machine *m = probe;

	m->asked = NULL;
}

static void db_connect(struct conn *c)
{
	struct link *l = link_of(c);

	must(the_world, l->state == LINK_CLOSED, "connect: the connection is not closed");
	*l = (struct link){
		.c = c, .state = LINK_CONNECTING, .owner = NONE, .since_ns = world_now()};
}

static void check_start_alone(struct world *w, struct link *l, uint16_t rec)
{
	const struct rec *r = &w->rec[rec];
	const struct member *m = l->c->member;

	must(w, !l->work.in_tx, "record %u runs in somebody's transaction", rec);
	must(w, !lease_is(w, l->owner, LEASE_ACTIVE), "record %u runs on a leased connection", rec);
	if (is_write(r->kind)) {
		must(w, m == w->pool->writer, "write %u goes to a server that is not the writer",
			rec);
		must(w, r->sends == r->refused && r->committed == 0, "write %u is repeated", rec);
		must(w, !machine_of(l->c)->doubtful,
			"write %u goes to a server that has just refused another", rec);
	} else {
		must(w,
			(w->pool->decision.readers >> m->index & 1) != 0 ||
				(r->kind == K_FRESH && m == w->pool->writer),
			"read %u goes to a server that takes no reads", rec);
	}
	must(w, (w->pool->decision.fenced >> m->index & 1) == 0,
		"record %u goes to a server that is fenced", rec);
	oracle_serve(w, rec);
	l->owner = NONE;
}

static void check_start_leased(struct world *w, struct link *l, uint16_t rec, unsigned begin)
{
	const struct rec *r = &w->rec[rec];
	bool first = l->owner != r->lease;

	must(w, r->sends == 0, "record %u of a lease is sent twice", rec);
	must(w, !first || !l->work.in_tx, "lease %u gets an open transaction", r->lease);
	must(w, !first || l->work.n == 0, "lease %u gets a connection in use", r->lease);
	must(w, !in_tx(w, r) || first == (begin != 0), "BEGIN goes with the first statement");
	for (unsigned i = rec + 1; i < w->nrecs; i++) {
		must(w, w->rec[i].lease != r->lease || w->rec[i].sends == 0,
			"record %u runs after record %u of the same lease", rec, i);
	}
	l->owner = r->lease;
}

static void db_start(struct conn *c, struct request *q, unsigned begin)
{
	struct world *w = the_world;
	struct link *l = link_of(c);
	uint16_t rec = rec_of(w, q->id);

	if (rec == NONE || l->work.n == QUEUE) {
		wrong(w, "an unknown request is started");
		return;
	}
	must(w, l->state == LINK_OPEN && !l->reset, "record %u starts on a closed connection", rec);
	must(w, !l->cancel, "record %u starts while a cancel is on its way", rec);
	must(w, !w->rec[rec].answered && !w->rec[rec].gone, "record %u starts after its end", rec);
	if (w->rec[rec].lease == NONE) {
		check_start_alone(w, l, rec);
	} else {
		check_start_leased(w, l, rec, begin);
	}
	w->rec[rec].sends++;
	w->rec[rec].waits = false;
	l->work.queue[l->work.n++] = (struct started){.rec = rec, .begins = begin != 0};
}

static void db_nothing(struct conn *c)
{
	(void)c;
}

static bool db_copy_data(struct conn *c, const void *data, size_t len)
{
	(void)c;
	(void)data;
	(void)len;
	return true;
}

static void db_copy_end(struct conn *c, const char *error)
{
	(void)c;
	(void)error;
}

static void db_cancel(struct conn *c)
{
	struct link *l = link_of(c);

	must(the_world, l->state == LINK_OPEN && l->work.n > 0, "a cancel, but nothing runs");
	l->cancel = true;
}

static void db_reset(struct conn *c, unsigned what)
{
	struct link *l = link_of(c);

	must(the_world, l->state == LINK_OPEN && l->work.n == 0 && !l->cancel,
		"reset of a busy connection");
	must(the_world, !l->work.in_tx || (what & CONN_RESET_ROLLBACK) != 0,
		"reset forgets to roll back");
	l->reset = true;
}

/* What the server has received it may still do: now, or when it goes on. */
static void leave_work(struct machine *m, struct link *l)
{
	if (l->broken || !m->running || l->work.n == 0 || pick(2) == 0) {
		return;
	}
	if (!m->hung) {
		execute_unheard(m, &l->work);
	} else if (m->nghosts < GHOSTS) {
		m->ghosts[m->nghosts++] = l->work;
	}
}

static void db_close(struct conn *c)
{
	struct link *l = link_of(c);

	must(the_world, l->state == LINK_OPEN || l->state == LINK_CONNECTING,
		"close of a closed connection");
	if (l->state == LINK_OPEN) {
		leave_work(machine_of(c), l);
	}
	memset(&l->work, 0, sizeof(l->work));
	l->cancel = l->reset = false;
	l->state = LINK_CLOSING;
}

#define ENTRIES                                                                                    \
	.server_open = db_server_open, .server_close = db_server_close, .size = db_size,           \
	.roles = db_roles, .connect = db_connect, .start = db_start, .flush = db_nothing,          \
	.resume = db_nothing, .copy_data = db_copy_data, .copy_end = db_copy_end,                  \
	.cancel = db_cancel, .reset = db_reset, .close = db_close

static const struct driver probed_driver = {.name = "machine",
	.share = DRIVER_SHARE_READS,
	.probe_open = db_probe_open,
	.probe_send = db_probe_send,
	.probe_drop = db_probe_drop,
	.probe_close = db_probe_drop,
	ENTRIES};
static const struct driver local_driver = {.name = "file", ENTRIES};

/* Takes the place of driver.c: there is no other database here. */
const struct driver *driver_for_url(const char *url)
{
	return strcmp(url, "local:") == 0 ? &local_driver : &probed_driver;
}

void db_serve(struct world *w)
{
	the_world = w;
}

/* -- answers ----------------------------------------------------------------------------------- */

static struct request *head_of(struct link *l)
{
	return cds_list_entry(l->c->inflight.next, struct request, link);
}

static void show_tx(struct link *l)
{
	l->c->tx = !l->work.in_tx ? CONN_TX_IDLE : l->work.failed ? CONN_TX_FAILED : CONN_TX_OPEN;
}

static void fail_head(struct link *l, enum fail_code code, const char *sqlstate)
{
	struct failure f = {.code = code,
		.message = "as the script says",
		.unknown = code == FAIL_OUTCOME_UNKNOWN};

	snprintf(f.sqlstate, sizeof(f.sqlstate), "%s", sqlstate);
	request_failed(head_of(l), &f);
}

/* Then nobody else should write there before it was probed, which is not done too often. */
static void note_refusal(struct world *w, struct link *l, uint16_t rec)
{
	const struct server *s = l->c->member->server;

	if (w->rec[rec].kind == K_WRITE && world_now() - s->doubted_ns >= HEALTH_DOUBT_MS * MS) {
		machine_of(l->c)->doubtful = true;
	}
}

static void deliver(struct world *w, struct link *l)
{
	struct started s = l->work.queue[0];

	if (l->c->member->index == w->lead && s.at > w->promised) {
		w->promised = s.at;
	}
	pop(&l->work);
	show_tx(l);
	switch ((enum outcome)s.error) {
	case OUT_OK:
		request_done(head_of(l), 1);
		break;
	case OUT_READONLY:
		w->rec[s.rec].refused++;
		note_refusal(w, l, s.rec);
		fail_head(l, FAIL_DATABASE, "25006");
		break;
	case OUT_ABORTED:
		if (w->rec[s.rec].kind == K_COMMIT) {
			fail_head(l, FAIL_TX_ABORTED, "");
		} else {
			fail_head(l, FAIL_DATABASE, "25P02");
		}
		break;
	}
}

/* The head is ended by the cancel, if it is not done yet or waits for standbys. */
static void hit(struct world *w, struct link *l)
{
	struct started s = l->work.queue[0];
	const struct rec *r = &w->rec[s.rec];
	bool wanted = r->lease != NONE || r->cancel_asked || head_of(l)->session == NULL ||
		      (r->deadline_ns != 0 && r->deadline_ns <= world_now());

	must(w, wanted, "a cancel hits record %u, which is a stranger", s.rec);
	pop(&l->work);
	if (!s.done) {
		l->work.in_tx |= s.begins;
		if (r->kind == K_COMMIT) {
			end_tx(&l->work);
		}
		l->work.failed = l->work.in_tx;
	}
	show_tx(l);
	fail_head(l, s.done ? FAIL_OUTCOME_UNKNOWN : FAIL_CANCELLED, s.done ? "40003" : "57014");
}

static void lose(struct link *l)
{
	static const struct failure f = {.code = FAIL_UNAVAILABLE, .message = "connection lost"};

	memset(&l->work, 0, sizeof(l->work));
	l->cancel = l->reset = l->broken = false;
	l->state = LINK_CLOSED;
	conn_closed(l->c, &f);
}

static void end_connecting(struct link *l, const char *why)
{
	struct failure f = {.code = FAIL_UNAVAILABLE, .message = why};

	l->state = LINK_CLOSED;
	conn_closed(l->c, &f);
}

/* -- what a server does ------------------------------------------------------------------------ */

static bool work_on_head(struct world *w, struct machine *m, struct link *l)
{
	struct started *s = &l->work.queue[0];

	if (!s->done && l->cancel && w->rec[s->rec].kind != K_ROLLBACK && pick(2) == 0) {
		hit(w, l);
		return true;
	}
	if (!s->done) {
		execute(m, &l->work);
		return true;
	}
	if (m->cut) {
		return false;
	}
	if (is_safe(m, s->at)) {
		deliver(w, l);
		return true;
	}
	if (l->cancel) {
		hit(w, l);
		return true;
	}
	return false;
}

static bool work_on_link(struct world *w, struct machine *m, struct link *l)
{
	bool reached = m->running && !m->hung && !m->cut;

	if (l->state == LINK_CONNECTING && !m->cut && !m->running) {
		end_connecting(l, "connection refused");
	} else if (l->state == LINK_CONNECTING && reached) {
		l->state = LINK_OPEN;
		conn_ready(l->c);
	} else if (l->state == LINK_OPEN && !m->cut && (l->broken || !m->running)) {
		lose(l);
	} else if (l->state != LINK_OPEN || !m->running || m->hung || l->broken) {
		return false;
	} else if (l->work.n > 0 && work_on_head(w, m, l)) {
		return true;
	} else if (reached && l->cancel && (l->work.n == 0 || pick(2) == 0)) {
		l->cancel = false;
		conn_cancel_settled(l->c);
	} else if (reached && l->reset) {
		l->reset = false;
		end_tx(&l->work);
		show_tx(l);
		conn_reset_done(l->c, true);
	} else {
		return false;
	}
	return true;
}

bool db_work(struct world *w, unsigned machine, unsigned conn)
{
	struct link *l = &w->machine[machine].link[conn];

	if (l->state == LINK_CLOSING) {
		l->state = LINK_CLOSED;
		conn_closed(l->c, NULL);
		return true;
	}
	return work_on_link(w, &w->machine[machine], l);
}

void db_time_out(struct world *w)
{
	for (unsigned i = 0; i < MACHINES; i++) {
		for (unsigned k = 0; k < CONNS; k++) {
			struct link *l = &w->machine[i].link[k];

			if (l->state == LINK_CONNECTING &&
				world_now() - l->since_ns > CONNECT_MS * MS) {
				end_connecting(l, "connect_timeout");
			}
		}
	}
}

static uint64_t lsn_of(const struct world *w, uint32_t length)
{
	return w->lsn_base + LSN_STEP * (uint64_t)length;
}

void db_answer_probes(struct world *w)
{
	for (unsigned i = 0; i < MACHINES; i++) {
		struct machine *m = &w->machine[i];
		struct server *s = m->asked;
		struct probe_answer a = {.error = "connection refused"};

		if (s == NULL || m->cut || (m->running && m->hung)) {
			continue;
		}
		if (m->running) {
			a = (struct probe_answer){.ok = true,
				.role = m->primary ? ROLE_PRIMARY : ROLE_STANDBY,
				.writable = takes_writes(m),
				.timeline = m->timeline,
				.system_id = SYSTEM_ID,
				.lsn = lsn_of(w, db_visible(m))};
		}
		m->asked = NULL;
		m->doubtful = false;
		probe_answered(s, &a);
	}
}

bool db_replicate(struct world *w, unsigned machine, bool all)
{
	struct machine *m = &w->machine[machine], *up = &w->machine[m->upstream];
	uint32_t had = m->length, showed = m->replayed;

	if (m->primary || !m->running || m->hung) {
		return false;
	}
	while (up->running && !up->hung && up->primary && m->length < up->length) {
		m->history[m->length] = up->history[m->length];
		m->length++;
		m->timeline = up->timeline;
		if (!all) {
			break;
		}
	}
	if (!m->hold) {
		m->replayed = all || m->replayed == m->length ? m->length : m->replayed + 1;
	}
	return m->length != had || m->replayed != showed;
}

/* -- mishaps ----------------------------------------------------------------------------------- */

const char *db_mishap_name(enum mishap what)
{
	static const char *const names[] = {[CRASH] = "crashes",
		[START] = "starts",
		[HANG] = "hangs",
		[RESUME] = "goes on",
		[CUT] = "is cut off",
		[MEND] = "can be reached again",
		[PROMOTE] = "is promoted",
		[REJOIN] = "becomes a standby of the lead",
		[READ_ONLY] = "takes no writes",
		[WRITABLE] = "takes writes",
		[HOLD] = "stops to replay",
		[UNHOLD] = "replays again",
		[LOSE] = "loses a connection"};

	return names[what];
}

static void crash(struct machine *m)
{
	for (unsigned i = 0; i < CONNS; i++) {
		struct link *l = &m->link[i];

		if (l->state != LINK_OPEN || l->broken) {
			continue;
		}
		if (!m->hung && l->work.n > 0 && !l->work.queue[0].done && pick(2) == 0) {
			execute(m, &l->work);
		}
		l->broken = true;
	}
	m->running = m->hung = false;
	m->nghosts = 0;
}

static void resume(struct machine *m)
{
	m->hung = false;
	for (unsigned i = 0; i < m->nghosts; i++) {
		execute_unheard(m, &m->ghosts[i]);
	}
	m->nghosts = 0;
}

/* Does m have more than any other standby? */
static bool has_most(const struct world *w, const struct machine *m)
{
	for (unsigned i = 0; i < MACHINES; i++) {
		if (!w->machine[i].primary && w->machine[i].length > m->length) {
			return false;
		}
	}
	return true;
}

static bool promote(struct world *w, struct machine *m)
{
	struct machine *lead = &w->machine[w->lead];

	if (!w->plan.safe && lead->running && !lead->hung) { /* it must have ended */
		(void)db_replicate(w, (unsigned)(m - w->machine), true);
		crash(lead);
	}
	if (!m->running || m->hung || m->upstream != w->lead || !has_most(w, m) ||
		m->length < w->promised) {
		return false;
	}
	if (!w->plan.safe && (lead->running || m->length != lead->length)) {
		return false;
	}
	m->primary = true;
	m->hold = false;
	m->timeline = lead->timeline + 1;
	m->replayed = m->length;
	w->lead = (unsigned)(m - w->machine);
	append(m, NONE);
	w->promised = m->length;
	for (unsigned i = 0; i < MACHINES; i++) {
		w->machine[i].upstream = w->lead;
	}
	w->seen.failovers++;
	return true;
}

static bool rejoin(struct world *w, struct machine *m)
{
	const struct machine *lead = &w->machine[w->lead];
	uint32_t same = 0;

	if (m == lead || !m->primary) {
		return false;
	}
	crash(m);
	while (same < m->length && same < lead->length && m->history[same] == lead->history[same]) {
		same++;
	}
	m->primary = m->read_only = false;
	m->length = m->replayed = same;
	m->upstream = w->lead;
	m->timeline = lead->timeline;
	m->running = true;
	return true;
}

/* A zombie may come back only if the broker knows of its successor, unless it can do no harm. */
static bool may_start(const struct world *w, const struct machine *m)
{
	if (w->plan.safe || !m->primary || m == &w->machine[w->lead]) {
		return true;
	}
	return w->servers[w->lead]->state.timeline == w->machine[w->lead].timeline;
}

static bool lose_one(struct machine *m)
{
	struct link *l = &m->link[pick(CONNS)];

	if (l->state != LINK_OPEN || l->broken || !m->running || m->hung) {
		return false;
	}
	if (l->work.n > 0 && !l->work.queue[0].done && pick(2) == 0) {
		execute(m, &l->work);
	}
	l->broken = true;
	return true;
}

static bool set(bool *flag, bool value)
{
	bool changes = *flag != value;

	*flag = value;
	return changes;
}

bool db_mishap(struct world *w, enum mishap what, unsigned machine)
{
	struct machine *m = &w->machine[machine];

	switch (what) {
	case CRASH:
		if (!m->running) {
			return false;
		}
		crash(m);
		return true;
	case START:
		return !m->running && may_start(w, m) && set(&m->running, true);
	case HANG:
		return m->running && set(&m->hung, true);
	case RESUME:
		if (!m->hung) {
			return false;
		}
		resume(m);
		return true;
	case CUT:
		return set(&m->cut, true);
	case MEND:
		return set(&m->cut, false);
	case PROMOTE:
		return !m->primary && promote(w, m);
	case REJOIN:
		return rejoin(w, m);
	case READ_ONLY:
		return m->primary && set(&m->read_only, true);
	case WRITABLE:
		return set(&m->read_only, false);
	case HOLD:
		return !m->primary && set(&m->hold, true);
	case UNHOLD:
		return set(&m->hold, false);
	case LOSE:
		return lose_one(m);
	case MISHAPS:
		break;
	}
	return false;
}
