/* SPDX-License-Identifier: MIT */
/*
 * chan.h - one attachment: the channel to the broker and the requests that travel on it.
 *
 * A handle has at most one live channel; after a fork or the loss of the broker it gets another.
 * Results, leases and COPYs hold a reference to theirs, so what has arrived can be read on while
 * the handle already talks to the broker's successor.
 *
 *   life (gone):   0 live ---chan_lost---> BROKER_E_LOST, _EVICTED, _SHUTDOWN, ...: mappings stay
 *                         ---chan_forget-> BROKER_E_FORKED: a child; the mappings are not there
 *                         ---chan_detach-> BROKER_E_USAGE: the handle was freed
 *
 * A request is a struct broker_result from its descriptor on.  While the broker may still answer it
 * (in_flight) or its ticket was not collected (open) it stands in slot[id % CHAN_REQUESTS]; ids are
 * made so that slots never collide.  Ends of leases and cancels that find the ring full are *owed*:
 * they go out as soon as there is room, before anything else.
 *
 * One thread, the owner of the handle.  Only chan_sleep blocks.
 */
#ifndef CLIENT_CHAN_H
#define CLIENT_CHAN_H

#include "attach.h"
#include "bodyout.h"
#include "inbox.h"
#include "outbox.h"
#include "spin.h"
#include "stmtcache.h"

#include <sys/queue.h>
#include <sys/types.h>

#define CHAN_REQUESTS 256u /* power of two: CHAN_RING_SLOTS in flight and as many not collected */
#define CHAN_GRACE_NS UINT64_C(250000000) /* what the broker gets beyond a deadline to answer */

struct broker;
struct broker_result;
TAILQ_HEAD(chan_results, broker_result);

struct chan_name {
	char text[64];
};

struct chan {
	struct broker *broker; /* NULL once detached */
	unsigned refs;
	struct chan *past; /* the handle's channel before, while anything refers to it */
	int gone; /* 0, or the BROKER_E_ code why it can no longer be used */

	int sock, bell;
	dev_t sock_dev; /* to know our socket again in a child that may have closed it */
	ino_t sock_ino;
	struct attach_map wm, bm, sm;
	struct chan_worker *w;
	const struct chan_broker *b;
	struct outbox out;
	struct inbox in;
	struct stmtcache *stmts;
	uint64_t max_request;
	uint16_t pool; /* index of the handle's pool */
	struct chan_name *servers; /* by row of the board, those asked for; NULL: none was */
	unsigned nservers;

	struct broker_result *slot[CHAN_REQUESTS];
	unsigned last_slot;
	unsigned in_flight; /* the broker will answer them */
	unsigned open; /* tickets not collected */
	unsigned leases; /* that the user holds; the broker bears more, but not many */
	struct chan_results all; /* every result that holds a reference, by `link` */
	struct chan_results ready; /* tickets that may be collected, by `ready_link` */
	struct chan_results owed; /* by `owed_link` */

	uint64_t now; /* CLOCK_MONOTONIC when last asked; 0: ask again */
	uint64_t checked; /* when the socket was last looked at */
	struct spin spin; /* looking before sleeping */
	uint32_t rest; /* W.sleeping while nobody waits: CHAN_AWAKE or CHAN_SLEEP_SOCKET */
	int poll_fd, poll_self; /* broker_fd: epoll of socket and of an eventfd of our own; -1 */
};

/* Takes the attachment over, also on failure.  0, BROKER_E_MEMORY or BROKER_E_VERSION. */
int chan_create(struct broker *b, struct attachment *a, struct chan **out) must_use;
void chan_ref(struct chan *c);
void chan_unref(struct chan *c);

/* -- ends; each fails what is in flight and closes the descriptors --------------------------- */

/* The broker is gone or gave us up: tickets fail with what is known of each. */
void chan_lost(struct chan *c, int code);
/* This process is a child: nothing of the parent's is touched, its descriptors are closed here. */
void chan_forget(struct chan *c);
/* Say good-bye. */
void chan_detach(struct chan *c);

/* -- receiving (receive.c) ------------------------------------------------------------------- */

