/* SPDX-License-Identifier: MIT */
/*
 * test_hostile_attach.c - the handshake abused: malformed, doubled, never finished, in floods, with
 * foreign descriptors, from processes that die on the way; by path and by the inherited socket.
 */
#include "atomics.h"
#include "brokerproc.h"
#include "raw.h"
#include "segment.h"
#include "shmbroker.h"
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

#define HANDSHAKE_MS 5000

/* -- malformed messages ------------------------------------------------------------------------ */

/* Send a first message; the code of the refusal, 0 if there was none, and the socket is closed. */
static uint32_t refusal(struct stage *s, const void *msg, size_t len)
{
	struct attach_reply r;
	int sock = raw_connect(stage_path(s));
	int fds[4];
	uint32_t code = 0;

	if (raw_send(sock, msg, len, NULL, 0) && raw_reply(sock, &r, fds, 10000) == sizeof(r)) {
		code = r.code;
		raw_close_fds(fds, 4);
	}
	ok(raw_closed(sock, 10000), "closed");
	close(sock);
	return code;
}

static void test_hellos(struct stage *s)
{
	struct attach_hello h = raw_hello();
	static char big[65536];

	is_int(refusal(s, "x", 1), -BROKER_E_PROTOCOL, "one byte is refused");
	is_int(refusal(s, &h, sizeof(h) - 1), -BROKER_E_PROTOCOL, "a byte too few");
	memcpy(big, &h, sizeof(h));
	is_int(refusal(s, big, sizeof(h) + 1), -BROKER_E_PROTOCOL, "a byte too many");
	is_int(refusal(s, big, sizeof(big)), -BROKER_E_PROTOCOL, "64 KiB");
	h.magic++;
	is_int(refusal(s, &h, sizeof(h)), -BROKER_E_PROTOCOL, "wrong magic");
	h = raw_hello();
	h.major++;
	is_int(refusal(s, &h, sizeof(h)), -BROKER_E_VERSION, "another version");
	for (uint32_t kind = 0; kind < 5; kind++) {
		h = raw_hello();
		h.kind = kind == 4 ? UINT32_MAX : kind;
		if (kind != ATTACH_WORKER) {
			is_int(refusal(s, &h, sizeof(h)), -BROKER_E_PROTOCOL, "kind %u", h.kind);
		}
	}
	h = raw_hello();
	memset(h.pool, 'x', sizeof(h.pool));
	is_int(refusal(s, &h, sizeof(h)), -BROKER_E_REFUSED, "a pool without end, not known");
	is_int(refusal(s, "", 0), 0, "an empty message is not worth an answer");
}

/* Names without end and of control characters, arenas of any size: served. */
static void test_odd_hellos(struct stage *s)
{
	static const uint32_t kib[] = {1, 63, 65, 1025, 1u << 31, UINT32_MAX};

	for (unsigned i = 0; i < array_size(kib); i++) {
		struct attach_hello h = raw_hello();
		struct raw r = {.sock = raw_connect(stage_path(s))};

		memset(h.name, i % 2 == 0 ? '\n' : 0xff, sizeof(h.name));
		h.result_kib = kib[i];
		h.minor = UINT16_MAX;
		if (!raw_send(r.sock, &h, sizeof(h), NULL, 0) ||
			raw_reply(r.sock, &r.reply, r.fd, 10000) <= 0 || r.reply.code != 0) {
			ok(false, "%u KiB are answered", kib[i]);
			raw_drop(&r);
			continue;
		}
		raw_map(&r);
		raw_ready(&r);
		ok(raw_run(&r, stage_sql(s), 10000) == COMP_DONE && r.b_len < 2 << 20,
			"a wish for %u KiB is served within reason", kib[i]);
		raw_drop(&r);
	}
}

