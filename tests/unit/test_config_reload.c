/* SPDX-License-Identifier: MIT */
/*
 * test_config_reload.c - what a configuration that is read again changes, what it leaves alone and
 * says so, and that the rows of servers and pools stay where they are.
 */
#include "config.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/test_config_reload.XXXXXX";
static char err[4096], notes[4096], text[4096];
static char *no_env[] = {NULL};
static struct config_source source = {.path = "t.ini", .env = no_env};

static void write_file(const char *name, const char *ini)
{
	FILE *f = fopen(name, "w");

	if (f == NULL || fputs(ini, f) < 0 || fclose(f) != 0) {
		bail_out("cannot write %s", name);
	}
}

static struct config *load(const char *ini)
{
	struct config *c;

	write_file("t.ini", ini);
	if (config_load("t.ini", no_env, NULL, 0, &c, err, sizeof(err)) < 0) {
		bail_out("%s", err);
	}
	return c;
}

static struct config *reload(const struct config *now, const char *ini)
{
	struct config *next;
	int r;

	write_file("t.ini", ini);
	err[0] = '\0';
	r = config_reload(now, &source, &next, err, sizeof(err), notes, sizeof(notes));
	if ((r < 0) != (next == NULL) || (r < 0) != (err[0] != '\0')) {
		bail_out("config_reload: %d does not fit its outputs", r);
	}
	return next;
}

static void add_text(const char *line)
{
	size_t n = strlen(text);

	snprintf(text + n, sizeof(text) - n, "%s%s", n > 0 ? "\n" : "", line);
}

static char *printed(const struct config *c)
{
	char *s = NULL;
	size_t len;
	FILE *f = open_memstream(&s, &len);

	if (f == NULL) {
		bail_out("out of memory");
	}
	config_print(c, f);
	fclose(f);
	return s;
}

/* Every server and pool of `now` has its row in next, and no pool names what is not there. */
static bool rows_are_stable(const struct config *now, const struct config *next)
{
	bool good = next->nservers >= now->nservers && next->npools >= now->npools;

	for (unsigned i = 0; good && i < now->nservers; i++) {
		good = strcmp(now->servers[i].name, next->servers[i].name) == 0;
	}
	for (unsigned i = 0; good && i < now->npools; i++) {
		good = strcmp(now->pools[i].name, next->pools[i].name) == 0;
	}
	for (unsigned i = 0; good && i < next->npools; i++) {
		for (unsigned k = 0; good && k < next->pools[i].nservers; k++) {
			const struct config_server *s =
				config_server(next, next->pools[i].servers[k]);

			good = s != NULL && !s->removed;
		}
	}
	return good;
}

/* ------------------------------------------------------------------------------------------------
 * The table
 */

#define A "[server a]\nurl=host=a\n"
#define B "[server b]\nurl=host=b\n"
#define LITE "[server c]\nurl=sqlite:c.db\n"
#define P(servers) "[pool p]\nservers=" servers "\n"
#define JOURNAL "fallback=journal\n"

