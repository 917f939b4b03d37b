/* SPDX-License-Identifier: MIT */
/*
 * bank.h - a bank: accounts, workers that transfer money between them, auditors among them, and the
 * books.  For tests that do things to the servers meanwhile.
 *
 * A transfer is a leased transaction: both balances, and a line in the history with the number of
 * the transfer.  Now and then accounts are taken in the wrong order, so that there are deadlocks;
 * or a transfer is given up before it is committed.  Workers also add up all balances, as a read
 * that may go to any server: every server, at any time, has to show the same sum.
 */
#ifndef IT_BANK_H
#define IT_BANK_H

#include "pg.h"

#include <stdbool.h>
#include <stdint.h>

struct bank;

/* Make the tables and fill the accounts. */
void bank_found(struct pg_cluster *primary);
/* Start the workers; every server has the tables by now. */
struct bank *bank_open(const char *socket, unsigned workers);
/* True when that many transfers have been acknowledged from now on; false after timeout_ms. */
bool bank_moves(struct bank *b, unsigned transfers, int64_t timeout_ms);
/* Stop the workers, check the books against this server, free *b. */
void bank_close(struct bank **b, struct pg_cluster *primary);

#endif
