/* SPDX-License-Identifier: MIT */
/* slowring.c - see slowring.h. */
#include "slowring.h"

#include "seqlock.h"

#include <string.h>
#include <time.h>

#define SLOW_HEAD offsetof(struct slow_slot, sql)

void slowring_init(struct slowring *r, void *slots, uint32_t count)
{
	*r = (struct slowring){.slots = slots, .count = count, .next = 1};
}

size_t slowring_cut(const char *text, size_t len, size_t max)
{
	size_t n = max;

	if (len <= max) {
		return len;
	}
	while (n > 0 && max - n < 4 && ((unsigned char)text[n] & 0xc0) == 0x80) {
		n--; /* the byte after the cut continues a character: cut before that one */
	}
	return max - n < 4 ? n : max; /* not UTF-8 at all: any cut is as good */
}

static uint64_t realtime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void fill_slot(struct slow_slot *s, const struct slow_record *rec)
{
	size_t len = rec->sql != NULL ? rec->sql_len : 0;
	size_t params = rec->params != NULL ? rec->params_len : 0;

	params = slowring_cut(rec->params, params, SLOW_PARAMS_MAX);
	s->when_ns = rec->when_ns != 0 ? rec->when_ns : realtime_ns();
	s->wait_ns = rec->wait_ns;
	s->run_ns = rec->run_ns;
	s->rows = rec->rows;
	s->fingerprint = rec->fingerprint;
	s->pool = rec->pool;
	s->server = rec->server;
	s->worker_pid = rec->worker_pid;
	s->code = rec->code;
	s->sql_len = (uint32_t)slowring_cut(rec->sql, len, sizeof(s->sql) - pad8(params));
	s->params_len = (uint32_t)params;
	s->sql_full_len = len;
	s->flags = (s->sql_len < len ? SLOW_F_TRUNCATED : 0) | (rec->sampled ? SLOW_F_SAMPLED : 0);
	memcpy(s->sqlstate, rec->sqlstate, sizeof(rec->sqlstate));
	s->sqlstate[sizeof(rec->sqlstate) - 1] = '\0';
	if (rec->tag != NULL) {
		memcpy(s->tag, rec->tag,
			slowring_cut(
				rec->tag, strnlen(rec->tag, sizeof(s->tag) + 1), sizeof(s->tag)));
	}
	if (s->sql_len > 0) {
		memcpy(s->sql, rec->sql, s->sql_len);
	}
	if (params > 0) {
		memcpy(s->sql + pad8(s->sql_len), rec->params, params);
	}
}

void slowring_write(struct slowring *r, const struct slow_record *rec)
{
	struct slow_slot s = {0};
	struct slow_slot *dst = &r->slots[(r->next - 1) % r->count];

	fill_slot(&s, rec);
	seqlock_begin(&dst->seq, 2 * r->next - 1);
	seqlock_store(&dst->when_ns, &s.when_ns, SLOW_HEAD - sizeof(s.seq));
	/* what lies behind belongs to older texts */
	seqlock_store(dst->sql, s.sql, pad8(s.sql_len) + pad8(s.params_len));
	seqlock_end(&dst->seq, 2 * r->next);
	r->next++;
}

uint64_t slowring_read(const void *slot, size_t stride, struct slow_slot *out)
{
	const struct slow_slot *s = slot;
	size_t n = stride < sizeof(*out) ? stride : sizeof(*out);
	uint64_t version;

	memset(out, 0, sizeof(*out));
	if (n < SLOW_HEAD || !seqlock_read(&s->seq, &s->when_ns, &out->when_ns, n - 8, &version) ||
		version == 0) {
		return 0;
	}
	if (out->sql_len > n - SLOW_HEAD) {
		out->sql_len = (uint32_t)(n - SLOW_HEAD);
	}
	if (pad8(out->sql_len) + out->params_len > n - SLOW_HEAD) {
		out->params_len = 0;
	}
	out->sqlstate[sizeof(out->sqlstate) - 1] = '\0';
	return version / 2;
}

const char *slowring_params(const struct slow_slot *s)
{
	return s->sql + pad8(s->sql_len);
}
