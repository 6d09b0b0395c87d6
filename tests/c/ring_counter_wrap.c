/* The positions of a ring may run over 2^64. No ring lives long enough, so this one starts just before it. */
#include "test.h"

#include "ring.h"

static const uint64_t START = UINT64_C(0) - 3 * 4096;
static const size_t SIZES[] = {0, 1, 100, 2000, 4072, 4073, 10000};

static ring *open_at(int fd, int role)
{
    endpoint *e;
    CHECK_EQ(ring_open(fd, role, 0, NULL, &e), 0);
    ring *r = (ring *)e;
    r->published = r->cursor = r->seen = START;
    r->peer[0].seen = START;
    store_relaxed(&r->own->position, START);
    store_relaxed(&r->peer[0].side->position, START);
    return r;
}

static void *send_all(void *arg)
{
    static uint8_t data[10000];
    for (uint64_t seq = 0; seq < 700; seq++) {
        cwasi_frame frame = {.seq = seq, .length = (uint32_t)SIZES[seq % 7]};
        fill(data, frame.length, seq);
        CHECK_EQ(((endpoint *)arg)->ops->send(arg, &frame, data, deadline_after(FOREVER)), 0);
    }
    return NULL;
}

int main(void)
{
    static uint8_t data[10000];
    test_begin(20);
    int fd = cwasi_ring_create(4096, 1);
    ring *tx = open_at(fd, CWASI_SENDER), *rx = open_at(fd, CWASI_RECEIVER);
    close(fd);
    pthread_t sender = start(send_all, tx);
    for (uint64_t seq = 0; seq < 700; seq++) {
        cwasi_frame frame;
        CHECK_EQ(rx->base.ops->peek(&rx->base, &frame, deadline_after(FOREVER)), 0);
        CHECK(frame.seq == seq && frame.length == SIZES[seq % 7]);
        CHECK_EQ(rx->base.ops->take(&rx->base, &frame, data), 0);
        CHECK(filled(data, frame.length, seq));
    }
    join(sender);
    CHECK(rx->published < START);   /* it did run over */
    tx->base.ops->destroy(&tx->base);
    rx->base.ops->destroy(&rx->base);
    return 0;
}
