/* Where no reader holds a record, the next one begins again at the start of the window, and beside its reader all of
 * the window is free for it and for those behind it; where one does, nothing comes over what it holds. */
#include "hosted.h"

#include "ring.h"

#include <sched.h>

enum { PAGES = 8 * WASM_PAGE / PAGE, WINDOW = PAGES * PAGE, AT = WASM_PAGE };
enum { BUFFER = AT + WINDOW, SIZE = BUFFER + WINDOW };
enum { READERS = 3, MAY_HOLD = 3, STEPS = 1500, KEEP = 256 * 1024 };

static ring *end_of(cwasi_channel *c)
{
    return *(ring **)c;   /* a channel begins with its end */
}

typedef struct {
    fan all;
    instance tx, rx[FAN_MAX];
} lab;

static lab open_lab(unsigned readers)
{
    lab l = {.all = open_fan(16384, readers)};
    l.tx = instance_with(l.all.tx, SIZE);
    CHECK_EQ(attach(&l.tx, 0, AT, WINDOW), 0);
    for (unsigned i = 0; i < readers; i++) {
        l.rx[i] = instance_with(l.all.rx[i], SIZE);
        CHECK_EQ(attach(&l.rx[i], 0, AT, WINDOW), 0);
    }
    return l;
}

static void close_lab(lab l)
{
    free_instance(&l.tx);
    for (unsigned i = 0; i < l.all.readers; i++)
        free_instance(&l.rx[i]);
    free_fan(l.all);
}

/* Without a wait; where it begins. */
static uint32_t send_now(instance *tx, uint32_t length, uint64_t seed)
{
    int32_t at = acquire(tx, 0, length, 0);
    CHECK(at >= 0);
    fill(tx->memory + AT + at, length, seed);
    CHECK_EQ(commit(tx, 0, (uint32_t)at, length), 0);
    return (uint32_t)at;
}

static void pass(lab *l, uint32_t length, uint64_t seed)
{
    send_now(&l->tx, length, seed);
    for (unsigned i = 0; i < l->all.readers; i++)
        CHECK_EQ(release(&l->rx[i], 0, take_checked(&l->rx[i], AT, length, seed).offset), 0);
}

static void one_after_the_other(unsigned readers)
{
    struct stat before, after;
    lab l = open_lab(readers);
    pass(&l, 3 * PAGE, 0);
    CHECK_EQ(fstat(l.all.memfd, &before), 0);
    for (uint64_t seed = 1; seed < 200; seed++) {
        CHECK_EQ(send_now(&l.tx, 1 + (uint32_t)seed * 50, seed), 0);
        for (unsigned i = 0; i < readers; i++) {
            record held = take_checked(&l.rx[i], AT, 1 + (uint32_t)seed * 50, seed);
            memset(l.rx[i].memory + AT + held.offset, 255, held.length);
            CHECK_EQ(release(&l.rx[i], 0, held.offset), 0);
        }
    }
    CHECK_EQ(fstat(l.all.memfd, &after), 0);
    CHECK(after.st_blocks - before.st_blocks <= 3 * PAGE / 512);   /* of a ring's pages, one or two */
    close_lab(l);
}

/* Where the reader is on another core: only now and then. */
static void one_after_the_other_apart(void)
{
    enum { LENGTH = 3 * PAGE };
    lab l = open_lab(1);
    pass(&l, LENGTH, 0);
    store_relaxed(&end_of(l.all.tx)->control->reader[0].core, UINT32_MAX);
    for (uint64_t seed = 1; seed < 300; seed++) {
        uint32_t offset = (uint32_t)(seed * LENGTH % (KEEP + LENGTH - KEEP % LENGTH));
        CHECK_EQ(send_now(&l.tx, LENGTH, seed), offset);
        CHECK_EQ(release(&l.rx[0], 0, take_checked(&l.rx[0], AT, LENGTH, seed).offset), 0);
    }
    /* And what is left before the end does not count. */
    while (send_now(&l.tx, LENGTH, 1) < KEEP / 2)
        CHECK_EQ(release(&l.rx[0], 0, take_checked(&l.rx[0], AT, LENGTH, 1).offset), 0);
    CHECK_EQ(release(&l.rx[0], 0, take_checked(&l.rx[0], AT, LENGTH, 1).offset), 0);
    CHECK_EQ(send_now(&l.tx, WINDOW - PAGE, 2), 0);
    CHECK_EQ(send_now(&l.tx, PAGE, 3), WINDOW - PAGE);
    take_checked(&l.rx[0], AT, WINDOW - PAGE, 2);
    take_checked(&l.rx[0], AT, PAGE, 3);
    close_lab(l);
}

/* Any two that the window has room for, wherever the one before them ended. */
static void two_are_held(unsigned readers)
{
    lab l = open_lab(readers);
    for (uint32_t before = 1; before <= PAGES; before += 43) {
        for (uint32_t first = 1; first < PAGES; first += 18) {
            pass(&l, before * PAGE, 1);
            send_now(&l.tx, first * PAGE, 2);
            send_now(&l.tx, (PAGES - first) * PAGE, 3);
            CHECK_EQ(acquire(&l.tx, 0, 1, 0), E_AGAIN);
            for (unsigned i = 0; i < readers; i++) {
                record one = take_checked(&l.rx[i], AT, first * PAGE, 2);
                record other = take_checked(&l.rx[i], AT, (PAGES - first) * PAGE, 3);
                CHECK_EQ(release(&l.rx[i], 0, one.offset), 0);
                CHECK_EQ(release(&l.rx[i], 0, other.offset), 0);
            }
        }
    }
    close_lab(l);
}

