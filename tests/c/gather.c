/* One receiver of several senders: each one's order, turns, and what becomes of a sender that ends, dies, or breaks off in
 * the middle of a message. */
#include "test.h"

enum { SOURCES = 4, MESSAGES = 800, LONGEST = 200000 };

static uint64_t seed_of(unsigned source, uint64_t seq)
{
    return (uint64_t)(source + 1) << 32 | seq;
}

static size_t size_of_message(unsigned source, uint64_t seq)
{
    uint64_t state = seed_of(source, seq), pick = next_random(&state);
    return 8 + (pick % 64 == 0 ? pick / 64 % (LONGEST - 8) : pick / 64 % 2000);
}

typedef struct {
    cwasi_channel *tx[SOURCES], *rx;
} many;

/* pipes: a bit for each source that is a pipe. */
static many open_many(uint64_t capacity, unsigned pipes)
{
    many m;
    cwasi_channel *sources[SOURCES];
    for (unsigned i = 0; i < SOURCES; i++) {
        pair p = pipes >> i & 1 ? pipe_pair() : belled_pair(capacity);
        m.tx[i] = p.tx;
        sources[i] = p.rx;
    }
    CHECK_EQ(cwasi_channel_gather(sources, SOURCES, &m.rx), 0);
    return m;
}

static void free_many(many m)
{
    for (unsigned i = 0; i < SOURCES; i++)
        cwasi_channel_free(m.tx[i]);
    cwasi_channel_free(m.rx);
}

typedef struct {
    cwasi_channel *tx;
    unsigned source;
    int failed;
} sender;

/* A message begins with who sent it and its number. */
static void *send_all(void *arg)
{
    sender *s = arg;
    uint8_t *data = malloc(LONGEST);
    for (uint64_t seq = 0; seq < MESSAGES; seq++) {
        size_t size = size_of_message(s->source, seq);
        uint64_t seed = seed_of(s->source, seq);
        fill(data, size, seed);
        memcpy(data, &seed, sizeof seed);
        CHECK_EQ(cwasi_channel_send(s->tx, data, size, FOREVER), 0);
        if (seq % 100 == 50)
            sleep_ms(1);
    }
    free(data);
    CHECK_EQ(cwasi_channel_close(s->tx, s->failed, FOREVER), 0);
    return NULL;
}

static unsigned receive_one(many *m, uint64_t *next, int64_t timeout)
{
    static uint8_t data[LONGEST];
    static uint8_t expected[LONGEST];
    int64_t length = cwasi_channel_recv(m->rx, data, LONGEST, timeout);
    CHECK(length >= 8);
    uint64_t seed;
    memcpy(&seed, data, sizeof seed);
    unsigned source = (unsigned)(seed >> 32) - 1;
    CHECK(source < SOURCES);
    CHECK_EQ(seed, seed_of(source, next[source]));
    CHECK_EQ(length, size_of_message(source, next[source]));
    fill(expected, (size_t)length, seed);
    CHECK(memcmp(data + 8, expected + 8, (size_t)length - 8) == 0);
    next[source]++;
    return source;
}

static void content(uint64_t capacity, unsigned pipes, unsigned failing)
{
    many m = open_many(capacity, pipes);
    sender s[SOURCES];
    pthread_t threads[SOURCES];
    for (unsigned i = 0; i < SOURCES; i++) {
        s[i] = (sender){m.tx[i], i, failing >> i & 1};
        threads[i] = start(send_all, &s[i]);
    }
    uint64_t next[SOURCES] = {0};
    for (int n = 0; n < SOURCES * MESSAGES; n++)
        receive_one(&m, next, FOREVER);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cwasi_channel_recv(m.rx, NULL, 0, FOREVER), failing ? -ECONNRESET : -EPIPE);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < SOURCES; i++) {
        cwasi_stats one;
        join(threads[i]);
        CHECK_EQ(cwasi_channel_source_stats(m.rx, i, &one), 0);
        CHECK_EQ(one.messages, MESSAGES);
        CHECK_EQ(one.bytes, stats_of(m.tx[i]).bytes);
        bytes += one.bytes;
    }
    cwasi_stats none;
    CHECK_EQ(cwasi_channel_source_stats(m.rx, SOURCES, &none), -EINVAL);
    CHECK_EQ(stats_of(m.rx).messages, SOURCES * MESSAGES);
    CHECK_EQ(stats_of(m.rx).bytes, bytes);
    CHECK_EQ(stats_of(m.rx).lost_peers, __builtin_popcount(failing));
    free_many(m);
}

static void send_number(many *m, unsigned source, uint64_t seq)
{
    uint8_t data[LONGEST];
    size_t size = size_of_message(source, seq);
    uint64_t seed = seed_of(source, seq);
    fill(data, size, seed);
    memcpy(data, &seed, sizeof seed);
    CHECK_EQ(cwasi_channel_send(m->tx[source], data, size, FOREVER), 0);
}

