/* pipe_sender.c - the sending side of a pipe, to one reader or to several.
 *
 * A small message goes to each reader by a writev. A large one is copied once, into the staging, whose pages are then
 * lent to each pipe (vmsplice): that saves the kernel's copy in and its page allocations. For several readers tee would
 * do the same from a pipe of our own; but from 64 KiB on it is slower than to lend again (128 KiB: 0.9 against 0.6 us,
 * and the first pipe has to be emptied as well), and it cannot go on behind what a full pipe has taken a part of.
 */
#include "pipe.h"
#include "fault.h"
#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LEND_FROM = 16 * 1024 };   /* below it a write is faster than a copy and a vmsplice */

/* ---- readers ---- */

/* Why it is gone: who leaves in order says so before it closes. */
static int last_word(const pipe_peer *peer)
{
    char word;
    if (peer->back < 0)
        return load_ordered(&peer->died) ? -ECONNRESET : -EPIPE;
    return read(peer->back, &word, 1) == 1 && word == FINISHED ? -EPIPE : -ECONNRESET;
}

/* A reader that has ended holds up the others no longer. Its back stays open: that descriptor may be watched. */
static void leave_behind(pipe_sender *p, pipe_peer *peer)
{
    peer->gone = last_word(peer);
    if (peer->gone != -EPIPE)
        count_up(&p->base.stats.lost_peers, 1);
    close(peer->fd);
    peer->fd = -1;
    p->keeper = 1;
}

/* 0 while a reader is left, else why not. */
static int any_left(const pipe_sender *p)
{
    int why = -EPIPE;
    for (unsigned i = 0; i < p->peers; i++) {
        if (!p->peer[i].gone)
            return 0;
        if (why == -EPIPE)
            why = p->peer[i].gone;
    }
    return why;
}

/* 0 while the end may be used and a reader is left, else why not. */
static int usable(pipe_sender *p)
{
    int stop = endpoint_stopped(&p->base);
    if (stop)
        return stop;
    for (unsigned i = 0; i < p->peers; i++) {
        pipe_peer *peer = &p->peer[i];
        /* Pairs with the store in pipe_peer_died; so do the other loads of it. */
        if (!peer->gone && load_ordered(&peer->died))
            leave_behind(p, peer);
    }
    return any_left(p);
}

static void pipe_peer_died(endpoint *e, unsigned number)
{
    pipe_sender *p = (pipe_sender *)e;
    if (number >= p->peers)
        return;
    /* Pairs with the load in usable: that one comes after the wake. */
    store_ordered(&p->peer[number].died, 1);
    eventfd_write(p->wake_fd, 1);
}

/* ---- room ---- */

static short ready_for(const pipe_peer *peer)
{
    struct pollfd fd = {peer->fd, POLLOUT, 0};
    return poll(&fd, 1, 0) == 1 ? fd.revents : 0;
}

/* Waits until a reader has some; 0, also when it is gone or may be, or -errno. `until` holds until the first byte has
 * gone. */
static int wait_for(pipe_sender *p, const pipe_peer *peer, deadline until)
{
    return pipe_wait(&p->base, peer->fd, p->wake_fd, p->begun ? deadline_after(-1) : until);
}

/* Until all have some: nobody else takes it. Then each gets a byte at least, and the message has begun for all. */
static int await_room(pipe_sender *p, deadline until)
{
    int rc = 0;
    for (unsigned i = 0; i < p->peers && rc == 0; i++) {
        pipe_peer *peer = &p->peer[i];
        while (rc == 0 && !peer->gone && !ready_for(peer)) {
            rc = wait_for(p, peer, until);
            rc = rc < 0 ? rc : usable(p);
        }
    }
    return rc;
}

/* Whether a record goes into a pipe without any wait. Up to PIPE_BUF the kernel takes all or nothing, and says so when
 * we write; but not one of several may have it while another has no room. How many pages are free for more, it does not
 * tell, but an empty pipe has all of them. */
