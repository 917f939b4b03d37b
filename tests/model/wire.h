/* SPDX-License-Identifier: MIT */
/*
 * wire.h - a worker of the models: speaks the wire format itself, in the process and thread of the
 * broker's core.
 */
#ifndef MODEL_WIRE_H
#define MODEL_WIRE_H

#include "io.h"
#include "layout.h"
#include "ring.h"
#include "session.h"

struct wire {
	struct session *s; /* gone when its socket was closed and the loop turned */
	int sock;
	void *w, *b, *arena;
	uint64_t w_len, b_len, arena_len;
	const struct chan_broker *bc;
	struct ring_out sub;
	struct ring_in comp;
	uint64_t next_off;
};

/* Attach worker `number` with so much memory for results; ends the test if that is impossible. */
void wire_attach(struct wire *k, struct io *io, unsigned number, unsigned result_kib);
void wire_detach(struct wire *k);
/* Put a request into the ring; the broker sees it with wire_publish. */
void wire_push(struct wire *k, struct shm_request *d);
void wire_publish(struct wire *k);
/* Put its head and text where the arena has room; earlier bodies were copied long ago. */
void wire_body(struct wire *k, struct shm_request *d, const char *sql);
/* A chunk of a result was read. */
void wire_give_back(struct wire *k, uint32_t chunk);

#endif
