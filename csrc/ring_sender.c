/* ring_sender.c - the sending side of a ring. */
#include "ring.h"
#include "fault.h"
#include "frame.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

/* Bytes after which the sender looks whether it may begin again: soon with small messages, so that they touch little
 * memory; later with large ones, since lines that the reader's core has just read are slow to write to. */
static const uint64_t KEEP = 48 * 1024, KEEP_LARGE = 1024 * 1024;
enum { SMALL = 4096 };
/* Bytes of a message after which a reader on the same core goes first. */
static const uint64_t SECTION = 256 * 1024;

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

static int await_room(ring *r, uint64_t want, deadline until)
{
    r->want = want;
    return ring_await(r, room_ready, until);
}

int ring_await_room(ring *r, uint64_t bytes, deadline until)
{
    rewind_if_empty(r, bytes <= SMALL ? KEEP : KEEP_LARGE);
    return await_room(r, ring_padded(sizeof(cwasi_frame) + bytes), until);
}

/* With more of the message to come. Who shares a core with its reader lets it go first now and then: what it has taken
 * is still in that core's cache, and the same memory serves again. */
static void publish_piece(ring *r)
{
    ring_publish(r);
    if (r->cursor - r->start < SECTION || load_relaxed(r->waiter.peer_core) != r->core)
        return;
    sched_yield();
    rewind_if_empty(r, SECTION);
}

/* Into the buffer of a reader that waits for it, if there is one here. 1, 0 or -errno. */
static int hand_over(ring *r, const cwasi_frame *frame, const void *data)
{
    if (!r->handover || frame->length < HANDED_FROM)
        return 0;
    cwasi_frame announced = *frame;
    int beside = load_relaxed(r->waiter.peer_core) == current_core();
    if (!beside && frame->length < SHARED_FROM)
        return 0;
    int rc = ring_usable(r);
    if (rc < 0 || !(beside ? handover_copy : handover_begin)(r->handover, r->cursor, data, frame->length))
        return rc;
    /* The offer says that all before is read: there is room. */
    announced.stamp |= FRAME_HANDED;
    memcpy(ring_at_cursor(r), &announced, sizeof announced);
    r->cursor += sizeof announced;
    ring_publish_whole(r);
    count_up(&r->base.stats.copied_bytes, frame->length);
    if (beside)
        sched_yield();   /* while it is in that core's cache */
    else
        handover_finish(r->handover);
    return 1;
}

int ring_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until)
{
    ring *r = (ring *)e;
    uint64_t left = frame->length;
    int streams = frame_record(frame->length) > r->map.capacity;
    FAULT_POINT(ring_send_begins);
    if (!ring_intact(r))
        return -EBADMSG;
    int rc = hand_over(r, frame, data);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    rc = ring_await_room(r, streams ? 0 : frame->length, until);
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
        if (streams && (rc = await_room(r, ring_padded(chunk), deadline_after(-1))) < 0)
            return e->torn = rc;
        FAULT_POINT(ring_send_piece_begins);
        copy_to_reader(ring_at_cursor(r), from, chunk, frame->length);
        FAULT_POINT(ring_send_piece_copied);
        r->cursor += ring_padded(chunk);
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

int ring_leave(endpoint *e, const cwasi_frame *last, deadline until)
{
    ring *r = (ring *)e;
    if (!ring_intact(r))
        return -EBADMSG;
    int rc = ring_await_room(r, 0, until);
    if (rc < 0)
        return rc;
    memcpy(ring_at_cursor(r), last, sizeof *last);
    r->cursor += sizeof *last;
    FAULT_POINT(ring_leave_written);
    ring_publish(r);
    FAULT_POINT(ring_leave_told);
    return 0;
}

/* Messages that the slowest reader has not taken, also one that has left. Only the sender can tell. */
uint64_t ring_unread(endpoint *e)
{
    ring *r = (ring *)e;
    uint64_t sent = load_relaxed(&r->base.stats.messages), most = 0;
    for (unsigned i = 0; i < r->peers && e->role == CWASI_SENDER; i++) {
        uint64_t unread = sent - load_relaxed(&r->peer[i].side->messages);
        most = MAX(most, (int64_t)unread < 0 ? 0 : unread);
    }
    return most;
}

/* A reader that goes on elsewhere has finished here before; if none has that could, nobody goes on. */
int ring_outcome(endpoint *e)
{
    ring *r = (ring *)e;
    int rc = -ECONNRESET;
    for (unsigned i = 0; i < r->peers; i++) {
        /* Pairs with the store in ring_finish. */
        uint32_t state = load_ordered(&r->peer[i].side->state);
        if (state == OPEN)
            return 0;
        rc = state == FINISHED ? 1 : rc;
    }
    return rc;
}

/* Gives the pages of an empty ring back. */
int ring_trim(endpoint *e)
{
    ring *r = (ring *)e;
    if (e->role != CWASI_SENDER || !ring_intact(r))
        return 0;   /* what a forked copy of this end has sent since would be lost */
    refresh_readers(r);
    if (r->seen != r->cursor || r->published != r->cursor)
        return 0;
    return madvise(r->map.data, r->map.capacity, MADV_REMOVE) < 0 ? -errno : 1;
}
