/* SPDX-License-Identifier: MIT */
/*
 * option.h - one option of config.def: find it, parse a value into its struct, write it out.
 *
 * Knows types, units and ranges of single values.  Where values come from and which of them
 * contradict each other is the business of config.c.  Start-up code of one thread.
 */
#ifndef BROKER_OPTION_H
#define BROKER_OPTION_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum option_section { OPTION_BROKER, OPTION_SERVER, OPTION_POOL };

enum option_type {
	OPTION_NUMBER,
	OPTION_DURATION,
	OPTION_SIZE,
	OPTION_KIB,
	OPTION_OCTAL,
	OPTION_ENUM,
	OPTION_STRING, /* from here on memory is allocated */
	OPTION_CHOICE,
	OPTION_SECRET,
	OPTION_URL,
	OPTION_LIST,
};

/* Kind of database that an option, or the url of a server, belongs to. */
enum option_driver { OPTION_ANY, OPTION_PG, OPTION_SQLITE, OPTION_FAKE };

/* When a change takes effect. */
enum option_when { OPTION_LIVE, OPTION_START };

#define OPTION_NONE INT64_MIN /* no value is allowed beside min..max */
#define OPTION_MASK "********" /* what is printed in place of a secret */

struct option {
	enum option_section section;
	const char *key;
	enum option_type type;
	const char *def;
	int64_t min, max, also;
	const char *unit;
	enum option_driver driver;
	enum option_when when;
	const char *help;
	size_t offset; /* of the member in the section's struct */
};

extern const struct option option_table[];
extern const unsigned option_count;

/* Kind of database that a url names; OPTION_ANY if it names none.  url may be NULL. */
enum option_driver option_driver_of(const char *url);
/* Does the option mean anything with that kind of database?  ANY: with one kind or another. */
bool option_applies(const struct option *o, enum option_driver driver);
/* "broker", "server", "pool" */
const char *option_section_name(enum option_section s);
/* The option, or NULL. */
const struct option *option_find(enum option_section s, const char *key);
/* The key of that section closest to a mistyped one, or NULL if none is near. */
const char *option_nearest(enum option_section s, const char *key);
/* True if two words differ by no more than a typing mistake or two. */
bool option_near(const char *a, const char *b);

/*
 * Parse text into the member of *section.  0, -ENOMEM, or -EINVAL with *why saying what is wrong
 * and what to write instead; the member then keeps its value.  why never holds a secret.
 */
int option_parse(
	const struct option *o, const char *text, void *section, char *why, size_t whylen) must_use;
/* Free and clear what option_parse allocated. */
void option_clear(const struct option *o, void *section);

/* Do two sections of the option's kind have the same value?  Both are complete. */
bool option_same(const struct option *o, const void *a, const void *b);
/* Give one section the value of another.  0 or -ENOMEM; then it keeps what it had. */
int option_copy(const struct option *o, void *to, const void *from) must_use;

/* The value as option_parse reads it; secrets masked. */
void option_print_value(const struct option *o, const void *section, FILE *f);
/* "number, 1 to 10000 connections, default 10": the facts without the help. */
void option_print_facts(const struct option *o, FILE *f);
/* Name of the environment variable, with <NAME> for the name of the section. */
void option_print_variable(const struct option *o, FILE *f);

#endif
