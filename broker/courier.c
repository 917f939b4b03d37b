/* SPDX-License-Identifier: MIT */
/*
 * courier.c - see courier.h: the thread, and what passes between it and the loop.
 *
 * Life:  RUNNING --courier_destroy--> the thread ends what it does --> exited --> joined, freed
 */
#include "courier.h"

#include "atomics.h"
#include "doorbell.h"
#include "journal.h"
#include "log.h"
#include "mirror.h"
#include "pgcall.h"
#include "replay.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define NO_SERVER UINT32_MAX
#define RETRY_MIN_NS 100000000u
#define RETRY_MAX_NS 5000000000u
#define MIRROR_RETRY_NS 1000000000u
#define PATIENCE_NS 30000000000u /* the server is silent while it owes an answer */
#define STATEMENT_MS 25000 /* of a replay: ends before our patience does */
#define LOOK_MS 20 /* between looks for new rows at the end of the journal */
#define NEAR_ROWS 500 /* so few rows are replayed while the pool's writers wait */
#define ROUND_NS 1000000000u /* between looks whether they do not write too fast */
#define HOLD_MIN_NS 100000000u /* they wait so long at a time when they write too fast */
#define HOLD_MAX_NS 800000000u
#define HOLD_ROUNDS 10u
#define FREE_NS 25000000u /* between */
#define BUSY_NS UINT64_C(2000000000) /* longest wait for another writer of the file */
#define FORGET_ROWS 2000 /* replayed rows that are worth a transaction that deletes them */
#define FORGET_BUSY_NS UINT64_C(5000000) /* it can be done later as well */
#define TOLD_CONFLICTS 100u /* most that wait for the loop, the others are only counted */

/* What the loop wants. */
struct orders {
	uint64_t run; /* number of the replay; another number: another replay */
	unsigned server; /* to replay into, or NO_SERVER */
	bool drain;
	int mirror; /* to copy from, or -1 */
	bool stop;
};

/* What the thread has to say.  Runs are numbers of the replay that has come so far. */
struct news {
	uint64_t hold_run; /* writes are to wait; 0: no */
	uint64_t near_run, caught_run, failed_run;
	struct courier_failure failure;
	int64_t position;
	uint64_t replayed, conflicts;
	int64_t mirrored_at;
	char mirror_error[sizeof(((struct courier_failure *)0)->text)];
	unsigned nconflicts;
	struct courier_conflict conflict[TOLD_CONFLICTS];
	bool exited;
};

struct target {
	char *name;
	bool is_pg;
	struct pg_address address;
	int64_t connect_timeout;
};

struct courier {
	/* set before the thread starts */
	char *pool, *path;
	const struct journal_tail *tail;
	struct target *targets;
	unsigned ntargets;
	char **mirror;
	unsigned nmirror;
	uint64_t mirror_interval_ns;
	struct courier_events events;
	void *arg;
	int wake; /* eventfd: the loop has new orders */

	/* I/O thread */
	uv_async_t async;
	uv_thread_t thread;
	struct orders wanted;
	uint64_t near_told, ended_told; /* runs */
	bool holding; /* told so */
	int64_t position;
	uint64_t last_seen; /* highest id when the courier was made */
	uint64_t replayed, conflicts;
	int64_t mirrored_at;
	char mirror_error[sizeof(((struct courier_failure *)0)->text)];
	struct news *shown; /* copy under work */
	bool closing;
	void (*gone)(void *arg);
	void *gone_arg;

	/* both, under the lock */
	uv_mutex_t lock;
	struct orders orders;
	struct news *news;

	_Atomic int ordered; /* see take_orders */

	/* courier's thread */
	struct orders now;
	uint64_t ended_run;
	uint64_t retry_ns, retry_at_ns;
	char last_failure[sizeof(((struct courier_failure *)0)->text)];
	sqlite3 *db;
	struct journal *journal;
	struct replay *replay;
	struct mirror *mirrored;
	struct pgcall pg;
	bool replaying; /* else mirroring: what the orders are compared with */
	struct orders working;
	uint64_t busy_since_ns, busy_limit_ns;
	int64_t forgotten; /* position when the file was last rid of replayed rows */
	uint64_t next_mirror_ns;
	unsigned nlogged; /* conflicts of this replay */
	uint64_t replays, set_aside; /* since the start */
	char mirror_why[sizeof(
		((struct courier_failure *)0)->text)]; /* last failure of the mirror */
	bool mirror_told; /* the log says that the mirror is there */
};

