/* SPDX-License-Identifier: MIT */
/* test_segment.c - what a receiver of a segment can do, what it cannot, and which bytes are
 * refused. */
#include "segment.h"
#include "atomics.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static struct segment_identity self;
static const struct segment_plan plan[] = {
	{SHM_SEC_CONTROL, 1, 128, 1, 0},
	{SHM_SEC_RING, 1, 64, 8, 0},
	{SHM_SEC_ARENA, 3, 0, 0, 10000},
};

struct seg {
	int fd;
	void *map;
	uint64_t len;
};

static struct seg create(uint32_t role)
{
	struct seg s = {-1, NULL, 0};

	s.fd = segment_create("test", role, 42, &self, plan, array_size(plan), &s.map, &s.len);
	if (s.fd < 0) {
		bail_out("segment_create: %s", strerror(-s.fd));
	}
	return s;
}

static void destroy(struct seg *s)
{
	segment_unmap(s->map, s->len);
	close(s->fd);
}

static void test_header(void)
{
	struct seg s = create(SHM_ROLE_BROKER);
	const struct shm_header *h = s.map;
	const struct shm_section *sec;
	uint64_t end = SHM_PAGE;
	bool placed = true;

	ok(get(&h->magic) == SHM_MAGIC && h->major == SHM_MAJOR && h->minor == SHM_MINOR,
		"magic and version");
	is_int((int64_t)h->incarnation, 42, "incarnation");
	is_int(h->broker_pid, getpid(), "the broker's pid");
	is_int((int64_t)h->total_len, (int64_t)s.len, "length");
	for (unsigned i = 0; i < h->nsections; i++) {
		placed = placed && h->section[i].off >= end && h->section[i].off % SHM_LINE == 0;
		end = h->section[i].off + h->section[i].len;
	}
	ok(placed && end <= s.len, "sections are aligned and do not overlap");
	sec = segment_section(s.map, SHM_SEC_ARENA);
	ok(sec != NULL && sec->len == 10000 && sec->version == 3, "a section is found by its type");
	ok(segment_section(s.map, SHM_SEC_SLOW) == NULL, "and one that is not there is not");
	destroy(&s);
}

/* Through a descriptor that is opened anew. */
static bool can_write_anew(int fd)
{
	char path[64];
	void *map;
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	if (again < 0) {
		return false;
	}
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
	close(again);
	if (map == MAP_FAILED) {
		return false;
	}
	munmap(map, 4096);
	return true;
}

static void test_read_only_for_others(uint32_t role, const char *name)
{
	struct seg s = create(role);
	unsigned char *bytes = segment_at(s.map, segment_section(s.map, SHM_SEC_ARENA));
	void *map;
	uint64_t len;

	is_int(segment_attach(s.fd, role, false, &map, &len), 0, "%s: a reader attaches", name);
	bytes[0] = 77;
	is_int(((unsigned char *)segment_at(map, segment_section(map, SHM_SEC_ARENA)))[0], 77,
		"%s: and sees what the broker writes afterwards", name);
	ok(mprotect(map, len, PROT_READ | PROT_WRITE) < 0,
		"%s: its mapping cannot be made writable", name);
	segment_unmap(map, len);
	ok(segment_attach(s.fd, role, true, &map, &len) < 0, "%s: a writable mapping is refused",
		name);
	if (role == SHM_ROLE_BROKER && geteuid() == 0) {
		skip("the mode of a file is nothing to root");
	} else {
		ok(!can_write_anew(s.fd), "%s: also after opening it again through /proc", name);
	}
	ok(write(s.fd, "x", 1) < 0, "%s: write is refused", name);
	ok(ftruncate(s.fd, 0) < 0, "%s: shrinking is refused", name);
	ok(ftruncate(s.fd, 1 << 20) < 0, "%s: growing is refused", name);
	ok(fcntl(s.fd, F_ADD_SEALS, F_SEAL_WRITE) < 0, "%s: so is another seal", name);
	destroy(&s);
}

