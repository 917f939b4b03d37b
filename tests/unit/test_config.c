/* SPDX-License-Identifier: MIT */
/*
 * test_config.c - where values come from, which win, and what is said about every kind of mistake.
 */
#include "config.h"
#include "option.h"
#include "tap.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/test_config.XXXXXX";
static char err[16384];

/* Write text to a file of that name in the scratch directory, which is also the working directory.
 */
static void write_file(const char *name, const char *text)
{
	FILE *f = fopen(name, "w");

	if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0) {
		bail_out("cannot write %s", name);
	}
}

#define ENV(...) ((const char *[]){__VA_ARGS__, NULL})
#define NO_ENV ((const char *[]){NULL})
#define SET(...) ((const char *[]){__VA_ARGS__, NULL})
#define NO_SET ((const char *[]){NULL})

/* ini NULL: no file. */
static struct config *load(const char *ini, const char *const *env, const char *const *set)
{
	struct config_override over[8];
	struct config *c = NULL;
	size_t n = 0;
	int r;

	for (; set[n] != NULL; n++) {
		over[n].text = set[n];
	}
	if (ini != NULL) {
		write_file("t.ini", ini);
	}
	r = config_load(
		ini != NULL ? "t.ini" : NULL, (char *const *)env, over, n, &c, err, sizeof(err));
	if ((r < 0) != (c == NULL) || (r < 0) != (err[0] != '\0')) {
		bail_out("config_load: %d does not fit its outputs", r);
	}
	return c;
}

/* The whole text of the mistakes. */
static void refused_with(const char *ini, const char *const *env, const char *const *set,
	const char *want, const char *what)
{
	struct config *c = load(ini, env, set);

	is_str(c == NULL ? err : "accepted", want, "%s", what);
	config_free(c);
}

static void refused(const char *ini, const char *want, const char *what)
{
	refused_with(ini, NO_ENV, NO_SET, want, what);
}

/* A pool and a server for files that are about something else. */
#define PG_SERVER "[server pg]\nurl = host=db\n"
#define PG_POOL "[pool main]\nservers = pg\n"

static void test_defaults(void)
{
	struct config *c = load(NULL, NO_ENV, NO_SET);
	const struct config_pool *p;

	if (!ok(c != NULL, "no configuration at all is a configuration")) {
		bail_out("%s", err);
	}
	ok(c->source == NULL, "no file");
	is_str(c->broker.socket, "shmbroker.sock", "socket");
	is_int(c->broker.socket_mode, 0660, "socket_mode");
	is_int(c->broker.max_workers, 1024, "max_workers");
	is_int(c->broker.max_workers_per_uid, 1024, "max_workers_per_uid is max_workers");
	is_int(c->broker.io_threads, 1, "io_threads, since SQLite has one");
	is_int(c->broker.default_timeout, 30000, "default_timeout");
	is_int(c->broker.shutdown_grace, 10000, "shutdown_grace");
	is_int(c->broker.max_request, 268435456, "max_request");
	is_int(c->broker.result_kib, 512, "result_kib");
	is_str(c->broker.allow_users, "", "allow_users");
	is_int((int64_t)c->nservers, 1, "one server");
	is_str(c->servers[0].name, "local", "called local");
	is_str(c->servers[0].url, "sqlite:shmbroker.db", "an SQLite database here");
	is_int((int64_t)c->npools, 1, "one pool");
	p = &c->pools[0];
	is_str(p->name, "main", "called main");
	is_str(p->nservers == 1 ? p->servers[0] : NULL, "local", "on that server");
	is_int(p->max_size, 10, "max_size");
	is_int(p->min_idle, 10, "min_idle is max_size");
	ok(p->readers >= 2 && p->readers <= 8, "readers follow the processors");
	is_int(p->acquire_timeout, 5000, "acquire_timeout");
	is_int(p->max_lifetime, 1800000, "max_lifetime");
	is_int(p->idle_timeout, 600000, "idle_timeout");
	is_int(config_pool_index(c, "main"), 0, "config_pool_index");
	is_int(config_pool_index(c, "other"), -1, "config_pool_index of none");
	ok(config_server(c, "local") == &c->servers[0], "config_server");
	ok(config_server(c, "x") == NULL, "config_server of none");
	config_free(c);
	config_free(NULL);
}

