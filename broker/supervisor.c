/* SPDX-License-Identifier: MIT */
/*
 * supervisor.c - see supervisor.h.
 *
 *                       ready              command ends          no orphans left
 *   STARTING ─────────────────▶ RUNNING ────────────▶ ORPHANS ────────────────▶ STOPPING ──▶ DONE
 *       │ signal                                                                   ▲   broker ends
 *       ├──────────────────────────────────────────────────────────────────────────┘
 *       │ broker ends
 *       └─────────────────────────────────────────────────────────────────────────────────▶ DONE
 *
 *   STARTING   on_ready, on_signal, broker_ended       a broker, no command
 *   RUNNING    command_ended                           a command; the broker may be between two
 * lives ORPHANS    stop_orphans                            processes that the command left behind
 *   STOPPING   broker_ended                            a broker that was told to end
 *
 * Signals arrive through a signalfd, deaths are handled after everything else of the same turn, and
 * every wait has a deadline, so the loop is one poll and no handler runs at a bad moment.
 *
 * A dead command stays a zombie until its process group got SIGTERM: so long its number can name no
 * other group.
 */
#include "supervisor.h"

#include "doorbell.h"
#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define ORPHAN_POLL_MS 20 /* deaths of grandchildren are not announced to us */
#define ORPHAN_KILL_MS 2000 /* from SIGKILL until we leave without them */
#define SAME_SIGNAL_MS 250 /* timeout(1) and others signal the process and then its group as well  \
			    */
#define BROKER_MARGIN_MS 1000 /* beyond shutdown_grace, which the broker uses up itself */

enum phase { STARTING, RUNNING, ORPHANS, STOPPING, DONE };

