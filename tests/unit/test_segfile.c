/* SPDX-License-Identifier: MIT */
/* test_segfile.c - boards as files: found by name, kept after a crash, safe against squatters. */
#include "board.h"
#include "segfile.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct board_geometry geometry = {.npools = 1, .nworkers = 2, .nslow = 4};
static char dir[] = "/tmp/segfile-XXXXXX"; /* stands for the socket's directory */
static char mem[sizeof(dir) + 8]; /* stands for /dev/shm */
static char s_path[sizeof(dir) + 16], q_path[sizeof(dir) + 16];

static int create(struct board **b)
{
	struct board_place s = {s_path, mem, 0644, (gid_t)-1}, q = {q_path, mem, 0640, (gid_t)-1};
	struct segment_identity id;

	segment_identity_self(&id);
	return board_create(&id, &geometry, &s, &q, b);
}

/* Entries of a directory other than dot ones. */
static unsigned entries(const char *path)
{
	char cmd[128];
	unsigned n = 0;
	FILE *f;

	snprintf(cmd, sizeof(cmd), "ls -A %s | wc -l", path);
	f = popen(cmd, "r");
	if (f == NULL || fscanf(f, "%u", &n) != 1) {
		bail_out("popen");
	}
	pclose(f);
	return n;
}

/* Value of broker_attaches_total in the file at path; -1 if it cannot be read. */
static int64_t attaches(const char *path)
{
	int fd = segfile_open(path);
	const struct shm_section *sec;
	int64_t v = -1;
	uint64_t len;
	void *map;

	if (fd < 0) {
		return -1;
	}
	if (segment_attach(fd, SHM_ROLE_BOARD, false, &map, &len) == 0) {
		sec = segment_section(map, SHM_SEC_METRIC_VALUE);
		v = (int64_t)((uint64_t *)segment_at(map, sec))[METRIC_ATTACHES];
		segment_unmap(map, len);
	}
	close(fd);
	return v;
}

static void test_life(void)
{
	struct board *b = NULL;
	struct stat st;

	is_int(create(&b), 0, "create");
	board_count(b, METRIC_ATTACHES, 5);
	is_int(attaches(s_path), 5, "a reader finds it by name");
	ok(lstat(s_path, &st) == 0 && S_ISLNK(st.st_mode), "the name is a link into memory");
	ok(stat(s_path, &st) == 0 && (st.st_mode & 07777) == 0444,
		"the board has its mode, without write bits");
	ok(stat(q_path, &st) == 0 && (st.st_mode & 07777) == 0440, "the slow queries have theirs");
	ok(st.st_blocks * 512 >= st.st_size, "its memory is allocated");
	is_int(entries(mem), 2, "no temporary file is left");
	board_destroy(&b);
	is_int(entries(mem), 0, "a clean end removes the bytes");
	is_int(entries(dir), 1, "and the names");
	is_int(segfile_open(s_path), -ENOENT, "then there is nothing to open");
}

static void test_descriptor(void)
{
	struct board *b = NULL;

	is_int(create(&b), 0, "create");
	ok(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, board_fd(b), 0) == MAP_FAILED,
		"the descriptor handed out maps read-only");
	ok(ftruncate(board_fd(b), 0) < 0, "and cannot resize");
	ok(write(board_fd(b), "x", 1) < 0, "or write");
	if (geteuid() != 0) {
		ok(open(s_path, O_RDWR) < 0 && errno == EACCES,
			"not even the owner opens it for writing");
	} else {
		skip("root may write to everything");
	}
	board_destroy(&b);
}

/* A child is the broker; it writes 7 and waits to be killed. */
static pid_t start_broker(void)
{
	struct board *b = NULL;
	int ready[2];
	pid_t pid;
	char c;

	if (pipe(ready) < 0 || (pid = fork()) < 0) {
		bail_out("fork");
	}
	if (pid == 0) {
		if (create(&b) < 0) {
			_exit(1);
		}
		board_count(b, METRIC_ATTACHES, 7);
		(void)!write(ready[1], "r", 1);
		for (;;) {
			pause();
		}
	}
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1) {
		bail_out("the child could not create its board");
	}
	close(ready[0]);
	return pid;
}

