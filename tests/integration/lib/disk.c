/* SPDX-License-Identifier: MIT */
/* disk.c - see disk.h. */
#include "disk.h"

#include "scratch.h"
#include "spawn.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DISKS_MAX 8

static char *made[DISKS_MAX];
static pid_t owner;

/* Before the scratch directory is removed, which a mount in it would prevent. */
static void at_exit(void)
{
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		if (made[i] != NULL && getpid() == owner) {
			(void)umount2(made[i], MNT_DETACH);
		}
	}
}

/* Once per test. */
static bool own_namespace(void)
{
	if (owner != 0) {
		return true;
	}
	(void)scratch_dir(); /* its guard stays outside, and at_exit runs before its own */
	if (getuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
		mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		return false;
	}
	owner = getpid();
	atexit(at_exit);
	return true;
}

static char **place_of(const char *dir)
{
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		if (dir == NULL ? made[i] == NULL : made[i] != NULL && strcmp(made[i], dir) == 0) {
			return &made[i];
		}
	}
	bail_out("%s", dir == NULL ? "too many disks" : "no such disk");
}

bool disk_make(const char *dir, unsigned mib)
{
	char options[80];
	uid_t uid;
	gid_t gid;

	if (!own_namespace()) {
		return false;
	}
	spawn_user(&uid, &gid);
	snprintf(options, sizeof(options), "size=%um,mode=0700,uid=%u,gid=%u", mib, uid, gid);
	if ((mkdir(dir, 0700) < 0 && errno != EEXIST) ||
		mount("disk", dir, "tmpfs", 0, options) < 0) {
		diag("no disk: %s", strerror(errno));
		return false;
	}
	*place_of(NULL) = scratch_format("%s", dir);
	return true;
}

void disk_remove(const char *dir)
{
	char **place = place_of(dir);

	if (umount2(dir, MNT_DETACH) < 0) {
		bail_out("umount %s: %s", dir, strerror(errno));
	}
	free(*place);
	*place = NULL;
}

static char *filler(const char *dir)
{
	return scratch_format("%s/filler", dir);
}

/* fallocate() takes nothing if it cannot have all, so ask for less and less. */
void disk_fill(const char *dir)
{
	char *path = filler(dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct statvfs st;
	struct stat was;

	if (fd < 0) {
		bail_out("%s: %s", path, strerror(errno));
	}
	for (off_t size = 1 << 30; size >= 4096; size /= 2) {
		while (fstat(fd, &was) == 0 && fallocate(fd, 0, was.st_size, size) == 0) {
		}
	}
	close(fd);
	if (statvfs(dir, &st) < 0 || st.f_bfree > 64) {
		bail_out("%s cannot be filled", dir);
	}
	free(path);
}

void disk_free(const char *dir)
{
	char *path = filler(dir);

	if (unlink(path) < 0) {
		bail_out("%s: %s", path, strerror(errno));
	}
	free(path);
}