static int64_t resident(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? (int64_t)st.st_blocks * 512 : -1;
}

/* The broker takes pages of B away, others see zeros then; and it may use them again. */
static void test_pages_go_back(void)
{
	struct seg s = create(SHM_ROLE_BROKER), board = create(SHM_ROLE_BOARD);
	const struct shm_section *arena = segment_section(s.map, SHM_SEC_ARENA);
	unsigned char *bytes = segment_at(s.map, arena);
	int64_t before;
	void *map;
	uint64_t len;

	if (segment_attach(s.fd, SHM_ROLE_BROKER, false, &map, &len) < 0) {
		bail_out("segment_attach");
	}
	memset(bytes, 1, arena->len);
	before = resident(s.fd);
	is_int(madvise(bytes + 4096, 4096, MADV_REMOVE), 0, "B: the broker gives a page back");
	is_int(resident(s.fd), before - 4096, "and it is not in memory any more");
	bytes = segment_at(map, segment_section(map, SHM_SEC_ARENA));
	ok(bytes[4095] == 1 && bytes[4096] == 0 && bytes[8191] == 0 && bytes[8192] == 1,
		"readers see zeros there, and there only");
	((unsigned char *)segment_at(s.map, segment_section(s.map, SHM_SEC_ARENA)))[5000] = 9;
	is_int(bytes[5000], 9, "and what is written there next");
	ok(madvise(board.map, 4096, MADV_REMOVE) < 0,
		"of a sealed segment nobody gets a page back");
	segment_unmap(map, len);
	destroy(&s);
	destroy(&board);
}

