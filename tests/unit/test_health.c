/* SPDX-License-Identifier: MIT */
/*
 * test_health.c - health.c with a clock, a log and a driver that the test turns by hand: when it
 * asks, what it makes of the answers, and what it says about it.
 */
#include "board.h"
#include "config.h"
#include "driver.h"
#include "io.h"
#include "log.h"
#include "server.h"
#include "tap.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MS UINT64_C(1000000)
#define SEC (1000 * MS)

static uint64_t clock_ns;
static struct io io;
static struct server *table[4];

static unsigned changes, logs, events, drops, sends[4];
static bool under_way[4];
static char last_log[512];
static enum board_event_kind last_event;

/* -- what health.c is given -------------------------------------------------------------------- */

uint64_t io_now(struct io *unused)
{
	(void)unused;
	return clock_ns;
}

void io_timer_set(struct io *x, struct timer *t, uint64_t when_ns)
{
	timer_set(&x->wheel, t, when_ns);
}

void io_timer_clear(struct io *x, struct timer *t)
{
	timer_clear(&x->wheel, t);
}

void server_changed(struct server *s)
{
	(void)s;
	changes++;
}

void server_tell(const struct server *s)
{
	(void)s;
}

void server_worry(const struct server *s, enum server_worry worry)
{
	(void)s;
	(void)worry;
}

bool log_enabled(enum log_level level)
{
	return level != LOG_DEBUG;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	(void)level;
	va_start(ap, fmt);
	vsnprintf(last_log, sizeof(last_log), fmt, ap);
	va_end(ap);
	logs++;
}

void board_event(struct board *b, enum board_event_kind kind, const char *fmt, ...)
{
	(void)b;
	(void)fmt;
	last_event = kind;
	events++;
}

/* -- the driver -------------------------------------------------------------------------------- */

static void *probe_open(struct server *s, void *priv)
{
	(void)priv;
	return s;
}

static void probe_send(void *probe)
{
	struct server *s = probe;

	if (under_way[s->index]) {
		bail_out("two probes of one server at a time");
	}
	under_way[s->index] = true;
	sends[s->index]++;
}

static void probe_drop(void *probe)
{
	struct server *s = probe;

	under_way[s->index] = false;
	drops++;
}

static void probe_close(void *probe)
{
	struct server *s = probe;

	under_way[s->index] = false;
}

static const struct driver with_probes = {.name = "probed",
	.probe_open = probe_open,
	.probe_send = probe_send,
	.probe_drop = probe_drop,
	.probe_close = probe_close};
static const struct driver without_probes = {.name = "file"};

static void answer(struct server *s, struct probe_answer a)
{
	if (!under_way[s->index]) {
		bail_out("server %u was not asked", s->index);
	}
	under_way[s->index] = false;
	probe_answered(s, &a);
}

static void says_primary(struct server *s, uint64_t lsn)
{
	answer(s, (struct probe_answer){.ok = true,
			  .role = ROLE_PRIMARY,
			  .writable = true,
			  .timeline = 1,
			  .system_id = 7,
			  .lsn = lsn});
}

static void says_standby(struct server *s, uint64_t lsn)
{
	answer(s, (struct probe_answer){.ok = true,
			  .role = ROLE_STANDBY,
			  .timeline = 1,
			  .system_id = 7,
			  .lsn = lsn});
}

static void fails(struct server *s, const char *sqlstate)
{
	struct probe_answer a = {.error = "connection refused"};

	snprintf(a.sqlstate, sizeof(a.sqlstate), "%s", sqlstate);
	answer(s, a);
}

/* -- time -------------------------------------------------------------------------------------- */

/* Let time pass until s is asked; how long that took, in milliseconds, rounded to the wheel. */
static int64_t until_asked(struct server *s)
{
	uint64_t start = clock_ns;

	while (!under_way[s->index] && clock_ns - start < 100 * SEC) {
		clock_ns += MS;
		timer_wheel_run(&io.wheel, clock_ns);
	}
	return (int64_t)((clock_ns - start) / MS);
}

static void pass(uint64_t ns)
{
	for (uint64_t end = clock_ns + ns; clock_ns < end;) {
		clock_ns += MS;
		timer_wheel_run(&io.wheel, clock_ns);
	}
}

static bool near(int64_t got, int64_t want)
{
	return got >= want - 1 && got <= want + (int64_t)TIMER_TICK_MS + 1;
}

static char name[] = "one";
static const struct config_server config = {
	.name = name,
	.health_interval = 500,
	.health_timeout = 1000,
	.health_down_after = 3,
	.health_up_after = 2,
};

