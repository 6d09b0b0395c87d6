/* calibrate.c - measures in a few milliseconds what this machine charges for the parts of a message. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    BLOCK = 64 * 1024,
    HOPS = 400,
    WAKES = 12,
    COPIED = 256 * 1024,   /* bytes in a large message */
    BATCH = 4,             /* of them */
    ROUNDS = 3,
};

static const double CLEARLY_FASTER = 0.85;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

static double measure_syscall(void)
{
    enum { N = 2000 };
    int64_t start = now_ns();
    for (int i = 0; i < N; i++)
        syscall(SYS_getppid);
    return (double)(now_ns() - start) / N;
}

static double measure_copy(uint8_t *a, uint8_t *b)
{
    enum { N = 32 };
    double rounds[5];
    for (int r = 0; r < 5; r++) {
        int64_t start = now_ns();
        for (int i = 0; i < N; i++) {
            memcpy(a, b, BLOCK);
            __asm__ volatile("" ::: "memory");
        }
        rounds[r] = (double)(now_ns() - start) / N / BLOCK;
    }
    return median(rounds, 5);
}

/* write and read of `length` bytes by one thread: what the two calls and copies cost, without any wake. */
static double measure_pipe(const int fds[2], uint8_t *a, uint8_t *b, size_t length)
{
    enum { N = 16 };
    double rounds[5];
    for (int r = 0; r < 5; r++) {
        int64_t start = now_ns();
        for (int i = 0; i < N; i++) {
            if (write(fds[1], a, length) != (ssize_t)length || read(fds[0], b, length) != (ssize_t)length)
                return 0;
        }
        rounds[r] = (double)(now_ns() - start) / N;
    }
    return median(rounds, 5);
}

/* Two threads hand a number to and fro. */
typedef struct {
    _Alignas(128) atomic_u32 ping;
    _Alignas(128) atomic_u32 pong;
    _Alignas(128) atomic_u32 parked;
    int hops;
    int cpu;
} echo;

