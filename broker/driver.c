/* SPDX-License-Identifier: MIT */
/* driver.c - which driver serves a url. */
#include "driver.h"

#include <string.h>

const struct driver *driver_for_url(const char *url)
{
	if (strncmp(url, "sqlite:", 7) == 0) {
		return &driver_sqlite;
	}
	if (strncmp(url, "fake:", 5) == 0) {
		return &driver_fake;
	}
	return &driver_pg;
}
