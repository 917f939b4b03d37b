/* SPDX-License-Identifier: MIT */
/*
 * brokerstat.c - show what a broker does, from its board alone: options and the sampling loop.
 *
 * Asks the broker nothing, so it costs the broker nothing and works while the broker is stopped,
 * hung or dead.
 */
#include "brokerstat.h"

#include "exporter.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char usage_text[] =
	"Usage: brokerstat [-1|-j|-p|-S|-W|-s|-e|-l] [options]\n"
	"\n"
	"Shows the state of a shmbroker broker, also of one that is stopped or dead.\n"
	"\n"
	"What to show (default: a live screen on a terminal, otherwise -1):\n"
	"  -1, --once          all metrics: name, value, rate per second, description\n"
	"  -j, --json          everything as one JSON document\n"
	"  -p, --pools         pools, with PgBouncer's column names\n"
	"  -S, --servers       database servers: role, state, lag\n"
	"  -W, --workers       workers, and the leases they hold\n"
	"  -s, --slow          slow statements; with -j one JSON object per line\n"
	"  -e, --events        the event log\n"
	"  -l, --list          names, kinds, units and descriptions of all metrics\n"
	"  --listen [ADDR:]PORT  serve metrics for Prometheus, health checks, JSON and a\n"
	"                      dashboard over HTTP; ADDR is 127.0.0.1 unless given\n"
	"\n"
	"Options:\n"
	"  -n, --name NAME     the broker: path of its socket or board, or NAME for\n"
	"                      /run/shmbroker/NAME.sock; default: $BROKER_SOCKET,\n"
	"                      ./shmbroker.sock, /run/shmbroker/broker.sock\n"
	"  -w, --interval SECS repeat every SECS seconds; rates are those of the interval;\n"
	"                      with -s and -e only what is new\n"
	"  -c, --count COUNT   stop after COUNT samples\n"
	"  -t, --timeout SECS  wait for the broker to appear (default 5; 'off' = for ever)\n"
	"  -f, --filter GLOB   only metrics whose name matches, with -1, -j and -l\n"
	"  --no-texts          with --listen: show no texts of statements\n"
	"  -C, --no-color      no colour; so does the environment variable NO_COLOR\n"
	"  -h, --help          this text\n"
	"  -V, --version       the version\n"
	"\n"
	"Exit status: 0 ok; 1 usage; 2 no broker found, or not readable; 3 incompatible\n"
	"version; 4 the broker is dead (what it left is shown all the same).\n";

static int usage_error(const char *fmt, const char *arg)
{
	fputs("brokerstat: ", stderr);
	fprintf(stderr, fmt, arg);
	fputs("\nTry 'brokerstat --help'.\n", stderr);
	return STAT_USAGE;
}

/* Seconds above 0 and at most a year, or false. */
static bool parse_seconds(const char *s, double least, double *out)
{
	char *end;
	double v = strtod(s, &end);

	if (end == s || *end != '\0' || !isfinite(v) || v < least || v > 31536000) {
		return false;
	}
	*out = v;
	return true;
}

static bool parse_count(const char *s, unsigned long *out)
{
	char *end;

	errno = 0;
	*out = strtoul(s, &end, 10);
	return *s >= '0' && *s <= '9' && *end == '\0' && errno == 0 && *out > 0;
}

/* Options without a letter. */
#define OPTION_LISTEN 256
#define OPTION_NO_TEXTS 257

