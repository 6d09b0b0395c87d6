/* Messages through a pipe arrive whole and in order, and as they were when send was called: the sender overwrites its
 * buffer as soon as send returns, while the receiver is slow. Also when the pipe is enlarged meanwhile. */
#include "test.h"

static const size_t SIZES[] = {
    0, 1, 8, 4071, 4072, 4073, 4095, 4096, 4097, 8191, 8192, 8193, 16359, 16360, 16383, 16384, 16385, 65536,
    128 * 1024 - 25, 128 * 1024 - 24, 128 * 1024 - 23, 128 * 1024, 128 * 1024 + 1, 128 * 1024 + 24, 1 << 20, 1 << 20,
    100000, 300001, 17000, 20000, 40000, 90000, 120000, 3, 150000, 70000, 66000, 5, 30 << 20, 1, 1 << 20, 20000,
};
enum { COUNT = sizeof SIZES / sizeof *SIZES };

typedef struct {
    cwasi_channel *tx;
    int rounds;
} job;

static void *send_all(void *arg)
{
    job *j = arg;
    uint8_t *data = malloc(30 << 20);
    for (int i = 0; i < COUNT * j->rounds; i++) {
        size_t length = SIZES[i % COUNT];
        fill(data, length, (uint64_t)i);
        CHECK_EQ(cwasi_channel_send(j->tx, data, length, FOREVER), 0);
        memset(data, 0xee, MIN(length, (size_t)1 << 20));
    }
    free(data);
    CHECK_EQ(cwasi_channel_close(j->tx, 0, FOREVER), 0);
    return NULL;
}

static void run(int capacity, int enlarge_at, int slow, int rounds)
{
    pair p;
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], NULL, 1, &p.tx), 0);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &fds[0], NULL, 1, &p.rx), 0);
    if (capacity)
        CHECK(fcntl(fds[0], F_SETPIPE_SZ, capacity) >= capacity);
    close(fds[1]);
    job j = {p.tx, rounds};
    pthread_t sender = start(send_all, &j);
    uint8_t *data = malloc(30 << 20);
    for (int i = 0; i < COUNT * rounds; i++) {
        if (enlarge_at && i == enlarge_at)
            fcntl(fds[0], F_SETPIPE_SZ, 1 << 20);
        if (slow && i % 5 == 0)
            sleep_ms(2);   /* the pipe fills up behind us */
        CHECK_EQ(cwasi_channel_recv(p.rx, data, 30 << 20, FOREVER), SIZES[i % COUNT]);
        CHECK(filled(data, SIZES[i % COUNT], (uint64_t)i));
    }
    CHECK_EQ(cwasi_channel_recv(p.rx, data, 1, FOREVER), -EPIPE);
    free(data);
    join(sender);
    close(fds[0]);
    free_pair(p);
}

int main(void)
{
    test_begin(50);
    run(0, 0, 0, 1);
    run(0, 0, 1, 2);
    run(4096, 0, 1, 1);
    run(64 * 1024, 20, 1, 2);
    return 0;
}