static void test_file(void)
{
	struct config *c = load("\xef\xbb\xbf# comment\n"
				"; comment\n"
				"[broker]\n"
				"  socket=/run/x.sock ; where\n"
				"\tsocket_mode = 600\r\n"
				"max_workers : 33\n"
				"default_timeout = 1500\n"
				"shutdown_grace=2min\n"
				"max_request = 2 MiB\n"
				"\n"
				"[ server  pg-1 ]\n"
				"url = host=db dbname='a b' password=x;y\n"
				"[server pg.2]\n"
				"url = postgresql://h2/db\n"
				"[pool Main]\n"
				"servers = pg-1,pg.2\n"
				"max_size = 5\n"
				"min_idle = 0\n"
				"idle_timeout = 0\n"
				"acquire_timeout = 10s\n"
				"slow_threshold = -1", /* no newline at the end */
		NO_ENV, NO_SET);

	if (!ok(c != NULL, "a file with all the trimmings")) {
		diag("%s", err);
		return;
	}
	is_str(c->source, "t.ini", "source");
	is_str(c->broker.socket, "/run/x.sock", "text, indented, with a comment behind");
	is_int(c->broker.socket_mode, 0600, "octal, with a carriage return");
	is_int(c->broker.max_workers, 33, "a number, with a colon");
	is_int(c->broker.default_timeout, 1500, "plain milliseconds");
	is_int(c->broker.shutdown_grace, 120000, "minutes");
	is_int(c->broker.max_request, 2097152, "a size, with a blank");
	is_str(c->servers[0].url, "host=db dbname='a b' password=x;y", "url keeps = and ;");
	is_str(c->servers[1].name, "pg.2", "name of a server");
	is_int((int64_t)c->npools, 1, "no default pool beside the file's");
	is_str(c->pools[0].name, "Main", "name of a pool");
	is_int((int64_t)c->pools[0].nservers, 2, "two servers");
	is_str(c->pools[0].servers[1], "pg.2", "in order");
	is_int(c->pools[0].min_idle, 0, "min_idle 0 is 0");
	is_int(c->pools[0].idle_timeout, 0, "0 beside a range");
	is_int(c->pools[0].acquire_timeout, 10000, "seconds");
	is_int(c->pools[0].slow_threshold, -1, "-1 beside a range, at the end of the file");
	config_free(c);
}

/* Longer than the line buffer of inih, with every byte that could be lost where it is cut. */
static void test_long_line(void)
{
	char ini[8000], url[3000] = "host=db options='";
	struct config *c;
	size_t n = strlen(url);

	while (n < 2500) {
		n += (size_t)snprintf(url + n, sizeof(url) - n, "-c a.b=%zu; #x  [y] = ", n);
		url[n - 1] = 'z';
	}
	snprintf(url + n, sizeof(url) - n, "'");
	/* a semicolon after a blank would be a comment */
	snprintf(ini, sizeof(ini), "# %s\n[server pg]\nurl = %s\n" PG_POOL "user = u\n", url, url);
	c = load(ini, NO_ENV, NO_SET);
	if (ok(c != NULL, "a long line")) {
		is_str(c->servers[0].url, url, "keeps every byte");
		is_str(c->pools[0].user, "u", "and what follows is read");
	} else {
		diag("%s", err);
	}
	config_free(c);
	memset(url, 'x', 600);
	url[600] = '\0';
	snprintf(ini, sizeof(ini), "%s=1\n[broker]\nsocket = s\n%s = 1\n", url, url);
	refused(ini,
		"t.ini:1: this line is neither a [section], nor 'option = value', nor a comment "
		"(# or ;)\n"
		"t.ini:4: this line is neither a [section], nor 'option = value', nor a comment "
		"(# or ;)",
		"a name longer than the buffer");
}

static void test_layers(void)
{
	static const char ini[] = "[broker]\nmax_workers = 5\nlog_level = error\n" PG_SERVER PG_POOL
				  "max_size = 5\nmin_idle = 1\nuser = file\n";
	struct config *c = load(ini,
		ENV("BROKER_POOL_MAIN_MAX_SIZE=7", "BROKER_BROKER_LOG_LEVEL=debug", "OTHER=1",
			"BROKER_FD=3", "BROKER_PID=1", "BROKER_SOCKET=/x", "BROKER_CRASHPOINT=2",
			"BROKER_CONFIG=/nonexistent"),
		SET("pool main.max_size = 6", "pool main.min_idle=2", "broker.log_level=info"));

	if (!ok(c != NULL, "four layers")) {
		diag("%s", err);
		return;
	}
	is_str(c->pools[0].user, "file", "the file beats the default");
	is_int(c->pools[0].min_idle, 2, "--set beats the file");
	is_int(c->pools[0].max_size, 7, "the environment beats --set");
	is_str(c->broker.log_level, "debug", "in [broker] as well");
	is_int(c->broker.max_workers, 5, "what nobody else names stays");
	is_str(c->broker.socket, "shmbroker.sock", "BROKER_SOCKET is no option");
	config_free(c);
}

