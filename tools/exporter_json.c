/* SPDX-License-Identifier: MIT */
/* exporter_json.c - see exporter_json.h. */
#include "exporter_json.h"

#include "brokerstat.h"
#include "brokerstat_json.h"
#include "exporter_ready.h"
#include "text.h"

#include <string.h>

json_t *document_table(const struct sample *s, const char *key, json_t *table)
{
	return json_pack("{soso}", "broker", json_broker(s), key, table);
}

static const char *broker_state(const struct sample *s)
{
	return s != NULL ? reader_life_name(s->life) : "unknown";
}

json_t *document_health(const struct sample *s)
{
	return json_pack("{sbss}", "healthy", broker_healthy(s), "broker", broker_state(s));
}

static json_t *pool_object(const struct sample *s, unsigned i, struct readiness ready)
{
	char name[BOARD_NAME_MAX], buf[16];

	text_utf8(name, sizeof(name), s->pools[i].info.name, SIZE_MAX);
	return json_pack("{sssssbsbsb}", "name", name, "state",
		pool_state_name(s->pools[i].info.state, buf), "writable", ready.writable,
		"readable", ready.readable, "degraded", ready.degraded);
}

json_t *document_ready(const struct sample *s, const char *pool, bool write, bool *ready)
{
	json_t *pools = json_array();

	*ready = true;
	for (unsigned i = 0; s != NULL && i < s->npools; i++) {
		const struct pool_row *p = &s->pools[i];
		struct readiness r = pool_readiness(s, i);

		if (p->used && (pool == NULL || strcmp(pool, p->info.name) == 0)) {
			*ready = *ready && (write ? r.writable : r.readable);
			(void)!json_array_append_new(pools, pool_object(s, i, r));
		}
	}
	*ready = *ready && json_array_size(pools) > 0;
	return json_pack("{sbssso}", "ready", *ready, "broker", broker_state(s), "pools", pools);
}
