/* SPDX-License-Identifier: MIT */
/* segfile.c - see segfile.h.  Sources: open(2) O_NOFOLLOW, rename(2), posix_fallocate(3). */
#include "segfile.h"

#include "atomics.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DATA_PREFIX "shmbroker-"
#define FRESH_NS UINT64_C(3000000000) /* a heartbeat this young is taken for life */

/* FNV-1a: spreads names, protects nothing. */
static uint64_t hash_text(const char *s)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *s != '\0'; s++) {
		h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
	}
	return h;
}

static char *format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *format(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}

static const char *last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

/* The absolute path of something whose directory exists; it need not exist itself. */
static int absolute(const char *path, char **out)
{
	const char *base = last_component(path);
	char *dir = strndup(path, (size_t)(base - path));
	char *real;

	if (dir == NULL) {
		return -ENOMEM;
	}
	real = realpath(base == path ? "." : dir, NULL);
	free(dir);
	if (real == NULL) {
		return -errno;
	}
	*out = format("%s/%s", real, base);
	free(real);
	return *out != NULL ? 0 : -ENOMEM;
}

static char *data_name(const char *dir, const char *abs)
{
	return format("%s/" DATA_PREFIX "%016llx-%.100s", dir, (unsigned long long)hash_text(abs),
		last_component(abs));
}

/* Target of a symbolic link, or NULL if it is none. */
static char *link_target(const char *path)
{
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n <= 0) {
		return NULL;
	}
	target[n] = '\0';
	return target[0] == '/' ? strdup(target) : NULL;
}

static int open_regular(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		return -errno;
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

int segfile_open(const char *path)
{
	struct stat link, data;
	char *target;
	int fd;

	if (lstat(path, &link) < 0) {
		return -errno;
	}
	if (!S_ISLNK(link.st_mode)) {
		return open_regular(path);
	}
	target = link_target(path);
	if (target == NULL) {
		return -ENOENT;
	}
	fd = open_regular(target);
	free(target);
	if (fd >= 0 && (fstat(fd, &data) < 0 || data.st_uid != link.st_uid)) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

static uint64_t pid_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) < 0 ? 0 : (uint64_t)st.st_ino;
}

static const struct segfile_place *place_of(const void *map)
{
	const struct shm_section *sec = segment_section(map, SHM_SEC_PLACE);

	if (sec == NULL || sec->count < 1 || sec->stride < sizeof(struct segfile_place)) {
		return NULL;
	}
	return segment_at(map, sec);
}

bool segfile_is_foreign(const void *map)
{
	const struct segfile_place *p = place_of(map);

	return p != NULL && p->pid_ns != pid_namespace();
}

/*
 * Who wrote the segment in fd: false if nobody that lives.  The process is looked up by its pid,
 * which says nothing about a broker in another pid namespace; `fresh` lets its heartbeat speak for
 * it.
 */
static bool writer_lives(int fd, uint32_t role, const struct segment_identity *self, bool fresh)
{
	const struct shm_header *h;
	struct timespec ts;
	uint64_t len, beat;
	bool alive;
	void *map;

	if (segment_attach(fd, role, false, &map, &len) < 0) {
		return false;
	}
	h = map;
	clock_gettime(CLOCK_BOOTTIME, &ts);
	beat = get(&h->heartbeat_ns);
	alive = segment_writer_alive(h) && h->broker_pid != self->pid;
	if (fresh && memcmp(h->boot_id, self->boot_id, sizeof(h->boot_id)) == 0) {
		alive |= (uint64_t)ts.tv_sec * 1000000000u - beat < FRESH_NS;
	}
	segment_unmap(map, len);
	return alive;
}

static bool path_in_use(const char *path, uint32_t role, const struct segment_identity *self)
{
	int fd = segfile_open(path);
	bool used;

	if (fd < 0) {
		return false;
	}
	used = writer_lives(fd, role, self, false);
	close(fd);
	return used;
}

