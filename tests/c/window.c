/* Messages in place, as guests exchange them: any mix of copies and places on both sides, sizes up to the whole window,
 * records that are held, and receivers that write over what they hold. The content is always that of the message. */
#include "hosted.h"

#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

enum { WINDOW = 5 * WASM_PAGE, AT = WASM_PAGE, BUFFER = AT + WINDOW, SIZE = BUFFER + WINDOW };

/* How the kernel can be asked for the pages that a receiver has written to; and whether the receiver is known to have
 * one thread, so that its faults tell when to ask. The thread sanitizer needs the functions that ask to itself, and more
 * time. */
#ifdef __SANITIZE_THREAD__
enum { SCANS, AFTER_FAULTS, WAYS, HAS_PAGEMAP, KNOWS_NOTHING, MESSAGES = 40 };
#else
enum { SCANS, AFTER_FAULTS, HAS_PAGEMAP, KNOWS_NOTHING, WAYS, MESSAGES = 250 };
#endif

static atomic_u32 way, scans;

#ifndef __SANITIZE_THREAD__
int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *arg = va_arg(rest, void *);
    va_end(rest);
    if ((request >> 8 & 0xff) == 'f') {
        add_relaxed(&scans, 1);
        if (load_relaxed(&way) > AFTER_FAULTS) {
            errno = ENOTTY;
            return -1;
        }
    }
    return (int)syscall(SYS_ioctl, fd, request, arg);
}

ssize_t pread(int fd, void *to, size_t length, off_t offset)
{
    if (load_relaxed(&way) == KNOWS_NOTHING) {
        errno = EBADF;
        return -1;
    }
    return syscall(SYS_pread64, fd, to, length, offset);
}
#endif

static pair open_windows(int transport, instance *tx, instance *rx)
{
    pair p = transport == ON_RING ? ring_pair(16384) : pipe_pair();
    *tx = instance_with(p.tx, SIZE);
    *rx = instance_with(p.rx, SIZE);
    if (load_relaxed(&way) == AFTER_FAULTS)
        is_only(rx);
    CHECK_EQ(attach(tx, 0, AT, WINDOW), 0);
    CHECK_EQ(attach(rx, 0, AT, WINDOW), 0);
    return p;
}

static void close_windows(pair p, instance *tx, instance *rx)
{
    free_instance(tx);
    free_instance(rx);
    free_pair(p);
}

/* Each page that the receiver wrote to shows the next message there; also those that were not released in between. */
static void scribble(int transport)
{
    instance tx, rx;
    pair p = open_windows(transport, &tx, &rx);
    static const uint32_t sizes[] = {1, 4095, 4096, 4097, 30000, WASM_PAGE, WINDOW - 1, WINDOW, 0};
    uint64_t seed = 0;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            send_in_place(&tx, AT, sizes[i], ++seed);
            record held = take_checked(&rx, AT, sizes[i], seed);
            /* All of it, or every other page: more ranges than one question to the kernel finds. */
            if (round == 0 && transport == ON_RING)
                memset(rx.memory + AT + held.offset, 255, (sizes[i] + 4095u) / 4096 * 4096);
            for (uint32_t at = round == 1 ? 0 : 4096; round && at < sizes[i]; at += 8192)
                rx.memory[AT + held.offset + at] ^= 1;
            CHECK_EQ(release(&rx, 0, held.offset), 0);
        }
    }
    close_windows(p, &tx, &rx);
}

/* A receiver that only reads is not searched for pages that it has written to, one that writes is, at once. */
static void scribble_seldom(void)
{
    enum { LAPS = 1000, EVERY = 50, LENGTH = WINDOW / 4 };
    instance tx, rx;
    store_relaxed(&way, AFTER_FAULTS);
    pair p = open_windows(ON_RING, &tx, &rx);
    uint32_t before = load_relaxed(&scans);
    for (uint64_t seed = 0; seed < 4 * LAPS; seed++) {
        send_in_place(&tx, AT, LENGTH, seed);
        record held = take_checked(&rx, AT, LENGTH, seed);
        if (seed % (4 * EVERY) == 1)
            rx.memory[AT + held.offset + LENGTH / 2] ^= 1;
        CHECK_EQ(release(&rx, 0, held.offset), 0);
    }
    uint32_t scanned = load_relaxed(&scans) - before;
#ifndef __SANITIZE_THREAD__
    CHECK(scanned >= LAPS / EVERY);
#endif
    CHECK(scanned < 2 * LAPS);   /* of 4 * LAPS releases; the kernel has faults of its own */
    close_windows(p, &tx, &rx);
}