static void test_environment(void)
{
	struct config *c = load(NULL, ENV("BROKER_SERVER_LOCAL_URL=postgresql://h/d"), NO_SET);

	is_str(c != NULL ? c->servers[0].url : err, "postgresql://h/d", "one variable is enough");
	config_free(c);
	c = load(NULL, ENV("BROKER_POOL_MAIN_SERVERS=two", "BROKER_SERVER_TWO_URL=sqlite:x"),
		NO_SET);
	is_str(c != NULL ? c->servers[0].name : err, "two", "the environment can add a server");
	is_int(c != NULL ? c->nservers : 0, 1, "the default one that nobody uses is gone");
	config_free(c);
	c = load("[pool a]\nservers=local\n[pool a-b]\nservers=local\n",
		ENV("BROKER_POOL_A_B_READERS=3", "BROKER_POOL_A_READERS=4"), NO_SET);
	is_int(c != NULL ? c->pools[1].readers : 0, 3, "a name that begins with another");
	is_int(c != NULL ? c->pools[0].readers : 0, 4, "and that other");
	config_free(c);
	refused_with("[pool a.b]\nservers=local\n[pool a-b]\nservers=local\n",
		ENV("BROKER_POOL_A_B_READERS=3"), NO_SET,
		"BROKER_POOL_A_B_READERS: fits more than one [pool ...]; rename one of them",
		"two names with one spelling");
	refused_with(NULL, ENV("BROKER_BROKER_MAX_WORKER=3"), NO_SET,
		"BROKER_BROKER_MAX_WORKER: [broker] has no option 'max_worker'; did you mean "
		"max_workers?",
		"an unknown variable");
	refused_with(NULL, ENV("BROKER_POOL_MAIN_MAXSIZE=3"), NO_SET,
		"BROKER_POOL_MAIN_MAXSIZE: [pool main] has no option 'maxsize'; did you mean "
		"max_size?",
		"an unknown option of a known pool");
	refused_with(NULL, ENV("BROKER_SERVER_HOST=3"), NO_SET,
		"BROKER_SERVER_HOST: no option of a [server NAME] ends this variable; "
		"broker --help-config lists all",
		"a variable without an option");
	refused_with(NULL, ENV("BROKER_POOL_A_B_READERS=3"), NO_SET,
		"BROKER_POOL_A_B_READERS: no section fits this variable; define the [pool ...] it "
		"means in a file, or give it a name of letters and digits",
		"a name that cannot be told");
	refused_with(NULL, ENV("BROKER_POOL_MAIN_READERS=x"), NO_SET,
		"BROKER_POOL_MAIN_READERS: [pool main] readers: 'x' is not a whole number",
		"a wrong value");
	refused_with(NULL, ENV("BROKER_POOL_MAIN_READERS="), NO_SET,
		"BROKER_POOL_MAIN_READERS: [pool main] readers: '' is not a whole number",
		"an empty value");
}

static void test_file_place(void)
{
	struct config *c;

	write_file("named.ini", "[broker]\nmax_workers = 11\n");
	write_file("shmbroker.ini", "[broker]\nmax_workers = 12\n");
	c = load(NULL, ENV("BROKER_CONFIG=named.ini"), NO_SET);
	is_int(c != NULL ? c->broker.max_workers : 0, 11, "BROKER_CONFIG names the file");
	config_free(c);
	c = load(NULL, NO_ENV, NO_SET);
	is_int(c != NULL ? c->broker.max_workers : 0, 12, "./shmbroker.ini is found");
	is_str(c != NULL ? c->source : NULL, "shmbroker.ini", "and named");
	config_free(c);
	unlink("shmbroker.ini");
	refused_with(NULL, ENV("BROKER_CONFIG=none.ini"), NO_SET,
		"none.ini: cannot read the configuration file: No such file or directory (named by "
		"BROKER_CONFIG)",
		"a named file that is not there");
	ok(config_load("missing.ini", NULL, NULL, 0, &c, err, sizeof(err)) < 0,
		"--config of a missing file");
	is_str(err, "missing.ini: cannot read the configuration file: No such file or directory",
		"says so");
	ok(config_load(".", NULL, NULL, 0, &c, err, sizeof(err)) < 0, "a directory is no file");
}

static void test_syntax(void)
{
	refused("x = 1\n[broker]\n",
		"t.ini:1: 'x' stands before the first section; write [broker] above it",
		"an option without a section");
	refused("[broker]\nnonsense\nsocket = a\n",
		"t.ini:2: this line is neither a [section], nor 'option = value', nor a comment (# "
		"or ;)",
		"a line that is nothing");
	refused("[broker\n",
		"t.ini:1: a section is one line of the form [pool main], with nothing after it",
		"an open bracket");
	refused("[broker] socket = x\n",
		"t.ini:1: a section is one line of the form [pool main], with nothing after it",
		"something behind a section");
	refused("[pol main]\nx=1\n", "t.ini:1: unknown section 'pol'; did you mean pool?",
		"a mistyped section, whose options are not complained of");
	refused("[database]\n",
		"t.ini:1: unknown section 'database'; there are [broker], [server NAME] and [pool "
		"NAME]",
		"an unknown section");
	refused("[broker x]\n", "t.ini:1: section broker has no name; write [broker]",
		"a name too many");
	refused("[pool]\n",
		"t.ini:1: section pool needs a name of at most 40 letters, digits, '_', '-' or "
		"'.', as in "
		"[pool main]",
		"a name too few");
	refused("[pool a b]\n",
		"t.ini:1: section pool needs a name of at most 40 letters, digits, '_', '-' or "
		"'.', as in "
		"[pool main]",
		"a name of two words");
	refused("[broker]\nsocket=a\nsocket=b\n",
		"t.ini:3: [broker] socket is given twice, first at t.ini:2; remove one",
		"an option twice");
	refused("[pool main]\nservers=local\n[pool main]\nservers=local\n",
		"t.ini:3: [pool main] is defined twice, first at t.ini:1; merge the two",
		"two pools of one name");
	refused("[broker]\n[broker]\n",
		"t.ini:2: [broker] is defined twice, first at t.ini:1; merge the two",
		"an empty section twice");
	refused("[broker]\nsokcet=a\n",
		"t.ini:2: [broker] has no option 'sokcet'; did you mean socket?",
		"a mistyped option");
	refused("[broker]\nmax_size=1\n",
		"t.ini:2: [broker] has no option 'max_size'; it belongs into a section [pool NAME]",
		"an option in the wrong section");
	refused("[broker]\nwhatever=1\n",
		"t.ini:2: [broker] has no option 'whatever'; broker --help-config lists all",
		"an option nobody knows");
}

