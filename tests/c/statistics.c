/* What a tracer finds in the file: nothing before it is asked for; then functions by id, and ends of channels, each with
 * what it counted and what its time went into. A forked child writes nothing there. */
#include "test.h"

enum { BEFORE = 7, MESSAGES = 23, LARGE = 65536, CAPACITY = 1 << 20, AT_ONCE = 200 };

static cwasi_channel *tx, *rx;
static cwasi_statistics *seen;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void *receive_one(void *arg)
{
    static uint8_t into[LARGE];
    cwasi_attribution_enter(5);
    CHECK_EQ(cwasi_channel_recv(rx, into, LARGE, -1), 1);
    cwasi_attribution_enter(0);
    return arg;
}

/* The receiver's counters stand in its row only when its call is over; that it sleeps its metrics say. */
static void wait_until_it_sleeps(uint64_t before)
{
    cwasi_stats stats;
    do {
        sched_yield();
        cwasi_channel_stats(rx, &stats);
    } while (stats.waits == before);
}

static void describe_another(int rc)
{
    cwasi_channel *more;
    int ring = cwasi_ring_create(4096, 1);
    CHECK_EQ(cwasi_channel_open_ring(ring, CWASI_RECEIVER, 0, NULL, &more), 0);
    close(ring);
    CHECK_EQ(cwasi_statistics_end(more, "more", "", ""), rc);
    cwasi_channel_abandon(more);
}

static void *describe_many(void *arg)
{
    for (int i = 0; i < AT_ONCE; i++)
        describe_another(0);
    return arg;
}