/* Take in all completions there are.  A broker that breaks the protocol is given up. */
void chan_pump(struct chan *c);
/* Give a chunk back; tells the broker when many are due. */
void chan_give(struct chan *c, struct chunk *k);
/* Something happened to r: whoever waits for it looks; its ticket is ready. */
void chan_notify(struct chan *c, struct broker_result *r);
/* The broker will say nothing more of r. */
void chan_finish(struct chan *c, struct broker_result *r);
/* The request of a ticket, NULL if there is none. */
struct broker_result *chan_ticket(const struct chan *c, uint64_t ticket);
/* The ticket was handed out, or its result was: it is no longer open. */
void chan_collected(struct chan *c, struct broker_result *r);

/* -- sending (send.c) ------------------------------------------------------------------------ */

struct request_spec {
	uint8_t op; /* enum req_op */
	uint8_t flags; /* enum req_flag, without REQ_F_DEFINE */
	uint16_t pool;
	uint64_t lease;
	uint64_t deadline_ns;
	struct body_spec body;
};

/*
 * Push the request that r stands for, in parts if it is large.  Nothing of it is published but
 * parts.  Waits for room, at most until the deadline.  0, or a BROKER_E_ code: nothing was done.
 */
int chan_request(struct chan *c, struct broker_result *r, const struct request_spec *s) must_use;
/* The same for REQ_LEASE, which gets no answer of its own; *id names the lease. */
int chan_lease(struct chan *c, const struct request_spec *s, uint64_t *id) must_use;
/* Push the end of a lease: r->op, r->lease.  Waits for room only shortly, then it is owed. */
void chan_end_lease(struct chan *c, struct broker_result *r);
/* Ask the broker to cancel r.  Never waits. */
void chan_cancel(struct chan *c, struct broker_result *r);
/* COPY_DATA, COPY_END: waits for room until the deadline. */
int chan_copy(
	struct chan *c, uint8_t op, struct broker_result *r, const void *data, size_t len) must_use;
/* Publish what was pushed and ring if the broker sleeps. */
void chan_publish(struct chan *c);
/* Index of a pool by name, from the board; BROKER_E_ARGUMENT if there is none. */
int chan_pool(const struct chan *c, const char *name) must_use;
/* Name of the server in a row of the board, kept as long as the channel; "" if it is not known.
 * Not in a child that has not entered the handle: it lacks the board. */
const char *chan_server(struct chan *c, uint16_t row);

/* -- waiting (wait.c) ------------------------------------------------------------------------ */

/*
 * Publish, give back what is due, and sleep until something may have changed; at most until
 * until_ns (0: no limit).  want_room: also wake when the broker took requests.  Notices the
 * broker's end.  false: until_ns has passed.
 */
bool chan_sleep(struct chan *c, uint64_t until_ns, bool want_room) must_use;
/* Wait until something arrives for r (r->news) or it ends; r NULL: until a ticket is ready.
 * false: until_ns has passed. */
bool chan_await(struct chan *c, struct broker_result *r, uint64_t until_ns) must_use;
/* Time now, cached during one public call. */
uint64_t chan_now(struct chan *c);
/*
 * Send what is owed and publish; give chunks back by NOPs, as far as there is room.  While the
 * worker has little of the arena (!all) the chunks that are due wait for the next request to take
 * them along: the broker cannot run out of blocks as long as three quarters are on its side.
 */
void chan_flush(struct chan *c, bool all);
/*
 * Nothing is on its way and nothing is to be collected: the worker may do something else for long.
 * What its results and bodies have touched is given back, chunks without ringing: a broker that
 * sleeps looks at its next tick, when it has time to give the pages to the system.
 */
void chan_rest(struct chan *c);
/* Is the broker still there?  Looks at the word in B only (_word), or at the socket as well, from
 * which it takes bell bytes.  If not the channel is marked lost. */
void chan_check_word(struct chan *c);
void chan_check_peer(struct chan *c);
/* 0, or BROKER_E_: make poll_fd. */
int chan_make_fd(struct chan *c) must_use;
/* Let the event loop's descriptor become readable with the next completion; true: look again. */
bool chan_arm_fd(struct chan *c) must_use;
/* At the end of a call that may have taken in completions of other tickets. */
void chan_settle_fd(struct chan *c);

#endif
