/* channel.c - one end of a channel: numbers and times messages, admits one thread at a time, and closes in order. */
#include "channel.h"
#include "frame.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { YIELDS = 50 };   /* before who has to wait for another thread inside rather sleeps */
static const struct timespec SHORT_PAUSE = {0, 20000}, PAUSE = {0, 100000};

static int channel_new(endpoint *end, cwasi_channel **out)
{
    cwasi_channel *c = calloc(1, sizeof *c);
    if (!c) {
        end->ops->destroy(end);
        return -ENOMEM;
    }
    line_init(&c->line, end);
    c->role = end->role;
    store_relaxed(&c->limit, CWASI_MESSAGE_MAX);
    store_relaxed(&c->stamp_mask, 63);
    *out = c;
    return 0;
}

static int role_valid(int role)
{
    return role == CWASI_SENDER || role == CWASI_RECEIVER;
}

int cwasi_channel_open_ring(int memfd, int role, unsigned reader, const int *bells, cwasi_channel **out)
{
    endpoint *end;
    int rc = role_valid(role) ? ring_open(memfd, role, reader, bells, &end) : -EINVAL;
    return rc < 0 ? rc : channel_new(end, out);
}

int cwasi_channel_open_pipe(int role, const int *pipes, const int *backs, unsigned readers, cwasi_channel **out)
{
    endpoint *end;
    int rc = role_valid(role) ? pipe_open(role, pipes, backs, readers, &end) : -EINVAL;
    return rc < 0 ? rc : channel_new(end, out);
}

int channel_unused(const cwasi_channel *c, int role)
{
    return c->role == role && !c->sources && c->line.seq == 0 && load_relaxed(&c->line.epoch) == 0 && !c->line.next &&
           !c->has_frame;
}

int cwasi_channel_open_tcp(int role, uint64_t window, unsigned readers, cwasi_tcp **keepers, cwasi_channel **out)
{
    endpoint *end;
    int rc = role_valid(role) ? tcp_open(role, window, readers, keepers, &end) : -EINVAL;
    if (rc < 0 || (rc = channel_new(end, out)) == 0)
        return rc;
    for (unsigned i = 0; i < readers; i++)
        cwasi_tcp_leave(keepers[i], 0);
    return rc;
}

int cwasi_channel_gather(cwasi_channel **sources, unsigned count, cwasi_channel **out)
{
    endpoint *end, **ends = calloc(count ? count : 1, sizeof *ends);
    if (!ends)
        return -ENOMEM;
    int rc = count ? 0 : -EINVAL;
    for (unsigned i = 0; i < count && rc == 0; i++) {
        rc = channel_unused(sources[i], CWASI_RECEIVER) ? 0 : -EINVAL;
        ends[i] = sources[i]->line.now;
    }
    if (rc == 0) {
        rc = gather_open(ends, count, &end);
        for (unsigned i = 0; i < count; i++)
            free(sources[i]);   /* without its end, which the gatherer has */
        rc = rc < 0 ? rc : channel_new(end, out);
        if (rc == 0)
            (*out)->sources = count;
    }
    free(ends);
    return rc;
}

statistics_row *channel_row(cwasi_channel *c)
{
    return &c->row;
}

int channel_role(const cwasi_channel *c)
{
    return c->role;
}

/* Lets one thread in. Pairs with the release in channel_leave(): what the last one inside did is visible. */
int channel_enter(cwasi_channel *c, int role)
{
    if (c->role != role)
        return -EINVAL;
    while (!try_claim(&c->owner, FREE, INSIDE)) {
        uint32_t owner = load_relaxed(&c->owner);
        if (owner == TENDED)
            sched_yield();   /* a few microseconds */
        else if (owner != FREE)
            return owner >= CLOSING ? -EBADF : -EBUSY;
    }
    if (is_accounting())
        c->inside = account_open();
    return 0;
}

int channel_enter_sender(cwasi_channel *c, deadline until)
{
    for (int looks = 0; load_relaxed(&c->awaited); looks++) {
        if (until.at == 0)
            return -EAGAIN;
        if (now_ns() >= until.at)
            return -ETIMEDOUT;
        if (looks < YIELDS)
            sched_yield();
        else
            nanosleep(&SHORT_PAUSE, NULL);
    }
    return channel_enter(c, CWASI_SENDER);
}