/* hello, and then not ready. */
static void test_second_messages(struct stage *s)
{
	struct attach_hello h = raw_hello();
	struct attach_ready bad = {.magic = ATTACH_MAGIC + 1}, good = {.magic = ATTACH_MAGIC};
	const struct {
		const char *what;
		const void *msg;
		size_t len;
	} m[] = {
		{"another hello", &h, sizeof(h)},
		{"ready with a wrong magic", &bad, sizeof(bad)},
		{"half of ready", &good, sizeof(good) / 2},
		{"an empty message", "", 0},
	};

	for (unsigned i = 0; i < array_size(m); i++) {
		struct raw r = {.sock = raw_connect(stage_path(s))};

		if (!raw_send(r.sock, &h, sizeof(h), NULL, 0) ||
			raw_reply(r.sock, &r.reply, r.fd, 10000) <= 0) {
			bail_out("no reply");
		}
		ok(raw_send(r.sock, m[i].msg, m[i].len, NULL, 0) && raw_closed(r.sock, 10000),
			"instead of ready %s: closed", m[i].what);
		raw_drop(&r);
	}
}

/* Messages on the socket of a worker that is attached already. */
static void test_chatter(struct stage *s)
{
	struct attach_hello h = raw_hello();
	struct attach_ready ready = {.magic = ATTACH_MAGIC};
	struct raw r;

	raw_attach(&r, stage_path(s));
	for (unsigned i = 0; i < 1000; i++) {
		(void)raw_send(r.sock, &h, sizeof(h), NULL, 0);
		(void)raw_send(r.sock, &ready, sizeof(ready), NULL, 0);
	}
	is_int(raw_run(&r, stage_sql(s), 10000), COMP_DONE,
		"2000 messages later it is still served");
	ok(raw_send(r.sock, "", 0, NULL, 0), "an empty one is sent");
	ok(raw_closed(r.sock, 10000), "which ends it");
	raw_drop(&r);
}

/* -- floods ------------------------------------------------------------------------------------ */

/* Milliseconds a well-behaved attach takes, -1 if it fails. */
static int64_t good_attach(const char *path)
{
	struct broker_options o = {.path = path, .timeout_ms = 60000};
	int64_t start = wait_clock_ms();
	struct broker *b;
	int rc = broker_attach(&o, &b);

	if (rc < 0) {
		diag("attach: %s", broker_error(NULL)->message);
		return -1;
	}
	broker_detach(&b);
	return wait_clock_ms() - start;
}

/* Connections that say nothing, and others that stop after hello. */
static void test_half_open(struct stage *s)
{
	struct attach_hello h = raw_hello();
	int fds = broker_fds(stage_broker(s));
	static int sock[1000];

	for (unsigned i = 0; i < array_size(sock); i++) {
		sock[i] = raw_connect(stage_path(s));
		if (i >= array_size(sock) / 2) {
			(void)raw_send(sock[i], &h, sizeof(h), NULL, 0);
		}
		if (i == 400 || i == 999) {
			int64_t ms = good_attach(stage_path(s));

			ok(ms >= 0 && ms < (HANDSHAKE_MS - 500) * stage_slowness(),
				"with %u half-open attaches a worker attaches in no time (%lld ms)",
				i, (long long)ms);
		}
	}
	ok(wait_until(broker_fds(stage_broker(s)) <= fds + 10, HANDSHAKE_MS * 6),
		"and the broker closes them by itself");
	raw_close_fds(sock, array_size(sock));
}

static void test_connect_flood(struct stage *s)
{
	unsigned n = stage_quick() ? 2000 : 20000;
	int64_t ms;

	for (unsigned i = 0; i < n; i++) {
		int sock = raw_connect(stage_path(s));

		if (i % 3 == 0) {
			(void)raw_send(sock, "nonsense", 8, NULL, 0);
		}
		close(sock);
	}
	ms = good_attach(stage_path(s));
	ok(ms >= 0 && ms < (HANDSHAKE_MS - 500) * stage_slowness(),
		"after %u connects a worker attaches (%lld ms)", n, (long long)ms);
}

