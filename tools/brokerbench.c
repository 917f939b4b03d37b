/* SPDX-License-Identifier: MIT */
/*
 * brokerbench.c - how fast workers get their statements answered: through the broker, directly,
 * through a proxy.  Options and the order of the runs; bench.h says where the rest is.
 */
#include "bench_report.h"
#include "bench_run.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXIT_BAD_USAGE 2
#define COUNTS_MAX 32

static const char usage_head[] =
	"Usage: brokerbench [OPTION...] WORKLOAD...\n"
	"       brokerbench init --target libpq|sqlite --address ADDRESS [--scale N]\n"
	"\n"
	"Measures how fast N worker processes get statements answered, one after the other\n"
	"each.  init makes the tables, on the database itself.\n"
	"\n"
	"Workloads:\n";

static const char usage_tail[] =
	"\n"
	"Whom to ask:\n"
	"  -t, --target KIND      broker (default), libpq (PostgreSQL or a proxy that speaks\n"
	"                         its protocol), sqlite\n"
	"  -a, --address ADDRESS  broker: path of its socket (default: as for all clients);\n"
	"                         libpq: a connection string; sqlite: a file\n"
	"  -P, --pool NAME        broker: the pool; default its first\n"
	"  -p, --protocol HOW     libpq: prepared (default), extended or simple\n"
	"  -u, --undeclared       broker: do not tell it which statements only read\n"
	"\n"
	"How much:\n"
	"  -w, --workers N[,N...] worker processes (default 8); several counts, several runs\n"
	"  -s, --seconds S        length of the measured window (default 2)\n"
	"  -W, --warm-up S        before it (default 0.5)\n"
	"      --page N           point reads of a page (default 20)\n"
	"      --rows N           rows of a result of the workload rows (default 100)\n"
	"      --slow-percent P   slow statements of the workload mix (default 1)\n"
	"      --slow-ms MS       how slow they are (default 200)\n"
	"      --seed N           of the random keys (default 1)\n"
	"      --scale N          init: 100,000 accounts each (default 10)\n"
	"\n"
	"What to show:\n"
	"  -o, --observe URL      account for this PostgreSQL server: CPU, memory, backends\n"
	"  -j, --json             one JSON document with everything that was seen\n"
	"  -h, --help             this text\n"
	"  -V, --version          the version\n"
	"\n"
	"Exit status: 0 ok; 1 a run failed, or statements failed; 2 usage.\n";

struct options {
	struct bench_plan plan;
	unsigned counts[COUNTS_MAX];
	unsigned ncounts;
	const char *protocol; /* as given, or NULL */
	unsigned scale;
	bool json;
};

enum {
	OPT_PAGE = 256,
	OPT_ROWS,
	OPT_SLOW_PERCENT,
	OPT_SLOW_MS,
	OPT_SEED,
	OPT_SCALE,
};