void channel_leave(cwasi_channel *c)
{
    if (__builtin_expect(c->inside.began != 0, 0)) {
        account_close(&c->inside, c);
        c->inside.began = 0;
    }
    store_release(&c->owner, FREE);
}

cwasi_frame channel_new_frame(const cwasi_channel *c, uint64_t length, const uint64_t *stamp)
{
    cwasi_frame frame = {.seq = c->line.seq, .length = (uint32_t)length, .epoch = load_relaxed(&c->line.epoch)};
    if (stamp)
        frame.stamp = *stamp & ~FRAME_HANDED;
    else if ((c->line.seq & load_relaxed(&c->stamp_mask)) == 0)
        frame.stamp = (uint64_t)now_ns();
    return frame;
}

void channel_count_sent(cwasi_channel *c, uint64_t length)
{
    c->line.seq++;
    count_up(&c->line.now->stats.messages, 1);
    count_up(&c->line.now->stats.bytes, length);
}

int channel_intact(cwasi_channel *c)
{
    uint64_t unread;
    return c->line.now->torn ? c->line.now->torn : line_lost(&c->line, &unread);
}

static int send_frame(cwasi_channel *c, const void *data, uint64_t length, const uint64_t *stamp, deadline until)
{
    if (length > load_relaxed(&c->limit))
        return -EMSGSIZE;
    if (!data && length)
        return -EFAULT;
    int rc = channel_enter_sender(c, until);
    if (rc < 0)
        return rc;
    cwasi_frame frame = channel_new_frame(c, length, stamp);
    rc = channel_intact(c);
    if (rc == 0)
        rc = c->line.now->ops->send(c->line.now, &frame, data, until);
    if (rc == 0)
        channel_count_sent(c, length);
    channel_leave(c);
    return rc;
}

int channel_send(cwasi_channel *c, const void *data, uint64_t length, deadline until)
{
    return send_frame(c, data, length, NULL, until);
}

int cwasi_channel_send(cwasi_channel *c, const void *data, uint64_t length, int64_t timeout_ns)
{
    return channel_send(c, data, length, deadline_interruptible(timeout_ns));
}

int cwasi_channel_forward(cwasi_channel *c, const void *data, uint64_t length, uint64_t stamp, int64_t timeout_ns)
{
    return send_frame(c, data, length, &stamp, deadline_interruptible(timeout_ns));
}

int channel_next_frame(cwasi_channel *c, deadline until)
{
    if (c->line.now->torn)
        return c->line.now->torn;
    if (c->has_frame)
        return 0;
    int rc = line_peek(&c->line, &c->frame, until);
    c->has_frame = rc == 0;
    return rc;
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
    count_up(&c->line.now->stats.timed, 1);
    count_up(&c->timed_ns, MIN(ns, (uint64_t)1 << CWASI_HISTOGRAM_BUCKETS / 16));
}

void channel_count_received(cwasi_channel *c)
{
    c->has_frame = 0;
    c->line.seq++;
    count_up(&c->line.now->stats.messages, 1);
    count_up(&c->line.now->stats.bytes, c->frame.length);
    if (c->frame.stamp)
        count_latency(c);
}

static int64_t take_frame(cwasi_channel *c, void *data, uint64_t capacity)
{
    if (c->frame.length > capacity)
        return -EMSGSIZE;
    int rc = c->line.now->ops->take(c->line.now, &c->frame, data);
    if (rc == -ESTALE)
        c->has_frame = 0;
    if (rc < 0)
        return rc;
    channel_count_received(c);
    return c->frame.length;
}

