/* Hostile readers of a sender, driven by bytes: each has a pipe and a back, reads as it likes, writes into what it should
 * only read, changes sizes, closes in any order; the sender sends without waiting, and looks at whom it has left. */
#include "internal.h"

#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READERS = 3, LONGEST = 300000, CALLS = 40 };

typedef struct {
    int pipe, in, back;   /* in: the pipe again, to write into it */
} reader;

static bytes in;
static uint8_t *memory;

void fault_passed(const char *label)
{
    (void)label;
}

static void known(int64_t rc)
{
    if (rc == 0 || rc == -EAGAIN || rc == -EPIPE || rc == -ECONNRESET)
        return;
    fprintf(stderr, "unknown result: %lld\n", (long long)rc);
    abort();
}

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void write_some(int fd)
{
    ssize_t n = fd < 0 ? 0 : write(fd, memory, take(&in, 2));
    (void)n;
}

static void play(reader *r)
{
    static uint8_t scratch[1 << 20];
    ssize_t n = 0;
    switch (take(&in, 1) % 8) {
    case 0: shut(&r->pipe); break;
    case 1: shut(&r->back); break;
    case 2: shut(&r->in); break;
    case 3: write_some(r->back); break;
    case 4: write_some(r->in); break;
    case 5: n = r->back < 0 ? 0 : write(r->back, "f", 1); break;
    case 6: n = r->pipe < 0 ? 0 : fcntl(r->pipe, F_SETPIPE_SZ, 1 << (12 + take(&in, 1) % 9)); break;
    default: n = r->pipe < 0 ? 0 : read(r->pipe, scratch, take(&in, 3) % sizeof scratch); break;
    }
    (void)n;
}

static cwasi_channel *open_all(reader *r, unsigned readers, int with_backs)
{
    int out[READERS], heard[READERS];
    cwasi_channel *tx;
    for (unsigned i = 0; i < readers; i++) {
        int fds[2], back[2];
        char path[32];
        if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(back, O_CLOEXEC | O_NONBLOCK) < 0)
            abort();
        snprintf(path, sizeof path, "/proc/self/fd/%d", fds[0]);
        r[i] = (reader){fds[0], open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC), back[1]};
        out[i] = fds[1];
        heard[i] = back[0];
    }
    if (cwasi_channel_open_pipe(CWASI_SENDER, out, with_backs ? heard : NULL, readers, &tx) < 0)
        abort();
    for (unsigned i = 0; i < readers; i++) {
        close(out[i]);
        close(heard[i]);
    }
    return tx;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    signal(SIGPIPE, SIG_IGN);
    memory = calloc(1, LONGEST);
    return memory ? 0 : 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    reader r[READERS];
    in = (bytes){data, data + size};
    uint64_t how = take(&in, 1);
    unsigned readers = 1 + (unsigned)(how % READERS);
    cwasi_channel *tx = open_all(r, readers, how & 64);
    cwasi_stats stats;
    for (int calls = 0; calls < CALLS && in.at < in.end; calls++) {
        uint64_t what = take(&in, 1);
        if (what & 1)
            known(cwasi_channel_send(tx, memory, what & 2 ? take(&in, 1) : take(&in, 3) % LONGEST, 0));
        else if (what % 32 == 2)
            cwasi_channel_peer_died(tx, (unsigned)take(&in, 1));
        else
            play(&r[take(&in, 1) % readers]);
        cwasi_channel_stats(tx, &stats);
        if (stats.lost_peers > readers)
            abort();
    }
    known(cwasi_channel_close(tx, how & 128, 0));
    cwasi_channel_free(tx);
    for (unsigned i = 0; i < readers; i++) {
        shut(&r[i].pipe);
        shut(&r[i].in);
        shut(&r[i].back);
    }
    return 0;
}
