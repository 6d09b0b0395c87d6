/* A channel goes from one transport to another while it is in use, again and again: every message once, whole, in order,
 * whatever was under way; and an offer that cannot be followed changes nothing. */
#include "test.h"

enum { MESSAGES = 30000, LONGEST = 9000, CAPACITY = 64 * 1024, SOURCES = 3 };

static size_t length_of(uint64_t i)
{
    uint64_t state = i, pick = next_random(&state);
    return pick % 50 == 0 ? pick / 64 % (3 * CAPACITY) : pick / 64 % LONGEST;
}

typedef struct {
    cwasi_channel *tx;
    uint64_t count, seed;
    size_t least;               /* bytes of a message */
    atomic_u32 done;
} sending;

static void *send_all(void *arg)
{
    sending *s = arg;
    uint8_t *message = malloc(3 * CAPACITY);
    for (uint64_t i = 0; i < s->count; i++) {
        size_t length = MAX(length_of(i), s->least);
        fill(message, length, s->seed + i);
        CHECK_EQ(cwasi_channel_send(s->tx, message, length, FOREVER), 0);
    }
    store_release(&s->done, 1);
    free(message);
    return NULL;
}

/* Both sides go to `next`. */
static void go(pair p, pair next)
{
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, next.rx, cwasi_channel_epoch(p.tx, 0) + 1), 0);
    CHECK_EQ(cwasi_channel_switch(p.tx, next.tx, FOREVER), 0);
}

static void under_load(void)
{
    pair p = belled_pair(CAPACITY);
    sending s = {.tx = p.tx, .count = MESSAGES};
    pthread_t sender = start(send_all, &s);
    uint8_t *message = malloc(3 * CAPACITY);
    uint64_t switches = 0, received = 0;
    while (!load_acquire(&s.done) || received < MESSAGES) {
        for (int n = 0; n < 40 && received < MESSAGES; n++) {
            CHECK_EQ(cwasi_channel_recv(p.rx, message, 3 * CAPACITY, FOREVER), length_of(received));
            CHECK(filled(message, length_of(received), received));
            received++;
        }
        if (cwasi_channel_epoch(p.rx, 0) == cwasi_channel_epoch(p.tx, 0) && !load_acquire(&s.done)) {
            pair next = belled_pair(CAPACITY);
            uint32_t epoch = cwasi_channel_epoch(p.tx, 0) + 1;
            CHECK_EQ(cwasi_channel_attach(p.rx, 0, next.rx, epoch), 0);
            /* The sender may be waiting for room, which only we can make: then another time. */
            int rc = cwasi_channel_switch(p.tx, next.tx, 2 * MS);
            CHECK(rc == 0 || rc == -ETIMEDOUT);
            if (rc < 0)
                CHECK_EQ(cwasi_channel_detach(p.rx, 0, epoch), 0);
            switches += rc == 0;
        }
    }
    join(sender);
    CHECK(switches > 0);   /* how many, is up to the scheduler */
    CHECK_EQ(cwasi_channel_epoch(p.tx, 0), switches);
    CHECK_EQ(stats_of(p.tx).messages, MESSAGES);
    CHECK_EQ(stats_of(p.rx).messages, MESSAGES);
    CHECK_EQ(stats_of(p.rx).bytes, stats_of(p.tx).bytes);
    CHECK_EQ(cwasi_channel_unread(p.tx), 0);
    CHECK_EQ(cwasi_channel_close(p.tx, 0, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, message, CAPACITY, FOREVER), -EPIPE);
    free(message);
    free_pair(p);
}

/* Messages wait on each of several transports; the receiver takes them one by one. */
static void all_at_once(void)
{
    enum { STEPS = 5, EACH = 7 };
    pair p = belled_pair(CAPACITY);
    uint8_t message[100];
    CHECK_EQ(cwasi_channel_send(p.tx, "first", 5, 0), 0);
    go(p, belled_pair(CAPACITY));
    for (int i = 0; i < EACH; i++)
        CHECK_EQ(cwasi_channel_send(p.tx, "second", 6, 0), 0);
    CHECK_EQ(cwasi_channel_unread(p.tx), 1 + EACH);
    /* There is a next transport already: another one has to wait for the receiver. */
    pair third = belled_pair(CAPACITY);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, third.rx, 2), -EBUSY);
    CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, 0), 5);
    CHECK_EQ(cwasi_channel_epoch(p.rx, 0), 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, 0), 6);
    CHECK_EQ(cwasi_channel_epoch(p.rx, 0), 1);
    CHECK_EQ(cwasi_channel_unread(p.tx), EACH - 1);
    cwasi_channel_free(third.tx);
    go(p, belled_pair(CAPACITY));
    CHECK_EQ(cwasi_channel_close(p.tx, 0, FOREVER), 0);
    for (int i = 1; i < EACH; i++)
        CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, 0), 6);
    CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, 0), -EPIPE);
    free_pair(p);
}

