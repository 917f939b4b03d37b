/* SPDX-License-Identifier: MIT */
/*
 * test_fuzz_config.c - mutated configuration files: whatever stands in one, config_load() returns,
 * and says why if it refuses.  Every good one is then read again over each of the unchanged ones,
 * in which config_reload() keeps all rows, or says why it refuses.  The seed is printed;
 * FUZZ_SEED=N repeats a run.
 */
#include "config.h"

#include "tap.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const corpus[] = {
	"[server db]\nurl = postgresql:///app?host=/run/postgresql\n\n[pool main]\nservers = db\n"
	"max_size = 10\nacquire_timeout = 5s\n",
	"[broker]\nsocket = /tmp/x.sock\nsocket_mode = 0660\nmax_request = 256MiB\n"
	"log_format = json\n",
	"[server a]\nurl = sqlite:a.db\n[server b]\nurl = sqlite:b.db\n"
	"[pool one]\nservers = a\nreaders = 3\n"
	"[pool two]\nservers = b\nbusy_timeout = 100ms\n",
	"[server a]\nurl=host=a\nmax_connections=9\n[server b]\nurl=host=b\n"
	"[server c]\nurl=sqlite:c.db\n[pool main]\nservers=a, b, c\nfallback=journal\n"
	"mirror=x, s.y\nguaranteed=2\nread_from=any\n",
	"; comment\n# comment\n[pool main]\nservers=local\n"
	"[server local]\nurl=fake:?connect_ms=5\n",
};

#define MAX_TEXT 2048
#define CORPUS (sizeof(corpus) / sizeof(corpus[0]))

static char *const no_env[] = {NULL};

static unsigned seed;

static unsigned dice(unsigned n)
{
	return (unsigned)rand_r(&seed) % n;
}

static size_t mutate(char *text, size_t len)
{
	static const char bits[] = "[]=\n \t\0;#\"'%:,._-0123456789kMsi\xff\xc3";

	for (unsigned n = 1 + dice(8); n > 0; n--) {
		size_t at = dice((unsigned)len + 1), cut = dice(16);

		switch (dice(4)) {
		case 0: /* replace */
			if (at < len) {
				text[at] = bits[dice(sizeof(bits) - 1)];
			}
			break;
		case 1: /* insert */
			if (len < MAX_TEXT) {
				memmove(text + at + 1, text + at, len - at);
				text[at] = bits[dice(sizeof(bits) - 1)];
				len++;
			}
			break;
		case 2: /* remove */
			cut = at + cut > len ? len - at : cut;
			memmove(text + at, text + at + cut, len - at - cut);
			len -= cut;
			break;
		default: /* repeat a piece */
			cut = at + cut > len ? len - at : cut;
			if (len + cut <= MAX_TEXT) {
				memmove(text + at + cut, text + at, len - at);
				len += cut;
			}
		}
	}
	return len;
}

static void write_file(const char *path, const char *text, size_t len)
{
	FILE *f = fopen(path, "w");

	if (f == NULL || fwrite(text, 1, len, f) != len || fclose(f) != 0) {
		bail_out("cannot write %s", path);
	}
}

static bool same_rows(const struct config *now, const struct config *next)
{
	for (unsigned i = 0; i < now->nservers; i++) {
		if (i >= next->nservers ||
			strcmp(now->servers[i].name, next->servers[i].name) != 0) {
			return false;
		}
	}
	for (unsigned i = 0; i < now->npools; i++) {
		if (i >= next->npools || strcmp(now->pools[i].name, next->pools[i].name) != 0) {
			return false;
		}
	}
	return true;
}

/* True if reading the file at path over `now` does what it promises. */
static bool reload_keeps_rows(const struct config *now, const char *path)
{
	struct config_source source = {.path = path, .env = no_env};
	char err[4096], notes[1024];
	struct config *next;
	bool good;

	if (config_reload(now, &source, &next, err, sizeof(err), notes, sizeof(notes)) < 0) {
		return err[0] != '\0';
	}
	good = same_rows(now, next);
	config_free(next);
	return good;
}

int main(void)
{
	const char *given = getenv("FUZZ_SEED");
	unsigned runs = getenv("TEST_QUICK") != NULL ? 500 : 3000;
	unsigned taken = 0, refused = 0, silent = 0, misplaced = 0;
	struct config *bases[CORPUS] = {NULL};
	char path[] = "/tmp/fuzz-config-XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0) {
		bail_out("mkstemp");
	}
	close(fd);
	seed = given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
	diag("seed %u (repeat with FUZZ_SEED=%u)", seed, seed);
	for (unsigned i = 0; i < runs; i++) {
		const char *base = corpus[i % CORPUS];
		char text[MAX_TEXT + 1], err[4096] = "";
		struct config *cfg = NULL;
		size_t len = strlen(base);

		memcpy(text, base, len);
		if (i >= CORPUS) {
			len = mutate(text, len);
		}
		write_file(path, text, len);
		if (config_load(path, no_env, NULL, 0, &cfg, err, sizeof(err)) == 0) {
			taken++;
			for (unsigned k = 0; k < CORPUS; k++) {
				misplaced += bases[k] != NULL && !reload_keeps_rows(bases[k], path);
			}
			if (i < CORPUS) {
				bases[i] = cfg;
			} else {
				config_free(cfg);
			}
		} else {
			refused++;
			silent += err[0] == '\0';
		}
	}
	for (unsigned k = 0; k < CORPUS; k++) {
		config_free(bases[k]);
	}
	unlink(path);
	diag("%u taken, %u refused", taken, refused);
	ok(taken >= CORPUS, "the corpus itself is taken");
	ok(refused > runs / 10, "mutated files are refused");
	is_int(silent, 0, "each with a reason");
	is_int(misplaced, 0, "what is read again keeps its rows");
	return done_testing();
}
