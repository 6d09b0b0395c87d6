/* An end goes on in another place: the sender says its last word, and one that begins in the next epoch goes on; the
 * receiver's rest is passed on to one that follows behind it. */
#include "test.h"

enum { EACH = 500, LONGEST = 9000, ROOM = 8 << 20 };   /* room for all of them */

static void send_some(cwasi_channel *tx, uint64_t from)
{
    uint8_t message[LONGEST];
    for (uint64_t i = from; i < from + EACH; i++) {
        fill(message, i * 7 % LONGEST, i);
        CHECK_EQ(cwasi_channel_send(tx, message, i * 7 % LONGEST, FOREVER), 0);
    }
}

static void receive_some(cwasi_channel *rx, uint64_t from)
{
    uint8_t message[LONGEST];
    for (uint64_t i = from; i < from + EACH; i++) {
        CHECK_EQ(cwasi_channel_recv(rx, message, LONGEST, FOREVER), i * 7 % LONGEST);
        CHECK(filled(message, i * 7 % LONGEST, i));
    }
}

typedef struct {
    cwasi_channel *tx;
    uint64_t from;
} sending;

static void *send_all(void *arg)
{
    sending *s = arg;
    send_some(s->tx, s->from);
    CHECK_EQ(cwasi_channel_depart(s->tx, FOREVER), 0);
    return NULL;
}

static void sender_moves(int transport)
{
    pair p = open_pair(transport), next = ring_pair(ROOM);
    CHECK_EQ(cwasi_channel_begin(next.tx, 1), 0);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, next.rx, 1), 0);
    sending s = {p.tx, 0};
    pthread_t thread = start(send_all, &s);
    receive_some(p.rx, 0);
    join(thread);
    CHECK_EQ(cwasi_channel_send(p.tx, "x", 1, 0), -EBADF);
    CHECK_EQ(cwasi_channel_depart(p.tx, 0), -EBADF);
    CHECK_EQ(cwasi_channel_epoch(p.tx, 0), 1);
    CHECK_EQ(cwasi_channel_begin(next.tx, 2), -EINVAL);   /* it has an epoch */
    cwasi_channel_free(p.tx);
    send_some(next.tx, EACH);
    CHECK_EQ(cwasi_channel_epoch(next.tx, 0), 1);
    /* What is said of the one before does not concern the one that is read now. */
    receive_some(p.rx, EACH);
    cwasi_channel_peer_died_in(p.rx, 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), -EAGAIN);
    cwasi_channel_peer_died_in(p.rx, 1);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, FOREVER), -ECONNRESET);
    cwasi_channel_free(next.tx);
    cwasi_channel_free(p.rx);
}

/* Nobody has attached where the sender goes, or it could not say so. */
static void not_yet(void)
{
    pair p = open_pair(ON_RING);
    CHECK_EQ(cwasi_channel_depart(p.rx, 0), -EINVAL);
    uint64_t count = fill_up(p.tx);
    CHECK_EQ(cwasi_channel_depart(p.tx, 5 * MS), -ETIMEDOUT);
    CHECK_EQ(cwasi_channel_epoch(p.tx, 0), 0);
    drain(p.rx, count);
    CHECK_EQ(cwasi_channel_send(p.tx, "x", 1, 0), 0);   /* all stayed as it was */
    CHECK_EQ(cwasi_channel_begin(p.tx, 3), -EINVAL);
    CHECK_EQ(cwasi_channel_depart(p.tx, 0), 0);
    uint8_t one;
    CHECK_EQ(cwasi_channel_recv(p.rx, &one, 1, 0), 1);
    CHECK_EQ(cwasi_channel_recv(p.rx, &one, 1, 0), -EREMCHG);
    free_pair(p);
}

/* One end receives what is left, and passes it on to one in the same epoch, which then follows the sender. */
static void receiver_moves(void)
{
    pair p = ring_pair(ROOM), rest = ring_pair(ROOM), next = ring_pair(ROOM);
    uint8_t message[LONGEST];
    cwasi_frame frame;
    CHECK_EQ(cwasi_channel_begin(rest.rx, 0), 0);
    CHECK_EQ(cwasi_channel_attach(rest.rx, 0, next.rx, 1), 0);
    send_some(p.tx, 0);
    CHECK(cwasi_channel_peek(p.rx, &frame, FOREVER) >= 0);   /* peeked, and not taken */
    CHECK_EQ(cwasi_channel_switch(p.tx, next.tx, FOREVER), 0);
    send_some(p.tx, EACH);
    for (int i = 0; i < EACH; i++) {
        int64_t length = cwasi_channel_recv(p.rx, message, LONGEST, FOREVER);
        CHECK_EQ(cwasi_channel_forward(rest.tx, message, (uint64_t)length, 0, FOREVER), 0);
    }
    CHECK_EQ(cwasi_channel_peek(p.rx, &frame, FOREVER), -EREMCHG);
    CHECK_EQ(cwasi_channel_pass_switch(rest.tx, frame.epoch, FOREVER), 0);
    cwasi_channel_free(p.rx);
    cwasi_channel_free(rest.tx);
    receive_some(rest.rx, 0);
    receive_some(rest.rx, EACH);
    CHECK_EQ(cwasi_channel_epoch(rest.rx, 0), 1);
    CHECK_EQ(cwasi_channel_close(p.tx, 0, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(rest.rx, message, LONGEST, FOREVER), -EPIPE);
    cwasi_channel_free(p.tx);
    cwasi_channel_free(rest.rx);
}

int main(void)
{
    test_begin(60);
    sender_moves(ON_RING);
    sender_moves(ON_PIPE);
    not_yet();
    receiver_moves();
    return 0;
}
