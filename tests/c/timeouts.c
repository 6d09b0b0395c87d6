/* A timeout of 0 does not wait, a longer one ends in time, and neither spoils what comes after. */
#include "test.h"

static void check_times_out(int64_t result, int64_t took, int64_t timeout)
{
    CHECK_EQ(result, -ETIMEDOUT);
    CHECK(took >= timeout && took < timeout + 2000 * MS);
}

int main(void)
{
    static uint8_t large[200000];
    test_begin(30);
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        for (int parks = 0; parks < 2; parks++) {
            cwasi_wait_configure(parks ? 0 : 1, 1 * MS);
            pair p = open_pair(transport);
            CHECK_EQ(cwasi_channel_recv(p.rx, large, sizeof large, 0), -EAGAIN);
            CHECK_EQ(cwasi_channel_peek(p.rx, NULL, 0), -EAGAIN);
            call r = {.channel = p.rx, .length = 10, .timeout = 20 * MS};
            call_recv(&r);
            check_times_out(r.result, r.took, r.timeout);

            uint64_t count = fill_up(p.tx);
            CHECK(count > 0);
            call s = {.channel = p.tx, .length = 1000, .timeout = 20 * MS};
            call_send(&s);
            check_times_out(s.result, s.took, s.timeout);
            CHECK_EQ(cwasi_channel_send(p.tx, large, sizeof large, 0), -EAGAIN);
            CHECK_EQ(cwasi_channel_send(p.tx, large, sizeof large, 5 * MS), -ETIMEDOUT);
            drain(p.rx, count);
            CHECK_EQ(cwasi_channel_recv(p.rx, large, sizeof large, 0), -EAGAIN);
            CHECK_EQ(cwasi_channel_send(p.tx, "again", 5, 0), 0);
            CHECK_EQ(cwasi_channel_recv(p.rx, large, sizeof large, 0), 5);
            free_pair(p);
        }
    }
    /* A pipe that has room for a part of a message does not take that part and then wait. */
    pair narrow = open_pair(ON_PIPE);
    uint64_t taken = 0;
    while (cwasi_channel_send(narrow.tx, large, 1000, 0) == 0)
        taken++;
    CHECK_EQ(cwasi_channel_recv(narrow.rx, large, sizeof large, 0), 1000);
    CHECK_EQ(cwasi_channel_send(narrow.tx, large, 9000, 0), -EAGAIN);
    while (--taken > 0)
        CHECK_EQ(cwasi_channel_recv(narrow.rx, large, sizeof large, 0), 1000);
    CHECK_EQ(cwasi_channel_send(narrow.tx, large, sizeof large, 0), 0);
    free_pair(narrow);
    /* A message that must stream cannot go without waiting, but a sender that polls learns that nobody is there. */
    pair p = ring_pair(4096);
    CHECK_EQ(cwasi_channel_send(p.tx, large, sizeof large, 0), -EAGAIN);
    cwasi_channel_close(p.rx, 0, 0);
    CHECK_EQ(cwasi_channel_send(p.tx, large, sizeof large, 0), -EPIPE);
    free_pair(p);
    return 0;
}
