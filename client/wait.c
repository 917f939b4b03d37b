/* SPDX-License-Identifier: MIT */
/*
 * wait.c - the waiting half of chan.h: sleeping, the event loop's descriptor, the broker's end.
 *
 * The order in chan_sleep is that of doorbell.h: the bell word is read before `sleeping` is set,
 * and everything is looked at once more after the fence, so a wake between any two steps is not
 * missed. Sleeps are cut into slices; after each the socket says whether the broker still lives.
 */
#include "chan.h"

#include "crashpoint.h"
#include "doorbell.h"
#include "handle.h"
#include "result.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLICE_NS UINT64_C(100000000)

uint64_t chan_now(struct chan *c)
{
	if (c->now == 0) {
		c->now = doorbell_now();
	}
	return c->now;
}

void chan_check_word(struct chan *c)
{
	uint32_t code = observe(&c->b->closed);

	if (code != 0) {
		chan_lost(c, code >= 2001 && code <= 2999 ? -(int)code : BROKER_E_LOST);
	}
}

void chan_check_peer(struct chan *c)
{
	char bytes[64];
	ssize_t n;

	chan_check_word(c);
	while (c->gone == 0) {
		n = recv(c->sock, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n > 0 || (n < 0 && errno == EINTR)) {
			continue;
		}
		if (n < 0 && errno == EAGAIN) {
			return;
		}
		chan_check_word(c); /* an eviction closes the socket, too */
		chan_lost(c, BROKER_E_LOST);
	}
}

/* Anything to do for somebody who waits? */
static bool has_news(const struct chan *c, bool want_room)
{
	return inbox_ready(&c->in) || get(&c->b->closed) != 0 ||
	       (want_room && get(c->out.ring.head) != c->out.ring.seen_head);
}

/* Look for a while from c->now on, if that pays, and move it; not beyond until_ns, 0: no limit. */
static bool spin(struct chan *c, uint64_t until_ns, bool want_room)
{
	uint64_t since = c->now;

	while (spin_may(&c->spin, since, c->now) && (until_ns == 0 || c->now < until_ns)) {
		c->now = spin_yield(&c->spin, c->now);
		if (has_news(c, want_room)) {
			return true;
		}
	}
	return false;
}

static void sleep_slice(struct chan *c, uint64_t slice_ns, bool want_room)
{
	uint32_t bell = get(&c->b->bell);
	int rc = 0;

	put(&c->w->sleeping, (uint32_t)CHAN_SLEEP_FUTEX);
	full_fence(); /* F1 of doorbell.h; pairs with the fence before session_wake */
	CRASHPOINT(SLEEP_ARMED);
	if (!has_news(c, want_room)) {
		rc = doorbell_wait(&c->b->bell, bell, slice_ns);
		CRASHPOINT(SLEEP_WOKEN);
	}
	put(&c->w->sleeping, c->rest);
	c->now = 0;
	if (rc == -ETIMEDOUT) {
		chan_check_peer(c);
		if (c->gone == 0) {
			chan_flush(c, true);
		}
	} else {
		chan_check_word(c);
	}
}

bool chan_sleep(struct chan *c, uint64_t until_ns, bool want_room)
{
	uint64_t slice = SLICE_NS, since;

	if (c->gone != 0) {
		return true;
	}
	chan_flush(c, false);
	if (has_news(c, want_room)) {
		chan_check_word(c);
		return true;
	}
	since = c->now = doorbell_now();
	if (spin(c, until_ns, want_room)) {
		chan_check_word(c);
		return true;
	}
	if (until_ns != 0) {
		if (c->now >= until_ns) {
			return false;
		}
		slice = until_ns - c->now < slice ? until_ns - c->now : slice;
	}
	sleep_slice(c, slice, want_room);
	spin_learn(&c->spin, chan_now(c) - since);
	return true;
}

/*
 * Results that nobody reads fill the arena, and then r may wait for ever.  When nearly all of it is
 * held, or much of it and nothing has come for a slice, some of the others' chunks move to the
 * heap.
 */
static void make_space(struct chan *c, struct broker_result *r, bool starved)
{
	uint32_t limit = starved ? c->in.nblocks / 4 : c->in.nblocks - c->in.nblocks / 16;
	uint32_t want = starved ? c->in.nblocks / 4 : 1;
	struct broker_result *o;

	if (c->in.held < limit) {
		return;
	}
	TAILQ_FOREACH(o, &c->all, link)
	{
		uint32_t got = o == r ? 0 : result_spill(o, want);

		want -= got < want ? got : want;
		if (want == 0) {
			return;
		}
	}
}

static bool arrived(const struct chan *c, const struct broker_result *r)
{
	return r != NULL ? r->news || r->ended : !TAILQ_EMPTY(&c->ready);
}

bool chan_await(struct chan *c, struct broker_result *r, uint64_t until_ns)
{
	for (;;) {
		uint64_t before = c->in.ring.next;

		if (c->gone == 0) {
			chan_pump(c);
		}
		if (arrived(c, r) || c->gone != 0) {
			return true;
		}
		make_space(c, r, false);
		if (!chan_sleep(c, until_ns, false)) {
			return false;
		}
		if (c->gone == 0 && c->in.ring.next == before && !inbox_ready(&c->in)) {
			make_space(c, r, true);
		}
	}
}

/* -- event loops ----------------------------------------------------------------------------- */

static int watch(int epoll, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN};

	return fd < 0 ? -1 : epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev);
}

int chan_make_fd(struct chan *c)
{
	if (c->poll_fd >= 0) {
		return 0;
	}
	c->poll_self = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->poll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (c->poll_fd < 0 || watch(c->poll_fd, c->poll_self) < 0 ||
		watch(c->poll_fd, c->sock) < 0) {
		close(c->poll_fd);
		close(c->poll_self);
		c->poll_fd = c->poll_self = -1;
		return errstate_set(&c->broker->err, BROKER_E_MEMORY, "no descriptor to poll: %m");
	}
	c->rest = CHAN_SLEEP_SOCKET;
	put(&c->w->sleeping, c->rest);
	full_fence(); /* F1: what came before is seen by chan_settle_fd */
	chan_settle_fd(c);
	return 0;
}

bool chan_arm_fd(struct chan *c)
{
	uint64_t n;

	(void)!read(c->poll_self, &n, sizeof(n));
	chan_check_peer(c);
	if (c->gone != 0) {
		return true;
	}
	put(&c->w->sleeping, c->rest);
	full_fence(); /* F1; pairs with the fence before session_wake */
	return has_news(c, false);
}

void chan_settle_fd(struct chan *c)
{
	if (c == NULL || c->gone != 0 || c->poll_fd < 0) {
		return;
	}
	full_fence(); /* F1, after sleep_slice has armed the socket again */
	chan_pump(c);
	if (c->gone == 0 && !TAILQ_EMPTY(&c->ready)) {
		doorbell_ring(c->poll_self);
	}
}