static void keep_to(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void *echo_spinning(void *arg)
{
    echo *e = arg;
    keep_to(e->cpu);
    for (uint32_t i = 1; i <= (uint32_t)e->hops; i++) {
        while (load_acquire(&e->ping) != i)
            cpu_relax();
        store_release(&e->pong, i);
    }
    return NULL;
}

static void *echo_sleeping(void *arg)
{
    echo *e = arg;
    keep_to(e->cpu);
    for (uint32_t i = 1; i <= (uint32_t)e->hops; i++) {
        while (load_acquire(&e->ping) != i) {
            store_ordered(&e->parked, 1);
            if (load_ordered(&e->ping) != i)
                wait_sleep(&e->parked, deadline_after(10000000));
        }
        store_release(&e->pong, i);
    }
    return NULL;
}

static int two_cores(int cpu[2])
{
    cpu_set_t set;
    int found = 0;
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return 0;
    for (int i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET(i, &set))
            cpu[found++] = i;
    return found == 2;
}

/* Runs `body` on the other core and drives it; the median time of one way there or back, 0 if impossible. */
static double measure_echo(void *(*body)(void *), int hops, int sleeping)
{
    cpu_set_t before;
    int cpu[2];
    echo *e = aligned_alloc(128, sizeof *e);
    double *times = calloc((size_t)hops, sizeof *times), result = 0;
    pthread_t thread;
    if (!e || !times || !two_cores(cpu) || sched_getaffinity(0, sizeof before, &before) < 0)
        goto out;
    *e = (echo){.hops = hops, .cpu = cpu[1]};
    keep_to(cpu[0]);
    if (pthread_create(&thread, NULL, body, e) == 0) {
        for (int i = 0; i < hops; i++) {
            /* Long enough for the other to fall asleep; also lets it start. */
            if (sleeping)
                nanosleep(&(struct timespec){0, 50000}, NULL);
            int64_t start = now_ns();
            store_ordered(&e->ping, (uint32_t)i + 1);
            if (sleeping)
                wake_parked(&e->parked, -1);
            while (load_acquire(&e->pong) != (uint32_t)i + 1)
                cpu_relax();
            times[i] = (double)(now_ns() - start);
        }
        pthread_join(thread, NULL);
        result = median(times, hops);
    }
    sched_setaffinity(0, sizeof before, &before);
out:
    free(e);
    free(times);
    return result;
}

/* A receiver on the other core, of batches of large messages. */
typedef struct {
    cwasi_channel *rx;
    uint8_t *block;
    int cpu;
    _Alignas(128) atomic_u32 received;
} drain;

static void *drain_all(void *arg)
{
    drain *d = arg;
    keep_to(d->cpu);
    while (cwasi_channel_recv(d->rx, d->block, COPIED, -1) == COPIED)
        store_release(&d->received, load_relaxed(&d->received) + 1);
    return NULL;
}

static double time_batch(cwasi_channel *tx, drain *d, const uint8_t *from, int past)
{
    uint32_t target = load_relaxed(&d->received) + BATCH;
    copy_choose(past);
    int64_t start = now_ns();
    for (int i = 0; i < BATCH; i++) {
        if (cwasi_channel_send(tx, from, COPIED, -1) < 0)
            return 0;
    }
    while (load_acquire(&d->received) != target)
        cpu_relax();
    return (double)(now_ns() - start);
}

/* Streams to the other core both ways, and decides for the faster one; the ratio of their times. */
static double compare_copies(cwasi_channel *tx, drain *d, const uint8_t *from)
{
    double ordinary[ROUNDS], past[ROUNDS];
    time_batch(tx, d, from, 0);   /* touches all pages */
    for (int i = 0; i < ROUNDS; i++) {
        ordinary[i] = time_batch(tx, d, from, 0);
        past[i] = time_batch(tx, d, from, 1);
    }
    double ratio = median(past, ROUNDS) / median(ordinary, ROUNDS);
    copy_choose(ratio < CLEARLY_FASTER);
    return ratio;
}

static double measure_copies(void)
{
    cpu_set_t before;
    cwasi_channel *tx = NULL, *rx = NULL;
    pthread_t thread;
    int cpu[2], fd = cwasi_ring_create(4 * COPIED, 1);
    double ratio = 1;
    uint8_t *blocks = calloc(2, COPIED);
    drain *d = aligned_alloc(128, sizeof *d);
    if (fd < 0 || !blocks || !d || !two_cores(cpu) || sched_getaffinity(0, sizeof before, &before) < 0)
        goto out;
    if (cwasi_channel_open_ring(fd, CWASI_SENDER, 0, NULL, &tx) < 0 ||
        cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &rx) < 0)
        goto out;
    *d = (drain){.rx = rx, .block = blocks, .cpu = cpu[1]};
    keep_to(cpu[0]);
    if (pthread_create(&thread, NULL, drain_all, d) == 0) {
        ratio = compare_copies(tx, d, blocks + COPIED);
        cwasi_channel_close(tx, 0, -1);
        pthread_join(thread, NULL);
    }
    sched_setaffinity(0, sizeof before, &before);
out:
    cwasi_channel_free(tx);
    cwasi_channel_free(rx);
    if (fd >= 0)
        close(fd);
    free(blocks);
    free(d);
    return ratio;
}

double cwasi_measure_hop(int rounds)
{
    /* The clock is read once a round trip: take its own cost off. */
    int64_t start = now_ns();
    for (int i = 0; i < 100; i++)
        now_ns();
    double clock = (double)(now_ns() - start) / 100;
    double trip = rounds > 0 ? measure_echo(echo_spinning, rounds, 0) : 0;
    return trip > clock ? (trip - clock) / 2 : 0;
}

int cwasi_calibrate(cwasi_costs *out)
{
    uint8_t *blocks = calloc(2, BLOCK);
    int fds[2];
    wait_count_cores();
    if (!blocks)
        return -ENOMEM;
    /* Not blocking: a user with many pipes gets new ones of a page or two, which hold less than we write. */
    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) {
        int error = errno;
        free(blocks);
        return -error;
    }
    size_t large = (size_t)MIN(fcntl(fds[1], F_GETPIPE_SZ), 32 * 1024);
    out->syscall = measure_syscall();
    out->copy_byte = measure_copy(blocks, blocks + BLOCK);
    out->pipe_message = measure_pipe(fds, blocks, blocks + BLOCK, 64);
    out->pipe_byte = (measure_pipe(fds, blocks, blocks + BLOCK, large) - out->pipe_message) / (double)large;
    out->hop = cwasi_measure_hop(HOPS);
    out->wake = measure_echo(echo_sleeping, WAKES, 1);
    out->past_caches = measure_copies();
    close(fds[0]);
    close(fds[1]);
    free(blocks);
    return 0;
}