/*
 * The name of the bytes is taken although our link does not lead there: two brokers see different
 * directories under one name (containers that share /dev/shm).
 */
static bool data_in_use(
	const char *path, const char *data, uint32_t role, const struct segment_identity *self)
{
	char *target = link_target(path);
	bool ours = target != NULL && strcmp(target, data) == 0;
	int fd = ours ? -ENOENT : open_regular(data);
	bool used;

	free(target);
	if (fd < 0) {
		return false;
	}
	used = writer_lives(fd, role, self, true);
	close(fd);
	return used;
}

/*
 * Give a new file its size, memory, owner, mode and header.  No one may open it for writing again:
 * the descriptor that is open suffices for the mapping, and a successor renames.
 */
static int fill_file(int fd, const struct shm_header *h, mode_t mode, gid_t gid)
{
	int err = posix_fallocate(fd, 0, (off_t)h->total_len);

	if (err != 0) {
		return -err;
	}
	if ((gid != (gid_t)-1 && fchown(fd, (uid_t)-1, gid) < 0) ||
		fchmod(fd, mode & ~(mode_t)0222) < 0) {
		return -errno;
	}
	return segment_header_write(fd, h);
}

/* Build `data`.new; returns a read-only descriptor. */
static int create_file(
	const char *data, const struct shm_header *h, mode_t mode, gid_t gid, void **map)
{
	char *tmp = format("%s.new", data);
	int fd = -1, ro = -1, err;

	if (tmp == NULL) {
		return -ENOMEM;
	}
	(void)unlink(tmp); /* of a broker that died in the middle; if it stays, open says so */
	fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		err = -errno;
		goto out;
	}
	err = fill_file(fd, h, mode, gid);
	if (err == 0) {
		ro = open(tmp, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		err = ro < 0 ? -errno : 0;
	}
	if (err == 0) {
		*map = mmap(NULL, h->total_len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		err = *map == MAP_FAILED ? -errno : 0;
	}
	if (err < 0) {
		(void)unlink(tmp);
		if (ro >= 0) {
			close(ro);
		}
	} else {
		(void)madvise(*map, h->total_len, MADV_DONTFORK);
	}
	close(fd);
out:
	free(tmp);
	return err < 0 ? err : ro;
}

/* True if the writer of the bytes in `data` is dead and the name that led to them does not any
 * more. */
static bool is_orphan(int fd, const char *data)
{
	char path[sizeof(((struct segfile_place *)0)->path)] = "", target[PATH_MAX] = "";
	const struct segfile_place *p;
	uint64_t len;
	void *map;

	if (segment_attach(fd, SHM_ROLE_BOARD, false, &map, &len) < 0 &&
		segment_attach(fd, SHM_ROLE_SLOW, false, &map, &len) < 0) {
		return false;
	}
	p = place_of(map);
	if (p != NULL && p->pid_ns == pid_namespace() && !segment_writer_alive(map)) {
		memcpy(path, p->path, sizeof(path) - 1);
	}
	segment_unmap(map, len);
	if (path[0] == '\0') {
		return false;
	}
	if (readlink(path, target, sizeof(target) - 1) < 0) {
		return errno == ENOENT || errno == ENOTDIR;
	}
	return strcmp(target, data) != 0;
}

void segfile_sweep(const char *dir)
{
	DIR *d = opendir(dir != NULL ? dir : SEGFILE_DIR);
	struct dirent *e;

	while (d != NULL && (e = readdir(d)) != NULL) {
		struct stat st;
		char *data;
		int fd;

		if (strncmp(e->d_name, DATA_PREFIX, strlen(DATA_PREFIX)) != 0) {
			continue;
		}
		data = format("%s/%s", dir != NULL ? dir : SEGFILE_DIR, e->d_name);
		fd = data != NULL ? open_regular(data) : -ENOMEM;
		if (fd >= 0) {
			if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && is_orphan(fd, data)) {
				(void)unlink(data);
			}
			close(fd);
		}
		free(data);
	}
	if (d != NULL) {
		closedir(d);
	}
}