/* One record stays while others come and go around the end of the window; the sender then waits for it. */
static void hold(void)
{
    instance tx, rx;
    pair p = open_windows(ON_RING, &tx, &rx);
    for (uint64_t seed = 0; seed < 200; seed += 4) {
        uint32_t length = 20000 + (uint32_t)seed * 97;   /* what is left before the end of the window counts, too */
        for (uint64_t i = 0; i < 4; i++)
            send_in_place(&tx, AT, length, seed + i);
        record held[4];
        for (uint64_t i = 0; i < 4; i++)
            held[i] = take_checked(&rx, AT, length, seed + i);
        CHECK_EQ(acquire(&tx, 0, WINDOW, 0), E_AGAIN);
        CHECK_EQ(recv_copy(&rx, 0, BUFFER, WINDOW, 0), E_BUSY);
        CHECK_EQ(ask(&rx, "channel_peek", 0, 0, 0), E_BUSY);
        CHECK_EQ(release(&rx, 0, held[1].offset), E_INVAL);
        for (uint64_t i = 0; i < 4; i++) {
            CHECK(filled(rx.memory + AT + held[i].offset, length, seed + i));
            CHECK_EQ(release(&rx, 0, held[i].offset), 0);
        }
        CHECK_EQ(release(&rx, 0, held[3].offset), E_INVAL);
    }
    close_windows(p, &tx, &rx);
}

/* As many as can be held; and messages of no bytes, each at a place of its own. */
static void hold_many(int transport)
{
    instance tx, rx;
    pair p = open_windows(transport, &tx, &rx);
    record held[64];
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 64; i++)
            send_in_place(&tx, AT, i % 2 ? 100 : 0, i);
        for (uint32_t i = 0; i < 64; i++) {
            held[i] = take_checked(&rx, AT, i % 2 ? 100 : 0, i);
            CHECK_EQ(held[i].offset % 4096, 0);
            for (uint32_t k = 0; k < i; k++)
                CHECK(held[k].offset != held[i].offset);
        }
        send_in_place(&tx, AT, 0, 64);
        CHECK_EQ(take(&rx, 0, RECORD_AT, 0), E_BUSY);
        for (uint32_t i = 0; i < 64; i++) {
            CHECK(filled(rx.memory + AT + held[i].offset, i % 2 ? 100 : 0, i));
            CHECK_EQ(release(&rx, 0, held[i].offset), 0);
        }
        CHECK_EQ(recv_copy(&rx, 0, 0, 0, 0), 0);
    }
    close_windows(p, &tx, &rx);
}

/* Copies that are held stay what they are while others are placed around them, empty ones included. */
static void hold_copies(void)
{
    instance tx, rx;
    pair p = open_windows(ON_RING, &tx, &rx);
    uint64_t rng = 3, sent = 0, taken = 0, freed = 0;
    uint32_t lengths[64];
    record held[64];
    for (int step = 0; step < 20000; step++) {
        if (sent == taken && sent - freed < 64) {
            static const uint32_t sizes[] = {0, 0, 1, 3000, 4096, 5000, 8192, 12000};
            lengths[sent % 64] = sizes[next_random(&rng) % 8];
            fill(tx.memory + BUFFER, lengths[sent % 64], sent);
            CHECK_EQ(send_copy(&tx, 0, BUFFER, lengths[sent % 64], 0), 0);
            sent++;
        }
        int32_t rc = take(&rx, 0, RECORD_AT, 0);
        if (rc == 0) {
            held[taken % 64] = record_told(&rx);
            CHECK_EQ(held[taken % 64].length, lengths[taken % 64]);
            taken++;
        } else {
            CHECK(rc == E_BUSY || rc == E_AGAIN);
        }
        if (taken > freed && (rc < 0 || next_random(&rng) % 3 == 0)) {
            CHECK(filled(rx.memory + AT + held[freed % 64].offset, lengths[freed % 64], freed));
            memset(rx.memory + AT + held[freed % 64].offset, 255, lengths[freed % 64]);
            CHECK_EQ(release(&rx, 0, held[freed % 64].offset), 0);
            freed++;
        }
    }
    CHECK(freed > 5000);
    close_windows(p, &tx, &rx);
}

/* ---- both at once ---- */

