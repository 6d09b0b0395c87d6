/* tcp_fan.c - a sender to several receivers over TCP: to each of them the end of a sender, with a connection, a window
 * and a keeper of its own.
 *
 * A message goes when there is room in all windows, so that a wait for the slowest that ends early has sent nothing. A
 * receiver that has left or died is left out from then on.
 */
#include "tcp.h"
#include "fault.h"

#include <errno.h>
#include <stdlib.h>

typedef struct {
    endpoint base;
    unsigned count;
    tcp_end *end[CWASI_READERS_MAX];
    int gone[CWASI_READERS_MAX];   /* 0, or why it takes no more */
} tcp_fan;

/* What is waited for in one of the ends, with its lock held. */
typedef int (*condition)(const tcp_end *t, uint64_t bytes);

static int has_room(const tcp_end *t, uint64_t bytes)
{
    return t->out.window.used + bytes <= t->out.window.limit;
}

static int has_flushed(const tcp_end *t, uint64_t bytes)
{
    (void)bytes;
    return !t->connected || !t->out.opened || !tcp_backlog(t);
}

static int has_taken(const tcp_end *t, uint64_t bytes)
{
    (void)bytes;
    return !t->out.alone.active;
}

/* With its lock held. Nothing of its window is read or written from here on. */
static void drop_reader(tcp_fan *f, unsigned reader, int error)
{
    tcp_end *t = f->end[reader];
    f->gone[reader] = t->out.ended = error;
    t->out.alone.active = 0;
    t->out.own.data = NULL;
    tcp_window_free(&t->out.window);
    if (error != -EPIPE)
        count_up(&f->base.stats.lost_peers, 1);
    tcp_kick(t);
}

/* 0 while a reader is left, else why none is. */
static int look_for_readers(const tcp_fan *f)
{
    int why = -EPIPE;
    for (unsigned i = 0; i < f->count; i++) {
        if (!f->gone[i])
            return 0;
        if (why == -EPIPE)
            why = f->gone[i];
    }
    return why;
}

/* Moves what can be moved. Fills in what to sleep for, and gives 1 if it is as wanted, else 0. */
static int advance(tcp_fan *f, unsigned reader, condition wanted, uint64_t bytes, struct pollfd *fds)
{
    tcp_end *t = f->end[reader];
    fds[0] = fds[1] = (struct pollfd){.fd = -1};
    if (f->gone[reader])
        return 1;
    pthread_mutex_lock(&t->lock);
    tcp_read_records(t);
    tcp_flush(t);
    int rc = tcp_usable(t), done = rc < 0 || wanted(t, bytes);
    if (rc < 0 && rc != -ECANCELED)
        drop_reader(f, reader, rc);
    short more = t->out.opened && tcp_backlog(t) ? POLLOUT : 0;
    if (!f->gone[reader] && (!done || more)) {
        fds[0] = (struct pollfd){t->connected ? t->fd : -1, (short)(POLLIN | more), 0};
        fds[1] = (struct pollfd){t->wake_fd, POLLIN, 0};
    }
    pthread_mutex_unlock(&t->lock);
    return done;
}

static int sleep_in_all(tcp_fan *f, struct pollfd *fds, deadline until)
{
    if (until.at == 0)
        return -EAGAIN;
    count_up(&f->base.stats.waits, 1);
    count_up(&f->base.stats.parks, 1);
    FAULT_POINT(tcp_fan_sleeps);
    int rc = poll_until(fds, 2 * f->count, until);
    for (unsigned i = 0; i < f->count && rc == 0; i++) {
        if (fds[2 * i + 1].fd < 0 || !fds[2 * i + 1].revents)
            continue;
        pthread_mutex_lock(&f->end[i]->lock);
        tcp_quiet(f->end[i]);
        pthread_mutex_unlock(&f->end[i]->lock);
    }
    return rc;
}

/* Until it is as wanted with all that are left: 0, or why not. */
static int await_all(tcp_fan *f, condition wanted, uint64_t bytes, deadline until)
{
    struct pollfd fds[2 * CWASI_READERS_MAX];
    for (;;) {
        int done = 1;
        for (unsigned i = 0; i < f->count; i++)
            done &= advance(f, i, wanted, bytes, fds + 2 * i);
        int rc = endpoint_stopped(&f->base);
        rc = rc < 0 ? rc : look_for_readers(f);
        if (rc < 0 || done)
            return rc;
        rc = sleep_in_all(f, fds, until);
        if (rc < 0)
            return rc;
    }
}

/* Room in memory, too. */
static int reserve_in_all(tcp_fan *f, uint64_t bytes)
{
    int rc = 0;
    for (unsigned i = 0; i < f->count && rc == 0; i++) {
        pthread_mutex_lock(&f->end[i]->lock);
        rc = f->gone[i] ? 0 : tcp_window_reserve(&f->end[i]->out.window, bytes);
        pthread_mutex_unlock(&f->end[i]->lock);
    }
    return rc;
}

