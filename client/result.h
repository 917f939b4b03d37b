/* SPDX-License-Identifier: MIT */
/*
 * result.h - struct broker_result: a request from its descriptor to the freeing of its result.
 *
 * Who holds one: the channel's slot while it is in flight or its ticket is open, the user (or
 * lease, COPY) while `user` is set.  It is freed when neither does.
 *
 *   in_flight  the broker will send a final completion
 *   open       a ticket that broker_collect may ask for
 *   ended      final for its owner: code, rows are valid (before the broker's answer if it was
 *              given up or the channel is gone)
 *   discard    chunks that arrive are given back at once
 */
#ifndef CLIENT_RESULT_H
#define CLIENT_RESULT_H

#include "chan.h"
#include "handle.h"

#define SCRATCH_BLOCK 4096u

/* Memory for what getters make of the current row. */
struct scratch {
	struct scratch *next;
	size_t used, size;
	unsigned char bytes[];
};

struct broker_result {
	struct chan *chan;
	uint64_t id;
	uint64_t lease; /* id, or 0 */
	uint64_t deadline_ns;
	uint64_t sub_pos; /* position after its descriptor; UINT64_MAX: not pushed */
	uint8_t op;
	uint16_t server; /* row of the board, UINT16_MAX: not known */
	bool readonly;
	bool in_tx; /* in a lease with a transaction: undone with it */

	bool user, in_flight, open, ended, discard;
	bool news; /* something arrived since this was cleared */
	bool is_ready; /* in chan->ready */
	bool copy_ready;
	bool owes_cancel, owes_end; /* in chan->owed */

	int code; /* ended: 0 or BROKER_E_ */
	enum broker_outcome outcome;
	bool retry_safe;
	struct chunk *error; /* struct shm_error, or NULL */
	int64_t rows; /* -1: not known */
	uint64_t wait_ns, run_ns;

	struct rowreader rr;
	struct scratch *scratch; /* newest first */
	TAILQ_ENTRY(broker_result) link, ready_link, owed_link;
};

/* A request on channel c, held by the caller.  NULL: out of memory. */
struct broker_result *result_create(struct chan *c) must_use;
/* The holder is done with it: what has not arrived will be dropped. */
void result_drop(struct broker_result *r);
/* Nobody holds it any more: give chunks back, free or keep for the next statement. */
void result_release(struct broker_result *r);
/* Free the ones kept. */
void result_free_spare(struct broker *b);

/* It ends here, by the library's own verdict; texts come from the code. */
void result_end(struct broker_result *r, int code, enum broker_outcome outcome, bool retry_safe);
/* Its deadline and the grace have passed without an answer: give it up. */
void result_give_up(struct broker_result *r);
/* Put its failure into the handle's error; returns the code. */
int result_fail(struct broker_result *r);
/* Move chunks to the heap, but not that of the current row.  Returns the blocks that became due. */
uint32_t result_spill(struct broker_result *r, uint32_t want);

/* Wait for the first chunk or the end, read the columns; everything if !keep. */
int result_deliver(struct broker_result *r, bool keep) must_use;

/* 0, or why this result cannot be used here. */
int result_enter(const struct broker_result *r) must_use;

#endif
