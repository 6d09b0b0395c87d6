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
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Large messages are published piece by piece, so that the receiver copies out while the sender still copies in.
 * Never more than half a ring: a piece and the header before it must fit. */
static const uint64_t CHUNK = 16 * 1024;
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

/* Tells the peer on which core we are: waiting for a neighbour on the same one wants another strategy. */
static void publish_core(ring *r)
{
    uint32_t core = current_core();
    if (core == r->core)
        return;
    r->core = core;
    store_relaxed(&r->own->core, core);
}

void ring_publish(ring *r)
{
    publish_core(r);
    r->published = r->cursor;
    /* Pairs with refresh_sender and refresh_readers, and (ordered) with the parking in wait_until and ring_arm. */
    store_ordered(&r->own->position, r->cursor);
    FAULT_POINT(ring_position_told);
    for (unsigned i = 0; i < r->peers; i++)
        count_up(&r->base.stats.wakes, (uint64_t)wake_parked(&r->peer[i].side->parked, r->peer[i].bell));
}

void ring_publish_whole(ring *r)
{
    r->messages++;
    /* Not by the sender: the line that its readers look at all the time shall change once a message.
     * Pairs with ring_unread. */
    if (r->base.role == CWASI_RECEIVER)
        store_relaxed(&r->own->messages, r->messages);
    FAULT_POINT(ring_message_counted);
    ring_publish(r);
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

static int ring_hand_over(endpoint *e, cwasi_handover *h)
{
    ring *r = (ring *)e;
    if (load_relaxed(&r->control->readers) != 1 || r->handover)
        return -ENOTSUP;
    r->handover = handover_keep(h);
    return 0;
}

static void ring_destroy(endpoint *e)
{
    ring *r = (ring *)e;
    handover_release(r->handover);
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
    .leave = ring_leave, .wake = ring_wake, .peer_died = ring_peer_died, .bell = ring_bell,
    .unread = ring_unread, .outcome = ring_outcome, .trim = ring_trim,
    .hand_over = ring_hand_over, .offer = ring_offer, .withdraw = ring_withdraw,
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
