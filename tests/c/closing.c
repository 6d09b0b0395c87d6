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
    sleep_ms(20);
    CHECK_EQ(cwasi_channel_close(p.tx, failed, 0), 0);
    join(thread);
    CHECK_EQ(r.result, expected);
    CHECK(r.took < 800 * MS);
    free_pair(p);
}

static void blocked_sender_learns(int transport, size_t length, int failed, int expected)
{
    pair p = open_pair(transport);
    fill_up(p.tx);
    call s = {.channel = p.tx, .length = length, .timeout = FOREVER};
    pthread_t thread = start(call_send, &s);
    sleep_ms(20);
    CHECK_EQ(cwasi_channel_close(p.rx, failed, 0), 0);
    join(thread);
    CHECK_EQ(s.result, expected);
    CHECK(s.took < 800 * MS);
    free_pair(p);
}

int main(void)
{
    test_begin(30);
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
    return 0;
}
