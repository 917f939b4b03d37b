/* SPDX-License-Identifier: MIT */
/*
 * exporter_json.h - the documents that the exporter makes itself; the tables are
 * brokerstat_json.h's.
 *
 * Each returns a new reference, or NULL if memory ran out.  s NULL: there is no board.
 */
#ifndef TOOLS_EXPORTER_JSON_H
#define TOOLS_EXPORTER_JSON_H

#include "reader.h"

#include <jansson.h>

/* {"broker": …, key: table}; consumes table, which may be NULL. */
json_t *document_table(const struct sample *s, const char *key, json_t *table);

json_t *document_health(const struct sample *s);

/*
 * Every pool, or only the one of that name, with what it serves.  *ready: there is one, and all of
 * them take writes, or if `write` is false at least reads.
 */
json_t *document_ready(const struct sample *s, const char *pool, bool write, bool *ready);

#endif
