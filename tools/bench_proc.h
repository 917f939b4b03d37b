/* SPDX-License-Identifier: MIT */
/*
 * bench_proc.h - what processes used, from /proc and the kernel's process clocks.
 *
 * Functions skip what has ended meanwhile.  Memory needs permission to trace the process (root, or
 * the same user and a dumpable process); use.pss_known says whether there was any.
 */
#ifndef TOOLS_BENCH_PROC_H
#define TOOLS_BENCH_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct bench_use {
	uint64_t cpu_ns; /* also of children that ended and were waited for */
	uint64_t switches; /* context switches, voluntary or not, of the living */
	uint64_t pss_kib; /* proportional set size: shared pages count by their share */
	unsigned processes;
	bool pss_known;
};

/* A process and its descendants, but not `except` (0: none). */
struct bench_tree {
	pid_t root;
	pid_t except;
};

/* CPU time, context switches and number of processes; root 0 leaves all 0. */
void bench_proc_use(const struct bench_tree *t, struct bench_use *out);
/* Adds pss_kib and pss_known to what stands there. */
void bench_proc_memory(const struct bench_tree *t, struct bench_use *out);

/* Nanoseconds that all CPUs of the machine were busy, stolen time included; 0: not known. */
uint64_t bench_proc_machine_busy(void);

/* "postgres" and the like, "" if the process is gone. */
void bench_proc_name(pid_t pid, char *buf, unsigned size);

#endif
