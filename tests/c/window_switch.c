/* Guests with windows on both ends of a channel that goes from one transport to another: what was acquired before a switch
 * and is committed after it, records that are held across one, windows of different sizes, memories that move between. */
#include "hosted.h"

enum { WINDOW = 5 * WASM_PAGE, AT = WASM_PAGE, BUFFER = AT + WINDOW, SIZE = BUFFER + WASM_PAGE, HELD = 3, STEPS = 400 };

static pair open_windows(int transport, instance *tx, instance *rx, uint32_t sends, uint32_t receives)
{
    pair p = transport == ON_RING ? ring_pair(1 << 20) : pipe_pair();
    *tx = instance_with(p.tx, SIZE);
    *rx = instance_with(p.rx, SIZE);
    CHECK_EQ(attach(tx, 0, AT, sends), 0);
    CHECK_EQ(attach(rx, 0, AT, receives), 0);
    return p;
}

static void close_windows(pair p, instance *tx, instance *rx)
{
    free_instance(tx);
    free_instance(rx);
    free_pair(p);
}

static int go(pair p, int transport, int64_t timeout)
{
    pair next = transport == ON_RING ? ring_pair(1 << 20) : pipe_pair();
    uint32_t epoch = cwasi_channel_epoch(p.tx, 0) + 1;
    int rc = cwasi_channel_attach(p.rx, 0, next.rx, epoch);
    if (rc < 0) {
        cwasi_channel_free(next.tx);
        return rc;
    }
    rc = cwasi_channel_switch(p.tx, next.tx, timeout);
    if (rc < 0)
        CHECK_EQ(cwasi_channel_detach(p.rx, 0, epoch), 0);
    return rc;
}

/* Acquired on the one, committed on the other; perhaps after the memory has moved. */
static void acquired_before(int from, int to, int moves)
{
    instance tx, rx;
    pair p = open_windows(from, &tx, &rx, WINDOW, WINDOW);
    for (uint64_t seed = 0; seed < 12; seed++) {
        uint32_t length = 50000 + (uint32_t)seed * 1000;
        int32_t at = acquire(&tx, 0, length, -1);
        CHECK(at >= 0);
        fill(tx.memory + AT + at, length, seed);
        uint8_t *old = moves ? move_memory(&tx, SIZE) : NULL;
        if (seed % 2 == 0)
            CHECK_EQ(go(p, seed % 4 ? from : to, 0), 0);
        CHECK_EQ(commit(&tx, 0, (uint32_t)at, length), 0);
        record found = take_checked(&rx, AT, length, seed);
        memset(rx.memory + AT + found.offset, 255, length);
        CHECK_EQ(release(&rx, 0, found.offset), 0);
        if (old)
            munmap(old - AROUND, SIZE + 2 * AROUND);
    }
    close_windows(p, &tx, &rx);
}

/* While records of the old transport are held, those of the next one wait if they cannot be in the same window; those that
 * are held keep what is in them. */
static void held_across(int from, int to)
{
    instance tx, rx;
    pair p = open_windows(from, &tx, &rx, WINDOW, WINDOW);
    record held[HELD];
    for (uint64_t i = 0; i < HELD; i++) {
        send_in_place(&tx, AT, 30000, i);
        held[i] = take_checked(&rx, AT, 30000, i);
    }
    CHECK_EQ(go(p, to, 0), 0);
    send_in_place(&tx, AT, 20000, HELD);
    int waits = from == ON_RING || to == ON_RING;
    if (waits) {
        CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_BUSY);
        CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_BUSY);
    }
    for (uint64_t i = 0; i < HELD; i++) {
        CHECK(filled(rx.memory + AT + held[i].offset, 30000, i));
        CHECK_EQ(release(&rx, 0, held[i].offset), 0);
        if (waits && i + 1 < HELD)
            CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_BUSY);
    }
    record found = take_checked(&rx, AT, 20000, HELD);
    CHECK_EQ(release(&rx, 0, found.offset), 0);
    close_windows(p, &tx, &rx);
}

/* The receiver's memory moves while it holds records of a transport that is gone. */
static void held_and_moved(int to)
{
    instance tx, rx;
    pair p = open_windows(ON_RING, &tx, &rx, WINDOW, WINDOW);
    send_in_place(&tx, AT, 30000, 1);
    record held = take_checked(&rx, AT, 30000, 1);
    CHECK_EQ(go(p, to, 0), 0);
    send_in_place(&tx, AT, 40000, 2);
    CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_BUSY);
    uint8_t *old = move_memory(&rx, SIZE);
    CHECK(filled(rx.memory + AT + held.offset, 30000, 1));
    CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_BUSY);
    CHECK_EQ(release(&rx, 0, held.offset), 0);
    held = take_checked(&rx, AT, 40000, 2);
    CHECK_EQ(release(&rx, 0, held.offset), 0);
    CHECK(all_strange(old, SIZE));
    munmap(old - AROUND, SIZE + 2 * AROUND);
    close_windows(p, &tx, &rx);
}

