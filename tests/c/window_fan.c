/* Windows of several readers: one is slow, one copies, one ends or lies while it holds the room; and ends that a fork
 * has doubled. */
#include "hosted.h"

#include "ring.h"

#include <sched.h>

enum { WINDOW = 3 * WASM_PAGE, AT = WASM_PAGE, BUFFER = AT + WINDOW, SIZE = BUFFER + WINDOW, LONGEST = 60000 };

#ifdef __SANITIZE_THREAD__
enum { MESSAGES = 200 };
#else
enum { MESSAGES = 1500 };
#endif

static uint32_t length_of(uint64_t seq)
{
    uint64_t state = seq;
    return (uint32_t)(next_random(&state) % (next_random(&state) % 4 ? 3000 : LONGEST));
}

enum { IN_PLACE, SLOW, COPIES, LEAVES, HOLDS };

typedef struct {
    instance guest;
    cwasi_channel *rx;
    int kind;
} reader;

static void *read_all(void *arg)
{
    reader *r = arg;
    uint32_t held = UINT32_MAX;
    for (uint64_t seq = 0; seq < (r->kind == LEAVES ? MESSAGES / 3 : MESSAGES); seq++) {
        if (r->kind == COPIES) {
            CHECK_EQ(recv_copy(&r->guest, 0, BUFFER, WINDOW, -1), length_of(seq));
            CHECK(filled(r->guest.memory + BUFFER, length_of(seq), seq));
            continue;
        }
        int32_t rc = take(&r->guest, 0, RECORD_AT, r->kind == HOLDS ? 0 : -1);
        if (r->kind == HOLDS && rc < 0) {   /* nothing new, or the other kind: what it holds may be in the way */
            CHECK(rc == E_AGAIN || rc == E_BUSY);
            if (held != UINT32_MAX)
                CHECK_EQ(release(&r->guest, 0, held), 0);
            held = UINT32_MAX;
            seq--;
            sched_yield();
            continue;
        }
        CHECK_EQ(rc, 0);
        record told = record_told(&r->guest);
        CHECK_EQ(told.length, length_of(seq));
        CHECK(filled(r->guest.memory + AT + told.offset, told.length, seq));
        memset(r->guest.memory + AT + told.offset, r->kind, told.length);   /* the others do not see it */
        if (r->kind == SLOW && seq % 64 == 0)
            sleep_ms(1);
        uint32_t go = r->kind == HOLDS ? held : told.offset;
        if (go != UINT32_MAX)
            CHECK_EQ(release(&r->guest, 0, go), 0);
        held = told.offset;
    }
    if (r->kind == LEAVES)   /* with one that it still holds */
        CHECK(take(&r->guest, 0, RECORD_AT, -1) == 0);
    cwasi_channel_close(r->rx, r->kind == LEAVES, 0);
    return NULL;
}

static void send_all(instance *tx)
{
    for (uint64_t seq = 0; seq < MESSAGES; seq++) {
        if (seq % 11) {
            send_in_place(tx, AT, length_of(seq), seq);
        } else {
            fill(tx->memory + BUFFER, length_of(seq), seq);
            CHECK_EQ(send_copy(tx, 0, BUFFER, length_of(seq), -1), 0);
        }
    }
}

static void content(void)
{
    fan f = open_fan(16384, 5);
    reader r[5];
    pthread_t threads[5];
    instance tx = instance_with(f.tx, SIZE);
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    for (int i = 0; i < 5; i++) {
        r[i] = (reader){instance_with(f.rx[i], SIZE), f.rx[i], i};
        if (i != COPIES)
            CHECK_EQ(attach(&r[i].guest, 0, AT, WINDOW), 0);
        threads[i] = start(read_all, &r[i]);
    }
    send_all(&tx);
    for (int i = 0; i < 5; i++) {
        join(threads[i]);
        free_instance(&r[i].guest);
    }
    CHECK_EQ(stats_of(f.tx).lost_peers, 1);
    free_instance(&tx);
    free_fan(f);
}

static void *acquire_whole(void *arg)
{
    CHECK_EQ(acquire(arg, 0, WINDOW, -1), 0);
    return NULL;
}

