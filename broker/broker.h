/* SPDX-License-Identifier: MIT */
/*
 * broker.h - the broker process: from a configuration to an exit status.
 */
#ifndef BROKER_BROKER_H
#define BROKER_BROKER_H

#include "check.h"
#include "config.h"

/* What a broker inherits from whoever started it; -1: nothing. */
struct broker_start {
	int attach_fd; /* SOCK_SEQPACKET socket on which attach messages arrive; stays the caller's
			*/
	int listen_fd; /* listening socket; -1: the broker makes the configured one */
	int ready_fd; /* gets one byte and is closed when the pools can serve */
	const struct config_source *source; /* to read again on SIGHUP; NULL: SIGHUP is ignored */
};

/*
 * Serve until SIGTERM or SIGINT.  On SIGHUP the source is read again (config_reload) and what is
 * new takes effect (reload_apply of reload.h); cfg stays the caller's.  Returns the exit status: 0
 * after an orderly end, 1 after a failure, which is logged.
 */
int broker_main(const struct config *cfg, const struct broker_start *start) must_use;

#endif
