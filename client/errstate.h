/* SPDX-License-Identifier: MIT */
/*
 * errstate.h - what broker_error() shows: the last failure of a handle, with its texts.
 *
 * One per handle and one per thread for failed attaches.  No heap: a failure can always be told.
 * Every setter returns the code, so that callers write  return errstate_set(...).
 */
#ifndef CLIENT_ERRSTATE_H
#define CLIENT_ERRSTATE_H

#include "check.h"
#include "layout.h"
#include "shmbroker.h"

#include <stdarg.h>

struct errstate {
	struct broker_error pub;
	char text[SHM_ERROR_TEXT_MAX + 3]; /* message, detail, hint, each terminated */
};

/* No failure yet. */
void errstate_init(struct errstate *e);

/* A failure found by the library itself: nothing was done, repeating the same call is no use. */
int errstate_set(struct errstate *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same with a verdict. */
int errstate_verdict(struct errstate *e, int code, enum broker_outcome outcome, bool retry_safe,
	const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* A failure reported by the broker; record may be NULL, len is the bytes there are. */
int errstate_report(
	struct errstate *e, int code, enum broker_outcome outcome, const void *record, size_t len);

#endif
