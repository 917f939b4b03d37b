/* SPDX-License-Identifier: MIT */
/* test_client_boxes.c - bodies, the outbox's arena and the inbox's chunks, against a model
 * consumer. */
#include "bodyout.h"
#include "inbox.h"
#include "outbox.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOTS 8u
#define ARENA 1024u
#define BLOCKS 16u

/* -- outbox ---------------------------------------------------------------------------------- */

struct out_fixture {
	_Atomic uint64_t tail, head;
	alignas(64) unsigned char slots[SLOTS * RING_SLOT];
	alignas(8) unsigned char arena[ARENA];
	struct outbox o;
	struct ring_in in; /* the broker's end */
};

static void out_init(struct out_fixture *f)
{
	memset(f, 0, sizeof(*f));
	if (outbox_init(&f->o, &f->tail, &f->head, f->slots, SLOTS, f->arena, ARENA) < 0) {
		bail_out("no memory");
	}
	ring_in_init(&f->in, &f->tail, &f->head, f->slots, SLOTS);
}

/* Take one descriptor as the broker does; its body must hold `fill` throughout. */
static bool take(struct out_fixture *f, unsigned char fill)
{
	struct shm_request d;
	uint64_t at;

	if (ring_in_pending(&f->in) == 0) {
		return false;
	}
	ring_take(&f->in, &d);
	at = d.off % ARENA;
	if (!span_ok(at, d.len, ARENA)) {
		return false;
	}
	for (uint32_t i = 0; i < d.len; i++) {
		if (f->arena[at + i] != fill) {
			return false;
		}
	}
	ring_retire(&f->in);
	return d.id == fill;
}

static void push(struct out_fixture *f, uint32_t len, unsigned char fill)
{
	struct shm_request d = {.id = fill, .len = len};

	if (len > 0) {
		memset(outbox_span(&f->o, len, &d.off), fill, len);
	}
	outbox_push(&f->o, &d);
}

static void test_outbox_random(void)
{
	struct out_fixture f;
	unsigned sent = 0, taken = 0, wrong = 0;

	out_init(&f);
	srand(7);
	while (sent < 100000) {
		uint32_t len = rand() % 4 == 0 ? 0 : 1 + (uint32_t)rand() % (ARENA / 2);

		if (outbox_has_room(&f.o, len)) {
			push(&f, len, (unsigned char)(1 + sent++ % 250));
			wrong += !outbox_publish(&f.o);
		} else if (taken == sent) {
			wrong++; /* an empty outbox has room for half the arena */
			break;
		}
		if (rand() % 2 == 0 && taken < sent) {
			wrong += !take(&f, (unsigned char)(1 + taken++ % 250));
		}
	}
	is_int(wrong, 0,
		"100000 bodies of random length: none wraps, none is overwritten before its time");
	outbox_finish(&f.o);
}

/* Who sends one at a time touches the beginning of the arena only. */
static void test_outbox_home(void)
{
	struct out_fixture f;
	unsigned good = 0;

	out_init(&f);
	for (unsigned i = 0; i < 10000; i++) {
		struct shm_request d = {.id = 1 + i % 255, .len = 24};

		if (!outbox_has_room(&f.o, d.len)) {
			break;
		}
		memset(outbox_span(&f.o, d.len, &d.off), (int)d.id, d.len);
		outbox_push(&f.o, &d);
		(void)outbox_publish(&f.o);
		good += d.off % ARENA < ARENA / 8 && take(&f, (unsigned char)d.id);
	}
	is_int(good, 10000, "10000 bodies one at a time, all near the start of the arena");
	outbox_finish(&f.o);
}

/* -- what large bodies touch goes back ----------------------------------------------------------
 */

#define LARGE (64u * SHM_PAGE)

struct large_fixture {
	_Atomic uint64_t tail, head;
	alignas(64) unsigned char slots[SLOTS * RING_SLOT];
	unsigned char *arena; /* shared memory, as W is */
	int fd;
	struct outbox o;
	struct ring_in in;
};

static void large_init(struct large_fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->fd = memfd_create("arena", MFD_CLOEXEC);
	if (f->fd < 0 || ftruncate(f->fd, LARGE) < 0) {
		bail_out("memfd_create");
	}
	f->arena = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	if (f->arena == MAP_FAILED ||
		outbox_init(&f->o, &f->tail, &f->head, f->slots, SLOTS, f->arena, LARGE) < 0) {
		bail_out("no memory");
	}
	ring_in_init(&f->in, &f->tail, &f->head, f->slots, SLOTS);
}

