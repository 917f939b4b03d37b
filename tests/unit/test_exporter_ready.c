/* SPDX-License-Identifier: MIT */
/* test_exporter_ready.c - every state of broker and pool against what a load balancer is told. */
#include "exporter_json.h"
#include "exporter_ready.h"
#include "tap.h"

#include <stdio.h>
#include <string.h>

static struct pool_row rows[3];
static struct sample sample = {.npools = 3, .pools = rows};

static const char *told(enum reader_life life, uint32_t state, uint32_t server)
{
	static char text[4];
	struct readiness r;

	sample.life = life;
	rows[0].info.state = state;
	rows[0].info.server = server;
	r = pool_readiness(&sample, 0);
	snprintf(text, sizeof(text), "%c%c%c", r.writable ? 'w' : '-', r.readable ? 'r' : '-',
		r.degraded ? 'd' : '-');
	return text;
}

static void test_pool(void)
{
	is_str(told(READER_RUNNING, BOARD_POOL_UP, 0), "wr-", "up");
	is_str(told(READER_RUNNING, BOARD_POOL_UP, BOARD_NONE), "-rd", "up, nobody takes writes");
	is_str(told(READER_RUNNING, BOARD_POOL_DEGRADED, 1), "wrd", "degraded, on a second choice");
	is_str(told(READER_RUNNING, BOARD_POOL_DEGRADED, BOARD_NONE), "-rd", "reads only");
	is_str(told(READER_RUNNING, BOARD_POOL_STARTING, 0), "---", "starting");
	is_str(told(READER_RUNNING, BOARD_POOL_DOWN, 0), "---", "down");
	is_str(told(READER_RUNNING, BOARD_POOL_PAUSED, 0), "---", "paused");
	is_str(told(READER_RUNNING, 99, 0), "---", "a state of a newer broker");
	is_str(told(READER_STALLED, BOARD_POOL_UP, 0), "---", "up, but the broker is stalled");
	is_str(told(READER_STOPPED, BOARD_POOL_UP, 0), "---", "or stopped");
	is_str(told(READER_DEAD, BOARD_POOL_UP, 0), "---", "or dead");
	ok(!broker_healthy(NULL), "no board is not healthy");
}

static bool ready(const char *pool, bool write, unsigned pools)
{
	bool answer;
	json_t *doc = document_ready(&sample, pool, write, &answer);

	is_int((int64_t)json_array_size(json_object_get(doc, "pools")), pools, "pools named");
	ok(json_is_true(json_object_get(doc, "ready")) == answer, "the document says the same");
	json_decref(doc);
	return answer;
}

static void test_document(void)
{
	bool answer = true;
	json_t *doc;

	sample.life = READER_RUNNING;
	rows[0] = (struct pool_row){
		.used = true, .info = {.name = "main", .state = BOARD_POOL_UP, .server = 0}};
	rows[2] = (struct pool_row){.used = true,
		.info = {.name = "reports", .state = BOARD_POOL_DEGRADED, .server = BOARD_NONE}};
	ok(!ready(NULL, true, 2), "one pool takes no writes");
	ok(ready(NULL, false, 2), "both take reads");
	ok(ready("main", true, 1), "main takes writes");
	ok(!ready("reports", true, 1), "reports does not");
	ok(!ready("nobody", false, 0), "a pool that is not there is not ready");
	doc = document_ready(NULL, NULL, false, &answer);
	ok(!answer, "nor is anything without a board");
	is_str(json_string_value(json_object_get(doc, "broker")), "unknown",
		"whose broker is unknown");
	json_decref(doc);
}

int main(void)
{
	test_pool();
	test_document();
	return done_testing();
}
