/* ring.c - a single-producer, single-consumer stream of frames in sealed shared memory.
 *
 * head and tail count bytes since the start and never wrap in practice (2^64). Each side keeps its own position in
 * private memory and reads the peer's only when what it last saw does not suffice. Everything read from the control
 * page is read once and checked: the peer may be hostile, and must get no further than an error here.
 * A message longer than the ring streams through it in chunks.
 */
#include "internal.h"
#include "frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Large messages are published piece by piece, so that the receiver copies out while the sender still copies in.
 * Never more than half a ring: a piece and the header before it must fit. */
static const uint64_t CHUNK = 16 * 1024;

enum { OPEN = 0, FINISHED = 1, FAILED = 2 };   /* values of sender_state and receiver_state */

/* Each line has one writer, and the words that are rarely written stand apart from those that change with every
 * message. 128: neighbouring lines are fetched in pairs. */
typedef struct {
    _Alignas(128) atomic_u64 head;
    _Alignas(128) atomic_u64 tail;
    _Alignas(128) atomic_u32 sender_state;
    atomic_u32 sender_claimed;
    atomic_u32 sender_parked;
    atomic_u32 sender_core;      /* where it ran last, from 1 on */
    _Alignas(128) atomic_u32 receiver_state;
    atomic_u32 receiver_claimed;
    atomic_u32 receiver_parked;
    atomic_u32 receiver_core;
} ring_control;

_Static_assert(sizeof(ring_control) <= 4096, "the control page holds it");

typedef struct {
    endpoint base;
    shm_map map;
    ring_control *control;
    uint64_t published;   /* what our head or tail says */
    uint64_t cursor;      /* how far we have written or read; ahead of published inside a message */
    uint64_t seen;        /* the last checked value of the peer's tail or head */
    uint32_t core;        /* what we have published of it */
    uint64_t chunk;       /* bytes in a piece of a large message */
    uint64_t want;        /* bytes of room or of data that the current wait is for */
    int result;           /* of the last look */
} ring;

static uint64_t padded(uint64_t n)
{
    return (n + 7) & ~UINT64_C(7);
}

/* ---- sender ---- */

static int room_now(const ring *r)
{
    return r->map.capacity - (r->cursor - r->seen) >= r->want;
}

/* 1: there is room; 0: not yet; else -errno. */
static int look_for_room(ring *r)
{
    int stop = endpoint_cancelled(&r->base);
    if (stop)
        return stop;
    /* Pairs with the store in ring_finish; ordered, like tail, with the parking in wait_until. */
    uint32_t state = load_ordered(&r->control->receiver_state);
    if (state != OPEN)
        return state == FINISHED ? -EPIPE : -ECONNRESET;
    if (room_now(r))
        return 1;
    /* Pairs with publish() of the receiver: it has copied out what lies below tail. */
    uint64_t tail = load_ordered(&r->control->tail);
    if (tail - r->seen > r->published - r->seen)
        return -EBADMSG;   /* it went backwards, or beyond what we have published */
    r->seen = tail;
    return room_now(r);
}

static int room_ready(void *arg)
{
    ring *r = arg;
    return (r->result = look_for_room(r)) != 0;
}

/* ---- receiver ---- */

static int data_now(const ring *r)
{
    return r->seen - r->cursor >= r->want;
}

static int refresh_head(ring *r)
{
    /* Pairs with publish() of the sender: what lies below head is written. */
    uint64_t head = load_ordered(&r->control->head);
    if (head - r->published > r->map.capacity || head - r->published < r->seen - r->published)
        return -EBADMSG;   /* more than the ring holds, or it went backwards */
    r->seen = head;
    return data_now(r);
}

static int look_for_data(ring *r)
{
    int stop = endpoint_stopped(&r->base);
    if (stop == -ECANCELED)
        return stop;
    if (data_now(r))
        return 1;
    /* The end is read before head: what the sender published before it ended is not missed. */
    uint32_t state = load_ordered(&r->control->sender_state);
    int rc = refresh_head(r);
    if (rc != 0 || (state == OPEN && !stop))
        return rc;
    return state == FINISHED && r->seen == r->cursor ? -EPIPE : -ECONNRESET;
}

static int data_ready(void *arg)
{
    ring *r = arg;
    return (r->result = look_for_data(r)) != 0;
}

/* ---- both ---- */

static int await(ring *r, uint64_t want, deadline until)
{
    int sends = r->base.role == CWASI_SENDER;
    atomic_u32 *parked = sends ? &r->control->sender_parked : &r->control->receiver_parked;
    const atomic_u32 *peer_core = sends ? &r->control->receiver_core : &r->control->sender_core;
    int (*ready)(void *) = sends ? room_ready : data_ready;
    r->want = want;
    if (!ready(r)) {
        count_up(&r->base.stats.waits, 1);
        int rc = wait_until(parked, ready, r, until, peer_core, &r->base.stats.parks);
        if (rc < 0)
            return rc;
    }
    return r->result < 0 ? r->result : 0;
}

/* Tells the peer on which core we are: waiting for a neighbour on the same one wants another strategy. */
static void publish_core(ring *r)
{
    uint32_t core = current_core();
    if (core == r->core)
        return;
    r->core = core;
    store_relaxed(r->base.role == CWASI_SENDER ? &r->control->sender_core : &r->control->receiver_core, core);
}

