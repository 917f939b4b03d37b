/* SPDX-License-Identifier: MIT */
/*
 * main.c - the program `broker`: command line, and the order of start and stop.
 */
#include "broker.h"
#include "config.h"
#include "log.h"
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define EXIT_USAGE 2
#define EXIT_CONFIG 78 /* EX_CONFIG of sysexits.h */

enum action {
	ACTION_NONE,
	ACTION_RUN,
	ACTION_SERVE,
	ACTION_HELP,
	ACTION_VERSION,
	ACTION_HELP_CONFIG,
	ACTION_PRINT_CONFIG,
	ACTION_CHECK_CONFIG,
};

struct arguments {
	enum action action;
	char *config; /* ours: the broker process of `run` overwrites the command line */
	struct config_override *overrides; /* texts are ours */
	size_t noverrides;
	bool verbose;
	int ready_fd, listen_fd; /* -1: none */
	char **command;
};

static const char help[] =
	"Usage: broker run [OPTION...] -- COMMAND [ARGUMENT...]\n"
	"       broker serve [OPTION...]\n"
	"       broker --print-config | --check-config [OPTION...]\n"
	"       broker --help | --help-config | --version\n"
	"\n"
	"run     starts the database pools, then COMMAND, whose processes reach the databases\n"
	"        through the broker; forwards signals and ends as COMMAND does\n"
	"serve   starts the database pools and serves whoever attaches\n"
	"SIGHUP makes either read its configuration again.\n"
	"\n"
	"  -c, --config FILE     configuration; otherwise BROKER_CONFIG, ./shmbroker.ini,\n"
	"                        /etc/shmbroker/shmbroker.ini, or the built-in default:\n"
	"                        an SQLite database shmbroker.db in the working directory\n"
	"  -d, --database URL    the same as --set 'server local.url=URL'\n"
	"  -s, --set SECTION.OPTION=VALUE\n"
	"                        one option, as in --set 'pool main.max_size=4'\n"
	"  -v, --verbose         the same as --set broker.log_level=debug\n"
	"      --ready-fd N      serve: write a byte to descriptor N when the pools can serve\n"
	"      --listen-fd N     serve: descriptor N is the listening socket\n"
	"      --print-config    print the values in force, secrets masked\n"
	"      --check-config    only look for mistakes in the configuration\n"
	"      --help-config     describe all options of the configuration\n"
	"  -h, --help            print this\n"
	"  -V, --version         print the version\n"
	"\n"
	"Exit status: 0 success; 1 failure while running; 2 wrong command line; 78 wrong\n"
	"configuration.  run: that of COMMAND; 126 it cannot be executed; 127 it was not found;\n"
	"128+N it died by signal N.\n"
	"\n"
	"See broker(8) and broker.conf(5).\n";

static const struct option long_options[] = {
	{"config", required_argument, NULL, 'c'},
	{"database", required_argument, NULL, 'd'},
	{"set", required_argument, NULL, 's'},
	{"verbose", no_argument, NULL, 'v'},
	{"ready-fd", required_argument, NULL, 'R'},
	{"listen-fd", required_argument, NULL, 'L'},
	{"print-config", no_argument, NULL, 'P'},
	{"check-config", no_argument, NULL, 'C'},
	{"help-config", no_argument, NULL, 'H'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

__attribute__((noreturn, format(printf, 1, 2))) static void usage(const char *fmt, ...)
{
	va_list ap;

	fputs("broker: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs("; broker --help shows what there is\n", stderr);
	exit(EXIT_USAGE);
}

__attribute__((noreturn)) static void out_of_memory(void)
{
	fputs("broker: out of memory\n", stderr);
	exit(EXIT_FAILURE);
}

static void add_override(struct arguments *a, const char *option, const char *value)
{
	char *text;

	if (asprintf(&text, "%s%s", option, value) < 0) {
		out_of_memory();
	}
	a->overrides[a->noverrides++].text = text;
}

static int parse_fd(const char *option, const char *text)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || n < 0 || n > INT_MAX ||
		fcntl((int)n, F_GETFD) < 0) {
		usage("%s: '%s' is no open descriptor", option, text);
	}
	return (int)n;
}

static void set_action(struct arguments *a, enum action action)
{
	/* What only prints wins over what runs, the first over the second. */
	if (a->action < ACTION_HELP) {
		a->action = action;
	}
}

/* The option that getopt_long stumbled over. */
static const char *culprit(char **argv, char *letter)
{
	if (optopt != 0 && optopt < 128 && strncmp(argv[optind - 1], "--", 2) != 0) {
		letter[0] = '-';
		letter[1] = (char)optopt;
		letter[2] = '\0';
		return letter;
	}
	return argv[optind - 1];
}

static void take_option(struct arguments *a, int c, char **argv)
{
	char letter[3];

	switch (c) {
	case 'c':
		if (a->config != NULL) {
			usage("--config is given twice");
		}
		a->config = strdup(optarg);
		if (a->config == NULL) {
			out_of_memory();
		}
		break;
	case 'd':
		add_override(a, "server local.url=", optarg);
		break;
	case 's':
		add_override(a, "", optarg);
		break;
	case 'v':
		a->verbose = true;
		break;
	case 'R':
		a->ready_fd = parse_fd("--ready-fd", optarg);
		break;
	case 'L':
		a->listen_fd = parse_fd("--listen-fd", optarg);
		break;
	case 'P':
		set_action(a, ACTION_PRINT_CONFIG);
		break;
	case 'C':
		set_action(a, ACTION_CHECK_CONFIG);
		break;
	case 'H':
		set_action(a, ACTION_HELP_CONFIG);
		break;
	case 'h':
		set_action(a, ACTION_HELP);
		break;
	case 'V':
		set_action(a, ACTION_VERSION);
		break;
	case ':':
		usage("option %s needs a value", culprit(argv, letter));
	default:
		usage("there is no option %s", culprit(argv, letter));
	}
}

static void parse_options(struct arguments *a, int argc, char **argv)
{
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:c:d:s:vhV", long_options, NULL)) != -1) {
		take_option(a, c, argv);
	}
}

