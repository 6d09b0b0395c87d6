/* Who waits for a peer on the same core gives that away, and sleeps at once where others keep it for long. Who waits for
 * one on another core, and may not spin, does so if he is not answered very soon. */
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

/* Whether the core is given away, each turn being too long, by who is ready after so many looks, in 64 waits. */
static int gives_turns(atomic_u32 *peer_core, int looks)
{
    atomic_u64 parks = 0;
    sitter s = {0};
    waiter w = {.parked = &s.parked, .peer_core = peer_core, .parks = &parks};
    long_turn_ns = -1;
    longest_sleep_ns = 1000;
    for (int i = 0; i < 64; i++) {
        s.looks = 2 - looks;
        CHECK_EQ(wait_until(&w, ready_at_second_look, &s, deadline_after(FOREVER)), 0);
    }
    return w.hold_ns > 0;
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

    cwasi_wait_configure(0, -1);
    atomic_u32 elsewhere = core + 1;
    CHECK(!gives_turns(&elsewhere, 4));
    CHECK(gives_turns(&elsewhere, 100));
    CHECK(gives_turns(&core, 4));
    return 0;
}
