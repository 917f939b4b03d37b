/* SPDX-License-Identifier: MIT */
/* health.c - see server.h.  Without probes: every server is taken at its word in the configuration,
 * where the first one is the primary. */
#include "io.h"
#include "server.h"

int health_start(struct server *s, void *server_priv)
{
	s->priv = server_priv;
	s->state.verdict = VERDICT_UP;
	s->state.role = s->driver->share == DRIVER_SHARE_READS ? ROLE_PRIMARY : ROLE_LOCAL;
	s->state.writable = true;
	s->since_ns = io_now(s->io);
	server_changed(s);
	return 0;
}

void health_stop(struct server *s)
{
	s->priv = NULL;
}

void health_hurry(struct server *s)
{
	(void)s;
}

void health_doubt_role(struct server *s)
{
	(void)s;
}

void probe_answered(struct server *s, const struct probe_answer *a)
{
	(void)s;
	(void)a;
}
