/* SPDX-License-Identifier: MIT */
/*
 * sched.c - see sched.h.
 *
 * One run follows the decisions on the path (struct node) and extends it until nobody can go on or
 * a known state is met; then the last node with a decision left is advanced and the next run
 * starts.
 */
#include "sched.h"

#include "atomics.h"
#include "tap.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define MODEL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MODEL_ASAN 1
#endif
#endif
#ifdef MODEL_ASAN
#include <sanitizer/asan_interface.h>
#endif

#define STACK_SIZE (64 * 1024)
#define BUFFER_MAX 64
#define DEPTH_MAX 4096
#define ACTIONS_MAX (MODEL_THREADS * (BUFFER_MAX + 2))

struct hash {
	uint64_t a, b;
};

enum op_kind {
	OP_LOAD,
	OP_STORE,
	OP_FULL_FENCE,
	OP_WRITE_FENCE,
	OP_EVENT_RING,
	OP_EVENT_WAIT,
	OP_FUTEX_WAIT,
	OP_FUTEX_SLEEP,
	OP_FUTEX_WAKE,
};

struct op {
	enum op_kind kind;
	const volatile void *p;
	uint64_t value;
	unsigned size;
	bool release;
};

/* A store on its way to memory; size 0: a write fence. */
struct entry {
	volatile void *p;
	uint64_t value;
	unsigned size;
	bool release;
};

enum fate {
	RUNNING,
	FINISHED,
	KILLED,
};

struct thread {
	ucontext_t context;
	char stack[STACK_SIZE];
	enum fate fate;
	struct op next; /* what it does when it is scheduled */
	bool woken; /* OP_FUTEX_SLEEP may return */
	struct hash history; /* of everything it has read and done */
	struct entry buffer[BUFFER_MAX];
	unsigned buffered;
};

enum action_kind {
	ACT_STEP,
	ACT_FLUSH,
	ACT_KILL,
};

struct action {
	uint8_t kind;
	uint8_t thread;
	uint8_t entry;
};

struct node {
	unsigned chosen, count; /* of the actions possible here */
	size_t slot; /* in the table of states */
	double paths;
};

struct state {
	struct hash key;
	double paths; /* to the end; 0: being explored */
};

struct trace {
	struct action action;
	struct op op;
};

static const struct model *model;
static struct model_result *result;
static struct thread threads[MODEL_THREADS];
static unsigned nthreads;
static int current; /* the coroutine that runs, -1: the scheduler */
static bool someone_killed;
static ucontext_t scheduler;
static struct hash memory; /* of the shared memory; 0: as it was after reset */

static struct node path[DEPTH_MAX];
static struct trace trace[DEPTH_MAX];
static unsigned depth; /* nodes on the path */
static struct state *table;
static size_t table_size; /* power of two */

/* ------------------------------------------------------------------------------------------------
 * Hashes
 */

