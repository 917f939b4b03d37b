/* SPDX-License-Identifier: MIT */
/*
 * log.c - see log.h.
 *
 * The one process-wide state of the broker: level, format and the number of lines lost.  A line is
 * put together on the stack and leaves in one write(2) of at most PIPE_BUF bytes, so lines of
 * several threads and processes do not mix and no lock is held across a fork.
 *
 * A reader of standard error that does not read must not stop the databases of everybody: a line
 * that does not fit at once is dropped and counted, and the next line that fits says so.
 */
#include "log.h"

#include "atomics.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_LEN PIPE_BUF
#define MESSAGE_MAX 2048
#define ENDING_MAX 1024 /* of a line, kept free for the fields */
#define FIELDS_MAX 16
#define PATIENCE_MS 100 /* how long a warning or error waits for a slow reader */

static const char *const level_names[] = {"error", "warning", "info", "debug"};

static _Atomic uint32_t log_level = LOG_INFO;
static _Atomic uint32_t log_json;
static _Atomic uint32_t log_lost;

/* A line under construction.  The first piece that does not fit ends it: no gaps. */
struct line {
	char text[LINE_MAX_LEN];
	size_t len, limit;
	bool cut;
};

bool log_setup(const char *level, const char *format)
{
	bool json = strcmp(format, "json") == 0;

	if (!json && strcmp(format, "text") != 0) {
		return false;
	}
	for (unsigned i = 0; i <= LOG_DEBUG; i++) {
		if (strcmp(level, level_names[i]) == 0) {
			put(&log_level, i);
			put(&log_json, (uint32_t)json);
			return true;
		}
	}
	return false;
}

bool log_enabled(enum log_level level)
{
	return (uint32_t)level <= get(&log_level);
}

static void add(struct line *l, const char *s, size_t n)
{
	if (l->cut || n > l->limit - l->len) {
		l->cut = true;
		return;
	}
	memcpy(l->text + l->len, s, n);
	l->len += n;
}

static void add_string(struct line *l, const char *s)
{
	add(l, s, strlen(s));
}

/* Bytes of the well-formed UTF-8 character at p, or 0.  Surrogates and overlong forms are not. */
static size_t utf8_length(const unsigned char *p, size_t left)
{
	size_t n = p[0] < 0x80   ? 1
		   : p[0] < 0xc2 ? 0
		   : p[0] < 0xe0 ? 2
		   : p[0] < 0xf0 ? 3
		   : p[0] < 0xf5 ? 4
				 : 0;

	if (n > left) {
		return 0;
	}
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80) {
			return 0;
		}
	}
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
		(p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) {
		return 0;
	}
	return n;
}

/*
 * One character, escaped if a terminal could act on it or a line could break at it.  C1 controls
 * are two bytes in UTF-8 and drive terminals as ESC does.
 */
static size_t add_character(struct line *l, const char *s, size_t left, bool json)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t n = utf8_length(p, left);
	char code[8];

	if (n == 0) {
		snprintf(code, sizeof(code), json ? "\\ufffd" : "\\x%02x", p[0]);
		add_string(l, code);
		return 1;
	}
	if (p[0] == '\\' || (json && p[0] == '"')) {
		add(l, (char[]){'\\', s[0]}, 2);
	} else if (p[0] == '\n' || p[0] == '\r' || p[0] == '\t') {
		add_string(l, p[0] == '\n' ? "\\n" : p[0] == '\r' ? "\\r" : "\\t");
	} else if (p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0)) {
		snprintf(code, sizeof(code), json ? "\\u%04x" : "\\x%02x", n == 1 ? p[0] : p[1]);
		add_string(l, code);
	} else {
		add(l, s, n);
	}
	return n;
}

static void add_escaped(struct line *l, const char *s, size_t len, bool json)
{
	for (size_t i = 0; i < len;) {
		i += add_character(l, s + i, len - i, json);
	}
}

/* Say that the text was cut and let the line use the room that was kept for its end. */
static void end_text(struct line *l, const char *closing)
{
	bool cut = l->cut;

	l->limit = sizeof(l->text) - 2; /* the brace of JSON and the newline */
	l->cut = false;
	if (cut) {
		add_string(l, " [cut]");
	}
	add_string(l, closing);
}

static void add_time(struct line *l)
{
	struct timespec now;
	struct tm tm;
	char text[96];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", tm.tm_year + 1900,
		tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000);
	add_string(l, text);
}

/* A piece of a message: key=value, borrowed. */
struct field {
	const char *key, *value;
	size_t keylen, valuelen;
};

/* Parse the last word of s[0..len) as a field; returns where the word begins, or NULL. */
static const char *last_field(const char *s, size_t len, struct field *f)
{
	const char *end = s + len, *p = end, *equal;

	while (p > s && p[-1] != ' ') {
		p--;
	}
	equal = memchr(p, '=', (size_t)(end - p));
	if (p == s || equal == NULL || equal == p) {
		return NULL;
	}
	for (const char *k = p; k < equal; k++) {
		if (!islower((unsigned char)*k) && *k != '_' &&
			(k == p || !isdigit((unsigned char)*k))) {
			return NULL;
		}
	}
	*f = (struct field){p, equal + 1, (size_t)(equal - p), (size_t)(end - equal - 1)};
	return p;
}

static bool same_key(const struct field *a, const char *key, size_t len)
{
	return a->keylen == len && memcmp(a->key, key, len) == 0;
}

/* A key that the line has already: JSON readers keep one of the two and nobody knows which. */
static bool key_taken(const struct field *fields, unsigned n, const struct field *f)
{
	static const char *const own[] = {"ts", "level", "msg", "pool", "server", "worker"};

	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		if (same_key(f, own[i], strlen(own[i]))) {
			return true;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		if (same_key(&fields[i], f->key, f->keylen)) {
			return true;
		}
	}
	return false;
}

