/* SPDX-License-Identifier: MIT */
/*
 * brokerstat.c - show what a broker does, from its board alone: options and the sampling loop.
 *
 * Asks the broker nothing, so it costs the broker nothing and works while the broker is stopped,
 * hung or dead.
 */
#include "brokerstat.h"

#include "exporter.h"
#include "slow_query.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage_text[] =
	"Usage: brokerstat [-1|-j|-p|-S|-L|-s|-T|-e|-l|-W FILE] [options]\n"
	"\n"
	"Shows the state of a shmbroker broker, also of one that is stopped or dead.\n"
	"\n"
	"What to show (default: a live screen on a terminal, otherwise -1):\n"
	"  -1, --once          all metrics: name, value, rate per second, description\n"
	"  -j, --json          everything as one JSON document\n"
	"  -p, --pools         pools, with PgBouncer's column names\n"
	"  -S, --servers       database servers: role, state, lag\n"
	"  -L, --workers       workers, and the leases they hold\n"
	"  -s, --slow          slow statements as they end, until interrupted; -s -1: those\n"
	"                      there are\n"
	"  -T, --statements    statements by shape: calls, errors, rows, times\n"
	"  -e, --events        the event log\n"
	"  -l, --list          names, kinds, units and descriptions of all metrics\n"
	"  -W, --record FILE   record everything to FILE (- is standard output)\n"
	"  --listen [ADDR:]PORT  serve metrics for Prometheus, health checks, JSON and a\n"
	"                      dashboard over HTTP; ADDR is 127.0.0.1 unless given\n"
	"With -s, -T and -e, -j prints one JSON object a line.\n"
	"\n"
	"Statements, with -s:\n"
	"  -d, --old           begin with those that ended before\n"
	"  -k, --most N        stop after N statements\n"
	"  -q, --query COND    only those that match, e.g. 'ms>50 && pool==main'; fields:\n"
	"                      %s\n"
	"  --samples           also those drawn by lot (slow_sample in broker.conf)\n"
	"\n"
	"Options:\n"
	"  -n, --name NAME     the broker: path of its socket or board, or NAME for\n"
	"                      /run/shmbroker/NAME.sock; default: $BROKER_SOCKET,\n"
	"                      ./shmbroker.sock, /run/shmbroker/broker.sock\n"
	"  -r, --replay FILE   show what was recorded, in any of these ways\n"
	"  --at TIME           with -r: then; [YYYY-MM-DD ]HH:MM[:SS], +SECS from the begin,\n"
	"                      -SECS from the end\n"
	"  -w, --interval SECS repeat every SECS seconds; rates are those of the interval;\n"
	"                      with -s and -e only what is new\n"
	"  -c, --count COUNT   stop after COUNT samples\n"
	"  -t, --timeout SECS  wait for the broker to appear (default 5; 'off' = for ever)\n"
	"  -f, --filter GLOB   only metrics whose name matches, with -1, -j and -l; ^GLOB:\n"
	"                      none of those; may be repeated\n"
	"  --no-texts          show, serve and record no texts of statements\n"
	"  -C, --no-color      no colour; so does the environment variable NO_COLOR\n"
	"  -h, --help          this text\n"
	"  -V, --version       the version\n"
	"\n"
	"Exit status: 0 ok; 1 usage; 2 no broker found, or not readable; 3 incompatible\n"
	"version; 4 the broker is dead (what it left is shown all the same); 5 a file of\n"
	"-W or -r, or the output, cannot be written or read.\n";

static void print_usage(void)
{
	char fields[512] = "";
	size_t n = 0, line = 0;

	for (unsigned i = 0; i < SLOW_FIELDS && n < sizeof(fields); i++) {
		const char *name = slow_fields[i].field.name;
		bool wrap = line + strlen(name) > 54;

		line = wrap ? 0 : line + strlen(name) + 1;
		n += (size_t)snprintf(fields + n, sizeof(fields) - n,
			i == 0 ? "%s"
			: wrap ? "\n                      %s"
			       : " %s",
			name);
	}
	printf(usage_text, fields);
}

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
enum {
	OPTION_LISTEN = 256,
	OPTION_NO_TEXTS,
	OPTION_SAMPLES,
	OPTION_AT,
};

