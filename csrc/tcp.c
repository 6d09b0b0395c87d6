/* tcp.c - one end of a channel over a stream socket that may break and be replaced.
 *
 * The sender keeps what the receiver has not taken; after a break the receiver tells how far it came, and the rest
 * follows on the new connection. Who makes connections, and gives up, is the keeper: another thread, which hands over
 * sockets that are connected and authenticated, and otherwise only moves what is left when nobody is inside.
 */
#include "tcp.h"
#include "fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Under the lock or before anybody waits. What was signalled for the end's stop stays. */
void tcp_quiet(tcp_end *t)
{
    eventfd_t count;
    eventfd_read(t->wake_fd, &count);
    /* Pairs with endpoint_stop, which sets the word and then wakes. */
    if (endpoint_stopped(&t->base))
        eventfd_write(t->wake_fd, 1);
}

int tcp_wait(tcp_end *t, short events, deadline until)
{
    int stop = endpoint_stopped(&t->base);
    if (stop)
        return stop;
    if (until.at == 0)
        return -EAGAIN;
    struct pollfd fds[2] = {{t->connected ? t->fd : -1, events, 0}, {t->wake_fd, POLLIN, 0}};
    count_up(&t->base.stats.waits, 1);
    count_up(&t->base.stats.parks, 1);
    pthread_mutex_unlock(&t->lock);
    FAULT_POINT(tcp_wait_begins);
    int rc = poll_until(fds, 2, until);
    pthread_mutex_lock(&t->lock);
    if (rc == 0 && fds[1].revents)
        tcp_quiet(t);
    stop = endpoint_stopped(&t->base);
    return stop && rc == 0 && !fds[0].revents ? stop : rc;
}

void tcp_break(tcp_end *t, int error)
{
    if (!t->connected)
        return;
    t->connected = 0;
    t->silent = error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH || error == ENETDOWN;
    t->barren = t->base.role == CWASI_SENDER && !t->out.opened;
    if (t->base.role == CWASI_SENDER)
        t->out.opened = 0;
    shutdown(t->fd, SHUT_RDWR);   /* the keeper hears it, and the peer */
    if (!t->kept)
        endpoint_stop(&t->base, ECONNRESET);
    eventfd_write(t->wake_fd, 1);
}

void tcp_kick(tcp_end *t)
{
    eventfd_write(t->kick_fd, 1);
}

static void tcp_wake(endpoint *e)
{
    eventfd_write(((tcp_end *)e)->wake_fd, 1);
}

void tcp_disarm(endpoint *e)
{
    tcp_end *t = (tcp_end *)e;
    pthread_mutex_lock(&t->lock);
    tcp_quiet(t);
    pthread_mutex_unlock(&t->lock);
}

void tcp_peer_died(endpoint *e, unsigned peer)
{
    (void)peer;
    tcp_end *t = (tcp_end *)e;
    if (e->role == CWASI_SENDER) {
        endpoint_stop(e, ECONNRESET);
    } else {
        store_ordered(&t->in.died, (uint64_t)(now_ns() + TCP_QUIET_NS));   /* pairs with the loads in tcp_receiver.c */
        tcp_wake(e);
    }
    tcp_kick(t);
}

int tcp_finish(endpoint *e, int failed, deadline until)
{
    tcp_end *t = (tcp_end *)e;
    FAULT_POINT(tcp_finish_begins);
    pthread_mutex_lock(&t->lock);
    t->last = failed ? FRAME_FAILED : FRAME_FINISHED;
    if (e->role == CWASI_SENDER)
        tcp_sender_finish(t, until);
    else
        tcp_receiver_finish(t);
    pthread_mutex_unlock(&t->lock);
    FAULT_POINT(tcp_finish_ends);
    return 0;
}

