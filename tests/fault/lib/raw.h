/* SPDX-License-Identifier: MIT */
/*
 * raw.h - a worker without the client library: attaches by hand and writes what it likes into W.
 *
 * Nothing here checks what it sends; that is the point.  Functions that only set the scene
 * (connect, attach as a well-behaved worker would) end the test if they cannot.
 */
#ifndef FAULT_RAW_H
#define FAULT_RAW_H

#include "layout.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct raw {
	int sock;
	int fd[4]; /* S, W, B, eventfd; -1: not received or closed */
	struct attach_reply reply;
	void *w, *b;
	uint64_t w_len, b_len;
	struct chan_worker *worker; /* in W */
	const struct chan_broker *broker; /* in B */
	unsigned char *ring; /* submission slots */
	unsigned char *arena;
	uint64_t arena_len;
	const unsigned char *comp; /* completion slots */
	uint64_t comp_slots;
	const unsigned char *results;
	uint64_t tail; /* next slot to write */
	uint64_t head; /* next completion to read */
	uint64_t at; /* next arena position */
	uint64_t last_id;
};

/* -- attach, step by step ---------------------------------------------------------------------- */

/* Connected socket. */
int raw_connect(const char *path);
struct attach_hello raw_hello(void);
/* Send a message with n descriptors.  False with errno. */
bool raw_send(int sock, const void *msg, size_t len, const int *fds, unsigned n);
/* Receive the reply and up to four descriptors (the others -1).  Length, 0: closed, -1: nothing
 * came within ms. */
ssize_t raw_reply(int sock, struct attach_reply *r, int fds[4], int64_t ms);
/* True if the broker closes this socket within ms; what it sends before is dropped. */
bool raw_closed(int sock, int64_t ms);
void raw_close_fds(int *fds, unsigned n);

/* Map what was received into r->fd. */
void raw_map(struct raw *r);
void raw_ready(struct raw *r);
/* All of it. */
void raw_attach(struct raw *r, const char *path);
/* Close and unmap everything, without a word. */
void raw_drop(struct raw *r);

/* -- sending ----------------------------------------------------------------------------------- */

/* A descriptor with a fresh id and nothing else. */
struct shm_request raw_request(struct raw *r, uint8_t op);
/* Write it to the next slot. */
void raw_push(struct raw *r, const struct shm_request *d);
/* Make what was pushed visible, and ring. */
void raw_publish(struct raw *r);
void raw_bell(const struct raw *r);
/* raw_push and raw_publish. */
void raw_send_request(struct raw *r, const struct shm_request *d);

/* Copy bytes into the arena and say so in d. */
void raw_body(struct raw *r, struct shm_request *d, const void *bytes, size_t len);
/* Encode a body: head, tag, text, parameters that are there already encoded.  Its length. */
size_t raw_encode(void *buf, const char *tag, const char *sql, unsigned nparams, const void *params,
	size_t params_len);
/* One encoded parameter, padded; its length. */
size_t raw_param(void *buf, uint32_t type, const void *data, uint32_t len);
/* Push EXEC of a text.  Its id. */
uint64_t raw_exec(struct raw *r, const char *sql, uint8_t flags, uint64_t lease);
/* Push REQ_LEASE.  Its id. */
uint64_t raw_lease(struct raw *r, uint8_t flags);
/* Push one of the ops without a body. */
uint64_t raw_op(struct raw *r, uint8_t op, uint64_t lease);

/* -- answers ----------------------------------------------------------------------------------- */

/* Take the next completion. */
bool raw_take(struct raw *r, struct shm_completion *c);
/* Take completions, giving their chunks back, until the final one of id. */
bool raw_wait(struct raw *r, uint64_t id, struct shm_completion *c, int64_t ms);
/* Push a NOP that gives a chunk back. */
void raw_give(struct raw *r, uint32_t chunk);
/* Code with which the broker gave this worker up; 0 if it has not within ms. */
uint32_t raw_evicted(const struct raw *r, int64_t ms);
/* Run a statement to its end: its kind, 0 if it has none within ms. */
int raw_run(struct raw *r, const char *sql, int64_t ms);

#endif
