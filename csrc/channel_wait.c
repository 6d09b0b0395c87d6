/* channel_wait.c - waiting in several channels at once, and for event loops. */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

/* The first of these, from `from` on, in which nothing needs to be waited for, without a look at the transport; or
 * count. */
static unsigned known_ready(cwasi_channel **list, unsigned count, unsigned from)
{
    for (unsigned n = 0; n < count; n++) {
        const cwasi_channel *c = list[(from + n) % count];
        if (c->has_frame || c->line.now->torn)
            return (from + n) % count;
    }
    return count;
}

static int wait_inside(cwasi_channel **list, unsigned count, unsigned from, deadline until)
{
    unsigned known = known_ready(list, count, from);
    if (known < count)
        return (int)known;
    endpoint **ends = calloc(count, sizeof *ends);
    if (!ends)
        return -ENOMEM;
    cwasi_frame frame;
    int rc;
    do {
        for (unsigned i = 0; i < count; i++)
            ends[i] = list[i]->line.now;
        /* What it learns lasts no longer than the call; the sleeps count for the first. */
        waiter w = {.parks = &list[0]->line.now->stats.parks};
        rc = endpoint_wait(ends, count, from, &w, until);
        /* It may be ready only to go to another transport, on which there is nothing yet. */
    } while (rc >= 0 && line_peek(&list[rc]->line, &frame, deadline_after(0)) == -EAGAIN);
    free(ends);
    return rc;
}

int channel_wait(cwasi_channel **list, unsigned count, unsigned from, deadline until)
{
    unsigned entered = 0;
    int rc = count ? 0 : -EINVAL;
    while (rc == 0 && entered < count) {
        rc = channel_enter(list[entered], CWASI_RECEIVER);
        entered += rc == 0;
    }
    if (rc == 0)
        rc = wait_inside(list, count, from, until);
    for (unsigned i = 0; i < entered; i++)
        channel_leave(list[i]);
    return rc;
}

int cwasi_channel_wait(cwasi_channel **list, unsigned count, unsigned from, int64_t timeout_ns)
{
    return channel_wait(list, count, from, deadline_interruptible(timeout_ns));
}

int cwasi_channel_arm(cwasi_channel *c, int *descriptors, unsigned room)
{
    int rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    endpoint *end = c->line.now;
    unsigned used = end->descriptors;
    struct pollfd *fds = calloc(used ? used : 1, sizeof *fds);
    if (used == 0 || used > room || !fds)
        rc = used == 0 ? -ENOTSUP : fds ? -ENOSPC : -ENOMEM;
    else
        rc = c->has_frame || end->torn || end->ops->arm(end, fds) ? 0 : (int)used;
    for (int i = 0; i < rc; i++)
        descriptors[i] = fds[i].fd;
    free(fds);
    channel_leave(c);
    return rc;
}

int cwasi_channel_disarm(cwasi_channel *c)
{
    int rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    endpoint *end = c->line.now;
    if (end->descriptors)
        end->ops->disarm(end);
    channel_leave(c);
    return 0;
}
