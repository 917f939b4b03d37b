/* SPDX-License-Identifier: MIT */
/*
 * driver_sqlite.h - what the core may ask the SQLite driver beyond driver.h, with what its
 * server_open returned.  I/O thread.
 */
#ifndef BROKER_DRIVER_SQLITE_H
#define BROKER_DRIVER_SQLITE_H

struct journal_tail;

/* The file, absolute; NULL: a database in memory. */
const char *sqlite_server_path(const void *server_priv);
/* Where its writer says how far the journal reaches; NULL: it keeps none. */
const struct journal_tail *sqlite_server_tail(const void *server_priv);

#endif