static const struct option long_options[] = {
	{"once", no_argument, NULL, '1'},
	{"json", no_argument, NULL, 'j'},
	{"pools", no_argument, NULL, 'p'},
	{"servers", no_argument, NULL, 'S'},
	{"workers", no_argument, NULL, 'W'},
	{"slow", no_argument, NULL, 's'},
	{"events", no_argument, NULL, 'e'},
	{"list", no_argument, NULL, 'l'},
	{"listen", required_argument, NULL, OPTION_LISTEN},
	{"no-texts", no_argument, NULL, OPTION_NO_TEXTS},
	{"name", required_argument, NULL, 'n'},
	{"interval", required_argument, NULL, 'w'},
	{"count", required_argument, NULL, 'c'},
	{"timeout", required_argument, NULL, 't'},
	{"filter", required_argument, NULL, 'f'},
	{"no-color", no_argument, NULL, 'C'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

static const struct {
	int letter;
	enum stat_view view;
} views[] = {
	{'1', STAT_ONCE},
	{'j', STAT_JSON},
	{'p', STAT_POOLS},
	{'S', STAT_SERVERS},
	{'W', STAT_WORKERS},
	{'s', STAT_SLOW},
	{'e', STAT_EVENTS},
	{'l', STAT_LIST},
	{OPTION_LISTEN, STAT_LISTEN},
};

/* One view only, but -s -j. */
static bool choose_view(struct stat_options *opt, int letter)
{
	enum stat_view old = opt->view, new = STAT_LIVE;

	for (unsigned i = 0; i < array_size(views); i++) {
		new = views[i].letter == letter ? views[i].view : new;
	}
	if ((old == STAT_SLOW && new == STAT_JSON) || (old == STAT_JSON && new == STAT_SLOW)) {
		opt->json = true;
		opt->view = STAT_SLOW;
		return true;
	}
	opt->view = new;
	return old == STAT_LIVE || old == new;
}

static bool parse_value(struct stat_options *opt, int letter, const char *arg)
{
	double seconds;

	switch (letter) {
	case 'n':
		opt->name = arg;
		return arg[0] != '\0';
	case 'f':
		opt->filter = arg;
		return true;
	case 'c':
		return parse_count(arg, &opt->count);
	case OPTION_LISTEN:
		opt->listen = arg;
		return choose_view(opt, OPTION_LISTEN);
	case 'w':
		return parse_seconds(arg, 0.01, &opt->interval);
	default: /* 't' */
		if (strcmp(arg, "off") == 0) {
			opt->wait_ms = -1;
			return true;
		}
		if (!parse_seconds(arg, 0, &seconds)) {
			return false;
		}
		opt->wait_ms = (int64_t)(seconds * 1000);
		return true;
	}
}

/* -1: go on; otherwise an exit code. */
static int parse_options(int argc, char **argv, struct stat_options *opt)
{
	int c;

	while ((c = getopt_long(argc, argv, "1jpSWseln:w:c:t:f:ChV", long_options, NULL)) != -1) {
		switch (c) {
		case 'h':
			fputs(usage_text, stdout);
			return STAT_OK;
		case 'V':
			puts("brokerstat " SHMBROKER_VERSION);
			return STAT_OK;
		case 'C':
			opt->color = false;
			break;
		case OPTION_NO_TEXTS:
			opt->no_texts = true;
			break;
		case '?':
			fputs("Try 'brokerstat --help'.\n", stderr);
			return STAT_USAGE;
		case 'n':
		case 'w':
		case 'c':
		case 't':
		case 'f':
		case OPTION_LISTEN:
			if (!parse_value(opt, c, optarg)) {
				return usage_error("invalid value '%s'", optarg);
			}
			break;
		default:
			if (!choose_view(opt, c)) {
				return usage_error("only one of -1, -j, -p, -S, -W, -s, -e, -l%s",
					"; but -s goes with -j");
			}
			break;
		}
	}
	return optind < argc ? usage_error("unexpected argument '%s'", argv[optind]) : -1;
}

/* What the sampling loop carries from one sample to the next. */
struct follow {
	struct sample *before;
	uint64_t slow, event; /* numbers of the last ones printed */
	bool noticed; /* that the broker does not run */
};

static int show_slow(
	struct reader *r, const struct sample *s, const struct stat_options *opt, struct follow *fo)
{
	struct numbered_slow *v;
	uint64_t lost;
	int n = reader_slow(r, fo->slow, &v, &lost), err = 0;

	if (n < 0) {
		return n;
	}
	if (lost > 0) {
		fprintf(stderr,
			"brokerstat: %llu slow statements were overwritten before they could be "
			"read\n",
			(unsigned long long)lost);
	}
	if (opt->json) {
		err = json_slow(stdout, s, v, (unsigned)n);
	} else {
		print_slow(stdout, s, v, (unsigned)n);
	}
	if (n > 0) {
		fo->slow = v[n - 1].number;
	}
	free(v);
	return err;
}

static int show(
	struct reader *r, struct sample *s, const struct stat_options *opt, struct follow *fo)
{
	int err;

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
	case STAT_EVENTS:
		err = print_events(stdout, s, fo->event);
		fo->event = s->nevents > 0 ? s->events[s->nevents - 1].number : fo->event;
		return err;
	case STAT_LIST:
		return print_list(stdout, s, opt);
	default:
		return print_series(stdout, s, fo->before, opt);
	}
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

static void pause_for(double seconds)
{
	struct timespec ts = {(time_t)seconds, (long)(fmod(seconds, 1) * 1e9)};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR) {
	}
}

static int one_sample(struct reader *r, const struct stat_options *opt, struct follow *fo)
{
	struct sample *s, *keep = NULL;
	int err;

	if (reader_follow(r)) {
		sample_free(&fo->before);
		*fo = (struct follow){0};
	}
	err = reader_sample(r, &s);
	if (err == 0 && opt->interval > 0) { /* showing turns histograms into the interval's */
		err = reader_sample(r, &keep);
	}
	if (err < 0) {
		return err;
	}
	notice(s, fo);
	err = show(r, s, opt, fo);
	if (fflush(stdout) != 0 && err == 0) {
		err = -errno;
	}
	if (err == 0) {
		err = s->life == READER_DEAD ? STAT_DEAD : STAT_OK;
	}
	sample_free(&fo->before);
	fo->before = keep;
	sample_free(&s);
	return err;
}

static int sample_loop(struct reader *r, const struct stat_options *opt)
{
	bool separate = opt->view == STAT_ONCE || opt->view == STAT_POOLS ||
			opt->view == STAT_SERVERS || opt->view == STAT_WORKERS ||
			opt->view == STAT_LIST;
	struct follow fo = {0};
	int err;

	for (unsigned long n = 1;; n++) {
		err = one_sample(r, opt, &fo);
		if (err < 0 || opt->interval <= 0 || (opt->count != 0 && n >= opt->count)) {
			break;
		}
		pause_for(opt->interval);
		if (separate) {
			putchar('\n');
		}
	}
	sample_free(&fo.before);
	return err;
}

static int exit_code(int err)
{
	if (err >= 0) {
		return err;
	}
	return err == -EPROTONOSUPPORT || err == -EPROTO ? STAT_VERSION : STAT_NOT_FOUND;
}

int main(int argc, char **argv)
{
	const char *no_color = getenv("NO_COLOR");
	struct stat_options opt = {
		.wait_ms = 5000,
		.color = isatty(STDOUT_FILENO) && (no_color == NULL || no_color[0] == '\0'),
	};
	char text[1024];
	struct reader *r;
	int err;

	setlocale(LC_CTYPE, "");
	err = parse_options(argc, argv, &opt);
	if (err >= 0) {
		return err;
	}
	if (opt.view == STAT_LISTEN) {
		return exporter_run(opt.name, opt.listen, !opt.no_texts);
	}
	if (opt.view == STAT_LIVE && !isatty(STDOUT_FILENO)) {
		opt.view = STAT_ONCE;
	}
	if (opt.count > 0 && opt.interval <= 0) {
		opt.interval = 1;
	}
	err = reader_open(opt.name, opt.wait_ms, &r, text, sizeof(text));
	if (err < 0) {
		fprintf(stderr, "brokerstat: %s\n", text);
		return exit_code(err);
	}
	err = opt.view == STAT_LIVE ? live_run(r, &opt) : sample_loop(r, &opt);
	if (err < 0) {
		fprintf(stderr, "brokerstat: %s: %s\n",
			opt.view == STAT_SLOW ? "slow statements" : "output", strerror(-err));
	}
	reader_close(&r);
	return exit_code(err);
}
