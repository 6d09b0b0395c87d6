/* ring.c - a stream of frames in sealed shared memory, from one sender to one or several readers, each of which gets
 * every frame.
 *
 * Positions count bytes since the start and never wrap in practice (2^64). Each side keeps its own position in private
 * memory and reads the others' only when what it last saw does not suffice. Everything read from the control words is
 * read once and checked: the peer may be hostile, and must get no further than an error here.
 * A message longer than the ring streams through it in chunks. When the ring is empty the sender may begin again at
 * its start, so that a channel with little in it touches little memory, and that is in the caches.
 */
#include "ring.h"
#include "fault.h"
#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Large messages are published piece by piece, so that the receiver copies out while the sender still copies in.
 * Never more than half a ring: a piece and the header before it must fit. */
static const uint64_t CHUNK = 16 * 1024;
/* Bytes after which the sender looks whether it may begin again: soon with small messages, so that they touch little
 * memory; later with large ones, since lines that the reader's core has just read are slow to write to. */
static const uint64_t KEEP = 48 * 1024, KEEP_LARGE = 1024 * 1024;
enum { SMALL = 4096 };
/* Bytes of a message after which a reader on the same core goes first. */
static const uint64_t SECTION = 256 * 1024;

static uint64_t padded(uint64_t n)
{
    return (n + 7) & ~UINT64_C(7);
}

/* ---- sender ---- */

static int room_now(const ring *r)
{
    return r->map.capacity - (r->cursor - r->seen) >= r->want;
}

/* A reader that has ended, or lies, holds up the others no longer. */
void ring_drop_reader(ring *r, ring_peer *peer, int error)
{
    peer->gone = error;
    if (error != -EPIPE)
        count_up(&r->base.stats.lost_peers, 1);
}

/* 0 while a reader is left, else why none is. */
static int look_for_readers(ring *r)
{
    int why = -EPIPE, left = 0;
    for (unsigned i = 0; i < r->peers; i++) {
        ring_peer *peer = &r->peer[i];
        if (!peer->gone) {
            uint32_t died = load_ordered(&peer->died);
            /* Pairs with the store in ring_finish; ordered, like position, with the parking in wait_until. After died:
             * who finished and then ended has finished. */
            uint32_t state = load_ordered(&peer->side->state);
            if (state != OPEN || died)
                ring_drop_reader(r, peer, state == FINISHED ? -EPIPE : -ECONNRESET);
        }
        left += !peer->gone;
        if (peer->gone && why == -EPIPE)
            why = peer->gone;
    }
    return left ? 0 : why;
}

/* Brings r->seen up to the slowest reader. */
static void refresh_readers(ring *r)
{
    uint64_t behind = 0;
    for (unsigned i = 0; i < r->peers; i++) {
        ring_peer *peer = &r->peer[i];
        if (peer->gone)
            continue;
        /* Pairs with publish() of the reader: it has copied out what lies below its position. */
        uint64_t position = load_ordered(&peer->side->position);
        if (position - peer->seen > r->published - peer->seen) {
            ring_drop_reader(r, peer, -EBADMSG);   /* it went backwards, or beyond what we have published */
            continue;
        }
        peer->seen = position;
        if (r->published - position >= behind) {
            behind = r->published - position;
            r->waiter.peer_core = &peer->side->core;
        }
    }
    r->seen = r->published - behind;
}

int ring_usable(ring *r)
{
    int stop = endpoint_stopped(&r->base);
    return stop ? stop : look_for_readers(r);
}

/* 1: there is room; 0: not yet; else -errno. */
static int look_for_room(ring *r)
{
    int rc = ring_usable(r);
    if (rc < 0)
        return rc;
    if (room_now(r))
        return 1;
    refresh_readers(r);
    rc = look_for_readers(r);
    return rc < 0 ? rc : room_now(r);
}

static int room_ready(void *arg)
{
    ring *r = arg;
    return (r->result = look_for_room(r)) != 0;
}

