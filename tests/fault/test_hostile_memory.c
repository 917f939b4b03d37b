/* SPDX-License-Identifier: MIT */
/*
 * test_hostile_memory.c - what a worker can do to the segments it was given: nothing but write into
 * W, and empty it, which harms nobody else.
 *
 * Run by root, the hostile worker is another user, as it should be where workers are not trusted.
 * Otherwise it is the broker's own user, and what one user id cannot keep apart is left out.
 */
#include "brokerproc.h"
#include "raw.h"
#include "segment.h"
#include "spawn.h"
#include "stage.h"
#include "tap.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <grp.h>
#include <unistd.h>

/* Checks are made in the hostile process and told by the test. */
struct finding {
	bool pass;
	char what[112];
};

struct report {
	unsigned n;
	struct finding f[128];
};

static struct report *report;

__attribute__((format(printf, 2, 3))) static void found(bool pass, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (report->n < array_size(report->f)) {
		report->f[report->n].pass = pass;
		vsnprintf(report->f[report->n++].what, sizeof(report->f[0].what), fmt, ap);
	}
	va_end(ap);
}

static void become_other_user(void)
{
	uid_t uid;
	gid_t gid;

	spawn_user(&uid, &gid);
	if (uid != 0 && (setgroups(0, NULL) < 0 || setgid(gid) < 0 || setuid(uid) < 0)) {
		_exit(9);
	}
}

/* -- attempts ---------------------------------------------------------------------------------- */

static bool can_map(int fd, uint64_t len)
{
	void *m = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (m == MAP_FAILED) {
		return false;
	}
	munmap(m, len);
	return true;
}

static bool can_write(int fd)
{
	return pwrite(fd, "x", 1, 4096) == 1;
}

/* A descriptor that is opened anew may have what the received one has not. */
static void try_reopen(const char *name, int fd, uint64_t len)
{
	static const int modes[] = {O_RDWR, O_WRONLY, O_RDWR | O_TRUNC};
	char path[64];
	unsigned done = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	for (unsigned i = 0; i < array_size(modes); i++) {
		int again = open(path, modes[i] | O_CLOEXEC);

		if (again < 0) {
			continue;
		}
		done += can_map(again, len) || can_write(again) || ftruncate(again, 0) == 0;
		close(again);
	}
	found(done == 0, "%s: opened again through /proc/self/fd it cannot be written", name);
}

/* What nobody may do to any of them, or mappings would lose their pages. */
static void try_resize(const char *name, int fd, uint64_t len)
{
	off_t size = lseek(fd, 0, SEEK_END);

	found(ftruncate(fd, 0) < 0, "%s: cannot be cut short", name);
	found(ftruncate(fd, (off_t)len * 2) < 0, "%s: cannot be made longer", name);
	found(fallocate(fd, 0, (off_t)len, 4096) < 0, "%s: nothing can be allocated behind it",
		name);
	found(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0, "%s: no seal can be added", name);
	found(lseek(fd, 0, SEEK_END) == size, "%s: has the length it had", name);
}

static void try_all(const char *name, int fd, uint64_t len)
{
	try_resize(name, fd, len);
	found(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0,
		"%s: no hole can be punched", name);
	found(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096) < 0, "%s: cannot be zeroed", name);
	found(!can_map(fd, len), "%s: no writable mapping", name);
	found(!can_write(fd), "%s: no write", name);
	try_reopen(name, fd, len);
	try_resize(name, fd, len);
}

static void try_mprotect(const char *name, void *map, uint64_t len)
{
	found(mprotect(map, len, PROT_READ | PROT_WRITE) < 0, "%s: mprotect to writable is refused",
		name);
}

/* The broker itself. */
static void try_broker(pid_t pid)
{
	static const char *const files[] = {"mem", "environ", "maps", "fd"};
	unsigned opened = 0;

	found(ptrace(PTRACE_ATTACH, pid, NULL, NULL) < 0, "the broker cannot be traced");
	for (unsigned i = 0; i < array_size(files); i++) {
		char path[64];
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, files[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			opened++;
			close(fd);
		}
	}
	found(opened == 0, "nor looked at through /proc");
}

static bool is_others(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_uid != getuid();
}