static int send_kept(tcp_fan *f, const cwasi_frame *frame, const void *data, uint64_t length, deadline until)
{
    int rc = await_all(f, has_room, WIRE_HEADER + length, until);
    if (rc == 0)
        rc = reserve_in_all(f, WIRE_HEADER + length);
    if (rc < 0)
        return rc;
    FAULT_POINT(tcp_fan_has_room);
    for (unsigned i = 0; i < f->count; i++) {
        pthread_mutex_lock(&f->end[i]->lock);
        if (!f->gone[i])
            tcp_keep(f->end[i], frame, data, length);
        pthread_mutex_unlock(&f->end[i]->lock);
        FAULT_POINT(tcp_fan_kept);
    }
    /* It is safe in the windows, as in tcp_sender.c. */
    await_all(f, has_flushed, 0, until);
    for (unsigned i = 0; i < f->count; i++) {
        pthread_mutex_lock(&f->end[i]->lock);
        f->end[i]->out.own.data = NULL;
        if (!f->gone[i] && tcp_backlog(f->end[i]))
            tcp_kick(f->end[i]);
        pthread_mutex_unlock(&f->end[i]->lock);
    }
    return 0;
}

/* A message longer than the windows, which the caller keeps until all have it. */
static int send_alone(tcp_fan *f, const cwasi_frame *frame, const void *data, uint64_t length, deadline until)
{
    int rc = await_all(f, has_room, until.at == 0 ? 0 : f->end[0]->out.window.limit, until);
    if (rc == 0 && until.at == 0)
        rc = -EAGAIN;
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < f->count; i++) {
        pthread_mutex_lock(&f->end[i]->lock);
        if (!f->gone[i])
            tcp_put_alone(f->end[i], frame, data, length);
        pthread_mutex_unlock(&f->end[i]->lock);
    }
    FAULT_POINT(tcp_fan_alone);
    rc = await_all(f, has_taken, 0, deadline_after(-1));
    for (unsigned i = 0; i < f->count && rc < 0; i++) {
        pthread_mutex_lock(&f->end[i]->lock);
        if (f->end[i]->out.alone.active)
            tcp_tear_alone(f->end[i], rc);
        pthread_mutex_unlock(&f->end[i]->lock);
    }
    return f->base.torn = rc;
}

static int fan_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until)
{
    tcp_fan *f = (tcp_fan *)e;
    uint64_t length = payload_of(frame->length);
    int rc = length + WIRE_HEADER > f->end[0]->out.window.limit ? send_alone(f, frame, data, length, until)
                                                                : send_kept(f, frame, data, length, until);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < f->count; i++)
        count_up(&f->end[i]->base.stats.messages, 1);   /* which it has not received, if it is gone */
    count_up(&e->stats.copied_bytes, length);
    FAULT_POINT(tcp_fan_sent);
    return 0;
}

static int fan_leave(endpoint *e, const cwasi_frame *last, deadline until)
{
    return send_kept((tcp_fan *)e, last, NULL, 0, until);
}

static void fan_wake(endpoint *e)
{
    tcp_fan *f = (tcp_fan *)e;
    int stop = endpoint_stopped(e);
    for (unsigned i = 0; i < f->count && stop; i++)
        endpoint_stop(&f->end[i]->base, -stop);
}

static void fan_peer_died(endpoint *e, unsigned peer)
{
    tcp_fan *f = (tcp_fan *)e;
    if (peer < f->count)
        tcp_peer_died(&f->end[peer]->base, 0);
}

static uint64_t fan_unread(endpoint *e)
{
    tcp_fan *f = (tcp_fan *)e;
    uint64_t most = 0;
    for (unsigned i = 0; i < f->count; i++)
        most = MAX(most, tcp_unread(&f->end[i]->base));
    return most;
}

/* Those that have read it all go on, whatever became of the others. */
static int fan_outcome(endpoint *e)
{
    tcp_fan *f = (tcp_fan *)e;
    int rc = -ECONNRESET;
    for (unsigned i = 0; i < f->count; i++) {
        int of = tcp_outcome(&f->end[i]->base);
        rc = of == 0 || rc == 0 ? 0 : MAX(of, rc);
    }
    return rc;
}

static int fan_trim(endpoint *e)
{
    tcp_fan *f = (tcp_fan *)e;
    int trims = 0;
    for (unsigned i = 0; i < f->count; i++)
        trims |= tcp_trim(&f->end[i]->base);
    return trims;
}

static int fan_finish(endpoint *e, int failed, deadline until)
{
    tcp_fan *f = (tcp_fan *)e;
    for (unsigned i = 0; i < f->count; i++)
        tcp_finish(&f->end[i]->base, failed || e->torn, until);
    return 0;
}

static void fan_destroy(endpoint *e)
{
    tcp_fan *f = (tcp_fan *)e;
    for (unsigned i = 0; i < f->count; i++)
        tcp_destroy(&f->end[i]->base);
    free(f);
}

static const endpoint_ops FAN = {
    .send = fan_send, .leave = fan_leave, .wake = fan_wake, .peer_died = fan_peer_died,
    .unread = fan_unread, .outcome = fan_outcome, .trim = fan_trim, .finish = fan_finish, .destroy = fan_destroy,
};

int tcp_fan_open(uint64_t window, unsigned readers, cwasi_tcp **keepers, endpoint **out)
{
    tcp_fan *f = calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    endpoint_init(&f->base, &FAN, CWASI_SENDER);
    int rc = 0;
    while (f->count < readers && (rc = tcp_end_open(CWASI_SENDER, window, &f->end[f->count])) == 0) {
        keepers[f->count] = f->end[f->count];
        f->count++;
    }
    if (rc == 0) {
        *out = &f->base;
        return 0;
    }
    for (unsigned i = 0; i < f->count; i++)
        cwasi_tcp_leave(keepers[i], 0);
    fan_destroy(&f->base);
    return rc;
}
