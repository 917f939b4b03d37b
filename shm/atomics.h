/* SPDX-License-Identifier: MIT */
/*
 * atomics.h - the only file that names memory orders.
 *
 * Everything shared between processes is read and written through these verbs.  All words are
 * naturally aligned 32 or 64 bit integers that are lock-free on every platform we build for, so
 * they work in memory shared between processes.
 *
 *   publish(p, v)   store-release: everything written before it is visible to whoever observes v
 *   observe(p)      load-acquire: pairs with publish
 *   put(p, v)       relaxed store of a word that orders nothing (counters, flags before a fence)
 *   get(p)          relaxed load; also the "read a peer's word exactly once" primitive: the
 *                   compiler may not read it a second time after it was validated
 *   full_fence()    orders stores before it against loads after it; only for the doorbell pair
 *   read_fence()    orders loads before it against loads after it; only for sequence-lock readers
 *   write_fence()   orders stores before it against stores after it; only for sequence-lock writers
 *   bump(p, n)      add to a counter that has exactly one writer: no locked instruction
 *
 * For words of several writers, which are threads of one process:
 *   add_shared(p, n)      add to a counter; the value before
 *   release_shared(p)     subtract 1 from a count of references; the value before
 *   exchange(p, v)        store v; the value before
 *   replace_if(p, o, v)   store v if it is o; false: it is something else
 *
 * The model checker (tests/model) defines SHM_MODEL and supplies every access itself.  It keeps
 * loads in program order, so it says nothing about read_fence() and the acquire half of observe().
 */
#ifndef SHM_ATOMICS_H
#define SHM_ATOMICS_H

#include <stdatomic.h>
#include <stdint.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
	"words shared between processes must be lock-free");

#ifdef SHM_MODEL
/* Each access is a scheduling point of the model checker, and stores pass through its store
 * buffer. */
uint64_t model_load(const volatile void *p, unsigned size);
void model_store(volatile void *p, uint64_t v, unsigned size, int release);
void model_full_fence(void);
void model_write_fence(void);
#define publish(p, v) model_store((p), (uint64_t)(v), sizeof(*(p)), 1)
#define observe(p) ((__typeof__(*(p) + 0))model_load((p), sizeof(*(p))))
#define put(p, v) model_store((p), (uint64_t)(v), sizeof(*(p)), 0)
#define get(p) ((__typeof__(*(p) + 0))model_load((p), sizeof(*(p))))
#define bump(p, n) put((p), get(p) + (n))
#else
/* clang-format off */
#define publish(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define observe(p)    atomic_load_explicit((p), memory_order_acquire)
#define put(p, v)     atomic_store_explicit((p), (v), memory_order_relaxed)
#define get(p)        atomic_load_explicit((p), memory_order_relaxed)
#define bump(p, n)    put((p), get(p) + (n))
/* clang-format on */
#endif

/* Inside one process only, so not of the model. */
/* clang-format off */
#define add_shared(p, n)     atomic_fetch_add_explicit((p), (n), memory_order_acq_rel)
#define release_shared(p)    atomic_fetch_sub_explicit((p), 1, memory_order_acq_rel)
#define exchange(p, v)       atomic_exchange_explicit((p), (v), memory_order_seq_cst)
#define replace_if(p, o, v)  atomic_compare_exchange_strong((p), &(__typeof__(*(p) + 0)){(o)}, (v))
/* clang-format on */

#if defined(__SANITIZE_THREAD__)
#define SHM_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHM_TSAN 1
#endif
#endif

#ifdef SHM_MODEL
static inline void full_fence(void)
{
	model_full_fence();
}
static inline void read_fence(void)
{
}
static inline void write_fence(void)
{
	model_write_fence();
}
#elif defined(SHM_TSAN)
/*
 * ThreadSanitizer does not model fences.  An exchange on a private word is a full barrier on the
 * machines it runs on; the data it guards is reached through publish/observe or put/get only, which
 * ThreadSanitizer understands by itself.
 */
static inline void full_fence(void)
{
	_Atomic uint32_t word = 0;
	(void)atomic_exchange_explicit(&word, 1, memory_order_seq_cst);
}
static inline void read_fence(void)
{
	full_fence();
}
static inline void write_fence(void)
{
	full_fence();
}
#else
static inline void full_fence(void)
{
	atomic_thread_fence(memory_order_seq_cst);
}
static inline void read_fence(void)
{
	atomic_thread_fence(memory_order_acquire);
}
static inline void write_fence(void)
{
	atomic_thread_fence(memory_order_release);
}
#endif

/* Tell the core that we spin. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

#endif
