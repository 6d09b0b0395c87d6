/* tcp_sender.c - the sending side over TCP: what goes is kept until the receiver has taken it. */
#include "tcp.h"
#include "fault.h"

#include <errno.h>
#include <sys/socket.h>

enum { PIECE = 128 * 1024 };   /* is copied and sent while it is in the cache */

/* ---- what goes ---- */

static uint64_t outstanding(const tcp_out *o)
{
    return o->window.used + (o->alone.active ? sizeof o->alone.header + o->alone.length : 0);
}

int tcp_backlog(const tcp_end *t)
{
    return t->out.flushed < outstanding(&t->out);
}

/* Header and payload of what is alone, from the bytes on that have not gone. */
static int alone_pieces(const tcp_out *o, struct iovec *pieces)
{
    const tcp_alone *a = &o->alone;
    uint64_t header = sizeof a->header, at = o->flushed;
    int count = 0;
    if (at < header)
        pieces[count++] = (struct iovec){(void *)(uintptr_t)(a->header + at), header - at};
    at = at < header ? 0 : at - header;
    if (at < a->length)
        pieces[count++] = (struct iovec){(void *)(uintptr_t)(a->data + at), a->length - at};
    return count;
}

/* What is in the window and has not gone, in up to three pieces. */
static int kept_pieces(const tcp_out *o, struct iovec *pieces)
{
    uint64_t end = o->own.data ? MAX(o->own.offset, o->flushed) : o->window.used;
    int count = tcp_window_pieces(&o->window, o->flushed, end, pieces);
    if (end < o->window.used)
        pieces[count++] = (struct iovec){(void *)(uintptr_t)(o->own.data + (end - o->own.offset)), o->window.used - end};
    return count;
}

void tcp_flush(tcp_end *t)
{
    tcp_out *o = &t->out;
    while (t->connected && o->opened && !o->ended && tcp_backlog(t)) {
        struct iovec pieces[3];
        struct msghdr message = {.msg_iov = pieces};
        message.msg_iovlen = (size_t)(o->alone.active ? alone_pieces(o, pieces) : kept_pieces(o, pieces));
        FAULT_POINT(tcp_flush_begins);
        ssize_t n = sendmsg(t->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        FAULT_POINT(tcp_flush_ends);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0 && errno != EINTR) {
            int error = errno;
            tcp_read_records(t);   /* the last word of a receiver that has left */
            tcp_break(t, error);
            return;
        }
        o->flushed += n < 0 ? 0 : (uint64_t)n;
    }
}

int tcp_usable(tcp_end *t)
{
    int stop = endpoint_stopped(&t->base);
    return stop != -ECANCELED && t->out.ended ? t->out.ended : stop;
}

/* Sleeps until the receiver may have told something, or the connection may take more: 0, or as usable and tcp_wait. */
static int await_peer(tcp_end *t, deadline until)
{
    int rc = tcp_wait(t, POLLIN | (t->out.opened && tcp_backlog(t) ? POLLOUT : 0), until);
    return rc == -ECONNRESET ? tcp_usable(t) : rc;
}

/* Waits until so many bytes are free. */
static int await_room(tcp_end *t, uint64_t bytes, deadline until)
{
    tcp_out *o = &t->out;
    int rc;
    while ((rc = tcp_usable(t)) == 0 && o->window.used + bytes > o->window.limit) {
        tcp_flush(t);
        FAULT_POINT(tcp_send_full);
        rc = await_peer(t, until);
        if (rc < 0)
            return rc;
        tcp_read_records(t);
    }
    return rc;
}

/* The message is safe in the window, so whatever happens is no failure of this call; but while the connection takes it,
 * its sender does the work, and with it has the back-pressure. */
static void await_flush(tcp_end *t, deadline until)
{
    tcp_flush(t);
    while (t->connected && t->out.opened && tcp_backlog(t) && tcp_usable(t) == 0) {
        if (tcp_wait(t, POLLIN | POLLOUT, until) < 0) {
            tcp_kick(t);
            return;
        }
        tcp_read_records(t);
        tcp_flush(t);
    }
}

void tcp_keep(tcp_end *t, const cwasi_frame *frame, const uint8_t *data, uint64_t length)
{
    tcp_out *o = &t->out;
    uint8_t header[WIRE_HEADER];
    to_wire(header, frame);
    tcp_window_put(&o->window, header, sizeof header);
    o->own = (tcp_own){data, o->window.used};
    for (uint64_t left = length; left > 0;) {
        uint64_t part = MIN(left, (uint64_t)PIECE);
        tcp_window_put(&o->window, data, part);
        data += part;
        left -= part;
        FAULT_POINT(tcp_send_piece_kept);
        if (left > 0)
            tcp_flush(t);
    }
    o->sent++;
    FAULT_POINT(tcp_send_kept);
}

static int send_kept(tcp_end *t, const cwasi_frame *frame, const uint8_t *data, uint64_t length, deadline until)
{
    int rc = await_room(t, WIRE_HEADER + length, until);
    if (rc == 0)
        rc = tcp_window_reserve(&t->out.window, WIRE_HEADER + length);
    if (rc < 0)
        return rc;
    tcp_keep(t, frame, data, length);
    await_flush(t, until);
    t->out.own.data = NULL;
    return 0;
}

void tcp_put_alone(tcp_end *t, const cwasi_frame *frame, const uint8_t *data, uint64_t length)
{
    t->out.alone = (tcp_alone){.active = 1, .data = data, .length = length};
    to_wire(t->out.alone.header, frame);
    t->out.sent++;
}

