/* gather.c - one receiver of several senders: takes from each in turn, in the order in which each has sent.
 *
 * A sender that finished is left out from then on. So is one that died, once what it had sent is read: the others go
 * on, and the end of the channel then tells of the death.
 */
#include "line.h"
#include "frame.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

typedef struct {
    endpoint base;
    waiter waiter;
    line *source;              /* all, in the order given */
    unsigned count;
    endpoint **live;           /* those that have not ended, and which of the sources each is */
    unsigned *which;
    unsigned left;
    unsigned next;             /* of the live ones, whose turn it is */
    unsigned current;          /* of all, the one whose frame was peeked */
    uint64_t seq;              /* of the next message, counted over all */
    int lost;                  /* 0, or what the first that did not finish ended with */
} gather;

/* How many arm fills in; 0 if one of them cannot be armed. */
static void count_descriptors(gather *g)
{
    unsigned descriptors = 0, armed = 0;
    for (unsigned i = 0; i < g->count; i++) {
        descriptors += g->source[i].now->descriptors;
        armed += g->source[i].now->descriptors > 0;
    }
    g->base.descriptors = armed == g->count ? descriptors : 0;
}

static void leave_out(gather *g, unsigned live, int why)
{
    if (why != -EPIPE) {
        count_up(&g->base.stats.lost_peers, 1);
        g->lost = g->lost ? g->lost : why;
    }
    g->left--;
    for (unsigned i = live; i < g->left; i++) {
        g->live[i] = g->live[i + 1];
        g->which[i] = g->which[i + 1];
    }
    g->next = g->left ? live % g->left : 0;
}

/* Waits for one that has something, the end of its messages included; its index among the live ones. */
static int await_one(gather *g, deadline until)
{
    if (g->left == 1)
        return 0;   /* its own wait is cheaper than one for several */
    int64_t parks = (int64_t)load_relaxed(&g->base.stats.parks);
    int rc = endpoint_wait(g->live, g->left, g->next, &g->waiter, until);
    count_up(&g->base.stats.waits, (int64_t)load_relaxed(&g->base.stats.parks) != parks);
    return rc;
}

static int is_end(int rc)
{
    return rc == -EPIPE || rc == -ECONNRESET || rc == -EREMCHG || rc == -EBADMSG;
}

static int gather_peek(endpoint *e, cwasi_frame *frame, deadline until)
{
    gather *g = (gather *)e;
    while (g->left > 0) {
        int live = await_one(g, until);
        int stop = endpoint_stopped(e);
        if (stop == -ECANCELED || live < 0)
            return stop == -ECANCELED ? stop : live;
        line *from = &g->source[g->which[live]];
        /* That one may have only the beginning of a message, where others have whole ones: do not wait for it. */
        int rc = line_peek(from, frame, g->left == 1 ? until : deadline_after(0));
        if (g->live[live] != from->now) {
            g->live[live] = from->now;   /* its sender has gone to another transport */
            count_descriptors(g);
        }
        if (is_end(rc)) {
            leave_out(g, (unsigned)live, rc);
            continue;
        }
        if (rc == -EAGAIN && g->left > 1) {
            g->next = ((unsigned)live + 1) % g->left;
            continue;
        }
        if (rc == 0) {
            g->current = g->which[live];
            g->next = (unsigned)live;   /* until it is taken */
            frame->seq = g->seq;
        }
        return rc;
    }
    return g->lost ? g->lost : -EPIPE;
}

static unsigned live_index(const gather *g, unsigned source)
{
    unsigned i = 0;
    while (g->which[i] != source)
        i++;
    return i;
}

static int gather_take(endpoint *e, const cwasi_frame *frame, void *data)
{
    gather *g = (gather *)e;
    line *from = &g->source[g->current];
    cwasi_frame own = *frame;
    own.seq = from->seq;
    int rc = from->now->ops->take(from->now, &own, data);
    if (from->now->torn && endpoint_stopped(e) == 0) {
        /* It died in the middle of this message; nobody has taken turns since the peek. */
        leave_out(g, live_index(g, g->current), rc);
        return -ESTALE;
    }
    if (rc < 0) {
        e->torn = from->now->torn;   /* stopped inside the message; else it stays whole */
        return rc;
    }
    g->next = (live_index(g, g->current) + 1) % g->left;
    from->seq++;
    g->seq++;
    count_up(&from->now->stats.messages, 1);
    count_up(&from->now->stats.bytes, frame->length);
    return 0;
}