static void large_finish(struct large_fixture *f)
{
	outbox_finish(&f->o);
	munmap(f->arena, LARGE);
	close(f->fd);
}

static int64_t pages(const struct large_fixture *f)
{
	struct stat st;

	return fstat(f->fd, &st) == 0 ? (int64_t)st.st_blocks * 512 / SHM_PAGE : -1;
}

/* A body of len bytes of fill, 0: none.  Its offset in the arena. */
static uint64_t large_push(struct large_fixture *f, uint32_t len, unsigned char fill)
{
	struct shm_request d = {.id = fill, .len = len};

	if (!outbox_has_room(&f->o, len)) {
		bail_out("no room for %u bytes", len);
	}
	if (len > 0) {
		memset(outbox_span(&f->o, len, &d.off), fill, len);
	}
	outbox_push(&f->o, &d);
	(void)outbox_publish(&f->o);
	return d.off % LARGE;
}

/* Does the next descriptor have that many bytes of fill? */
static bool large_take(struct large_fixture *f, uint32_t len, unsigned char fill)
{
	struct shm_request d;
	bool good;

	if (ring_in_pending(&f->in) == 0) {
		return false;
	}
	ring_take(&f->in, &d);
	good = d.len == len;
	for (uint32_t i = 0; i < d.len; i++) {
		good = good && f->arena[d.off % LARGE + i] == fill;
	}
	ring_retire(&f->in);
	return good;
}

static void test_outbox_trim(void)
{
	struct large_fixture f;
	uint64_t now = 10 * OUTBOX_REST_NS;
	bool good;

	large_init(&f);
	large_push(&f, 100, 1);
	ok(large_take(&f, 100, 1) && !outbox_is_large(&f.o),
		"a small body is nothing to give back");
	large_push(&f, 20 * SHM_PAGE, 2);
	ok(outbox_is_large(&f.o), "a large one is");
	outbox_trim(&f.o, now);
	ok(pages(&f) >= 20 && large_take(&f, 20 * SHM_PAGE, 2),
		"not before the broker has copied it");
	large_push(&f, 0, 3); /* gives a chunk back, and the broker sleeps */
	outbox_trim(&f.o, now);
	is_int(pages(&f), 1, "then all but the first page goes back");
	ok(!outbox_is_large(&f.o), "and is not to be given back again");
	is_int((int64_t)large_push(&f, 100, 4), 0, "the next body begins at the start");
	good = large_take(&f, 0, 3) && large_take(&f, 100, 4);
	ok(good && pages(&f) == 1, "and all arrives");
	large_push(&f, LARGE / 2, 5);
	good = large_take(&f, LARGE / 2, 5);
	outbox_trim(&f.o, now + OUTBOX_REST_NS - 1);
	ok(good && outbox_is_large(&f.o) && pages(&f) >= 32, "not again at once");
	outbox_trim(&f.o, now + OUTBOX_REST_NS);
	ok(!outbox_is_large(&f.o) && pages(&f) == 1, "but a little later");
	large_finish(&f);
}

/* Bodies of all sizes, trimmed whenever that may be, with descriptors that have none in between. */
static void test_outbox_trim_random(void)
{
	struct large_fixture f;
	struct {
		uint32_t len;
		unsigned char fill;
	} sent[SLOTS];
	unsigned n = 0, taken = 0, wrong = 0;
	uint64_t now = 0;

	large_init(&f);
	srand(11);
	while (taken < 20000) {
		uint32_t len = rand() % 3 == 0   ? 0
			       : rand() % 4 == 0 ? 1 + (uint32_t)rand() % (LARGE / 2)
						 : 1 + (uint32_t)rand() % 500;

		if (outbox_has_room(&f.o, len)) {
			sent[n % SLOTS].len = len;
			sent[n % SLOTS].fill = (unsigned char)(1 + n % 250);
			large_push(&f, len, sent[n % SLOTS].fill);
			n++;
		} else if (taken == n) {
			wrong++;
			break;
		}
		for (unsigned k = (unsigned)rand() % 4; k > 0 && taken < n; k--, taken++) {
			wrong += !large_take(&f, sent[taken % SLOTS].len, sent[taken % SLOTS].fill);
		}
		now += OUTBOX_REST_NS;
		if (outbox_is_large(&f.o) && rand() % 2 == 0) {
			outbox_trim(&f.o, now);
		}
	}
	is_int(wrong, 0, "20000 bodies arrive, however often the arena is trimmed");
	large_finish(&f);
}