int tcp_tear_alone(tcp_end *t, int error)
{
    /* The memory is the caller's again; and the receiver has only a part of it. */
    t->out.alone = (tcp_alone){.lost = 1};
    t->out.sent--;
    tcp_break(t, 0);
    return t->base.torn = error;
}

static int send_alone(tcp_end *t, const cwasi_frame *frame, const uint8_t *data, uint64_t length, deadline until)
{
    tcp_out *o = &t->out;
    if (until.at == 0)
        return tcp_usable(t) < 0 ? tcp_usable(t) : -EAGAIN;   /* cannot end without waiting for the receiver */
    int rc = await_room(t, o->window.limit, until);
    if (rc < 0)
        return rc;
    tcp_put_alone(t, frame, data, length);
    while (o->alone.active && (rc = tcp_usable(t)) == 0) {
        tcp_flush(t);
        FAULT_POINT(tcp_send_alone);
        rc = await_peer(t, deadline_after(-1));
        if (rc < 0)
            break;
        tcp_read_records(t);
    }
    return o->alone.active ? tcp_tear_alone(t, rc) : 0;
}

int tcp_send(endpoint *e, const cwasi_frame *frame, const void *data, deadline until)
{
    tcp_end *t = (tcp_end *)e;
    uint64_t length = payload_of(frame->length);
    FAULT_POINT(tcp_send_begins);
    pthread_mutex_lock(&t->lock);
    tcp_read_records(t);
    int rc = tcp_usable(t);
    if (rc == 0)
        rc = length + WIRE_HEADER > t->out.window.limit ? send_alone(t, frame, data, length, until)
                                                        : send_kept(t, frame, data, length, until);
    pthread_mutex_unlock(&t->lock);
    FAULT_POINT(tcp_send_ends);
    count_up(&e->stats.copied_bytes, rc < 0 ? 0 : length);
    return rc;
}

int tcp_leave(endpoint *e, const cwasi_frame *last, deadline until)
{
    tcp_end *t = (tcp_end *)e;
    pthread_mutex_lock(&t->lock);
    tcp_read_records(t);
    int rc = tcp_usable(t);
    if (rc == 0)
        rc = send_kept(t, last, NULL, 0, until);
    pthread_mutex_unlock(&t->lock);
    FAULT_POINT(tcp_left);
    return rc;
}

uint64_t tcp_unread(endpoint *e)
{
    tcp_end *t = (tcp_end *)e;
    if (e->role != CWASI_SENDER)
        return 0;
    pthread_mutex_lock(&t->lock);
    tcp_read_records_beside(t);
    uint64_t sent = load_relaxed(&e->stats.messages), returned = t->out.returned;
    pthread_mutex_unlock(&t->lock);
    return sent - MIN(returned, sent);
}

int tcp_outcome(endpoint *e)
{
    tcp_end *t = (tcp_end *)e;
    pthread_mutex_lock(&t->lock);
    tcp_read_records_beside(t);
    int over = t->out.taken == t->out.sent;   /* with the last frame, which says where it goes on */
    pthread_mutex_unlock(&t->lock);
    return over ? 1 : endpoint_stopped(e) == -ECONNRESET ? -ECONNRESET : 0;
}

int tcp_trim(endpoint *e)
{
    tcp_end *t = (tcp_end *)e;
    pthread_mutex_lock(&t->lock);
    tcp_read_records(t);
    int trims = t->out.window.memory && t->out.window.used == 0;
    if (trims)
        tcp_window_free(&t->out.window);
    pthread_mutex_unlock(&t->lock);
    return trims;
}

/* Waits until all is taken, where nobody else sees to it: what is closed with records unread is reset. */
static void await_taken(tcp_end *t, deadline until)
{
    while (t->connected && t->out.taken != t->out.sent && tcp_usable(t) == 0) {
        if (tcp_wait(t, POLLIN | (tcp_backlog(t) ? POLLOUT : 0), until) < 0)
            return;
        tcp_read_records(t);
        tcp_flush(t);
    }
}

/* With a keeper it never waits. */
void tcp_sender_finish(tcp_end *t, deadline until)
{
    uint8_t header[WIRE_HEADER];
    t->last = t->base.torn ? FRAME_FAILED : t->last;
    cwasi_frame last = {.seq = load_relaxed(&t->base.stats.messages), .length = t->last};
    to_wire(header, &last);
    if (t->out.ended || tcp_window_reserve(&t->out.window, sizeof header) < 0) {
        tcp_break(t, 0);   /* what is missing, the receiver notices */
        t->abandoned = 1;
    } else {
        tcp_window_put(&t->out.window, header, sizeof header);
        t->out.sent++;
        tcp_flush(t);
        if (!t->kept)
            await_taken(t, until);
    }
    tcp_kick(t);
}

void tcp_sender_connected(tcp_end *t)
{
    t->out.opened = 0;
    t->out.flushed = 0;
    t->out.record_at = 0;
}

int tcp_sender_tend(tcp_end *t)
{
    tcp_out *o = &t->out;
    tcp_read_records_beside(t);
    tcp_flush(t);
    int over = o->ended || endpoint_stopped(&t->base) == -ECONNRESET;
    if (over || (t->last && o->taken == o->sent)) {
        tcp_break(t, 0);
        return -ESHUTDOWN;
    }
    if (!t->connected)
        return -ENOTCONN;
    if (o->opened && tcp_backlog(t))
        return POLLIN | POLLOUT;
    return !o->opened || t->last ? POLLIN : 0;
}