static const struct option long_options[] = {
	{"once", no_argument, NULL, '1'},
	{"json", no_argument, NULL, 'j'},
	{"pools", no_argument, NULL, 'p'},
	{"servers", no_argument, NULL, 'S'},
	{"workers", no_argument, NULL, 'L'},
	{"slow", no_argument, NULL, 's'},
	{"statements", no_argument, NULL, 'T'},
	{"events", no_argument, NULL, 'e'},
	{"list", no_argument, NULL, 'l'},
	{"record", required_argument, NULL, 'W'},
	{"listen", required_argument, NULL, OPTION_LISTEN},
	{"old", no_argument, NULL, 'd'},
	{"most", required_argument, NULL, 'k'},
	{"query", required_argument, NULL, 'q'},
	{"samples", no_argument, NULL, OPTION_SAMPLES},
	{"name", required_argument, NULL, 'n'},
	{"replay", required_argument, NULL, 'r'},
	{"at", required_argument, NULL, OPTION_AT},
	{"interval", required_argument, NULL, 'w'},
	{"count", required_argument, NULL, 'c'},
	{"timeout", required_argument, NULL, 't'},
	{"filter", required_argument, NULL, 'f'},
	{"no-texts", no_argument, NULL, OPTION_NO_TEXTS},
	{"no-color", no_argument, NULL, 'C'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

static const struct {
	int letter;
	enum stat_view view;
} views[] = {
	{'p', STAT_POOLS},
	{'S', STAT_SERVERS},
	{'L', STAT_WORKERS},
	{'s', STAT_SLOW},
	{'T', STAT_STATEMENTS},
	{'e', STAT_EVENTS},
	{'l', STAT_LIST},
	{'W', STAT_RECORD},
	{OPTION_LISTEN, STAT_LISTEN},
};

/* One view only; -1 and -j are views, too, if there is no other. */
static bool choose_view(struct stat_options *opt, int letter)
{
	enum stat_view old = opt->view;

	for (unsigned i = 0; i < array_size(views); i++) {
		opt->view = views[i].letter == letter ? views[i].view : opt->view;
	}
	return old == STAT_LIVE || old == opt->view;
}

static bool parse_seconds_option(struct stat_options *opt, const char *arg)
{
	double seconds;

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

static bool parse_filter(struct stat_options *opt, const char *arg)
{
	if (opt->filter.n == NAME_FILTER_MAX) {
		return false;
	}
	opt->filter.glob[opt->filter.n++] = arg;
	return true;
}

/* What the value of an option has to be; those that are not here say so themselves. */
static const struct {
	int letter;
	const char *name, *want;
} value_kinds[] = {
	{'n', "-n", "the path of a broker's socket or board, or its name"},
	{'r', "-r", "the name of a file"},
	{'W', "-W", "the name of a file, or - for standard output"},
	{'f', "-f", "one of at most 32 globs"},
	{'k', "-k", "a count of 1 or more"},
	{'c', "-c", "a count of 1 or more"},
	{'w', "-w", "a number of seconds from 0.01 to 31536000"},
	{'t', "-t", "a number of seconds up to 31536000, or off"},
};

_Static_assert(NAME_FILTER_MAX == 32, "as value_kinds says");

static int bad_value(int letter, const char *arg)
{
	for (unsigned i = 0; i < array_size(value_kinds); i++) {
		if (value_kinds[i].letter == letter) {
			fprintf(stderr,
				"brokerstat: %s: '%s' is not %s\nTry 'brokerstat --help'.\n",
				value_kinds[i].name, arg, value_kinds[i].want);
		}
	}
	return STAT_USAGE;
}

/* Options with a value. */
static bool parse_value(struct stat_options *opt, int letter, const char *arg)
{
	switch (letter) {
	case 'n':
		opt->name = arg;
		return arg[0] != '\0';
	case 'r':
		opt->replay = arg;
		return arg[0] != '\0';
	case OPTION_AT:
		opt->at = arg;
		return true;
	case 'W':
		opt->record = arg;
		return arg[0] != '\0';
	case OPTION_LISTEN:
		opt->listen = arg;
		return true;
	case 'q':
		opt->condition = arg;
		return true;
	case 'f':
		return parse_filter(opt, arg);
	case 'k':
		return parse_count(arg, &opt->most);
	case 'c':
		return parse_count(arg, &opt->count);
	case 'w':
		return parse_seconds(arg, 0.01, &opt->interval);
	default: /* 't' */
		return parse_seconds_option(opt, arg);
	}
}

/* Options without a value, views excepted; false: it is none. */
static bool parse_flag(struct stat_options *opt, int letter)
{
	switch (letter) {
	case '1':
		opt->once = true;
		return true;
	case 'j':
		opt->json = true;
		return true;
	case 'd':
		opt->old = true;
		return true;
	case 'C':
		opt->color = false;
		return true;
	case OPTION_SAMPLES:
		opt->samples = true;
		return true;
	case OPTION_NO_TEXTS:
		opt->no_texts = true;
		return true;
	default:
		return false;
	}
}

static int bad_condition(const char *condition, const struct query_error *err)
{
	fprintf(stderr, "brokerstat: -q: %s\n  %s\n  %*s^\n", err->text, condition, (int)err->at,
		"");
	return STAT_USAGE;
}

static bool lists_metrics(enum stat_view view)
{
	return view == STAT_LIVE || view == STAT_ONCE || view == STAT_JSON || view == STAT_LIST;
}

/* What does not go together.  -1: all is well. */
static int check_options(struct stat_options *opt)
{
	bool lines =
		opt->view == STAT_SLOW || opt->view == STAT_STATEMENTS || opt->view == STAT_EVENTS;
	struct query_error err;
	struct query *q;

	if ((opt->json && opt->view != STAT_LIVE && !lines) ||
		(opt->once && opt->view != STAT_LIVE && opt->view != STAT_SLOW)) {
		return usage_error("only one of -1, -j, -p, -S, -L, -s, -T, -e, -l, -W%s",
			"; but -j goes with -s, -T and -e, and -1 with -s");
	}
	if (opt->view == STAT_LIVE) {
		opt->view = opt->json ? STAT_JSON : opt->once ? STAT_ONCE : STAT_LIVE;
	}
	if (opt->view != STAT_SLOW &&
		(opt->old || opt->samples || opt->most != 0 || opt->condition != NULL)) {
		return usage_error("%s belong to -s", "-d, -k, -q and --samples");
	}
	if (opt->filter.n > 0 && !lists_metrics(opt->view)) {
		return usage_error("%s belongs to -1, -j, -l and the live screen", "-f");
	}
	if (opt->view == STAT_LISTEN && (opt->interval > 0 || opt->count > 0)) {
		return usage_error("%s do not go with --listen", "-w and -c");
	}
	if (opt->replay != NULL && (opt->view == STAT_RECORD || opt->view == STAT_LISTEN)) {
		return usage_error("%s do not go with -r", "-W and --listen");
	}
	if (opt->no_texts && (opt->view == STAT_SLOW || opt->view == STAT_STATEMENTS)) {
		return usage_error("%s does not go with -s and -T", "--no-texts");
	}
	if (opt->at != NULL && opt->replay == NULL) {
		return usage_error("%s belongs to -r", "--at");
	}
	if (opt->condition != NULL) {
		q = slow_query_parse(opt->condition, &err);
		if (q == NULL) {
			return bad_condition(opt->condition, &err);
		}
		query_free(&q);
	}
	return -1;
}

/* -1: go on; otherwise an exit code. */
static int parse_options(int argc, char **argv, struct stat_options *opt)
{
	static const char letters[] = "1jpSLsTeldW:k:q:n:r:w:c:t:f:ChV";
	int c;

	while ((c = getopt_long(argc, argv, letters, long_options, NULL)) != -1) {
		if (c == 'h') {
			print_usage();
			return STAT_OK;
		}
		if (c == 'V') {
			puts("brokerstat " SHMBROKER_VERSION);
			return STAT_OK;
		}
		if (c == '?') {
			fputs("Try 'brokerstat --help'.\n", stderr);
			return STAT_USAGE;
		}
		if (optarg != NULL && !parse_value(opt, c, optarg)) {
			return bad_value(c, optarg);
		}
		if (!parse_flag(opt, c) && !choose_view(opt, c)) {
			return usage_error("only one of -1, -j, -p, -S, -L, -s, -T, -e, -l, -W%s",
				" and --listen");
		}
	}
	return optind < argc ? usage_error("unexpected argument '%s'", argv[optind])
			     : check_options(opt);
}

static int open_source(const struct stat_options *opt, struct reader **r)
{
	bool to_end = opt->view != STAT_LIVE && opt->interval <= 0 &&
		      (opt->view != STAT_SLOW || opt->once);
	char text[1024];
	int err;

	if (opt->replay == NULL) {
		err = reader_open(opt->name, opt->wait_ms, r, text, sizeof(text));
	} else {
		err = reader_open_recording(opt->replay, r, text, sizeof(text));
	}
	if (err < 0) {
		fprintf(stderr, "brokerstat: %s\n", text);
		return opt->replay != NULL && err != -EPROTONOSUPPORT ? STAT_FILE
								      : stat_exit_code(err);
	}
	if (reader_is_cut(*r)) {
		fprintf(stderr, "brokerstat: %s is cut or damaged behind its frame %u\n",
			opt->replay, reader_frames(*r));
	}
	if (opt->replay != NULL && !stat_seek(*r, opt->at, to_end)) {
		reader_close(r);
		return opt->at != NULL ? usage_error("no such time: '%s'", opt->at) : STAT_FILE;
	}
	return -1;
}

static int show_source(struct reader *r, const struct stat_options *opt)
{
	int err;

	if (opt->view == STAT_LIVE) {
		return live_run(r, opt);
	}
	if (opt->view == STAT_RECORD) {
		return stat_record(r, opt);
	}
	err = stat_loop(r, opt);
	if (err < 0) {
		bool texts = opt->view == STAT_SLOW || opt->view == STAT_STATEMENTS;

		fprintf(stderr, "brokerstat: %s: %s%s\n", texts ? "statements" : "output",
			strerror(-err),
			texts && err == -EACCES ? "; they are for the broker's own user, root and "
						  "monitor_group of broker.conf"
						: "");
	}
	return stat_exit_code(err);
}

int main(int argc, char **argv)
{
	const char *no_color = getenv("NO_COLOR");
	struct stat_options opt = {
		.wait_ms = 5000,
		.color = isatty(STDOUT_FILENO) && (no_color == NULL || no_color[0] == '\0'),
	};
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
	if (opt.view == STAT_LIVE && !(isatty(STDOUT_FILENO) && isatty(STDIN_FILENO))) {
		opt.view = STAT_ONCE;
	}
	if (opt.count > 0 && opt.interval <= 0) {
		opt.interval = 1;
	}
	err = open_source(&opt, &r);
	if (err >= 0) {
		return err;
	}
	err = show_source(r, &opt);
	reader_close(&r);
	return err;
}
