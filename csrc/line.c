/* line.c - see line.h. */
#include "line.h"
#include "fault.h"
#include "frame.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>

static void lock(line *l)
{
    while (!try_claim(&l->lock, 0, 1))
        sched_yield();
}

static void unlock(line *l)
{
    store_release(&l->lock, 0);   /* pairs with lock() */
}

static uint32_t next_epoch(const line *l)
{
    return load_relaxed(&l->epoch) + 1;
}

void line_init(line *l, endpoint *end)
{
    *l = (line){.now = end};
}

static void add_stats(cwasi_stats *to, const counters *from)
{
    to->messages += load_relaxed(&from->messages);
    to->bytes += load_relaxed(&from->bytes);
    to->copied_bytes += load_relaxed(&from->copied_bytes);
    to->waits += load_relaxed(&from->waits);
    to->parks += load_relaxed(&from->parks);
    to->wakes += load_relaxed(&from->wakes);
    to->timed += load_relaxed(&from->timed);
    to->lost_peers += load_relaxed(&from->lost_peers);
}

/* `end` is in use from now on, in place of l->now, whose counts are kept. */
static void move_to(line *l, endpoint *end)
{
    if (endpoint_stopped(l->now) == -ECANCELED)
        endpoint_stop(end, ECANCELED);
    add_stats(&l->past, &l->now->stats);
    l->now = end;
    l->seq = 0;
    store_relaxed(&l->epoch, load_relaxed(&l->epoch) + 1);
}

static void keep_before(line *l, endpoint *old)
{
    old->before = l->before;
    l->before = old;
    store_relaxed(&l->behind, load_relaxed(&l->behind) + 1);
}

static void end_of(endpoint *e)
{
    e->ops->finish(e, 0, deadline_after(0));
    e->ops->destroy(e);
}

/* ---- receiver ---- */

/* The sender has gone to the next transport. */
static int follow(line *l, const cwasi_frame *last)
{
    if (last->seq != l->seq)
        return -EBADMSG;
    FAULT_POINT(line_follow_begins);
    lock(l);
    endpoint *old = l->now, *next = l->next;
    int rc = !next ? -EREMCHG : last->epoch == next_epoch(l) ? 0 : -EBADMSG;
    if (rc == 0) {
        move_to(l, next);
        l->next = NULL;
    }
    unlock(l);
    if (rc == 0) {
        old->ops->finish(old, 0, deadline_after(0));
        lock(l);
        keep_before(l, old);
        unlock(l);
    }
    FAULT_POINT(line_follow_ends);
    return rc;
}

int line_peek(line *l, cwasi_frame *frame, deadline until)
{
    int rc;
    while ((rc = l->now->ops->peek(l->now, frame, until)) == -EREMCHG) {
        rc = follow(l, frame);
        if (rc < 0)
            return rc;
    }
    /* Else lost, doubled or forged. */
    return rc < 0 || frame->seq == l->seq ? rc : -EBADMSG;
}

int line_attach(line *l, endpoint *next, uint32_t epoch)
{
    line_tidy(l);
    lock(l);
    int rc = l->finished ? -EBADF : l->next ? -EBUSY : epoch == next_epoch(l) ? 0 : -EINVAL;
    if (rc == 0) {
        if (endpoint_stopped(l->now) == -ECANCELED)
            endpoint_stop(next, ECANCELED);
        l->next = next;
    }
    unlock(l);
    return rc;
}

int line_detach(line *l, uint32_t epoch)
{
    lock(l);
    endpoint *next = epoch == next_epoch(l) && !l->finished ? l->next : NULL;
    if (next)
        l->next = NULL;
    unlock(l);
    if (!next)
        return -EALREADY;
    end_of(next);
    return 0;
}

/* ---- sender ---- */

/* 1: its messages are all read, or it cannot tell; 0: not yet; -ECONNRESET: some never will be. */
static int outcome(endpoint *e)
{
    return e->ops->outcome ? e->ops->outcome(e) : endpoint_unread(e) == 0;
}

static int send_last(line *l, deadline until)
{
    endpoint *old = l->now;
    cwasi_frame last = {.seq = l->seq, .length = FRAME_SWITCH, .epoch = next_epoch(l)};
    if (old->torn || !old->ops->leave)
        return old->torn ? old->torn : -ENOTSUP;
    FAULT_POINT(line_leave_begins);
    int rc = old->ops->leave(old, &last, until);
    if (rc < 0)
        return rc;
    FAULT_POINT(line_leave_told);
    return 0;
}

int line_depart(line *l, deadline until)
{
    int rc = send_last(l, until);
    if (rc < 0)
        return rc;
    l->now->torn = -EBADF;   /* no other frame can follow it */
    store_relaxed(&l->epoch, next_epoch(l));
    return 0;
}

int line_leave(line *l, endpoint *next, deadline until)
{
    endpoint *old = l->now;
    int rc = send_last(l, until);
    if (rc < 0)
        return rc;
    lock(l);
    move_to(l, next);
    keep_before(l, old);
    unlock(l);
    FAULT_POINT(line_leave_ends);
    return 0;
}

