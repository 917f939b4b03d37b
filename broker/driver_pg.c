/* SPDX-License-Identifier: MIT */
/* driver_pg.c - PostgreSQL through libpq: the vtable.  pg.h is the map of the driver. */
#include "pg.h"

static unsigned size(void *priv, const struct config_pool *pool)
{
	(void)priv;
	return (unsigned)pool->max_size;
}

static unsigned roles(void *priv, unsigned slot)
{
	(void)priv;
	(void)slot;
	return CONN_READS | CONN_WRITES;
}

static void flush(struct conn *c)
{
	struct pg_backend *pg = c->priv;

	if (pg == NULL || pg->phase != PG_OPEN || pg->broken) {
		return;
	}
	pg_close_group(pg);
	pg_send_out(pg);
	/* Sending reads too when the socket is full, so results may be here that poll() will not
	 * announce. */
	pg_process(pg);
	if (pg->c != NULL) {
		pg_read_rest(pg);
	}
	if (pg->c == NULL || pg->broken) {
		return;
	}
	if ((pg->mute || PQstatus(pg->pq) != CONNECTION_OK) && !pg->blocked) {
		pg_break(pg, NULL);
		return;
	}
	pg_poll_update(pg);
}

static void resume(struct conn *c)
{
	struct pg_backend *pg = c->priv;

	if (pg != NULL && pg->blocked) {
		pg->resumed = true;
		conn_want_flush(c);
	}
}

const struct driver driver_pg = {
	.name = "postgresql",
	.share = DRIVER_SHARE_READS,
	.reset_rides = true,
	.server_open = pg_server_open,
	.server_close = pg_server_close,
	.size = size,
	.roles = roles,
	.probe_open = pg_probe_open,
	.probe_send = pg_probe_send,
	.probe_drop = pg_probe_drop,
	.probe_close = pg_probe_close,
	.connect = pg_connect,
	.start = pg_start,
	.flush = flush,
	.resume = resume,
	.copy_data = pg_copy_take,
	.copy_end = pg_copy_end,
	.cancel = pg_cancel,
	.reset = pg_reset,
	.detach = pg_detach,
	.adopt = pg_adopt,
	.close = pg_close,
};
