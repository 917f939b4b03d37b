/* SPDX-License-Identifier: MIT */
/* test_doorbell.c - waiting and waking, also through a read-only mapping. */
#include "doorbell.h"
#include "atomics.h"
#include "tap.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)

static void test_wait_returns(void)
{
	_Atomic uint32_t word = 7;
	uint64_t t0 = doorbell_now(), dt;

	is_int(doorbell_wait(&word, 6, 10 * SECOND), 0,
		"a word that changed already does not wait");
	ok(doorbell_now() - t0 < 5 * SECOND, "not even a little");
	t0 = doorbell_now();
	is_int(doorbell_wait(&word, 7, 2000000), -ETIMEDOUT, "nobody rings: the wait is bounded");
	dt = doorbell_now() - t0;
	ok(dt >= 2000000 && dt < 5 * SECOND, "by the time given");
	doorbell_wake(&word);
	is_int((int64_t)get(&word), 8, "waking changes the word, so a late sleeper does not sleep");
}

struct sleeper {
	const _Atomic uint32_t *word;
	_Atomic uint32_t *flag; /* the sleeper announces itself, as in the protocol */
	_Atomic uint32_t turns;
};

#define TURNS 2000u

static void *sleep_turns(void *arg)
{
	struct sleeper *s = arg;
	uint32_t seen = 0;

	while (seen < TURNS) {
		put(s->flag, 1u);
		full_fence();
		if (observe(s->word) == seen) {
			(void)doorbell_wait(s->word, seen, SECOND);
		}
		put(s->flag, 0u);
		seen = observe(s->word);
		publish(&s->turns, seen);
	}
	return NULL;
}

/* Two mappings of one page, as the broker and a worker have them. */
static void test_between_mappings(void)
{
	_Atomic uint32_t flag = 0;
	struct sleeper s = {.flag = &flag};
	uint64_t t0 = doorbell_now();
	int fd = memfd_create("bell", MFD_CLOEXEC);
	_Atomic uint32_t *bell;
	pthread_t t;

	if (fd < 0 || ftruncate(fd, 4096) < 0) {
		bail_out("memfd");
	}
	bell = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	s.word = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (bell == MAP_FAILED || s.word == MAP_FAILED ||
		pthread_create(&t, NULL, sleep_turns, &s) != 0) {
		bail_out("mmap");
	}
	for (uint32_t i = 0; i < TURNS; i++) {
		while (observe(&s.turns) != i) {
			sched_yield();
		}
		doorbell_wake(bell);
	}
	pthread_join(t, NULL);
	is_int((int64_t)observe(&s.turns), TURNS, "%u wake-ups through a read-only mapping", TURNS);
	ok(doorbell_now() - t0 < 20 * SECOND, "none was lost: none waited for its time-out");
	munmap(bell, 4096);
	munmap((void *)(uintptr_t)s.word, 4096);
	close(fd);
}

static void test_eventfd(void)
{
	uint64_t full = UINT64_MAX - 1, v = 0;
	int efd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	doorbell_ring(efd);
	doorbell_ring(efd);
	ok(read(efd, &v, sizeof(v)) == sizeof(v) && v == 2, "ringing adds to the eventfd");
	if (write(efd, &full, sizeof(full)) != sizeof(full)) {
		bail_out("eventfd");
	}
	doorbell_ring(efd);
	ok(read(efd, &v, sizeof(v)) == sizeof(v) && v == full, "a full bell is left as it is");
	close(efd);
}

int main(void)
{
	test_wait_returns();
	test_between_mappings();
	test_eventfd();
	return done_testing();
}
