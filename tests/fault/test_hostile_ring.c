/* SPDX-License-Identifier: MIT */
/*
 * test_hostile_ring.c - nonsense in the submission ring and in request bodies: positions, ops,
 * lengths, ids, and bytes that change while the broker reads them.  The offender gets an error or
 * is evicted; the witness notices nothing.
 */
#include "atomics.h"
#include "raw.h"
#include "ring.h"
#include "shmbroker.h"
#include "stage.h"
#include "tap.h"
#include "wait.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVICT_MS 60000

static int64_t patience(void)
{
	return (int64_t)EVICT_MS * stage_slowness();
}

/* -- positions --------------------------------------------------------------------------------- */

static bool tail_is_refused(struct stage *s, uint64_t tail)
{
	struct raw r;
	bool refused;

	raw_attach(&r, stage_path(s));
	(void)raw_run(&r, stage_sql(s), patience());
	publish(&r.worker->sub_tail, tail);
	raw_bell(&r);
	refused = raw_evicted(&r, patience()) != 0;
	raw_drop(&r);
	return refused;
}

static void test_tails(struct stage *s)
{
	int64_t before = stage_metric(s, "broker_evictions_total");
	unsigned tried = 0, accepted = 0;

	for (unsigned bit = 8; bit < 64; bit += stage_quick() ? 5 : 1) {
		uint64_t power = UINT64_C(1) << bit;
		const uint64_t tails[] = {power - 1, power, power + 1, 0 - power, 1 - power};

		for (unsigned i = 0; i < 5; i++) {
			tried++;
			if (!tail_is_refused(s, tails[i])) {
				diag("tail %llx was accepted", (unsigned long long)tails[i]);
				accepted++;
			}
		}
	}
	is_int(accepted, 0, "%u impossible tails, forwards and backwards, are refused", tried);
	ok(tail_is_refused(s, 0), "a tail that steps back to 0 is refused");
	ok(tail_is_refused(s, 2 + CHAN_RING_SLOTS + 1), "a tail one slot too far is refused");
	is_int(stage_metric(s, "broker_evictions_total") - before, tried + 2,
		"each is an eviction");
}

static void test_comp_head(struct stage *s)
{
	static const uint64_t heads[] = {UINT64_MAX, 1u << 31, 1000, UINT64_C(1) << 63};
	unsigned answered = 0;

	for (unsigned i = 0; i < array_size(heads); i++) {
		struct raw r;
		struct shm_completion c;
		uint64_t id;

		raw_attach(&r, stage_path(s));
		id = raw_exec(&r, stage_sql(s), 0, 0);
		publish(&r.worker->comp_head, heads[i]);
		raw_publish(&r);
		(void)wait_until(observe(&r.broker->comp_tail) != 0, patience());
		r.head = 0;
		answered += raw_wait(&r, id, &c, patience()) && c.kind == COMP_DONE;
		raw_drop(&r);
	}
	is_int(answered, array_size(heads),
		"lies about the head of the completions change nothing");
}

/* -- descriptors ------------------------------------------------------------------------------- */

/* Send one descriptor after a good statement.  True: evicted.  False: the channel still works. */
static bool evicts(struct stage *s, const struct shm_request *d, uint32_t *code)
{
	struct raw r;
	bool evicted;
	int kind;

	raw_attach(&r, stage_path(s));
	r.at = 4096; /* the body, if it has one, is zeros */
	raw_send_request(&r, d);
	r.last_id = 1000000;
	kind = raw_run(&r, stage_sql(s), patience());
	evicted = get(&r.broker->closed) != 0;
	*code = get(&r.broker->closed);
	if (!evicted && kind != COMP_DONE) {
		diag("op %u: neither evicted nor served, kind %d", d->op, kind);
		*code = UINT32_MAX;
	}
	raw_drop(&r);
	return evicted;
}

static struct shm_request plain(uint8_t op)
{
	return (struct shm_request){.id = 77, .op = op, .free_chunk = CHAN_NO_CHUNK};
}

