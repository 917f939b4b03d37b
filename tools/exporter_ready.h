/* SPDX-License-Identifier: MIT */
/*
 * exporter_ready.h - what a load balancer wants to know: can work be sent to this host?
 *
 * Pure functions of a sample.  A broker that is stalled, stopped or dead serves nobody, whatever
 * its rows say; a row that its writer was in the middle of is believed, since only its state
 * counts.
 */
#ifndef TOOLS_EXPORTER_READY_H
#define TOOLS_EXPORTER_READY_H

#include "reader.h"

struct readiness {
	bool writable;
	bool readable;
	bool degraded; /* serves, but not on its first choice, or reads only */
};

/* Of a pool whose row is in use. */
struct readiness pool_readiness(const struct sample *s, unsigned pool);

/* The broker's loop turns.  s NULL: there is no board. */
bool broker_healthy(const struct sample *s);

#endif
