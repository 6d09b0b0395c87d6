/* A ring, or pipes, with several readers: each gets every message whole and in order, the slowest holds up the sender, and one that
 * ends is left behind. */
#include "test.h"

enum { MESSAGES = 1500, LONGEST = 20000 };

static int over;   /* which transport */

/* capacity: of a ring. */
static fan open_several(uint64_t capacity, unsigned readers)
{
    return over == ON_RING ? open_fan(capacity, readers) : open_pipes(readers);
}

static size_t size_of_message(uint64_t seq, uint64_t capacity)
{
    uint64_t state = seq * 7919 + capacity;
    uint64_t pick = next_random(&state);
    return pick % 16 == 0 ? pick / 16 % LONGEST : pick / 16 % 700;
}

typedef struct {
    cwasi_channel *rx;
    uint64_t capacity;
    uint64_t pause_at;   /* it is slow at each multiple of it, 0: never */
    uint64_t leave_at;   /* closes after so many, 0: at the end */
    int failed;
} reader;

static void *read_all(void *arg)
{
    reader *r = arg;
    uint8_t *data = malloc(LONGEST);
    uint64_t count = r->leave_at ? r->leave_at : MESSAGES;
    for (uint64_t seq = 0; seq < count; seq++) {
        size_t size = size_of_message(seq, r->capacity);
        CHECK_EQ(cwasi_channel_recv(r->rx, data, LONGEST, FOREVER), size);
        CHECK(filled(data, size, seq));
        if (r->pause_at && seq % r->pause_at == 0)
            sleep_ms(1);
    }
    if (!r->leave_at)
        CHECK_EQ(cwasi_channel_recv(r->rx, data, LONGEST, FOREVER), -EPIPE);
    free(data);
    CHECK_EQ(cwasi_channel_close(r->rx, r->failed, 0), 0);
    return NULL;
}

/* leavers: so many of the readers leave early, every second of them as failed. */
static void content(uint64_t capacity, unsigned readers, unsigned leavers)
{
    fan f = open_several(capacity, readers);
    reader r[FAN_MAX];
    pthread_t threads[FAN_MAX];
    for (unsigned i = 0; i < readers; i++) {
        r[i] = (reader){f.rx[i], capacity, i == 1 ? 50 : 0, i < leavers ? MESSAGES / 3 * (i + 1) / readers : 0, (int)i % 2};
        threads[i] = start(read_all, &r[i]);
    }
    uint8_t *data = malloc(LONGEST);
    for (uint64_t seq = 0; seq < MESSAGES; seq++) {
        size_t size = size_of_message(seq, capacity);
        fill(data, size, seq);
        CHECK_EQ(cwasi_channel_send(f.tx, data, size, FOREVER), 0);
    }
    free(data);
    CHECK_EQ(cwasi_channel_close(f.tx, 0, 0), 0);
    for (unsigned i = 0; i < readers; i++)
        join(threads[i]);
    CHECK_EQ(stats_of(f.tx).messages, MESSAGES);
    CHECK_EQ(stats_of(f.tx).lost_peers, leavers / 2);
    free_fan(f);
}

static void the_slowest_holds_up_the_sender(void)
{
    fan f = open_several(4096, 3);
    uint8_t message[1000];
    uint64_t count = fill_up(f.tx);
    CHECK(count >= 3);
    for (unsigned i = 0; i < 2; i++) {
        drain(f.rx[i], count);
        CHECK_EQ(cwasi_channel_recv(f.rx[i], message, sizeof message, 0), -EAGAIN);
    }
    CHECK_EQ(cwasi_channel_unread(f.tx), over == ON_RING ? count : 0);
    CHECK_EQ(cwasi_channel_send(f.tx, message, sizeof message, 0), -EAGAIN);
    CHECK_EQ(cwasi_channel_send(f.tx, message, sizeof message, 5 * MS), -ETIMEDOUT);
    drain(f.rx[2], 1);
    CHECK_EQ(cwasi_channel_unread(f.tx), over == ON_RING ? count - 1 : 0);
    fill(message, sizeof message, count);
    CHECK_EQ(cwasi_channel_send(f.tx, message, sizeof message, 0), 0);
    if (over == ON_RING)   /* in a pipe there may be room for more: what is read is read in pages */
        CHECK_EQ(cwasi_channel_send(f.tx, message, sizeof message, 0), -EAGAIN);
    CHECK_EQ(cwasi_channel_recv(f.rx[0], message, sizeof message, 0), sizeof message);
    CHECK(filled(message, sizeof message, count));
    free_fan(f);
}

enum { FINISHES, FAILS, DIES, WAYS };

static void leave(fan *f, unsigned reader, int way)
{
    if (way == DIES)
        cwasi_channel_peer_died(f->tx, reader);
    else
        CHECK_EQ(cwasi_channel_close(f->rx[reader], way == FAILS, 0), 0);
}

/* The one that holds up everybody goes, while the sender waits for it. */
static void one_goes(int way, uint64_t length)
{
    fan f = open_several(4096, 3);
    uint64_t count = fill_up(f.tx);
    drain(f.rx[0], count);
    drain(f.rx[2], count);
    call s = {.channel = f.tx, .length = length, .timeout = FOREVER};
    pthread_t thread = start(call_send, &s);
    call r[2];
    pthread_t readers[2];
    for (int i = 0; i < 2; i++) {
        r[i] = (call){.channel = f.rx[2 * i], .length = length, .timeout = FOREVER};
        readers[i] = start(call_recv, &r[i]);
    }
    sleep_ms(20);
    leave(&f, 1, way);
    join(thread);
    CHECK_EQ(s.result, 0);
    for (int i = 0; i < 2; i++) {
        join(readers[i]);
        CHECK_EQ(r[i].result, length);
    }
    CHECK_EQ(stats_of(f.tx).lost_peers, way != FINISHES);
    free_fan(f);
}

