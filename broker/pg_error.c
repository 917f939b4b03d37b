/* SPDX-License-Identifier: MIT */
/* pg_error.c - see pg.h: from what the server or libpq reports to struct failure. */
#include "pg.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

bool pg_is_fatal(const PGresult *res)
{
	const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);

	return severity != NULL &&
	       (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
}

bool pg_sqlstate_is(const PGresult *res, const char *sqlstate)
{
	const char *s = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	return s != NULL && strcmp(s, sqlstate) == 0;
}

/*
 * Two ways for an old plan to fail, both before anything is executed:
 *   0A000         the result has other columns now.  The message is translated by the server, the
 *                 name of the function that raised it is not; either will do.
 *   42883, 42804  the types of parameters were settled when the statement was prepared, and do not
 *                 go with the columns any more: "operator does not exist: text = integer"
 */
bool pg_is_stale_plan(const PGresult *res)
{
	const char *function, *message;

	if (pg_sqlstate_is(res, "42883") || pg_sqlstate_is(res, "42804")) {
		return true;
	}
	if (!pg_sqlstate_is(res, "0A000")) {
		return false;
	}
	function = PQresultErrorField(res, PG_DIAG_SOURCE_FUNCTION);
	message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	return (function != NULL && strcmp(function, "RevalidateCachedQuery") == 0) ||
	       (message != NULL && strstr(message, "cached plan must not change") != NULL);
}

/*
 * A commit that has to wait for standbys (synchronous_standby_names) can be cancelled while it
 * waits. The server then says that it is done, after a warning that it may be done here only.  The
 * warning is translated and its SQLSTATE is that of all warnings; the function that raises it has
 * no other.
 */
bool pg_is_unreplicated(const PGresult *notice)
{
	const char *function = PQresultErrorField(notice, PG_DIAG_SOURCE_FUNCTION);

	return function != NULL && strcmp(function, "SyncRepWaitForLSN") == 0;
}

/*
 * May the same thing be done again with a chance to succeed?  An error has undone the statement, or
 * the whole transaction it was in, so repeating (the statement, or the transaction from its start)
 * never does harm; the question is whether another time can go better:
 *
 *   40001 40P01  lost against a concurrent transaction, which is over by now or soon
 *   53xxx        out of memory, disk, connections: a matter of load
 *   55P03        a lock was not available
 *   57P01 57P02  this server goes down; the next connection is to another, or to it restarted
 *   57P03        it is starting up
 *
 * Not 57014 (somebody wanted it to end), not 25006 (it will be refused again), not 40002 and 40003
 * (constraint, unknown).
 */
static bool retry_may_succeed(const char *s)
{
	static const char *const exact[] = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03"};

	for (size_t i = 0; i < array_size(exact); i++) {
		if (strcmp(s, exact[i]) == 0) {
			return true;
		}
	}
	return strncmp(s, "53", 2) == 0;
}

void pg_failure(const PGresult *res, struct failure *f)
{
	const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

	*f = (struct failure){
		.code = FAIL_DATABASE,
		.message =
			message != NULL ? message : "the server reported an error without a text",
		.detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL),
		.hint = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT),
	};
	if (sqlstate == NULL) {
		return;
	}
	snprintf(f->sqlstate, sizeof(f->sqlstate), "%s", sqlstate);
	if (strcmp(f->sqlstate, "57014") == 0) {
		f->code = FAIL_CANCELLED;
	}
	if (strcmp(f->sqlstate, "40003") == 0) { /* statement_completion_unknown */
		f->code = FAIL_OUTCOME_UNKNOWN;
		f->unknown = true;
	}
	f->retry_safe = retry_may_succeed(f->sqlstate);
}

void pg_one_line(char *text)
{
	char *to = text;

	for (const char *from = text; *from != '\0'; from++) {
		if (isspace((unsigned char)*from)) {
			if (to > text && to[-1] != ' ') {
				*to++ = ' ';
			}
		} else {
			*to++ = *from;
		}
	}
	while (to > text && to[-1] == ' ') {
		to--;
	}
	*to = '\0';
}

static bool is_sqlstate(const char *s)
{
	for (int i = 0; i < 5; i++) {
		if (!isdigit((unsigned char)s[i]) && !(s[i] >= 'A' && s[i] <= 'Z')) {
			return false;
		}
	}
	return s[5] == ':';
}

/*
 * libpq gives no fields for errors of connecting, but verbose errors carry the code in the text:
 *   connection to server at "h", port 5432 failed: FATAL:  28P01: password authentication failed
 *   LOCATION:  auth_failed, auth.c:336
 * Take the code out, drop the location.  Several hosts make several such texts.
 */
void pg_connect_error(PGconn *pq, char *text, size_t size, char sqlstate[6])
{
	char *p, *end;

	snprintf(text, size, "%s", PQerrorMessage(pq));
	sqlstate[0] = '\0';
	while ((p = strstr(text, "\nLOCATION:")) != NULL) {
		end = strchr(p + 1, '\n');
		memmove(p, end != NULL ? end : p + strlen(p), end != NULL ? strlen(end) + 1 : 1);
	}
	for (p = text; (p = strstr(p, ":  ")) != NULL; p += 3) {
		if (strlen(p) > 10 && is_sqlstate(p + 3)) {
			memcpy(sqlstate, p + 3, 5);
			sqlstate[5] = '\0';
			memmove(p + 2, p + 9, strlen(p + 9) + 1);
		}
	}
	pg_one_line(text);
}