static void test_ops(struct stage *s)
{
	unsigned unknown = 0, odd = 0;
	uint32_t code;

	for (unsigned op = 0; op < 256; op += op < REQ_OP_COUNT || !stage_quick() ? 1 : 16) {
		struct shm_request d = plain((uint8_t)op);

		if (op == REQ_DETACH) {
			continue;
		}
		if (evicts(s, &d, &code) != (op >= REQ_OP_COUNT || op == REQ_EXEC ||
						    op == REQ_LEASE || op == REQ_COPY_IN ||
						    op == REQ_COPY_OUT)) {
			diag("op %u: code %u", op, code);
			odd++;
		}
		unknown += op >= REQ_OP_COUNT;
	}
	is_int(odd, 0,
		"every op without a body: served, answered with an error, or evicted (%u unknown)",
		unknown);
}

/* The same for wild values in every word of the descriptor, for each op. */
static void test_wild_words(struct stage *s, unsigned seed)
{
	unsigned evicted = 0, served = 0, lost = 0, n = stage_quick() ? 150 : 1500;

	srandom(seed);
	for (unsigned i = 0; i < n; i++) {
		struct shm_request d = plain((uint8_t)(random() % REQ_OP_COUNT));
		uint64_t words[8];
		uint32_t code;

		if (d.op == REQ_DETACH) {
			continue;
		}
		memcpy(words, &d, sizeof(words));
		for (unsigned k = (unsigned)random() % 3 + 1; k > 0; k--) {
			unsigned w = (unsigned)random() % 7;

			words[w == 1 ? 3 : w] ^= UINT64_C(1) << (random() % 64);
		}
		memcpy(&d, words, sizeof(d));
		if (evicts(s, &d, &code)) {
			evicted++;
		} else {
			served++;
		}
		lost += code == UINT32_MAX;
	}
	is_int(lost, 0,
		"descriptors with flipped bits: %u evicted, %u served, none hangs (seed %u)",
		evicted, served, seed);
}

struct bad {
	const char *what;
	struct shm_request d;
};

static void test_bad_descriptors(struct stage *s)
{
	const struct bad bad[] = {
		{"length beyond the arena", {.op = REQ_PART, .len = 256 * 1024 + 1}},
		{"length of 4 GiB", {.op = REQ_PART, .len = UINT32_MAX}},
		{"body that ends behind the arena",
			{.op = REQ_PART, .off = 256 * 1024 - 8, .len = 16}},
		{"offset and length that overflow",
			{.op = REQ_PART, .off = UINT64_MAX - 7, .len = 64}},
		{"offset at the very end", {.op = REQ_COPY_DATA, .off = UINT64_MAX, .len = 2}},
		{"reserved word", {.op = REQ_NOP, .reserved = 1}},
		{"statement id out of range", {.op = REQ_EXEC, .stmt = CHAN_MAX_STMTS}},
		{"statement id of 2^32-1", {.op = REQ_EXEC, .stmt = UINT32_MAX}},
		{"pool out of range", {.op = REQ_EXEC, .pool = 1, .len = 16}},
		{"pool 65535", {.op = REQ_LEASE, .pool = 65535, .len = 16}},
		{"pool out of range beside a lease id",
			{.op = REQ_LEASE, .pool = 65535, .lease = 5, .len = 16}},
		{"request id 0", {.op = REQ_COMMIT, .id = 0}},
		{"chunk that was never given", {.op = REQ_NOP, .free_chunk = 0}},
		{"chunk at the end of the arena", {.op = REQ_NOP, .free_chunk = 255}},
		{"chunk behind the arena", {.op = REQ_NOP, .free_chunk = 256}},
		{"chunk 2^32-2", {.op = REQ_NOP, .free_chunk = UINT32_MAX - 1}},
		{"lease with a huge body", {.op = REQ_LEASE, .len = 200000}},
	};

	for (unsigned i = 0; i < array_size(bad); i++) {
		struct shm_request d = bad[i].d;
		uint32_t code = 0;

		if (d.id == 0 && d.op != REQ_COMMIT) {
			d.id = 77;
		}
		if (strstr(bad[i].what, "chunk") == NULL) {
			d.free_chunk = CHAN_NO_CHUNK;
		}
		ok(evicts(s, &d, &code) && code == (uint32_t)-BROKER_E_PROTOCOL, "evicted: %s",
			bad[i].what);
	}
}

