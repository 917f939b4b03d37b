/* SPDX-License-Identifier: MIT */
/*
 * news.c - see server.h: what the I/O threads tell each other of servers.
 *
 * The one that probes sends what it knows after each answer, whether it changed or not: positions
 * and their times decide where fresh reads may go.  Mail keeps its order and never crosses a reload
 * (shards.h), so a row means the same server to both.
 *
 * A doubt is settled by an answer to a question that was asked after it, as in health.c: until then
 * the role stays unknown, whatever news arrives.
 */
#include "server.h"

#include "io.h"
#include "shards.h"

#include <stdlib.h>
#include <string.h>

struct news {
	struct mail mail;
	unsigned row;
	struct server_state state;
	uint64_t system_id, lsn, lag_bytes, lsn_asked_ns;
	uint64_t since_ns, probed_ns, latency_ns, asked_ns;
	char last_error[sizeof(((struct server *)0)->last_error)];
};

struct worry {
	struct mail mail;
	unsigned row;
	enum server_worry what;
};

static struct server *server_at(const struct io *io, unsigned row)
{
	return row < io->nservers ? io->servers[row] : NULL;
}

static bool same(const struct server_state *a, const struct server_state *b)
{
	return a->verdict == b->verdict && a->role == b->role && a->writable == b->writable &&
	       a->timeline == b->timeline && a->lag_ns == b->lag_ns;
}

static void take(struct server *s, const struct news *n)
{
	struct server_state before = s->state;

	s->state = n->state;
	s->system_id = n->system_id;
	s->lsn = n->lsn;
	s->lag_bytes = n->lag_bytes;
	s->lsn_asked_ns = n->lsn_asked_ns;
	s->since_ns = n->since_ns;
	s->probed_ns = n->probed_ns;
	s->latency_ns = n->latency_ns;
	s->asked_ns = n->asked_ns;
	memcpy(s->last_error, n->last_error, sizeof(s->last_error));
	if (n->asked_ns <= s->doubted_ns) {
		s->state.role = ROLE_UNKNOWN;
		s->state.writable = false;
	}
	if (!same(&before, &s->state)) {
		server_changed(s);
	}
}

static void deliver_news(struct io *io, struct mail *m)
{
	struct news *n = container_of(m, struct news, mail);
	struct server *s = server_at(io, n->row);

	if (s != NULL) {
		take(s, n);
	}
	free(n);
}

void server_tell(const struct server *s)
{
	for (unsigned i = 1; i < shards_count(s->io); i++) {
		struct news *n = calloc(1, sizeof(*n));

		if (n == NULL) {
			return; /* the next answer is news as well */
		}
		n->mail.deliver = deliver_news;
		n->row = s->index;
		n->state = s->state;
		n->system_id = s->system_id;
		n->lsn = s->lsn;
		n->lag_bytes = s->lag_bytes;
		n->lsn_asked_ns = s->lsn_asked_ns;
		n->since_ns = s->since_ns;
		n->probed_ns = s->probed_ns;
		n->latency_ns = s->latency_ns;
		n->asked_ns = s->asked_ns;
		memcpy(n->last_error, s->last_error, sizeof(n->last_error));
		shards_post(shards_at(s->io, i), &n->mail);
	}
}

static void deliver_worry(struct io *io, struct mail *m)
{
	struct worry *w = container_of(m, struct worry, mail);
	struct server *s = server_at(io, w->row);

	if (s != NULL && w->what == SERVER_DOUBT) {
		/* the sender has kept HEALTH_DOUBT_MS; all are to doubt the same */
		s->doubted_ns = 0;
		health_doubt_role(s);
	} else if (s != NULL) {
		health_hurry(s);
	}
	free(w);
}

void server_worry(const struct server *s, enum server_worry what)
{
	struct worry *w = s->io->shard > 0 && !s->removed ? malloc(sizeof(*w)) : NULL;

	if (w != NULL) { /* else the usual pace of probes has to do */
		*w = (struct worry){.mail.deliver = deliver_worry, .row = s->index, .what = what};
		shards_post(shards_at(s->io, 0), &w->mail);
	}
}
