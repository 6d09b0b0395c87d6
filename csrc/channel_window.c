/* channel_window.c - messages in place: the numbering and counting of channel.c around a transport's window area. */
#include "channel.h"

#include <errno.h>

const window_ops *channel_windows(const cwasi_channel *c)
{
    return c->end->ops->windows;
}

endpoint *channel_end(const cwasi_channel *c)
{
    return c->end;
}

int channel_agree(cwasi_channel *c, uint64_t wanted, uint64_t *agreed)
{
    const window_ops *windows = c->end->ops->windows;
    *agreed = 0;
    int rc = windows ? channel_enter(c, c->end->role) : 0;
    if (rc < 0 || !windows)
        return rc;
    rc = windows->agree(c->end, wanted, agreed);
    channel_leave(c);
    return rc;
}

int64_t channel_acquire(cwasi_channel *c, uint64_t length, deadline until)
{
    int64_t rc = channel_enter(c, CWASI_SENDER);
    if (rc < 0)
        return rc;
    rc = c->end->torn ? c->end->torn : c->end->ops->windows->acquire(c->end, length, until);
    channel_leave(c);
    return rc;
}

int channel_commit(cwasi_channel *c, uint64_t offset, uint64_t length)
{
    int rc = channel_enter(c, CWASI_SENDER);
    if (rc < 0)
        return rc;
    cwasi_frame frame = channel_new_frame(c, length, NULL);
    rc = c->end->torn ? c->end->torn : c->end->ops->windows->commit(c->end, &frame, offset);
    if (rc == 0)
        channel_count_sent(c, length);
    channel_leave(c);
    return rc;
}

int channel_find(cwasi_channel *c, window_record *out, deadline until)
{
    const window_ops *windows = c->end->ops->windows;
    int rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    rc = channel_next_frame(c, until);
    if (rc == 0) {
        out->length = c->frame.length;
        rc = windows && windows->find(c->end, &c->frame, out);
    }
    channel_leave(c);
    return rc;
}

/* Whether it still is the next message. */
static int is_next(const cwasi_channel *c, const window_record *found)
{
    window_record next;
    return c->has_frame && c->end->ops->windows->find(c->end, &c->frame, &next) && next.end == found->end;
}

int channel_take(cwasi_channel *c, const window_record *found)
{
    int rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    /* Another thread may have been inside since channel_find. */
    rc = is_next(c, found) ? c->end->ops->windows->take(c->end, found->end) : -EBUSY;
    if (rc == 0)
        channel_count_received(c);
    channel_leave(c);
    return rc;
}

int channel_release(cwasi_channel *c, uint64_t end)
{
    int rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    c->end->ops->windows->release(c->end, end);
    channel_leave(c);
    return 0;
}
