/* SPDX-License-Identifier: MIT */
/*
 * draft.h - the configuration while it is put together, with the place every value comes from.
 *
 * Values come in layers: defaults, file, --set, environment.  Each layer may name an option once; a
 * later layer wins over an earlier one, and a mistake is reported even if a later layer would hide
 * it.  All mistakes are collected before giving up.
 *
 * Private to the files draft*.c and config.c.  Start-up code of one thread.
 */
#ifndef BROKER_DRAFT_H
#define BROKER_DRAFT_H

#include "config.h"
#include "option.h"

#define DRAFT_NAME_MAX 40 /* "server " and a name fit inih's buffer for sections */
#define DRAFT_WHERE_MAX 300
#define DRAFT_MAX_OPTIONS 128

enum draft_layer { LAYER_DEFAULT, LAYER_FILE, LAYER_SET, LAYER_ENV, LAYER_COUNT };

struct draft_section {
	enum option_section kind;
	char *name; /* NULL: [broker] */
	char *where; /* the place that defined it; NULL: built in */
	char *given[DRAFT_MAX_OPTIONS][LAYER_COUNT]; /* places, by index in option_table */
	union {
		struct config_broker broker;
		struct config_server server;
		struct config_pool pool;
	} v;
};

struct draft {
	struct draft_section **sections; /* [0] is [broker] */
	unsigned nsections;
	char *err; /* one line per mistake; the caller's */
	size_t errlen, errused;
	unsigned mistakes, unshown;
	bool out_of_memory;
	const char *path; /* of the file, or NULL; the caller's */
};

/* Report a mistake at a place.  What does not fit into the buffer is counted. */
void draft_mistake(struct draft *d, const char *where, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* A copy, or NULL and out_of_memory set. */
char *draft_keep(struct draft *d, const char *s);

/* "[pool main]", in buf. */
const char *draft_title(const struct draft_section *s, char *buf, size_t len);
/* Place of the value in force, or NULL if it is the default. */
const char *draft_place(const struct draft_section *s, const char *key);
/* "FILE:LINE: [pool main] max_size", in buf: the place for a mistake that concerns a value. */
const char *draft_blame(const struct draft_section *s, const char *key, char *buf, size_t len);

/* name NULL: the first of that kind.  NULL if there is none. */
struct draft_section *draft_find(struct draft *d, enum option_section kind, const char *name);
/* A new section with default values; where NULL: built in.  NULL: out of memory. */
struct draft_section *draft_add(
	struct draft *d, enum option_section kind, const char *name, const char *where);
void draft_section_free(struct draft_section *s);

/* Give an option its value in one layer. */
void draft_assign(struct draft *d, struct draft_section *s, enum draft_layer layer, const char *key,
	const char *value, const char *where);
/* Split "pool main", cutting text up; false if a mistake was reported. */
bool draft_parse_title(
	struct draft *d, char *text, const char *where, enum option_section *kind, char **name);

/* The layers.  path and env as for config_load. */
void draft_load_file(struct draft *d, const char *path, char *const *env);
void draft_load_override(struct draft *d, const char *text);
void draft_load_variable(struct draft *d, const char *entry);

/* Look for what contradicts itself, is missing or has no effect; drops a built-in server that no
 * pool uses. */
void draft_check(struct draft *d);

#endif