/* Ids of requests, leases and COPYs that do not exist, or are somebody else's. */
static void test_forged_ids(struct stage *s)
{
	struct raw victim, r;
	struct shm_completion c;
	uint64_t lease, first;
	unsigned refused = 0;

	raw_attach(&victim, stage_path(s));
	raw_attach(&r, stage_path(s));
	lease = raw_lease(&victim, 0);
	first = raw_exec(&victim, stage_sql(s), 0, lease);
	raw_publish(&victim);
	ok(raw_wait(&victim, first, &c, patience()) && c.kind == COMP_DONE,
		"somebody has a lease with id %llu", (unsigned long long)lease);
	r.last_id = 100;
	for (uint64_t guess = 1; guess < 20; guess++) {
		uint64_t id = raw_exec(&r, stage_sql(s), 0, guess);

		raw_publish(&r);
		refused += raw_wait(&r, id, &c, patience()) && c.kind == COMP_ERROR &&
			   c.code == (uint32_t)-BROKER_E_LEASE;
	}
	is_int(refused, 19, "guessing lease ids does not reach it");
	for (uint64_t guess = 0; guess < 60; guess++) {
		struct shm_request d = raw_request(&r, guess % 3 == 0   ? REQ_CANCEL
						       : guess % 3 == 1 ? REQ_COPY_DATA
									: REQ_COPY_END);

		d.target = guess / 3;
		raw_body(&r, &d, "data", 4);
		raw_send_request(&r, &d);
	}
	for (unsigned op = REQ_COMMIT; op <= REQ_RELEASE; op++) {
		uint64_t id = raw_op(&r, (uint8_t)op, lease);

		raw_publish(&r);
		ok(raw_wait(&r, id, &c, patience()) && c.kind == COMP_ERROR &&
				c.code == (uint32_t)-BROKER_E_LEASE,
			"op %u with another's lease is an error", op);
	}
	is_int(raw_run(&r, stage_sql(s), patience()), COMP_DONE,
		"cancels and COPY data for ids that are not there change nothing");
	first = raw_exec(&victim, stage_sql(s), 0, lease);
	raw_publish(&victim);
	ok(raw_wait(&victim, first, &c, patience()) && c.kind == COMP_DONE,
		"and the lease serves its owner");
	raw_drop(&victim);
	raw_drop(&r);
}

/* The same id for two leases, and for a lease and a statement. */
static void test_lease_twice(struct stage *s)
{
	struct raw r;
	struct shm_request d;
	unsigned char body[64];

	raw_attach(&r, stage_path(s));
	d = raw_request(&r, REQ_LEASE);
	raw_body(&r, &d, body, raw_encode(body, "", "", 0, NULL, 0));
	raw_push(&r, &d);
	raw_send_request(&r, &d);
	is_int(raw_evicted(&r, patience()), -BROKER_E_PROTOCOL,
		"evicted: the same id for two leases");
	raw_drop(&r);
}

static void test_chunks(struct stage *s)
{
	struct raw r;
	struct shm_completion c = {0};
	uint64_t id;

	raw_attach(&r, stage_path(s));
	id = raw_exec(&r, stage_sql(s), 0, 0);
	raw_publish(&r);
	(void)wait_until(raw_take(&r, &c) && c.id == id, patience());
	raw_give(&r, c.chunk);
	raw_give(&r, c.chunk);
	raw_publish(&r);
	is_int(raw_evicted(&r, patience()), -BROKER_E_PROTOCOL,
		"evicted: a chunk given back twice");
	raw_drop(&r);
}

