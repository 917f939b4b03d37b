/* SPDX-License-Identifier: MIT */
/*
 * test_failover.c - decide(): a table of situations and what is made of them; then every
 * combination of up to three servers, against what must always hold.
 *
 * A server is written as VERDICT ROLE [w] [TIMELINE] [+LAG], servers are separated by spaces:
 *   verdict  ? unknown  U up  S suspect  D down  R recovering
 *   role     ? unknown  P primary  S standby  L local
 *   w        takes writes
 *   +LAG     milliseconds
 */
#include "failover.h"

#include "check.h"
#include "tap.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS UINT64_C(1000000)
#define MAX_LAG_MS 100

struct row {
	const char *name;
	const char *servers;
	enum read_from read_from;
	enum fallback fallback;
	const char *before; /* index of the last writer, "f" for a fallback that stands in */
	int writer;
	const char *readers, *fenced; /* digits */
	enum pool_mode mode;
};

#define SB READ_FROM_STANDBY
#define ANY READ_FROM_ANY
#define PR READ_FROM_PRIMARY
#define OFF FALLBACK_OFF
#define RO FALLBACK_READ_ONLY
#define RW FALLBACK_READ_WRITE
#define JO FALLBACK_JOURNAL

/* clang-format off */
static const struct row rows[] = {
	/* one server */
	{"one primary", "UPw1", SB, OFF, "", 0, "0", "", MODE_NORMAL},
	{"one primary, any", "UPw1", ANY, OFF, "", 0, "0", "", MODE_NORMAL},
	{"one primary, primary", "UPw1", PR, OFF, "", 0, "0", "", MODE_NORMAL},
	{"one suspect primary goes on", "SPw1", SB, OFF, "0", 0, "0", "", MODE_NORMAL},
	{"one primary down", "DPw1", SB, OFF, "0", -1, "", "", MODE_DOWN},
	{"one recovering primary is used at once", "RPw1", SB, OFF, "", 0, "0", "", MODE_DEGRADED},
	{"one read-only primary reads", "UP1", SB, OFF, "0", -1, "0", "", MODE_READ_ONLY},
	{"one standby reads", "US1", SB, OFF, "", -1, "0", "", MODE_READ_ONLY},
	{"one standby reads, primary", "US1", PR, OFF, "", -1, "0", "", MODE_READ_ONLY},
	{"one standby too far behind", "US1+101", SB, OFF, "", -1, "", "", MODE_DOWN},
	{"not asked yet", "??", SB, OFF, "", -1, "", "", MODE_DOWN},
	{"role in doubt", "U?1", SB, OFF, "0", -1, "", "", MODE_DOWN},

	/* a primary and standbys */
	{"reads go to standbys", "UPw1 US1 US1", SB, OFF, "0", 0, "12", "", MODE_NORMAL},
	{"reads go anywhere", "UPw1 US1 US1", ANY, OFF, "0", 0, "012", "", MODE_NORMAL},
	{"reads go to the primary", "UPw1 US1 US1", PR, OFF, "0", 0, "0", "", MODE_NORMAL},
	{"the primary need not be first", "US1 UPw1 US1", SB, OFF, "", 1, "02", "", MODE_NORMAL},
	{"primary suspect", "SPw1 US1 US1", SB, OFF, "0", 0, "12", "", MODE_NORMAL},
	{"primary suspect, any", "SPw1 US1", ANY, OFF, "0", 0, "01", "", MODE_NORMAL},
	{"primary down", "DPw1 US1 US1", SB, OFF, "0", -1, "12", "", MODE_READ_ONLY},
	{"primary down, reads from the primary", "DPw1 US1", PR, OFF, "0", -1, "1", "",
		MODE_READ_ONLY},
	{"primary recovering", "RPw1 US1 US1", SB, OFF, "", 0, "12", "", MODE_DEGRADED},
	{"primary read-only", "UP1 US1", SB, OFF, "0", -1, "1", "", MODE_READ_ONLY},
	{"primary read-only, any", "UP1 US1", ANY, OFF, "0", -1, "01", "", MODE_READ_ONLY},
	{"primary read-only, primary", "UP1 US1", PR, OFF, "0", -1, "0", "", MODE_READ_ONLY},
	{"standby suspect", "UPw1 SS1 US1", SB, OFF, "0", 0, "2", "", MODE_NORMAL},
	{"standby recovering", "UPw1 RS1 US1", SB, OFF, "0", 0, "2", "", MODE_DEGRADED},
	{"standby down", "UPw1 DS1 US1", SB, OFF, "0", 0, "2", "", MODE_DEGRADED},
	{"all standbys down", "UPw1 DS1 DS1", SB, OFF, "0", 0, "0", "", MODE_DEGRADED},
	{"standby not asked yet", "UPw1 ??", SB, OFF, "", 0, "0", "", MODE_DEGRADED},
	{"only a suspect standby is left", "DPw1 SS1", SB, OFF, "0", -1, "1", "", MODE_READ_ONLY},
	{"only a recovering standby is left", "DPw1 RS1", SB, OFF, "0", -1, "1", "",
		MODE_READ_ONLY},
	{"not while one is up", "DPw1 RS1 US1", SB, OFF, "0", -1, "2", "", MODE_READ_ONLY},
	{"all down", "DPw1 DS1 DS1", SB, OFF, "0", -1, "", "", MODE_DOWN},
	{"nothing known", "?? ?? ??", SB, OFF, "", -1, "", "", MODE_DOWN},
	{"the first answer is a standby", "?? US1", SB, OFF, "", -1, "1", "", MODE_READ_ONLY},

	/* lag */
	{"at the limit", "UPw1 US1+100", SB, OFF, "0", 0, "1", "", MODE_NORMAL},
	{"beyond the limit", "UPw1 US1+101", SB, OFF, "0", 0, "0", "", MODE_DEGRADED},
	{"one beyond the limit", "UPw1 US1+101 US1+5", SB, OFF, "0", 0, "2", "", MODE_DEGRADED},
	{"beyond the limit, any", "UPw1 US1+101", ANY, OFF, "0", 0, "0", "", MODE_DEGRADED},
	{"beyond the limit, primary down", "DPw1 US1+101", SB, OFF, "0", -1, "", "", MODE_DOWN},
	{"beyond the limit, fallback", "DPw1 US1+101 UL", SB, RO, "0", -1, "2", "", MODE_FALLBACK},

	/* promotion */
	{"promoted, the old one down", "DPw1 UPw2", SB, OFF, "", 1, "1", "0", MODE_DEGRADED},
	{"promoted and only just back", "DPw1 RPw2", SB, OFF, "", 1, "1", "0", MODE_DEGRADED},
	{"promoted and suspect", "DPw1 SPw2", SB, OFF, "", 1, "1", "0", MODE_DEGRADED},
	{"promoted, the old one resumes", "UPw1 UPw2", SB, OFF, "0", 1, "1", "0", MODE_DEGRADED},
	{"promoted, the old one recovers", "RPw1 UPw2 US2", SB, OFF, "1", 1, "2", "0",
		MODE_DEGRADED},
	{"the order does not matter", "UPw2 UPw1", SB, OFF, "1", 0, "0", "1", MODE_DEGRADED},
	{"promoted, takes no writes", "UPw1 UP2", SB, OFF, "0", -1, "1", "0", MODE_READ_ONLY},
	{"the old one is stale for good", "UPw1 DPw2", SB, OFF, "1", -1, "", "0", MODE_DOWN},
	{"stale, says a standby", "UPw1 US2", SB, OFF, "0", -1, "1", "0", MODE_READ_ONLY},
	{"stale and in fallback", "UPw1 DPw2 UL", SB, JO, "1", 2, "2", "0", MODE_FALLBACK},
	{"three generations", "UPw1 UPw3 UPw2", ANY, OFF, "0", 1, "1", "02", MODE_DEGRADED},
	{"the old one is demoted", "US2 UPw2", SB, OFF, "1", 1, "0", "", MODE_NORMAL},
	{"and promoted again", "UPw3 US3", SB, OFF, "1", 0, "1", "", MODE_NORMAL},
	{"demoted, nobody promoted yet", "US1 US1", SB, OFF, "0", -1, "01", "", MODE_READ_ONLY},

	/* equal and unknown timelines */
	{"equal: the order", "UPw1 UPw1", SB, OFF, "", 0, "0", "1", MODE_DEGRADED},
	{"equal: what was", "UPw1 UPw1", SB, OFF, "1", 1, "1", "0", MODE_DEGRADED},
	{"equal: what was, of three", "UPw1 UPw1 UPw1", SB, OFF, "2", 2, "2", "01", MODE_DEGRADED},
	{"equal: who takes writes", "UP1 UPw1", SB, OFF, "0", 1, "1", "0", MODE_DEGRADED},
	{"equal: what was is down", "UPw1 DPw1", SB, OFF, "1", 0, "0", "1", MODE_DEGRADED},
	{"equal: what was is suspect", "UPw1 SPw1", SB, OFF, "1", 1, "1", "0", MODE_DEGRADED},
	{"not known: the order", "UPw0 UPw0", SB, OFF, "", 0, "0", "1", MODE_DEGRADED},
	{"not known is behind known", "UPw0 UPw1", SB, OFF, "0", 1, "1", "0", MODE_DEGRADED},
	{"not known is not stale", "UPw0 DPw5", SB, OFF, "", 0, "0", "1", MODE_DEGRADED},

	/* fallback */
	{"fallback rests", "UPw1 US1 UL", SB, JO, "0", 0, "1", "", MODE_NORMAL},
	{"fallback rests, any", "UPw1 US1 UL", ANY, JO, "0", 0, "01", "", MODE_NORMAL},
	{"fallback rests while suspect", "SPw1 UL", SB, JO, "0", 0, "0", "", MODE_NORMAL},
	{"off", "DPw1 UL", SB, OFF, "0", -1, "", "", MODE_DOWN},
	{"read-only", "DPw1 UL", SB, RO, "0", -1, "1", "", MODE_FALLBACK},
	{"read-write", "DPw1 UL", SB, RW, "0", 1, "1", "", MODE_FALLBACK},
	{"journal", "DPw1 UL", SB, JO, "0", 1, "1", "", MODE_FALLBACK},
	{"read-only, a standby reads", "DPw1 US1 UL", SB, RO, "0", -1, "1", "", MODE_READ_ONLY},
	{"journal, a standby reads", "DPw1 US1 UL", SB, JO, "0", 2, "1", "", MODE_FALLBACK},
	{"journal, any", "DPw1 US1 UL", ANY, JO, "0", 2, "1", "", MODE_FALLBACK},
	{"journal, primary", "DPw1 US1 UL", PR, JO, "0", 2, "2", "", MODE_FALLBACK},
	{"read-only, primary", "DPw1 US1 UL", PR, RO, "0", -1, "1", "", MODE_READ_ONLY},
	{"journal, the primary reads only", "UP1 UL", SB, JO, "0", 1, "0", "", MODE_FALLBACK},
	{"journal, all down", "DPw1 DS1 UL", SB, JO, "0", 2, "2", "", MODE_FALLBACK},
	{"back at once", "RPw1 UL", SB, JO, "f", 0, "0", "", MODE_DEGRADED},
	{"not before the servers were asked", "?? UL", SB, JO, "", -1, "", "", MODE_DOWN},
	{"not before all were", "D? ?? UL", SB, JO, "", -1, "", "", MODE_DOWN},
	{"not while in doubt", "U?1 UL", SB, JO, "0", -1, "", "", MODE_DOWN},
	{"when nobody ever answered", "D? D? UL", SB, JO, "", 2, "2", "", MODE_FALLBACK},
	{"stays for a server that is new", "D? ?? UL", SB, JO, "f", 2, "2", "", MODE_FALLBACK},
	{"a local server that fails", "DPw1 DL", SB, JO, "0", -1, "", "", MODE_DOWN},
	{"a local server in front is none", "UL UPw1", SB, JO, "", 1, "1", "", MODE_NORMAL},

	/* only a local server */
	{"only local", "UL", SB, OFF, "", 0, "0", "", MODE_NORMAL},
	{"only local, primary", "UL", PR, RO, "0", 0, "0", "", MODE_NORMAL},
	{"only local, any", "UL", ANY, JO, "0", 0, "0", "", MODE_NORMAL},
	{"only local, and it fails", "DL", SB, OFF, "0", -1, "", "", MODE_DOWN},
};
/* clang-format on */

