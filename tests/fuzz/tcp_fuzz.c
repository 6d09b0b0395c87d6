/* Hostile peers over TCP, driven by bytes: a sender whose stream is cut into pieces and connections, and a receiver that
 * answers a sender with records of its own. */
#include "internal.h"

#include "tcp.h"
#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LONGEST = 9000, PIECE = 300, READERS = 2 };

static bytes in;

void fault_passed(const char *label)
{
    (void)label;
}

/* A new connection of the end; the peer's side of it. */
static int connect_end(cwasi_tcp *t)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0 ||
        cwasi_tcp_connected(t, fds[0], (int)take(&in, 1) & 1) < 0)
        abort();
    close(fds[0]);
    return fds[1];
}

/* Bytes as they come, or a header with what should follow it, or less. */
static void write_some(int fd, uint64_t seq)
{
    static uint8_t stream[PIECE + WIRE_HEADER];
    uint64_t pick = take(&in, 1), length = pick % PIECE;
    cwasi_frame frame = {
        .seq = pick & 2 ? seq : take(&in, pick & 8 ? 8 : 1),
        .stamp = take(&in, pick & 16 ? 8 : 1),
        .length = (uint32_t)take(&in, pick & 4 ? 4 : 1),
    };
    to_wire(stream, &frame);
    for (size_t i = 0; i < length; i++)
        stream[WIRE_HEADER + i] = (uint8_t)take(&in, 1);
    size_t begin = pick & 1 ? WIRE_HEADER : 0;
    if (send(fd, stream + begin, WIRE_HEADER + length - begin, MSG_NOSIGNAL) < 0)
        return;
}

static void receive(cwasi_channel *rx)
{
    uint64_t capacity = take(&in, 2) % LONGEST;
    uint8_t *to = malloc(capacity ? capacity : 1);
    int64_t rc = cwasi_channel_recv(rx, to, capacity, 0);
    known_result(rc);
    if (rc > (int64_t)capacity)
        abort();
    free(to);
}

/* Between connections, so that a message which has begun may go on with the next one; the last has no successor. */
static void hostile_sender(void)
{
    cwasi_channel *rx;
    cwasi_tcp *keeper;
    if (cwasi_channel_open_tcp(CWASI_RECEIVER, TCP_WINDOW_LEAST, 1, &keeper, &rx) < 0)
        abort();
    int fd = -1;
    for (uint64_t connections = 1 + take(&in, 1) % 3, seq = 0; connections > 0; connections--) {
        if (fd >= 0)
            close(fd);
        fd = connect_end(keeper);
        for (uint64_t pieces = take(&in, 1) % 8; pieces > 0; pieces--)
            write_some(fd, seq++);
        if (connections > 1 && take(&in, 1) % 2)
            known_result(cwasi_channel_peek(rx, NULL, 0));
        known_result(cwasi_tcp_tend(keeper) < 0 ? -EPIPE : 0);
    }
    shutdown(fd, SHUT_WR);
    cwasi_tcp_leave(keeper, 0);
    for (int calls = 0; calls < 10; calls++) {
        if (take(&in, 1) % 4)
            receive(rx);
        else
            known_result(channel_drop(rx, deadline_after(0)));
    }
    cwasi_channel_free(rx);
    close(fd);
}

/* One receiver or two, each with connections of its own. */
static void hostile_receivers(void)
{
    static const uint8_t message[LONGEST];
    cwasi_channel *tx;
    cwasi_tcp *keepers[READERS];
    int fd[READERS] = {-1, -1};
    unsigned readers = 1 + (unsigned)take(&in, 1) % READERS;
    if (cwasi_channel_open_tcp(CWASI_SENDER, TCP_WINDOW_LEAST, readers, keepers, &tx) < 0)
        abort();
    for (int steps = 0; steps < 20; steps++) {
        uint64_t pick = take(&in, 1);
        unsigned which = (unsigned)(pick / 8) % readers;
        switch (pick % 6) {
        case 0:
            if (fd[which] >= 0)
                close(fd[which]);
            fd[which] = connect_end(keepers[which]);
            break;
        case 1:
            if (fd[which] >= 0)
                write_some(fd[which], take(&in, 1) % 8);
            break;
        case 2: cwasi_tcp_tend(keepers[which]); break;
        case 3: cwasi_channel_unread(tx); break;
        case 4:
            if (pick / 16 % 8 == 0)
                cwasi_channel_peer_died(tx, which);
            break;
        default: known_result(cwasi_channel_send(tx, message, take(&in, 2) % LONGEST, 0)); break;
        }
    }
    cwasi_channel_close(tx, (int)take(&in, 1) & 1, 0);
    for (unsigned i = 0; i < readers; i++) {
        cwasi_tcp_tend(keepers[i]);
        cwasi_tcp_leave(keepers[i], 0);
    }
    cwasi_channel_free(tx);
    for (unsigned i = 0; i < readers; i++) {
        if (fd[i] >= 0)
            close(fd[i]);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    in = (bytes){data, data + size};
    if (take(&in, 1) % 2)
        hostile_sender();
    else
        hostile_receivers();
    return 0;
}
