/* Where both ends of a ring share a core of one process, large messages go from buffer to buffer: each once, whole, in
 * order, whatever else the receiver does, and never into a buffer that recv has given back. */
#include "test.h"

#include <sched.h>

enum { LARGE = 256 * 1024, MESSAGES = 400, CAPACITY = 1 << 20 };

static pair handing_pair(void)
{
    pair p = ring_pair(CAPACITY);
    cwasi_handover *h;
    CHECK_EQ(cwasi_handover_new(&h), 0);
    CHECK_EQ(cwasi_channel_hand_over(p.tx, h), 0);
    CHECK_EQ(cwasi_channel_hand_over(p.rx, h), 0);
    CHECK_EQ(cwasi_channel_hand_over(p.rx, h), -ENOTSUP);   /* it has one */
    cwasi_handover_free(h);                                 /* the ends keep it */
    return p;
}

static void keep_to_one_core(void)
{
    cpu_set_t all, one;
    CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (int i = 0; CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);
}

/* Each side learns on which core the other one is. */
static void meet(pair p)
{
    call r = {.channel = p.rx, .length = 1, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    CHECK_EQ(cwasi_channel_send(p.tx, "", 1, FOREVER), 0);
    join(thread);
    CHECK_EQ(r.result, 1);
}

static void sleep_us(uint64_t us)
{
    nanosleep(&(struct timespec){0, (long)us * 1000}, NULL);
}

static uint64_t length_of(uint64_t i)
{
    static const uint64_t lengths[] = {
        LARGE, 32 * 1024, 32 * 1024 - 1, 0, 32 * 1024 + 1, 64, CAPACITY, 3 * CAPACITY + 5, LARGE - 1,
    };
    return lengths[i % (sizeof lengths / sizeof lengths[0])];
}

static void *send_all(void *arg)
{
    cwasi_channel *tx = arg;
    uint64_t random = 2;
    uint8_t *message = malloc(4 * CAPACITY);
    for (uint64_t i = 0; i < MESSAGES; i++) {
        fill(message, length_of(i), i);
        if (i % 3 == 0)
            sleep_us(next_random(&random) % 300);   /* the receiver has time to wait */
        CHECK_EQ(cwasi_channel_send(tx, message, length_of(i), FOREVER), 0);
        memset(message, 0xee, length_of(i));   /* what was sent stays */
    }
    free(message);
    return NULL;
}

/* Receives with buffers and time-outs of all kinds. A buffer that was given back is watched. */
static void receive_all(cwasi_channel *rx)
{
    uint64_t random = 1;
    uint8_t *buffer = malloc(4 * CAPACITY), *watched = calloc(1, LARGE);
    for (uint64_t i = 0; i < MESSAGES;) {
        uint64_t pick = next_random(&random) % 5;
        int64_t rc;
        if (pick == 0) {
            memset(watched, 0x77, LARGE);
            rc = cwasi_channel_recv(rx, watched, LARGE, 1000 + (int64_t)(next_random(&random) % 100000));
            if (rc >= 0) {
                CHECK_EQ(rc, length_of(i));
                CHECK(filled(watched, (size_t)rc, i++));
                continue;
            }
            CHECK(rc == -ETIMEDOUT || (rc == -EMSGSIZE && length_of(i) > LARGE));
            sched_yield();
            for (int at = 0; at < LARGE; at++)
                CHECK(watched[at] == 0x77);
            continue;
        }
        if (pick == 1)
            CHECK_EQ(cwasi_channel_peek(rx, NULL, FOREVER), length_of(i));
        rc = cwasi_channel_recv(rx, buffer, 4 * CAPACITY, FOREVER);
        CHECK_EQ(rc, length_of(i));
        CHECK(filled(buffer, (size_t)rc, i++));
    }
    free(buffer);
    free(watched);
}

static void everything_arrives(void)
{
    pair p = handing_pair();
    pthread_t thread = start(send_all, p.tx);
    receive_all(p.rx);
    join(thread);
    cwasi_stats sent = stats_of(p.tx), received = stats_of(p.rx);
    CHECK_EQ(sent.messages, MESSAGES);
    CHECK_EQ(received.bytes, sent.bytes);
    CHECK_EQ(sent.copied_bytes, sent.bytes);
    CHECK_EQ(cwasi_channel_close(p.tx, 0, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, FOREVER), -EPIPE);
    free_pair(p);
}

enum { LONG = 48 << 20 };

typedef struct {
    cwasi_channel *tx;
    atomic_u32 awaited;
} long_send;

static void *send_long(void *arg)
{
    long_send *s = arg;
    uint8_t *message = calloc(1, LONG);
    while (!load_acquire(&s->awaited))
        sleep_us(100);
    CHECK_EQ(cwasi_channel_send(s->tx, message, LONG, FOREVER), 0);
    free(message);
    return NULL;
}

/* A time-out ends in the middle of a copy, which takes milliseconds: the buffer is not given back before it is whole. */
static void a_copy_is_waited_for(void)
{
    enum { COUNT = 12 };
    pair p = handing_pair();
    uint8_t *buffer = malloc(LONG);
    meet(p);
    for (int i = 0; i < COUNT; i++) {
        long_send s = {.tx = p.tx};
        pthread_t thread = start(send_long, &s);
        int64_t rc;
        do {
            memset(buffer, 0x77, LONG);
            store_release(&s.awaited, 1);
            rc = cwasi_channel_recv(p.rx, buffer, LONG, (1 + i % 4) * MS);
            if (rc < 0)
                sleep_ms(1);
            for (int at = 0; rc < 0 && at < LONG; at += 4096)
                CHECK_EQ(buffer[at], 0x77);
        } while (rc == -ETIMEDOUT);
        CHECK_EQ(rc, LONG);
        for (int at = 0; at < LONG; at += 4096)
            CHECK_EQ(buffer[at], 0);
        join(thread);
    }
    free(buffer);
    free_pair(p);
}

/* A receiver that waits gets all of it by one copy, the sender's or that of both. */
static void one_copy(uint64_t size)
{
    enum { COUNT = 50 };
    pair p = handing_pair();
    uint8_t *message = malloc(size);
    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t waits = stats_of(p.rx).waits;
        call r = {.channel = p.rx, .length = size, .timeout = FOREVER};
        pthread_t thread = start(call_recv, &r);
        until_it_waits(p.rx, waits);
        fill(message, size, i);
        CHECK_EQ(cwasi_channel_send(p.tx, message, size, FOREVER), 0);
        join(thread);
        CHECK_EQ(r.result, size);
    }
    CHECK_EQ(stats_of(p.rx).bytes, COUNT * size);
    CHECK(stats_of(p.rx).copied_bytes < COUNT * size / 2);
    free(message);
    free_pair(p);
}