struct supervisor {
	const struct supervisor_job *job;
	const struct config *cfg; /* the last good one */
	struct config *reread; /* cfg, unless that is the job's */
	enum phase phase;
	int status; /* of the program */
	pid_t self, broker, command, group; /* 0: none; group outlives its leader */
	int attach[2]; /* [0] the broker's end, [1] the workers' */
	int signals; /* signalfd */
	int ready; /* read end of the broker's ready pipe, or -1 */
	bool terminal; /* the command got the foreground from us */
	bool given_up; /* the broker keeps failing: status stays 1 */
	bool killing; /* orphans got SIGKILL */
	bool owes_hup; /* the broker gets SIGHUP when it is ready */
	struct restart restart;
	uint64_t broker_since, restart_at, deadline; /* ns; 0: none */
	uint64_t told_ns; /* when we were first told to end, or gave up; 0: not yet */
	char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static const int watched[] = {SIGCHLD, SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH,
	SIGCONT, SIGTTIN, SIGTTOU};

static void set_phase(struct supervisor *s, enum phase phase)
{
	check(phase > s->phase || phase == STARTING);
	s->phase = phase;
	s->deadline = 0;
	s->restart_at = 0;
}

static void set_deadline(struct supervisor *s, int64_t ms)
{
	s->deadline = doorbell_now() + (uint64_t)ms * NS_PER_MS;
}

int64_t restart_delay(struct restart *r, int64_t lived_ms)
{
	if (lived_ms >= RESTART_HEALTHY_MS) {
		r->failures = 0;
	}
	r->failures++;
	if (r->failures >= RESTART_LIMIT) {
		return -1;
	}
	return r->failures == 1 ? 0 : INT64_C(100) << (r->failures - 2);
}

/* Status as a shell reports it. */
static int exit_status(const siginfo_t *si)
{
	return si->si_code == CLD_EXITED ? si->si_status : 128 + si->si_status;
}

static const char *describe_end(const siginfo_t *si, char *buf, size_t len)
{
	if (si->si_code == CLD_EXITED) {
		snprintf(buf, len, "ended with status %d", si->si_status);
	} else {
		snprintf(buf, len, "died by signal %d (%s)", si->si_status,
			strsignal(si->si_status));
	}
	return buf;
}

/* ------------------------------------------------------------------------------------------------
 * Configuration
 */

/* Read it again; a bad one changes nothing.  tell: nobody else does. */
static void reread(struct supervisor *s, bool tell)
{
	char mistakes[4096], notes[1024];
	struct config *next;

	if (s->job->source == NULL) {
		return;
	}
	if (config_reload(s->cfg, s->job->source, &next, mistakes, sizeof(mistakes), notes,
		    sizeof(notes)) < 0) {
		if (tell) {
			log_lines(LOG_ERROR, mistakes);
			log_error("the configuration is wrong; the last good one stays in force");
		}
		return;
	}
	if (tell) {
		log_lines(LOG_WARNING, notes);
	}
	config_free(s->reread);
	s->cfg = s->reread = next;
	check(log_setup(next->broker.log_level, next->broker.log_format));
}

/* The broker tells what it finds, if there is one. */
static void reload(struct supervisor *s)
{
	reread(s, s->broker == 0);
	if (s->broker == 0 || s->job->source == NULL) {
		return;
	}
	if (s->ready >= 0) {
		s->owes_hup = true; /* it may not listen yet */
		return;
	}
	kill(s->broker, SIGHUP);
}

/* ------------------------------------------------------------------------------------------------
 * Children
 */

/* In a new child: as if started by a shell, but tied to the life of the supervisor. */
static void child_setup(const struct supervisor *s)
{
	sigset_t none;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != s->self) {
		_exit(1); /* it died before prctl: no signal would come */
	}
	for (int sig = 1; sig < NSIG; sig++) {
		signal(sig, SIG_DFL);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* So that process listings tell the two apart. */
static void set_title(const struct supervisor *s)
{
	prctl(PR_SET_NAME, "broker-serve");
	if (s->job->title != NULL && s->job->title_len > 1) {
		memset(s->job->title, 0, s->job->title_len);
		snprintf(s->job->title, s->job->title_len, "broker: serving for %d", (int)s->self);
	}
}

__attribute__((noreturn)) static void broker_child(struct supervisor *s, int ready_fd)
{
	struct broker_start start = {
		.attach_fd = s->attach[0],
		.listen_fd = -1,
		.ready_fd = ready_fd,
		.source = s->job->source,
	};
	int null;

	child_setup(s);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN); /* until the broker listens to it */
	set_title(s);
	close(s->attach[1]);
	close(s->signals);
	close(s->ready);
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDIN_FILENO); /* the terminal's input is the command's */
		close(null);
	}
	exit(s->job->serve(s->cfg, &start));
}

/* 0, or -errno if there is no process. */
static int start_broker(struct supervisor *s)
{
	int fds[2];
	pid_t pid;

	s->restart_at = 0;
	s->owes_hup = false;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		return -errno;
	}
	s->ready = fds[0];
	fflush(NULL); /* or the child prints what we have buffered once more */
	pid = fork();
	if (pid == 0) {
		broker_child(s, fds[1]);
	}
	close(fds[1]);
	if (pid < 0) {
		int e = errno;

		close(s->ready);
		s->ready = -1;
		return -e;
	}
	setpgid(pid, pid); /* both of us, whoever comes first */
	s->broker = pid;
	s->broker_since = doorbell_now();
	return 0;
}

/* Credentials in the environment are the broker's, not the workers'. */
static void clean_environment(void)
{
	static const char *const prefixes[] = {"BROKER_BROKER_", "BROKER_SERVER_", "BROKER_POOL_"};
	char **to = environ;

	for (char **from = environ; *from != NULL; from++) {
		bool ours = false;

		for (unsigned i = 0; i < array_size(prefixes); i++) {
			ours = ours || strncmp(*from, prefixes[i], strlen(prefixes[i])) == 0;
		}
		if (!ours) {
			*to++ = *from;
		}
	}
	*to = NULL;
}

