/* handover.c - see handover.h. */
#include "handover.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* Values of state, to which the generation is added. */
enum { NOTHING = 0, OFFERED = 1, COPYING = 2, SHARED = 3, COPIED = 4, ONE_GENERATION = 8 };

/* Bytes that one side copies before it looks which are next. */
enum { PIECE = 32 * 1024 };

struct cwasi_handover {
    atomic_u32 state;
    atomic_u32 holders;
    uint64_t position;      /* the rest is written before it is offered, and then by nobody */
    uint8_t *to;
    uint64_t capacity;
    const uint8_t *from;    /* the following are the sender's, written before it says that they are SHARED */
    uint64_t length;
    _Alignas(64) atomic_u64 begun;   /* bytes that somebody copies or has copied */
    atomic_u64 missing;
};

/* Counts the forks that lead to this process. An offer from before one is of a receiver in another process. */
static atomic_u32 generation;

static void begin_generation(void)
{
    store_relaxed(&generation, load_relaxed(&generation) + ONE_GENERATION);
}

static uint32_t now(uint32_t state)
{
    return load_relaxed(&generation) + state;
}

__attribute__((constructor)) static void count_generations(void)
{
    pthread_atfork(NULL, NULL, begin_generation);
}

int cwasi_handover_new(cwasi_handover **out)
{
    handover *h = aligned_alloc(_Alignof(handover), sizeof *h);
    if (!h)
        return -ENOMEM;
    *h = (handover){0};
    store_relaxed(&h->holders, 1);
    *out = h;
    return 0;
}

void cwasi_handover_free(cwasi_handover *h)
{
    handover_release(h);
}

handover *handover_keep(handover *h)
{
    add_relaxed(&h->holders, 1);
    return h;
}

void handover_release(handover *h)
{
    if (h && sub_ordered(&h->holders, 1) == 1)
        free(h);
}

void handover_offer(handover *h, uint64_t position, void *to, uint64_t capacity)
{
    h->position = position;
    h->to = to;
    h->capacity = capacity;
    /* Pairs with the claim in handover_copy. */
    store_release(&h->state, now(OFFERED));
}

/* Copies as long as there is something to begin with. */
static void help(handover *h)
{
    uint64_t at;
    while ((at = add_relaxed(&h->begun, PIECE)) < h->length) {
        uint64_t part = MIN(h->length - at, (uint64_t)PIECE);
        copy_here(h->to + at, h->from + at, part);
        sub_ordered(&h->missing, part);   /* pairs with the load in handover_finish */
    }
}

int handover_withdraw(handover *h)
{
    while (!try_claim(&h->state, now(OFFERED), NOTHING)) {
        /* Pairs with the stores of the sender, which may also leave the offer as it was. */
        uint32_t state = load_acquire(&h->state);
        if (state == now(COPIED))
            return 1;
        if (state == now(SHARED))
            help(h);
        sched_yield();   /* it takes as long as one copy does */
    }
    return 0;
}

int handover_has(const handover *h, uint64_t position)
{
    uint32_t state = h ? load_acquire(&h->state) : NOTHING;
    return (state == now(COPIED) || state == now(SHARED)) && h->position == position;
}

/* Whether there is an offer for it, which then is its own. */
static int claim(handover *h, uint64_t position, uint64_t length)
{
    if (load_relaxed(&h->state) != now(OFFERED) ||
        !try_claim(&h->state, now(OFFERED), now(COPYING)))
        return 0;
    if (h->position == position && length <= h->capacity)
        return 1;
    store_release(&h->state, now(OFFERED));   /* pairs with handover_withdraw */
    return 0;
}

int handover_copy(handover *h, uint64_t position, const void *from, uint64_t length)
{
    if (!claim(h, position, length))
        return 0;
    copy_here(h->to, from, length);
    /* Pairs with handover_withdraw and handover_has. */
    store_release(&h->state, now(COPIED));
    return 1;
}

int handover_begin(handover *h, uint64_t position, const void *from, uint64_t length)
{
    if (!claim(h, position, length))
        return 0;
    h->from = from;
    h->length = length;
    store_relaxed(&h->begun, 0);
    store_relaxed(&h->missing, length);
    /* Pairs with handover_withdraw and handover_has. */
    store_release(&h->state, now(SHARED));
    return 1;
}

void handover_finish(handover *h)
{
    help(h);
    /* Pairs with the subtraction in help: the receiver has copied what it began with. */
    while (load_acquire(&h->missing) > 0)
        sched_yield();
    store_release(&h->state, now(COPIED));   /* pairs with handover_withdraw */
}
