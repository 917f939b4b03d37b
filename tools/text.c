/* SPDX-License-Identifier: MIT */
/* text.c - see text.h. */
#include "text.h"

#include <langinfo.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>

bool text_is_utf8(void)
{
	return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

/* Length of the well-formed UTF-8 character at s, 0 if there is none; *code gets it. */
static size_t utf8_length(const unsigned char *s, size_t len, uint32_t *code)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n;
	uint32_t c;

	if (s[0] < 0x80) {
		*code = s[0];
		return 1;
	}
	n = s[0] < 0xc0 || s[0] >= 0xf8 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if (n == 0 || n > len) {
		return 0;
	}
	c = s[0] & (0xffu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80) {
			return 0;
		}
		c = c << 6 | (s[i] & 0x3fu);
	}
	*code = c;
	return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0 : n;
}

/* Characters that move the cursor or turn the reading direction around. */
static bool harmful(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x2069) || c == 0xfeff;
}

static char *copy_text(
	char *dst, size_t size, const char *src, size_t len, bool utf8, bool controls)
{
	size_t out = 0;

	len = strnlen(src, len);
	for (size_t i = 0; i < len;) {
		const unsigned char *s = (const unsigned char *)src + i;
		uint32_t c = 0;
		size_t n = utf8_length(s, len - i, &c);
		bool keep = n != 0 && (controls || !harmful(c)) && (n == 1 || utf8);

		if (out + (keep ? n : 1) >= size) {
			break;
		}
		if (keep) {
			memcpy(dst + out, s, n);
			out += n;
		} else {
			dst[out++] = c == '\n' || c == '\t' || c == '\r' ? ' ' : '?';
		}
		i += n == 0 ? 1 : n;
	}
	dst[out] = '\0';
	return dst;
}

char *text_clean(char *dst, size_t size, const char *src, size_t len)
{
	return copy_text(dst, size, src, len, text_is_utf8(), false);
}

char *text_utf8(char *dst, size_t size, const char *src, size_t len)
{
	return copy_text(dst, size, src, len, true, true);
}

char *text_duration(char *dst, size_t size, double s)
{
	uint64_t whole = (uint64_t)(s + 0.5);

	if (!(s > 0)) {
		snprintf(dst, size, "-");
	} else if (s < 0.9995e-6) {
		snprintf(dst, size, "%.0fns", s * 1e9);
	} else if (s < 0.9995e-3) {
		snprintf(dst, size, "%.3gus", s * 1e6);
	} else if (s < 0.9995) {
		snprintf(dst, size, "%.3gms", s * 1e3);
	} else if (s < 99.95) {
		snprintf(dst, size, "%.3gs", s);
	} else if (whole < 3600) {
		snprintf(dst, size, "%um%02us", (unsigned)(whole / 60), (unsigned)(whole % 60));
	} else if (whole < 86400) {
		snprintf(dst, size, "%uh%02um", (unsigned)(whole / 3600),
			(unsigned)(whole / 60 % 60));
	} else {
		snprintf(dst, size, "%llud%02uh", (unsigned long long)(whole / 86400),
			(unsigned)(whole / 3600 % 24));
	}
	return dst;
}

char *text_time(char *dst, size_t size, uint64_t real_ns)
{
	time_t t = (time_t)(real_ns / 1000000000u);
	char day[32];
	struct tm tm;

	if (localtime_r(&t, &tm) == NULL ||
		strftime(day, sizeof(day), "%Y-%m-%d %H:%M:%S", &tm) == 0) {
		snprintf(dst, size, "-");
		return dst;
	}
	snprintf(dst, size, "%s.%03u", day, (unsigned)(real_ns / 1000000u % 1000u));
	return dst;
}

char *text_number(char *dst, size_t size, double v)
{
	static const char units[] = "kMGTPE";
	double a = fabs(v);
	int u = -1;

	if (a < 999.5) {
		int digits = a == floor(a) || a >= 99.95 ? 0 : a < 9.995 ? 2 : 1;

		snprintf(dst, size, "%.*f", digits, v);
		return dst;
	}
	while (a >= 999.5 && u < 5) {
		a /= 1000;
		v /= 1000;
		u++;
	}
	snprintf(dst, size, "%.*f%c", a < 9.995 ? 2 : a < 99.95 ? 1 : 0, v, units[u]);
	return dst;
}

size_t text_width(const char *s)
{
	mbstate_t state = {0};
	size_t width = 0;
	wchar_t wc;

	while (*s != '\0') {
		size_t n = mbrtowc(&wc, s, 16, &state);
		int w;

		if (n == 0 || n > 16) { /* not in this locale: clean text has none of these */
			return width + strlen(s);
		}
		w = wcwidth(wc);
		width += w > 0 ? (size_t)w : 0;
		s += n;
	}
	return width;
}

