/* No more threads spin than the process may afford; and a forked child, whose parent was spinning, may spin too. */
#include "test.h"

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The time on a core that a wait of 100 ms costs. */
static int64_t cost_of_wait(void)
{
    pair p = ring_pair(4096);
    int64_t before = cpu_ns();
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 100 * MS), -ETIMEDOUT);
    int64_t cost = cpu_ns() - before;
    free_pair(p);
    return cost;
}

int main(void)
{
    test_begin(20);
    cwasi_wait_configure(1, 60000 * MS);
    CHECK(cost_of_wait() > 20 * MS);
    CHECK(cost_of_wait() > 20 * MS);   /* the place was given back */

    pair p = ring_pair(4096);
    call r = {.channel = p.rx, .length = 1, .timeout = FOREVER};
    pthread_t spinning = start(call_recv, &r);
    sleep_ms(30);
    CHECK(cost_of_wait() < 10 * MS);
    pid_t child = fork();
    if (child == 0)
        _exit(cost_of_wait() > 20 * MS ? 0 : 1);
    CHECK_EQ(wait_for(child), 0);
    cwasi_channel_stop(p.rx);
    join(spinning);
    CHECK(cost_of_wait() > 20 * MS);
    cwasi_wait_configure(0, 60000 * MS);
    CHECK(cost_of_wait() < 10 * MS);
    free_pair(p);
    return 0;
}
