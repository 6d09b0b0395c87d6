/* A latency is counted in the bucket whose bounds hold it. */
#include "test.h"

static double lower_bound(int bucket)
{
    return (double)(UINT64_C(1) << bucket / 16) * (1 + bucket % 16 / 16.0);
}

int main(void)
{
    static uint64_t histogram[CWASI_HISTOGRAM_BUCKETS], before[CWASI_HISTOGRAM_BUCKETS];
    test_begin(20);
    pair p = ring_pair(4096);
    uint64_t rng = 1, timed = 0;
    for (int i = 0; i < 3000; i++) {
        uint64_t age = next_random(&rng) >> (20 + next_random(&rng) % 44);
        uint64_t sent = (uint64_t)now_ns(), stamp = sent > age ? sent - age : 1;
        CHECK_EQ(cwasi_channel_forward(p.tx, NULL, 0, stamp, 0), 0);
        uint64_t least = (uint64_t)now_ns() - stamp;
        CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), 0);
        uint64_t most = (uint64_t)now_ns() - stamp;
        cwasi_channel_histogram(p.rx, histogram);
        int bucket = 0;
        while (bucket < CWASI_HISTOGRAM_BUCKETS && histogram[bucket] == before[bucket])
            bucket++;
        CHECK(bucket < CWASI_HISTOGRAM_BUCKETS);
        CHECK_EQ(histogram[bucket], before[bucket] + 1);
        CHECK((double)most >= lower_bound(bucket) || bucket == 64);
        CHECK(bucket == CWASI_HISTOGRAM_BUCKETS - 1 || (double)least < lower_bound(bucket + 1));
        memcpy(before, histogram, sizeof before);
        timed++;
    }
    /* Not timed, and from the future: counted nowhere. */
    CHECK_EQ(cwasi_channel_forward(p.tx, NULL, 0, 0, 0), 0);
    CHECK_EQ(cwasi_channel_forward(p.tx, NULL, 0, UINT64_MAX, 0), 0);
    CHECK_EQ(cwasi_channel_forward(p.tx, NULL, 0, (uint64_t)now_ns() + 1000000 * (uint64_t)MS, 0), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), 0);
    cwasi_channel_histogram(p.rx, histogram);
    CHECK(memcmp(before, histogram, sizeof before) == 0);
    cwasi_stats stats;
    cwasi_channel_stats(p.rx, &stats);
    CHECK_EQ(stats.timed, timed);

    /* One in `every` is timed. */
    CHECK_EQ(cwasi_channel_sample(p.tx, 8), 0);
    for (int i = 0; i < 80; i++) {
        CHECK_EQ(cwasi_channel_send(p.tx, NULL, 0, 0), 0);
        CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), 0);
    }
    cwasi_channel_stats(p.rx, &stats);
    CHECK_EQ(stats.timed, timed + 10);
    free_pair(p);
    return 0;
}
