/* pipe_reader.c - the receiving side of a pipe. */
#include "pipe.h"
#include "fault.h"
#include "frame.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { READ_AHEAD = 8 * 1024 };   /* bytes: several small messages in one read */

typedef struct {
    endpoint base;
    int fd, back;
    int wake_fd;                /* readable once the end is stopped */
    uint8_t ahead[READ_AHEAD];  /* read but not yet taken: ahead[begin..end) */
    size_t begin, end;
} pipe_reader;

/* Reads at least one byte; 0 at the end of the stream. */
static ssize_t read_some(pipe_reader *p, void *to, size_t length, deadline until)
{
    for (;;) {
        FAULT_POINT(pipe_read_begins);
        ssize_t n = read(p->fd, to, length);
        FAULT_POINT(pipe_read_ends);
        if (n >= 0)
            return n;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        int rc = pipe_wait(&p->base, p->fd, p->wake_fd, until);
        if (rc < 0)
            return rc;
    }
}

static int pipe_peek(endpoint *e, cwasi_frame *frame, deadline until)
{
    pipe_reader *p = (pipe_reader *)e;
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
    pipe_reader *p = (pipe_reader *)e;
    struct pollfd fd = {p->fd, POLLIN, 0};
    return p->end - p->begin >= sizeof(cwasi_frame) || endpoint_stopped(e) || poll(&fd, 1, 0) != 0;
}

static int pipe_arm(endpoint *e, struct pollfd *fds)
{
    pipe_reader *p = (pipe_reader *)e;
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
    pipe_reader *p = (pipe_reader *)e;
    FAULT_POINT(pipe_take_begins);
    p->begin += sizeof *frame;
    size_t buffered = MIN(p->end - p->begin, frame->length), left = frame->length - buffered;
    uint8_t *to = data, drop[READ_AHEAD];
    if (to)
        copy_here(to, p->ahead + p->begin, buffered);
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

static void pipe_wake(endpoint *e)
{
    eventfd_write(((pipe_reader *)e)->wake_fd, 1);
}

static void close_both(pipe_reader *p)
{
    if (p->fd >= 0)
        close(p->fd);
    if (p->back >= 0)
        close(p->back);
    p->fd = p->back = -1;
}

static int pipe_finish(endpoint *e, int failed, deadline until)
{
    pipe_reader *p = (pipe_reader *)e;
    (void)until;
    FAULT_POINT(pipe_leave_begins);
    /* Before the pipe is closed: then the sender looks for it. */
    ssize_t told = failed || p->back < 0 ? 0 : write(p->back, &(char){FINISHED}, 1);
    (void)told;   /* a sender that has gone before does not hear it */
    FAULT_POINT(pipe_leave_told);
    close_both(p);
    FAULT_POINT(pipe_leave_ends);
    return 0;
}

static void pipe_destroy(endpoint *e)
{
    pipe_reader *p = (pipe_reader *)e;
    close_both(p);
    close(p->wake_fd);
    free(p);
}

static const endpoint_ops READER = {
    .peek = pipe_peek, .take = pipe_take,
    .look = pipe_look, .arm = pipe_arm, .disarm = pipe_disarm,
    .wake = pipe_wake, .finish = pipe_finish, .destroy = pipe_destroy,
};

int pipe_reader_new(int fd, int back, endpoint **out)
{
    pipe_reader *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    endpoint_init(&p->base, &READER, CWASI_RECEIVER);
    p->base.descriptors = 2;
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->wake_fd < 0) {
        int error = errno;
        free(p);
        return -error;
    }
    p->fd = fd;
    p->back = back;
    *out = &p->base;
    return 0;
}