static void let_go(tcp_end *t)
{
    if (sub_ordered(&t->holders, 1) != 1)
        return;
    if (t->base.role == CWASI_SENDER)
        tcp_window_free(&t->out.window);
    for (const int *fd = (int[]){t->fd, t->wake_fd, t->kick_fd, -2}; *fd != -2; fd++) {
        if (*fd >= 0)
            close(*fd);
    }
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void tcp_destroy(endpoint *e)
{
    tcp_end *t = (tcp_end *)e;
    pthread_mutex_lock(&t->lock);
    if (!t->last) {
        /* A copy that another process goes on using: the connection is not to notice. */
        t->abandoned = 1;
        t->connected = 0;
        if (t->fd >= 0)
            close(t->fd);
        t->fd = -1;
        tcp_kick(t);
    }
    pthread_mutex_unlock(&t->lock);
    let_go(t);
}

static const endpoint_ops TCP = {
    .send = tcp_send, .peek = tcp_peek, .take = tcp_take,
    .look = tcp_look, .arm = tcp_arm, .disarm = tcp_disarm,
    .wake = tcp_wake, .peer_died = tcp_peer_died, .unread = tcp_unread, .trim = tcp_trim,
    .leave = tcp_leave, .outcome = tcp_outcome, .finish = tcp_finish, .destroy = tcp_destroy,
};

int tcp_end_open(int role, uint64_t window, tcp_end **out)
{
    if (window < TCP_WINDOW_LEAST || window > CWASI_MESSAGE_MAX)
        return -EINVAL;
    tcp_end *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    endpoint_init(&t->base, &TCP, role);
    t->base.descriptors = role == CWASI_RECEIVER ? 2 : 0;
    pthread_mutex_init(&t->lock, NULL);
    store_relaxed(&t->holders, 1);
    t->fd = -1;
    t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    t->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->wake_fd < 0 || t->kick_fd < 0) {
        int error = errno;
        let_go(t);
        return -error;
    }
    if (role == CWASI_SENDER)
        t->out.window.limit = window;
    t->kept = 1;
    store_relaxed(&t->holders, 2);
    *out = t;
    return 0;
}

int tcp_open(int role, uint64_t window, unsigned readers, cwasi_tcp **keepers, endpoint **out)
{
    if (readers == 0 || readers > (role == CWASI_SENDER ? CWASI_READERS_MAX : 1))
        return -EINVAL;
    if (readers > 1)
        return tcp_fan_open(window, readers, keepers, out);
    int rc = tcp_end_open(role, window, keepers);
    if (rc == 0)
        *out = &keepers[0]->base;
    return rc;
}

/* ---- the keeper ---- */

int cwasi_tcp_connected(cwasi_tcp *t, int fd, int timed)
{
    pthread_mutex_lock(&t->lock);
    int rc = t->abandoned ? -EPIPE : 0;
    if (rc == 0) {
        if (t->connected)
            shutdown(t->fd, SHUT_RDWR);
        /* The same number, for whoever polls it. */
        int own = t->fd < 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : dup3(fd, t->fd, O_CLOEXEC);
        rc = own < 0 ? -errno : 0;
        t->fd = own < 0 ? t->fd : own;
        t->connected = own >= 0;
    }
    if (rc == 0) {
        t->connection++;
        if (t->base.role == CWASI_SENDER) {
            tcp_sender_connected(t);
        } else {
            t->in.timed = timed;
            tcp_receiver_connected(t);
        }
        eventfd_write(t->wake_fd, 1);
    }
    pthread_mutex_unlock(&t->lock);
    return rc;
}

int cwasi_tcp_tend(cwasi_tcp *t)
{
    eventfd_t count;
    pthread_mutex_lock(&t->lock);
    eventfd_read(t->kick_fd, &count);
    int rc = t->abandoned ? -ESHUTDOWN : t->base.role == CWASI_SENDER ? tcp_sender_tend(t) : tcp_receiver_tend(t);
    if (rc == -ENOTCONN && (t->silent || t->barren))
        rc = t->silent ? -ETIMEDOUT : -ECONNREFUSED;
    pthread_mutex_unlock(&t->lock);
    return rc;
}

int cwasi_tcp_descriptor(const cwasi_tcp *t)
{
    return t->kick_fd;
}

void cwasi_tcp_give_up(cwasi_tcp *t)
{
    endpoint_stop(&t->base, ECONNRESET);
}

void cwasi_tcp_leave(cwasi_tcp *t, int forked)
{
    if (forked)
        pthread_mutex_init(&t->lock, NULL);   /* whose thread may have held it is not in this process */
    pthread_mutex_lock(&t->lock);
    t->kept = 0;
    pthread_mutex_unlock(&t->lock);
    let_go(t);
}
