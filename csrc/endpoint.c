/* endpoint.c - what every transport's end has in common. */
#include "account.h"
#include "frame.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

void endpoint_init(endpoint *e, const endpoint_ops *ops, int role)
{
    *e = (endpoint){.ops = ops, .role = role};
}

int endpoint_stopped(endpoint *e)
{
    /* Pairs with the store in endpoint_stop. */
    return -(int)load_ordered(&e->stop);
}

void endpoint_stop(endpoint *e, int error)
{
    /* A closing host overrules a dead peer, never the other way round. */
    if (error == ECANCELED)
        store_ordered(&e->stop, ECANCELED);
    else
        try_claim(&e->stop, 0, (uint32_t)error);
    e->ops->wake(e);
}

void endpoint_peer_died(endpoint *e, unsigned peer)
{
    if (e->ops->peer_died)
        e->ops->peer_died(e, peer);
    else
        endpoint_stop(e, ECONNRESET);
}

uint64_t endpoint_unread(endpoint *e)
{
    return e->ops->unread ? e->ops->unread(e) : 0;
}

int endpoint_bell(const endpoint *e, unsigned peer)
{
    return e->ops->bell ? e->ops->bell(e, peer) : -1;
}

typedef struct {
    endpoint **list;
    unsigned count, from;
    unsigned found;
} crowd;

static int any_ready(void *arg)
{
    crowd *c = arg;
    for (unsigned n = 0; n < c->count; n++) {
        c->found = (c->from + n) % c->count;
        if (c->list[c->found]->ops->look(c->list[c->found]))
            return 1;
    }
    return 0;
}

int poll_until(struct pollfd *fds, unsigned count, deadline until)
{
    struct timespec left, *timeout = NULL;
    int64_t at = wait_slice(until);
    if (at != INT64_MAX) {
        int64_t ns = at - now_ns();
        ns = MAX(ns, 0);
        left = (struct timespec){ns / 1000000000, ns % 1000000000};
        timeout = &left;
    }
    int64_t counted_from = account_clock();
    int rc = ppoll(fds, count, timeout, NULL), error = errno;
    account_waited(counted_from);
    if (rc < 0)
        return error == EINTR && until.interruptible != BY_SIGNAL ? 0 : -error;
    return rc == 0 ? wait_over(until) : 0;
}

/* Room for what all of them fill in, which a look may have changed. 0, -ENOTSUP or -ENOMEM. */
static int make_room(const crowd *c, struct pollfd **fds, unsigned *room)
{
    unsigned wanted = 0;
    for (unsigned i = 0; i < c->count; i++) {
        if (c->list[i]->descriptors == 0)
            return -ENOTSUP;
        wanted += c->list[i]->descriptors;
    }
    if (wanted <= *room)
        return 0;
    struct pollfd *more = realloc(*fds, wanted * sizeof **fds);
    if (!more)
        return -ENOMEM;
    *fds = more;
    *room = wanted;
    return 0;
}

/* Sleeps once, until one of them may be ready. */
static int sleep_in_all(crowd *c, struct pollfd *fds, deadline until)
{
    unsigned armed = 0, used = 0;
    int ready = 0;
    while (armed < c->count && !ready) {
        endpoint *e = c->list[armed++];
        ready = e->ops->arm(e, fds + used);
        used += e->descriptors;
    }
    int rc = ready ? 0 : poll_until(fds, used, until);
    for (unsigned i = 0; i < armed; i++)
        c->list[i]->ops->disarm(c->list[i]);
    return rc;
}

int endpoint_wait(endpoint **list, unsigned count, unsigned from, waiter *w, deadline until)
{
    crowd c = {.list = list, .count = count, .from = from};
    if (any_ready(&c))
        return (int)c.found;
    if (until.at == 0)
        return -EAGAIN;
    int64_t began = now_ns();
    if (wait_spin(w, any_ready, &c, began, until)) {
        wait_learn(w, began, 1);
        return (int)c.found;
    }
    struct pollfd *fds = NULL;
    unsigned room = 0;
    int rc = 0;
    while (rc == 0 && !any_ready(&c)) {
        rc = make_room(&c, &fds, &room);
        /* By the clock: a peer that rings without end keeps us from sleeping until then. */
        if (rc == 0)
            rc = now_ns() >= until.at ? -ETIMEDOUT : sleep_in_all(&c, fds, until);
        count_up(w->parks, 1);
    }
    free(fds);
    wait_learn(w, began, 0);
    return rc < 0 ? rc : (int)c.found;
}

int frame_check(const cwasi_frame *frame)
{
    if (frame->length == FRAME_FINISHED)
        return -EPIPE;
    if (frame->length == FRAME_FAILED)
        return -ECONNRESET;
    if (frame->length == FRAME_SWITCH)
        return -EREMCHG;
    return frame->length > CWASI_MESSAGE_MAX ? -EBADMSG : 0;
}
