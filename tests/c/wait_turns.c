/* Who waits for a peer on the same core gives that away, and sleeps at once where others keep it for long. */
#include "test.h"

#include <sched.h>

typedef struct {
    atomic_u32 parked;
    int looks, asleep;
} sitter;

/* Not before it was looked for twice; the second look tells whether the core was given away before it, or sleep begins. */
static int ready_at_second_look(void *arg)
{
    sitter *s = arg;
    if (++s->looks < 2)
        return 0;
    s->asleep = load_relaxed(&s->parked) == ON_FUTEX;
    return 1;
}

static int sleeps_at_once(waiter *w, sitter *s)
{
    s->looks = 0;
    CHECK_EQ(wait_until(w, ready_at_second_look, s, deadline_after(FOREVER)), 0);
    return s->asleep;
}

static uint32_t kept_to_one_core(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    CHECK_EQ(sched_setaffinity(0, sizeof set, &set), 0);
    return current_core();
}

int main(void)
{
    test_begin(20);
    atomic_u32 core = kept_to_one_core();
    atomic_u64 parks = 0;
    sitter s = {0};
    waiter w = {.parked = &s.parked, .peer_core = &core, .parks = &parks};

    long_turn_ns = INT64_MAX;
    for (int i = 0; i < 1000; i++)
        CHECK(!sleeps_at_once(&w, &s));

    /* Every turn is too long now: as soon as one was timed, it sleeps at once, but for one turn now and then. */
    long_turn_ns = -1;
    int slept = 0;
    for (int i = 0; i < 1000; i++)
        slept += sleeps_at_once(&w, &s);
    CHECK(slept > 0);

    /* They have left, which it finds out. */
    long_turn_ns = INT64_MAX;
    while (w.hold_ns)
        sleeps_at_once(&w, &s);
    for (int i = 0; i < 1000; i++)
        CHECK(!sleeps_at_once(&w, &s));
    CHECK_EQ(parks, 0);
    return 0;
}
