/* SPDX-License-Identifier: MIT */
/*
 * reload.h - brings servers and pools to what a configuration says: at the start, and whenever it
 * is read again.
 *
 * Nothing that runs is interrupted.  Sizes and times are read where they are needed, so they change
 * at once.  A server whose url changed is another server; a pool whose credentials changed gets new
 * connections beside the old ones, which are closed when they are free (member.h, DRAINING).
 * Everything that can fail is done before anything changes.
 *
 * With several I/O threads (shards.h) each has servers and pools of its own for the same rows; they
 * change together, while the world stands still.
 *
 * Shard 0 only.
 */
#ifndef BROKER_RELOAD_H
#define BROKER_RELOAD_H

#include "check.h"
#include "config.h"

struct io;

/*
 * next: its servers and pools have the rows of those in io that have the same name; new ones
 * follow.  It must live until io->config is another one and io->nremoved is 0.  io->pools and
 * io->servers have room for max_pools and max_servers.  0, or negative and a text; then nothing was
 * changed.
 */
int reload_apply(struct io *io, const struct config *next, unsigned max_pools, unsigned max_servers,
	char *err, size_t errlen) must_use;

#endif
