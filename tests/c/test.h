/* test.h - what every test needs. A test is a program: it exits with 0 (passed), 1 (failed) or 77 (skipped). */
#ifndef CWASI_TEST_H
#define CWASI_TEST_H

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);     \
            _exit(1);                                                                   \
        }                                                                               \
    } while (0)

/* Both as int64_t: results are lengths or -errno. */
#define CHECK_EQ(found, expected)                                                                   \
    do {                                                                                            \
        int64_t found_ = (int64_t)(found), expected_ = (int64_t)(expected);                         \
        if (found_ != expected_) {                                                                  \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #found,            \
                    (long long)found_, (long long)expected_);                                       \
            _exit(1);                                                                               \
        }                                                                                           \
    } while (0)

#define SKIP(reason)                                \
    do {                                            \
        fprintf(stderr, "skipped: %s\n", (reason)); \
        exit(77);                                   \
    } while (0)

enum { ON_RING, ON_PIPE, TRANSPORTS };

typedef struct {
    cwasi_channel *tx, *rx;
} pair;

static const int64_t MS = 1000000, FOREVER = -1;

static void hung(int signal)
{
    static const char message[] = "hangs\n";
    (void)signal;
    if (write(2, message, sizeof message - 1) < 0)
        _exit(1);
    _exit(1);
}

/* To be called first: SIGPIPE is an error code here, and a test that hangs fails; seconds are far more than it takes on
 * a quick machine. A lost wake is a hang, too: no sleep ends by itself. */
static inline void test_begin(unsigned seconds)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, hung);
    alarm(10 * seconds);
    longest_sleep_ns = 3600 * 1000 * MS;
}

static inline pair ring_pair(uint64_t capacity)
{
    pair p;
    int fd = cwasi_ring_create(capacity, 1);
    CHECK(fd >= 0);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_SENDER, 0, NULL, &p.tx), 0);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, 0, NULL, &p.rx), 0);
    close(fd);
    return p;
}

enum { FAN_MAX = 8 };

/* A sender with all its receivers: on a ring with bells, or on pipes with their backs. */
typedef struct {
    cwasi_channel *tx, *rx[FAN_MAX];
    unsigned readers;
    int memfd;
} fan;

static inline fan open_fan(uint64_t capacity, unsigned readers)
{
    fan f = {.readers = readers, .memfd = cwasi_ring_create(capacity, readers)};
    int ours[FAN_MAX], theirs[FAN_MAX];
    CHECK(f.memfd >= 0);
    for (unsigned i = 0; i < readers; i++) {
        int fds[2];
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        ours[i] = fds[0];
        theirs[i] = fds[1];
    }
    CHECK_EQ(cwasi_channel_open_ring(f.memfd, CWASI_SENDER, 0, ours, &f.tx), 0);
    for (unsigned i = 0; i < readers; i++) {
        CHECK_EQ(cwasi_channel_open_ring(f.memfd, CWASI_RECEIVER, i, &theirs[i], &f.rx[i]), 0);
        close(ours[i]);
        close(theirs[i]);
    }
    return f;
}

/* The same over pipes. */
static inline fan open_pipes(unsigned readers)
{
    fan f = {.readers = readers, .memfd = -1};
    int pipes[FAN_MAX][2], backs[FAN_MAX][2], ours[FAN_MAX] = {0}, heard[FAN_MAX] = {0};
    for (unsigned i = 0; i < readers; i++) {
        CHECK_EQ(pipe(pipes[i]), 0);
        CHECK_EQ(pipe(backs[i]), 0);
        ours[i] = pipes[i][1];
        heard[i] = backs[i][0];
    }
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, ours, heard, readers, &f.tx), 0);
    for (unsigned i = 0; i < readers; i++) {
        CHECK_EQ(cwasi_channel_open_pipe(CWASI_RECEIVER, &pipes[i][0], &backs[i][1], 1, &f.rx[i]), 0);
        for (int side = 0; side < 2; side++) {
            close(pipes[i][side]);
            close(backs[i][side]);
        }
    }
    return f;
}

static inline void free_fan(fan f)
{
    cwasi_channel_free(f.tx);
    for (unsigned i = 0; i < f.readers; i++)
        cwasi_channel_free(f.rx[i]);
    if (f.memfd >= 0)
        close(f.memfd);
}