static const char *const mode_names[] = {"down", "read-only", "fallback", "degraded", "normal"};

static unsigned index_in(const char *letters, char c)
{
	const char *p = strchr(letters, c);

	if (p == NULL || c == '\0') {
		bail_out("no such letter: %c", c);
	}
	return (unsigned)(p - letters);
}

static unsigned parse_servers(const char *text, struct server_state *s)
{
	unsigned n = 0;

	while (*text != '\0') {
		struct server_state *x = &s[n++];

		*x = (struct server_state){
			.verdict = (enum verdict)index_in("?USDR", text[0]),
			.role = (enum server_role)index_in("?PSL", text[1]),
		};
		text += 2;
		for (; *text != '\0' && *text != ' '; text++) {
			if (*text == 'w') {
				x->writable = true;
			} else if (*text == '+') {
				x->lag_ns = strtoull(text + 1, NULL, 10) * MS;
				text += strspn(text + 1, "0123456789");
			} else {
				x->timeline = (uint32_t)(*text - '0');
			}
		}
		text += *text == ' ';
	}
	return n;
}

static uint32_t parse_mask(const char *digits)
{
	uint32_t mask = 0;

	for (; *digits != '\0'; digits++) {
		mask |= 1u << (*digits - '0');
	}
	return mask;
}

