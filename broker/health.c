/* SPDX-License-Identifier: MIT */
/* health.c - see server.h: when servers are probed, and what follows from the answers. */
#include "board.h"
#include "config.h"
#include "driver.h"
#include "io.h"
#include "log.h"
#include "server.h"

#include <stdio.h>
#include <string.h>

#define MS UINT64_C(1000000)
/* A timer that is so late was held up by ourselves. */
#define STALL_MS 100u

static const char *role_name(const struct server_state *s)
{
	switch (s->role) {
	case ROLE_PRIMARY:
		return s->writable ? "primary" : "primary that takes no writes";
	case ROLE_STANDBY:
		return "standby";
	case ROLE_LOCAL:
		return "local";
	case ROLE_UNKNOWN:
		break;
	}
	return "unknown";
}

/* -- verdict and role -------------------------------------------------------------------------- */

static void tell_verdict(const struct server *s)
{
	const char *name = s->config->name, *role = role_name(&s->state);

	switch (s->state.verdict) {
	case VERDICT_UP:
		log_info("server %s: up, %s, timeline %u, answers in %.1f ms", name, role,
			s->state.timeline, (double)s->latency_ns / 1e6);
		board_event(s->io->board, BOARD_EVENT_SERVER_UP, "server %s: up, %s", name, role);
		break;
	case VERDICT_SUSPECT:
		log_warning("server %s: suspect: %s", name, s->last_error);
		break;
	case VERDICT_DOWN:
		log_warning("server %s: down after %u failed %s: %s", name, s->failed,
			s->failed == 1 ? "probe" : "probes", s->last_error);
		board_event(s->io->board, BOARD_EVENT_SERVER_DOWN, "server %s: down: %s", name,
			s->last_error);
		break;
	case VERDICT_RECOVERING:
		log_info(
			"server %s: answers again, %s, timeline %u", name, role, s->state.timeline);
		break;
	case VERDICT_UNKNOWN:
		break;
	}
}

static void set_verdict(struct server *s, enum verdict verdict)
{
	if (s->state.verdict != verdict) {
		s->state.verdict = verdict;
		s->since_ns = io_now(s->io);
		tell_verdict(s);
	}
}

static enum verdict verdict_after_success(const struct server *s)
{
	switch (s->state.verdict) {
	case VERDICT_UNKNOWN:
	case VERDICT_UP:
	case VERDICT_SUSPECT:
		return VERDICT_UP;
	case VERDICT_DOWN:
	case VERDICT_RECOVERING:
		break;
	}
	return s->succeeded >= s->config->health_up_after ? VERDICT_UP : VERDICT_RECOVERING;
}

static enum verdict verdict_after_failure(const struct server *s)
{
	bool enough = s->permanent || s->failed >= s->config->health_down_after;

	switch (s->state.verdict) {
	case VERDICT_UNKNOWN:
		return enough ? VERDICT_DOWN : VERDICT_UNKNOWN;
	case VERDICT_UP:
	case VERDICT_SUSPECT:
		return enough ? VERDICT_DOWN : VERDICT_SUSPECT;
	case VERDICT_DOWN:
	case VERDICT_RECOVERING:
		break;
	}
	return VERDICT_DOWN;
}

/* Once per change; a doubt that proves unfounded is none. */
static void tell_role(struct server *s)
{
	const struct server_state *now = &s->state;
	struct server_state *told = &s->told;

	if (told->role != ROLE_UNKNOWN && now->role != ROLE_UNKNOWN &&
		(told->role != now->role || told->writable != now->writable ||
			told->timeline != now->timeline)) {
		log_info("server %s: was %s, timeline %u; is %s, timeline %u", s->config->name,
			role_name(told), told->timeline, role_name(now), now->timeline);
		board_event(s->io->board, BOARD_EVENT_ROLE, "server %s: was %s, is %s",
			s->config->name, role_name(told), role_name(now));
	}
	if (now->role != ROLE_UNKNOWN) {
		*told = *now;
	}
}

