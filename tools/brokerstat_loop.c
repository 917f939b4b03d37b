/* SPDX-License-Identifier: MIT */
/*
 * brokerstat_loop.c - brokerstat for scripts: one look, or one each interval; statements as they
 * end; recordings, written and read.
 *
 * A recording is read by its own time: the interval steps through it without waiting.
 */
#include "brokerstat.h"

#include "brokerstat_json.h"
#include "series.h"
#include "slow_query.h"
#include "text.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FOLLOW_SECONDS 0.2

/* What the loop carries from one sample to the next. */
struct follow {
	struct sample *before;
	int32_t pid; /* of the broker looked at, */
	uint64_t broker_start_ns; /* and its start */
	uint64_t slow, sample, event; /* numbers of the last ones printed */
	bool started; /* the first look is over */
	bool noticed; /* that the broker does not run */
	unsigned long printed; /* statements */
	struct query *query;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = sig;
}

int stat_exit_code(int err)
{
	if (err >= 0) {
		return err;
	}
	return err == -EPROTONOSUPPORT || err == -EPROTO ? STAT_VERSION
	       : err == -EPIPE || err == -ENOSPC         ? STAT_FILE
							 : STAT_NOT_FOUND;
}

/* ------------------------------------------------------------------------------------------------
 * Statements as they end
 */

static int by_time(const void *a, const void *b)
{
	uint64_t x = ((const struct numbered_slow *)a)->slot.when_ns;
	uint64_t y = ((const struct numbered_slow *)b)->slot.when_ns;

	return x < y ? -1 : x > y;
}

static void report_lost(uint64_t lost)
{
	if (lost > 0) {
		fprintf(stderr,
			"brokerstat: %llu statements were overwritten before they could be read\n",
			(unsigned long long)lost);
	}
}

typedef int (*ring_reader)(
	struct reader *r, uint64_t after, struct numbered_slow **out, uint64_t *lost);

/* Append what is new in one of the rings; *last follows. */
static int append_new(
	struct reader *r, ring_reader read, uint64_t *last, struct numbered_slow **all, unsigned *n)
{
	struct numbered_slow *fresh, *v;
	uint64_t lost;
	int got = read(r, *last, &fresh, &lost);

	if (got < 0) {
		return got;
	}
	report_lost(lost);
	v = realloc(*all, (*n + (unsigned)got + 1) * sizeof(*v));
	if (v == NULL) {
		free(fresh);
		return -ENOMEM;
	}
	memcpy(v + *n, fresh, (unsigned)got * sizeof(*v));
	*last = got > 0 ? fresh[got - 1].number : *last;
	*all = v;
	*n += (unsigned)got;
	free(fresh);
	return 0;
}

static bool enough(const struct stat_options *opt, const struct follow *fo)
{
	return opt->most != 0 && fo->printed >= opt->most;
}

static int print_wanted(const struct sample *s, const struct numbered_slow *v, unsigned n,
	const struct stat_options *opt, struct follow *fo)
{
	int err = 0;

	for (unsigned i = 0; i < n && err == 0 && !enough(opt, fo); i++) {
		if (fo->query != NULL && !slow_query_match(fo->query, s, &v[i])) {
			continue;
		}
		if (opt->json) {
			err = json_slow(stdout, s, &v[i], 1);
		} else {
			print_slow(stdout, s, &v[i], 1);
		}
		fo->printed++;
	}
	return err;
}

static int show_slow(
	struct reader *r, const struct sample *s, const struct stat_options *opt, struct follow *fo)
{
	bool skip = !fo->started && !opt->old && !opt->once; /* what was there before us */
	struct numbered_slow *v = NULL;
	unsigned n = 0;
	int err = append_new(r, reader_slow, &fo->slow, &v, &n);

	if (err == 0 && opt->samples) {
		err = append_new(r, reader_samples, &fo->sample, &v, &n);
	}
	if (err == 0 && n > 0 && !skip) {
		qsort(v, n, sizeof(*v), by_time);
		err = print_wanted(s, v, n, opt, fo);
	}
	free(v);
	return err;
}

/* ------------------------------------------------------------------------------------------------
 * One sample
 */

static int show_statements(struct reader *r, const struct sample *s, const struct stat_options *opt)
{
	struct shape_entry *v;
	int n = reader_shapes(r, &v), err = n;

	if (n >= 0) {
		err = opt->json
			      ? json_lines(stdout, json_statements(s, v, (unsigned)n, (unsigned)n))
			      : print_statements(stdout, s, v, (unsigned)n, opt);
	}
	free(v);
	return err;
}