static int fits_at_once(const pipe_sender *p, const pipe_peer *peer, uint64_t record)
{
    if (record <= PIPE_BUF)
        return p->peers == 1 || (ready_for(peer) & POLLOUT);
    int unread = 0, capacity = fcntl(peer->fd, F_GETPIPE_SZ);
    return ioctl(peer->fd, FIONREAD, &unread) == 0 && unread == 0 && record + PAGE <= (uint64_t)MAX(capacity, 0);
}

static int room_at_once(pipe_sender *p, uint64_t record)
{
    for (unsigned i = 0; i < p->peers; i++) {
        pipe_peer *peer = &p->peer[i];
        if (peer->gone || fits_at_once(p, peer, record))
            continue;
        if (!(ready_for(peer) & POLLERR))
            return -EAGAIN;
        leave_behind(p, peer);
    }
    return usable(p);
}

/* ---- sending ---- */

typedef ssize_t give(int fd, const struct iovec *iov, size_t count);

static ssize_t by_write(int fd, const struct iovec *iov, size_t count)
{
    return writev(fd, iov, (int)count);
}

static ssize_t by_lending(int fd, const struct iovec *iov, size_t count)
{
    return vmsplice(fd, iov, count, SPLICE_F_NONBLOCK);
}

/* Two pieces at most, all of them, to one reader. 0, or -errno: a reader that is gone by -EPIPE. */
static int give_to(pipe_sender *p, const pipe_peer *peer, give *way, const struct iovec *pieces, size_t count,
                   deadline until)
{
    struct iovec copy[2], *iov = copy;
    memcpy(copy, pieces, count * sizeof *pieces);
    while (count > 0) {
        FAULT_POINT(pipe_give_begins);
        ssize_t n = way(peer->fd, iov, count);
        FAULT_POINT(pipe_give_ends);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n < 0) {
            int rc = wait_for(p, peer, until);
            if (rc < 0)
                return rc;
            if (load_ordered(&peer->died))
                return -EPIPE;
            continue;
        }
        p->begun = 1;
        for (; count > 0 && (size_t)n >= iov->iov_len; iov++, count--)
            n -= (ssize_t)iov->iov_len;
        if (count > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* To each reader that is left. */
static int give_to_each(pipe_sender *p, give *way, const struct iovec *pieces, size_t count, deadline until)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < p->peers; i++) {
        pipe_peer *peer = &p->peer[i];
        if (peer->gone)
            continue;
        int rc = give_to(p, peer, way, pieces, count, until);
        if (rc == -EPIPE)
            leave_behind(p, peer);
        else if (rc < 0)
            return rc;
    }
    for (size_t i = 0; i < count; i++)
        bytes += pieces[i].iov_len;
    p->put += bytes;
    return 0;
}

/* The same; an error where nobody has got it. Who has, and is gone by now, is found with the next message. */
static int give_to_all(pipe_sender *p, give *way, const struct iovec *pieces, size_t count, deadline until)
{
    int rc = give_to_each(p, way, pieces, count, until);
    return rc < 0 ? rc : any_left(p);
}

static int send_small(pipe_sender *p, const cwasi_frame *frame, const void *data, deadline until)
{
    cwasi_frame header = *frame;
    struct iovec iov[2] = {{&header, sizeof header}, {(void *)(uintptr_t)data, frame->length}};
    return give_to_all(p, by_write, iov, frame->length ? 2 : 1, until);
}

static int send_large(pipe_sender *p, const cwasi_frame *frame, const uint8_t *data, deadline until)
{
    size_t left = frame->length, header = sizeof *frame;
    while (left > 0) {
        size_t part = MIN(left, PIPE_CHUNK - header);
        uint8_t *chunk = staging_chunk(p, header + part);
        if (!chunk)
            return -ENOMEM;
        memcpy(chunk, frame, header);
        memcpy(chunk + header, data, part);
        FAULT_POINT(pipe_send_piece_copied);
        int rc = give_to_all(p, by_lending, &(struct iovec){chunk, header + part}, 1, until);
        if (rc < 0)
            return rc;
        staging_lent(p, header + part);
        data += part;
        left -= part;
        header = 0;   /* only the first chunk has one */
    }
    return 0;
}