static void end_broker(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_crash(void)
{
	struct board *b = NULL;
	pid_t pid = start_broker();

	is_int(create(&b), -EEXIST, "the board of a broker that lives is not replaced");
	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
	is_int(attaches(s_path), 7, "a stopped broker's board is read");
	is_int(create(&b), -EEXIST, "nor that of one that is stopped");
	end_broker(pid);
	is_int(attaches(s_path), 7, "so is a dead broker's");
	is_int(create(&b), 0, "which is replaced");
	is_int(attaches(s_path), 0, "by a fresh one");
	is_int(entries(mem), 2, "that leaves nothing of the old one");
	board_destroy(&b);
}

static void test_fallback(void)
{
	struct board *b = NULL;
	struct stat st;
	char keep[sizeof(mem)];
	pid_t pid;

	memcpy(keep, mem, sizeof(mem));
	pid = start_broker();
	end_broker(pid);
	snprintf(mem, sizeof(mem), "/nonexist");
	is_int(create(&b), 0, "without memory file system the file stands next to the socket");
	ok(lstat(s_path, &st) == 0 && S_ISREG(st.st_mode), "as a plain file");
	is_int(attaches(s_path), 0, "and is found by the same name");
	is_int(entries(keep), 0, "the bytes of the predecessor elsewhere are removed");
	board_destroy(&b);
	is_int(entries(dir), 1, "and so is the file at the end");
	memcpy(mem, keep, sizeof(mem));
}

/* Two directories that are called the same in two containers: one name in /dev/shm. */
static void test_name_taken(void)
{
	char other[sizeof(dir) + 32], other_q[sizeof(dir) + 32];
	struct board *b = NULL;
	struct stat st;
	pid_t pid = start_broker();

	snprintf(other, sizeof(other), "%s.kept", s_path);
	snprintf(other_q, sizeof(other_q), "%s.kept", q_path);
	if (rename(s_path, other) < 0 || rename(q_path, other_q) < 0) {
		bail_out("rename");
	}
	is_int(create(&b), 0, "a name in memory that another broker uses is left alone");
	ok(lstat(s_path, &st) == 0 && S_ISREG(st.st_mode), "the file goes next to the socket");
	is_int(attaches(other), 7, "the other one keeps its board");
	board_destroy(&b);
	end_broker(pid);
	if (rename(other, s_path) < 0 || rename(other_q, q_path) < 0) {
		bail_out("rename");
	}
	is_int(create(&b), 0, "its leftover can be replaced");
	board_destroy(&b);
	is_int(entries(mem), 0, "completely");
}

/* A broker that died, and whose socket's directory was removed afterwards. */
static void test_sweep(void)
{
	char other[sizeof(dir) + 32], other_q[sizeof(dir) + 32];
	struct board *b = NULL;
	pid_t pid = start_broker();

	unlink(s_path);
	unlink(q_path);
	snprintf(other, sizeof(other), "%s/c.sock.board", dir);
	snprintf(other_q, sizeof(other_q), "%s/c.sock.slow", dir);
	segfile_sweep(mem);
	is_int(entries(mem), 2, "the bytes of a broker that lives stay, link or no link");
	end_broker(pid);
	pid = start_broker();
	end_broker(pid);
	segfile_sweep(mem);
	is_int(entries(mem), 2, "so do those of a dead one that a link leads to");
	unlink(s_path);
	unlink(q_path);
	is_int(create(&b), 0, "the next broker");
	board_destroy(&b);
	pid = start_broker();
	end_broker(pid);
	if (rename(s_path, other) < 0 || rename(q_path, other_q) < 0) {
		bail_out("rename");
	}
	segfile_sweep(mem);
	is_int(entries(mem), 0, "what no link at its place leads to is removed");
	unlink(other);
	unlink(other_q);
}

static void test_strangers(void)
{
	char target[sizeof(mem) + 32];
	int fd;

	snprintf(target, sizeof(target), "%s/shmbroker-forged", mem);
	fd = open(target, O_RDWR | O_CREAT, 0644);
	if (fd < 0 || symlink(target, s_path) < 0) {
		bail_out("symlink");
	}
	close(fd);
	fd = segfile_open(s_path);
	ok(fd >= 0, "a link to its owner's file is followed");
	close(fd);
	if (geteuid() == 0 && chown(target, 1, (gid_t)-1) == 0) {
		is_int(segfile_open(s_path), -EPERM, "a link to another owner's file is not");
	} else {
		skip("needs root to give files away");
	}
	unlink(s_path);
	if (symlink("/dev/null", s_path) < 0) {
		bail_out("symlink");
	}
	is_int(segfile_open(s_path), -EPERM, "nor a link to something that is no file");
	unlink(s_path);
	unlink(target);
	if (symlink(target, s_path) < 0) {
		bail_out("symlink");
	}
	is_int(segfile_open(s_path), -ENOENT, "a link to nowhere is no board");
	unlink(s_path);
}

int main(void)
{
	if (mkdtemp(dir) == NULL) {
		bail_out("mkdtemp");
	}
	snprintf(mem, sizeof(mem), "%s/mem", dir);
	snprintf(s_path, sizeof(s_path), "%s/b.sock.board", dir);
	snprintf(q_path, sizeof(q_path), "%s/b.sock.slow", dir);
	if (mkdir(mem, 0700) < 0) {
		bail_out("mkdir");
	}
	test_life();
	test_descriptor();
	test_crash();
	test_fallback();
	test_name_taken();
	test_sweep();
	test_strangers();
	rmdir(mem);
	ok(rmdir(dir) == 0, "nothing is left");
	return done_testing();
}
