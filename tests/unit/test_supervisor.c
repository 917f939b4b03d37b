/* SPDX-License-Identifier: MIT */
/*
 * test_supervisor.c - what `broker run` does with its two children, with a broker made for the
 * test.
 *
 * Every run has its standard output in a pipe that all its processes inherit: the end of file means
 * that none of them is left.  Scripts and brokers tell there what they see, so nothing sleeps.
 */
#include "supervisor.h"
#include "log.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

extern char **environ;

#define PATIENCE_MS 20000

typedef int serve_fn(const struct config *cfg, const struct broker_start *start);

struct run {
	pid_t pid; /* of the supervisor */
	int out; /* what its processes print */
	char text[8192];
	size_t len;
	bool ended; /* end of file was seen */
};

static char self[4096]; /* path of this program, which also plays commands */
static unsigned *lives; /* how often a broker was started; shared with all children */

/* ------------------------------------------------------------------------------------------------
 * Brokers
 */

static void be_ready(const struct broker_start *start)
{
	if (write(start->ready_fd, "", 1) != 1) {
		_exit(99);
	}
	close(start->ready_fd);
}

static void say(const char *text)
{
	if (write(STDOUT_FILENO, text, strlen(text)) < 0) {
		_exit(99);
	}
}

/* Tells every message; "crash" is the last one of a life. */
static int serve_messages(const struct config *cfg, const struct broker_start *start)
{
	char message[64], text[96];
	ssize_t n;

	++*lives;
	be_ready(start);
	while ((n = recv(start->attach_fd, message, sizeof(message) - 1, 0)) > 0) {
		message[n] = '\0';
		snprintf(text, sizeof(text), "life %u: %s\n", *lives, message);
		say(text);
		if (strcmp(message, "crash") == 0) {
			abort();
		}
	}
	return 1;
}

static int serve_crashing(const struct config *cfg, const struct broker_start *start)
{
	++*lives;
	be_ready(start);
	raise(SIGKILL);
	return 1;
}

static int serve_failing(const struct config *cfg, const struct broker_start *start)
{
	return 3;
}

static int serve_nothing(const struct config *cfg, const struct broker_start *start)
{
	return 0;
}

static int serve_never_ready(const struct config *cfg, const struct broker_start *start)
{
	say("starting\n");
	pause();
	return 1;
}

static int serve_deaf(const struct config *cfg, const struct broker_start *start)
{
	signal(SIGTERM, SIG_IGN);
	be_ready(start);
	return pause();
}

/*
 * Tells what it is configured with, and every SIGHUP; SIGUSR1 makes it crash.  Later lives get
 * ready when SIGUSR2 comes, and not before.
 */
