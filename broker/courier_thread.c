/* SPDX-License-Identifier: MIT */
/*
 * courier_thread.c - see courier.h and courier_core.h: the courier's thread.  It alone touches the
 * handle on the SQLite file and the connection to PostgreSQL.
 */
#include "courier_core.h"

#include "atomics.h"
#include "doorbell.h"
#include "journal.h"
#include "log.h"
#include "mirror.h"
#include "replay.h"

#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RETRY_MIN_NS 100000000u
#define RETRY_MAX_NS 5000000000u
#define MIRROR_RETRY_NS 1000000000u
#define STATEMENT_MS 25000 /* of a replay: ends before our patience does */
#define LOOK_MS 20 /* between looks for new rows at the end of the journal */
#define NEAR_ROWS 500 /* so few rows are replayed while the pool's writers wait */
#define ROUND_NS 1000000000u /* between looks whether they do not write too fast */
#define HOLD_MIN_NS 100000000u /* they wait so long at a time when they write too fast */
#define HOLD_MAX_NS 800000000u
#define HOLD_ROUNDS 10u
#define FREE_NS 25000000u /* between */
#define FORGET_ROWS 2000 /* replayed rows that are worth a transaction that deletes them */
#define FORGET_BUSY_NS UINT64_C(5000000) /* it can be done later as well */

/* -- orders ------------------------------------------------------------------------------------ */

/*
 * The loop: orders, then the eventfd, then `ordered`.  Here: `ordered`, the eventfd, then the
 * orders. So whenever the flag is set the eventfd was written before, and it is emptied with it or
 * after it: it is never readable for long without the flag, which would make us spin.
 */
static void take_orders(struct courier *c)
{
	uint64_t n;

	put(&c->ordered, 0);
	full_fence();
	(void)!read(c->wake, &n, sizeof(n));
	uv_mutex_lock(&c->lock);
	c->now = c->orders;
	uv_mutex_unlock(&c->lock);
}

/* Does what is under way have to end? */
bool courier_must_stop(void *arg)
{
	struct courier *c = arg;

	if (observe(&c->ordered) != 0) {
		take_orders(c);
	}
	if (c->now.stop || c->now.run != c->working.run) {
		return true;
	}
	return !c->replaying && c->now.mirror != c->working.mirror;
}

static void begin_work(struct courier *c, bool replaying)
{
	c->replaying = replaying;
	c->working = c->now;
}

/* Until there are orders, or the time is over. */
static void wait_orders(struct courier *c, uint64_t ns)
{
	struct pollfd p = {.fd = c->wake, .events = POLLIN};
	uint64_t ms = ns / 1000000u + 1;

	(void)poll(&p, 1, ms > INT32_MAX ? INT32_MAX : (int)ms);
}

/* -- news -------------------------------------------------------------------------------------- */

static struct news *news_begin(struct courier *c)
{
	uv_mutex_lock(&c->lock);
	return c->news;
}

static void news_end(struct courier *c)
{
	uv_mutex_unlock(&c->lock);
	uv_async_send(&c->async);
}

/* -- SQLite ------------------------------------------------------------------------------------ */

static int on_progress(void *arg)
{
	return courier_must_stop(arg);
}

static int on_busy(void *arg, int count)
{
	struct courier *c = arg;
	struct timespec ts = {.tv_nsec = count < 5 ? 1000000 : 10000000};
	uint64_t now = doorbell_now();

	if (count == 0) {
		c->busy_since_ns = now;
	}
	if (now - c->busy_since_ns >= c->busy_limit_ns || courier_must_stop(c)) {
		return 0;
	}
	nanosleep(&ts, NULL);
	return 1;
}

static void close_local(struct courier *c)
{
	replay_destroy(&c->replay);
	mirror_destroy(&c->mirrored);
	journal_close(&c->journal);
	sqlite3_close(c->db);
	c->db = NULL;
}