/* "pool main: text": the subject becomes a field of its own.  Returns the bytes it takes, or 0. */
static size_t subject(const char *s, size_t len, struct field *f)
{
	static const char *const kinds[] = {"pool", "server", "worker"};

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t k = strlen(kinds[i]);
		const char *end;

		if (len <= k || memcmp(s, kinds[i], k) != 0 || s[k] != ' ') {
			continue;
		}
		end = memmem(s + k + 1, len - k - 1, ": ", 2);
		if (end == NULL || memchr(s + k + 1, ' ', (size_t)(end - s) - k - 1) != NULL) {
			continue;
		}
		*f = (struct field){kinds[i], s + k + 1, k, (size_t)(end - s) - k - 1};
		return (size_t)(end - s) + 2;
	}
	return 0;
}

/* As JSON writes numbers: no sign +, no leading zero; longer ones would lose digits in readers. */
static bool is_number(const struct field *f)
{
	size_t i = f->valuelen > 1 && f->value[0] == '-' ? 1 : 0;

	if (f->valuelen == i || f->valuelen > 15 || (f->value[i] == '0' && f->valuelen > i + 1)) {
		return false;
	}
	for (; i < f->valuelen; i++) {
		if (!isdigit((unsigned char)f->value[i])) {
			return false;
		}
	}
	return true;
}

static void add_member(struct line *l, const struct field *f)
{
	struct line whole = {.limit = sizeof(whole.text)};

	add_string(&whole, ",\"");
	add(&whole, f->key, f->keylen);
	add_string(&whole, "\":");
	if (is_number(f)) {
		add(&whole, f->value, f->valuelen);
	} else {
		add_string(&whole, "\"");
		add_escaped(&whole, f->value, f->valuelen, true);
		add_string(&whole, "\"");
	}
	if (!whole.cut) {
		add(l, whole.text, whole.len); /* all of it or nothing: a cut member is no JSON */
	}
}

static void format_json(struct line *l, enum log_level level, const char *msg, size_t len, bool cut)
{
	struct field fields[FIELDS_MAX], head = {0};
	unsigned n = 0;
	size_t skip = subject(msg, len, &head);
	const char *p;

	while (n < FIELDS_MAX && !cut &&
		(p = last_field(msg + skip, len - skip, &fields[n])) != NULL &&
		!key_taken(fields, n, &fields[n])) {
		n++;
		len = (size_t)(p - msg);
		while (len > skip && msg[len - 1] == ' ') {
			len--;
		}
	}
	add_string(l, "{\"ts\":\"");
	add_time(l);
	add_string(l, "\",\"level\":\"");
	add_string(l, level_names[level]);
	add_string(l, "\",\"msg\":\"");
	add_escaped(l, msg + skip, len - skip, true);
	l->cut |= cut;
	end_text(l, "\"");
	if (skip > 0) {
		add_member(l, &head);
	}
	while (n > 0) {
		add_member(l, &fields[--n]);
	}
	l->text[l->len++] = '}';
}

static void format_text(struct line *l, enum log_level level, const char *msg, size_t len, bool cut)
{
	char name[16];

	add_time(l);
	snprintf(name, sizeof(name), " %-7s ", level_names[level]);
	add_string(l, name);
	add_escaped(l, msg, len, false);
	l->cut |= cut;
	end_text(l, "");
}

static bool send_line(struct line *l, int patience_ms)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
	ssize_t n;

	l->text[l->len++] = '\n';
	if (poll(&p, 1, patience_ms) == 0) {
		return false;
	}
	do {
		n = write(STDERR_FILENO, l->text, l->len);
	} while (n < 0 && errno == EINTR);
	return n >= 0 ||
	       errno != EAGAIN; /* an error that stays is not counted: nobody will read it */
}

/* cut: the end of the message is missing, so its last word is no field. */
static void format_line(struct line *l, enum log_level level, const char *msg, size_t len, bool cut)
{
	l->len = 0;
	l->limit = sizeof(l->text) - ENDING_MAX;
	l->cut = false;
	if (get(&log_json) != 0) {
		format_json(l, level, msg, len, cut);
	} else {
		format_text(l, level, msg, len, cut);
	}
}

/* Tell how many lines did not leave; what cannot be told now stays counted. */
static void report_lost(void)
{
	uint32_t lost = atomic_exchange(&log_lost, 0);
	struct line l;
	char text[64];

	if (lost == 0) {
		return;
	}
	snprintf(text, sizeof(text), "log: lines lost, the reader was too slow lines=%u", lost);
	format_line(&l, LOG_WARNING, text, strlen(text), false);
	if (!send_line(&l, 0)) {
		atomic_fetch_add(&log_lost, lost);
	}
}

void log_vwrite(enum log_level level, const char *fmt, va_list ap)
{
	char msg[MESSAGE_MAX];
	struct line l;
	int saved = errno;
	int n;

	if (!log_enabled(level)) {
		return;
	}
	n = vsnprintf(msg, sizeof(msg), fmt, ap);
	if (n >= 0) {
		bool cut = (size_t)n >= sizeof(msg);

		report_lost();
		format_line(&l, level, msg, cut ? sizeof(msg) - 1 : (size_t)n, cut);
		if (!send_line(&l, level <= LOG_WARNING ? PATIENCE_MS : 0)) {
			atomic_fetch_add(&log_lost, 1);
		}
	}
	errno = saved;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_vwrite(level, fmt, ap);
	va_end(ap);
}

void log_lines(enum log_level level, const char *text)
{
	while (*text != '\0') {
		size_t n = strcspn(text, "\n");

		log_write(level, "%.*s", (int)n, text);
		text += n;
		text += *text == '\n';
	}
}