/* A descriptor for reading may get no mapping that can be written, ever. */
static void try_reader(const char *name, int fd, void *map, uint64_t len)
{
	found((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY, "%s: came for reading", name);
	found(!is_others(fd) || fchmod(fd, 0600) < 0, "%s: its mode cannot be changed", name);
	found(madvise(map, len, MADV_REMOVE) < 0, "%s: no hole through the mapping", name);
	try_mprotect(name, map, len);
}

/* The worker's own: it may do what it likes, at any time, but for the length. */
static void try_own(const char *path)
{
	struct attach_hello h = raw_hello();
	struct raw r = {.sock = raw_connect(path)};

	if (!raw_send(r.sock, &h, sizeof(h), NULL, 0) ||
		raw_reply(r.sock, &r.reply, r.fd, 10000) <= 0) {
		_exit(8);
	}
	raw_map(&r);
	try_resize("W before ready", r.fd[1], r.w_len);
	found(madvise(r.w, r.w_len, MADV_REMOVE) == 0, "W can be emptied before ready");
	raw_ready(&r);
	found(raw_run(&r, "rows 1", 10000) == COMP_DONE, "who has done so is served");
	found(madvise(r.w, r.w_len, MADV_REMOVE) == 0, "and afterwards");
	raw_bell(&r);
	raw_drop(&r);
}

static _Noreturn void hostile(const char *path, pid_t broker)
{
	struct raw r;
	uint64_t s_len;

	become_other_user();
	raw_attach(&r, path);
	if (raw_run(&r, "rows 1", 20000) != COMP_DONE) { /* and so the broker has seen ready */
		_exit(7);
	}
	s_len = (uint64_t)lseek(r.fd[0], 0, SEEK_END);
	try_resize("W", r.fd[1], r.w_len);
	try_all("B", r.fd[2], r.b_len);
	try_reader("B", r.fd[2], r.b, r.b_len);
	if (is_others(r.fd[0])) {
		try_all("S", r.fd[0], s_len);
	}
	try_mprotect("S", mmap(NULL, s_len, PROT_READ, MAP_SHARED, r.fd[0], 0), s_len);
	try_broker(broker);
	found(raw_run(&r, "rows 1", 20000) == COMP_DONE, "and it is still served");
	try_own(path);
	_exit(0);
}

/*
 * Of the broker's own user, and so able to get a mapping of its B that can be written.  The broker
 * reads nothing back from there.
 */
static _Noreturn void scribbler(const char *path)
{
	char again[64];
	struct raw r;
	void *map;
	int fd;

	raw_attach(&r, path);
	snprintf(again, sizeof(again), "/proc/self/fd/%d", r.fd[2]);
	(void)fchmod(r.fd[2], 0600);
	fd = open(again, O_RDWR | O_CLOEXEC);
	map = fd < 0 ? MAP_FAILED : mmap(NULL, r.b_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		_exit(2);
	}
	for (unsigned i = 0; i < 100; i++) {
		(void)raw_exec(&r, "rows 10", 0, 0);
		raw_publish(&r);
		memset(map, (int)(i * 5), r.b_len);
	}
	_exit(ftruncate(fd, 0) < 0 ? 0 : 3);
}

static void test_scribbler(const char *path)
{
	struct raw honest;
	unsigned served = 0;
	pid_t pid;

	raw_attach(&honest, path);
	pid = spawn_fork();
	if (pid == 0) {
		scribbler(path);
	}
	for (unsigned i = 0; i < 50; i++) {
		served += raw_run(&honest, "rows 1", 20000) == COMP_DONE;
	}
	is_int(spawn_wait(pid, 60000, NULL), 0,
		"a worker of the broker's user writes into its own B, and cannot resize it");
	served += raw_run(&honest, "rows 1", 20000) == COMP_DONE;
	is_int(served, 51, "nobody else is harmed");
	raw_drop(&honest);
}

static void tell(void)
{
	for (unsigned i = 0; i < report->n; i++) {
		ok(report->f[i].pass, "%s", report->f[i].what);
	}
}

/* -- descriptors ------------------------------------------------------------------------------- */

static void test_extra_fds(struct stage *s)
{
	static const unsigned counts[] = {1, 2, 4, 32, 33, 64, 65, 253};
	int before = broker_fds(stage_broker(s));
	int fds[253];

	for (unsigned i = 0; i < array_size(fds); i++) {
		fds[i] = 0;
	}
	for (unsigned i = 0; i < array_size(counts); i++) {
		struct attach_hello h = raw_hello();
		struct attach_ready ready = {.magic = ATTACH_MAGIC};
		struct raw r = {.sock = raw_connect(stage_path(s))};

		if (!raw_send(r.sock, &h, sizeof(h), fds, counts[i]) ||
			raw_reply(r.sock, &r.reply, r.fd, 10000) <= 0 || r.reply.code != 0) {
			ok(false, "a hello with %u descriptors is answered", counts[i]);
			raw_drop(&r);
			continue;
		}
		raw_map(&r);
		(void)raw_send(r.sock, &ready, sizeof(ready), fds, counts[i]);
		for (unsigned k = 0; k < 20; k++) {
			(void)raw_send(r.sock, "hello", 5, fds, counts[i]);
		}
		is_int(raw_run(&r, stage_sql(s), 10000), COMP_DONE,
			"%u descriptors with every message: served all the same", counts[i]);
		ok(wait_until(broker_fds(stage_broker(s)) <= before + 3, 60000),
			"and none of them stays in the broker");
		raw_drop(&r);
	}
	ok(wait_until(broker_fds(stage_broker(s)) <= before, 60000), "nor afterwards");
}

int main(void)
{
	static const char *const settings[] = {
		"broker.allow_users=*", "broker.socket_mode=0666", NULL};
	struct broker_proc *b;
	struct stage *s;
	pid_t pid;

	report = mmap(
		NULL, sizeof(*report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED) {
		bail_out("mmap: %s", strerror(errno));
	}
	b = broker_start("fake:", settings);
	pid = spawn_fork();
	if (pid == 0) {
		hostile(broker_socket(b), broker_pid(b));
	}
	is_int(spawn_wait(pid, 60000, NULL), 0, "the hostile worker got through its list");
	tell();
	test_scribbler(broker_socket(b));
	if (getuid() != 0) {
		skip("the board against another user: needs root");
	}
	is_int(broker_free(&b), 0, "the broker ends well");
	s = stage_open(STAGE_FAKE, NULL);
	test_extra_fds(s);
	stage_close(&s);
	munmap(report, sizeof(*report));
	return done_testing();
}