static void segfile_finish(struct segfile *f)
{
	free(f->path);
	free(f->data);
	memset(f, 0, sizeof(*f));
}

static void fill_place(void *map, const char *path)
{
	struct segfile_place *p = segment_at(map, segment_section(map, SHM_SEC_PLACE));
	size_t len = strlen(path);

	p->pid_ns = pid_namespace();
	if (len < sizeof(p->path)) {
		memcpy(p->path, path, len + 1);
	}
}

int segfile_create(const char *path, const char *dir, mode_t mode, gid_t gid, uint32_t role,
	const struct segment_identity *id, const struct segment_plan *plan, unsigned nplan,
	struct segfile *out, void **map, uint64_t *len)
{
	struct segment_plan more[SHM_MAX_SECTIONS];
	struct shm_header h;
	int fd = -ENOMEM;

	check(nplan < SHM_MAX_SECTIONS);
	memset(out, 0, sizeof(*out));
	if (path_in_use(path, role, id)) {
		return -EEXIST;
	}
	memcpy(more, plan, nplan * sizeof(*plan));
	more[nplan] = (struct segment_plan){
		SHM_SEC_PLACE, SEGFILE_PLACE_VERSION, sizeof(struct segfile_place), 1, 0};
	segment_header_init(&h, role, 0, id, more, nplan + 1);
	*len = h.total_len;
	fd = absolute(path, &out->path);
	if (fd < 0) {
		return fd;
	}
	out->data = data_name(dir != NULL ? dir : SEGFILE_DIR, out->path);
	if (out->data != NULL && !data_in_use(out->path, out->data, role, id)) {
		fd = create_file(out->data, &h, mode, gid, map);
		if (fd >= 0 ||
			fd == -EPERM) { /* EPERM: the group; another directory does not help */
			goto out;
		}
	}
	free(out->data);
	out->data = strdup(out->path);
	fd = out->data == NULL ? -ENOMEM : create_file(out->data, &h, mode, gid, map);
out:
	if (fd < 0) {
		segfile_finish(out);
	} else {
		fill_place(*map, out->path);
	}
	return fd;
}

static int rename_new(const char *name)
{
	char *tmp = format("%s.new", name);
	int err = tmp == NULL ? -ENOMEM : rename(tmp, name) < 0 ? -errno : 0;

	if (err < 0 && tmp != NULL) {
		(void)unlink(tmp);
	}
	free(tmp);
	return err;
}

static int make_link(const struct segfile *f)
{
	char *tmp = format("%s.new", f->path);
	int err = 0;

	if (tmp == NULL) {
		return -ENOMEM;
	}
	(void)unlink(tmp);
	if (symlink(f->data, tmp) < 0) {
		err = -errno;
	}
	free(tmp);
	return err < 0 ? err : rename_new(f->path);
}

int segfile_publish(struct segfile *f)
{
	char *old = link_target(f->path);
	int err = rename_new(f->data);

	if (err == 0 && strcmp(f->data, f->path) != 0) {
		err = make_link(f);
		if (err < 0) {
			(void)unlink(f->data);
		}
	}
	if (err == 0 && old != NULL && strcmp(old, f->data) != 0 &&
		strncmp(last_component(old), DATA_PREFIX, strlen(DATA_PREFIX)) == 0) {
		(void)unlink(old); /* a predecessor that had its bytes elsewhere */
	}
	free(old);
	f->published = err == 0;
	return err;
}

void segfile_remove(struct segfile *f)
{
	if (f->path == NULL) {
		return;
	}
	if (f->published) {
		(void)unlink(f->path);
		(void)unlink(f->data);
	} else {
		char *tmp = format("%s.new", f->data);

		if (tmp != NULL) {
			(void)unlink(tmp);
			free(tmp);
		}
	}
	segfile_finish(f);
}