static int serve_configured(const struct config *cfg, const struct broker_start *start)
{
	static const int wanted[] = {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
	unsigned reloads = 0;
	sigset_t set, gate;
	char text[96];
	int sig = 0;

	++*lives;
	sigemptyset(&set);
	for (unsigned i = 0; i < array_size(wanted); i++) {
		sigaddset(&set, wanted[i]);
	}
	sigprocmask(SIG_BLOCK, &set, NULL);
	snprintf(text, sizeof(text), "life %u pid %d timeout %d\n", *lives, (int)getpid(),
		(int)cfg->broker.default_timeout);
	say(text);
	if (*lives > 1) {
		sigemptyset(&gate);
		sigaddset(&gate, SIGUSR2);
		sigwait(&gate, &sig);
		sigpending(&gate);
		say(sigismember(&gate, SIGHUP) ? "too early\n" : "");
	}
	be_ready(start);
	for (;;) {
		sigwait(&set, &sig);
		if (sig == SIGUSR1) {
			raise(SIGKILL);
		} else if (sig == SIGTERM) {
			return 0;
		}
		snprintf(text, sizeof(text), "life %u reload %u\n", *lives, ++reloads);
		say(text);
	}
}

/* Ready, until SIGTERM: an orderly end. */
static int serve_well(const struct config *cfg, const struct broker_start *start)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	be_ready(start);
	sigwait(&set, &sig);
	say("broker ends\n");
	return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Runs
 */

static char *no_env[] = {NULL};
static struct config_override over[2] = {{"broker.socket=t.sock"}, {NULL}};
static struct config_source source = {.path = "/dev/null", .env = no_env, .over = over, .nover = 2};

static struct config *configure(const char *grace)
{
	char mistakes[512];
	struct config *c;

	over[1].text = grace;
	if (config_load(source.path, source.env, over, 2, &c, mistakes, sizeof(mistakes)) < 0) {
		bail_out("%s", mistakes);
	}
	return c;
}

__attribute__((noreturn)) static void supervise(
	serve_fn *serve, char *const *command, const char *grace)
{
	struct supervisor_job job = {
		.cfg = configure(grace), .source = &source, .command = command, .serve = serve};
	int status, null = open("/dev/null", O_RDWR);

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing behind */
	if (getenv("TEST_LOG") == NULL) {
		dup2(null, STDERR_FILENO);
	}
	dup2(null, STDIN_FILENO);
	status = supervisor_run(&job);
	config_free((struct config *)job.cfg);
	exit(status);
}

static void start_with(struct run *r, serve_fn *serve, char *const *command, const char *grace)
{
	int fds[2];

	*r = (struct run){0};
	*lives = 0;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		bail_out("cannot make a pipe");
	}
	fflush(NULL);
	r->pid = fork();
	if (r->pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		supervise(serve, command, grace);
	}
	if (r->pid < 0) {
		bail_out("cannot fork");
	}
	close(fds[1]);
	r->out = fds[0];
}

static void start(struct run *r, serve_fn *serve, const char *script)
{
	char shell[] = "/bin/sh", c[] = "-c", text[1024];
	char *command[] = {shell, c, text, NULL};

	snprintf(text, sizeof(text), "%s", script);
	start_with(r, serve, command, "broker.shutdown_grace=10s");
}

/* Read until want is in the text, or, with NULL, until nobody can write any more. */
static bool read_until(struct run *r, const char *want)
{
	struct pollfd p = {.fd = r->out, .events = POLLIN};

	while (want == NULL || strstr(r->text, want) == NULL) {
		ssize_t n;

		if (poll(&p, 1, PATIENCE_MS) <= 0 || r->len == sizeof(r->text) - 1) {
			diag("waited in vain for %s; got: %s", want != NULL ? want : "the end",
				r->text);
			return false;
		}
		n = read(r->out, r->text + r->len, sizeof(r->text) - 1 - r->len);
		if (n <= 0) {
			r->ended = true;
			return want == NULL;
		}
		r->len += (size_t)n;
	}
	return true;
}

