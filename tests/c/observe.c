/* Another thread looks at many ends at once while their counters change, and is told of those that are new. */
#include "test.h"
#include <math.h>
#include <string.h>

enum { COUNT = 5000, BUSY = 2, ENDS = 2 * BUSY + 3 };

/* Each that was told is within bounds and after the one before it, and has not less than before. */
static void check_told(const cwasi_observed *rows, const cwasi_observed *before, const unsigned *changed, unsigned news)
{
    CHECK(news <= ENDS);
    for (unsigned n = 0; n < news; n++) {
        CHECK(changed[n] < ENDS && (n == 0 || changed[n] > changed[n - 1]));
        CHECK(memcmp(&rows[changed[n]], &before[changed[n]], sizeof *rows) != 0);
        CHECK(rows[changed[n]].messages >= before[changed[n]].messages || before[changed[n]].messages == UINT64_MAX);
    }
}

/* What was sent since, by whom, and whether it is much; a thread closes no end meanwhile. */
static void check_peek(void)
{
    pair one = open_pair(0), other = open_pair(0);
    cwasi_channel *ends[] = {one.tx, NULL, other.tx};
    uint64_t sent[3] = {0};
    const double most[3] = {100, 0, INFINITY};
    series sends = {one.tx, 10}, receives = {one.rx, 10}, more = {other.tx, 10}, rest = {other.rx, 10};
    CHECK_EQ(cwasi_peek(ends, 3, sent, most, 0.0), 0);
    for (int round = 0; round < 2; round++) {
        pthread_t thread = start(recv_series, &receives);
        send_series(&sends);
        join(thread);
        CHECK_EQ(cwasi_peek(ends, 3, sent, most, round ? 0.1 : 0.099), round ? 1 : 3);
        CHECK_EQ(sent[0], 10 * (round + 1));
    }
    pthread_t thread = start(recv_series, &rest);
    send_series(&more);
    join(thread);
    CHECK_EQ(cwasi_peek(ends, 3, sent, most, 1e-9), 1);
    CHECK_EQ(sent[1] + sent[2], 10);
    free_pair(one);
    free_pair(other);
}

int main(void)
{
    test_begin(30);
    check_peek();
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        pair busy[BUSY], quiet = open_pair(transport);
        series sends[BUSY], receives[BUSY];
        cwasi_channel *ends[ENDS] = {quiet.tx, quiet.rx, NULL};
        cwasi_observed rows[ENDS], before[ENDS];
        unsigned changed[ENDS];
        pthread_t threads[2 * BUSY];
        memset(rows, 0, sizeof rows);
        for (int i = 0; i < BUSY; i++) {
            busy[i] = open_pair(transport);
            sends[i] = (series){busy[i].tx, COUNT};
            receives[i] = (series){busy[i].rx, COUNT};
            ends[3 + 2 * i] = busy[i].tx;
            ends[4 + 2 * i] = busy[i].rx;
        }
        CHECK_EQ(cwasi_observe(ends, ENDS, rows, changed), 1);
        CHECK_EQ(changed[0], 2);   /* it is gone, and nothing was sent by the others */
        CHECK_EQ(rows[2].messages, UINT64_MAX);
        for (int i = 0; i < BUSY; i++) {
            threads[2 * i] = start(send_series, &sends[i]);
            threads[2 * i + 1] = start(recv_series, &receives[i]);
        }
        uint64_t received = 0;
        while (received < BUSY * COUNT) {
            memcpy(before, rows, sizeof rows);
            check_told(rows, before, changed, cwasi_observe(ends, ENDS, rows, changed));
            received = 0;
            for (int i = 0; i < BUSY; i++)
                received += rows[4 + 2 * i].messages;
            sched_yield();
        }
        for (int i = 0; i < 2 * BUSY; i++)
            join(threads[i]);
        cwasi_observe(ends, ENDS, rows, changed);
        CHECK_EQ(cwasi_observe(ends, ENDS, rows, changed), 0);
        CHECK_EQ(rows[3].bytes, SERIES_BYTES * COUNT);
        CHECK_EQ(rows[0].messages + rows[1].messages, 0);
        for (int i = 0; i < BUSY; i++)
            free_pair(busy[i]);
        free_pair(quiet);
    }
    return 0;
}
