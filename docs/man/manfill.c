/* SPDX-License-Identifier: MIT */
/*
 * manfill.c - build-time program: prints a manual page with the tables of options filled in.
 *
 * A line of the template that is `.\" OPTIONS broker` (or server, or pool) becomes the table of
 * that section of config.def, so that the manual cannot differ from what the broker accepts; one
 * that is `.\" ERRORS` becomes the table of errors.def.
 * @VERSION@ in a line becomes the version.
 */
#include "option.h"

#include <string.h>

/* Text of a paragraph: no backslash, leading dot or hyphen-minus may reach the formatter bare. */
static void print_text(const char *text)
{
	if (*text == '.' || *text == '\'') {
		fputs("\\&", stdout);
	}
	for (; *text != '\0'; text++) {
		if (*text == '\\') {
			fputs("\\e", stdout);
		} else if (*text == '-') {
			fputs("\\-", stdout);
		} else {
			putchar(*text);
		}
	}
	putchar('\n');
}

static int print_captured(void (*print)(const struct option *, FILE *), const struct option *o)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL) {
		return -1;
	}
	print(o, f);
	if (fclose(f) != 0) {
		return -1;
	}
	print_text(text);
	free(text);
	return 0;
}

static int print_options(const char *section)
{
	unsigned n = 0;

	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];

		if (strcmp(option_section_name(o->section), section) != 0) {
			continue;
		}
		printf(".TP\n.B %s\n", o->key);
		print_text(o->help);
		puts(".br");
		if (print_captured(option_print_facts, o) < 0) {
			return -1;
		}
		puts(".br");
		if (print_captured(option_print_variable, o) < 0) {
			return -1;
		}
		n++;
	}
	return n > 0 ? 0 : -1;
}

static void print_error(const char *name, int number, const char *text, const char *advice)
{
	printf(".TP\n.BR BROKER_E_%s \" (\\-%d): \"\n", name, number);
	print_text(text);
	puts(".br");
	print_text(advice);
}

static void print_errors(void)
{
#define BROKER_ERROR(name, number, text, advice) print_error(#name, number, text, advice);
#include "errors.def"
#undef BROKER_ERROR
}

static int fill(FILE *template)
{
	static const char directive[] = ".\\\" OPTIONS ", version[] = "@VERSION@";
	char line[4096];

	while (fgets(line, sizeof(line), template) != NULL) {
		char *at = strstr(line, version);

		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, directive, strlen(directive)) == 0) {
			if (print_options(line + strlen(directive)) < 0) {
				fprintf(stderr, "manfill: no such section: %s\n", line);
				return -1;
			}
		} else if (strcmp(line, ".\\\" ERRORS") == 0) {
			print_errors();
		} else if (at != NULL) {
			printf("%.*s%s%s\n", (int)(at - line), line, SHMBROKER_VERSION,
				at + strlen(version));
		} else {
			puts(line);
		}
	}
	return ferror(template) ? -1 : 0;
}

int main(int argc, char **argv)
{
	FILE *f = argc == 2 ? fopen(argv[1], "r") : NULL;
	int r;

	if (f == NULL) {
		fprintf(stderr, "usage: manfill TEMPLATE\n");
		return 2;
	}
	r = fill(f);
	fclose(f);
	return r == 0 && fflush(stdout) == 0 ? 0 : 1;
}
