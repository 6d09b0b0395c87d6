/* Two processes hand a number to and fro, each at times that keep catching the other just as it goes to sleep. No wake
 * is lost: one would hang. */
#include "test.h"

#include <sched.h>
#include <sys/prctl.h>

enum { TRIPS = 50000 };

/* On one core they would hand it over without any sleep. */
static void run_on(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    sched_setaffinity(0, sizeof set, &set);   /* where that core is not ours, so be it */
}

static void pause_a_little(uint64_t *rng)
{
    uint64_t pick = next_random(rng);
    /* Around the 4 us for which a waiter spins at most before it sleeps. */
    int64_t ns = pick % 4 ? 0 : (int64_t)(pick / 4 % 8000);
    for (int64_t until = now_ns() + ns; ns && now_ns() < until;)
        cpu_relax();
}

static void play(cwasi_channel *tx, cwasi_channel *rx, int serves, uint64_t rng)
{
    for (uint64_t i = 0; i < TRIPS; i++) {
        uint64_t number = i, back;
        if (serves)
            CHECK_EQ(cwasi_channel_send(tx, &number, sizeof number, FOREVER), 0);
        pause_a_little(&rng);
        CHECK_EQ(cwasi_channel_recv(rx, &back, sizeof back, FOREVER), sizeof back);
        CHECK(back == i);
        pause_a_little(&rng);
        if (!serves)
            CHECK_EQ(cwasi_channel_send(tx, &number, sizeof number, FOREVER), 0);
    }
    cwasi_stats stats;
    cwasi_channel_stats(rx, &stats);
    CHECK(stats.parks > TRIPS / 100 || sysconf(_SC_NPROCESSORS_ONLN) < 2);
}

/* The sender of a full ring sleeps too. */
static void stream(cwasi_channel *tx, cwasi_channel *rx, uint64_t rng)
{
    static uint8_t data[3000];
    for (uint64_t i = 0; i < TRIPS / 4; i++) {
        size_t length = i * 7919 % sizeof data;
        if (tx) {
            fill(data, length, i);
            CHECK_EQ(cwasi_channel_send(tx, data, length, FOREVER), 0);
        } else {
            CHECK_EQ(cwasi_channel_recv(rx, data, sizeof data, FOREVER), length);
            CHECK(filled(data, length, i));
        }
        pause_a_little(&rng);
    }
}

int main(void)
{
    int there = cwasi_ring_create(4096, 1), back = cwasi_ring_create(4096, 1);
    cwasi_channel *tx, *rx;
    test_begin(55);
    cwasi_wait_configure(1, 1000);   /* who yields instead comes back late where others work, and never sleeps */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        run_on(1);
        prctl(PR_SET_PDEATHSIG, SIGKILL);   /* not to wait for a parent that failed */
        CHECK_EQ(cwasi_channel_open_ring(there, CWASI_RECEIVER, 0, NULL, &rx), 0);
        CHECK_EQ(cwasi_channel_open_ring(back, CWASI_SENDER, 0, NULL, &tx), 0);
        play(tx, rx, 0, 1);
        stream(NULL, rx, 3);
        _exit(0);
    }
    run_on(0);
    CHECK_EQ(cwasi_channel_open_ring(there, CWASI_SENDER, 0, NULL, &tx), 0);
    CHECK_EQ(cwasi_channel_open_ring(back, CWASI_RECEIVER, 0, NULL, &rx), 0);
    play(tx, rx, 1, 2);
    stream(tx, NULL, 4);
    CHECK_EQ(wait_for(child), 0);
    cwasi_channel_free(tx);
    cwasi_channel_free(rx);
    close(there);
    close(back);
    return 0;
}
