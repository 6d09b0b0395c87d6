/* What was sent does not change any more, whoever reads it late, and nobody sees what was not sent to it: readers that
 * lag, that duplicate what is in their pipe and let go of it, that make FIONREAD lie, and that leave. */
#include "test.h"
#include "pipe.h"

#include <sys/ioctl.h>
#include <sys/uio.h>

enum { CHUNK = PIPE_CHUNK, HEADER = sizeof(cwasi_frame) };

/* A sender with `readers` readers that only have bare descriptors. */
typedef struct {
    cwasi_channel *tx;
    int pipes[FAN_MAX], backs[FAN_MAX];   /* the readers' sides */
} bare;

static bare open_bare(unsigned readers)
{
    bare b;
    int out[FAN_MAX] = {0}, heard[FAN_MAX] = {0};
    for (unsigned i = 0; i < readers; i++) {
        int fds[2];
        CHECK_EQ(pipe2(fds, O_NONBLOCK), 0);
        b.pipes[i] = fds[0];
        out[i] = fds[1];
        CHECK_EQ(pipe2(fds, O_NONBLOCK), 0);
        heard[i] = fds[0];
        b.backs[i] = fds[1];
    }
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, out, heard, readers, &b.tx), 0);
    for (unsigned i = 0; i < readers; i++) {
        close(out[i]);
        close(heard[i]);
    }
    if (fcntl(b.pipes[0], F_GETPIPE_SZ) < 1 << 20)
        SKIP("the kernel grants no pipe of 1 MiB");
    return b;
}

static void close_bare(bare *b, unsigned readers)
{
    cwasi_channel_free(b->tx);
    for (unsigned i = 0; i < readers; i++) {
        close(b->pipes[i]);
        close(b->backs[i]);
    }
}

static void read_all(int fd, uint8_t *to, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = read(fd, to + done, length - done);
        CHECK(n > 0);
        done += (size_t)n;
    }
}

static int unread(int fd)
{
    int bytes;
    CHECK_EQ(ioctl(fd, FIONREAD, &bytes), 0);
    return bytes;
}

static void send_filled(cwasi_channel *tx, uint8_t *data, size_t length, uint64_t seed)
{
    fill(data, length, seed);
    CHECK_EQ(cwasi_channel_send(tx, data, length, FOREVER), 0);
    memset(data, 0xee, length);
}

static void check_message(const uint8_t *stream, size_t length, uint64_t seed)
{
    cwasi_frame frame;
    memcpy(&frame, stream, sizeof frame);
    CHECK_EQ(frame.seq, seed);
    CHECK_EQ(frame.length, length);
    CHECK(filled(stream + HEADER, length, seed));
}

/* A pipe holds no more lent pages than it has slots: else the staging would be left behind all the time. */
static void a_full_pipe_holds_its_capacity(void)
{
    bare b = open_bare(1);
    uint8_t *data = malloc(2 << 20);
    fill(data, 2 << 20, 0);
    call s = {.channel = b.tx, .length = 2 << 20, .timeout = FOREVER};
    pthread_t sender = start(call_send, &s);
    while (stats_of(b.tx).parks == 0)
        sleep_ms(1);
    CHECK_EQ(unread(b.pipes[0]), 1 << 20);
    cwasi_channel_stop(b.tx);
    join(sender);
    CHECK_EQ(s.result, -ECANCELED);
    free(data);
    close_bare(&b, 1);
}

/* Every size, with a reader that is as late as the pipe lets it be. */
static void a_lagging_reader(void)
{
    static const size_t lengths[] = {16384, 131048, 20001, 60000, 131000, 17000, 100000, 262120, 400000};
    enum { ROUNDS = 300 };
    bare b = open_bare(2);
    uint8_t *data = malloc(1 << 19), *stream = malloc((1 << 19) + HEADER);
    uint64_t sent = 0, quick = 0, slow = 0;
    while (sent < ROUNDS) {
        size_t length = lengths[sent % 9];
        /* Pages, of which each chunk takes whole ones. */
        while ((uint64_t)unread(b.pipes[1]) + length + 24 * PAGE > 1 << 20) {
            size_t late = lengths[slow % 9];
            read_all(b.pipes[1], stream, late + HEADER);
            check_message(stream, late, slow++);
        }
        send_filled(b.tx, data, length, sent++);
        read_all(b.pipes[0], stream, length + HEADER);
        check_message(stream, length, quick++);
    }
    for (; slow < sent; slow++) {
        read_all(b.pipes[1], stream, lengths[slow % 9] + HEADER);
        check_message(stream, lengths[slow % 9], slow);
    }
    free(data);
    free(stream);
    close_bare(&b, 2);
}