/* Two of three hold the whole window while the sender waits for it. One releases, the other ends, dies or lies. */
static void who_is_gone_is_in_nobodys_way(void)
{
    for (int how = 0; how < 4; how++) {
        fan f = open_fan(4096, 3);
        instance tx = instance_with(f.tx, SIZE), rx[2] = {instance_with(f.rx[0], SIZE), instance_with(f.rx[1], SIZE)};
        CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
        send_in_place(&tx, AT, WINDOW, 1);
        for (int i = 0; i < 2; i++) {
            CHECK_EQ(attach(&rx[i], 0, AT, WINDOW), 0);
            take_checked(&rx[i], AT, WINDOW, 1);
        }
        CHECK_EQ(channel_drop(f.rx[2], deadline_after(0)), 0);
        pthread_t waiting = start(acquire_whole, &tx);
        while (stats_of(f.tx).waits == 0)
            sleep_ms(1);
        CHECK_EQ(release(&rx[0], 0, 0), 0);
        if (how == 0)
            CHECK_EQ(ask(&rx[1], "channel_close", 0, 0, 0), 0);
        else if (how == 1)
            cwasi_channel_close(f.rx[1], 1, 0);
        else if (how == 2)
            cwasi_channel_peer_died(f.tx, 1);
        else
            store_ordered(&(*(ring **)f.tx)->control->reader[1].window_position, UINT64_C(1) << 40);
        join(waiting);
        if (how == 1)
            CHECK(filled(rx[1].memory + AT, WINDOW, 1));   /* until the sender uses it again */
        free_instance(&tx);
        free_instance(&rx[0]);
        free_instance(&rx[1]);
        free_fan(f);
    }
}

/* A child uses the sending end, and then the parent its copy: an error, not a broken stream. */
static void both_sides_of_a_fork_send(void)
{
    pair p = ring_pair(4096);
    instance tx = instance_with(p.tx, SIZE), rx = instance_with(p.rx, SIZE);
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    CHECK_EQ(attach(&rx, 0, AT, WINDOW), 0);
    send_in_place(&tx, AT, 5000, 0);
    pid_t child = fork();
    if (child == 0) {
        send_in_place(&tx, AT, 5000, 1);
        _exit(0);
    }
    CHECK_EQ(wait_for(child), 0);
    CHECK(acquire(&tx, 0, 5000, 0) == E_IO || commit(&tx, 0, 8192, 5000) == E_IO);
    for (uint64_t seed = 0; seed < 2; seed++)
        CHECK_EQ(release(&rx, 0, take_checked(&rx, AT, 5000, seed).offset), 0);
    CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_AGAIN);
    free_instance(&tx);
    free_instance(&rx);
    free_pair(p);
}

/* The child of a receiver goes on with it: what it writes to is its own, and it asks for its own pages. */
static void the_child_receives(void)
{
    pair p = ring_pair(4096);
    instance tx = instance_with(p.tx, SIZE), rx = instance_with(p.rx, SIZE);
    CHECK_EQ(attach(&tx, 0, AT, WINDOW), 0);
    CHECK_EQ(attach(&rx, 0, AT, WINDOW), 0);
    send_in_place(&tx, AT, LONGEST, 0);
    record held = take_checked(&rx, AT, LONGEST, 0);
    rx.memory[AT + held.offset] = 7;
    CHECK_EQ(release(&rx, 0, held.offset), 0);
    send_in_place(&tx, AT, LONGEST, 1);
    held = take_checked(&rx, AT, LONGEST, 1);
    pid_t child = fork();
    if (child == 0) {
        for (uint64_t seed = 2; seed < 40; seed++) {
            memset(rx.memory + AT + held.offset, 255, LONGEST);
            CHECK_EQ(release(&rx, 0, held.offset), 0);
            held = take_checked(&rx, AT, LONGEST, seed);
        }
        _exit(0);
    }
    for (uint64_t seed = 2; seed < 40; seed++)
        send_in_place(&tx, AT, LONGEST, seed);
    CHECK_EQ(wait_for(child), 0);
    CHECK(filled(rx.memory + AT + held.offset, 8, 1) || rx.memory[AT + held.offset] != 255);
    free_instance(&tx);
    free_instance(&rx);
    free_pair(p);
}

int main(void)
{
    test_begin(30);
    content();
    who_is_gone_is_in_nobodys_way();
    both_sides_of_a_fork_send();
    the_child_receives();
    return 0;
}
