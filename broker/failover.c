/* SPDX-License-Identifier: MIT */
/* failover.c - see failover.h. */
#include "failover.h"

#include "check.h"

/* What decide() looks at, and the steps in between. */
struct view {
	const struct failover_policy *policy;
	const struct server_state *s;
	unsigned n; /* without the local server */
	int local; /* at the end of the list, and it answers; else -1 */
	const struct decision *before;
	uint32_t timeline; /* the highest seen */
	int leader;
	bool local_writes, local_reads; /* it stands in */
};

static uint32_t bit(int i)
{
	return i < 0 ? 0 : UINT32_C(1) << i;
}

static bool answers(const struct server_state *s)
{
	return s->verdict == VERDICT_UP || s->verdict == VERDICT_SUSPECT ||
	       s->verdict == VERDICT_RECOVERING;
}

static bool within_lag(const struct view *v, const struct server_state *s)
{
	return v->policy->max_lag_ns == 0 || s->lag_ns <= v->policy->max_lag_ns;
}

static bool is_stale(const struct view *v, const struct server_state *s)
{
	return s->timeline != 0 && s->timeline < v->timeline;
}

/* Is a a better leader than b?  Both are primaries; the earlier in the list is b. */
static bool leads(const struct view *v, int a, int b)
{
	const struct server_state *x = &v->s[a], *y = &v->s[b];

	if (x->timeline != y->timeline) {
		return x->timeline > y->timeline;
	}
	if (x->writable != y->writable) {
		return x->writable;
	}
	return x->writable && v->before->writer == a;
}

static int find_leader(const struct view *v)
{
	int leader = -1;

	for (int i = 0; i < (int)v->n; i++) {
		if (v->s[i].role != ROLE_PRIMARY || !answers(&v->s[i]) || is_stale(v, &v->s[i])) {
			continue;
		}
		if (leader < 0 || leads(v, i, leader)) {
			leader = i;
		}
	}
	return leader;
}

static uint32_t find_fenced(const struct view *v)
{
	uint32_t fenced = 0;

	for (int i = 0; i < (int)v->n; i++) {
		if (v->s[i].role == ROLE_PRIMARY && i != v->leader &&
			(v->leader >= 0 || is_stale(v, &v->s[i]))) {
			fenced |= bit(i);
		}
	}
	return fenced;
}

static bool leader_writes(const struct view *v)
{
	return v->leader >= 0 && v->s[v->leader].writable;
}

/* Somebody may still turn out to be the primary as soon as it answers. */
static bool is_open_question(const struct view *v)
{
	for (unsigned i = 0; i < v->n; i++) {
		if (v->s[i].verdict == VERDICT_UNKNOWN ||
			(answers(&v->s[i]) && v->s[i].role == ROLE_UNKNOWN)) {
			return true;
		}
	}
	return false;
}

static void place_local(struct view *v)
{
	enum fallback f = v->policy->fallback;

	if (v->local < 0) {
		return;
	}
	if (v->n == 0) {
		v->local_writes = v->local_reads = true;
		return;
	}
	if (f == FALLBACK_OFF || leader_writes(v) ||
		(is_open_question(v) && v->before->mode != MODE_FALLBACK)) {
		return;
	}
	v->local_reads = true;
	v->local_writes = f == FALLBACK_READ_WRITE || f == FALLBACK_JOURNAL;
}

/* Standbys within the limit of lag; fit ones, or all that answer. */
static uint32_t standbys(const struct view *v, bool fit)
{
	uint32_t found = 0;

	for (int i = 0; i < (int)v->n; i++) {
		const struct server_state *s = &v->s[i];

		if (s->role == ROLE_STANDBY && within_lag(v, s) &&
			(fit ? s->verdict == VERDICT_UP : answers(s))) {
			found |= bit(i);
		}
	}
	return found;
}

static uint32_t find_readers(const struct view *v)
{
	enum read_from from = v->policy->read_from;
	uint32_t leader = bit(v->leader), fit = standbys(v, true), wanted = fit;

	if (from == READ_FROM_ANY) {
		wanted = fit | leader;
	} else if (from == READ_FROM_PRIMARY) {
		wanted = leader != 0 || !v->local_writes ? leader : bit(v->local);
	}
	if (wanted != 0) {
		return wanted;
	}
	if (leader != 0) {
		return leader;
	}
	if (fit != 0) {
		return fit;
	}
	if (standbys(v, false) != 0) {
		return standbys(v, false);
	}
	return v->local_reads ? bit(v->local) : 0;
}

/* What keeps a pool with a writer from MODE_NORMAL, NULL: nothing. */
static const char *blemish(const struct view *v, const struct decision *d)
{
	for (int i = 0; i < (int)v->n; i++) {
		const struct server_state *s = &v->s[i];

		if ((d->fenced & bit(i)) && answers(s)) {
			return "more than one server calls itself primary";
		}
		if (s->verdict == VERDICT_DOWN) {
			return "a server is down";
		}
		if (s->verdict == VERDICT_UNKNOWN || s->role == ROLE_UNKNOWN) {
			return "a server has not said yet what it is";
		}
		if (s->verdict == VERDICT_RECOVERING) {
			return "a server has only just come back";
		}
		if (s->role == ROLE_STANDBY && !within_lag(v, s)) {
			return "a standby lags too far behind";
		}
	}
	return NULL;
}

static const char *why_no_writer(const struct view *v, const struct decision *d)
{
	if (v->leader >= 0) {
		return "the primary takes no writes";
	}
	if (is_open_question(v)) {
		return "the servers have not all said yet what they are";
	}
	if (d->fenced != 0) {
		return "the only primary is of an older timeline than another server was";
	}
	for (unsigned i = 0; i < v->n; i++) {
		if (answers(&v->s[i])) {
			return "no primary answers";
		}
	}
	return "no server answers";
}

static void set_mode(const struct view *v, struct decision *d)
{
	if (d->writer >= 0 && d->writer != v->local) {
		d->why = blemish(v, d);
		d->mode = d->why != NULL ? MODE_DEGRADED : MODE_NORMAL;
		d->why = d->why != NULL ? d->why : "all servers are well";
	} else if (v->local >= 0 && v->n == 0) {
		d->mode = MODE_NORMAL;
		d->why = "the local server is all there is";
	} else {
		d->why = why_no_writer(v, d);
		if (d->writer >= 0 || (v->local >= 0 && d->readers == bit(v->local))) {
			d->mode = MODE_FALLBACK;
		} else {
			d->mode = d->readers != 0 ? MODE_READ_ONLY : MODE_DOWN;
		}
	}
}

struct decision decide(const struct failover_policy *policy, const struct server_state *s,
	unsigned n, const struct decision *before)
{
	struct view v = {.policy = policy, .s = s, .n = n, .local = -1, .before = before};
	struct decision d = {.writer = -1};

	check(n > 0 && n <= FAILOVER_MAX_SERVERS);
	if (s[n - 1].role == ROLE_LOCAL) {
		v.n--;
		v.local = answers(&s[n - 1]) ? (int)n - 1 : -1;
	}
	for (unsigned i = 0; i < v.n; i++) {
		v.timeline = s[i].timeline > v.timeline ? s[i].timeline : v.timeline;
	}
	v.leader = find_leader(&v);
	place_local(&v);
	d.fenced = find_fenced(&v);
	d.writer = leader_writes(&v) ? v.leader : v.local_writes ? v.local : -1;
	d.readers = find_readers(&v);
	set_mode(&v, &d);
	return d;
}