static void test_worker_segment(void)
{
	struct seg s = create(SHM_ROLE_WORKER);
	void *map;
	uint64_t len;
	struct shm_header *h;

	is_int(segment_attach(s.fd, SHM_ROLE_WORKER, true, &map, &len), 0, "the worker maps W");
	h = map;
	h->incarnation = 43;
	is_int((int64_t)((struct shm_header *)s.map)->incarnation, 43, "and the broker reads it");
	ok(ftruncate(s.fd, 0) < 0 && errno == EPERM, "it cannot be cut short under the broker");
	ok(ftruncate(s.fd, 1 << 20) < 0 && errno == EPERM, "nor made longer");
	ok(fcntl(s.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0 && errno == EPERM,
		"nor sealed against its worker");
	is_int(madvise(map, len, MADV_REMOVE), 0, "its worker may give its pages back");
	is_int((int64_t)((struct shm_header *)s.map)->incarnation, 0, "the broker sees zeros then");
	segment_unmap(map, len);
	destroy(&s);
}

/* Each case spoils one field of a good header. */
static void spoil_magic(struct shm_header *h)
{
	put(&h->magic, SHM_MAGIC + 1);
}
static void spoil_endian(struct shm_header *h)
{
	h->endian = 0x04030201u;
}
static void spoil_role(struct shm_header *h)
{
	h->role = SHM_ROLE_BOARD;
}
static void spoil_length(struct shm_header *h)
{
	h->total_len += 8;
}
static void spoil_count(struct shm_header *h)
{
	h->nsections = SHM_MAX_SECTIONS + 1;
}
static void spoil_offset(struct shm_header *h)
{
	h->section[1].off = UINT64_MAX - 7;
}
static void spoil_alignment(struct shm_header *h)
{
	h->section[1].off += 4;
}
static void spoil_section_length(struct shm_header *h)
{
	h->section[2].len = h->total_len;
}
static void spoil_stride(struct shm_header *h)
{
	h->section[1].stride = UINT32_MAX;
	h->section[1].count = UINT32_MAX;
}
static void spoil_major(struct shm_header *h)
{
	h->major++;
}
static void newer_minor(struct shm_header *h)
{
	h->minor++;
}

static void test_bad_headers(void)
{
	static const struct {
		void (*spoil)(struct shm_header *);
		int err;
		const char *what;
	} cases[] = {
		{spoil_magic, -EPROTO, "another magic"},
		{spoil_endian, -EPROTO, "the other byte order"},
		{spoil_role, -EPROTO, "another role"},
		{spoil_length, -EPROTO, "a length that is not the file's"},
		{spoil_count, -EPROTO, "too many sections"},
		{spoil_offset, -EPROTO, "a section that starts beyond the end"},
		{spoil_alignment, -EPROTO, "a section that is not aligned"},
		{spoil_section_length, -EPROTO, "a section that ends beyond the end"},
		{spoil_stride, -EPROTO, "more records than the section holds"},
		{spoil_major, -EPROTONOSUPPORT, "another major version"},
		{newer_minor, 0, "a newer minor version is welcome"},
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		struct seg s = create(SHM_ROLE_WORKER);
		void *w, *map = NULL;
		uint64_t len, wlen;

		if (segment_attach(s.fd, SHM_ROLE_WORKER, true, &w, &wlen) < 0) {
			bail_out("segment_attach");
		}
		cases[i].spoil(w);
		is_int(segment_attach(s.fd, SHM_ROLE_WORKER, false, &map, &len), cases[i].err, "%s",
			cases[i].what);
		if (cases[i].err == 0) {
			segment_unmap(map, len);
		}
		segment_unmap(w, wlen);
		destroy(&s);
	}
}

static void test_bad_files(void)
{
	int fd = memfd_create("short", MFD_CLOEXEC);
	int pipes[2];
	void *map;
	uint64_t len;

	is_int(segment_attach(fd, SHM_ROLE_BOARD, false, &map, &len), -EPROTO, "an empty file");
	if (ftruncate(fd, 8192) < 0) {
		bail_out("ftruncate");
	}
	is_int(segment_attach(fd, SHM_ROLE_BOARD, false, &map, &len), -EPROTO, "a file of zeros");
	close(fd);
	is_int(segment_attach(fd, SHM_ROLE_BOARD, false, &map, &len), -EBADF, "no file at all");
	if (pipe(pipes) < 0) {
		bail_out("pipe");
	}
	ok(segment_attach(pipes[0], SHM_ROLE_BOARD, false, &map, &len) < 0, "a pipe");
	close(pipes[0]);
	close(pipes[1]);
}

static void test_liveness(void)
{
	struct shm_header h;
	siginfo_t info;
	int status, go[2];
	pid_t pid;

	segment_header_init(&h, SHM_ROLE_BOARD, 0, &self, plan, 1);
	ok(segment_writer_alive(&h), "this process lives");
	h.broker_start_ticks++;
	ok(!segment_writer_alive(&h), "another process with the same pid is not it");
	h.broker_start_ticks--;
	h.boot_id[3] ^= 1;
	ok(!segment_writer_alive(&h), "nor is one of another boot");
	if (pipe(go) < 0 || (pid = fork()) < 0) {
		bail_out("fork");
	}
	if (pid == 0) {
		struct segment_identity id;

		segment_identity_self(&id);
		_exit(write(go[1], &id, sizeof(id)) == sizeof(id) ? pause() : 1);
	}
	if (read(go[0], &self, sizeof(self)) != sizeof(self)) {
		bail_out("read");
	}
	segment_header_init(&h, SHM_ROLE_BOARD, 0, &self, plan, 1);
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	ok(segment_writer_alive(&h), "a stopped process lives");
	kill(pid, SIGKILL);
	waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
	ok(!segment_writer_alive(&h), "a zombie does not");
	waitpid(pid, &status, 0);
	ok(!segment_writer_alive(&h), "nor a process that is gone");
	segment_identity_self(&self);
	close(go[0]);
	close(go[1]);
}

int main(void)
{
	segment_identity_self(&self);
	test_header();
	test_read_only_for_others(SHM_ROLE_BOARD, "S");
	test_read_only_for_others(SHM_ROLE_BROKER, "B");
	test_pages_go_back();
	test_worker_segment();
	test_bad_headers();
	test_bad_files();
	test_liveness();
	return done_testing();
}
