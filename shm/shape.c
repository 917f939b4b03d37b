/* SPDX-License-Identifier: MIT */
/* shape.c - see shape.h. */
#include "shape.h"

#include "seqlock.h"
#include "slowring.h"

#include <stdlib.h>
#include <string.h>

/* What the writer knows of a row, so that it never reads the segment to decide. */
struct slot {
	uint64_t fingerprint; /* 0 = free */
	uint32_t pool;
	uint32_t next; /* of the same bucket, or SHAPE_NONE */
	uint32_t text_len, ntags;
};

/* How much it is used; apart, since all of them are looked at to find the least used. */
struct use {
	uint64_t last_ns;
	uint64_t times;
};

struct tags {
	char tag[SHAPE_TAGS][CHAN_TAG_MAX];
};

struct shape_table {
	struct shape_row *rows;
	struct slot *slots;
	struct use *uses;
	struct tags *tags;
	uint32_t *buckets;
	uint32_t count, used, mask;
	uint32_t taken; /* evictions since uses were halved */
};

struct shape_table *shape_table_create(void *rows, uint32_t count)
{
	struct shape_table *t = calloc(1, sizeof(*t));
	uint32_t buckets = 16;

	if (t == NULL) {
		return NULL;
	}
	while (buckets < 2 * count) {
		buckets *= 2;
	}
	t->rows = rows;
	t->count = count;
	t->mask = buckets - 1;
	t->slots = calloc(count, sizeof(*t->slots));
	t->uses = calloc(count, sizeof(*t->uses));
	t->tags = calloc(count, sizeof(*t->tags));
	t->buckets = malloc(buckets * sizeof(*t->buckets));
	if (t->slots == NULL || t->uses == NULL || t->tags == NULL || t->buckets == NULL) {
		shape_table_destroy(t);
		return NULL;
	}
	memset(t->buckets, 0xff, buckets * sizeof(*t->buckets));
	return t;
}

void shape_table_destroy(struct shape_table *t)
{
	if (t != NULL) {
		free(t->slots);
		free(t->uses);
		free(t->tags);
		free(t->buckets);
		free(t);
	}
}

static uint32_t *bucket_of(const struct shape_table *t, uint32_t pool, uint64_t fingerprint)
{
	return &t->buckets[(fingerprint ^ fingerprint >> 32 ^ pool * 2654435761u) & t->mask];
}

static bool is_shape(const struct shape_table *t, uint32_t i, uint32_t pool, uint64_t fingerprint)
{
	return t->slots[i].fingerprint == fingerprint && t->slots[i].pool == pool;
}

uint32_t shape_find(const struct shape_table *t, uint32_t pool, uint64_t fingerprint, uint32_t hint)
{
	uint32_t i;

	if (hint < t->count && is_shape(t, hint, pool, fingerprint)) {
		return hint;
	}
	for (i = *bucket_of(t, pool, fingerprint); i != SHAPE_NONE; i = t->slots[i].next) {
		if (is_shape(t, i, pool, fingerprint)) {
			break;
		}
	}
	return i;
}

/* -- taking a row ------------------------------------------------------------------------------ */

static uint32_t least_used(const struct shape_table *t)
{
	uint32_t least = 0;

	for (uint32_t i = 1; i < t->count; i++) {
		const struct use *u = &t->uses[i], *l = &t->uses[least];

		if (u->times < l->times || (u->times == l->times && u->last_ns < l->last_ns)) {
			least = i;
		}
	}
	return least;
}

static void forget(struct shape_table *t, uint32_t i)
{
	struct slot *s = &t->slots[i];
	uint32_t *p = bucket_of(t, s->pool, s->fingerprint);

	while (*p != i) {
		p = &t->slots[*p].next;
	}
	*p = s->next;
	if (++t->taken >= t->count) {
		t->taken = 0;
		for (uint32_t k = 0; k < t->count; k++) {
			t->uses[k].times /= 2;
		}
	}
}

/* Fill the row, with everything zero but for what it is. */
static void write_new_row(struct shape_row *dst, struct slot *s, uint64_t now_ns, const char *text,
	size_t len, bool truncated)
{
	struct shape_row r = {
		.fingerprint = s->fingerprint,
		.first_ns = now_ns,
		.last_ns = now_ns,
		.pool = s->pool,
		.text_len = (uint32_t)slowring_cut(text, len, sizeof(r.text)),
		.run = {.unit_shift = SHAPE_UNIT_SHIFT,
			.sub_bits = SHAPE_SUB_BITS,
			.nbuckets = SHAPE_BUCKETS},
	};
	uint64_t seq = get(&dst->seq) & ~UINT64_C(1);

	r.flags = truncated || r.text_len < len ? SHAPE_F_TRUNCATED : 0;
	memcpy(r.text, text, r.text_len);
	s->text_len = r.text_len;
	seqlock_begin(&dst->seq, seq + 1);
	seqlock_store(&dst->fingerprint, &r.fingerprint, sizeof(r) - sizeof(r.seq));
	seqlock_end(&dst->seq, seq + 2);
}

