/* SPDX-License-Identifier: MIT */
/* server.c - see server.h: life, and the row on the board. */
#include "server.h"

#include "io.h"
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int server_create(struct io *io, unsigned index, const struct config_server *config,
	struct tally *tally, struct server **out)
{
	struct server *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		return -1;
	}
	s->tally = tally != NULL ? tally_hold(tally) : tally_create();
	s->io = io;
	s->index = index;
	s->config = config;
	s->driver = driver_for_url(config->url);
	s->masked_url = config_mask_url(config->url);
	CDS_INIT_LIST_HEAD(&s->members);
	if (s->masked_url == NULL || s->tally == NULL) {
		server_destroy(&s);
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
	check(cds_list_empty(&s->members));
	health_stop(s);
	free(s->masked_url);
	tally_put(s->tally);
	free(s);
	*ss = NULL;
}

/* Any member that is configured; its credentials are as good for probes as any other's. */
static struct member *member_of(const struct server *s)
{
	struct member *m;

	cds_list_for_each_entry(m, &s->members, server_link)
	{
		if (m->index != MEMBER_DRAINING) {
			return m;
		}
	}
	return NULL;
}

int server_watch(struct server *s)
{
	struct member *m = s->priv == NULL && !s->io->stopping ? member_of(s) : NULL;

	if (s->io->shard > 0 && s->driver->probe_open != NULL) {
		return 0; /* shard 0 does */
	}
	return m == NULL ? 0 : health_start(s, m->server_priv);
}

static void bury(struct server *s)
{
	s->io->nremoved--;
	server_destroy(&s);
}

void server_add_member(struct server *s, struct member *m)
{
	cds_list_add_tail(&m->server_link, &s->members);
}

void server_lost_member(struct server *s, struct member *m)
{
	cds_list_del(&m->server_link);
	if (s->priv == m->server_priv) {
		health_stop(s);
	}
	if (s->removed && cds_list_empty(&s->members)) {
		bury(s);
	}
}

void server_remove(struct server *s)
{
	health_stop(s);
	s->removed = true;
	s->io->nremoved++;
	if (cds_list_empty(&s->members)) {
		bury(s);
	}
}

static bool is_fenced(const struct server *s)
{
	const struct member *m;

	cds_list_for_each_entry(m, &s->members, server_link)
	{
		if (m->fenced && m->index != MEMBER_DRAINING) {
			return s->state.verdict != VERDICT_DOWN;
		}
	}
	return false;
}

void server_mirror(const struct server *s)
{
	struct board_server_info info = {
		.state = (uint32_t)s->state.verdict,
		.role = (uint32_t)s->state.role,
		.connections = tally_open(s->tally),
		.max_connections = (uint32_t)s->config->max_connections,
		.lag_bytes = s->lag_bytes,
		.lag_ns = s->state.lag_ns,
		.latency_ns = s->latency_ns,
		.since_ns = s->since_ns,
		.probed_ns = s->probed_ns,
	};

	snprintf(info.name, sizeof(info.name), "%s", s->config->name);
	snprintf(info.kind, sizeof(info.kind), "%s", s->driver->name);
	snprintf(info.address, sizeof(info.address), "%s", s->masked_url);
	if (s->last_error[0] == '\0' && is_fenced(s)) {
		snprintf(info.last_error, sizeof(info.last_error), FENCED_NOTE, s->state.timeline);
	} else {
		snprintf(info.last_error, sizeof(info.last_error), "%.190s", s->last_error);
	}
	board_server_row(s->io->board, s->index, &info);
}
