/* SPDX-License-Identifier: MIT */
/*
 * itctl.c - the fixture library for shell tests: reads commands from standard input, one per line,
 * words separated by tabs, and answers each with one line, "ok" and the words of the answer.
 *
 * fixture.sh runs it as a coprocess.  When the shell ends, however that comes about, standard input
 * ends, so does this program, and with it everything that it started (scratch.h).
 */
#include "brokerproc.h"
#include "pg.h"
#include "scratch.h"
#include "spawn.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define WORDS_MAX 96
#define THINGS_MAX 32

static struct pg_cluster *clusters[THINGS_MAX];
static unsigned nclusters;
static struct broker_proc *brokers[THINGS_MAX];
static unsigned nbrokers;

static unsigned index_of(const char *word, unsigned count)
{
	char *end = NULL;
	unsigned long n = word != NULL ? strtoul(word, &end, 10) : 0;

	if (word == NULL || *end != '\0' || n >= count) {
		bail_out("no such cluster or broker: %s", word != NULL ? word : "(none)");
	}
	return (unsigned)n;
}

static void answer_cluster(struct pg_cluster *pg)
{
	if (nclusters == THINGS_MAX) {
		bail_out("too many clusters");
	}
	clusters[nclusters] = pg;
	printf("ok\t%u\t%s\t%s\t%d\t%s\n", nclusters, pg_url(pg), pg_host(pg), (int)pg_pid(pg),
		pg_log(pg));
	nclusters++;
}

static void answer_broker(struct broker_proc *p)
{
	if (nbrokers == THINGS_MAX) {
		bail_out("too many brokers");
	}
	brokers[nbrokers] = p;
	printf("ok\t%u\t%s\t%d\t%s\n", nbrokers, broker_socket(p), (int)broker_pid(p),
		broker_log(p));
	nbrokers++;
}

/* As a shell counts: the exit code, or 128 and the signal. */
static void answer_status(int status)
{
	printf("ok\t%d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static enum pg_mode mode_of(const char *word)
{
	static const char *const names[] = {[PG_SMART] = "smart",
		[PG_FAST] = "fast",
		[PG_IMMEDIATE] = "immediate",
		[PG_KILL] = "kill"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (word != NULL && strcmp(word, names[i]) == 0) {
			return (enum pg_mode)i;
		}
	}
	bail_out("pg_stop: smart, fast, immediate or kill, not %s", word != NULL ? word : "(none)");
}

/* Verbs that take the number of a cluster. */
static bool cluster_verb(const char *const *w)
{
	struct pg_cluster *pg;

	if (strcmp(w[0], "pg_start") == 0) {
		answer_cluster(pg_start(w + 1));
		return true;
	}
	if (strncmp(w[0], "pg_", 3) != 0) {
		return false;
	}
	pg = clusters[index_of(w[1], nclusters)];
	if (strcmp(w[0], "pg_standby") == 0) {
		answer_cluster(pg_standby(pg, w + 2));
		return true;
	}
	if (strcmp(w[0], "pg_stop") == 0) {
		pg_stop(pg, mode_of(w[2]));
	} else if (strcmp(w[0], "pg_restart") == 0) {
		pg_restart(pg);
	} else if (strcmp(w[0], "pg_promote") == 0) {
		pg_promote(pg);
	} else if (strcmp(w[0], "pg_freeze") == 0) {
		pg_freeze(pg);
	} else if (strcmp(w[0], "pg_thaw") == 0) {
		pg_thaw(pg);
	} else {
		return false;
	}
	printf("ok\t%d\n", (int)pg_pid(pg));
	return true;
}

/* URL or "-", settings, and for broker_start_run "--" and a command. */
static void start_broker(const char **w)
{
	const char *url = w[1] == NULL || strcmp(w[1], "-") == 0 ? NULL : w[1];
	const char **settings = w[1] == NULL ? w + 1 : w + 2;

	for (const char **p = settings; *p != NULL; p++) {
		if (strcmp(*p, "--") == 0) {
			*p = NULL;
			answer_broker(broker_start_run(url, settings, p + 1));
			return;
		}
	}
	answer_broker(broker_start(url, settings));
}

static bool broker_verb(const char **w)
{
	struct broker_proc *p;

	if (strcmp(w[0], "broker_start") == 0) {
		start_broker(w);
		return true;
	}
	if (strncmp(w[0], "broker_", 7) != 0) {
		return false;
	}
	p = brokers[index_of(w[1], nbrokers)];
	if (strcmp(w[0], "broker_stop") == 0) {
		answer_status(broker_stop(p, 30000));
		return true;
	}
	if (strcmp(w[0], "broker_wait") == 0) {
		answer_status(broker_wait(p, 30000));
		return true;
	}
	if (strcmp(w[0], "broker_kill") == 0) {
		broker_kill(p);
	} else if (strcmp(w[0], "broker_pause") == 0) {
		broker_pause(p);
	} else if (strcmp(w[0], "broker_resume") == 0) {
		broker_resume(p);
	} else if (strcmp(w[0], "broker_restart") == 0) {
		broker_restart(p);
	} else {
		return false;
	}
	printf("ok\t%d\n", (int)broker_pid(p));
	return true;
}

static void run_line(char *line)
{
	const char *words[WORDS_MAX] = {NULL};
	unsigned n = 0;
	char *word;

	line[strcspn(line, "\n")] = '\0';
	while (n < WORDS_MAX - 1 && (word = strsep(&line, "\t")) != NULL) {
		words[n++] = word;
	}
	if (strcmp(words[0], "scratch") == 0) {
		printf("ok\t%s\n", scratch_dir());
	} else if (strcmp(words[0], "show_logs") == 0) {
		scratch_show_logs();
		printf("ok\n");
	} else if (!cluster_verb(words) && !broker_verb(words)) {
		bail_out("itctl: unknown command %s", words[0]);
	}
	fflush(stdout);
}

int main(void)
{
	char *line = NULL;
	size_t size = 0;

	while (getline(&line, &size, stdin) > 0) {
		run_line(line);
	}
	free(line);
	return 0;
}