/* ---- from outside ---- */

void line_stop(line *l, int error)
{
    lock(l);
    endpoint_stop(l->now, error);
    if (l->next)
        endpoint_stop(l->next, error);
    unlock(l);
}

void line_peer_died(line *l, unsigned peer)
{
    lock(l);
    endpoint_peer_died(l->now, peer);
    if (l->next)
        endpoint_peer_died(l->next, peer);
    unlock(l);
}

void line_peer_died_in(line *l, uint32_t epoch)
{
    lock(l);
    endpoint *one = epoch == load_relaxed(&l->epoch) ? l->now : epoch == next_epoch(l) ? l->next : NULL;
    if (one)
        endpoint_peer_died(one, 0);
    unlock(l);
}

static int bell_index(const endpoint *e, int bell)
{
    int found;
    for (unsigned peer = 0; (found = endpoint_bell(e, peer)) >= 0; peer++) {
        if (found == bell)
            return (int)peer;
    }
    return -1;
}

static int has_hung_up(int bell)
{
    struct pollfd fd = {.fd = bell};
    return poll(&fd, 1, 0) == 1;
}

void line_hung_up(line *l, int bell)
{
    lock(l);
    endpoint *ends[] = {l->now, l->next};
    for (int i = 0; i < 2; i++) {
        int peer = ends[i] ? bell_index(ends[i], bell) : -1;
        /* Asked once more, now that it stays what it is: it may be a new one that has got the number of the old one. */
        if (peer >= 0 && has_hung_up(bell))
            endpoint_peer_died(ends[i], (unsigned)peer);
    }
    unlock(l);
}

static unsigned add_bells(const endpoint *e, int *descriptors, unsigned count, unsigned room)
{
    int bell;
    for (unsigned peer = 0; count < room && (bell = endpoint_bell(e, peer)) >= 0; peer++)
        descriptors[count++] = bell;
    return count;
}

unsigned line_bells(line *l, int *descriptors, unsigned room)
{
    lock(l);
    unsigned count = add_bells(l->now, descriptors, 0, room);
    if (l->next)
        count = add_bells(l->next, descriptors, count, room);
    unlock(l);
    return count;
}

uint32_t line_mode(line *l)
{
    lock(l);
    uint32_t mode = load_relaxed(&l->now->mode);
    unlock(l);
    return mode;
}

void line_set_mode(line *l, uint32_t mode)
{
    lock(l);
    store_relaxed(&l->now->mode, mode);
    unlock(l);
}

uint64_t line_unread(line *l)
{
    line_tidy(l);
    lock(l);
    uint64_t unread = endpoint_unread(l->now);
    for (endpoint *e = l->before; e; e = e->before)
        unread += endpoint_unread(e);
    unlock(l);
    return unread;
}

void line_tidy(line *l)
{
    endpoint *done = NULL;
    lock(l);
    for (endpoint **at = &l->before; *at && !l->finished;) {
        endpoint *e = *at;
        if (e->role == CWASI_SENDER && outcome(e) != 1) {
            at = &e->before;
            continue;
        }
        *at = e->before;
        store_relaxed(&l->behind, load_relaxed(&l->behind) - 1);
        e->before = done;
        done = e;
    }
    unlock(l);
    while (done) {
        endpoint *e = done;
        done = e->before;
        if (e->role == CWASI_SENDER)
            e->ops->finish(e, 0, deadline_after(0));
        e->ops->destroy(e);
    }
}

int line_lost(line *l, uint64_t *unread)
{
    *unread = 0;
    if (load_relaxed(&l->behind) == 0)
        return 0;
    int rc = 0;
    lock(l);
    for (endpoint *e = l->before; e && !l->finished; e = e->before) {
        if (outcome(e) != -ECONNRESET)
            continue;
        rc = -ECONNRESET;
        *unread += endpoint_unread(e);
    }
    unlock(l);
    return rc;
}

void line_stats(line *l, cwasi_stats *out)
{
    lock(l);
    *out = l->past;
    add_stats(out, &l->now->stats);
    unlock(l);
}

void line_forked(line *l)
{
    unlock(l);
}

/* ---- the end ---- */

int line_finish(line *l, int failed, deadline until)
{
    /* From here on nobody changes l->next or l->before: what came later would not be told that we have ended. */
    lock(l);
    l->finished = 1;
    unlock(l);
    int rc = l->now->ops->finish(l->now, failed, until);
    if (l->next)
        l->next->ops->finish(l->next, failed, deadline_after(0));
    /* A receiver has told those before when it left them. */
    for (endpoint *e = l->before; e && e->role == CWASI_SENDER; e = e->before)
        e->ops->finish(e, failed, deadline_after(0));
    return rc;
}

void line_destroy(line *l)
{
    l->now->ops->destroy(l->now);
    if (l->next)
        l->next->ops->destroy(l->next);
    while (l->before) {
        endpoint *e = l->before;
        l->before = e->before;
        e->ops->destroy(e);
    }
}