static int pipe_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until)
{
    pipe_sender *p = (pipe_sender *)e;
    int large = frame->length >= LEND_FROM, rc = usable(p);
    p->begun = 0;
    if (rc == 0 && until.at == 0)
        rc = room_at_once(p, sizeof *frame + frame->length);
    else if (rc == 0 && (large || p->peers > 1))
        rc = await_room(p, until);
    if (rc < 0)
        return rc;
    FAULT_POINT(pipe_send_begins);
    rc = large ? send_large(p, frame, data, until) : send_small(p, frame, data, until);
    if (rc < 0 && p->begun)
        e->torn = rc;
    FAULT_POINT(pipe_send_ends);
    count_up(&e->stats.copied_bytes, rc < 0 ? 0 : frame->length);
    return rc;
}

/* ---- the end ---- */

static int pipe_leave(endpoint *e, const cwasi_frame *last, deadline until)
{
    pipe_sender *p = (pipe_sender *)e;
    cwasi_frame frame = *last;
    int rc = usable(p);
    p->begun = 0;
    if (rc == 0)
        rc = until.at == 0 ? room_at_once(p, sizeof *last) : await_room(p, until);
    if (rc == 0)
        rc = give_to_each(p, by_write, &(struct iovec){&frame, sizeof frame}, 1, until);
    if (rc < 0 && p->begun)
        e->torn = rc;
    /* Who has got it leaves this pipe, perhaps by now: that is no error, nor is a stop that comes after it. */
    if (rc == 0 && !p->begun)
        rc = usable(p);
    FAULT_POINT(pipe_left);
    return rc;
}

static int pipe_finish(endpoint *e, int failed, deadline until)
{
    pipe_sender *p = (pipe_sender *)e;
    cwasi_frame last = {.length = failed ? FRAME_FAILED : FRAME_FINISHED};
    int found = 0;
    FAULT_POINT(pipe_finish_begins);
    for (unsigned i = 0; i < p->peers; i++) {
        pipe_peer *peer = &p->peer[i];
        if (peer->gone)
            continue;
        /* Into a frame that broke off it would be read as payload; without it, the end of the stream says enough. */
        p->begun = 0;
        int rc = e->torn ? 0 : give_to(p, peer, by_write, &(struct iovec){&last, sizeof last}, 1, until);
        if (rc < 0 && found != -ETIMEDOUT)
            found = rc;
        FAULT_POINT(pipe_finish_told);
        close(peer->fd);
        peer->fd = -1;
        peer->gone = -EPIPE;
    }
    FAULT_POINT(pipe_finish_ends);
    return found;
}

static void pipe_wake(endpoint *e)
{
    eventfd_write(((pipe_sender *)e)->wake_fd, 1);
}

static int pipe_bell(const endpoint *e, unsigned number)
{
    const pipe_sender *p = (const pipe_sender *)e;
    return number < p->peers ? p->peer[number].back : -1;
}

/* What is in the pipes keeps its pages; the next large message gets others. */
static int pipe_trim(endpoint *e)
{
    staging_close((pipe_sender *)e);
    return 1;
}

static void pipe_destroy(endpoint *e)
{
    pipe_sender *p = (pipe_sender *)e;
    for (unsigned i = 0; i < p->peers; i++) {
        if (p->peer[i].fd >= 0)
            close(p->peer[i].fd);
        if (p->peer[i].back >= 0)
            close(p->peer[i].back);
    }
    close(p->wake_fd);
    staging_close(p);
    free(p);
}

static const endpoint_ops SENDER = {
    .send = pipe_send, .peer_died = pipe_peer_died, .bell = pipe_bell, .trim = pipe_trim,
    .wake = pipe_wake, .leave = pipe_leave, .finish = pipe_finish, .destroy = pipe_destroy,
};

int pipe_sender_new(const pipe_peer *peers, unsigned count, endpoint **out)
{
    pipe_sender *p = calloc(1, sizeof *p + count * sizeof *peers);
    if (!p)
        return -ENOMEM;
    endpoint_init(&p->base, &SENDER, CWASI_SENDER);
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->wake_fd < 0) {
        int error = errno;
        free(p);
        return -error;
    }
    memcpy(p->peer, peers, count * sizeof *peers);
    p->peers = count;
    *out = &p->base;
    return 0;
}