/* Wait for the end of all; the status of the supervisor as a shell has it. */
static int finish(struct run *r, const char *what)
{
	int status;

	if (!ok(read_until(r, NULL), "%s: nothing stays running", what)) {
		kill(r->pid, SIGKILL);
	}
	close(r->out);
	if (waitpid(r->pid, &status, 0) != r->pid) {
		return -1;
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int run_script(const char *script, const char *what)
{
	struct run r;

	start(&r, serve_well, script);
	return finish(&r, what);
}

/* ------------------------------------------------------------------------------------------------
 * Tests
 */

static void test_restart_delay(void)
{
	struct restart r = {0};

	is_int(restart_delay(&r, RESTART_HEALTHY_MS), 0, "after a good run at once");
	is_int(restart_delay(&r, 0), 100, "then after 100 ms");
	is_int(restart_delay(&r, RESTART_HEALTHY_MS - 1), 200, "200");
	is_int(restart_delay(&r, 0), 400, "400");
	is_int(restart_delay(&r, 0), -1, "and no more");
	is_int(restart_delay(&r, RESTART_HEALTHY_MS), 0, "a good run forgives all");
}

static void test_status(void)
{
	is_int(run_script("exit 0", "success"), 0, "success");
	is_int(run_script("exit 5", "failure"), 5, "the command's own status");
	is_int(run_script("kill -KILL $$", "a signal"), 137, "128 and the signal");
}

static void test_not_executable(void)
{
	char missing[] = "/nonexistent/program", directory[] = "/";
	struct run r;

	start_with(&r, serve_well, (char *[]){missing, NULL}, "broker.shutdown_grace=10s");
	is_int(finish(&r, "no such command"), 127, "no such command");
	start_with(&r, serve_well, (char *[]){directory, NULL}, "broker.shutdown_grace=10s");
	is_int(finish(&r, "a directory as command"), 126, "not executable");
}

/* The command of test_inheritance: this program with an argument. */
static int report(void)
{
	int fd = atoi(getenv("BROKER_FD")), type = 0, death = 0;
	socklen_t len = sizeof(type);
	struct ucred peer = {0};
	struct sigaction sa;
	sigset_t blocked;
	unsigned ignored = 0, open = 0;
	char text[128];

	getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
	len = sizeof(peer);
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	prctl(PR_GET_PDEATHSIG, &death);
	sigprocmask(SIG_SETMASK, NULL, &blocked);
	for (int sig = 1; sig < 32; sig++) {
		sigaction(sig, NULL, &sa);
		ignored += sa.sa_handler == SIG_IGN || sigismember(&blocked, sig) == 1;
	}
	for (int i = 3; i < 1024; i++) {
		open += i != fd && fcntl(i, F_GETFD) >= 0;
	}
	snprintf(text, sizeof(text), "type=%d peer=%d group=%d death=%d ignored=%u open=%u ",
		type == SOCK_SEQPACKET,
		peer.pid == atoi(getenv("BROKER_PID")) && peer.pid == getppid(),
		getpgrp() == getpid(), death == SIGTERM, ignored, open);
	say(text);
	snprintf(text, sizeof(text), "socket=%s secret=%s other=%s\n", getenv("BROKER_SOCKET"),
		getenv("BROKER_SERVER_LOCAL_URL") != NULL ? "shown" : "hidden", getenv("OTHER"));
	say(text);
	return 0;
}

static void test_inheritance(void)
{
	char word[] = "report", cwd[256], want[512];
	struct run r;
	int extra = open("/dev/null", O_RDONLY);

	dup2(extra, 20);
	signal(SIGUSR2, SIG_IGN);
	setenv("BROKER_SERVER_LOCAL_URL", "postgresql://u:hush@h/d", 1);
	setenv("OTHER", "kept", 1);
	start_with(&r, serve_well, (char *[]){self, word, NULL}, "broker.shutdown_grace=10s");
	is_int(finish(&r, "a report"), 0, "the command runs");
	snprintf(want, sizeof(want),
		"type=1 peer=1 group=1 death=1 ignored=0 open=0 socket=%s/t.sock secret=hidden "
		"other=kept\nbroker ends\n",
		getcwd(cwd, sizeof(cwd)));
	is_str(r.text, want, "with the socket, default signals, nothing else open and no secrets");
	unsetenv("BROKER_SERVER_LOCAL_URL");
	signal(SIGUSR2, SIG_DFL);
	close(extra);
	close(20);
}

static void test_signals(void)
{
	static const struct {
		int sig;
		const char *name;
	} forwarded[] = {{SIGHUP, "HUP"}, {SIGUSR1, "USR1"}, {SIGUSR2, "USR2"}, {SIGQUIT, "QUIT"},
		{SIGWINCH, "WINCH"}, {SIGTTIN, "TTIN"}, {SIGTTOU, "TTOU"}, {SIGINT, "INT"}};
	char want[32];
	struct run r;

	start(&r, serve_well,
		"for s in HUP USR1 USR2 QUIT WINCH TTIN TTOU INT; do trap \"echo got $s\" $s; "
		"done; "
		"trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done");
	ok(read_until(&r, "up\n"), "the command is up");
	for (unsigned i = 0; i < array_size(forwarded) - 1; i++) {
		kill(r.pid, forwarded[i].sig);
		snprintf(want, sizeof(want), "got %s\n", forwarded[i].name);
		ok(read_until(&r, want), "SIG%s is forwarded", forwarded[i].name);
	}
	kill(r.pid, SIGTERM);
	is_int(finish(&r, "SIGTERM"), 7, "SIGTERM is the command's to answer");
	ok(strstr(r.text, "broker ends\n") != NULL, "then the broker ends in order");
}

/* Until all is over: when a signal counts as a second one is the supervisor's choice. */
static void keep_sending(struct run *r, int sig)
{
	struct pollfd p = {.fd = r->out};

	for (int i = 0; i < PATIENCE_MS / 50 && poll(&p, 1, 50) == 0; i++) {
		kill(r->pid, sig);
	}
}

static void test_second_signal(void)
{
	struct run r;

	start(&r, serve_well,
		"trap 'echo no' TERM; trap 'echo still' USR1; echo up; while :; do sleep 0.02; "
		"done");
	ok(read_until(&r, "up\n"), "a stubborn command is up");
	kill(r.pid, SIGTERM);
	ok(read_until(&r, "no\n"), "it does not care for SIGTERM");
	kill(r.pid, SIGTERM); /* at once: the same wish, told twice */
	kill(r.pid, SIGUSR1);
	ok(read_until(&r, "still\n"), "the same signal at once is no second one");
	ok(strstr(strstr(r.text, "no\n") + 1, "no\n") == NULL, "and passed on once");
	keep_sending(&r, SIGINT);
	is_int(finish(&r, "a second signal"), 137, "the second signal kills it");
}

static void test_orphans(void)
{
	char shell[] = "/bin/sh", c[] = "-c";
	char deaf[] = "trap '' TERM; (while :; do sleep 0.05; done) & exit 4";
	struct run r;

	is_int(run_script("sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 & exit' &) ; "
			  "exit 3",
		       "orphans"),
		3, "of the group and outside of it");
	start_with(&r, serve_well, (char *[]){shell, c, deaf, NULL}, "broker.shutdown_grace=50ms");
	is_int(finish(&r, "orphans that ignore SIGTERM"), 4, "are killed");
}

static void test_start_fails(void)
{
	struct run r;

	start(&r, serve_failing, "echo ran");
	is_int(finish(&r, "a broker that fails"), 3, "its status is ours");
	is_str(r.text, "", "and the command is not started");
	start(&r, serve_nothing, "echo ran");
	is_int(finish(&r, "a broker that ends early"), 1,
		"is a failure even if it calls itself well");
	start(&r, serve_never_ready, "echo ran");
	ok(read_until(&r, "starting\n"), "a broker that does not get ready");
	kill(r.pid, SIGTERM);
	is_int(finish(&r, "SIGTERM while starting"), 143, "can be given up");
	is_str(r.text, "starting\n", "without starting the command");
}

static void test_crash(void)
{
	char word[] = "messages";
	struct run r;

	start_with(&r, serve_messages, (char *[]){self, word, NULL}, "broker.shutdown_grace=10s");
	ok(read_until(&r, "life 2: after\n"), "a message finds the next broker on the same socket");
	kill(r.pid, SIGTERM);
	is_int(finish(&r, "after a crash"), 143, "the command outlived it");
	is_str(r.text, "life 1: hello\nlife 1: crash\nlife 2: after\n", "every message came once");
}

/* The command of test_crash: the third message is sent whether or not a broker is there. */
static int send_messages(void)
{
	static const char *const messages[] = {"hello", "crash", "after"};
	int fd = atoi(getenv("BROKER_FD"));

	for (unsigned i = 0; i < array_size(messages); i++) {
		if (send(fd, messages[i], strlen(messages[i]), 0) < 0) {
			return 1;
		}
	}
	pause();
	return 0;
}

static void test_crash_loop(void)
{
	struct run r;

	start(&r, serve_crashing, "trap 'echo told; exit 0' TERM; while :; do sleep 0.02; done");
	is_int(finish(&r, "a broker that always crashes"), 1, "is given up");
	is_int(*lives, RESTART_LIMIT, "after its last life");
	ok(strstr(r.text, "told\n") != NULL, "the command was asked to end");
}

static void write_config(const char *text)
{
	FILE *f = fopen(source.path, "w");

	if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0) {
		bail_out("cannot write %s", source.path);
	}
}

/* Process of the broker in that life. */
static pid_t broker_of(const struct run *r, unsigned life)
{
	char want[32];
	const char *at;

	snprintf(want, sizeof(want), "life %u pid ", life);
	at = strstr(r->text, want);
	return at != NULL ? atoi(at + strlen(want)) : 0;
}

/* The next life of a broker, as far as it may go before it is ready. */
static void crash(struct run *r, unsigned life, const char *timeout, const char *what)
{
	char want[64];

	kill(broker_of(r, life - 1), SIGUSR1);
	snprintf(want, sizeof(want), " timeout %s\n", timeout);
	ok(read_until(r, want) && broker_of(r, life) > 0, "%s", what);
}

static void test_reload(void)
{
	char path[] = "/tmp/test_supervisor.XXXXXX";
	struct run r;
	int fd = mkstemp(path);

	close(fd);
	source.path = path;
	write_config("[broker]\ndefault_timeout=1s\n");
	start(&r, serve_configured,
		"n=0; trap 'n=$((n+1)); echo command $n' HUP; trap 'exit 7' TERM; echo up; "
		"while :; do sleep 0.02; done");
	ok(read_until(&r, "up\n") && read_until(&r, "timeout 1000\n"), "with a file");
	write_config("[broker]\ndefault_timeout=2s\n");
	kill(r.pid, SIGHUP);
	ok(read_until(&r, "life 1 reload 1\n"), "SIGHUP reaches the broker");
	ok(read_until(&r, "command 1\n"), "and the command");
	write_config("[broker]\ndefault_timeout=nonsense\n");
	kill(r.pid, SIGHUP);
	ok(read_until(&r, "life 1 reload 2\n") && read_until(&r, "command 2\n"), "twice");
	crash(&r, 2, "2000", "a broker that is restarted has the last good configuration");
	kill(r.pid, SIGHUP);
	ok(read_until(&r, "command 3\n"), "SIGHUP while no broker is ready");
	kill(broker_of(&r, 2), SIGUSR2);
	ok(read_until(&r, "life 2 reload 1\n"), "comes when it is");
	ok(strstr(r.text, "too early") == NULL, "and not before");
	write_config("[broker]\ndefault_timeout=3s\nsocket=other.sock\n");
	crash(&r, 3, "3000", "or the newest, if that is good");
	kill(broker_of(&r, 3), SIGUSR2);
	kill(r.pid, SIGTERM);
	is_int(finish(&r, "after reloads"), 7, "the command outlived it all");
	unlink(path);
	source.path = "/dev/null";
}

static void test_deaf_broker(void)
{
	char shell[] = "/bin/sh", c[] = "-c", script[] = "exit 6";
	struct run r;

	start_with(&r, serve_deaf, (char *[]){shell, c, script, NULL}, "broker.shutdown_grace=0");
	is_int(finish(&r, "a broker that ignores SIGTERM"), 6, "is killed, the status stays");
}

static void test_killed_supervisor(void)
{
	struct run r;

	start(&r, serve_well, "echo up; exec sleep 1000");
	ok(read_until(&r, "up\n"), "up");
	kill(r.pid, SIGKILL);
	is_int(finish(&r, "SIGKILL of the supervisor"), 137, "its children die with it");
}

/* ------------------------------------------------------------------------------------------------
 * The terminal: a stand-in for a shell with job control, on a pseudoterminal
 */

/* Waits until the job stops or ends and tells which. */
static void tell_job(pid_t job)
{
	char text[64];
	int status;

	if (waitpid(job, &status, WUNTRACED) != job) {
		_exit(98);
	}
	tcsetpgrp(STDIN_FILENO, getpgrp());
	snprintf(text, sizeof(text), WIFSTOPPED(status) ? "shell: stopped\n" : "shell: ended %d\n",
		WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	say(text);
}

static void say_signal(int sig)
{
	if (sig == SIGCONT) {
		say("cont\n");
		return;
	}
	say("int\n");
	_exit(9);
}

/* The command: no script, for one that is stopped while it forks hangs by itself. */
__attribute__((noreturn)) static void stay_in_front(void)
{
	signal(SIGCONT, say_signal);
	signal(SIGINT, say_signal);
	say("front\n");
	for (;;) {
		pause();
	}
}

__attribute__((noreturn)) static void shell(int terminal)
{
	char word[] = "front";
	struct supervisor_job job = {.cfg = configure("broker.shutdown_grace=10s"),
		.command = (char *[]){self, word, NULL},
		.serve = serve_well};
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setsid();
	ioctl(terminal, TIOCSCTTY, 0);
	dup2(terminal, STDIN_FILENO);
	signal(SIGTTOU, SIG_IGN);
	pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		tcsetpgrp(STDIN_FILENO, getpid());
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		log_setup("error", "text");
		exit(supervisor_run(&job));
	}
	setpgid(pid, pid);
	tell_job(pid); /* stopped by ^Z */
	tcsetpgrp(STDIN_FILENO, pid);
	kill(-pid, SIGCONT);
	tell_job(pid); /* ended by ^C */
	_exit(0);
}

static void test_terminal(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), terminal, fds[2];
	struct run r = {0};

	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 ||
		pipe2(fds, O_CLOEXEC) < 0 ||
		(terminal = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0) {
		skip("no pseudoterminal here: %s", strerror(errno));
		return;
	}
	fflush(NULL);
	r.pid = fork();
	if (r.pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		shell(terminal);
	}
	close(fds[1]);
	close(terminal);
	r.out = fds[0];
	ok(read_until(&r, "front\n"), "the command has the terminal");
	ok(write(master, "\x1a", 1) == 1 && read_until(&r, "shell: stopped\n"),
		"^Z stops the command, and the supervisor with it");
	ok(read_until(&r, "cont\n"), "fg continues it");
	ok(write(master, "\x03", 1) == 1 && read_until(&r, "int\n"), "^C reaches the command");
	is_int(finish(&r, "after ^C"), 0, "the shell goes on");
	ok(strstr(r.text, "shell: ended 9\n") != NULL, "with the command's status");
	close(master);
}

/* Be one of the commands. */
static int play(const char *command)
{
	if (strcmp(command, "front") == 0) {
		stay_in_front();
	}
	return strcmp(command, "report") == 0 ? report() : send_messages();
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		return play(argv[1]);
	}
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0) {
		bail_out("cannot find this program");
	}
	lives = mmap(
		NULL, sizeof(*lives), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (lives == MAP_FAILED) {
		bail_out("out of memory");
	}
	test_restart_delay();
	test_status();
	test_not_executable();
	test_inheritance();
	test_signals();
	test_second_signal();
	test_orphans();
	test_start_fails();
	test_crash();
	test_reload();
	test_crash_loop();
	test_deaf_broker();
	test_killed_supervisor();
	test_terminal();
	return done_testing();
}