static void takes_turns(unsigned pipes)
{
    many m = open_many(1 << 20, pipes);
    uint64_t next[SOURCES] = {0};
    for (unsigned i = 0; i < SOURCES; i++) {
        for (uint64_t seq = 0; seq < 20; seq++)
            send_number(&m, i, seq);
    }
    for (int round = 1; round <= 20; round++) {
        for (unsigned i = 0; i < SOURCES; i++)
            receive_one(&m, next, 0);
        for (unsigned i = 0; i < SOURCES; i++)
            CHECK_EQ(next[i], round);
    }
    free_many(m);
}

/* One breaks off in the middle of a message that is longer than its ring. */
static void torn(unsigned pipes, int dies)
{
    many m = open_many(4096, pipes);
    uint64_t next[SOURCES] = {0};
    call s = {.channel = m.tx[0], .length = 3 << 20, .timeout = FOREVER};
    pthread_t thread = start(call_send, &s);
    CHECK_EQ(cwasi_channel_peek(m.rx, NULL, FOREVER), s.length);
    call r = {.channel = m.rx, .length = 3 << 20, .timeout = FOREVER};
    sleep_ms(5);
    cwasi_channel_stop(m.tx[0]);
    join(thread);
    CHECK_EQ(s.result, -ECANCELED);
    pthread_t receiving = start(call_recv, &r);
    sleep_ms(5);
    if (dies && !(pipes & 1))
        cwasi_channel_peer_died(m.rx, 0);
    else
        CHECK_EQ(cwasi_channel_close(m.tx[0], 0, 0), 0);
    /* What it waited for is given up, and what others send comes instead. */
    sleep_ms(5);
    CHECK_EQ(cwasi_channel_send(m.tx[1], "other", 5, FOREVER), 0);
    join(receiving);
    CHECK_EQ(r.result, 5);
    for (unsigned i = 2; i < SOURCES; i++) {
        for (uint64_t seq = 0; seq < 3; seq++)
            send_number(&m, i, seq);
    }
    for (int n = 0; n < 6; n++)
        CHECK(receive_one(&m, next, FOREVER) >= 2);
    CHECK_EQ(stats_of(m.rx).lost_peers, 1);
    for (unsigned i = 1; i < SOURCES; i++) {
        CHECK_EQ(cwasi_channel_recv(m.rx, NULL, 0, 0), -EAGAIN);
        CHECK_EQ(cwasi_channel_close(m.tx[i], 0, FOREVER), 0);
    }
    CHECK_EQ(cwasi_channel_recv(m.rx, NULL, 0, FOREVER), -ECONNRESET);
    CHECK_EQ(stats_of(m.rx).lost_peers, 1);
    free_many(m);
}

static void one_dies_while_the_receiver_waits(unsigned pipes)
{
    many m = open_many(4096, pipes);
    uint64_t next[SOURCES] = {0};
    send_number(&m, 3, 0);
    cwasi_channel_peer_died(m.rx, 3);
    CHECK_EQ(receive_one(&m, next, FOREVER), 3);
    call r = {.channel = m.rx, .length = 10, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    sleep_ms(10);
    cwasi_channel_peer_died(m.rx, 1);
    sleep_ms(10);
    CHECK_EQ(cwasi_channel_send(m.tx[0], "x", 1, FOREVER), 0);
    join(thread);
    CHECK_EQ(r.result, 1);
    cwasi_channel_peer_died(m.rx, 99);
    r = (call){.channel = m.rx, .length = 10, .timeout = FOREVER};
    thread = start(call_recv, &r);
    sleep_ms(10);
    cwasi_channel_peer_died(m.rx, 0);
    cwasi_channel_peer_died(m.rx, 2);
    join(thread);
    CHECK_EQ(r.result, -ECONNRESET);
    CHECK_EQ(stats_of(m.rx).lost_peers, 4);
    free_many(m);
}

static void times_out_and_stops(unsigned pipes, int spins)
{
    cwasi_wait_configure(spins, spins ? 1 * MS : 0);
    many m = open_many(4096, pipes);
    uint64_t next[SOURCES] = {0};
    CHECK_EQ(cwasi_channel_recv(m.rx, NULL, 0, 0), -EAGAIN);
    CHECK_EQ(cwasi_channel_peek(m.rx, NULL, 0), -EAGAIN);
    call r = {.channel = m.rx, .length = 10, .timeout = 20 * MS};
    call_recv(&r);
    CHECK_EQ(r.result, -ETIMEDOUT);
    CHECK(r.took >= 20 * MS);
    send_number(&m, 2, 0);
    CHECK_EQ(receive_one(&m, next, 20 * MS), 2);
    r = (call){.channel = m.rx, .length = 10, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    sleep_ms(10);
    cwasi_channel_stop(m.rx);
    join(thread);
    CHECK_EQ(r.result, -ECANCELED);
    CHECK_EQ(cwasi_channel_recv(m.rx, NULL, 0, FOREVER), -ECANCELED);
    free_many(m);
    cwasi_wait_configure(-1, 40000);
}

/* A peer that writes a few bytes of a header and then nothing holds up nobody. */
static void half_a_header(void)
{
    int fds[2];
    cwasi_channel *sources[2], *rx;
    uint8_t data[10];
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[0], NULL, 1, &sources[0]), 0);
    pair good = belled_pair(4096);
    sources[1] = good.rx;
    CHECK_EQ(cwasi_channel_gather(sources, 2, &rx), 0);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(write(fds[1], "x", 1), 1);
        CHECK_EQ(cwasi_channel_send(good.tx, "hello", 5, 0), 0);
        CHECK_EQ(cwasi_channel_recv(rx, data, 10, i % 2 ? FOREVER : 0), 5);
        CHECK_EQ(write(fds[1], "x", 1), 1);
        CHECK_EQ(cwasi_channel_recv(rx, data, 10, 0), -EAGAIN);
        CHECK_EQ(write(fds[1], "x", 1), 1);
        CHECK_EQ(cwasi_channel_recv(rx, data, 10, 5 * MS), -ETIMEDOUT);
    }
    /* And one that writes nonsense is left out. */
    for (int i = 0; i < 100; i++)
        CHECK_EQ(write(fds[1], "\xf0", 1), 1);
    CHECK_EQ(cwasi_channel_send(good.tx, "hello", 5, 0), 0);
    CHECK_EQ(cwasi_channel_recv(rx, data, 10, FOREVER), 5);
    CHECK_EQ(cwasi_channel_recv(rx, data, 10, 0), -EAGAIN);
    CHECK_EQ(stats_of(rx).lost_peers, 1);
    CHECK_EQ(cwasi_channel_close(good.tx, 0, 0), 0);
    CHECK(cwasi_channel_recv(rx, data, 10, FOREVER) < 0);
    cwasi_channel_free(good.tx);
    cwasi_channel_free(rx);
    close(fds[0]);
    close(fds[1]);
}