int main(void)
{
    test_begin(60);
    static uint8_t data[LARGE];
    int memfd = cwasi_ring_create(CAPACITY, 1);
    CHECK_EQ(cwasi_channel_open_ring(memfd, CWASI_SENDER, 0, NULL, &tx), 0);
    CHECK_EQ(cwasi_channel_open_ring(memfd, CWASI_RECEIVER, 0, NULL, &rx), 0);
    CHECK_EQ(cwasi_statistics_end(tx, "c", "", ""), -EINVAL);
    cwasi_attribution_enter(4);
    for (int i = 0; i < BEFORE; i++) {
        CHECK_EQ(cwasi_channel_send(tx, data, 8, 0), 0);
        CHECK_EQ(cwasi_channel_recv(rx, data, LARGE, 0), 8);
    }

    int fd = cwasi_statistics_create();
    CHECK(fd >= 0);
    int again = cwasi_statistics_create();
    CHECK(again >= 0 && again != fd);
    close(fd);
    fd = again;
    CHECK_EQ(ftruncate(fd, 0), -1);
    seen = mmap(NULL, sizeof *seen, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(seen != MAP_FAILED);
    CHECK(seen->magic == CWASI_STATISTICS_MAGIC && seen->version == CWASI_STATISTICS_VERSION && seen->ends == 0);
    CHECK_EQ(cwasi_statistics_end(tx, "c", "to", "ring"), 0);
    CHECK_EQ(cwasi_statistics_end(rx, "c", "from", ""), 0);
    CHECK_EQ(cwasi_statistics_end(rx, "c", "from", "ring"), 0);
    cwasi_statistics_begin();
    CHECK_EQ(seen->ends, 2);
    CHECK(seen->end[0].messages == BEFORE && seen->end[1].messages == BEFORE);
    CHECK(strcmp(seen->end[0].channel, "c") == 0 && strcmp(seen->end[0].peers, "to") == 0);
    CHECK(strcmp(seen->end[1].transport, "ring") == 0 && seen->end[1].role == CWASI_RECEIVER);

    for (int i = 0; i < MESSAGES; i++) {
        CHECK_EQ(cwasi_channel_send(tx, data, LARGE, 0), 0);
        CHECK_EQ(cwasi_channel_recv(rx, data, LARGE, 0), LARGE);
    }
    const cwasi_end_statistics *end = seen->end;
    CHECK_EQ(end[0].messages, BEFORE + MESSAGES);
    CHECK_EQ(end[0].bytes, BEFORE * 8 + MESSAGES * LARGE);
    CHECK_EQ(end[1].messages, BEFORE + MESSAGES);
    for (int i = 0; i < 2; i++) {
        CHECK(end[i].calls == MESSAGES && end[i].function == 4);
        CHECK(end[i].copying_ns > 0 && end[i].copying_ns <= end[i].calls_ns && end[i].waited_ns == 0);
    }
    cwasi_stats stats;
    cwasi_channel_stats(rx, &stats);
    CHECK(stats.timed > 0 && end[1].timed == stats.timed && end[1].timed_ns >= 16 * stats.timed);
    CHECK(end[0].timed == 0 && end[0].timed_ns == 0);
    const cwasi_function_statistics *f = seen->functions;
    CHECK_EQ(f[4].calls, 2 * MESSAGES);
    CHECK_EQ(f[4].copying_ns, end[0].copying_ns + end[1].copying_ns);
    CHECK(f[4].calls_ns >= end[0].calls_ns + end[1].calls_ns);
    CHECK_EQ(cwasi_attribution_enter(3), 4);
    CHECK(f[4].ns >= f[4].calls_ns && f[3].ns == 0);

    pthread_t other = start(receive_one, NULL);
    wait_until_it_sleeps(stats.waits);
    CHECK_EQ(cwasi_channel_send(tx, data, 1, 0), 0);
    join(other);
    CHECK(f[5].calls == 1 && f[5].waited_ns > 0 && f[5].waited_ns <= f[5].calls_ns && f[5].calls_ns <= f[5].ns);
    CHECK(end[1].function == 5 && end[1].waited_ns == f[5].waited_ns && end[1].waits == stats.waits + 1);

    /* Between two traces nothing is counted; the next one begins with what was done meanwhile, and with no time. */
    cwasi_statistics_stop();
    uint64_t ns = f[3].ns;
    CHECK_EQ(cwasi_channel_send(tx, data, 8, 0), 0);
    CHECK_EQ(cwasi_channel_recv(rx, data, LARGE, 0), 8);
    CHECK(end[0].messages == BEFORE + MESSAGES + 1 && f[3].calls == 1 && f[3].ns == ns);
    usleep(1000);
    CHECK_EQ(cwasi_statistics_end(tx, "c", "to", "ring"), 0);
    CHECK_EQ(end[0].messages, BEFORE + MESSAGES + 2);
    cwasi_statistics_begin();
    uint64_t began = now();
    CHECK_EQ(cwasi_channel_send(tx, data, 8, 0), 0);
    CHECK_EQ(cwasi_channel_recv(rx, data, LARGE, 0), 8);
    CHECK(f[3].ns > ns && f[3].ns - ns <= now() - began);
    CHECK(end[0].messages == BEFORE + MESSAGES + 3 && f[3].calls == 3);

    pid_t child = fork();
    if (child == 0) {
        CHECK_EQ(cwasi_channel_send(tx, data, 1, 0), 0);
        CHECK_EQ(cwasi_statistics_end(tx, "c", "", ""), -EINVAL);
        int own = cwasi_statistics_create();
        CHECK(own >= 0);
        cwasi_statistics_begin();
        CHECK_EQ(cwasi_channel_send(tx, data, 1, 0), 0);   /* its row was in our file */
        CHECK_EQ(cwasi_statistics_end(tx, "c", "", ""), 0);
        CHECK_EQ(cwasi_channel_send(tx, data, 1, 0), 0);
        cwasi_statistics *mine = mmap(NULL, sizeof *mine, PROT_READ, MAP_SHARED, own, 0);
        CHECK(mine->ends == 1 && mine->end[0].calls == 1);
        _exit(0);
    }
    CHECK_EQ(wait_for(child), 0);
    CHECK_EQ(end[0].messages, BEFORE + MESSAGES + 3);
    CHECK_EQ(f[3].calls, 3);

    /* Two threads at once get rows of their own. */
    other = start(describe_many, NULL);
    describe_many(NULL);
    join(other);
    CHECK_EQ(seen->ends, 2 + 2 * AT_ONCE);

    /* What finds no room is counted. */
    for (int i = 2 + 2 * AT_ONCE; i < CWASI_ENDS_MAX + 3; i++)
        describe_another(i < CWASI_ENDS_MAX ? 0 : -ENOSPC);
    CHECK(seen->ends == CWASI_ENDS_MAX && seen->missed == 3);
    cwasi_channel_free(tx);
    cwasi_channel_free(rx);
    return 0;
}
