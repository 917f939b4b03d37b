/* SPDX-License-Identifier: MIT */
/*
 * draft_file.c - the file layer of a draft.
 *
 * inih parses the file.  Its line buffer is short, it joins indented lines to the one before, skips
 * sections without keys and reports one bad line only, so file_line() feeds it prepared lines: it
 * strips indentation, cuts a long line into continuations, watches for sections and counts.
 */
#include "draft.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <string.h>

#define FILE_MAX (1 << 20)

struct reader {
	struct draft *d;
	const char *pos; /* first byte that inih did not see yet */
	const char *line_end; /* of the line that inih is reading; NULL: none yet */
	unsigned line;
	bool want_value; /* a line was fed that must make inih call back */
	bool continued; /* what inih reads is the rest of a long line */
	struct draft_section *current; /* NULL: before the first section, or its header was wrong */
	bool bad_section; /* reported; its options are skipped */
	char key[64], *value; /* the option being read */
};

static const char *file_place(const struct reader *r, char *buf, size_t len)
{
	snprintf(buf, len, "%s:%u", r->d->path, r->line);
	return buf;
}

/* inih tells a long value in parts; the option is complete when the next line begins. */
static void file_assign(struct reader *r)
{
	char where[DRAFT_WHERE_MAX];

	file_place(r, where, sizeof(where));
	if (r->value != NULL && r->current != NULL) {
		draft_assign(r->d, r->current, LAYER_FILE, r->key, r->value, where);
	} else if (r->value != NULL && !r->bad_section) {
		draft_mistake(r->d, where,
			"'%s' stands before the first section; write [broker] above it", r->key);
	}
	free(r->value);
	r->value = NULL;
}

static int file_value(void *user, const char *section, const char *name, const char *value)
{
	struct reader *r = user;
	char *joined = NULL;

	(void)section; /* file_section keeps the current one: inih cuts long titles */
	if (r->continued && r->value == NULL) {
		return 1; /* the line had no '=' in its first part */
	}
	r->want_value = false;
	if (asprintf(&joined, "%s%s", r->value != NULL ? r->value : "", value) < 0) {
		r->d->out_of_memory = true;
		return 0;
	}
	free(r->value);
	r->value = joined;
	if (!r->continued) {
		snprintf(r->key, sizeof(r->key), "%s", name);
	}
	return 1;
}

/* A line that begins with '[': open the section. */
static void file_section(struct reader *r, const char *line, size_t len)
{
	const char *close = memchr(line, ']', len);
	char text[DRAFT_WHERE_MAX], where[DRAFT_WHERE_MAX], t[80];
	enum option_section kind;
	struct draft_section *s;
	char *name;

	file_place(r, where, sizeof(where));
	r->current = NULL;
	r->bad_section = true;
	if (close == NULL || close + 1 != line + len || len - 2 >= sizeof(text)) {
		draft_mistake(r->d, where,
			"a section is one line of the form [pool main], with nothing after it");
		return;
	}
	snprintf(text, sizeof(text), "%.*s", (int)(len - 2), line + 1);
	if (!draft_parse_title(r->d, text, where, &kind, &name)) {
		return;
	}
	s = draft_find(r->d, kind, name);
	if (s != NULL && s->where != NULL) {
		draft_mistake(r->d, where, "%s is defined twice, first at %s; merge the two",
			draft_title(s, t, sizeof(t)), s->where);
		return;
	}
	r->bad_section = false;
	if (s != NULL) {
		s->where = draft_keep(r->d, where); /* [broker] exists from the start */
	}
	r->current = s != NULL ? s : draft_add(r->d, kind, name, where);
}

/* Judge the line that inih has just read. */
static void file_line_done(struct reader *r)
{
	char where[DRAFT_WHERE_MAX];

	file_assign(r);
	if (r->want_value) {
		draft_mistake(r->d, file_place(r, where, sizeof(where)),
			"this line is neither a [section], nor 'option = value', "
			"nor a comment (# or ;)");
		r->want_value = false;
	}
}

/* Length of a line without indentation, inline comment and trailing blanks; *line is moved. */
static size_t trim_line(const char **line, const char *end)
{
	const char *p = *line;
	const char *stop;

	while (p < end && isspace((unsigned char)*p)) {
		p++;
	}
	*line = p;
	for (stop = p; stop < end; stop++) {
		if (*stop == ';' && stop > p && isspace((unsigned char)stop[-1])) {
			break;
		}
	}
	while (stop > p && isspace((unsigned char)stop[-1])) {
		stop--;
	}
	return (size_t)(stop - p);
}

