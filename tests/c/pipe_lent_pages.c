/* Pages lent to a pipe are not written again before they were read: not by the messages that follow, and not by sends
 * that find no room and are tried again. */
#include "test.h"

enum { MESSAGES = 400, TRIES = 60 };

static size_t length_of(int i)
{
    static const size_t lengths[] = {16384, 131048, 20001, 60000, 131000, 17000, 100000};
    return lengths[i % 7];
}

/* Always as full as the pipe gets; the oldest message is read only when the next one has found no room many times. */
int main(void)
{
    uint8_t *data = malloc(1 << 20), *back = malloc(1 << 20);
    int received = 0, refused = 0;
    test_begin(40);
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    if (fcntl(fds[0], F_SETPIPE_SZ, 1 << 20) < 0)
        SKIP("the kernel grants no pipe of 1 MiB");
    close(fds[0]);
    close(fds[1]);
    pair p = pipe_pair();
    for (int sent = 0; sent < MESSAGES; sent++) {
        size_t length = length_of(sent);
        fill(data, length, (uint64_t)sent);
        /* A message that has begun waits for room: so only begin when there is room for all, as far as we know. */
        size_t unread = 0;
        for (int i = received; i < sent; i++)
            unread += (length_of(i) + 24 + 4095) / 4096 * 4096 + 4096;
        while (unread + length + 8192 > 1 << 20) {
            CHECK_EQ(cwasi_channel_recv(p.rx, back, 1 << 20, 0), length_of(received));
            CHECK(filled(back, length_of(received), (uint64_t)received));
            unread -= (length_of(received) + 24 + 4095) / 4096 * 4096 + 4096;
            received++;
        }
        CHECK_EQ(cwasi_channel_send(p.tx, data, length, 1000 * MS), 0);
    }
    while (received < MESSAGES) {
        CHECK_EQ(cwasi_channel_recv(p.rx, back, 1 << 20, 0), length_of(received));
        CHECK(filled(back, length_of(received), (uint64_t)received));
        received++;
    }

    /* Exactly full: 8 messages of 128 KiB with their headers are the 256 pages of the pipe. */
    size_t whole = 128 * 1024 - sizeof(cwasi_frame);
    for (int lap = 0; lap < 5; lap++) {
        for (int i = 0; i < 8; i++) {
            fill(data, whole, (uint64_t)(lap * 8 + i));
            CHECK_EQ(cwasi_channel_send(p.tx, data, whole, 1000 * MS), 0);
        }
        memset(data, 0xee, whole);
        for (int i = 0; i < TRIES; i++)
            refused += cwasi_channel_send(p.tx, data, i % 2 ? whole : 50000, i % 4 ? 1 * MS : 0) < 0;
        for (int i = 0; i < 8; i++) {
            CHECK_EQ(cwasi_channel_recv(p.rx, back, 1 << 20, 0), whole);
            CHECK(filled(back, whole, (uint64_t)(lap * 8 + i)));
        }
        CHECK_EQ(cwasi_channel_recv(p.rx, back, 1 << 20, 0), -EAGAIN);
    }
    CHECK_EQ(refused, 5 * TRIES);
    free_pair(p);
    free(data);
    free(back);
    return 0;
}