/* Being evicted costs a worker its place only until it goes away. */
static void test_evictions(struct stage *s)
{
	unsigned n = stage_quick() ? 300 : 1500;
	int fds = broker_fds(stage_broker(s));

	for (unsigned i = 0; i < n; i++) {
		struct raw r;

		raw_attach(&r, stage_path(s));
		raw_op(&r, 99, 0);
		raw_publish(&r);
		(void)raw_evicted(&r, 10000);
		raw_drop(&r);
	}
	ok(wait_until(broker_fds(stage_broker(s)) <= fds, 10000),
		"one process evicted %u times has left nothing", n);
	ok(good_attach(stage_path(s)) >= 0, "and others attach");
}

static int64_t cpu_ms(pid_t pid)
{
	char path[64];
	long long user = 0, sys = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (f != NULL) {
		if (fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lld %lld",
			    &user, &sys) != 2) {
			user = sys = 0;
		}
		fclose(f);
	}
	return (user + sys) * 1000 / sysconf(_SC_CLK_TCK);
}

/* Without descriptors the broker waits, it does not spin. */
static void test_no_descriptors(struct stage *s)
{
	pid_t pid = broker_pid(stage_broker(s));
	struct rlimit old, low;
	int sock[40];
	int64_t cpu, until;

	stage_pause(s);
	(void)prlimit(pid, RLIMIT_NOFILE, NULL, &old);
	low = old;
	low.rlim_cur = (rlim_t)broker_fds(stage_broker(s)) + 10;
	if (prlimit(pid, RLIMIT_NOFILE, &low, NULL) < 0) {
		skip("prlimit: %s", strerror(errno));
		stage_resume(s);
		return;
	}
	for (unsigned i = 0; i < array_size(sock); i++) {
		sock[i] = raw_connect(stage_path(s));
	}
	(void)wait_until(broker_log_count(stage_broker(s), "out of file descriptors") > 0, 60000);
	cpu = cpu_ms(pid);
	until = wait_clock_ms() + 1000;
	(void)wait_until(wait_clock_ms() >= until, 2000);
	cpu = cpu_ms(pid) - cpu;
	ok(cpu < 300, "out of descriptors the broker waits (%lld ms of processor in 1000)",
		(long long)cpu);
	ok(broker_log_count(stage_broker(s), "out of file descriptors") < 30,
		"and says so now and then");
	(void)prlimit(pid, RLIMIT_NOFILE, &old, NULL);
	for (unsigned i = 0; i < array_size(sock); i++) {
		close(sock[i]);
	}
	ok(good_attach(stage_path(s)) >= 0, "with descriptors again, workers attach again");
	stage_resume(s);
}

/* -- death on the way -------------------------------------------------------------------------- */

/*
 * A process connects, says hello and dies; its socket lives on in its parent.  The broker must see
 * the death, and the socket's silence later, without mixing them up.
 */
static void test_dies_on_the_way(struct stage *s)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct attach_hello h = raw_hello();
	struct attach_ready ready = {.magic = ATTACH_MAGIC};
	int sock[6];

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", stage_path(s));
	for (unsigned i = 0; i < array_size(sock); i++) {
		pid_t pid;

		sock[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		pid = spawn_fork();
		if (pid == 0) {
			struct attach_reply r;
			int fds[4];

			if (connect(sock[i], (struct sockaddr *)&to, sizeof(to)) < 0 ||
				!raw_send(sock[i], &h, sizeof(h), NULL, 0)) {
				_exit(1);
			}
			if (i % 2 == 0) {
				_exit(raw_reply(sock[i], &r, fds, 10000) > 0 ? 0 : 2);
			}
			_exit(0);
		}
		is_int(spawn_wait(pid, 60000, NULL), 0, "a process attaches halfway and dies");
	}
	for (unsigned i = 0; i < 3; i++) {
		(void)raw_send(sock[i], &ready, sizeof(ready), NULL, 0);
	}
	for (unsigned i = 0; i < array_size(sock); i++) {
		ok(raw_closed(sock[i], HANDSHAKE_MS * 6), "its socket is closed by the broker");
	}
	for (unsigned i = 0; i < 20; i++) {
		(void)good_attach(stage_path(s));
	}
	for (unsigned i = 0; i < array_size(sock); i++) {
		close(sock[i]);
	}
}

