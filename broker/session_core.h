/* SPDX-License-Identifier: MIT */
/*
 * session_core.h - the body of a session, shared by the files that make it up and by nobody else:
 *
 *   session.c         life and death, the bells, what others ask about a worker
 *   session_take.c    what the worker published: descriptors, bodies, statements
 *   session_arena.c   the result arena: blocks, chunks, completions, who is let in
 *
 * I/O thread only.
 */
#ifndef BROKER_SESSION_CORE_H
#define BROKER_SESSION_CORE_H

#include "session.h"

/* Of the request arena. */
#define SESSION_ARENA_IN (256u * 1024u)
enum session_state {
	SESSION_ATTACHING, /* segments sent, ready not seen */
	SESSION_READY,
	SESSION_EVICTED,
	SESSION_ENDED,
};

/* A chunk of the result arena, indexed by its first block. */
struct chunk {
	uint16_t blocks; /* 0: no chunk starts here */
	bool given; /* published to the worker */
	struct request *owner; /* whose result still grows, or NULL */
};

/* The latest change of a worker through one pool. */
struct session_write {
	uint64_t wrote_ns; /* 0: none */
	uint64_t lsn; /* a position of the writer after it; 0: not known yet */
};

struct session {
	struct io *io;
	enum session_state state;
	uint64_t incarnation;
	struct session_identity id;
	unsigned slot; /* row in the workers table */
	unsigned pool; /* default, for the mirror */
	int sock, bell;

	void *w, *b; /* mappings */
	uint64_t w_len, b_len;
	const struct chan_worker *worker; /* in w */
	struct chan_broker *broker; /* in b */
	struct ring_in sub;
	struct ring_out comp;
	const unsigned char *arena_in;
	uint64_t arena_in_len;
	unsigned char *arena_out;

	uint64_t used[CHAN_MAX_BLOCKS / 64]; /* bitmap of blocks; bits beyond nblocks are set */
	struct chunk chunk[CHAN_MAX_BLOCKS];
	unsigned nblocks, free_blocks;
	unsigned needy; /* admitted requests that hold no block; free_blocks >= needy */
	unsigned touched; /* blocks from here on were not used since trim_arena */
	uint64_t trimmed_ns;

	struct cds_list_head requests; /* all not ended, struct request.session_link */
	struct cds_list_head unadmitted; /* struct request.link */
	struct cds_list_head blocked; /* struct request.blocked_link */
	struct cds_list_head leases; /* struct lease.session_link */
	unsigned nrequests, nleases;

	struct statement **stmts; /* by the worker's statement id */
	unsigned nstmts; /* allocated */
	uint64_t held; /* bytes of the bodies of its requests */
	uint64_t part_id; /* body being assembled */
	unsigned char *part;
	uint64_t part_len, part_cap;

	bool hot, dirty, paused;
	unsigned quiet_turns;
	unsigned empty_bells; /* in this tick */
	bool bell_ignored;
	bool sock_polled; /* sock_poll is open: from session_ready on */
	uint64_t attached_ns, active_ns, statements, errors;
	struct session_write *writes; /* by pool, nwrites of them; what BROKER_FRESH must see */
	unsigned nwrites;
	bool writes_lost; /* no memory to note one */
	char tag[CHAN_TAG_MAX + 1];

	uv_poll_t sock_poll, pid_poll;
	unsigned handles; /* open uv handles */
	struct cds_list_head link, hot_link, dirty_link;
};

/* On the list of those that are polled in every turn of the loop; of those to be published. */
void session_set_hot(struct session *s, bool hot);
void session_set_dirty(struct session *s);

/* -- session_arena.c --------------------------------------------------------------------------- */

/*
 * One more request can be promised a block.  Promises take half of the arena at most, or results
 * would come one block at a time: the library makes room only when much of the arena is in its
 * hands.  The whole of the largest arena serves as many requests as there can be.
 */
bool session_has_room(const struct session *s);
/* Does r take part?  Not if it has no result: if it fails, which is rare, a code will do. */
bool session_needs_block(const struct request *r);
/* r has been let in: it is promised one if it needs one. */
void session_promise_block(struct session *s, struct request *r);
/* A request that waits for the arena could be let in; let in all that can. */
bool session_may_admit(struct session *s);
void session_admit(struct session *s);
/* The worker gives a chunk back; 0 or -EPROTO.  Then what waited for it may go on. */
int session_free_chunk_from_peer(struct session *s, uint32_t block);
void session_blocks_freed(struct session *s);
/* Now and then: give pages back that have not been used for a while. */
void session_trim_when_quiet(struct session *s);

/* -- session_take.c ---------------------------------------------------------------------------- */

/* Forget a body that was being put together. */
void session_drop_part(struct session *s);

#endif
