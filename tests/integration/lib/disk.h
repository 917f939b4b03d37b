/* SPDX-License-Identifier: MIT */
/*
 * disk.h - a small disk that can be full.
 *
 * It is a tmpfs, so it needs root.  The first one puts the test into a mount namespace of its own:
 * the disks are gone with the test's last process, however that ends, and nobody else sees them.
 * What the test started before does not see them either.
 */
#ifndef IT_DISK_H
#define IT_DISK_H

#include <stdbool.h>

/* Make dir a disk of that size, owned by spawn_user(); the directory is made if need be.  False:
 * not possible here. */
bool disk_make(const char *dir, unsigned mib);
/* All of it goes away. */
void disk_remove(const char *dir);

/* Take all that is free; give it back. */
void disk_fill(const char *dir);
void disk_free(const char *dir);

#endif
