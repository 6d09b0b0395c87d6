/* Waiting in several receivers at once: by wait, and by arm and disarm as event loops do. */
#include "test.h"

enum { CHANNELS = 3, ROUNDS = 6000 };

typedef struct {
    cwasi_channel *tx[CHANNELS], *rx[CHANNELS];
} several;

static several open_several(unsigned pipes)
{
    several s;
    for (unsigned i = 0; i < CHANNELS; i++) {
        pair p = pipes >> i & 1 ? pipe_pair() : belled_pair(4096);
        s.tx[i] = p.tx;
        s.rx[i] = p.rx;
    }
    return s;
}

static void free_several(several s)
{
    for (unsigned i = 0; i < CHANNELS; i++) {
        cwasi_channel_free(s.tx[i]);
        cwasi_channel_free(s.rx[i]);
    }
}

static int receive_one(cwasi_channel *rx)
{
    int number;
    CHECK_EQ(cwasi_channel_recv(rx, &number, sizeof number, 0), sizeof number);
    return number;
}

static void send_one(cwasi_channel *tx, int number)
{
    CHECK_EQ(cwasi_channel_send(tx, &number, sizeof number, 0), 0);
}

static void finds_the_ready_one(unsigned pipes)
{
    several s = open_several(pipes);
    CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, 0, 0), -EAGAIN);
    int64_t begin = now_ns();
    CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, 0, 20 * MS), -ETIMEDOUT);
    CHECK(now_ns() - begin >= 20 * MS);
    for (unsigned i = 0; i < CHANNELS; i++) {
        send_one(s.tx[i], 7);
        for (unsigned from = 0; from < 2 * CHANNELS; from++)
            CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, from, FOREVER), i);
        CHECK_EQ(cwasi_channel_peek(s.rx[i], NULL, 0), sizeof(int));
        CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, 0, FOREVER), i);   /* also what was peeked */
        CHECK_EQ(receive_one(s.rx[i]), 7);
        CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, 0, 0), -EAGAIN);
    }
    for (unsigned i = 0; i < CHANNELS; i++)
        send_one(s.tx[i], 1);
    for (unsigned from = 0; from < CHANNELS; from++)
        CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, from, FOREVER), from);
    free_several(s);
}

enum { FINISHES, FAILS, DIES, STOPS, WAYS };

typedef struct {
    several *s;
    int way;
} ending;

static void *end_soon(void *arg)
{
    ending *e = arg;
    sleep_ms(15);
    if (e->way == DIES)
        cwasi_channel_peer_died(e->s->rx[1], 0);
    else if (e->way == STOPS)
        cwasi_channel_stop(e->s->rx[1]);
    else
        CHECK_EQ(cwasi_channel_close(e->s->tx[1], e->way == FAILS, FOREVER), 0);
    return NULL;
}

static void an_end_is_ready(unsigned pipes, int way)
{
    static const int errors[] = {-EPIPE, -ECONNRESET, -ECONNRESET, -ECANCELED};
    several s = open_several(pipes);
    ending e = {&s, way};
    pthread_t thread = start(end_soon, &e);
    CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, 0, FOREVER), 1);
    CHECK_EQ(cwasi_channel_recv(s.rx[1], NULL, 0, FOREVER), errors[way]);
    CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, 0, FOREVER), 1);
    join(thread);
    free_several(s);
}

static void *receive_and_keep(void *arg)
{
    CHECK_EQ(cwasi_channel_recv(arg, NULL, 0, FOREVER), -ECANCELED);
    return NULL;
}