/* Begins again at the start of the data when all is read. A reader looks at base only when it finds something new, and
 * as long as it has not read that, we do not come here. */
static void rewind_if_empty(ring *r, uint64_t after)
{
    if (r->cursor - r->start < after || (int64_t)(r->cursor - r->rewind_at) < 0)
        return;
    r->rewind_at = r->cursor + KEEP;
    refresh_readers(r);
    if (r->seen != r->cursor)
        return;
    r->start = r->cursor;
    /* Pairs with refresh_sender: made visible by the next publication. */
    store_relaxed(&r->own->base, r->start);
    FAULT_POINT(ring_rewound);
}

/* ---- receiver ---- */

static int data_now(const ring *r)
{
    return r->seen - r->cursor >= r->want;
}

static int refresh_sender(ring *r)
{
    ring_side *sender = r->peer[0].side;
    /* Pairs with publish() of the sender: what lies below its position is written. */
    uint64_t head = load_ordered(&sender->position);
    if (head - r->published > r->map.capacity || head - r->published < r->seen - r->published)
        return -EBADMSG;   /* more than the ring holds, or it went backwards */
    if (r->seen == r->cursor && head != r->seen)
        r->start = load_relaxed(&sender->base) & ~UINT64_C(7);
    r->seen = head;
    return data_now(r);
}

static int look_for_data(ring *r)
{
    int stop = endpoint_stopped(&r->base);
    if (stop)
        return stop;
    if (data_now(r))
        return 1;
    /* Both ends are read before the position: what the sender published before is not missed. */
    uint32_t died = load_ordered(&r->peer[0].died);
    uint32_t state = load_ordered(&r->peer[0].side->state);
    int rc = refresh_sender(r);
    if (rc != 0 || (state == OPEN && !died))
        return rc;
    return state == FINISHED && r->seen == r->cursor ? -EPIPE : -ECONNRESET;
}

static int data_ready(void *arg)
{
    ring *r = arg;
    return (r->result = look_for_data(r)) != 0;
}

static int ring_look(endpoint *e)
{
    ring *r = (ring *)e;
    r->want = sizeof(cwasi_frame);
    return look_for_data(r) != 0;
}

static int ring_arm(endpoint *e, struct pollfd *fds)
{
    ring *r = (ring *)e;
    /* Pairs with wake_parked in publish(), as the parking on a futex does. */
    store_ordered(&r->own->parked, ON_BELL);
    FAULT_POINT(ring_armed);
    *fds = (struct pollfd){.fd = r->peer[0].bell, .events = POLLIN};
    return ring_look(e);
}

static void ring_disarm(endpoint *e)
{
    ring *r = (ring *)e;
    FAULT_POINT(ring_disarm_begins);
    store_relaxed(&r->own->parked, AWAKE);
    if (bell_quiet(r->peer[0].bell) < 0)
        store_ordered(&r->peer[0].died, 1);
}

/* ---- both ---- */

int ring_await(ring *r, int (*ready)(void *), deadline until)
{
    if (!ready(r)) {
        count_up(&r->base.stats.waits, 1);
        int rc = wait_until(&r->waiter, ready, r, until);
        if (rc < 0)
            return rc;
    }
    return r->result < 0 ? r->result : 0;
}

static int await(ring *r, uint64_t want, deadline until)
{
    r->want = want;
    return ring_await(r, r->base.role == CWASI_SENDER ? room_ready : data_ready, until);
}

int ring_await_room(ring *r, uint64_t bytes, deadline until)
{
    rewind_if_empty(r, bytes <= SMALL ? KEEP : KEEP_LARGE);
    return await(r, padded(sizeof(cwasi_frame) + bytes), until);
}

/* Tells the peer on which core we are: waiting for a neighbour on the same one wants another strategy. */
static void publish_core(ring *r)
{
    uint32_t core = current_core();
    if (core == r->core)
        return;
    r->core = core;
    store_relaxed(&r->own->core, core);
}