/* Who waits for several is not told of one in which there is nothing but the way to another transport. */
static void waited_for(void)
{
    pair p = belled_pair(CAPACITY), q = belled_pair(CAPACITY);
    cwasi_channel *list[] = {p.rx, q.rx};
    go(p, belled_pair(CAPACITY));
    CHECK_EQ(cwasi_channel_wait(list, 2, 0, 5 * MS), -ETIMEDOUT);
    CHECK_EQ(cwasi_channel_epoch(p.rx, 0), 1);
    CHECK_EQ(cwasi_channel_send(p.tx, "new", 3, 0), 0);
    CHECK_EQ(cwasi_channel_wait(list, 2, 1, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), -EMSGSIZE);
    free_pair(p);
    free_pair(q);
}

/* A full ring has no room for the last frame: the switch is given up, and nothing has changed. */
static void no_room(void)
{
    pair p = ring_pair(8192), next = ring_pair(8192);
    uint64_t count = fill_up(p.tx);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, next.rx, 1), 0);
    while (cwasi_channel_send(p.tx, NULL, 0, 0) == 0)
        count++;
    int rc = cwasi_channel_switch(p.tx, next.tx, 20 * MS);
    CHECK_EQ(rc, -ETIMEDOUT);
    CHECK_EQ(cwasi_channel_detach(p.rx, 0, 1), 0);
    CHECK_EQ(cwasi_channel_detach(p.rx, 0, 1), -EALREADY);
    CHECK_EQ(cwasi_channel_epoch(p.tx, 0), 0);
    uint8_t message[1000];
    for (uint64_t i = 0; i < count; i++)
        CHECK(cwasi_channel_recv(p.rx, message, sizeof message, 0) >= 0);
    CHECK_EQ(cwasi_channel_send(p.tx, "on", 2, 0), 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, 0), 2);
    free_pair(p);
}

/* Ends that do not fit, or were used. */
static void refused(void)
{
    pair p = ring_pair(8192), used = ring_pair(8192), other = ring_pair(8192);
    CHECK_EQ(cwasi_channel_send(used.tx, "x", 1, 0), 0);
    CHECK_EQ(cwasi_channel_switch(p.tx, used.tx, 0), -EINVAL);
    CHECK_EQ(cwasi_channel_recv(used.rx, NULL, 0, 0), -EMSGSIZE);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, used.rx, 1), -EINVAL);
    CHECK_EQ(cwasi_channel_switch(p.rx, other.tx, 0), -EINVAL);
    CHECK_EQ(cwasi_channel_attach(p.rx, 1, other.rx, 1), -EINVAL);
    other = ring_pair(8192);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, other.rx, 2), -EINVAL);
    CHECK_EQ(cwasi_channel_close(p.tx, 0, 0), 0);
    CHECK_EQ(cwasi_channel_switch(p.tx, other.tx, 0), -EBADF);
    free_pair(p);
}

/* A sender that goes where nobody has agreed to is an error for its receiver. */
static void not_agreed(void)
{
    pair p = ring_pair(8192), next = ring_pair(8192);
    CHECK_EQ(cwasi_channel_switch(p.tx, next.tx, 0), 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 100 * MS), -EREMCHG);
    cwasi_channel_free(next.rx);
    free_pair(p);
}

/* The receiver waits; the stop reaches it on the old transport and on the new one. */
static void stopped(int after)
{
    pair p = ring_pair(8192), next = ring_pair(8192);
    call r = {.channel = p.rx, .length = 10, .timeout = FOREVER};
    pthread_t thread = start(call_recv, &r);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, next.rx, 1), 0);
    if (after) {
        CHECK_EQ(cwasi_channel_switch(p.tx, next.tx, FOREVER), 0);
        sleep_ms(5);
    } else {
        cwasi_channel_free(next.tx);
    }
    cwasi_channel_stop(p.rx);
    join(thread);
    CHECK_EQ(r.result, -ECANCELED);
    free_pair(p);
}