static void test_outbox_edges(void)
{
	struct out_fixture f;
	uint64_t pos;

	out_init(&f);
	ok(!outbox_has_room(&f.o, ARENA + 1), "a body larger than the arena never fits");
	ok(outbox_has_room(&f.o, ARENA), "one as large as an empty arena does");
	for (unsigned i = 0; i < SLOTS; i++) {
		push(&f, 0, (unsigned char)(i + 1));
	}
	ok(!outbox_has_room(&f.o, 0), "all slots taken");
	is_int((int64_t)ring_in_pending(&f.in), 0, "nothing is visible before it is published");
	ok(outbox_publish(&f.o) && !outbox_publish(&f.o), "published once");
	pos = f.o.ring.next;
	ok(!outbox_taken(&f.o, pos), "not taken yet");
	for (unsigned i = 0; i < SLOTS; i++) {
		take(&f, (unsigned char)(i + 1));
	}
	ok(outbox_taken(&f.o, pos) && outbox_has_room(&f.o, 0), "taken, and free again");
	put(&f.head, UINT64_C(1) << 60);
	ok(!outbox_taken(&f.o, pos + 1) && outbox_has_room(&f.o, 8),
		"a head that never was is ignored");
	outbox_finish(&f.o);
}

/* -- inbox ----------------------------------------------------------------------------------- */

struct in_fixture {
	_Atomic uint64_t tail, head;
	alignas(64) unsigned char slots[SLOTS * RING_SLOT];
	unsigned char arena[BLOCKS * CHAN_BLOCK];
	struct inbox in;
	struct ring_out out;
};

static void in_init(struct in_fixture *f)
{
	memset(f, 0, sizeof(*f));
	if (inbox_init(&f->in, &f->tail, &f->head, f->slots, SLOTS, f->arena, sizeof(f->arena)) <
		0) {
		bail_out("no memory");
	}
	ring_out_init(&f->out, &f->tail, &f->head, f->slots, SLOTS);
}

static void test_inbox(void)
{
	static struct in_fixture f;
	struct shm_completion c = {.id = 7, .chunk = 3, .len = 5000}, got;
	struct chunk *k, *copy;

	in_init(&f);
	is_int(inbox_take(&f.in, &got), 0, "empty");
	ring_push(&f.out, &c);
	ok(!inbox_ready(&f.in), "not published");
	ring_publish(&f.out);
	ok(inbox_ready(&f.in) && inbox_take(&f.in, &got) == 1 && got.id == 7, "one completion");
	is_int((int64_t)get(&f.head), 1, "its slot is given back at once");
	memset(f.arena + 3 * CHAN_BLOCK, 'x', 5000);
	k = inbox_chunk(&f.in, &got);
	ok(k != NULL && k->data == f.arena + 3 * CHAN_BLOCK && k->len == 5000,
		"its chunk, in place");
	is_int(f.in.held, 2, "two blocks are held");
	is_int(inbox_due(&f.in), CHAN_NO_CHUNK, "none is due");
	copy = inbox_spill(&f.in, k);
	ok(copy != NULL && copy->data[4999] == 'x' && copy->block == CHAN_NO_CHUNK,
		"moved to the heap");
	is_int(inbox_due(&f.in), 3, "its first block is due");
	is_int(inbox_due(&f.in), CHAN_NO_CHUNK, "once");
	is_int(f.in.held, 0, "nothing is held");
	inbox_give(&f.in, copy);
	is_int(inbox_due(&f.in), CHAN_NO_CHUNK, "a copy is nobody's block");
	inbox_finish(&f.in);
}

