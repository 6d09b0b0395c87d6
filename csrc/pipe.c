/* pipe.c - frames over a pipe: no memory is shared with the peer.
 *
 * A small message goes by writev, header and payload in one call. A large one is copied into a staging buffer whose
 * pages are then lent to the pipe (vmsplice), which saves the kernel's copy in and its page allocations. A lent page
 * must not change until the peer has read it; the guest's own pages are never lent, because a peer that keeps
 * references (tee) could read what the guest writes there later. The staging buffer is used round and round and has
 * twice as many pages as the pipe has slots, so a page comes round again only after its slot was read and freed. (A
 * receiver that makes the pipe larger than WANTED_CAPACITY, or keeps references, spoils only what it reads itself.)
 *
 * SIGPIPE must be ignored in the process, as Python does.
 */
#include "internal.h"
#include "fault.h"
#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    SPLICE_FROM = 16 * 1024,    /* below it a write is faster than a copy and a vmsplice */
    SPLICE_CHUNK = 128 * 1024,
    READ_AHEAD = 8 * 1024,      /* several small messages in one read */
    WANTED_CAPACITY = 1 << 20,
};

typedef struct {
    endpoint base;
    int fd;
    int wake_fd;                /* readable once the end is stopped */
    uint8_t *staging;
    size_t staging_size, staging_at;
    int begun;                  /* bytes of the frame that is being sent have gone */
    uint8_t ahead[READ_AHEAD];  /* read but not yet taken: ahead[begin..end) */
    size_t begin, end;
} pipe_end;

static int timeout_ms(deadline until)
{
    if (until.at == INT64_MAX)
        return -1;
    int64_t left = until.at - now_ns();
    return left <= 0 ? 0 : (int)MIN((left + 999999) / 1000000, INT32_MAX);
}

/* Waits until the pipe may go on; 0 or -errno. */
static int pipe_wait(pipe_end *p, deadline until)
{
    int stop = endpoint_stopped(&p->base);
    if (stop)
        return stop;
    if (until.at == 0)
        return -EAGAIN;
    FAULT_POINT(pipe_wait_begins);
    struct pollfd fds[2] = {{p->fd, p->base.role == CWASI_SENDER ? POLLOUT : POLLIN, 0}, {p->wake_fd, POLLIN, 0}};
    count_up(&p->base.stats.waits, 1);
    count_up(&p->base.stats.parks, 1);
    int rc = poll(fds, 2, timeout_ms(until));
    if (rc < 0)
        return errno == EINTR && !until.interruptible ? 0 : -errno;
    if (fds[0].revents)
        return 0;   /* data or a hang-up: the next read or write tells which */
    return rc == 0 ? -ETIMEDOUT : endpoint_stopped(&p->base);
}

/* ---- sender ---- */

/* `until` holds until the first byte has gone. */
static int wait_for_room(pipe_end *p, deadline until)
{
    return pipe_wait(p, p->begun ? deadline_after(-1) : until);
}