/* Two that never say ready, to the end of their time; meanwhile others die. */
static void test_never_ready(struct stage *s)
{
	struct attach_hello h = raw_hello();
	struct raw a = {.sock = raw_connect(stage_path(s))},
		   b = {.sock = raw_connect(stage_path(s))};

	(void)raw_send(a.sock, &h, sizeof(h), NULL, 0);
	(void)raw_reply(a.sock, &a.reply, a.fd, 10000);
	raw_map(&a);
	raw_exec(&a, stage_sql(s), 0, 0);
	raw_publish(&a);
	test_dies_on_the_way(s);
	ok(raw_closed(a.sock, HANDSHAKE_MS * 6) && raw_closed(b.sock, HANDSHAKE_MS * 6),
		"who never gets ready is dropped");
	is_int((int64_t)get(&a.broker->sub_head), 0, "and nothing of its ring was looked at");
	raw_drop(&a);
	raw_drop(&b);
}

/* -- the inherited socket, in a process that `broker run` starts ------------------------------- */

static int step;

static void must(bool cond, const char *what)
{
	step++;
	if (!cond) {
		fprintf(stderr, "step %d failed: %s (%s)\n", step, what, strerror(errno));
		_exit(step);
	}
}

/* Send a hello with one end of a pair; returns the other. */
static int inherited_hello(int fd, const void *msg, size_t len, int *passed)
{
	int pair[2];

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	must(raw_send(fd, msg, len, &pair[1], 1), "hello on the inherited socket");
	if (passed != NULL) {
		*passed = pair[1];
	} else {
		close(pair[1]);
	}
	return pair[0];
}

static void still_good(const char *after)
{
	struct broker *b;
	struct broker_result *r;

	must(broker_attach(NULL, &b) == 0, after);
	must(broker_exec(b, "rows 1", 0, NULL, NULL, &r) == 0, after);
	broker_result_free(&r);
	broker_detach(&b);
}

