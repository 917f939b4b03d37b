/* SPDX-License-Identifier: MIT */
/*
 * listener.h - lets workers in: the socket by path, the inherited socket, and the handshake.
 *
 *   by path     connect, struct attach_hello
 *   inherited   a message with struct attach_hello and one end of a new socket pair, on a socket
 *               that all workers of a supervised server share (BROKER_FD); nothing is answered on
 *               it
 *
 * Both end with a SOCK_SEQPACKET socket of the worker's own.  Who it is, the kernel says
 * (SO_PEERCRED, SO_PEERPIDFD), never the message.  The handshake has a time limit; half-open
 * attaches are bounded.
 *
 * The first I/O thread listens and hands the socket of each worker to the one that has the fewest
 * (shards.h); the handshake happens there, and the session stays there.
 *
 * listener_create and _destroy on shard 0, while the world stands still; the rest I/O thread only.
 */
#ifndef BROKER_LISTENER_H
#define BROKER_LISTENER_H

#include "check.h"

#include <sys/socket.h>

struct io;
struct listener;

/*
 * Sets io->listener, of all I/O threads.
 * path: created with mode, replacing a socket nobody listens on.  listen_fd >= 0: use that one,
 * which listens already.  attach_fd: inherited socket, or -1.  0, or -errno and a text in err.
 */
int listener_create(struct io *io, const char *path, int mode, int listen_fd, int attach_fd,
	char *err, size_t errlen) must_use;
/* Stop listening and drop half-open attaches; frees once the loop has closed the handles. */
void listener_destroy(struct io *io);

/* Close all descriptors that came with a message. */
void close_passed_fds(struct msghdr *m);

#endif
