/* Everything that any thread may do with an end, all at once, while it is used and switched: for the thread sanitizer. In
 * the end one of these closes or stops it, at any moment. */
#include "test.h"

#include <sched.h>

enum { ROUNDS = 12, SWITCHERS = 2, RUN_MS = 150 };

typedef struct {
    pair p;
    atomic_u32 over;
    atomic_u64 sent, received;
    unsigned how;             /* it ends */
} crowd;

static int is_over(crowd *c)
{
    return load_acquire(&c->over) != 0;
}

static int is_known(int64_t rc)
{
    return rc >= 0 || rc == -ETIMEDOUT || rc == -EAGAIN || rc == -EPIPE || rc == -ECONNRESET || rc == -ECANCELED ||
           rc == -EBADF;
}

static void *send_all(void *arg)
{
    crowd *c = arg;
    uint8_t message[3000];
    for (uint64_t i = 0; !is_over(c);) {
        fill(message, i % 3000, i);
        int rc = cwasi_channel_send(c->p.tx, message, i % 3000, i % 7 ? 5 * MS : 0);
        CHECK(is_known(rc));
        i += rc == 0;
        store_relaxed(&c->sent, i);
        if (rc < 0 && rc != -EAGAIN && rc != -ETIMEDOUT)
            break;
    }
    return NULL;
}

static void *receive_all(void *arg)
{
    crowd *c = arg;
    uint8_t message[3000];
    for (uint64_t i = 0;;) {
        int64_t rc = i % 5 ? 0 : cwasi_channel_wait(&c->p.rx, 1, 0, 5 * MS);
        if (rc >= 0)
            rc = cwasi_channel_recv(c->p.rx, message, sizeof message, i % 7 ? 5 * MS : 0);
        CHECK(is_known(rc));
        if (rc >= 0) {
            CHECK_EQ(rc, i % 3000);
            CHECK(filled(message, (size_t)rc, i));
            store_relaxed(&c->received, ++i);
        } else if ((rc != -EAGAIN && rc != -ETIMEDOUT) || is_over(c)) {
            break;
        }
    }
    return NULL;
}

/* Several of these: what one has attached, no other one takes back. */
static void *switch_all(void *arg)
{
    crowd *c = arg;
    static atomic_u32 turn;
    for (uint32_t i = 0; !is_over(c); i++) {
        pair next = i % 2 ? belled_pair(8192) : pipe_pair();
        uint32_t epoch = cwasi_channel_epoch(c->p.rx, 0) + 1;
        int rc = cwasi_channel_attach(c->p.rx, 0, next.rx, epoch);
        CHECK(rc == 0 || rc == -EBUSY || rc == -EINVAL || rc == -EBADF);
        if (rc < 0) {
            cwasi_channel_free(next.tx);
            sched_yield();
            continue;
        }
        if (add_relaxed(&turn, 1) % 8 == 0) {
            cwasi_channel_free(next.tx);
            rc = -EAGAIN;
        } else {
            rc = cwasi_channel_switch(c->p.tx, next.tx, 2 * MS);
            CHECK(is_known(rc));
        }
        if (rc < 0) {
            rc = cwasi_channel_detach(c->p.rx, 0, epoch);
            CHECK(rc == 0 || rc == -EALREADY);
        }
    }
    return NULL;
}

static void *look_all(void *arg)
{
    crowd *c = arg;
    static uint64_t histogram[CWASI_HISTOGRAM_BUCKETS];
    cwasi_channel *ends[] = {c->p.tx, c->p.rx};
    for (uint64_t i = 0; !is_over(c); i++) {
        cwasi_channel *end = ends[i % 2];
        int bells[8];
        /* First what was received: then it is no more than what was sent. */
        uint64_t received = stats_of(c->p.rx).messages;
        CHECK(stats_of(c->p.tx).messages >= received || load_relaxed(&c->sent) + 1 >= received);
        CHECK(cwasi_channel_unread(end) <= load_relaxed(&c->sent) + 1);
        int count = cwasi_channel_bells(end, bells, 8);
        for (int b = 0; b < count; b++)
            cwasi_channel_hung_up(end, bells[b]);
        CHECK(cwasi_channel_trim(end) >= 0);
        cwasi_channel_set_mode(end, i % 3);
        CHECK(cwasi_channel_mode(end) < 3);
        cwasi_channel_histogram(end, histogram);
        cwasi_channel_sample(end, 1u << i % 4);
        if (i % 16 == 0)
            sched_yield();
    }
    return NULL;
}

static void end_it(crowd *c)
{
    cwasi_channel *end = c->how % 2 ? c->p.tx : c->p.rx;
    switch (c->how / 2 % 3) {
    case 0: cwasi_channel_stop(end); break;
    case 1: cwasi_channel_peer_died(c->p.rx, 0); break;   /* not the sender: it gives up what a dead one has not read */
    default: CHECK(is_known(cwasi_channel_close(end, 0, 50 * MS))); break;
    }
    sleep_ms(20);
    store_release(&c->over, 1);
}

static void round_of(unsigned how)
{
    crowd c = {.p = belled_pair(8192), .how = how};
    pthread_t threads[3 + SWITCHERS];
    threads[0] = start(send_all, &c);
    threads[1] = start(receive_all, &c);
    threads[2] = start(look_all, &c);
    for (int i = 0; i < SWITCHERS; i++)
        threads[3 + i] = start(switch_all, &c);
    sleep_ms(RUN_MS + (int)how * 7);
    end_it(&c);
    for (int i = 0; i < 3 + SWITCHERS; i++)
        join(threads[i]);
    CHECK(cwasi_channel_epoch(c.p.tx, 0) > 0);
    CHECK(load_relaxed(&c.received) > 0);
    free_pair(c.p);
}

int main(void)
{
    test_begin(120);
    for (unsigned how = 0; how < ROUNDS; how++)
        round_of(how);
    return 0;
}