static uint64_t scramble(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static void mix(struct hash *h, uint64_t v)
{
	h->a = scramble(h->a ^ scramble(v + UINT64_C(0x9e3779b97f4a7c15)));
	h->b = scramble(
		(h->b + UINT64_C(0x632be59bd9b4e019)) ^ scramble(v ^ UINT64_C(0xd1b54a32d192ed03)));
}

/* The contribution of one word to the hash of memory, which is a sum over words. */
static struct hash word_hash(const volatile void *p, uint64_t value)
{
	struct hash h = {1, 2};

	mix(&h, (uint64_t)((const volatile char *)p - (const char *)model->shared));
	mix(&h, value);
	return h;
}

/* ------------------------------------------------------------------------------------------------
 * Memory
 */

static bool is_shared(const volatile void *p)
{
	uintptr_t at = (uintptr_t)p, start = (uintptr_t)model->shared;

	return at - start < model->shared_len;
}

static uint64_t read_word(const volatile void *p, unsigned size)
{
	return size == 8 ? *(const volatile uint64_t *)p : *(const volatile uint32_t *)p;
}

static void write_word(volatile void *p, uint64_t value, unsigned size)
{
	struct hash was, is;

	if (is_shared(p)) {
		was = word_hash(p, read_word(p, size));
		is = word_hash(p, value);
		memory.a += is.a - was.a;
		memory.b += is.b - was.b;
	}
	if (size == 8) {
		*(volatile uint64_t *)p = value;
	} else {
		*(volatile uint32_t *)p = (uint32_t)value;
	}
}

/* What coroutine t reads: its own latest store that is still buffered, else memory. */
static uint64_t read_through(const struct thread *t, const volatile void *p, unsigned size)
{
	for (unsigned i = t->buffered; i-- > 0;) {
		if (t->buffer[i].p == p) {
			return t->buffer[i].value;
		}
	}
	return read_word(p, size);
}

static void drop_entry(struct thread *t, unsigned at)
{
	memmove(&t->buffer[at], &t->buffer[at + 1], (--t->buffered - at) * sizeof(t->buffer[0]));
}

static void flush_entry(struct thread *t, unsigned at)
{
	struct entry e = t->buffer[at];

	drop_entry(t, at);
	write_word(e.p, e.value, e.size);
	while (t->buffered > 0 && t->buffer[0].size == 0) {
		drop_entry(t, 0); /* a write fence with nothing before it is done */
	}
}

static bool may_flush(const struct thread *t, unsigned at)
{
	if (at == 0) {
		return true;
	}
	if (model->memory == MODEL_TSO || t->buffer[at].release || t->buffer[at].size == 0) {
		return false;
	}
	for (unsigned i = 0; i < at; i++) {
		if (t->buffer[i].size == 0 || t->buffer[i].p == t->buffer[at].p) {
			return false;
		}
	}
	return true;
}

static void buffer_store(
	struct thread *t, volatile void *p, uint64_t value, unsigned size, bool release)
{
	if (model->memory == MODEL_SC) {
		if (size != 0) {
			write_word(p, value, size);
		}
		return;
	}
	if (size == 0 && (t->buffered == 0 || model->memory == MODEL_TSO)) {
		return;
	}
	t->buffer[t->buffered++] =
		(struct entry){.p = p, .value = value, .size = size, .release = release};
}

/* ------------------------------------------------------------------------------------------------
 * Coroutines
 */

/* Stop before an access; returns when the scheduler lets it happen. */
static struct thread *point(struct op op)
{
	struct thread *t = &threads[current];

	t->next = op;
	swapcontext(&t->context, &scheduler);
	return &threads[current];
}

static void learn(struct thread *t, enum op_kind kind, uint64_t value)
{
	mix(&t->history, (uint64_t)kind);
	mix(&t->history, value);
}

uint64_t model_load(const volatile void *p, unsigned size)
{
	struct thread *t;
	uint64_t value;

	if (current < 0 || !is_shared(p)) {
		return read_word(p, size);
	}
	t = point((struct op){.kind = OP_LOAD, .p = p, .size = size});
	value = read_through(t, p, size);
	learn(t, OP_LOAD, value);
	return value;
}

void model_store(volatile void *p, uint64_t v, unsigned size, int release)
{
	struct thread *t;

	if (current < 0 || !is_shared(p)) {
		write_word(p, v, size);
		return;
	}
	t = point((struct op){
		.kind = OP_STORE, .p = p, .size = size, .value = v, .release = release});
	buffer_store(t, p, v, size, release);
	learn(t, OP_STORE, 0);
}

void model_full_fence(void)
{
	learn(point((struct op){.kind = OP_FULL_FENCE}), OP_FULL_FENCE, 0);
}

void model_write_fence(void)
{
	struct thread *t = point((struct op){.kind = OP_WRITE_FENCE});

	buffer_store(t, NULL, 0, 0, false);
	learn(t, OP_WRITE_FENCE, 0);
}

static void must_be_shared(const volatile void *p)
{
	if (!is_shared(p)) {
		bail_out("model: events and futex words have to be in the shared memory");
	}
}

void model_event_ring(uint64_t *event)
{
	struct thread *t = point((struct op){.kind = OP_EVENT_RING, .p = event, .size = 8});

	must_be_shared(event);
	write_word(event, 1, 8);
	learn(t, OP_EVENT_RING, 0);
}

void model_event_wait(uint64_t *event)
{
	struct thread *t = point((struct op){.kind = OP_EVENT_WAIT, .p = event, .size = 8});

	write_word(event, 0, 8);
	learn(t, OP_EVENT_WAIT, 0);
}

void model_futex_wait(const volatile void *word, uint32_t seen)
{
	struct thread *t = point((struct op){.kind = OP_FUTEX_WAIT, .p = word, .size = 4});
	bool sleeps = read_word(word, 4) == seen;

	learn(t, OP_FUTEX_WAIT, sleeps);
	if (sleeps) {
		t->woken = false;
		t = point((struct op){.kind = OP_FUTEX_SLEEP, .p = word, .size = 4});
		learn(t, OP_FUTEX_SLEEP, 0);
	}
}

void model_futex_wake(const volatile void *word)
{
	struct thread *t = point((struct op){.kind = OP_FUTEX_WAKE, .p = word, .size = 4});

	for (unsigned i = 0; i < nthreads; i++) {
		if (threads[i].next.kind == OP_FUTEX_SLEEP && threads[i].next.p == word) {
			threads[i].woken = true;
		}
	}
	learn(t, OP_FUTEX_WAKE, 0);
}

void model_local_at(int line, const void *data, size_t len)
{
	struct thread *t = &threads[current];
	const unsigned char *bytes = data;

	t->history = (struct hash){(uint64_t)line, len};
	for (size_t i = 0; i < len; i++) {
		mix(&t->history, bytes[i]);
	}
}

void model_assert(bool cond, const char *claim)
{
	if (cond || result->failure[0] != '\0') {
		return;
	}
	snprintf(result->failure, sizeof(result->failure), "%s", claim);
	if (current >= 0) {
		swapcontext(&threads[current].context, &scheduler); /* never comes back */
	}
}

bool model_finished(unsigned i)
{
	return threads[i].fate == FINISHED;
}

bool model_killed(unsigned i)
{
	return threads[i].fate == KILLED;
}

static void enter(int i)
{
	current = i;
	swapcontext(&scheduler, &threads[i].context);
	current = -1;
}

static void trampoline(int i)
{
	model->body[i](model->arg);
	threads[i].fate = FINISHED;
	swapcontext(&threads[i].context, &scheduler);
}

static void start_thread(int i)
{
	struct thread *t = &threads[i];

#ifdef MODEL_ASAN
	__asan_unpoison_memory_region(t->stack, sizeof(t->stack)); /* frames of the run before */
#endif
	t->fate = RUNNING;
	t->woken = false;
	t->history = (struct hash){0, 0};
	t->buffered = 0;
	getcontext(&t->context);
	t->context.uc_stack.ss_sp = t->stack;
	t->context.uc_stack.ss_size = sizeof(t->stack);
	t->context.uc_link = NULL;
	makecontext(&t->context, (void (*)(void))trampoline, 1, i);
	enter(i); /* to its first access */
}

/* ------------------------------------------------------------------------------------------------
 * Decisions
 */

static bool may_step(const struct thread *t)
{
	if (t->fate != RUNNING) {
		return false;
	}
	switch (t->next.kind) {
	case OP_FULL_FENCE:
	case OP_FUTEX_WAIT:
	case OP_FUTEX_WAKE:
		return t->buffered == 0;
	case OP_STORE:
	case OP_WRITE_FENCE:
		return t->buffered < BUFFER_MAX;
	case OP_EVENT_WAIT:
		return read_word(t->next.p, 8) != 0;
	case OP_FUTEX_SLEEP:
		return t->woken;
	default:
		return true;
	}
}

static unsigned possible_actions(struct action *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < nthreads; i++) {
		const struct thread *t = &threads[i];

		if (may_step(t)) {
			out[n++] = (struct action){ACT_STEP, (uint8_t)i, 0};
		}
		for (unsigned e = 0; e < t->buffered; e++) {
			if (may_flush(t, e)) {
				out[n++] = (struct action){ACT_FLUSH, (uint8_t)i, (uint8_t)e};
			}
		}
		if (t->fate == RUNNING && !someone_killed && (model->killable >> i & 1)) {
			out[n++] = (struct action){ACT_KILL, (uint8_t)i, 0};
		}
	}
	return n;
}