/* In the middle of a message that is longer than the ring, or than a pipe. */
static void one_goes_in_mid_message(int way)
{
    uint64_t length = over == ON_RING ? 100000 : 3 << 20;
    fan f = open_several(4096, 2);
    call s = {.channel = f.tx, .length = length, .timeout = FOREVER};
    call r = {.channel = f.rx[0], .length = length, .timeout = FOREVER};
    pthread_t sender = start(call_send, &s), receiver = start(call_recv, &r);
    CHECK_EQ(cwasi_channel_peek(f.rx[1], NULL, FOREVER), length);
    sleep_ms(10);
    leave(&f, 1, way);
    join(sender);
    join(receiver);
    CHECK_EQ(s.result, 0);
    CHECK_EQ(r.result, length);
    CHECK_EQ(cwasi_channel_send(f.tx, "next", 4, 0), 0);
    free_fan(f);
}

static void all_go(int first, int second)
{
    fan f = open_several(4096, 2);
    int error = first == FINISHES && second == FINISHES ? -EPIPE : -ECONNRESET;
    leave(&f, 0, first);
    CHECK_EQ(cwasi_channel_send(f.tx, "x", 1, 0), 0);
    leave(&f, 1, second);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cwasi_channel_send(f.tx, "x", 1, FOREVER), error);
    CHECK_EQ(stats_of(f.tx).lost_peers, (first != FINISHES) + (second != FINISHES));
    free_fan(f);
}

static void all_go_while_the_sender_waits(int way)
{
    fan f = open_several(4096, 2);
    fill_up(f.tx);
    call s = {.channel = f.tx, .length = 1000, .timeout = FOREVER};
    pthread_t thread = start(call_send, &s);
    sleep_ms(10);
    leave(&f, 0, way);
    leave(&f, 1, way);
    join(thread);
    CHECK_EQ(s.result, way == FINISHES ? -EPIPE : -ECONNRESET);
    free_fan(f);
}

static void the_sender_goes(int way)
{
    fan f = open_several(64 * 1024, 3);
    uint64_t count = fill_up(f.tx);
    if (way != DIES)
        CHECK_EQ(cwasi_channel_close(f.tx, way == FAILS, 0), 0);
    for (unsigned i = 0; i < 3; i++) {
        if (way == DIES)
            cwasi_channel_peer_died(f.rx[i], 0);
        drain(f.rx[i], count);
        CHECK_EQ(cwasi_channel_recv(f.rx[i], NULL, 0, FOREVER), way == FINISHES ? -EPIPE : -ECONNRESET);
    }
    free_fan(f);
}

/* A sender that cannot hear what its readers say last only knows what it is told. */
static void without_backs(int told)
{
    cwasi_channel *tx;
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(cwasi_channel_open_pipe(CWASI_SENDER, &fds[1], NULL, 1, &tx), 0);
    close(fds[1]);
    CHECK_EQ(cwasi_channel_bells(tx, &(int){0}, 1), 0);
    if (told)
        cwasi_channel_peer_died(tx, 0);
    close(fds[0]);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cwasi_channel_send(tx, "x", 1, FOREVER), told ? -ECONNRESET : -EPIPE);
    CHECK_EQ(stats_of(tx).lost_peers, told);
    cwasi_channel_free(tx);
}

static void what_cannot_be_opened(void)
{
    cwasi_channel *c;
    CHECK_EQ(cwasi_ring_create(4096, 0), -EINVAL);
    CHECK_EQ(cwasi_ring_create(4096, CWASI_READERS_MAX + 1), -EINVAL);
    int fd = cwasi_ring_create(4096, CWASI_READERS_MAX), broken[CWASI_READERS_MAX];
    CHECK(fd >= 0);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, CWASI_READERS_MAX, NULL, &c), -EINVAL);
    for (int i = 0; i < CWASI_READERS_MAX; i++)
        broken[i] = -1;
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_SENDER, 0, broken, &c), -EBADF);
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, CWASI_READERS_MAX - 1, NULL, &c), 0);
    cwasi_channel *again;
    CHECK_EQ(cwasi_channel_open_ring(fd, CWASI_RECEIVER, CWASI_READERS_MAX - 1, NULL, &again), -EBUSY);
    cwasi_channel_free(c);
    close(fd);
}

static void all_of_it(void)
{
    content(4096, 2, 0);
    content(64 * 1024, 5, 0);
    content(4096, FAN_MAX, 4);
    content(1 << 20, 3, 2);
    the_slowest_holds_up_the_sender();
    for (int way = 0; way < WAYS; way++) {
        one_goes(way, 1000);
        one_goes(way, 50000);
        one_goes_in_mid_message(way);
        all_go_while_the_sender_waits(way);
        the_sender_goes(way);
        for (int other = 0; other < WAYS; other++)
            all_go(way, other);
    }
}

int main(void)
{
    test_begin(100);
    for (over = 0; over < TRANSPORTS; over++)
        all_of_it();
    for (int told = 0; told < 2; told++)
        without_backs(told);
    what_cannot_be_opened();
    return 0;
}
