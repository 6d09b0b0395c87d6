/* ring_window.c - the window area of a ring: payloads that are written and read where they stand.
 *
 * Positions count bytes since the start, as those of the ring do; a record stands at its position modulo the size of
 * the area, never runs over the end of it, and begins and ends with a page of its own, so that what a reader does to its
 * private copy of a page touches one record only. The frame that announces a record goes through the ring, and so do
 * order, waiting and the end of the channel. The area holds payloads and nothing else: the guests can write to it.
 */
#include "ring.h"
#include "fault.h"
#include "frame.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { ANNOUNCED = sizeof(uint64_t) };

/* Bytes after which the records of two cores begin at the start again. */
static const uint64_t KEEP = 256 * 1024;
/* Bytes that may be held at once, if two records are not more, while the readers go on; and how long we wait for that,
 * in nanoseconds a byte of the next record. */
static const uint64_t AHEAD = 2 * 1024 * 1024, PATIENCE = 2;
/* From here on no positions are skipped, so that they do not wrap around either. A window of 1 GiB comes here in 2^33
 * messages, another later. */
static const uint64_t FAR = UINT64_C(1) << 63;

/* The size that was agreed on; 0 while there is none. Read once: the peer could change it later. */
static uint64_t window_of(ring *r)
{
    if (r->window == 0) {
        uint64_t size = load_relaxed(&r->control->window);
        if (size <= SHM_WINDOW && size % PAGE == 0)
            r->window = size;
    }
    return r->window;
}

static int ring_agree(endpoint *e, uint64_t wanted, uint64_t *agreed)
{
    ring *r = (ring *)e;
    if (wanted == 0 || wanted > SHM_WINDOW || wanted % PAGE != 0)
        return -EINVAL;
    set_once(&r->control->window, wanted);
    *agreed = window_of(r);
    return *agreed ? 0 : -EBADMSG;
}

static int ring_file(const endpoint *e, uint64_t *offset)
{
    const ring *r = (const ring *)e;
    *offset = r->map.window;
    return r->memfd;
}

/* ---- sender ---- */

/* Where a record of that size would begin: not so that it runs over the end. */
static uint64_t next_start(const ring *r, uint64_t size)
{
    uint64_t offset = r->window_end % r->window;
    return offset + size <= r->window ? r->window_end : r->window_end + (r->window - offset);
}

/* Nothing is held: the next record may begin at the start again, in memory that the caches know. On another core than
 * the reader's only after some others, since lines that it has just read are slow to write to. What is skipped before a
 * record must not count as held: a receiver that has to hold two would wait for the second, and we for room. */
static void begin_again(ring *r, uint64_t size)
{
    uint64_t offset = r->window_end % r->window;
    int beside = load_relaxed(r->waiter.peer_core) == current_core();
    if (offset > 0 && r->window_end < FAR && (beside || offset >= KEEP))
        r->window_end += r->window - offset;
    r->window_end = r->window_base = next_start(r, size);
}

static int look_for_window_room(ring *r)
{
    uint64_t held = 0;
    /* First: a reader that turns out to be gone must not count below, or we would sleep over its death. */
    int rc = ring_usable(r);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < r->peers; i++) {
        ring_peer *peer = &r->peer[i];
        if (peer->gone)
            continue;
        /* Pairs with ring_release: the reader is done with what lies below. */
        uint64_t position = load_ordered(&peer->side->window_position);
        if (position - peer->window_seen > r->window_end - peer->window_seen) {
            ring_drop_reader(r, peer, -EBADMSG);
            continue;
        }
        peer->window_seen = position;
        held = MAX(held, MIN(r->window_end - position, r->window_end - r->window_base));
    }
    rc = ring_usable(r);   /* again: one that lied was dropped */
    if (rc < 0)
        return rc;
    r->window_held = held;
    return held == 0 || next_start(r, r->want) + r->want - (r->window_end - held) <= r->window;
}

static int window_room_ready(void *arg)
{
    ring *r = arg;
    return (r->result = look_for_window_room(r)) != 0;
}

/* Who has read all waits for us, whatever it holds. */
static int all_read(const ring *r)
{
    for (unsigned i = 0; i < r->peers; i++) {
        const ring_peer *peer = &r->peer[i];
        /* Pairs with ring_publish of the reader. */
        if (!peer->gone && load_ordered(&peer->side->position) != r->published)
            return 0;
    }
    return 1;
}

static int near_by(const ring *r)
{
    return r->window_held + r->want <= MAX(r->window_ahead, MAX(AHEAD, 2 * r->want)) || all_read(r);
}

static int near_ready(void *arg)
{
    ring *r = arg;
    return window_room_ready(r) && (r->result < 0 || near_by(r));
}

/* Who runs far ahead writes to memory that the caches have lost, and the readers read it from there: so readers go
 * first while they have something to read. For those that take too long the limit is raised, and soon comes down again. */
static int stay_near(ring *r, deadline until)
{
    r->window_ahead = r->window_held ? r->window_ahead - r->window_ahead / 8 : 0;
    if (until.at == 0 || near_by(r))
        return 0;
    until.at = MIN(until.at, now_ns() + (int64_t)(r->want * PATIENCE));
    int rc = ring_await(r, near_ready, until);
    if (rc != -ETIMEDOUT)
        return rc;
    r->window_ahead = 2 * r->window_held;
    return 0;
}