static int open_handle(struct courier *c, struct sqlite_failure *f)
{
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
		    SQLITE_OPEN_EXRESCODE;
	int rc = sqlite3_open_v2(c->path, &c->db, flags, NULL);

	if (rc == SQLITE_OK) {
		sqlite3_busy_handler(c->db, on_busy, c);
		/* What a copy must not set off. */
		(void)sqlite3_db_config(c->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
		(void)sqlite3_db_config(c->db, SQLITE_DBCONFIG_ENABLE_FKEY, 0, NULL);
		rc = sqlite3_exec(c->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", NULL,
			NULL, NULL);
	}
	if (rc != SQLITE_OK) {
		sqlite_failure_from(f, c->db, rc);
		return -1;
	}
	sqlite3_progress_handler(c->db, 4000, on_progress, c);
	return 0;
}

static int open_local(struct courier *c, struct sqlite_failure *f)
{
	if (c->db != NULL) {
		return 0;
	}
	if (open_handle(c, f) < 0 ||
		(c->tail != NULL && journal_open(c->db, c->pool, NULL, &c->journal, f) < 0)) {
		close_local(c);
		return -1;
	}
	if (c->journal != NULL) {
		c->replay = replay_create(&c->pg, c->journal);
	}
	if (c->nmirror > 0) {
		c->mirrored = mirror_create(c->db, c->mirror, c->nmirror);
	}
	if ((c->journal != NULL && c->replay == NULL) || (c->nmirror > 0 && c->mirrored == NULL)) {
		sqlite_failure_set(f, FAIL_MEMORY, "53200", "out of memory");
		close_local(c);
		return -1;
	}
	return 0;
}

/* -- PostgreSQL -------------------------------------------------------------------------------- */

static int connect_to(struct courier *c, unsigned server, int64_t statement_ms)
{
	struct target *t = &c->targets[server];

	c->pg.stopped = false;
	if (!t->is_pg) {
		snprintf(
			c->pg.why, sizeof(c->pg.why), "server %s is no PostgreSQL server", t->name);
		c->pg.sqlstate[0] = '\0';
		return -1;
	}
	return pgcall_connect(
		&c->pg, &t->address, (uint64_t)t->connect_timeout * 1000000u, statement_ms);
}

/* -- replay ------------------------------------------------------------------------------------ */

/* The same failure again and again is one line. */
static void log_failure(struct courier *c, const struct courier_failure *f)
{
	if (strcmp(c->last_failure, f->text) != 0) {
		log_warning("pool %s: the journal cannot be replayed into server %s: %s%s%s%s",
			c->pool, c->targets[c->working.server].name, f->text,
			f->sqlstate[0] != '\0' ? " (" : "", f->sqlstate,
			f->sqlstate[0] != '\0' ? ")" : "");
		snprintf(c->last_failure, sizeof(c->last_failure), "%s", f->text);
	}
}

static void end_failed(struct courier *c, const struct courier_failure *f)
{
	struct news *n;

	if (courier_must_stop(c)) {
		return; /* that is why */
	}
	log_failure(c, f);
	c->ended_run = c->working.run;
	c->retry_ns = c->retry_ns == 0 ? RETRY_MIN_NS : c->retry_ns * 2;
	c->retry_ns = c->retry_ns > RETRY_MAX_NS ? RETRY_MAX_NS : c->retry_ns;
	c->retry_at_ns = doorbell_now() + c->retry_ns;
	n = news_begin(c);
	n->failed_run = c->working.run;
	n->failure = *f;
	news_end(c);
}

static void end_failed_text(struct courier *c, const char *sqlstate, const char *text)
{
	struct courier_failure f;

	snprintf(f.sqlstate, sizeof(f.sqlstate), "%s", sqlstate);
	snprintf(f.text, sizeof(f.text), "%.479s", text);
	end_failed(c, &f);
}

static void log_conflict(struct courier *c, const struct courier_conflict *conflict)
{
	if (++c->nlogged > COURIER_TOLD_CONFLICTS) {
		return;
	}
	log_warning("pool %s: a write accepted while PostgreSQL was away was set aside in "
		    "broker_conflict: number %" PRId64 ", %" PRIu64 " statement%s: %s%s%s%s",
		c->pool, conflict->id, conflict->statements, conflict->statements == 1 ? "" : "s",
		conflict->text, conflict->sqlstate[0] != '\0' ? " (" : "", conflict->sqlstate,
		conflict->sqlstate[0] != '\0' ? ")" : "");
	if (c->nlogged == COURIER_TOLD_CONFLICTS) {
		log_warning("pool %s: more conflicts of this replay are not logged", c->pool);
	}
}

/* After a pass, or the first look at the position. */
static void tell_progress(struct courier *c)
{
	const struct courier_conflict *list;
	unsigned naside = replay_aside(c->replay, &list), done = replay_done(c->replay);
	struct news *n;

	if (done > 0 || naside > 0) {
		c->retry_ns = 0;
		c->last_failure[0] = '\0';
	}
	c->replays += done;
	c->set_aside += naside;
	for (unsigned i = 0; i < naside; i++) {
		log_conflict(c, &list[i]);
	}
	n = news_begin(c);
	n->position = replay_position(c->replay);
	n->replayed = c->replays;
	n->conflicts = c->set_aside;
	for (unsigned i = 0; i < naside && n->nconflicts < COURIER_TOLD_CONFLICTS; i++) {
		n->conflict[n->nconflicts++] = list[i];
	}
	news_end(c);
}

static void tell_hold(struct courier *c, bool hold)
{
	news_begin(c)->hold_run = hold ? c->working.run : 0;
	news_end(c);
}

static void tell_near(struct courier *c)
{
	news_begin(c)->near_run = c->working.run;
	news_end(c);
}

static void end_caught_up(struct courier *c)
{
	log_info("pool %s: the journal is replayed into server %s: %" PRIu64
		 " transactions since the start, %" PRIu64 " set aside",
		c->pool, c->targets[c->working.server].name, c->replays, c->set_aside);
	c->ended_run = c->working.run;
	news_begin(c)->caught_run = c->working.run;
	news_end(c);
	c->next_mirror_ns = 0;
}

static int begin_replay(struct courier *c)
{
	struct sqlite_failure f;

	if (open_local(c, &f) < 0) {
		end_failed_text(c, f.sqlstate, f.message);
		return -1;
	}
	if (c->replay == NULL) {
		end_failed_text(c, "", "the pool keeps no journal");
		return -1;
	}
	if (connect_to(c, c->working.server, STATEMENT_MS) < 0) {
		end_failed_text(c, c->pg.sqlstate, c->pg.why);
		return -1;
	}
	if (replay_begin(c->replay) < 0) {
		end_failed(c, replay_failure(c->replay));
		return -1;
	}
	c->nlogged = 0;
	c->forgotten = replay_position(c->replay);
	tell_progress(c);
	log_info("pool %s: replaying the journal into server %s", c->pool,
		c->targets[c->working.server].name);
	return 0;
}

/* Delete what was replayed; limit_ns: how long to wait for another writer.  false: failed. */
static bool forget(struct courier *c, uint64_t limit_ns)
{
	int rc;

	c->busy_limit_ns = limit_ns;
	rc = replay_forget(c->replay);
	c->busy_limit_ns = COURIER_BUSY_NS;
	c->forgotten = replay_position(c->replay);
	if (rc < 0) {
		end_failed(c, replay_failure(c->replay));
	}
	return rc == 0;
}

/* The last row there is, at least the position; -1: cannot be told now. */
static int64_t last_row(struct courier *c)
{
	int64_t first, last, ever;
	struct sqlite_failure ignored; /* the next pass tells */

	if (journal_extent(c->journal, &first, &last, &ever, &ignored) < 0) {
		return -1;
	}
	return last > replay_position(c->replay) ? last : replay_position(c->replay);
}

/*
 * The end is near when little is left.  A round lasts until what was there at its beginning is
 * replayed, ROUND_NS at most, and no more than half as many rows may come in it as are replayed. If
 * the pool writes faster, its writes are held for hold_ns in each hold_ns + FREE_NS: short waits
 * for all instead of a long one at the end.  If that is not enough it is doubled, up to
 * HOLD_MAX_NS; if then as much comes as is replayed, HOLD_ROUNDS in a row, they have to wait for
 * the whole rest.
 */
struct rounds {
	int64_t position, last; /* at the beginning of this one */
	uint64_t began_ns; /* 0: it is the first */
	bool told;
	uint64_t hold_ns; /* 0: writes are not held */
	unsigned vain; /* so many rounds in a row it was no use, though hold_ns was the longest */
	bool held;
	uint64_t since_ns; /* of held */
};

static void hold_writes(struct courier *c, struct rounds *r)
{
	uint64_t now = doorbell_now();

	if (r->hold_ns == 0 || r->told ||
		now - r->since_ns < (r->held ? r->hold_ns : (uint64_t)FREE_NS)) {
		return;
	}
	r->held = !r->held;
	r->since_ns = now;
	tell_hold(c, r->held);
}

/* At the end of a round.  false: it is no use. */
static bool keep_ahead(struct rounds *r, int64_t replayed, int64_t written)
{
	if (written <= replayed / 2) {
		return true;
	}
	if (r->hold_ns < HOLD_MAX_NS) {
		r->hold_ns = r->hold_ns == 0 ? HOLD_MIN_NS : r->hold_ns * 2;
		return true;
	}
	r->vain = written < replayed ? 0 : r->vain + 1;
	return r->vain < HOLD_ROUNDS;
}

static void look_for_end(struct courier *c, struct rounds *r, bool at_end)
{
	int64_t position = replay_position(c->replay), last;
	uint64_t now = doorbell_now();
	bool first = r->began_ns == 0, over = position >= r->last || now - r->began_ns >= ROUND_NS;

	/* Where nothing is replayed, holding would not help. */
	if (r->told || (!at_end && (!over || (!first && position == r->position)))) {
		return;
	}
	last = last_row(c);
	if (last < 0) {
		return;
	}
	if (at_end || last - position <= NEAR_ROWS ||
		(!first && !keep_ahead(r, position - r->position, last - r->last))) {
		r->told = true;
		tell_near(c);
	}
	r->position = position;
	r->last = last;
	r->began_ns = now;
}

static void replay_loop(struct courier *c)
{
	struct rounds rounds = {0};

	while (!courier_must_stop(c)) {
		bool drain = c->now.drain; /* as it was before the pass */
		int64_t before = replay_position(c->replay);
		enum replay_result res = replay_pass(c->replay);

		if (replay_position(c->replay) != before) {
			tell_progress(c);
		}
		if (res == REPLAY_FAILED) {
			end_failed(c, replay_failure(c->replay));
			return;
		}
		if (res == REPLAY_END && drain) {
			if (forget(c, COURIER_BUSY_NS)) {
				end_caught_up(c);
			}
			return;
		}
		if (replay_position(c->replay) - c->forgotten >= FORGET_ROWS &&
			!forget(c, FORGET_BUSY_NS)) {
			return;
		}
		look_for_end(c, &rounds, res == REPLAY_END);
		hold_writes(c, &rounds);
		if (res == REPLAY_END && !c->now.drain) {
			wait_orders(c, UINT64_C(1000000) * LOOK_MS);
		}
	}
}

static void replay_journal(struct courier *c)
{
	begin_work(c, true);
	if (begin_replay(c) == 0) {
		replay_loop(c);
	}
	pgcall_close(&c->pg);
}

/* -- mirror ------------------------------------------------------------------------------------ */

static void tell_mirror(struct courier *c, const struct courier_failure *f)
{
	struct news *n;

	if (f != NULL && strcmp(c->mirror_why, f->text) != 0) {
		log_warning("pool %s: the mirror cannot be refreshed from server %s: %s", c->pool,
			c->targets[c->working.mirror].name, f->text);
	}
	snprintf(c->mirror_why, sizeof(c->mirror_why), "%s", f != NULL ? f->text : "");
	if (f != NULL) {
		c->mirror_told = false;
	}
	n = news_begin(c);
	memcpy(n->mirror_error, c->mirror_why, sizeof(n->mirror_error));
	if (f == NULL) {
		n->mirrored_at = mirror_copied_at(c->mirrored);
	}
	news_end(c);
}

static void tell_mirror_text(struct courier *c, const char *text)
{
	struct courier_failure f = {.sqlstate = ""};

	snprintf(f.text, sizeof(f.text), "%.479s", text);
	tell_mirror(c, &f);
}

/* false: failed, and said so. */
static bool refresh(struct courier *c)
{
	struct sqlite_failure f;
	uint64_t since = doorbell_now();

	if (open_local(c, &f) < 0) {
		tell_mirror_text(c, f.message);
		return false;
	}
	/* Rows that a replay has left that was halted at its end would hold the mirror for ever. */
	if (c->replay != NULL && replay_forget(c->replay) < 0) {
		if (!courier_must_stop(c)) {
			tell_mirror(c, replay_failure(c->replay));
		}
		return false;
	}
	/* A large table takes its time; our patience with a silent server ends it. */
	if (connect_to(c, (unsigned)c->working.mirror, 0) < 0) {
		if (!courier_must_stop(c)) {
			tell_mirror_text(c, c->pg.why);
		}
		return false;
	}
	switch (mirror_refresh(c->mirrored, &c->pg)) {
	case MIRROR_FAILED:
		if (!courier_must_stop(c)) {
			tell_mirror(c, mirror_failure(c->mirrored));
		}
		return false;
	case MIRROR_DONE:
		tell_mirror(c, NULL);
		if (!c->mirror_told) {
			log_info("pool %s: tables are mirrored from server %s", c->pool,
				c->targets[c->working.mirror].name);
			c->mirror_told = true;
		}
		log_debug("pool %s: mirror refreshed from server %s: rows=%" PRIu64
			  " changed=%" PRIu64 " ms=%" PRIu64,
			c->pool, c->targets[c->working.mirror].name, mirror_rows(c->mirrored),
			mirror_changed(c->mirrored), (doorbell_now() - since) / 1000000u);
		break;
	case MIRROR_HELD:
		break;
	}
	return true;
}

static void refresh_mirror(struct courier *c)
{
	uint64_t now = doorbell_now(), pause = c->mirror_interval_ns;

	begin_work(c, false);
	if (!refresh(c) && pause > MIRROR_RETRY_NS) {
		pause = MIRROR_RETRY_NS;
	}
	pgcall_close(&c->pg);
	c->next_mirror_ns = now + pause;
}

/* The age of the copies that an earlier broker has left. */
static void look_at_mirror(struct courier *c)
{
	struct sqlite_failure ignored; /* the first refresh says it */

	begin_work(c, false);
	if (c->nmirror > 0 && open_local(c, &ignored) == 0 && mirror_copied_at(c->mirrored) != 0) {
		tell_mirror(c, NULL);
	}
}

/* -- the thread -------------------------------------------------------------------------------- */

/* Nanoseconds until the next thing is due; 0: now. */
static uint64_t until(uint64_t when, uint64_t now)
{
	return when > now ? when - now : 0;
}

static void work(struct courier *c)
{
	uint64_t now = doorbell_now(), wait = UINT64_C(60000000000), replay = wait, mirror = wait;

	if (c->now.server != COURIER_NO_SERVER && c->now.run != c->ended_run) {
		replay = until(c->retry_at_ns, now);
	} else if (c->nmirror > 0 && c->now.mirror >= 0) {
		mirror = until(c->next_mirror_ns, now);
	}
	if (replay == 0) {
		replay_journal(c);
	} else if (mirror == 0) {
		refresh_mirror(c);
	} else {
		wait = replay < wait ? replay : wait;
		wait_orders(c, mirror < wait ? mirror : wait);
	}
}

void courier_thread_main(void *arg)
{
	struct courier *c = arg;

	(void)pthread_setname_np(pthread_self(), "courier");
	take_orders(c);
	look_at_mirror(c);
	while (!c->now.stop) {
		work(c);
		take_orders(c);
	}
	pgcall_finish(&c->pg);
	close_local(c);
	news_begin(c)->exited = true;
	news_end(c); /* the last touch: the loop joins before it closes the handle */
}