/* One that was acquired and is acquired anew, longer, or not at all. */
static void acquired_anew(void)
{
    lab l = open_lab(1);
    for (uint64_t seed = 0; seed < 50; seed++) {
        pass(&l, 5 * PAGE, seed);
        CHECK_EQ(acquire(&l.tx, 0, 2 * PAGE, 0), 0);
        CHECK_EQ(acquire(&l.tx, 0, WINDOW, 0), 0);
        CHECK_EQ(send_copy(&l.tx, 0, BUFFER, 100, 0), 0);
        CHECK_EQ(recv_copy(&l.rx[0], 0, BUFFER, 100, 0), 100);
        pass(&l, WINDOW, seed);
    }
    close_lab(l);
}

typedef struct {
    record told[MAY_HOLD];
    uint64_t first, count;   /* which message is the oldest of them */
} hand;

static uint32_t length_of(uint64_t seq)
{
    uint64_t state = seq;
    return (uint32_t)(next_random(&state) % (seq % 15 ? 9 * PAGE : WINDOW + 1));
}

static void let_go(lab *l, unsigned i, hand *h)
{
    CHECK(filled(l->rx[i].memory + AT + h->told[0].offset, length_of(h->first), h->first));
    CHECK_EQ(release(&l->rx[i], 0, h->told[0].offset), 0);
    memmove(h->told, h->told + 1, sizeof h->told - sizeof *h->told);
    h->first++;
    h->count--;
}

/* Several readers, each with a few in hand; the last one copies. */
static void in_any_order(void)
{
    lab l = open_lab(READERS);
    hand hands[READERS] = {0};
    uint64_t rng = 9, sent = 0, stuck = 0;
    for (int step = 0; step < STEPS; step++) {
        int idle = 1;
        for (unsigned i = 0; i < READERS; i++)
            idle &= hands[i].first == sent;
        int32_t at = acquire(&l.tx, 0, length_of(sent), 0);
        CHECK(at == E_AGAIN ? !idle : at >= 0 && (!idle || at == 0));
        stuck += at == E_AGAIN;
        if (at >= 0) {
            fill(l.tx.memory + AT + at, length_of(sent), sent);
            int32_t rc = commit(&l.tx, 0, (uint32_t)at, length_of(sent));
            CHECK_EQ(rc, 0);
            sent++;
        }
        for (unsigned i = 0; i < READERS; i++) {
            hand *h = &hands[i];
            while (h->count && next_random(&rng) % 3 == 0)
                let_go(&l, i, h);
            if (h->count == MAY_HOLD || h->first + h->count == sent)
                continue;
            if (i == READERS - 1) {
                CHECK_EQ(recv_copy(&l.rx[i], 0, BUFFER, WINDOW, 0), length_of(h->first));
                CHECK(filled(l.rx[i].memory + BUFFER, length_of(h->first), h->first));
                h->first++;
                continue;
            }
            uint64_t seq = h->first + h->count;
            h->told[h->count++] = take_checked(&l.rx[i], AT, length_of(seq), seq);
        }
    }
    CHECK(stuck > STEPS / 20 && sent > STEPS / 20);
    close_lab(l);
}

/* The first of two readers says of itself what is not so; the other one keeps what it holds. */
static void a_reader_that_lies(void)
{
    enum { BEFORE = 5, HELD = PAGES / 4 - 4 };
    for (int lie = 0; lie < 8; lie++) {
        lab l = open_lab(2);
        pass(&l, BEFORE * PAGE, 0);
        uint32_t at = send_now(&l.tx, HELD * PAGE, 1);
        CHECK_EQ(at, 0);
        take_checked(&l.rx[1], AT, HELD * PAGE, 1);
        const ring *tx = end_of(l.all.tx);
        const uint64_t said[] = {
            BEFORE * PAGE, BEFORE * PAGE + 1, tx->window_base - PAGE, tx->window_base, tx->window_base + 3 * PAGE,
            tx->window_end, tx->window_end + PAGE, 0,
        };
        store_relaxed(&tx->control->reader[0].window_position, said[lie]);
        for (uint64_t seed = 2; seed < 5; seed++)
            CHECK(send_now(&l.tx, HELD * PAGE, seed) >= HELD * PAGE);
        CHECK_EQ(acquire(&l.tx, 0, HELD * PAGE, 0), E_AGAIN);
        CHECK(filled(l.rx[1].memory + AT, HELD * PAGE, 1));
        CHECK_EQ(stats_of(l.all.tx).lost_peers, lie >= 6);
        close_lab(l);
    }
}

/* Positions that are skipped come to an end. */
static void far_on(void)
{
    lab l = open_lab(1);
    const uint64_t far = (UINT64_C(1) << 63) - 20 * (uint64_t)WINDOW;
    ring *tx = end_of(l.all.tx), *rx = end_of(l.all.rx[0]);
    tx->window_end = tx->window_base = tx->peer[0].window_seen = rx->window_end = far;
    store_relaxed(&tx->control->reader[0].window_position, far);
    for (uint64_t seed = 0; seed < 1000; seed++)
        pass(&l, 3 * PAGE, seed);
    uint64_t passed = tx->window_end - far;
    CHECK(passed > 20 * (uint64_t)WINDOW && passed <= 20 * (uint64_t)WINDOW + 1000 * 4 * PAGE);
    close_lab(l);
}

int main(void)
{
    cpu_set_t one;
    test_begin(20);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);   /* both sides of all that follows are on one core */
    for (unsigned readers = 1; readers <= READERS; readers += 2) {
        one_after_the_other(readers);
        two_are_held(readers);
    }
    one_after_the_other_apart();
    acquired_anew();
    in_any_order();
    a_reader_that_lies();
    far_on();
    return 0;
}