typedef struct {
    instance *guest;
    uint64_t count, seed;
    int windows;            /* of 8 messages, how many in place */
} side;

static uint32_t length_of(uint64_t number, uint64_t seed)
{
    static const uint32_t sizes[] = {0, 1, 100, 4096, 10000, 70000, WINDOW / 2 + 1, WINDOW};
    uint64_t state = number * 1000 + seed, pick = next_random(&state);
    return (uint32_t)(next_random(&state) % (sizes[pick % 8] + 1));
}

static void *send_all(void *arg)
{
    const side *s = arg;
    uint64_t rng = s->seed + 1;
    for (uint64_t i = 0; i < s->count; i++) {
        uint32_t length = length_of(i, s->seed), more = length + (uint32_t)(next_random(&rng) % 9000);
        if (next_random(&rng) % 8 < (uint64_t)s->windows) {
            int32_t at = acquire(s->guest, 0, MIN(more, (uint32_t)WINDOW), -1);
            if (next_random(&rng) % 8 == 0)
                at = acquire(s->guest, 0, length, -1);   /* instead */
            CHECK(at >= 0);
            fill(s->guest->memory + AT + at, length, i);
            CHECK_EQ(commit(s->guest, 0, (uint32_t)at, length), 0);
        } else {
            fill(s->guest->memory + BUFFER, length, i);
            CHECK_EQ(send_copy(s->guest, 0, BUFFER, length, -1), 0);
        }
    }
    return NULL;
}

typedef struct {
    record told;
    uint64_t number;
} kept;

static void give_back(const side *s, kept one)
{
    uint8_t *at = s->guest->memory + AT + one.told.offset;
    CHECK_EQ(one.told.length, length_of(one.number, s->seed));
    CHECK(filled(at, one.told.length, one.number));
    if (one.number % 3)
        memset(at, (int)one.number, one.told.length);
    CHECK_EQ(release(s->guest, 0, one.told.offset), 0);
}

/* Holds up to four, and lets go of all when the guest must. */
static void *receive_all(void *arg)
{
    const side *s = arg;
    uint64_t rng = s->seed + 2, held = 0;
    kept list[4];
    for (uint64_t i = 0; i < s->count;) {
        if (held == 0 && next_random(&rng) % 8 >= (uint64_t)s->windows) {
            CHECK_EQ(recv_copy(s->guest, 0, BUFFER, WINDOW, -1), length_of(i, s->seed));
            CHECK(filled(s->guest->memory + BUFFER, length_of(i, s->seed), i));
            i++;
            continue;
        }
        /* Who holds the room that the sender waits for must not wait for it. */
        int32_t rc = take(s->guest, 0, RECORD_AT, held ? 0 : -1);
        CHECK(rc == 0 || (held && (rc == E_BUSY || rc == E_AGAIN)));
        if (rc == 0)
            list[held++] = (kept){record_told(s->guest), i++};
        unsigned go = rc < 0 || held == 4 ? 4 : next_random(&rng) % 3;
        for (; held && go; go--) {
            give_back(s, list[0]);
            memmove(list, list + 1, sizeof list - sizeof *list);
            held--;
        }
    }
    return NULL;
}

static void exchange(int transport, uint64_t count, int sends, int receives, uint64_t seed)
{
    instance tx, rx;
    pair p = open_windows(transport, &tx, &rx);
    side out = {&tx, count, seed, sends}, in = {&rx, count, seed, receives};
    pthread_t sending = start(send_all, &out), receiving = start(receive_all, &in);
    join(sending);
    join(receiving);
    close_windows(p, &tx, &rx);
}

/* ---- errors, the end, and cancelling ---- */