/* The peer dies, or fails, after it has gone to the next transport: what it sent on both comes first. */
static void died(int how)
{
    pair p = belled_pair(CAPACITY), next = belled_pair(CAPACITY);
    uint8_t message[10];
    CHECK_EQ(cwasi_channel_send(p.tx, "old", 3, 0), 0);
    CHECK_EQ(cwasi_channel_attach(p.rx, 0, next.rx, 1), 0);
    CHECK_EQ(cwasi_channel_switch(p.tx, next.tx, FOREVER), 0);
    CHECK_EQ(cwasi_channel_send(p.tx, "new", 3, 0), 0);
    if (how == 0)
        CHECK_EQ(cwasi_channel_close(p.tx, 1, 0), 0);
    else if (how == 1)
        cwasi_channel_peer_died(p.rx, 0);
    else {
        int bells[4];
        CHECK_EQ(cwasi_channel_bells(p.rx, bells, 4), 2);
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(shutdown(bells[i], SHUT_RDWR), 0);
            cwasi_channel_hung_up(p.rx, bells[i]);
        }
        cwasi_channel_hung_up(p.rx, 1000000);
    }
    CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, FOREVER), 3);
    CHECK(memcmp(message, "old", 3) == 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, FOREVER), 3);
    CHECK(memcmp(message, "new", 3) == 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, message, sizeof message, FOREVER), -ECONNRESET);
    free_pair(p);
}

/* One of several senders goes elsewhere, while all of them send; the receiver waits in all ways that there are. */
static void gathered(void)
{
    enum { EACH = 4000, TELLING = 8 };   /* shorter ones do not tell from whom they are */
    cwasi_channel *tx[SOURCES], *sources[SOURCES], *rx;
    sending s[SOURCES];
    pthread_t sender[SOURCES];
    uint64_t next[SOURCES] = {0}, received = 0, switches = 0;
    for (int i = 0; i < SOURCES; i++) {
        pair p = belled_pair(CAPACITY);
        tx[i] = p.tx;
        sources[i] = p.rx;
        s[i] = (sending){.tx = p.tx, .count = EACH, .seed = (uint64_t)i << 32, .least = TELLING};
    }
    CHECK_EQ(cwasi_channel_gather(sources, SOURCES, &rx), 0);
    for (int i = 0; i < SOURCES; i++)
        sender[i] = start(send_all, &s[i]);
    uint8_t *message = malloc(3 * CAPACITY);
    while (received < SOURCES * EACH) {
        CHECK_EQ(cwasi_channel_wait(&rx, 1, 0, FOREVER), 0);
        int64_t length = cwasi_channel_recv(rx, message, 3 * CAPACITY, 0);
        CHECK(length >= 0);
        int from = 0;
        while (from < SOURCES && !(next[from] < EACH && length == (int64_t)MAX(length_of(next[from]), TELLING) &&
                                   filled(message, (size_t)length, s[from].seed + next[from])))
            from++;
        CHECK(from < SOURCES);
        next[from]++;
        received++;
        unsigned source = received / 20 % SOURCES;
        if (received % 20 == 0 && cwasi_channel_epoch(rx, source) == cwasi_channel_epoch(tx[source], 0)) {
            pair to = belled_pair(CAPACITY);
            uint32_t epoch = cwasi_channel_epoch(tx[source], 0) + 1;
            CHECK_EQ(cwasi_channel_attach(rx, source, to.rx, epoch), 0);
            int rc = cwasi_channel_switch(tx[source], to.tx, 2 * MS);
            CHECK(rc == 0 || rc == -ETIMEDOUT);
            if (rc < 0)
                CHECK_EQ(cwasi_channel_detach(rx, source, epoch), 0);
            switches += rc == 0;
        }
    }
    for (int i = 0; i < SOURCES; i++) {
        join(sender[i]);
        CHECK_EQ(cwasi_channel_close(tx[i], 0, FOREVER), 0);
    }
    CHECK(switches > 0);   /* how many, is up to the scheduler */
    CHECK_EQ(cwasi_channel_recv(rx, message, CAPACITY, FOREVER), -EPIPE);
    for (int i = 0; i < SOURCES; i++)
        cwasi_channel_free(tx[i]);
    cwasi_channel_free(rx);
    free(message);
}

int main(void)
{
    test_begin(120);
    refused();
    not_agreed();
    all_at_once();
    waited_for();
    no_room();
    stopped(0);
    stopped(1);
    for (int how = 0; how < 3; how++)
        died(how);
    under_load();
    gathered();
    return 0;
}
