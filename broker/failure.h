/* SPDX-License-Identifier: MIT */
/*
 * failure.h - why a request failed, as it goes to the worker, the log and the board.
 *
 * Built on the stack, borrowed by whoever is handed one; texts need live only during the call.
 */
#ifndef BROKER_FAILURE_H
#define BROKER_FAILURE_H

#include <stdbool.h>
#include <stdint.h>

/* Codes on the wire: positive numbers of client/errors.def. */
enum fail_code {
#define BROKER_ERROR(name, number, text, advice) FAIL_##name = number,
#include "errors.def"
#undef BROKER_ERROR
};

struct failure {
	enum fail_code code;
	bool unknown; /* it may have taken effect */
	bool retry_safe;
	/* of a connection: nothing that was in flight has run, it may all go elsewhere */
	bool not_run;
	char sqlstate[6]; /* "" if the database was not involved */
	const char *message; /* not NULL */
	const char *detail; /* NULL or "" if none */
	const char *hint;
};

#endif