/* Bytes that may be fed at once: the rest must not look like a comment, no blank may be lost. */
static size_t cut_length(const char *p, size_t len, size_t room)
{
	size_t n = room;

	if (len <= room) {
		return len;
	}
	while (n > room / 2 && (isspace((unsigned char)p[n - 1]) || isspace((unsigned char)p[n]) ||
				       p[n] == ';' || p[n] == '#')) {
		n--;
	}
	return n;
}

/* Take the next line; false at the end of the file. */
static bool next_line(struct reader *r)
{
	const char *end;
	size_t len;

	file_line_done(r);
	if (*r->pos == '\0') {
		return false;
	}
	r->line++;
	end = strchrnul(r->pos, '\n');
	len = trim_line(&r->pos, end);
	r->line_end = r->pos + len;
	if (*r->pos == '[') {
		file_section(r, r->pos, len);
	}
	r->want_value = len > 0 && strchr("[#;", *r->pos) == NULL;
	return true;
}

/* The reader for inih, in the place of fgets. */
static char *file_line(char *buf, int size, void *user)
{
	struct reader *r = user;
	size_t room = (size_t)size - 3; /* a blank, a newline and the NUL */
	size_t n;

	r->continued = r->line_end != NULL && r->pos < r->line_end;
	if (!r->continued) {
		if (r->line_end != NULL) {
			r->pos = strchrnul(r->line_end, '\n');
			r->pos += *r->pos == '\n';
		}
		if (!next_line(r)) {
			return NULL;
		}
	}
	n = cut_length(r->pos, (size_t)(r->line_end - r->pos), room);
	snprintf(buf, (size_t)size, "%s%.*s\n", r->continued ? " " : "", (int)n, r->pos);
	r->pos += n;
	return buf;
}

/* Whole file as a string the caller frees, or NULL with errno. */
static char *read_file(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = f != NULL ? malloc(FILE_MAX + 1) : NULL;
	size_t n;

	if (text == NULL) {
		if (f != NULL) {
			fclose(f);
		}
		return NULL;
	}
	n = fread(text, 1, FILE_MAX + 1, f);
	if (ferror(f) || n > FILE_MAX || memchr(text, '\0', n) != NULL) {
		int e = ferror(f) ? errno : n > FILE_MAX ? EFBIG : EILSEQ;

		fclose(f);
		free(text);
		errno = e;
		return NULL;
	}
	fclose(f);
	text[n] = '\0';
	return text;
}

static void load_text(struct draft *d, const char *text)
{
	static const char bom[] = "\xef\xbb\xbf";
	struct reader r = {
		.d = d,
		.pos = strncmp(text, bom, strlen(bom)) == 0 ? text + strlen(bom) : text,
	};

	(void)ini_parse_stream(file_line, &r, file_value, &r); /* mistakes are in d already */
	free(r.value);
}

static const char *env_get(char *const *env, const char *name)
{
	size_t len = strlen(name);

	for (; env != NULL && *env != NULL; env++) {
		if (strncmp(*env, name, len) == 0 && (*env)[len] == '=') {
			return *env + len + 1;
		}
	}
	return NULL;
}

/* Find and read the file, if there is one. */
void draft_load_file(struct draft *d, const char *path, char *const *env)
{
	static const char *const usual[] = {"shmbroker.ini", "/etc/shmbroker/shmbroker.ini"};
	const char *wanted = path != NULL ? path : env_get(env, "BROKER_CONFIG");
	char *text = NULL;

	if (wanted != NULL && *wanted != '\0') {
		d->path = wanted;
		text = read_file(wanted);
	}
	for (unsigned i = 0; i < array_size(usual) && d->path == NULL; i++) {
		text = read_file(usual[i]);
		if (text != NULL || (errno != ENOENT && errno != ENOTDIR)) {
			d->path = usual[i];
		}
	}
	if (text != NULL) {
		load_text(d, text);
		free(text);
	} else if (d->path != NULL) {
		draft_mistake(d, d->path, "cannot read the configuration file: %s%s",
			strerror(errno),
			path == NULL && wanted != NULL ? " (named by BROKER_CONFIG)" : "");
	}
}