/* The end is stopped, or the peer dies, while the buffer is offered. */
static void nothing_comes(void)
{
    pair p = handing_pair();
    call r = {.channel = p.rx, .length = LARGE, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    until_it_waits(p.rx, 0);
    cwasi_channel_stop(p.rx);
    join(thread);
    CHECK_EQ(r.result, -ECANCELED);
    free_pair(p);

    p = handing_pair();
    r.channel = p.rx;
    thread = start(call_recv, &r);
    until_it_waits(p.rx, 0);
    CHECK_EQ(cwasi_channel_close(p.tx, 1, 0), 0);
    join(thread);
    CHECK_EQ(r.result, -ECONNRESET);
    free_pair(p);
}

/* A fork copies an offer, of a receiver that is not there: who sends in the child must not fulfil it. */
static void a_fork_takes_no_offer_along(void)
{
    pair p = handing_pair();
    meet(p);
    call r = {.channel = p.rx, .length = LARGE, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    sleep_ms(20);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        uint8_t *message = malloc(LARGE);
        fill(message, LARGE, 7);
        _exit(cwasi_channel_send(p.tx, message, LARGE, FOREVER) == 0 ? 0 : 1);
    }
    CHECK_EQ(wait_for(child), 0);
    join(thread);
    CHECK_EQ(r.result, LARGE);
    CHECK_EQ(stats_of(p.rx).copied_bytes, 1 + LARGE);   /* it came through the ring */
    cwasi_channel_abandon(p.tx);
    cwasi_channel_free(p.rx);
}

/* A peer in another process says that it has copied where it cannot have. */
static void a_lie_is_an_error(void)
{
    int fd = cwasi_ring_create(CAPACITY, 1);
    cwasi_channel *rx;
    shm_map map;
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &rx), 0);
    CHECK_EQ(shm_attach(fd, &map), 0);
    uint64_t frame[3] = {0, UINT64_C(1) << 63 | 5, LARGE};
    memcpy(map.data, frame, sizeof frame);
    /* The sender's position is the first word behind the line of the header. */
    store_release((atomic_u64 *)(map.control + 128), sizeof frame);
    uint8_t *buffer = malloc(LARGE);
    CHECK_EQ(cwasi_channel_recv(rx, buffer, LARGE, 100 * MS), -EBADMSG);
    free(buffer);
    shm_detach(&map);
    cwasi_channel_free(rx);
    close(fd);
}

int main(void)
{
    test_begin(60);
    cwasi_channel *pipe_end;
    cwasi_handover *h;
    CHECK_EQ(cwasi_handover_new(&h), 0);
    pair p = pipe_pair();
    pipe_end = p.tx;
    CHECK_EQ(cwasi_channel_hand_over(pipe_end, h), -ENOTSUP);
    free_pair(p);
    fan f = open_fan(CAPACITY, 2);
    CHECK_EQ(cwasi_channel_hand_over(f.tx, h), -ENOTSUP);
    free_fan(f);
    cwasi_handover_free(h);
    a_lie_is_an_error();
    /* On any cores. */
    everything_arrives();
    one_copy(4 * CAPACITY);
    a_copy_is_waited_for();
    keep_to_one_core();
    everything_arrives();
    one_copy(LARGE);
    a_copy_is_waited_for();
    nothing_comes();
    a_fork_takes_no_offer_along();
    return 0;
}
