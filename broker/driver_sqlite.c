/* SPDX-License-Identifier: MIT */
/*
 * driver_sqlite.c - SQLite behind the driver interface: one writer and several readers, each an
 * executor thread with a connection of its own.
 *
 * Slot 0 is the writer, slots 1 to N are readers.  A database in memory has only the writer: its
 * readers would wait for the writer's locks instead of reading beside it.
 *
 * This file is the loop's side: it turns requests into jobs, and messages of the executor into
 * results.  What an executor does is in executor.h and sqlite_run.h.
 *
 * A connection's messages are handled in order; one whose rows do not fit into the worker's arena
 * is `current` until the core calls resume, and nothing behind it is looked at.
 *
 * I/O thread only.
 */
#include "driver_sqlite.h"
#include "driver.h"

#include "executor.h"
#include "io.h"
#include "journal.h"
#include "pool.h"
#include "session.h"
#include "sqlite_here.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READERS_MIN 2u
#define READERS_MAX 8u

/* One connection, from connect() to conn_closed(). */
struct sqlite_conn {
	struct conn *c;
	struct executor *ex; /* NULL: the thread could not be started */
	uv_timer_t later; /* then says so, outside of connect() */
	struct exec_job reset; /* the job of reset(): there is one at a time */
	char name[16];
	struct exec_msg *current; /* being handled */
	size_t at; /* bytes of its rows already written */
	bool submitted; /* and the thread not rung for since */
	bool draining; /* drain() is on the stack */
	bool settle; /* a cancel is to be reported as settled */
	bool dropped; /* rows of the head were dropped after its cancel */
	bool closing; /* close() was called */
	bool failed; /* EXEC_FAILED came: gone as soon as the thread has ended */
	bool exited; /* the thread has ended */
	struct sqlite_failure failure;
};

/* -- server ------------------------------------------------------------------------------------ */

struct sqlite_server {
	char *path; /* absolute, or the URI of a database in memory */
	bool memory;
	unsigned readers;
	bool journal; /* what is written is kept for PostgreSQL */
	struct journal_tail tail;
	char *pool; /* its name: the configuration may be replaced while executors run */
	sqlite3 *anchor; /* memory: keeps it while connections come and go; never used otherwise */
	struct sqlite_conn *conns; /* by slot */
	struct sqlite_here *here; /* short reads; NULL: there are no readers, or no memory */
};

static unsigned count_readers(const struct config_pool *pool)
{
	unsigned n = usable_cpus();

	if (pool->readers > 0) {
		return (unsigned)pool->readers;
	}
	return n < READERS_MIN ? READERS_MIN : n > READERS_MAX ? READERS_MAX : n;
}

/* Path of "sqlite:PATH" and "sqlite:///PATH"; NULL and a text in why if it is neither. */
static char *path_of_url(const char *url, char *why, size_t size)
{
	const char *path = url + strlen("sqlite:");
	char cwd[PATH_MAX], *abs = NULL;

	if (strncmp(path, "//", 2) == 0) {
		path += 2;
		if (*path != '/') {
			snprintf(why, size,
				"a path after // must be absolute: sqlite:///PATH, or "
				"sqlite:PATH");
			return NULL;
		}
	}
	if (*path == '\0' || path[strlen(path) - 1] == '/') {
		snprintf(why, size, "the name of the database file is missing: sqlite:PATH");
		return NULL;
	}
	if (*path == '/') {
		abs = strdup(path);
	} else if (getcwd(cwd, sizeof(cwd)) == NULL) {
		snprintf(why, size, "the working directory cannot be read: %s", strerror(errno));
		return NULL;
	} else if (asprintf(&abs, "%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, path) < 0) {
		abs = NULL;
	}
	if (abs == NULL) {
		snprintf(why, size, "out of memory");
	}
	return abs;
}

/* SQLite makes its -wal and -shm files beside the database: the directory must be writable. */
static bool usable_place(const char *path, char *why, size_t size)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t len = slash == path ? 1 : (size_t)(slash - path);
	struct stat st;

	if (len >= sizeof(dir)) {
		snprintf(why, size, "the path is too long");
		return false;
	}
	memcpy(dir, path, len);
	dir[len] = '\0';
	if (stat(dir, &st) < 0) {
		snprintf(why, size, "directory %s: %s; create it or change the path", dir,
			strerror(errno));
	} else if (!S_ISDIR(st.st_mode)) {
		snprintf(why, size, "%s is not a directory; change the path", dir);
	} else if (access(dir, W_OK | X_OK) < 0) {
		snprintf(why, size,
			"directory %s is not writable for the broker, which keeps SQLite's log "
			"files "
			"there; change its owner or mode, or the path",
			dir);
	} else if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
		snprintf(why, size, "%s is not a regular file; change the path", path);
	} else if (access(path, F_OK) == 0 && access(path, R_OK | W_OK) < 0) {
		snprintf(why, size,
			"%s is not readable and writable for the broker; change its owner or mode, "
			"or "
			"the path",
			path);
	} else {
		return true;
	}
	return false;
}

