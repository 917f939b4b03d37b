/* SPDX-License-Identifier: MIT */
/* statement.c - see statement.h. */
#include "statement.h"

#include "fingerprint.h"
#include "hash.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BUCKETS 8192u
/* Texts that nobody references, all together. */
#define IDLE_BYTES_MAX (16u << 20)

struct statements {
	struct statement *bucket[BUCKETS];
	struct statement *newest, *oldest; /* unreferenced ones */
	unsigned idle, limit;
	size_t idle_bytes;
	uint32_t next_id, step;
};

struct statements *statements_create(unsigned limit)
{
	struct statements *s = calloc(1, sizeof(*s));

	if (s != NULL) {
		s->limit = limit;
		statements_number(s, 1, 1);
	}
	return s;
}

void statements_number(struct statements *s, uint32_t first, uint32_t step)
{
	s->next_id = first;
	s->step = step;
}

void statements_destroy(struct statements *s)
{
	if (s == NULL) {
		return;
	}
	for (unsigned i = 0; i < BUCKETS; i++) {
		struct statement *st = s->bucket[i];

		while (st != NULL) {
			struct statement *next = st->chain;

			free(st);
			st = next;
		}
	}
	free(s);
}

static void idle_remove(struct statements *s, struct statement *st)
{
	*(st->newer != NULL ? &st->newer->older : &s->newest) = st->older;
	*(st->older != NULL ? &st->older->newer : &s->oldest) = st->newer;
	st->newer = st->older = NULL;
	s->idle--;
	s->idle_bytes -= st->len;
}

static void idle_add(struct statements *s, struct statement *st)
{
	st->newer = NULL;
	st->older = s->newest;
	*(s->newest != NULL ? &s->newest->newer : &s->oldest) = st;
	s->newest = st;
	s->idle++;
	s->idle_bytes += st->len;
}

static void forget(struct statements *s, struct statement *st)
{
	struct statement **p = &s->bucket[st->hash % BUCKETS];

	while (*p != st) {
		p = &(*p)->chain;
	}
	*p = st->chain;
	idle_remove(s, st);
	free(st);
}

static bool is_query(const char *text, size_t len);

static struct statement *add(struct statements *s, uint64_t hash, const char *text, size_t len)
{
	struct statement *st = malloc(sizeof(*st) + len + 1);
	struct fingerprint shape;

	if (st == NULL) {
		return NULL;
	}
	fingerprint_make(&shape, text, len);
	memset(st, 0, sizeof(*st));
	memcpy(st->text, text, len);
	st->text[len] = '\0';
	st->len = len;
	st->hash = hash;
	st->fingerprint = shape.value;
	st->id = s->next_id;
	s->next_id += s->step;
	st->traits = statement_traits(text, len);
	atomic_init(&st->readonly, is_query(text, len) ? 1 : -1);
	st->chain = s->bucket[hash % BUCKETS];
	s->bucket[hash % BUCKETS] = st;
	return st;
}

struct statement *statement_get(struct statements *s, const char *text, size_t len)
{
	uint64_t hash = hash_bytes(text, len);
	struct statement *st;

	for (st = s->bucket[hash % BUCKETS]; st != NULL; st = st->chain) {
		if (st->hash == hash && st->len == len && memcmp(st->text, text, len) == 0) {
			if (st->refs == 0) {
				idle_remove(s, st);
			}
			st->refs++;
			return st;
		}
	}
	st = add(s, hash, text, len);
	if (st != NULL) {
		st->refs = 1;
	}
	return st;
}

void statement_hold(struct statement *st)
{
	check(st->refs > 0);
	st->refs++;
}

void statement_put(struct statements *s, struct statement *st)
{
	if (st == NULL) {
		return;
	}
	check(st->refs > 0);
	if (--st->refs == 0) {
		idle_add(s, st);
		while (s->idle > s->limit || s->idle_bytes > IDLE_BYTES_MAX) {
			forget(s, s->oldest);
		}
	}
}

/* -- traits ---------------------------------------------------------------------------------- */

/*
 * Words of a text, one after the other; comments, string literals and quoted identifiers are
 * skipped for the first words, but are words to the suspicion scan: being wrong there costs one
 * reset, nothing else.
 */
struct scan {
	const char *at, *end;
};

static bool skip_comment(struct scan *s)
{
	if (s->end - s->at >= 2 && s->at[0] == '-' && s->at[1] == '-') {
		while (s->at < s->end && *s->at != '\n') {
			s->at++;
		}
		return true;
	}
	if (s->end - s->at >= 2 && s->at[0] == '/' && s->at[1] == '*') {
		unsigned depth = 0; /* PostgreSQL nests them */

		while (s->at < s->end) {
			if (s->end - s->at >= 2 && s->at[0] == '/' && s->at[1] == '*') {
				depth++;
				s->at += 2;
			} else if (s->end - s->at >= 2 && s->at[0] == '*' && s->at[1] == '/') {
				s->at += 2;
				if (--depth == 0) {
					break;
				}
			} else {
				s->at++;
			}
		}
		return true;
	}
	return false;
}

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

