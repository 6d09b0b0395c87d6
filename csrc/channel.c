/* channel.c - one end of a channel: numbers and times messages, admits one thread at a time, and closes in order. */
#include "internal.h"
#include "frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FREE = 0, INSIDE = 1, CLOSING = 2, CLOSED = 3 };   /* values of owner */

struct cwasi_channel {
    endpoint *end;
    atomic_u32 owner;
    atomic_u32 stamp_mask;    /* a message is timed where (seq & mask) == 0 */
    uint64_t seq;             /* of the next message */
    int has_frame;            /* peeked and not yet taken */
    cwasi_frame frame;
    atomic_u64 histogram[CWASI_HISTOGRAM_BUCKETS];
};

static int channel_new(endpoint *end, cwasi_channel **out)
{
    cwasi_channel *c = calloc(1, sizeof *c);
    if (!c) {
        end->ops->destroy(end);
        return -ENOMEM;
    }
    c->end = end;
    store_relaxed(&c->stamp_mask, 63);
    *out = c;
    return 0;
}

static int role_valid(int role)
{
    return role == CWASI_SENDER || role == CWASI_RECEIVER;
}

int cwasi_channel_open_ring(int memfd, int role, cwasi_channel **out)
{
    endpoint *end;
    int rc = role_valid(role) ? ring_open(memfd, role, &end) : -EINVAL;
    return rc < 0 ? rc : channel_new(end, out);
}

int cwasi_channel_open_pipe(int fd, int role, cwasi_channel **out)
{
    endpoint *end;
    int rc = role_valid(role) ? pipe_open(fd, role, &end) : -EINVAL;
    return rc < 0 ? rc : channel_new(end, out);
}

int channel_role(const cwasi_channel *c)
{
    return c->end->role;
}

/* Lets one thread in. Pairs with the release in leave(): what the last one inside did is visible. */
static int enter(cwasi_channel *c, int role)
{
    if (c->end->role != role)
        return -EINVAL;
    if (!try_claim(&c->owner, FREE, INSIDE))
        return load_relaxed(&c->owner) >= CLOSING ? -EBADF : -EBUSY;
    return 0;
}

static void leave(cwasi_channel *c)
{
    store_release(&c->owner, FREE);
}

/* stamp: NULL to take one when it is this message's turn. */
static int send_frame(cwasi_channel *c, const void *data, uint64_t length, const uint64_t *stamp, int64_t timeout_ns)
{
    if (length > CWASI_MESSAGE_MAX)
        return -EMSGSIZE;
    if (!data && length)
        return -EFAULT;
    int rc = enter(c, CWASI_SENDER);
    if (rc < 0)
        return rc;
    cwasi_frame frame = {.seq = c->seq, .length = (uint32_t)length};
    if (stamp)
        frame.stamp = *stamp;
    else if ((c->seq & load_relaxed(&c->stamp_mask)) == 0)
        frame.stamp = (uint64_t)now_ns();
    rc = c->end->torn;
    if (rc == 0)
        rc = c->end->ops->send(c->end, &frame, data, deadline_after(timeout_ns));
    if (rc == 0) {
        c->seq++;
        count_up(&c->end->stats.messages, 1);
        count_up(&c->end->stats.bytes, length);
    }
    leave(c);
    return rc;
}

int cwasi_channel_send(cwasi_channel *c, const void *data, uint64_t length, int64_t timeout_ns)
{
    return send_frame(c, data, length, NULL, timeout_ns);
}

int cwasi_channel_forward(cwasi_channel *c, const void *data, uint64_t length, uint64_t stamp, int64_t timeout_ns)
{
    return send_frame(c, data, length, &stamp, timeout_ns);
}

/* Makes c->frame the next message. */
static int next_frame(cwasi_channel *c, int64_t timeout_ns)
{
    if (c->end->torn)
        return c->end->torn;
    if (c->has_frame)
        return 0;
    int rc = c->end->ops->peek(c->end, &c->frame, deadline_after(timeout_ns));
    if (rc < 0)
        return rc;
    if (c->frame.seq != c->seq)
        return -EBADMSG;   /* lost, doubled or forged */
    c->has_frame = 1;
    return 0;
}