/*
 * The memory VFS shares a database by its name among the connections of one process; the address
 * of this struct makes the name unique.
 */
static bool open_memory(
	struct sqlite_server *s, const struct config_pool *pool, char *why, size_t size)
{
	int flags =
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;

	if (s->journal || pool->nmirror > 0) {
		snprintf(why, size,
			"%s must outlive the broker; write sqlite:PATH with the path of a file",
			s->journal ? "a journal" : "a mirror");
		return false;
	}
	s->memory = true;
	s->readers = 0;
	if (asprintf(&s->path, "file:/shmbroker-%p?vfs=memdb", (void *)s) < 0) {
		s->path = NULL;
		snprintf(why, size, "out of memory");
		return false;
	}
	if (sqlite3_open_v2(s->path, &s->anchor, flags, NULL) != SQLITE_OK) {
		snprintf(why, size, "%s",
			s->anchor != NULL ? sqlite3_errmsg(s->anchor) : "out of memory");
		return false;
	}
	return true;
}

static void sqlite_server_close(void *priv)
{
	struct sqlite_server *s = priv;

	if (s != NULL) {
		sqlite_here_destroy(&s->here);
		sqlite3_close(s->anchor);
		free(s->conns);
		free(s->pool);
		free(s->path);
		free(s);
	}
}

