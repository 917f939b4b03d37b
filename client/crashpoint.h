/* SPDX-License-Identifier: MIT */
/*
 * crashpoint.h - named steps at which tests kill or stop this process.
 *
 * Compiled in only with -DBROKER_CRASHPOINTS, i.e. into the library variant that the fault tests
 * link; the installed library has none of it.  The environment of the process says which point:
 *
 *     BROKER_CRASHPOINT="N:kill[:K]"    SIGKILL to itself at the K-th pass (default 1) of point N
 *     BROKER_CRASHPOINT="N:stop[:K]"    SIGSTOP
 *
 * A test iterates over crashpoints.def.  The variable is read at every pass, so a test may set it
 * in a forked child; passes are counted per process.
 */
#ifndef CLIENT_CRASHPOINT_H
#define CLIENT_CRASHPOINT_H

enum crashpoint {
#define CRASHPOINT_DEF(name, number, where) CRASHPOINT_##name = number,
#include "crashpoints.def"
#undef CRASHPOINT_DEF
};

#define CRASHPOINT_MAX 64 /* numbers are below */

#ifdef BROKER_CRASHPOINTS
void crashpoint_hit(enum crashpoint point);
#define CRASHPOINT(name) crashpoint_hit(CRASHPOINT_##name)
#else
#define CRASHPOINT(name) ((void)0)
#endif

#endif
