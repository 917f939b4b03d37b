/* SPDX-License-Identifier: MIT */
/* pg.c - see pg.h. */
#include "pg.h"

#include "disk.h"
#include "scratch.h"
#include "spawn.h"
#include "tap.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 60000
#define SETTINGS_MAX 24

struct pg_cluster {
	char *dir; /* also of the socket */
	char *data;
	char *url;
	char *log;
	char *settings[SETTINGS_MAX];
	unsigned nsettings;
	pid_t pid; /* 0: stopped */
	bool own_disk; /* data is one */
	PGconn *conn;
	pid_t conn_owner; /* a forked child must not talk through its parent's connection */
};

static unsigned made; /* clusters of this process, to name them */

/* ------------------------------------------------------------------------------------------------
 * Programs of the server
 */

static int version_of(const char *bindir)
{
	const char *p = strstr(bindir, "/postgresql/");

	return p != NULL ? atoi(p + strlen("/postgresql/")) : 0;
}

/* Directory of the newest server programs, or NULL. */
static const char *bindir(void)
{
	static const char *const patterns[] = {"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/usr/local/pgsql/bin", "/usr/bin"};
	static char found[256];
	glob_t g = {0};

	if (found[0] != '\0') {
		return found;
	}
	for (unsigned i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		(void)glob(patterns[i], i > 0 ? GLOB_APPEND : 0, NULL, &g);
	}
	for (size_t i = 0; i < g.gl_pathc; i++) {
		char initdb[300];

		snprintf(initdb, sizeof(initdb), "%s/initdb", g.gl_pathv[i]);
		if (access(initdb, X_OK) == 0 &&
			(found[0] == '\0' || version_of(g.gl_pathv[i]) > version_of(found))) {
			snprintf(found, sizeof(found), "%s", g.gl_pathv[i]);
		}
	}
	globfree(&g);
	return found[0] != '\0' ? found : NULL;
}

bool pg_available(void)
{
	return bindir() != NULL;
}

static char *program(const char *name)
{
	if (bindir() == NULL) {
		bail_out("no PostgreSQL server is installed (tools/install-deps --tests)");
	}
	return scratch_format("%s/%s", bindir(), name);
}

/* Run a command that has to succeed. */
static void must_run(const char *const *argv, bool plain_user, const char *log)
{
	struct spawn opt = {.log = log, .plain_user = plain_user, .dir = "/"};
	int status = spawn_run(argv, &opt, START_MS);

	if (status != 0) {
		scratch_show_tail(log, 20);
		bail_out("%s failed, status %d", argv[0], status);
	}
}

/* ------------------------------------------------------------------------------------------------
 * The template
 */

/* A cluster that listens on a loopback address, whichever, trusts those who come from one. */
static void trust_loopback(const char *data)
{
	char *path = scratch_format("%s/pg_hba.conf", data);
	FILE *f = fopen(path, "ae");

	if (f == NULL || fputs("host all,replication all 127.0.0.0/8 trust\n", f) < 0 ||
		fclose(f) != 0) {
		bail_out("%s: %s", path, strerror(errno));
	}
	free(path);
}

static void init_template(const char *data, const char *log)
{
	char *initdb = program("initdb");
	const char *const argv[] = {initdb, "-D", data, "-A", "trust", "-U", "postgres", "-E",
		"UTF8", "--locale=C.UTF-8", "--no-sync", NULL};

	must_run(argv, true, log);
	free(initdb);
	trust_loopback(data);
}

/* Copy with owners and times. */
static void copy_tree(const char *from, const char *to, const char *log)
{
	const char *const argv[] = {"cp", "-aT", "--reflink=auto", from, to, NULL};

	must_run(argv, false, log);
}

static int lock_cache(const char *cache)
{
	char *path = scratch_format("%s/lock", cache);
	int fd;

	(void)mkdir(cache, 0755);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	free(path);
	if (fd < 0 || flock(fd, LOCK_EX) < 0) {
		bail_out("cannot lock %s: %s", cache, strerror(errno));
	}
	return fd;
}