static void act(struct action a, struct trace *record)
{
	struct thread *t = &threads[a.thread];

	record->action = a;
	record->op = t->next;
	switch (a.kind) {
	case ACT_STEP:
		if (t->next.kind == OP_LOAD) {
			record->op.value = read_through(t, t->next.p, t->next.size);
		}
		enter(a.thread);
		break;
	case ACT_FLUSH:
		record->op.p = t->buffer[a.entry].p;
		record->op.value = t->buffer[a.entry].value;
		flush_entry(t, a.entry);
		break;
	case ACT_KILL:
		t->fate = KILLED;
		someone_killed = true;
		break;
	}
}

static struct hash state_key(void)
{
	struct hash h = memory;

	for (unsigned i = 0; i < nthreads; i++) {
		const struct thread *t = &threads[i];

		mix(&h, t->history.a);
		mix(&h, t->history.b);
		mix(&h, (uint64_t)t->fate << 32 | (uint64_t)t->woken << 16 | t->buffered);
		for (unsigned e = 0; e < t->buffered; e++) {
			mix(&h, (uintptr_t)t->buffer[e].p - (uintptr_t)model->shared);
			mix(&h, t->buffer[e].value);
			mix(&h, (uint64_t)t->buffer[e].size << 1 | t->buffer[e].release);
		}
	}
	h.a |= 1; /* never 0: an empty slot of the table */
	return h;
}

