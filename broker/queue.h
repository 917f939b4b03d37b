/* SPDX-License-Identifier: MIT */
/*
 * queue.h - a queue between threads: liburcu's wfcqueue, any number of producers, one consumer.
 *
 *              push  try  pop        (X = caller must exclude, - = safe)
 *   push        -     -    -
 *   try, pop    -     X    X
 *
 * Pushing is wait-free.  Whoever takes a node sees all that was written before it was pushed.
 */
#ifndef BROKER_QUEUE_H
#define BROKER_QUEUE_H

#include "atomics.h"

#include <sched.h>
#include <stdbool.h>
#include <urcu/wfcqueue.h>

#ifdef SHM_TSAN
#include <sanitizer/tsan_interface.h>
/*
 * liburcu is not instrumented: what its queues order, ThreadSanitizer must be told.  Release before
 * the node can be seen, acquire after it was taken.
 */
#define handing_over(node) __tsan_release(node)
#define taken_over(node) __tsan_acquire(node)
#else
#define handing_over(node) ((void)(node))
#define taken_over(node) ((void)(node))
#endif

struct queue {
	struct __cds_wfcq_head head;
	struct cds_wfcq_tail tail;
};

static inline void queue_init(struct queue *q)
{
	__cds_wfcq_init(&q->head, &q->tail);
}

static inline void queue_push(struct queue *q, struct cds_wfcq_node *node)
{
	cds_wfcq_node_init(node);
	handing_over(node);
	(void)cds_wfcq_enqueue(&q->head, &q->tail, node);
}

static inline bool queue_empty(struct queue *q)
{
	return cds_wfcq_empty(&q->head, &q->tail);
}

/* NULL: empty.  CDS_WFCQ_WOULDBLOCK: the producer is between its two stores. */
static inline struct cds_wfcq_node *queue_try(struct queue *q)
{
	struct cds_wfcq_node *node = __cds_wfcq_dequeue_nonblocking(&q->head, &q->tail);

	if (node != NULL && node != CDS_WFCQ_WOULDBLOCK) {
		taken_over(node);
	}
	return node;
}

/* For those who may wait for the few instructions of a producer. */
static inline struct cds_wfcq_node *queue_pop(struct queue *q)
{
	struct cds_wfcq_node *node;

	while ((node = queue_try(q)) == CDS_WFCQ_WOULDBLOCK) {
		sched_yield();
	}
	return node;
}

#endif