/* A descriptor behind the one that evicts is not looked at. */
static void test_after_eviction(struct stage *s)
{
	struct raw r;

	raw_attach(&r, stage_path(s));
	raw_op(&r, 200, 0);
	for (unsigned i = 0; i < 60; i++) {
		(void)raw_lease(&r, 0);
	}
	raw_publish(&r);
	is_int(raw_evicted(&r, patience()), -BROKER_E_PROTOCOL,
		"evicted with work behind the offence");
	for (unsigned i = 0; i < 100; i++) {
		raw_bell(&r);
	}
	ok(stage_moves(s, 5000), "nothing of that work is done");
	raw_drop(&r);
}

/* -- bodies ------------------------------------------------------------------------------------ */

enum fate {
	EVICTED,
	ANSWERED, /* with an error or a result */
};

/* What becomes of an EXEC with this body. */
static int fate_of(struct stage *s, const void *body, size_t len, uint32_t stmt, uint8_t flags)
{
	struct raw r;
	struct shm_request d;
	struct shm_completion c;
	int fate;

	raw_attach(&r, stage_path(s));
	d = raw_request(&r, REQ_EXEC);
	d.stmt = stmt;
	d.flags = flags;
	raw_body(&r, &d, body, len);
	raw_send_request(&r, &d);
	fate = raw_wait(&r, d.id, &c, patience()) ? ANSWERED
	       : get(&r.broker->closed) != 0      ? EVICTED
						  : -1;
	raw_drop(&r);
	return fate;
}

static void test_heads(struct stage *s)
{
	static const uint32_t lies[] = {1, 7, 8, 9, 24, 25, 4096, 65536, 1u << 20, INT32_MAX,
		UINT32_MAX - 7, UINT32_MAX};
	unsigned char body[32];
	struct shm_body h;
	unsigned evicted = 0, served = 0, odd = 0;

	for (unsigned field = 0; field < 3; field++) {
		for (unsigned i = 0; i < array_size(lies); i++) {
			int fate;

			h = (struct shm_body){0};
			*(field == 0 ? &h.tag_len : field == 1 ? &h.sql_len : &h.nparams) = lies[i];
			memset(body, ' ', sizeof(body));
			memcpy(body, &h, sizeof(h));
			fate = fate_of(s, body, sizeof(body), 0, 0);
			/* Tags and texts of up to 16 bytes, and two empty parameters, are there. */
			odd += fate != (lies[i] > 16 || field == 2 ? EVICTED : ANSWERED);
			evicted += fate == EVICTED;
			served += fate == ANSWERED;
		}
	}
	is_int(odd, 0, "heads that claim more than there is: %u evicted, %u answered", evicted,
		served);
	for (size_t len = 0; len < sizeof(h); len += 5) {
		is_int(fate_of(s, body, len, 0, 0), EVICTED, "evicted: a body of %zu bytes", len);
	}
}

static void test_params(struct stage *s)
{
	const struct {
		const char *what;
		uint32_t type, len, claim; /* claim: length in the head */
	} p[] = {
		{"unknown type", CELL_TYPE_COUNT, 8, 8},
		{"type 2^32-1", UINT32_MAX, 8, 8},
		{"boolean of 8 bytes", CELL_BOOL, 8, 8},
		{"integer of 4 bytes", CELL_INT64, 8, 4},
		{"integer of no bytes", CELL_INT64, 0, 0},
		{"double of 9 bytes", CELL_DOUBLE, 16, 9},
		{"NULL with bytes", CELL_NULL, 8, 8},
		{"text longer than the body", CELL_TEXT, 8, 17},
		{"text of 4 GiB", CELL_TEXT, 8, UINT32_MAX},
		{"blob of 2^31 bytes", CELL_BLOB, 8, 1u << 31},
	};
	unsigned char body[256], param[64];

	for (unsigned i = 0; i < array_size(p); i++) {
		size_t n = raw_param(param, p[i].type, "abcdefghijklmnop", p[i].len);

		memcpy(param, &p[i].claim, sizeof(p[i].claim));
		n = raw_encode(body, "", stage_sql(s), 1, param, n);
		is_int(fate_of(s, body, n, 0, 0), EVICTED, "evicted: parameter, %s", p[i].what);
	}
}

