/* SPDX-License-Identifier: MIT */
/*
 * bodyout.h - encodes the body of a request: head, tag, SQL text, parameters (layout.h).
 *
 * Writes into memory that the sink provides piece by piece, so that a body larger than the arena
 * needs no second copy: when a piece is full the sink is asked for the next.  bodyout_measure says
 * beforehand how long the body is; if that fits one piece the sink is never asked.
 */
#ifndef CLIENT_BODYOUT_H
#define CLIENT_BODYOUT_H

#include "check.h"
#include "layout.h"
#include "shmbroker.h"

struct body_spec {
	const char *tag;
	size_t tag_len;
	const char *sql;
	size_t sql_len; /* 0: the broker knows the text */
	unsigned nparams;
	const struct broker_value *params;
};

struct bodyout {
	unsigned char *p;
	size_t left;
	/* Ask for more room: sets p and left.  0, or a BROKER_E_ code that ends the encoding. */
	int (*more)(struct bodyout *o);
};

/* Bytes of the whole body; 0: a parameter is invalid (*bad is its index) or too long (*bad is
 * -1). */
uint64_t bodyout_measure(const struct body_spec *s, int *bad);

/* 0, or what more() returned. */
int bodyout_write(struct bodyout *o, const struct body_spec *s) must_use;

#endif