static int gather_look(endpoint *e)
{
    /* A sender that has ended is no news while others are left: it is left out, and looked for no more. */
    cwasi_frame frame;
    return gather_peek(e, &frame, deadline_after(0)) != -EAGAIN;
}

static int gather_arm(endpoint *e, struct pollfd *fds)
{
    gather *g = (gather *)e;
    unsigned used = 0;
    int ready = g->left == 0 || endpoint_stopped(e);
    for (unsigned i = 0; i < g->count; i++)
        used += g->source[i].now->descriptors;
    for (unsigned i = 0; i < used; i++)
        fds[i].fd = -1;   /* of those that have ended */
    used = 0;
    for (unsigned i = 0; i < g->left; i++) {
        ready |= g->live[i]->ops->arm(g->live[i], fds + used);
        used += g->live[i]->descriptors;
    }
    return ready;
}

static void gather_disarm(endpoint *e)
{
    gather *g = (gather *)e;
    for (unsigned i = 0; i < g->left; i++)
        g->live[i]->ops->disarm(g->live[i]);
}

static void gather_wake(endpoint *e)
{
    gather *g = (gather *)e;
    for (unsigned i = 0; i < g->count; i++)
        line_stop(&g->source[i], -endpoint_stopped(e));
}

static void gather_peer_died(endpoint *e, unsigned peer)
{
    gather *g = (gather *)e;
    if (peer < g->count)
        line_peer_died(&g->source[peer], 0);
}

static line *gather_source(endpoint *e, unsigned source)
{
    gather *g = (gather *)e;
    return source < g->count ? &g->source[source] : NULL;
}

static unsigned gather_last_source(const endpoint *e)
{
    return ((const gather *)e)->current;
}

static int gather_finish(endpoint *e, int failed, deadline until)
{
    gather *g = (gather *)e;
    int rc = 0;
    for (unsigned i = 0; i < g->count; i++) {
        int one = line_finish(&g->source[i], failed, until);
        rc = rc ? rc : one;
    }
    return rc;
}

static void gather_destroy(endpoint *e)
{
    gather *g = (gather *)e;
    for (unsigned i = 0; i < g->count; i++)
        line_destroy(&g->source[i]);
    free(g->source);
    free(g->live);
    free(g->which);
    free(g);
}

static const endpoint_ops GATHER = {
    .peek = gather_peek, .take = gather_take,
    .look = gather_look, .arm = gather_arm, .disarm = gather_disarm,
    .wake = gather_wake, .peer_died = gather_peer_died,
    .source = gather_source, .last_source = gather_last_source,
    .finish = gather_finish, .destroy = gather_destroy,
};

int gather_open(endpoint **sources, unsigned count, endpoint **out)
{
    gather *g = calloc(1, sizeof *g);
    line *list = calloc(count, sizeof *list);
    endpoint **live = calloc(count, sizeof *live);
    unsigned *which = calloc(count, sizeof *which);
    if (!g || !list || !live || !which) {
        free(g), free(list), free(live), free(which);
        for (unsigned i = 0; i < count; i++)
            sources[i]->ops->destroy(sources[i]);
        return -ENOMEM;
    }
    endpoint_init(&g->base, &GATHER, CWASI_RECEIVER);
    g->source = list;
    g->live = live;
    g->which = which;
    g->count = g->left = count;
    g->waiter.parks = &g->base.stats.parks;
    for (unsigned i = 0; i < count; i++) {
        line_init(&list[i], sources[i]);
        live[i] = sources[i];
        which[i] = i;
    }
    count_descriptors(g);
    *out = &g->base;
    return 0;
}