static bool same_state(const struct server_state *a, const struct server_state *b)
{
	return a->verdict == b->verdict && a->role == b->role && a->writable == b->writable &&
	       a->timeline == b->timeline && a->lag_ns == b->lag_ns;
}

/* -- servers of one cluster -------------------------------------------------------------------- */

static bool same_cluster(const struct server *a, const struct server *b)
{
	return b != NULL && a != b && a->system_id == b->system_id;
}

/* The highest timeline that any of its servers was seen on. */
static uint32_t newest_timeline(const struct server *s)
{
	uint32_t newest = s->state.timeline;

	for (unsigned i = 0; i < s->io->nservers; i++) {
		const struct server *x = s->io->servers[i];

		if (same_cluster(s, x) && x->state.timeline > newest) {
			newest = x->state.timeline;
		}
	}
	return newest;
}

static bool is_good_primary(const struct server *s, uint32_t timeline)
{
	return s->state.verdict == VERDICT_UP && s->state.role == ROLE_PRIMARY &&
	       s->state.writable && s->state.timeline == timeline;
}

/* A primary was there and is missed: whoever takes its place is to be found soon. */
static bool lacks_primary(const struct server *s)
{
	uint32_t timeline = newest_timeline(s);
	bool missed = s->was_primary;

	if (is_good_primary(s, timeline)) {
		return false;
	}
	for (unsigned i = 0; i < s->io->nservers; i++) {
		const struct server *x = s->io->servers[i];

		if (!same_cluster(s, x)) {
			continue;
		}
		if (is_good_primary(x, timeline)) {
			return false;
		}
		missed |= x->was_primary;
	}
	return missed;
}

/* After a change of s that may have made it so. */
static void look_for_primary(const struct server *s)
{
	bool missed = lacks_primary(s);

	for (unsigned i = 0; missed && i < s->io->nservers; i++) {
		if (same_cluster(s, s->io->servers[i])) {
			health_hurry(s->io->servers[i]);
		}
	}
}

/* -- lag --------------------------------------------------------------------------------------- */

/*
 * Make room: the mark goes whose absence changes the ages found the least in proportion, so that
 * few marks reach far back.
 */
static void drop_mark(struct server *s)
{
	const struct wal_mark *m = s->marks;
	double least = 0;
	unsigned drop = 0;

	for (unsigned i = 1; i < s->nmarks - 1; i++) {
		double gap = (double)(m[i + 1].at_ns - m[i - 1].at_ns),
		       age = (double)(s->asked_ns - m[i].at_ns);

		if (drop == 0 || gap / age < least) {
			least = gap / age;
			drop = i;
		}
	}
	s->nmarks--;
	memmove(&s->marks[drop], &s->marks[drop + 1], (s->nmarks - drop) * sizeof(*s->marks));
}

static void leave_mark(struct server *s, uint64_t lsn)
{
	uint64_t last = s->nmarks > 0 ? s->marks[s->nmarks - 1].lsn : 0;

	if (lsn == last) {
		return; /* nothing was written since */
	}
	if (lsn < last) {
		s->nmarks = 0; /* this is not the server it was */
	}
	if (s->nmarks == HEALTH_MARKS) {
		drop_mark(s);
	}
	s->marks[s->nmarks++] = (struct wal_mark){.at_ns = s->asked_ns, .lsn = lsn};
}

/* Whose WAL a standby replays; NULL if no such server is known. */
static const struct server *primary_of(const struct server *s)
{
	const struct server *found = NULL;

	for (unsigned i = 0; i < s->io->nservers; i++) {
		const struct server *x = s->io->servers[i];

		if (same_cluster(s, x) && x->nmarks > 0 &&
			(found == NULL || x->state.timeline > found->state.timeline)) {
			found = x;
		}
	}
	return found;
}