static void test_values(void)
{
#define BROKER "[broker]\n"
	refused(BROKER "max_workers = many\n",
		"t.ini:2: [broker] max_workers: 'many' is not a whole number", "no number");
	refused(BROKER "max_workers = 1.5\n",
		"t.ini:2: [broker] max_workers: '1.5' is not a whole number", "no whole number");
	refused(BROKER "max_workers = 0\n",
		"t.ini:2: [broker] max_workers: 0 is out of range; allowed is 1 to 65536 workers",
		"too small");
	refused(BROKER "max_workers = 99999999999999999999\n",
		"t.ini:2: [broker] max_workers: 99999999999999999999 is out of range; allowed is 1 "
		"to 65536 "
		"workers",
		"more than 64 bits");
	refused(BROKER "default_timeout = 9999999999999999h\n",
		"t.ini:2: [broker] default_timeout: 9999999999999999h is out of range; allowed is "
		"1ms to 24h",
		"more than 64 bits with its unit");
	refused(BROKER "default_timeout = -1\n",
		"t.ini:2: [broker] default_timeout: -1 is out of range; allowed is 1ms to 24h",
		"negative");
	refused(BROKER "default_timeout = 5m\n",
		"t.ini:2: [broker] default_timeout: '5m' has an unknown unit 'm'; units are h, "
		"min, s, ms",
		"an unknown unit of time");
	refused(BROKER "max_request = 5MB\n",
		"t.ini:2: [broker] max_request: '5MB' has an unknown unit 'MB'; units are GiB, "
		"MiB, KiB, B",
		"an unknown unit of size");
	refused(BROKER "socket_mode = 0888\n",
		"t.ini:2: [broker] socket_mode: '0888' is not an octal number", "no octal number");
	refused(BROKER "socket_mode = 1777\n",
		"t.ini:2: [broker] socket_mode: 1777 is out of range; allowed is 0000 to 0777",
		"an octal number out of range");
	refused(BROKER "log_level = chatty\n",
		"t.ini:2: [broker] log_level: 'chatty' is none of error|warning|info|debug",
		"a wrong word");
	refused(BROKER "log_level = warning|info\n",
		"t.ini:2: [broker] log_level: 'warning|info' is none of error|warning|info|debug",
		"two words");
	refused(BROKER "socket =\n", "t.ini:2: [broker] socket: the value is missing",
		"an empty text");
	refused(BROKER "socket = a\x01\n",
		"t.ini:2: [broker] socket: control characters are not allowed",
		"a control character");
	refused_with(NULL, NO_ENV, SET("broker.socket=a ;b"),
		"--set 'broker.socket': [broker] socket: a semicolon after a space begins a "
		"comment and "
		"cannot be part of a value",
		"what a file could not hold");
	refused(BROKER "allow_users = root, no_such_user_here\n",
		"t.ini:2: [broker] allow_users: there is no user 'no_such_user_here' on this "
		"system",
		"an unknown user");
	refused(BROKER "allow_groups = *\n",
		"t.ini:2: [broker] allow_groups: there is no group '*' on this system",
		"an unknown group");
	refused(PG_SERVER PG_POOL "max_lifetime = 5s\n",
		"t.ini:5: [pool main] max_lifetime: 5s is out of range; allowed is 30s to 168h, or "
		"0",
		"between the special value and the range");
#undef BROKER
}