static void arguments(void)
{
    pair p = ring_pair(4096), q = ring_pair(4096), callers = ring_pair(4096);
    instance tx = instance_with(p.tx, SIZE);
    CHECK_EQ(cwasi_guest_grant(tx.guest, "in", q.rx), 0);
    CHECK_EQ(open_port(&tx, "in", CWASI_RECEIVER), 1);
    CHECK_EQ(cwasi_guest_grant(tx.guest, "ask", callers.tx), 0);
    CHECK_EQ(cwasi_guest_grant_back(tx.guest, callers.rx), 0);
    CHECK_EQ(open_port(&tx, "ask", CWASI_SENDER), 2);
    static const uint32_t odd[][2] = {
        {AT + 4096, WASM_PAGE}, {AT, WASM_PAGE + 4096}, {AT, 0}, {AT + 1, WASM_PAGE}, {SIZE, 0},
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        CHECK_EQ(attach(&tx, 0, odd[i][0], odd[i][1]), E_INVAL);
    static const uint32_t outside[][2] = {
        {SIZE, WASM_PAGE}, {AT, SIZE}, {0, UINT32_C(0xffff0000)}, {UINT32_C(0xffff0000), WASM_PAGE},
        {UINT32_C(1) << 31, UINT32_C(1) << 31},
    };
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        CHECK_EQ(attach(&tx, 0, outside[i][0], outside[i][1]), E_FAULT);
    static const uint32_t bad[] = {3, 1000, INT32_MAX, UINT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        CHECK_EQ(attach(&tx, bad[i], AT, WASM_PAGE), E_BADF);
        CHECK_EQ(acquire(&tx, bad[i], 1, 0), E_BADF);
        CHECK_EQ(commit(&tx, bad[i], 0, 1), E_BADF);
        CHECK_EQ(take(&tx, bad[i], 0, 0), E_BADF);
        CHECK_EQ(release(&tx, bad[i], 0), E_BADF);
    }
    CHECK_EQ(acquire(&tx, 0, 1, 0), E_INVAL);   /* no window yet */
    CHECK_EQ(commit(&tx, 0, 0, 0), E_INVAL);
    CHECK_EQ(take(&tx, 1, 0, 0), E_INVAL);
    CHECK_EQ(release(&tx, 1, 0), E_INVAL);
    CHECK_EQ(attach(&tx, 2, AT, WASM_PAGE), E_INVAL);   /* calls */
    CHECK_EQ(attach(&tx, 0, AT, WASM_PAGE), 0);
    CHECK_EQ(attach(&tx, 0, AT + WASM_PAGE, WASM_PAGE), E_INVAL);   /* a second */
    CHECK_EQ(attach(&tx, 1, 0, 2 * WASM_PAGE), E_INVAL);            /* over the other */
    CHECK_EQ(attach(&tx, 1, AT, WASM_PAGE), E_INVAL);
    CHECK_EQ(attach(&tx, 1, 0, WASM_PAGE), 0);                      /* around RECORD_AT, too */
    CHECK_EQ(acquire(&tx, 1, 1, 0), E_BADF);
    CHECK_EQ(take(&tx, 0, 0, 0), E_BADF);
    for (uint32_t length = WASM_PAGE + 1; length; length = length < UINT32_MAX / 3 ? length * 3 : 0)
        CHECK_EQ(acquire(&tx, 0, length, 0), E_MSGSIZE);
    CHECK_EQ(acquire(&tx, 0, UINT32_MAX, 0), E_MSGSIZE);
    CHECK_EQ(acquire(&tx, 0, 1, -2), E_INVAL);
    CHECK_EQ(take(&tx, 1, 0, -2), E_INVAL);
    CHECK_EQ(commit(&tx, 0, 0, 0), E_INVAL);    /* not acquired */
    CHECK_EQ(acquire(&tx, 0, 5000, 0), 0);
    static const uint32_t beyond[][2] = {
        {4096, 1}, {UINT32_MAX, 1}, {0, 5001}, {0, UINT32_MAX}, {1, 4999}, {UINT32_C(1) << 31, 0},
    };
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++)
        CHECK_EQ(commit(&tx, 0, beyond[i][0], beyond[i][1]), E_INVAL);
    CHECK_EQ(commit(&tx, 0, 0, 5000), 0);
    CHECK_EQ(commit(&tx, 0, 0, 5000), E_INVAL);
    static const uint32_t at[] = {SIZE, SIZE - 7, UINT32_MAX, UINT32_MAX - 7, UINT32_C(1) << 31};
    for (size_t i = 0; i < 5; i++)
        CHECK_EQ(take(&tx, 1, at[i], 0), E_FAULT);
    CHECK_EQ(take(&tx, 1, SIZE - 8, 0), E_AGAIN);
    CHECK_EQ(take(&tx, 1, SIZE - 8, 10), E_TIMEDOUT);
    free_instance(&tx);
    free_pair(p);
    free_pair(q);
    free_pair(callers);
}

