/* barrier.h - all memory ordering of the data plane. Nothing else names a memory order.
 *
 * Each use in a .c file says which use on the other side it pairs with.
 */
#ifndef CWASI_BARRIER_H
#define CWASI_BARRIER_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint32_t atomic_u32;
typedef _Atomic uint64_t atomic_u64;

/* Own data, or a value that only ends up in statistics. */
#define load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)

/* store_release makes all earlier writes visible to who sees the value by load_acquire. */
#define load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)

/* One total order over all of these: "I publish, then look whether you sleep" against "I say that I sleep, then look
 * whether you published". With anything weaker both could miss the other. */
#define load_ordered(p) atomic_load_explicit((p), memory_order_seq_cst)
#define store_ordered(p, v) atomic_store_explicit((p), (v), memory_order_seq_cst)
#define exchange_ordered(p, v) atomic_exchange_explicit((p), (v), memory_order_seq_cst)

/* Locks: taken by it, released by store_release. Ordered, because a stop is set by it too. */
static inline int try_claim(atomic_u32 *p, uint32_t from, uint32_t to)
{
    return atomic_compare_exchange_strong_explicit(p, &from, to, memory_order_seq_cst, memory_order_relaxed);
}

/* Sets a word that nobody has set. */
static inline void set_once(atomic_u64 *p, uint64_t to)
{
    uint64_t unset = 0;
    atomic_compare_exchange_strong_explicit(p, &unset, to, memory_order_relaxed, memory_order_relaxed);
}

#define add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
/* Of a count of holders: what each did before is visible to who frees. */
#define sub_ordered(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_seq_cst)
#define sub_relaxed(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_relaxed)

/* A counter with one writer, which others may read meanwhile. */
static inline void count_up(atomic_u64 *p, uint64_t v)
{
    store_relaxed(p, load_relaxed(p) + v);
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