static void check_arguments(struct arguments *a)
{
	if (a->action == ACTION_NONE) {
		usage("say what to do: run or serve");
	}
	if (a->action == ACTION_RUN && a->command[0] == NULL) {
		usage("run needs a command, as in: broker run -- ./server");
	}
	if (a->action != ACTION_SERVE && (a->ready_fd >= 0 || a->listen_fd >= 0)) {
		usage("--ready-fd and --listen-fd belong to serve");
	}
}

/* broker [OPTION...] [run|serve [OPTION...] [--] [COMMAND...]] */
static void parse_arguments(struct arguments *a, int argc, char **argv)
{
	const char *word;

	*a = (struct arguments){.ready_fd = -1, .listen_fd = -1};
	a->overrides = calloc((size_t)argc + 1, sizeof(*a->overrides));
	if (a->overrides == NULL) {
		out_of_memory();
	}
	parse_options(a, argc, argv);
	word = optind < argc ? argv[optind++] : NULL;
	if (word != NULL && strcmp(word, "run") == 0) {
		set_action(a, ACTION_RUN);
	} else if (word != NULL && strcmp(word, "serve") == 0) {
		set_action(a, ACTION_SERVE);
	} else if (word != NULL) {
		usage("there is no command '%s'", word);
	}
	parse_options(a, argc, argv);
	a->command = argv + optind;
	if (word != NULL && strcmp(word, "serve") == 0 && a->command[0] != NULL) {
		usage("serve takes no command, but there is '%s'", a->command[0]);
	}
	check_arguments(a);
	if (a->verbose) {
		add_override(a, "broker.log_level=debug", "");
	}
}

static void free_arguments(struct arguments *a)
{
	for (size_t i = 0; i < a->noverrides; i++) {
		free((char *)a->overrides[i].text);
	}
	free(a->overrides);
	free(a->config);
}

static struct config_source source_of(const struct arguments *a)
{
	return (struct config_source){
		.path = a->config,
		.env = environ,
		.over = a->overrides,
		.nover = a->noverrides,
	};
}

static int run(const struct arguments *a, const struct config *cfg, int argc, char **argv)
{
	struct config_source source = source_of(a);
	struct supervisor_job job = {
		.cfg = cfg,
		.source = &source,
		.command = a->command,
		.serve = broker_main,
		.title = argv[0],
		.title_len = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) + 1 - argv[0]),
	};

	return supervisor_run(&job);
}

static int serve(const struct arguments *a, const struct config *cfg)
{
	struct config_source source = source_of(a);
	struct broker_start start = {
		.attach_fd = -1,
		.listen_fd = a->listen_fd,
		.ready_fd = a->ready_fd,
		.source = &source,
	};

	signal(SIGHUP, SIG_IGN); /* until the broker listens to it */
	return broker_main(cfg, &start);
}

static void advise(const char *text)
{
	log_warning("%s", text);
}

static int with_config(const struct arguments *a, const struct config *cfg, int argc, char **argv)
{
	check(log_setup(cfg->broker.log_level, cfg->broker.log_format));
	if (a->action != ACTION_PRINT_CONFIG) {
		config_advise(cfg, advise);
	}
	switch (a->action) {
	case ACTION_RUN:
		return run(a, cfg, argc, argv);
	case ACTION_SERVE:
		return serve(a, cfg);
	case ACTION_PRINT_CONFIG:
		config_print(cfg, stdout);
		return EXIT_SUCCESS;
	default:
		printf("the configuration is good; file: %s\n",
			cfg->source != NULL ? cfg->source : "none");
		return EXIT_SUCCESS;
	}
}

static int load_and_go(const struct arguments *a, int argc, char **argv)
{
	struct config *cfg;
	char mistakes[16384];
	int status;

	if (config_load(a->config, environ, a->overrides, a->noverrides, &cfg, mistakes,
		    sizeof(mistakes)) < 0) {
		fprintf(stderr, "%s\nbroker: the configuration is wrong; nothing was started\n",
			mistakes);
		return EXIT_CONFIG;
	}
	status = with_config(a, cfg, argc, argv);
	config_free(cfg);
	return status;
}

/* A descriptor that we open may not become standard output or error by accident. */
static void open_stdio(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0) {
		close(fd);
	}
}

int main(int argc, char **argv)
{
	struct arguments a;
	int status = EXIT_SUCCESS;

	open_stdio();
	signal(SIGPIPE, SIG_IGN);
	parse_arguments(&a, argc, argv);
	switch (a.action) {
	case ACTION_HELP:
		fputs(help, stdout);
		break;
	case ACTION_VERSION:
		puts("broker " SHMBROKER_VERSION);
		break;
	case ACTION_HELP_CONFIG:
		config_describe(stdout);
		break;
	default:
		status = load_and_go(&a, argc, argv);
	}
	free_arguments(&a);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "broker: cannot write: %s\n", strerror(errno));
		status = status == EXIT_SUCCESS ? EXIT_FAILURE : status;
	}
	return status;
}