/* Windows of other sizes than the other end's; and the largest, on the smallest ring. */
static void sizes(void)
{
    enum { HUGE = 1 << 30 };
    instance tx, rx;
    pair p = ring_pair(4096);
    tx = instance_with(p.tx, SIZE);
    rx = instance_with(p.rx, SIZE);
    CHECK_EQ(attach(&tx, 0, AT, 2 * WASM_PAGE), 0);
    CHECK_EQ(attach(&rx, 0, AT, WASM_PAGE), E_MSGSIZE);
    CHECK_EQ(attach(&rx, 0, AT, 3 * WASM_PAGE), 0);
    CHECK_EQ(acquire(&tx, 0, 2 * WASM_PAGE + 1, 0), E_MSGSIZE);
    fill(tx.memory + BUFFER, WINDOW, 1);
    CHECK_EQ(send_copy(&tx, 0, BUFFER, 3000, 0), 0);
    record held = take_checked(&rx, AT, 3000, 1);
    CHECK_EQ(release(&rx, 0, held.offset), 0);
    close_windows(p, &tx, &rx);

    p = ring_pair(4096);
    tx = instance_with(p.tx, WASM_PAGE);
    rx = instance_with(p.rx, WASM_PAGE);
    instance *both[] = {&tx, &rx};
    for (int i = 0; i < 2; i++) {
        size_t size = WASM_PAGE + (size_t)HUGE + WASM_PAGE;
        free_memory(both[i]);
        both[i]->memory = place_memory(NULL, both[i]->size = size);
        CHECK_EQ(attach(both[i], 0, WASM_PAGE, HUGE + WASM_PAGE), E_INVAL);
        CHECK_EQ(attach(both[i], 0, WASM_PAGE, HUGE), 0);
    }
    for (uint64_t seed = 0; seed < 6; seed++) {
        static const uint32_t lengths[] = {HUGE, HUGE - 5000, HUGE, 100, HUGE / 2 + 1, HUGE / 2 + 1};
        int32_t at = acquire(&tx, 0, lengths[seed], 0);
        CHECK(at >= 0);
        uint8_t *from = tx.memory + WASM_PAGE + at;
        fill(from, 64, seed);
        fill(from + lengths[seed] - 64, 64, seed);
        CHECK_EQ(commit(&tx, 0, (uint32_t)at, lengths[seed]), 0);
        CHECK_EQ(take(&rx, 0, RECORD_AT, 0), 0);
        const uint8_t *found = rx.memory + WASM_PAGE + record_told(&rx).offset;
        CHECK(filled(found + lengths[seed] - 64, 64, seed));
        CHECK_EQ(release(&rx, 0, record_told(&rx).offset), 0);
    }
    close_windows(p, &tx, &rx);
}

typedef struct {
    instance *guest;
    int takes;
    int32_t result;
} waiting;

static void *wait_in_window(void *arg)
{
    waiting *w = arg;
    w->result = w->takes ? take(w->guest, 0, RECORD_AT, -1) : acquire(w->guest, 0, WINDOW, -1);
    return NULL;
}

/* Whoever waits for room or for a message hears of the end; what was sent can still be taken, what is held be read. */
static void ends(void)
{
    enum { CLOSED, FAILED_, STOPPED, HOW };
    for (int how = 0; how < HOW; how++) {
        for (int takes = 0; takes < 2; takes++) {
            instance tx, rx;
            pair p = open_windows(ON_RING, &tx, &rx);
            if (!takes)
                send_in_place(&tx, AT, 5000, 1);
            waiting w = {takes ? &rx : &tx, takes, 0};
            pthread_t thread = start(wait_in_window, &w);
            while (stats_of(takes ? p.rx : p.tx).waits == 0)
                sleep_ms(1);
            if (how == STOPPED)
                cwasi_channel_stop(takes ? p.rx : p.tx);
            else
                cwasi_channel_close(takes ? p.tx : p.rx, how == FAILED_, -1);
            join(thread);
            CHECK_EQ(w.result, how == STOPPED ? E_CANCELED : how == FAILED_ ? E_CONNRESET : E_PIPE);
            close_windows(p, &tx, &rx);
        }
        instance tx, rx;
        pair p = open_windows(ON_RING, &tx, &rx);
        for (uint64_t i = 0; i < 3; i++)
            send_in_place(&tx, AT, 5000, i);
        record held = take_checked(&rx, AT, 5000, 0);
        cwasi_channel_close(p.tx, how == FAILED_, -1);
        CHECK_EQ(acquire(&tx, 0, 1, 0), E_BADF);
        CHECK_EQ(commit(&tx, 0, 0, 0), E_INVAL);
        CHECK(filled(rx.memory + AT + held.offset, 5000, 0));
        record next = take_checked(&rx, AT, 5000, 1);
        CHECK_EQ(release(&rx, 0, held.offset), 0);
        CHECK_EQ(release(&rx, 0, next.offset), 0);
        take_checked(&rx, AT, 5000, 2);
        CHECK_EQ(take(&rx, 0, RECORD_AT, -1), how == FAILED_ ? E_CONNRESET : E_PIPE);
        cwasi_channel_close(p.rx, 0, 0);   /* by the host, under a guest that holds one */
        CHECK_EQ(release(&rx, 0, next.offset + 8192), E_BADF);
        CHECK_EQ(take(&rx, 0, RECORD_AT, -1), E_BADF);
        close_windows(p, &tx, &rx);
    }
}