/* -- the thread: orders ------------------------------------------------------------------------ */

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
static bool must_stop(void *arg)
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

/* -- the thread: news -------------------------------------------------------------------------- */

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

/* -- the thread: SQLite ------------------------------------------------------------------------ */

static int on_progress(void *arg)
{
	return must_stop(arg);
}

static int on_busy(void *arg, int count)
{
	struct courier *c = arg;
	struct timespec ts = {.tv_nsec = count < 5 ? 1000000 : 10000000};
	uint64_t now = doorbell_now();

	if (count == 0) {
		c->busy_since_ns = now;
	}
	if (now - c->busy_since_ns >= c->busy_limit_ns || must_stop(c)) {
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

/* -- the thread: PostgreSQL -------------------------------------------------------------------- */

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

/* -- the thread: replay ------------------------------------------------------------------------ */

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

	if (must_stop(c)) {
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
	if (++c->nlogged > TOLD_CONFLICTS) {
		return;
	}
	log_warning("pool %s: a write accepted while PostgreSQL was away was set aside in "
		    "broker_conflict: number %" PRId64 ", %" PRIu64 " statement%s: %s%s%s%s",
		c->pool, conflict->id, conflict->statements, conflict->statements == 1 ? "" : "s",
		conflict->text, conflict->sqlstate[0] != '\0' ? " (" : "", conflict->sqlstate,
		conflict->sqlstate[0] != '\0' ? ")" : "");
	if (c->nlogged == TOLD_CONFLICTS) {
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
	for (unsigned i = 0; i < naside && n->nconflicts < TOLD_CONFLICTS; i++) {
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
	c->busy_limit_ns = BUSY_NS;
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

	while (!must_stop(c)) {
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
			if (forget(c, BUSY_NS)) {
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

/* -- the thread: mirror ------------------------------------------------------------------------ */

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
		if (!must_stop(c)) {
			tell_mirror(c, replay_failure(c->replay));
		}
		return false;
	}
	/* A large table takes its time; our patience with a silent server ends it. */
	if (connect_to(c, (unsigned)c->working.mirror, 0) < 0) {
		if (!must_stop(c)) {
			tell_mirror_text(c, c->pg.why);
		}
		return false;
	}
	switch (mirror_refresh(c->mirrored, &c->pg)) {
	case MIRROR_FAILED:
		if (!must_stop(c)) {
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

	if (c->now.server != NO_SERVER && c->now.run != c->ended_run) {
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

static void thread_main(void *arg)
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

/* -- I/O thread: news -------------------------------------------------------------------------- */

static void free_courier(struct courier *c)
{
	for (unsigned i = 0; i < c->ntargets; i++) {
		free(c->targets[i].name);
		pg_address_finish(&c->targets[i].address);
	}
	for (unsigned i = 0; i < c->nmirror; i++) {
		free(c->mirror[i]);
	}
	if (c->wake >= 0) {
		close(c->wake);
	}
	free(c->targets);
	free(c->mirror);
	free(c->pool);
	free(c->path);
	free(c->news);
	free(c->shown);
	free(c);
}

static void on_async_closed(uv_handle_t *h)
{
	struct courier *c = h->data;
	void (*gone)(void *arg) = c->gone;
	void *arg = c->gone_arg;

	uv_mutex_destroy(&c->lock);
	free_courier(c);
	if (gone != NULL) {
		gone(arg);
	}
}

static void copy_news(struct courier *c)
{
	const struct news *s = c->shown;

	uv_mutex_lock(&c->lock);
	*c->shown = *c->news;
	c->news->nconflicts = 0;
	uv_mutex_unlock(&c->lock);
	/* Numbers only grow; what a server knows of them may be less (a promoted standby). */
	c->position = s->position > c->position ? s->position : c->position;
	c->replayed = s->replayed;
	c->conflicts = s->conflicts;
	c->mirrored_at = s->mirrored_at;
	memcpy(c->mirror_error, s->mirror_error, sizeof(c->mirror_error));
}

/* The replay that is wanted has come to an end; the callback may want the next. */
static void tell_end(struct courier *c)
{
	const struct news *s = c->shown;
	uint64_t run = c->wanted.run;

	if (c->closing || c->wanted.server == NO_SERVER || c->ended_told == run) {
		return;
	}
	if (s->caught_run == run) {
		/* Nothing was written meanwhile: what is there is what was replayed. */
		c->position += (int64_t)courier_pending(c);
		c->ended_told = run;
		c->events.caught_up(c->arg);
	} else if (s->failed_run == run) {
		c->ended_told = run;
		c->events.failed(c->arg, &s->failure);
	}
}

/* How the replay that is wanted goes, before its end. */
static void tell_course(struct courier *c)
{
	const struct news *s = c->shown;
	uint64_t run = c->wanted.run;

	if (c->closing || c->wanted.server == NO_SERVER || c->near_told == run) {
		return;
	}
	if (s->near_run == run) {
		c->near_told = run;
		c->events.near_end(c->arg);
	} else if ((s->hold_run == run) != c->holding) {
		c->holding = !c->holding;
		c->events.hold(c->arg, c->holding);
	}
}

static void on_async(uv_async_t *h)
{
	struct courier *c = h->data;
	bool exited;

	copy_news(c);
	exited = c->shown->exited;
	for (unsigned i = 0; i < c->shown->nconflicts && !c->closing; i++) {
		c->events.conflict(c->arg, &c->shown->conflict[i]);
	}
	tell_course(c);
	tell_end(c);
	if (exited) {
		uv_thread_join(&c->thread);
		uv_close((uv_handle_t *)&c->async, on_async_closed);
	}
}

/* -- I/O thread: orders ------------------------------------------------------------------------ */

static void send_orders(struct courier *c)
{
	static const uint64_t one = 1;

	uv_mutex_lock(&c->lock);
	c->orders = c->wanted;
	uv_mutex_unlock(&c->lock);
	(void)!write(c->wake, &one, sizeof(one)); /* full: it is readable, which is the point */
	publish(&c->ordered, 1);
}

void courier_replay(struct courier *c, unsigned server)
{
	check(server < c->ntargets);
	if (c->wanted.server == server && c->ended_told != c->wanted.run) {
		return;
	}
	c->wanted.run++;
	c->wanted.server = server;
	c->wanted.drain = false;
	c->holding = false;
	send_orders(c);
}

void courier_drain(struct courier *c)
{
	if (!c->wanted.drain) {
		c->wanted.drain = true;
		send_orders(c);
	}
}

void courier_halt(struct courier *c)
{
	if (c->wanted.server != NO_SERVER) {
		c->wanted.run++;
		c->wanted.server = NO_SERVER;
		c->wanted.drain = false;
		send_orders(c);
	}
}

void courier_mirror(struct courier *c, int server)
{
	check(server < (int)c->ntargets);
	if (c->wanted.mirror != server) {
		c->wanted.mirror = server;
		send_orders(c);
	}
}

uint64_t courier_pending(const struct courier *c)
{
	uint64_t last = c->last_seen;

	if (c->tail != NULL && observe(&c->tail->last) > last) {
		last = observe(&c->tail->last);
	}
	return last > (uint64_t)c->position ? last - (uint64_t)c->position : 0;
}

uint64_t courier_replayed(const struct courier *c)
{
	return c->replayed;
}

uint64_t courier_conflicts(const struct courier *c)
{
	return c->conflicts;
}

int64_t courier_mirrored_at(const struct courier *c)
{
	return c->mirrored_at;
}

const char *courier_mirror_error(const struct courier *c)
{
	return c->mirror_error;
}

/* -- I/O thread: life -------------------------------------------------------------------------- */

static bool copy_targets(struct courier *c, const struct courier_options *opt)
{
	c->targets = calloc(opt->nservers, sizeof(*c->targets));
	if (c->targets == NULL) {
		return false;
	}
	for (unsigned i = 0; i < opt->nservers; i++) {
		struct target *t = &c->targets[c->ntargets++];

		t->connect_timeout = opt->servers[i].connect_timeout;
		t->is_pg = opt->servers[i].pg != NULL;
		t->name = strdup(opt->servers[i].name);
		if (t->name == NULL ||
			(t->is_pg && pg_address_copy(opt->servers[i].pg, &t->address) < 0)) {
			return false;
		}
	}
	return true;
}

static bool copy_mirror(struct courier *c, const struct courier_options *opt)
{
	c->mirror = calloc(opt->nmirror + 1, sizeof(*c->mirror));
	if (c->mirror == NULL) {
		return false;
	}
	for (unsigned i = 0; i < opt->nmirror; i++) {
		c->mirror[c->nmirror++] = strdup(opt->mirror[i]);
		if (c->mirror[i] == NULL) {
			return false;
		}
	}
	return true;
}

static bool copy_options(struct courier *c, const struct courier_options *opt)
{
	c->tail = opt->tail;
	c->mirror_interval_ns = opt->mirror_interval_ns;
	c->events = opt->events;
	c->arg = opt->arg;
	c->wanted.server = NO_SERVER;
	c->wanted.mirror = -1;
	c->orders = c->now = c->wanted;
	c->pg.stop = must_stop;
	c->pg.arg = c;
	c->pg.patience_ns = PATIENCE_NS;
	c->busy_limit_ns = BUSY_NS;
	c->pool = strdup(opt->pool);
	c->path = strdup(opt->path);
	c->news = calloc(1, sizeof(*c->news));
	c->shown = calloc(1, sizeof(*c->shown));
	c->wake = c->pg.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return c->pool != NULL && c->path != NULL && c->news != NULL && c->shown != NULL &&
	       c->wake >= 0 && copy_targets(c, opt) && copy_mirror(c, opt);
}

static int look_for_rows(struct courier *c, char *err, size_t errlen)
{
	int64_t before, last;
	struct sqlite_failure f;

	if (c->tail == NULL) {
		return 0;
	}
	if (journal_look(c->path, c->pool, &before, &last, &f) < 0) {
		snprintf(err, errlen, "%s: the journal cannot be read: %s", c->path, f.message);
		return -1;
	}
	c->position = c->news->position = before;
	c->last_seen = (uint64_t)last;
	return 0;
}

/* Signals are the loop's business. */
static int start_thread(struct courier *c)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = uv_thread_create(&c->thread, thread_main, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

int courier_create(
	const struct courier_options *opt, struct courier **out, char *err, size_t errlen)
{
	struct courier *c = calloc(1, sizeof(*c));
	int rc;

	if (c == NULL || !copy_options(c, opt)) {
		snprintf(err, errlen, "out of memory or descriptors");
		goto err_free;
	}
	if (look_for_rows(c, err, errlen) < 0) {
		goto err_free;
	}
	if (uv_mutex_init(&c->lock) < 0) {
		snprintf(err, errlen, "out of memory");
		goto err_free;
	}
	rc = uv_async_init(opt->loop, &c->async, on_async);
	if (rc < 0) {
		snprintf(err, errlen, "%s", uv_strerror(rc));
		uv_mutex_destroy(&c->lock);
		goto err_free;
	}
	c->async.data = c;
	rc = start_thread(c);
	if (rc < 0) {
		snprintf(err, errlen, "cannot start a thread: %s", uv_strerror(rc));
		uv_close((uv_handle_t *)&c->async, on_async_closed);
		return -1;
	}
	*out = c;
	return 0;

err_free:
	if (c != NULL) {
		free_courier(c);
	}
	return -1;
}

void courier_destroy(struct courier **c, void (*gone)(void *arg), void *arg)
{
	struct courier *it = *c;

	*c = NULL;
	if (it == NULL) {
		return;
	}
	it->closing = true;
	it->gone = gone;
	it->gone_arg = arg;
	it->wanted.stop = true;
	send_orders(it);
}
