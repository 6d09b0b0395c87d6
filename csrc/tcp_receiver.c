/* tcp_receiver.c - the receiving side over TCP. */
#include "tcp.h"
#include "fault.h"

#include <errno.h>
#include <sys/socket.h>

/* What was taken is told when it is that much, or that old. */
enum { TELL_MESSAGES = 128, TELL_BYTES = 256 * 1024, DRAIN_READS = 256 };
static const int64_t TELL_NS = 5000000;

/* ---- what is told ---- */

static int untold(const tcp_in *i)
{
    return i->told != i->taken || i->told_returned != i->returned;
}

/* A peer that does not read what it is told learns it later, or never. */
static void tell(tcp_end *t)
{
    tcp_in *i = &t->in;
    if (i->record_at == 0) {
        cwasi_frame record = {.seq = i->taken + (i->over ? 1 : 0), .stamp = i->returned, .length = t->last};
        to_wire(i->record, &record);
        i->told = i->taken;
        i->told_returned = i->returned;
        i->untold_bytes = 0;
        i->untold_since = 0;
    }
    FAULT_POINT(tcp_tell_begins);
    ssize_t n = send(t->fd, i->record + i->record_at, WIRE_HEADER - i->record_at, MSG_DONTWAIT | MSG_NOSIGNAL);
    FAULT_POINT(tcp_tell_ends);
    if (n > 0)
        i->record_at = (i->record_at + (size_t)n) % WIRE_HEADER;
    else if (i->record_at == 0)
        i->told = i->told_returned = UINT64_MAX;   /* to be told again */
}

static void tell_if_due(tcp_end *t)
{
    tcp_in *i = &t->in;
    if (!t->connected || !untold(i))
        return;
    if (i->taken - i->told >= TELL_MESSAGES || i->untold_bytes >= TELL_BYTES || now_ns() - i->untold_since >= TELL_NS)
        tell(t);
}

/* ---- what comes ---- */

/* Reads what there is: bytes, -EAGAIN or -ENOTCONN. */
static int fill(tcp_end *t)
{
    tcp_in *i = &t->in;
    if (!t->connected)
        return -ENOTCONN;
    memmove(i->ahead, i->ahead + i->begin, i->end - i->begin);
    i->end -= i->begin;
    i->begin = 0;
    FAULT_POINT(tcp_read_begins);
    ssize_t n = recv(t->fd, i->ahead + i->end, TCP_AHEAD - i->end, MSG_DONTWAIT);
    FAULT_POINT(tcp_read_ends);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return -EAGAIN;
    if (n <= 0) {
        tcp_break(t, n < 0 ? errno : 0);
        return -ENOTCONN;
    }
    i->end += (size_t)n;
    if (load_ordered(&i->died))
        store_ordered(&i->died, (uint64_t)(now_ns() + TCP_QUIET_NS));
    return (int)n;
}

static int header_there(const tcp_in *i)
{
    return i->end - i->begin >= WIRE_HEADER;
}

/* 0 while something may still come. */
static int usable(tcp_end *t)
{
    int stop = endpoint_stopped(&t->base);
    if (stop == -ECANCELED)
        return stop;
    return !t->connected && (stop || !t->kept || load_ordered(&t->in.died)) ? -ECONNRESET : 0;
}

/* Sleeps until something may have come. */
static int await_some(tcp_end *t, deadline until)
{
    int64_t quiet_at = t->connected ? (int64_t)load_ordered(&t->in.died) : 0;
    if (quiet_at && now_ns() >= quiet_at)
        tcp_break(t, 0);
    int rc = usable(t);
    if (rc < 0 || until.at == 0)
        return rc < 0 ? rc : -EAGAIN;
    int telling = t->connected && untold(&t->in);
    deadline soon = until;
    if (quiet_at)
        soon.at = MIN(soon.at, quiet_at);
    if (telling)
        soon.at = MIN(soon.at, now_ns() + TELL_NS);
    rc = tcp_wait(t, POLLIN, soon);
    if (rc != -ETIMEDOUT)
        return rc;
    if (telling && t->connected)
        tell(t);
    return now_ns() >= until.at ? -ETIMEDOUT : 0;
}

static int await_header(tcp_end *t, deadline until)
{
    int rc = 0;
    tell_if_due(t);
    while (!header_there(&t->in) && rc >= 0) {
        rc = fill(t);
        if (rc < 0)
            rc = await_some(t, until);
    }
    t->in.peeked = t->connection;
    return rc < 0 ? rc : 0;
}

/* The last frame has come, and the sender is told so: it then needs to keep nothing. */
static void see_last(tcp_end *t)
{
    if (t->in.over)
        return;
    t->in.over = 1;
    if (t->connected)
        tell(t);
}

int tcp_peek(endpoint *e, cwasi_frame *frame, deadline until)
{
    tcp_end *t = (tcp_end *)e;
    int rc = endpoint_stopped(e);
    if (rc == -ECANCELED)
        return rc;
    FAULT_POINT(tcp_peek_begins);
    pthread_mutex_lock(&t->lock);
    t->in.returned = t->in.taken;   /* who calls again has them all */
    rc = await_header(t, until);
    if (rc == 0) {
        *frame = from_wire(t->in.ahead + t->in.begin);
        frame->stamp = t->in.timed ? frame->stamp : 0;
        rc = frame_check(frame);
        if (rc == -EBADMSG) {
            e->torn = rc;
            tcp_break(t, 0);
        } else if (rc < 0) {
            see_last(t);
        }
    }
    pthread_mutex_unlock(&t->lock);
    FAULT_POINT(tcp_peek_ends);
    return rc;
}

