/* What was sent before an end closed can be read; then, or at once for a sender, the other side learns how it ended. */
#include "test.h"

static void sender_closes(int transport, int failed, int expected)
{
    pair p = open_pair(transport);
    uint64_t count = fill_up(p.tx) / 2;
    drain(p.rx, count);   /* room to tell the peer */
    CHECK_EQ(cwasi_channel_close(p.tx, failed, 1000 * MS), 0);
    CHECK_EQ(cwasi_channel_close(p.tx, failed, 1000 * MS), 0);
    CHECK_EQ(cwasi_channel_send(p.tx, "x", 1, 0), -EBADF);
    uint8_t message[1000];
    int64_t rc;
    for (uint64_t seq = count; (rc = cwasi_channel_recv(p.rx, message, sizeof message, FOREVER)) >= 0; seq++)
        CHECK(filled(message, sizeof message, seq));
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, FOREVER), expected);
    cwasi_stats sent, received;
    cwasi_channel_stats(p.tx, &sent);
    cwasi_channel_stats(p.rx, &received);
    CHECK_EQ(received.messages, sent.messages);
    free_pair(p);
}

static void parked_receiver_learns(int transport, int failed, int expected)
{
    pair p = open_pair(transport);
    call r = {.channel = p.rx, .length = 10, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    until_it_waits(p.rx, 0);
    CHECK_EQ(cwasi_channel_close(p.tx, failed, 0), 0);
    join(thread);
    CHECK_EQ(r.result, expected);
    free_pair(p);
}

static void blocked_sender_learns(int transport, size_t length, int failed, int expected)
{
    pair p = open_pair(transport);
    fill_up(p.tx);
    call s = {.channel = p.tx, .length = length, .timeout = FOREVER};
    pthread_t thread = start(call_send, &s);
    until_it_waits(p.tx, 0);
    CHECK_EQ(cwasi_channel_close(p.rx, failed, 0), 0);
    join(thread);
    CHECK_EQ(s.result, expected);
    free_pair(p);
}

/* Gets one message and leaves, which the watch of the sender's process tells the sender at once. */
static void *get_one(void *arg)
{
    pair *p = arg;
    static uint8_t message[100000];
    CHECK(cwasi_channel_recv(p->rx, message, sizeof message, FOREVER) >= 0);
    CHECK_EQ(cwasi_channel_close(p->rx, 0, FOREVER), 0);
    cwasi_channel_peer_died(p->tx, 0);
    return NULL;
}

/* What was received was sent well, whoever is gone a moment later; the next message is the one that fails. */
static void last_message(int transport, size_t length)
{
    static uint8_t message[100000];
    for (int i = 0; i < 500; i++) {
        pair p = open_pair(transport);
        pthread_t thread = start(get_one, &p);
        CHECK_EQ(cwasi_channel_send(p.tx, message, length, FOREVER), 0);
        join(thread);
        CHECK(cwasi_channel_send(p.tx, message, length, FOREVER) < 0);
        free_pair(p);
    }
}

int main(void)
{
    test_begin(60);
    cwasi_wait_configure(0, 0);
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        sender_closes(transport, 0, -EPIPE);
        sender_closes(transport, 1, -ECONNRESET);
        parked_receiver_learns(transport, 0, -EPIPE);
        parked_receiver_learns(transport, 1, -ECONNRESET);
        blocked_sender_learns(transport, 1000, 0, -EPIPE);
        blocked_sender_learns(transport, 3 << 20, 0, -EPIPE);
    }
    /* A pipe cannot tell its sender how the receiver ended. */
    blocked_sender_learns(ON_RING, 1000, 1, -ECONNRESET);

    /* A full pipe has no room for the last word: the close says so in time, and the peer sees a failure. */
    pair p = pipe_pair();
    uint64_t count = fill_up(p.tx);
    while (cwasi_channel_send(p.tx, NULL, 0, 0) == 0)   /* also the rest of the last page */
        continue;
    CHECK_EQ(cwasi_channel_close(p.tx, 0, 20 * MS), -ETIMEDOUT);
    drain(p.rx, count);
    int64_t rc;
    while ((rc = cwasi_channel_recv(p.rx, NULL, 0, FOREVER)) == 0)
        continue;
    CHECK_EQ(rc, -ECONNRESET);
    free_pair(p);
    for (int transport = ON_RING; transport <= ON_PIPE; transport++) {
        last_message(transport, 8);
        last_message(transport, 100000);
    }
    return 0;
}