static void check_row(const struct row *r)
{
	struct failover_policy policy = {r->read_from, r->fallback, MAX_LAG_MS * MS};
	struct server_state s[FAILOVER_MAX_SERVERS];
	struct decision before = {
		.writer = isdigit((unsigned char)r->before[0]) ? r->before[0] - '0' : -1,
		.mode = r->before[0] == 'f' ? MODE_FALLBACK : MODE_DOWN};
	unsigned n = parse_servers(r->servers, s);
	struct decision d = decide(&policy, s, n, &before);
	uint32_t readers = parse_mask(r->readers), fenced = parse_mask(r->fenced);

	ok(d.writer == r->writer && d.readers == readers && d.fenced == fenced && d.mode == r->mode,
		"%s: %s", r->name, r->servers);
	if (d.writer != r->writer || d.readers != readers || d.fenced != fenced ||
		d.mode != r->mode) {
		diag("got writer %d readers %#x fenced %#x mode %s: %s", d.writer, d.readers,
			d.fenced, mode_names[d.mode], d.why);
	}
}

static void test_many_servers(void)
{
	struct failover_policy policy = {.read_from = SB};
	struct server_state s[FAILOVER_MAX_SERVERS];
	struct decision d = {.writer = -1};

	for (unsigned i = 0; i < FAILOVER_MAX_SERVERS; i++) {
		s[i] = (struct server_state){.verdict = VERDICT_UP, .role = ROLE_STANDBY};
	}
	s[31].role = ROLE_PRIMARY;
	s[31].writable = true;
	d = decide(&policy, s, FAILOVER_MAX_SERVERS, &d);
	ok(d.writer == 31 && d.readers == 0x7fffffff, "32 servers, the last writes");
	s[7].lag_ns = UINT64_MAX;
	d = decide(&policy, s, FAILOVER_MAX_SERVERS, &d);
	ok(d.readers == 0x7fffffff, "without max_lag any lag will do");
}