uint32_t shape_add(struct shape_table *t, uint32_t pool, uint64_t fingerprint, const char *text,
	size_t len, bool truncated, uint64_t now_ns, bool *evicted)
{
	uint32_t *bucket = bucket_of(t, pool, fingerprint), i;

	check(fingerprint != 0);
	*evicted = t->used == t->count;
	if (*evicted) {
		i = least_used(t);
		forget(t, i);
	} else {
		i = t->used++;
	}
	t->slots[i] = (struct slot){.fingerprint = fingerprint, .pool = pool, .next = *bucket};
	t->uses[i] = (struct use){.last_ns = now_ns};
	memset(&t->tags[i], 0, sizeof(t->tags[i]));
	*bucket = i;
	write_new_row(&t->rows[i], &t->slots[i], now_ns, text, len, truncated);
	return i;
}

/* -- counting ---------------------------------------------------------------------------------- */

/* Words of a row as the writer stores them. */
static _Atomic uint64_t *word(uint64_t *w)
{
	return (_Atomic uint64_t *)w;
}

static void count_run(struct shape_times *t, uint64_t ns)
{
	bump(word(&t->bucket[histogram_bucket_in(
		     ns, SHAPE_UNIT_SHIFT, SHAPE_SUB_BITS, SHAPE_BUCKETS)]),
		1);
	bump(word(&t->sum_ns), ns);
	if (ns > get(word(&t->max_ns))) {
		put(word(&t->max_ns), ns);
	}
}

/* Nothing to do if the tag is one of the latest; else it takes the place of the oldest. */
static void note_tag(
	struct shape_row *row, struct slot *s, struct tags *tags, const struct shape_call *c)
{
	char tag[CHAN_TAG_MAX] = {0};
	unsigned at = s->ntags % SHAPE_TAGS;
	uint32_t lengths[2] = {s->text_len, s->ntags + 1};

	if (c->tag_len == 0) {
		return;
	}
	memcpy(tag, c->tag, c->tag_len);
	for (unsigned i = 0; i < SHAPE_TAGS; i++) {
		if (memcmp(tags->tag[i], tag, sizeof(tag)) == 0) {
			return;
		}
	}
	memcpy(tags->tag[at], tag, sizeof(tag));
	seqlock_store(row->tags[at], tag, sizeof(tag));
	seqlock_store(&row->text_len, lengths, sizeof(lengths));
	s->ntags++;
}

void shape_count(struct shape_table *t, uint32_t i, const struct shape_call *c)
{
	struct shape_row *row = &t->rows[i];
	uint64_t seq = get(&row->seq) & ~UINT64_C(1);

	check_slow(i < t->used && c->tag_len <= CHAN_TAG_MAX);
	t->uses[i].times++;
	t->uses[i].last_ns = c->now_ns;
	seqlock_begin(&row->seq, seq + 1);
	put(word(&row->last_ns), c->now_ns);
	bump(word(&row->calls), 1);
	bump(word(&row->errors), c->failed);
	bump(word(&row->rows), c->rows);
	bump(word(&row->wait_ns), c->wait_ns);
	if (c->ran) {
		count_run(&row->run, c->run_ns);
	}
	note_tag(row, &t->slots[i], &t->tags[i], c);
	seqlock_end(&row->seq, seq + 2);
}

/* -- reading ----------------------------------------------------------------------------------- */

bool shape_read(const void *src, size_t stride, struct shape_row *out, bool *torn)
{
	const struct shape_row *row = src;
	size_t n = stride < sizeof(*out) ? stride : sizeof(*out), room;
	uint64_t version;

	memset(out, 0, sizeof(*out));
	*torn = false;
	if (n < offsetof(struct shape_row, text)) {
		return false;
	}
	*torn = !seqlock_read(&row->seq, &row->fingerprint, &out->fingerprint, n - 8, &version);
	room = n - offsetof(struct shape_row, text);
	out->text_len = out->text_len < room ? out->text_len : (uint32_t)room;
	return out->fingerprint != 0;
}

const char *shape_tag(const struct shape_row *row, unsigned i)
{
	if (i >= SHAPE_TAGS || i >= row->ntags) {
		return NULL;
	}
	return row->tags[(row->ntags - 1 - i) % SHAPE_TAGS];
}
