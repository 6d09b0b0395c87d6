/* Another thread reads an end's counters while they change. */
#include "test.h"

enum { COUNT = 20000 };

static void *send_all(void *arg)
{
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(cwasi_channel_send(arg, "message", 7, FOREVER), 0);
    return NULL;
}

static void *recv_all(void *arg)
{
    uint8_t data[7];
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(cwasi_channel_recv(arg, data, 7, FOREVER), 7);
    return NULL;
}

int main(void)
{
    static uint64_t histogram[CWASI_HISTOGRAM_BUCKETS];
    test_begin(30);
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        pair p = open_pair(transport);
        pthread_t sender = start(send_all, p.tx), receiver = start(recv_all, p.rx);
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
        CHECK(sent.messages == COUNT && received.bytes == 7 * COUNT);
        free_pair(p);
    }
    return 0;
}
