/* Messages of all sizes arrive whole, once and in order, while the connection is reset again and again. */
#include "tcp_pair.h"

enum { MESSAGES = 600, LONGEST = 3 << 20 };

static uint64_t size_of(uint64_t *rng)
{
    static const uint64_t bounds[] = {1, 100, 20000, 300000, LONGEST};
    uint64_t pick = next_random(rng) % 32;
    return next_random(rng) % bounds[pick < 12 ? 1 : pick < 24 ? 2 : pick < 30 ? 3 : pick < 31 ? 4 : 0];
}

static void *send_all(void *arg)
{
    tcp_pair *p = arg;
    uint64_t rng = 11;
    uint8_t *data = malloc(LONGEST);
    for (uint64_t i = 0; i < MESSAGES; i++) {
        uint64_t length = size_of(&rng);
        int64_t rc;
        fill(data, length, i);
        while ((rc = cwasi_channel_send(p->tx, data, length, i % 3 ? FOREVER : 1 * MS)) == -ETIMEDOUT)
            continue;
        CHECK_EQ(rc, 0);
    }
    free(data);
    CHECK_EQ(cwasi_channel_close(p->tx, 0, FOREVER), 0);
    return NULL;
}

static void receive(tcp_pair *p, uint64_t number, uint64_t length, uint8_t *data)
{
    if (number % 5 == 1)
        CHECK_EQ(cwasi_channel_peek(p->rx, NULL, FOREVER), length);
    if (number % 7 == 3) {
        CHECK_EQ(channel_drop(p->rx, deadline_after(-1)), 0);
        return;
    }
    int64_t rc;
    while ((rc = cwasi_channel_recv(p->rx, data, LONGEST, number % 2 ? FOREVER : 1 * MS)) == -ETIMEDOUT)
        continue;
    CHECK_EQ(rc, length);
    CHECK(filled(data, length, number));
}

static void all_arrive(unsigned cut_every)
{
    tcp_pair *p = open_tcp_pair(1 << 20);
    uint64_t rng = 11, chance = 5;
    uint8_t *data = malloc(LONGEST);
    pthread_t thread = start(send_all, p);
    for (uint64_t i = 0; i < MESSAGES; i++) {
        if (cut_every && next_random(&chance) % cut_every == 0) {
            atomic_store(&p->cut, 1 + (int)(next_random(&chance) % 2));
            tell_keeper(p);
        }
        receive(p, i, size_of(&rng), data);
    }
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cwasi_channel_recv(p->rx, data, LONGEST, FOREVER), -EPIPE);
    join(thread);
    free(data);
    free_tcp_pair(p);
}

int main(void)
{
    test_begin(120);
    all_arrive(0);
    all_arrive(20);
    all_arrive(3);
    return 0;
}
