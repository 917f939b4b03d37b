/* SPDX-License-Identifier: MIT */
/*
 * pg_address.h - what libpq is told to reach a server: a copy of what its connections use, for a
 * thread that connects by itself.  Made on the I/O thread; then it belongs to its user.
 */
#ifndef BROKER_PG_ADDRESS_H
#define BROKER_PG_ADDRESS_H

#include "check.h"

/* As PQconnectStartParams takes them, NULL at the end. */
struct pg_address {
	char **keywords;
	char **values;
};

/* server_priv: of driver_pg.server_open.  0, or -1: out of memory. */
int pg_address_copy(const void *server_priv, struct pg_address *out) must_use;
void pg_address_finish(struct pg_address *a);

#endif
