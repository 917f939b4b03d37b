/* SPDX-License-Identifier: MIT */
/*
 * proxy.h - a network that misbehaves, between a broker and a server: a small TCP proxy in a
 * process of its own, on a loopback address and port of its own.
 *
 * It changes what it does at once and for all connections; a connection that was stalled goes on
 * when it may, with nothing lost, as one does whose lost packets are sent again.
 */
#ifndef IT_PROXY_H
#define IT_PROXY_H

#include <stdint.h>

struct proxy;

enum proxy_mode {
	PROXY_FORWARD,
	/* packets are lost in both directions: connections are accepted by the kernel, nothing
	   arrives, nothing ends */
	PROXY_STALL,
	/* packets are lost on the way back: requests reach the server, answers do not come */
	PROXY_MUTE,
	/* new connections are refused, old ones go on */
	PROXY_REFUSE,
	/* old connections are reset, new ones as soon as they are made */
	PROXY_RESET,
};

/* Listen; `to` is "host:port", or the path of a Unix socket. */
struct proxy *proxy_start(const char *to);
/* Returns when it is done. */
void proxy_set(struct proxy *p, enum proxy_mode mode);
/* Reset what is connected now, once; the mode stays. */
void proxy_cut(struct proxy *p);
/* "127.0.0.1" and the port. */
const char *proxy_host(const struct proxy *p);
int proxy_port(const struct proxy *p);
/* Connections that were accepted and not refused so far; those open now. */
unsigned proxy_accepted(const struct proxy *p);
unsigned proxy_open(const struct proxy *p);
/* End it and set *p to NULL.  NULL is allowed. */
void proxy_stop(struct proxy **p);

#endif