size_t text_fit(const char *s, size_t columns)
{
	mbstate_t state = {0};
	size_t bytes = 0, width = 0;
	wchar_t wc;

	while (s[bytes] != '\0') {
		size_t n = mbrtowc(&wc, s + bytes, 16, &state);
		bool odd = n == 0 || n > 16; /* clean text has none of these */
		int w = odd ? 1 : wcwidth(wc);

		if (odd) {
			n = 1;
			state = (mbstate_t){0};
		}
		width += w > 0 ? (size_t)w : 0;
		if (width > columns) {
			break;
		}
		bytes += n;
	}
	return bytes;
}

char *text_spark(char *dst, size_t size, const double *v, size_t n)
{
	static const char *const blocks[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	static const char *const ascii[] = {" ", "_", ".", "-", "~", "=", "+", "*", "#"};
	const char *const *level = text_is_utf8() ? blocks : ascii;
	double most = 0;
	size_t len = 0;

	for (size_t i = 0; i < n; i++) {
		most = v[i] > most ? v[i] : most;
	}
	for (size_t i = 0; i < n; i++) {
		unsigned l = v[i] < 0 ? 0 : v[i] > 0 ? 1 + (unsigned)(v[i] / most * 7.0001) : 1;
		size_t bytes = strlen(level[l]);

		if (len + bytes >= size) {
			break;
		}
		memcpy(dst + len, level[l], bytes);
		len += bytes;
	}
	dst[len] = '\0';
	return dst;
}

/* ------------------------------------------------------------------------------------------------
 */

#define TABLE_COLUMNS 32u

struct text_table {
	unsigned columns;
	bool right[TABLE_COLUMNS];
	size_t width[TABLE_COLUMNS];
	char **cells; /* titles first */
	size_t ncells, room;
	char *line;
	bool failed;
};

static void add_cell(struct text_table *t, const char *text)
{
	size_t w = text_width(text);
	size_t *width = &t->width[t->ncells % t->columns];

	if (t->ncells == t->room) {
		size_t room = t->room * 2 + 64;
		char **cells = realloc(t->cells, room * sizeof(*cells));

		if (cells == NULL) {
			t->failed = true;
			return;
		}
		t->cells = cells;
		t->room = room;
	}
	t->cells[t->ncells] = strdup(text);
	if (t->cells[t->ncells] == NULL) {
		t->failed = true;
		return;
	}
	t->ncells++;
	*width = w > *width ? w : *width;
}

struct text_table *text_table_create(const char *columns)
{
	struct text_table *t = calloc(1, sizeof(*t));
	char *copy = strdup(columns), *save = NULL;

	if (t == NULL || copy == NULL) {
		free(t);
		free(copy);
		return NULL;
	}
	for (const char *p = columns; *p != '\0'; p++) {
		t->columns += *p == ' ';
	}
	t->columns++;
	for (char *c = strtok_r(copy, " ", &save); c != NULL; c = strtok_r(NULL, " ", &save)) {
		t->right[t->ncells % TABLE_COLUMNS] = *c == '>';
		add_cell(t, *c == '>' ? c + 1 : c);
	}
	free(copy);
	return t;
}

void text_table_cell(struct text_table *t, const char *fmt, ...)
{
	char raw[4096], clean[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(raw, sizeof(raw), fmt, ap);
	va_end(ap);
	add_cell(t, text_clean(clean, sizeof(clean), raw, sizeof(raw)));
}

unsigned text_table_rows(const struct text_table *t)
{
	return (unsigned)(t->ncells / t->columns);
}

static size_t line_size(const struct text_table *t, char *const *row)
{
	size_t n = 1;

	for (unsigned c = 0; c < t->columns; c++) {
		n += strlen(row[c]) + t->width[c] + 2;
	}
	return n;
}

const char *text_table_line(struct text_table *t, unsigned i)
{
	char **row = t->cells + (size_t)i * t->columns, *p;

	if (i >= text_table_rows(t)) {
		return NULL;
	}
	free(t->line);
	p = t->line = malloc(line_size(t, row));
	if (p == NULL) {
		return NULL;
	}
	for (unsigned c = 0; c < t->columns; c++) {
		bool last = c + 1 == t->columns;
		size_t fill = t->width[c] - text_width(row[c]);
		size_t before = t->right[c] ? fill : 0;
		size_t after = last ? 0 : fill - before + 2;

		p += sprintf(p, "%*s%s%*s", (int)before, "", row[c], (int)after, "");
	}
	return t->line;
}

void text_table_print(struct text_table *t, FILE *f, bool bold)
{
	for (unsigned i = 0; i < text_table_rows(t); i++) {
		const char *line = text_table_line(t, i);

		if (line != NULL) {
			fprintf(f, i == 0 && bold ? "\033[1m%s\033[0m\n" : "%s\n", line);
		}
	}
}

bool text_table_failed(const struct text_table *t)
{
	return t->failed;
}

void text_table_free(struct text_table **t)
{
	if (*t == NULL) {
		return;
	}
	for (size_t i = 0; i < (*t)->ncells; i++) {
		free((*t)->cells[i]);
	}
	free((*t)->cells);
	free((*t)->line);
	free(*t);
	*t = NULL;
}