/* Makes c->frame the next message. A large buffer is offered meanwhile, so that the message may come straight into it. */
static int await_frame(cwasi_channel *c, void *data, uint64_t capacity, deadline until)
{
    endpoint *end = c->line.now;
    uint32_t epoch = channel_epoch(c);
    int offered = data && end->ops->offer && !c->has_frame && end->ops->offer(end, data, capacity);
    int rc = channel_next_frame(c, until);
    /* A transport that the sender has left is gone, and nobody is there to use what was offered. */
    if (offered && channel_epoch(c) == epoch && end->ops->withdraw(end) && rc < 0)
        rc = channel_next_frame(c, deadline_after(-1));   /* it has come all the same */
    return rc;
}

/* data: NULL to forget the message. */
static int64_t receive(cwasi_channel *c, void *data, uint64_t capacity, deadline until)
{
    int64_t rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    do {
        rc = await_frame(c, data, capacity, until);
        if (rc == 0)
            rc = take_frame(c, data, capacity);
    } while (rc == -ESTALE);
    channel_leave(c);
    return rc;
}

int64_t channel_recv(cwasi_channel *c, void *data, uint64_t capacity, deadline until)
{
    return data || capacity == 0 ? receive(c, data, capacity, until) : -EFAULT;
}

int channel_drop(cwasi_channel *c, deadline until)
{
    int64_t rc = receive(c, NULL, CWASI_MESSAGE_MAX, until);
    return rc < 0 ? (int)rc : 0;
}

unsigned channel_source(const cwasi_channel *c)
{
    return c->sources ? c->line.now->ops->last_source(c->line.now) : 0;
}

int64_t cwasi_channel_recv(cwasi_channel *c, void *data, uint64_t capacity, int64_t timeout_ns)
{
    return channel_recv(c, data, capacity, deadline_interruptible(timeout_ns));
}

static int64_t peek_frame(cwasi_channel *c, cwasi_frame *frame, deadline until)
{
    int64_t rc = channel_enter(c, CWASI_RECEIVER);
    if (rc < 0)
        return rc;
    rc = channel_next_frame(c, until);
    if (frame && (rc == 0 || rc == -EREMCHG))
        *frame = c->frame;
    if (rc == 0)
        rc = c->frame.length;
    channel_leave(c);
    return rc;
}

int64_t channel_peek(cwasi_channel *c, deadline until)
{
    return peek_frame(c, NULL, until);
}

int64_t cwasi_channel_peek(cwasi_channel *c, cwasi_frame *frame, int64_t timeout_ns)
{
    return peek_frame(c, frame, deadline_interruptible(timeout_ns));
}

line *channel_line(cwasi_channel *c, unsigned source)
{
    if (c->sources)
        return c->line.now->ops->source(c->line.now, source);
    return source == 0 ? &c->line : NULL;
}

int cwasi_channel_bells(cwasi_channel *c, int *descriptors, unsigned room)
{
    line *l;
    unsigned count = 0;
    for (unsigned i = 0; (l = channel_line(c, i)); i++)
        count += line_bells(l, descriptors + count, room - count);
    return (int)count;
}

void cwasi_channel_hung_up(cwasi_channel *c, int bell)
{
    line *l;
    for (unsigned i = 0; (l = channel_line(c, i)); i++)
        line_hung_up(l, bell);
}

int cwasi_channel_trim(cwasi_channel *c)
{
    if (c->role != CWASI_SENDER || !try_claim(&c->owner, FREE, TENDED))
        return 0;
    endpoint *end = c->line.now;
    int rc = end->ops->trim ? end->ops->trim(end) : 0;
    channel_leave(c);
    return rc;
}

int cwasi_channel_limit(cwasi_channel *c, uint64_t limit)
{
    if (limit > CWASI_MESSAGE_MAX)
        return -EINVAL;
    store_relaxed(&c->limit, limit);
    return 0;
}

int cwasi_channel_sample(cwasi_channel *c, uint32_t every)
{
    if (every == 0 || (every & (every - 1)) != 0)
        return -EINVAL;
    store_relaxed(&c->stamp_mask, every - 1);
    return 0;
}

void cwasi_channel_set_mode(cwasi_channel *c, unsigned mode)
{
    line *l;
    for (unsigned i = 0; (l = channel_line(c, i)); i++)
        line_set_mode(l, mode);
}