static bool announce(const struct supervisor *s)
{
	char fd[16], pid[16];

	snprintf(fd, sizeof(fd), "%d", s->attach[1]);
	snprintf(pid, sizeof(pid), "%d", (int)s->self);
	clean_environment();
	return setenv("BROKER_FD", fd, 1) == 0 && setenv("BROKER_PID", pid, 1) == 0 &&
	       setenv("BROKER_SOCKET", s->socket_path, 1) == 0 &&
	       fcntl(s->attach[1], F_SETFD, 0) == 0;
}

__attribute__((noreturn)) static void command_child(const struct supervisor *s)
{
	char *const *command = s->job->command;

	if (s->terminal) {
		setpgid(0, 0);
		tcsetpgrp(STDIN_FILENO, getpid()); /* SIGTTOU is still blocked */
	}
	child_setup(s);
	if (announce(s)) {
		execvp(command[0], command);
	}
	log_error("cannot run '%s': %s", command[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static int start_command(struct supervisor *s)
{
	pid_t pid;

	s->terminal = isatty(STDIN_FILENO) && tcgetpgrp(STDIN_FILENO) == getpgrp();
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		command_child(s);
	}
	if (pid < 0) {
		return -errno;
	}
	setpgid(pid, pid);
	if (s->terminal) {
		tcsetpgrp(STDIN_FILENO, pid);
	}
	s->command = pid;
	s->group = pid;
	log_info("command started pid=%d", (int)pid);
	return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Ends
 */

static void stop_broker(struct supervisor *s)
{
	if (s->broker == 0) {
		set_phase(s, DONE);
		return;
	}
	set_phase(s, STOPPING);
	kill(s->broker, SIGTERM);
	set_deadline(s, s->cfg->broker.shutdown_grace + BROKER_MARGIN_MS);
}

/* Parent and process group of a process; false if it is gone or only a zombie. */
static bool read_stat(const char *pid, int *ppid, int *pgrp)
{
	char path[64], text[512], state;
	const char *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		return false;
	}
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0) {
		return false;
	}
	text[n] = '\0';
	p = strrchr(text, ')'); /* the name before it may hold anything */
	return p != NULL && sscanf(p + 1, " %c %d %d", &state, ppid, pgrp) == 3 && state != 'Z';
}

/*
 * Processes that the command left: our children, for we are the reaper of all that lost their
 * parent, and whatever is in its process group.  Sends sig to each unless it is 0; returns how
 * many.
 */
static unsigned signal_orphans(struct supervisor *s, int sig)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	unsigned n = 0;
	bool group = false;

	while (proc != NULL && (e = readdir(proc)) != NULL) {
		int ppid, pgrp, pid = atoi(e->d_name);

		if (pid <= 0 || pid == s->broker || !read_stat(e->d_name, &ppid, &pgrp)) {
			continue;
		}
		if (pgrp == s->group) {
			group = true;
			n++;
		} else if (ppid == s->self) {
			kill(pid, sig); /* a child of ours: its number cannot be another's yet */
			n++;
		}
	}
	if (proc != NULL) {
		closedir(proc);
	}
	if (group) {
		kill(-s->group, sig);
	}
	return n;
}

static void check_orphans(struct supervisor *s)
{
	if (signal_orphans(s, s->killing ? SIGKILL : 0) == 0) {
		stop_broker(s);
	}
}

static void stop_orphans(struct supervisor *s)
{
	unsigned n = signal_orphans(s, SIGTERM);

	set_phase(s, ORPHANS);
	if (n == 0) {
		stop_broker(s);
		return;
	}
	log_warning("the command left processes behind; stopping them processes=%u", n);
	signal_orphans(s, SIGCONT);
	set_deadline(s, s->cfg->broker.shutdown_grace);
}

static void command_ended(struct supervisor *s, const siginfo_t *si)
{
	char how[64];

	if (s->terminal) {
		tcsetpgrp(STDIN_FILENO, getpgrp());
	}
	log_info("command %s pid=%d", describe_end(si, how, sizeof(how)), (int)s->command);
	s->command = 0;
	s->status = s->given_up ? 1 : exit_status(si);
	stop_orphans(s);
}