static int show_events(const struct sample *s, const struct stat_options *opt, struct follow *fo)
{
	int err = opt->json ? json_lines(stdout, json_events(s, fo->event))
			    : print_events(stdout, s, fo->event);

	fo->event = s->nevents > 0 ? s->events[s->nevents - 1].number : fo->event;
	return err;
}

static int show(
	struct reader *r, struct sample *s, const struct stat_options *opt, struct follow *fo)
{
	switch (opt->view) {
	case STAT_JSON:
		return json_document(stdout, s, fo->before, opt);
	case STAT_POOLS:
		return print_pools(stdout, s, opt);
	case STAT_SERVERS:
		return print_servers(stdout, s, opt);
	case STAT_WORKERS:
		return print_workers(stdout, s, opt);
	case STAT_SLOW:
		return show_slow(r, s, opt, fo);
	case STAT_STATEMENTS:
		return show_statements(r, s, opt);
	case STAT_EVENTS:
		return show_events(s, opt, fo);
	case STAT_LIST:
		return print_list(stdout, s, opt);
	default:
		return print_series(stdout, s, fo->before, opt);
	}
}

/* All that a new broker has is new: its numbers begin at 1. */
static void follow_broker(const struct sample *s, struct follow *fo)
{
	if (fo->started && (s->pid != fo->pid || s->broker_start_ns != fo->broker_start_ns)) {
		sample_free(&fo->before);
		fo->slow = fo->sample = fo->event = 0;
		fo->noticed = false;
	}
	fo->pid = s->pid;
	fo->broker_start_ns = s->broker_start_ns;
}

static void notice(const struct sample *s, struct follow *fo)
{
	if (s->life == READER_RUNNING || fo->noticed) {
		return;
	}
	fo->noticed = true;
	fprintf(stderr, "brokerstat: the broker (pid %d) is %s; its heart last beat %.1f s ago\n",
		s->pid, reader_life_name(s->life), (double)s->beat_age_ns / 1e9);
}

/* A filter that drops everything is more likely a slip than meant. */
static void notice_filter(struct sample *s, const struct stat_options *opt, const struct follow *fo)
{
	struct series_list l;

	if (opt->filter.n == 0 || fo->started || series_make(s, NULL, &opt->filter, &l) < 0) {
		return;
	}
	if (l.n == 0) {
		fputs("brokerstat: no metric matches -f; -l lists them\n", stderr);
	}
	series_free(&l);
}

/* A broker that was replaced: what it logged since we looked last, most likely what led to its
 * end. */
static int last_words(struct reader *r, const struct stat_options *opt, struct follow *fo)
{
	bool logs = opt->view == STAT_SLOW || opt->view == STAT_EVENTS;
	struct sample *s;
	int err;

	if (!fo->started || !logs || !reader_is_replaced(r)) {
		return 0;
	}
	err = reader_sample(r, &s);
	if (err == 0) {
		err = show(r, s, opt, fo);
		sample_free(&s);
	}
	return err;
}

static int one_sample(struct reader *r, const struct stat_options *opt, struct follow *fo)
{
	struct sample *s, *keep = NULL;
	int err = last_words(r, opt, fo);

	if (err < 0) {
		return err;
	}
	(void)reader_follow(r);
	err = reader_sample(r, &s);
	if (err == 0 && opt->interval > 0) { /* showing turns histograms into the interval's */
		err = reader_sample(r, &keep);
	}
	if (err < 0) {
		return err;
	}
	follow_broker(s, fo);
	notice(s, fo);
	notice_filter(s, opt, fo);
	err = show(r, s, opt, fo);
	if (fflush(stdout) != 0 && err == 0) {
		err = -errno;
	}
	if (err == 0) {
		err = s->life == READER_DEAD ? STAT_DEAD : STAT_OK;
	}
	fo->started = true;
	sample_free(&fo->before);
	fo->before = keep;
	sample_free(&s);
	return err;
}

/* ------------------------------------------------------------------------------------------------
 * Time
 */

static void pause_for(double seconds)
{
	struct timespec ts = {(time_t)seconds, (long)(fmod(seconds, 1) * 1e9)};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR && !interrupted) {
	}
}

/* Wait for the time of the next sample, or step there in a recording; false: there is none. */
static bool advance(struct reader *r, double seconds)
{
	unsigned frame = reader_frame(r), n = reader_frames(r);
	uint64_t due;

	if (n == 0) {
		pause_for(seconds);
		return !interrupted;
	}
	due = reader_frame_ns(r, frame) + (uint64_t)(seconds * 1e9);
	do {
		frame++;
	} while (frame < n && reader_frame_ns(r, frame) < due);
	if (frame < n && reader_seek(r, frame) < 0) {
		fprintf(stderr, "brokerstat: frame %u of the recording is damaged\n", frame + 1);
		return false;
	}
	return frame < n;
}

