/* A sender does not run far ahead of readers that go on reading; but it waits for them only for a while, and not at all
 * where it may not wait, or where a reader that holds its records has read all. */
#include "hosted.h"

enum { LENGTH = 1 << 20, COUNT = 8, WINDOW = COUNT * LENGTH, AT = WASM_PAGE, SIZE = AT + WINDOW, READERS = 2 };
#ifdef __SANITIZE_THREAD__
enum { STREAMED = 12 };
#else
enum { STREAMED = 60 };
#endif

static fan all;
static instance tx, rx[READERS];

static void begin(unsigned readers)
{
    all = open_fan(16384, readers);
    tx = instance_with(all.tx, SIZE);
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    for (unsigned i = 0; i < readers; i++) {
        rx[i] = instance_with(all.rx[i], SIZE);
        CHECK_EQ(attach(&rx[i], 0, AT, WINDOW), 0);
    }
}

static void end(void)
{
    free_instance(&tx);
    for (unsigned i = 0; i < all.readers; i++)
        free_instance(&rx[i]);
    free_fan(all);
}

static void take_all(unsigned reader)
{
    record held[COUNT];
    for (uint64_t seed = 0; seed < COUNT; seed++)
        held[seed] = take_checked(&rx[reader], AT, LENGTH, seed);
    for (uint64_t seed = 0; seed < COUNT; seed++)
        CHECK_EQ(release(&rx[reader], 0, held[seed].offset), 0);
}

static void nobody_reads(void)
{
    begin(READERS);
    for (int round = 0; round < 3; round++) {
        uint64_t before = stats_of(all.tx).waits;
        for (uint64_t seed = 0; seed < COUNT; seed++)
            send_in_place(&tx, AT, LENGTH, seed);
        uint64_t waits = stats_of(all.tx).waits - before;
        CHECK(waits > 0 && waits < COUNT - 1);
        CHECK_EQ(acquire(&tx, 0, 1, 0), E_AGAIN);
        for (unsigned i = 0; i < READERS; i++)
            take_all(i);
    }
    end();
}

static void it_may_not_wait(void)
{
    begin(1);
    for (uint64_t seed = 0; seed < COUNT; seed++) {
        int32_t at = acquire(&tx, 0, LENGTH, 0);
        CHECK(at >= 0);
        fill(tx.memory + AT + at, LENGTH, seed);
        CHECK_EQ(commit(&tx, 0, (uint32_t)at, LENGTH), 0);
    }
    CHECK_EQ(stats_of(all.tx).waits, 0);
    take_all(0);
    end();
}

static void all_is_read_and_held(void)
{
    record held[READERS][COUNT];
    begin(READERS);
    for (uint64_t seed = 0; seed < COUNT; seed++) {
        send_in_place(&tx, AT, LENGTH, seed);
        for (unsigned i = 0; i < READERS; i++)
            held[i][seed] = take_checked(&rx[i], AT, LENGTH, seed);
    }
    CHECK_EQ(stats_of(all.tx).waits, 0);
    for (unsigned i = 0; i < READERS; i++) {
        for (uint64_t seed = 0; seed < COUNT; seed++) {
            CHECK(filled(rx[i].memory + AT + held[i][seed].offset, LENGTH, seed));
            CHECK_EQ(release(&rx[i], 0, held[i][seed].offset), 0);
        }
    }
    end();
}

static void *send_all(void *arg)
{
    for (uint64_t seed = 0; seed < STREAMED; seed++)
        send_in_place(arg, AT, LENGTH, seed);
    return NULL;
}

/* The one lets go of each at once, the other one behind the next. */
static void *receive_all(void *arg)
{
    instance *own = arg;
    record before = {0};
    for (uint64_t seed = 0; seed < STREAMED; seed++) {
        record held = take_checked(own, AT, LENGTH, seed);
        if (own == &rx[0])
            CHECK_EQ(release(own, 0, held.offset), 0);
        else if (seed > 0)
            CHECK_EQ(release(own, 0, before.offset), 0);
        before = held;
    }
    return NULL;
}

static void as_a_stream(void)
{
    begin(READERS);
    pthread_t sending = start(send_all, &tx), one = start(receive_all, &rx[0]), other = start(receive_all, &rx[1]);
    join(sending);
    join(one);
    join(other);
    end();
}

/* The end of all readers ends that wait, too. */
static void they_leave(void)
{
    begin(1);
    send_in_place(&tx, AT, LENGTH, 0);
    send_in_place(&tx, AT, LENGTH, 1);
    cwasi_channel_peer_died(all.tx, 0);
    CHECK_EQ(acquire(&tx, 0, LENGTH, -1), E_CONNRESET);
    end();
}

int main(void)
{
    test_begin(20);
    nobody_reads();
    it_may_not_wait();
    all_is_read_and_held();
    as_a_stream();
    they_leave();
    return 0;
}
