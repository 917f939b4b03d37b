/* SPDX-License-Identifier: MIT */
/*
 * exporter_assets.h - the files of the dashboard, made part of the program by dashboard/embed.c.
 */
#ifndef TOOLS_EXPORTER_ASSETS_H
#define TOOLS_EXPORTER_ASSETS_H

#include <stddef.h>

struct exporter_asset {
	const char *path; /* of the URL */
	const char *type;
	const char *etag; /* of the content, with quotes */
	size_t len;
	const unsigned char *data;
};

extern const struct exporter_asset exporter_assets[];
extern const size_t exporter_nassets;

#endif