static void test_contradictions(void)
{
	refused(PG_SERVER PG_POOL "min_idle = 11\n",
		"t.ini:5: [pool main] min_idle: min_idle 11 is too much for max_size 10; lower the "
		"one or raise the other",
		"min_idle over max_size");
	refused(PG_SERVER PG_POOL "user=u\npassword=p\npassfile=f\n",
		"t.ini:7: [pool main] passfile: password is set as well; keep one of the two",
		"two passwords");
	refused("[broker]\nmax_workers = 4\nmax_workers_per_uid = 5\n",
		"t.ini:3: [broker] max_workers_per_uid: 5 is more than max_workers 4",
		"limits crossed");
	refused("[broker]\nio_threads = 2\n",
		"t.ini:2: [broker] io_threads: 2 I/O threads are for configurations with "
		"PostgreSQL only, "
		"and [server local] is something else (SQLite has threads of its own); set 1 or "
		"remove "
		"this",
		"threads for SQLite");
	refused("[broker]\nio_threads = 2\n" PG_SERVER PG_POOL "max_per_uid = 1\n",
		"t.ini:2: [broker] io_threads: 2 I/O threads cannot keep max_per_uid of [pool "
		"main], which "
		"one thread has to count; set 1 or remove one of the two",
		"threads and caps");
	refused("[pool a]\nservers = x\n",
		"t.ini:2: [pool a] servers: there is no [server x]; define it or correct the name",
		"an unknown server");
	refused("[pool a]\n",
		"t.ini:1: [pool a] servers: is missing; name the servers of this pool, as in "
		"servers = local",
		"a pool without servers");
	refused("[pool a]\nservers = ,\n", "t.ini:2: [pool a] servers: the value is missing",
		"a list of nothing");
	refused(PG_SERVER "[pool a]\nservers = pg pg\n",
		"t.ini:4: [pool a] servers: names 'pg' twice", "a server twice");
	refused(PG_SERVER "[server x]\nurl=fake:\n[pool a]\nservers = pg x\n",
		"t.ini:6: [pool a] servers: 'pg' and 'x' are databases of different kinds",
		"two kinds of database");
	refused(PG_SERVER "[pool a]\nservers=pg\nreaders=3\n",
		"t.ini:5: [pool a] readers: means nothing with PostgreSQL; remove it",
		"an option of the other database");
	refused_with(NULL, ENV("BROKER_POOL_MAIN_DATABASE=x"), NO_SET,
		"BROKER_POOL_MAIN_DATABASE: [pool main] database: means nothing with SQLite; "
		"remove it",
		"and the other way");
	refused(PG_SERVER PG_POOL "[server b]\nurl=sqlite:x\n",
		"t.ini:5: [server b] is in the servers of no pool; add it to one or remove it",
		"a server nobody uses");
	refused_with(PG_SERVER PG_POOL, NO_ENV, SET("server local.url=sqlite:x"),
		"--set 'server local.url': [server local] is in the servers of no pool; add it to "
		"one or "
		"remove it",
		"--database with a file that has its own servers");
	refused("[server a]\n[pool p]\nservers=a\n",
		"t.ini:1: [server a] url: is missing; say where the database is, as in "
		"sqlite:data.db",
		"a server without url");
	refused("[server a]\nurl=mysql://x\n",
		"t.ini:2: [server a] url: unknown kind of database; write postgresql://..., "
		"host=... "
		"dbname=..., or sqlite:PATH",
		"a database we do not know; the pool main takes the only server");
	refused("[server a]\nurl=sqlite:\n",
		"t.ini:2: [server a] url: needs the path of a file, as in sqlite:data.db",
		"a database without a path");
	refused("[server a]\nurl=sqlite:a\n[server b]\nurl=sqlite:b\n",
		"t.ini:1: [server a] is in the servers of no pool; add it to one or remove it\n"
		"t.ini:3: [server b] is in the servers of no pool; add it to one or remove it\n"
		"[pool main] servers: is missing; name the servers of this pool, as in servers = "
		"local",
		"two servers and no pool");
}

/* Settings of pools that contradict each other or a server's. */
static void test_pool_contradictions(void)
{
	static const struct {
		const char *options; /* of [pool main], from line 5 on */
		const char *want;
	} cases[] = {
		{"min_idle=3\nmax_size=2\n",
			"t.ini:5: [pool main] min_idle: min_idle 3 is too much for max_size 2; "
			"lower the one or raise the other"},
		{"keepalive_time=30min\n",
			"t.ini:5: [pool main] keepalive_time: keepalive_time 30min is too much for "
			"max_lifetime 30min; lower the one or raise the other"},
		{"max_lifetime=1min\nkeepalive_time=90s\n",
			"t.ini:6: [pool main] keepalive_time: keepalive_time 90s is too much for "
			"max_lifetime 1min; lower the one or raise the other"},
		{"keepalive_time=29s\n",
			"t.ini:5: [pool main] keepalive_time: 29s is out of range; "
			"allowed is 30s to 24h, or 0"},
		{"validation_timeout=5s\n",
			"t.ini:5: [pool main] validation_timeout: validation_timeout 5s is too "
			"much "
			"for acquire_timeout 5s; lower the one or raise the other"},
		{"validation_timeout=249\n",
			"t.ini:5: [pool main] validation_timeout: 249 is out of range; allowed is "
			"250ms to 10min, or -1"},
		{"connect_backoff=6s\n",
			"t.ini:5: [pool main] connect_backoff: connect_backoff 6s is too much for "
			"connect_backoff_max 5s; lower the one or raise the other"},
		{"connect_backoff_max=5\n",
			"t.ini:5: [pool main] connect_backoff_max: connect_backoff 10ms is too "
			"much "
			"for connect_backoff_max 5ms; lower the one or raise the other"},
		{"leak_threshold=1s\n", "t.ini:5: [pool main] leak_threshold: 1s is out of range; "
					"allowed is 2s to 24h, or 0"},
		{"leak_threshold=0\nleak_action=rollback\n",
			"t.ini:6: [pool main] leak_action: rollback means nothing with "
			"leak_threshold 0; set a threshold or remove it"},
		{"leak_action=kill\n",
			"t.ini:5: [pool main] leak_action: 'kill' is none of log|rollback"},
		{"guaranteed=11\n[server b]\nurl=host=h\nmax_connections=20\n[pool b]\nservers=b\n",
			"t.ini:5: [pool main] guaranteed: guaranteed 11 is too much for max_size "
			"10; "
			"lower the one or raise the other\n"
			"t.ini:5: [pool main] guaranteed: none of its servers has max_connections, "
			"out of which to guarantee; set that or remove this"},
		{"fallback=journal\n",
			"t.ini:5: [pool main] fallback: there is nothing to fall back from; name a "
			"server on SQLite as the last of several in servers"},
		{"mirror=item\n", "t.ini:5: [pool main] mirror: means nothing with fallback = off; "
				  "remove it"},
		{"batch_patience=-1\n", "t.ini:5: [pool main] batch_patience: -1 is out of range; "
					"allowed is 0 to 1h"},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		char ini[500];

		snprintf(ini, sizeof(ini), PG_SERVER PG_POOL "%s", cases[i].options);
		refused(ini, cases[i].want, cases[i].options);
	}
	refused("[server pg]\nurl=host=h\nmax_connections=9\n" PG_POOL
		"guaranteed=5\n[pool b]\nservers=pg\nguaranteed=5\n",
		"t.ini:3: [server pg] max_connections: 9 is less than what its pools are "
		"guaranteed, 10; raise it or lower their guaranteed",
		"too much is guaranteed");
}