/* Slot of the state; *known if it was there before. */
static size_t find_state(struct hash key, bool *known)
{
	size_t i = key.a >> 1 & (table_size - 1);

	while (table[i].key.a != 0 && (table[i].key.a != key.a || table[i].key.b != key.b)) {
		i = (i + 1) & (table_size - 1);
	}
	*known = table[i].key.a != 0;
	table[i].key = key;
	return i;
}

static void reset_run(void)
{
	memset(model->shared, 0, model->shared_len);
	memory = (struct hash){0, 0};
	someone_killed = false;
	current = -1;
	model->reset(model->arg);
	memory = (struct hash){0, 0};
	for (unsigned i = 0; i < nthreads; i++) {
		start_thread((int)i);
	}
}

static bool failed(void)
{
	return result->failure[0] != '\0';
}

/* The run has come to where no other was.  Paths from here if the run ends: nobody can go on, or
 * the state is known; negative if it is to be followed. */
static double arrive(unsigned nactions)
{
	size_t slot = 0;
	bool known = false;

	if (!model->no_merge) {
		slot = find_state(state_key(), &known);
	}
	if (known) {
		result->cyclic |= table[slot].paths == 0;
		return table[slot].paths;
	}
	result->states++;
	if (nactions == 0) {
		result->endings++;
		if (model->final != NULL) {
			model->final(model->arg);
		}
		if (!model->no_merge) {
			table[slot].paths = 1;
		}
		return 1;
	}
	if (depth == DEPTH_MAX) {
		bail_out("model: a run of more than %d steps; use model_local()", DEPTH_MAX);
	}
	path[depth++] = (struct node){.count = nactions, .slot = slot};
	return -1;
}

/* One run.  Paths from where it ended; *steps is the length of the trace. */
static double run_once(unsigned *steps)
{
	struct action actions[ACTIONS_MAX];
	double paths;
	unsigned n;

	reset_run();
	for (unsigned at = 0;; at++) {
		*steps = at;
		n = failed() ? 0 : possible_actions(actions);
		if (failed()) {
			return 1;
		}
		if (at == depth) {
			paths = arrive(n);
			if (paths >= 0) {
				return paths;
			}
		} else if (path[at].count != n) {
			bail_out("model: the programs do not repeat themselves");
		}
		act(actions[path[at].chosen], &trace[at]);
	}
}

