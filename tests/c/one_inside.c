/* One thread at a time is inside an end: a second one is told so, and a close waits for it, then ends its wait. */
#include "test.h"

static void busy(int transport)
{
    pair p = open_pair(transport);
    call r = {.channel = p.rx, .length = 10, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    until_it_waits(p.rx, 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), -EBUSY);
    CHECK_EQ(cwasi_channel_peek(p.rx, NULL, FOREVER), -EBUSY);
    CHECK_EQ(cwasi_channel_send(p.tx, "hello", 5, 0), 0);
    join(thread);
    CHECK_EQ(r.result, 5);
    CHECK_EQ(cwasi_channel_peek(p.rx, NULL, 0), -EAGAIN);
    free_pair(p);
}

static void close_waits(int transport)
{
    pair p = open_pair(transport);
    call r = {.channel = p.rx, .length = 10, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    until_it_waits(p.rx, 0);
    int64_t begin = now_ns();
    CHECK_EQ(cwasi_channel_close(p.rx, 0, 50 * MS), 0);
    int64_t took = now_ns() - begin;
    CHECK(took >= 50 * MS && took < 2000 * MS);
    join(thread);
    CHECK_EQ(r.result, -ECANCELED);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), -EBADF);
    free_pair(p);
}

static void *close_slowly(void *arg)
{
    cwasi_channel_close(arg, 0, FOREVER);
    return NULL;
}

/* One thread waits in close for room to tell the peer, another frees the end. */
static void free_waits_for_close(void)
{
    pair p = pipe_pair();
    fill_up(p.tx);
    while (cwasi_channel_send(p.tx, NULL, 0, 0) == 0)   /* also the rest of the last page */
        continue;
    pthread_t thread = start(close_slowly, p.tx);
    sleep_ms(50);
    free_pair(p);
    join(thread);
}

/* Two threads close the same end at once, while a third uses it. */
static void closes_race(int transport)
{
    for (int i = 0; i < 100; i++) {
        pair p = open_pair(transport);
        call r = {.channel = p.rx, .length = 10, .timeout = FOREVER};
        pthread_t inside = start(call_recv, &r), other;
        other = start(close_slowly, p.rx);
        cwasi_channel_close(p.rx, 0, 0);
        join(other);
        join(inside);
        CHECK(r.result == -ECANCELED || r.result == -EBADF);
        free_pair(p);
    }
}

int main(void)
{
    test_begin(30);
    cwasi_wait_configure(0, 0);
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        busy(transport);
        close_waits(transport);
        closes_race(transport);
    }
    free_waits_for_close();
    return 0;
}