/* -- every combination ------------------------------------------------------------------------- */

/* What one server can be, as far as decide() can tell servers apart. */
static unsigned make_states(struct server_state *out)
{
	unsigned n = 0;

	out[n++] = (struct server_state){.verdict = VERDICT_UNKNOWN};
	for (int v = VERDICT_UP; v <= VERDICT_RECOVERING; v++) {
		struct server_state s = {.verdict = (enum verdict)v};

		out[n++] = s;
		s.role = ROLE_STANDBY;
		out[n++] = s;
		s.timeline = 2;
		out[n++] = s;
		s.lag_ns = MAX_LAG_MS * MS + 1;
		out[n++] = s;
		s.lag_ns = 0;
		s.role = ROLE_PRIMARY;
		for (s.timeline = 0; s.timeline < 3; s.timeline++) {
			s.writable = false;
			out[n++] = s;
			s.writable = true;
			out[n++] = s;
		}
	}
	out[n++] = (struct server_state){.verdict = VERDICT_UP, .role = ROLE_LOCAL};
	out[n++] = (struct server_state){.verdict = VERDICT_DOWN, .role = ROLE_LOCAL};
	return n;
}

static bool answers(const struct server_state *s)
{
	return s->verdict != VERDICT_UNKNOWN && s->verdict != VERDICT_DOWN;
}