/* The template's directory; made if it is not there yet.  The caller frees. */
static char *template(const char *place, const char *log)
{
	const char *cache = getenv("TEST_CACHE");
	uid_t uid;
	gid_t gid;
	char *path, *fresh, *half;
	int lock;

	spawn_user(&uid, &gid);
	cache = cache != NULL ? cache : scratch_dir();
	path = scratch_format(
		"%s/pg%d-%d-loopback", cache, version_of(bindir()), (int)(uid ? uid : getuid()));
	lock = lock_cache(cache);
	if (access(path, F_OK) < 0) {
		fresh = scratch_format("%s/template", place);
		half = scratch_format("%s.%d", path, (int)getpid());
		init_template(fresh, log);
		copy_tree(fresh, half, log);
		if (rename(half, path) < 0) {
			bail_out("rename %s: %s", half, strerror(errno));
		}
		free(half);
		free(fresh);
	}
	close(lock);
	return path;
}

/* ------------------------------------------------------------------------------------------------
 * Start and stop
 */

static struct pg_cluster *new_cluster(const char *const *settings)
{
	struct pg_cluster *pg = calloc(1, sizeof(*pg));
	uid_t uid;
	gid_t gid;

	if (pg == NULL) {
		bail_out("out of memory");
	}
	pg->dir = scratch_path("pg%u-%d", made++, (int)getpid());
	pg->data = scratch_format("%s/data", pg->dir);
	pg->log = scratch_format("%s/log", pg->dir);
	pg->url = scratch_format("postgresql:///postgres?host=%s&user=postgres", pg->dir);
	while (settings != NULL && *settings != NULL && pg->nsettings < SETTINGS_MAX) {
		pg->settings[pg->nsettings++] = scratch_format("%s", *settings++);
	}
	if (mkdir(pg->dir, 0755) < 0) {
		bail_out("cannot make %s: %s", pg->dir, strerror(errno));
	}
	spawn_user(&uid, &gid);
	if (uid != 0 && chown(pg->dir, uid, gid) < 0) {
		bail_out("cannot chown %s: %s", pg->dir, strerror(errno));
	}
	scratch_show_on_failure(pg->log);
	return pg;
}

static bool answers(const struct pg_cluster *pg)
{
	if (spawn_ended(pg->pid)) {
		scratch_show_tail(pg->log, 30);
		bail_out("PostgreSQL ended while starting");
	}
	return PQping(pg->url) == PQPING_OK;
}

void pg_restart(struct pg_cluster *pg)
{
	const char *argv[16 + 2 * SETTINGS_MAX] = {NULL, "-D", pg->data, "-k", pg->dir, "-c",
		"listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB",
		/* in its directory, where a kill leaves nothing */
		"-c", "dynamic_shared_memory_type=mmap"};
	struct spawn opt = {
		.log = pg->log, .plain_user = true, .dir = "/", .death_signal = SIGQUIT};
	unsigned n = 13;
	char *postgres = program("postgres");

	argv[0] = postgres;
	for (unsigned i = 0; i < pg->nsettings; i++) {
		argv[n++] = "-c";
		argv[n++] = pg->settings[i];
	}
	pg->pid = spawn(argv, &opt);
	free(postgres);
	if (!wait_until(answers(pg), START_MS)) {
		scratch_show_tail(pg->log, 30);
		bail_out("PostgreSQL does not answer");
	}
}

static void start_from_template(struct pg_cluster *pg)
{
	char *from = template(pg->dir, pg->log);

	copy_tree(from, pg->data, pg->log);
	free(from);
	pg_restart(pg);
}

struct pg_cluster *pg_start(const char *const *settings)
{
	struct pg_cluster *pg = new_cluster(settings);

	start_from_template(pg);
	return pg;
}

struct pg_cluster *pg_start_small(const char *const *settings, unsigned mib)
{
	struct pg_cluster *pg = new_cluster(settings);

	pg->own_disk = disk_make(pg->data, mib);
	if (!pg->own_disk) {
		pg_remove(&pg);
		return NULL;
	}
	start_from_template(pg);
	return pg;
}

/* Make its files a copy of the primary's, those of a standby. */
static void copy_primary(struct pg_cluster *pg, const struct pg_cluster *primary)
{
	char *basebackup = program("pg_basebackup");
	const char *const argv[] = {basebackup, "-D", pg->data, "-d", primary->url, "-X", "stream",
		"-c", "fast", "-R", "--no-sync", NULL};

	must_run(argv, true, pg->log);
	free(basebackup);
}