/* Duplicates what is in its pipe, and reads it, so that FIONREAD says that it was consumed. */
static void keep(int from, int kept[2], size_t bytes, uint8_t *scratch)
{
    CHECK_EQ(pipe2(kept, O_NONBLOCK), 0);
    CHECK(fcntl(kept[1], F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
    CHECK_EQ(tee(from, kept[1], bytes, SPLICE_F_NONBLOCK), bytes);
    read_all(from, scratch, bytes);
}

/* A reader that has kept pages leaves; what the others are sent from then on is not to be seen in them. */
static void a_keeper_that_leaves(int says)
{
    enum { LENGTH = CHUNK - HEADER, ROUNDS = 40 };
    bare b = open_bare(2);
    uint8_t *data = malloc(CHUNK), *stream = malloc(CHUNK);
    int kept[2];
    send_filled(b.tx, data, LENGTH, 0);
    read_all(b.pipes[1], stream, CHUNK);
    keep(b.pipes[0], kept, CHUNK, stream);
    if (says)
        CHECK_EQ(write(b.backs[0], "f", 1), 1);
    close(b.pipes[0]);
    for (uint64_t seq = 1; seq < ROUNDS; seq++) {   /* more than once round the staging */
        send_filled(b.tx, data, LENGTH, seq);
        read_all(b.pipes[1], stream, CHUNK);
        check_message(stream, LENGTH, seq);
    }
    CHECK_EQ(stats_of(b.tx).lost_peers, !says);
    read_all(kept[0], stream, CHUNK);
    check_message(stream, LENGTH, 0);
    close(kept[0]);
    close(kept[1]);
    cwasi_channel_free(b.tx);
    close(b.pipes[1]);
    close(b.backs[0]);
    close(b.backs[1]);
    free(data);
    free(stream);
}

/* A keeper that stays sees later messages in its pages, but only what it is sent itself: a send that found no room has
 * shown nothing. And the other reader, which is as late as can be, gets what was sent. */
static void a_keeper_that_stays(void)
{
    enum { LENGTH = CHUNK - HEADER, KEPT = 24, BEHIND = 8 };
    bare b = open_bare(2);
    uint8_t *data = malloc(CHUNK), *stream = malloc(CHUNK);
    int kept[KEPT][2];
    for (uint64_t seq = 0; seq < KEPT; seq++) {   /* more than once round the staging */
        if (seq >= BEHIND) {
            read_all(b.pipes[1], stream, CHUNK);
            check_message(stream, LENGTH, seq - BEHIND);
        }
        send_filled(b.tx, data, LENGTH, seq);
        keep(b.pipes[0], kept[seq], CHUNK, stream);
        check_message(stream, LENGTH, seq);
    }
    memset(data, 0xaa, LENGTH);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cwasi_channel_send(b.tx, data, LENGTH, 1 * MS), -ETIMEDOUT);
    CHECK_EQ(cwasi_channel_send(b.tx, data, LENGTH, 0), -EAGAIN);
    for (int i = 0; i < KEPT; i++) {
        read_all(kept[i][0], stream, CHUNK);
        CHECK(!memmem(stream, CHUNK, data, 64));
        close(kept[i][0]);
        close(kept[i][1]);
    }
    for (uint64_t seq = KEPT - BEHIND; seq < KEPT; seq++) {
        read_all(b.pipes[1], stream, CHUNK);
        check_message(stream, LENGTH, seq);
    }
    free(data);
    free(stream);
    close_bare(&b, 2);
}

/* A reader that writes into its own pipe seems to read less than it does, or more; the other one gets what was sent. */
static void a_reader_that_writes(void)
{
    enum { LENGTH = 50000, ROUNDS = 60 };
    bare b = open_bare(2);
    char path[64];
    uint8_t *data = malloc(LENGTH), *stream = malloc(CHUNK);
    snprintf(path, sizeof path, "/proc/self/fd/%d", b.pipes[0]);
    int in = open(path, O_WRONLY | O_NONBLOCK);
    if (in < 0)
        SKIP("without /proc it cannot open its pipe again");
    for (uint64_t seq = 0; seq < ROUNDS; seq++) {
        send_filled(b.tx, data, LENGTH, seq);
        read_all(b.pipes[0], stream, LENGTH);   /* a header less than all of it */
        CHECK_EQ(write(in, data, 2000), 2000);
        read_all(b.pipes[0], stream, 2000);
        read_all(b.pipes[1], stream, LENGTH + HEADER);
        check_message(stream, LENGTH, seq);
    }
    close(in);
    free(data);
    free(stream);
    close_bare(&b, 2);
}

/* The rule itself: what is still in a pipe is left to it, what was read is used again. */
static void a_page_comes_round(void)
{
    int fds[2];
    endpoint *e;
    CHECK_EQ(pipe2(fds, O_NONBLOCK), 0);
    CHECK(fcntl(fds[1], F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
    CHECK_EQ(pipe_sender_new(&(pipe_peer){.fd = fds[1], .back = -1}, 1, &e), 0);
    pipe_sender *p = (pipe_sender *)e;
    uint8_t *stream = malloc(CHUNK);
    for (int i = 0; i < 20; i++) {
        int late = i % 2;
        uint8_t *chunk = staging_chunk(p, CHUNK);
        CHECK(chunk);
        fill(chunk, CHUNK, (uint64_t)i);
        CHECK_EQ(vmsplice(fds[1], &(struct iovec){chunk, CHUNK}, 1, 0), CHUNK);
        p->put += CHUNK;
        staging_lent(p, CHUNK);
        if (!late)
            read_all(fds[0], stream, CHUNK);
        p->at = 0;
        chunk = staging_chunk(p, PAGE);
        CHECK_EQ(filled(chunk, CHUNK, (uint64_t)i), !late);   /* else it is new memory */
        memset(chunk, 0xaa, PAGE);
        p->at = 0;
        if (late)
            read_all(fds[0], stream, CHUNK);
        CHECK(filled(stream, CHUNK, (uint64_t)i));
    }
    e->ops->destroy(e);
    close(fds[0]);
    free(stream);
}

static void *fill_again(void *arg)
{
    cwasi_channel *tx = arg;
    uint8_t *data = malloc(3 << 20);
    for (uint64_t i = 0; i < 400; i++) {
        uint64_t state = i;
        size_t length = next_random(&state) % (i % 50 ? 300000 : 3 << 20);
        fill(data, length, i);
        CHECK_EQ(cwasi_channel_send(tx, data, length, FOREVER), 0);
        memset(data, 0xee, length);
    }
    free(data);
    CHECK_EQ(cwasi_channel_close(tx, 0, FOREVER), 0);
    return NULL;
}

typedef struct {
    cwasi_channel *rx;
    int slow;
} reader;

static void *check_all(void *arg)
{
    reader *r = arg;
    uint8_t *data = malloc(3 << 20);
    for (uint64_t i = 0; i < 400; i++) {
        uint64_t state = i;
        size_t length = next_random(&state) % (i % 50 ? 300000 : 3 << 20);
        if (r->slow && i % 7 == 0)
            sleep_ms(r->slow);
        CHECK_EQ(cwasi_channel_recv(r->rx, data, 3 << 20, FOREVER), length);
        CHECK(filled(data, length, i));
    }
    CHECK_EQ(cwasi_channel_recv(r->rx, data, 1, FOREVER), -EPIPE);
    free(data);
    return NULL;
}

/* In threads: one that keeps up, one that lags, one that lags more. */
static void three_that_lag(void)
{
    fan f = open_pipes(3);
    reader r[3];
    pthread_t threads[3], sender = start(fill_again, f.tx);
    for (int i = 0; i < 3; i++) {
        r[i] = (reader){f.rx[i], i};
        threads[i] = start(check_all, &r[i]);
    }
    join(sender);
    for (int i = 0; i < 3; i++)
        join(threads[i]);
    free_fan(f);
}

int main(void)
{
    test_begin(60);
    a_full_pipe_holds_its_capacity();
    a_page_comes_round();
    a_lagging_reader();
    for (int says = 0; says < 2; says++)
        a_keeper_that_leaves(says);
    a_keeper_that_stays();
    a_reader_that_writes();
    three_that_lag();
    return 0;
}
