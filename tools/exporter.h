/* SPDX-License-Identifier: MIT */
/*
 * exporter.h - `brokerstat --listen`: the board over HTTP, for Prometheus, load balancers and
 * people.
 *
 * Asks the broker nothing: everything comes from the segments, also while the broker is stopped or
 * dead.  It starts without a broker and follows one that is restarted.  One thread: a loop that
 * samples the board once a second and answers requests.
 *
 * Statement texts are served if this process may read the slow-query segment, unless that is
 * switched off: whoever can connect to the address sees them.
 */
#ifndef TOOLS_EXPORTER_H
#define TOOLS_EXPORTER_H

#include <stdbool.h>

/*
 * Serve until SIGINT or SIGTERM.  name: as for reader_open; where: "[ADDR:]PORT"; texts: whether
 * statements may be shown.  Prints its address to standard output, and what goes wrong to standard
 * error.  Returns an exit code of brokerstat.
 */
int exporter_run(const char *name, const char *where, bool texts);

#endif