static void publish(ring *r)
{
    int sends = r->base.role == CWASI_SENDER;
    publish_core(r);
    r->published = r->cursor;
    /* Pairs with refresh_head and look_for_room, and (ordered) with the parking in wait_until. */
    store_ordered(sends ? &r->control->head : &r->control->tail, r->cursor);
    int woken = wake_parked(sends ? &r->control->receiver_parked : &r->control->sender_parked);
    count_up(&r->base.stats.wakes, (uint64_t)woken);
}

static uint8_t *at_cursor(const ring *r)
{
    return r->map.data + (r->cursor & (r->map.capacity - 1));
}

/* Our own word in shared memory must say what we wrote there; else a forked copy of this end was used too, or the
 * peer writes where it must not. */
static int own_word_intact(const ring *r)
{
    return load_relaxed(r->base.role == CWASI_SENDER ? &r->control->head : &r->control->tail) == r->published;
}

static int ring_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until)
{
    ring *r = (ring *)e;
    uint64_t record = frame_record(frame->length), left = frame->length;
    int streams = record > r->map.capacity;
    if (!own_word_intact(r))
        return -EBADMSG;
    int rc = await(r, streams ? sizeof *frame : record, until);
    if (rc < 0)
        return rc;
    if (streams && until.at == 0)
        return -EAGAIN;   /* cannot end without waiting for the receiver */
    memcpy(at_cursor(r), frame, sizeof *frame);
    r->cursor += sizeof *frame;
    for (const uint8_t *from = data; left > 0;) {
        uint64_t chunk = MIN(left, r->chunk);
        if (streams && (rc = await(r, padded(chunk), deadline_after(-1))) < 0)
            return e->torn = rc;
        memcpy(at_cursor(r), from, chunk);
        r->cursor += padded(chunk);
        from += chunk;
        left -= chunk;
        if (left > 0)
            publish(r);
    }
    publish(r);
    count_up(&e->stats.copied_bytes, frame->length);
    return 0;
}

static int ring_peek(endpoint *e, cwasi_frame *frame, deadline until)
{
    ring *r = (ring *)e;
    if (!own_word_intact(r))
        return -EBADMSG;
    int rc = await(r, sizeof *frame, until);
    if (rc < 0)
        return rc;
    /* Once, into our own memory: the sender could change it between the check and the use. */
    const volatile cwasi_frame *shared = (const volatile cwasi_frame *)at_cursor(r);
    *frame = (cwasi_frame){shared->seq, shared->stamp, shared->length, shared->epoch};
    return frame_check(frame) < 0 ? -EBADMSG : 0;
}

static int ring_take(endpoint *e, const cwasi_frame *frame, void *data)
{
    ring *r = (ring *)e;
    uint64_t left = frame->length;
    r->cursor += sizeof *frame;
    for (uint8_t *to = data; left > 0;) {
        uint64_t chunk = MIN(left, r->chunk);
        int rc = await(r, padded(chunk), deadline_after(-1));
        if (rc < 0)
            return e->torn = rc == -EPIPE ? -ECONNRESET : rc;
        if (to) {
            memcpy(to, at_cursor(r), chunk);
            to += chunk;
        }
        r->cursor += padded(chunk);
        left -= chunk;
        if (left > 0)
            publish(r);
    }
    publish(r);
    count_up(&e->stats.copied_bytes, data ? frame->length : 0);
    return 0;
}

static void ring_wake(endpoint *e)
{
    ring *r = (ring *)e;
    /* Both words: our own for the thread inside, the peer's because its state of us may have changed. */
    wait_wake(&r->control->sender_parked);
    wait_wake(&r->control->receiver_parked);
}

static int ring_finish(endpoint *e, int failed, deadline until)
{
    (void)until;
    ring *r = (ring *)e;
    /* Pairs with look_for_data and look_for_room. */
    store_ordered(e->role == CWASI_SENDER ? &r->control->sender_state : &r->control->receiver_state,
                  failed ? FAILED : FINISHED);
    ring_wake(e);
    return 0;
}

static void ring_destroy(endpoint *e)
{
    shm_detach(&((ring *)e)->map);
    free(e);
}

static const endpoint_ops RING = {ring_send, ring_peek, ring_take, ring_wake, ring_finish, ring_destroy};

int cwasi_ring_create(uint64_t capacity)
{
    return shm_create(capacity);
}

int ring_open(int memfd, int role, endpoint **out)
{
    ring *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    endpoint_init(&r->base, &RING, role);
    int rc = shm_attach(memfd, &r->map);
    if (rc < 0) {
        free(r);
        return rc;
    }
    r->control = (ring_control *)r->map.control;
    r->chunk = MIN(CHUNK, r->map.capacity / 2);
    atomic_u32 *claimed = role == CWASI_SENDER ? &r->control->sender_claimed : &r->control->receiver_claimed;
    if (!try_claim(claimed, 0, 1)) {
        ring_destroy(&r->base);
        return -EBUSY;
    }
    *out = &r->base;
    return 0;
}
