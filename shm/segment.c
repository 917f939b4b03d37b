/* SPDX-License-Identifier: MIT */
/* segment.c - see segment.h.  Sources: memfd_create(2), fcntl(2) F_ADD_SEALS. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "segment.h"

#include "atomics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

static void read_boot_id(uint8_t out[16])
{
	char text[64] = {0};
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	unsigned n = 0;

	memset(out, 0, 16);
	if (f == NULL) {
		return;
	}
	if (fgets(text, sizeof(text), f) != NULL) {
		for (const char *p = text; *p != '\0' && n < 32; p++) {
			unsigned v;

			if (*p >= '0' && *p <= '9') {
				v = (unsigned)(*p - '0');
			} else if (*p >= 'a' && *p <= 'f') {
				v = (unsigned)(*p - 'a' + 10);
			} else {
				continue;
			}
			out[n / 2] = (uint8_t)((out[n / 2] << 4) | v);
			n++;
		}
	}
	fclose(f);
}

/* Field 22 of /proc/PID/stat, or 0 if there is no such process or it is a zombie. */
static uint64_t start_ticks(int32_t pid)
{
	char path[64], buf[1024];
	unsigned long long ticks = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (f == NULL) {
		return 0;
	}
	if (fgets(buf, sizeof(buf), f) != NULL) {
		const char *p = strrchr(buf, ')'); /* the name may contain anything */
		char state = 'Z';

		if (p != NULL && sscanf(p + 1,
				" %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
				"%*s %*s %*s %llu",
				&state, &ticks) == 2 &&
			(state == 'Z' || state == 'X')) {
			ticks = 0;
		}
	}
	fclose(f);
	return ticks;
}

void segment_identity_self(struct segment_identity *id)
{
	struct timespec ts;

	memset(id, 0, sizeof(*id));
	read_boot_id(id->boot_id);
	clock_gettime(CLOCK_BOOTTIME, &ts);
	id->start_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	id->pid = (int32_t)getpid();
	id->start_ticks = start_ticks(id->pid);
}

bool segment_writer_alive(const struct shm_header *h)
{
	uint8_t boot[16];

	read_boot_id(boot);
	if (memcmp(boot, h->boot_id, sizeof(boot)) != 0) {
		return false;
	}
	return start_ticks(h->broker_pid) == h->broker_start_ticks && h->broker_start_ticks != 0;
}

static uint64_t align_up(uint64_t n, uint64_t a)
{
	return (n + a - 1) / a * a;
}

static uint64_t plan_sections(
	struct shm_header *h, const struct segment_plan *plan, unsigned nplan)
{
	uint64_t off = SHM_PAGE;

	for (unsigned i = 0; i < nplan; i++) {
		uint64_t len = plan[i].len != 0 ? plan[i].len
						: (uint64_t)plan[i].stride * plan[i].count;
		uint64_t align = len >= SHM_PAGE ? SHM_PAGE : SHM_LINE;

		off = align_up(off, align);
		h->section[i] = (struct shm_section){
			.type = plan[i].type,
			.version = plan[i].version,
			.off = off,
			.len = len,
			.stride = plan[i].stride,
			.count = plan[i].count,
		};
		off += len;
	}
	h->nsections = nplan;
	return align_up(off, SHM_PAGE);
}

void segment_header_init(struct shm_header *h, uint32_t role, uint64_t incarnation,
	const struct segment_identity *id, const struct segment_plan *plan, unsigned nplan)
{
	check(nplan <= SHM_MAX_SECTIONS);
	memset(h, 0, sizeof(*h));
	h->major = SHM_MAJOR;
	h->minor = SHM_MINOR;
	h->header_len = sizeof(*h);
	h->endian = SHM_ENDIAN;
	h->role = role;
	h->incarnation = incarnation;
	memcpy(h->boot_id, id->boot_id, sizeof(h->boot_id));
	h->broker_start_ns = id->start_ns;
	h->broker_start_ticks = id->start_ticks;
	h->broker_pid = id->pid;
	h->total_len = plan_sections(h, plan, nplan);
}

static int create_memfd(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) { /* kernels before 6.3 */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	}
	return fd < 0 ? -errno : fd;
}