/* Writes all of iov. */
static int write_all(pipe_end *p, struct iovec *iov, int count, deadline until)
{
    while (count > 0) {
        FAULT_POINT(pipe_write_begins);
        ssize_t n = writev(p->fd, iov, count);
        FAULT_POINT(pipe_write_ends);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n < 0) {
            int rc = wait_for_room(p, until);
            if (rc < 0)
                return rc;
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

static int lend(pipe_end *p, uint8_t *from, size_t length, deadline until)
{
    while (length > 0) {
        struct iovec iov = {from, length};
        FAULT_POINT(pipe_lend_begins);
        ssize_t n = vmsplice(p->fd, &iov, 1, SPLICE_F_NONBLOCK);
        FAULT_POINT(pipe_lend_ends);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n < 0) {
            int rc = wait_for_room(p, until);
            if (rc < 0)
                return rc;
            continue;
        }
        p->begun = 1;
        from += n;
        length -= (size_t)n;
    }
    return 0;
}

static int staging_open(pipe_end *p)
{
    /* Either side may still raise the pipe to the wanted capacity. */
    int capacity = fcntl(p->fd, F_GETPIPE_SZ);
    size_t size = 2 * (size_t)MAX(capacity, WANTED_CAPACITY) + SPLICE_CHUNK;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    madvise(memory, size, MADV_HUGEPAGE);   /* fewer page references to take; works without */
    p->staging = memory;
    p->staging_size = size;
    return 0;
}

/* Room for one chunk, on pages of its own. They count as used only when they were lent: a send that times out and is
 * tried again must not come round to pages that are still in the pipe. */
static uint8_t *staging_chunk(pipe_end *p, size_t length)
{
    if (p->staging_at + length > p->staging_size)
        p->staging_at = 0;
    return p->staging + p->staging_at;
}

static int send_large(pipe_end *p, const cwasi_frame *frame, const uint8_t *data, deadline until)
{
    int rc = p->staging ? 0 : staging_open(p);
    if (rc < 0)
        return rc;
    size_t left = frame->length, header = sizeof *frame;
    while (left > 0) {
        size_t part = MIN(left, SPLICE_CHUNK - header);
        uint8_t *chunk = staging_chunk(p, header + part);
        memcpy(chunk, frame, header);
        memcpy(chunk + header, data, part);
        FAULT_POINT(pipe_send_piece_copied);
        if ((rc = lend(p, chunk, header + part, until)) < 0)
            return rc;
        p->staging_at += whole_pages(header + part);
        data += part;
        left -= part;
        header = 0;   /* only the first chunk has one */
    }
    return 0;
}

static int send_small(pipe_end *p, const cwasi_frame *frame, const void *data, deadline until)
{
    cwasi_frame header = *frame;
    struct iovec iov[2] = {{&header, sizeof header}, {(void *)(uintptr_t)data, frame->length}};
    return write_all(p, iov, frame->length ? 2 : 1, until);
}

/* Whether a record goes into the pipe without any wait. Up to PIPE_BUF the kernel takes all or nothing; how many pages
 * are free for more, it does not tell, but an empty pipe has all of them. */
static int fits_at_once(const pipe_end *p, uint64_t record)
{
    int unread = 0, capacity = fcntl(p->fd, F_GETPIPE_SZ);
    if (record <= PIPE_BUF)
        return 1;
    return ioctl(p->fd, FIONREAD, &unread) == 0 && unread == 0 && record + PAGE <= (uint64_t)MAX(capacity, 0);
}

static int peer_gone(const pipe_end *p)
{
    struct pollfd fd = {p->fd, POLLOUT, 0};
    return poll(&fd, 1, 0) == 1 && (fd.revents & POLLERR);
}

static int pipe_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until)
{
    pipe_end *p = (pipe_end *)e;
    int stop = endpoint_stopped(e);
    if (stop)
        return stop;
    if (until.at == 0 && !fits_at_once(p, sizeof *frame + frame->length))
        return peer_gone(p) ? -EPIPE : -EAGAIN;
    FAULT_POINT(pipe_send_begins);
    p->begun = 0;
    int rc = frame->length >= SPLICE_FROM ? send_large(p, frame, data, until) : send_small(p, frame, data, until);
    if (rc < 0 && p->begun)
        e->torn = rc;
    FAULT_POINT(pipe_send_ends);
    count_up(&e->stats.copied_bytes, rc < 0 ? 0 : frame->length);
    return rc;
}

/* ---- receiver ---- */

/* Reads at least one byte; 0 at the end of the stream. */
static ssize_t read_some(pipe_end *p, void *to, size_t length, deadline until)
{
    for (;;) {
        FAULT_POINT(pipe_read_begins);
        ssize_t n = read(p->fd, to, length);
        FAULT_POINT(pipe_read_ends);
        if (n >= 0)
            return n;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        int rc = pipe_wait(p, until);
        if (rc < 0)
            return rc;
    }
}

static int pipe_peek(endpoint *e, cwasi_frame *frame, deadline until)
{
    pipe_end *p = (pipe_end *)e;
    if (endpoint_stopped(e) == -ECANCELED)
        return -ECANCELED;
    FAULT_POINT(pipe_peek_begins);
    if (p->begin == p->end)
        p->begin = p->end = 0;
    while (p->end - p->begin < sizeof *frame) {
        memmove(p->ahead, p->ahead + p->begin, p->end - p->begin);
        p->end -= p->begin;
        p->begin = 0;
        ssize_t n = read_some(p, p->ahead + p->end, READ_AHEAD - p->end, until);
        if (n <= 0)
            return n == 0 ? -ECONNRESET : (int)n;   /* a sender that ends says so first */
        p->end += (size_t)n;
    }
    memcpy(frame, p->ahead + p->begin, sizeof *frame);
    FAULT_POINT(pipe_peek_ends);
    return frame_check(frame);
}