/* Next word in lower case into buf; false at the end.  comments: skip them. */
static bool next_word(struct scan *s, bool comments, char *buf, size_t size)
{
	size_t n = 0;

	while (s->at < s->end && !is_word(*s->at)) {
		if (!comments || !skip_comment(s)) {
			s->at++;
		}
	}
	while (s->at < s->end && is_word(*s->at)) {
		if (n + 1 < size) {
			buf[n++] = (char)tolower((unsigned char)*s->at);
		}
		s->at++;
	}
	buf[n] = '\0';
	return n > 0;
}

/* Only reads, whatever follows: SQLite may run it on a reader without having prepared it. */
static bool is_query(const char *text, size_t len)
{
	struct scan s = {text, text + len};
	char first[16];

	return next_word(&s, true, first, sizeof(first)) &&
	       (strcmp(first, "select") == 0 || strcmp(first, "values") == 0);
}

static bool one_of(const char *word, const char *const *list)
{
	for (; *list != NULL; list++) {
		if (strcmp(word, *list) == 0) {
			return true;
		}
	}
	return false;
}

static bool starts_with_one_of(const char *word, const char *const *list)
{
	for (; *list != NULL; list++) {
		if (strncmp(word, *list, strlen(*list)) == 0) {
			return true;
		}
	}
	return false;
}

/*
 * Functions and words that change the session without a telling command tag: temporary tables and
 * their schemas by name, settings by function, session locks, sequences' session values, exported
 * snapshots, dblink, and functions that run SQL they are given as a string.
 * pg_advisory_xact_lock and friends end with their transaction.
 */
static bool is_suspect_word(const char *word)
{
	static const char *const words[] = {"temp", "temporary", "pg_settings", "set_config",
		"currval", "lastval", "pg_export_snapshot", "pg_replication_origin_session_setup",
		"ts_stat", "ts_rewrite", "connectby", "xpath_table", NULL};
	static const char *const prefixes[] = {"pg_advisory_lock", "pg_try_advisory_lock",
		"pg_advisory_unlock", "lo_", "pg_temp", "pg_toast_temp", "dblink", "query_to_xml",
		"cursor_to_xml", "table_to_xml", "crosstab", NULL};

	return one_of(word, words) || starts_with_one_of(word, prefixes);
}

/* The seed of random() and loaded libraries outlive DISCARD ALL. */
static bool is_indelible(const char *first, const char *second, const char *word)
{
	return strcmp(first, "load") == 0 || strcmp(word, "setseed") == 0 ||
	       (strcmp(first, "set") == 0 && strcmp(second, "seed") == 0);
}

/* U&"\0073et_config" is a name that the scan cannot read. */
static bool has_escaped_name(const char *text, size_t len)
{
	for (size_t i = 0; i + 1 < len; i++) {
		if ((text[i] == 'U' || text[i] == 'u') && text[i + 1] == '&') {
			return true;
		}
	}
	return false;
}

static uint32_t first_word_traits(const char *first, const char *second)
{
	static const char *const tx[] = {"begin", "start", "commit", "end", "rollback", "abort",
		"savepoint", "release", NULL};
	static const char *const state[] = {"set", "reset", "listen", "unlisten", "prepare",
		"deallocate", "declare", "load", "discard", "do", "call", NULL};
	uint32_t traits = 0;

	if (one_of(first, tx) && strcmp(second, "prepared") != 0) {
		bool end = strcmp(first, "commit") == 0 || strcmp(first, "end") == 0 ||
			   strcmp(first, "abort") == 0 ||
			   (strcmp(first, "rollback") == 0 && strcmp(second, "to") != 0);

		traits |= STMT_TX_CONTROL | (end ? STMT_TX_END : 0);
	}
	if (strcmp(first, "prepare") == 0 && strcmp(second, "transaction") == 0) {
		return traits | STMT_TX_CONTROL | STMT_TX_END;
	}
	if (one_of(first, state)) {
		traits |= STMT_SUSPECT;
	}
	if (strcmp(first, "copy") == 0) {
		traits |= STMT_COPY;
	}
	if (strcmp(first, "call") == 0) {
		traits |= STMT_COMMITS;
	}
	return traits;
}

uint32_t statement_traits(const char *text, size_t len)
{
	static const char *const commits[] = {"commit", "rollback", "call", "execute", NULL};
	struct scan s = {text, text + len};
	char first[40], second[40], word[40];
	uint32_t traits;

	if (!next_word(&s, true, first, sizeof(first))) {
		return 0;
	}
	if (!next_word(&s, true, second, sizeof(second))) {
		second[0] = '\0';
	}
	if (strcmp(first, "rollback") == 0 || strcmp(first, "commit") == 0 ||
		strcmp(first, "abort") == 0) {
		/* ROLLBACK [WORK | TRANSACTION] [TO …] */
		if (strcmp(second, "work") == 0 || strcmp(second, "transaction") == 0) {
			if (!next_word(&s, true, second, sizeof(second))) {
				second[0] = '\0';
			}
		}
	}
	traits = first_word_traits(first, second);
	if (has_escaped_name(text, len)) {
		traits |= STMT_SUSPECT;
	}
	s = (struct scan){text, text + len};
	while (next_word(&s, false, word, sizeof(word))) {
		if (is_suspect_word(word)) {
			traits |= STMT_SUSPECT;
		}
		if (strcmp(first, "do") == 0 && one_of(word, commits)) {
			traits |= STMT_COMMITS;
		}
		if (is_indelible(first, second, word)) {
			traits |= STMT_SUSPECT | STMT_INDELIBLE;
		}
	}
	return traits;
}