/* Local time of day, with or without a date, in nanoseconds; near: the day it is of. */
static bool parse_clock(const char *at, uint64_t near_ns, uint64_t *out)
{
	static const char *const formats[] = {
		"%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%H:%M:%S", "%H:%M"};
	time_t near = (time_t)(near_ns / 1000000000u);

	for (unsigned i = 0; i < array_size(formats); i++) {
		struct tm tm;
		const char *end;
		time_t t;

		localtime_r(&near, &tm);
		tm.tm_sec = 0;
		tm.tm_isdst = -1;
		end = strptime(at, formats[i], &tm);
		if (end == NULL || *end != '\0') {
			continue;
		}
		t = mktime(&tm);
		if (i >= 2 && t + 1 < near) { /* after midnight */
			tm.tm_mday++;
			t = mktime(&tm);
		}
		*out = (uint64_t)t * 1000000000u;
		return t >= 0;
	}
	return false;
}

bool stat_seek(struct reader *r, const char *at, bool to_end)
{
	unsigned n = reader_frames(r), frame = 0;
	uint64_t first = reader_frame_ns(r, 0), last = reader_frame_ns(r, n - 1), when;
	char *end;
	double seconds;

	if (at == NULL) {
		return reader_seek(r, to_end ? n - 1 : 0) == 0;
	}
	seconds = strtod(at, &end);
	if ((at[0] == '+' || at[0] == '-') && end != at && *end == '\0' && isfinite(seconds)) {
		double base = (double)(at[0] == '+' ? first : last);

		when = base + seconds * 1e9 > 0 ? (uint64_t)(base + seconds * 1e9) : 0;
	} else if (!parse_clock(at, first, &when)) {
		return false;
	}
	while (frame + 1 < n && reader_frame_ns(r, frame + 1) <= when) {
		frame++;
	}
	return reader_seek(r, frame) == 0;
}

/* ------------------------------------------------------------------------------------------------
 * Loops
 */

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal};

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

/* Seconds between two looks; 0: only one. */
static double pace_of(const struct stat_options *opt)
{
	bool follows = opt->view == STAT_SLOW && !opt->once;

	return opt->interval > 0                ? opt->interval
	       : follows && opt->replay == NULL ? FOLLOW_SECONDS
	       : follows                        ? 1e-9
						: 0;
}

int stat_loop(struct reader *r, const struct stat_options *opt)
{
	bool separate = opt->view == STAT_ONCE || opt->view == STAT_POOLS ||
			opt->view == STAT_SERVERS || opt->view == STAT_WORKERS ||
			opt->view == STAT_LIST || (opt->view == STAT_STATEMENTS && !opt->json);
	double pace = pace_of(opt);
	struct follow fo = {0};
	struct query_error qe;
	int err;

	if (opt->condition != NULL) {
		fo.query = slow_query_parse(opt->condition, &qe);
	}
	for (unsigned long n = 1;; n++) {
		err = one_sample(r, opt, &fo);
		if (err < 0 || pace <= 0 || (opt->count != 0 && n >= opt->count) ||
			enough(opt, &fo) || !advance(r, pace)) {
			break;
		}
		if (separate) {
			putchar('\n');
		}
	}
	sample_free(&fo.before);
	query_free(&fo.query);
	return err;
}

static int record_frame(struct reader *r, struct recorder *w, const struct stat_options *opt)
{
	struct snapshot s;
	int err = reader_snapshot(r, !opt->no_texts, &s);

	if (err == 0) {
		err = recorder_add(w, &s);
	}
	return err;
}

/* One frame; of a broker that was replaced its end first. */
static int record_frames(struct reader *r, struct recorder *w, const struct stat_options *opt)
{
	int err = reader_is_replaced(r) ? record_frame(r, w, opt) : 0;

	(void)reader_follow(r);
	return err < 0 ? err : record_frame(r, w, opt);
}

int stat_record(struct reader *r, const struct stat_options *opt)
{
	struct recorder *w;
	unsigned long n = 0;
	int err = recorder_create(opt->record, reader_path(r), &w), end;

	if (err == 0) {
		catch_signals();
		do {
			err = record_frames(r, w, opt);
			n++;
		} while (err == 0 && (opt->count == 0 || n < opt->count) &&
			 advance(r, opt->interval > 0 ? opt->interval : 1));
		end = recorder_finish(&w);
		err = err < 0 ? err : end;
	}
	if (err < 0) {
		fprintf(stderr, "brokerstat: %s: %s\n", opt->record,
			err == -EEXIST ? "is there already, and is not overwritten"
				       : strerror(-err));
		return STAT_FILE;
	}
	return STAT_OK;
}