static void what_cannot_be_waited_for(void)
{
    several s = open_several(0);
    pair bare = ring_pair(4096);
    cwasi_channel *twice[] = {s.rx[0], s.rx[1], s.rx[0]}, *sender[] = {s.rx[0], s.tx[1]}, *silent[] = {s.rx[0], bare.rx};
    CHECK_EQ(cwasi_channel_wait(s.rx, 0, 0, FOREVER), -EINVAL);
    CHECK_EQ(cwasi_channel_wait(twice, 3, 0, FOREVER), -EBUSY);
    CHECK_EQ(cwasi_channel_wait(sender, 2, 0, FOREVER), -EINVAL);
    CHECK_EQ(cwasi_channel_wait(silent, 2, 0, 0), -EAGAIN);
    CHECK_EQ(cwasi_channel_wait(silent, 2, 0, FOREVER), -ENOTSUP);
    send_one(s.tx[0], 1);
    CHECK_EQ(cwasi_channel_wait(silent, 2, 1, FOREVER), 0);
    CHECK_EQ(receive_one(s.rx[0]), 1);   /* none of these keeps it busy */

    cwasi_wait_configure(0, 0);
    pthread_t thread = start(receive_and_keep, s.rx[2]);
    until_it_waits(s.rx[2], 0);
    CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, 0, FOREVER), -EBUSY);
    cwasi_channel_stop(s.rx[2]);
    join(thread);
    CHECK_EQ(cwasi_channel_close(s.rx[1], 0, 0), 0);
    CHECK_EQ(cwasi_channel_wait(s.rx, CHANNELS, 0, FOREVER), -EBADF);
    free_several(s);
    free_pair(bare);
}

/* ---- arm and disarm ---- */

static int readable(const int *descriptors, int count, int timeout_ms)
{
    struct pollfd fds[16];
    CHECK(count <= 16);
    for (int i = 0; i < count; i++)
        fds[i] = (struct pollfd){descriptors[i], POLLIN, 0};
    return poll(fds, (nfds_t)count, timeout_ms);
}

static void arms(unsigned pipes)
{
    several s = open_several(pipes);
    int descriptors[16];
    for (int round = 0; round < 20; round++) {
        cwasi_channel *rx = s.rx[0];
        int count = cwasi_channel_arm(rx, descriptors, 16);
        CHECK(count > 0);
        CHECK_EQ(readable(descriptors, count, 0), 0);
        send_one(s.tx[0], round);
        CHECK(readable(descriptors, count, -1) > 0);
        CHECK_EQ(cwasi_channel_disarm(rx), 0);
        CHECK_EQ(cwasi_channel_arm(rx, descriptors, 16), 0);   /* there is something already */
        CHECK_EQ(cwasi_channel_disarm(rx), 0);
        CHECK_EQ(receive_one(rx), round);
    }
    int count = cwasi_channel_arm(s.rx[0], descriptors, 16);
    CHECK_EQ(cwasi_channel_arm(s.rx[0], descriptors, (unsigned)count - 1), -ENOSPC);
    CHECK_EQ(cwasi_channel_arm(s.tx[0], descriptors, 16), -EINVAL);
    CHECK_EQ(cwasi_channel_close(s.tx[0], 0, FOREVER), 0);
    CHECK(readable(descriptors, count, -1) > 0);
    CHECK_EQ(cwasi_channel_disarm(s.rx[0]), 0);
    CHECK_EQ(cwasi_channel_recv(s.rx[0], NULL, 0, FOREVER), -EPIPE);
    free_several(s);

    pair bare = ring_pair(4096);
    CHECK_EQ(cwasi_channel_arm(bare.rx, descriptors, 16), -ENOTSUP);
    CHECK_EQ(cwasi_channel_disarm(bare.rx), 0);
    free_pair(bare);
}

static void arms_a_gathered_one(unsigned pipes)
{
    several s = open_several(pipes);
    cwasi_channel *rx;
    int descriptors[16], count;
    CHECK_EQ(cwasi_channel_gather(s.rx, CHANNELS, &rx), 0);
    for (int round = 0; round < CHANNELS; round++) {
        for (int i = round; i < CHANNELS; i++) {
            count = cwasi_channel_arm(rx, descriptors, 16);
            CHECK(count > 0);
            CHECK_EQ(readable(descriptors, count, 0), 0);
            send_one(s.tx[i], i);
            CHECK(readable(descriptors, count, -1) > 0);
            CHECK_EQ(cwasi_channel_disarm(rx), 0);
            CHECK_EQ(receive_one(rx), i);
        }
        /* One after the other ends; what they say with it wakes, too. */
        count = cwasi_channel_arm(rx, descriptors, 16);
        CHECK_EQ(cwasi_channel_close(s.tx[round], 0, FOREVER), 0);
        CHECK(readable(descriptors, count, -1) > 0);
        CHECK_EQ(cwasi_channel_disarm(rx), 0);
        CHECK_EQ(cwasi_channel_recv(rx, NULL, 0, 0), round < CHANNELS - 1 ? -EAGAIN : -EPIPE);
    }
    CHECK_EQ(cwasi_channel_arm(rx, descriptors, 16), 0);
    for (int i = 0; i < CHANNELS; i++)
        cwasi_channel_free(s.tx[i]);
    cwasi_channel_free(rx);
}

