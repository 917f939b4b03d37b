/* SPDX-License-Identifier: MIT */
/*
 * embed.c - build-time program: files as a C array, see exporter_assets.h.
 *
 *     embed FILE...        writes C to standard output
 *
 * index.html becomes the document at "/", any other file one at "/assets/<its name>".
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *type_of(const char *name)
{
	static const char *const types[][2] = {
		{".html", "text/html; charset=utf-8"},
		{".js", "text/javascript; charset=utf-8"},
		{".css", "text/css; charset=utf-8"},
		{".svg", "image/svg+xml"},
	};
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot != NULL && i < sizeof(types) / sizeof(types[0]); i++) {
		if (strcmp(dot, types[i][0]) == 0) {
			return types[i][1];
		}
	}
	fprintf(stderr, "embed: %s: no type is known for it\n", name);
	exit(1);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

/* The bytes as array `bytes_<i>`; returns their FNV-1a hash, which is the entity tag. */
static uint64_t embed(const char *path, int i)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	FILE *f = fopen(path, "rb");
	size_t n = 0;
	int c;

	if (f == NULL) {
		perror(path);
		exit(1);
	}
	printf("static const unsigned char bytes_%d[] = {", i);
	while ((c = getc(f)) != EOF) {
		printf("%s%d,", n++ % 32 == 0 ? "\n" : "", c);
		hash = (hash ^ (unsigned)c) * UINT64_C(0x100000001b3);
	}
	if (ferror(f) || n == 0) {
		fprintf(stderr, "embed: %s: cannot be read, or is empty\n", path);
		exit(1);
	}
	printf("\n};\n\n");
	fclose(f);
	return hash;
}

int main(int argc, char **argv)
{
	uint64_t *tags = calloc((size_t)argc, sizeof(*tags));

	if (tags == NULL || argc < 2) {
		fprintf(stderr, "usage: embed FILE...\n");
		return 1;
	}
	printf("#include \"exporter_assets.h\"\n\n");
	for (int i = 1; i < argc; i++) {
		tags[i] = embed(argv[i], i);
	}
	printf("const struct exporter_asset exporter_assets[] = {\n");
	for (int i = 1; i < argc; i++) {
		const char *name = base_name(argv[i]);
		int root = strcmp(name, "index.html") == 0;

		printf("\t{\"%s%s\", \"%s\", \"\\\"%016llx\\\"\", sizeof(bytes_%d), bytes_%d},\n",
			root ? "/" : "/assets/", root ? "" : name, type_of(name),
			(unsigned long long)tags[i], i, i);
	}
	printf("};\nconst size_t exporter_nassets = %d;\n", argc - 1);
	free(tags);
	return fflush(stdout) != 0;
}