static void give_up(struct supervisor *s)
{
	log_error("the broker failed %u times in a row; stopping the command", s->restart.failures);
	s->given_up = true;
	s->told_ns = doorbell_now();
	kill(s->command, SIGTERM);
	kill(s->command, SIGCONT);
	set_deadline(s, s->cfg->broker.shutdown_grace);
}

static void broker_failed(struct supervisor *s, int64_t lived_ms)
{
	int64_t delay = restart_delay(&s->restart, lived_ms);

	if (s->given_up) {
		return;
	}
	if (delay < 0) {
		give_up(s);
		return;
	}
	s->restart_at = doorbell_now() + (uint64_t)delay * NS_PER_MS;
}

static void broker_ended(struct supervisor *s, const siginfo_t *si)
{
	int64_t lived_ms = (int64_t)((doorbell_now() - s->broker_since) / NS_PER_MS);
	enum log_level level = s->phase == STOPPING ? LOG_INFO : LOG_ERROR;
	char how[64];

	log_write(level, "broker %s pid=%d ms=%lld", describe_end(si, how, sizeof(how)),
		(int)s->broker, (long long)lived_ms);
	s->broker = 0;
	if (s->ready >= 0) {
		close(s->ready);
		s->ready = -1;
	}
	switch (s->phase) {
	case STARTING:
		s->status = exit_status(si);
		s->status = s->status == 0 ? 1 : s->status;
		log_error("the broker never got ready; the command was not started");
		set_phase(s, DONE);
		break;
	case RUNNING:
		broker_failed(s, lived_ms);
		break;
	case STOPPING:
		set_phase(s, DONE);
		break;
	case ORPHANS:
	case DONE:
		break;
	}
}

/*
 * The command was stopped from the terminal: stop as well, so that the shell takes over.  Without a
 * shell above us nobody could continue it.
 */
static void command_stopped(struct supervisor *s)
{
	if (!s->terminal) {
		return;
	}
	if (getsid(0) == s->self) {
		kill(-s->group, SIGCONT);
		return;
	}
	tcsetpgrp(STDIN_FILENO, getpgrp());
	kill(s->self, SIGSTOP); /* SIGCONT then arrives as a signal to handle */
}

/* Handle a death or a stop, then take it off the list.  False if there is none. */
static bool reap_one(struct supervisor *s)
{
	siginfo_t si = {0}, gone;
	bool stopped;

	if (waitid(P_ALL, 0, &si, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) < 0 || si.si_pid == 0) {
		return false;
	}
	stopped = si.si_code == CLD_STOPPED;
	if (si.si_pid == s->command && stopped) {
		command_stopped(s);
	} else if (si.si_pid == s->command) {
		command_ended(s, &si);
	} else if (si.si_pid == s->broker && !stopped) {
		broker_ended(s, &si);
	}
	(void)waitid(P_PID, (id_t)si.si_pid, &gone, WEXITED | WSTOPPED | WNOHANG);
	return true;
}

/* ------------------------------------------------------------------------------------------------
 * Events
 */

static void on_ready(struct supervisor *s)
{
	char byte;
	ssize_t n = read(s->ready, &byte, 1);
	int r;

	close(s->ready);
	s->ready = -1;
	if (n != 1) {
		return; /* it closed the pipe in dying, which is reported where it is reaped */
	}
	log_info("broker ready pid=%d ms=%llu", (int)s->broker,
		(unsigned long long)((doorbell_now() - s->broker_since) / NS_PER_MS));
	if (s->owes_hup) {
		s->owes_hup = false;
		kill(s->broker, SIGHUP);
	}
	if (s->phase != STARTING) {
		return;
	}
	r = start_command(s);
	if (r < 0) {
		log_error("cannot start a process: %s", strerror(-r));
		s->status = 1;
		stop_broker(s);
		return;
	}
	set_phase(s, RUNNING);
}