static void count_latency(cwasi_channel *c)
{
    uint64_t now = (uint64_t)now_ns(), ns = now - c->frame.stamp;
    if (c->frame.stamp > now)
        return;   /* only a peer that lies sends from the future */
    ns = MAX(ns, 16);
    unsigned octave = 63 - (unsigned)__builtin_clzll(ns);
    unsigned bucket = octave * 16 + (unsigned)(ns >> (octave - 4)) % 16;
    count_up(&c->histogram[MIN(bucket, CWASI_HISTOGRAM_BUCKETS - 1)], 1);
    count_up(&c->end->stats.timed, 1);
}

static int64_t take_frame(cwasi_channel *c, void *data, uint64_t capacity)
{
    if (c->frame.length > capacity)
        return -EMSGSIZE;
    int rc = c->end->ops->take(c->end, &c->frame, data);
    if (rc < 0)
        return rc;
    c->has_frame = 0;
    c->seq++;
    count_up(&c->end->stats.messages, 1);
    count_up(&c->end->stats.bytes, c->frame.length);
    if (c->frame.stamp)
        count_latency(c);
    return c->frame.length;
}

int64_t cwasi_channel_recv(cwasi_channel *c, void *data, uint64_t capacity, int64_t timeout_ns)
{
    if (!data && capacity)
        return -EFAULT;
    int64_t rc = enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    rc = next_frame(c, timeout_ns);
    if (rc == 0)
        rc = take_frame(c, data, capacity);
    leave(c);
    return rc;
}

int64_t cwasi_channel_peek(cwasi_channel *c, cwasi_frame *frame, int64_t timeout_ns)
{
    int64_t rc = enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    rc = next_frame(c, timeout_ns);
    if (rc == 0) {
        rc = c->frame.length;
        if (frame)
            *frame = c->frame;
    }
    leave(c);
    return rc;
}

int cwasi_channel_sample(cwasi_channel *c, uint32_t every)
{
    if (every == 0 || (every & (every - 1)) != 0)
        return -EINVAL;
    store_relaxed(&c->stamp_mask, every - 1);
    return 0;
}

void cwasi_channel_stop(cwasi_channel *c, int error)
{
    /* Pairs with endpoint_stopped. A closing host overrules a dead peer, never the other way round. */
    if (error == ECANCELED)
        store_ordered(&c->end->stop, ECANCELED);
    else
        try_claim(&c->end->stop, 0, (uint32_t)error);
    c->end->ops->wake(c->end);
}

/* Waits for the end to be free and takes it for good; -EALREADY if it was closed before. Another thread that is just
 * closing it counts as inside. */
static int claim_for_close(cwasi_channel *c, deadline until)
{
    const struct timespec pause = {0, 100000};
    while (!try_claim(&c->owner, FREE, CLOSING)) {
        /* Pairs with the store at the end of cwasi_channel_close. */
        if (load_acquire(&c->owner) == CLOSED)
            return -EALREADY;
        if (now_ns() > until.at)
            cwasi_channel_stop(c, ECANCELED);
        nanosleep(&pause, NULL);
    }
    return 0;
}

int cwasi_channel_close(cwasi_channel *c, int failed, int64_t linger_ns)
{
    deadline until = deadline_after(linger_ns);
    int rc = claim_for_close(c, until);
    if (rc == -EALREADY)
        return 0;
    rc = c->end->ops->finish(c->end, failed, until);
    store_release(&c->owner, CLOSED);
    return rc;
}

void cwasi_channel_free(cwasi_channel *c)
{
    if (!c)
        return;
    cwasi_channel_close(c, 1, 0);
    c->end->ops->destroy(c->end);
    free(c);
}

void cwasi_channel_stats(const cwasi_channel *c, cwasi_stats *out)
{
    counters *from = &c->end->stats;
    *out = (cwasi_stats){
        .messages = load_relaxed(&from->messages),
        .bytes = load_relaxed(&from->bytes),
        .copied_bytes = load_relaxed(&from->copied_bytes),
        .waits = load_relaxed(&from->waits),
        .parks = load_relaxed(&from->parks),
        .wakes = load_relaxed(&from->wakes),
        .timed = load_relaxed(&from->timed),
    };
}

void cwasi_channel_histogram(const cwasi_channel *c, uint64_t *histogram)
{
    for (int i = 0; i < CWASI_HISTOGRAM_BUCKETS; i++)
        histogram[i] = load_relaxed(&c->histogram[i]);
}
