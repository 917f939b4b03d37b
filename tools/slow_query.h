/* SPDX-License-Identifier: MIT */
/*
 * slow_query.h - conditions on slow statements (`brokerstat -s -q`): the fields of query.h's
 * language.
 */
#ifndef TOOLS_SLOW_QUERY_H
#define TOOLS_SLOW_QUERY_H

#include "query.h"
#include "reader.h"

/* What can be asked for; help is for people. */
struct slow_field {
	struct query_field field;
	const char *help;
};
#define SLOW_FIELDS 17u
extern const struct slow_field slow_fields[SLOW_FIELDS];

struct query *slow_query_parse(const char *condition, struct query_error *err) must_use;
bool slow_query_match(const struct query *q, const struct sample *s, const struct numbered_slow *v);

#endif