/* n servers, none asked yet. */
static struct server *setup(unsigned n)
{
	static struct server servers[4];

	clock_ns = 1000 * SEC;
	timer_wheel_init(&io.wheel, clock_ns);
	memset(servers, 0, sizeof(servers));
	memset(sends, 0, sizeof(sends));
	memset(under_way, 0, sizeof(under_way));
	changes = logs = events = drops = 0;
	last_log[0] = '\0';
	for (unsigned i = 0; i < 4; i++) {
		servers[i] = (struct server){
			.io = &io, .index = i, .config = &config, .driver = &with_probes};
		table[i] = i < n ? &servers[i] : NULL;
	}
	io.servers = table;
	io.nservers = 4;
	return servers;
}

static struct server *start_one(void)
{
	struct server *s = setup(1);

	if (health_start(s, NULL) < 0) {
		bail_out("health_start");
	}
	return s;
}

static struct server *start_up(void)
{
	struct server *s = start_one();

	says_primary(s, 100);
	changes = logs = events = 0;
	return s;
}

/* -- verdicts ---------------------------------------------------------------------------------- */

static void test_first_answer(void)
{
	struct server *s = start_one();

	is_int(sends[0], 1, "asked at once");
	is_int(s->state.verdict, VERDICT_UNKNOWN, "nothing is known");
	is_int(changes, 0, "starting is no change");
	clock_ns += 3 * MS;
	says_primary(s, 100);
	is_int(s->state.verdict, VERDICT_UP, "one answer is enough");
	is_int(s->state.role, ROLE_PRIMARY, "the role is known");
	is_int((int64_t)s->latency_ns, 3 * MS, "latency is measured");
	ok(changes == 1 && logs == 1 && events == 1, "told once");
	is_int(last_event, BOARD_EVENT_SERVER_UP, "as an event as well");
	ok(strstr(last_log, "server one: up, primary") != NULL, "%s", last_log);
	ok(near(until_asked(s), 500 - 3), "asked again after health_interval");
	says_primary(s, 100);
	ok(changes == 1 && logs == 1, "the same answer is no news");
}

static void test_suspect(void)
{
	struct server *s = start_up();

	until_asked(s);
	fails(s, "");
	is_int(s->state.verdict, VERDICT_SUSPECT, "one failure: suspect");
	ok(changes == 1 && logs == 1 && strstr(last_log, "connection refused") != NULL, "%s",
		last_log);
	ok(near(until_asked(s), HEALTH_HURRY_MS), "asked again soon");
	says_primary(s, 100);
	is_int(s->state.verdict, VERDICT_UP, "one answer clears it");
	ok(near(until_asked(s), 500), "and there is no hurry any more");
}

static void go_down(struct server *s)
{
	for (int i = 0; i < config.health_down_after; i++) {
		until_asked(s);
		fails(s, "");
	}
}

static void test_down_and_back(void)
{
	struct server *s = start_up();
	uint64_t start = clock_ns;

	go_down(s);
	is_int(s->state.verdict, VERDICT_DOWN, "three failures: down");
	ok(clock_ns - start >= 700 * MS && clock_ns - start < 730 * MS,
		"in the time of three probes");
	ok(changes == 2 && logs == 2 && events == 1, "suspect and down are told");
	is_int(last_event, BOARD_EVENT_SERVER_DOWN, "down is an event");
	is_int(s->state.role, ROLE_PRIMARY, "what it was is remembered");
	pass(20 * MS);
	for (int i = 0; i < 20; i++) {
		until_asked(s);
		fails(s, "");
	}
	is_int(logs, 2, "being down is told once");
	until_asked(s);
	says_standby(s, 50);
	is_int(s->state.verdict, VERDICT_RECOVERING, "an answer: recovering");
	is_int(s->state.role, ROLE_STANDBY, "with its role");
	until_asked(s);
	fails(s, "");
	is_int(s->state.verdict, VERDICT_DOWN, "a failure: down again");
	until_asked(s);
	says_standby(s, 50);
	until_asked(s);
	says_standby(s, 50);
	is_int(s->state.verdict, VERDICT_UP, "two answers in a row: up");
}

static void test_never_reached(void)
{
	struct server *s = start_one();

	fails(s, "");
	is_int(s->state.verdict, VERDICT_UNKNOWN, "a first failure says nothing");
	ok(near(until_asked(s), HEALTH_HURRY_MS), "asked again soon");
	fails(s, "");
	until_asked(s);
	fails(s, "57P03");
	is_int(s->state.verdict, VERDICT_DOWN, "the third says: down");
	is_int(changes, 1, "told once");
}

