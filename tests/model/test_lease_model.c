/* SPDX-License-Identifier: MIT */
/*
 * test_lease_model.c - the hand-over of connections, in every short sequence of events.
 *
 * Three workers, two connections.  Breadth first: from every state that can be reached every event
 * that can happen is tried, and from each state so reached everybody must be able to finish.  A
 * state that was seen before is not followed again.  States are reached by running their events
 * again from the start, so a failure is a list of events, and a shortest one.
 *
 * Then random walks, much longer, with several events in one turn of the loop.  LEASE_SEED repeats
 * one.
 */
#include "lease_world.h"

#include "check.h"
#include "tap.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PATH_MAX_EVENTS 64u

struct node {
	uint32_t parent;
	uint8_t event;
	uint8_t depth;
};

struct search {
	struct world *w;
	struct node *nodes;
	uint32_t nnodes, room;
	uint64_t *seen; /* hashes, open addressing, 0 is free */
	uint64_t seen_size; /* power of two */
	uint64_t steps;
};

/* What happened since the last reset, for whoever has to tell; also from a signal handler. */
static uint8_t history[1024];
static bool history_turn[1024];
static unsigned nhistory;

static void do_event(struct world *w, uint8_t event, bool turn)
{
	if (nhistory < sizeof(history)) {
		history_turn[nhistory] = turn;
		history[nhistory++] = event;
	}
	world_do(w, event, turn);
}

static void reset(struct world *w)
{
	world_reset(w);
	if (world_failure(w) == NULL) {
		nhistory = 0;
	}
}

static void tell_history(const char *why)
{
	diag("%s, after:", why);
	for (unsigned i = 0; i < nhistory; i++) {
		diag("  %2u. %s%s", i + 1, world_event_name(history[i]),
			history_turn[i] ? "" : " (and in the same turn)");
	}
}

/* An assertion of the core, or a wild pointer: the events that led there are what one wants to
 * know. */
static void on_crash(int signo)
{
	signal(signo, SIG_DFL);
	tell_history("the core crashed");
	raise(signo);
}

/* -- breadth first ----------------------------------------------------------------------------- */

static bool see(struct search *s, uint64_t hash)
{
	uint64_t i = hash & (s->seen_size - 1);

	hash |= 1;
	while (s->seen[i] != 0) {
		if (s->seen[i] == hash) {
			return false;
		}
		i = (i + 1) & (s->seen_size - 1);
	}
	s->seen[i] = hash;
	return true;
}

static void add_node(struct search *s, uint32_t parent, uint8_t event)
{
	if (s->nnodes < s->room) {
		s->nodes[s->nnodes++] = (struct node){
			parent, event, (uint8_t)(s->nnodes > 0 ? s->nodes[parent].depth + 1 : 0)};
	}
}

/* Go to a state by its events. */
static void replay(struct search *s, uint32_t node)
{
	uint8_t path[PATH_MAX_EVENTS];
	unsigned n = 0;

	for (; node != 0 && n < PATH_MAX_EVENTS; node = s->nodes[node].parent) {
		path[n++] = s->nodes[node].event;
	}
	while (n > 0 && world_failure(s->w) == NULL) {
		do_event(s->w, path[--n], true);
	}
}

/* Try every event in the state of a node.  False: something is wrong. */
static bool expand(struct search *s, uint32_t node)
{
	uint8_t events[WORLD_EVENTS_MAX];
	unsigned n;

	replay(s, node);
	n = world_events(s->w, events);
	for (unsigned i = 0; i < n; i++) {
		if (i > 0) {
			replay(s, node);
		}
		do_event(s->w, events[i], true);
		s->steps++;
		if (world_failure(s->w) == NULL && see(s, world_hash(s->w))) {
			add_node(s, node, events[i]);
		}
		reset(s->w);
		if (world_failure(s->w) != NULL) {
			return false;
		}
	}
	return true;
}

