/* Messages of all sizes around the boundaries of a ring arrive whole, once and in order, in rings of several sizes. */
#include "test.h"

typedef struct {
    cwasi_channel *tx;
    const size_t *sizes;
    size_t count;
    int rounds;
} job;

static void *send_all(void *arg)
{
    job *j = arg;
    uint8_t *data = malloc(16 << 20);
    uint64_t seq = 0;
    for (int round = 0; round < j->rounds; round++) {
        for (size_t i = 0; i < j->count; i++, seq++) {
            fill(data, j->sizes[i], seq);
            CHECK_EQ(cwasi_channel_send(j->tx, data, j->sizes[i], FOREVER), 0);
        }
    }
    free(data);
    CHECK_EQ(cwasi_channel_close(j->tx, 0, FOREVER), 0);
    return NULL;
}

static void run(uint64_t capacity, const size_t *sizes, size_t count, int rounds)
{
    pair p = ring_pair(capacity);
    job j = {p.tx, sizes, count, rounds};
    uint64_t seq = 0, bytes = 0;
    pthread_t sender = start(send_all, &j);
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < count; i++, seq++) {
            /* Of exactly that size, so that a byte too many is seen. */
            uint8_t *data = malloc(sizes[i] ? sizes[i] : 1);
            CHECK_EQ(cwasi_channel_recv(p.rx, data, sizes[i], FOREVER), sizes[i]);
            CHECK(filled(data, sizes[i], seq));
            bytes += sizes[i];
            free(data);
        }
    }
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, FOREVER), -EPIPE);
    join(sender);
    cwasi_stats sent, received;
    cwasi_channel_stats(p.tx, &sent);
    cwasi_channel_stats(p.rx, &received);
    CHECK(sent.messages == seq && received.messages == seq);
    CHECK(sent.bytes == bytes && received.bytes == bytes);
    free_pair(p);
}

int main(void)
{
    static const uint64_t capacities[] = {4096, 64 * 1024, 128 * 1024, 1 << 20};
    test_begin(50);
    for (size_t c = 0; c < sizeof capacities / sizeof *capacities; c++) {
        uint64_t capacity = capacities[c];
        size_t sizes[64] = {0, 1, 7, 8, 9, 63, 64, 65, 1000, 2023, 2024, 2048, 3000}, count = 13;
        for (uint64_t n = capacity - 25; n <= capacity + 1; n++)
            sizes[count++] = n;
        size_t around[] = {capacity / 2, capacity / 2 - 24, 65536 - 24, 65535, 65536, 65537, 131072, 131073};
        for (size_t i = 0; i < sizeof around / sizeof *around; i++)
            sizes[count++] = around[i];
        run(capacity, sizes, count, 4);

        size_t large[] = {3 << 20, 0, (5 << 20) + 3, 1};
        run(capacity, large, 4, 2);
    }
    /* Many laps: each message begins at another place of the ring. */
    size_t odd[] = {1, 13, 100, 999, 4072, 2500};
    run(4096, odd, 6, 2000);
    return 0;
}