/* A message that is too long for the buffer stays, whoever else has one. */
static void keeps_what_does_not_fit(void)
{
    many m = open_many(4096, 0);
    uint8_t data[10];
    CHECK_EQ(cwasi_channel_send(m.tx[2], "0123456789", 10, 0), 0);
    CHECK_EQ(cwasi_channel_recv(m.rx, data, 9, FOREVER), -EMSGSIZE);
    CHECK_EQ(cwasi_channel_send(m.tx[0], "x", 1, 0), 0);
    CHECK_EQ(cwasi_channel_send(m.tx[3], "x", 1, 0), 0);
    CHECK_EQ(cwasi_channel_peek(m.rx, NULL, 0), 10);
    CHECK_EQ(cwasi_channel_recv(m.rx, data, 10, FOREVER), 10);
    CHECK_EQ(channel_source(m.rx), 2);
    CHECK_EQ(cwasi_channel_recv(m.rx, data, 10, 0), 1);
    CHECK_EQ(channel_source(m.rx), 3);
    free_many(m);
}

static void what_cannot_be_gathered(void)
{
    pair p = belled_pair(4096), q = ring_pair(4096), used = belled_pair(4096);
    cwasi_channel *rx = NULL, *with_sender[] = {p.rx, q.tx}, *with_used[] = {p.rx, used.rx};
    uint8_t byte;
    CHECK_EQ(cwasi_channel_send(used.tx, "x", 1, 0), 0);
    CHECK_EQ(cwasi_channel_peek(used.rx, NULL, 0), 1);
    CHECK_EQ(cwasi_channel_gather(with_sender, 0, &rx), -EINVAL);
    CHECK_EQ(cwasi_channel_gather(with_sender, 2, &rx), -EINVAL);
    CHECK_EQ(cwasi_channel_gather(with_used, 2, &rx), -EINVAL);
    CHECK_EQ(cwasi_channel_recv(used.rx, &byte, 1, 0), 1);
    CHECK_EQ(cwasi_channel_gather(with_used, 2, &rx), -EINVAL);
    free_pair(used);
    /* Without bells it cannot sleep in all of them, but it can look. */
    cwasi_channel *bare[] = {p.rx, q.rx};
    CHECK_EQ(cwasi_channel_gather(bare, 2, &rx), 0);
    CHECK_EQ(cwasi_channel_recv(rx, &byte, 1, 0), -EAGAIN);
    CHECK_EQ(cwasi_channel_recv(rx, &byte, 1, FOREVER), -ENOTSUP);
    CHECK_EQ(cwasi_channel_send(q.tx, "x", 1, 0), 0);
    CHECK_EQ(cwasi_channel_recv(rx, &byte, 1, FOREVER), 1);
    cwasi_channel_free(rx);
    cwasi_channel_free(p.tx);
    cwasi_channel_free(q.tx);
}

int main(void)
{
    static const unsigned mixtures[] = {0, 0xf, 0x5, 0x8};
    test_begin(120);
    for (int i = 0; i < 4; i++) {
        content(4096, mixtures[i], 0);
        content(1 << 20, mixtures[i], 0x6);
        takes_turns(mixtures[i]);
        torn(mixtures[i], 0);
        torn(mixtures[i], 1);
        one_dies_while_the_receiver_waits(mixtures[i]);
        times_out_and_stops(mixtures[i], 0);
        times_out_and_stops(mixtures[i], 2);
    }
    half_a_header();
    keeps_what_does_not_fit();
    what_cannot_be_gathered();
    return 0;
}
