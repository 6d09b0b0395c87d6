/* A hostile peer of a ring, driven by bytes: it writes into control words, frames, window words and bells, between the
 * victim's calls and in the middle of them (at the fault points). The victim gets errors out of it and nothing else: no
 * crash, no hang, no access out of bounds, no message longer than the buffer.
 */
#include "internal.h"

#include "frame.h"
#include "ring.h"
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CAPACITY = 4096, READERS = 3, RINGS = 2, SINGLES = RINGS + 2, WINDOW = 16 * PAGE, LONGEST = 9000, HELD = 8, PARKS = 6,
    STOPPED_AFTER = 400,   /* calls of a case */
};

/* One ring, as the attacker sees it; made once for each number of readers, and cleaned for each case. */
typedef struct {
    int memfd;
    unsigned readers;
    ring_control *control;
    uint8_t *data;
    ring *victim;
    int bells[READERS][2];   /* the victim's, and ours */
    unsigned bell_count;
} arena;

enum { SENDER, SENDER_OF_SEVERAL, RECEIVER, RECEIVER_AMONG_SEVERAL, GATHERER, VICTIMS };

typedef struct {
    int kind;
    cwasi_channel *channel;
    arena *arena[RINGS];
    uint32_t epoch[RINGS];   /* which of its transports each of them is */
    unsigned arenas;
    arena *next;             /* where the first of them goes next; or NULL */
    unsigned parks;          /* waits of the current call that nobody answered */
    int inside;              /* a call is being made */
    window_record held[HELD];
    unsigned holds;
    int64_t acquired;
} attack;

static arena single[SINGLES], several;
static bytes in;
static attack now;

#define MUST(condition)                                                                     \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);         \
            abort();                                                                        \
        }                                                                                   \
    } while (0)

/* ---- the arenas ---- */

static void make_arena(arena *a, unsigned readers)
{
    a->memfd = cwasi_ring_create(CAPACITY, readers);
    MUST(a->memfd >= 0);
    a->readers = readers;
    a->control = mmap(NULL, SHM_CONTROL + CAPACITY, PROT_READ | PROT_WRITE, MAP_SHARED, a->memfd, 0);
    MUST(a->control != MAP_FAILED);
    a->data = (uint8_t *)a->control + SHM_CONTROL;
}

static cwasi_channel *open_victim(arena *a, int role, unsigned reader)
{
    cwasi_channel *c;
    int own[READERS];
    memset(a->control, 0, SHM_CONTROL + CAPACITY);
    store_relaxed(&a->control->readers, a->readers);
    a->bell_count = role == CWASI_SENDER ? a->readers : 1;
    for (unsigned i = 0; i < a->bell_count; i++) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, a->bells[i]) == 0);
        own[i] = a->bells[i][0];
    }
    MUST(cwasi_channel_open_ring(a->memfd, role, reader, own, &c) == 0);
    a->victim = *(ring **)c;   /* a channel begins with its end */
    return c;
}

static void clean(arena *a)
{
    for (unsigned i = 0; i < a->bell_count; i++) {
        close(a->bells[i][0]);
        close(a->bells[i][1]);
    }
    a->bell_count = 0;
    /* Reading what nobody has written takes memory, too. */
    if (load_relaxed(&a->control->window))
        fallocate(a->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SHM_CONTROL + CAPACITY, HUGE_PAGE + SHM_WINDOW);
}

static arena *unused_arena(void)
{
    arena *a = single;
    while (a == now.arena[0] || a == now.arena[1] || a == now.next)
        a++;
    if (a->bell_count)
        clean(a);
    return a;
}

/* The victim may have gone to the next ring; then the one before is gone, or soon will be. */
static void look_where_it_is(void)
{
    if (now.next && cwasi_channel_epoch(now.channel, 0) != now.epoch[0]) {
        now.arena[0] = now.next;
        now.epoch[0]++;
        now.next = NULL;
    }
}

/* ---- the attacker ---- */

static uint64_t nasty(const ring *r)
{
    const uint64_t near[] = {
        0, r->published, r->cursor, r->seen, r->start, r->published + CAPACITY, UINT64_MAX, UINT64_C(1) << 63,
        UINT64_C(1) << 30, UINT64_C(1) << 31, r->window_end, r->window_start, WINDOW, SHM_WINDOW, PAGE, CAPACITY,
    };
    uint64_t pick = take(&in, 1);
    if (pick < 0x20)
        return take(&in, 8);
    if (pick < 0x40)
        return take(&in, 2);
    return near[pick % 16] + (pick < 0xa0 ? 0 : (uint64_t)(int8_t)take(&in, 1));
}