/* A ring of one reader with bells, so that it can be waited for together with others. */
static inline pair belled_pair(uint64_t capacity)
{
    fan f = open_fan(capacity, 1);
    close(f.memfd);
    return (pair){f.tx, f.rx[0]};
}

static inline pair pipe_pair(void)
{
    fan f = open_pipes(1);
    return (pair){f.tx, f.rx[0]};
}

static inline pair open_pair(int transport)
{
    return transport == ON_RING ? ring_pair(64 * 1024) : pipe_pair();
}

static inline void free_pair(pair p)
{
    cwasi_channel_free(p.tx);
    cwasi_channel_free(p.rx);
}

static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Bytes that say which message they belong to and where in it they stand. */
static inline void fill(uint8_t *to, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i += 8) {
        uint64_t word = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
        memcpy(to + i, &word, MIN((size_t)8, length - i));
    }
}

static inline int filled(const uint8_t *from, size_t length, uint64_t seed)
{
    for (size_t i = 0; i < length; i += 8) {
        uint64_t word = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
        if (memcmp(from + i, &word, MIN((size_t)8, length - i)) != 0)
            return 0;
    }
    return 1;
}

static inline void sleep_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

static inline pthread_t start(void *(*body)(void *), void *arg)
{
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, body, arg), 0);
    return thread;
}

static inline void join(pthread_t thread)
{
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

/* A send or a receive on a thread of its own, and how it ended. */
typedef struct {
    cwasi_channel *channel;
    size_t length;      /* of the message, or of the buffer */
    int64_t timeout;
    int64_t result;
    int64_t took;       /* ns */
} call;

static inline void *call_send(void *arg)
{
    call *c = arg;
    void *data = calloc(1, c->length + 1);
    int64_t begin = now_ns();
    c->result = cwasi_channel_send(c->channel, data, c->length, c->timeout);
    c->took = now_ns() - begin;
    free(data);
    return NULL;
}

static inline void *call_recv(void *arg)
{
    call *c = arg;
    void *data = calloc(1, c->length + 1);
    int64_t begin = now_ns();
    c->result = cwasi_channel_recv(c->channel, data, c->length, c->timeout);
    c->took = now_ns() - begin;
    free(data);
    return NULL;
}

/* So many small messages, one after the other, on a thread of its own. */
typedef struct {
    cwasi_channel *channel;
    int count;
} series;

enum { SERIES_BYTES = 7 };   /* has each of them */

static inline void *send_series(void *arg)
{
    const series *s = arg;
    for (int i = 0; i < s->count; i++)
        CHECK_EQ(cwasi_channel_send(s->channel, "message", SERIES_BYTES, FOREVER), 0);
    return NULL;
}

static inline void *recv_series(void *arg)
{
    const series *s = arg;
    uint8_t data[SERIES_BYTES];
    for (int i = 0; i < s->count; i++)
        CHECK_EQ(cwasi_channel_recv(s->channel, data, SERIES_BYTES, FOREVER), SERIES_BYTES);
    return NULL;
}

/* Sends small messages until no more fit; how many. */
static inline uint64_t fill_up(cwasi_channel *tx)
{
    uint8_t message[1000];
    uint64_t count = 0;
    int rc;
    while (fill(message, sizeof message, count), (rc = cwasi_channel_send(tx, message, sizeof message, 0)) == 0)
        count++;
    CHECK_EQ(rc, -EAGAIN);
    return count;
}

static inline void drain(cwasi_channel *rx, uint64_t count)
{
    uint8_t message[1000];
    for (uint64_t i = 0; i < count; i++) {
        CHECK_EQ(cwasi_channel_recv(rx, message, sizeof message, 0), sizeof message);
        CHECK(filled(message, sizeof message, i));
    }
}

static inline cwasi_stats stats_of(cwasi_channel *c)
{
    cwasi_stats found;
    cwasi_channel_stats(c, &found);
    return found;
}

/* Until a call in that end waits, of which so many had waited before. */
static inline void until_it_waits(cwasi_channel *c, uint64_t before)
{
    while (stats_of(c).waits == before)
        sleep_ms(1);
}

/* How a child ended: its exit code, or 128 + its signal. */
static inline int wait_for(pid_t child)
{
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#endif