static int pipe_look(endpoint *e)
{
    pipe_end *p = (pipe_end *)e;
    struct pollfd fd = {p->fd, POLLIN, 0};
    return p->end - p->begin >= sizeof(cwasi_frame) || endpoint_stopped(e) || poll(&fd, 1, 0) != 0;
}

static int pipe_arm(endpoint *e, struct pollfd *fds)
{
    pipe_end *p = (pipe_end *)e;
    fds[0] = (struct pollfd){p->fd, POLLIN, 0};
    fds[1] = (struct pollfd){p->wake_fd, POLLIN, 0};
    return pipe_look(e);
}

static void pipe_disarm(endpoint *e)
{
    (void)e;   /* it was the pipe itself that was polled */
}

static int pipe_take(endpoint *e, const cwasi_frame *frame, void *data)
{
    pipe_end *p = (pipe_end *)e;
    FAULT_POINT(pipe_take_begins);
    p->begin += sizeof *frame;
    size_t buffered = MIN(p->end - p->begin, frame->length), left = frame->length - buffered;
    uint8_t *to = data, drop[READ_AHEAD];
    if (to)
        memcpy(to, p->ahead + p->begin, buffered);
    p->begin += buffered;
    while (left > 0) {
        size_t length = to ? left : MIN(left, sizeof drop);
        ssize_t n = read_some(p, to ? to + (frame->length - left) : drop, length, deadline_after(-1));
        if (n <= 0)
            return e->torn = n == 0 ? -ECONNRESET : (int)n;
        left -= (size_t)n;
    }
    FAULT_POINT(pipe_take_ends);
    count_up(&e->stats.copied_bytes, frame->length + buffered);
    return 0;
}

/* ---- both ---- */

static void pipe_wake(endpoint *e)
{
    eventfd_write(((pipe_end *)e)->wake_fd, 1);
}

static int pipe_finish(endpoint *e, int failed, deadline until)
{
    pipe_end *p = (pipe_end *)e;
    int rc = 0;
    FAULT_POINT(pipe_finish_begins);
    /* Into a frame that broke off it would be read as payload; without it, the end of the stream says enough. */
    if (e->role == CWASI_SENDER && !e->torn) {
        cwasi_frame last = {.length = failed ? FRAME_FAILED : FRAME_FINISHED};
        p->begun = 0;
        rc = write_all(p, &(struct iovec){&last, sizeof last}, 1, until);
    }
    FAULT_POINT(pipe_finish_told);
    close(p->fd);
    p->fd = -1;
    FAULT_POINT(pipe_finish_ends);
    return rc;
}

static void pipe_destroy(endpoint *e)
{
    pipe_end *p = (pipe_end *)e;
    if (p->fd >= 0)
        close(p->fd);
    close(p->wake_fd);
    /* Pages still in the pipe keep their own references; unmapping them changes nothing that the peer reads. */
    if (p->staging)
        munmap(p->staging, p->staging_size);
    free(p);
}

static const endpoint_ops PIPE = {
    .send = pipe_send, .peek = pipe_peek, .take = pipe_take,
    .look = pipe_look, .arm = pipe_arm, .disarm = pipe_disarm,
    .wake = pipe_wake, .finish = pipe_finish, .destroy = pipe_destroy,
};

/* fd's pipe as a file of our own where that is possible: who shares ours could make it blocking, out of reach of wake. */
static int own_file(int fd, int access)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own = open(path, access | O_NONBLOCK | O_CLOEXEC);
    if (own >= 0)
        return own;
    own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own >= 0 && fcntl(own, F_SETFL, access | O_NONBLOCK) < 0) {
        close(own);
        return -1;
    }
    return own;
}

int pipe_open(int fd, int role, endpoint **out)
{
    int flags = fcntl(fd, F_GETFL);
    int access = role == CWASI_SENDER ? O_WRONLY : O_RDONLY;
    if (flags < 0)
        return -errno;
    if ((flags & O_ACCMODE) != access || fcntl(fd, F_GETPIPE_SZ) < 0)
        return -EINVAL;
    pipe_end *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    endpoint_init(&p->base, &PIPE, role);
    p->base.descriptors = role == CWASI_RECEIVER ? 2 : 0;
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->fd = p->wake_fd < 0 ? -1 : own_file(fd, access);
    if (p->fd < 0) {
        int error = errno;
        pipe_destroy(&p->base);
        return -error;
    }
    fcntl(p->fd, F_SETPIPE_SZ, WANTED_CAPACITY);   /* a smaller pipe works too */
    *out = &p->base;
    return 0;
}