static void test_timeout(void)
{
	struct server *s = start_up();
	uint64_t asked;

	until_asked(s);
	asked = clock_ns;
	pass(990 * MS);
	is_int(s->state.verdict, VERDICT_UP, "patience for health_timeout");
	pass(20 * MS);
	is_int(s->state.verdict, VERDICT_SUSPECT, "then it has failed");
	is_int(drops, 1, "the probe was given up");
	ok(strstr(s->last_error, "1000 ms") != NULL, "%s", s->last_error);
	pass(2 * SEC + 50 * MS);
	is_int(s->state.verdict, VERDICT_DOWN, "down after three of them");
	ok(near((int64_t)((s->since_ns - asked) / MS), 3000 + 2 * TIMER_TICK_MS), "%" PRIu64 " ms",
		(s->since_ns - asked) / MS);
}

static void test_stalled_loop(void)
{
	struct server *s = start_up();

	until_asked(s);
	clock_ns += 20 * SEC;
	timer_wheel_run(&io.wheel, clock_ns);
	is_int(s->state.verdict, VERDICT_UP, "who stood still himself judges nobody");
	says_primary(s, 100);
	is_int(s->state.verdict, VERDICT_UP, "the answer was there all the time");
	until_asked(s);
	clock_ns += 20 * SEC;
	timer_wheel_run(&io.wheel, clock_ns);
	pass(120 * MS);
	is_int(s->state.verdict, VERDICT_SUSPECT, "but it does not wait for ever");
}

static void test_full(void)
{
	struct server *s = start_up();

	for (int i = 0; i < 10; i++) {
		until_asked(s);
		fails(s, "53300");
	}
	is_int(s->state.verdict, VERDICT_UP, "no connection left: its verdict stays");
	is_int(logs, 1, "told once");
	go_down(s);
	until_asked(s);
	fails(s, "53300");
	is_int(s->state.verdict, VERDICT_DOWN, "also when it is down: its role is not known");
	s = start_one();
	fails(s, "53300");
	until_asked(s);
	fails(s, "53300");
	until_asked(s);
	fails(s, "53300");
	is_int(s->state.verdict, VERDICT_DOWN, "one that never answered is of no use");
}

static void test_permanent(void)
{
	static const char *const states[] = {"28P01", "28000", "3D000"};

	for (size_t i = 0; i < array_size(states); i++) {
		struct server *s = start_one();

		fails(s, states[i]);
		is_int(s->state.verdict, VERDICT_DOWN, "%s: down at once", states[i]);
		is_str(s->last_error, "connection refused", "with the text");
		health_hurry(s);
		ok(near(until_asked(s), HEALTH_PERMANENT_MS), "not asked again soon");
		says_primary(s, 1);
		is_int(s->state.verdict, VERDICT_RECOVERING, "it can be mended");
		ok(near(until_asked(s), HEALTH_HURRY_MS), "and then there is hurry");
	}
}

/* -- hurry and doubt --------------------------------------------------------------------------- */

static void test_hurry(void)
{
	struct server *s = start_up();
	int64_t ms;

	pass(100 * MS);
	health_hurry(s);
	ok(until_asked(s) <= (int64_t)TIMER_TICK_MS + 1, "asked at once");
	for (unsigned i = 1; i < HEALTH_HURRY_ANSWERS; i++) {
		says_primary(s, 100);
		ms = until_asked(s);
		if (!near(ms, HEALTH_HURRY_MS)) {
			break;
		}
	}
	ok(near(ms, HEALTH_HURRY_MS), "and often for a while");
	says_primary(s, 100);
	ok(near(until_asked(s), 500), "then as usual");
	health_hurry(s);
	says_primary(s, 100);
	ok(near(until_asked(s), HEALTH_RUSH_MS), "an answer to an older question does not do");
	is_int(changes, 0, "nothing has changed");
}

static void test_storm(void)
{
	struct server *s = start_up();
	unsigned before = sends[0];

	for (int i = 0; i < 1000; i++) {
		health_hurry(s);
		pass(MS);
		if (under_way[0]) {
			says_primary(s, 100);
		}
		health_hurry(s);
	}
	ok(sends[0] - before <= 1000 / HEALTH_RUSH_MS && sends[0] - before >= 40,
		"%u probes in a second of 2000 calls", sends[0] - before);
}

