/* What meets a switch in the middle: a buffer that was offered, descriptors that are waited for, an end that closes, a
 * stop, a bell whose number another one has got. */
#include "test.h"

enum { LARGE = 100000 };

static pair handing_pair(void)
{
    pair p = belled_pair(64 * 1024);
    cwasi_handover *h;
    CHECK_EQ(cwasi_handover_new(&h), 0);
    CHECK_EQ(cwasi_channel_hand_over(p.tx, h), 0);
    CHECK_EQ(cwasi_channel_hand_over(p.rx, h), 0);
    cwasi_handover_free(h);
    return p;
}

static void go(pair p, pair next)
{
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, next.rx, cwasi_channel_epoch(p.tx, 0) + 1), 0);
    CHECK_EQ(cwasi_channel_switch(p.tx, next.tx, FOREVER), 0);
}

/* The receiver waits with a large buffer, which it has offered to a transport that is gone when the message comes. */
static void offered(int times)
{
    pair p = handing_pair();
    call r = {.channel = p.rx, .length = LARGE, .timeout = FOREVER};
    uint8_t *data = calloc(1, LARGE);
    pthread_t thread = start(call_recv, &r);
    sleep_ms(5);
    for (int i = 0; i < times; i++) {
        go(p, handing_pair());
        while (cwasi_channel_epoch(p.rx, 0) != cwasi_channel_epoch(p.tx, 0))
            sleep_ms(1);
    }
    CHECK_EQ(cwasi_channel_send(p.tx, data, LARGE, FOREVER), 0);
    join(thread);
    CHECK_EQ(r.result, LARGE);
    free(data);
    free_pair(p);
}

static void *wait_in(void *arg)
{
    call *c = arg;
    c->result = cwasi_channel_wait(&c->channel, 1, 0, c->timeout);
    return NULL;
}

/* A pipe has more descriptors to wait for than a ring: while somebody waits in all sources, all of them go to pipes. */
static void waited_for_in_all(void)
{
    enum { SOURCES = 9 };
    pair p[SOURCES];
    cwasi_channel *sources[SOURCES], *rx;
    for (unsigned i = 0; i < SOURCES; i++) {
        p[i] = belled_pair(8192);
        sources[i] = p[i].rx;
    }
    CHECK_EQ(cwasi_channel_gather(sources, SOURCES, &rx), 0);
    call w = {.channel = rx, .timeout = FOREVER};
    pthread_t thread = start(wait_in, &w);
    sleep_ms(5);
    for (unsigned i = 0; i < SOURCES; i++) {
        pair next = pipe_pair();
        CHECK_EQ(cwasi_channel_attach(rx, i, next.rx, 1), 0);
        CHECK_EQ(cwasi_channel_switch(p[i].tx, next.tx, FOREVER), 0);
        while (cwasi_channel_epoch(rx, i) == 0)
            sleep_ms(1);
    }
    CHECK_EQ(cwasi_channel_send(p[SOURCES - 1].tx, "x", 1, 0), 0);
    join(thread);
    CHECK_EQ(w.result, 0);
    CHECK_EQ(cwasi_channel_recv(rx, NULL, 0, 0), -EMSGSIZE);
    for (unsigned i = 0; i < SOURCES; i++)
        cwasi_channel_free(p[i].tx);
    cwasi_channel_free(rx);
}

/* A receiver that has closed is given no other transport: nobody would tell the sender there that it has left. */
static void closed_before(void)
{
    pair p = belled_pair(8192), next = belled_pair(8192), third = belled_pair(8192);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, next.rx, 1), 0);
    CHECK_EQ(cwasi_channel_close(p.rx, 0, 0), 0);
    CHECK_EQ(cwasi_channel_detach(p.rx, 0, 1), -EALREADY);
    CHECK_EQ(cwasi_channel_send(next.tx, "x", 1, 0), -EPIPE);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, third.rx, 1), -EBADF);
    CHECK_EQ(cwasi_channel_send(third.tx, "x", 1, 0), -ECONNRESET);
    cwasi_channel_free(next.tx);
    cwasi_channel_free(third.tx);
    free_pair(p);
}

/* Only what has hung up tells of a death: by the time that somebody is told of a bell, its number may be that of the
 * next transport's. */
static void bell_of_another(int receives)
{
    pair p = belled_pair(8192);
    int bell;
    CHECK_EQ(cwasi_channel_bells(receives ? p.rx : p.tx, &bell, 1), 1);
    cwasi_channel_hung_up(receives ? p.rx : p.tx, bell);
    CHECK_EQ(cwasi_channel_send(p.tx, "x", 1, 0), 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), -EMSGSIZE);
    free_pair(p);
}

/* Who is about to be given up is in use while somebody waits to get at it. */
static void *switch_away(void *arg)
{
    call *c = arg;
    pair next = ring_pair(8192);
    c->result = cwasi_channel_switch(c->channel, next.tx, c->timeout);
    cwasi_channel_free(next.rx);
    return NULL;
}

static void not_abandoned(void)
{
    pair p = ring_pair(4096);
    while (cwasi_channel_send(p.tx, NULL, 0, 0) == 0)
        continue;
    uint64_t waits = stats_of(p.tx).waits;
    call s = {.channel = p.tx, .timeout = 400 * MS};
    pthread_t thread = start(switch_away, &s);
    until_it_waits(p.tx, waits);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(cwasi_channel_abandon(p.tx), -EBUSY);
    join(thread);
    CHECK_EQ(s.result, -ETIMEDOUT);
    CHECK_EQ(cwasi_channel_abandon(p.tx), 0);
    cwasi_channel_free(p.rx);
}

/* An end that has a next one already is not taken for a new one. */
static void not_new(void)
{
    pair p = ring_pair(8192), used = ring_pair(8192), next = ring_pair(8192);
    CHECK_EQ(cwasi_channel_attach(used.rx, 0, next.rx, 1), 0);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, used.rx, 1), -EINVAL);
    CHECK_EQ(cwasi_channel_send(next.tx, "x", 1, 0), -ECONNRESET);
    cwasi_channel_free(used.tx);
    cwasi_channel_free(next.tx);
    free_pair(p);
}

int main(void)
{
    test_begin(60);
    offered(1);
    offered(3);
    waited_for_in_all();
    closed_before();
    bell_of_another(0);
    bell_of_another(1);
    not_abandoned();
    not_new();
    return 0;
}