static void test_several_servers(void)
{
#define THREE "[server a]\nurl=host=a\n[server b]\nurl=host=b\n[server c]\nurl=sqlite:c.db\n"
	struct config *c =
		load(THREE "[pool main]\nservers=a b c\nfallback=journal\nmirror=item, s.x\n"
			   "mirror_interval=1s\nreaders=2\nread_from=any\nmax_lag=0\n"
			   "leak_action=rollback\n",
			NO_ENV, NO_SET);
	char ini[4000] = "";

	if (ok(c != NULL, "two servers and a fallback")) {
		const struct config_pool *p = &c->pools[0];

		is_int(p->fallback, FALLBACK_JOURNAL, "words have numbers");
		is_int(p->read_from, READ_FROM_ANY, "the right ones");
		is_int(p->leak_action, LEAK_ROLLBACK, "all of them");
		is_int(p->nmirror, 2, "two tables");
		is_str(p->mirror[1], "s.x", "with a schema");
		is_int(p->readers, 2, "options of SQLite belong to the fallback");
	} else {
		diag("%s", err);
	}
	config_free(c);
	refused(THREE "[pool main]\nservers=a b c\n",
		"t.ini:8: [pool main] servers: 'c' is on SQLite and would never be used; set "
		"fallback = read-only, read-write or journal, or remove it",
		"a fallback that is off");
	refused(THREE "[pool main]\nservers=a c b\nfallback=journal\n",
		"t.ini:8: [pool main] servers: 'c' is on SQLite; only the last of several servers "
		"may be, as fallback\n"
		"t.ini:9: [pool main] fallback: the last of the servers, 'b', is not on SQLite; "
		"add "
		"one that is, or set fallback = off",
		"a fallback in the middle");
	refused(THREE "[pool main]\nservers=a b c\nfallback=read-only\nmirror=a;b, x.y.z, 1a, a.\n",
		"t.ini:10: [pool main] mirror: 'a;b' is no name of the form [schema.]table\n"
		"t.ini:10: [pool main] mirror: 'x.y.z' is no name of the form [schema.]table\n"
		"t.ini:10: [pool main] mirror: '1a' is no name of the form [schema.]table\n"
		"t.ini:10: [pool main] mirror: 'a.' is no name of the form [schema.]table",
		"what cannot be a table");
	for (int i = 0; i < 33; i++) {
		snprintf(ini + strlen(ini), sizeof(ini) - strlen(ini), "[server s%d]\nurl=host=h\n",
			i);
	}
	strcat(ini, "[pool main]\nservers=");
	for (int i = 0; i < 33; i++) {
		snprintf(ini + strlen(ini), sizeof(ini) - strlen(ini), "s%d ", i);
	}
	refused(ini, "t.ini:68: [pool main] servers: names 33 servers; at most 32 are allowed",
		"too many servers");
#undef THREE
}

/* Defaults that follow what was given instead of contradicting it. */
static void test_followers(void)
{
	static const struct {
		const char *options;
		int64_t keepalive, validation;
	} cases[] = {
		{"", 120000, 2500},
		{"max_lifetime=1min\n", 0, 2500},
		{"max_lifetime=0\n", 120000, 2500},
		{"acquire_timeout=30s\n", 120000, 5000},
		{"acquire_timeout=1s\n", 120000, 500},
		{"acquire_timeout=1\n", 120000, 250},
		{"acquire_timeout=1\nvalidation_timeout=250\n", 120000, 250},
		{"acquire_timeout=7s\nvalidation_timeout=6s\nkeepalive_time=40s\n", 40000, 6000},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		struct config *c;
		char ini[300];

		snprintf(ini, sizeof(ini), PG_SERVER PG_POOL "%s", cases[i].options);
		c = load(ini, NO_ENV, NO_SET);
		is_int(c != NULL ? c->pools[0].keepalive_time : -2, cases[i].keepalive,
			"keepalive_time with '%s'", cases[i].options);
		is_int(c != NULL ? c->pools[0].validation_timeout : -2, cases[i].validation,
			"validation_timeout");
		config_free(c);
	}
}

static char advice[500];

static void tell(const char *text)
{
	snprintf(advice + strlen(advice), sizeof(advice) - strlen(advice), "%s\n", text);
}

static void test_advice(void)
{
	struct config *c = load("[server pg]\nurl=host=h\nmax_connections=19\n" PG_POOL
				"[pool b]\nservers=pg\nmax_size=8\nmax_overflow=2\n",
		NO_ENV, NO_SET);

	if (!ok(c != NULL, "more connections wanted than allowed is no mistake")) {
		bail_out("%s", err);
	}
	config_advise(c, tell);
	is_str(advice,
		"server pg: its pools may want 20 connections (max_size and max_overflow), "
		"max_connections allows 19\n",
		"but told");
	config_free(c);
}