static void publish(ring *r)
{
    publish_core(r);
    r->published = r->cursor;
    /* Pairs with refresh_sender and refresh_readers, and (ordered) with the parking in wait_until and ring_arm. */
    store_ordered(&r->own->position, r->cursor);
    FAULT_POINT(ring_position_told);
    for (unsigned i = 0; i < r->peers; i++)
        count_up(&r->base.stats.wakes, (uint64_t)wake_parked(&r->peer[i].side->parked, r->peer[i].bell));
}

/* With more of the message to come. Who shares a core with its reader lets it go first now and then: what it has taken
 * is still in that core's cache, and the same memory serves again. */
static void publish_piece(ring *r)
{
    publish(r);
    if (r->cursor - r->start < SECTION || load_relaxed(r->waiter.peer_core) != r->core)
        return;
    sched_yield();
    rewind_if_empty(r, SECTION);
}

void ring_publish_whole(ring *r)
{
    r->messages++;
    /* Not by the sender: the line that its readers look at all the time shall change once a message.
     * Pairs with ring_unread. */
    if (r->base.role == CWASI_RECEIVER)
        store_relaxed(&r->own->messages, r->messages);
    FAULT_POINT(ring_message_counted);
    publish(r);
}

uint8_t *ring_at_cursor(const ring *r)
{
    return r->map.data + ((r->cursor - r->start) & (r->map.capacity - 1));
}

/* Our own word in shared memory must say what we wrote there; else a forked copy of this end was used too, or the
 * peer writes where it must not. */
int ring_intact(const ring *r)
{
    return load_relaxed(&r->own->position) == r->published;
}

static int ring_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until)
{
    ring *r = (ring *)e;
    uint64_t left = frame->length;
    int streams = frame_record(frame->length) > r->map.capacity;
    FAULT_POINT(ring_send_begins);
    if (!ring_intact(r))
        return -EBADMSG;
    int rc = ring_await_room(r, streams ? 0 : frame->length, until);
    if (rc < 0)
        return rc;
    if (streams && until.at == 0)
        return -EAGAIN;   /* cannot end without waiting for the receiver */
    FAULT_POINT(ring_send_has_room);
    memcpy(ring_at_cursor(r), frame, sizeof *frame);
    FAULT_POINT(ring_send_header);
    r->cursor += sizeof *frame;
    for (const uint8_t *from = data; left > 0;) {
        uint64_t chunk = MIN(left, r->chunk);
        if (streams && (rc = await(r, padded(chunk), deadline_after(-1))) < 0)
            return e->torn = rc;
        FAULT_POINT(ring_send_piece_begins);
        copy_to_reader(ring_at_cursor(r), from, chunk, frame->length);
        FAULT_POINT(ring_send_piece_copied);
        r->cursor += padded(chunk);
        from += chunk;
        left -= chunk;
        if (left > 0)
            publish_piece(r);
        FAULT_POINT(ring_send_piece_ends);
    }
    ring_publish_whole(r);
    FAULT_POINT(ring_send_ends);
    count_up(&e->stats.copied_bytes, frame->length);
    return 0;
}

static int ring_peek(endpoint *e, cwasi_frame *frame, deadline until)
{
    ring *r = (ring *)e;
    FAULT_POINT(ring_peek_begins);
    if (!ring_intact(r))
        return -EBADMSG;
    int rc = await(r, sizeof *frame, until);
    if (rc < 0)
        return rc;
    FAULT_POINT(ring_peek_has_data);
    /* Once, into our own memory: the sender could change it between the check and the use. */
    const volatile cwasi_frame *shared = (const volatile cwasi_frame *)ring_at_cursor(r);
    *frame = (cwasi_frame){shared->seq, shared->stamp, shared->length, shared->epoch};
    r->in_window = (frame->length & FRAME_WINDOW) != 0;
    frame->length &= ~FRAME_WINDOW;
    FAULT_POINT(ring_peek_read);
    if (frame_check(frame) < 0)
        return -EBADMSG;
    return r->in_window ? ring_window_peek(r, frame) : 0;
}