/* One of several senders ends: that is no news, so that who was told to receive need not wait. */
static void an_end_of_one_of_several_is_no_news(unsigned pipes)
{
    several s = open_several(pipes);
    cwasi_channel *rx;
    CHECK_EQ(cwasi_channel_gather(s.rx, CHANNELS, &rx), 0);
    CHECK_EQ(cwasi_channel_close(s.tx[0], 0, FOREVER), 0);
    CHECK_EQ(cwasi_channel_wait(&rx, 1, 0, 0), -EAGAIN);
    CHECK_EQ(cwasi_channel_close(s.tx[2], 1, FOREVER), 0);
    CHECK_EQ(cwasi_channel_wait(&rx, 1, 0, 5 * MS), -ETIMEDOUT);
    send_one(s.tx[1], 7);
    CHECK_EQ(cwasi_channel_wait(&rx, 1, 0, FOREVER), 0);
    CHECK_EQ(receive_one(rx), 7);
    CHECK_EQ(cwasi_channel_close(s.tx[1], 0, FOREVER), 0);
    CHECK_EQ(cwasi_channel_wait(&rx, 1, 0, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(rx, NULL, 0, 0), -ECONNRESET);
    for (int i = 0; i < CHANNELS; i++)
        cwasi_channel_free(s.tx[i]);
    cwasi_channel_free(rx);
}

/* The other process is killed: nobody says anything, but its bells hang up. */
static void bells_tell_of_death(void)
{
    fan f = open_fan(4096, 2);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(cwasi_channel_send(f.tx, "last", 4, 0), 0);
        for (;;)
            pause();
    }
    int bells[4];
    CHECK_EQ(cwasi_channel_bells(f.tx, bells, 4), 2);
    CHECK_EQ(cwasi_channel_bells(f.rx[1], bells, 4), 1);
    CHECK_EQ(cwasi_channel_bells(f.rx[1], bells, 0), 0);
    CHECK_EQ(cwasi_channel_abandon(f.tx), 0);
    uint8_t data[4];
    CHECK_EQ(cwasi_channel_recv(f.rx[0], data, 4, FOREVER), 4);
    CHECK_EQ(readable(bells, 1, 20), 0);
    CHECK_EQ(kill(child, SIGKILL), 0);
    CHECK_EQ(wait_for(child), 128 + SIGKILL);
    CHECK_EQ(readable(bells, 1, -1), 1);
    CHECK_EQ(cwasi_channel_wait(f.rx, 2, 0, FOREVER), 1);   /* what was sent comes first */
    CHECK_EQ(cwasi_channel_recv(f.rx[1], data, 4, FOREVER), 4);
    CHECK_EQ(cwasi_channel_wait(f.rx, 1, 0, FOREVER), 0);
    CHECK_EQ(cwasi_channel_recv(f.rx[0], data, 4, FOREVER), -ECONNRESET);
    cwasi_channel_peer_died(f.rx[1], 0);
    CHECK_EQ(cwasi_channel_recv(f.rx[1], data, 4, FOREVER), -ECONNRESET);
    cwasi_channel_free(f.rx[0]);
    cwasi_channel_free(f.rx[1]);
    close(f.memfd);
}

/* ---- no wake-up is lost ---- */

typedef struct {
    several there;
    pair back;
} pingpong;

