/* A ring that is empty begins again at its start: little memory is touched while little is queued, and no message is the
 * worse for it. And trim, which gives back what a queue has left. */
#include "test.h"

enum { LONGEST = 70000, LENT = 300000 };
static const uint64_t CAPACITY = 4 << 20;

/* Bytes of memory behind a ring's file. */
static int64_t memory_of(const fan *f)
{
    struct stat st;
    CHECK_EQ(fstat(f->memfd, &st), 0);
    return (int64_t)st.st_blocks * 512;
}

static void send_numbered(cwasi_channel *tx, uint64_t seq, size_t size)
{
    static __thread uint8_t data[LONGEST];
    fill(data, size, seq);
    CHECK_EQ(cwasi_channel_send(tx, data, size, FOREVER), 0);
}

static void receive_numbered(cwasi_channel *rx, uint64_t seq, size_t size)
{
    static __thread uint8_t data[LONGEST];
    CHECK_EQ(cwasi_channel_recv(rx, data, LONGEST, FOREVER), size);
    CHECK(filled(data, size, seq));
}

static void touches_little(unsigned readers)
{
    fan f = open_fan(CAPACITY, readers);
    for (uint64_t seq = 0; seq < 50000; seq++) {
        size_t size = 100 + seq % 1000;
        send_numbered(f.tx, seq, size);
        for (unsigned i = 0; i < readers; i++)
            receive_numbered(f.rx[i], seq, size);
    }
    CHECK(memory_of(&f) <= SHM_CONTROL + 128 * 1024);
    free_fan(f);
}

/* Whether the receiver lags by nothing, by a few messages, or by as many as there is room for. */
static void content(uint64_t capacity, uint64_t lag, size_t longest)
{
    fan f = open_fan(capacity, 2);
    uint64_t sizes = lag + 1, state = 0;
    size_t *size = calloc(sizes, sizeof *size);
    uint64_t received[2] = {0};
    for (uint64_t seq = 0; seq < 6000; seq++) {
        size[seq % sizes] = next_random(&state) % longest;
        send_numbered(f.tx, seq, size[seq % sizes]);
        for (unsigned i = 0; i < 2; i++) {
            /* The first keeps up; the second falls behind and catches up at once. */
            if (i == 1 && seq - received[i] < lag)
                continue;
            for (; received[i] <= seq; received[i]++)
                receive_numbered(f.rx[i], received[i], size[received[i] % sizes]);
        }
    }
    free(size);
    free_fan(f);
}

typedef struct {
    cwasi_channel *tx;
    uint64_t count;
    size_t longest;
    atomic_u32 done;
} stream;

static size_t streamed_size(uint64_t seq, size_t longest)
{
    uint64_t state = seq;
    return next_random(&state) % longest;
}

static void *send_stream(void *arg)
{
    stream *s = arg;
    for (uint64_t seq = 0; seq < s->count; seq++)
        send_numbered(s->tx, seq, streamed_size(seq, s->longest));
    store_release(&s->done, 1);
    return NULL;
}

/* Two threads: now the ring is empty, now it is not. */
static void races(uint64_t capacity, size_t longest)
{
    fan f = open_fan(capacity, 1);
    stream s = {.tx = f.tx, .count = 30000, .longest = longest};
    pthread_t thread = start(send_stream, &s);
    for (uint64_t seq = 0; seq < s.count; seq++)
        receive_numbered(f.rx[0], seq, streamed_size(seq, longest));
    join(thread);
    free_fan(f);
}

static void all_of_it_can_be_filled(uint64_t capacity)
{
    fan f = open_fan(capacity, 1);
    uint64_t fresh = fill_up(f.tx);
    drain(f.rx[0], fresh);
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < round * 7 % 60; i++) {
            send_numbered(f.tx, 0, 3000);
            receive_numbered(f.rx[0], 0, 3000);
        }
        CHECK_EQ(fill_up(f.tx), fresh);
        drain(f.rx[0], fresh);
    }
    /* The longest message that goes at once, wherever the ring stands. */
    size_t longest = capacity - sizeof(cwasi_frame);
    uint8_t *data = malloc(longest);
    for (int round = 0; round < 20; round++) {
        send_numbered(f.tx, 0, (size_t)round * 100);
        receive_numbered(f.rx[0], 0, (size_t)round * 100);
        fill(data, longest, (uint64_t)round);
        CHECK_EQ(cwasi_channel_send(f.tx, data, longest, 0), 0);
        memset(data, 0, longest);
        CHECK_EQ(cwasi_channel_recv(f.rx[0], data, longest, 0), longest);
        CHECK(filled(data, longest, (uint64_t)round));
    }
    free(data);
    free_fan(f);
}

