/* SPDX-License-Identifier: MIT */
/*
 * test_behaviour_c_long.c - what becomes of connections with time: behaviours 20 to 23 of
 * docs/testing.md.  The shortest times that can be configured are half a minute, so several brokers
 * are watched at the same time, from their counters, for 46 seconds.
 */
#include "behave.h"
#include "check.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define LONG_MS 60000
#define WATCH_MS 46000
#define LOOK_MS 50 /* between two looks: six times a process is started for each */

struct watched {
	struct behave t;
	int64_t since; /* milliseconds; not after what is timed can have begun */
	int64_t open, least, most; /* connections now, and since the watch began */
	int64_t created, closed;
	int64_t first_close; /* milliseconds after `since`, -1: none yet */
	int64_t at; /* when what is waited for had come true, -1: not yet */
};

static struct watched start(const char *rules, const char *const *settings, int64_t open)
{
	struct watched w = {.since = wait_clock_ms(), .first_close = -1, .at = -1};

	w.t = behave_start(rules, settings);
	if (!wait_until(behave_created(w.t.proc) == open, LONG_MS)) {
		bail_out("the pool does not fill");
	}
	w.least = w.most = open;
	return w;
}

static void look(struct watched *w)
{
	char *text = behave_look(w->t.proc);

	w->created = behave_find(text, "broker_connections_created_total{pool=\"main\"}");
	w->closed = behave_find(text, "broker_connections_closed_total{pool=\"main\"}");
	free(text);
	w->open = w->created - w->closed;
	w->least = w->open < w->least ? w->open : w->least;
	w->most = w->open > w->most ? w->open : w->most;
	if (w->closed > 0 && w->first_close < 0) {
		w->first_close = behave_since(w->since);
	}
}

static void note(struct watched *w, bool came)
{
	if (came && w->at < 0) {
		w->at = behave_since(w->since);
	}
}

struct busy {
	_Atomic int stop;
	_Atomic uint64_t served, failed;
};

static int hammer(struct broker *b, void *arg)
{
	struct busy *s = arg;

	while (atomic_load(&s->stop) == 0) {
		atomic_fetch_add(behave_run(b, NULL, "affect 1") == 0 ? &s->served : &s->failed, 1);
	}
	return 0;
}

/* Three idle connections and one in use, which nobody may interrupt. */
static void check_20(struct watched *w, struct broker_lease **l)
{
	struct broker_call in = {.lease = *l};

	ok(w->first_close >= 22000,
		"C20: no connection is retired before 3/4 of max_lifetime (%lld ms)",
		(long long)w->first_close);
	ok(w->at > 0 && w->at <= 33000 + WAIT_NOISE_MS,
		"C20: all that are idle are replaced in time (%lld ms)", (long long)w->at);
	ok(w->least >= 4, "C20: the replacement comes first: never fewer than 4 (%lld)",
		(long long)w->least);
	ok(w->most <= 5, "C20: and one more at a time (%lld)", (long long)w->most);
	is_int(behave_int(w->t.b, &in, "get", 0), 42,
		"C20: one that is in use goes on, whatever its age");
	is_int(behave_int(w->t.b, &in, "who", 1), 1, "C20: it is the same connection");
	broker_release(l);
	in.lease = NULL;
	ok(wait_until((look(w), w->open) == 4, LONG_MS), "C20: there are 4 afterwards");
	ok(w->closed >= 4, "C20: none of the old ones");
}

static void check_22(const struct watched *w)
{
	ok(w->first_close >= 10000,
		"C22: no idle connection is closed before idle_timeout (%lld ms)",
		(long long)w->first_close);
	ok(w->at > 0 && w->at < 14000 + WAIT_NOISE_MS,
		"C22: the pool shrinks to min_idle (%lld ms)", (long long)w->at);
	is_int(w->least, 2, "C22: and never below");
	is_int(w->created, 6, "C22: without opening any");
}

static void watch(struct watched *life, struct watched *age, struct watched *idle,
	struct watched *kept, struct watched *lost, struct watched *dead)
{
	int64_t begin = wait_clock_ms();

	while (behave_since(begin) < WATCH_MS) {
		look(life);
		note(life, life->closed >= 3);
		look(age);
		note(age, age->closed >= 1);
		look(idle);
		note(idle, idle->open == 2);
		look(kept);
		look(lost);
		note(lost, lost->closed >= 2 && lost->open == 2);
		look(dead);
		note(dead, dead->closed >= 2);
		(void)wait_until(false, LOOK_MS);
	}
}

int main(void)
{
	struct watched life =
		start("", SETTINGS("pool main.max_size=4", "pool main.max_lifetime=30s"), 4);
	struct watched age =
		start("", SETTINGS("pool main.max_size=1", "pool main.max_lifetime=30s"), 1);
	struct watched idle = start("",
		SETTINGS("pool main.max_size=6", "pool main.min_idle=2",
			"pool main.idle_timeout=10s"),
		2);
	struct watched kept = start("idle_ms=35000",
		SETTINGS("pool main.max_size=2", "pool main.keepalive_time=30s"), 2);
	struct watched lost = start(
		"idle_ms=35000", SETTINGS("pool main.max_size=2", "pool main.keepalive_time=0"), 2);
	struct watched dead = start("",
		SETTINGS("pool main.max_size=2", "pool main.keepalive_time=30s",
			"pool main.validation_timeout=250ms"),
		2);
	struct broker_lease *l[6], *held = behave_hold(life.t.b, NULL, "set 42");
	struct busy *busy = behave_share(sizeof(*busy));
	pid_t pid = behave_worker(age.t.proc, hammer, busy);

	for (unsigned i = 0; i < array_size(l); i++) {
		l[i] = behave_hold(idle.t.b, NULL, "affect 1");
	}
	idle.since = wait_clock_ms();
	for (unsigned i = 0; i < array_size(l); i++) {
		broker_release(&l[i]);
	}
	behave_rules(&dead.t, "reset_hang=1");
	watch(&life, &age, &idle, &kept, &lost, &dead);
	check_20(&life, &held);
	ok(age.at > 20000 && age.at < 33000 + WAIT_NOISE_MS,
		"C21: a connection that is never idle is replaced too (%lld ms)",
		(long long)age.at);
	atomic_store(&busy->stop, 1);
	is_int(behave_ended(pid, LONG_MS), 0, "C21: its users");
	is_int((int64_t)atomic_load(&busy->failed), 0, "C21: saw no error in %llu statements",
		(unsigned long long)atomic_load(&busy->served));
	check_22(&idle);
	ok(kept.created == 2 && kept.closed == 0,
		"C23: keepalive keeps connections that the server would end when idle");
	ok(lost.at >= 34000, "C23: without it they are lost, and replaced (%lld ms)",
		(long long)lost.at);
	ok(dead.at >= 23000 && dead.at < 33000 + WAIT_NOISE_MS,
		"C23: one that does not answer any more is found and replaced (%lld ms)",
		(long long)dead.at);
	behave_rules(&dead.t, "");
	ok(wait_until((look(&dead), dead.open) == 2, LONG_MS), "C23: there are two again");
	is_int(behave_run(dead.t.b, NULL, "affect 1"), 0, "C23: that work");
	behave_end(&life.t);
	behave_end(&age.t);
	behave_end(&idle.t);
	behave_end(&kept.t);
	behave_end(&lost.t);
	behave_end(&dead.t);
	behave_unshare(busy, sizeof(*busy));
	return done_testing();
}