/* To the next decision that was not tried yet; false: there is none. */
static bool backtrack(double paths)
{
	while (depth > 0) {
		struct node *n = &path[depth - 1];

		n->paths += paths;
		if (++n->chosen < n->count) {
			return true;
		}
		paths = n->paths;
		if (!model->no_merge) {
			table[n->slot].paths = paths > 0 ? paths : 1;
		}
		depth--;
	}
	result->interleavings = paths;
	return false;
}

static void show_trace(unsigned steps)
{
	static const char *const ops[] = {"load", "store", "full fence", "write fence", "ring",
		"wait", "futex wait", "woken", "futex wake"};

	for (unsigned i = 0; i < steps; i++) {
		const struct trace *s = &trace[i];
		long off = s->op.p != NULL ? (long)((const volatile char *)s->op.p -
						     (const char *)model->shared)
					   : -1;
		const char *what = s->action.kind == ACT_KILL    ? "killed"
				   : s->action.kind == ACT_FLUSH ? "flush"
								 : ops[s->op.kind];

		diag("  %u: %-11s word %4ld value %" PRIu64, s->action.thread, what, off,
			s->op.value);
	}
}

static void prepare(const struct model *m, struct model_result *r)
{
	uint64_t limit = m->max_states != 0 ? m->max_states : 1000000;

	model = m;
	result = r;
	*r = (struct model_result){0};
	for (nthreads = 0; nthreads < MODEL_THREADS && m->body[nthreads] != NULL; nthreads++) {
	}
	depth = 0;
	for (table_size = 1024; table_size < 2 * limit; table_size *= 2) {
	}
	table = calloc(table_size, sizeof(*table));
	if (table == NULL) {
		bail_out("out of memory");
	}
}

void model_run(const struct model *m, bool show, struct model_result *r)
{
	uint64_t limit = m->max_states != 0 ? m->max_states : 1000000;
	unsigned steps;
	double paths;

	prepare(m, r);
	do {
		r->runs++;
		paths = run_once(&steps);
		if (failed()) {
			r->complete = true;
			if (show) {
				show_trace(steps);
			}
			break;
		}
		r->complete = !backtrack(paths);
	} while (!r->complete && r->states < limit);
	free(table);
}

/* ------------------------------------------------------------------------------------------------
 * TAP
 */

static const char *const memory_names[] = {"SC", "TSO", "PSO"};

static void show_numbers(const struct model *m, const struct model_result *r)
{
	char paths[64];

	if (r->cyclic) {
		snprintf(paths, sizeof(paths), "interleavings without bound");
	} else {
		snprintf(paths, sizeof(paths), "%.4g interleavings", r->interleavings);
	}
	diag("  %s: %s in %" PRIu64 " states, %" PRIu64 " endings, %" PRIu64 " runs%s",
		memory_names[m->memory], paths, r->states, r->endings, r->runs,
		r->complete ? "" : ", CUT OFF");
}

bool model_holds(const struct model *m, const char *claim)
{
	struct model_result r;
	bool pass;

	model_run(m, true, &r);
	pass = ok(r.complete && r.failure[0] == '\0', "%s (%s)", claim, memory_names[m->memory]);
	show_numbers(m, &r);
	if (r.failure[0] != '\0') {
		diag("  after these steps: %s", r.failure);
	}
	return pass;
}

bool model_breaks(const struct model *m, const char *mistake)
{
	struct model_result r;
	bool pass;

	model_run(m, false, &r);
	pass = ok(r.failure[0] != '\0', "found: %s (%s)", mistake, memory_names[m->memory]);
	diag("  after %" PRIu64 " states: %s", r.states, r.failure);
	return pass;
}
