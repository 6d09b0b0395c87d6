/* Another thread reads an end's counters while they change. */
#include "test.h"

enum { COUNT = 20000 };

int main(void)
{
    static uint64_t histogram[CWASI_HISTOGRAM_BUCKETS];
    test_begin(30);
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        pair p = open_pair(transport);
        series sends = {p.tx, COUNT}, receives = {p.rx, COUNT};
        pthread_t sender = start(send_series, &sends), receiver = start(recv_series, &receives);
        cwasi_stats sent = {0}, received = {0};
        uint64_t before = 0;
        while (received.messages < COUNT) {
            cwasi_channel_stats(p.rx, &received);
            cwasi_channel_stats(p.tx, &sent);
            cwasi_channel_histogram(p.rx, histogram);
            cwasi_channel_sample(p.tx, 16);
            CHECK(received.messages >= before);
            before = received.messages;
            sched_yield();
        }
        join(sender);
        join(receiver);
        cwasi_channel_stats(p.tx, &sent);
        CHECK(sent.messages == COUNT && received.bytes == SERIES_BYTES * COUNT);
        free_pair(p);
    }
    return 0;
}
