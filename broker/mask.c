/* SPDX-License-Identifier: MIT */
/*
 * mask.c - config_mask_url: a connection string that may be shown.
 *
 * The string may be malformed, so what is not understood is hidden: too much rather than too
 * little.
 */
#include "config.h"

#include "option.h"

#include <ctype.h>
#include <string.h>

/* libpq decodes %XX in the names of URI parameters; a name that needs it is taken as a secret. */
static bool secret_word(const char *word, size_t len)
{
	static const char *const parts[] = {"password", "secret", "scram", "%"};

	for (unsigned i = 0; i < array_size(parts); i++) {
		if (memmem(word, len, parts[i], strlen(parts[i])) != NULL) {
			return true;
		}
	}
	return false;
}

/* postgresql://user:PASSWORD@host/database?password=PASSWORD&... */
static void mask_uri(const char *uri, FILE *f)
{
	const char *start = strstr(uri, "://") + 3;
	const char *at = strrchr(start, '@'); /* the last: a password may hold more of them */
	const char *colon = at != NULL ? memchr(start, ':', (size_t)(at - start)) : NULL;
	const char *p = start;

	fwrite(uri, 1, (size_t)(start - uri), f);
	if (colon != NULL) {
		fprintf(f, "%.*s:%s", (int)(colon - start), start, OPTION_MASK);
		p = at;
	}
	while (*p != '\0') {
		size_t n = strcspn(p, "?&"), key = strcspn(p, "=");

		if (key < n && p > start && strchr("?&", p[-1]) != NULL && secret_word(p, key)) {
			fprintf(f, "%.*s=%s", (int)key, p, OPTION_MASK);
		} else {
			fwrite(p, 1, n, f);
		}
		p += n;
		if (*p != '\0') {
			fputc(*p++, f);
		}
	}
}

/* Length of a value of a connection string: quoted, or up to a blank; a backslash hides one byte.
 */
static size_t value_length(const char *p)
{
	bool quoted = *p == '\'';
	size_t n = quoted ? 1 : 0;

	for (; p[n] != '\0'; n++) {
		if (p[n] == '\\' && p[n + 1] != '\0') {
			n++;
		} else if (quoted ? p[n] == '\'' : isspace((unsigned char)p[n])) {
			return n + (quoted ? 1 : 0);
		}
	}
	return n;
}

/* key = value pairs; what does not parse is masked to the end. */
static void mask_pairs(const char *p, FILE *f)
{
	while (*p != '\0') {
		size_t blank = strspn(p, " \t\r\n"), key = strcspn(p + blank, "= \t\r\n"), n;

		fwrite(p, 1, blank, f);
		p += blank;
		n = key + strspn(p + key, " \t\r\n");
		if (*p == '\0') {
			return;
		}
		if (p[n] != '=') {
			fputs(OPTION_MASK, f);
			return;
		}
		n++;
		n += strspn(p + n, " \t\r\n");
		fwrite(p, 1, n, f);
		blank = value_length(p + n);
		if (secret_word(p, key) || memmem(p + n, blank, "://", 3) != NULL) {
			fputs(OPTION_MASK, f);
		} else {
			fwrite(p + n, 1, blank, f);
		}
		p += n + blank;
	}
}

char *config_mask_url(const char *url)
{
	char *text = NULL;
	size_t len = 0;
	enum option_driver driver = option_driver_of(url);
	FILE *f = open_memstream(&text, &len);

	if (f == NULL) {
		return NULL;
	}
	if (driver == OPTION_SQLITE || driver == OPTION_FAKE) {
		fputs(url, f);
	} else if (strstr(url, "://") != NULL && strcspn(url, "= \t") > strcspn(url, ":")) {
		mask_uri(url, f);
	} else {
		mask_pairs(url, f);
	}
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
