/* SPDX-License-Identifier: MIT */
/* server.c - see server.h: life, and the row on the board. */
#include "server.h"

#include "io.h"
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int server_create(struct io *io, unsigned index, const struct config_server *config,
	struct server **out)
{
	struct server *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		return -1;
	}
	s->io = io;
	s->index = index;
	s->config = config;
	s->driver = driver_for_url(config->url);
	s->masked_url = config_mask_url(config->url);
	if (s->masked_url == NULL) {
		free(s);
		return -1;
	}
	*out = s;
	return 0;
}

void server_destroy(struct server **ss)
{
	struct server *s = *ss;

	if (s == NULL) {
		return;
	}
	check(s->nmembers == 0);
	health_stop(s);
	free(s->masked_url);
	free(s);
	*ss = NULL;
}

/* Any member that is configured; its credentials are as good for probes as any other's. */
static struct member *member_of(const struct server *s)
{
	for (unsigned i = 0; i < s->io->npools; i++) {
		struct pool *p = s->io->pools[i];

		for (unsigned k = 0; p != NULL && k < p->nmembers; k++) {
			if (p->member[k]->server == s) {
				return p->member[k];
			}
		}
	}
	return NULL;
}

int server_watch(struct server *s)
{
	struct member *m = s->priv == NULL && !s->io->stopping ? member_of(s) : NULL;

	return m == NULL ? 0 : health_start(s, m->server_priv);
}

static void bury(struct server *s)
{
	s->io->nremoved--;
	server_destroy(&s);
}

void server_lost_member(struct server *s, const struct member *m)
{
	if (s->priv == m->server_priv) {
		health_stop(s);
		s->priv = NULL;
	}
	s->nmembers--;
	if (s->removed && s->nmembers == 0) {
		bury(s);
	}
}

void server_remove(struct server *s)
{
	health_stop(s);
	s->removed = true;
	s->io->nremoved++;
	if (s->nmembers == 0) {
		bury(s);
	}
}

/* How much of the WAL of the primary of the same pool it has not replayed. */
static uint64_t lag_bytes(const struct server *s)
{
	const struct member *m = s->state.role == ROLE_STANDBY ? member_of(s) : NULL;
	const struct member *w = m != NULL ? m->pool->writer : NULL;

	return w != NULL && w->server->lsn > s->lsn ? w->server->lsn - s->lsn : 0;
}

void server_mirror(const struct server *s)
{
	struct board_server_info info = {
		.state = (uint32_t)s->state.verdict,
		.role = (uint32_t)s->state.role,
		.connections = s->open,
		.max_connections = (uint32_t)s->config->max_connections,
		.lag_bytes = lag_bytes(s),
		.lag_ns = s->state.lag_ns,
		.latency_ns = s->latency_ns,
		.since_ns = s->since_ns,
		.probed_ns = s->probed_ns,
	};

	snprintf(info.name, sizeof(info.name), "%s", s->config->name);
	snprintf(info.kind, sizeof(info.kind), "%s", s->driver->name);
	snprintf(info.address, sizeof(info.address), "%s", s->masked_url);
	snprintf(info.last_error, sizeof(info.last_error), "%.190s", s->last_error);
	board_server_row(s->io->board, s->index, &info);
}