static void write_word(arena *a)
{
    ring_control *control = a->control;
    ring_side *side = &control->sender;
    uint64_t pick = take(&in, 1), value = nasty(a->victim);
    if (pick & 0x80)
        side = &control->reader[(pick >> 4) % 4];
    switch (pick % 10) {
    case 0: store_relaxed(&side->position, value); break;
    case 1: store_relaxed(&side->base, value); break;
    case 2: store_relaxed(&side->messages, value); break;
    case 3: store_relaxed(&side->window_position, value); break;
    case 4: store_relaxed(&side->state, (uint32_t)value % 5); break;
    case 5: store_relaxed(&side->claimed, (uint32_t)value); break;
    case 6: store_relaxed(&side->parked, (uint32_t)value % 4); break;
    case 7: store_relaxed(&side->core, (uint32_t)value); break;
    case 8: store_relaxed(&control->readers, (uint32_t)value); break;
    default: store_relaxed(&control->window, value % 4 ? WINDOW : value); break;
    }
}

static uint8_t *data_at(const arena *a, uint64_t position)
{
    return a->data + ((position - a->victim->start) & (CAPACITY - 1));
}

static void write_data(arena *a, uint64_t position, const void *from, size_t length)
{
    for (size_t i = 0; i < length; i++)
        *data_at(a, position + i) = ((const uint8_t *)from)[i];
}

/* A frame where the victim looks for the next one, mostly with the right number. */
static uint64_t write_frame(arena *a)
{
    const ring *r = a->victim;
    uint64_t pick = take(&in, 1), where = pick & 8 ? take(&in, 2) * PAGE : r->window_end;
    cwasi_frame frame = {.seq = load_relaxed(&r->base.stats.messages), .length = (uint32_t)take(&in, 2) % LONGEST};
    if ((pick & 0x70) == 0)
        frame = (cwasi_frame){nasty(r), nasty(r), (uint32_t)nasty(r), (uint32_t)nasty(r)};
    if (pick & 1)
        frame.length |= FRAME_WINDOW;
    if (pick & 4)
        frame.stamp = (uint64_t)now_ns() - take(&in, 2);
    if ((pick & 0xe0) == 0xe0)
        frame = (cwasi_frame){.seq = frame.seq + (take(&in, 1) % 8 == 1), .length = FRAME_SWITCH,
                              .epoch = now.epoch[0] + 1 + (take(&in, 1) % 8 == 1)};
    if ((pick & 6) == 6)
        where = nasty(r);
    write_data(a, r->cursor, &frame, sizeof frame);
    if (pick & 1)
        write_data(a, r->cursor + sizeof frame, &where, sizeof where);
    if (frame.length == FRAME_SWITCH)
        return sizeof frame;
    return sizeof frame + (pick & 1 ? sizeof where : frame.length);
}

/* What an honest sender would do, or nearly. */
static void publish_frame(arena *a)
{
    ring *r = a->victim;
    uint64_t end = r->cursor + ((write_frame(a) + 7) & ~UINT64_C(7));
    store_relaxed(&a->control->sender.position, MIN(end, r->published + CAPACITY));
    store_relaxed(&a->control->sender.state, OPEN);
}

static void read_all(arena *a)
{
    for (unsigned i = 0; i < a->readers; i++) {
        store_relaxed(&a->control->reader[i].position, a->victim->published);
        store_relaxed(&a->control->reader[i].window_position, a->victim->window_end);
    }
}

static void fill_up(arena *a)
{
    store_relaxed(&a->control->sender.position, a->victim->published + CAPACITY);
}

