/* SPDX-License-Identifier: MIT */
/*
 * matrix.h - kill -9 and SIGSTOP at every crash point of the client library.
 *
 * For each point of crashpoints.def, for SIGKILL and SIGSTOP, at the first pass, at one inside an
 * open transaction and at one in the middle of a large result, a worker runs a program that touches
 * every feature and ends or stands still at that point.  Meanwhile a bystander runs short
 * statements.  After each case
 *
 *   - the point was really reached,
 *   - the bystander saw no error and no long pause,
 *   - every connection is idle again, no lease is held, nothing is in flight,
 *   - of each of the worker's transactions all rows are there or none,
 *   - a worker that only stood still has finished its program without any error,
 *   - on PostgreSQL no transaction is left open.
 *
 * One broker for all of it.  With TEST_QUICK every fourth case.
 */
#ifndef FAULT_MATRIX_H
#define FAULT_MATRIX_H

struct broker_proc;
struct pg_cluster;

struct matrix_plan {
	struct broker_proc *broker;
	struct pg_cluster *pg; /* NULL: SQLite */
	unsigned connections; /* that the full pool has */
	unsigned leases; /* that can be held at once */
};

void matrix_run(const struct matrix_plan *plan);

#endif