static bool has(uint32_t mask, unsigned i)
{
	return (mask >> i & 1) != 0;
}

/* What must hold whatever the servers are; NULL, or what is wrong. */
static const char *violation(const struct failover_policy *p, const struct server_state *s,
	unsigned n, const struct decision *d)
{
	bool local = s[n - 1].role == ROLE_LOCAL, primary = false, stands_in;
	uint32_t newest = 0;

	if (d->writer < -1 || d->writer >= (int)n || (d->readers | d->fenced) >> n != 0) {
		return "an index beyond the servers";
	}
	for (unsigned i = 0; i < n; i++) {
		newest = s[i].timeline > newest ? s[i].timeline : newest;
		primary |= s[i].role == ROLE_PRIMARY && s[i].writable && answers(&s[i]);
	}
	stands_in = local && n > 1 && (d->writer == (int)n - 1 || has(d->readers, n - 1));
	if (d->writer >= 0) {
		const struct server_state *w = &s[d->writer];

		if (!answers(w) || has(d->fenced, (unsigned)d->writer)) {
			return "the writer does not answer, or is fenced";
		}
		if (w->role != ROLE_LOCAL && (w->role != ROLE_PRIMARY || !w->writable)) {
			return "the writer takes no writes";
		}
		if (w->timeline != 0 && w->timeline != newest) {
			return "the writer is stale";
		}
		if (stands_in && d->writer == (int)n - 1 && p->fallback < FALLBACK_READ_WRITE) {
			return "the local server writes and may not";
		}
		if (stands_in && d->writer != (int)n - 1) {
			return "a fallback beside a primary";
		}
	} else if (primary && newest == 0) {
		return "a primary is not used";
	}
	if (stands_in && p->fallback == FALLBACK_OFF) {
		return "a fallback that is off";
	}
	if (stands_in != (d->mode == MODE_FALLBACK)) {
		return "the mode hides a fallback";
	}
	for (unsigned i = 0; i < n; i++) {
		bool stale = s[i].timeline != 0 && s[i].timeline < newest;

		if (s[i].role == ROLE_PRIMARY && stale && !has(d->fenced, i)) {
			return "a stale primary is not fenced";
		}
		if (has(d->fenced, i) && s[i].role != ROLE_PRIMARY) {
			return "fenced, and never called itself primary";
		}
		if (s[i].role == ROLE_PRIMARY && d->writer >= 0 && d->writer != (int)i &&
			s[d->writer].role == ROLE_PRIMARY && !has(d->fenced, i)) {
			return "two primaries in use";
		}
		if (!has(d->readers, i)) {
			continue;
		}
		if (!answers(&s[i]) || has(d->fenced, i) || s[i].role == ROLE_UNKNOWN) {
			return "a reader that does not serve";
		}
		if (s[i].role == ROLE_STANDBY && s[i].lag_ns > p->max_lag_ns) {
			return "a reader that lags too far behind";
		}
		if (s[i].role == ROLE_LOCAL && i != n - 1) {
			return "a local server that is not the last";
		}
		if (s[i].role == ROLE_LOCAL && d->readers != 1u << i) {
			return "a local server among others";
		}
	}
	if (d->writer >= 0 && d->readers == 0) {
		return "a writer and nobody to read from";
	}
	if ((d->mode >= MODE_DEGRADED) != (d->writer >= 0 && !stands_in) ||
		(d->mode == MODE_DOWN) != (d->readers == 0)) {
		return "a mode that is not the case";
	}
	if (d->mode == MODE_NORMAL && d->fenced != 0) {
		return "normal, and a server is fenced";
	}
	return d->why == NULL || d->why[0] == '\0' ? "no reason" : NULL;
}