/* SIGCONT, or the shell's fg: the command gets the terminal back if we have it. */
static void resume_command(struct supervisor *s)
{
	if (s->terminal && tcgetpgrp(STDIN_FILENO) == getpgrp()) {
		tcsetpgrp(STDIN_FILENO, s->group);
	}
	kill(-s->group, SIGCONT);
}

/* What a signal that tells us to end means. */
enum told { TOLD_FIRST, TOLD_SAME, TOLD_AGAIN };

static enum told note_told(struct supervisor *s)
{
	uint64_t now = doorbell_now();

	if (s->told_ns == 0) {
		s->told_ns = now;
		return TOLD_FIRST;
	}
	return now - s->told_ns < SAME_SIGNAL_MS * NS_PER_MS ? TOLD_SAME : TOLD_AGAIN;
}

static void forward_end(struct supervisor *s, int sig)
{
	switch (note_told(s)) {
	case TOLD_FIRST:
		kill(s->command, sig);
		kill(s->command, SIGCONT); /* a stopped process could not act on it */
		break;
	case TOLD_SAME:
		break;
	case TOLD_AGAIN:
		log_warning("told to end a second time; killing the command");
		kill(-s->group, SIGKILL);
		break;
	}
}

static void forward(struct supervisor *s, int sig)
{
	if (sig == SIGTERM || sig == SIGINT) {
		forward_end(s, sig);
	} else if (sig == SIGCONT) {
		resume_command(s);
	} else {
		kill(s->command, sig);
	}
}

static void on_signal(struct supervisor *s, int sig)
{
	bool end = sig == SIGTERM || sig == SIGINT;

	switch (s->phase) {
	case STARTING:
		if (end || sig == SIGQUIT || sig == SIGHUP) {
			(void)note_told(s);
			s->status = 128 + sig;
			stop_broker(s);
		}
		break;
	case RUNNING:
		if (sig == SIGHUP) {
			reload(s);
		}
		forward(s, sig);
		break;
	case ORPHANS:
	case STOPPING:
		if (end && note_told(s) == TOLD_AGAIN) {
			s->deadline = doorbell_now(); /* no more patience */
		}
		break;
	case DONE:
		break;
	}
}

/* True if a child may have changed. */
static bool read_signals(struct supervisor *s)
{
	struct signalfd_siginfo si;
	bool child = false;

	while (read(s->signals, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGCHLD) {
			child = true;
		} else {
			on_signal(s, (int)si.ssi_signo);
		}
	}
	return child;
}

static void on_deadline(struct supervisor *s)
{
	s->deadline = 0;
	switch (s->phase) {
	case RUNNING:
		log_warning("the command did not end in time; killing it");
		kill(-s->group, SIGKILL);
		break;
	case ORPHANS:
		if (s->killing) {
			log_error("processes of the command cannot be killed; leaving them");
			stop_broker(s);
			break;
		}
		s->killing = true;
		set_deadline(s, ORPHAN_KILL_MS);
		break;
	case STOPPING:
		log_warning("the broker did not end in time; killing it pid=%d", (int)s->broker);
		kill(s->broker, SIGKILL);
		break;
	case STARTING:
	case DONE:
		break;
	}
}

static void on_time(struct supervisor *s)
{
	uint64_t now = doorbell_now();

	if (s->deadline != 0 && now >= s->deadline) {
		on_deadline(s);
	}
	if (s->phase == RUNNING && s->restart_at != 0 && now >= s->restart_at) {
		int r;

		reread(s, true);
		r = start_broker(s);
		if (r < 0) {
			log_error("cannot start the broker: %s", strerror(-r));
			broker_failed(s, 0);
		}
	}
	if (s->phase == ORPHANS) {
		check_orphans(s);
	}
}