static void test_conninfo(void)
{
	refused("[server a]\nurl=postgresql://u:hush@h/d?sslmod=x\n",
		"t.ini:2: [server a] url: libpq cannot read it: invalid URI query parameter: "
		"\"sslmod\"",
		"libpq's words for a parameter");
	refused("[server a]\nurl=host=h pasword=hush\n",
		"t.ini:2: [server a] url: libpq cannot read it: invalid connection option "
		"\"pasword\"",
		"libpq's words for an option");
	refused("[server a]\nurl=postgresql://u:hush%zz@h/d\n",
		"t.ini:2: [server a] url: libpq cannot read it: invalid percent-encoded token: ",
		"without the text of the url");
	refused("[server a]\nurl=password=hush hush\n",
		"t.ini:2: [server a] url: libpq cannot read it: missing ",
		"without a piece of a password");
	refused_with(NULL, NO_ENV,
		SET("nonsense", "pool main=3", "pool main.x=3", "pool.x=3", "brokr.x=1"),
		"--set 'nonsense': write section.option=value, as in 'pool main.max_size=4'\n"
		"--set 'pool main': write section.option=value, as in 'pool main.max_size=4'\n"
		"--set 'pool main.x': [pool main] has no option 'x'; broker --help-config lists "
		"all\n"
		"--set 'pool.x': section pool needs a name of at most 40 letters, digits, '_', '-' "
		"or '.', as in [pool main]\n"
		"--set 'brokr.x': unknown section 'brokr'; did you mean broker?",
		"all mistakes are told, of --set as well");
	refused_with(NULL, NO_ENV,
		SET("pool.main.max_size=5", "pool.main.password=hush", "server.x.url=sqlite:hush"),
		"--set 'pool.main.max_size': a blank precedes a name; write 'pool "
		"main.max_size=5'\n"
		"--set 'pool.main.password': a blank precedes a name; write 'pool "
		"main.password=...'\n"
		"--set 'server.x.url': a blank precedes a name; write 'server x.url=...'",
		"a dot for a blank, and no secret is shown");
	refused_with(NULL, NO_ENV, SET("broker.socket=a", "broker.socket=b"),
		"--set 'broker.socket': [broker] socket is given twice, first at --set "
		"'broker.socket'; "
		"remove one",
		"--set twice");
	refused_with("[broker]\nmax_workers=0\n", ENV("BROKER_BROKER_MAX_WORKERS=5"), NO_SET,
		"t.ini:2: [broker] max_workers: 0 is out of range; allowed is 1 to 65536 workers",
		"a mistake is one even where a later layer hides it");
}

static void test_many_mistakes(void)
{
	char ini[20000] = "[broker]\n", small[200];
	struct config *c;
	size_t n = strlen(ini);
	unsigned lines = 1;

	for (int i = 0; i < 300; i++) {
		n += (size_t)snprintf(
			ini + n, sizeof(ini) - n, "unknown_option_number_%d = 1\n", i);
	}
	write_file("t.ini", ini);
	ok(config_load("t.ini", NULL, NULL, 0, &c, small, sizeof(small)) < 0, "300 mistakes");
	for (const char *p = small; (p = strchr(p, '\n')) != NULL; p++) {
		lines++;
	}
	ok(lines > 1 && strstr(small, " more mistakes") != NULL, "what does not fit is counted");
	is_int(lines - 1 + (unsigned)atoi(strstr(small, "and ") + 4), 300, "rightly");
}

static void mask(const char *url, const char *want)
{
	char *got = config_mask_url(url);

	is_str(got, want, "mask of %s", url);
	free(got);
}

static void test_masks(void)
{
	mask("postgresql://u:pw@h:5432/d", "postgresql://u:********@h:5432/d");
	mask("postgresql://u@h:5432/d", "postgresql://u@h:5432/d");
	mask("postgresql://h:5432/d?sslmode=require", "postgresql://h:5432/d?sslmode=require");
	mask("postgresql://u:p@w:@/x?@h/d", "postgresql://u:********@h/d");
	mask("postgresql://h/d?user=u&password=pw&sslmode=x",
		"postgresql://h/d?user=u&password=********&sslmode=x");
	mask("postgresql://h/d?sslpassword=pw", "postgresql://h/d?sslpassword=********");
	mask("postgresql://h/d?p%61ssword=pw", "postgresql://h/d?p%61ssword=********");
	mask("host=h password=pw user=u", "host=h password=******** user=u");
	mask("host=h password = 'p w\\' x' user=u", "host=h password = ******** user=u");
	mask("password='unterminated", "password=********");
	mask("password=p\\ w user=u", "password=******** user=u");
	mask("host=h password=my secret", "host=h password=******** ********");
	mask("dbname=postgresql://u:pw@h/d user=x", "dbname=******** user=x");
	mask("dbname='postgresql://u:p w@h/d'", "dbname=********");
	mask("sqlite:data.db", "sqlite:data.db");
	mask("what is this", "********");
	mask("", "");
}

