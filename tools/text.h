/* SPDX-License-Identifier: MIT */
/*
 * text.h - texts for a terminal: foreign bytes made harmless, durations, times, aligned tables.
 *
 * Names, tags and statements come from workers.  Everything printed for people goes through
 * text_clean, which leaves no control character and no invalid UTF-8; where the locale is not UTF-8
 * it leaves ASCII only.  setlocale(LC_CTYPE, "") comes first.
 */
#ifndef TOOLS_TEXT_H
#define TOOLS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Copy src, len bytes or up to NUL, into dst, NUL terminated, cut at a character.  Line breaks and
 * tabs become one space, other control characters and invalid bytes '?'.  Returns dst.
 */
char *text_clean(char *dst, size_t size, const char *src, size_t len);

/* The same for JSON, whatever the locale: valid UTF-8 is kept as it is, invalid bytes become '?'.
 */
char *text_utf8(char *dst, size_t size, const char *src, size_t len);

/* "850ns", "12us", "3.4ms", "1.25s", "4m10s", "3h05m", "2d04h"; "-" for 0.  Returns dst. */
char *text_duration(char *dst, size_t size, double seconds);

/* CLOCK_REALTIME nanoseconds as local time with milliseconds: "2026-01-31 23:59:59.123". */
char *text_time(char *dst, size_t size, uint64_t real_ns);

/* "950", "12.3k", "4.56M": four characters or so. */
char *text_number(char *dst, size_t size, double v);

/* Columns of the terminal that a clean text takes. */
size_t text_width(const char *s);

/* Bytes of a clean text that fit into so many columns. */
size_t text_fit(const char *s, size_t columns);

/* True if the locale's characters are UTF-8. */
bool text_is_utf8(void);

/*
 * Values as a line of n characters, each as high as its value is between 0 and the largest: blocks
 * in UTF-8 locales, otherwise ASCII.  A value below 0 is a gap.
 */
char *text_spark(char *dst, size_t size, const double *v, size_t n);

/* A table: cells are copied and cleaned; columns are as wide as their widest cell. */
struct text_table;

/* columns: titles separated by single spaces; a title that begins with '>' is aligned right. */
struct text_table *text_table_create(const char *columns);
/* Append a cell; rows fill from left to right.  Out of memory drops the cell and marks the table.
 */
void text_table_cell(struct text_table *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
unsigned text_table_rows(const struct text_table *t);
/* Line i as text, 0 is the titles; valid until the next call.  NULL beyond the end. */
const char *text_table_line(struct text_table *t, unsigned i);
/* Print all lines; title row in bold if bold. */
void text_table_print(struct text_table *t, FILE *f, bool bold);
/* True if memory ran out while it was filled. */
bool text_table_failed(const struct text_table *t);
void text_table_free(struct text_table **t);

#endif