static void pass_odd_files(int fd, const struct attach_hello *h)
{
	int pipes[2], files[3];

	must(pipe2(pipes, O_CLOEXEC) == 0, "pipe");
	files[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	files[1] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	files[2] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	for (unsigned i = 0; i < 3; i++) {
		must(raw_send(fd, h, sizeof(*h), &files[i], 1), "a file that is no socket pair");
	}
	must(raw_send(fd, h, sizeof(*h), &pipes[0], 1), "a pipe");
	must(raw_send(fd, h, sizeof(*h), &fd, 1), "the inherited socket itself");
	must(raw_send(fd, h, sizeof(*h), files, 3), "three files");
	must(raw_send(fd, h, sizeof(*h), NULL, 0), "none");
	raw_close_fds(files, 3);
	raw_close_fds(pipes, 2);
	still_good("after odd descriptors");
}

/* The broker's own connection comes back to it. */
static void pass_own_connection(int fd, const struct attach_hello *h)
{
	int sock = raw_connect(getenv("BROKER_SOCKET"));

	must(raw_send(fd, h, sizeof(*h), &sock, 1), "a connection to the broker itself");
	still_good("after a connection to the broker itself");
	close(sock);
	still_good("after that was closed");
}

static void send_rubbish(int fd, const struct attach_hello *h)
{
	struct attach_hello bad = *h;
	int sock[64];

	must(raw_send(fd, "", 0, NULL, 0), "an empty message");
	still_good("after an empty message");
	must(raw_send(fd, "rubbish", 7, NULL, 0), "rubbish");
	bad.kind = 77;
	for (unsigned i = 0; i < array_size(sock); i++) {
		sock[i] = inherited_hello(
			fd, i % 2 ? (const void *)&bad : "", i % 2 ? sizeof(bad) : 0, NULL);
	}
	still_good("after rubbish");
	raw_close_fds(sock, array_size(sock));
}

/* Our end and the broker's are one pair that we made: what we set on its end holds there, too. */
static void set_options_on_its_end(int fd, const struct attach_hello *h)
{
	struct raw r = {.fd = {-1, -1, -1, -1}};
	int its, on = 1;

	r.sock = inherited_hello(fd, h, sizeof(*h), &its);
	if (setsockopt(its, SOL_SOCKET, SO_PASSPIDFD, &on, sizeof(on)) < 0) {
		close(its);
		close(r.sock);
		return; /* before Linux 6.5 */
	}
	must(raw_reply(r.sock, &r.reply, r.fd, 10000) > 0 && r.reply.code == 0, "reply");
	raw_map(&r);
	raw_ready(&r);
	for (unsigned i = 0; i < 2000; i++) {
		must(raw_send(r.sock, "x", 1, NULL, 0), "a message with a pidfd");
	}
	must(raw_run(&r, "rows 1", 20000) == COMP_DONE, "served");
	must(fcntl(its, F_SETFL, 0) == 0, "blocking");
	must(raw_run(&r, "rows 1", 20000) == COMP_DONE, "served with a blocking socket");
	close(its);
	raw_drop(&r);
}

/* A process that makes the pair and dies; another goes on with it. */
static void hand_over(int fd, const struct attach_hello *h)
{
	struct raw r = {.fd = {-1, -1, -1, -1}};
	int pair[2], status;
	pid_t pid;

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	pid = fork();
	if (pid == 0) {
		_exit(raw_send(fd, h, sizeof(*h), &pair[1], 1) ? 0 : 1);
	}
	must(waitpid(pid, &status, 0) == pid && status == 0, "a process says hello for another");
	close(pair[1]);
	r.sock = pair[0];
	must(raw_reply(r.sock, &r.reply, r.fd, 10000) > 0 && r.reply.code == 0,
		"reply to the other");
	raw_map(&r);
	raw_ready(&r);
	must(raw_run(&r, "rows 1", 20000) == COMP_DONE, "the maker of the pair is served");
	raw_drop(&r);
}

static _Noreturn void supervised(void)
{
	const char *env = getenv("BROKER_FD");
	struct attach_hello h = raw_hello();
	int fd;

	must(env != NULL && getenv("BROKER_SOCKET") != NULL, "BROKER_FD and BROKER_SOCKET are set");
	fd = atoi(env);
	still_good("at first");
	pass_odd_files(fd, &h);
	send_rubbish(fd, &h);
	pass_own_connection(fd, &h);
	set_options_on_its_end(fd, &h);
	hand_over(fd, &h);
	still_good("at last");
	_exit(0);
}

static void test_inherited(const char *self)
{
	const char *const command[] = {self, "supervised", NULL};
	struct broker_proc *b = broker_start_run("fake:", NULL, command);
	int status = broker_wait(b, 60000 * stage_slowness());

	ok(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		"the inherited socket bears abuse (%s %d)", WIFEXITED(status) ? "step" : "status",
		WIFEXITED(status) ? WEXITSTATUS(status) : status);
	broker_free(&b);
}

int main(int argc, char **argv)
{
	static const char *const settings[] = {"broker.max_workers=1024", NULL};
	struct stage *s;

	if (argc > 1 && strcmp(argv[1], "supervised") == 0) {
		supervised();
	}
	s = stage_open(STAGE_FAKE, settings);
	test_hellos(s);
	test_odd_hellos(s);
	test_second_messages(s);
	test_chatter(s);
	test_never_ready(s);
	test_half_open(s);
	test_connect_flood(s);
	test_evictions(s);
	test_no_descriptors(s);
	stage_close(&s);
	test_inherited(argv[0]);
	return done_testing();
}
