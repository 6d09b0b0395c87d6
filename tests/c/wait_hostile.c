/* Waiting on a word that a hostile peer may write too: a stop, a time-out and a wake get through all the same. */
#include "test.h"

#include <linux/futex.h>
#include <sys/syscall.h>

enum { RECEIVER_PARKED = 520 };   /* where the ring has that word */

typedef struct {
    atomic_u32 parked;
    int looks, sleeps_after;
    int stopped;
} victim;

static int keeps_changing(void *arg)
{
    victim *v = arg;
    if (load_relaxed(&v->parked) == 1)
        store_relaxed(&v->parked, 7);   /* so that no sleep begins */
    return ++v->looks > 50000000;
}

static int undoes_the_stop(void *arg)
{
    victim *v = arg;
    if (load_relaxed(&v->parked) != 1 || v->stopped)
        return v->stopped;
    v->stopped = 1;                  /* stop() comes just now, */
    wait_wake(&v->parked);
    store_relaxed(&v->parked, 1);    /* and the peer takes it back before we sleep */
    return 0;
}

typedef struct {
    atomic_u32 *word;
    atomic_u32 waiting, done;
} thief;

static void *steal_wakes(void *arg)
{
    thief *t = arg;
    struct timespec time = {0, 100 * MS};
    add_relaxed(&t->waiting, 1);
    while (!load_relaxed(&t->done))
        syscall(SYS_futex, t->word, FUTEX_WAIT, load_relaxed(t->word), &time, NULL, 0);
    return NULL;
}

/* Threads that wait for the same word, and were there first, do not take the stop from the one inside. */
static void wakes_are_not_stolen(void)
{
    int fd = cwasi_ring_create(4096, 1);
    cwasi_channel *rx;
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &rx), 0);
    uint8_t *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    thief t = {.word = (atomic_u32 *)(memory + RECEIVER_PARKED)};
    call r = {.channel = rx, .length = 1, .timeout = FOREVER};
    pthread_t thieves[4], inside = start(call_recv, &r);
    while (load_relaxed(t.word) != 1)
        sleep_ms(1);
    cwasi_channel_peer_died(rx, 0);
    join(inside);
    CHECK_EQ(r.result, -ECONNRESET);
    cwasi_channel_free(rx);
    munmap(memory, 4096);
    close(fd);

    fd = cwasi_ring_create(4096, 1);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &rx), 0);
    memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    t.word = (atomic_u32 *)(memory + RECEIVER_PARKED);
    for (int i = 0; i < 4; i++)
        thieves[i] = start(steal_wakes, &t);
    while (load_relaxed(&t.waiting) < 4)
        sleep_ms(1);
    r.channel = rx;
    inside = start(call_recv, &r);
    until_it_waits(rx, 0);
    cwasi_channel_stop(rx);
    join(inside);
    CHECK_EQ(r.result, -ECANCELED);
    store_relaxed(&t.done, 1);
    for (int i = 0; i < 4; i++)
        join(thieves[i]);
    cwasi_channel_free(rx);
    munmap(memory, 4096);
    close(fd);
}

int main(void)
{
    atomic_u64 parks = 0;
    test_begin(20);
    cwasi_wait_configure(0, 0);

    victim busy = {0};
    int64_t begin = now_ns();
    CHECK_EQ(wait_until(&(waiter){.parked = &busy.parked, .parks = &parks}, keeps_changing, &busy, deadline_after(50 * MS)), -ETIMEDOUT);
    CHECK(now_ns() - begin < 2000 * MS);

    longest_sleep_ns = 100 * MS;   /* all that helps here */
    victim stopped = {0};
    CHECK_EQ(wait_until(&(waiter){.parked = &stopped.parked, .parks = &parks}, undoes_the_stop, &stopped, deadline_after(FOREVER)), 0);
    longest_sleep_ns = 3600 * 1000 * MS;

    wakes_are_not_stolen();
    return 0;
}