static void test_doubt(void)
{
	struct server *s = start_up();
	unsigned before = sends[0];

	pass(50 * MS);
	health_doubt_role(s);
	ok(s->state.role == ROLE_UNKNOWN && !s->state.writable, "its role is unknown");
	is_int(changes, 1, "which is a change");
	ok(sends[0] == before + 1 && drops == 1, "asked at once, on a new connection");
	says_primary(s, 100);
	ok(s->state.role == ROLE_PRIMARY && s->state.writable, "it was a false alarm");
	is_int(changes, 2, "which is another");
	is_int(logs, 0, "nothing to tell");
	health_doubt_role(s);
	ok(s->state.role == ROLE_PRIMARY, "not again so soon");
	ok(until_asked(s) <= HEALTH_RUSH_MS + TIMER_TICK_MS, "but asked");
	pass(HEALTH_HURRY_MS * MS);
	is_int(under_way[0], true, "a probe is under way");
	health_doubt_role(s);
	ok(s->state.role == ROLE_PRIMARY && drops == 1, "nor a moment later");
	says_primary(s, 100);
	pass(900 * MS);
	(void)until_asked(s);
	health_doubt_role(s);
	ok(s->state.role == ROLE_UNKNOWN && drops == 2, "whose answer would come too late");
	says_standby(s, 100);
	ok(s->state.role == ROLE_STANDBY && logs == 1, "%s", last_log);
	is_int(last_event, BOARD_EVENT_ROLE, "a change of role is an event");
}

static void test_promotion(void)
{
	struct server *s = start_one();

	says_standby(s, 100);
	until_asked(s);
	changes = logs = events = 0;
	answer(s, (struct probe_answer){
			  .ok = true, .role = ROLE_PRIMARY, .writable = true, .timeline = 2});
	ok(changes == 1 && logs == 1 && events == 1, "told once: %s", last_log);
	is_str(last_log, "server one: was standby, timeline 1; is primary, timeline 2", "how");
	until_asked(s);
	answer(s, (struct probe_answer){.ok = true, .role = ROLE_PRIMARY, .timeline = 2});
	ok(changes == 2 && logs == 2 && strstr(last_log, "takes no writes") != NULL, "%s",
		last_log);
}

/* -- lag --------------------------------------------------------------------------------------- */

/* A primary and its standbys, all up and at 100. */
static struct server *start_cluster(unsigned n)
{
	struct server *s = setup(n);

	for (unsigned i = 0; i < n; i++) {
		if (health_start(&s[i], NULL) < 0) {
			bail_out("health_start");
		}
	}
	says_primary(&s[0], 100);
	for (unsigned i = 1; i < n; i++) {
		says_standby(&s[i], 100);
	}
	return s;
}

static void test_lag(void)
{
	struct server *s = start_cluster(2);
	uint64_t written;

	is_int((int64_t)s[1].state.lag_ns, 0, "a standby that has everything does not lag");
	for (int i = 0; i < 100; i++) {
		until_asked(&s[0]);
		says_primary(&s[0], 100);
		until_asked(&s[1]);
		says_standby(&s[1], 100);
	}
	is_int((int64_t)s[1].state.lag_ns, 0, "nor while the primary is idle");
	until_asked(&s[0]);
	written = clock_ns;
	says_primary(&s[0], 200);
	until_asked(&s[1]);
	says_standby(&s[1], 100);
	for (int i = 0; i < 4; i++) {
		until_asked(&s[0]);
		says_primary(&s[0], 200);
		until_asked(&s[1]);
		says_standby(&s[1], 150);
	}
	is_int((int64_t)s[1].state.lag_ns, (int64_t)(s[1].asked_ns - written),
		"cut off: as old as what it misses");
	is_int((int64_t)s[1].lag_bytes, 50, "and so many bytes");
	changes = 0;
	until_asked(&s[1]);
	says_standby(&s[1], 200);
	ok(s[1].state.lag_ns == 0 && s[1].lag_bytes == 0, "caught up");
	is_int(changes, 1, "a change of lag is a change");
}

static void test_lag_of_hours(void)
{
	struct server *s = start_cluster(2);
	uint64_t start = clock_ns, lsn = 100;
	int64_t lag;

	while (clock_ns - start < 4 * 3600 * SEC) {
		clock_ns += 10 * SEC; /* quicker than the clock of the other tests */
		s[0].asked_ns = s[1].asked_ns = clock_ns;
		under_way[0] = under_way[1] = true;
		s[0].sent_ns = s[1].sent_ns = clock_ns;
		says_primary(&s[0], lsn++);
		says_standby(&s[1], 100);
	}
	lag = (int64_t)(s[1].state.lag_ns / SEC);
	ok(lag >= 4 * 3600 * 8 / 10 && lag <= 4 * 3600, "four hours behind: %" PRId64 " s", lag);
}