static int64_t ring_acquire(endpoint *e, uint64_t length, deadline until)
{
    ring *r = (ring *)e;
    uint64_t size = record_size(length);
    if (window_of(r) == 0 || size > r->window)
        return r->window ? -EMSGSIZE : -EINVAL;
    FAULT_POINT(window_acquire_begins);
    r->window_size = 0;
    r->want = size;
    int rc = ring_await(r, window_room_ready, until);
    if (rc == 0)
        rc = stay_near(r, until);
    if (rc < 0)
        return rc;
    if (r->window_held == 0)
        begin_again(r, size);
    r->window_start = next_start(r, size);
    r->window_size = size;
    FAULT_POINT(window_acquire_ends);
    return (int64_t)(r->window_start % r->window);
}

static int ring_commit(endpoint *e, const cwasi_frame *frame, uint64_t offset)
{
    ring *r = (ring *)e;
    uint64_t size = record_size(frame->length);
    cwasi_frame announced = *frame;
    if (r->window_size < size || r->window_start % r->window != offset)
        return -EINVAL;
    FAULT_POINT(window_commit_begins);
    if (!ring_intact(r))
        return -EBADMSG;
    int rc = ring_await_room(r, ANNOUNCED, deadline_after(-1));
    if (rc < 0)
        return rc;
    announced.length |= FRAME_WINDOW;
    FAULT_POINT(window_commit_has_room);
    memcpy(ring_at_cursor(r), &announced, sizeof announced);
    FAULT_POINT(window_commit_header);
    memcpy(ring_at_cursor(r) + sizeof announced, &r->window_start, ANNOUNCED);
    r->cursor += sizeof announced + ANNOUNCED;
    r->window_end = r->window_start + size;
    r->window_size = 0;
    FAULT_POINT(window_commit_written);
    ring_publish_whole(r);
    FAULT_POINT(window_commit_ends);
    return 0;
}

/* ---- receiver ---- */

int ring_window_peek(ring *r, const cwasi_frame *frame)
{
    if (r->seen - r->cursor < sizeof *frame + ANNOUNCED || window_of(r) == 0)
        return -EBADMSG;
    FAULT_POINT(window_peek);
    /* Once, into our own memory. */
    r->window_start = *(const volatile uint64_t *)(ring_at_cursor(r) + sizeof *frame);
    if ((int64_t)(r->window_start - r->window_end) < 0 || r->window_start % PAGE != 0 ||
        r->window_start % r->window + record_size(frame->length) > r->window)
        return -EBADMSG;
    return 0;
}

static int ring_find(const endpoint *e, const cwasi_frame *frame, window_record *out)
{
    const ring *r = (const ring *)e;
    if (!r->in_window)
        return 0;
    FAULT_POINT(window_found);
    *out = (window_record){
        .offset = r->window_start % r->window,
        .length = frame->length,
        .end = r->window_start + record_size(frame->length),
    };
    return 1;
}

static int ring_window_take(endpoint *e, uint64_t end)
{
    ring *r = (ring *)e;
    FAULT_POINT(window_take_begins);
    r->window_end = end;
    r->cursor += sizeof(cwasi_frame) + ANNOUNCED;
    ring_publish_whole(r);
    FAULT_POINT(window_take_ends);
    return 0;
}

static void ring_release(endpoint *e, uint64_t end)
{
    ring *r = (ring *)e;
    FAULT_POINT(window_release_begins);
    /* Pairs with look_for_window_room, and (ordered) with the parking in wait_until. */
    store_ordered(&r->own->window_position, end);
    FAULT_POINT(window_release_told);
    int woken = wake_parked(&r->peer[0].side->parked, r->peer[0].bell);
    count_up(&r->base.stats.wakes, (uint64_t)woken);
    FAULT_POINT(window_release_ends);
}

int ring_window_copy(ring *r, const cwasi_frame *frame, void *data)
{
    if (data && !r->window_map) {
        uint64_t offset;
        int fd = ring_file(&r->base, &offset);
        void *map = mmap(NULL, r->window, PROT_READ, MAP_SHARED, fd, (off_t)offset);
        if (map == MAP_FAILED)
            return -errno;
        r->window_map = map;
    }
    if (data)
        copy_here(data, r->window_map + r->window_start % r->window, frame->length);
    FAULT_POINT(window_copied);
    uint64_t end = r->window_start + record_size(frame->length);
    ring_window_take(&r->base, end);
    ring_release(&r->base, end);
    count_up(&r->base.stats.copied_bytes, data ? frame->length : 0);
    return 0;
}

void ring_window_close(ring *r)
{
    if (r->window_map)
        munmap((void *)(uintptr_t)r->window_map, r->window);
}

const window_ops RING_WINDOWS = {
    .agree = ring_agree, .file = ring_file,
    .acquire = ring_acquire, .commit = ring_commit,
    .find = ring_find, .take = ring_window_take, .release = ring_release,
};
