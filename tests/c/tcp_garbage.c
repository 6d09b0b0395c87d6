/* Bytes that no honest peer writes end in an error, whatever they are: frames to a receiver, records to a sender. */
#include "test.h"

#include "tcp.h"

#include <sys/socket.h>

static uint8_t data[1 << 16];

static cwasi_channel *open_on(int role, int *theirs)
{
    cwasi_channel *c;
    cwasi_tcp *keeper;
    int fds[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    CHECK_EQ(cwasi_channel_open_tcp(role, 1 << 20, 1, &keeper, &c), 0);
    CHECK_EQ(cwasi_tcp_connected(keeper, fds[0], 1), 0);
    cwasi_tcp_leave(keeper, 0);   /* a break is the end */
    close(fds[0]);
    *theirs = fds[1];
    return c;
}

static int64_t recv_of(const void *bytes, size_t length, int again)
{
    int theirs;
    cwasi_channel *rx = open_on(CWASI_RECEIVER, &theirs);
    CHECK_EQ(write(theirs, bytes, length), length);
    shutdown(theirs, SHUT_WR);
    int64_t rc = cwasi_channel_recv(rx, data, sizeof data, FOREVER);
    for (int i = 0; i < again; i++)
        CHECK_EQ(cwasi_channel_recv(rx, data, sizeof data, FOREVER), rc);
    cwasi_channel_free(rx);
    close(theirs);
    return rc;
}

static int64_t frame_of(uint64_t seq, uint32_t length)
{
    uint8_t header[WIRE_HEADER];
    to_wire(header, &(cwasi_frame){.seq = seq, .length = length});
    return recv_of(header, sizeof header, 3);
}

static void hostile_senders(void)
{
    uint64_t rng = 3;
    CHECK_EQ(frame_of(0, CWASI_MESSAGE_MAX + 1u), -EBADMSG);
    CHECK_EQ(frame_of(0, 0xfffffffe), -ECONNRESET);
    CHECK_EQ(frame_of(0, 0xffffffff), -EPIPE);
    CHECK_EQ(frame_of(1, 0), -EBADMSG);
    CHECK_EQ(frame_of(UINT64_MAX, 8), -EBADMSG);
    CHECK_EQ(frame_of(0, CWASI_MESSAGE_MAX), -EMSGSIZE);
    CHECK_EQ(frame_of(0, 100), -ECONNRESET);    /* announced, never sent */
    CHECK_EQ(recv_of("short", 5, 3), -ECONNRESET);
    for (int i = 0; i < 5000; i++) {
        uint64_t words[40];
        size_t length = 1 + next_random(&rng) % sizeof words;
        for (size_t w = 0; w < 40; w++)
            words[w] = next_random(&rng) >> next_random(&rng) % 64;
        if (i % 2)
            words[0] = 0;   /* so that the number is right */
        if (i % 4 == 1)
            words[2] = next_random(&rng) % 400;
        int64_t rc = recv_of(words, length, 0);
        CHECK(rc == -EBADMSG || rc == -ECONNRESET || rc == -EPIPE || rc == -EMSGSIZE || rc >= 0);
    }
}

/* What a sender of two messages of 10 bytes makes of these records. */
static int64_t send_after(const cwasi_frame *records, int count)
{
    int theirs;
    cwasi_channel *tx = open_on(CWASI_SENDER, &theirs);
    CHECK_EQ(cwasi_channel_send(tx, data, 10, 0), 0);
    CHECK_EQ(cwasi_channel_send(tx, data, 10, 0), 0);
    int64_t rc = 0;
    for (int i = 0; i < count; i++) {
        uint8_t record[WIRE_HEADER];
        to_wire(record, &records[i]);
        CHECK_EQ(write(theirs, record, sizeof record), sizeof record);
        rc = cwasi_channel_send(tx, data, 10, 0);
    }
    CHECK(cwasi_channel_unread(tx) <= 2 + (uint64_t)count);
    cwasi_channel_free(tx);
    close(theirs);
    return rc;
}

static void hostile_receivers(void)
{
    uint64_t rng = 4;
    const cwasi_frame honest[] = {{0, 0, 0, 0}, {2, 1, 0, 0}, {2, 2, 0, 0}};
    CHECK_EQ(send_after(honest, 3), 0);
    CHECK_EQ(send_after((cwasi_frame[]){{9, 0, 0, 0}}, 1), -EBADMSG);               /* more than was sent */
    CHECK_EQ(send_after((cwasi_frame[]){{1, 2, 0, 0}}, 1), -EBADMSG);               /* returned, not taken */
    CHECK_EQ(send_after((cwasi_frame[]){{2, 2, 0, 0}, {1, 1, 0, 0}}, 2), -EBADMSG); /* backwards */
    CHECK_EQ(send_after((cwasi_frame[]){{2, 2, 0, 0}, {2, 1, 0, 0}}, 2), -EBADMSG);
    CHECK_EQ(send_after((cwasi_frame[]){{0, 0, 7, 0}}, 1), -EBADMSG);               /* a record has no payload */
    CHECK_EQ(send_after((cwasi_frame[]){{0, 0, FRAME_FINISHED, 0}}, 1), -EPIPE);
    CHECK_EQ(send_after((cwasi_frame[]){{0, 0, FRAME_FAILED, 0}}, 1), -ECONNRESET);
    for (int i = 0; i < 5000; i++) {
        cwasi_frame records[4];
        for (int r = 0; r < 4; r++) {
            records[r] = (cwasi_frame){next_random(&rng) % 8, next_random(&rng) % 8, 0, 0};
            if (i % 8 == 0)
                records[r].length = (uint32_t)next_random(&rng) >> next_random(&rng) % 32;
            if (i % 9 == 0)
                records[r].seq = next_random(&rng);
        }
        int64_t rc = send_after(records, 4);
        CHECK(rc == 0 || rc == -EBADMSG || rc == -EPIPE || rc == -ECONNRESET || rc == -EAGAIN);
    }
}

int main(void)
{
    test_begin(60);
    hostile_senders();
    hostile_receivers();
    return 0;
}