static void ring_bells(arena *a)
{
    uint64_t pick = take(&in, 1);
    int bell = a->bells[pick % a->bell_count][1];
    if (pick & 0x40)
        shutdown(bell, pick & 0x20 ? SHUT_WR : SHUT_RDWR);
    else if (send(bell, in.at, MIN((size_t)(in.end - in.at), pick & 0x3f), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return;
}

static void restore_own_word(arena *a)
{
    store_relaxed(&a->victim->own->position, a->victim->published);
}

static void strike(arena *a)
{
    uint64_t pick = take(&in, 1);
    switch (pick % 8) {
    case 0: case 1: write_word(a); break;
    case 2: write_frame(a); break;
    case 3: publish_frame(a); break;
    case 4: read_all(a); break;
    case 5: ring_bells(a); break;
    case 6: restore_own_word(a); break;
    default: write_data(a, pick / 8 * 128 + take(&in, 1), in.at, MIN((size_t)(in.end - in.at), (size_t)32)); break;
    }
}

static arena *some_arena(void)
{
    look_where_it_is();
    if (now.next && take(&in, 1) % 4 == 1)
        return now.next;
    return now.arena[now.arenas == 1 ? 0 : take(&in, 1) % now.arenas];
}

/* In the middle of the victim's calls. */
void fault_passed(const char *label)
{
    if (!now.inside)
        return;
    if (strcmp(label, "wait_parked") != 0) {
        if (take(&in, 1) % 8 == 1)
            strike(some_arena());
        return;
    }
    /* A peer that takes its time may be waited for without end; so it goes on, or is gone, or we give up. */
    if (now.parks++ >= PARKS) {
        cwasi_channel_stop(now.channel);
        return;
    }
    look_where_it_is();
    for (unsigned i = 0; i < now.arenas; i++) {
        uint64_t pick = take(&in, 1) % 8;
        if (pick == 0)
            strike(now.arena[i]);
        else if (pick == 1)
            cwasi_channel_peer_died(now.channel, (unsigned)take(&in, 1) % READERS);
        else
            (now.kind <= SENDER_OF_SEVERAL ? read_all : fill_up)(now.arena[i]);
    }
    /* Whatever came of it: no sleep here. */
    for (unsigned i = 0; i < now.arenas; i++)
        store_relaxed(&now.arena[i]->victim->own->parked, AWAKE);
}

/* ---- the victim ---- */

static void known(int64_t rc)
{
    MUST(rc >= 0 || rc == -EAGAIN || rc == -ETIMEDOUT || rc == -EPIPE || rc == -ECONNRESET || rc == -EBADMSG ||
         rc == -EMSGSIZE || rc == -ECANCELED || rc == -EINVAL || rc == -EBADF || rc == -EREMCHG || rc == -ESTALE);
}

static void check_sane(const ring *r)
{
    if (r->base.role == CWASI_SENDER) {
        MUST(r->cursor - r->seen <= CAPACITY && r->cursor - r->published <= CAPACITY);
    } else {
        MUST(r->cursor - r->published <= CAPACITY && r->seen - r->cursor <= CAPACITY);
    }
    MUST(r->window <= SHM_WINDOW && r->window % PAGE == 0);
}

static deadline patience(void)
{
    return deadline_after(take(&in, 1) % 4 ? 0 : 1000);
}

static void receive(void)
{
    uint64_t capacity = take(&in, 2) % (LONGEST + 1);
    uint8_t *to = malloc(capacity ? capacity : 1);   /* of exactly that size, so that a byte too many is seen */
    int64_t rc = channel_recv(now.channel, to, capacity, patience());
    known(rc);
    MUST(rc <= (int64_t)capacity);
    free(to);
}

static void peek(void)
{
    int64_t rc = channel_peek(now.channel, patience());
    known(rc);
    MUST(rc <= CWASI_MESSAGE_MAX);
}

static void transmit(void)
{
    static uint8_t data[LONGEST];
    uint64_t length = take(&in, 2) % LONGEST;
    known(channel_send(now.channel, data, length, patience()));
}

static void receive_in_place(void)
{
    window_record found;
    int rc = channel_find(now.channel, &found, patience());
    known(rc);
    look_where_it_is();
    if (rc != 1 || now.kind == GATHERER)
        return;
    MUST(found.offset + found.length <= now.arena[0]->victim->window && found.offset % PAGE == 0);
    if (now.holds == HELD || take(&in, 1) % 4 == 0)
        return;
    rc = channel_take(now.channel, &found);
    known(rc);
    now.held[now.holds++] = found;
}

static void release(void)
{
    if (now.holds == 0)
        return;
    known(channel_release(now.channel, channel_epoch(now.channel), now.held[0].end));
    memmove(now.held, now.held + 1, --now.holds * sizeof now.held[0]);
}

static void acquire(void)
{
    uint64_t length = take(&in, 2) * 4;
    int64_t rc = channel_acquire(now.channel, channel_epoch(now.channel), length, patience());
    known(rc);
    now.acquired = rc;
    if (rc >= 0)
        MUST((uint64_t)rc + MAX(length, 1) <= now.arena[0]->victim->window);
}

static void commit(void)
{
    uint64_t at = take(&in, 1) % 8 ? (uint64_t)now.acquired : take(&in, 1) * PAGE;
    known(channel_commit(now.channel, channel_epoch(now.channel), at, take(&in, 2) * 4));
}

static void agree(void)
{
    uint64_t agreed;
    uint32_t epoch;
    known(channel_agree(now.channel, take(&in, 1) % 4 * WINDOW, &agreed, &epoch));
}

static void attach_next(void)
{
    uint64_t pick = take(&in, 1);
    arena *a = unused_arena();
    cwasi_channel *fresh = open_victim(a, CWASI_RECEIVER, 0);
    int rc = cwasi_channel_attach(now.channel, 0, fresh, now.epoch[0] + 1 + (pick % 8 == 1));
    if (now.next)
        MUST(rc < 0);
    else if (rc == 0)
        now.next = a;
    MUST(rc == 0 || rc == -EBUSY || rc == -EINVAL || rc == -EBADF);
}

static void detach_next(void)
{
    arena *next = now.next;
    now.next = NULL;   /* nobody looks at it while it is freed */
    int rc = cwasi_channel_detach(now.channel, 0, now.epoch[0] + 1 + (take(&in, 1) % 8 == 1));
    MUST(rc == (next ? rc : -EALREADY) && (rc == 0 || rc == -EALREADY));
    if (rc < 0)
        now.next = next;
}

/* The sender goes to another ring, where it looks at what is unread in the one before. */
static void switch_sender(void)
{
    if (now.kind != SENDER)
        return;
    arena *a = unused_arena();
    cwasi_channel *fresh = open_victim(a, CWASI_SENDER, 0);
    now.next = a;
    int rc = cwasi_channel_switch(now.channel, fresh, take(&in, 1) % 4 ? 0 : 1000);
    known(rc);
    look_where_it_is();
    MUST(rc < 0 || !now.next);
    now.next = NULL;
}

static void go_on(void)
{
    if (now.kind <= SENDER_OF_SEVERAL)
        switch_sender();
    else if (now.kind == RECEIVER_AMONG_SEVERAL)
        known(cwasi_channel_detach(now.channel, 0, 1) == -EALREADY ? 0 : -EIO);
    else
        (take(&in, 1) % 4 ? attach_next : detach_next)();
}

static void wait_armed(void)
{
    int descriptors[4 * RINGS];
    int rc = cwasi_channel_arm(now.channel, descriptors, 4 * RINGS);
    known(rc);
    strike(some_arena());
    known(cwasi_channel_disarm(now.channel));
}

static void rare(void)
{
    switch (take(&in, 1) % 32) {
    case 0: cwasi_channel_stop(now.channel); break;
    case 1: cwasi_channel_peer_died(now.channel, (unsigned)take(&in, 1)); break;
    case 2: known(cwasi_channel_close(now.channel, (int)take(&in, 1) % 2, 0)); break;
    case 3: known(cwasi_channel_trim(now.channel)); break;
    case 4: case 5: case 6: case 7: case 8: case 9: case 10: case 11: go_on(); break;
    default: cwasi_channel_unread(now.channel); break;   /* any number: the peer lies */
    }
}

static void call(void)
{
    int sends = now.kind <= SENDER_OF_SEVERAL;
    uint64_t pick = take(&in, 1) % 16;
    now.inside = 1;
    now.parks = 0;
    if (pick == 0)
        rare();
    else if (pick == 1)
        agree();
    else if (pick == 2)
        known(channel_wait(&now.channel, 1, 0, deadline_after(0)));
    else if (pick == 3)
        wait_armed();
    else if (sends && pick < 10)
        transmit();
    else if (sends)
        (pick < 13 ? acquire : commit)();
    else if (pick < 8)
        receive();
    else if (pick < 9)
        known(channel_drop(now.channel, patience()));
    else if (pick < 11)
        peek();
    else
        (pick < 14 ? receive_in_place : release)();
    now.inside = 0;
    look_where_it_is();
    for (unsigned i = 0; i < now.arenas; i++)
        check_sane(now.arena[i]->victim);
}

/* ---- cases ---- */

static void open_attack(void)
{
    uint64_t pick = take(&in, 1), kind = pick % VICTIMS;
    arena *a = kind == SENDER_OF_SEVERAL || kind == RECEIVER_AMONG_SEVERAL ? &several : &single[0];
    now = (attack){.kind = (int)kind, .arena = {a, &single[1]}, .arenas = kind == GATHERER ? RINGS : 1};
    if (kind != GATHERER) {
        now.channel = open_victim(a, kind <= SENDER_OF_SEVERAL ? CWASI_SENDER : CWASI_RECEIVER, kind == RECEIVER_AMONG_SEVERAL);
        store_relaxed(&a->control->window, pick & 0x80 ? WINDOW : 0);
        return;
    }
    cwasi_channel *sources[RINGS];
    for (unsigned i = 0; i < RINGS; i++)
        sources[i] = open_victim(now.arena[i], CWASI_RECEIVER, 0);
    MUST(cwasi_channel_gather(sources, RINGS, &now.channel) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    cwasi_wait_configure(0, 0);   /* sleep at once: there is nobody to spin for */
    for (unsigned i = 0; i < SINGLES; i++)
        make_arena(&single[i], 1);
    make_arena(&several, READERS);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    in = (bytes){data, data + size};
    open_attack();
    for (int calls = 0; in.at < in.end && calls < STOPPED_AFTER; calls++) {
        if (take(&in, 1) % 3)
            strike(some_arena());
        else
            call();
    }
    cwasi_channel_free(now.channel);
    for (unsigned i = 0; i < SINGLES; i++) {
        if (single[i].bell_count)
            clean(&single[i]);
    }
    if (several.bell_count)
        clean(&several);
    return 0;
}