static int sqlite_server_open(struct io *io, const struct config_server *server,
	const struct config_pool *pool, void **priv, char *err, size_t errlen)
{
	struct sqlite_server *s = calloc(1, sizeof(*s));
	char why[PATH_MAX + 256] = "out of memory";
	bool good = false;

	(void)io;
	if (s != NULL) {
		/* Statistics that nobody reads cost a lock at each allocation. */
		(void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
		s->pool = strdup(pool->name);
		s->journal = pool->fallback == FALLBACK_JOURNAL;
		if (strcmp(server->url, "sqlite::memory:") == 0) {
			good = open_memory(s, pool, why, sizeof(why));
		} else {
			s->readers = count_readers(pool);
			s->path = path_of_url(server->url, why, sizeof(why));
			good = s->path != NULL && usable_place(s->path, why, sizeof(why));
		}
		s->conns = calloc(1 + s->readers, sizeof(*s->conns));
		if (good && (s->conns == NULL || s->pool == NULL)) {
			snprintf(why, sizeof(why), "out of memory");
			good = false;
		}
	}
	if (!good) {
		snprintf(err, errlen, "[server %s] url = %s: %s", server->name, server->url, why);
		sqlite_server_close(s);
		return -1;
	}
	if (s->readers > 0) {
		s->here = sqlite_here_create(&(struct executor_options){
			.path = s->path, .max_prepared = (unsigned)pool->max_prepared});
	}
	*priv = s;
	return 0;
}

const char *sqlite_server_path(const void *server_priv)
{
	const struct sqlite_server *s = server_priv;

	return s->memory ? NULL : s->path;
}

const struct journal_tail *sqlite_server_tail(const void *server_priv)
{
	const struct sqlite_server *s = server_priv;

	return s->journal ? &s->tail : NULL;
}

static unsigned sqlite_size(void *server_priv, const struct config_pool *pool)
{
	struct sqlite_server *s = server_priv;

	(void)pool;
	return 1 + s->readers;
}

/* Reads never go to the writer: a long one would keep all writes waiting. */
static unsigned sqlite_roles(void *server_priv, unsigned slot)
{
	struct sqlite_server *s = server_priv;

	if (s->readers == 0) {
		return CONN_READS | CONN_WRITES;
	}
	return slot == 0 ? CONN_WRITES : CONN_READS;
}

/* -- connection -------------------------------------------------------------------------------- */

static struct request *head_of(struct conn *c)
{
	return cds_list_empty(&c->inflight)
		       ? NULL
		       : cds_list_first_entry(&c->inflight, struct request, link);
}

static void free_job(struct sqlite_conn *s, struct exec_job *job)
{
	if (job == &s->reset) {
		return;
	}
	statement_put(s->c->io->statements, job->stmt);
	exec_job_destroy(job);
}

/* Everything is gone: tell the core. */
static void report_closed(struct sqlite_conn *s)
{
	struct sqlite_failure failure = s->failure; /* conn_closed may connect again */
	struct failure f = sqlite_failure_view(&failure);

	conn_closed(s->c, s->failed && !s->closing ? &f : NULL);
}

static void on_executor_gone(void *arg)
{
	report_closed(arg);
}

static void on_later_closed(uv_handle_t *h)
{
	report_closed(h->data);
}

/* -- messages ---------------------------------------------------------------------------------- */

/*
 * Write rows of the head; false: its worker's arena is full.  After a cancel nobody waits for rows:
 * they are dropped, so that a worker that does not read cannot hold the connection.
 */
static bool write_rows(struct sqlite_conn *s, struct request *r, const void *rows, size_t len)
{
	if (r->cancel_wanted) {
		s->dropped |= s->at < len;
		s->at = len;
	}
	if (s->at < len) {
		s->at += request_write(r, (const unsigned char *)rows + s->at, len - s->at);
	}
	return s->at == len;
}

static void count_job(struct conn *c, const struct exec_job *job)
{
	struct board *b = c->io->board;
	unsigned p = c->pool->index;

	if (job->group > 1) {
		board_pool_count(b, p, POOL_METRIC_GROUP_COMMITS, 1);
		board_pool_count(b, p, POOL_METRIC_GROUP_STATEMENTS, job->group);
	}
	board_pool_count(b, p, POOL_METRIC_PREPARED_HITS, job->hits);
	board_pool_count(b, p, POOL_METRIC_PREPARED_MISSES, job->misses);
	board_pool_count(b, p, POOL_METRIC_PREPARED_EVICTIONS, job->evictions);
}

/* The statement ended well but its worker did not get all rows, since it was cancelled. */
static void fail_dropped(struct request *r, const struct exec_job *job)
{
	struct failure f = {
		.code = FAIL_CANCELLED,
		.sqlstate = "57014",
		.message = "statement cancelled while its rows were delivered",
	};

	if (job->changed && !job->leased) {
		f.code = FAIL_OUTCOME_UNKNOWN;
		f.unknown = true;
		f.message = "cancelled while its rows were delivered; its changes were committed";
	}
	request_failed(r, &f);
}

static void end_request(struct sqlite_conn *s, struct request *r, struct exec_job *job)
{
	bool dropped = s->dropped;

	s->dropped = false;
	r->driver_priv = NULL;
	if (job->failed) {
		struct failure f = sqlite_failure_view(&job->failure);

		request_failed(r, &f);
	} else if (dropped) {
		fail_dropped(r, job);
	} else {
		request_done(r, job->nrows);
	}
}

/* A request for which there was no memory has no job; it fails when its turn comes. */
static void fail_heads_without_job(struct sqlite_conn *s)
{
	static const struct failure f = {.code = FAIL_MEMORY,
		.sqlstate = "53200",
		.retry_safe = true,
		.message = "out of memory in the broker"};
	struct request *r;

	while (!s->closing && !s->failed && (r = head_of(s->c)) != NULL && r->driver_priv == NULL) {
		request_failed(r, &f);
	}
}

/* false: the worker's arena is full, come again. */
static bool handle_end(struct sqlite_conn *s, struct exec_job *job)
{
	struct conn *c = s->c;
	struct request *r;

	if (job->op == EXEC_RESET) {
		bool good = !job->failed;

		c->tx = job->tx;
		free_job(s, job);
		conn_reset_done(c, good);
		return true;
	}
	r = head_of(c);
	check(r != NULL && r->driver_priv == job);
	if (!job->failed && !write_rows(s, r, job->rows, job->rows_len)) {
		return false;
	}
	s->at = 0;
	c->tx = job->tx;
	c->dirty |= job->dirty;
	count_job(c, job);
	if (job->took_ns != 0 && job->stmt != NULL) {
		sqlite_here_learn(job->stmt, job);
	}
	end_request(s, r, job);
	free_job(s, job);
	fail_heads_without_job(s);
	return true;
}

static bool handle_block(struct sqlite_conn *s, struct exec_block *b)
{
	struct request *r = head_of(s->c);

	check(r != NULL && r->driver_priv == b->job);
	if (!write_rows(s, r, b->data, b->len)) {
		return false;
	}
	s->at = 0;
	executor_recycle(s->ex, b);
	return true;
}

static bool handle(struct sqlite_conn *s, struct exec_msg *m)
{
	switch (m->kind) {
	case EXEC_READY:
		conn_ready(s->c);
		return true;
	case EXEC_BLOCK:
		return handle_block(s, exec_block_of(m));
	case EXEC_END:
		return handle_end(s, exec_job_of(m));
	case EXEC_DROPPED:
		free_job(s, exec_job_of(m));
		return true;
	case EXEC_FAILED:
		s->failed = true;
		s->failure = exec_failed_of(m)->failure;
		executor_stop(s->ex);
		return true;
	case EXEC_EXITED:
		break;
	}
	return true;
}

/* After close() the requests are gone; their jobs and rows are only freed. */
static void dispose(struct sqlite_conn *s, struct exec_msg *m)
{
	if (m->kind == EXEC_BLOCK) {
		executor_recycle(s->ex, exec_block_of(m));
	} else if (m->kind == EXEC_END || m->kind == EXEC_DROPPED) {
		free_job(s, exec_job_of(m));
	}
}

static void drain(struct sqlite_conn *s)
{
	if (s->draining) {
		return;
	}
	s->draining = true;
	for (;;) {
		if (s->current == NULL) {
			s->current = executor_receive(s->ex);
		}
		if (s->current == NULL) {
			break;
		}
		if (s->current->kind == EXEC_EXITED) {
			s->exited = true;
			executor_destroy(s->ex, on_executor_gone, s);
			return; /* `draining` stays: there is nothing more */
		}
		if (s->closing) {
			dispose(s, s->current);
		} else if (!handle(s, s->current)) {
			break;
		}
		s->current = NULL;
	}
	s->draining = false;
}

static void on_message(void *arg)
{
	struct sqlite_conn *s = arg;

	if (s->settle) {
		s->settle = false;
		if (!s->closing) {
			conn_cancel_settled(s->c);
		}
	}
	drain(s);
}

/* -- the vtable -------------------------------------------------------------------------------- */

static void on_later(uv_timer_t *t)
{
	uv_close((uv_handle_t *)t, on_later_closed);
}

static void cannot_start(struct sqlite_conn *s, int err)
{
	s->ex = NULL;
	s->failed = true;
	sqlite_failure_set(&s->failure, FAIL_UNAVAILABLE, "",
		"cannot start a thread for SQLite: %s", uv_strerror(err));
	uv_timer_init(io_uv(s->c->io), &s->later);
	s->later.data = s;
	uv_timer_start(&s->later, on_later, 0, 0);
}

static void sqlite_connect(struct conn *c)
{
	struct sqlite_server *server = c->server_priv;
	struct sqlite_conn *s = &server->conns[c->slot];
	struct executor_options opt = {
		.path = server->path,
		.memory = server->memory,
		.writer = server->readers == 0 || c->slot == 0,
		.max_prepared = (unsigned)c->pool->config->max_prepared,
		.busy_ms = c->pool->config->busy_timeout,
		.open_ms = c->member->server->config->connect_timeout,
		.journal = server->journal ? server->pool : NULL,
		.tail = &server->tail,
	};
	int err;

	memset(s, 0, sizeof(*s));
	s->c = c;
	c->priv = s;
	snprintf(s->name, sizeof(s->name), c->slot == 0 ? "sqlite-writer" : "sqlite-read-%u",
		c->slot % 1000);
	opt.name = s->name;
	err = executor_create(io_uv(c->io), &opt, on_message, s, &s->ex);
	if (err < 0) {
		cannot_start(s, err);
	}
}

static enum exec_op op_of(const struct request *r)
{
	return r->op == REQ_COMMIT     ? EXEC_COMMIT
	       : r->op == REQ_ROLLBACK ? EXEC_ROLLBACK
				       : EXEC_STATEMENT;
}

static void refuse_copy(struct request *r)
{
	static const struct failure f = {.code = FAIL_UNSUPPORTED,
		.message = "SQLite has no COPY",
		.hint = "Use INSERT with several rows of VALUES, in a transaction; use SELECT to "
			"read."};

	request_failed(r, &f);
}

/* Who it is, for the journal.  Without memory, or if the worker is gone, it goes without a name. */
static struct journal_source *source_of(const struct request *r)
{
	struct journal_source *source;

	if (r->session == NULL || (source = calloc(1, sizeof(*source))) == NULL) {
		return NULL;
	}
	source->pid = session_pid(r->session);
	snprintf(source->worker, sizeof(source->worker), "%s", session_name(r->session));
	memcpy(source->tag, r->tag, r->tag_len);
	return source;
}

/* Nothing may be before it, in flight or on its way from the executor. */
static bool may_run_here(const struct sqlite_conn *s, const struct request *r)
{
	const struct sqlite_server *server = s->c->server_priv;

	return server->here != NULL && (s->c->roles & CONN_WRITES) == 0 && r->lease == NULL &&
	       r->op == REQ_EXEC && s->c->ninflight == 1 && s->current == NULL && !s->draining &&
	       !s->closing && sqlite_here_may_run(r->stmt);
}

static void sqlite_start(struct conn *c, struct request *r, unsigned begin)
{
	const struct sqlite_server *server = c->server_priv;
	struct sqlite_conn *s = c->priv;
	struct exec_job *job;

	r->driver_priv = NULL;
	if (r->op == REQ_COPY_IN || r->op == REQ_COPY_OUT) {
		refuse_copy(r); /* nothing else is in flight, it is the head */
		return;
	}
	if (s->failed) {
		return; /* conn_closed is on its way and deals with it */
	}
	job = exec_job_create(r->nparams, r->params);
	if (job == NULL) {
		fail_heads_without_job(s);
		return;
	}
	job->op = op_of(r);
	job->leased = r->lease != NULL;
	job->readonly = (r->flags & REQ_F_READONLY) != 0;
	job->begin = begin;
	job->deadline_ns = r->deadline_ns;
	job->stmt = r->stmt;
	job->arg = r;
	job->source = server->journal && (c->roles & CONN_WRITES) != 0 ? source_of(r) : NULL;
	if (r->stmt != NULL) {
		statement_hold(r->stmt);
	}
	r->driver_priv = job;
	if (may_run_here(s, r) && sqlite_here_run(server->here, job, io_now(c->io))) {
		board_pool_count(c->io->board, c->pool->index, POOL_METRIC_READS_HERE, 1);
		s->current = &job->msg;
		job->msg.kind = EXEC_END;
		conn_want_flush(c);
		drain(s);
		return;
	}
	executor_submit(s->ex, job);
	s->submitted = true;
	conn_want_flush(c);
}

/* Once for all that this turn has brought: what comes together commits together. */
static void sqlite_flush(struct conn *c)
{
	struct sqlite_conn *s = c->priv;

	const struct sqlite_server *server = c->server_priv;

	if (server->here != NULL) {
		sqlite_here_rest(server->here);
	}
	if (s->submitted && !s->failed) {
		executor_ring(s->ex);
	}
	s->submitted = false;
}

static void sqlite_resume(struct conn *c)
{
	struct sqlite_conn *s = c->priv;

	if (s->ex != NULL) {
		drain(s);
	}
}

/* The core hands out no COPY here: start() refused it. */
static bool sqlite_copy_data(struct conn *c, const void *data, size_t len)
{
	(void)c;
	(void)data;
	(void)len;
	return true;
}

static void sqlite_copy_end(struct conn *c, const char *error)
{
	(void)c;
	(void)error;
}

/*
 * The flag belongs to one job, so nothing that starts later can be hit: it is settled as soon as
 * the callback may be made.  The executor is rung because it may be waiting for blocks.
 */
static void sqlite_cancel(struct conn *c)
{
	struct sqlite_conn *s = c->priv;
	struct request *r = head_of(c);

	if (s->failed) {
		return; /* conn_closed follows */
	}
	if (r != NULL && r->driver_priv != NULL) {
		executor_cancel(s->ex, r->driver_priv);
	}
	/* those behind it that nobody wants any more either */
	cds_list_for_each_entry(r, &c->inflight, link)
	{
		if (r->cancel_wanted && r->driver_priv != NULL) {
			executor_cancel(s->ex, r->driver_priv);
		}
	}
	s->settle = true;
	executor_nudge(s->ex); /* also drops rows that wait for their worker */
}

static void sqlite_reset(struct conn *c, unsigned what)
{
	struct sqlite_conn *s = c->priv;

	if (s->failed) {
		return; /* conn_closed follows */
	}
	memset(&s->reset, 0, sizeof(s->reset));
	s->reset.op = EXEC_RESET;
	s->reset.what = what;
	executor_submit(s->ex, &s->reset);
	executor_ring(s->ex);
}

static void sqlite_close(struct conn *c)
{
	struct sqlite_conn *s = c->priv;

	const struct sqlite_server *server = c->server_priv;

	s->closing = true;
	if (server->here != NULL) {
		sqlite_here_rest(server->here); /* nobody flushes any more */
	}
	if (s->ex == NULL || s->exited) {
		return; /* conn_closed is on its way */
	}
	executor_stop(s->ex);
	executor_nudge(s->ex); /* to dispose of a message that waited for its worker */
}

const struct driver driver_sqlite = {
	.name = "sqlite",
	.share = DRIVER_SHARE_WRITES,
	.server_open = sqlite_server_open,
	.server_close = sqlite_server_close,
	.size = sqlite_size,
	.roles = sqlite_roles,
	.connect = sqlite_connect,
	.start = sqlite_start,
	.flush = sqlite_flush,
	.resume = sqlite_resume,
	.copy_data = sqlite_copy_data,
	.copy_end = sqlite_copy_end,
	.cancel = sqlite_cancel,
	.reset = sqlite_reset,
	.close = sqlite_close,
};
