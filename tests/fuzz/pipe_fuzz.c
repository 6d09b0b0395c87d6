/* A hostile sender into a pipe, driven by bytes: the stream is cut into pieces, and the receiver calls in between. */
#include "internal.h"

#include "frame.h"
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LONGEST = 9000, PIECE = 300 };

static bytes in;

void fault_passed(const char *label)
{
    (void)label;
}

/* Bytes as they come, or a frame with the right number, and what should follow it, or less. */
static void write_some(int fd, uint64_t seq, uint32_t epoch)
{
    static uint8_t stream[PIECE + sizeof(cwasi_frame)];
    uint64_t pick = take(&in, 1), length = pick % PIECE;
    cwasi_frame frame = {.seq = pick & 2 ? seq : take(&in, 8), .length = (uint32_t)take(&in, pick & 4 ? 4 : 1)};
    if (pick % 16 >= 14)
        frame = (cwasi_frame){.seq = take(&in, 1) % 8 ? seq : seq + 1, .length = FRAME_SWITCH,
                              .epoch = epoch + (take(&in, 1) % 8 == 1)};
    memcpy(stream, &frame, sizeof frame);
    for (size_t i = 0; i < length; i++)
        stream[sizeof frame + i] = (uint8_t)take(&in, 1);
    size_t begin = pick & 1 ? sizeof frame : 0;
    if (write(fd, stream + begin, sizeof frame + length - begin) < 0)
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

static void call(cwasi_channel *rx)
{
    switch (take(&in, 1) % 4) {
    case 0: known_result(cwasi_channel_peek(rx, NULL, 0)); break;
    case 1: known_result(channel_drop(rx, deadline_after(0))); break;
    default: receive(rx); break;
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return 0;
}

/* A pipe, to which all that its sender ever says is written before any call: a receiver waits for the rest of a message
 * that has begun. */
static cwasi_channel *open_attack(uint32_t epoch)
{
    cwasi_channel *rx;
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0 || cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[0], NULL, 1, &rx) < 0)
        abort();
    close(fds[0]);
    for (uint64_t pieces = take(&in, 1) % 8, seq = 0; pieces > 0; pieces--)
        write_some(fds[1], seq++, epoch);
    close(fds[1]);
    return rx;
}

/* The next transport is attached or taken back, at the right time or not. */
static void agree(cwasi_channel *rx)
{
    uint64_t pick = take(&in, 1);
    uint32_t epoch = cwasi_channel_epoch(rx, 0) + 1;
    int rc = pick % 4 ? cwasi_channel_attach(rx, pick % 32 == 1, open_attack(epoch + 1), epoch + (pick / 32 == 1))
                      : cwasi_channel_detach(rx, 0, epoch + (pick / 32 == 1));
    if (rc != 0 && rc != -EBUSY && rc != -EINVAL && rc != -EALREADY)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    in = (bytes){data, data + size};
    cwasi_channel *rx = open_attack(1);
    for (int calls = 0; calls < 20; calls++)
        (take(&in, 1) % 4 == 1 ? agree : call)(rx);
    cwasi_channel_free(rx);
    return 0;
}