static void start_standby(struct pg_cluster *pg, struct pg_cluster *primary)
{
	char *lsn;

	pg_restart(pg);
	lsn = pg_text(primary, "SELECT pg_current_wal_lsn()");
	if (!wait_until(pg_int(pg, "SELECT (pg_last_wal_replay_lsn() >= '%s')::int", lsn) == 1,
		    START_MS)) {
		bail_out("the standby does not catch up");
	}
	free(lsn);
}

struct pg_cluster *pg_standby(struct pg_cluster *primary, const char *const *settings)
{
	struct pg_cluster *pg = new_cluster(settings);

	copy_primary(pg, primary);
	start_standby(pg, primary);
	return pg;
}

void pg_follow(struct pg_cluster *standby, struct pg_cluster *primary)
{
	pg_do(standby, "ALTER SYSTEM SET primary_conninfo = '%s'", primary->url);
	pg_do(standby, "SELECT pg_reload_conf()");
}

/* False: impossible, for whatever reason; the log says which. */
static bool rewind_to(struct pg_cluster *old, struct pg_cluster *primary)
{
	char *rewind = program("pg_rewind");
	const char *const argv[] = {rewind, "-D", old->data, "--source-server", primary->url, "-R",
		"--no-sync", NULL};
	struct spawn opt = {.log = old->log, .plain_user = true, .dir = "/"};
	int status;

	pg_do(primary, "CHECKPOINT"); /* until then its control file names the old timeline */
	status = spawn_run(argv, &opt, START_MS);
	free(rewind);
	return status == 0;
}

void pg_rejoin(struct pg_cluster *old, struct pg_cluster *primary)
{
	if (!rewind_to(old, primary)) {
		must_run((const char *const[]){"find", old->data, "-mindepth", "1", "-delete",
				 NULL},
			false, old->log);
		copy_primary(old, primary);
	}
	start_standby(old, primary);
}

static void forget_connection(struct pg_cluster *pg)
{
	if (pg->conn != NULL && pg->conn_owner == getpid()) {
		PQfinish(pg->conn);
	}
	pg->conn = NULL;
}

static void signal_all(const struct pg_cluster *pg, int sig)
{
	pid_t pids[1024];
	unsigned n = spawn_children(pg->pid, pids, 1024);

	(void)kill(pg->pid, sig);
	for (unsigned i = 0; i < n; i++) {
		(void)kill(pids[i], sig);
	}
}

static void wait_gone(pid_t pid)
{
	struct pollfd p = {.events = POLLIN};

	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd >= 0) {
		(void)poll(&p, 1, START_MS);
		close(p.fd);
	}
}

/* All at one moment; and not before the last is gone can the cluster be started again. */
static void kill_all(const struct pg_cluster *pg)
{
	pid_t pids[1024];
	unsigned n;

	spawn_pause(pg->pid); /* so that it starts no more */
	n = spawn_children(pg->pid, pids, 1024);
	(void)kill(pg->pid, SIGKILL);
	for (unsigned i = 0; i < n; i++) {
		(void)kill(pids[i], SIGKILL);
	}
	for (unsigned i = 0; i < n; i++) {
		wait_gone(pids[i]);
	}
}

bool pg_runs(const struct pg_cluster *pg)
{
	return pg->pid != 0 && !spawn_ended(pg->pid);
}

void pg_stop(struct pg_cluster *pg, enum pg_mode mode)
{
	static const int signals[] = {[PG_SMART] = SIGTERM,
		[PG_FAST] = SIGINT,
		[PG_IMMEDIATE] = SIGQUIT,
		[PG_KILL] = SIGKILL};
	bool late = false;

	forget_connection(pg);
	if (pg->pid == 0) {
		return;
	}
	if (mode == PG_KILL) {
		kill_all(pg);
	} else {
		(void)kill(pg->pid, signals[mode]);
	}
	(void)spawn_wait(pg->pid, START_MS, &late);
	pg->pid = 0;
	if (late) {
		scratch_show_tail(pg->log, 30);
		bail_out("PostgreSQL did not stop");
	}
}