static const struct option long_options[] = {
	{"target", required_argument, NULL, 't'},
	{"address", required_argument, NULL, 'a'},
	{"pool", required_argument, NULL, 'P'},
	{"protocol", required_argument, NULL, 'p'},
	{"undeclared", no_argument, NULL, 'u'},
	{"workers", required_argument, NULL, 'w'},
	{"seconds", required_argument, NULL, 's'},
	{"warm-up", required_argument, NULL, 'W'},
	{"page", required_argument, NULL, OPT_PAGE},
	{"rows", required_argument, NULL, OPT_ROWS},
	{"slow-percent", required_argument, NULL, OPT_SLOW_PERCENT},
	{"slow-ms", required_argument, NULL, OPT_SLOW_MS},
	{"seed", required_argument, NULL, OPT_SEED},
	{"scale", required_argument, NULL, OPT_SCALE},
	{"observe", required_argument, NULL, 'o'},
	{"json", no_argument, NULL, 'j'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

/* -- options --------------------------------------------------------------------------------------
 */

static void print_usage(void)
{
	const struct bench_workload *w;

	fputs(usage_head, stdout);
	for (unsigned i = 0; (w = bench_workload_at(i)) != NULL; i++) {
		printf("  %-8s %s\n", w->name, w->help);
	}
	fputs(usage_tail, stdout);
}

static int usage_error(const char *fmt, const char *arg)
{
	fputs("brokerbench: ", stderr);
	fprintf(stderr, fmt, arg);
	fputs("\nTry 'brokerbench --help'.\n", stderr);
	return EXIT_BAD_USAGE;
}

static bool parse_unsigned(const char *s, unsigned least, unsigned most, unsigned *out)
{
	char *end;
	unsigned long v;

	errno = 0;
	v = strtoul(s, &end, 10);
	*out = (unsigned)v;
	return *s >= '0' && *s <= '9' && *end == '\0' && errno == 0 && v >= least && v <= most;
}

static bool parse_real(const char *s, double least, double most, double *out)
{
	char *end;

	*out = strtod(s, &end);
	return end != s && *end == '\0' && isfinite(*out) && *out >= least && *out <= most;
}

static bool parse_counts(struct options *o, const char *arg)
{
	char *copy = strdup(arg), *save = NULL;
	bool good = copy != NULL;

	o->ncounts = 0;
	for (char *p = good ? strtok_r(copy, ",", &save) : NULL; p != NULL && good;
		p = strtok_r(NULL, ",", &save)) {
		good = o->ncounts < COUNTS_MAX &&
		       parse_unsigned(p, 1, BENCH_WORKERS_MAX, &o->counts[o->ncounts++]);
	}
	free(copy);
	return good && o->ncounts > 0;
}

static bool parse_kind(const char *arg, enum bench_kind *out)
{
	for (unsigned i = BENCH_BROKER; i <= BENCH_SQLITE; i++) {
		if (strcmp(arg, bench_kind_name(i)) == 0) {
			*out = i;
			return true;
		}
	}
	return false;
}

static bool parse_protocol(const char *arg, enum bench_protocol *out)
{
	for (unsigned i = BENCH_PREPARED; i <= BENCH_SIMPLE; i++) {
		if (strcmp(arg, bench_protocol_name(i)) == 0) {
			*out = i;
			return true;
		}
	}
	return false;
}

static bool parse_value(struct options *o, int letter, const char *arg)
{
	struct bench_plan *p = &o->plan;
	unsigned seed;

	switch (letter) {
	case 't':
		return parse_kind(arg, &p->target.kind);
	case 'a':
		p->target.address = arg;
		return true;
	case 'P':
		p->target.pool = arg;
		return true;
	case 'p':
		o->protocol = arg;
		return parse_protocol(arg, &p->target.protocol);
	case 'w':
		return parse_counts(o, arg);
	case 's':
		return parse_real(arg, 0.01, 86400, &p->seconds);
	case 'W':
		return parse_real(arg, 0, 3600, &p->warmup);
	case 'o':
		p->observe = arg;
		return true;
	case OPT_PAGE:
		return parse_unsigned(arg, 1, BENCH_PAGE_MAX, &p->page);
	case OPT_ROWS:
		return parse_unsigned(arg, 1, BENCH_ROWS, &p->rows);
	case OPT_SLOW_PERCENT:
		return parse_real(arg, 0, 100, &p->slow_percent);
	case OPT_SLOW_MS:
		return parse_unsigned(arg, 1, 60000, &p->slow_ms);
	case OPT_SEED:
		p->seed = parse_unsigned(arg, 0, ~0u, &seed) ? seed : 0;
		return p->seed == seed;
	default: /* OPT_SCALE */
		return parse_unsigned(arg, 1, 10000, &o->scale);
	}
}

/* -1: go on; otherwise an exit status. */
static int parse_options(int argc, char **argv, struct options *o)
{
	int c;

	while ((c = getopt_long(argc, argv, "t:a:P:p:uw:s:W:o:jhV", long_options, NULL)) != -1) {
		switch (c) {
		case 'h':
			print_usage();
			return EXIT_SUCCESS;
		case 'V':
			puts("brokerbench " SHMBROKER_VERSION);
			return EXIT_SUCCESS;
		case 'u':
			o->plan.target.declare = false;
			break;
		case 'j':
			o->json = true;
			break;
		case '?':
			fputs("Try 'brokerbench --help'.\n", stderr);
			return EXIT_BAD_USAGE;
		default:
			if (!parse_value(o, c, optarg)) {
				return usage_error("invalid value '%s'", optarg);
			}
		}
	}
	if (optind >= argc) {
		return usage_error("no workload is named%s", "");
	}
	if (o->plan.target.address == NULL && o->plan.target.kind != BENCH_BROKER) {
		return usage_error(
			"--target %s needs --address", bench_kind_name(o->plan.target.kind));
	}
	if (o->protocol != NULL && o->plan.target.kind != BENCH_LIBPQ) {
		return usage_error("--protocol %s is for --target libpq", o->protocol);
	}
	return -1;
}

/* -- runs -----------------------------------------------------------------------------------------
 */

struct output {
	struct bench_table *table;
	json_t *list;
	bool failed; /* something that was measured went wrong */
};

static int complain(const struct bench_plan *p, const char *what)
{
	fprintf(stderr, "brokerbench: %s, %u workers: %s\n", p->workload->name, p->workers, what);
	return -1;
}

static int record(struct output *out, const struct bench_result *r)
{
	if (r->errors > 0 || r->gave_up > 0) {
		fprintf(stderr,
			"brokerbench: %s, %u workers: %llu errors, %u workers gave up; %s\n",
			r->plan->workload->name, r->plan->workers, (unsigned long long)r->errors,
			r->gave_up, r->error);
		out->failed = true;
	}
	if (out->list != NULL) {
		return json_array_append_new(out->list, bench_json(r));
	}
	bench_table_add(out->table, r);
	return 0;
}

static int run_one(struct bench_plan *p, struct output *out)
{
	char err[512] = "";
	struct bench_result r;
	int rc;

	if (strcmp(p->workload->name, "lease") == 0 && p->target.kind != BENCH_BROKER) {
		return complain(p, "only the broker has leases");
	}
	if (bench_look(p, err, sizeof(err)) < 0 || bench_run(p, &r, err, sizeof(err)) < 0) {
		return complain(p, err);
	}
	rc = record(out, &r);
	bench_result_finish(&r);
	return rc < 0 ? complain(p, "out of memory") : 0;
}

static int run_all(struct options *o, char **names, struct output *out)
{
	for (; *names != NULL; names++) {
		o->plan.workload = bench_workload_find(*names);
		for (unsigned i = 0; i < o->ncounts; i++) {
			o->plan.workers = o->counts[i];
			if (run_one(&o->plan, out) < 0) {
				return -1;
			}
		}
	}
	return 0;
}

static int print(struct output *out)
{
	if (out->list != NULL) {
		return json_dumpf(out->list, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) < 0 ||
				       putchar('\n') == EOF
			       ? -1
			       : 0;
	}
	return bench_table_print(out->table, stdout, isatty(STDOUT_FILENO));
}

static int measure(struct options *o, char **names)
{
	struct output out = {0};
	int rc = -1;

	if (o->json) {
		out.list = json_array();
	} else {
		out.table = bench_table_create();
	}
	if (out.list != NULL || out.table != NULL) {
		rc = run_all(o, names, &out);
		if (print(&out) < 0) {
			rc = -1;
		}
	}
	json_decref(out.list);
	bench_table_free(&out.table);
	return rc < 0 || out.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int init(const struct options *o, char **more)
{
	char err[512] = "";

	if (*more != NULL) {
		return usage_error("init stands alone, not with %s", *more);
	}
	if (bench_init(&o->plan.target, o->scale, err, sizeof(err)) < 0) {
		fprintf(stderr, "brokerbench: %s\n", err);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct options o = {
		.plan = {.target = {.declare = true},
			.seconds = 2,
			.warmup = 0.5,
			.page = 20,
			.rows = 100,
			.slow_percent = 1,
			.slow_ms = 200,
			.seed = 1},
		.counts = {8},
		.ncounts = 1,
		.scale = 10,
	};
	int rc;

	setlocale(LC_CTYPE, "");
	signal(SIGPIPE, SIG_IGN); /* of a server that went away: libpq reports it */
	rc = parse_options(argc, argv, &o);
	if (rc >= 0) {
		return rc;
	}
	if (strcmp(argv[optind], "init") == 0) {
		return init(&o, argv + optind + 1);
	}
	for (int i = optind; i < argc; i++) {
		if (bench_workload_find(argv[i]) == NULL) {
			return usage_error("there is no workload '%s'", argv[i]);
		}
	}
	return measure(&o, argv + optind);
}