/* Milliseconds until on_time has something to do, or -1. */
static int next_timeout(const struct supervisor *s)
{
	uint64_t now = doorbell_now(), next = s->deadline;
	uint64_t ms;

	if (s->restart_at != 0 && (next == 0 || s->restart_at < next)) {
		next = s->restart_at;
	}
	if (next == 0) {
		return s->phase == ORPHANS ? ORPHAN_POLL_MS : -1;
	}
	ms = next <= now ? 0 : (next - now + NS_PER_MS - 1) / NS_PER_MS;
	if (s->phase == ORPHANS && ms > ORPHAN_POLL_MS) {
		ms = ORPHAN_POLL_MS;
	}
	return (int)ms;
}

static void turn(struct supervisor *s)
{
	struct pollfd fds[2] = {
		{.fd = s->signals, .events = POLLIN},
		{.fd = s->ready, .events = POLLIN}, /* -1 is skipped */
	};
	bool child;

	if (poll(fds, 2, next_timeout(s)) < 0) {
		check(errno == EINTR);
		return;
	}
	if (fds[1].revents != 0) {
		on_ready(s);
	}
	child = read_signals(s);
	on_time(s);
	while (child && reap_one(s)) {
	}
}

/* ------------------------------------------------------------------------------------------------
 * Set-up
 */

static int watch_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL); /* may be inherited as ignored, which hides deaths */
	sigemptyset(&set);
	for (unsigned i = 0; i < array_size(watched); i++) {
		sigaddset(&set, watched[i]);
	}
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Workers may change directory: they need the whole path. */
static bool absolute_socket(struct supervisor *s)
{
	const char *path = s->cfg->broker.socket;
	char cwd[4096] = "";
	int n;

	if (path[0] != '/' && getcwd(cwd, sizeof(cwd)) == NULL) {
		log_error("cannot find the working directory: %s", strerror(errno));
		return false;
	}
	n = snprintf(s->socket_path, sizeof(s->socket_path), "%s%s%s", cwd,
		path[0] == '/' || strcmp(cwd, "/") == 0 ? "" : "/", path);
	if (n < 0 || (size_t)n >= sizeof(s->socket_path)) {
		log_error("broker.socket: the whole path is longer than the %zu bytes that a "
			  "socket may "
			  "have; choose a shorter one",
			sizeof(s->socket_path) - 1);
		return false;
	}
	return true;
}

static int supervisor_init(struct supervisor *s, const struct supervisor_job *job)
{
	*s = (struct supervisor){
		.job = job,
		.cfg = job->cfg,
		.self = getpid(),
		.attach = {-1, -1},
		.signals = -1,
		.ready = -1,
	};
	if (!absolute_socket(s)) {
		return -ENAMETOOLONG;
	}
	if (close_range(STDERR_FILENO + 1, UINT32_MAX, 0) < 0 ||
		prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ||
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s->attach) < 0) {
		log_error("cannot start: %s", strerror(errno));
		return -errno;
	}
	s->signals = watch_signals();
	if (s->signals < 0) {
		log_error("cannot watch signals: %s", strerror(errno));
		return -errno;
	}
	return 0;
}

static void supervisor_finish(struct supervisor *s)
{
	const int fds[] = {s->attach[0], s->attach[1], s->signals, s->ready};

	for (unsigned i = 0; i < array_size(fds); i++) {
		if (fds[i] >= 0) {
			close(fds[i]);
		}
	}
	config_free(s->reread);
}

int supervisor_run(const struct supervisor_job *job)
{
	struct supervisor s;
	int status = 1;
	int r;

	if (supervisor_init(&s, job) == 0) {
		set_phase(&s, STARTING);
		r = start_broker(&s);
		if (r < 0) {
			log_error("cannot start the broker: %s", strerror(-r));
			s.status = 1;
			set_phase(&s, DONE);
		}
		while (s.phase != DONE) {
			turn(&s);
		}
		status = s.status;
	}
	supervisor_finish(&s);
	return status;
}
