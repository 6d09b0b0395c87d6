/* handover.c - see handover.h. */
#include "handover.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* Values of state, to which the generation is added. */
enum { NOTHING = 0, OFFERED = 1, COPYING = 2, COPIED = 3, ONE_GENERATION = 4 };

struct cwasi_handover {
    atomic_u32 state;
    atomic_u32 holders;
    uint64_t position;      /* the rest is written before it is offered, and then by nobody */
    uint8_t *to;
    uint64_t capacity;
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
    handover *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
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

int handover_withdraw(handover *h)
{
    while (!try_claim(&h->state, now(OFFERED), NOTHING)) {
        /* Pairs with the store in handover_copy, which may also leave the offer as it was. */
        if (load_acquire(&h->state) == now(COPIED))
            return 1;
        sched_yield();   /* it takes as long as one copy does */
    }
    return 0;
}

int handover_done(const handover *h, uint64_t position)
{
    return h && load_acquire(&h->state) == now(COPIED) && h->position == position;
}

int handover_copy(handover *h, uint64_t position, const void *from, uint64_t length)
{
    if (load_relaxed(&h->state) != now(OFFERED) ||
        !try_claim(&h->state, now(OFFERED), now(COPYING)))
        return 0;
    int fits = h->position == position && length <= h->capacity;
    if (fits)
        memcpy(h->to, from, length);
    /* Pairs with handover_withdraw and handover_done. */
    store_release(&h->state, now(fits ? COPIED : OFFERED));
    return fits;
}