static uint64_t age_of_oldest_missing(const struct server *s, const struct server *primary)
{
	for (unsigned i = 0; i < primary->nmarks; i++) {
		const struct wal_mark *m = &primary->marks[i];

		if (m->lsn > s->lsn) {
			return s->asked_ns > m->at_ns ? s->asked_ns - m->at_ns : 0;
		}
	}
	return 0;
}

static void measure_lag(struct server *s, const struct probe_answer *a)
{
	const struct server *primary = primary_of(s);

	if (primary == NULL) {
		s->state.lag_ns = a->lag_ns;
		s->lag_bytes = 0;
		return;
	}
	s->state.lag_ns = age_of_oldest_missing(s, primary);
	s->lag_bytes = primary->marks[primary->nmarks - 1].lsn > s->lsn
			       ? primary->marks[primary->nmarks - 1].lsn - s->lsn
			       : 0;
}

static void take_position(struct server *s, const struct probe_answer *a)
{
	s->lsn = a->lsn;
	s->lsn_asked_ns = s->asked_ns;
	if (a->role == ROLE_PRIMARY) {
		s->state.lag_ns = 0;
		s->lag_bytes = 0;
		leave_mark(s, a->flushed != 0 ? a->flushed : a->lsn);
	} else {
		s->nmarks = 0;
		measure_lag(s, a);
	}
}

/* -- answers ----------------------------------------------------------------------------------- */

static void take_success(struct server *s, const struct probe_answer *a)
{
	uint64_t now = io_now(s->io);

	s->probed_ns = now;
	s->latency_ns = now - s->asked_ns;
	s->last_error[0] = '\0';
	s->permanent = s->full = false;
	s->failed = 0;
	s->succeeded++;
	s->hurry -= s->hurry > 0;
	s->system_id = a->system_id;
	s->state.role = a->role;
	s->state.writable = a->writable;
	s->state.timeline = a->timeline;
	s->was_primary |= a->role == ROLE_PRIMARY;
	take_position(s, a);
	set_verdict(s, verdict_after_success(s));
	tell_role(s);
}

bool health_is_permanent(const char *sqlstate)
{
	return strncmp(sqlstate, "28", 2) == 0 || strcmp(sqlstate, "3D000") == 0;
}

static void take_failure(struct server *s, const char *sqlstate, const char *error)
{
	snprintf(s->last_error, sizeof(s->last_error), "%s", error);
	if (strcmp(sqlstate, "53300") == 0 && s->state.verdict != VERDICT_UNKNOWN) {
		if (!s->full) {
			log_warning("server %s: cannot be probed, its verdict stays: %s",
				s->config->name, s->last_error);
		}
		s->full = true;
		if (s->state.role == ROLE_UNKNOWN) { /* a doubt that cannot be settled now */
			s->state.role = s->told.role;
			s->state.writable = s->told.writable;
		}
		return;
	}
	s->full = false;
	s->permanent = health_is_permanent(sqlstate);
	s->succeeded = 0;
	s->failed++;
	set_verdict(s, verdict_after_failure(s));
}

/* -- when -------------------------------------------------------------------------------------- */

static void on_timer(struct timer *t);

static uint64_t pace_ns(const struct server *s)
{
	uint64_t usual = (uint64_t)s->config->health_interval * MS, quick = HEALTH_HURRY_MS * MS;

	if (s->again) {
		return HEALTH_RUSH_MS * MS;
	}
	if (s->permanent) {
		return usual > HEALTH_PERMANENT_MS * MS ? usual : HEALTH_PERMANENT_MS * MS;
	}
	if (s->state.verdict != VERDICT_UP || s->hurry > 0 || lacks_primary(s)) {
		return usual < quick ? usual : quick;
	}
	return usual;
}

static void plan(struct server *s)
{
	io_timer_set(s->io, &s->timer, s->asked_ns + pace_ns(s));
	s->again = false;
}

