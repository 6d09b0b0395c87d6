/* channel_window.c - messages in place: the numbering and counting of channel.c around a transport's window area. */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>

uint32_t channel_epoch(const cwasi_channel *c)
{
    return load_relaxed(&c->line.epoch);
}

static int enter(cwasi_channel *c, deadline until)
{
    return c->role == CWASI_SENDER ? channel_enter_sender(c, until) : channel_enter(c, CWASI_RECEIVER);
}

int channel_agree(cwasi_channel *c, uint64_t wanted, uint64_t *agreed, uint32_t *epoch)
{
    int rc = enter(c, deadline_after(-1));
    if (rc < 0)
        return rc;
    const window_ops *windows = c->line.now->ops->windows;
    *agreed = 0;
    *epoch = channel_epoch(c);
    rc = windows ? windows->agree(c->line.now, wanted, agreed) : 0;
    channel_leave(c);
    return rc;
}

/* 0 where messages may go through the window area of that epoch. */
static int usable(const cwasi_channel *c, uint32_t epoch)
{
    return c->line.now->torn ? c->line.now->torn : channel_epoch(c) == epoch ? 0 : -ESTALE;
}

int channel_area(cwasi_channel *c, uint32_t epoch, uint64_t *offset)
{
    int rc = enter(c, deadline_after(-1));
    if (rc < 0)
        return rc;
    rc = channel_epoch(c) == epoch ? 0 : -ESTALE;
    if (rc == 0) {
        /* A duplicate: ours is gone when the channel goes to another transport. */
        rc = fcntl(c->line.now->ops->windows->file(c->line.now, offset), F_DUPFD_CLOEXEC, 0);
        rc = rc < 0 ? -errno : rc;
    }
    channel_leave(c);
    return rc;
}

int64_t channel_acquire(cwasi_channel *c, uint32_t epoch, uint64_t length, deadline until)
{
    int64_t rc = channel_enter_sender(c, until);
    if (rc < 0)
        return rc;
    rc = usable(c, epoch);
    if (rc == 0)
        rc = c->line.now->ops->windows->acquire(c->line.now, length, until);
    channel_leave(c);
    return rc;
}

int channel_commit(cwasi_channel *c, uint32_t epoch, uint64_t offset, uint64_t length)
{
    int rc = channel_enter_sender(c, deadline_after(-1));
    if (rc < 0)
        return rc;
    cwasi_frame frame = channel_new_frame(c, length, NULL);
    rc = usable(c, epoch);
    if (rc == 0)
        rc = channel_intact(c);
    if (rc == 0)
        rc = c->line.now->ops->windows->commit(c->line.now, &frame, offset);
    if (rc == 0)
        channel_count_sent(c, length);
    channel_leave(c);
    return rc;
}

int channel_find(cwasi_channel *c, window_record *out, deadline until)
{
    int rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    rc = channel_next_frame(c, until);
    if (rc == 0) {
        const window_ops *windows = c->line.now->ops->windows;
        out->length = c->frame.length;
        rc = windows && windows->find(c->line.now, &c->frame, out);
    }
    channel_leave(c);
    return rc;
}

/* Whether it still is the next message. */
static int is_next(const cwasi_channel *c, const window_record *found)
{
    window_record next;
    return c->has_frame && c->line.now->ops->windows->find(c->line.now, &c->frame, &next) && next.end == found->end;
}

int channel_take(cwasi_channel *c, const window_record *found)
{
    int rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    /* Another thread may have been inside since channel_find. */
    rc = is_next(c, found) ? c->line.now->ops->windows->take(c->line.now, found->end) : -EBUSY;
    if (rc == 0)
        channel_count_received(c);
    channel_leave(c);
    return rc;
}

int channel_release(cwasi_channel *c, uint32_t epoch, uint64_t end)
{
    int rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    rc = channel_epoch(c) == epoch ? 0 : -ESTALE;
    if (rc == 0)
        c->line.now->ops->windows->release(c->line.now, end);
    channel_leave(c);
    return rc;
}