static bool same(const struct decision *a, const struct decision *b)
{
	return a->writer == b->writer && a->readers == b->readers && a->fenced == b->fenced &&
	       a->mode == b->mode && strcmp(a->why, b->why) == 0;
}

struct tally {
	unsigned long cases, unstable, impure, moved;
	const char *violation; /* the first */
	unsigned states[3], n;
	int before;
};

static void try_all_before(const struct failover_policy *p, const struct server_state *s,
	unsigned n, struct tally *t, const unsigned *at)
{
	for (int w = -2; w < (int)n; w++) {
		struct decision before = {
			.writer = w < 0 ? -1 : w, .mode = w == -2 ? MODE_FALLBACK : MODE_DOWN};
		struct decision d = decide(p, s, n, &before), again = decide(p, s, n, &before),
				next = decide(p, s, n, &d);
		const char *bad = violation(p, s, n, &d);

		t->cases++;
		t->impure += !same(&d, &again);
		t->unstable += !same(&d, &next);
		t->moved += w >= 0 && d.writer >= 0 && d.writer != w && answers(&s[w]) &&
			    s[d.writer].role == ROLE_PRIMARY && s[w].role == ROLE_PRIMARY &&
			    s[w].writable && s[w].timeline == s[d.writer].timeline;
		if (bad != NULL && t->violation == NULL) {
			t->violation = bad;
			t->before = w;
			t->n = n;
			memcpy(t->states, at, n * sizeof(*at));
		}
	}
}

static void try_servers(const struct failover_policy *p, const struct server_state *states,
	unsigned nstates, unsigned n, struct tally *t)
{
	unsigned at[3] = {0};
	struct server_state s[3];
	unsigned i;

	do {
		for (i = 0; i < n; i++) {
			s[i] = states[at[i]];
		}
		try_all_before(p, s, n, t, at);
		for (i = 0; i < n && ++at[i] == nstates; i++) {
			at[i] = 0;
		}
	} while (i < n);
}

static void test_every_combination(void)
{
	struct server_state states[128];
	unsigned nstates = make_states(states);
	struct tally t = {0};

	for (int from = READ_FROM_STANDBY; from <= READ_FROM_PRIMARY; from++) {
		for (int f = FALLBACK_OFF; f <= FALLBACK_JOURNAL; f++) {
			struct failover_policy p = {
				(enum read_from)from, (enum fallback)f, MAX_LAG_MS * MS};

			for (unsigned n = 1; n <= 3; n++) {
				try_servers(&p, states, nstates, n, &t);
			}
		}
	}
	diag("%lu decisions, %u states of a server", t.cases, nstates);
	ok(t.violation == NULL, "nothing that must never be");
	if (t.violation != NULL) {
		diag("%s, last writer %d", t.violation, t.before);
		for (unsigned i = 0; i < t.n; i++) {
			const struct server_state *s = &states[t.states[i]];

			diag("verdict %d role %d writable %d timeline %u lag %" PRIu64, s->verdict,
				s->role, s->writable, s->timeline, s->lag_ns);
		}
	}
	is_int((int64_t)t.impure, 0, "the same input gives the same output");
	is_int((int64_t)t.unstable, 0, "a decision confirms itself");
	is_int((int64_t)t.moved, 0, "no writer is left for one of the same timeline");
}

int main(void)
{
	for (size_t i = 0; i < array_size(rows); i++) {
		check_row(&rows[i]);
	}
	test_many_servers();
	test_every_combination();
	return done_testing();
}