void pg_remove(struct pg_cluster **pgp)
{
	struct pg_cluster *pg = *pgp;

	if (pg == NULL) {
		return;
	}
	if (pg->pid != 0) {
		signal_all(pg, SIGCONT);
	}
	pg_stop(pg, PG_IMMEDIATE);
	for (unsigned i = 0; i < pg->nsettings; i++) {
		free(pg->settings[i]);
	}
	if (pg->own_disk) {
		disk_remove(pg->data);
	}
	must_run((const char *const[]){"rm", "-rf", pg->data, NULL}, false, pg->log);
	free(pg->dir);
	free(pg->data);
	free(pg->url);
	free(pg->log);
	free(pg);
	*pgp = NULL;
}

void pg_promote(struct pg_cluster *pg)
{
	if (pg_int(pg, "SELECT pg_promote(true, 60)::int") != 1) {
		bail_out("the standby cannot be promoted");
	}
}

void pg_promote_soon(struct pg_cluster *pg)
{
	pg_do(pg, "SELECT pg_promote(false)");
}

void pg_freeze(struct pg_cluster *pg)
{
	pid_t pids[1024];
	unsigned n;

	spawn_pause(pg->pid); /* first, so that it starts no more */
	n = spawn_children(pg->pid, pids, 1024);
	for (unsigned i = 0; i < n; i++) {
		spawn_pause(pids[i]);
	}
}

void pg_thaw(struct pg_cluster *pg)
{
	signal_all(pg, SIGCONT);
}

/* ------------------------------------------------------------------------------------------------
 * Look from the server's side
 */

PGconn *pg_connect(const struct pg_cluster *pg)
{
	const char *const names[] = {"dbname", "application_name", "connect_timeout", NULL};
	const char *const values[] = {pg->url, "it", "30", NULL};
	PGconn *c = PQconnectdbParams(names, values, 1);

	if (PQstatus(c) != CONNECTION_OK) {
		diag("%s", PQerrorMessage(c));
		scratch_show_tail(pg->log, 30);
		bail_out("cannot connect to %s", pg->url);
	}
	return c;
}

static PGresult *query(struct pg_cluster *pg, const char *fmt, va_list ap)
{
	PGresult *r;
	ExecStatusType st;
	char *sql;

	if (vasprintf(&sql, fmt, ap) < 0) {
		bail_out("out of memory");
	}
	if (pg->conn == NULL || pg->conn_owner != getpid() || PQstatus(pg->conn) != CONNECTION_OK) {
		forget_connection(pg);
		pg->conn = pg_connect(pg);
		pg->conn_owner = getpid();
	}
	r = PQexec(pg->conn, sql);
	st = PQresultStatus(r);
	if (st != PGRES_TUPLES_OK && st != PGRES_COMMAND_OK) {
		bail_out("%s: %s", sql, PQerrorMessage(pg->conn));
	}
	free(sql);
	return r;
}

static const char *first(const PGresult *r)
{
	return PQntuples(r) > 0 && PQnfields(r) > 0 ? PQgetvalue(r, 0, 0) : "";
}

void pg_do(struct pg_cluster *pg, const char *sql, ...)
{
	va_list ap;

	va_start(ap, sql);
	PQclear(query(pg, sql, ap));
	va_end(ap);
}

int64_t pg_int(struct pg_cluster *pg, const char *sql, ...)
{
	int64_t n;
	PGresult *r;
	va_list ap;

	va_start(ap, sql);
	r = query(pg, sql, ap);
	va_end(ap);
	n = strtoll(first(r), NULL, 10);
	PQclear(r);
	return n;
}

char *pg_text(struct pg_cluster *pg, const char *sql, ...)
{
	char *text;
	PGresult *r;
	va_list ap;

	va_start(ap, sql);
	r = query(pg, sql, ap);
	va_end(ap);
	text = scratch_format("%s", first(r));
	PQclear(r);
	return text;
}

const char *pg_url(const struct pg_cluster *pg)
{
	return pg->url;
}

const char *pg_host(const struct pg_cluster *pg)
{
	return pg->dir;
}

const char *pg_data(const struct pg_cluster *pg)
{
	return pg->data;
}

const char *pg_log(const struct pg_cluster *pg)
{
	return pg->log;
}

pid_t pg_pid(const struct pg_cluster *pg)
{
	return pg->pid;
}