/* A new connection came since the frame was peeked: it begins with the same one. */
static int peek_again(tcp_end *t, const cwasi_frame *frame)
{
    int rc = await_header(t, deadline_after(-1));
    if (rc < 0)
        return rc;
    cwasi_frame again = from_wire(t->in.ahead + t->in.begin);
    if (frame_check(&again) == -ECONNRESET || frame_check(&again) == -EPIPE) {
        see_last(t);
        return -ECONNRESET;   /* stopped inside this message, the sender has closed */
    }
    return again.seq == frame->seq && again.length == frame->length ? 0 : -EBADMSG;
}

/* Reads what is left of a payload, straight to where it belongs, and what follows it: 0, -ENOTCONN or as await_some. */
static int read_rest(tcp_end *t, uint8_t *to, uint64_t left)
{
    tcp_in *i = &t->in;
    while (left > 0) {
        struct iovec pieces[2] = {{to, left}, {i->ahead, TCP_AHEAD}};
        struct msghdr message = {.msg_iov = to ? pieces : pieces + 1, .msg_iovlen = to ? 2 : 1};
        i->begin = i->end = 0;
        FAULT_POINT(tcp_read_rest);
        ssize_t n = t->connected ? recvmsg(t->fd, &message, MSG_DONTWAIT) : 0;
        if (n > 0) {
            uint64_t part = MIN((uint64_t)n, left);
            i->begin = to ? 0 : part;
            i->end = to ? (uint64_t)n - part : (uint64_t)n;
            left -= part;
            to = to ? to + part : NULL;
            continue;
        }
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            tcp_break(t, n < 0 ? errno : 0);
        int rc = await_some(t, deadline_after(-1));
        if (rc < 0)
            return rc;
        if (t->connection != i->peeked)
            return -ENOTCONN;
    }
    return 0;
}

static int take_payload(tcp_end *t, uint64_t length, uint8_t *to)
{
    tcp_in *i = &t->in;
    i->begin += WIRE_HEADER;
    uint64_t buffered = MIN(i->end - i->begin, length);
    if (to)
        copy_here(to, i->ahead + i->begin, buffered);
    i->begin += buffered;
    return read_rest(t, to ? to + buffered : NULL, length - buffered);
}

static void count_taken(tcp_end *t, uint64_t length)
{
    tcp_in *i = &t->in;
    if (i->untold_since == 0)
        i->untold_since = now_ns();
    i->taken++;
    i->untold_bytes += WIRE_HEADER + length;
    /* Now for large ones: a sender that has kept no copy waits for it. */
    if (t->connected && i->untold_bytes >= TELL_BYTES)
        tell(t);
}

int tcp_take(endpoint *e, const cwasi_frame *frame, void *data)
{
    tcp_end *t = (tcp_end *)e;
    uint64_t length = payload_of(frame->length);
    int rc;
    FAULT_POINT(tcp_take_begins);
    pthread_mutex_lock(&t->lock);
    do {
        rc = t->connection == t->in.peeked ? 0 : peek_again(t, frame);
        if (rc == 0)
            rc = take_payload(t, length, data);
    } while (rc == -ENOTCONN);
    if (rc == 0)
        count_taken(t, length);
    else
        tcp_break(t, 0);
    e->torn = rc;
    pthread_mutex_unlock(&t->lock);
    FAULT_POINT(tcp_take_ends);
    count_up(&e->stats.copied_bytes, rc < 0 ? 0 : length);
    return rc;
}

/* ---- waiting in several ---- */

static int look(tcp_end *t)
{
    if (!header_there(&t->in))
        fill(t);
    return header_there(&t->in) || usable(t) < 0;
}

int tcp_look(endpoint *e)
{
    tcp_end *t = (tcp_end *)e;
    pthread_mutex_lock(&t->lock);
    int ready = look(t);
    pthread_mutex_unlock(&t->lock);
    return ready;
}

int tcp_arm(endpoint *e, struct pollfd *fds)
{
    tcp_end *t = (tcp_end *)e;
    pthread_mutex_lock(&t->lock);
    int ready = look(t);
    t->in.returned = t->in.taken;
    if (!ready && t->connected && untold(&t->in))
        tell(t);   /* nobody knows how long this sleep is */
    fds[0] = (struct pollfd){t->connected ? t->fd : -1, POLLIN, 0};
    fds[1] = (struct pollfd){t->wake_fd, POLLIN, 0};
    pthread_mutex_unlock(&t->lock);
    return ready;
}

/* ---- the end, and the keeper's part ---- */

void tcp_receiver_finish(tcp_end *t)
{
    t->in.returned = t->in.taken;
    if (t->connected) {
        tell(t);
        shutdown(t->fd, SHUT_WR);
    }
    tcp_kick(t);
}

void tcp_receiver_connected(tcp_end *t)
{
    t->in.begin = t->in.end = 0;
    t->in.record_at = 0;
    tell(t);
    if (t->last)
        shutdown(t->fd, SHUT_WR);
}

/* What comes to a closed end is read and dropped until the sender has hung up: closing before it would reset the
 * connection, and with it what the sender was told. */
static int drain(tcp_end *t)
{
    uint8_t dropped[TCP_AHEAD];
    ssize_t n = 0;
    for (int reads = 0; t->connected && reads < DRAIN_READS; reads++) {
        n = recv(t->fd, dropped, sizeof dropped, MSG_DONTWAIT);
        if (n <= 0)
            break;
    }
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return POLLIN;
    int told = t->connected;
    tcp_break(t, 0);
    return told ? -ESHUTDOWN : -EPIPE;
}

int tcp_receiver_tend(tcp_end *t)
{
    if (t->in.over || t->base.torn == -EBADMSG || endpoint_stopped(&t->base) == -ECONNRESET)
        return -ESHUTDOWN;
    if (t->last)
        return drain(t);
    return t->connected ? 0 : -ENOTCONN;
}