static int ring_take(endpoint *e, const cwasi_frame *frame, void *data)
{
    ring *r = (ring *)e;
    uint64_t left = frame->length;
    if (r->in_window)
        return ring_window_copy(r, frame, data);
    FAULT_POINT(ring_take_begins);
    r->cursor += sizeof *frame;
    for (uint8_t *to = data; left > 0;) {
        uint64_t chunk = MIN(left, r->chunk);
        int rc = await(r, padded(chunk), deadline_after(-1));
        if (rc < 0)
            return e->torn = rc == -EPIPE ? -ECONNRESET : rc;
        FAULT_POINT(ring_take_piece_begins);
        if (to) {
            memcpy(to, ring_at_cursor(r), chunk);
            to += chunk;
        }
        FAULT_POINT(ring_take_piece_copied);
        r->cursor += padded(chunk);
        left -= chunk;
        if (left > 0)
            publish(r);
        FAULT_POINT(ring_take_piece_ends);
    }
    ring_publish_whole(r);
    FAULT_POINT(ring_take_ends);
    count_up(&e->stats.copied_bytes, data ? frame->length : 0);
    return 0;
}

static void ring_wake(endpoint *e)
{
    ring *r = (ring *)e;
    wait_wake(&r->own->parked);
    for (unsigned i = 0; i < r->peers; i++)
        bell_wake_self(r->peer[i].bell);
}

static void ring_peer_died(endpoint *e, unsigned peer)
{
    ring *r = (ring *)e;
    if (peer >= r->peers)
        return;
    /* Pairs with look_for_readers and look_for_data. */
    store_ordered(&r->peer[peer].died, 1);
    wait_wake(&r->own->parked);
    if (e->role == CWASI_RECEIVER)
        bell_wake_self(r->peer[peer].bell);
}

static int ring_bell(const endpoint *e, unsigned peer)
{
    const ring *r = (const ring *)e;
    return peer < r->peers ? r->peer[peer].bell : -1;
}

/* Messages that the slowest reader has not taken, or one that died; who has finished wants no more. Only the sender can
 * tell. */
static uint64_t ring_unread(endpoint *e)
{
    ring *r = (ring *)e;
    uint64_t sent = load_relaxed(&r->base.stats.messages), most = 0;
    for (unsigned i = 0; i < r->peers && e->role == CWASI_SENDER; i++) {
        uint64_t unread = sent - load_relaxed(&r->peer[i].side->messages);
        if (load_ordered(&r->peer[i].side->state) == FINISHED)
            continue;
        most = MAX(most, (int64_t)unread < 0 ? 0 : unread);
    }
    return most;
}

/* Gives the pages of an empty ring back. */
static int ring_trim(endpoint *e)
{
    ring *r = (ring *)e;
    if (e->role != CWASI_SENDER || !ring_intact(r))
        return 0;   /* what a forked copy of this end has sent since would be lost */
    refresh_readers(r);
    if (r->seen != r->cursor || r->published != r->cursor)
        return 0;
    return madvise(r->map.data, r->map.capacity, MADV_REMOVE) < 0 ? -errno : 1;
}

static int ring_finish(endpoint *e, int failed, deadline until)
{
    (void)until;
    ring *r = (ring *)e;
    FAULT_POINT(ring_finish_begins);
    /* Pairs with look_for_data and look_for_readers. */
    store_ordered(&r->own->state, failed ? FAILED : FINISHED);
    FAULT_POINT(ring_finish_told);
    for (unsigned i = 0; i < r->peers; i++) {
        wait_wake(&r->peer[i].side->parked);
        bell_hang_up(r->peer[i].bell);   /* how the peer sleeps, we no longer know */
    }
    FAULT_POINT(ring_finish_woke);
    ring_wake(e);
    FAULT_POINT(ring_finish_ends);
    return 0;
}