/* Parameters whose frame is right and whose value is not. */
static void test_odd_values(struct stage *s)
{
	static const char *const bad_text[] = {"\xff\xfe\x80", "a\0b", "\xed\xa0\x80"};
	const char *sql = stage_db(s) == STAGE_FAKE ? "echo" : "SELECT CAST($1 AS TEXT)";
	unsigned char body[256], param[64];
	unsigned char two = 2;
	size_t n;

	for (unsigned i = 0; i < array_size(bad_text); i++) {
		n = raw_param(param, CELL_TEXT, bad_text[i], 3);
		n = raw_encode(body, "", sql, 1, param, n);
		is_int(fate_of(s, body, n, 0, 0), ANSWERED, "answered: text that is not text, %u",
			i);
	}
	n = raw_param(param, CELL_BOOL, &two, 1);
	n = raw_encode(body, "", sql, 1, param, n);
	is_int(fate_of(s, body, n, 0, 0), ANSWERED, "answered: a boolean of 2");
	n = raw_encode(body, "", sql, 0, NULL, 0);
	is_int(fate_of(s, body, n, 0, 0), ANSWERED, "answered: no value for $1");
	n = raw_encode(body, "\x1b[2J\xff\n", sql, 0, NULL, 0);
	is_int(fate_of(s, body, n, 0, 0), ANSWERED, "answered: a tag of control characters");
}

static void test_statement_ids(struct stage *s)
{
	unsigned char body[64];
	size_t n = raw_encode(body, "", "", 0, NULL, 0);

	is_int(fate_of(s, body, n, 5, 0), EVICTED,
		"evicted: a statement id that was never defined");
	is_int(fate_of(s, body, n, 1023, REQ_F_DEFINE), EVICTED,
		"evicted: defining it without a text");
	is_int(fate_of(s, body, n, 0, REQ_F_DEFINE), ANSWERED, "answered: an empty text");
	n = raw_encode(body, "", stage_sql(s), 0, NULL, 0);
	is_int(fate_of(s, body, n, 1023, 0), ANSWERED, "answered: a text beside an id");
	body[16] = '\0';
	is_int(fate_of(s, body, n, 0, 0), EVICTED, "evicted: a text with a NUL in it");
}

static void test_flags(struct stage *s)
{
	unsigned char body[64];
	size_t n = raw_encode(body, "", stage_sql(s), 0, NULL, 0);
	unsigned answered = 0, tried = 0;

	for (unsigned flags = 0; flags < 256; flags += stage_quick() ? 11 : 1) {
		struct shm_completion c;
		struct raw r;
		uint64_t id;

		tried += 2;
		answered += fate_of(s, body, n, 0, (uint8_t)flags) == ANSWERED;
		raw_attach(&r, stage_path(s));
		id = raw_exec(&r, stage_sql(s), 0, raw_lease(&r, (uint8_t)flags));
		raw_publish(&r);
		answered += raw_wait(&r, id, &c, patience());
		raw_drop(&r);
	}
	is_int(answered, tried, "every value of the flags, of statements and leases, is answered");
}

/* -- bytes that change ------------------------------------------------------------------------- */

struct flipper {
	unsigned char *at;
	size_t len;
	_Atomic int stop;
};

/* Racing is what it is for: ThreadSanitizer need not report it. */
__attribute__((no_sanitize("thread"))) static void *flip(void *arg)
{
	struct flipper *f = arg;
	unsigned n = 0;

	while (!atomic_load(&f->stop)) {
		volatile unsigned char *p = f->at + n++ * 7919u % f->len;

		*p = (unsigned char)(*p ^ (1u << (n & 7)));
	}
	return NULL;
}

