/* SPDX-License-Identifier: MIT */
/*
 * querylog.h - what a statement that ended leaves in segment Q: it is counted for its shape, and if
 * it was slow, or drawn by lot, it is written down.
 *
 * I/O thread only.  Counting takes constant time, allocates nothing and reads no clock; only a
 * shape that has no row yet costs another pass over the text.
 */
#ifndef BROKER_QUERYLOG_H
#define BROKER_QUERYLOG_H

#include "request.h"

/* r->stmt ended, well if f is NULL.  run_ns counts if it was sent. */
void querylog_note(struct request *r, const struct failure *f, uint64_t rows, uint64_t wait_ns,
	uint64_t run_ns);

/*
 * Parameter values as text, for people: $1 = 'it''s', $2 = 42, $3 = NULL, $4 = \x00ff....  Long
 * values and long lists are cut and end in "...".  Returns the length, at most size.
 */
size_t querylog_params(char *buf, size_t size, const struct request_param *params, unsigned n);

#endif
