/* SPDX-License-Identifier: MIT */
/*
 * brokerstat_json.h - the parts of a sample as JSON values, for `brokerstat -j` and the exporter.
 *
 * Each returns a new reference, or NULL if memory ran out.  Texts are valid UTF-8, whatever the
 * board says.  Durations and ages are seconds.  Members are only added, never renamed.
 */
#ifndef TOOLS_BROKERSTAT_JSON_H
#define TOOLS_BROKERSTAT_JSON_H

#include "reader.h"

#include <jansson.h>

json_t *json_broker(const struct sample *s);
json_t *json_pools(const struct sample *s);
json_t *json_servers(const struct sample *s);
json_t *json_connections(const struct sample *s);
json_t *json_workers(const struct sample *s);
/* One row that is in use. */
json_t *json_connection(const struct sample *s, unsigned row);
json_t *json_worker(const struct sample *s, unsigned row);
/* Events with numbers above `after`. */
json_t *json_events(const struct sample *s, uint64_t after);
/* The first `n` of `all` shapes; their shares are of the time of all of them. */
json_t *json_statements(
	const struct sample *s, const struct shape_entry *v, unsigned n, unsigned all);
json_t *json_slow_list(const struct sample *s, const struct numbered_slow *v, unsigned n);

#endif
