/* The loops for measuring move what they should, and end where a side fails. */
#include "test.h"

enum { SIZE = 4096, COUNT = 500 };

static uint64_t took[2][COUNT];
static uint8_t message[2][SIZE];
static cwasi_driven saw[2];

static cwasi_drive side(int index, cwasi_channel *tx, cwasi_channel *rx, int64_t timeout)
{
    return (cwasi_drive){tx, rx, message[index], SIZE, COUNT, timeout, took[index], &saw[index]};
}

static void *pong(void *arg)
{
    CHECK_EQ(cwasi_drive_pong(arg), 0);
    return NULL;
}

static void *sink(void *arg)
{
    CHECK_EQ(cwasi_drive_sink(arg), 0);
    return NULL;
}

static void exchange(int64_t timeout)
{
    pair there = ring_pair(64 * 1024), back = ring_pair(64 * 1024);
    cwasi_drive first = side(0, there.tx, back.rx, timeout), second = side(1, back.tx, there.rx, timeout);
    pthread_t thread;
    memset(took, 0, sizeof took);
    CHECK_EQ(pthread_create(&thread, NULL, pong, &second), 0);
    CHECK_EQ(cwasi_drive_ping(&first), 0);
    pthread_join(thread, NULL);
    for (int i = 0; i < COUNT; i++)
        CHECK(took[0][i] > 0);
    CHECK_EQ(pthread_create(&thread, NULL, sink, &second), 0);
    CHECK_EQ(cwasi_drive_source(&first, 1000), 0);
    pthread_join(thread, NULL);
    CHECK(took[0][0] >= (COUNT - 1) * 1000);
    for (int i = 0; i < COUNT; i++)
        CHECK(took[1][i] > 0 && took[1][i] <= took[0][0]);
    for (int i = 0; i < 2; i++)
        CHECK(saw[i].begun > 0 && saw[i].ended > 0 && saw[i].parks <= (timeout == 0 ? 0 : COUNT));
    free_pair(there);
    free_pair(back);
}

static void lose_the_peer(void)
{
    pair there = ring_pair(64 * 1024), back = ring_pair(64 * 1024);
    cwasi_drive first = side(0, there.tx, back.rx, 0);
    CHECK_EQ(cwasi_channel_close(there.rx, 1, 0), 0);
    CHECK_EQ(cwasi_channel_close(back.tx, 1, 0), 0);
    CHECK(cwasi_drive_ping(&first) < 0);
    CHECK(cwasi_drive_pong(&first) < 0);
    CHECK(cwasi_drive_source(&first, 0) < 0);
    CHECK(cwasi_drive_sink(&first) < 0);
    free_pair(there);
    free_pair(back);
}

static uint8_t *blocks;

static void *fill_blocks(void *unused)
{
    CHECK(cwasi_drive_fill(blocks, SIZE, COUNT) > 0);
    return unused;
}

static void *take_turns(void *turn)
{
    CHECK(cwasi_drive_yield(turn, 1, COUNT) > 0);
    return NULL;
}

static void work_without_a_channel(void)
{
    pthread_t thread;
    uint32_t turn = 0;
    blocks = aligned_alloc(64, 2 * (64 + SIZE));
    memset(blocks, 0, 2 * (64 + SIZE));
    CHECK_EQ(pthread_create(&thread, NULL, fill_blocks, NULL), 0);
    CHECK(cwasi_drive_sum(blocks, SIZE, COUNT) > 0);
    pthread_join(thread, NULL);
    memset(blocks, 1, 64 + SIZE);   /* full, of what nobody wrote */
    CHECK_EQ(cwasi_drive_sum(blocks, SIZE, 1), -EBADMSG);
    CHECK_EQ(pthread_create(&thread, NULL, take_turns, &turn), 0);
    CHECK(cwasi_drive_yield(&turn, 0, COUNT) > 0);
    pthread_join(thread, NULL);
    memset(message[0], 7, SIZE);
    CHECK(cwasi_drive_copy(message[1], message[0], SIZE, COUNT) > 0);
    CHECK_EQ(memcmp(message[0], message[1], SIZE), 0);
    free(blocks);
}

static int lent[2];

static void *lend_blocks(void *from)
{
    CHECK(cwasi_drive_lend(lent[1], blocks, 4 * SIZE, from, SIZE, COUNT) > 0);
    close(lent[1]);
    return NULL;
}

static void lend_to_a_pipe(void)
{
    pthread_t thread;
    blocks = calloc(4, SIZE);
    for (int copies = 0; copies < 2; copies++) {
        CHECK_EQ(pipe(lent), 0);
        memset(message[0], 7, SIZE);
        memset(message[1], 1, SIZE);
        CHECK_EQ(pthread_create(&thread, NULL, lend_blocks, copies ? message[0] : NULL), 0);
        CHECK(cwasi_drive_read(lent[0], message[1], SIZE, COUNT) > 0);
        pthread_join(thread, NULL);
        CHECK_EQ(message[1][SIZE - 1], copies ? 7 : 0);
        CHECK_EQ(cwasi_drive_read(lent[0], message[1], SIZE, 1), -ECONNRESET);
        close(lent[0]);
    }
    CHECK_EQ(pipe(lent), 0);
    close(lent[0]);
    CHECK_EQ(cwasi_drive_lend(lent[1], blocks, 4 * SIZE, NULL, SIZE, 1), -EPIPE);
    close(lent[1]);
    free(blocks);
}

static int joined[2];

static void *answer_and_read(void *unused)
{
    CHECK(cwasi_drive_turns(joined[1], joined[1], message[1], SIZE, COUNT, 0) > 0);
    CHECK(cwasi_drive_read(joined[1], message[1], SIZE, COUNT) > 0);
    return unused;
}

static void write_to_a_socket(void)
{
    pthread_t thread;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, joined), 0);
    CHECK_EQ(pthread_create(&thread, NULL, answer_and_read, NULL), 0);
    memset(message[0], 5, SIZE);
    CHECK(cwasi_drive_turns(joined[0], joined[0], message[0], SIZE, COUNT, 1) > 0);
    memset(message[0], 6, SIZE);
    CHECK(cwasi_drive_write(joined[0], message[0], SIZE, COUNT) > 0);
    pthread_join(thread, NULL);
    CHECK_EQ(message[1][SIZE - 1], 6);
    close(joined[1]);
    CHECK_EQ(cwasi_drive_write(joined[0], message[0], SIZE, 1), -EPIPE);
    CHECK_EQ(cwasi_drive_turns(joined[0], joined[0], message[0], SIZE, 1, 0), -ECONNRESET);
    close(joined[0]);
}

int main(void)
{
    test_begin(50);
    lend_to_a_pipe();
    write_to_a_socket();
    exchange(FOREVER);
    exchange(0);
    lose_the_peer();
    work_without_a_channel();
    return 0;
}