static void search(const char *name, const struct world_plan *plan, uint64_t most)
{
	struct search s = {.w = world_create(plan), .room = 1u << 22, .seen_size = 1u << 23};
	uint32_t i = 0;
	bool good = world_failure(s.w) == NULL;

	s.nodes = calloc(s.room, sizeof(*s.nodes));
	s.seen = calloc(s.seen_size, sizeof(*s.seen));
	if (s.nodes == NULL || s.seen == NULL) {
		bail_out("out of memory");
	}
	add_node(&s, 0, 0);
	(void)see(&s, world_hash(s.w));
	for (; good && i < s.nnodes && s.steps < most; i++) {
		good = expand(&s, i);
	}
	if (!ok(good, "%s: nothing goes wrong in any short sequence of events", name)) {
		tell_history(world_failure(s.w));
		world_tell(s.w);
	} else {
		diag("%s: %llu sequences, %u different states, all of up to %u events", name,
			(unsigned long long)s.steps, s.nnodes,
			i < s.nnodes ? s.nodes[i].depth : s.nodes[s.nnodes - 1].depth);
		ok(i == s.nnodes || s.nodes[i].depth >= 2, "%s: short is three events at least",
			name);
	}
	free(s.nodes);
	free(s.seen);
	ok(world_destroy(&s.w), "%s: nothing is left open", name);
}

/* -- random walks ------------------------------------------------------------------------------ */

/* Of every hundred events so many are statements, so many the database's and those of time: work
 * piles up in one phase and goes in another. */
static unsigned request_share, work_share;

static void next_phase(void)
{
	request_share = rand() % 3 == 0 ? 95 : 0;
	work_share = (unsigned)rand() % 100;
}

/* Any of those for which `is` holds; any at all if there is none. */
static uint8_t pick(const uint8_t *events, unsigned n, bool (*is)(uint8_t))
{
	uint8_t some[WORLD_EVENTS_MAX];
	unsigned k = 0;

	for (unsigned i = 0; i < n; i++) {
		if (is == NULL || is(events[i])) {
			some[k++] = events[i];
		}
	}
	return k > 0 ? some[(unsigned)rand() % k] : events[(unsigned)rand() % n];
}

static uint8_t choose(const uint8_t *events, unsigned n)
{
	uint8_t e;

	do {
		if ((unsigned)rand() % 100 < request_share) {
			e = pick(events, n, world_event_is_statement);
		} else if ((unsigned)rand() % 100 < work_share) {
			e = pick(events, n, world_event_is_work);
		} else {
			e = pick(events, n, NULL);
		}
	} while (world_event_is_violent(e) && rand() % 4 != 0);
	return e;
}

static bool walk(struct world *w, unsigned steps)
{
	uint8_t events[WORLD_EVENTS_MAX];

	for (unsigned i = 0; i < steps; i++) {
		unsigned n = world_events(w, events);

		if (i % 64 == 0) {
			next_phase();
		}
		do_event(w, choose(events, n), rand() % 3 != 0);
		if (world_failure(w) != NULL) {
			return false;
		}
		if (rand() % 200 == 0 || nhistory > 800) {
			reset(w);
		}
	}
	reset(w);
	return world_failure(w) == NULL;
}

static void random_walks(const char *name, const struct world_plan *plan, unsigned walks)
{
	const char *given = getenv("LEASE_SEED");
	unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
	struct world *w = world_create(plan);
	bool good = true;
	unsigned i;

	diag("%s: seeds from %u (repeat with LEASE_SEED=%u)", name, seed, seed);
	for (i = 0; good && i < walks; i++) {
		srand(seed + i);
		good = walk(w, 2000);
	}
	if (!ok(good, "%s: nothing goes wrong in %u random walks of 2000 events", name, walks)) {
		diag("seed %u", seed + i - 1);
		tell_history(world_failure(w));
		world_tell(w);
	}
	ok(world_destroy(&w), "%s: nothing is left open", name);
}

int main(void)
{
	static const struct world_plan equal = {.split = false}, split = {.split = true},
				       results = {.results = true},
				       equal_tx = {.alphabet = WORLD_TRANSACTIONS},
				       equal_cancel = {.alphabet = WORLD_CANCELS},
				       split_cancel = {.alphabet = WORLD_CANCELS, .split = true};
	bool quick = getenv("TEST_QUICK") != NULL;
	uint64_t most = quick ? 12000 : 100000;
	unsigned walks = quick ? 10 : 100;

	signal(SIGABRT, on_crash);
	signal(SIGSEGV, on_crash);
	search("equal connections", &equal, most);
	search("one writer", &split, most);
	search("equal connections, transactions", &equal_tx, most);
	search("equal connections, cancels", &equal_cancel, most);
	search("one writer, cancels", &split_cancel, most);
	random_walks("equal connections", &equal, walks);
	random_walks("one writer", &split, walks);
	random_walks("large results", &results, 3 * walks);
	return done_testing();
}