static char *printed(const struct config *c)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (f == NULL) {
		bail_out("out of memory");
	}
	config_print(c, f);
	fclose(f);
	return text;
}

/* Load what a configuration prints: the print of the second is the print of the first. */
static void round_trip(const char *ini, const char *what)
{
	struct config *c = load(ini, NO_ENV, NO_SET), *again;
	char *first, *second;

	if (c == NULL) {
		ok(false, "%s: %s", what, err);
		return;
	}
	first = printed(c);
	config_free(c);
	again = load(first, NO_ENV, NO_SET);
	second = again != NULL ? printed(again) : strdup(err);
	is_str(strchr(second, '\n'), strchr(first, '\n'), "%s: what is printed loads to the same",
		what);
	free(first);
	free(second);
	config_free(again);
}

static void test_print(void)
{
	struct config *c;
	char *text;

	round_trip("", "an empty file");
	round_trip(PG_SERVER "[server s2]\nurl=postgresql://h/d\nmax_connections=7\n" PG_POOL
			     "max_size=3\nmin_idle=1\nuser=u\npassfile=/p f\nidle_timeout=0\n"
			     "acquire_timeout=1500\n[pool b]\nservers=s2 pg\n[broker]\n"
			     "socket_mode=0\nmax_request=5000\nallow_users=*\n",
		"odd values");
	c = load("[server pg]\nurl=postgresql://u:hush@h/d\n" PG_POOL "password=hush\n", NO_ENV,
		NO_SET);
	if (!ok(c != NULL, "a file with secrets")) {
		diag("%s", err);
		return;
	}
	text = printed(c);
	ok(strstr(text, "hush") == NULL, "secrets are not printed");
	ok(strstr(text, "\nurl = postgresql://u:********@h/d\n") != NULL,
		"the url is, but for its password");
	config_free(c);
	c = load(text, NO_ENV, NO_SET);
	ok(c == NULL &&
			strstr(err, "[server pg] url: ******** is what --print-config shows") !=
				NULL &&
			strstr(err, "[pool main] password: ******** is what") != NULL,
		"masks are not taken for secrets");
	free(text);
	config_free(c);
}

/* Every option stands in all that describes them; defaults are values their own parser accepts. */
static void test_table(void)
{
	char *text = NULL, why[300];
	size_t len;
	FILE *f = open_memstream(&text, &len);
	unsigned missing = 0, bad = 0;

	if (f == NULL) {
		bail_out("out of memory");
	}
	config_describe(f);
	fclose(f);
	for (unsigned i = 0; i < option_count; i++) {
		const struct option *o = &option_table[i];
		union {
			struct config_broker b;
			struct config_server s;
			struct config_pool p;
		} any = {0};
		char want[100];

		snprintf(want, sizeof(want), "\n  %s: ", o->key);
		missing += strstr(text, want) == NULL;
		if (o->def[0] != '\0' || o->min == 0) {
			bad += option_parse(o, o->def, &any, why, sizeof(why)) != 0;
			option_clear(o, &any);
		}
		bad += o->min > o->max || strlen(o->help) < 20;
	}
	is_int(missing, 0, "--help-config knows every option");
	is_int(bad, 0, "every default is valid");
	ok(strstr(text, "BROKER_POOL_<NAME>_MAX_SIZE") != NULL, "and its variable");
	free(text);
}

/* The manual is made by the build: it has a paragraph and the variable of every option. */
static void test_manual(void)
{
	const char *build = getenv("BUILD_ROOT");
	char path[4096], line[4096];
	unsigned paragraphs = 0, variables = 0;
	FILE *f;

	if (build == NULL) {
		skip("BUILD_ROOT is not set: the manual is made by the build");
		return;
	}
	snprintf(path, sizeof(path), "%s/docs/broker.conf.5", build);
	f = fopen(path, "r");
	if (!ok(f != NULL, "%s", path)) {
		return;
	}
	while (fgets(line, sizeof(line), f) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		for (unsigned i = 0; i < option_count; i++) {
			const struct option *o = &option_table[i];
			char want[100], variable[100] = "";
			FILE *v = fmemopen(variable, sizeof(variable), "w");

			snprintf(want, sizeof(want), ".B %s", o->key);
			option_print_variable(o, v);
			fclose(v);
			paragraphs += strcmp(line, want) == 0;
			variables += strcmp(line, variable) == 0;
		}
	}
	fclose(f);
	/* the text mentions some once more */
	ok(paragraphs >= option_count, "the manual has a paragraph for every option");
	is_int(variables, option_count, "and its variable");
}

int main(void)
{
	if (mkdtemp(dir) == NULL || chdir(dir) < 0) {
		bail_out("cannot make a scratch directory");
	}
	test_defaults();
	test_file();
	test_long_line();
	test_layers();
	test_environment();
	test_file_place();
	test_syntax();
	test_values();
	test_contradictions();
	test_pool_contradictions();
	test_several_servers();
	test_followers();
	test_advice();
	test_conninfo();
	test_many_mistakes();
	test_masks();
	test_print();
	test_table();
	test_manual();
	unlink("t.ini");
	unlink("named.ini");
	if (chdir("/") < 0 || rmdir(dir) < 0) {
		diag("cannot remove %s", dir);
	}
	return done_testing();
}