static void ring_destroy(endpoint *e)
{
    ring *r = (ring *)e;
    for (unsigned i = 0; i < r->peers; i++) {
        if (r->peer[i].bell >= 0)
            close(r->peer[i].bell);
    }
    if (r->memfd >= 0)
        close(r->memfd);
    ring_window_close(r);
    shm_detach(&r->map);
    free(e);
}

static const endpoint_ops RING = {
    .send = ring_send, .peek = ring_peek, .take = ring_take,
    .look = ring_look, .arm = ring_arm, .disarm = ring_disarm,
    .wake = ring_wake, .peer_died = ring_peer_died, .bell = ring_bell,
    .unread = ring_unread, .trim = ring_trim,
    .finish = ring_finish, .destroy = ring_destroy, .windows = &RING_WINDOWS,
};

int cwasi_ring_create(uint64_t capacity, unsigned readers)
{
    if (readers == 0 || readers > CWASI_READERS_MAX)
        return -EINVAL;
    int fd = shm_create(capacity);
    if (fd < 0)
        return fd;
    uint32_t count = readers;
    if (pwrite(fd, &count, sizeof count, offsetof(ring_control, readers)) != (ssize_t)sizeof count) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

/* Duplicates of the caller's bells; who has none can wait in this end alone. */
static int keep_bells(ring *r, const int *bells)
{
    for (unsigned i = 0; bells && i < r->peers; i++) {
        r->peer[i].bell = fcntl(bells[i], F_DUPFD_CLOEXEC, 0);
        if (r->peer[i].bell < 0)
            return -errno;
    }
    r->base.descriptors = bells && r->base.role == CWASI_RECEIVER ? 1 : 0;
    return 0;
}

static void meet(ring *r, ring_control *control, unsigned reader)
{
    int sends = r->base.role == CWASI_SENDER;
    r->control = control;
    r->own = sends ? &control->sender : &control->reader[reader];
    for (unsigned i = 0; i < r->peers; i++)
        r->peer[i] = (ring_peer){.side = sends ? &control->reader[i] : &control->sender, .bell = -1};
    r->waiter = (waiter){
        .parked = &r->own->parked,
        .peer_core = &r->peer[0].side->core,
        .parks = &r->base.stats.parks,
    };
    r->chunk = MIN(CHUNK, r->map.capacity / 2);
}

int ring_open(int memfd, int role, unsigned reader, const int *bells, endpoint **out)
{
    shm_map map;
    int rc = shm_attach(memfd, &map);
    if (rc < 0)
        return rc;
    ring_control *control = (ring_control *)map.control;
    uint32_t readers = load_relaxed(&control->readers);
    unsigned peers = role == CWASI_SENDER ? readers : 1;
    if (readers == 0 || readers > CWASI_READERS_MAX || (role == CWASI_RECEIVER && reader >= readers))
        rc = readers == 0 || readers > CWASI_READERS_MAX ? -EBADMSG : -EINVAL;
    ring *r = rc < 0 ? NULL : calloc(1, sizeof *r + peers * sizeof r->peer[0]);
    if (!r) {
        shm_detach(&map);
        return rc < 0 ? rc : -ENOMEM;
    }
    endpoint_init(&r->base, &RING, role);
    r->map = map;
    r->peers = peers;
    meet(r, control, reader);
    r->memfd = fcntl(memfd, F_DUPFD_CLOEXEC, 0);   /* windows are mapped from it */
    rc = r->memfd < 0 ? -errno : keep_bells(r, bells);
    if (rc == 0 && !try_claim(&r->own->claimed, 0, 1))
        rc = -EBUSY;
    if (rc < 0) {
        ring_destroy(&r->base);
        return rc;
    }
    *out = &r->base;
    return 0;
}
