/* SPDX-License-Identifier: MIT */
/*
 * supervisor.h - `broker run`: keeps a broker process and a command going together.
 *
 * The supervisor owns no database, no segment and no socket but one: the pair on which workers ask
 * to be attached.  It holds both ends all its life, so a broker that crashes and is started again
 * finds the requests that came in between, and no worker has to look for a new socket.
 *
 *   supervisor ──fork──▶ broker     its own process group, dies with the supervisor (PDEATHSIG)
 *              ──exec──▶ COMMAND    its own process group, foreground of the terminal if we were
 *
 * Configuration.  On SIGHUP the broker process reads it again (broker.h) and so does the
 * supervisor, which keeps the last one that was good: a broker that is restarted begins with that,
 * or with a newer one if the file has a good one by then.
 *
 * Runs alone in its process: no threads.
 */
#ifndef BROKER_SUPERVISOR_H
#define BROKER_SUPERVISOR_H

#include "broker.h"
#include "check.h"
#include "config.h"

#include <stddef.h>
#include <stdint.h>

struct supervisor_job {
	const struct config *cfg;
	const struct config_source
		*source; /* of cfg, which is read again on SIGHUP and before a broker
	                                       is restarted; NULL: cfg is for ever */
	char *const *command; /* NULL-terminated, at least the program */
	int (*serve)(const struct config *cfg, const struct broker_start *start); /* broker_main */
	char *title; /* memory of the arguments, which the broker process overwrites with what it
			is; NULL: leave them alone */
	size_t title_len;
};

/*
 * Start the broker, then the command; stop the broker when the command has ended.  Closes every
 * descriptor above standard error first.  Returns the exit status for the program: the command's
 * own, 128+N if it died by signal N, 126 or 127 if it could not be executed, the broker's if that
 * never got ready, 1 if the broker keeps failing or the system refuses.
 */
int supervisor_run(const struct supervisor_job *job) must_use;

/* How often the broker failed since it last ran well. */
struct restart {
	unsigned failures;
};

/*
 * The broker died after lived_ms: milliseconds to wait before the next start, or -1 to give up.
 * After a run of at least RESTART_HEALTHY_MS it starts at once; then 100 ms, doubled every time;
 * RESTART_LIMIT failures without such a run in between are too many.
 */
#define RESTART_HEALTHY_MS 5000
#define RESTART_LIMIT 5
int64_t restart_delay(struct restart *r, int64_t lived_ms) must_use;

#endif