static void *send_numbers(void *arg)
{
    pingpong *p = arg;
    uint64_t state = 3;
    for (int i = 0; i < ROUNDS; i++) {
        int number;
        CHECK_EQ(cwasi_channel_send(p->there.tx[next_random(&state) % CHANNELS], &i, sizeof i, FOREVER), 0);
        CHECK_EQ(cwasi_channel_recv(p->back.rx, &number, sizeof number, FOREVER), sizeof number);
        CHECK_EQ(number, i);
    }
    return NULL;
}

static int wait_by_poll(several *s, uint64_t *state)
{
    for (;;) {
        int descriptors[16], used = 0, found = -1;
        for (int i = 0; i < CHANNELS; i++) {
            int count = cwasi_channel_arm(s->rx[i], descriptors + used, (unsigned)(16 - used));
            CHECK(count >= 0);
            used += count;
            if (count == 0)
                found = i;
        }
        if (found < 0) {
            for (uint64_t n = next_random(state) % 200; n > 0; n--)
                cpu_relax();
            CHECK(readable(descriptors, used, -1) > 0);
        }
        for (int i = 0; i < CHANNELS; i++)
            CHECK_EQ(cwasi_channel_disarm(s->rx[i]), 0);
        if (found >= 0)
            return found;
    }
}

static void no_wake_is_lost(unsigned pipes, int spins)
{
    cwasi_wait_configure(spins, spins ? 2000 : 0);
    pingpong p = {open_several(pipes), belled_pair(4096)};
    uint64_t state = 4;
    pthread_t thread = start(send_numbers, &p);
    for (int i = 0; i < ROUNDS; i++) {
        int found = i % 2 ? cwasi_channel_wait(p.there.rx, CHANNELS, (unsigned)i, FOREVER) : wait_by_poll(&p.there, &state);
        CHECK(found >= 0 && found < CHANNELS);
        CHECK_EQ(receive_one(p.there.rx[found]), i);
        CHECK_EQ(cwasi_channel_send(p.back.tx, &i, sizeof i, FOREVER), 0);
    }
    join(thread);
    free_several(p.there);
    free_pair(p.back);
    cwasi_wait_configure(-1, 40000);
}

/* ---- a peer that rings without end ---- */

typedef struct {
    int bell;
    atomic_u32 *parked;
    atomic_u32 stop;
} ringer;

static void *ring_on(void *arg)
{
    ringer *r = arg;
    static const char noise[4096];
    while (!load_relaxed(&r->stop)) {
        ssize_t sent = send(r->bell, noise, sizeof noise, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)sent;
    }
    return NULL;
}

static void a_peer_that_rings_without_end(void)
{
    fan loud = open_fan(4096, 1), quiet = open_fan(4096, 1);
    ringer r = {0};
    CHECK_EQ(cwasi_channel_bells(loud.tx, &r.bell, 1), 1);
    pthread_t thread = start(ring_on, &r);
    cwasi_channel *both[] = {loud.rx[0], quiet.rx[0]};
    int64_t begin = now_ns();
    CHECK_EQ(cwasi_channel_wait(both, 2, 0, 50 * MS), -ETIMEDOUT);
    CHECK(now_ns() - begin < 5000 * MS);
    CHECK_EQ(cwasi_channel_send(quiet.tx, "x", 1, 0), 0);
    CHECK_EQ(cwasi_channel_wait(both, 2, 0, FOREVER), 1);
    store_relaxed(&r.stop, 1);
    join(thread);
    free_fan(loud);
    free_fan(quiet);
}

int main(void)
{
    static const unsigned mixtures[] = {0, 7, 2};
    test_begin(120);
    for (int i = 0; i < 3; i++) {
        finds_the_ready_one(mixtures[i]);
        for (int way = 0; way < WAYS; way++)
            an_end_is_ready(mixtures[i], way);
        arms(mixtures[i]);
        arms_a_gathered_one(mixtures[i]);
        an_end_of_one_of_several_is_no_news(mixtures[i]);
        no_wake_is_lost(mixtures[i], 0);
        no_wake_is_lost(mixtures[i], 2);
    }
    what_cannot_be_waited_for();
    cwasi_wait_configure(-1, 40000);
    bells_tell_of_death();
    a_peer_that_rings_without_end();
    return 0;
}
