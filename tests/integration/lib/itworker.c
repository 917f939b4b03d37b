/* SPDX-License-Identifier: MIT */
/*
 * itworker.c - a worker for shell tests: `itworker SOCKET NAME` attaches and does what standard
 * input says, one line each, words separated by tabs; answers "ok" or "error CODE MESSAGE".
 *
 *   exec TAG SQL     run a statement
 *   begin TAG SQL    begin a transaction and run a statement in it
 *   rollback         end it
 *
 * The first answer says whether it could attach.
 */
#include "shmbroker.h"

#include <stdio.h>
#include <string.h>

static struct broker *handle;
static struct broker_lease *lease;

static void answer(int rc)
{
	if (rc < 0) {
		printf("error %d %s\n", rc, handle != NULL ? broker_error(handle)->message : "");
	} else {
		puts("ok");
	}
	fflush(stdout);
}

static int run(const char *tag, const char *sql)
{
	struct broker_call call = {.tag = tag, .lease = lease};

	return broker_exec(handle, sql, 0, NULL, &call, NULL);
}

static int begin(const char *tag, const char *sql)
{
	struct broker_call call = {.tag = tag};
	int rc = lease != NULL ? BROKER_E_ARGUMENT : broker_begin(handle, &call, &lease);

	return rc < 0 ? rc : run(tag, sql);
}

static int obey(char *line)
{
	char *verb = strtok(line, "\t\n"), *tag = strtok(NULL, "\t\n"), *sql = strtok(NULL, "\n");

	if (verb == NULL) {
		return BROKER_E_ARGUMENT;
	}
	if (strcmp(verb, "rollback") == 0 && lease != NULL) {
		broker_rollback(&lease);
		return 0;
	}
	if (sql == NULL) {
		return BROKER_E_ARGUMENT;
	}
	return strcmp(verb, "exec") == 0    ? run(tag, sql)
	       : strcmp(verb, "begin") == 0 ? begin(tag, sql)
					    : BROKER_E_ARGUMENT;
}

int main(int argc, char **argv)
{
	struct broker_options options = {
		.path = argc > 1 ? argv[1] : NULL, .name = argc > 2 ? argv[2] : "itworker"};
	char line[8192];
	int rc = broker_attach(&options, &handle);

	answer(rc);
	while (rc >= 0 && fgets(line, sizeof(line), stdin) != NULL) {
		answer(obey(line));
	}
	broker_rollback(&lease);
	broker_detach(&handle);
	return rc < 0;
}
