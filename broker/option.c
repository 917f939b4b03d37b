/* SPDX-License-Identifier: MIT */
/* option.c - see option.h. */
#include "option.h"

#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define STRUCT_BROKER struct config_broker
#define STRUCT_SERVER struct config_server
#define STRUCT_POOL struct config_pool

#define MEMBER_NUMBER int64_t
#define MEMBER_DURATION int64_t
#define MEMBER_SIZE int64_t
#define MEMBER_KIB int64_t
#define MEMBER_OCTAL int64_t
#define MEMBER_STRING char *
#define MEMBER_CHOICE char *
#define MEMBER_SECRET char *
#define MEMBER_URL char *
#define MEMBER_LIST char **
#define MEMBER_ENUM unsigned

/* A member of another type than its option would be overwritten with garbage. */
#define OPTION(sec, key, type, def, min, max, also, unit, driver, when, help)                      \
	_Static_assert(OPTION_##type == OPTION_ENUM                                                \
			       ? sizeof(((STRUCT_##sec *)0)->key) == sizeof(unsigned)              \
			       : __builtin_types_compatible_p(                                     \
					 __typeof__(((STRUCT_##sec *)0)->key), MEMBER_##type),     \
		"type of " #key);
#include "config.def"
#undef OPTION

/* The count of a list stands behind it. */
#define LIST_COUNT(list, count)                                                                    \
	_Static_assert(offsetof(struct config_pool, count) ==                                      \
			       offsetof(struct config_pool, list) + sizeof(char **),               \
		"count of " #list)
LIST_COUNT(servers, nservers);
LIST_COUNT(mirror, nmirror);

const struct option option_table[] = {
#define OPTION(sec, key, type, def, min, max, also, unit, driver, when, help)                      \
	{OPTION_##sec, #key, OPTION_##type, def, min, max, also, unit, OPTION_##driver,            \
		OPTION_##when, help, offsetof(STRUCT_##sec, key)},
#define NONE OPTION_NONE
#include "config.def"
#undef NONE
#undef OPTION
};

const unsigned option_count = array_size(option_table);

struct unit {
	const char *name;
	int64_t factor;
};

static const struct unit duration_units[] = {
	{"h", 3600000}, {"min", 60000}, {"s", 1000}, {"ms", 1}, {NULL, 0}};
static const struct unit size_units[] = {
	{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {NULL, 0}};
static const struct unit kib_units[] = {{"GiB", 1 << 20}, {"MiB", 1 << 10}, {"KiB", 1}, {NULL, 0}};
static const struct unit no_units[] = {{NULL, 0}};

static const struct unit *units_of(const struct option *o)
{
	switch (o->type) {
	case OPTION_DURATION:
		return duration_units;
	case OPTION_SIZE:
		return size_units;
	case OPTION_KIB:
		return kib_units;
	default:
		return no_units;
	}
}

const char *option_section_name(enum option_section s)
{
	static const char *const names[] = {"broker", "server", "pool"};

	return names[s];
}

const struct option *option_find(enum option_section s, const char *key)
{
	for (unsigned i = 0; i < option_count; i++) {
		if (option_table[i].section == s && strcmp(option_table[i].key, key) == 0) {
			return &option_table[i];
		}
	}
	return NULL;
}

enum option_driver option_driver_of(const char *url)
{
	if (url == NULL) {
		return OPTION_ANY;
	}
	if (strncmp(url, "sqlite:", 7) == 0) {
		return OPTION_SQLITE;
	}
	if (strncmp(url, "fake:", 5) == 0) {
		return OPTION_FAKE;
	}
	if (strncmp(url, "postgresql://", 13) == 0 || strncmp(url, "postgres://", 11) == 0 ||
		(strstr(url, "://") == NULL && strchr(url, '=') != NULL)) {
		return OPTION_PG;
	}
	return OPTION_ANY;
}

bool option_applies(const struct option *o, enum option_driver driver)
{
	return o->driver == OPTION_ANY || driver == OPTION_ANY || driver == OPTION_FAKE ||
	       o->driver == driver;
}

/* Edits (insert, delete, replace) that turn a into b; words longer than the row count as far. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[48];
	size_t la = strlen(a), lb = strlen(b);

	if (la >= array_size(row) || lb >= array_size(row)) {
		return array_size(row);
	}
	for (unsigned j = 0; j <= lb; j++) {
		row[j] = j;
	}
	for (unsigned i = 1; i <= la; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= lb; j++) {
			unsigned best = diagonal + (tolower((unsigned char)a[i - 1]) != b[j - 1]);

			diagonal = row[j];
			best = row[j] + 1 < best ? row[j] + 1 : best;
			row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
		}
	}
	return row[lb];
}

static unsigned tolerance(const char *word)
{
	return strlen(word) > 4 ? 2 : 1;
}

bool option_near(const char *a, const char *b)
{
	return distance(a, b) <= tolerance(b);
}

const char *option_nearest(enum option_section s, const char *key)
{
	const char *best = NULL;
	unsigned least = 0;

	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];
		unsigned d = o->section == s ? distance(key, o->key) : UINT32_MAX;

		if (d <= tolerance(o->key) && (best == NULL || d < least)) {
			best = o->key;
			least = d;
		}
	}
	return best;
}

static void list_units(const struct option *o, char *buf, size_t len)
{
	size_t n = 0;

	buf[0] = '\0';
	for (const struct unit *u = units_of(o); u->name != NULL && n < len; u++) {
		n += (size_t)snprintf(buf + n, len - n, "%s%s", n > 0 ? ", " : "", u->name);
	}
}

/* Plain for values that a unit would make no shorter, such as 0 and -1. */
static void format_number(const struct option *o, int64_t v, char *buf, size_t len)
{
	if (o->type == OPTION_OCTAL) {
		snprintf(buf, len, "%04" PRIo64, (uint64_t)v);
		return;
	}
	for (const struct unit *u = units_of(o); u->name != NULL && v > 0; u++) {
		if (v % u->factor == 0) {
			snprintf(buf, len, "%" PRId64 "%s", v / u->factor, u->name);
			return;
		}
	}
	snprintf(buf, len, "%" PRId64, v);
}

static void describe_range(const struct option *o, char *buf, size_t len)
{
	char min[32], max[32];
	int n;

	format_number(o, o->min, min, sizeof(min));
	format_number(o, o->max, max, sizeof(max));
	n = snprintf(buf, len, "%s to %s%s%s", min, max, o->type == OPTION_NUMBER ? " " : "",
		o->type == OPTION_NUMBER ? o->unit : "");
	if (o->also != OPTION_NONE && n > 0 && (size_t)n < len) {
		snprintf(buf + n, len - (size_t)n, ", or %" PRId64, o->also);
	}
}

/* Multiply by the factor of the unit that follows the digits. */
static int apply_unit(const struct option *o, const char *text, const char *unit, int64_t *v,
	char *why, size_t whylen)
{
	char list[64];

	while (*unit == ' ' || *unit == '\t') {
		unit++;
	}
	if (*unit == '\0') {
		return 0;
	}
	for (const struct unit *u = units_of(o); u->name != NULL; u++) {
		if (strcmp(u->name, unit) == 0) {
			return __builtin_mul_overflow(*v, u->factor, v) ? -ERANGE : 0;
		}
	}
	list_units(o, list, sizeof(list));
	if (list[0] != '\0') {
		snprintf(why, whylen, "'%s' has an unknown unit '%s'; units are %s", text, unit,
			list);
	} else {
		snprintf(why, whylen, "'%s' is not %s number", text,
			o->type == OPTION_OCTAL ? "an octal" : "a whole");
	}
	return -EINVAL;
}

static int parse_number(
	const struct option *o, const char *text, int64_t *out, char *why, size_t whylen)
{
	char *end, range[96];
	int base = o->type == OPTION_OCTAL ? 8 : 10;
	int64_t v;
	int r;

	errno = 0;
	v = strtoll(text, &end, base);
	if (end == text) {
		snprintf(why, whylen, "'%s' is not %s number", text,
			base == 8 ? "an octal" : "a whole");
		return -EINVAL;
	}
	r = errno == ERANGE ? -ERANGE : apply_unit(o, text, end, &v, why, whylen);
	if (r == -EINVAL) {
		return r;
	}
	if (r == -ERANGE || ((v < o->min || v > o->max) && (v != o->also || v == OPTION_NONE))) {
		describe_range(o, range, sizeof(range));
		snprintf(why, whylen, "%s is out of range; allowed is %s", text, range);
		return -EINVAL;
	}
	*out = v;
	return 0;
}

/* Number of the word, or -1.  words: separated by | */
static int word_index(const char *words, const char *text)
{
	size_t len = strlen(text);
	int i = 0;

	for (const char *w = words; *w != '\0'; w += w[0] == '|', i++) {
		size_t n = strcspn(w, "|");

		if (n == len && strncmp(w, text, n) == 0) {
			return i;
		}
		w += n;
	}
	return -1;
}

/* The word of that number, which there is; *len gets its length. */
static const char *word_at(const char *words, unsigned i, size_t *len)
{
	for (; i > 0; i--) {
		words += strcspn(words, "|");
		words += *words == '|';
	}
	*len = strcspn(words, "|");
	return words;
}

static int replace(char **member, const char *text)
{
	char *copy = strdup(text);

	if (copy == NULL) {
		return -ENOMEM;
	}
	free(*member);
	*member = copy;
	return 0;
}

static int parse_word(
	const struct option *o, const char *text, void *member, char *why, size_t whylen)
{
	int i = word_index(o->unit, text);

	if (i < 0) {
		snprintf(why, whylen, "'%s' is none of %s", text, o->unit);
		return -EINVAL;
	}
	if (o->type == OPTION_CHOICE) {
		return replace(member, text);
	}
	*(unsigned *)member = (unsigned)i;
	return 0;
}

/*
 * What a configuration file cannot express is refused everywhere, so that --print-config can write
 * every value it shows.
 */
static int check_text(const struct option *o, const char *text, char *why, size_t whylen)
{
	size_t len = strlen(text);
	bool hidden = o->type == OPTION_SECRET || o->type == OPTION_URL;

	for (const char *p = text; *p != '\0'; p++) {
		if (iscntrl((unsigned char)*p)) {
			snprintf(why, whylen, "control characters are not allowed");
			return -EINVAL;
		}
		if (*p == ';' && o->type != OPTION_SECRET &&
			(p == text || isspace((unsigned char)p[-1]))) {
			snprintf(why, whylen,
				"a semicolon after a space begins a comment and cannot be part of "
				"a value");
			return -EINVAL;
		}
	}
	if (hidden && strstr(text, OPTION_MASK) != NULL) {
		snprintf(why, whylen,
			OPTION_MASK
			" is what --print-config shows for a secret; put the secret itself");
		return -EINVAL;
	}
	if (len < (size_t)o->min) {
		snprintf(why, whylen, "the value is missing");
		return -EINVAL;
	}
	if (len > (size_t)o->max) {
		snprintf(why, whylen, "the value has %zu bytes; at most %" PRId64 " are allowed",
			len, o->max);
		return -EINVAL;
	}
	return 0;
}

static int parse_text(
	const struct option *o, const char *text, char **out, char *why, size_t whylen)
{
	int r = check_text(o, text, why, whylen);

	return r < 0 ? r : replace(out, text);
}

static void free_list(char **list, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		free(list[i]);
	}
	free(list);
}

static unsigned *list_count(char ***list)
{
	return (unsigned *)(void *)(list + 1);
}

static void set_list(char ***member, char **list, unsigned n)
{
	free_list(*member, *list_count(member));
	*member = list;
	*list_count(member) = n;
}

static int parse_list(
	const struct option *o, const char *text, char ***member, char *why, size_t whylen)
{
	static const char separators[] = ", \t";
	int r = check_text(o, text, why, whylen);
	char **list;
	unsigned n = 0;

	if (r < 0) {
		return r;
	}
	list = calloc(strlen(text) / 2 + 1, sizeof(*list));
	if (list == NULL) {
		return -ENOMEM;
	}
	for (const char *p = text + strspn(text, separators); *p != '\0';
		p += strspn(p, separators)) {
		size_t len = strcspn(p, separators);

		list[n] = strndup(p, len);
		if (list[n] == NULL) {
			free_list(list, n);
			return -ENOMEM;
		}
		n++;
		p += len;
	}
	if (n == 0 && o->min > 0) {
		free(list);
		snprintf(why, whylen, "the value is missing");
		return -EINVAL;
	}
	set_list(member, list, n);
	return 0;
}

int option_parse(const struct option *o, const char *text, void *section, char *why, size_t whylen)
{
	void *member = (char *)section + o->offset;

	switch (o->type) {
	case OPTION_NUMBER:
	case OPTION_DURATION:
	case OPTION_SIZE:
	case OPTION_KIB:
	case OPTION_OCTAL:
		return parse_number(o, text, member, why, whylen);
	case OPTION_ENUM:
	case OPTION_CHOICE:
		return parse_word(o, text, member, why, whylen);
	case OPTION_STRING:
	case OPTION_SECRET:
	case OPTION_URL:
		return parse_text(o, text, member, why, whylen);
	case OPTION_LIST:
		return parse_list(o, text, member, why, whylen);
	}
	return -EINVAL;
}

void option_clear(const struct option *o, void *section)
{
	void *member = (char *)section + o->offset;

	if (o->type == OPTION_LIST) {
		set_list(member, NULL, 0);
	} else if (o->type >= OPTION_STRING) {
		free(*(char **)member);
		*(char **)member = NULL;
	}
}

static bool same_list(char **const *a, char **const *b, unsigned na, unsigned nb)
{
	for (unsigned i = 0; i < na && i < nb; i++) {
		if (strcmp((*a)[i], (*b)[i]) != 0) {
			return false;
		}
	}
	return na == nb;
}

bool option_same(const struct option *o, const void *a, const void *b)
{
	/* read only, but list_count is for writers, too */
	void *x = (char *)(uintptr_t)a + o->offset, *y = (char *)(uintptr_t)b + o->offset;

	if (o->type == OPTION_LIST) {
		return same_list(x, y, *list_count(x), *list_count(y));
	}
	if (o->type == OPTION_ENUM) {
		return *(unsigned *)x == *(unsigned *)y;
	}
	if (o->type >= OPTION_STRING) {
		return strcmp(*(char **)x, *(char **)y) == 0;
	}
	return *(int64_t *)x == *(int64_t *)y;
}

static int copy_list(char ***to, char **from, unsigned n)
{
	char **list = calloc(n + 1, sizeof(*list));

	if (list == NULL) {
		return -ENOMEM;
	}
	for (unsigned i = 0; i < n; i++) {
		list[i] = strdup(from[i]);
		if (list[i] == NULL) {
			free_list(list, i);
			return -ENOMEM;
		}
	}
	set_list(to, list, n);
	return 0;
}

int option_copy(const struct option *o, void *to, const void *from)
{
	void *x = (char *)to + o->offset, *y = (char *)(uintptr_t)from + o->offset;

	if (o->type == OPTION_LIST) {
		return copy_list(x, *(char ***)y, *list_count(y));
	}
	if (o->type == OPTION_ENUM) {
		*(unsigned *)x = *(unsigned *)y;
		return 0;
	}
	if (o->type >= OPTION_STRING) {
		return replace(x, *(char **)y);
	}
	*(int64_t *)x = *(int64_t *)y;
	return 0;
}

static void print_url(const char *url, FILE *f)
{
	char *masked = config_mask_url(url);

	fputs(masked != NULL ? masked : OPTION_MASK, f);
	free(masked);
}

static void print_list(char *const *list, unsigned n, FILE *f)
{
	for (unsigned i = 0; i < n; i++) {
		fprintf(f, "%s%s", i > 0 ? ", " : "", list[i]);
	}
}

void option_print_value(const struct option *o, const void *section, FILE *f)
{
	/* read only, but list_count is for writers, too */
	void *member = (char *)(uintptr_t)section + o->offset;
	const char *text;
	char number[32];
	size_t len;

	switch (o->type) {
	case OPTION_URL:
		print_url(*(char **)member, f);
		return;
	case OPTION_SECRET:
		fputs(**(char **)member != '\0' ? OPTION_MASK : "", f);
		return;
	case OPTION_STRING:
	case OPTION_CHOICE:
		fputs(*(char **)member, f);
		return;
	case OPTION_ENUM:
		text = word_at(o->unit, *(unsigned *)member, &len);
		fprintf(f, "%.*s", (int)len, text);
		return;
	case OPTION_LIST:
		print_list(*(char ***)member, *list_count(member), f);
		return;
	default:
		format_number(o, *(int64_t *)member, number, sizeof(number));
		fputs(number, f);
	}
}

void option_print_facts(const struct option *o, FILE *f)
{
	static const char *const types[] = {"number", "duration", "size", "size", "octal number",
		"one of", "text", "one of", "secret", "connection string", "list of names"};
	static const char *const drivers[] = {"", "; PostgreSQL only", "; SQLite only", ""};
	char range[96], units[64];

	fputs(types[o->type], f);
	list_units(o, units, sizeof(units));
	if (units[0] != '\0') {
		fprintf(f, " (%s; plain: %s)", units, o->unit);
	}
	if (o->type <= OPTION_OCTAL) {
		describe_range(o, range, sizeof(range));
		fprintf(f, ", %s", range);
	}
	if (o->type == OPTION_CHOICE || o->type == OPTION_ENUM) {
		fprintf(f, " %s", o->unit);
	}
	if (o->def[0] != '\0') {
		fprintf(f, "; default %s", o->def);
	} else {
		fputs(o->min > 0 ? "; required" : "; default empty", f);
	}
	fputs(drivers[o->driver], f);
	fputs(o->when == OPTION_START ? "; a change needs a restart" : "", f);
}

void option_print_variable(const struct option *o, FILE *f)
{
	fputs("BROKER_", f);
	for (const char *p = option_section_name(o->section); *p != '\0'; p++) {
		fputc(toupper((unsigned char)*p), f);
	}
	fputs(o->section == OPTION_BROKER ? "_" : "_<NAME>_", f);
	for (const char *p = o->key; *p != '\0'; p++) {
		fputc(toupper((unsigned char)*p), f);
	}
}
