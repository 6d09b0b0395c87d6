/* Bytes that no honest sender writes end in an error, whatever they are. */
#include "test.h"

static int64_t recv_of(const void *bytes, size_t length, int again)
{
    static uint8_t data[1 << 16];
    cwasi_channel *rx;
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[0], NULL, 1, &rx), 0);
    CHECK_EQ(write(fds[1], bytes, length), length);
    close(fds[1]);
    close(fds[0]);
    int64_t rc = cwasi_channel_recv(rx, data, sizeof data, 0);
    for (int i = 0; i < again; i++)
        CHECK_EQ(cwasi_channel_recv(rx, data, sizeof data, 0), rc);
    cwasi_channel_free(rx);
    return rc;
}

static int64_t frame_of(uint64_t seq, uint32_t length)
{
    cwasi_frame frame = {.seq = seq, .length = length};
    return recv_of(&frame, sizeof frame, 3);
}

int main(void)
{
    uint64_t rng = 3;
    test_begin(30);
    CHECK_EQ(frame_of(0, CWASI_MESSAGE_MAX + 1u), -EBADMSG);
    CHECK_EQ(frame_of(0, 0xfffffffc), -EBADMSG);
    CHECK_EQ(frame_of(0, 0xfffffffd), -EREMCHG);   /* it goes on elsewhere, where nobody has agreed to */
    CHECK_EQ(frame_of(1, 0xfffffffd), -EBADMSG);
    CHECK_EQ(frame_of(0, 0xfffffffe), -ECONNRESET);
    CHECK_EQ(frame_of(0, 0xffffffff), -EPIPE);
    CHECK_EQ(frame_of(1, 0), -EBADMSG);
    CHECK_EQ(frame_of(UINT64_MAX, 8), -EBADMSG);
    CHECK_EQ(frame_of(0, CWASI_MESSAGE_MAX), -EMSGSIZE);
    CHECK_EQ(frame_of(0, 100), -ECONNRESET);    /* announced, never sent */
    CHECK_EQ(recv_of("short", 5, 3), -ECONNRESET);
    for (int i = 0; i < 20000; i++) {
        uint64_t bytes[40];
        size_t length = 1 + next_random(&rng) % sizeof bytes;
        for (size_t w = 0; w < 40; w++)
            bytes[w] = next_random(&rng) >> next_random(&rng) % 64;
        if (i % 2)
            bytes[0] = 0;   /* so that the number is right */
        if (i % 4 == 1)
            bytes[2] = next_random(&rng) % 400;
        int64_t rc = recv_of(bytes, length, 0);
        CHECK(rc == -EBADMSG || rc == -ECONNRESET || rc == -EPIPE || rc == -EMSGSIZE || rc == -EREMCHG ||
              rc >= 0);
    }
    return 0;
}