unsigned cwasi_channel_mode(cwasi_channel *c)
{
    line *l;
    uint32_t mode = 0;
    for (unsigned i = 0; (l = channel_line(c, i)); i++)
        mode = MAX(mode, line_mode(l));
    return mode;
}

void cwasi_channel_stop(cwasi_channel *c)
{
    line_stop(&c->line, ECANCELED);
}

void cwasi_channel_peer_died(cwasi_channel *c, unsigned peer)
{
    line_peer_died(&c->line, peer);
}

void cwasi_channel_peer_died_in(cwasi_channel *c, uint32_t epoch)
{
    line_peer_died_in(&c->line, epoch);
}

uint64_t cwasi_channel_unread(cwasi_channel *c)
{
    return line_unread(&c->line);
}

int cwasi_channel_lost(cwasi_channel *c, uint64_t *unread)
{
    return line_lost(&c->line, unread) < 0;
}

/* Waits for the end to be free and takes it for good; -EALREADY if it was closed before. Another thread that is just
 * closing it counts as inside. */
static int claim_for_close(cwasi_channel *c, deadline until)
{
    while (!try_claim(&c->owner, FREE, CLOSING)) {
        /* Pairs with the store at the end of cwasi_channel_close. */
        if (load_acquire(&c->owner) == CLOSED)
            return -EALREADY;
        if (now_ns() > until.at)
            cwasi_channel_stop(c);
        nanosleep(&PAUSE, NULL);
    }
    return 0;
}

int cwasi_channel_close(cwasi_channel *c, int failed, int64_t linger_ns)
{
    deadline until = deadline_after(linger_ns);
    int rc = claim_for_close(c, until);
    if (rc == -EALREADY)
        return 0;
    rc = line_finish(&c->line, failed, until);
    store_release(&c->owner, CLOSED);
    return rc;
}

int cwasi_channel_hand_over(cwasi_channel *c, cwasi_handover *h)
{
    endpoint *end = c->line.now;
    return end->ops->hand_over ? end->ops->hand_over(end, h) : -ENOTSUP;
}

void cwasi_channel_free(cwasi_channel *c)
{
    if (!c)
        return;
    cwasi_channel_close(c, 1, 0);
    line_destroy(&c->line);
    free(c);
}

int cwasi_channel_abandon(cwasi_channel *c)
{
    /* Who wants to tend it looks at it again. */
    if (load_relaxed(&c->awaited) || (!try_claim(&c->owner, FREE, CLOSED) && load_relaxed(&c->owner) != CLOSED))
        return -EBUSY;
    line_destroy(&c->line);
    free(c);
    return 0;
}

void cwasi_channel_forked(cwasi_channel *c)
{
    line *l;
    for (unsigned i = 0; (l = channel_line(c, i)); i++)
        line_forked(l);
    line_forked(&c->line);
    store_relaxed(&c->awaited, 0);
    try_claim(&c->owner, TENDED, FREE);
    /* Who is inside is there in the middle of something: this copy can only be given up. */
    if (load_relaxed(&c->owner) != FREE)
        store_relaxed(&c->owner, CLOSED);
}

void cwasi_channel_stats(cwasi_channel *c, cwasi_stats *out)
{
    cwasi_stats one;
    line_stats(&c->line, out);
    for (unsigned i = 0; i < c->sources; i++) {
        line_stats(channel_line(c, i), &one);
        out->copied_bytes += one.copied_bytes;
        out->waits += one.waits;
        out->parks += one.parks;
        out->wakes += one.wakes;
    }
}

int cwasi_channel_source_stats(cwasi_channel *c, unsigned source, cwasi_stats *out)
{
    line *found = c->sources ? channel_line(c, source) : NULL;
    if (!found)
        return -EINVAL;
    line_stats(found, out);
    return 0;
}

uint64_t channel_timed_ns(const cwasi_channel *c)
{
    return load_relaxed(&c->timed_ns);
}

void cwasi_channel_histogram(const cwasi_channel *c, uint64_t *histogram)
{
    for (int i = 0; i < CWASI_HISTOGRAM_BUCKETS; i++)
        histogram[i] = load_relaxed(&c->histogram[i]);
}