/* Submit for a while as a thread flips bytes of the ring or the arena; attach again when
 * evicted. */
static void flip_for(struct stage *s, bool ring, int64_t ms)
{
	int64_t end = wait_clock_ms() + ms;
	unsigned evicted = 0, answered = 0, silent = 0;

	while (wait_clock_ms() < end) {
		struct raw r;
		pthread_t thread;
		struct flipper f = {0};

		raw_attach(&r, stage_path(s));
		f.at = ring ? r.ring : r.arena;
		f.len = ring ? 16 * RING_SLOT : 4096;
		pthread_create(&thread, NULL, flip, &f);
		for (unsigned i = 0; i < 200 && get(&r.broker->closed) == 0; i++) {
			struct shm_completion c;
			uint64_t id = raw_exec(&r, stage_sql(s), REQ_F_READONLY, 0);

			r.at &= 1023; /* stay in the bytes that change */
			raw_publish(&r);
			if (raw_wait(&r, id, &c, 20)) {
				answered++;
			} else if (get(&r.broker->closed) == 0) {
				silent++; /* its id or a cancel came out of the bits */
			}
		}
		evicted += get(&r.broker->closed) != 0;
		atomic_store(&f.stop, 1);
		pthread_join(thread, NULL);
		raw_drop(&r);
	}
	ok(stage_moves(s, 5000),
		"%s that change all the time: %u answered, %u evicted, %u unanswered",
		ring ? "descriptors" : "texts", answered, evicted, silent);
}

/* A valid text is exchanged for another of the same length: the broker acts on one copy. */
static void test_exchange(struct stage *s)
{
	static const char *const texts[2] = {"SELECT 11111111", "DROP TABLE nope"};
	unsigned odd = 0, n = stage_quick() ? 300 : 3000;
	struct raw r;

	raw_attach(&r, stage_path(s));
	for (unsigned i = 0; i < n; i++) {
		struct shm_completion c;
		uint64_t id = raw_exec(&r, texts[0], REQ_F_READONLY, 0);
		unsigned char *text = r.arena + (r.at & (r.arena_len - 1)) - 16;

		raw_publish(&r);
		for (unsigned k = 0; k < 50; k++) {
			memcpy(text, texts[k & 1], 15);
		}
		odd += !raw_wait(&r, id, &c, patience());
	}
	is_int(odd, 0, "a text exchanged after publication: an answer for each of %u", n);
	ok(get(&r.broker->closed) == 0, "and no eviction");
	raw_drop(&r);
}

static void run_all(enum stage_database db, unsigned seed)
{
	struct stage *s;

	if (!stage_available(db)) {
		skip("no PostgreSQL server here");
		return;
	}
	s = stage_open(db, NULL);
	diag("-- on %s", stage_name(s));
	test_tails(s);
	test_comp_head(s);
	test_ops(s);
	test_wild_words(s, seed);
	test_bad_descriptors(s);
	test_forged_ids(s);
	test_lease_twice(s);
	test_chunks(s);
	test_after_eviction(s);
	test_heads(s);
	test_params(s);
	test_odd_values(s);
	test_statement_ids(s);
	test_flags(s);
	flip_for(s, true, stage_quick() ? 300 : 3000);
	flip_for(s, false, stage_quick() ? 300 : 3000);
	test_exchange(s);
	stage_close(&s);
}

int main(void)
{
	const char *text = getenv("HOSTILE_SEED");
	unsigned seed =
		text != NULL ? (unsigned)strtoul(text, NULL, 10) : (unsigned)wait_clock_ms();

	diag("seed %u (repeat with HOSTILE_SEED=%u)", seed, seed);
	run_all(STAGE_FAKE, seed);
	run_all(STAGE_SQLITE, seed);
	if (!stage_quick()) {
		run_all(STAGE_PG, seed);
	}
	return done_testing();
}
