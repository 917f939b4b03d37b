/* SPDX-License-Identifier: MIT */
/* shards.c - see shards.h. */
#include "shards.h"

#include "atomics.h"
#include "io.h"
#include "lending.h"
#include "log.h"
#include "queue.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct shard {
	struct io *io;
	struct io own; /* what io points to, but for shard 0 */
	uv_async_t async; /* any shard sends */
	struct queue mail;
	uv_thread_t thread;
	bool running;
	_Atomic uint32_t placed; /* sessions; shard 0 adds, its own thread subtracts */
};

struct shards {
	unsigned n;
	struct lending_line *lines; /* by shard and pool */
	unsigned depth; /* of shards_stop; shard 0's */
	unsigned nrunning;

	pthread_mutex_t lock; /* what follows */
	pthread_cond_t changed;
	bool stopped;
	unsigned parked;

	struct shard shard[];
};

static struct shard *shard_of(struct io *io)
{
	return &io->shards->shard[io->shard];
}

unsigned shards_count(const struct io *io)
{
	return io->shards == NULL ? 1 : io->shards->n;
}

struct io *shards_at(struct io *io, unsigned i)
{
	check(i < shards_count(io));
	return io->shards == NULL ? io : io->shards->shard[i].io;
}

/* -- mail -------------------------------------------------------------------------------------- */

void shards_post(struct io *to, struct mail *m)
{
	queue_push(&shard_of(to)->mail, &m->node);
	uv_async_send(&shard_of(to)->async);
}

void shards_ring(struct io *to)
{
	uv_async_send(&shard_of(to)->async);
}

/* True: there was some. */
static bool deliver(struct shard *s)
{
	struct cds_wfcq_node *node;
	bool some = false;

	s->io->now_fresh = false; /* stamps that come with mail are not from the future */
	while ((node = queue_pop(&s->mail)) != NULL) {
		struct mail *m = caa_container_of(node, struct mail, node);

		m->deliver(s->io, m);
		some = true;
	}
	return some;
}

/* Stand still while shard 0 wants it. */
static void park(struct shards *all)
{
	pthread_mutex_lock(&all->lock);
	if (all->stopped) {
		all->parked++;
		pthread_cond_broadcast(&all->changed);
		while (all->stopped) {
			pthread_cond_wait(&all->changed, &all->lock);
		}
		all->parked--;
	}
	pthread_mutex_unlock(&all->lock);
}

static void on_async(uv_async_t *a)
{
	struct shard *s = a->data;

	(void)deliver(s);
	if (s->io->shard != 0) {
		park(s->io->shards);
	}
}

/* -- the world --------------------------------------------------------------------------------- */

static void act_for_all(struct shards *all, bool act)
{
	uv_thread_t self = uv_thread_self();

	for (unsigned i = 1; i < all->n; i++) {
		struct shard *s = &all->shard[i];

		s->io->thread = act || !s->running ? self : s->thread;
		s->io->now_fresh = false;
	}
}

/* Delivering may make more of it. */
static void deliver_all(struct shards *all)
{
	bool some = true;

	while (some) {
		some = false;
		for (unsigned i = 0; i < all->n; i++) {
			some |= deliver(&all->shard[i]);
		}
	}
}

void shards_stop(struct io *io)
{
	struct shards *all = io->shards;

	if (all == NULL || all->depth++ > 0) {
		return;
	}
	check(io->shard == 0);
	pthread_mutex_lock(&all->lock);
	all->stopped = true;
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 1; i < all->n; i++) {
		if (all->shard[i].running) {
			shards_ring(all->shard[i].io);
		}
	}
	pthread_mutex_lock(&all->lock);
	while (all->parked < all->nrunning) {
		pthread_cond_wait(&all->changed, &all->lock);
	}
	pthread_mutex_unlock(&all->lock);
	act_for_all(all, true);
	deliver_all(all);
}

void shards_go(struct io *io)
{
	struct shards *all = io->shards;

	if (all == NULL || --all->depth > 0) {
		return;
	}
	deliver_all(all);
	act_for_all(all, false);
	pthread_mutex_lock(&all->lock);
	all->stopped = false;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
}

void shards_close(struct io *io)
{
	if (io->shards != NULL) {
		check(queue_empty(&shard_of(io)->mail));
		uv_close((uv_handle_t *)&shard_of(io)->async, NULL);
	}
}

