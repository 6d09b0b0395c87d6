/* ring_reader.c - a receiving side of a ring. */
#include "ring.h"
#include "fault.h"
#include "frame.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

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

int ring_look(endpoint *e)
{
    ring *r = (ring *)e;
    r->want = sizeof(cwasi_frame);
    return look_for_data(r) != 0;
}

int ring_arm(endpoint *e, struct pollfd *fds)
{
    ring *r = (ring *)e;
    /* Pairs with wake_parked in publish(), as the parking on a futex does. */
    store_ordered(&r->own->parked, ON_BELL);
    FAULT_POINT(ring_armed);
    *fds = (struct pollfd){.fd = r->peer[0].bell, .events = POLLIN};
    return ring_look(e);
}

void ring_disarm(endpoint *e)
{
    ring *r = (ring *)e;
    FAULT_POINT(ring_disarm_begins);
    store_relaxed(&r->own->parked, AWAKE);
    if (bell_quiet(r->peer[0].bell) < 0)
        store_ordered(&r->peer[0].died, 1);
}

static int await_data(ring *r, uint64_t want, deadline until)
{
    r->want = want;
    return ring_await(r, data_ready, until);
}

int ring_peek(endpoint *e, cwasi_frame *frame, deadline until)
{
    ring *r = (ring *)e;
    FAULT_POINT(ring_peek_begins);
    if (!ring_intact(r))
        return -EBADMSG;
    int rc = await_data(r, sizeof *frame, until);
    if (rc < 0)
        return rc;
    FAULT_POINT(ring_peek_has_data);
    /* Once, into our own memory: the sender could change it between the check and the use. */
    const volatile cwasi_frame *shared = (const volatile cwasi_frame *)ring_at_cursor(r);
    *frame = (cwasi_frame){shared->seq, shared->stamp, shared->length, shared->epoch};
    r->handed = (frame->stamp & FRAME_HANDED) != 0;
    frame->stamp &= ~FRAME_HANDED;
    if (r->handed && !handover_has(r->handover, r->cursor))
        return -EBADMSG;
    if (frame->length == FRAME_SWITCH)
        return -EREMCHG;
    r->in_window = (frame->length & FRAME_WINDOW) != 0;
    frame->length &= ~FRAME_WINDOW;
    FAULT_POINT(ring_peek_read);
    if (frame_check(frame) < 0)
        return -EBADMSG;
    return r->in_window ? ring_window_peek(r, frame) : 0;
}

int ring_take(endpoint *e, const cwasi_frame *frame, void *data)
{
    ring *r = (ring *)e;
    uint64_t left = frame->length;
    if (r->in_window)
        return ring_window_copy(r, frame, data);
    FAULT_POINT(ring_take_begins);
    r->cursor += sizeof *frame;
    if (r->handed)
        left = 0;
    for (uint8_t *to = data; left > 0;) {
        uint64_t chunk = MIN(left, r->chunk);
        int rc = await_data(r, ring_padded(chunk), deadline_after(-1));
        if (rc < 0)
            return e->torn = rc == -EPIPE ? -ECONNRESET : rc;
        FAULT_POINT(ring_take_piece_begins);
        if (to) {
            copy_here(to, ring_at_cursor(r), chunk);
            to += chunk;
        }
        FAULT_POINT(ring_take_piece_copied);
        r->cursor += ring_padded(chunk);
        left -= chunk;
        if (left > 0)
            ring_publish(r);
        FAULT_POINT(ring_take_piece_ends);
    }
    ring_publish_whole(r);
    FAULT_POINT(ring_take_ends);
    count_up(&e->stats.copied_bytes, data && !r->handed ? frame->length : 0);
    return 0;
}

int ring_offer(endpoint *e, void *data, uint64_t capacity)
{
    ring *r = (ring *)e;
    if (!r->handover || capacity < HANDED_FROM || r->seen != r->cursor)
        return 0;
    handover_offer(r->handover, r->cursor, data, capacity);
    return 1;
}

int ring_withdraw(endpoint *e)
{
    return handover_withdraw(((ring *)e)->handover);
}