static void ask(struct server *s)
{
	s->again = false;
	s->sent_ns = s->asked_ns = io_now(s->io);
	io_timer_set(s->io, &s->timer, s->sent_ns + (uint64_t)s->config->health_timeout * MS);
	s->driver->probe_send(s->probe);
}

void probe_answered(struct server *s, const struct probe_answer *a)
{
	struct server_state before = s->state;
	bool missed = lacks_primary(s);

	check(s->sent_ns != 0);
	s->sent_ns = 0;
	if (a->ok) {
		take_success(s, a);
	} else {
		take_failure(s, a->sqlstate, a->error);
	}
	plan(s);
	if (!missed) {
		look_for_primary(s);
	}
	server_tell(s);
	if (!same_state(&before, &s->state)) {
		server_changed(s);
	}
}

static void give_up(struct server *s)
{
	struct probe_answer a = {.ok = false};
	char text[64];

	s->driver->probe_drop(s->probe);
	snprintf(text, sizeof(text), "no answer within %lld ms",
		(long long)s->config->health_timeout);
	a.error = text;
	probe_answered(s, &a);
}

static void on_timer(struct timer *t)
{
	struct server *s = container_of(t, struct server, timer);
	uint64_t now = io_now(s->io);

	if (s->sent_ns == 0) {
		ask(s);
	} else if (now > t->when_ns + STALL_MS * MS) {
		/* We stood still, and the answer may be here unread. */
		io_timer_set(s->io, t, now + STALL_MS * MS);
	} else {
		give_up(s);
	}
}

/* -- calls ------------------------------------------------------------------------------------- */

int health_start(struct server *s, void *server_priv)
{
	check(s->probe == NULL);
	s->priv = server_priv;
	if (s->driver->probe_open == NULL) {
		s->state = (struct server_state){
			.verdict = VERDICT_UP, .role = ROLE_LOCAL, .writable = true};
		s->since_ns = io_now(s->io);
		server_changed(s);
		return 0;
	}
	s->probe = s->driver->probe_open(s, server_priv);
	if (s->probe == NULL) {
		return -1;
	}
	s->timer.fire = on_timer;
	if (s->since_ns == 0) {
		s->since_ns = io_now(s->io);
	}
	ask(s);
	return 0;
}

void health_stop(struct server *s)
{
	io_timer_clear(s->io, &s->timer);
	s->sent_ns = 0;
	s->priv = NULL;
	if (s->probe != NULL) {
		s->driver->probe_close(s->probe);
		s->probe = NULL;
	}
}

void health_hurry(struct server *s)
{
	uint64_t soon = s->asked_ns + HEALTH_RUSH_MS * MS;

	if (s->probe == NULL) {
		server_worry(s, SERVER_HURRY);
		return;
	}
	s->hurry = HEALTH_HURRY_ANSWERS;
	if (s->sent_ns != 0) {
		s->again = true;
	} else if (!s->permanent && s->timer.when_ns > soon) {
		io_timer_set(s->io, &s->timer, soon);
	}
}

void health_doubt_role(struct server *s)
{
	uint64_t now = io_now(s->io);
	bool changes = s->state.role != ROLE_UNKNOWN;

	if ((s->probe == NULL && s->io->shard == 0) || now - s->doubted_ns < HEALTH_DOUBT_MS * MS) {
		health_hurry(s);
		return;
	}
	log_debug("server %s: a write met a read-only server", s->config->name);
	s->doubted_ns = now;
	s->state.role = ROLE_UNKNOWN;
	s->state.writable = false;
	if (s->probe == NULL) {
		server_worry(s, SERVER_DOUBT);
	} else {
		s->hurry = HEALTH_HURRY_ANSWERS;
		/* Neither an answer from before nor what an old session is told will do. */
		s->driver->probe_drop(s->probe);
		ask(s);
		look_for_primary(s);
		server_tell(s);
	}
	if (changes) {
		server_changed(s);
	}
}