/* -- sessions ---------------------------------------------------------------------------------- */

struct io *shards_place(struct io *io)
{
	struct shard *best;

	if (io->shards == NULL) {
		return io;
	}
	best = &io->shards->shard[0];
	for (unsigned i = 1; i < io->shards->n; i++) {
		struct shard *s = &io->shards->shard[i];

		best = get(&s->placed) < get(&best->placed) ? s : best;
	}
	add_shared(&best->placed, 1);
	return best->io;
}

void shards_unplace(struct io *io)
{
	if (io->shards != NULL) {
		add_shared(&shard_of(io)->placed, (uint32_t)-1);
	}
}

/* -- life -------------------------------------------------------------------------------------- */

static int make_shard(struct shards *all, unsigned i, struct io *first, struct board *part)
{
	struct shard *s = &all->shard[i];

	s->io = i == 0 ? first : &s->own;
	if (i > 0 && io_init_beside(s->io, first, part) < 0) {
		board_destroy(&part);
		return -1;
	}
	s->io->board = part;
	s->io->shards = all;
	s->io->shard = i;
	s->io->lines = all->lines;
	io_share_cpus(s->io, all->n);
	statements_number(s->io->statements, i + 1, all->n);
	queue_init(&s->mail);
	s->async.data = s;
	return uv_async_init(&s->io->loop, &s->async, on_async);
}

static int make_tables(struct io *io, unsigned max_pools, unsigned max_servers)
{
	if (io->shard > 0) {
		io->pools = calloc(max_pools, sizeof(struct pool *));
		io->servers = calloc(max_servers, sizeof(struct server *));
	}
	return io->pools == NULL || io->servers == NULL ? -1 : 0;
}

int shards_create(struct io *io, unsigned n, unsigned max_pools, unsigned max_servers)
{
	struct board *whole = io->board;
	struct shards *all;

	check(n > 1 && n <= SHARDS_MAX);
	all = calloc(1, sizeof(*all) + n * sizeof(struct shard));
	if (all == NULL) {
		return -ENOMEM;
	}
	all->n = n;
	pthread_mutex_init(&all->lock, NULL);
	pthread_cond_init(&all->changed, NULL);
	all->lines = lending_lines_create(n, max_pools);
	if (all->lines == NULL) {
		return -ENOMEM; /* the broker ends */
	}
	for (unsigned i = 0; i < n; i++) {
		struct board *part = board_part(whole, i, n);

		if (part == NULL || make_shard(all, i, io, part) < 0 ||
			make_tables(all->shard[i].io, max_pools, max_servers) < 0) {
			return -ENOMEM;
		}
	}
	return 0;
}

static void run(void *arg)
{
	struct shard *s = arg;

	s->io->thread = uv_thread_self();
	io_run(s->io);
}

/* They take no signals: those are shard 0's. */
int shards_start(struct io *io)
{
	struct shards *all = io->shards;
	sigset_t every, old;
	int rc = 0;

	if (all == NULL) {
		return 0;
	}
	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &old);
	for (unsigned i = 1; rc == 0 && i < all->n; i++) {
		struct shard *s = &all->shard[i];

		rc = uv_thread_create(&s->thread, run, s);
		s->running = rc == 0;
		all->nrunning += s->running;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0) {
		log_error("cannot start an I/O thread: %s", uv_strerror(rc));
	}
	return rc;
}

void shards_join(struct io *io)
{
	struct shards *all = io->shards;

	for (unsigned i = 1; all != NULL && i < all->n; i++) {
		struct shard *s = &all->shard[i];

		if (s->running) {
			uv_thread_join(&s->thread);
			s->io->thread = uv_thread_self();
		} else {
			io_run(s->io);
		}
	}
}

void shards_destroy(struct io *io)
{
	struct shards *all = io->shards;

	if (all == NULL) {
		return;
	}
	for (unsigned i = 0; i < all->n; i++) {
		struct io *x = all->shard[i].io;

		board_destroy(&x->board);
		if (i > 0) {
			free(x->pools);
			free(x->servers);
			io_finish(x);
		}
	}
	io->shards = NULL;
	lending_lines_destroy(all->lines);
	pthread_cond_destroy(&all->changed);
	pthread_mutex_destroy(&all->lock);
	free(all);
}
