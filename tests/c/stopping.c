/* stop() ends the wait of a thread inside an end at once, and every later one. */
#include "test.h"

static void cancels(int transport, int spins)
{
    cwasi_wait_configure(spins, spins ? 500 * MS : 0);
    pair p = open_pair(transport);
    call r = {.channel = p.rx, .length = 10, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    until_it_waits(p.rx, 0);
    cwasi_channel_stop(p.rx);
    join(thread);
    CHECK_EQ(r.result, -ECANCELED);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, FOREVER), -ECANCELED);
    CHECK_EQ(cwasi_channel_peek(p.rx, NULL, FOREVER), -ECANCELED);

    fill_up(p.tx);
    call s = {.channel = p.tx, .length = 1000, .timeout = 60000 * MS};
    thread = start(call_send, &s);
    until_it_waits(p.tx, 0);
    cwasi_channel_stop(p.tx);
    join(thread);
    CHECK_EQ(s.result, -ECANCELED);
    CHECK_EQ(cwasi_channel_send(p.tx, "x", 1, FOREVER), -ECANCELED);
    free_pair(p);
}

static void drains_a_dead_peer(int transport)
{
    pair p = open_pair(transport);
    uint64_t count = fill_up(p.tx);
    cwasi_channel_peer_died(p.rx, 0);
    drain(p.rx, count);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, FOREVER), -ECONNRESET);
    cwasi_channel_peer_died(p.tx, 0);
    CHECK_EQ(cwasi_channel_send(p.tx, "x", 1, FOREVER), -ECONNRESET);
    /* A closing host overrules a dead peer, not the other way round. */
    cwasi_channel_stop(p.rx);
    cwasi_channel_peer_died(p.rx, 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, FOREVER), -ECANCELED);
    free_pair(p);
}

/* Cancelled between two messages: the end can still say in good order that it is done. */
static void closes_after_stop(int transport)
{
    pair p = open_pair(transport);
    CHECK_EQ(cwasi_channel_send(p.tx, "last", 4, 0), 0);
    cwasi_channel_stop(p.tx);
    CHECK_EQ(cwasi_channel_close(p.tx, 0, FOREVER), 0);
    uint8_t message[4];
    CHECK_EQ(cwasi_channel_recv(p.rx, message, 4, 0), 4);
    CHECK_EQ(cwasi_channel_recv(p.rx, message, 4, 0), -EPIPE);
    free_pair(p);
}

/* From many threads at once, just as the end goes to sleep. */
typedef struct {
    cwasi_channel *channel;
    int pause;
} stopper;

static void *stop_soon(void *arg)
{
    stopper *s = arg;
    for (int64_t until = now_ns() + s->pause; now_ns() < until;)
        cpu_relax();
    cwasi_channel_stop(s->channel);
    return NULL;
}

static void races(int transport)
{
    for (int i = 0; i < 300; i++) {
        pair p = open_pair(transport);
        stopper s = {p.rx, i * 200};
        pthread_t thread = start(stop_soon, &s);
        call r = {.channel = p.rx, .length = 10, .timeout = FOREVER};
        call_recv(&r);
        CHECK_EQ(r.result, -ECANCELED);
        join(thread);
        free_pair(p);
    }
}

int main(void)
{
    test_begin(40);
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        cancels(transport, 0);
        cancels(transport, 2);
        drains_a_dead_peer(transport);
        closes_after_stop(transport);
        cwasi_wait_configure(0, 0);
        races(transport);
    }
    return 0;
}
