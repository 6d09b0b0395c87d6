/* channel_switch.c - a channel goes on by another transport while it is in use; see line.h for how. */
#include "channel.h"
#include "frame.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

static const struct timespec PAUSE = {0, 20000};
/* So long a wait goes on without a look at signals that came between two pauses. */
static const int64_t PATIENCE_NS = 500000000;

/* Its end of a transport, which is no longer its own; or NULL, and it is freed. */
static endpoint *end_of(cwasi_channel *fresh, int role)
{
    if (!channel_unused(fresh, role)) {
        cwasi_channel_free(fresh);
        return NULL;
    }
    endpoint *end = fresh->line.now;
    free(fresh);
    return end;
}

static void give_up(endpoint *end)
{
    end->ops->finish(end, 1, deadline_after(0));
    end->ops->destroy(end);
}

/* ---- receiver ---- */

int cwasi_channel_attach(cwasi_channel *c, unsigned source, cwasi_channel *fresh, uint32_t epoch)
{
    line *l = c->role == CWASI_RECEIVER ? channel_line(c, source) : NULL;
    endpoint *end = end_of(fresh, CWASI_RECEIVER);
    if (!end)
        return -EINVAL;
    int rc = l ? line_attach(l, end, epoch) : -EINVAL;
    if (rc < 0)
        give_up(end);
    return rc;
}

int cwasi_channel_detach(cwasi_channel *c, unsigned source, uint32_t epoch)
{
    line *l = c->role == CWASI_RECEIVER ? channel_line(c, source) : NULL;
    return l ? line_detach(l, epoch) : -EINVAL;
}

/* ---- sender ---- */

static int pause_until(deadline until, int64_t signals)
{
    int64_t now = now_ns();
    if (now >= until.at)
        return -ETIMEDOUT;
    return nanosleep(&PAUSE, NULL) < 0 || now >= signals ? -EINTR : 0;
}

/* Gets in between two messages. */
static int tend(cwasi_channel *c, deadline until, int64_t signals)
{
    while (!try_claim(&c->owner, FREE, TENDED)) {
        if (load_relaxed(&c->owner) >= CLOSING)
            return -EBADF;
        int rc = pause_until(until, signals);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* next: NULL where the channel goes on in another process. */
static int leave(cwasi_channel *c, endpoint *next, deadline until)
{
    int64_t signals = now_ns() + PATIENCE_NS;
    for (;;) {
        int rc = tend(c, until, signals);
        if (rc < 0)
            return rc;
        rc = next ? line_leave(&c->line, next, deadline_after(0)) : line_depart(&c->line, deadline_after(0));
        channel_leave(c);
        if (rc != -EAGAIN)
            return rc;
        rc = pause_until(until, signals);   /* the old transport is full */
        if (rc < 0)
            return rc;
    }
}

int cwasi_channel_switch(cwasi_channel *c, cwasi_channel *fresh, int64_t timeout_ns)
{
    if (!channel_unused(fresh, CWASI_SENDER) || c->role != CWASI_SENDER) {
        cwasi_channel_free(fresh);
        return -EINVAL;
    }
    endpoint *next = fresh->line.now;
    add_relaxed(&c->awaited, 1);
    int rc = leave(c, next, deadline_after(timeout_ns));
    if (rc == 0)
        line_tidy(&c->line);   /* while the sender may be sending already */
    sub_relaxed(&c->awaited, 1);
    if (rc == -EINTR)
        return rc;
    free(fresh);
    if (rc < 0)
        give_up(next);
    return rc;
}

int cwasi_channel_depart(cwasi_channel *c, int64_t timeout_ns)
{
    add_relaxed(&c->awaited, 1);
    int rc = c->role == CWASI_SENDER ? leave(c, NULL, deadline_after(timeout_ns)) : -EINVAL;
    sub_relaxed(&c->awaited, 1);
    return rc;
}

int cwasi_channel_begin(cwasi_channel *c, uint32_t epoch)
{
    if (!channel_unused(c, c->role))
        return -EINVAL;
    store_relaxed(&c->line.epoch, epoch);
    return 0;
}

int cwasi_channel_pass_switch(cwasi_channel *c, uint32_t epoch, int64_t timeout_ns)
{
    deadline until = deadline_interruptible(timeout_ns);
    int rc = channel_enter_sender(c, until);
    if (rc < 0)
        return rc;
    endpoint *end = c->line.now;
    cwasi_frame last = {.seq = c->line.seq, .length = FRAME_SWITCH, .epoch = epoch};
    rc = end->torn ? end->torn : end->ops->leave(end, &last, until);
    channel_leave(c);
    return rc;
}

void cwasi_channel_tidy(cwasi_channel *c)
{
    line *l;
    for (unsigned i = 0; (l = channel_line(c, i)); i++)
        line_tidy(l);
}

uint32_t cwasi_channel_epoch(cwasi_channel *c, unsigned source)
{
    line *l = channel_line(c, source);
    return l ? load_relaxed(&l->epoch) : 0;
}