static void test_inbox_nonsense(void)
{
	static struct in_fixture f;
	struct shm_completion c = {.chunk = BLOCKS, .len = 1}, got;

	in_init(&f);
	ok(inbox_chunk(&f.in, &c) == NULL, "a block that is not there");
	c = (struct shm_completion){.chunk = BLOCKS - 1, .len = CHAN_BLOCK + 1};
	ok(inbox_chunk(&f.in, &c) == NULL, "a chunk beyond the end");
	c.len = CHAN_BLOCK;
	ok(inbox_chunk(&f.in, &c) != NULL, "one that ends there");
	for (unsigned i = 1; i < BLOCKS; i++) {
		(void)!inbox_chunk(&f.in, &c);
	}
	ok(inbox_chunk(&f.in, &c) == NULL, "more chunks than blocks");
	put(&f.tail, UINT64_C(100));
	ok(inbox_take(&f.in, &got) < 0, "a tail beyond the ring");
	inbox_finish(&f.in);
}

/* -- bodies ---------------------------------------------------------------------------------- */

struct sink {
	struct bodyout o;
	unsigned char *bytes;
	size_t at, piece;
};

static int more(struct bodyout *o)
{
	struct sink *s = container_of(o, struct sink, o);

	o->p = s->bytes + s->at;
	o->left = s->piece;
	s->at += s->piece;
	return 0;
}

static int refuse(struct bodyout *o)
{
	(void)o;
	return BROKER_E_TIMEOUT;
}

static void test_body(void)
{
	const struct broker_value v[] = {broker_null(), broker_bool(true), broker_int64(-2),
		broker_double(0.5), broker_text("text"), broker_blob("\0\1\2\3\4\5\6\7\10", 9),
		broker_json("{}"), broker_timestamp(17), broker_text("")};
	const struct body_spec s = {.tag = "/tag",
		.tag_len = 4,
		.sql = "SELECT 1",
		.sql_len = 8,
		.nparams = array_size(v),
		.params = v};
	unsigned char whole[512], pieces[512];
	int bad;
	uint64_t len = bodyout_measure(&s, &bad);
	struct sink k = {.bytes = pieces, .o = {.more = more}};
	struct bodyout o = {.p = whole, .left = sizeof(whole), .more = refuse};
	struct shm_body head;
	unsigned wrong = 0;

	memset(whole, 0xee, sizeof(whole));
	ok(bodyout_write(&o, &s) == 0, "written in one piece");
	is_int(o.p - whole, (int64_t)len, "as long as measured");
	memcpy(&head, whole, sizeof(head));
	ok(head.tag_len == 4 && head.sql_len == 8 && head.nparams == array_size(v), "head");
	ok(memcmp(whole + 16, "/tag\0\0\0\0SELECT 1", 16) == 0, "tag and text, padded with zeros");
	for (k.piece = 1; k.piece < 40; k.piece++) {
		k.o.left = k.at = 0;
		memset(pieces, 0xdd, sizeof(pieces));
		wrong += bodyout_write(&k.o, &s) != 0 || memcmp(pieces, whole, len) != 0;
	}
	is_int(wrong, 0, "the same in pieces of any size");
	o = (struct bodyout){.p = whole, .left = len - 1, .more = refuse};
	is_int(bodyout_write(&o, &s), BROKER_E_TIMEOUT, "what the sink refuses ends it");
}

static void test_body_invalid(void)
{
	struct broker_value v[2] = {broker_int64(1), {.type = (enum broker_type)99}};
	struct body_spec s = {.sql = "x", .sql_len = 1, .nparams = 2, .params = v};
	int bad = 0;

	is_int((int64_t)bodyout_measure(&s, &bad), 0, "an unknown type");
	is_int(bad, 1, "is named");
	v[1] = broker_blob(NULL, 3);
	ok(bodyout_measure(&s, &bad) == 0 && bad == 1, "bytes without data");
	v[1] = broker_blob("x", (size_t)UINT32_MAX + 1);
	ok(bodyout_measure(&s, &bad) == 0 && bad == -1, "more than 4 GiB");
	v[1] = broker_text(NULL);
	is_int(v[1].type, BROKER_NULL, "a NULL string is NULL");
	v[1] = broker_json(NULL);
	is_int(v[1].type, BROKER_NULL, "a NULL JSON, too");
}

int main(void)
{
	test_outbox_random();
	test_outbox_home();
	test_outbox_trim();
	test_outbox_trim_random();
	test_outbox_edges();
	test_inbox();
	test_inbox_nonsense();
	test_body();
	test_body_invalid();
	return done_testing();
}