/* Who comes first to the next ring says how large its area is: what does not fit the other one's window is copied. */
static void sizes_differ(uint32_t sends, uint32_t receives)
{
    instance tx, rx;
    pair p = ring_pair(1 << 20);
    tx = instance_with(p.tx, SIZE);
    rx = instance_with(p.rx, SIZE);
    CHECK_EQ(attach(sends < receives ? &tx : &rx, 0, AT, MIN(sends, receives)), 0);
    CHECK_EQ(attach(sends < receives ? &rx : &tx, 0, AT, MAX(sends, receives)), 0);
    for (uint64_t seed = 0; seed < 20; seed++) {
        uint32_t length = MIN(sends, receives) - (uint32_t)seed * 100;
        if (seed % 3 == 1)
            CHECK_EQ(go(p, seed % 2 ? ON_PIPE : ON_RING, 0), 0);
        send_in_place(&tx, AT, length, seed);
        record found = take_checked(&rx, AT, length, seed);
        CHECK_EQ(release(&rx, 0, found.offset), 0);
        check_around(&tx);
        check_around(&rx);
    }
    close_windows(p, &tx, &rx);
}

/* One that is longer than the receiver's window stays, as ever, for who has room. */
static void too_long(void)
{
    instance tx, rx;
    pair p = ring_pair(1 << 20);
    tx = instance_with(p.tx, SIZE);
    rx = instance_with(p.rx, SIZE);
    CHECK_EQ(attach(&rx, 0, AT, WASM_PAGE), 0);
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    CHECK_EQ(acquire(&tx, 0, 2 * WASM_PAGE, 0), E_MSGSIZE);
    CHECK_EQ(go(p, ON_RING, 0), 0);
    send_in_place(&tx, AT, 2 * WASM_PAGE, 1);
    CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_MSGSIZE);
    CHECK_EQ(recv_copy(&rx, 0, AT + WASM_PAGE, 2 * WASM_PAGE, 0), 2 * WASM_PAGE);
    CHECK(filled(rx.memory + AT + WASM_PAGE, 2 * WASM_PAGE, 1));
    close_windows(p, &tx, &rx);
}

/* All at once, with room for one record more than are held: both guests at full speed, another thread that switches, copies and places by turns. */
typedef struct {
    instance *guest;
    atomic_u32 *done;
} running;

static uint32_t length_of(uint64_t i)
{
    uint64_t state = i;
    return (uint32_t)(next_random(&state) % (i % 8 ? 9000 : WINDOW / 8));
}

static void *send_all(void *arg)
{
    running *r = arg;
    for (uint64_t i = 0; !load_acquire(r->done); i++) {
        if (i % 5 == 1) {
            fill(r->guest->memory + BUFFER, length_of(i), i);
            CHECK_EQ(send_copy(r->guest, 0, BUFFER, length_of(i), -1), 0);
        } else {
            send_in_place(r->guest, AT, length_of(i), i);
        }
    }
    return NULL;
}

static void *receive_all(void *arg)
{
    running *r = arg;
    record held[HELD];
    uint64_t number[HELD], holds = 0, next = 0;
    for (int32_t rc = 0; rc != E_PIPE;) {
        if (holds == HELD || rc == E_BUSY) {
            CHECK(holds > 0);
            CHECK(filled(r->guest->memory + AT + held[0].offset, held[0].length, number[0]));
            CHECK_EQ(release(r->guest, 0, held[0].offset), 0);
            holds--;
            memmove(held, held + 1, holds * sizeof *held);
            memmove(number, number + 1, holds * sizeof *number);
        }
        rc = take(r->guest, 0, RECORD_AT, -1);
        if (rc == E_BUSY || rc == E_PIPE)
            continue;
        CHECK_EQ(rc, 0);
        held[holds] = record_told(r->guest);
        number[holds++] = next;
        CHECK_EQ(held[holds - 1].length, length_of(next));
        next++;
    }
    CHECK(next > STEPS);
    return NULL;
}

static void at_once(void)
{
    instance tx, rx;
    pair p = open_windows(ON_RING, &tx, &rx, WINDOW, WINDOW);
    atomic_u32 done = 0;
    running sends = {&tx, &done}, receives = {&rx, &done};
    pthread_t sender = start(send_all, &sends), receiver = start(receive_all, &receives);
    uint32_t switches = 0;
    for (int i = 0; switches < STEPS; i++) {
        int rc = go(p, (int)(switches / 2 % 2), 5 * MS);
        CHECK(rc == 0 || rc == -EBUSY || rc == -EINVAL || rc == -ETIMEDOUT);
        switches += rc == 0;
    }
    store_release(&done, 1);
    join(sender);
    CHECK_EQ(cwasi_channel_close(p.tx, 0, FOREVER), 0);
    join(receiver);
    CHECK_EQ(cwasi_channel_epoch(p.rx, 0), STEPS);
    close_windows(p, &tx, &rx);
}

int main(void)
{
    test_begin(30);
    for (int from = 0; from < TRANSPORTS; from++) {
        for (int to = 0; to < TRANSPORTS; to++) {
            acquired_before(from, to, 0);
            acquired_before(from, to, 1);
            held_across(from, to);
        }
        held_and_moved(from);
    }
    sizes_differ(WASM_PAGE, 2 * WASM_PAGE);
    sizes_differ(2 * WASM_PAGE, WASM_PAGE);
    too_long();
    at_once();
    return 0;
}
