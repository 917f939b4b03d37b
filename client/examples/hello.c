/* SPDX-License-Identifier: MIT */
/* hello.c - the smallest useful program: attach, write, read, detach. */
#include <shmbroker.h>

#include <stdio.h>
#include <stdlib.h>

static void need(int rc, struct broker *b)
{
	if (rc < 0) {
		fprintf(stderr, "%s (%s)\n", broker_error(b)->message, broker_advice(rc));
		exit(1);
	}
}

int main(void)
{
	struct broker *b = NULL;
	struct broker_result *r;

	need(broker_attach(NULL, &b), NULL);
	need(broker_exec(b, "CREATE TABLE IF NOT EXISTS greeting (text TEXT)", 0, NULL, NULL, NULL),
		b);
	need(broker_exec(b, "INSERT INTO greeting VALUES ($1)", 1,
		     (struct broker_value[]){broker_text("hello, world")}, NULL, NULL),
		b);
	need(broker_exec(b, "SELECT text FROM greeting", 0, NULL, NULL, &r), b);
	while (broker_next(r) == 1) {
		const char *text;

		need(broker_get_text(r, 0, &text, NULL), b);
		puts(text);
	}
	broker_result_free(&r);
	broker_detach(&b);
	return 0;
}
