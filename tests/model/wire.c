/* SPDX-License-Identifier: MIT */
/* wire.c - see wire.h. */
#include "wire.h"

#include "doorbell.h"
#include "tap.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *section_of(void *map, uint32_t type, uint64_t *len)
{
	const struct shm_section *s = segment_section(map, type);

	*len = s->len;
	return segment_at(map, s);
}

static void bind_rings(struct wire *k)
{
	struct chan_worker *wc;
	void *sub, *comp;
	uint64_t len;

	wc = section_of(k->w, SHM_SEC_CONTROL, &len);
	k->bc = section_of(k->b, SHM_SEC_CONTROL, &len);
	sub = section_of(k->w, SHM_SEC_RING, &len);
	comp = section_of(k->b, SHM_SEC_RING, &len);
	k->arena = section_of(k->w, SHM_SEC_ARENA, &k->arena_len);
	ring_out_init(&k->sub, &wc->sub_tail, &k->bc->sub_head, sub, CHAN_RING_SLOTS);
	ring_in_init(&k->comp, &k->bc->comp_tail, &wc->comp_head, comp,
		segment_section(k->b, SHM_SEC_RING)->count);
}

void wire_attach(struct wire *k, struct io *io, unsigned number, unsigned result_kib)
{
	struct session_identity id = {.pid = (int32_t)(100 + number)};
	struct session_fds fds;
	int pair[2];

	memset(k, 0, sizeof(*k));
	id.pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 || id.pidfd < 0 ||
		session_create(io, pair[0], &id, 0, result_kib, &k->s, &fds) < 0 ||
		segment_attach(fds.w, SHM_ROLE_WORKER, true, &k->w, &k->w_len) < 0 ||
		segment_attach(fds.b, SHM_ROLE_BROKER, false, &k->b, &k->b_len) < 0) {
		bail_out("a worker cannot attach: %s", strerror(errno));
	}
	session_ready(k->s);
	k->sock = pair[1];
	close(fds.w);
	close(fds.b);
	bind_rings(k);
}

void wire_detach(struct wire *k)
{
	close(k->sock);
	segment_unmap(k->w, k->w_len);
	segment_unmap(k->b, k->b_len);
}

void wire_publish(struct wire *k)
{
	ring_publish(&k->sub);
	full_fence();
	if (get(&k->bc->need_wake) != 0) {
		session_bell(k->s); /* as if the eventfd had rung */
	}
}

void wire_push(struct wire *k, struct shm_request *d)
{
	if (ring_out_space(&k->sub) == 0) {
		bail_out("the submission ring is full");
	}
	ring_push(&k->sub, d);
}

void wire_body(struct wire *k, struct shm_request *d, const char *sql)
{
	struct shm_body body = {.sql_len = (uint32_t)strlen(sql)};

	if (k->next_off % k->arena_len + 128 > k->arena_len) {
		k->next_off += k->arena_len - k->next_off % k->arena_len;
	}
	d->off = k->next_off;
	d->len = (uint32_t)(sizeof(body) + pad8(body.sql_len));
	memcpy((char *)k->arena + d->off % k->arena_len, &body, sizeof(body));
	memcpy((char *)k->arena + d->off % k->arena_len + sizeof(body), sql, body.sql_len);
	k->next_off += d->len;
}

void wire_give_back(struct wire *k, uint32_t chunk)
{
	struct shm_request nop = {.id = 1, .op = REQ_NOP, .free_chunk = chunk};

	wire_push(k, &nop);
	wire_publish(k);
}