int segment_header_write(int fd, const struct shm_header *h)
{
	uint64_t magic = SHM_MAGIC;
	ssize_t n = pwrite(fd, h, sizeof(*h), 0);

	if (n != (ssize_t)sizeof(*h)) {
		return n < 0 ? -errno : -EIO;
	}
	n = pwrite(fd, &magic, sizeof(magic), 0);
	return n == (ssize_t)sizeof(magic) ? 0 : n < 0 ? -errno : -EIO;
}

/* Seals after which nobody can resize it, nor take or add a seal. */
static int add_seals(int fd, uint32_t role)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

	if (role == SHM_ROLE_BOARD || role == SHM_ROLE_SLOW) {
		seals |= F_SEAL_FUTURE_WRITE;
	}
	return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}

/* *fd becomes one for reading, and nobody but our own user can open the memfd anew. */
static int make_read_only(int *fd)
{
	char path[32];
	int reader;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	if (reader < 0) {
		return -errno;
	}
	if (fchmod(reader, 0) < 0) {
		int err = -errno;

		close(reader);
		return err;
	}
	close(*fd);
	*fd = reader;
	return 0;
}

int segment_create(const char *name, uint32_t role, uint64_t incarnation,
	const struct segment_identity *id, const struct segment_plan *plan, unsigned nplan,
	void **map, uint64_t *len)
{
	struct shm_header h;
	int prot = role == SHM_ROLE_WORKER ? PROT_READ : PROT_READ | PROT_WRITE;
	int err, fd;
	void *m;

	segment_header_init(&h, role, incarnation, id, plan, nplan);

	fd = create_memfd(name);
	if (fd < 0) {
		return fd;
	}
	if (ftruncate(fd, (off_t)h.total_len) < 0) {
		err = -errno;
		goto err_fd;
	}
	err = segment_header_write(fd, &h);
	if (err < 0) {
		goto err_fd;
	}
	m = mmap(NULL, h.total_len, prot, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED) {
		err = -errno;
		goto err_fd;
	}
	err = add_seals(fd, role);
	if (err == 0 && role == SHM_ROLE_BROKER) {
		err = make_read_only(&fd);
	}
	if (err < 0) {
		goto err_map;
	}
	(void)madvise(m, h.total_len, MADV_DONTFORK); /* children of the broker get none of it */
	*map = m;
	*len = h.total_len;
	return fd;
err_map:
	munmap(m, h.total_len);
err_fd:
	close(fd);
	return err;
}

static int verify_header(const struct shm_header *h, uint32_t role, uint64_t len)
{
	/* pairs with the pwrite of the magic in segment_create */
	uint64_t seen = observe(&h->magic);

	validate(seen == SHM_MAGIC && h->endian == SHM_ENDIAN, -EPROTO);
	validate(h->major == SHM_MAJOR, -EPROTONOSUPPORT);
	validate(h->role == role && h->total_len == len, -EPROTO);
	validate(h->nsections <= SHM_MAX_SECTIONS, -EPROTO);
	for (uint32_t i = 0; i < h->nsections; i++) {
		const struct shm_section *s = &h->section[i];

		validate(s->off % 8 == 0 && span_ok(s->off, s->len, len), -EPROTO);
		validate((uint64_t)s->stride * s->count <= s->len, -EPROTO);
	}
	return 0;
}

int segment_attach(int fd, uint32_t role, bool writable, void **map, uint64_t *len)
{
	struct stat st;
	void *m;
	int err;

	if (fstat(fd, &st) < 0) {
		return -errno;
	}
	validate(st.st_size >= (off_t)SHM_PAGE, -EPROTO);
	m = mmap(NULL, (size_t)st.st_size, writable ? PROT_READ | PROT_WRITE : PROT_READ,
		MAP_SHARED, fd, 0);
	if (m == MAP_FAILED) {
		return -errno;
	}
	err = verify_header(m, role, (uint64_t)st.st_size);
	if (err < 0) {
		munmap(m, (size_t)st.st_size);
		return err;
	}
	*map = m;
	*len = (uint64_t)st.st_size;
	return 0;
}

const struct shm_section *segment_section(const void *map, uint32_t type)
{
	const struct shm_header *h = map;

	for (uint32_t i = 0; i < h->nsections && i < SHM_MAX_SECTIONS; i++) {
		if (h->section[i].type == type) {
			return &h->section[i];
		}
	}
	return NULL;
}

void segment_unmap(void *map, uint64_t len)
{
	if (map != NULL) {
		munmap(map, len);
	}
}