static const struct {
	const char *what, *before, *after;
	const char *notes; /* NULL: refused, and changes is the mistake */
	const char *changes;
} cases[] = {
	{"nothing", A B P("a b"), A B P("a b"), "", ""},
	{"sizes and times", A B P("a b"),
		"[broker]\nlog_level=debug\n" A B
		"health_down_after=5\n" P("a b") "max_size=4\nleak_action=rollback\n",
		"",
		"[broker] log_level: debug, was info\n"
		"[server b] health_down_after: 5, was 3\n"
		"[pool p] max_size: 4, was 10\n"
		"[pool p] min_idle: 4, was 10\n"
		"[pool p] leak_action: rollback, was log"},
	{"credentials", A P("a") "password=old\n", A P("a") "password=new\nuser=u\n", "",
		"[pool p] user: u, was empty\n[pool p] password: ********, was ********"},
	{"servers", A B P("a b"), "[server d]\nurl=host=d\n[server b]\nurl=host=b2\n" P("d b"), "",
		"server a: removed\n"
		"[server b] url: host=b2, was host=b\n"
		"server d: added\n"
		"[pool p] servers: d, b, was a, b"},
	{"a new pool", A B P("a b"), A B "[pool q]\nservers=b\n" P("a"), "",
		"[pool p] servers: a, was a, b\npool q: added"},
	{"a pool that goes", A B P("a") "[pool q]\nservers=b\nmax_size=3\n",
		B "max_connections=9\n[pool q]\nservers=b\n",
		"pool p: removing a pool needs a restart",
		"[server b] max_connections: 9, was 0\n"
		"[pool q] max_size: 10, was 3\n"
		"[pool q] min_idle: 10, was 3"},
	{"what needs a restart", "[broker]\nmax_workers=50\n" LITE P("c") "readers=2\n",
		"[broker]\nmax_workers=60\nsocket=x\nsocket_mode=0600\ndefault_timeout=1s\n" LITE P(
			"c") "readers=3\nslow_sample=5\nbusy_timeout=1s\n",
		"[broker] socket: a change needs a restart; it stays shmbroker.sock\n"
		"[broker] socket_mode: a change needs a restart; it stays 0660\n"
		"[broker] max_workers: a change needs a restart; it stays 50\n"
		"[pool p] readers: a change needs a restart; it stays 2\n"
		"[pool p] busy_timeout: a change needs a restart; it stays 5s\n"
		"[pool p] slow_sample: a change needs a restart; it stays 0",
		"[broker] default_timeout: 1s, was 30s"},
	{"another database", A P("a"), LITE P("c"), "",
		"server a: removed\nserver c: added\n[pool p] servers: c, was a"},
	{"a mistake", A P("a"), A P("a") "max_size=x\n", NULL,
		"t.ini:5: [pool p] max_size: 'x' is not a whole number"},
	{"a contradiction", A P("a"), A P("a") "max_size=3\nmin_idle=4\n", NULL,
		"t.ini:6: [pool p] min_idle: min_idle 4 is too much for max_size 3; lower the one "
		"or "
		"raise the other"},
	{"a fallback that comes", A B P("a b"), A LITE P("a c") JOURNAL "mirror=t\n",
		"[pool p] fallback: a change needs a restart; it stays off\n"
		"[pool p] mirror: a change needs a restart; it stays empty",
		"server b: removed\n[pool p] servers: a, was a, b"},
	{"a fallback that goes", A LITE P("a c") JOURNAL, A B P("b a"),
		"[pool p] fallback: a change needs a restart; it stays journal",
		"server b: added\n[pool p] servers: b, a, c, was a, c"},
	{"another fallback", A LITE P("a c") JOURNAL,
		A "[server d]\nurl=sqlite:d.db\n" P("a d") JOURNAL,
		"[pool p] servers: another fallback needs a restart; it stays c", ""},
	{"another file of a fallback", A LITE P("a c") JOURNAL,
		A "[server c]\nurl=sqlite:d.db\n" P("a c") JOURNAL,
		"[server c] url: another file of a fallback needs a restart; it stays sqlite:c.db",
		""},
	{"a fallback that becomes all", A LITE P("a c") JOURNAL, LITE P("c"), NULL,
		"[pool p] servers: such a change needs a restart, with the fallback that the pool "
		"has"},
	{"a fallback that becomes something else", A LITE P("a c") JOURNAL,
		A "[server c]\nurl=host=c\n" P("a c"), NULL,
		"[pool p] servers: such a change needs a restart, with the fallback that the pool "
		"has"},
	{"only the times of a fallback", A LITE P("a c") JOURNAL "mirror=t\n",
		A LITE P("a c") JOURNAL "mirror=t\nmirror_interval=1s\nmax_lag=1s\n", "",
		"[pool p] max_lag: 1s, was 10s\n[pool p] mirror_interval: 1s, was 30s"},
};

static void test_table(void)
{
	for (unsigned i = 0; i < array_size(cases); i++) {
		struct config *now = load(cases[i].before);
		char *before = printed(now), *after;
		struct config *next = reload(now, cases[i].after);

		after = printed(now);
		is_str(after, before, "%s: the old one is untouched", cases[i].what);
		text[0] = '\0';
		if (next != NULL) {
			config_tell_changes(now, next, add_text);
			ok(rows_are_stable(now, next), "%s: stable rows", cases[i].what);
			is_str(notes, cases[i].notes, "%s: notes", cases[i].what);
			is_str(text, cases[i].changes, "%s: changes", cases[i].what);
		} else {
			is_str(err, cases[i].changes, "%s: is refused", cases[i].what);
			ok(cases[i].notes == NULL, "%s: rightly", cases[i].what);
		}
		free(before);
		free(after);
		config_free(now);
		config_free(next);
	}
}

/* ------------------------------------------------------------------------------------------------
 * The rest
 */

static void test_limits_follow(void)
{
	struct config *now = load("[broker]\nmax_workers=50\n"), *next;

	next = reload(now, "[broker]\nmax_workers=80\n");
	is_int(next != NULL ? next->broker.max_workers : 0, 50, "max_workers stays");
	is_int(next != NULL ? next->broker.max_workers_per_uid : 0, 50, "what follows it as well");
	config_free(next);
	next = reload(now, "[broker]\nmax_workers=80\nmax_workers_per_uid=70\n");
	is_int(next != NULL ? next->broker.max_workers_per_uid : 0, 50, "and never exceeds it");
	config_free(next);
	next = reload(now, "[broker]\nmax_workers_per_uid=7\nmax_workers=50\n");
	is_int(next != NULL ? next->broker.max_workers_per_uid : 0, 7,
		"a limit of its own is live");
	config_free(next);
	config_free(now);
}

