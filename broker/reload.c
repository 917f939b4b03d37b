/* SPDX-License-Identifier: MIT */
/* reload.c - see reload.h. */
#include "reload.h"

#include "io.h"
#include "log.h"
#include "pool.h"
#include "server.h"
#include "shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of one I/O thread. */
struct plan {
	struct io *io;
	const struct plan *first; /* of the first one; itself for that */
	const struct config *next;
	struct server **servers; /* by row; NULL: removed */
	struct pool **pools;
	struct pool_plan *pool_plans;
	unsigned npools; /* planned so far */
};

static bool is_known(const struct io *io, unsigned row)
{
	return row < io->nservers && io->servers[row] != NULL;
}

/* The tally of a server that the first I/O thread has planned anew. */
static struct tally *tally_of(const struct plan *p, unsigned server)
{
	return p->first == p ? NULL : p->first->servers[server]->tally;
}

static int plan_servers(struct plan *p)
{
	for (unsigned i = 0; i < p->next->nservers; i++) {
		const struct config_server *c = &p->next->servers[i];

		if (c->removed) {
			continue;
		}
		if (is_known(p->io, i) && strcmp(p->io->servers[i]->config->url, c->url) == 0) {
			p->servers[i] = p->io->servers[i];
		} else if (server_create(p->io, i, c, tally_of(p, i), &p->servers[i]) < 0) {
			return -1;
		}
	}
	return 0;
}

static int plan_pools(struct plan *p, char *err, size_t errlen)
{
	const struct config *next = p->next;

	for (; p->npools < next->npools; p->npools++) {
		unsigned i = p->npools;
		const struct config_pool *c = &next->pools[i];
		char why[400];

		p->pools[i] = i < p->io->npools ? p->io->pools[i] : pool_create(p->io, i, c);
		if (p->pools[i] == NULL) {
			return -1;
		}
		if (pool_plan(p->pools[i], c, p->servers, next->servers, next->nservers,
			    p->first == p ? NULL : &p->first->pool_plans[i], &p->pool_plans[i], why,
			    sizeof(why)) < 0) {
			snprintf(err, errlen, "pool %s: %s", c->name, why);
			p->npools++; /* drop_plan looks at it */
			return -1;
		}
	}
	return 0;
}

/* What was created and is not used. */
static void drop_plan(struct plan *p)
{
	for (unsigned i = 0; p->pool_plans != NULL && i < p->npools; i++) {
		pool_drop_plan(&p->pool_plans[i]);
		if (i >= p->io->npools) {
			pool_destroy(&p->pools[i]);
		}
	}
	for (unsigned i = 0; p->servers != NULL && i < p->next->nservers; i++) {
		if (p->servers[i] != NULL &&
			!(is_known(p->io, i) && p->io->servers[i] == p->servers[i])) {
			server_destroy(&p->servers[i]);
		}
	}
}

static void free_plan(struct plan *p)
{
	free(p->servers);
	free(p->pools);
	free(p->pool_plans);
}

static void apply_servers(struct plan *p)
{
	struct io *io = p->io;

	for (unsigned i = 0; i < p->next->nservers; i++) {
		struct server *was = is_known(io, i) ? io->servers[i] : NULL;

		io->servers[i] = p->servers[i];
		if (was != NULL && was != p->servers[i]) {
			server_remove(was);
		} else if (was != NULL) {
			was->config = &p->next->servers[i];
		}
		if (p->servers[i] == NULL) {
			board_server_row(io->board, i, NULL);
		}
	}
	io->nservers = p->next->nservers;
}

static void apply(struct plan *p)
{
	struct io *io = p->io;

	for (unsigned i = 0; i < p->next->npools; i++) {
		io->pools[i] = p->pools[i];
		pool_apply(p->pools[i], &p->pool_plans[i]);
	}
	io->npools = p->next->npools;
	apply_servers(p);
	io->config = p->next;
}

/* Workers look up new names on the board: they must not have to wait for the next tick. */
static void mirror(struct io *io)
{
	for (unsigned i = 0; i < io->nservers; i++) {
		if (io->servers[i] != NULL && io->shard == 0) {
			server_mirror(io->servers[i]);
		}
	}
	for (unsigned i = 0; i < io->npools; i++) {
		pool_mirror(io->pools[i]);
	}
}

static int make_plan(struct plan *p, char *err, size_t errlen)
{
	p->servers = calloc(p->next->nservers, sizeof(struct server *));
	p->pools = calloc(p->next->npools, sizeof(struct pool *));
	p->pool_plans = calloc(p->next->npools, sizeof(struct pool_plan));
	snprintf(err, errlen, "out of memory");
	return p->servers == NULL || p->pools == NULL || p->pool_plans == NULL ||
			       plan_servers(p) < 0 || plan_pools(p, err, errlen) < 0
		       ? -1
		       : 0;
}

/* What follows from a plan that was applied. */
static int begin(struct io *io, bool first, char *err, size_t errlen)
{
	for (unsigned i = 0; i < io->nservers; i++) {
		if (io->servers[i] != NULL && server_watch(io->servers[i]) < 0) {
			log_error("server %s cannot be probed: out of memory",
				io->servers[i]->config->name); /* each tick tries again */
		}
	}
	for (unsigned i = 0; i < io->npools; i++) {
		if (handback_configure(io->pools[i], err, errlen) < 0) {
			if (first) {
				return -1;
			}
			log_error("pool %s: %s", io->pools[i]->config->name, err); /* tried again */
		}
		pool_decide(io->pools[i]);
		pool_grow(io->pools[i]);
	}
	mirror(io);
	return 0;
}

/* All plans are made before any is applied; those not made are empty. */
static int apply_to_all(struct plan *plans, unsigned n, bool first, char *err, size_t errlen)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < n; i++) {
		rc = make_plan(&plans[i], err, errlen);
	}
	for (unsigned i = n; i > 0; i--) { /* members of the first hold what the others share */
		if (rc < 0) {
			drop_plan(&plans[i - 1]);
		}
	}
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		apply(&plans[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		free_plan(&plans[i]);
	}
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		rc = begin(plans[i].io, first, err, errlen);
	}
	return rc;
}

int reload_apply(struct io *io, const struct config *next, unsigned max_pools, unsigned max_servers,
	char *err, size_t errlen)
{
	unsigned n = shards_count(io);
	struct plan *plans;
	int rc;

	if (next->npools > max_pools || next->nservers > max_servers) {
		snprintf(err, errlen, "more than %u pools or %u servers need a restart", max_pools,
			max_servers);
		return -1;
	}
	plans = calloc(n, sizeof(*plans));
	if (plans == NULL) {
		snprintf(err, errlen, "out of memory");
		return -1;
	}
	shards_stop(io);
	for (unsigned i = 0; i < n; i++) {
		plans[i] = (struct plan){.io = shards_at(io, i), .first = plans, .next = next};
	}
	rc = apply_to_all(plans, n, io->npools == 0, err, errlen);
	shards_go(io);
	free(plans);
	return rc;
}