/* Who receives without a window, and in the host's own code. */
static void plain_receivers(void)
{
    static uint8_t buffer[WINDOW];
    instance tx, rx;
    pair p = open_windows(ON_RING, &tx, &rx);
    for (uint64_t seed = 0; seed < 100; seed++) {
        uint32_t length = (uint32_t)(seed * 7919 % WINDOW);
        send_in_place(&tx, AT, length, seed);
        CHECK_EQ(cwasi_channel_peek(p.rx, NULL, 0), length);
        if (length)
            CHECK_EQ(cwasi_channel_recv(p.rx, buffer, length - 1, 0), -EMSGSIZE);
        CHECK_EQ(cwasi_channel_recv(p.rx, buffer, sizeof buffer, 0), length);
        CHECK(filled(buffer, length, seed));
        send_in_place(&tx, AT, length, seed);
        CHECK_EQ(channel_drop(p.rx, deadline_after(0)), 0);
    }
    send_in_place(&tx, AT, 0, 0);
    CHECK_EQ(cwasi_channel_recv(p.rx, NULL, 0, 0), 0);
    CHECK_EQ(stats_of(p.rx).messages, 201);
    close_windows(p, &tx, &rx);
}

/* Several senders: their messages are copied, and each keeps its order. */
static void gathered(void)
{
    pair p[3];
    cwasi_channel *sources[3], *all;
    instance tx[3];
    for (int i = 0; i < 3; i++) {
        p[i] = i < 2 ? belled_pair(4096) : pipe_pair();
        sources[i] = p[i].rx;
        tx[i] = instance_with(p[i].tx, SIZE);
    }
    CHECK_EQ(cwasi_channel_gather(sources, 3, &all), 0);
    instance rx = instance_with(all, SIZE);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(attach(&tx[i], 0, AT, WINDOW), 0);
    CHECK_EQ(attach(&rx, 0, AT, WINDOW), 0);
    for (uint64_t round = 0; round < 100; round++) {
        for (uint64_t i = 0; i < 3; i++)
            send_in_place(&tx[i], AT, (uint32_t)(round * 99 + i), 3 * round + i);
        uint64_t seen = 0;
        record held[3];
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(take(&rx, 0, RECORD_AT, -1), 0);
            held[i] = record_told(&rx);
            uint64_t source = held[i].length - round * 99;
            CHECK(source < 3 && filled(rx.memory + AT + held[i].offset, held[i].length, 3 * round + source));
            seen |= UINT64_C(1) << source;
        }
        CHECK_EQ(seen, 7);
        for (int i = 0; i < 3; i++)
            CHECK_EQ(release(&rx, 0, held[i].offset), 0);
    }
    for (int i = 0; i < 3; i++) {
        free_instance(&tx[i]);
        cwasi_channel_free(p[i].tx);
    }
    free_instance(&rx);
    cwasi_channel_free(all);
}

int main(void)
{
    test_begin(30);
    arguments();
    sizes();
    ends();
    plain_receivers();
    gathered();
    hold();
    hold_copies();
    scribble_seldom();
    for (int transport = 0; transport < TRANSPORTS; transport++) {
        for (uint32_t w = 0; w < WAYS; w++) {
            store_relaxed(&way, w);
            scribble(transport);
            exchange(transport, MESSAGES, 8, 8, w);
        }
        store_relaxed(&way, SCANS);
        hold_many(transport);
        for (uint64_t seed = 0; seed < 4; seed++)
            exchange(transport, MESSAGES, 4, seed % 2 ? 6 : 8, 10 + seed);
        exchange(transport, MESSAGES, 8, 0, 20);
        exchange(transport, MESSAGES, 0, 8, 21);
    }
    return 0;
}
