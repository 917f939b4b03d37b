/* SPDX-License-Identifier: MIT */
/*
 * doorbell.h - wake a peer that sleeps, and only then.
 *
 * The protocol is the same in both directions:
 *
 *      sleeper                               publisher
 *      put(flag, 1)                          publish(tail, n)
 *      full_fence()               (F1)       full_fence()              (F2)
 *      look at tail again                    if (get(flag)) ring
 *      sleep, bounded
 *
 * F1 and F2 forbid that the sleeper misses the new tail and the publisher misses the flag (the
 * store-buffering outcome).  All sleeps are bounded as well, so even a peer that lies about its
 * flag delays nobody but itself.
 *
 *   worker -> broker   flag chan_broker.need_wake (in B: a worker cannot clear it), bell = eventfd,
 *                      edge-triggered in the broker's epoll, never written or read by the broker
 *   broker -> worker   flag chan_worker.sleeping (in W), bell = FUTEX_WAKE on chan_broker.bell, or
 *                      one byte on the attach socket
 *
 * The futex is not private: the word lies in memory shared between processes.  FUTEX_WAIT works on
 * a read-only mapping (futex(2); the key is the inode and offset).
 */
#ifndef SHM_DOORBELL_H
#define SHM_DOORBELL_H

#include "check.h"
#include "layout.h"

/*
 * Sleep while *word == seen, at most timeout_ns.  0: woken or changed.  -ETIMEDOUT, -EINTR.
 * Callers loop and look at the ring again whatever it returns.
 */
int doorbell_wait(const _Atomic uint32_t *word, uint32_t seen, uint64_t timeout_ns);

/* Change the word and wake its sleeper.  Never blocks. */
void doorbell_wake(_Atomic uint32_t *word);

/* Ring an eventfd.  Never blocks: the counter being full means that the bell rings already. */
void doorbell_ring(int efd);

/* CLOCK_MONOTONIC in nanoseconds: the clock of all deadlines. */
uint64_t doorbell_now(void);

#endif
