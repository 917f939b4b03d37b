/* SPDX-License-Identifier: MIT */
/* exporter_ready.c - see exporter_ready.h. */
#include "exporter_ready.h"

bool broker_healthy(const struct sample *s)
{
	return s != NULL && s->life == READER_RUNNING;
}

struct readiness pool_readiness(const struct sample *s, unsigned pool)
{
	const struct board_pool_info *p = &s->pools[pool].info;
	bool serves =
		broker_healthy(s) && (p->state == BOARD_POOL_UP || p->state == BOARD_POOL_DEGRADED);
	bool writable = serves && p->server != BOARD_NONE;

	return (struct readiness){
		.writable = writable,
		.readable = serves,
		.degraded = serves && (p->state == BOARD_POOL_DEGRADED || !writable),
	};
}