static void test_missing_primary(void)
{
	struct server *s = start_cluster(3);

	s[2].system_id = 8;
	until_asked(&s[0]);
	pass(20 * MS);
	says_standby(&s[1], 100);
	answer(&s[2], (struct probe_answer){.ok = true, .role = ROLE_STANDBY, .system_id = 8});
	pass(100 * MS);
	fails(&s[0], "");
	ok(until_asked(&s[1]) <= (int64_t)TIMER_TICK_MS + 1,
		"a failed primary: its standbys are asked at once");
	is_int(under_way[2], false, "others are not");
	for (unsigned i = 0; i < 3 * HEALTH_HURRY_ANSWERS; i++) {
		says_standby(&s[1], 100);
		until_asked(&s[0]);
		fails(&s[0], "");
		until_asked(&s[1]);
	}
	says_standby(&s[1], 100);
	ok(near(until_asked(&s[1]), HEALTH_HURRY_MS), "and often until there is one");
	says_primary(&s[1], 100);
	ok(near(until_asked(&s[1]), 500), "then as usual");
}

static void test_other_clusters(void)
{
	struct server *s = start_cluster(2);

	until_asked(&s[1]);
	answer(&s[1],
		(struct probe_answer){
			.ok = true, .role = ROLE_STANDBY, .system_id = 8, .lsn = 5, .lag_ns = 77});
	is_int((int64_t)s[1].state.lag_ns, 77,
		"without a primary of the same cluster its own word counts");
}

static void test_lag_after_promotion(void)
{
	struct server *s = start_cluster(3);

	for (int i = 0; i < 5; i++) {
		until_asked(&s[0]);
		says_primary(&s[0], 100 + 100 * (uint64_t)i);
	}
	until_asked(&s[1]);
	answer(&s[1], (struct probe_answer){.ok = true,
			      .role = ROLE_PRIMARY,
			      .writable = true,
			      .timeline = 2,
			      .system_id = 7,
			      .lsn = 300});
	until_asked(&s[2]);
	says_standby(&s[2], 300);
	is_int((int64_t)s[2].state.lag_ns, 0, "measured against the promoted one");
	until_asked(&s[0]);
	answer(&s[0], (struct probe_answer){.ok = true,
			      .role = ROLE_STANDBY,
			      .timeline = 2,
			      .system_id = 7,
			      .lsn = 300});
	is_int(s[0].nmarks, 0, "a demoted primary leaves no marks");
	is_int((int64_t)s[0].state.lag_ns, 0, "and is measured itself");
}

static void test_restored_primary(void)
{
	struct server *s = start_cluster(2);

	until_asked(&s[0]);
	says_primary(&s[0], 5000);
	until_asked(&s[0]);
	says_primary(&s[0], 200);
	until_asked(&s[1]);
	says_standby(&s[1], 200);
	is_int((int64_t)s[1].state.lag_ns, 0, "a primary that went back in time is believed");
}

/* -- life -------------------------------------------------------------------------------------- */

static void test_local(void)
{
	struct server *s = setup(1);

	s->driver = &without_probes;
	is_int(health_start(s, NULL), 0, "a file");
	ok(s->state.verdict == VERDICT_UP && s->state.role == ROLE_LOCAL && s->state.writable,
		"is up and local at once");
	health_hurry(s);
	health_doubt_role(s);
	ok(s->state.role == ROLE_LOCAL && io.wheel.count == 0, "nothing is asked");
	health_stop(s);
}

static void test_stop(void)
{
	struct server *s = start_up();
	unsigned asked = sends[0];

	health_stop(s);
	health_stop(s);
	pass(10 * SEC);
	is_int(sends[0], asked, "no probe after health_stop");
	health_hurry(s);
	is_int((int64_t)io.wheel.count, 0, "no timer either");
	is_int(health_start(s, NULL), 0, "started again");
	is_int(s->state.verdict, VERDICT_UP, "with what was known");
	ok(under_way[0], "and asked at once");
	health_stop(s);
	is_int((int64_t)io.wheel.count, 0, "stopped while a probe is under way");
}

int main(void)
{
	test_first_answer();
	test_suspect();
	test_down_and_back();
	test_never_reached();
	test_timeout();
	test_stalled_loop();
	test_full();
	test_permanent();
	test_hurry();
	test_storm();
	test_doubt();
	test_promotion();
	test_lag();
	test_lag_of_hours();
	test_missing_primary();
	test_other_clusters();
	test_lag_after_promotion();
	test_restored_primary();
	test_local();
	test_stop();
	return done_testing();
}