/* A server that was removed has its row for ever, and gets it back. */
static void test_return(void)
{
	struct config *one = load(A B P("a b")), *two, *three, *four;

	two = reload(one, B P("b"));
	ok(two != NULL && two->servers[0].removed && two->nservers == 2, "removed");
	three = reload(two, B "[server d]\nurl=host=d\n" P("b d"));
	ok(three != NULL && three->servers[0].removed && three->nservers == 3, "stays removed");
	four = reload(three, A B P("b a"));
	ok(four != NULL && !four->servers[0].removed && four->servers[2].removed, "and comes back");
	text[0] = '\0';
	if (four != NULL) {
		config_tell_changes(three, four, add_text);
	}
	is_str(text, "server a: added\nserver d: removed\n[pool p] servers: b, a, was b, d",
		"told");
	config_free(one);
	config_free(two);
	config_free(three);
	config_free(four);
}

static int try_reload(const struct config *now, const struct config_source *from)
{
	struct config *next;
	int r = config_reload(now, from, &next, err, sizeof(err), notes, sizeof(notes));

	config_free(next);
	return r;
}

/* What was found by itself is read from the same place, and its absence is a mistake. */
static void test_source(void)
{
	struct config_source found = {.env = no_env};
	struct config *now;

	write_file("shmbroker.ini", "[broker]\nmax_workers=5\n");
	if (config_load(NULL, no_env, NULL, 0, &now, err, sizeof(err)) < 0) {
		bail_out("%s", err);
	}
	is_int(try_reload(now, &found), 0, "a file that was found");
	unlink("shmbroker.ini");
	ok(try_reload(now, &found) < 0, "must not disappear");
	is_str(err,
		"shmbroker.ini: cannot read the configuration file: No such file or directory",
		"says the mistake");
	config_free(now);
}

/* The other layers count as they did at the start. */
static void test_layers(void)
{
	struct config_override over[] = {{"broker.default_timeout=2s"}};
	char variable[] = "BROKER_BROKER_SHUTDOWN_GRACE=3s", *env[] = {variable, NULL};
	struct config_source layered = {.path = "t.ini", .env = env, .over = over, .nover = 1};
	struct config *now = load(""), *next;

	write_file("t.ini", "[broker]\ndefault_timeout=9s\nshutdown_grace=9s\nresult_kib=64\n");
	if (config_reload(now, &layered, &next, err, sizeof(err), notes, sizeof(notes)) < 0) {
		bail_out("%s", err);
	}
	is_int(next->broker.default_timeout, 2000, "--set wins over the file");
	is_int(next->broker.shutdown_grace, 3000, "the environment as well");
	is_int(next->broker.result_kib, 64, "the file over the default");
	config_free(next);
	config_free(now);
}

static void test_short_notes(void)
{
	struct config *now = load(""), *next;
	char small[80];

	write_file("t.ini", "[broker]\nmax_workers=9\nsocket_mode=0600\nslow_log_size=16\n");
	if (config_reload(now, &source, &next, err, sizeof(err), small, sizeof(small)) < 0) {
		bail_out("%s", err);
	}
	is_str(small, "[broker] socket_mode: a change needs a restart; it stays 0660",
		"notes that do not fit are dropped whole");
	config_free(next);
	config_free(now);
}

static void test_same_connection(void)
{
	static const struct {
		const char *ini, *what;
		bool same;
	} others[] = {
		{A P("a") "max_size=3\nread_from=any\n", "a size", true},
		{A "max_connections=3\nhealth_timeout=2s\n" P("a"), "a limit of the server", true},
		{"[server a]\nurl=host=x\n" P("a"), "a url", false},
		{A "connect_timeout=1s\n" P("a"), "connect_timeout", false},
		{A P("a") "database=x\n", "a database", false},
		{A P("a") "user=x\n", "a user", false},
		{A P("a") "password=x\n", "a password", false},
		{A P("a") "passfile=x\n", "a passfile", false},
		{A P("a") "max_prepared=1\n", "max_prepared", false},
	};
	struct config *now = load(A P("a"));

	for (unsigned i = 0; i < array_size(others); i++) {
		struct config *c = load(others[i].ini);

		is_int(config_server_same_connection(
			       &now->servers[0], &now->pools[0], &c->servers[0], &c->pools[0]),
			others[i].same, "%s: %s connections", others[i].what,
			others[i].same ? "the same" : "other");
		config_free(c);
	}
	config_free(now);
}

int main(void)
{
	if (mkdtemp(dir) == NULL || chdir(dir) < 0) {
		bail_out("cannot make a scratch directory");
	}
	test_table();
	test_limits_follow();
	test_return();
	test_source();
	test_layers();
	test_short_notes();
	test_same_connection();
	unlink("t.ini");
	if (chdir("/") < 0 || rmdir(dir) < 0) {
		diag("cannot remove %s", dir);
	}
	return done_testing();
}