static void gives_back(void)
{
    fan f = open_fan(CAPACITY, 2);
    uint64_t count = fill_up(f.tx);
    int64_t full = memory_of(&f);
    CHECK(full >= (int64_t)(CAPACITY - 8192));
    CHECK_EQ(cwasi_channel_trim(f.tx), 0);
    CHECK_EQ(memory_of(&f), full);   /* nobody has read it */
    drain(f.rx[0], count);
    CHECK_EQ(cwasi_channel_trim(f.tx), 0);
    CHECK_EQ(memory_of(&f), full);   /* one has not */
    drain(f.rx[1], count - 1);
    CHECK_EQ(cwasi_channel_peek(f.rx[1], NULL, 0), 1000);
    CHECK_EQ(cwasi_channel_trim(f.tx), 0);
    CHECK_EQ(memory_of(&f), full);   /* it has looked only */
    receive_numbered(f.rx[1], count - 1, 1000);
    CHECK_EQ(cwasi_channel_trim(f.rx[0]), 0);
    CHECK_EQ(memory_of(&f), full);   /* not the sender's end */
    CHECK_EQ(cwasi_channel_trim(f.tx), 1);
    CHECK(memory_of(&f) <= SHM_CONTROL);
    for (uint64_t seq = 0; seq < 100; seq++) {
        send_numbered(f.tx, seq, 100);
        receive_numbered(f.rx[0], seq, 100);
        receive_numbered(f.rx[1], seq, 100);
        if (seq % 3 == 0)
            CHECK_EQ(cwasi_channel_trim(f.tx), 1);
    }
    CHECK(memory_of(&f) <= SHM_CONTROL + 64 * 1024);
    CHECK_EQ(cwasi_channel_close(f.tx, 0, 0), 0);
    CHECK_EQ(cwasi_channel_trim(f.tx), 0);
    free_fan(f);
}

/* A pipe's: what was sent is still received, and what comes next as well. */
static void a_pipe_gives_back_what_it_lends(void)
{
    pair p = pipe_pair();
    uint8_t *data = malloc(LENT);
    for (uint64_t seq = 0; seq < 40; seq++) {
        fill(data, LENT, seq);
        CHECK_EQ(cwasi_channel_send(p.tx, data, LENT, FOREVER), 0);
        CHECK_EQ(cwasi_channel_trim(p.tx), 1);
        CHECK_EQ(cwasi_channel_trim(p.rx), 0);
        memset(data, 0xee, LENT);
        CHECK_EQ(cwasi_channel_recv(p.rx, data, LENT, FOREVER), LENT);
        CHECK(filled(data, LENT, seq));
    }
    free(data);
    free_pair(p);
}

static void *trim_on(void *arg)
{
    stream *s = arg;
    while (!load_acquire(&s->done))
        CHECK(cwasi_channel_trim(s->tx) >= 0);
    return NULL;
}

static void trims_meanwhile(size_t longest)
{
    fan f = open_fan(1 << 20, 1);
    stream s = {.tx = f.tx, .count = 5000, .longest = longest};
    pthread_t sender = start(send_stream, &s), trimmer = start(trim_on, &s);
    for (uint64_t seq = 0; seq < s.count; seq++)
        receive_numbered(f.rx[0], seq, streamed_size(seq, longest));
    join(sender);
    join(trimmer);
    free_fan(f);
}

int main(void)
{
    test_begin(120);
    touches_little(1);
    touches_little(3);
    content(1 << 20, 0, 3000);
    content(1 << 20, 10, 20000);
    content(64 * 1024, 20, 2000);
    content(CAPACITY, 60, LONGEST - 1);
    races(64 * 1024, 2000);
    races(1 << 20, 5000);
    races(4096, 3000);
    all_of_it_can_be_filled(4096);
    all_of_it_can_be_filled(64 * 1024);
    all_of_it_can_be_filled(256 * 1024);
    gives_back();
    a_pipe_gives_back_what_it_lends();
    trims_meanwhile(500);
    trims_meanwhile(LONGEST - 1);
    return 0;
}
